// Accesses to memory that may have gone away: turn SIGSEGV and SIGBUS inside a guarded stretch into a return.
//
//     struct os_guard guard;
//     if (OS_GUARD_ENTER(&guard) == 0) { ...touch memory... }
//     else { ...guard.address was not there... }
//     os_guard_leave(&guard);
//
// Guards nest within a thread. Signals that come outside a guard go to whoever handled them before. The handlers are
// the process's; os_guard_install puts them (back) in place, so that a program which has installed handlers of its own
// in the meantime keeps the library's guards at the next set-up of a partition.
#ifndef BULKHEAD_OS_GUARD_H
#define BULKHEAD_OS_GUARD_H

#include <setjmp.h>
#include <stdbool.h>

struct os_guard {
    sigjmp_buf jump;
    void *address;              // of the access that failed
    bool write;
    struct os_guard *outer;
};

// False: the handlers could not be installed.
bool os_guard_install(void) __attribute__((warn_unused_result));
void os_guard_push(struct os_guard *guard);
void os_guard_leave(struct os_guard *guard);
// The failed access was not one that its thread could explain: let the process end by the signal, as without a guard.
_Noreturn void os_guard_unexplained(const struct os_guard *guard);

// Returns 0 at first, and 1 when an access inside has failed.
#define OS_GUARD_ENTER(guard) (os_guard_push(guard), sigsetjmp((guard)->jump, 0))

#endif
