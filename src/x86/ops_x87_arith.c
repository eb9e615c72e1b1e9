// x87 arithmetic, comparison and transcendental instructions. How they run is told in ops_x87.h.
#include "x86/ops_x87.h"

// ---- Arithmetic: dst = dst op source ------------------------------------------------------------

// A memory operand of a host instruction is a variable in a scope of its own: alive until the end of the
// handler, it would keep the compiler from turning the last call into a jump.

// `pops`: of the register forms that store to ST(i).
#define REGISTER_FORM(name, op, to, from, pops)                                                      \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        x87_last(cpu, i);                                                                            \
        unsigned dst = to, src = from;                                                               \
        if (X86_UNLIKELY(x87_empty(cpu, dst) || x87_empty(cpu, src))) {                              \
            x87_underflow(cpu, dst, pops);                                                           \
            NEXT(cpu, i);                                                                            \
        }                                                                                            \
        long double a = cpu->fpu.st[dst], b = cpu->fpu.st[src], r;                                   \
        uint16_t status;                                                                             \
        X87_HOST("f" op " %3, %0" X87_STATUS : "=t"(r), "=a"(status) : "0"(a), "u"(b));              \
        if (X86_LIKELY(x87_flags(cpu, status))) {                                                    \
            cpu->fpu.st[dst] = r;                                                                    \
            if (pops)                                                                                \
                x87_pop(cpu);                                                                        \
        }                                                                                            \
        NEXT(cpu, i);                                                                                \
    }
#define MEMORY_FORM(name, op, type)                                                                  \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        ADDRESS(lin, sizeof(type), X86_READ);                                                        \
        LOAD(type, b, lin);                                                                          \
        x87_last_memory(cpu, i, lin);                                                                \
        unsigned dst = x87_st(cpu, 0);                                                               \
        if (X86_UNLIKELY(x87_empty(cpu, dst))) {                                                     \
            x87_underflow(cpu, dst, 0);                                                              \
            NEXT(cpu, i);                                                                            \
        }                                                                                            \
        long double a = cpu->fpu.st[dst], r;                                                         \
        uint16_t status;                                                                             \
        {                                                                                            \
            type operand = b;                                                                        \
            X87_HOST("f" op " %3" X87_STATUS : "=t"(r), "=a"(status) : "0"(a), "m"(operand));        \
        }                                                                                            \
        if (X86_LIKELY(x87_flags(cpu, status)))                                                      \
            cpu->fpu.st[dst] = r;                                                                    \
        NEXT(cpu, i);                                                                                \
    }
#define ARITH(op)                                                                                    \
    REGISTER_FORM(f##op##_st0_sti, #op, x87_st(cpu, 0), x87_st(cpu, i->src), 0)                      \
    REGISTER_FORM(f##op##_sti_st0, #op, x87_st(cpu, i->src), x87_st(cpu, 0), 0)                      \
    REGISTER_FORM(f##op##p, #op, x87_st(cpu, i->src), x87_st(cpu, 0), 1)                             \
    MEMORY_FORM(f##op##_m32, #op "s", uint32_t)                                                      \
    MEMORY_FORM(f##op##_m64, #op "l", uint64_t)                                                      \
    MEMORY_FORM(fi##op##_m16, "i" #op "s", uint16_t)                                                 \
    MEMORY_FORM(fi##op##_m32, "i" #op "l", uint32_t)

ARITH(add)
ARITH(mul)
ARITH(sub)
ARITH(subr)
ARITH(div)
ARITH(divr)

// The parameter is the operation, in the order of `arith`. The form follows from the opcode: D8 and DC have
// the real operands or ST(i), DA and DE the integers or the popping forms.
struct arith_forms { insn_fn st0_sti, sti_st0, pop, m32, m64, i16, i32; };
#define ARITH_FORMS(op)                                                                              \
    { f##op##_st0_sti, f##op##_sti_st0, f##op##p, f##op##_m32, f##op##_m64, fi##op##_m16, fi##op##_m32 }

bool x86_emit_x87_arith(struct x86_emit *e, unsigned parameter)
{
    static const struct arith_forms arith[] = { ARITH_FORMS(add), ARITH_FORMS(mul), ARITH_FORMS(sub),
                                                ARITH_FORMS(subr), ARITH_FORMS(div), ARITH_FORMS(divr) };
    const struct arith_forms *forms = &arith[parameter];
    bool memory = x87_emit_operands(e);

    switch (e->z->opcode) {
    case 0xd8: e->insn->fn = memory ? forms->m32 : forms->st0_sti; break;
    case 0xdc: e->insn->fn = memory ? forms->m64 : forms->sti_st0; break;
    case 0xda: e->insn->fn = forms->i32; break;
    case 0xde: e->insn->fn = memory ? forms->i16 : forms->pop; break;
    default: return false;
    }
    return true;
}

// ---- Comparison ---------------------------------------------------------------------------------

// The result of a comparison is there with an unmasked exception too; only the pops are left out.
#define COMPARED (X87_C0 | X87_C2 | X87_C3)

static void compare_done(struct x86_cpu *cpu, uint16_t status, unsigned pops)
{
    x87_condition(cpu, status, COMPARED);
    if (!x87_flags(cpu, status))
        return;
    while (pops--)
        x87_pop(cpu);
}

static void compare_underflow(struct x86_cpu *cpu, unsigned pops)
{
    cpu->fpu.fsw |= COMPARED;
    if (!x87_stack_fault(cpu, false))
        return;
    while (pops--)
        x87_pop(cpu);
}

// The number of pops is insn->dst.
#define COMPARE_REGISTER(name, op)                                                                   \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        x87_last(cpu, i);                                                                            \
        unsigned dst = x87_st(cpu, 0), src = x87_st(cpu, i->src);                                    \
        if (X86_UNLIKELY(x87_empty(cpu, dst) || x87_empty(cpu, src))) {                              \
            compare_underflow(cpu, i->dst);                                                          \
            NEXT(cpu, i);                                                                            \
        }                                                                                            \
        uint16_t status;                                                                             \
        X87_HOST(op " %2" X87_STATUS : "=a"(status) : "t"(cpu->fpu.st[dst]), "u"(cpu->fpu.st[src])); \
        compare_done(cpu, status, i->dst);                                                           \
        NEXT(cpu, i);                                                                                \
    }
#define COMPARE_MEMORY(name, op, type)                                                               \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        ADDRESS(lin, sizeof(type), X86_READ);                                                        \
        LOAD(type, b, lin);                                                                          \
        x87_last_memory(cpu, i, lin);                                                                \
        unsigned dst = x87_st(cpu, 0);                                                               \
        if (X86_UNLIKELY(x87_empty(cpu, dst))) {                                                     \
            compare_underflow(cpu, i->dst);                                                          \
            NEXT(cpu, i);                                                                            \
        }                                                                                            \
        uint16_t status;                                                                             \
        {                                                                                            \
            type operand = b;                                                                        \
            X87_HOST(op " %2" X87_STATUS : "=a"(status) : "t"(cpu->fpu.st[dst]), "m"(operand));      \
        }                                                                                            \
        compare_done(cpu, status, i->dst);                                                           \
        NEXT(cpu, i);                                                                                \
    }

COMPARE_REGISTER(fcom_sti, "fcom")
COMPARE_REGISTER(fucom_sti, "fucom")
COMPARE_MEMORY(fcom_m32, "fcoms", uint32_t)
COMPARE_MEMORY(fcom_m64, "fcoml", uint64_t)
COMPARE_MEMORY(ficom_m16, "ficoms", uint16_t)
COMPARE_MEMORY(ficom_m32, "ficoml", uint32_t)

// FCOM, FICOM and what pops after them; the parameter is the number of pops.
bool x86_emit_x87_compare(struct x86_emit *e, unsigned parameter)
{
    bool memory = x87_emit_operands(e);
    e->insn->dst = (uint8_t)parameter;
    e->insn->fn = fcom_sti;
    if (!memory)
        return true;
    switch (e->z->opcode) {
    case 0xd8: e->insn->fn = fcom_m32; break;
    case 0xdc: e->insn->fn = fcom_m64; break;
    case 0xda: e->insn->fn = ficom_m32; break;
    case 0xde: e->insn->fn = ficom_m16; break;
    default: return false;
    }
    return true;
}

bool x86_emit_x87_compare_unordered(struct x86_emit *e, unsigned parameter)
{
    x87_emit_operands(e);
    e->insn->dst = (uint8_t)parameter;
    e->insn->fn = fucom_sti;
    return true;
}

#define COMPARE_FLAGS(name, op)                                                                      \
    HANDLER(x87_##name)                                                                              \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        x87_last(cpu, i);                                                                            \
        unsigned dst = x87_st(cpu, 0), src = x87_st(cpu, i->src);                                    \
        uint16_t status, flags = X86_HOST_ZF | X86_HOST_PF | X86_HOST_CF;                            \
        bool masked;                                                                                 \
        if (X86_UNLIKELY(x87_empty(cpu, dst) || x87_empty(cpu, src))) {                              \
            masked = x87_stack_fault(cpu, false);                                                    \
        } else {                                                                                     \
            X87_HOST(op " %3, %2\n\tlahf\n\tseto %%al\n\tmovw %%ax, %1" X87_STATUS                   \
                     : "=a"(status), "=&r"(flags) : "t"(cpu->fpu.st[dst]), "u"(cpu->fpu.st[src]));   \
            masked = x87_flags(cpu, status);                                                         \
        }                                                                                            \
        cpu->oszapc = flags;                                                                         \
        cpu->fpu.fsw &= (uint16_t)~X87_C1;                                                           \
        if (i->dst && masked)                                                                        \
            x87_pop(cpu);                                                                            \
        NEXT(cpu, i);                                                                                \
    }
COMPARE_FLAGS(fcomi, "fcomi")
COMPARE_FLAGS(fucomi, "fucomi")

// Bit 0: pop; bit 1: unordered.
bool x86_emit_x87_compare_flags(struct x86_emit *e, unsigned parameter)
{
    x87_emit_operands(e);
    e->insn->dst = parameter & 1;
    e->insn->fn = parameter & 2 ? x87_fucomi : x87_fcomi;
    return true;
}

HANDLER(x87_ftst)
{
    X87_ENTER;
    x87_last(cpu, i);
    unsigned dst = x87_st(cpu, 0);
    if (X86_UNLIKELY(x87_empty(cpu, dst))) {
        compare_underflow(cpu, 0);
        NEXT(cpu, i);
    }
    uint16_t status;
    X87_HOST("ftst" X87_STATUS : "=a"(status) : "t"(cpu->fpu.st[dst]));
    compare_done(cpu, status, 0);
    NEXT(cpu, i);
}

// C1 is the sign, of an empty register too.
HANDLER(x87_fxam)
{
    X87_ENTER;
    x87_last(cpu, i);
    unsigned dst = x87_st(cpu, 0);
    uint16_t status;
    asm volatile("fxam\n\tfnstsw %%ax" : "=a"(status) : "t"(cpu->fpu.st[dst]));
    if (x87_empty(cpu, dst))
        status = (uint16_t)((status & X87_C1) | X87_C3 | X87_C0);
    x87_condition(cpu, status, X87_CONDITION);
    NEXT(cpu, i);
}

// ---- Functions of ST(0) -------------------------------------------------------------------------

// `condition`: which condition bits beside C1 the instruction defines.
#define UNARY(name, condition)                                                                       \
    HANDLER(x87_##name)                                                                              \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        x87_last(cpu, i);                                                                            \
        unsigned dst = x87_st(cpu, 0);                                                               \
        if (X86_UNLIKELY(x87_empty(cpu, dst))) {                                                     \
            x87_condition(cpu, 0, (condition) & X87_C2);                                             \
            x87_underflow(cpu, dst, 0);                                                              \
            NEXT(cpu, i);                                                                            \
        }                                                                                            \
        long double a = cpu->fpu.st[dst], r;                                                         \
        uint16_t status;                                                                             \
        X87_HOST(#name X87_STATUS : "=t"(r), "=a"(status) : "0"(a));                                 \
        x87_condition(cpu, status, condition);                                                       \
        if (X86_LIKELY(x87_flags(cpu, status)))                                                      \
            cpu->fpu.st[dst] = r;                                                                    \
        NEXT(cpu, i);                                                                                \
    }
UNARY(fabs, 0)
UNARY(fchs, 0)
UNARY(fsqrt, 0)
UNARY(frndint, 0)
UNARY(f2xm1, 0)
UNARY(fsin, X87_C2)
UNARY(fcos, X87_C2)

// ---- Functions of ST(0) and ST(1): the result replaces ST(0), or ST(1) with ST(0) popped --------

// The bits of the quotient are left alone where there is none; C2 is cleared then.
#define BINARY(name, condition)                                                                      \
    HANDLER(x87_##name)                                                                              \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        x87_last(cpu, i);                                                                            \
        unsigned dst = x87_st(cpu, 0), second = x87_st(cpu, 1);                                      \
        if (X86_UNLIKELY(x87_empty(cpu, dst) || x87_empty(cpu, second))) {                           \
            x87_condition(cpu, 0, (condition) & X87_C2);                                             \
            x87_underflow(cpu, dst, 0);                                                              \
            NEXT(cpu, i);                                                                            \
        }                                                                                            \
        long double a = cpu->fpu.st[dst], b = cpu->fpu.st[second], r;                                \
        uint16_t status;                                                                             \
        X87_HOST(#name X87_STATUS : "=t"(r), "=a"(status) : "0"(a), "u"(b));                         \
        bool number = r == r && !(x87_unmasked(cpu, status) & X87_OPERAND_EXCEPTIONS);               \
        x87_condition(cpu, number ? status : 0, (condition) & (number ? ~0u : X87_C2));              \
        if (X86_LIKELY(x87_flags(cpu, status)))                                                      \
            cpu->fpu.st[dst] = r;                                                                    \
        NEXT(cpu, i);                                                                                \
    }
#define BINARY_POP(name)                                                                             \
    HANDLER(x87_##name)                                                                              \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        x87_last(cpu, i);                                                                            \
        unsigned first = x87_st(cpu, 0), dst = x87_st(cpu, 1);                                       \
        if (X86_UNLIKELY(x87_empty(cpu, first) || x87_empty(cpu, dst))) {                            \
            x87_underflow(cpu, dst, 1);                                                              \
            NEXT(cpu, i);                                                                            \
        }                                                                                            \
        long double a = cpu->fpu.st[first], b = cpu->fpu.st[dst], r;                                 \
        uint16_t status;                                                                             \
        X87_HOST(#name X87_STATUS : "=t"(r), "=a"(status) : "0"(a), "u"(b) : "st(1)", "cc");         \
        if (X86_LIKELY(x87_flags(cpu, status))) {                                                    \
            cpu->fpu.st[dst] = r;                                                                    \
            x87_pop(cpu);                                                                            \
        }                                                                                            \
        NEXT(cpu, i);                                                                                \
    }
BINARY(fscale, 0)
BINARY(fprem, X87_C0 | X87_C2 | X87_C3)
BINARY(fprem1, X87_C0 | X87_C2 | X87_C3)
BINARY_POP(fpatan)
BINARY_POP(fyl2x)
BINARY_POP(fyl2xp1)

// ---- Functions of ST(0) with two results: one replaces ST(0), the other is pushed ---------------

// With C2 set the operand was out of range and nothing was pushed: the asm pushes something to keep the
// compiler's count.
#define TWO_RESULTS(name, fill)                                                                      \
    HANDLER(x87_##name)                                                                              \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        x87_last(cpu, i);                                                                            \
        unsigned dst = x87_st(cpu, 0);                                                               \
        bool underflow = x87_empty(cpu, dst), overflow = !x87_empty(cpu, x87_st(cpu, 7));            \
        if (X86_UNLIKELY(underflow || overflow)) {                                                   \
            x87_condition(cpu, 0, X87_C2);                                                           \
            if (x87_stack_fault(cpu, !underflow)) {                                                  \
                x87_set(cpu, dst, x87_indefinite());                                                 \
                x87_push(cpu, x87_indefinite());                                                     \
            }                                                                                        \
            NEXT(cpu, i);                                                                            \
        }                                                                                            \
        long double a = cpu->fpu.st[dst], first, second;                                             \
        uint16_t status;                                                                             \
        X87_HOST(#name X87_STATUS fill : "=t"(second), "=u"(first), "=a"(status) : "0"(a));          \
        x87_condition(cpu, status, X87_C2);                                                          \
        if (X86_LIKELY(x87_flags(cpu, status) && !(status & X87_C2))) {                              \
            cpu->fpu.st[dst] = first;                                                                \
            x87_push(cpu, second);                                                                   \
        }                                                                                            \
        NEXT(cpu, i);                                                                                \
    }
#define FILL "\n\ttestb $4, %%ah\n\tjz 2f\n\tfldz\n2:"
TWO_RESULTS(fsincos, FILL)
TWO_RESULTS(fptan, FILL)

HANDLER(x87_fxtract)
{
    X87_ENTER;
    x87_last(cpu, i);
    unsigned dst = x87_st(cpu, 0);
    bool underflow = x87_empty(cpu, dst), overflow = !x87_empty(cpu, x87_st(cpu, 7));
    if (X86_UNLIKELY(underflow || overflow)) {
        if (x87_stack_fault(cpu, !underflow)) {
            x87_set(cpu, dst, x87_indefinite());
            x87_push(cpu, x87_indefinite());
        }
        NEXT(cpu, i);
    }
    long double a = cpu->fpu.st[dst], exponent, significand;
    uint16_t status;
    X87_HOST("fxtract" X87_STATUS : "=t"(significand), "=u"(exponent), "=a"(status) : "0"(a));
    if (X86_LIKELY(x87_flags(cpu, status))) {
        cpu->fpu.st[dst] = exponent;
        x87_push(cpu, significand);
    }
    NEXT(cpu, i);
}

// The parameter is the place in this list.
bool x86_emit_x87_function(struct x86_emit *e, unsigned parameter)
{
    static const insn_fn functions[] = {
        x87_ftst, x87_fxam, x87_fabs, x87_fchs, x87_fsqrt, x87_frndint, x87_f2xm1, x87_fsin, x87_fcos,
        x87_fscale, x87_fprem, x87_fprem1, x87_fpatan, x87_fyl2x, x87_fyl2xp1, x87_fsincos, x87_fptan,
        x87_fxtract
    };
    x87_emit_operands(e);
    e->insn->fn = functions[parameter];
    return true;
}
