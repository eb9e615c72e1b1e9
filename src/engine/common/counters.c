// What a processor has counted, as the API tells it.
#include "engine/common/processor.h"

uint64_t counters_time(uint64_t ticks, uint64_t hz)
{
    return hz ? (uint64_t)((unsigned __int128)ticks * 10000000 / hz) : 0;
}

void counters_sum(const struct counter_row *rows, unsigned count, const void *object, uint64_t hz,
                  struct processor_counters *counters)
{
    for (unsigned n = 0; n < count; n++) {
        const void *source = (const char *)object + rows[n].source;
        uint64_t *member = (uint64_t *)((char *)counters + rows[n].member);
        if (!rows[n].timed) {
            *member += atomic_load_explicit((const x86_count *)source, memory_order_relaxed);
            continue;
        }
        const struct x86_counted *counted = source;
        WHV_PROCESSOR_INTERCEPT_COUNTER *intercept = (WHV_PROCESSOR_INTERCEPT_COUNTER *)member;
        intercept->Count += atomic_load_explicit(&counted->count, memory_order_relaxed);
        intercept->Time100ns += counters_time(atomic_load_explicit(&counted->ticks, memory_order_relaxed), hz);
    }
}
