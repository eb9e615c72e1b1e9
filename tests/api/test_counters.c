// Counters: what each set counts, exactly where docs/api/counters.md says so; time within wide bounds; pages that are
// really there.
#include "modes.h"
#include "threads.h"

#include <unistd.h>
#include <sys/mman.h>

#define MIB (1024u * 1024u)
#define PORT 0x10

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

// The soft engine sees all that the guest does; on kvm the kernel does most of it without a word.
static bool sees_all(void)
{
    return strcmp(engine_name(), "soft") == 0;
}

static void get(WHV_PARTITION_HANDLE p, WHV_PROCESSOR_COUNTER_SET set, void *counters, UINT32 size)
{
    UINT32 written = 0;

    memset(counters, 0xFF, size);
    assert_ok(WHvGetVirtualProcessorCounters(p, 0, set, counters, size, &written));
    assert_int_equal(written, size);
}

static WHV_PROCESSOR_INTERCEPT_COUNTERS intercepts(WHV_PARTITION_HANDLE p)
{
    WHV_PROCESSOR_INTERCEPT_COUNTERS c;

    get(p, WHvProcessorCounterSetIntercepts, &c, sizeof(c));
    return c;
}

static WHV_PROCESSOR_EVENT_COUNTERS events(WHV_PARTITION_HANDLE p)
{
    WHV_PROCESSOR_EVENT_COUNTERS c;

    get(p, WHvProcessorCounterSetEvents, &c, sizeof(c));
    return c;
}

static WHV_PROCESSOR_APIC_COUNTERS apic(WHV_PARTITION_HANDLE p)
{
    WHV_PROCESSOR_APIC_COUNTERS c;

    get(p, WHvProcessorCounterSetApic, &c, sizeof(c));
    return c;
}

static WHV_PROCESSOR_RUNTIME_COUNTERS runtime(WHV_PARTITION_HANDLE p)
{
    WHV_PROCESSOR_RUNTIME_COUNTERS c;

    get(p, WHvProcessorCounterSetRuntime, &c, sizeof(c));
    assert_true(c.HypervisorRuntime100ns <= c.TotalRuntime100ns);
    return c;
}

static WHV_RUN_VP_EXIT_CONTEXT run_to(WHV_PARTITION_HANDLE p, WHV_RUN_VP_EXIT_REASON reason)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = run(p, 0);

    assert_int_equal(exit.ExitReason, reason);
    return exit;
}

// ---- The calls -----------------------------------------------------------------------------------------

static void test_processor_calls(void **state)
{
    static const struct { WHV_PROCESSOR_COUNTER_SET set; UINT32 size; } sets[] = {
        {WHvProcessorCounterSetRuntime, sizeof(WHV_PROCESSOR_RUNTIME_COUNTERS)},
        {WHvProcessorCounterSetIntercepts, sizeof(WHV_PROCESSOR_INTERCEPT_COUNTERS)},
        {WHvProcessorCounterSetEvents, sizeof(WHV_PROCESSOR_EVENT_COUNTERS)},
        {WHvProcessorCounterSetApic, sizeof(WHV_PROCESSOR_APIC_COUNTERS)},
        {WHvProcessorCounterSetSyntheticFeatures, sizeof(WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS)},
    };
    WHV_PARTITION_HANDLE p = created(1);
    UINT8 buffer[256], zero[256] = {0};
    UINT32 written;

    (void)state;
    assert_hr(WHvGetVirtualProcessorCounters(p, 0, WHvProcessorCounterSetRuntime, buffer, 256, NULL), INVALID_STATE);
    assert_ok(WHvSetupPartition(p));
    assert_hr(WHvGetVirtualProcessorCounters(p, 0, WHvProcessorCounterSetRuntime, buffer, 256, NULL),
              WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
        written = 0;
        assert_hr(WHvGetVirtualProcessorCounters(p, 0, sets[i].set, buffer, sets[i].size - 1, &written),
                  WHV_E_INSUFFICIENT_BUFFER);
        assert_int_equal(written, sets[i].size);
        written = 0;
        assert_hr(WHvGetVirtualProcessorCounters(p, 0, sets[i].set, NULL, 0, &written), WHV_E_INSUFFICIENT_BUFFER);
        assert_int_equal(written, sets[i].size);
        assert_hr(WHvGetVirtualProcessorCounters(p, 0, sets[i].set, NULL, 256, NULL), E_POINTER);
        // Larger than needed, and nowhere to write the size to.
        memset(buffer, 0xAA, sizeof(buffer));
        assert_ok(WHvGetVirtualProcessorCounters(p, 0, sets[i].set, buffer, sizeof(buffer), NULL));
        assert_int_equal(buffer[sets[i].size], 0xAA);
        // Nothing has run.
        assert_memory_equal(buffer, zero, sets[i].size);
    }
    for (UINT32 set = 5; set < 8; set++)
        assert_hr(WHvGetVirtualProcessorCounters(p, 0, (WHV_PROCESSOR_COUNTER_SET)set, buffer, 256, NULL),
                  WHV_E_UNKNOWN_PROPERTY);
    assert_hr(WHvGetVirtualProcessorCounters(p, 0, (WHV_PROCESSOR_COUNTER_SET)-1, buffer, 256, NULL),
              WHV_E_UNKNOWN_PROPERTY);
    assert_ok(WHvDeletePartition(p));
    assert_hr(WHvGetVirtualProcessorCounters(p, 0, WHvProcessorCounterSetRuntime, buffer, 256, NULL), E_INVALIDARG);
}

static void test_partition_calls(void **state)
{
    WHV_PARTITION_MEMORY_COUNTERS c[2];
    WHV_PARTITION_HANDLE p = created(1);
    UINT32 written = 0;

    (void)state;
    assert_hr(WHvGetPartitionCounters(p, WHvPartitionCounterSetMemory, c, sizeof(c), NULL), INVALID_STATE);
    assert_ok(WHvSetupPartition(p));
    assert_hr(WHvGetPartitionCounters(p, (WHV_PARTITION_COUNTER_SET)1, c, sizeof(c), NULL), WHV_E_UNKNOWN_PROPERTY);
    assert_hr(WHvGetPartitionCounters(p, WHvPartitionCounterSetMemory, c, 23, &written), WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(written, 24);
    assert_hr(WHvGetPartitionCounters(p, WHvPartitionCounterSetMemory, NULL, 24, &written), E_POINTER);
    written = 0;
    memset(c, 0xAA, sizeof(c));
    assert_ok(WHvGetPartitionCounters(p, WHvPartitionCounterSetMemory, c, sizeof(c), &written));
    assert_int_equal(written, 24);
    assert_int_equal(c[0].Mapped4KPageCount | c[0].Mapped2MPageCount | c[0].Mapped1GPageCount, 0);
    assert_int_equal(c[1].Mapped4KPageCount, 0xAAAAAAAAAAAAAAAA);
    assert_ok(WHvDeletePartition(p));
    assert_hr(WHvGetPartitionCounters(p, WHvPartitionCounterSetMemory, c, sizeof(c), NULL), E_INVALIDARG);
}

// ---- Counts --------------------------------------------------------------------------------------------

static void test_exits(void **state)
{
    static const uint8_t code[] = {
        0xE6, PORT,             // out PORT, al
        0xA2, 0x00, 0xE0,       // mov [0xE000], al: nothing is there
        0xF4,                   // hlt
    };
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_PROCESSOR_INTERCEPT_COUNTERS c;

    (void)state;
    assert_ok(WHvUnmapGpaRange(p, 0xE000, PAGE));
    for (UINT32 i = 0; i < 300; i++) {
        set_register(p, 0, WHvX64RegisterRip, CODE);
        run_to(p, WHvRunVpExitReasonX64IoPortAccess);
        set_register(p, 0, WHvX64RegisterRip, CODE + 2);
        run_to(p, WHvRunVpExitReasonMemoryAccess);
        set_register(p, 0, WHvX64RegisterRip, CODE + 5);
        run_to(p, WHvRunVpExitReasonX64Halt);
    }
    assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
    run_to(p, WHvRunVpExitReasonCanceled);
    c = intercepts(p);
    assert_int_equal(c.IoInstructions.Count, 300);
    assert_int_equal(c.HaltInstructions.Count, 300);
    assert_true(c.PageFaultIntercepts.Count >= 300);
    assert_true(c.OtherIntercepts.Count >= sees_all());
    if (sees_all()) {
        assert_int_equal(c.PageFaultIntercepts.Count, 300);
        assert_int_equal(c.OtherIntercepts.Count, 1);
        assert_int_equal(c.EmulatedInstructions.Count, 0);
        assert_int_equal(c.PendingInterrupts.Count, 0);
        assert_int_equal(c.CpuidInstructions.Count + c.MsrAccesses.Count + c.ControlRegisterAccesses.Count
                         + c.DebugRegisterAccesses.Count + c.PageInvalidations.Count + c.RdpmcInstructions.Count
                         + c.Hypercalls.Count + c.NestedPageFaultIntercepts.Count, 0);
    }
    // Enough of them for the estimate to have seen some.
    assert_true(c.IoInstructions.Time100ns + c.PageFaultIntercepts.Time100ns + c.HaltInstructions.Time100ns > 0);
    assert_ok(WHvDeletePartition(p));
}

static void test_instructions(void **state)
{
    static const uint8_t code[] = {
        0xB9, 0x0A, 0x00,                       //       mov cx, 10
        0x0F, 0x20, 0xC0,                       // next: mov eax, cr0
        0x0F, 0x22, 0xC0,                       //       mov cr0, eax
        0x0F, 0x22, 0xD8,                       //       mov cr3, eax
        0x0F, 0x01, 0x3E, 0x00, 0x00,           //       invlpg [0]
        0x0F, 0x23, 0xC0,                       //       mov dr0, eax
        0x0F, 0x21, 0xC2,                       //       mov edx, dr0
        0x51,                                   //       push cx
        0x66, 0xB9, 0x77, 0x02, 0x00, 0x00,     //       mov ecx, 0x277: PAT
        0x0F, 0x32,                             //       rdmsr
        0x0F, 0x30,                             //       wrmsr
        0x31, 0xC0,                             //       xor ax, ax
        0x0F, 0xA2,                             //       cpuid
        0x59,                                   //       pop cx
        0xE2, 0xDA,                             //       loop next
        0xF4,                                   //       hlt
    };
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_PROCESSOR_INTERCEPT_COUNTERS c;

    (void)state;
    set_register(p, 0, WHvX64RegisterRsp, 0x8000);
    run_to(p, WHvRunVpExitReasonX64Halt);
    c = intercepts(p);
    assert_int_equal(c.HaltInstructions.Count, 1);
    assert_int_equal(c.IoInstructions.Count, 0);
    if (sees_all()) {
        assert_int_equal(c.ControlRegisterAccesses.Count, 20);
        assert_int_equal(c.PageInvalidations.Count, 20);
        assert_int_equal(c.DebugRegisterAccesses.Count, 20);
        assert_int_equal(c.MsrAccesses.Count, 20);
        assert_int_equal(c.CpuidInstructions.Count, 10);
    }
    assert_ok(WHvDeletePartition(p));
}

static void test_msr_exits(void **state)
{
    static const uint8_t code[] = {
        0x66, 0xB9, 0x99, 0x99, 0x00, 0x00,     // mov ecx, 0x9999: none
        0x0F, 0x32,                             // rdmsr
    };
    WHV_EXTENDED_VM_EXITS exits = {.X64MsrExit = 1};
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_exits(exits));
    p = guest(memory, code, sizeof(code));
    set_exits(p, exits);
    for (int i = 0; i < 5; i++)
        run_to(p, WHvRunVpExitReasonX64MsrAccess);
    assert_int_equal(intercepts(p).MsrAccesses.Count, 5);
    assert_ok(WHvDeletePartition(p));
}

static void test_rdpmc(void **state)
{
    static const uint8_t code[] = {0x0F, 0x33}, handler[] = {0xF4};     // rdpmc; hlt
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));

    (void)state;
    set_handler(memory, 13, handler, sizeof(handler));
    set_register(p, 0, WHvX64RegisterRsp, 0x8000);
    set_register(p, 0, WHvX64RegisterRcx, 0x1234);
    run_to(p, WHvRunVpExitReasonX64Halt);
    if (sees_all()) {
        assert_int_equal(intercepts(p).RdpmcInstructions.Count, 1);
        assert_int_equal(events(p).ExceptionCount, 1);
    }
    assert_ok(WHvDeletePartition(p));
}

// Exceptions, INT n, which is none, and interrupts.
static void test_events(void **state)
{
    static const uint8_t code[] = {
        0x0F, 0x0B,             // ud2
        0xCD, 0x40,             // int 0x40
        0xCC,                   // int3
        0xF4,                   // hlt
    };
    static const uint8_t skip[] = {
        0x89, 0xE5,             // mov bp, sp
        0x83, 0x46, 0x00, 0x02, // add word [bp+0], 2: past the UD2
        0xCF,                   // iret
    };
    static const uint8_t back[] = {0xCF};
    WHV_X64_PENDING_INTERRUPTION_REGISTER pending = {.AsUINT64 = 0};
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_PROCESSOR_EVENT_COUNTERS e;

    (void)state;
    set_handler(memory, 6, skip, sizeof(skip));
    set_handler(memory, 3, back, sizeof(back));
    set_handler(memory, 0x40, back, sizeof(back));
    set_register(p, 0, WHvX64RegisterRsp, 0x8000);
    run_to(p, WHvRunVpExitReasonX64Halt);
    e = events(p);
    if (sees_all())
        assert_int_equal(e.ExceptionCount, 2);
    assert_int_equal(e.PageFaultCount, 0);
    assert_int_equal(e.InterruptCount, 0);
    pending.InterruptionPending = 1;
    pending.InterruptionType = WHvX64PendingInterrupt;
    pending.InterruptionVector = 0x40;
    set_register(p, 0, WHvRegisterPendingInterruption, pending.AsUINT64);
    set_register(p, 0, WHvX64RegisterRip, CODE + 5);
    run_to(p, WHvRunVpExitReasonX64Halt);
    assert_int_equal(events(p).InterruptCount, 1);
    assert_int_equal(events(p).ExceptionCount, e.ExceptionCount);
    assert_ok(WHvDeletePartition(p));
}

static void test_page_faults(void **state)
{
    static const uint8_t code[] = {0x8A, 0x04, 0x25, 0x00, 0x00, 0x50, 0x00};       // mov al, [0x500000]
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_PROCESSOR_EVENT_COUNTERS e;

    (void)state;
    enter_long(p, memory);
    set_gate(memory, true, 14);
    run_to(p, WHvRunVpExitReasonX64IoPortAccess);
    e = events(p);
    if (sees_all()) {
        assert_int_equal(e.PageFaultCount, 1);
        assert_int_equal(e.ExceptionCount, 0);
    }
    assert_ok(WHvDeletePartition(p));
}

// A window's exit, and the interrupt that is then injected.
static void test_windows(void **state)
{
    static const uint8_t code[] = {0xFB, 0x90, 0x90, 0xEB, 0xFC};       // sti; nop; nop; jmp to the second nop
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));

    (void)state;
    set_register(p, 0, WHvX64RegisterDeliverabilityNotifications, 2);   // InterruptNotification
    run_to(p, WHvRunVpExitReasonX64InterruptWindow);
    assert_true(intercepts(p).PendingInterrupts.Count >= 1);
    if (sees_all())
        assert_int_equal(intercepts(p).PendingInterrupts.Count, 1);
    assert_ok(WHvDeletePartition(p));
}

static void test_apic(void **state)
{
    static const uint8_t code[] = {
        0x66, 0x31, 0xC0,                               // xor eax, eax
        0x26, 0x66, 0xA3, 0x80, 0x00,                   // mov es:[0x80], eax: TPR
        0x26, 0x66, 0xA1, 0x80, 0x00,                   // mov eax, es:[0x80]
        0x26, 0x66, 0xA3, 0xB0, 0x00,                   // mov es:[0xB0], eax: EOI
        0x26, 0x66, 0xA3, 0xB0, 0x00,                   // the same
        0x66, 0xB8, 0x40, 0x00, 0x04, 0x00,             // mov eax, 0x00040040: to itself
        0x26, 0x66, 0xA3, 0x00, 0x03,                   // mov es:[0x300], eax: ICR
        0x66, 0xB8, 0x41, 0x00, 0x0C, 0x00,             // mov eax, 0x000C0041: to all others
        0x26, 0x66, 0xA3, 0x00, 0x03,                   // mov es:[0x300], eax
        0x0F, 0x20, 0xC0,                               // mov eax, cr0
        0xE6, PORT,                                     // out PORT, al
    };
    WHV_PARTITION_HANDLE p = apic_guest(memory, 2, code, sizeof(code));
    WHV_PROCESSOR_APIC_COUNTERS a;

    (void)state;
    run_to(p, WHvRunVpExitReasonX64IoPortAccess);
    a = apic(p);
    if (sees_all()) {
        assert_int_equal(a.MmioAccessCount, 6);
        assert_int_equal(a.TprAccessCount, 2);
        assert_int_equal(a.EoiAccessCount, 2);
        assert_int_equal(a.SentIpiCount, 1);
        assert_int_equal(a.SelfIpiCount, 1);
    } else {
        assert_int_equal(a.MmioAccessCount + a.TprAccessCount + a.EoiAccessCount + a.SentIpiCount + a.SelfIpiCount, 0);
        print_message("refused as documented: KVM tells nothing of what a guest does with its local APIC\n");
    }
    assert_ok(WHvDeletePartition(p));
}

// A new processor of the same index begins at 0, whatever the kernel has kept of the old one.
static void test_starts_over(void **state)
{
    static const uint8_t code[] = {0xE6, PORT}, zero[sizeof(WHV_PROCESSOR_INTERCEPT_COUNTERS)] = {0};
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_PROCESSOR_INTERCEPT_COUNTERS c;

    (void)state;
    run_to(p, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(intercepts(p).IoInstructions.Count, 1);
    assert_ok(WHvDeleteVirtualProcessor(p, 0));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    c = intercepts(p);
    assert_memory_equal(&c, zero, sizeof(c));
    assert_ok(WHvDeletePartition(p));
}

// ---- Time ----------------------------------------------------------------------------------------------

static double clock_seconds(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

struct timed_run { WHV_PARTITION_HANDLE p; double cpu, wall; };

static void *timed_run(void *argument)
{
    struct timed_run *r = argument;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    r->wall = -clock_seconds(CLOCK_MONOTONIC);
    r->cpu = -clock_seconds(CLOCK_THREAD_CPUTIME_ID);
    assert_ok(WHvRunVirtualProcessor(r->p, 0, &exit, sizeof(exit)));
    r->cpu += clock_seconds(CLOCK_THREAD_CPUTIME_ID);
    r->wall += clock_seconds(CLOCK_MONOTONIC);
    return NULL;
}

// A guest that computes: its time is that of its thread, seen from another one while it runs. What the host gives to
// others in between is not to be in it on soft, and may be on kvm.
static void test_computing(void **state)
{
    static const uint8_t code[] = {0xEB, 0xFE};         // jmp to itself
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_PROCESSOR_RUNTIME_COUNTERS before = {0}, c;
    struct timed_run r = {.p = p};
    time_t limit = seconds() + LIMIT_SECONDS;
    pthread_t thread;
    double total;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, timed_run, &r), 0);
    do {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        c = runtime(p);
        assert_true(c.TotalRuntime100ns >= before.TotalRuntime100ns);
        assert_true(c.HypervisorRuntime100ns >= before.HypervisorRuntime100ns);
        before = c;
        assert_true(seconds() < limit);
    } while (c.TotalRuntime100ns < 4000000);            // 400 ms
    assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
    pthread_join(thread, NULL);
    c = runtime(p);
    total = (double)c.TotalRuntime100ns / 1e7;
    print_message("run time %.3f s, CPU time %.3f s, by the clock %.3f s, the engine's own %.3f s\n", total, r.cpu, r.wall,
                  (double)c.HypervisorRuntime100ns / 1e7);
    assert_true(total >= 0.75 * r.cpu);
    assert_true(total <= 1.25 * (sees_all() ? r.cpu : r.wall));
    assert_true((double)c.HypervisorRuntime100ns / 1e7 <= 0.5 * total);
    assert_ok(WHvDeletePartition(p));
}

// One exit after the other: an estimate on soft. It holds no more than the thread's time, and the better part of what
// the calls take.
static void test_exiting(void **state)
{
    static const uint8_t code[] = {0xE6, PORT};
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    UINT32 count = rounds(400000);
    double cpu, wall, total;

    (void)state;
    wall = -clock_seconds(CLOCK_MONOTONIC);
    cpu = -clock_seconds(CLOCK_THREAD_CPUTIME_ID);
    for (UINT32 i = 0; i < count; i++)
        run(p, 0);
    cpu += clock_seconds(CLOCK_THREAD_CPUTIME_ID);
    wall += clock_seconds(CLOCK_MONOTONIC);
    total = (double)runtime(p).TotalRuntime100ns / 1e7;
    print_message("%u exits: run time %.4f s, CPU time %.4f s, by the clock %.4f s, the engine's own %.4f s, port %.4f s\n",
                  count, total, cpu, wall, (double)runtime(p).HypervisorRuntime100ns / 1e7,
                  (double)intercepts(p).IoInstructions.Time100ns / 1e7);
    assert_int_equal(intercepts(p).IoInstructions.Count, count);
    assert_true(total >= 0.2 * cpu);
    assert_true(total <= 1.5 * wall);
    assert_ok(WHvDeletePartition(p));
}

// A reset resets no figure, the kernel's own as little as the engine's.
static void test_reset(void **state)
{
    static const uint8_t code[] = {0xE6, PORT};
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    const UINT32 count = 1000;
    WHV_PROCESSOR_INTERCEPT_COUNTERS before, after;

    (void)state;
    for (UINT32 i = 0; i < count; i++)
        run(p, 0);
    before = intercepts(p);
    assert_ok(WHvResetPartition(p));
    start_at(p, 0, CODE);
    for (UINT32 i = 0; i < count; i++)
        run(p, 0);
    after = intercepts(p);
    print_message("emulated: %llu, then %llu\n", (unsigned long long)before.EmulatedInstructions.Count,
                  (unsigned long long)after.EmulatedInstructions.Count);
    assert_int_equal(before.IoInstructions.Count, count);
    assert_int_equal(after.IoInstructions.Count, 2 * count);
    assert_true(after.EmulatedInstructions.Count >= before.EmulatedInstructions.Count * 3 / 2);
    assert_ok(WHvDeletePartition(p));
}

// A processor that sleeps in its run does not run.
static void test_parked(void **state)
{
    static const uint8_t code[] = {0xF4, 0xEB, 0xFD};   // hlt; jmp to it
    WHV_PARTITION_HANDLE p = apic_guest(memory, 1, code, sizeof(code));
    struct timed_run r = {.p = p};
    pthread_t thread;
    double total;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, timed_run, &r), 0);
    EVENTUALLY(halted(p, 0));
    nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
    assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
    pthread_join(thread, NULL);
    total = (double)runtime(p).TotalRuntime100ns / 1e7;
    print_message("run time %.4f s, CPU time %.4f s, by the clock %.4f s\n", total, r.cpu, r.wall);
    assert_true(total <= 0.5 * r.wall);
    assert_ok(WHvDeletePartition(p));
}

// ---- Pages ---------------------------------------------------------------------------------------------

// KVM on hardware counts what is in its own page tables: what the guest has touched. Elsewhere it is the host's tables,
// and what anybody has touched.
static bool by_host_tables(void)
{
    return sees_all() || engine_is_interpreted();
}

static WHV_PARTITION_MEMORY_COUNTERS pages(WHV_PARTITION_HANDLE p)
{
    WHV_PARTITION_MEMORY_COUNTERS c;

    assert_ok(WHvGetPartitionCounters(p, WHvPartitionCounterSetMemory, &c, sizeof(c), NULL));
    return c;
}

static uint8_t *reserve(size_t size, int flags, int fd)
{
    void *m = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

    assert_ptr_not_equal(m, MAP_FAILED);
    return m;
}

// The pages of 4 KiB that are mapped, those in larger ones among them.
static UINT64 small_pages(WHV_PARTITION_HANDLE p)
{
    WHV_PARTITION_MEMORY_COUNTERS c = pages(p);

    return c.Mapped4KPageCount + 512 * c.Mapped2MPageCount + 262144 * c.Mapped1GPageCount;
}

static void check_touches(int flags, int fd)
{
    static const uint8_t code[] = {0xA2, 0x00, 0x00, 0xE6, PORT};       // mov [0], al; out PORT, al
    uint8_t *m = reserve(64 * MIB, flags, fd), *own = reserve(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    WHV_PARTITION_HANDLE p = set_up(1);

    (void)madvise(m, 64 * MIB, MADV_NOHUGEPAGE);
    assert_ok(WHvMapGpaRange(p, m, 0, 64 * MIB, RWX));
    assert_int_equal(small_pages(p), 0);
    for (size_t i = 0; i < 5; i++)
        m[i * 3 * MIB + PAGE] = 1;
    assert_int_equal(small_pages(p), by_host_tables() ? 5 : 0);
    // The guest touches one of them and a new one.
    memcpy(m + CODE, code, sizeof(code));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    start_at(p, 0, CODE);
    run_to(p, WHvRunVpExitReasonX64IoPortAccess);
    if (by_host_tables())
        assert_int_equal(small_pages(p), 6);
    else
        assert_true(small_pages(p) >= 2);
    // The same memory once more, a part of it, and something else.
    if (by_host_tables()) {
        assert_ok(WHvMapGpaRange(p, m, 0x10000000, 64 * MIB, RWX));
        assert_int_equal(small_pages(p), 12);
        assert_ok(WHvMapGpaRange(p, m + 3 * MIB, 0x20000000, 6 * MIB, RWX));
        assert_int_equal(small_pages(p), 14);
        own[0] = 1;
        assert_ok(WHvMapGpaRange(p, own, 0x30000000, PAGE, RWX));
        assert_int_equal(small_pages(p), 15);
        assert_ok(WHvUnmapGpaRange(p, 0x10000000, 64 * MIB));
        assert_int_equal(small_pages(p), 9);
        // What goes back to the host is not there any more.
        assert_ok(WHvUnmapGpaRange(p, 0x20000000, 6 * MIB));
        assert_int_equal(madvise(m, 64 * MIB, flags & MAP_SHARED ? MADV_REMOVE : MADV_DONTNEED), 0);
        assert_int_equal(small_pages(p), 1);
    }
    assert_ok(WHvUnmapGpaRange(p, 0, 64 * MIB));
    if (by_host_tables())
        assert_ok(WHvUnmapGpaRange(p, 0x30000000, PAGE));
    assert_int_equal(small_pages(p), 0);
    assert_ok(WHvDeletePartition(p));
    munmap(m, 64 * MIB);
    munmap(own, PAGE);
}

static void test_private_pages(void **state)
{
    (void)state;
    check_touches(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

static void test_shared_pages(void **state)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 64 * MIB), 0);
    check_touches(MAP_SHARED, fd);
    close(fd);
}

// What the kernel says of the mapping at `address` in smaps, in KiB.
static UINT64 smaps(const void *address, const char *field)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    bool here = false;
    UINT64 value = 0;

    assert_non_null(file);
    while (fgets(line, sizeof(line), file)) {
        unsigned long first, end;

        if (sscanf(line, "%lx-%lx ", &first, &end) == 2)
            here = first <= (uintptr_t)address && (uintptr_t)address < end;
        else if (here && strncmp(line, field, strlen(field)) == 0)
            value = strtoull(line + strlen(field), NULL, 10);
    }
    fclose(file);
    return value;
}

static void test_large_pages(void **state)
{
    uint8_t *m = reserve(18 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    uint8_t *aligned = (uint8_t *)(((uintptr_t)m + 2 * MIB - 1) & ~(uintptr_t)(2 * MIB - 1));
    WHV_PARTITION_HANDLE p = set_up(1);
    WHV_PARTITION_MEMORY_COUNTERS c;

    (void)state;
    if (!by_host_tables())
        SKIP_BECAUSE("KVM maps large pages when the guest touches them");
    assert_int_equal(madvise(aligned, 8 * MIB, MADV_HUGEPAGE), 0);
    memset(aligned, 1, 4 * MIB);
    aligned[4 * MIB] = 1;
    if (smaps(aligned, "AnonHugePages:") < 4 * 1024)
        SKIP_BECAUSE("the host's kernel gives no large pages here");
    assert_ok(WHvMapGpaRange(p, aligned, 0, 8 * MIB, RWX));
    c = pages(p);
    assert_int_equal(c.Mapped2MPageCount, smaps(aligned, "AnonHugePages:") / 2048);
    assert_int_equal(c.Mapped4KPageCount, (smaps(aligned, "Rss:") - smaps(aligned, "AnonHugePages:")) / 4);
    assert_ok(WHvUnmapGpaRange(p, 0, 8 * MIB));
    // A part of it that is one large page, and a part that begins within one.
    assert_ok(WHvMapGpaRange(p, aligned, 0, 2 * MIB, RWX));
    assert_int_equal(pages(p).Mapped2MPageCount, 1);
    assert_int_equal(pages(p).Mapped4KPageCount, 0);
    assert_ok(WHvDeletePartition(p));
    munmap(m, 18 * MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_processor_calls),
        cmocka_unit_test(test_partition_calls),
        cmocka_unit_test(test_exits),
        cmocka_unit_test(test_instructions),
        cmocka_unit_test(test_msr_exits),
        cmocka_unit_test(test_rdpmc),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_page_faults),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_apic),
        cmocka_unit_test(test_starts_over),
        cmocka_unit_test(test_computing),
        cmocka_unit_test(test_exiting),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_parked),
        cmocka_unit_test(test_private_pages),
        cmocka_unit_test(test_shared_pages),
        cmocka_unit_test(test_large_pages),
    };

    return engine_run_tests(tests);
}
