/* debug.c: the debug ports. */
#include "debug.h"

uint64_t debug_exit_read(void *device, uint64_t offset, unsigned size)
{
    (void)device;
    (void)offset;
    (void)size;
    return 0;
}

void debug_exit_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct debug_exit *exit = device;

    (void)offset;
    (void)size;
    exit->end(exit->context, (int)((value << 1 | 1) & 0xff));      /* as much as a process can say */
}

uint64_t debug_console_read(void *device, uint64_t offset, unsigned size)
{
    (void)device;
    (void)offset;
    (void)size;
    return DEBUG_CONSOLE_SIGNATURE;
}

void debug_console_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct debug_console *console = device;

    (void)offset;
    (void)size;
    console->transmit(console->context, (uint8_t)value);
}
