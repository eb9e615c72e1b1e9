// Time that stands still on the kvm engine, over a stand-in for a kernel on hardware and a host clock that the test
// moves. What a client sees of it is what it sees of the soft engine, step by step.
//
// This file's os_tsc and os_tsc_hz take the place of the library's; the stand-in's clocks are the same.
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "WinHvPlatform.h"
#include "engine/kvm/kvm.h"
#include "engine/soft/soft.h"
#include "fake_kvm.h"
#include "fake_kvm_time.h"
#include "os/tsc.h"

#define HZ (FAKE_KHZ * 1000ull)
#define HOUR (3600 * HZ)
#define BUS_HZ (HZ / FAKE_BUS_TICKS)
#define PAGE 4096u
#define CODE 0x1000u
#define OUT_ROW .guest = fake_port, .port = 0x10, .size = 1, .length = 2

// LVT Timer.
#define VECTOR 0x40u            // in WHvX64RegisterApicIrr2, bit 0
#define MASKED 0x10000u
#define PERIODIC 0x20000u
#define DEADLINE 0x40000u

const struct engine *const engines[] = {&engine_kvm, &engine_soft, NULL};

static uint64_t host;           // what the host's counter says

uint64_t os_tsc(void) { return host; }
uint64_t os_tsc_hz(void) { return HZ; }

enum { KVM, SOFT, PAIR };
static WHV_PARTITION_HANDLE pair[PAIR];
static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
static UINT32 processors;       // that both have
static bool stands;             // time does, and KVM has no timer to fire
static unsigned handed_over;    // by the next run of the kvm engine's
static bool inside_run;         // a test that fails there leaves a partition that cannot be deleted

// ---- Partitions ----------------------------------------------------------------------------------------------------

static void set_of(WHV_PARTITION_HANDLE p, UINT32 vp, WHV_REGISTER_NAME name, UINT64 bits)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof value);
    value.Reg64 = bits;
    assert_ok(WHvSetVirtualProcessorRegisters(p, vp, &name, 1, &value));
}

static UINT64 get_of(WHV_PARTITION_HANDLE p, UINT32 vp, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof value);
    assert_ok(WHvGetVirtualProcessorRegisters(p, vp, &name, 1, &value));
    return value.Reg64;
}

static void set(WHV_REGISTER_NAME name, UINT64 bits)
{
    for (unsigned n = 0; n < PAIR; n++)
        set_of(pair[n], 0, name, bits);
}

static UINT64 get_from(UINT32 vp, WHV_REGISTER_NAME name)
{
    UINT64 value = get_of(pair[KVM], vp, name), soft = get_of(pair[SOFT], vp, name);

    if (value != soft)
        fail_msg("processor %u, register 0x%x: kvm %llx, soft %llx", vp, name, (unsigned long long)value,
                 (unsigned long long)soft);
    return value;
}

static UINT64 get(WHV_REGISTER_NAME name) { return get_from(0, name); }

static UINT64 reference_time(WHV_PARTITION_HANDLE p)
{
    UINT64 time;

    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeReferenceTime, &time, sizeof time, NULL));
    return time;
}

// A real-mode processor on a row of OUTs, with a NOP behind each so that none is taken for another.
static void place(WHV_PARTITION_HANDLE p, UINT32 vp)
{
    const WHV_REGISTER_NAME name = WHvX64RegisterCs;
    WHV_REGISTER_VALUE cs;

    memset(&cs, 0, sizeof cs);
    cs.Segment = (WHV_X64_SEGMENT_REGISTER){.Limit = 0xFFFF, .Attributes = 0x9B};
    assert_ok(WHvSetVirtualProcessorRegisters(p, vp, &name, 1, &cs));
    set_of(p, vp, WHvX64RegisterRip, CODE);
    set_of(p, vp, WHvX64RegisterApicSpurious, 0x1FF);
    handed_over = ALL;
}

static WHV_PARTITION_HANDLE partition(const char *engine, UINT32 count)
{
    WHV_X64_LOCAL_APIC_EMULATION_MODE mode = WHvX64LocalApicEmulationModeXApic;
    WHV_PARTITION_HANDLE p;

    setenv("BULKHEAD_ENGINE", engine, 1);
    assert_ok(WHvCreatePartition(&p));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &count, sizeof count));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeLocalApicEmulationMode, &mode, sizeof mode));
    assert_ok(WHvSetupPartition(p));
    for (unsigned n = 0; n < PAGE; n += 3)
        memcpy(memory + CODE + n, (const uint8_t[]){0xE6, 0x10, 0x90}, 3);      // out 0x10, al; nop
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof memory,
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    // The stand-in runs the processor that was created last.
    for (UINT32 vp = count; vp-- > 0;)
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
    place(p, 0);
    return p;
}

static void begin_with(UINT32 count)
{
    processors = count;
    stands = true;
    pair[SOFT] = partition("soft", count);
    pair[KVM] = partition("kvm", count);
}

static int begin(void **state)
{
    (void)state;
    host = 123456789;
    begin_with(1);
    return 0;
}

static int end(void **state)
{
    (void)state;
    fake_forget();
    (void)fake_fail_end();
    for (unsigned n = 0; n < PAIR; n++) {
        if (pair[n] && !(n == KVM && inside_run))
            (void)WHvDeletePartition(pair[n]);
        pair[n] = NULL;
    }
    inside_run = false;
    fake_time_on_processor(false);
    return 0;
}

#define BOTH(call, ...)                                     \
    do {                                                    \
        for (unsigned n_ = 0; n_ < PAIR; n_++)              \
            assert_ok(call(pair[n_], ##__VA_ARGS__));       \
    } while (0)

// ---- Looking -------------------------------------------------------------------------------------------------------

static void check_same(void)
{
    static const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterTsc, WHvX64RegisterTscAdjust, WHvX64RegisterTscDeadline, WHvX64RegisterApicLvtTimer,
        WHvX64RegisterApicInitCount, WHvX64RegisterApicCurrentCount, WHvX64RegisterApicDivide,
    };

    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
        for (UINT32 vp = 0; vp < processors; vp++)
            (void)get_from(vp, names[n]);
    assert_int_equal(reference_time(pair[KVM]), reference_time(pair[SOFT]));
}

static HRESULT run_one(WHV_PARTITION_HANDLE p)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;
    HRESULT hr = WHvRunVirtualProcessor(p, 0, &exit, sizeof exit);

    if (FAILED(hr))
        return hr;
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    set_of(p, 0, WHvX64RegisterRip, exit.VpContext.Rip + 2);
    return hr;
}

// To the next OUT, on the kvm engine.
static HRESULT run_kvm(void)
{
    HRESULT hr;

    EXPECT({handed_over, .ahead = handed_over != ALL, OUT_ROW});
    inside_run = true;
    hr = run_one(pair[KVM]);
    inside_run = false;
    if (FAILED(hr)) {
        fake_forget();
        return hr;
    }
    fake_done();
    handed_over = REGS;
    return hr;
}

static void run(void)
{
    assert_false(stands && fake_time_armed());
    stands = false;
    assert_ok(run_kvm());
    assert_ok(run_one(pair[SOFT]));
    check_same();
}

// Whether the timer's interrupt has been requested; the guest takes it. (A client that sets the APIC's registers would
// have KVM look at a timer that has run out once more.)
static bool requested(void)
{
    if (!get(WHvX64RegisterApicIrr2))
        return false;
    fake_time_take(VECTOR);
    set_of(pair[SOFT], 0, WHvX64RegisterApicIrr2, 0);
    return true;
}

static void suspend(void)
{
    BOTH(WHvSuspendPartitionTime);
    stands = true;
    assert_false(fake_time_armed());
    check_same();
    host += HOUR;
    check_same();
}

static void start_timer(UINT64 lvt, UINT64 count)
{
    set(WHvX64RegisterApicLvtTimer, lvt);
    set(WHvX64RegisterApicDivide, 0xB);         // by 1
    set(WHvX64RegisterApicInitCount, count);
}

// ---- What a guest sees ---------------------------------------------------------------------------------------------

static void test_an_hour_that_nobody_sees(void **state)
{
    UINT64 tsc, count;

    (void)state;
    run();
    start_timer(MASKED | VECTOR, 5 * BUS_HZ);
    host += HZ;
    run();
    tsc = get(WHvX64RegisterTsc);
    count = get(WHvX64RegisterApicCurrentCount);
    assert_int_equal(count, 4 * BUS_HZ);
    suspend();
    assert_int_equal(get(WHvX64RegisterTsc), tsc);
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), count);
    run();                                      // which resumes
    assert_int_equal(get(WHvX64RegisterTsc), tsc);
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), count);
    host += HZ;
    run();
    assert_int_equal(get(WHvX64RegisterTsc), tsc + HZ);
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), 3 * BUS_HZ);
    suspend();
    BOTH(WHvSuspendPartitionTime);
    BOTH(WHvResumePartitionTime);
    BOTH(WHvResumePartitionTime);
    check_same();
    host += HZ;
    check_same();
    assert_int_equal(get(WHvX64RegisterTsc), tsc + 2 * HZ);
}

// Nothing runs before the first run; what is set by then goes on from there.
static void test_before_the_first_run(void **state)
{
    (void)state;
    host += HOUR;
    check_same();
    assert_int_equal(get(WHvX64RegisterTsc), 0);
    run();
    assert_int_equal(get(WHvX64RegisterTsc), 0);
    host += HZ;
    run();
    assert_int_equal(get(WHvX64RegisterTsc), HZ);
}

static void test_set_before_the_first_run(void **state)
{
    (void)state;
    set(WHvX64RegisterTsc, 1ull << 50);
    start_timer(VECTOR, BUS_HZ);
    host += HOUR;
    check_same();
    run();
    assert_int_equal(get(WHvX64RegisterTsc), 1ull << 50);
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ);
    assert_false(requested());
    host += HZ;
    run();
    assert_true(requested());
}

// ---- Timers --------------------------------------------------------------------------------------------------------

static void test_one_shot(void **state)
{
    (void)state;
    run();
    start_timer(VECTOR, BUS_HZ);
    for (unsigned n = 0; n < 4; n++) {
        suspend();
        run();
        assert_false(requested());
        host += HZ / 5;
    }
    suspend();
    run();
    assert_false(requested());
    host += HZ / 5;
    run();
    assert_true(requested());
    // It has run out, once.
    suspend();
    assert_int_equal(get(WHvX64RegisterApicInitCount), BUS_HZ);
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), 0);
    run();
    assert_false(requested());
}

// Run out while the processor was out of the guest, and suspended before it came back.
static void test_run_out_just_before(void **state)
{
    (void)state;
    run();
    start_timer(VECTOR, BUS_HZ);
    run();
    host += HZ;
    BOTH(WHvSuspendPartitionTime);
    host += HOUR;
    run();
    assert_true(requested());
}

static void test_deadline(void **state)
{
    UINT64 tsc;

    (void)state;
    run();
    set(WHvX64RegisterApicLvtTimer, DEADLINE | VECTOR);
    tsc = get(WHvX64RegisterTsc);
    set(WHvX64RegisterTscDeadline, tsc + 10 * HZ);
    suspend();
    run();
    assert_int_equal(get(WHvX64RegisterTscDeadline), tsc + 10 * HZ);
    host += 9 * HZ;
    run();
    assert_false(requested());
    suspend();
    run();
    assert_false(requested());
    host += HZ;
    run();
    assert_true(requested());
    assert_int_equal(get(WHvX64RegisterTscDeadline), 0);
    suspend();
    run();
    assert_false(requested());
    // One that has passed by the time it is suspended.
    set(WHvX64RegisterTscDeadline, get(WHvX64RegisterTsc) + HZ);
    host += HZ;
    BOTH(WHvSuspendPartitionTime);
    host += HOUR;
    run();
    assert_true(requested());
}

static void test_periodic(void **state)
{
    (void)state;
    run();
    start_timer(PERIODIC | VECTOR, BUS_HZ);
    host += HZ / 4;
    suspend();
    run();
    assert_false(requested());
    host += HZ / 2;
    suspend();
    run();
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ / 4);
    assert_false(requested());
    for (unsigned n = 0; n < 3; n++) {
        host += HZ / 4;
        run();
        assert_true(requested());
        host += HZ / 4;
        suspend();
        run();
        host += HZ / 2;
        run();
        assert_false(requested());
        assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ / 4);
    }
}

// On hardware whose timer does nothing while its processor is out of the guest: what has run out by then is known.
static void test_due(void **state)
{
    (void)state;
    fake_time_on_processor(true);
    run();
    for (unsigned n = 0; n < 3; n++) {
        start_timer(n == 1 ? PERIODIC | VECTOR : VECTOR, BUS_HZ);
        if (n == 2) {
            set(WHvX64RegisterApicLvtTimer, DEADLINE | VECTOR);
            set(WHvX64RegisterTscDeadline, get(WHvX64RegisterTsc) + HZ);
        }
        host += HZ;
        BOTH(WHvSuspendPartitionTime);
        host += HOUR;
        run();
        assert_true(requested());
        host += HZ - FAKE_BUS_TICKS;
        run();
        assert_false(requested());
        host += FAKE_BUS_TICKS;
        run();
        assert_int_equal(requested(), n == 1);
    }
}

// A timer that an INIT has ended does not come back.
static void test_init_meanwhile(void **state)
{
    (void)state;
    run();
    start_timer(PERIODIC | VECTOR, BUS_HZ);
    assert_ok(WHvSuspendPartitionTime(pair[KVM]));
    fake_time_init();
    assert_ok(WHvResumePartitionTime(pair[KVM]));
    assert_int_equal(get_of(pair[KVM], 0, WHvX64RegisterApicInitCount), 0);
    assert_int_equal(get_of(pair[KVM], 0, WHvX64RegisterApicLvtTimer), MASKED);
    assert_false(fake_time_armed());
}

// Divided by 16: what is left is in the timer's own steps.
static void test_divided(void **state)
{
    (void)state;
    run();
    start_timer(VECTOR, BUS_HZ);
    set(WHvX64RegisterApicDivide, 0x3);
    set(WHvX64RegisterApicInitCount, BUS_HZ / 16);
    host += HZ / 2;
    suspend();
    run();
    assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ / 32);
    host += HZ / 2;
    run();
    assert_true(requested());
}

// ---- Set while time stands -----------------------------------------------------------------------------------------

static void test_set_the_counter(void **state)
{
    static const UINT64 values[] = {0, 1, 1ull << 40, 5};

    (void)state;
    run();
    for (size_t n = 0; n < sizeof values / sizeof *values; n++) {
        suspend();
        set(WHvX64RegisterTsc, values[n]);
        set(WHvX64RegisterTscAdjust, values[n] + 7);
        check_same();
        host += HOUR;
        assert_int_equal(get(WHvX64RegisterTsc), values[n]);
        run();
        assert_int_equal(get(WHvX64RegisterTsc), values[n]);
        assert_int_equal(get(WHvX64RegisterTscAdjust), values[n] + 7);
        host += HZ;
        check_same();
        // And while it goes on.
        set(WHvX64RegisterTsc, values[n]);
        assert_int_equal(get(WHvX64RegisterTsc), values[n]);
        check_same();
    }
}

static void test_set_the_timer(void **state)
{
    (void)state;
    run();
    start_timer(VECTOR, BUS_HZ);
    suspend();
    start_timer(PERIODIC | VECTOR, 2 * BUS_HZ);
    host += HOUR;
    check_same();
    run();
    assert_false(requested());
    host += HZ;
    suspend();
    set(WHvX64RegisterApicCurrentCount, BUS_HZ / 2);
    check_same();
    run();
    host += HZ / 2;
    run();
    assert_true(requested());
    // As run out: KVM looks at it once more.
    suspend();
    start_timer(VECTOR, BUS_HZ);
    set(WHvX64RegisterApicCurrentCount, 0);
    check_same();
    assert_int_equal(get(WHvX64RegisterApicInitCount), BUS_HZ);
    run();
    fake_time_take(VECTOR);
    host += HOUR;
    run();
    assert_false(requested());
    // Stopped.
    start_timer(PERIODIC | VECTOR, BUS_HZ);
    suspend();
    set(WHvX64RegisterApicInitCount, 0);
    run();
    host += HOUR;
    run();
    assert_false(requested());
    // To deadlines, and back.
    start_timer(VECTOR, BUS_HZ);
    suspend();
    set(WHvX64RegisterTscDeadline, get(WHvX64RegisterTsc) + 1000 * HZ);
    assert_int_equal(get_of(pair[KVM], 0, WHvX64RegisterTscDeadline), 0);
    set(WHvX64RegisterTscDeadline, 0);
    set(WHvX64RegisterApicLvtTimer, DEADLINE | VECTOR);
    set(WHvX64RegisterTscDeadline, get(WHvX64RegisterTsc) + HZ);
    check_same();
    run();
    assert_false(requested());
    host += HZ;
    run();
    assert_true(requested());
    set(WHvX64RegisterTscDeadline, get(WHvX64RegisterTsc) + HZ);
    suspend();
    start_timer(VECTOR, 3 * BUS_HZ);
    set_of(pair[SOFT], 0, WHvX64RegisterTscDeadline, 0);    // KVM has forgotten it with the mode
    check_same();
    run();
    host += 2 * HZ;
    run();
    assert_false(requested());
    host += HZ;
    run();
    assert_true(requested());
}

// The page, from one and back: it brings what the timer had when it was read.
static void test_set_the_page(void **state)
{
    static uint8_t page[PAIR][PAGE] __attribute__((aligned(16)));

    (void)state;
    run();
    start_timer(VECTOR, 2 * BUS_HZ);
    host += HZ;
    suspend();
    for (unsigned n = 0; n < PAIR; n++)
        assert_ok(WHvGetVirtualProcessorInterruptControllerState2(pair[n], 0, page[n], PAGE, NULL));
    assert_memory_equal(page[KVM] + 0x380, page[SOFT] + 0x380, 4);
    assert_memory_equal(page[KVM] + 0x390, page[SOFT] + 0x390, 4);
    run();
    host += HZ;
    run();
    assert_true(requested());
    for (unsigned n = 0; n < 2; n++) {          // while it stands, and while it goes on
        if (n == 0)
            suspend();
        for (unsigned k = 0; k < PAIR; k++)
            assert_ok(WHvSetVirtualProcessorInterruptControllerState2(pair[k], 0, page[k], PAGE));
        check_same();
        assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ);
        run();
        assert_false(requested());
        host += HZ;
        run();
        assert_true(requested());
    }
}

// A register of the APIC's other than the timer's leaves the timer alone, and no interrupt is lost.
static void test_requested_meanwhile(void **state)
{
    WHV_INTERRUPT_CONTROL interrupt;

    (void)state;
    run();
    start_timer(PERIODIC | VECTOR, BUS_HZ);
    host += HZ / 2;
    suspend();
    memset(&interrupt, 0, sizeof interrupt);
    interrupt.Vector = 0x61;
    for (unsigned n = 0; n < PAIR; n++)
        assert_ok(WHvRequestInterrupt(pair[n], &interrupt, sizeof interrupt));
    set(WHvX64RegisterApicLvtThermal, MASKED | 0x33);
    check_same();
    run();
    assert_int_equal(get(WHvX64RegisterApicIrr3), 2);
    assert_false(requested());
    host += HZ / 2;
    run();
    assert_true(requested());
    assert_int_equal(get(WHvX64RegisterApicIrr3), 2);
    assert_int_equal(get(WHvX64RegisterApicLvtThermal), MASKED | 0x33);
}

// ---- Processors ----------------------------------------------------------------------------------------------------

// What one processor's counter is ahead of the other's, it stays; and a new one has the partition's.
static void test_in_step(void **state)
{
    WHV_PARTITION_HANDLE p;
    UINT64 ahead = 12345;

    (void)state;
    (void)end(NULL);
    p = pair[KVM] = partition("kvm", 3);
    assert_ok(run_kvm());
    assert_int_equal(get_of(p, 1, WHvX64RegisterTsc), get_of(p, 0, WHvX64RegisterTsc));
    set_of(p, 1, WHvX64RegisterTsc, get_of(p, 0, WHvX64RegisterTsc) + ahead);
    for (unsigned n = 0; n < 5; n++) {
        host += HZ + n;
        assert_ok(WHvSuspendPartitionTime(p));
        assert_int_equal(get_of(p, 1, WHvX64RegisterTsc), get_of(p, 0, WHvX64RegisterTsc) + ahead);
        host += HOUR;
        if (n == 2) {
            assert_ok(WHvDeleteVirtualProcessor(p, 2));
            assert_ok(WHvCreateVirtualProcessor(p, 2, 0));
        }
        assert_ok(WHvResumePartitionTime(p));
        assert_int_equal(get_of(p, 1, WHvX64RegisterTsc), get_of(p, 0, WHvX64RegisterTsc) + ahead);
        assert_int_equal(get_of(p, 2, WHvX64RegisterTsc), get_of(p, 0, WHvX64RegisterTsc));
    }
    set_of(p, 2, WHvX64RegisterTsc, 1ull << 40);
    assert_ok(WHvDeleteVirtualProcessor(p, 2));
    assert_ok(WHvCreateVirtualProcessor(p, 2, 0));
    assert_int_equal(get_of(p, 2, WHvX64RegisterTsc), get_of(p, 0, WHvX64RegisterTsc));
    assert_int_equal(get_of(p, 0, WHvX64RegisterTsc), 5 * HZ + 10);
}

static void test_reset(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 3; n++) {
        run();
        start_timer(VECTOR, 2 * BUS_HZ);
        set(WHvX64RegisterTsc, 1ull << 50);
        set(WHvX64RegisterTscAdjust, 99);
        host += HZ;
        run();
        if (n > 0)
            suspend();
        fake_forget();          // KVM completes the OUT
        BOTH(WHvResetPartition);
        check_same();
        assert_int_equal(get(WHvX64RegisterTsc), 0);
        assert_int_equal(get(WHvX64RegisterTscAdjust), 0);
        assert_int_equal(get(WHvX64RegisterApicInitCount), 0);
        host += HOUR;
        check_same();
        for (unsigned k = 0; k < PAIR; k++)
            place(pair[k], 0);
        run();
        assert_int_equal(get(WHvX64RegisterTsc), 0);
        host += HOUR;
        run();
        assert_false(requested());
    }
}

static void test_another_processor(void **state)
{
    (void)state;
    run();
    start_timer(VECTOR, BUS_HZ);
    set(WHvX64RegisterTsc, 1ull << 50);
    host += 100;
    suspend();
    fake_forget();
    BOTH(WHvDeleteVirtualProcessor, 0);
    host += HOUR;
    BOTH(WHvCreateVirtualProcessor, 0, 0);
    check_same();
    assert_int_equal(get(WHvX64RegisterTsc), 100);
    for (unsigned n = 0; n < PAIR; n++)
        place(pair[n], 0);
    run();
    assert_int_equal(get(WHvX64RegisterTsc), 100);
    host += HOUR;
    run();
    assert_false(requested());
}

static const UINT64 kinds[] = {VECTOR, PERIODIC | VECTOR, DEADLINE | VECTOR};
#define KINDS (sizeof kinds / sizeof *kinds)

// Processors that have run, whose timers have a second to go; then a quarter of it passes.
static void begin_timers(UINT64 lvt, UINT32 count)
{
    (void)end(NULL);
    begin_with(count);
    run();
    for (unsigned n = 0; n < PAIR; n++)
        for (UINT32 vp = 0; vp < count; vp++) {
            set_of(pair[n], vp, WHvX64RegisterApicSpurious, 0x1FF);
            set_of(pair[n], vp, WHvX64RegisterApicLvtTimer, lvt);
            set_of(pair[n], vp, WHvX64RegisterApicDivide, 0x3);
            if (lvt & DEADLINE)
                set_of(pair[n], vp, WHvX64RegisterTscDeadline, get_of(pair[n], vp, WHvX64RegisterTsc) + HZ);
            else
                set_of(pair[n], vp, WHvX64RegisterApicInitCount, BUS_HZ / 16);
        }
    check_same();
    host += HZ / 4;
}

// The timer of the first processor, a quarter of which has passed, runs out at its time.
static void run_out(void)
{
    host += HZ / 4;
    check_same();
    run();
    assert_false(requested());
    host += HZ / 2;
    run();
    assert_true(requested());
}

// To another partition and on; then to one that is given up, and on here.
static void test_migration(void **state)
{
    HANDLE handle[PAIR];

    (void)state;
    for (size_t i = 0; i < 2 * KINDS; i++) {
        begin_timers(kinds[i / 2], 1);
        set(WHvX64RegisterTscAdjust, 5);
        set(WHvX64RegisterTsc, get(WHvX64RegisterTsc) + (kinds[i / 2] & DEADLINE ? 0 : 1ull << 40));
        if (i % 2)
            suspend();
        fake_forget();
        for (unsigned n = 0; n < PAIR; n++)
            assert_ok(WHvStartPartitionMigration(pair[n], &handle[n]));
        host += HOUR;
        for (unsigned n = 0; n < PAIR; n++) {
            WHV_PARTITION_HANDLE target;

            assert_ok(WHvAcceptPartitionMigration(handle[n], &target));
            assert_ok(WHvCompletePartitionMigration(pair[n]));
            assert_ok(WHvSetupPartition(target));
            assert_ok(WHvDeletePartition(pair[n]));
            pair[n] = target;
        }
        host += HOUR;
        handed_over = ALL;
        check_same();
        run();
        run_out();
        fake_forget();
        for (unsigned n = 0; n < PAIR; n++)
            assert_ok(WHvStartPartitionMigration(pair[n], &handle[n]));
        host += HOUR;
        BOTH(WHvCancelPartitionMigration);
        check_same();
        BOTH(WHvResumePartitionTime);
        host += HZ;
        check_same();
    }
}

// ---- Calls to the kernel that fail ---------------------------------------------------------------------------------

#define CALLS_LIMIT 200u        // of one call of ours; far fewer are needed
#define FAILS_MAX 4u            // one after the other

// All goes on as before.
static void test_suspend_fails(void **state)
{
    unsigned n = 1;

    (void)state;
    for (unsigned round = 0; round < KINDS * FAILS_MAX; round++) {
        for (n = 1; n < CALLS_LIMIT; n++) {
            HRESULT hr;

            begin_timers(kinds[round % KINDS], 2);
            fake_fail(n, round / KINDS + 1);
            hr = WHvSuspendPartitionTime(pair[KVM]);
            if (!fake_fail_end())
                break;
            assert_hr(hr, E_FAIL);
            check_same();
            if (n % 2) {
                run_out();
                continue;
            }
            // At once once more: what has not been given back is there still.
            suspend();
            run();
            run_out();
        }
        assert_in_range(n, 4, CALLS_LIMIT - 1);
    }
}

// Time stands, or goes on with a timer that KVM gets with the next run.
static void test_resume_fails(void **state)
{
    unsigned n = 1, stood = 0, went_on = 0;

    (void)state;
    for (unsigned round = 0; round < KINDS * FAILS_MAX; round++) {
        for (n = 1; n < CALLS_LIMIT; n++) {
            HRESULT hr;

            begin_timers(kinds[round % KINDS], 2);
            suspend();
            fake_fail(n, round / KINDS + 1);
            hr = WHvResumePartitionTime(pair[KVM]);
            if (!fake_fail_end())
                break;
            if (FAILED(hr)) {
                assert_hr(hr, E_FAIL);
                check_same();
                host += HOUR;
                check_same();
                stood++;
            } else {
                assert_ok(WHvResumePartitionTime(pair[SOFT]));
                went_on++;
            }
            BOTH(WHvResumePartitionTime);
            stands = false;
            check_same();
            if (n % 2) {
                run_out();
                continue;
            }
            host += HZ;         // it runs out before the next run
            run();
            assert_true(requested());
        }
        assert_in_range(n, 4, CALLS_LIMIT - 1);
    }
    assert_in_range(stood, 1, UINT32_MAX);
    assert_in_range(went_on, 1, UINT32_MAX);
    // A run that cannot give it back says so.
    for (unsigned kind = 0; kind < KINDS; kind++) {
        begin_timers(kinds[kind], 2);
        suspend();
        fake_fail(3, 100);      // behind the two counters
        assert_ok(WHvResumePartitionTime(pair[KVM]));
        stands = false;
        assert_hr(run_kvm(), E_FAIL);
        assert_in_range(fake_fail_end(), 3, 100);
        assert_ok(WHvResumePartitionTime(pair[SOFT]));
        run_out();
    }
}

// All that is set, or nothing.
static void test_set_fails(void **state)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterTsc, WHvX64RegisterTscAdjust,
                                              WHvX64RegisterApicCurrentCount, WHvX64RegisterPat};
    WHV_REGISTER_VALUE values[4];
    unsigned n = 1;

    (void)state;
    memset(values, 0, sizeof values);
    values[0].Reg64 = 1ull << 40;
    values[1].Reg64 = 77;
    values[2].Reg64 = BUS_HZ / 16 / 8;
    values[3].Reg64 = 0x0007040600070406;
    for (unsigned stands = 0; stands < 2; stands++) {
        for (n = 1; n < CALLS_LIMIT; n++) {
            HRESULT hr;

            begin_timers(VECTOR, 2);
            if (stands)
                suspend();
            fake_fail(n, 1);
            hr = WHvSetVirtualProcessorRegisters(pair[KVM], 0, names, 4, values);
            if (!fake_fail_end())
                break;
            assert_hr(hr, E_FAIL);
            check_same();
            BOTH(WHvSetVirtualProcessorRegisters, 0, names, 4, values);
            check_same();
            assert_int_equal(get(WHvX64RegisterApicCurrentCount), BUS_HZ / 16 / 8);
            run();
            assert_int_equal(get(WHvX64RegisterTsc), 1ull << 40);
        }
        assert_in_range(n, 4, CALLS_LIMIT - 1);
    }
}

// And where nothing can be given back to KVM any more: what is held here is as it was.
static void test_set_fails_for_good(void **state)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterTsc, WHvX64RegisterTscAdjust, WHvX64RegisterTscDeadline};
    WHV_REGISTER_VALUE values[3];
    unsigned n;

    (void)state;
    memset(values, 0, sizeof values);
    for (n = 0; n < 3; n++)
        values[n].Reg64 = 1ull << (40 + n);
    for (n = 1; n < CALLS_LIMIT; n++) {
        HRESULT hr;

        begin_timers(DEADLINE | VECTOR, 2);
        suspend();
        fake_fail(n, 100);
        hr = WHvSetVirtualProcessorRegisters(pair[KVM], 0, names, 3, values);
        if (!fake_fail_end())
            break;
        assert_hr(hr, E_FAIL);
        (void)get(WHvX64RegisterTsc);
        (void)get(WHvX64RegisterTscDeadline);
    }
    assert_in_range(n, 4, CALLS_LIMIT - 1);
}

static void test_create_fails(void **state)
{
    unsigned n = 1;

    (void)state;
    for (unsigned stands = 0; stands < 2; stands++) {
        for (n = 1; n < CALLS_LIMIT; n++) {
            HRESULT hr;

            begin_timers(VECTOR, 2);
            if (stands)
                suspend();
            set_of(pair[KVM], 1, WHvX64RegisterTsc, 1ull << 40);
            BOTH(WHvDeleteVirtualProcessor, 1);
            fake_fail(n, 1);
            hr = WHvCreateVirtualProcessor(pair[KVM], 1, 0);
            if (!fake_fail_end())
                break;
            assert_hr(hr, E_FAIL);
            BOTH(WHvCreateVirtualProcessor, 1, 0);
            check_same();
            run();
            run_out();
        }
        assert_in_range(n, 3, CALLS_LIMIT - 1);
    }
}

static void test_reset_fails(void **state)
{
    unsigned n;

    (void)state;
    for (n = 1; n < CALLS_LIMIT; n++) {
        HRESULT hr;

        begin_timers(PERIODIC | VECTOR, 2);
        set(WHvX64RegisterTsc, 1ull << 40);
        fake_forget();
        fake_fail(n, 1);
        hr = WHvResetPartition(pair[KVM]);
        if (!fake_fail_end())
            break;
        assert_hr(hr, E_FAIL);
        BOTH(WHvResetPartition);
        check_same();
        assert_int_equal(get(WHvX64RegisterTsc), 0);
        for (unsigned k = 0; k < PAIR; k++)
            place(pair[k], 0);
        run();
        host += HOUR;
        run();
        assert_false(requested());
    }
    assert_in_range(n, 4, CALLS_LIMIT - 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(test_an_hour_that_nobody_sees),
        TEST(test_before_the_first_run),
        TEST(test_set_before_the_first_run),
        TEST(test_one_shot),
        TEST(test_run_out_just_before),
        TEST(test_deadline),
        TEST(test_periodic),
        TEST(test_due),
        TEST(test_init_meanwhile),
        TEST(test_divided),
        TEST(test_set_the_counter),
        TEST(test_set_the_timer),
        TEST(test_set_the_page),
        TEST(test_requested_meanwhile),
        TEST(test_in_step),
        TEST(test_reset),
        TEST(test_another_processor),
        TEST(test_migration),
        TEST(test_suspend_fails),
        TEST(test_resume_fails),
        TEST(test_set_fails),
        TEST(test_set_fails_for_good),
        TEST(test_create_fails),
        TEST(test_reset_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
