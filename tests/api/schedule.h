// Partitions of spinning processors, and how much processor time their threads get while others do as well.
#ifndef BULKHEAD_TESTS_API_SCHEDULE_H
#define BULKHEAD_TESTS_API_SCHEDULE_H

#include <sched.h>
#include <stdio.h>

#include "threads.h"

#define SPINNERS_MAX 4
#define SECOND 1000000000ull

// Processors that count in memory for ever, each on a thread of its own.
struct spinners {
    WHV_PARTITION_HANDLE partition;
    UINT32 count;
    struct runner runner[SPINNERS_MAX];
    clockid_t clock[SPINNERS_MAX];
    uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
};

static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;

    assert_int_equal(clock_gettime(clock, &t), 0);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

// A guest for a partition whose properties are set: each processor counts at COUNTER + 4 * its number.
static inline void spinners_set_up(struct spinners *s, WHV_PARTITION_HANDLE p, UINT32 count)
{
    static const uint8_t code[] = {0x66, 0xFF, 0x07, 0xEB, 0xFB};     // inc dword [bx]; jmp

    s->partition = p;
    s->count = count;
    assert_ok(WHvSetupPartition(p));
    memset(s->memory, 0, sizeof(s->memory));
    memcpy(s->memory + CODE, code, sizeof(code));
    assert_ok(WHvMapGpaRange(p, s->memory, 0, sizeof(s->memory), RWX));
    for (UINT32 vp = 0; vp < count; vp++) {
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
        start_at(p, vp, CODE);
        set_register(p, vp, WHvX64RegisterRbx, COUNTER + 4 * vp);
    }
}

static inline void spinners_start(struct spinners *s)
{
    for (UINT32 vp = 0; vp < s->count; vp++) {
        start(&s->runner[vp], s->partition, vp);
        assert_int_equal(pthread_getcpuclockid(s->runner[vp].thread, &s->clock[vp]), 0);
    }
    for (UINT32 vp = 0; vp < s->count; vp++)
        EVENTUALLY(load32(s->memory, COUNTER + 4 * vp));
}

static inline void spinners_stop(struct spinners *s)
{
    for (UINT32 vp = 0; vp < s->count; vp++)
        cancel(&s->runner[vp]);
}

static inline uint64_t spinners_ns(const struct spinners *s)
{
    uint64_t sum = 0;

    for (UINT32 vp = 0; vp < s->count; vp++)
        sum += clock_ns(s->clock[vp]);
    return sum;
}

// The part of a core that each of them had over at least `ns`; `all`: of the whole process.
static inline void shares(struct spinners *const *who, unsigned int count, uint64_t ns, double *share, double *all)
{
    uint64_t from = clock_ns(CLOCK_MONOTONIC), process = clock_ns(CLOCK_PROCESS_CPUTIME_ID), before[4], passed;
    struct timespec until = {.tv_sec = (time_t)((from + ns) / SECOND), .tv_nsec = (long)((from + ns) % SECOND)};

    for (unsigned int i = 0; i < count; i++)
        before[i] = spinners_ns(who[i]);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
        ;
    for (unsigned int i = 0; i < count; i++)
        share[i] = (double)(spinners_ns(who[i]) - before[i]);
    passed = clock_ns(CLOCK_MONOTONIC) - from;
    for (unsigned int i = 0; i < count; i++)
        share[i] /= (double)passed;
    *all = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - process) / (double)passed;
}

#endif
