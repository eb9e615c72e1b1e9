/* cmd_run.c: `bulkhead run`: from the options to the summary. */
#include "commands.h"
#include "options.h"
#include "summary.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NO_FD (-1)

/* Opens what --json names, before the run: an hour later is a bad time to learn of a typing error. */
static bool run_open_json(const char *target, int *fd, struct error *err)
{
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
            return error_set(err, EXIT_USAGE,
                             "--json: '%s' is not fd: and a number; try 'bulkhead run --help'", target);
        }
        *fd = fcntl((int)number, F_DUPFD_CLOEXEC, 0);
    } else {
        *fd = open(target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    }
    return *fd != NO_FD || error_set(err, EXIT_FAILED, "--json %s: %s", target, strerror(errno));
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

static bool run_load(const struct options *options, struct machine *machine, struct start *start,
                     struct error *err)
{
    const struct linux_options linux_options = {
        .kernel = options->file,
        .initrd = options->module_count > 0 ? options->modules[0] : NULL,
        .append = options->append != NULL ? options->append : "console=ttyS0",
        .cpus = options->machine.cpus,
    };
    const struct multiboot_options multiboot_options = {
        .kernel = options->file,
        .append = options->append,
        .modules = options->modules,
        .module_count = options->module_count,
        .cpus = options->machine.cpus,
    };

    switch (options->boot) {
    case OPTIONS_KERNEL:
        return linux_load(&machine->memory, &linux_options, start, err);
    case OPTIONS_FIRMWARE:
        return firmware_load(&machine->memory, options->file, err);
    case OPTIONS_FLAT:
        return flat_load(&machine->memory, options->file, options->flat_address, start, err);
    case OPTIONS_MULTIBOOT:
        return multiboot_load(&machine->memory, &multiboot_options, start, err);
    case OPTIONS_NO_BOOT:
        break;
    }
    return error_set(err, EXIT_USAGE, "nothing to run");
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

static bool run_machine(const struct options *options, int json, int *code, struct error *err)
{
    struct machine *machine = malloc(sizeof(*machine));
    struct start start = {0};
    sigset_t signals;
    bool good;

    if (machine == NULL) {
        return error_set(err, EXIT_FAILED, "the host gives no memory for the machine");
    }
    run_block_signals(&signals);
    good = machine_create(machine, &options->machine, err) && run_load(options, machine, &start, err) &&
           machine_set_up(machine, &start, err);
    if (good) {
        uint64_t begin = timers_monotonic();

        good = machine_run(machine, &signals, err) &&
               run_report(options, machine, (double)(timers_monotonic() - begin) / 1e9, json, err);
        *code = machine->end.code;
        if (good && machine->terminal.lost != 0) {
            good = error_set(err, EXIT_FAILED, "output of the guest's console was lost: %s",
                             strerror(machine->terminal.lost));
        }
    }
    machine_destroy(machine);
    free(machine);
    return good;
}

bool cmd_run(int argc, char **argv, int *code, struct error *err)
{
    struct options options;
    int json = NO_FD;
    bool good = options_parse(argc, argv, &options, err);

    if (good && options.help) {
        options_print_help();
    } else if (good) {
        good = run_open_json(options.json, &json, err) && run_machine(&options, json, code, err);
    }
    if (json != NO_FD && close(json) != 0 && good) {
        good = error_set(err, EXIT_FAILED, "--json %s: %s", options.json, strerror(errno));
    }
    options_free(&options);
    return good;
}
