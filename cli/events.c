/* events.c: machine_run: timers, the terminal and signals, while the processors run on their own threads. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* ppoll */
#endif
#include "machine.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S UINT64_C(1000000000)

enum { FD_WAKE, FD_SIGNAL, FD_IN, FD_OUT, FD_COUNT };

static void events_read_signal(struct machine *machine, int fd)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        machine_end(machine, MACHINE_SIGNAL, EXIT_SIGNAL_BASE + (int)info.ssi_signo,
                    "ended by signal %u (%s)", info.ssi_signo, strsignal((int)info.ssi_signo));
    }
}

/* Takes what was typed, as much as there is room for, and gives the serial line what it takes. */
static void events_input(struct machine *machine)
{
    struct terminal *terminal = &machine->terminal;
    uint8_t byte;

    while (machine->input_count < MACHINE_INPUT && terminal_get(terminal, &byte)) {
        switch (terminal_filter(terminal, byte)) {
        case TERMINAL_END:
            machine_end(machine, MACHINE_USER, EXIT_OK, "ended by the user");
            return;
        case TERMINAL_BYTE:
            machine->input[(machine->input_first + machine->input_count++) % MACHINE_INPUT] = byte;
            break;
        case TERMINAL_NOTHING:
            break;
        }
    }
    machine_feed_console(machine);
}

static void events_output(struct machine *machine)
{
    terminal_flush(&machine->terminal);
    if (machine->paused) {
        return; /* that there is room is told afterwards */
    }
    machine->output_stalled = machine->terminal.count > 0;
    uart_drained(&machine->uart);
}

/* Sleeps until something happens or DEADLINE has come. */
static bool events_wait(struct pollfd *fds, uint64_t deadline, struct error *err)
{
    struct timespec left;
    uint64_t now = timers_monotonic();
    uint64_t ns = deadline > now ? deadline - now : 0;

    left.tv_sec = (time_t)(ns / NS_PER_S);
    left.tv_nsec = (long)(ns % NS_PER_S);
    if (ppoll(fds, FD_COUNT, deadline == TIMERS_NEVER ? NULL : &left, NULL) < 0 && errno != EINTR) {
        return error_set(err, EXIT_FAILED, "waiting for the terminal failed: %s", strerror(errno));
    }
    return true;
}

static bool events_loop(struct machine *machine, int signal_fd, uint64_t end, struct error *err)
{
    struct pollfd fds[FD_COUNT] = {
        [FD_WAKE] = {.fd = machine->wake_fd, .events = POLLIN},
        [FD_SIGNAL] = {.fd = signal_fd, .events = POLLIN},
        [FD_IN] = {.events = POLLIN},
        [FD_OUT] = {.events = POLLOUT},
    };

    while (!atomic_load(&machine->ended)) {
        uint64_t count, deadline;

        pthread_mutex_lock(&machine->lock);
        timers_run(&machine->timers);
        if (machine->output_stalled) {
            events_output(machine);
        }
        events_input(machine);
        deadline = timers_next_on_clock(&machine->timers);
        fds[FD_IN].fd = machine->input_count < MACHINE_INPUT ? machine->terminal.in : -1;
        fds[FD_OUT].fd = machine->output_stalled && machine->terminal.count > 0 ? machine->terminal.out : -1;
        pthread_mutex_unlock(&machine->lock);

        if (!events_wait(fds, deadline < end ? deadline : end, err)) {
            return false;
        }
        if (fds[FD_WAKE].revents != 0) {
            (void)!read(machine->wake_fd, &count, sizeof(count));
        }
        if (fds[FD_SIGNAL].revents != 0) {
            events_read_signal(machine, signal_fd);
        }
        if (timers_monotonic() >= end) {
            machine_end(machine, MACHINE_TIMEOUT, EXIT_TIMED_OUT, "the time of %g s is over",
                        machine->config.timeout);
        }
    }
    return true;
}

static bool events_start(struct machine *machine, struct error *err)
{
    for (unsigned i = 0; i < machine->config.cpus; i++) {
        bool started;

        pthread_mutex_lock(&machine->end_lock);
        machine->threads++;
        pthread_mutex_unlock(&machine->end_lock);
        /* Devices look at `started`, and another processor may be running already. */
        pthread_mutex_lock(&machine->lock);
        started = vcpu_start(&machine->vcpus[i], err);
        pthread_mutex_unlock(&machine->lock);
        if (!started) {
            return false;
        }
    }
    return true;
}

bool machine_run(struct machine *machine, const sigset_t *signals, struct error *err)
{
    uint64_t end = TIMERS_NEVER;
    bool done;
    int signal_fd = signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK);

    if (signal_fd < 0) {
        return error_set(err, EXIT_FAILED, "the host gives no signal descriptor: %s", strerror(errno));
    }
    /* Another thread may be pausing the machine already, or still. */
    pthread_mutex_lock(&machine->lock);
    done = terminal_open(&machine->terminal, machine->config.in, machine->config.out, err);
    pthread_mutex_unlock(&machine->lock);
    if (!done) {
        close(signal_fd);
        return false;
    }
    if (machine->config.timeout > 0) {
        end = timers_monotonic() + (uint64_t)(machine->config.timeout * (double)NS_PER_S);
    }
    /* Device timers are late by this thread's timer slack otherwise, 50 microseconds. */
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    done = events_start(machine, err) && events_loop(machine, signal_fd, end, err);
    if (!done) {
        machine_end(machine, MACHINE_HOST_ERROR, err->code, "%s", err->text);
    }
    for (unsigned i = 0; i < machine->config.cpus; i++) {
        vcpu_stop(&machine->vcpus[i]);
    }
    pthread_mutex_lock(&machine->lock);
    terminal_close(&machine->terminal);
    pthread_mutex_unlock(&machine->lock);
    close(signal_fd);
    return done;
}
