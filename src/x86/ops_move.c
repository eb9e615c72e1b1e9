// MOV, MOVZX, MOVSX, MOVSXD, LEA, BSWAP, sign extensions of the accumulator, XLAT (SDM vol. 2).
#include "x86/ops_forms.h"

// Defined with the system instructions: MOV to and from segment, control and debug registers.
bool x86_emit_mov_system(struct x86_emit *e, unsigned parameter);

// ---- MOV --------------------------------------------------------------------------------------------------

#define MOV(bits, suffix, ...)                                                                               \
    HANDLER(mov##bits##_rr,                                                                                  \
        W##bits(i->dst, R##bits(i->src));                                                                    \
        NEXT(cpu, i);)                                                                                       \
    HANDLER(mov##bits##_ri,                                                                                  \
        W##bits(i->dst, (uint##bits##_t)i->imm);                                                             \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(mov##bits##_rm,                                                                           \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, value, lin);                                                                     \
        W##bits(i->dst, value);                                                                              \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(mov##bits##_mr,                                                                           \
        AT(lin, bits / 8, X86_WRITE);                                                                        \
        PUT(uint##bits##_t, lin, R##bits(i->src));                                                           \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(mov##bits##_mi,                                                                           \
        AT(lin, bits / 8, X86_WRITE);                                                                        \
        PUT(uint##bits##_t, lin, (uint##bits##_t)i->imm);                                                    \
        NEXT(cpu, i);)                                                                                       \
    /* MOV between the accumulator and a 64-bit address, which `disp` has no room for. */                    \
    GENERAL_HANDLER(mov##bits##_load_moffs,                                                                  \
        cpu->current = i;                                                                                    \
        uint64_t lin = i->imm + R64(i->segment);                                                             \
        GET(uint##bits##_t, value, lin);                                                                     \
        W##bits(OFFSET_RAX, value);                                                                          \
        NEXT(cpu, i);)                                                                                       \
    GENERAL_HANDLER(mov##bits##_store_moffs,                                                                 \
        cpu->current = i;                                                                                    \
        uint64_t lin = i->imm + R64(i->segment);                                                             \
        PUT(uint##bits##_t, lin, R##bits(OFFSET_RAX));                                                       \
        NEXT(cpu, i);)

FOR_SIZES(MOV, mov)

static const struct mov_row {
    insn_fn rr, ri, load_moffs, store_moffs;
    struct x86_forms rm, mr, mi;
} mov_rows[4] = {
#define ROW(bits, suffix, ...)                                                                               \
    { mov##bits##_rr, mov##bits##_ri, mov##bits##_load_moffs, mov##bits##_store_moffs,                       \
      FORMS(mov##bits##_rm), FORMS(mov##bits##_mr), FORMS(mov##bits##_mi) },
    FOR_SIZES(ROW, mov)
#undef ROW
};

static bool general_register(const ZydisDecodedOperand *operand)
{
    switch (ZydisRegisterGetClass(operand->reg.value)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return true;
    default:
        return false;
    }
}

bool x86_emit_mov(struct x86_emit *e, unsigned parameter)
{
    const ZydisDecodedOperand *to = &e->operand[0], *from = &e->operand[1];
    if ((x86_is_register(to) && !general_register(to)) || (x86_is_register(from) && !general_register(from)))
        return x86_emit_mov_system(e, parameter);
    const struct mov_row *row = &mov_rows[x86_operand_size_index(to)];
    const ZydisDecodedOperand *memory = x86_is_memory(to) ? to : x86_is_memory(from) ? from : NULL;
    if (memory && e->z->raw.disp.size == 64) {
        x86_emit_memory(e, memory);
        e->insn->imm = (uint64_t)memory->mem.disp.value;
        return x86_emit_fn(e, memory == to ? row->store_moffs : row->load_moffs);
    }
    if (x86_is_register(to))
        e->insn->dst = x86_emit_gpr(to->reg.value);
    if (x86_is_register(from))
        e->insn->src = x86_emit_gpr(from->reg.value);
    if (x86_is_immediate(from))
        e->insn->imm = from->imm.value.u;
    if (memory == to && memory)
        return x86_emit_form(e, to, x86_is_immediate(from) ? &row->mi : &row->mr);
    if (memory)
        return x86_emit_form(e, from, &row->rm);
    return x86_emit_fn(e, x86_is_immediate(from) ? row->ri : row->rr);
}

// ---- Extensions -------------------------------------------------------------------------------------------

struct extend_row { insn_fn r; struct x86_forms m; };

#define EXTEND(name, from_bits, from_type, to_bits, to_type)                                                 \
    HANDLER(name##from_bits##_##to_bits##_r,                                                                 \
        W##to_bits(i->dst, (uint##to_bits##_t)(to_type)(from_type)R##from_bits(i->src));                     \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(name##from_bits##_##to_bits##_m,                                                          \
        AT(lin, from_bits / 8, X86_READ);                                                                    \
        GET(from_type, value, lin);                                                                          \
        W##to_bits(i->dst, (uint##to_bits##_t)(to_type)value);                                               \
        NEXT(cpu, i);)

EXTEND(movzx, 8, uint8_t, 16, uint16_t)
EXTEND(movzx, 8, uint8_t, 32, uint32_t)
EXTEND(movzx, 16, uint16_t, 16, uint16_t)
EXTEND(movzx, 16, uint16_t, 32, uint32_t)
EXTEND(movsx, 8, int8_t, 16, int16_t)
EXTEND(movsx, 8, int8_t, 32, int32_t)
EXTEND(movsx, 8, int8_t, 64, int64_t)
EXTEND(movsx, 16, int16_t, 16, int16_t)
EXTEND(movsx, 16, int16_t, 32, int32_t)
EXTEND(movsx, 16, int16_t, 64, int64_t)
EXTEND(movsx, 32, int32_t, 16, int16_t)
EXTEND(movsx, 32, int32_t, 32, int32_t)
EXTEND(movsx, 32, int32_t, 64, int64_t)

#define ROW(name, from_bits, to_bits)                                                                        \
    { name##from_bits##_##to_bits##_r, FORMS(name##from_bits##_##to_bits##_m) }

enum { EXTEND_ZERO, EXTEND_SIGN };

// [zero, sign][source 8, 16, 32][destination 16, 32, 64]
static const struct extend_row extend_rows[2][3][3] = {
    { { ROW(movzx, 8, 16), ROW(movzx, 8, 32), ROW(movzx, 8, 32) },
      { ROW(movzx, 16, 16), ROW(movzx, 16, 32), ROW(movzx, 16, 32) } },
    { { ROW(movsx, 8, 16), ROW(movsx, 8, 32), ROW(movsx, 8, 64) },
      { ROW(movsx, 16, 16), ROW(movsx, 16, 32), ROW(movsx, 16, 64) },
      { ROW(movsx, 32, 16), ROW(movsx, 32, 32), ROW(movsx, 32, 64) } },
};
#undef ROW

bool x86_emit_extend(struct x86_emit *e, unsigned sign)
{
    const ZydisDecodedOperand *to = &e->operand[0], *from = &e->operand[1];
    unsigned from_index = x86_operand_size_index(from), to_index = x86_operand_size_index(to);
    if (from_index > 2 || to_index < 1)
        return false;
    const struct extend_row *row = &extend_rows[sign][from_index][to_index - 1];
    e->insn->dst = x86_emit_gpr(to->reg.value);
    if (x86_is_memory(from))
        return x86_emit_form(e, from, &row->m);
    e->insn->src = x86_emit_gpr(from->reg.value);
    return x86_emit_fn(e, row->r);
}

// ---- LEA --------------------------------------------------------------------------------------------------

#define LEA(bits, suffix, ...)                                                                               \
    HANDLER(lea##bits##_simple,                                                                              \
        W##bits(i->dst, R64(i->base) + (uint64_t)(int64_t)i->disp);                                          \
        NEXT(cpu, i);)                                                                                       \
    HANDLER(lea##bits##_plain,                                                                               \
        W##bits(i->dst, R64(i->base) + (R64(i->index) << i->scale) + (uint64_t)(int64_t)i->disp);            \
        NEXT(cpu, i);)                                                                                       \
    HANDLER(lea##bits##_general,                                                                             \
        W##bits(i->dst, x86_effective(cpu, i));                                                              \
        NEXT(cpu, i);)

FOR_WIDE_SIZES(LEA, lea)

static const struct x86_forms lea_forms[4] = { [1] = FORMS(lea16), [2] = FORMS(lea32), [3] = FORMS(lea64) };

bool x86_emit_lea(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    struct insn *insn = e->insn;
    unsigned size = x86_operand_size_index(&e->operand[0]);
    insn->dst = x86_emit_gpr(e->operand[0].reg.value);
    x86_emit_memory(e, &e->operand[1]);
    insn->segment = 8 * X86_SLOT_ZERO;
    // A 32-bit address is what the plain formula gives when 32 bits of it are kept.
    if ((insn->mem & (INSN_MEM_ADDR | INSN_MEM_RIP_FAR)) == INSN_MEM_ADDR32) {
        insn->mem = 0;
        if (size == 3)
            size = 2;
    }
    return x86_emit_fn(e, x86_pick_form(insn, &lea_forms[size]));
}

// ---- Registers only ---------------------------------------------------------------------------------------

HANDLER(bswap32,
    R64(i->dst) = __builtin_bswap32(R32(i->dst));
    NEXT(cpu, i);)

HANDLER(bswap64,
    R64(i->dst) = __builtin_bswap64(R64(i->dst));
    NEXT(cpu, i);)

// With a 16-bit operand the result is undefined; processors write 0.
HANDLER(bswap16,
    R16(i->dst) = 0;
    NEXT(cpu, i);)

bool x86_emit_bswap(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    static const insn_fn fn[4] = { NULL, bswap16, bswap32, bswap64 };
    e->insn->dst = x86_emit_gpr(e->operand[0].reg.value);
    return x86_emit_fn(e, fn[x86_operand_size_index(&e->operand[0])]);
}

HANDLER(cbw, R16(OFFSET_RAX) = (uint16_t)(int8_t)R8(OFFSET_RAX); NEXT(cpu, i);)
HANDLER(cwde, R64(OFFSET_RAX) = (uint32_t)(int16_t)R16(OFFSET_RAX); NEXT(cpu, i);)
HANDLER(cdqe, R64(OFFSET_RAX) = (uint64_t)(int32_t)R32(OFFSET_RAX); NEXT(cpu, i);)
HANDLER(cwd, R16(OFFSET_RDX) = (uint16_t)((int16_t)R16(OFFSET_RAX) >> 15); NEXT(cpu, i);)
HANDLER(cdq, R64(OFFSET_RDX) = (uint32_t)((int32_t)R32(OFFSET_RAX) >> 31); NEXT(cpu, i);)
HANDLER(cqo, R64(OFFSET_RDX) = (uint64_t)((int64_t)R64(OFFSET_RAX) >> 63); NEXT(cpu, i);)

bool x86_emit_accumulator(struct x86_emit *e, unsigned which)
{
    static const insn_fn fn[] = { cbw, cwde, cdqe, cwd, cdq, cqo };
    return x86_emit_fn(e, fn[which]);
}

// ---- XLAT -------------------------------------------------------------------------------------------------

GENERAL_HANDLER(xlat,
    cpu->current = i;
    uint64_t offset = R64(OFFSET_RBX) + R8(OFFSET_RAX);
    if (i->flags & INSN_ADDR16)
        offset &= 0xffff;
    else if (i->flags & INSN_ADDR32)
        offset &= 0xffffffff;
    struct x86_address address = x86_linear_segment(cpu, i->src, offset, 1, X86_READ);
    if (!address.ok)
        return x86_leave_fault(cpu, i);
    GET(uint8_t, value, address.linear);
    R8(OFFSET_RAX) = value;
    NEXT(cpu, i);)

bool x86_emit_xlat(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    for (unsigned n = 0; n < e->z->operand_count; n++)
        if (x86_is_memory(&e->operand[n]))
            e->insn->src = x86_emit_index(e->operand[n].mem.segment);
    return x86_emit_fn(e, xlat);
}
