/* run.h: what the verbs that run a machine have in common: signals, control socket, terminal, summary. */
#ifndef CLI_RUN_H
#define CLI_RUN_H

#include "control.h"
#include "machine.h"
#include "options.h"

#include <signal.h>

struct run {
    struct options options;
    struct machine *machine;
    bool created; /* machine_create was called for it */
    struct control control;
    sigset_t signals; /* blocked, and ending the run */
    void *own;        /* the verb's */
};

/* What a verb does itself. */
struct run_verb {
    /* Creates the machine and sets it up. */
    bool (*build)(struct run *run, struct error *err);
    /* Right before it runs. */
    bool (*begin)(struct run *run, struct error *err);
    /* After it has run, or when it could not. False if there is nothing to tell of a run but ERR. */
    bool (*end)(struct run *run, struct error *err);
};

/* The whole command, from its options to the summary. */
bool run_command(int argc, char **argv, const struct run_verb *verb, void *own, int *code, struct error *err);

/* To the configuration of a machine from elsewhere: what the options say of its run here. */
void run_complete_config(const struct run *run, struct machine_config *config);

/* Opens what --json names: before the work, as an hour later is a bad time to learn of a typing error. *FD is -1
 * without the option. */
bool run_open_json(const struct options *options, int *fd, struct error *err);
/* The end of a verb that has it: closes it, which may fail too, and frees the options. GOOD is how the verb went, and
 * returned if the rest goes well. */
bool run_finish(struct options *options, int json, bool good, struct error *err);

#endif
