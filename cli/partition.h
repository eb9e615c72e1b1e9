/* partition.h: the partition of a machine: made, told its properties, and set up. */
#ifndef CLI_PARTITION_H
#define CLI_PARTITION_H

#include "error.h"
#include "properties.h"

#include <WinHvPlatform.h>

struct partition_config {
    const char *engine; /* NULL for what the environment says */
    unsigned cpus;
    struct properties properties;
};

/* *APIC_MODE is the mode that it has got, the best there is if the properties have none. *PARTITION is the caller's to
 * delete whatever the result; NULL if there is none. An error names the option that was refused. */
bool partition_set_up(const struct partition_config *config, WHV_PARTITION_HANDLE *partition, uint32_t *apic_mode,
                      struct error *err);

/* Whether a partition could be set up that differs from an ordinary one in row INDEX of the table of properties, with
 * the row's sample; otherwise *HR says why not. */
bool partition_can_have(unsigned index, HRESULT *hr);

#endif
