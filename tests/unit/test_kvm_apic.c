// Unit tests of the kvm engine's local APICs with a kernel that is made up: what is asked of it, what its
// refusals do, and that the state has the form and the rules of the soft engine's.
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/apic.h"
#include "engine/kvm/ioctl.h"
#include "engine/soft/lapic.h"

#define VM 100
#define PROCESSOR 200
#define XAPIC_BASE (0xFEE00000u | 1u << 11)
#define X2APIC_BASE (XAPIC_BASE | 1u << 10)

// ---- The kernel -------------------------------------------------------------------------------------------

static struct {
    unsigned calls, fail_at;            // the call that fails, from 1
    int error;                          // minus an errno
    unsigned caps, messages, tables, nmis, sets;
    struct kvm_enable_cap cap[8];
    struct kvm_msi message[8];
    int answer[8];                      // to each message
    struct kvm_irq_routing_entry route[512];
    unsigned routes;
    struct kvm_lapic_state lapic;
} kernel;

static uint32_t reg(uint32_t offset)
{
    uint32_t value;
    memcpy(&value, kernel.lapic.regs + offset, sizeof value);
    return value;
}

static void set_reg(uint32_t offset, uint32_t value)
{
    memcpy(kernel.lapic.regs + offset, &value, sizeof value);
}

static int answer_vm(unsigned long request, void *argument)
{
    switch (request) {
    case KVM_ENABLE_CAP:
        kernel.cap[kernel.caps++] = *(struct kvm_enable_cap *)argument;
        return 0;
    case KVM_SIGNAL_MSI:
        kernel.message[kernel.messages] = *(struct kvm_msi *)argument;
        return kernel.answer[kernel.messages++];
    case KVM_SET_GSI_ROUTING: {
        struct kvm_irq_routing *table = argument;
        kernel.tables++;
        kernel.routes = table->nr;
        memcpy(kernel.route, table->entries, table->nr * sizeof table->entries[0]);
        return 0;
    }
    }
    return -ENOTTY;
}

static int answer_processor(unsigned long request, void *argument)
{
    switch (request) {
    case KVM_GET_LAPIC:
        memcpy(argument, &kernel.lapic, sizeof kernel.lapic);
        return 0;
    case KVM_SET_LAPIC:
        kernel.sets++;
        memcpy(&kernel.lapic, argument, sizeof kernel.lapic);
        return 0;
    case KVM_NMI:
        kernel.nmis++;
        return 0;
    }
    return -ENOTTY;
}

int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument);

int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument)
{
    assert_true(fd == VM || fd == PROCESSOR);
    if (++kernel.calls == kernel.fail_at)
        return kernel.error;
    return fd == VM ? answer_vm(request, argument) : answer_processor(request, argument);
}

static struct kvm_apic make(bool x2apic)
{
    struct kvm_apic a;
    memset(&kernel, 0, sizeof kernel);
    assert_ok(kvm_apic_setup(&a, VM, x2apic ? WHvX64LocalApicEmulationModeX2Apic
                                            : WHvX64LocalApicEmulationModeXApic, 5));
    memset(&kernel, 0, sizeof kernel);
    return a;
}

// ---- Set-up -----------------------------------------------------------------------------------------------

static void test_setup(void **state)
{
    (void)state;
    struct kvm_apic a;
    memset(&kernel, 0, sizeof kernel);
    assert_ok(kvm_apic_setup(&a, VM, WHvX64LocalApicEmulationModeX2Apic, 5));
    assert_int_equal(kernel.caps, 4);
    assert_int_equal(kernel.cap[0].cap, KVM_CAP_SPLIT_IRQCHIP);
    assert_int_equal(kernel.cap[0].args[0], 480);
    assert_int_equal(kernel.cap[1].cap, KVM_CAP_DISABLE_QUIRKS);
    assert_int_equal(kernel.cap[1].args[0], KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE);
    assert_int_equal(kernel.cap[2].cap, KVM_CAP_X2APIC_API);
    assert_int_equal(kernel.cap[2].args[0], 11);
    assert_int_equal(kernel.cap[3].cap, KVM_CAP_X86_APIC_BUS_CYCLES_NS);
    assert_int_equal(kernel.cap[3].args[0], 5);
    kvm_apic_destroy(&a);

    // An older kernel will do, and nothing is asked for that is not needed.
    memset(&kernel, 0, sizeof kernel);
    kernel.fail_at = 3;
    kernel.error = -EINVAL;
    assert_ok(kvm_apic_setup(&a, VM, WHvX64LocalApicEmulationModeX2Apic, 1));
    assert_int_equal(kernel.calls, 4);
    assert_int_equal(kernel.caps, 3);
    assert_int_equal(kernel.cap[2].args[0], 3);
    kvm_apic_destroy(&a);
    memset(&kernel, 0, sizeof kernel);
    assert_ok(kvm_apic_setup(&a, VM, WHvX64LocalApicEmulationModeXApic, 1));
    assert_int_equal(kernel.caps, 2);
    assert_int_equal(kernel.cap[0].args[0], 240);
    kvm_apic_destroy(&a);

    for (unsigned n = 1; n <= 4; n++) {
        memset(&kernel, 0, sizeof kernel);
        kernel.fail_at = n;
        kernel.error = n % 2 ? -ENOMEM : -EINVAL;
        assert_hr(kvm_apic_setup(&a, VM, WHvX64LocalApicEmulationModeX2Apic, 5),
                  n % 2 ? E_OUTOFMEMORY : E_FAIL);
        assert_int_equal(kernel.calls, n);
    }
}

// ---- Requests ---------------------------------------------------------------------------------------------

static WHV_INTERRUPT_CONTROL control(WHV_INTERRUPT_TYPE type, bool logical, bool level, uint32_t destination,
                                     uint32_t vector)
{
    WHV_INTERRUPT_CONTROL interrupt;
    memset(&interrupt, 0, sizeof interrupt);
    interrupt.Type = type;
    interrupt.DestinationMode = logical ? WHvX64InterruptDestinationModeLogical
                                        : WHvX64InterruptDestinationModePhysical;
    interrupt.TriggerMode = level ? WHvX64InterruptTriggerModeLevel : WHvX64InterruptTriggerModeEdge;
    interrupt.Destination = destination;
    interrupt.Vector = vector;
    return interrupt;
}

static void test_messages(void **state)
{
    (void)state;
    static const struct {
        bool x2apic;
        WHV_INTERRUPT_TYPE type;
        bool logical;
        uint32_t destination, vector;
        unsigned count;
        struct { uint32_t low, high, data; } expected[2];
    } cases[] = {
        { false, WHvX64InterruptTypeFixed, false, 3, 0x41, 1, { { 0xFEE03000, 0, 0x4041 } } },
        { false, WHvX64InterruptTypeFixed, true, 3, 0x41, 1, { { 0xFEE03004, 0, 0x4041 } } },
        { false, WHvX64InterruptTypeLowestPriority, true, 0xFF, 0x41, 1, { { 0xFEEFF004, 0, 0x4141 } } },
        { false, WHvX64InterruptTypeNmi, false, 0, 0, 1, { { 0xFEE00000, 0, 0x4400 } } },
        { false, WHvX64InterruptTypeInit, false, 1, 0, 1, { { 0xFEE01000, 0, 0x4500 } } },
        { false, WHvX64InterruptTypeSipi, false, 1, 0x9A, 1, { { 0xFEE01000, 0, 0x469A } } },
        // Everybody.
        { false, WHvX64InterruptTypeFixed, false, 0xFF, 0x41, 1, { { 0xFEEFF000, 0, 0x4041 } } },
        { false, WHvX64InterruptTypeFixed, true, UINT32_MAX, 0x41, 1, { { 0xFEEFF000, 0, 0x4041 } } },
        { true, WHvX64InterruptTypeFixed, false, 0xFF, 0x41, 2,
          { { 0xFEEFF000, 0xFFFFFF00, 0x4041 }, { 0xFEEFF000, 0, 0x4041 } } },
        { true, WHvX64InterruptTypeNmi, true, UINT32_MAX, 0, 2,
          { { 0xFEEFF000, 0xFFFFFF00, 0x4400 }, { 0xFEEFF000, 0, 0x4400 } } },
        // One of all: the second message goes out only when the first one finds nobody.
        { true, WHvX64InterruptTypeLowestPriority, false, 0xFF, 0x41, 2,
          { { 0xFEEFF004, 0xFFFFFF00, 0x4141 }, { 0xFEEFF004, 0, 0x4141 } } },
        // 32 bits.
        { true, WHvX64InterruptTypeFixed, true, 0x00030002, 0x41, 1, { { 0xFEE02004, 0x00030000, 0x4041 } } },
        { true, WHvX64InterruptTypeFixed, true, 0xFF, 0x41, 1, { { 0xFEEFF004, 0, 0x4041 } } },
        { false, WHvX64InterruptTypeFixed, false, 0x101, 0x41, 0, { { 0, 0, 0 } } },
        { false, WHvX64InterruptTypeFixed, true, 0x101, 0x41, 0, { { 0, 0, 0 } } },
    };
    for (unsigned n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        struct kvm_apic a = make(cases[n].x2apic);
        WHV_INTERRUPT_CONTROL interrupt = control(cases[n].type, cases[n].logical, false,
                                                  cases[n].destination, cases[n].vector);
        kernel.answer[0] = -EPERM;      // how KVM says that there is nobody
        assert_ok(kvm_apic_request(&a, &interrupt));
        assert_int_equal(kernel.messages, cases[n].count);
        assert_int_equal(kernel.calls, cases[n].count);
        for (unsigned m = 0; m < cases[n].count; m++) {
            assert_int_equal(kernel.message[m].address_lo, cases[n].expected[m].low);
            assert_int_equal(kernel.message[m].address_hi, cases[n].expected[m].high);
            assert_int_equal(kernel.message[m].data, cases[n].expected[m].data);
            assert_int_equal(kernel.message[m].flags, 0);
        }
        kvm_apic_destroy(&a);
    }
}

static void test_answers(void **state)
{
    (void)state;
    struct kvm_apic a = make(true);
    WHV_INTERRUPT_CONTROL one = control(WHvX64InterruptTypeFixed, false, false, 1, 0x41);
    WHV_INTERRUPT_CONTROL lowest = control(WHvX64InterruptTypeLowestPriority, false, false, 0xFF, 0x41);
    WHV_INTERRUPT_CONTROL all = control(WHvX64InterruptTypeFixed, false, false, 0xFF, 0x41);

    kernel.answer[0] = 0;               // software-disabled
    assert_ok(kvm_apic_request(&a, &one));
    kernel.answer[1] = -EINVAL;
    assert_hr(kvm_apic_request(&a, &one), E_FAIL);
    kernel.answer[2] = 1;
    assert_ok(kvm_apic_request(&a, &lowest));
    assert_int_equal(kernel.messages, 3);
    kernel.answer[3] = 2;
    assert_ok(kvm_apic_request(&a, &all));
    assert_int_equal(kernel.messages, 5);
    kvm_apic_destroy(&a);
}

static void test_routes(void **state)
{
    (void)state;
    struct kvm_apic a = make(true);
    WHV_INTERRUPT_CONTROL level = control(WHvX64InterruptTypeFixed, false, true, 1, 0x41);
    WHV_INTERRUPT_CONTROL nmi = control(WHvX64InterruptTypeNmi, false, true, 1, 0);

    // A refused table leaves no route behind, and no interrupt.
    kernel.fail_at = 1;
    kernel.error = -ENOMEM;
    assert_hr(kvm_apic_request(&a, &level), E_OUTOFMEMORY);
    assert_int_equal(kernel.messages, 0);

    assert_ok(kvm_apic_request(&a, &level));
    assert_int_equal(kernel.tables, 1);
    assert_int_equal(kernel.routes, 2);
    assert_int_equal(kernel.messages, 1);
    assert_int_equal(kernel.message[0].data, 0xC041);
    for (unsigned n = 0; n < 2; n++) {
        assert_int_equal(kernel.route[n].gsi, n);
        assert_int_equal(kernel.route[n].type, KVM_IRQ_ROUTING_MSI);
        assert_int_equal(kernel.route[n].u.msi.address_lo, 0xFEEFF000);
        assert_int_equal(kernel.route[n].u.msi.address_hi, n ? 0xFFFFFF00 : 0);
        assert_int_equal(kernel.route[n].u.msi.data, 0xC041);
    }
    assert_ok(kvm_apic_request(&a, &level));
    assert_ok(kvm_apic_request(&a, &nmi));
    assert_int_equal(kernel.message[2].data, 0x4400);
    assert_int_equal(kernel.tables, 1);
    level.Vector = 0xFF;
    assert_ok(kvm_apic_request(&a, &level));
    assert_int_equal(kernel.tables, 2);
    assert_int_equal(kernel.routes, 4);
    assert_int_equal(kernel.route[3].u.msi.data, 0xC0FF);
    // All there are.
    static const uint64_t every[4] = { 0xFFFFFFFFFFFF0000, UINT64_MAX, UINT64_MAX, UINT64_MAX };
    assert_ok(kvm_apic_route(&a, every));
    assert_int_equal(kernel.routes, 480);
    assert_int_equal(kernel.route[479].gsi, 479);
    kvm_apic_destroy(&a);

    a = make(false);
    assert_ok(kvm_apic_request(&a, &level));
    assert_int_equal(kernel.routes, 1);
    kvm_apic_destroy(&a);
}

static void test_eoi(void **state)
{
    (void)state;
    struct kvm_apic a = make(true);
    bool tells = false;
    set_reg(0x180 + 0x20, 2);
    assert_ok(kvm_apic_tells_eoi(PROCESSOR, 0x41, &tells));
    assert_true(tells);
    assert_ok(kvm_apic_tells_eoi(PROCESSOR, 0x42, &tells));
    assert_false(tells);
    // Level-triggered, and neither waiting nor in service; then each.
    bool waiting = true;
    assert_ok(kvm_apic_level_waiting(PROCESSOR, &waiting));
    assert_false(waiting);
    set_reg(0x100 + 0x20, 4);
    assert_ok(kvm_apic_level_waiting(PROCESSOR, &waiting));
    assert_false(waiting);
    for (unsigned offset = 0x100; offset <= 0x200; offset += 0x100) {
        set_reg(offset + 0x20, 6);
        assert_ok(kvm_apic_level_waiting(PROCESSOR, &waiting));
        assert_true(waiting);
        set_reg(offset + 0x20, 0);
    }
    int vector = 0;
    assert_ok(kvm_apic_in_service(PROCESSOR, &vector));
    assert_int_equal(vector, -1);
    set_reg(0x100 + 0x20, 6);
    set_reg(0x100 + 0x10, UINT32_MAX);
    assert_ok(kvm_apic_in_service(PROCESSOR, &vector));
    assert_int_equal(vector, 0x42);
    kernel.calls = 0;
    kernel.fail_at = 1;
    kernel.error = -ENOMEM;
    assert_hr(kvm_apic_tells_eoi(PROCESSOR, 0x41, &tells), E_OUTOFMEMORY);
    kernel.calls = 0;
    assert_hr(kvm_apic_level_waiting(PROCESSOR, &waiting), E_OUTOFMEMORY);
    kernel.calls = 0;
    assert_hr(kvm_apic_in_service(PROCESSOR, &vector), E_OUTOFMEMORY);
    kvm_apic_destroy(&a);
}

static void test_lint1(void **state)
{
    (void)state;
    enum { NOTHING, NMI, MESSAGE };
    static const struct {
        uint64_t base;
        uint32_t lvt, svr, destination;
        bool logical;
        int outcome;
        uint32_t address, data;
    } cases[] = {
        { XAPIC_BASE, 0x400, 0x1FF, 3, false, NMI, 0, 0 },
        { XAPIC_BASE, 0x400, 0x1FF, 0xFF, false, NMI, 0, 0 },
        { XAPIC_BASE, 0x400, 0x1FF, UINT32_MAX, true, NMI, 0, 0 },
        { XAPIC_BASE, 0x400, 0x1FF, 8, true, NMI, 0, 0 },           // logical, flat
        { XAPIC_BASE, 0x400, 0x1FF, 4, true, NOTHING, 0, 0 },
        { XAPIC_BASE, 0x400, 0x1FF, 2, false, NOTHING, 0, 0 },      // another processor
        { XAPIC_BASE, 0x10400, 0x1FF, 3, false, NOTHING, 0, 0 },    // masked
        { XAPIC_BASE, 0x400, 0x0FF, 3, false, NOTHING, 0, 0 },      // software-disabled
        { 0xFEE00000, 0x400, 0x1FF, 3, false, NOTHING, 0, 0 },      // disabled
        { XAPIC_BASE, 0x041, 0x1FF, 3, false, MESSAGE, 0xFEE03000, 0x4041 },
        { XAPIC_BASE, 0x500, 0x1FF, 3, false, MESSAGE, 0xFEE03000, 0x4500 },
        { XAPIC_BASE, 0x00F, 0x1FF, 3, false, NOTHING, 0, 0 },      // no such vector
        { XAPIC_BASE, 0x200, 0x1FF, 3, false, NOTHING, 0, 0 },      // SMI
        { XAPIC_BASE, 0x700, 0x1FF, 3, false, NOTHING, 0, 0 },      // ExtINT
        { XAPIC_BASE, 0x141, 0x1FF, 3, false, NOTHING, 0, 0 },      // no mode of an LVT entry
        { X2APIC_BASE, 0x041, 0x1FF, 3, false, MESSAGE, 0xFEE03000, 0x4041 },
        { X2APIC_BASE, 0x400, 0x1FF, 9, true, NMI, 0, 0 },
        { X2APIC_BASE, 0x400, 0x1FF, 0x10008, true, NOTHING, 0, 0 },
    };
    for (unsigned n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        struct kvm_apic a = make(true);
        bool x2apic = cases[n].base == X2APIC_BASE;
        WHV_INTERRUPT_CONTROL interrupt = control(WHvX64InterruptTypeLocalInt1, cases[n].logical, false,
                                                  cases[n].destination, 0);
        set_reg(0x20, x2apic ? 3 : 3 << 24);
        set_reg(0xD0, x2apic ? 8 : 8 << 24);
        set_reg(0xE0, UINT32_MAX);
        set_reg(0xF0, cases[n].svr);
        set_reg(0x360, cases[n].lvt);
        assert_ok(kvm_apic_local_interrupt(&a, PROCESSOR, cases[n].base, &interrupt));
        assert_int_equal(kernel.nmis, cases[n].outcome == NMI);
        assert_int_equal(kernel.messages, cases[n].outcome == MESSAGE);
        assert_int_equal(kernel.message[0].address_lo, cases[n].address);
        assert_int_equal(kernel.message[0].data, cases[n].data);
        for (unsigned at = 1; at <= 2 && cases[n].outcome != NOTHING; at++) {
            kernel.calls = 0;
            kernel.fail_at = at;
            kernel.error = -ENOMEM;
            assert_hr(kvm_apic_local_interrupt(&a, PROCESSOR, cases[n].base, &interrupt), E_OUTOFMEMORY);
        }
        kvm_apic_destroy(&a);
    }
}

// ---- State: the same as the soft engine's -----------------------------------------------------------------

#define ID 3

static const struct lapic_time never = { 0 };       // in which nothing counts

static struct lapic soft_lapic(uint64_t base)
{
    struct lapic l;
    struct lapic_config config = { .id = ID, .bsp = false, .x2apic = true, .tsc_deadline = true,
                                   .physical_width = 40, .bus_hz = 200000000, .tsc_hz = 1000000000 };
    lapic_init(&l, &config);
    assert_true(lapic_set_base(&l, base));
    return l;
}

// What KVM has after reset, with its own version.
static void kernel_reset(uint64_t base)
{
    bool x2apic = base == X2APIC_BASE;
    memset(&kernel, 0, sizeof kernel);
    set_reg(0x20, x2apic ? ID : ID << 24);
    set_reg(0x30, 0x01060014);
    set_reg(0xD0, x2apic ? 1 << ID : 0);
    set_reg(0xE0, UINT32_MAX);
    set_reg(0xF0, 0xFF);
    for (uint32_t offset = 0x320; offset <= 0x370; offset += 16)
        set_reg(offset, 0x10000);
}

static void assert_same_page(const struct lapic *l, const uint8_t *page)
{
    uint8_t expected[4096];
    lapic_get_page(l, expected, never);
    for (unsigned offset = 0; offset < 4096; offset += 4)
        if (memcmp(page + offset, expected + offset, 4))
            fail_msg("offset %#x: %#x instead of %#x", offset, *(uint32_t *)(page + offset),
                     *(uint32_t *)(expected + offset));
}

static void assert_same_state(const struct lapic *l, uint64_t base)
{
    uint8_t page[4096];
    assert_ok(kvm_apic_get_page(PROCESSOR, base, page));
    assert_same_page(l, page);
}

static uint32_t any(void) { return (uint32_t)rand() << 16 ^ (uint32_t)rand(); }

// A register's value that is within its bits most of the time.
static uint32_t likely(uint32_t offset)
{
    static const struct { uint32_t offset, bits; } bits[] = {
        { 0x080, 0xFF }, { 0x0D0, 0xFF000000 }, { 0x0E0, UINT32_MAX }, { 0x0F0, 0x3FF }, { 0x280, 0xFF },
        { 0x300, 0xCDFFF }, { 0x310, 0xFF000000 }, { 0x320, 0x710FF }, { 0x330, 0x117FF }, { 0x340, 0x117FF },
        { 0x350, 0x1F7FF }, { 0x360, 0x1F7FF }, { 0x370, 0x110FF }, { 0x3E0, 0xB },
    };
    uint32_t value = rand() % 4 ? any() : 0;
    for (unsigned n = 0; n < sizeof bits / sizeof bits[0]; n++)
        if (bits[n].offset == offset)
            value &= bits[n].bits;
    if (offset == 0x100 || offset == 0x180 || offset == 0x200)
        value &= 0xFFFF0000;
    return value;
}

static void test_pages_as_in_soft(void **state)
{
    (void)state;
    static const uint64_t bases[] = { XAPIC_BASE, X2APIC_BASE };
    unsigned taken = 0, refused = 0;
    srand(7);
    for (unsigned round = 0; round < 4000; round++) {
        uint64_t base = bases[round % 2];
        struct kvm_apic a = make(true);
        struct lapic l = soft_lapic(base);
        kernel_reset(base);
        assert_same_state(&l, base);

        uint32_t page[1024];
        for (unsigned n = 0; n < 1024; n++)
            page[n] = n % 4 == 0 && n < 256 ? likely(n * 4) : any();
        if (round % 3 == 0)
            page[rand() % 64 * 4] = any();
        struct kvm_lapic_state before = kernel.lapic;
        bool accepted = lapic_set_page(&l, page, never);
        assert_hr(kvm_apic_set_page(&a, PROCESSOR, base, (uint8_t *)page, NULL),
                  accepted ? S_OK : E_INVALIDARG);
        if (!accepted)
            assert_memory_equal(&before, &kernel.lapic, sizeof before);
        // KVM starts the timer from these by itself, as soft has done: a count above the initial one is none.
        if (accepted && (reg(0x390) > reg(0x380) || ((reg(0x320) >> 17 & 3) == 1 && reg(0x390) == 0)))
            set_reg(0x390, reg(0x380));
        assert_same_state(&l, base);
        assert_int_equal(reg(0x30), 0x01060014);
        accepted ? taken++ : refused++;
        kvm_apic_destroy(&a);
    }
    assert_true(taken > 1000);
    assert_true(refused > 100);
}

static void test_registers_as_in_soft(void **state)
{
    (void)state;
    static const uint64_t bases[] = { XAPIC_BASE, X2APIC_BASE };
    unsigned taken = 0, refused = 0;
    srand(8);
    for (unsigned round = 0; round < 200; round++) {
        uint64_t base = bases[round % 2];
        struct kvm_apic a = make(true);
        struct lapic l = soft_lapic(base);
        uint8_t page[4096];
        kernel_reset(base);
        assert_ok(kvm_apic_get_page(PROCESSOR, base, page));
        for (unsigned step = 0; step < 200; step++) {
            unsigned n = (unsigned)rand() % 68;
            uint64_t value = rand() % 8 ? likely(n * 16) : any(), got = 0, expected = 0;
            if (n == 0x30 || rand() % 16 == 0)
                value |= (uint64_t)likely(0x310) << 32;
            if (rand() % 8 == 0)
                (void)lapic_get_register(&l, n * 16, &value, never);
            bool accepted = lapic_set_register(&l, n * 16, value, never);
            assert_int_equal(kvm_apic_page_valid(page, base, n, value), accepted);
            assert_int_equal(kvm_apic_page_set(page, base, n, value), accepted);
            assert_same_page(&l, page);
            bool there = lapic_get_register(&l, n * 16, &expected, never);
            assert_int_equal(kvm_apic_page_get(page, n, &got), there);
            assert_int_equal(got, expected);
            accepted ? taken++ : refused++;
        }
        // What KVM is given of it is what the page says.
        assert_ok(kvm_apic_set_page(&a, PROCESSOR, base, page, NULL));
        assert_same_state(&l, base);
        kvm_apic_destroy(&a);
    }
    assert_true(taken > 10000);
    assert_true(refused > 1000);
}

static void test_reset(void **state)
{
    (void)state;
    struct kvm_apic a = make(false);
    struct lapic l = soft_lapic(XAPIC_BASE);
    kernel_reset(XAPIC_BASE);
    set_reg(0x20, 9 << 24);
    set_reg(0xF0, 0x11FF);
    set_reg(0x220, 2);
    assert_ok(kvm_apic_reset(&a, PROCESSOR, ID));
    assert_same_state(&l, XAPIC_BASE);
    assert_int_equal(reg(0xF0), 0xFF);
    kernel.calls = 0;
    kernel.fail_at = 1;
    kernel.error = -ENOMEM;
    assert_hr(kvm_apic_reset(&a, PROCESSOR, ID), E_OUTOFMEMORY);
    kvm_apic_destroy(&a);
}

// What a guest can leave in KVM's registers that is reserved here does not come out.
static void test_kvms_own_bits(void **state)
{
    (void)state;
    struct kvm_apic a = make(false);
    uint8_t page[4096];
    uint64_t value;
    kernel_reset(XAPIC_BASE);
    set_reg(0xF0, 0x11FF);              // EOI broadcasts suppressed
    set_reg(0x350, 0x5000);             // what is read-only on a processor
    set_reg(0x300, 0xFFFFFFFF);
    set_reg(0x200, 0xFFFF);             // vectors that do not exist
    set_reg(0xA0, 0x77);
    assert_ok(kvm_apic_get_page(PROCESSOR, XAPIC_BASE, page));
    for (unsigned n = 0; n < 64; n++)
        if (kvm_apic_page_get(page, n, &value))
            assert_true(kvm_apic_page_valid(page, XAPIC_BASE, n, value));
    assert_true(kvm_apic_page_get(page, 0xA, &value));
    assert_int_equal(value, 0);
    // As it was: nothing is set, and no timer starts again.
    assert_ok(kvm_apic_set_page(&a, PROCESSOR, XAPIC_BASE, page, NULL));
    assert_int_equal(kernel.sets, 0);
    assert_true(kvm_apic_page_set(page, XAPIC_BASE, 0xF, 0xFF));
    assert_ok(kvm_apic_set_page(&a, PROCESSOR, XAPIC_BASE, page, NULL));
    assert_int_equal(reg(0xF0), 0x10FF);
    kvm_apic_destroy(&a);
}

// A change keeps what has come in since the page was read.
static void test_changes(void **state)
{
    (void)state;
    struct kvm_apic a = make(false);
    uint8_t before[4096], page[4096];
    kernel_reset(XAPIC_BASE);
    set_reg(0x220, 1 << 1);             // 0x41 waits
    set_reg(0x320, 0x20050);            // a periodic timer
    set_reg(0x380, 1000);
    set_reg(0x390, 900);
    assert_ok(kvm_apic_get_page(PROCESSOR, XAPIC_BASE, before));
    memcpy(page, before, sizeof page);
    assert_ok(kvm_apic_set_page(&a, PROCESSOR, XAPIC_BASE, page, before));
    assert_int_equal(kernel.sets, 0);

    set_reg(0x220, 1 << 1 | 1 << 2);
    set_reg(0x1A0, 1 << 2);
    set_reg(0x390, 500);
    set_reg(0x350, 0x8700);
    assert_true(kvm_apic_page_set(page, XAPIC_BASE, 0x36, 0x400));
    assert_true(kvm_apic_page_set(page, XAPIC_BASE, 0x22, 1 << 3));     // instead of 0x41
    assert_ok(kvm_apic_set_page(&a, PROCESSOR, XAPIC_BASE, page, before));
    assert_int_equal(kernel.sets, 1);
    assert_int_equal(reg(0x220), 1 << 2 | 1 << 3);
    assert_int_equal(reg(0x360), 0x400);
    assert_int_equal(reg(0x350), 0x8700);
    assert_int_equal(reg(0x390), 500);
    // The level-triggered one that waits has got its route.
    assert_int_equal(kernel.routes, 1);
    assert_int_equal(kernel.route[0].u.msi.data, 0xC042);

    for (unsigned at = 1; at <= 3; at++) {
        struct kvm_lapic_state kept = kernel.lapic;
        kvm_apic_destroy(&a);
        a = (struct kvm_apic){ .vm = VM, .lock = PTHREAD_MUTEX_INITIALIZER,
                               .state = PTHREAD_RWLOCK_INITIALIZER };
        kernel.calls = 0;
        kernel.fail_at = at;
        kernel.error = -EINVAL;
        assert_true(kvm_apic_page_set(page, XAPIC_BASE, 0x8, at * 16));
        assert_hr(kvm_apic_set_page(&a, PROCESSOR, XAPIC_BASE, page, before), E_FAIL);
        assert_memory_equal(&kept, &kernel.lapic, sizeof kept);
    }
    kernel.calls = 0;
    kernel.fail_at = 1;
    assert_hr(kvm_apic_get_page(PROCESSOR, XAPIC_BASE, page), E_FAIL);
    kvm_apic_destroy(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_setup),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_eoi),
        cmocka_unit_test(test_lint1),
        cmocka_unit_test(test_pages_as_in_soft),
        cmocka_unit_test(test_registers_as_in_soft),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_kvms_own_bits),
        cmocka_unit_test(test_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
