/* memory.h: the guest's physical memory as the command lays it out: RAM up to 3 GiB, the rest of it from 4
 * GiB on, and a ROM that ends at 4 GiB. Everything that touches guest memory goes through memory_at. */
#ifndef CLI_MEMORY_H
#define CLI_MEMORY_H

#include "error.h"

#include <WinHvPlatform.h>

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define MEMORY_KIB UINT64_C(1024)
#define MEMORY_MIB (MEMORY_KIB * 1024)
#define MEMORY_GIB (MEMORY_MIB * 1024)
#define MEMORY_PAGE UINT64_C(4096)

/* Under this hole for devices lies the low RAM; above it, at 4 GiB, the high RAM. */
#define MEMORY_HOLE (3 * MEMORY_GIB)
#define MEMORY_HIGH (4 * MEMORY_GIB)

/* The first MiB as a firmware describes it. */
#define MEMORY_EBDA UINT64_C(0x9fc00)
#define MEMORY_BIOS UINT64_C(0xe0000)

#define MEMORY_MIN (2 * MEMORY_MIB)

struct memory {
    uint8_t *ram;
    uint64_t low_size;
    uint64_t high_size;
    uint8_t *rom;
    uint64_t rom_size;
    _Atomic uint64_t *marks; /* pages of RAM that the command itself has written; NULL if writes are not tracked */
};

/* A line of the map that a guest is told, as a firmware's E820 call and the Multiboot map have it. */
enum memory_type { MEMORY_RAM = 1, MEMORY_RESERVED = 2 };

struct memory_region {
    uint64_t first, end;
    enum memory_type type;
};

#define MEMORY_MAX_REGIONS 5

bool memory_init(struct memory *memory, uint64_t size, struct error *err);
void memory_free(struct memory *memory);

/* Puts DATA (whole pages after rounding up) where it ends at 4 GiB. Before memory_map. */
bool memory_set_rom(struct memory *memory, const uint8_t *data, uint64_t size, struct error *err);

/* The same with a ROM of zeros, whole pages. */
bool memory_add_rom(struct memory *memory, uint64_t size, struct error *err);

/* From memory_map on it is known which pages have been written. */
bool memory_track(struct memory *memory, struct error *err);
bool memory_map(const struct memory *memory, WHV_PARTITION_HANDLE partition, struct error *err);

/* RAM in pages, the high RAM right behind the low one; a bitmap has a bit for each, in words of 64. */
uint64_t memory_pages(const struct memory *memory);
size_t memory_words(const struct memory *memory);
uint64_t memory_page_address(const struct memory *memory, uint64_t page);

/* Clears the bits in BITMAP of pages that nobody has ever touched, which are zero: reading them would make the host hold
 * page tables for them. */
void memory_drop_untouched(const struct memory *memory, uint64_t *bitmap);

/* The command has written to RAM in the guest's place, which the platform does not see. Any thread. */
void memory_mark(const struct memory *memory, uint64_t gpa, uint64_t size);

/* Sets a bit in BITMAP for each page that was written since the last call. What is written meanwhile is told by this
 * call or the next. RAM is tracked. */
bool memory_take_written(const struct memory *memory, WHV_PARTITION_HANDLE partition, uint64_t *bitmap,
                         struct error *err);

/* The SIZE bytes of RAM at GPA, or NULL unless all of them are RAM in one piece. */
void *memory_at(const struct memory *memory, uint64_t gpa, uint64_t size);

/* The same for reading: RAM or ROM. */
const void *memory_peek(const struct memory *memory, uint64_t gpa, uint64_t size);

/* The page at GPA, RAM or ROM, to be filled before the guest runs; NULL if there is none. */
uint8_t *memory_fill(const struct memory *memory, uint64_t gpa);

/* Fills REGIONS and returns how many there are. */
unsigned memory_regions(const struct memory *memory, struct memory_region *regions);

/* Bytes of the guest's memory that the host holds in its own memory now. */
uint64_t memory_resident(const struct memory *memory);

/* "512M", "2G", "1048576K"; a bare number counts MiB. False if it is not a size, or overflows. */
bool memory_parse_size(const char *text, uint64_t *size);

#endif
