// Two partitions with the same guest: one of the kvm engine over a stand-in for the kernel (fake_kvm.h), one
// of the soft engine. What the stand-in's guest does is written down in the test; what the client sees must
// be what the soft engine makes of the same code.
#ifndef BULKHEAD_TESTS_KVM_PAIR_H
#define BULKHEAD_TESTS_KVM_PAIR_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "WinHvPlatform.h"
#include "engine/kvm/kvm.h"
#include "engine/soft/soft.h"
#include "fake_kvm.h"

#define PAGE_BYTES 4096u
#define PAGES_MAPPED 12u        // from address 0 on
#define HOLE 0xC000u            // where nothing is
#define CODE 0x1000u            // what the guest runs
#define OTHER 0x2000u           // code that it can go on with
#define STACK 0x8000u

const struct engine *const engines[] = {&engine_kvm, &engine_soft, NULL};

enum { KVM, SOFT, PAIR };
static WHV_PARTITION_HANDLE pair[PAIR];
static uint8_t memory[PAIR][16 * PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

static const WHV_REGISTER_NAME pair_names[] = {
    WHvX64RegisterRax, WHvX64RegisterRcx, WHvX64RegisterRdx, WHvX64RegisterRbx, WHvX64RegisterRsp,
    WHvX64RegisterRbp, WHvX64RegisterRsi, WHvX64RegisterRdi, WHvX64RegisterRip, WHvX64RegisterRflags,
    WHvX64RegisterCs, WHvX64RegisterSs, WHvX64RegisterCr0, WHvX64RegisterCr2, WHvX64RegisterCr4,
    WHvX64RegisterCr8, WHvX64RegisterDr6, WHvX64RegisterDr7, WHvX64RegisterXmm0,
    WHvRegisterPendingInterruption, WHvRegisterPendingEvent, WHvRegisterInterruptState,
    WHvX64RegisterDeliverabilityNotifications, WHvX64RegisterApicBase,
};
#define PAIR_NAMES (sizeof pair_names / sizeof pair_names[0])

// ---- Partitions -------------------------------------------------------------------------------------------

static WHV_REGISTER_VALUE get_value(unsigned n, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof value);
    assert_ok(WHvGetVirtualProcessorRegisters(pair[n], 0, &name, 1, &value));
    return value;
}

static inline uint64_t get(WHV_REGISTER_NAME name) { return get_value(KVM, name).Reg64; }

static void set_value(WHV_REGISTER_NAME name, WHV_REGISTER_VALUE value)
{
    for (unsigned n = 0; n < PAIR; n++)
        assert_ok(WHvSetVirtualProcessorRegisters(pair[n], 0, &name, 1, &value));
}

static void set(WHV_REGISTER_NAME name, uint64_t number)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof value);
    value.Reg64 = number;
    set_value(name, value);
}

static inline void set_code_segment(uint64_t base)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof value);
    value.Segment = (WHV_X64_SEGMENT_REGISTER){.Base = base, .Limit = 0xFFFF, .Selector = (UINT16)(base >> 4),
                                               .Attributes = 0x9B};
    set_value(WHvX64RegisterCs, value);
}

static inline void set_notifications(bool nmi, bool interrupt, unsigned priority)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof value);
    value.DeliverabilityNotifications.NmiNotification = nmi;
    value.DeliverabilityNotifications.InterruptNotification = interrupt;
    value.DeliverabilityNotifications.InterruptPriority = priority & 15;
    set_value(WHvX64RegisterDeliverabilityNotifications, value);
}

static void put(uint32_t address, const void *bytes, size_t size)
{
    for (unsigned n = 0; n < PAIR; n++)
        memcpy(memory[n] + address, bytes, size);
}

#define PUT(address, ...) put(address, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

// The real-mode vector `n` is code at `address`, which writes to port 0x70.
static void put_handler(unsigned n, uint16_t address)
{
    uint16_t vector[2] = {address, 0};

    put(n * 4, vector, sizeof vector);
    PUT(address, 0xE6, 0x70);
}

static void map(unsigned n, uint64_t gpa, uint64_t size)
{
    assert_ok(WHvMapGpaRange(pair[n], memory[n] + gpa, gpa, size,
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
}

// A real-mode guest that is about to run what lies at CODE. `exits`: WHV_EXTENDED_VM_EXITS.
static void start(uint64_t exits, uint64_t exceptions)
{
    for (unsigned n = 0; n < PAIR; n++) {
        const UINT32 one = 1;
        WHV_X64_MSR_EXIT_BITMAP msrs;

        memset(&msrs, 0, sizeof msrs);
        msrs.UnhandledMsrs = 1;
        setenv("BULKHEAD_ENGINE", n == KVM ? "kvm" : "soft", 1);
        assert_ok(WHvCreatePartition(&pair[n]));
        assert_ok(WHvSetPartitionProperty(pair[n], WHvPartitionPropertyCodeProcessorCount, &one, sizeof one));
        assert_ok(WHvSetPartitionProperty(pair[n], WHvPartitionPropertyCodeExtendedVmExits, &exits,
                                          sizeof exits));
        assert_ok(WHvSetPartitionProperty(pair[n], WHvPartitionPropertyCodeExceptionExitBitmap, &exceptions,
                                          sizeof exceptions));
        if (exits & 2)
            assert_ok(WHvSetPartitionProperty(pair[n], WHvPartitionPropertyCodeX64MsrExitBitmap, &msrs,
                                              sizeof msrs));
        assert_ok(WHvSetupPartition(pair[n]));
        memset(memory[n], 0, sizeof memory[n]);
        map(n, 0, PAGES_MAPPED * PAGE_BYTES);
        assert_ok(WHvCreateVirtualProcessor(pair[n], 0, 0));
    }
    set_code_segment(0);
    set(WHvX64RegisterRip, CODE);
    set(WHvX64RegisterRsp, STACK);
    set(WHvX64RegisterRdx, 0);
}

// A test that fails inside a run leaves its partition behind: it cannot be deleted any more.
static bool inside_run;
static bool memory_hidden;      // some of it cannot be looked at
static unsigned run_calls;      // the calls to the kernel that the last run made, besides KVM_RUN

static int pair_teardown(void **state)
{
    (void)state;
    fake_forget();
    for (unsigned n = 0; n < PAIR; n++) {
        if (pair[n] && !(n == KVM && inside_run))
            (void)WHvDeletePartition(pair[n]);
        pair[n] = NULL;
    }
    inside_run = false;
    return 0;
}

// ---- Running ----------------------------------------------------------------------------------------------

static void check_same_state(void)
{
    WHV_REGISTER_VALUE values[PAIR][PAIR_NAMES];

    for (unsigned n = 0; n < PAIR; n++) {
        memset(values[n], 0, sizeof values[n]);
        assert_ok(WHvGetVirtualProcessorRegisters(pair[n], 0, pair_names, PAIR_NAMES, values[n]));
    }
    for (unsigned n = 0; n < PAIR_NAMES; n++)
        if (memcmp(&values[KVM][n], &values[SOFT][n], sizeof values[0][n]))
            fail_msg("register 0x%x: kvm %llx:%llx, soft %llx:%llx", pair_names[n],
                     (unsigned long long)values[KVM][n].Reg128.High64,
                     (unsigned long long)values[KVM][n].Reg128.Low64,
                     (unsigned long long)values[SOFT][n].Reg128.High64,
                     (unsigned long long)values[SOFT][n].Reg128.Low64);
}

static inline HRESULT run_kvm_to(WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    HRESULT hr;

    inside_run = true;
    run_calls = fake_kvm.calls;
    hr = WHvRunVirtualProcessor(pair[KVM], 0, exit, sizeof *exit);
    run_calls = fake_kvm.calls - run_calls;
    inside_run = false;
    return hr;
}

static inline WHV_RUN_VP_EXIT_CONTEXT run_kvm(void)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    memset(&exit, 0x5A, sizeof exit);
    assert_ok(run_kvm_to(&exit));
    fake_done();
    return exit;
}

// Both engines come to the same exit, in the same state.
static inline WHV_RUN_VP_EXIT_CONTEXT run_both(WHV_RUN_VP_EXIT_REASON reason)
{
    WHV_RUN_VP_EXIT_CONTEXT kvm = run_kvm(), soft;

    memset(&soft, 0xA5, sizeof soft);
    assert_ok(WHvRunVirtualProcessor(pair[SOFT], 0, &soft, sizeof soft));
    assert_int_equal(soft.ExitReason, reason);
    assert_int_equal(kvm.ExitReason, reason);
    for (size_t n = 0; n < sizeof kvm; n++)
        if (((uint8_t *)&kvm)[n] != ((uint8_t *)&soft)[n])
            fail_msg("exit 0x%x, byte %zu: kvm %02x, soft %02x; RIP kvm %llx, soft %llx", reason, n,
                     ((uint8_t *)&kvm)[n], ((uint8_t *)&soft)[n], (unsigned long long)kvm.VpContext.Rip,
                     (unsigned long long)soft.VpContext.Rip);
    check_same_state();
    if (!memory_hidden)
        assert_memory_equal(memory[KVM], memory[SOFT], sizeof memory[0]);
    return kvm;
}

static inline void run_to_port(unsigned port)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = run_both(WHvRunVpExitReasonX64IoPortAccess);

    assert_int_equal(exit.IoPortAccess.PortNumber, port);
}

// An OUT of one byte from AL, by hardware: what most tests end with.
#define OUT_ROW(port_) .guest = fake_port, .port = (port_), .size = 1, .length = 2

#endif
