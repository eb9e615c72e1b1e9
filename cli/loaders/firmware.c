/* firmware.c: a BIOS image. */
#include "loader.h"

#include <string.h>

/* Everything between the option ROMs and 1 MiB: a firmware of 256 KiB runs from both halves of it. */
#define COPY_MAX (256 * MEMORY_KIB)
#define ROM_MAX (16 * MEMORY_MIB)

bool firmware_load(struct memory *memory, const char *path, struct error *err)
{
    struct loader_file file;
    bool good = loader_read(path, &file, err);

    if (good && (file.size < 16 || file.size > ROM_MAX)) {
        good = error_set(err, EXIT_FAILED,
                         "%s: a firmware image has 16 bytes to 16 MiB, this one has %llu bytes", path,
                         (unsigned long long)file.size);
    }
    good = good && memory_set_rom(memory, file.data, file.size, err);
    if (good) {
        uint64_t copied = file.size < COPY_MAX ? file.size : COPY_MAX;

        /* RAM, as on a PC whose firmware has shadowed itself: it may write to its own variables. */
        memcpy(memory_at(memory, MEMORY_MIB - copied, copied), file.data + (file.size - copied), copied);
    }
    loader_release(&file);
    return good;
}
