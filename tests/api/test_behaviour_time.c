// The clocks: at which rate they run, and that they run.
//
// Rates are compared between two clocks over the same stretch of time, long enough for a tenth of a
// difference to show.
#include "modes.h"
#include "threads.h"

#include <time.h>

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

static const uint8_t rdtsc[] = {0x0F, 0x31, 0xE6, 0x10};       // rdtsc; out 0x10, al

static UINT64 now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (UINT64)t.tv_sec * 1000000000 + (UINT64)t.tv_nsec;
}

static UINT64 guest_tsc(WHV_PARTITION_HANDLE p)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    set_register(p, 0, WHvX64RegisterRip, CODE);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    return get_register(p, 0, WHvX64RegisterRdx) << 32 | exit.IoPortAccess.Rax;
}

static UINT64 clock_property(WHV_PARTITION_HANDLE p, WHV_PARTITION_PROPERTY_CODE code)
{
    UINT64 hz = 0;

    assert_ok(WHvGetPartitionProperty(p, code, &hz, sizeof(hz), NULL));
    return hz;
}

static WHV_PARTITION_HANDLE begin(WHV_PARTITION_HANDLE p)
{
    assert_ok(WHvSetupPartition(p));
    memcpy(memory + CODE, rdtsc, sizeof(rdtsc));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    start_at(p, 0, CODE);
    return p;
}

// Ticks of the guest's TSC over at least 50 ms, bracketed by the host's clock on both sides.
static void assert_rate(WHV_PARTITION_HANDLE p, UINT64 hz)
{
    UINT64 before = now_ns(), first, last, after, inner, outer;

    first = guest_tsc(p);
    inner = now_ns();
    do
        outer = now_ns();
    while (outer - inner < 50000000);
    last = guest_tsc(p);
    after = now_ns();
    assert_true((double)(last - first) >= (double)(outer - inner) * 1e-9 * (double)hz * 0.99);
    assert_true((double)(last - first) <= (double)(after - before) * 1e-9 * (double)hz * 1.01);
}

// The property's default is the capability's frequency, and the guest's TSC runs at it; another frequency is
// the guest's too, or refused.
static void test_processor_clock(void **state)
{
    static const WHV_REGISTER_NAME tsc_name = WHvX64RegisterTsc;
    static const UINT64 percents[] = {100, 50, 250};
    WHV_REGISTER_VALUE tsc;
    WHV_CAPABILITY capability;

    (void)state;
    assert_ok(
        WHvGetCapability(WHvCapabilityCodeProcessorClockFrequency, &capability, sizeof(capability), NULL));
    for (int i = 0; i < 3; i++) {
        UINT64 hz = capability.ProcessorClockFrequency * percents[i] / 100;
        WHV_PARTITION_HANDLE p = created(1);
        HRESULT hr = S_OK;

        assert_int_equal(clock_property(p, WHvPartitionPropertyCodeProcessorClockFrequency),
                         capability.ProcessorClockFrequency);
        if (i > 0)
            hr = set64(p, WHvPartitionPropertyCodeProcessorClockFrequency, hz);
        if (FAILED(hr)) {
            print_message("refused as documented: another processor clock\n");
            assert_hr(hr, E_INVALIDARG);
            assert_int_equal(clock_property(p, WHvPartitionPropertyCodeProcessorClockFrequency),
                             capability.ProcessorClockFrequency);
            assert_ok(WHvDeletePartition(p));
            continue;
        }
        begin(p);
        assert_int_equal(clock_property(p, WHvPartitionPropertyCodeProcessorClockFrequency), hz);
        assert_rate(p, hz);
        // Also when the guest or the client has set it.
        memset(&tsc, 0, sizeof(tsc));
        tsc.Reg64 = 1ull << 50;
        hr = WHvSetVirtualProcessorRegisters(p, 0, &tsc_name, 1, &tsc);
        if (hr == E_NOTIMPL) {
            print_message("refused as documented: another value of the time-stamp counter\n");
        } else {
            assert_ok(hr);
            assert_true(guest_tsc(p) >= 1ull << 50);
        }
        assert_rate(p, hz);
        assert_ok(WHvDeletePartition(p));
    }
}

static UINT64 reference_time(WHV_PARTITION_HANDLE p)
{
    return clock_property(p, WHvPartitionPropertyCodeReferenceTime);
}

// Both clocks run while the processor does not, once it has run.
static void test_runs_on(void **state)
{
    WHV_PARTITION_HANDLE p = begin(created(1));
    UINT64 first, reference;

    (void)state;
    first = guest_tsc(p);
    reference = reference_time(p);
    assert_true(get_register(p, 0, WHvX64RegisterTsc) > first);
    assert_true(guest_tsc(p) > first);
    while (reference_time(p) == reference)
        ;
    assert_true(reference_time(p) > reference);
    assert_ok(WHvDeletePartition(p));
}

// Reference time is 0 until the first run, or what it was set to before set-up.
static void test_reference_time(void **state)
{
    WHV_PARTITION_HANDLE p = created(1);

    (void)state;
    assert_int_equal(reference_time(p), 0);
    begin(p);
    assert_int_equal(reference_time(p), 0);
    assert_int_equal(reference_time(p), 0);
    (void)guest_tsc(p);
    while (reference_time(p) == 0)
        ;
    assert_ok(WHvDeletePartition(p));

    p = created(1);
    assert_ok(set64(p, WHvPartitionPropertyCodeReferenceTime, 1ull << 40));
    begin(p);
    assert_int_equal(reference_time(p), 1ull << 40);
    (void)guest_tsc(p);
    assert_in_range(reference_time(p), 1ull << 40, (1ull << 40) + 600000000ull);
    assert_ok(WHvDeletePartition(p));
}

// Time that is suspended stands still for every reader, and goes on where it stood: by the call, or with the next run.
static void test_suspended(void **state)
{
    WHV_PARTITION_HANDLE p = begin(created(1));
    UINT64 tsc, reference, before;
    HRESULT hr;

    (void)state;
    before = guest_tsc(p);
    hr = WHvSuspendPartitionTime(p);
    if (hr == E_NOTIMPL) {
        print_message("refused as documented: time that stands still\n");
        assert_true(guest_tsc(p) > before);
        assert_ok(WHvResumePartitionTime(p));
        assert_ok(WHvDeletePartition(p));
        return;
    }
    assert_ok(hr);
    tsc = get_register(p, 0, WHvX64RegisterTsc);
    reference = reference_time(p);
    assert_true(tsc > before);
    for (UINT64 from = now_ns(); now_ns() - from < 2000000;)
        ;
    assert_int_equal(get_register(p, 0, WHvX64RegisterTsc), tsc);
    assert_int_equal(reference_time(p), reference);
    assert_ok(WHvSuspendPartitionTime(p));              // it stands already
    assert_int_equal(get_register(p, 0, WHvX64RegisterTsc), tsc);
    assert_ok(WHvResumePartitionTime(p));
    while (get_register(p, 0, WHvX64RegisterTsc) == tsc || reference_time(p) == reference)
        ;
    assert_ok(WHvResumePartitionTime(p));               // it goes on already
    assert_ok(WHvSuspendPartitionTime(p));
    tsc = get_register(p, 0, WHvX64RegisterTsc);
    assert_true(guest_tsc(p) > tsc);                    // the run has resumed it
    tsc = get_register(p, 0, WHvX64RegisterTsc);
    assert_true(get_register(p, 0, WHvX64RegisterTsc) > tsc);
    assert_ok(WHvDeletePartition(p));
}

static void test_suspend_refused(void **state)
{
    static const uint8_t spin[] = {0xC6, 0x06, 0x00, 0x20, 0x01, 0xEB, 0xFE};       // mov byte [0x2000], 1; jmp $
    WHV_PARTITION_HANDLE p = created(1);
    struct runner runner;

    (void)state;
    assert_hr(WHvSuspendPartitionTime(NULL), E_INVALIDARG);
    assert_hr(WHvResumePartitionTime(NULL), E_INVALIDARG);
    assert_hr(WHvSuspendPartitionTime(p), INVALID_STATE);
    assert_hr(WHvResumePartitionTime(p), INVALID_STATE);
    assert_ok(WHvDeletePartition(p));
    memory[0x2000] = 0;
    p = guest(memory, spin, sizeof(spin));
    start(&runner, p, 0);
    EVENTUALLY(load32(memory, 0x2000) & 1);
    assert_hr(WHvSuspendPartitionTime(p), INVALID_STATE);
    assert_ok(WHvResumePartitionTime(p));
    cancel(&runner);
    assert_ok(WHvDeletePartition(p));
}

// The local APIC's timer counts down from its greatest value, divided by 1, at the interrupt clock.
static void test_interrupt_clock(void **state)
{
    static const UINT64 frequencies[] = {0, 100000000, 1000000000};
    WHV_CAPABILITY capability;

    (void)state;
    NEEDS(engine_has_apic());
    assert_ok(
        WHvGetCapability(WHvCapabilityCodeInterruptClockFrequency, &capability, sizeof(capability), NULL));
    assert_int_equal(capability.InterruptClockFrequency, 200000000);
    for (int i = 0; i < 3; i++) {
        UINT64 hz = frequencies[i] ? frequencies[i] : capability.InterruptClockFrequency;
        UINT64 before, after, inner, outer, first, last;
        WHV_PARTITION_HANDLE p = created(1);
        HRESULT hr = S_OK;

        assert_ok(
            set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic));
        assert_int_equal(clock_property(p, WHvPartitionPropertyCodeInterruptClockFrequency), 200000000);
        if (frequencies[i])
            hr = set64(p, WHvPartitionPropertyCodeInterruptClockFrequency, hz);
        if (FAILED(hr)) {
            print_message("refused as documented: another interrupt clock\n");
            assert_hr(hr, E_INVALIDARG);
            assert_ok(WHvDeletePartition(p));
            continue;
        }
        begin(p);
        assert_ok(WHvResumePartitionTime(p));                           // it stands until the first run
        set_register(p, 0, WHvX64RegisterApicSpurious, 0x1FF);
        set_register(p, 0, WHvX64RegisterApicLvtTimer, 0x10040);        // masked, one-shot
        set_register(p, 0, WHvX64RegisterApicDivide, 0xB);              // by 1
        before = now_ns();
        set_register(p, 0, WHvX64RegisterApicInitCount, UINT32_MAX);
        first = get_register(p, 0, WHvX64RegisterApicCurrentCount);
        inner = now_ns();
        do
            outer = now_ns();
        while (outer - inner < 50000000);
        last = get_register(p, 0, WHvX64RegisterApicCurrentCount);
        after = now_ns();
        assert_true((double)(first - last) >= (double)(outer - inner) * 1e-9 * (double)hz * 0.99);
        assert_true((double)(first - last) <= (double)(after - before) * 1e-9 * (double)hz * 1.01);
        assert_ok(WHvDeletePartition(p));
    }
}

// What no clock can be is refused, and changes nothing.
static void test_refused(void **state)
{
    WHV_PARTITION_HANDLE p = created(1);
    UINT64 hz = clock_property(p, WHvPartitionPropertyCodeProcessorClockFrequency);

    (void)state;
    assert_hr(set64(p, WHvPartitionPropertyCodeProcessorClockFrequency, 0), E_INVALIDARG);
    assert_hr(set64(p, WHvPartitionPropertyCodeProcessorClockFrequency, UINT64_MAX), E_INVALIDARG);
    assert_hr(set64(p, WHvPartitionPropertyCodeInterruptClockFrequency, 0), E_INVALIDARG);
    assert_int_equal(clock_property(p, WHvPartitionPropertyCodeProcessorClockFrequency), hz);
    assert_int_equal(clock_property(p, WHvPartitionPropertyCodeInterruptClockFrequency), 200000000);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_processor_clock),
        cmocka_unit_test(test_runs_on),
        cmocka_unit_test(test_reference_time),
        cmocka_unit_test(test_suspended),
        cmocka_unit_test(test_suspend_refused),
        cmocka_unit_test(test_interrupt_clock),
        cmocka_unit_test(test_refused),
    };

    return engine_run_tests(tests);
}
