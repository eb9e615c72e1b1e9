// Processor features that need others.
#include "partition/features.h"

enum bank { BANK_0, BANK_1, BANK_XSAVE, BANKS };

// One bit of one bank.
struct feature {
    union {
        WHV_PROCESSOR_FEATURES zero;
        WHV_PROCESSOR_FEATURES1 one;
        WHV_PROCESSOR_XSAVE_FEATURES xsave;
        UINT64 mask;
    };
    enum bank bank;
    const char *name;
};

struct need {
    struct feature feature, needs;
};

#define ZERO(name_) {.zero = {.name_##Support = 1}, .bank = BANK_0, .name = #name_}
#define ONE(name_) {.one = {.name_##Support = 1}, .bank = BANK_1, .name = #name_}
#define XSAVE(name_) {.xsave = {.name_##Support = 1}, .bank = BANK_XSAVE, .name = #name_}

static const struct need needs[] = {
    {ZERO(Ssse3), ZERO(Sse3)},
    {ZERO(Sse4_1), ZERO(Ssse3)},
    {ZERO(Sse4_2), ZERO(Sse4_1)},
    {ZERO(Sse4a), ZERO(Sse3)},
    {ZERO(ExtendedAmd3DNow), ZERO(Amd3DNow)},
    {ZERO(Invpcid), ZERO(Pcid)},
    {ZERO(F16C), XSAVE(Avx)},
    {ZERO(Xop), XSAVE(Avx)},
    {ZERO(Fma4), XSAVE(Avx)},

    {ONE(TsxLdTrk), ZERO(Rtm)},
    {ONE(Sha512), XSAVE(Avx2)},
    {ONE(SM3), XSAVE(Avx)},
    {ONE(SM4), XSAVE(Avx2)},

    {XSAVE(Xsaveopt), XSAVE(Xsave)},
    {XSAVE(XsaveComp), XSAVE(Xsave)},
    {XSAVE(XsaveSupervisor), XSAVE(XsaveComp)},
    {XSAVE(Xcr1), XSAVE(Xsave)},
    {XSAVE(Xfd), XSAVE(Xsave)},
    {XSAVE(Mpx), XSAVE(Xsave)},
    {XSAVE(Avx), XSAVE(Xsave)},
    {XSAVE(Fma), XSAVE(Avx)},
    {XSAVE(Avx2), XSAVE(Avx)},
    {XSAVE(Vaes), XSAVE(Avx)},
    {XSAVE(Vaes), ZERO(Aes)},
    {XSAVE(Vpclmulqdq), XSAVE(Avx)},
    {XSAVE(Vpclmulqdq), ZERO(Pclmulqdq)},
    {XSAVE(AvxVnni), XSAVE(Avx2)},
    {XSAVE(AvxIfma), XSAVE(Avx2)},
    {XSAVE(AvxNeConvert), XSAVE(Avx2)},
    {XSAVE(AvxVnniInt8), XSAVE(Avx2)},
    {XSAVE(AvxVnniInt16), XSAVE(Avx2)},
    {XSAVE(Avx512), XSAVE(Avx2)},
    {XSAVE(Avx512DQ), XSAVE(Avx512)},
    {XSAVE(Avx512CD), XSAVE(Avx512)},
    {XSAVE(Avx512BW), XSAVE(Avx512)},
    {XSAVE(Avx512VL), XSAVE(Avx512)},
    {XSAVE(Avx512Ifma), XSAVE(Avx512)},
    {XSAVE(Avx512VBmi), XSAVE(Avx512)},
    {XSAVE(Avx512VBmi2), XSAVE(Avx512)},
    {XSAVE(Avx512Bitalg), XSAVE(Avx512)},
    {XSAVE(Avx512Vnni), XSAVE(Avx512)},
    {XSAVE(Avx512VPopcntdq), XSAVE(Avx512)},
    {XSAVE(Avx512Bf16), XSAVE(Avx512)},
    {XSAVE(Avx512Vp2Intersect), XSAVE(Avx512)},
    {XSAVE(Avx512Fp16), XSAVE(Avx512BW)},
    {XSAVE(Avx10_1_256), XSAVE(Avx2)},
    {XSAVE(Avx10_1_512), XSAVE(Avx10_1_256)},
    {XSAVE(AmxTile), XSAVE(Xsave)},
    {XSAVE(AmxBf16), XSAVE(AmxTile)},
    {XSAVE(AmxInt8), XSAVE(AmxTile)},
    {XSAVE(AmxFp16), XSAVE(AmxTile)},
};

static bool was_set(const struct property_values *values, WHV_PARTITION_PROPERTY_CODE code)
{
    return property_is_set(values, property_find(code));
}

HRESULT features_settle(struct property_values *values, const struct engine_capabilities *capabilities,
                        struct feature_conflict *conflict)
{
    const bool banks_set = was_set(values, WHvPartitionPropertyCodeProcessorFeaturesBanks);
    const bool set[BANKS] = {
        banks_set || was_set(values, WHvPartitionPropertyCodeProcessorFeatures),
        banks_set,
        was_set(values, WHvPartitionPropertyCodeProcessorXsaveFeatures),
    };
    const UINT64 offered[BANKS] = {
        capabilities->processor_features.Bank0.AsUINT64,
        capabilities->processor_features.Bank1.AsUINT64,
        capabilities->xsave_features.AsUINT64,
    };
    // ProcessorFeatures alone leaves the second bank to the engine.
    UINT64 banks[BANKS] = {
        values->processor_features.Bank0.AsUINT64,
        banks_set ? values->processor_features.Bank1.AsUINT64 : offered[BANK_1],
        values->xsave_features.AsUINT64,
    };
    bool changed = true;

    *conflict = (struct feature_conflict){.feature = NULL};
    // What is left out can be what another one needs.
    while (changed) {
        changed = false;
        for (unsigned int i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
            const struct feature *f = &needs[i].feature, *other = &needs[i].needs;

            // A host's processor that itself lacks what is needed is no mistake of the caller's.
            if (!(banks[f->bank] & f->mask) || (banks[other->bank] & other->mask) ||
                !(offered[other->bank] & other->mask))
                continue;
            if (set[f->bank]) {
                *conflict = (struct feature_conflict){.feature = f->name, .without = other->name};
                return WHV_E_UNSUPPORTED_PROCESSOR_CONFIG;
            }
            banks[f->bank] &= ~f->mask;
            changed = true;
        }
    }
    values->processor_features.Bank0.AsUINT64 = banks[BANK_0];
    values->processor_features.Bank1.AsUINT64 = banks[BANK_1];
    values->xsave_features.AsUINT64 = banks[BANK_XSAVE];
    return S_OK;
}
