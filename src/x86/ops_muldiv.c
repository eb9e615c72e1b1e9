// MUL, IMUL, DIV, IDIV (SDM vol. 2). A division that would fault is found out before the host divides.
#include "x86/ops_forms.h"

// ---- Multiplication ---------------------------------------------------------------------------------------

// CF and OF are what a multiplication says. The other flags are undefined, and some hosts leave them alone: then what the
// host had in them would come to the guest, and the same guest would not run the same way twice. They stay the guest's.
#define KEEP_OTHER_FLAGS(flags)                                                                              \
    cpu->oszapc = (uint16_t)((cpu->oszapc & ~(X86_HOST_CF | X86_HOST_OF)) | ((flags) & (X86_HOST_CF | X86_HOST_OF)))

// One operand: rDX:rAX = rAX * operand; AX for bytes.
#define MULTIPLY(op, bits, suffix, b)                                                                        \
    uint64_t low = R64(OFFSET_RAX);                                                                          \
    uint64_t high = 0;                                                                                       \
    uint64_t product;                                                                                        \
    asm(#op #suffix " %3\n\tmovq %%rax, %0" FLAGS_OUT                                                        \
        : "=&r"(product), "+&a"(low), "+&d"(high) : "r"(b) : "cc");                                          \
    KEEP_OTHER_FLAGS(low);

#define MULTIPLY_DONE_8 R16(OFFSET_RAX) = (uint16_t)product
#define MULTIPLY_DONE_16 W16(OFFSET_RAX, product); W16(OFFSET_RDX, high)
#define MULTIPLY_DONE_32 W32(OFFSET_RAX, product); W32(OFFSET_RDX, high)
#define MULTIPLY_DONE_64 W64(OFFSET_RAX, product); W64(OFFSET_RDX, high)

#define WIDE_MULTIPLY(bits, suffix, op)                                                                      \
    HANDLER(op##bits##_r,                                                                                    \
        MULTIPLY(op, bits, suffix, R##bits(i->src))                                                          \
        MULTIPLY_DONE_##bits;                                                                                \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(op##bits##_m,                                                                             \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, b, lin);                                                                         \
        MULTIPLY(op, bits, suffix, b)                                                                        \
        MULTIPLY_DONE_##bits;                                                                                \
        NEXT(cpu, i);)

FOR_SIZES(WIDE_MULTIPLY, mul)
FOR_SIZES(WIDE_MULTIPLY, imul)

// Two and three operands.
#define MULTIPLY_NARROW(name, bits, suffix, a_, b_)                                                          \
    HANDLER(name##_r,                                                                                        \
        const uint##bits##_t operand = R##bits(i->src);                                                      \
        MULTIPLY_INTO(bits, suffix, a_, b_))                                                                 \
    MEMORY_HANDLER(name##_m,                                                                                 \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, operand, lin);                                                                   \
        MULTIPLY_INTO(bits, suffix, a_, b_))

#define MULTIPLY_INTO(bits, suffix, a_, b_)                                                                  \
    uint##bits##_t a = a_;                                                                                   \
    uint32_t flags;                                                                                          \
    asm("imul" #suffix " %2, %0" FLAGS_OUT : "+r"(a), "=&a"(flags) : "r"(b_) : "cc");                        \
    KEEP_OTHER_FLAGS(flags);                                                                                 \
    W##bits(i->dst, a);                                                                                      \
    NEXT(cpu, i);

#define NARROW_MULTIPLY(bits, suffix, ...)                                                                   \
    MULTIPLY_NARROW(imul##bits##_two, bits, suffix, R##bits(i->dst), operand)                                \
    MULTIPLY_NARROW(imul##bits##_three, bits, suffix, (uint##bits##_t)i->imm, operand)

FOR_WIDE_SIZES(NARROW_MULTIPLY, imul)

struct unary { insn_fn r; struct x86_forms m; };

#define ROW(bits, suffix, op) { op##bits##_r, FORMS(op##bits##_m) },
static const struct unary multiply_rows[2][4] = { { FOR_SIZES(ROW, mul) }, { FOR_SIZES(ROW, imul) } };
#undef ROW

#define ROW(bits, suffix, kind) { imul##bits##_##kind##_r, FORMS(imul##bits##_##kind##_m) },
static const struct unary narrow_rows[2][3] = {
    { FOR_WIDE_SIZES(ROW, two) }, { FOR_WIDE_SIZES(ROW, three) },
};
#undef ROW

static bool emit_unary(struct x86_emit *e, const ZydisDecodedOperand *operand, const struct unary *row)
{
    if (x86_is_memory(operand))
        return x86_emit_form(e, operand, &row->m);
    e->insn->src = x86_emit_gpr(operand->reg.value);
    return x86_emit_fn(e, row->r);
}

bool x86_emit_multiply(struct x86_emit *e, unsigned is_signed)
{
    const ZydisDecodedOperand *first = &e->operand[0], *second = &e->operand[1];
    unsigned size = x86_operand_size_index(first), operands = e->z->operand_count_visible;
    if (operands == 1)
        return emit_unary(e, first, &multiply_rows[is_signed][size]);
    if (size == 0)
        return false;
    e->insn->dst = x86_emit_gpr(first->reg.value);
    if (operands == 3)
        e->insn->imm = e->operand[2].imm.value.u;
    return emit_unary(e, second, &narrow_rows[operands == 3][size - 1]);
}

// ---- Division ---------------------------------------------------------------------------------------------

// Each returns false for a division by zero and for a quotient that does not fit: #DE.

static bool divide8(struct x86_cpu *cpu, uint8_t b)
{
    uint16_t a = R16(OFFSET_RAX);
    if (b == 0 || a / b > 0xff)
        return false;
    R16(OFFSET_RAX) = (uint16_t)(a % b << 8 | a / b);
    return true;
}

static bool divide16(struct x86_cpu *cpu, uint16_t b)
{
    uint32_t a = (uint32_t)R16(OFFSET_RDX) << 16 | R16(OFFSET_RAX);
    if (b == 0 || a / b > 0xffff)
        return false;
    R16(OFFSET_RAX) = (uint16_t)(a / b);
    R16(OFFSET_RDX) = (uint16_t)(a % b);
    return true;
}

static bool divide32(struct x86_cpu *cpu, uint32_t b)
{
    uint32_t low = R32(OFFSET_RAX), high = R32(OFFSET_RDX);
    if (high >= b)
        return false;
    asm("divl %2" : "+a"(low), "+d"(high) : "r"(b) : "cc");
    R64(OFFSET_RAX) = low;
    R64(OFFSET_RDX) = high;
    return true;
}

static bool divide64(struct x86_cpu *cpu, uint64_t b)
{
    uint64_t low = R64(OFFSET_RAX), high = R64(OFFSET_RDX);
    if (high >= b)
        return false;
    asm("divq %2" : "+a"(low), "+d"(high) : "r"(b) : "cc");
    R64(OFFSET_RAX) = low;
    R64(OFFSET_RDX) = high;
    return true;
}

static bool idivide8(struct x86_cpu *cpu, uint8_t b)
{
    int a = (int16_t)R16(OFFSET_RAX), divisor = (int8_t)b;
    if (divisor == 0 || a / divisor != (int8_t)(a / divisor))
        return false;
    R16(OFFSET_RAX) = (uint16_t)((a % divisor & 0xff) << 8 | (a / divisor & 0xff));
    return true;
}

static bool idivide16(struct x86_cpu *cpu, uint16_t b)
{
    int64_t a = (int32_t)((uint32_t)R16(OFFSET_RDX) << 16 | R16(OFFSET_RAX)), divisor = (int16_t)b;
    if (divisor == 0 || a / divisor != (int16_t)(a / divisor))
        return false;
    R16(OFFSET_RAX) = (uint16_t)(a / divisor);
    R16(OFFSET_RDX) = (uint16_t)(a % divisor);
    return true;
}

static bool idivide32(struct x86_cpu *cpu, uint32_t b)
{
    int64_t a = (int64_t)((uint64_t)R32(OFFSET_RDX) << 32 | R32(OFFSET_RAX)), divisor = (int32_t)b;
    if (divisor == 0 || (a == INT64_MIN && divisor == -1) || a / divisor != (int32_t)(a / divisor))
        return false;
    R64(OFFSET_RAX) = (uint32_t)(a / divisor);
    R64(OFFSET_RDX) = (uint32_t)(a % divisor);
    return true;
}

// Divides the magnitudes, which the host can do without a fault once the high half is below the divisor.
static bool idivide64(struct x86_cpu *cpu, uint64_t b)
{
    unsigned __int128 a = (unsigned __int128)R64(OFFSET_RDX) << 64 | R64(OFFSET_RAX);
    bool a_negative = R64(OFFSET_RDX) >> 63, b_negative = b >> 63;
    if (a_negative)
        a = -a;
    uint64_t divisor = b_negative ? -b : b;
    uint64_t low = (uint64_t)a, high = (uint64_t)(a >> 64);
    if (high >= divisor)
        return false;
    asm("divq %2" : "+a"(low), "+d"(high) : "r"(divisor) : "cc");
    bool negative = a_negative != b_negative;
    if (low > (negative ? 1ull << 63 : (1ull << 63) - 1))
        return false;
    R64(OFFSET_RAX) = negative ? -low : low;
    R64(OFFSET_RDX) = a_negative ? -high : high;
    return true;
}

#define DIVIDE(bits, suffix, op)                                                                             \
    HANDLER(op##bits##_r,                                                                                    \
        if (X86_UNLIKELY(!op##ide##bits(cpu, R##bits(i->src))))                                              \
            return x86_raise(cpu, i, X86_DE, -1);                                                            \
        NEXT(cpu, i);)                                                                                       \
    MEMORY_HANDLER(op##bits##_m,                                                                             \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, b, lin);                                                                         \
        if (X86_UNLIKELY(!op##ide##bits(cpu, b)))                                                            \
            return x86_raise(cpu, i, X86_DE, -1);                                                            \
        NEXT(cpu, i);)

FOR_SIZES(DIVIDE, div)
FOR_SIZES(DIVIDE, idiv)

#define ROW(bits, suffix, op) { op##bits##_r, FORMS(op##bits##_m) },
static const struct unary divide_rows[2][4] = { { FOR_SIZES(ROW, div) }, { FOR_SIZES(ROW, idiv) } };
#undef ROW

bool x86_emit_divide(struct x86_emit *e, unsigned is_signed)
{
    const ZydisDecodedOperand *by = &e->operand[0];
    return emit_unary(e, by, &divide_rows[is_signed][x86_operand_size_index(by)]);
}
