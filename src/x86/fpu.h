// The floating-point side of the processor as others need it: register bits, the FXSAVE image, the host's
// own state.
#ifndef BULKHEAD_X86_FPU_H
#define BULKHEAD_X86_FPU_H

#include "x86/cpu.h"

// x87 status word (SDM vol. 1 8.1.3)
#define X87_IE 0x0001u
#define X87_DE 0x0002u
#define X87_ZE 0x0004u
#define X87_OE 0x0008u
#define X87_UE 0x0010u
#define X87_PE 0x0020u
#define X87_EXCEPTIONS 0x003fu
#define X87_SF 0x0040u
#define X87_ES 0x0080u
#define X87_C0 0x0100u
#define X87_C1 0x0200u
#define X87_C2 0x0400u
#define X87_C3 0x4000u
#define X87_CONDITION 0x4700u
#define X87_TOP 0x3800u
#define X87_TOP_SHIFT 11
#define X87_BUSY 0x8000u
#define X87_FCW_INIT 0x037fu
// What the control word holds after a load of `word`: bit 6 is always set, other reserved bits are not kept.
#define X87_FCW_VALUE(word) ((uint16_t)(((word) & 0x1f3fu) | 0x40u))

// MXCSR (SDM vol. 1 10.2.3)
#define X86_MXCSR_FLAGS 0x003fu
#define X86_MXCSR_MASKS 0x1f80u
#define X86_MXCSR_MASK_SHIFT 7
#define X86_MXCSR_UM 0x0800u
#define X86_MXCSR_FTZ 0x8000u
#define X86_MXCSR_INIT 0x1f80u
#define X86_MXCSR_VALID 0xffffu     // MXCSR_MASK: the bits that can be set

// The area of FXSAVE (SDM vol. 1 10.5.1). `st` is in stack order, as the instruction has it.
struct x86_fx_image {
    uint16_t fcw, fsw;
    uint8_t ftw, reserved;
    uint16_t fop;
    uint64_t fip;               // without REX.W: 32 bits of offset, 16 of selector
    uint64_t fdp;
    uint32_t mxcsr, mxcsr_mask;
    struct { uint8_t u8[16]; } st[8];
    struct { uint8_t u8[16]; } xmm[16];
    uint8_t unused[96];
};
_Static_assert(sizeof(struct x86_fx_image) == 512, "the area is 512 bytes");

static inline unsigned x87_top(const struct x86_fpu *fpu) { return fpu->fsw >> X87_TOP_SHIFT & 7; }

// ES and B follow from the flags and the masks; after any change of either.
static inline void x87_update_summary(struct x86_fpu *fpu)
{
    fpu->fsw &= (uint16_t)~(X87_ES | X87_BUSY);
    if (fpu->fsw & ~fpu->fcw & X87_EXCEPTIONS)
        fpu->fsw |= X87_ES | X87_BUSY;
}

// `wide`: pointers as FXSAVE64 and FXRSTOR64 have them (64 bits, no selectors).
void x86_fpu_to_image(const struct x86_cpu *cpu, struct x86_fx_image *image, bool wide);
// `xmm`: how many XMM registers to take. False: reserved bits of MXCSR are set, and nothing changed.
bool x86_fpu_from_image(struct x86_cpu *cpu, const struct x86_fx_image *image, bool wide, unsigned xmm);
// The tag word of FSTENV (two bits for each physical register), and the way back.
uint16_t x86_fpu_tag_word(const struct x86_fpu *fpu);
uint8_t x86_fpu_abridge(uint16_t tag_word);
// The state after FNINIT.
void x86_fpu_init(struct x86_fpu *fpu);

// Guest instructions run on the host's own units: around the run loop, put the host's control registers to
// their defaults (all exceptions masked) and give back to the thread what it had.
struct x86_fpu_host { uint32_t mxcsr; uint16_t fcw; };

static inline struct x86_fpu_host x86_fpu_host_enter(void)
{
    struct x86_fpu_host host;
    uint32_t mxcsr = X86_MXCSR_INIT;
    uint16_t fcw = X87_FCW_INIT;
    asm volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(host.mxcsr), "=m"(host.fcw));
    asm volatile("fnclex\n\tldmxcsr %0\n\tfldcw %1" : : "m"(mxcsr), "m"(fcw));
    return host;
}

static inline void x86_fpu_host_leave(struct x86_fpu_host host)
{
    asm volatile("fnclex\n\tldmxcsr %0\n\tfldcw %1" : : "m"(host.mxcsr), "m"(host.fcw));
}

#endif
