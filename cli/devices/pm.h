/* pm.h: the ACPI power management block: PM1 events and control, and the PM timer (ACPI 6.4, section 4.8.3).
 *
 * The block is always in ACPI mode. Ports: 0x600 events, 0x604 control, 0x608 timer; sleep type 0 is S5. */
#ifndef CLI_DEVICES_PM_H
#define CLI_DEVICES_PM_H

#include "../irq.h"
#include "../state.h"
#include "../timers.h"

#include <stdint.h>

#define PM_BASE 0x600
#define PM_EVENTS PM_BASE
#define PM_CONTROL (PM_BASE + 4)
#define PM_TIMER (PM_BASE + 8)
#define PM_SIZE 12
#define PM_TIMER_HZ 3579545u
#define PM_SCI 9
#define PM_SLEEP_TYPE_S5 0

struct pm {
    struct timers *timers;
    struct timer overflow;
    struct irq_wire sci;
    uint64_t start;
    uint64_t overflows_seen; /* changes of the timer's top bit that the status has shown */
    uint16_t status, enable, control;
    void (*power_off)(void *context);
    void *context;
};

void pm_init(struct pm *pm, struct timers *timers, struct irq_wire sci, void (*power_off)(void *context),
             void *context);

/* Bus functions: events and control (8 bytes, sizes 1 and 2), timer (size 4). */
uint64_t pm_read(void *device, uint64_t offset, unsigned size);
void pm_write(void *device, uint64_t offset, unsigned size, uint64_t value);
uint64_t pm_timer_read(void *device, uint64_t offset, unsigned size);

/* The timer goes on from where it stood. */
void pm_save(const struct pm *pm, struct state_writer *to);
bool pm_load(struct pm *pm, struct state_reader *from);

#endif
