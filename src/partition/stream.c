// Writing and reading streams of records.
#include "partition/stream.h"

#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static const char magic[8] = {'B', 'U', 'L', 'K', 'H', 'E', 'A', 'D'};

static uint8_t *extend(struct stream *s, uint64_t count)
{
    size_t room = s->room ? s->room : 4096;
    uint8_t *bytes;

    if (s->failed || count > SIZE_MAX / 4 - s->used) {
        s->failed = true;
        return NULL;
    }
    while (room - s->used < count)
        room *= 2;
    if (room != s->room) {
        bytes = realloc(s->bytes, room);
        if (!bytes) {
            s->failed = true;
            return NULL;
        }
        s->bytes = bytes;
        s->room = room;
    }
    s->used += (size_t)count;
    return s->bytes + s->used - count;
}

void stream_begin(struct stream *s)
{
    uint8_t *header;

    *s = (struct stream){.bytes = NULL};
    header = extend(s, STREAM_HEADER);
    if (header)
        memset(header, 0, STREAM_HEADER);
}

struct byte_writer stream_record(struct stream *s, uint32_t type, uint64_t length)
{
    uint8_t *record = length > SIZE_MAX / 4 ? NULL : extend(s, 12 + length);
    struct byte_writer w = {.bytes = record, .size = record ? (size_t)length + 12 : 0, .failed = !record};

    if (!record)
        s->failed = true;
    bytes_put(&w, 4, type);
    bytes_put(&w, 8, length);
    return w;
}

HRESULT stream_end(struct stream *s)
{
    struct byte_writer w = {.bytes = s->bytes, .size = STREAM_HEADER};

    if (s->failed)
        return E_OUTOFMEMORY;
    memcpy(bytes_room(&w, sizeof(magic)), magic, sizeof(magic));
    bytes_put(&w, 4, STREAM_VERSION);
    bytes_put(&w, 4, 0);
    bytes_put(&w, 8, s->used);
    bytes_put(&w, 8, XXH3_64bits(s->bytes + STREAM_HEADER, s->used - STREAM_HEADER));
    return S_OK;
}

void stream_release(struct stream *s)
{
    free(s->bytes);
    *s = (struct stream){.bytes = NULL};
}

HRESULT stream_open(const uint8_t *bytes, size_t size, struct byte_reader *records)
{
    struct byte_reader r = {.bytes = bytes, .size = size};
    const uint8_t *name = bytes_take(&r, sizeof(magic));
    uint64_t version = bytes_get(&r, 4), zero = bytes_get(&r, 4), length = bytes_get(&r, 8), sum = bytes_get(&r, 8);

    if (r.failed || memcmp(name, magic, sizeof(magic)) != 0)
        return E_INVALIDARG;
    if (version > STREAM_VERSION)
        return HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED);
    if (version == 0 || zero != 0 || length != size || sum != XXH3_64bits(bytes + r.used, size - r.used))
        return E_INVALIDARG;
    *records = r;
    return S_OK;
}

bool stream_next(struct byte_reader *records, uint32_t *type, struct byte_reader *payload)
{
    uint64_t length;

    if (records->failed || records->used == records->size)
        return false;
    *type = (uint32_t)bytes_get(records, 4);
    length = bytes_get(records, 8);
    if (length > records->size - records->used)
        records->failed = true;
    if (records->failed)
        return false;
    *payload = (struct byte_reader){.bytes = bytes_take(records, (size_t)length), .size = (size_t)length};
    return true;
}
