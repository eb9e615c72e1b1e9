// The host's time-stamp counter and its frequency.
#include "os/tsc.h"

#include <pthread.h>
#include <time.h>
#include <x86intrin.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint64_t frequency, cost = UINT64_MAX;

uint64_t os_tsc(void)
{
    return __rdtsc();
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t os_time_of_day(void)
{
    return clock_ns(CLOCK_REALTIME);
}

// A pair of readings taken as close together as can be had.
static void sample(uint64_t *tsc, uint64_t *ns)
{
    *tsc = *ns = 0;
    uint64_t best = UINT64_MAX;
    for (int n = 0; n < 16; n++) {
        uint64_t before = __rdtsc();
        uint64_t now = clock_ns(CLOCK_MONOTONIC_RAW);
        uint64_t after = __rdtsc();
        if (after - before < best) {
            best = after - before;
            *tsc = before + (after - before) / 2;
            *ns = now;
        }
    }
}

#define LONG_ENOUGH_NS 10000000u        // gives it to a few parts in a million

// Against the kernel's clock, from when the library was loaded: a process that has run for a while does not wait.
static uint64_t tsc0, ns0;

__attribute__((constructor)) static void begin(void)
{
    sample(&tsc0, &ns0);
}

static void measure(void)
{
    uint64_t tsc1, ns1;
    sample(&tsc1, &ns1);
    if (ns1 - ns0 < LONG_ENOUGH_NS) {
        struct timespec pause = { .tv_nsec = (long)(LONG_ENOUGH_NS - (ns1 - ns0)) };
        nanosleep(&pause, NULL);
        sample(&tsc1, &ns1);
    }
    frequency = (uint64_t)((unsigned __int128)(tsc1 - tsc0) * 1000000000 / (ns1 - ns0));
    frequency = (frequency + 5000) / 10000 * 10000;
    for (int n = 0; n < 100; n++) {
        uint64_t before = __rdtsc();
        uint64_t ticks = __rdtsc() - before;
        cost = ticks < cost ? ticks : cost;
    }
}

uint64_t os_tsc_hz(void)
{
    pthread_once(&once, measure);
    return frequency;
}

uint64_t os_tsc_cost(void)
{
    pthread_once(&once, measure);
    return cost;
}

uint64_t os_thread_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
