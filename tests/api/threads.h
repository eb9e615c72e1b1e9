// For tests with several threads: a thread that runs a processor, waiting with a limit, and real-mode
// guests with a local APIC.
#ifndef BULKHEAD_TESTS_API_THREADS_H
#define BULKHEAD_TESTS_API_THREADS_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "api.h"

#define COUNTER 0x2000u     // where guests count
#define LIMIT_SECONDS 60    // a test that waits longer has failed; a busy machine does not get there

static inline time_t seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

static inline void pause_briefly(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

// Wait for something that another thread is bound to do.
#define EVENTUALLY(condition)                                                                                \
    do {                                                                                                     \
        time_t limit_ = seconds() + LIMIT_SECONDS;                                                           \
        while (!(condition)) {                                                                               \
            assert_true(seconds() < limit_);                                                                 \
            pause_briefly();                                                                                 \
        }                                                                                                    \
    } while (0)

static inline UINT32 load32(const uint8_t *memory, UINT64 gpa)
{
    return __atomic_load_n((const UINT32 *)(const void *)(memory + gpa), __ATOMIC_ACQUIRE);
}

static inline void store32(uint8_t *memory, UINT64 gpa, UINT32 value)
{
    __atomic_store_n((UINT32 *)(void *)(memory + gpa), value, __ATOMIC_RELEASE);
}

// A thread inside one WHvRunVirtualProcessor.
struct runner {
    WHV_PARTITION_HANDLE partition;
    UINT32 vp;
    HRESULT hr;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    pthread_t thread;
    atomic_bool done;
};

static inline void *runner_main(void *argument)
{
    struct runner *r = argument;

    r->hr = WHvRunVirtualProcessor(r->partition, r->vp, &r->exit, sizeof(r->exit));
    atomic_store(&r->done, true);
    return NULL;
}

static inline void start(struct runner *r, WHV_PARTITION_HANDLE p, UINT32 vp)
{
    memset(r, 0, sizeof(*r));
    r->partition = p;
    r->vp = vp;
    assert_int_equal(pthread_create(&r->thread, NULL, runner_main, r), 0);
}

static inline void finish(struct runner *r)
{
    EVENTUALLY(atomic_load(&r->done));
    pthread_join(r->thread, NULL);
}

static inline void cancel(struct runner *r)
{
    assert_ok(WHvCancelRunVirtualProcessor(r->partition, r->vp, 0));
    finish(r);
    assert_ok(r->hr);
    assert_int_equal(r->exit.ExitReason, WHvRunVpExitReasonCanceled);
}

static inline bool halted(WHV_PARTITION_HANDLE p, UINT32 vp)
{
    WHV_INTERNAL_ACTIVITY_REGISTER activity = {
        .AsUINT64 = get_register(p, vp, WHvRegisterInternalActivityState)};

    return activity.HaltSuspend;
}

// Change 32-bit registers of a local APIC: pairs of offset and value, ended by offset 0.
static inline void set_apic(WHV_PARTITION_HANDLE p, UINT32 vp, const UINT32 *pairs)
{
    uint8_t page[PAGE] __attribute__((aligned(16)));

    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(p, vp, page, sizeof(page), NULL));
    for (; pairs[0]; pairs += 2)
        memcpy(page + pairs[0], &pairs[1], sizeof(pairs[1]));
    assert_ok(WHvSetVirtualProcessorInterruptControllerState2(p, vp, page, sizeof(page)));
}

// In real mode ES reaches the local APIC when its base says so.
static inline void es_to_apic(WHV_PARTITION_HANDLE p, UINT32 vp)
{
    WHV_REGISTER_NAME name = WHvX64RegisterEs;
    WHV_REGISTER_VALUE es;

    assert_ok(WHvGetVirtualProcessorRegisters(p, vp, &name, 1, &es));
    es.Segment.Base = 0xFEE00000;
    assert_ok(WHvSetVirtualProcessorRegisters(p, vp, &name, 1, &es));
}

// Processors with local APICs that are switched on; 16 pages of memory at 0. The first one is at CODE.
static inline WHV_PARTITION_HANDLE apic_guest(uint8_t *memory, UINT32 processors, const void *code,
                                              size_t size)
{
    WHV_PARTITION_HANDLE p = created(processors);

    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic));
    assert_ok(WHvSetupPartition(p));
    memset(memory, 0, 16 * PAGE);
    memcpy(memory + CODE, code, size);
    assert_ok(WHvMapGpaRange(p, memory, 0, 16 * PAGE, RWX));
    for (UINT32 vp = 0; vp < processors; vp++) {
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
        set_apic(p, vp, (const UINT32[]){0xF0, 0x1FF, 0});
        es_to_apic(p, vp);
        set_register(p, vp, WHvX64RegisterRsp, 0x8000 + 0x800 * vp);
    }
    start_at(p, 0, CODE);
    return p;
}

// Real mode: the handler of a vector, as code at 0x4000 + 64 * vector.
static inline void set_handler(uint8_t *memory, unsigned int vector, const void *code, size_t size)
{
    UINT32 entry = (0x400 + 4 * vector) << 16;      // segment:offset, the offset 0

    memcpy(memory + 0x4000 + 64 * vector, code, size);
    memcpy(memory + 4 * vector, &entry, sizeof(entry));
}

static inline HRESULT request(WHV_PARTITION_HANDLE p, WHV_INTERRUPT_TYPE type, UINT32 destination,
                              UINT32 vector)
{
    WHV_INTERRUPT_CONTROL interrupt;

    memset(&interrupt, 0, sizeof(interrupt));
    interrupt.Type = type;
    interrupt.Destination = destination;
    interrupt.Vector = vector;
    return WHvRequestInterrupt(p, &interrupt, sizeof(interrupt));
}

#endif
