// The table that processes share: what is in it when they come, die and leave things behind.
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "os/ledger.h"

#define SIZE 4096
#define LAYOUT 3u
#define NAME "ledger"

static char directory[64];

static int prepare(void **state)
{
    (void)state;
    snprintf(directory, sizeof(directory), "/tmp/bulkhead-ledger-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int clean_up(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf %s", directory);
    return system(command);
}

static const char *path_of(const char *name)
{
    static char path[128];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    return path;
}

static struct os_ledger opened(void)
{
    struct os_ledger l;

    assert_int_equal(os_ledger_open(&l, directory, NAME, LAYOUT, SIZE), 0);
    return l;
}

// A child that opens the ledger, holds a place, writes 77 there, does `more`, and lives until it is killed.
static pid_t child_that(void (*more)(struct os_ledger *l))
{
    int ready[2];
    char byte;
    pid_t child;

    assert_int_equal(pipe(ready), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct os_ledger l;

        if (os_ledger_open(&l, directory, NAME, LAYOUT, SIZE) < 0)
            _exit(1);
        os_ledger_lock(&l);
        if (os_ledger_hold(&l, 5) < 0)
            _exit(1);
        ((uint32_t *)l.table)[5] = 77;
        if (more)
            more(&l);
        else
            os_ledger_unlock(&l);
        if (write(ready[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return child;
}

static void end(pid_t child)
{
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static void test_shared_until_death(void **state)
{
    struct os_ledger l = opened();

    (void)state;
    for (int n = 0; n < 50; n++) {
        pid_t child = child_that(NULL);

        os_ledger_lock(&l);
        assert_int_equal(((uint32_t *)l.table)[5], 77);
        assert_true(os_ledger_held_elsewhere(&l, 5));
        assert_false(os_ledger_held_elsewhere(&l, 4));
        assert_false(os_ledger_held_elsewhere(&l, 6));
        assert_true(os_ledger_hold(&l, 5) < 0);
        os_ledger_unlock(&l);
        end(child);
        os_ledger_lock(&l);
        assert_false(os_ledger_held_elsewhere(&l, 5));
        assert_int_equal(os_ledger_hold(&l, 5), 0);
        os_ledger_drop(&l, 5);
        ((uint32_t *)l.table)[5] = 0;
        os_ledger_unlock(&l);
    }
    os_ledger_close(&l);
}

static void keep_locked(struct os_ledger *l)
{
    (void)l;
}

static void test_death_inside_the_lock(void **state)
{
    struct os_ledger l = opened();

    (void)state;
    for (int n = 0; n < 20; n++) {
        end(child_that(keep_locked));
        os_ledger_lock(&l);
        assert_int_equal(((uint32_t *)l.table)[5], 77);
        os_ledger_unlock(&l);
    }
    os_ledger_close(&l);
}

static void test_empty_when_all_have_gone(void **state)
{
    struct os_ledger l = opened();

    (void)state;
    ((uint32_t *)l.table)[5] = 5;
    os_ledger_close(&l);
    l = opened();
    assert_int_equal(((uint32_t *)l.table)[5], 0);
    os_ledger_close(&l);
    end(child_that(keep_locked));       // which leaves a lock that nobody will ever give back
    l = opened();
    os_ledger_lock(&l);
    assert_int_equal(((uint32_t *)l.table)[5], 0);
    os_ledger_unlock(&l);
    os_ledger_close(&l);
}

static void test_leftovers(void **state)
{
    struct os_ledger l;
    FILE *file = fopen(path_of(NAME), "w");

    (void)state;
    assert_non_null(file);
    for (int n = 0; n < 100000; n++)
        fputc(n * 37 % 251, file);
    fclose(file);
    assert_int_equal(chmod(path_of(NAME), 0600), 0);
    l = opened();
    os_ledger_lock(&l);
    for (int n = 0; n < SIZE / 4; n++)
        assert_int_equal(((uint32_t *)l.table)[n], 0);
    os_ledger_unlock(&l);
    os_ledger_close(&l);
}

static void test_what_is_refused(void **state)
{
    struct os_ledger l;
    pid_t child;

    (void)state;
    assert_int_equal(symlink("/dev/null", path_of("link")), 0);
    assert_int_equal(os_ledger_open(&l, directory, "link", LAYOUT, SIZE), -ELOOP);
    assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
    assert_int_equal(os_ledger_open(&l, directory, "fifo", LAYOUT, SIZE), -EACCES);
    assert_int_equal(mkdir(path_of("folder"), 0700), 0);
    assert_int_equal(os_ledger_open(&l, directory, "folder", LAYOUT, SIZE), -EISDIR);
    close(open(path_of("public"), O_RDWR | O_CREAT, 0600));
    assert_int_equal(chmod(path_of("public"), 0666), 0);
    assert_int_equal(os_ledger_open(&l, directory, "public", LAYOUT, SIZE), -EACCES);
    assert_int_equal(os_ledger_open(&l, "/nowhere", NAME, LAYOUT, SIZE), -ENOENT);
    // Another layout, while somebody uses this one.
    child = child_that(NULL);
    assert_int_equal(os_ledger_open(&l, directory, NAME, LAYOUT + 1, SIZE), -EPROTO);
    assert_int_equal(os_ledger_open(&l, directory, NAME, LAYOUT, SIZE + 64), -EPROTO);
    end(child);
    assert_int_equal(os_ledger_open(&l, directory, NAME, LAYOUT + 1, SIZE + 64), 0);
    os_ledger_close(&l);
}

static void test_directory(void **state)
{
    char path[128];

    (void)state;
    assert_int_equal(setenv("XDG_RUNTIME_DIR", directory, 1), 0);
    assert_int_equal(os_ledger_directory(path, sizeof(path)), 0);
    assert_string_equal(path, directory);
    // One that others may write to, and one that is a link, are not taken.
    assert_int_equal(chmod(directory, 0777), 0);
    assert_int_equal(os_ledger_directory(path, sizeof(path)), 0);
    assert_string_not_equal(path, directory);
    assert_int_equal(chmod(directory, 0700), 0);
    assert_int_equal(symlink(directory, path_of("here")), 0);
    assert_int_equal(setenv("XDG_RUNTIME_DIR", path_of("here"), 1), 0);
    assert_int_equal(os_ledger_directory(path, sizeof(path)), 0);
    assert_string_not_equal(path, path_of("here"));
    assert_int_equal(unsetenv("XDG_RUNTIME_DIR"), 0);
}

static void test_no_descriptor_is_left(void **state)
{
    unsigned int before = open_descriptors();
    struct os_ledger l;

    (void)state;
    for (int n = 0; n < 10; n++) {
        l = opened();
        os_ledger_close(&l);
        assert_int_not_equal(os_ledger_open(&l, directory, "public", LAYOUT, SIZE), 0);
        assert_int_equal(os_ledger_open_private(&l, SIZE), 0);
        os_ledger_lock(&l);
        assert_int_equal(os_ledger_hold(&l, 1), 0);
        assert_false(os_ledger_held_elsewhere(&l, 1));
        os_ledger_unlock(&l);
        os_ledger_close(&l);
    }
    assert_int_equal(open_descriptors(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared_until_death),
        cmocka_unit_test(test_death_inside_the_lock),
        cmocka_unit_test(test_empty_when_all_have_gone),
        cmocka_unit_test(test_leftovers),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_directory),
        cmocka_unit_test(test_no_descriptor_is_left),
    };

    return cmocka_run_group_tests(tests, prepare, clean_up);
}
