// Writes to the local APIC that exit when they are done: registers, SMI, INIT and start-up messages; and what happens
// where nobody asks for that.
#include "bulkhead/bulkhead.h"
#include "modes.h"
#include "threads.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

#define AP_CODE 0x3000u     // of the other processor: start-up vector 3
#define ICR 0x300u
#define LINT0 0x350u
#define LINT1 0x360u

#define WRITE_SIZE 10u      // of one instruction of `writes`

static const struct {
    const char *name;
    WHV_EXTENDED_VM_EXITS exit;
    UINT32 offset, value, reads;
} registers[] = {
    {"LDR", {.X64ApicWriteLdrExitTrap = 1}, 0xD0, 0x12345678, 0x12000000},
    {"DFR", {.X64ApicWriteDfrExitTrap = 1}, 0xE0, 0x01234567, 0x0FFFFFFF},
    {"SVR", {.X64ApicWriteSvrExitTrap = 1}, 0xF0, 0xFFFFF1E7, 0x1E7},
    {"LINT0", {.X64ApicWriteLint0ExitTrap = 1}, LINT0, 0x10700, 0x10700},
    {"LINT1", {.X64ApicWriteLint1ExitTrap = 1}, LINT1, 0x00400, 0x00400},
};
#define REGISTERS (sizeof(registers) / sizeof(registers[0]))

// Code that writes one register after the other, pairs of offset and value ended by offset 0; then out 0x10, al.
static size_t writes(uint8_t *code, const UINT32 *pairs)
{
    size_t size = 0;

    for (; pairs[0]; pairs += 2) {
        // mov dword [es:offset], value
        const uint8_t start[] = {0x26, 0x66, 0xC7, 0x06, (uint8_t)pairs[0], (uint8_t)(pairs[0] >> 8)};

        memcpy(code + size, start, sizeof(start));
        memcpy(code + size + sizeof(start), &pairs[1], 4);
        size += WRITE_SIZE;
    }
    memcpy(code + size, "\xE6\x10", 2);
    return size + 2;
}

static WHV_PARTITION_HANDLE writer(UINT32 processors, const UINT32 *pairs)
{
    uint8_t code[256];
    size_t size = writes(code, pairs);

    return apic_guest(memory, processors, code, size);
}

static UINT32 apic_register(WHV_PARTITION_HANDLE p, UINT32 vp, UINT32 offset)
{
    return (UINT32)get_register(p, vp, (WHV_REGISTER_NAME)(0x3000 + offset / 16));
}

static WHV_EXTENDED_VM_EXITS all_register_exits(void)
{
    WHV_EXTENDED_VM_EXITS all = {.AsUINT64 = 0};

    for (size_t i = 0; i < REGISTERS; i++)
        all.AsUINT64 |= registers[i].exit.AsUINT64;
    return all;
}

static void assert_write_exit(const WHV_RUN_VP_EXIT_CONTEXT *exit, UINT32 type, UINT64 value, UINT64 rip)
{
    assert_int_equal(exit->ExitReason, WHvRunVpExitReasonX64ApicWriteTrap);
    assert_int_equal(exit->ApicWrite.Type, type);
    assert_int_equal(exit->ApicWrite.WriteValue, value);
    assert_int_equal(exit->VpContext.Rip, rip);
    assert_int_equal(exit->VpContext.InstructionLength, 0);
}

// Every register exits by its own bit alone, with the value applied and RIP behind the instruction.
static void test_registers(void **state)
{
    (void)state;
    NEEDS(engine_has_apic());
    for (size_t i = 0; i < REGISTERS; i++) {
        const UINT32 pairs[] = {registers[i].offset, registers[i].value, 0};
        const WHV_EXTENDED_VM_EXITS others = {.AsUINT64 = all_register_exits().AsUINT64 &
                                                          ~registers[i].exit.AsUINT64};
        WHV_RUN_VP_EXIT_CONTEXT exit;
        WHV_PARTITION_HANDLE p;

        print_message("%s\n", registers[i].name);
        if (!engine_has_exits(registers[i].exit))
            continue;
        p = writer(1, pairs);
        set_exits(p, registers[i].exit);
        exit = run(p, 0);
        assert_write_exit(&exit, registers[i].offset, registers[i].value, CODE + WRITE_SIZE);
        assert_int_equal(apic_register(p, 0, registers[i].offset), registers[i].reads);
        exit = run(p, 0);
        assert_port_exit(&exit, 0x10);
        assert_int_equal(exit.VpContext.Rip, CODE + WRITE_SIZE);
        // Not asked for: the write alone.
        for (int n = 0; n < 2; n++) {
            set_exits(p, n ? others : (WHV_EXTENDED_VM_EXITS){.AsUINT64 = 0});
            set_apic(p, 0, (const UINT32[]){0xF0, 0x1FF, registers[i].offset, 0, 0});
            set_register(p, 0, WHvX64RegisterRip, CODE);
            exit = run(p, 0);
            assert_port_exit(&exit, 0x10);
            assert_int_equal(apic_register(p, 0, registers[i].offset), registers[i].reads);
        }
        assert_ok(WHvDeletePartition(p));
    }
}

static UINT64 other_intercepts(WHV_PARTITION_HANDLE p)
{
    WHV_PROCESSOR_INTERCEPT_COUNTERS counters;

    assert_ok(WHvGetVirtualProcessorCounters(p, 0, WHvProcessorCounterSetIntercepts, &counters, sizeof(counters), NULL));
    return counters.OtherIntercepts.Count;
}

// One after the other in straight-line code: none is lost, and nothing is executed behind one.
static void test_in_a_row(void **state)
{
    const UINT32 pairs[] = {LINT0, 0x10700, LINT1, 0x400, LINT0, 0x10000, 0x80, 0x20, 0xF0, 0x1FF, LINT0, 0x8700, 0};
    static const UINT32 told[] = {0, 1, 2, 4, 5};       // all but the TPR
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic() && engine_has_exits(all_register_exits()));
    p = writer(1, pairs);
    set_exits(p, all_register_exits());
    for (int round = 0; round < 3; round++) {           // decoded anew, and again as it was left
        const UINT64 before = other_intercepts(p);
        WHV_RUN_VP_EXIT_CONTEXT exit;

        set_register(p, 0, WHvX64RegisterRip, CODE);
        for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
            const UINT32 *pair = &pairs[2 * told[i]];

            exit = run(p, 0);
            assert_write_exit(&exit, pair[0], pair[1], CODE + WRITE_SIZE * (told[i] + 1));
        }
        assert_int_equal(other_intercepts(p) - before, 5);
        exit = run(p, 0);
        assert_port_exit(&exit, 0x10);
    }
    assert_ok(WHvDeletePartition(p));
}

// By WRMSR, in x2APIC mode.
static void test_x2apic(void **state)
{
    static const uint8_t code[] = {0x0F, 0x30, 0xE6, 0x10};     // wrmsr; out 0x10, al
    static const UINT32 offsets[] = {0xF0, LINT0, LINT1};
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic() && engine_has_exits(all_register_exits()));
    p = created(1);
    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeX2Apic));
    assert_ok(WHvSetupPartition(p));
    memcpy(memory + CODE, code, sizeof(code));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    start_at(p, 0, CODE);
    set_register(p, 0, WHvX64RegisterApicBase, 0xFEE00D00);
    set_exits(p, all_register_exits());
    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        WHV_RUN_VP_EXIT_CONTEXT exit;

        set_register(p, 0, WHvX64RegisterRip, CODE);
        set_register(p, 0, WHvX64RegisterRcx, 0x800 + offsets[i] / 16);
        set_register(p, 0, WHvX64RegisterRax, 0x123);
        set_register(p, 0, WHvX64RegisterRdx, 0);
        exit = run(p, 0);
        assert_write_exit(&exit, offsets[i], 0x123, CODE + 2);
        assert_int_equal(apic_register(p, 0, offsets[i]), 0x123);
        exit = run(p, 0);
        assert_port_exit(&exit, 0x10);
    }
    assert_ok(WHvDeletePartition(p));
}

// ---- Several in one instruction ----------------------------------------------------------------

// PUSHAD onto the APIC's page writes LINT0 and LINT1 at once. What is not told yet goes along to another partition.
static void test_two_at_once(void **state)
{
    static const uint8_t code[] = {0x66, 0x60, 0xE6, 0x10};     // pushad; out 0x10, al
    const WHV_REGISTER_NAME name = WHvX64RegisterSs;
    WHV_REGISTER_VALUE ss;

    (void)state;
    NEEDS(engine_has_apic() && engine_has_exits(all_register_exits()));
    for (int move = 0; move < 2; move++) {
        WHV_PARTITION_HANDLE p = apic_guest(memory, 1, code, sizeof(code));
        WHV_RUN_VP_EXIT_CONTEXT exit;

        assert_ok(WHvGetVirtualProcessorRegisters(p, 0, &name, 1, &ss));
        ss.Segment.Base = 0xFEE00000;
        assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &ss));
        set_register(p, 0, WHvX64RegisterRsp, LINT1 + 0x10);
        set_register(p, 0, WHvX64RegisterRdi, 0x10300);         // the last that is pushed
        set_register(p, 0, WHvX64RegisterRbx, 0x10200);
        set_exits(p, all_register_exits());
        exit = run(p, 0);
        assert_write_exit(&exit, LINT0, 0x10300, CODE + 2);
        if (move)
            p = moved(p);
        exit = run(p, 0);
        assert_write_exit(&exit, LINT1, 0x10200, CODE + 2);
        exit = run(p, 0);
        assert_port_exit(&exit, 0x10);
        assert_ok(WHvDeletePartition(p));
    }
}

// A repeated string instruction stops at each write that is to be told, its registers saying how far it is.
static void test_repeated(void **state)
{
    static const uint8_t code[] = {0xF3, 0x66, 0xAB, 0xE6, 0x10};   // rep stosd; out 0x10, al
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic() && engine_has_exits(all_register_exits()));
    p = apic_guest(memory, 1, code, sizeof(code));
    set_register(p, 0, WHvX64RegisterRdi, LINT0);
    set_register(p, 0, WHvX64RegisterRcx, 5);
    set_register(p, 0, WHvX64RegisterRax, 0x10000);
    set_exits(p, all_register_exits());
    exit = run(p, 0);
    assert_write_exit(&exit, LINT0, 0x10000, CODE);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRcx), 4);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRdi), LINT0 + 4);
    exit = run(p, 0);
    assert_write_exit(&exit, LINT1, 0x10000, CODE + 3);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRcx), 0);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_ok(WHvDeletePartition(p));
}

// ---- Messages ----------------------------------------------------------------------------------

static bool waits_for_sipi(WHV_PARTITION_HANDLE p, UINT32 vp)
{
    WHV_INTERNAL_ACTIVITY_REGISTER activity = {
        .AsUINT64 = get_register(p, vp, WHvRegisterInternalActivityState)};

    return activity.StartupSuspend;
}

// ICR writes of a start: INIT, its de-assertion, start-up; a fixed interrupt before and an SMI behind.
static const UINT32 start_up[] = {ICR + 0x10, 0x01000000, ICR, 0x4040, ICR, 0xC500, ICR, 0x8500,
                                  ICR, 0x4603, ICR, 0x4200, 0};

static WHV_PARTITION_HANDLE starter(void)
{
    WHV_PARTITION_HANDLE p = writer(2, start_up);

    memcpy(memory + AP_CODE, "\xE6\x11", 2);        // out 0x11, al
    return p;
}

static void assert_started(WHV_PARTITION_HANDLE p)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = run(p, 1);

    assert_port_exit(&exit, 0x11);
    assert_int_equal(exit.VpContext.Cs.Base + exit.VpContext.Rip, AP_CODE);
}

static void test_init_and_sipi(void **state)
{
    const WHV_EXTENDED_VM_EXITS exits = {.X64ApicInitSipiExitTrap = 1};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;
    struct runner r;

    (void)state;
    NEEDS(engine_has_apic());
    // Nobody asks: the processor starts by itself.
    p = starter();
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_started(p);
    assert_ok(WHvDeletePartition(p));
    NEEDS(engine_has_exits(exits));
    p = starter();
    set_exits(p, exits);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64ApicInitSipiTrap);
    assert_int_equal(exit.ApicInitSipi.ApicIcr, 0x010000000000C500);
    assert_int_equal(exit.VpContext.Rip, CODE + 3 * WRITE_SIZE);
    assert_int_equal(exit.VpContext.InstructionLength, 0);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64ApicInitSipiTrap);
    assert_int_equal(exit.ApicInitSipi.ApicIcr, 0x0100000000004603);
    assert_int_equal(exit.VpContext.Rip, CODE + 5 * WRITE_SIZE);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    // Neither has come to the other processor, also not when it looks. The client delivers them.
    start(&r, p, 1);
    EVENTUALLY(waits_for_sipi(p, 1));
    cancel(&r);
    assert_true(waits_for_sipi(p, 1));
    assert_ok(request(p, WHvX64InterruptTypeInit, 1, 0));
    assert_ok(request(p, WHvX64InterruptTypeSipi, 1, AP_CODE >> 12));
    assert_started(p);
    assert_ok(WHvDeletePartition(p));
}

static void test_smi(void **state)
{
    const WHV_EXTENDED_VM_EXITS exits = {.X64ApicSmiExitTrap = 1};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic() && engine_has_exits(exits));
    p = starter();
    set_exits(p, exits);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64ApicSmiTrap);
    assert_int_equal(exit.ApicSmi.ApicIcr, 0x0100000000004200);
    assert_int_equal(exit.VpContext.Rip, CODE + 6 * WRITE_SIZE);
    assert_int_equal(exit.VpContext.InstructionLength, 0);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_started(p);          // that was not asked for
    assert_ok(WHvDeletePartition(p));
}

// Where an engine cannot tell of messages and writes, a client that only passes them on loses nothing: it says so, and the
// guest's processors start each other.
static void test_relaxed(void **state)
{
    WHV_EXTENDED_VM_EXITS exits = all_register_exits(), offered;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    exits.X64ApicSmiExitTrap = exits.X64ApicInitSipiExitTrap = 1;
    offered = engine_capability(WHvCapabilityCodeExtendedVmExits).ExtendedVmExits;
    p = created(2);
    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic));
    assert_ok(BulkheadSetRelaxations(p, "apic-smi-exit,apic-init-sipi-exit,apic-write-exit"));
    set_exits(p, exits);
    assert_ok(WHvSetupPartition(p));
    memset(memory, 0, sizeof(memory));
    writes(memory + CODE, (const UINT32[]){0xF0, 0x1FF, ICR + 0x10, 0x01000000, ICR, 0x4500, ICR, 0x4603, 0});
    memcpy(memory + AP_CODE, "\xE6\x11", 2);        // out 0x11, al
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
    es_to_apic(p, 0);
    start_at(p, 0, CODE);
    exit = run(p, 0);
    if (offered.X64ApicWriteSvrExitTrap) {          // nothing needs to be given up: the exits come
        assert_write_exit(&exit, 0xF0, 0x1FF, CODE + WRITE_SIZE);
    } else {
        assert_port_exit(&exit, 0x10);
        assert_started(p);
    }
    assert_ok(WHvDeletePartition(p));
}

// ---- EOI ---------------------------------------------------------------------------------------

static void assert_end(const WHV_RUN_VP_EXIT_CONTEXT *exit, UINT32 vector, UINT64 rip)
{
    assert_int_equal(exit->ExitReason, WHvRunVpExitReasonX64ApicEoi);
    assert_int_equal(exit->ApicEoi.InterruptVector, vector);
    assert_int_equal(exit->VpContext.Rip, rip);
}

// Two level-triggered interrupts, the second within the first, that end in the same straight-line code: two exits, each
// behind its write.
static void test_two_ends(void **state)
{
    static const uint8_t spinner[] = {0xFB, 0xEB, 0xFE};            // sti; jmp there
    static const uint8_t first[] = {0xFB, 0x90, 0xE6, 0x11, 0xF4};  // sti; nop; out 0x11, al; hlt
    uint8_t ends[64];
    WHV_INTERRUPT_CONTROL interrupt = {.TriggerMode = WHvX64InterruptTriggerModeLevel, .Vector = 0x41};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    if (engine_is_interpreted())
        SKIP_BECAUSE("the kernel ends an interrupt when it delivers it");
    p = apic_guest(memory, 1, spinner, sizeof(spinner));
    set_handler(memory, 0x41, first, sizeof(first));
    set_handler(memory, 0x66, ends, writes(ends, (const UINT32[]){0xB0, 0, 0xB0, 0, 0}));
    assert_ok(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
    exit = run(p, 0);
    assert_port_exit(&exit, 0x11);
    set_register(p, 0, WHvX64RegisterRip, exit.VpContext.Rip + 2);
    interrupt.Vector = 0x66;
    assert_ok(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
    exit = run(p, 0);
    assert_end(&exit, 0x66, WRITE_SIZE);
    exit = run(p, 0);
    assert_end(&exit, 0x41, 2 * WRITE_SIZE);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registers),
        cmocka_unit_test(test_in_a_row),
        cmocka_unit_test(test_x2apic),
        cmocka_unit_test(test_two_at_once),
        cmocka_unit_test(test_repeated),
        cmocka_unit_test(test_init_and_sipi),
        cmocka_unit_test(test_smi),
        cmocka_unit_test(test_relaxed),
        cmocka_unit_test(test_two_ends),
    };

    return engine_run_tests(tests);
}
