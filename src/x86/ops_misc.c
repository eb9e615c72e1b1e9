// NOP in all its shapes, UD0-UD2, BOUND (SDM vol. 2).
#include "x86/ops_forms.h"

HANDLER(nop, NEXT(cpu, i);)

bool x86_emit_nop(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    return x86_emit_fn(e, nop);
}

// A refused form is an invalid opcode, which is all that these are.
bool x86_emit_undefined(struct x86_emit *e, unsigned parameter)
{
    (void)e;
    (void)parameter;
    return false;
}

// The bounds lie one after the other.
#define BOUND(bits)                                                                                          \
    GENERAL_HANDLER(bound##bits,                                                                             \
        AT(lin, bits / 4, X86_READ);                                                                         \
        uint64_t upper_lin = lin + bits / 8;                                                                 \
        GET(int##bits##_t, lower, lin);                                                                      \
        GET(int##bits##_t, upper, upper_lin);                                                                \
        int##bits##_t index = (int##bits##_t)R##bits(i->dst);                                                \
        if (index < lower || index > upper)                                                                  \
            return x86_raise(cpu, i, X86_BR, -1);                                                            \
        NEXT(cpu, i);)

BOUND(16)
BOUND(32)

bool x86_emit_bound(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    const ZydisDecodedOperand *index = &e->operand[0];
    e->insn->dst = x86_emit_gpr(index->reg.value);
    x86_emit_memory(e, &e->operand[1]);
    return x86_emit_fn(e, index->size == 16 ? bound16 : bound32);
}
