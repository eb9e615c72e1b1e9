// SSE and SSE2 data movement, shuffles and the MXCSR instructions; the emitter that the SSE and MMX files
// share.
#include "x86/ops_sse.h"

const struct insn *x86_sse_unavailable(struct x86_cpu *cpu, const struct insn *i)
{
    bool undefined = (cpu->cr0 & X86_CR0_EM) || !(cpu->cr4 & X86_CR4_OSFXSR);
    return x86_raise(cpu, i, undefined ? X86_UD : X86_NM, -1);
}

const struct insn *x86_mmx_unavailable(struct x86_cpu *cpu, const struct insn *i)
{
    if (cpu->cr0 & X86_CR0_EM)
        return x86_raise(cpu, i, X86_UD, -1);
    return x86_raise(cpu, i, cpu->cr0 & X86_CR0_TS ? X86_NM : X86_MF, -1);
}

// ---- The emitter --------------------------------------------------------------------------------

bool x86_sse_is(const struct x86_emit *e, unsigned operand, ZydisRegisterClass class)
{
    return x86_is_register(&e->operand[operand]) &&
           ZydisRegisterGetClass(e->operand[operand].reg.value) == class;
}

static uint8_t sse_register(const ZydisDecodedOperand *operand)
{
    switch (ZydisRegisterGetClass(operand->reg.value)) {
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_MMX:
        return x86_emit_index(operand->reg.value);
    default:
        return x86_emit_gpr(operand->reg.value);
    }
}

bool x86_sse_emit(struct x86_emit *e, insn_fn registers, insn_fn load, insn_fn store)
{
    const ZydisDecodedOperand *first = &e->operand[0], *second = &e->operand[1];
    struct insn *insn = e->insn;

    if (x86_is_memory(first)) {
        insn->fn = store;
        x86_emit_memory(e, first);
        insn->src = sse_register(second);
    } else {
        insn->dst = sse_register(first);
        if (x86_is_memory(second)) {
            insn->fn = load;
            x86_emit_memory(e, second);
        } else {
            insn->fn = registers;
            if (x86_is_immediate(second))
                insn->imm = second->imm.value.u & 0xff;
            else
                insn->src = sse_register(second);
        }
    }
    if (e->z->operand_count_visible > 2 && x86_is_immediate(&e->operand[2]))
        insn->imm = e->operand[2].imm.value.u & 0xff;
    return insn->fn != NULL;
}

// ---- Whole registers ----------------------------------------------------------------------------

HANDLER(move_x)
{
    SSE_ENTER;
    XMM(i->dst) = XMM(i->src);
    NEXT(cpu, i);
}

HANDLER(move_aligned_load)
{
    SSE_ENTER;
    SSE_SOURCE_M128;
    XMM(i->dst) = b;
    NEXT(cpu, i);
}

HANDLER(move_aligned_store)
{
    SSE_ENTER;
    ADDRESS(lin, 16, X86_WRITE);
    ALIGNED(lin);
    STORE128(lin, XMM(i->src));
    NEXT(cpu, i);
}

HANDLER(move_unaligned_load)
{
    SSE_ENTER;
    SSE_SOURCE_M128U;
    XMM(i->dst) = b;
    NEXT(cpu, i);
}

HANDLER(move_unaligned_store)
{
    SSE_ENTER;
    ADDRESS(lin, 16, X86_WRITE);
    STORE128(lin, XMM(i->src));
    NEXT(cpu, i);
}

// MOVAPS, MOVAPD, MOVDQA, and the non-temporal stores, for which there is a form to memory alone.
bool x86_emit_sse_move_aligned(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    return x86_sse_emit(e, move_x, move_aligned_load, move_aligned_store);
}

bool x86_emit_sse_move_unaligned(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    return x86_sse_emit(e, move_x, move_unaligned_load, move_unaligned_store);
}

// ---- Parts of registers -------------------------------------------------------------------------

// to: element of the destination; from: element of the source.
#define PART_X(name, element, to, from)                                                              \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        cpu->vec[i->dst].element[to] = cpu->vec[i->src].element[from];                               \
        NEXT(cpu, i);                                                                                \
    }
#define PART_LOAD(name, type, element, to)                                                           \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        ADDRESS(lin, sizeof(type), X86_READ);                                                        \
        LOAD(type, b, lin);                                                                          \
        cpu->vec[i->dst].element[to] = b;                                                            \
        NEXT(cpu, i);                                                                                \
    }
#define PART_STORE(name, type, element, from)                                                        \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        ADDRESS(lin, sizeof(type), X86_WRITE);                                                       \
        type value = cpu->vec[i->src].element[from];                                                 \
        STORE(type, lin, value);                                                                     \
        NEXT(cpu, i);                                                                                \
    }
// Replace the whole register: the rest is zero.
#define WIDEN(name, source)                                                                          \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        source;                                                                                      \
        XMM(i->dst) = _mm_move_epi64(b);                                                             \
        NEXT(cpu, i);                                                                                \
    }

WIDEN(move32_load, SSE_SOURCE_M32)
WIDEN(move64_load, SSE_SOURCE_M64)
WIDEN(move64_zero_x, SSE_SOURCE_X)
WIDEN(move_r32_x, SSE_SOURCE_R32)
WIDEN(move_r64_x, SSE_SOURCE_R64)
PART_X(movss_x, u32, 0, 0)
PART_X(movsd_x, u64, 0, 0)
PART_X(movhlps_x, u64, 0, 1)
PART_X(movlhps_x, u64, 1, 0)
PART_LOAD(move_low_load, uint64_t, u64, 0)
PART_LOAD(move_high_load, uint64_t, u64, 1)
PART_STORE(move32_store, uint32_t, u32, 0)
PART_STORE(move64_store, uint64_t, u64, 0)
PART_STORE(move_high_store, uint64_t, u64, 1)

HANDLER(move_x_r32)
{
    SSE_ENTER;
    R64(i->dst) = cpu->vec[i->src].u32[0];
    NEXT(cpu, i);
}

HANDLER(move_x_r64)
{
    SSE_ENTER;
    R64(i->dst) = cpu->vec[i->src].u64[0];
    NEXT(cpu, i);
}

bool x86_emit_movss(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    return x86_sse_emit(e, movss_x, move32_load, move32_store);
}

bool x86_emit_sse_movsd(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    return x86_sse_emit(e, movsd_x, move64_load, move64_store);
}

// MOVLPS, MOVLPD, MOVHLPS (parameter 0); MOVHPS, MOVHPD, MOVLHPS (parameter 1).
bool x86_emit_sse_half(struct x86_emit *e, unsigned parameter)
{
    if (parameter)
        return x86_sse_emit(e, movlhps_x, move_high_load, move_high_store);
    return x86_sse_emit(e, movhlps_x, move_low_load, move64_store);
}

// The XMM forms of MOVD and MOVQ; those with an MMX register are in ops_mmx.c, where the rows lead.
bool x86_sse_emit_movd(struct x86_emit *e)
{
    if (!x86_has_feature(e->cpu, X86_FEATURE_SSE2))
        return false;
    if (x86_sse_is(e, 0, ZYDIS_REGCLASS_XMM))
        return x86_sse_emit(e, move_r32_x, move32_load, NULL);
    return x86_sse_emit(e, move_x_r32, NULL, move32_store);
}

bool x86_sse_emit_movq(struct x86_emit *e)
{
    if (!x86_has_feature(e->cpu, X86_FEATURE_SSE2))
        return false;
    if (x86_sse_is(e, 1, ZYDIS_REGCLASS_XMM) && !x86_sse_is(e, 0, ZYDIS_REGCLASS_XMM))
        return x86_sse_emit(e, move_x_r64, NULL, move64_store);
    insn_fn registers = x86_sse_is(e, 1, ZYDIS_REGCLASS_XMM) ? move64_zero_x : move_r64_x;
    return x86_sse_emit(e, registers, move64_load, NULL);
}

// ---- Sign masks ---------------------------------------------------------------------------------

#define SIGNS(name, expression)                                                                      \
    HANDLER(name##_x)                                                                                \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        SSE_SOURCE_X;                                                                                \
        R64(i->dst) = (uint32_t)(expression);                                                        \
        NEXT(cpu, i);                                                                                \
    }                                                                                                \
    bool x86_emit_##name(struct x86_emit *e, unsigned parameter)                                     \
    {                                                                                                \
        (void)parameter;                                                                             \
        return x86_sse_emit(e, name##_x, NULL, NULL);                                                \
    }
SIGNS(movmskps, _mm_movemask_ps(_mm_castsi128_ps(b)))
SIGNS(movmskpd, _mm_movemask_pd(_mm_castsi128_pd(b)))

// ---- Shuffles with an immediate selection -------------------------------------------------------

union sse_lanes { uint16_t u16[8]; uint32_t u32[4]; uint64_t u64[2]; __m128i whole; };

// `va` is the destination's old value, `vb` the source, both as lanes; the expressions fill the result `r`.
#define SHUFFLE_FORM(name, source, ...)                                                              \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        source;                                                                                      \
        const unsigned s = (unsigned)i->imm;                                                         \
        union sse_lanes va = { .whole = XMM(i->dst) }, vb = { .whole = b }, r = { .whole = b };      \
        __VA_ARGS__;                                                                                 \
        XMM(i->dst) = r.whole;                                                                       \
        NEXT(cpu, i);                                                                                \
    }
#define SHUFFLE(name, ...)                                                                           \
    SHUFFLE_FORM(name##_x, SSE_SOURCE_X, __VA_ARGS__)                                                \
    SHUFFLE_FORM(name##_m, SSE_SOURCE_M128, __VA_ARGS__)                                             \
    SSE_EMITTER(name)

SHUFFLE(shufps, r.u32[0] = va.u32[s & 3]; r.u32[1] = va.u32[s >> 2 & 3]; r.u32[2] = vb.u32[s >> 4 & 3];
        r.u32[3] = vb.u32[s >> 6 & 3])
SHUFFLE(shufpd, r.u64[0] = va.u64[s & 1]; r.u64[1] = vb.u64[s >> 1 & 1])
SHUFFLE(pshufd, (void)va; r.u32[0] = vb.u32[s & 3]; r.u32[1] = vb.u32[s >> 2 & 3];
        r.u32[2] = vb.u32[s >> 4 & 3]; r.u32[3] = vb.u32[s >> 6 & 3])
SHUFFLE(pshuflw, (void)va; r.u16[0] = vb.u16[s & 3]; r.u16[1] = vb.u16[s >> 2 & 3];
        r.u16[2] = vb.u16[s >> 4 & 3]; r.u16[3] = vb.u16[s >> 6 & 3])
SHUFFLE(pshufhw, (void)va; r.u16[4] = vb.u16[4 + (s & 3)]; r.u16[5] = vb.u16[4 + (s >> 2 & 3)];
        r.u16[6] = vb.u16[4 + (s >> 4 & 3)]; r.u16[7] = vb.u16[4 + (s >> 6 & 3)])

// ---- MASKMOVDQU ---------------------------------------------------------------------------------

// With a mask of zero nothing is accessed (SDM vol. 2, MASKMOVDQU, leaves faults open then).
HANDLER(maskmovdqu_x)
{
    SSE_ENTER;
    unsigned mask = (unsigned)_mm_movemask_epi8(XMM(i->src));
    if (!mask)
        NEXT(cpu, i);
    ADDRESS(lin, 16, X86_WRITE);
    volatile uint8_t *to = x86_write_pointer(cpu, lin, 16, X86_READ | X86_WRITE);
    if (X86_UNLIKELY(!to))
        return x86_leave_fault(cpu, i);
    for (unsigned n = 0; n < 16; n++)
        if (mask >> n & 1)
            to[n] = cpu->vec[i->dst].u8[n];
    x86_commit(cpu);
    NEXT(cpu, i);
}

bool x86_emit_maskmovdqu(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    x86_emit_memory(e, &e->operand[2]);
    return x86_sse_emit(e, maskmovdqu_x, NULL, NULL);
}

// ---- MXCSR --------------------------------------------------------------------------------------

HANDLER(ldmxcsr_m)
{
    SSE_ENTER;
    ADDRESS(lin, 4, X86_READ);
    LOAD(uint32_t, value, lin);
    if (X86_UNLIKELY(value & ~X86_MXCSR_VALID))
        return x86_raise(cpu, i, X86_GP, 0);
    cpu->mxcsr = value;
    NEXT(cpu, i);
}

HANDLER(stmxcsr_m)
{
    SSE_ENTER;
    ADDRESS(lin, 4, X86_WRITE);
    STORE(uint32_t, lin, cpu->mxcsr);
    NEXT(cpu, i);
}

// LDMXCSR (parameter 0), STMXCSR (parameter 1).
bool x86_emit_sse_mxcsr(struct x86_emit *e, unsigned parameter)
{
    x86_emit_memory(e, &e->operand[0]);
    e->insn->fn = parameter ? stmxcsr_m : ldmxcsr_m;
    return true;
}
