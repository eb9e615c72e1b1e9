/* main.c: the `bulkhead` command: finds the verb, prints what went wrong, and exits. */
#include "commands.h"

#include <bulkhead/bulkhead.h>

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    bool (*run)(int argc, char **argv, int *code, struct error *err);
    const char *summary;
} verbs[] = {
    {"run", cmd_run, "run a kernel, a firmware or a flat binary in a partition"},
    {"save", cmd_save, "write a running machine to a file"},
    {"restore", cmd_restore, "run a machine that was saved, from where it was"},
    {"migrate", cmd_migrate, "move a running machine to another process or host"},
    {"receive", cmd_receive, "wait for a machine that is moved here, and run it"},
    {"info", cmd_info, "show the engines and what a partition can have"},
};
#define VERBS (sizeof(verbs) / sizeof(verbs[0]))

static void print_help(void)
{
    printf("Usage: bulkhead VERB [OPTION...]\n\n");
    for (size_t i = 0; i < VERBS; i++) {
        printf("  %-8s %s\n", verbs[i].name, verbs[i].summary);
    }
    printf("\n'bulkhead VERB --help' lists the options of a verb; 'bulkhead --version' tells the version.\n");
}

/* What was printed must have arrived: a full disk is a failure too. */
static int finish(int code)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("bulkhead: standard output");
        return code == EXIT_OK ? EXIT_FAILED : code;
    }
    return code;
}

int main(int argc, char **argv)
{
    struct error err = {.code = EXIT_FAILED};
    int code = EXIT_OK;

    if (argc < 2) {
        fprintf(stderr, "bulkhead: no verb given; try 'bulkhead --help'\n");
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help();
        return finish(EXIT_OK);
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("bulkhead %s\n", BulkheadVersion());
        return finish(EXIT_OK);
    }
    for (size_t i = 0; i < VERBS; i++) {
        if (strcmp(argv[1], verbs[i].name) == 0) {
            if (verbs[i].run(argc - 1, argv + 1, &code, &err)) {
                return finish(code);
            }
            fprintf(stderr, "bulkhead: %s\n", err.text);
            return err.code;
        }
    }
    fprintf(stderr, "bulkhead: '%s' is no verb; try 'bulkhead --help'\n", argv[1]);
    return EXIT_USAGE;
}
