// A control group (cgroup v2) for some threads of this process: how much of the processors they get together.
//
// It is a threaded group below the process's own, so that memory and everything else stay the process's. That takes the
// cpu controller, handed down to the process's own group, and the right to write there (systemd's Delegate=, a user
// session, or root). Functions answer 0, or minus an errno.
#ifndef BULKHEAD_OS_CGROUP_H
#define BULKHEAD_OS_CGROUP_H

#include <stddef.h>
#include <stdint.h>

#define OS_CGROUP_PATH 512

struct os_cgroup {
    char parent[OS_CGROUP_PATH];
    char path[OS_CGROUP_PATH + 64];     // "": none
    uint64_t number;                    // no other group of the process ever has it
};

// The directory of the process's own group. -ENOENT: there is no cgroup v2, or it is not to be seen from here.
int os_cgroup_own(char *path, size_t size) __attribute__((warn_unused_result));

// Make the group NAME below PARENT, and see that the calling thread could be in it. -ENOTSUP: no cpu controller there.
// The controller stays handed down below PARENT; on failure no group is left.
int os_cgroup_make(struct os_cgroup *g, const char *parent, const char *name) __attribute__((warn_unused_result));
// Its threads get `quota` of each `period`, both in us, on all processors together (0: no bound), and a part of a
// contended one by `weight`, 1 to 10,000.
int os_cgroup_limit(const struct os_cgroup *g, uint64_t quota, uint64_t period, uint32_t weight)
    __attribute__((warn_unused_result));
// The calling thread is in it until it joins another one. Costs nothing when it is in it already.
int os_cgroup_join(const struct os_cgroup *g) __attribute__((warn_unused_result));
// Its threads go back to the process's own group.
void os_cgroup_remove(struct os_cgroup *g);

#endif
