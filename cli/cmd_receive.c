/* cmd_receive.c: `bulkhead receive`: a machine that comes over a socket while it runs elsewhere. */
#include "commands.h"
#include "endpoint.h"
#include "image.h"
#include "run.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* How long the source may take to notice that it is not wanted. */
#define REFUSAL_MS 2000

struct receive {
    struct run *run;
    char name[ENDPOINT_NAME];
    int signals; /* readable when a signal ends the command */
    int stop; /* readable when the machine has ended */
    int connection;
    struct stream stream;
    pthread_t thread; /* takes the machine over */
    bool started;
    bool taken; /* it runs here, or has */
    struct error error; /* why not */
};

static bool receive_look(void *context, struct error *err)
{
    struct receive *receive = context;
    struct pollfd stop = {.fd = receive->stop, .events = POLLIN};
    struct signalfd_siginfo info;

    if (poll(&stop, 1, 0) > 0) {
        return error_set(err, EXIT_FAILED, "the machine is not taken over: %s", receive->run->machine->end.text);
    }
    if (receive->signals >= 0 && read(receive->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        return error_set(err, EXIT_SIGNAL_BASE + (int)info.ssi_signo, "ended by signal %u (%s)", info.ssi_signo,
                         strsignal((int)info.ssi_signo));
    }
    return true;
}

/* The first to connect is the one. */
static bool receive_accept(struct receive *receive, const struct options *options, struct error *err)
{
    int listener = endpoint_listen(options->operands[0], receive->name, err);
    struct pollfd fds[2] = {{.fd = listener, .events = POLLIN}, {.fd = receive->signals, .events = POLLIN}};
    bool good = listener >= 0;

    if (good && !options->quiet) {
        fprintf(stderr, "bulkhead: waiting for a machine at %s\n", receive->name);
    }
    while (good && receive->connection < 0) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            good = error_set(err, EXIT_FAILED, "%s: %s", receive->name, strerror(errno));
        } else if (fds[1].revents != 0) {
            good = receive_look(receive, err);
        } else if (fds[0].revents != 0) {
            receive->connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        }
    }
    endpoint_close(listener, options->operands[0]);
    return good;
}

static bool receive_read(struct receive *receive, struct error *err)
{
    struct run *run = receive->run;
    struct image image;

    if (!image_read_head(&receive->stream, &image, err)) {
        return false;
    }
    run_complete_config(run, &image.config);
    run->created = true;
    return image_read_machine(&receive->stream, &image, run->machine, run->options.show_downtime, err);
}

/* Tells the source why it is not taken, and lets it read that: what it still sends is thrown away, as a socket that is
 * closed with something unread takes back what was written. */
static void receive_refuse(struct receive *receive, const struct error *why)
{
    struct stream *stream = &receive->stream;
    uint64_t end = timers_monotonic() / 1000000 + REFUSAL_MS;
    struct error unused;
    size_t length = strlen(why->text);
    uint64_t now;

    if (stream->buffer == NULL || stream->torn) {
        return;
    }
    stream->watch = (struct stream_watch){.fds = {-1, -1}};
    memcpy(stream_body(stream), why->text, length);
    if (!stream_write(stream, "STOP", (uint32_t)length, &unused)) {
        return;
    }
    shutdown(receive->connection, SHUT_WR);
    while ((now = timers_monotonic() / 1000000) < end) {
        struct pollfd fd = {.fd = receive->connection, .events = POLLIN};

        if (poll(&fd, 1, (int)(end - now)) <= 0 ||
            read(receive->connection, stream_body(stream), STREAM_MAX_BODY) <= 0) {
            return;
        }
    }
}

static bool receive_build(struct run *run, struct error *err)
{
    struct receive *receive = run->own;
    const struct stream_watch watch = {{-1, -1}, receive_look, receive};

    receive->run = run;
    receive->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    receive->signals = signalfd(-1, &run->signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (receive->stop < 0 || receive->signals < 0) {
        return error_set(err, EXIT_FAILED, "the host gives no event descriptor: %s", strerror(errno));
    }
    if (!receive_accept(receive, &run->options, err) ||
        !stream_init(&receive->stream, receive->connection, receive->name, &watch, err)) {
        return false;
    }
    receive->stream.watch.fds[0] = receive->signals;
    receive->stream.watch.fds[1] = receive->stop;
    if (!receive_read(receive, err)) {
        receive_refuse(receive, err);
        return false;
    }
    return true;
}

/* The machine is complete, and held; its terminal is open and its processors are there. */
static bool receive_take_over(struct receive *receive, struct error *err)
{
    struct machine *machine = receive->run->machine;
    struct error unused;

    if (!machine_wait_held(machine)) {
        return error_set(err, EXIT_FAILED, "the machine is not taken over: %s", machine->end.text);
    }
    if (!stream_write(&receive->stream, "REDY", 0, err) || !stream_read(&receive->stream, err)) {
        return false;
    }
    if (strcmp(receive->stream.tag, "STOP") == 0) {
        return error_set(err, EXIT_FAILED, "%s has given up the move: %.*s", receive->name, (int)receive->stream.length,
                         (const char *)stream_body(&receive->stream));
    }
    if (strcmp(receive->stream.tag, "GO__") != 0) {
        return stream_refuse(&receive->stream, err, "'GO__' should be in its place");
    }
    receive->taken = true;
    machine_resume(machine);
    /* Whether the source hears it or not, it does not run the machine any more. */
    (void)stream_write(&receive->stream, "RUNS", 0, &unused);
    return control_start(&receive->run->control, machine, err);
}

static void *receive_thread(void *context)
{
    struct receive *receive = context;

    if (!receive_take_over(receive, &receive->error)) {
        machine_end(receive->run->machine, MACHINE_HOST_ERROR, receive->error.code, "%s", receive->error.text);
    }
    shutdown(receive->connection, SHUT_RDWR);
    return NULL;
}

static bool receive_begin(struct run *run, struct error *err)
{
    struct receive *receive = run->own;
    int result;

    /* From now on signals are the machine's. */
    receive->stream.watch.fds[0] = -1;
    close(receive->signals);
    receive->signals = -1;
    result = pthread_create(&receive->thread, NULL, receive_thread, receive);
    if (result != 0) {
        error_set(err, EXIT_FAILED, "cannot start a thread to take the machine over: %s", strerror(result));
        receive_refuse(receive, err);
        return false;
    }
    receive->started = true;
    return true;
}

static bool receive_end(struct run *run, struct error *err)
{
    const uint64_t one = 1;
    struct receive *receive = run->own;

    (void)!write(receive->stop, &one, sizeof(one));
    if (receive->started) {
        pthread_join(receive->thread, NULL);
    }
    if (!receive->taken) {
        *err = receive->error;
    }
    return receive->taken;
}

static void receive_free(struct receive *receive)
{
    const int fds[] = {receive->signals, receive->stop, receive->connection};

    stream_free(&receive->stream);
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}

bool cmd_receive(int argc, char **argv, int *code, struct error *err)
{
    static const struct run_verb verb = {receive_build, receive_begin, receive_end};
    struct receive receive = {.signals = -1, .stop = -1, .connection = -1};
    bool good = run_command(argc, argv, &verb, &receive, code, err);

    receive_free(&receive);
    return good;
}
