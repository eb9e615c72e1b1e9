/* acpi.h: the ACPI tables that tell a guest about the machine (ACPI 6.4, chapter 5). */
#ifndef CLI_ACPI_H
#define CLI_ACPI_H

#include "memory.h"

#include <stdint.h>

/* Writes RSDP, RSDT, XSDT, FADT, FACS, DSDT and MADT for CPUS processors, from MEMORY_BIOS on, where a guest
 * also finds the RSDP by searching. Returns the RSDP's address. */
uint64_t acpi_build(const struct memory *memory, unsigned cpus);

#endif
