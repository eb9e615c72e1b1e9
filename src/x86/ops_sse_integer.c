// Packed integers and bitwise logic, in XMM and MMX registers.
//
// One line per instruction makes four handlers: XMM and MMX, each from a register and from memory. MMX forms
// run on the host's XMM unit too, so that the host's x87 state is left alone: the operands are in the low
// halves.
#include "x86/ops_sse.h"

// ---- The forms ----------------------------------------------------------------------------------

// How the result of an MMX form comes out of an XMM instruction.
#define MMX_LOW(op, a, b) asm(op " %1, %0" : "+x"(a) : "x"(b))
#define MMX_HIGH(op, a, b)                                                                           \
    asm(op " %1, %0" : "+x"(a) : "x"(b));                                                            \
    a = _mm_unpackhi_epi64(a, a)
#define MMX_PACK(op, a, b)                                                                           \
    a = _mm_unpacklo_epi64(a, b);                                                                    \
    asm(op " %0, %0" : "+x"(a))

#define MMX_FORM(name, source, how, op)                                                              \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        MMX_ENTER;                                                                                   \
        source;                                                                                      \
        __m128i a = sse_word(mmx_get(cpu, i->dst));                                                  \
        how(op, a, b);                                                                               \
        mmx_touch(cpu);                                                                              \
        mmx_set(cpu, i->dst, sse_low(a));                                                            \
        NEXT(cpu, i);                                                                                \
    }

// The row's feature is that of the MMX form.
static bool emit_both(struct x86_emit *e, insn_fn xmm, insn_fn xmm_load, insn_fn mmx, insn_fn mmx_load)
{
    if (x86_sse_is(e, 0, ZYDIS_REGCLASS_MMX))
        return x86_sse_emit(e, mmx, mmx_load, NULL);
    return x86_has_feature(e->cpu, X86_FEATURE_SSE2) && x86_sse_emit(e, xmm, xmm_load, NULL);
}

#define XMM_ONLY(name)                                                                               \
    SSE_BINARY_FORM(name##_x, SSE_SOURCE_X, #name)                                                   \
    SSE_BINARY_FORM(name##_m, SSE_SOURCE_M128, #name)                                                \
    SSE_EMITTER(name)

#define BOTH_AS(name, how, mmx_op, mmx_memory)                                                       \
    SSE_BINARY_FORM(name##_x, SSE_SOURCE_X, #name)                                                   \
    SSE_BINARY_FORM(name##_m, SSE_SOURCE_M128, #name)                                                \
    MMX_FORM(name##_mm, SSE_SOURCE_MMX, how, mmx_op)                                                 \
    MMX_FORM(name##_mm_m, mmx_memory, how, mmx_op)                                                   \
    bool x86_emit_##name(struct x86_emit *e, unsigned parameter)                                     \
    {                                                                                                \
        (void)parameter;                                                                             \
        return emit_both(e, name##_x, name##_m, name##_mm, name##_mm_m);                             \
    }
#define BOTH(name) BOTH_AS(name, MMX_LOW, #name, SSE_SOURCE_M64)

// ---- Logic --------------------------------------------------------------------------------------

XMM_ONLY(andps)
XMM_ONLY(andpd)
XMM_ONLY(andnps)
XMM_ONLY(andnpd)
XMM_ONLY(orps)
XMM_ONLY(orpd)
XMM_ONLY(xorps)
XMM_ONLY(xorpd)
BOTH(pand)
BOTH(pandn)
BOTH(por)
BOTH(pxor)

// ---- Arithmetic ---------------------------------------------------------------------------------

BOTH(paddb)
BOTH(paddw)
BOTH(paddd)
BOTH(paddq)
BOTH(paddsb)
BOTH(paddsw)
BOTH(paddusb)
BOTH(paddusw)
BOTH(psubb)
BOTH(psubw)
BOTH(psubd)
BOTH(psubq)
BOTH(psubsb)
BOTH(psubsw)
BOTH(psubusb)
BOTH(psubusw)
BOTH(pmullw)
BOTH(pmulhw)
BOTH(pmulhuw)
BOTH(pmuludq)
BOTH(pmaddwd)
BOTH(psadbw)
BOTH(pavgb)
BOTH(pavgw)
BOTH(pmaxub)
BOTH(pmaxsw)
BOTH(pminub)
BOTH(pminsw)
BOTH(pcmpeqb)
BOTH(pcmpeqw)
BOTH(pcmpeqd)
BOTH(pcmpgtb)
BOTH(pcmpgtw)
BOTH(pcmpgtd)

// ---- Packing and interleaving -------------------------------------------------------------------

// The MMX forms of PUNPCKLxx read 32 bits of memory. A high half of two MMX registers interleaved is the
// high half of what the XMM instruction makes of their low 64 bits.
BOTH_AS(punpcklbw, MMX_LOW, "punpcklbw", SSE_SOURCE_M32)
BOTH_AS(punpcklwd, MMX_LOW, "punpcklwd", SSE_SOURCE_M32)
BOTH_AS(punpckldq, MMX_LOW, "punpckldq", SSE_SOURCE_M32)
BOTH_AS(punpckhbw, MMX_HIGH, "punpcklbw", SSE_SOURCE_M64)
BOTH_AS(punpckhwd, MMX_HIGH, "punpcklwd", SSE_SOURCE_M64)
BOTH_AS(punpckhdq, MMX_HIGH, "punpckldq", SSE_SOURCE_M64)
BOTH_AS(packsswb, MMX_PACK, "packsswb", SSE_SOURCE_M64)
BOTH_AS(packuswb, MMX_PACK, "packuswb", SSE_SOURCE_M64)
BOTH_AS(packssdw, MMX_PACK, "packssdw", SSE_SOURCE_M64)
XMM_ONLY(punpcklqdq)
XMM_ONLY(punpckhqdq)
XMM_ONLY(unpcklps)
XMM_ONLY(unpckhps)
XMM_ONLY(unpcklpd)
XMM_ONLY(unpckhpd)

// ---- Shifts -------------------------------------------------------------------------------------

#define SSE_SOURCE_IMMEDIATE __m128i b = sse_word(i->imm)

#define SHIFT(name)                                                                                  \
    SSE_BINARY_FORM(name##_x, SSE_SOURCE_X, #name)                                                   \
    SSE_BINARY_FORM(name##_m, SSE_SOURCE_M128, #name)                                                \
    SSE_BINARY_FORM(name##_i, SSE_SOURCE_IMMEDIATE, #name)                                           \
    MMX_FORM(name##_mm, SSE_SOURCE_MMX, MMX_LOW, #name)                                              \
    MMX_FORM(name##_mm_m, SSE_SOURCE_M64, MMX_LOW, #name)                                            \
    MMX_FORM(name##_mm_i, SSE_SOURCE_IMMEDIATE, MMX_LOW, #name)                                      \
    bool x86_emit_##name(struct x86_emit *e, unsigned parameter)                                     \
    {                                                                                                \
        bool immediate = x86_is_immediate(&e->operand[1]);                                           \
        (void)parameter;                                                                             \
        return emit_both(e, immediate ? name##_i : name##_x, name##_m, immediate ? name##_mm_i : name##_mm, \
                         name##_mm_m);                                                               \
    }

SHIFT(psllw)
SHIFT(pslld)
SHIFT(psllq)
SHIFT(psrlw)
SHIFT(psrld)
SHIFT(psrlq)
SHIFT(psraw)
SHIFT(psrad)

// Shifts of the whole register by bytes.
#define SHIFT_BYTES(name, operator)                                                                  \
    HANDLER(name##_x)                                                                                \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        typedef unsigned __int128 __attribute__((may_alias)) whole;                                  \
        whole *a = (whole *)&cpu->vec[i->dst];                                                       \
        *a = i->imm > 15 ? 0 : *a operator (i->imm * 8);                                             \
        NEXT(cpu, i);                                                                                \
    }                                                                                                \
    bool x86_emit_##name(struct x86_emit *e, unsigned parameter)                                     \
    {                                                                                                \
        (void)parameter;                                                                             \
        return x86_sse_emit(e, name##_x, NULL, NULL);                                                \
    }
SHIFT_BYTES(pslldq, <<)
SHIFT_BYTES(psrldq, >>)

// ---- Single words, sign masks -------------------------------------------------------------------

HANDLER(pextrw_x)
{
    SSE_ENTER;
    R64(i->dst) = cpu->vec[i->src].u16[i->imm & 7];
    NEXT(cpu, i);
}

HANDLER(pextrw_mm)
{
    MMX_ENTER;
    mmx_touch(cpu);
    R64(i->dst) = (uint16_t)(mmx_get(cpu, i->src) >> (i->imm & 3) * 16);
    NEXT(cpu, i);
}

bool x86_emit_pextrw(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    if (x86_sse_is(e, 1, ZYDIS_REGCLASS_MMX))
        return x86_sse_emit(e, pextrw_mm, NULL, NULL);
    return x86_has_feature(e->cpu, X86_FEATURE_SSE2) && x86_sse_emit(e, pextrw_x, NULL, NULL);
}

#define PINSRW_FORM(name, source)                                                                    \
    HANDLER(name##_x)                                                                                \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        source;                                                                                      \
        cpu->vec[i->dst].u16[i->imm & 7] = b;                                                        \
        NEXT(cpu, i);                                                                                \
    }                                                                                                \
    HANDLER(name##_mm)                                                                               \
    {                                                                                                \
        MMX_ENTER;                                                                                   \
        source;                                                                                      \
        unsigned shift = (i->imm & 3) * 16;                                                          \
        mmx_touch(cpu);                                                                              \
        mmx_set(cpu, i->dst, (mmx_get(cpu, i->dst) & ~(0xffffull << shift)) | (uint64_t)b << shift); \
        NEXT(cpu, i);                                                                                \
    }
PINSRW_FORM(pinsrw_r, uint16_t b = R16(i->src))
PINSRW_FORM(pinsrw_m, ADDRESS(lin, 2, X86_READ); LOAD(uint16_t, b, lin))

bool x86_emit_pinsrw(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    return emit_both(e, pinsrw_r_x, pinsrw_m_x, pinsrw_r_mm, pinsrw_m_mm);
}

HANDLER(pmovmskb_x)
{
    SSE_ENTER;
    R64(i->dst) = (uint32_t)_mm_movemask_epi8(XMM(i->src));
    NEXT(cpu, i);
}

HANDLER(pmovmskb_mm)
{
    MMX_ENTER;
    mmx_touch(cpu);
    R64(i->dst) = (uint32_t)_mm_movemask_epi8(sse_word(mmx_get(cpu, i->src)));
    NEXT(cpu, i);
}

bool x86_emit_pmovmskb(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    if (x86_sse_is(e, 1, ZYDIS_REGCLASS_MMX))
        return x86_sse_emit(e, pmovmskb_mm, NULL, NULL);
    return x86_has_feature(e->cpu, X86_FEATURE_SSE2) && x86_sse_emit(e, pmovmskb_x, NULL, NULL);
}
