/* test_cli_acpi.c: the ACPI tables: sums, links, and the structure of the AML. */
#include "acpi.h"
#include "memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct memory memory;

static int set_up(void **state)
{
    struct error err;

    (void)state;
    return memory_init(&memory, 8 * MEMORY_MIB, &err) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    memory_free(&memory);
    return 0;
}

static uint64_t field(uint64_t gpa, unsigned offset, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, memory_at(&memory, gpa + offset, size), size);
    return value;
}

static void check_sum(uint64_t gpa, uint64_t size)
{
    const uint8_t *bytes = memory_at(&memory, gpa, size);
    uint8_t sum = 0;

    assert_non_null(bytes);
    for (uint64_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + bytes[i]);
    }
    assert_int_equal(sum, 0);
}

static void check_table(uint64_t gpa, const char *signature)
{
    assert_memory_equal(memory_at(&memory, gpa, 4), signature, 4);
    check_sum(gpa, field(gpa, 4, 4));
}

static void test_links(void **state)
{
    uint64_t rsdp = acpi_build(&memory, 2);

    (void)state;
    assert_true(rsdp >= 0xe0000 && rsdp < 0x100000 && rsdp % 16 == 0);
    assert_memory_equal(memory_at(&memory, rsdp, 8), "RSD PTR ", 8);
    check_sum(rsdp, 20);
    check_sum(rsdp, 36);
    uint64_t rsdt = field(rsdp, 16, 4), xsdt = field(rsdp, 24, 8);

    check_table(rsdt, "RSDT");
    check_table(xsdt, "XSDT");
    assert_int_equal(field(rsdt, 36, 4), field(xsdt, 36, 8));
    assert_int_equal(field(rsdt, 40, 4), field(xsdt, 44, 8));
    uint64_t fadt = field(xsdt, 36, 8);

    check_table(fadt, "FACP");
    assert_int_equal(field(fadt, 4, 4), 244);
    check_table(field(fadt, 140, 8), "DSDT");
    assert_int_equal(field(fadt, 40, 4), field(fadt, 140, 8));
    assert_memory_equal(memory_at(&memory, field(fadt, 36, 4), 4), "FACS", 4);
    assert_int_equal(field(fadt, 36, 4) % 64, 0);
    assert_int_equal(field(fadt, 46, 2), 9);
    assert_int_equal(field(fadt, 56, 4), 0x600);
    assert_int_equal(field(fadt, 64, 4), 0x604);
    assert_int_equal(field(fadt, 76, 4), 0x608);
    /* No 8042; the reset register is port 0xcf9 and is declared. */
    assert_int_equal(field(fadt, 109, 2) & 2, 0);
    assert_int_equal(field(fadt, 120, 8), 0xcf9);
    assert_int_equal(field(fadt, 128, 1), 0x06);
    assert_int_equal(field(fadt, 112, 4) >> 10 & 1, 1);
}

static void test_madt(void **state)
{
    uint64_t xsdt = field(acpi_build(&memory, 64), 24, 8);
    uint64_t madt = field(xsdt, 44, 8);
    uint64_t end = madt + field(madt, 4, 4), at = madt + 44;
    unsigned kinds[8] = {0};

    (void)state;
    check_table(madt, "APIC");
    assert_int_equal(field(madt, 36, 4), 0xfee00000);
    while (at < end) {
        unsigned type = (unsigned)field(at, 0, 1);

        assert_true(type < 8);
        if (type == 0) {
            assert_int_equal(field(at, 3, 1), kinds[0]);
            assert_int_equal(field(at, 4, 4), 1);
        } else if (type == 1) {
            assert_int_equal(field(at, 4, 4), 0xfec00000);
        } else if (type == 2 && field(at, 3, 1) == 0) {
            assert_int_equal(field(at, 4, 4), 2);
        }
        kinds[type]++;
        assert_true(field(at, 1, 1) >= 6);
        at += field(at, 1, 1);
    }
    assert_int_equal(at, end);
    assert_int_equal(kinds[0], 64);
    assert_int_equal(kinds[1], 1);
    assert_int_equal(kinds[2], 2);
    assert_int_equal(kinds[4], 1);
}

/* A package length (ACPI 6.4, 20.2.4), which counts itself. */
static uint64_t package_end(const uint8_t *aml, uint64_t *at)
{
    uint64_t start = *at;
    unsigned more = aml[start] >> 6;
    uint64_t length = more == 0 ? aml[start] & 0x3f : aml[start] & 0x0f;

    for (unsigned i = 1; i <= more; i++) {
        length |= (uint64_t)aml[start + i] << (8 * i - 4);
    }
    *at = start + 1 + more;
    return start + length;
}

/* The terms that the DSDT uses; each must end where its package says. */
static void walk(const uint8_t *aml, uint64_t at, uint64_t end, unsigned *devices)
{
    while (at < end) {
        uint64_t stop;

        if (aml[at] == 0x10) {
            at++;
            stop = package_end(aml, &at);
            walk(aml, at + 4, stop, devices);
            at = stop;
        } else if (aml[at] == 0x5b && aml[at + 1] == 0x82) {
            at += 2;
            stop = package_end(aml, &at);
            ++*devices;
            walk(aml, at + 4, stop, devices);
            at = stop;
        } else {
            assert_int_equal(aml[at], 0x08);
            at += 5;
            switch (aml[at++]) {
            case 0x01:
                break;
            case 0x0a:
                at += 1;
                break;
            case 0x0c:
                at += 4;
                break;
            case 0x11:
                stop = package_end(aml, &at);
                assert_int_equal(aml[at], 0x0a);
                assert_int_equal(stop, at + 2 + aml[at + 1]);
                assert_int_equal(aml[stop - 2], 0x79);
                at = stop;
                break;
            case 0x12:
                stop = package_end(aml, &at);
                assert_int_equal(stop, at + 1 + aml[at]);
                at = stop;
                break;
            default:
                fail_msg("unknown AML byte 0x%02x", aml[at - 1]);
            }
        }
    }
    assert_int_equal(at, end);
}

static void test_dsdt(void **state)
{
    uint64_t xsdt = field(acpi_build(&memory, 1), 24, 8);
    uint64_t dsdt = field(field(xsdt, 36, 8), 140, 8);
    uint64_t length = field(dsdt, 4, 4);
    unsigned devices = 0;

    (void)state;
    walk(memory_at(&memory, dsdt, length), 36, length, &devices);
    assert_int_equal(devices, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_links, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_madt, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dsdt, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
