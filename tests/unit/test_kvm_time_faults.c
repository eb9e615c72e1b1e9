// Time that stands still on the kvm engine while calls to the kernel fail: each of them, and several in a row.
#include "unit.h"

#include "kvm_time.h"

#define CALLS_LIMIT 200u        // of one call of ours; far fewer are needed
#define FAILS_MAX 4u            // one after the other

// All goes on as before.
static void test_suspend_fails(void **state)
{
    unsigned n = 1;

    (void)state;
    for (unsigned round = 0; round < KINDS * FAILS_MAX; round++) {
        for (n = 1; n < CALLS_LIMIT; n++) {
            HRESULT hr;

            begin_timers(kinds[round % KINDS], 2);
            fake_fail(n, round / KINDS + 1);
            hr = WHvSuspendPartitionTime(pair[KVM]);
            if (!fake_fail_end())
                break;
            assert_hr(hr, E_FAIL);
            check_same();
            if (n % 2) {
                run_out();
                continue;
            }
            // At once once more: what has not been given back is there still.
            suspend();
            run();
            run_out();
        }
        assert_in_range(n, 4, CALLS_LIMIT - 1);
    }
}

// Time stands, or goes on with a timer that KVM gets with the next run.
static void test_resume_fails(void **state)
{
    unsigned n = 1, stood = 0, went_on = 0;

    (void)state;
    for (unsigned round = 0; round < KINDS * FAILS_MAX; round++) {
        for (n = 1; n < CALLS_LIMIT; n++) {
            HRESULT hr;

            begin_timers(kinds[round % KINDS], 2);
            suspend();
            fake_fail(n, round / KINDS + 1);
            hr = WHvResumePartitionTime(pair[KVM]);
            if (!fake_fail_end())
                break;
            if (FAILED(hr)) {
                assert_hr(hr, E_FAIL);
                check_same();
                host += HOUR;
                check_same();
                stood++;
            } else {
                assert_ok(WHvResumePartitionTime(pair[SOFT]));
                went_on++;
            }
            BOTH(WHvResumePartitionTime);
            stands = false;
            check_same();
            if (n % 2) {
                run_out();
                continue;
            }
            host += HZ;         // it runs out before the next run
            run();
            assert_true(requested());
        }
        assert_in_range(n, 4, CALLS_LIMIT - 1);
    }
    assert_in_range(stood, 1, UINT32_MAX);
    assert_in_range(went_on, 1, UINT32_MAX);
    // A run that cannot give it back says so.
    for (unsigned kind = 0; kind < KINDS; kind++) {
        begin_timers(kinds[kind], 2);
        suspend();
        fake_fail(3, 100);      // behind the two counters
        assert_ok(WHvResumePartitionTime(pair[KVM]));
        stands = false;
        assert_hr(run_kvm(), E_FAIL);
        assert_in_range(fake_fail_end(), 3, 100);
        assert_ok(WHvResumePartitionTime(pair[SOFT]));
        run_out();
    }
}

// All that is set, or nothing.
static void test_set_fails(void **state)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterTsc, WHvX64RegisterTscAdjust,
                                              WHvX64RegisterApicCurrentCount, WHvX64RegisterPat};
    WHV_REGISTER_VALUE values[4];
    unsigned n = 1;

    (void)state;
    memset(values, 0, sizeof values);
    values[0].Reg64 = 1ull << 40;
    values[1].Reg64 = 77;
    values[2].Reg64 = BUS_HZ / 16 / 8;
    values[3].Reg64 = 0x0007040600070406;
    for (unsigned stands = 0; stands < 2; stands++) {
        for (n = 1; n < CALLS_LIMIT; n++) {
            HRESULT hr;

            begin_timers(VECTOR, 2);
            if (stands)
                suspend();
            fake_fail(n, 1);
            hr = WHvSetVirtualProcessorRegisters(pair[KVM], 0, names, 4, values);
            if (!fake_fail_end())
                break;
            assert_hr(hr, E_FAIL);
            check_same();
            BOTH(WHvSetVirtualProcessorRegisters, 0, names, 4, values);
            check_same();
            assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ / 16 / 8);
            run();
            assert_int_equal(get(WHvX64RegisterTsc), 1ull << 40);
        }
        assert_in_range(n, 4, CALLS_LIMIT - 1);
    }
}

// And where nothing can be given back to KVM any more: what is held here is as it was.
static void test_set_fails_for_good(void **state)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterTsc, WHvX64RegisterTscAdjust, WHvX64RegisterTscDeadline};
    WHV_REGISTER_VALUE values[3];
    unsigned n;

    (void)state;
    memset(values, 0, sizeof values);
    for (n = 0; n < 3; n++)
        values[n].Reg64 = 1ull << (40 + n);
    for (n = 1; n < CALLS_LIMIT; n++) {
        HRESULT hr;

        begin_timers(DEADLINE | VECTOR, 2);
        suspend();
        fake_fail(n, 100);
        hr = WHvSetVirtualProcessorRegisters(pair[KVM], 0, names, 3, values);
        if (!fake_fail_end())
            break;
        assert_hr(hr, E_FAIL);
        (void)get(WHvX64RegisterTsc);
        (void)get(WHvX64RegisterTscDeadline);
    }
    assert_in_range(n, 4, CALLS_LIMIT - 1);
}

static void test_create_fails(void **state)
{
    unsigned n = 1;

    (void)state;
    for (unsigned stands = 0; stands < 2; stands++) {
        for (n = 1; n < CALLS_LIMIT; n++) {
            HRESULT hr;

            begin_timers(VECTOR, 2);
            if (stands)
                suspend();
            set_of(pair[KVM], 1, WHvX64RegisterTsc, 1ull << 40);
            BOTH(WHvDeleteVirtualProcessor, 1);
            fake_fail(n, 1);
            hr = WHvCreateVirtualProcessor(pair[KVM], 1, 0);
            if (!fake_fail_end())
                break;
            assert_hr(hr, E_FAIL);
            BOTH(WHvCreateVirtualProcessor, 1, 0);
            check_same();
            run();
            run_out();
        }
        assert_in_range(n, 3, CALLS_LIMIT - 1);
    }
}

static void test_reset_fails(void **state)
{
    unsigned n;

    (void)state;
    for (n = 1; n < CALLS_LIMIT; n++) {
        HRESULT hr;

        begin_timers(PERIODIC | VECTOR, 2);
        set(WHvX64RegisterTsc, 1ull << 40);
        fake_forget();
        fake_fail(n, 1);
        hr = WHvResetPartition(pair[KVM]);
        if (!fake_fail_end())
            break;
        assert_hr(hr, E_FAIL);
        BOTH(WHvResetPartition);
        check_same();
        assert_int_equal(get(WHvX64RegisterTsc), 0);
        for (unsigned k = 0; k < PAIR; k++)
            place(pair[k], 0);
        run();
        host += HOUR;
        run();
        assert_false(requested());
    }
    assert_in_range(n, 4, CALLS_LIMIT - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KVM_TIME_TEST(test_suspend_fails),
        KVM_TIME_TEST(test_resume_fails),
        KVM_TIME_TEST(test_set_fails),
        KVM_TIME_TEST(test_set_fails_for_good),
        KVM_TIME_TEST(test_create_fails),
        KVM_TIME_TEST(test_reset_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
