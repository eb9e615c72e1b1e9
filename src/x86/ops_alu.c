// ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT (SDM vol. 2).
//
// The host's own instruction computes result and flags.
#include "x86/branch.h"
#include "x86/ops_forms.h"

enum { FORM_RR, FORM_RI, FORM_LOCK_MR, FORM_LOCK_MI, FORM_REGISTERS };

struct alu_row {
    insn_fn fixed[FORM_REGISTERS];
    struct x86_forms rm, mr, mi;
};

// op: the host's instruction. in: what comes before it ("" or CARRY_IN). out: constraint of `flags`. init:
// its value.
#define ALU_WRITING(bits, suffix, op, in, out, init)                                                         \
    HANDLER(op##bits##_rr,                                                                                   \
        uint##bits##_t a = R##bits(i->dst), b = R##bits(i->src);                                             \
        uint32_t flags init;                                                                                 \
        asm(in #op #suffix " %2, %0" FLAGS_OUT : "+r"(a), out(flags) : "r"(b) : "cc");                       \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        W##bits(i->dst, a);                                                                                  \
        NEXT(cpu, i);)                                                                                       \
    HANDLER(op##bits##_ri,                                                                                   \
        uint##bits##_t a = R##bits(i->dst), b = (uint##bits##_t)i->imm;                                      \
        uint32_t flags init;                                                                                 \
        asm(in #op #suffix " %2, %0" FLAGS_OUT : "+r"(a), out(flags) : "r"(b) : "cc");                       \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        W##bits(i->dst, a);                                                                                  \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(op##bits##_rm,                                                                            \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, b, lin);                                                                         \
        uint##bits##_t a = R##bits(i->dst);                                                                  \
        uint32_t flags init;                                                                                 \
        asm(in #op #suffix " %2, %0" FLAGS_OUT : "+r"(a), out(flags) : "r"(b) : "cc");                       \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        W##bits(i->dst, a);                                                                                  \
        NEXT(cpu, i);)                                                                                       \
    ALU_MEMORY(MEMORY_HANDLER, op##bits##_mr, "", bits, suffix, op, in, out, init, R##bits(i->src))          \
    ALU_MEMORY(MEMORY_HANDLER, op##bits##_mi, "", bits, suffix, op, in, out, init, (uint##bits##_t)i->imm)   \
    ALU_MEMORY(GENERAL_HANDLER, op##bits##_lock_mr, "lock ", bits, suffix, op, in, out, init,                \
        R##bits(i->src))                                                                                     \
    ALU_MEMORY(GENERAL_HANDLER, op##bits##_lock_mi, "lock ", bits, suffix, op, in, out, init,                \
        (uint##bits##_t)i->imm)

#define ALU_MEMORY(kind, name, lock, bits, suffix, op, in, out, init, operand)                               \
    kind(name,                                                                                               \
        AT(lin, bits / 8, X86_READ | X86_WRITE);                                                             \
        EDIT(uint##bits##_t, p, lin);                                                                        \
        uint##bits##_t b = operand;                                                                          \
        uint32_t flags init;                                                                                 \
        asm volatile(in lock #op #suffix " %2, %0" FLAGS_OUT : "+m"(*p), out(flags) : "r"(b) : "cc");        \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        EDITED();                                                                                            \
        NEXT(cpu, i);)

// CMP and TEST.
#define ALU_COMPARING(bits, suffix, op)                                                                      \
    HANDLER(op##bits##_rr,                                                                                   \
        uint32_t flags;                                                                                      \
        asm(#op #suffix " %2, %1" FLAGS_OUT                                                                  \
            : "=&a"(flags) : "r"(R##bits(i->dst)), "r"(R##bits(i->src)) : "cc");                             \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        NEXT(cpu, i);)                                                                                       \
    HANDLER(op##bits##_ri,                                                                                   \
        uint32_t flags;                                                                                      \
        asm(#op #suffix " %2, %1" FLAGS_OUT                                                                  \
            : "=&a"(flags) : "r"(R##bits(i->dst)), "r"((uint##bits##_t)i->imm) : "cc");                      \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(op##bits##_rm,                                                                            \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, b, lin);                                                                         \
        uint32_t flags;                                                                                      \
        asm(#op #suffix " %2, %1" FLAGS_OUT : "=&a"(flags) : "r"(R##bits(i->dst)), "r"(b) : "cc");           \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(op##bits##_mr,                                                                            \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, a, lin);                                                                         \
        uint32_t flags;                                                                                      \
        asm(#op #suffix " %2, %1" FLAGS_OUT : "=&a"(flags) : "r"(a), "r"(R##bits(i->src)) : "cc");           \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(op##bits##_mi,                                                                            \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, a, lin);                                                                         \
        uint32_t flags;                                                                                      \
        asm(#op #suffix " %2, %1" FLAGS_OUT : "=&a"(flags) : "r"(a), "r"((uint##bits##_t)i->imm) : "cc");    \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        NEXT(cpu, i);)

#define NO_INIT
#define FLAGS_INIT = cpu->oszapc

FOR_SIZES(ALU_WRITING, add, "", "=&a", NO_INIT)
FOR_SIZES(ALU_WRITING, or, "", "=&a", NO_INIT)
FOR_SIZES(ALU_WRITING, adc, CARRY_IN, "+&a", FLAGS_INIT)
FOR_SIZES(ALU_WRITING, sbb, CARRY_IN, "+&a", FLAGS_INIT)
FOR_SIZES(ALU_WRITING, and, "", "=&a", NO_INIT)
FOR_SIZES(ALU_WRITING, sub, "", "=&a", NO_INIT)
FOR_SIZES(ALU_WRITING, xor, "", "=&a", NO_INIT)
FOR_SIZES(ALU_COMPARING, cmp)
FOR_SIZES(ALU_COMPARING, test)

#define ROW_WRITING(bits, suffix, op)                                                                        \
    { { op##bits##_rr, op##bits##_ri, op##bits##_lock_mr, op##bits##_lock_mi },                              \
      FORMS(op##bits##_rm), FORMS(op##bits##_mr), FORMS(op##bits##_mi) },
#define ROW_COMPARING(bits, suffix, op)                                                                      \
    { { op##bits##_rr, op##bits##_ri, NULL, NULL },                                                          \
      FORMS(op##bits##_rm), FORMS(op##bits##_mr), FORMS(op##bits##_mi) },

// In the order of the opcode map; ops_integer.def names the rows by number.
enum { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST, ALU_OPS };

static const struct alu_row alu_rows[ALU_OPS][4] = {
    { FOR_SIZES(ROW_WRITING, add) }, { FOR_SIZES(ROW_WRITING, or) }, { FOR_SIZES(ROW_WRITING, adc) },
    { FOR_SIZES(ROW_WRITING, sbb) }, { FOR_SIZES(ROW_WRITING, and) }, { FOR_SIZES(ROW_WRITING, sub) },
    { FOR_SIZES(ROW_WRITING, xor) }, { FOR_SIZES(ROW_COMPARING, cmp) }, { FOR_SIZES(ROW_COMPARING, test) },
};

// XOR and SUB of a register with itself: the way to write 0. AF is clear after SUB, undefined after XOR.
HANDLER(zero32,
    R64(i->dst) = 0;
    cpu->oszapc = X86_HOST_ZF | X86_HOST_PF;
    NEXT(cpu, i);)

HANDLER(test32_same,
    uint32_t flags;
    uint32_t a = R32(i->dst);
    asm("testl %1, %1" FLAGS_OUT : "=&a"(flags) : "r"(a) : "cc");
    cpu->oszapc = (uint16_t)flags;
    NEXT(cpu, i);)

HANDLER(test64_same,
    uint32_t flags;
    uint64_t a = R64(i->dst);
    asm("testq %1, %1" FLAGS_OUT : "=&a"(flags) : "r"(a) : "cc");
    cpu->oszapc = (uint16_t)flags;
    NEXT(cpu, i);)

static insn_fn same_register(unsigned op, unsigned size)
{
    if (size < 2)
        return NULL;
    if (op == ALU_XOR || op == ALU_SUB)
        return zero32;
    if (op == ALU_TEST)
        return size == 2 ? test32_same : test64_same;
    return NULL;
}

#define COMPARISON(bits, suffix, op) \
    { op##bits##_rr, op##bits##_ri, NULL, FORMS(op##bits##_rm), FORMS(op##bits##_mr), FORMS(op##bits##_mi) },
#define COMPARISON_SAME(bits, same) \
    { test##bits##_rr, test##bits##_ri, same, FORMS(test##bits##_rm), FORMS(test##bits##_mr), FORMS(test##bits##_mi) },
const struct x86_comparison_row x86_comparisons[X86_COMPARISONS][4] = {
    { FOR_SIZES(COMPARISON, cmp) },
    { COMPARISON_SAME(8, NULL) COMPARISON_SAME(16, NULL) COMPARISON_SAME(32, test32_same)
      COMPARISON_SAME(64, test64_same) },
};

bool x86_emit_alu(struct x86_emit *e, unsigned op)
{
    const ZydisDecodedOperand *to = &e->operand[0], *from = &e->operand[1];
    unsigned size = x86_operand_size_index(to);
    const struct alu_row *row = &alu_rows[op][size];
    bool lock = e->insn->flags & INSN_LOCK;
    if (x86_is_immediate(from))
        e->insn->imm = from->imm.value.u;
    else if (x86_is_register(from))
        e->insn->src = x86_emit_gpr(from->reg.value);
    if (x86_is_memory(to)) {
        if (!x86_emit_form(e, to, x86_is_immediate(from) ? &row->mi : &row->mr))
            return false;
        return !lock || x86_emit_fn(e, row->fixed[x86_is_immediate(from) ? FORM_LOCK_MI : FORM_LOCK_MR]);
    }
    if (lock)
        return false;
    e->insn->dst = x86_emit_gpr(to->reg.value);
    if (x86_is_memory(from))
        return x86_emit_form(e, from, &row->rm);
    if (x86_is_immediate(from))
        return x86_emit_fn(e, row->fixed[FORM_RI]);
    insn_fn same = e->insn->dst == e->insn->src ? same_register(op, size) : NULL;
    return x86_emit_fn(e, same ? same : row->fixed[FORM_RR]);
}

// ---- One operand ------------------------------------------------------------------------------------------

struct unary_row { insn_fn r, lock_m; struct x86_forms m; };

#define UNARY(bits, suffix, op, in, out, init)                                                               \
    HANDLER(op##bits##_r,                                                                                    \
        uint##bits##_t a = R##bits(i->dst);                                                                  \
        uint32_t flags init;                                                                                 \
        asm(in #op #suffix " %0" FLAGS_OUT : "+r"(a), out(flags) : : "cc");                                  \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        W##bits(i->dst, a);                                                                                  \
        NEXT(cpu, i);)                                                                                       \
    UNARY_MEMORY(MEMORY_HANDLER, op##bits##_m, "", bits, suffix, op, in, out, init)                          \
    UNARY_MEMORY(GENERAL_HANDLER, op##bits##_lock_m, "lock ", bits, suffix, op, in, out, init)

#define UNARY_MEMORY(kind, name, lock, bits, suffix, op, in, out, init)                                      \
    kind(name,                                                                                               \
        AT(lin, bits / 8, X86_READ | X86_WRITE);                                                             \
        EDIT(uint##bits##_t, p, lin);                                                                        \
        uint32_t flags init;                                                                                 \
        asm volatile(in lock #op #suffix " %0" FLAGS_OUT : "+m"(*p), out(flags) : : "cc");                   \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        EDITED();                                                                                            \
        NEXT(cpu, i);)

// NOT changes no flags.
#define NOT(bits, suffix, ...)                                                                               \
    HANDLER(not##bits##_r,                                                                                   \
        W##bits(i->dst, ~R##bits(i->dst));                                                                   \
        NEXT(cpu, i);)                                                                                       \
    NOT_MEMORY(MEMORY_HANDLER, not##bits##_m, "", bits, suffix)                                              \
    NOT_MEMORY(GENERAL_HANDLER, not##bits##_lock_m, "lock ", bits, suffix)

#define NOT_MEMORY(kind, name, lock, bits, suffix)                                                           \
    kind(name,                                                                                               \
        AT(lin, bits / 8, X86_READ | X86_WRITE);                                                             \
        EDIT(uint##bits##_t, p, lin);                                                                        \
        asm volatile(lock "not" #suffix " %0" : "+m"(*p));                                                   \
        EDITED();                                                                                            \
        NEXT(cpu, i);)

FOR_SIZES(UNARY, inc, CARRY_IN, "+&a", FLAGS_INIT)
FOR_SIZES(UNARY, dec, CARRY_IN, "+&a", FLAGS_INIT)
FOR_SIZES(UNARY, neg, "", "=&a", NO_INIT)
FOR_SIZES(NOT, not)

#define ROW_UNARY(bits, suffix, op) { op##bits##_r, op##bits##_lock_m, FORMS(op##bits##_m) },

static const struct unary_row unary_rows[4][4] = {
    { FOR_SIZES(ROW_UNARY, inc) }, { FOR_SIZES(ROW_UNARY, dec) },
    { FOR_SIZES(ROW_UNARY, neg) }, { FOR_SIZES(ROW_UNARY, not) },
};

bool x86_emit_unary(struct x86_emit *e, unsigned op)
{
    const ZydisDecodedOperand *to = &e->operand[0];
    const struct unary_row *row = &unary_rows[op][x86_operand_size_index(to)];
    bool lock = e->insn->flags & INSN_LOCK;
    if (x86_is_memory(to))
        return x86_emit_form(e, to, &row->m) && (!lock || x86_emit_fn(e, row->lock_m));
    e->insn->dst = x86_emit_gpr(to->reg.value);
    return !lock && x86_emit_fn(e, row->r);
}
