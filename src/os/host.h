// The two ways in which the host is asked about its processors and its memory: its files and its system calls. Whoever
// asks goes through these, so that tests can put a made-up host in their place.
#ifndef BULKHEAD_OS_HOST_H
#define BULKHEAD_OS_HOST_H

#include <stddef.h>

// A system call with up to six arguments. What it answers; minus an errno where it fails.
long os_host_call(long number, long a, long b, long c, long d, long e, long f);

// The text of a small file, a zero behind it. How long it is; minus an errno: -EFBIG where it does not fit.
long os_host_read(const char *path, char *text, size_t room) __attribute__((warn_unused_result));

#endif
