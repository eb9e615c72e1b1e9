// Migration without memory: the Nth allocation of each call fails, until it succeeds. A call that fails has the
// documented error, leaves nothing behind, and can be made again.
#include <stdlib.h>
#include <string.h>

#include "unit.h"

#include "bulkhead/bulkhead.h"
#include "engine/soft/soft.h"

const struct engine *const engines[] = {&engine_soft, NULL};

#define PAGE 4096u
#define SIZE (16 * PAGE)

static uint8_t memory[SIZE] __attribute__((aligned(PAGE)));

static int until_failure = -1;          // allocations that still succeed; -1: all of them

static bool fails(void)
{
    return until_failure == 0 || (until_failure > 0 && --until_failure < 0);
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);

void *__wrap_malloc(size_t size) { return fails() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size) { return fails() ? NULL : __real_calloc(count, size); }
void *__wrap_realloc(void *old, size_t size) { return fails() ? NULL : __real_realloc(old, size); }

static WHV_PARTITION_HANDLE partition(void)
{
    static const WHV_X64_CPUID_RESULT cpuid[] = {{.Function = 0x80000005, .Eax = 1}};
    UINT32 count = 1;
    WHV_PARTITION_HANDLE p;

    assert_ok(WHvCreatePartition(&p));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count)));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidResultList, cpuid, sizeof(cpuid)));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvMapGpaRange(p, memory, 0, SIZE,
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagTrackDirtyPages));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    return p;
}

// The call with its Nth allocation failing, N from 0 on; `undo` follows a failure. How many failed.
#define SWEEP(call, undo)                                                                                    \
    ({                                                                                                       \
        HRESULT hr_;                                                                                         \
        unsigned int n_ = 0, open_ = open_descriptors();                                                          \
        for (;; n_++) {                                                                                      \
            until_failure = (int)n_;                                                                         \
            hr_ = (call);                                                                                    \
            until_failure = -1;                                                                              \
            if (SUCCEEDED(hr_))                                                                              \
                break;                                                                                       \
            assert_hr(hr_, E_OUTOFMEMORY);                                                                   \
            undo;                                                                                            \
            assert_int_equal(open_descriptors(), open_);                                                          \
            assert_true(n_ < 1000);                                                                          \
        }                                                                                                    \
        n_;                                                                                                  \
    })

// Whoever could not accept may have the message no more: the source takes the partition back, and offers it again.
static void offer_again(WHV_PARTITION_HANDLE p, HANDLE *handle)
{
    WHV_PARTITION_HANDLE target;
    HRESULT hr = WHvAcceptPartitionMigration(*handle, &target);

    if (SUCCEEDED(hr)) {
        assert_ok(WHvDeletePartition(target));
    } else {
        assert_hr(hr, HRESULT_FROM_WIN32(ERROR_INVALID_DATA));
        assert_ok(BulkheadCloseHandle(*handle));
    }
    assert_ok(WHvCancelPartitionMigration(p));
    assert_ok(WHvStartPartitionMigration(p, handle));
}

static void test_no_memory(void **state)
{
    const unsigned int open = open_descriptors();
    WHV_PARTITION_HANDLE p = partition(), target = NULL;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    unsigned int failed[4];
    HANDLE handle;

    (void)state;
    // What was copied by then is kept, in a file.
    failed[0] = SWEEP(BulkheadPrecopyMigration(p, NULL), assert_in_range(open_ = open_descriptors(), open, open + 1));
    failed[1] = SWEEP(WHvStartPartitionMigration(p, &handle), (void)0);
    failed[2] = SWEEP(WHvAcceptPartitionMigration(handle, &target), offer_again(p, &handle));
    assert_ok(WHvCompletePartitionMigration(p));
    failed[3] = SWEEP(WHvSetupPartition(target), (void)0);
    for (unsigned int n = 0; n < 4; n++)
        assert_true(failed[n] > 2);
    assert_ok(WHvCancelRunVirtualProcessor(target, 0, 0));
    assert_ok(WHvRunVirtualProcessor(target, 0, &exit, sizeof(exit)));
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonCanceled);
    assert_ok(WHvDeletePartition(p));
    assert_ok(WHvDeletePartition(target));
    assert_int_equal(open_descriptors(), open);
    print_message("allocations: rounds %u, start %u, accept %u, set-up %u\n", failed[0], failed[1], failed[2], failed[3]);
}

static void test_state_in_memory(void **state)
{
    static uint8_t buffer[65536];
    WHV_PARTITION_HANDLE p = partition();
    UINT32 size;

    (void)state;
    assert_true(SWEEP(BulkheadSavePartitionState(p, buffer, sizeof(buffer), &size), (void)0) > 0);
    assert_true(SWEEP(BulkheadLoadPartitionState(p, buffer, size, FALSE), (void)0) > 0);
    assert_hr(BulkheadSavePartitionState(p, NULL, 0, &size), WHV_E_INSUFFICIENT_BUFFER);
    assert_hr(BulkheadLoadPartitionState(p, NULL, size, FALSE), E_POINTER);
    for (UINT32 n = 0; n < size; n += 1 + n / 8)
        assert_hr(BulkheadLoadPartitionState(p, buffer, n, FALSE), E_INVALIDARG);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_state_in_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
