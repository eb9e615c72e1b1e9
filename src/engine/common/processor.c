// A processor's beginning.
#include "engine/common/processor.h"

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
