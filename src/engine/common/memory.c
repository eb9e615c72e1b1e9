// Guest memory as a processor's bus has it.
#include "engine/common/processor.h"

// Find the range that holds `gpa`, or the hole, and keep it in place of the older one.
static __attribute__((noinline)) void look_up(struct processor *p, uint64_t gpa)
{
    struct gpa_range next = { .gpa = UINT64_MAX, .size = 0 };
    bool found = gpa_map_next(&p->vp->partition->map, gpa, &next) && next.gpa <= gpa;
    struct x86_page *range = &p->ranges[p->range_next ^= 1];
    if (!found) {
        *range = (struct x86_page){ .first = gpa, .size = next.gpa - gpa };
        return;
    }
    *range = (struct x86_page){
        .host = next.host, .first = next.gpa, .size = next.size,
        .read = next.flags & WHvMapGpaRangeFlagRead,
        .write = next.flags & WHvMapGpaRangeFlagWrite,
        .execute = next.flags & WHvMapGpaRangeFlagExecute,
        .watched = next.flags & WHvMapGpaRangeFlagTrackDirtyPages,
    };
}

__attribute__((hot)) void processor_page(struct processor *p, uint64_t gpa, struct x86_page *page)
{
    p->tlb_used = true;
    for (;;) {
        for (unsigned n = 0; n < 2; n++) {
            uint64_t offset = gpa - p->ranges[n].first;
            if (offset >= p->ranges[n].size)
                continue;
            *page = p->ranges[n];
            if (page->host)
                page->host += offset;
            return;
        }
        look_up(p, gpa);
    }
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
