// System calls and small files of the host.
#include "os/host.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <sys/syscall.h>

long os_host_call(long number, long a, long b, long c, long d, long e, long f)
{
    long answer = syscall(number, a, b, c, d, e, f);
    return answer == -1 ? -errno : answer;
}

long os_host_read(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t size = 0;
    long error = 0;
    while (!error) {
        ssize_t got = read(fd, text + size, room - size);
        if (got == 0)
            break;
        if (got > 0)
            size += (size_t)got;
        else if (errno != EINTR)
            error = -errno;
        if (size == room)
            error = -EFBIG;
    }
    close(fd);
    if (error)
        return error;
    text[size] = '\0';
    return (long)size;
}
