// MMX data movement, and what only MMX registers have. The packed arithmetic is in ops_sse_integer.c.
//
// MMX register n is the low 64 bits of x87 register n. Every instruction here but EMMS makes the x87 state
// MMX state: TOP = 0, all registers valid; a register that is written gets an exponent of ones (SDM vol. 3A
// 12.2).
#include "x86/ops_sse.h"

HANDLER(emms)
{
    MMX_ENTER;
    cpu->fpu.fsw &= (uint16_t)~X87_TOP;
    cpu->fpu.ftw = 0;
    NEXT(cpu, i);
}

bool x86_emit_emms(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    e->insn->fn = emms;
    return true;
}

// ---- MOVD, MOVQ, MOVNTQ -------------------------------------------------------------------------

#define MMX_LOAD_FORM(name, source)                                                                  \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        MMX_ENTER;                                                                                   \
        source;                                                                                      \
        mmx_touch(cpu);                                                                              \
        mmx_set(cpu, i->dst, value);                                                                 \
        NEXT(cpu, i);                                                                                \
    }
#define MMX_STORE_FORM(name, type)                                                                   \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        MMX_ENTER;                                                                                   \
        ADDRESS(lin, sizeof(type), X86_WRITE);                                                       \
        type value = (type)mmx_get(cpu, i->src);                                                     \
        STORE(type, lin, value);                                                                     \
        mmx_touch(cpu);                                                                              \
        NEXT(cpu, i);                                                                                \
    }
#define MMX_TO_GENERAL(name, type)                                                                   \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        MMX_ENTER;                                                                                   \
        mmx_touch(cpu);                                                                              \
        R64(i->dst) = (type)mmx_get(cpu, i->src);                                                    \
        NEXT(cpu, i);                                                                                \
    }

MMX_LOAD_FORM(move_mm, uint64_t value = mmx_get(cpu, i->src))
MMX_LOAD_FORM(move_r32_mm, uint64_t value = R32(i->src))
MMX_LOAD_FORM(move_r64_mm, uint64_t value = R64(i->src))
MMX_LOAD_FORM(move_m32_mm, ADDRESS(lin, 4, X86_READ); LOAD(uint32_t, value, lin))
MMX_LOAD_FORM(move_m64_mm, ADDRESS(lin, 8, X86_READ); LOAD(uint64_t, value, lin))
MMX_STORE_FORM(move_mm_m32, uint32_t)
MMX_STORE_FORM(move_mm_m64, uint64_t)
MMX_TO_GENERAL(move_mm_r32, uint32_t)
MMX_TO_GENERAL(move_mm_r64, uint64_t)

static bool touches_mmx(const struct x86_emit *e)
{
    return x86_sse_is(e, 0, ZYDIS_REGCLASS_MMX) || x86_sse_is(e, 1, ZYDIS_REGCLASS_MMX);
}

bool x86_emit_movd(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    if (!touches_mmx(e))
        return x86_sse_emit_movd(e);
    if (x86_sse_is(e, 0, ZYDIS_REGCLASS_MMX))
        return x86_sse_emit(e, move_r32_mm, move_m32_mm, NULL);
    return x86_sse_emit(e, move_mm_r32, NULL, move_mm_m32);
}

bool x86_emit_movq(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    if (!touches_mmx(e))
        return x86_sse_emit_movq(e);
    if (!x86_sse_is(e, 0, ZYDIS_REGCLASS_MMX))
        return x86_sse_emit(e, move_mm_r64, NULL, move_mm_m64);
    return x86_sse_emit(e, x86_sse_is(e, 1, ZYDIS_REGCLASS_MMX) ? move_mm : move_r64_mm, move_m64_mm, NULL);
}

bool x86_emit_movntq(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    return x86_sse_emit(e, NULL, NULL, move_mm_m64);
}

// ---- Between XMM and MMX: unavailable where either is -------------------------------------------

HANDLER(movq2dq_x)
{
    SSE_ENTER;
    MMX_ENTER;
    mmx_touch(cpu);
    XMM(i->dst) = sse_word(mmx_get(cpu, i->src));
    NEXT(cpu, i);
}

HANDLER(movdq2q_x)
{
    SSE_ENTER;
    MMX_ENTER;
    mmx_touch(cpu);
    mmx_set(cpu, i->dst, cpu->vec[i->src].u64[0]);
    NEXT(cpu, i);
}

// MOVQ2DQ (parameter 0), MOVDQ2Q (parameter 1).
bool x86_emit_mmx_exchange(struct x86_emit *e, unsigned parameter)
{
    return x86_sse_emit(e, parameter ? movdq2q_x : movq2dq_x, NULL, NULL);
}

// ---- PSHUFW, MASKMOVQ ---------------------------------------------------------------------------

#define PSHUFW_FORM(name, source)                                                                    \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        MMX_ENTER;                                                                                   \
        source;                                                                                      \
        uint64_t result = 0;                                                                         \
        for (unsigned n = 0; n < 4; n++)                                                             \
            result |= (value >> (i->imm >> 2 * n & 3) * 16 & 0xffff) << 16 * n;                      \
        mmx_touch(cpu);                                                                              \
        mmx_set(cpu, i->dst, result);                                                                \
        NEXT(cpu, i);                                                                                \
    }
PSHUFW_FORM(pshufw_x, uint64_t value = mmx_get(cpu, i->src))
PSHUFW_FORM(pshufw_m, ADDRESS(lin, 8, X86_READ); LOAD(uint64_t, value, lin))
SSE_EMITTER(pshufw)

HANDLER(maskmovq_x)
{
    MMX_ENTER;
    uint64_t mask = mmx_get(cpu, i->src) & 0x8080808080808080u, value = mmx_get(cpu, i->dst);
    if (mask) {
        ADDRESS(lin, 8, X86_WRITE);
        volatile uint8_t *to = x86_write_pointer(cpu, lin, 8, X86_READ | X86_WRITE);
        if (X86_UNLIKELY(!to))
            return x86_leave_fault(cpu, i);
        for (unsigned n = 0; n < 8; n++)
            if (mask >> (8 * n + 7) & 1)
                to[n] = (uint8_t)(value >> 8 * n);
        x86_commit(cpu);
    }
    mmx_touch(cpu);
    NEXT(cpu, i);
}

bool x86_emit_maskmovq(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    x86_emit_memory(e, &e->operand[2]);
    return x86_sse_emit(e, maskmovq_x, NULL, NULL);
}
