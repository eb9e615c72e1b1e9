/* options.h: the options of `bulkhead run`, parsed and checked. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include "error.h"
#include "loaders/loader.h"
#include "machine.h"

enum options_boot { OPTIONS_NO_BOOT, OPTIONS_KERNEL, OPTIONS_FIRMWARE, OPTIONS_FLAT, OPTIONS_MULTIBOOT };

struct options {
    enum options_boot boot;
    char *file; /* what is booted */
    uint64_t flat_address;
    const char *append;                      /* NULL if not given */
    const char *modules[LOADER_MAX_MODULES]; /* --initrd is the first */
    unsigned module_count;
    const char *json; /* NULL, "-", "fd:N" or a file */
    bool quiet, help;
    struct machine_config machine;
};

/* FILE of --flat FILE@ADDRESS is allocated; options_free releases it. */
bool options_parse(int argc, char **argv, struct options *options, struct error *err);
void options_free(struct options *options);
void options_print_help(void);

#endif
