// Guest memory as files: found or copied where it leaves, mapped where it arrives.
#include "partition/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/mman.h>

#include "os/share.h"

#define INVALID_DATA HRESULT_FROM_WIN32(ERROR_INVALID_DATA)

// ---- Leaving -----------------------------------------------------------------------------------------------------

struct interval {
    uint8_t *start, *end;
};

static int by_start(const void *a, const void *b)
{
    const struct interval *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

// The host memory behind the map, in stretches that do not overlap or touch.
static HRESULT take_areas(const struct partition *p, struct snapshot_map *map, struct interval **stretches)
{
    size_t count = p->map.count, used = 0;
    struct interval *all = calloc(count ? count : 1, sizeof(*all));

    if (!all)
        return E_OUTOFMEMORY;
    for (size_t n = 0; n < count; n++)
        all[n] = (struct interval){p->map.ranges[n].host, p->map.ranges[n].host + p->map.ranges[n].size};
    qsort(all, count, sizeof(*all), by_start);
    for (size_t n = 0; n < count; n++) {
        if (used && all[n].start <= all[used - 1].end) {
            if (all[n].end > all[used - 1].end)
                all[used - 1].end = all[n].end;
        } else {
            all[used++] = all[n];
        }
    }
    map->areas = calloc(used ? used : 1, sizeof(*map->areas));
    map->ranges = calloc(count ? count : 1, sizeof(*map->ranges));
    if (!map->areas || !map->ranges) {
        free(all);
        return E_OUTOFMEMORY;
    }
    for (size_t n = 0; n < used; n++)
        map->areas[n] = (struct snapshot_area){.size = (uint64_t)(all[n].end - all[n].start), .host = all[n].start};
    map->area_count = used;
    *stretches = all;
    return S_OK;
}

static void take_ranges(const struct partition *p, struct snapshot_map *map)
{
    for (size_t n = 0; n < p->map.count; n++) {
        const struct gpa_range *range = &p->map.ranges[n];
        uint32_t area = 0;

        for (size_t low = 0, high = map->area_count; low < high;) {
            size_t middle = (low + high) / 2;

            if (map->areas[middle].host <= range->host) {
                area = (uint32_t)middle;
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        map->ranges[n] = (struct snapshot_range){.gpa = range->gpa, .size = range->size, .area = area,
                                                 .flags = (uint32_t)range->flags,
                                                 .offset = (uint64_t)(range->host - map->areas[area].host)};
    }
    map->range_count = p->map.count;
}

// Files that were found already, so that memory of one file goes by one descriptor.
struct known_file {
    uint64_t device, inode;
    bool writable;
    uint32_t number;
};

struct taking {
    struct handover *out;
    struct known_file *known;
    size_t known_count;
    uint64_t copied;            // bytes that the file of copies will have
};

static bool add_file(struct handover *out, int fd)
{
    int *grown = realloc(out->files, (out->file_count + 1) * sizeof(*grown));

    if (!grown)
        return false;
    out->files = grown;
    out->files[out->file_count++] = fd;
    return true;
}

// The number of the file behind a mapping; -1 when there is none to hand over, -2 without memory.
static int64_t file_of(struct taking *t, const struct os_mapping *m)
{
    struct known_file *grown;
    int fd;

    for (size_t n = 0; n < t->known_count; n++)
        if (t->known[n].device == m->device && t->known[n].inode == m->inode && (t->known[n].writable || !m->writable))
            return t->known[n].number;
    fd = os_share_descriptor(m);
    if (fd < 0)
        return fd == -ENOENT ? -1 : -2;
    grown = realloc(t->known, (t->known_count + 1) * sizeof(*grown));
    if (grown)
        t->known = grown;
    if (!grown || !add_file(t->out, fd)) {
        close(fd);
        return -2;
    }
    t->known[t->known_count++] = (struct known_file){m->device, m->inode, m->writable, (uint32_t)(t->out->file_count - 1)};
    return (int64_t)t->out->file_count - 1;
}

static HRESULT take_region(struct taking *t, uint32_t area, const struct os_mapping *m)
{
    struct snapshot_map *map = &t->out->map;
    struct snapshot_region *grown, region = {.area = area, .writable = m->writable};
    int64_t file = m->shared ? file_of(t, m) : -1;

    if (file < -1)
        return E_OUTOFMEMORY;
    region.offset = m->start - (uintptr_t)map->areas[area].host;
    region.size = m->end - m->start;
    if (file >= 0) {
        region.kind = SNAPSHOT_SHARED;
        region.file = (uint32_t)file;
        region.file_offset = m->offset;
    } else {
        region.kind = SNAPSHOT_COPIED;
        region.file_offset = t->copied;
        region.writable = true;         // whether it may be written is the guest range's to say
        t->copied += region.size;
    }
    if ((map->region_count & (map->region_count - 1)) == 0) {
        grown = realloc(map->regions, (map->region_count ? 2 * map->region_count : 1) * sizeof(*grown));
        if (!grown)
            return E_OUTOFMEMORY;
        map->regions = grown;
    }
    map->regions[map->region_count++] = region;
    return S_OK;
}

// All mappings inside a stretch. Room for as many as there are, which another thread may change meanwhile.
static int mappings_of(const struct interval *stretch, struct os_mapping **mappings)
{
    size_t room = 64;

    for (;;) {
        struct os_mapping *grown = realloc(*mappings, room * sizeof(*grown));
        int count;

        if (!grown)
            return -ENOMEM;
        *mappings = grown;
        count = os_share_mappings((uintptr_t)stretch->start, (uintptr_t)stretch->end, grown, room);
        if (count <= (int)room)
            return count;
        room = (size_t)count + 16;
    }
}

static HRESULT take_regions(struct taking *t, const struct interval *stretches)
{
    struct os_mapping *mappings = NULL;
    HRESULT hr = S_OK;

    for (uint32_t area = 0; area < t->out->map.area_count && SUCCEEDED(hr); area++) {
        int count = mappings_of(&stretches[area], &mappings);

        if (count < 0)
            hr = E_OUTOFMEMORY;
        for (int n = 0; n < count && SUCCEEDED(hr); n++)
            if (mappings[n].readable)           // what cannot be read is no memory of the guest's
                hr = take_region(t, area, &mappings[n]);
    }
    free(mappings);
    return hr;
}

// What there is, and what has to be copied: `*copied` bytes.
static HRESULT take_shape(struct partition *p, struct handover *out, uint64_t *copied)
{
    struct taking t = {.out = out};
    struct interval *stretches = NULL;
    HRESULT hr;

    *out = (struct handover){.files = NULL};
    hr = take_areas(p, &out->map, &stretches);
    if (SUCCEEDED(hr)) {
        take_ranges(p, &out->map);
        hr = take_regions(&t, stretches);
    }
    free(stretches);
    free(t.known);
    *copied = t.copied;
    if (FAILED(hr))
        handover_release(out);
    return hr;
}

// ---- Copying -----------------------------------------------------------------------------------------------------

static HRESULT copy_part(const struct snapshot_map *map, const struct snapshot_region *region, uint64_t offset,
                         uint64_t size, int fd)
{
    const uintptr_t start = (uintptr_t)map->areas[region->area].host + region->offset + offset;
    struct os_mapping m;
    int error;

    // What it is made of says which pages were never touched. Of a few pages it is quicker to copy them.
    if (size < region->size || os_share_mappings(start, start + size, &m, 1) != 1 || m.start != start
        || m.end != start + size)
        m = (struct os_mapping){.start = start, .end = start + size, .inode = 1};
    error = os_share_copy(&m, fd, region->file_offset + offset);
    return error == 0 ? S_OK : error == -EFAULT || error == -EIO ? E_ACCESSDENIED : E_OUTOFMEMORY;
}

// The parts that have to be copied of [offset, offset + size) in an area. `*bytes` grows by their size.
static HRESULT copy_stretch(const struct snapshot_map *map, uint32_t area, uint64_t offset, uint64_t size, int fd,
                            uint64_t *bytes)
{
    HRESULT hr = S_OK;

    for (size_t n = 0; n < map->region_count && SUCCEEDED(hr); n++) {
        const struct snapshot_region *r = &map->regions[n];
        const uint64_t low = r->offset > offset ? r->offset : offset;
        const uint64_t high = r->offset + r->size < offset + size ? r->offset + r->size : offset + size;

        if (r->kind != SNAPSHOT_COPIED || r->area != area || low >= high)
            continue;
        hr = copy_part(map, r, low - r->offset, high - low, fd);
        *bytes += high - low;
    }
    return hr;
}

// The pages of a guest range whose bits are set.
static HRESULT copy_pages(const struct snapshot_map *map, const struct snapshot_range *range, const uint64_t *bitmap,
                          int fd, uint64_t *bytes)
{
    const uint64_t pages = range->size / GPA_PAGE_SIZE;
    HRESULT hr = S_OK;

    for (uint64_t n = 0; n < pages && SUCCEEDED(hr);) {
        uint64_t run = 0;

        while (n + run < pages && (bitmap[(n + run) / 64] >> (n + run) % 64 & 1))
            run++;
        if (run)
            hr = copy_stretch(map, range->area, range->offset + n * GPA_PAGE_SIZE, run * GPA_PAGE_SIZE, fd, bytes);
        n += run ? run : 1;
    }
    return hr;
}

static bool tracked(const struct snapshot_range *range)
{
    return range->flags & WHvMapGpaRangeFlagTrackDirtyPages;
}

// ---- Copies that are made while processors run -----------------------------------------------------------------------

struct precopy {
    struct handover shape;      // its files are not used
    uint64_t size;              // of the file of copies
    int fd;
    struct dirty written;       // pages that are to be copied again, besides those that nobody has asked for yet
};

static bool same_shape(const struct handover *a, const struct handover *b)
{
    const struct snapshot_map *x = &a->map, *y = &b->map;

    if (x->area_count != y->area_count || x->region_count != y->region_count || x->range_count != y->range_count)
        return false;
    for (size_t n = 0; n < x->area_count; n++)
        if (x->areas[n].host != y->areas[n].host || x->areas[n].size != y->areas[n].size)
            return false;
    for (size_t n = 0; n < x->region_count; n++)
        if (x->regions[n].area != y->regions[n].area || x->regions[n].kind != y->regions[n].kind
            || x->regions[n].offset != y->regions[n].offset || x->regions[n].size != y->regions[n].size
            || x->regions[n].file_offset != y->regions[n].file_offset)
            return false;
    return true;
}

static HRESULT begin_precopy(struct partition *p)
{
    struct precopy *pre = calloc(1, sizeof(*pre));
    HRESULT hr = pre ? take_shape(p, &pre->shape, &pre->size) : E_OUTOFMEMORY;

    if (FAILED(hr)) {
        free(pre);
        return hr;
    }
    pre->fd = os_share_file("bulkhead-memory", pre->size);
    p->precopy = pre;
    hr = pre->fd < 0 ? E_OUTOFMEMORY : S_OK;
    for (size_t n = 0; n < pre->shape.map.range_count && SUCCEEDED(hr); n++) {
        const struct snapshot_range *r = &pre->shape.map.ranges[n];

        if (tracked(r))
            hr = dirty_reserve(&pre->written, r->gpa, r->size);
        if (SUCCEEDED(hr) && tracked(r))
            hr = dirty_reserve(&p->unasked, r->gpa, r->size);
        if (SUCCEEDED(hr) && tracked(r))
            handover_mark(p, r->gpa, r->size);      // all of it is to be copied
    }
    if (FAILED(hr))
        handover_forget(p);
    return hr;
}

void handover_forget(struct partition *p)
{
    struct precopy *pre = p->precopy;

    if (!pre)
        return;
    handover_release(&pre->shape);
    dirty_destroy(&pre->written);
    if (pre->fd >= 0)
        close(pre->fd);
    free(pre);
    p->precopy = NULL;
}

void handover_note(struct partition *p, gpa_t gpa, uint64_t size, const uint64_t *bitmap)
{
    if (p->precopy)
        dirty_put(&p->precopy->written, gpa, size, bitmap);
}

void handover_mark(struct partition *p, gpa_t gpa, uint64_t size)
{
    for (size_t n = 0; p->precopy && n < p->precopy->shape.map.range_count; n++) {
        const struct snapshot_range *r = &p->precopy->shape.map.ranges[n];
        const gpa_t low = r->gpa > gpa ? r->gpa : gpa;
        const gpa_t high = r->gpa + r->size < gpa + size ? r->gpa + r->size : gpa + size;

        for (gpa_t at = low; tracked(r) && at < high; at += GPA_PAGE_SIZE)
            dirty_mark(&p->precopy->written, at);
    }
}

// Copy what was written to the tracked ranges since the last time. The marks are taken first: what is written while a
// page is copied marks it again.
static HRESULT copy_written(struct partition *p, uint64_t *bytes)
{
    struct precopy *pre = p->precopy;
    HRESULT hr = S_OK;

    for (size_t n = 0; n < pre->shape.map.range_count && SUCCEEDED(hr); n++) {
        const struct snapshot_range *r = &pre->shape.map.ranges[n];
        uint64_t *bitmap;

        if (!tracked(r))
            continue;
        bitmap = calloc(dirty_words(r->size), sizeof(*bitmap));
        if (!bitmap)
            return E_OUTOFMEMORY;
        hr = p->engine->collect_dirty(p, r->gpa, r->size, bitmap);
        dirty_put(&p->unasked, r->gpa, r->size, bitmap);        // the owner has not been told of them
        dirty_take(&pre->written, r->gpa, r->size, bitmap);
        if (SUCCEEDED(hr))
            hr = copy_pages(&pre->shape.map, r, bitmap, pre->fd, bytes);
        if (FAILED(hr))
            dirty_put(&pre->written, r->gpa, r->size, bitmap);
        free(bitmap);
    }
    return hr;
}

HRESULT handover_precopy(struct partition *p, uint64_t *bytes)
{
    HRESULT hr = p->precopy ? S_OK : begin_precopy(p);

    *bytes = 0;
    return SUCCEEDED(hr) ? copy_written(p, bytes) : hr;
}

// ---- All together ----------------------------------------------------------------------------------------------------

// The file of copies: begun while processors ran, and finished now; or from the beginning.
static HRESULT copy_memory(struct partition *p, struct handover *out, uint64_t size)
{
    struct precopy *pre = p->precopy;
    uint64_t ignored = 0;
    HRESULT hr = S_OK;
    int fd;

    if (size == 0)
        return S_OK;
    if (pre && pre->size == size && same_shape(&pre->shape, out)) {
        hr = copy_written(p, &ignored);
        fd = fcntl(pre->fd, F_DUPFD_CLOEXEC, 0);
    } else {
        pre = NULL;
        fd = os_share_file("bulkhead-memory", size);
    }
    if (FAILED(hr) || fd < 0 || !add_file(out, fd)) {
        if (fd >= 0)
            close(fd);
        return FAILED(hr) ? hr : E_OUTOFMEMORY;
    }
    for (size_t n = 0; n < out->map.region_count; n++)
        if (out->map.regions[n].kind == SNAPSHOT_COPIED)
            out->map.regions[n].file = (uint32_t)(out->file_count - 1);
    if (pre) {
        for (size_t n = 0; n < out->map.range_count && SUCCEEDED(hr); n++)
            if (!tracked(&out->map.ranges[n]))
                hr = copy_stretch(&out->map, out->map.ranges[n].area, out->map.ranges[n].offset, out->map.ranges[n].size,
                                  fd, &ignored);
        return hr;
    }
    for (uint32_t area = 0; area < out->map.area_count && SUCCEEDED(hr); area++)
        hr = copy_stretch(&out->map, area, 0, out->map.areas[area].size, fd, &ignored);
    return hr;
}

HRESULT handover_take(struct partition *p, struct handover *out)
{
    uint64_t copied;
    HRESULT hr = take_shape(p, out, &copied);

    if (SUCCEEDED(hr)) {
        hr = copy_memory(p, out, copied);
        if (FAILED(hr))
            handover_release(out);
    }
    return hr;
}

void handover_release(struct handover *out)
{
    for (size_t n = 0; n < out->file_count; n++)
        close(out->files[n]);
    free(out->files);
    snapshot_map_release(&out->map);
    *out = (struct handover){.files = NULL};
}

// ---- Arriving ----------------------------------------------------------------------------------------------------

struct guest_memory {
    struct { void *start; size_t size; } *areas;
    int *files;                 // kept open: the next migration hands them on
    size_t area_count, file_count;
};

static HRESULT map_region(const struct snapshot_map *map, const struct snapshot_region *region, const int *files)
{
    const int fd = files[region->file];
    const int64_t size = os_share_size(fd);

    if (size < 0 || !gpa_range_valid(region->file_offset, region->size, (uint64_t)size))
        return INVALID_DATA;
    if (mmap(map->areas[region->area].host + region->offset, region->size,
             PROT_READ | (region->writable ? PROT_WRITE : 0), MAP_SHARED | MAP_FIXED, fd, (off_t)region->file_offset)
        == MAP_FAILED)
        return errno == EACCES || errno == EPERM || errno == EINVAL || errno == ENODEV ? INVALID_DATA : E_OUTOFMEMORY;
    return S_OK;
}

HRESULT handover_map(struct partition *p, struct snapshot_map *map, const int *files, size_t file_count)
{
    struct guest_memory *memory = calloc(1, sizeof(*memory));
    HRESULT hr = S_OK;

    if (!memory)
        return E_OUTOFMEMORY;
    p->memory = memory;
    memory->areas = calloc(map->area_count + 1, sizeof(*memory->areas));
    memory->files = calloc(file_count + 1, sizeof(*memory->files));
    if (!memory->areas || !memory->files)
        return E_OUTOFMEMORY;
    for (; memory->file_count < file_count; memory->file_count++) {
        int fd = fcntl(files[memory->file_count], F_DUPFD_CLOEXEC, 0);

        if (fd < 0)
            return E_OUTOFMEMORY;
        memory->files[memory->file_count] = fd;
    }
    for (size_t n = 0; n < map->area_count; n++) {
        void *start = mmap(NULL, map->areas[n].size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (start == MAP_FAILED)
            return E_OUTOFMEMORY;
        memory->areas[n].start = map->areas[n].host = start;
        memory->areas[n].size = map->areas[n].size;
        memory->area_count++;
    }
    for (size_t n = 0; n < map->region_count && SUCCEEDED(hr); n++)
        hr = map_region(map, &map->regions[n], files);
    return hr;
}

void handover_unmap(struct partition *p)
{
    struct guest_memory *memory = p->memory;

    if (!memory)
        return;
    for (size_t n = 0; n < memory->area_count; n++)
        munmap(memory->areas[n].start, memory->areas[n].size);
    for (size_t n = 0; n < memory->file_count; n++)
        close(memory->files[n]);
    free(memory->areas);
    free(memory->files);
    free(memory);
    p->memory = NULL;
}
