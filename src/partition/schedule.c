// How much processor time a partition gets: runs are given a slice of it at a time, and held back where there is none.
//
// A slice is taken from the partition's account (quota.h), and from the processor's own bucket where a frequency is
// capped, before it is used. It ends at a tick of the host's counter, vp->due: the engine looks at that, and where guest
// code runs out of its sight a thread of the partition's has it look (watch_main). Processor time is never more than
// time that has passed, so a slice cannot be overrun unnoticed; what was really used is settled at its end. A run that
// begins inside a slice, on the same thread, costs two readings of the counter.
//
// Where the process may, a partition without a group has a control group of the kernel's beside that: it bounds the cap
// and weighs against what is not Bulkhead's. Slices are still given, for reserves and weights hold across processes.
#include "partition/policy.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/cgroup.h"
#include "os/ledger.h"
#include "os/thread.h"
#include "os/wait.h"
#include "partition/quota.h"

#define NOT_SUPPORTED HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)
#define LEDGER_NAME "bulkhead-schedule-1"
#define LEDGER_PATH 256
#define CPU_WEIGHT_DEFAULT 100
// A thread that was out of runs for longer has done something else: that is not the processor's.
#define OUTSIDE_NS 1000000
#define CPUS_NS 100000000           // where a thread may run is asked for so often
#define KICK_AGAIN_NS 500000        // a pause that was lost on a run is repeated
// A control group's period, and the least that the kernel takes for a quota and a period at most, in us.
#define GROUP_PERIOD 10000
#define GROUP_QUOTA_MIN 1000
#define GROUP_PERIOD_MAX 1000000

// Of one processor; the thread's that runs it, but for `state`.
struct schedule_vp {
    uint64_t thread;                // os_thread_number; 0: none yet
    int stat;                       // os_thread_open; -1: none
    uint64_t slice;                 // ns taken that `used` is settled against
    uint64_t cpu_from, waited_from, tick_from;          // when the slice began, by each clock
    uint64_t held;                  // ns before that in which its buckets had nothing for it
    uint64_t own;                   // processor time that it took to begin the slice
    uint64_t left;                  // tick at which the last run ended
    uint64_t cpus_at;
    struct quota_bucket frequency;
    _Atomic uint32_t state;         // only with a watch
};

// A run that the watch is about to pause does not end before that is done: its processor could be gone by then.
enum { STATE_OUT, STATE_RUNS, STATE_PAUSING };

struct schedule {
    struct partition *partition;
    unsigned int member;
    bool admitted;
    int pid;                        // of the process that it was admitted in: a fork's child gives nothing back
    uint64_t outside;               // OUTSIDE_NS in ticks
    struct os_cgroup group;
    pthread_t watch;
    bool watched;                   // there is a watch
    atomic_bool stop;
    _Atomic uint32_t bell;          // what the watch waits on: rung when a run begins while it sleeps
    _Atomic bool sleeping;
    struct schedule_vp vps[PARTITION_MAX_PROCESSORS];
};

// ---- The ledger ----------------------------------------------------------------------------------------------------

// Limits hold across partitions and processes, so their table is one for the process. It is open while a partition is in
// it. Under `lock`; a partition that is in it may use it without.
static struct {
    pthread_mutex_t lock;
    unsigned int users;
    int pid;
    struct os_ledger ledger;
} host = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct quota_table *table(void)
{
    return host.ledger.table;
}

CHECKED static HRESULT open_ledger(void)
{
    char directory[LEDGER_PATH];
    int answer;

    // What a fork has copied is the parent's.
    if (host.users && host.pid == getpid()) {
        host.users++;
        return S_OK;
    }
    answer = os_ledger_directory(directory, sizeof(directory));
    if (answer == 0)
        answer = os_ledger_open(&host.ledger, directory, LEDGER_NAME, QUOTA_LAYOUT, sizeof(struct quota_table));
    if (answer < 0)
        answer = os_ledger_open_private(&host.ledger, sizeof(struct quota_table));
    if (answer < 0)
        return E_OUTOFMEMORY;
    host.pid = getpid();
    host.users = 1;
    return S_OK;
}

static void close_ledger(void)
{
    if (--host.users == 0)
        os_ledger_close(&host.ledger);
}

// Members whose process is gone. With the table's lock. A process does not see its own locks: what bears its number is
// its own, but for what it finds when it comes, `fresh`.
static void bury(bool fresh)
{
    struct quota_table *t = table();

    for (unsigned int i = 0; i < QUOTA_MEMBERS; i++)
        if (t->member[i].used && (fresh || t->member[i].pid != (uint32_t)host.pid) &&
            !os_ledger_held_elsewhere(&host.ledger, i))
            quota_leave(t, i);
}

CHECKED static HRESULT admit(struct schedule *s, const struct quota_terms *terms)
{
    HRESULT hr;

    pthread_mutex_lock(&host.lock);
    hr = open_ledger();
    if (FAILED(hr)) {
        pthread_mutex_unlock(&host.lock);
        return hr;
    }
    os_ledger_lock(&host.ledger);
    bury(host.users == 1);
    // A reserve that other processes cannot see is none.
    if (terms->reserve && host.ledger.fd < 0)
        hr = NOT_SUPPORTED;
    else
        hr = quota_admit(table(), terms, os_cores_online(), os_monotonic_ns(), (uint32_t)host.pid, &s->member);
    if (SUCCEEDED(hr) && os_ledger_hold(&host.ledger, s->member) < 0) {
        quota_leave(table(), s->member);
        hr = E_OUTOFMEMORY;
    }
    os_ledger_unlock(&host.ledger);
    s->admitted = SUCCEEDED(hr);
    if (!s->admitted)
        close_ledger();
    pthread_mutex_unlock(&host.lock);
    return hr;
}

void schedule_release_locked(struct partition *p)
{
    struct schedule *s = p->schedule;

    if (!s || !s->admitted)
        return;
    s->admitted = false;
    if (s->pid != getpid())
        return;
    pthread_mutex_lock(&host.lock);
    os_ledger_lock(&host.ledger);
    quota_leave(table(), s->member);
    os_ledger_drop(&host.ledger, s->member);
    os_ledger_unlock(&host.ledger);
    close_ledger();
    pthread_mutex_unlock(&host.lock);
}

// ---- The control group ----------------------------------------------------------------------------------------------

CHECKED static int limit_group(const struct os_cgroup *g, const struct quota_terms *terms)
{
    uint64_t cores = (uint64_t)terms->cap * terms->processors * (QUOTA_CORE / 100);
    uint64_t period = GROUP_PERIOD, quota = cores * period / QUOTA_CORE;

    if (terms->cap == 100)
        return os_cgroup_limit(g, 0, 0, terms->weight);
    if (quota < GROUP_QUOTA_MIN) {
        quota = GROUP_QUOTA_MIN;
        period = quota * QUOTA_CORE / cores;
        period = period < GROUP_PERIOD_MAX ? period : GROUP_PERIOD_MAX;
    }
    return os_cgroup_limit(g, quota, period, terms->weight);
}

// False, and nothing has changed, where the process may not have one.
static bool make_group(struct os_cgroup *g, const struct quota_terms *terms)
{
    static _Atomic unsigned int last;
    char parent[OS_CGROUP_PATH], name[48];

    g->path[0] = '\0';
    // A group of partitions is more than one process's.
    if (terms->group || os_cgroup_own(parent, sizeof(parent)) < 0)
        return false;
    snprintf(name, sizeof(name), "bulkhead-%d-%u", getpid(), atomic_fetch_add(&last, 1));
    if (os_cgroup_make(g, parent, name) < 0)
        return false;
    if (limit_group(g, terms) == 0)
        return true;
    os_cgroup_remove(g);
    return false;
}

// ---- The watch -----------------------------------------------------------------------------------------------------

// Pause the runs that are due. In how many ns the next one is, at the latest; UINT64_MAX: there is none.
static uint64_t pause_due(struct schedule *s)
{
    uint64_t next = UINT64_MAX, hz = os_tsc_hz();

    for (unsigned int i = 0; i < PARTITION_MAX_PROCESSORS; i++) {
        struct vp *vp = s->partition->vp_memory[i];
        uint32_t runs = STATE_RUNS;
        uint64_t now, due, ns = KICK_AGAIN_NS;

        if (!vp || s->vps[i].state != STATE_RUNS)
            continue;
        now = os_tsc();
        due = vp->due;
        if (now < due) {
            ns = clock_scale(due - now, 1000000000, hz) + 1;
        } else if (atomic_compare_exchange_strong(&s->vps[i].state, &runs, STATE_PAUSING)) {
            s->partition->engine->vp_pause(vp);
            s->vps[i].state = STATE_RUNS;
        }
        next = ns < next ? ns : next;
    }
    return next;
}

static void *watch_main(void *argument)
{
    struct schedule *s = argument;

    while (!s->stop) {
        uint32_t bell = s->bell;
        uint64_t next = pause_due(s);

        if (next == UINT64_MAX) {
            // A run that begins now finds it asleep, or has begun before this second look.
            s->sleeping = true;
            next = pause_due(s);
        }
        os_wait(&s->bell, bell, next);
        s->sleeping = false;
    }
    return NULL;
}

static void ring(struct schedule *s)
{
    atomic_fetch_add(&s->bell, 1);
    os_wake(&s->bell);
}

CHECKED static HRESULT start_watch(struct schedule *s)
{
    sigset_t all, before;
    int answer;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    answer = pthread_create(&s->watch, NULL, watch_main, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    s->watched = answer == 0;
    return s->watched ? S_OK : E_OUTOFMEMORY;
}

static void run_begins(struct schedule *s, struct schedule_vp *v)
{
    if (!s->watched)
        return;
    v->state = STATE_RUNS;
    if (s->sleeping)
        ring(s);
}

static void run_ends(struct schedule *s, struct schedule_vp *v)
{
    uint32_t runs = STATE_RUNS;

    if (!s->watched)
        return;
    while (!atomic_compare_exchange_weak(&v->state, &runs, STATE_OUT))
        runs = STATE_RUNS;
}

// ---- Set-up --------------------------------------------------------------------------------------------------------

// Whether the kernel tells how long threads wait for a core: without it nobody knows who stands in whose way.
static bool waits_known(void)
{
    uint64_t ns;
    int fd = os_thread_open();
    bool known = fd >= 0 && os_thread_waited(fd, &ns);

    if (fd >= 0)
        close(fd);
    return known;
}

void schedule_features(WHV_SCHEDULER_FEATURES *features)
{
    char directory[LEDGER_PATH];

    features->CpuCap = features->CpuGroupId = 1;
    features->CpuWeight = waits_known();
    features->CpuReserve = features->CpuWeight && os_ledger_directory(directory, sizeof(directory)) == 0;
}

static uint32_t nominal_mhz(void)
{
    return (uint32_t)(os_tsc_hz() / 1000000);
}

void schedule_report(char *text, size_t size)
{
    char path[OS_CGROUP_PATH], why[128];
    struct os_cgroup probe;
    char name[48];
    int answer = os_cgroup_own(path, sizeof(path));
    size_t length;

    if (answer == 0) {
        snprintf(name, sizeof(name), "bulkhead-%d-probe", getpid());
        answer = os_cgroup_make(&probe, path, name);
        if (answer == 0)
            os_cgroup_remove(&probe);
    } else {
        snprintf(path, sizeof(path), "/sys/fs/cgroup");
    }
    if (answer == 0)
        snprintf(text, size, "processor time: control groups (cgroup v2) below %s, and slices of the library's own\n",
                 path);
    else
        snprintf(text, size, "processor time: slices of the library's own; no control groups, as %s %s\n", path,
                 answer == -ENOTSUP  ? "has no cpu controller"
                 : answer == -ENOENT ? "is no cgroup v2"
                                     : strerror_r(-answer, why, sizeof(why)));
    length = strlen(text);
    if (os_ledger_directory(path, sizeof(path)) == 0)
        snprintf(text + length, size - length, "accounts: shared by this user's processes, in %s\n", path);
    else
        snprintf(text + length, size - length, "accounts: this process's alone, for want of a runtime directory\n");
    length = strlen(text);
    snprintf(text + length, size - length, "frequency cap: a bound on processor time, of nominal %u MHz\n",
             nominal_mhz());
}

void schedule_frequency(WHV_CAPABILITY_PROCESSOR_FREQUENCY_CAP *frequency)
{
    frequency->IsSupported = 1;
    frequency->HighestFrequencyMhz = frequency->NominalFrequencyMhz = nominal_mhz();
    frequency->LowestFrequencyMhz = frequency->FrequencyStepMhz = 1;
}

static bool is_set(const struct partition *p, WHV_PARTITION_PROPERTY_CODE code)
{
    return property_is_set(&p->properties, property_find(code));
}

// A host's cpufreq slows down everybody on the core: what a lower frequency would leave of it is given as time instead.
static uint64_t frequency_rate(const struct partition *p)
{
    uint64_t cap = p->properties.processor_frequency_cap, nominal = nominal_mhz();

    return cap == 0 || cap >= nominal ? 0 : cap * QUOTA_CORE / nominal;
}

HRESULT schedule_set_up_locked(struct partition *p, bool *wanted)
{
    const struct property_values *values = &p->properties;
    struct quota_terms terms = {
        .group = values->cpu_group_id, .cap = values->cpu_cap, .reserve = values->cpu_reserve,
        .weight = values->cpu_weight, .processors = values->processor_count,
    };
    uint64_t frequency = frequency_rate(p);
    struct schedule *s;
    HRESULT hr;

    if (terms.cap == 100 && !terms.reserve && !terms.group && !frequency &&
        !is_set(p, WHvPartitionPropertyCodeCpuWeight))
        return S_OK;
    if ((terms.reserve || terms.weight != CPU_WEIGHT_DEFAULT) && !waits_known())
        return NOT_SUPPORTED;
    s = calloc(1, sizeof(*s));
    if (!s)
        return E_OUTOFMEMORY;
    s->partition = p;
    s->pid = getpid();
    s->outside = clock_scale(OUTSIDE_NS, os_tsc_hz(), 1000000000);
    for (unsigned int i = 0; i < PARTITION_MAX_PROCESSORS; i++) {
        s->vps[i].stat = -1;
        quota_bucket_init(&s->vps[i].frequency, frequency, os_monotonic_ns());
    }
    p->schedule = s;
    terms.capped = make_group(&s->group, &terms);
    hr = admit(s, &terms);
    if (SUCCEEDED(hr) && p->engine->vp_pause)
        hr = start_watch(s);
    if (FAILED(hr))
        schedule_tear_down_locked(p);
    else
        *wanted = true;
    return hr;
}

void schedule_tear_down_locked(struct partition *p)
{
    struct schedule *s = p->schedule;

    if (!s)
        return;
    if (s->watched) {
        s->stop = true;
        ring(s);
        pthread_join(s->watch, NULL);
    }
    schedule_release_locked(p);
    if (s->pid == getpid())
        os_cgroup_remove(&s->group);
    for (unsigned int i = 0; i < PARTITION_MAX_PROCESSORS; i++)
        if (s->vps[i].stat >= 0)
            close(s->vps[i].stat);
    for (unsigned int i = 0; i < PARTITION_MAX_PROCESSORS; i++)
        if (p->vp_memory[i])
            p->vp_memory[i]->due = 0;
    p->schedule = NULL;
    free(s);
}

// ---- Runs ----------------------------------------------------------------------------------------------------------

// False: the processor was cancelled meanwhile, and what comes next is the engine's answer to that.
static bool held_back(struct vp *vp, uint64_t ns)
{
    uint64_t now = os_monotonic_ns(), until = now + ns;

    for (; now < until; now = os_monotonic_ns()) {
        uint32_t cancels = vp->cancels;

        if (cancels != vp->cancels_seen)
            return false;
        os_wait(&vp->cancels, cancels, until - now);
    }
    return vp->cancels == vp->cancels_seen;
}

static uint64_t waited(const struct schedule_vp *v)
{
    uint64_t ns = 0;

    return v->stat >= 0 && os_thread_waited(v->stat, &ns) ? ns : v->waited_from;
}

// Another thread has come: what it did before is not the processor's.
static void change_thread(struct schedule_vp *v)
{
    if (v->stat >= 0)
        close(v->stat);
    v->stat = os_thread_open();         // a kernel that does not tell: nobody is known to wait
    v->thread = os_thread_number();
    v->cpus_at = 0;
    v->waited_from = 0;
}

// What the slice that ends was used for.
struct use {
    uint64_t cpu, wait, passed;
    uint64_t at;                    // of the thread's processor time
    uint64_t cpus[QUOTA_CPUS / 64];
    bool asked;                     // `cpus` is new
};

static void measure(struct schedule_vp *v, uint64_t now, struct use *use)
{
    uint64_t cpu, wait = waited(v) - v->waited_from;
    // Until the end of the last run; what the thread did then is its own.
    uint64_t passed = clock_scale(v->left - v->tick_from, 1000000000, os_tsc_hz());

    use->at = os_thread_ns();
    use->passed = passed;
    cpu = use->at - v->cpu_from;
    use->cpu = cpu < passed ? cpu : passed;
    use->wait = wait < passed - use->cpu ? wait : passed - use->cpu;
    use->asked = now - v->cpus_at >= CPUS_NS && os_thread_cpus(use->cpus, QUOTA_CPUS / 64);
    if (use->asked)
        v->cpus_at = now;
}

// With the table's lock.
static void settle(struct vp *vp, struct schedule_vp *v, uint64_t now, const struct use *use)
{
    struct schedule *s = vp->partition->schedule;
    uint64_t cpu = use->cpu + v->own;
    int64_t left = (int64_t)(v->slice - cpu);

    quota_bucket_give(&v->frequency, left);
    quota_bucket_give(&quota_account_of(table(), s->member)->bucket, left);
    quota_note(table(), s->member, vp->index, now, cpu, use->wait, use->passed + v->held, use->asked ? use->cpus : NULL);
    v->slice = v->own = v->held = 0;
}

// 0: there is a slice, or for how many ns there is none. With the table's lock.
static uint64_t take(struct vp *vp, struct schedule_vp *v, uint64_t now)
{
    struct schedule *s = vp->partition->schedule;
    struct quota_account *account = quota_account_of(table(), s->member);
    uint64_t aside = quota_stand_aside(table(), s->member, vp->index, now), ns;

    if (aside)
        return aside;
    ns = quota_bucket_take(&v->frequency, now, QUOTA_SLICE_NS);
    if (ns == 0) {
        ns = quota_bucket_take(&account->bucket, now, QUOTA_SLICE_NS);
        account->held_until = now + ns;
        if (ns)
            quota_bucket_give(&v->frequency, QUOTA_SLICE_NS);
        else
            v->slice = QUOTA_SLICE_NS;
    }
    v->held += ns;
    return ns;
}

static void next_slice(struct vp *vp, struct schedule_vp *v)
{
    uint64_t now = os_monotonic_ns(), ns, length;
    struct use use = {.at = os_thread_ns()};

    // On another thread than before the slice that it had is lost: there is nobody to ask what it was used for.
    if (v->thread == os_thread_number())
        measure(v, now, &use);
    else
        change_thread(v);
    os_ledger_lock(&host.ledger);
    settle(vp, v, now, &use);
    while ((ns = take(vp, v, now)) != 0) {
        os_ledger_unlock(&host.ledger);
        if (!held_back(vp, ns))
            goto out;
        now = os_monotonic_ns();
        os_ledger_lock(&host.ledger);
    }
    os_ledger_unlock(&host.ledger);
out:
    v->cpu_from = os_thread_ns();
    v->own = v->cpu_from - use.at;
    v->waited_from = waited(v);
    v->tick_from = v->left = os_tsc();
    length = clock_scale(v->slice, os_tsc_hz(), 1000000000);
    atomic_store_explicit(&vp->due, v->tick_from + length, memory_order_relaxed);
}

HRESULT schedule_enter(struct vp *vp)
{
    struct schedule *s = vp->partition->schedule;
    struct schedule_vp *v;
    uint64_t now;

    if (!s)
        return S_OK;
    // Should the group be gone under the process, a run without its cap would be worse than none.
    if (s->group.path[0] && os_cgroup_join(&s->group) < 0)
        return E_ACCESSDENIED;
    v = &s->vps[vp->index];
    now = os_tsc();
    if (v->thread != os_thread_number() || now >= vp->due || now - v->left > s->outside)
        next_slice(vp, v);
    run_begins(s, v);
    return S_OK;
}

void schedule_leave(struct vp *vp)
{
    struct schedule *s = vp->partition->schedule;

    if (!s)
        return;
    run_ends(s, &s->vps[vp->index]);
    s->vps[vp->index].left = os_tsc();
}
