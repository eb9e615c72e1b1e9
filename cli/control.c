/* control.c: listening for requests at a running machine. */
#include "control.h"

#include "endpoint.h"
#include "transfer.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* How long a client may take for its request: others wait meanwhile. */
#define REQUEST_MS 10000

int control_connect(const char *path, struct error *err)
{
    int fd = endpoint_connect_unix(path, SOCK_SEQPACKET, err);

    if (fd < 0) {
        error_set(err, EXIT_FAILED, "%s: %s", path,
                  errno == ECONNREFUSED ? "no machine listens there any more" : strerror(errno));
    }
    return fd;
}

bool control_open(struct control *control, const char *path, struct error *err)
{
    struct error why;
    struct stat status;

    *control = (struct control){.path = path, .listener = -1, .stop = -1};
    if (path == NULL) {
        return true;
    }
    control->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (control->stop < 0) {
        return error_set(err, EXIT_FAILED, "the host gives no event descriptor: %s", strerror(errno));
    }
    control->listener = endpoint_listen_unix(path, SOCK_SEQPACKET, &why);
    if (control->listener < 0) {
        return error_set(err, EXIT_FAILED, "--control %s", why.text);
    }
    if (stat(path, &status) == 0) {
        control->device = status.st_dev;
        control->inode = status.st_ino;
    }
    return true;
}

/* The target of a move fell silent when it mattered: what the user has to know and to do. */
static void control_say_unknown(const struct control *control, struct message *result)
{
    size_t used = strlen(result->text);

    snprintf(
        result->text + used, sizeof(result->text) - used,
        ", so it stays paused here; if it does not run there, 'bulkhead migrate --resume %s' lets it go on here, and "
        "else Ctrl-A x or a signal ends it",
        control->path);
    fprintf(stderr, "bulkhead: %s\n", result->text);
}

static void control_refuse(struct message *result, const char *text)
{
    *result = (struct message){.kind = MESSAGE_RESULT, .code = EXIT_FAILED};
    snprintf(result->text, sizeof(result->text), "%s", text);
}

static void control_resume(struct control *control, struct message *result)
{
    if (control->target[0] == '\0') {
        control_refuse(result, "the machine runs here; there is nothing to resume");
        return;
    }
    control->target[0] = '\0';
    machine_resume(control->machine);
    *result = (struct message){.kind = MESSAGE_RESULT};
}

static void control_transfer(struct control *control, const struct message *request, int client, int fd,
                             struct message *result)
{
    if (control->target[0] != '\0') {
        control_refuse(result, "the machine may be running elsewhere and is paused here; 'bulkhead migrate --resume' "
                               "lets it go on here");
    } else if (fd < 0) {
        control_refuse(result, "the request has no descriptor to write to");
    } else if (transfer_serve(control->machine, request, client, fd, control->stop, result) == TRANSFER_UNKNOWN) {
        snprintf(control->target, sizeof(control->target), "%s", request->text);
        control_say_unknown(control, result);
    }
}

/* Whether the client says something before it has taken too long, and before the machine ends. */
static bool control_wait(const struct control *control, int client)
{
    struct pollfd fds[2] = {{.fd = control->stop, .events = POLLIN}, {.fd = client, .events = POLLIN}};

    return poll(fds, 2, REQUEST_MS) > 0 && fds[0].revents == 0;
}

static void control_serve(struct control *control, int client)
{
    struct message request, result;
    struct error unused;
    int fd;

    if (!control_wait(control, client) || !message_receive(client, &request, &fd, &unused)) {
        return; /* whoever it was is gone, or speaks otherwise */
    }
    switch (request.kind) {
    case MESSAGE_SAVE:
    case MESSAGE_MOVE:
        control_transfer(control, &request, client, fd, &result);
        break;
    case MESSAGE_RESUME:
        control_resume(control, &result);
        break;
    default:
        control_refuse(&result, "the request is unknown");
        break;
    }
    if (fd >= 0) {
        close(fd);
    }
    (void)message_send(client, &result, -1, true, &unused); /* it may not want to know */
}

static void *control_thread(void *context)
{
    struct control *control = context;
    struct pollfd fds[2] = {{.fd = control->stop, .events = POLLIN}, {.fd = control->listener, .events = POLLIN}};

    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            return NULL;
        }
        if (fds[0].revents != 0) {
            return NULL;
        }
        int client = accept4(control->listener, NULL, NULL, SOCK_CLOEXEC);

        if (client >= 0) {
            control_serve(control, client);
            close(client);
        }
    }
}

bool control_start(struct control *control, struct machine *machine, struct error *err)
{
    int result;

    if (control->path == NULL) {
        return true;
    }
    control->machine = machine;
    result = pthread_create(&control->thread, NULL, control_thread, control);
    if (result != 0) {
        return error_set(err, EXIT_FAILED, "cannot start a thread for --control: %s", strerror(result));
    }
    control->started = true;
    return true;
}

void control_close(struct control *control)
{
    const uint64_t one = 1;
    struct stat status;

    if (control->started) {
        (void)!write(control->stop, &one, sizeof(one));
        pthread_join(control->thread, NULL);
        control->started = false;
    }
    if (control->listener >= 0) {
        if (stat(control->path, &status) == 0 && status.st_dev == control->device && status.st_ino == control->inode) {
            unlink(control->path);
        }
        close(control->listener);
        control->listener = -1;
    }
    if (control->stop >= 0) {
        close(control->stop);
        control->stop = -1;
    }
}
