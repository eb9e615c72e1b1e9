/* cmd_migrate.c: `bulkhead migrate`: a connection for a running machine to move over. */
#include "client.h"
#include "commands.h"
#include "endpoint.h"
#include "run.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool migrate_move(const struct options *options, int json, struct error *err)
{
    const char *target = options->operands[1];
    struct client client = {.options = options};
    struct message request = {
        .kind = MESSAGE_MOVE,
        .show_downtime = options->show_downtime,
        .bandwidth = options->bandwidth * MEMORY_MIB,
        .downtime = options->downtime * 1000000,
        .rounds = options->rounds,
    };
    int fd = endpoint_connect(target, err);
    bool good;

    if (fd < 0) {
        if (err->code == EXIT_USAGE) {
            options_add_hint(options, err);
        }
        return false;
    }
    snprintf(request.text, sizeof(request.text), "%s", target);
    good = client_ask(&client, &request, fd, err);
    close(fd);
    if (!good) {
        return false;
    }
    client_print(&client, "moved");
    return client_write_json(&client, "moved", json, err);
}

static bool migrate_resume(const struct options *options, struct error *err)
{
    struct client client = {.options = options};
    const struct message request = {.kind = MESSAGE_RESUME};

    return client_ask(&client, &request, -1, err);
}

bool cmd_migrate(int argc, char **argv, int *code, struct error *err)
{
    struct options options;
    int json = -1;
    bool good = options_parse(argc, argv, &options, err);

    if (good && options.help) {
        options_print_help(options.verb);
    } else if (good && options.resume) {
        good = migrate_resume(&options, err);
    } else if (good) {
        good = run_open_json(&options, &json, err) && migrate_move(&options, json, err);
    }
    *code = EXIT_OK;
    return run_finish(&options, json, good, err);
}
