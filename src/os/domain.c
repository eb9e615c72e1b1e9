// Core scheduling and control of speculation, by prctl.
#include "os/domain.h"

#include <errno.h>
#include <string.h>
#include <linux/prctl.h>
#include <sys/syscall.h>

#include "os/host.h"

static int of(long answer)
{
    return answer < 0 ? (int)-answer : 0;
}

// ---- Cores -------------------------------------------------------------------------------------------------------

bool os_domain_cores_shared(void)
{
    char text[16];
    return os_host_read("/sys/devices/system/cpu/smt/active", text, sizeof text) < 0 || strcmp(text, "0\n") != 0;
}

static int sched_core(unsigned command, int thread, uint64_t *cookie)
{
    return of(os_host_call(SYS_prctl, PR_SCHED_CORE, command, thread, PR_SCHED_CORE_SCOPE_THREAD, (long)cookie, 0));
}

int os_domain_cookie(int thread, uint64_t *cookie)
{
    *cookie = 0;
    return sched_core(PR_SCHED_CORE_GET, thread, cookie);
}

int os_domain_create(void)
{
    return sched_core(PR_SCHED_CORE_CREATE, 0, NULL);
}

int os_domain_join(int thread)
{
    return sched_core(PR_SCHED_CORE_SHARE_FROM, thread, NULL);
}

// ---- Speculation -------------------------------------------------------------------------------------------------

// The flush of the data cache is the one that is switched on to be protected, and that says so.
static const struct { long control, shut, open; } controls[OS_SPECULATIONS] = {
    [OS_SPECULATION_STORE_BYPASS] = { PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, PR_SPEC_ENABLE },
    [OS_SPECULATION_INDIRECT_BRANCH] = { PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE, PR_SPEC_ENABLE },
    [OS_SPECULATION_L1D] = { PR_SPEC_L1D_FLUSH, PR_SPEC_ENABLE, PR_SPEC_DISABLE },
};

enum os_speculation_state os_speculation(enum os_speculation which)
{
    long state = os_host_call(SYS_prctl, PR_GET_SPECULATION_CTRL, controls[which].control, 0, 0, 0, 0);
    if (state < 0)
        return OS_SPECULATION_EXPOSED;
    if (state & PR_SPEC_PRCTL) {
        if (state & controls[which].open)
            return OS_SPECULATION_OPEN;
        // Shut until the next execve, say: a state that is not ours to change.
        return state & controls[which].shut ? OS_SPECULATION_SHUT : OS_SPECULATION_SAFE;
    }
    // Without a control of its own the flush says that it cannot be had, in the words of what is disabled for good.
    if (which == OS_SPECULATION_L1D)
        return state == PR_SPEC_NOT_AFFECTED ? OS_SPECULATION_SAFE : OS_SPECULATION_EXPOSED;
    return state & PR_SPEC_ENABLE ? OS_SPECULATION_EXPOSED : OS_SPECULATION_SAFE;
}

int os_speculation_shut(enum os_speculation which, bool shut)
{
    return of(os_host_call(SYS_prctl, PR_SET_SPECULATION_CTRL, controls[which].control,
                           shut ? controls[which].shut : controls[which].open, 0, 0, 0));
}
