// Time that stands still on the kvm engine: what a guest sees of it, timers, what is set meanwhile, processors that
// come and go, migration.
#include "unit.h"

#include "kvm_time.h"

// ---- What a guest sees ---------------------------------------------------------------------------------------------

static void test_an_hour_that_nobody_sees(void **state)
{
    UINT64 tsc, count;

    (void)state;
    run();
    start_timer(MASKED | VECTOR, 5 * BUS_HZ);
    host += HZ;
    run();
    tsc = get(WHvX64RegisterTsc);
    count = get(WHvX64RegisterApicCurrentCount);
    assert_int_equal(count, 4 * BUS_HZ);
    suspend();
    assert_int_equal(get(WHvX64RegisterTsc), tsc);
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), count);
    run();                                      // which resumes
    assert_int_equal(get(WHvX64RegisterTsc), tsc);
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), count);
    host += HZ;
    run();
    assert_int_equal(get(WHvX64RegisterTsc), tsc + HZ);
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), 3 * BUS_HZ);
    suspend();
    BOTH(WHvSuspendPartitionTime);
    BOTH(WHvResumePartitionTime);
    BOTH(WHvResumePartitionTime);
    check_same();
    host += HZ;
    check_same();
    assert_int_equal(get(WHvX64RegisterTsc), tsc + 2 * HZ);
}

// Nothing runs before the first run; what is set by then goes on from there.
static void test_before_the_first_run(void **state)
{
    (void)state;
    host += HOUR;
    check_same();
    assert_int_equal(get(WHvX64RegisterTsc), 0);
    run();
    assert_int_equal(get(WHvX64RegisterTsc), 0);
    host += HZ;
    run();
    assert_int_equal(get(WHvX64RegisterTsc), HZ);
}

static void test_set_before_the_first_run(void **state)
{
    (void)state;
    set(WHvX64RegisterTsc, 1ull << 50);
    start_timer(VECTOR, BUS_HZ);
    host += HOUR;
    check_same();
    run();
    assert_int_equal(get(WHvX64RegisterTsc), 1ull << 50);
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ);
    assert_false(requested());
    host += HZ;
    run();
    assert_true(requested());
}

// ---- Timers --------------------------------------------------------------------------------------------------------

static void test_one_shot(void **state)
{
    (void)state;
    run();
    start_timer(VECTOR, BUS_HZ);
    for (unsigned n = 0; n < 4; n++) {
        suspend();
        run();
        assert_false(requested());
        host += HZ / 5;
    }
    suspend();
    run();
    assert_false(requested());
    host += HZ / 5;
    run();
    assert_true(requested());
    // It has run out, once.
    suspend();
    assert_int_equal(get(WHvX64RegisterApicInitCount), BUS_HZ);
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), 0);
    run();
    assert_false(requested());
}

// Run out while the processor was out of the guest, and suspended before it came back.
static void test_run_out_just_before(void **state)
{
    (void)state;
    run();
    start_timer(VECTOR, BUS_HZ);
    run();
    host += HZ;
    BOTH(WHvSuspendPartitionTime);
    host += HOUR;
    run();
    assert_true(requested());
}

static void test_deadline(void **state)
{
    UINT64 tsc;

    (void)state;
    run();
    set(WHvX64RegisterApicLvtTimer, DEADLINE | VECTOR);
    tsc = get(WHvX64RegisterTsc);
    set(WHvX64RegisterTscDeadline, tsc + 10 * HZ);
    suspend();
    run();
    assert_int_equal(get(WHvX64RegisterTscDeadline), tsc + 10 * HZ);
    host += 9 * HZ;
    run();
    assert_false(requested());
    suspend();
    run();
    assert_false(requested());
    host += HZ;
    run();
    assert_true(requested());
    assert_int_equal(get(WHvX64RegisterTscDeadline), 0);
    suspend();
    run();
    assert_false(requested());
    // One that has passed by the time it is suspended.
    set(WHvX64RegisterTscDeadline, get(WHvX64RegisterTsc) + HZ);
    host += HZ;
    BOTH(WHvSuspendPartitionTime);
    host += HOUR;
    run();
    assert_true(requested());
}

static void test_periodic(void **state)
{
    (void)state;
    run();
    start_timer(PERIODIC | VECTOR, BUS_HZ);
    host += HZ / 4;
    suspend();
    run();
    assert_false(requested());
    host += HZ / 2;
    suspend();
    run();
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ / 4);
    assert_false(requested());
    for (unsigned n = 0; n < 3; n++) {
        host += HZ / 4;
        run();
        assert_true(requested());
        host += HZ / 4;
        suspend();
        run();
        host += HZ / 2;
        run();
        assert_false(requested());
        assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ / 4);
    }
}

// On hardware whose timer does nothing while its processor is out of the guest: what has run out by then is known.
static void test_due(void **state)
{
    (void)state;
    fake_time_on_processor(true);
    run();
    for (unsigned n = 0; n < 3; n++) {
        start_timer(n == 1 ? PERIODIC | VECTOR : VECTOR, BUS_HZ);
        if (n == 2) {
            set(WHvX64RegisterApicLvtTimer, DEADLINE | VECTOR);
            set(WHvX64RegisterTscDeadline, get(WHvX64RegisterTsc) + HZ);
        }
        host += HZ;
        BOTH(WHvSuspendPartitionTime);
        host += HOUR;
        run();
        assert_true(requested());
        host += HZ - FAKE_BUS_TICKS;
        run();
        assert_false(requested());
        host += FAKE_BUS_TICKS;
        run();
        assert_int_equal(requested(), n == 1);
    }
}

// A timer that an INIT has ended does not come back.
static void test_init_meanwhile(void **state)
{
    (void)state;
    run();
    start_timer(PERIODIC | VECTOR, BUS_HZ);
    assert_ok(WHvSuspendPartitionTime(pair[KVM]));
    fake_time_init();
    assert_ok(WHvResumePartitionTime(pair[KVM]));
    assert_int_equal(get_of(pair[KVM], 0, WHvX64RegisterApicInitCount), 0);
    assert_int_equal(get_of(pair[KVM], 0, WHvX64RegisterApicLvtTimer), MASKED);
    assert_false(fake_time_armed());
}

// Divided by 16: what is left is in the timer's own steps.
static void test_divided(void **state)
{
    (void)state;
    run();
    start_timer(VECTOR, BUS_HZ);
    set(WHvX64RegisterApicDivide, 0x3);
    set(WHvX64RegisterApicInitCount, BUS_HZ / 16);
    host += HZ / 2;
    suspend();
    run();
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ / 32);
    host += HZ / 2;
    run();
    assert_true(requested());
}

// ---- Set while time stands -----------------------------------------------------------------------------------------

static void test_set_the_counter(void **state)
{
    static const UINT64 values[] = {0, 1, 1ull << 40, 5};

    (void)state;
    run();
    for (size_t n = 0; n < sizeof values / sizeof *values; n++) {
        suspend();
        set(WHvX64RegisterTsc, values[n]);
        set(WHvX64RegisterTscAdjust, values[n] + 7);
        check_same();
        host += HOUR;
        assert_int_equal(get(WHvX64RegisterTsc), values[n]);
        run();
        assert_int_equal(get(WHvX64RegisterTsc), values[n]);
        assert_int_equal(get(WHvX64RegisterTscAdjust), values[n] + 7);
        host += HZ;
        check_same();
        // And while it goes on.
        set(WHvX64RegisterTsc, values[n]);
        assert_int_equal(get(WHvX64RegisterTsc), values[n]);
        check_same();
    }
}

static void test_set_the_timer(void **state)
{
    (void)state;
    run();
    start_timer(VECTOR, BUS_HZ);
    suspend();
    start_timer(PERIODIC | VECTOR, 2 * BUS_HZ);
    host += HOUR;
    check_same();
    run();
    assert_false(requested());
    host += HZ;
    suspend();
    set(WHvX64RegisterApicCurrentCount, BUS_HZ / 2);
    check_same();
    run();
    host += HZ / 2;
    run();
    assert_true(requested());
    // As run out: KVM looks at it once more.
    suspend();
    start_timer(VECTOR, BUS_HZ);
    set(WHvX64RegisterApicCurrentCount, 0);
    check_same();
    assert_int_equal(get(WHvX64RegisterApicInitCount), BUS_HZ);
    run();
    fake_time_take(VECTOR);
    host += HOUR;
    run();
    assert_false(requested());
    // Stopped.
    start_timer(PERIODIC | VECTOR, BUS_HZ);
    suspend();
    set(WHvX64RegisterApicInitCount, 0);
    run();
    host += HOUR;
    run();
    assert_false(requested());
    // To deadlines, and back.
    start_timer(VECTOR, BUS_HZ);
    suspend();
    set(WHvX64RegisterTscDeadline, get(WHvX64RegisterTsc) + 1000 * HZ);
    assert_int_equal(get_of(pair[KVM], 0, WHvX64RegisterTscDeadline), 0);
    set(WHvX64RegisterTscDeadline, 0);
    set(WHvX64RegisterApicLvtTimer, DEADLINE | VECTOR);
    set(WHvX64RegisterTscDeadline, get(WHvX64RegisterTsc) + HZ);
    check_same();
    run();
    assert_false(requested());
    host += HZ;
    run();
    assert_true(requested());
    set(WHvX64RegisterTscDeadline, get(WHvX64RegisterTsc) + HZ);
    suspend();
    start_timer(VECTOR, 3 * BUS_HZ);
    set_of(pair[SOFT], 0, WHvX64RegisterTscDeadline, 0);    // KVM has forgotten it with the mode
    check_same();
    run();
    host += 2 * HZ;
    run();
    assert_false(requested());
    host += HZ;
    run();
    assert_true(requested());
}

// The page, from one and back: it brings what the timer had when it was read.
static void test_set_the_page(void **state)
{
    static uint8_t page[PAIR][PAGE] __attribute__((aligned(16)));

    (void)state;
    run();
    start_timer(VECTOR, 2 * BUS_HZ);
    host += HZ;
    suspend();
    for (unsigned n = 0; n < PAIR; n++)
        assert_ok(WHvGetVirtualProcessorInterruptControllerState2(pair[n], 0, page[n], PAGE, NULL));
    assert_memory_equal(page[KVM] + 0x380, page[SOFT] + 0x380, 4);
    assert_memory_equal(page[KVM] + 0x390, page[SOFT] + 0x390, 4);
    run();
    host += HZ;
    run();
    assert_true(requested());
    for (unsigned n = 0; n < 2; n++) {          // while it stands, and while it goes on
        if (n == 0)
            suspend();
        for (unsigned k = 0; k < PAIR; k++)
            assert_ok(WHvSetVirtualProcessorInterruptControllerState2(pair[k], 0, page[k], PAGE));
        check_same();
        assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ);
        run();
        assert_false(requested());
        host += HZ;
        run();
        assert_true(requested());
    }
}

// A register of the APIC's other than the timer's leaves the timer alone, and no interrupt is lost.
static void test_requested_meanwhile(void **state)
{
    WHV_INTERRUPT_CONTROL interrupt;

    (void)state;
    run();
    start_timer(PERIODIC | VECTOR, BUS_HZ);
    host += HZ / 2;
    suspend();
    memset(&interrupt, 0, sizeof interrupt);
    interrupt.Vector = 0x61;
    for (unsigned n = 0; n < PAIR; n++)
        assert_ok(WHvRequestInterrupt(pair[n], &interrupt, sizeof interrupt));
    set(WHvX64RegisterApicLvtThermal, MASKED | 0x33);
    check_same();
    run();
    assert_int_equal(get(WHvX64RegisterApicIrr3), 2);
    assert_false(requested());
    host += HZ / 2;
    run();
    assert_true(requested());
    assert_int_equal(get(WHvX64RegisterApicIrr3), 2);
    assert_int_equal(get(WHvX64RegisterApicLvtThermal), MASKED | 0x33);
}

// ---- Processors ----------------------------------------------------------------------------------------------------

// What one processor's counter is ahead of the other's, it stays; and a new one has the partition's.
static void test_in_step(void **state)
{
    WHV_PARTITION_HANDLE p;
    UINT64 ahead = 12345;

    (void)state;
    (void)end(NULL);
    p = pair[KVM] = partition("kvm", 3);
    assert_ok(run_kvm());
    assert_int_equal(get_of(p, 1, WHvX64RegisterTsc), get_of(p, 0, WHvX64RegisterTsc));
    set_of(p, 1, WHvX64RegisterTsc, get_of(p, 0, WHvX64RegisterTsc) + ahead);
    for (unsigned n = 0; n < 5; n++) {
        host += HZ + n;
        assert_ok(WHvSuspendPartitionTime(p));
        assert_int_equal(get_of(p, 1, WHvX64RegisterTsc), get_of(p, 0, WHvX64RegisterTsc) + ahead);
        host += HOUR;
        if (n == 2) {
            assert_ok(WHvDeleteVirtualProcessor(p, 2));
            assert_ok(WHvCreateVirtualProcessor(p, 2, 0));
        }
        assert_ok(WHvResumePartitionTime(p));
        assert_int_equal(get_of(p, 1, WHvX64RegisterTsc), get_of(p, 0, WHvX64RegisterTsc) + ahead);
        assert_int_equal(get_of(p, 2, WHvX64RegisterTsc), get_of(p, 0, WHvX64RegisterTsc));
    }
    set_of(p, 2, WHvX64RegisterTsc, 1ull << 40);
    assert_ok(WHvDeleteVirtualProcessor(p, 2));
    assert_ok(WHvCreateVirtualProcessor(p, 2, 0));
    assert_int_equal(get_of(p, 2, WHvX64RegisterTsc), get_of(p, 0, WHvX64RegisterTsc));
    assert_int_equal(get_of(p, 0, WHvX64RegisterTsc), 5 * HZ + 10);
}

static void test_reset(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 3; n++) {
        run();
        start_timer(VECTOR, 2 * BUS_HZ);
        set(WHvX64RegisterTsc, 1ull << 50);
        set(WHvX64RegisterTscAdjust, 99);
        host += HZ;
        run();
        if (n > 0)
            suspend();
        fake_forget();          // KVM completes the OUT
        BOTH(WHvResetPartition);
        check_same();
        assert_int_equal(get(WHvX64RegisterTsc), 0);
        assert_int_equal(get(WHvX64RegisterTscAdjust), 0);
        assert_int_equal(get(WHvX64RegisterApicInitCount), 0);
        host += HOUR;
        check_same();
        for (unsigned k = 0; k < PAIR; k++)
            place(pair[k], 0);
        run();
        assert_int_equal(get(WHvX64RegisterTsc), 0);
        host += HOUR;
        run();
        assert_false(requested());
    }
}

static void test_another_processor(void **state)
{
    (void)state;
    run();
    start_timer(VECTOR, BUS_HZ);
    set(WHvX64RegisterTsc, 1ull << 50);
    host += 100;
    suspend();
    fake_forget();
    BOTH(WHvDeleteVirtualProcessor, 0);
    host += HOUR;
    BOTH(WHvCreateVirtualProcessor, 0, 0);
    check_same();
    assert_int_equal(get(WHvX64RegisterTsc), 100);
    for (unsigned n = 0; n < PAIR; n++)
        place(pair[n], 0);
    run();
    assert_int_equal(get(WHvX64RegisterTsc), 100);
    host += HOUR;
    run();
    assert_false(requested());
}

// To another partition and on; then to one that is given up, and on here.
static void test_migration(void **state)
{
    HANDLE handle[PAIR];

    (void)state;
    for (size_t i = 0; i < 2 * KINDS; i++) {
        begin_timers(kinds[i / 2], 1);
        set(WHvX64RegisterTscAdjust, 5);
        set(WHvX64RegisterTsc, get(WHvX64RegisterTsc) + (kinds[i / 2] & DEADLINE ? 0 : 1ull << 40));
        if (i % 2)
            suspend();
        fake_forget();
        for (unsigned n = 0; n < PAIR; n++)
            assert_ok(WHvStartPartitionMigration(pair[n], &handle[n]));
        host += HOUR;
        for (unsigned n = 0; n < PAIR; n++) {
            WHV_PARTITION_HANDLE target;

            assert_ok(WHvAcceptPartitionMigration(handle[n], &target));
            assert_ok(WHvCompletePartitionMigration(pair[n]));
            assert_ok(WHvSetupPartition(target));
            assert_ok(WHvDeletePartition(pair[n]));
            pair[n] = target;
        }
        host += HOUR;
        handed_over = ALL;
        check_same();
        run();
        run_out();
        fake_forget();
        for (unsigned n = 0; n < PAIR; n++)
            assert_ok(WHvStartPartitionMigration(pair[n], &handle[n]));
        host += HOUR;
        BOTH(WHvCancelPartitionMigration);
        check_same();
        BOTH(WHvResumePartitionTime);
        host += HZ;
        check_same();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KVM_TIME_TEST(test_an_hour_that_nobody_sees),
        KVM_TIME_TEST(test_before_the_first_run),
        KVM_TIME_TEST(test_set_before_the_first_run),
        KVM_TIME_TEST(test_one_shot),
        KVM_TIME_TEST(test_run_out_just_before),
        KVM_TIME_TEST(test_deadline),
        KVM_TIME_TEST(test_periodic),
        KVM_TIME_TEST(test_due),
        KVM_TIME_TEST(test_init_meanwhile),
        KVM_TIME_TEST(test_divided),
        KVM_TIME_TEST(test_set_the_counter),
        KVM_TIME_TEST(test_set_the_timer),
        KVM_TIME_TEST(test_set_the_page),
        KVM_TIME_TEST(test_requested_meanwhile),
        KVM_TIME_TEST(test_in_step),
        KVM_TIME_TEST(test_reset),
        KVM_TIME_TEST(test_another_processor),
        KVM_TIME_TEST(test_migration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
