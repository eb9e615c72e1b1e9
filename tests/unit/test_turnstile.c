// The turnstile: a visitor has the processor to itself, and neither visitors nor the runner starve.
#include "unit.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "engine/common/turnstile.h"

#define VISITORS 3
#define VISITS 500

static struct turnstile turnstile;
static atomic_bool finished;
static unsigned inside;         // under the turnstile
static unsigned long steps;     // under the turnstile: what the runner has done
static unsigned long visits;

// Runs, lets in who waits, and now and then sleeps for a moment.
static void *run(void *argument)
{
    (void)argument;
    turnstile_come_back(&turnstile);
    do {
        if (turnstile_wanted(&turnstile))
            turnstile_give_way(&turnstile);
        if (inside)
            break;              // the test below says so
        if (++steps % 1024 == 0) {
            turnstile_stand_aside(&turnstile);
            sched_yield();
            turnstile_come_back(&turnstile);
        }
    } while (!atomic_load(&finished));
    turnstile_stand_aside(&turnstile);
    return NULL;
}

static void *visit(void *argument)
{
    unsigned *wrong = argument;
    for (unsigned n = 0; n < VISITS; n++) {
        turnstile_enter(&turnstile, turnstile_ask(&turnstile));
        unsigned long before = steps;
        if (inside++)
            ++*wrong;
        sched_yield();
        if (steps != before)
            ++*wrong;
        inside--;
        visits++;
        turnstile_leave(&turnstile);
    }
    return NULL;
}

static void start(pthread_t *thread, void *(*function)(void *), void *argument)
{
    assert_int_equal(pthread_create(thread, NULL, function, argument), 0);
}

static void test_nobody_runs(void **state)
{
    (void)state;
    memset(&turnstile, 0, sizeof(turnstile));
    for (unsigned n = 0; n < 3; n++) {
        turnstile_enter(&turnstile, turnstile_ask(&turnstile));
        turnstile_leave(&turnstile);
    }
    turnstile_come_back(&turnstile);
    assert_false(turnstile_wanted(&turnstile));
    turnstile_stand_aside(&turnstile);
}

static void test_visitors_and_a_runner(void **state)
{
    (void)state;
    pthread_t runner, visitors[VISITORS];
    unsigned wrong[VISITORS] = { 0 };
    memset(&turnstile, 0, sizeof(turnstile));
    steps = visits = 0;
    atomic_store(&finished, false);
    start(&runner, run, NULL);
    for (unsigned n = 0; n < VISITORS; n++)
        start(&visitors[n], visit, &wrong[n]);
    for (unsigned n = 0; n < VISITORS; n++) {
        assert_int_equal(pthread_join(visitors[n], NULL), 0);
        assert_int_equal(wrong[n], 0);
    }
    atomic_store(&finished, true);
    assert_int_equal(pthread_join(runner, NULL), 0);
    assert_int_equal(inside, 0);
    assert_int_equal(visits, VISITORS * VISITS);
    assert_true(steps > 0);
}

// Who asks while those before it are inside waits until the runner has had its turn.
static void *ask_again(void *argument)
{
    unsigned long *seen = argument;
    for (unsigned n = 0; n < 2; n++) {
        turnstile_enter(&turnstile, turnstile_ask(&turnstile));
        seen[n] = steps;
        turnstile_leave(&turnstile);
    }
    return NULL;
}

static void test_the_runner_has_its_turn(void **state)
{
    (void)state;
    pthread_t visitor;
    unsigned long seen[2] = { 0 };
    memset(&turnstile, 0, sizeof(turnstile));
    turnstile_come_back(&turnstile);
    start(&visitor, ask_again, seen);
    steps = 1;
    for (unsigned turns = 0; turns < 2; turns++) {
        while (!turnstile_wanted(&turnstile))
            sched_yield();
        turnstile_give_way(&turnstile);
        steps++;
    }
    turnstile_stand_aside(&turnstile);
    assert_int_equal(pthread_join(visitor, NULL), 0);
    assert_int_equal(seen[0], 1);
    assert_int_equal(seen[1], 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_runs), cmocka_unit_test(test_visitors_and_a_runner),
        cmocka_unit_test(test_the_runner_has_its_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
