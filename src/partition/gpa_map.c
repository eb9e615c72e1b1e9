// The guest memory map as one sorted array: binary search to look up, one memmove to change.
#include "partition/gpa_map.h"

#include <stdlib.h>
#include <string.h>

// Enough for most partitions; the array doubles from there.
#define FIRST_CAPACITY 16

HRESULT gpa_map_init(struct gpa_map *map)
{
    memset(map, 0, sizeof(*map));
    return pthread_rwlock_init(&map->lock, NULL) == 0 ? S_OK : E_OUTOFMEMORY;
}

void gpa_map_destroy(struct gpa_map *map)
{
    free(map->ranges);
    map->ranges = NULL;
    map->count = map->capacity = 0;
    pthread_rwlock_destroy(&map->lock);
}

bool gpa_range_valid(gpa_t start, uint64_t size, uint64_t limit)
{
    return size != 0 && size <= limit && start <= limit - size;
}

static gpa_t range_end(const struct gpa_range *range)
{
    return range->gpa + range->size;
}

// The index of the first range that ends above `gpa`: the one that holds it, or else the next one up.
static size_t first_ending_above(const struct gpa_map *map, gpa_t gpa)
{
    size_t low = 0, high = map->count;

    // Most maps are built upwards: the answer is then "behind the last one", without a search.
    if (high == 0 || range_end(&map->ranges[high - 1]) <= gpa)
        return high;
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (range_end(&map->ranges[middle]) > gpa)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// The index of the first range that starts at or above `gpa`, searched from `from` on.
static size_t first_starting_at(const struct gpa_map *map, size_t from, gpa_t gpa)
{
    size_t low = from, high = map->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (map->ranges[middle].gpa >= gpa)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

bool gpa_map_next(struct gpa_map *map, gpa_t gpa, struct gpa_range *found)
{
    bool hit = false;
    size_t i;

    pthread_rwlock_rdlock(&map->lock);
    i = first_ending_above(map, gpa);
    if (i < map->count) {
        *found = map->ranges[i];
        hit = true;
    }
    pthread_rwlock_unlock(&map->lock);
    return hit;
}

bool gpa_map_find(struct gpa_map *map, gpa_t gpa, struct gpa_range *found)
{
    return gpa_map_next(map, gpa, found) && found->gpa <= gpa;
}

// Remember `old_count` ranges from `first` on, in the place of which `count` ranges will be put.
CHECKED static HRESULT remember(const struct gpa_map *map, size_t first, size_t old_count, size_t count,
                                struct gpa_map_undo *undo)
{
    undo->first = first;
    undo->count = count;
    undo->old = undo->few;
    undo->old_count = old_count;
    if (old_count > sizeof(undo->few) / sizeof(undo->few[0])) {
        undo->old = malloc(old_count * sizeof(*undo->old));
        if (!undo->old)
            return E_OUTOFMEMORY;
    }
    if (old_count)
        memcpy(undo->old, map->ranges + first, old_count * sizeof(*undo->old));
    return S_OK;
}

static void replace(struct gpa_map *map, size_t first, size_t last, const struct gpa_range *with, size_t count)
{
    memmove(map->ranges + first + count, map->ranges + last, (map->count - last) * sizeof(*map->ranges));
    if (count)
        memcpy(map->ranges + first, with, count * sizeof(*with));
    map->count = map->count - (last - first) + count;
}

// Put `count` ranges in the place of those in [first, last). Fails before it changes anything.
CHECKED static HRESULT splice(struct gpa_map *map, size_t first, size_t last, const struct gpa_range *with,
                              size_t count, struct gpa_map_undo *undo)
{
    size_t needed = map->count - (last - first) + count;
    HRESULT hr;

    if (needed > map->capacity) {
        size_t capacity = map->capacity ? map->capacity * 2 : FIRST_CAPACITY;
        struct gpa_range *ranges = realloc(map->ranges, capacity * sizeof(*ranges));

        if (!ranges)
            return E_OUTOFMEMORY;
        map->ranges = ranges;
        map->capacity = capacity;
    }
    hr = undo ? remember(map, first, last - first, count, undo) : S_OK;
    if (SUCCEEDED(hr))
        replace(map, first, last, with, count);
    return hr;
}

// True when `b` goes on where `a` ends, in the guest and in this process, with the same rights.
static bool continues(const struct gpa_range *a, const struct gpa_range *b)
{
    return range_end(a) == b->gpa && a->host + a->size == b->host && a->flags == b->flags;
}

// Append to a short list of ranges, growing its last one where the new one continues it.
static size_t append(struct gpa_range *list, size_t count, const struct gpa_range *range)
{
    if (count && continues(&list[count - 1], range)) {
        list[count - 1].size += range->size;
        return count;
    }
    list[count] = *range;
    return count + 1;
}

static struct gpa_range part_below(const struct gpa_range *range, gpa_t cut)
{
    struct gpa_range part = *range;

    part.size = cut - range->gpa;
    return part;
}

static struct gpa_range part_from(const struct gpa_range *range, gpa_t cut)
{
    struct gpa_range part = *range;

    part.gpa = cut;
    part.host += cut - range->gpa;
    part.size = range_end(range) - cut;
    return part;
}

HRESULT gpa_map_insert(struct gpa_map *map, const struct gpa_range *range, struct gpa_map_undo *undo)
{
    struct gpa_range list[3];
    size_t first, last, count = 0;
    gpa_t end = range_end(range);
    HRESULT hr;

    pthread_rwlock_wrlock(&map->lock);
    first = first_ending_above(map, range->gpa);
    // A neighbour that merely touches is taken along, so that it can be merged.
    if (first > 0 && continues(&map->ranges[first - 1], range))
        first--;
    last = first_starting_at(map, first, end);
    if (last < map->count && continues(range, &map->ranges[last]))
        last++;

    if (first < last && map->ranges[first].gpa < range->gpa) {
        struct gpa_range below = part_below(&map->ranges[first], range->gpa);

        count = append(list, count, &below);
    }
    count = append(list, count, range);
    if (first < last && range_end(&map->ranges[last - 1]) > end) {
        const struct gpa_range *top = &map->ranges[last - 1];
        struct gpa_range above = top->gpa < end ? part_from(top, end) : *top;

        count = append(list, count, &above);
    }
    hr = splice(map, first, last, list, count, undo);
    pthread_rwlock_unlock(&map->lock);
    return hr;
}

HRESULT gpa_map_remove(struct gpa_map *map, gpa_t gpa, uint64_t size, struct gpa_map_undo *undo)
{
    struct gpa_range list[2];
    size_t first, last, count = 0;
    gpa_t end = gpa + size;
    HRESULT hr = WHV_E_GPA_RANGE_NOT_FOUND;

    pthread_rwlock_wrlock(&map->lock);
    first = first_ending_above(map, gpa);
    last = first_starting_at(map, first, end);
    if (first < last) {
        if (map->ranges[first].gpa < gpa)
            list[count++] = part_below(&map->ranges[first], gpa);
        if (range_end(&map->ranges[last - 1]) > end)
            list[count++] = part_from(&map->ranges[last - 1], end);
        hr = splice(map, first, last, list, count, undo);
    }
    pthread_rwlock_unlock(&map->lock);
    return hr;
}

void gpa_map_clear(struct gpa_map *map)
{
    pthread_rwlock_wrlock(&map->lock);
    map->count = 0;
    pthread_rwlock_unlock(&map->lock);
}

void gpa_map_keep(struct gpa_map_undo *undo)
{
    if (undo->old != undo->few)
        free(undo->old);
    undo->old = NULL;
}

void gpa_map_restore(struct gpa_map *map, struct gpa_map_undo *undo)
{
    pthread_rwlock_wrlock(&map->lock);
    // There is room: as many ranges have stood in the array before, and it never shrinks.
    replace(map, undo->first, undo->first + undo->count, undo->old, undo->old_count);
    pthread_rwlock_unlock(&map->lock);
    gpa_map_keep(undo);
}

bool gpa_map_sound(struct gpa_map *map)
{
    bool sound = true;

    pthread_rwlock_rdlock(&map->lock);
    for (size_t i = 0; i < map->count; i++) {
        const struct gpa_range *range = &map->ranges[i];

        sound = sound && gpa_range_valid(range->gpa, range->size, UINT64_MAX) &&
                (range->gpa | range->size | (uintptr_t)range->host) % GPA_PAGE_SIZE == 0 &&
                (i == 0 || range_end(range - 1) <= range->gpa);
    }
    pthread_rwlock_unlock(&map->lock);
    return sound;
}
