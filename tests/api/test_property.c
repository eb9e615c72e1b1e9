// Partition properties through the API: defaults, sizes, ranges, and what may change after set-up.
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

static const struct {
    WHV_PARTITION_PROPERTY_CODE code;
    UINT32 size;
} values[] = {
    {WHvPartitionPropertyCodeExtendedVmExits, 8},
    {WHvPartitionPropertyCodeExceptionExitBitmap, 8},
    {WHvPartitionPropertyCodeSeparateSecurityDomain, 4},
    {WHvPartitionPropertyCodeNestedVirtualization, 4},
    {WHvPartitionPropertyCodeX64MsrExitBitmap, 8},
    {WHvPartitionPropertyCodePrimaryNumaNode, 2},
    {WHvPartitionPropertyCodeCpuReserve, 4},
    {WHvPartitionPropertyCodeCpuCap, 4},
    {WHvPartitionPropertyCodeCpuWeight, 4},
    {WHvPartitionPropertyCodeCpuGroupId, 8},
    {WHvPartitionPropertyCodeProcessorFrequencyCap, 4},
    {WHvPartitionPropertyCodeAllowDeviceAssignment, 4},
    {WHvPartitionPropertyCodeDisableSmt, 4},
    {WHvPartitionPropertyCodeProcessorFeatures, 8},
    {WHvPartitionPropertyCodeProcessorClFlushSize, 1},
    {WHvPartitionPropertyCodeLocalApicEmulationMode, 4},
    {WHvPartitionPropertyCodeProcessorXsaveFeatures, 8},
    {WHvPartitionPropertyCodeProcessorClockFrequency, 8},
    {WHvPartitionPropertyCodeInterruptClockFrequency, 8},
    {WHvPartitionPropertyCodeApicRemoteReadSupport, 4},
    {WHvPartitionPropertyCodeProcessorFeaturesBanks, 24},
    {WHvPartitionPropertyCodeReferenceTime, 8},
    {WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks, 16},
    {WHvPartitionPropertyCodeProcessorPerfmonFeatures, 8},
    {WHvPartitionPropertyCodeUnimplementedMsrAction, 4},
    {WHvPartitionPropertyCodePhysicalAddressWidth, 4},
    {WHvPartitionPropertyCodeProcessorCount, 4},
};

// Every value can be read before set-up; what was read can be set again, with the exact size and with the
// whole union's; and a shorter buffer is refused.
static void test_every_value(void **state)
{
    WHV_PARTITION_HANDLE p = created(1);

    (void)state;
    for (unsigned int i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        WHV_PARTITION_PROPERTY value = property(p, values[i].code, values[i].size), again;
        UINT32 needed = 0;

        assert_ok(WHvSetPartitionProperty(p, values[i].code, &value, values[i].size));
        assert_ok(WHvSetPartitionProperty(p, values[i].code, &value, sizeof(value)));
        assert_hr(WHvSetPartitionProperty(p, values[i].code, &value, values[i].size - 1), E_INVALIDARG);
        assert_hr(WHvSetPartitionProperty(p, values[i].code, NULL, sizeof(value)), E_POINTER);
        assert_hr(WHvGetPartitionProperty(p, values[i].code, &again, values[i].size - 1, &needed),
                  WHV_E_INSUFFICIENT_BUFFER);
        assert_int_equal(needed, values[i].size);
    }
    assert_ok(WHvSetupPartition(p));
    for (unsigned int i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        WHV_PARTITION_PROPERTY value = property(p, values[i].code, values[i].size);
        bool changeable = values[i].code == WHvPartitionPropertyCodeExtendedVmExits ||
                          values[i].code == WHvPartitionPropertyCodeExceptionExitBitmap ||
                          values[i].code == WHvPartitionPropertyCodeX64MsrExitBitmap;

        assert_hr(WHvSetPartitionProperty(p, values[i].code, &value, sizeof(value)),
                  changeable ? S_OK : E_INVALIDARG);
    }
    assert_ok(WHvDeletePartition(p));
}

static void test_lists(void **state)
{
    static const WHV_PARTITION_PROPERTY_CODE lists[] = {
        WHvPartitionPropertyCodeCpuidExitList,
        WHvPartitionPropertyCodeCpuidResultList,
        WHvPartitionPropertyCodeCpuidResultList2,
        WHvPartitionPropertyCodeMsrActionList,
    };
    static const UINT32 sizes[] = {4, 32, 48, 8};
    WHV_PARTITION_HANDLE p = created(1);
    uint8_t buffer[96];

    (void)state;
    memset(buffer, 0, sizeof(buffer));
    for (unsigned int i = 0; i < 4; i++) {
        assert_ok(WHvSetPartitionProperty(p, lists[i], buffer, 2 * sizes[i]));
        assert_ok(WHvSetPartitionProperty(p, lists[i], NULL, 0));
        assert_hr(WHvSetPartitionProperty(p, lists[i], buffer, sizes[i] + 1), E_INVALIDARG);
        assert_hr(WHvSetPartitionProperty(p, lists[i], NULL, sizes[i]), E_POINTER);
        assert_hr(WHvGetPartitionProperty(p, lists[i], buffer, sizeof(buffer), NULL), NOT_SUPPORTED);
    }
    assert_ok(WHvSetupPartition(p));
    for (unsigned int i = 0; i < 4; i++)
        assert_hr(WHvSetPartitionProperty(p, lists[i], buffer, sizes[i]), i == 0 ? S_OK : E_INVALIDARG);
    assert_ok(WHvDeletePartition(p));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_value),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_refusals_change_nothing),
        cmocka_unit_test(test_processor_counts),
        cmocka_unit_test(test_cpuid_exit_list),
    };

    return engine_run_tests(tests);
}
