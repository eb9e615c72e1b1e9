/* client.c: asking a running machine, progress on standard error, and what came of it. */
#include "client.h"

#include "control.h"

#include <json-c/json.h>

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define BAR 24

static double client_mib(uint64_t bytes)
{
    return (double)bytes / (double)MEMORY_MIB;
}

static double client_ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

/* A bar that is drawn again and again on a terminal; otherwise a line for each round. */
static void client_show(const struct client *client, const struct message *message, uint64_t *round)
{
    uint64_t done = message->total - message->left;
    unsigned filled = message->total == 0 ? BAR : (unsigned)timers_scale(done, BAR, message->total);
    bool drawn = isatty(STDERR_FILENO);

    if (client->options->quiet || (!drawn && *round == message->rounds)) {
        return;
    }
    *round = message->rounds;
    if (drawn) {
        fprintf(stderr, "\r[");
        for (unsigned i = 0; i < BAR; i++) {
            fputc(i < filled ? '#' : '.', stderr);
        }
        fprintf(stderr, "] ");
    }
    fprintf(stderr, "round %" PRIu64 ": %.1f MiB sent, %.1f MiB left, %.0f MiB/s", message->rounds,
            client_mib(message->sent), client_mib(message->left), client_mib(message->rate));
    if (client->options->verb == OPTIONS_MIGRATE && message->rounds > 1) {
        fprintf(stderr, ", downtime about %.0f ms", client_ms(message->downtime));
    }
    fputs(drawn ? "\033[K" : "\n", stderr);
}

/* Takes one message. *OVER after the result. */
static bool client_take(struct client *client, int machine, uint64_t *round, bool *over, struct error *err)
{
    const struct message stored = {.kind = MESSAGE_STORED};
    struct message message;
    int fd;

    if (!message_receive(machine, &message, &fd, err)) {
        return error_set(err, EXIT_FAILED, "%s: the machine's process has gone away in the middle",
                         client->options->operands[0]);
    }
    if (fd >= 0) {
        close(fd);
    }
    switch (message.kind) {
    case MESSAGE_PROGRESS:
        client_show(client, &message, round);
        return true;
    case MESSAGE_WRITTEN:
        return (client->store == NULL || client->store(client->context, err)) &&
               message_send(machine, &stored, -1, true, err);
    case MESSAGE_RESULT:
        client->result = message;
        *over = true;
        return message.code == EXIT_OK || error_set(err, (int)message.code, "%s", message.text);
    default:
        return error_set(err, EXIT_FAILED, "%s: an answer makes no sense", client->options->operands[0]);
    }
}

/* The first signal takes the request back; the second does not wait for the machine to say so. */
static bool client_interrupt(int machine, int signals, int *number, struct error *err)
{
    const struct message stop = {.kind = MESSAGE_STOP};
    struct signalfd_siginfo info;

    if (read(signals, &info, sizeof(info)) != (ssize_t)sizeof(info)) {
        return true;
    }
    if (*number != 0) {
        return error_set(err, EXIT_FAILED, "not waiting for the machine any more");
    }
    *number = (int)info.ssi_signo;
    return message_send(machine, &stop, -1, true, err);
}

static bool client_wait(struct client *client, int machine, int signals, struct error *err)
{
    struct pollfd fds[2] = {{.fd = machine, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    uint64_t round = 0;
    int number = 0;
    bool over = false, good = true;

    while (good && !over) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            good = error_set(err, EXIT_FAILED, "waiting for the machine failed: %s", strerror(errno));
        } else if (fds[0].revents != 0) {
            good = client_take(client, machine, &round, &over, err);
        } else if (fds[1].revents != 0) {
            good = client_interrupt(machine, signals, &number, err);
        }
    }
    if (round != 0 && isatty(STDERR_FILENO)) {
        fputc('\n', stderr);
    }
    if (!good && number != 0) {
        err->code = EXIT_SIGNAL_BASE + number;
    }
    return good;
}

bool client_ask(struct client *client, const struct message *request, int fd, struct error *err)
{
    sigset_t set;
    bool good;
    int signals, machine = control_connect(client->options->operands[0], err);

    if (machine < 0) {
        return false;
    }
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    good = (signals >= 0 || error_set(err, EXIT_FAILED, "the host gives no signal descriptor: %s", strerror(errno))) &&
           message_send(machine, request, fd, true, err) && client_wait(client, machine, signals, err);
    close(machine);
    if (signals >= 0) {
        close(signals);
    }
    return good;
}

void client_print(const struct client *client, const char *what)
{
    const struct message *result = &client->result;

    if (!client->options->quiet) {
        fprintf(stderr, "bulkhead: %s; %.1f MiB in %.3f s, %" PRIu64 " round%s, downtime %.1f ms\n", what,
                client_mib(result->sent), (double)result->time / 1e9, result->rounds, result->rounds == 1 ? "" : "s",
                client_ms(result->downtime));
    }
}

bool client_write_json(const struct client *client, const char *what, int fd, struct error *err)
{
    const struct message *result = &client->result;
    struct json_object *root;
    bool good;

    if (fd < 0) {
        return true;
    }
    root = json_object_new_object();
    json_object_object_add(root, "result", json_object_new_string(what));
    json_object_object_add(root, "bytes", json_object_new_uint64(result->sent));
    json_object_object_add(root, "rounds", json_object_new_uint64(result->rounds));
    json_object_object_add(root, "seconds", json_object_new_double((double)result->time / 1e9));
    json_object_object_add(root, "downtime_seconds", json_object_new_double((double)result->downtime / 1e9));
    good = dprintf(fd, "%s\n", json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY)) >= 0 ||
           error_set(err, EXIT_FAILED, "--json %s: %s", client->options->json, strerror(errno));
    json_object_put(root);
    return good;
}
