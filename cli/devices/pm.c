/* pm.c: status, sleep and timer of the ACPI power management block. */
#include "pm.h"

#include <stdbool.h>
#include <string.h>

#define NS_PER_S UINT64_C(1000000000)

/* The timer is 32 bits wide; its status is set each time that the top bit changes. */
#define HALF_RANGE (UINT64_C(1) << 31)

enum { STATUS_TIMER = 0x0001, CONTROL_SCI = 0x0001, CONTROL_SLEEP = 0x2000, CONTROL_SLEEP_TYPE_SHIFT = 10 };

static uint64_t pm_ticks(const struct pm *pm)
{
    return timers_scale(timers_now(pm->timers) - pm->start, PM_TIMER_HZ, NS_PER_S);
}

static void pm_schedule(struct pm *pm)
{
    uint64_t ticks = (pm->overflows_seen + 1) * HALF_RANGE;

    if ((pm->enable & STATUS_TIMER) != 0) {
        timer_set(&pm->overflow,
                  timers_after(pm->timers, pm->start, timers_scale_up(ticks, NS_PER_S, PM_TIMER_HZ)));
    } else {
        timer_stop(&pm->overflow);
    }
}

static void pm_update(struct pm *pm)
{
    uint64_t overflows = pm_ticks(pm) / HALF_RANGE;

    if (overflows != pm->overflows_seen) {
        pm->overflows_seen = overflows;
        pm->status |= STATUS_TIMER;
    }
    irq_set(&pm->sci, (pm->status & pm->enable) != 0);
    pm_schedule(pm);
}

static void pm_overflow(void *context, uint64_t now)
{
    (void)now;
    pm_update(context);
}

uint64_t pm_read(void *device, uint64_t offset, unsigned size)
{
    struct pm *pm = device;
    uint16_t value = 0;

    pm_update(pm);
    switch (offset & ~UINT64_C(1)) {
    case 0:
        value = pm->status;
        break;
    case 2:
        value = pm->enable;
        break;
    case 4:
        value = pm->control;
        break;
    default:
        break;
    }
    return size == 1 && (offset & 1) != 0 ? value >> 8 : value;
}

static void pm_write_control(struct pm *pm, uint16_t value)
{
    unsigned type = value >> CONTROL_SLEEP_TYPE_SHIFT & 7;

    /* The sleep enable bit triggers and reads as zero. Sleep states other than S5 are not declared. */
    pm->control = (uint16_t)((value & ~CONTROL_SLEEP) | CONTROL_SCI);
    if ((value & CONTROL_SLEEP) != 0 && type == PM_SLEEP_TYPE_S5) {
        pm->power_off(pm->context);
    }
}

void pm_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pm *pm = device;
    unsigned shift = size == 1 && (offset & 1) != 0 ? 8 : 0;
    uint16_t mask = (uint16_t)((size == 1 ? 0xffu : 0xffffu) << shift);
    uint16_t bits = (uint16_t)(value << shift) & mask;

    pm_update(pm);
    switch (offset & ~UINT64_C(1)) {
    case 0:
        pm->status &= (uint16_t)~bits;
        break;
    case 2:
        pm->enable = (uint16_t)((pm->enable & ~mask) | bits);
        break;
    case 4:
        pm_write_control(pm, (uint16_t)((pm->control & ~mask) | bits));
        break;
    default:
        break;
    }
    pm_update(pm);
}

uint64_t pm_timer_read(void *device, uint64_t offset, unsigned size)
{
    (void)offset;
    (void)size;
    return (uint32_t)pm_ticks(device);
}

/* In the record `start` is how long the timer has been counting. */
static const struct state_field pm_fields[] = {
    STATE_RANGE(struct pm, start, 0, STATE_LONGEST),
    STATE_RANGE(struct pm, overflows_seen, 0, STATE_LONGEST),
    STATE_BITS(struct pm, status, STATUS_TIMER),
    STATE_ANY(struct pm, enable),
    STATE_BITS(struct pm, control, 0xffff & ~CONTROL_SLEEP),
};

void pm_save(const struct pm *pm, struct state_writer *to)
{
    struct pm saved = *pm;

    saved.start = timers_now(pm->timers) - pm->start;
    state_begin(to, "PM  ", 1);
    state_put_fields(to, pm_fields, STATE_COUNT(pm_fields), &saved);
    state_end(to);
}

bool pm_load(struct pm *pm, struct state_reader *from)
{
    struct pm loaded = *pm;

    state_enter(from, "PM  ", 1);
    state_get_fields(from, pm_fields, STATE_COUNT(pm_fields), &loaded);
    loaded.start = timers_now(pm->timers) - loaded.start;
    if (!from->failed && (loaded.control & CONTROL_SCI) == 0) {
        state_refuse(from, "the block is not in ACPI mode, and it always is here");
    }
    if (loaded.overflows_seen > pm_ticks(&loaded) / HALF_RANGE) {
        state_refuse(from, "the timer has changed its top bit %llu times, and was seen to %llu times",
                     (unsigned long long)(pm_ticks(&loaded) / HALF_RANGE), (unsigned long long)loaded.overflows_seen);
    }
    if (!state_leave(from)) {
        return false;
    }
    *pm = loaded;
    pm_schedule(pm);
    return true;
}

void pm_init(struct pm *pm, struct timers *timers, struct irq_wire sci, void (*power_off)(void *context),
             void *context)
{
    memset(pm, 0, sizeof(*pm));
    pm->timers = timers;
    pm->sci = sci;
    pm->start = timers_now(timers);
    pm->control = CONTROL_SCI;
    pm->power_off = power_off;
    pm->context = context;
    timer_add(&pm->overflow, timers, pm_overflow, pm);
}
