/* state.c: records of saved state, and the fields in them. */
#include "state.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAG_SIZE = 4, VERSION_AT = 4, LENGTH_AT = 8, HEADER_SIZE = 12 };

static void state_store(uint8_t *bytes, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(value >> (i * 8));
    }
}

static uint64_t state_fetch(const uint8_t *bytes, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)bytes[i] << (i * 8);
    }
    return value;
}

void state_writer_init(struct state_writer *to)
{
    *to = (struct state_writer){0};
}

void state_writer_free(struct state_writer *to)
{
    free(to->data);
    *to = (struct state_writer){0};
}

bool state_writer_complete(const struct state_writer *to, struct error *err)
{
    return !to->failed || error_set(err, EXIT_FAILED, "the host gives no memory for the state of the machine");
}

/* Room for SIZE more bytes; NULL when there is none. */
static uint8_t *state_extend(struct state_writer *to, size_t size)
{
    if (!to->failed && to->capacity - to->size < size) {
        size_t capacity = to->capacity * 2 + size + 256;
        uint8_t *data = realloc(to->data, capacity);

        if (data == NULL) {
            to->failed = true;
        } else {
            to->data = data;
            to->capacity = capacity;
        }
    }
    if (to->failed) {
        return NULL;
    }
    to->size += size;
    return to->data + to->size - size;
}

void state_put(struct state_writer *to, unsigned size, uint64_t value)
{
    uint8_t *bytes = state_extend(to, size);

    if (bytes != NULL) {
        state_store(bytes, size, value);
    }
}

void state_begin(struct state_writer *to, const char *tag, uint32_t version)
{
    uint8_t *header = state_extend(to, HEADER_SIZE);

    assert(strlen(tag) == TAG_SIZE);
    if (header != NULL) {
        memcpy(header, tag, TAG_SIZE);
        state_store(header + VERSION_AT, 4, version);
        to->body = to->size;
    }
}

void state_end(struct state_writer *to)
{
    if (!to->failed) {
        state_store(to->data + to->body - HEADER_SIZE + LENGTH_AT, 4, to->size - to->body);
    }
}

void state_reader_init(struct state_reader *from, const void *data, size_t size, struct error *err)
{
    *from = (struct state_reader){.data = data, .size = size, .tag = "", .err = err};
}

bool state_refuse(struct state_reader *from, const char *format, ...)
{
    char text[512];
    va_list args;

    if (!from->failed) {
        from->failed = true;
        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        error_set(from->err, EXIT_FAILED, "saved state: record '%s': %s", from->tag, text);
    }
    return false;
}

/* What is in a tag's place may be anything. */
static void state_show_tag(const uint8_t *tag, char *text)
{
    for (unsigned i = 0; i < TAG_SIZE; i++) {
        text[i] = tag[i] >= ' ' && tag[i] <= '~' ? (char)tag[i] : '?';
    }
    text[TAG_SIZE] = '\0';
}

uint32_t state_enter(struct state_reader *from, const char *tag, uint32_t newest)
{
    size_t left = from->size - from->at;
    char found[TAG_SIZE + 1];

    if (from->failed) {
        return 0;
    }
    from->tag = tag;
    if (left < HEADER_SIZE) {
        state_refuse(from, "the end comes before it does");
        return 0;
    }
    const uint8_t *header = from->data + from->at;

    if (memcmp(header, tag, TAG_SIZE) != 0) {
        state_show_tag(header, found);
        state_refuse(from, "'%s' is in its place", found);
        return 0;
    }
    uint32_t version = (uint32_t)state_fetch(header + VERSION_AT, 4);
    uint32_t length = (uint32_t)state_fetch(header + LENGTH_AT, 4);

    if (version == 0 || version > newest) {
        state_refuse(from, "it is of version %" PRIu32 ", and versions 1 to %" PRIu32 " are known", version, newest);
        return 0;
    }
    if (length > left - HEADER_SIZE) {
        state_refuse(from, "it has a length of %" PRIu32 " bytes, and %zu are there", length, left - HEADER_SIZE);
        return 0;
    }
    from->at += HEADER_SIZE;
    from->end = from->at + length;
    return version;
}

bool state_leave(struct state_reader *from)
{
    if (!from->failed && from->at != from->end) {
        state_refuse(from, "it has %zu bytes too many", from->end - from->at);
    }
    return !from->failed;
}

uint64_t state_get(struct state_reader *from, unsigned size, const char *name)
{
    if (from->failed) {
        return 0;
    }
    if (from->end - from->at < size) {
        state_refuse(from, "it ends before its field '%s' does", name);
        return 0;
    }
    from->at += size;
    return state_fetch(from->data + from->at - size, size);
}

/* Members are of 1, 2, 4 or 8 bytes; a bool is a byte that is 0 or 1. */
static uint64_t state_member(const void *member, unsigned size)
{
    uint8_t byte;
    uint16_t half;
    uint32_t word;
    uint64_t whole;

    switch (size) {
    case 1:
        memcpy(&byte, member, size);
        return byte;
    case 2:
        memcpy(&half, member, size);
        return half;
    case 4:
        memcpy(&word, member, size);
        return word;
    default:
        assert(size == 8);
        memcpy(&whole, member, sizeof(whole));
        return whole;
    }
}

static void state_set_member(void *member, unsigned size, uint64_t value)
{
    const uint8_t byte = (uint8_t)value;
    const uint16_t half = (uint16_t)value;
    const uint32_t word = (uint32_t)value;

    switch (size) {
    case 1:
        memcpy(member, &byte, size);
        break;
    case 2:
        memcpy(member, &half, size);
        break;
    case 4:
        memcpy(member, &word, size);
        break;
    default:
        assert(size == 8);
        memcpy(member, &value, sizeof(value));
        break;
    }
}

void state_put_fields(struct state_writer *to, const struct state_field *fields, size_t count, const void *object)
{
    for (size_t i = 0; i < count; i++) {
        const struct state_field *field = &fields[i];

        for (unsigned j = 0; j < field->count; j++) {
            state_put(to, field->size, state_member((const uint8_t *)object + field->offset + j, field->size));
        }
    }
}

bool state_get_fields(struct state_reader *from, const struct state_field *fields, size_t count, void *object)
{
    for (size_t i = 0; i < count && !from->failed; i++) {
        const struct state_field *field = &fields[i];

        for (unsigned j = 0; j < field->count && !from->failed; j++) {
            uint64_t value = state_get(from, field->size, field->name);

            if (from->failed) {
                return false;
            }
            if (value < field->least || value > field->most) {
                return state_refuse(from, "field '%s' is %" PRIu64 ", which is not in %" PRIu64 " to %" PRIu64,
                                    field->name, value, field->least, field->most);
            }
            if ((value & ~field->bits) != 0) {
                return state_refuse(from, "field '%s' is 0x%" PRIx64 ", and only the bits 0x%" PRIx64 " can be set",
                                    field->name, value, field->bits);
            }
            state_set_member((uint8_t *)object + field->offset + j, field->size, value);
        }
    }
    return !from->failed;
}
