// The record of written pages: one bit for each page of guest memory that is mapped with
// WHvMapGpaRangeFlagTrackDirtyPages.
//
// Which ranges are tracked stands in the memory map alone. This is a tree over the whole guest physical
// address space whose leaves appear where something tracked is mapped for the first time and stay until the
// partition is gone, so that marking a page needs no lock and never meets memory that was freed. Marks of what
// is not mapped any more may linger: mapping a tracked range clears its own.
#ifndef BULKHEAD_DIRTY_H
#define BULKHEAD_DIRTY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"

// All zero: nothing is recorded.
struct dirty {
    _Atomic(struct dirty_root *) root;
};

void dirty_destroy(struct dirty *d);

// 64-bit words of a bitmap with one bit for each page of `size` bytes.
size_t dirty_words(uint64_t size);

// Make room for the marks of [gpa, gpa + size). E_OUTOFMEMORY changes no mark. With partition->lock held.
CHECKED HRESULT dirty_reserve(struct dirty *d, gpa_t gpa, uint64_t size);

// The page that holds `gpa` is about to be written. Where no room was made nothing happens. Any thread.
void dirty_mark(struct dirty *d, gpa_t gpa);

// Clear the marks of [gpa, gpa + size), which lies on pages, and OR them into `bitmap`, whose bit 0 is the
// first page; NULL: clear only. A mark that comes meanwhile is either in the bitmap or still there. Any
// thread.
void dirty_take(struct dirty *d, gpa_t gpa, uint64_t size, uint64_t *bitmap);

// Mark the pages whose bits are set in such a bitmap. Any thread.
void dirty_put(struct dirty *d, gpa_t gpa, uint64_t size, const uint64_t *bitmap);

#endif
