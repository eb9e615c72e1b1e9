// The guest memory map: which guest physical ranges lie where in this process, with which rights.
//
// Invariants: ranges are page-aligned, sorted, never overlap, never wrap; neighbours that continue each other
// in guest and host with equal rights may be merged. Look-up is logarithmic; 8,192 ranges over 1 TiB cost
// nothing extra.
#ifndef BULKHEAD_GPA_MAP_H
#define BULKHEAD_GPA_MAP_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"

#define GPA_PAGE_SIZE 4096u

struct gpa_range {
    gpa_t gpa;
    uint64_t size;              // bytes, not 0
    uint8_t *host;              // address in this process of the first byte
    WHV_MAP_GPA_RANGE_FLAGS flags;
};

struct gpa_map {
    pthread_rwlock_t lock;
    struct gpa_range *ranges;   // sorted by gpa
    size_t count;
    size_t capacity;
};

CHECKED HRESULT gpa_map_init(struct gpa_map *map);
void gpa_map_destroy(struct gpa_map *map);

// Find the range that holds `gpa` and copy it out. Takes the read lock. False when nothing is mapped there.
bool gpa_map_find(struct gpa_map *map, gpa_t gpa, struct gpa_range *found);

// The same for the first range that ends above `gpa`: the one that holds it, or else the next one up.
bool gpa_map_next(struct gpa_map *map, gpa_t gpa, struct gpa_range *found);

// What a change took out of the map and put there instead. Good until the next change.
struct gpa_map_undo {
    size_t first, count;        // the ranges that the change put there
    struct gpa_range *old;      // those that were there: in `few` if they fit, else allocated
    size_t old_count;
    struct gpa_range few[3];
};

// Lay a range over the map, replacing what was there. E_OUTOFMEMORY changes nothing. Takes the write lock.
// On success `undo`, where it is not NULL, is to be given to gpa_map_keep or gpa_map_restore.
CHECKED HRESULT gpa_map_insert(struct gpa_map *map, const struct gpa_range *range, struct gpa_map_undo *undo);

// Take [gpa, gpa + size) out, splitting ranges at its ends. WHV_E_GPA_RANGE_NOT_FOUND when nothing of it is
// mapped, E_OUTOFMEMORY when a split has no room: both change nothing. Takes the write lock. `undo` as above.
CHECKED HRESULT gpa_map_remove(struct gpa_map *map, gpa_t gpa, uint64_t size, struct gpa_map_undo *undo);

// Take everything out. Takes the write lock.
void gpa_map_clear(struct gpa_map *map);

// The change stands; or it is taken back, which cannot fail. Restoring takes the write lock.
void gpa_map_keep(struct gpa_map_undo *undo);
void gpa_map_restore(struct gpa_map *map, struct gpa_map_undo *undo);

// The one overflow-safe range test: true when [start, start + size) is not empty and ends at or below
// `limit`.
bool gpa_range_valid(gpa_t start, uint64_t size, uint64_t limit);

// Walk the map and test every invariant above. For tests. Takes the read lock.
bool gpa_map_sound(struct gpa_map *map);

#endif
