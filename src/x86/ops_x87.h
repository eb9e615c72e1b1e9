// What the x87 instruction files share: availability, the register stack, the host's x87 unit, emitters.
//
// The host executes the guest's instruction on 80-bit operands. X87_HOST wraps a single asm statement: it
// loads the guest's precision and rounding control, runs the instruction, reads the host's status word and
// gives the host its control word back. Invalid-operation, denormal, divide-by-zero and precision exceptions
// are masked on the host, so that operands stay where the compiler put them; overflow and underflow are
// masked as the guest has them, because unmasked they give another result (a scaled exponent, SDM vol. 1
// 4.9.1.4-5). The host never traps: an unmasked exception is taken at the next waiting instruction, and
// X87_STATUS clears it with FNCLEX before there is one.
//
// Flags of earlier operations in the host's status word do no harm as long as the guest has them too and
// masks all exceptions; otherwise they are cleared first.
//
// Unmasked guest exceptions set ES; the next waiting instruction raises #MF. With CR0.NE = 0 too: as under
// hardware virtualisation, where NE is fixed to 1 (SDM vol. 3D A.7), there is no FERR# line.
#ifndef BULKHEAD_X86_OPS_X87_H
#define BULKHEAD_X86_OPS_X87_H

#include <string.h>

#include "x86/cpu.h"
#include "x86/decode.h"
#include "x86/fpu.h"

#define X86_ROW(mnemonic, emitter, parameter, feature) bool emitter(struct x86_emit *e, unsigned parameter_);
#include "x86/ops_x87.def"
#undef X86_ROW

#define HANDLER(name) static const struct insn *name(struct x86_cpu *cpu, const struct insn *i)

// ---- Availability (SDM vol. 3A 2.5: CR0.EM, CR0.TS) ---------------------------------------------

// #NM, or #MF when that is not the reason.
const struct insn *x86_x87_unavailable(struct x86_cpu *cpu, const struct insn *i);


#define X87_ENTER                                                                                    \
    if (X86_UNLIKELY((cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)) || (cpu->fpu.fsw & X87_ES)))             \
        return x86_x87_unavailable(cpu, i)
#define X87_ENTER_NO_WAIT                                                                            \
    if (X86_UNLIKELY(cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)))                                          \
        return x86_x87_unavailable(cpu, i)

// ---- Last instruction and operand: insn->imm holds the opcode, and above it the segment ---------

static inline void x87_last(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->fpu.fop = (uint16_t)i->imm & 0x7ff;
    cpu->fpu.fip = x86_insn_rip(cpu, i);
    cpu->fpu.fcs = cpu->segment[X86_CS].selector;
}

static inline void x87_last_memory(struct x86_cpu *cpu, const struct insn *i, uint64_t linear)
{
    x87_last(cpu, i);
    cpu->fpu.fdp = linear - R64(i->segment);
    if (!(i->flags & INSN_CODE64))
        cpu->fpu.fdp = (uint32_t)cpu->fpu.fdp;
    cpu->fpu.fds = cpu->segment[i->imm >> 16 & 7].selector;
}

// Whether a store would go through, without one: for stores that an exception leaves out, and for the far
// end of an area. False: the fault is recorded.
static inline bool x87_probe_write(struct x86_cpu *cpu, uint64_t linear, unsigned size)
{
    bool possible = x86_write_pointer(cpu, linear, size, X86_WRITE);
    cpu->scratch_state.pending = X86_PENDING_NONE;
    return possible;
}

// ---- The register stack. Functions take numbers of physical registers ---------------------------

static inline unsigned x87_st(const struct x86_cpu *cpu, unsigned n) { return (x87_top(&cpu->fpu) + n) & 7; }
static inline bool x87_empty(const struct x86_cpu *cpu, unsigned reg) { return !(cpu->fpu.ftw >> reg & 1); }

static inline void x87_set(struct x86_cpu *cpu, unsigned reg, long double value)
{
    cpu->fpu.st[reg] = value;
    cpu->fpu.ftw |= (uint8_t)(1u << reg);
}

static inline void x87_pop(struct x86_cpu *cpu)
{
    cpu->fpu.ftw &= (uint8_t)~(1u << x87_top(&cpu->fpu));
    cpu->fpu.fsw = (uint16_t)((cpu->fpu.fsw & ~X87_TOP) | ((cpu->fpu.fsw + (1u << X87_TOP_SHIFT)) & X87_TOP));
}

static inline void x87_push(struct x86_cpu *cpu, long double value)
{
    cpu->fpu.fsw = (uint16_t)((cpu->fpu.fsw & ~X87_TOP) | ((cpu->fpu.fsw - (1u << X87_TOP_SHIFT)) & X87_TOP));
    x87_set(cpu, x87_top(&cpu->fpu), value);
}

long double x87_indefinite(void);
// Stack underflow (C1 = 0) or overflow (C1 = 1): IE and SF. True: masked, so the default result is to be
// delivered.
bool x87_stack_fault(struct x86_cpu *cpu, bool overflow);
// Underflow of an instruction whose result goes to `reg`, followed by `pops` pops.
void x87_underflow(struct x86_cpu *cpu, unsigned reg, unsigned pops);

// ---- The host's unit ----------------------------------------------------------------------------

static inline uint16_t x87_host_control(const struct x86_cpu *cpu)
{
    const unsigned always = 0x40u | X87_IE | X87_DE | X87_ZE | X87_PE;
    return (uint16_t)((cpu->fpu.fcw & (0x0f00u | X87_OE | X87_UE)) | always);
}

static inline uint16_t x87_begin(const struct x86_cpu *cpu)
{
    uint16_t status, control, guest = x87_host_control(cpu);
    asm volatile("fnstsw %0\n\tfnstcw %1" : "=a"(status), "=m"(control));
    if (X86_UNLIKELY((status & X87_EXCEPTIONS & ~cpu->fpu.fsw) || (~cpu->fpu.fcw & X87_EXCEPTIONS)))
        asm volatile("fnclex");
    if (X86_UNLIKELY(guest != control))
        asm volatile("fldcw %0" : : "m"(guest));
    return control;
}

static inline void x87_end(const struct x86_cpu *cpu, uint16_t control)
{
    if (X86_UNLIKELY(x87_host_control(cpu) != control))
        asm volatile("fldcw %0" : : "m"(control));
}

// Ends the asm text of an operation: the status word in AX, and nothing pending.
#define X87_STATUS "\n\tfnstsw %%ax\n\ttestb $0x80, %%al\n\tjz 1f\n\tfnclex\n1:"
#define X87_HOST(...)                                                                                \
    do {                                                                                             \
        uint16_t control_ = x87_begin(cpu);                                                          \
        asm volatile(__VA_ARGS__);                                                                   \
        x87_end(cpu, control_);                                                                      \
    } while (0)

#define X87_OPERAND_EXCEPTIONS (X87_IE | X87_DE | X87_ZE)

// The unmasked exceptions among the flags of the host's status word after an operation.
static inline unsigned x87_unmasked(const struct x86_cpu *cpu, uint16_t status)
{
    return status & ~cpu->fpu.fcw & X87_EXCEPTIONS;
}

// Takes flags and C1 over into the guest's status word. False: an unmasked exception of the operands, no
// result.
static inline bool x87_flags(struct x86_cpu *cpu, uint16_t status)
{
    unsigned unmasked = x87_unmasked(cpu, status);
    cpu->fpu.fsw = (uint16_t)((cpu->fpu.fsw & ~X87_C1) | (status & X87_C1));
    if (X86_LIKELY(!unmasked)) {
        cpu->fpu.fsw |= status & X87_EXCEPTIONS;
        return true;
    }
    bool operands = unmasked & X87_OPERAND_EXCEPTIONS;
    if (operands)
        cpu->fpu.fsw &= (uint16_t)~X87_C1;
    cpu->fpu.fsw |= status & (operands ? X87_OPERAND_EXCEPTIONS : X87_EXCEPTIONS);
    cpu->fpu.fsw |= X87_ES | X87_BUSY;
    return !operands;
}

static inline void x87_condition(struct x86_cpu *cpu, uint16_t status, unsigned which)
{
    cpu->fpu.fsw = (uint16_t)((cpu->fpu.fsw & ~which) | (status & which));
}

// ---- Emitters -----------------------------------------------------------------------------------

// Fills the operands: the memory operand if there is one, else the index i of ST(i) in src; the opcode into
// imm. True: there is a memory operand.
bool x87_emit_operands(struct x86_emit *e);

#endif
