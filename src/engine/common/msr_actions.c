// MsrActionList and UnimplementedMsrAction.
#include "engine/common/msr_actions.h"

#include <stdlib.h>

static int compare(const void *one, const void *other)
{
    const WHV_MSR_ACTION_ENTRY *a = one, *b = other;
    return a->Index < b->Index ? -1 : a->Index > b->Index;
}

static const WHV_MSR_ACTION_ENTRY *find(const struct msr_actions *actions, uint32_t msr)
{
    const WHV_MSR_ACTION_ENTRY key = { .Index = msr };
    return actions->count ? bsearch(&key, actions->entries, actions->count, sizeof key, compare) : NULL;
}

// By Index, and those of one register in the list's order. (`Reserved` is 0 in every entry that a list may have; it
// holds the place meanwhile, and a list is never so long that it would not fit.)
static int compare_places(const void *one, const void *other)
{
    const WHV_MSR_ACTION_ENTRY *a = one, *b = other;
    int index = compare(a, b);
    return index ? index : (int)a->Reserved - (int)b->Reserved;
}
_Static_assert(PROPERTY_LIST_MAX <= UINT16_MAX, "a place in the list is kept in 16 bits");

HRESULT msr_actions_init(struct msr_actions *actions, const struct property_values *properties)
{
    WHV_MSR_ACTION_ENTRY *entries = NULL;
    size_t count = 0, given = properties->msr_action_count;
    if (given) {
        entries = calloc(given, sizeof *entries);
        if (!entries)
            return E_OUTOFMEMORY;
        for (size_t n = 0; n < given; n++) {
            entries[n] = properties->msr_action_list[n];
            entries[n].Reserved = (UINT16)n;
        }
        qsort(entries, given, sizeof *entries, compare_places);
        for (size_t n = 0; n < given; n++)
            if (n + 1 == given || entries[n + 1].Index != entries[n].Index)
                entries[count++] = entries[n];
    }
    *actions = (struct msr_actions){ .entries = entries, .count = count,
                                     .unimplemented = properties->unimplemented_msr_action };
    return S_OK;
}

void msr_actions_release(struct msr_actions *actions)
{
    free(actions->entries);
    *actions = (struct msr_actions){ .entries = NULL };
}

WHV_MSR_ACTION msr_actions_listed(const struct msr_actions *actions, uint32_t msr, bool write)
{
    const WHV_MSR_ACTION_ENTRY *entry = find(actions, msr);
    if (!entry)
        return WHvMsrActionArchitectureDefault;
    return write ? entry->WriteAction : entry->ReadAction;
}

WHV_MSR_ACTION msr_actions_unimplemented(const struct msr_actions *actions, uint32_t msr)
{
    return find(actions, msr) ? WHvMsrActionArchitectureDefault : actions->unimplemented;
}
