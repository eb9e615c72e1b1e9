// Delivery of exceptions and interrupts: IVT, protected-mode gates, long mode with IST; double faults.
#include "x86/segment.h"

#include <string.h>

#define GATE_TASK 5u
#define GATE_INTERRUPT16 6u
#define GATE_TRAP16 7u
#define GATE_INTERRUPT32 14u
#define GATE_TRAP32 15u
#define TSS64_IST 0x24u

#define DR6_CAUSES 0xe00fu

// One event under delivery.
struct delivery {
    struct x86_exception event;
    unsigned ext;               // EXT bit of the error codes of faults during delivery
    uint64_t rip;               // to be pushed
    uint64_t flags;             // the same
};

static struct delivery delivery_make(const struct x86_cpu *cpu, const struct x86_exception *event,
                                     bool external)
{
    struct delivery d = { .event = *event, .rip = cpu->rip, .flags = x86_get_rflags(cpu) };
    d.ext = !event->software || event->privileged;
    if (event->software)
        d.rip = x86_cut_rip(cpu, d.rip + event->length);
    // Faults are restarted without instruction breakpoints (SDM vol. 3B 18.3.1.1).
    bool fault = !event->software && !external && event->vector != X86_DB && event->vector != X86_NMI
              && event->vector != X86_BP && event->vector != X86_OFV;
    if (fault)
        d.flags |= X86_RF;
    return d;
}

// The error code of a fault about an IDT entry.
static uint32_t idt_error(const struct delivery *d)
{
    return d->event.vector * 8u + 2u + d->ext;
}

// Flags that the handler starts with.
static uint64_t handler_flags(const struct x86_cpu *cpu, bool interrupt_gate)
{
    uint64_t clear = X86_TF | X86_NT | X86_RF | X86_VM | (interrupt_gate ? X86_IF : 0);
    return x86_get_rflags(cpu) & ~clear;
}

// ---- Real mode --------------------------------------------------------------------------------------------

static bool deliver_real(struct x86_cpu *cpu, const struct delivery *d)
{
    struct x86_stack st;
    uint16_t vector[2];
    unsigned offset = d->event.vector * 4u;
    if (offset + 3 > cpu->idtr.limit)
        return x86_fault(cpu, X86_GP, idt_error(d));
    if (!x86_read_linear(cpu, (cpu->idtr.base + offset) & 0xffffffff, vector, sizeof vector,
                         X86_READ | X86_IMPLICIT))
        return false;
    segment_stack_current(cpu, &st);
    if (!segment_push(cpu, &st, 2, d->flags) || !segment_push(cpu, &st, 2, cpu->segment[X86_CS].selector)
        || !segment_push(cpu, &st, 2, d->rip))
        return false;
    segment_stack_commit(cpu, &st);
    segment_install_real(cpu, X86_CS, vector[1]);
    cpu->rip = vector[0];
    x86_set_rflags(cpu, x86_get_rflags(cpu) & ~(uint64_t)(X86_IF | X86_TF | X86_AC | X86_RF));
    return true;
}

// ---- Gates ------------------------------------------------------------------------------------------------

// The checks of the gate itself that protected and long mode share.
static bool check_gate(struct x86_cpu *cpu, const struct delivery *d, uint64_t raw)
{
    unsigned dpl = raw >> 45 & 3;
    if (d->event.software && !d->event.privileged && dpl < cpu->cpl)
        return x86_fault(cpu, X86_GP, idt_error(d));
    if (!(raw >> 47 & 1))
        return x86_fault(cpu, X86_NP, idt_error(d));
    return true;
}

// The code segment of a gate.
static bool gate_code(struct x86_cpu *cpu, const struct delivery *d, uint16_t selector,
                      struct x86_descriptor *cs)
{
    uint32_t code = (selector & 0xfffc) | d->ext;
    if (segment_is_null(selector))
        return x86_fault(cpu, X86_GP, d->ext);
    if (!segment_fetch(cpu, selector, X86_GP, d->ext, cs))
        return false;
    if (!segment_is_code(cs->attributes) || segment_dpl(cs->attributes) > cpu->cpl)
        return x86_fault(cpu, X86_GP, code);
    if (segment_long(cpu) && (cs->attributes & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
        return x86_fault(cpu, X86_GP, code);
    if (!(cs->attributes & X86_SEG_P))
        return x86_fault(cpu, X86_NP, code);
    return segment_touch(cpu, cs);
}

static unsigned gate_privilege(const struct x86_cpu *cpu, const struct x86_descriptor *cs)
{
    return segment_is_conforming(cs->attributes) ? cpu->cpl : segment_dpl(cs->attributes);
}

static void enter_handler(struct x86_cpu *cpu, const struct x86_descriptor *cs, unsigned cpl, uint64_t rip,
                          bool interrupt_gate)
{
    uint64_t flags = handler_flags(cpu, interrupt_gate);
    cpu->cpl = (uint8_t)cpl;
    segment_install(cpu, X86_CS, (uint16_t)((cs->selector & ~3u) | cpl), cs);
    cpu->rip = rip;
    x86_set_rflags(cpu, flags);
}

// ---- Long mode (SDM vol. 3A 6.14) -------------------------------------------------------------------------

static bool deliver_long(struct x86_cpu *cpu, const struct delivery *d)
{
    uint64_t gate[2];
    struct x86_descriptor cs;
    unsigned offset = d->event.vector * 16u;
    if (offset + 15 > cpu->idtr.limit)
        return x86_fault(cpu, X86_GP, idt_error(d));
    if (!x86_read_linear(cpu, cpu->idtr.base + offset, gate, sizeof gate, X86_READ | X86_IMPLICIT))
        return false;
    unsigned type = gate[0] >> 40 & 0x1f;
    if (type != GATE_INTERRUPT32 && type != GATE_TRAP32)
        return x86_fault(cpu, X86_GP, idt_error(d));
    uint64_t rip = (gate[0] & 0xffff) | (gate[0] >> 48) << 16 | gate[1] << 32;
    if (!check_gate(cpu, d, gate[0]) || !gate_code(cpu, d, (uint16_t)(gate[0] >> 16), &cs))
        return false;
    if (!x86_canonical(rip))
        return x86_fault(cpu, X86_GP, d->ext);

    unsigned cpl = gate_privilege(cpu, &cs), ist = gate[0] >> 32 & 7;
    uint64_t sp = cpu->slot[X86_RSP];
    if (ist) {
        if (!segment_tss_pointer(cpu, TSS64_IST + (ist - 1) * 8, d->ext, &sp))
            return false;
    } else if (cpl < cpu->cpl) {
        if (!segment_tss_pointer(cpu, 4 + cpl * 8, d->ext, &sp))
            return false;
    }
    sp &= ~15ull;
    uint64_t frame[6] = { d->event.error, d->rip, cpu->segment[X86_CS].selector, d->flags, cpu->slot[X86_RSP],
                          cpu->segment[X86_SS].selector };
    const uint64_t *from = d->event.has_error ? frame : frame + 1;
    unsigned size = d->event.has_error ? 48 : 40;
    if (!x86_canonical(sp - size) || !x86_canonical(sp - 1))
        return x86_fault(cpu, X86_SSF, d->ext);
    // The frame is written with the rights of the handler's privilege.
    unsigned access = X86_WRITE | (cpu->cpl == 3 && cpl < 3 ? X86_IMPLICIT : 0);
    if (!x86_write_linear(cpu, sp - size, from, size, access))
        return false;
    if (cpl < cpu->cpl)
        segment_clear(cpu, X86_SS, (uint16_t)cpl);
    cpu->slot[X86_RSP] = sp - size;
    enter_handler(cpu, &cs, cpl, rip, type == GATE_INTERRUPT32);
    return true;
}

// ---- Protected mode (SDM vol. 3A 6.12) --------------------------------------------------------------------

struct gate { uint16_t selector; unsigned size; bool interrupt; uint64_t offset; };

static bool push_frame(struct x86_cpu *cpu, const struct delivery *d, struct x86_stack *st, unsigned size,
                       bool inner)
{
    static const uint8_t v86[] = { X86_GS, X86_FS, X86_DS, X86_ES };
    for (unsigned n = 0; inner && (d->flags & X86_VM) && n < sizeof v86; n++)
        if (!segment_push(cpu, st, size, cpu->segment[v86[n]].selector))
            return false;
    if (inner && (!segment_push(cpu, st, size, cpu->segment[X86_SS].selector)
                  || !segment_push(cpu, st, size, cpu->slot[X86_RSP])))
        return false;
    return segment_push(cpu, st, size, d->flags) && segment_push(cpu, st, size, cpu->segment[X86_CS].selector)
        && segment_push(cpu, st, size, d->rip)
        && (!d->event.has_error || segment_push(cpu, st, size, d->event.error));
}

static bool enter_gate(struct x86_cpu *cpu, const struct delivery *d, const struct gate *g)
{
    struct x86_descriptor cs, ss;
    struct x86_stack st;
    if (!gate_code(cpu, d, g->selector, &cs))
        return false;
    unsigned cpl = gate_privilege(cpu, &cs);
    bool v86 = (cpu->rflags & X86_VM) != 0, inner = cpl < cpu->cpl;
    if (v86 && cpl != 0)
        return x86_fault(cpu, X86_GP, (g->selector & 0xfffc) | d->ext);
    if (g->offset > cs.limit)
        return x86_fault(cpu, X86_GP, d->ext);
    if (inner) {
        if (!segment_inner_stack(cpu, cpl, d->ext, &st, &ss))
            return false;
    } else {
        segment_stack_current(cpu, &st);
        st.error = d->ext;
    }
    if (!push_frame(cpu, d, &st, g->size, inner))
        return false;
    if (inner)
        segment_install(cpu, X86_SS, ss.selector, &ss);
    segment_stack_commit(cpu, &st);
    if (v86)
        for (unsigned s = 0; s < X86_LDTR; s++)
            if (s != X86_CS && s != X86_SS)
                segment_clear(cpu, s, 0);
    enter_handler(cpu, &cs, cpl, g->offset, g->interrupt);
    return true;
}

static bool deliver_protected(struct x86_cpu *cpu, const struct delivery *d)
{
    uint64_t raw;
    unsigned offset = d->event.vector * 8u;
    if (offset + 7 > cpu->idtr.limit)
        return x86_fault(cpu, X86_GP, idt_error(d));
    if (!x86_read_linear(cpu, (cpu->idtr.base + offset) & 0xffffffff, &raw, sizeof raw,
                         X86_READ | X86_IMPLICIT))
        return false;
    struct gate g = { .selector = (uint16_t)(raw >> 16), .size = 4,
                      .offset = (raw & 0xffff) | (raw >> 48) << 16 };
    unsigned type = raw >> 40 & 0x1f;
    switch (type) {
    case GATE_INTERRUPT16:
    case GATE_TRAP16:
        g.size = 2;
        g.offset &= 0xffff;
        break;
    case GATE_INTERRUPT32:
    case GATE_TRAP32:
    case GATE_TASK:
        break;
    default:
        return x86_fault(cpu, X86_GP, idt_error(d));
    }
    g.interrupt = type == GATE_INTERRUPT16 || type == GATE_INTERRUPT32;
    if (!check_gate(cpu, d, raw))
        return false;
    if (type == GATE_TASK) {
        int64_t code = d->event.has_error ? (int64_t)d->event.error : -1;
        return segment_task_switch(cpu, g.selector, SEGMENT_TASK_CALL, d->rip, d->ext, code);
    }
    return enter_gate(cpu, d, &g);
}

// ---- One after the other ----------------------------------------------------------------------------------

static bool deliver_once(struct x86_cpu *cpu, const struct delivery *d)
{
    bool ok;
    if (!(cpu->cr0 & X86_CR0_PE))
        ok = deliver_real(cpu, d);
    else if (segment_long(cpu))
        ok = deliver_long(cpu, d);
    else
        ok = deliver_protected(cpu, d);
    if (ok) {
        cpu->interrupt_shadow = 0;
        x86_update_mode(cpu);
    }
    return ok;
}

// What an exception leaves in registers before its handler is sought.
static void note_cause(struct x86_cpu *cpu, const struct x86_exception *e)
{
    if (e->software)
        return;
    if (e->vector == X86_PFV) {
        cpu->cr2 = e->address;
    } else if (e->vector == X86_DB) {
        if (e->address)
            cpu->dr6 = (cpu->dr6 & ~(uint64_t)0xf) | e->address;
        cpu->dr7 &= ~0x2000ull;     // DR7.GD: the handler may use the debug registers
    }
}

static void count(struct x86_cpu *cpu, const struct x86_exception *e, bool external)
{
    bool instruction = e->software && !e->privileged && e->vector != X86_BP && e->vector != X86_OFV;    // INT n
    if (external)
        x86_count_add(&cpu->counts.interrupts, 1);
    else if (e->vector == X86_PFV && !e->software)
        x86_count_add(&cpu->counts.page_faults, 1);
    else if (!instruction)
        x86_count_add(&cpu->counts.exceptions, 1);
}

enum fault_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE, CLASS_DOUBLE };

// SDM vol. 3A table 6-4
static enum fault_class classify(const struct x86_exception *e, bool external)
{
    if (e->software || external)
        return CLASS_BENIGN;
    switch (e->vector) {
    case X86_DE:
    case X86_TS:
    case X86_NP:
    case X86_SSF:
    case X86_GP:
        return CLASS_CONTRIBUTORY;
    case X86_PFV:
        return CLASS_PAGE;
    case X86_DF_FAULT:
        return CLASS_DOUBLE;
    }
    return CLASS_BENIGN;
}

static bool intercepted(struct x86_cpu *cpu)
{
    return cpu->bus->exception && cpu->bus->exception(cpu, &cpu->exception) == X86_ANSWER_EXIT;
}

// Exceptions that table 6-5 lets follow one another may do so for ever: an #AC whose handler's stack is misaligned, for
// one. A processor hangs in that; this one shuts down, so that the thread that runs it comes back.
#define DELIVERIES_MAX 8u

// Deliver `first` and whatever goes wrong on the way (SDM vol. 3A table 6-5).
static enum x86_leave deliver(struct x86_cpu *cpu, const struct x86_exception *first, bool external)
{
    struct x86_exception current = *first;
    for (unsigned n = 0; n < DELIVERIES_MAX; n++) {
        struct delivery d = delivery_make(cpu, &current, external);
        if (!external)
            note_cause(cpu, &current);
        if (deliver_once(cpu, &d)) {
            count(cpu, &current, external);
            if (external && current.vector == X86_NMI)
                cpu->nmi_blocked = 1;
            return X86_LEAVE_LOOKUP;
        }
        if (cpu->leave == X86_LEAVE_EXIT) {
            cpu->exception = current;       // to be delivered again when the exit is dealt with
            return X86_LEAVE_EXIT;
        }
        if (cpu->leave == X86_LEAVE_SHUTDOWN)       // a task switch that went wrong in the new task
            return X86_LEAVE_SHUTDOWN;
        enum fault_class was = classify(&current, external), now = classify(&cpu->exception, false);
        if (was == CLASS_DOUBLE)
            return X86_LEAVE_SHUTDOWN;
        if ((was == CLASS_CONTRIBUTORY && now == CLASS_CONTRIBUTORY)
            || (was == CLASS_PAGE && now != CLASS_BENIGN)) {
            note_cause(cpu, &cpu->exception);
            x86_fault(cpu, X86_DF_FAULT, 0);
        }
        if (intercepted(cpu))
            return X86_LEAVE_EXIT;
        current = cpu->exception;
        external = false;
    }
    return X86_LEAVE_SHUTDOWN;
}

enum x86_leave x86_deliver_exception(struct x86_cpu *cpu)
{
    struct x86_exception e = cpu->exception;
    if (intercepted(cpu))
        return X86_LEAVE_EXIT;
    return deliver(cpu, &e, false);
}

enum x86_leave x86_deliver_event(struct x86_cpu *cpu, const struct x86_exception *event, bool external)
{
    return deliver(cpu, event, external);
}
