// Control groups over a made-up directory: what is written where, and what is left when the kernel refuses.
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

#include "os/cgroup.h"

static char parent[64];
static const char *missing;     // a file that a new group does not have

static void put(const char *folder, const char *name, const char *text)
{
    char path[700];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static const char *get(const char *folder, const char *name)
{
    static char text[4096];
    char path[700];
    FILE *file;
    size_t length;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "r");
    assert_non_null(file);
    length = fread(text, 1, sizeof(text) - 1, file);
    text[length] = '\0';
    fclose(file);
    return text;
}

// ---- The kernel's part ---------------------------------------------------------------------------------------------

static const char *const files[] = {"cgroup.type", "cgroup.threads", "cpu.max", "cpu.weight"};

int __real_mkdir(const char *path, mode_t mode);
int __real_rmdir(const char *path);
int __wrap_mkdir(const char *path, mode_t mode);
int __wrap_rmdir(const char *path);

// A new group has its files at once.
int __wrap_mkdir(const char *path, mode_t mode)
{
    if (__real_mkdir(path, mode) != 0)
        return -1;
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        if (!missing || strcmp(files[i], missing) != 0)
            put(path, files[i], "");
    return 0;
}

// One with threads stays, and its files are no hindrance. A thread that was moved is in one group alone.
int __wrap_rmdir(const char *path)
{
    char file[700];

    snprintf(file, sizeof(file), "%s/cgroup.threads", path);
    if (access(file, F_OK) == 0 && strlen(get(path, "cgroup.threads")) > 1 &&
        !strstr(get(parent, "cgroup.threads"), "4712")) {
        errno = EBUSY;
        return -1;
    }
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(file, sizeof(file), "%s/%s", path, files[i]);
        unlink(file);
    }
    return __real_rmdir(path);
}

static int prepare(void **state)
{
    (void)state;
    snprintf(parent, sizeof(parent), "/tmp/bulkhead-cgroup-XXXXXX");
    if (!mkdtemp(parent))
        return -1;
    put(parent, "cgroup.controllers", "cpuset cpu io memory\n");
    put(parent, "cgroup.subtree_control", "");
    put(parent, "cgroup.threads", "");
    missing = NULL;
    return 0;
}

static int clean_up(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -r %s", parent);
    return system(command);
}

static bool there(const char *name)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", parent, name);
    return access(path, F_OK) == 0;
}

// ---- Cases ---------------------------------------------------------------------------------------------------------

static void test_make(void **state)
{
    struct os_cgroup g;

    (void)state;
    assert_int_equal(os_cgroup_make(&g, parent, "one"), 0);
    assert_string_equal(get(g.path, "cgroup.type"), "threaded");
    assert_string_equal(get(parent, "cgroup.subtree_control"), "+cpu");
    // The thread was there for a moment, to see that it may, and is back.
    assert_string_equal(get(g.path, "cgroup.threads"), "0");
    assert_string_equal(get(parent, "cgroup.threads"), "0");
    put(g.path, "cgroup.threads", "");
    os_cgroup_remove(&g);
    assert_false(there("one"));
    os_cgroup_remove(&g);       // there is none any more
}

static void test_limit(void **state)
{
    struct os_cgroup g;

    (void)state;
    assert_int_equal(os_cgroup_make(&g, parent, "one"), 0);
    assert_int_equal(os_cgroup_limit(&g, 2500, 10000, 300), 0);
    assert_string_equal(get(g.path, "cpu.max"), "2500 10000");
    assert_string_equal(get(g.path, "cpu.weight"), "300");
    put(g.path, "cpu.max", "");
    put(g.path, "cpu.weight", "");
    assert_int_equal(os_cgroup_limit(&g, 0, 0, 1), 0);
    assert_string_equal(get(g.path, "cpu.max"), "max");
    assert_string_equal(get(g.path, "cpu.weight"), "1");
    put(g.path, "cgroup.threads", "");
    os_cgroup_remove(&g);
}

static void *join_once(void *group)
{
    assert_int_equal(os_cgroup_join(group), 0);
    return NULL;
}

static void test_join_is_remembered(void **state)
{
    struct os_cgroup g, other;
    pthread_t thread;

    (void)state;
    assert_int_equal(os_cgroup_make(&g, parent, "one"), 0);
    assert_int_equal(os_cgroup_make(&other, parent, "two"), 0);
    put(g.path, "cgroup.threads", "");
    put(other.path, "cgroup.threads", "");
    assert_int_equal(os_cgroup_join(&g), 0);
    assert_string_equal(get(g.path, "cgroup.threads"), "0");
    put(g.path, "cgroup.threads", "");
    assert_int_equal(os_cgroup_join(&g), 0);            // nothing is written again
    assert_string_equal(get(g.path, "cgroup.threads"), "");
    assert_int_equal(os_cgroup_join(&other), 0);
    assert_string_equal(get(other.path, "cgroup.threads"), "0");
    assert_int_equal(os_cgroup_join(&g), 0);            // but it is when the thread was elsewhere
    assert_string_equal(get(g.path, "cgroup.threads"), "0");
    put(g.path, "cgroup.threads", "");
    assert_int_equal(pthread_create(&thread, NULL, join_once, &g), 0);
    pthread_join(thread, NULL);
    assert_string_equal(get(g.path, "cgroup.threads"), "0");        // each thread for itself
    put(g.path, "cgroup.threads", "");
    put(other.path, "cgroup.threads", "");
    os_cgroup_remove(&g);
    os_cgroup_remove(&other);
}

static void test_remove_moves_threads(void **state)
{
    struct os_cgroup g;

    (void)state;
    assert_int_equal(os_cgroup_make(&g, parent, "one"), 0);
    put(g.path, "cgroup.threads", "4711\n4712\n");
    put(parent, "cgroup.threads", "");
    os_cgroup_remove(&g);
    assert_string_equal(get(parent, "cgroup.threads"), "4712");     // a file keeps the last of what was written
    assert_false(there("one"));
}

static void test_leftover_of_a_dead_process(void **state)
{
    struct os_cgroup left, g;

    (void)state;
    assert_int_equal(os_cgroup_make(&left, parent, "one"), 0);
    put(left.path, "cgroup.threads", "");
    put(left.path, "cpu.max", "1000 10000");
    assert_int_equal(os_cgroup_make(&g, parent, "one"), 0);
    assert_string_equal(get(g.path, "cpu.max"), "");
    // One that is in use is not taken.
    put(g.path, "cgroup.threads", "99\n");
    assert_int_not_equal(os_cgroup_make(&left, parent, "one"), 0);
    assert_true(there("one"));
    put(g.path, "cgroup.threads", "");
    os_cgroup_remove(&g);
}

static void test_without_controller(void **state)
{
    struct os_cgroup g;

    (void)state;
    put(parent, "cgroup.controllers", "cpuset io memory mycpu cpu2\n");
    assert_int_equal(os_cgroup_make(&g, parent, "one"), -ENOTSUP);
    assert_false(there("one"));
    assert_string_equal(get(parent, "cgroup.subtree_control"), "");
    assert_int_equal(os_cgroup_make(&g, "/nowhere", "one"), -ENOENT);
}

// Each file that the kernel might not have, or not let be written.
static void test_refused(void **state)
{
    unsigned int before = open_descriptors();
    struct os_cgroup g;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        missing = files[i];
        assert_int_equal(os_cgroup_make(&g, parent, "one"), -ENOENT);
        assert_string_equal(g.path, "");
        assert_false(there("one"));
    }
    missing = "cpu.weight";
    assert_int_equal(os_cgroup_make(&g, parent, "one"), 0);
    assert_int_equal(os_cgroup_limit(&g, 0, 0, 100), -ENOENT);
    put(g.path, "cgroup.threads", "");
    os_cgroup_remove(&g);
    assert_int_equal(open_descriptors(), before);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, prepare, clean_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_make),
        CASE(test_limit),
        CASE(test_join_is_remembered),
        CASE(test_remove_moves_threads),
        CASE(test_leftover_of_a_dead_process),
        CASE(test_without_controller),
        CASE(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
