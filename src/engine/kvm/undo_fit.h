// Inside undo: does an instruction fit what KVM reports as written, and what were the registers before it?
#ifndef BULKHEAD_KVM_UNDO_FIT_H
#define BULKHEAD_KVM_UNDO_FIT_H

#include "engine/kvm/undo_insn.h"

// What KVM reports.
struct undo_report {
    bool port;
    uint64_t address;           // the port, or where in guest memory
    unsigned size, count;       // of one element; ports: how many elements
    const uint8_t *data;
    // Whether an instruction's source in memory must still hold what was written. It need not: other
    // processors and devices write too.
    bool exact;
};

// An instruction that fits, and how to undo it.
struct undo_fit {
    const struct undo_insn *insn;   // whoever asks has decoded it
    uint64_t gpr[UNDO_GPRS];    // before it
    bool finished;              // RIP has left it
    bool more;                  // its write goes on behind the part that is reported
    bool carry;                 // RFLAGS.CF before it, where it is one of its sources
    bool proven;                // what it writes is what was reported, byte for byte
    bool whole;                 // and that is the only access that it makes to memory; at `linear`
    uint64_t linear;
};

// `insn` decodes to where RIP is (finished), or lies at RIP (not finished: a repetition that goes on, or a
// port access that hardware has left to be skipped). The processor's registers are as KVM left them. The rest
// of `fit` is filled in.
bool undo_fits(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit);
// A near CALL whose return address is what was written: `fit->insn` ends there, and RIP is its target.
bool undo_fits_call(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit);

#endif
