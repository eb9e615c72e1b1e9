/* timers.h: points in time at which devices want to act, on a clock that can stand still and that a test can replace.
 *
 * Times are nanoseconds of timers_now. The owner of the list calls timers_run when timers_next has come. */
#ifndef CLI_TIMERS_H
#define CLI_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

#define TIMERS_NEVER UINT64_MAX

struct timer {
    struct timers *list;
    struct timer *next;
    uint64_t deadline;
    void (*fire)(void *context, uint64_t now);
    void *context;
};

struct timers {
    struct timer *first;
    uint64_t (*clock)(void);
    uint64_t behind; /* nanoseconds of the clock that did not count */
    bool stopped;
    uint64_t stopped_at; /* what timers_now says while stopped */
    /* Called when a deadline becomes earlier than all others: the owner may be asleep for too long. */
    void (*wake)(void *context);
    void *context;
};

void timers_init(struct timers *list, uint64_t (*clock)(void), void (*wake)(void *context), void *context);
uint64_t timers_now(const struct timers *list);

/* The earliest deadline; TIMERS_NEVER if there is none, or if the list is stopped. */
uint64_t timers_next(const struct timers *list);

/* The same on the clock that was given to timers_init. */
uint64_t timers_next_on_clock(const struct timers *list);

/* Between these two the time of the list stands still and nothing fires. It then goes on from where it stood, or with
 * CATCH_UP from where it would be otherwise. */
void timers_stop(struct timers *list);
void timers_start(struct timers *list, bool catch_up);

/* While it stands still: the time of the list is NS later now. */
void timers_skip(struct timers *list, uint64_t ns);

/* Fires every timer whose deadline has come. A timer is stopped before it fires and may set itself again. */
void timers_run(struct timers *list);

/* The timer stays in the list for as long as the list lives. */
void timer_add(struct timer *timer, struct timers *list, void (*fire)(void *context, uint64_t now),
               void *context);
void timer_set(struct timer *timer, uint64_t deadline);
void timer_stop(struct timer *timer);

/* How long it is until the deadline: 0 if that has come, TIMERS_NEVER if there is none. */
uint64_t timer_left(const struct timer *timer);

/* The deadline NS after START. It is now if that is over: a START in the past may lie before the clock's zero, as a
 * huge number, because the device has been counting for longer than this clock. */
uint64_t timers_after(const struct timers *list, uint64_t start, uint64_t ns);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t timers_monotonic(void);

/* VALUE * NUMERATOR / DENOMINATOR without overflow in between. */
static inline uint64_t timers_scale(uint64_t value, uint64_t numerator, uint64_t denominator)
{
    return (uint64_t)((unsigned __int128)value * numerator / denominator);
}

/* The same, rounded up: the first nanosecond at which a count of ticks is complete. */
static inline uint64_t timers_scale_up(uint64_t value, uint64_t numerator, uint64_t denominator)
{
    return (uint64_t)(((unsigned __int128)value * numerator + denominator - 1) / denominator);
}

#endif
