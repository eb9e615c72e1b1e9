// A partition as a stream of records, and a partition from one.
//
// What is in it: which engine, the clock, every property, each processor's state, and, where memory goes along, areas of
// host memory, what they are made of, the guest ranges that lie in them, and which tracked pages are written. What is not:
// the memory's contents, and anything of the host's (addresses, descriptors, threads).
//
// The partition stands still (partition_hold) while it is written or processors are read into it, with partition->lock
// held.
#ifndef BULKHEAD_SNAPSHOT_H
#define BULKHEAD_SNAPSHOT_H

#include "partition/partition.h"
#include "partition/stream.h"

// A stretch of host addresses that guest ranges lie in; regions say what it is made of, and between them is nothing.
struct snapshot_area {
    uint64_t size;
    uint8_t *host;              // where it is in this process; not in the stream
};

enum snapshot_kind {
    SNAPSHOT_SHARED = 1,        // a file that the partition goes on using: memory that is handed over
    SNAPSHOT_COPIED,            // a file that holds a copy
};

struct snapshot_region {
    uint32_t area, kind, file;  // `file`: the number of the descriptor that goes along
    uint64_t offset, size;      // in the area
    uint64_t file_offset;
    bool writable;
};

struct snapshot_range {
    uint64_t gpa, size;
    uint32_t area, flags;       // WHV_MAP_GPA_RANGE_FLAGS
    uint64_t offset;            // in the area
};

struct snapshot_map {
    struct snapshot_area *areas;
    struct snapshot_region *regions;
    struct snapshot_range *ranges;
    size_t area_count, region_count, range_count;
};

void snapshot_map_release(struct snapshot_map *map);

// Write the partition; with `map` also that, all properties, and the marks of written pages.
CHECKED HRESULT snapshot_write(struct partition *p, const struct snapshot_map *map, struct stream *s);

// Read everything but processors and marks into a partition that is not set up: engine, properties, clock, and `map`,
// which the caller releases. Every record of the stream is looked at. E_INVALIDARG: malformed; ERROR_NOT_SUPPORTED:
// newer, or of an engine or with properties that cannot be had here; E_OUTOFMEMORY. `files`: how many descriptors came
// along.
CHECKED HRESULT snapshot_read(struct partition *p, const uint8_t *bytes, size_t size, uint32_t files,
                              struct snapshot_map *map);

// Read processors, marks and clock into a partition that is set up and holds its memory. Processors that are missing are
// created. `ago_ns`: how much later than in the stream the guest's clocks shall stand. E_INVALIDARG as above, or when a
// processor does not fit the partition; on failure some processors have their new state, and others not.
CHECKED HRESULT snapshot_read_processors(struct partition *p, const uint8_t *bytes, size_t size, bool show_downtime);

#endif
