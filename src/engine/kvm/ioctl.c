// The one way to the host: open and ioctl with the error number as the answer, and what the processor says of
// itself.
#include "engine/kvm/ioctl.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "engine/kvm/host.h"
#include "partition/errors.h"

int kvm_host_open(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

bool kvm_host_virtualises(void)
{
    unsigned a, b, c, d;

    // SDM vol. 3C 24.6: CPUID.1:ECX.VMX; APM vol. 2 15.4: CPUID Fn8000_0001_ECX[SVM].
    return (__get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 5)) ||
           (__get_cpuid(0x80000001, &a, &b, &c, &d) && (c & 1u << 2));
}

int kvm_ioctl(int fd, unsigned long request, void *argument)
{
    int answer = ioctl(fd, request, argument);

    return answer < 0 ? -errno : answer;
}

__attribute__((hot)) int kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    long answer;

    // The system call itself, as it is made for each run: the C library's way there is as long as what comes after it.
    __asm__ volatile("syscall" : "=a"(answer)
                     : "a"(SYS_ioctl), "D"((long)fd), "S"(request), "d"(value) : "rcx", "r11", "memory");
    return (int)answer;
}

HRESULT kvm_hresult(int answer)
{
    return hresult_of_errno(answer < 0 ? -answer : 0, E_FAIL);
}
