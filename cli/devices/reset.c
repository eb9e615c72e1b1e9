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

static const struct state_field reset_fields[] = {
    STATE_ANY(struct reset, control),
    STATE_ANY(struct reset, system),
};

void reset_save(const struct reset *reset, struct state_writer *to)
{
    state_begin(to, "RSET", 1);
    state_put_fields(to, reset_fields, STATE_COUNT(reset_fields), reset);
    state_end(to);
}

bool reset_load(struct reset *reset, struct state_reader *from)
{
    struct reset loaded = *reset;

    state_enter(from, "RSET", 1);
    state_get_fields(from, reset_fields, STATE_COUNT(reset_fields), &loaded);
    if (!from->failed && (loaded.system & SYSTEM_A20) == 0) {
        state_refuse(from, "A20 is off, and it is always on here");
    }
    if (!state_leave(from)) {
        return false;
    }
    *reset = loaded;
    return true;
}

void reset_init(struct reset *reset, void (*request)(void *context), void *context)
{
    *reset = (struct reset){.system = SYSTEM_A20, .request = request, .context = context};
}
