// Direct branches as handlers end in them: shared by ops_branch.c and ops_fused.c.
#ifndef BULKHEAD_X86_BRANCH_H
#define BULKHEAD_X86_BRANCH_H

#include "x86/code.h"

#define GOTO(cpu, expression)                           \
    do {                                                \
        const struct insn *target_ = (expression);      \
        if (X86_LIKELY(target_ != NULL))                \
            DISPATCH(cpu, target_);                     \
        return NULL;                                    \
    } while (0)

// A direct branch within the page of this instruction.
#define BRANCH_IN_PAGE(cpu, i)                                                                              \
    do {                                                                                                    \
        struct x86_block *block_ = (i)->chain;                                                              \
        cpu->budget -= (i)->number + 1;                                                                     \
        if (X86_LIKELY(block_ && block_->generation == cpu->generation && cpu->budget >= 0))                \
            DISPATCH(cpu, block_->insns);                                                                   \
        cpu->rip = cpu->slot[X86_SLOT_RIP_PAGE] + (uint64_t)(int64_t)(i)->disp;                             \
        cpu->leave = X86_LEAVE_LOOKUP;                                                                      \
        cpu->chain_from = (i);                                                                              \
        return NULL;                                                                                        \
    } while (0)

#define BRANCH_OFF_PAGE(cpu, i)                                                                             \
    do {                                                                                                    \
        cpu->budget -= (i)->number + 1;                                                                     \
        GOTO(cpu, x86_jump64(cpu, cpu->slot[X86_SLOT_RIP_PAGE] + (uint64_t)(int64_t)(i)->disp));             \
    } while (0)

// A Jcc with this condition (0 to 15, as encoded) has been put behind `first`: make one handler of both if `first` is a
// comparison. The Jcc stays where it is, for those who come to it by another way.
void x86_fuse(struct insn *first, unsigned condition);

// The comparisons (ops_alu.c), by enum x86_comparison and operand size (8, 16, 32, 64 bits).
enum x86_comparison { X86_COMPARE_CMP, X86_COMPARE_TEST, X86_COMPARISONS };
struct x86_comparison_row { insn_fn rr, ri, same; struct { insn_fn general, plain, simple; } rm, mr, mi; };
extern const struct x86_comparison_row x86_comparisons[X86_COMPARISONS][4];

#endif
