// Where partitions run, over a made-up host: cookies, speculation, affinity and memory, from the properties to what the
// kernel is asked, and each refusal of the kernel.
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/mempolicy.h>
#include <linux/prctl.h>

#include "WinHvPlatform.h"

#include "fake_engine.h"
#include "fake_host.h"
#include "partition/placement.h"

#define RW ((WHV_MAP_GPA_RANGE_FLAGS)(WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite))
#define OPEN (PR_SPEC_PRCTL | PR_SPEC_ENABLE)
#define SHUT (PR_SPEC_PRCTL | PR_SPEC_DISABLE)

static uint8_t memory[16 * 4096] __attribute__((aligned(4096)));

// ---- Partitions ----------------------------------------------------------------------------------

static int reset(void **state)
{
    (void)state;
    unsetenv("BULKHEAD_ENGINE");
    unsetenv("BULKHEAD_RELAX");
    fake_reset();
    fake_host_reset();
    return 0;
}

static HRESULT set32(WHV_PARTITION_HANDLE p, WHV_PARTITION_PROPERTY_CODE code, UINT32 value)
{
    return WHvSetPartitionProperty(p, code, &value, sizeof(value));
}

static WHV_PARTITION_HANDLE created(void)
{
    WHV_PARTITION_HANDLE p;

    assert_ok(WHvCreatePartition(&p));
    assert_ok(set32(p, WHvPartitionPropertyCodeProcessorCount, 4));
    return p;
}

static void processors(WHV_PARTITION_HANDLE p)
{
    assert_ok(WHvSetupPartition(p));
    for (UINT32 vp = 0; vp < 4; vp++)
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
}

// With four processors; the properties are switched on.
static WHV_PARTITION_HANDLE asking(WHV_PARTITION_PROPERTY_CODE first, WHV_PARTITION_PROPERTY_CODE second)
{
    WHV_PARTITION_HANDLE p = created();

    if (first)
        assert_ok(set32(p, first, 1));
    if (second)
        assert_ok(set32(p, second, 1));
    processors(p);
    return p;
}

#define DOMAIN WHvPartitionPropertyCodeSeparateSecurityDomain
#define NO_SMT WHvPartitionPropertyCodeDisableSmt
#define NODE WHvPartitionPropertyCodePrimaryNumaNode

// ---- Threads that run processors when they are told to -------------------------------------------

struct worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int number;                 // the kernel's
    WHV_PARTITION_HANDLE partition;     // NULL: end
    UINT32 vp;
    HRESULT hr;
    bool told;
};

static void *worker_main(void *argument)
{
    struct worker *w = argument;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    pthread_mutex_lock(&w->lock);
    w->number = gettid();
    pthread_cond_broadcast(&w->changed);
    for (;;) {
        while (!w->told)
            pthread_cond_wait(&w->changed, &w->lock);
        if (!w->partition)
            break;
        w->hr = WHvRunVirtualProcessor(w->partition, w->vp, &exit, sizeof(exit));
        w->told = false;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

// A worker is never used again, so that a case that fails and leaves its own behind takes nothing from the next.
static struct worker *hire(void)
{
    static struct worker workers[128];
    static unsigned int hired;
    struct worker *w = &workers[hired++];

    assert_true(hired <= sizeof(workers) / sizeof(workers[0]));
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    assert_int_equal(pthread_create(&w->thread, NULL, worker_main, w), 0);
    pthread_mutex_lock(&w->lock);
    while (!w->number)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
    return w;
}

static HRESULT run_on(struct worker *w, WHV_PARTITION_HANDLE p, UINT32 vp)
{
    pthread_mutex_lock(&w->lock);
    w->partition = p;
    w->vp = vp;
    w->told = true;
    pthread_cond_broadcast(&w->changed);
    while (w->told)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
    return w->hr;
}

static void dismiss(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->partition = NULL;
    w->told = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    assert_int_equal(pthread_join(w->thread, NULL), 0);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
}

static uint64_t cookie(const struct worker *w)
{
    return fake_cookie(w->number);
}

// ---- Cores ---------------------------------------------------------------------------------------

// The first case: nobody in the process has asked for anything yet.
static void test_nothing_asked(void **state)
{
    WHV_PARTITION_HANDLE p = asking(0, 0);
    struct worker *a;

    (void)state;
    a = hire();
    assert_ok(run_on(a, p, 0));
    assert_ok(WHvMapGpaRange(p, memory, 0, 4096, RW));
    assert_ok(WHvUnmapGpaRange(p, 0, 4096));
    assert_ok(WHvDeletePartition(p));
    assert_int_equal(fake_host.calls, 0);
    dismiss(a);
}

static void test_domain(void **state)
{
    WHV_PARTITION_HANDLE p = asking(DOMAIN, 0), q = asking(DOMAIN, 0), r = asking(0, 0);
    struct worker *a, *b, *c;
    unsigned calls;

    (void)state;
    a = hire(), b = hire(), c = hire();
    assert_ok(run_on(a, p, 0));
    assert_ok(run_on(b, p, 1));
    assert_ok(run_on(c, q, 0));
    assert_int_not_equal(cookie(a), 0);
    assert_int_equal(cookie(a), cookie(b));
    assert_int_not_equal(cookie(c), 0);
    assert_int_not_equal(cookie(c), cookie(a));
    assert_int_equal(fake_speculation(a->number, OS_SPECULATION_STORE_BYPASS), SHUT);
    assert_int_equal(fake_speculation(b->number, OS_SPECULATION_INDIRECT_BRANCH), SHUT);

    // Who comes back asks the kernel for nothing, and so does who runs another of its processors.
    calls = fake_host.calls;
    assert_ok(run_on(a, p, 0));
    assert_ok(run_on(a, p, 2));
    assert_ok(run_on(b, p, 1));
    assert_int_equal(fake_host.calls, calls);

    // A partition that asks for nothing shares no core with one that does.
    assert_ok(run_on(a, r, 0));
    assert_int_equal(cookie(a), 0);
    assert_int_equal(fake_speculation(a->number, OS_SPECULATION_STORE_BYPASS), OPEN);
    assert_int_equal(fake_speculation(a->number, OS_SPECULATION_INDIRECT_BRANCH), OPEN);
    calls = fake_host.calls;
    assert_ok(run_on(a, r, 0));
    assert_int_equal(fake_host.calls, calls);

    // And back.
    assert_ok(run_on(a, p, 0));
    assert_int_equal(cookie(a), cookie(b));
    assert_ok(run_on(a, q, 1));
    assert_int_equal(cookie(a), cookie(c));
    assert_ok(WHvDeletePartition(p));
    assert_ok(WHvDeletePartition(q));
    assert_ok(run_on(a, r, 0));
    assert_int_equal(cookie(a), 0);
    dismiss(a), dismiss(b), dismiss(c);
    assert_ok(WHvDeletePartition(r));
}

// Nobody has the domain's cookie any more: the numbers of those who had it belong to others by now.
static void test_domain_without_threads(void **state)
{
    WHV_PARTITION_HANDLE p = asking(DOMAIN, 0), q = asking(DOMAIN, 0);
    struct worker *a, *b, *c;
    uint64_t first;

    (void)state;
    a = hire(), b = hire(), c = hire();
    assert_ok(run_on(a, p, 0));
    assert_ok(run_on(b, p, 1));
    first = cookie(a);
    assert_ok(run_on(a, q, 0));
    dismiss(b);
    fake_set_cookie(b->number, 1000000);
    assert_ok(run_on(c, p, 0));
    assert_int_not_equal(cookie(c), 0);
    assert_int_not_equal(cookie(c), first);
    assert_int_not_equal(cookie(c), 1000000);
    assert_int_not_equal(cookie(c), cookie(a));
    // The partition may go before the thread, and the thread before the partition.
    assert_ok(WHvDeletePartition(p));
    dismiss(c);
    dismiss(a);
    assert_ok(WHvDeletePartition(q));
}

static void test_alone(void **state)
{
    WHV_PARTITION_HANDLE p = asking(NO_SMT, 0), q = asking(NO_SMT, DOMAIN);
    struct worker *a, *b;
    unsigned calls;

    (void)state;
    a = hire(), b = hire();
    assert_ok(run_on(a, p, 0));
    assert_ok(run_on(b, p, 1));
    assert_int_not_equal(cookie(a), 0);
    assert_int_not_equal(cookie(b), 0);
    assert_int_not_equal(cookie(a), cookie(b));
    assert_int_equal(fake_speculation(a->number, OS_SPECULATION_STORE_BYPASS), OPEN);
    calls = fake_host.calls;
    assert_ok(run_on(a, p, 1));
    assert_ok(run_on(b, p, 0));
    assert_int_equal(fake_host.calls, calls);

    // With both properties no core is shared either, and speculation is shut.
    assert_ok(run_on(a, q, 0));
    assert_ok(run_on(b, q, 1));
    assert_int_not_equal(cookie(a), cookie(b));
    assert_int_equal(fake_speculation(a->number, OS_SPECULATION_STORE_BYPASS), SHUT);
    dismiss(a), dismiss(b);
    assert_ok(WHvDeletePartition(p));
    assert_ok(WHvDeletePartition(q));
}

// A thread has its creator's cookie, which is found out when it runs a partition for the first time.
static void test_inherited(void **state)
{
    WHV_PARTITION_HANDLE p = asking(DOMAIN, 0), q = asking(0, 0), r = asking(NO_SMT, 0);
    struct worker *a, *b, *c, *d;

    (void)state;
    a = hire(), b = hire(), c = hire(), d = hire();
    assert_ok(run_on(a, p, 0));
    fake_host_inherit(b->number, a->number);
    fake_host_inherit(c->number, a->number);
    fake_host_inherit(d->number, a->number);
    assert_int_equal(cookie(b), cookie(a));
    assert_ok(run_on(b, q, 0));
    assert_int_equal(cookie(b), 0);
    assert_ok(run_on(d, r, 0));
    assert_int_not_equal(cookie(d), cookie(a));

    // Where neither the first thread nor the parent process is without, it gets one of its own.
    fake_set_cookie(getpid(), 1000001);
    fake_set_cookie(getppid(), 1000001);
    assert_ok(run_on(c, q, 1));
    assert_int_not_equal(cookie(c), 0);
    assert_int_not_equal(cookie(c), 1000001);
    assert_int_not_equal(cookie(c), cookie(a));
    dismiss(a), dismiss(b), dismiss(c), dismiss(d);
    assert_ok(WHvDeletePartition(p));
    assert_ok(WHvDeletePartition(q));
    assert_ok(WHvDeletePartition(r));
}

// The thread that deletes a partition gives back what it has.
static void test_delete_gives_back(void **state)
{
    WHV_PARTITION_HANDLE p = asking(DOMAIN, 0);
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    fake_set_cookie(getppid(), 0);
    assert_ok(WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit)));
    assert_int_not_equal(fake_cookie(gettid()), 0);
    assert_int_equal(fake_speculation(gettid(), OS_SPECULATION_STORE_BYPASS), SHUT);
    assert_ok(WHvDeletePartition(p));
    assert_int_equal(fake_cookie(gettid()), 0);
    assert_int_equal(fake_speculation(gettid(), OS_SPECULATION_STORE_BYPASS), OPEN);
}

static void test_no_shared_cores(void **state)
{
    static const struct {
        const char *smt;
        bool core_scheduling, cores_shared;
    } rows[] = {{"0\n", false, false}, {"0\n", true, false}, {NULL, true, false}};

    (void)state;
    for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        WHV_PARTITION_HANDLE p;
        struct worker *a;

        fake_host_reset();
        fake_host.smt = rows[i].smt;
        fake_host.core_scheduling = rows[i].core_scheduling;
        fake_host.cores_shared = rows[i].cores_shared;
        assert_true(placement_offers_no_smt());
        assert_true(placement_offers_domains());
        p = asking(NO_SMT, DOMAIN);
        a = hire();
        assert_ok(run_on(a, p, 0));
        assert_int_equal(cookie(a), 0);
        assert_int_equal(fake_speculation(a->number, OS_SPECULATION_STORE_BYPASS), SHUT);
        dismiss(a);
        assert_ok(WHvDeletePartition(p));
    }
}

// No core is shared any more when the thread comes: it is tried again with the next run.
static void test_cores_change(void **state)
{
    WHV_PARTITION_HANDLE p = asking(DOMAIN, 0), q = asking(NO_SMT, 0);
    struct worker *a, *b;

    (void)state;
    a = hire(), b = hire();
    fake_host.cores_shared = false;
    assert_ok(run_on(a, p, 0));
    assert_ok(run_on(b, q, 0));
    assert_int_equal(cookie(a), 0);
    fake_host.cores_shared = true;
    assert_ok(run_on(a, p, 0));
    assert_ok(run_on(b, q, 0));
    assert_int_not_equal(cookie(a), 0);
    assert_int_not_equal(cookie(b), 0);
    dismiss(a), dismiss(b);
    assert_ok(WHvDeletePartition(p));
    assert_ok(WHvDeletePartition(q));
}

static void refused(WHV_PARTITION_PROPERTY_CODE code)
{
    WHV_PARTITION_HANDLE p = created();

    assert_ok(set32(p, code, 1));
    assert_hr(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
    assert_int_equal(fake_log.setups, fake_log.teardowns);
    assert_ok(set32(p, code, 0));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvDeletePartition(p));
}

static void test_refused(void **state)
{
    (void)state;
    fake_host.core_scheduling = false;
    for (int file = 0; file < 2; file++) {
        fake_host.smt = file ? "1\n" : NULL;
        assert_false(placement_offers_no_smt());
        assert_false(placement_offers_domains());
        refused(DOMAIN);
        refused(NO_SMT);
    }
    // A processor that guesses, and that nobody can keep from it.
    for (unsigned int which = 0; which <= OS_SPECULATION_INDIRECT_BRANCH; which++) {
        fake_host_reset();
        fake_host.speculation[which] = PR_SPEC_ENABLE;
        assert_false(placement_offers_domains());
        assert_true(placement_offers_no_smt());
        refused(DOMAIN);
        fake_host_reset();
        fake_host.speculation[which] = -EINVAL;
        assert_false(placement_offers_domains());
        fake_host_reset();
        fake_host.speculation[which] = PR_SPEC_NOT_AFFECTED;
        assert_true(placement_offers_domains());
    }
}

// What was shut before stays so, and what is not to be had is left alone.
static void test_speculation_stays(void **state)
{
    static const long rows[] = {SHUT, PR_SPEC_PRCTL | PR_SPEC_FORCE_DISABLE, PR_SPEC_DISABLE, PR_SPEC_NOT_AFFECTED};

    (void)state;
    for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        WHV_PARTITION_HANDLE p, q;
        struct worker *a;

        fake_host_reset();
        fake_host.speculation[OS_SPECULATION_STORE_BYPASS] = rows[i];
        p = asking(DOMAIN, 0);
        q = asking(0, 0);
        a = hire();
        assert_ok(run_on(a, p, 0));
        assert_int_equal(fake_speculation(a->number, OS_SPECULATION_STORE_BYPASS), rows[i]);
        assert_int_equal(fake_speculation(a->number, OS_SPECULATION_INDIRECT_BRANCH), SHUT);
        assert_ok(run_on(a, q, 0));
        assert_int_equal(fake_speculation(a->number, OS_SPECULATION_STORE_BYPASS), rows[i]);
        assert_int_equal(fake_speculation(a->number, OS_SPECULATION_INDIRECT_BRANCH), OPEN);
        dismiss(a);
        assert_ok(WHvDeletePartition(p));
        assert_ok(WHvDeletePartition(q));
    }
}

// The kernel ends a thread that is flushed for on a core with two threads in use.
static void test_data_cache(void **state)
{
    (void)state;
    for (int shared = 0; shared < 2; shared++) {
        WHV_PARTITION_HANDLE p, q;
        struct worker *a;

        fake_host_reset();
        fake_host.smt = shared ? "1\n" : "0\n";
        fake_host.speculation[OS_SPECULATION_L1D] = PR_SPEC_PRCTL | PR_SPEC_DISABLE;
        p = asking(DOMAIN, 0);
        q = asking(0, 0);
        a = hire();
        assert_ok(run_on(a, p, 0));
        assert_int_equal(fake_speculation(a->number, OS_SPECULATION_L1D),
                         PR_SPEC_PRCTL | (shared ? PR_SPEC_DISABLE : PR_SPEC_ENABLE));
        assert_ok(run_on(a, q, 0));
        assert_int_equal(fake_speculation(a->number, OS_SPECULATION_L1D), PR_SPEC_PRCTL | PR_SPEC_DISABLE);
        dismiss(a);
        assert_ok(WHvDeletePartition(p));
        assert_ok(WHvDeletePartition(q));
    }
}

// ---- Nodes ---------------------------------------------------------------------------------------

static HRESULT set_node(WHV_PARTITION_HANDLE p, UINT16 node)
{
    return WHvSetPartitionProperty(p, NODE, &node, sizeof(node));
}

static WHV_PARTITION_HANDLE on_node(UINT16 node)
{
    WHV_PARTITION_HANDLE p = created();

    assert_ok(set_node(p, node));
    processors(p);
    return p;
}

static void test_affinity(void **state)
{
    WHV_PARTITION_HANDLE p = on_node(1), q = on_node(0), r = asking(0, 0);
    struct worker *a;
    unsigned calls;

    (void)state;
    a = hire();
    assert_ok(run_on(a, p, 0));
    assert_int_equal(fake_affinity(a->number), 0xC);
    calls = fake_host.calls;
    assert_ok(run_on(a, p, 1));
    assert_int_equal(fake_host.calls, calls);
    assert_ok(run_on(a, q, 0));
    assert_int_equal(fake_affinity(a->number), 0x3);
    assert_ok(run_on(a, r, 0));
    assert_int_equal(fake_affinity(a->number), 0xF);

    // The client's own affinity holds: as far as the node goes, and when it is set in between.
    fake_set_affinity(a->number, 0x6);
    assert_ok(run_on(a, p, 0));
    assert_int_equal(fake_affinity(a->number), 0x4);
    assert_ok(run_on(a, r, 0));
    assert_int_equal(fake_affinity(a->number), 0x6);
    assert_ok(run_on(a, p, 0));
    fake_set_affinity(a->number, 0x8);
    assert_ok(run_on(a, r, 0));
    assert_int_equal(fake_affinity(a->number), 0x8);
    fake_set_affinity(a->number, 0x3);
    assert_hr(run_on(a, p, 0), E_ACCESSDENIED);
    assert_int_equal(fake_affinity(a->number), 0x3);
    assert_ok(run_on(a, r, 0));
    assert_ok(run_on(a, q, 0));
    assert_int_equal(fake_affinity(a->number), 0x3);
    dismiss(a);
    assert_ok(WHvDeletePartition(p));
    assert_ok(WHvDeletePartition(q));
    assert_ok(WHvDeletePartition(r));
}

static void test_processor_node(void **state)
{
    WHV_VIRTUAL_PROCESSOR_PROPERTY nodes[2];
    WHV_PARTITION_HANDLE p = created(), q = created();
    struct worker *a;

    (void)state;
    memset(nodes, 0, sizeof(nodes));
    nodes[0].NumaNode = 1;
    assert_ok(set_node(p, 0));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvSetupPartition(q));
    assert_ok(WHvCreateVirtualProcessor2(p, 0, nodes, 1));
    assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
    assert_ok(WHvCreateVirtualProcessor2(p, 2, nodes, 2));      // the last one counts
    assert_ok(WHvCreateVirtualProcessor2(q, 0, nodes, 1));
    assert_ok(WHvCreateVirtualProcessor(q, 1, 0));
    nodes[1].NumaNode = 2;
    assert_hr(WHvCreateVirtualProcessor2(p, 3, nodes, 2), E_INVALIDARG);
    nodes[0].NumaNode = UINT16_MAX;
    assert_hr(WHvCreateVirtualProcessor2(p, 3, nodes, 1), E_INVALIDARG);
    a = hire();
    assert_ok(run_on(a, p, 0));
    assert_int_equal(fake_affinity(a->number), 0xC);
    assert_ok(run_on(a, p, 1));
    assert_int_equal(fake_affinity(a->number), 0x3);
    assert_ok(run_on(a, p, 2));
    assert_int_equal(fake_affinity(a->number), 0x3);
    assert_ok(run_on(a, q, 0));
    assert_int_equal(fake_affinity(a->number), 0xC);
    assert_ok(run_on(a, q, 1));
    assert_int_equal(fake_affinity(a->number), 0xF);
    // It is the processor's, not the index's.
    assert_ok(WHvDeleteVirtualProcessor(q, 0));
    assert_ok(WHvCreateVirtualProcessor(q, 0, 0));
    assert_ok(run_on(a, q, 0));
    assert_int_equal(fake_affinity(a->number), 0xF);
    // A processor's node says nothing of the partition's memory.
    assert_ok(WHvMapGpaRange(q, memory, 0, 4096, RW));
    assert_int_equal(fake_host.policy_count, 0);
    dismiss(a);
    assert_ok(WHvDeletePartition(p));
    assert_ok(WHvDeletePartition(q));
}

static void test_node_that_is_not_there(void **state)
{
    WHV_PARTITION_HANDLE p = created();
    UINT16 node = 9;

    (void)state;
    assert_false(placement_node_exists(2));
    assert_hr(set_node(p, 2), E_INVALIDARG);
    assert_hr(set_node(p, UINT16_MAX), E_INVALIDARG);
    assert_ok(WHvGetPartitionProperty(p, NODE, &node, sizeof(node), NULL));
    assert_int_equal(node, 0);
    assert_ok(set_node(p, 1));
    // It goes away before set-up, or the process may not use its memory.
    fake_host.online = "0\n";
    assert_hr(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
    fake_host.online = "0-1\n";
    fake_host.allowed = 1;
    assert_hr(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
    fake_host.allowed = 3;
    assert_ok(WHvSetupPartition(p));
    // Or between set-up and the processor.
    fake_host.online = "0\n";
    assert_hr(WHvCreateVirtualProcessor(p, 0, 0), E_INVALIDARG);
    assert_int_equal(fake_log.creates, 0);
    fake_host.file_error = EMFILE;
    fake_host.online = "0-1\n";
    assert_hr(WHvCreateVirtualProcessor(p, 0, 0), E_INVALIDARG);
    fake_host.file_error = 0;
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(WHvDeletePartition(p));
}

static void policy(unsigned int index, const uint8_t *start, size_t size, int mode, uint64_t nodes)
{
    const struct fake_policy *found = &fake_host.policies[index];

    assert_true(index < fake_host.policy_count);
    assert_ptr_equal((void *)found->start, start);
    assert_int_equal(found->size, size);
    assert_int_equal(found->mode, mode);
    assert_int_equal(found->nodes, nodes);
}

static void test_memory(void **state)
{
    WHV_PARTITION_HANDLE p = on_node(1);

    (void)state;
    assert_ok(WHvMapGpaRange(p, memory, 0, 4 * 4096, RW));
    policy(0, memory, 4 * 4096, MPOL_PREFERRED, 2);
    assert_int_equal(fake_host.policies[0].flags, MPOL_MF_MOVE);
    assert_int_equal(fake_host.policy_count, 1);

    // A part of it goes.
    assert_ok(WHvUnmapGpaRange(p, 4096, 4096));
    policy(1, memory + 4096, 4096, MPOL_DEFAULT, 0);
    assert_int_equal(fake_host.policy_count, 2);

    // It is there twice: when one range goes, the other still has it.
    assert_ok(WHvMapGpaRange(p, memory, 0x100000, 2 * 4096, RW));
    policy(2, memory, 2 * 4096, MPOL_PREFERRED, 2);
    assert_ok(WHvUnmapGpaRange(p, 0x100000, 2 * 4096));
    policy(3, memory, 2 * 4096, MPOL_DEFAULT, 0);
    policy(4, memory, 4096, MPOL_PREFERRED, 2);
    assert_int_equal(fake_host.policy_count, 5);

    // Other memory takes its place.
    assert_ok(WHvMapGpaRange(p, memory + 8 * 4096, 0, 4096, RW));
    policy(5, memory + 8 * 4096, 4096, MPOL_PREFERRED, 2);
    policy(6, memory, 4096, MPOL_DEFAULT, 0);
    assert_int_equal(fake_host.policy_count, 7);

    // What is in the map at the end may not be the client's memory any more.
    assert_ok(WHvDeletePartition(p));
    assert_int_equal(fake_host.policy_count, 7);
}

static void test_memory_refused(void **state)
{
    WHV_PARTITION_HANDLE p = on_node(1);

    (void)state;
    fake_host.hole = (uintptr_t)memory + 4096;
    assert_hr(WHvMapGpaRange(p, memory, 0, 2 * 4096, RW), E_INVALIDARG);
    policy(0, memory, 2 * 4096, MPOL_DEFAULT, 0);
    assert_int_equal(fake_host.policy_count, 1);
    assert_int_equal(fake_log.map_changes, 0);
    fake_host.hole = 0;
    fake_host.fail_at = fake_host.changes + 1;
    fake_host.fail_with = ENOMEM;
    assert_hr(WHvMapGpaRange(p, memory, 0, 2 * 4096, RW), E_OUTOFMEMORY);
    assert_hr(WHvUnmapGpaRange(p, 0, 4096), WHV_E_GPA_RANGE_NOT_FOUND);

    // The engine refuses the range.
    fake_host.policy_count = 0;
    fake_map_result = E_OUTOFMEMORY;
    assert_hr(WHvMapGpaRange(p, memory, 0, 2 * 4096, RW), E_OUTOFMEMORY);
    policy(0, memory, 2 * 4096, MPOL_PREFERRED, 2);
    policy(1, memory, 2 * 4096, MPOL_DEFAULT, 0);
    fake_map_result = S_OK;
    assert_ok(WHvMapGpaRange(p, memory, 0, 2 * 4096, RW));
    // And that it goes: it is still there, and its policy stays.
    fake_host.policy_count = 0;
    fake_map_result = E_OUTOFMEMORY;
    assert_hr(WHvUnmapGpaRange(p, 0, 4096), E_OUTOFMEMORY);
    assert_int_equal(fake_host.policy_count, 0);
    fake_map_result = S_OK;
    assert_ok(WHvDeletePartition(p));
}

// Nodes with one of the two alone, and a kernel that knows of none.
static void test_odd_nodes(void **state)
{
    WHV_PARTITION_HANDLE p;
    struct worker *a;

    (void)state;
    a = hire();
    fake_host.with_memory = "0\n";
    p = on_node(1);
    assert_ok(WHvMapGpaRange(p, memory, 0, 4096, RW));
    assert_int_equal(fake_host.policy_count, 0);
    assert_ok(run_on(a, p, 0));
    assert_int_equal(fake_affinity(a->number), 0xC);
    assert_ok(WHvDeletePartition(p));

    fake_host.with_memory = "0-1\n";
    fake_host.cpulist[1] = "\n";
    p = on_node(1);
    assert_ok(WHvMapGpaRange(p, memory, 0, 4096, RW));
    assert_int_equal(fake_host.policy_count, 1);
    assert_ok(run_on(a, p, 0));
    assert_int_equal(fake_affinity(a->number), 0xC);     // the same node as far as the thread knows
    assert_ok(WHvDeletePartition(p));
    dismiss(a);

    a = hire();
    p = on_node(1);
    assert_ok(run_on(a, p, 0));
    assert_int_equal(fake_affinity(a->number), 0xF);
    dismiss(a);
    assert_ok(WHvDeletePartition(p));

    a = hire();
    fake_host.online = fake_host.with_memory = fake_host.cpulist[0] = NULL;
    fake_host.numa = false;
    p = on_node(0);
    assert_ok(WHvMapGpaRange(p, memory, 0, 4096, RW));
    assert_ok(run_on(a, p, 0));
    assert_int_equal(fake_affinity(a->number), 0xF);
    dismiss(a);
    assert_ok(WHvDeletePartition(p));
}

// ---- Each refusal of the kernel ------------------------------------------------------------------

// Every call that changes the thread fails once. The run says so, the thread can run a partition that asks for nothing
// and has nothing of the other's then, and what failed can be done again.
static void failures(int error, HRESULT expected, WHV_PARTITION_PROPERTY_CODE code)
{
    for (unsigned int at = 1;; at++) {
        WHV_PARTITION_HANDLE p, q;
        struct worker *a, *b;
        bool failed;

        fake_host_reset();
        p = created();
        q = asking(0, 0);
        assert_ok(set32(p, code, 1));
        assert_ok(set_node(p, 1));
        processors(p);
        a = hire(), b = hire();
        assert_ok(run_on(b, p, 1));
        fake_host.fail_at = fake_host.changes + at;
        fake_host.fail_with = error;
        a->hr = run_on(a, p, 0);
        failed = fake_host.changes >= fake_host.fail_at;
        assert_hr(a->hr, failed ? expected : S_OK);
        fake_host.fail_at = 0;
        if (failed) {
            assert_ok(run_on(a, q, 0));
            assert_int_equal(cookie(a), 0);
            assert_int_equal(fake_speculation(a->number, OS_SPECULATION_STORE_BYPASS), OPEN);
            assert_int_equal(fake_speculation(a->number, OS_SPECULATION_INDIRECT_BRANCH), OPEN);
            assert_int_equal(fake_affinity(a->number), 0xF);
            assert_ok(run_on(a, p, 0));
        }
        assert_int_not_equal(cookie(a), 0);
        assert_int_equal(cookie(a) == cookie(b), code == DOMAIN);
        assert_int_equal(fake_speculation(a->number, OS_SPECULATION_INDIRECT_BRANCH), code == DOMAIN ? SHUT : OPEN);
        assert_int_equal(fake_affinity(a->number), 0xC);
        dismiss(a), dismiss(b);
        assert_ok(WHvDeletePartition(p));
        assert_ok(WHvDeletePartition(q));
        if (!failed) {
            assert_int_equal(at, code == DOMAIN ? 5 : 3);       // cookie, two controls, affinity: each has failed
            break;
        }
    }
}

static void test_failures(void **state)
{
    (void)state;
    failures(ENOMEM, E_OUTOFMEMORY, DOMAIN);
    failures(EPERM, E_ACCESSDENIED, DOMAIN);
    failures(EINVAL, HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED), NO_SMT);
}

// The way back fails at each place: the run says so, and the next one gets there.
static void test_failures_on_the_way_back(void **state)
{
    (void)state;
    for (unsigned int at = 1; at <= 4; at++) {
        WHV_PARTITION_HANDLE p, q;
        struct worker *a;

        fake_host_reset();
        // No thread without a cookie is to be found, so that every exchange is one call.
        fake_set_cookie(getpid(), 1000002);
        fake_set_cookie(getppid(), 1000002);
        p = created();
        q = asking(0, 0);
        assert_ok(set32(p, DOMAIN, 1));
        assert_ok(set_node(p, 1));
        processors(p);
        a = hire();
        assert_ok(run_on(a, p, 0));
        fake_host.fail_at = fake_host.changes + at;
        fake_host.fail_with = ENOMEM;
        assert_hr(run_on(a, q, 0), E_OUTOFMEMORY);
        fake_host.fail_at = 0;
        assert_ok(run_on(a, q, 0));
        assert_int_equal(fake_speculation(a->number, OS_SPECULATION_STORE_BYPASS), OPEN);
        assert_int_equal(fake_speculation(a->number, OS_SPECULATION_INDIRECT_BRANCH), OPEN);
        assert_int_equal(fake_affinity(a->number), 0xF);
        dismiss(a);
        assert_ok(WHvDeletePartition(p));
        assert_ok(WHvDeletePartition(q));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_nothing_asked, reset),
        cmocka_unit_test_setup(test_domain, reset),
        cmocka_unit_test_setup(test_domain_without_threads, reset),
        cmocka_unit_test_setup(test_alone, reset),
        cmocka_unit_test_setup(test_inherited, reset),
        cmocka_unit_test_setup(test_delete_gives_back, reset),
        cmocka_unit_test_setup(test_no_shared_cores, reset),
        cmocka_unit_test_setup(test_cores_change, reset),
        cmocka_unit_test_setup(test_refused, reset),
        cmocka_unit_test_setup(test_speculation_stays, reset),
        cmocka_unit_test_setup(test_data_cache, reset),
        cmocka_unit_test_setup(test_affinity, reset),
        cmocka_unit_test_setup(test_processor_node, reset),
        cmocka_unit_test_setup(test_node_that_is_not_there, reset),
        cmocka_unit_test_setup(test_memory, reset),
        cmocka_unit_test_setup(test_memory_refused, reset),
        cmocka_unit_test_setup(test_odd_nodes, reset),
        cmocka_unit_test_setup(test_failures, reset),
        cmocka_unit_test_setup(test_failures_on_the_way_back, reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
