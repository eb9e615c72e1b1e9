// Comparisons on the way of every exit, where a call of memcmp is longer than what it compares.
#ifndef BULKHEAD_KVM_SAME_H
#define BULKHEAD_KVM_SAME_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// The first `size` bytes, at most 8. All 8 can be read.
static inline bool same_in_8(const void *a, const void *b, unsigned size)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return !size || !((x ^ y) << (64 - size * 8));
}

// The first `size` bytes, at most 16. All 16 can be read.
static inline bool same_in_16(const void *a, const void *b, unsigned size)
{
    if (size <= 8)
        return same_in_8(a, b, size);
    return same_in_8(a, b, 8) && same_in_8((const char *)a + 8, (const char *)b + 8, size - 8);
}

// Whole pairs of words, which need no alignment.
static inline bool same_pairs(const void *a, const void *b, unsigned pairs)
{
    typedef uint64_t pair __attribute__((vector_size(16), aligned(1), may_alias));
    const pair *x = a, *y = b;
    pair differ = { 0 };
    for (unsigned n = 0; n + 1 < pairs; n += 2)
        differ |= (x[n] ^ y[n]) | (x[n + 1] ^ y[n + 1]);
    if (pairs & 1)
        differ |= x[pairs - 1] ^ y[pairs - 1];
    return !(differ[0] | differ[1]);
}

#endif
