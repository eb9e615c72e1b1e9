// What each call answers in each state, as the table of migration_states.def says.
#include "api.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
static uint8_t saved[65536];
static UINT32 saved_size;

static const uint8_t code[] = {0xE6, 0x10};         // out 0x10, al

enum state { CREATED, SET_UP, MIGRATING_OUT, GONE, MIGRATING_IN, STATES };

// Those that a partition under test comes with, to be deleted with it.
static WHV_PARTITION_HANDLE other;
static HANDLE handle;

static WHV_PARTITION_HANDLE in_state(enum state state)
{
    WHV_PARTITION_HANDLE p, target;

    other = NULL;
    handle = NULL;
    if (state == CREATED)
        return created(2);
    p = set_up(2);
    memcpy(memory + CODE, code, sizeof(code));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvMapGpaRange(p, memory, 0x100000, PAGE,
                             (WHV_MAP_GPA_RANGE_FLAGS)(RW | WHvMapGpaRangeFlagTrackDirtyPages)));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    start_at(p, 0, CODE);
    if (state == SET_UP)
        return p;
    assert_ok(WHvStartPartitionMigration(p, &handle));
    assert_ok(WHvAcceptPartitionMigration(handle, &target));
    handle = NULL;
    if (state == MIGRATING_IN) {
        other = p;
        return target;
    }
    other = target;
    if (state == GONE)
        assert_ok(WHvCompletePartitionMigration(p));
    return p;
}

static HRESULT get_property(WHV_PARTITION_HANDLE p)
{
    UINT32 count;

    return WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count), NULL);
}

static HRESULT set_property(WHV_PARTITION_HANDLE p)
{
    return set64(p, WHvPartitionPropertyCodeExtendedVmExits, 0);
}

// An engine may have clocks that cannot be stopped: it says so, and that is no answer of a state.
static HRESULT suspend(WHV_PARTITION_HANDLE p)
{
    HRESULT hr;

    if (WHvResumePartitionTime(p) == S_OK) {
        hr = WHvSuspendPartitionTime(p);
        return hr == E_NOTIMPL ? S_OK : hr;
    }
    return WHvSuspendPartitionTime(p);
}

static HRESULT start_migration(WHV_PARTITION_HANDLE p)
{
    return WHvStartPartitionMigration(p, &handle);
}

static HRESULT map(WHV_PARTITION_HANDLE p)
{
    return WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX);
}

static HRESULT translate(WHV_PARTITION_HANDLE p)
{
    WHV_TRANSLATE_GVA_RESULT result;
    WHV_GUEST_PHYSICAL_ADDRESS gpa;

    return WHvTranslateGva(p, 0, 0, WHvTranslateGvaFlagValidateRead, &result, &gpa);
}

static HRESULT run_once(WHV_PARTITION_HANDLE p)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    return WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit));
}

static HRESULT get_rax(WHV_PARTITION_HANDLE p)
{
    const WHV_REGISTER_NAME name = WHvX64RegisterRax;
    WHV_REGISTER_VALUE value;

    return WHvGetVirtualProcessorRegisters(p, 0, &name, 1, &value);
}

static HRESULT set_rax(WHV_PARTITION_HANDLE p)
{
    const WHV_REGISTER_NAME name = WHvX64RegisterRax;
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    return WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value);
}

static HRESULT cpuid(WHV_PARTITION_HANDLE p)
{
    WHV_CPUID_OUTPUT output;

    return WHvGetVirtualProcessorCpuidOutput(p, 0, 0, 0, &output);
}

static uint8_t xsave[16384];
static UINT32 xsave_size;

static HRESULT get_xsave(WHV_PARTITION_HANDLE p)
{
    return WHvGetVirtualProcessorState(p, 0, WHvVirtualProcessorStateTypeXsaveState, xsave, sizeof(xsave), &xsave_size);
}

static HRESULT set_xsave(WHV_PARTITION_HANDLE p)
{
    return WHvSetVirtualProcessorState(p, 0, WHvVirtualProcessorStateTypeXsaveState, xsave, xsave_size);
}

static HRESULT counters(WHV_PARTITION_HANDLE p)
{
    WHV_PROCESSOR_RUNTIME_COUNTERS runtime;

    return WHvGetVirtualProcessorCounters(p, 0, WHvProcessorCounterSetRuntime, &runtime, sizeof(runtime), NULL);
}

static HRESULT memory_counters(WHV_PARTITION_HANDLE p)
{
    WHV_PARTITION_MEMORY_COUNTERS pages;

    return WHvGetPartitionCounters(p, WHvPartitionCounterSetMemory, &pages, sizeof(pages), NULL);
}

static HRESULT written(WHV_PARTITION_HANDLE p)
{
    UINT64 bitmap;

    return WHvQueryGpaRangeDirtyBitmap(p, 0x100000, PAGE, &bitmap, sizeof(bitmap));
}

static HRESULT report(WHV_PARTITION_HANDLE p)
{
    char text[1024];

    return BulkheadGetEngineReport(p, text, sizeof(text), NULL);
}

static HRESULT find_memory(WHV_PARTITION_HANDLE p)
{
    VOID *at;
    UINT64 size;

    return BulkheadFindGuestMemory(p, CODE, &at, &size);
}

static HRESULT save(WHV_PARTITION_HANDLE p)
{
    UINT32 written;

    return BulkheadSavePartitionState(p, saved, sizeof(saved), &written);
}

static HRESULT load(WHV_PARTITION_HANDLE p)
{
    return BulkheadLoadPartitionState(p, saved, saved_size, FALSE);
}

struct call {
    const char *name;
    HRESULT (*make)(WHV_PARTITION_HANDLE p);
    HRESULT answers[STATES];
};

#define OK S_OK
#define STATE INVALID_STATE
#define CALL(name, expression, created, set_up, out, gone, in)                                               \
    static HRESULT make_##name(WHV_PARTITION_HANDLE p) { return expression; }
#include "migration_states.def"
#define CALL(name, expression, created, set_up, out, gone, in)                                               \
    {#name, make_##name, {created, set_up, out, gone, in}},
static const struct call calls[] = {
#include "migration_states.def"
};

static void test_every_call_in_every_state(void **state)
{
    WHV_PARTITION_HANDLE p = in_state(SET_UP);

    (void)state;
    assert_ok(BulkheadSavePartitionState(p, saved, sizeof(saved), &saved_size));
    assert_ok(get_xsave(p));
    assert_ok(WHvDeletePartition(p));
    for (unsigned int n = 0; n < sizeof(calls) / sizeof(calls[0]); n++) {
        for (enum state s = CREATED; s < STATES; s++) {
            HRESULT hr;

            p = in_state(s);
            hr = calls[n].make(p);
            if (hr != calls[n].answers[s])
                print_message("%s in state %d: 0x%08x\n", calls[n].name, (int)s, (unsigned int)hr);
            assert_hr(hr, calls[n].answers[s]);
            if (calls[n].make != make_BulkheadGetEngineReport)       // which speaks of no partition then
                assert_hr(calls[n].make(NULL), E_INVALIDARG);
            assert_hr(WHvDeletePartition(p), calls[n].make == make_WHvDeletePartition ? E_INVALIDARG : S_OK);
            assert_hr(calls[n].make(p), E_INVALIDARG);
            if (other)
                assert_ok(WHvDeletePartition(other));
            if (handle)
                assert_ok(BulkheadCloseHandle(handle));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call_in_every_state),
    };

    return engine_run_tests(tests);
}
