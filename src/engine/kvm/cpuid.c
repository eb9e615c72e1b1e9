// CPUID of a kvm processor: what KVM offers, made into the processor that the partition's properties
// describe.
//
// An answer is worked out when it is asked for: KVM's entry for the leaf, without the features that the
// partition shall not have, changed by the function of `shapes` that is for it. kvm_cpuid_install asks for
// every leaf there is and writes the answers down for KVM, which then answers the guest by rules of its own
// (arch/x86/kvm/cpuid.c, kvm_cpuid): bits that follow the processor's state, bits that it shows whatever it
// is told (host.h, `forced`), and what an absent leaf or subleaf reads as. Those rules are here too, so that
// both say the same.
#include "engine/kvm/cpuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/common/processor.h"
#include "engine/kvm/features.h"
#include "engine/kvm/host.h"
#include "engine/kvm/ioctl.h"
#include "x86/decode.h"

enum { EAX, EBX, ECX, EDX };

#define BIT(n) (1u << (n))
#define HYPERVISOR_BASE 0x40000000u
#define HYPERVISOR_LEAVES 8u        // those that hypervisors are looked for in: all of them zero
#define EXTENDED_BASE 0x80000000u
#define CENTAUR_BASE 0xc0000000u
#define XSAVE_HEADER_END 576u       // legacy area and header (SDM vol. 1 13.4)
#define LINEAR_BITS 48u

// The leaf that an answer is made for, and whom it is for.
struct asked {
    struct vp *vp;
    const struct kvm_host *host;
    const struct property_values *properties;
    uint32_t leaf, subleaf;
};

static bool base_entry(const struct kvm_host *host, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct kvm_cpuid_entry2 *e = kvm_features_entry(host->cpuid, leaf, subleaf);

    if (e)
        memcpy(out, (uint32_t[]){ e->eax, e->ebx, e->ecx, e->edx }, 4 * sizeof *out);
    else
        memset(out, 0, 4 * sizeof *out);
    return e != NULL;
}

static void add_forced(const struct kvm_host *host, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct kvm_cpuid_entry2 *e = host->forced ? kvm_features_entry(host->forced, leaf, subleaf) : NULL;

    if (!e)
        return;
    out[EAX] |= e->eax;
    out[EBX] |= e->ebx;
    out[ECX] |= e->ecx;
    out[EDX] |= e->edx;
}

// The same with the features masked that can be: what the rest of this file may rely on.
static void offered(const struct asked *a, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)base_entry(a->host, leaf, subleaf, out);
    kvm_features_mask(leaf, subleaf, &a->properties->processor_features, a->properties->xsave_features, out);
    add_forced(a->host, leaf, subleaf, out);
}

static bool offered_bit(const struct asked *a, uint32_t leaf, unsigned reg, unsigned bit)
{
    uint32_t out[4];

    offered(a, leaf, 0, out);
    return out[reg] >> bit & 1;
}

static bool vendor_is(const uint32_t leaf0[4], const char *name)
{
    const uint32_t text[3] = { leaf0[EBX], leaf0[EDX], leaf0[ECX] };

    return !memcmp(text, name, sizeof text);
}

static bool vendor_amd(const uint32_t leaf0[4])
{
    return vendor_is(leaf0, "AuthenticAMD") || vendor_is(leaf0, "HygonGenuine");
}

static bool is_amd(const struct asked *a)
{
    uint32_t out[4];

    (void)base_entry(a->host, 0, 0, out);
    return vendor_amd(out);
}

static uint32_t processors(const struct asked *a)
{
    return a->properties->processor_count ? a->properties->processor_count : 1;
}

// Bits of an APIC id that tell the processors of the package apart.
static unsigned id_bits(const struct asked *a)
{
    unsigned bits = 0;

    while (BIT(bits) < processors(a))
        bits++;
    return bits;
}

// The processor's state as far as CPUID shows it; before there is one, as after reset.
static const struct x86_cpu *state(const struct asked *a)
{
    const struct processor *p = a->vp->engine_data;

    return p ? &p->cpu : NULL;
}

// ---- Leaves ------------------------------------------------------------------------------------------------------

static void nothing(const struct asked *a, uint32_t out[4])
{
    (void)a;
    memset(out, 0, 4 * sizeof *out);
}

// One package; its processors are cores of one thread each.
static void leaf_1(const struct asked *a, uint32_t out[4])
{
    const struct x86_cpu *cpu = state(a);
    bool apic = a->properties->apic_mode != WHvX64LocalApicEmulationModeNone;
    bool x2apic = a->properties->apic_mode == WHvX64LocalApicEmulationModeX2Apic;
    bool deadline = apic && a->host->tsc_deadline && a->properties->processor_features.Bank1.TscDeadlineTmrSupport;

    out[EBX] = (out[EBX] & 0xffff) | processors(a) << 16 | (a->vp->index & 0xff) << 24;
    // MONITOR, VMX, SMX, PDCM, x2APIC, TSC deadline, OSXSAVE, hypervisor
    out[ECX] &= ~(BIT(3) | BIT(5) | BIT(6) | BIT(15) | BIT(21) | BIT(24) | BIT(27) | BIT(31));
    out[ECX] |= (uint32_t)x2apic << 21 | (uint32_t)deadline << 24;
    if (cpu && (cpu->cr4 & X86_CR4_OSXSAVE) && (out[ECX] & BIT(26)))
        out[ECX] |= BIT(27);
    out[EDX] &= ~(BIT(21) | BIT(28));       // debug store, several processors
    out[EDX] |= BIT(9) | (uint32_t)(processors(a) > 1) << 28;
}

// Deterministic cache parameters, Intel's leaf 4 and AMD's 0x8000001d: the last level is everybody's.
static void leaf_cache(const struct asked *a, uint32_t out[4])
{
    uint32_t level = out[EAX] >> 5 & 7;
    bool intel = a->leaf == 4;
    uint32_t all = intel ? BIT(id_bits(a)) : processors(a);     // Intel's are counts of ids

    if (!(out[EAX] & 0x1f))
        return;
    out[EAX] &= 0x3fff;
    out[EAX] |= ((level >= 3 ? all : 1) - 1) << 14;
    if (intel)
        out[EAX] |= (BIT(id_bits(a)) - 1) << 26;
}

static void leaf_power(const struct asked *a, uint32_t out[4])
{
    uint32_t always_running_timer = out[EAX] & BIT(2);

    nothing(a, out);
    out[EAX] = always_running_timer;
}

// What changes how an instruction reaches memory is known to x86/ or not shown: the one instruction of an
// exit is that room's to run. So no protection keys, shadow stacks, 5-level paging, linear address masking.
static void leaf_7(const struct asked *a, uint32_t out[4])
{
    if (a->subleaf == 0) {
        out[EBX] &= ~(BIT(2) | BIT(25));            // SGX, processor trace
        // Protection keys and whether they are on, shadow stacks, 5-level paging, SGX launch control,
        // supervisor keys
        out[ECX] &= ~(BIT(3) | BIT(4) | BIT(7) | BIT(16) | BIT(30) | BIT(31));
        out[EDX] &= ~(BIT(5) | BIT(19) | BIT(20));  // user interrupts, last-branch records, branch tracking
    } else if (a->subleaf == 1) {
        // LASS, performance monitoring by leaf 0x23, FRED and LKGS, LAM
        out[EAX] &= ~(BIT(6) | BIT(8) | BIT(17) | BIT(18) | BIT(26));
        out[EDX] &= ~BIT(18);                       // supervisor shadow stacks
    }
}

// Topology, 0xb and 0x1f, as far as the guest sees that there are such leaves. Subleaves above the last say
// only what they were asked and who asks.
static void leaf_topology(const struct asked *a, uint32_t out[4])
{
    uint32_t max[4];

    partition_cpuid(a->vp, 0, 0, max);
    nothing(a, out);
    if (a->leaf > max[EAX])
        return;
    out[ECX] = a->subleaf & 0xff;
    out[EDX] = a->vp->index;
    if (a->subleaf == 0) {              // threads of a core
        out[EBX] = 1;
        out[ECX] |= 1 << 8;
    } else if (a->subleaf == 1) {       // cores of the package
        out[EAX] = id_bits(a);
        out[EBX] = processors(a);
        out[ECX] |= 2 << 8;
    }
}

// Bits of XCR0 that need a feature to be offered (SDM vol. 1 13.1).
static const struct { uint64_t components; uint32_t leaf; uint8_t reg, bit; } component_needs[] = {
    { 1u << 2, 1, ECX, 28 },                        // YMM: AVX
    { 3u << 3, 7, EBX, 14 },                        // bounds registers: MPX
    { 7u << 5, 7, EBX, 16 },                        // opmask, ZMM: AVX-512
    { 3u << 17, 7, EDX, 24 },                       // tiles: AMX
};

// Processor trace, PKRU, CET, last-branch records
#define COMPONENTS_HIDDEN (1ull << 8 | 1ull << 9 | 3ull << 11 | 1ull << 15)

static uint64_t components_allowed(const struct asked *a)
{
    uint64_t needing = COMPONENTS_HIDDEN, granted = 0;

    for (unsigned n = 0; n < sizeof component_needs / sizeof *component_needs; n++) {
        needing |= component_needs[n].components;
        if (offered_bit(a, component_needs[n].leaf, component_needs[n].reg, component_needs[n].bit))
            granted |= component_needs[n].components;
    }
    uint32_t shown[4] = { 0 };
    add_forced(a->host, 0xd, 0, shown);     // whatever it is worth, its size counts
    return ~needing | granted | shown[EAX] | (uint64_t)shown[EDX] << 32;
}

// Bytes that XSAVE needs for some components: each at its own place, or (compact) one after the other.
static uint32_t area_size(const struct kvm_host *host, uint64_t components, bool compact)
{
    uint32_t end = XSAVE_HEADER_END, out[4];

    for (unsigned n = 2; n < 63; n++) {
        if (!(components >> n & 1) || !base_entry(host, 0xd, n, out))
            continue;
        uint32_t start = compact ? (out[ECX] & 2 ? (end + 63) & ~63u : end) : out[EBX];
        if (start + out[EAX] > end)
            end = start + out[EAX];
    }
    return end;
}

static void leaf_xsave(const struct asked *a, uint32_t out[4])
{
    if (a->subleaf > 1 && !(out[EAX] | out[EBX] | out[ECX] | out[EDX]))
        return;                         // no such component: most of them
    const struct x86_cpu *cpu = state(a);
    uint64_t allowed = components_allowed(a), enabled = cpu && cpu->xcr0 ? cpu->xcr0 : 1;

    if (!offered_bit(a, 1, ECX, 26)) {
        nothing(a, out);
    } else if (a->subleaf == 0) {
        out[EAX] &= (uint32_t)allowed;
        out[EDX] &= (uint32_t)(allowed >> 32);
        out[EBX] = area_size(a->host, enabled, false);
        out[ECX] = area_size(a->host, out[EAX] | (uint64_t)out[EDX] << 32, false);
    } else if (a->subleaf == 1) {
        out[EBX] = out[EAX] & (BIT(1) | BIT(3)) ? area_size(a->host, enabled, true) : 0;
        if (!(out[EAX] & BIT(3)))
            out[ECX] = out[EDX] = 0;
        out[ECX] &= (uint32_t)allowed;
        out[EDX] &= (uint32_t)(allowed >> 32);
    } else if (a->subleaf < 64 && !(allowed >> a->subleaf & 1)) {
        nothing(a, out);
    }
}

static void leaf_tiles(const struct asked *a, uint32_t out[4])
{
    if (!offered_bit(a, 7, EDX, 24))
        nothing(a, out);
}

static void leaf_extended_features(const struct asked *a, uint32_t out[4])
{
    // SVM, extended APIC space, IBS, SKINIT, watchdog, LWP, performance counters, MONITORX
    out[ECX] &= ~(BIT(2) | BIT(3) | BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(23) | BIT(24) | BIT(28) | BIT(29));
    if (!is_amd(a))
        return;
    out[ECX] &= ~BIT(1);
    out[ECX] |= (uint32_t)(processors(a) > 1) << 1;     // each of them a core
    out[EDX] |= BIT(9);
}

static void leaf_sizes(const struct asked *a, uint32_t out[4])
{
    out[EAX] = a->properties->physical_address_width | LINEAR_BITS << 8;
    out[ECX] = is_amd(a) ? (processors(a) - 1) | id_bits(a) << 12 : 0;
}

static void leaf_core(const struct asked *a, uint32_t out[4])
{
    nothing(a, out);
    if (!offered_bit(a, 0x80000001, ECX, 22))       // topology extensions
        return;
    out[EAX] = a->vp->index;
    out[EBX] = a->vp->index & 0xff;                 // one thread in each core
}

// Sorted. A leaf that is not named is KVM's, but for masked features.
static const struct { uint32_t first, last; void (*shape)(const struct asked *a, uint32_t out[4]); } shapes[] = {
    { 1, 1, leaf_1 },
    { 4, 4, leaf_cache },
    { 5, 5, nothing },                              // MONITOR
    { 6, 6, leaf_power },
    { 7, 7, leaf_7 },
    { 0xa, 0xa, nothing },                          // performance monitoring
    { 0xb, 0xb, leaf_topology },
    { 0xd, 0xd, leaf_xsave },
    { 0xf, 0x10, nothing },                         // resource monitoring and allocation
    { 0x12, 0x12, nothing },                        // SGX
    { 0x14, 0x14, nothing },                        // processor trace
    { 0x1c, 0x1c, nothing },                        // last-branch records
    { 0x1d, 0x1e, leaf_tiles },
    { 0x1f, 0x1f, leaf_topology },
    { 0x23, 0x23, nothing },                        // performance monitoring
    { HYPERVISOR_BASE, 0x4fffffff, nothing },
    { 0x80000001, 0x80000001, leaf_extended_features },
    { 0x80000008, 0x80000008, leaf_sizes },
    { 0x8000000a, 0x8000000a, nothing },            // SVM
    { 0x8000001b, 0x8000001c, nothing },            // IBS, LWP
    { 0x8000001d, 0x8000001d, leaf_cache },
    { 0x8000001e, 0x8000001e, leaf_core },
    { 0x8000001f, 0x80000020, nothing },            // memory encryption, quality of service
    { 0x80000022, 0x80000023, nothing },            // performance monitoring, multi-key encryption
    { 0x80000026, 0x80000026, nothing },            // topology: leaf 0xb's
};

// ---- Answers -----------------------------------------------------------------------------------------------------

// On all but AMD's kin an absent leaf above its class's last one reads as the highest basic leaf (SDM vol.
// 2A, CPUID; kvm_cpuid's get_out_of_range_cpuid_entry). The classes' heads are looked at as the guest sees
// them.
static bool out_of_range(struct vp *vp, uint32_t leaf, uint32_t *highest)
{
    uint32_t zero[4], head[4], class = leaf & EXTENDED_BASE;

    if (leaf == 0)
        return false;
    partition_cpuid(vp, 0, 0, zero);
    *highest = zero[EAX];
    if (vendor_amd(zero) || leaf == *highest)
        return false;
    if (leaf >= HYPERVISOR_BASE && leaf <= 0x4fffffff)
        class = leaf & 0xffffff00;
    else if (leaf >= CENTAUR_BASE)
        class = CENTAUR_BASE;
    if (class == leaf)
        return true;
    partition_cpuid(vp, class, 0, head);
    return leaf > head[EAX];
}

void kvm_cpuid(struct vp *vp, UINT32 leaf, UINT32 subleaf, UINT32 out[4])
{
    struct asked a = { .vp = vp, .host = kvm_host(), .properties = &vp->partition->properties, .leaf = leaf,
                       .subleaf = subleaf };
    uint32_t highest;
    bool known = base_entry(a.host, leaf, subleaf, out) || kvm_features_entry(a.host->cpuid, leaf, 0) ||
                 (leaf >= HYPERVISOR_BASE && leaf < HYPERVISOR_BASE + HYPERVISOR_LEAVES);

    if (!known && out_of_range(vp, leaf, &highest)) {
        partition_cpuid(vp, highest, subleaf, out);
        return;
    }
    kvm_features_mask(leaf, subleaf, &a.properties->processor_features, a.properties->xsave_features, out);
    add_forced(a.host, leaf, subleaf, out);
    for (unsigned n = 0; n < sizeof shapes / sizeof *shapes && shapes[n].first <= leaf; n++)
        if (leaf <= shapes[n].last)
            shapes[n].shape(&a, out);
    add_forced(a.host, leaf, subleaf, out);
}

void kvm_cpuid_features(struct vp *vp, uint64_t features[4])
{
    static const struct { uint32_t leaf; uint8_t subleaf, reg, bit; } rows[X86_FEATURES] = {
#define X86_FEATURE_ROW(name, leaf_, subleaf_, reg_, bit_) \
        [X86_FEATURE_##name] = { .leaf = leaf_, .subleaf = subleaf_, .reg = reg_, .bit = bit_ },
#include "x86/features.def"
#undef X86_FEATURE_ROW
    };
    uint32_t out[4] = { 0 };

    memset(features, 0, 4 * sizeof *features);
    for (unsigned n = X86_FEATURE_BASE + 1; n < X86_FEATURES; n++) {
        // Rows of one leaf stand together.
        if (n == X86_FEATURE_BASE + 1 || rows[n].leaf != rows[n - 1].leaf || rows[n].subleaf != rows[n - 1].subleaf)
            partition_cpuid(vp, rows[n].leaf, rows[n].subleaf, out);
        if (out[rows[n].reg] >> rows[n].bit & 1)
            features[n / 64] |= 1ull << n % 64;
    }
}

// ---- The table for KVM ---------------------------------------------------------------------------------------------

// KVM_MAX_CPUID_ENTRIES; kernels before 5.11 take 80.
#define ENTRIES_MAX 256u

struct table { __u32 count, padding; struct kvm_cpuid_entry2 entries[ENTRIES_MAX]; };
_Static_assert(offsetof(struct table, entries) == offsetof(struct kvm_cpuid2, entries), "the kernel's layout");

// (leaf, subleaf) pairs that have, or may have, an answer of their own; sorted, and each once. `any`: the
// leaf with whatever subleaf is not named; it comes behind those that are.
struct place { uint32_t leaf, subleaf; bool any; };
struct places { struct place *list; size_t count; };

static int compare_places(const void *one, const void *other)
{
    const struct place *a = one, *b = other;

    if (a->leaf != b->leaf)
        return a->leaf < b->leaf ? -1 : 1;
    if (a->any != b->any)
        return a->any ? 1 : -1;
    return a->any || a->subleaf == b->subleaf ? 0 : a->subleaf < b->subleaf ? -1 : 1;
}

static void add_place(struct places *p, uint32_t leaf, uint32_t subleaf, bool any)
{
    p->list[p->count++] = (struct place){ leaf, subleaf, any };
}

// Everything that KVM, this file or the result lists name.
CHECKED static bool collect_places(const struct vp *vp, const struct kvm_host *host, struct places *p)
{
    const struct property_values *values = &vp->partition->properties;
    size_t most = 2 * host->cpuid->nent + HYPERVISOR_LEAVES + 6 + values->cpuid_result_count +
                  2 * (size_t)values->cpuid_result2_count;
    size_t kept = 0;

    p->list = calloc(most, sizeof *p->list);
    p->count = 0;
    if (!p->list)
        return false;
    for (uint32_t n = 0; n < host->cpuid->nent; n++) {
        const struct kvm_cpuid_entry2 *e = &host->cpuid->entries[n];

        if (e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)
            add_place(p, e->function, e->index, false);
        add_place(p, e->function, 0, true);
    }
    for (uint32_t n = 0; n < HYPERVISOR_LEAVES; n++)
        add_place(p, HYPERVISOR_BASE + n, 0, true);
    for (uint32_t n = 0; n < 2; n++) {
        add_place(p, 0xb, n, false);
        add_place(p, 0x1f, n, false);
    }
    add_place(p, 0xb, 0, true);
    add_place(p, 0x1f, 0, true);
    for (uint32_t n = 0; n < values->cpuid_result_count; n++)
        add_place(p, values->cpuid_result_list[n].Function, 0, true);
    for (uint32_t n = 0; n < values->cpuid_result2_count; n++) {
        const WHV_X64_CPUID_RESULT2 *r = &values->cpuid_result2_list[n];

        if (r->Flags & WHvX64CpuidResult2FlagSubleafSpecific)
            add_place(p, r->Function, r->Index, false);
        add_place(p, r->Function, 0, true);
    }
    qsort(p->list, p->count, sizeof *p->list, compare_places);
    for (size_t n = 0; n < p->count; n++)
        if (!kept || compare_places(&p->list[kept - 1], &p->list[n]))
            p->list[kept++] = p->list[n];
    p->count = kept;
    return true;
}

// A subleaf that has no place of its own; places[n] is the leaf's `any`.
static uint32_t unnamed_subleaf(const struct places *p, size_t n)
{
    uint32_t subleaf = 0;

    for (size_t first = n; first > 0 && p->list[first - 1].leaf == p->list[n].leaf; first--)
        if (p->list[first - 1].subleaf >= subleaf)
            subleaf = p->list[first - 1].subleaf + 1;
    return subleaf;
}

// What KVM says by itself where the table has nothing: zero up to the class's last leaf, and for all of AMD's
// kin; of a topology leaf's unnamed subleaves what it makes of the leaf's subleaf 1, which is what this file
// makes of them.
static bool goes_without_saying(struct vp *vp, const struct place *place, const uint32_t out[4])
{
    uint32_t highest, own[4] = { 0 };

    if (place->leaf == 0 || out_of_range(vp, place->leaf, &highest))
        return false;
    if (place->any && (place->leaf == 0xb || place->leaf == 0x1f))
        kvm_cpuid(vp, place->leaf, place->subleaf, own);
    return !memcmp(own, out, sizeof own);
}

// E_INVALIDARG: more than fit.
CHECKED static HRESULT make_table(struct vp *vp, struct places *p, struct table *table)
{
    bool any_kept = false;      // the present leaf's `any` is in the table, so its named subleaves must be

    table->count = table->padding = 0;
    // Backwards: a leaf's `any` is seen before its named subleaves. KVM takes the first that fits.
    for (size_t n = p->count; n-- > 0;) {
        struct place *place = &p->list[n];
        uint32_t out[4];

        if (place->any) {
            place->subleaf = unnamed_subleaf(p, n);
            any_kept = false;
        }
        partition_cpuid(vp, place->leaf, place->subleaf, out);
        if (!any_kept && goes_without_saying(vp, place, out))
            continue;
        any_kept |= place->any;
        if (table->count == ENTRIES_MAX)
            return E_INVALIDARG;
        table->entries[table->count++] = (struct kvm_cpuid_entry2){
            .function = place->leaf, .index = place->any ? 0 : place->subleaf,
            .flags = place->any ? 0 : KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            .eax = out[EAX], .ebx = out[EBX], .ecx = out[ECX], .edx = out[EDX],
        };
    }
    for (uint32_t low = 0, high = table->count; low + 1 < high; low++, high--) {
        struct kvm_cpuid_entry2 swap = table->entries[low];

        table->entries[low] = table->entries[high - 1];
        table->entries[high - 1] = swap;
    }
    return S_OK;
}

// KVM's own interface to guests, which CPUID does not show, is not to work either. Kernels that cannot be
// told keep it.
CHECKED static HRESULT hide_paravirtual(int fd)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args[0] = 1 };
    int answer = kvm_ioctl(fd, KVM_ENABLE_CAP, &cap);

    return answer == -EINVAL ? S_OK : kvm_hresult(answer);
}

HRESULT kvm_cpuid_install(struct vp *vp, int fd)
{
    struct places places;
    struct table *table;
    HRESULT hr;
    int answer;

    if (!collect_places(vp, kvm_host(), &places))
        return E_OUTOFMEMORY;
    table = malloc(sizeof *table);
    hr = table ? make_table(vp, &places, table) : E_OUTOFMEMORY;
    if (SUCCEEDED(hr)) {
        answer = kvm_ioctl(fd, KVM_SET_CPUID2, table);
        hr = answer == -E2BIG || answer == -EINVAL ? E_INVALIDARG : kvm_hresult(answer);
    }
    if (SUCCEEDED(hr))
        hr = hide_paravirtual(fd);
    free(table);
    free(places.list);
    return hr;
}
