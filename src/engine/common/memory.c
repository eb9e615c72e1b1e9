// Guest memory as a processor's bus has it.
#include "engine/common/processor.h"

static const struct gpa_range *range_of(struct processor *p, uint64_t gpa)
{
    for (unsigned n = 0; n < 2; n++)
        if (gpa - p->ranges[n].gpa < p->ranges[n].size)
            return &p->ranges[n];
    struct gpa_range *slot = &p->ranges[p->range_next];
    struct gpa_range found;
    if (!gpa_map_find(&p->vp->partition->map, gpa, &found))
        return NULL;
    *slot = found;
    p->range_next ^= 1;
    return slot;
}

void processor_page(struct processor *p, uint64_t gpa, struct x86_page *page)
{
    p->tlb_used = true;
    const struct gpa_range *range = range_of(p, gpa);
    if (!range) {
        *page = (struct x86_page){ 0 };
        return;
    }
    *page = (struct x86_page){
        .host = range->host + (gpa - range->gpa),
        .read = range->flags & WHvMapGpaRangeFlagRead,
        .write = range->flags & WHvMapGpaRangeFlagWrite,
        .execute = range->flags & WHvMapGpaRangeFlagExecute,
        .watched = range->flags & WHvMapGpaRangeFlagTrackDirtyPages,
    };
}

void processor_written(struct processor *p, uint64_t gpa)
{
    dirty_mark(&p->vp->partition->dirty, gpa);
}

void processor_forget_memory(struct processor *p)
{
    p->ranges[0].size = p->ranges[1].size = 0;
    if (p->tlb_used)
        x86_flush_tlb(&p->cpu, true);
    p->tlb_used = false;
}

void processor_forget_writes(struct processor *p)
{
    if (p->tlb_used)
        x86_forget_writes(&p->cpu);
}

bool processor_is_guest_memory(struct processor *p, const void *address, gpa_t *gpa)
{
    struct gpa_map *map = &p->vp->partition->map;
    const uint8_t *at = address;
    bool found = false;
    pthread_rwlock_rdlock(&map->lock);
    for (size_t n = 0; n < map->count && !found; n++)
        if (at >= map->ranges[n].host && at < map->ranges[n].host + map->ranges[n].size) {
            *gpa = map->ranges[n].gpa + (uint64_t)(at - map->ranges[n].host);
            found = true;
        }
    pthread_rwlock_unlock(&map->lock);
    return found;
}
