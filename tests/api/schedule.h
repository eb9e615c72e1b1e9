// Partitions of spinning processors, and how much processor time their threads get while others do as well.
#ifndef BULKHEAD_TESTS_API_SCHEDULE_H
#define BULKHEAD_TESTS_API_SCHEDULE_H

#include <dirent.h>
#include <sched.h>
#include <stdio.h>

#include "threads.h"

#define SPINNERS_MAX 4
#define SECOND 1000000000ull

// Processors that count in memory for ever, each on a thread of its own.
struct spinners {
    WHV_PARTITION_HANDLE partition;
    UINT32 count;
    struct runner runner[SPINNERS_MAX];
    clockid_t clock[SPINNERS_MAX];
    uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
};

static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;

    assert_int_equal(clock_gettime(clock, &t), 0);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

// A guest for a partition whose properties are set: each processor counts at COUNTER + 4 * its number.
static inline void spinners_set_up(struct spinners *s, WHV_PARTITION_HANDLE p, UINT32 count)
{
    static const uint8_t code[] = {0x66, 0xFF, 0x07, 0xEB, 0xFB};     // inc dword [bx]; jmp

    s->partition = p;
    s->count = count;
    assert_ok(WHvSetupPartition(p));
    memset(s->memory, 0, sizeof(s->memory));
    memcpy(s->memory + CODE, code, sizeof(code));
    assert_ok(WHvMapGpaRange(p, s->memory, 0, sizeof(s->memory), RWX));
    for (UINT32 vp = 0; vp < count; vp++) {
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
        start_at(p, vp, CODE);
        set_register(p, vp, WHvX64RegisterRbx, COUNTER + 4 * vp);
    }
}

static inline void spinners_start(struct spinners *s)
{
    for (UINT32 vp = 0; vp < s->count; vp++) {
        start(&s->runner[vp], s->partition, vp);
        assert_int_equal(pthread_getcpuclockid(s->runner[vp].thread, &s->clock[vp]), 0);
    }
    for (UINT32 vp = 0; vp < s->count; vp++)
        EVENTUALLY(load32(s->memory, COUNTER + 4 * vp));
}

static inline void spinners_stop(struct spinners *s)
{
    for (UINT32 vp = 0; vp < s->count; vp++)
        cancel(&s->runner[vp]);
}

static inline uint64_t spinners_ns(const struct spinners *s)
{
    uint64_t sum = 0;

    for (UINT32 vp = 0; vp < s->count; vp++)
        sum += clock_ns(s->clock[vp]);
    return sum;
}

// For how long the process's threads have waited for a core, all together.
static inline uint64_t waited_ns(void)
{
    DIR *tasks = opendir("/proc/self/task");
    unsigned long long waited, sum = 0;
    struct dirent *task;
    char path[300];

    assert_non_null(tasks);
    while ((task = readdir(tasks))) {
        FILE *file;

        snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", task->d_name);
        file = fopen(path, "re");
        if (!file)
            continue;
        if (fscanf(file, "%*u %llu", &waited) == 1)
            sum += waited;
        fclose(file);
    }
    closedir(tasks);
    return sum;
}

// What spinners had over a stretch of time, in parts of a core.
struct stretch {
    double share[2];
    double process;             // the whole process
    double waited;              // ready to run, but not on a core: so busy the host is
};

struct mark {
    uint64_t at, used[2], process, waited;
};

static inline struct mark mark(struct spinners *const *who, unsigned int count)
{
    struct mark m = {.at = clock_ns(CLOCK_MONOTONIC)};

    for (unsigned int i = 0; i < count; i++)
        m.used[i] = spinners_ns(who[i]);
    m.process = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    m.waited = waited_ns();
    return m;
}

static inline struct stretch since(struct mark before, struct spinners *const *who, unsigned int count)
{
    struct mark now = mark(who, count);
    double passed = (double)(now.at - before.at);
    struct stretch s;

    for (unsigned int i = 0; i < count; i++)
        s.share[i] = (double)(now.used[i] - before.used[i]) / passed;
    s.process = (double)(now.process - before.process) / passed;
    s.waited = (double)(now.waited - before.waited) / passed;
    return s;
}

// Over a second.
static inline struct stretch over_a_second(struct spinners *const *who, unsigned int count)
{
    struct mark before = mark(who, count);
    struct timespec until = {.tv_sec = (time_t)(before.at / SECOND + 1), .tv_nsec = (long)(before.at % SECOND)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
        ;
    return since(before, who, count);
}

// Until all have used `ns` together, however busy the host is.
static inline struct stretch over_use(struct spinners *const *who, unsigned int count, uint64_t ns)
{
    struct mark before = mark(who, count);
    uint64_t used;

    do {
        used = 0;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        for (unsigned int i = 0; i < count; i++)
            used += spinners_ns(who[i]) - before.used[i];
        assert_true(clock_ns(CLOCK_MONOTONIC) - before.at < LIMIT_SECONDS * SECOND);
    } while (used < ns);
    return since(before, who, count);
}

// A bound holds for every second. That it is reached, too, shows in the best of some: where the host was so busy that
// they had to wait, what they waited for counts.
#define BOUND 0.01
#define SECONDS 5

static inline void expect_bound(struct spinners *const *who, unsigned int count, double bound)
{
    double best = 0;

    for (int n = 0; n < SECONDS && best < bound - BOUND; n++) {
        struct stretch s = over_a_second(who, count);
        double used = s.share[0] + (count > 1 ? s.share[1] : 0);

        print_message("bound to %.3f of a core: %.4f, waited for %.4f, the process %.4f\n", bound, used, s.waited,
                      s.process);
        assert_true(used <= bound + BOUND);
        assert_true(s.process <= bound + 3 * BOUND);        // who is held back sleeps
        best = used + s.waited > best ? used + s.waited : best;
    }
    assert_true(best >= bound - BOUND);
}

#endif
