// Which threads may share a core, and what a thread lets its processor guess at: core scheduling and the controls of
// speculation.
//
// Core scheduling (Documentation/admin-guide/hw-vuln/core-scheduling.rst): every task has a cookie, none to begin with.
// Two tasks run on one core at the same time only if their cookies are the same. A cookie is there as long as a task
// has it; a new task has its creator's. Speculation (Documentation/userspace-api/spec_ctrl.rst): a new task has its
// creator's settings too.
//
// Functions that answer an int: 0, or an errno. Of core scheduling: ENODEV where no core has two threads in use, EINVAL
// where the kernel does not know of it, ESRCH and EPERM for another thread, ENOMEM.
#ifndef BULKHEAD_OS_DOMAIN_H
#define BULKHEAD_OS_DOMAIN_H

#include <stdbool.h>
#include <stdint.h>

#define OS_CHECKED __attribute__((warn_unused_result))

// False only where the kernel says that no core has two threads in use.
bool os_domain_cores_shared(void);

// The cookie of a thread, of this one for 0, as a number; 0: none. A number is given again once nobody has the cookie.
OS_CHECKED int os_domain_cookie(int thread, uint64_t *cookie);
// This thread gets a cookie that nobody has.
OS_CHECKED int os_domain_create(void);
// This thread gets another one's cookie, or none if that one has none.
OS_CHECKED int os_domain_join(int thread);

enum os_speculation {
    OS_SPECULATION_STORE_BYPASS,
    OS_SPECULATION_INDIRECT_BRANCH,
    OS_SPECULATION_L1D,
    OS_SPECULATIONS
};

enum os_speculation_state {
    OS_SPECULATION_SAFE,        // the processor is not affected, or the host or somebody else has seen to it for good
    OS_SPECULATION_SHUT,        // this thread is protected, and need not be
    OS_SPECULATION_OPEN,        // it is not, and can be
    OS_SPECULATION_EXPOSED,     // it is not, and cannot be; or the kernel does not know of the control
};

// How this thread stands. L1D: whether what it leaves in the data cache is flushed when it is switched away from. The
// kernel ends a thread with SIGBUS that is flushed for and runs on a core with two threads in use.
enum os_speculation_state os_speculation(enum os_speculation which);
// From open to shut, or back. Never for good.
OS_CHECKED int os_speculation_shut(enum os_speculation which, bool shut);

#endif
