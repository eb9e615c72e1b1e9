// What the files of the memory slots share: plans, and what carries them out. Used by slots*.c alone.
#ifndef BULKHEAD_KVM_SLOTS_INTERNAL_H
#define BULKHEAD_KVM_SLOTS_INTERNAL_H

#include "engine/kvm/slots.h"

// struct kvm_slot.step
enum kvm_slot_step {
    SLOT_STAYS,
    SLOT_GOES, SLOT_GONE,       // is to be deleted; KVM has deleted it
    SLOT_COMES, SLOT_CAME,      // is to be created; KVM has it
    SLOT_TURNS, SLOT_TURNED,    // its flags are to change; KVM has changed them
};

#define KVM_SLOT_NO_ID UINT32_MAX
#define KVM_PLAN_FEW 6

// The slots that shall stand in the place of those in [first, last). A slot that stays is in both lists.
struct kvm_plan {
    size_t first, last;
    struct kvm_slot *after;     // in `few` if they fit, else allocated
    size_t count, capacity;
    size_t coming, going, turning;
    bool loses_log;             // a slot that tracks goes, or tracks no more
    struct kvm_slot few[KVM_PLAN_FEW];
};

static inline gpa_t kvm_slot_end(const struct kvm_slot *slot)
{
    return slot->gpa + slot->size;
}

// The index of the first slot that ends above `gpa`: the one that holds it, or else the next one up.
size_t kvm_slots_first_above(const struct kvm_slots *s, gpa_t gpa);

// slots_install.c. Have KVM do what the plan says, and the list of slots with it; processors stand still
// where that is needed, unless `quiesce` is NULL (they do already). On failure everything is as before, as
// far as KVM lets us.
CHECKED HRESULT kvm_plan_carry_out(struct kvm_slots *s, struct kvm_plan *plan,
                                   const struct kvm_quiesce *quiesce);
// Release a plan, whatever has become of it.
void kvm_plan_free(struct kvm_slots *s, struct kvm_plan *plan);

// slots_log.c. Move what KVM has recorded of a slot that tracks to its pending bits. On failure nothing is
// lost.
CHECKED HRESULT kvm_slot_log_fetch(const struct kvm_slots *s, struct kvm_slot *slot);
// Copy the pending bits of the pages that are in both slots and lie at the same place of this process, if
// `to` tracks.
CHECKED HRESULT kvm_slot_log_carry(const struct kvm_slot *from, struct kvm_slot *to);
// Every page may have been written: nobody has kept a record.
CHECKED HRESULT kvm_slot_log_fill(struct kvm_slot *slot);

#endif
