// Processor time by a clock that the test moves: buckets, admission, and a core that the test gives out in turn.
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "partition/quota.h"

#define MS 1000000ull
#define NO_RESOURCES HRESULT_FROM_WIN32(ERROR_NO_SYSTEM_RESOURCES)

static struct quota_table *table;
static uint64_t now;

static int fresh(void **state)
{
    (void)state;
    table = calloc(1, sizeof(*table));
    now = 1000000 * MS;
    return table ? 0 : -1;
}

static int done(void **state)
{
    (void)state;
    free(table);
    return 0;
}

// ---- Buckets -------------------------------------------------------------------------------------------------------

static void test_bucket_without_limit(void **state)
{
    struct quota_bucket b;

    (void)state;
    quota_bucket_init(&b, 0, now);
    for (int n = 0; n < 100; n++)
        assert_int_equal(quota_bucket_take(&b, now, 1000 * MS), 0);
}

// Whoever waits as long as it is told gets just the rate, whatever it is, and however late it comes.
static void test_bucket_gives_its_rate(void **state)
{
    static const uint64_t rates[] = {1000, 10000, 333333, QUOTA_CORE, 64 * QUOTA_CORE};

    (void)state;
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        uint64_t from = now, taken = 0;
        struct quota_bucket b;
        double share;

        quota_bucket_init(&b, rates[i], now);
        while (taken < 200 * MS) {
            uint64_t wait = quota_bucket_take(&b, now, QUOTA_SLICE_NS);

            if (wait == 0)
                taken += QUOTA_SLICE_NS;
            now += wait;
        }
        share = (double)taken * QUOTA_CORE / (double)(now - from);
        assert_true(share <= (double)rates[i] * 1.0001);
        assert_true(share >= (double)rates[i] * 0.98);
    }
}

static void test_bucket_saves_no_more_than_a_burst(void **state)
{
    struct quota_bucket b;
    uint64_t taken = 0;

    (void)state;
    quota_bucket_init(&b, QUOTA_CORE / 2, now);
    now += 3600 * 1000 * MS;
    while (quota_bucket_take(&b, now, QUOTA_SLICE_NS) == 0)
        taken += QUOTA_SLICE_NS;
    assert_int_equal(taken, QUOTA_BURST_NS);
    // Nor does giving back.
    quota_bucket_give(&b, 1000 * (int64_t)MS);
    for (taken = 0; quota_bucket_take(&b, now, QUOTA_SLICE_NS) == 0; taken += QUOTA_SLICE_NS)
        ;
    assert_int_equal(taken, QUOTA_BURST_NS);
}

static void test_bucket_debt(void **state)
{
    struct quota_bucket b;
    uint64_t wait;

    (void)state;
    quota_bucket_init(&b, QUOTA_CORE / 4, now);
    quota_bucket_give(&b, -9 * (int64_t)MS);
    wait = quota_bucket_take(&b, now, QUOTA_SLICE_NS);
    assert_in_range(wait, 40 * MS, 40 * MS + 1);
    assert_int_not_equal(quota_bucket_take(&b, now + wait - MS, QUOTA_SLICE_NS), 0);
    assert_int_equal(quota_bucket_take(&b, now + wait, QUOTA_SLICE_NS), 0);
    // A reading of the clock that is older than another one changes nothing.
    assert_int_not_equal(quota_bucket_take(&b, now, QUOTA_SLICE_NS), 0);
}

// ---- Admission -----------------------------------------------------------------------------------------------------

static struct quota_terms terms(uint64_t group, uint32_t cap, uint32_t reserve, uint32_t weight, uint32_t processors)
{
    return (struct quota_terms){group, cap, reserve, weight, processors, false};
}

static HRESULT admit(struct quota_terms wanted, unsigned int *member)
{
    return quota_admit(table, &wanted, 4, now, 1, member);
}

static void test_reserves(void **state)
{
    unsigned int a, b, c;

    (void)state;
    assert_ok(admit(terms(0, 100, 75, 100, 4), &a));
    assert_hr(admit(terms(0, 100, 51, 100, 2), &b), NO_RESOURCES);
    assert_ok(admit(terms(0, 100, 50, 100, 2), &b));
    assert_hr(admit(terms(0, 100, 1, 100, 1), &c), NO_RESOURCES);
    assert_ok(admit(terms(0, 100, 0, 100, 64), &c));
    quota_leave(table, b);
    assert_ok(admit(terms(0, 100, 100, 100, 1), &b));
}

static void test_group_is_one_account(void **state)
{
    unsigned int a, b, c, d;

    (void)state;
    assert_ok(admit(terms(5, 50, 50, 100, 2), &a));
    assert_hr(admit(terms(5, 60, 50, 100, 2), &b), E_INVALIDARG);
    assert_hr(admit(terms(5, 50, 40, 100, 2), &b), E_INVALIDARG);
    assert_hr(admit(terms(5, 50, 50, 101, 2), &b), E_INVALIDARG);
    assert_ok(admit(terms(5, 50, 50, 100, 1), &b));
    assert_ptr_equal(quota_account_of(table, a), quota_account_of(table, b));
    assert_int_equal(quota_account_of(table, a)->bucket.rate, QUOTA_CORE);      // of the larger one
    // The reserve is the group's: three cores are left, and a larger member takes one more of them.
    assert_ok(admit(terms(0, 100, 100, 100, 2), &c));
    assert_hr(admit(terms(5, 50, 50, 100, 8), &d), NO_RESOURCES);
    assert_ok(admit(terms(5, 50, 50, 100, 4), &d));
    assert_int_equal(quota_account_of(table, a)->bucket.rate, 2 * QUOTA_CORE);
    quota_leave(table, d);
    assert_int_equal(quota_account_of(table, a)->bucket.rate, QUOTA_CORE);
    quota_leave(table, a);
    quota_leave(table, b);
    assert_ok(admit(terms(5, 10, 0, 7, 1), &a));        // whose first member makes it anew
}

static void test_table_is_full(void **state)
{
    unsigned int member[QUOTA_MEMBERS], more;

    (void)state;
    for (unsigned int i = 0; i < QUOTA_MEMBERS; i++)
        assert_ok(admit(terms(0, 50, 0, 100, 1), &member[i]));
    assert_hr(admit(terms(0, 50, 0, 100, 1), &more), NO_RESOURCES);
    quota_leave(table, member[7]);
    assert_ok(admit(terms(0, 50, 0, 100, 1), &more));
    assert_int_equal(more, member[7]);
}

// Whatever a process has left half written, the others go on.
static void test_half_written(void **state)
{
    unsigned int a, b;

    (void)state;
    assert_ok(admit(terms(0, 50, 50, 100, 4), &a));
    assert_ok(admit(terms(0, 50, 50, 100, 4), &b));
    table->member[b].account = 0xFFFFFFFF;
    table->members = 0xFFFF;
    table->accounts = 0xFFFF;
    assert_ok(admit(terms(0, 50, 50, 100, 4), &b));     // its place and its reserve are free
    assert_int_equal(table->members, 2);
}

// ---- Contention ----------------------------------------------------------------------------------------------------

#define CONTENDERS_MAX 4

// Spinning processors of members on one core: the core goes to the one that has had it least, for a millisecond, unless
// it stands aside; others wait.
struct contender {
    unsigned int member;
    uint32_t processor;
    uint64_t aside_until, used, waited, passed, slices;
    uint64_t sleeps;        // ms of each 10 in which it wants nothing
    bool silent;            // has ended without a word
};

static const uint64_t core0[QUOTA_CPUS / 64] = {1};

static bool ready(struct contender *c)
{
    return !c->silent && now >= c->aside_until && now / MS % 10 >= c->sleeps;
}

static void contend(struct contender *who, unsigned int count, unsigned int ms)
{
    for (unsigned int n = 0; n < ms; n++, now += MS) {
        struct contender *runs = NULL;

        for (unsigned int i = 0; i < count; i++) {
            uint64_t aside;

            if (!ready(&who[i]))
                continue;
            aside = quota_stand_aside(table, who[i].member, who[i].processor, now);
            who[i].aside_until = now + aside;
            if (aside == 0 && (!runs || who[i].slices < runs->slices))
                runs = &who[i];
        }
        for (unsigned int i = 0; i < count; i++) {
            if (!who[i].silent && now >= who[i].aside_until)
                who[i].passed += MS;
            if (ready(&who[i]) && runs != &who[i])
                who[i].waited += MS;
        }
        if (!runs)
            continue;
        runs->used += MS;
        runs->slices++;
        quota_note(table, runs->member, runs->processor, now + MS, MS, runs->waited, runs->passed, core0);
        runs->waited = runs->passed = 0;
    }
}

static double part(const struct contender *who, unsigned int count, unsigned int of)
{
    uint64_t sum = 0;

    for (unsigned int i = 0; i < count; i++)
        sum += who[i].used;
    return (double)who[of].used / (double)sum;
}

static void start_over(struct contender *who, unsigned int count)
{
    for (unsigned int i = 0; i < count; i++)
        who[i].used = 0;
}

static void test_weights_have_their_ratio(void **state)
{
    static const uint32_t weights[][2] = {{100, 100}, {100, 300}, {1, 50}, {10000, 9000}};

    (void)state;
    for (size_t i = 0; i < sizeof(weights) / sizeof(weights[0]); i++) {
        struct contender who[2] = {{.processor = 0}, {.processor = 0}};
        double ratio;

        assert_ok(admit(terms(0, 100, 0, weights[i][0], 1), &who[0].member));
        assert_ok(admit(terms(0, 100, 0, weights[i][1], 1), &who[1].member));
        contend(who, 2, 500);
        start_over(who, 2);
        contend(who, 2, 10000);
        ratio = (double)who[1].used / (double)who[0].used / ((double)weights[i][1] / weights[i][0]);
        print_message("weights %u and %u: %.3f of their ratio\n", weights[i][0], weights[i][1], ratio);
        assert_true(ratio > 0.95 && ratio < 1.05);
        quota_leave(table, who[0].member);
        quota_leave(table, who[1].member);
        now += 1000 * MS;
    }
}

// A partition's weight is its own, not each processor's.
static void test_weight_of_three_processors(void **state)
{
    struct contender who[4] = {{.processor = 0}, {.processor = 0}, {.processor = 1}, {.processor = 2}};

    (void)state;
    assert_ok(admit(terms(0, 100, 0, 100, 1), &who[0].member));
    assert_ok(admit(terms(0, 100, 0, 100, 3), &who[1].member));
    who[2].member = who[3].member = who[1].member;
    contend(who, 4, 500);
    start_over(who, 4);
    contend(who, 4, 5000);
    assert_true(part(who, 4, 0) > 0.475 && part(who, 4, 0) < 0.525);
}

static void test_reserve_before_weight(void **state)
{
    struct contender who[2] = {{.processor = 0}, {.processor = 0}};

    (void)state;
    assert_ok(admit(terms(0, 100, 0, 10000, 1), &who[0].member));
    assert_ok(admit(terms(0, 100, 70, 1, 1), &who[1].member));
    contend(who, 2, 500);
    start_over(who, 2);
    contend(who, 2, 5000);
    assert_true(part(who, 2, 1) > 0.70 * 0.95);
    assert_true(part(who, 2, 1) < 0.70 * 1.1);
}

// Who does not want all that it could have leaves the rest; who has ended is not waited for.
static void test_nothing_is_wasted(void **state)
{
    struct contender who[2] = {{.processor = 0}, {.processor = 0, .sleeps = 8}};

    (void)state;
    assert_ok(admit(terms(0, 100, 0, 100, 1), &who[0].member));
    assert_ok(admit(terms(0, 100, 0, 900, 1), &who[1].member));
    contend(who, 2, 500);
    start_over(who, 2);
    contend(who, 2, 5000);
    print_message("%.3f beside one that sleeps, %.3f\n", (double)who[0].used / (5000 * MS),
                  (double)who[1].used / (5000 * MS));
    assert_true(who[0].used > 5000 * MS * 72 / 100);
    assert_true(who[1].used > 5000 * MS * 13 / 100);
    who[1].silent = true;
    start_over(who, 2);
    contend(who, 2, 1000);
    assert_true(who[0].used > 1000 * MS * 95 / 100);
}

static void test_alone(void **state)
{
    struct contender who[1] = {{.processor = 0}};

    (void)state;
    assert_ok(admit(terms(0, 100, 0, 1, 1), &who[0].member));
    contend(who, 1, 1000);
    assert_int_equal(who[0].used, 1000 * MS);
}

// Cores that they do not share are nothing to contend for.
static void test_apart(void **state)
{
    static const uint64_t core1[QUOTA_CPUS / 64] = {2};
    unsigned int a, b;

    (void)state;
    assert_ok(admit(terms(0, 100, 0, 1, 1), &a));
    assert_ok(admit(terms(0, 100, 0, 10000, 1), &b));
    for (int n = 0; n < 200; n++, now += MS) {
        quota_note(table, a, 0, now, MS, MS, 2 * MS, core0);
        quota_note(table, b, 0, now, 0, 2 * MS, 2 * MS, core1);
        assert_int_equal(quota_stand_aside(table, a, 0, now), 0);
    }
    for (int n = 0; n < 200; n++, now += MS) {
        quota_note(table, a, 0, now, MS, MS, 2 * MS, core0);
        quota_note(table, b, 0, now, 0, 2 * MS, 2 * MS, core0);
    }
    assert_int_not_equal(quota_stand_aside(table, a, 0, now), 0);
    assert_int_equal(quota_stand_aside(table, b, 0, now), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bucket_without_limit, fresh, done),
        cmocka_unit_test_setup_teardown(test_bucket_gives_its_rate, fresh, done),
        cmocka_unit_test_setup_teardown(test_bucket_saves_no_more_than_a_burst, fresh, done),
        cmocka_unit_test_setup_teardown(test_bucket_debt, fresh, done),
        cmocka_unit_test_setup_teardown(test_reserves, fresh, done),
        cmocka_unit_test_setup_teardown(test_group_is_one_account, fresh, done),
        cmocka_unit_test_setup_teardown(test_table_is_full, fresh, done),
        cmocka_unit_test_setup_teardown(test_half_written, fresh, done),
        cmocka_unit_test_setup_teardown(test_weights_have_their_ratio, fresh, done),
        cmocka_unit_test_setup_teardown(test_weight_of_three_processors, fresh, done),
        cmocka_unit_test_setup_teardown(test_reserve_before_weight, fresh, done),
        cmocka_unit_test_setup_teardown(test_nothing_is_wasted, fresh, done),
        cmocka_unit_test_setup_teardown(test_alone, fresh, done),
        cmocka_unit_test_setup_teardown(test_apart, fresh, done),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
