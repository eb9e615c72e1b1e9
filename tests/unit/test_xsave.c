// XSAVE images: round trips between the formats and through a processor, initial values, and every malformed field.
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "engine/common/xsave.h"
#include "x86/decode.h"
#include "x86/fpu.h"

#define ROOM 16384u
#define XSTATE_BV 512u
#define XCOMP_BV 520u
#define MXCSR 24u
#define ROUNDS 2000u

static uint64_t seed;

static uint64_t random64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void fill(uint8_t *bytes, size_t size)
{
    for (size_t n = 0; n < size; n++)
        bytes[n] = (uint8_t)(random64() >> 24);
}

static uint64_t get64(const uint8_t *image, unsigned offset)
{
    uint64_t value;
    memcpy(&value, image + offset, 8);
    return value;
}

static void set64(uint8_t *image, unsigned offset, uint64_t value) { memcpy(image + offset, &value, 8); }

// AVX and a processor with AVX-512 and PKRU, as CPUID leaf 0DH of real ones has them; one component is made to want
// alignment behind one that leaves none.
static const struct xsave_layout large = {
    .components = 0x2e7,
    .part = { [2] = { 256, 576, false }, [5] = { 64, 1088, false }, [6] = { 512, 1152, false },
              [7] = { 1024, 1664, false }, [9] = { 8, 2688, false } },
};
static const struct xsave_layout aligned = {
    .components = 0x607,
    .part = { [2] = { 256, 576, false }, [9] = { 8, 2688, false }, [10] = { 24, 2752, true } },
};
static const struct xsave_layout small = { .components = 3 };
static const struct xsave_layout *const layouts[] = { &large, &aligned, &small };

static const struct xsave_layout *any_layout(void) { return layouts[random64() % 3]; }

// An image in the standard format with some components in use, and zeros where the others are.
static void make_standard(const struct xsave_layout *layout, uint8_t *standard)
{
    memset(standard, 0, ROOM);
    fill(standard, 512);
    memset(standard + 416, 0, 96);      // behind XMM15: nothing
    set64(standard, MXCSR, (random64() & 0xffff) | (uint64_t)X86_MXCSR_VALID << 32);
    uint64_t in_use = (random64() & layout->components) | XSAVE_LEGACY;
    set64(standard, XSTATE_BV, in_use);
    for (unsigned n = 2; n < XSAVE_COMPONENTS; n++)
        if (in_use >> n & 1)
            fill(standard + layout->part[n].offset, layout->part[n].size);
}

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(xsave_standard_size(&small), 576);
    assert_int_equal(xsave_compacted_size(&small), 576);
    assert_int_equal(xsave_standard_size(&large), 2696);
    assert_int_equal(xsave_compacted_size(&large), 576 + 256 + 64 + 512 + 1024 + 8);
    assert_int_equal(xsave_standard_size(&aligned), 2776);
    assert_int_equal(xsave_compacted_size(&aligned), 896 + 24);     // 840, and on to a multiple of 64
}

static void test_round_trips(void **state)
{
    static uint8_t standard[ROOM], image[ROOM], back[ROOM];
    (void)state;
    for (unsigned n = 0; n < ROUNDS; n++) {
        const struct xsave_layout *layout = any_layout();
        uint32_t size = xsave_standard_size(layout);
        make_standard(layout, standard);
        memset(image, 0xaa, sizeof image);
        xsave_compact(layout, standard, image);
        assert_int_equal(get64(image, XCOMP_BV), layout->components | XSAVE_COMPACTED);
        assert_int_equal(get64(image, XSTATE_BV), get64(standard, XSTATE_BV));
        assert_int_equal(image[xsave_compacted_size(layout)], 0xaa);
        memset(back, 0xaa, sizeof back);
        assert_true(xsave_expand(layout, image, xsave_compacted_size(layout), back));
        assert_memory_equal(back, standard, size);
        assert_int_equal(back[size], 0xaa);
        memset(back, 0xaa, sizeof back);
        assert_true(xsave_expand(layout, standard, size, back));
        assert_memory_equal(back, standard, size);
    }
}

// Where the components lie: each byte of the compacted image is the one that it should be.
static void test_places(void **state)
{
    static uint8_t standard[ROOM], image[ROOM];
    (void)state;
    make_standard(&aligned, standard);
    set64(standard, XSTATE_BV, aligned.components);
    fill(standard + 576, 256);
    fill(standard + 2688, 88);
    xsave_compact(&aligned, standard, image);
    assert_memory_equal(image + 576, standard + 576, 256);
    assert_memory_equal(image + 832, standard + 2688, 8);
    for (unsigned n = 840; n < 896; n++)
        assert_int_equal(image[n], 0);
    assert_memory_equal(image + 896, standard + 2752, 24);
}

// An image that has a place for fewer components than the processor.
static void test_fewer_components(void **state)
{
    static uint8_t standard[ROOM], image[ROOM], back[ROOM];
    (void)state;
    make_standard(&large, standard);
    set64(standard, XSTATE_BV, large.components);
    fill(standard + 2688, 8);
    xsave_compact(&large, standard, image);
    set64(image, XCOMP_BV, XSAVE_COMPACTED | 0x203);
    set64(image, XSTATE_BV, 0x203);
    memcpy(image + 576, standard + 2688, 8);        // now the first behind the header
    assert_true(xsave_expand(&large, image, xsave_compacted_size(&large), back));
    assert_memory_equal(back, standard, 512);
    assert_memory_equal(back + 2688, standard + 2688, 8);
    for (unsigned n = 576; n < 2688; n++)
        assert_int_equal(back[n], 0);
    assert_int_equal(get64(back, XSTATE_BV), 0x203);
}

static void test_initial_values(void **state)
{
    static uint8_t image[ROOM], back[ROOM];
    struct x86_fx_image legacy;
    (void)state;
    fill(image, sizeof image);
    memset(image + 512, 0, 64);
    set64(image, XCOMP_BV, large.components | XSAVE_COMPACTED);
    // Nothing in use: MXCSR's reserved bits are not looked at, since it is not loaded.
    assert_true(xsave_expand(&large, image, xsave_compacted_size(&large), back));
    memcpy(&legacy, back, sizeof legacy);
    assert_int_equal(legacy.fcw, 0x37f);
    assert_int_equal(legacy.mxcsr, 0x1f80);
    assert_int_equal(legacy.fsw | legacy.ftw | legacy.fop, 0);
    for (unsigned n = 32; n < xsave_standard_size(&large); n++)
        assert_int_equal(back[n], n == XSTATE_BV ? 3 : 0);
    // The standard format always brings MXCSR.
    memset(image + 512, 0, 64);
    set64(image, MXCSR, 0x1234);
    assert_true(xsave_expand(&large, image, xsave_standard_size(&large), back));
    memcpy(&legacy, back, sizeof legacy);
    assert_int_equal(legacy.fcw, 0x37f);
    assert_int_equal(legacy.mxcsr, 0x1234);
}

static void refuse(const struct xsave_layout *layout, const uint8_t *image, uint32_t size)
{
    static uint8_t out[ROOM], before[ROOM];
    fill(out, sizeof out);
    memcpy(before, out, sizeof out);
    assert_false(xsave_expand(layout, image, size, out));
    assert_memory_equal(out, before, sizeof out);
}

static void test_malformed(void **state)
{
    static uint8_t standard[ROOM], image[ROOM], bad[ROOM];
    (void)state;
    for (unsigned l = 0; l < 3; l++) {
        const struct xsave_layout *layout = layouts[l];
        uint32_t compacted = xsave_compacted_size(layout), whole = xsave_standard_size(layout);
        make_standard(layout, standard);
        xsave_compact(layout, standard, image);
        for (unsigned bit = 0; bit < 64; bit++) {
            uint64_t mask = 1ull << bit;
            // Bits that no component of the processor's has, in either form.
            if (!(layout->components & mask)) {
                memcpy(bad, image, sizeof bad);
                set64(bad, XSTATE_BV, get64(image, XSTATE_BV) | mask);
                refuse(layout, bad, compacted);
                memcpy(bad, standard, sizeof bad);
                set64(bad, XSTATE_BV, get64(standard, XSTATE_BV) | mask);
                refuse(layout, bad, whole);
            }
            if (bit != 63 && !(layout->components & mask)) {
                memcpy(bad, image, sizeof bad);
                set64(bad, XCOMP_BV, get64(image, XCOMP_BV) | mask);
                refuse(layout, bad, compacted);
            }
            // In use, and without a place.
            if (layout->components & mask) {
                memcpy(bad, image, sizeof bad);
                set64(bad, XSTATE_BV, get64(image, XSTATE_BV) | mask);
                set64(bad, XCOMP_BV, get64(image, XCOMP_BV) & ~mask);
                refuse(layout, bad, compacted);
            }
            // A form that is neither.
            if (bit != 63) {
                memcpy(bad, standard, sizeof bad);
                set64(bad, XCOMP_BV, mask);
                refuse(layout, bad, whole);
            }
        }
        for (unsigned n = 528; n < 576; n++) {
            memcpy(bad, image, sizeof bad);
            bad[n] = (uint8_t)(1 + random64() % 255);
            refuse(layout, bad, compacted);
            memcpy(bad, standard, sizeof bad);
            bad[n] = 0x80;
            refuse(layout, bad, whole);
        }
        for (unsigned bit = 16; bit < 32; bit++) {
            memcpy(bad, image, sizeof bad);
            bad[MXCSR + bit / 8] |= (uint8_t)(1 << bit % 8);
            refuse(layout, bad, compacted);
            memcpy(bad, standard, sizeof bad);
            bad[MXCSR + bit / 8] |= (uint8_t)(1 << bit % 8);
            refuse(layout, bad, whole);
        }
        for (uint32_t size = 0; size < whole + 64; size++) {
            if (size != compacted)
                refuse(layout, image, size);
            if (size != whole)
                refuse(layout, standard, size);
        }
    }
}

// ---- A processor -------------------------------------------------------------------------------------------------

static struct x86_cpu *new_cpu(void)
{
    struct x86_cpu *cpu = aligned_alloc(64, (sizeof *cpu + 63) & ~(size_t)63);
    assert_non_null(cpu);
    memset(cpu, 0, sizeof *cpu);
    cpu->fpu.fcw = 0x37f;
    cpu->mxcsr = 0x1f80;
    return cpu;
}

static void test_processor(void **state)
{
    static uint8_t standard[ROOM], image[ROOM], back[ROOM];
    struct x86_cpu *one = new_cpu(), *two = new_cpu();
    struct xsave_layout layout;
    (void)state;
    for (unsigned n = 0; n < ROUNDS; n++) {
        bool avx = n & 1, wide = n & 2;
        one->efer = two->efer = wide ? X86_EFER_LMA : 0;
        one->features[X86_FEATURE_AVX / 64] = two->features[X86_FEATURE_AVX / 64] = 0;
        if (avx)
            one->features[X86_FEATURE_AVX / 64] = two->features[X86_FEATURE_AVX / 64] = 1ull << X86_FEATURE_AVX % 64;
        xsave_cpu_layout(one, &layout);
        assert_int_equal(layout.components, avx ? 7 : 3);
        assert_int_equal(xsave_compacted_size(&layout), avx ? 832 : 576);
        // What a processor can hold.
        fill((uint8_t *)one->vec, sizeof one->vec);
        fill((uint8_t *)one->fpu.st, sizeof one->fpu.st);
        one->mxcsr = (uint32_t)random64() & 0xffff;
        one->fpu.fcw = X87_FCW_VALUE(random64());
        one->fpu.fsw = (uint16_t)random64();
        x87_update_summary(&one->fpu);
        one->fpu.ftw = (uint8_t)random64();
        one->fpu.fop = (uint16_t)random64() & 0x7ff;
        one->fpu.fip = wide ? random64() : (uint32_t)random64();
        one->fpu.fdp = wide ? random64() : (uint32_t)random64();
        one->fpu.fcs = wide ? 0 : (uint16_t)random64();
        one->fpu.fds = wide ? 0 : (uint16_t)random64();
        fill((uint8_t *)two->vec, sizeof two->vec);
        xsave_from_cpu(one, &layout, standard);
        xsave_compact(&layout, standard, image);
        assert_true(xsave_expand(&layout, image, xsave_compacted_size(&layout), back));
        xsave_to_cpu(two, &layout, back);
        for (unsigned k = 0; k < 16; k++)
            assert_memory_equal(&one->vec[k], &two->vec[k], avx ? 32 : 16);
        for (unsigned k = 0; k < 8; k++)
            assert_memory_equal(&one->fpu.st[k], &two->fpu.st[k], 10);
        assert_int_equal(one->mxcsr, two->mxcsr);
        assert_int_equal(one->fpu.fcw, two->fpu.fcw);
        assert_int_equal(one->fpu.fsw, two->fpu.fsw);
        assert_int_equal(one->fpu.ftw, two->fpu.ftw);
        assert_int_equal(one->fpu.fop, two->fpu.fop);
        assert_int_equal(one->fpu.fip, two->fpu.fip);
        assert_int_equal(one->fpu.fdp, two->fpu.fdp);
        assert_int_equal(one->fpu.fcs, two->fpu.fcs);
        assert_int_equal(one->fpu.fds, two->fpu.fds);
    }
    free(one);
    free(two);
}

static int seeded(void **state)
{
    (void)state;
    seed = 0x9e3779b97f4a7c15;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_sizes, seeded),
        cmocka_unit_test_setup(test_round_trips, seeded),
        cmocka_unit_test_setup(test_places, seeded),
        cmocka_unit_test_setup(test_fewer_components, seeded),
        cmocka_unit_test_setup(test_initial_values, seeded),
        cmocka_unit_test_setup(test_malformed, seeded),
        cmocka_unit_test_setup(test_processor, seeded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
