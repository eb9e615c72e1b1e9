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

#include <stdbool.h>

// The compiler's own jump, which keeps no more than the place to come back to: entering a guard must cost next to
// nothing. ThreadSanitizer knows the C library's alone.
#if defined(__SANITIZE_THREAD__)
#define OS_GUARD_BY_LIBRARY 1
#elif defined(__has_feature)
#define OS_GUARD_BY_LIBRARY __has_feature(thread_sanitizer)
#else
#define OS_GUARD_BY_LIBRARY 0
#endif

#if OS_GUARD_BY_LIBRARY
#include <setjmp.h>
typedef sigjmp_buf os_guard_jump;
#define OS_GUARD_SET(jump) sigsetjmp(jump, 0)
#define OS_GUARD_JUMP(jump) siglongjmp(jump, 1)
#else
typedef void *os_guard_jump[5];
#define OS_GUARD_SET(jump) __builtin_setjmp(jump)
#define OS_GUARD_JUMP(jump) __builtin_longjmp(jump, 1)
#endif

struct os_guard {
    os_guard_jump jump;
    void *address;              // of the access that failed
    bool write;
    struct os_guard *outer;
};

// False: the handlers could not be installed.
bool os_guard_install(void) __attribute__((warn_unused_result));
// The thread's innermost guard: a signal handler has nowhere else to look.
extern _Thread_local __attribute__((tls_model("initial-exec"))) struct os_guard *os_guard_current;

static inline void os_guard_push(struct os_guard *guard)
{
    guard->outer = os_guard_current;
    os_guard_current = guard;
    __asm__ volatile("" : : : "memory");        // before the first access, for the handler
}

static inline void os_guard_leave(struct os_guard *guard)
{
    __asm__ volatile("" : : : "memory");
    os_guard_current = guard->outer;
}
// The failed access was not one that its thread could explain: let the process end by the signal, as without a guard.
_Noreturn void os_guard_unexplained(const struct os_guard *guard);

// Returns 0 at first, and 1 when an access inside has failed.
#define OS_GUARD_ENTER(guard) (os_guard_push(guard), OS_GUARD_SET((guard)->jump))

#endif
