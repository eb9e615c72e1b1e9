// WHvResetPartition: processors as after creation, everything else as it was, ten thousand times over.
#include "holdings.h"
#include "threads.h"

#define BOOTS 10000
#define FIRST_BOOTS 20          // whatever is made once and kept has been made then

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
static uint8_t rom[PAGE] __attribute__((aligned(PAGE)));

static const WHV_REGISTER_NAME names[] = {
    WHvX64RegisterRax, WHvX64RegisterRcx, WHvX64RegisterRdx, WHvX64RegisterRbx, WHvX64RegisterRsp, WHvX64RegisterRbp,
    WHvX64RegisterRsi, WHvX64RegisterRdi, WHvX64RegisterR8, WHvX64RegisterR15, WHvX64RegisterRip, WHvX64RegisterRflags,
    WHvX64RegisterEs, WHvX64RegisterCs, WHvX64RegisterSs, WHvX64RegisterDs, WHvX64RegisterFs, WHvX64RegisterGs,
    WHvX64RegisterLdtr, WHvX64RegisterTr, WHvX64RegisterIdtr, WHvX64RegisterGdtr, WHvX64RegisterCr0, WHvX64RegisterCr2,
    WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterCr8, WHvX64RegisterDr0, WHvX64RegisterDr3, WHvX64RegisterDr6,
    WHvX64RegisterDr7, WHvX64RegisterXCr0, WHvX64RegisterXmm0, WHvX64RegisterXmm15, WHvX64RegisterFpMmx0,
    WHvX64RegisterFpControlStatus, WHvX64RegisterXmmControlStatus, WHvX64RegisterEfer, WHvX64RegisterKernelGsBase,
    WHvX64RegisterApicBase, WHvX64RegisterPat, WHvX64RegisterSysenterCs, WHvX64RegisterSysenterEip,
    WHvX64RegisterSysenterEsp, WHvX64RegisterStar, WHvX64RegisterLstar, WHvX64RegisterCstar, WHvX64RegisterSfmask,
    WHvX64RegisterMsrMtrrDefType, WHvX64RegisterMsrMtrrPhysBase0, WHvX64RegisterMsrMtrrFix64k00000,
    WHvX64RegisterTscAux, WHvX64RegisterTscAdjust, WHvRegisterPendingInterruption, WHvRegisterInterruptState,
    WHvRegisterPendingEvent, WHvX64RegisterDeliverabilityNotifications, WHvRegisterInternalActivityState,
};
#define NAMES (sizeof(names) / sizeof(names[0]))

static void read_all(WHV_PARTITION_HANDLE p, UINT32 vp, WHV_REGISTER_VALUE *values)
{
    memset(values, 0, NAMES * sizeof(*values));
    assert_ok(WHvGetVirtualProcessorRegisters(p, vp, names, NAMES, values));
}

static void set_any(WHV_PARTITION_HANDLE p, UINT32 vp, WHV_REGISTER_NAME name, UINT64 low)
{
    WHV_REGISTER_VALUE value;

    assert_ok(WHvGetVirtualProcessorRegisters(p, vp, &name, 1, &value));
    value.Reg64 = low;
    assert_ok(WHvSetVirtualProcessorRegisters(p, vp, &name, 1, &value));
}

// Something of each kind of state, other than after reset.
static void disturb(WHV_PARTITION_HANDLE p, UINT32 vp)
{
    static const struct { WHV_REGISTER_NAME name; UINT64 value; } changes[] = {
        {WHvX64RegisterRax, 1}, {WHvX64RegisterR15, 2}, {WHvX64RegisterRip, 0x123}, {WHvX64RegisterRflags, 0x246},
        {WHvX64RegisterCr2, 0x5000}, {WHvX64RegisterCr3, 0x6000}, {WHvX64RegisterCr8, 5}, {WHvX64RegisterDr0, 7},
        {WHvX64RegisterDr7, 0x401}, {WHvX64RegisterXmm0, 8}, {WHvX64RegisterFpMmx0, 9},
        {WHvX64RegisterXmmControlStatus, 0x1F85}, {WHvX64RegisterKernelGsBase, 10}, {WHvX64RegisterPat, 0x0606060606060606},
        {WHvX64RegisterSysenterCs, 11}, {WHvX64RegisterLstar, 12}, {WHvX64RegisterMsrMtrrDefType, 0x806},
        {WHvX64RegisterMsrMtrrFix64k00000, 0x0606060606060606}, {WHvX64RegisterTscAux, 13},
        {WHvRegisterInterruptState, 3}, {WHvX64RegisterDeliverabilityNotifications, 2},
    };

    for (unsigned int n = 0; n < sizeof(changes) / sizeof(changes[0]); n++)
        set_any(p, vp, changes[n].name, changes[n].value);
    set_any(p, vp, WHvRegisterPendingInterruption, 1 | 0x30ull << 16);      // external interrupt 0x30
}

static void check_all_as_new(WHV_X64_LOCAL_APIC_EMULATION_MODE mode)
{
    WHV_REGISTER_VALUE fresh[NAMES], now[NAMES];
    uint8_t fresh_apic[PAGE], apic[PAGE];
    UINT32 written;
    WHV_PARTITION_HANDLE p = created(2);

    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, mode));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    for (UINT32 vp = 0; vp < 2; vp++)
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
    for (UINT32 vp = 0; vp < 2; vp++) {
        read_all(p, vp, fresh);
        if (mode)
            assert_ok(WHvGetVirtualProcessorInterruptControllerState2(p, vp, fresh_apic, PAGE, &written));
        disturb(p, vp);
        read_all(p, vp, now);
        assert_memory_not_equal(now, fresh, sizeof(now));
        if (mode) {
            // TPR; LVT Timer unmasked, with initial and current count; a vector requested.
            const UINT32 pairs[] = {0x80, 0x20, 0x320, 0x40, 0x380, 0x1000, 0x390, 0x1000, 0x210, 1, 0};

            set_apic(p, vp, pairs);
        }
        assert_ok(WHvCancelRunVirtualProcessor(p, vp, 0));
    }
    assert_ok(WHvResetPartition(p));
    for (UINT32 vp = 2; vp-- > 0;) {
        read_all(p, vp, now);
        for (unsigned int n = 0; n < NAMES; n++) {
            if (names[n] == WHvRegisterInternalActivityState || names[n] == WHvX64RegisterApicBase
                || names[n] == WHvX64RegisterTscAdjust)
                continue;               // these two differ between processors, and are looked at below
            if (memcmp(&now[n], &fresh[n], sizeof(now[n])))
                print_message("processor %u, register %#x\n", vp, (unsigned)names[n]);
            assert_memory_equal(&now[n], &fresh[n], sizeof(now[n]));
        }
        assert_int_equal(get_register(p, vp, WHvX64RegisterApicBase), vp ? 0xFEE00800 : 0xFEE00900);
        assert_int_equal(get_register(p, vp, WHvRegisterInternalActivityState), mode && vp ? 1 : 0);
        if (mode) {
            assert_ok(WHvGetVirtualProcessorInterruptControllerState2(p, vp, apic, PAGE, &written));
            fresh_apic[0x23] = apic[0x23];                                  // the identifier
            fresh_apic[0x20] = apic[0x20];
            assert_memory_equal(apic, fresh_apic, PAGE);
        }
    }
    assert_ok(WHvDeletePartition(p));
}

static void test_all_as_new(void **state)
{
    (void)state;
    check_all_as_new(WHvX64LocalApicEmulationModeNone);
    NEEDS(engine_has_apic());
    check_all_as_new(WHvX64LocalApicEmulationModeXApic);
}

// The map, memory, properties and processors stay; a cancel that was waiting does not.
static void test_what_stays(void **state)
{
    static const uint8_t code[] = {0xA2, 0x00, 0x20, 0xE6, 0x10};           // mov [0x2000], al; out 0x10, al
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    UINT32 count = 0;

    (void)state;
    set_register(p, 0, WHvX64RegisterRax, 0x5A);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
    assert_ok(WHvResetPartition(p));
    assert_int_equal(memory[0x2000], 0x5A);
    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count), NULL));
    assert_int_equal(count, 1);
    assert_hr(WHvCreateVirtualProcessor(p, 0, 0), WHV_E_VP_ALREADY_EXISTS);
    start_at(p, 0, CODE);
    set_register(p, 0, WHvX64RegisterRax, 0xA5);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(memory[0x2000], 0xA5);
    assert_ok(WHvDeletePartition(p));
}

// An access that was told of and not completed is forgotten.
static void test_in_the_middle(void **state)
{
    static const uint8_t in[] = {0xE4, 0x10, 0xE6, 0x11};                   // in al, 0x10; out 0x11, al
    WHV_PARTITION_HANDLE p = guest(memory, in, sizeof(in));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    for (int n = 0; n < 3; n++) {
        exit = run(p, 0);
        assert_int_equal(exit.IoPortAccess.PortNumber, 0x10);
        assert_ok(WHvResetPartition(p));
        assert_int_equal(get_register(p, 0, WHvX64RegisterRax), 0);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRip), 0xFFF0);
        start_at(p, 0, CODE + (n == 2 ? 2 : 0));
    }
    exit = run(p, 0);
    assert_int_equal(exit.IoPortAccess.PortNumber, 0x11);
    assert_int_equal(exit.IoPortAccess.Rax, 0);
    assert_ok(WHvDeletePartition(p));
}

static void test_refused(void **state)
{
    static const uint8_t spin[] = {0xC6, 0x06, 0x00, 0x20, 0x01, 0xEB, 0xFE};       // mov byte [0x2000], 1; jmp $
    WHV_PARTITION_HANDLE p = created(1);
    struct runner runner;

    (void)state;
    assert_hr(WHvResetPartition(NULL), E_INVALIDARG);
    assert_hr(WHvResetPartition(p), INVALID_STATE);
    assert_ok(WHvDeletePartition(p));
    assert_hr(WHvResetPartition(p), E_INVALIDARG);

    memory[0x2000] = 0;
    p = guest(memory, spin, sizeof(spin));
    start(&runner, p, 0);
    EVENTUALLY(memory[0x2000] == 1);
    assert_hr(WHvResetPartition(p), INVALID_STATE);
    cancel(&runner);
    assert_ok(WHvResetPartition(p));
    assert_ok(WHvDeletePartition(p));
}

// From the reset vector, each time.
static void test_boots(void **state)
{
    static const uint8_t boot[] = {0xFE, 0x06, 0x00, 0x20,      // inc byte [0x2000]
                                   0xE6, 0x10};                 // out 0x10, al
    WHV_PARTITION_HANDLE p = set_up(1);
    unsigned int open = 0, mapped = 0;

    (void)state;
    memory[0x2000] = 0;
    memcpy(rom + 0xFF0, boot, sizeof(boot));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvMapGpaRange(p, rom, 0xFFFFF000, sizeof(rom), RX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    for (int n = 0; n < BOOTS; n++) {
        if (n == FIRST_BOOTS) {
            open = descriptors();
            mapped = mappings();
        }
        assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
        assert_int_equal(memory[0x2000], (uint8_t)(n + 1));
        assert_ok(WHvResetPartition(p));
    }
    assert_int_equal(descriptors(), open);
    assert_in_range(mappings(), 0, mapped + MAPPINGS_SLACK);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_as_new),
        cmocka_unit_test(test_what_stays),
        cmocka_unit_test(test_in_the_middle),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_boots),
    };

    return engine_run_tests(tests);
}
