/* memory.c: allocating, mapping and reaching guest memory. */
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint8_t *memory_allocate(uint64_t size)
{
    void *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

bool memory_init(struct memory *memory, uint64_t size, struct error *err)
{
    *memory = (struct memory){0};
    if (size % MEMORY_PAGE != 0) {
        return error_set(err, EXIT_USAGE, "--memory: %llu bytes are not whole pages of 4096",
                         (unsigned long long)size);
    }
    if (size < MEMORY_MIN) {
        return error_set(err, EXIT_FAILED, "--memory: %llu KiB is too little, a PC needs at least %llu MiB",
                         (unsigned long long)(size / MEMORY_KIB),
                         (unsigned long long)(MEMORY_MIN / MEMORY_MIB));
    }
    memory->ram = memory_allocate(size);
    if (memory->ram == NULL) {
        return error_set(err, EXIT_FAILED, "--memory: the host gives no %llu MiB: %s",
                         (unsigned long long)(size / MEMORY_MIB), strerror(errno));
    }
    memory->low_size = size < MEMORY_HOLE ? size : MEMORY_HOLE;
    memory->high_size = size - memory->low_size;
    return true;
}

void memory_free(struct memory *memory)
{
    if (memory->ram != NULL) {
        munmap(memory->ram, memory->low_size + memory->high_size);
    }
    if (memory->rom != NULL) {
        munmap(memory->rom, memory->rom_size);
    }
    free(memory->marks);
    *memory = (struct memory){0};
}

bool memory_add_rom(struct memory *memory, uint64_t size, struct error *err)
{
    uint8_t *rom = memory_allocate(size);

    if (rom == NULL) {
        return error_set(err, EXIT_FAILED, "the host gives no %llu KiB for the firmware: %s",
                         (unsigned long long)(size / MEMORY_KIB), strerror(errno));
    }
    memory->rom = rom;
    memory->rom_size = size;
    return true;
}

bool memory_set_rom(struct memory *memory, const uint8_t *data, uint64_t size, struct error *err)
{
    if (!memory_add_rom(memory, (size + MEMORY_PAGE - 1) & ~(MEMORY_PAGE - 1), err)) {
        return false;
    }
    memcpy(memory->rom + (memory->rom_size - size), data, size);
    return true;
}

bool memory_track(struct memory *memory, struct error *err)
{
    memory->marks = calloc(memory_words(memory), sizeof(*memory->marks));
    return memory->marks != NULL || error_set(err, EXIT_FAILED, "the host gives no memory to note written pages");
}

static bool memory_map_range(WHV_PARTITION_HANDLE partition, uint8_t *source, uint64_t gpa, uint64_t size,
                             WHV_MAP_GPA_RANGE_FLAGS flags, struct error *err)
{
    HRESULT hr;

    if (size == 0) {
        return true;
    }
    hr = WHvMapGpaRange(partition, source, gpa, size, flags);
    return SUCCEEDED(hr) ||
           error_set(err, EXIT_FAILED,
                     "--memory: the engine takes no %llu MiB at 0x%llx: WHvMapGpaRange failed with 0x%08x",
                     (unsigned long long)(size / MEMORY_MIB), (unsigned long long)gpa, (unsigned)hr);
}

bool memory_map(const struct memory *memory, WHV_PARTITION_HANDLE partition, struct error *err)
{
    const WHV_MAP_GPA_RANGE_FLAGS rx = WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute;
    const WHV_MAP_GPA_RANGE_FLAGS tracked = memory->marks != NULL ? WHvMapGpaRangeFlagTrackDirtyPages : 0;
    const WHV_MAP_GPA_RANGE_FLAGS ram = rx | WHvMapGpaRangeFlagWrite | tracked;

    return memory_map_range(partition, memory->ram, 0, memory->low_size, ram, err) &&
           memory_map_range(partition, memory->ram + memory->low_size, MEMORY_HIGH, memory->high_size, ram,
                            err) &&
           memory_map_range(partition, memory->rom, MEMORY_HIGH - memory->rom_size, memory->rom_size, rx,
                            err);
}

void *memory_at(const struct memory *memory, uint64_t gpa, uint64_t size)
{
    if (gpa < memory->low_size && size <= memory->low_size - gpa) {
        return memory->ram + gpa;
    }
    if (gpa >= MEMORY_HIGH && gpa - MEMORY_HIGH < memory->high_size &&
        size <= memory->high_size - (gpa - MEMORY_HIGH)) {
        return memory->ram + memory->low_size + (gpa - MEMORY_HIGH);
    }
    return NULL;
}

const void *memory_peek(const struct memory *memory, uint64_t gpa, uint64_t size)
{
    uint64_t first = MEMORY_HIGH - memory->rom_size;

    if (gpa >= first && gpa < MEMORY_HIGH && size <= MEMORY_HIGH - gpa) {
        return memory->rom + (gpa - first);
    }
    return memory_at(memory, gpa, size);
}

uint64_t memory_pages(const struct memory *memory)
{
    return (memory->low_size + memory->high_size) / MEMORY_PAGE;
}

size_t memory_words(const struct memory *memory)
{
    return (memory_pages(memory) + 63) / 64;
}

uint64_t memory_page_address(const struct memory *memory, uint64_t page)
{
    uint64_t at = page * MEMORY_PAGE;

    return at < memory->low_size ? at : MEMORY_HIGH + (at - memory->low_size);
}

uint8_t *memory_fill(const struct memory *memory, uint64_t gpa)
{
    uint64_t first = MEMORY_HIGH - memory->rom_size;

    if (gpa % MEMORY_PAGE != 0) {
        return NULL;
    }
    if (gpa >= first && gpa < MEMORY_HIGH) {
        return memory->rom + (gpa - first);
    }
    return memory_at(memory, gpa, MEMORY_PAGE);
}

void memory_mark(const struct memory *memory, uint64_t gpa, uint64_t size)
{
    const uint8_t *ram = memory_at(memory, gpa, size);

    if (memory->marks == NULL || ram == NULL || size == 0) {
        return;
    }
    uint64_t first = (uint64_t)(ram - memory->ram);

    for (uint64_t page = first / MEMORY_PAGE; page <= (first + size - 1) / MEMORY_PAGE; page++) {
        atomic_fetch_or(&memory->marks[page / 64], UINT64_C(1) << page % 64);
    }
}

/* A page of the process that is present or swapped out (Documentation/admin-guide/mm/pagemap.rst). */
#define PAGEMAP_TOUCHED (UINT64_C(3) << 62)

void memory_drop_untouched(const struct memory *memory, uint64_t *bitmap)
{
    enum { BATCH = 512 };
    uint64_t entries[BATCH];
    uint64_t first = (uint64_t)(uintptr_t)memory->ram / MEMORY_PAGE, pages = memory_pages(memory);
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    for (uint64_t page = 0; fd >= 0 && page < pages; page += BATCH) {
        uint64_t count = pages - page < BATCH ? pages - page : BATCH;
        ssize_t got = pread(fd, entries, count * sizeof(entries[0]), (off_t)((first + page) * sizeof(entries[0])));

        for (uint64_t i = 0; got > 0 && i < (uint64_t)got / sizeof(entries[0]); i++) {
            if ((entries[i] & PAGEMAP_TOUCHED) == 0) {
                bitmap[(page + i) / 64] &= ~(UINT64_C(1) << (page + i) % 64);
            }
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* The part of the RAM at GPA; its bits begin with a word, as the hole does. */
static bool memory_query(WHV_PARTITION_HANDLE partition, uint64_t gpa, uint64_t size, uint64_t *bitmap,
                         struct error *err)
{
    size_t words = (size / MEMORY_PAGE + 63) / 64;
    HRESULT hr =
        size == 0 ? S_OK : WHvQueryGpaRangeDirtyBitmap(partition, gpa, size, bitmap, (UINT32)(words * sizeof(*bitmap)));

    return SUCCEEDED(hr) || error_hresult(err, "WHvQueryGpaRangeDirtyBitmap", (unsigned)hr);
}

bool memory_take_written(const struct memory *memory, WHV_PARTITION_HANDLE partition, uint64_t *bitmap,
                         struct error *err)
{
    size_t words = memory_words(memory);
    uint64_t *told = calloc(words, sizeof(*told));
    bool good = told != NULL || error_set(err, EXIT_FAILED, "the host gives no memory for a map of written pages");

    good = good && memory_query(partition, 0, memory->low_size, told, err) &&
           memory_query(partition, MEMORY_HIGH, memory->high_size, told + memory->low_size / MEMORY_PAGE / 64, err);
    for (size_t i = 0; good && i < words; i++) {
        bitmap[i] |= told[i] | atomic_exchange(&memory->marks[i], 0);
    }
    free(told);
    return good;
}

unsigned memory_regions(const struct memory *memory, struct memory_region *regions)
{
    const struct memory_region all[MEMORY_MAX_REGIONS] = {
        {0, MEMORY_EBDA, MEMORY_RAM},
        {MEMORY_EBDA, 640 * MEMORY_KIB, MEMORY_RESERVED},
        {MEMORY_BIOS, MEMORY_MIB, MEMORY_RESERVED},
        {MEMORY_MIB, memory->low_size, MEMORY_RAM},
        {MEMORY_HIGH, MEMORY_HIGH + memory->high_size, MEMORY_RAM},
    };
    unsigned count = memory->high_size == 0 ? MEMORY_MAX_REGIONS - 1 : MEMORY_MAX_REGIONS;

    memcpy(regions, all, count * sizeof(all[0]));
    return count;
}

uint64_t memory_resident(const struct memory *memory)
{
    enum { BATCH = 4096 };
    unsigned char present[BATCH];
    uint64_t size = memory->low_size + memory->high_size;
    uint64_t pages = 0;

    for (uint64_t at = 0; at < size; at += BATCH * MEMORY_PAGE) {
        uint64_t length = size - at < BATCH * MEMORY_PAGE ? size - at : BATCH * MEMORY_PAGE;

        if (mincore(memory->ram + at, length, present) != 0) {
            return 0;
        }
        for (uint64_t i = 0; i < length / MEMORY_PAGE; i++) {
            pages += present[i] & 1;
        }
    }
    return pages * MEMORY_PAGE;
}

bool memory_parse_size(const char *text, uint64_t *size)
{
    unsigned long long number;
    uint64_t unit = MEMORY_MIB;
    char *end;

    if (*text < '0' || *text > '9') {
        return false;
    }
    errno = 0;
    number = strtoull(text, &end, 10);
    if (errno != 0) {
        return false;
    }
    switch (*end) {
    case '\0':
        end--;
        break;
    case 'k':
    case 'K':
        unit = MEMORY_KIB;
        break;
    case 'm':
    case 'M':
        break;
    case 'g':
    case 'G':
        unit = MEMORY_GIB;
        break;
    case 't':
    case 'T':
        unit = MEMORY_GIB * 1024;
        break;
    default:
        return false;
    }
    return end[1] == '\0' && !__builtin_mul_overflow((uint64_t)number, unit, size);
}
