/* uart.c: registers and interrupts of the 16550A. */
#include "uart.h"

#include <string.h>

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

enum {
    IER_RECEIVED = 0x01,
    IER_EMPTY = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,
    IER_ALL = 0x0f,

    IIR_NONE = 0x01,
    IIR_LINE = 0x06,
    IIR_RECEIVED = 0x04,
    IIR_TIMEOUT = 0x0c,
    IIR_EMPTY = 0x02,
    IIR_MODEM = 0x00,
    IIR_FIFOS = 0xc0,

    FCR_ENABLE = 0x01,
    FCR_CLEAR_RECEIVER = 0x02,
    FCR_KEPT = 0xc9, /* the clear bits reset themselves */

    LCR_DIVISOR = 0x80,

    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_ALL = 0x1f,

    LSR_DATA = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_ERRORS = 0x1e,
    LSR_HOLDING_EMPTY = 0x20,
    LSR_EMPTY = 0x40,

    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RING = 0x40,
    MSR_CARRIER = 0x80,
    MSR_DELTAS = 0x0f
};

/* A driver that only prints reads LSR once or twice per byte; one that waits for input reads nothing else. */
#define POLLS_THAT_MEAN_LISTENING 64

static unsigned uart_fifo_capacity(const struct uart *uart)
{
    return (uart->fcr & FCR_ENABLE) != 0 ? UART_FIFO_SIZE : 1;
}

static unsigned uart_trigger_level(const struct uart *uart)
{
    static const unsigned levels[4] = {1, 4, 8, 14};

    return (uart->fcr & FCR_ENABLE) != 0 ? levels[uart->fcr >> 6] : 1;
}

static bool uart_can_send(const struct uart *uart)
{
    return (uart->mcr & MCR_LOOP) != 0 || uart->line.room(uart->line.context) >= UART_FIFO_SIZE;
}

/* The most urgent interrupt that is enabled and pending, in the order of the data sheet's table. Data under
 * the trigger level counts as timed out at once: nothing is gained by letting the guest wait for it. */
static uint8_t uart_interrupt(const struct uart *uart)
{
    if ((uart->ier & IER_LINE) != 0 && (uart->lsr & LSR_ERRORS) != 0) {
        return IIR_LINE;
    }
    if ((uart->ier & IER_RECEIVED) != 0 && uart->fifo_count > 0) {
        return uart->fifo_count >= uart_trigger_level(uart) ? IIR_RECEIVED : IIR_TIMEOUT;
    }
    if ((uart->ier & IER_EMPTY) != 0 && uart->thre_pending) {
        return IIR_EMPTY;
    }
    if ((uart->ier & IER_MODEM) != 0 && (uart->msr & MSR_DELTAS) != 0) {
        return IIR_MODEM;
    }
    return IIR_NONE;
}

static void uart_update(struct uart *uart)
{
    /* OUT2 gates the interrupt on every PC serial card. In loopback it is disconnected from the gate's
     * input. */
    bool gate = (uart->mcr & MCR_OUT2) != 0 && (uart->mcr & MCR_LOOP) == 0;

    irq_set(&uart->irq, gate && uart_interrupt(uart) != IIR_NONE);
}

static uint8_t uart_modem_status(const struct uart *uart)
{
    if ((uart->mcr & MCR_LOOP) == 0) {
        return MSR_CTS | MSR_DSR | MSR_CARRIER;
    }
    return (uint8_t)(((uart->mcr & MCR_RTS) != 0 ? MSR_CTS : 0) | ((uart->mcr & MCR_DTR) != 0 ? MSR_DSR : 0) |
                     ((uart->mcr & MCR_OUT1) != 0 ? MSR_RING : 0) |
                     ((uart->mcr & MCR_OUT2) != 0 ? MSR_CARRIER : 0));
}

static void uart_set_mcr(struct uart *uart, uint8_t value)
{
    uint8_t before = uart->msr & (uint8_t)~MSR_DELTAS;
    unsigned wanted = uart_wants(uart);

    uart->mcr = value & MCR_ALL;
    uint8_t after = uart_modem_status(uart);
    uint8_t changed = (before ^ after) >> 4;

    /* The ring indicator's delta is set by the trailing edge alone. */
    if ((after & MSR_RING) != 0) {
        changed &= (uint8_t) ~(MSR_RING >> 4);
    }
    uart->msr = after | (uart->msr & MSR_DELTAS) | changed;
    if (wanted == 0 && uart_wants(uart) != 0) {
        uart->line.wants_input(uart->line.context);
    }
}

static void uart_push(struct uart *uart, uint8_t byte)
{
    if (uart->fifo_count >= uart_fifo_capacity(uart)) {
        uart->lsr |= LSR_OVERRUN;
        return;
    }
    uart->fifo[(uart->fifo_first + uart->fifo_count++) % UART_FIFO_SIZE] = byte;
}

static uint8_t uart_pop(struct uart *uart)
{
    uint8_t byte = 0;

    if (uart->fifo_count > 0) {
        byte = uart->fifo[uart->fifo_first];
        uart->fifo_first = (uart->fifo_first + 1) % UART_FIFO_SIZE;
        uart->fifo_count--;
        uart->line.wants_input(uart->line.context);
    }
    return byte;
}

static void uart_send(struct uart *uart, uint8_t byte)
{
    uart->silent_polls = 0;
    if ((uart->mcr & MCR_LOOP) != 0) {
        uart_push(uart, byte);
    } else if (uart->line.room(uart->line.context) > 0) {
        uart->line.transmit(uart->line.context, byte);
    }
    uart->thre_pending = uart_can_send(uart);
}

static void uart_set_fcr(struct uart *uart, uint8_t value)
{
    if (((uart->fcr ^ value) & FCR_ENABLE) != 0 || (value & FCR_CLEAR_RECEIVER) != 0) {
        uart->fifo_count = 0;
    }
    /* Without the enable bit nothing else is programmed. */
    uart->fcr = (value & FCR_ENABLE) != 0 ? value & FCR_KEPT : 0;
}

static void uart_set_ier(struct uart *uart, uint8_t value)
{
    unsigned wanted = uart_wants(uart);

    /* Enabling the transmitter interrupt while the transmitter is empty raises it at once. */
    if ((value & ~uart->ier & IER_EMPTY) != 0) {
        uart->thre_pending = uart_can_send(uart);
    }
    uart->ier = value & IER_ALL;
    if (wanted == 0 && uart_wants(uart) != 0) {
        uart->line.wants_input(uart->line.context);
    }
}

static uint8_t uart_read_iir(struct uart *uart)
{
    uint8_t cause = uart_interrupt(uart);

    if (cause == IIR_EMPTY) {
        uart->thre_pending = false;
    }
    return cause | ((uart->fcr & FCR_ENABLE) != 0 ? IIR_FIFOS : 0);
}

static uint8_t uart_read_lsr(struct uart *uart)
{
    uint8_t value = uart->lsr;

    value |= uart->fifo_count > 0 ? LSR_DATA : 0;
    value |= uart_can_send(uart) ? LSR_HOLDING_EMPTY | LSR_EMPTY : 0;
    uart->lsr &= (uint8_t)~LSR_ERRORS;
    /* While the transmitter is busy, it may be that what is polled for. */
    if (uart_can_send(uart) && uart->silent_polls < POLLS_THAT_MEAN_LISTENING &&
        ++uart->silent_polls == POLLS_THAT_MEAN_LISTENING) {
        uart->line.wants_input(uart->line.context);
    }
    return value;
}

uint64_t uart_read(void *device, uint64_t offset, unsigned size)
{
    struct uart *uart = device;
    bool divisor = (uart->lcr & LCR_DIVISOR) != 0;
    uint8_t value = 0;

    (void)size;
    switch (offset) {
    case REG_DATA:
        value = divisor ? uart->dll : uart_pop(uart);
        break;
    case REG_IER:
        value = divisor ? uart->dlm : uart->ier;
        break;
    case REG_IIR_FCR:
        value = uart_read_iir(uart);
        break;
    case REG_LCR:
        value = uart->lcr;
        break;
    case REG_MCR:
        value = uart->mcr;
        break;
    case REG_LSR:
        value = uart_read_lsr(uart);
        break;
    case REG_MSR:
        value = uart->msr;
        uart->msr &= (uint8_t)~MSR_DELTAS;
        break;
    default:
        value = uart->scr;
        break;
    }
    uart_update(uart);
    return value;
}

void uart_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct uart *uart = device;
    bool divisor = (uart->lcr & LCR_DIVISOR) != 0;
    uint8_t byte = (uint8_t)value;

    (void)size;
    switch (offset) {
    case REG_DATA:
        if (divisor) {
            uart->dll = byte;
        } else {
            uart_send(uart, byte);
        }
        break;
    case REG_IER:
        if (divisor) {
            uart->dlm = byte;
        } else {
            uart_set_ier(uart, byte);
        }
        break;
    case REG_IIR_FCR:
        uart_set_fcr(uart, byte);
        break;
    case REG_LCR:
        uart->lcr = byte;
        break;
    case REG_MCR:
        uart_set_mcr(uart, byte);
        break;
    case REG_LSR:
    case REG_MSR:
        break; /* read-only outside of factory tests */
    default:
        uart->scr = byte;
        break;
    }
    uart_update(uart);
}

unsigned uart_wants(const struct uart *uart)
{
    bool listens = (uart->ier & IER_RECEIVED) != 0 || uart->silent_polls >= POLLS_THAT_MEAN_LISTENING;

    if (!listens || (uart->mcr & MCR_LOOP) != 0) {
        return 0;
    }
    return uart_fifo_capacity(uart) -
           (uart->fifo_count < uart_fifo_capacity(uart) ? uart->fifo_count : uart_fifo_capacity(uart));
}

void uart_receive(struct uart *uart, uint8_t byte)
{
    uart_push(uart, byte);
    uart_update(uart);
}

void uart_drained(struct uart *uart)
{
    if (uart_can_send(uart)) {
        uart->thre_pending = true;
        uart_update(uart);
    }
}

static const struct state_field uart_fields[] = {
    STATE_BITS(struct uart, ier, IER_ALL),
    STATE_BITS(struct uart, fcr, FCR_KEPT),
    STATE_ANY(struct uart, lcr),
    STATE_BITS(struct uart, mcr, MCR_ALL),
    STATE_BITS(struct uart, lsr, LSR_ERRORS),
    STATE_ANY(struct uart, msr),
    STATE_ANY(struct uart, scr),
    STATE_ANY(struct uart, dll),
    STATE_ANY(struct uart, dlm),
    STATE_RANGE(struct uart, fifo_count, 0, UART_FIFO_SIZE),
    STATE_BYTES(struct uart, fifo),
    STATE_FLAG(struct uart, thre_pending),
    STATE_RANGE(struct uart, silent_polls, 0, POLLS_THAT_MEAN_LISTENING),
};

void uart_save(const struct uart *uart, struct state_writer *to)
{
    struct uart saved = *uart;

    /* The oldest byte comes first, and what has been read already is not told. */
    memset(saved.fifo, 0, sizeof(saved.fifo));
    for (unsigned i = 0; i < uart->fifo_count; i++) {
        saved.fifo[i] = uart->fifo[(uart->fifo_first + i) % UART_FIFO_SIZE];
    }
    state_begin(to, "UART", 1);
    state_put_fields(to, uart_fields, STATE_COUNT(uart_fields), &saved);
    state_end(to);
}

bool uart_load(struct uart *uart, struct state_reader *from)
{
    struct uart loaded = *uart;

    state_enter(from, "UART", 1);
    state_get_fields(from, uart_fields, STATE_COUNT(uart_fields), &loaded);
    loaded.fifo_first = 0;
    if ((loaded.fcr & FCR_ENABLE) == 0 && loaded.fcr != 0) {
        state_refuse(from, "field 'fcr' is 0x%02x, which needs the enable bit", loaded.fcr);
    }
    if (loaded.fifo_count > uart_fifo_capacity(&loaded)) {
        state_refuse(from, "%u bytes have been received, and there is room for %u", loaded.fifo_count,
                     uart_fifo_capacity(&loaded));
    }
    if ((loaded.msr & (uint8_t)~MSR_DELTAS) != uart_modem_status(&loaded)) {
        state_refuse(from, "field 'msr' is 0x%02x, and the lines say 0x%02x", loaded.msr, uart_modem_status(&loaded));
    }
    if (!state_leave(from)) {
        return false;
    }
    *uart = loaded;
    return true;
}

void uart_init(struct uart *uart, struct irq_wire irq, struct uart_line line)
{
    memset(uart, 0, sizeof(*uart));
    uart->irq = irq;
    uart->line = line;
    uart->dll = 1; /* 115200 baud, as a firmware leaves it */
    uart->lcr = 3;
    uart->msr = uart_modem_status(uart);
}
