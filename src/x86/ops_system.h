// What the system instructions' handlers share. Private to ops_system.c, ops_segment.c and ops_transfer.c.
#ifndef BULKHEAD_X86_OPS_SYSTEM_H
#define BULKHEAD_X86_OPS_SYSTEM_H

#include "x86/decode.h"
#include "x86/segment.h"

// Emitters of this family.
#define X86_ROW(mnemonic, emitter, parameter, feature) bool emitter(struct x86_emit *e, unsigned p);
#include "x86/ops_system.def"
#undef X86_ROW
// The forms of MOV, PUSH, POP, JMP, CALL and RET that belong here.
bool x86_emit_mov_system(struct x86_emit *e, unsigned p);
bool x86_emit_push_segment(struct x86_emit *e, unsigned p);
bool x86_emit_pop_segment(struct x86_emit *e, unsigned p);
bool x86_emit_far(struct x86_emit *e, unsigned p);
bool x86_emit_far_return(struct x86_emit *e, unsigned p);

#define OFFSET(slot_) ((uint8_t)((slot_) * 8))

// `src` of an operand that is memory and not a register.
#define SRC_MEMORY 0xffu

// Put the register or the memory operand into `src` and the address fields.
static inline void emit_register_or_memory(struct x86_emit *e, const ZydisDecodedOperand *operand)
{
    if (x86_is_memory(operand)) {
        e->insn->src = SRC_MEMORY;
        x86_emit_memory(e, operand);
    } else {
        e->insn->src = x86_emit_gpr(operand->reg.value);
    }
}

// The 16-bit value of that operand.
#define OPERAND16(var)                                                                                       \
    uint16_t var;                                                                                            \
    cpu->current = i;                                                                                        \
    if (i->src != SRC_MEMORY) {                                                                              \
        var = R16(i->src);                                                                                   \
    } else {                                                                                                 \
        ADDRESS(operand_linear, 2, X86_READ);                                                                \
        LOAD(uint16_t, operand_value, operand_linear);                                                       \
        var = operand_value;                                                                                 \
    }

// Privileged instructions are for CPL 0.
#define PRIVILEGED()                                                                                         \
    if (X86_UNLIKELY(cpu->cpl != 0))                                                                         \
        return x86_raise(cpu, i, X86_GP, 0)

static inline bool emit_fn(struct x86_emit *e, insn_fn fn)
{
    e->insn->fn = fn;
    return true;
}

// For handlers that never continue with the next instruction of the block. A handler that lets the address of
// a local escape has to be one: its call of the next would not be a jump, and the stack would grow with every
// instruction.
static inline bool emit_last(struct x86_emit *e, insn_fn fn)
{
    e->ends_block = true;
    return emit_fn(e, fn);
}

#endif
