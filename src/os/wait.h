// Sleep until a 32-bit word changes: thin wrappers over futex(2).
#ifndef BULKHEAD_OS_WAIT_H
#define BULKHEAD_OS_WAIT_H

#include <stdatomic.h>
#include <stdint.h>

// Sleep while *word == expected, for at most `nanoseconds` (UINT64_MAX: for ever). May return early for no reason.
void os_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t nanoseconds);
// Wake all sleepers on the word.
void os_wake(_Atomic uint32_t *word);

#endif
