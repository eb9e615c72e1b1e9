// Have another thread come back from a system call that it sleeps or works in: a signal that means nothing
// else.
//
// The signal is SIGURG: nobody sends it by accident, debuggers let it pass, and whoever else uses it has to
// expect it for no reason. Any handler will do for it to interrupt a call, so one is installed only where
// there is none.
#ifndef BULKHEAD_OS_KICK_H
#define BULKHEAD_OS_KICK_H

#include <stdbool.h>

// Process: see that the signal has a handler. False: it could not be installed.
bool os_kick_install(void) __attribute__((warn_unused_result));
// Thread: let the signal come, at the first call. Its number, for os_kick.
int os_kick_accept(void);
// Interrupt the thread. One that has ended meanwhile is no error.
void os_kick(int thread);

#endif
