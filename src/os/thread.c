// What the kernel tells of a thread and of the processors.
#include "os/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t os_thread_number(void)
{
    // Numbers alone: they say which thread it is as long as the process lives, which ids of the kernel do not.
    static _Atomic uint64_t last;
    static _Thread_local __attribute__((tls_model("initial-exec"))) uint64_t number;
    if (!number)
        number = atomic_fetch_add(&last, 1) + 1;
    return number;
}

int os_thread_open(void)
{
    int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ENOSYS : -errno;
    return fd;
}

bool os_thread_waited(int fd, uint64_t *ns)
{
    char text[96];
    ssize_t length = pread(fd, text, sizeof text - 1, 0);
    if (length <= 0)
        return false;
    text[length] = '\0';
    return sscanf(text, "%*u %" SCNu64, ns) == 1;       // ns that it ran, and that it waited to
}

bool os_thread_cpus(uint64_t *cpus, size_t words)
{
    cpu_set_t set[8];       // the kernel answers with as many processors as it could ever have
    if (sched_getaffinity(0, sizeof set, set) != 0)
        return false;
    memset(cpus, 0, words * sizeof *cpus);
    for (size_t n = 0; n < words * 64 && n < sizeof set * 8; n++)
        if (CPU_ISSET_S(n, sizeof set, set))
            cpus[n / 64] |= 1ull << n % 64;
    return true;
}

unsigned os_cores_online(void)
{
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (unsigned)count : 1;
}

uint64_t os_monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
