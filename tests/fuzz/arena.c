// Guest memory with canaries around it.
#include "arena.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 0x1000u
#define CANARY 0xa5

// splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators")
uint64_t random_next(struct random *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t random_below(struct random *r, uint32_t bound)
{
    return (uint32_t)((random_next(r) >> 32) * bound >> 32);
}

bool checked(HRESULT result, const char *call)
{
    if (FAILED(result))
        fprintf(stderr, "%s: 0x%08x\n", call, (unsigned)result);
    return !FAILED(result);
}

bool arena_create(struct arena *a)
{
    enum { R = WHvMapGpaRangeFlagRead, W = WHvMapGpaRangeFlagWrite, X = WHvMapGpaRangeFlagExecute };
    static const struct { uint64_t gpa, pages; int flags, canary_pages; } layout[] = {
        { 0, 512, R | W | X, 1 },
        { 0x200000, 1, R | W, 1 },              // goes on where the first ends, but elsewhere in the host
        { 0x201000, 3, R | X, 2 },              // no writes
        { 0x300000, 64, R | W | X, 1 },
        { 0xfee00000, 1, R | W, 1 },            // under the local APIC, where there is one
        { 0xfffff000, 1, R | W | X, 3 },        // the last page below 4 GiB
        { 0x100000000, 2, R | W, 1 },           // and the first ones above
        { 0x7fffff000, 1, R | W, 1 },
    };
    const size_t count = sizeof(layout) / sizeof(layout[0]);
    _Static_assert(sizeof(layout) / sizeof(layout[0]) <= ARENA_PIECES, "room for all pieces");
    memset(a, 0, sizeof(*a));
    a->size = PAGE;
    for (size_t i = 0; i < count; i++) {
        a->pieces[i] = (struct piece){ layout[i].gpa, layout[i].pages * PAGE, a->size,
                                       (WHV_MAP_GPA_RANGE_FLAGS)layout[i].flags };
        a->size += (layout[i].pages + (size_t)layout[i].canary_pages) * PAGE;
    }
    a->count = (unsigned)count;
    a->memory = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (a->memory == MAP_FAILED) {
        perror("mmap");
        return false;
    }
    memset(a->memory, CANARY, a->size);
    for (unsigned i = 0; i < a->count; i++)
        memset(a->memory + a->pieces[i].offset, 0, a->pieces[i].size);
    return true;
}

void arena_destroy(struct arena *a)
{
    munmap(a->memory, a->size);
}

bool arena_map(const struct arena *a, WHV_PARTITION_HANDLE partition)
{
    for (unsigned i = 0; i < a->count; i++) {
        const struct piece *p = &a->pieces[i];
        if (!CHECK(WHvMapGpaRange(partition, a->memory + p->offset, p->gpa, p->size, p->flags)))
            return false;
    }
    return true;
}

uint8_t *arena_at(const struct arena *a, uint64_t gpa)
{
    for (unsigned i = 0; i < a->count; i++) {
        if (gpa - a->pieces[i].gpa < a->pieces[i].size)
            return a->memory + a->pieces[i].offset + (gpa - a->pieces[i].gpa);
    }
    return NULL;
}

ptrdiff_t arena_check(const struct arena *a)
{
    uint8_t expected[PAGE];
    memset(expected, CANARY, sizeof(expected));
    size_t at = 0;
    for (unsigned i = 0; i <= a->count; i++) {
        size_t end = i < a->count ? a->pieces[i].offset : a->size;
        for (; at < end; at += PAGE) {
            if (memcmp(a->memory + at, expected, PAGE) == 0)
                continue;
            for (size_t k = at; k < at + PAGE; k++) {
                if (a->memory[k] != CANARY)
                    return (ptrdiff_t)k;
            }
        }
        if (i < a->count)
            at += a->pieces[i].size;
    }
    return -1;
}
