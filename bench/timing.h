/* timing.h: a clock, the median of several measurements, and giving up when a call fails. */
#ifndef BENCH_TIMING_H
#define BENCH_TIMING_H

#include <WinHvPlatform.h>

#include <stddef.h>

void check(const char *call, HRESULT result); /* ends the program when the call failed */
double now(void);                             /* seconds */
double median(double *values, size_t count);  /* sorts them */
void *allocate(size_t size);                  /* zeroed memory that takes no room before it is touched */

#endif
