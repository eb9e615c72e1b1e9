/* flat.c: a flat 16-bit binary. */
#include "loader.h"

bool flat_load(const struct memory *memory, const char *path, uint64_t address, struct start *start,
               struct error *err)
{
    struct loader_file file;
    bool good;

    if (address >= MEMORY_MIB) {
        return error_set(err, EXIT_USAGE, "--flat: 0x%llx is not below 1 MiB, where real mode can start",
                         (unsigned long long)address);
    }
    if (address % 16 != 0) {
        return error_set(err, EXIT_USAGE,
                         "--flat: 0x%llx is not a multiple of 16, so no segment can start there",
                         (unsigned long long)address);
    }
    good = loader_read(path, &file, err) && loader_copy(memory, &file, address, err);
    loader_release(&file);
    if (good) {
        start_set_segment(start, WHvX64RegisterCs, (uint16_t)(address >> 4), address, 0xffff, 0x009b);
        start_set(start, WHvX64RegisterRip, 0);
        start->virtual_wire = true;
    }
    return good;
}
