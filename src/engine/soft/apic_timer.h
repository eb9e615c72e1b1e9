// The local APIC's timer: down-counter in one-shot and periodic mode, and TSC deadline (SDM vol. 3A 11.5.4).
//
// It owns no thread and reads no clock: every call takes the guest's time, and `deadline` tells when to call
// apic_timer_expire again. Guest time stands still while the partition's time is suspended, and so does the
// timer. Owner thread only, but for apic_timer_look.
#ifndef BULKHEAD_APIC_TIMER_H
#define BULKHEAD_APIC_TIMER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

// One moment of the guest, on both of its clocks.
struct lapic_time {
    uint64_t ns;            // guest time since the partition's start
    uint64_t tsc;           // this processor's time-stamp counter, as RDTSC would read it
};

enum apic_timer_mode {      // LVT timer register, bits 18:17
    APIC_TIMER_ONE_SHOT,
    APIC_TIMER_PERIODIC,
    APIC_TIMER_TSC_DEADLINE,
    APIC_TIMER_RESERVED,    // never expires
};

struct apic_timer {
    uint64_t bus_hz;
    uint64_t tsc_hz;
    enum apic_timer_mode mode;
    bool wanted;            // the LVT entry is not masked, so that an expiry is worth waking for
    bool running;           // the down-counter is above 0
    uint8_t divide_shift;   // one tick is 1 << divide_shift bus clocks
    uint32_t initial;
    uint64_t expiry;        // while running: when the count reaches 0, in bus clocks since guest time 0
    uint64_t tsc_deadline;  // 0: not armed
    uint64_t deadline;      // guest time in ns of the next wanted expiry, UINT64_MAX for none

    // What any thread may see of the above. `sequence` is odd while it is being changed.
    struct {
        _Atomic uint32_t sequence;
        _Atomic uint32_t initial;
        _Atomic uint64_t expiry;
        _Atomic uint32_t counting;  // whether the down-counter runs, whether periodically, and divide_shift
    } shown;
};

// Both frequencies are in Hz and not 0.
void apic_timer_init(struct apic_timer *t, uint64_t bus_hz, uint64_t tsc_hz);
// State after power-up and INIT: one-shot, masked, stopped.
void apic_timer_reset(struct apic_timer *t);

// Consume all expiries up to now, masked ones too; true if there was any. To be called before each change
// below, so that an expiry counts under the settings of its time.
bool apic_timer_expire(struct apic_timer *t, struct lapic_time now);

// The guest's write of the LVT entry: going to or from TSC-deadline mode disarms (SDM vol. 3A 11.5.4.1).
void apic_timer_set_lvt(struct apic_timer *t, enum apic_timer_mode mode, bool wanted, struct lapic_time now);
// The same for a restore: a TSC deadline stays, whichever comes back first.
void apic_timer_restore_lvt(struct apic_timer *t, enum apic_timer_mode mode, bool wanted,
                            struct lapic_time now);
// Load the counter and start; 0 stops. Ignored in TSC-deadline mode.
void apic_timer_start(struct apic_timer *t, uint32_t initial, struct lapic_time now);
// Let the counter go on from `current` (at most the initial count). 0 stops a one-shot; a periodic one starts
// its next period, because a saved 0 there can only be the instant of reloading.
void apic_timer_set_current(struct apic_timer *t, uint32_t current, struct lapic_time now);
// `divide` is the divide configuration register; the count goes on at the new rate.
void apic_timer_set_divide(struct apic_timer *t, uint32_t divide, struct lapic_time now);
// Whatever the mode; it takes effect in TSC-deadline mode alone. 0 disarms.
void apic_timer_set_tsc_deadline(struct apic_timer *t, uint64_t tsc, struct lapic_time now);
// The TSC was written or its relation to guest time changed.
void apic_timer_tsc_changed(struct apic_timer *t, struct lapic_time now);

// The current-count register.
uint32_t apic_timer_current(const struct apic_timer *t, struct lapic_time now);

// The initial-count and current-count registers, as they are at one moment. Any thread.
struct apic_timer_counts { uint32_t initial, current; };
struct apic_timer_counts apic_timer_look(const struct apic_timer *t, struct lapic_time now);

#endif
