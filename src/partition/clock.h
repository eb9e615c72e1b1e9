// A partition's clock: ticks of the host's time-stamp counter since the partition first ran, without those for which its
// time stood still.
//
// Any thread may read it. Whoever starts or stops it holds partition->lock, and no processor runs meanwhile; readers
// that come at that moment see the time before or after.
#ifndef BULKHEAD_CLOCK_H
#define BULKHEAD_CLOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct partition_clock {
    _Atomic uint32_t sequence;      // odd while the others change
    atomic_bool runs;
    _Atomic uint64_t base;          // ticks when it was last started, or at which it stands
    _Atomic uint64_t since;         // the host's counter when it was started
};

uint64_t clock_ticks(const struct partition_clock *c);
static inline bool clock_runs(const struct partition_clock *c) { return atomic_load(&c->runs); }
void clock_start(struct partition_clock *c);
void clock_stop(struct partition_clock *c);
// Of a clock that stands.
void clock_set(struct partition_clock *c, uint64_t ticks);

// `ticks` of a clock of `from_hz` in ticks of one of `to_hz`, rounded down.
static inline uint64_t clock_scale(uint64_t ticks, uint64_t to_hz, uint64_t from_hz)
{
    return to_hz == from_hz ? ticks : (uint64_t)((unsigned __int128)ticks * to_hz / from_hz);
}

#endif
