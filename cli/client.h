/* client.h: a command that asks a running machine for something, shows how it goes on, and can take it back. */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include "message.h"
#include "options.h"

struct client {
    const struct options *options;
    /* The machine has written everything: puts it in its place. NULL if nothing has to be done. */
    bool (*store)(void *context, struct error *err);
    void *context;
    struct message result;
};

/* Sends REQUEST with FD (or -1) to the machine at options->operands[0] and waits for the result. SIGINT, SIGTERM and
 * SIGHUP take it back. False, with the machine running where it was, unless the error says otherwise. */
bool client_ask(struct client *client, const struct message *request, int fd, struct error *err);

/* A summary of a request that was fulfilled, for people and as JSON. WHAT is "saved" or "moved". */
void client_print(const struct client *client, const char *what);
bool client_write_json(const struct client *client, const char *what, int fd, struct error *err);

#endif
