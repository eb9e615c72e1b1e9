/* pit.h: the 8254 interval timer (Intel 8254 data sheet) and port 0x61, which gates its channel 2.
 *
 * No counter is ever stepped: each is a load time on the timers' clock, and everything read is derived from
 * it. */
#ifndef CLI_DEVICES_PIT_H
#define CLI_DEVICES_PIT_H

#include "../irq.h"
#include "../state.h"
#include "../timers.h"

#include <stdbool.h>
#include <stdint.h>

#define PIT_HZ 1193182u

struct pit_channel {
    uint8_t mode;   /* 0 to 5 */
    uint8_t access; /* 1 low byte, 2 high byte, 3 low then high */
    bool bcd;
    bool loaded; /* a count has been written since the mode was set */
    bool gate;
    bool running;
    uint32_t count;        /* 1 to 0x10000, what one period counts down from */
    uint64_t start;        /* when `ticks_before` was right */
    uint64_t ticks_before; /* ticks counted before `start`: a closed gate stops counting */
    bool write_high, read_high;
    uint8_t write_low;
    uint8_t latched_bytes; /* how many bytes of `latch` are still to be read */
    uint16_t latch;
    bool status_latched;
    uint8_t status;
};

struct pit {
    struct timers *timers;
    struct timer timer; /* the next rise of channel 0's output */
    uint64_t risen;     /* the tick of channel 0's last rise */
    uint64_t refresh;   /* a time at which bit 4 of port 0x61 fell */
    struct irq_wire irq;
    struct pit_channel channel[3];
    uint8_t speaker; /* bits 0 and 1 of port 0x61 */
};

void pit_init(struct pit *pit, struct timers *timers, struct irq_wire irq);

/* Bus functions: ports 0x40 to 0x43, and port 0x61. */
uint64_t pit_read(void *device, uint64_t offset, unsigned size);
void pit_write(void *device, uint64_t offset, unsigned size, uint64_t value);
uint64_t pit_speaker_read(void *device, uint64_t offset, unsigned size);
void pit_speaker_write(void *device, uint64_t offset, unsigned size, uint64_t value);

/* Counts go on from where they stood. */
void pit_save(const struct pit *pit, struct state_writer *to);
bool pit_load(struct pit *pit, struct state_reader *from);

#endif
