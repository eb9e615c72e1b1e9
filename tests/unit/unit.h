// What every unit test includes: cmocka and the headers that it needs.
#ifndef BULKHEAD_TESTS_UNIT_H
#define BULKHEAD_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

// Compare HRESULTs as the unsigned numbers that the reference writes.
#define assert_hr(actual, expected) assert_int_equal((uint32_t)(actual), (uint32_t)(expected))
#define assert_ok(actual) assert_hr(actual, 0)

#endif
