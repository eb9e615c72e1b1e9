// Memory order and caches: fences, CLFLUSH and its kin, MOVNTI (SDM vol. 2).
//
// Guest memory is host memory and its caches are the host's, coherent as ever: a flush has nothing to do but to check its
// address. Guest loads and stores are host loads and stores in the same order, so only MFENCE needs the host's fence.
#include "x86/decode.h"

bool x86_emit_fence(struct x86_emit *e, unsigned p);
bool x86_emit_clflush(struct x86_emit *e, unsigned p);
bool x86_emit_movnti(struct x86_emit *e, unsigned p);

static const struct insn *fence(struct x86_cpu *cpu, const struct insn *i) { NEXT(cpu, i); }

static const struct insn *mfence(struct x86_cpu *cpu, const struct insn *i)
{
    atomic_thread_fence(memory_order_seq_cst);
    NEXT(cpu, i);
}

bool x86_emit_fence(struct x86_emit *e, unsigned p)
{
    e->insn->fn = p == 1 ? mfence : fence;
    return true;
}

// Checked like a load of one byte.
static const struct insn *clflush(struct x86_cpu *cpu, const struct insn *i)
{
    ADDRESS(lin, 1, X86_READ);
    LOAD(uint8_t, ignored, lin);
    (void)ignored;
    NEXT(cpu, i);
}

bool x86_emit_clflush(struct x86_emit *e, unsigned p)
{
    (void)p;
    x86_emit_memory(e, &e->operand[0]);
    e->insn->fn = clflush;
    return true;
}

static const struct insn *movnti32(struct x86_cpu *cpu, const struct insn *i)
{
    ADDRESS(lin, 4, X86_WRITE);
    STORE(uint32_t, lin, R32(i->src));
    NEXT(cpu, i);
}

static const struct insn *movnti64(struct x86_cpu *cpu, const struct insn *i)
{
    ADDRESS(lin, 8, X86_WRITE);
    STORE(uint64_t, lin, R64(i->src));
    NEXT(cpu, i);
}

bool x86_emit_movnti(struct x86_emit *e, unsigned p)
{
    (void)p;
    x86_emit_memory(e, &e->operand[0]);
    e->insn->src = x86_emit_gpr(e->operand[1].reg.value);
    e->insn->fn = e->operand[1].size == 64 ? movnti64 : movnti32;
    return true;
}
