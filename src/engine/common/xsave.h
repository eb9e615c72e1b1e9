// The XSAVE image of a processor (SDM vol. 1 13.4): its components, the standard and the compacted format, and the way
// between them.
//
// The API hands out the compacted format and takes both. Inside there is the standard format alone: KVM has it, and a
// `struct x86_cpu` is read from and written to it. Everything here is a pure function. Images need no alignment.
#ifndef BULKHEAD_XSAVE_H
#define BULKHEAD_XSAVE_H

#include <stdbool.h>
#include <stdint.h>

#include "x86/cpu.h"

#define XSAVE_LEGACY_SIZE 512u          // x87 and SSE, as FXSAVE has them
#define XSAVE_HEADER_END 576u           // behind the header, where further components begin
#define XSAVE_LEGACY 3ull               // the components x87 and SSE, which every processor has
#define XSAVE_COMPACTED (1ull << 63)    // in XCOMP_BV
#define XSAVE_COMPONENTS 63u

// What CPUID leaf 0DH says of a component above SSE.
struct xsave_component {
    uint32_t size, offset;              // bytes; the place in the standard format
    bool align;                         // begins at a multiple of 64 bytes in the compacted format
};

struct xsave_layout {
    uint64_t components;                // a bit for each that the processor has; with XSAVE_LEGACY always
    struct xsave_component part[XSAVE_COMPONENTS];      // by number; of those above SSE that `components` names
};

uint32_t xsave_standard_size(const struct xsave_layout *layout);
// Of an image with all components.
uint32_t xsave_compacted_size(const struct xsave_layout *layout);

// From the standard format to the compacted one, with a place for every component. Components that the layout has not
// are left out. The image has xsave_compacted_size bytes.
void xsave_compact(const struct xsave_layout *layout, const uint8_t *standard, uint8_t *image);

// From either format to the standard one, of xsave_standard_size bytes. False, and nothing written: the image has not
// exactly the size of its format, XSTATE_BV names a component that the processor (or XCOMP_BV) has not, XCOMP_BV has a
// reserved bit, a reserved byte of the header is not 0, or MXCSR is loaded and has a reserved bit. These are XRSTOR's
// rules (SDM vol. 1 13.8): a component whose bit in XSTATE_BV is 0 gets its initial value; MXCSR counts as part of SSE in
// the compacted format, and is always loaded from the standard one. In the result x87 and SSE are always marked, since
// their values are there.
bool xsave_expand(const struct xsave_layout *layout, const uint8_t *image, uint32_t size, uint8_t *standard);

// ---- A processor in the form of src/x86 --------------------------------------------------------------------------

#define XSAVE_CPU_SIZE 832u             // of an image of one with all that it can have, in either format

// What its features give it.
void xsave_cpu_layout(const struct x86_cpu *cpu, struct xsave_layout *layout);
// The processor's state, as an image in the standard format and back. Pointers of x87 are in the form of its mode, as in
// WHvX64RegisterFpControlStatus. `standard` is one that xsave_expand has made.
void xsave_from_cpu(const struct x86_cpu *cpu, const struct xsave_layout *layout, uint8_t *standard);
void xsave_to_cpu(struct x86_cpu *cpu, const struct xsave_layout *layout, const uint8_t *standard);

#endif
