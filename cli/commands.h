/* commands.h: the verbs of the command line. */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

#include "error.h"

/* ARGV[0] is the verb. On success *CODE is the exit code; otherwise ERR has it, with the line to print. */
bool cmd_run(int argc, char **argv, int *code, struct error *err);
bool cmd_save(int argc, char **argv, int *code, struct error *err);
bool cmd_restore(int argc, char **argv, int *code, struct error *err);
bool cmd_migrate(int argc, char **argv, int *code, struct error *err);
bool cmd_receive(int argc, char **argv, int *code, struct error *err);
bool cmd_info(int argc, char **argv, int *code, struct error *err);

#endif
