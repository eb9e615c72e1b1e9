// The host's clocks: the time-stamp counter, which is the one source of a partition's time, and the time of day.
#ifndef BULKHEAD_OS_TSC_H
#define BULKHEAD_OS_TSC_H

#include <stdint.h>

uint64_t os_tsc(void);
// Its frequency, measured once per process: the first call waits for up to 10 ms where the process is that young.
uint64_t os_tsc_hz(void);
uint64_t os_tsc_cost(void);             // ticks that reading it takes
uint64_t os_thread_ns(void);            // processor time of the calling thread

// Nanoseconds since 1970.
uint64_t os_time_of_day(void);

#endif
