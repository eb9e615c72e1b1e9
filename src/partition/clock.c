// A partition's clock over the host's time-stamp counter.
#include "partition/clock.h"

#include "os/tsc.h"

uint64_t clock_ticks(const struct partition_clock *c)
{
    uint32_t before;
    uint64_t ticks;

    do {
        before = atomic_load_explicit(&c->sequence, memory_order_acquire);
        ticks = atomic_load_explicit(&c->base, memory_order_relaxed);
        if (atomic_load_explicit(&c->runs, memory_order_relaxed))
            ticks += os_tsc() - atomic_load_explicit(&c->since, memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
    } while ((before & 1) || atomic_load_explicit(&c->sequence, memory_order_relaxed) != before);
    return ticks;
}

static void change(struct partition_clock *c, bool runs, uint64_t base)
{
    atomic_fetch_add(&c->sequence, 1);
    atomic_store(&c->base, base);
    atomic_store(&c->since, os_tsc());
    atomic_store(&c->runs, runs);
    atomic_fetch_add(&c->sequence, 1);
}

void clock_start(struct partition_clock *c)
{
    if (!clock_runs(c))
        change(c, true, atomic_load(&c->base));
}

void clock_stop(struct partition_clock *c)
{
    if (clock_runs(c))
        change(c, false, clock_ticks(c));
}

void clock_set(struct partition_clock *c, uint64_t ticks)
{
    change(c, false, ticks);
}
