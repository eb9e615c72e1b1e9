// A plan of memory slots carried out: deletions first, so that slots never overlap, then new slots, then
// changes of flags. A failure on the way is undone in the opposite order.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/slots_internal.h"

static int set_region(const struct kvm_slots *s, const struct kvm_slot *slot, uint32_t flags, uint64_t size)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot->id,
        .flags = flags,
        .guest_phys_addr = slot->gpa,
        .memory_size = size,
        .userspace_addr = (uintptr_t)slot->host,
    };
    int answer;

    do
        answer = kvm_ioctl(s->vm, KVM_SET_USER_MEMORY_REGION, &region);
    while (answer == -EINTR);
    return answer;
}

// There is room in the list of free numbers for as many as were ever in use (reserve).
static void give_id(struct kvm_slots *s, struct kvm_slot *slot)
{
    s->free_ids[s->free_count++] = slot->id;
    slot->id = KVM_SLOT_NO_ID;
}

static int create(struct kvm_slots *s, struct kvm_slot *slot)
{
    int answer;

    // Only slots that KVM would not delete again can have used the numbers up.
    if (s->free_count == 0 && s->next_id == s->limit)
        return -ENOSPC;
    slot->id = s->free_count ? s->free_ids[--s->free_count] : s->next_id++;
    answer = set_region(s, slot, slot->flags, slot->size);
    if (answer < 0)
        give_id(s, slot);
    return answer;
}

static int delete(struct kvm_slots *s, struct kvm_slot *slot)
{
    int answer = set_region(s, slot, 0, 0);

    if (answer >= 0)
        give_id(s, slot);
    return answer;
}

// Room for all slots of before and after, and for all their numbers.
CHECKED static HRESULT reserve(struct kvm_slots *s, const struct kvm_plan *plan)
{
    size_t slots = s->count + plan->count, ids = s->next_id + plan->coming;

    if (slots > s->capacity) {
        struct kvm_slot *grown;

        slots += slots / 2;
        grown = realloc(s->slots, slots * sizeof(*grown));
        if (!grown)
            return E_OUTOFMEMORY;
        s->slots = grown;
        s->capacity = slots;
    }
    if (ids > s->free_capacity) {
        uint32_t *grown;

        ids += ids / 2;
        grown = realloc(s->free_ids, ids * sizeof(*grown));
        if (!grown)
            return E_OUTOFMEMORY;
        s->free_ids = grown;
        s->free_capacity = ids;
    }
    return S_OK;
}

// Put `count` slots in the place of those in [first, last).
static void splice(struct kvm_slots *s, size_t first, size_t last, const struct kvm_slot *with, size_t count)
{
    memmove(s->slots + first + count, s->slots + last, (s->count - last) * sizeof(*s->slots));
    if (count)
        memcpy(s->slots + first, with, count * sizeof(*with));
    s->count = s->count - (last - first) + count;
}

// ---- Records of written pages -----------------------------------------------------------------------------

// Before slots lose theirs: fetch it, and give it to the slots that come.
CHECKED static HRESULT save_logs(struct kvm_slots *s, struct kvm_plan *plan)
{
    for (size_t i = plan->first; i < plan->last; i++) {
        struct kvm_slot *slot = &s->slots[i];
        HRESULT hr;

        if (slot->step == SLOT_STAYS || !(slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
            continue;
        hr = kvm_slot_log_fetch(s, slot);
        for (size_t n = 0; SUCCEEDED(hr) && slot->step == SLOT_GOES && n < plan->count; n++)
            if (plan->after[n].step == SLOT_COMES)
                hr = kvm_slot_log_carry(slot, &plan->after[n]);
        if (FAILED(hr))
            return hr;
    }
    return S_OK;
}

// The slot that a slot of the plan was before, searched from `from` on: it stays, so both have the same
// number.
static struct kvm_slot *before(struct kvm_slot *from, const struct kvm_slot *after)
{
    while (from->id != after->id)
        from++;
    return from;
}

// Slots come, or begin to track, where some were missing: pages may have been written without a record.
CHECKED static HRESULT fill_logs(struct kvm_slots *s, struct kvm_plan *plan)
{
    struct kvm_slot *old = s->slots + plan->first;
    HRESULT hr = S_OK;

    for (size_t n = 0; SUCCEEDED(hr) && n < plan->count; n++) {
        struct kvm_slot *slot = &plan->after[n];

        if (!(slot->flags & KVM_MEM_LOG_DIRTY_PAGES) || slot->step == SLOT_STAYS)
            continue;
        if (slot->step == SLOT_TURNS)
            slot = old = before(old, slot);
        hr = kvm_slot_log_fill(slot);
    }
    return hr;
}

// ---- Done, or undone --------------------------------------------------------------------------------------

// KVM has done all of the plan: what it says is what is.
static void settle(struct kvm_slots *s, struct kvm_plan *plan)
{
    struct kvm_slot *old = s->slots + plan->first;

    for (size_t i = plan->first; i < plan->last; i++)
        if (s->slots[i].step == SLOT_GONE)
            free(s->slots[i].pending);
    for (size_t n = 0; n < plan->count; n++) {
        struct kvm_slot *slot = &plan->after[n];

        if (slot->step == SLOT_TURNED) {
            // The plan's copy is older than what save_logs may have fetched.
            old = before(old, slot);
            slot->pending = old->pending;
            if (!(slot->flags & KVM_MEM_LOG_DIRTY_PAGES)) {
                free(slot->pending);
                slot->pending = NULL;
            }
        }
        slot->step = SLOT_STAYS;
    }
    splice(s, plan->first, plan->last, plan->after, plan->count);
    plan->first = plan->last = plan->count = 0;
}

// KVM would not undo all that it did: keep to what it has. Slots of before that are there, and slots that
// came and would not go again; no two of them overlap, or KVM would not have them.
static void settle_for_the_rest(struct kvm_slots *s, struct kvm_plan *plan)
{
    size_t to = plan->first;

    for (size_t i = plan->first; i < plan->last; i++) {
        if (s->slots[i].step == SLOT_GONE) {
            free(s->slots[i].pending);
            continue;
        }
        s->slots[to] = s->slots[i];
        s->slots[to++].step = SLOT_STAYS;
    }
    splice(s, to, plan->last, NULL, 0);
    for (size_t n = 0; n < plan->count; n++) {
        struct kvm_slot *slot = &plan->after[n];

        if (slot->step == SLOT_CAME) {
            size_t at = kvm_slots_first_above(s, slot->gpa);

            slot->step = SLOT_STAYS;
            splice(s, at, at, slot, 1);
        }
    }
    plan->last = plan->first;
    s->incomplete = true;
}

// KVM will not have a slot's old flags back. Where it was to track and does not any more, its pages count as
// written.
static void keep_turned(struct kvm_slot *old, uint32_t flags)
{
    if (old->pending) {
        HRESULT hr = kvm_slot_log_fill(old);

        (void)hr;   // the memory is there
    }
    old->flags = flags;
}

// Undo what KVM has done of the plan.
static void take_back(struct kvm_slots *s, struct kvm_plan *plan)
{
    struct kvm_slot *old = s->slots + plan->first;
    bool all = true;

    for (size_t n = 0; n < plan->count; n++) {
        struct kvm_slot *slot = &plan->after[n];

        if (slot->step != SLOT_TURNED)
            continue;
        old = before(old, slot);
        if (set_region(s, slot, slot->flags_before, slot->size) < 0) {
            keep_turned(old, slot->flags);
            all = false;
        }
    }
    for (size_t n = 0; n < plan->count; n++)
        if (plan->after[n].step == SLOT_CAME) {
            if (delete(s, &plan->after[n]) >= 0)
                plan->after[n].step = SLOT_COMES;
            else
                all = false;
        }
    for (size_t i = plan->first; i < plan->last; i++)
        if (s->slots[i].step == SLOT_GONE) {
            if (create(s, &s->slots[i]) >= 0)
                s->slots[i].step = SLOT_STAYS;
            else
                all = false;
        }
    if (!all)
        settle_for_the_rest(s, plan);
}

static HRESULT install(struct kvm_slots *s, struct kvm_plan *plan)
{
    int answer = 0;

    for (size_t i = plan->first; answer >= 0 && i < plan->last; i++)
        if (s->slots[i].step == SLOT_GOES) {
            answer = delete(s, &s->slots[i]);
            if (answer >= 0)
                s->slots[i].step = SLOT_GONE;
        }
    for (size_t n = 0; answer >= 0 && n < plan->count; n++)
        if (plan->after[n].step == SLOT_COMES) {
            answer = create(s, &plan->after[n]);
            if (answer >= 0)
                plan->after[n].step = SLOT_CAME;
        }
    for (size_t n = 0; answer >= 0 && n < plan->count; n++)
        if (plan->after[n].step == SLOT_TURNS) {
            answer = set_region(s, &plan->after[n], plan->after[n].flags, plan->after[n].size);
            if (answer >= 0)
                plan->after[n].step = SLOT_TURNED;
        }
    if (answer >= 0)
        settle(s, plan);
    else
        take_back(s, plan);
    return kvm_hresult(answer);
}

HRESULT kvm_plan_carry_out(struct kvm_slots *s, struct kvm_plan *plan, const struct kvm_quiesce *quiesce)
{
    size_t steps = plan->going + plan->coming + plan->turning;
    // A single step leaves nothing to undo, so that nothing has to be saved for it.
    bool save = plan->loses_log && steps > 1;
    bool still = quiesce && (save || (plan->going && plan->coming));
    HRESULT hr = steps ? reserve(s, plan) : S_OK;

    if (FAILED(hr) || steps == 0)
        return hr;
    if (still)
        quiesce->stop(quiesce->context);
    if (save)
        hr = save_logs(s, plan);
    if (SUCCEEDED(hr) && s->incomplete)
        hr = fill_logs(s, plan);
    if (SUCCEEDED(hr))
        hr = install(s, plan);
    if (still)
        quiesce->go(quiesce->context);
    return hr;
}

void kvm_plan_free(struct kvm_slots *s, struct kvm_plan *plan)
{
    // What was carried out is the slots' own by now, and out of the plan.
    for (size_t i = plan->first; i < plan->last; i++)
        s->slots[i].step = SLOT_STAYS;
    for (size_t n = 0; n < plan->count; n++)
        if (plan->after[n].step == SLOT_COMES)
            free(plan->after[n].pending);
    if (plan->after != plan->few)
        free(plan->after);
}
