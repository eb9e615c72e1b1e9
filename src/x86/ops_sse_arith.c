// SSE and SSE2 floating-point arithmetic, comparison and conversion. How they run is told in ops_sse.h.
#include "x86/ops_sse.h"

void x86_sse_begin(const struct x86_cpu *cpu)
{
    uint32_t control = (cpu->mxcsr & ~X86_MXCSR_FLAGS) | X86_MXCSR_MASKS;
    if (!(cpu->mxcsr & X86_MXCSR_UM))   // flush-to-zero needs underflow masked (SDM vol. 1 10.2.3.3)
        control &= ~X86_MXCSR_FTZ;
    sse_set_host_mxcsr(control);
}

static bool sse_denormal(__m128i value, enum sse_kind kind)
{
    union x86_vec v;
    memcpy(v.u8, &value, 16);
    if (kind == SSE_SINGLE || kind == SSE_PACKED_SINGLE) {
        for (unsigned n = 0; n < (kind == SSE_SINGLE ? 1 : 4); n++)
            if (!(v.u32[n] & 0x7f800000u) && (v.u32[n] & 0x007fffffu))
                return true;
    } else if (kind == SSE_DOUBLE || kind == SSE_PACKED_DOUBLE) {
        for (unsigned n = 0; n < (kind == SSE_DOUBLE ? 1 : 2); n++)
            if (!(v.u64[n] & 0x7ff0000000000000u) && (v.u64[n] & 0x000fffffffffffffu))
                return true;
    }
    return false;
}

bool x86_sse_finish(struct x86_cpu *cpu, uint32_t host, __m128i result, enum sse_kind kind)
{
    uint32_t flags = sse_host_mxcsr() & X86_MXCSR_FLAGS;
    uint32_t unmasked = ~(cpu->mxcsr >> X86_MXCSR_MASK_SHIFT) & X86_MXCSR_FLAGS;

    // The inexact flag is that of the masked result, also where an unmasked overflow or underflow is raised
    // in its place. Masked underflow needs a tiny and inexact result, unmasked underflow only a tiny one
    // (SDM vol. 1 4.9.1.5).
    if ((unmasked & X87_UE) && sse_denormal(result, kind))
        flags |= X87_UE;
    // With an unmasked exception of the operands nothing is computed that could overflow or be inexact (SDM
    // vol. 1 11.5.1).
    if (flags & unmasked & (X87_IE | X87_DE | X87_ZE))
        flags &= X87_IE | X87_DE | X87_ZE;
    cpu->mxcsr |= flags;
    sse_set_host_mxcsr((host & ~X86_MXCSR_FLAGS) | (cpu->mxcsr & X86_MXCSR_FLAGS));
    if (flags & unmasked)
        return x86_fault(cpu, cpu->cr4 & X86_CR4_OSXMMEXCPT ? X86_XM : X86_UD, -1);
    return true;
}

// ---- dst = dst op source ------------------------------------------------------------------------

#define ARITH_FORM(name, source, op, kind)                                                           \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        source;                                                                                      \
        __m128i r;                                                                                   \
        SSE_RUN(r = XMM(i->dst); asm volatile(op " %1, %0" : "+x"(r) : "x"(b)), r, kind);            \
        XMM(i->dst) = r;                                                                             \
        NEXT(cpu, i);                                                                                \
    }
#define ARITH(name, memory, kind)                                                                    \
    ARITH_FORM(name##_x, SSE_SOURCE_X, #name, kind)                                                  \
    ARITH_FORM(name##_m, memory, #name, kind)                                                        \
    SSE_EMITTER(name)
#define ARITH4(name, underflow)                                                                      \
    ARITH(name##ps, SSE_SOURCE_M128, underflow##SSE_PACKED_SINGLE)                                   \
    ARITH(name##pd, SSE_SOURCE_M128, underflow##SSE_PACKED_DOUBLE)                                   \
    ARITH(name##ss, SSE_SOURCE_M32, underflow##SSE_SINGLE)                                           \
    ARITH(name##sd, SSE_SOURCE_M64, underflow##SSE_DOUBLE)
#define NEVER_SSE_PACKED_SINGLE SSE_NO_UNDERFLOW
#define NEVER_SSE_PACKED_DOUBLE SSE_NO_UNDERFLOW
#define NEVER_SSE_SINGLE SSE_NO_UNDERFLOW
#define NEVER_SSE_DOUBLE SSE_NO_UNDERFLOW

ARITH4(add, )
ARITH4(sub, )
ARITH4(mul, )
ARITH4(div, )
ARITH4(min, NEVER_)
ARITH4(max, NEVER_)
ARITH4(sqrt, NEVER_)

// Conversions within XMM registers. The destination's old value matters for the scalar ones alone.
ARITH(cvtps2pd, SSE_SOURCE_M64, SSE_NO_UNDERFLOW)
ARITH(cvtpd2ps, SSE_SOURCE_M128, SSE_PACKED_SINGLE)
ARITH(cvtss2sd, SSE_SOURCE_M32, SSE_NO_UNDERFLOW)
ARITH(cvtsd2ss, SSE_SOURCE_M64, SSE_SINGLE)
ARITH(cvtdq2ps, SSE_SOURCE_M128, SSE_NO_UNDERFLOW)
ARITH(cvtps2dq, SSE_SOURCE_M128, SSE_NO_UNDERFLOW)
ARITH(cvttps2dq, SSE_SOURCE_M128, SSE_NO_UNDERFLOW)
ARITH(cvtpd2dq, SSE_SOURCE_M128, SSE_NO_UNDERFLOW)
ARITH(cvttpd2dq, SSE_SOURCE_M128, SSE_NO_UNDERFLOW)

// No exceptions at all, whatever the operands: CVTDQ2PD is exact, the approximations report nothing.
#define QUIET(name, memory)                                                                          \
    SSE_BINARY_FORM(name##_x, SSE_SOURCE_X, #name)                                                   \
    SSE_BINARY_FORM(name##_m, memory, #name)                                                         \
    SSE_EMITTER(name)
QUIET(cvtdq2pd, SSE_SOURCE_M64)

// The approximations do look at denormals-are-zero, flush-to-zero and so at MXCSR: run them like the others.
ARITH(rcpps, SSE_SOURCE_M128, SSE_NO_UNDERFLOW)
ARITH(rcpss, SSE_SOURCE_M32, SSE_NO_UNDERFLOW)
ARITH(rsqrtps, SSE_SOURCE_M128, SSE_NO_UNDERFLOW)
ARITH(rsqrtss, SSE_SOURCE_M32, SSE_NO_UNDERFLOW)

// ---- CMPxx: the predicate is part of the host's instruction, so a handler for each --------------

#define COMPARE_FORM(name, source, op, predicate)                                                    \
    ARITH_FORM(name, source, op " $" #predicate ",", SSE_NO_UNDERFLOW)
#define COMPARE_EIGHT(name, source, op)                                                              \
    COMPARE_FORM(name##0, source, op, 0) COMPARE_FORM(name##1, source, op, 1)                        \
    COMPARE_FORM(name##2, source, op, 2) COMPARE_FORM(name##3, source, op, 3)                        \
    COMPARE_FORM(name##4, source, op, 4) COMPARE_FORM(name##5, source, op, 5)                        \
    COMPARE_FORM(name##6, source, op, 6) COMPARE_FORM(name##7, source, op, 7)
#define EIGHT(name) { name##0, name##1, name##2, name##3, name##4, name##5, name##6, name##7 }
#define COMPARE(name, memory, emitter)                                                               \
    COMPARE_EIGHT(name##_x, SSE_SOURCE_X, #name)                                                     \
    COMPARE_EIGHT(name##_m, memory, #name)                                                           \
    bool emitter(struct x86_emit *e, unsigned parameter)                                             \
    {                                                                                                \
        static const insn_fn registers[8] = EIGHT(name##_x), load[8] = EIGHT(name##_m);              \
        unsigned predicate = e->operand[2].imm.value.u & 7;                                          \
        (void)parameter;                                                                             \
        return x86_sse_emit(e, registers[predicate], load[predicate], NULL);                         \
    }

COMPARE(cmpps, SSE_SOURCE_M128, x86_emit_cmpps)
COMPARE(cmppd, SSE_SOURCE_M128, x86_emit_cmppd)
COMPARE(cmpss, SSE_SOURCE_M32, x86_emit_cmpss)
COMPARE(cmpsd, SSE_SOURCE_M64, x86_emit_sse_cmpsd)

// ---- Comparisons into the flags -----------------------------------------------------------------

#define FLAGS_FORM(name, source, op)                                                                 \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        source;                                                                                      \
        uint16_t flags;                                                                              \
        __m128i a = XMM(i->dst);                                                                     \
        SSE_RUN(asm volatile(op " %2, %1\n\tlahf\n\tseto %%al" : "=&a"(flags) : "x"(a), "x"(b) : "cc"), \
                b, SSE_NO_UNDERFLOW);                                                                \
        cpu->oszapc = flags;                                                                         \
        NEXT(cpu, i);                                                                                \
    }
#define FLAGS(name, memory)                                                                          \
    FLAGS_FORM(name##_x, SSE_SOURCE_X, #name)                                                        \
    FLAGS_FORM(name##_m, memory, #name)                                                              \
    SSE_EMITTER(name)

FLAGS(comiss, SSE_SOURCE_M32)
FLAGS(comisd, SSE_SOURCE_M64)
FLAGS(ucomiss, SSE_SOURCE_M32)
FLAGS(ucomisd, SSE_SOURCE_M64)

// ---- Conversions from and to general registers --------------------------------------------------

#define FROM_INTEGER_FORM(name, source, op, constraint_type)                                         \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        source;                                                                                      \
        __m128i r;                                                                                   \
        SSE_RUN(r = XMM(i->dst); asm volatile(op " %1, %0" : "+x"(r) : "r"((constraint_type)b)), r,  \
                SSE_NO_UNDERFLOW);                                                                   \
        XMM(i->dst) = r;                                                                             \
        NEXT(cpu, i);                                                                                \
    }
#define FROM_INTEGER(name)                                                                           \
    FROM_INTEGER_FORM(name##_r32, uint32_t b = R32(i->src), #name "l", uint32_t)                     \
    FROM_INTEGER_FORM(name##_r64, uint64_t b = R64(i->src), #name "q", uint64_t)                     \
    FROM_INTEGER_FORM(name##_m32, ADDRESS(lin, 4, X86_READ); LOAD(uint32_t, b, lin), #name "l", uint32_t) \
    FROM_INTEGER_FORM(name##_m64, ADDRESS(lin, 8, X86_READ); LOAD(uint64_t, b, lin), #name "q", uint64_t) \
    bool x86_emit_##name(struct x86_emit *e, unsigned parameter)                                     \
    {                                                                                                \
        bool wide = e->operand[1].size == 64;                                                        \
        (void)parameter;                                                                             \
        return x86_sse_emit(e, wide ? name##_r64 : name##_r32, wide ? name##_m64 : name##_m32, NULL); \
    }

FROM_INTEGER(cvtsi2ss)
FROM_INTEGER(cvtsi2sd)

#define TO_INTEGER_FORM(name, source, op, type)                                                      \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        source;                                                                                      \
        type r;                                                                                      \
        SSE_RUN(asm volatile(op " %1, %0" : "=r"(r) : "x"(b)), b, SSE_NO_UNDERFLOW);                 \
        R64(i->dst) = r;                                                                             \
        NEXT(cpu, i);                                                                                \
    }
#define TO_INTEGER(name, memory)                                                                     \
    TO_INTEGER_FORM(name##_r32, SSE_SOURCE_X, #name, uint32_t)                                       \
    TO_INTEGER_FORM(name##_r64, SSE_SOURCE_X, #name, uint64_t)                                       \
    TO_INTEGER_FORM(name##_m32, memory, #name, uint32_t)                                             \
    TO_INTEGER_FORM(name##_m64, memory, #name, uint64_t)                                             \
    bool x86_emit_##name(struct x86_emit *e, unsigned parameter)                                     \
    {                                                                                                \
        bool wide = e->operand[0].size == 64;                                                        \
        (void)parameter;                                                                             \
        return x86_sse_emit(e, wide ? name##_r64 : name##_r32, wide ? name##_m64 : name##_m32, NULL); \
    }

TO_INTEGER(cvtss2si, SSE_SOURCE_M32)
TO_INTEGER(cvttss2si, SSE_SOURCE_M32)
TO_INTEGER(cvtsd2si, SSE_SOURCE_M64)
TO_INTEGER(cvttsd2si, SSE_SOURCE_M64)

// ---- Conversions from and to MMX registers ------------------------------------------------------
// Done with the XMM instruction that converts the same numbers, so that the host's x87 state is left alone.
// With an MMX register they count as MMX instructions too: a pending x87 exception comes first, and the x87
// state becomes MMX state, even if the conversion then raises #XM. CVTPI2PD and CVTPI2PS from memory do not
// touch it.

#define SSE_MMX_ENTER                                                                                \
    SSE_ENTER;                                                                                       \
    if (X86_UNLIKELY(cpu->fpu.fsw & X87_ES))                                                         \
        return x86_mmx_unavailable(cpu, i)

#define CVTPI2PS_FORM(name, enter, source)                                                           \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        enter;                                                                                       \
        source;                                                                                      \
        __m128i r;                                                                                   \
        SSE_RUN(asm volatile("cvtdq2ps %1, %0" : "=x"(r) : "x"(b)), r, SSE_NO_UNDERFLOW);            \
        cpu->vec[i->dst].u64[0] = sse_low(r);                                                        \
        NEXT(cpu, i);                                                                                \
    }
CVTPI2PS_FORM(cvtpi2ps_x, SSE_MMX_ENTER, SSE_SOURCE_MMX; mmx_touch(cpu))
CVTPI2PS_FORM(cvtpi2ps_m, SSE_ENTER, SSE_SOURCE_M64)
SSE_EMITTER(cvtpi2ps)

HANDLER(cvtpi2pd_x)
{
    SSE_MMX_ENTER;
    SSE_SOURCE_MMX;
    mmx_touch(cpu);
    asm("cvtdq2pd %0, %0" : "+x"(b));
    XMM(i->dst) = b;
    NEXT(cpu, i);
}
SSE_BINARY_FORM(cvtpi2pd_m, SSE_SOURCE_M64, "cvtdq2pd")
SSE_EMITTER(cvtpi2pd)

// The upper half of a single-precision source does not count: zero converts without a flag.
#define TO_MMX_FORM(name, source, narrow, op)                                                        \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        SSE_MMX_ENTER;                                                                               \
        source;                                                                                      \
        narrow;                                                                                      \
        mmx_touch(cpu);                                                                              \
        __m128i r;                                                                                   \
        SSE_RUN(asm volatile(op " %1, %0" : "=x"(r) : "x"(b)), r, SSE_NO_UNDERFLOW);                 \
        mmx_set(cpu, i->dst, sse_low(r));                                                            \
        NEXT(cpu, i);                                                                                \
    }
#define TO_MMX(name, memory, narrow, op)                                                             \
    TO_MMX_FORM(name##_x, SSE_SOURCE_X, narrow, op)                                                  \
    TO_MMX_FORM(name##_m, memory, narrow, op)                                                        \
    SSE_EMITTER(name)
TO_MMX(cvtps2pi, SSE_SOURCE_M64, b = _mm_move_epi64(b), "cvtps2dq")
TO_MMX(cvttps2pi, SSE_SOURCE_M64, b = _mm_move_epi64(b), "cvttps2dq")
TO_MMX(cvtpd2pi, SSE_SOURCE_M128, (void)0, "cvtpd2dq")
TO_MMX(cvttpd2pi, SSE_SOURCE_M128, (void)0, "cvttpd2dq")
