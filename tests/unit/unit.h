// What every unit test includes: cmocka and the headers that it needs.
#ifndef BULKHEAD_TESTS_UNIT_H
#define BULKHEAD_TESTS_UNIT_H

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

// Compare HRESULTs as the unsigned numbers that the reference writes.
#define assert_hr(actual, expected) assert_int_equal((uint32_t)(actual), (uint32_t)(expected))
#define assert_ok(actual) assert_hr(actual, 0)

// How many descriptors this process has open.
static inline unsigned int open_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    unsigned int count = 0;

    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

#endif
