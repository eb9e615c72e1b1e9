// A file of the user's that is mapped by each process that takes part, and locks on its bytes.
#include "os/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MAGIC 0x6c64686bu
// Locks are on bytes far behind the file's end: who has it open, and the places.
#define BYTE_OPEN ((off_t)1 << 32)
#define BYTE_PLACES (BYTE_OPEN + 1)

struct head {
    uint32_t magic, layout;
    uint64_t size;
    pthread_mutex_t mutex;
};
#define HEAD_SIZE 128
_Static_assert(sizeof(struct head) <= HEAD_SIZE, "the table begins behind the head");

// ---- The directory -----------------------------------------------------------------------------------------------

// Ours alone, and no link to something that is.
static bool own_directory(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 022);
}

int os_ledger_directory(char *path, size_t size)
{
    const char *named = secure_getenv("XDG_RUNTIME_DIR");
    if (named && named[0] == '/' && (size_t)snprintf(path, size, "%s", named) < size && own_directory(path))
        return 0;
    if ((size_t)snprintf(path, size, "/run/user/%u", (unsigned)geteuid()) < size && own_directory(path))
        return 0;
    if ((size_t)snprintf(path, size, "/dev/shm/bulkhead-%u", (unsigned)geteuid()) >= size)
        return -ENOENT;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return -ENOENT;
    return own_directory(path) ? 0 : -ENOENT;
}

// ---- Locks on bytes ------------------------------------------------------------------------------------------------

static int set_lock(int fd, short type, off_t byte)
{
    struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
    return fcntl(fd, F_SETLK, &lock) == 0 ? 0 : -errno;
}

static bool locked_elsewhere(int fd, off_t byte)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
    return fcntl(fd, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

// Whole-file, for the time of opening alone.
static int lock_file(int fd)
{
    int answer;
    do
        answer = flock(fd, LOCK_EX);
    while (answer != 0 && errno == EINTR);
    return answer == 0 ? 0 : -errno;
}

// ---- Open and close ------------------------------------------------------------------------------------------------

static int init_head(struct head *head, uint32_t layout, size_t size)
{
    pthread_mutexattr_t attributes;
    if (pthread_mutexattr_init(&attributes) != 0)
        return -ENOMEM;
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    int answer = -pthread_mutex_init(&head->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    head->magic = MAGIC;
    head->layout = layout;
    head->size = size;
    return answer;
}

static int map(struct os_ledger *l, size_t size)
{
    int flags = l->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    l->mapped = HEAD_SIZE + size;
    l->file = mmap(NULL, l->mapped, PROT_READ | PROT_WRITE, flags, l->fd, 0);
    if (l->file == MAP_FAILED)
        return -ENOMEM;
    l->table = (char *)l->file + HEAD_SIZE;
    l->pid = getpid();
    return 0;
}

// With the file's flock: nobody else opens it meanwhile.
static int join(struct os_ledger *l, uint32_t layout, size_t size)
{
    struct stat st;
    bool fresh = !locked_elsewhere(l->fd, BYTE_OPEN);
    // Whatever is in the file then was left by somebody who is gone.
    if (fresh && (ftruncate(l->fd, 0) != 0 || ftruncate(l->fd, (off_t)(HEAD_SIZE + size)) != 0))
        return -errno;
    if (fstat(l->fd, &st) != 0)
        return -errno;
    if (st.st_size != (off_t)(HEAD_SIZE + size))
        return -EPROTO;
    int answer = map(l, size);
    if (answer < 0)
        return answer;
    struct head *head = l->file;
    if (fresh)
        answer = init_head(head, layout, size);
    else if (head->magic != MAGIC || head->layout != layout || head->size != size)
        answer = -EPROTO;
    if (answer == 0)
        answer = set_lock(l->fd, F_RDLCK, BYTE_OPEN);
    if (answer < 0)
        munmap(l->file, l->mapped);
    return answer;
}

int os_ledger_open(struct os_ledger *l, const char *directory, const char *name, uint32_t layout, size_t size)
{
    int folder = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return -errno;
    int answer = 0;
    struct stat st;
    l->fd = openat(folder, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    if (l->fd < 0)
        answer = -errno;
    close(folder);
    if (answer < 0)
        return answer;
    if (fstat(l->fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
        answer = -EACCES;
    else
        answer = lock_file(l->fd);
    if (answer == 0)
        answer = join(l, layout, size);
    if (answer == 0)
        flock(l->fd, LOCK_UN);
    else
        close(l->fd);
    return answer;
}

int os_ledger_open_private(struct os_ledger *l, size_t size)
{
    l->fd = -1;
    int answer = map(l, size);
    if (answer == 0)
        answer = init_head(l->file, 0, size);
    return answer;
}

void os_ledger_close(struct os_ledger *l)
{
    munmap(l->file, l->mapped);
    if (l->fd >= 0)
        close(l->fd);
}

// ---- Use -----------------------------------------------------------------------------------------------------------

void os_ledger_lock(struct os_ledger *l)
{
    struct head *head = l->file;
    if (pthread_mutex_lock(&head->mutex) == EOWNERDEAD)
        pthread_mutex_consistent(&head->mutex);
}

void os_ledger_unlock(struct os_ledger *l)
{
    struct head *head = l->file;
    pthread_mutex_unlock(&head->mutex);
}

int os_ledger_hold(struct os_ledger *l, unsigned place)
{
    return l->fd < 0 ? 0 : set_lock(l->fd, F_WRLCK, BYTE_PLACES + place);
}

void os_ledger_drop(struct os_ledger *l, unsigned place)
{
    // Giving up a lock that one has cannot fail; should it, the process's end gives it up.
    if (l->fd >= 0)
        (void)set_lock(l->fd, F_UNLCK, BYTE_PLACES + place);
}

bool os_ledger_held_elsewhere(const struct os_ledger *l, unsigned place)
{
    return l->fd >= 0 && locked_elsewhere(l->fd, BYTE_PLACES + place);
}
