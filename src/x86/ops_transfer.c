// Instructions that leave the code segment or the privilege: far JMP, CALL, RET, INT, IRET, SYSCALL and kin.
#include "x86/ops_system.h"

// ---- Far JMP, CALL, RET -----------------------------------------------------------------------------------

// The outcome of a function that works on cpu->rip.
static const struct insn *transferred(struct x86_cpu *cpu, const struct insn *i, bool ok)
{
    if (!ok)
        return x86_leave_fault(cpu, i);
    x86_serialize(cpu);
    return x86_leave_branch(cpu, i);
}

// `dst`: CALL. The pointer is in imm (selector above 32 bits of offset) or, for the second, in memory.
static const struct insn *far_direct(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->current = i;
    cpu->rip = x86_insn_rip(cpu, i);
    return transferred(cpu, i, x86_far_jump(cpu, (uint16_t)(i->imm >> 32), (uint32_t)i->imm, i->size, i->dst,
                                            x86_insn_next_rip(cpu, i)));
}

static const struct insn *far_indirect(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t offset = 0;
    ADDRESS(lin, i->size + 2u, X86_READ);
    if (!x86_read_linear(cpu, lin, &offset, i->size, X86_READ))
        return x86_leave_fault(cpu, i);
    LOAD(uint16_t, selector, lin + i->size);
    cpu->rip = x86_insn_rip(cpu, i);
    return transferred(cpu, i,
                       x86_far_jump(cpu, selector, offset, i->size, i->dst, x86_insn_next_rip(cpu, i)));
}

bool x86_emit_far(struct x86_emit *e, unsigned p)
{
    const ZydisDecodedOperand *to = &e->operand[0];
    e->insn->dst = (uint8_t)p;
    if (x86_is_memory(to)) {
        x86_emit_memory(e, to);
        return emit_last(e, far_indirect);
    }
    if (to->type != ZYDIS_OPERAND_TYPE_POINTER)
        return false;
    e->insn->imm = (uint64_t)to->ptr.segment << 32 | to->ptr.offset;
    return emit_last(e, far_direct);
}

static const struct insn *far_return(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->current = i;
    cpu->rip = x86_insn_rip(cpu, i);
    return transferred(cpu, i, x86_far_return(cpu, i->size, (unsigned)i->imm));
}

bool x86_emit_far_return(struct x86_emit *e, unsigned p)
{
    (void)p;
    e->insn->imm = x86_is_immediate(&e->operand[0]) ? e->operand[0].imm.value.u & 0xffff : 0;
    return emit_last(e, far_return);
}

// ---- Interrupts -------------------------------------------------------------------------------------------

static const struct insn *interrupt(struct x86_cpu *cpu, const struct insn *i)
{
    struct x86_exception event = { .vector = (uint8_t)i->imm, .software = true, .length = i->length };
    if ((cpu->rflags & X86_VM) && (cpu->rflags & X86_IOPL) != X86_IOPL)
        return x86_raise(cpu, i, X86_GP, 0);
    cpu->current = i;
    cpu->rip = x86_insn_rip(cpu, i);
    // Not by way of X86_LEAVE_EXCEPTION: INT n is no exception whatever its vector, and is not intercepted as
    // one.
    enum x86_leave leave = x86_deliver_event(cpu, &event, false);
    if (leave == X86_LEAVE_LOOKUP)
        return x86_leave_branch(cpu, i);
    cpu->leave = leave;
    return x86_leave_fault(cpu, i);
}

bool x86_emit_int(struct x86_emit *e, unsigned p)
{
    (void)p;
    e->insn->imm = e->operand[0].imm.value.u & 0xff;
    return emit_last(e, interrupt);
}

static const struct insn *software_exception(struct x86_cpu *cpu, const struct insn *i, unsigned vector)
{
    x86_fault(cpu, vector, -1);
    cpu->exception.software = true;
    cpu->exception.length = i->length;
    return x86_leave_fault(cpu, i);
}

static const struct insn *int3(struct x86_cpu *cpu, const struct insn *i)
{
    return software_exception(cpu, i, X86_BP);
}

static const struct insn *into(struct x86_cpu *cpu, const struct insn *i)
{
    if (cpu->oszapc & X86_HOST_OF)
        return software_exception(cpu, i, X86_OFV);
    NEXT(cpu, i);
}

// INT1 is a debug trap without a cause in DR6; its gate's privilege is not checked.
static const struct insn *int1(struct x86_cpu *cpu, const struct insn *i)
{
    const struct insn *next = software_exception(cpu, i, X86_DB);
    cpu->exception.privileged = true;
    return next;
}

bool x86_emit_int3(struct x86_emit *e, unsigned p)
{
    (void)p;
    return emit_last(e, int3);
}

bool x86_emit_int1(struct x86_emit *e, unsigned p)
{
    (void)p;
    return emit_last(e, int1);
}

bool x86_emit_into(struct x86_emit *e, unsigned p)
{
    (void)p;
    return emit_fn(e, into);
}

static const struct insn *iret(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->current = i;
    cpu->rip = x86_insn_rip(cpu, i);
    return transferred(cpu, i, x86_interrupt_return(cpu, i->size, x86_insn_next_rip(cpu, i)));
}

bool x86_emit_iret(struct x86_emit *e, unsigned p)
{
    e->insn->size = (uint8_t)p;
    return emit_last(e, iret);
}

// ---- System calls (APM vol. 3: SYSCALL, SYSRET, SYSENTER, SYSEXIT) ----------------------------------------

#define CODE64 (X86_SEG_G | X86_SEG_L | X86_SEG_P | X86_SEG_S | 0xb)
#define CODE32 (X86_SEG_G | X86_SEG_DB | X86_SEG_P | X86_SEG_S | 0xb)
#define DATA32 (X86_SEG_G | X86_SEG_DB | X86_SEG_P | X86_SEG_S | 0x3)

// Flat segments without a look at the tables. `cs` and `ss` are selectors, `code` the kind of code.
static void flat_segments(struct x86_cpu *cpu, unsigned cs, uint16_t code, unsigned ss, unsigned cpl)
{
    uint16_t dpl = (uint16_t)(cpl << X86_SEG_DPL_SHIFT);
    cpu->slot[X86_SLOT_SEGMENT + X86_CS] = cpu->slot[X86_SLOT_SEGMENT + X86_SS] = 0;
    cpu->segment[X86_CS] = (struct x86_segment){ .limit = 0xffffffff,
                                                 .selector = (uint16_t)((cs & ~3u) | cpl),
                                                 .attributes = code | dpl };
    cpu->segment[X86_SS] = (struct x86_segment){ .limit = 0xffffffff,
                                                 .selector = (uint16_t)((ss & ~3u) | cpl),
                                                 .attributes = DATA32 | dpl };
    cpu->cpl = (uint8_t)cpl;
}

static const struct insn *syscall_op(struct x86_cpu *cpu, const struct insn *i)
{
    if (!(cpu->efer & X86_EFER_SCE) || !(cpu->cr0 & X86_CR0_PE))
        return x86_raise(cpu, i, X86_UD, -1);
    uint64_t flags = x86_get_rflags(cpu), next = x86_insn_next_rip(cpu, i);
    unsigned selector = cpu->star >> 32 & 0xffff;
    if (segment_long(cpu)) {
        bool code64 = i->flags & INSN_CODE64;
        cpu->slot[X86_RCX] = code64 ? next : next & 0xffffffff;
        cpu->slot[X86_R11] = flags & ~(uint64_t)X86_RF;
        cpu->rip = code64 ? cpu->lstar : cpu->cstar;
        flags &= ~(cpu->sfmask | X86_RF);
        flat_segments(cpu, selector, CODE64, selector + 8, 0);
    } else {
        cpu->slot[X86_RCX] = next & 0xffffffff;
        cpu->rip = cpu->star & 0xffffffff;
        flags &= ~(uint64_t)(X86_VM | X86_IF | X86_RF);
        flat_segments(cpu, selector, CODE32, selector + 8, 0);
    }
    x86_set_rflags(cpu, flags);
    x86_update_mode(cpu);
    return x86_leave_branch(cpu, i);
}

// SS is loaded whole. This vendor's processors keep its old attributes; software that expects that is not
// disturbed.
static const struct insn *sysret(struct x86_cpu *cpu, const struct insn *i)
{
    if (!(cpu->efer & X86_EFER_SCE) || !(cpu->cr0 & X86_CR0_PE))
        return x86_raise(cpu, i, X86_UD, -1);
    PRIVILEGED();
    unsigned selector = cpu->star >> 48;
    if (segment_long(cpu)) {
        bool to64 = i->size == 8;
        cpu->rip = to64 ? R64(OFFSET(X86_RCX)) : R32(OFFSET(X86_RCX));
        flat_segments(cpu, to64 ? selector + 16 : selector, to64 ? CODE64 : CODE32, selector + 8, 3);
        x86_set_rflags(cpu, cpu->slot[X86_R11] & 0x3c7fd7);
    } else {
        cpu->rip = R32(OFFSET(X86_RCX));
        flat_segments(cpu, selector, CODE32, selector + 8, 3);
        x86_set_rflags(cpu, x86_get_rflags(cpu) | X86_IF);
    }
    x86_update_mode(cpu);
    return x86_leave_branch(cpu, i);
}

// On this vendor SYSENTER and SYSEXIT are for legacy modes only.
static const struct insn *sysenter(struct x86_cpu *cpu, const struct insn *i)
{
    if (segment_long(cpu))
        return x86_raise(cpu, i, X86_UD, -1);
    if (!(cpu->cr0 & X86_CR0_PE) || segment_is_null((uint16_t)cpu->sysenter_cs))
        return x86_raise(cpu, i, X86_GP, 0);
    unsigned selector = cpu->sysenter_cs & 0xffff;
    x86_set_rflags(cpu, x86_get_rflags(cpu) & ~(uint64_t)(X86_VM | X86_IF | X86_RF));
    flat_segments(cpu, selector, CODE32, selector + 8, 0);
    cpu->slot[X86_RSP] = cpu->sysenter_esp & 0xffffffff;
    cpu->rip = cpu->sysenter_eip & 0xffffffff;
    x86_update_mode(cpu);
    return x86_leave_branch(cpu, i);
}

static const struct insn *sysexit(struct x86_cpu *cpu, const struct insn *i)
{
    if (segment_long(cpu))
        return x86_raise(cpu, i, X86_UD, -1);
    if (!(cpu->cr0 & X86_CR0_PE) || cpu->cpl || segment_is_null((uint16_t)cpu->sysenter_cs))
        return x86_raise(cpu, i, X86_GP, 0);
    unsigned selector = cpu->sysenter_cs & 0xffff;
    flat_segments(cpu, selector + 16, CODE32, selector + 24, 3);
    cpu->slot[X86_RSP] = R32(OFFSET(X86_RCX));
    cpu->rip = R32(OFFSET(X86_RDX));
    x86_update_mode(cpu);
    return x86_leave_branch(cpu, i);
}

bool x86_emit_syscall(struct x86_emit *e, unsigned p)
{
    (void)p;
    return emit_last(e, syscall_op);
}

bool x86_emit_sysret(struct x86_emit *e, unsigned p)
{
    (void)p;
    return emit_last(e, sysret);
}

bool x86_emit_sysenter(struct x86_emit *e, unsigned p)
{
    (void)p;
    return emit_last(e, sysenter);
}

bool x86_emit_sysexit(struct x86_emit *e, unsigned p)
{
    (void)p;
    return emit_last(e, sysexit);
}

// Where the platform takes no hypercalls the instruction is not there.
static const struct insn *hypercall(struct x86_cpu *cpu, const struct insn *i)
{
    switch (cpu->bus->hypercall ? cpu->bus->hypercall(cpu) : X86_FAULT_GP) {
    case X86_DONE:
        return x86_leave_done(cpu, i);
    case X86_ANSWER_EXIT:
        return x86_leave_exit(cpu, i);
    case X86_FAULT_GP:
        break;
    }
    return x86_raise(cpu, i, X86_UD, -1);
}

bool x86_emit_hypercall(struct x86_emit *e, unsigned p)
{
    (void)p;
    return emit_last(e, hypercall);
}
