// The calling thread as the kernel's scheduler sees it.
#ifndef BULKHEAD_OS_THREAD_H
#define BULKHEAD_OS_THREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A number that no other thread of the process ever has. Never 0.
uint64_t os_thread_number(void);

// For how long the thread has waited for a core: a descriptor to ask, or minus an errno; and the answer in ns. False when
// the kernel does not tell. -ENOSYS: a kernel without CONFIG_SCHED_INFO.
int os_thread_open(void) __attribute__((warn_unused_result));
bool os_thread_waited(int fd, uint64_t *ns) __attribute__((warn_unused_result));

// Where it may run: a bit for each processor, those past `words` left out. False: the kernel does not tell.
bool os_thread_cpus(uint64_t *cpus, size_t words) __attribute__((warn_unused_result));

unsigned os_cores_online(void);
uint64_t os_monotonic_ns(void);

#endif
