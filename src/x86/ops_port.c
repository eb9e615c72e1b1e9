// IN OUT INS OUTS (SDM vol. 2). The platform completes them: the handlers check permission and
// leave with RIP on the instruction and X86_EXIT_PORT filled.
#include "x86/ops_forms.h"
#include "x86/system.h"

static const struct insn *leave_for_port(struct x86_cpu *cpu, const struct insn *i, uint16_t port, bool write,
                                         bool string)
{
    cpu->current = i;
    if (!x86_io_permitted(cpu, port, i->size))
        return x86_leave_fault(cpu, i);
    cpu->exit.kind = X86_EXIT_PORT;
    cpu->exit.port.port = port;
    cpu->exit.port.size = i->size;
    cpu->exit.port.write = write;
    cpu->exit.port.string = string;
    cpu->exit.port.rep = string && (i->flags & (INSN_REP | INSN_REPNE));
    return x86_leave_exit(cpu, i);
}

HANDLER(in_i, return leave_for_port(cpu, i, (uint8_t)i->imm, false, false);)
HANDLER(in_dx, return leave_for_port(cpu, i, R16(OFFSET_RDX), false, false);)
HANDLER(out_i, return leave_for_port(cpu, i, (uint8_t)i->imm, true, false);)
HANDLER(out_dx, return leave_for_port(cpu, i, R16(OFFSET_RDX), true, false);)

// A repetition of 0 touches no port.
static bool nothing_to_do(const struct x86_cpu *cpu, const struct insn *i)
{
    if (!(i->flags & (INSN_REP | INSN_REPNE)))
        return false;
    if (i->flags & INSN_ADDR16)
        return R16(OFFSET_RCX) == 0;
    return i->flags & INSN_ADDR32 ? R32(OFFSET_RCX) == 0 : R64(OFFSET_RCX) == 0;
}

HANDLER(ins,
    if (nothing_to_do(cpu, i))
        NEXT(cpu, i);
    return leave_for_port(cpu, i, R16(OFFSET_RDX), false, true);)

HANDLER(outs,
    if (nothing_to_do(cpu, i))
        NEXT(cpu, i);
    return leave_for_port(cpu, i, R16(OFFSET_RDX), true, true);)

bool x86_emit_port(struct x86_emit *e, unsigned write)
{
    const ZydisDecodedOperand *accumulator = &e->operand[write ? 1 : 0], *port = &e->operand[write ? 0 : 1];
    e->insn->size = (uint8_t)(accumulator->size / 8);
    e->ends_block = true;
    if (x86_is_immediate(port)) {
        e->insn->imm = port->imm.value.u & 0xff;
        return x86_emit_fn(e, write ? out_i : in_i);
    }
    return x86_emit_fn(e, write ? out_dx : in_dx);
}

// The parameter: 1 for OUTS, and the element's size in bytes times 16.
bool x86_emit_port_string(struct x86_emit *e, unsigned parameter)
{
    e->insn->size = (uint8_t)(parameter >> 4);
    for (unsigned n = 0; n < e->z->operand_count; n++)      // the emulator reads OUTS's operand by its segment
        if (x86_is_memory(&e->operand[n]))
            x86_emit_memory(e, &e->operand[n]);
    return x86_emit_fn(e, parameter & 1 ? outs : ins);
}
