/* loader.c: reading files and copying them into guest memory. */
#include "loader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool loader_read_all(int fd, struct loader_file *file, struct error *err)
{
    uint64_t done = 0;

    while (done < file->size) {
        ssize_t got = read(fd, file->data + done, file->size - done);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_set(err, EXIT_FAILED, "%s: %s", file->path, strerror(errno));
        }
        if (got == 0) {
            return error_set(err, EXIT_FAILED, "%s: the file became shorter while it was read", file->path);
        }
        done += (uint64_t)got;
    }
    return true;
}

bool loader_read(const char *path, struct loader_file *file, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    bool good;

    *file = (struct loader_file){.path = path};
    if (fd < 0) {
        return error_set(err, EXIT_FAILED, "%s: %s", path, strerror(errno));
    }
    if (fstat(fd, &info) != 0) {
        good = error_set(err, EXIT_FAILED, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        good = error_set(err, EXIT_FAILED, "%s: not a regular file", path);
    } else if (info.st_size == 0) {
        good = error_set(err, EXIT_FAILED, "%s: the file is empty", path);
    } else {
        file->size = (uint64_t)info.st_size;
        file->data = malloc(file->size);
        good = file->data != NULL
                   ? loader_read_all(fd, file, err)
                   : error_set(err, EXIT_FAILED, "%s: the host gives no %llu bytes to read it into", path,
                               (unsigned long long)file->size);
    }
    close(fd);
    if (!good) {
        loader_release(file);
    }
    return good;
}

void loader_release(struct loader_file *file)
{
    free(file->data);
    file->data = NULL;
}

bool loader_copy(const struct memory *memory, const struct loader_file *file, uint64_t gpa, struct error *err)
{
    void *place = memory_at(memory, gpa, file->size);

    if (place == NULL) {
        return error_set(
            err, EXIT_FAILED,
            "%s: %llu KiB at 0x%llx do not fit into the guest's memory of %llu MiB; give more --memory",
            file->path, (unsigned long long)((file->size + 1023) / 1024), (unsigned long long)gpa,
            (unsigned long long)((memory->low_size + memory->high_size) / MEMORY_MIB));
    }
    memcpy(place, file->data, file->size);
    return true;
}
