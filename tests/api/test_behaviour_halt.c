// HLT without a local APIC: how it exits, and how the guest goes on.
#include "modes.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

// sti; hlt; out 0x10, al
static const uint8_t code[] = {0xFB, 0xF4, 0xE6, 0x10};

static void assert_halted(WHV_PARTITION_HANDLE p, UINT64 rip)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = run(p, 0);

    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64Halt);
    assert_int_equal(exit.VpContext.Rip, rip);
    assert_int_equal(exit.VpContext.InstructionLength, 0);
    assert_int_equal(exit.VpContext.ExecutionState.InterruptShadow, 0);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRip), rip);
    assert_int_equal(get_register(p, 0, WHvRegisterInternalActivityState), 0);
}

// RIP is past the HLT: running again goes on behind it.
static void test_goes_on(void **state)
{
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    assert_halted(p, CODE + 2);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_ok(WHvDeletePartition(p));
}

// An interrupt that is injected through PendingInterruption alone resumes it; the handler returns behind HLT.
static void test_injection_resumes(void **state)
{
    static const uint8_t handler[] = {0xE6, 0x20, 0xCF};        // out 0x20, al; iret
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_X64_PENDING_INTERRUPTION_REGISTER pending = {.AsUINT64 = 0};
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    memcpy(memory + HANDLER, handler, sizeof(handler));
    put64(memory, 0x30 * 4, HANDLER);       // the vector table's entry: offset, segment 0
    set_register(p, 0, WHvX64RegisterRsp, 0x7000);
    assert_halted(p, CODE + 2);
    pending.InterruptionPending = 1;
    pending.InterruptionType = WHvX64PendingInterrupt;
    pending.InterruptionVector = 0x30;
    set_register(p, 0, WHvRegisterPendingInterruption, pending.AsUINT64);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x20);
    assert_int_equal(exit.VpContext.ExecutionState.InterruptionPending, 0);
    assert_int_equal(get_register(p, 0, WHvRegisterPendingInterruption), 0);
    set_register(p, 0, WHvX64RegisterRip, HANDLER + 2);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_int_equal(exit.VpContext.Rip, CODE + 2);
    assert_ok(WHvDeletePartition(p));
}

// Every exit tells the state of the processor, here the shadow that STI casts, CR8 and the flags.
static void test_context(void **state)
{
    static const uint8_t shadow[] = {0xFB, 0xE6, 0x10, 0xE6, 0x11};     // sti; out 0x10, al; out 0x11, al
    WHV_PARTITION_HANDLE p = guest(memory, shadow, sizeof(shadow));
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_X64_INTERRUPT_STATE_REGISTER interrupts;

    (void)state;
    set_register(p, 0, WHvX64RegisterCr8, 5);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    interrupts.AsUINT64 = get_register(p, 0, WHvRegisterInterruptState);
    assert_int_equal(interrupts.InterruptShadow, exit.VpContext.ExecutionState.InterruptShadow);
    if (engine_may_lose_shadow() && !interrupts.InterruptShadow)
        print_message("refused as documented: the interrupt shadow, at an access that KVM has done already\n");
    else
        assert_int_equal(interrupts.InterruptShadow, 1);
    assert_int_equal(exit.VpContext.Cr8, 5);
    assert_int_equal(exit.VpContext.Rflags, 0x202);
    assert_int_equal(exit.VpContext.ExecutionState.Cr0Pe, 0);
    // The client that moves RIP on ends the shadow too, as the instruction would have.
    set_register(p, 0, WHvX64RegisterRip, CODE + 3);
    set_register(p, 0, WHvRegisterInterruptState, 0);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x11);
    assert_int_equal(exit.VpContext.ExecutionState.InterruptShadow, 0);
    assert_ok(WHvDeletePartition(p));
}

static void test_context_in_long_mode(void **state)
{
    static const uint8_t out[] = {0xE6, 0x10};
    WHV_PARTITION_HANDLE p = guest(memory, out, sizeof(out));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    enter_long(p, memory);
    enter_user(p, CODE64);
    set_register(p, 0, WHvX64RegisterRflags, 0x3002);       // IOPL 3
    set_register(p, 0, WHvX64RegisterDr7, 0x401);
    set_gate(memory, true, 13);
    exit = run(p, 0);
    if (engine_may_refuse_user_ports() && exit.ExitReason == WHvRunVpExitReasonX64IoPortAccess &&
        exit.IoPortAccess.PortNumber == 13) {
        assert_ok(WHvDeletePartition(p));
        SKIP_BECAUSE("this host's KVM raises #GP for ports at CPL 3 whatever IOPL is");
    }
    assert_port_exit(&exit, 0x10);
    assert_int_equal(exit.VpContext.ExecutionState.Cpl, 3);
    assert_int_equal(exit.VpContext.ExecutionState.Cr0Pe, 1);
    assert_int_equal(exit.VpContext.ExecutionState.EferLma, 1);
    assert_int_equal(exit.VpContext.ExecutionState.DebugActive, 1);
    assert_int_equal(exit.VpContext.Cs.Selector, USER_CODE_SELECTOR);
    assert_int_equal(exit.VpContext.Cs.Long, 1);
    assert_int_equal(exit.VpContext.Rip, CODE);
    assert_ok(WHvDeletePartition(p));
}

// A halt may only be executed by the kernel; and a triple fault ends the guest.
static void test_unrecoverable(void **state)
{
    static const uint8_t undefined[] = {0x0F, 0x0B};        // ud2, and no descriptor table to deliver it by
    WHV_PARTITION_HANDLE p = guest(memory, undefined, sizeof(undefined));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    enter_protected(p, memory);
    set_table(p, WHvX64RegisterIdtr, 0, 0);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonUnrecoverableException);
    assert_int_equal(exit.VpContext.Rip, CODE);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_injection_resumes),
        cmocka_unit_test(test_context),
        cmocka_unit_test(test_context_in_long_mode),
        cmocka_unit_test(test_unrecoverable),
    };

    return engine_run_tests(tests);
}
