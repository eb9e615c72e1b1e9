// WHvGetCapability: one table of codes, answered from the capabilities of the engines that a partition may
// get.
#include <string.h>

#include "api/call.h"
#include "partition/placement.h"
#include "partition/policy.h"

// One row: where the answer stands in struct engine_capabilities. What is not an engine's is the host's (fill_host), or
// answered with zeros, which for every one of these codes means "no".
struct capability {
    WHV_CAPABILITY_CODE code;
    UINT32 size;
    size_t offset;
};

#define NOWHERE ((size_t)-1)
#define ROW(name, member)                                                                                    \
    {                                                                                                        \
        WHvCapabilityCode##name, sizeof(((struct engine_capabilities *)0)->member),                          \
            offsetof(struct engine_capabilities, member)                                                     \
    }
#define NONE(name, member) {WHvCapabilityCode##name, sizeof(((WHV_CAPABILITY *)0)->member), NOWHERE}

static const struct capability table[] = {
    NONE(HypervisorPresent, HypervisorPresent),     // answered without an engine
    ROW(Features, features),
    ROW(ExtendedVmExits, extended_vm_exits),
    ROW(ExceptionExitBitmap, exception_exit_bitmap),
    ROW(X64MsrExitBitmap, msr_exit_bitmap),
    NONE(GpaRangePopulateFlags, GpaRangePopulateFlags),
    NONE(SchedulerFeatures, SchedulerFeatures),     // the host's
    ROW(ProcessorVendor, vendor),
    ROW(ProcessorFeatures, processor_features.Bank0),
    ROW(ProcessorClFlushSize, clflush_units),
    ROW(ProcessorXsaveFeatures, xsave_features),
    ROW(ProcessorClockFrequency, processor_clock_hz),
    ROW(InterruptClockFrequency, interrupt_clock_hz),
    ROW(ProcessorFeaturesBanks, processor_features),
    NONE(ProcessorFrequencyCap, ProcessorFrequencyCap),     // the host's
    ROW(SyntheticProcessorFeaturesBanks, synthetic_features),
    ROW(ProcessorPerfmonFeatures, perfmon_features),
    ROW(PhysicalAddressWidth, physical_address_width),
    NONE(VmxBasic, NestedFeatureRegister),
    NONE(VmxPinbasedCtls, NestedFeatureRegister),
    NONE(VmxProcbasedCtls, NestedFeatureRegister),
    NONE(VmxExitCtls, NestedFeatureRegister),
    NONE(VmxEntryCtls, NestedFeatureRegister),
    NONE(VmxMisc, NestedFeatureRegister),
    NONE(VmxCr0Fixed0, NestedFeatureRegister),
    NONE(VmxCr0Fixed1, NestedFeatureRegister),
    NONE(VmxCr4Fixed0, NestedFeatureRegister),
    NONE(VmxCr4Fixed1, NestedFeatureRegister),
    NONE(VmxVmcsEnum, NestedFeatureRegister),
    NONE(VmxProcbasedCtls2, NestedFeatureRegister),
    NONE(VmxEptVpidCap, NestedFeatureRegister),
    NONE(VmxTruePinbasedCtls, NestedFeatureRegister),
    NONE(VmxTrueProcbasedCtls, NestedFeatureRegister),
    NONE(VmxTrueExitCtls, NestedFeatureRegister),
    NONE(VmxTrueEntryCtls, NestedFeatureRegister),
};

static const struct capability *find(WHV_CAPABILITY_CODE code)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].code == code)
            return &table[i];
    return NULL;
}

static void fill_host(WHV_CAPABILITY_CODE code, WHV_CAPABILITY *answer)
{
    if (code == WHvCapabilityCodeSchedulerFeatures) {
        schedule_features(&answer->SchedulerFeatures);
        answer->SchedulerFeatures.DisableSmt = placement_offers_no_smt();
    }
    if (code == WHvCapabilityCodeProcessorFrequencyCap)
        schedule_frequency(&answer->ProcessorFrequencyCap);
}

HRESULT WINAPI WHvGetCapability(WHV_CAPABILITY_CODE CapabilityCode, VOID *CapabilityBuffer,
                                UINT32 CapabilityBufferSizeInBytes, UINT32 *WrittenSizeInBytes)
{
    const struct capability *capability = find(CapabilityCode);
    struct engine_capabilities capabilities;
    struct engine_wish wish;
    WHV_CAPABILITY answer;
    bool present;

    if (!capability)
        return WHV_E_UNKNOWN_CAPABILITY;
    engine_wish_from_environment(&wish);
    present = engine_wish_capabilities(&wish, &capabilities);
    memset(&answer, 0, sizeof(answer));
    if (CapabilityCode == WHvCapabilityCodeHypervisorPresent)
        answer.HypervisorPresent = present;
    else if (!present)
        return (HRESULT)ERROR_HV_NOT_PRESENT;
    else if (capability->offset != NOWHERE)
        memcpy(&answer, (const char *)&capabilities + capability->offset, capability->size);

    fill_host(CapabilityCode, &answer);
    // The structures of feature banks say how many banks there are, also when all are empty.
    if (CapabilityCode == WHvCapabilityCodeProcessorFeaturesBanks)
        answer.ProcessorFeaturesBanks.BanksCount = WHV_PROCESSOR_FEATURES_BANKS_COUNT;
    if (CapabilityCode == WHvCapabilityCodeSyntheticProcessorFeaturesBanks)
        answer.SyntheticProcessorFeaturesBanks.BanksCount = WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT;
    return api_write_result(&answer, capability->size, CapabilityBuffer, CapabilityBufferSizeInBytes,
                            WrittenSizeInBytes);
}
