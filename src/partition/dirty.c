// The record of written pages as a tree of three levels: root, directories, leaves of bits.
#include "partition/dirty.h"

#include <stdlib.h>

#include "partition/gpa_map.h"

// A leaf has the bits of 1 GiB, a directory the leaves of 2 TiB, the root the directories of all that a
// 52-bit address reaches, which is the most that a processor may have (SDM vol. 3A 4.1.4).
#define LEAF_WORDS 4096u
#define LEAF_SIZE ((uint64_t)LEAF_WORDS * 64 * GPA_PAGE_SIZE)
#define DIRECTORY_LEAVES 2048u
#define DIRECTORY_SIZE (LEAF_SIZE * DIRECTORY_LEAVES)
#define ROOT_DIRECTORIES 2048u
_Static_assert(DIRECTORY_SIZE * ROOT_DIRECTORIES == 1ull << 52, "the tree reaches every physical address");

struct dirty_leaf {
    _Atomic uint64_t words[LEAF_WORDS];
};

struct dirty_directory {
    _Atomic(struct dirty_leaf *) leaves[DIRECTORY_LEAVES];
};

struct dirty_root {
    _Atomic(struct dirty_directory *) directories[ROOT_DIRECTORIES];
};

void dirty_destroy(struct dirty *d)
{
    struct dirty_root *root = d->root;

    if (!root)
        return;
    for (size_t i = 0; i < ROOT_DIRECTORIES; i++) {
        struct dirty_directory *directory = root->directories[i];

        if (!directory)
            continue;
        for (size_t n = 0; n < DIRECTORY_LEAVES; n++)
            free(directory->leaves[n]);
        free(directory);
    }
    free(root);
    d->root = NULL;
}

size_t dirty_words(uint64_t size)
{
    return (size_t)((size / GPA_PAGE_SIZE + 63) / 64);
}

static struct dirty_directory *directory_of(const struct dirty *d, gpa_t gpa)
{
    struct dirty_root *root = atomic_load_explicit(&d->root, memory_order_acquire);

    if (!root || gpa / DIRECTORY_SIZE >= ROOT_DIRECTORIES)
        return NULL;
    return atomic_load_explicit(&root->directories[gpa / DIRECTORY_SIZE], memory_order_acquire);
}

static struct dirty_leaf *leaf_of(const struct dirty *d, gpa_t gpa)
{
    struct dirty_directory *directory = directory_of(d, gpa);

    if (!directory)
        return NULL;
    return atomic_load_explicit(&directory->leaves[gpa / LEAF_SIZE % DIRECTORY_LEAVES], memory_order_acquire);
}

// The leaf of `gpa`, made if need be. NULL: no memory.
static struct dirty_leaf *leaf_make(struct dirty *d, gpa_t gpa)
{
    struct dirty_root *root = d->root;
    struct dirty_directory *directory;
    struct dirty_leaf *leaf;

    if (!root) {
        root = calloc(1, sizeof(*root));
        if (!root)
            return NULL;
        atomic_store_explicit(&d->root, root, memory_order_release);
    }
    directory = root->directories[gpa / DIRECTORY_SIZE];
    if (!directory) {
        directory = calloc(1, sizeof(*directory));
        if (!directory)
            return NULL;
        atomic_store_explicit(&root->directories[gpa / DIRECTORY_SIZE], directory, memory_order_release);
    }
    leaf = directory->leaves[gpa / LEAF_SIZE % DIRECTORY_LEAVES];
    if (!leaf) {
        leaf = calloc(1, sizeof(*leaf));
        if (leaf)
            atomic_store_explicit(&directory->leaves[gpa / LEAF_SIZE % DIRECTORY_LEAVES], leaf,
                                  memory_order_release);
    }
    return leaf;
}

HRESULT dirty_reserve(struct dirty *d, gpa_t gpa, uint64_t size)
{
    for (uint64_t leaf = gpa / LEAF_SIZE; leaf <= (gpa + size - 1) / LEAF_SIZE; leaf++)
        if (!leaf_make(d, leaf * LEAF_SIZE))
            return E_OUTOFMEMORY;
    return S_OK;
}

static _Atomic uint64_t *word_of(struct dirty_leaf *leaf, gpa_t gpa)
{
    return &leaf->words[gpa / GPA_PAGE_SIZE / 64 % LEAF_WORDS];
}

void dirty_mark(struct dirty *d, gpa_t gpa)
{
    struct dirty_leaf *leaf = leaf_of(d, gpa);
    uint64_t bit = 1ull << (gpa / GPA_PAGE_SIZE % 64);

    // A mark that is seen to be there will do: whoever clears it reports the page, and does so before the
    // processor, which it stops afterwards, has come to the end of the instruction that writes.
    if (leaf && !(atomic_load_explicit(word_of(leaf, gpa), memory_order_relaxed) & bit))
        atomic_fetch_or(word_of(leaf, gpa), bit);
}

// OR the bits of 64 pages into a bitmap that begins at `first`; bits below it are none of the bitmap's.
static void bitmap_add(uint64_t *bitmap, uint64_t first, uint64_t page, uint64_t bits)
{
    uint64_t to;
    unsigned int shift;

    if (page < first) {
        bits >>= first - page;
        page = first;
    }
    to = page - first;
    shift = to % 64;
    bitmap[to / 64] |= bits << shift;
    if (shift && bits >> (64 - shift))
        bitmap[to / 64 + 1] |= bits >> (64 - shift);
}

void dirty_take(struct dirty *d, gpa_t gpa, uint64_t size, uint64_t *bitmap)
{
    uint64_t first = gpa / GPA_PAGE_SIZE, end = (gpa + size) / GPA_PAGE_SIZE;
    uint64_t page = first & ~63ull;

    while (page < end) {
        gpa_t at = page * GPA_PAGE_SIZE;
        struct dirty_leaf *leaf = leaf_of(d, at);
        uint64_t mask = ~0ull;
        uint64_t bits;

        if (!leaf) {
            uint64_t step = directory_of(d, at) ? LEAF_SIZE : DIRECTORY_SIZE;

            page = (at / step + 1) * (step / GPA_PAGE_SIZE);
            continue;
        }
        if (page < first)
            mask <<= first - page;
        if (end - page < 64)
            mask &= (1ull << (end - page)) - 1;
        bits = atomic_load_explicit(word_of(leaf, at), memory_order_relaxed) & mask;
        if (bits)
            bits = atomic_fetch_and(word_of(leaf, at), ~mask) & mask;
        if (bits && bitmap)
            bitmap_add(bitmap, first, page, bits);
        page += 64;
    }
}

void dirty_put(struct dirty *d, gpa_t gpa, uint64_t size, const uint64_t *bitmap)
{
    for (size_t i = 0; i < dirty_words(size); i++)
        for (uint64_t bits = bitmap[i]; bits; bits &= bits - 1)
            dirty_mark(d, gpa + (i * 64 + (unsigned int)__builtin_ctzll(bits)) * GPA_PAGE_SIZE);
}
