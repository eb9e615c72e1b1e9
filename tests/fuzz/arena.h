// Guest memory with canaries around it: host memory that the guest was never given and must never change.
#ifndef ARENA_H
#define ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <WinHvPlatform.h>

struct random { uint64_t state; };

uint64_t random_next(struct random *r);
uint32_t random_below(struct random *r, uint32_t bound);

#define ARENA_PIECES 8

struct piece {                  // a range that the guest has
    uint64_t gpa, size;
    size_t offset;              // in the host's memory
    WHV_MAP_GPA_RANGE_FLAGS flags;
};

struct arena {
    uint8_t *memory;
    size_t size;
    struct piece pieces[ARENA_PIECES];
    unsigned count;
};

// Lays out pieces of guest memory of different sizes, each between two canaries; the first is at 0 and has 2
// MiB, all rights. False: no memory.
bool arena_create(struct arena *a);
void arena_destroy(struct arena *a);
bool arena_map(const struct arena *a, WHV_PARTITION_HANDLE partition);
uint8_t *arena_at(const struct arena *a, uint64_t gpa);
// The offset of the first canary byte that has changed, or -1.
ptrdiff_t arena_check(const struct arena *a);

// Prints and returns false when a call failed.
bool checked(HRESULT result, const char *call);
#define CHECK(call) checked(call, #call)

#endif
