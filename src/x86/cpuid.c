// CPUID: what the processor is and which features it has (SDM vol. 2A, CPUID; APM vol. 3 appendix E).
#include "x86/system.h"

#include <string.h>

#include "x86/decode.h"

enum { EAX, EBX, ECX, EDX };

// Family 1Ah, model 0, stepping 0: a generation without the weaknesses that older ones must work around, and
// an interpreter does not speculate at all.
#define SIGNATURE 0x00b00f00u
#define LINE_BYTES 64u
#define LINEAR_BITS 48u

// A row of features.def, and whether this engine implements it now.
struct feature {
    uint32_t leaf;
    uint8_t subleaf, reg, bit;
};

static const struct feature features[X86_FEATURES] = {
#define X86_FEATURE_ROW(name, leaf_, subleaf_, reg_, bit_) \
    [X86_FEATURE_##name] = { .leaf = leaf_, .subleaf = subleaf_, .reg = reg_, .bit = bit_ },
#include "x86/features.def"
#undef X86_FEATURE_ROW
};

// What is implemented. A guest reads a bit once and relies on it from then on: a name is here only when all
// of it works. HTT and CMP_LEGACY follow from the number of processors.
static const uint8_t implemented[] = {
    X86_FEATURE_FPU, X86_FEATURE_DE, X86_FEATURE_PSE, X86_FEATURE_TSC, X86_FEATURE_MSR, X86_FEATURE_PAE,
    X86_FEATURE_MCE, X86_FEATURE_CX8, X86_FEATURE_APIC, X86_FEATURE_SEP, X86_FEATURE_MTRR, X86_FEATURE_PGE,
    X86_FEATURE_MCA, X86_FEATURE_CMOV, X86_FEATURE_PAT, X86_FEATURE_PSE36, X86_FEATURE_CLFSH, X86_FEATURE_MMX,
    X86_FEATURE_FXSR, X86_FEATURE_SSE, X86_FEATURE_SSE2, X86_FEATURE_CX16, X86_FEATURE_X2APIC,
    X86_FEATURE_POPCNT, X86_FEATURE_TSC_DEADLINE, X86_FEATURE_FSGSBASE, X86_FEATURE_TSC_ADJUST, X86_FEATURE_SMEP,
    X86_FEATURE_SMAP, X86_FEATURE_UMIP,
    X86_FEATURE_SYSCALL, X86_FEATURE_NX, X86_FEATURE_GBPAGES, X86_FEATURE_RDTSCP, X86_FEATURE_LM,
    X86_FEATURE_LAHF64, X86_FEATURE_PREFETCHW, X86_FEATURE_TOPOEXT, X86_FEATURE_INVARIANT_TSC,
    X86_FEATURE_LFENCE_SERIALIZING,
    X86_FEATURE_NULL_SEL_CLEARS_BASE, X86_FEATURE_AUTO_IBRS, X86_FEATURE_SSB_NO, X86_FEATURE_SRSO_NO,
};

void x86_default_features(uint64_t set[4])
{
    memset(set, 0, 4 * sizeof *set);
    for (unsigned n = 0; n < sizeof implemented; n++)
        set[implemented[n] / 64] |= 1ull << (implemented[n] % 64);
}

// Set the bits that features.def has for this leaf.
static void leaf_features(const struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    for (unsigned n = X86_FEATURE_BASE + 1; n < X86_FEATURES; n++)
        if (features[n].leaf == leaf && features[n].subleaf == subleaf && x86_has_feature(cpu, n))
            out[features[n].reg] |= 1u << features[n].bit;
}

static uint32_t processors(const struct x86_cpu *cpu)
{
    return cpu->processor_count ? cpu->processor_count : 1;
}

// Bits of an APIC id that tell the processors of the package apart.
static unsigned id_bits(const struct x86_cpu *cpu)
{
    unsigned bits = 0;
    while ((1u << bits) < processors(cpu))
        bits++;
    return bits;
}

static void text(uint32_t out[4], const unsigned char order[], unsigned count, const char *from)
{
    for (unsigned n = 0; n < count; n++)
        memcpy(&out[order[n]], from + 4 * n, 4);
}

static void vendor(uint32_t out[4])
{
    static const unsigned char order[] = { EBX, EDX, ECX };
    text(out, order, 3, "AuthenticAMD");
}

static void brand(uint32_t out[4], unsigned part)
{
    static const unsigned char order[] = { EAX, EBX, ECX, EDX };
    static const char name[48] = "Bulkhead";
    text(out, order, 4, name + 16 * part);
}

static void leaf_1(const struct x86_cpu *cpu, uint32_t out[4])
{
    uint32_t count = processors(cpu) > 255 ? 255 : processors(cpu);
    out[EAX] = SIGNATURE;
    out[EBX] = (cpu->apic_id & 0xff) << 24 | count << 16 | (LINE_BYTES / 8) << 8;
    if (count > 1)
        out[EDX] |= 1u << 28;
    if (cpu->cr4 & X86_CR4_OSXSAVE)
        out[ECX] |= 1u << 27;
}

static void leaf_topology(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    out[ECX] = subleaf & 0xff;
    out[EDX] = cpu->apic_id;
    if (subleaf == 0) {             // one thread in a core
        out[EBX] = 1;
        out[ECX] |= 1 << 8;
    } else if (subleaf == 1) {      // all cores in the package
        out[EAX] = id_bits(cpu);
        out[EBX] = processors(cpu);
        out[ECX] |= 2 << 8;
    }
}

static void leaf_amd_features(const struct x86_cpu *cpu, uint32_t out[4])
{
    // These bits repeat leaf 1's on this vendor.
    uint32_t one[4] = { 0 };
    leaf_features(cpu, 1, 0, one);
    out[EAX] = SIGNATURE;
    out[EDX] |= one[EDX] & 0x0183f3ff;
    if (processors(cpu) > 1)
        out[ECX] |= 1u << 1;
}

// Cache parameters: 32 KiB of level 1 each, 512 KiB of level 2, 16 MiB of level 3 shared by all.
static void leaf_cache(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    static const struct { uint32_t type, level, ways, sets; } caches[] = {
        { 1, 1, 8, 64 }, { 2, 1, 8, 64 }, { 3, 2, 8, 1024 }, { 3, 3, 16, 16384 },
    };
    if (subleaf >= sizeof caches / sizeof *caches)
        return;
    uint32_t sharing = caches[subleaf].level == 3 ? processors(cpu) : 1;
    out[EAX] = caches[subleaf].type | caches[subleaf].level << 5 | 1 << 8 | (sharing - 1) << 14;
    out[EBX] = (caches[subleaf].ways - 1) << 22 | (LINE_BYTES - 1);
    out[ECX] = caches[subleaf].sets - 1;
}

static void leaf_core(const struct x86_cpu *cpu, uint32_t out[4])
{
    out[EAX] = cpu->apic_id;
    out[EBX] = cpu->apic_id & 0xff;     // one thread in each core
}

static void fill(const struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    leaf_features(cpu, leaf, leaf == 7 || leaf == 0xd ? subleaf : 0, out);
    switch (leaf) {
    case 0:
        out[EAX] = x86_has_feature(cpu, X86_FEATURE_XSAVE) ? 0xd : 0xb;
        vendor(out);
        break;
    case 1:
        leaf_1(cpu, out);
        break;
    case 0xb:
        leaf_topology(cpu, subleaf, out);
        break;
    case 0x80000000:
        out[EAX] = 0x80000021;
        vendor(out);
        break;
    case 0x80000001:
        leaf_amd_features(cpu, out);
        break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        brand(out, leaf - 0x80000002);
        break;
    case 0x80000005:        // level 1: KiB, ways, lines per tag, line size; TLBs are not described
        out[ECX] = 32 << 24 | 8 << 16 | 1 << 8 | LINE_BYTES;
        out[EDX] = 32 << 24 | 8 << 16 | 1 << 8 | LINE_BYTES;
        break;
    case 0x80000006:        // level 2: KiB, 8 ways; level 3: units of 512 KiB, 16 ways
        out[ECX] = 512u << 16 | 6 << 12 | 1 << 8 | LINE_BYTES;
        out[EDX] = 32u << 18 | 8 << 12 | 1 << 8 | LINE_BYTES;
        break;
    case 0x80000008:
        out[EAX] = cpu->physical_bits | LINEAR_BITS << 8;
        out[ECX] = (processors(cpu) - 1) | id_bits(cpu) << 12;
        break;
    case 0x8000001d:
        leaf_cache(cpu, subleaf, out);
        break;
    case 0x8000001e:
        leaf_core(cpu, out);
        break;
    }
}

void x86_cpuid(const struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    out[EAX] = out[EBX] = out[ECX] = out[EDX] = 0;
    fill(cpu, leaf, subleaf, out);
}
