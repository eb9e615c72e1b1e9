// From instruction bytes to `struct insn`: the table of instructions and what their emitters may use.
//
// One row per mnemonic in an ops_*.def file: X86_ROW(MNEMONIC, emitter, parameter, FEATURE). Zydis decodes
// the bytes; the row's emitter picks the handler for the form at hand and fills the operands. A mnemonic
// without a row, a row whose feature the processor does not show, and a form that the emitter refuses are
// invalid opcodes (#UD). Adding an instruction: its row in the family's .def, its handler in the family's
// ops_*.c.
#ifndef BULKHEAD_X86_DECODE_H
#define BULKHEAD_X86_DECODE_H

#include <Zydis/Zydis.h>

#include "x86/cpu.h"

// What CPUID shows and decoding allows: one name per feature, used as a bit number in cpu->features.
// The table x86/features.def has a row per feature: X86_FEATURE_ROW(NAME, leaf, subleaf, register, bit).
enum x86_feature {
    X86_FEATURE_BASE,               // always there
#define X86_FEATURE_ROW(name, leaf, subleaf, reg, bit) X86_FEATURE_##name,
#include "x86/features.def"
#undef X86_FEATURE_ROW
    X86_FEATURES
};
_Static_assert(X86_FEATURES <= 256, "cpu->features holds 256 bits");

static inline bool x86_has_feature(const struct x86_cpu *cpu, enum x86_feature feature)
{
    return feature == X86_FEATURE_BASE || (cpu->features[feature / 64] >> (feature % 64) & 1);
}

struct x86_emit {
    const ZydisDecodedInstruction *z;
    const ZydisDecodedOperand *operand;     // visible operands first, then hidden ones
    struct x86_cpu *cpu;
    struct insn *insn;                      // length, page_offset, number, flags, size (operand width) are filled in
    uint32_t mode;                          // enum x86_mode of the block
    bool ends_block;                        // set by an emitter whose handler never continues with NEXT
};

// Fills the one instruction; false: #UD.
typedef bool (*x86_emitter)(struct x86_emit *e, unsigned parameter);

static inline bool x86_emit_code64(const struct x86_emit *e) { return (e->mode & X86_MODE_CODE) == X86_MODE_CODE64; }

// Fill base, index, scale, segment, disp and mem from a memory operand.
void x86_emit_memory(struct x86_emit *e, const ZydisDecodedOperand *operand);
// Byte offset into cpu->slot of a general register (AH..BH: offset 1 of their slot; RIP is not one).
uint8_t x86_emit_gpr(ZydisRegister reg);
// Index 0-15 of an XMM/YMM register, 0-7 of an MMX/x87/segment/control/debug register in encoding order.
uint8_t x86_emit_index(ZydisRegister reg);

static inline bool x86_is_segment(ZydisRegister reg) { return reg >= ZYDIS_REGISTER_ES && reg <= ZYDIS_REGISTER_GS; }
static inline bool x86_is_memory(const ZydisDecodedOperand *operand) { return operand->type == ZYDIS_OPERAND_TYPE_MEMORY; }
static inline bool x86_is_register(const ZydisDecodedOperand *operand) { return operand->type == ZYDIS_OPERAND_TYPE_REGISTER; }
static inline bool x86_is_immediate(const ZydisDecodedOperand *operand) { return operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE; }

// Zydis as code of this mode (enum x86_mode) wants it.
void x86_decoder_init(ZydisDecoder *decoder, uint32_t mode);

enum x86_decode_result { X86_DECODE_OK, X86_DECODE_END, X86_DECODE_INVALID, X86_DECODE_TRUNCATED };

// Decode one instruction. OK: go on behind it; END: it ends a block; INVALID: `insn` raises #UD (and ends the
// block); TRUNCATED: more bytes are needed, `insn` is untouched. `size` may exceed 15. `page_offset` is that
// of bytes[0].
enum x86_decode_result x86_decode(struct x86_cpu *cpu, uint32_t mode, const uint8_t *bytes, size_t size,
                                  unsigned page_offset, unsigned number, struct insn *insn);

// Run the one instruction at cpu->rip outside of the block cache, from `size` of its bytes (16 at most), or
// fetching them when `bytes` is NULL. X86_LEAVE_LOOKUP: done, RIP is behind it (or on it, for a repetition
// that goes on). `step` is all zero at first; it remembers the last decoding, and stays in place as long as
// the processor may refer to it (cpu->current, when memory goes away).
struct x86_step {
    struct insn insn[2];
    uint8_t bytes[16], size;        // what insn[0] was decoded from; size 0: nothing that may be used again
    uint32_t mode;
};
enum x86_leave x86_step(struct x86_cpu *cpu, const uint8_t *bytes, unsigned size, struct x86_step *step);

#endif
