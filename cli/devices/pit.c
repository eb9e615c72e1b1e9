/* pit.c: counting, reading back and interrupts of the 8254. */
#include "pit.h"

#include <string.h>

#define NS_PER_S UINT64_C(1000000000)

/* If the host was away for longer than this many periods, the missed ticks are dropped instead of made up
 * for. */
#define PIT_MAX_CATCH_UP 16

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

/* The next time after tick number `after` at which OUT rises. */
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
    return channel->start + channel_ticks_to_ns(rise - channel->ticks_before);
}

static void pit_schedule(struct pit *pit, uint64_t after)
{
    timer_set(&pit->timer, channel_next_rise(&pit->channel[0], after));
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

static void pit_load(struct pit *pit, unsigned index, uint16_t value, uint64_t now)
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
        pit_load(pit, index, value, now);
        break;
    case 2:
        pit_load(pit, index, (uint16_t)(value << 8), now);
        break;
    default:
        if (channel->write_high) {
            pit_load(pit, index, (uint16_t)(value << 8 | channel->write_low), now);
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
    return offset < 3 ? channel_read(&pit->channel[offset], pit->timers->now()) : 0xff;
}

void pit_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit *pit = device;
    uint64_t now = pit->timers->now();

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
    uint64_t now = pit->timers->now();
    /* Bit 4 toggles with each memory refresh, every 15.085 microseconds; programs time short delays with
     * it. */
    bool refresh = (now / 15085 & 1) != 0;

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
    channel_set_gate(&pit->channel[2], (value & 1) != 0, pit->timers->now());
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
