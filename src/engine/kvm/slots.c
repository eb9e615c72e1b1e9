// Memory slots: what a change of the memory map means for them, and how they follow.
//
// An update lays out the slots of a window of the guest's memory anew, keeping those that still fit, and has
// that plan carried out (slots_install.c).
#include "engine/kvm/slots.h"

#include <stdlib.h>
#include <string.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/slots_internal.h"

// KVM allows 2^31 - 1 pages in a slot (virt/kvm/kvm_main.c, KVM_MEM_MAX_NR_PAGES). Whole GiB keep the next
// slot as well aligned as this one, for the sake of large pages.
#define LARGEST_SLOT ((1ull << 43) - (1ull << 30))

// How many slots one round of joining frees, if it can. Processors stand still for that long.
#define JOIN_ROUND 64

void kvm_slots_init(struct kvm_slots *s, int vm, uint32_t limit)
{
    memset(s, 0, sizeof(*s));
    s->vm = vm;
    s->limit = limit;
}

void kvm_slots_destroy(struct kvm_slots *s)
{
    for (size_t i = 0; i < s->count; i++)
        free(s->slots[i].pending);
    free(s->slots);
    free(s->free_ids);
    memset(s, 0, sizeof(*s));
}

size_t kvm_slots_first_above(const struct kvm_slots *s, gpa_t gpa)
{
    size_t low = 0, high = s->count;

    // Most maps are built upwards: the answer is then "behind the last one", without a search.
    if (high == 0 || kvm_slot_end(&s->slots[high - 1]) <= gpa)
        return high;
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (kvm_slot_end(&s->slots[middle]) > gpa)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// ---- What the map asks for --------------------------------------------------------------------------------

static bool servable(const struct gpa_range *range)
{
    return range->flags & WHvMapGpaRangeFlagRead;
}

static uint32_t slot_flags(const struct gpa_range *range)
{
    return (range->flags & WHvMapGpaRangeFlagWrite ? 0 : KVM_MEM_READONLY) |
           (range->flags & WHvMapGpaRangeFlagTrackDirtyPages ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

// The first slot that the map asks for from `gpa` on and below `end`, as large as it can be. False: none.
static bool stretch(struct gpa_map *map, gpa_t gpa, gpa_t end, struct kvm_slot *slot)
{
    struct gpa_range range;

    do {
        if (gpa >= end || !gpa_map_next(map, gpa, &range) || range.gpa >= end)
            return false;
        if (range.gpa > gpa)
            gpa = range.gpa;
        range.host += gpa - range.gpa;
        range.size -= gpa - range.gpa;
        range.gpa = gpa;
        gpa += range.size;
    } while (!servable(&range));

    memset(slot, 0, sizeof(*slot));
    slot->gpa = range.gpa;
    slot->size = range.size;
    slot->host = range.host;
    slot->flags = slot->flags_before = slot_flags(&range);
    slot->id = KVM_SLOT_NO_ID;
    slot->step = SLOT_COMES;
    // Ranges that differ only in what KVM knows nothing of are one to it.
    while (kvm_slot_end(slot) < end && gpa_map_find(map, kvm_slot_end(slot), &range) && servable(&range) &&
           range.host == slot->host + slot->size && slot_flags(&range) == slot->flags)
        slot->size += range.size;
    if (kvm_slot_end(slot) > end)
        slot->size = end - slot->gpa;
    if (slot->size > LARGEST_SLOT)
        slot->size = LARGEST_SLOT;
    return true;
}

// ---- Plans ------------------------------------------------------------------------------------------------

static void plan_init(struct kvm_plan *plan, size_t first, size_t last)
{
    memset(plan, 0, sizeof(*plan));
    plan->first = first;
    plan->last = last;
    plan->after = plan->few;
    plan->capacity = KVM_PLAN_FEW;
}

CHECKED static HRESULT plan_add(struct kvm_plan *plan, const struct kvm_slot *slot)
{
    if (plan->count == plan->capacity) {
        struct kvm_slot *kept = plan->after == plan->few ? NULL : plan->after;
        struct kvm_slot *after = realloc(kept, plan->capacity * 2 * sizeof(*after));

        if (!after)
            return E_OUTOFMEMORY;
        if (!kept)
            memcpy(after, plan->few, sizeof(plan->few));
        plan->after = after;
        plan->capacity *= 2;
    }
    plan->after[plan->count++] = *slot;
    plan->coming += slot->step == SLOT_COMES;
    plan->turning += slot->step == SLOT_TURNS;
    return S_OK;
}

// A slot of the window goes, or is kept with the flags that it shall have.
static void plan_go(struct kvm_plan *plan, struct kvm_slot *slot)
{
    slot->step = SLOT_GOES;
    plan->going++;
    plan->loses_log = plan->loses_log || slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
}

CHECKED static HRESULT plan_keep(struct kvm_plan *plan, struct kvm_slot *slot, uint32_t flags)
{
    struct kvm_slot kept;

    slot->step = flags == slot->flags ? SLOT_STAYS : SLOT_TURNS;
    plan->loses_log = plan->loses_log || (slot->flags & ~flags & KVM_MEM_LOG_DIRTY_PAGES);
    kept = *slot;
    kept.flags_before = kept.flags;
    kept.flags = flags;
    return plan_add(plan, &kept);
}

// All slots that the map asks for in a part of the window that none is kept in.
CHECKED static HRESULT plan_fill(struct kvm_plan *plan, struct gpa_map *map, gpa_t gpa, gpa_t end)
{
    struct kvm_slot slot;
    HRESULT hr = S_OK;

    while (SUCCEEDED(hr) && stretch(map, gpa, end, &slot)) {
        hr = plan_add(plan, &slot);
        gpa = kvm_slot_end(&slot);
    }
    return hr;
}

// Can a slot stay, but perhaps for whether it tracks? KVM lets nothing else change.
static bool fits(struct gpa_map *map, const struct kvm_slot *slot, uint32_t *flags)
{
    struct kvm_slot asked;

    if (!stretch(map, slot->gpa, kvm_slot_end(slot), &asked) || asked.gpa != slot->gpa ||
        asked.size != slot->size || asked.host != slot->host ||
        ((asked.flags ^ slot->flags) & KVM_MEM_READONLY))
        return false;
    *flags = asked.flags;
    return true;
}

// Lay out the slots of [gpa, end) and of all slots that reach into it. `tight`: with as few slots as can be,
// for which those that touch it go too.
CHECKED static HRESULT plan_window(struct kvm_slots *s, struct gpa_map *map, gpa_t gpa, gpa_t end, bool tight,
                                   struct kvm_plan *plan)
{
    size_t first = kvm_slots_first_above(s, gpa), last = first;
    HRESULT hr = S_OK;

    while (last < s->count && s->slots[last].gpa < end)
        last++;
    if (first < last && s->slots[first].gpa < gpa)
        gpa = s->slots[first].gpa;
    if (first < last && kvm_slot_end(&s->slots[last - 1]) > end)
        end = kvm_slot_end(&s->slots[last - 1]);
    if (tight && first > 0 && kvm_slot_end(&s->slots[first - 1]) == gpa)
        gpa = s->slots[--first].gpa;
    if (tight && last < s->count && s->slots[last].gpa == end)
        end = kvm_slot_end(&s->slots[last++]);
    plan_init(plan, first, last);

    for (size_t i = first; SUCCEEDED(hr) && i < last; i++) {
        struct kvm_slot *slot = &s->slots[i];
        uint32_t flags;

        if (tight || !fits(map, slot, &flags)) {
            plan_go(plan, slot);
            continue;
        }
        hr = plan_fill(plan, map, gpa, slot->gpa);
        if (SUCCEEDED(hr))
            hr = plan_keep(plan, slot, flags);
        gpa = kvm_slot_end(slot);
    }
    return SUCCEEDED(hr) ? plan_fill(plan, map, gpa, end) : hr;
}

// ---- Joining ----------------------------------------------------------------------------------------------

static bool continues(const struct kvm_slot *a, const struct kvm_slot *b)
{
    return kvm_slot_end(a) == b->gpa && a->host + a->size == b->host && a->flags == b->flags;
}

// Join up to `most` + 1 slots from `first` on that continue each other outside [gpa, end). How many are gone
// by that.
CHECKED static HRESULT join_run(struct kvm_slots *s, size_t first, size_t most, gpa_t gpa, gpa_t end,
                                size_t *gone)
{
    struct kvm_slot joined = s->slots[first];
    size_t last = first + 1;
    struct kvm_plan plan;
    HRESULT hr;

    *gone = 0;
    if (joined.gpa < end && kvm_slot_end(&joined) > gpa)
        return S_OK;
    while (last < s->count && last - first <= most && continues(&joined, &s->slots[last]) &&
           joined.size + s->slots[last].size <= LARGEST_SLOT &&
           (s->slots[last].gpa >= end || kvm_slot_end(&s->slots[last]) <= gpa))
        joined.size += s->slots[last++].size;
    if (last - first < 2)
        return S_OK;
    plan_init(&plan, first, last);
    joined.id = KVM_SLOT_NO_ID;
    joined.pending = NULL;
    joined.step = SLOT_COMES;
    for (size_t i = first; i < last; i++)
        plan_go(&plan, &s->slots[i]);
    hr = plan_add(&plan, &joined);
    if (SUCCEEDED(hr))
        hr = kvm_plan_carry_out(s, &plan, NULL);
    kvm_plan_free(s, &plan);
    if (SUCCEEDED(hr))
        *gone = last - first - 1;
    return hr;
}

// Join slots until some are free: a round of them, so that maps which grow page by page seldom come here.
// Those that reach into [gpa, end) are about to change and stay alone.
CHECKED static HRESULT join(struct kvm_slots *s, size_t needed, gpa_t gpa, gpa_t end,
                            const struct kvm_quiesce *quiesce)
{
    size_t most = needed > JOIN_ROUND ? needed : JOIN_ROUND, freed = 0;
    HRESULT hr = S_OK;
    bool still = false;

    for (size_t i = 0; SUCCEEDED(hr) && i + 1 < s->count && freed < most; i++) {
        size_t gone;

        if (!continues(&s->slots[i], &s->slots[i + 1]))
            continue;
        if (!still)
            quiesce->stop(quiesce->context);
        still = true;
        hr = join_run(s, i, most - freed, gpa, end, &gone);
        freed += gone;
    }
    if (still)
        quiesce->go(quiesce->context);
    return hr;
}

// ---- The update -------------------------------------------------------------------------------------------

static bool enough(const struct kvm_slots *s, const struct kvm_plan *plan)
{
    return s->count - plan->going + plan->coming <= s->limit;
}

CHECKED static HRESULT update(struct kvm_slots *s, struct gpa_map *map, gpa_t gpa, gpa_t end,
                              const struct kvm_quiesce *quiesce)
{
    struct kvm_plan plan;
    HRESULT hr = plan_window(s, map, gpa, end, false, &plan);

    if (SUCCEEDED(hr) && !enough(s, &plan)) {
        size_t needed = s->count - plan.going + plan.coming - s->limit;

        kvm_plan_free(s, &plan);
        plan_init(&plan, 0, 0);
        hr = join(s, needed, gpa, end, quiesce);
        if (SUCCEEDED(hr))
            hr = plan_window(s, map, gpa, end, false, &plan);
    }
    if (SUCCEEDED(hr) && !enough(s, &plan)) {
        kvm_plan_free(s, &plan);
        hr = plan_window(s, map, gpa, end, true, &plan);
    }
    if (SUCCEEDED(hr))
        hr = enough(s, &plan) ? kvm_plan_carry_out(s, &plan, quiesce) : E_OUTOFMEMORY;
    kvm_plan_free(s, &plan);
    return hr;
}

HRESULT kvm_slots_update(struct kvm_slots *s, struct gpa_map *map, gpa_t gpa, uint64_t size,
                         const struct kvm_quiesce *quiesce)
{
    if (s->incomplete && SUCCEEDED(update(s, map, 0, UINT64_MAX, quiesce))) {
        s->incomplete = false;
        return S_OK;
    }
    return update(s, map, gpa, gpa + size, quiesce);
}

// ---- For tests --------------------------------------------------------------------------------------------

static bool ids_sound(const struct kvm_slots *s)
{
    size_t words = s->next_id / 64 + 1;
    uint64_t *seen = calloc(words, sizeof(*seen));
    bool sound = seen && s->count + s->free_count == s->next_id && s->next_id <= s->limit;

    for (size_t i = 0; sound && i < s->count + s->free_count; i++) {
        uint32_t id = i < s->count ? s->slots[i].id : s->free_ids[i - s->count];

        sound = id < s->next_id && !(seen[id / 64] >> (id % 64) & 1);
        if (sound)
            seen[id / 64] |= 1ull << (id % 64);
    }
    free(seen);
    return sound;
}

bool kvm_slots_sound(const struct kvm_slots *s, struct gpa_map *map)
{
    bool sound = s->count <= s->limit && ids_sound(s);
    struct kvm_slot missing;
    uint32_t flags;
    gpa_t gpa = 0;

    for (size_t i = 0; sound && i < s->count; i++) {
        const struct kvm_slot *slot = &s->slots[i];

        sound = slot->size && slot->size <= LARGEST_SLOT && slot->gpa >= gpa && slot->step == SLOT_STAYS;
        if (sound && !s->incomplete)
            sound = fits(map, slot, &flags) && flags == slot->flags &&
                    !stretch(map, gpa, slot->gpa, &missing) &&
                    (!slot->pending || slot->flags & KVM_MEM_LOG_DIRTY_PAGES);
        gpa = kvm_slot_end(slot);
    }
    return sound && (s->incomplete || !stretch(map, gpa, UINT64_MAX, &missing));
}
