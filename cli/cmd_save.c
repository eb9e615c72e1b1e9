/* cmd_save.c: `bulkhead save`: a file for a running machine to write itself to, which appears when it is complete. */
#include "client.h"
#include "commands.h"
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct save {
    const struct options *options;
    const char *name;
    char *temporary; /* beside NAME; NULL with standard output, and once it is in its place */
    int fd;
};

static bool save_check(const struct save *save, struct error *err)
{
    struct stat status;

    if (stat(save->name, &status) != 0) {
        return errno == ENOENT || error_set(err, EXIT_FAILED, "cannot write %s: %s", save->name, strerror(errno));
    }
    if (S_ISDIR(status.st_mode)) {
        return error_set(err, EXIT_FAILED, "cannot write %s: it is a directory", save->name);
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(err, EXIT_FAILED,
                         "cannot write %s: it is no regular file; - is standard output, which may be a pipe",
                         save->name);
    }
    return save->options->force || error_set(err, EXIT_FAILED, "%s is there already; --force replaces it", save->name);
}

static bool save_open(struct save *save, struct error *err)
{
    if (strcmp(save->name, "-") == 0) {
        if (isatty(STDOUT_FILENO)) {
            return error_set(err, EXIT_USAGE, "standard output is a terminal; give a file, or a pipe behind -");
        }
        save->fd = STDOUT_FILENO;
        return true;
    }
    if (!save_check(save, err)) {
        return false;
    }
    if (asprintf(&save->temporary, "%s.part-XXXXXX", save->name) < 0) {
        save->temporary = NULL;
        return error_set(err, EXIT_FAILED, "no memory for the command line");
    }
    save->fd = mkostemp(save->temporary, O_CLOEXEC);
    if (save->fd < 0) {
        error_set(err, EXIT_FAILED, "cannot write %s: %s", save->name, strerror(errno));
        free(save->temporary);
        save->temporary = NULL;
        return false;
    }
    return true;
}

/* The name has to outlive a crash of the host as the contents do. */
static bool save_sync_directory(const struct save *save)
{
    const char *slash = strrchr(save->name, '/');
    char *folder =
        slash == NULL ? strdup(".") : strndup(save->name, slash == save->name ? 1 : (size_t)(slash - save->name));
    int fd = folder != NULL ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    bool good = fd >= 0 && fsync(fd) == 0;

    if (fd >= 0) {
        close(fd);
    }
    free(folder);
    return good;
}

/* Everything is in the file: it gets its name, or, if another has that by now, not. */
static bool save_store(void *context, struct error *err)
{
    struct save *save = context;

    if (save->temporary == NULL) {
        return true;
    }
    if (fsync(save->fd) != 0) {
        return error_set(err, EXIT_FAILED, "cannot write %s: %s", save->name, strerror(errno));
    }
    if (renameat2(AT_FDCWD, save->temporary, AT_FDCWD, save->name, save->options->force ? 0 : RENAME_NOREPLACE) != 0 &&
        /* Not every file system can exclude the other one. */
        (errno != EINVAL || !save_check(save, err) || rename(save->temporary, save->name) != 0)) {
        return error_set(err, EXIT_FAILED, "cannot write %s: %s", save->name, strerror(errno));
    }
    free(save->temporary);
    save->temporary = NULL;
    return save_sync_directory(save) ||
           error_set(err, EXIT_FAILED, "cannot write %s: its directory: %s", save->name, strerror(errno));
}

static void save_close(struct save *save)
{
    if (save->temporary != NULL) {
        unlink(save->temporary);
        free(save->temporary);
    }
    if (save->fd >= 0 && save->fd != STDOUT_FILENO) {
        close(save->fd);
    }
}

static bool save_machine(const struct options *options, int json, struct error *err)
{
    struct save save = {.options = options, .name = options->operands[1], .fd = -1};
    struct client client = {.options = options, .store = save_store, .context = &save};
    struct message request = {.kind = MESSAGE_SAVE, .keep = options->keep};
    bool good;

    snprintf(request.text, sizeof(request.text), "%s", strcmp(save.name, "-") == 0 ? "standard output" : save.name);
    good = save_open(&save, err) && client_ask(&client, &request, save.fd, err);
    save_close(&save);
    if (!good) {
        return false;
    }
    client_print(&client, "saved");
    return client_write_json(&client, "saved", json, err);
}

bool cmd_save(int argc, char **argv, int *code, struct error *err)
{
    struct options options;
    int json = -1;
    bool good = options_parse(argc, argv, &options, err);

    if (good && options.help) {
        options_print_help(options.verb);
    } else if (good) {
        good = run_open_json(&options, &json, err) && save_machine(&options, json, err);
    }
    *code = EXIT_OK;
    return run_finish(&options, json, good, err);
}
