// The host's time-stamp counter and its frequency.
#include "os/tsc.h"

#include <pthread.h>
#include <time.h>
#include <x86intrin.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint64_t frequency;

uint64_t os_tsc(void)
{
    return __rdtsc();
}

static uint64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

// A pair of readings taken as close together as can be had.
static void sample(uint64_t *tsc, uint64_t *ns)
{
    *tsc = *ns = 0;
    uint64_t best = UINT64_MAX;
    for (int n = 0; n < 16; n++) {
        uint64_t before = __rdtsc();
        uint64_t now = monotonic_ns();
        uint64_t after = __rdtsc();
        if (after - before < best) {
            best = after - before;
            *tsc = before + (after - before) / 2;
            *ns = now;
        }
    }
}

// Measured once per process against the kernel's clock: 10 ms give it to a few parts in a million.
static void measure(void)
{
    uint64_t tsc0, ns0, tsc1, ns1;
    sample(&tsc0, &ns0);
    struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
    nanosleep(&pause, NULL);
    sample(&tsc1, &ns1);
    frequency = (uint64_t)((unsigned __int128)(tsc1 - tsc0) * 1000000000 / (ns1 - ns0));
    frequency = (frequency + 5000) / 10000 * 10000;
}

uint64_t os_tsc_hz(void)
{
    pthread_once(&once, measure);
    return frequency;
}
