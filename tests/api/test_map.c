// Guest memory: flags, replacing, partial unmaps, aliases, many ranges, and source memory that is not there.
#include "api.h"

#include <sys/mman.h>

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
static uint8_t other[4 * PAGE] __attribute__((aligned(PAGE)));

#define DATA 0x3000u

static const uint8_t read_data[] = {0xA0, 0x00, 0x30, 0xE6, 0x10};         // mov al, [0x3000]; out 0x10, al
static const uint8_t write_data[] = {0xA2, 0x00, 0x30, 0xE6, 0x10};        // mov [0x3000], al; out 0x10, al

// Run the guest from its start; it must reach its OUT. Gives AL.
static uint8_t run_to_out(WHV_PARTITION_HANDLE p)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    set_register(p, 0, WHvX64RegisterRip, CODE);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    return (uint8_t)exit.IoPortAccess.Rax;
}

static void assert_memory_exit(WHV_PARTITION_HANDLE p, UINT64 rip, WHV_MEMORY_ACCESS_TYPE type, bool unmapped,
                               UINT64 gpa)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    set_register(p, 0, WHvX64RegisterRip, rip);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.MemoryAccess.AccessInfo.AccessType, type);
    assert_int_equal(exit.MemoryAccess.AccessInfo.GpaUnmapped, unmapped);
    assert_int_equal(exit.MemoryAccess.Gpa, gpa);
    assert_int_equal(exit.VpContext.Rip, rip);
    assert_int_equal(exit.VpContext.InstructionLength, 0);
}

static void test_replace_and_unmap(void **state)
{
    WHV_PARTITION_HANDLE p = guest(memory, read_data, sizeof(read_data));

    (void)state;
    memory[DATA] = 1;
    other[0] = 2;
    assert_int_equal(run_to_out(p), 1);
    // A map over a part of a range replaces that part.
    assert_ok(WHvMapGpaRange(p, other, DATA, PAGE, RW));
    assert_int_equal(run_to_out(p), 2);
    other[0] = 3;
    assert_int_equal(run_to_out(p), 3);
    assert_ok(WHvUnmapGpaRange(p, DATA, PAGE));
    assert_memory_exit(p, CODE, WHvMemoryAccessRead, true, DATA);
    assert_hr(WHvUnmapGpaRange(p, DATA, PAGE), WHV_E_GPA_RANGE_NOT_FOUND);
    // The whole of it again, over what is left; and an unmap that spans several maps and holes.
    assert_ok(WHvMapGpaRange(p, memory, 0, 16 * PAGE, RWX));
    assert_int_equal(run_to_out(p), 1);
    assert_ok(WHvUnmapGpaRange(p, DATA, PAGE));
    assert_ok(WHvUnmapGpaRange(p, DATA - PAGE, 3 * PAGE));
    assert_ok(WHvMapGpaRange(p, other, DATA, PAGE, RW));
    assert_int_equal(run_to_out(p), 3);
    assert_ok(WHvDeletePartition(p));
}

static void test_rights(void **state)
{
    WHV_PARTITION_HANDLE p = guest(memory, write_data, sizeof(write_data));

    (void)state;
    memory[DATA] = 7;
    set_register(p, 0, WHvX64RegisterRax, 9);
    assert_ok(WHvMapGpaRange(p, memory + DATA, DATA, PAGE, RX));
    assert_memory_exit(p, CODE, WHvMemoryAccessWrite, false, DATA);
    assert_int_equal(memory[DATA], 7);
    assert_ok(WHvMapGpaRange(p, memory + DATA, DATA, PAGE, WHvMapGpaRangeFlagRead));
    assert_memory_exit(p, CODE, WHvMemoryAccessWrite, false, DATA);
    assert_ok(WHvMapGpaRange(p, memory + DATA, DATA, PAGE,
                             (WHV_MAP_GPA_RANGE_FLAGS)(RW | WHvMapGpaRangeFlagTrackDirtyPages)));
    run_to_out(p);
    assert_int_equal(memory[DATA], 9);

    // Code in memory that may not be executed, or is not there, exits on the fetch.
    assert_ok(WHvMapGpaRange(p, memory + CODE, CODE, PAGE, RW));
    if (engine_forbids_execution())
        assert_memory_exit(p, CODE, WHvMemoryAccessExecute, false, CODE);
    assert_ok(WHvUnmapGpaRange(p, CODE, PAGE));
    assert_memory_exit(p, CODE, WHvMemoryAccessExecute, true, CODE);
    assert_ok(WHvDeletePartition(p));
}

static void test_alias(void **state)
{
    // mov [0x3000], al; mov al, [0x5000]; out 0x10, al
    static const uint8_t code[] = {0xA2, 0x00, 0x30, 0xB0, 0, 0xA0, 0x00, 0x50, 0xE6, 0x10};
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));

    (void)state;
    assert_ok(WHvMapGpaRange(p, other, DATA, PAGE, RW));
    assert_ok(WHvMapGpaRange(p, other, 0x5000, PAGE, RW));
    set_register(p, 0, WHvX64RegisterRax, 0x77);
    assert_int_equal(run_to_out(p), 0x77);
    assert_int_equal(other[0], 0x77);
    assert_ok(WHvDeletePartition(p));
}

static void test_many_ranges(void **state)
{
    enum { RANGES = 8192 };
    WHV_PARTITION_HANDLE p = guest(memory, read_data, sizeof(read_data));
    WHV_CAPABILITY width;
    UINT64 stride;

    (void)state;
    assert_ok(WHvGetCapability(WHvCapabilityCodePhysicalAddressWidth, &width, sizeof(width), NULL));
    // Over 1 TiB, or as far as this engine's guests can see.
    stride = (width.PhysicalAddressWidth >= 40 ? 1ull << 40 : 1ull << width.PhysicalAddressWidth) / RANGES;
    for (UINT64 i = 1; i < RANGES; i++)
        assert_ok(WHvMapGpaRange(p, other, (RANGES - i) * stride, PAGE, RW));
    memory[DATA] = 5;
    assert_int_equal(run_to_out(p), 5);
    for (UINT64 i = 1; i < RANGES; i++)
        assert_ok(WHvUnmapGpaRange(p, i * stride, PAGE));
    assert_hr(WHvUnmapGpaRange(p, stride, PAGE), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_int_equal(run_to_out(p), 5);
    assert_ok(WHvDeletePartition(p));
}

static void test_source_that_is_not_there(void **state)
{
    WHV_PARTITION_HANDLE p = guest(memory, read_data, sizeof(read_data));
    uint8_t *source = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)state;
    assert_ptr_not_equal(source, MAP_FAILED);
    // Reserved and not committed when it is mapped; committed later.
    assert_ok(WHvMapGpaRange(p, source, DATA, PAGE, RW));
    set_register(p, 0, WHvX64RegisterRip, CODE);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(mprotect(source, PAGE, PROT_READ | PROT_WRITE), 0);
    source[0] = 6;
    assert_int_equal(run_to_out(p), 6);
    // Gone while it is mapped.
    assert_int_equal(munmap(source, PAGE), 0);
    set_register(p, 0, WHvX64RegisterRip, CODE);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_ok(WHvDeletePartition(p));
}

static void test_arguments(void **state)
{
    WHV_PARTITION_HANDLE p = set_up(1);
    WHV_CAPABILITY width;
    UINT64 top;

    (void)state;
    assert_ok(WHvGetCapability(WHvCapabilityCodePhysicalAddressWidth, &width, sizeof(width), NULL));
    top = 1ull << width.PhysicalAddressWidth;
    assert_ok(WHvMapGpaRange(p, memory, top - PAGE, PAGE, RWX));
    assert_hr(WHvMapGpaRange(p, memory, top, PAGE, RWX), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, top - PAGE, 2 * PAGE, RWX), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, 0 - (UINT64)PAGE, 2 * PAGE, RWX), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, 0, 0, RWX), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, 1, PAGE, RWX), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, 0, PAGE + 1, RWX), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory + 8, 0, PAGE, RWX), E_INVALIDARG);
    assert_hr(WHvMapGpaRange(p, memory, 0, PAGE, (WHV_MAP_GPA_RANGE_FLAGS)0x80000000), E_INVALIDARG);
    assert_hr(WHvUnmapGpaRange(p, 1, PAGE), E_INVALIDARG);
    assert_hr(WHvUnmapGpaRange(p, 0, 0), E_INVALIDARG);
    assert_hr(WHvUnmapGpaRange(p, top, PAGE), E_INVALIDARG);
    assert_hr(WHvUnmapGpaRange(p, 0, PAGE), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replace_and_unmap),
        cmocka_unit_test(test_rights),
        cmocka_unit_test(test_alias),
        cmocka_unit_test(test_many_ranges),
        cmocka_unit_test(test_source_that_is_not_there),
        cmocka_unit_test(test_arguments),
    };

    return engine_run_tests(tests);
}
