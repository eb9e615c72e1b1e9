// What a partition is, as bytes that leave the process: a header, and records behind it.
//
//     8 bytes  "BULKHEAD"
//     u32      version; a reader refuses a newer one
//     u32      0
//     u64      length of the whole, header included
//     u64      checksum of everything behind the header (XXH3, 64 bits)
//     records  u32 type, u64 length of the payload, payload
//
// All numbers are little-endian. A reader takes the bytes for hostile: nothing is believed that was not checked, and a
// checksum only keeps accidents out.
#ifndef BULKHEAD_STREAM_H
#define BULKHEAD_STREAM_H

#include "engine/engine.h"
#include "partition/bytes.h"

#define STREAM_VERSION 1u
#define STREAM_HEADER 32u

struct stream {
    uint8_t *bytes;         // owned
    size_t used, room;
    bool failed;            // no memory
};

// An empty stream. `s` is all zero, or was released.
void stream_begin(struct stream *s);
// A record of `length` bytes; the writer is to be filled before the next call. On lack of memory its every field fails,
// and so does the stream.
struct byte_writer stream_record(struct stream *s, uint32_t type, uint64_t length);
// The header is filled in. E_OUTOFMEMORY: some record had no room.
CHECKED HRESULT stream_end(struct stream *s);
void stream_release(struct stream *s);

// Read one whole stream. E_INVALIDARG: it is none, or damaged; ERROR_NOT_SUPPORTED: of a newer version.
CHECKED HRESULT stream_open(const uint8_t *bytes, size_t size, struct byte_reader *records);
// The next record. False at the end, or where `records` has failed.
bool stream_next(struct byte_reader *records, uint32_t *type, struct byte_reader *payload);

#endif
