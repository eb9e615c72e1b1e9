/* test_cli_devices.c: the devices of the bulkhead command, without a partition and on a simulated clock. */
#include "bus.h"
#include "devices/debug.h"
#include "devices/ioapic.h"
#include "devices/pic.h"
#include "devices/pit.h"
#include "devices/pm.h"
#include "devices/reset.h"
#include "devices/rtc.h"
#include "devices/uart.h"
#include "timers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define MS UINT64_C(1000000)

static uint64_t simulated_now;
static uint64_t simulated_wall;

static uint64_t test_now(void)
{
    return simulated_now;
}

static uint64_t test_wall(void)
{
    return simulated_wall + simulated_now;
}

/* Lets time pass, firing timers at their deadlines. */
static void pass(struct timers *timers, uint64_t until)
{
    while (timers_next(timers) <= until) {
        if (timers_next(timers) > simulated_now) {
            simulated_now = timers_next(timers);
        }
        timers_run(timers);
    }
    simulated_now = until;
}

struct line {
    bool level;
    unsigned rises;
};

static void line_set(void *context, unsigned number, bool level)
{
    struct line *line = context;

    (void)number;
    line->rises += level && !line->level;
    line->level = level;
}

static struct irq_wire wire_to(struct line *line)
{
    return (struct irq_wire){line_set, line, 0};
}

static uint64_t echo_read(void *device, uint64_t offset, unsigned size)
{
    return *(uint32_t *)device >> (offset * 8) & (size == 4 ? 0xffffffff : (1u << size * 8) - 1);
}

static void test_bus(void **state)
{
    static uint32_t word = 0x44332211;
    struct bus bus = {0};
    const struct bus_range *clash;
    uint64_t value;

    (void)state;
    const struct bus_range bytes = {BUS_PORT, 0x100, 4, BUS_SIZE_1, &word, echo_read, NULL};
    const struct bus_range words = {BUS_PORT, 0x100, 4, BUS_SIZE_4, &word, echo_read, NULL};
    const struct bus_range mmio = {BUS_MMIO, 0x1000, 4, BUS_SIZE_4, &word, echo_read, NULL};

    assert_true(bus_claim(&bus, &bytes, &clash));
    assert_true(bus_claim(&bus, &words, &clash));
    assert_false(bus_claim(&bus, &bytes, &clash));
    assert_int_equal(clash->first, 0x100);
    assert_true(bus_claim(&bus, &mmio, &clash));
    assert_int_equal(bus_port_read(&bus, 0x101, 1), 0x22);
    assert_int_equal(bus_port_read(&bus, 0x102, 2), 0x4433);
    assert_int_equal(bus_port_read(&bus, 0x103, 2), 0xff44);
    assert_int_equal(bus_port_read(&bus, 0x100, 4), 0x44332211);
    assert_int_equal(bus_port_read(&bus, 0xffff, 4), 0xffffff00 | bus_port_read(&bus, 0xffff, 1));
    assert_int_equal(bus_port_read(&bus, 0x200, 4), 0xffffffff);
    assert_true(bus_mmio_read(&bus, 0x1000, 4, &value));
    assert_int_equal(value, 0x44332211);
    assert_false(bus_mmio_read(&bus, 0x1002, 4, &value));
    assert_int_equal(value, 0xffffffff);
}

static void test_pit_one_shot_by_port_61(void **state)
{
    struct timers timers;
    struct line line = {0};
    struct pit pit;

    (void)state;
    simulated_now = 5 * MS;
    timers_init(&timers, test_now, NULL, NULL);
    pit_init(&pit, &timers, wire_to(&line));
    /* As Linux measures the TSC: channel 2, mode 0, gate open, speaker off. */
    pit_speaker_write(&pit, 0, 1, 0x01);
    pit_write(&pit, 3, 1, 0xb0);
    pit_write(&pit, 2, 1, 0xff);
    pit_write(&pit, 2, 1, 0xff);
    assert_int_equal(pit_read(&pit, 2, 1), 0xff);
    assert_int_equal(pit_read(&pit, 2, 1), 0xff);
    uint64_t begin = simulated_now;

    simulated_now = begin + timers_scale_up(0x1234, 1000000000, PIT_HZ);
    assert_int_equal(pit_read(&pit, 2, 1), (0xffff - 0x1234) & 0xff);
    assert_int_equal(pit_read(&pit, 2, 1), (0xffff - 0x1234) >> 8);
    assert_int_equal(pit_speaker_read(&pit, 0, 1) & 0x20, 0);
    /* A closed gate stops it, an open one lets it go on. */
    pit_speaker_write(&pit, 0, 1, 0x00);
    simulated_now += 10 * MS;
    pit_speaker_write(&pit, 0, 1, 0x01);
    assert_int_equal(pit_read(&pit, 2, 1), (0xffff - 0x1234) & 0xff);
    assert_int_equal(pit_read(&pit, 2, 1), (0xffff - 0x1234) >> 8);
    simulated_now = begin + 10 * MS + timers_scale_up(0xffff, 1000000000, PIT_HZ) - 2000;
    assert_int_equal(pit_speaker_read(&pit, 0, 1) & 0x20, 0);
    simulated_now += 3000;
    assert_int_equal(pit_speaker_read(&pit, 0, 1) & 0x20, 0x20);
}

static void test_pit_periodic(void **state)
{
    struct timers timers;
    struct line line = {0};
    struct pit pit;

    (void)state;
    simulated_now = 0;
    timers_init(&timers, test_now, NULL, NULL);
    pit_init(&pit, &timers, wire_to(&line));
    pit_write(&pit, 3, 1, 0x34);
    pit_write(&pit, 0, 1, 4773 & 0xff); /* 250 Hz */
    pit_write(&pit, 0, 1, 4773 >> 8);
    line.rises = 0;
    pass(&timers, 1000 * MS);
    assert_int_equal(line.rises, PIT_HZ / 4773);
    /* A late wake-up makes up for what it missed. */
    line.rises = 0;
    simulated_now = 1020 * MS;
    pass(&timers, 1020 * MS);
    assert_int_equal(line.rises, 5);
    /* But not for a second. */
    line.rises = 0;
    simulated_now = 2020 * MS;
    pass(&timers, 2020 * MS);
    assert_true(line.rises < 20);
}

static void test_pit_modes_and_read_back(void **state)
{
    struct timers timers;
    struct line line = {0};
    struct pit pit;

    (void)state;
    simulated_now = 0;
    timers_init(&timers, test_now, NULL, NULL);
    pit_init(&pit, &timers, wire_to(&line));
    /* Mode 4, one shot, as Linux uses it for single events. */
    pit_write(&pit, 3, 1, 0x38);
    pit_write(&pit, 0, 1, 0xe8);
    pit_write(&pit, 0, 1, 0x03);
    line.rises = 0;
    pass(&timers, 100 * MS);
    assert_int_equal(line.rises, 1);
    /* Mode 3 on channel 2: the output is high for half of the period. */
    pit_speaker_write(&pit, 0, 1, 1);
    pit_write(&pit, 3, 1, 0xb6);
    pit_write(&pit, 2, 1, 0xe8);
    pit_write(&pit, 2, 1, 0x03);
    uint64_t begin = simulated_now;

    simulated_now = begin + timers_scale_up(400, 1000000000, PIT_HZ);
    assert_int_equal(pit_speaker_read(&pit, 0, 1) & 0x20, 0x20);
    simulated_now = begin + timers_scale_up(600, 1000000000, PIT_HZ);
    assert_int_equal(pit_speaker_read(&pit, 0, 1) & 0x20, 0);
    /* Read-back of status and count: status first. */
    pit_write(&pit, 3, 1, 0xc8);
    assert_int_equal(pit_read(&pit, 2, 1), 0x36);
    unsigned count = (unsigned)pit_read(&pit, 2, 1);

    count |= (unsigned)pit_read(&pit, 2, 1) << 8;
    assert_int_equal(count, 1000 - (1200 - 1000));
}

static bool intr_level;

static void on_intr(void *context, bool level)
{
    (void)context;
    intr_level = level;
}

static void pic_program(struct pic *pic)
{
    pic_init(pic, on_intr, NULL);
    intr_level = false;
    pic_master_write(pic, 0, 1, 0x11);
    pic_master_write(pic, 1, 1, 0x30);
    pic_master_write(pic, 1, 1, 0x04);
    pic_master_write(pic, 1, 1, 0x01);
    pic_slave_write(pic, 0, 1, 0x11);
    pic_slave_write(pic, 1, 1, 0x38);
    pic_slave_write(pic, 1, 1, 0x02);
    pic_slave_write(pic, 1, 1, 0x01);
}

static void test_pic(void **state)
{
    struct pic pic;

    (void)state;
    pic_program(&pic);
    /* As Linux probes: the mask reads back. */
    pic_master_write(&pic, 1, 1, 0xfb);
    assert_int_equal(pic_master_read(&pic, 1, 1), 0xfb);
    pic_set(&pic, 4, true);
    assert_false(intr_level);
    pic_master_write(&pic, 1, 1, 0x00);
    assert_true(intr_level);
    assert_int_equal(pic_acknowledge(&pic), 0x34);
    assert_false(intr_level);
    /* More urgent interrupts come through, less urgent ones wait for the end of interrupt. */
    pic_set(&pic, 6, true);
    assert_false(intr_level);
    pic_set(&pic, 0, true);
    assert_true(intr_level);
    assert_int_equal(pic_acknowledge(&pic), 0x30);
    pic_master_write(&pic, 0, 1, 0x0b);
    assert_int_equal(pic_master_read(&pic, 0, 1), 0x11);
    pic_master_write(&pic, 0, 1, 0x20);
    assert_false(intr_level);
    pic_master_write(&pic, 0, 1, 0x64);
    assert_true(intr_level);
    assert_int_equal(pic_acknowledge(&pic), 0x36);
}

static void test_pic_cascade_and_spurious(void **state)
{
    struct pic pic;

    (void)state;
    pic_program(&pic);
    pic_set(&pic, 8, true);
    pic_set(&pic, 12, true);
    assert_true(intr_level);
    assert_int_equal(pic_acknowledge(&pic), 0x38);
    pic_slave_write(&pic, 0, 1, 0x20);
    pic_master_write(&pic, 0, 1, 0x20);
    assert_true(intr_level);
    assert_int_equal(pic_acknowledge(&pic), 0x3c);
    pic_slave_write(&pic, 0, 1, 0x20);
    pic_master_write(&pic, 0, 1, 0x20);
    assert_false(intr_level);
    /* A request that goes away before the acknowledge. */
    pic_set(&pic, 5, true);
    pic_set(&pic, 5, false);
    assert_int_equal(pic_acknowledge(&pic), 0x37);
    /* A level-triggered line asks again for as long as it is up. */
    pic_level_write(&pic, 0, 1, 0x20);
    assert_int_equal(pic_level_read(&pic, 0, 1), 0x20);
    pic_set(&pic, 5, true);
    assert_int_equal(pic_acknowledge(&pic), 0x35);
    pic_master_write(&pic, 0, 1, 0x20);
    assert_true(intr_level);
    pic_set(&pic, 5, false);
    assert_false(intr_level);
}

static struct ioapic_message last_message;
static unsigned messages;

static void on_message(void *context, const struct ioapic_message *message)
{
    (void)context;
    last_message = *message;
    messages++;
}

static void ioapic_put(struct ioapic *ioapic, unsigned pin, uint64_t entry)
{
    ioapic_write(ioapic, 0x00, 4, 0x11 + pin * 2);
    ioapic_write(ioapic, 0x10, 4, entry >> 32);
    ioapic_write(ioapic, 0x00, 4, 0x10 + pin * 2);
    ioapic_write(ioapic, 0x10, 4, (uint32_t)entry);
}

static uint32_t ioapic_low(struct ioapic *ioapic, unsigned pin)
{
    ioapic_write(ioapic, 0x00, 4, 0x10 + pin * 2);
    return (uint32_t)ioapic_read(ioapic, 0x10, 4);
}

static void test_ioapic(void **state)
{
    struct ioapic ioapic;

    (void)state;
    messages = 0;
    ioapic_init(&ioapic, 2, on_message, NULL);
    ioapic_write(&ioapic, 0x00, 4, 1);
    assert_int_equal(ioapic_read(&ioapic, 0x10, 4), 0x170020);
    ioapic_write(&ioapic, 0x00, 4, 0);
    assert_int_equal(ioapic_read(&ioapic, 0x10, 4), 2u << 24);
    /* Masked at reset; an edge is kept until the pin is unmasked. */
    ioapic_set(&ioapic, 4, true);
    assert_int_equal(messages, 0);
    ioapic_put(&ioapic, 4, UINT64_C(0x0100000000000924));
    assert_int_equal(messages, 1);
    assert_int_equal(last_message.vector, 0x24);
    assert_int_equal(last_message.destination, 1);
    assert_int_equal(last_message.delivery, IOAPIC_LOWEST);
    assert_true(last_message.logical);
    assert_false(last_message.level);
    ioapic_set(&ioapic, 4, true);
    assert_int_equal(messages, 1);
    ioapic_set(&ioapic, 4, false);
    ioapic_set(&ioapic, 4, true);
    assert_int_equal(messages, 2);
    ioapic_set(&ioapic, 24, true);
    ioapic_set(&ioapic, 99, true);
    assert_int_equal(messages, 2);
}

static void test_ioapic_level(void **state)
{
    struct ioapic ioapic;

    (void)state;
    messages = 0;
    ioapic_init(&ioapic, 0, on_message, NULL);
    ioapic_put(&ioapic, 9, 0x8059);
    ioapic_set(&ioapic, 9, true);
    assert_int_equal(messages, 1);
    assert_true(last_message.level);
    assert_int_equal(ioapic_low(&ioapic, 9), 0xc059);
    /* Nothing more until the end of interrupt; then again, because the line is still up. */
    ioapic_set(&ioapic, 9, true);
    assert_int_equal(messages, 1);
    ioapic_end_of_interrupt(&ioapic, 0x58);
    assert_int_equal(messages, 1);
    ioapic_end_of_interrupt(&ioapic, 0x59);
    assert_int_equal(messages, 2);
    ioapic_set(&ioapic, 9, false);
    /* The EOI register does the same. */
    ioapic_write(&ioapic, 0x40, 4, 0x59);
    assert_int_equal(ioapic_low(&ioapic, 9), 0x8059);
    assert_int_equal(messages, 2);
    /* Remote IRR cannot be written. */
    ioapic_put(&ioapic, 9, 0xd059);
    assert_int_equal(ioapic_low(&ioapic, 9), 0x8059);
}

static char sent[256];
static unsigned sent_count, sink_room, wanted;

static void on_transmit(void *context, uint8_t byte)
{
    (void)context;
    sent[sent_count++ % sizeof(sent)] = (char)byte;
}

static unsigned on_room(void *context)
{
    (void)context;
    return sink_room;
}

static void on_wants(void *context)
{
    (void)context;
    wanted++;
}

static void uart_make(struct uart *uart, struct line *line)
{
    const struct uart_line sink = {on_transmit, on_room, on_wants, NULL};

    sent_count = 0;
    sink_room = 1000;
    wanted = 0;
    *line = (struct line){0};
    uart_init(uart, wire_to(line), sink);
}

static void test_uart_sends(void **state)
{
    struct uart uart;
    struct line line;

    (void)state;
    uart_make(&uart, &line);
    assert_int_equal(uart_read(&uart, 5, 1), 0x60);
    uart_write(&uart, 3, 1, 0x83);
    uart_write(&uart, 0, 1, 0x0c);
    assert_int_equal(uart_read(&uart, 0, 1), 0x0c);
    assert_int_equal(sent_count, 0);
    uart_write(&uart, 3, 1, 0x03);
    uart_write(&uart, 0, 1, 'A');
    assert_int_equal(sent_count, 1);
    assert_int_equal(sent[0], 'A');
    /* OUT2 gates the interrupt; enabling it while the transmitter is empty raises it; reading IIR clears
     * it. */
    uart_write(&uart, 1, 1, 0x02);
    assert_false(line.level);
    uart_write(&uart, 4, 1, 0x0b);
    assert_true(line.level);
    assert_int_equal(uart_read(&uart, 2, 1), 0x02);
    assert_false(line.level);
    assert_int_equal(uart_read(&uart, 2, 1), 0x01);
    uart_write(&uart, 0, 1, 'B');
    assert_true(line.level);
    /* Without room the transmitter is busy, and becomes free when the sink has drained. */
    sink_room = 1;
    uart_write(&uart, 0, 1, 'C');
    assert_int_equal(uart_read(&uart, 5, 1) & 0x20, 0);
    assert_false(line.level);
    sink_room = 1000;
    uart_drained(&uart);
    assert_true(line.level);
    assert_int_equal(uart_read(&uart, 5, 1) & 0x20, 0x20);
}

static void test_uart_receives(void **state)
{
    struct uart uart;
    struct line line;

    (void)state;
    uart_make(&uart, &line);
    assert_int_equal(uart_wants(&uart), 0);
    uart_write(&uart, 2, 1, 0xc7);
    assert_int_equal(uart_read(&uart, 2, 1) & 0xc0, 0xc0);
    uart_write(&uart, 4, 1, 0x0b);
    uart_write(&uart, 1, 1, 0x01);
    assert_true(wanted > 0);
    assert_int_equal(uart_wants(&uart), 16);
    uart_receive(&uart, 'x');
    assert_true(line.level);
    assert_int_equal(uart_read(&uart, 2, 1), 0xcc);
    for (unsigned i = 0; i < 13; i++) {
        uart_receive(&uart, (uint8_t)i);
    }
    assert_int_equal(uart_read(&uart, 2, 1), 0xc4);
    assert_int_equal(uart_wants(&uart), 2);
    assert_int_equal(uart_read(&uart, 5, 1) & 1, 1);
    assert_int_equal(uart_read(&uart, 0, 1), 'x');
    for (unsigned i = 0; i < 13; i++) {
        assert_int_equal(uart_read(&uart, 0, 1), i);
    }
    assert_false(line.level);
    assert_int_equal(uart_read(&uart, 5, 1) & 1, 0);
    /* One byte too many is an overrun, told once. */
    for (unsigned i = 0; i < 17; i++) {
        uart_receive(&uart, 0);
    }
    assert_int_equal(uart_read(&uart, 5, 1) & 2, 2);
    assert_int_equal(uart_read(&uart, 5, 1) & 2, 0);
    uart_write(&uart, 2, 1, 0x03);
    assert_int_equal(uart_read(&uart, 5, 1) & 1, 0);
}

static void test_uart_loop_and_polling(void **state)
{
    struct uart uart;
    struct line line;

    (void)state;
    uart_make(&uart, &line);
    /* The test by which drivers tell a UART from an empty port. */
    uart_write(&uart, 4, 1, 0x1a);
    assert_int_equal(uart_read(&uart, 6, 1) & 0xf0, 0x90);
    uart_write(&uart, 0, 1, 'L');
    assert_int_equal(sent_count, 0);
    assert_int_equal(uart_read(&uart, 0, 1), 'L');
    uart_write(&uart, 4, 1, 0x00);
    assert_int_equal(uart_read(&uart, 6, 1) & 0xf0, 0xb0);
    uart_write(&uart, 7, 1, 0x5a);
    assert_int_equal(uart_read(&uart, 7, 1), 0x5a);
    /* Polling for input without modem control. */
    assert_int_equal(uart_wants(&uart), 0);
    for (unsigned i = 0; i < 100; i++) {
        uart_read(&uart, 5, 1);
    }
    assert_int_equal(uart_wants(&uart), 1);
}

static uint8_t cmos(struct rtc *rtc, unsigned reg)
{
    rtc_write(rtc, 0, 1, reg);
    return (uint8_t)rtc_read(rtc, 1, 1);
}

static void cmos_put(struct rtc *rtc, unsigned reg, uint8_t value)
{
    rtc_write(rtc, 0, 1, reg);
    rtc_write(rtc, 1, 1, value);
}

static void test_rtc(void **state)
{
    struct timers timers;
    struct line line = {0};
    struct rtc rtc;

    (void)state;
    simulated_now = 0;
    simulated_wall = UINT64_C(951868799) * 1000 * MS; /* 29 February 2000, 23:59:59 UTC, a Tuesday */
    timers_init(&timers, test_now, NULL, NULL);
    rtc_init(&rtc, &timers, test_wall, wire_to(&line));
    rtc_describe(&rtc, 512 << 20, UINT64_C(1) << 30, 3);
    assert_int_equal(cmos(&rtc, 0x00), 0x59);
    assert_int_equal(cmos(&rtc, 0x04), 0x23);
    assert_int_equal(cmos(&rtc, 0x06), 0x03);
    assert_int_equal(cmos(&rtc, 0x07), 0x29);
    assert_int_equal(cmos(&rtc, 0x08), 0x02);
    assert_int_equal(cmos(&rtc, 0x09), 0x00);
    assert_int_equal(cmos(&rtc, 0x32), 0x20);
    assert_int_equal(cmos(&rtc, 0x0d), 0x80);
    assert_int_equal(cmos(&rtc, 0x0a) & 0x80, 0);
    simulated_now = 999 * MS;
    assert_int_equal(cmos(&rtc, 0x0a) & 0x80, 0x80);
    simulated_now = 1000 * MS;
    assert_int_equal(cmos(&rtc, 0x07), 0x01);
    assert_int_equal(cmos(&rtc, 0x08), 0x03);
    assert_int_equal(cmos(&rtc, 0x34) | cmos(&rtc, 0x35) << 8, (512 - 16) * 16);
    assert_int_equal(cmos(&rtc, 0x5b) | cmos(&rtc, 0x5c) << 8, 16384);
    assert_int_equal(cmos(&rtc, 0x5f), 2);
    /* Binary, 12 hours. */
    cmos_put(&rtc, 0x0b, 0x04);
    assert_int_equal(cmos(&rtc, 0x04), 12);
    /* Setting the clock, with updates held. */
    cmos_put(&rtc, 0x0b, 0x86);
    cmos_put(&rtc, 0x09, 31);
    cmos_put(&rtc, 0x04, 13);
    simulated_now = 5000 * MS;
    assert_int_equal(cmos(&rtc, 0x00), 0);
    cmos_put(&rtc, 0x0b, 0x06);
    simulated_now = 7000 * MS;
    assert_int_equal(cmos(&rtc, 0x00), 2);
    assert_int_equal(cmos(&rtc, 0x09), 31);
    assert_int_equal(cmos(&rtc, 0x04), 13);
}

static void test_rtc_interrupts(void **state)
{
    struct timers timers;
    struct line line = {0};
    struct rtc rtc;

    (void)state;
    simulated_now = 0;
    simulated_wall = 0;
    timers_init(&timers, test_now, NULL, NULL);
    rtc_init(&rtc, &timers, test_wall, wire_to(&line));
    cmos_put(&rtc, 0x0b, 0x42);
    pass(&timers, MS);
    assert_true(line.level);
    assert_int_equal(cmos(&rtc, 0x0c), 0xc0);
    assert_false(line.level);
    cmos_put(&rtc, 0x0b, 0x02);
    pass(&timers, 500 * MS);
    assert_false(line.level);
    cmos_put(&rtc, 0x0b, 0x12);
    pass(&timers, 999 * MS);
    assert_false(line.level);
    pass(&timers, 1000 * MS);
    assert_true(line.level);
    assert_int_equal(cmos(&rtc, 0x0c) & 0x90, 0x90);
    /* Alarm at any hour and minute, second 5. */
    cmos_put(&rtc, 0x0b, 0x22);
    cmos_put(&rtc, 0x01, 0x05);
    cmos_put(&rtc, 0x03, 0xff);
    cmos_put(&rtc, 0x05, 0xff);
    pass(&timers, 4900 * MS);
    assert_false(line.level);
    pass(&timers, 5000 * MS);
    assert_true(line.level);
    assert_int_equal(cmos(&rtc, 0x0c) & 0xa0, 0xa0);
}

static unsigned requests;
static int ended_with;

static void on_request(void *context)
{
    (void)context;
    requests++;
}

static void on_end(void *context, int code)
{
    (void)context;
    ended_with = code;
}

static void test_pm(void **state)
{
    struct timers timers;
    struct line line = {0};
    struct pm pm;

    (void)state;
    simulated_now = 1000 * MS;
    requests = 0;
    timers_init(&timers, test_now, NULL, NULL);
    pm_init(&pm, &timers, wire_to(&line), on_request, NULL);
    assert_int_equal(pm_timer_read(&pm, 0, 4), 0);
    simulated_now = 2000 * MS;
    assert_int_equal(pm_timer_read(&pm, 0, 4), PM_TIMER_HZ);
    assert_int_equal(pm_read(&pm, 4, 2) & 1, 1);
    /* The top bit of 32 changes after 10 minutes. */
    pm_write(&pm, 2, 2, 1);
    pass(&timers, UINT64_C(590) * 1000 * MS);
    assert_false(line.level);
    pass(&timers, UINT64_C(610) * 1000 * MS);
    assert_true(line.level);
    assert_int_equal(pm_read(&pm, 0, 2), 1);
    pm_write(&pm, 0, 2, 1);
    assert_false(line.level);
    /* Sleep type 1 is nothing, S5 is. */
    pm_write(&pm, 4, 2, 0x2400);
    assert_int_equal(requests, 0);
    pm_write(&pm, 4, 2, 0x2000);
    assert_int_equal(requests, 1);
}

static void test_reset_and_debug(void **state)
{
    struct reset reset;
    struct debug_exit debug_exit = {on_end, NULL};

    (void)state;
    requests = 0;
    reset_init(&reset, on_request, NULL);
    reset_control_write(&reset, 0, 1, 0x02);
    assert_int_equal(requests, 0);
    reset_control_write(&reset, 0, 1, 0x06);
    assert_int_equal(requests, 1);
    reset_system_write(&reset, 0, 1, 0x02);
    assert_int_equal(reset_system_read(&reset, 0, 1), 0x02);
    assert_int_equal(requests, 1);
    reset_system_write(&reset, 0, 1, 0x01);
    assert_int_equal(requests, 2);
    reset_keyboard_write(&reset, 0, 1, 0xd1);
    assert_int_equal(requests, 2);
    reset_keyboard_write(&reset, 0, 1, 0xfe);
    assert_int_equal(requests, 3);
    debug_exit_write(&debug_exit, 0, 1, 0x10);
    assert_int_equal(ended_with, 0x21);
    assert_int_equal(debug_console_read(NULL, 0, 1), 0xe9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bus),
        cmocka_unit_test(test_pit_one_shot_by_port_61),
        cmocka_unit_test(test_pit_periodic),
        cmocka_unit_test(test_pit_modes_and_read_back),
        cmocka_unit_test(test_pic),
        cmocka_unit_test(test_pic_cascade_and_spurious),
        cmocka_unit_test(test_ioapic),
        cmocka_unit_test(test_ioapic_level),
        cmocka_unit_test(test_uart_sends),
        cmocka_unit_test(test_uart_receives),
        cmocka_unit_test(test_uart_loop_and_polling),
        cmocka_unit_test(test_rtc),
        cmocka_unit_test(test_rtc_interrupts),
        cmocka_unit_test(test_pm),
        cmocka_unit_test(test_reset_and_debug),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
