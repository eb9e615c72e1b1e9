// The local APIC's timer: arithmetic between guest time, bus clocks, timer ticks and the TSC.
#include "engine/soft/apic_timer.h"

#define NS_PER_SECOND 1000000000u

// value * numerator / denominator, rounded up or down, saturating.
static uint64_t scale(uint64_t value, uint64_t numerator, uint64_t denominator, bool up)
{
    unsigned __int128 product = (unsigned __int128)value * numerator + (up ? denominator - 1 : 0);

    if (product <= UINT64_MAX) {
        return (uint64_t)product / denominator;
    }
    product /= denominator;
    return product > UINT64_MAX ? UINT64_MAX : (uint64_t)product;
}

// The counter is kept as an absolute number of bus clocks, so that a periodic timer does not drift whatever
// the frequency. Clocks round down and deadlines up: at its deadline the timer has expired.
static uint64_t bus_clocks(const struct apic_timer *t, struct lapic_time now)
{
    return scale(now.ns, t->bus_hz, NS_PER_SECOND, false);
}

static bool counts_down(enum apic_timer_mode mode)
{
    return mode == APIC_TIMER_ONE_SHOT || mode == APIC_TIMER_PERIODIC;
}

static uint64_t period(const struct apic_timer *t)
{
    return (uint64_t)t->initial << t->divide_shift;
}

static uint64_t next_deadline(const struct apic_timer *t, struct lapic_time now)
{
    uint64_t wait;

    if (!t->wanted) {
        return UINT64_MAX;
    }
    if (counts_down(t->mode)) {
        return t->running ? scale(t->expiry, NS_PER_SECOND, t->bus_hz, true) : UINT64_MAX;
    }
    if (t->mode != APIC_TIMER_TSC_DEADLINE || t->tsc_deadline == 0) {
        return UINT64_MAX;
    }
    if (now.tsc >= t->tsc_deadline) {
        return now.ns;
    }
    wait = scale(t->tsc_deadline - now.tsc, NS_PER_SECOND, t->tsc_hz, true);
    return wait > UINT64_MAX - now.ns ? UINT64_MAX : now.ns + wait;
}

enum { SHOWN_SHIFT = 7, SHOWN_PERIODIC = 8, SHOWN_RUNNING = 16 };

// After every change. Who reads meanwhile sees an odd sequence, or another one than before.
static void show(struct apic_timer *t)
{
    uint32_t sequence = atomic_load_explicit(&t->shown.sequence, memory_order_relaxed);
    uint32_t counting = t->divide_shift | (t->mode == APIC_TIMER_PERIODIC ? SHOWN_PERIODIC : 0);

    if (t->running && counts_down(t->mode)) {
        counting |= SHOWN_RUNNING;
    }
    atomic_store_explicit(&t->shown.sequence, sequence + 1, memory_order_relaxed);
    atomic_store_explicit(&t->shown.initial, t->initial, memory_order_release);
    atomic_store_explicit(&t->shown.expiry, t->expiry, memory_order_release);
    atomic_store_explicit(&t->shown.counting, counting, memory_order_release);
    atomic_store_explicit(&t->shown.sequence, sequence + 2, memory_order_release);
}

static void rearm(struct apic_timer *t, struct lapic_time now)
{
    t->deadline = next_deadline(t, now);
    show(t);
}

void apic_timer_init(struct apic_timer *t, uint64_t bus_hz, uint64_t tsc_hz)
{
    *t = (struct apic_timer){ .bus_hz = bus_hz, .tsc_hz = tsc_hz };
    apic_timer_reset(t);
}

void apic_timer_reset(struct apic_timer *t)
{
    t->mode = APIC_TIMER_ONE_SHOT;
    t->wanted = false;
    t->running = false;
    t->divide_shift = 1;
    t->initial = 0;
    t->expiry = 0;
    t->tsc_deadline = 0;
    t->deadline = UINT64_MAX;
    show(t);
}

bool apic_timer_expire(struct apic_timer *t, struct lapic_time now)
{
    bool expired = false;

    if (counts_down(t->mode)) {
        uint64_t clocks;

        if (!t->running) {
            return false;
        }
        clocks = bus_clocks(t, now);
        expired = clocks >= t->expiry;
        if (expired && t->mode == APIC_TIMER_PERIODIC) {
            t->expiry += ((clocks - t->expiry) / period(t) + 1) * period(t);
        } else if (expired) {
            t->running = false;
        }
    } else if (t->mode == APIC_TIMER_TSC_DEADLINE && t->tsc_deadline != 0) {
        expired = now.tsc >= t->tsc_deadline;
        if (expired) {
            t->tsc_deadline = 0;
        }
    }
    // Also when nothing expired: a deadline converted from TSC ticks can come a moment too early.
    rearm(t, now);
    return expired;
}

void apic_timer_restore_lvt(struct apic_timer *t, enum apic_timer_mode mode, bool wanted,
                            struct lapic_time now)
{
    t->mode = mode;
    t->wanted = wanted;
    if (!counts_down(mode)) {
        t->running = false;
        t->initial = 0;
    }
    rearm(t, now);
}

void apic_timer_set_lvt(struct apic_timer *t, enum apic_timer_mode mode, bool wanted, struct lapic_time now)
{
    if (mode != t->mode && !(counts_down(mode) && counts_down(t->mode))) {
        t->running = false;
        t->initial = 0;
        t->tsc_deadline = 0;
    }
    apic_timer_restore_lvt(t, mode, wanted, now);
}

void apic_timer_start(struct apic_timer *t, uint32_t initial, struct lapic_time now)
{
    if (!counts_down(t->mode)) {
        return;
    }
    t->initial = initial;
    t->running = initial != 0;
    t->expiry = bus_clocks(t, now) + period(t);
    rearm(t, now);
}

void apic_timer_set_current(struct apic_timer *t, uint32_t current, struct lapic_time now)
{
    if (current > t->initial || (current == 0 && t->mode == APIC_TIMER_PERIODIC)) {
        current = t->initial;
    }
    t->running = current != 0;
    t->expiry = bus_clocks(t, now) + ((uint64_t)current << t->divide_shift);
    rearm(t, now);
}

void apic_timer_set_divide(struct apic_timer *t, uint32_t divide, struct lapic_time now)
{
    uint32_t current = apic_timer_current(t, now);

    // Bits 3, 1 and 0: 000 divides by 2, 001 by 4, ... 110 by 128, 111 by 1.
    t->divide_shift = (((divide >> 1 & 4) | (divide & 3)) + 1) & 7;
    if (t->running) {
        t->expiry = bus_clocks(t, now) + ((uint64_t)current << t->divide_shift);
    }
    rearm(t, now);
}

void apic_timer_set_tsc_deadline(struct apic_timer *t, uint64_t tsc, struct lapic_time now)
{
    t->tsc_deadline = tsc;
    rearm(t, now);
}

void apic_timer_tsc_changed(struct apic_timer *t, struct lapic_time now)
{
    rearm(t, now);
}

struct apic_timer_counts apic_timer_look(const struct apic_timer *t, struct lapic_time now)
{
    struct apic_timer_counts counts;
    uint32_t before, counting, shift;
    uint64_t clocks = bus_clocks(t, now), expiry, left = 0;

    do {
        before = atomic_load_explicit(&t->shown.sequence, memory_order_acquire);
        counts.initial = atomic_load_explicit(&t->shown.initial, memory_order_acquire);
        expiry = atomic_load_explicit(&t->shown.expiry, memory_order_acquire);
        counting = atomic_load_explicit(&t->shown.counting, memory_order_acquire);
    } while ((before & 1) || atomic_load_explicit(&t->shown.sequence, memory_order_relaxed) != before);
    shift = counting & SHOWN_SHIFT;
    if ((counting & SHOWN_RUNNING) && clocks < expiry) {
        left = expiry - clocks;
    } else if ((counting & SHOWN_RUNNING) && (counting & SHOWN_PERIODIC)) {
        uint64_t period = (uint64_t)counts.initial << shift;

        left = period - (clocks - expiry) % period;
    }
    // Another processor may have looked at the clock before this count was started.
    left = (left + (1u << shift) - 1) >> shift;
    counts.current = left < counts.initial ? (uint32_t)left : counts.initial;
    return counts;
}

uint32_t apic_timer_current(const struct apic_timer *t, struct lapic_time now)
{
    return apic_timer_look(t, now).current;
}
