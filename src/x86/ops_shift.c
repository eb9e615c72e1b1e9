// Shifts and rotates: SHL SHR SAR ROL ROR RCL RCR, SHLD SHRD (SDM vol. 2).
//
// The host's instruction runs with the guest's flags in place, so that a count of 0 and the flags which an
// instruction keeps come out right by themselves. The host masks the count as the guest's processor would.
#include "x86/ops_forms.h"

enum { SHIFT_BY_IMMEDIATE, SHIFT_BY_CL };

struct shift_row { insn_fn r[2]; struct x86_forms m[2]; };

#define SHIFT_REGISTER(name, bits, suffix, op, count)                                                        \
    HANDLER(name,                                                                                            \
        uint##bits##_t a = R##bits(i->dst);                                                                  \
        uint32_t flags = cpu->oszapc;                                                                        \
        asm(FLAGS_IN #op #suffix " %%cl, %0" FLAGS_OUT : "+r"(a), "+&a"(flags) : "c"(count) : "cc");         \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        W##bits(i->dst, a);                                                                                  \
        NEXT(cpu, i);)

#define SHIFT_MEMORY(name, bits, suffix, op, count)                                                          \
    MEMORY_HANDLER(name,                                                                                     \
        AT(lin, bits / 8, X86_READ | X86_WRITE);                                                             \
        EDIT(uint##bits##_t, p, lin);                                                                        \
        uint32_t flags = cpu->oszapc;                                                                        \
        asm volatile(FLAGS_IN #op #suffix " %%cl, %0" FLAGS_OUT                                              \
            : "+m"(*p), "+&a"(flags) : "c"(count) : "cc");                                                   \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        EDITED();                                                                                            \
        NEXT(cpu, i);)

#define SHIFT(bits, suffix, op)                                                                              \
    SHIFT_REGISTER(op##bits##_ri, bits, suffix, op, (uint8_t)i->imm)                                         \
    SHIFT_REGISTER(op##bits##_rc, bits, suffix, op, R8(OFFSET_RCX))                                          \
    SHIFT_MEMORY(op##bits##_mi, bits, suffix, op, (uint8_t)i->imm)                                           \
    SHIFT_MEMORY(op##bits##_mc, bits, suffix, op, R8(OFFSET_RCX))

FOR_SIZES(SHIFT, rol)
FOR_SIZES(SHIFT, ror)
FOR_SIZES(SHIFT, rcl)
FOR_SIZES(SHIFT, rcr)
FOR_SIZES(SHIFT, shl)
FOR_SIZES(SHIFT, shr)
FOR_SIZES(SHIFT, sar)

#define ROW(bits, suffix, op)                                                                                \
    { { op##bits##_ri, op##bits##_rc }, { FORMS(op##bits##_mi), FORMS(op##bits##_mc) } },

// The rows are numbered by ops_integer.def.
enum { SHIFT_ROL, SHIFT_ROR, SHIFT_RCL, SHIFT_RCR, SHIFT_SHL, SHIFT_SHR, SHIFT_SAR, SHIFT_OPS };

static const struct shift_row shift_rows[SHIFT_OPS][4] = {
    { FOR_SIZES(ROW, rol) }, { FOR_SIZES(ROW, ror) }, { FOR_SIZES(ROW, rcl) }, { FOR_SIZES(ROW, rcr) },
    { FOR_SIZES(ROW, shl) }, { FOR_SIZES(ROW, shr) }, { FOR_SIZES(ROW, sar) },
};
#undef ROW

// With an immediate count that is not 0 these change all flags: nothing of the old ones is needed.
#define SHIFT_CONSTANT(bits, suffix, op)                                                                     \
    HANDLER(op##bits##_constant,                                                                             \
        uint##bits##_t a = R##bits(i->dst);                                                                  \
        uint32_t flags;                                                                                      \
        asm(#op #suffix " %%cl, %0" FLAGS_OUT : "+r"(a), "=&a"(flags) : "c"((uint8_t)i->imm) : "cc");        \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        W##bits(i->dst, a);                                                                                  \
        NEXT(cpu, i);)

FOR_WIDE_SIZES(SHIFT_CONSTANT, shl)
FOR_WIDE_SIZES(SHIFT_CONSTANT, shr)
FOR_WIDE_SIZES(SHIFT_CONSTANT, sar)

static const insn_fn shift_constant[3][4] = {
    { NULL, shl16_constant, shl32_constant, shl64_constant },
    { NULL, shr16_constant, shr32_constant, shr64_constant },
    { NULL, sar16_constant, sar32_constant, sar64_constant },
};

bool x86_emit_shift(struct x86_emit *e, unsigned op)
{
    const ZydisDecodedOperand *to = &e->operand[0], *by = &e->operand[1];
    unsigned size = x86_operand_size_index(to);
    unsigned kind = x86_is_immediate(by) ? SHIFT_BY_IMMEDIATE : SHIFT_BY_CL;
    const struct shift_row *row = &shift_rows[op][size];
    if (kind == SHIFT_BY_IMMEDIATE)
        e->insn->imm = by->imm.value.u & (size == 3 ? 63 : 31);
    if (x86_is_memory(to))
        return x86_emit_form(e, to, &row->m[kind]);
    e->insn->dst = x86_emit_gpr(to->reg.value);
    if (kind == SHIFT_BY_IMMEDIATE && e->insn->imm && op >= SHIFT_SHL && shift_constant[op - SHIFT_SHL][size])
        return x86_emit_fn(e, shift_constant[op - SHIFT_SHL][size]);
    return x86_emit_fn(e, row->r[kind]);
}

// ---- Double shifts ----------------------------------------------------------------------------------------

#define DOUBLE_REGISTER(name, bits, suffix, op, count)                                                       \
    HANDLER(name,                                                                                            \
        uint##bits##_t a = R##bits(i->dst);                                                                  \
        uint32_t flags = cpu->oszapc;                                                                        \
        asm(FLAGS_IN #op #suffix " %%cl, %3, %0" FLAGS_OUT                                                   \
            : "+r"(a), "+&a"(flags) : "c"(count), "r"(R##bits(i->src)) : "cc");                              \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        W##bits(i->dst, a);                                                                                  \
        NEXT(cpu, i);)

#define DOUBLE_MEMORY(name, bits, suffix, op, count)                                                         \
    MEMORY_HANDLER(name,                                                                                     \
        AT(lin, bits / 8, X86_READ | X86_WRITE);                                                             \
        EDIT(uint##bits##_t, p, lin);                                                                        \
        uint32_t flags = cpu->oszapc;                                                                        \
        asm volatile(FLAGS_IN #op #suffix " %%cl, %3, %0" FLAGS_OUT                                          \
                     : "+m"(*p), "+&a"(flags) : "c"(count), "r"(R##bits(i->src)) : "cc");                    \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        EDITED();                                                                                            \
        NEXT(cpu, i);)

#define DOUBLE(bits, suffix, op)                                                                             \
    DOUBLE_REGISTER(op##bits##_ri, bits, suffix, op, (uint8_t)i->imm)                                        \
    DOUBLE_REGISTER(op##bits##_rc, bits, suffix, op, R8(OFFSET_RCX))                                         \
    DOUBLE_MEMORY(op##bits##_mi, bits, suffix, op, (uint8_t)i->imm)                                          \
    DOUBLE_MEMORY(op##bits##_mc, bits, suffix, op, R8(OFFSET_RCX))

FOR_WIDE_SIZES(DOUBLE, shld)
FOR_WIDE_SIZES(DOUBLE, shrd)

#define ROW(bits, suffix, op)                                                                                \
    { { op##bits##_ri, op##bits##_rc }, { FORMS(op##bits##_mi), FORMS(op##bits##_mc) } },

// [SHLD, SHRD][16, 32, 64]
static const struct shift_row double_rows[2][3] = {
    { FOR_WIDE_SIZES(ROW, shld) }, { FOR_WIDE_SIZES(ROW, shrd) },
};
#undef ROW

bool x86_emit_double_shift(struct x86_emit *e, unsigned right)
{
    const ZydisDecodedOperand *to = &e->operand[0], *by = &e->operand[2];
    unsigned kind = x86_is_immediate(by) ? SHIFT_BY_IMMEDIATE : SHIFT_BY_CL;
    const struct shift_row *row = &double_rows[right][x86_operand_size_index(to) - 1];
    if (kind == SHIFT_BY_IMMEDIATE)
        e->insn->imm = by->imm.value.u & 63;
    e->insn->src = x86_emit_gpr(e->operand[1].reg.value);
    if (x86_is_memory(to))
        return x86_emit_form(e, to, &row->m[kind]);
    e->insn->dst = x86_emit_gpr(to->reg.value);
    return x86_emit_fn(e, row->r[kind]);
}
