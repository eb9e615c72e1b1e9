// WHvCancelRunVirtualProcessor: from many threads, while running, parked and being deleted. No cancel is
// lost, and none is answered twice.
#include "threads.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

static const uint8_t forever[] = {0x66, 0xFF, 0x06, 0x00, 0x20, 0xEB, 0xF9};  // inc dword [COUNTER]; jmp
static const uint8_t halt[] = {0xF4, 0xE6, 0x10};                               // hlt; out 0x10, al

// Runs a processor again and again, until told to stop; counts the answers.
struct loop {
    WHV_PARTITION_HANDLE partition;
    atomic_int canceled, others;
    atomic_bool stop;
};

static void *loop_main(void *argument)
{
    struct loop *l = argument;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    while (!atomic_load(&l->stop)) {
        HRESULT hr = WHvRunVirtualProcessor(l->partition, 0, &exit, sizeof(exit));

        bool canceled = hr == S_OK && exit.ExitReason == WHvRunVpExitReasonCanceled;

        atomic_fetch_add(canceled ? &l->canceled : &l->others, 1);
    }
    return NULL;
}

#define STORM 3000

static void *storm_main(void *argument)
{
    struct loop *l = argument;

    for (int n = 0; n < STORM; n++)
        if (WHvCancelRunVirtualProcessor(l->partition, 0, 0) != S_OK)
            atomic_fetch_add(&l->others, 1);
    return NULL;
}

static void test_storm(void **state)
{
    struct loop l = {.partition = guest(memory, forever, sizeof(forever))};
    pthread_t runner, storm[2];
    int latched = 0;

    (void)state;
    pthread_create(&runner, NULL, loop_main, &l);
    for (int n = 0; n < 2; n++)
        pthread_create(&storm[n], NULL, storm_main, &l);
    for (int n = 0; n < 2; n++)
        pthread_join(storm[n], NULL);
    EVENTUALLY(l.canceled >= 1);        // one is latched if the runner started late
    atomic_store(&l.stop, true);
    assert_ok(WHvCancelRunVirtualProcessor(l.partition, 0, 0));
    pthread_join(runner, NULL);
    assert_int_equal(l.others, 0);
    assert_in_range(l.canceled, 1, 2 * STORM + 1);
    // What came too late is latched, and answered once.
    memcpy(memory + CODE, (const uint8_t[]){0xE6, 0x10}, 2);
    set_register(l.partition, 0, WHvX64RegisterRip, CODE);
    while (run(l.partition, 0).ExitReason == WHvRunVpExitReasonCanceled)
        assert_int_equal(latched++, 0);
    assert_int_equal(run(l.partition, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(WHvDeletePartition(l.partition));
}

// One cancel, one answer.
static void test_one_by_one(void **state)
{
    struct loop l = {.partition = guest(memory, forever, sizeof(forever))};
    pthread_t runner;

    (void)state;
    pthread_create(&runner, NULL, loop_main, &l);
    for (int n = 1; n <= 1000; n++) {
        assert_ok(WHvCancelRunVirtualProcessor(l.partition, 0, 0));
        EVENTUALLY(l.canceled >= n);
        assert_int_equal(l.canceled, n);
    }
    atomic_store(&l.stop, true);
    assert_ok(WHvCancelRunVirtualProcessor(l.partition, 0, 0));
    pthread_join(runner, NULL);
    assert_int_equal(l.canceled, 1001);
    assert_int_equal(l.others, 0);
    assert_ok(WHvDeletePartition(l.partition));
}

static void test_latched_executes_nothing(void **state)
{
    WHV_PARTITION_HANDLE p = guest(memory, forever, sizeof(forever));
    UINT32 before = load32(memory, COUNTER);

    (void)state;
    for (int n = 0; n < 100; n++) {
        assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
        assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonCanceled);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRip), CODE);
    }
    assert_int_equal(load32(memory, COUNTER), before);
    assert_ok(WHvDeletePartition(p));
}

static void test_parked(void **state)
{
    struct runner r;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, halt, sizeof(halt));
    for (int n = 0; n < 300; n++) {
        start(&r, p, 0);
        if (n % 3 == 0)
            EVENTUALLY(halted(p, 0));
        cancel(&r);
        if (halted(p, 0))
            assert_int_equal(r.exit.VpContext.Rip, CODE + 1);
    }
    assert_ok(WHvDeletePartition(p));
}

// Cancels a processor that comes and goes.
static void *chase_main(void *argument)
{
    struct loop *l = argument;

    while (!atomic_load(&l->stop)) {
        HRESULT hr = WHvCancelRunVirtualProcessor(l->partition, 0, 0);

        if (hr != S_OK && hr != WHV_E_VP_DOES_NOT_EXIST && hr != E_INVALIDARG)
            atomic_fetch_add(&l->others, 1);
    }
    return NULL;
}

static void test_delete_processor(void **state)
{
    struct loop l = {.partition = guest(memory, forever, sizeof(forever))};
    struct runner r;
    pthread_t chaser;

    (void)state;
    pthread_create(&chaser, NULL, chase_main, &l);
    for (int n = 0; n < 200; n++) {
        store32(memory, COUNTER, 0);
        start(&r, l.partition, 0);
        if (n % 2)
            EVENTUALLY(atomic_load(&r.done) || load32(memory, COUNTER));
        assert_ok(WHvDeleteVirtualProcessor(l.partition, 0));
        finish(&r);
        if (r.hr != WHV_E_VP_DOES_NOT_EXIST) {
            assert_ok(r.hr);
            assert_int_equal(r.exit.ExitReason, WHvRunVpExitReasonCanceled);
        }
        assert_ok(WHvCreateVirtualProcessor(l.partition, 0, 0));
        start_at(l.partition, 0, CODE);
    }
    atomic_store(&l.stop, true);
    pthread_join(chaser, NULL);
    assert_int_equal(l.others, 0);
    assert_ok(WHvDeletePartition(l.partition));
}

static void test_delete_partition(void **state)
{
    const bool apic = engine_has_apic();

    (void)state;
    for (int n = 0; n < 60; n++) {
        bool parked = n % 2 && apic;
        struct loop l = {.partition = parked ? apic_guest(memory, 1, halt, sizeof(halt))
                                             : guest(memory, forever, sizeof(forever))};
        struct runner r;
        pthread_t chaser;

        pthread_create(&chaser, NULL, chase_main, &l);
        start(&r, l.partition, 0);
        assert_ok(WHvDeletePartition(l.partition));
        finish(&r);
        atomic_store(&l.stop, true);
        pthread_join(chaser, NULL);
        assert_int_equal(l.others, 0);
        if (r.hr != E_INVALIDARG && r.hr != WHV_E_VP_DOES_NOT_EXIST) {
            assert_ok(r.hr);
            assert_int_equal(r.exit.ExitReason, WHvRunVpExitReasonCanceled);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_storm),
        cmocka_unit_test(test_one_by_one),
        cmocka_unit_test(test_latched_executes_nothing),
        cmocka_unit_test(test_parked),
        cmocka_unit_test(test_delete_processor),
        cmocka_unit_test(test_delete_partition),
    };

    return engine_run_tests(tests);
}
