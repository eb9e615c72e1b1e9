/* options.c: the command lines of the verbs that run, save and move a machine. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_MEMORY (512 * MEMORY_MIB)
#define DEFAULT_DOWNTIME UINT64_C(300)
#define DEFAULT_ROUNDS UINT64_C(30)

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
    OPT_CONTROL,
    OPT_SHOW_DOWNTIME,
    OPT_KEEP,
    OPT_FORCE,
    OPT_BANDWIDTH,
    OPT_DOWNTIME,
    OPT_ROUNDS,
    OPT_RESUME,
    OPT_HELP,
    OPT_PROPERTY /* the first row of the table of properties, and more */
};

/* The verbs, as bits. */
enum {
    RUN = 1 << OPTIONS_RUN,
    RESTORE = 1 << OPTIONS_RESTORE,
    RECEIVE = 1 << OPTIONS_RECEIVE,
    SAVE = 1 << OPTIONS_SAVE,
    MIGRATE = 1 << OPTIONS_MIGRATE,
    RUNNING = RUN | RESTORE | RECEIVE, /* a machine is on the terminal */
    ALL = RUNNING | SAVE | MIGRATE
};

static const struct {
    const char *name;
    int has_value, option;
    unsigned verbs;
} option_rows[] = {
    {"kernel", required_argument, OPT_KERNEL, RUN},
    {"initrd", required_argument, OPT_INITRD, RUN},
    {"append", required_argument, OPT_APPEND, RUN},
    {"cpus", required_argument, OPT_CPUS, RUN},
    {"memory", required_argument, OPT_MEMORY, RUN},
    {"firmware", required_argument, OPT_FIRMWARE, RUN},
    {"flat", required_argument, OPT_FLAT, RUN},
    {"multiboot", required_argument, OPT_MULTIBOOT, RUN},
    {"module", required_argument, OPT_MODULE, RUN},
    {"engine", required_argument, OPT_ENGINE, RUN},
    {"debug-exit", required_argument, OPT_DEBUG_EXIT, RUN},
    {"debug-console", required_argument, OPT_DEBUG_CONSOLE, RUN},
    {"timeout", required_argument, OPT_TIMEOUT, RUNNING},
    {"control", required_argument, OPT_CONTROL, RUNNING},
    {"show-downtime", no_argument, OPT_SHOW_DOWNTIME, RESTORE | RECEIVE | MIGRATE},
    {"keep", no_argument, OPT_KEEP, SAVE},
    {"force", no_argument, OPT_FORCE, SAVE},
    {"bandwidth", required_argument, OPT_BANDWIDTH, MIGRATE},
    {"downtime", required_argument, OPT_DOWNTIME, MIGRATE},
    {"rounds", required_argument, OPT_ROUNDS, MIGRATE},
    {"resume", no_argument, OPT_RESUME, MIGRATE},
    {"json", required_argument, OPT_JSON, ALL},
    {"quiet", no_argument, OPT_QUIET, ALL},
    {"help", no_argument, OPT_HELP, ALL},
};
#define OPTION_ROWS (sizeof(option_rows) / sizeof(option_rows[0]))

/* What stands on the command line besides options. */
static const struct {
    const char *name;
    const char *operands[OPTIONS_MAX_OPERANDS];
} verb_rows[] = {
    [OPTIONS_RUN] = {"run", {NULL}},
    [OPTIONS_RESTORE] = {"restore", {"FILE"}},
    [OPTIONS_RECEIVE] = {"receive", {"ADDRESS"}},
    [OPTIONS_SAVE] = {"save", {"PATH", "FILE"}},
    [OPTIONS_MIGRATE] = {"migrate", {"PATH", "TARGET"}},
};

const char *options_verb_name(enum options_verb verb)
{
    return verb_rows[verb].name;
}

#define HELP_TERMINAL                                                                                                  \
    "\n"                                                                                                               \
    "The guest's serial line is the terminal. Ctrl-A x ends the run, Ctrl-A Ctrl-A sends Ctrl-A.\n"

static void options_print_run_help(void)
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
        "  --debug-console PORT   bytes written to this port are printed; it reads 0xe9\n",
        MACHINE_MAX_CPUS);
    properties_print_help(false);
    printf("\nWhat the host gives it:\n");
    properties_print_help(true);
    printf(
        "\n"
        "The run:\n"
        "  --control PATH         listens on a Unix socket there for 'bulkhead save' and 'bulkhead migrate'\n"
        "  --timeout SECONDS      ends the run after this time, with exit code %d\n"
        "  --json TO              writes the summary as JSON to a file, to fd:N, or to - (standard output)\n"
        "  --quiet                no summary on standard error\n"
        "  --help                 this text\n"
        HELP_TERMINAL,
        EXIT_TIMED_OUT);
}

#define HELP_RUNNING                                                                                                   \
    "  --control PATH         listens on a Unix socket there for 'bulkhead save' and 'bulkhead migrate'\n"            \
    "  --show-downtime        the guest's clocks show the time in which it did not run\n"                              \
    "  --timeout SECONDS      ends the run after this time, with exit code 124\n"                                      \
    "  --json TO              writes the summary as JSON to a file, to fd:N, or to - (standard output)\n"              \
    "  --quiet                no summary on standard error\n"                                                          \
    "  --help                 this text\n"

#define HELP_ASKING                                                                                                    \
    "  --json TO              writes a summary as JSON to a file, to fd:N, or to - (standard output)\n"                \
    "  --quiet                no progress on standard error\n"                                                         \
    "  --help                 this text\n"

void options_print_help(enum options_verb verb)
{
    static const char *const texts[] = {
        [OPTIONS_RESTORE] =
            "Usage: bulkhead restore FILE [OPTION...]\n"
            "\n"
            "Runs the machine that 'bulkhead save' has written to FILE (-: standard input) from where it was.\n"
            "\n" HELP_RUNNING,
        [OPTIONS_RECEIVE] =
            "Usage: bulkhead receive unix:PATH|tcp:[HOST:]PORT [OPTION...]\n"
            "\n"
            "Waits for a machine that 'bulkhead migrate' sends there, and runs it.\n"
            "\n" HELP_RUNNING,
        [OPTIONS_SAVE] =
            "Usage: bulkhead save PATH FILE [OPTION...]\n"
            "\n"
            "Writes the machine that listens on PATH (--control) to FILE (-: standard output), and ends it.\n"
            "\n"
            "  --keep                 lets it go on running\n"
            "  --force                replaces a FILE that is there\n" HELP_ASKING,
        [OPTIONS_MIGRATE] =
            "Usage: bulkhead migrate PATH TARGET [OPTION...]\n"
            "       bulkhead migrate --resume PATH\n"
            "\n"
            "Moves the running machine that listens on PATH (--control) to TARGET, unix:PATH or\n"
            "[tcp:]HOST:PORT, where 'bulkhead receive' waits. Ctrl-C cancels, and the machine stays.\n"
            "\n"
            "  --bandwidth MIB_PER_S  sends no faster while the guest runs\n"
            "  --downtime MS          stops the guest once the rest takes no longer (default 300)\n"
            "  --rounds N             rounds over its memory before it is stopped in any case (default 30)\n"
            "  --show-downtime        the guest's clocks show the time in which it did not run\n"
            "  --resume               lets a machine go on here after its target fell silent at the end\n" HELP_ASKING,
    };

    if (verb == OPTIONS_RUN) {
        options_print_run_help();
        return;
    }
    fputs(texts[verb], stdout);
    if ((RUNNING >> verb & 1) != 0) {
        printf("\nWhat the host gives it, instead of what the machine had:\n");
        properties_print_help(true);
        printf(HELP_TERMINAL);
    }
}

static bool options_number(const char *name, const char *text, uint64_t max, int base, uint64_t *value,
                           struct error *err)
{
    unsigned long long number;
    char *end;

    errno = 0;
    number = strtoull(text, &end, base);
    if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || number > max) {
        return error_set(err, EXIT_USAGE, "--%s: '%s' is not a number from 0 to %llu", name, text,
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
            "only one of --kernel, --firmware, --flat and --multiboot can be given, and once");
    }
    options->boot = boot;
    options->file = strdup(file);
    return options->file != NULL || error_set(err, EXIT_FAILED, "no memory for the command line");
}

static bool options_set_flat(struct options *options, const char *text, struct error *err)
{
    const char *at = strrchr(text, '@');

    if (at == NULL || at == text) {
        return error_set(err, EXIT_USAGE, "--flat: '%s' is not FILE@ADDRESS", text);
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
        return error_set(err, EXIT_USAGE, "--timeout: '%s' is not a number of seconds", text);
    }
    options->machine.timeout = seconds;
    return true;
}

static bool options_set_engine(struct options *options, const char *name, struct error *err)
{
    if (strcmp(name, "auto") != 0 && strcmp(name, "kvm") != 0 && strcmp(name, "soft") != 0) {
        return error_set(err, EXIT_USAGE, "--engine: '%s' is none of auto, kvm and soft", name);
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
            return error_set(err, EXIT_USAGE, "--cpus: a machine needs at least one processor");
        }
        options->machine.cpus = (unsigned)number;
        return true;
    case OPT_MEMORY:
        return memory_parse_size(value, &options->machine.memory) ||
               error_set(err, EXIT_USAGE, "--memory: '%s' is not a size such as 512M or 2G", value);
    case OPT_ENGINE:
        return options_set_engine(options, value, err);
    case OPT_DEBUG_EXIT:
        return options_port("debug-exit", value, &options->machine.debug_exit, err);
    case OPT_DEBUG_CONSOLE:
        return options_port("debug-console", value, &options->machine.debug_console, err);
    case OPT_BANDWIDTH:
        if (!options_number("bandwidth", value, UINT64_MAX / MEMORY_MIB, 10, &options->bandwidth, err)) {
            return false;
        }
        return options->bandwidth > 0 || error_set(err, EXIT_USAGE, "--bandwidth: with 0 MiB/s nothing would move");
    case OPT_DOWNTIME:
        return options_number("downtime", value, 1000000000, 10, &options->downtime, err);
    case OPT_ROUNDS:
        return options_number("rounds", value, 1000000, 10, &options->rounds, err);
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
    case OPT_CONTROL:
        options->control = value;
        options->machine.track = true;
        return true;
    case OPT_SHOW_DOWNTIME:
        options->show_downtime = true;
        return true;
    case OPT_KEEP:
        options->keep = true;
        return true;
    case OPT_FORCE:
        options->force = true;
        return true;
    case OPT_RESUME:
        options->resume = true;
        return true;
    case OPT_HELP:
        options->help = true;
        return true;
    default:
        return option >= OPT_PROPERTY
                   ? properties_parse(&options->machine.properties, (unsigned)(option - OPT_PROPERTY), value, err)
                   : options_set_machine(options, option, value, err);
    }
}

/* All operands that the verb has, and no more. */
static bool options_take_operands(struct options *options, int argc, char **argv, struct error *err)
{
    const char *const *names = verb_rows[options->verb].operands;
    unsigned count = 0;

    while (count < OPTIONS_MAX_OPERANDS && names[count] != NULL) {
        count++;
    }
    if (options->resume) {
        count--; /* no TARGET */
    }
    for (unsigned i = 0; i < count; i++) {
        if (optind == argc) {
            return error_set(err, EXIT_USAGE, "%s is missing", names[i]);
        }
        options->operands[i] = argv[optind++];
    }
    return optind == argc ||
           error_set(err, EXIT_USAGE, count == 0 ? "'%s' is not an option" : "'%s' is one word too many", argv[optind]);
}

static bool options_check(const struct options *options, struct error *err)
{
    if (options->verb != OPTIONS_RUN) {
        return true;
    }
    if (options->boot == OPTIONS_NO_BOOT) {
        return error_set(err, EXIT_USAGE,
                         "nothing to run: give --kernel, --firmware, --flat or --multiboot");
    }
    if (options->boot != OPTIONS_KERNEL && options->boot != OPTIONS_MULTIBOOT &&
        (options->append != NULL || options->module_count > 0)) {
        return error_set(err, EXIT_USAGE,
                         "--append, --initrd and --module go with --kernel or --multiboot");
    }
    if (options->boot == OPTIONS_KERNEL && options->module_count > 1) {
        return error_set(err, EXIT_USAGE, "a Linux kernel takes one --initrd and no --module");
    }
    return true;
}

/* The options that VERB has, from both tables; the one behind them is zero. */
static void options_list(enum options_verb verb, struct option list[OPTION_ROWS + PROPERTIES_MAX + 1])
{
    const struct property_row *row;
    size_t count = 0;

    for (size_t i = 0; i < OPTION_ROWS; i++) {
        if ((option_rows[i].verbs >> verb & 1) != 0) {
            list[count++] = (struct option){option_rows[i].name, option_rows[i].has_value, NULL, option_rows[i].option};
        }
    }
    for (unsigned i = 0; (row = property_row(i)) != NULL; i++) {
        unsigned verbs = row->host ? RUNNING : RUN;

        if ((verbs >> verb & 1) != 0) {
            list[count++] = (struct option){row->option, row->kind == PROPERTY_FLAG ? no_argument : required_argument,
                                            NULL, OPT_PROPERTY + (int)i};
        }
    }
}

/* What is wrong with the option ARGUMENT. It may be the beginning of several. */
static bool options_unknown(const struct option *list, const char *argument, struct error *err)
{
    char names[256] = "";
    size_t used = 0;
    unsigned count = 0;

    if (strncmp(argument, "--", 2) != 0) {
        return error_set(err, EXIT_USAGE, "unknown option '%s'", argument);
    }
    for (; list->name != NULL; list++) {
        size_t length = strlen(list->name);

        if (strncmp(argument + 2, list->name, length) == 0 && argument[2 + length] == '=') {
            return error_set(err, EXIT_USAGE, "--%s takes no value", list->name);
        }
        if (strncmp(argument + 2, list->name, strcspn(argument + 2, "=")) == 0 && used < sizeof(names)) {
            used += (size_t)snprintf(names + used, sizeof(names) - used, "%s--%s", count++ > 0 ? ", " : "", list->name);
        }
    }
    return count > 1 ? error_set(err, EXIT_USAGE, "'%s' could be any of %s", argument, names)
                     : error_set(err, EXIT_USAGE, "unknown option '%s'", argument);
}

static bool options_read(int argc, char **argv, struct options *options, struct error *err)
{
    struct option long_options[OPTION_ROWS + PROPERTIES_MAX + 1] = {0};
    int option;

    options_list(options->verb, long_options);
    optind = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
        if (option == ':') {
            return error_set(err, EXIT_USAGE, "%s needs a value", argv[optind - 1]);
        }
        if (option == '?') {
            return options_unknown(long_options, argv[optind - 1], err);
        }
        if (!options_set(options, option, optarg, err)) {
            return false;
        }
    }
    return options->help || (options_take_operands(options, argc, argv, err) && options_check(options, err));
}

bool options_parse(int argc, char **argv, struct options *options, struct error *err)
{
    *options = (struct options){.downtime = DEFAULT_DOWNTIME, .rounds = DEFAULT_ROUNDS};
    options->machine = (struct machine_config){.cpus = 1,
                                               .memory = DEFAULT_MEMORY,
                                               .debug_exit = MACHINE_NO_PORT,
                                               .debug_console = MACHINE_NO_PORT,
                                               .in = STDIN_FILENO,
                                               .out = STDOUT_FILENO};
    while (strcmp(argv[0], verb_rows[options->verb].name) != 0) {
        options->verb++;
    }
    if (options_read(argc, argv, options, err)) {
        return true;
    }
    if (err->code == EXIT_USAGE) {
        options_add_hint(options, err);
    }
    return false;
}

void options_add_hint(const struct options *options, struct error *err)
{
    size_t used = strlen(err->text);

    snprintf(err->text + used, sizeof(err->text) - used, "; try 'bulkhead %s --help'", verb_rows[options->verb].name);
}

void options_free(struct options *options)
{
    free(options->file);
    options->file = NULL;
}
