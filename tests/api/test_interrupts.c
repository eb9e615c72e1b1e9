// Interrupts: requested from other threads, by the timer, by register; windows, NMI, EOI; and deliveries
// that meet memory which the host took away.
#include <sys/mman.h>

#include "threads.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

#define VECTOR 0x40

// sti; hlt; jmp to the hlt
static const uint8_t sleeper[] = {0xFB, 0xF4, 0xEB, 0xFD};
// sti; jmp there
static const uint8_t spinner[] = {0xFB, 0xEB, 0xFE};
// inc dword [COUNTER]; mov dword [es:0xB0], 0 (EOI); iret
static const uint8_t count_and_eoi[] = {0x66, 0xFF, 0x06, 0x00, 0x20, 0x26, 0x66, 0xC7, 0x06, 0xB0,
                                        0x00, 0x00, 0x00, 0x00, 0x00, 0xCF};
// inc dword [COUNTER]; out 0x11, al; iret
static const uint8_t count_and_out[] = {0x66, 0xFF, 0x06, 0x00, 0x20, 0xE6, 0x11, 0xCF};

static void assert_out(const WHV_RUN_VP_EXIT_CONTEXT *exit, UINT16 port)
{
    assert_int_equal(exit->ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(exit->IoPortAccess.PortNumber, port);
}

static void step_over(WHV_PARTITION_HANDLE p, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    set_register(p, 0, WHvX64RegisterRip, exit->VpContext.Rip + exit->VpContext.InstructionLength);
}

static void requests(const void *code, size_t size)
{
    WHV_PARTITION_HANDLE p = apic_guest(memory, 1, code, size);
    struct runner r;

    set_handler(memory, VECTOR, count_and_eoi, sizeof(count_and_eoi));
    start(&r, p, 0);
    for (UINT32 n = 1; n <= 500; n++) {
        assert_ok(request(p, WHvX64InterruptTypeFixed, 0, VECTOR));
        EVENTUALLY(load32(memory, COUNTER) >= n);
        assert_int_equal(load32(memory, COUNTER), n);
    }
    cancel(&r);
    assert_ok(WHvDeletePartition(p));
}

// One request, one interrupt, wherever the processor is on its way to sleep.
static void test_request_wakes(void **state)
{
    (void)state;
    NEEDS(engine_has_apic());
    requests(sleeper, sizeof(sleeper));
    requests(spinner, sizeof(spinner));
}

static void periodic(const void *code, size_t size)
{
    WHV_PARTITION_HANDLE p = apic_guest(memory, 1, code, size);
    struct runner r;

    set_handler(memory, VECTOR, count_and_eoi, sizeof(count_and_eoi));
    // Periodic, divided by 1, 1 ms at 200 MHz.
    set_apic(p, 0, (const UINT32[]){0x320, 0x20000 | VECTOR, 0x3E0, 0xB, 0x380, 200000, 0x390, 200000, 0});
    start(&r, p, 0);
    EVENTUALLY(load32(memory, COUNTER) >= 20);
    cancel(&r);
    assert_ok(WHvDeletePartition(p));
}

static void test_periodic_timer(void **state)
{
    (void)state;
    NEEDS(engine_has_apic());
    periodic(sleeper, sizeof(sleeper));
    periodic(spinner, sizeof(spinner));
}

static void test_one_shot_timer(void **state)
{
    WHV_PARTITION_HANDLE p;
    struct runner r;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, sleeper, sizeof(sleeper));
    set_handler(memory, VECTOR, count_and_eoi, sizeof(count_and_eoi));
    set_handler(memory, VECTOR + 1, count_and_eoi, sizeof(count_and_eoi));
    start(&r, p, 0);
    EVENTUALLY(halted(p, 0));
    cancel(&r);
    set_apic(p, 0, (const UINT32[]){0x320, VECTOR, 0x3E0, 0xB, 0x380, 200000, 0x390, 200000, 0});
    start(&r, p, 0);
    EVENTUALLY(load32(memory, COUNTER) == 1);
    // Armed by another thread, while the processor sleeps without a deadline.
    EVENTUALLY(halted(p, 0));
    set_register(p, 0, (WHV_REGISTER_NAME)0x3038, 200000);      // initial count
    EVENTUALLY(load32(memory, COUNTER) == 2);
    EVENTUALLY(halted(p, 0));
    cancel(&r);
    assert_int_equal(load32(memory, COUNTER), 2);
    assert_ok(WHvDeletePartition(p));
}

static void test_deadline_timer(void **state)
{
    WHV_PARTITION_HANDLE p;
    struct runner r;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, sleeper, sizeof(sleeper));
    set_handler(memory, VECTOR, count_and_eoi, sizeof(count_and_eoi));
    set_apic(p, 0, (const UINT32[]){0x320, 0x40000 | VECTOR, 0});
    start(&r, p, 0);
    for (UINT32 n = 1; n <= 20; n++) {
        EVENTUALLY(halted(p, 0));
        set_register(p, 0, WHvX64RegisterTscDeadline, get_register(p, 0, WHvX64RegisterTsc) + 1000000);
        EVENTUALLY(load32(memory, COUNTER) == n);
    }
    cancel(&r);
    assert_ok(WHvDeletePartition(p));
}

static void set_ext_int(WHV_PARTITION_HANDLE p, UINT8 vector)
{
    WHV_REGISTER_NAME name = WHvRegisterPendingEvent;
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.ExtIntEvent.EventPending = 1;
    value.ExtIntEvent.EventType = WHvX64PendingEventExtInt;
    value.ExtIntEvent.Vector = vector;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value));
}

static void test_ext_int(void **state)
{
    WHV_PARTITION_HANDLE p = guest(memory, sleeper, sizeof(sleeper));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    // Without an APIC mode: accepted by the set call, refused by the run.
    set_ext_int(p, VECTOR);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonInvalidVpRegisterValue);
    assert_ok(WHvDeletePartition(p));
    NEEDS(engine_has_apic());
    // With one: taken when RFLAGS.IF lets it in, also by a software-disabled APIC.
    p = apic_guest(memory, 1, spinner, sizeof(spinner));
    set_apic(p, 0, (const UINT32[]){0xF0, 0xFF, 0});
    set_handler(memory, VECTOR, count_and_out, sizeof(count_and_out));
    set_ext_int(p, VECTOR);
    exit = run(p, 0);
    assert_out(&exit, 0x11);
    assert_int_equal(load32(memory, COUNTER), 1);
    assert_ok(WHvDeletePartition(p));
}

static void notify(WHV_PARTITION_HANDLE p)
{
    WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER notifications = {.InterruptNotification = 1};

    set_register(p, 0, WHvX64RegisterDeliverabilityNotifications, notifications.AsUINT64);
}

// A window is told of with an APIC too, also to a processor that has slept since it was last looked at.
static void test_window_after_halt(void **state)
{
    // sti; hlt; cli; out 0x10, al; sti; inc ax; cli; out 0x11, al
    static const uint8_t code[] = {0xFB, 0xF4, 0xFA, 0xE6, 0x10, 0xFB, 0x40, 0xFA, 0xE6, 0x11};
    static const uint8_t iret[] = {0xCF};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;
    struct runner r;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, code, sizeof(code));
    set_handler(memory, VECTOR, iret, sizeof(iret));
    start(&r, p, 0);
    EVENTUALLY(halted(p, 0));
    assert_ok(request(p, WHvX64InterruptTypeFixed, 0, VECTOR));
    finish(&r);
    assert_out(&r.exit, 0x10);
    set_register(p, 0, WHvX64RegisterRip, CODE + 5);
    notify(p);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64InterruptWindow);
    assert_int_equal(exit.VpContext.Rip, CODE + 7);
    assert_ok(WHvDeletePartition(p));
}

// The window opens right behind the instruction that sets IF, and behind the shadow of STI.
static void test_window(void **state)
{
    // pushf; pop ax; or ah, 2; push ax; popf; cli; out 0x10, al
    static const uint8_t by_popf[] = {0x9C, 0x58, 0x80, 0xCC, 0x02, 0x50, 0x9D, 0xFA, 0xE6, 0x10};
    // push 0x202; push 0; push to_here; iret; to_here: cli; out 0x10, al
    static const uint8_t by_iret[] = {0x68, 0x02, 0x02, 0x6A, 0x00, 0x68, 0x09, 0x10, 0xCF, 0xFA, 0xE6, 0x10};
    // sti; inc ax; cli; out 0x10, al
    static const uint8_t by_sti[] = {0xFB, 0x40, 0xFA, 0xE6, 0x10};
    static const struct {
        const uint8_t *code;
        size_t size;
        UINT64 window;
    } guests[] = {{by_popf, sizeof(by_popf), CODE + 7},
                  {by_iret, sizeof(by_iret), CODE + 9},
                  {by_sti, sizeof(by_sti), CODE + 2}};

    (void)state;
    for (unsigned int n = 0; n < 3; n++) {
        WHV_PARTITION_HANDLE p = guest(memory, guests[n].code, guests[n].size);
        WHV_RUN_VP_EXIT_CONTEXT exit;

        set_register(p, 0, WHvX64RegisterRsp, 0x8000);
        notify(p);
        exit = run(p, 0);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64InterruptWindow);
        assert_int_equal(exit.InterruptWindow.DeliverableType, WHvX64PendingInterrupt);
        assert_int_equal(exit.VpContext.Rip, guests[n].window);
        // Told once.
        exit = run(p, 0);
        assert_out(&exit, 0x10);
        assert_ok(WHvDeletePartition(p));
    }
}

// An instruction in a shadow exits and is run again: the shadow ends behind it, not later.
static void test_shadow_over_an_exit(void **state)
{
    // sti; mov al, [0xf000]; inc ax; inc ax; cli; out 0x10, al
    static const uint8_t code[] = {0xFB, 0xA0, 0x00, 0xF0, 0x40, 0x40, 0xFA, 0xE6, 0x10};
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    assert_ok(WHvUnmapGpaRange(p, 0xF000, PAGE));
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.VpContext.Rip, CODE + 1);
    if (!engine_may_lose_shadow())
        assert_int_equal(exit.VpContext.ExecutionState.InterruptShadow, 1);
    assert_ok(WHvMapGpaRange(p, memory + 0xF000, 0xF000, PAGE, RWX));
    notify(p);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64InterruptWindow);
    assert_int_equal(exit.VpContext.Rip, engine_may_lose_shadow() ? exit.VpContext.Rip : CODE + 4);
    exit = run(p, 0);
    assert_out(&exit, 0x10);
    assert_ok(WHvDeletePartition(p));
}

// A guest that closes interrupts right after it opened them takes what is pending in between.
static void test_popf_takes_what_is_pending(void **state)
{
    // push 0x202; popf; cli; jmp there
    static const uint8_t code[] = {0x68, 0x02, 0x02, 0x9D, 0xFA, 0xEB, 0xF9};
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, code, sizeof(code));
    set_handler(memory, VECTOR, count_and_out, sizeof(count_and_out));
    for (UINT32 n = 1; n <= 20; n++) {
        WHV_RUN_VP_EXIT_CONTEXT exit;

        assert_ok(request(p, WHvX64InterruptTypeFixed, 0, VECTOR));
        exit = run(p, 0);
        assert_out(&exit, 0x11);
        assert_int_equal(load32(memory, COUNTER), n);
        // Not in service any more.
        set_apic(p, 0, (const UINT32[]){0x100 + 0x10 * (VECTOR / 32), 0, 0});
        step_over(p, &exit);
    }
    assert_ok(WHvDeletePartition(p));
}

static bool nmi_masked(WHV_PARTITION_HANDLE p)
{
    WHV_X64_INTERRUPT_STATE_REGISTER value = {.AsUINT64 = get_register(p, 0, WHvRegisterInterruptState)};

    return value.NmiMasked;
}

// An NMI comes with interrupts off and wakes; a second one waits for the IRET of the first.
static void test_nmi(void **state)
{
    static const uint8_t closed[] = {0xF4, 0xEB, 0xFD};     // hlt; jmp there
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;
    struct runner r;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, closed, sizeof(closed));
    set_handler(memory, 2, count_and_out, sizeof(count_and_out));
    start(&r, p, 0);
    EVENTUALLY(halted(p, 0));
    assert_ok(request(p, WHvX64InterruptTypeNmi, 0, 0));
    finish(&r);
    assert_out(&r.exit, 0x11);
    assert_true(nmi_masked(p));
    assert_ok(request(p, WHvX64InterruptTypeNmi, 0, 0));
    assert_ok(request(p, WHvX64InterruptTypeNmi, 0, 0));
    assert_int_equal(load32(memory, COUNTER), 1);
    step_over(p, &r.exit);
    exit = run(p, 0);
    assert_out(&exit, 0x11);
    assert_int_equal(load32(memory, COUNTER), 2);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRsp), 0x8000 - 6);    // not nested
    step_over(p, &exit);
    // The two that waited were one.
    start(&r, p, 0);
    EVENTUALLY(halted(p, 0));
    cancel(&r);
    assert_int_equal(load32(memory, COUNTER), 2);
    assert_false(nmi_masked(p));
    assert_ok(WHvDeletePartition(p));
}

// One that is injected masks others too.
static void test_injected_nmi(void **state)
{
    WHV_X64_PENDING_INTERRUPTION_REGISTER nmi = {.InterruptionPending = 1,
                                                 .InterruptionType = WHvX64PendingNmi};
    WHV_PARTITION_HANDLE p = guest(memory, sleeper, sizeof(sleeper));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    nmi.InterruptionVector = 2;
    set_handler(memory, 2, count_and_out, sizeof(count_and_out));
    set_register(p, 0, WHvX64RegisterRsp, 0x8000);
    set_register(p, 0, WHvRegisterPendingInterruption, nmi.AsUINT64);
    exit = run(p, 0);
    assert_out(&exit, 0x11);
    assert_true(nmi_masked(p));
    step_over(p, &exit);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
    assert_false(nmi_masked(p));
    assert_ok(WHvDeletePartition(p));
}

static void test_eoi_exit(void **state)
{
    WHV_INTERRUPT_CONTROL interrupt;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, spinner, sizeof(spinner));
    set_handler(memory, VECTOR, count_and_eoi, sizeof(count_and_eoi));
    memset(&interrupt, 0, sizeof(interrupt));
    interrupt.TriggerMode = WHvX64InterruptTriggerModeLevel;
    interrupt.Vector = VECTOR;
    for (UINT32 n = 1; n <= 3; n++) {
        assert_ok(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
        exit = run(p, 0);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64ApicEoi);
        assert_int_equal(exit.ApicEoi.InterruptVector, VECTOR);
        assert_int_equal(load32(memory, COUNTER), n);
    }
    assert_ok(WHvDeletePartition(p));
}

static void test_refusals(void **state)
{
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, sleeper, sizeof(sleeper));
    assert_hr(request(p, WHvX64InterruptTypeFixed, 0, 15), 0xC0350005);
    assert_hr(request(p, WHvX64InterruptTypeLowestPriority, 0, 15), 0xC0350005);
    assert_hr(request(p, WHvX64InterruptTypeFixed, 0, 256), 0xC0350005);
    assert_hr(request(p, (WHV_INTERRUPT_TYPE)7, 0, 0x40), 0xC0350005);
    // Nobody there: no error.
    assert_ok(request(p, WHvX64InterruptTypeFixed, 9, 0x40));
    assert_ok(WHvDeletePartition(p));
}

static UINT32 word(const uint8_t *page, unsigned int offset)
{
    UINT32 value;

    memcpy(&value, page + offset, sizeof(value));
    return value;
}

// The state of an APIC in x2APIC mode comes to a processor that has not run yet: first the mode, then the page.
static void test_restore(void **state)
{
    static const uint8_t out[] = {0xE6, 0x10, 0xE6, 0x11};
    static const UINT32 pairs[] = {0x80, 0x50, 0xF0, 0x1FF, 0x110, 2, 0x1A0, 2, 0x220, 2, 0x300, 0x440,
                                   0x310, 0x12345678, 0x320, 0x40041, 0x360, 0x400, 0};
    uint8_t page[PAGE] __attribute__((aligned(16)));
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    p = created(2);
    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeX2Apic));
    assert_ok(WHvSetupPartition(p));
    memcpy(memory + CODE, out, sizeof(out));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    start_at(p, 0, CODE);
    set_register(p, 0, WHvX64RegisterApicBase, 0xFEE00D00);
    set_apic(p, 0, pairs);
    set_register(p, 0, WHvX64RegisterTscDeadline, 1ull << 50);
    for (UINT16 port = 0x10; port <= 0x11; port++) {
        assert_ok(WHvGetVirtualProcessorInterruptControllerState2(p, 0, page, sizeof(page), NULL));
        for (const UINT32 *pair = pairs; pair[0]; pair += 2)
            assert_int_equal(word(page, pair[0]), pair[1]);
        assert_int_equal(word(page, 0x20), 0);
        assert_int_equal(word(page, 0x30), 0x50014);
        assert_int_equal(word(page, 0xA0), 0x50);
        assert_int_equal(word(page, 0xD0), 1);
        assert_int_equal(get_register(p, 0, WHvX64RegisterCr8), 5);
        assert_int_equal(get_register(p, 0, WHvX64RegisterTscDeadline), 1ull << 50);
        assert_int_equal(get_register(p, 0, WHvX64RegisterApicBase), 0xFEE00D00);
        exit = run(p, 0);
        assert_out(&exit, port);
        assert_int_equal(exit.VpContext.Cr8, 5);
        step_over(p, &exit);
    }
    // CR8 is the page's task priority, whichever is set.
    set_register(p, 0, WHvX64RegisterCr8, 7);
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(p, 0, page, sizeof(page), NULL));
    assert_int_equal(word(page, 0x80), 0x70);
    set_apic(p, 0, (const UINT32[]){0x80, 0x30, 0});
    assert_int_equal(get_register(p, 0, WHvX64RegisterCr8), 3);
    assert_ok(WHvDeletePartition(p));
}

// The stack goes away underneath: the interrupt is not lost, and comes when the stack is back.
static void test_delivery_without_memory(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, sleeper, sizeof(sleeper));
    set_handler(memory, VECTOR, count_and_out, sizeof(count_and_out));
    set_handler(memory, 2, count_and_out, sizeof(count_and_out));
    for (UINT32 n = 1; n <= 2; n++) {
        assert_ok(request(p, n == 1 ? WHvX64InterruptTypeFixed : WHvX64InterruptTypeNmi, 0, VECTOR));
        assert_int_equal(mprotect(memory + 0x7000, PAGE, PROT_NONE), 0);
        for (int again = 0; again < 2; again++) {
            exit = run(p, 0);
            assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
            assert_int_equal(exit.MemoryAccess.Gpa & ~0xFFFull, 0x7000);
            assert_int_equal(exit.VpContext.ExecutionState.InterruptionPending, 1);
        }
        assert_int_equal(mprotect(memory + 0x7000, PAGE, PROT_READ | PROT_WRITE), 0);
        exit = run(p, 0);
        assert_out(&exit, 0x11);
        assert_int_equal(load32(memory, COUNTER), n);
        step_over(p, &exit);
    }
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request_wakes),
        cmocka_unit_test(test_periodic_timer),
        cmocka_unit_test(test_one_shot_timer),
        cmocka_unit_test(test_deadline_timer),
        cmocka_unit_test(test_ext_int),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_window_after_halt),
        cmocka_unit_test(test_shadow_over_an_exit),
        cmocka_unit_test(test_popf_takes_what_is_pending),
        cmocka_unit_test(test_nmi),
        cmocka_unit_test(test_injected_nmi),
        cmocka_unit_test(test_eoi_exit),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_restore),
        cmocka_unit_test(test_delivery_without_memory),
    };

    return engine_run_tests(tests);
}
