/* linux.c: a Linux bzImage, entered at its 64-bit entry point. */
#include "loader.h"

#include "../acpi.h"

#include <string.h>

/* Fields of the setup header, as offsets into the file and into boot_params (boot.rst, "The Real-Mode Kernel
 * Header"), and fields of boot_params (zero-page.rst). */
enum {
    PARAM_RSDP = 0x070,
    PARAM_E820_COUNT = 0x1e8,
    HEADER_FIRST = 0x1f1,
    HEADER_SETUP_SECTORS = 0x1f1,
    HEADER_BOOT_FLAG = 0x1fe,
    HEADER_JUMP_LENGTH = 0x201,
    HEADER_MAGIC = 0x202,
    HEADER_VERSION = 0x206,
    HEADER_LOADER = 0x210,
    HEADER_LOAD_FLAGS = 0x211,
    HEADER_INITRD = 0x218,
    HEADER_INITRD_SIZE = 0x21c,
    HEADER_COMMAND_LINE = 0x228,
    HEADER_INITRD_MAX = 0x22c,
    HEADER_XLOAD_FLAGS = 0x236,
    HEADER_COMMAND_LINE_MAX = 0x238,
    HEADER_PREFERRED = 0x258,
    HEADER_INIT_SIZE = 0x260,
    HEADER_END_MIN = 0x264,
    HEADER_END_MAX = 0x290,
    PARAM_E820 = 0x2d0
};

enum { LOADER_UNDEFINED = 0xff, LOADED_HIGH = 0x01, XLOAD_KERNEL_64 = 0x01 };

#define ENTRY_64 0x200
#define BOOT_PARAMS_SIZE 4096

/* The first MiB is free for us: the kernel takes over what it needs before it reuses anything. */
#define GDT_AT UINT64_C(0x500)
#define BOOT_PARAMS_AT UINT64_C(0x7000)
#define PAGE_TABLES_AT UINT64_C(0x8000)
#define COMMAND_LINE_AT UINT64_C(0x20000)

/* The selectors that the 64-bit boot protocol prescribes. */
#define BOOT_CS 0x10
#define BOOT_DS 0x18

struct linux_image {
    struct loader_file file;
    uint64_t code; /* offset of the protected-mode part in the file */
    uint64_t preferred, init_size, initrd_max, command_line_max;
    uint64_t load;
};

static uint64_t get(const uint8_t *data, unsigned offset, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, data + offset, size);
    return value;
}

static void put(uint8_t *data, unsigned offset, unsigned size, uint64_t value)
{
    memcpy(data + offset, &value, size);
}

static bool linux_parse(struct linux_image *image, struct error *err)
{
    const struct loader_file *file = &image->file;
    const uint8_t *data = file->data;

    if (file->size < HEADER_END_MIN || get(data, HEADER_BOOT_FLAG, 2) != 0xaa55 ||
        memcmp(data + HEADER_MAGIC, "HdrS", 4) != 0) {
        return error_set(err, EXIT_FAILED, "%s: not a Linux bzImage (no 'HdrS' header)", file->path);
    }
    unsigned version = (unsigned)get(data, HEADER_VERSION, 2);

    if (version < 0x20c || (get(data, HEADER_XLOAD_FLAGS, 2) & XLOAD_KERNEL_64) == 0) {
        return error_set(err, EXIT_FAILED,
                         "%s: not a 64-bit Linux kernel (boot protocol %u.%02u, no 64-bit entry)", file->path,
                         version >> 8, version & 0xff);
    }
    uint64_t sectors = get(data, HEADER_SETUP_SECTORS, 1);

    image->code = ((sectors == 0 ? 4 : sectors) + 1) * 512;
    if (image->code + ENTRY_64 >= file->size) {
        return error_set(err, EXIT_FAILED, "%s: the file is cut off: it ends within its setup part",
                         file->path);
    }
    image->preferred = get(data, HEADER_PREFERRED, 8);
    image->init_size = get(data, HEADER_INIT_SIZE, 4);
    image->initrd_max = get(data, HEADER_INITRD_MAX, 4);
    image->command_line_max = get(data, HEADER_COMMAND_LINE_MAX, 4);
    if (image->init_size < file->size - image->code) {
        image->init_size = file->size - image->code;
    }
    return true;
}

/* The kernel goes where it prefers to be. Lower is no help where memory is short: a 64-bit kernel that is
 * loaded below its preferred address unpacks itself there all the same. */
static bool linux_place(struct linux_image *image, const struct memory *memory, struct error *err)
{
    image->load = image->preferred;
    if (image->load < MEMORY_MIB || memory_at(memory, image->load, image->init_size) == NULL) {
        return error_set(
            err, EXIT_FAILED,
            "%s: the kernel needs %llu MiB at 0x%llx, but the guest has %llu MiB; give more --memory",
            image->file.path, (unsigned long long)(image->init_size / MEMORY_MIB + 1),
            (unsigned long long)image->load,
            (unsigned long long)((memory->low_size + memory->high_size) / MEMORY_MIB));
    }
    memcpy(memory_at(memory, image->load, image->file.size - image->code), image->file.data + image->code,
           image->file.size - image->code);
    return true;
}

static void linux_set_e820(const struct memory *memory, uint8_t *params)
{
    struct memory_region regions[MEMORY_MAX_REGIONS];
    unsigned count = memory_regions(memory, regions);

    params[PARAM_E820_COUNT] = (uint8_t)count;
    for (unsigned i = 0; i < count; i++) {
        unsigned at = PARAM_E820 + i * 20;

        put(params, at, 8, regions[i].first);
        put(params, at + 8, 8, regions[i].end - regions[i].first);
        put(params, at + 16, 4, regions[i].type);
    }
}

static bool linux_set_initrd(const struct linux_image *image, const struct memory *memory, const char *path,
                             uint8_t *params, struct error *err)
{
    struct loader_file file;
    bool good = loader_read(path, &file, err);

    if (good) {
        uint64_t top = memory->low_size < image->initrd_max + 1 ? memory->low_size : image->initrd_max + 1;
        uint64_t floor = image->load + image->init_size;
        uint64_t at = file.size < top ? (top - file.size) & ~(MEMORY_PAGE - 1) : 0;

        if (at < floor) {
            good = error_set(
                err, EXIT_FAILED,
                "%s: the initrd of %llu MiB does not fit above the kernel, which ends at 0x%llx, into the "
                "guest's memory of %llu MiB; give more --memory",
                path, (unsigned long long)(file.size / MEMORY_MIB + 1), (unsigned long long)floor,
                (unsigned long long)((memory->low_size + memory->high_size) / MEMORY_MIB));
        } else {
            good = loader_copy(memory, &file, at, err);
            put(params, HEADER_INITRD, 4, at);
            put(params, HEADER_INITRD_SIZE, 4, file.size);
        }
    }
    loader_release(&file);
    return good;
}

static bool linux_set_command_line(const struct linux_image *image, const struct memory *memory,
                                   const char *append, uint8_t *params, struct error *err)
{
    size_t length = strlen(append);

    if (length > image->command_line_max || length >= 0x10000) {
        return error_set(err, EXIT_FAILED, "--append: %zu characters, but %s takes %llu", length,
                         image->file.path, (unsigned long long)image->command_line_max);
    }
    memcpy(memory_at(memory, COMMAND_LINE_AT, length + 1), append, length + 1);
    put(params, HEADER_COMMAND_LINE, 4, COMMAND_LINE_AT);
    return true;
}

static bool linux_set_params(const struct linux_image *image, const struct memory *memory,
                             const struct linux_options *options, struct error *err)
{
    uint8_t *params = memory_at(memory, BOOT_PARAMS_AT, BOOT_PARAMS_SIZE);
    const uint8_t *header = image->file.data;
    unsigned end = HEADER_MAGIC + header[HEADER_JUMP_LENGTH];

    if (end > HEADER_END_MAX) {
        end = HEADER_END_MAX;
    }
    memset(params, 0, BOOT_PARAMS_SIZE);
    memcpy(params + HEADER_FIRST, header + HEADER_FIRST, end - HEADER_FIRST);
    params[HEADER_LOADER] = LOADER_UNDEFINED;
    params[HEADER_LOAD_FLAGS] |= LOADED_HIGH;
    put(params, PARAM_RSDP, 8, acpi_build(memory, options->cpus));
    linux_set_e820(memory, params);
    return linux_set_command_line(image, memory, options->append, params, err) &&
           (options->initrd == NULL || linux_set_initrd(image, memory, options->initrd, params, err));
}

/* Maps the first 4 GiB one to one, in pages of 2 MiB: one PML4, one PDPT and four directories. */
static uint64_t linux_build_page_tables(const struct memory *memory)
{
    enum { PRESENT_WRITABLE = 0x3, LARGE = 0x80, ENTRIES = 512, DIRECTORIES = 4 };
    uint64_t *tables = memory_at(memory, PAGE_TABLES_AT, (2 + DIRECTORIES) * MEMORY_PAGE);
    uint64_t *directory = tables + 2 * ENTRIES;

    memset(tables, 0, (2 + DIRECTORIES) * MEMORY_PAGE);
    tables[0] = (PAGE_TABLES_AT + MEMORY_PAGE) | PRESENT_WRITABLE;
    for (unsigned i = 0; i < DIRECTORIES; i++) {
        tables[ENTRIES + i] = (PAGE_TABLES_AT + (2 + i) * MEMORY_PAGE) | PRESENT_WRITABLE;
    }
    for (uint64_t i = 0; i < DIRECTORIES * ENTRIES; i++) {
        directory[i] = i << 21 | LARGE | PRESENT_WRITABLE;
    }
    return PAGE_TABLES_AT;
}

static void linux_set_start(const struct linux_image *image, const struct memory *memory, struct start *start)
{
    static const uint64_t gdt[] = {0, 0, UINT64_C(0x00af9b000000ffff), UINT64_C(0x00cf93000000ffff)};

    memcpy(memory_at(memory, GDT_AT, sizeof(gdt)), gdt, sizeof(gdt));
    start_set_table(start, WHvX64RegisterGdtr, GDT_AT, sizeof(gdt) - 1);
    start_set_table(start, WHvX64RegisterIdtr, 0, 0);
    start_set_segment(start, WHvX64RegisterCs, BOOT_CS, 0, 0xffffffff, 0xa09b);
    start_set_flat_data(start, BOOT_DS);
    start_set(start, WHvX64RegisterCr3, linux_build_page_tables(memory));
    start_set(start, WHvX64RegisterCr4, 0x20);       /* PAE */
    start_set(start, WHvX64RegisterEfer, 0x500);     /* LME, LMA */
    start_set(start, WHvX64RegisterCr0, 0x80000011); /* PG, ET, PE */
    start_set(start, WHvX64RegisterRflags, 0x2);
    start_set(start, WHvX64RegisterRsi, BOOT_PARAMS_AT);
    start_set(start, WHvX64RegisterRip, image->load + ENTRY_64);
    start->virtual_wire = true;
}

bool linux_load(const struct memory *memory, const struct linux_options *options, struct start *start,
                struct error *err)
{
    struct linux_image image = {0};
    bool good = loader_read(options->kernel, &image.file, err) && linux_parse(&image, err) &&
                linux_place(&image, memory, err) && linux_set_params(&image, memory, options, err);

    if (good) {
        linux_set_start(&image, memory, start);
    }
    loader_release(&image.file);
    return good;
}
