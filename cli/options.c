/* options.c: the command line of `bulkhead run`. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_MEMORY (512 * MEMORY_MIB)
#define HINT "try 'bulkhead run --help'"

enum {
    OPT_KERNEL = 1,
    OPT_INITRD,
    OPT_APPEND,
    OPT_CPUS,
    OPT_MEMORY,
    OPT_FIRMWARE,
    OPT_FLAT,
    OPT_MULTIBOOT,
    OPT_MODULE,
    OPT_ENGINE,
    OPT_JSON,
    OPT_TIMEOUT,
    OPT_DEBUG_EXIT,
    OPT_DEBUG_CONSOLE,
    OPT_QUIET,
    OPT_HELP
};

static const struct option long_options[] = {
    {"kernel", required_argument, NULL, OPT_KERNEL},
    {"initrd", required_argument, NULL, OPT_INITRD},
    {"append", required_argument, NULL, OPT_APPEND},
    {"cpus", required_argument, NULL, OPT_CPUS},
    {"memory", required_argument, NULL, OPT_MEMORY},
    {"firmware", required_argument, NULL, OPT_FIRMWARE},
    {"flat", required_argument, NULL, OPT_FLAT},
    {"multiboot", required_argument, NULL, OPT_MULTIBOOT},
    {"module", required_argument, NULL, OPT_MODULE},
    {"engine", required_argument, NULL, OPT_ENGINE},
    {"json", required_argument, NULL, OPT_JSON},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"debug-exit", required_argument, NULL, OPT_DEBUG_EXIT},
    {"debug-console", required_argument, NULL, OPT_DEBUG_CONSOLE},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

void options_print_help(void)
{
    printf(
        "Usage: bulkhead run --kernel BZIMAGE [--initrd FILE] [--append TEXT] [OPTION...]\n"
        "       bulkhead run --firmware FILE [OPTION...]\n"
        "       bulkhead run --flat FILE@ADDRESS [OPTION...]\n"
        "       bulkhead run --multiboot FILE [--append TEXT] [--module FILE...] [OPTION...]\n"
        "\n"
        "What to run:\n"
        "  --kernel BZIMAGE       a 64-bit Linux kernel\n"
        "  --initrd FILE          its initial file system; with --multiboot, the first module\n"
        "  --append TEXT          the kernel's command line (for Linux, default: console=ttyS0)\n"
        "  --firmware FILE        a BIOS image, which ends at 4 GiB\n"
        "  --flat FILE@ADDRESS    a flat 16-bit binary, entered in real mode at its first byte\n"
        "  --multiboot FILE       a 32-bit ELF file with a Multiboot header\n"
        "  --module FILE          a module for --multiboot; may be given several times\n"
        "\n"
        "The machine:\n"
        "  --cpus N               virtual processors, 1 to %d (default 1)\n"
        "  --memory SIZE          with suffix K, M, G or T; a bare number counts MiB (default 512M)\n"
        "  --engine NAME          auto, kvm or soft (default: the environment's BULKHEAD_ENGINE, or auto)\n"
        "  --debug-exit PORT      a write of v to this port ends the run with exit code v * 2 + 1, of 8 bits\n"
        "  --debug-console PORT   bytes written to this port are printed; it reads 0xe9\n"
        "\n"
        "The run:\n"
        "  --timeout SECONDS      ends the run after this time, with exit code %d\n"
        "  --json TO              writes the summary as JSON to a file, to fd:N, or to - (standard output)\n"
        "  --quiet                no summary on standard error\n"
        "  --help                 this text\n"
        "\n"
        "The guest's serial line is the terminal. Ctrl-A x ends the run, Ctrl-A Ctrl-A sends Ctrl-A.\n",
        MACHINE_MAX_CPUS, EXIT_TIMED_OUT);
}

static bool options_number(const char *name, const char *text, uint64_t max, int base, uint64_t *value,
                           struct error *err)
{
    unsigned long long number;
    char *end;

    errno = 0;
    number = strtoull(text, &end, base);
    if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || number > max) {
        return error_set(err, EXIT_USAGE, "--%s: '%s' is not a number from 0 to %llu; " HINT, name, text,
                         (unsigned long long)max);
    }
    *value = number;
    return true;
}

static bool options_port(const char *name, const char *text, int *port, struct error *err)
{
    uint64_t value = 0;

    if (!options_number(name, text, 0xffff, 0, &value, err)) {
        return false;
    }
    *port = (int)value;
    return true;
}

static bool options_set_boot(struct options *options, enum options_boot boot, const char *file,
                             struct error *err)
{
    if (options->boot != OPTIONS_NO_BOOT) {
        return error_set(
            err, EXIT_USAGE,
            "only one of --kernel, --firmware, --flat and --multiboot can be given, and once; " HINT);
    }
    options->boot = boot;
    options->file = strdup(file);
    return options->file != NULL || error_set(err, EXIT_FAILED, "no memory for the command line");
}

static bool options_set_flat(struct options *options, const char *text, struct error *err)
{
    const char *at = strrchr(text, '@');

    if (at == NULL || at == text) {
        return error_set(err, EXIT_USAGE, "--flat: '%s' is not FILE@ADDRESS; " HINT, text);
    }
    if (!options_number("flat", at + 1, UINT64_MAX, 0, &options->flat_address, err) ||
        !options_set_boot(options, OPTIONS_FLAT, text, err)) {
        return false;
    }
    options->file[at - text] = '\0';
    return true;
}

static bool options_add_module(struct options *options, const char *file, bool first, struct error *err)
{
    if (options->module_count == LOADER_MAX_MODULES) {
        return error_set(err, EXIT_USAGE, "--module: '%s' is one more than the %d that there can be", file,
                         LOADER_MAX_MODULES);
    }
    if (first) {
        memmove(options->modules + 1, options->modules, options->module_count * sizeof(options->modules[0]));
        options->modules[0] = file;
    } else {
        options->modules[options->module_count] = file;
    }
    options->module_count++;
    return true;
}

static bool options_set_timeout(struct options *options, const char *text, struct error *err)
{
    char *end;
    double seconds = strtod(text, &end);

    /* The upper bound, three years, keeps the nanoseconds well inside 64 bits. */
    if (end == text || *end != '\0' || !(seconds > 0 && seconds < 1e8)) {
        return error_set(err, EXIT_USAGE, "--timeout: '%s' is not a number of seconds; " HINT, text);
    }
    options->machine.timeout = seconds;
    return true;
}

static bool options_set_engine(struct options *options, const char *name, struct error *err)
{
    if (strcmp(name, "auto") != 0 && strcmp(name, "kvm") != 0 && strcmp(name, "soft") != 0) {
        return error_set(err, EXIT_USAGE, "--engine: '%s' is none of auto, kvm and soft; " HINT, name);
    }
    options->machine.engine = name;
    return true;
}

static bool options_set_machine(struct options *options, int option, const char *value, struct error *err)
{
    uint64_t number = 0;

    switch (option) {
    case OPT_CPUS:
        if (!options_number("cpus", value, MACHINE_MAX_CPUS, 10, &number, err)) {
            return false;
        }
        if (number == 0) {
            return error_set(err, EXIT_USAGE, "--cpus: a machine needs at least one processor; " HINT);
        }
        options->machine.cpus = (unsigned)number;
        return true;
    case OPT_MEMORY:
        return memory_parse_size(value, &options->machine.memory) ||
               error_set(err, EXIT_USAGE, "--memory: '%s' is not a size such as 512M or 2G; " HINT, value);
    case OPT_ENGINE:
        return options_set_engine(options, value, err);
    case OPT_DEBUG_EXIT:
        return options_port("debug-exit", value, &options->machine.debug_exit, err);
    case OPT_DEBUG_CONSOLE:
        return options_port("debug-console", value, &options->machine.debug_console, err);
    default:
        return options_set_timeout(options, value, err);
    }
}

static bool options_set(struct options *options, int option, const char *value, struct error *err)
{
    switch (option) {
    case OPT_KERNEL:
        return options_set_boot(options, OPTIONS_KERNEL, value, err);
    case OPT_FIRMWARE:
        return options_set_boot(options, OPTIONS_FIRMWARE, value, err);
    case OPT_FLAT:
        return options_set_flat(options, value, err);
    case OPT_MULTIBOOT:
        return options_set_boot(options, OPTIONS_MULTIBOOT, value, err);
    case OPT_INITRD:
        return options_add_module(options, value, true, err);
    case OPT_MODULE:
        return options_add_module(options, value, false, err);
    case OPT_APPEND:
        options->append = value;
        return true;
    case OPT_JSON:
        options->json = value;
        return true;
    case OPT_QUIET:
        options->quiet = true;
        return true;
    case OPT_HELP:
        options->help = true;
        return true;
    default:
        return options_set_machine(options, option, value, err);
    }
}

static bool options_check(const struct options *options, struct error *err)
{
    if (options->boot == OPTIONS_NO_BOOT) {
        return error_set(err, EXIT_USAGE,
                         "nothing to run: give --kernel, --firmware, --flat or --multiboot; " HINT);
    }
    if (options->boot != OPTIONS_KERNEL && options->boot != OPTIONS_MULTIBOOT &&
        (options->append != NULL || options->module_count > 0)) {
        return error_set(err, EXIT_USAGE,
                         "--append, --initrd and --module go with --kernel or --multiboot; " HINT);
    }
    if (options->boot == OPTIONS_KERNEL && options->module_count > 1) {
        return error_set(err, EXIT_USAGE, "a Linux kernel takes one --initrd and no --module; " HINT);
    }
    return true;
}

bool options_parse(int argc, char **argv, struct options *options, struct error *err)
{
    int option;

    *options = (struct options){0};
    options->machine = (struct machine_config){.cpus = 1,
                                               .memory = DEFAULT_MEMORY,
                                               .debug_exit = MACHINE_NO_PORT,
                                               .debug_console = MACHINE_NO_PORT,
                                               .in = STDIN_FILENO,
                                               .out = STDOUT_FILENO};
    optind = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
        if (option == ':') {
            return error_set(err, EXIT_USAGE, "%s needs a value; " HINT, argv[optind - 1]);
        }
        if (option == '?') {
            return error_set(err, EXIT_USAGE, "unknown option '%s'; " HINT, argv[optind - 1]);
        }
        if (!options_set(options, option, optarg, err)) {
            return false;
        }
    }
    if (options->help) {
        return true;
    }
    if (optind < argc) {
        return error_set(err, EXIT_USAGE, "'%s' is not an option; " HINT, argv[optind]);
    }
    return options_check(options, err);
}

void options_free(struct options *options)
{
    free(options->file);
    options->file = NULL;
}
