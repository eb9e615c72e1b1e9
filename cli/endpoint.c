/* endpoint.c: connecting and listening on Unix and TCP sockets. */
#include "endpoint.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define UNIX_PREFIX "unix:"
#define TCP_PREFIX "tcp:"

static bool endpoint_unix_address(const char *path, struct sockaddr_un *address, struct error *err)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (*path == '\0' || strlen(path) >= sizeof(address->sun_path)) {
        errno = ENAMETOOLONG;
        return error_set(err, EXIT_FAILED, "%s: the path of a socket has 1 to %zu bytes", path,
                         sizeof(address->sun_path) - 1);
    }
    strcpy(address->sun_path, path);
    return true;
}

/* Fills ERR for PATH from errno, closes FD, and returns -1 with errno as it was. */
static int endpoint_failed(int fd, const char *path, struct error *err)
{
    int number = errno;

    if (fd >= 0) {
        close(fd);
    }
    error_set(err, EXIT_FAILED, "%s: %s", path, strerror(number));
    errno = number;
    return -1;
}

int endpoint_connect_unix(const char *path, int type, struct error *err)
{
    struct sockaddr_un address;
    int fd;

    if (!endpoint_unix_address(path, &address, err)) {
        return -1;
    }
    fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        return endpoint_failed(fd, path, err);
    }
    return fd;
}

/* Removes a socket at PATH that nobody listens on. False with an error if something else is there. */
static bool endpoint_clear(const char *path, int type, struct error *err)
{
    struct error unused;
    struct stat status;
    int fd;

    if (lstat(path, &status) != 0) {
        return true; /* binding tells what is wrong, if anything is */
    }
    if (!S_ISSOCK(status.st_mode)) {
        return error_set(err, EXIT_FAILED, "%s: a file is there that is no socket", path);
    }
    fd = endpoint_connect_unix(path, type, &unused);
    if (fd >= 0 || errno != ECONNREFUSED) {
        if (fd >= 0) {
            close(fd);
        }
        return error_set(err, EXIT_FAILED, "%s: somebody listens there already", path);
    }
    if (unlink(path) != 0 && errno != ENOENT) {
        return error_set(err, EXIT_FAILED, "%s: %s", path, strerror(errno));
    }
    return true;
}

int endpoint_listen_unix(const char *path, int type, struct error *err)
{
    struct sockaddr_un address;
    int fd;

    if (!endpoint_unix_address(path, &address, err) || !endpoint_clear(path, type, err)) {
        return -1;
    }
    fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    /* The mode of the socket is that of the file to come. */
    if (fd < 0 || fchmod(fd, S_IRUSR | S_IWUSR) != 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(fd, 8) != 0) {
        return endpoint_failed(fd, path, err);
    }
    return fd;
}

/* TARGET as host (may be empty, for listening) and port: what is behind the last colon. */
static bool endpoint_split(const char *target, bool listens, char host[ENDPOINT_NAME], char port[ENDPOINT_NAME],
                           struct error *err)
{
    bool prefix = strncmp(target, TCP_PREFIX, strlen(TCP_PREFIX)) == 0;
    const char *address = prefix ? target + strlen(TCP_PREFIX) : target;
    const char *colon = strrchr(address, ':');
    size_t length = colon != NULL ? (size_t)(colon - address) : 0;
    const char *number = colon != NULL ? colon + 1 : address;

    if (*number == '\0' || strlen(address) >= ENDPOINT_NAME || strspn(number, "0123456789") != strlen(number) ||
        strlen(number) > 5 || (!listens && length == 0)) {
        return error_set(err, EXIT_USAGE,
                         listens ? "'%s' is neither unix:PATH nor tcp:[HOST:]PORT"
                                 : "'%s' is neither unix:PATH nor [tcp:]HOST:PORT",
                         target);
    }
    if (length > 2 && address[0] == '[' && address[length - 1] == ']') {
        address++; /* an IPv6 address has colons itself */
        length -= 2;
    }
    memcpy(host, address, length);
    host[length] = '\0';
    strcpy(port, number);
    return true;
}

static struct addrinfo *endpoint_resolve(const char *target, bool listens, struct error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = listens ? AI_PASSIVE : 0};
    char host[ENDPOINT_NAME], port[ENDPOINT_NAME];
    struct addrinfo *found = NULL;
    int result;

    if (!endpoint_split(target, listens, host, port, err)) {
        return NULL;
    }
    result = getaddrinfo(host[0] != '\0' ? host : NULL, port, &hints, &found);
    if (result != 0) {
        error_set(err, EXIT_FAILED, "%s: %s", target, result == EAI_SYSTEM ? strerror(errno) : gai_strerror(result));
        return NULL;
    }
    return found;
}

/* What a connection has to have: no waiting for more to send. */
static void endpoint_set_up(int fd)
{
    const int on = 1;

    (void)!setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int endpoint_connect(const char *target, struct error *err)
{
    struct addrinfo *found;
    int fd = -1;

    if (strncmp(target, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0) {
        return endpoint_connect_unix(target + strlen(UNIX_PREFIX), SOCK_STREAM, err);
    }
    found = endpoint_resolve(target, false, err);
    for (const struct addrinfo *each = found; each != NULL && fd < 0; each = each->ai_next) {
        fd = socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, each->ai_protocol);
        if (fd < 0 || connect(fd, each->ai_addr, each->ai_addrlen) != 0) {
            fd = endpoint_failed(fd, target, err);
        }
    }
    if (found != NULL) {
        freeaddrinfo(found);
    }
    if (fd >= 0) {
        endpoint_set_up(fd);
    }
    return fd;
}

static void endpoint_name(int fd, char name[ENDPOINT_NAME])
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(fd, (struct sockaddr *)&address, &length) == 0 &&
        getnameinfo((struct sockaddr *)&address, length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        snprintf(name, ENDPOINT_NAME, address.ss_family == AF_INET6 ? "tcp:[%.400s]:%.16s" : "tcp:%.400s:%.16s", host,
                 port);
    }
}

int endpoint_listen(const char *target, char name[ENDPOINT_NAME], struct error *err)
{
    const int on = 1;
    struct addrinfo *found;
    int fd = -1;

    snprintf(name, ENDPOINT_NAME, "%s", target);
    if (strncmp(target, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0) {
        return endpoint_listen_unix(target + strlen(UNIX_PREFIX), SOCK_STREAM, err);
    }
    found = endpoint_resolve(target, true, err);
    for (const struct addrinfo *each = found; each != NULL && fd < 0; each = each->ai_next) {
        fd = socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, each->ai_protocol);
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
            bind(fd, each->ai_addr, each->ai_addrlen) != 0 || listen(fd, 1) != 0) {
            fd = endpoint_failed(fd, target, err);
        }
    }
    if (found != NULL) {
        freeaddrinfo(found);
    }
    if (fd >= 0) {
        endpoint_set_up(fd);
        endpoint_name(fd, name);
    }
    return fd;
}

void endpoint_close(int fd, const char *target)
{
    if (fd >= 0) {
        if (strncmp(target, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0) {
            unlink(target + strlen(UNIX_PREFIX));
        }
        close(fd);
    }
}
