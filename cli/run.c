/* run.c: running a machine, whatever it comes from, from the options to the summary. */
#include "run.h"

#include "summary.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NO_FD (-1)

bool run_open_json(const struct options *options, int *fd, struct error *err)
{
    const char *target = options->json;
    char *end;

    *fd = NO_FD;
    if (target == NULL) {
        return true;
    }
    if (strcmp(target, "-") == 0) {
        *fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
    } else if (strncmp(target, "fd:", 3) == 0) {
        unsigned long number = strtoul(target + 3, &end, 10);

        if (target[3] < '0' || target[3] > '9' || *end != '\0' || number > 0x7fffffff) {
            error_set(err, EXIT_USAGE, "--json: '%s' is not fd: and a number", target);
            options_add_hint(options, err);
            return false;
        }
        *fd = fcntl((int)number, F_DUPFD_CLOEXEC, 0);
    } else {
        *fd = open(target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    }
    return *fd != NO_FD || error_set(err, EXIT_FAILED, "--json %s: %s", target, strerror(errno));
}

bool run_finish(struct options *options, int json, bool good, struct error *err)
{
    if (json != NO_FD && close(json) != 0 && good) {
        good = error_set(err, EXIT_FAILED, "--json %s: %s", options->json, strerror(errno));
    }
    options_free(options);
    return good;
}

/* Blocks the signals that end a run, for all threads to come; one that the caller ignores stays ignored. */
static void run_block_signals(sigset_t *signals)
{
    static const int numbers[] = {SIGHUP,  SIGINT,  SIGQUIT,   SIGTERM, SIGALRM,
                                  SIGUSR1, SIGUSR2, SIGVTALRM, SIGPROF, SIGXCPU};

    sigemptyset(signals);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct sigaction action;

        if (sigaction(numbers[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN) {
            sigaddset(signals, numbers[i]);
        }
    }
    pthread_sigmask(SIG_BLOCK, signals, NULL);
    /* A reader who goes away, or a file that reaches its limit, is an error of write, not the end. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

/* The end, the summary and the JSON. What went wrong is told even when --quiet. */
static bool run_report(const struct options *options, const struct machine *machine, double seconds, int json,
                       struct error *err)
{
    struct summary *summary = malloc(sizeof(*summary));
    const struct machine_end *end = &machine->end;
    bool good = true;

    if (summary == NULL) {
        return error_set(err, EXIT_FAILED, "the host gives no memory for the summary");
    }
    summary_collect(summary, machine, seconds);
    if (machine->terminal.last != '\n' && isatty(STDERR_FILENO)) {
        fputc('\n', stderr); /* the guest left a line open */
    }
    if (!options->quiet || end->kind == MACHINE_GUEST_FAULT || end->kind == MACHINE_HOST_ERROR) {
        fprintf(stderr, "bulkhead: %s\n%s", end->text, end->detail);
    }
    if (!options->quiet) {
        summary_print(summary, stderr);
    }
    if (json != NO_FD) {
        good = summary_write_json(summary, json, options->json, err);
    }
    free(summary);
    return good;
}

void run_complete_config(const struct run *run, struct machine_config *config)
{
    config->timeout = run->options.machine.timeout;
    config->track = run->options.machine.track;
    config->in = run->options.machine.in;
    config->out = run->options.machine.out;
    properties_override(&config->properties, &run->options.machine.properties);
}

/* The machine is set up. */
static bool run_machine(struct run *run, const struct run_verb *verb, int json, int *code, struct error *err)
{
    struct machine *machine = run->machine;
    uint64_t begin = timers_monotonic();
    bool good;

    if (!verb->begin(run, err)) {
        return false;
    }
    good = machine_run(machine, &run->signals, err);
    good = verb->end(run, err) && good;
    control_close(&run->control);
    good = good && run_report(&run->options, machine, (double)(timers_monotonic() - begin) / 1e9, json, err);
    *code = machine->end.code;
    if (good && machine->terminal.lost != 0) {
        good =
            error_set(err, EXIT_FAILED, "output of the guest's console was lost: %s", strerror(machine->terminal.lost));
    }
    return good;
}

static bool run_verb(struct run *run, const struct run_verb *verb, int json, int *code, struct error *err)
{
    bool good;

    run->machine = malloc(sizeof(*run->machine));
    if (run->machine == NULL) {
        return error_set(err, EXIT_FAILED, "the host gives no memory for the machine");
    }
    run_block_signals(&run->signals);
    good = control_open(&run->control, run->options.control, err) && verb->build(run, err) &&
           run_machine(run, verb, json, code, err);
    control_close(&run->control);
    if (run->created) {
        machine_destroy(run->machine);
    }
    free(run->machine);
    return good;
}

bool run_command(int argc, char **argv, const struct run_verb *verb, void *own, int *code, struct error *err)
{
    struct run run = {.own = own, .control = {.listener = -1, .stop = -1}};
    int json = NO_FD;
    bool good = options_parse(argc, argv, &run.options, err);

    if (good && run.options.help) {
        options_print_help(run.options.verb);
    } else if (good) {
        good = run_open_json(&run.options, &json, err) && run_verb(&run, verb, json, code, err);
    }
    return run_finish(&run.options, json, good, err);
}
