// NUMA nodes by the files of /sys, and system calls for memory policy and affinity.
#include "os/numa.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>

#include "os/host.h"

#define NODES "/sys/devices/system/node/"
// A list of every second of the most processors that there can be has five characters for each.
#define LIST_ROOM (OS_NUMA_CPUS / 2 * 5 + 2)

static int of(long answer)
{
    return answer < 0 ? (int)-answer : 0;
}

// ---- Lists -------------------------------------------------------------------------------------------------------

static bool has(const uint64_t *bits, size_t number)
{
    return bits[number / 64] >> number % 64 & 1;
}

static int take_number(const char **at, size_t *number)
{
    if (!isdigit((unsigned char)**at))
        return EINVAL;
    for (*number = 0; isdigit((unsigned char)**at); (*at)++) {
        *number = *number * 10 + (size_t)(**at - '0');
        if (*number > UINT32_MAX)
            return ERANGE;
    }
    return 0;
}

static int take_range(const char **at, uint64_t *bits, size_t count)
{
    size_t first, last;
    int error = take_number(at, &first);
    last = first;
    if (!error && **at == '-') {
        (*at)++;
        error = take_number(at, &last);
    }
    if (error)
        return error;
    if (last < first)
        return EINVAL;
    if (last >= count)
        return ERANGE;
    for (size_t n = first; n <= last; n++) {
        if (has(bits, n))
            return EINVAL;
        bits[n / 64] |= 1ull << n % 64;
    }
    return 0;
}

int os_numa_parse(const char *list, uint64_t *bits, size_t count)
{
    memset(bits, 0, count / 8);
    if (*list == '\n' || !*list)        // as of a node that has no processors
        return list[0] && list[1] ? EINVAL : 0;
    for (;;) {
        int error = take_range(&list, bits, count);
        if (error)
            return error;
        if (*list != ',')
            break;
        list++;
    }
    if (*list == '\n')
        list++;
    return *list ? EINVAL : 0;
}

static int read_list(const char *path, uint64_t *bits, size_t count)
{
    char text[LIST_ROOM];
    long size = os_host_read(path, text, sizeof text);
    return size < 0 ? of(size) : os_numa_parse(text, bits, count);
}

// ---- Nodes -------------------------------------------------------------------------------------------------------

static int nodes_of(const char *what, uint64_t *nodes)
{
    char path[64];
    snprintf(path, sizeof path, NODES "%s", what);
    int error = read_list(path, nodes, OS_NUMA_NODES);
    if (error != ENOENT)
        return error;
    memset(nodes, 0, OS_NUMA_NODES / 8);
    nodes[0] = 1;
    return 0;
}

bool os_numa_exists(unsigned number)
{
    uint64_t online[OS_NUMA_NODES / 64];
    return number < OS_NUMA_NODES && nodes_of("online", online) == 0 && has(online, number);
}

unsigned os_numa_highest(void)
{
    uint64_t online[OS_NUMA_NODES / 64];
    unsigned highest = OS_NUMA_NODES - 1;
    if (nodes_of("online", online) != 0)
        return 0;
    while (highest > 0 && !has(online, highest))
        highest--;
    return highest;
}

// The nodes whose memory this process may use: a control group may have fewer than the host.
static int nodes_allowed(uint64_t *nodes)
{
    memset(nodes, 0, OS_NUMA_NODES / 8);
    // The kernel takes one bit less than it is told that there is room for.
    long answer = os_host_call(SYS_get_mempolicy, 0, (long)nodes, OS_NUMA_NODES + 1, 0, MPOL_F_MEMS_ALLOWED, 0);
    if (answer == -ENOSYS) {
        nodes[0] = 1;
        return 0;
    }
    return of(answer);
}

int os_numa_memory(unsigned number, bool *memory)
{
    uint64_t with_memory[OS_NUMA_NODES / 64], allowed[OS_NUMA_NODES / 64];
    int error = nodes_of("has_memory", with_memory);
    *memory = !error && number < OS_NUMA_NODES && has(with_memory, number);
    if (error || !*memory)
        return error;
    error = nodes_allowed(allowed);
    return error || has(allowed, number) ? error : EACCES;
}

int os_numa_cpus(unsigned number, struct os_cpus *cpus)
{
    char path[64];
    memset(cpus, 0, sizeof *cpus);
    if (!os_numa_exists(number))
        return ENOENT;
    snprintf(path, sizeof path, NODES "node%u/cpulist", number);
    int error = read_list(path, cpus->bits, OS_NUMA_CPUS);
    if (error == ENOENT) {          // the kernel knows of no nodes
        memset(cpus, 0xFF, sizeof *cpus);
        return 0;
    }
    return error;
}

// ---- Memory and threads ------------------------------------------------------------------------------------------

static int bind(void *start, size_t size, int mode, const uint64_t *nodes, unsigned flags)
{
    long room = nodes ? OS_NUMA_NODES + 1 : 0;
    long answer = os_host_call(SYS_mbind, (long)start, (long)size, mode, (long)nodes, room, flags);
    return answer == -ENOSYS ? 0 : of(answer);
}

int os_numa_prefer(void *start, size_t size, unsigned number)
{
    uint64_t nodes[OS_NUMA_NODES / 64] = { 0 };
    if (number >= OS_NUMA_NODES)
        return EINVAL;
    nodes[number / 64] = 1ull << number % 64;
    return bind(start, size, MPOL_PREFERRED, nodes, MPOL_MF_MOVE);
}

int os_numa_forget(void *start, size_t size)
{
    return bind(start, size, MPOL_DEFAULT, NULL, 0);
}

int os_numa_affinity(struct os_cpus *cpus)
{
    memset(cpus, 0, sizeof *cpus);
    return of(os_host_call(SYS_sched_getaffinity, 0, sizeof *cpus, (long)cpus, 0, 0, 0));
}

int os_numa_set_affinity(const struct os_cpus *cpus)
{
    return of(os_host_call(SYS_sched_setaffinity, 0, sizeof *cpus, (long)cpus, 0, 0, 0));
}
