// BT BTS BTR BTC, BSF BSR, POPCNT (SDM vol. 2).
#include "x86/ops_forms.h"

enum { BIT_TEST, BIT_SET, BIT_RESET, BIT_COMPLEMENT };

struct bit_row { insn_fn rr, ri, mr, mi, lock_mr, lock_mi; };

static inline void set_carry(struct x86_cpu *cpu, unsigned bit)
{
    cpu->oszapc = (uint16_t)((cpu->oszapc & ~X86_HOST_CF) | bit << 8);
}

// A register's bit offset is signed and reaches beyond the operand: the operand that holds the bit, and then
// its address.
static struct x86_address bit_address(struct x86_cpu *cpu, const struct insn *i, int64_t delta, unsigned size,
                                      unsigned access)
{
    if (i->mem == 0) {
        uint64_t offset = R64(i->base) + (R64(i->index) << i->scale) + (uint64_t)(i->disp + delta);
        return (struct x86_address){ R64(i->segment) + offset, 1 };
    }
    uint64_t offset = x86_effective(cpu, i) + (uint64_t)delta;
    if ((i->mem & INSN_MEM_ADDR) == INSN_MEM_ADDR16)
        offset &= 0xffff;
    else if ((i->mem & INSN_MEM_ADDR) == INSN_MEM_ADDR32)
        offset &= 0xffffffff;
    if (i->segment == 8 * X86_SLOT_ZERO)
        return (struct x86_address){ offset, 1 };
    return x86_linear_segment(cpu, i->segment / 8u - X86_SLOT_SEGMENT, offset, size, access);
}

#define BIT_ADDRESS(bits, access)                                                                            \
    cpu->current = i;                                                                                        \
    int64_t bit = (int##bits##_t)R##bits(i->src);                                                            \
    struct x86_address address = bit_address(cpu, i, (bit >> __builtin_ctz(bits)) * (bits / 8),              \
        bits / 8, access);                                                                                   \
    if (X86_UNLIKELY(!address.ok))                                                                           \
        return x86_leave_fault(cpu, i);                                                                      \
    uint64_t lin = address.linear;

#define BIT_REGISTER(name, bits, offset_, change)                                                            \
    HANDLER(name,                                                                                            \
        const unsigned n = (unsigned)(offset_) & (bits - 1);                                                 \
        const uint##bits##_t mask = (uint##bits##_t)1 << n;                                                  \
        uint##bits##_t value = R##bits(i->dst);                                                              \
        set_carry(cpu, (value & mask) != 0);                                                                 \
        W##bits(i->dst, change);                                                                             \
        NEXT(cpu, i);)

#define BIT_MEMORY_TEST(name, bits, address_, offset_)                                                       \
    GENERAL_HANDLER(name,                                                                                    \
        address_;                                                                                            \
        GET(uint##bits##_t, value, lin);                                                                     \
        set_carry(cpu, value >> ((unsigned)(offset_) & (bits - 1)) & 1);                                     \
        NEXT(cpu, i);)

#define BIT_MEMORY(name, bits, suffix, op, lock, address_, offset_)                                          \
    GENERAL_HANDLER(name,                                                                                    \
        address_;                                                                                            \
        EDIT(uint##bits##_t, p, lin);                                                                        \
        const uint##bits##_t n = (unsigned)(offset_) & (bits - 1);                                           \
        uint8_t carry;                                                                                       \
        asm volatile(lock #op #suffix " %2, %0\n\tsetc %1" : "+m"(*p), "=q"(carry) : "r"(n) : "cc");         \
        set_carry(cpu, carry);                                                                               \
        EDITED();                                                                                            \
        NEXT(cpu, i);)

#define BY_REGISTER(bits, access) BIT_ADDRESS(bits, access)
#define BY_IMMEDIATE(bits, access) AT(lin, bits / 8, access)

#define BIT_REGISTERS(bits, op, change)                                                                      \
    BIT_REGISTER(op##bits##_rr, bits, R##bits(i->src), change)                                               \
    BIT_REGISTER(op##bits##_ri, bits, i->imm, change)

#define BIT_CHANGING(bits, suffix, op, change)                                                               \
    BIT_REGISTERS(bits, op, change)                                                                          \
    BIT_MEMORY(op##bits##_mr, bits, suffix, op, "", BY_REGISTER(bits, X86_READ | X86_WRITE), bit)            \
    BIT_MEMORY(op##bits##_mi, bits, suffix, op, "", BY_IMMEDIATE(bits, X86_READ | X86_WRITE), i->imm)        \
    BIT_MEMORY(op##bits##_lock_mr, bits, suffix, op, "lock ", BY_REGISTER(bits, X86_READ | X86_WRITE), bit)  \
    BIT_MEMORY(op##bits##_lock_mi, bits, suffix, op, "lock ", BY_IMMEDIATE(bits, X86_READ | X86_WRITE),      \
        i->imm)

// BT writes nothing, not even the upper half of a 32-bit register.
#define BIT_TESTING(bits, suffix, op)                                                                        \
    HANDLER(op##bits##_rr,                                                                                   \
        set_carry(cpu, R##bits(i->dst) >> (R##bits(i->src) & (bits - 1)) & 1);                               \
        NEXT(cpu, i);)                                                                                       \
    HANDLER(op##bits##_ri,                                                                                   \
        set_carry(cpu, R##bits(i->dst) >> (i->imm & (bits - 1)) & 1);                                        \
        NEXT(cpu, i);)                                                                                       \
    BIT_MEMORY_TEST(op##bits##_mr, bits, BY_REGISTER(bits, X86_READ), bit)                                   \
    BIT_MEMORY_TEST(op##bits##_mi, bits, BY_IMMEDIATE(bits, X86_READ), i->imm)

FOR_WIDE_SIZES(BIT_TESTING, bt)
FOR_WIDE_SIZES(BIT_CHANGING, bts, value | mask)
FOR_WIDE_SIZES(BIT_CHANGING, btr, value & ~mask)
FOR_WIDE_SIZES(BIT_CHANGING, btc, value ^ mask)

static const struct bit_row bit_rows[4][3] = {
#define ROW(bits, suffix, op) { op##bits##_rr, op##bits##_ri, op##bits##_mr, op##bits##_mi, NULL, NULL },
    { FOR_WIDE_SIZES(ROW, bt) },
#undef ROW
#define ROW(bits, suffix, op)                                                                                \
    { op##bits##_rr, op##bits##_ri, op##bits##_mr, op##bits##_mi, op##bits##_lock_mr, op##bits##_lock_mi },
    { FOR_WIDE_SIZES(ROW, bts) }, { FOR_WIDE_SIZES(ROW, btr) }, { FOR_WIDE_SIZES(ROW, btc) },
#undef ROW
};

bool x86_emit_bit(struct x86_emit *e, unsigned op)
{
    const ZydisDecodedOperand *to = &e->operand[0], *offset = &e->operand[1];
    const struct bit_row *row = &bit_rows[op][x86_operand_size_index(to) - 1];
    bool lock = e->insn->flags & INSN_LOCK, immediate = x86_is_immediate(offset);
    if (immediate)
        e->insn->imm = offset->imm.value.u;
    else
        e->insn->src = x86_emit_gpr(offset->reg.value);
    if (x86_is_memory(to)) {
        x86_emit_memory(e, to);
        if (lock)
            return x86_emit_fn(e, immediate ? row->lock_mi : row->lock_mr);
        return x86_emit_fn(e, immediate ? row->mi : row->mr);
    }
    e->insn->dst = x86_emit_gpr(to->reg.value);
    return !lock && x86_emit_fn(e, immediate ? row->ri : row->rr);
}

// ---- Scans and counts -------------------------------------------------------------------------------------

struct scan_row { insn_fn r; struct x86_forms m; };

// With a source of 0 the destination is formally undefined and in fact kept: the host decides, upper half
// included.
#define SCAN_BODY(bits, op, suffix, source, modifier)                                                        \
    uint64_t a = R64(i->dst);                                                                                \
    uint32_t flags;                                                                                          \
    asm(#op #suffix " %2, %" modifier "0" FLAGS_OUT : "+r"(a), "=&a"(flags) : "r"(source) : "cc");           \
    cpu->oszapc = (uint16_t)flags;                                                                           \
    R64(i->dst) = a;                                                                                         \
    NEXT(cpu, i);

#define SCAN(bits, suffix, op, modifier)                                                                     \
    HANDLER(op##bits##_r, SCAN_BODY(bits, op, suffix, R##bits(i->src), modifier))                            \
    MEMORY_HANDLER(op##bits##_m,                                                                             \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, b, lin);                                                                         \
        SCAN_BODY(bits, op, suffix, b, modifier))

SCAN(16, w, bsf, "w")
SCAN(32, l, bsf, "k")
SCAN(64, q, bsf, "q")
SCAN(16, w, bsr, "w")
SCAN(32, l, bsr, "k")
SCAN(64, q, bsr, "q")

// All flags are cleared but ZF.
#define COUNT_BODY(bits, source)                                                                             \
    uint##bits##_t value = source;                                                                           \
    cpu->oszapc = value ? 0 : X86_HOST_ZF;                                                                   \
    W##bits(i->dst, (uint##bits##_t)__builtin_popcountll(value));                                            \
    NEXT(cpu, i);

#define COUNT(bits, suffix, ...)                                                                             \
    HANDLER(popcnt##bits##_r, COUNT_BODY(bits, R##bits(i->src)))                                             \
    MEMORY_HANDLER(popcnt##bits##_m,                                                                         \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, b, lin);                                                                         \
        COUNT_BODY(bits, b))

FOR_WIDE_SIZES(COUNT, popcnt)

static const struct scan_row scan_rows[3][3] = {
#define ROW(bits, suffix, op) { op##bits##_r, FORMS(op##bits##_m) },
    { FOR_WIDE_SIZES(ROW, bsf) }, { FOR_WIDE_SIZES(ROW, bsr) }, { FOR_WIDE_SIZES(ROW, popcnt) },
#undef ROW
};

bool x86_emit_scan(struct x86_emit *e, unsigned op)
{
    const ZydisDecodedOperand *to = &e->operand[0], *from = &e->operand[1];
    const struct scan_row *row = &scan_rows[op][x86_operand_size_index(to) - 1];
    e->insn->dst = x86_emit_gpr(to->reg.value);
    if (x86_is_memory(from))
        return x86_emit_form(e, from, &row->m);
    e->insn->src = x86_emit_gpr(from->reg.value);
    return x86_emit_fn(e, row->r);
}
