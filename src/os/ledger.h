// A table that all processes of one user share, and that forgets a process which dies: a file, mapped, with a lock and
// numbered places in it.
//
// The file lies in the user's runtime directory: $XDG_RUNTIME_DIR, else /run/user/UID, else /dev/shm/bulkhead-UID, which
// is made; none of them is taken unless it is the user's own and nobody else may write there. What a process holds there
// is held by fcntl(2) locks, which end with it, however it ends, and which a child does not inherit. Who opens a ledger
// that no living process has open finds it empty, whatever was left in the file.
//
// Functions that can fail answer 0, or minus an errno.
#ifndef BULKHEAD_OS_LEDGER_H
#define BULKHEAD_OS_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct os_ledger {
    int fd;                 // -1: the table is this process's alone
    int pid;                // of the process that opened it
    void *file;             // mapped; its head is os/ledger.c's
    size_t mapped;
    void *table;            // the user's part, aligned to 64 bytes; all zero when it is new
};

// The directory's path. -ENOENT when there is none that may be used.
int os_ledger_directory(char *path, size_t size) __attribute__((warn_unused_result));

// Open NAME in DIRECTORY with a table of `size` bytes. -EPROTO: living processes use it in another layout.
int os_ledger_open(struct os_ledger *l, const char *directory, const char *name, uint32_t layout, size_t size)
    __attribute__((warn_unused_result));
// A table without a file, for want of a directory.
int os_ledger_open_private(struct os_ledger *l, size_t size) __attribute__((warn_unused_result));
// Gives up every place that this process holds.
void os_ledger_close(struct os_ledger *l);

// Around each use of the table. A process that died inside leaves it as it was at that moment.
void os_ledger_lock(struct os_ledger *l);
void os_ledger_unlock(struct os_ledger *l);

// Hold place number `place`; give it up. With the lock.
int os_ledger_hold(struct os_ledger *l, unsigned place) __attribute__((warn_unused_result));
void os_ledger_drop(struct os_ledger *l, unsigned place);
// Whether another process holds it. (A process does not see its own.)
bool os_ledger_held_elsewhere(const struct os_ledger *l, unsigned place);

#endif
