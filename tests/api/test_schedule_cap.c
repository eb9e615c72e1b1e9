// CpuCap and ProcessorFrequencyCap: what a partition's processors use in a second, however many they are.
#include "schedule.h"

static struct spinners one;

// A cap bounds every second. What else the machine does can only make it less: the best of some seconds must come near.
#define BOUND 0.01
#define TRIES 5

static void expect_share(struct spinners *s, double cap)
{
    struct spinners *const who[] = {s};
    double best = 0, share, all;

    for (int n = 0; n < TRIES && best < cap - BOUND; n++) {
        shares(who, 1, SECOND, &share, &all);
        print_message("capped at %.3f of a core: %.4f, the process %.4f\n", cap, share, all);
        assert_true(share <= cap + BOUND);
        assert_true(all <= cap + 3 * BOUND);        // who waits sleeps
        best = share > best ? share : best;
    }
    assert_true(best >= cap - BOUND);
}

static void check_cap(UINT32 processors, UINT32 percent)
{
    WHV_PARTITION_HANDLE p = created(processors);

    assert_ok(set32(p, WHvPartitionPropertyCodeCpuCap, percent));
    spinners_set_up(&one, p, processors);
    spinners_start(&one);
    expect_share(&one, percent / 100.0 * processors);
    spinners_stop(&one);
    assert_ok(WHvDeletePartition(p));
}

static void test_one(void **state)
{
    (void)state;
    check_cap(1, 30);
}

static void test_two(void **state)
{
    (void)state;
    check_cap(2, 25);
}

static void test_four(void **state)
{
    (void)state;
    check_cap(4, 10);
}

// A cap of one percent leaves long waits between slices: a cancel ends one, and the guest has not moved.
static void test_cancel_while_held_back(void **state)
{
    WHV_PARTITION_HANDLE p = created(1);

    (void)state;
    assert_ok(set32(p, WHvPartitionPropertyCodeCpuCap, 1));
    spinners_set_up(&one, p, 1);
    for (int n = 0; n < 200; n++) {
        WHV_RUN_VP_EXIT_CONTEXT exit;

        start(&one.runner[0], p, 0);
        cancel(&one.runner[0]);         // one cancel, one answer
        // And one that is there before the run, whatever the processor has left.
        assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
        exit = run(p, 0);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonCanceled);
    }
    // None is left over: the guest goes on until it is cancelled again.
    start(&one.runner[0], p, 0);
    store32(one.memory, COUNTER, 0);
    EVENTUALLY(load32(one.memory, COUNTER));
    assert_false(atomic_load(&one.runner[0].done));
    cancel(&one.runner[0]);
    assert_ok(WHvDeletePartition(p));
}

// Held back or not, a processor lets visitors in, and ends with its partition.
static void test_visit_and_delete(void **state)
{
    (void)state;
    for (int n = 0; n < 20; n++) {
        WHV_PARTITION_HANDLE p = created(1);

        assert_ok(set32(p, WHvPartitionPropertyCodeCpuCap, 1));
        spinners_set_up(&one, p, 1);
        start(&one.runner[0], p, 0);
        EVENTUALLY(load32(one.memory, COUNTER));
        for (int visit = 0; visit < 50; visit++)
            assert_int_equal(get_register(p, 0, WHvX64RegisterRbx), COUNTER);
        assert_ok(WHvDeletePartition(p));
        finish(&one.runner[0]);
        assert_ok(one.runner[0].hr);
        assert_int_equal(one.runner[0].exit.ExitReason, WHvRunVpExitReasonCanceled);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one),
        cmocka_unit_test(test_two),
        cmocka_unit_test(test_four),
        cmocka_unit_test(test_cancel_while_held_back),
        cmocka_unit_test(test_visit_and_delete),
    };

    return engine_run_tests(tests);
}
