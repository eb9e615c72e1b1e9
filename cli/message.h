/* message.h: what a running machine and the command that asks it for something say to each other on the control
 * socket.
 *
 * Each message is one packet. A command sends SAVE or MOVE with the descriptor to write to, or RESUME. The machine
 * answers with any number of PROGRESS and one RESULT. Before that, for SAVE, it says WRITTEN and waits for STORED:
 * the file is under its name. STOP, or the end of the connection, takes the request back for as long as that is
 * possible. */
#ifndef CLI_MESSAGE_H
#define CLI_MESSAGE_H

#include "error.h"

#include <stdint.h>

enum message_kind {
    MESSAGE_SAVE = 1,
    MESSAGE_MOVE,
    MESSAGE_RESUME,
    MESSAGE_STOP,
    MESSAGE_STORED,
    MESSAGE_PROGRESS,
    MESSAGE_WRITTEN,
    MESSAGE_RESULT
};

struct message {
    uint32_t kind;
    uint32_t code; /* of a result: the exit code */
    bool keep, show_downtime;
    uint64_t bandwidth; /* bytes per second, 0 for no limit */
    uint64_t downtime; /* nanoseconds: the limit; what is expected; what it was */
    uint64_t rounds; /* at most; so far */
    uint64_t sent; /* bytes so far */
    uint64_t left; /* bytes of this round that have not been looked at yet */
    uint64_t total; /* bytes of this round */
    uint64_t rate; /* bytes per second */
    uint64_t time; /* nanoseconds since the request */
    char text[1024]; /* what is written to, as the user calls it; or the error */
};

/* FD goes along unless it is -1. A packet that finds no room is an error at once, or (WAIT) after some seconds. */
bool message_send(int socket, const struct message *message, int fd, bool wait, struct error *err);

/* *FD is -1 if none came along. Blocks for some seconds at most. */
bool message_receive(int socket, struct message *message, int *fd, struct error *err);

#endif
