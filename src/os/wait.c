// futex(2), within one process: words to sleep on, and the lock that is one.
#include "os/wait.h"

#include "os/lock.h"

#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void os_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t nanoseconds)
{
    struct timespec time = { .tv_sec = (time_t)(nanoseconds / 1000000000), .tv_nsec = (long)(nanoseconds % 1000000000) };
    // Every outcome (woken, timed out, interrupted, value changed) sends the caller back to look at the word.
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nanoseconds == UINT64_MAX ? NULL : &time, NULL, 0);
}

void os_wake(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

// Whoever has slept may not be the last one: it leaves the word at 2.
void os_lock_wait(struct os_lock *lock)
{
    while (atomic_exchange(&lock->word, 2) != 0)
        os_wait(&lock->word, 2, UINT64_MAX);
}

void os_lock_wake(struct os_lock *lock)
{
    (void)syscall(SYS_futex, &lock->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
