// XSAVE images: between the standard and the compacted format, and between an image and a processor.
#include "engine/common/xsave.h"

#include <string.h>

#include "x86/decode.h"
#include "x86/fpu.h"

// The header (SDM vol. 1 13.4.2): XSTATE_BV, XCOMP_BV, and reserved bytes.
#define XSTATE_BV 512u
#define XCOMP_BV 520u
#define HEADER_RESERVED 528u
#define SSE 2ull

static uint64_t load64(const uint8_t *image, unsigned offset)
{
    uint64_t value;
    memcpy(&value, image + offset, sizeof value);
    return value;
}

static void store64(uint8_t *image, unsigned offset, uint64_t value) { memcpy(image + offset, &value, sizeof value); }

static bool has(uint64_t components, unsigned number) { return components >> number & 1; }

// ---- Places ------------------------------------------------------------------------------------------------------

uint32_t xsave_standard_size(const struct xsave_layout *layout)
{
    uint32_t end = XSAVE_HEADER_END;
    for (unsigned n = 2; n < XSAVE_COMPONENTS; n++)
        if (has(layout->components, n) && layout->part[n].offset + layout->part[n].size > end)
            end = layout->part[n].offset + layout->part[n].size;
    return end;
}

// Where a component begins behind one that ends at `end` (SDM vol. 1 13.4.3).
static uint32_t compacted_offset(const struct xsave_component *part, uint32_t end)
{
    return part->align ? (end + 63) & ~63u : end;
}

uint32_t xsave_compacted_size(const struct xsave_layout *layout)
{
    uint32_t end = XSAVE_HEADER_END;
    for (unsigned n = 2; n < XSAVE_COMPONENTS; n++)
        if (has(layout->components, n))
            end = compacted_offset(&layout->part[n], end) + layout->part[n].size;
    return end;
}

// ---- Formats -----------------------------------------------------------------------------------------------------

void xsave_compact(const struct xsave_layout *layout, const uint8_t *standard, uint8_t *image)
{
    memset(image, 0, xsave_compacted_size(layout));
    memcpy(image, standard, XSAVE_LEGACY_SIZE);
    uint64_t in_use = load64(standard, XSTATE_BV) & layout->components;
    store64(image, XSTATE_BV, in_use);
    store64(image, XCOMP_BV, layout->components | XSAVE_COMPACTED);
    uint32_t end = XSAVE_HEADER_END;
    for (unsigned n = 2; n < XSAVE_COMPONENTS; n++) {
        const struct xsave_component *part = &layout->part[n];
        if (!has(layout->components, n))
            continue;
        uint32_t offset = compacted_offset(part, end);
        if (has(in_use, n))
            memcpy(image + offset, standard + part->offset, part->size);
        end = offset + part->size;
    }
}

static bool header_is_valid(const struct xsave_layout *layout, const uint8_t *image, uint32_t size)
{
    if (size < XSAVE_HEADER_END)
        return false;
    uint64_t in_use = load64(image, XSTATE_BV), form = load64(image, XCOMP_BV);
    bool compacted = form & XSAVE_COMPACTED;
    for (unsigned n = HEADER_RESERVED; n < XSAVE_HEADER_END; n++)
        if (image[n])
            return false;
    if (compacted)
        return size == xsave_compacted_size(layout) && !(form & ~(layout->components | XSAVE_COMPACTED))
            && !(in_use & ~form) && !has(in_use, 63);
    return size == xsave_standard_size(layout) && form == 0 && !(in_use & ~layout->components);
}

// The legacy region. x87's initial values are those of FNINIT.
static void expand_legacy(const uint8_t *image, uint64_t in_use, bool loads_mxcsr, uint8_t *standard)
{
    struct x86_fx_image from, to = { .fcw = X87_FCW_INIT, .mxcsr = X86_MXCSR_INIT };
    memcpy(&from, image, sizeof from);
    if (in_use & 1) {
        to = from;
        memset(to.xmm, 0, sizeof to.xmm);
        memset(to.unused, 0, sizeof to.unused);
    }
    to.mxcsr = loads_mxcsr ? from.mxcsr : X86_MXCSR_INIT;
    to.mxcsr_mask = X86_MXCSR_VALID;
    if (in_use & SSE)
        memcpy(to.xmm, from.xmm, sizeof to.xmm);
    memcpy(standard, &to, sizeof to);
}

bool xsave_expand(const struct xsave_layout *layout, const uint8_t *image, uint32_t size, uint8_t *standard)
{
    if (!header_is_valid(layout, image, size))
        return false;
    uint64_t in_use = load64(image, XSTATE_BV), form = load64(image, XCOMP_BV);
    bool compacted = form & XSAVE_COMPACTED, loads_mxcsr = !compacted || (in_use & SSE);
    uint32_t mxcsr;
    memcpy(&mxcsr, image + offsetof(struct x86_fx_image, mxcsr), sizeof mxcsr);
    if (loads_mxcsr && (mxcsr & ~X86_MXCSR_VALID))
        return false;
    memset(standard, 0, xsave_standard_size(layout));
    expand_legacy(image, in_use, loads_mxcsr, standard);
    store64(standard, XSTATE_BV, in_use | XSAVE_LEGACY);
    uint32_t end = XSAVE_HEADER_END;
    for (unsigned n = 2; n < XSAVE_COMPONENTS; n++) {
        const struct xsave_component *part = &layout->part[n];
        if (!has(compacted ? form : in_use, n))
            continue;
        uint32_t offset = compacted ? compacted_offset(part, end) : part->offset;
        if (has(in_use, n))
            memcpy(standard + part->offset, image + offset, part->size);
        end = offset + part->size;
    }
    return true;
}

// ---- A processor -------------------------------------------------------------------------------------------------

// The components above SSE: what gives them to the processor, how CPUID describes them, and where they lie in it, as 16
// pieces with a stride.
static const struct {
    unsigned number;
    enum x86_feature feature;
    struct xsave_component part;
    size_t at, piece, stride;
} components[] = {
    { 2, X86_FEATURE_AVX, { .size = 256, .offset = 576 }, offsetof(struct x86_cpu, vec) + 16, 16, sizeof(union x86_vec) },
};
#define COMPONENTS (sizeof components / sizeof *components)
_Static_assert(XSAVE_CPU_SIZE == 576 + 256, "room for all components of the table");

void xsave_cpu_layout(const struct x86_cpu *cpu, struct xsave_layout *layout)
{
    *layout = (struct xsave_layout){ .components = XSAVE_LEGACY };
    for (unsigned n = 0; n < COMPONENTS; n++) {
        if (!x86_has_feature(cpu, components[n].feature))
            continue;
        layout->components |= 1ull << components[n].number;
        layout->part[components[n].number] = components[n].part;
    }
}

static bool is_wide(const struct x86_cpu *cpu) { return cpu->efer & X86_EFER_LMA; }

void xsave_from_cpu(const struct x86_cpu *cpu, const struct xsave_layout *layout, uint8_t *standard)
{
    struct x86_fx_image image;
    memset(standard, 0, xsave_standard_size(layout));
    x86_fpu_to_image(cpu, &image, is_wide(cpu));
    memcpy(standard, &image, sizeof image);
    store64(standard, XSTATE_BV, layout->components);
    for (unsigned n = 0; n < COMPONENTS; n++)
        for (unsigned k = 0; k < 16 && has(layout->components, components[n].number); k++)
            memcpy(standard + components[n].part.offset + k * components[n].piece,
                   (const uint8_t *)cpu + components[n].at + k * components[n].stride, components[n].piece);
}

void xsave_to_cpu(struct x86_cpu *cpu, const struct xsave_layout *layout, const uint8_t *standard)
{
    struct x86_fx_image image;
    memcpy(&image, standard, sizeof image);
    (void)x86_fpu_from_image(cpu, &image, is_wide(cpu), 16);    // MXCSR was checked
    for (unsigned n = 0; n < COMPONENTS; n++)
        for (unsigned k = 0; k < 16 && has(layout->components, components[n].number); k++)
            memcpy((uint8_t *)cpu + components[n].at + k * components[n].stride,
                   standard + components[n].part.offset + k * components[n].piece, components[n].piece);
}
