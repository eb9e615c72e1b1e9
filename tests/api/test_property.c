// Partition properties through the API: refusals, and what the guest sees of them. (Sizes, bounds and times of all rows:
// tests/unit/test_property_walk.c.)
#include "api.h"

static WHV_PARTITION_PROPERTY property(WHV_PARTITION_HANDLE p, WHV_PARTITION_PROPERTY_CODE code, UINT32 size)
{
    WHV_PARTITION_PROPERTY value;
    UINT32 written = 0;

    memset(&value, 0, sizeof(value));
    assert_ok(WHvGetPartitionProperty(p, code, &value, sizeof(value), &written));
    assert_int_equal(written, size);
    return value;
}

static void test_refusals_change_nothing(void **state)
{
    WHV_PARTITION_HANDLE p = created(2);

    (void)state;
    assert_hr(set32(p, WHvPartitionPropertyCodeProcessorCount, 0), E_INVALIDARG);
    assert_hr(set32(p, WHvPartitionPropertyCodeProcessorCount, 65), E_INVALIDARG);
    assert_int_equal(property(p, WHvPartitionPropertyCodeProcessorCount, 4).ProcessorCount, 2);
    assert_hr(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, 3), E_INVALIDARG);
    assert_hr(set64(p, WHvPartitionPropertyCodeExtendedVmExits, 1ull << 63), E_INVALIDARG);
    assert_int_equal(property(p, WHvPartitionPropertyCodeExtendedVmExits, 8).ExtendedVmExits.AsUINT64, 0);
    assert_hr(set32(p, 0x2000, 0), WHV_E_UNKNOWN_PROPERTY);
    assert_ok(WHvDeletePartition(p));
}

static void test_processor_counts(void **state)
{
    (void)state;
    for (UINT32 count = 1; count <= 64; count += 21) {
        WHV_PARTITION_HANDLE p = set_up(count);

        assert_ok(WHvCreateVirtualProcessor(p, count - 1, 0));
        assert_hr(WHvCreateVirtualProcessor(p, count, 0), E_INVALIDARG);
        assert_ok(WHvDeletePartition(p));
    }
}

// The lists that may change after set-up take effect: the guest's CPUID exits, or does not.
static void test_cpuid_exit_list(void **state)
{
    // cpuid; out 0x10, al; jmp to the start; leaf 1 each time
    static const uint8_t code[] = {0x66, 0xB8, 1, 0, 0, 0, 0x0F, 0xA2, 0xE6, 0x10, 0xEB, 0xF4};
    static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
    WHV_PARTITION_HANDLE p;
    UINT32 leaf = 7;

    (void)state;
    NEEDS(engine_has_exits((WHV_EXTENDED_VM_EXITS){.X64CpuidExit = 1}));
    p = guest(memory, code, sizeof(code));
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(set64(p, WHvPartitionPropertyCodeExtendedVmExits, 1));
    set_register(p, 0, WHvX64RegisterRip, CODE);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Cpuid);
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidExitList, &leaf, sizeof(leaf)));
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    leaf = 1;
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidExitList, &leaf, sizeof(leaf)));
    set_register(p, 0, WHvX64RegisterRip, CODE);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Cpuid);
    assert_ok(WHvDeletePartition(p));
}

// ---- What is read is what the guest sees ---------------------------------------------------------------------------

static WHV_CPUID_OUTPUT guest_cpuid(WHV_PARTITION_HANDLE p, UINT32 leaf)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_CPUID_OUTPUT out;

    set_register(p, 0, WHvX64RegisterRip, CODE);
    set_register(p, 0, WHvX64RegisterRax, leaf);
    set_register(p, 0, WHvX64RegisterRcx, 0);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    out.Eax = (UINT32)get_register(p, 0, WHvX64RegisterRax);
    out.Ebx = (UINT32)get_register(p, 0, WHvX64RegisterRbx);
    out.Ecx = (UINT32)get_register(p, 0, WHvX64RegisterRcx);
    out.Edx = (UINT32)get_register(p, 0, WHvX64RegisterRdx);
    return out;
}

// Set up, with a processor on code that executes CPUID.
static void begin(WHV_PARTITION_HANDLE p)
{
    static const uint8_t code[] = {0x0F, 0xA2, 0xE6, 0x10};    // cpuid; out 0x10, al
    static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

    assert_ok(WHvSetupPartition(p));
    memcpy(memory + CODE, code, sizeof(code));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    start_at(p, 0, CODE);
}

// The leaves that tell frequencies are empty, or tell those of the properties: the TSC's, and that of the crystal that
// the APIC timer counts (SDM vol. 2A, CPUID, leaf 15H; vol. 3A 11.5.4).
static void assert_frequency_leaves(WHV_PARTITION_HANDLE p, UINT64 tsc_hz)
{
    const WHV_CPUID_OUTPUT tsc = guest_cpuid(p, 0x15), mhz = guest_cpuid(p, 0x16);

    if (guest_cpuid(p, 0).Eax >= 0x15 && tsc.Eax && tsc.Ebx && tsc.Ecx)
        assert_in_range((UINT64)tsc.Ecx * tsc.Ebx / tsc.Eax, tsc_hz - tsc_hz / 100, tsc_hz + tsc_hz / 100);
    if (guest_cpuid(p, 0).Eax >= 0x16 && mhz.Eax)
        assert_in_range(mhz.Eax, tsc_hz / 2000000, tsc_hz / 500000);
}

static void test_what_the_guest_sees(void **state)
{
    static const WHV_PARTITION_PROPERTY_CODE codes[] = {
        WHvPartitionPropertyCodePhysicalAddressWidth,    WHvPartitionPropertyCodeProcessorClFlushSize,
        WHvPartitionPropertyCodeProcessorClockFrequency, WHvPartitionPropertyCodeInterruptClockFrequency,
        WHvPartitionPropertyCodeReferenceTime,
    };
    static const UINT32 sizes[] = {4, 1, 8, 8, 8};
    WHV_PARTITION_HANDLE p = created(1);
    WHV_PARTITION_PROPERTY before[5], after;

    (void)state;
    assert_ok(set64(p, WHvPartitionPropertyCodeReferenceTime, 1ull << 40));
    for (int i = 0; i < 5; i++)
        before[i] = property(p, codes[i], sizes[i]);
    begin(p);
    for (int i = 0; i < 5; i++) {
        after = property(p, codes[i], sizes[i]);
        assert_memory_equal(&after, &before[i], sizes[i]);
    }
    assert_int_equal(guest_cpuid(p, 0x80000008).Eax & 0xFF, before[0].PhysicalAddressWidth);
    assert_int_equal(guest_cpuid(p, 1).Ebx >> 8 & 0xFF, before[1].ProcessorClFlushSize);
    assert_frequency_leaves(p, before[2].ProcessorClockFrequency);
    // Running has changed none of them but the one that is a clock.
    for (int i = 0; i < 4; i++) {
        after = property(p, codes[i], sizes[i]);
        assert_memory_equal(&after, &before[i], sizes[i]);
    }
    assert_true(property(p, codes[4], 8).ReferenceTime >= 1ull << 40);
    assert_ok(WHvDeletePartition(p));
}

// Another width is what CPUID says, and where guest memory ends.
static void test_address_width(void **state)
{
    static uint8_t page[PAGE] __attribute__((aligned(PAGE)));
    WHV_CAPABILITY capability = engine_capability(WHvCapabilityCodePhysicalAddressWidth);

    (void)state;
    for (UINT32 width = 32; width <= capability.PhysicalAddressWidth; width++) {
        WHV_PARTITION_HANDLE p = created(1);
        const UINT64 end = 1ull << width;

        assert_ok(set32(p, WHvPartitionPropertyCodePhysicalAddressWidth, width));
        begin(p);
        assert_int_equal(property(p, WHvPartitionPropertyCodePhysicalAddressWidth, 4).PhysicalAddressWidth, width);
        assert_int_equal(guest_cpuid(p, 0x80000008).Eax & 0xFF, width);
        assert_ok(WHvMapGpaRange(p, page, end - PAGE, PAGE, RW));
        assert_hr(WHvMapGpaRange(p, page, end, PAGE, RW), E_INVALIDARG);
        assert_ok(WHvDeletePartition(p));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals_change_nothing),
        cmocka_unit_test(test_processor_counts),
        cmocka_unit_test(test_cpuid_exit_list),
        cmocka_unit_test(test_what_the_guest_sees),
        cmocka_unit_test(test_address_width),
    };

    return engine_run_tests(tests);
}
