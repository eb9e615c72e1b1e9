// What a process holds: descriptors and mappings, for tests that nothing is left behind.
#ifndef BULKHEAD_TESTS_API_HOLDINGS_H
#define BULKHEAD_TESTS_API_HOLDINGS_H

#include <dirent.h>
#include <stdio.h>

#include "api.h"

#define MAPPINGS_SLACK 40       // that the C library's heap, or a sanitizer's, may come to have

static inline unsigned int descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    unsigned int count = 0;

    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static inline unsigned int mappings(void)
{
    FILE *file = fopen("/proc/self/maps", "re");
    unsigned int count = 0;
    int c;

    assert_non_null(file);
    while ((c = getc(file)) != EOF)
        count += c == '\n';
    fclose(file);
    return count;
}

#endif
