// Partitions to streams and back.
#include "partition/snapshot.h"

#include <stdlib.h>

#include "os/tsc.h"
#include "partition/vp_state.h"

enum record {
    RECORD_PARTITION = 1,       // engine's name (16 bytes), relaxations (8), clock's frequency (8), its ticks (8), time
                                // of day in ns (8)
    RECORD_PROPERTY,            // code (4), whether the owner has set it (1), elements (4), value
    RECORD_PROCESSOR,           // index (4), state as in vp_state.h
    RECORD_AREA,                // size (8)
    RECORD_REGION,              // area, kind, file (4 each), offset, size, offset in the file (8 each), writable (1)
    RECORD_RANGE,               // guest address, size (8 each), area, flags (4 each), offset (8)
    RECORD_WRITTEN,             // guest address, size (8 each), a bit for each page
};

#define NS_PER_SECOND 1000000000ull
#define RANGE_FLAGS_KNOWN                                                                                              \
    (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute | WHvMapGpaRangeFlagTrackDirtyPages)

void snapshot_map_release(struct snapshot_map *map)
{
    free(map->areas);
    free(map->regions);
    free(map->ranges);
    *map = (struct snapshot_map){.areas = NULL};
}

// ---- Write -------------------------------------------------------------------------------------------------------

static void write_partition(struct partition *p, struct stream *s)
{
    struct byte_writer w = stream_record(s, RECORD_PARTITION, 16 + 4 * 8);
    uint8_t *name = bytes_room(&w, 16);

    if (!name)
        return;
    memset(name, 0, 16);
    memcpy(name, p->engine->name, strlen(p->engine->name));
    bytes_put(&w, 8, p->wish.relaxed.AsUINT64);
    bytes_put(&w, 8, os_tsc_hz());
    bytes_put(&w, 8, clock_ticks(&p->clock));
    bytes_put(&w, 8, os_time_of_day());
}

static void write_properties(struct partition *p, struct stream *s)
{
    const struct property *property;

    for (unsigned int n = 0; (property = property_row(n)); n++) {
        UINT32 count;
        const void *value = property_value(&p->properties, property, &count);
        uint64_t size = (uint64_t)property->size * count;
        struct byte_writer w = stream_record(s, RECORD_PROPERTY, 9 + size);
        uint8_t *room;

        bytes_put(&w, 4, property->code);
        bytes_put(&w, 1, property_is_set(&p->properties, property));
        bytes_put(&w, 4, count);
        room = bytes_room(&w, size);
        if (room && size)
            memcpy(room, value, size);
    }
}

static HRESULT write_processors(struct partition *p, struct stream *s)
{
    for (unsigned int i = 0; i < PARTITION_MAX_PROCESSORS; i++) {
        struct byte_writer w;
        size_t needed, written;
        HRESULT hr;

        if (!p->vps[i])
            continue;
        hr = vp_state_save(p->vps[i], NULL, 0, &needed);
        if (FAILED(hr) && hr != WHV_E_INSUFFICIENT_BUFFER)
            return hr;
        w = stream_record(s, RECORD_PROCESSOR, 4 + needed);
        if (w.failed)
            return E_OUTOFMEMORY;
        bytes_put(&w, 4, i);
        hr = vp_state_save(p->vps[i], bytes_room(&w, needed), needed, &written);
        if (SUCCEEDED(hr) && written != needed)
            hr = E_UNEXPECTED;
        if (FAILED(hr))
            return hr;
    }
    return S_OK;
}

static void write_map(const struct snapshot_map *map, struct stream *s)
{
    struct byte_writer w;

    for (size_t n = 0; n < map->area_count; n++) {
        w = stream_record(s, RECORD_AREA, 8);
        bytes_put(&w, 8, map->areas[n].size);
    }
    for (size_t n = 0; n < map->region_count; n++) {
        const struct snapshot_region *r = &map->regions[n];

        w = stream_record(s, RECORD_REGION, 37);
        bytes_put(&w, 4, r->area);
        bytes_put(&w, 4, r->kind);
        bytes_put(&w, 4, r->file);
        bytes_put(&w, 8, r->offset);
        bytes_put(&w, 8, r->size);
        bytes_put(&w, 8, r->file_offset);
        bytes_put(&w, 1, r->writable);
    }
    for (size_t n = 0; n < map->range_count; n++) {
        const struct snapshot_range *r = &map->ranges[n];

        w = stream_record(s, RECORD_RANGE, 32);
        bytes_put(&w, 8, r->gpa);
        bytes_put(&w, 8, r->size);
        bytes_put(&w, 4, r->area);
        bytes_put(&w, 4, r->flags);
        bytes_put(&w, 8, r->offset);
    }
}

// The marks stay where they are, too: the partition may go on here.
static HRESULT write_written(struct partition *p, const struct snapshot_map *map, struct stream *s)
{
    for (size_t n = 0; n < map->range_count; n++) {
        const struct snapshot_range *r = &map->ranges[n];
        size_t words = dirty_words(r->size);
        struct byte_writer w;
        uint64_t *bitmap;
        HRESULT hr;

        if (!(r->flags & WHvMapGpaRangeFlagTrackDirtyPages))
            continue;
        bitmap = calloc(words, sizeof(*bitmap));
        if (!bitmap)
            return E_OUTOFMEMORY;
        hr = partition_query_dirty_locked(p, r->gpa, r->size, bitmap);
        if (SUCCEEDED(hr)) {
            dirty_put(&p->dirty, r->gpa, r->size, bitmap);
            w = stream_record(s, RECORD_WRITTEN, 16 + 8 * (uint64_t)words);
            bytes_put(&w, 8, r->gpa);
            bytes_put(&w, 8, r->size);
            for (size_t i = 0; i < words; i++)
                bytes_put(&w, 8, bitmap[i]);
        }
        free(bitmap);
        if (FAILED(hr))
            return hr;
    }
    return S_OK;
}

HRESULT snapshot_write(struct partition *p, const struct snapshot_map *map, struct stream *s)
{
    HRESULT hr;

    stream_begin(s);
    write_partition(p, s);
    if (map) {
        write_properties(p, s);
        write_map(map, s);
    }
    hr = write_processors(p, s);
    if (SUCCEEDED(hr) && map)
        hr = write_written(p, map, s);
    if (SUCCEEDED(hr))
        hr = stream_end(s);
    if (FAILED(hr))
        stream_release(s);
    return hr;
}

// ---- Read --------------------------------------------------------------------------------------------------------

struct clock_reading {
    uint64_t hz, ticks, time_of_day;
};

// A record is read to its end: what is behind a reader's fields makes it malformed.
static bool is_read(const struct byte_reader *r)
{
    return !r->failed && r->used == r->size;
}

static HRESULT read_partition(struct byte_reader *r, struct engine_wish *wish, struct clock_reading *clock)
{
    const uint8_t *name = bytes_take(r, 16);
    uint64_t relaxed = bytes_get(r, 8);

    clock->hz = bytes_get(r, 8);
    clock->ticks = bytes_get(r, 8);
    clock->time_of_day = bytes_get(r, 8);
    if (!is_read(r) || name[15] != 0 || clock->hz == 0)
        return E_INVALIDARG;
    wish->relaxed.AsUINT64 = relaxed;
    if (strcmp((const char *)name, "auto") == 0 || !engine_wish_set_name(wish, (const char *)name))
        return HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED);
    return S_OK;
}

static HRESULT read_property(struct partition *p, struct byte_reader *r, const struct engine_capabilities *capabilities)
{
    const struct property *property = property_find((WHV_PARTITION_PROPERTY_CODE)bytes_get(r, 4));
    bool set = bytes_get_up_to(r, 1, 1);
    uint64_t count = bytes_get_up_to(r, 4, PROPERTY_LIST_MAX);
    const uint8_t *value;
    const void *now;
    void *replaced;
    UINT32 now_count;
    HRESULT hr;

    if (r->failed || !property || (!property_is_list(property) && count != 1))
        return E_INVALIDARG;
    value = bytes_take(r, (size_t)(property->size * count));
    if (!is_read(r))
        return E_INVALIDARG;
    now = property_value(&p->properties, property, &now_count);
    if (!set && now_count == count && (count == 0 || memcmp(now, value, (size_t)(property->size * count)) == 0))
        return S_OK;
    hr = property_set(&p->properties, property, value, (UINT32)(property->size * count), capabilities, &replaced);
    if (SUCCEEDED(hr))
        free(replaced);
    return hr == E_INVALIDARG ? HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED) : hr;
}

// Room for one more element of an array that grows by doubling. NULL: no memory, and the array is as it was.
static void *one_more(void *array, size_t *count, size_t size)
{
    void **place = array;
    size_t n = *count;

    if ((n & (n - 1)) == 0) {
        void *grown = realloc(*place, (n ? 2 * n : 1) * size);

        if (!grown)
            return NULL;
        *place = grown;
    }
    (*count)++;
    return (char *)*place + n * size;
}

static bool pages(uint64_t value)
{
    return value % GPA_PAGE_SIZE == 0;
}

// Whether [offset, offset + size) is some pages of an area of the map.
static bool inside_area(const struct snapshot_map *map, uint32_t area, uint64_t offset, uint64_t size)
{
    return area < map->area_count && pages(offset) && pages(size)
        && gpa_range_valid(offset, size, map->areas[area].size);
}

static HRESULT read_area(struct byte_reader *r, struct snapshot_map *map)
{
    uint64_t size = bytes_get(r, 8);
    struct snapshot_area *area;

    if (!is_read(r) || size == 0 || !pages(size))
        return E_INVALIDARG;
    area = one_more(&map->areas, &map->area_count, sizeof(*area));
    if (!area)
        return E_OUTOFMEMORY;
    *area = (struct snapshot_area){.size = size};
    return S_OK;
}

static HRESULT read_region(struct byte_reader *r, struct snapshot_map *map, uint32_t files)
{
    struct snapshot_region region = {.area = (uint32_t)bytes_get(r, 4)}, *added;

    region.kind = (uint32_t)bytes_get_up_to(r, 4, SNAPSHOT_COPIED);
    region.file = (uint32_t)bytes_get(r, 4);
    region.offset = bytes_get(r, 8);
    region.size = bytes_get(r, 8);
    region.file_offset = bytes_get(r, 8);
    region.writable = bytes_get_up_to(r, 1, 1);
    if (!is_read(r) || region.kind < SNAPSHOT_SHARED || region.file >= files
        || !inside_area(map, region.area, region.offset, region.size) || !pages(region.file_offset)
        || !gpa_range_valid(region.file_offset, region.size, INT64_MAX))
        return E_INVALIDARG;
    added = one_more(&map->regions, &map->region_count, sizeof(*added));
    if (!added)
        return E_OUTOFMEMORY;
    *added = region;
    return S_OK;
}

static HRESULT read_range(struct byte_reader *r, struct snapshot_map *map)
{
    struct snapshot_range range = {.gpa = bytes_get(r, 8)}, *added;

    range.size = bytes_get(r, 8);
    range.area = (uint32_t)bytes_get(r, 4);
    range.flags = (uint32_t)bytes_get(r, 4);
    range.offset = bytes_get(r, 8);
    if (!is_read(r) || !inside_area(map, range.area, range.offset, range.size) || !pages(range.gpa)
        || !gpa_range_valid(range.gpa, range.size, 1ull << 52) || (range.flags & ~(uint32_t)RANGE_FLAGS_KNOWN))
        return E_INVALIDARG;
    added = one_more(&map->ranges, &map->range_count, sizeof(*added));
    if (!added)
        return E_OUTOFMEMORY;
    *added = range;
    return S_OK;
}

// The shape alone: what is inside is read when there is a processor to take it.
static bool processor_valid(struct byte_reader *r, uint64_t *seen)
{
    uint64_t index = bytes_get_up_to(r, 4, PARTITION_MAX_PROCESSORS - 1);

    if (r->failed || (*seen >> index & 1))
        return false;
    *seen |= 1ull << index;
    return true;
}

static bool written_valid(struct byte_reader *r)
{
    uint64_t gpa = bytes_get(r, 8), size = bytes_get(r, 8);

    return !r->failed && pages(gpa) && pages(size) && gpa_range_valid(gpa, size, 1ull << 52)
        && r->size - r->used == dirty_words(size) * 8;
}

HRESULT snapshot_read(struct partition *p, const uint8_t *bytes, size_t size, uint32_t files, struct snapshot_map *map)
{
    struct engine_capabilities capabilities;
    struct byte_reader records, payload;
    struct clock_reading clock;
    uint64_t seen = 0;
    uint32_t type;
    HRESULT hr = stream_open(bytes, size, &records);

    *map = (struct snapshot_map){.areas = NULL};
    if (FAILED(hr))
        return hr;
    if (!stream_next(&records, &type, &payload) || type != RECORD_PARTITION)
        return E_INVALIDARG;
    hr = read_partition(&payload, &p->wish, &clock);
    if (SUCCEEDED(hr) && !engine_wish_capabilities(&p->wish, &capabilities))
        hr = HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED);
    if (FAILED(hr))
        return hr;
    property_defaults(&p->properties, &capabilities);
    property_relax(&capabilities, p->wish.relaxed);
    while (SUCCEEDED(hr) && stream_next(&records, &type, &payload)) {
        switch (type) {
        case RECORD_PROPERTY: hr = read_property(p, &payload, &capabilities); break;
        case RECORD_AREA: hr = read_area(&payload, map); break;
        case RECORD_REGION: hr = read_region(&payload, map, files); break;
        case RECORD_RANGE: hr = read_range(&payload, map); break;
        case RECORD_PROCESSOR: hr = processor_valid(&payload, &seen) ? S_OK : E_INVALIDARG; break;
        case RECORD_WRITTEN: hr = written_valid(&payload) ? S_OK : E_INVALIDARG; break;
        default: hr = E_INVALIDARG; break;
        }
    }
    if (SUCCEEDED(hr)
        && (records.failed || p->properties.processor_count == 0
            || (p->properties.processor_count < 64 && seen >> p->properties.processor_count)))
        hr = E_INVALIDARG;
    if (FAILED(hr))
        snapshot_map_release(map);
    return hr;
}

static HRESULT load_processor(struct partition *p, struct byte_reader *r)
{
    uint64_t index = bytes_get_up_to(r, 4, PARTITION_MAX_PROCESSORS - 1);
    HRESULT hr;

    if (r->failed || index >= p->properties.processor_count)
        return E_INVALIDARG;
    if (!p->vps[index]) {
        hr = partition_vp_create_locked(p, (UINT32)index, NO_NODE);
        if (FAILED(hr))
            return hr;
    }
    return vp_state_load(p->vps[index], r->bytes + r->used, r->size - r->used);
}

// What was marked is marked again, where it is still tracked: a mark too many is harmless.
static HRESULT load_written(struct partition *p, struct byte_reader *r)
{
    uint64_t gpa = bytes_get(r, 8), size = bytes_get(r, 8), *bitmap;
    size_t words = dirty_words(size);
    HRESULT hr = dirty_reserve(&p->dirty, gpa, size);

    if (FAILED(hr))
        return hr;
    bitmap = calloc(words, sizeof(*bitmap));
    if (!bitmap)
        return E_OUTOFMEMORY;
    for (size_t n = 0; n < words; n++)
        bitmap[n] = bytes_get(r, 8);
    dirty_put(&p->dirty, gpa, size, bitmap);
    free(bitmap);
    return S_OK;
}

HRESULT snapshot_read_processors(struct partition *p, const uint8_t *bytes, size_t size, bool show_downtime)
{
    struct byte_reader records, payload;
    struct clock_reading clock;
    struct engine_wish wish = {.name = "auto"};
    uint64_t ticks, now, hz = os_tsc_hz(), seen = 0;
    uint32_t type;
    HRESULT hr = stream_open(bytes, size, &records);

    if (SUCCEEDED(hr) && (!stream_next(&records, &type, &payload) || type != RECORD_PARTITION))
        hr = E_INVALIDARG;
    if (SUCCEEDED(hr))
        hr = read_partition(&payload, &wish, &clock);
    if (SUCCEEDED(hr) && strcmp(wish.name, p->engine->name) != 0)
        hr = HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED);
    if (FAILED(hr))
        return hr;
    // Processors take their counters by value, which is right at the clock of the stream.
    ticks = clock_scale(clock.ticks, hz, clock.hz);
    clock_set(&p->clock, ticks);
    while (SUCCEEDED(hr) && stream_next(&records, &type, &payload)) {
        struct byte_reader shape = payload;

        if (type == RECORD_PROCESSOR)
            hr = processor_valid(&shape, &seen) ? load_processor(p, &payload) : E_INVALIDARG;
        else if (type == RECORD_WRITTEN)
            hr = written_valid(&shape) ? load_written(p, &payload) : E_INVALIDARG;
    }
    if (SUCCEEDED(hr) && records.failed)
        hr = E_INVALIDARG;
    now = os_time_of_day();
    if (SUCCEEDED(hr) && show_downtime && now > clock.time_of_day)
        clock_set(&p->clock, ticks + clock_scale(now - clock.time_of_day, hz, NS_PER_SECOND));
    return hr;
}
