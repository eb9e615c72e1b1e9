// A host clock that the test moves: these functions take the place of the library's (os/tsc.h). HZ is its frequency.
#ifndef BULKHEAD_TESTS_HOST_CLOCK_H
#define BULKHEAD_TESTS_HOST_CLOCK_H

#include "os/tsc.h"

static uint64_t host;                   // what the host's counter says

uint64_t os_tsc(void) { return host; }
uint64_t os_tsc_hz(void) { return HZ; }
uint64_t os_tsc_cost(void) { return 0; }
uint64_t os_thread_ns(void) { return 0; }
uint64_t os_time_of_day(void) { return host * 1000 / (HZ / 1000000); }

#endif
