// WHP's names for processor features and CPUID's bits for them (SDM vol. 2A, CPUID; APM vol. 3 appendix E).
#include "engine/kvm/features.h"

#include <assert.h>
#include <string.h>

enum { EAX, EBX, ECX, EDX };
enum bank { BANK_0, BANK_1, BANK_XSAVE, BANKS };

// Features that cpuid.c never shows have no row. A feature with several rows is there when any of its bits
// is, and takes all of them away. In the order of leaves.
struct feature {
    union {
        WHV_PROCESSOR_FEATURES zero;
        WHV_PROCESSOR_FEATURES1 one;
        WHV_PROCESSOR_XSAVE_FEATURES xsave;
        UINT64 mask;
    };
    uint32_t leaf;
    uint8_t bank, subleaf, reg, bit;
};

#define ZERO(name, leaf_, subleaf_, reg_, bit_) \
    { .zero = { .name = 1 }, .leaf = leaf_, .bank = BANK_0, .subleaf = subleaf_, .reg = reg_, .bit = bit_ }
#define ONE(name, leaf_, subleaf_, reg_, bit_) \
    { .one = { .name = 1 }, .leaf = leaf_, .bank = BANK_1, .subleaf = subleaf_, .reg = reg_, .bit = bit_ }
#define XSAVE(name, leaf_, subleaf_, reg_, bit_) \
    { .xsave = { .name = 1 }, .leaf = leaf_, .bank = BANK_XSAVE, .subleaf = subleaf_, .reg = reg_, .bit = bit_ }

static const struct feature features[] = {
    ZERO(Sse3Support, 1, 0, ECX, 0),
    ZERO(Ssse3Support, 1, 0, ECX, 9),
    ZERO(Sse4_1Support, 1, 0, ECX, 19),
    ZERO(Sse4_2Support, 1, 0, ECX, 20),
    ZERO(PopCntSupport, 1, 0, ECX, 23),
    ZERO(Cmpxchg16bSupport, 1, 0, ECX, 13),
    ZERO(AesSupport, 1, 0, ECX, 25),
    ZERO(PclmulqdqSupport, 1, 0, ECX, 1),
    ZERO(PcidSupport, 1, 0, ECX, 17),
    ZERO(F16CSupport, 1, 0, ECX, 29),
    ZERO(RdRandSupport, 1, 0, ECX, 30),
    ZERO(MovbeSupport, 1, 0, ECX, 22),
    ONE(TscDeadlineTmrSupport, 1, 0, ECX, 24),
    XSAVE(XsaveSupport, 1, 0, ECX, 26),
    XSAVE(AvxSupport, 1, 0, ECX, 28),
    XSAVE(FmaSupport, 1, 0, ECX, 12),
    ZERO(RdWrFsGsSupport, 7, 0, EBX, 0),
    ZERO(SmepSupport, 7, 0, EBX, 7),
    ZERO(EnhancedFastStringSupport, 7, 0, EBX, 9),
    ZERO(Bmi1Support, 7, 0, EBX, 3),
    ZERO(Bmi2Support, 7, 0, EBX, 8),
    ZERO(DepX87FPUSaveSupport, 7, 0, EBX, 13),
    ZERO(RdSeedSupport, 7, 0, EBX, 18),
    ZERO(AdxSupport, 7, 0, EBX, 19),
    ZERO(SmapSupport, 7, 0, EBX, 20),
    ZERO(HleSupport, 7, 0, EBX, 4),
    ZERO(RtmSupport, 7, 0, EBX, 11),
    ZERO(ClflushoptSupport, 7, 0, EBX, 23),
    ZERO(ClwbSupport, 7, 0, EBX, 24),
    ZERO(ShaSupport, 7, 0, EBX, 29),
    ZERO(InvpcidSupport, 7, 0, EBX, 10),
    ZERO(IbrsSupport, 7, 0, EDX, 26),
    ZERO(StibpSupport, 7, 0, EDX, 27),
    ZERO(IbpbSupport, 7, 0, EDX, 26),
    ZERO(SsbdSupport, 7, 0, EDX, 31),
    ZERO(FastShortRepMovSupport, 7, 0, EDX, 4),
    ZERO(RdPidSupport, 7, 0, ECX, 22),
    ZERO(UmipSupport, 7, 0, ECX, 2),
    ZERO(MdClearSupport, 7, 0, EDX, 10),
    ONE(UmwaitTpauseSupport, 7, 0, ECX, 5),
    ONE(MovdiriSupport, 7, 0, ECX, 27),
    ONE(Movdir64bSupport, 7, 0, ECX, 28),
    ONE(CldemoteSupport, 7, 0, ECX, 25),
    ONE(SerializeSupport, 7, 0, EDX, 14),
    ONE(TscAdjustSupport, 7, 0, EBX, 1),
    ONE(FZLRepMovsb, 7, 1, EAX, 10),
    ONE(FSRepStosb, 7, 1, EAX, 11),
    ONE(FSRepCmpsb, 7, 1, EAX, 12),
    ONE(TsxLdTrkSupport, 7, 0, EDX, 16),
    ONE(CmpccxaddSupport, 7, 1, EAX, 7),
    ONE(PrefetchISupport, 7, 1, EDX, 14),
    ONE(Sha512Support, 7, 1, EAX, 0),
    ONE(SM3Support, 7, 1, EAX, 1),
    ONE(SM4Support, 7, 1, EAX, 2),
    XSAVE(Avx2Support, 7, 0, EBX, 5),
    XSAVE(MpxSupport, 7, 0, EBX, 14),
    XSAVE(Avx512Support, 7, 0, EBX, 16),
    XSAVE(Avx512DQSupport, 7, 0, EBX, 17),
    XSAVE(Avx512CDSupport, 7, 0, EBX, 28),
    XSAVE(Avx512BWSupport, 7, 0, EBX, 30),
    XSAVE(Avx512VLSupport, 7, 0, EBX, 31),
    XSAVE(Avx512BitalgSupport, 7, 0, ECX, 12),
    XSAVE(Avx512IfmaSupport, 7, 0, EBX, 21),
    XSAVE(Avx512VBmiSupport, 7, 0, ECX, 1),
    XSAVE(Avx512VBmi2Support, 7, 0, ECX, 6),
    XSAVE(Avx512VnniSupport, 7, 0, ECX, 11),
    XSAVE(GfniSupport, 7, 0, ECX, 8),
    XSAVE(VaesSupport, 7, 0, ECX, 9),
    XSAVE(Avx512VPopcntdqSupport, 7, 0, ECX, 14),
    XSAVE(VpclmulqdqSupport, 7, 0, ECX, 10),
    XSAVE(Avx512Bf16Support, 7, 1, EAX, 5),
    XSAVE(Avx512Vp2IntersectSupport, 7, 0, EDX, 8),
    XSAVE(Avx512Fp16Support, 7, 0, EDX, 23),
    XSAVE(AmxTileSupport, 7, 0, EDX, 24),
    XSAVE(AmxBf16Support, 7, 0, EDX, 22),
    XSAVE(AmxInt8Support, 7, 0, EDX, 25),
    XSAVE(AvxVnniSupport, 7, 1, EAX, 4),
    XSAVE(AvxIfmaSupport, 7, 1, EAX, 23),
    XSAVE(AvxNeConvertSupport, 7, 1, EDX, 5),
    XSAVE(AvxVnniInt8Support, 7, 1, EDX, 4),
    XSAVE(AvxVnniInt16Support, 7, 1, EDX, 10),
    XSAVE(Avx10_1_256Support, 7, 1, EDX, 19),
    XSAVE(AmxFp16Support, 7, 1, EAX, 21),
    XSAVE(XsaveoptSupport, 0xd, 1, EAX, 0),
    XSAVE(XsaveCompSupport, 0xd, 1, EAX, 1),
    XSAVE(XsaveSupervisorSupport, 0xd, 1, EAX, 3),
    XSAVE(Xcr1Support, 0xd, 1, EAX, 2),
    XSAVE(XfdSupport, 0xd, 1, EAX, 4),
    XSAVE(Avx10_1_256Support, 0x24, 0, EBX, 17),
    XSAVE(Avx10_1_512Support, 0x24, 0, EBX, 18),
    ZERO(LahfSahfSupport, 0x80000001, 0, ECX, 0),
    ZERO(Sse4aSupport, 0x80000001, 0, ECX, 6),
    ZERO(XopSupport, 0x80000001, 0, ECX, 11),
    ZERO(Altmovcr8Support, 0x80000001, 0, ECX, 4),
    ZERO(LzcntSupport, 0x80000001, 0, ECX, 5),
    ZERO(MisAlignSseSupport, 0x80000001, 0, ECX, 7),
    ZERO(MmxExtSupport, 0x80000001, 0, EDX, 22),
    ZERO(Amd3DNowSupport, 0x80000001, 0, EDX, 31),
    ZERO(ExtendedAmd3DNowSupport, 0x80000001, 0, EDX, 30),
    ZERO(Page1GbSupport, 0x80000001, 0, EDX, 26),
    ZERO(Fma4Support, 0x80000001, 0, ECX, 16),
    ZERO(IntelPrefetchSupport, 0x80000001, 0, ECX, 8),
    ZERO(RdtscpSupport, 0x80000001, 0, EDX, 27),
    ONE(TscInvariantSupport, 0x80000007, 0, EDX, 8),
    ZERO(X87PointersSavedSupport, 0x80000008, 0, EBX, 2),
    ZERO(IbrsSupport, 0x80000008, 0, EBX, 14),
    ZERO(StibpSupport, 0x80000008, 0, EBX, 15),
    ZERO(IbpbSupport, 0x80000008, 0, EBX, 12),
    ZERO(SsbdSupport, 0x80000008, 0, EBX, 24),
    ZERO(SsbdSupport, 0x80000008, 0, EBX, 25),
    ZERO(SsbNo, 0x80000008, 0, EBX, 26),
    ONE(ClZeroSupport, 0x80000008, 0, EBX, 0),
    ONE(RdpruSupport, 0x80000008, 0, EBX, 4),
    ONE(PsfdSupport, 0x80000008, 0, EBX, 28),
    ONE(BtcNoSupport, 0x80000008, 0, EBX, 29),
    ONE(IbpbRsbFlushSupport, 0x80000008, 0, EBX, 30),
    ONE(StibpAlwaysOnSupport, 0x80000008, 0, EBX, 17),
    ONE(SbpbSupported, 0x80000021, 0, EAX, 27),
    ONE(IbpbBrTypeSupported, 0x80000021, 0, EAX, 28),
    ONE(SrsoNoSupported, 0x80000021, 0, EAX, 29),
    ONE(SrsoUserKernelNoSupported, 0x80000021, 0, EAX, 30),
};
#define FEATURES (sizeof features / sizeof *features)

const struct kvm_cpuid_entry2 *kvm_features_entry(const struct kvm_cpuid2 *table, uint32_t leaf, uint32_t subleaf)
{
    for (uint32_t n = 0; n < table->nent; n++) {
        const struct kvm_cpuid_entry2 *e = &table->entries[n];

        if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
            return e;
    }
    return NULL;
}

// The first row of a leaf; where there is none, of a higher one.
static unsigned first_row(uint32_t leaf)
{
    unsigned low = 0, high = FEATURES;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (features[middle].leaf < leaf)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void kvm_features_offered(const struct kvm_host *h, WHV_PROCESSOR_FEATURES_BANKS *banks,
                          WHV_PROCESSOR_XSAVE_FEATURES *xsave)
{
    UINT64 offered[BANKS] = { 0 };

    for (unsigned n = 0; n < FEATURES; n++) {
        const struct feature *f = &features[n];
        const struct kvm_cpuid_entry2 *e = kvm_features_entry(h->cpuid, f->leaf, f->subleaf);

        assert(n == 0 || features[n - 1].leaf <= f->leaf);
        if (e && (((const uint32_t[]){ e->eax, e->ebx, e->ecx, e->edx })[f->reg] >> f->bit & 1))
            offered[f->bank] |= f->mask;
    }
    *banks = (WHV_PROCESSOR_FEATURES_BANKS){ .BanksCount = WHV_PROCESSOR_FEATURES_BANKS_COUNT };
    banks->Bank0.AsUINT64 = offered[BANK_0];
    banks->Bank1.AsUINT64 = offered[BANK_1];
    // A timer mode that KVM_GET_SUPPORTED_CPUID has only since KVM stopped to ask for an APIC first (api.rst
    // 4.46).
    banks->Bank1.TscDeadlineTmrSupport = h->tsc_deadline;
    xsave->AsUINT64 = offered[BANK_XSAVE];
}

// Leaves of this table whose answer depends on the subleaf.
static bool by_subleaf(uint32_t leaf)
{
    return leaf == 7 || leaf == 0xd || leaf == 0x24;
}

void kvm_features_mask(uint32_t leaf, uint32_t subleaf, const WHV_PROCESSOR_FEATURES_BANKS *banks,
                       WHV_PROCESSOR_XSAVE_FEATURES xsave, uint32_t out[4])
{
    const UINT64 wanted[BANKS] = { banks->Bank0.AsUINT64, banks->Bank1.AsUINT64, xsave.AsUINT64 };

    for (unsigned n = first_row(leaf); n < FEATURES && features[n].leaf == leaf; n++) {
        const struct feature *f = &features[n];

        if ((f->subleaf == subleaf || !by_subleaf(leaf)) && !(wanted[f->bank] & f->mask))
            out[f->reg] &= ~(1u << f->bit);
    }
}
