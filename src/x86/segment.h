// Descriptors and stacks as the far transfers, exceptions and task switches share them. Private to src/x86.
//
// What can fail here returns false with the fault or exit recorded, and has changed no register then.
#ifndef BULKHEAD_X86_SEGMENT_H
#define BULKHEAD_X86_SEGMENT_H

#include "x86/system.h"

// A descriptor taken apart (SDM vol. 3A 3.4.5).
struct x86_descriptor {
    uint64_t linear;            // where it lies
    uint64_t raw;               // its first 8 bytes
    uint64_t base;
    uint32_t limit;             // in bytes, scaled
    uint16_t attributes;        // as in struct x86_segment
    uint16_t selector;          // that it was fetched by
};

static inline bool segment_is_null(uint16_t selector) { return (selector & 0xfffc) == 0; }
static inline unsigned segment_dpl(uint16_t attributes)
{
    return (attributes & X86_SEG_DPL) >> X86_SEG_DPL_SHIFT;
}
static inline bool segment_is_code(uint16_t attributes)
{
    return (attributes & (X86_SEG_S | 8)) == (X86_SEG_S | 8);
}
static inline bool segment_is_conforming(uint16_t attributes) { return attributes & 4; }
static inline bool segment_is_writable_data(uint16_t attributes)
{
    return (attributes & (X86_SEG_S | 8 | 2)) == (X86_SEG_S | 2);
}

static inline bool segment_protected(const struct x86_cpu *cpu)
{
    return (cpu->cr0 & X86_CR0_PE) && !(cpu->rflags & X86_VM);
}

static inline bool segment_long(const struct x86_cpu *cpu) { return (cpu->efer & X86_EFER_LMA) != 0; }

static inline bool segment_code64(const struct x86_cpu *cpu)
{
    return (cpu->mode & X86_MODE_CODE) == X86_MODE_CODE64;
}

// Take apart 8 bytes; `d->linear` and `d->selector` are not touched.
void segment_unpack(struct x86_descriptor *d, uint64_t raw);
// Where a selector's descriptor lies; false (no fault recorded): beyond its table. `size`: 8 or 16.
bool segment_locate(const struct x86_cpu *cpu, uint16_t selector, unsigned size, uint64_t *linear);
// Fetch a descriptor. Beyond the table: exception `vector` with the selector and `ext` (0 or 1) as its code.
bool segment_fetch(struct x86_cpu *cpu, uint16_t selector, unsigned vector, unsigned ext,
                   struct x86_descriptor *d);
// The upper half of a system descriptor in long mode: completes d->base, gives the raw half.
bool segment_fetch_upper(struct x86_cpu *cpu, struct x86_descriptor *d, unsigned vector, unsigned ext,
                         uint64_t *upper);
// Set the accessed bit in memory (and in *d).
bool segment_touch(struct x86_cpu *cpu, struct x86_descriptor *d);

// These only change registers. They leave cpu->mode to the caller.
void segment_install(struct x86_cpu *cpu, unsigned index, uint16_t selector, const struct x86_descriptor *d);
void segment_clear(struct x86_cpu *cpu, unsigned index, uint16_t selector);
void segment_install_real(struct x86_cpu *cpu, unsigned index, uint16_t selector);

// Checks of a stack segment for privilege `cpl`. `vector` is what a wrong one raises: #GP or #TS. Sets the
// accessed bit.
bool segment_check_stack(struct x86_cpu *cpu, uint16_t selector, unsigned cpl, unsigned vector, unsigned ext,
                         struct x86_descriptor *d);

// Load ES, DS, FS or GS with all checks; `vector` is what a wrong selector raises.
bool segment_load_data(struct x86_cpu *cpu, unsigned segment, uint16_t selector, unsigned vector);

// A stack that is being filled or emptied; nothing is committed before segment_stack_commit.
struct x86_stack {
    uint64_t sp, mask, base;
    uint32_t limit;
    uint16_t attributes;
    bool wide;                  // 64-bit: no base, no limit
    unsigned access;            // X86_IMPLICIT for the stack of an inner privilege
    uint32_t error;             // code of the #SS for an address beyond it
};
void segment_stack_current(const struct x86_cpu *cpu, struct x86_stack *st);
void segment_stack_legacy(struct x86_stack *st, const struct x86_descriptor *ss, uint64_t sp);
bool segment_push(struct x86_cpu *cpu, struct x86_stack *st, unsigned size, uint64_t value);
bool segment_pop(struct x86_cpu *cpu, struct x86_stack *st, unsigned size, uint64_t *value);
void segment_stack_commit(struct x86_cpu *cpu, const struct x86_stack *st);
// The stack that the TSS has for privilege `cpl`. In long mode `ss` is not filled: SS becomes null.
bool segment_inner_stack(struct x86_cpu *cpu, unsigned cpl, unsigned ext, struct x86_stack *st,
                         struct x86_descriptor *ss);
// 8 bytes at `offset` of the TSS in long mode (stack pointers).
bool segment_tss_pointer(struct x86_cpu *cpu, unsigned offset, unsigned ext, uint64_t *value);

// Task switch (SDM vol. 3A 8.3), legacy modes only. `code`: an error code to push on the new stack, or < 0.
// Faults of the new task's own segments come when the switch is done: they are delivered in the new task,
// from here. Where that ends the processor or asks for an exit, the result is false with cpu->leave saying
// so.
enum segment_task { SEGMENT_TASK_JUMP, SEGMENT_TASK_CALL, SEGMENT_TASK_RETURN };
bool segment_task_switch(struct x86_cpu *cpu, uint16_t selector, enum segment_task how, uint64_t next_rip,
                         unsigned ext, int64_t code);

#endif
