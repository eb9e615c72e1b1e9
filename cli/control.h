/* control.h: the Unix socket on which a running machine takes requests, and the thread that serves them one by one. */
#ifndef CLI_CONTROL_H
#define CLI_CONTROL_H

#include "machine.h"

#include <sys/types.h>

struct control {
    struct machine *machine;
    const char *path; /* NULL if there is none */
    int listener, stop;
    dev_t device; /* of the socket's file, so that no other is removed */
    ino_t inode;
    pthread_t thread;
    bool started;
    char target[1024]; /* where the machine may be running; else empty */
};

/* Listens on PATH, which only this user can open; with NULL does nothing. A socket that nobody listens on is replaced.
 * Requests wait until control_start. Close it whatever the result. */
bool control_open(struct control *control, const char *path, struct error *err);

/* MACHINE is set up. Nothing happens without a path. */
bool control_start(struct control *control, struct machine *machine, struct error *err);

/* The machine has ended: takes back what is being served, and removes the socket. Any number of times. */
void control_close(struct control *control);

/* A socket that listens at a path, or is connected to one. -1 with an error. */
int control_connect(const char *path, struct error *err);

#endif
