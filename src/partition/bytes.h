// Little-endian fields written to and read from bytes that leave the process: bounds are checked at each field.
//
// A field that does not fit sets `failed` and changes nothing else; a field that is read then is 0. So a whole record can
// be written or read, and looked at once.
#ifndef BULKHEAD_BYTES_H
#define BULKHEAD_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct byte_writer {
    uint8_t *bytes;
    size_t size, used;
    bool failed;
};

struct byte_reader {
    const uint8_t *bytes;
    size_t size, used;
    bool failed;
};

// The next `count` bytes to fill, or NULL.
static inline uint8_t *bytes_room(struct byte_writer *w, size_t count)
{
    if (w->failed || count > w->size - w->used) {
        w->failed = true;
        return NULL;
    }
    w->used += count;
    return w->bytes + w->used - count;
}

// A number of `count` bytes.
static inline void bytes_put(struct byte_writer *w, unsigned count, uint64_t value)
{
    uint8_t *to = bytes_room(w, count);

    for (unsigned n = 0; to && n < count; n++)
        to[n] = (uint8_t)(value >> 8 * n);
}

// The next `count` bytes, or NULL.
static inline const uint8_t *bytes_take(struct byte_reader *r, size_t count)
{
    if (r->failed || count > r->size - r->used) {
        r->failed = true;
        return NULL;
    }
    r->used += count;
    return r->bytes + r->used - count;
}

static inline uint64_t bytes_get(struct byte_reader *r, unsigned count)
{
    const uint8_t *from = bytes_take(r, count);
    uint64_t value = 0;

    for (unsigned n = 0; from && n < count; n++)
        value |= (uint64_t)from[n] << 8 * n;
    return value;
}

// A number that may not be above `most`.
static inline uint64_t bytes_get_up_to(struct byte_reader *r, unsigned count, uint64_t most)
{
    uint64_t value = bytes_get(r, count);

    if (value <= most)
        return value;
    r->failed = true;
    return 0;
}

#endif
