/* loader.h: putting a guest's files into its memory and saying how the first processor starts. */
#ifndef CLI_LOADERS_LOADER_H
#define CLI_LOADERS_LOADER_H

#include "../error.h"
#include "../memory.h"
#include "../start.h"

#include <stdint.h>

#define LOADER_MAX_MODULES 16

struct loader_file {
    const char *path;
    uint8_t *data;
    uint64_t size;
};

bool loader_read(const char *path, struct loader_file *file, struct error *err);
void loader_release(struct loader_file *file);

/* Copies FILE to GPA; the error names the file, the place and the memory that there is. */
bool loader_copy(const struct memory *memory, const struct loader_file *file, uint64_t gpa,
                 struct error *err);

struct linux_options {
    const char *kernel;
    const char *initrd; /* or NULL */
    const char *append;
    unsigned cpus;
};

/* The 64-bit boot protocol (Documentation/arch/x86/boot.rst). */
bool linux_load(const struct memory *memory, const struct linux_options *options, struct start *start,
                struct error *err);

/* A BIOS image: it ends at 4 GiB, and its last 256 KiB (or all of it) are also the end of the first MiB. The
 * processor starts at its reset vector. */
bool firmware_load(struct memory *memory, const char *path, struct error *err);

/* A flat 16-bit binary at ADDRESS below 1 MiB, entered at its first byte in real mode. */
bool flat_load(const struct memory *memory, const char *path, uint64_t address, struct start *start,
               struct error *err);

struct multiboot_options {
    const char *kernel;
    const char *append; /* or NULL */
    const char *const *modules;
    unsigned module_count;
    unsigned cpus;
};

/* A 32-bit ELF file with a multiboot header (Multiboot specification 0.6.96). */
bool multiboot_load(const struct memory *memory, const struct multiboot_options *options, struct start *start,
                    struct error *err);

#endif
