// WHvGetCapability: every code, every size rule, and answers that fit together.
#include "api.h"

static const struct {
    WHV_CAPABILITY_CODE code;
    UINT32 size;
} codes[] = {
    {WHvCapabilityCodeHypervisorPresent, 4},
    {WHvCapabilityCodeFeatures, 8},
    {WHvCapabilityCodeExtendedVmExits, 8},
    {WHvCapabilityCodeExceptionExitBitmap, 8},
    {WHvCapabilityCodeX64MsrExitBitmap, 8},
    {WHvCapabilityCodeGpaRangePopulateFlags, 4},
    {WHvCapabilityCodeSchedulerFeatures, 8},
    {WHvCapabilityCodeProcessorVendor, 4},
    {WHvCapabilityCodeProcessorFeatures, 8},
    {WHvCapabilityCodeProcessorClFlushSize, 1},
    {WHvCapabilityCodeProcessorXsaveFeatures, 8},
    {WHvCapabilityCodeProcessorClockFrequency, 8},
    {WHvCapabilityCodeInterruptClockFrequency, 8},
    {WHvCapabilityCodeProcessorFeaturesBanks, 24},
    {WHvCapabilityCodeProcessorFrequencyCap, 20},
    {WHvCapabilityCodeSyntheticProcessorFeaturesBanks, 16},
    {WHvCapabilityCodeProcessorPerfmonFeatures, 8},
    {WHvCapabilityCodePhysicalAddressWidth, 4},
    {WHvCapabilityCodeVmxBasic, 8},
    {WHvCapabilityCodeVmxTrueEntryCtls, 8},
};

static WHV_CAPABILITY capability(WHV_CAPABILITY_CODE code)
{
    WHV_CAPABILITY value;

    memset(&value, 0, sizeof(value));
    assert_ok(WHvGetCapability(code, &value, sizeof(value), NULL));
    return value;
}

static void test_sizes(void **state)
{
    (void)state;
    for (unsigned int i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        uint8_t buffer[64];
        UINT32 written = 99;

        memset(buffer, 0xEE, sizeof(buffer));
        assert_ok(WHvGetCapability(codes[i].code, buffer, codes[i].size, &written));
        assert_int_equal(written, codes[i].size);
        assert_int_equal(buffer[codes[i].size], 0xEE);
        assert_ok(WHvGetCapability(codes[i].code, buffer, sizeof(buffer), NULL));
        assert_hr(WHvGetCapability(codes[i].code, buffer, codes[i].size - 1, &written),
                  WHV_E_INSUFFICIENT_BUFFER);
        assert_int_equal(written, codes[i].size);
        assert_hr(WHvGetCapability(codes[i].code, NULL, sizeof(buffer), NULL), E_POINTER);
    }
    assert_hr(WHvGetCapability(0x7777, NULL, 0, NULL), WHV_E_UNKNOWN_CAPABILITY);
}

static void test_answers(void **state)
{
    (void)state;
    assert_int_equal(capability(WHvCapabilityCodeHypervisorPresent).HypervisorPresent, TRUE);
    assert_int_equal(capability(WHvCapabilityCodeFeatures).Features.PartialUnmap, 1);
    assert_true(capability(WHvCapabilityCodeProcessorClockFrequency).ProcessorClockFrequency >= 1000000);
    assert_int_equal(capability(WHvCapabilityCodeInterruptClockFrequency).InterruptClockFrequency, 200000000);
    assert_in_range(capability(WHvCapabilityCodePhysicalAddressWidth).PhysicalAddressWidth, 36, 52);
    assert_int_equal(
        capability(WHvCapabilityCodeProcessorFeatures).ProcessorFeatures.AsUINT64,
        capability(WHvCapabilityCodeProcessorFeaturesBanks).ProcessorFeaturesBanks.Bank0.AsUINT64);
    assert_int_equal(capability(WHvCapabilityCodeProcessorFeaturesBanks).ProcessorFeaturesBanks.BanksCount,
                     2);
    // Reserved bits are never promised.
    assert_int_equal(capability(WHvCapabilityCodeExtendedVmExits).ExtendedVmExits.Reserved, 0);
    assert_int_equal(capability(WHvCapabilityCodeX64MsrExitBitmap).X64MsrExitBitmap.Reserved, 0);
    assert_int_equal(capability(WHvCapabilityCodeFeatures).Features.Reserved, 0);
}

// A property takes each bit that its capability shows, and no other.
static void assert_bits(WHV_PARTITION_PROPERTY_CODE property, UINT64 offered)
{
    WHV_PARTITION_HANDLE p = created(1);

    for (unsigned int bit = 0; bit < 64; bit++)
        assert_hr(set64(p, property, 1ull << bit), offered >> bit & 1 ? S_OK : E_INVALIDARG);
    assert_ok(set64(p, property, offered));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvDeletePartition(p));
}

static void test_capabilities_are_what_properties_take(void **state)
{
    (void)state;
    assert_bits(WHvPartitionPropertyCodeExtendedVmExits,
                capability(WHvCapabilityCodeExtendedVmExits).ExtendedVmExits.AsUINT64);
    assert_bits(WHvPartitionPropertyCodeExceptionExitBitmap,
                capability(WHvCapabilityCodeExceptionExitBitmap).ExceptionExitBitmap);
    assert_bits(WHvPartitionPropertyCodeX64MsrExitBitmap,
                capability(WHvCapabilityCodeX64MsrExitBitmap).X64MsrExitBitmap.AsUINT64);
    assert_bits(WHvPartitionPropertyCodeProcessorFeatures,
                capability(WHvCapabilityCodeProcessorFeatures).ProcessorFeatures.AsUINT64);
    assert_bits(WHvPartitionPropertyCodeProcessorXsaveFeatures,
                capability(WHvCapabilityCodeProcessorXsaveFeatures).ProcessorXsaveFeatures.AsUINT64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_capabilities_are_what_properties_take),
    };

    return engine_run_tests(tests);
}
