/* stream.h: a saved or moving machine as a sequence of checked frames, on a file, a pipe or a socket.
 *
 * It begins with a magic number and a version. A frame is a tag of four characters, the length of its body in bytes
 * (32 bits) and a checksum (64 bits: XXH3 of tag, length and body, seeded with the number of the frame), then the
 * body; all of it little-endian. A frame that is damaged, missing, doubled or out of its place is found. */
#ifndef CLI_STREAM_H
#define CLI_STREAM_H

#include "error.h"

#include <stdint.h>

#define STREAM_VERSION 1
#define STREAM_MAX_BODY (UINT32_C(16) << 20)

/* How long the other side of a socket may do nothing. */
#define STREAM_PATIENCE_MS 30000

/* Things that may happen while a stream waits for its other side. */
#define STREAM_MAX_WATCHED 2

struct stream_watch {
    int fds[STREAM_MAX_WATCHED]; /* -1 for none */
    /* One of FDS can be read. False with an error if the stream has to be given up. */
    bool (*look)(void *context, struct error *err);
    void *context;
};

enum stream_kind { STREAM_FILE, STREAM_PIPE, STREAM_SOCKET };

struct stream {
    int fd; /* the caller's */
    enum stream_kind kind;
    const char *name; /* as errors call it */
    struct stream_watch watch;
    uint8_t *buffer; /* a frame's header and body */
    uint64_t written, read; /* frames so far */
    uint64_t bytes; /* of both directions */
    uint64_t busy; /* nanoseconds that writing has taken */
    bool torn; /* it ends inside a frame: nothing more can be written */
    char tag[5]; /* the frame that was read last */
    uint32_t length;
};

/* NAME has to live as long as the stream; so has what WATCH (or NULL) points to. Free it whatever the result. */
bool stream_init(struct stream *stream, int fd, const char *name, const struct stream_watch *watch, struct error *err);
void stream_free(struct stream *stream);

/* Magic number and version. */
bool stream_write_head(struct stream *stream, struct error *err);
bool stream_read_head(struct stream *stream, struct error *err);

/* The body of the next frame to write, STREAM_MAX_BODY bytes of room, or of the frame that was read last. */
uint8_t *stream_body(struct stream *stream);

/* Writes the first LENGTH bytes of the body as a frame. */
bool stream_write(struct stream *stream, const char *tag, uint32_t length, struct error *err);
bool stream_read(struct stream *stream, struct error *err);

/* The same, and it has to be the frame TAG. */
bool stream_expect(struct stream *stream, const char *tag, struct error *err);

/* Nothing comes any more. */
bool stream_read_end(struct stream *stream, struct error *err);

/* Looks at what is watched, waiting MS milliseconds for it at most. */
bool stream_look(struct stream *stream, int ms, struct error *err);

/* Whether the other side has something to say or is gone. */
bool stream_readable(const struct stream *stream);

/* What was read makes no sense: the stream's name and the frame, then the text. Returns false. */
bool stream_refuse(const struct stream *stream, struct error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
