// The life of a partition: states, deletion in every one of them, and handles.
#include "api.h"

#include <pthread.h>

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

static void test_states(void **state)
{
    WHV_PARTITION_HANDLE p;

    (void)state;
    assert_hr(WHvCreatePartition(NULL), E_POINTER);
    assert_ok(WHvCreatePartition(&p));
    assert_hr(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
    assert_ok(set32(p, WHvPartitionPropertyCodeProcessorCount, 1));
    assert_hr(WHvMapGpaRange(p, memory, 0, PAGE, RWX), INVALID_STATE);
    assert_hr(WHvUnmapGpaRange(p, 0, PAGE), INVALID_STATE);
    assert_hr(WHvCreateVirtualProcessor(p, 0, 0), INVALID_STATE);
    assert_ok(WHvSetupPartition(p));
    assert_hr(WHvSetupPartition(p), INVALID_STATE);
    assert_hr(set32(p, WHvPartitionPropertyCodeProcessorCount, 1), E_INVALIDARG);
    assert_ok(WHvDeletePartition(p));
}

static void test_delete_in_every_state(void **state)
{
    WHV_PARTITION_HANDLE p;

    (void)state;
    assert_ok(WHvCreatePartition(&p));
    assert_ok(WHvDeletePartition(p));
    p = set_up(1);
    assert_ok(WHvDeletePartition(p));
    p = set_up(2);
    assert_ok(WHvMapGpaRange(p, memory, 0, PAGE, RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
    assert_ok(WHvDeletePartition(p));
    assert_hr(WHvDeletePartition(p), E_INVALIDARG);
    assert_hr(WHvSetupPartition(p), E_INVALIDARG);
    assert_hr(WHvDeletePartition(NULL), E_INVALIDARG);
    assert_hr(WHvDeletePartition((WHV_PARTITION_HANDLE)(uintptr_t)0xDEADBEEF), E_INVALIDARG);
    assert_hr(WHvDeletePartition((WHV_PARTITION_HANDLE)&p), E_INVALIDARG);
}

struct runner {
    WHV_PARTITION_HANDLE partition;
    HRESULT hr;
    WHV_RUN_VP_EXIT_CONTEXT exit;
};

static void *run_thread(void *argument)
{
    struct runner *runner = argument;

    runner->hr = WHvRunVirtualProcessor(runner->partition, 0, &runner->exit, sizeof(runner->exit));
    return NULL;
}

// A guest that never stops by itself: it counts in memory, so that the test knows when it runs.
static const uint8_t counting[] = {
    0xFF, 0x06, 0x00, 0x20,     // again: inc word [0x2000]
    0xEB, 0xFA,                 // jmp again
};

static void wait_until_it_runs(void)
{
    volatile uint16_t *counter = (volatile uint16_t *)(void *)(memory + 0x2000);
    uint16_t before = *counter;

    while (*counter == before)
        ;
}

static void test_delete_while_running(void **state)
{
    (void)state;
    for (unsigned int round = 0; round < 20; round++) {
        struct runner runner = {.partition = guest(memory, counting, sizeof(counting))};
        pthread_t thread;

        pthread_create(&thread, NULL, run_thread, &runner);
        if (round % 2)
            wait_until_it_runs();
        if (round % 4 == 3)
            assert_ok(WHvDeleteVirtualProcessor(runner.partition, 0));
        assert_ok(WHvDeletePartition(runner.partition));
        pthread_join(thread, NULL);
        if (round % 2) {
            assert_ok(runner.hr);
            assert_int_equal(runner.exit.ExitReason, WHvRunVpExitReasonCanceled);
        }
    }
}

static void test_several_at_once(void **state)
{
    static const uint8_t out[] = {0xE6, 0x10, 0xF4};    // out 0x10, al; hlt
    WHV_PARTITION_HANDLE p[8];

    (void)state;
    for (unsigned int i = 0; i < 8; i++) {
        p[i] = guest(memory, out, sizeof(out));
        set_register(p[i], 0, WHvX64RegisterRax, i);
    }
    for (unsigned int i = 0; i < 8; i++) {
        WHV_RUN_VP_EXIT_CONTEXT exit = run(p[i], 0);

        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
        assert_int_equal(exit.IoPortAccess.Rax & 0xFF, i);
        assert_ok(WHvDeletePartition(p[i]));
    }
}

static void test_engine_report(void **state)
{
    const char *engine = getenv("BULKHEAD_ENGINE");
    BULKHEAD_ENGINE_INFO info = {.Size = sizeof(info)};
    WHV_PARTITION_HANDLE p = created(1);
    char report[1024], line[32] = "engine: ";
    UINT32 index = 0;

    (void)state;
    assert_non_null(engine);
    strncat(line, engine, sizeof(line) - strlen(line) - 1);
    assert_hr(BulkheadSetEngine(p, "perpetual-motion"), E_INVALIDARG);
    assert_ok(BulkheadSetEngine(p, engine));
    assert_ok(WHvSetupPartition(p));
    assert_hr(BulkheadSetEngine(p, engine), INVALID_STATE);
    assert_ok(BulkheadGetEngineReport(p, report, sizeof(report), NULL));
    assert_memory_equal(report, line, strlen(line));
    assert_ok(WHvDeletePartition(p));
    do
        assert_ok(BulkheadGetEngineInfo(index++, &info));
    while (strcmp(info.Name, engine) != 0);
    assert_true(info.Usable);
    assert_int_not_equal(info.Reason[0], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states),
        cmocka_unit_test(test_delete_in_every_state),
        cmocka_unit_test(test_delete_while_running),
        cmocka_unit_test(test_several_at_once),
        cmocka_unit_test(test_engine_report),
    };

    return engine_run_tests(tests);
}
