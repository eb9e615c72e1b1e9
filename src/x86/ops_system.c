// Instructions about the processor itself: flags, HLT, CPUID, TSC, MSRs, caches and translations.
#include "x86/ops_system.h"

// ---- PUSHF, POPF, CLI, STI, STAC, CLAC --------------------------------------------------------------------

static bool iopl_forbids(const struct x86_cpu *cpu)
{
    if (!(cpu->cr0 & X86_CR0_PE))
        return false;
    unsigned iopl = (cpu->rflags & X86_IOPL) >> X86_IOPL_SHIFT;
    return cpu->cpl > iopl;         // CPL is 3 in virtual-8086 mode, where IOPL has to be 3
}

static const struct insn *pushf(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->current = i;
    if ((cpu->rflags & X86_VM) && iopl_forbids(cpu))
        return x86_raise(cpu, i, X86_GP, 0);
    if (!x86_push(cpu, i->size, x86_get_rflags(cpu) & ~(uint64_t)(X86_VM | X86_RF)))
        return x86_leave_fault(cpu, i);
    NEXT(cpu, i);
}

static const struct insn *pushfq(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->current = i;
    uint64_t to = cpu->slot[X86_RSP] - 8;
    STORE(uint64_t, to, x86_get_rflags(cpu) & ~(uint64_t)(X86_VM | X86_RF));
    cpu->slot[X86_RSP] = to;
    NEXT(cpu, i);
}

// Takes the flags that POPF may change. True: the block may go on.
static bool popf_take(struct x86_cpu *cpu, uint64_t image, unsigned size)
{
    uint64_t old = x86_get_rflags(cpu);
    uint64_t mask = X86_ARITHMETIC | X86_TF | X86_DF | X86_NT;
    if (size > 2)
        mask |= X86_AC | X86_ID;
    if (!iopl_forbids(cpu))
        mask |= X86_IF;
    if (cpu->cpl == 0)
        mask |= X86_IOPL;
    uint64_t flags = ((old & ~mask) | (image & mask)) & ~(uint64_t)X86_RF;
    x86_set_rflags(cpu, flags);
    uint64_t changed = old ^ flags;
    if (changed & (X86_TF | X86_AC))
        x86_update_mode(cpu);
    return !(changed & (X86_TF | X86_AC | X86_IF));
}

static const struct insn *popf(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t image;
    cpu->current = i;
    if ((cpu->rflags & X86_VM) && iopl_forbids(cpu))
        return x86_raise(cpu, i, X86_GP, 0);
    if (!x86_pop(cpu, i->size, &image))
        return x86_leave_fault(cpu, i);
    (void)popf_take(cpu, image, i->size);
    return x86_leave_done(cpu, i);
}

static const struct insn *popfq(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->current = i;
    uint64_t from = cpu->slot[X86_RSP];
    LOAD(uint64_t, image, from);
    cpu->slot[X86_RSP] = from + 8;
    if (!popf_take(cpu, image, 8))
        return x86_leave_done(cpu, i);
    NEXT(cpu, i);
}

bool x86_emit_pushf(struct x86_emit *e, unsigned p)
{
    e->insn->size = (uint8_t)p;
    return emit_fn(e, p == 8 ? pushfq : pushf);
}

bool x86_emit_popf(struct x86_emit *e, unsigned p)
{
    e->insn->size = (uint8_t)p;
    return p == 8 ? emit_fn(e, popfq) : emit_last(e, popf);
}

static const struct insn *cli(struct x86_cpu *cpu, const struct insn *i)
{
    if (X86_UNLIKELY(iopl_forbids(cpu)))
        return x86_raise(cpu, i, X86_GP, 0);
    cpu->rflags &= ~(uint64_t)X86_IF;
    NEXT(cpu, i);
}

// Interrupts are let in after the instruction that follows, when they were shut out before.
static const struct insn *sti(struct x86_cpu *cpu, const struct insn *i)
{
    if (X86_UNLIKELY(iopl_forbids(cpu)))
        return x86_raise(cpu, i, X86_GP, 0);
    if (cpu->rflags & X86_IF)
        NEXT(cpu, i);
    cpu->rflags |= X86_IF;
    cpu->interrupt_shadow = 1;
    x86_update_mode(cpu);
    return x86_leave_done(cpu, i);
}

static const struct insn *stac(struct x86_cpu *cpu, const struct insn *i)
{
    if (X86_UNLIKELY(cpu->cpl != 0))
        return x86_raise(cpu, i, X86_UD, -1);
    cpu->rflags |= X86_AC;
    x86_update_mode(cpu);           // only the choice of TLB changes: the block goes on
    NEXT(cpu, i);
}

static const struct insn *clac(struct x86_cpu *cpu, const struct insn *i)
{
    if (X86_UNLIKELY(cpu->cpl != 0))
        return x86_raise(cpu, i, X86_UD, -1);
    cpu->rflags &= ~(uint64_t)X86_AC;
    x86_update_mode(cpu);
    NEXT(cpu, i);
}

// ---- HLT, CLTS, INVLPG, INVD ------------------------------------------------------------------------------

static const struct insn *hlt(struct x86_cpu *cpu, const struct insn *i)
{
    PRIVILEGED();
    x86_count_add(&cpu->counts.instruction[X86_COUNT_HALT].count, 1);
    const struct insn *next = x86_leave_done(cpu, i);
    cpu->leave = X86_LEAVE_HALT;
    return next;
}

static const struct insn *clts(struct x86_cpu *cpu, const struct insn *i)
{
    PRIVILEGED();
    x86_count_add(&cpu->counts.instruction[X86_COUNT_CONTROL].count, 1);
    cpu->cr0 &= ~(uint64_t)X86_CR0_TS;
    return x86_leave_done(cpu, i);
}

static const struct insn *invlpg(struct x86_cpu *cpu, const struct insn *i)
{
    PRIVILEGED();
    ADDRESS(lin, 1, X86_READ);
    struct x86_counted *counted = &cpu->counts.instruction[X86_COUNT_INVALIDATION];
    uint64_t begun = x86_count_begin(counted);
    x86_flush_page(cpu, lin);
    x86_serialize(cpu);
    x86_count_end(&cpu->counts, counted, begun);
    return x86_leave_done(cpu, i);
}

// INVD and WBINVD: there is no cache whose contents could differ from memory.
static const struct insn *invd(struct x86_cpu *cpu, const struct insn *i)
{
    PRIVILEGED();
    x86_serialize(cpu);
    return x86_leave_done(cpu, i);
}

// ---- CPUID, TSC, MSRs -------------------------------------------------------------------------------------

static const struct insn *cpuid(struct x86_cpu *cpu, const struct insn *i)
{
    uint32_t out[4];
    struct x86_counted *counted = &cpu->counts.instruction[X86_COUNT_CPUID];
    uint64_t begun = x86_count_begin(counted);
    enum x86_answer answer = cpu->bus->cpuid(cpu, R32(OFFSET(X86_RAX)), R32(OFFSET(X86_RCX)), out);
    x86_count_end(&cpu->counts, counted, begun);
    switch (answer) {
    case X86_DONE:
        break;
    case X86_FAULT_GP:
        return x86_raise(cpu, i, X86_GP, 0);
    case X86_ANSWER_EXIT:
        return x86_leave_exit(cpu, i);
    }
    cpu->slot[X86_RAX] = out[0];
    cpu->slot[X86_RBX] = out[1];
    cpu->slot[X86_RCX] = out[2];
    cpu->slot[X86_RDX] = out[3];
    x86_serialize(cpu);
    return x86_leave_done(cpu, i);
}

// An answer and what came with it, without the address of a local in the handler.
struct answer { uint64_t value; enum x86_answer kind; };

static __attribute__((noinline)) struct answer ask_tsc(struct x86_cpu *cpu, bool rdtscp)
{
    struct answer a = { 0 };
    a.kind = cpu->bus->tsc(cpu, rdtscp, &a.value);
    return a;
}

// Whether the platform has decided about the access, and how; a register that is ignored reads as 0.
static bool msr_decided(struct x86_cpu *cpu, uint32_t msr, bool write, enum x86_answer *answer)
{
    if (X86_LIKELY(!cpu->msr_actions))
        return false;
    enum x86_msr_action action = cpu->bus->msr_action(cpu, msr, write);
    *answer = action == X86_MSR_EXIT ? X86_ANSWER_EXIT : X86_DONE;
    return action != X86_MSR_ACCESS;
}

static __attribute__((noinline)) struct answer ask_msr(struct x86_cpu *cpu)
{
    struct answer a = { 0 };
    struct x86_counted *counted = &cpu->counts.instruction[X86_COUNT_MSR];
    uint64_t begun = x86_count_begin(counted);
    uint32_t msr = R32(OFFSET(X86_RCX));
    if (!msr_decided(cpu, msr, false, &a.kind))
        a.kind = x86_read_msr(cpu, msr, &a.value);
    x86_count_end(&cpu->counts, counted, begun);
    return a;
}

#define TAKE(answer_)                                                                                        \
    do {                                                                                                     \
        if (X86_UNLIKELY((answer_).kind == X86_FAULT_GP))                                                    \
            return x86_raise(cpu, i, X86_GP, 0);                                                             \
        if (X86_UNLIKELY((answer_).kind == X86_ANSWER_EXIT))                                                 \
            return x86_leave_exit(cpu, i);                                                                   \
        cpu->slot[X86_RAX] = (uint32_t)(answer_).value;                                                      \
        cpu->slot[X86_RDX] = (answer_).value >> 32;                                                          \
    } while (0)

static const struct insn *rdtsc(struct x86_cpu *cpu, const struct insn *i)
{
    if ((cpu->cr4 & X86_CR4_TSD) && cpu->cpl)
        return x86_raise(cpu, i, X86_GP, 0);
    struct answer a = ask_tsc(cpu, false);
    TAKE(a);
    NEXT(cpu, i);
}

static const struct insn *rdtscp(struct x86_cpu *cpu, const struct insn *i)
{
    if ((cpu->cr4 & X86_CR4_TSD) && cpu->cpl)
        return x86_raise(cpu, i, X86_GP, 0);
    struct answer a = ask_tsc(cpu, true);
    TAKE(a);
    cpu->slot[X86_RCX] = (uint32_t)cpu->tsc_aux;
    NEXT(cpu, i);
}

// There are no performance counters: no index is a valid one.
static const struct insn *rdpmc(struct x86_cpu *cpu, const struct insn *i)
{
    x86_count_add(&cpu->counts.instruction[X86_COUNT_RDPMC].count, 1);
    return x86_raise(cpu, i, X86_GP, 0);
}

static const struct insn *rdmsr(struct x86_cpu *cpu, const struct insn *i)
{
    PRIVILEGED();
    struct answer a = ask_msr(cpu);
    TAKE(a);
    NEXT(cpu, i);
}

// Those that do not serialise (SDM vol. 3A 9.3): the x2APIC's, the deadline, bases of FS and GS.
static bool wrmsr_serializes(uint32_t msr)
{
    return (msr & ~0xffu) != 0x800 && msr != 0x6e0 && (msr & ~3u) != 0xc0000100;
}

static const struct insn *wrmsr(struct x86_cpu *cpu, const struct insn *i)
{
    PRIVILEGED();
    uint32_t msr = R32(OFFSET(X86_RCX));
    uint64_t value = (uint64_t)R32(OFFSET(X86_RDX)) << 32 | R32(OFFSET(X86_RAX));
    struct x86_counted *counted = &cpu->counts.instruction[X86_COUNT_MSR];
    uint64_t begun = x86_count_begin(counted);
    enum x86_answer answer;
    if (!msr_decided(cpu, msr, true, &answer))
        answer = x86_write_msr(cpu, msr, value);
    x86_count_end(&cpu->counts, counted, begun);
    switch (answer) {
    case X86_DONE:
        break;
    case X86_FAULT_GP:
        return x86_raise(cpu, i, X86_GP, 0);
    case X86_ANSWER_EXIT:
        return x86_leave_exit(cpu, i);
    }
    if (wrmsr_serializes(msr))
        x86_serialize(cpu);
    return x86_leave_done(cpu, i);
}

// ---- Emitters ---------------------------------------------------------------------------------------------

#define PLAIN(name)                                                                                          \
    bool x86_emit_##name(struct x86_emit *e, unsigned p)                                                     \
    {                                                                                                        \
        (void)p;                                                                                             \
        return emit_fn(e, name);                                                                             \
    }
#define LAST(name)                                                                                           \
    bool x86_emit_##name(struct x86_emit *e, unsigned p)                                                     \
    {                                                                                                        \
        (void)p;                                                                                             \
        return emit_last(e, name);                                                                           \
    }

PLAIN(cli)
PLAIN(sti)
PLAIN(stac)
PLAIN(clac)
LAST(hlt)
LAST(clts)
LAST(invd)
LAST(cpuid)
PLAIN(rdtsc)
PLAIN(rdtscp)
LAST(rdpmc)
PLAIN(rdmsr)
LAST(wrmsr)

bool x86_emit_invlpg(struct x86_emit *e, unsigned p)
{
    (void)p;
    x86_emit_memory(e, &e->operand[0]);
    return emit_last(e, invlpg);
}
