// The kvm engine on hardware, of which the kernel and the guest are written down here: ports, MSRs,
// exceptions, windows, and the ends of a run. What clients see is what they see of the soft engine.
//
// The rules are those of the kernel's arch/x86/kvm; each test names the function that has it.
#include "unit.h"

#include <pthread.h>

#include "kvm_pair.h"

#define MSR_EXIT 2u             // WHV_EXTENDED_VM_EXITS.X64MsrExit
#define EXCEPTION_EXIT 4u
#define BP (1u << 3)
#define DB (1u << 1)
#define RFLAGS_IF 0x202u
#define RFLAGS_TF 0x102u
#define DR6_BS 0x4000u
#define DR6_BD 0x2000u
#define DR7_GD 0x2000u

// ---- OUT --------------------------------------------------------------------------------------------------

// x86.c, kvm_fast_pio_out and complete_fast_pio_out: RIP is on the instruction, and the next run skips it if
// the linear RIP is still that.
static void test_out(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xE6, 0x10, 0xE6, 0x11);
    set(WHvX64RegisterRax, 0x1234);
    EXPECT({ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
    // The client moves RIP: nothing more than the run.
    set(WHvX64RegisterRip, CODE + 2);
    EXPECT({REGS, OUT_ROW(0x11)});
    (void)run_kvm();
    assert_int_equal(run_calls, 0);
}

// The client runs again as it is: the OUT comes again. KVM has to be done with it first.
static void test_out_again(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xE6, 0x10);
    EXPECT({ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
    EXPECT({0, .only_complete = true}, {ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
}

// Where RIP is behind an OUT and on one like it, either may be the one: done by the emulator, or about to be
// skipped. Completing it tells.
static void test_out_twice(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xE6, 0x10, 0xE6, 0x10, 0xE6, 0x11);
    EXPECT({ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
    set(WHvX64RegisterRip, CODE + 2);
    EXPECT({REGS, OUT_ROW(0x10)}, {0, .only_complete = true});
    run_to_port(0x10);
    set(WHvX64RegisterRip, CODE + 4);
    EXPECT({REGS, OUT_ROW(0x11)});
    run_to_port(0x11);
    // And one that was done.
    set(WHvX64RegisterRip, CODE);
    EXPECT({REGS, .guest = fake_port_done, .port = 0x10, .size = 1, .length = 2}, {0, .only_complete = true});
    run_to_port(0x10);
    assert_int_equal(get(WHvX64RegisterRip), CODE);
}

// x86.c, kvm_fast_pio_out: port 0x7e is the one whose OUT hardware KVM has done
// (KVM_X86_QUIRK_OUT_7E_INC_RIP).
static void test_out_7e(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xE6, 0x7E, 0xE6, 0x7E, 0xE6, 0x11);
    EXPECT({ALL, .guest = fake_port_done, .port = 0x7E, .size = 1, .length = 2}, {0, .only_complete = true});
    run_to_port(0x7E);
    EXPECT({REGS, .guest = fake_port_done, .port = 0x7E, .size = 1, .length = 2}, {0, .only_complete = true});
    run_to_port(0x7E);
    set(WHvX64RegisterRip, CODE + 4);
    EXPECT({REGS, OUT_ROW(0x11)});
    run_to_port(0x11);
}

// x86.c, kvm_is_linear_rip: another segment with another RIP can be the same place.
static void test_out_same_place(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xE6, 0x10, 0xE6, 0x11);
    EXPECT({ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
    set_code_segment(CODE);
    set(WHvX64RegisterRip, 0);
    EXPECT({0, .only_complete = true}, {ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
}

// x86.c, kvm_skip_emulated_instruction: with RFLAGS.TF KVM queues a #DB and says so in DR6, also for an
// instruction that the client never sees executed.
static void test_out_trapped(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xE6, 0x10, 0xE6, 0x10);
    set(WHvX64RegisterRflags, RFLAGS_TF);
    EXPECT({ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
    EXPECT({0, .only_complete = true}, {ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
    assert_int_equal(fake_kvm.debug.dr6 & DR6_BS, 0);
    assert_int_equal(fake_kvm.events.exception.pending, 0);
    set(WHvX64RegisterRip, CODE + 2);
    EXPECT({REGS, OUT_ROW(0x10)}, {0, .only_complete = true});
    run_to_port(0x10);
    EXPECT({REGS | EVENTS, OUT_ROW(0x10)}, {0, .only_complete = true});
    run_to_port(0x10);
}

// ---- IN ---------------------------------------------------------------------------------------------------

static void input_is_55(void) { assert_int_equal(fake_input(1), 0x55); }
static void input_is_wide(void) { assert_int_equal(fake_input(4), 0x89ABCDEF); }

// x86.c, kvm_fast_pio_in and complete_fast_pio_in: the next run takes the data from the shared page, and
// skips.
static void test_in(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xE4, 0x10, 0x66, 0xED, 0xE6, 0x11);     // in al, 0x10; in eax, dx; out 0x11, al
    set(WHvX64RegisterRax, 0x1234567890ABCDEF);
    set(WHvX64RegisterRdx, 0x20);
    EXPECT({ALL, .guest = fake_port, .in = true, .port = 0x10, .size = 1, .length = 2});
    run_to_port(0x10);
    // The client completes it: no register is handed over.
    set(WHvX64RegisterRax, 0x1234567890ABCD55);
    set(WHvX64RegisterRip, CODE + 2);
    EXPECT({0, .enter = input_is_55, .guest = fake_port, .in = true, .port = 0x20, .size = 4, .length = 2});
    run_to_port(0x20);
    set(WHvX64RegisterRax, 0x89ABCDEF);
    set(WHvX64RegisterRip, CODE + 4);
    EXPECT({0, .enter = input_is_wide, OUT_ROW(0x11)});
    run_to_port(0x11);
    assert_int_equal(run_calls, 0);
}

static void test_in_otherwise(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xE4, 0x10, 0xE6, 0x11);
    PUT(OTHER, 0xE6, 0x12);
    set(WHvX64RegisterRax, 0x1234);
    EXPECT({ALL, .guest = fake_port, .in = true, .port = 0x10, .size = 1, .length = 2});
    run_to_port(0x10);
    // Again as it is.
    EXPECT({0, .only_complete = true},
           {ALL, .guest = fake_port, .in = true, .port = 0x10, .size = 1, .length = 2});
    run_to_port(0x10);
    // Elsewhere.
    set(WHvX64RegisterRax, 0x4321);
    set(WHvX64RegisterRip, OTHER);
    EXPECT({0, .only_complete = true}, {ALL, OUT_ROW(0x12)});
    run_to_port(0x12);
    assert_int_equal(get(WHvX64RegisterRax), 0x4321);
}

static void insb_finishes(void)
{
    memory[KVM][0x5000] = (uint8_t)fake_input(1);
    fake_kvm.regs.rdi++;
    fake_skip(1);
}

// x86.c, kvm_skip_emulated_instruction and kvm_vcpu_do_singlestep: with KVM_GUESTDBG_SINGLESTEP an
// instruction that is completed ends in KVM_EXIT_DEBUG, which lies where the port's exit was.
static void test_in_stepped(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xE6, 0x10, 0x6C);        // out 0x10, al; insb
    set(WHvX64RegisterRdi, 0x5000);
    set(WHvX64RegisterRdx, 0x20);
    for (unsigned n = 0; n < PAIR; n++)
        memory[n][0x5000] = 0x99;
    EXPECT({ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
    // To be told of NMIs that open, a processor of KVM's has to be stepped; here they never do.
    WHV_REGISTER_VALUE blocked;
    memset(&blocked, 0, sizeof blocked);
    blocked.InterruptState.NmiMasked = 1;
    set_value(WHvRegisterInterruptState, blocked);
    set_notifications(true, false, 0);
    set(WHvX64RegisterRip, CODE + 2);
    EXPECT({REGS | EVENTS, .guest = fake_port_read, .in = true, .port = 0x20, .size = 1,
            .finish = insb_finishes},
           {0, .only_complete = true}, {0, .only_complete = true});
    assert_int_equal(fake_kvm.guest_debug.control, 0);
    run_to_port(0x20);
    assert_int_equal(fake_kvm.guest_debug.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
}

// ---- MSRs -------------------------------------------------------------------------------------------------

#define MSR_ROW(in_) .guest = fake_msr, .in = (in_), .number = 0x12345, .reason = KVM_MSR_EXIT_REASON_UNKNOWN

static void value_is_given(void)
{
    assert_int_equal(fake_kvm.run->msr.error, 0);
    assert_int_equal(fake_kvm.run->msr.data, 0x1122334455667788);
}

// x86.c, kvm_msr_user_space and complete_fast_rdmsr, complete_fast_msr_access: RIP is on it; the next run
// skips what is at RIP then, wherever that is.
static void test_msr(void **state)
{
    (void)state;
    start(MSR_EXIT, 0);
    PUT(CODE, 0x0F, 0x32, 0x0F, 0x30, 0xE6, 0x11);      // rdmsr; wrmsr; out 0x11, al
    PUT(OTHER, 0xE6, 0x12);
    set(WHvX64RegisterRcx, 0x12345);
    EXPECT({ALL, MSR_ROW(true)});
    (void)run_both(WHvRunVpExitReasonX64MsrAccess);
    EXPECT({0, .only_complete = true}, {ALL, MSR_ROW(true)});
    (void)run_both(WHvRunVpExitReasonX64MsrAccess);
    set(WHvX64RegisterRax, 0x55667788);
    set(WHvX64RegisterRdx, 0x11223344);
    set(WHvX64RegisterRip, CODE + 2);
    EXPECT({0, .enter = value_is_given, MSR_ROW(false)});
    (void)run_both(WHvRunVpExitReasonX64MsrAccess);
    set(WHvX64RegisterRip, CODE + 4);
    EXPECT({0, OUT_ROW(0x11)});
    run_to_port(0x11);
    assert_int_equal(run_calls, 0);
    // Given up: the client goes on elsewhere.
    set(WHvX64RegisterRip, CODE + 2);
    EXPECT({REGS, MSR_ROW(false)});
    (void)run_both(WHvRunVpExitReasonX64MsrAccess);
    set(WHvX64RegisterRip, OTHER);
    EXPECT({0, .only_complete = true}, {ALL, OUT_ROW(0x12)});
    run_to_port(0x12);
}

// x86.c, kvm_msr_reason: INVAL is a register that refuses the value.
static void test_msr_refuses(void **state)
{
    (void)state;
    start(MSR_EXIT, 0);
    PUT(CODE, 0xE6, 0x10, 0x0F, 0x30);
    put_handler(13, OTHER);
    set(WHvX64RegisterRcx, 0x277);      // IA32_PAT, and a memory type that there is not
    set(WHvX64RegisterRax, 2);
    EXPECT({ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
    set(WHvX64RegisterRip, CODE + 2);
    EXPECT({REGS, .guest = fake_msr, .number = 0x277, .reason = KVM_MSR_EXIT_REASON_INVAL},
           {0, .only_complete = true},
           {ALL, OUT_ROW(0x70)});
    run_to_port(0x70);
}

// Set a property; how many calls to the kernel that took.
static unsigned calls_of_change(WHV_PARTITION_PROPERTY_CODE code, uint64_t value, UINT32 size)
{
    unsigned before = fake_kvm.calls;

    assert_ok(WHvSetPartitionProperty(pair[KVM], code, &value, size));
    return fake_kvm.calls - before;
}

// KVM has all its processors stop for a filter: it gets one when the MSRs that exit are others, and whenever it is not
// known what it has.
static void test_msr_changes(void **state)
{
    const uint64_t read = (WHV_X64_MSR_EXIT_BITMAP){.TscMsrRead = 1}.AsUINT64, write = read ^ 6;
    unsigned filter;

    (void)state;
    start(MSR_EXIT, 0);
    filter = calls_of_change(WHvPartitionPropertyCodeX64MsrExitBitmap, read, 8);
    assert_true(filter > 0);
    assert_int_equal(calls_of_change(WHvPartitionPropertyCodeX64MsrExitBitmap, read, 8), 0);
    assert_int_equal(calls_of_change(WHvPartitionPropertyCodeCpuidExitList, 1, 4), 0);
    assert_int_equal(calls_of_change(WHvPartitionPropertyCodeExceptionExitBitmap, 8, 8), 0);
    assert_int_equal(calls_of_change(WHvPartitionPropertyCodeX64MsrExitBitmap, write, 8), filter);
    // A change that fails, and so does the way back: what KVM has is not known then.
    fake_fail(1, 2);
    assert_int_not_equal(WHvSetPartitionProperty(pair[KVM], WHvPartitionPropertyCodeX64MsrExitBitmap, &read, 8), S_OK);
    assert_int_equal(fake_fail_end(), 2);
    assert_int_equal(calls_of_change(WHvPartitionPropertyCodeX64MsrExitBitmap, write, 8), filter);
    // Without X64MsrExit the bitmap means nothing.
    assert_int_equal(calls_of_change(WHvPartitionPropertyCodeExtendedVmExits, 0, 8), filter);
    assert_int_equal(calls_of_change(WHvPartitionPropertyCodeX64MsrExitBitmap, read, 8), 0);
}

// ---- Exceptions -------------------------------------------------------------------------------------------

// vmx.c, handle_exception_nmi; svm.c, bp_interception: RIP is on the INT3.
static void test_breakpoint(void **state)
{
    WHV_REGISTER_VALUE value;

    (void)state;
    start(EXCEPTION_EXIT, BP | DB);
    PUT(CODE, 0xCC, 0xE6, 0x11);
    put_handler(3, OTHER);
    EXPECT({ALL, .guest = fake_debug, .number = 3});
    (void)run_both(WHvRunVpExitReasonException);
    assert_int_equal(fake_kvm.guest_debug.control,
                     KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_USE_HW_BP);
    // Again as it is.
    EXPECT({0, .guest = fake_debug, .number = 3});
    (void)run_both(WHvRunVpExitReasonException);
    // The client passes it on: the engine delivers it.
    memset(&value, 0, sizeof value);
    value.ExceptionEvent.EventPending = 1;
    value.ExceptionEvent.EventType = WHvX64PendingEventException;
    value.ExceptionEvent.Vector = 3;
    set_value(WHvRegisterPendingEvent, value);
    EXPECT({ALL, OUT_ROW(0x70)});
    run_to_port(0x70);
}

static void test_breakpoint_pending(void **state)
{
    WHV_REGISTER_VALUE value;

    (void)state;
    start(EXCEPTION_EXIT, BP);
    PUT(CODE, 0xCC, 0xE6, 0x11);
    put_handler(3, OTHER);
    EXPECT({ALL, .guest = fake_debug, .number = 3});
    (void)run_both(WHvRunVpExitReasonException);
    memset(&value, 0, sizeof value);
    value.PendingInterruption.InterruptionPending = 1;
    value.PendingInterruption.InterruptionType = WHvX64PendingException;
    value.PendingInterruption.InterruptionVector = 3;
    value.PendingInterruption.InstructionLength = 1;
    set_value(WHvRegisterPendingInterruption, value);
    EXPECT({ALL, OUT_ROW(0x70)});
    run_to_port(0x70);
}

// vmx.c, handle_exception_nmi; svm.c, db_interception: with KVM_GUESTDBG_USE_HW_BP every #DB comes here, and
// DR6's causes in the exit.
static void test_trap(void **state)
{
    (void)state;
    start(EXCEPTION_EXIT, DB);
    PUT(CODE, 0x90, 0x90, 0xE6, 0x11);
    set(WHvX64RegisterRflags, RFLAGS_TF);
    EXPECT({ALL, .guest = fake_debug, .number = 1, .ahead = 1, .reason = DR6_BS});
    (void)run_both(WHvRunVpExitReasonException);
    // On without the flag.
    set(WHvX64RegisterRflags, 2);
    EXPECT({REGS, .ahead = 1, OUT_ROW(0x11)});
    run_to_port(0x11);
}

// x86.c, kvm_arch_vcpu_ioctl_set_guest_debug: breakpoints are those that are handed over, no longer the
// guest's own.
static void test_hardware_breakpoint(void **state)
{
    (void)state;
    start(EXCEPTION_EXIT, DB);
    PUT(CODE, 0x90, 0x90, 0xE6, 0x11);
    set(WHvX64RegisterDr0, CODE + 1);
    set(WHvX64RegisterDr7, 0x401);
    EXPECT({ALL, .guest = fake_debug, .number = 1, .ahead = 1, .reason = 1});
    (void)run_both(WHvRunVpExitReasonException);
    assert_int_equal(fake_kvm.guest_debug.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP);
    assert_int_equal(fake_kvm.guest_debug.arch.debugreg[0], CODE + 1);
    assert_int_equal(fake_kvm.guest_debug.arch.debugreg[7], 0x401 | DR7_GD);
    set(WHvX64RegisterDr7, 0x400);
    EXPECT({0, .ahead = 1, OUT_ROW(0x11)});
    run_to_port(0x11);
    assert_int_equal(fake_kvm.guest_debug.arch.debugreg[7], 0x400 | DR7_GD);
}

// vmx.c, handle_dr: with DR7.GD among them, what writes a debug register exits before it has. So the guest's
// own breakpoints are known when they count.
static void test_guest_sets_breakpoint(void **state)
{
    (void)state;
    start(EXCEPTION_EXIT, DB);
    PUT(CODE, 0x0F, 0x23, 0xC0, 0x0F, 0x23, 0xFB, 0x90, 0x90, 0xE6, 0x11);   // mov dr0, eax; mov dr7, ebx
    set(WHvX64RegisterRax, CODE + 7);
    set(WHvX64RegisterRbx, 0x401);
    EXPECT({ALL, .guest = fake_debug, .number = 1, .reason = DR6_BD},
           {ALL, .guest = fake_debug, .number = 1, .reason = DR6_BD},
           {ALL, .guest = fake_debug, .number = 1, .ahead = 1, .reason = 1});
    (void)run_both(WHvRunVpExitReasonException);
    assert_int_equal(get(WHvX64RegisterRip), CODE + 7);
    assert_int_equal(fake_kvm.guest_debug.arch.debugreg[0], CODE + 7);
    assert_int_equal(fake_kvm.guest_debug.arch.debugreg[7], 0x401 | DR7_GD);
    assert_int_equal(fake_kvm.debug.dr7, 0x401);
}

// A step that the engine makes for itself ends in a #DB too, and is nobody else's business.
static void test_own_step(void **state)
{
    WHV_REGISTER_VALUE blocked;

    (void)state;
    start(EXCEPTION_EXIT, DB);
    PUT(CODE, 0x90, 0x90, 0xE6, 0x11);
    memset(&blocked, 0, sizeof blocked);
    blocked.InterruptState.NmiMasked = 1;
    set_value(WHvRegisterInterruptState, blocked);
    set_notifications(true, false, 0);
    EXPECT({ALL, .guest = fake_debug, .number = 1, .ahead = 1, .reason = DR6_BS},
           {0, .guest = fake_debug, .number = 1, .ahead = 1, .reason = DR6_BS}, {0, OUT_ROW(0x11)});
    run_to_port(0x11);
}

// ---- Windows, halt ----------------------------------------------------------------------------------------

static void asks_for_window(void) { assert_int_equal(fake_kvm.run->request_interrupt_window, 1); }
static void asks_for_no_window(void) { assert_int_equal(fake_kvm.run->request_interrupt_window, 0); }
static void sti_nop(void)
{
    fake_kvm.regs.rip += 2;
    fake_kvm.regs.rflags |= 0x200;
}
static void cr8_falls(void)
{
    fake_kvm.regs.rip += 4;
    fake_kvm.sregs.cr8 = 3;
}

// x86.c, dm_request_for_irq_injection: an exit when interrupts can be taken.
static void test_window(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xFB, 0x90, 0x90, 0xE6, 0x11);
    set_notifications(false, true, 0);
    EXPECT({ALL, .enter = asks_for_window, .guest = fake_exit, .number = KVM_EXIT_IRQ_WINDOW_OPEN,
            .finish = sti_nop});
    (void)run_both(WHvRunVpExitReasonX64InterruptWindow);
    EXPECT({0, .enter = asks_for_no_window, .ahead = 1, OUT_ROW(0x11)});
    (void)run_kvm();
}

// vmx.c, handle_cr; svm.c, cr8_write_interception: an exit when CR8 falls, behind the instruction.
static void test_priority(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    start(0, 0);
    set(WHvX64RegisterRflags, RFLAGS_IF);
    set(WHvX64RegisterCr8, 8);
    set_notifications(false, true, 5);
    EXPECT({ALL, .enter = asks_for_no_window, .guest = fake_exit, .number = KVM_EXIT_SET_TPR,
            .finish = cr8_falls});
    exit = run_kvm();
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64InterruptWindow);
    assert_int_equal(exit.InterruptWindow.DeliverableType, WHvX64PendingInterrupt);
    assert_int_equal(exit.VpContext.Cr8, 3);
    assert_int_equal(exit.VpContext.Rip, CODE + 4);
}

// x86.c, kvm_emulate_halt: without an APIC in the kernel, behind the instruction.
static void test_halt(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xF4, 0xE6, 0x11);
    EXPECT({ALL, .guest = fake_halt});
    (void)run_both(WHvRunVpExitReasonX64Halt);
    EXPECT({0, OUT_ROW(0x11)});
    run_to_port(0x11);
}

// ---- Ends of a run ----------------------------------------------------------------------------------------

// vmx.c, handle_triple_fault: the processor stands at the instruction, as it was.
static void test_shutdown(void **state)
{
    WHV_REGISTER_VALUE table;

    (void)state;
    start(0, 0);
    PUT(CODE, 0xCC);
    memset(&table, 0, sizeof table);
    set_value(WHvX64RegisterIdtr, table);
    EXPECT({ALL, .guest = fake_exit, .number = KVM_EXIT_SHUTDOWN});
    (void)run_both(WHvRunVpExitReasonUnrecoverableException);
}

// What could not be delivered need not be of the instruction there.
static void test_shutdown_by_event(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    start(0, 0);
    PUT(CODE, 0x40, 0xE6, 0x11);        // inc ax
    EXPECT({ALL, .guest = fake_exit, .number = KVM_EXIT_SHUTDOWN});
    exit = run_kvm();
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonUnrecoverableException);
    assert_int_equal(exit.VpContext.Rip, CODE);
    assert_int_equal(get(WHvX64RegisterRax), 0);
}

// svm.c, shutdown_interception: the processor has been reset.
static void test_shutdown_reset(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    start(0, 0);
    EXPECT({ALL, .guest = fake_shutdown_reset});
    exit = run_kvm();
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonUnrecoverableException);
}

// vmx.c, vmx_handle_exit; svm.c, svm_handle_exit: the processor refuses to be entered.
static void test_fail_entry(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    start(0, 0);
    PUT(CODE, 0xE6, 0x11);
    set(WHvX64RegisterRax, 0x99);
    EXPECT({ALL, .guest = fake_exit, .number = KVM_EXIT_FAIL_ENTRY});
    exit = run_kvm();
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonInvalidVpRegisterValue);
    EXPECT({0, OUT_ROW(0x11)});
    run_to_port(0x11);
}

// x86.c, sync_regs: general registers have been taken when special ones are refused, and what is pending is
// still pending.
static void test_refused(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    start(0, 0);
    PUT(CODE, 0xE6, 0x10, 0xE6, 0x11);
    EXPECT({ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
    set(WHvX64RegisterRip, CODE + 2);
    set(WHvX64RegisterRbx, 0x77);
    set(WHvX64RegisterCr8, 5);
    set(WHvX64RegisterCr4, 0x400);
    EXPECT({0, .only_complete = true}, {ALL, .refuse = true});
    exit = run_kvm();
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonInvalidVpRegisterValue);
    check_same_state();
    assert_int_equal(get(WHvX64RegisterCr8), 5);
    // Back where it was.
    set(WHvX64RegisterRip, CODE);
    EXPECT({ALL, OUT_ROW(0x10)});
    run_to_port(0x10);
}

// A signal that nobody here has sent (x86.c, kvm_handle_signal_exit), and a wait that ended
// (kvm_arch_vcpu_ioctl_run).
static void test_interrupted(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0x90, 0xE6, 0x11);
    EXPECT({ALL, .ahead = 1, .guest = fake_answer, .answer = -EINTR},
           {0, .guest = fake_answer, .answer = -EAGAIN},
           {0, OUT_ROW(0x11)});
    run_to_port(0x11);
}

static void test_unknown(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    start(0, 0);
    PUT(CODE, 0x90, 0xE6, 0x11);
    set(WHvX64RegisterRax, 0x99);
    EXPECT({ALL, .ahead = 1, .guest = fake_exit, .number = 999});
    assert_hr(run_kvm_to(&exit), E_FAIL);
    EXPECT({0, OUT_ROW(0x11)});
    run_to_port(0x11);
}

// ---- Cancel -----------------------------------------------------------------------------------------------

static void *cancel_thread(void *partition)
{
    assert_ok(WHvCancelRunVirtualProcessor(partition, 0, 0));
    return NULL;
}

// Another thread cancels now.
static void cancel(void)
{
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, cancel_thread, pair[KVM]), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void check_canceled(void)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = run_kvm();

    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonCanceled);
    check_same_state();
}

// kvm_main.c, kvm_vcpu_ioctl: immediate_exit counts as it is when KVM_RUN begins. The engine has looked
// before that.
static void test_cancel_at_entry(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xE4, 0x10, 0xE6, 0x11);
    EXPECT({ALL, .enter = cancel, .only_complete = true});
    check_canceled();
    EXPECT({0, .guest = fake_port, .in = true, .port = 0x10, .size = 1, .length = 2});
    run_to_port(0x10);
    // The data of an IN is on its way.
    set(WHvX64RegisterRax, 0x55);
    set(WHvX64RegisterRip, CODE + 2);
    EXPECT({0, .enter = cancel, .only_complete = true});
    check_canceled();
    EXPECT({0, OUT_ROW(0x11)});
    run_to_port(0x11);
    set(WHvX64RegisterRip, CODE + 2);
    set(WHvX64RegisterRbx, 0x66);
    // What is pending is being completed.
    EXPECT({0, .enter = cancel, .only_complete = true});
    check_canceled();
    EXPECT({ALL, OUT_ROW(0x11)});
    run_to_port(0x11);
}

static void queue_fault_and_cancel(void)
{
    fake_queue(13, true, 0);
    cancel();
}

// x86.c, __set_regs: general registers that are handed over drop an exception that is queued.
// kvm_vcpu_ioctl_x86_get_vcpu_events tells of it as of one that is being delivered.
static void test_cancel_with_exception(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    start(0, 0);
    put_handler(13, OTHER);
    EXPECT({ALL, .guest = fake_answer, .answer = -EINTR, .finish = queue_fault_and_cancel});
    exit = run_kvm();
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonCanceled);
    assert_int_equal(exit.VpContext.ExecutionState.InterruptionPending, 1);
    set(WHvX64RegisterRbx, 0x66);
    EXPECT({REGS | EVENTS, .guest = fake_exit, .number = KVM_EXIT_FAIL_ENTRY});
    (void)run_kvm();
    assert_int_equal(fake_kvm.events.exception.injected, 1);
    assert_int_equal(fake_kvm.events.exception.nr, 13);
}

#define TEST(name) cmocka_unit_test_teardown(name, pair_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_out), TEST(test_out_again), TEST(test_out_twice), TEST(test_out_7e),
        TEST(test_out_same_place),
        TEST(test_out_trapped), TEST(test_in), TEST(test_in_otherwise), TEST(test_in_stepped), TEST(test_msr),
        TEST(test_msr_refuses), TEST(test_msr_changes), TEST(test_breakpoint), TEST(test_breakpoint_pending),
        TEST(test_trap),
        TEST(test_hardware_breakpoint), TEST(test_guest_sets_breakpoint), TEST(test_own_step),
        TEST(test_window), TEST(test_priority), TEST(test_halt),
        TEST(test_shutdown), TEST(test_shutdown_by_event), TEST(test_shutdown_reset), TEST(test_fail_entry),
        TEST(test_refused), TEST(test_interrupted), TEST(test_unknown), TEST(test_cancel_at_entry),
        TEST(test_cancel_with_exception),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
