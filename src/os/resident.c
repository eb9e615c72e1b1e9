// Resident pages by the files of /proc.
#include "os/resident.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096ull
#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define PAGEMAP_PRESENT (1ull << 63)

// What smaps says of a mapping, in bytes.
struct mapping { uint64_t first, end, page_size, resident, huge; };
struct mappings { struct mapping *list; size_t count, room; };

// ---- smaps -------------------------------------------------------------------------------------------------------

// The lines that are added up, and the field that they go to. A mapping of hugetlbfs has its own two.
static const struct { const char *name; size_t field; } fields[] = {
    { "Rss:", offsetof(struct mapping, resident) },
    { "Shared_Hugetlb:", offsetof(struct mapping, resident) },
    { "Private_Hugetlb:", offsetof(struct mapping, resident) },
    { "AnonHugePages:", offsetof(struct mapping, huge) },
    { "ShmemPmdMapped:", offsetof(struct mapping, huge) },
    { "FilePmdMapped:", offsetof(struct mapping, huge) },
    { "KernelPageSize:", offsetof(struct mapping, page_size) },
};

static int take_field(struct mapping *m, const char *line)
{
    for (size_t n = 0; n < sizeof fields / sizeof *fields; n++) {
        size_t length = strlen(fields[n].name);
        if (strncmp(line, fields[n].name, length) != 0)
            continue;
        char *end;
        uint64_t value = strtoull(line + length, &end, 10);
        if (strncmp(end, " kB", 3) != 0)
            return EIO;
        *(uint64_t *)((char *)m + fields[n].field) += value * KIB;
        return 0;
    }
    return 0;
}

// A new mapping takes the place of one that has nothing.
static int begin(struct mappings *all, uint64_t first, uint64_t end)
{
    if (all->count && !all->list[all->count - 1].resident)
        all->count--;
    if (all->count == all->room) {
        size_t room = all->room ? 2 * all->room : 256;
        struct mapping *list = realloc(all->list, room * sizeof *list);
        if (!list)
            return ENOMEM;
        all->list = list;
        all->room = room;
    }
    all->list[all->count++] = (struct mapping){ .first = first, .end = end };
    return 0;
}

static int take_line(struct mappings *all, const char *line)
{
    char *at;
    uint64_t first = strtoull(line, &at, 16);
    if (at != line && *at == '-') {
        const char *second = at + 1;
        uint64_t end = strtoull(second, &at, 16);
        return at != second && *at == ' ' && end > first ? begin(all, first, end) : EIO;
    }
    return all->count ? take_field(&all->list[all->count - 1], line) : EIO;
}

// All mappings with anything in them, in the order of their addresses.
static int read_mappings(struct mappings *all)
{
    FILE *file = fopen("/proc/thread-self/smaps", "re");
    if (!file)
        return errno;
    char *line = NULL;
    size_t room = 0;
    int error = 0;
    errno = 0;
    while (!error && getline(&line, &room, file) >= 0)
        error = take_line(all, line);
    if (!error && !feof(file))
        error = errno ? errno : EIO;
    if (!error && !all->count)      // a process without a mapping does not run: this is not the file that it should be
        error = EIO;
    free(line);
    fclose(file);
    return error;
}

// ---- pagemap -----------------------------------------------------------------------------------------------------

// How much of [first, end) is there, and how much of that in full and aligned 2 MiB.
static int scan(int pagemap, uint64_t first, uint64_t end, uint64_t *resident, uint64_t *full)
{
    uint64_t entries[512], run = 0;
    *resident = *full = 0;
    for (uint64_t at = first; at < end;) {
        size_t want = (end - at) / PAGE < 512 ? (size_t)((end - at) / PAGE) : 512;
        ssize_t got = pread(pagemap, entries, want * 8, (off_t)(at / PAGE * 8));
        if (got < 0)
            return errno;
        if (got < 8)                // unmapped meanwhile, and nothing above it
            return 0;
        for (size_t n = 0; n < (size_t)got / 8; n++, at += PAGE) {
            if (at % (2 * MIB) == 0)
                run = 0;
            if (!(entries[n] & PAGEMAP_PRESENT))
                continue;
            *resident += PAGE;
            if (++run == 512)
                *full += 2 * MIB;
        }
    }
    return 0;
}

// ---- Together ----------------------------------------------------------------------------------------------------

static int add(const struct mapping *m, const struct os_stretch *s, int *pagemap, struct os_resident *sum)
{
    uint64_t first = m->first > s->first ? m->first : s->first;
    uint64_t end = m->end < s->first + s->size ? m->end : s->first + s->size;
    uint64_t resident = m->resident, huge = m->huge, full;
    if (first != m->first || end != m->end) {
        if (*pagemap < 0)
            *pagemap = open("/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC);
        if (*pagemap < 0)
            return errno;
        int error = scan(*pagemap, first, end, &resident, &full);
        if (error)
            return error;
        huge = full < huge ? full : huge;
    }
    if (m->page_size >= GIB) {
        sum->pages_1g += resident / GIB;
    } else if (m->page_size >= 2 * MIB) {
        sum->pages_2m += resident / (2 * MIB);
    } else {
        sum->pages_2m += huge / (2 * MIB);
        sum->pages_4k += (resident > huge ? resident - huge : 0) / PAGE;
    }
    return 0;
}

// The first mapping that ends above an address.
static size_t find(const struct mappings *all, uint64_t address)
{
    size_t low = 0, high = all->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (all->list[middle].end > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int os_resident(const struct os_stretch *stretches, size_t count, struct os_resident *resident)
{
    struct mappings all = { 0 };
    struct os_resident sum = { 0 };
    int pagemap = -1, error = read_mappings(&all);
    for (size_t n = 0; n < count && !error; n++) {
        const struct os_stretch *s = &stretches[n];
        for (size_t i = find(&all, s->first); i < all.count && all.list[i].first < s->first + s->size && !error; i++)
            error = add(&all.list[i], s, &pagemap, &sum);
    }
    if (pagemap >= 0)
        close(pagemap);
    free(all.list);
    *resident = error ? (struct os_resident){ 0 } : sum;
    return error;
}
