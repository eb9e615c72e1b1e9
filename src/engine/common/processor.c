// A processor's beginning.
#include "engine/common/processor.h"

#include <string.h>

#include "x86/system.h"

void processor_start_over(struct processor *p)
{
    p->pending_valid = p->pending_external = p->pending_told = p->event_valid = p->ext_int_valid = false;
    p->notify_interrupt = p->notify_nmi = p->carried.valid = false;
    p->notify_priority = 0;
    p->told = (struct x86_exception){ .software = false };
    p->settle = true;
}

void processor_init(struct processor *p, struct vp *vp, const struct x86_bus *bus)
{
    const struct property_values *properties = &vp->partition->properties;
    p->vp = vp;
    p->cpu.bus = bus;
    p->cpu.platform = p;
    p->cpu.generation = 1;
    p->cpu.tlb_epoch = 1;
    p->cpu.physical_bits = (uint8_t)properties->physical_address_width;
    p->cpu.apic_id = vp->index;
    p->cpu.processor_count = properties->processor_count;
}

void processor_settle(struct processor *p)
{
    struct x86_cpu *cpu = &p->cpu;
    x86_settle_state(cpu);
    if (!p->carried.valid)
        return;
    p->carried.valid = false;
    memcpy(cpu->pdpte, p->carried.pdpte, sizeof cpu->pdpte);
    // A null SS does not say the privilege level, and CS does not where it is conforming.
    if ((cpu->cr0 & X86_CR0_PE) && !(cpu->rflags & X86_VM) && !cpu->segment[X86_SS].attributes)
        cpu->cpl = p->carried.cpl;
    x86_update_mode(cpu);
}
