// A partition's time over a host clock that the test moves: what a guest sees of a suspended hour, of a reset, and of
// time that nobody stopped.
#include <string.h>

#include "unit.h"

#include "bulkhead/bulkhead.h"
#include "engine/soft/soft.h"

#define HZ 2500000000ull
#include "host_clock.h"
#define HOUR (3600 * HZ)
#define PAGE 4096u
#define CODE 0x1000u

const struct engine *const engines[] = {&engine_soft, NULL};

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

// Reads all clocks and hands them over: rdtsc; the APIC timer's current count by its x2APIC register; out.
static const uint8_t read_clocks[] = {
    0x0F, 0x31,                                     // rdtsc
    0x66, 0x89, 0xC6,                               // mov esi, eax
    0x66, 0x89, 0xD7,                               // mov edi, edx
    0x66, 0xB9, 0x39, 0x08, 0x00, 0x00,             // mov ecx, 0x839
    0x0F, 0x32,                                     // rdmsr
    0xE6, 0x10,                                     // out 0x10, al
};

struct clocks {
    uint64_t tsc, count, reference;
};

static void set(WHV_PARTITION_HANDLE p, WHV_REGISTER_NAME name, uint64_t bits)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Reg64 = bits;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value));
}

static uint64_t get(WHV_PARTITION_HANDLE p, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, &name, 1, &value));
    return value.Reg64;
}

static uint64_t reference_time(WHV_PARTITION_HANDLE p)
{
    UINT64 time;

    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeReferenceTime, &time, sizeof(time), NULL));
    return time;
}

static void start_at_code(WHV_PARTITION_HANDLE p)
{
    WHV_REGISTER_NAME name = WHvX64RegisterCs;
    WHV_REGISTER_VALUE cs;

    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, &name, 1, &cs));
    cs.Segment.Selector = 0;
    cs.Segment.Base = 0;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &cs));
    set(p, WHvX64RegisterRip, CODE);
    set(p, WHvX64RegisterApicBase, 0xFEE00D00);     // x2APIC
    set(p, WHvX64RegisterApicSpurious, 0x1FF);
}

static WHV_PARTITION_HANDLE partition(void)
{
    WHV_X64_LOCAL_APIC_EMULATION_MODE mode = WHvX64LocalApicEmulationModeX2Apic;
    UINT32 count = 1;
    WHV_PARTITION_HANDLE p;

    assert_ok(WHvCreatePartition(&p));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count)));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeLocalApicEmulationMode, &mode, sizeof(mode)));
    assert_ok(WHvSetupPartition(p));
    memcpy(memory + CODE, read_clocks, sizeof(read_clocks));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory),
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    start_at_code(p);
    return p;
}

// What the guest reads, with the host's counter standing still meanwhile.
static struct clocks read_all(WHV_PARTITION_HANDLE p)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;
    struct clocks clocks;

    set(p, WHvX64RegisterRip, CODE);
    assert_ok(WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit)));
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    clocks.tsc = exit.IoPortAccess.Rdi << 32 | exit.IoPortAccess.Rsi;
    clocks.count = exit.IoPortAccess.Rax;
    clocks.reference = reference_time(p);
    return clocks;
}

static void start_timer(WHV_PARTITION_HANDLE p, uint64_t lvt, uint64_t count)
{
    set(p, WHvX64RegisterApicLvtTimer, lvt);
    set(p, WHvX64RegisterApicDivide, 0xB);          // by 1: 200 MHz
    set(p, WHvX64RegisterApicInitCount, count);
}

static void test_an_hour_that_nobody_sees(void **state)
{
    WHV_PARTITION_HANDLE p = partition();
    struct clocks before, after;

    (void)state;
    (void)read_all(p);
    start_timer(p, 0x10040, 1000000000);            // masked, one-shot, 5 s
    host += HZ;
    before = read_all(p);
    assert_int_equal(before.count, 800000000);
    assert_ok(WHvSuspendPartitionTime(p));
    host += HOUR;
    assert_int_equal(get(p, WHvX64RegisterTsc), before.tsc);
    assert_int_equal(get(p, WHvX64RegisterApicCurrentCount), before.count);
    assert_int_equal(reference_time(p), before.reference);
    host += HOUR;
    after = read_all(p);                            // the run resumes
    assert_memory_equal(&after, &before, sizeof(before));
    // All of them go on together: a second each.
    host += HZ;
    after = read_all(p);
    assert_int_equal(after.tsc - before.tsc, HZ);
    assert_int_equal(before.count - after.count, 200000000);
    assert_int_equal(after.reference - before.reference, 10000000);
    // Suspended and resumed by the call.
    assert_ok(WHvSuspendPartitionTime(p));
    host += HOUR;
    assert_ok(WHvResumePartitionTime(p));
    before = read_all(p);
    assert_memory_equal(&after, &before, sizeof(before));
    assert_ok(WHvDeletePartition(p));
}

// A deadline that lies behind the hour is no nearer after it; one in the past does not come back.
static void test_deadlines(void **state)
{
    WHV_PARTITION_HANDLE p = partition();
    uint64_t tsc;

    (void)state;
    (void)read_all(p);
    set(p, WHvX64RegisterApicLvtTimer, 0x40040);    // TSC deadline
    tsc = get(p, WHvX64RegisterTsc);
    set(p, WHvX64RegisterTscDeadline, tsc + 10 * HZ);
    assert_ok(WHvSuspendPartitionTime(p));
    host += HOUR;
    (void)read_all(p);
    assert_int_equal(get(p, WHvX64RegisterTscDeadline), tsc + 10 * HZ);
    host += 9 * HZ;
    (void)read_all(p);
    assert_int_equal(get(p, WHvX64RegisterTscDeadline), tsc + 10 * HZ);
    assert_int_equal(get(p, WHvX64RegisterApicIrr2), 0);
    host += HZ;
    (void)read_all(p);
    assert_int_equal(get(p, WHvX64RegisterTscDeadline), 0);
    assert_int_equal(get(p, WHvX64RegisterApicIrr2), 1);        // vector 0x40: RFLAGS.IF is off
    assert_ok(WHvDeletePartition(p));
}

// What a client sets while time stands is there when it goes on.
static void test_set_while_suspended(void **state)
{
    WHV_PARTITION_HANDLE p = partition();
    struct clocks clocks;

    (void)state;
    (void)read_all(p);
    assert_ok(WHvSuspendPartitionTime(p));
    host += HOUR;
    set(p, WHvX64RegisterTsc, 1ull << 40);
    start_timer(p, 0x10040, 1000);
    host += HOUR;
    clocks = read_all(p);
    assert_int_equal(clocks.tsc, 1ull << 40);
    assert_int_equal(clocks.count, 1000);
    assert_ok(WHvDeletePartition(p));
}

// Before the first run, and after a reset, all clocks are at 0 and stand.
static void test_reset(void **state)
{
    WHV_PARTITION_HANDLE p = partition();
    struct clocks clocks;

    (void)state;
    for (unsigned int n = 0; n < 3; n++) {
        host += HOUR;
        assert_int_equal(get(p, WHvX64RegisterTsc), 0);
        assert_int_equal(reference_time(p), 0);
        clocks = read_all(p);
        assert_int_equal(clocks.tsc, 0);
        assert_int_equal(clocks.reference, 0);
        start_timer(p, 0x10040, 1000000000);
        set(p, WHvX64RegisterTsc, 1ull << 50);
        host += HZ;
        clocks = read_all(p);
        assert_int_equal(clocks.tsc, (1ull << 50) + HZ);
        assert_int_equal(clocks.reference, 10000000);
        assert_ok(WHvResetPartition(p));
        assert_int_equal(get(p, WHvX64RegisterApicCurrentCount), 0);
        start_at_code(p);
    }
    assert_ok(WHvDeletePartition(p));
}

// A migration that takes an hour: hidden unless it is to be seen, and then seen by all clocks alike.
static void test_migration(void **state)
{
    (void)state;
    for (int show = 0; show < 2; show++) {
        WHV_PARTITION_HANDLE p = partition(), target;
        struct clocks before, after;
        HANDLE handle;

        (void)read_all(p);
        start_timer(p, 0x10040, UINT32_MAX);        // 21 s
        set(p, WHvX64RegisterTsc, 1ull << 45);
        host += HZ;
        before = read_all(p);
        assert_ok(WHvStartPartitionMigration(p, &handle));
        host += HZ;
        assert_ok(WHvAcceptPartitionMigration(handle, &target));
        host += HZ;
        assert_ok(WHvCompletePartitionMigration(p));
        assert_ok(BulkheadShowDowntime(target, show));
        host += HZ;
        assert_ok(WHvSetupPartition(target));
        host += HOUR;                               // it stands until the next run
        after = read_all(target);
        assert_int_equal(after.tsc - before.tsc, show ? 3 * HZ : 0);
        assert_int_equal(before.count - after.count, show ? 3 * 200000000 : 0);
        assert_int_equal(after.reference - before.reference, show ? 3 * 10000000 : 0);
        assert_ok(WHvDeletePartition(p));
        assert_ok(WHvDeletePartition(target));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_hour_that_nobody_sees),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_set_while_suspended),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_migration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
