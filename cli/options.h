/* options.h: the options of the verbs that run, save and move a machine, parsed and checked. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include "error.h"
#include "loaders/loader.h"
#include "machine.h"

enum options_verb { OPTIONS_RUN, OPTIONS_RESTORE, OPTIONS_RECEIVE, OPTIONS_SAVE, OPTIONS_MIGRATE };

enum options_boot { OPTIONS_NO_BOOT, OPTIONS_KERNEL, OPTIONS_FIRMWARE, OPTIONS_FLAT, OPTIONS_MULTIBOOT };

#define OPTIONS_MAX_OPERANDS 2

struct options {
    enum options_verb verb;
    const char *operands[OPTIONS_MAX_OPERANDS]; /* as many as the verb has */
    enum options_boot boot;
    char *file; /* what is booted */
    uint64_t flat_address;
    const char *append;                      /* NULL if not given */
    const char *modules[LOADER_MAX_MODULES]; /* --initrd is the first */
    unsigned module_count;
    const char *json;    /* NULL, "-", "fd:N" or a file */
    const char *control; /* NULL or a path */
    bool keep, force, resume, show_downtime;
    uint64_t bandwidth;        /* MiB per second, 0 for no limit */
    uint64_t downtime, rounds; /* milliseconds; a number */
    bool quiet, help;
    struct machine_config machine;
};

/* ARGV[0] is the verb, one of those above. FILE of --flat FILE@ADDRESS is allocated; options_free releases it. */
bool options_parse(int argc, char **argv, struct options *options, struct error *err);
void options_free(struct options *options);
void options_print_help(enum options_verb verb);
const char *options_verb_name(enum options_verb verb);

/* To an error of the command line: where its help is. */
void options_add_hint(const struct options *options, struct error *err);

#endif
