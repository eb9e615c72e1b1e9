// What a processor counts of its own instructions and events.
//
// The thread that runs the processor writes, any thread reads: relaxed atomics, without a lock prefix. Counts are
// exact. Ticks are those of the host's time-stamp counter, and an estimate: one access in X86_COUNT_STRIDE is measured
// and stands for all of them.
#ifndef BULKHEAD_X86_COUNTS_H
#define BULKHEAD_X86_COUNTS_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint64_t x86_count;

struct x86_counted { x86_count count, ticks; };

// Instructions that hardware would leave the guest for, whoever completes them here.
enum x86_counted_instruction {
    X86_COUNT_INVALIDATION,         // INVLPG, MOV to CR3
    X86_COUNT_CONTROL,              // other MOVs with control registers, CLTS, LMSW
    X86_COUNT_HALT, X86_COUNT_CPUID, X86_COUNT_MSR,
    X86_COUNT_DEBUG,                // MOV with debug registers
    X86_COUNT_RDPMC,
    X86_COUNTED
};

struct x86_counts {
    struct x86_counted instruction[X86_COUNTED];
    x86_count page_faults, exceptions, interrupts;  // delivered through the IDT; interrupts with NMIs, exceptions
                                                    // without page faults and INT n
    uint64_t clock_cost;                            // ticks that reading the clock takes: taken off what is measured
};

// One instruction, which compilers make of no relaxed load and store: nobody else writes, so it needs no lock.
static inline void x86_count_add(x86_count *count, uint64_t n)
{
    __asm__("addq %1, %0" : "+m"(*(uint64_t *)count) : "er"(n) : "cc");
}

static inline uint64_t x86_host_ticks(void)
{
    return __builtin_ia32_rdtsc();
}

// The clock of another core may be behind a little.
static inline uint64_t x86_ticks_between(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0;
}

// Around what is counted. A prime stride, so that a guest's own rhythm does not decide what is measured. What is longer
// than anything that an instruction does (the host has given the core to another thread meanwhile) stands for itself.
#define X86_COUNT_STRIDE 61u
#define X86_COUNT_LONG 300000u
static inline uint64_t x86_count_begin(struct x86_counted *c)
{
    uint64_t count = atomic_load_explicit(&c->count, memory_order_relaxed) + 1;
    atomic_store_explicit(&c->count, count, memory_order_relaxed);
    return __builtin_expect(count % X86_COUNT_STRIDE == 0, 0) ? x86_host_ticks() : 0;
}

static inline void x86_count_end(const struct x86_counts *counts, struct x86_counted *c, uint64_t begun)
{
    if (__builtin_expect(begun != 0, 0)) {
        uint64_t ticks = x86_ticks_between(begun + counts->clock_cost, x86_host_ticks());
        x86_count_add(&c->ticks, ticks > X86_COUNT_LONG ? ticks : ticks * X86_COUNT_STRIDE);
    }
}

#endif
