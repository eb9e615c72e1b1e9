// KVM's memory slots, kept in line with the partition's memory map. All calls with partition->lock held, but for
// kvm_slots_dirty's readers.
//
// Invariants: slots are sorted, never overlap, and lie inside ranges of the map that KVM can serve: readable and
// executable ones (without Write: a read-only slot). What KVM cannot express (no Read) has no slot: each access exits,
// and the engine's interpreter does it. A slot may hold part of a range, never of two that do not continue each other.
// The number of slots stays below the kernel's limit: when it comes near, slots that continue each other are joined.
#ifndef BULKHEAD_KVM_SLOTS_H
#define BULKHEAD_KVM_SLOTS_H

#include "partition/gpa_map.h"

struct kvm_slot {
    gpa_t gpa;
    uint64_t size;
    uint8_t *host;
    uint32_t id;                // KVM's number
    uint32_t flags;             // KVM_MEM_*
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
};

void kvm_slots_init(struct kvm_slots *s, int vm, uint32_t limit);
void kvm_slots_destroy(struct kvm_slots *s);        // of our memory; KVM's goes with the partition's descriptor

// The map has changed inside [gpa, gpa + size): bring the slots in line. One ioctl for a range that is new or goes
// whole, and processors keep running; where a slot must be cut or replaced they stand still meanwhile, so that none
// meets memory that is only gone for a moment. On failure the slots are as the map was before.
CHECKED HRESULT kvm_slots_update(struct kvm_slots *s, struct gpa_map *map, gpa_t gpa, uint64_t size,
                                 const struct kvm_quiesce *quiesce);

// Read and clear KVM's record of written pages for [gpa, gpa + size), which lies inside ranges that track: one bit per
// page, OR-ed into `bitmap`. Also while processors run.
CHECKED HRESULT kvm_slots_dirty(struct kvm_slots *s, gpa_t gpa, uint64_t size, uint64_t *bitmap);

// Test every invariant above against the map. For tests.
bool kvm_slots_sound(const struct kvm_slots *s, struct gpa_map *map);

#endif
