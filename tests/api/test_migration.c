// Migration: the four calls in their order and states, within one process and between two.
#include "holdings.h"
#include "threads.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (16 * PAGE)

static uint8_t private_memory[SIZE] __attribute__((aligned(PAGE)));

// inc word [0x2000]; out 0x10, al; jmp back
static const uint8_t ticks[] = {0xFF, 0x06, 0x00, 0x20, 0xE6, 0x10, 0xEB, 0xF8};
#define TICKS 0x2000u
#define NEXT (CODE + 6)

static void *shared_memory(int *fd)
{
    void *memory;

    *fd = memfd_create("guest", MFD_CLOEXEC);
    assert_true(*fd >= 0);
    assert_int_equal(ftruncate(*fd, SIZE), 0);
    memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    assert_true(memory != MAP_FAILED);
    return memory;
}

// Runs to the next OUT and past it.
static void tick(WHV_PARTITION_HANDLE p)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = run(p, 0);

    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(exit.IoPortAccess.PortNumber, 0x10);
    set_register(p, 0, WHvX64RegisterRip, NEXT);
}

static uint16_t ticks_of(WHV_PARTITION_HANDLE p)
{
    VOID *at;
    UINT64 size;

    assert_ok(BulkheadFindGuestMemory(p, TICKS, &at, &size));
    assert_int_equal(size, SIZE - TICKS);
    return (uint16_t)load32(at, 0);
}

static WHV_PARTITION_HANDLE ticking(uint8_t *memory)
{
    WHV_PARTITION_HANDLE p;

    memset(memory, 0, SIZE);
    p = guest(memory, ticks, sizeof(ticks));
    tick(p);
    tick(p);
    assert_int_equal(ticks_of(p), 2);
    return p;
}

static void test_private_memory(void **state)
{
    WHV_PARTITION_HANDLE p = ticking(private_memory);

    (void)state;
    for (unsigned int n = 3; n < 10; n++) {
        p = moved(p);
        tick(p);
        assert_int_equal(ticks_of(p), n);
    }
    assert_int_equal(load32(private_memory, TICKS), 2);         // the copy went on, this did not
    assert_ok(WHvDeletePartition(p));
}

// Shared memory is handed over: both ends see what the guest writes.
static void test_shared_memory(void **state)
{
    int fd;
    uint8_t *memory = shared_memory(&fd);
    WHV_PARTITION_HANDLE p = ticking(memory);

    (void)state;
    for (unsigned int n = 3; n < 10; n++) {
        p = moved(p);
        tick(p);
        assert_int_equal(ticks_of(p), n);
        assert_int_equal(load32(memory, TICKS), n);
    }
    assert_ok(WHvDeletePartition(p));
    munmap(memory, SIZE);
    close(fd);
}

// ---- Out of order ------------------------------------------------------------------------------------------------

static void test_a_processor_runs(void **state)
{
    static const uint8_t spin[] = {0xC6, 0x06, 0x00, 0x20, 0x01, 0xEB, 0xFE};       // mov byte [0x2000], 1; jmp $
    WHV_PARTITION_HANDLE p;
    struct runner runner;
    HANDLE handle;

    (void)state;
    memset(private_memory, 0, SIZE);
    p = guest(private_memory, spin, sizeof(spin));
    start(&runner, p, 0);
    EVENTUALLY(load32(private_memory, TICKS) & 1);
    assert_hr(WHvStartPartitionMigration(p, &handle), INVALID_STATE);
    cancel(&runner);
    assert_ok(WHvStartPartitionMigration(p, &handle));
    assert_ok(BulkheadCloseHandle(handle));
    assert_ok(WHvDeletePartition(p));
}

static void test_cancel(void **state)
{
    WHV_PARTITION_HANDLE p = ticking(private_memory), target;
    HANDLE handle;

    (void)state;
    // Before anybody has accepted.
    assert_ok(WHvStartPartitionMigration(p, &handle));
    assert_hr(WHvCompletePartitionMigration(p), INVALID_STATE);
    assert_ok(WHvCancelPartitionMigration(p));
    assert_hr(WHvCancelPartitionMigration(p), INVALID_STATE);
    assert_hr(WHvAcceptPartitionMigration(handle, &target), INVALID_STATE);
    assert_ok(BulkheadCloseHandle(handle));
    tick(p);
    assert_int_equal(ticks_of(p), 3);
    // After.
    assert_ok(WHvStartPartitionMigration(p, &handle));
    assert_ok(WHvAcceptPartitionMigration(handle, &target));
    assert_hr(WHvSetupPartition(target), INVALID_STATE);
    assert_ok(WHvCancelPartitionMigration(p));
    assert_hr(WHvSetupPartition(target), INVALID_STATE);
    assert_ok(WHvDeletePartition(target));
    tick(p);
    assert_int_equal(ticks_of(p), 4);
    // And once more to the end.
    p = moved(p);
    tick(p);
    assert_int_equal(ticks_of(p), 5);
    assert_ok(WHvDeletePartition(p));
}

// Whoever deletes its partition leaves it to the other one, where the other one may have it.
static void test_delete(void **state)
{
    WHV_PARTITION_HANDLE p = ticking(private_memory), target;
    HANDLE handle;

    (void)state;
    assert_ok(WHvStartPartitionMigration(p, &handle));
    assert_ok(WHvAcceptPartitionMigration(handle, &target));
    assert_ok(WHvDeletePartition(target));
    assert_hr(WHvCompletePartitionMigration(p), INVALID_STATE);
    assert_ok(WHvCancelPartitionMigration(p));
    tick(p);

    assert_ok(WHvStartPartitionMigration(p, &handle));
    assert_ok(WHvAcceptPartitionMigration(handle, &target));
    assert_ok(WHvDeletePartition(p));
    assert_hr(WHvSetupPartition(target), INVALID_STATE);
    assert_ok(WHvDeletePartition(target));

    p = ticking(private_memory);
    assert_ok(WHvStartPartitionMigration(p, &handle));
    assert_ok(WHvDeletePartition(p));
    assert_hr(WHvAcceptPartitionMigration(handle, &target), INVALID_STATE);
    assert_ok(BulkheadCloseHandle(handle));
}

static void test_handles(void **state)
{
    WHV_PARTITION_HANDLE p = ticking(private_memory), target = NULL;
    HANDLE handle, again;
    int fd, other;

    (void)state;
    assert_hr(WHvStartPartitionMigration(p, NULL), E_POINTER);
    assert_hr(WHvAcceptPartitionMigration(NULL, &target), HRESULT_FROM_WIN32(ERROR_INVALID_DATA));
    assert_hr(WHvAcceptPartitionMigration((HANDLE)p, &target), HRESULT_FROM_WIN32(ERROR_INVALID_DATA));
    assert_hr(BulkheadFdFromHandle(NULL, &fd), E_HANDLE);
    assert_hr(BulkheadFdFromHandle((HANDLE)p, &fd), E_HANDLE);
    assert_hr(BulkheadHandleFromFd(-1, &handle), E_INVALIDARG);
    assert_hr(BulkheadHandleFromFd(0, NULL), E_POINTER);
    assert_hr(BulkheadCloseHandle((HANDLE)p), E_HANDLE);

    assert_ok(WHvStartPartitionMigration(p, &handle));
    assert_hr(WHvAcceptPartitionMigration(handle, NULL), E_POINTER);
    assert_hr(WHvDeletePartition((WHV_PARTITION_HANDLE)handle), E_INVALIDARG);
    assert_ok(BulkheadFdFromHandle(handle, &fd));
    assert_hr(BulkheadFdFromHandle(handle, &other), E_HANDLE);
    assert_hr(WHvAcceptPartitionMigration(handle, &target), HRESULT_FROM_WIN32(ERROR_INVALID_DATA));
    assert_ok(BulkheadHandleFromFd(fd, &again));
    assert_ptr_not_equal(again, handle);
    assert_ok(WHvAcceptPartitionMigration(again, &target));
    assert_hr(BulkheadCloseHandle(again), E_HANDLE);            // it was closed by that
    assert_ok(WHvDeletePartition(target));
    assert_ok(WHvDeletePartition(p));

    // What is behind a descriptor is looked at when it is to be accepted.
    fd = memfd_create("nothing", MFD_CLOEXEC);
    assert_ok(BulkheadHandleFromFd(fd, &handle));
    assert_hr(WHvAcceptPartitionMigration(handle, &target), HRESULT_FROM_WIN32(ERROR_INVALID_DATA));
    assert_ok(BulkheadCloseHandle(handle));
}

// ---- What goes along ---------------------------------------------------------------------------------------------

static void test_properties(void **state)
{
    static const WHV_X64_CPUID_RESULT cpuid[] = {{.Function = 0x80000005, .Eax = 1, .Ebx = 2, .Ecx = 3, .Edx = 4}};
    WHV_PARTITION_HANDLE p = created(3);
    WHV_CPUID_OUTPUT output;
    UINT64 reference = 0;
    UINT32 value = 0;

    (void)state;
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidResultList, cpuid, sizeof(cpuid)));
    assert_ok(set32(p, WHvPartitionPropertyCodeCpuWeight, 77));
    assert_ok(set64(p, WHvPartitionPropertyCodeReferenceTime, 1ull << 50));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvCreateVirtualProcessor(p, 2, 0));
    p = moved(p);
    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &value, sizeof(value), NULL));
    assert_int_equal(value, 3);
    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeCpuWeight, &value, sizeof(value), NULL));
    assert_int_equal(value, 77);
    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeReferenceTime, &reference, sizeof(reference), NULL));
    assert_int_equal(reference, 1ull << 50);
    assert_hr(WHvGetVirtualProcessorCpuidOutput(p, 0, 0, 0, &output), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 2, 0x80000005, 0, &output));
    assert_int_equal(output.Ebx, 2);
    assert_hr(WHvCreateVirtualProcessor(p, 2, 0), WHV_E_VP_ALREADY_EXISTS);
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(WHvDeletePartition(p));
}

// Two guest ranges over one host range, a range in the middle of a mapping, one without Write, and one of which part is
// no memory.
static void test_shapes_of_memory(void **state)
{
    static const uint8_t write[] = {0xA2, 0x00, 0x20, 0xE6, 0x10, 0xA2, 0x00, 0xD0, 0xE6, 0x11};
    uint8_t *reserved = mmap(NULL, 2 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;
    VOID *at, *alias;
    UINT64 size;

    (void)state;
    assert_true(reserved != MAP_FAILED);
    assert_int_equal(mprotect(reserved, PAGE, PROT_READ | PROT_WRITE), 0);
    reserved[5] = 0x77;
    memset(private_memory, 0, SIZE);
    p = guest(private_memory, write, sizeof(write));                // mov [0x2000], al; out; mov [0xD000], al; out
    assert_ok(WHvMapGpaRange(p, private_memory + 0x2000, 0x100000, PAGE, RW));          // alias of page 2
    assert_ok(WHvMapGpaRange(p, private_memory + 0xD000, 0xD000, PAGE, RX));
    assert_ok(WHvMapGpaRange(p, reserved, 0x200000, SIZE, RW));
    assert_ok(WHvUnmapGpaRange(p, 0xE000, PAGE));
    set_register(p, 0, WHvX64RegisterRax, 0x5A);
    p = moved(p);
    munmap(reserved, 2 * SIZE);
    exit = run(p, 0);
    assert_int_equal(exit.IoPortAccess.PortNumber, 0x10);
    assert_ok(BulkheadFindGuestMemory(p, 0x2000, &at, &size));
    assert_ok(BulkheadFindGuestMemory(p, 0x100000, &alias, &size));
    assert_int_equal(size, PAGE);
    assert_ptr_equal(at, alias);
    assert_int_equal(load32(at, 0), 0x5A);
    assert_hr(BulkheadFindGuestMemory(p, 0xE000, &at, &size), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(BulkheadFindGuestMemory(p, 0x200000, &at, &size));
    assert_int_equal(load32(at, 4), 0x7700);
    set_register(p, 0, WHvX64RegisterRip, CODE + 5);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.MemoryAccess.Gpa, 0xD000);
    assert_int_equal(exit.MemoryAccess.AccessInfo.GpaUnmapped, 0);
    assert_ok(WHvDeletePartition(p));
}

// Pages that were written and not asked for are told at the destination, once; asked for at the source, they are not.
static void test_written_pages(void **state)
{
    const WHV_MAP_GPA_RANGE_FLAGS tracked = (WHV_MAP_GPA_RANGE_FLAGS)(RWX | WHvMapGpaRangeFlagTrackDirtyPages);
    WHV_PARTITION_HANDLE p = ticking(private_memory);
    UINT64 bitmap = 0;

    (void)state;
    assert_ok(WHvMapGpaRange(p, private_memory, 0, SIZE, tracked));
    tick(p);
    p = moved(p);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(p, 0, SIZE, &bitmap, sizeof(bitmap)));
    assert_int_equal(bitmap, 1u << 2);
    p = moved(p);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(p, 0, SIZE, &bitmap, sizeof(bitmap)));
    assert_int_equal(bitmap, 0);
    tick(p);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(p, 0, SIZE, &bitmap, sizeof(bitmap)));
    assert_int_equal(bitmap, 1u << 2);
    assert_ok(WHvDeletePartition(p));
}

// A cancel of the processor and an interrupt of its APIC that wait are there at the other end.
static void test_what_waits(void **state)
{
    static const uint8_t halt[] = {0xFB, 0xF4, 0xEB, 0xFD};         // sti; hlt; jmp back
    static const UINT32 enabled[] = {0xF0, 0x1FF, 0};
    WHV_INTERRUPT_CONTROL interrupt = {.Vector = 0x40};
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    p = created(1);
    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic));
    assert_ok(WHvSetupPartition(p));
    memset(private_memory, 0, SIZE);
    memcpy(private_memory + CODE, halt, sizeof(halt));
    memcpy(private_memory + 0x3000, "\xE6\x12\xF4", 3);            // the handler: out 0x12, al
    store32(private_memory, 0x40 * 4, 0x3000);
    assert_ok(WHvMapGpaRange(p, private_memory, 0, SIZE, RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    start_at(p, 0, CODE);
    set_register(p, 0, WHvX64RegisterRsp, 0x8000);
    set_apic(p, 0, enabled);
    assert_ok(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
    assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
    p = moved(p);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonCanceled);
    p = moved(p);
    assert_int_equal(run(p, 0).IoPortAccess.PortNumber, 0x12);
    assert_ok(WHvDeletePartition(p));
}

// The clocks go on where they stood, unless the length of the migration is to be seen.
static void test_clocks(void **state)
{
    static const uint8_t rdtsc[] = {0x0F, 0x31, 0xE6, 0x10};        // rdtsc; out 0x10, al
    WHV_PARTITION_HANDLE p;
    UINT64 before;

    (void)state;
    p = guest(private_memory, rdtsc, sizeof(rdtsc));
    (void)run(p, 0);
    for (int n = 0; n < 3; n++) {
        before = get_register(p, 0, WHvX64RegisterTsc);
        p = moved(p);
        assert_true(get_register(p, 0, WHvX64RegisterTsc) >= before);
        set_register(p, 0, WHvX64RegisterRip, CODE);
        (void)run(p, 0);
        assert_true((get_register(p, 0, WHvX64RegisterRdx) << 32 | get_register(p, 0, WHvX64RegisterRax)) > before);
    }
    assert_ok(WHvDeletePartition(p));
}

// Private memory that is copied in rounds while the guest writes to it arrives as it was at the last instruction.
static void test_rounds(void **state)
{
    // mov si, 0x3000; next: inc word [si]; add si, 0x102; cmp si, 0xF000; jb next; inc word [0x2000]; jmp from the start
    static const uint8_t busy[] = {0xBE, 0x00, 0x30, 0xFF, 0x04, 0x81, 0xC6, 0x02, 0x01, 0x81, 0xFE, 0x00, 0xF0,
                                   0x72, 0xF4, 0xFF, 0x06, 0x00, 0x20, 0xEB, 0xEB};
    const WHV_MAP_GPA_RANGE_FLAGS tracked = (WHV_MAP_GPA_RANGE_FLAGS)(RWX | WHvMapGpaRangeFlagTrackDirtyPages);
    static uint8_t untracked[SIZE] __attribute__((aligned(PAGE)));
    WHV_PARTITION_HANDLE p, target;
    struct runner runner;
    UINT64 copied = 0, size, bitmap = 0;
    HANDLE handle;
    VOID *at;

    (void)state;
    for (int round = 0; round < 5; round++) {
        memset(private_memory, round, SIZE);
        p = guest(private_memory, busy, sizeof(busy));
        assert_ok(WHvMapGpaRange(p, private_memory, 0, SIZE, tracked));
        assert_ok(WHvMapGpaRange(p, untracked, 0x100000, SIZE, RW));
        store32(private_memory, TICKS, 0);
        start(&runner, p, 0);
        EVENTUALLY(load32(private_memory, TICKS) != 0);
        assert_ok(BulkheadPrecopyMigration(p, &copied));
        assert_int_equal(copied, SIZE);
        for (int n = 0; n < 20; n++) {
            assert_ok(BulkheadPrecopyMigration(p, &copied));
            assert_in_range(copied, 0, SIZE - PAGE);        // never the whole again
        }
        store32(private_memory, 0xF800, 0x12345678);         // the program's own: the guest does not write there
        assert_ok(BulkheadMarkGuestMemory(p, 0xF800, 4));
        untracked[77] = (uint8_t)(round + 1);
        assert_ok(BulkheadPrecopyMigration(p, NULL));
        cancel(&runner);
        // The owner's marks are not touched: the guest has written to these pages.
        if (round == 4) {
            assert_ok(WHvQueryGpaRangeDirtyBitmap(p, 0, SIZE, &bitmap, sizeof(bitmap)));
            assert_int_equal(bitmap & 0x7FFC, 0x7FFC);
        }
        assert_ok(WHvStartPartitionMigration(p, &handle));
        assert_ok(WHvAcceptPartitionMigration(handle, &target));
        assert_ok(WHvCompletePartitionMigration(p));
        assert_ok(WHvSetupPartition(target));
        assert_ok(BulkheadFindGuestMemory(target, 0, &at, &size));
        assert_int_equal(size, SIZE);
        assert_memory_equal(at, private_memory, SIZE);
        assert_ok(BulkheadFindGuestMemory(target, 0x100000, &at, &size));
        assert_memory_equal(at, untracked, SIZE);
        assert_ok(WHvDeletePartition(p));
        assert_ok(WHvDeletePartition(target));
    }
}

// A map that has changed since, and a migration that was canceled, begin again.
static void test_rounds_that_are_lost(void **state)
{
    const WHV_MAP_GPA_RANGE_FLAGS tracked = (WHV_MAP_GPA_RANGE_FLAGS)(RWX | WHvMapGpaRangeFlagTrackDirtyPages);
    WHV_PARTITION_HANDLE p = ticking(private_memory);
    UINT64 copied;
    HANDLE handle;

    (void)state;
    assert_ok(WHvMapGpaRange(p, private_memory, 0, SIZE, tracked));
    assert_ok(BulkheadPrecopyMigration(p, &copied));
    assert_int_equal(copied, SIZE);
    assert_ok(WHvUnmapGpaRange(p, 0xE000, PAGE));
    tick(p);
    assert_ok(BulkheadPrecopyMigration(p, &copied));
    assert_int_equal(copied, SIZE - PAGE);
    assert_ok(WHvStartPartitionMigration(p, &handle));
    assert_ok(WHvCancelPartitionMigration(p));
    assert_ok(BulkheadCloseHandle(handle));
    tick(p);
    assert_ok(BulkheadPrecopyMigration(p, &copied));
    assert_int_equal(copied, SIZE - PAGE);
    assert_hr(BulkheadMarkGuestMemory(p, 1ull << 60, 1), E_INVALIDARG);
    assert_hr(BulkheadMarkGuestMemory(p, 0, UINT64_MAX), E_INVALIDARG);
    assert_ok(BulkheadMarkGuestMemory(p, 0, 1ull << 40));
    p = moved(p);
    tick(p);
    assert_int_equal(load32(private_memory, TICKS), 4);
    assert_ok(WHvDeletePartition(p));
}

// A hundred times there and back leave nothing behind.
static void test_nothing_is_left(void **state)
{
    WHV_PARTITION_HANDLE p = ticking(private_memory);
    unsigned int open = 0, mapped = 0;

    (void)state;
    for (int n = 0; n < 120; n++) {
        if (n == 20) {
            open = descriptors();
            mapped = mappings();
        }
        p = moved(p);
        tick(p);
    }
    assert_int_equal(descriptors(), open);
    assert_in_range(mappings(), 0, mapped + MAPPINGS_SLACK);
    assert_int_equal(ticks_of(p), 122);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_private_memory),
        cmocka_unit_test(test_shared_memory),
        cmocka_unit_test(test_a_processor_runs),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_delete),
        cmocka_unit_test(test_handles),
        cmocka_unit_test(test_properties),
        cmocka_unit_test(test_shapes_of_memory),
        cmocka_unit_test(test_written_pages),
        cmocka_unit_test(test_what_waits),
        cmocka_unit_test(test_clocks),
        cmocka_unit_test(test_rounds),
        cmocka_unit_test(test_rounds_that_are_lost),
        cmocka_unit_test(test_nothing_is_left),
    };

    return engine_run_tests(tests);
}
