// Exception exits: one for every vector that the engine offers, and the ways to go on after one.
#include "modes.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

// Each in 32-bit protected mode. `prepare` gets the processor ready; the exception comes at `at` bytes into
// the code.
struct example {
    const char *name;
    uint8_t vector;
    const char *code;
    uint8_t size, at;
    bool has_error;
    uint32_t error;
    UINT64 parameter;
    uint8_t software;       // the length of an INT3, INTO or INT1
    void (*prepare)(WHV_PARTITION_HANDLE p);
};

static void overflow(WHV_PARTITION_HANDLE p) { set_register(p, 0, WHvX64RegisterRflags, 0x802); }
static void single_step(WHV_PARTITION_HANDLE p) { set_register(p, 0, WHvX64RegisterRflags, 0x102); }
static void bounds(WHV_PARTITION_HANDLE p) { (void)p, put64(memory, DATA, 0x0000000600000005); }
static void no_task_switched(WHV_PARTITION_HANDLE p) { set_register(p, 0, WHvX64RegisterCr0, 0x19); }

static void bad_inner_stack(WHV_PARTITION_HANDLE p)
{
    enter_user(p, CODE32);
    put64(memory, TSS + 4, 0x18ull << 32 | (STACK - 0x100));        // a code segment
}

static void absent_segment(WHV_PARTITION_HANDLE p)
{
    memory[GDT + 0x25] &= 0x7F;
    set_register(p, 0, WHvX64RegisterRax, 0x20);
}

static void short_stack(WHV_PARTITION_HANDLE p)
{
    set_register(p, 0, WHvX64RegisterRbp, 0xFFFFFFFD);              // 4 bytes that end behind 4 GiB
}

static void no_segment(WHV_PARTITION_HANDLE p) { set_register(p, 0, WHvX64RegisterRax, 0x1000); }

static void x87(WHV_PARTITION_HANDLE p)
{
    put64(memory, DATA, 0x33B);         // division by zero is not masked
    set_register(p, 0, WHvX64RegisterCr0, 0x31);
}

static void user_alignment(WHV_PARTITION_HANDLE p)
{
    enter_user(p, CODE32);
    set_register(p, 0, WHvX64RegisterCr0, 0x40011);
    set_register(p, 0, WHvX64RegisterRflags, 0x40002);
}

static void sse(WHV_PARTITION_HANDLE p)
{
    put64(memory, DATA, 0x1D80);        // the same
    set_register(p, 0, WHvX64RegisterCr4, 0x600);
    set_register(p, 0, WHvX64RegisterXmm0, 0x3F800000);
    set_register(p, 0, WHvX64RegisterXmm1, 0);
}

static void no_table(WHV_PARTITION_HANDLE p) { set_table(p, WHvX64RegisterIdtr, IDT, 0); }

#define BYTES(text) text, sizeof(text) - 1
static const struct example examples[] = {
    {"divide by zero", 0, BYTES("\xF7\xF1"), 0, false, 0, 0, 0, NULL},          // div ecx
    {"single step", 1, BYTES("\x90\x90"), 1, false, 0, 0x4000, 0, single_step}, // nop
    {"INT1", 1, BYTES("\xF1"), 0, false, 0, 0, 1, NULL},
    {"INT3", 3, BYTES("\xCC"), 0, false, 0, 0, 1, NULL},
    {"long INT3 prefix", 3, BYTES("\x66\xCC"), 0, false, 0, 0, 2, NULL},
    {"INTO", 4, BYTES("\xCE"), 0, false, 0, 0, 1, overflow},
    {"BOUND", 5, BYTES("\x62\x0D\x00\x30\x00\x00"), 0, false, 0, 0, 0, bounds}, // bound ecx, [0x3000]
    {"undefined", 6, BYTES("\x0F\x0B"), 0, false, 0, 0, 0, NULL},               // ud2
    {"no device", 7, BYTES("\xD9\xE8"), 0, false, 0, 0, 0, no_task_switched},   // fld1
    {"double fault", 8, BYTES("\x0F\x0B"), 0, true, 0, 0, 0, no_table},
    {"bad stack in TSS", 10, BYTES("\xCD\x80"), 0, true, 0x18, 0, 0, bad_inner_stack}, // int 0x80
    {"absent segment", 11, BYTES("\x8E\xD8"), 0, true, 0x20, 0, 0, absent_segment},    // mov ds, eax
    {"stack limit", 12, BYTES("\x8B\x45\x00"), 0, true, 0, 0, 0, short_stack},         // mov eax, [ebp]
    {"bad selector", 13, BYTES("\x8E\xD8"), 0, true, 0x1000, 0, 0, no_segment},        // mov ds, eax
    // fninit; fldcw [0x3000]; fld1; fldz; fdivp; fwait
    {"x87", 16, BYTES("\xDB\xE3\xD9\x2D\x00\x30\x00\x00\xD9\xE8\xD9\xEE\xDE\xF9\x9B"), 14, false, 0, 0, 0,
     x87},
    {"alignment", 17, BYTES("\xA1\x01\x30\x00\x00"), 0, true, 0, 0, 0, user_alignment}, // mov eax, [0x3001]
    // ldmxcsr [0x3000]; divss xmm0, xmm1
    {"SSE", 19, BYTES("\x0F\xAE\x15\x00\x30\x00\x00\xF3\x0F\x5E\xC1"), 7, false, 0, 0, 0, sse},
};

static WHV_PARTITION_HANDLE start(const struct example *e)
{
    const WHV_EXTENDED_VM_EXITS exits = {.ExceptionExit = 1};
    WHV_PARTITION_HANDLE p = guest(memory, e->code, e->size);

    set_exits(p, exits);
    assert_ok(set64(p, WHvPartitionPropertyCodeExceptionExitBitmap, 1ull << e->vector));
    enter_protected(p, memory);
    for (unsigned int vector = 0; vector < 32; vector++)
        set_gate(memory, false, vector);
    set_gate(memory, false, 0x80);
    if (e->prepare)
        e->prepare(p);
    return p;
}

static WHV_RUN_VP_EXIT_CONTEXT run_to_exception(WHV_PARTITION_HANDLE p, const struct example *e)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = run(p, 0);
    const WHV_VP_EXCEPTION_CONTEXT *c = &exit.VpException;

    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonException);
    assert_int_equal(c->ExceptionType, e->vector);
    assert_int_equal(exit.VpContext.Rip, CODE + e->at);
    assert_int_equal(c->ExceptionInfo.ErrorCodeValid, e->has_error);
    assert_int_equal(c->ErrorCode, e->error);
    assert_int_equal(c->ExceptionParameter, e->parameter);
    assert_int_equal(c->ExceptionInfo.SoftwareException, e->software != 0);
    assert_int_equal(exit.VpContext.InstructionLength, e->software);
    assert_int_equal(c->InstructionByteCount, 16);
    assert_memory_equal(c->InstructionBytes, memory + CODE + e->at, 16);
    // A double fault comes up during the delivery of something else.
    assert_int_equal(exit.VpContext.ExecutionState.InterruptionPending, e->vector == 8);
    return exit;
}

// The handler of the vector runs, and would return where the processor manuals say.
static void assert_delivered(WHV_PARTITION_HANDLE p, const struct example *e)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = run(p, 0);
    UINT64 rsp;

    assert_port_exit(&exit, e->vector);
    rsp = get_register(p, 0, WHvX64RegisterRsp);
    if (e->has_error) {
        assert_int_equal((uint32_t)peek64(memory, rsp), e->error);
        rsp += 4;
    }
    assert_int_equal((uint32_t)peek64(memory, rsp), CODE + e->at + e->software);
    assert_int_equal(get_register(p, 0, WHvX64RegisterDr6) & 0xE00F, e->parameter);
    assert_int_equal(get_register(p, 0, WHvRegisterPendingInterruption), 0);
}

static void ready_for_delivery(WHV_PARTITION_HANDLE p)
{
    set_table(p, WHvX64RegisterIdtr, IDT, 0x7FF);
    put64(memory, TSS + 4, (UINT64)DATA_SELECTOR << 32 | (STACK - 0x100));
}

static void test_every_vector(void **state)
{
    const UINT64 bitmap = engine_capability(WHvCapabilityCodeExceptionExitBitmap).ExceptionExitBitmap;
    UINT64 seen = 0, refused = 0;

    (void)state;
    NEEDS(engine_has_exits((WHV_EXTENDED_VM_EXITS){.ExceptionExit = 1}));
    for (unsigned int i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        const struct example *e = &examples[i];
        WHV_X64_PENDING_EXCEPTION_EVENT event;
        WHV_RUN_VP_EXIT_CONTEXT exit;
        WHV_REGISTER_NAME name = WHvRegisterPendingEvent;
        WHV_REGISTER_VALUE value;
        WHV_PARTITION_HANDLE p;

        print_message("%s\n", e->name);
        if (!(bitmap >> e->vector & 1)) {
            refused |= 1ull << e->vector;
            continue;
        }
        seen |= 1ull << e->vector;
        p = start(e);
        exit = run_to_exception(p, e);
        // Nothing was delivered: running again raises it again, but for a trap.
        if (e->at == 0)
            exit = run_to_exception(p, e);
        // The client hands it on to the guest.
        ready_for_delivery(p);
        memset(&event, 0, sizeof(event));
        event.EventPending = 1;
        event.EventType = WHvX64PendingEventException;
        event.DeliverErrorCode = exit.VpException.ExceptionInfo.ErrorCodeValid;
        event.Vector = exit.VpException.ExceptionType;
        event.ErrorCode = exit.VpException.ErrorCode;
        event.ExceptionParameter = exit.VpException.ExceptionParameter;
        memset(&value, 0, sizeof(value));
        value.ExceptionEvent = event;
        assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value));
        assert_delivered(p, e);
        assert_ok(WHvDeletePartition(p));
    }
    // #PF has a test of its own; #MC and #CP do not happen.
    assert_int_equal(bitmap & ~(seen | 1ull << 14 | 1ull << 18 | 1ull << 21), 0);
    assert_int_not_equal(seen, 0);
    engine_has_vectors(refused);
}

// Every exception of WHV_EXCEPTION_TYPE has its bit, and nothing else has one. INT n is not an exception, also where
// nothing else raises the vector.
static void test_bitmap(void **state)
{
    static const UINT64 named = 0x2F7DFB;       // without NMI, 9, 15 and 20, and nothing above #CP
    WHV_EXTENDED_VM_EXITS exits = {.ExceptionExit = 1};
    UINT64 value;

    (void)state;
    NEEDS(engine_has_vectors(named));
    for (unsigned int vector = 0; vector < 64; vector++) {
        // int vector; out 0x40, al
        const char code[] = {(char)0xCD, (char)vector, (char)0xE6, 0x40};
        const struct example by_int = {"", (uint8_t)vector, code, sizeof(code), 0, false, 0, 0, 0, NULL};
        WHV_RUN_VP_EXIT_CONTEXT exit;
        WHV_PARTITION_HANDLE p;

        if (!(named >> vector & 1)) {
            p = created(1);
            assert_hr(set64(p, WHvPartitionPropertyCodeExceptionExitBitmap, 1ull << vector), E_INVALIDARG);
            assert_hr(set64(p, WHvPartitionPropertyCodeExceptionExitBitmap, named | 1ull << vector), E_INVALIDARG);
            assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeExceptionExitBitmap, &value, sizeof(value),
                                              NULL));
            assert_int_equal(value, 0);
        } else {
            p = start(&by_int);
            assert_ok(set64(p, WHvPartitionPropertyCodeExceptionExitBitmap, named));
            set_exits(p, exits);
            exit = run(p, 0);
            assert_port_exit(&exit, (UINT16)vector);
        }
        assert_ok(WHvDeletePartition(p));
    }
}

// The same through PendingInterruption, which has the instruction's length and no parameter.
static void test_pending_interruption(void **state)
{
    const UINT64 bitmap = engine_capability(WHvCapabilityCodeExceptionExitBitmap).ExceptionExitBitmap;
    UINT64 refused = 0;

    (void)state;
    NEEDS(engine_has_exits((WHV_EXTENDED_VM_EXITS){.ExceptionExit = 1}));
    for (unsigned int i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        const struct example *e = &examples[i];
        WHV_X64_PENDING_INTERRUPTION_REGISTER pending = {.AsUINT64 = 0};
        WHV_RUN_VP_EXIT_CONTEXT exit;
        WHV_PARTITION_HANDLE p;

        if (e->parameter)
            continue;
        if (!(bitmap >> e->vector & 1)) {
            refused |= 1ull << e->vector;
            continue;
        }
        print_message("%s\n", e->name);
        p = start(e);
        exit = run_to_exception(p, e);
        ready_for_delivery(p);
        pending.InterruptionPending = 1;
        pending.InterruptionType = WHvX64PendingException;
        pending.InterruptionVector = exit.VpException.ExceptionType;
        pending.DeliverErrorCode = exit.VpException.ExceptionInfo.ErrorCodeValid;
        pending.ErrorCode = exit.VpException.ErrorCode;
        pending.InstructionLength = exit.VpContext.InstructionLength;
        set_register(p, 0, WHvRegisterPendingInterruption, pending.AsUINT64);
        assert_int_equal(get_register(p, 0, WHvRegisterPendingInterruption), pending.AsUINT64);
        assert_delivered(p, e);
        assert_ok(WHvDeletePartition(p));
    }
    engine_has_vectors(refused);
}

// Without the property, without the bit, or by INT n, an exception is the guest's own affair.
static void test_not_asked_for(void **state)
{
    static const struct example undefined = {"", 6, BYTES("\x0F\x0B"), 0, false, 0, 0, 0, NULL};
    static const struct example by_int = {"", 13, BYTES("\xCD\x0D"), 0, false, 0, 0, 0, NULL};
    const WHV_EXTENDED_VM_EXITS none = {.AsUINT64 = 0};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_vectors(1u << 6 | 1u << 13));
    p = start(&undefined);
    set_exits(p, none);
    exit = run(p, 0);
    assert_port_exit(&exit, 6);
    assert_ok(WHvDeletePartition(p));

    p = start(&undefined);
    assert_ok(set64(p, WHvPartitionPropertyCodeExceptionExitBitmap, 1u << 13));
    exit = run(p, 0);
    assert_port_exit(&exit, 6);
    assert_ok(WHvDeletePartition(p));

    p = start(&by_int);
    exit = run(p, 0);
    assert_port_exit(&exit, 13);
    assert_ok(WHvDeletePartition(p));
}

// An event that the client injects is delivered and does not exit, whatever the bitmap says.
static void test_injection_does_not_exit(void **state)
{
    static const struct example nothing = {"", 13, BYTES("\x90"), 0, false, 0, 0, 0, NULL};
    WHV_X64_PENDING_INTERRUPTION_REGISTER pending = {.AsUINT64 = 0};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_vectors(1u << 13));
    p = start(&nothing);
    pending.InterruptionPending = 1;
    pending.InterruptionType = WHvX64PendingException;
    pending.InterruptionVector = 13;
    pending.DeliverErrorCode = 1;
    pending.ErrorCode = 0x1234;
    set_register(p, 0, WHvRegisterPendingInterruption, pending.AsUINT64);
    exit = run(p, 0);
    assert_port_exit(&exit, 13);
    assert_int_equal((uint32_t)peek64(memory, get_register(p, 0, WHvX64RegisterRsp)), 0x1234);
    assert_ok(WHvDeletePartition(p));
}

// An exception during the delivery of an interrupt exits with the interrupt pending. The client removes the
// cause, and running again delivers the interrupt; or it answers with the exception, which takes its place.
static void test_during_delivery(void **state)
{
    static const uint8_t code[] = {0xF4};
    const WHV_EXTENDED_VM_EXITS exits = {.ExceptionExit = 1};

    (void)state;
    NEEDS(engine_has_vectors(1u << 13));
    for (int answer = 0; answer < 2; answer++) {
        WHV_X64_PENDING_INTERRUPTION_REGISTER pending = {.AsUINT64 = 0};
        WHV_REGISTER_NAME name = WHvRegisterPendingEvent;
        WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
        WHV_RUN_VP_EXIT_CONTEXT exit;
        WHV_REGISTER_VALUE value;

        set_exits(p, exits);
        assert_ok(set64(p, WHvPartitionPropertyCodeExceptionExitBitmap, 1u << 13));
        enter_long(p, memory);
        set_gate(memory, true, 13);
        pending.InterruptionPending = 1;
        pending.InterruptionType = WHvX64PendingInterrupt;
        pending.InterruptionVector = 0x30;
        set_register(p, 0, WHvRegisterPendingInterruption, pending.AsUINT64);
        for (int attempt = 0; attempt < 2; attempt++) {
            exit = run(p, 0);
            assert_int_equal(exit.ExitReason, WHvRunVpExitReasonException);
            assert_int_equal(exit.VpException.ExceptionType, 13);
            assert_int_equal(exit.VpException.ErrorCode, 0x30 * 8 + 3);
            assert_int_equal(exit.VpContext.ExecutionState.InterruptionPending, 1);
            assert_int_equal(get_register(p, 0, WHvRegisterPendingInterruption), pending.AsUINT64);
        }
        if (answer == 0) {
            set_gate(memory, true, 0x30);
            exit = run(p, 0);
            assert_port_exit(&exit, 0x30);
        } else {
            memset(&value, 0, sizeof(value));
            value.ExceptionEvent.EventPending = 1;
            value.ExceptionEvent.DeliverErrorCode = 1;
            value.ExceptionEvent.Vector = 13;
            value.ExceptionEvent.ErrorCode = exit.VpException.ErrorCode;
            assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value));
            exit = run(p, 0);
            assert_port_exit(&exit, 13);
            assert_int_equal(peek64(memory, STACK - 48), 0x30 * 8 + 3);
        }
        assert_int_equal(get_register(p, 0, WHvRegisterPendingInterruption), 0);
        assert_ok(WHvDeletePartition(p));
    }
}

// #PF: the address is the parameter, CR2 is written by the delivery alone.
static void test_page_fault(void **state)
{
    static const uint8_t code[] = {0x88, 0x04, 0x25, 0x34, 0x12, 0x60, 0x00};       // mov [0x601234], al
    const WHV_EXTENDED_VM_EXITS exits = {.ExceptionExit = 1};
    WHV_REGISTER_NAME name = WHvRegisterPendingEvent;
    WHV_REGISTER_VALUE value;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_vectors(1u << 14));
    p = guest(memory, code, sizeof(code));
    set_exits(p, exits);
    assert_ok(set64(p, WHvPartitionPropertyCodeExceptionExitBitmap, 1u << 14));
    enter_long(p, memory);
    set_gate(memory, true, 14);
    set_register(p, 0, WHvX64RegisterCr2, 0x5555);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonException);
    assert_int_equal(exit.VpException.ExceptionType, WHvX64ExceptionTypePageFault);
    assert_int_equal(exit.VpException.ExceptionParameter, 0x601234);
    assert_int_equal(exit.VpException.ExceptionInfo.ErrorCodeValid, 1);
    assert_int_equal(exit.VpException.ErrorCode, 2);            // a write to a page that is not present
    assert_int_equal(exit.VpContext.Rip, CODE);
    assert_memory_equal(exit.VpException.InstructionBytes, code, sizeof(code));
    assert_int_equal(get_register(p, 0, WHvX64RegisterCr2), 0x5555);

    memset(&value, 0, sizeof(value));
    value.ExceptionEvent.EventPending = 1;
    value.ExceptionEvent.EventType = WHvX64PendingEventException;
    value.ExceptionEvent.DeliverErrorCode = 1;
    value.ExceptionEvent.Vector = 14;
    value.ExceptionEvent.ErrorCode = 2;
    value.ExceptionEvent.ExceptionParameter = 0x601234;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value));
    exit = run(p, 0);
    assert_port_exit(&exit, 14);
    assert_int_equal(get_register(p, 0, WHvX64RegisterCr2), 0x601234);
    assert_int_equal(peek64(memory, STACK - 48), 2);
    assert_int_equal(peek64(memory, STACK - 40), CODE);
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, &name, 1, &value));
    assert_int_equal(value.ExceptionEvent.EventPending, 0);
    assert_ok(WHvDeletePartition(p));

    // Or the client makes the page present, and the instruction is executed.
    p = guest(memory, code, sizeof(code));
    set_exits(p, exits);
    assert_ok(set64(p, WHvPartitionPropertyCodeExceptionExitBitmap, 1u << 14));
    enter_long(p, memory);
    memory[CODE + sizeof(code)] = 0xF4;
    set_register(p, 0, WHvX64RegisterRax, 0x99);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonException);
    put64(memory, PD + 24, PT | PTE_P | PTE_W);             // 0x600000 and on are what 0 and on are
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
    assert_int_equal(memory[0x1234], 0x99);
    assert_ok(WHvDeletePartition(p));
}

// The farthest that 32 bits of displacement reach, in all three kinds of direct branch.
static void test_farthest_branch(void **state)
{
    static const struct {
        uint8_t code[8], size;
    } branches[] = {
        {{0xE9, 0xFF, 0xFF, 0xFF, 0x7F}, 5},                // jmp
        {{0xE8, 0xFF, 0xFF, 0xFF, 0x7F}, 5},                // call
        {{0x0F, 0x81, 0xFF, 0xFF, 0xFF, 0x7F}, 6},          // jno
    };
    const WHV_EXTENDED_VM_EXITS exits = {.ExceptionExit = 1};

    (void)state;
    NEEDS(engine_has_vectors(1u << 14));
    for (size_t i = 0; i < sizeof(branches) / sizeof(branches[0]); i++) {
        WHV_PARTITION_HANDLE p = guest(memory, branches[i].code, branches[i].size);
        const UINT64 target = (UINT64)CODE + branches[i].size + 0x7FFFFFFF;
        WHV_RUN_VP_EXIT_CONTEXT exit;

        set_exits(p, exits);
        assert_ok(set64(p, WHvPartitionPropertyCodeExceptionExitBitmap, 1u << 14));
        enter_long(p, memory);
        exit = run(p, 0);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonException);
        assert_int_equal(exit.VpException.ExceptionType, WHvX64ExceptionTypePageFault);
        assert_int_equal(exit.VpException.ExceptionParameter, target);
        assert_int_equal(exit.VpContext.Rip, target);
        assert_ok(WHvDeletePartition(p));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_vector),
        cmocka_unit_test(test_bitmap),
        cmocka_unit_test(test_pending_interruption),
        cmocka_unit_test(test_not_asked_for),
        cmocka_unit_test(test_injection_does_not_exit),
        cmocka_unit_test(test_during_delivery),
        cmocka_unit_test(test_page_fault),
        cmocka_unit_test(test_farthest_branch),
    };

    return engine_run_tests(tests);
}
