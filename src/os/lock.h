// A lock that costs one locked instruction to take and one to give up, without a call, where nobody else wants it.
#ifndef BULKHEAD_OS_LOCK_H
#define BULKHEAD_OS_LOCK_H

#include "os/wait.h"

// All zero: free. 1: held; 2: held, and somebody may sleep until it is free.
struct os_lock { _Atomic uint32_t word; };

void os_lock_wait(struct os_lock *lock);
void os_lock_wake(struct os_lock *lock);

static inline void os_lock(struct os_lock *lock)
{
    uint32_t free = 0;
    if (__builtin_expect(!atomic_compare_exchange_strong(&lock->word, &free, 1), 0))
        os_lock_wait(lock);
}

static inline void os_unlock(struct os_lock *lock)
{
    if (__builtin_expect(atomic_exchange(&lock->word, 0) == 2, 0))
        os_lock_wake(lock);
}

#endif
