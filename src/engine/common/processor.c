// A processor's beginning.
#include "engine/common/processor.h"

void processor_start_over(struct processor *p)
{
    p->pending_valid = p->pending_external = p->pending_told = p->event_valid = p->ext_int_valid = false;
    p->notify_interrupt = p->notify_nmi = false;
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
