/* cmd_restore.c: `bulkhead restore`: a machine that goes on where a file says that it stood. */
#include "commands.h"
#include "image.h"
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int restore_open(const char *name, struct error *err)
{
    struct stat status;
    int fd = strcmp(name, "-") == 0 ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0) : open(name, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        error_set(err, EXIT_FAILED, "cannot open %s: %s", name, strerror(errno));
        return -1;
    }
    if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
        error_set(err, EXIT_FAILED, "cannot read %s: it is a directory", name);
        close(fd);
        return -1;
    }
    return fd;
}

static bool restore_read(struct run *run, struct stream *stream, struct error *err)
{
    struct image image;

    if (!image_read_head(stream, &image, err)) {
        return false;
    }
    run_complete_config(run, &image.config);
    run->created = true;
    return image_read_machine(stream, &image, run->machine, run->options.show_downtime, err) &&
           stream_read_end(stream, err);
}

static bool restore_build(struct run *run, struct error *err)
{
    const char *name = run->options.operands[0];
    const char *title = strcmp(name, "-") == 0 ? "standard input" : name;
    struct stream stream = {0};
    int fd = restore_open(name, err);
    bool good = fd >= 0 && stream_init(&stream, fd, title, NULL, err) && restore_read(run, &stream, err);

    stream_free(&stream);
    if (fd >= 0) {
        close(fd);
    }
    if (strcmp(name, "-") == 0) {
        run->machine->config.in = -1; /* it has been read to its end */
    }
    return good;
}

static bool restore_begin(struct run *run, struct error *err)
{
    machine_resume(run->machine);
    return control_start(&run->control, run->machine, err);
}

static bool restore_end(struct run *run, struct error *err)
{
    (void)run;
    (void)err;
    return true;
}

bool cmd_restore(int argc, char **argv, int *code, struct error *err)
{
    static const struct run_verb verb = {restore_build, restore_begin, restore_end};

    return run_command(argc, argv, &verb, NULL, code, err);
}
