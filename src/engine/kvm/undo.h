// From a half-done operation back to the state before its instruction.
//
// WHP reports a port or memory access before it has happened: RIP on the instruction, no register changed.
// KVM has often done part of the instruction by then. Per kind of exit (the kernel's arch/x86/kvm/x86.c,
// x86_emulate_instruction, kvm_fast_pio, complete_emulated_mmio, complete_emulated_pio):
//
//  exit                 registers at the exit                 what the next KVM_RUN still does
//  IN, by hardware      as before; RIP on it                  writes RAX, skips; nothing when RIP has moved
//  OUT, by hardware     as before; RIP on it                  skips; nothing when RIP has moved
//  IN, INS, emulated    as before; RIP on it                  all of the instruction (REP: of the block
//                                                             read)
//  OUT, emulated        done; RIP behind it                   nothing
//  OUTS, emulated       one element done; RIP behind it, of   nothing
//                       a repetition still on it, RCX 0 or
//                       not
//  MMIO read            as before; RIP on it                  all of the instruction; may exit again (a
//                                                             write, or the next element of a repetition)
//  MMIO write           as after OUTS                         nothing, but for the rest of an access that
//                                                             is wider than 8 bytes or goes on in another
//                                                             page
//
// What KVM has overwritten is lost: RFLAGS.RF and the interrupt shadow (they are off afterwards), the upper
// halves of registers that an instruction with 32-bit operands or addresses has cleared, and for a
// read-modify-write on memory that can only be read the arithmetic flags. Running the instruction again makes
// the same of them.
//
// Not found: what pushes more than one thing and jumps (far CALL, INT), ENTER, a CMPXCHG that fails, and
// read-modify-write with vector registers, where their write is what KVM exits for.
//
// Everything here is a function of the processor's view (struct x86_cpu, loaded and settled, its bus able to
// fetch code and translate) and of kvm_run's contents; nothing calls the kernel.
#ifndef BULKHEAD_KVM_UNDO_H
#define BULKHEAD_KVM_UNDO_H

#include "engine/kvm/abi.h"
#include "engine/kvm/undo_insn.h"
#include "x86/cpu.h"

enum kvm_pending_kind {
    KVM_PENDING_NOTHING,        // KVM is done with the instruction
    KVM_PENDING_INPUT,          // KVM waits for data to complete the instruction with
    KVM_PENDING_SKIP,           // KVM will skip the instruction if RIP is still on it
    KVM_PENDING_MORE,           // KVM will exit for the rest of a write
};

#define KVM_UNDO_WRITES 4
#define KVM_UNDO_SEEN 16        // a power of two

// What is remembered of an instruction that wrote and ended at `end`: how long it was, and if it is a plain one, all
// that it takes to see that it has run again.
struct undo_seen {
    uint64_t end;
    uint8_t length;             // 0: nothing is remembered
    bool plain;                 // OUT, or a MOV of a general register or a number to memory; the rest is about it
    bool port;                  // OUT; to the port `number`, or with UNDO_PORT_DX to that in DX
    uint8_t size;               // bytes written
    uint8_t source;             // byte offset into cpu->slot, or UNDO_NUMBER
    uint32_t mode;
    uint64_t number;            // what is written, or the port
    struct undo_operand to;
    uint8_t bytes[UNDO_AFTER];
};
#define UNDO_NUMBER 255u
#define UNDO_PORT_DX 0x10000u

// The same of a plain load (see struct kvm_undo) at `rip`.
struct undo_seen_load {
    uint64_t rip;
    uint8_t length;             // 0: nothing is remembered
    bool port;                  // IN; from the port `number`, or with UNDO_PORT_DX from that in DX
    uint8_t target, size, width;
    bool sign;
    uint32_t mode;
    uint32_t number;
    struct undo_operand from;
    uint8_t bytes[UNDO_AFTER];
};

// An instruction that KVM reported, found again.
struct kvm_undo {
    enum kvm_pending_kind pending;
    uint64_t rip;               // of its first byte
    uint8_t length;             // 0: it was not found (see kvm_undo_exit)
    bool port, string, rep;
    uint8_t bytes[16];          // from its first byte on, as many as can be fetched
    uint8_t byte_count;
    // For KVM_PENDING_INPUT. A plain load of `size` bytes into one general register, and nothing else: the
    // data can be had from the register that the client has set. Otherwise `plain` is false.
    bool plain;
    uint8_t target;             // byte offset into cpu->slot
    uint8_t size;               // bytes read
    uint8_t width;              // bytes written to the register; 4 clears the upper half
    bool sign;                  // MOVSX, else zero-extended
    // What completing it would change besides general registers, RIP and RFLAGS.
    bool changes_fpu;           // x87, MMX, SSE, AVX registers or their control
    struct { uint64_t linear; uint32_t size; } writes[KVM_UNDO_WRITES];     // memory, by linear address
    uint8_t write_count;
    uint64_t count_mask;        // REP: the bits of RCX that count; else 0
    // The access is the only one to memory that the instruction makes, and all of it was reported: `linear` is
    // where.
    bool whole;
    uint64_t linear;
    // Kept from exit to exit, and zero before the first. Guests exit from the same few places, and what was
    // found there before saves the search.
    struct undo_seen seen[KVM_UNDO_SEEN];
    struct undo_seen_load loads[KVM_UNDO_SEEN];
    struct undo_decoded decoded;
};

// Find the instruction that the KVM_EXIT_IO or KVM_EXIT_MMIO in `run` is about, and put the view's registers
// back to before it. `ambiguous` is set, and the view left alone, when an OUT that KVM has done and one that
// it is about to skip fit equally well: complete what is pending (KVM_RUN with immediate_exit), load the view
// again and call with `completed`. False: no instruction fits (its code has changed since, or it is one that
// cannot be decoded); the view is as it was, with RIP where KVM left it, and `undo` says what is pending.
bool kvm_undo_exit(struct x86_cpu *cpu, const struct kvm_run *run, bool completed, bool *ambiguous,
                   struct kvm_undo *undo);

// The registers that a plain load can change or depend on, kept from before the instruction.
struct kvm_undo_registers { uint64_t slot[16], rflags; uint16_t oszapc; };
void kvm_undo_keep(struct kvm_undo_registers *registers, const struct x86_cpu *cpu);

// The client has set the view to what it wants. True: that is the state before the instruction (`before`),
// changed as the instruction itself would change it for a plain load of some data: `data` receives it, and
// KVM may complete the instruction with it. Only RIP and the target register were changed, RIP to the next
// instruction.
bool kvm_undo_feed(const struct kvm_undo *undo, const struct kvm_undo_registers *before,
                   const struct x86_cpu *wanted, uint8_t data[8]);

#endif
