/* terminal.c: raw mode, its restoration, and buffered output. */
#include "terminal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define CTRL_A 0x01

/* How much is written at once: a terminal or pipe that poll calls writable takes this much without
 * blocking. */
#define CHUNK 256

/* How long a reader may take to accept the rest of the output at the end. */
#define LAST_FLUSH_MS 2000

static const int crash_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
#define CRASH_SIGNALS (sizeof(crash_signals) / sizeof(crash_signals[0]))

/* For the handler of a crash, which has no other way to know. */
static struct {
    volatile sig_atomic_t raw;
    int fd;
    struct termios saved;
    struct sigaction before[CRASH_SIGNALS];
} restore;

static void terminal_restore(void)
{
    if (restore.raw) {
        restore.raw = 0;
        tcsetattr(restore.fd, TCSANOW, &restore.saved);
    }
}

/* Puts the terminal back and lets the signal do what it would have done without us. */
static void terminal_crash(int number)
{
    terminal_restore();
    for (size_t i = 0; i < CRASH_SIGNALS; i++) {
        if (crash_signals[i] == number) {
            sigaction(number, &restore.before[i], NULL);
        }
    }
    /* A fault comes again when the instruction is run again; an abort has to be raised. */
    if (number == SIGABRT) {
        raise(number);
    }
}

static bool terminal_set_raw(int fd, struct error *err)
{
    struct termios raw;

    if (tcgetattr(fd, &restore.saved) != 0) {
        return error_set(err, EXIT_FAILED, "cannot read the terminal's mode: %s", strerror(errno));
    }
    restore.fd = fd;
    for (size_t i = 0; i < CRASH_SIGNALS; i++) {
        struct sigaction action = {.sa_handler = terminal_crash};

        sigaction(crash_signals[i], &action, &restore.before[i]);
    }
    raw = restore.saved;
    cfmakeraw(&raw);
    /* What the guest prints is meant for a serial terminal, but our own messages are not. */
    raw.c_oflag = restore.saved.c_oflag;
    restore.raw = 1;
    if (tcsetattr(fd, TCSANOW, &raw) != 0) {
        restore.raw = 0;
        return error_set(err, EXIT_FAILED, "cannot set the terminal to raw mode: %s", strerror(errno));
    }
    return true;
}

bool terminal_open(struct terminal *terminal, int in, int out, struct error *err)
{
    memset(terminal, 0, sizeof(*terminal));
    terminal->in = in;
    terminal->out = out;
    terminal->last = '\n';
    if (!isatty(in)) {
        return true;
    }
    if (tcgetpgrp(in) != getpgrp()) {
        /* In the background the terminal belongs to somebody else. */
        terminal->in = -1;
        return true;
    }
    return terminal_set_raw(in, err);
}

static bool terminal_writable(const struct terminal *terminal, int timeout_ms)
{
    struct pollfd fd = {.fd = terminal->out, .events = POLLOUT};

    return poll(&fd, 1, timeout_ms) > 0 && fd.revents != 0;
}

/* One write. False if nothing more can be written. */
static bool terminal_write(struct terminal *terminal)
{
    unsigned length = terminal->count < CHUNK ? terminal->count : CHUNK;

    if (length > TERMINAL_BUFFER - terminal->first) {
        length = TERMINAL_BUFFER - terminal->first;
    }
    ssize_t written = write(terminal->out, terminal->buffer + terminal->first, length);

    if (written < 0) {
        if (errno == EINTR || errno == EAGAIN) {
            return false;
        }
        /* The guest goes on without a reader. That nobody is there to read is not an error; a full disk is. */
        if (terminal->lost == 0 && errno != EPIPE && errno != EIO) {
            terminal->lost = errno;
        }
        written = terminal->count < TERMINAL_BUFFER ? (ssize_t)terminal->count : TERMINAL_BUFFER;
    }
    terminal->first = (terminal->first + (unsigned)written) % TERMINAL_BUFFER;
    terminal->count -= (unsigned)written;
    return true;
}

void terminal_flush(struct terminal *terminal)
{
    while (terminal->count > 0 && terminal_writable(terminal, 0)) {
        if (!terminal_write(terminal)) {
            return;
        }
    }
}

void terminal_close(struct terminal *terminal)
{
    while (terminal->count > 0 && terminal_writable(terminal, LAST_FLUSH_MS)) {
        if (!terminal_write(terminal) && errno != EINTR) {
            break;
        }
    }
    if (restore.raw) {
        terminal_restore();
        for (size_t i = 0; i < CRASH_SIGNALS; i++) {
            sigaction(crash_signals[i], &restore.before[i], NULL);
        }
    }
}

void terminal_put(struct terminal *terminal, uint8_t byte)
{
    if (terminal->count < TERMINAL_BUFFER) {
        terminal->buffer[(terminal->first + terminal->count++) % TERMINAL_BUFFER] = byte;
        terminal->last = byte;
    }
}

unsigned terminal_room(const struct terminal *terminal)
{
    return TERMINAL_BUFFER - terminal->count;
}

bool terminal_get(struct terminal *terminal, uint8_t *byte)
{
    struct pollfd fd = {.fd = terminal->in, .events = POLLIN};

    if (terminal->in < 0 || poll(&fd, 1, 0) <= 0) {
        return false;
    }
    ssize_t got = read(terminal->in, byte, 1);

    if (got == 1) {
        return true;
    }
    if (got == 0 || (errno != EINTR && errno != EAGAIN)) {
        terminal->in = -1;
    }
    return false;
}

enum terminal_key terminal_filter(struct terminal *terminal, uint8_t byte)
{
    if (!terminal->escape) {
        terminal->escape = byte == CTRL_A;
        return terminal->escape ? TERMINAL_NOTHING : TERMINAL_BYTE;
    }
    terminal->escape = false;
    if (byte == 'x' || byte == 'X') {
        return TERMINAL_END;
    }
    return byte == CTRL_A ? TERMINAL_BYTE : TERMINAL_NOTHING;
}
