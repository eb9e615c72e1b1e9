// KVM's memory slots, kept in line with the partition's memory map. All calls with partition->lock held.
//
// Invariants: slots are sorted, never overlap, and lie inside ranges of the map that KVM can serve: readable
// ones, with or without Execute, of which KVM knows nothing (without Write: a read-only slot). Every page of
// such a range is in a slot. What KVM cannot express (no Read) has none: each access exits, and the engine's
// interpreter does it. A slot may hold part of a range, or several that continue each other in the guest and
// in this process. The number of slots stays within the kernel's limit: when it is reached, slots that
// continue each other are joined.
//
// When KVM refuses first a change and then also what would undo it, pages are left without a slot (each
// access exits, which is slow but right), or a slot that it would not delete stays. `incomplete` is set then,
// and each later update tries to put it right.
#ifndef BULKHEAD_KVM_SLOTS_H
#define BULKHEAD_KVM_SLOTS_H

#include "partition/gpa_map.h"

struct kvm_slot {
    gpa_t gpa;
    uint64_t size;
    uint8_t *host;
    uint32_t id;                // KVM's number
    uint32_t flags;             // KVM_MEM_*
    uint64_t *pending;          // dirty pages that nobody has asked for yet, a bit each; or NULL
    // Only while an update is at work.
    uint32_t flags_before;
    uint8_t step;               // what is to become of it, and whether KVM knows already
};

// How the engine has all processors stand still, and go on.
struct kvm_quiesce {
    void (*stop)(void *context);
    void (*go)(void *context);
    void *context;
};

struct kvm_slots {
    int vm;
    uint32_t limit;             // of slots at a time
    struct kvm_slot *slots;     // sorted by gpa
    size_t count, capacity;
    uint32_t *free_ids;         // numbers below next_id that are not in use
    size_t free_count, free_capacity;
    uint32_t next_id;
    bool incomplete;            // see above
};

void kvm_slots_init(struct kvm_slots *s, int vm, uint32_t limit);
// Our memory; KVM's goes with the partition's descriptor.
void kvm_slots_destroy(struct kvm_slots *s);

// The map has changed inside [gpa, gpa + size): bring the slots in line. One ioctl for a range that is new or
// goes whole, and processors keep running; where a slot must be cut or replaced they stand still meanwhile,
// so that none meets memory that is only gone for a moment. What stays the same is not touched. On failure,
// E_OUTOFMEMORY when there are not enough slots included, the slots are as the map was before.
CHECKED HRESULT kvm_slots_update(struct kvm_slots *s, struct gpa_map *map, gpa_t gpa, uint64_t size,
                                 const struct kvm_quiesce *quiesce);

// Read and clear KVM's record of written pages for [gpa, gpa + size), which lies inside ranges that track:
// one bit per page, OR-ed into `bitmap`, unless that is NULL. Also while processors run. A page keeps its bit
// when its slot is cut or joined, and loses it when it is unmapped, gets another place in this process, or is
// no longer readable or tracked. On failure nothing is read or cleared. While `incomplete`, every page counts
// as written.
CHECKED HRESULT kvm_slots_dirty(struct kvm_slots *s, gpa_t gpa, uint64_t size, uint64_t *bitmap);

// Test every invariant above against the map; while `incomplete`, those that do not need it. For tests.
bool kvm_slots_sound(const struct kvm_slots *s, struct gpa_map *map);

#endif
