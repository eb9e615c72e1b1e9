/* test_cli_state.c: the devices of the bulkhead command saved by one process and loaded by another, whose clock shows
 * another time: driven alike, both have to do the same from then on. And records that are damaged. */
#include "devices/ioapic.h"
#include "devices/pciconf.h"
#include "devices/pic.h"
#include "devices/pit.h"
#include "devices/pm.h"
#include "devices/reset.h"
#include "devices/rtc.h"
#include "devices/uart.h"
#include "state.h"
#include "timers.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define US UINT64_C(1000)
#define MS (1000 * US)
#define SECOND (1000 * MS)
#define HEADER 12         /* tag, version, length: 4 bytes each */
#define UART_REGISTERS 9 /* bytes of a UART's record before the FIFO */

/* The second process's host was started long after the first one's: what the devices count began before its zero. */
#define FIRST_CLOCK (UINT64_C(1000000) * SECOND)
#define WALL (UINT64_C(951868799) * SECOND + 700 * MS)

static uint64_t passed, wall_ahead, second_zero;

static uint64_t first_clock(void)
{
    return FIRST_CLOCK + passed;
}

static uint64_t second_clock(void)
{
    return passed - second_zero + 3;
}

static uint64_t wall(void)
{
    return WALL + passed + wall_ahead;
}

static uint64_t seed;

static uint32_t any(void)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 32);
}

/* A device with all that is around it. `told` is a sum over everything that it has told, and when. */
struct rig {
    struct timers timers;
    uint64_t told;
    bool level;
    unsigned room;
    union {
        struct ioapic ioapic;
        struct pciconf pciconf;
        struct pic pic;
        struct pit pit;
        struct pm pm;
        struct reset reset;
        struct rtc rtc;
        struct uart uart;
    } device;
};

static void tell(struct rig *rig, uint64_t what)
{
    rig->told = (rig->told ^ what ^ passed) * UINT64_C(0x100000001b3) + 1;
}

static void on_level(void *context, unsigned line, bool level)
{
    struct rig *rig = context;

    if (level != rig->level) {
        tell(rig, 0x100 + line * 2 + level);
    }
    rig->level = level;
}

static void on_intr(void *context, bool level)
{
    on_level(context, 1, level);
}

static void on_event(void *context)
{
    tell(context, 0x200);
}

static void on_transmit(void *context, uint8_t byte)
{
    tell(context, 0x300 + byte);
}

static unsigned on_room(void *context)
{
    return ((struct rig *)context)->room;
}

static void on_message(void *context, const struct ioapic_message *message)
{
    tell(context, (uint64_t)message->delivery << 32 | message->vector << 16 | message->destination << 8 |
                      message->logical << 1 | message->level);
}

static struct irq_wire wire(struct rig *rig)
{
    return (struct irq_wire){on_level, rig, 0};
}

/* How each device is made, and driven by one random access; the access is the same for the same A and B. */

static void ioapic_make(struct rig *rig)
{
    ioapic_init(&rig->device.ioapic, 2, on_message, rig);
}

static uint64_t ioapic_drive(struct rig *rig, uint32_t a, uint32_t b)
{
    struct ioapic *ioapic = &rig->device.ioapic;

    switch (a % 8) {
    case 0:
    case 1:
    case 2:
        ioapic_set(ioapic, a / 8 % 25, (b & 1) != 0);
        return 0;
    case 3:
        ioapic_end_of_interrupt(ioapic, (uint8_t)(0x30 + b % 4));
        return 0;
    case 4:
        ioapic_write(ioapic, 0, 4, a / 8 % 3 == 0 ? b : 0x10 + b % (2 * IOAPIC_PINS));
        return 0;
    case 5:
        ioapic_write(ioapic, 0x10, 4, (b & 0x1af00) | (0x30 + b % 4));
        return 0;
    case 6:
        return ioapic_read(ioapic, 0x10, 4);
    default:
        return ioapic_read(ioapic, b % 0x48 & ~3u, 4);
    }
}

static void pciconf_make(struct rig *rig)
{
    rig->device.pciconf = (struct pciconf){0};
}

static uint64_t pciconf_drive(struct rig *rig, uint32_t a, uint32_t b)
{
    if (a % 2 != 0) {
        pciconf_write(&rig->device.pciconf, 0, 4, b);
    }
    return pciconf_read(&rig->device.pciconf, 0, 4);
}

static void pic_make(struct rig *rig)
{
    pic_init(&rig->device.pic, on_intr, rig);
}

static uint64_t pic_drive(struct rig *rig, uint32_t a, uint32_t b)
{
    struct pic *pic = &rig->device.pic;

    switch (a % 16) {
    case 0:
        pic_master_write(pic, a / 16 % 2, 1, b);
        return 0;
    case 1:
        pic_slave_write(pic, a / 16 % 2, 1, b);
        return 0;
    case 2:
        pic_level_write(pic, a / 16 % 2, 1, b);
        return 0;
    case 3:
        return pic_master_read(pic, a / 16 % 2, 1);
    case 4:
        return pic_slave_read(pic, a / 16 % 2, 1);
    case 5:
        return pic_level_read(pic, a / 16 % 2, 1);
    case 6:
        pic_master_write(pic, 0, 1, 0x20);
        pic_slave_write(pic, 0, 1, 0x20);
        return 0;
    case 7:
    case 8:
        return pic_acknowledge(pic);
    case 10: /* automatic end of interrupt, rotating or not; special fully nested */
        pic_master_write(pic, 0, 1, 0x13);
        pic_master_write(pic, 1, 1, 0x30);
        pic_master_write(pic, 1, 1, 0x01 | (b >> 8 & 0x12));
        pic_master_write(pic, 0, 1, b & 0x80);
        return 0;
    case 9: /* not all masked */
        pic_master_write(pic, 1, 1, b & 0x51);
        pic_slave_write(pic, 1, 1, b >> 8 & 0x51);
        return 0;
    default:
        pic_set(pic, b / 2 % 17, (b & 1) != 0);
        return pic->output;
    }
}

static void pit_make(struct rig *rig)
{
    pit_init(&rig->device.pit, &rig->timers, wire(rig));
}

static uint64_t pit_drive(struct rig *rig, uint32_t a, uint32_t b)
{
    struct pit *pit = &rig->device.pit;

    switch (a % 8) {
    case 0:
    case 1:
        return pit_read(pit, b % 4, 1);
    case 2:
        pit_write(pit, 3, 1, b);
        return 0;
    case 3: /* channel 0 as an operating system uses it */
        pit_write(pit, 3, 1, a / 8 % 2 == 0 ? 0x34 : 0x30);
        pit_write(pit, 0, 1, b);
        pit_write(pit, 0, 1, b >> 8);
        return 0;
    case 4:
        pit_write(pit, b % 3, 1, b >> 8);
        return 0;
    case 5:
        pit_speaker_write(pit, 0, 1, b);
        return 0;
    case 6:
        pit_write(pit, 3, 1, 0xc0 | (b & 0x3e));
        return 0;
    default:
        return pit_speaker_read(pit, 0, 1);
    }
}

static void pm_make(struct rig *rig)
{
    pm_init(&rig->device.pm, &rig->timers, wire(rig), on_event, rig);
}

static uint64_t pm_drive(struct rig *rig, uint32_t a, uint32_t b)
{
    struct pm *pm = &rig->device.pm;

    switch (a % 8) {
    case 0:
    case 1:
        return pm_timer_read(pm, 0, 4);
    case 2:
    case 3:
    case 4:
        return pm_read(pm, b % 8, 1 + b / 8 % 2);
    case 5:
        pm_write(pm, 2, 2, b & 1);
        return 0;
    default:
        pm_write(pm, b % 8, 1 + b / 8 % 2, b >> 8);
        return 0;
    }
}

static void reset_make(struct rig *rig)
{
    reset_init(&rig->device.reset, on_event, rig);
}

static uint64_t reset_drive(struct rig *rig, uint32_t a, uint32_t b)
{
    struct reset *reset = &rig->device.reset;

    if (a % 4 == 0) {
        reset_control_write(reset, 0, 1, b);
    } else if (a % 4 == 1) {
        reset_system_write(reset, 0, 1, b);
    }
    return reset_control_read(reset, 0, 1) << 8 | reset_system_read(reset, 0, 1);
}

static void rtc_make(struct rig *rig)
{
    rtc_init(&rig->device.rtc, &rig->timers, wall, wire(rig));
    rtc_describe(&rig->device.rtc, 512 << 20, 0, 2);
}

static uint64_t rtc_drive(struct rig *rig, uint32_t a, uint32_t b)
{
    struct rtc *rtc = &rig->device.rtc;

    switch (a % 8) {
    case 0:
        rtc_write(rtc, 0, 1, b);
        return 0;
    case 1:
    case 2:
        rtc_write(rtc, 0, 1, b % 16);
        return rtc_read(rtc, 1, 1);
    case 3: /* set the calendar, or anything */
        rtc_write(rtc, 0, 1, a / 8 % 2 == 0 ? b % 14 : RTC_CENTURY);
        rtc_write(rtc, 1, 1, b >> 8);
        return 0;
    case 4: /* register B, mostly with updates */
        rtc_write(rtc, 0, 1, 0x0b);
        rtc_write(rtc, 1, 1, a / 8 % 4 == 0 ? b : b & 0x76);
        return 0;
    case 5: /* an alarm every second */
        rtc_write(rtc, 0, 1, 1 + b % 3 * 2);
        rtc_write(rtc, 1, 1, 0xff);
        return 0;
    case 6:
        rtc_write(rtc, 0, 1, 0x0c);
        return rtc_read(rtc, 1, 1);
    default:
        return rtc_read(rtc, 1, 1);
    }
}

static void uart_make(struct rig *rig)
{
    const struct uart_line line = {on_transmit, on_room, on_event, rig};

    rig->room = 1000;
    uart_init(&rig->device.uart, wire(rig), line);
}

static uint64_t uart_drive(struct rig *rig, uint32_t a, uint32_t b)
{
    struct uart *uart = &rig->device.uart;

    switch (a % 16) {
    case 0:
    case 1:
    case 2:
        uart_write(uart, b % 8, 1, b >> 8);
        return 0;
    case 3: /* FIFOs, interrupts, OUT2 */
        uart_write(uart, 3, 1, 3);
        uart_write(uart, 2, 1, 0xc1 & (b | 1));
        uart_write(uart, 4, 1, 0x0b);
        uart_write(uart, 1, 1, b >> 8);
        return 0;
    case 4:
        rig->room = b % 3 * 10;
        return 0;
    case 5:
        uart_drained(uart);
        return uart_wants(uart);
    case 6:
    case 7:
    case 8:
    case 9:
        uart_receive(uart, (uint8_t)b);
        return uart_wants(uart);
    case 10: /* polls for input */
        for (uint32_t i = 0; i < b % 40; i++) {
            (void)uart_read(uart, 5, 1);
        }
        return uart_wants(uart);
    default:
        return uart_read(uart, b % 8, 1);
    }
}

#define KIND(name, longest)                                                                                            \
    static void name##_save_rig(const struct rig *rig, struct state_writer *to)                                        \
    {                                                                                                                  \
        name##_save(&rig->device.name, to);                                                                            \
    }                                                                                                                  \
    static bool name##_load_rig(struct rig *rig, struct state_reader *from)                                            \
    {                                                                                                                  \
        return name##_load(&rig->device.name, from);                                                                   \
    }                                                                                                                  \
    static const struct kind name##_kind = {name##_make, name##_drive, name##_save_rig, name##_load_rig, longest};

struct kind {
    void (*make)(struct rig *rig);
    uint64_t (*drive)(struct rig *rig, uint32_t a, uint32_t b);
    void (*save)(const struct rig *rig, struct state_writer *to);
    bool (*load)(struct rig *rig, struct state_reader *from);
    uint64_t longest; /* what goes by between two accesses at most: some of its periods */
};

KIND(ioapic, US)
KIND(pciconf, US)
KIND(pic, US)
KIND(pit, 100 * MS)
KIND(pm, 700 * SECOND)
KIND(reset, US)
KIND(rtc, 1500 * MS)
KIND(uart, US)

static void rig_make(struct rig *rig, const struct kind *kind, uint64_t (*clock)(void))
{
    memset(rig, 0, sizeof(*rig));
    timers_init(&rig->timers, clock, NULL, NULL);
    kind->make(rig);
}

/* The next deadline as a value of `passed`. */
static uint64_t rig_next(const struct rig *rig)
{
    uint64_t next = timers_next(&rig->timers);

    return next == TIMERS_NEVER ? next : next - timers_now(&rig->timers) + passed;
}

/* Lets time go by for COUNT rigs, which fire at their deadlines; or all at its end, as when the host was busy. */
static void let_pass(struct rig **rigs, unsigned count, uint64_t ns, bool late)
{
    uint64_t until = passed + ns;

    for (;;) {
        uint64_t next = until;

        for (unsigned i = 0; i < count && !late; i++) {
            uint64_t at = timers_next(&rigs[i]->timers) <= timers_now(&rigs[i]->timers) ? passed : rig_next(rigs[i]);

            next = at < next ? at : next;
        }
        passed = next;
        for (unsigned i = 0; i < count; i++) {
            timers_run(&rigs[i]->timers);
        }
        if (next == until) {
            return;
        }
    }
}

static void rig_step(const struct kind *kind, struct rig **rigs, unsigned count, uint64_t *values)
{
    uint32_t a = any() >> 3, b = any();
    uint64_t ns = any() % 4 == 0 ? any() % kind->longest : any() % (20 * US);

    if (kind->longest > SECOND && any() % 4 == 0) {
        ns = (uint64_t)any() * 1000 % kind->longest;
    }
    let_pass(rigs, count, ns, any() % 16 == 0);
    for (unsigned i = 0; i < count; i++) {
        values[i] = kind->drive(rigs[i], a, b);
    }
}

static void rig_save(const struct kind *kind, const struct rig *rig, struct state_writer *to)
{
    struct error err;

    state_writer_init(to);
    kind->save(rig, to);
    assert_true(state_writer_complete(to, &err));
}

static bool rig_load(const struct kind *kind, struct rig *rig, const uint8_t *data, size_t size, struct error *err)
{
    struct state_reader from;

    /* A copy of just this size: a read beyond its end is one beyond an allocation. */
    uint8_t *copy = malloc(size + (size == 0));

    assert_non_null(copy);
    memcpy(copy, data, size);
    state_reader_init(&from, copy, size, err);
    bool good = kind->load(rig, &from);

    assert_true(good != from.failed);
    assert_true(!good || from.at <= size);
    free(copy);
    return good;
}

/* What two rigs have in common: how long until each acts, what they hold and what they have told. */
static void assert_alike(const struct kind *kind, struct rig **rigs)
{
    struct state_writer first, second;
    uint64_t now = timers_now(&rigs[0]->timers);
    uint64_t next = timers_next(&rigs[0]->timers);

    assert_int_equal(rigs[0]->told, rigs[1]->told);
    assert_int_equal(rigs[0]->level, rigs[1]->level);
    if (next != TIMERS_NEVER && next < now) {
        assert_true(timers_next(&rigs[1]->timers) <= timers_now(&rigs[1]->timers));
    } else {
        assert_int_equal(rig_next(rigs[0]), rig_next(rigs[1]));
    }
    rig_save(kind, rigs[0], &first);
    rig_save(kind, rigs[1], &second);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    state_writer_free(&first);
    state_writer_free(&second);
}

static const struct kind *kind_of(void **state)
{
    return *state;
}

/* Time goes by without the timers having been looked at when the state is taken, now and then. */
static void drive_alone(const struct kind *kind, struct rig *rig, unsigned steps)
{
    uint64_t value;

    for (unsigned i = 0; i < steps; i++) {
        rig_step(kind, &rig, 1, &value);
    }
    if (any() % 4 == 0) {
        passed += any() % kind->longest;
    }
}

static void test_goes_on(void **state)
{
    const struct kind *kind = kind_of(state);

    for (unsigned round = 0; round < 60; round++) {
        struct rig first, second, *rigs[2] = {&first, &second};
        struct state_writer saved;
        struct error err = {0};
        uint64_t values[2] = {0};

        seed = round;
        passed = 0;
        rig_make(&first, kind, first_clock);
        drive_alone(kind, &first, any() % 300);
        rig_save(kind, &first, &saved);
        second_zero = passed;
        rig_make(&second, kind, second_clock);
        /* It need not be new either. */
        if (round % 2 != 0) {
            struct rig *only = &second;
            uint64_t value;

            for (unsigned i = 0; i < 20; i++) {
                uint64_t before = passed;

                rig_step(kind, &only, 1, &value);
                passed = before;
            }
        }
        second.level = first.level;
        second.room = first.room;
        second.told = first.told;
        if (!rig_load(kind, &second, saved.data, saved.size, &err)) {
            fail_msg("round %u: %s", round, err.text);
        }
        state_writer_free(&saved);
        assert_alike(kind, rigs);
        for (unsigned i = 0; i < 300; i++) {
            rig_step(kind, rigs, 2, values);
            if (values[0] != values[1]) {
                fail_msg("round %u, step %u: 0x%" PRIx64 " and 0x%" PRIx64, round, i, values[0], values[1]);
            }
            assert_alike(kind, rigs);
        }
    }
}

/* The record of a device that has been used for a while. */
static void record_of(const struct kind *kind, uint64_t number, struct state_writer *saved)
{
    struct rig rig;

    seed = number;
    passed = 0;
    rig_make(&rig, kind, first_clock);
    drive_alone(kind, &rig, 200);
    rig_save(kind, &rig, saved);
}

/* Loads into a fresh device, which is as it was if that is refused, and stands everything if it is not. */
static bool load_damaged(const struct kind *kind, const uint8_t *data, size_t size, struct error *err)
{
    struct rig rig, before, *rigs[1] = {&rig};
    uint64_t value;

    second_zero = passed;
    memset(err, 0, sizeof(*err));
    memset(&before, 0, sizeof(before));
    rig_make(&rig, kind, second_clock);
    memcpy(&before, &rig, sizeof(rig));
    if (!rig_load(kind, &rig, data, size, err)) {
        assert_memory_equal(&rig, &before, sizeof(rig));
        assert_int_equal(err->code, EXIT_FAILED);
        assert_memory_equal(err->text, "saved state: record '", 21);
        return false;
    }
    assert_int_equal(err->code, 0);
    for (unsigned i = 0; i < 12; i++) {
        rig_step(kind, rigs, 1, &value);
    }
    return true;
}

static void test_truncated(void **state)
{
    const struct kind *kind = kind_of(state);
    struct state_writer saved;
    struct error err;

    record_of(kind, 1, &saved);
    assert_true(load_damaged(kind, saved.data, saved.size, &err));
    for (size_t size = 0; size < saved.size; size++) {
        assert_false(load_damaged(kind, saved.data, size, &err));
        if (size >= HEADER) {
            /* With a length that says so, it is a field that is missing. */
            uint8_t length = saved.data[8], more = saved.data[9];

            saved.data[8] = (uint8_t)(size - HEADER);
            saved.data[9] = (uint8_t)((size - HEADER) >> 8);
            assert_false(load_damaged(kind, saved.data, size, &err));
            assert_non_null(strstr(err.text, "it ends before its field '"));
            saved.data[8] = length;
            saved.data[9] = more;
        }
    }
    state_writer_free(&saved);
}

static void test_flipped(void **state)
{
    const struct kind *kind = kind_of(state);
    struct state_writer saved;
    struct error err;
    unsigned refused = 0;

    for (unsigned round = 0; round < 12; round++) {
        record_of(kind, 100 + round, &saved);
        for (size_t i = 0; i < saved.size; i++) {
            uint8_t right = saved.data[i];

            saved.data[i] ^= (uint8_t)(round < 8 ? 1u << round : 1 + any() % 255);
            refused += !load_damaged(kind, saved.data, saved.size, &err);
            saved.data[i] = right;
        }
        state_writer_free(&saved);
    }
    assert_true(refused >= 12 * HEADER - 12);
}

static void test_header(void **state)
{
    const struct kind *kind = kind_of(state);
    struct state_writer saved;
    struct error err;
    char text[128];

    record_of(kind, 2, &saved);
    memcpy(text, saved.data, 4);
    saved.data[0] ^= 0x80;
    assert_false(load_damaged(kind, saved.data, saved.size, &err));
    assert_non_null(strstr(err.text, "' is in its place"));
    saved.data[0] ^= 0x80;
    for (unsigned version = 0; version <= 2; version += 2) {
        saved.data[4] = (uint8_t)version;
        assert_false(load_damaged(kind, saved.data, saved.size, &err));
        snprintf(text + 4, sizeof(text) - 4, "': it is of version %u, and versions 1 to 1 are known", version);
        assert_non_null(strstr(err.text, text));
    }
    saved.data[4] = 1;
    /* One byte more than it needs. */
    state_put(&saved, 1, 0);
    assert_true(load_damaged(kind, saved.data, saved.size, &err));
    state_end(&saved);
    assert_false(load_damaged(kind, saved.data, saved.size, &err));
    assert_non_null(strstr(err.text, "it has 1 bytes too many"));
    state_writer_free(&saved);
}

/* What KIND's device holds is saved as it is, and refused by a fresh one with TEXT. */
static void refused(const struct kind *kind, const struct rig *rig, const char *text)
{
    struct state_writer saved;
    struct error err;

    rig_save(kind, rig, &saved);
    assert_false(load_damaged(kind, saved.data, saved.size, &err));
    if (strstr(err.text, text) == NULL) {
        fail_msg("'%s' instead of '%s'", err.text, text);
    }
    state_writer_free(&saved);
}

/* Values that are lawful one by one and not together, or that no access can bring about. */
static void test_unlawful(void **state)
{
    struct rig rig;

    (void)state;
    passed = SECOND;
    rig_make(&rig, &uart_kind, first_clock);
    rig.device.uart.fifo_count = 2;
    refused(&uart_kind, &rig, "record 'UART': 2 bytes have been received, and there is room for 1");
    rig_make(&rig, &uart_kind, first_clock);
    rig.device.uart.fcr = 0xc0;
    refused(&uart_kind, &rig, "needs the enable bit");
    rig.device.uart.fcr = 0xc3;
    refused(&uart_kind, &rig, "field 'fcr' is 0xc3, and only the bits 0xc9 can be set");
    rig_make(&rig, &uart_kind, first_clock);
    rig.device.uart.msr = 0;
    refused(&uart_kind, &rig, "the lines say 0xb0");
    rig_make(&rig, &pic_kind, first_clock);
    rig.device.pic.chip[1].level = 0x01;
    refused(&pic_kind, &rig, "can only be edge-triggered");
    rig_make(&rig, &pic_kind, first_clock);
    rig.device.pic.chip[0].init_step = 1;
    refused(&pic_kind, &rig, "'init_step'");
    rig_make(&rig, &ioapic_kind, first_clock);
    rig.device.ioapic.entry[5] = 0x1000;
    refused(&ioapic_kind, &rig, "entry 5 is 0x1000");
    rig.device.ioapic.entry[5] = 0x4000;
    refused(&ioapic_kind, &rig, "entry 5 is 0x4000");
    rig_make(&rig, &pit_kind, first_clock);
    rig.device.pit.channel[0].running = true;
    refused(&pit_kind, &rig, "a channel counts without a count");
    rig.device.pit.channel[0].loaded = true;
    refused(&pit_kind, &rig, "channel 0 counts, and its timer is not set");
    timer_set(&rig.device.pit.timer, 0);
    rig.device.pit.channel[0].start = first_clock();
    rig.device.pit.risen = 100;
    refused(&pit_kind, &rig, "channel 0 has counted 0, and has had its interrupt for 100");
    rig.device.pit.channel[0].ticks_before = 200;
    refused(&pit_kind, &rig, "always open");
    rig_make(&rig, &pit_kind, first_clock);
    timer_set(&rig.device.pit.timer, 0);
    refused(&pit_kind, &rig, "channel 0 stands, and its timer is set");
    rig_make(&rig, &pm_kind, first_clock);
    rig.device.pm.overflows_seen = 1;
    refused(&pm_kind, &rig, "has changed its top bit 0 times");
    rig.device.pm.control = 0;
    refused(&pm_kind, &rig, "ACPI mode");
    rig_make(&rig, &reset_kind, first_clock);
    rig.device.reset.system = 0;
    refused(&reset_kind, &rig, "A20");
    rig_make(&rig, &rtc_kind, first_clock);
    rig.device.rtc.memory[0x0a] = 0xa6;
    refused(&rtc_kind, &rig, "register A");
    rig_make(&rig, &rtc_kind, first_clock);
    timer_set(&rig.device.rtc.periodic, first_clock() + 1);
    refused(&rtc_kind, &rig, "the next periodic interrupt is 1 ns away");
    rig.device.rtc.memory[0x0b] = 0x42;
    timer_set(&rig.device.rtc.periodic, first_clock() + SECOND);
    refused(&rtc_kind, &rig, "the period has 976562");
    rig_make(&rig, &rtc_kind, first_clock);
    timer_set(&rig.device.rtc.second, first_clock());
    refused(&rtc_kind, &rig, "an update is late that nobody waits for");
    rig_make(&rig, &rtc_kind, first_clock);
    rig.device.rtc.offset = INT64_MAX / 2;
    refused(&rtc_kind, &rig, "field 'ahead'");
    /* No device can be made to hold this, so it is put into the record. */
    struct state_writer saved;
    struct error err;

    rig_make(&rig, &uart_kind, first_clock);
    rig_save(&uart_kind, &rig, &saved);
    saved.data[HEADER + UART_REGISTERS] = 17;
    assert_false(load_damaged(&uart_kind, saved.data, saved.size, &err));
    assert_string_equal(err.text, "saved state: record 'UART': field 'fifo_count' is 17, which is not in 0 to 16");
    state_writer_free(&saved);
}

/* Three hours later the calendar is three hours on, and the next update comes with the host's second. */
static void test_rtc_hours_later(void **state)
{
    struct state_writer saved;
    struct error err;
    struct rig first, second;

    (void)state;
    passed = 0;
    rig_make(&first, &rtc_kind, first_clock);
    rtc_write(&first.device.rtc, 0, 1, 0x0b);
    rtc_write(&first.device.rtc, 1, 1, 0x52); /* periodic and update interrupts */
    passed = 400 * US;
    rig_save(&rtc_kind, &first, &saved);
    passed = 10 * MS;
    wall_ahead = 3 * 3600 * SECOND + 250 * MS;
    second_zero = passed;
    rig_make(&second, &rtc_kind, second_clock);
    assert_true(rig_load(&rtc_kind, &second, saved.data, saved.size, &err));
    assert_int_equal(timer_left(&second.device.rtc.periodic), SECOND / 1024 - 400 * US);
    assert_int_equal(timer_left(&second.device.rtc.second), 40 * MS);
    rtc_write(&second.device.rtc, 0, 1, 0x04);
    assert_int_equal(rtc_read(&second.device.rtc, 1, 1), 0x02); /* it was 23:59:59 */
    wall_ahead = 0;
    state_writer_free(&saved);
}

/* A calendar that a guest has set beyond its end, or before its beginning, stays inside. */
static void test_rtc_calendar(void **state)
{
    struct rig rig;
    struct rtc *rtc = &rig.device.rtc;

    (void)state;
    passed = 0;
    rig_make(&rig, &rtc_kind, first_clock);
    rtc_write(rtc, 0, 1, 0x0b);
    rtc_write(rtc, 1, 1, 0x06);
    for (unsigned i = 0; i < 1000; i++) {
        rtc_write(rtc, 0, 1, i % 2 == 0 ? 0x09 : 0x08);
        rtc_write(rtc, 1, 1, 0xff);
        rtc_write(rtc, 0, 1, RTC_CENTURY);
        assert_true(rtc_read(rtc, 1, 1) < 100);
    }
    rtc_write(rtc, 0, 1, RTC_CENTURY);
    rtc_write(rtc, 1, 1, 18);
    rtc_write(rtc, 0, 1, 0x09);
    rtc_write(rtc, 1, 1, 50);
    assert_int_equal(rtc_read(rtc, 1, 1), 50);
    rtc_write(rtc, 0, 1, RTC_CENTURY);
    assert_int_equal(rtc_read(rtc, 1, 1), 18);
}

/* Timers that stand still, and go on with or without the time that they stood. */
static void test_timers_stop(void **state)
{
    struct rig rig;

    (void)state;
    passed = 0;
    rig_make(&rig, &pm_kind, first_clock);
    passed = SECOND;
    assert_int_equal(pm_timer_read(&rig.device.pm, 0, 4), PM_TIMER_HZ);
    pm_write(&rig.device.pm, 2, 2, 1);
    uint64_t left = timer_left(&rig.device.pm.overflow);

    timers_stop(&rig.timers);
    passed = 2000 * SECOND;
    assert_int_equal(timers_next(&rig.timers), TIMERS_NEVER);
    timers_run(&rig.timers);
    assert_int_equal(pm_timer_read(&rig.device.pm, 0, 4), PM_TIMER_HZ);
    assert_int_equal(timer_left(&rig.device.pm.overflow), left);
    timers_start(&rig.timers, false);
    assert_int_equal(pm_timer_read(&rig.device.pm, 0, 4), PM_TIMER_HZ);
    assert_int_equal(timer_left(&rig.device.pm.overflow), left);
    assert_int_equal(timers_next_on_clock(&rig.timers), first_clock() + left);
    assert_false(rig.level);
    timers_stop(&rig.timers);
    passed += 700 * SECOND;
    timers_start(&rig.timers, true);
    assert_int_equal(pm_timer_read(&rig.device.pm, 0, 4), (uint32_t)(701 * (uint64_t)PM_TIMER_HZ));
    timers_run(&rig.timers);
    assert_true(rig.level);
}

/* Wraps the C library's realloc for this program (see meson.build). */
void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);

static unsigned reallocs_left = UINT32_MAX;

void *__wrap_realloc(void *old, size_t size)
{
    return reallocs_left == 0 ? NULL : (reallocs_left--, __real_realloc(old, size));
}

static void test_writer_without_memory(void **state)
{
    struct error err = {0};
    unsigned failures = 0;
    bool complete = false;

    (void)state;
    for (unsigned reallocs = 0; !complete; reallocs++) {
        struct rig rig;
        struct state_writer to;

        passed = 0;
        rig_make(&rig, &ioapic_kind, first_clock);
        state_writer_init(&to);
        reallocs_left = reallocs;
        for (unsigned i = 0; i < 20; i++) {
            ioapic_save(&rig.device.ioapic, &to);
        }
        reallocs_left = UINT32_MAX;
        complete = state_writer_complete(&to, &err);
        if (!complete) {
            assert_string_equal(err.text, "the host gives no memory for the state of the machine");
            failures++;
        }
        state_writer_free(&to);
    }
    assert_true(failures > 1);
}

/* What has failed stays so: nothing more is read, and the first error is the one that is told. */
static void test_reader_fails_once(void **state)
{
    static const uint8_t bytes[] = {'T', 'E', 'S', 'T', 1, 0, 0, 0, 3, 0, 0, 0, 0x11, 0x22, 0x33,
                                    'M', 'O', 'R', 'E', 1, 0, 0, 0, 0, 0, 0, 0};
    struct state_reader from;
    struct error err = {0};

    (void)state;
    state_reader_init(&from, bytes, sizeof(bytes), &err);
    assert_int_equal(state_enter(&from, "TEST", 3), 1);
    assert_int_equal(state_get(&from, 2, "first"), 0x2211);
    assert_int_equal(state_get(&from, 2, "second"), 0);
    assert_string_equal(err.text, "saved state: record 'TEST': it ends before its field 'second' does");
    assert_int_equal(state_get(&from, 1, "third"), 0);
    assert_false(state_refuse(&from, "something else"));
    assert_false(state_leave(&from));
    assert_int_equal(state_enter(&from, "MORE", 1), 0);
    assert_string_equal(err.text, "saved state: record 'TEST': it ends before its field 'second' does");
    state_reader_init(&from, NULL, 0, &err);
    assert_int_equal(state_enter(&from, "TEST", 1), 0);
    assert_string_equal(err.text, "saved state: record 'TEST': the end comes before it does");
}

#define TEST_OF(kind, test) {#kind " " #test, test, NULL, NULL, (void *)(uintptr_t)&kind##_kind}
#define TESTS_OF(kind)                                                                                                 \
    TEST_OF(kind, test_goes_on), TEST_OF(kind, test_truncated), TEST_OF(kind, test_flipped), TEST_OF(kind, test_header)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TESTS_OF(ioapic),
        TESTS_OF(pciconf),
        TESTS_OF(pic),
        TESTS_OF(pit),
        TESTS_OF(pm),
        TESTS_OF(reset),
        TESTS_OF(rtc),
        TESTS_OF(uart),
        cmocka_unit_test(test_unlawful),
        cmocka_unit_test(test_rtc_hours_later),
        cmocka_unit_test(test_rtc_calendar),
        cmocka_unit_test(test_timers_stop),
        cmocka_unit_test(test_writer_without_memory),
        cmocka_unit_test(test_reader_fails_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
