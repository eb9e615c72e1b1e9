/* timers.h: points in time at which devices want to act, on a clock that a test can replace.
 *
 * Times are nanoseconds of `now`. The owner of the list calls timers_run when timers_next has come. */
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
    uint64_t (*now)(void);
    /* Called when a deadline becomes earlier than all others: the owner may be asleep for too long. */
    void (*wake)(void *context);
    void *context;
};

void timers_init(struct timers *list, uint64_t (*now)(void), void (*wake)(void *context), void *context);
uint64_t timers_next(const struct timers *list);

/* Fires every timer whose deadline has come. A timer is stopped before it fires and may set itself again. */
void timers_run(struct timers *list);

/* The timer stays in the list for as long as the list lives. */
void timer_add(struct timer *timer, struct timers *list, void (*fire)(void *context, uint64_t now),
               void *context);
void timer_set(struct timer *timer, uint64_t deadline);
void timer_stop(struct timer *timer);

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
