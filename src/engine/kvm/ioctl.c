// The one way to the kernel: open and ioctl with the error number as the answer.
#include "engine/kvm/ioctl.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "engine/kvm/host.h"

int kvm_host_open(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int kvm_ioctl(int fd, unsigned long request, void *argument)
{
    int answer = ioctl(fd, request, argument);

    return answer < 0 ? -errno : answer;
}

int kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    int answer = ioctl(fd, request, value);

    return answer < 0 ? -errno : answer;
}

HRESULT kvm_hresult(int answer)
{
    if (answer >= 0)
        return S_OK;
    switch (-answer) {
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case ENOSPC:
        return E_OUTOFMEMORY;
    case EPERM:
    case EACCES:
        return E_ACCESSDENIED;
    default:
        return E_FAIL;
    }
}
