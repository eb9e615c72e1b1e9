// The block cache: decoded code by host address and mode, and the loop that runs it.
//
// Owns: all blocks of one processor, in one arena; when the arena is full everything is dropped. Each processor has its
// own cache, so nothing here is locked.
// Invariants:
//  - A block's bytes were compared with memory since its `generation` last equalled cpu->generation. The processor's own
//    stores to a page that holds blocks take the slow path and kill what they touch at once; stores by others (processors,
//    devices) are seen at the next serialising event, as the architecture asks of them (SDM vol. 3A 9.1.3).
//  - A dead block has generation 0 and every handler in it leads back to the look-up, so a stale pointer to it is harmless
//    until the arena is dropped, which forgets every such pointer.
#ifndef BULKHEAD_X86_CODE_H
#define BULKHEAD_X86_CODE_H

#include "x86/cpu.h"

struct x86_code *x86_code_new(void);        // NULL: no memory
void x86_code_free(struct x86_code *code);

// The next instruction at cpu->rip, or NULL with cpu->leave and its reason recorded (a fetch fault).
const struct insn *x86_code_enter(struct x86_cpu *cpu);

// Run until something other than a jump ends a block, the budget is used up, or cpu->generation is not `generation` any
// more: sample it before looking for reasons not to run, and no kick is lost.
enum x86_leave x86_run(struct x86_cpu *cpu, uint64_t generation);

// The current instruction is the last one before x86_run returns, whatever comes behind it. For a platform that has set
// cpu->leave_behind in the middle of it.
void x86_code_end_here(struct x86_cpu *cpu);

// The processor stored to memory that may hold its code.
void x86_code_written(struct x86_cpu *cpu, const uint8_t *host, unsigned size);
// True when the page at this host address holds decoded code, so that stores to it must be watched.
bool x86_code_in_page(const struct x86_cpu *cpu, const uint8_t *host);

// Forget all blocks.
void x86_code_drop(struct x86_cpu *cpu);

// Host address behind a linear code address, or NULL with the fault or exit recorded.
const uint8_t *x86_fetch_pointer(struct x86_cpu *cpu, uint64_t linear);

// Where `linear` would be in the jump cache.
static inline struct x86_jump_entry *x86_jump_slot(struct x86_cpu *cpu, uint64_t linear)
{
    return &cpu->jumps[(linear ^ linear >> 11) & (X86_JUMP_ENTRIES - 1)];
}

// Go to a RIP whose CS checks are done: the first instruction there when the jump cache knows it, else NULL with
// cpu->rip and cpu->leave set for the look-up. The instructions up to the branch are accounted for already.
static inline const struct insn *x86_jump64(struct x86_cpu *cpu, uint64_t rip)
{
    const struct x86_jump_entry *entry = x86_jump_slot(cpu, rip);
    struct x86_block *block = entry->block;
    if (X86_LIKELY(entry->linear == rip && entry->key == cpu->jump_key && block->generation == cpu->generation
                   && cpu->budget >= 0)) {
        cpu->slot[X86_SLOT_RIP_PAGE] = rip - block->page_offset;
        return block->insns;
    }
    cpu->rip = rip;
    cpu->leave = X86_LEAVE_LOOKUP;
    return NULL;
}

#endif
