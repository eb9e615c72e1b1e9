// The host's NUMA nodes: which there are, where memory comes from, and which processors a thread may run on.
//
// Source: Documentation/admin-guide/mm/numa_memory_policy.rst, Documentation/ABI/stable/sysfs-devices-node. A kernel
// that knows of no nodes has one, node 0, with everything on it.
//
// Functions that answer an int: 0, or an errno.
#ifndef BULKHEAD_OS_NUMA_H
#define BULKHEAD_OS_NUMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The most that Linux can be built for on x86.
#define OS_NUMA_CPUS 8192
#define OS_NUMA_NODES 1024

struct os_cpus { uint64_t bits[OS_NUMA_CPUS / 64]; };

// A list as the kernel writes them, "0-3,8\n": bit N for each number N in it, of `count` at most. EINVAL for any other
// form, a number twice included; ERANGE for a number that has no bit. Then bits are what they happen to be.
int os_numa_parse(const char *list, uint64_t *bits, size_t count) __attribute__((warn_unused_result));

// False also where the host's files cannot be read.
bool os_numa_exists(unsigned number);
// The highest node there is; 0 also where the host's files cannot be read.
unsigned os_numa_highest(void);
// The processors that are on a node, which may be none. ENOENT: there is no such node. Otherwise what became of reading
// the host's files.
int os_numa_cpus(unsigned number, struct os_cpus *cpus) __attribute__((warn_unused_result));
// Whether a node has memory. EACCES: it has, and this process may not use it; or what kept the kernel from telling
// (EPERM).
int os_numa_memory(unsigned number, bool *memory) __attribute__((warn_unused_result));

// Have memory come from a node as long as that has any; pages that are there already move, as far as they can. `start`
// and `size` are on pages. EFAULT: some of it is no memory of this process. A kernel that knows of no nodes does
// nothing.
int os_numa_prefer(void *start, size_t size, unsigned number) __attribute__((warn_unused_result));
// Have memory come from wherever this process's memory does.
int os_numa_forget(void *start, size_t size) __attribute__((warn_unused_result));

// The processors that this thread may run on.
int os_numa_affinity(struct os_cpus *cpus) __attribute__((warn_unused_result));
int os_numa_set_affinity(const struct os_cpus *cpus) __attribute__((warn_unused_result));

#endif
