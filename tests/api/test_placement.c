// What this host's kernel says of threads and memory while partitions ask for a node, a security domain, or cores of
// their own: affinity, memory policy, speculation and cookies, by the kernel's own account.
#include "threads.h"

#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <unistd.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define NODES 1024u
#define NO_NODE_EVER 65535u     // above what Linux can have

static const uint8_t out_and_halt[] = {0xE6, 0x10, 0xF4};      // out 0x10, al; hlt
static const uint8_t forever[] = {0xFF, 0x06, 0x00, 0x20, 0xEB, 0xFA};     // inc word [0x2000]; jmp there

// ---- What the host is ----------------------------------------------------------------------------

static bool read_file(const char *path, char *text, size_t room)
{
    FILE *file = fopen(path, "re");
    size_t size = file ? fread(text, 1, room - 1, file) : 0;

    text[size] = '\0';
    if (file)
        fclose(file);
    return file != NULL;
}

static bool node_exists(UINT32 node)
{
    char path[64];

    snprintf(path, sizeof(path), "/sys/devices/system/node/node%u", (unsigned)node);
    return access(path, F_OK) == 0 || (node == 0 && access("/sys/devices/system/node", F_OK) != 0);
}

// The node's processors, from one file for each.
static void node_cpus(UINT32 node, cpu_set_t *cpus)
{
    char path[96];

    CPU_ZERO(cpus);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/cpu%d", (unsigned)node, cpu);
        if (access(path, F_OK) == 0 || access("/sys/devices/system/node", F_OK) != 0)
            CPU_SET(cpu, cpus);
    }
}

// False where the kernel has no memory policies (ENOSYS), or a filter keeps them from us.
static bool has_policies(void)
{
    unsigned long nodes[NODES / 64];

    return syscall(SYS_get_mempolicy, NULL, nodes, NODES + 1, NULL, MPOL_F_MEMS_ALLOWED) == 0;
}

static bool node_usable(UINT32 node)
{
    unsigned long nodes[NODES / 64] = {0};

    if (syscall(SYS_get_mempolicy, NULL, nodes, NODES + 1, NULL, MPOL_F_MEMS_ALLOWED) != 0)
        return errno == ENOSYS;
    return nodes[node / 64] >> node % 64 & 1;
}

static int policy_of(void *address, unsigned long *nodes)
{
    int mode = -1;

    memset(nodes, 0, NODES / 8);
    assert_int_equal(syscall(SYS_get_mempolicy, &mode, nodes, NODES + 1, address, MPOL_F_ADDR), 0);
    return mode;
}

static int speculation(int which)
{
    return prctl(PR_GET_SPECULATION_CTRL, which, 0, 0, 0);
}

static unsigned long long cookie(int thread)
{
    unsigned long long number = 0;

    return prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, thread, PR_SCHED_CORE_SCOPE_THREAD, &number) == 0 ? number : 0;
}

static bool cores_shared(void)
{
    char text[16];

    return !read_file("/sys/devices/system/cpu/smt/active", text, sizeof(text)) || strcmp(text, "0\n") != 0;
}

static bool has_core_scheduling(void)
{
    unsigned long long number;

    return prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, 0, PR_SCHED_CORE_SCOPE_THREAD, &number) == 0 || errno == ENODEV;
}

static bool can_keep_cores(void)
{
    return !cores_shared() || has_core_scheduling();
}

// The processor guesses at something, and nothing can keep it from that.
static bool exposed(int which)
{
    const int state = speculation(which);

    return state < 0 || (!(state & (int)PR_SPEC_PRCTL) && (state & (int)PR_SPEC_ENABLE));
}

static bool can_keep_domains(void)
{
    return can_keep_cores() && !exposed(PR_SPEC_STORE_BYPASS) && !exposed(PR_SPEC_INDIRECT_BRANCH);
}

// What a thread that is at `before` has in a domain.
static int shut(int before)
{
    return before == (int)(PR_SPEC_PRCTL | PR_SPEC_ENABLE) ? (int)(PR_SPEC_PRCTL | PR_SPEC_DISABLE) : before;
}

// ---- Partitions ----------------------------------------------------------------------------------

static HRESULT set_node(WHV_PARTITION_HANDLE p, UINT16 node)
{
    return WHvSetPartitionProperty(p, WHvPartitionPropertyCodePrimaryNumaNode, &node, sizeof(node));
}

// 16 pages of guest, each partition its own.
static uint8_t *new_memory(void)
{
    uint8_t *memory = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

static void ready(WHV_PARTITION_HANDLE p, uint8_t *memory, UINT32 processors, const void *code, size_t size)
{
    memcpy(memory + CODE, code, size);
    assert_ok(WHvMapGpaRange(p, memory, 0, 16 * PAGE, RWX));
    for (UINT32 vp = 0; vp < processors; vp++) {
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
        start_at(p, vp, CODE);
    }
}

static WHV_PARTITION_HANDLE asking(WHV_PARTITION_PROPERTY_CODE code, UINT32 processors)
{
    WHV_PARTITION_HANDLE p = created(processors);

    if (code)
        assert_ok(set32(p, code, 1));
    assert_ok(WHvSetupPartition(p));
    return p;
}

// The host cannot give what the property asks for: set-up says so, and goes well without.
static void refused(WHV_PARTITION_PROPERTY_CODE code, const char *what)
{
    WHV_PARTITION_HANDLE p = created(1);

    assert_ok(set32(p, code, 1));
    assert_hr(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
    assert_ok(set32(p, code, 0));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvDeletePartition(p));
    print_message("refused as documented: %s\n", what);
}

// ---- Nodes ---------------------------------------------------------------------------------------

static void test_missing_node(void **state)
{
    WHV_VIRTUAL_PROCESSOR_PROPERTY property;
    WHV_PARTITION_HANDLE p = created(1);
    UINT16 missing = 0, kept = 7;

    (void)state;
    while (node_exists(missing))
        missing++;
    memset(&property, 0, sizeof(property));
    assert_hr(set_node(p, missing), E_INVALIDARG);
    assert_hr(set_node(p, NO_NODE_EVER), E_INVALIDARG);
    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodePrimaryNumaNode, &kept, sizeof(kept), NULL));
    assert_int_equal(kept, 0);
    assert_ok(WHvSetupPartition(p));
    property.PropertyCode = WHvVirtualProcessorPropertyCodeNumaNode;
    property.NumaNode = missing;
    assert_hr(WHvCreateVirtualProcessor2(p, 0, &property, 1), E_INVALIDARG);
    property.NumaNode = NO_NODE_EVER;
    assert_hr(WHvCreateVirtualProcessor2(p, 0, &property, 1), E_INVALIDARG);
    assert_ok(WHvDeletePartition(p));
}

static void check_affinity(UINT32 node, const cpu_set_t *before, HRESULT hr)
{
    cpu_set_t cpus, now;

    node_cpus(node, &cpus);
    if (CPU_COUNT(&cpus) == 0)
        cpus = *before;
    CPU_AND(&cpus, &cpus, before);
    assert_int_equal(sched_getaffinity(0, sizeof(now), &now), 0);
    if (CPU_COUNT(&cpus) == 0) {
        assert_hr(hr, E_ACCESSDENIED);
        assert_true(CPU_EQUAL(&now, before));
    } else {
        assert_ok(hr);
        assert_true(CPU_EQUAL(&now, &cpus));
    }
}

static void on_node(UINT16 node)
{
    unsigned long nodes[NODES / 64];
    uint8_t *memory = new_memory();
    WHV_PARTITION_HANDLE p = created(1), q = set_up(1);
    WHV_RUN_VP_EXIT_CONTEXT exit;
    cpu_set_t before, now;
    UINT16 kept = 7777;
    HRESULT hr;

    assert_ok(set_node(p, node));
    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodePrimaryNumaNode, &kept, sizeof(kept), NULL));
    assert_int_equal(kept, node);
    if (!node_usable(node)) {
        assert_hr(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
        print_message("refused as documented: memory of node %u\n", (unsigned)node);
        assert_ok(WHvDeletePartition(p));
        assert_ok(WHvDeletePartition(q));
        munmap(memory, 16 * PAGE);
        return;
    }
    assert_ok(WHvSetupPartition(p));
    ready(p, memory, 1, out_and_halt, sizeof(out_and_halt));
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    hr = WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit));
    check_affinity(node, &before, hr);
    if (has_policies()) {
        int lies_on = -1;

        assert_int_equal(policy_of(memory + 0x2000, nodes), MPOL_PREFERRED);
        for (UINT32 n = 0; n < NODES; n++)
            assert_int_equal(nodes[n / 64] >> n % 64 & 1, n == node);
        memory[0x3000] = 1;
        assert_int_equal(syscall(SYS_get_mempolicy, &lies_on, NULL, 0, memory + 0x3000, MPOL_F_ADDR | MPOL_F_NODE), 0);
        assert_int_equal(lies_on, node);
        assert_ok(WHvUnmapGpaRange(p, 8 * PAGE, 8 * PAGE));
        assert_int_equal(policy_of(memory + 8 * PAGE, nodes), MPOL_DEFAULT);
        assert_int_equal(policy_of(memory + 7 * PAGE, nodes), MPOL_PREFERRED);
    }
    // A partition that asks for nothing gives the thread its own affinity back.
    assert_ok(WHvCreateVirtualProcessor(q, 0, 0));
    assert_ok(WHvCancelRunVirtualProcessor(q, 0, 0));
    assert_ok(WHvRunVirtualProcessor(q, 0, &exit, sizeof(exit)));
    assert_int_equal(sched_getaffinity(0, sizeof(now), &now), 0);
    assert_true(CPU_EQUAL(&now, &before));
    assert_ok(WHvDeletePartition(p));
    assert_ok(WHvDeletePartition(q));
    munmap(memory, 16 * PAGE);
}

static void test_every_node(void **state)
{
    (void)state;
    for (UINT32 node = 0; node < NODES; node++)
        if (node_exists(node))
            on_node((UINT16)node);
}

// A processor's own node, on a thread that may run on one processor alone.
static void test_processor_node(void **state)
{
    WHV_VIRTUAL_PROCESSOR_PROPERTY property;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    cpu_set_t whole, one;
    int cpu = 0;

    (void)state;
    memset(&property, 0, sizeof(property));
    property.PropertyCode = WHvVirtualProcessorPropertyCodeNumaNode;
    assert_int_equal(sched_getaffinity(0, sizeof(whole), &whole), 0);
    while (!CPU_ISSET(cpu, &whole))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    for (UINT32 node = 0; node < NODES; node++) {
        WHV_PARTITION_HANDLE p;

        if (!node_exists(node))
            continue;
        p = set_up(1);
        property.NumaNode = (USHORT)node;
        assert_ok(WHvCreateVirtualProcessor2(p, 0, &property, 1));
        assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
        check_affinity(node, &whole, WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit)));
        assert_ok(WHvDeletePartition(p));
        // Deleting it has given the thread its affinity back.
        assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
        p = set_up(1);
        assert_ok(WHvCreateVirtualProcessor2(p, 0, &property, 1));
        assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
        check_affinity(node, &one, WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit)));
        assert_ok(WHvDeletePartition(p));
        assert_int_equal(sched_setaffinity(0, sizeof(whole), &whole), 0);
    }
}

// Memory of which a part is not there cannot lie on a node.
static void test_hole(void **state)
{
    uint8_t *memory = new_memory();
    unsigned long nodes[NODES / 64];
    WHV_PARTITION_HANDLE p = created(1);

    (void)state;
    assert_ok(set_node(p, 0));
    if (!has_policies() || !node_usable(0))
        SKIP_BECAUSE("this host has no memory policies");
    assert_ok(WHvSetupPartition(p));
    assert_int_equal(munmap(memory + 4 * PAGE, PAGE), 0);
    assert_hr(WHvMapGpaRange(p, memory, 0, 16 * PAGE, RWX), E_INVALIDARG);
    assert_int_equal(policy_of(memory, nodes), MPOL_DEFAULT);
    assert_ok(WHvMapGpaRange(p, memory, 0, 4 * PAGE, RWX));
    assert_ok(WHvDeletePartition(p));
    munmap(memory, 16 * PAGE);
}

// ---- Domains -------------------------------------------------------------------------------------

static void test_domain(void **state)
{
    const int store_bypass = speculation(PR_SPEC_STORE_BYPASS), branches = speculation(PR_SPEC_INDIRECT_BRANCH);
    WHV_PARTITION_HANDLE p, q;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    uint8_t *memory;

    (void)state;
    if (!can_keep_domains()) {
        refused(WHvPartitionPropertyCodeSeparateSecurityDomain, "a security domain of its own");
        return;
    }
    memory = new_memory();
    p = asking(WHvPartitionPropertyCodeSeparateSecurityDomain, 1);
    q = asking(0, 1);
    ready(p, memory, 1, out_and_halt, sizeof(out_and_halt));
    ready(q, memory, 1, out_and_halt, sizeof(out_and_halt));
    for (int turn = 0; turn < 3; turn++) {
        set_register(p, 0, WHvX64RegisterRip, CODE);
        exit = run(p, 0);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
        assert_int_equal(speculation(PR_SPEC_STORE_BYPASS), shut(store_bypass));
        assert_int_equal(speculation(PR_SPEC_INDIRECT_BRANCH), shut(branches));
        assert_int_equal(cookie(0) != 0, cores_shared() && has_core_scheduling());
        set_register(q, 0, WHvX64RegisterRip, CODE);
        exit = run(q, 0);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
        assert_int_equal(speculation(PR_SPEC_STORE_BYPASS), store_bypass);
        assert_int_equal(speculation(PR_SPEC_INDIRECT_BRANCH), branches);
    }
    set_register(p, 0, WHvX64RegisterRip, CODE);
    run(p, 0);
    assert_int_equal(speculation(PR_SPEC_STORE_BYPASS), shut(store_bypass));
    assert_ok(WHvDeletePartition(p));
    assert_int_equal(speculation(PR_SPEC_STORE_BYPASS), store_bypass);
    assert_int_equal(speculation(PR_SPEC_INDIRECT_BRANCH), branches);
    assert_ok(WHvDeletePartition(q));
    munmap(memory, 16 * PAGE);
}

// A line of a thread's status, as the kernel tells it to others.
static bool thread_says(int thread, const char *name, const char *value)
{
    char path[64], text[8192];
    const char *line;

    snprintf(path, sizeof(path), "/proc/self/task/%d/status", thread);
    if (!read_file(path, text, sizeof(text)) || !(line = strstr(text, name)))
        return false;
    line += strlen(name);
    while (isspace((unsigned char)*line))
        line++;
    return strncmp(line, value, strlen(value)) == 0;
}

// Two threads in guest code, seen from outside. Each stores its number before it runs.
struct seen {
    struct runner runner;
    atomic_int number;
};

static void *seen_main(void *argument)
{
    struct seen *s = argument;

    atomic_store(&s->number, gettid());
    return runner_main(&s->runner);
}

static void begin(struct seen *s, WHV_PARTITION_HANDLE p, UINT32 vp)
{
    memset(s, 0, sizeof(*s));
    s->runner.partition = p;
    s->runner.vp = vp;
    assert_int_equal(pthread_create(&s->runner.thread, NULL, seen_main, s), 0);
}

static void in_guest_code(WHV_PARTITION_PROPERTY_CODE code)
{
    const bool cookies = cores_shared() && has_core_scheduling();
    const int before = speculation(PR_SPEC_STORE_BYPASS);
    const unsigned long long own = cookie(0);
    WHV_PARTITION_HANDLE p = asking(code, 2);
    uint8_t *memory = new_memory();
    struct seen a, b;

    ready(p, memory, 2, forever, sizeof(forever));
    begin(&a, p, 0);
    EVENTUALLY(load32(memory, COUNTER) & 0xFFFF);
    begin(&b, p, 1);
    EVENTUALLY(atomic_load(&b.number));
    if (cookies) {
        EVENTUALLY(cookie(atomic_load(&a.number)) && cookie(atomic_load(&b.number)));
        assert_int_equal(cookie(atomic_load(&a.number)) == cookie(atomic_load(&b.number)),
                         code == WHvPartitionPropertyCodeSeparateSecurityDomain);
    }
    if (code == WHvPartitionPropertyCodeSeparateSecurityDomain && shut(before) != before) {
        EVENTUALLY(thread_says(atomic_load(&a.number), "Speculation_Store_Bypass:", "thread mitigated"));
        EVENTUALLY(thread_says(atomic_load(&b.number), "Speculation_Store_Bypass:", "thread mitigated"));
    }
    cancel(&a.runner);
    cancel(&b.runner);
    assert_int_equal(cookie(0), own);
    assert_int_equal(speculation(PR_SPEC_STORE_BYPASS), before);
    assert_ok(WHvDeletePartition(p));
    munmap(memory, 16 * PAGE);
}

static void test_domain_in_guest_code(void **state)
{
    (void)state;
    if (can_keep_domains())
        in_guest_code(WHvPartitionPropertyCodeSeparateSecurityDomain);
    else
        refused(WHvPartitionPropertyCodeSeparateSecurityDomain, "a security domain of its own");
}

static void test_no_smt(void **state)
{
    (void)state;
    assert_int_equal(engine_capability(WHvCapabilityCodeSchedulerFeatures).SchedulerFeatures.DisableSmt,
                     can_keep_cores());
    if (can_keep_cores())
        in_guest_code(WHvPartitionPropertyCodeDisableSmt);
    else
        refused(WHvPartitionPropertyCodeDisableSmt, "cores of its own");
}

// ---- Threads that go from one partition to the other ---------------------------------------------

struct traveller {
    WHV_PARTITION_HANDLE partitions[3];
    UINT32 vp, runs;
    int wrong;                  // runs after which the thread had not what it should have
    int asked, open;            // of the first partition, of the others
};

static void *travel(void *argument)
{
    struct traveller *t = argument;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    for (UINT32 i = 0; i < t->runs; i++) {
        WHV_PARTITION_HANDLE p = t->partitions[i % 3];

        if (WHvCancelRunVirtualProcessor(p, t->vp, 0) != S_OK ||
            WHvRunVirtualProcessor(p, t->vp, &exit, sizeof(exit)) != S_OK)
            t->wrong++;
        if (speculation(PR_SPEC_STORE_BYPASS) != (i % 3 == 0 ? t->asked : t->open))
            t->wrong++;
    }
    return NULL;
}

static void test_travel(void **state)
{
    const bool domains = can_keep_domains();
    const int before = speculation(PR_SPEC_STORE_BYPASS);
    struct traveller travellers[3];
    pthread_t threads[3];
    WHV_PARTITION_HANDLE partitions[3];

    (void)state;
    partitions[0] = asking(domains ? WHvPartitionPropertyCodeSeparateSecurityDomain : 0, 3);
    partitions[1] = asking(can_keep_cores() ? WHvPartitionPropertyCodeDisableSmt : 0, 3);
    partitions[2] = created(3);
    if (node_usable(0))
        assert_ok(set_node(partitions[2], 0));
    assert_ok(WHvSetupPartition(partitions[2]));
    for (UINT32 i = 0; i < 3; i++)
        for (UINT32 vp = 0; vp < 3; vp++)
            assert_ok(WHvCreateVirtualProcessor(partitions[i], vp, 0));
    for (UINT32 i = 0; i < 3; i++) {
        travellers[i] = (struct traveller){.vp = i, .runs = rounds(2000), .asked = domains ? shut(before) : before,
                                            .open = before};
        memcpy(travellers[i].partitions, partitions, sizeof(partitions));
        assert_int_equal(pthread_create(&threads[i], NULL, travel, &travellers[i]), 0);
    }
    for (UINT32 i = 0; i < 3; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (UINT32 i = 0; i < 3; i++) {
        assert_int_equal(travellers[i].wrong, 0);
        assert_ok(WHvDeletePartition(partitions[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing_node),
        cmocka_unit_test(test_every_node),
        cmocka_unit_test(test_processor_node),
        cmocka_unit_test(test_hole),
        cmocka_unit_test(test_domain),
        cmocka_unit_test(test_domain_in_guest_code),
        cmocka_unit_test(test_no_smt),
        cmocka_unit_test(test_travel),
    };

    return engine_run_tests(tests);
}
