// x87 loads, stores, exchanges and constants; the register stack's faults and the emitters' common part.
#include "x86/ops_x87.h"

const struct insn *x86_x87_unavailable(struct x86_cpu *cpu, const struct insn *i)
{
    return x86_raise(cpu, i, cpu->cr0 & (X86_CR0_EM | X86_CR0_TS) ? X86_NM : X86_MF, -1);
}

// The real indefinite: a quiet NaN, negative (SDM vol. 1 4.8.3.7).
static const uint8_t x87_indefinite_bytes[10] = { 0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff };

long double x87_indefinite(void)
{
    long double value = 0;
    memcpy(&value, x87_indefinite_bytes, sizeof x87_indefinite_bytes);
    return value;
}

bool x87_stack_fault(struct x86_cpu *cpu, bool overflow)
{
    cpu->fpu.fsw = (uint16_t)((cpu->fpu.fsw & ~X87_C1) | X87_IE | X87_SF | (overflow ? X87_C1 : 0));
    x87_update_summary(&cpu->fpu);
    return cpu->fpu.fcw & X87_IE;
}

void x87_underflow(struct x86_cpu *cpu, unsigned reg, unsigned pops)
{
    if (!x87_stack_fault(cpu, false))
        return;
    x87_set(cpu, reg, x87_indefinite());
    while (pops--)
        x87_pop(cpu);
}

// Push onto a full stack: the indefinite takes the register's place if the exception is masked.
static void push_overflow(struct x86_cpu *cpu)
{
    if (x87_stack_fault(cpu, true))
        x87_push(cpu, x87_indefinite());
}

bool x87_emit_operands(struct x86_emit *e)
{
    const ZydisDecodedInstruction *z = e->z;
    e->insn->imm = (z->opcode & 7u) << 8 | z->raw.modrm.mod << 6 | z->raw.modrm.reg << 3 | z->raw.modrm.rm;
    for (unsigned n = 0; n < z->operand_count; n++) {
        if (!x86_is_memory(&e->operand[n]))
            continue;
        x86_emit_memory(e, &e->operand[n]);
        e->insn->imm |= (uint64_t)x86_emit_index(e->operand[n].mem.segment) << 16;
        return true;
    }
    e->insn->src = z->raw.modrm.rm;
    return false;
}

// ---- Loads --------------------------------------------------------------------------------------

// A push of what `op` makes of memory. Real operands may raise invalid (signaling NaN) and denormal; a
// denormal is pushed even if that exception is unmasked.
#define LOAD_FORM(name, op, type)                                                                    \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        ADDRESS(lin, sizeof(type), X86_READ);                                                        \
        LOAD(type, b, lin);                                                                          \
        x87_last_memory(cpu, i, lin);                                                                \
        if (X86_UNLIKELY(!x87_empty(cpu, x87_st(cpu, 7)))) {                                         \
            push_overflow(cpu);                                                                      \
            NEXT(cpu, i);                                                                            \
        }                                                                                            \
        long double r;                                                                               \
        uint16_t status;                                                                             \
        {                                                                                            \
            type operand = b;                                                                        \
            X87_HOST(op " %2" X87_STATUS : "=t"(r), "=a"(status) : "m"(operand));                    \
        }                                                                                            \
        if (X86_LIKELY(x87_flags(cpu, status) || !(x87_unmasked(cpu, status) & X87_IE)))             \
            x87_push(cpu, r);                                                                        \
        NEXT(cpu, i);                                                                                \
    }
LOAD_FORM(fld_m32, "flds", uint32_t)
LOAD_FORM(fld_m64, "fldl", uint64_t)
LOAD_FORM(fild_m16, "filds", uint16_t)
LOAD_FORM(fild_m32, "fildl", uint32_t)
LOAD_FORM(fild_m64, "fildq", uint64_t)

struct x87_ten { uint8_t u8[10]; } __attribute__((may_alias));

#define LOAD_TEN_FORM(name, op)                                                                      \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        ADDRESS(lin, 10, X86_READ);                                                                  \
        const struct x87_ten *from = x86_read_pointer(cpu, lin, 10);                                 \
        if (X86_UNLIKELY(!from))                                                                     \
            return x86_leave_fault(cpu, i);                                                          \
        x87_last_memory(cpu, i, lin);                                                                \
        if (X86_UNLIKELY(!x87_empty(cpu, x87_st(cpu, 7)))) {                                         \
            push_overflow(cpu);                                                                      \
            NEXT(cpu, i);                                                                            \
        }                                                                                            \
        long double r;                                                                               \
        asm volatile(op " %1" : "=t"(r) : "m"(*from));                                               \
        cpu->fpu.fsw &= (uint16_t)~X87_C1;                                                           \
        x87_push(cpu, r);                                                                            \
        NEXT(cpu, i);                                                                                \
    }
LOAD_TEN_FORM(fld_m80, "fldt")
LOAD_TEN_FORM(fbld_m80, "fbld")

HANDLER(fld_sti)
{
    X87_ENTER;
    x87_last(cpu, i);
    unsigned src = x87_st(cpu, i->src);
    if (X86_UNLIKELY(x87_empty(cpu, src))) {
        if (x87_stack_fault(cpu, false))
            x87_push(cpu, x87_indefinite());
    } else if (X86_UNLIKELY(!x87_empty(cpu, x87_st(cpu, 7)))) {
        push_overflow(cpu);
    } else {
        cpu->fpu.fsw &= (uint16_t)~X87_C1;
        x87_push(cpu, cpu->fpu.st[src]);
    }
    NEXT(cpu, i);
}

#define CONSTANT(name)                                                                               \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        x87_last(cpu, i);                                                                            \
        if (X86_UNLIKELY(!x87_empty(cpu, x87_st(cpu, 7)))) {                                         \
            push_overflow(cpu);                                                                      \
            NEXT(cpu, i);                                                                            \
        }                                                                                            \
        long double r;                                                                               \
        X87_HOST(#name : "=t"(r));                                                                   \
        cpu->fpu.fsw &= (uint16_t)~X87_C1;                                                           \
        x87_push(cpu, r);                                                                            \
        NEXT(cpu, i);                                                                                \
    }
CONSTANT(fld1)
CONSTANT(fldz)
CONSTANT(fldpi)
CONSTANT(fldl2e)
CONSTANT(fldl2t)
CONSTANT(fldlg2)
CONSTANT(fldln2)

// The parameter is the operand's kind where the opcode does not tell: 0 real, 1 integer, 2 packed decimal.
bool x86_emit_x87_load(struct x86_emit *e, unsigned parameter)
{
    bool memory = x87_emit_operands(e);
    if (!memory) {
        e->insn->fn = fld_sti;
        return true;
    }
    switch (e->z->opcode) {
    case 0xd9: e->insn->fn = fld_m32; break;
    case 0xdd: e->insn->fn = fld_m64; break;
    case 0xdb: e->insn->fn = parameter ? fild_m32 : fld_m80; break;
    case 0xdf: e->insn->fn = e->z->raw.modrm.reg == 5 ? fild_m64 : fild_m16; break;
    default: return false;
    }
    if (parameter == 2)
        e->insn->fn = fbld_m80;
    return true;
}

// The parameter is the place in this list.
bool x86_emit_x87_constant(struct x86_emit *e, unsigned parameter)
{
    static const insn_fn constants[] = { fld1, fldz, fldpi, fldl2e, fldl2t, fldlg2, fldln2 };
    x87_emit_operands(e);
    e->insn->fn = constants[parameter];
    return true;
}

// ---- Stores -------------------------------------------------------------------------------------

// No store and no pop happens with an unmasked invalid operation, overflow or underflow (SDM vol. 1 8.5.4,
// 8.5.5).
#define STORE_BLOCKERS (X87_IE | X87_DE | X87_OE | X87_UE)

// insn->dst: pop. `indefinite`: what is stored for an empty register. The status of an empty register is
// made up here: the host's flags of an invalid operation, to which SF is added.
#define STORE_FORM(name, op, type, indefinite)                                                       \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        X87_ENTER;                                                                                   \
        ADDRESS(lin, sizeof(type), X86_WRITE);                                                       \
        unsigned src = x87_st(cpu, 0);                                                               \
        bool empty = x87_empty(cpu, src);                                                            \
        uint16_t status = X87_IE;                                                                    \
        type value = (type)(indefinite);                                                             \
        if (X86_LIKELY(!empty)) {                                                                    \
            type result;                                                                             \
            X87_HOST(op " %1" X87_STATUS : "=a"(status), "=m"(result) : "t"(cpu->fpu.st[src]));      \
            value = result;                                                                          \
        }                                                                                            \
        bool blocked = x87_unmasked(cpu, status) & STORE_BLOCKERS;                                   \
        if (X86_LIKELY(!blocked))                                                                    \
            STORE(type, lin, value);                                                                 \
        else if (!x87_probe_write(cpu, lin, sizeof(type)))                                           \
            return x86_leave_fault(cpu, i);                                                          \
        x87_last_memory(cpu, i, lin);                                                                \
        if (X86_UNLIKELY(empty))                                                                     \
            cpu->fpu.fsw |= X87_SF;                                                                  \
        x87_flags(cpu, status);                                                                      \
        if (i->dst && !blocked)                                                                      \
            x87_pop(cpu);                                                                            \
        NEXT(cpu, i);                                                                                \
    }
STORE_FORM(fst_m32, "fsts", uint32_t, 0xffc00000u)
STORE_FORM(fst_m64, "fstl", uint64_t, 0xfff8000000000000u)
STORE_FORM(fist_m16, "fists", uint16_t, 0x8000u)
STORE_FORM(fist_m32, "fistl", uint32_t, 0x80000000u)
// The host has this one only with a pop.
STORE_FORM(fist_m64, "fld %%st(0)\n\tfistpq", uint64_t, 0x8000000000000000u)

HANDLER(fstp_m80)
{
    X87_ENTER;
    ADDRESS(lin, 10, X86_WRITE);
    unsigned src = x87_st(cpu, 0);
    bool empty = x87_empty(cpu, src);
    if (X86_UNLIKELY(empty && !(cpu->fpu.fcw & X87_IE))) {
        if (!x87_probe_write(cpu, lin, 10))
            return x86_leave_fault(cpu, i);
        x87_last_memory(cpu, i, lin);
        x87_stack_fault(cpu, false);
        NEXT(cpu, i);
    }
    void *to = x86_write_pointer(cpu, lin, 10, X86_WRITE);
    if (X86_UNLIKELY(!to))
        return x86_leave_fault(cpu, i);
    memcpy(to, empty ? x87_indefinite_bytes : (const uint8_t *)&cpu->fpu.st[src], 10);
    x86_commit(cpu);
    x87_last_memory(cpu, i, lin);
    cpu->fpu.fsw &= (uint16_t)~X87_C1;
    if (X86_UNLIKELY(empty))
        x87_stack_fault(cpu, false);
    x87_pop(cpu);
    NEXT(cpu, i);
}

static bool store_decimal(struct x86_cpu *cpu, uint64_t linear)
{
    unsigned src = x87_st(cpu, 0);
    bool empty = x87_empty(cpu, src);
    struct x87_ten value = { { 0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff } };
    uint16_t status = X87_IE;
    if (!empty)
        X87_HOST("fld %%st(0)\n\tfbstp %1" X87_STATUS : "=a"(status), "=m"(value) : "t"(cpu->fpu.st[src]));
    if (!(x87_unmasked(cpu, status) & X87_IE)) {
        struct x87_ten *to = x86_write_pointer(cpu, linear, 10, X86_WRITE);
        if (!to)
            return false;
        *to = value;
        x86_commit(cpu);
    } else if (!x87_probe_write(cpu, linear, 10)) {
        return false;
    }
    if (empty)
        cpu->fpu.fsw |= X87_SF;
    if (x87_flags(cpu, status))
        x87_pop(cpu);
    return true;
}

HANDLER(fbstp_m80)
{
    X87_ENTER;
    ADDRESS(lin, 10, X86_WRITE);
    if (X86_UNLIKELY(!store_decimal(cpu, lin)))
        return x86_leave_fault(cpu, i);
    x87_last_memory(cpu, i, lin);
    NEXT(cpu, i);
}

HANDLER(fst_sti)
{
    X87_ENTER;
    x87_last(cpu, i);
    unsigned src = x87_st(cpu, 0), dst = x87_st(cpu, i->src);
    if (X86_UNLIKELY(x87_empty(cpu, src))) {
        x87_underflow(cpu, dst, i->dst);
        NEXT(cpu, i);
    }
    cpu->fpu.fsw &= (uint16_t)~X87_C1;
    x87_set(cpu, dst, cpu->fpu.st[src]);
    if (i->dst)
        x87_pop(cpu);
    NEXT(cpu, i);
}

// An undocumented alias of FSTP ST(i) that only pops an empty register.
HANDLER(fstp_unchecked)
{
    X87_ENTER;
    x87_last(cpu, i);
    cpu->fpu.fsw &= (uint16_t)~X87_C1;
    if (!x87_empty(cpu, x87_st(cpu, 0)))
        x87_set(cpu, x87_st(cpu, i->src), cpu->fpu.st[x87_st(cpu, 0)]);
    x87_pop(cpu);
    NEXT(cpu, i);
}

// Bit 0: pop. Bits 1-2: the kind as for loads.
bool x86_emit_x87_store(struct x86_emit *e, unsigned parameter)
{
    bool memory = x87_emit_operands(e);
    unsigned kind = parameter >> 1;
    e->insn->dst = parameter & 1;
    if (!memory) {
        e->insn->fn = e->z->mnemonic == ZYDIS_MNEMONIC_FSTPNCE ? fstp_unchecked : fst_sti;
        return true;
    }
    switch (e->z->opcode) {
    case 0xd9: e->insn->fn = fst_m32; break;
    case 0xdd: e->insn->fn = fst_m64; break;
    case 0xdb: e->insn->fn = kind ? fist_m32 : fstp_m80; break;
    case 0xdf: e->insn->fn = e->z->raw.modrm.reg == 7 ? fist_m64 : fist_m16; break;
    default: return false;
    }
    if (kind == 2)
        e->insn->fn = fbstp_m80;
    return true;
}

// ---- Between registers --------------------------------------------------------------------------

HANDLER(fxch)
{
    X87_ENTER;
    x87_last(cpu, i);
    unsigned a = x87_st(cpu, 0), b = x87_st(cpu, i->src);
    if (X86_UNLIKELY(x87_empty(cpu, a) || x87_empty(cpu, b))) {
        if (!x87_stack_fault(cpu, false))
            NEXT(cpu, i);
        if (x87_empty(cpu, a))
            x87_set(cpu, a, x87_indefinite());
        if (x87_empty(cpu, b))
            x87_set(cpu, b, x87_indefinite());
    }
    long double value = cpu->fpu.st[a];
    cpu->fpu.st[a] = cpu->fpu.st[b];
    cpu->fpu.st[b] = value;
    cpu->fpu.fsw &= (uint16_t)~X87_C1;
    NEXT(cpu, i);
}

bool x86_emit_x87_exchange(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    x87_emit_operands(e);
    e->insn->fn = fxch;
    return true;
}

// insn->size: the flags of which one must be set; insn->dst: move when none is.
HANDLER(fcmov)
{
    X87_ENTER;
    x87_last(cpu, i);
    unsigned dst = x87_st(cpu, 0), src = x87_st(cpu, i->src);
    bool any = cpu->oszapc & i->size << 8;
    if (X86_UNLIKELY(x87_empty(cpu, dst) || x87_empty(cpu, src)))
        x87_underflow(cpu, dst, 0);
    else if (any != i->dst)
        cpu->fpu.st[dst] = cpu->fpu.st[src];
    NEXT(cpu, i);
}

// Bits 0-1: B, E, BE, U; bit 2: the opposite.
bool x86_emit_x87_fcmov(struct x86_emit *e, unsigned parameter)
{
    static const uint16_t flags[4] = { X86_HOST_CF, X86_HOST_ZF, X86_HOST_CF | X86_HOST_ZF, X86_HOST_PF };
    x87_emit_operands(e);
    e->insn->size = (uint8_t)(flags[parameter & 3] >> 8);
    e->insn->dst = parameter >> 2;
    e->insn->fn = fcmov;
    return true;
}
