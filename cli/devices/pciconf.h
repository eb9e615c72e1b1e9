/* pciconf.h: the PCI configuration ports of a machine without a PCI bus.
 *
 * The address register at 0xcf8 can be read back, as probes expect of a PC; the data behind it is all
 * ones. */
#ifndef CLI_DEVICES_PCICONF_H
#define CLI_DEVICES_PCICONF_H

#include "../state.h"

#include <stdint.h>

struct pciconf {
    uint32_t address;
};

/* Bus functions: the four bytes at 0xcf8, size 4 alone; nothing needs to claim 0xcfc. */
uint64_t pciconf_read(void *device, uint64_t offset, unsigned size);
void pciconf_write(void *device, uint64_t offset, unsigned size, uint64_t value);

void pciconf_save(const struct pciconf *pciconf, struct state_writer *to);
bool pciconf_load(struct pciconf *pciconf, struct state_reader *from);

#endif
