/* timers.c: the list of device timers. It is short, so it is searched, not sorted. */
#include "timers.h"

#include <stddef.h>
#include <time.h>

void timers_init(struct timers *list, uint64_t (*clock)(void), void (*wake)(void *context), void *context)
{
    *list = (struct timers){.clock = clock, .wake = wake, .context = context};
}

uint64_t timers_now(const struct timers *list)
{
    return list->stopped ? list->stopped_at : list->clock() - list->behind;
}

uint64_t timers_next(const struct timers *list)
{
    uint64_t next = TIMERS_NEVER;

    if (list->stopped) {
        return TIMERS_NEVER;
    }
    for (const struct timer *timer = list->first; timer != NULL; timer = timer->next) {
        if (timer->deadline < next) {
            next = timer->deadline;
        }
    }
    return next;
}

uint64_t timers_next_on_clock(const struct timers *list)
{
    uint64_t next = timers_next(list);

    return next == TIMERS_NEVER ? TIMERS_NEVER : next + list->behind;
}

void timers_stop(struct timers *list)
{
    list->stopped_at = timers_now(list);
    list->stopped = true;
}

void timers_start(struct timers *list, bool catch_up)
{
    if (list->stopped && !catch_up) {
        list->behind = list->clock() - list->stopped_at;
    }
    list->stopped = false;
}

void timers_skip(struct timers *list, uint64_t ns)
{
    list->stopped_at += ns;
    list->behind -= ns;
}

void timers_run(struct timers *list)
{
    uint64_t now = timers_now(list);

    if (list->stopped) {
        return;
    }
    for (struct timer *timer = list->first; timer != NULL; timer = timer->next) {
        if (timer->deadline <= now) {
            timer->deadline = TIMERS_NEVER;
            timer->fire(timer->context, now);
        }
    }
}

void timer_add(struct timer *timer, struct timers *list, void (*fire)(void *context, uint64_t now),
               void *context)
{
    *timer = (struct timer){
        .list = list, .next = list->first, .deadline = TIMERS_NEVER, .fire = fire, .context = context};
    list->first = timer;
}

void timer_set(struct timer *timer, uint64_t deadline)
{
    bool earliest = deadline < timers_next(timer->list);

    timer->deadline = deadline;
    if (earliest && timer->list->wake != NULL) {
        timer->list->wake(timer->list->context);
    }
}

void timer_stop(struct timer *timer)
{
    timer->deadline = TIMERS_NEVER;
}

uint64_t timer_left(const struct timer *timer)
{
    uint64_t now = timers_now(timer->list);

    if (timer->deadline == TIMERS_NEVER) {
        return TIMERS_NEVER;
    }
    return timer->deadline > now ? timer->deadline - now : 0;
}

uint64_t timers_after(const struct timers *list, uint64_t start, uint64_t ns)
{
    uint64_t now = timers_now(list);

    return ns > now - start ? start + ns : now;
}

uint64_t timers_monotonic(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
