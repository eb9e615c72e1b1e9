// How much guest memory is really there, by the host's page tables.
#include <stdlib.h>

#include "engine/common/processor.h"
#include "os/resident.h"
#include "partition/errors.h"

HRESULT pages_counters(struct partition *p, WHV_PARTITION_MEMORY_COUNTERS *counters)
{
    const struct gpa_map *map = &p->map;        // partition->lock keeps it as it is
    struct os_resident resident;
    struct os_stretch *stretches = calloc(map->count + 1, sizeof *stretches);
    if (!stretches)
        return E_OUTOFMEMORY;
    for (size_t n = 0; n < map->count; n++)
        stretches[n] = (struct os_stretch){ (uintptr_t)map->ranges[n].host, map->ranges[n].size };
    int error = os_resident(stretches, map->count, &resident);
    free(stretches);
    *counters = (WHV_PARTITION_MEMORY_COUNTERS){ resident.pages_4k, resident.pages_2m, resident.pages_1g };
    return hresult_of_errno(error, E_FAIL);
}
