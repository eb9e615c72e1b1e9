/* reset.c: reset requests. */
#include "reset.h"

enum { CONTROL_RESET_PROCESSOR = 0x04, SYSTEM_RESET = 0x01, SYSTEM_A20 = 0x02, KEYBOARD_PULSE_RESET = 0xfe };

uint64_t reset_control_read(void *device, uint64_t offset, unsigned size)
{
    (void)offset;
    (void)size;
    return ((struct reset *)device)->control;
}

void reset_control_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct reset *reset = device;
    /* The transition of this bit from 0 to 1 resets. */
    int rises = (value & CONTROL_RESET_PROCESSOR) != 0 && (reset->control & CONTROL_RESET_PROCESSOR) == 0;

    (void)offset;
    (void)size;
    reset->control = (uint8_t)value;
    if (rises) {
        reset->request(reset->context);
    }
}

uint64_t reset_system_read(void *device, uint64_t offset, unsigned size)
{
    (void)offset;
    (void)size;
    return ((struct reset *)device)->system;
}

void reset_system_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct reset *reset = device;
    int rises = (value & SYSTEM_RESET) != 0 && (reset->system & SYSTEM_RESET) == 0;

    (void)offset;
    (void)size;
    reset->system = (uint8_t)value | SYSTEM_A20;
    if (rises) {
        reset->request(reset->context);
    }
}

void reset_keyboard_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct reset *reset = device;

    (void)offset;
    (void)size;
    if (value == KEYBOARD_PULSE_RESET) {
        reset->request(reset->context);
    }
}

void reset_init(struct reset *reset, void (*request)(void *context), void *context)
{
    *reset = (struct reset){.system = SYSTEM_A20, .request = request, .context = context};
}
