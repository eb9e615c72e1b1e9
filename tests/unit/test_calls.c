// The API over engines that only record: states, error values, choice of an engine, cancel and deletion
// races.
#include "unit.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bulkhead/bulkhead.h"
#include "fake_engine.h"

#define INVALID_STATE HRESULT_FROM_WIN32(ERROR_INVALID_STATE)
#define NOT_SUPPORTED HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)

static uint8_t memory[16 * 4096] __attribute__((aligned(4096)));

static int setup(void **state)
{
    (void)state;
    unsetenv("BULKHEAD_ENGINE");
    unsetenv("BULKHEAD_RELAX");
    fake_reset();
    return 0;
}

static HRESULT set32(WHV_PARTITION_HANDLE p, WHV_PARTITION_PROPERTY_CODE code, UINT32 value)
{
    return WHvSetPartitionProperty(p, code, &value, sizeof(value));
}

static HRESULT set64(WHV_PARTITION_HANDLE p, WHV_PARTITION_PROPERTY_CODE code, UINT64 value)
{
    return WHvSetPartitionProperty(p, code, &value, sizeof(value));
}

static WHV_PARTITION_HANDLE created(void)
{
    WHV_PARTITION_HANDLE p;

    assert_ok(WHvCreatePartition(&p));
    assert_ok(set32(p, WHvPartitionPropertyCodeProcessorCount, 4));
    return p;
}

static WHV_PARTITION_HANDLE set_up(void)
{
    WHV_PARTITION_HANDLE p = created();

    assert_ok(WHvSetupPartition(p));
    return p;
}

static WHV_PARTITION_HANDLE set_up_with_apic(void)
{
    WHV_PARTITION_HANDLE p = created();

    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    return p;
}

static void test_life(void **state)
{
    WHV_PARTITION_HANDLE p, q;

    (void)state;
    assert_hr(WHvCreatePartition(NULL), E_POINTER);
    assert_ok(WHvCreatePartition(&p));
    assert_hr(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
    assert_ok(set32(p, WHvPartitionPropertyCodeProcessorCount, 1));
    assert_hr(WHvCreateVirtualProcessor(p, 0, 0), INVALID_STATE);
    assert_hr(WHvMapGpaRange(p, memory, 0, 4096, WHvMapGpaRangeFlagRead), INVALID_STATE);
    assert_ok(WHvSetupPartition(p));
    assert_hr(WHvSetupPartition(p), INVALID_STATE);
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(WHvDeletePartition(p));
    assert_hr(WHvDeletePartition(p), E_INVALIDARG);
    assert_int_equal(fake_log.setups, 1);
    assert_int_equal(fake_log.teardowns, 1);
    assert_int_equal(fake_log.destroys, 1);

    // The place is used again, the handle is not.
    assert_ok(WHvCreatePartition(&q));
    assert_ptr_not_equal(p, q);
    assert_hr(WHvSetupPartition(p), E_INVALIDARG);
    assert_ok(WHvDeletePartition(q));
}

static void test_invented_handles(void **state)
{
    const UINT64 values[] = {0, 1, 2, 0x10001, 0x1FFFF, 0x10FFF, 0x11001, UINT64_MAX, 0x7FFFFFFFFFFF0001ull};
    UINT32 count = 1;

    (void)state;
    for (unsigned int i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        WHV_PARTITION_HANDLE p =
            (WHV_PARTITION_HANDLE)(uintptr_t)(values[i] ^ (values[i] ? 0xA00000000000 : 0));
        WHV_RUN_VP_EXIT_CONTEXT exit;

        assert_hr(WHvSetupPartition(p), E_INVALIDARG);
        assert_hr(WHvDeletePartition(p), E_INVALIDARG);
        assert_hr(WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit)), E_INVALIDARG);
        assert_hr(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &count, 4),
                  E_INVALIDARG);
    }
}

static void test_many_partitions(void **state)
{
    enum { COUNT = 300 };
    WHV_PARTITION_HANDLE p[COUNT];

    (void)state;
    for (unsigned int i = 0; i < COUNT; i++)
        p[i] = set_up();
    for (unsigned int i = 0; i < COUNT; i += 2)
        assert_ok(WHvDeletePartition(p[i]));
    for (unsigned int i = 0; i < COUNT; i++)
        assert_hr(WHvCreateVirtualProcessor(p[i], 0, 0), i % 2 ? S_OK : E_INVALIDARG);
    for (unsigned int i = 1; i < COUNT; i += 2)
        assert_ok(WHvDeletePartition(p[i]));
    assert_int_equal(fake_log.teardowns, COUNT);
}

static void test_property_calls(void **state)
{
    WHV_PARTITION_HANDLE p = created();
    WHV_PARTITION_PROPERTY value;
    UINT32 written, list[3] = {1, 2, 3};

    (void)state;
    memset(&value, 0xFF, sizeof(value));
    assert_ok(
        WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &value, sizeof(value), &written));
    assert_int_equal(written, 4);
    assert_int_equal(value.ProcessorCount, 4);
    assert_int_equal(((uint8_t *)&value)[4], 0xFF);
    assert_hr(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &value, 3, &written),
              WHV_E_INSUFFICIENT_BUFFER);
    assert_hr(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, NULL, 0, &written),
              WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(written, 4);
    assert_hr(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, NULL, 4, NULL), E_POINTER);
    assert_hr(WHvGetPartitionProperty(p, 0x7777, &value, sizeof(value), NULL), WHV_E_UNKNOWN_PROPERTY);
    assert_hr(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeCpuidExitList, &value, sizeof(value), NULL),
              NOT_SUPPORTED);

    memset(&value, 0, sizeof(value));
    value.ProcessorCount = 2;
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &value, sizeof(value)));
    assert_hr(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &value, 3), E_INVALIDARG);
    assert_hr(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, NULL, 4), E_POINTER);
    assert_hr(WHvSetPartitionProperty(p, 0x7777, &value, sizeof(value)), WHV_E_UNKNOWN_PROPERTY);
    assert_hr(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidExitList, list, 10), E_INVALIDARG);
    assert_hr(set32(p, WHvPartitionPropertyCodeProcessorCount, 65), E_INVALIDARG);
    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &value, 4, NULL));
    assert_int_equal(value.ProcessorCount, 2);

    assert_ok(WHvSetupPartition(p));
    assert_hr(set32(p, WHvPartitionPropertyCodeProcessorCount, 2), E_INVALIDARG);
    assert_ok(set64(p, WHvPartitionPropertyCodeExceptionExitBitmap, 1 << 14));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidExitList, list, sizeof(list)));
    assert_int_equal(fake_log.property_changes, 2);
    assert_int_equal(fake_log.cpuid_exit_count, 3);
    // An engine that cannot follow: the property is what it was, also for the engine.
    fake_property_result = E_OUTOFMEMORY;
    assert_hr(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidExitList, list, 4), E_OUTOFMEMORY);
    assert_int_equal(fake_log.property_changes, 4);
    assert_int_equal(fake_log.cpuid_exit_count, 3);
    assert_hr(set64(p, WHvPartitionPropertyCodeExceptionExitBitmap, 1 << 13), E_OUTOFMEMORY);
    fake_property_result = S_OK;
    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeExceptionExitBitmap, &value, sizeof(value), NULL));
    assert_int_equal(value.ExceptionExitBitmap, 1 << 14);
    // "fast" was chosen, and it has no CPUID exits.
    assert_hr(set64(p, WHvPartitionPropertyCodeExtendedVmExits, 1), E_INVALIDARG);
    assert_ok(set64(p, WHvPartitionPropertyCodeExtendedVmExits, 2));
    assert_ok(WHvDeletePartition(p));
}

static void test_map_calls(void **state)
{
    const WHV_MAP_GPA_RANGE_FLAGS rwx =
        WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute;
    WHV_PARTITION_HANDLE p = set_up();
    const UINT64 top = 1ull << 40;

    (void)state;
    assert_ok(WHvMapGpaRange(p, memory, 0x1000, 0x2000, rwx));
    assert_int_equal(fake_log.map_changes, 1);
    assert_int_equal(fake_log.map_gpa, 0x1000);
    assert_int_equal(fake_log.map_size, 0x2000);
    assert_ok(WHvMapGpaRange(p, memory, 0x1000, 0x2000, WHvMapGpaRangeFlagRead));
    assert_int_equal(fake_log.map_changes, 2);
    assert_ok(WHvMapGpaRange(p, memory, top - 4096, 4096, rwx));

    assert_hr(WHvMapGpaRange(p, memory, top, 4096, rwx), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, top - 4096, 8192, rwx), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, UINT64_MAX - 4095, 8192, rwx), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, 0, 0, rwx), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, 0x10, 4096, rwx), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, 0, 4097, rwx), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory + 1, 0, 4096, rwx), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, NULL, 0, 4096, rwx), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, (void *)(UINTPTR_MAX - 4095), 0, 8192, rwx), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, 0, 4096, 0x10), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, 0, 4096, WHvMapGpaRangeFlagWrite), E_INVALIDARG);
    assert_int_equal(fake_log.map_changes, 3);

    assert_ok(WHvUnmapGpaRange(p, 0x2000, 0x1000));
    assert_hr(WHvUnmapGpaRange(p, 0x2000, 0x1000), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_hr(WHvUnmapGpaRange(p, 0x2001, 0x1000), E_INVALIDARG);
    assert_hr(WHvUnmapGpaRange(p, 0, 0), E_INVALIDARG);
    assert_hr(WHvUnmapGpaRange(p, top, 4096), E_INVALIDARG);
    assert_int_equal(fake_log.map_changes, 4);
    assert_ok(WHvDeletePartition(p));
}

static void test_map_refused_by_engine(void **state)
{
    WHV_PARTITION_HANDLE p = set_up();

    (void)state;
    // A map that the engine refuses leaves nothing behind, and the engine is told that it is gone.
    fake_map_result = E_OUTOFMEMORY;
    assert_hr(WHvMapGpaRange(p, memory, 0x1000, 0x2000, WHvMapGpaRangeFlagRead), E_OUTOFMEMORY);
    assert_int_equal(fake_log.map_changes, 2);
    assert_int_equal(fake_log.map_gpa, 0x1000);
    assert_int_equal(fake_log.map_size, 0x2000);
    assert_hr(WHvUnmapGpaRange(p, 0x1000, 0x2000), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_int_equal(fake_log.map_changes, 2);

    // What was mapped stays, whether a map or an unmap of it is refused.
    fake_map_result = S_OK;
    assert_ok(WHvMapGpaRange(p, memory, 0x2000, 0x1000, WHvMapGpaRangeFlagRead));
    fake_map_result = E_FAIL;
    assert_hr(WHvMapGpaRange(p, memory, 0x1000, 0x2000, WHvMapGpaRangeFlagRead), E_FAIL);
    assert_hr(WHvUnmapGpaRange(p, 0x2000, 0x1000), E_FAIL);
    fake_map_result = S_OK;
    assert_hr(WHvUnmapGpaRange(p, 0x1000, 0x1000), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(WHvUnmapGpaRange(p, 0x2000, 0x1000));
    assert_ok(WHvDeletePartition(p));
}

#define TRACKED (WHV_MAP_GPA_RANGE_FLAGS)(WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagTrackDirtyPages)

static void test_dirty_pages(void **state)
{
    WHV_PARTITION_HANDLE p = set_up();
    UINT64 bitmap = 0xEE;

    (void)state;
    assert_ok(WHvMapGpaRange(p, memory, 0x10000, 0x8000, TRACKED));
    fake_written = 5;
    assert_ok(WHvQueryGpaRangeDirtyBitmap(p, 0x10000, 0x8000, &bitmap, sizeof(bitmap)));
    assert_int_equal(bitmap, 5);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(p, 0x10000, 0x8000, &bitmap, sizeof(bitmap)));
    assert_int_equal(bitmap, 0);
    fake_written = 5;
    assert_ok(WHvQueryGpaRangeDirtyBitmap(p, 0x10000, 0x8000, NULL, 0));
    assert_int_equal(fake_written, 0);

    // What the engine told before it failed is told by the next call.
    fake_written = 0x82;
    fake_collect_result = E_FAIL;
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0x10000, 0x8000, &bitmap, sizeof(bitmap)), E_FAIL);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0x10000, 0x8000, NULL, 0), E_FAIL);
    fake_collect_result = S_OK;
    // So is what was known before a map that failed; one that does not fail starts clean.
    fake_written = 1;
    fake_map_result = E_FAIL;
    assert_hr(WHvMapGpaRange(p, memory, 0x10000, 0x2000, TRACKED), E_FAIL);
    fake_map_result = S_OK;
    assert_int_equal(fake_written, 0);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(p, 0x10000, 0x2000, &bitmap, sizeof(bitmap)));
    assert_int_equal(bitmap, 3);
    fake_written = 1;
    assert_ok(WHvMapGpaRange(p, memory, 0x17000, 0x1000, TRACKED));
    assert_ok(WHvQueryGpaRangeDirtyBitmap(p, 0x10000, 0x8000, &bitmap, sizeof(bitmap)));
    assert_int_equal(bitmap, 0);
    // A map that cannot ask the engine before changes nothing.
    fake_written = 1;
    fake_collect_result = E_OUTOFMEMORY;
    assert_hr(WHvMapGpaRange(p, memory, 0x10000, 0x2000, TRACKED), E_OUTOFMEMORY);
    fake_collect_result = S_OK;
    assert_ok(WHvQueryGpaRangeDirtyBitmap(p, 0x10000, 0x8000, &bitmap, sizeof(bitmap)));
    assert_int_equal(bitmap, 1);
    assert_ok(WHvDeletePartition(p));
}

static void test_dirty_pages_not_offered(void **state)
{
    WHV_PARTITION_HANDLE p;
    UINT64 bitmap;

    (void)state;
    fake_fast_capabilities.features.DirtyPageTracking = 0;
    p = set_up();
    assert_hr(WHvMapGpaRange(p, memory, 0, 0x1000, TRACKED), E_INVALIDARG);
    assert_int_equal(fake_log.map_changes, 0);
    assert_ok(WHvMapGpaRange(p, memory, 0, 0x1000, WHvMapGpaRangeFlagRead));
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, 0x1000, &bitmap, sizeof(bitmap)), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(WHvDeletePartition(p));
}

static void test_processor_calls(void **state)
{
    WHV_VIRTUAL_PROCESSOR_PROPERTY node = {.PropertyCode = WHvVirtualProcessorPropertyCodeNumaNode};
    WHV_PARTITION_HANDLE p = set_up();
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    assert_hr(WHvCreateVirtualProcessor(p, 4, 0), E_INVALIDARG);
    assert_hr(WHvCreateVirtualProcessor(p, UINT32_MAX, 0), E_INVALIDARG);
    assert_hr(WHvCreateVirtualProcessor(p, 0, 1), E_INVALIDARG);
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_hr(WHvCreateVirtualProcessor(p, 0, 0), WHV_E_VP_ALREADY_EXISTS);
    assert_ok(WHvCreateVirtualProcessor2(p, 1, &node, 1));
    node.NumaNode = UINT16_MAX;
    assert_hr(WHvCreateVirtualProcessor2(p, 2, &node, 1), E_INVALIDARG);
    node.PropertyCode = 9;
    assert_hr(WHvCreateVirtualProcessor2(p, 2, &node, 1), E_INVALIDARG);
    assert_hr(WHvCreateVirtualProcessor2(p, 2, NULL, 1), E_POINTER);

    assert_hr(WHvRunVirtualProcessor(p, 2, &exit, sizeof(exit)), WHV_E_VP_DOES_NOT_EXIST);
    assert_hr(WHvRunVirtualProcessor(p, 1000, &exit, sizeof(exit)), WHV_E_VP_DOES_NOT_EXIST);
    assert_hr(WHvCancelRunVirtualProcessor(p, 2, 0), WHV_E_VP_DOES_NOT_EXIST);
    assert_hr(WHvCancelRunVirtualProcessor(p, 0, 1), E_INVALIDARG);
    assert_hr(WHvDeleteVirtualProcessor(p, 2), WHV_E_VP_DOES_NOT_EXIST);
    assert_hr(WHvDeleteVirtualProcessor(p, 64), WHV_E_VP_DOES_NOT_EXIST);

    assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
    assert_ok(WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit)));
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonCanceled);
    assert_ok(WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit)));
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);

    // A deleted index can be created again, without the old one's latched cancel.
    assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
    assert_ok(WHvDeleteVirtualProcessor(p, 0));
    assert_hr(WHvDeleteVirtualProcessor(p, 0), WHV_E_VP_DOES_NOT_EXIST);
    assert_hr(WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit)), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit)));
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(WHvDeletePartition(p));
    assert_int_equal(fake_log.creates, fake_log.destroys);
}

static void test_exit_sizes(void **state)
{
    WHV_PARTITION_HANDLE p = set_up();
    uint8_t buffer[sizeof(WHV_RUN_VP_EXIT_CONTEXT) + 32];
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_hr(WHvRunVirtualProcessor(p, 0, NULL, sizeof(exit)), E_POINTER);
    assert_hr(WHvRunVirtualProcessor(p, 0, &exit, 3), WHV_E_INSUFFICIENT_BUFFER);
    memset(buffer, 0xFF, sizeof(buffer));
    assert_ok(WHvRunVirtualProcessor(p, 0, buffer, 144));
    assert_int_equal(buffer[0], WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(buffer[143], 0);
    assert_int_equal(buffer[144], 0xFF);
    assert_ok(WHvRunVirtualProcessor(p, 0, buffer, sizeof(buffer)));
    assert_int_equal(buffer[sizeof(buffer) - 1], 0);
    assert_ok(WHvDeletePartition(p));
}

static void test_registers(void **state)
{
    uint8_t bytes[40 * sizeof(WHV_REGISTER_VALUE) + 1] __attribute__((aligned(16)));
    WHV_REGISTER_VALUE *crooked = (WHV_REGISTER_VALUE *)(void *)(bytes + 1);
    WHV_PARTITION_HANDLE p = set_up();
    WHV_REGISTER_NAME names[40];
    UINT64 rax = 0;

    (void)state;
    for (unsigned int i = 0; i < 40; i++)
        names[i] = WHvX64RegisterRax;
    memset(bytes, 0x5A, sizeof(bytes));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, NULL, 0, NULL));
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, NULL, 0, NULL));
    assert_hr(WHvGetVirtualProcessorRegisters(p, 1, NULL, 0, NULL), WHV_E_VP_DOES_NOT_EXIST);
    assert_hr(WHvGetVirtualProcessorRegisters(p, 0, names, 1, NULL), E_POINTER);
    assert_hr(WHvSetVirtualProcessorRegisters(p, 0, NULL, 1, crooked), E_POINTER);
    for (unsigned int count = 1; count <= 40; count += 39) {
        memset(bytes, 0x5A, sizeof(bytes));
        assert_ok(WHvSetVirtualProcessorRegisters(p, 0, names, count, crooked));
        memset(bytes, 0, sizeof(bytes));
        assert_ok(WHvGetVirtualProcessorRegisters(p, 0, names, count, crooked));
        memcpy(&rax, bytes + 1 + (count - 1) * sizeof(WHV_REGISTER_VALUE), 8);
        assert_int_equal(rax, 0x5A5A5A5A5A5A5A5Aull);
    }
    names[0] = 0x7FFFFFFF;
    assert_hr(WHvGetVirtualProcessorRegisters(p, 0, names, 1, crooked), WHV_E_INVALID_VP_REGISTER_NAME);
    assert_ok(WHvDeletePartition(p));
}

static void test_translate_and_cpuid(void **state)
{
    const WHV_X64_CPUID_RESULT result = {.Function = 7, .Eax = 1, .Ebx = 2, .Ecx = 3, .Edx = 4};
    const WHV_X64_CPUID_RESULT2 result2[] = {
        {.Function = 8, .Output.Ecx = 0x00F0, .Mask.Ecx = 0x0FFF},
        {.Function = 8, .Index = 5, .Flags = WHvX64CpuidResult2FlagSubleafSpecific, .Output.Eax = 0x55,
         .Mask.Eax = 0xFFFFFFFF},
        {.Function = 8, .VpIndex = 1, .Flags = WHvX64CpuidResult2FlagVpSpecific, .Output.Edx = 1,
         .Mask.Edx = 0xFFFFFFFF},
    };
    WHV_PARTITION_HANDLE p = created();
    WHV_TRANSLATE_GVA_RESULT translation;
    WHV_GUEST_PHYSICAL_ADDRESS gpa;
    WHV_CPUID_OUTPUT out;

    (void)state;
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidResultList, &result, sizeof(result)));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidResultList2, result2, sizeof(result2)));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));

    assert_ok(WHvTranslateGva(p, 0, 0x5000, WHvTranslateGvaFlagValidateRead, &translation, &gpa));
    assert_int_equal(gpa, 0x6000);
    assert_hr(WHvTranslateGva(p, 0, 0, 0x20, &translation, &gpa), E_INVALIDARG);
    assert_hr(WHvTranslateGva(p, 0, 0, 0, NULL, &gpa), E_POINTER);
    assert_hr(WHvTranslateGva(p, 0, 0, 0, &translation, NULL), E_POINTER);

    assert_hr(WHvGetVirtualProcessorCpuidOutput(p, 0, 1, 0, NULL), E_POINTER);
    assert_hr(WHvGetVirtualProcessorCpuidOutput(p, 3, 1, 0, &out), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 1, 2, &out));
    assert_int_equal(out.Eax, 1);
    assert_int_equal(out.Ebx, 2);
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 7, 9, &out));
    assert_int_equal(out.Edx, 4);
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 8, 5, &out));
    assert_int_equal(out.Ecx, 0xFFFFF0F0);
    assert_int_equal(out.Eax, 0x55);
    assert_int_equal(out.Edx, 0xFFFFFFFF);
    assert_ok(WHvDeletePartition(p));
}

static void test_interrupts(void **state)
{
    WHV_INTERRUPT_CONTROL interrupt = {.Type = WHvX64InterruptTypeFixed, .Vector = 0x20};
    WHV_PARTITION_HANDLE p = set_up();

    (void)state;
    assert_hr(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)), 0xC0350008);
    assert_ok(WHvDeletePartition(p));

    p = set_up_with_apic();
    assert_hr(WHvRequestInterrupt(p, NULL, sizeof(interrupt)), E_POINTER);
    assert_hr(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt) - 1), E_INVALIDARG);
    assert_ok(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt) + 8));
    interrupt.Vector = 15;
    assert_hr(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)), 0xC0350005);
    interrupt.Vector = 256;
    assert_hr(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)), 0xC0350005);
    interrupt.Vector = 16;
    interrupt.DestinationMode = 2;
    assert_hr(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)), 0xC0350005);
    interrupt.DestinationMode = WHvX64InterruptDestinationModeLogical;
    assert_ok(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
    interrupt.Type = 2;
    assert_hr(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)), 0xC0350005);
    interrupt.Type = WHvX64InterruptTypeNmi;
    interrupt.Vector = 0;
    assert_ok(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
    assert_int_equal(fake_log.interrupts, 3);
    assert_ok(WHvDeletePartition(p));
}

static void test_apic_states(void **state)
{
    uint8_t page[4096], packed[4096], again[4096];
    WHV_PARTITION_HANDLE p = set_up();
    UINT32 written = 0;

    (void)state;
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_hr(WHvGetVirtualProcessorInterruptControllerState2(p, 0, page, 4096, NULL), 0xC0350008);
    assert_ok(WHvDeletePartition(p));

    p = set_up_with_apic();
    memset(page, 0, sizeof(page));
    page[0x110] = 0x42;
    assert_hr(WHvGetVirtualProcessorInterruptControllerState(p, 0, NULL, 0, &written),
              WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(written, 4096);
    assert_hr(WHvSetVirtualProcessorInterruptControllerState2(p, 0, page, 4095), E_POINTER);
    assert_hr(WHvSetVirtualProcessorInterruptControllerState2(p, 0, NULL, 4096), E_POINTER);
    assert_hr(WHvSetVirtualProcessorInterruptControllerState2(p, 1, page, 4096), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvSetVirtualProcessorInterruptControllerState2(p, 0, page, 4096));
    assert_ok(WHvGetVirtualProcessorInterruptControllerState(p, 0, packed, 4096, &written));
    assert_int_equal(packed[0x104], 0x42);
    assert_ok(WHvSetVirtualProcessorInterruptControllerState(p, 0, packed, 4096));
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(p, 0, again, 4096, NULL));
    assert_memory_equal(again, page, 4096);
    assert_ok(WHvDeletePartition(p));
}

static void assert_report(WHV_PARTITION_HANDLE p, const char *first, const char *part)
{
    char report[1024];
    UINT32 needed = 0;

    assert_hr(BulkheadGetEngineReport(p, NULL, 0, &needed), WHV_E_INSUFFICIENT_BUFFER);
    assert_in_range(needed, 1, sizeof(report));
    assert_ok(BulkheadGetEngineReport(p, report, sizeof(report), NULL));
    assert_int_equal(strlen(report) + 1, needed);
    if (strncmp(report, first, strlen(first)) != 0 || !strstr(report, part))
        fail_msg("report: %s", report);
}

static void test_choice(void **state)
{
    WHV_PARTITION_HANDLE p;

    (void)state;
    p = set_up();
    assert_report(p, "engine: fast\n", "fast chosen");
    assert_hr(BulkheadSetEngine(p, "fake"), INVALID_STATE);
    assert_ok(WHvDeletePartition(p));

    // What the faster one lacks, the slower one has; unless it is given up by name.
    p = created();
    assert_ok(set64(p, WHvPartitionPropertyCodeExtendedVmExits, 1));
    assert_report(p, "engine: fake\n", "fast passed over: it does not support the ExtendedVmExits");
    assert_hr(BulkheadSetRelaxations(p, "cpuid-exit,nonsense"), E_INVALIDARG);
    assert_ok(BulkheadSetRelaxations(p, "rdtsc-exit,cpuid-exit"));
    assert_ok(WHvSetupPartition(p));
    assert_report(p, "engine: fast\n", "relaxed: cpuid-exit");
    assert_ok(WHvDeletePartition(p));

    // By name. Defaults are then those of that engine, and capabilities no more than it has.
    p = created();
    assert_hr(BulkheadSetEngine(p, "nonsense"), E_INVALIDARG);
    assert_ok(BulkheadSetEngine(p, "fast"));
    assert_hr(set64(p, WHvPartitionPropertyCodeExtendedVmExits, 1), E_INVALIDARG);
    assert_ok(BulkheadSetEngine(p, "fake"));
    assert_ok(set64(p, WHvPartitionPropertyCodeExtendedVmExits, 1));
    assert_ok(WHvSetupPartition(p));
    assert_report(p, "engine: fake\n", "fast passed over: fake was asked for by name");
    assert_ok(WHvDeletePartition(p));

    // Asked for while it supported all, then named another one.
    p = created();
    assert_ok(set64(p, WHvPartitionPropertyCodeExtendedVmExits, 1));
    assert_ok(BulkheadSetEngine(p, "fast"));
    assert_hr(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
    assert_report(p, "engine: none\n", "fast passed over");
    assert_ok(BulkheadSetEngine(p, "auto"));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvDeletePartition(p));
}

// A clock that an engine cannot change: it is passed over for any other frequency, and refuses one by name.
static void test_choice_by_clock(void **state)
{
    WHV_PARTITION_HANDLE p;

    (void)state;
    fake_fast_capabilities.processor_clock_fixed = fake_fast_capabilities.interrupt_clock_fixed = true;
    p = created();
    assert_ok(set64(p, WHvPartitionPropertyCodeProcessorClockFrequency, 3000000000));
    assert_ok(set64(p, WHvPartitionPropertyCodeInterruptClockFrequency, 200000000));
    assert_report(p, "engine: fast\n", "fast chosen");
    assert_ok(set64(p, WHvPartitionPropertyCodeProcessorClockFrequency, 1000000000));
    assert_report(p, "engine: fake\n", "fast passed over: it does not support the ProcessorClockFrequency");
    assert_ok(set64(p, WHvPartitionPropertyCodeProcessorClockFrequency, 3000000000));
    assert_ok(set64(p, WHvPartitionPropertyCodeInterruptClockFrequency, 100000000));
    assert_report(p, "engine: fake\n", "fast passed over: it does not support the InterruptClockFrequency");
    assert_ok(WHvDeletePartition(p));

    p = created();
    assert_ok(BulkheadSetEngine(p, "fast"));
    assert_hr(set64(p, WHvPartitionPropertyCodeProcessorClockFrequency, 2999999999), E_INVALIDARG);
    assert_hr(set64(p, WHvPartitionPropertyCodeInterruptClockFrequency, 200000001), E_INVALIDARG);
    assert_ok(set64(p, WHvPartitionPropertyCodeProcessorClockFrequency, 3000000000));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvDeletePartition(p));
}

static void test_choice_by_host(void **state)
{
    BULKHEAD_ENGINE_INFO info = {.Size = sizeof(info)};
    WHV_PARTITION_HANDLE p;

    (void)state;
    fake_fast_status = (struct engine_status){true, false, "the host has no more than a pale copy of it"};
    assert_report(NULL, "engine: fake\n", "pale copy");
    assert_ok(BulkheadGetEngineInfo(0, &info));
    assert_string_equal(info.Name, "fast");
    assert_true(info.Usable);
    assert_false(info.ChosenByAuto);
    assert_ok(BulkheadGetEngineInfo(1, &info));
    assert_true(info.ChosenByAuto);
    assert_hr(BulkheadGetEngineInfo(2, &info), HRESULT_FROM_WIN32(ERROR_NOT_FOUND));
    assert_hr(BulkheadGetEngineInfo(0, NULL), E_POINTER);
    info.Size = 8;
    assert_hr(BulkheadGetEngineInfo(0, &info), E_INVALIDARG);

    // An engine whose set-up fails is passed over; named, its error is the answer.
    fake_fast_status.automatic = true;
    fake_setup_result = E_ACCESSDENIED;
    p = set_up();
    assert_report(p, "engine: fake\n", "fast passed over: its set-up failed with 0x80070005");
    assert_ok(WHvDeletePartition(p));
    p = created();
    assert_ok(BulkheadSetEngine(p, "fast"));
    assert_hr(WHvSetupPartition(p), E_ACCESSDENIED);
    assert_ok(BulkheadSetEngine(p, "fake"));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvDeletePartition(p));

    fake_fast_status.usable = fake_fake_status.usable = false;
    assert_ok(WHvCreatePartition(&p));
    assert_hr(set32(p, WHvPartitionPropertyCodeProcessorCount, 1), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
    assert_ok(WHvDeletePartition(p));
}

static void test_environment(void **state)
{
    WHV_EXTENDED_VM_EXITS exits;
    WHV_PARTITION_HANDLE p;

    (void)state;
    setenv("BULKHEAD_ENGINE", "fast", 1);
    assert_ok(WHvGetCapability(WHvCapabilityCodeExtendedVmExits, &exits, sizeof(exits), NULL));
    assert_int_equal(exits.X64CpuidExit, 0);
    setenv("BULKHEAD_RELAX", "cpuid-exit", 1);
    p = created();
    assert_ok(set64(p, WHvPartitionPropertyCodeExtendedVmExits, 1));
    assert_ok(WHvSetupPartition(p));
    assert_report(p, "engine: fast\n", "relaxed: cpuid-exit");
    assert_ok(WHvDeletePartition(p));

    setenv("BULKHEAD_RELAX", "everything", 1);
    p = created();
    assert_hr(WHvSetupPartition(p), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
    assert_report(p, "engine: none\n", "everything");
    assert_ok(BulkheadSetRelaxations(p, ""));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvDeletePartition(p));

    setenv("BULKHEAD_ENGINE", "steam", 1);
    assert_report(NULL, "engine: none\n", "steam");
    setenv("BULKHEAD_ENGINE", "auto", 1);
    assert_report(NULL, "engine: none\n", "everything");
}

static void test_capabilities(void **state)
{
    WHV_CAPABILITY value;
    UINT32 written;

    (void)state;
    assert_ok(WHvGetCapability(WHvCapabilityCodeHypervisorPresent, &value, sizeof(value), &written));
    assert_int_equal(written, 4);
    assert_int_equal(value.HypervisorPresent, TRUE);
    // The union of both engines; clocks of the faster one.
    assert_ok(WHvGetCapability(WHvCapabilityCodeExtendedVmExits, &value, sizeof(value), NULL));
    assert_int_equal(value.ExtendedVmExits.AsUINT64, 0x2F);
    assert_ok(WHvGetCapability(WHvCapabilityCodeProcessorClockFrequency, &value, sizeof(value), NULL));
    assert_int_equal(value.ProcessorClockFrequency, 3000000000);
    assert_ok(WHvGetCapability(WHvCapabilityCodeProcessorFeaturesBanks, &value, sizeof(value), &written));
    assert_int_equal(written, 24);
    assert_int_equal(value.ProcessorFeaturesBanks.BanksCount, 2);
    assert_ok(WHvGetCapability(WHvCapabilityCodeProcessorClFlushSize, &value, 1, &written));
    assert_int_equal(written, 1);
    assert_int_equal(value.ProcessorClFlushSize, 8);
    assert_ok(WHvGetCapability(WHvCapabilityCodeVmxTrueEntryCtls, &value, sizeof(value), &written));
    assert_int_equal(written, 8);
    assert_hr(WHvGetCapability(WHvCapabilityCodeFeatures, &value, 7, &written), WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(written, 8);
    assert_hr(WHvGetCapability(0x7777, &value, sizeof(value), NULL), WHV_E_UNKNOWN_CAPABILITY);

    fake_fast_status.usable = fake_fake_status.usable = false;
    assert_ok(WHvGetCapability(WHvCapabilityCodeHypervisorPresent, &value, sizeof(value), NULL));
    assert_int_equal(value.HypervisorPresent, FALSE);
    assert_hr(WHvGetCapability(WHvCapabilityCodeFeatures, &value, sizeof(value), NULL), 0xC0351000);
}

struct runner {
    WHV_PARTITION_HANDLE partition;
    UINT32 index;
    HRESULT hr;
    WHV_RUN_VP_EXIT_CONTEXT exit;
};

static void *run_once(void *argument)
{
    struct runner *runner = argument;

    runner->hr =
        WHvRunVirtualProcessor(runner->partition, runner->index, &runner->exit, sizeof(runner->exit));
    return NULL;
}

// Runs until the processor or the partition is gone.
static void *run_on(void *argument)
{
    struct runner *runner = argument;

    do
        run_once(runner);
    while (SUCCEEDED(runner->hr) || runner->hr == WHV_E_INVALID_VP_STATE);
    return NULL;
}

static void wait_for_runs(int runs)
{
    while (fake_log.runs < runs)
        sched_yield();
}

static void test_one_thread_per_processor(void **state)
{
    WHV_PARTITION_HANDLE p = set_up_with_apic();
    struct runner runner = {.partition = p};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    uint8_t page[4096];
    pthread_t thread;

    (void)state;
    fake_run_blocks = true;
    pthread_create(&thread, NULL, run_once, &runner);
    wait_for_runs(1);
    assert_hr(WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit)), WHV_E_INVALID_VP_STATE);
    assert_hr(WHvGetVirtualProcessorInterruptControllerState2(p, 0, page, 4096, NULL),
              WHV_E_INVALID_VP_STATE);
    assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
    pthread_join(thread, NULL);
    assert_ok(runner.hr);
    assert_int_equal(runner.exit.ExitReason, WHvRunVpExitReasonCanceled);
    assert_ok(WHvDeletePartition(p));
}

static void test_delete_while_running(void **state)
{
    enum { ROUNDS = 200, THREADS = 4 };

    (void)state;
    for (unsigned int round = 0; round < ROUNDS; round++) {
        WHV_PARTITION_HANDLE p = set_up();
        struct runner runners[THREADS];
        pthread_t threads[THREADS];
        int runs = fake_log.runs;

        fake_run_blocks = round % 2;
        assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
        assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
        for (unsigned int i = 0; i < THREADS; i++) {
            runners[i] = (struct runner){.partition = p, .index = i % 2};
            pthread_create(&threads[i], NULL, run_on, &runners[i]);
        }
        if (round % 3)
            wait_for_runs(runs + 1);
        if (round % 4 < 2)
            assert_ok(WHvDeleteVirtualProcessor(p, 0));
        assert_ok(WHvDeletePartition(p));
        for (unsigned int i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
            assert_true(runners[i].hr == E_INVALIDARG || runners[i].hr == WHV_E_VP_DOES_NOT_EXIST);
        }
        assert_int_equal(fake_log.creates, fake_log.destroys);
    }
}

static void *delete_processor(void *argument)
{
    struct runner *runner = argument;

    runner->hr = WHvDeleteVirtualProcessor(runner->partition, runner->index);
    return NULL;
}

static void *delete_partition(void *argument)
{
    struct runner *runner = argument;

    runner->hr = WHvDeletePartition(runner->partition);
    return NULL;
}

// Several deletes at once: each thing is deleted once.
static void test_delete_races(void **state)
{
    enum { ROUNDS = 200 };

    (void)state;
    for (unsigned int round = 0; round < ROUNDS; round++) {
        WHV_PARTITION_HANDLE p = set_up();
        struct runner runners[4];
        pthread_t threads[4];

        assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
        for (unsigned int i = 0; i < 4; i++) {
            runners[i] = (struct runner){.partition = p};
            pthread_create(&threads[i], NULL, i < 2 ? delete_processor : delete_partition, &runners[i]);
        }
        for (unsigned int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        assert_true(FAILED(runners[0].hr) || FAILED(runners[1].hr));
        assert_true(SUCCEEDED(runners[2].hr) != SUCCEEDED(runners[3].hr));
        assert_int_equal(fake_log.creates, fake_log.destroys);
    }
    assert_int_equal(fake_log.teardowns, ROUNDS);
}

static void test_instruction_count(void **state)
{
    WHV_PARTITION_HANDLE p = created();
    UINT64 count = 0;

    (void)state;
    assert_ok(BulkheadSetEngine(p, "fake"));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(BulkheadGetVirtualProcessorInstructionCount(p, 0, &count));
    assert_int_equal(count, 42);
    assert_hr(BulkheadGetVirtualProcessorInstructionCount(p, 1, &count), WHV_E_VP_DOES_NOT_EXIST);
    assert_hr(BulkheadGetVirtualProcessorInstructionCount(p, 0, NULL), E_POINTER);
    assert_ok(WHvDeletePartition(p));
    p = set_up();
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_hr(BulkheadGetVirtualProcessorInstructionCount(p, 0, &count), E_NOTIMPL);
    assert_ok(WHvDeletePartition(p));
    assert_non_null(strchr(BulkheadVersion(), '.'));
}

// Each set comes from its place, and an engine's error is the call's.
static void test_counters(void **state)
{
    WHV_PARTITION_HANDLE p = set_up();
    WHV_PARTITION_MEMORY_COUNTERS pages;
    WHV_PROCESSOR_RUNTIME_COUNTERS runtime;
    WHV_PROCESSOR_INTERCEPT_COUNTERS intercepts;
    WHV_PROCESSOR_EVENT_COUNTERS events;
    WHV_PROCESSOR_APIC_COUNTERS apic;
    WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS synthetic;
    UINT32 written = 0;

    (void)state;
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
#define GET(set, to)                                                                                         \
    assert_ok(WHvGetVirtualProcessorCounters(p, 0, WHvProcessorCounterSet##set, &to, sizeof(to), &written))
    GET(Runtime, runtime);
    GET(Intercepts, intercepts);
    GET(Events, events);
    GET(Apic, apic);
    GET(SyntheticFeatures, synthetic);
    assert_int_equal(runtime.HypervisorRuntime100ns, 2);
    assert_int_equal(intercepts.RdpmcInstructions.Time100ns, 11);
    assert_int_equal(events.InterruptCount, 5);
    assert_int_equal(apic.SelfIpiCount, 10);
    assert_int_equal(synthetic.VirtualMmuHypercallsCount, 12);
    assert_ok(WHvGetPartitionCounters(p, WHvPartitionCounterSetMemory, &pages, sizeof(pages), NULL));
    assert_int_equal(pages.Mapped1GPageCount, 15);
    fake_counters_result = E_ACCESSDENIED;
    written = 99;
    memset(&runtime, 0xAA, sizeof(runtime));
    assert_hr(WHvGetVirtualProcessorCounters(p, 0, WHvProcessorCounterSetRuntime, &runtime, sizeof(runtime), &written),
              E_ACCESSDENIED);
    assert_hr(WHvGetPartitionCounters(p, WHvPartitionCounterSetMemory, &pages, sizeof(pages), &written),
              E_ACCESSDENIED);
    assert_int_equal(written, 99);
    assert_int_equal(runtime.TotalRuntime100ns, 0xAAAAAAAAAAAAAAAA);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_life, setup),
        cmocka_unit_test_setup(test_invented_handles, setup),
        cmocka_unit_test_setup(test_many_partitions, setup),
        cmocka_unit_test_setup(test_property_calls, setup),
        cmocka_unit_test_setup(test_map_calls, setup),
        cmocka_unit_test_setup(test_map_refused_by_engine, setup),
        cmocka_unit_test_setup(test_dirty_pages, setup),
        cmocka_unit_test_setup(test_dirty_pages_not_offered, setup),
        cmocka_unit_test_setup(test_processor_calls, setup),
        cmocka_unit_test_setup(test_exit_sizes, setup),
        cmocka_unit_test_setup(test_registers, setup),
        cmocka_unit_test_setup(test_translate_and_cpuid, setup),
        cmocka_unit_test_setup(test_interrupts, setup),
        cmocka_unit_test_setup(test_apic_states, setup),
        cmocka_unit_test_setup(test_choice, setup),
        cmocka_unit_test_setup(test_choice_by_clock, setup),
        cmocka_unit_test_setup(test_choice_by_host, setup),
        cmocka_unit_test_setup(test_environment, setup),
        cmocka_unit_test_setup(test_capabilities, setup),
        cmocka_unit_test_setup(test_one_thread_per_processor, setup),
        cmocka_unit_test_setup(test_delete_while_running, setup),
        cmocka_unit_test_setup(test_delete_races, setup),
        cmocka_unit_test_setup(test_instruction_count, setup),
        cmocka_unit_test_setup(test_counters, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
