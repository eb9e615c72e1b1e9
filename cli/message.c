/* message.c: packets on the control socket. */
#include "message.h"

#include "state.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* How long the other side may take for a packet. */
#define PATIENCE_MS 10000

static const struct state_field message_fields[] = {
    STATE_RANGE(struct message, kind, MESSAGE_SAVE, MESSAGE_RESULT),
    STATE_RANGE(struct message, code, 0, 255),
    STATE_FLAG(struct message, keep),
    STATE_FLAG(struct message, show_downtime),
    STATE_ANY(struct message, bandwidth),
    STATE_ANY(struct message, downtime),
    STATE_ANY(struct message, rounds),
    STATE_ANY(struct message, sent),
    STATE_ANY(struct message, left),
    STATE_ANY(struct message, total),
    STATE_ANY(struct message, rate),
    STATE_ANY(struct message, time),
    STATE_BYTES(struct message, text),
};

union message_descriptor {
    char space[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

static bool message_wait(int socket, short events, struct error *err)
{
    struct pollfd fd = {.fd = socket, .events = events};
    int ready;

    do {
        ready = poll(&fd, 1, PATIENCE_MS);
    } while (ready < 0 && errno == EINTR);
    return ready > 0 ||
           error_set(err, EXIT_FAILED, "the control socket: nothing comes through for %d s", PATIENCE_MS / 1000);
}

bool message_send(int socket, const struct message *message, int fd, bool wait, struct error *err)
{
    union message_descriptor descriptor = {{0}};
    struct state_writer packet;
    struct iovec part;
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    bool good;

    state_writer_init(&packet);
    state_begin(&packet, "CTRL", 1);
    state_put_fields(&packet, message_fields, STATE_COUNT(message_fields), message);
    state_end(&packet);
    part = (struct iovec){packet.data, packet.size};
    if (fd >= 0) {
        descriptor.align = (struct cmsghdr){CMSG_LEN(sizeof(fd)), SOL_SOCKET, SCM_RIGHTS};
        header.msg_control = &descriptor;
        header.msg_controllen = sizeof(descriptor);
        memcpy(CMSG_DATA(&descriptor.align), &fd, sizeof(fd));
    }
    good = state_writer_complete(&packet, err) && (!wait || message_wait(socket, POLLOUT, err)) &&
           (sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 ||
            error_set(err, EXIT_FAILED, "the control socket: %s", strerror(errno)));
    state_writer_free(&packet);
    return good;
}

static int message_descriptor(struct msghdr *header)
{
    struct cmsghdr *first = CMSG_FIRSTHDR(header);
    int fd = -1;

    if (first != NULL && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SCM_RIGHTS &&
        first->cmsg_len == CMSG_LEN(sizeof(fd))) {
        memcpy(&fd, CMSG_DATA(first), sizeof(fd));
    }
    return fd;
}

bool message_receive(int socket, struct message *message, int *fd, struct error *err)
{
    union message_descriptor descriptor = {{0}};
    uint8_t bytes[4096];
    struct iovec part = {bytes, sizeof(bytes)};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &descriptor, .msg_controllen = sizeof(descriptor)};
    struct state_reader from;
    ssize_t got;

    *fd = -1;
    if (!message_wait(socket, POLLIN, err)) {
        return false;
    }
    got = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got <= 0) {
        return error_set(err, EXIT_FAILED, "the control socket: %s",
                         got == 0 ? "it was closed at the other end" : strerror(errno));
    }
    *fd = message_descriptor(&header);
    *message = (struct message){0};
    state_reader_init(&from, bytes, (size_t)got, err);
    state_enter(&from, "CTRL", 1);
    state_get_fields(&from, message_fields, STATE_COUNT(message_fields), message);
    message->text[sizeof(message->text) - 1] = '\0';
    if (state_leave(&from)) {
        return true;
    }
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return false;
}
