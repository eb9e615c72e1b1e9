/* pciconf.c: the address register of an empty PCI bus. */
#include "pciconf.h"

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
    /* Bits 30 to 24 and 1 to 0 are hard-wired to zero. */
    ((struct pciconf *)device)->address = (uint32_t)value & 0x80fffffc;
}
