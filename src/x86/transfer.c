// Far control transfers: JMP, CALL and RET between segments, call gates, IRET in every mode.
//
// SDM vol. 3A 5.8, 6.12, 6.14; vol. 2 for each instruction.
#include "x86/segment.h"

#include <string.h>

static uint64_t size_mask(unsigned size)
{
    return size == 2 ? 0xffff : size == 4 ? 0xffffffff : ~0ull;
}

// The address must fit the code segment that it is for.
static bool check_target(struct x86_cpu *cpu, const struct x86_descriptor *cs, uint64_t rip, unsigned ext)
{
    bool fits = segment_long(cpu) && (cs->attributes & X86_SEG_L) ? x86_canonical(rip) : rip <= cs->limit;
    return fits || x86_fault(cpu, X86_GP, ext);
}

static void enter_code(struct x86_cpu *cpu, const struct x86_descriptor *cs, unsigned cpl, uint64_t rip)
{
    cpu->cpl = (uint8_t)cpl;
    segment_install(cpu, X86_CS, (uint16_t)((cs->selector & ~3u) | cpl), cs);
    cpu->rip = rip;
}

// In long mode a code segment can't be of two sizes at once.
static bool impossible_size(const struct x86_cpu *cpu, uint16_t attributes)
{
    return segment_long(cpu) && (attributes & (X86_SEG_L | X86_SEG_DB)) == (X86_SEG_L | X86_SEG_DB);
}

// ---- JMP and CALL -----------------------------------------------------------------------------------------

static bool far_real(struct x86_cpu *cpu, uint16_t selector, uint64_t offset, unsigned size, bool call,
                     uint64_t next_rip)
{
    struct x86_stack st;
    offset &= size_mask(size);
    if (offset > cpu->segment[X86_CS].limit)
        return x86_fault(cpu, X86_GP, 0);
    segment_stack_current(cpu, &st);
    if (call && (!segment_push(cpu, &st, size, cpu->segment[X86_CS].selector)
                 || !segment_push(cpu, &st, size, next_rip)))
        return false;
    if (call)
        segment_stack_commit(cpu, &st);
    segment_install_real(cpu, X86_CS, selector);
    cpu->rip = offset;
    x86_update_mode(cpu);
    return true;
}

static bool far_code(struct x86_cpu *cpu, struct x86_descriptor *cs, uint64_t offset, unsigned size,
                     bool call, uint64_t next_rip)
{
    uint16_t selector = cs->selector;
    unsigned dpl = segment_dpl(cs->attributes);
    bool permitted = segment_is_conforming(cs->attributes) ? dpl <= cpu->cpl
                                                           : (selector & 3) <= cpu->cpl && dpl == cpu->cpl;
    if (!segment_is_code(cs->attributes) || !permitted || impossible_size(cpu, cs->attributes))
        return x86_fault(cpu, X86_GP, selector & 0xfffc);
    if (!(cs->attributes & X86_SEG_P))
        return x86_fault(cpu, X86_NP, selector & 0xfffc);
    offset &= size_mask(size);
    struct x86_stack st;
    segment_stack_current(cpu, &st);
    if (!check_target(cpu, cs, offset, 0))
        return false;
    if (call && (!segment_push(cpu, &st, size, cpu->segment[X86_CS].selector)
                 || !segment_push(cpu, &st, size, next_rip)))
        return false;
    if (!segment_touch(cpu, cs))
        return false;
    if (call)
        segment_stack_commit(cpu, &st);
    enter_code(cpu, cs, cpu->cpl, offset);
    x86_update_mode(cpu);
    return true;
}

struct gate {
    uint16_t selector;      // of the code that it leads to
    unsigned size;          // of what it pushes: 2, 4 or 8
    unsigned count;         // parameters to copy
    uint64_t offset;
};

// The call through a gate to an inner privilege: a new stack, parameters copied to it.
static bool gate_inner(struct x86_cpu *cpu, const struct gate *g, struct x86_descriptor *cs,
                       uint64_t next_rip)
{
    struct x86_descriptor ss;
    struct x86_stack st, old;
    unsigned cpl = segment_dpl(cs->attributes);
    uint64_t parameter[32];
    segment_stack_current(cpu, &old);
    if (!segment_inner_stack(cpu, cpl, 0, &st, &ss))
        return false;
    for (unsigned n = 0; n < g->count; n++)
        if (!segment_pop(cpu, &old, g->size, &parameter[n]))
            return false;
    bool ok = segment_push(cpu, &st, g->size, cpu->segment[X86_SS].selector)
           && segment_push(cpu, &st, g->size, cpu->slot[X86_RSP]);
    for (unsigned n = g->count; ok && n > 0; n--)
        ok = segment_push(cpu, &st, g->size, parameter[n - 1]);
    ok = ok && segment_push(cpu, &st, g->size, cpu->segment[X86_CS].selector)
            && segment_push(cpu, &st, g->size, next_rip) && segment_touch(cpu, cs);
    if (!ok)
        return false;
    if (segment_long(cpu))
        segment_clear(cpu, X86_SS, (uint16_t)cpl);
    else
        segment_install(cpu, X86_SS, ss.selector, &ss);
    segment_stack_commit(cpu, &st);
    enter_code(cpu, cs, cpl, g->offset);
    x86_update_mode(cpu);
    return true;
}

static bool gate_enter(struct x86_cpu *cpu, const struct gate *g, bool call, uint64_t next_rip)
{
    struct x86_descriptor cs;
    uint32_t code = g->selector & 0xfffc;
    if (segment_is_null(g->selector))
        return x86_fault(cpu, X86_GP, 0);
    if (!segment_fetch(cpu, g->selector, X86_GP, 0, &cs))
        return false;
    unsigned dpl = segment_dpl(cs.attributes);
    bool conforming = segment_is_conforming(cs.attributes);
    bool permitted = segment_is_code(cs.attributes) && dpl <= cpu->cpl
                  && (call || conforming || dpl == cpu->cpl);
    if (segment_long(cpu) && (cs.attributes & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
        permitted = false;
    if (!permitted)
        return x86_fault(cpu, X86_GP, code);
    if (!(cs.attributes & X86_SEG_P))
        return x86_fault(cpu, X86_NP, code);
    if (!check_target(cpu, &cs, g->offset, 0))
        return false;
    if (call && !conforming && dpl < cpu->cpl)
        return gate_inner(cpu, g, &cs, next_rip);
    struct x86_stack st;
    segment_stack_current(cpu, &st);
    if (segment_long(cpu)) {        // the gate's code is 64-bit, and so is the stack that it finds
        st.wide = true;
        st.mask = ~0ull;
    }
    if (call && (!segment_push(cpu, &st, g->size, cpu->segment[X86_CS].selector)
                 || !segment_push(cpu, &st, g->size, next_rip)))
        return false;
    if (!segment_touch(cpu, &cs))
        return false;
    if (call)
        segment_stack_commit(cpu, &st);
    enter_code(cpu, &cs, cpu->cpl, g->offset);
    x86_update_mode(cpu);
    return true;
}

static bool far_gate(struct x86_cpu *cpu, struct x86_descriptor *d, bool call, uint64_t next_rip)
{
    struct gate g = { .selector = (uint16_t)(d->raw >> 16),
                      .offset = (d->raw & 0xffff) | (d->raw >> 48) << 16,
                      .size = 4, .count = d->raw >> 32 & 0x1f };
    uint32_t code = d->selector & 0xfffc;
    if (segment_long(cpu)) {
        uint64_t upper;
        if (!segment_fetch_upper(cpu, d, X86_GP, 0, &upper))
            return false;
        if (upper >> 40 & 0x1f)
            return x86_fault(cpu, X86_GP, code);
        g.offset |= upper << 32;
        g.size = 8;
        g.count = 0;
    } else if ((d->attributes & X86_SEG_TYPE) == 4) {
        g.size = 2;
        g.offset &= 0xffff;
    }
    return gate_enter(cpu, &g, call, next_rip);
}

static bool far_system(struct x86_cpu *cpu, struct x86_descriptor *d, bool call, uint64_t next_rip)
{
    uint32_t code = d->selector & 0xfffc;
    unsigned type = d->attributes & X86_SEG_TYPE, dpl = segment_dpl(d->attributes);
    bool gate = type == 0xc || (type == 4 && !segment_long(cpu));
    bool task = !segment_long(cpu) && (type == 5 || type == 1 || type == 9);
    if ((!gate && !task) || dpl < cpu->cpl || dpl < (d->selector & 3u))
        return x86_fault(cpu, X86_GP, code);
    if (!(d->attributes & X86_SEG_P))
        return x86_fault(cpu, X86_NP, code);
    if (gate)
        return far_gate(cpu, d, call, next_rip);
    uint16_t tss = type == 5 ? (uint16_t)(d->raw >> 16) : d->selector;
    return segment_task_switch(cpu, tss, call ? SEGMENT_TASK_CALL : SEGMENT_TASK_JUMP, next_rip, 0, -1);
}

bool x86_far_jump(struct x86_cpu *cpu, uint16_t selector, uint64_t offset, unsigned size, bool call,
                  uint64_t next_rip)
{
    struct x86_descriptor d;
    if (!segment_protected(cpu))
        return far_real(cpu, selector, offset, size, call, next_rip);
    if (segment_is_null(selector))
        return x86_fault(cpu, X86_GP, 0);
    if (!segment_fetch(cpu, selector, X86_GP, 0, &d))
        return false;
    if (d.attributes & X86_SEG_S)
        return far_code(cpu, &d, offset, size, call, next_rip);
    return far_system(cpu, &d, call, next_rip);
}

// ---- RET and IRET -----------------------------------------------------------------------------------------

// The checks of CS that RET and IRET share.
static bool return_code(struct x86_cpu *cpu, uint16_t selector, struct x86_descriptor *cs)
{
    uint32_t code = selector & 0xfffc;
    unsigned rpl = selector & 3;
    if (segment_is_null(selector))
        return x86_fault(cpu, X86_GP, 0);
    if (!segment_fetch(cpu, selector, X86_GP, 0, cs))
        return false;
    unsigned dpl = segment_dpl(cs->attributes);
    bool permitted = segment_is_conforming(cs->attributes) ? dpl <= rpl : dpl == rpl;
    if (rpl < cpu->cpl || !segment_is_code(cs->attributes) || !permitted
        || impossible_size(cpu, cs->attributes))
        return x86_fault(cpu, X86_GP, code);
    if (!(cs->attributes & X86_SEG_P))
        return x86_fault(cpu, X86_NP, code);
    return segment_touch(cpu, cs);
}

// The checks of SS on a return. In long mode it may be null for 64-bit code that is not at privilege 3.
static bool return_stack(struct x86_cpu *cpu, uint16_t selector, const struct x86_descriptor *cs,
                         struct x86_descriptor *ss)
{
    unsigned rpl = cs->selector & 3;
    if (segment_is_null(selector) && segment_long(cpu) && (cs->attributes & X86_SEG_L) && rpl != 3
        && (selector & 3u) == rpl) {
        *ss = (struct x86_descriptor){ .selector = selector };
        return true;
    }
    ss->selector = selector;
    return segment_check_stack(cpu, selector, rpl, X86_GP, 0, ss);
}

// On the way to an outer privilege, segments that it may not use become null (SDM vol. 3A 5.8.6).
static void drop_inner_segments(struct x86_cpu *cpu)
{
    static const uint8_t data[] = { X86_ES, X86_DS, X86_FS, X86_GS };
    for (unsigned n = 0; n < sizeof data; n++) {
        uint16_t a = cpu->segment[data[n]].attributes;
        if (!(a & X86_SEG_P) || (segment_is_code(a) && segment_is_conforming(a)))
            continue;
        if (segment_dpl(a) < cpu->cpl)
            segment_clear(cpu, data[n], 0);
    }
}

// Take SS:RSP of the outer (or, for IRETQ, any) privilege.
static void return_to_stack(struct x86_cpu *cpu, const struct x86_descriptor *ss, uint64_t sp, bool to64)
{
    if (ss->attributes)
        segment_install(cpu, X86_SS, ss->selector, ss);
    else
        segment_clear(cpu, X86_SS, ss->selector);
    if (to64)
        cpu->slot[X86_RSP] = sp;
    else if (ss->attributes & X86_SEG_DB)
        cpu->slot[X86_RSP] = sp & 0xffffffff;
    else
        cpu->slot[X86_RSP] = (cpu->slot[X86_RSP] & ~0xffffull) | (sp & 0xffff);
}

static bool return_real(struct x86_cpu *cpu, unsigned size, unsigned release)
{
    struct x86_stack st;
    uint64_t rip, cs;
    segment_stack_current(cpu, &st);
    if (!segment_pop(cpu, &st, size, &rip) || !segment_pop(cpu, &st, size, &cs))
        return false;
    if (rip > cpu->segment[X86_CS].limit)
        return x86_fault(cpu, X86_GP, 0);
    st.sp += release;
    segment_stack_commit(cpu, &st);
    segment_install_real(cpu, X86_CS, (uint16_t)cs);
    cpu->rip = rip;
    x86_update_mode(cpu);
    return true;
}

bool x86_far_return(struct x86_cpu *cpu, unsigned size, unsigned release)
{
    struct x86_stack st;
    struct x86_descriptor cs, ss;
    uint64_t rip, selector, sp = 0, stack = 0;
    if (!segment_protected(cpu))
        return return_real(cpu, size, release);
    segment_stack_current(cpu, &st);
    if (!segment_pop(cpu, &st, size, &rip) || !segment_pop(cpu, &st, size, &selector)
        || !return_code(cpu, (uint16_t)selector, &cs) || !check_target(cpu, &cs, rip, 0))
        return false;
    unsigned cpl = selector & 3;
    st.sp += release;
    if (cpl == cpu->cpl) {
        segment_stack_commit(cpu, &st);
        enter_code(cpu, &cs, cpl, rip);
        x86_update_mode(cpu);
        return true;
    }
    if (!segment_pop(cpu, &st, size, &sp) || !segment_pop(cpu, &st, size, &stack)
        || !return_stack(cpu, (uint16_t)stack, &cs, &ss))
        return false;
    enter_code(cpu, &cs, cpl, rip);
    return_to_stack(cpu, &ss, sp + release, segment_long(cpu) && (cs.attributes & X86_SEG_L));
    drop_inner_segments(cpu);
    x86_update_mode(cpu);
    return true;
}

#define FLAGS_ANY (X86_ARITHMETIC | X86_TF | X86_DF | X86_NT)

// What IRET takes from the image on the stack (SDM vol. 2A, IRET).
static uint64_t returned_flags(const struct x86_cpu *cpu, uint64_t image, unsigned size)
{
    uint64_t mask = FLAGS_ANY;
    uint64_t old = x86_get_rflags(cpu);
    if (size > 2)
        mask |= X86_RF | X86_AC | X86_ID;
    if (cpu->cpl <= (old & X86_IOPL) >> X86_IOPL_SHIFT)
        mask |= X86_IF;
    if (cpu->cpl == 0)
        mask |= X86_IOPL | (size > 2 ? X86_VIF | X86_VIP : 0);
    return (old & ~mask) | (image & mask);
}

static bool interrupt_return_real(struct x86_cpu *cpu, unsigned size)
{
    struct x86_stack st;
    uint64_t rip, cs, image, old = x86_get_rflags(cpu);
    bool v86 = (old & X86_VM) != 0;
    if (v86 && (old & X86_IOPL) != X86_IOPL)
        return x86_fault(cpu, X86_GP, 0);
    segment_stack_current(cpu, &st);
    if (!segment_pop(cpu, &st, size, &rip) || !segment_pop(cpu, &st, size, &cs)
        || !segment_pop(cpu, &st, size, &image))
        return false;
    if (rip > cpu->segment[X86_CS].limit)
        return x86_fault(cpu, X86_GP, 0);
    uint64_t mask = FLAGS_ANY | X86_IF | (v86 ? 0 : X86_IOPL) | (size > 2 ? X86_RF | X86_AC | X86_ID : 0);
    segment_stack_commit(cpu, &st);
    segment_install_real(cpu, X86_CS, (uint16_t)cs);
    cpu->rip = rip;
    x86_set_rflags(cpu, (old & ~mask) | (image & mask));
    cpu->nmi_blocked = 0;
    x86_update_mode(cpu);
    return true;
}

// From privilege 0 to virtual-8086 mode: six more values on the stack.
static bool interrupt_return_v86(struct x86_cpu *cpu, struct x86_stack *st, uint64_t rip, uint16_t cs,
                                 uint64_t image)
{
    static const uint8_t order[] = { X86_ES, X86_DS, X86_FS, X86_GS };
    uint64_t sp, ss, selector[4];
    bool ok = segment_pop(cpu, st, 4, &sp) && segment_pop(cpu, st, 4, &ss);
    for (unsigned n = 0; ok && n < 4; n++)
        ok = segment_pop(cpu, st, 4, &selector[n]);
    if (!ok)
        return false;
    x86_set_rflags(cpu, image & 0x3f7fd7);
    cpu->cpl = 3;
    segment_install_real(cpu, X86_CS, cs);
    segment_install_real(cpu, X86_SS, (uint16_t)ss);
    for (unsigned n = 0; n < 4; n++)
        segment_install_real(cpu, order[n], (uint16_t)selector[n]);
    cpu->slot[X86_RSP] = sp;
    cpu->rip = rip & 0xffff;
    cpu->nmi_blocked = 0;
    x86_update_mode(cpu);
    return true;
}

struct return_frame { uint64_t rip, cs, flags, rsp, ss; };

// In 64-bit mode all five values are popped, whatever the privilege: one read.
static bool read_frame64(struct x86_cpu *cpu, unsigned size, struct return_frame *frame)
{
    uint64_t at = cpu->slot[X86_RSP];
    if (size == 8)
        return x86_read_linear(cpu, at, frame, sizeof *frame, X86_READ);
    struct x86_stack st;
    segment_stack_current(cpu, &st);
    return segment_pop(cpu, &st, size, &frame->rip) && segment_pop(cpu, &st, size, &frame->cs)
        && segment_pop(cpu, &st, size, &frame->flags) && segment_pop(cpu, &st, size, &frame->rsp)
        && segment_pop(cpu, &st, size, &frame->ss);
}

bool x86_interrupt_return(struct x86_cpu *cpu, unsigned size, uint64_t next_rip)
{
    struct x86_stack st;
    struct x86_descriptor cs, ss;
    struct return_frame frame = { 0 };
    if (!segment_protected(cpu))
        return interrupt_return_real(cpu, size);
    if (cpu->rflags & X86_NT) {
        if (segment_long(cpu))
            return x86_fault(cpu, X86_GP, 0);
        return segment_task_switch(cpu, 0, SEGMENT_TASK_RETURN, next_rip, 0, -1);
    }
    bool with_stack = segment_code64(cpu);
    if (with_stack) {
        if (!read_frame64(cpu, size, &frame))
            return false;
    } else {
        segment_stack_current(cpu, &st);
        if (!segment_pop(cpu, &st, size, &frame.rip) || !segment_pop(cpu, &st, size, &frame.cs)
            || !segment_pop(cpu, &st, size, &frame.flags))
            return false;
        if ((frame.flags & X86_VM) && size == 4 && cpu->cpl == 0 && !segment_long(cpu))
            return interrupt_return_v86(cpu, &st, frame.rip, (uint16_t)frame.cs, frame.flags);
    }
    if (!return_code(cpu, (uint16_t)frame.cs, &cs) || !check_target(cpu, &cs, frame.rip, 0))
        return false;
    unsigned cpl = frame.cs & 3;
    bool outer = cpl != cpu->cpl;
    if (outer && !with_stack) {
        with_stack = true;
        if (!segment_pop(cpu, &st, size, &frame.rsp) || !segment_pop(cpu, &st, size, &frame.ss))
            return false;
    }
    if (with_stack && !return_stack(cpu, (uint16_t)frame.ss, &cs, &ss))
        return false;
    x86_set_rflags(cpu, returned_flags(cpu, frame.flags, size));
    enter_code(cpu, &cs, cpl, frame.rip);
    if (with_stack)
        return_to_stack(cpu, &ss, frame.rsp, segment_long(cpu) && (cs.attributes & X86_SEG_L));
    else
        segment_stack_commit(cpu, &st);
    if (outer)
        drop_inner_segments(cpu);
    cpu->nmi_blocked = 0;
    x86_update_mode(cpu);
    return true;
}
