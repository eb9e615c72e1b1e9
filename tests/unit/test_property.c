// The table of properties: it is complete and sound, and its functions keep what they promise.
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "fake_engine.h"
#include "partition/property.h"

static int setup(void **state)
{
    (void)state;
    fake_reset();
    return 0;
}

// Every code of the current API.
static const WHV_PARTITION_PROPERTY_CODE codes[] = {
    0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9, 0xA, 0xB, 0xC, 0xD, 0x1001, 0x1002, 0x1003, 0x1004, 0x1005,
    0x1006, 0x1007, 0x1008, 0x1009, 0x100A, 0x100B, 0x100C, 0x100D, 0x100E, 0x100F, 0x1010, 0x1011, 0x1FFF,
};

static void test_table(void **state)
{
    unsigned int rows = 0;

    (void)state;
    while (property_row(rows)) {
        const struct property *row = property_row(rows++);

        assert_ptr_equal(property_find(row->code), row);
        assert_true(row->offset + row->size <= sizeof(struct property_values) || property_is_list(row));
        assert_true(row->size <= sizeof(WHV_PARTITION_PROPERTY));
    }
    assert_int_equal(rows, sizeof(codes) / sizeof(codes[0]));
    for (unsigned int i = 0; i < rows; i++)
        assert_non_null(property_find(codes[i]));
    assert_null(property_find(0));
    assert_null(property_find(0x1012));
}

static void test_may_change_after_setup(void **state)
{
    unsigned int changeable = 0;

    (void)state;
    for (unsigned int i = 0; property_row(i); i++)
        changeable += property_row(i)->after_setup;
    assert_int_equal(changeable, 4);
    assert_true(property_find(WHvPartitionPropertyCodeExtendedVmExits)->after_setup);
    assert_true(property_find(WHvPartitionPropertyCodeExceptionExitBitmap)->after_setup);
    assert_true(property_find(WHvPartitionPropertyCodeX64MsrExitBitmap)->after_setup);
    assert_true(property_find(WHvPartitionPropertyCodeCpuidExitList)->after_setup);
}

// A default must pass its own check, but for the processor count, which has to be set.
static void test_defaults_are_lawful(void **state)
{
    struct property_values values = {.set_rows = 0};

    (void)state;
    property_defaults(&values, &fake_fake_capabilities);
    for (unsigned int i = 0; property_row(i); i++) {
        const struct property *row = property_row(i);
        WHV_PARTITION_PROPERTY value;

        if (property_is_list(row) || !row->check || row->code == WHvPartitionPropertyCodeProcessorCount)
            continue;
        property_get(&values, row, &value);
        assert_true(row->check(&value, 1, &fake_fake_capabilities));
    }
    assert_int_equal(values.processor_count, 0);
    assert_int_equal(values.processor_clock_hz, 2000000000);
    assert_int_equal(values.processor_features.BanksCount, 2);
    assert_int_equal(values.physical_address_width, 40);
}

static void test_set_keeps_the_rest(void **state)
{
    struct property_values values = {.set_rows = 0};
    UINT64 features = 0x11;
    void *replaced;

    (void)state;
    property_defaults(&values, &fake_fake_capabilities);
    assert_ok(property_set(&values, property_find(WHvPartitionPropertyCodeProcessorFeatures), &features, 8,
                           &fake_fake_capabilities, &replaced));
    // The first bank of the banks is the same property; new defaults do not undo it.
    property_defaults(&values, &fake_fast_capabilities);
    assert_int_equal(values.processor_features.Bank0.AsUINT64, 0x11);
    assert_int_equal(values.processor_features.Bank1.AsUINT64, 0x2);
    assert_int_equal(values.processor_clock_hz, 3000000000);
    features = 0x400;
    assert_hr(property_set(&values, property_find(WHvPartitionPropertyCodeProcessorFeatures), &features, 8,
                           &fake_fake_capabilities, &replaced), E_INVALIDARG);
    assert_int_equal(values.processor_features.Bank0.AsUINT64, 0x11);
}

static void test_lists(void **state)
{
    const struct property *row = property_find(WHvPartitionPropertyCodeCpuidExitList);
    struct property_values values = {.set_rows = 0};
    UINT32 list[PROPERTY_LIST_MAX + 1] = {1, 7};
    void *replaced;

    (void)state;
    assert_ok(property_set(&values, row, list, 8, &fake_fake_capabilities, &replaced));
    assert_null(replaced);
    assert_int_equal(values.cpuid_exit_count, 2);
    assert_int_equal(values.cpuid_exit_list[1], 7);
    assert_hr(property_set(&values, row, list, sizeof(list), &fake_fake_capabilities, &replaced),
              E_INVALIDARG);
    assert_int_equal(values.cpuid_exit_count, 2);
    // New defaults leave lists alone; an empty list replaces the old one.
    property_defaults(&values, &fake_fake_capabilities);
    assert_int_equal(values.cpuid_exit_count, 2);
    assert_ok(property_set(&values, row, NULL, 0, &fake_fake_capabilities, &replaced));
    assert_non_null(replaced);
    free(replaced);
    assert_null(values.cpuid_exit_list);
    assert_int_equal(values.cpuid_exit_count, 0);
    property_release(&values);
}

static void test_unsupported(void **state)
{
    struct property_values values = {.set_rows = 0};
    WHV_EXTENDED_VM_EXITS exits = {.X64CpuidExit = 1}, none = {.AsUINT64 = 0};
    void *replaced;

    (void)state;
    property_defaults(&values, &fake_fake_capabilities);
    assert_null(property_unsupported(&values, &fake_fast_capabilities, none));
    assert_ok(property_set(&values, property_find(WHvPartitionPropertyCodeExtendedVmExits), &exits, 8,
                           &fake_fake_capabilities, &replaced));
    assert_null(property_unsupported(&values, &fake_fake_capabilities, none));
    assert_string_equal(property_unsupported(&values, &fake_fast_capabilities, none)->name,
                        "ExtendedVmExits");
    assert_null(property_unsupported(&values, &fake_fast_capabilities, exits));
}

// One value on each side of every border.
static void test_borders(void **state)
{
    static const struct {
        WHV_PARTITION_PROPERTY_CODE code;
        UINT64 value;
        bool lawful;
    } rows[] = {
        {WHvPartitionPropertyCodeProcessorCount, 0, false},
        {WHvPartitionPropertyCodeProcessorCount, 1, true},
        {WHvPartitionPropertyCodeProcessorCount, 64, true},
        {WHvPartitionPropertyCodeProcessorCount, 65, false},
        {WHvPartitionPropertyCodeExtendedVmExits, 0x2F, true},
        {WHvPartitionPropertyCodeExtendedVmExits, 0x10, false},
        {WHvPartitionPropertyCodeExtendedVmExits, 1ull << 63, false},
        {WHvPartitionPropertyCodeExceptionExitBitmap, 1 << 14, true},
        {WHvPartitionPropertyCodeExceptionExitBitmap, 1 << 20, false},
        {WHvPartitionPropertyCodeX64MsrExitBitmap, 0x3F, true},
        {WHvPartitionPropertyCodeX64MsrExitBitmap, 0x40, false},
        {WHvPartitionPropertyCodeSeparateSecurityDomain, 1, true},
        {WHvPartitionPropertyCodeSeparateSecurityDomain, 2, false},
        {WHvPartitionPropertyCodeNestedVirtualization, 2, false},
        {WHvPartitionPropertyCodePrimaryNumaNode, 0, true},
        {WHvPartitionPropertyCodePrimaryNumaNode, 1, false},
        {WHvPartitionPropertyCodeCpuReserve, 100, true},
        {WHvPartitionPropertyCodeCpuReserve, 101, false},
        {WHvPartitionPropertyCodeCpuCap, 0, false},
        {WHvPartitionPropertyCodeCpuCap, 100, true},
        {WHvPartitionPropertyCodeCpuWeight, 0, false},
        {WHvPartitionPropertyCodeCpuWeight, 10000, true},
        {WHvPartitionPropertyCodeCpuWeight, 10001, false},
        {WHvPartitionPropertyCodeLocalApicEmulationMode, 2, true},
        {WHvPartitionPropertyCodeLocalApicEmulationMode, 3, false},
        {WHvPartitionPropertyCodeProcessorClFlushSize, 8, true},
        {WHvPartitionPropertyCodeProcessorClFlushSize, 6, false},
        {WHvPartitionPropertyCodeProcessorClockFrequency, 0, false},
        {WHvPartitionPropertyCodeProcessorClockFrequency, 1000000000, true},
        {WHvPartitionPropertyCodeInterruptClockFrequency, 0, false},
        {WHvPartitionPropertyCodeProcessorPerfmonFeatures, 1, false},
        {WHvPartitionPropertyCodeUnimplementedMsrAction, 2, true},
        {WHvPartitionPropertyCodeUnimplementedMsrAction, 3, false},
        {WHvPartitionPropertyCodePhysicalAddressWidth, 40, true},
        {WHvPartitionPropertyCodePhysicalAddressWidth, 41, false},
        {WHvPartitionPropertyCodePhysicalAddressWidth, 31, false},
    };

    (void)state;
    for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct property *row = property_find(rows[i].code);

        if (row->check(&rows[i].value, 1, &fake_fake_capabilities) != rows[i].lawful)
            fail_msg("%s = %llu", row->name, (unsigned long long)rows[i].value);
    }
}

// With an exit goes what chooses among exits of its kind.
static void test_relax(void **state)
{
    const WHV_EXTENDED_VM_EXITS relaxed = {.ExceptionExit = 1};
    const struct property *vectors = property_find(WHvPartitionPropertyCodeExceptionExitBitmap);
    const struct property *exits = property_find(WHvPartitionPropertyCodeExtendedVmExits);
    const UINT64 all = 0xFFFFFFFF, exception_exit = relaxed.AsUINT64, cpuid_exit = 1;
    struct engine_capabilities capabilities = {.max_processors = 1};

    (void)state;
    assert_false(vectors->check(&all, 1, &capabilities));
    property_relax(&capabilities, relaxed);
    assert_true(vectors->check(&all, 1, &capabilities));
    assert_true(exits->check(&exception_exit, 1, &capabilities));
    assert_false(exits->check(&cpuid_exit, 1, &capabilities));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_relax, setup),
        cmocka_unit_test_setup(test_table, setup),
        cmocka_unit_test_setup(test_may_change_after_setup, setup),
        cmocka_unit_test_setup(test_defaults_are_lawful, setup),
        cmocka_unit_test_setup(test_set_keeps_the_rest, setup),
        cmocka_unit_test_setup(test_lists, setup),
        cmocka_unit_test_setup(test_unsupported, setup),
        cmocka_unit_test_setup(test_borders, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
