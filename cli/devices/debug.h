/* debug.h: a port that ends the run and a port that prints, as QEMU's isa-debug-exit and isa-debugcon.
 *
 * Neither holds anything from one access to the next, so there is nothing to save; where they are is configuration. */
#ifndef CLI_DEVICES_DEBUG_H
#define CLI_DEVICES_DEBUG_H

#include <stdint.h>

#define DEBUG_CONSOLE_SIGNATURE 0xe9

struct debug_exit {
    /* A write of v ends the run with code v * 2 + 1. */
    void (*end)(void *context, int code);
    void *context;
};

struct debug_console {
    void (*transmit)(void *context, uint8_t byte);
    void *context;
};

uint64_t debug_exit_read(void *device, uint64_t offset, unsigned size);
void debug_exit_write(void *device, uint64_t offset, unsigned size, uint64_t value);
uint64_t debug_console_read(void *device, uint64_t offset, unsigned size);
void debug_console_write(void *device, uint64_t offset, unsigned size, uint64_t value);

#endif
