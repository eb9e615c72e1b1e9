/* reset.h: the ways in which a guest asks a PC for a reset: ports 0xcf9, 0x92 and 0x64. */
#ifndef CLI_DEVICES_RESET_H
#define CLI_DEVICES_RESET_H

#include "../state.h"

#include <stdint.h>

#define RESET_PORT 0xcf9
#define RESET_VALUE 0x06

struct reset {
    uint8_t control; /* port 0xcf9 */
    uint8_t system;  /* port 0x92 */
    void (*request)(void *context);
    void *context;
};

void reset_init(struct reset *reset, void (*request)(void *context), void *context);

/* Bus functions. 0xcf9: reset control. 0x92: A20, which is always on, and fast reset. 0x64: no keyboard
 * controller answers, but its command to pulse the reset line works. */
uint64_t reset_control_read(void *device, uint64_t offset, unsigned size);
void reset_control_write(void *device, uint64_t offset, unsigned size, uint64_t value);
uint64_t reset_system_read(void *device, uint64_t offset, unsigned size);
void reset_system_write(void *device, uint64_t offset, unsigned size, uint64_t value);
void reset_keyboard_write(void *device, uint64_t offset, unsigned size, uint64_t value);

void reset_save(const struct reset *reset, struct state_writer *to);
bool reset_load(struct reset *reset, struct state_reader *from);

#endif
