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

static void test_table(void **state)
{
    (void)state;
    for (unsigned int i = 0; property_row(i); i++) {
        const struct property *row = property_row(i);

        assert_ptr_equal(property_find(row->code), row);
        assert_true(row->size <= sizeof(WHV_PARTITION_PROPERTY));
        for (unsigned int n = 0; n < row->part_count; n++)
            assert_in_range(row->parts[n].offset + property_part_size(row, &row->parts[n]), 1, row->size);
    }
    assert_null(property_find(0));
    assert_null(property_find(0x1012));
}

// Which ones, the reference says.
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

static void test_defaults(void **state)
{
    struct property_values values = {.set_rows = 0};

    (void)state;
    property_defaults(&values, &fake_fake_capabilities);
    assert_int_equal(values.processor_count, 0);
    assert_int_equal(values.processor_clock_hz, 2000000000);
    assert_int_equal(values.processor_features.BanksCount, 2);
    assert_int_equal(values.synthetic_features.BanksCount, 1);
    assert_int_equal(values.physical_address_width, 40);
    assert_int_equal(values.cpu_cap, 100);
    // Banks are as many as they are where no engine is, too.
    property_defaults(&values, &(struct engine_capabilities){.max_processors = 0});
    assert_int_equal(values.processor_features.BanksCount, 2);
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

// What each kind of range means, with what is offered and without.
static void test_bounds(void **state)
{
    const struct engine_capabilities offer = {
        .exception_exit_bitmap = 0xF0, .max_processors = 8, .physical_address_width = 60, .clflush_units = 4,
        .interrupt_clock_hz = 500, .interrupt_clock_fixed = true, .processor_clock_hz = 700, .apic_emulation = true,
    };
    const struct {
        WHV_PARTITION_PROPERTY_CODE code;
        bool bits;
        UINT64 low, high;
    } rows[] = {
        {WHvPartitionPropertyCodeCpuCap, false, 1, 100},
        {WHvPartitionPropertyCodeProcessorCount, false, 1, 8},
        {WHvPartitionPropertyCodePhysicalAddressWidth, false, 32, 52},      // the row's own end comes first
        {WHvPartitionPropertyCodeProcessorClFlushSize, false, 4, 4},
        {WHvPartitionPropertyCodeInterruptClockFrequency, false, 500, 500},
        {WHvPartitionPropertyCodeProcessorClockFrequency, false, 1000000, 1000000000000},
        {WHvPartitionPropertyCodeDisableSmt, false, 0, 1},
        {WHvPartitionPropertyCodeLocalApicEmulationMode, false, 0, 2},
        {WHvPartitionPropertyCodeNestedVirtualization, false, 0, 0},
        {WHvPartitionPropertyCodeExceptionExitBitmap, true, 0, 0xF0},
        {WHvPartitionPropertyCodeCpuidResultList2, true, 0, 3},
        {WHvPartitionPropertyCodeMsrActionList, false, 0, 2},
        {WHvPartitionPropertyCodeProcessorFeaturesBanks, false, 2, 2},
    };

    (void)state;
    for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct property_bounds bounds = property_bounds(property_find(rows[i].code)->parts, &offer);

        assert_int_equal(bounds.bits, rows[i].bits);
        assert_int_equal(bounds.low, rows[i].low);
        assert_int_equal(bounds.high, rows[i].high);
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
    assert_false(property_check(vectors, &all, 1, &capabilities));
    property_relax(&capabilities, relaxed);
    assert_true(property_check(vectors, &all, 1, &capabilities));
    assert_true(property_check(exits, &exception_exit, 1, &capabilities));
    assert_false(property_check(exits, &cpuid_exit, 1, &capabilities));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_relax, setup),
        cmocka_unit_test_setup(test_table, setup),
        cmocka_unit_test_setup(test_may_change_after_setup, setup),
        cmocka_unit_test_setup(test_defaults, setup),
        cmocka_unit_test_setup(test_set_keeps_the_rest, setup),
        cmocka_unit_test_setup(test_lists, setup),
        cmocka_unit_test_setup(test_unsupported, setup),
        cmocka_unit_test_setup(test_bounds, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
