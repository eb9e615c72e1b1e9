// Unit tests of the local APIC model: priorities, messages, modes, timer, state, requests from several
// threads.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/lapic.h"

#define TSC_HZ 3000000000ull
#define BUS_HZ 200000000ull

static struct lapic_time at(uint64_t ns)
{
    return (struct lapic_time){ .ns = ns, .tsc = ns * (TSC_HZ / 1000000000) };
}

static struct lapic make(uint32_t id)
{
    struct lapic l;
    struct lapic_config config = { .id = id, .bsp = id == 0, .x2apic = true, .tsc_deadline = true,
                                   .physical_width = 40, .bus_hz = BUS_HZ, .tsc_hz = TSC_HZ };

    lapic_init(&l, &config);
    return l;
}

static struct lapic_effects write_at(struct lapic *l, uint32_t offset, uint32_t value, uint64_t ns)
{
    struct lapic_effects effects;

    lapic_mmio_write(l, offset, value, at(ns), &effects);
    return effects;
}

static struct lapic_effects write_register(struct lapic *l, uint32_t offset, uint32_t value)
{
    return write_at(l, offset, value, 0);
}

static uint32_t read_register(struct lapic *l, uint32_t offset)
{
    return lapic_mmio_read(l, offset, at(0));
}

static enum lapic_result write_msr(struct lapic *l, uint32_t msr, uint64_t value)
{
    struct lapic_effects effects;

    return lapic_msr_write(l, msr, value, at(0), &effects);
}

static struct lapic make_on(uint32_t id)
{
    struct lapic l = make(id);

    write_register(&l, LAPIC_SVR, 0x1FF);
    return l;
}

static struct lapic make_x2apic(uint32_t id)
{
    struct lapic l = make_on(id);
    uint64_t base = LAPIC_DEFAULT_BASE | LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC;

    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, base), LAPIC_OK);
    return l;
}

static bool fixed(struct lapic *l, uint8_t vector, bool level)
{
    struct lapic_message m = { .vector = vector, .mode = LAPIC_FIXED, .level = level };

    return lapic_deliver(l, &m);
}

static bool accepts(const struct lapic *l, uint32_t destination, bool logical)
{
    struct lapic_message m = { .destination = destination, .logical = logical, .vector = 0x40 };

    return lapic_accepts(l, &m, LAPIC_NO_SENDER);
}

static void reset_state(void **state)
{
    struct lapic bsp = make(0), other = make(3);
    uint64_t base;

    (void)state;
    assert_int_equal(lapic_msr_read(&bsp, LAPIC_MSR_BASE, &base, at(0)), LAPIC_OK);
    assert_int_equal(base, 0xFEE00900);
    assert_int_equal(lapic_msr_read(&other, LAPIC_MSR_BASE, &base, at(0)), LAPIC_OK);
    assert_int_equal(base, 0xFEE00800);
    assert_int_equal(read_register(&other, LAPIC_ID), 0x03000000);
    assert_int_equal(read_register(&other, LAPIC_VERSION_REGISTER), 0x50014);
    assert_int_equal(read_register(&other, LAPIC_SVR), 0xFF);
    assert_int_equal(read_register(&other, LAPIC_DFR), 0xFFFFFFFF);
    assert_int_equal(read_register(&other, LAPIC_LVT_LINT0), 0x10000);
    assert_int_equal(read_register(&other, LAPIC_LVT_TIMER), 0x10000);
    assert_int_equal(read_register(&other, LAPIC_DIVIDE), 0);
    assert_int_equal(lapic_pending(&other), -1);
    assert_int_equal(lapic_timer_deadline(&other), UINT64_MAX);
    assert_true(lapic_quiet(&other));
}

static void priorities(void **state)
{
    struct lapic l = make_on(0);

    (void)state;
    assert_true(fixed(&l, 0x41, false));
    assert_false(fixed(&l, 0x41, false));       // already requested
    assert_true(fixed(&l, 0x55, false));
    assert_int_equal(lapic_pending(&l), 0x55);
    lapic_accept(&l, 0x55);
    assert_int_equal(read_register(&l, LAPIC_PPR), 0x50);
    assert_int_equal(read_register(&l, LAPIC_ISR + 0x20), 1u << (0x55 - 0x40));
    assert_int_equal(lapic_pending(&l), -1);    // 0x41 waits for the end of 0x55
    assert_true(fixed(&l, 0x5F, false));
    assert_int_equal(lapic_pending(&l), -1);    // the same class does not interrupt
    assert_true(fixed(&l, 0xFE, false));
    assert_int_equal(lapic_pending(&l), 0xFE);
    lapic_accept(&l, 0xFE);
    assert_true(write_register(&l, LAPIC_EOI, 0).interrupts);
    assert_int_equal(read_register(&l, LAPIC_PPR), 0x50);
    write_register(&l, LAPIC_EOI, 0);
    assert_int_equal(lapic_pending(&l), 0x5F);
    lapic_accept(&l, 0x5F);
    write_register(&l, LAPIC_EOI, 0);
    assert_int_equal(lapic_pending(&l), 0x41);
    lapic_accept(&l, 0x41);
    write_register(&l, LAPIC_EOI, 0);
    assert_true(lapic_quiet(&l));
    assert_false(write_register(&l, LAPIC_EOI, 0).interrupts);      // nothing in service
    assert_int_equal(read_register(&l, LAPIC_PPR), 0);
}

static void task_priority(void **state)
{
    struct lapic l = make_on(0);

    (void)state;
    fixed(&l, 0x41, false);
    lapic_set_cr8(&l, 4);
    assert_int_equal(read_register(&l, LAPIC_TPR), 0x40);
    assert_int_equal(lapic_pending(&l), -1);
    lapic_set_cr8(&l, 3);
    assert_int_equal(lapic_pending(&l), 0x41);
    assert_true(write_register(&l, LAPIC_TPR, 0xF7).interrupts);
    assert_int_equal(lapic_get_cr8(&l), 15);
    assert_int_equal(read_register(&l, LAPIC_PPR), 0xF7);
    assert_int_equal(lapic_pending(&l), -1);
}

static void level_eoi(void **state)
{
    struct lapic l = make_on(0);
    struct lapic_effects effects;

    (void)state;
    fixed(&l, 0x61, true);
    assert_int_equal(read_register(&l, LAPIC_TMR + 0x30), 2);
    lapic_accept(&l, 0x61);
    effects = write_register(&l, LAPIC_EOI, 0);
    assert_true(effects.eoi);
    assert_int_equal(effects.eoi_vector, 0x61);
    fixed(&l, 0x61, false);
    assert_int_equal(read_register(&l, LAPIC_TMR + 0x30), 0);
    lapic_accept(&l, 0x61);
    effects = write_register(&l, LAPIC_EOI, 0);
    assert_false(effects.eoi);
    assert_true(effects.interrupts);
}

static void software_disabled(void **state)
{
    struct lapic l = make(0);
    struct lapic_message m = { .mode = LAPIC_NMI };

    (void)state;
    assert_false(fixed(&l, 0x40, false));
    assert_int_equal(lapic_pending(&l), -1);
    assert_true(lapic_deliver(&l, &m));
    assert_true(lapic_take_nmi(&l));
    write_register(&l, LAPIC_LVT_LINT1, 0x400);     // cannot be unmasked
    assert_int_equal(read_register(&l, LAPIC_LVT_LINT1), 0x10400);
    write_register(&l, LAPIC_SVR, 0x1FF);
    write_register(&l, LAPIC_LVT_LINT1, 0x400);
    assert_int_equal(read_register(&l, LAPIC_LVT_LINT1), 0x400);
    fixed(&l, 0x40, false);
    write_register(&l, LAPIC_SVR, 0xFF);
    assert_int_equal(read_register(&l, LAPIC_LVT_LINT1), 0x10400);
    assert_int_equal(lapic_pending(&l), 0x40);      // what was requested before stays
}

static void physical_destinations(void **state)
{
    struct lapic l = make_on(5), x2 = make_x2apic(5);
    struct lapic_message m = { .destination = 0xFF };

    (void)state;
    assert_true(accepts(&l, 5, false));
    assert_false(accepts(&l, 4, false));
    assert_true(accepts(&l, 0xFF, false));
    assert_true(accepts(&x2, 5, false));
    assert_false(accepts(&x2, 0x105, false));
    assert_true(accepts(&x2, 0xFF, false));         // a device's broadcast
    assert_false(lapic_accepts(&x2, &m, 1));        // an x2APIC's destination 0xFF is an ID
    assert_true(accepts(&x2, LAPIC_BROADCAST, false));
    m.shorthand = LAPIC_ALL_BUT_SELF;
    assert_true(lapic_accepts(&l, &m, 1));
    assert_false(lapic_accepts(&l, &m, 5));
    m.shorthand = LAPIC_ALL;
    assert_true(lapic_accepts(&l, &m, 5));
    m.shorthand = LAPIC_SELF;
    assert_true(lapic_accepts(&l, &m, 5));
    assert_false(lapic_accepts(&l, &m, 1));
    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, LAPIC_DEFAULT_BASE), LAPIC_OK);
    assert_false(accepts(&l, 0xFF, false));         // off
}

static void logical_destinations(void **state)
{
    struct lapic l = make_on(1), x2 = make_x2apic(0x23);
    uint64_t value;

    (void)state;
    write_register(&l, LAPIC_LDR, 0x02FFFFFF);
    assert_int_equal(read_register(&l, LAPIC_LDR), 0x02000000);
    assert_true(accepts(&l, 0x02, true));
    assert_true(accepts(&l, 0x83, true));
    assert_true(accepts(&l, 0xFF, true));
    assert_false(accepts(&l, 0x81, true));
    assert_false(accepts(&l, 0, true));

    write_register(&l, LAPIC_DFR, 0);
    assert_int_equal(read_register(&l, LAPIC_DFR), 0x0FFFFFFF);
    write_register(&l, LAPIC_LDR, 0x34000000);      // cluster 3, member 2
    assert_true(accepts(&l, 0x34, true));
    assert_true(accepts(&l, 0x3F, true));
    assert_false(accepts(&l, 0x3B, true));
    assert_false(accepts(&l, 0x24, true));
    assert_true(accepts(&l, 0xFF, true));

    assert_int_equal(lapic_msr_read(&x2, 0x80D, &value, at(0)), LAPIC_OK);
    assert_int_equal(value, 0x00020008);
    assert_true(accepts(&x2, 0x00020008, true));
    assert_true(accepts(&x2, 0x0002FFFF, true));
    assert_false(accepts(&x2, 0x00020004, true));
    assert_false(accepts(&x2, 0x00010008, true));
    assert_true(accepts(&x2, LAPIC_BROADCAST, true));
}

static void interprocessor_interrupts(void **state)
{
    struct lapic l = make_on(1), x2 = make_x2apic(1);
    struct lapic_effects effects;
    uint64_t icr;

    (void)state;
    write_register(&l, LAPIC_ICR_HIGH, 0x02000000);
    effects = write_register(&l, LAPIC_ICR, 0x4051);
    assert_true(effects.ipi);
    assert_int_equal(effects.message.destination, 2);
    assert_int_equal(effects.message.vector, 0x51);
    assert_int_equal(effects.message.mode, LAPIC_FIXED);
    assert_false(effects.message.logical);
    assert_false(effects.message.level);
    assert_int_equal(read_register(&l, LAPIC_ICR), 0x4051);
    assert_int_equal(read_register(&l, LAPIC_ICR_HIGH), 0x02000000);

    write_register(&l, LAPIC_ICR_HIGH, 0xFF000000);
    assert_int_equal(write_register(&l, LAPIC_ICR, 0x4051).message.destination, LAPIC_BROADCAST);
    assert_int_equal(write_register(&l, LAPIC_ICR, 0x4851).message.destination, 0xFF);
    assert_true(write_register(&l, LAPIC_ICR, 0x4500).ipi);         // INIT
    assert_true(write_register(&l, LAPIC_ICR, 0xC500).ipi);         // INIT, level assert
    assert_false(write_register(&l, LAPIC_ICR, 0x8500).ipi);        // INIT, level de-assert
    effects = write_register(&l, LAPIC_ICR, 0xC4610);               // SIPI to all others
    assert_int_equal(effects.message.mode, LAPIC_SIPI);
    assert_int_equal(effects.message.shorthand, LAPIC_ALL_BUT_SELF);
    assert_false(write_register(&l, LAPIC_ICR, 0x4300).ipi);        // reserved delivery mode
    assert_false(write_register(&l, LAPIC_ICR, 0x44400).ipi);       // NMI to self is no valid combination

    effects = write_register(&l, LAPIC_ICR, 0x44077);               // self
    assert_false(effects.ipi);
    assert_true(effects.interrupts);
    assert_int_equal(lapic_pending(&l), 0x77);

    assert_int_equal(lapic_msr_write(&x2, 0x830, 0x1234567800004899, at(0), &effects), LAPIC_OK);
    assert_true(effects.ipi && effects.message.logical);
    assert_int_equal(effects.message.destination, 0x12345678);
    assert_int_equal(lapic_msr_read(&x2, 0x830, &icr, at(0)), LAPIC_OK);
    assert_int_equal(icr, 0x1234567800004899);
    assert_int_equal(lapic_msr_write(&x2, 0x83F, 0x88, at(0), &effects), LAPIC_OK);
    assert_true(effects.interrupts);
    assert_int_equal(lapic_pending(&x2), 0x88);
}

static void routing(void **state)
{
    struct lapic l[3] = { make_on(0), make_on(1), make_on(2) };
    struct lapic *all[4] = { &l[0], NULL, &l[1], &l[2] };
    struct lapic_message m = { .mode = LAPIC_LOWEST_PRIORITY, .vector = 0x40, .destination = 0xFF };

    (void)state;
    lapic_set_cr8(&l[0], 5);
    lapic_set_cr8(&l[1], 2);
    lapic_set_cr8(&l[2], 3);
    assert_int_equal(lapic_route(all, 4, &m, LAPIC_NO_SENDER), 1 << 2);
    assert_int_equal(lapic_route(all, 4, &m, LAPIC_NO_SENDER), 0);      // requested there already
    lapic_set_cr8(&l[2], 0);
    assert_int_equal(lapic_route(all, 4, &m, LAPIC_NO_SENDER), 1 << 3);
    write_register(&l[1], LAPIC_SVR, 0xFF);
    write_register(&l[2], LAPIC_SVR, 0xFF);
    assert_int_equal(lapic_route(all, 4, &m, LAPIC_NO_SENDER), 1 << 0);
    m.mode = LAPIC_NMI;
    m.shorthand = LAPIC_ALL_BUT_SELF;
    assert_int_equal(lapic_route(all, 4, &m, 1), 1 << 0 | 1 << 3);
    m = (struct lapic_message){ .destination = 9, .vector = 0x40, .mode = LAPIC_LOWEST_PRIORITY };
    assert_int_equal(lapic_route(all, 4, &m, LAPIC_NO_SENDER), 0);
}

static void init_and_sipi(void **state)
{
    struct lapic l = make_on(2), x2 = make_x2apic(2);
    struct lapic_message init = { .mode = LAPIC_INIT }, sipi = { .mode = LAPIC_SIPI, .vector = 0x9A };

    (void)state;
    write_register(&l, LAPIC_TPR, 0x20);
    fixed(&l, 0x41, true);
    lapic_accept(&l, 0x41);
    fixed(&l, 0x51, false);
    write_register(&l, LAPIC_LVT_TIMER, 0x20040);
    write_register(&l, LAPIC_INITIAL_COUNT, 100);
    assert_true(lapic_set_base(&l, 0xFED00800));

    assert_true(lapic_deliver(&l, &sipi));
    assert_true(lapic_deliver(&l, &init));      // forgets the SIPI before it
    assert_int_equal(lapic_take_sipi(&l), -1);
    assert_true(lapic_deliver(&l, &sipi));
    assert_true(lapic_take_init(&l));
    assert_false(lapic_take_init(&l));
    lapic_reset_init(&l);
    assert_int_equal(lapic_mmio_base(&l), 0xFED00000);
    assert_int_equal(read_register(&l, LAPIC_ID), 0x02000000);
    assert_int_equal(read_register(&l, LAPIC_TPR), 0);
    assert_int_equal(read_register(&l, LAPIC_PPR), 0);
    assert_int_equal(read_register(&l, LAPIC_SVR), 0xFF);
    assert_int_equal(read_register(&l, LAPIC_LVT_TIMER), 0x10000);
    assert_int_equal(read_register(&l, LAPIC_INITIAL_COUNT), 0);
    assert_int_equal(lapic_timer_deadline(&l), UINT64_MAX);
    assert_int_equal(lapic_pending(&l), -1);
    assert_int_equal(lapic_take_sipi(&l), 0x9A);
    assert_true(lapic_quiet(&l));

    lapic_reset_init(&x2);
    assert_true(lapic_x2apic(&x2));
}

static void modes(void **state)
{
    struct lapic l = make_on(0x21);
    struct lapic_config config = { .id = 0, .physical_width = 36, .bus_hz = BUS_HZ, .tsc_hz = TSC_HZ };
    const uint64_t off = LAPIC_DEFAULT_BASE, on = off | LAPIC_BASE_ENABLE, x2 = on | LAPIC_BASE_X2APIC;
    uint64_t value;

    (void)state;
    write_register(&l, LAPIC_LDR, 0x05000000);
    write_register(&l, LAPIC_ICR_HIGH, 0x05000000);
    write_register(&l, LAPIC_LVT_LINT0, 0x700);
    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, off | LAPIC_BASE_X2APIC), LAPIC_FAULT);
    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, on | 1 << 9), LAPIC_FAULT);
    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, on | 1ull << 40), LAPIC_FAULT);
    assert_int_equal(lapic_msr_read(&l, 0x802, &value, at(0)), LAPIC_FAULT);
    assert_int_equal(write_msr(&l, 0x808, 0), LAPIC_FAULT);
    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, x2), LAPIC_OK);
    assert_false(lapic_mmio_enabled(&l));
    assert_int_equal(lapic_msr_read(&l, 0x802, &value, at(0)), LAPIC_OK);
    assert_int_equal(value, 0x21);
    assert_int_equal(lapic_msr_read(&l, 0x830, &value, at(0)), LAPIC_OK);
    assert_int_equal(value, 0);
    assert_int_equal(lapic_msr_read(&l, 0x835, &value, at(0)), LAPIC_OK);
    assert_int_equal(value, 0x700);         // most registers stay
    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, on), LAPIC_FAULT);
    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, off | LAPIC_BASE_X2APIC), LAPIC_FAULT);
    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, off), LAPIC_OK);
    assert_false(lapic_enabled(&l));
    assert_false(fixed(&l, 0x40, false));
    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, x2), LAPIC_FAULT);
    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, on), LAPIC_OK);
    assert_int_equal(read_register(&l, LAPIC_LVT_LINT0), 0x10000);

    assert_true(lapic_set_base(&l, x2));    // the host may go anywhere
    assert_true(lapic_set_base(&l, on));
    assert_true(lapic_set_base(&l, off));
    assert_true(lapic_set_base(&l, x2));
    assert_false(lapic_set_base(&l, off | LAPIC_BASE_X2APIC));
    assert_false(lapic_set_base(&l, on | 1));

    lapic_init(&l, &config);
    assert_int_equal(write_msr(&l, LAPIC_MSR_BASE, x2), LAPIC_FAULT);
    assert_false(lapic_set_base(&l, x2));
}

static void x2apic_faults(void **state)
{
    // What each MSR does: r reads, w takes a write of `good`, and `bad` (if not 0) has reserved bits.
    static const struct {
        uint32_t msr;
        const char *can;
        uint64_t good, bad;
    } rows[] = {
        { 0x802, "r", 0, 0 },        { 0x803, "r", 0, 0 },           { 0x808, "rw", 0x20, 0x100 },
        { 0x809, "", 0, 0 },         { 0x80A, "r", 0, 0 },           { 0x80B, "w", 0, 1 },
        { 0x80C, "", 0, 0 },         { 0x80D, "r", 0, 0 },           { 0x80E, "", 0, 0 },
        { 0x80F, "rw", 0x1FF, 0x1000 },                              { 0x810, "r", 0, 0 },
        { 0x81F, "r", 0, 0 },        { 0x827, "r", 0, 0 },           { 0x828, "rw", 0, 1 },
        { 0x82F, "", 0, 0 },         { 0x830, "rw", 0x40, 1 << 13 }, { 0x831, "", 0, 0 },
        { 0x832, "rw", 0x310FF, 1 << 19 },                           { 0x833, "rw", 0x100FE, 1 << 13 },
        { 0x835, "rw", 0x1F7FF, 1 << 11 },                           { 0x837, "rw", 0x110FE, 0x100 },
        { 0x838, "rw", 7, 1ull << 32 },                              { 0x839, "r", 0, 0 },
        { 0x83E, "rw", 0xB, 4 },     { 0x83F, "w", 0x40, 0x100 },    { 0x840, "", 0, 0 },
        { 0x8FF, "", 0, 0 },
    };
    struct lapic l = make_x2apic(0);

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        bool can_read = strchr(rows[i].can, 'r'), can_write = strchr(rows[i].can, 'w');
        uint64_t value;

        assert_int_equal(lapic_msr_read(&l, rows[i].msr, &value, at(0)), can_read ? LAPIC_OK : LAPIC_FAULT);
        assert_int_equal(write_msr(&l, rows[i].msr, rows[i].good), can_write ? LAPIC_OK : LAPIC_FAULT);
        if (rows[i].bad) {
            assert_int_equal(write_msr(&l, rows[i].msr, rows[i].bad), LAPIC_FAULT);
            assert_int_equal(write_msr(&l, rows[i].msr, rows[i].good | 1ull << 32),
                             rows[i].msr == 0x830 ? LAPIC_OK : LAPIC_FAULT);
        }
    }
}

static void errors(void **state)
{
    struct lapic l = make_on(0);

    (void)state;
    write_register(&l, LAPIC_LVT_ERROR, 0xE1);
    assert_true(write_register(&l, 0x3F0, 0).interrupts);       // no such register in xAPIC mode
    assert_int_equal(read_register(&l, LAPIC_ESR), 0);          // not before it is written
    assert_int_equal(lapic_pending(&l), 0xE1);
    lapic_accept(&l, 0xE1);
    write_register(&l, LAPIC_EOI, 0);
    assert_false(write_register(&l, LAPIC_ICR, 0x4005).ipi);
    fixed(&l, 0x0F, false);
    read_register(&l, 0xFF0);
    write_register(&l, LAPIC_ESR, 0);
    assert_int_equal(read_register(&l, LAPIC_ESR),
                     LAPIC_ERROR_SEND_VECTOR | LAPIC_ERROR_RECEIVE_VECTOR | LAPIC_ERROR_REGISTER);
    write_register(&l, LAPIC_ESR, 0);
    assert_int_equal(read_register(&l, LAPIC_ESR), 0);

    lapic_accept(&l, 0xE1);
    write_register(&l, LAPIC_EOI, 0);
    write_register(&l, LAPIC_LVT_ERROR, 0x05);                  // a bad vector for the error interrupt itself
    read_register(&l, 0x000);
    write_register(&l, LAPIC_ESR, 0);
    assert_int_equal(read_register(&l, LAPIC_ESR), LAPIC_ERROR_RECEIVE_VECTOR | LAPIC_ERROR_REGISTER);
    assert_int_equal(lapic_pending(&l), -1);
    assert_int_equal(read_register(&l, LAPIC_APR), 0);          // there, but empty
    assert_int_equal(read_register(&l, LAPIC_TPR + 4), 0);
    write_register(&l, LAPIC_TPR + 4, 0xF0);
    assert_int_equal(read_register(&l, LAPIC_TPR), 0);
}

static void local_pins(void **state)
{
    struct lapic l = make_on(0);

    (void)state;
    assert_false(lapic_local_interrupt(&l, 1));
    write_register(&l, LAPIC_LVT_LINT1, 0x400);
    assert_true(lapic_local_interrupt(&l, 1));
    assert_false(lapic_local_interrupt(&l, 1));
    assert_true(lapic_take_nmi(&l));
    assert_false(lapic_take_nmi(&l));
    write_register(&l, LAPIC_LVT_LINT0, 0x43);
    assert_true(lapic_local_interrupt(&l, 0));
    assert_int_equal(lapic_pending(&l), 0x43);
    write_register(&l, LAPIC_LVT_LINT0, 0x700);
    assert_false(lapic_local_interrupt(&l, 0));
    write_msr(&l, LAPIC_MSR_BASE, LAPIC_DEFAULT_BASE);
    assert_true(lapic_local_interrupt(&l, 1));
}

static void timer_one_shot(void **state)
{
    struct lapic l = make_on(0);

    (void)state;
    write_at(&l, LAPIC_DIVIDE, 0xB, 1000);                      // by 1: 5 ns a tick
    write_at(&l, LAPIC_LVT_TIMER, 0x40, 1000);
    assert_true(write_at(&l, LAPIC_INITIAL_COUNT, 100, 1000).timer);
    assert_int_equal(lapic_timer_deadline(&l), 1500);
    assert_int_equal(lapic_mmio_read(&l, LAPIC_CURRENT_COUNT, at(1000)), 100);
    assert_int_equal(lapic_mmio_read(&l, LAPIC_CURRENT_COUNT, at(1250)), 50);
    assert_int_equal(lapic_mmio_read(&l, LAPIC_CURRENT_COUNT, at(1499)), 1);
    assert_false(lapic_timer_poll(&l, at(1499)));
    assert_true(lapic_timer_poll(&l, at(1500)));
    assert_false(lapic_timer_poll(&l, at(9999)));
    assert_int_equal(lapic_timer_deadline(&l), UINT64_MAX);
    assert_int_equal(lapic_mmio_read(&l, LAPIC_CURRENT_COUNT, at(9999)), 0);
    assert_int_equal(lapic_mmio_read(&l, LAPIC_INITIAL_COUNT, at(9999)), 100);
    assert_int_equal(lapic_pending(&l), 0x40);
    lapic_accept(&l, 0x40);

    write_at(&l, LAPIC_INITIAL_COUNT, 100, 10000);
    write_at(&l, LAPIC_DIVIDE, 0x3, 10250);                     // by 16, with 50 ticks to go
    assert_int_equal(lapic_timer_deadline(&l), 10250 + 50 * 80);
    write_at(&l, LAPIC_INITIAL_COUNT, 0, 10300);
    assert_int_equal(lapic_timer_deadline(&l), UINT64_MAX);
    write_at(&l, LAPIC_INITIAL_COUNT, UINT32_MAX, 10300);
    write_at(&l, LAPIC_DIVIDE, 0xA, 10300);                     // by 128
    assert_int_equal(lapic_timer_deadline(&l), 10300 + UINT32_MAX * 640ull);
}

static void timer_divisors(void **state)
{
    static const unsigned divisors[8] = { 2, 4, 8, 16, 32, 64, 128, 1 };

    (void)state;
    for (uint32_t i = 0; i < 8; i++) {
        struct lapic l = make_on(0);

        write_register(&l, LAPIC_LVT_TIMER, 0x40);
        write_register(&l, LAPIC_DIVIDE, (i & 4) << 1 | (i & 3));
        write_register(&l, LAPIC_INITIAL_COUNT, 1000);
        assert_int_equal(lapic_timer_deadline(&l), 5000 * divisors[i]);
    }
}

static void timer_periodic(void **state)
{
    struct lapic l = make_on(0);

    (void)state;
    write_at(&l, LAPIC_DIVIDE, 0xB, 0);
    write_at(&l, LAPIC_LVT_TIMER, 0x20040, 0);
    write_at(&l, LAPIC_INITIAL_COUNT, 200, 0);
    for (uint64_t ns = 1000; ns < 10000; ns += 1000) {
        assert_int_equal(lapic_timer_deadline(&l), ns);
        assert_true(lapic_timer_poll(&l, at(ns)));
        lapic_accept(&l, 0x40);
        write_at(&l, LAPIC_EOI, 0, ns);
    }
    // Missed periods become one interrupt, and the phase is kept.
    assert_true(lapic_timer_poll(&l, at(25500)));
    assert_int_equal(lapic_timer_deadline(&l), 26000);
    assert_int_equal(lapic_mmio_read(&l, LAPIC_CURRENT_COUNT, at(25500)), 100);
    assert_int_equal(lapic_mmio_read(&l, LAPIC_CURRENT_COUNT, at(26000)), 200);
    lapic_accept(&l, 0x40);
    write_at(&l, LAPIC_EOI, 0, 25500);

    write_at(&l, LAPIC_LVT_TIMER, 0x30040, 25600);              // masked: runs on, silently
    assert_int_equal(lapic_timer_deadline(&l), UINT64_MAX);
    assert_false(lapic_timer_poll(&l, at(31000)));
    assert_int_equal(lapic_mmio_read(&l, LAPIC_CURRENT_COUNT, at(31250)), 150);
    assert_false(write_at(&l, LAPIC_LVT_TIMER, 0x20040, 31250).interrupts);
    assert_int_equal(lapic_timer_deadline(&l), 32000);
    // An expiry that was due counts under the old entry.
    assert_true(write_at(&l, LAPIC_LVT_TIMER, 0x50, 32001).interrupts);
    assert_int_equal(lapic_pending(&l), 0x40);
    assert_int_equal(lapic_timer_deadline(&l), 33000);          // one-shot now, the count goes on
    assert_true(lapic_timer_poll(&l, at(33000)));
    assert_int_equal(lapic_pending(&l), 0x50);
    assert_int_equal(lapic_timer_deadline(&l), UINT64_MAX);
}

// A frequency that no number of ns fits: after many periods the timer is where the frequency says.
static void timer_does_not_drift(void **state)
{
    struct lapic_config config = { .id = 0, .physical_width = 40, .bus_hz = 24000123, .tsc_hz = TSC_HZ };
    struct lapic l;

    (void)state;
    lapic_init(&l, &config);
    write_register(&l, LAPIC_SVR, 0x1FF);
    write_register(&l, LAPIC_DIVIDE, 0xB);
    write_register(&l, LAPIC_LVT_TIMER, 0x20040);
    write_register(&l, LAPIC_INITIAL_COUNT, 7);
    for (unsigned i = 1; i <= 100000; i++) {
        uint64_t deadline = lapic_timer_deadline(&l);

        assert_int_equal(deadline, (7ull * i * 1000000000 + 24000122) / 24000123);
        assert_int_equal(lapic_timer_poll(&l, at(deadline)), i == 1);
    }
}

static void timer_tsc_deadline(void **state)
{
    struct lapic l = make_on(0);
    struct lapic_effects effects;
    uint64_t value;

    (void)state;
    assert_int_equal(write_msr(&l, LAPIC_MSR_TSC_DEADLINE, 9000), LAPIC_OK);    // not in this mode: ignored
    assert_int_equal(lapic_msr_read(&l, LAPIC_MSR_TSC_DEADLINE, &value, at(0)), LAPIC_OK);
    assert_int_equal(value, 0);
    write_register(&l, LAPIC_INITIAL_COUNT, 100);
    write_register(&l, LAPIC_LVT_TIMER, 0x40040);
    assert_int_equal(lapic_timer_deadline(&l), UINT64_MAX);
    assert_int_equal(lapic_msr_write(&l, LAPIC_MSR_TSC_DEADLINE, 9001, at(1000), &effects), LAPIC_OK);
    assert_true(effects.timer);
    assert_int_equal(lapic_timer_deadline(&l), 3001);
    write_at(&l, LAPIC_INITIAL_COUNT, 100, 1000);               // ignored
    assert_int_equal(lapic_mmio_read(&l, LAPIC_CURRENT_COUNT, at(1001)), 0);
    assert_int_equal(lapic_msr_read(&l, LAPIC_MSR_TSC_DEADLINE, &value, at(2000)), LAPIC_OK);
    assert_int_equal(value, 9001);
    assert_false(lapic_timer_poll(&l, at(3000)));
    assert_true(lapic_timer_poll(&l, at(3001)));
    assert_int_equal(lapic_pending(&l), 0x40);
    lapic_accept(&l, 0x40);
    assert_int_equal(lapic_msr_read(&l, LAPIC_MSR_TSC_DEADLINE, &value, at(3001)), LAPIC_OK);
    assert_int_equal(value, 0);
    assert_int_equal(lapic_timer_deadline(&l), UINT64_MAX);

    // The past: due at once. The far future: no overflow.
    lapic_msr_write(&l, LAPIC_MSR_TSC_DEADLINE, 1, at(4000), &effects);
    assert_int_equal(lapic_timer_deadline(&l), 4000);
    assert_true(lapic_timer_poll(&l, at(4000)));
    lapic_msr_write(&l, LAPIC_MSR_TSC_DEADLINE, UINT64_MAX, at(4000), &effects);
    assert_false(lapic_timer_poll(&l, at(1ull << 60)));

    // The guest moves its TSC: the deadline moves with it.
    lapic_msr_write(&l, LAPIC_MSR_TSC_DEADLINE, 30000, at(5000), &effects);
    assert_int_equal(lapic_timer_deadline(&l), 10000);
    lapic_tsc_changed(&l, (struct lapic_time){ .ns = 5000, .tsc = 0 });
    assert_int_equal(lapic_timer_deadline(&l), 15000);
    assert_false(lapic_timer_poll(&l, (struct lapic_time){ .ns = 15000, .tsc = 29999 }));
    assert_int_equal(lapic_timer_deadline(&l), 15001);          // too early by rounding: asks again, later

    write_at(&l, LAPIC_LVT_TIMER, 0x40, 5000);                  // leaving the mode disarms
    write_at(&l, LAPIC_LVT_TIMER, 0x40040, 5000);
    assert_int_equal(lapic_timer_deadline(&l), UINT64_MAX);
}

static uint32_t *slot(uint32_t *page, uint32_t offset)
{
    return page + offset / 4;
}

static struct lapic make_reader(uint32_t id, bool x2apic)
{
    struct lapic l = x2apic ? make_x2apic(id) : make_on(id);

    l.config.remote_read = true;
    return l;
}

// APM vol. 2 16.5: the vector is the register's offset / 16, the status is in bits 17:16 of the ICR.
static void remote_read(void **state)
{
    enum { DONE = 2 << 16, READ = 0x4300 };
    struct lapic l = make_reader(1, false), other = make_on(2), x2 = make_reader(1, true), plain = make_on(1);
    struct lapic *all[] = { NULL, &l, &other };
    struct lapic_effects effects;
    uint64_t value;

    (void)state;
    write_register(&other, LAPIC_LVT_TIMER, 0x20040);
    write_register(&other, LAPIC_INITIAL_COUNT, 1000);          // 10 ns a tick
    fixed(&other, 0x61, false);
    lapic_accept(&other, 0x61);

    write_register(&l, LAPIC_ICR_HIGH, 0x02000000);
    effects = write_register(&l, LAPIC_ICR, READ | LAPIC_CURRENT_COUNT >> 4);
    assert_true(effects.remote_read);
    assert_false(effects.ipi || effects.interrupts);
    assert_int_equal(read_register(&l, LAPIC_ICR), READ | 0x39);
    lapic_remote_read(&l, all, 3, &effects.message, at(4000));
    assert_int_equal(read_register(&l, LAPIC_ICR), DONE | READ | 0x39);
    assert_int_equal(read_register(&l, LAPIC_RRD), 600);
    effects = write_register(&l, LAPIC_ICR, READ | (LAPIC_ISR + 0x30) >> 4);
    lapic_remote_read(&l, all, 3, &effects.message, at(0));
    assert_int_equal(read_register(&l, LAPIC_RRD), 2);
    // Nobody answers: no status, and the data stay.
    effects = write_register(&l, LAPIC_ICR, READ | 0xFF);
    lapic_remote_read(&l, all, 3, &effects.message, at(0));
    assert_int_equal(read_register(&l, LAPIC_ICR), READ | 0xFF);
    assert_int_equal(read_register(&l, LAPIC_RRD), 2);
    assert_false(write_register(&l, LAPIC_ICR, READ | 0x80000).remote_read);    // a shorthand
    assert_false(write_register(&plain, LAPIC_ICR, READ).remote_read);
    assert_int_equal(read_register(&plain, LAPIC_RRD), 0);

    assert_int_equal(lapic_msr_write(&x2, 0x830, 0x200000000 | DONE | READ | 0x0F, at(0), &effects), LAPIC_OK);
    assert_true(effects.remote_read);
    lapic_remote_read(&x2, all, 3, &effects.message, at(0));
    assert_int_equal(lapic_msr_read(&x2, 0x830, &value, at(0)), LAPIC_OK);
    assert_int_equal(value, 0x200000000 | DONE | READ | 0x0F);
    assert_int_equal(lapic_msr_read(&x2, 0x80C, &value, at(0)), LAPIC_OK);
    assert_int_equal(value, 0x1FF);
    assert_int_equal(write_msr(&x2, 0x80C, 0), LAPIC_FAULT);
    x2.config.remote_read = false;
    assert_int_equal(lapic_msr_read(&x2, 0x80C, &value, at(0)), LAPIC_FAULT);
    assert_int_equal(write_msr(&x2, 0x830, DONE | 0x4040), LAPIC_FAULT);

    assert_true(lapic_set_register(&l, LAPIC_RRD, 0xFFFFFFFF, at(0)));
    assert_true(lapic_get_register(&l, LAPIC_RRD, &value, at(0)));
    assert_int_equal(value, 0xFFFFFFFF);
    assert_true(lapic_register_valid(&l, LAPIC_ICR, DONE, at(0)));
    assert_false(lapic_register_valid(&l, LAPIC_ICR, DONE / 2, at(0)));         // never under way
    assert_false(lapic_register_valid(&plain, LAPIC_ICR, DONE, at(0)));
    assert_false(lapic_register_valid(&plain, LAPIC_RRD, 1, at(0)));
}

static void page_round_trip(void **state)
{
    struct lapic l = make_on(2), copy = make(2);
    uint32_t page[1024], second[1024];

    (void)state;
    write_register(&l, LAPIC_TPR, 0x25);
    write_register(&l, LAPIC_LDR, 0x04000000);
    write_register(&l, LAPIC_DFR, 0);
    write_register(&l, LAPIC_LVT_LINT0, 0x8700);
    write_register(&l, LAPIC_LVT_LINT1, 0x400);
    write_register(&l, LAPIC_ICR_HIGH, 0x07000000);
    write_register(&l, LAPIC_ICR, 0x40F0);
    write_register(&l, LAPIC_DIVIDE, 0xB);
    write_register(&l, LAPIC_LVT_TIMER, 0x20042);
    write_register(&l, LAPIC_INITIAL_COUNT, 1000);
    fixed(&l, 0x61, true);
    lapic_accept(&l, 0x61);
    fixed(&l, 0x33, false);
    fixed(&l, 0xC3, true);

    lapic_get_page(&l, page, at(1000));
    assert_int_equal(*slot(page, LAPIC_ID), 0x02000000);
    assert_int_equal(*slot(page, LAPIC_VERSION_REGISTER), 0x50014);
    assert_int_equal(*slot(page, LAPIC_CURRENT_COUNT), 800);
    assert_int_equal(*slot(page, LAPIC_ISR + 0x30), 2);
    assert_int_equal(*slot(page, LAPIC_IRR + 0x60), 8);
    assert_true(lapic_set_page(&copy, page, at(50000)));
    lapic_get_page(&copy, second, at(50000));
    assert_memory_equal(page, second, sizeof(page));
    assert_int_equal(lapic_timer_deadline(&copy), 54000);
    assert_true(lapic_timer_poll(&copy, at(54000)));
    assert_int_equal(lapic_timer_deadline(&copy), 59000);
    assert_int_equal(lapic_pending(&copy), 0xC3);
    lapic_accept(&copy, 0xC3);
    assert_int_equal(write_register(&copy, LAPIC_EOI, 0).eoi_vector, 0xC3);
    assert_int_equal(write_register(&copy, LAPIC_EOI, 0).eoi_vector, 0x61);
    assert_int_equal(lapic_pending(&copy), 0x42);

    memset(page, 0, sizeof(page));      // all interrupts gone, and quiet again
    assert_true(lapic_set_page(&copy, page, at(0)));
    assert_true(lapic_quiet(&copy));
    assert_int_equal(lapic_timer_deadline(&copy), UINT64_MAX);
}

static void page_x2apic(void **state)
{
    struct lapic l = make_x2apic(0x12), copy = make_x2apic(0x12);
    uint32_t page[1024], second[1024];

    (void)state;
    assert_int_equal(write_msr(&l, 0x830, 0x00FFEE1200000440), LAPIC_OK);
    lapic_get_page(&l, page, at(0));
    assert_int_equal(*slot(page, LAPIC_ID), 0x12);
    assert_int_equal(*slot(page, LAPIC_LDR), 0x00010004);
    assert_int_equal(*slot(page, LAPIC_ICR_HIGH), 0x00FFEE12);
    assert_true(lapic_set_page(&copy, page, at(0)));
    lapic_get_page(&copy, second, at(0));
    assert_memory_equal(page, second, sizeof(page));
}

static void page_hostile(void **state)
{
    static const struct {
        uint32_t offset, value;
    } bad[] = {
        { LAPIC_TPR, 0x100 },         { LAPIC_SVR, 0x1000 },       { LAPIC_LDR, 1 },
        { LAPIC_ISR, 1 << 15 },       { LAPIC_IRR, 1 },            { LAPIC_TMR, 1 << 8 },
        { LAPIC_ESR, 0x100 },         { LAPIC_ICR, 1 << 20 },      { LAPIC_ICR_HIGH, 1 },
        { LAPIC_LVT_TIMER, 1 << 19 }, { LAPIC_LVT_ERROR, 0x100 },  { LAPIC_DIVIDE, 4 },
    };
    struct lapic l = make_on(1);
    uint32_t good[1024], page[1024], after[1024];

    (void)state;
    lapic_get_page(&l, good, at(0));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        memcpy(page, good, sizeof(page));
        *slot(page, LAPIC_SVR) = 0xFF;
        *slot(page, bad[i].offset) = bad[i].value;
        assert_false(lapic_set_page(&l, page, at(0)));
        lapic_get_page(&l, after, at(0));
        assert_memory_equal(good, after, sizeof(good));
    }

    // Any content leaves a lapic that works, whether it was taken or not.
    srand(1);
    for (unsigned round = 0; round < 3000; round++) {
        bool sparse = round & 1;

        for (size_t i = 0; i < 1024; i++) {
            page[i] = (uint32_t)rand() << 16 ^ (uint32_t)rand();
        }
        if (sparse) {       // within the reserved bits, so that it is taken
            for (uint32_t i = 0x080; i < 0x3F0; i += 16) {
                *slot(page, i) &= 0xB;
            }
            for (uint32_t i = LAPIC_ISR; i < LAPIC_ESR; i += 16) {
                *slot(page, i) = rand() & 0xFF0000;
            }
            *slot(page, LAPIC_LDR) = *slot(page, LAPIC_ICR_HIGH) = 0xAB000000;
            *slot(page, LAPIC_LVT_TIMER) = (uint32_t)rand() & 0x700FF;
            *slot(page, LAPIC_INITIAL_COUNT) = (uint32_t)rand() & 0xFF;
            *slot(page, LAPIC_CURRENT_COUNT) = (uint32_t)rand();
            *slot(page, LAPIC_SVR) = 0x1FF;
        }
        assert_int_equal(lapic_set_page(&l, page, at(round)), sparse);
        lapic_timer_poll(&l, at(round * 1000));
        for (int vector; (vector = lapic_pending(&l)) >= 0;) {
            lapic_accept(&l, (uint8_t)vector);
        }
        for (unsigned i = 0; i < 256; i++) {
            write_at(&l, LAPIC_EOI, 0, round);
        }
        assert_int_equal(read_register(&l, LAPIC_ISR + 0x50), 0);
    }
}

static void registers_by_offset(void **state)
{
    struct lapic l = make_on(3);
    uint64_t value;

    (void)state;
    assert_true(lapic_set_register(&l, LAPIC_TPR, 0x30, at(0)));
    assert_true(lapic_get_register(&l, LAPIC_TPR, &value, at(0)));
    assert_int_equal(value, 0x30);
    assert_false(lapic_set_register(&l, LAPIC_TPR, 0x100, at(0)));
    assert_false(lapic_set_register(&l, LAPIC_TPR, 1ull << 32, at(0)));
    assert_true(lapic_set_register(&l, LAPIC_ID, 0x03000000, at(0)));
    assert_false(lapic_set_register(&l, LAPIC_ID, 0x04000000, at(0)));
    assert_false(lapic_set_register(&l, LAPIC_VERSION_REGISTER, 0, at(0)));
    assert_false(lapic_get_register(&l, LAPIC_EOI, &value, at(0)));
    assert_false(lapic_set_register(&l, LAPIC_EOI, 0, at(0)));
    assert_false(lapic_set_register(&l, LAPIC_SELF_IPI, 0x40, at(0)));
    assert_false(lapic_get_register(&l, 0x000, &value, at(0)));
    assert_false(lapic_get_register(&l, 0x400, &value, at(0)));
    assert_false(lapic_get_register(&l, 0x084, &value, at(0)));

    assert_true(lapic_set_register(&l, LAPIC_ICR, 0x02000000000040F0, at(0)));
    assert_true(lapic_get_register(&l, LAPIC_ICR, &value, at(0)));
    assert_int_equal(value, 0x02000000000040F0);
    assert_false(lapic_set_register(&l, LAPIC_ICR, 0x00000001000040F0, at(0)));

    assert_true(lapic_set_register(&l, LAPIC_TPR, 0, at(0)));
    assert_true(lapic_set_register(&l, LAPIC_IRR + 0x40, 2, at(0)));
    assert_int_equal(lapic_pending(&l), 0x81);
    assert_true(lapic_set_register(&l, LAPIC_ISR + 0x40, 1, at(0)));
    assert_int_equal(lapic_pending(&l), -1);
    assert_true(lapic_get_register(&l, LAPIC_PPR, &value, at(0)));
    assert_int_equal(value, 0x80);

    // The TSC deadline may come back before the timer's mode does.
    lapic_set_tsc_deadline(&l, 6000, at(0));
    assert_true(lapic_set_register(&l, LAPIC_LVT_TIMER, 0x40040, at(0)));
    assert_int_equal(lapic_timer_deadline(&l), 2000);
    // And the LVT before the SVR.
    l = make(3);
    assert_true(lapic_set_register(&l, LAPIC_LVT_TIMER, 0x40, at(0)));
    assert_true(lapic_set_register(&l, LAPIC_INITIAL_COUNT, 100, at(0)));
    assert_int_equal(lapic_timer_deadline(&l), UINT64_MAX);
    assert_true(lapic_set_register(&l, LAPIC_SVR, 0x1FF, at(0)));
    assert_int_equal(lapic_timer_deadline(&l), 1000);
}

// --- Several threads ---

#define REQUESTS 20000
#define SENDERS 2

struct sender {
    struct lapic *l;
    uint8_t first;
    atomic_uint *handled;       // by vector
};

// Request 16 vectors in turn, each only after the one before it was handled: none may get lost.
static void *send(void *argument)
{
    struct sender *s = argument;
    struct lapic_message nmi = { .mode = LAPIC_NMI };

    for (unsigned i = 0; i < REQUESTS; i++) {
        uint8_t vector = (uint8_t)(s->first + i % 16);
        unsigned before = atomic_load(&s->handled[vector]);

        fixed(s->l, vector, i & 1);
        lapic_deliver(s->l, &nmi);
        while (atomic_load(&s->handled[vector]) == before) {
            sched_yield();
        }
    }
    return NULL;
}

static void concurrent_requests(void **state)
{
    static atomic_uint handled[256];
    struct lapic l = make_on(0);
    struct sender senders[SENDERS] = { { &l, 0x40, handled }, { &l, 0x50, handled } };
    pthread_t threads[SENDERS];
    unsigned total = 0, levels = 0;

    (void)state;
    for (unsigned i = 0; i < SENDERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, send, &senders[i]), 0);
    }
    while (total < SENDERS * REQUESTS) {
        int vector = lapic_quiet(&l) ? -1 : lapic_pending(&l);

        lapic_take_nmi(&l);
        if (vector < 0) {
            sched_yield();
            continue;
        }
        lapic_accept(&l, (uint8_t)vector);
        levels += write_register(&l, LAPIC_EOI, 0).eoi;
        total++;
        atomic_fetch_add(&handled[vector], 1);
    }
    for (unsigned i = 0; i < SENDERS; i++) {
        pthread_join(threads[i], NULL);
    }
    lapic_take_nmi(&l);
    assert_true(lapic_quiet(&l));
    assert_int_equal(levels, SENDERS * REQUESTS / 2);
    assert_int_equal(handled[0x40], REQUESTS / 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reset_state),
        cmocka_unit_test(priorities),
        cmocka_unit_test(task_priority),
        cmocka_unit_test(level_eoi),
        cmocka_unit_test(software_disabled),
        cmocka_unit_test(physical_destinations),
        cmocka_unit_test(logical_destinations),
        cmocka_unit_test(interprocessor_interrupts),
        cmocka_unit_test(routing),
        cmocka_unit_test(init_and_sipi),
        cmocka_unit_test(modes),
        cmocka_unit_test(x2apic_faults),
        cmocka_unit_test(errors),
        cmocka_unit_test(local_pins),
        cmocka_unit_test(timer_one_shot),
        cmocka_unit_test(timer_divisors),
        cmocka_unit_test(timer_periodic),
        cmocka_unit_test(timer_does_not_drift),
        cmocka_unit_test(timer_tsc_deadline),
        cmocka_unit_test(remote_read),
        cmocka_unit_test(page_round_trip),
        cmocka_unit_test(page_x2apic),
        cmocka_unit_test(page_hostile),
        cmocka_unit_test(registers_by_offset),
        cmocka_unit_test(concurrent_requests),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
