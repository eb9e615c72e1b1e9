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

// Copies while processors run: the memory that would have to be copied, as far as it is tracked. The first call copies
// all of it, later ones what was written since the one before; `*bytes` receives how much that was. handover_take uses
// what is there, if the map is still the same. Same errors; what was copied by then is not lost.
CHECKED HRESULT handover_precopy(struct partition *p, uint64_t *bytes);
// Somebody took the marks of these pages for another purpose; or wrote to them without leaving marks.
void handover_note(struct partition *p, gpa_t gpa, uint64_t size, const uint64_t *bitmap);
void handover_mark(struct partition *p, gpa_t gpa, uint64_t size);
// The map changes: the copies are of no use any more.
void handover_forget(struct partition *p);

// ---- Guest memory that came with a partition ---------------------------------------------------------------------

// Map the areas, and say in `map` where they are. They stay until handover_unmap. `files` stay the caller's.
// ERROR_INVALID_DATA: a file is none, or smaller than what is said to lie in it; E_OUTOFMEMORY.
CHECKED HRESULT handover_map(struct partition *p, struct snapshot_map *map, const int *files, size_t file_count);
void handover_unmap(struct partition *p);

#endif
