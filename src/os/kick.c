// The signal that interrupts a thread's system call.
#include "os/kick.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include <sys/syscall.h>

static bool installed_fork;
// Asking the kernel each time costs more than the rest.
static _Thread_local __attribute__((tls_model("initial-exec"))) int self;

static void nothing(int number)
{
    (void)number;
}

static void forget_self(void)
{
    self = 0;
}

static void install_fork(void)
{
    installed_fork = pthread_atfork(NULL, NULL, forget_self) == 0;
}

bool os_kick_install(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct sigaction current;
    // A thread that has forked has another number in the child.
    pthread_once(&once, install_fork);
    if (!installed_fork || sigaction(SIGURG, NULL, &current) != 0)
        return false;
    if ((current.sa_flags & SA_SIGINFO) || (current.sa_handler != SIG_DFL && current.sa_handler != SIG_IGN))
        return true;
    // SA_RESTART: calls of a thread that is hit by a late kick go on as if nothing had been.
    struct sigaction ours = { .sa_handler = nothing, .sa_flags = SA_RESTART };
    sigemptyset(&ours.sa_mask);
    return sigaction(SIGURG, &ours, NULL) == 0;
}

__attribute__((hot)) int os_kick_accept(void)
{
    if (__builtin_expect(self != 0, 1))
        return self;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGURG);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return self = gettid();
}

void os_kick(int thread)
{
    syscall(SYS_tgkill, getpid(), thread, SIGURG);
}
