// Hardware task switches by TSS and task gate, 16 and 32 bits (SDM vol. 3A 8.2 to 8.4). Not in long mode.
#include "x86/segment.h"

#include <string.h>

struct tss32 {
    uint32_t link, stacks[6], cr3, eip, eflags, reg[8], segment[6], ldt, trap_and_map;
};

struct tss16 {
    uint16_t link, stacks[6], ip, flags, reg[8], segment[4], ldt;
};
_Static_assert(sizeof(struct tss32) == 104 && sizeof(struct tss16) == 44, "the layouts are the processor's");

// A task's state without regard to its size.
struct task {
    bool wide;
    uint32_t cr3, eip, eflags, reg[8];
    uint16_t segment[6], ldt, selector;
    struct x86_descriptor tss;
};

static bool linear_read(struct x86_cpu *cpu, uint64_t linear, void *bytes, unsigned size)
{
    return x86_read_linear(cpu, linear & 0xffffffff, bytes, size, X86_READ | X86_IMPLICIT);
}

static bool linear_write(struct x86_cpu *cpu, uint64_t linear, const void *bytes, unsigned size)
{
    return x86_write_linear(cpu, linear & 0xffffffff, bytes, size, X86_WRITE | X86_IMPLICIT);
}

// Find the TSS to switch to and read it.
static bool task_read(struct x86_cpu *cpu, uint16_t selector, bool busy, unsigned ext, struct task *t)
{
    unsigned vector = busy ? X86_TS : X86_GP;
    uint32_t code = (selector & 0xfffc) | ext;
    if (segment_is_null(selector) || (selector & 4))
        return x86_fault(cpu, vector, code);
    if (!segment_fetch(cpu, selector, vector, ext, &t->tss))
        return false;
    unsigned type = t->tss.attributes & (X86_SEG_S | X86_SEG_TYPE);
    if ((type & ~8u) != (busy ? 3 : 1))
        return x86_fault(cpu, vector, code);
    if (!(t->tss.attributes & X86_SEG_P))
        return x86_fault(cpu, X86_NP, code);
    t->wide = type & 8;
    t->selector = selector;
    if (t->tss.limit < (t->wide ? sizeof(struct tss32) : sizeof(struct tss16)) - 1)
        return x86_fault(cpu, X86_TS, code);
    if (t->wide) {
        struct tss32 image;
        if (!linear_read(cpu, t->tss.base, &image, sizeof image))
            return false;
        t->cr3 = image.cr3;
        t->eip = image.eip;
        t->eflags = image.eflags;
        t->ldt = (uint16_t)image.ldt;
        memcpy(t->reg, image.reg, sizeof t->reg);
        for (unsigned n = 0; n < 6; n++)
            t->segment[n] = (uint16_t)image.segment[n];
    } else {
        struct tss16 image;
        if (!linear_read(cpu, t->tss.base, &image, sizeof image))
            return false;
        t->cr3 = (uint32_t)cpu->cr3;
        t->eip = image.ip;
        t->eflags = image.flags;
        t->ldt = image.ldt;
        for (unsigned n = 0; n < 8; n++)
            t->reg[n] = 0xffff0000u | image.reg[n];
        for (unsigned n = 0; n < 6; n++)
            t->segment[n] = n < 4 ? image.segment[n] : 0;
    }
    return true;
}

// Save the present state into its TSS: the fields from EIP to GS (IP to DS).
static bool task_save(struct x86_cpu *cpu, uint64_t rip, uint64_t flags)
{
    uint64_t base = cpu->slot[X86_SLOT_SEGMENT + X86_TR];
    if (cpu->segment[X86_TR].attributes & 8) {
        struct tss32 image = { .eip = (uint32_t)rip, .eflags = (uint32_t)flags };
        for (unsigned n = 0; n < 8; n++)
            image.reg[n] = (uint32_t)cpu->slot[n];
        for (unsigned n = 0; n < 6; n++)
            image.segment[n] = cpu->segment[n].selector;
        return linear_write(cpu, base + offsetof(struct tss32, eip), &image.eip,
                            offsetof(struct tss32, ldt) - offsetof(struct tss32, eip));
    }
    struct tss16 image = { .ip = (uint16_t)rip, .flags = (uint16_t)flags };
    for (unsigned n = 0; n < 8; n++)
        image.reg[n] = (uint16_t)cpu->slot[n];
    for (unsigned n = 0; n < 4; n++)
        image.segment[n] = cpu->segment[n].selector;
    return linear_write(cpu, base + offsetof(struct tss16, ip), &image.ip,
                        offsetof(struct tss16, ldt) - offsetof(struct tss16, ip));
}

// Write a TSS descriptor's type byte with the busy bit as given.
static bool mark_busy(struct x86_cpu *cpu, uint16_t selector, uint16_t attributes, bool busy)
{
    uint64_t linear;
    uint8_t type = (uint8_t)((attributes & ~2) | (busy ? 2 : 0));
    if (!segment_locate(cpu, selector, 8, &linear))
        return x86_fault(cpu, X86_TS, selector & 0xfffc);
    return linear_write(cpu, linear + 5, &type, 1);
}

// Registers and TR of the new task; its segments come later, and until then can't be used.
static void task_enter(struct x86_cpu *cpu, struct task *t, bool nest)
{
    for (unsigned n = 0; n < 8; n++)
        cpu->slot[n] = t->reg[n];
    t->tss.attributes |= 2;
    segment_install(cpu, X86_TR, t->selector, &t->tss);
    for (unsigned n = 0; n < 6; n++)
        segment_clear(cpu, n, t->segment[n]);
    segment_clear(cpu, X86_LDTR, t->ldt);
    cpu->cr0 |= X86_CR0_TS;
    cpu->dr7 &= ~0x155ull;              // local breakpoints are the old task's
    x86_set_rflags(cpu, (t->eflags & 0x3f7fd7) | (nest ? X86_NT : 0));
    cpu->rip = t->wide ? t->eip : t->eip & 0xffff;
    cpu->cpl = t->eflags & X86_VM ? 3 : t->segment[X86_CS] & 3;
    if (t->wide && (cpu->cr0 & X86_CR0_PG)) {
        cpu->cr3 = t->cr3;
        x86_flush_tlb(cpu, false);
    }
}

static bool task_load_ldt(struct x86_cpu *cpu, uint16_t selector)
{
    struct x86_descriptor d;
    if (segment_is_null(selector))
        return true;
    if ((selector & 4) || !segment_locate(cpu, selector, 8, &d.linear))
        return x86_fault(cpu, X86_TS, selector & 0xfffc);
    if (!segment_fetch(cpu, selector, X86_TS, 0, &d))
        return false;
    if ((d.attributes & (X86_SEG_S | X86_SEG_TYPE | X86_SEG_P)) != (2 | X86_SEG_P))
        return x86_fault(cpu, X86_TS, selector & 0xfffc);
    segment_install(cpu, X86_LDTR, selector, &d);
    return true;
}

static bool task_load_code(struct x86_cpu *cpu, uint16_t selector)
{
    struct x86_descriptor cs;
    uint32_t code = selector & 0xfffc;
    if (segment_is_null(selector))
        return x86_fault(cpu, X86_TS, 0);
    if (!segment_fetch(cpu, selector, X86_TS, 0, &cs))
        return false;
    unsigned dpl = segment_dpl(cs.attributes), rpl = selector & 3;
    bool fits = segment_is_conforming(cs.attributes) ? dpl <= rpl : dpl == rpl;
    if (!segment_is_code(cs.attributes) || !fits)
        return x86_fault(cpu, X86_TS, code);
    if (!(cs.attributes & X86_SEG_P))
        return x86_fault(cpu, X86_NP, code);
    if (!segment_touch(cpu, &cs))
        return false;
    segment_install(cpu, X86_CS, selector, &cs);
    return true;
}

static bool task_load_segments(struct x86_cpu *cpu, const struct task *t)
{
    static const uint8_t data[] = { X86_ES, X86_DS, X86_FS, X86_GS };
    struct x86_descriptor ss;
    if (t->wide && (cpu->cr0 & X86_CR0_PG) && (cpu->cr4 & X86_CR4_PAE) && !x86_load_pdptes(cpu, t->cr3))
        return false;
    if (!task_load_ldt(cpu, t->ldt))
        return false;
    if (t->eflags & X86_VM) {
        for (unsigned n = 0; n < 6; n++)
            segment_install_real(cpu, n, t->segment[n]);
    } else {
        if (!task_load_code(cpu, t->segment[X86_CS])
            || !segment_check_stack(cpu, t->segment[X86_SS], cpu->cpl, X86_TS, 0, &ss))
            return false;
        segment_install(cpu, X86_SS, t->segment[X86_SS], &ss);
        for (unsigned n = 0; n < sizeof data; n++)
            if (!segment_load_data(cpu, data[n], t->segment[data[n]], X86_TS))
                return false;
    }
    x86_update_mode(cpu);
    if (cpu->rip > cpu->segment[X86_CS].limit)
        return x86_fault(cpu, X86_GP, 0);
    return true;
}

// The new task's exceptions may lead to further tasks that fail in the same way, as many as the guest likes.
#define NESTED_MAX 8u

static enum x86_leave deliver_in_new_task(struct x86_cpu *cpu)
{
    if (cpu->task_switches >= NESTED_MAX)
        return X86_LEAVE_SHUTDOWN;
    cpu->task_switches++;
    enum x86_leave leave = x86_deliver_exception(cpu);
    cpu->task_switches--;
    return leave;
}

bool segment_task_switch(struct x86_cpu *cpu, uint16_t selector, enum segment_task how, uint64_t next_rip,
                         unsigned ext, int64_t code)
{
    struct task t = { 0 };
    uint64_t flags = x86_get_rflags(cpu);
    uint16_t old = cpu->segment[X86_TR].selector, old_attributes = cpu->segment[X86_TR].attributes;
    bool returning = how == SEGMENT_TASK_RETURN;
    if (returning) {
        uint64_t base = cpu->slot[X86_SLOT_SEGMENT + X86_TR];
        if (!linear_read(cpu, base, &selector, sizeof selector))
            return false;
        flags &= ~(uint64_t)X86_NT;
    }
    if (!task_read(cpu, selector, returning, ext, &t) || !task_save(cpu, next_rip, flags))
        return false;
    if (how == SEGMENT_TASK_CALL && !linear_write(cpu, t.tss.base, &old, sizeof old))
        return false;
    if (how != SEGMENT_TASK_CALL && !mark_busy(cpu, old, old_attributes, false))
        return false;
    if (!returning && !mark_busy(cpu, selector, t.tss.attributes, true))
        return false;
    task_enter(cpu, &t, how == SEGMENT_TASK_CALL);
    bool ok = task_load_segments(cpu, &t);
    x86_update_mode(cpu);
    if (ok && code >= 0)
        ok = x86_push(cpu, t.wide ? 4 : 2, (uint64_t)code);
    if (ok)
        return true;
    enum x86_leave leave = cpu->leave;
    if (leave == X86_LEAVE_EXCEPTION)
        leave = deliver_in_new_task(cpu);
    cpu->leave = leave;
    return leave == X86_LEAVE_LOOKUP;
}
