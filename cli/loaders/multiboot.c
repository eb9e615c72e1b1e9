/* multiboot.c: a 32-bit ELF kernel by the Multiboot specification, version 0.6.96. */
#include "loader.h"

#include "../acpi.h"

#include <elf.h>
#include <stdio.h>
#include <string.h>

#define HEADER_MAGIC 0x1badb002u
#define HEADER_SEARCH 8192
#define LOADER_MAGIC 0x2badb002u

/* Flags of a header: what the kernel needs. Bits 0 and 1 are always provided; bit 2, a video mode, never. */
#define NEEDS_KNOWN 0x0003u
#define NEEDS_VIDEO 0x0004u
#define NEEDS_MASK 0xffffu

enum {
    INFO_MEMORY = 1 << 0,
    INFO_COMMAND_LINE = 1 << 2,
    INFO_MODULES = 1 << 3,
    INFO_MAP = 1 << 6,
    INFO_LOADER_NAME = 1 << 9
};

#define GDT_AT UINT64_C(0x500)

struct multiboot_info {
    uint32_t flags, lower_kib, upper_kib, boot_device, command_line, module_count, modules;
    uint32_t symbols[4];
    uint32_t map_length, map;
    uint32_t drives_length, drives, config, loader_name, apm;
};

struct multiboot_module {
    uint32_t first, end, string, reserved;
};

struct multiboot_region {
    uint32_t size;
    uint64_t first, length;
    uint32_t type;
} __attribute__((packed));

/* Everything that goes above the kernel is taken from here. */
struct multiboot_area {
    const struct memory *memory;
    uint64_t next;
};

static void *multiboot_take(struct multiboot_area *area, uint64_t size, uint64_t alignment, uint32_t *gpa)
{
    uint64_t at = (area->next + alignment - 1) & ~(alignment - 1);
    void *place = at < MEMORY_HOLE ? memory_at(area->memory, at, size) : NULL;

    if (place != NULL) {
        area->next = at + size;
        *gpa = (uint32_t)at;
    }
    return place;
}

static bool multiboot_no_room(const struct multiboot_area *area, const char *what, struct error *err)
{
    return error_set(err, EXIT_FAILED,
                     "%s: no room above 0x%llx in the guest's memory of %llu MiB; give more --memory", what,
                     (unsigned long long)area->next,
                     (unsigned long long)((area->memory->low_size + area->memory->high_size) / MEMORY_MIB));
}

static bool multiboot_check_header(const struct loader_file *file, struct error *err)
{
    uint64_t limit = file->size < HEADER_SEARCH ? file->size : HEADER_SEARCH;

    for (uint64_t at = 0; at + 12 <= limit; at += 4) {
        uint32_t header[3];

        memcpy(header, file->data + at, sizeof(header));
        if (header[0] == HEADER_MAGIC && header[0] + header[1] + header[2] == 0) {
            uint32_t unknown = header[1] & NEEDS_MASK & ~(NEEDS_KNOWN | NEEDS_VIDEO);

            /* A kernel that asks for a video mode is told by the information's flags that there is none. */
            return unknown == 0 || error_set(err, EXIT_FAILED,
                                             "%s: its Multiboot header needs features 0x%x that "
                                             "are not there",
                                             file->path, unknown);
        }
    }
    return error_set(err, EXIT_FAILED, "%s: not a Multiboot kernel (no header in the first %d bytes)",
                     file->path, HEADER_SEARCH);
}

static bool multiboot_load_segment(const struct memory *memory, const struct loader_file *file,
                                   const Elf32_Phdr *segment, uint64_t *top, struct error *err)
{
    uint64_t end = (uint64_t)segment->p_paddr + segment->p_memsz;
    uint8_t *place = memory_at(memory, segment->p_paddr, segment->p_memsz);

    if (segment->p_filesz > segment->p_memsz || segment->p_offset > file->size ||
        segment->p_filesz > file->size - segment->p_offset) {
        return error_set(err, EXIT_FAILED, "%s: the file is damaged: a segment lies outside of it",
                         file->path);
    }
    if (place == NULL) {
        return error_set(
            err, EXIT_FAILED,
            "%s: its segment at 0x%x-0x%llx is outside the guest's memory of %llu MiB; give more --memory",
            file->path, segment->p_paddr, (unsigned long long)end,
            (unsigned long long)((memory->low_size + memory->high_size) / MEMORY_MIB));
    }
    memcpy(place, file->data + segment->p_offset, segment->p_filesz);
    memset(place + segment->p_filesz, 0, segment->p_memsz - segment->p_filesz);
    if (end > *top) {
        *top = end;
    }
    return true;
}

/* Loads all segments; *ENTRY is where the kernel starts and *TOP where it ends. */
static bool multiboot_load_elf(const struct memory *memory, const struct loader_file *file, uint32_t *entry,
                               uint64_t *top, struct error *err)
{
    Elf32_Ehdr elf;

    if (file->size < sizeof(elf) || memcmp(file->data, ELFMAG, SELFMAG) != 0) {
        return error_set(err, EXIT_FAILED, "%s: not an ELF file", file->path);
    }
    memcpy(&elf, file->data, sizeof(elf));
    if (elf.e_ident[EI_CLASS] != ELFCLASS32 || elf.e_machine != EM_386 ||
        elf.e_phentsize < sizeof(Elf32_Phdr)) {
        return error_set(err, EXIT_FAILED, "%s: not a 32-bit x86 ELF file", file->path);
    }
    if (elf.e_phoff > file->size || (uint64_t)elf.e_phnum * elf.e_phentsize > file->size - elf.e_phoff) {
        return error_set(err, EXIT_FAILED, "%s: the file is damaged: its program headers lie outside of it",
                         file->path);
    }
    *top = MEMORY_MIB;
    for (unsigned i = 0; i < elf.e_phnum; i++) {
        Elf32_Phdr segment;

        memcpy(&segment, file->data + elf.e_phoff + i * (uint64_t)elf.e_phentsize, sizeof(segment));
        if (segment.p_type == PT_LOAD && segment.p_memsz > 0 &&
            !multiboot_load_segment(memory, file, &segment, top, err)) {
            return false;
        }
    }
    *entry = elf.e_entry;
    return true;
}

static bool multiboot_put_string(struct multiboot_area *area, const char *first, const char *second,
                                 uint32_t *gpa, struct error *err)
{
    size_t length = strlen(first) + strlen(second) + 2;
    char *place = multiboot_take(area, length, 4, gpa);

    if (place == NULL) {
        return multiboot_no_room(area, "the command line", err);
    }
    snprintf(place, length, *second != '\0' ? "%s %s" : "%s%s", first, second);
    return true;
}

static bool multiboot_put_module(struct multiboot_area *area, const char *path,
                                 struct multiboot_module *module, struct error *err)
{
    struct loader_file file;
    bool good = loader_read(path, &file, err);

    if (good) {
        void *place = multiboot_take(area, file.size, MEMORY_PAGE, &module->first);

        if (place == NULL) {
            good = multiboot_no_room(area, path, err);
        } else {
            memcpy(place, file.data, file.size);
            module->end = module->first + (uint32_t)file.size;
            good = multiboot_put_string(area, path, "", &module->string, err);
        }
    }
    loader_release(&file);
    return good;
}

static bool multiboot_put_map(struct multiboot_area *area, struct multiboot_info *info, struct error *err)
{
    struct memory_region regions[MEMORY_MAX_REGIONS];
    unsigned count = memory_regions(area->memory, regions);
    struct multiboot_region *map = multiboot_take(area, count * sizeof(*map), 4, &info->map);

    if (map == NULL) {
        return multiboot_no_room(area, "the memory map", err);
    }
    for (unsigned i = 0; i < count; i++) {
        map[i] = (struct multiboot_region){.size = sizeof(*map) - sizeof(map->size),
                                           .first = regions[i].first,
                                           .length = regions[i].end - regions[i].first,
                                           .type = regions[i].type};
    }
    info->map_length = count * (uint32_t)sizeof(*map);
    info->lower_kib = (uint32_t)(regions[0].end / MEMORY_KIB);
    info->upper_kib = (uint32_t)((area->memory->low_size - MEMORY_MIB) / MEMORY_KIB);
    info->flags |= INFO_MEMORY | INFO_MAP;
    return true;
}

static bool multiboot_put_info(struct multiboot_area *area, const struct multiboot_options *options,
                               uint32_t *gpa, struct error *err)
{
    const char *append = options->append != NULL ? options->append : "";
    struct multiboot_module *modules;
    struct multiboot_info *info;

    modules = NULL;
    info = multiboot_take(area, sizeof(*info), MEMORY_PAGE, gpa);
    if (info == NULL) {
        return multiboot_no_room(area, "the boot information", err);
    }
    memset(info, 0, sizeof(*info));
    if (!multiboot_put_map(area, info, err) ||
        !multiboot_put_string(area, options->kernel, append, &info->command_line, err) ||
        !multiboot_put_string(area, "bulkhead", "", &info->loader_name, err)) {
        return false;
    }
    info->flags |= INFO_COMMAND_LINE | INFO_LOADER_NAME;
    if (options->module_count > 0) {
        modules = multiboot_take(area, options->module_count * sizeof(*modules), 4, &info->modules);
        if (modules == NULL) {
            return multiboot_no_room(area, "the list of modules", err);
        }
        memset(modules, 0, options->module_count * sizeof(*modules));
        info->module_count = options->module_count;
        info->flags |= INFO_MODULES;
    }
    for (unsigned i = 0; i < options->module_count; i++) {
        if (!multiboot_put_module(area, options->modules[i], &modules[i], err)) {
            return false;
        }
    }
    return true;
}

static void multiboot_set_start(const struct memory *memory, uint32_t entry, uint32_t info,
                                struct start *start)
{
    static const uint64_t gdt[] = {0, UINT64_C(0x00cf9b000000ffff), UINT64_C(0x00cf93000000ffff)};

    memcpy(memory_at(memory, GDT_AT, sizeof(gdt)), gdt, sizeof(gdt));
    start_set_table(start, WHvX64RegisterGdtr, GDT_AT, sizeof(gdt) - 1);
    start_set_segment(start, WHvX64RegisterCs, 0x08, 0, 0xffffffff, 0xc09b);
    start_set_flat_data(start, 0x10);
    start_set(start, WHvX64RegisterCr0, 0x11); /* ET, PE */
    start_set(start, WHvX64RegisterRflags, 0x2);
    start_set(start, WHvX64RegisterRax, LOADER_MAGIC);
    start_set(start, WHvX64RegisterRbx, info);
    start_set(start, WHvX64RegisterRip, entry);
    start->virtual_wire = true;
}

bool multiboot_load(const struct memory *memory, const struct multiboot_options *options, struct start *start,
                    struct error *err)
{
    struct multiboot_area area = {.memory = memory};
    struct loader_file file;
    uint32_t entry = 0, info = 0;
    bool good = loader_read(options->kernel, &file, err) && multiboot_check_header(&file, err);

    if (good) {
        /* First, because a kernel may be linked over this part of the first MiB. */
        acpi_build(memory, options->cpus);
        good = multiboot_load_elf(memory, &file, &entry, &area.next, err) &&
               multiboot_put_info(&area, options, &info, err);
    }
    loader_release(&file);
    if (good) {
        multiboot_set_start(memory, entry, info, start);
    }
    return good;
}
