// The table of handles that stand for descriptors.
#include "api/object.h"

#include <pthread.h>

// A handle is the generation above INDEX_BITS bits of index + FIRST. A partition's handle never has those (handle.c).
#define INDEX_BITS 16
#define FIRST 0x8000u
#define OBJECTS_MAX 4096u

static struct object {
    enum object_kind kind;      // OBJECT_NONE: the place is free
    uint32_t generation;
    int fd;
    unsigned int pins;
    bool taken;                 // closed, and waited for by whoever takes the descriptor
} objects[OBJECTS_MAX];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t unpinned = PTHREAD_COND_INITIALIZER;

static struct object *find_locked(HANDLE handle, enum object_kind kind)
{
    uint64_t value = (uintptr_t)handle, index = (value & ((1u << INDEX_BITS) - 1)) - FIRST;
    struct object *o;

    if (index >= OBJECTS_MAX)
        return NULL;
    o = &objects[index];
    if (o->kind == OBJECT_NONE || o->taken || value >> INDEX_BITS != o->generation)
        return NULL;
    return kind == OBJECT_ANY || o->kind == kind ? o : NULL;
}

HRESULT object_open(enum object_kind kind, int fd, HANDLE *handle)
{
    HRESULT hr = E_OUTOFMEMORY;

    pthread_mutex_lock(&lock);
    for (unsigned int n = 0; n < OBJECTS_MAX && FAILED(hr); n++) {
        struct object *o = &objects[n];

        if (o->kind != OBJECT_NONE)
            continue;
        *o = (struct object){.kind = kind, .generation = o->generation + 1, .fd = fd};
        *handle = (HANDLE)(((uintptr_t)o->generation << INDEX_BITS) | (n + FIRST));
        hr = S_OK;
    }
    pthread_mutex_unlock(&lock);
    return hr;
}

int object_pin(HANDLE handle, enum object_kind kind)
{
    struct object *o;
    int fd = -1;

    pthread_mutex_lock(&lock);
    o = find_locked(handle, kind);
    if (o) {
        o->pins++;
        fd = o->fd;
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

void object_unpin(HANDLE handle)
{
    struct object *o = &objects[((uintptr_t)handle & ((1u << INDEX_BITS) - 1)) - FIRST];

    pthread_mutex_lock(&lock);
    if (--o->pins == 0)
        pthread_cond_broadcast(&unpinned);
    pthread_mutex_unlock(&lock);
}

int object_take(HANDLE handle, enum object_kind kind)
{
    struct object *o;
    int fd = -1;

    pthread_mutex_lock(&lock);
    o = find_locked(handle, kind);
    if (o) {
        o->taken = true;
        while (o->pins > 0)
            pthread_cond_wait(&unpinned, &lock);
        fd = o->fd;
        o->kind = OBJECT_NONE;
        o->taken = false;
    }
    pthread_mutex_unlock(&lock);
    return fd;
}
