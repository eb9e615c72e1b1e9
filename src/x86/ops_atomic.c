// XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B (SDM vol. 2).
#include "x86/ops_forms.h"

bool x86_emit_nop(struct x86_emit *e, unsigned parameter);      // ops_misc.c

struct exchange_row { insn_fn r, m, lock_m; };

// XCHG with memory is locked with or without the prefix.
#define EXCHANGE(bits, suffix, ...)                                                                          \
    HANDLER(xchg##bits##_r,                                                                                  \
        uint##bits##_t a = R##bits(i->dst);                                                                  \
        uint##bits##_t b = R##bits(i->src);                                                                  \
        W##bits(i->dst, b);                                                                                  \
        W##bits(i->src, a);                                                                                  \
        NEXT(cpu, i);)                                                                                       \
    GENERAL_HANDLER(xchg##bits##_m,                                                                          \
        AT(lin, bits / 8, X86_READ | X86_WRITE);                                                             \
        EDIT(uint##bits##_t, p, lin);                                                                        \
        uint##bits##_t a = R##bits(i->src);                                                                  \
        asm volatile("xchg" #suffix " %0, %1" : "+r"(a), "+m"(*p));                                          \
        W##bits(i->src, a);                                                                                  \
        EDITED();                                                                                            \
        NEXT(cpu, i);)

// The source takes the old value first, so that the sum wins when both are one register.
#define EXCHANGE_ADD_MEMORY(name, bits, suffix, lock)                                                        \
    GENERAL_HANDLER(name,                                                                                    \
        AT(lin, bits / 8, X86_READ | X86_WRITE);                                                             \
        EDIT(uint##bits##_t, p, lin);                                                                        \
        uint##bits##_t b = R##bits(i->src);                                                                  \
        uint32_t flags;                                                                                      \
        asm volatile(lock "xadd" #suffix " %1, %0" FLAGS_OUT : "+m"(*p), "+r"(b), "=&a"(flags) : : "cc");    \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        W##bits(i->src, b);                                                                                  \
        EDITED();                                                                                            \
        NEXT(cpu, i);)

#define EXCHANGE_ADD(bits, suffix, ...)                                                                      \
    HANDLER(xadd##bits##_r,                                                                                  \
        uint##bits##_t a = R##bits(i->dst);                                                                  \
        uint##bits##_t b = R##bits(i->src);                                                                  \
        uint32_t flags;                                                                                      \
        asm("xadd" #suffix " %1, %0" FLAGS_OUT : "+r"(a), "+r"(b), "=&a"(flags) : : "cc");                   \
        cpu->oszapc = (uint16_t)flags;                                                                       \
        W##bits(i->src, b);                                                                                  \
        W##bits(i->dst, a);                                                                                  \
        NEXT(cpu, i);)                                                                                       \
    EXCHANGE_ADD_MEMORY(xadd##bits##_m, bits, suffix, "")                                                    \
    EXCHANGE_ADD_MEMORY(xadd##bits##_lock_m, bits, suffix, "lock ")

// The host works on whole registers, so that what happens to their upper parts is the host's doing too.
#define COMPARE_EXCHANGE_MEMORY(name, bits, suffix, lock)                                                    \
    GENERAL_HANDLER(name,                                                                                    \
        AT(lin, bits / 8, X86_READ | X86_WRITE);                                                             \
        EDIT(uint##bits##_t, p, lin);                                                                        \
        uint64_t rax = R64(OFFSET_RAX);                                                                      \
        uint64_t accumulator;                                                                                \
        asm volatile(lock "cmpxchg" #suffix " %3, %0\n\tmovq %%rax, %1" FLAGS_OUT                            \
                     : "+m"(*p), "=&r"(accumulator), "+&a"(rax) : "r"(R##bits(i->src)) : "cc");              \
        cpu->oszapc = (uint16_t)rax;                                                                         \
        R64(OFFSET_RAX) = accumulator;                                                                       \
        EDITED();                                                                                            \
        NEXT(cpu, i);)

#define COMPARE_EXCHANGE_REGISTER(bits, suffix, whole, operand, write)                                       \
    HANDLER(cmpxchg##bits##_r,                                                                               \
        uint64_t rax = R64(OFFSET_RAX);                                                                      \
        uint64_t accumulator;                                                                                \
        uint##whole##_t a = R##whole(i->dst);                                                                \
        asm("cmpxchg" #suffix " %3, " operand "\n\tmovq %%rax, %1" FLAGS_OUT                                 \
            : "+&r"(a), "=&r"(accumulator), "+&a"(rax) : "r"(R##bits(i->src)) : "cc");                       \
        cpu->oszapc = (uint16_t)rax;                                                                         \
        R64(OFFSET_RAX) = accumulator;                                                                       \
        write(i->dst, a);                                                                                    \
        NEXT(cpu, i);)

#define COMPARE_EXCHANGE(bits, suffix, ...)                                                                  \
    COMPARE_EXCHANGE_MEMORY(cmpxchg##bits##_m, bits, suffix, "")                                             \
    COMPARE_EXCHANGE_MEMORY(cmpxchg##bits##_lock_m, bits, suffix, "lock ")

FOR_SIZES(EXCHANGE, xchg)
FOR_SIZES(EXCHANGE_ADD, xadd)
FOR_SIZES(COMPARE_EXCHANGE, cmpxchg)
COMPARE_EXCHANGE_REGISTER(8, b, 8, "%0", W8)
COMPARE_EXCHANGE_REGISTER(16, w, 64, "%w0", W64)
COMPARE_EXCHANGE_REGISTER(32, l, 64, "%k0", W64)
COMPARE_EXCHANGE_REGISTER(64, q, 64, "%q0", W64)

enum { EXCHANGE_XCHG, EXCHANGE_XADD, EXCHANGE_CMPXCHG };

static const struct exchange_row exchange_rows[3][4] = {
#define ROW(bits, suffix, ...) { xchg##bits##_r, xchg##bits##_m, xchg##bits##_m },
    { FOR_SIZES(ROW, xchg) },
#undef ROW
#define ROW(bits, suffix, op) { op##bits##_r, op##bits##_m, op##bits##_lock_m },
    { FOR_SIZES(ROW, xadd) }, { FOR_SIZES(ROW, cmpxchg) },
#undef ROW
};

bool x86_emit_exchange(struct x86_emit *e, unsigned op)
{
    const ZydisDecodedOperand *to = &e->operand[0], *from = &e->operand[1];
    bool lock = e->insn->flags & INSN_LOCK;
    if (x86_is_memory(from)) {      // XCHG is symmetric
        const ZydisDecodedOperand *other = to;
        to = from;
        from = other;
    }
    const struct exchange_row *row = &exchange_rows[op][x86_operand_size_index(to)];
    e->insn->src = x86_emit_gpr(from->reg.value);
    if (x86_is_memory(to)) {
        x86_emit_memory(e, to);
        return x86_emit_fn(e, lock ? row->lock_m : row->m);
    }
    e->insn->dst = x86_emit_gpr(to->reg.value);
    return !lock && x86_emit_fn(e, row->r);
}

// A processor that waits for another one ends its run after some PAUSEs, so that the other may have the host's core.
HANDLER(pause,
    if (X86_LIKELY(cpu->processor_count < 2 || ++cpu->pauses < X86_SPINNING))
        NEXT(cpu, i);
    x86_leave_done(cpu, i);
    cpu->surcharge += cpu->budget + 1;
    cpu->budget = -1;
    return NULL;)

// F3 90 is PAUSE, but with REX.B it is an XCHG with R8 and nothing is left of the prefix.
bool x86_emit_pause(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    static const insn_fn exchange[] = { [2] = xchg16_r, [4] = xchg32_r, [8] = xchg64_r };
    if (!e->z->raw.rex.B)
        return x86_emit_fn(e, pause);
    e->insn->dst = OFFSET_RAX;
    e->insn->src = 8 * X86_R8;
    unsigned narrow = e->z->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE ? 2 : 4;
    return x86_emit_fn(e, exchange[e->z->raw.rex.W ? 8 : narrow]);
}

// ---- Double width -----------------------------------------------------------------------------------------

// Only ZF changes.
static void set_zero_flag(struct x86_cpu *cpu, bool equal)
{
    cpu->oszapc = (uint16_t)((cpu->oszapc & ~X86_HOST_ZF) | (equal ? X86_HOST_ZF : 0));
}

GENERAL_HANDLER(cmpxchg8b,
    AT(lin, 8, X86_READ | X86_WRITE);
    EDIT(uint64_t, p, lin);
    uint32_t low = R32(OFFSET_RAX);
    uint32_t high = R32(OFFSET_RDX);
    bool equal;
    asm volatile("lock cmpxchg8b %0\n\tsete %3" : "+m"(*p), "+a"(low), "+d"(high), "=q"(equal)
                 : "b"(R32(OFFSET_RBX)), "c"(R32(OFFSET_RCX)) : "cc");
    if (!equal) {
        R64(OFFSET_RAX) = low;
        R64(OFFSET_RDX) = high;
    }
    set_zero_flag(cpu, equal);
    EDITED();
    NEXT(cpu, i);)

GENERAL_HANDLER(cmpxchg16b,
    AT(lin, 16, X86_READ | X86_WRITE);
    if (lin & 15)
        return x86_raise(cpu, i, X86_GP, 0);
    EDIT(unsigned __int128, p, lin);
    uint64_t low = R64(OFFSET_RAX);
    uint64_t high = R64(OFFSET_RDX);
    bool equal;
    asm volatile("lock cmpxchg16b %0\n\tsete %3" : "+m"(*p), "+a"(low), "+d"(high), "=q"(equal)
                 : "b"(R64(OFFSET_RBX)), "c"(R64(OFFSET_RCX)) : "cc");
    R64(OFFSET_RAX) = low;
    R64(OFFSET_RDX) = high;
    set_zero_flag(cpu, equal);
    EDITED();
    NEXT(cpu, i);)

bool x86_emit_cmpxchg_wide(struct x86_emit *e, unsigned bytes)
{
    x86_emit_memory(e, &e->operand[0]);
    return x86_emit_fn(e, bytes == 16 ? cmpxchg16b : cmpxchg8b);
}
