// Inside undo: what KVM would do to the guest if it completed an instruction that waits for data.
#ifndef BULKHEAD_KVM_UNDO_READ_H
#define BULKHEAD_KVM_UNDO_READ_H

#include "engine/kvm/undo.h"
#include "engine/kvm/undo_insn.h"

// An IN or INS that `run` can be about.
bool undo_input_fits(const struct x86_cpu *cpu, const struct kvm_run *run, const struct undo_insn *insn);
// Fill plain, target, size, width, sign; changes_fpu; writes.
void undo_read_effects(struct x86_cpu *cpu, const struct kvm_run *run, const struct undo_insn *insn,
                       struct kvm_undo *undo);

#endif
