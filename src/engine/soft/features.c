// WHP's names for processor features and the processor's own (x86/features.def).
#include "engine/soft/features.h"

#include "x86/decode.h"
#include "x86/system.h"

enum bank { BANK_0, BANK_1, BANK_XSAVE, BANKS };

// A name for whatever the processor may come to implement. Hints (PREFETCHW, fast strings) and promises (SsbNo) are
// only ever shown or not.
struct feature {
    union {
        WHV_PROCESSOR_FEATURES zero;
        WHV_PROCESSOR_FEATURES1 one;
        WHV_PROCESSOR_XSAVE_FEATURES xsave;
        UINT64 mask;
    };
    uint8_t bank, feature;
};

#define ZERO(name, ours) { .zero = { .name = 1 }, .bank = BANK_0, .feature = X86_FEATURE_##ours }
#define ONE(name, ours) { .one = { .name = 1 }, .bank = BANK_1, .feature = X86_FEATURE_##ours }
#define XSAVE(name, ours) { .xsave = { .name = 1 }, .bank = BANK_XSAVE, .feature = X86_FEATURE_##ours }

static const struct feature features[] = {
    ZERO(Sse3Support, SSE3), ZERO(LahfSahfSupport, LAHF64), ZERO(Ssse3Support, SSSE3), ZERO(Sse4_1Support, SSE41),
    ZERO(Sse4_2Support, SSE42), ZERO(Sse4aSupport, SSE4A), ZERO(PopCntSupport, POPCNT), ZERO(Cmpxchg16bSupport, CX16),
    ZERO(Altmovcr8Support, CR8_LEGACY), ZERO(LzcntSupport, LZCNT), ZERO(MisAlignSseSupport, MISALIGN_SSE),
    ZERO(MmxExtSupport, MMXEXT), ZERO(Page1GbSupport, GBPAGES), ZERO(AesSupport, AES),
    ZERO(PclmulqdqSupport, PCLMULQDQ), ZERO(PcidSupport, PCID), ZERO(F16CSupport, F16C), ZERO(RdRandSupport, RDRAND),
    ZERO(RdWrFsGsSupport, FSGSBASE), ZERO(SmepSupport, SMEP), ZERO(EnhancedFastStringSupport, ERMS),
    ZERO(Bmi1Support, BMI1), ZERO(Bmi2Support, BMI2), ZERO(MovbeSupport, MOVBE), ZERO(RdSeedSupport, RDSEED),
    ZERO(AdxSupport, ADX), ZERO(IntelPrefetchSupport, PREFETCHW), ZERO(SmapSupport, SMAP),
    ZERO(RdtscpSupport, RDTSCP), ZERO(ClflushoptSupport, CLFLUSHOPT), ZERO(ClwbSupport, CLWB), ZERO(ShaSupport, SHA),
    ZERO(InvpcidSupport, INVPCID), ZERO(FastShortRepMovSupport, FSRM), ZERO(SsbNo, SSB_NO),
    ZERO(RdPidSupport, RDPID), ZERO(UmipSupport, UMIP),

    ONE(TscInvariantSupport, INVARIANT_TSC), ONE(La57Support, LA57), ONE(SerializeSupport, SERIALIZE),
    ONE(TscDeadlineTmrSupport, TSC_DEADLINE), ONE(TscAdjustSupport, TSC_ADJUST), ONE(SbpbSupported, SBPB),
    ONE(IbpbBrTypeSupported, IBPB_BRTYPE), ONE(SrsoNoSupported, SRSO_NO),

    XSAVE(XsaveSupport, XSAVE), XSAVE(XsaveoptSupport, XSAVEOPT), XSAVE(AvxSupport, AVX), XSAVE(Avx2Support, AVX2),
    XSAVE(FmaSupport, FMA), XSAVE(XsaveCompSupport, XSAVEC), XSAVE(XsaveSupervisorSupport, XSAVES),
    XSAVE(Xcr1Support, XGETBV1), XSAVE(VaesSupport, VAES), XSAVE(VpclmulqdqSupport, VPCLMULQDQ),
};
#define FEATURES (sizeof features / sizeof *features)

static uint64_t *word(uint64_t set[4], unsigned feature) { return &set[feature / 64]; }
static uint64_t bit(unsigned feature) { return 1ull << feature % 64; }

void soft_features_offered(WHV_PROCESSOR_FEATURES_BANKS *banks, WHV_PROCESSOR_XSAVE_FEATURES *xsave)
{
    UINT64 offered[BANKS] = { 0 };
    uint64_t all[4];
    x86_default_features(all);
    for (unsigned n = 0; n < FEATURES; n++)
        if (*word(all, features[n].feature) & bit(features[n].feature))
            offered[features[n].bank] |= features[n].mask;
    *banks = (WHV_PROCESSOR_FEATURES_BANKS){ .BanksCount = WHV_PROCESSOR_FEATURES_BANKS_COUNT };
    banks->Bank0.AsUINT64 = offered[BANK_0];
    banks->Bank1.AsUINT64 = offered[BANK_1];
    xsave->AsUINT64 = offered[BANK_XSAVE];
}

void soft_features_of(const struct property_values *properties, uint64_t set[4])
{
    const UINT64 wanted[BANKS] = { properties->processor_features.Bank0.AsUINT64,
                                   properties->processor_features.Bank1.AsUINT64, properties->xsave_features.AsUINT64 };
    x86_default_features(set);
    for (unsigned n = 0; n < FEATURES; n++)
        if (!(wanted[features[n].bank] & features[n].mask))
            *word(set, features[n].feature) &= ~bit(features[n].feature);
    // Without APIC emulation its timer does not work, and x2APIC only in its own mode.
    if (properties->apic_mode == WHvX64LocalApicEmulationModeNone)
        *word(set, X86_FEATURE_TSC_DEADLINE) &= ~bit(X86_FEATURE_TSC_DEADLINE);
    if (properties->apic_mode != WHvX64LocalApicEmulationModeX2Apic)
        *word(set, X86_FEATURE_X2APIC) &= ~bit(X86_FEATURE_X2APIC);
}
