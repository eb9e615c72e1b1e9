/* state.h: what devices hold, written into a stream of records and read back from one.
 *
 * A record is a tag of four characters, a version and a length in bytes (32 bits each), then the fields; all of it
 * little-endian. Times in a record are relative to the moment of saving, so that they mean the same on another clock.
 *
 * X_save(const struct X *, struct state_writer *) appends one record. X_load(struct X *, struct state_reader *) takes
 * one, checks every value, and changes nothing when it fails. A load tells nobody: the level of a wire is also in the
 * record of the device at its other end. */
#ifndef CLI_STATE_H
#define CLI_STATE_H

#include "error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The longest time or count of ticks that a record may tell of: 146 years in nanoseconds. */
#define STATE_LONGEST (UINT64_C(1) << 62)

struct state_writer {
    uint8_t *data;
    size_t size, capacity;
    size_t body; /* where the fields of the open record begin */
    bool failed; /* there was no memory for all of it */
};

void state_writer_init(struct state_writer *to);
void state_writer_free(struct state_writer *to);

/* False with an error if something that was written is missing. */
bool state_writer_complete(const struct state_writer *to, struct error *err);

void state_begin(struct state_writer *to, const char *tag, uint32_t version);
void state_end(struct state_writer *to);

/* SIZE bytes, 1 to 8, of VALUE. */
void state_put(struct state_writer *to, unsigned size, uint64_t value);

/* The first thing that is wrong fills *err; from then on everything reads as zero and nothing is read any more. */
struct state_reader {
    const uint8_t *data;
    size_t size, at;
    size_t end;      /* of the open record; nothing beyond it is read */
    const char *tag; /* of the open record */
    bool failed;
    struct error *err;
};

/* DATA and ERR stay the caller's, and have to live as long as the reader. */
void state_reader_init(struct state_reader *from, const void *data, size_t size, struct error *err);

/* Opens the record TAG, which has to come next. Its version, 1 to NEWEST; 0 when that fails. */
uint32_t state_enter(struct state_reader *from, const char *tag, uint32_t newest);

/* Closes it. False if anything has failed since it was opened, or if not all of it was read. */
bool state_leave(struct state_reader *from);

/* SIZE bytes, 1 to 8; NAME is what an error calls them. */
uint64_t state_get(struct state_reader *from, unsigned size, const char *name);

/* What was read is not lawful: the open record's name, then the text. Returns false. */
bool state_refuse(struct state_reader *from, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A member of a structure that is saved as it is. Its value has to lie in LEAST to MOST, and to have no bit outside
 * of BITS. An array of bytes has a COUNT; everything else has a count of 1. */
struct state_field {
    const char *name;
    size_t offset;
    unsigned size, count;
    uint64_t least, most, bits;
};

#define STATE_SIZE(type, member) sizeof(((type *)NULL)->member)
#define STATE_RANGE(type, member, least, most)                                                                         \
    {#member, offsetof(type, member), STATE_SIZE(type, member), 1, least, most, UINT64_MAX}
#define STATE_BITS(type, member, bits)                                                                                 \
    {#member, offsetof(type, member), STATE_SIZE(type, member), 1, 0, UINT64_MAX, bits}
#define STATE_ANY(type, member) STATE_BITS(type, member, UINT64_MAX)
#define STATE_FLAG(type, member) STATE_RANGE(type, member, 0, 1)
#define STATE_BYTES(type, member) {#member, offsetof(type, member), 1, STATE_SIZE(type, member), 0, 0xff, 0xff}
#define STATE_COUNT(fields) (sizeof(fields) / sizeof((fields)[0]))

void state_put_fields(struct state_writer *to, const struct state_field *fields, size_t count, const void *object);

/* When it fails, OBJECT is half filled: give it a copy. */
bool state_get_fields(struct state_reader *from, const struct state_field *fields, size_t count, void *object);

#endif
