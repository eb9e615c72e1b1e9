// Kicks: they reach the thread that is meant, also in a process that was forked from one that has used them.
#include "unit.h"

#include <signal.h>
#include <unistd.h>
#include <sys/wait.h>

#include "os/kick.h"

static void test_own_number(void **state)
{
    (void)state;
    assert_true(os_kick_install());
    assert_int_equal(os_kick_accept(), gettid());
    assert_int_equal(os_kick_accept(), gettid());
}

static void test_after_fork(void **state)
{
    int status;

    (void)state;
    assert_true(os_kick_install());
    assert_int_equal(os_kick_accept(), gettid());
    pid_t child = fork();
    if (child == 0)
        _exit(os_kick_accept() == gettid() ? 0 : 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_own_number), cmocka_unit_test(test_after_fork)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
