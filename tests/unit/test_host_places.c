// Domains, speculation and nodes over a made-up host: lists of processors, and what each answer of the kernel means.
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <linux/mempolicy.h>
#include <linux/prctl.h>

#include "fake_host.h"
#include "os/numa.h"

static int reset(void **state)
{
    (void)state;
    fake_host_reset();
    return 0;
}

static void test_lists(void **state)
{
    static const struct {
        const char *list;
        uint64_t low, high;
    } rows[] = {
        {"0\n", 1, 0},
        {"0", 1, 0},
        {"\n", 0, 0},
        {"", 0, 0},
        {"0-3,8\n", 0x10F, 0},
        {"63-64\n", 1ull << 63, 1},
        {"5,3\n", 0x28, 0},
        {"7-7\n", 0x80, 0},
        {"0-127\n", UINT64_MAX, UINT64_MAX},
    };
    uint64_t bits[2];

    (void)state;
    for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        memset(bits, 0xA5, sizeof(bits));
        assert_int_equal(os_numa_parse(rows[i].list, bits, 128), 0);
        assert_int_equal(bits[0], rows[i].low);
        assert_int_equal(bits[1], rows[i].high);
    }
}

static void test_bad_lists(void **state)
{
    static const char *const bad[] = {
        ",", "0,", ",0", "0,,1", "a", "-1", "0-", "0--1", "3-1", "0 1", "0\n\n", "0x", " 0", "+1", "0-3-5", "1,1",
        "0-3,2", "\n0", "1;2", "0-1,\n",
    };
    static const char *const far[] = {
        "128", "0-128", "4294967296", "99999999999999999999999", "0-18446744073709551616",
    };
    uint64_t bits[2];

    (void)state;
    for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(os_numa_parse(bad[i], bits, 128), EINVAL);
    for (unsigned int i = 0; i < sizeof(far) / sizeof(far[0]); i++)
        assert_int_equal(os_numa_parse(far[i], bits, 128), ERANGE);
}

static void test_nodes(void **state)
{
    struct os_cpus cpus;
    bool memory;

    (void)state;
    assert_true(os_numa_exists(0));
    assert_true(os_numa_exists(1));
    assert_false(os_numa_exists(2));
    assert_false(os_numa_exists(OS_NUMA_NODES));
    assert_false(os_numa_exists(UINT32_MAX));
    assert_int_equal(os_numa_cpus(1, &cpus), 0);
    assert_int_equal(cpus.bits[0], 0xC);
    assert_int_equal(os_numa_cpus(2, &cpus), ENOENT);

    // Numbers may have holes; a node may lack processors, or memory, or be out of bounds for this process.
    fake_host.online = "0,2-3\n";
    fake_host.with_memory = "0,3\n";
    fake_host.cpulist[2] = "2\n";
    fake_host.cpulist[3] = "\n";
    fake_host.allowed = 1;
    assert_false(os_numa_exists(1));
    assert_true(os_numa_exists(3));
    assert_int_equal(os_numa_cpus(3, &cpus), 0);
    assert_int_equal(cpus.bits[0], 0);
    assert_int_equal(os_numa_memory(0, &memory), 0);
    assert_true(memory);
    assert_int_equal(os_numa_memory(2, &memory), 0);
    assert_false(memory);
    assert_int_equal(os_numa_memory(3, &memory), EACCES);
    assert_int_equal(os_numa_memory(UINT32_MAX, &memory), 0);
    assert_false(memory);
}

static void test_no_nodes(void **state)
{
    struct os_cpus cpus;
    uint8_t page[1];
    bool memory;

    (void)state;
    fake_host.online = fake_host.with_memory = fake_host.cpulist[0] = NULL;
    fake_host.numa = false;
    assert_true(os_numa_exists(0));
    assert_false(os_numa_exists(1));
    assert_int_equal(os_numa_cpus(0, &cpus), 0);
    assert_int_equal(cpus.bits[0], UINT64_MAX);
    assert_int_equal(cpus.bits[OS_NUMA_CPUS / 64 - 1], UINT64_MAX);
    assert_int_equal(os_numa_memory(0, &memory), 0);
    assert_true(memory);
    assert_int_equal(os_numa_prefer(page, 4096, 0), 0);
    assert_int_equal(os_numa_forget(page, 4096), 0);
}

static void test_unreadable(void **state)
{
    struct os_cpus cpus;
    bool memory;

    (void)state;
    fake_host.cpulist[0] = "0-x\n";
    assert_int_equal(os_numa_cpus(0, &cpus), EINVAL);
    fake_host.file_error = EMFILE;
    assert_false(os_numa_exists(0));
    assert_int_equal(os_numa_memory(0, &memory), EMFILE);
    assert_true(os_domain_cores_shared());
}

static void test_memory_policy(void **state)
{
    uint8_t *place = (uint8_t *)0x10000;

    (void)state;
    assert_int_equal(os_numa_prefer(place, 0x2000, 1), 0);
    assert_int_equal(os_numa_forget(place, 0x1000), 0);
    assert_int_equal(fake_host.policy_count, 2);
    assert_int_equal(fake_host.policies[0].start, 0x10000);
    assert_int_equal(fake_host.policies[0].size, 0x2000);
    assert_int_equal(fake_host.policies[0].mode, MPOL_PREFERRED);
    assert_int_equal(fake_host.policies[0].nodes, 2);
    assert_int_equal(fake_host.policies[0].flags, MPOL_MF_MOVE);
    assert_int_equal(fake_host.policies[1].mode, MPOL_DEFAULT);
    assert_int_equal(fake_host.policies[1].size, 0x1000);
    assert_int_equal(os_numa_prefer(place, 0x2000, OS_NUMA_NODES), EINVAL);
    fake_host.hole = 0x11000;
    assert_int_equal(os_numa_prefer(place, 0x2000, 1), EFAULT);
}

static void test_cores(void **state)
{
    uint64_t cookie;

    (void)state;
    assert_true(os_domain_cores_shared());
    fake_host.smt = "0\n";
    assert_false(os_domain_cores_shared());
    fake_host.smt = NULL;
    assert_true(os_domain_cores_shared());
    fake_host.smt = "";
    assert_true(os_domain_cores_shared());

    assert_int_equal(os_domain_cookie(0, &cookie), 0);
    assert_int_equal(cookie, 0);
    assert_int_equal(os_domain_create(), 0);
    assert_int_equal(os_domain_cookie(gettid(), &cookie), 0);
    assert_int_not_equal(cookie, 0);
    fake_set_cookie(5, 77);
    assert_int_equal(os_domain_join(5), 0);
    assert_int_equal(fake_cookie(gettid()), 77);
    fake_host.cores_shared = false;
    assert_int_equal(os_domain_create(), ENODEV);
    fake_host.core_scheduling = false;
    assert_int_equal(os_domain_cookie(0, &cookie), EINVAL);
    assert_int_equal(cookie, 0);
}

static void test_speculation_states(void **state)
{
    static const struct {
        enum os_speculation which;
        long answer;
        enum os_speculation_state means;
    } rows[] = {
        {OS_SPECULATION_STORE_BYPASS, PR_SPEC_NOT_AFFECTED, OS_SPECULATION_SAFE},
        {OS_SPECULATION_STORE_BYPASS, PR_SPEC_ENABLE, OS_SPECULATION_EXPOSED},
        {OS_SPECULATION_STORE_BYPASS, PR_SPEC_DISABLE, OS_SPECULATION_SAFE},
        {OS_SPECULATION_STORE_BYPASS, PR_SPEC_PRCTL | PR_SPEC_ENABLE, OS_SPECULATION_OPEN},
        {OS_SPECULATION_STORE_BYPASS, PR_SPEC_PRCTL | PR_SPEC_DISABLE, OS_SPECULATION_SHUT},
        {OS_SPECULATION_STORE_BYPASS, PR_SPEC_PRCTL | PR_SPEC_FORCE_DISABLE, OS_SPECULATION_SAFE},
        {OS_SPECULATION_STORE_BYPASS, PR_SPEC_PRCTL | PR_SPEC_DISABLE_NOEXEC, OS_SPECULATION_SAFE},
        {OS_SPECULATION_STORE_BYPASS, -ENODEV, OS_SPECULATION_EXPOSED},
        {OS_SPECULATION_INDIRECT_BRANCH, PR_SPEC_ENABLE, OS_SPECULATION_EXPOSED},
        {OS_SPECULATION_INDIRECT_BRANCH, PR_SPEC_PRCTL | PR_SPEC_ENABLE, OS_SPECULATION_OPEN},
        {OS_SPECULATION_L1D, PR_SPEC_FORCE_DISABLE, OS_SPECULATION_EXPOSED},
        {OS_SPECULATION_L1D, PR_SPEC_NOT_AFFECTED, OS_SPECULATION_SAFE},
        {OS_SPECULATION_L1D, PR_SPEC_PRCTL | PR_SPEC_DISABLE, OS_SPECULATION_OPEN},
        {OS_SPECULATION_L1D, PR_SPEC_PRCTL | PR_SPEC_ENABLE, OS_SPECULATION_SHUT},
    };

    (void)state;
    for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        fake_host_reset();
        fake_host.speculation[rows[i].which] = rows[i].answer;
        assert_int_equal(os_speculation(rows[i].which), rows[i].means);
    }
}

// There and back, by the value that each control takes for it, and never for good.
static void test_speculation_set(void **state)
{
    (void)state;
    fake_host.speculation[OS_SPECULATION_L1D] = PR_SPEC_PRCTL | PR_SPEC_DISABLE;
    for (unsigned int which = 0; which < OS_SPECULATIONS; which++) {
        assert_int_equal(os_speculation_shut(which, true), 0);
        assert_int_equal(os_speculation(which), OS_SPECULATION_SHUT);
        assert_int_equal(fake_speculation(gettid(), which),
                         PR_SPEC_PRCTL | (which == OS_SPECULATION_L1D ? PR_SPEC_ENABLE : PR_SPEC_DISABLE));
        assert_int_equal(os_speculation_shut(which, false), 0);
        assert_int_equal(os_speculation(which), OS_SPECULATION_OPEN);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_lists, reset),
        cmocka_unit_test_setup(test_bad_lists, reset),
        cmocka_unit_test_setup(test_nodes, reset),
        cmocka_unit_test_setup(test_no_nodes, reset),
        cmocka_unit_test_setup(test_unreadable, reset),
        cmocka_unit_test_setup(test_memory_policy, reset),
        cmocka_unit_test_setup(test_cores, reset),
        cmocka_unit_test_setup(test_speculation_states, reset),
        cmocka_unit_test_setup(test_speculation_set, reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
