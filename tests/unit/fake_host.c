// The made-up host: what the kernel knows of each thread, and its answers.
#include "fake_host.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <linux/mempolicy.h>
#include <linux/prctl.h>
#include <sys/syscall.h>

#include "unit.h"

#include "os/host.h"

#define THREADS 64

struct task {
    int number;
    uint64_t cookie;
    long speculation[OS_SPECULATIONS];
    uint64_t cpus;
};

struct fake_host fake_host;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct task tasks[THREADS];
static unsigned task_count;
static uint64_t last_cookie;

// ---- Threads -------------------------------------------------------------------------------------

static struct task *task_of(int number)
{
    struct task *t;

    for (unsigned i = 0; i < task_count; i++)
        if (tasks[i].number == number)
            return &tasks[i];
    assert_true(task_count < THREADS);
    t = &tasks[task_count++];
    *t = (struct task){.number = number, .cpus = 0xF};
    memcpy(t->speculation, fake_host.speculation, sizeof(t->speculation));
    return t;
}

void fake_host_reset(void)
{
    task_count = 0;
    fake_host = (struct fake_host){
        .smt = "1\n", .online = "0-1\n", .with_memory = "0-1\n", .cpulist = {"0-1\n", "2-3\n"},
        .core_scheduling = true, .cores_shared = true, .numa = true, .allowed = 3,
        .speculation = {PR_SPEC_PRCTL | PR_SPEC_ENABLE, PR_SPEC_PRCTL | PR_SPEC_ENABLE, PR_SPEC_FORCE_DISABLE},
    };
}

void fake_host_inherit(int thread, int creator)
{
    struct task inherited;

    pthread_mutex_lock(&lock);
    inherited = *task_of(creator);
    inherited.number = thread;
    *task_of(thread) = inherited;
    pthread_mutex_unlock(&lock);
}

uint64_t fake_cookie(int thread)
{
    uint64_t cookie;

    pthread_mutex_lock(&lock);
    cookie = task_of(thread)->cookie;
    pthread_mutex_unlock(&lock);
    return cookie;
}

void fake_set_cookie(int thread, uint64_t cookie)
{
    pthread_mutex_lock(&lock);
    task_of(thread)->cookie = cookie;
    pthread_mutex_unlock(&lock);
}

long fake_speculation(int thread, enum os_speculation which)
{
    long state;

    pthread_mutex_lock(&lock);
    state = task_of(thread)->speculation[which];
    pthread_mutex_unlock(&lock);
    return state;
}

uint64_t fake_affinity(int thread)
{
    uint64_t cpus;

    pthread_mutex_lock(&lock);
    cpus = task_of(thread)->cpus;
    pthread_mutex_unlock(&lock);
    return cpus;
}

void fake_set_affinity(int thread, uint64_t cpus)
{
    pthread_mutex_lock(&lock);
    task_of(thread)->cpus = cpus;
    pthread_mutex_unlock(&lock);
}

// ---- Files ---------------------------------------------------------------------------------------

static const char *text_of(const char *path)
{
    unsigned node;
    int end = 0;

    if (strcmp(path, "/sys/devices/system/cpu/smt/active") == 0)
        return fake_host.smt;
    if (strcmp(path, "/sys/devices/system/node/online") == 0)
        return fake_host.online;
    if (strcmp(path, "/sys/devices/system/node/has_memory") == 0)
        return fake_host.with_memory;
    if (sscanf(path, "/sys/devices/system/node/node%u/cpulist%n", &node, &end) == 1 && end && !path[end] && node < 4)
        return fake_host.cpulist[node];
    return NULL;
}

long __wrap_os_host_read(const char *path, char *text, size_t room);
long __wrap_os_host_read(const char *path, char *text, size_t room)
{
    const char *content = text_of(path);

    if (fake_host.file_error)
        return -fake_host.file_error;
    if (!content)
        return -ENOENT;
    if (strlen(content) >= room)
        return -EFBIG;
    strcpy(text, content);
    return (long)strlen(content);
}

// ---- System calls --------------------------------------------------------------------------------

static long sched_core(struct task *self, long command, long thread, long scope, uint64_t *out)
{
    if (!fake_host.core_scheduling)
        return -EINVAL;
    if (!fake_host.cores_shared)
        return -ENODEV;
    if (scope != PR_SCHED_CORE_SCOPE_THREAD || (command != PR_SCHED_CORE_GET && out))
        return -EINVAL;
    switch (command) {
    case PR_SCHED_CORE_GET:
        *out = thread ? task_of((int)thread)->cookie : self->cookie;
        return 0;
    case PR_SCHED_CORE_CREATE:
        self->cookie = ++last_cookie;
        return 0;
    case PR_SCHED_CORE_SHARE_FROM:
        self->cookie = task_of((int)thread)->cookie;
        return 0;
    default:
        return -EINVAL;
    }
}

static long set_speculation(struct task *self, long which, long value)
{
    long *state = &self->speculation[which];

    if (!(*state & PR_SPEC_PRCTL))
        return -ENXIO;
    if (value != PR_SPEC_ENABLE && value != PR_SPEC_DISABLE)
        return -ERANGE;
    if (*state & PR_SPEC_FORCE_DISABLE)
        return -EPERM;
    *state = PR_SPEC_PRCTL | value;
    return 0;
}

static long mbind_call(uintptr_t start, size_t size, long mode, const uint64_t *nodes, unsigned flags)
{
    struct fake_policy *policy = &fake_host.policies[fake_host.policy_count];
    const uint64_t wanted = nodes ? nodes[0] : 0;

    if (!fake_host.numa)
        return -ENOSYS;
    if (mode == MPOL_DEFAULT ? wanted != 0 : !(wanted & fake_host.allowed))
        return -EINVAL;
    if (mode != MPOL_DEFAULT && fake_host.hole >= start && fake_host.hole < start + size)
        return -EFAULT;
    assert_true(fake_host.policy_count < sizeof(fake_host.policies) / sizeof(fake_host.policies[0]));
    *policy = (struct fake_policy){start, size, (int)mode, wanted, flags};
    fake_host.policy_count++;
    return 0;
}

static bool changes(long number, long a, long b)
{
    return number == SYS_mbind || number == SYS_sched_setaffinity ||
           (number == SYS_prctl && (a == PR_SET_SPECULATION_CTRL || (a == PR_SCHED_CORE && b != PR_SCHED_CORE_GET)));
}

static long answer(struct task *self, long number, long a, long b, long c, long d, long e, long f)
{
    uint64_t *bits;

    switch (number) {
    case SYS_prctl:
        if (a == PR_SCHED_CORE)
            return sched_core(self, b, c, d, (uint64_t *)e);
        if (b < 0 || b >= OS_SPECULATIONS)
            return -ENODEV;
        if (a == PR_GET_SPECULATION_CTRL)
            return self->speculation[b];
        return a == PR_SET_SPECULATION_CTRL ? set_speculation(self, b, c) : -EINVAL;
    case SYS_mbind:
        return mbind_call((uintptr_t)a, (size_t)b, c, (const uint64_t *)d, (unsigned)f);
    case SYS_get_mempolicy:
        if (!fake_host.numa)
            return -ENOSYS;
        if (c < 1024 || d != 0 || e != MPOL_F_MEMS_ALLOWED)
            return -EINVAL;
        *(uint64_t *)b = fake_host.allowed;
        return 0;
    case SYS_sched_getaffinity:
        bits = (uint64_t *)c;
        bits[0] = self->cpus;
        return 8;
    case SYS_sched_setaffinity:
        bits = (uint64_t *)c;
        if (!(bits[0] & 0xF))
            return -EINVAL;
        self->cpus = bits[0] & 0xF;
        return 0;
    default:
        return -ENOSYS;
    }
}

long __wrap_os_host_call(long number, long a, long b, long c, long d, long e, long f);
long __wrap_os_host_call(long number, long a, long b, long c, long d, long e, long f)
{
    long result;

    pthread_mutex_lock(&lock);
    fake_host.calls++;
    if (changes(number, a, b) && ++fake_host.changes == fake_host.fail_at)
        result = -fake_host.fail_with;
    else
        result = answer(task_of(gettid()), number, a, b, c, d, e, f);
    pthread_mutex_unlock(&lock);
    return result;
}
