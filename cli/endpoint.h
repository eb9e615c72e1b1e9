/* endpoint.h: where a machine is sent to or waited for: unix:PATH, tcp:HOST:PORT, HOST:PORT, or tcp:PORT to listen. */
#ifndef CLI_ENDPOINT_H
#define CLI_ENDPOINT_H

#include "error.h"

#define ENDPOINT_NAME 512

/* A stream socket, connected. -1 with an error that names TARGET. */
int endpoint_connect(const char *target, struct error *err);

/* One that listens. NAME is the address with the port that it has, if TARGET has 0. */
int endpoint_listen(const char *target, char name[ENDPOINT_NAME], struct error *err);

/* Closes what endpoint_listen gave, and removes its file. */
void endpoint_close(int fd, const char *target);

/* A socket of TYPE at a path. -1 with errno and an error. The file of one that listens is its owner's alone; one that
 * nobody listens on any more is replaced. */
int endpoint_connect_unix(const char *path, int type, struct error *err);
int endpoint_listen_unix(const char *path, int type, struct error *err);

#endif
