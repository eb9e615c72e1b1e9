/* transfer.c: saving and moving a running machine, from the machine's side. */
#include "transfer.h"

#include "image.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)
#define PROGRESS_NS (100 * NS_PER_MS)

/* A round with less than this says little about how fast the connection is. */
#define TELLING_BYTES MEMORY_MIB

struct transfer {
    struct machine *machine;
    const struct message *request;
    int client, stop;
    struct stream stream;
    uint64_t *bitmap; /* pages to send */
    bool paused;
    bool written; /* the client was told that all is in its file */
    bool stored; /* the client has said so */
    bool decided; /* what the client says is too late */
    uint64_t paused_at;
    uint64_t begin; /* of the request */
    uint64_t round_begin, round_bytes, round_busy; /* time and stream when the round began */
    uint64_t told; /* time of the last progress */
    struct message figures;
};

/* Something has come from the client, or the machine has ended. */
static bool transfer_look(void *context, struct error *err)
{
    struct transfer *transfer = context;
    struct pollfd stop = {.fd = transfer->stop, .events = POLLIN};
    struct pollfd client = {.fd = transfer->decided ? -1 : transfer->client, .events = POLLIN};
    struct message message;
    int fd;

    if (poll(&stop, 1, 0) > 0) {
        return error_set(err, EXIT_FAILED, "the machine has ended: %s", transfer->machine->end.text);
    }
    if (poll(&client, 1, 0) <= 0) {
        return true;
    }
    if (!message_receive(transfer->client, &message, &fd, err)) {
        return error_set(err, EXIT_FAILED, "the command that asked for it is gone");
    }
    if (message.kind == MESSAGE_STORED && transfer->written) {
        transfer->stored = true;
        return true;
    }
    return error_set(err, EXIT_FAILED, "cancelled");
}

static void transfer_tell(struct transfer *transfer, uint64_t now)
{
    struct error unused;

    transfer->told = now;
    transfer->figures.kind = MESSAGE_PROGRESS;
    transfer->figures.sent = transfer->stream.bytes;
    transfer->figures.time = now - transfer->begin;
    /* A client that does not read misses it. */
    (void)message_send(transfer->client, &transfer->figures, -1, false, &unused);
}

/* While the guest runs it is waited until the limit of bytes per second is kept. */
static bool transfer_pace(struct transfer *transfer, uint64_t now, struct error *err)
{
    uint64_t limit = transfer->request->bandwidth;
    uint64_t sent = transfer->stream.bytes - transfer->round_bytes;

    if (limit == 0 || transfer->paused) {
        return true;
    }
    uint64_t due = transfer->round_begin + timers_scale(sent, NS_PER_S, limit);

    return due <= now || stream_look(&transfer->stream, (int)((due - now) / NS_PER_MS + 1), err);
}

/* The target says something before it was asked: that it cannot go on. */
static bool transfer_refused(struct transfer *transfer, struct error *err)
{
    if (!stream_read(&transfer->stream, err)) {
        return false;
    }
    return error_set(err, EXIT_FAILED, "%s does not take the machine: %.*s", transfer->stream.name,
                     (int)transfer->stream.length, (const char *)stream_body(&transfer->stream));
}

/* The rate of this round, or until that can be told, of all before; looking for zeros does not count. Where there is a
 * limit the connection may look faster than it is, as each piece finds its buffers empty. */
static void transfer_measure(struct transfer *transfer)
{
    const struct stream *stream = &transfer->stream;
    bool telling = stream->bytes - transfer->round_bytes >= TELLING_BYTES;
    uint64_t bytes = stream->bytes - (telling ? transfer->round_bytes : 0);
    uint64_t busy = stream->busy - (telling ? transfer->round_busy : 0);
    uint64_t limit = transfer->request->bandwidth;
    uint64_t rate = timers_scale(bytes, NS_PER_S, busy + 1);

    if (telling || transfer->figures.rate == 0 || transfer->figures.rounds <= 1) {
        transfer->figures.rate = limit != 0 && rate > limit ? limit : rate;
    }
}

static bool transfer_tick(void *context, uint64_t pages, struct error *err)
{
    struct transfer *transfer = context;
    uint64_t now = timers_monotonic();

    transfer->figures.left -= pages * MEMORY_PAGE;
    transfer_measure(transfer);
    if (now - transfer->told >= PROGRESS_NS) {
        transfer_tell(transfer, now);
    }
    if (transfer->stream.kind == STREAM_SOCKET && stream_readable(&transfer->stream)) {
        return transfer_refused(transfer, err);
    }
    return transfer_pace(transfer, now, err);
}

static bool transfer_send_round(struct transfer *transfer, struct error *err)
{
    const struct image_tick tick = {transfer_tick, transfer};
    bool again = transfer->figures.rounds > 0;
    uint64_t pages = 0;

    for (size_t i = 0; i < memory_words(&transfer->machine->memory); i++) {
        pages += (unsigned)__builtin_popcountll(transfer->bitmap[i]);
    }
    transfer->figures.rounds++;
    transfer->figures.total = transfer->figures.left = pages * MEMORY_PAGE;
    transfer->round_begin = timers_monotonic();
    transfer->round_bytes = transfer->stream.bytes;
    transfer->round_busy = transfer->stream.busy;
    transfer_tell(transfer, transfer->round_begin);
    return image_write_pages(&transfer->stream, transfer->machine, transfer->bitmap, again, &tick, err);
}

/* BITMAP has all pages that may hold something. */
static bool transfer_all_pages(struct transfer *transfer, struct error *err)
{
    uint64_t pages = memory_pages(&transfer->machine->memory);
    size_t words = memory_words(&transfer->machine->memory);

    transfer->bitmap = calloc(words, sizeof(*transfer->bitmap));
    if (transfer->bitmap == NULL) {
        return error_set(err, EXIT_FAILED, "the host gives no memory for a map of pages");
    }
    memset(transfer->bitmap, 0xff, words * sizeof(*transfer->bitmap));
    if (pages % 64 != 0) {
        transfer->bitmap[words - 1] = (UINT64_C(1) << pages % 64) - 1;
    }
    memory_drop_untouched(&transfer->machine->memory, transfer->bitmap);
    return true;
}

static bool transfer_take_written(struct transfer *transfer, struct error *err)
{
    return memory_take_written(&transfer->machine->memory, transfer->machine->partition, transfer->bitmap, err);
}

/* How long what is to be sent now would take, in nanoseconds. */
static uint64_t transfer_expect(const struct transfer *transfer)
{
    uint64_t pages = 0;

    for (size_t i = 0; i < memory_words(&transfer->machine->memory); i++) {
        pages += (unsigned)__builtin_popcountll(transfer->bitmap[i]);
    }
    return transfer->figures.rate == 0 ? 0 : timers_scale(pages * MEMORY_PAGE, NS_PER_S, transfer->figures.rate);
}

/* Sends memory again and again while the guest runs, until what it has written meanwhile is little enough, or for as
 * many rounds as there may be. Afterwards BITMAP has what is left. */
static bool transfer_rounds(struct transfer *transfer, struct error *err)
{
    size_t size = memory_words(&transfer->machine->memory) * sizeof(*transfer->bitmap);
    bool enough = false;

    /* All are sent, whatever was written before; and what was not when it was looked at, but is by now. */
    if (!transfer_all_pages(transfer, err) || !transfer_take_written(transfer, err)) {
        return false;
    }
    while (!enough && transfer->figures.rounds < transfer->request->rounds) {
        if (!transfer_send_round(transfer, err)) {
            return false;
        }
        memset(transfer->bitmap, 0, size);
        if (!transfer_take_written(transfer, err)) {
            return false;
        }
        transfer->figures.downtime = transfer_expect(transfer);
        enough = transfer->figures.downtime <= transfer->request->downtime;
    }
    return true;
}

static bool transfer_pause(struct transfer *transfer, struct error *err)
{
    transfer->paused_at = timers_monotonic();
    transfer->paused = machine_pause(transfer->machine, err);
    return transfer->paused;
}

static void transfer_resume(struct transfer *transfer)
{
    if (transfer->paused) {
        machine_resume(transfer->machine);
        transfer->paused = false;
        transfer->figures.downtime = timers_monotonic() - transfer->paused_at;
    }
}

/* Saving. */

/* Waits until the client has put the file in its place. It says so, or goes. */
static bool transfer_wait_stored(struct transfer *transfer, struct error *err)
{
    const struct message written = {.kind = MESSAGE_WRITTEN};

    transfer->written = true;
    if (!message_send(transfer->client, &written, -1, true, err)) {
        return false;
    }
    while (!transfer->stored) {
        if (!stream_look(&transfer->stream, STREAM_PATIENCE_MS, err)) {
            return false;
        }
    }
    return true;
}

static bool transfer_save(struct transfer *transfer, enum transfer_outcome *outcome, struct error *err)
{
    if (!transfer_pause(transfer, err) || !transfer_all_pages(transfer, err) ||
        !image_write_head(&transfer->stream, transfer->machine, err) || !transfer_send_round(transfer, err) ||
        !image_write_tail(&transfer->stream, transfer->machine, false, err)) {
        return false;
    }
    if (transfer->request->keep) {
        transfer_resume(transfer);
        return transfer_wait_stored(transfer, err);
    }
    if (!transfer_wait_stored(transfer, err)) {
        return false;
    }
    *outcome = TRANSFER_GONE;
    machine_end(transfer->machine, MACHINE_SAVED, EXIT_OK, "saved to %s", transfer->request->text);
    return true;
}

/* Moving. */

/* Ends with: everything is there, and the target could run. */
static bool transfer_send_all(struct transfer *transfer, struct error *err)
{
    struct stream *stream = &transfer->stream;

    if (!image_write_head(stream, transfer->machine, err) || !transfer_rounds(transfer, err) ||
        !transfer_pause(transfer, err) || !transfer_take_written(transfer, err) ||
        !transfer_send_round(transfer, err) ||
        !image_write_tail(stream, transfer->machine, transfer->request->show_downtime, err)) {
        return false;
    }
    if (!stream_read(stream, err)) {
        return false;
    }
    if (strcmp(stream->tag, "STOP") == 0) {
        return error_set(err, EXIT_FAILED, "%s does not take the machine: %.*s", stream->name, (int)stream->length,
                         (const char *)stream_body(stream));
    }
    return (strcmp(stream->tag, "REDY") == 0 || stream_refuse(stream, err, "'REDY' should be in its place")) &&
           stream_look(stream, 0, err);
}

/* The machine is not here any more once any of GO__ is on its way. */
static bool transfer_hand_over(struct transfer *transfer, enum transfer_outcome *outcome, struct error *err)
{
    struct stream *stream = &transfer->stream;
    const char *name = transfer->request->text;
    uint64_t before = stream->bytes;
    struct error why;

    transfer->decided = true;
    stream->watch.fds[0] = -1; /* the client */
    if (!stream_write(stream, "GO__", 0, err) && stream->bytes == before) {
        return false;
    }
    if (stream_expect(stream, "RUNS", &why)) {
        transfer->figures.downtime = timers_monotonic() - transfer->paused_at;
        *outcome = TRANSFER_GONE;
        machine_end(transfer->machine, MACHINE_MOVED, EXIT_OK, "moved to %s: the machine runs there now", name);
        return true;
    }
    *outcome = TRANSFER_UNKNOWN;
    return error_set(err, EXIT_FAILED,
                     "%s was told to run the machine and has not answered (%s); it may be running there", name,
                     why.text);
}

static bool transfer_move(struct transfer *transfer, enum transfer_outcome *outcome, struct error *err)
{
    struct stream *stream = &transfer->stream;
    struct error unused;

    if (transfer_send_all(transfer, err)) {
        return transfer_hand_over(transfer, outcome, err);
    }
    transfer_resume(transfer);
    if (!stream->torn) {
        size_t length = strlen(err->text);

        /* So that the target can say why; that it is over it finds out anyway. */
        stream->watch = (struct stream_watch){.fds = {-1, -1}};
        memcpy(stream_body(stream), err->text, length);
        (void)stream_write(stream, "STOP", (uint32_t)length, &unused);
    }
    return false;
}

enum transfer_outcome transfer_serve(struct machine *machine, const struct message *request, int client, int fd,
                                     int stop, struct message *result)
{
    struct transfer transfer = {
        .machine = machine, .request = request, .client = client, .stop = stop, .begin = timers_monotonic()};
    const struct stream_watch watch = {{client, stop}, transfer_look, &transfer};
    enum transfer_outcome outcome = TRANSFER_HERE;
    struct error err = {0};
    bool good = stream_init(&transfer.stream, fd, request->text, &watch, &err);

    if (good && request->kind == MESSAGE_SAVE) {
        good = transfer_save(&transfer, &outcome, &err);
    } else if (good) {
        good = transfer_move(&transfer, &outcome, &err);
    }
    if (outcome == TRANSFER_HERE) {
        transfer_resume(&transfer);
    } else if (request->kind == MESSAGE_SAVE) {
        transfer.figures.downtime = timers_monotonic() - transfer.paused_at;
    }
    *result = transfer.figures;
    result->kind = MESSAGE_RESULT;
    result->code = (uint32_t)(good ? EXIT_OK : err.code);
    result->sent = transfer.stream.bytes;
    result->time = timers_monotonic() - transfer.begin;
    snprintf(result->text, sizeof(result->text), "%s", good ? "" : err.text);
    free(transfer.bitmap);
    stream_free(&transfer.stream);
    return outcome;
}
