// CpuWeight, CpuGroupId and CpuReserve: how partitions share what there is, and which are admitted.
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "schedule.h"

#define NO_RESOURCES HRESULT_FROM_WIN32(ERROR_NO_SYSTEM_RESOURCES)
#define PART (SECOND * 4 / 10)      // of processor time
#define PARTS 5

static char directory[] = "/tmp/bulkhead-schedule-XXXXXX";
static struct spinners left, right;

static WHV_PARTITION_HANDLE asking(UINT32 processors, WHV_PARTITION_PROPERTY_CODE code, UINT32 value)
{
    WHV_PARTITION_HANDLE p = created(processors);

    assert_ok(set32(p, code, value));
    return p;
}

// All threads that are made from now on run on one core.
static void pin(void)
{
    cpu_set_t all, one;
    int cpu = 0;

    assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
    while (!CPU_ISSET(cpu, &all))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

// The part that the right one has of what both have: the middle of several measurements.
static double part_of_right(void)
{
    struct spinners *const who[] = {&left, &right};
    double parts[PARTS];

    for (int n = 0; n < PARTS; n++) {
        struct stretch s = over_use(who, 2, PART);

        parts[n] = s.share[1] / (s.share[0] + s.share[1]);
        print_message("%.4f and %.4f of a core: %.4f\n", s.share[0], s.share[1], parts[n]);
    }
    qsort(parts, PARTS, sizeof(parts[0]), by_size);
    return parts[PARTS / 2];
}

static void start_both(WHV_PARTITION_HANDLE l, WHV_PARTITION_HANDLE r)
{
    spinners_set_up(&left, l, 1);
    spinners_set_up(&right, r, 1);
    spinners_start(&left);
    spinners_start(&right);
}

static void stop_both(void)
{
    spinners_stop(&left);
    spinners_stop(&right);
    assert_ok(WHvDeletePartition(left.partition));
    assert_ok(WHvDeletePartition(right.partition));
}

// Where the kernel does not tell how long threads wait, the capability says no and set-up refuses.
static bool has(bool offered, WHV_PARTITION_PROPERTY_CODE code, const char *what)
{
    WHV_PARTITION_HANDLE p;

    if (offered)
        return true;
    p = asking(1, code, 50);
    assert_hr(WHvSetupPartition(p), NOT_SUPPORTED);
    assert_ok(WHvDeletePartition(p));
    print_message("refused as documented: %s\n", what);
    return false;
}

static WHV_SCHEDULER_FEATURES offered(void)
{
    return engine_capability(WHvCapabilityCodeSchedulerFeatures).SchedulerFeatures;
}

#define NEEDS_WEIGHTS NEEDS(has(offered().CpuWeight, WHvPartitionPropertyCodeCpuWeight, "weights"))
#define NEEDS_RESERVES NEEDS(has(offered().CpuReserve, WHvPartitionPropertyCodeCpuReserve, "reserves"))

// ---- Weights -------------------------------------------------------------------------------------------------------

static void check_weights(UINT32 of_left, UINT32 of_right)
{
    const double ratio = (double)of_right / of_left;
    double part;

    start_both(asking(1, WHvPartitionPropertyCodeCpuWeight, of_left),
               asking(1, WHvPartitionPropertyCodeCpuWeight, of_right));
    part = part_of_right();
    stop_both();
    print_message("weights %u and %u: %.3f to 1\n", of_left, of_right, part / (1 - part));
    assert_true(part / (1 - part) > ratio * 0.95);
    assert_true(part / (1 - part) < ratio * 1.05);
}

static void test_weights(void **state)
{
    (void)state;
    NEEDS_WEIGHTS;
    check_weights(100, 300);
}

static void test_equal_weights(void **state)
{
    (void)state;
    NEEDS_WEIGHTS;
    check_weights(10000, 10000);
}

// What one leaves the other may have: the heavy one is capped at a tenth of the core.
static void test_weights_waste_nothing(void **state)
{
    struct spinners *const who[] = {&left, &right};
    WHV_PARTITION_HANDLE heavy;
    double best = 0;

    (void)state;
    NEEDS_WEIGHTS;
    heavy = asking(1, WHvPartitionPropertyCodeCpuWeight, 5000);
    assert_ok(set32(heavy, WHvPartitionPropertyCodeCpuCap, 10));
    start_both(asking(1, WHvPartitionPropertyCodeCpuWeight, 50), heavy);
    for (int n = 0; n < PARTS && best < 0.85; n++) {
        struct stretch s = over_a_second(who, 2);

        print_message("%.4f of a core beside %.4f, waited for %.4f\n", s.share[0], s.share[1], s.waited);
        assert_true(s.share[1] <= 0.1 + BOUND);
        best = s.share[0] + s.waited > best ? s.share[0] + s.waited : best;
    }
    stop_both();
    assert_true(best >= 0.85);
}

// ---- Groups --------------------------------------------------------------------------------------------------------

static WHV_PARTITION_HANDLE member(UINT64 group, UINT32 processors, UINT32 cap)
{
    WHV_PARTITION_HANDLE p = asking(processors, WHvPartitionPropertyCodeCpuCap, cap);

    assert_ok(set64(p, WHvPartitionPropertyCodeCpuGroupId, group));
    return p;
}

static void test_group(void **state)
{
    struct spinners *const who[] = {&left, &right};

    (void)state;
    start_both(member(7, 1, 30), member(7, 1, 30));
    expect_bound(who, 2, 0.3);
    stop_both();
}

static void test_group_of_others(void **state)
{
    WHV_PARTITION_HANDLE first = member(8, 1, 30), second = member(8, 1, 40), third = member(9, 1, 40);

    (void)state;
    assert_ok(WHvSetupPartition(first));
    assert_hr(WHvSetupPartition(second), E_INVALIDARG);
    assert_ok(WHvSetupPartition(third));
    // Nothing has changed: it can still be made to fit, or wait until the group is gone.
    assert_ok(set32(second, WHvPartitionPropertyCodeCpuCap, 30));
    assert_ok(WHvSetupPartition(second));
    assert_ok(WHvDeletePartition(first));
    assert_ok(WHvDeletePartition(second));
    second = member(8, 1, 50);
    assert_ok(WHvSetupPartition(second));
    assert_ok(WHvDeletePartition(second));
    assert_ok(WHvDeletePartition(third));
}

// ---- Reserves ------------------------------------------------------------------------------------------------------

// It has what it has reserved of the core. Where others of the host take so much that it is not there to be had, the
// partition without a reserve has next to nothing.
static void test_reserve_is_there(void **state)
{
    struct spinners *const who[] = {&left, &right};
    int good = 0;

    (void)state;
    NEEDS_RESERVES;
    start_both(asking(1, WHvPartitionPropertyCodeCpuWeight, 10000),
               asking(1, WHvPartitionPropertyCodeCpuReserve, 80));
    for (int n = 0; n < PARTS; n++) {
        struct stretch s = over_use(who, 2, PART);

        good += s.share[1] >= 0.8 * 0.95 || s.share[0] <= 0.08 * s.share[1];
        print_message("%.4f without, %.4f with a reserve of 0.8\n", s.share[0], s.share[1]);
    }
    stop_both();
    assert_true(good > PARTS / 2);
}

// Of a host with more cores than a partition can have processors the rest is reserved beforehand.
#define PROCESSORS_MAX 64u
#define FULL_MAX 64u
static WHV_PARTITION_HANDLE full[FULL_MAX];
static UINT32 full_count, free_cores;

static void reserve_the_rest(void)
{
    free_cores = (UINT32)sysconf(_SC_NPROCESSORS_ONLN);
    for (full_count = 0; free_cores > PROCESSORS_MAX; free_cores -= PROCESSORS_MAX) {
        assert_true(full_count < FULL_MAX);
        full[full_count] = asking(PROCESSORS_MAX, WHvPartitionPropertyCodeCpuReserve, 100);
        assert_ok(WHvSetupPartition(full[full_count++]));
    }
}

static void free_the_rest(void)
{
    while (full_count > 0)
        assert_ok(WHvDeletePartition(full[--full_count]));
}

// So much of all that is free.
static WHV_PARTITION_HANDLE reserving(UINT32 percent)
{
    return asking(free_cores, WHvPartitionPropertyCodeCpuReserve, percent);
}

static void test_reserves_are_admitted(void **state)
{
    WHV_PARTITION_HANDLE most, rest, more;

    (void)state;
    NEEDS_RESERVES;
    reserve_the_rest();
    most = reserving(60);
    rest = reserving(40);
    more = reserving(1);
    assert_ok(WHvSetupPartition(most));
    assert_ok(WHvSetupPartition(rest));
    assert_hr(WHvSetupPartition(more), NO_RESOURCES);
    assert_hr(WHvSetupPartition(more), NO_RESOURCES);
    assert_ok(WHvDeletePartition(rest));
    assert_ok(WHvSetupPartition(more));
    // A set-up that fails later gives it back: this group has other terms.
    rest = reserving(39);
    assert_ok(set64(rest, WHvPartitionPropertyCodeCpuGroupId, 5));
    assert_ok(WHvSetupPartition(rest));
    assert_ok(WHvDeletePartition(rest));
    rest = reserving(39);
    assert_ok(WHvSetupPartition(rest));
    assert_ok(WHvDeletePartition(rest));
    assert_ok(WHvDeletePartition(more));
    assert_ok(WHvDeletePartition(most));
    free_the_rest();
}

// A child that sets up a partition, says so, and runs it until it is killed.
static pid_t child_with(WHV_PARTITION_HANDLE (*make)(void))
{
    int ready[2];
    char byte;
    pid_t child;

    assert_int_equal(pipe(ready), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        WHV_PARTITION_HANDLE p = make();

        spinners_set_up(&right, p, 1);
        if (write(ready[1], "", 1) != 1)
            _exit(1);
        run(p, 0);
        _exit(1);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return child;
}

static void end_child(pid_t child)
{
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static WHV_PARTITION_HANDLE reserve_all(void)
{
    return reserving(100);
}

static void test_reserve_of_another_process(void **state)
{
    WHV_PARTITION_HANDLE p;
    pid_t child;

    (void)state;
    NEEDS_RESERVES;
    reserve_the_rest();
    p = reserving(10);
    for (int n = 0; n < 20; n++) {
        child = child_with(reserve_all);
        assert_hr(WHvSetupPartition(p), NO_RESOURCES);
        end_child(child);
        assert_ok(WHvSetupPartition(p));
        assert_ok(WHvDeletePartition(p));
        p = reserving(10);
    }
    assert_ok(WHvDeletePartition(p));
    free_the_rest();
}

static WHV_PARTITION_HANDLE weight_of_300(void)
{
    return asking(1, WHvPartitionPropertyCodeCpuWeight, 300);
}

// Of its first thread, which runs the processor: not of the library's own.
static uint64_t child_ns(pid_t child)
{
    unsigned long long ns;
    char path[64];
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", (int)child, (int)child);
    file = fopen(path, "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%llu", &ns), 1);
    fclose(file);
    return ns;
}

static void test_weights_across_processes(void **state)
{
    struct spinners *const who[] = {&left};
    double parts[PARTS];
    pid_t child;

    (void)state;
    NEEDS_WEIGHTS;
    child = child_with(weight_of_300);
    spinners_set_up(&left, asking(1, WHvPartitionPropertyCodeCpuWeight, 100), 1);
    spinners_start(&left);
    for (int n = 0; n < PARTS; n++) {
        uint64_t before = child_ns(child), own = spinners_ns(&left);

        (void)over_use(who, 1, PART / 2);
        parts[n] = (double)(child_ns(child) - before) / (double)(spinners_ns(&left) - own);
        print_message("another process has %.3f times as much\n", parts[n]);
    }
    spinners_stop(&left);
    assert_ok(WHvDeletePartition(left.partition));
    end_child(child);
    qsort(parts, PARTS, sizeof(parts[0]), by_size);
    assert_true(parts[PARTS / 2] > 3 * 0.95);
    assert_true(parts[PARTS / 2] < 3 * 1.05);
}

// What a partition had reserved is free as soon as it is gone elsewhere, and its new self has it.
static void test_reserve_moves(void **state)
{
    WHV_PARTITION_HANDLE source, target, more;
    HANDLE handle;

    (void)state;
    NEEDS_RESERVES;
    reserve_the_rest();
    source = reserving(100);
    more = reserving(1);
    assert_ok(WHvSetupPartition(source));
    assert_ok(WHvStartPartitionMigration(source, &handle));
    assert_ok(WHvAcceptPartitionMigration(handle, &target));
    assert_hr(WHvSetupPartition(more), NO_RESOURCES);
    assert_ok(WHvCompletePartitionMigration(source));
    assert_ok(WHvSetupPartition(target));
    assert_ok(WHvDeletePartition(source));
    assert_hr(WHvSetupPartition(more), NO_RESOURCES);
    assert_ok(WHvDeletePartition(target));
    assert_ok(WHvSetupPartition(more));
    assert_ok(WHvDeletePartition(more));
    free_the_rest();
}

// ---- Which way -----------------------------------------------------------------------------------------------------

static void test_report(void **state)
{
    UINT32 needed = 0, again = 0;
    char *text, small = 'x';

    (void)state;
    assert_hr(BulkheadGetHostPolicyReport(&small, 1, &needed), WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(small, 'x');
    assert_true(needed > 1);
    text = malloc(needed);
    assert_non_null(text);
    assert_ok(BulkheadGetHostPolicyReport(text, needed, &again));
    assert_int_equal(again, needed);
    assert_int_equal(strlen(text) + 1, needed);
    print_message("%s", text);
    assert_non_null(strstr(text, "processor time: "));
    assert_non_null(strstr(text, directory));       // where the accounts are
    assert_non_null(strstr(text, "frequency cap: "));
    free(text);
}

// What it takes for weights and reserves is either there, or not.
static void test_capabilities(void **state)
{
    const bool told = access("/proc/self/schedstat", R_OK) == 0;

    (void)state;
    assert_true(offered().CpuCap && offered().CpuGroupId);
    assert_int_equal(offered().CpuWeight, told);
    assert_int_equal(offered().CpuReserve, told);
}

// ---- The host as these tests want it -------------------------------------------------------------------------------

// One core, and nobody else's partitions.
static int prepare(void **state)
{
    (void)state;
    pin();
    return mkdtemp(directory) && setenv("XDG_RUNTIME_DIR", directory, 1) == 0 ? 0 : -1;
}

static int clean_up(void **state)
{
    char command[256];

    (void)state;
    snprintf(command, sizeof(command), "rm -r %s", directory);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_equal_weights),
        cmocka_unit_test(test_weights_waste_nothing),
        cmocka_unit_test(test_weights_across_processes),
        cmocka_unit_test(test_group),
        cmocka_unit_test(test_group_of_others),
        cmocka_unit_test(test_reserve_is_there),
        cmocka_unit_test(test_reserves_are_admitted),
        cmocka_unit_test(test_reserve_of_another_process),
        cmocka_unit_test(test_reserve_moves),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_capabilities),
    };

    return engine_run_tests_with(tests, prepare, clean_up);
}
