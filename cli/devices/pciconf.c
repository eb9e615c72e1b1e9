/* pciconf.c: the address register of an empty PCI bus. */
#include "pciconf.h"

/* Bits 30 to 24 and 1 to 0 are hard-wired to zero. */
#define PCICONF_ADDRESS_BITS 0x80fffffcu

uint64_t pciconf_read(void *device, uint64_t offset, unsigned size)
{
    (void)offset;
    (void)size;
    return ((struct pciconf *)device)->address;
}

void pciconf_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    ((struct pciconf *)device)->address = (uint32_t)value & PCICONF_ADDRESS_BITS;
}

static const struct state_field pciconf_fields[] = {
    STATE_BITS(struct pciconf, address, PCICONF_ADDRESS_BITS),
};

void pciconf_save(const struct pciconf *pciconf, struct state_writer *to)
{
    state_begin(to, "PCIC", 1);
    state_put_fields(to, pciconf_fields, STATE_COUNT(pciconf_fields), pciconf);
    state_end(to);
}

bool pciconf_load(struct pciconf *pciconf, struct state_reader *from)
{
    struct pciconf loaded = *pciconf;

    state_enter(from, "PCIC", 1);
    state_get_fields(from, pciconf_fields, STATE_COUNT(pciconf_fields), &loaded);
    if (!state_leave(from)) {
        return false;
    }
    *pciconf = loaded;
    return true;
}
