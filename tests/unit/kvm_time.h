// Two partitions with the same guest over a host clock that the test moves: one of the kvm engine, on a stand-in for a
// kernel with KVM on hardware, one of the soft engine. What a client sees of time is to be the same, step by step.
//
// The os_tsc and os_tsc_hz in here take the place of the library's; the stand-in's clocks are the same.
#ifndef BULKHEAD_TESTS_KVM_TIME_H
#define BULKHEAD_TESTS_KVM_TIME_H

#include <stdlib.h>
#include <string.h>

#include "WinHvPlatform.h"
#include "engine/kvm/kvm.h"
#include "engine/soft/soft.h"
#include "fake_kvm.h"
#include "fake_kvm_time.h"

#define HZ (FAKE_KHZ * 1000ull)
#include "host_clock.h"
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

enum { KVM, SOFT, PAIR };
static WHV_PARTITION_HANDLE pair[PAIR];
static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
static UINT32 processors;       // that both have
static bool stands;             // time does, and KVM has no timer to fire
static unsigned handed_over;    // by the next run of the kvm engine's
static bool inside_run;         // a test that fails there leaves a partition that cannot be deleted

// ---- Partitions ----------------------------------------------------------------------------------------------------

static inline void set_of(WHV_PARTITION_HANDLE p, UINT32 vp, WHV_REGISTER_NAME name, UINT64 bits)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof value);
    value.Reg64 = bits;
    assert_ok(WHvSetVirtualProcessorRegisters(p, vp, &name, 1, &value));
}

static inline UINT64 get_of(WHV_PARTITION_HANDLE p, UINT32 vp, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof value);
    assert_ok(WHvGetVirtualProcessorRegisters(p, vp, &name, 1, &value));
    return value.Reg64;
}

static inline void set(WHV_REGISTER_NAME name, UINT64 bits)
{
    for (unsigned n = 0; n < PAIR; n++)
        set_of(pair[n], 0, name, bits);
}

static inline UINT64 get_from(UINT32 vp, WHV_REGISTER_NAME name)
{
    UINT64 value = get_of(pair[KVM], vp, name), soft = get_of(pair[SOFT], vp, name);

    if (value != soft)
        fail_msg("processor %u, register 0x%x: kvm %llx, soft %llx", vp, name, (unsigned long long)value,
                 (unsigned long long)soft);
    return value;
}

static inline UINT64 get(WHV_REGISTER_NAME name) { return get_from(0, name); }

static inline UINT64 reference_time(WHV_PARTITION_HANDLE p)
{
    UINT64 time;

    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeReferenceTime, &time, sizeof time, NULL));
    return time;
}

// A real-mode processor on a row of OUTs, with a NOP behind each so that none is taken for another.
static inline void place(WHV_PARTITION_HANDLE p, UINT32 vp)
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

static inline WHV_PARTITION_HANDLE partition(const char *engine, UINT32 count)
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

static inline void begin_with(UINT32 count)
{
    processors = count;
    stands = true;
    pair[SOFT] = partition("soft", count);
    pair[KVM] = partition("kvm", count);
}

static inline int begin(void **state)
{
    (void)state;
    host = 123456789;
    begin_with(1);
    return 0;
}

static inline int end(void **state)
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

#define KVM_TIME_TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

#define BOTH(call, ...)                                     \
    do {                                                    \
        for (unsigned n_ = 0; n_ < PAIR; n_++)              \
            assert_ok(call(pair[n_], ##__VA_ARGS__));       \
    } while (0)

// ---- Looking -------------------------------------------------------------------------------------------------------

static inline void check_same(void)
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

static inline HRESULT run_one(WHV_PARTITION_HANDLE p)
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
static inline HRESULT run_kvm(void)
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

static inline void run(void)
{
    assert_false(stands && fake_time_armed());
    stands = false;
    assert_ok(run_kvm());
    assert_ok(run_one(pair[SOFT]));
    check_same();
}

// Whether the timer's interrupt has been requested; the guest takes it. (A client that sets the APIC's registers would
// have KVM look at a timer that has run out once more.)
static inline bool requested(void)
{
    if (!get(WHvX64RegisterApicIrr2))
        return false;
    fake_time_take(VECTOR);
    set_of(pair[SOFT], 0, WHvX64RegisterApicIrr2, 0);
    return true;
}

static inline void suspend(void)
{
    BOTH(WHvSuspendPartitionTime);
    stands = true;
    assert_false(fake_time_armed());
    check_same();
    host += HOUR;
    check_same();
}

static inline void start_timer(UINT64 lvt, UINT64 count)
{
    set(WHvX64RegisterApicLvtTimer, lvt);
    set(WHvX64RegisterApicDivide, 0xB);         // by 1
    set(WHvX64RegisterApicInitCount, count);
}

// ---- Timers that have a way to go ---------------------------------------------------------------------------------

static const UINT64 kinds[] = {VECTOR, PERIODIC | VECTOR, DEADLINE | VECTOR};
#define KINDS (sizeof kinds / sizeof *kinds)

// Processors that have run, whose timers have a second to go; then a quarter of it passes.
static inline void begin_timers(UINT64 lvt, UINT32 count)
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
static inline void run_out(void)
{
    host += HZ / 4;
    check_same();
    run();
    assert_false(requested());
    host += HZ / 2;
    run();
    assert_true(requested());
}

#endif
