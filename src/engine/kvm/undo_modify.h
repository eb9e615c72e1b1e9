// Inside undo: what read-modify-write instructions make of their operand.
#ifndef BULKHEAD_KVM_UNDO_MODIFY_H
#define BULKHEAD_KVM_UNDO_MODIFY_H

#include "engine/kvm/undo_insn.h"

struct undo_modify {
    ZydisMnemonic mnemonic;
    unsigned size;              // bytes, 1 to 8
    uint64_t old;               // the operand before
    uint64_t source;            // the second operand
    unsigned count;             // bits to shift by
    bool carry;                 // RFLAGS.CF before
};

// Whether RFLAGS.CF is one of the instruction's sources.
bool undo_uses_carry(ZydisMnemonic mnemonic);
// Whether it shifts, so that its last operand is a count.
bool undo_shifts(ZydisMnemonic mnemonic);
// The operand afterwards; false: not an instruction that is known here.
bool undo_modified(const struct undo_modify *m, uint64_t *result);

#endif
