// Unit tests of the kvm engine's CPUID, over a recorded and a made-up table of KVM's: what is hidden, the topology,
// what properties and result lists change; and that the table KVM is given makes it say the same as the engine says.
#include "unit.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>

#include "engine/common/processor.h"
#include "engine/kvm/cpuid.h"
#include "engine/kvm/features.h"
#include "engine/kvm/host.h"
#include "engine/kvm/ioctl.h"
#include "kvm_tables.h"
#include "x86/decode.h"

enum { EAX, EBX, ECX, EDX };

// ---- The kernel --------------------------------------------------------------------------------------------------

static struct kvm_host host;

const struct kvm_host *__wrap_kvm_host(void);
const struct kvm_host *__wrap_kvm_host(void)
{
    return &host;
}

static struct {
    struct kvm_cpuid2 *table;           // as it was set
    unsigned room;                      // entries that are taken
    int set_answer, cap_answer;
    struct kvm_enable_cap cap;
    unsigned caps;
} kernel;

int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument);
int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument)
{
    assert_int_equal(fd, 77);
    if (request == KVM_SET_CPUID2) {
        const struct kvm_cpuid2 *table = argument;
        if (table->nent > kernel.room)
            return -E2BIG;
        free(kernel.table);
        kernel.table = table_made(table->entries, table->nent);
        return kernel.set_answer;
    }
    assert_int_equal(request, KVM_ENABLE_CAP);
    kernel.caps++;
    kernel.cap = *(struct kvm_enable_cap *)argument;
    return kernel.cap_answer;
}

int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    fail_msg("request %lx of %d, %lx", request, fd, value);
    return -ENOTTY;
}

static const struct kvm_cpuid_entry2 *find(uint32_t leaf, uint32_t subleaf)
{
    return kvm_features_entry(kernel.table, leaf, subleaf);
}

static bool kernel_amd(void)
{
    const struct kvm_cpuid_entry2 *zero = find(0, 0);

    return zero && (!memcmp(&zero->ebx, "Auth", 4) || !memcmp(&zero->ebx, "Hygo", 4));
}

// What KVM answers a guest from the table that it was given (arch/x86/kvm/cpuid.c, kvm_cpuid).
static void kernel_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct kvm_cpuid_entry2 *e = find(leaf, subleaf), *zero = find(0, 0), *class;

    memset(out, 0, 16);
    if (!e && zero && !kernel_amd()) {
        if (leaf >= 0x40000000 && leaf <= 0x4fffffff)
            class = find(leaf & 0xffffff00, 0);
        else if (leaf >= 0xc0000000)
            class = find(0xc0000000, 0);
        else
            class = find(leaf & 0x80000000, 0);
        if (!class || leaf > class->eax) {
            e = find(zero->eax, subleaf);
            leaf = zero->eax;
        }
    }
    if (e) {
        memcpy(out, (uint32_t[]){ e->eax, e->ebx, e->ecx, e->edx }, 16);
    } else if ((leaf == 0xb || leaf == 0x1f) && (e = find(leaf, 1))) {
        out[ECX] = subleaf & 0xff;
        out[EDX] = e->edx;
    }
}

// ---- The partition -----------------------------------------------------------------------------------------------

static struct engine engine = { .name = "kvm", .cpuid = kvm_cpuid };
static struct partition partition;
static struct vp vp;
static struct processor *processor;

#define USE(rows) use(rows, sizeof(rows) / sizeof(rows)[0])

static void use(const struct kvm_cpuid_entry2 *rows, unsigned count)
{
    struct engine_capabilities offer;

    free(host.cpuid);
    host = (struct kvm_host){ .bus_ns = 5, .tsc_khz = 1000000, .tsc_deadline = true, .cpuid = table_made(rows, count) };
    kvm_host_offer(&host, &offer);
    memset(&partition, 0, sizeof partition);
    partition.engine = &engine;
    partition.properties.processor_count = 4;
    partition.properties.apic_mode = WHvX64LocalApicEmulationModeX2Apic;
    partition.properties.processor_features = offer.processor_features;
    partition.properties.xsave_features = offer.xsave_features;
    partition.properties.physical_address_width = offer.physical_address_width;
    vp = (struct vp){ .partition = &partition, .index = 2 };
    free(kernel.table);
    memset(&kernel, 0, sizeof kernel);
    kernel.room = 256;
}

static uint32_t bits(uint32_t leaf, uint32_t subleaf, unsigned reg)
{
    uint32_t out[4];

    kvm_cpuid(&vp, leaf, subleaf, out);
    return out[reg];
}

static bool bit(uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned n)
{
    return bits(leaf, subleaf, reg) >> n & 1;
}

// Install, and compare what KVM will say with what the API says, for leaves and subleaves in and out of every range.
static void check_same(void)
{
    static const uint32_t starts[] = { 0, 0x20, 0x80, 0x3ffffff0, 0x40000000, 0x40000080, 0x400000f8, 0x40000100,
                                       0x50000000, 0x7ffffff0, 0x80000000, 0x80000020, 0x80000040, 0x8ffffff0,
                                       0xbffffff0, 0xc0000000, 0xfffffff0 };
    uint32_t ours[4], theirs[4];

    assert_ok(kvm_cpuid_install(&vp, 77));
    for (unsigned n = 0; n < sizeof starts / sizeof *starts; n++)
        for (uint32_t leaf = starts[n]; leaf - starts[n] < 0x30 && leaf >= starts[n]; leaf++)
            for (uint32_t subleaf = 0; subleaf < 70; subleaf++) {
                partition_cpuid(&vp, leaf, subleaf, ours);
                kernel_cpuid(leaf, subleaf, theirs);
                if (memcmp(ours, theirs, sizeof ours))
                    fail_msg("leaf %x.%x: the API says %x %x %x %x, KVM %x %x %x %x", leaf, subleaf, ours[0], ours[1],
                             ours[2], ours[3], theirs[0], theirs[1], theirs[2], theirs[3]);
            }
}

// ---- Tests -------------------------------------------------------------------------------------------------------

static void check_hidden(void)
{
    static const struct { uint32_t leaf, subleaf; unsigned reg, bit; } hidden[] = {
        { 1, 0, ECX, 3 }, { 1, 0, ECX, 5 }, { 1, 0, ECX, 6 }, { 1, 0, ECX, 15 }, { 1, 0, ECX, 27 }, { 1, 0, ECX, 31 },
        { 1, 0, EDX, 21 }, { 7, 0, EBX, 2 }, { 7, 0, EBX, 25 }, { 7, 0, ECX, 3 }, { 7, 0, ECX, 4 }, { 7, 0, ECX, 7 },
        { 7, 0, ECX, 16 }, { 7, 0, ECX, 30 }, { 7, 0, EDX, 19 }, { 7, 0, EDX, 20 }, { 7, 1, EAX, 8 }, { 7, 1, EAX, 26 },
        { 0x80000001, 0, ECX, 2 }, { 0x80000001, 0, ECX, 23 }, { 0x80000001, 0, ECX, 24 }, { 0x80000001, 0, ECX, 29 },
    };
    static const uint32_t empty[] = { 5, 0xa, 0xf, 0x10, 0x12, 0x14, 0x1c, 0x40000000, 0x40000001, 0x40000006 };

    for (unsigned n = 0; n < sizeof hidden / sizeof *hidden; n++)
        if (bit(hidden[n].leaf, hidden[n].subleaf, hidden[n].reg, hidden[n].bit))
            fail_msg("leaf %x.%x, register %u, bit %u", hidden[n].leaf, hidden[n].subleaf, hidden[n].reg,
                     hidden[n].bit);
    for (unsigned n = 0; n < sizeof empty / sizeof *empty; n++)
        for (unsigned reg = 0; reg < 4; reg++)
            for (unsigned subleaf = 0; subleaf < 3; subleaf++)
                assert_int_equal(bits(empty[n], subleaf, reg), 0);
}

static void test_hidden(void **state)
{
    (void)state;
    USE(table_paravirtual);
    check_hidden();
    check_same();
    USE(table_intel);
    check_hidden();
    check_same();
    // KVM's own interface is not to work either, as far as the kernel can be told so.
    assert_int_equal(kernel.caps, 1);
    assert_int_equal(kernel.cap.cap, KVM_CAP_ENFORCE_PV_FEATURE_CPUID);
    assert_int_equal(kernel.cap.args[0], 1);
    kernel.cap_answer = -EINVAL;
    assert_ok(kvm_cpuid_install(&vp, 77));
    kernel.cap_answer = -ENOMEM;
    assert_hr(kvm_cpuid_install(&vp, 77), E_OUTOFMEMORY);
}

static void test_apic_modes(void **state)
{
    (void)state;
    USE(table_intel);
    for (unsigned mode = 0; mode < 3; mode++) {
        partition.properties.apic_mode = (WHV_X64_LOCAL_APIC_EMULATION_MODE)mode;
        assert_int_equal(bit(1, 0, ECX, 21), mode == WHvX64LocalApicEmulationModeX2Apic);
        assert_int_equal(bit(1, 0, ECX, 24), mode != WHvX64LocalApicEmulationModeNone);
        assert_true(bit(1, 0, EDX, 9));
        check_same();
    }
    host.tsc_deadline = false;
    assert_false(bit(1, 0, ECX, 24));
    host.tsc_deadline = true;
    partition.properties.processor_features.Bank1.TscDeadlineTmrSupport = 0;
    assert_false(bit(1, 0, ECX, 24));
}

static void check_topology(UINT32 count, unsigned id_bits)
{
    partition.properties.processor_count = count;
    vp.index = count - 1;
    assert_int_equal(bits(1, 0, EBX) >> 24, count - 1);
    assert_int_equal(bits(1, 0, EBX) >> 16 & 0xff, count);
    assert_int_equal(bit(1, 0, EDX, 28), count > 1);
    for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x14) {
        if (leaf > bits(0, 0, EAX))
            continue;
        assert_int_equal(bits(leaf, 0, EAX), 0);
        assert_int_equal(bits(leaf, 0, EBX), 1);
        assert_int_equal(bits(leaf, 0, ECX), 0x100);
        assert_int_equal(bits(leaf, 1, EAX), id_bits);
        assert_int_equal(bits(leaf, 1, EBX), count);
        assert_int_equal(bits(leaf, 1, ECX), 0x201);
        assert_int_equal(bits(leaf, 5, EBX), 0);
        assert_int_equal(bits(leaf, 5, ECX), 5);
        for (uint32_t subleaf = 0; subleaf < 4; subleaf++)
            assert_int_equal(bits(leaf, subleaf, EDX), count - 1);
    }
    check_same();
}

static void test_topology(void **state)
{
    static const struct { UINT32 count; unsigned bits; } sizes[] = {
        { 1, 0 }, { 2, 1 }, { 3, 2 }, { 4, 2 }, { 64, 6 },
    };

    (void)state;
    USE(table_paravirtual);
    for (unsigned n = 0; n < sizeof sizes / sizeof *sizes; n++) {
        check_topology(sizes[n].count, sizes[n].bits);
        assert_int_equal(bits(0x80000008, 0, ECX), (sizes[n].count - 1) | sizes[n].bits << 12);
        assert_int_equal(bit(0x80000001, 0, ECX, 1), sizes[n].count > 1);
        assert_int_equal(bits(0x8000001e, 0, EAX), sizes[n].count - 1);
        assert_int_equal(bits(0x8000001e, 0, EBX), sizes[n].count - 1);
        assert_int_equal(bits(0x8000001d, 0, EAX) >> 14, 0);
        assert_int_equal(bits(0x8000001d, 2, EAX) >> 14, 0);
        assert_int_equal(bits(0x8000001d, 3, EAX) >> 14, sizes[n].count - 1);
        assert_int_equal(bits(0x8000001d, 3, EAX) & 0x3fff, 0x163);
    }
    USE(table_intel);
    for (unsigned n = 0; n < sizeof sizes / sizeof *sizes; n++) {
        uint32_t ids = 1u << sizes[n].bits;
        check_topology(sizes[n].count, sizes[n].bits);
        assert_int_equal(bits(0x80000008, 0, ECX), 0);
        assert_false(bit(0x80000001, 0, ECX, 1));
        assert_int_equal(bits(4, 0, EAX), 0x121 | (ids - 1) << 26);
        assert_int_equal(bits(4, 3, EAX), 0x163 | (ids - 1) << 26 | (ids - 1) << 14);
        assert_int_equal(bits(4, 4, EAX), 0);
    }
}

static void test_xsave(void **state)
{
    (void)state;
    USE(table_intel);
    // x87, SSE, AVX, MPX, AVX-512, AMX; not protection keys
    assert_int_equal(bits(0xd, 0, EAX), 0x600ff);
    assert_int_equal(bits(0xd, 0, ECX), 0x2b00);
    assert_int_equal(bits(0xd, 0, EBX), 576);
    assert_int_equal(bits(0xd, 1, EAX), 0x1f);
    assert_int_equal(bits(0xd, 1, EBX), 576);
    assert_int_equal(bits(0xd, 1, ECX), 0);         // neither CET nor trace
    assert_int_equal(bits(0xd, 9, EAX), 0);
    assert_int_equal(bits(0xd, 11, EAX), 0);
    assert_int_equal(bits(0xd, 18, EAX), 0x2000);
    assert_int_equal(bits(0x1d, 1, EBX), 0x80040);
    check_same();

    // What the processor has switched on.
    processor->cpu.cr4 = X86_CR4_OSXSAVE;
    processor->cpu.xcr0 = 0xe7;
    vp.engine_data = processor;
    assert_true(bit(1, 0, ECX, 27));
    assert_int_equal(bits(0xd, 0, EBX), 0x680 + 0x400);
    assert_int_equal(bits(0xd, 1, EBX), 576 + 0x100 + 0x40 + 0x200 + 0x400);
    vp.engine_data = NULL;

    partition.properties.xsave_features.Avx512Support = 0;
    partition.properties.xsave_features.AmxTileSupport = 0;
    assert_int_equal(bits(0xd, 0, EAX), 0x1f);
    assert_int_equal(bits(0xd, 0, ECX), 0x440);
    assert_int_equal(bits(0x1d, 1, EBX), 0);
    check_same();
    partition.properties.xsave_features.AvxSupport = 0;
    assert_int_equal(bits(0xd, 0, EAX), 0x1b);
    partition.properties.xsave_features.XsaveCompSupport = 0;
    partition.properties.xsave_features.XsaveSupervisorSupport = 0;
    assert_int_equal(bits(0xd, 1, EAX), 0x15);
    assert_int_equal(bits(0xd, 1, EBX), 0);
    check_same();
    partition.properties.xsave_features.XsaveSupport = 0;
    for (uint32_t subleaf = 0; subleaf < 20; subleaf++)
        for (unsigned reg = 0; reg < 4; reg++)
            assert_int_equal(bits(0xd, subleaf, reg), 0);
    assert_false(bit(1, 0, ECX, 26));
    check_same();

    // Components without XSAVE, which a paravirtual KVM has, are none.
    USE(table_paravirtual);
    assert_int_equal(bits(0xd, 0, EAX), 0);
}

// Every feature of every bank, one by one: without it the guest sees less, and never anything new.
static void check_masks(void)
{
    UINT64 *banks[] = { &partition.properties.processor_features.Bank0.AsUINT64,
                        &partition.properties.processor_features.Bank1.AsUINT64,
                        &partition.properties.xsave_features.AsUINT64 };
    unsigned features = 0;

    for (unsigned n = 0; n < 3; n++)
        for (unsigned feature = 0; feature < 64; feature++) {
            static const uint32_t leaves[][2] = { { 1, 0 }, { 7, 0 }, { 7, 1 }, { 0xd, 1 }, { 0x80000001, 0 },
                                                  { 0x80000007, 0 }, { 0x80000008, 0 }, { 0x80000021, 0 } };
            UINT64 mask = 1ull << feature;
            unsigned lost = 0;
            if (!(*banks[n] & mask))
                continue;
            for (unsigned l = 0; l < sizeof leaves / sizeof *leaves; l++)
                for (unsigned reg = 0; reg < 4; reg++) {
                    uint32_t with = bits(leaves[l][0], leaves[l][1], reg), without;
                    *banks[n] ^= mask;
                    without = bits(leaves[l][0], leaves[l][1], reg);
                    *banks[n] ^= mask;
                    if (leaves[l][0] == 0xd && reg != EAX)
                        continue;           // sizes
                    assert_int_equal(without & ~with, 0);
                    lost += (unsigned)__builtin_popcount(with & ~without);
                }
            if (!lost)
                fail_msg("bank %u, bit %u changes nothing", n, feature);
            features++;
        }
    assert_true(features > 5);
}

static void test_masks(void **state)
{
    (void)state;
    USE(table_paravirtual);
    check_masks();
    USE(table_intel);
    check_masks();
    partition.properties.physical_address_width = 39;
    assert_int_equal(bits(0x80000008, 0, EAX), 39 | 48 << 8);
    memset(&partition.properties.processor_features.Bank0, 0, 8);
    check_same();
}

// What KVM shows to everybody is shown, asked for or not, and brings with it what depends on it.
static void test_forced(void **state)
{
    static const struct kvm_cpuid_entry2 forced[] = {
        { .function = 1, .ecx = 1u << 26 | 1u << 28 | 1 },
        { .function = 0xd, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 1 },
    };

    (void)state;
    USE(table_paravirtual);
    for (uint32_t n = 0; n < host.cpuid->nent; n++) {
        struct kvm_cpuid_entry2 *e = &host.cpuid->entries[n];
        if (e->function == 1)
            e->ecx |= forced[0].ecx;
        if (e->function == 0xd && e->index == 1)
            e->eax |= 1;
    }
    host.forced = table_made(forced, 2);
    partition.properties.xsave_features.AvxSupport = 0;
    partition.properties.processor_features.Bank0.AsUINT64 = 0;
    assert_int_equal(bits(1, 0, ECX) & (1u << 26 | 1u << 28 | 1), 1u << 26 | 1u << 28 | 1);
    assert_int_equal(bits(0xd, 0, EAX), 7);
    assert_int_equal(bits(0xd, 0, ECX), 0x340);
    assert_int_equal(bits(0xd, 1, EAX), 1);
    check_same();
    free(host.forced);
    host.forced = NULL;
}

static void test_lists(void **state)
{
    WHV_X64_CPUID_RESULT one[] = {
        { .Function = 0x40000000, .Eax = 0x40000010, .Ebx = 1 }, { .Function = 0x40000010, .Edx = 4 },
        { .Function = 0x8000001d, .Eax = 5 }, { .Function = 0x90000000, .Ecx = 6 }, { .Function = 0xa },
    };
    WHV_X64_CPUID_RESULT2 two[] = {
        { .Function = 7, .Output = { .Edx = 1u << 13 }, .Mask = { .Edx = 1u << 13 } },
        { .Function = 7, .Index = 9, .Flags = WHvX64CpuidResult2FlagSubleafSpecific, .Output = { .Eax = 3 },
          .Mask = { .Eax = 3 } },
        { .Function = 0xb, .Index = 3, .Flags = WHvX64CpuidResult2FlagSubleafSpecific, .Output = { .Ebx = 7 },
          .Mask = { .Ebx = 0xff } },
        { .Function = 0xa0000000, .VpIndex = 2, .Flags = WHvX64CpuidResult2FlagVpSpecific, .Output = { .Eax = 8 },
          .Mask = { .Eax = 0xff } },
        { .Function = 0xa0000001, .VpIndex = 1, .Flags = WHvX64CpuidResult2FlagVpSpecific, .Output = { .Eax = 8 },
          .Mask = { .Eax = 0xff } },
        { .Function = 0x80000002, .Output = { .Eax = 0x6b6c7542 }, .Mask = { .Eax = 0xffffffff } },
    };
    uint32_t out[4];

    (void)state;
    for (unsigned n = 0; n < 2; n++) {
        if (n)
            USE(table_intel);
        else
            USE(table_paravirtual);
        partition.properties.cpuid_result_list = one;
        partition.properties.cpuid_result_count = sizeof one / sizeof *one;
        partition.properties.cpuid_result2_list = two;
        partition.properties.cpuid_result2_count = sizeof two / sizeof *two;
        check_same();
        kernel_cpuid(0xa0000000, 0, out);
        assert_int_equal(out[EAX] & 0xff, 8);
        kernel_cpuid(7, 9, out);
        assert_int_equal(out[EAX], 3);
        assert_int_equal(out[EDX], 1u << 13);
    }
    // A processor without a maker's name: neither AMD's nor Intel's.
    WHV_X64_CPUID_RESULT nobody[] = { { .Function = 0, .Eax = 7, .Ebx = 1 },
                                      { .Function = 0x80000000, .Eax = 0x80000004 } };
    partition.properties.cpuid_result_list = nobody;
    partition.properties.cpuid_result_count = 2;
    check_same();
}

static void test_too_many(void **state)
{
    WHV_X64_CPUID_RESULT *list = calloc(300, sizeof *list);

    (void)state;
    assert_non_null(list);
    USE(table_paravirtual);
    for (uint32_t n = 0; n < 300; n++)
        list[n] = (WHV_X64_CPUID_RESULT){ .Function = 0x50000000 + n, .Eax = 1 };
    partition.properties.cpuid_result_list = list;
    partition.properties.cpuid_result_count = 300;
    assert_hr(kvm_cpuid_install(&vp, 77), E_INVALIDARG);
    assert_null(kernel.table);
    partition.properties.cpuid_result_count = 200;
    check_same();
    kernel.room = 80;                       // an older kernel
    assert_hr(kvm_cpuid_install(&vp, 77), E_INVALIDARG);
    partition.properties.cpuid_result_count = 0;
    check_same();
    assert_true(kernel.table->nent < 60);
    kernel.set_answer = -ENOMEM;
    assert_hr(kvm_cpuid_install(&vp, 77), E_OUTOFMEMORY);
    free(list);
}

static bool shows(const uint64_t features[4], enum x86_feature feature)
{
    return features[feature / 64] >> feature % 64 & 1;
}

static void test_features(void **state)
{
    WHV_X64_CPUID_RESULT2 no_nx = { .Function = 0x80000001, .Mask = { .Edx = 1u << 20 } };
    uint64_t features[4];

    (void)state;
    USE(table_paravirtual);
    kvm_cpuid_features(&vp, features);
    assert_true(shows(features, X86_FEATURE_NX) && shows(features, X86_FEATURE_LM) &&
                shows(features, X86_FEATURE_FPU) && shows(features, X86_FEATURE_X2APIC));
    assert_false(shows(features, X86_FEATURE_SSE3) || shows(features, X86_FEATURE_RDTSCP) ||
                 shows(features, X86_FEATURE_HYPERVISOR) || shows(features, X86_FEATURE_XSAVE));
    partition.properties.cpuid_result2_list = &no_nx;
    partition.properties.cpuid_result2_count = 1;
    kvm_cpuid_features(&vp, features);
    assert_false(shows(features, X86_FEATURE_NX));
    USE(table_intel);
    kvm_cpuid_features(&vp, features);
    assert_true(shows(features, X86_FEATURE_AVX2) && shows(features, X86_FEATURE_XSAVES) &&
                shows(features, X86_FEATURE_SMAP) && shows(features, X86_FEATURE_GBPAGES));
    assert_false(shows(features, X86_FEATURE_LA57));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hidden),
        cmocka_unit_test(test_apic_modes),
        cmocka_unit_test(test_topology),
        cmocka_unit_test(test_xsave),
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_forced),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_features),
    };
    int failed;

    processor = aligned_alloc(64, (sizeof *processor + 63) & ~(size_t)63);
    if (!processor)
        return 1;
    memset(processor, 0, sizeof *processor);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(processor);
    free(host.cpuid);
    free(kernel.table);
    return failed;
}
