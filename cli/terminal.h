/* terminal.h: the guest's console on standard input and output.
 *
 * While a guest runs, a terminal is in raw mode; it is put back on every way out, crashes included. Output
 * goes through a buffer, so that a reader who has stopped reading never stops the machine, and no guest can
 * print faster than it is read. In the input, Ctrl-A x ends the run and Ctrl-A Ctrl-A is one Ctrl-A. */
#ifndef CLI_TERMINAL_H
#define CLI_TERMINAL_H

#include "error.h"

#include <stdint.h>

#define TERMINAL_BUFFER 65536

struct terminal {
    int in; /* -1 once there is nothing more to read */
    int out;
    bool escape; /* Ctrl-A was the last byte */
    uint8_t buffer[TERMINAL_BUFFER];
    unsigned first, count;
    int lost;     /* errno of the first write that failed otherwise than because nobody reads any more; else 0 */
    uint8_t last; /* the last byte that was put: whether a line is open */
};

/* What terminal_filter makes of one byte of input. */
enum terminal_key { TERMINAL_BYTE, TERMINAL_NOTHING, TERMINAL_END };

/* One terminal at a time is open: what has to be restored in a crash hangs off the process. */
bool terminal_open(struct terminal *terminal, int in, int out, struct error *err);

/* Flushes for a bounded time, and restores. */
void terminal_close(struct terminal *terminal);

/* Queues one byte; it is dropped if there is no room. */
void terminal_put(struct terminal *terminal, uint8_t byte);
unsigned terminal_room(const struct terminal *terminal);

/* Writes as much as the reader takes without blocking. */
void terminal_flush(struct terminal *terminal);

/* The next byte of input has to be asked for when `in` is readable. False if there is none (now, or any
 * more). */
bool terminal_get(struct terminal *terminal, uint8_t *byte);
enum terminal_key terminal_filter(struct terminal *terminal, uint8_t byte);

#endif
