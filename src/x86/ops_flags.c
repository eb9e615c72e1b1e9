// What reads or writes flags alone: SETcc, CMOVcc, LAHF, SAHF, CLC, STC, CMC, CLD, STD, SALC (SDM vol. 2).
#include "x86/ops_condition.h"
#include "x86/ops_forms.h"

// ---- SETcc, CMOVcc ----------------------------------------------------------------------------------------

#define SET(cc)                                                                                              \
    HANDLER(set##cc##_r,                                                                                     \
        uint32_t f = cpu->oszapc;                                                                            \
        R8(i->dst) = X86_CONDITION_##cc(f) != 0;                                                             \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(set##cc##_m,                                                                              \
        AT(lin, 1, X86_WRITE);                                                                               \
        uint32_t f = cpu->oszapc;                                                                            \
        PUT(uint8_t, lin, X86_CONDITION_##cc(f) != 0);                                                       \
        NEXT(cpu, i);)

X86_FOR_CONDITIONS(SET)

static const struct set_row { insn_fn r; struct x86_forms m; } set_rows[16] = {
#define ROW(cc) { set##cc##_r, FORMS(set##cc##_m) },
    X86_FOR_CONDITIONS(ROW)
#undef ROW
};

bool x86_emit_setcc(struct x86_emit *e, unsigned condition)
{
    const ZydisDecodedOperand *to = &e->operand[0];
    if (x86_is_memory(to))
        return x86_emit_form(e, to, &set_rows[condition].m);
    e->insn->dst = x86_emit_gpr(to->reg.value);
    return x86_emit_fn(e, set_rows[condition].r);
}

// The memory is read and the upper half of a 32-bit destination cleared whatever the condition.
#define MOVE(cc, bits)                                                                                       \
    HANDLER(cmov##cc##bits##_r,                                                                              \
        uint32_t f = cpu->oszapc;                                                                            \
        uint##bits##_t value = R##bits(i->src);                                                              \
        uint##bits##_t old = R##bits(i->dst);                                                                \
        W##bits(i->dst, X86_CONDITION_##cc(f) ? value : old);                                                \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(cmov##cc##bits##_m,                                                                       \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, value, lin);                                                                     \
        uint32_t f = cpu->oszapc;                                                                            \
        uint##bits##_t old = R##bits(i->dst);                                                                \
        W##bits(i->dst, X86_CONDITION_##cc(f) ? value : old);                                                \
        NEXT(cpu, i);)
#define MOVES(cc) MOVE(cc, 16) MOVE(cc, 32) MOVE(cc, 64)

X86_FOR_CONDITIONS(MOVES)

static const struct move_row { insn_fn r; struct x86_forms m; } move_rows[16][3] = {
#define CELL(cc, bits) { cmov##cc##bits##_r, FORMS(cmov##cc##bits##_m) }
#define ROW(cc) { CELL(cc, 16), CELL(cc, 32), CELL(cc, 64) },
    X86_FOR_CONDITIONS(ROW)
#undef ROW
#undef CELL
};

bool x86_emit_cmovcc(struct x86_emit *e, unsigned condition)
{
    const ZydisDecodedOperand *to = &e->operand[0], *from = &e->operand[1];
    const struct move_row *row = &move_rows[condition][x86_operand_size_index(to) - 1];
    e->insn->dst = x86_emit_gpr(to->reg.value);
    if (x86_is_memory(from))
        return x86_emit_form(e, from, &row->m);
    e->insn->src = x86_emit_gpr(from->reg.value);
    return x86_emit_fn(e, row->r);
}

// ---- Flags as such ----------------------------------------------------------------------------------------

#define IN_AH ((X86_HOST_CF | X86_HOST_PF | X86_HOST_AF | X86_HOST_ZF | X86_HOST_SF) >> 8)

HANDLER(lahf_op, R8(OFFSET_RAX + 1) = (cpu->oszapc >> 8 & IN_AH) | 2; NEXT(cpu, i);)
HANDLER(sahf_op,
    cpu->oszapc = (uint16_t)((R8(OFFSET_RAX + 1) & IN_AH) << 8 | (cpu->oszapc & 1));
    NEXT(cpu, i);)
HANDLER(clc, cpu->oszapc &= (uint16_t)~X86_HOST_CF; NEXT(cpu, i);)
HANDLER(stc, cpu->oszapc |= X86_HOST_CF; NEXT(cpu, i);)
HANDLER(cmc, cpu->oszapc ^= X86_HOST_CF; NEXT(cpu, i);)
HANDLER(cld, cpu->rflags &= ~(uint64_t)X86_DF; NEXT(cpu, i);)
HANDLER(std, cpu->rflags |= X86_DF; NEXT(cpu, i);)
HANDLER(salc, R8(OFFSET_RAX) = cpu->oszapc & X86_HOST_CF ? 0xff : 0; NEXT(cpu, i);)

bool x86_emit_flags(struct x86_emit *e, unsigned which)
{
    static const insn_fn fn[] = { clc, stc, cmc, cld, std, salc };
    return x86_emit_fn(e, fn[which]);
}

// In 64-bit mode these two are a feature of their own.
bool x86_emit_flags_ah(struct x86_emit *e, unsigned store)
{
    if (x86_emit_code64(e) && !x86_has_feature(e->cpu, X86_FEATURE_LAHF64))
        return false;
    return x86_emit_fn(e, store ? sahf_op : lahf_op);
}
