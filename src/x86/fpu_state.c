// x87 and SSE state as a whole: its initial value, its tag words, and its FXSAVE image.
#include "x86/fpu.h"

#include <string.h>

void x86_fpu_init(struct x86_fpu *fpu)
{
    fpu->fcw = X87_FCW_INIT;
    fpu->fsw = 0;
    fpu->ftw = 0;
    fpu->fop = 0;
    fpu->fip = fpu->fdp = 0;
    fpu->fcs = fpu->fds = 0;
}

// SDM vol. 1 8.1.7: 0 valid, 1 zero, 2 special, 3 empty.
static unsigned tag_of(const long double *value)
{
    struct { uint64_t mantissa; uint16_t exponent; } v;
    memcpy(&v, value, 10);
    unsigned exponent = v.exponent & 0x7fff;
    if (exponent == 0 && v.mantissa == 0)
        return 1;
    return exponent == 0 || exponent == 0x7fff || !(v.mantissa >> 63) ? 2 : 0;
}

uint16_t x86_fpu_tag_word(const struct x86_fpu *fpu)
{
    unsigned word = 0;
    for (unsigned n = 0; n < 8; n++)
        word |= (fpu->ftw >> n & 1 ? tag_of(&fpu->st[n]) : 3) << 2 * n;
    return (uint16_t)word;
}

uint8_t x86_fpu_abridge(uint16_t tag_word)
{
    unsigned tags = 0;
    for (unsigned n = 0; n < 8; n++)
        if ((tag_word >> 2 * n & 3) != 3)
            tags |= 1u << n;
    return (uint8_t)tags;
}

void x86_fpu_to_image(const struct x86_cpu *cpu, struct x86_fx_image *image, bool wide)
{
    const struct x86_fpu *fpu = &cpu->fpu;
    memset(image, 0, sizeof *image);
    image->fcw = fpu->fcw;
    image->fsw = fpu->fsw;
    image->ftw = fpu->ftw;
    image->fop = fpu->fop;
    image->fip = wide ? fpu->fip : (uint32_t)fpu->fip | (uint64_t)fpu->fcs << 32;
    image->fdp = wide ? fpu->fdp : (uint32_t)fpu->fdp | (uint64_t)fpu->fds << 32;
    image->mxcsr = cpu->mxcsr;
    image->mxcsr_mask = X86_MXCSR_VALID;
    for (unsigned n = 0; n < 8; n++)
        memcpy(image->st[n].u8, &fpu->st[(x87_top(fpu) + n) & 7], 10);
    for (unsigned n = 0; n < 16; n++)
        memcpy(image->xmm[n].u8, cpu->vec[n].u8, 16);
}

bool x86_fpu_from_image(struct x86_cpu *cpu, const struct x86_fx_image *image, bool wide, unsigned xmm)
{
    struct x86_fpu *fpu = &cpu->fpu;
    if (image->mxcsr & ~X86_MXCSR_VALID)
        return false;
    cpu->mxcsr = image->mxcsr;
    fpu->fcw = X87_FCW_VALUE(image->fcw);
    fpu->fsw = image->fsw;
    x87_update_summary(fpu);
    fpu->ftw = image->ftw;
    fpu->fop = image->fop & 0x7ff;
    fpu->fip = wide ? image->fip : (uint32_t)image->fip;
    fpu->fdp = wide ? image->fdp : (uint32_t)image->fdp;
    fpu->fcs = wide ? 0 : (uint16_t)(image->fip >> 32);
    fpu->fds = wide ? 0 : (uint16_t)(image->fdp >> 32);
    for (unsigned n = 0; n < 8; n++)
        memcpy(&fpu->st[(x87_top(fpu) + n) & 7], image->st[n].u8, 10);
    for (unsigned n = 0; n < xmm; n++)
        memcpy(cpu->vec[n].u8, image->xmm[n].u8, 16);
    return true;
}
