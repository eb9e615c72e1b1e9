/* stream.c: frames and their checksums, and waiting for the other side without missing what happens on this one. */
#include "stream.h"

#include "timers.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LENGTH_AT = 4, SUM_AT = 8, HEADER = 16, HEAD = 16 };

/* No text file, no other program's file, and not what a transfer as text makes of it. */
static const uint8_t stream_magic[8] = {0x8b, 'B', 'U', 'L', 'K', '\r', '\n', 0x1a};

static void stream_store(uint8_t *bytes, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(value >> (i * 8));
    }
}

static uint64_t stream_fetch(const uint8_t *bytes, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)bytes[i] << (i * 8);
    }
    return value;
}

bool stream_init(struct stream *stream, int fd, const char *name, const struct stream_watch *watch, struct error *err)
{
    struct stat status;

    *stream = (struct stream){.fd = fd, .name = name, .watch = {.fds = {-1, -1}}};
    if (watch != NULL) {
        stream->watch = *watch;
    }
    if (fstat(fd, &status) != 0) {
        return error_set(err, EXIT_FAILED, "%s: %s", name, strerror(errno));
    }
    if (S_ISSOCK(status.st_mode)) {
        stream->kind = STREAM_SOCKET;
    } else if (!S_ISREG(status.st_mode)) {
        stream->kind = STREAM_PIPE;
    }
    stream->buffer = malloc(HEADER + STREAM_MAX_BODY);
    return stream->buffer != NULL || error_set(err, EXIT_FAILED, "the host gives no memory for %s", name);
}

void stream_free(struct stream *stream)
{
    free(stream->buffer);
    stream->buffer = NULL;
}

uint8_t *stream_body(struct stream *stream)
{
    return stream->buffer + HEADER;
}

bool stream_refuse(const struct stream *stream, struct error *err, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return error_set(err, EXIT_FAILED, "%s is damaged: record %" PRIu64 " ('%s'): %s", stream->name, stream->read,
                     stream->tag, text);
}

static bool stream_failed(const struct stream *stream, const char *what, struct error *err)
{
    if (stream->kind == STREAM_SOCKET) {
        return error_set(err, EXIT_FAILED, "the connection to %s is lost: %s", stream->name, strerror(errno));
    }
    return error_set(err, EXIT_FAILED, "cannot %s %s: %s", what, stream->name, strerror(errno));
}

/* Waits until the descriptor takes or gives something (EVENTS), or with none for MS milliseconds; and looks at what is
 * watched. A negative MS has no limit. */
static bool stream_wait(const struct stream *stream, short events, int ms, struct error *err)
{
    uint64_t end = timers_monotonic() / 1000000 + (uint64_t)(ms < 0 ? 0 : ms);

    for (;;) {
        struct pollfd fds[1 + STREAM_MAX_WATCHED] = {{.fd = events != 0 ? stream->fd : -1, .events = events}};
        uint64_t now = timers_monotonic() / 1000000;
        bool seen = false;

        for (unsigned i = 0; i < STREAM_MAX_WATCHED; i++) {
            fds[1 + i] = (struct pollfd){.fd = stream->watch.fds[i], .events = POLLIN};
        }
        if (poll(fds, 1 + STREAM_MAX_WATCHED, ms < 0 ? -1 : end > now ? (int)(end - now) : 0) < 0 && errno != EINTR) {
            return stream_failed(stream, "wait for", err);
        }
        for (unsigned i = 0; i < STREAM_MAX_WATCHED; i++) {
            seen |= fds[1 + i].revents != 0;
        }
        if (seen && !stream->watch.look(stream->watch.context, err)) {
            return false;
        }
        if (fds[0].revents != 0 || (seen && events == 0)) {
            return true;
        }
        if (ms >= 0 && timers_monotonic() / 1000000 >= end) {
            return events == 0 ||
                   error_set(err, EXIT_FAILED, "the connection to %s is lost: nothing comes through for %d s",
                             stream->name, ms / 1000);
        }
    }
}

bool stream_look(struct stream *stream, int ms, struct error *err)
{
    return stream_wait(stream, 0, ms, err);
}

bool stream_readable(const struct stream *stream)
{
    struct pollfd fd = {.fd = stream->fd, .events = POLLIN};

    return poll(&fd, 1, 0) > 0;
}

static int stream_patience(const struct stream *stream)
{
    return stream->kind == STREAM_SOCKET ? STREAM_PATIENCE_MS : -1;
}

static bool stream_write_all(struct stream *stream, const uint8_t *data, size_t size, struct error *err)
{
    uint64_t begin = timers_monotonic();

    stream->torn = true;
    while (size > 0) {
        /* A pipe that poll calls writable takes this much without blocking; a file always takes everything. */
        size_t chunk = stream->kind == STREAM_PIPE && size > PIPE_BUF ? PIPE_BUF : size;
        ssize_t done;

        if (stream->kind != STREAM_FILE && !stream_wait(stream, POLLOUT, stream_patience(stream), err)) {
            return false;
        }
        done = stream->kind == STREAM_SOCKET ? send(stream->fd, data, chunk, MSG_DONTWAIT | MSG_NOSIGNAL)
                                             : write(stream->fd, data, chunk);
        if (done < 0 && errno != EAGAIN && errno != EINTR) {
            return stream_failed(stream, "write", err);
        }
        if (done > 0) {
            data += done;
            size -= (size_t)done;
            stream->bytes += (uint64_t)done;
        }
    }
    stream->torn = false;
    stream->busy += timers_monotonic() - begin;
    return true;
}

/* *GOT is less than SIZE where the end comes before. */
static bool stream_read_all(struct stream *stream, uint8_t *data, size_t size, size_t *got, struct error *err)
{
    *got = 0;
    while (*got < size) {
        ssize_t done;

        if (!stream_wait(stream, POLLIN, stream_patience(stream), err)) {
            return false;
        }
        done = read(stream->fd, data + *got, size - *got);
        if (done < 0 && errno != EAGAIN && errno != EINTR) {
            return stream_failed(stream, "read", err);
        }
        if (done == 0) {
            return true;
        }
        if (done > 0) {
            *got += (size_t)done;
            stream->bytes += (uint64_t)done;
        }
    }
    return true;
}

static bool stream_truncated(const struct stream *stream, struct error *err)
{
    if (stream->kind == STREAM_SOCKET) {
        return error_set(err, EXIT_FAILED, "the connection to %s is lost: it was closed at the other end",
                         stream->name);
    }
    return error_set(err, EXIT_FAILED,
                     "%s is truncated: it ends after %" PRIu64 " bytes, before the machine is complete", stream->name,
                     stream->bytes);
}

bool stream_write_head(struct stream *stream, struct error *err)
{
    uint8_t head[HEAD] = {0};

    memcpy(head, stream_magic, sizeof(stream_magic));
    stream_store(head + sizeof(stream_magic), 4, STREAM_VERSION);
    return stream_write_all(stream, head, sizeof(head), err);
}

bool stream_read_head(struct stream *stream, struct error *err)
{
    uint8_t head[HEAD] = {0};
    size_t got;

    if (!stream_read_all(stream, head, sizeof(head), &got, err)) {
        return false;
    }
    if (got < sizeof(stream_magic) || memcmp(head, stream_magic, sizeof(stream_magic)) != 0) {
        return stream->kind == STREAM_SOCKET && got == 0
                   ? stream_truncated(stream, err)
                   : error_set(err, EXIT_FAILED, "%s is no saved machine: it does not begin as one does", stream->name);
    }
    if (got < sizeof(head)) {
        return stream_truncated(stream, err);
    }
    uint32_t version = (uint32_t)stream_fetch(head + sizeof(stream_magic), 4);

    if (version == 0 || version > STREAM_VERSION) {
        return error_set(err, EXIT_FAILED,
                         "%s is a machine in version %" PRIu32 " of the format, and this build knows 1 to %d",
                         stream->name, version, STREAM_VERSION);
    }
    if (stream_fetch(head + sizeof(stream_magic) + 4, 4) != 0) {
        return error_set(err, EXIT_FAILED, "%s is damaged: bytes behind the version are not zero", stream->name);
    }
    return true;
}

/* INDEX, counted from 0, is the frame's number in its direction. */
static uint64_t stream_sum(const uint8_t *frame, uint32_t length, uint64_t index)
{
    return XXH3_64bits_withSeed(frame + HEADER, length, XXH3_64bits_withSeed(frame, SUM_AT, index));
}

bool stream_write(struct stream *stream, const char *tag, uint32_t length, struct error *err)
{
    memcpy(stream->buffer, tag, 4);
    stream_store(stream->buffer + LENGTH_AT, 4, length);
    stream_store(stream->buffer + SUM_AT, 8, stream_sum(stream->buffer, length, stream->written));
    if (!stream_look(stream, 0, err) || !stream_write_all(stream, stream->buffer, HEADER + (size_t)length, err)) {
        return false;
    }
    stream->written++;
    return true;
}

/* What is in a tag's place may be anything. */
static void stream_show_tag(struct stream *stream)
{
    for (unsigned i = 0; i < 4; i++) {
        stream->tag[i] = stream->buffer[i] >= ' ' && stream->buffer[i] <= '~' ? (char)stream->buffer[i] : '?';
    }
}

bool stream_read(struct stream *stream, struct error *err)
{
    size_t got;

    if (!stream_read_all(stream, stream->buffer, HEADER, &got, err)) {
        return false;
    }
    if (got < HEADER) {
        return stream_truncated(stream, err);
    }
    stream_show_tag(stream);
    stream->length = (uint32_t)stream_fetch(stream->buffer + LENGTH_AT, 4);
    if (stream->length > STREAM_MAX_BODY) {
        return stream_refuse(stream, err, "it has a length of %" PRIu32 " bytes", stream->length);
    }
    if (!stream_read_all(stream, stream->buffer + HEADER, stream->length, &got, err)) {
        return false;
    }
    if (got < stream->length) {
        return stream_truncated(stream, err);
    }
    if (stream_fetch(stream->buffer + SUM_AT, 8) != stream_sum(stream->buffer, stream->length, stream->read)) {
        return stream_refuse(stream, err, "its checksum is wrong");
    }
    stream->read++;
    return true;
}

bool stream_expect(struct stream *stream, const char *tag, struct error *err)
{
    return stream_read(stream, err) &&
           (strcmp(stream->tag, tag) == 0 || stream_refuse(stream, err, "'%s' should be in its place", tag));
}

bool stream_read_end(struct stream *stream, struct error *err)
{
    uint8_t byte;
    size_t got;

    return stream_read_all(stream, &byte, 1, &got, err) &&
           (got == 0 || error_set(err, EXIT_FAILED, "%s is damaged: something follows the machine", stream->name));
}
