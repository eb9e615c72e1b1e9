/* pit.c: counting, reading back and interrupts of the 8254. */
#include "pit.h"

#include <string.h>

#define NS_PER_S UINT64_C(1000000000)

/* If the host was away for longer than this many periods, the missed ticks are dropped instead of made up
 * for. */
#define PIT_MAX_CATCH_UP 16

/* Between two memory refreshes. */
#define REFRESH_NS 15085

static uint64_t channel_ticks(const struct pit_channel *channel, uint64_t now)
{
    if (!channel->running) {
        return channel->ticks_before;
    }
    return channel->ticks_before + timers_scale(now - channel->start, PIT_HZ, NS_PER_S);
}

static bool channel_periodic(const struct pit_channel *channel)
{
    return channel->mode == 2 || channel->mode == 3;
}

/* The level of OUT (8254 data sheet, "Mode definitions"). */
static bool channel_output(const struct pit_channel *channel, uint64_t now)
{
    uint64_t ticks = channel_ticks(channel, now);

    if (!channel->loaded) {
        return channel->mode != 0;
    }
    switch (channel->mode) {
    case 0:
        return ticks >= channel->count;
    case 1:
        return !(channel->running && ticks < channel->count);
    case 2:
        return !channel->gate || ticks % channel->count != channel->count - 1;
    case 3:
        return !channel->gate || ticks % channel->count < (channel->count + 1) / 2;
    default:
        return ticks != channel->count;
    }
}

static uint16_t to_bcd(uint32_t value)
{
    value %= 10000;
    return (uint16_t)(value % 10 | (value / 10 % 10) << 4 | (value / 100 % 10) << 8 | (value / 1000) << 12);
}

static uint32_t from_bcd(uint16_t value)
{
    return (value & 15u) + (value >> 4 & 15u) * 10 + (value >> 8 & 15u) * 100 + (value >> 12) * 1000u;
}

/* The counting element as a program reads it. */
static uint16_t channel_counter(const struct pit_channel *channel, uint64_t now)
{
    uint64_t ticks = channel_ticks(channel, now);
    uint32_t modulus = channel->bcd ? 10000 : 0x10000;
    uint32_t value;

    if (!channel->loaded) {
        value = 0;
    } else if (channel->mode == 2) {
        value = channel->count - (uint32_t)(ticks % channel->count);
    } else if (channel->mode == 3) {
        /* Counts by two, through the range twice per period. */
        value = channel->count - (uint32_t)(ticks * 2 % channel->count);
        value &= ~1u;
    } else {
        value = (channel->count + modulus - (uint32_t)(ticks % modulus)) % modulus;
    }
    return channel->bcd ? to_bcd(value) : (uint16_t)value;
}

static uint64_t channel_ticks_to_ns(uint64_t ticks)
{
    return timers_scale_up(ticks, NS_PER_S, PIT_HZ);
}

/* How long after `start` OUT rises for the first time after tick number `after`; or TIMERS_NEVER. */
static uint64_t channel_next_rise(const struct pit_channel *channel, uint64_t after)
{
    uint64_t rise;

    if (!channel->loaded || !channel->running) {
        return TIMERS_NEVER;
    }
    if (channel_periodic(channel)) {
        rise = (after / channel->count + 1) * channel->count;
    } else {
        rise = channel->mode >= 4 ? channel->count + 1u : channel->count;
        if (after >= rise) {
            return TIMERS_NEVER;
        }
    }
    return channel_ticks_to_ns(rise - channel->ticks_before);
}

static void pit_schedule(struct pit *pit, uint64_t after)
{
    const struct pit_channel *channel = &pit->channel[0];
    uint64_t ns = channel_next_rise(channel, after);

    timer_set(&pit->timer, ns == TIMERS_NEVER ? TIMERS_NEVER : timers_after(pit->timers, channel->start, ns));
}

static void pit_fire(void *context, uint64_t now)
{
    struct pit *pit = context;
    const struct pit_channel *channel = &pit->channel[0];
    uint64_t ticks = channel_ticks(channel, now);

    /* A pulse: the interrupt controllers look for the rising edge, and the line stays up until the next
     * one. */
    irq_set(&pit->irq, false);
    irq_set(&pit->irq, true);
    if (channel_periodic(channel)) {
        /* A late wake-up does not lose ticks: the next rise follows the one that this call was for. */
        pit->risen += channel->count;
        if (ticks > pit->risen + (uint64_t)PIT_MAX_CATCH_UP * channel->count) {
            pit->risen = ticks / channel->count * channel->count;
        }
        ticks = pit->risen;
    }
    pit_schedule(pit, ticks);
}

static void channel_restart(struct pit_channel *channel, uint64_t now)
{
    channel->start = now;
    channel->ticks_before = 0;
    channel->running = true;
}

static void pit_set_count(struct pit *pit, unsigned index, uint16_t value, uint64_t now)
{
    struct pit_channel *channel = &pit->channel[index];

    channel->count = channel->bcd ? from_bcd(value) : value;
    if (channel->count == 0) {
        channel->count = channel->bcd ? 10000 : 0x10000;
    }
    channel->loaded = true;
    channel_restart(channel, now);
    if (channel->mode == 1 || channel->mode == 5) {
        channel->running = false; /* until the gate rises */
    } else if (!channel->gate) {
        channel->running = false;
    }
    if (index == 0) {
        if (channel->mode == 0) {
            irq_set(&pit->irq, false);
        }
        pit->risen = 0;
        pit_schedule(pit, 0);
    }
}

static void pit_write_count(struct pit *pit, unsigned index, uint8_t value, uint64_t now)
{
    struct pit_channel *channel = &pit->channel[index];

    switch (channel->access) {
    case 1:
        pit_set_count(pit, index, value, now);
        break;
    case 2:
        pit_set_count(pit, index, (uint16_t)(value << 8), now);
        break;
    default:
        if (channel->write_high) {
            pit_set_count(pit, index, (uint16_t)(value << 8 | channel->write_low), now);
        } else {
            channel->write_low = value;
        }
        channel->write_high = !channel->write_high;
        break;
    }
}

static void channel_latch_count(struct pit_channel *channel, uint64_t now)
{
    if (channel->latched_bytes == 0) {
        channel->latch = channel_counter(channel, now);
        channel->latched_bytes = channel->access == 3 ? 2 : 1;
    }
}

static void channel_latch_status(struct pit_channel *channel, uint64_t now)
{
    if (!channel->status_latched) {
        channel->status = (uint8_t)(channel_output(channel, now) << 7 | !channel->loaded << 6 |
                                    channel->access << 4 | channel->mode << 1 | channel->bcd);
        channel->status_latched = true;
    }
}

static void pit_control(struct pit *pit, uint8_t value, uint64_t now)
{
    unsigned index = value >> 6;

    if (index == 3) {
        /* Read-back: bits 5 and 4 are active low. */
        for (unsigned i = 0; i < 3; i++) {
            if ((value & 2u << i) != 0) {
                if ((value & 0x20) == 0) {
                    channel_latch_count(&pit->channel[i], now);
                }
                if ((value & 0x10) == 0) {
                    channel_latch_status(&pit->channel[i], now);
                }
            }
        }
        return;
    }
    struct pit_channel *channel = &pit->channel[index];
    unsigned access = value >> 4 & 3;

    if (access == 0) {
        channel_latch_count(channel, now);
        return;
    }
    channel->access = (uint8_t)access;
    channel->mode = value >> 1 & 7;
    if (channel->mode > 5) {
        channel->mode -= 4; /* bit 2 is ignored in modes 2 and 3 */
    }
    channel->bcd = (value & 1) != 0;
    channel->loaded = false;
    channel->running = false;
    channel->ticks_before = 0;
    channel->write_high = false;
    channel->read_high = false;
    channel->latched_bytes = 0;
    channel->status_latched = false;
    if (index == 0) {
        timer_stop(&pit->timer);
        irq_set(&pit->irq, channel->mode != 0);
    }
}

static uint8_t channel_read(struct pit_channel *channel, uint64_t now)
{
    if (channel->status_latched) {
        channel->status_latched = false;
        return channel->status;
    }
    uint16_t value = channel->latched_bytes > 0 ? channel->latch : channel_counter(channel, now);
    bool high = channel->access == 2 || (channel->access == 3 && channel->read_high);

    if (channel->access == 3) {
        channel->read_high = !channel->read_high;
    }
    if (channel->latched_bytes > 0) {
        channel->latched_bytes--;
    }
    return (uint8_t)(high ? value >> 8 : value);
}

static void channel_set_gate(struct pit_channel *channel, bool gate, uint64_t now)
{
    bool rises = gate && !channel->gate;

    if (gate == channel->gate) {
        return;
    }
    channel->gate = gate;
    if (!channel->loaded) {
        return;
    }
    if (channel->mode == 1 || channel->mode == 5) {
        if (rises) {
            channel_restart(channel, now);
        }
    } else if (channel_periodic(channel)) {
        if (rises) {
            channel_restart(channel, now);
        } else {
            channel->running = false;
        }
    } else {
        channel->ticks_before = channel_ticks(channel, now);
        channel->start = now;
        channel->running = gate;
    }
}

uint64_t pit_read(void *device, uint64_t offset, unsigned size)
{
    struct pit *pit = device;

    (void)size;
    return offset < 3 ? channel_read(&pit->channel[offset], timers_now(pit->timers)) : 0xff;
}

void pit_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit *pit = device;
    uint64_t now = timers_now(pit->timers);

    (void)size;
    if (offset < 3) {
        pit_write_count(pit, (unsigned)offset, (uint8_t)value, now);
    } else {
        pit_control(pit, (uint8_t)value, now);
    }
}

uint64_t pit_speaker_read(void *device, uint64_t offset, unsigned size)
{
    struct pit *pit = device;
    uint64_t now = timers_now(pit->timers);
    /* Bit 4 toggles with each memory refresh; programs time short delays with it. */
    bool refresh = ((now - pit->refresh) / REFRESH_NS & 1) != 0;

    (void)offset;
    (void)size;
    return pit->speaker | (uint64_t)refresh << 4 | (uint64_t)channel_output(&pit->channel[2], now) << 5;
}

void pit_speaker_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit *pit = device;

    (void)offset;
    (void)size;
    pit->speaker = value & 3;
    channel_set_gate(&pit->channel[2], (value & 1) != 0, timers_now(pit->timers));
}

/* In the record `start` is how long the channel has been running, and 0 if it is not. The gates of channels 0 and 1
 * are always open, that of channel 2 is in port 0x61. */
static const struct state_field channel_fields[] = {
    STATE_RANGE(struct pit_channel, mode, 0, 5),
    STATE_RANGE(struct pit_channel, access, 1, 3),
    STATE_FLAG(struct pit_channel, bcd),
    STATE_FLAG(struct pit_channel, loaded),
    STATE_FLAG(struct pit_channel, running),
    STATE_RANGE(struct pit_channel, count, 1, 0x10000),
    STATE_RANGE(struct pit_channel, start, 0, STATE_LONGEST),
    STATE_RANGE(struct pit_channel, ticks_before, 0, STATE_LONGEST),
    STATE_FLAG(struct pit_channel, write_high),
    STATE_FLAG(struct pit_channel, read_high),
    STATE_ANY(struct pit_channel, write_low),
    STATE_RANGE(struct pit_channel, latched_bytes, 0, 2),
    STATE_ANY(struct pit_channel, latch),
    STATE_FLAG(struct pit_channel, status_latched),
    STATE_ANY(struct pit_channel, status),
};

/* In the record `refresh` is the time since then, in a period of two refreshes. */
static const struct state_field pit_fields[] = {
    STATE_BITS(struct pit, speaker, 3),
    STATE_RANGE(struct pit, refresh, 0, 2 * REFRESH_NS - 1),
    STATE_RANGE(struct pit, risen, 0, STATE_LONGEST),
};

void pit_save(const struct pit *pit, struct state_writer *to)
{
    uint64_t now = timers_now(pit->timers);
    bool armed = pit->timer.deadline != TIMERS_NEVER;
    struct pit saved = *pit;

    saved.refresh = (now - pit->refresh) % (2 * REFRESH_NS);
    saved.risen = armed ? pit->risen : 0;
    state_begin(to, "PIT ", 1);
    state_put_fields(to, pit_fields, STATE_COUNT(pit_fields), &saved);
    for (unsigned i = 0; i < 3; i++) {
        saved.channel[i].start = pit->channel[i].running ? now - pit->channel[i].start : 0;
        state_put_fields(to, channel_fields, STATE_COUNT(channel_fields), &saved.channel[i]);
    }
    state_put(to, 1, armed);
    state_end(to);
}

static void pit_load_channel(struct pit_channel *channel, bool gate, uint64_t now, struct state_reader *from)
{
    state_get_fields(from, channel_fields, STATE_COUNT(channel_fields), channel);
    channel->gate = gate;
    channel->start = now - channel->start;
    if (channel->running && !channel->loaded) {
        state_refuse(from, "a channel counts without a count");
    }
}

/* ARMED: channel 0's output is going to rise. What the other fields say has to fit. */
static void pit_check_timer(const struct pit *pit, bool armed, uint64_t now, struct state_reader *from)
{
    const struct pit_channel *channel = &pit->channel[0];

    if (channel->ticks_before != 0 || pit->channel[1].ticks_before != 0) {
        state_refuse(from, "a channel was stopped whose gate is always open");
    }
    if (channel->running ? channel_periodic(channel) && !armed : armed) {
        state_refuse(from, "channel 0 %s, and its timer is %s", channel->running ? "counts" : "stands",
                     armed ? "set" : "not set");
    }
    if (pit->risen > channel_ticks(channel, now)) {
        state_refuse(from, "channel 0 has counted %llu, and has had its interrupt for %llu",
                     (unsigned long long)channel_ticks(channel, now), (unsigned long long)pit->risen);
    }
}

bool pit_load(struct pit *pit, struct state_reader *from)
{
    uint64_t now = timers_now(pit->timers);
    struct pit loaded = *pit;
    uint64_t armed;

    state_enter(from, "PIT ", 1);
    state_get_fields(from, pit_fields, STATE_COUNT(pit_fields), &loaded);
    loaded.refresh = now - loaded.refresh;
    for (unsigned i = 0; i < 3; i++) {
        pit_load_channel(&loaded.channel[i], i != 2 || (loaded.speaker & 1) != 0, now, from);
    }
    armed = state_get(from, 1, "armed");
    if (armed > 1) {
        state_refuse(from, "field 'armed' is %llu", (unsigned long long)armed);
    }
    pit_check_timer(&loaded, armed != 0, now, from);
    if (!state_leave(from)) {
        return false;
    }
    *pit = loaded;
    if (armed != 0) {
        pit_schedule(pit, pit->risen);
    } else {
        timer_stop(&pit->timer);
    }
    return true;
}

void pit_init(struct pit *pit, struct timers *timers, struct irq_wire irq)
{
    memset(pit, 0, sizeof(*pit));
    pit->timers = timers;
    pit->irq = irq;
    for (unsigned i = 0; i < 3; i++) {
        pit->channel[i].mode = 3;
        pit->channel[i].access = 3;
        pit->channel[i].count = 0x10000;
        pit->channel[i].gate = i != 2;
    }
    timer_add(&pit->timer, timers, pit_fire, pit);
}
