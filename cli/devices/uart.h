/* uart.h: a 16550A serial port (National Semiconductor PC16550D data sheet) on a byte sink and source.
 *
 * Sending takes no time: what the guest writes goes to `transmit` at once. The baud rate is kept and
 * ignored. */
#ifndef CLI_DEVICES_UART_H
#define CLI_DEVICES_UART_H

#include "../irq.h"
#include "../state.h"

#include <stdbool.h>
#include <stdint.h>

#define UART_FIFO_SIZE 16

struct uart_line {
    void (*transmit)(void *context, uint8_t byte);
    /* How many bytes can be sent now. */
    unsigned (*room)(void *context);
    /* The receiver has become willing to take input (see uart_wants), or was and has room again. */
    void (*wants_input)(void *context);
    void *context;
};

struct uart {
    struct irq_wire irq;
    struct uart_line line;
    uint8_t ier, fcr, lcr, mcr, lsr, msr, scr, dll, dlm;
    uint8_t fifo[UART_FIFO_SIZE];
    unsigned fifo_first, fifo_count;
    bool thre_pending;     /* a transmitter-empty interrupt has not been seen yet */
    unsigned silent_polls; /* reads of LSR since the guest last sent a byte */
};

void uart_init(struct uart *uart, struct irq_wire irq, struct uart_line line);

/* Bus functions: eight byte-wide registers. */
uint64_t uart_read(void *device, uint64_t offset, unsigned size);
void uart_write(void *device, uint64_t offset, unsigned size, uint64_t value);

/* How many bytes uart_receive may be given now. Zero until the guest shows that it listens, by enabling the
 * receive interrupt or by polling LSR without sending: drivers clear the FIFO and the receiver, with RTS
 * already up, when they start, and what came earlier would be lost. */
unsigned uart_wants(const struct uart *uart);
void uart_receive(struct uart *uart, uint8_t byte);

/* The sink has room again. */
void uart_drained(struct uart *uart);

/* With what was received and not read. Nothing that was sent is in the device: the line has it. */
void uart_save(const struct uart *uart, struct state_writer *to);
bool uart_load(struct uart *uart, struct state_reader *from);

#endif
