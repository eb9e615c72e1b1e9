// CpuCap and ProcessorFrequencyCap: what a partition's processors use in a second, however many they are.
#include "schedule.h"

static struct spinners one;

static void check_bound(WHV_PARTITION_HANDLE p, UINT32 processors, double bound)
{
    struct spinners *const who[] = {&one};

    spinners_set_up(&one, p, processors);
    spinners_start(&one);
    expect_bound(who, 1, bound);
    spinners_stop(&one);
    assert_ok(WHvDeletePartition(p));
}

static void check_cap(UINT32 processors, UINT32 percent)
{
    WHV_PARTITION_HANDLE p = created(processors);

    assert_ok(set32(p, WHvPartitionPropertyCodeCpuCap, percent));
    check_bound(p, processors, percent / 100.0 * processors);
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

// In a time that is not of the whole partition, but of each processor.
static void test_frequency(void **state)
{
    const WHV_CAPABILITY capability = engine_capability(WHvCapabilityCodeProcessorFrequencyCap);
    const UINT32 nominal = capability.ProcessorFrequencyCap.NominalFrequencyMhz;

    (void)state;
    assert_int_equal(capability.ProcessorFrequencyCap.IsSupported, 1);
    assert_true(nominal > 0);
    for (UINT32 processors = 1; processors <= 2; processors++) {
        WHV_PARTITION_HANDLE p = created(processors);

        assert_ok(set32(p, WHvPartitionPropertyCodeProcessorFrequencyCap, nominal / 5));
        check_bound(p, processors, (double)(nominal / 5) / nominal * processors);
    }
}

// What is no limit makes none: the processor has all of its core, as far as that is to be had.
static void test_frequency_above_nominal(void **state)
{
    const UINT32 nominal =
        engine_capability(WHvCapabilityCodeProcessorFrequencyCap).ProcessorFrequencyCap.NominalFrequencyMhz;
    WHV_PARTITION_HANDLE p = created(1);

    (void)state;
    assert_ok(set32(p, WHvPartitionPropertyCodeProcessorFrequencyCap, nominal + 1));
    check_bound(p, 1, 1);
}

// A processor that exits all the time, and goes on where it was.
static void *exiting_main(void *argument)
{
    struct runner *r = argument;

    do {
        r->hr = WHvRunVirtualProcessor(r->partition, r->vp, &r->exit, sizeof(r->exit));
        if (r->hr != S_OK || r->exit.ExitReason != WHvRunVpExitReasonX64IoPortAccess)
            break;
        set_register(r->partition, r->vp, WHvX64RegisterRip, CODE);
    } while (true);
    if (r->hr != S_OK || r->exit.ExitReason != WHvRunVpExitReasonCanceled)
        print_message("ended with 0x%08x, exit 0x%x at 0x%llx\n", (unsigned int)r->hr, (unsigned int)r->exit.ExitReason,
                      (unsigned long long)r->exit.VpContext.Rip);
    atomic_store(&r->done, true);
    return NULL;
}

static void test_many_exits(void **state)
{
    static const uint8_t code[] = {0x66, 0xFF, 0x07, 0xE6, 0x10};     // inc dword [bx]; out 0x10, al
    struct spinners *const who[] = {&one};
    struct runner *r = &one.runner[0];
    WHV_PARTITION_HANDLE p = created(1);

    (void)state;
    assert_ok(set32(p, WHvPartitionPropertyCodeCpuCap, 25));
    spinners_set_up(&one, p, 1);
    memcpy(one.memory + CODE, code, sizeof(code));
    memset(r, 0, sizeof(*r));
    r->partition = p;
    assert_int_equal(pthread_create(&r->thread, NULL, exiting_main, r), 0);
    assert_int_equal(pthread_getcpuclockid(r->thread, &one.clock[0]), 0);
    EVENTUALLY(load32(one.memory, COUNTER) > 100);
    expect_bound(who, 1, 0.25);
    cancel(r);
    assert_ok(WHvDeletePartition(p));
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
        cmocka_unit_test(test_many_exits),
        cmocka_unit_test(test_frequency),
        cmocka_unit_test(test_frequency_above_nominal),
        cmocka_unit_test(test_cancel_while_held_back),
        cmocka_unit_test(test_visit_and_delete),
    };

    return engine_run_tests(tests);
}
