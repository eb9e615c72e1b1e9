// Guest memory on its way to another process: what it is made of, as files.
#ifndef BULKHEAD_HANDOVER_H
#define BULKHEAD_HANDOVER_H

#include "partition/snapshot.h"

struct handover {
    struct snapshot_map map;
    int *files;                 // descriptors, owned
    size_t file_count;
};

// Memory that another process can map (memfd, files, hugetlbfs, shared memory) becomes the file that it is, as long as
// this process has a descriptor of it; everything else is copied into one more file. The partition stands still.
// E_OUTOFMEMORY; E_ACCESSDENIED: memory cannot be read.
CHECKED HRESULT handover_take(struct partition *p, struct handover *out);
void handover_release(struct handover *out);

// ---- Guest memory that came with a partition ---------------------------------------------------------------------

// Map the areas, and say in `map` where they are. They stay until handover_unmap. `files` stay the caller's.
// ERROR_INVALID_DATA: a file is none, or smaller than what is said to lie in it; E_OUTOFMEMORY.
CHECKED HRESULT handover_map(struct partition *p, struct snapshot_map *map, const int *files, size_t file_count);
void handover_unmap(struct partition *p);

#endif
