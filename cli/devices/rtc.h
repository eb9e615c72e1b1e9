/* rtc.h: the MC146818 clock of a PC with 128 bytes of CMOS memory (Motorola MC146818A data sheet).
 *
 * The time is the host's, in UTC, plus what the guest has set. Registers are BCD and 24-hour unless the guest
 * chooses otherwise. */
#ifndef CLI_DEVICES_RTC_H
#define CLI_DEVICES_RTC_H

#include "../irq.h"
#include "../state.h"
#include "../timers.h"

#include <stdbool.h>
#include <stdint.h>

#define RTC_CENTURY 0x32

struct rtc {
    struct timers *timers;
    struct timer periodic; /* the next periodic interrupt */
    struct timer second;   /* the next update, while somebody waits for it */
    struct irq_wire irq;
    uint64_t (*wall)(void); /* host time in nanoseconds since 1970 */
    int64_t offset;         /* seconds that the guest is ahead of the host */
    int64_t frozen;         /* the guest's time while it holds updates (register B, SET) */
    uint8_t index;
    uint8_t memory[128];
};

void rtc_init(struct rtc *rtc, struct timers *timers, uint64_t (*wall)(void), struct irq_wire irq);

/* Puts into CMOS what a firmware expects there: the sizes of memory below and above 4 GiB, and the
 * processors. */
void rtc_describe(struct rtc *rtc, uint64_t low_memory, uint64_t high_memory, unsigned cpus);

/* The timers' clock has stood still: updates come with the host's seconds again. */
void rtc_follow_host(struct rtc *rtc);

/* Bus functions: ports 0x70 and 0x71. */
uint64_t rtc_read(void *device, uint64_t offset, unsigned size);
void rtc_write(void *device, uint64_t offset, unsigned size, uint64_t value);

/* CLOCK_REALTIME in nanoseconds. */
uint64_t rtc_host_time(void);

/* The time of day stays as far from the host's as it was; what periodic interrupts are in the middle of goes on. */
void rtc_save(const struct rtc *rtc, struct state_writer *to);
bool rtc_load(struct rtc *rtc, struct state_reader *from);

#endif
