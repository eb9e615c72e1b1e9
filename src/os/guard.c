// SIGSEGV and SIGBUS handlers for guarded accesses to guest memory.
#include "os/guard.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

_Thread_local __attribute__((tls_model("initial-exec"))) struct os_guard *os_guard_current;

static struct sigaction previous_segv, previous_bus;

static void pass_on(int number, siginfo_t *info, void *context)
{
    const struct sigaction *previous = number == SIGBUS ? &previous_bus : &previous_segv;
    if (previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(number, info, context);
    } else if (previous->sa_handler != SIG_DFL && previous->sa_handler != SIG_IGN) {
        previous->sa_handler(number);
    } else {
        // Returning repeats the access, which then ends the process as it would have without us.
        sigaction(number, previous, NULL);
    }
}

static void handler(int number, siginfo_t *info, void *context)
{
    struct os_guard *guard = os_guard_current;
    if (!guard || info->si_code <= 0) {     // not ours, or sent by somebody
        pass_on(number, info, context);
        return;
    }
    const ucontext_t *user = context;
    guard->address = info->si_addr;
    guard->write = user->uc_mcontext.gregs[REG_ERR] & 2;
    // The mask of the code that failed: who wraps handlers (a sanitizer does) may have blocked more than asked.
    pthread_sigmask(SIG_SETMASK, &user->uc_sigmask, NULL);
    OS_GUARD_JUMP(guard->jump);
}

static bool install(int number, struct sigaction *previous)
{
    // SA_NODEFER: the jump out of the handler must not leave the signal blocked.
    struct sigaction ours = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
    struct sigaction current;
    if (sigaction(number, NULL, &current) != 0)
        return false;
    if (current.sa_sigaction == handler && (current.sa_flags & SA_SIGINFO))
        return true;
    // Whoever covered ours may have put it back as a plain handler, without SA_SIGINFO: still nobody to pass on to.
    if (current.sa_sigaction != handler)
        *previous = current;
    sigemptyset(&ours.sa_mask);
    return sigaction(number, &ours, NULL) == 0;
}

bool os_guard_install(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    bool installed = install(SIGSEGV, &previous_segv) && install(SIGBUS, &previous_bus);
    pthread_mutex_unlock(&lock);
    return installed;
}

void os_guard_unexplained(const struct os_guard *guard)
{
    (void)guard;
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
    abort();
}
