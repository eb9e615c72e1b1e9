// What comes to a kvm processor at the worst moment: a cancel, a failure or an end between two calls to the kernel, where
// something is half done.
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "WinHvPlatform.h"
#include "engine/kvm/abi.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/kvm.h"

#define NOT_USABLE 77       // what the test runner takes for a skip
#define PAGE 4096u
#define CODE 0x1000u
#define OTHER 0x2000u       // out 0x13, al
#define HANDLER 0x3000u     // of #GP: out 0x14, al
#define START 0x4000u       // of the second processor: out 0x15, al
#define DEVICE 0xC000u      // not mapped

const struct engine *const engines[] = {&engine_kvm, NULL};

static uint8_t memory[12 * PAGE] __attribute__((aligned(PAGE)));

// ---- The kernel ------------------------------------------------------------------------------------------

static struct {
    unsigned long request;      // what happens at the next of these calls; 0: nothing
    bool before;                // or else behind it
    int answer;                 // below 0: instead of the call
    void (*act)(void);
    bool acted;
    unsigned runs;
} moment;

static WHV_PARTITION_HANDLE partition;

// Nobody but the test itself calls the kernel while something is to happen.
static void act(void)
{
    moment.request = 0;
    moment.acted = true;
    if (moment.act)
        moment.act();
}

int __real_kvm_ioctl(int fd, unsigned long request, void *argument);
int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument);
int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument)
{
    const bool now = request == moment.request;

    if (now && (moment.before || moment.answer))
        act();
    if (now && moment.answer)
        return moment.answer;
    int answer = __real_kvm_ioctl(fd, request, argument);
    if (now && !moment.before)
        act();
    return answer;
}

int __real_kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    const bool now = request == moment.request;

    moment.runs += request == KVM_RUN;
    if (now && moment.before)
        act();
    int answer = __real_kvm_ioctl_value(fd, request, value);
    if (now && !moment.before)
        act();
    return answer;
}

static void at(unsigned long request, bool before, int answer, void (*what)(void))
{
    memset(&moment, 0, sizeof(moment));
    moment.request = request;
    moment.before = before;
    moment.answer = answer;
    moment.act = what;
}

static void cancel(void)
{
    assert_ok(WHvCancelRunVirtualProcessor(partition, 0, 0));
}

// ---- The guest -------------------------------------------------------------------------------------------

static UINT64 get(UINT32 vp, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    assert_ok(WHvGetVirtualProcessorRegisters(partition, vp, &name, 1, &value));
    return value.Reg64;
}

static void set(UINT32 vp, WHV_REGISTER_NAME name, UINT64 number)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Reg64 = number;
    assert_ok(WHvSetVirtualProcessorRegisters(partition, vp, &name, 1, &value));
}

static void start_at(UINT32 vp, UINT64 rip)
{
    WHV_REGISTER_NAME name = WHvX64RegisterCs;
    WHV_REGISTER_VALUE cs;

    memset(&cs, 0, sizeof(cs));
    cs.Segment.Limit = 0xFFFF;
    cs.Segment.Attributes = 0x9B;
    assert_ok(WHvSetVirtualProcessorRegisters(partition, vp, &name, 1, &cs));
    set(vp, WHvX64RegisterRip, rip);
}

static void set_property(WHV_PARTITION_PROPERTY_CODE code, UINT64 value, UINT32 size)
{
    assert_ok(WHvSetPartitionProperty(partition, code, &value, size));
}

static void make(const uint8_t *code, size_t size, bool apic, bool msr_exits)
{
    static const uint8_t other[] = {0xE6, 0x13}, handler[] = {0xE6, 0x14}, started[] = {0xE6, 0x15};

    assert_ok(WHvCreatePartition(&partition));
    set_property(WHvPartitionPropertyCodeProcessorCount, 2, 4);
    if (apic)
        set_property(WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic, 4);
    if (msr_exits)
        set_property(WHvPartitionPropertyCodeExtendedVmExits,
                     (WHV_EXTENDED_VM_EXITS){.X64MsrExit = 1}.AsUINT64, 8);
    assert_ok(WHvSetupPartition(partition));
    memset(memory, 0, sizeof(memory));
    memcpy(memory + CODE, code, size);
    memcpy(memory + OTHER, other, sizeof(other));
    memcpy(memory + HANDLER, handler, sizeof(handler));
    memcpy(memory + START, started, sizeof(started));
    memory[13 * 4 + 1] = HANDLER >> 8;
    assert_ok(WHvMapGpaRange(partition, memory, 0, sizeof(memory),
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
    start_at(0, CODE);
    set(0, WHvX64RegisterRsp, 0x8000);
}

static WHV_RUN_VP_EXIT_CONTEXT run(UINT32 vp)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    assert_ok(WHvRunVirtualProcessor(partition, vp, &exit, sizeof(exit)));
    return exit;
}

static void assert_port(const WHV_RUN_VP_EXIT_CONTEXT *exit, UINT16 port)
{
    assert_int_equal(exit->ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(exit->IoPortAccess.PortNumber, port);
}

// ---- Tests -----------------------------------------------------------------------------------------------

static const uint8_t in_al[] = {0xE4, 0x11};                            // in al, 0x11
static const uint8_t load_al[] = {0xA0, DEVICE & 0xFF, DEVICE >> 8};    // mov al, [DEVICE]
static const uint8_t out_al[] = {0xE6, 0x10};                           // out 0x10, al

static void complete_and_cancel(const uint8_t *code, UINT32 size)
{
    make(code, size, false, false);
    (void)run(0);
    set(0, WHvX64RegisterRax, 0x77);
    set(0, WHvX64RegisterRip, CODE + size);
    set(0, WHvX64RegisterXmm0, 1);
    at(KVM_SET_XSAVE, false, 0, cancel);
    assert_int_equal(run(0).ExitReason, WHvRunVpExitReasonCanceled);
    assert_true(moment.acted);
    assert_int_equal(get(0, WHvX64RegisterRip), CODE + size);
    assert_int_equal(get(0, WHvX64RegisterRax), 0x77);
}

// The client has completed the instruction, the run is canceled before KVM has, and the client goes elsewhere.
static void test_canceled_before_completion(void **state)
{
    static const struct { const uint8_t *code; UINT32 size; } codes[] = {
        {in_al, sizeof(in_al)}, {load_al, sizeof(load_al)}, {out_al, sizeof(out_al)},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        WHV_RUN_VP_EXIT_CONTEXT exit;

        complete_and_cancel(codes[i].code, codes[i].size);
        set(0, WHvX64RegisterRax, 0x99);
        set(0, WHvX64RegisterRip, OTHER);
        exit = run(0);
        assert_port(&exit, 0x13);
        assert_int_equal(exit.VpContext.Rip, OTHER);
        assert_int_equal(exit.IoPortAccess.Rax, 0x99);
        assert_ok(WHvDeletePartition(partition));
    }
}

// What a deleted processor left half done does not fall to the next one.
static void test_deleted_before_completion(void **state)
{
    (void)state;
    for (int canceled = 0; canceled < 2; canceled++) {
        WHV_RUN_VP_EXIT_CONTEXT exit;

        if (canceled) {
            complete_and_cancel(in_al, sizeof(in_al));
        } else {
            make(in_al, sizeof(in_al), false, false);
            (void)run(0);
            set(0, WHvX64RegisterRax, 0x77);
            set(0, WHvX64RegisterRip, CODE + sizeof(in_al));
        }
        assert_ok(WHvDeleteVirtualProcessor(partition, 0));
        assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
        start_at(0, OTHER);
        exit = run(0);
        assert_port(&exit, 0x13);
        assert_int_equal(exit.VpContext.Rip, OTHER);
        assert_int_equal(exit.IoPortAccess.Rax, 0);
        assert_ok(WHvDeletePartition(partition));
    }
}

// The guest writes a value that an MSR does not take; the run is canceled then, and the client goes elsewhere.
static void test_canceled_at_bad_msr(void **state)
{
    static const uint8_t code[] = {
        0x66, 0xB9, 0x80, 0x00, 0x00, 0xC0,     // mov ecx, 0xC0000080 (EFER)
        0x66, 0xB8, 0x00, 0x00, 0x00, 0x80,     // mov eax, a reserved bit
        0x0F, 0x30,                             // wrmsr
        0xE6, 0x10,                             // out 0x10, al
    };
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    make(code, sizeof(code), false, true);
    exit = run(0);
    assert_port(&exit, 0x14);
    start_at(0, CODE);
    at(KVM_RUN, false, 0, cancel);
    exit = run(0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonCanceled);
    set(0, WHvX64RegisterRip, OTHER);
    exit = run(0);
    assert_port(&exit, 0x13);
    assert_int_equal(exit.VpContext.Rip, OTHER);
    assert_ok(WHvDeletePartition(partition));
}

// A processor that was stepped is deleted: the next one of its number is not.
static void test_stepping_ends_with_processor(void **state)
{
    static const uint8_t code[] = {0xB9, 0x64, 0x00, 0xE2, 0xFE, 0xE6, 0x10};   // mov cx, 100; loop to itself; out
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    make(code, sizeof(code), false, false);
    set(0, WHvRegisterInterruptState, 2);                       // NMIs are masked,
    set(0, WHvX64RegisterDeliverabilityNotifications, 1);       // and their end is asked for
    moment.runs = 0;
    exit = run(0);
    assert_port(&exit, 0x10);
    assert_in_range(moment.runs, 50, 1000);
    assert_ok(WHvDeleteVirtualProcessor(partition, 0));
    assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
    start_at(0, CODE);
    moment.runs = 0;
    exit = run(0);
    assert_port(&exit, 0x10);
    assert_in_range(moment.runs, 1, 20);
    assert_ok(WHvDeletePartition(partition));
}

static void request(WHV_INTERRUPT_TYPE type, UINT32 vp, UINT32 vector)
{
    WHV_INTERRUPT_CONTROL interrupt;

    memset(&interrupt, 0, sizeof(interrupt));
    interrupt.Type = type;
    interrupt.Destination = vp;
    interrupt.Vector = vector;
    assert_ok(WHvRequestInterrupt(partition, &interrupt, sizeof(interrupt)));
}

static void *cancel_second(void *ignored)
{
    (void)ignored;
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    assert_ok(WHvCancelRunVirtualProcessor(partition, 1, 0));
    return NULL;
}

// Messages to a processor that does not exist are dropped.
static void test_message_to_nobody(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;
    pthread_t thread;

    (void)state;
    make(out_al, sizeof(out_al), true, false);
    assert_ok(WHvCreateVirtualProcessor(partition, 1, 0));
    assert_ok(WHvDeleteVirtualProcessor(partition, 1));
    request(WHvX64InterruptTypeInit, 1, 0);
    request(WHvX64InterruptTypeSipi, 1, START >> 12);
    assert_ok(WHvCreateVirtualProcessor(partition, 1, 0));
    assert_int_equal(pthread_create(&thread, NULL, cancel_second, NULL), 0);
    assert_int_equal(run(1).ExitReason, WHvRunVpExitReasonCanceled);
    pthread_join(thread, NULL);
    request(WHvX64InterruptTypeInit, 1, 0);
    request(WHvX64InterruptTypeSipi, 1, START >> 12);
    exit = run(1);
    assert_port(&exit, 0x15);
    assert_ok(WHvDeletePartition(partition));
}

// A set call of several groups: where KVM does not take the last, it has none of them.
static void test_failed_set(void **state)
{
    static const struct { WHV_REGISTER_NAME first, second; UINT64 one, two; unsigned long fails; } cases[] = {
        {WHvX64RegisterLstar, WHvRegisterInternalActivityState, 0x1234, 2, KVM_SET_MP_STATE},
        {WHvX64RegisterLstar, (WHV_REGISTER_NAME)0x3038, 0x1234, 7, KVM_SET_LAPIC},       // initial count
        {(WHV_REGISTER_NAME)0x3038, WHvX64RegisterTscDeadline, 0x1234, 1, KVM_SET_MSRS},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const WHV_REGISTER_NAME names[] = {cases[i].first, cases[i].second};
        WHV_REGISTER_VALUE values[2];
        WHV_RUN_VP_EXIT_CONTEXT exit;
        UINT64 before[2];

        make(out_al, sizeof(out_al), true, false);
        for (int n = 0; n < 2; n++)
            before[n] = get(0, names[n]);
        memset(values, 0, sizeof(values));
        values[0].Reg64 = cases[i].one;
        values[1].Reg64 = cases[i].two;
        at(cases[i].fails, true, -EIO, NULL);
        assert_hr(WHvSetVirtualProcessorRegisters(partition, 0, names, 2, values), E_FAIL);
        assert_true(moment.acted);
        for (int n = 0; n < 2; n++)
            assert_int_equal(get(0, names[n]), before[n]);
        exit = run(0);
        assert_port(&exit, 0x10);
        for (int n = 0; n < 2; n++)
            assert_int_equal(get(0, names[n]), before[n]);
        assert_ok(WHvDeletePartition(partition));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_canceled_before_completion),
        cmocka_unit_test(test_deleted_before_completion),
        cmocka_unit_test(test_canceled_at_bad_msr),
        cmocka_unit_test(test_stepping_ends_with_processor),
        cmocka_unit_test(test_message_to_nobody),
        cmocka_unit_test(test_failed_set),
    };
    struct engine_status status;

    setenv("BULKHEAD_ENGINE", "kvm", 1);
    engine_kvm.probe(&status);
    if (!status.usable) {
        printf("skipped: %s\n", status.text);
        return NOT_USABLE;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
