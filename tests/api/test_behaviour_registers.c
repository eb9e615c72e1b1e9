// Registers: the reset state, values that make no lawful processor, guests of which few registers were set.
#include "modes.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

static const uint8_t out[] = {0xE6, 0x10};      // out 0x10, al

static WHV_REGISTER_VALUE get_value(WHV_PARTITION_HANDLE p, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0xEE, sizeof(value));
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, &name, 1, &value));
    return value;
}

static void set_value(WHV_PARTITION_HANDLE p, WHV_REGISTER_NAME name, const WHV_REGISTER_VALUE *value)
{
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, value));
}

// SDM vol. 3A table 10-1, "power-up"; a register that is not listed is 0.
static const struct {
    WHV_REGISTER_NAME name;
    UINT64 value;
} reset_values[] = {
    {WHvX64RegisterRip, 0xFFF0},
    {WHvX64RegisterRflags, 2},
    {WHvX64RegisterCr0, 0x60000010},
    {WHvX64RegisterDr6, 0xFFFF0FF0},
    {WHvX64RegisterDr7, 0x400},
    {WHvX64RegisterXCr0, 1},
    {WHvX64RegisterPat, 0x0007040600070406},
    {WHvX64RegisterApicBase, 0xFEE00900},
    {WHvX64RegisterMsrMtrrCap, 0x508},
};

static UINT64 reset_value(UINT32 name)
{
    for (unsigned int i = 0; i < sizeof(reset_values) / sizeof(reset_values[0]); i++)
        if ((UINT32)reset_values[i].name == name)
            return reset_values[i].value;
    return 0;
}

static void assert_segment(WHV_PARTITION_HANDLE p, UINT32 name, UINT16 selector, UINT64 base, UINT16 type)
{
    WHV_REGISTER_VALUE value = get_value(p, (WHV_REGISTER_NAME)name);

    assert_int_equal(value.Segment.Selector, selector);
    assert_int_equal(value.Segment.Base, base);
    assert_int_equal(value.Segment.Limit, 0xFFFF);
    assert_int_equal(value.Segment.Attributes, type);
}

static void assert_reset_state(WHV_PARTITION_HANDLE p)
{
    static const struct {
        UINT32 first, last;
    } zeros[] = {
        {WHvX64RegisterRax, WHvX64RegisterRcx},
        {WHvX64RegisterRbx, WHvX64RegisterRflags},
        {WHvX64RegisterCr0, WHvX64RegisterXCr0},
        {WHvX64RegisterEfer, WHvX64RegisterMsrMtrrDefType},
        {WHvX64RegisterMsrMtrrPhysBase0, WHvX64RegisterMsrMtrrPhysBaseF},
        {WHvX64RegisterMsrMtrrPhysMask0, WHvX64RegisterMsrMtrrPhysMaskF},
        {WHvX64RegisterMsrMtrrFix64k00000, WHvX64RegisterTscAux},
        {WHvX64RegisterTscDeadline, WHvX64RegisterTscAdjust},
        {(UINT32)WHvRegisterPendingInterruption, (UINT32)WHvRegisterPendingEvent},
        {(UINT32)WHvX64RegisterDeliverabilityNotifications, (UINT32)WHvRegisterInternalActivityState}};
    WHV_REGISTER_VALUE value;
    WHV_CPUID_OUTPUT id;

    for (unsigned int i = 0; i < sizeof(zeros) / sizeof(zeros[0]); i++)
        for (UINT32 name = zeros[i].first; name <= zeros[i].last; name++) {
            value = get_value(p, (WHV_REGISTER_NAME)name);
            if (value.Reg64 != reset_value(name))
                print_message("register %#x\n", name);
            assert_int_equal(value.Reg64, reset_value(name));
        }
    // RDX holds the signature of the processor.
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 1, 0, &id));
    assert_int_equal(get_value(p, WHvX64RegisterRdx).Reg64, id.Eax);
    for (UINT32 name = WHvX64RegisterEs; name <= WHvX64RegisterGs; name++)
        if (name != WHvX64RegisterCs)
            assert_segment(p, name, 0, 0, 0x93);
    assert_segment(p, WHvX64RegisterCs, 0xF000, 0xFFFF0000, 0x9B);
    assert_segment(p, WHvX64RegisterLdtr, 0, 0, 0x82);
    assert_segment(p, WHvX64RegisterTr, 0, 0, 0x8B);
    for (UINT32 name = WHvX64RegisterIdtr; name <= WHvX64RegisterGdtr; name++) {
        value = get_value(p, (WHV_REGISTER_NAME)name);
        assert_int_equal(value.Table.Base, 0);
        assert_int_equal(value.Table.Limit, 0xFFFF);
    }
    for (UINT32 name = WHvX64RegisterXmm0; name <= WHvX64RegisterFpMmx7; name++) {
        value = get_value(p, (WHV_REGISTER_NAME)name);
        assert_int_equal(value.Reg128.Low64 | value.Reg128.High64, 0);
    }
    value = get_value(p, WHvX64RegisterFpControlStatus);
    assert_int_equal(value.FpControlStatus.FpControl, 0x40);
    assert_int_equal(value.FpControlStatus.FpStatus, 0);
    assert_int_equal(value.FpControlStatus.FpTag, 0xFF);    // all hold zero, none is empty
    assert_int_equal(value.FpControlStatus.LastFpOp, 0);
    assert_int_equal(value.FpControlStatus.LastFpRip, 0);
    value = get_value(p, WHvX64RegisterXmmControlStatus);
    assert_int_equal(value.XmmControlStatus.LastFpRdp, 0);
    assert_int_equal(value.XmmControlStatus.XmmStatusControl, 0x1F80);
    assert_int_equal(value.XmmControlStatus.XmmStatusControlMask & 0xFFBF, 0xFFBF);
}

// Both of a new processor, and of one that was deleted and created again after it had run.
static void test_reset_state(void **state)
{
    WHV_PARTITION_HANDLE p = guest(memory, out, sizeof(out));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    assert_ok(WHvDeleteVirtualProcessor(p, 0));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_reset_state(p);
    enter_long(p, memory);
    set_register(p, 0, WHvX64RegisterCr8, 3);
    set_register(p, 0, WHvX64RegisterPat, 0);
    set_register(p, 0, WHvX64RegisterLstar, 0x1234);
    set_register(p, 0, WHvX64RegisterXmm7, 0x1234);
    set_register(p, 0, WHvRegisterPendingInterruption, 0x00300001);
    assert_ok(WHvDeleteVirtualProcessor(p, 0));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_reset_state(p);
    start_at(p, 0, CODE);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_ok(WHvDeletePartition(p));
}

// INIT leaves MSRs, x87 and vector registers as they are, and resets the others (SDM vol. 3A table 10-1).
static void test_init(void **state)
{
    WHV_INTERRUPT_CONTROL interrupt;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    p = created(2);
    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic));
    assert_ok(WHvSetupPartition(p));
    memcpy(memory + CODE, out, sizeof(out));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
    set_register(p, 1, WHvX64RegisterMsrMtrrDefType, 0x806);
    set_register(p, 1, WHvX64RegisterLstar, 0x1234);
    set_register(p, 1, WHvX64RegisterXmm3, 0x5678);
    set_register(p, 1, WHvX64RegisterRbx, 0x9999);
    set_register(p, 1, WHvX64RegisterCr2, 0x9999);
    set_register(p, 1, WHvX64RegisterCr0, 0x11);
    memset(&interrupt, 0, sizeof(interrupt));
    interrupt.Type = WHvX64InterruptTypeInit;
    interrupt.Destination = 1;
    assert_ok(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
    interrupt.Type = WHvX64InterruptTypeSipi;
    interrupt.Vector = CODE / PAGE;
    assert_ok(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
    exit = run(p, 1);
    assert_port_exit(&exit, 0x10);
    assert_int_equal(exit.VpContext.Cs.Selector, CODE >> 4);
    assert_int_equal(exit.VpContext.Rip, 0);
    assert_int_equal(get_register(p, 1, WHvX64RegisterMsrMtrrDefType), 0x806);
    assert_int_equal(get_register(p, 1, WHvX64RegisterLstar), 0x1234);
    assert_int_equal(get_register(p, 1, WHvX64RegisterXmm3), 0x5678);
    assert_int_equal(get_register(p, 1, WHvX64RegisterRbx), 0);
    assert_int_equal(get_register(p, 1, WHvX64RegisterCr2), 0);
    assert_int_equal(get_register(p, 1, WHvX64RegisterCr0), 0x10);      // CD and NW as they were
    assert_ok(WHvDeletePartition(p));
}

// Every register holds what is written to it.
static void test_round_trip(void **state)
{
    static const struct {
        WHV_REGISTER_NAME name;
        UINT64 value;
    } values[] = {
        {WHvX64RegisterR15, 0xFEDCBA9876543210}, {WHvX64RegisterRip, 0x8765},
        {WHvX64RegisterRflags, 0x246},           {WHvX64RegisterCr2, 0xFFFF800000001234},
        {WHvX64RegisterCr3, 0x12345000},         {WHvX64RegisterCr8, 15},
        {WHvX64RegisterDr0, 0xFFFF800000001234}, {WHvX64RegisterDr3, 0x1000},
        {WHvX64RegisterDr6, 0xFFFF4FF1},         {WHvX64RegisterDr7, 0x10455},
        {WHvX64RegisterEfer, 0xD01},             {WHvX64RegisterKernelGsBase, 0xFFFF800000000000},
        {WHvX64RegisterPat, 0x0407050600070106}, {WHvX64RegisterSysenterCs, 0x10},
        {WHvX64RegisterSysenterEip, 0xFFFF800000001234}, {WHvX64RegisterSysenterEsp, 0xFFFF800000005678},
        {WHvX64RegisterStar, 0x0023001000000000}, {WHvX64RegisterLstar, 0xFFFF800000001234},
        {WHvX64RegisterCstar, 0xFFFF800000001234}, {WHvX64RegisterSfmask, 0x47700},
        {WHvX64RegisterTscAux, 0x4711},          {WHvX64RegisterMsrMtrrDefType, 0xC06},
        {WHvX64RegisterMsrMtrrPhysBase0, 0x80000000}, {WHvX64RegisterMsrMtrrPhysMask0, 0x3FFF80000800},
        {WHvX64RegisterMsrMtrrFix64k00000, 0x0606060606060606}, {WHvRegisterInterruptState, 3},
        {WHvX64RegisterDeliverabilityNotifications, 0x17},
    };
    WHV_PARTITION_HANDLE p = guest(memory, out, sizeof(out));
    WHV_REGISTER_VALUE value;

    (void)state;
    for (unsigned int i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        set_register(p, 0, values[i].name, values[i].value);
    for (unsigned int i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        assert_int_equal(get_register(p, 0, values[i].name), values[i].value);
    for (UINT32 name = WHvX64RegisterXmm0; name <= WHvX64RegisterXmm15; name++) {
        memset(&value, (int)name + 1, sizeof(value));
        set_value(p, (WHV_REGISTER_NAME)name, &value);
    }
    for (UINT32 name = WHvX64RegisterXmm0; name <= WHvX64RegisterXmm15; name++) {
        value = get_value(p, (WHV_REGISTER_NAME)name);
        assert_int_equal(value.Reg128.Low64, 0x0101010101010101 * ((name + 1) & 0xFF));
        assert_int_equal(value.Reg128.High64, 0x0101010101010101 * ((name + 1) & 0xFF));
    }
    memset(&value, 0, sizeof(value));
    value.Segment = (WHV_X64_SEGMENT_REGISTER){.Base = 0x12340000, .Limit = 0xFFFFF, .Selector = 0x28,
                                               .Attributes = 0x4093};
    set_value(p, WHvX64RegisterFs, &value);
    assert_memory_equal(&value, &(WHV_REGISTER_VALUE){.Segment = get_value(p, WHvX64RegisterFs).Segment}, 16);
    assert_ok(WHvDeletePartition(p));
}

// What the guest does to its registers is what the client reads, and the other way round.
static void test_x87(void **state)
{
    static const uint8_t code[] = {0xDB, 0xE3, 0xD9, 0xEB, 0xD9, 0xE8, 0xE6, 0x10, // fninit; fldpi; fld1; out
                                   0xDD, 0x1E, 0x00, 0x30, 0xE6, 0x11};            // fstp qword [0x3000]; out
    static const double two = 2.0;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_REGISTER_VALUE value;
    WHV_PARTITION_HANDLE p;

    (void)state;
    needs_vector_code();
    p = guest(memory, code, sizeof(code));
    set_register(p, 0, WHvX64RegisterCr0, 0x30);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    value = get_value(p, WHvX64RegisterFpControlStatus);
    assert_int_equal(value.FpControlStatus.FpControl, 0x37F);
    assert_int_equal(value.FpControlStatus.FpStatus >> 11 & 7, 6);
    assert_int_equal(value.FpControlStatus.FpTag, 0xC0);    // a bit for each register that is not empty
    assert_int_equal(get_value(p, WHvX64RegisterFpMmx0).Fp.Mantissa, 0x8000000000000000);
    assert_int_equal(get_value(p, WHvX64RegisterFpMmx0).Fp.BiasedExponent, 0x3FFF);
    assert_int_equal(get_value(p, WHvX64RegisterFpMmx1).Fp.Mantissa, 0xC90FDAA22168C235);
    memset(&value, 0, sizeof(value));
    value.Fp.Mantissa = 0x8000000000000000;
    value.Fp.BiasedExponent = 0x4000;
    set_value(p, WHvX64RegisterFpMmx0, &value);
    set_register(p, 0, WHvX64RegisterRip, CODE + 8);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x11);
    assert_memory_equal(memory + DATA, &two, 8);
    assert_int_equal(get_value(p, WHvX64RegisterFpControlStatus).FpControlStatus.FpTag, 0x80);
    // The tag is taken as it is given.
    value = get_value(p, WHvX64RegisterFpControlStatus);
    value.FpControlStatus.FpTag = 0x81;
    set_value(p, WHvX64RegisterFpControlStatus, &value);
    assert_int_equal(get_value(p, WHvX64RegisterFpControlStatus).FpControlStatus.FpTag, 0x81);
    assert_ok(WHvDeletePartition(p));
}

// Values that make no lawful processor: Set accepts, the run refuses and changes nothing, and a correction
// helps.
struct unlawful {
    const char *name;
    bool wide;
    WHV_REGISTER_NAME reg;
    UINT64 value;
    UINT32 limit;           // with a segment, whose base is `value`
    UINT16 selector, attributes;
};

static const struct unlawful unlawfuls[] = {
    {"XCR0 without x87", false, WHvX64RegisterXCr0, 0, 0, 0, 0},
    {"unknown bit in XCR0", false, WHvX64RegisterXCr0, 1ull << 62 | 1, 0, 0, 0},
    {"AVX without SSE in XCR0", false, WHvX64RegisterXCr0, 5, 0, 0, 0},
    {"paging without protection", false, WHvX64RegisterCr0, 0x80000010, 0, 0, 0},
    {"NW without CD", false, WHvX64RegisterCr0, 0x20000010, 0, 0, 0},
    {"high half of CR0", false, WHvX64RegisterCr0, 0x100000010, 0, 0, 0},
    {"unknown bit in CR4", false, WHvX64RegisterCr4, 1ull << 40, 0, 0, 0},
    {"shadow stacks without write protection", false, WHvX64RegisterCr4, 1 << 23, 0, 0, 0},
    {"unknown bit in EFER", false, WHvX64RegisterEfer, 1ull << 40, 0, 0, 0},
    {"LMA without LME", false, WHvX64RegisterEfer, 1 << 10, 0, 0, 0},
    {"long mode without PAE", true, WHvX64RegisterCr4, 0x600, 0, 0, 0},
    {"CR3 beyond the physical width", true, WHvX64RegisterCr3, 1ull << 60, 0, 0, 0},
    {"RIP not canonical", true, WHvX64RegisterRip, 1ull << 62, 0, 0, 0},
    {"RIP above 4 GiB in real mode", false, WHvX64RegisterRip, 1ull << 32, 0, 0, 0},
    {"reserved flags", false, WHvX64RegisterRflags, 1ull << 40 | 2, 0, 0, 0},
    {"virtual-8086 in long mode", true, WHvX64RegisterRflags, 0x20002, 0, 0, 0},
    {"code segment not present", true, WHvX64RegisterCs, 0, 0xFFFFFFFF, 8, 0xA01B},
    {"code segment with L and D", true, WHvX64RegisterCs, 0, 0xFFFFFFFF, 8, 0xE09B},
    {"code segment that is data", true, WHvX64RegisterCs, 0, 0xFFFFFFFF, 8, 0xC093},
    {"code segment that is a system segment", true, WHvX64RegisterCs, 0, 0xFFFFFFFF, 8, 0xA08B},
    {"stack segment that is read-only", true, WHvX64RegisterSs, 0, 0xFFFFFFFF, 0x10, 0xC091},
    {"reserved attributes", true, WHvX64RegisterDs, 0, 0xFFFFFFFF, 0x10, 0xCF93},
    {"base not canonical", true, WHvX64RegisterFs, 1ull << 62, 0xFFFFFFFF, 0x10, 0xC093},
    {"LDT that is a TSS", true, WHvX64RegisterLdtr, 0, 0xFFFF, 0x10, 0x8B},
    {"TR that is free", true, WHvX64RegisterTr, 0, 0x67, 0x28, 0x89},
};

static void test_unlawful(void **state)
{
    (void)state;
    for (unsigned int i = 0; i < sizeof(unlawfuls) / sizeof(unlawfuls[0]); i++) {
        const struct unlawful *u = &unlawfuls[i];
        WHV_PARTITION_HANDLE p = guest(memory, out, sizeof(out));
        WHV_RUN_VP_EXIT_CONTEXT exit;
        WHV_REGISTER_VALUE before, value;

        print_message("%s\n", u->name);
        if (u->wide)
            enter_long(p, memory);
        before = get_value(p, u->reg);
        memset(&value, 0, sizeof(value));
        if (u->attributes)
            value.Segment = (WHV_X64_SEGMENT_REGISTER){.Base = u->value, .Limit = u->limit,
                                                       .Selector = u->selector, .Attributes = u->attributes};
        else
            value.Reg64 = u->value;
        set_value(p, u->reg, &value);
        set_register(p, 0, WHvX64RegisterCr8, 5);
        for (int attempt = 0; attempt < 2; attempt++) {
            exit = run(p, 0);
            assert_int_equal(exit.ExitReason, WHvRunVpExitReasonInvalidVpRegisterValue);
            assert_int_equal(exit.VpContext.Cr8, 5);
            assert_int_equal(get_register(p, 0, WHvX64RegisterCr8), 5);
        }
        set_value(p, u->reg, &before);
        exit = run(p, 0);
        assert_port_exit(&exit, 0x10);
        assert_int_equal(exit.VpContext.Cr8, 5);
        assert_int_equal(exit.VpContext.Rip, CODE);
        assert_ok(WHvDeletePartition(p));
    }
}

// EFER.LMA may be given together with LME, and need not be.
static void test_lma(void **state)
{
    static const UINT64 efers[] = {0x500, 0x100};

    (void)state;
    for (int i = 0; i < 2; i++) {
        WHV_PARTITION_HANDLE p = guest(memory, out, sizeof(out));
        WHV_RUN_VP_EXIT_CONTEXT exit;

        enter_long(p, memory);
        set_register(p, 0, WHvX64RegisterEfer, efers[i]);
        exit = run(p, 0);
        assert_port_exit(&exit, 0x10);
        assert_int_equal(exit.VpContext.ExecutionState.EferLma, 1);
        assert_int_equal(get_register(p, 0, WHvX64RegisterEfer), 0x500);
        assert_ok(WHvDeletePartition(p));
    }
}

// Long mode by the few registers that some clients set: RIP, CS, GDTR, CR0, CR3, CR4, EFER, PAT, in one call.
static void test_few_registers(void **state)
{
    static const uint8_t code[] = {0x48, 0xC7, 0xC0, 0x2A, 0, 0, 0, 0xE6, 0x10}; // mov rax, 42; out 0x10, al
    static const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterRip, WHvX64RegisterCs, WHvX64RegisterGdtr, WHvX64RegisterCr0,
        WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterEfer, WHvX64RegisterPat,
    };
    WHV_PARTITION_HANDLE p = set_up(1);
    WHV_REGISTER_VALUE values[8];
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    memcpy(memory + CODE, code, sizeof(code));
    make_tables(memory, true);
    memset(memory + PML4, 0, 3 * PAGE);
    put64(memory, PML4, PDPT | PTE_P | PTE_W);
    put64(memory, PDPT, PD | PTE_P | PTE_W);
    put64(memory, PD, PTE_PS | PTE_P | PTE_W);
    assert_ok(WHvMapGpaRange(p, memory, 0, 16 * PAGE, RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    memset(values, 0, sizeof(values));
    values[0].Reg64 = CODE;
    values[1].Segment = (WHV_X64_SEGMENT_REGISTER){.Limit = 0xFFFFFFFF, .Selector = 8, .Attributes = CODE64};
    values[2].Table.Base = GDT;
    values[2].Table.Limit = 0x27;
    values[3].Reg64 = 0x80000001;
    values[4].Reg64 = PML4;
    values[5].Reg64 = 0x20;
    values[6].Reg64 = 0x500;
    values[7].Reg64 = 0x0007040600070406;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, names, 8, values));
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_int_equal(exit.IoPortAccess.Rax, 42);
    assert_ok(WHvDeletePartition(p));
}

// What Set refuses at once: it knows that no processor takes the value. Nothing is changed.
static void test_refused(void **state)
{
    static const struct {
        WHV_REGISTER_NAME name;
        UINT64 value;
    } values[] = {
        {WHvX64RegisterCr8, 16},
        {WHvX64RegisterPat, 0x0202020202020202},
        {WHvX64RegisterTscAux, 0x100000000},
        {WHvRegisterPendingInterruption, 0x00FF0007},       // an exception of vector 255
    };
    WHV_PARTITION_HANDLE p = guest(memory, out, sizeof(out));

    (void)state;
    for (unsigned int i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        WHV_REGISTER_NAME names[2] = {WHvX64RegisterRbx, values[i].name};
        UINT64 before = get_register(p, 0, values[i].name);
        WHV_REGISTER_VALUE both[2];

        memset(both, 0, sizeof(both));
        both[0].Reg64 = 0x99;
        both[1].Reg64 = values[i].value;
        assert_hr(WHvSetVirtualProcessorRegisters(p, 0, names, 2, both), 0xC0350005);
        assert_int_equal(get_register(p, 0, values[i].name), before);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRbx), 0);
    }
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset_state),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_x87),
        cmocka_unit_test(test_unlawful),
        cmocka_unit_test(test_lma),
        cmocka_unit_test(test_few_registers),
        cmocka_unit_test(test_refused),
    };

    return engine_run_tests(tests);
}
