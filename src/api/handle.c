// The table of handles: the one mutable global of the library.
#include "api/handle.h"

#include <stdbool.h>

// A handle is the generation above INDEX_BITS bits of index + 1, so that it is never null. A slot's word
// holds the same generation in its upper half, and below it OPEN and the number of calls inside.
#define INDEX_BITS 16
#define OPEN 0x80000000ull
#define GENERATION(word) ((uint32_t)((word) >> 32))
#define CALLS(word) ((word) & (OPEN - 1))

struct slot {
    _Atomic uint64_t word;
    struct partition *partition;
    bool taken;                 // under table_lock: issued and not yet retired
};

static struct slot slots[HANDLE_MAX];
static unsigned int next_slot;  // under table_lock: where the search for a free one begins
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t slot_empty = PTHREAD_COND_INITIALIZER;

static WHV_PARTITION_HANDLE encode(unsigned int index, uint32_t generation)
{
    return (WHV_PARTITION_HANDLE)(((uintptr_t)generation << INDEX_BITS) | (index + 1));
}

// The slot that the handle speaks of, and the generation it claims to have; NULL when there can be none.
static struct slot *decode(WHV_PARTITION_HANDLE handle, uint32_t *generation)
{
    uint64_t value = (uintptr_t)handle;
    uint64_t index = (value & ((1u << INDEX_BITS) - 1)) - 1;

    if (index >= HANDLE_MAX || value >> (INDEX_BITS + 32))
        return NULL;
    *generation = (uint32_t)(value >> INDEX_BITS);
    return &slots[index];
}

HRESULT handle_open(struct partition *p, WHV_PARTITION_HANDLE *handle)
{
    HRESULT hr = E_OUTOFMEMORY;

    pthread_mutex_lock(&table_lock);
    for (unsigned int tried = 0; tried < HANDLE_MAX; tried++) {
        unsigned int index = (next_slot + tried) % HANDLE_MAX;
        struct slot *slot = &slots[index];
        uint32_t generation;

        if (slot->taken)
            continue;
        generation = GENERATION(slot->word) + 1;
        slot->taken = true;
        slot->partition = p;
        atomic_store_explicit(&slot->word, ((uint64_t)generation << 32) | OPEN, memory_order_release);
        *handle = encode(index, generation);
        next_slot = (index + 1) % HANDLE_MAX;
        hr = S_OK;
        break;
    }
    pthread_mutex_unlock(&table_lock);
    return hr;
}

struct partition *handle_pin(WHV_PARTITION_HANDLE handle)
{
    uint32_t generation;
    struct slot *slot = decode(handle, &generation);
    uint64_t word;

    if (!slot)
        return NULL;
    word = atomic_load_explicit(&slot->word, memory_order_relaxed);
    do {
        if (GENERATION(word) != generation || !(word & OPEN))
            return NULL;
    } while (!atomic_compare_exchange_weak_explicit(&slot->word, &word, word + 1, memory_order_acquire,
                                                    memory_order_relaxed));
    return slot->partition;
}

void handle_unpin(WHV_PARTITION_HANDLE handle)
{
    uint32_t generation;
    struct slot *slot = decode(handle, &generation);
    uint64_t left = atomic_fetch_sub_explicit(&slot->word, 1, memory_order_release) - 1;

    if ((left & OPEN) || CALLS(left) != 0)
        return;
    pthread_mutex_lock(&table_lock);
    pthread_cond_broadcast(&slot_empty);
    pthread_mutex_unlock(&table_lock);
}

struct partition *handle_close(WHV_PARTITION_HANDLE handle)
{
    uint32_t generation;
    struct slot *slot = decode(handle, &generation);
    uint64_t word;

    if (!slot)
        return NULL;
    word = slot->word;
    do {
        if (GENERATION(word) != generation || !(word & OPEN))
            return NULL;
    } while (!atomic_compare_exchange_weak(&slot->word, &word, word & ~OPEN));
    return slot->partition;
}

void handle_retire(WHV_PARTITION_HANDLE handle)
{
    uint32_t generation;
    struct slot *slot = decode(handle, &generation);

    pthread_mutex_lock(&table_lock);
    while (CALLS(atomic_load_explicit(&slot->word, memory_order_acquire)) != 0)
        pthread_cond_wait(&slot_empty, &table_lock);
    slot->partition = NULL;
    slot->taken = false;
    pthread_mutex_unlock(&table_lock);
}
