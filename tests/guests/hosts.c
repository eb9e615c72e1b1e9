// The host's part of the guests that need one. A guest and its function here are one test in two halves:
// `run->step` counts the exits, and each step is written beside the instruction that makes it.
#include "hosts.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#define EXPECT(got, expected) expect(run, #got, (uint64_t)(got), (uint64_t)(expected))

static void expect(struct run *run, const char *what, uint64_t got, uint64_t expected)
{
    if (got != expected)
        run_fail(run, what, got, expected);
}

// Completes an instruction whose exit has no length.
static void advance(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit, unsigned length)
{
    run_set(run, vp, WHvX64RegisterRip, exit->VpContext.Rip + length);
}

enum answer host_of_apic(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    if (exit->ExitReason != WHvRunVpExitReasonMemoryAccess)
        return ANSWER_UNEXPECTED;
    EXPECT(exit->MemoryAccess.Gpa, 0xfee00030);
    EXPECT(exit->MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessRead);
    run_set(run, vp, WHvX64RegisterRax, 0x1234);
    advance(run, vp, exit, 3);
    return ANSWER_CONTINUE;
}

// ---- ports.asm

struct port_step {
    uint16_t port;
    uint8_t write, size, string, rep, length;
    uint32_t value;                 // what the guest writes, or gets
};

static const struct port_step port_steps[] = {
    { 0x10, 1, 1, 0, 0, 2, 0x5a },              // OUT 0x10, AL
    { 0x11, 1, 4, 0, 0, 2, 0x12345678 },        // OUT 0x11, EAX
    { 0x12, 1, 2, 0, 0, 3, 0x5678 },            // OUT 0x12, AX
    { 0xabcd, 1, 1, 0, 0, 1, 0x78 },            // OUT DX, AL
    { 0x20, 0, 1, 0, 0, 2, 0xee },              // IN AL, 0x20
    { 0x21, 0, 2, 0, 0, 3, 0xbeef },            // IN AX, 0x21
    { 0x22, 0, 4, 0, 0, 2, 0xcafebabe },        // IN EAX, 0x22
    { 0xffff, 0, 4, 0, 0, 1, 0x01020304 },      // IN EAX, DX
    { 0x30, 1, 1, 1, 0, 1, 0 },                 // OUTSB
    { 0x30, 1, 2, 1, 1, 3, 0 },                 // REP OUTSW
    { 0x30, 0, 4, 1, 1, 2, 0 },                 // REP INSD
};

static void check_string_port(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_X64_IO_PORT_ACCESS_CONTEXT *io = &exit->IoPortAccess;
    EXPECT(io->Rsi, run_get(run, vp, WHvX64RegisterRsi));
    EXPECT(io->Rdi, run_get(run, vp, WHvX64RegisterRdi));
    EXPECT(io->Rcx, run_get(run, vp, WHvX64RegisterRcx));
    EXPECT(io->Ds.Selector, 0x18);
    EXPECT(io->Es.Selector, 0x18);
    if (io->AccessInfo.RepPrefix)               // the client does the whole of it
        run_set(run, vp, WHvX64RegisterRcx, 0);
}

enum answer host_of_ports(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_X64_IO_PORT_ACCESS_CONTEXT *io = &exit->IoPortAccess;
    if (exit->ExitReason != WHvRunVpExitReasonX64IoPortAccess
        || run->step >= sizeof(port_steps) / sizeof(port_steps[0]))
        return ANSWER_UNEXPECTED;
    const struct port_step *s = &port_steps[run->step++];
    static const uint32_t masks[5] = { 0, 0xff, 0xffff, 0, 0xffffffff };
    EXPECT(io->PortNumber, s->port);
    EXPECT(io->AccessInfo.IsWrite, s->write);
    EXPECT(io->AccessInfo.AccessSize, s->size);
    EXPECT(io->AccessInfo.StringOp, s->string);
    EXPECT(io->AccessInfo.RepPrefix, s->rep);
    EXPECT(exit->VpContext.InstructionLength, s->length);
    EXPECT(io->InstructionByteCount >= s->length, 1);
    EXPECT(memcmp(io->InstructionBytes, run->memory + exit->VpContext.Rip, s->length), 0);
    EXPECT(io->Rax, run_get(run, vp, WHvX64RegisterRax));
    EXPECT(exit->VpContext.Cs.Selector, 0x20);
    EXPECT(exit->VpContext.ExecutionState.EferLma, 1);
    EXPECT(exit->VpContext.ExecutionState.Cr0Pe, 1);
    EXPECT(exit->VpContext.ExecutionState.Cpl, 0);
    if (s->string)
        check_string_port(run, vp, exit);
    else if (s->write)
        EXPECT(io->Rax & masks[s->size], s->value);
    else if (s->size == 4)
        run_set(run, vp, WHvX64RegisterRax, s->value);
    else
        run_set(run, vp, WHvX64RegisterRax, (io->Rax & ~(uint64_t)masks[s->size]) | s->value);
    run_skip(run, vp, exit);
    return ANSWER_CONTINUE;
}

// ---- memory.asm

#define MMIO 0x10000000u
#define ROM 0x10100000u
#define MOVING 0x10200000u
#define MANY 0x20000000u
#define MANY_COUNT 8192u

static uint8_t *memory_pages;       // one page of ROM, two to exchange, and those of MANY

static bool map(struct run *run, void *source, uint64_t gpa, uint64_t size, int flags)
{
    HRESULT result = WHvMapGpaRange(run->partition, source, gpa, size, (WHV_MAP_GPA_RANGE_FLAGS)flags);
    if (FAILED(result))
        run_fail(run, "WHvMapGpaRange", (UINT32)result, 0);
    return !FAILED(result);
}

enum { R = WHvMapGpaRangeFlagRead, W = WHvMapGpaRangeFlagWrite, X = WHvMapGpaRangeFlagExecute };

// Beside the ROM and a page that moves: 8,192 ranges, each with a source of its own, in an order that cannot
// be joined.
bool prepare_memory(struct run *run)
{
    const size_t size = (3 + MANY_COUNT) * 0x1000u;
    memory_pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_pages == MAP_FAILED)
        return false;
    memset(memory_pages, 0x90, 0x1000);
    memcpy(memory_pages, "\xb8\x77\x00\x00\x00\xc3", 6);      // MOV EAX, 0x77; RET
    memset(memory_pages + 0x1000, 0x11, 0x1000);
    memset(memory_pages + 0x2000, 0x22, 0x1000);
    bool ok =
        map(run, memory_pages, ROM, 0x1000, R | X) && map(run, memory_pages + 0x1000, MOVING, 0x1000, R | W);
    for (uint32_t i = 0; ok && i < MANY_COUNT; i++) {
        uint8_t *page = memory_pages + 0x3000 + 0x1000u * (MANY_COUNT - 1 - i);
        memcpy(page, &i, sizeof(i));
        ok = map(run, page, MANY + 0x2000u * i, 0x1000, R | W);
    }
    return ok;
}

static enum answer answer_move(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    HRESULT result = S_OK;
    switch (exit->IoPortAccess.Rax & 0xff) {
    case 1:             // the other page in the place of the first, without an unmap
        map(run, memory_pages + 0x2000, MOVING, 0x1000, R | W);
        break;
    case 2:
        result = WHvUnmapGpaRange(run->partition, MOVING, 0x1000);
        break;
    case 3:
        map(run, memory_pages + 0x1000, MOVING, 0x1000, R);
        break;
    default:
        return ANSWER_UNEXPECTED;
    }
    EXPECT((UINT32)result, 0);
    run_skip(run, vp, exit);
    return ANSWER_CONTINUE;
}

struct memory_step { uint64_t gpa; uint8_t type, unmapped, length; };

enum answer host_of_memory(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    static const struct memory_step steps[] = {
        { MMIO + 0x10, WHvMemoryAccessRead, 1, 2 },         // MOV EAX, [RBX]
        { MMIO + 0x10, WHvMemoryAccessWrite, 1, 2 },        // MOV [RBX], EAX
        { ROM, WHvMemoryAccessWrite, 0, 2 },                // the same, to ROM
        { ROM + 0xffc, WHvMemoryAccessWrite, 0, 3 },        // MOV [RBX], RAX, over the end of ROM
        { MMIO, WHvMemoryAccessExecute, 1, 0 },             // JMP RBX
        { MOVING, WHvMemoryAccessRead, 1, 2 },
        { MOVING, WHvMemoryAccessWrite, 0, 2 },
    };
    const WHV_MEMORY_ACCESS_CONTEXT *m = &exit->MemoryAccess;
    if (exit->ExitReason == WHvRunVpExitReasonX64IoPortAccess)
        return answer_move(run, vp, exit);
    if (exit->ExitReason != WHvRunVpExitReasonMemoryAccess || run->step >= sizeof(steps) / sizeof(steps[0]))
        return ANSWER_UNEXPECTED;
    const struct memory_step *s = &steps[run->step++];
    EXPECT(m->AccessInfo.AccessType, s->type);
    EXPECT(m->AccessInfo.GpaUnmapped, s->unmapped);
    EXPECT(m->AccessInfo.GvaValid, 1);
    EXPECT(m->Gpa, s->gpa);
    EXPECT(m->Gva, s->gpa);
    EXPECT(exit->VpContext.InstructionLength, 0);
    EXPECT(exit->VpContext.Rip, run_get(run, vp, WHvX64RegisterRip));
    if (s->type == WHvMemoryAccessExecute) {
        EXPECT(exit->VpContext.Rip, s->gpa);
        run_set(run, vp, WHvX64RegisterRip, run_get(run, vp, WHvX64RegisterRdx));
        return ANSWER_CONTINUE;
    }
    EXPECT(m->InstructionByteCount >= s->length, 1);
    EXPECT(memcmp(m->InstructionBytes, run->memory + exit->VpContext.Rip, s->length), 0);
    if (s->type == WHvMemoryAccessRead)
        run_set(run, vp, WHvX64RegisterRax, 0x55aa);
    advance(run, vp, exit, s->length);
    return ANSWER_CONTINUE;
}

// ---- moving.asm

enum { EXCHANGES = 3000, CHANGES = 100 };
#define MOVING_STARTED 0x100000u
#define MOVING_STOP 0x100040u
#define MOVING_SEEN 0x100080u

static pthread_t mover;
static atomic_bool mover_stop;

static bool moved_enough(const struct run *run, int exchanges)
{
    const uint32_t *seen = (const uint32_t *)(run->memory + MOVING_SEEN);
    return mover_stop || (exchanges >= EXCHANGES && __atomic_load_n(seen, __ATOMIC_RELAXED) >= CHANGES);
}

static void *move_pages(void *argument)
{
    struct run *run = argument;
    while (!mover_stop && !__atomic_load_n(run->memory + MOVING_STARTED, __ATOMIC_ACQUIRE))
        sched_yield();
    for (int i = 0; !moved_enough(run, i); i++) {
        if (i % 3 == 2)
            EXPECT((UINT32)WHvUnmapGpaRange(run->partition, MOVING, 0x1000), 0);
        map(run, memory_pages + (i & 1 ? 0x1000 : 0x2000), MOVING, 0x1000, R | W);
    }
    __atomic_store_n(run->memory + MOVING_STOP, 1, __ATOMIC_RELEASE);
    return NULL;
}

bool prepare_moving(struct run *run)
{
    mover_stop = false;
    return prepare_memory(run) && pthread_create(&mover, NULL, move_pages, run) == 0;
}

void finish_moving(struct run *run)
{
    (void)run;
    mover_stop = true;
    pthread_join(mover, NULL);
}

// Nothing was mapped at that moment: the guest tries again.
enum answer host_of_moving(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    (void)vp;
    if (exit->ExitReason != WHvRunVpExitReasonMemoryAccess)
        return ANSWER_UNEXPECTED;
    EXPECT(exit->MemoryAccess.Gpa, MOVING + 0x123);
    EXPECT(exit->MemoryAccess.AccessInfo.GpaUnmapped, 1);
    return ANSWER_CONTINUE;
}

// ---- exits.asm

static void answer_cpuid(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_X64_CPUID_ACCESS_CONTEXT *c = &exit->CpuidAccess;
    WHV_CPUID_OUTPUT output;
    EXPECT(exit->VpContext.InstructionLength, 2);
    HRESULT result =
        WHvGetVirtualProcessorCpuidOutput(run->partition, vp, (UINT32)c->Rax, (UINT32)c->Rcx, &output);
    EXPECT((UINT32)result, 0);
    EXPECT(c->DefaultResultRax, output.Eax);
    EXPECT(c->DefaultResultRbx, output.Ebx);
    EXPECT(c->DefaultResultRcx, output.Ecx);
    EXPECT(c->DefaultResultRdx, output.Edx);
    EXPECT(c->Rbx, 0x5555);
    run_set(run, vp, WHvX64RegisterRax, 0xa);
    run_set(run, vp, WHvX64RegisterRbx, 0xb);
    run_set(run, vp, WHvX64RegisterRcx, 0xc);
    run_set(run, vp, WHvX64RegisterRdx, 0xd);
}

static void answer_msr(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_X64_MSR_ACCESS_CONTEXT *m = &exit->MsrAccess;
    EXPECT(exit->VpContext.InstructionLength, 2);
    EXPECT(m->MsrNumber, 0x12345678);
    if (m->AccessInfo.IsWrite) {
        EXPECT(m->Rax, 0x1111);
        EXPECT(m->Rdx, 0x2222);
    } else {
        run_set(run, vp, WHvX64RegisterRax, 0x3333);
        run_set(run, vp, WHvX64RegisterRdx, 0x4444);
    }
}

// The guest expects the exception to be left out, with RIP behind the instruction.
static enum answer answer_exception(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_VP_EXCEPTION_CONTEXT *e = &exit->VpException;
    unsigned length = 1;
    EXPECT(memcmp(e->InstructionBytes, run->memory + exit->VpContext.Rip, 2), 0);
    switch (e->ExceptionType) {
    case 3:             // INT3: RIP is on it
        EXPECT(e->InstructionBytes[0], 0xcc);
        EXPECT(e->ExceptionInfo.ErrorCodeValid, 0);
        break;
    case 6:             // UD2
        length = 2;
        EXPECT(e->InstructionBytes[0], 0x0f);
        EXPECT(e->InstructionBytes[1], 0x0b);
        EXPECT(e->ExceptionInfo.ErrorCodeValid, 0);
        break;
    case 14:            // MOV [RBX], EAX
        length = 2;
        EXPECT(e->ExceptionInfo.ErrorCodeValid, 1);
        EXPECT(e->ErrorCode, 2);
        EXPECT(e->ExceptionParameter, run_get(run, vp, WHvX64RegisterRbx));
        break;
    default:
        return ANSWER_UNEXPECTED;
    }
    advance(run, vp, exit, length);
    return ANSWER_CONTINUE;
}

enum answer host_of_exits(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    run->step++;
    switch (exit->ExitReason) {
    case WHvRunVpExitReasonX64Cpuid:
        answer_cpuid(run, vp, exit);
        break;
    case WHvRunVpExitReasonX64MsrAccess:
        answer_msr(run, vp, exit);
        break;
    case WHvRunVpExitReasonX64Rdtsc:
        EXPECT(exit->VpContext.InstructionLength, exit->ReadTsc.RdtscInfo.IsRdtscp ? 3 : 2);
        run_set(run, vp, WHvX64RegisterRax, exit->ReadTsc.RdtscInfo.IsRdtscp ? 0x77 : 0x66);
        run_set(run, vp, WHvX64RegisterRdx, 0);
        break;
    case WHvRunVpExitReasonException:
        return answer_exception(run, vp, exit);
    default:
        return ANSWER_UNEXPECTED;
    }
    run_skip(run, vp, exit);
    return ANSWER_CONTINUE;
}

// ---- halt.asm: without a local APIC a halt exits, RIP behind it, and an injected interrupt goes on from
// there

enum answer host_of_halt(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    WHV_X64_PENDING_INTERRUPTION_REGISTER event = { 0 };
    if (exit->ExitReason == WHvRunVpExitReasonX64InterruptWindow && run->step == 3) {
        run->step++;                    // asked for below: the guest has just set IF
        EXPECT(exit->InterruptWindow.DeliverableType, WHvX64PendingInterrupt);
        EXPECT(exit->VpContext.Rflags & 0x200, 0x200);
        EXPECT(exit->VpContext.ExecutionState.InterruptShadow, 0);
        event.InterruptionPending = 1;
        event.InterruptionType = WHvX64PendingInterrupt;
        event.InterruptionVector = 0x41;
        run_set(run, vp, WHvRegisterPendingInterruption, event.AsUINT64);
        return ANSWER_CONTINUE;
    }
    if (exit->ExitReason != WHvRunVpExitReasonX64Halt)
        return ANSWER_UNEXPECTED;
    EXPECT(run->memory[exit->VpContext.Rip - 1], 0xf4);
    EXPECT(exit->VpContext.InstructionLength, 0);
    EXPECT(run_get(run, vp, WHvRegisterInternalActivityState), 0);
    switch (run->step++) {
    case 0:                             // nothing is injected: it goes on behind the HLT
        break;
    case 1:
        event.InterruptionPending = 1;
        event.InterruptionType = WHvX64PendingInterrupt;
        event.InterruptionVector = 0x40;
        run_set(run, vp, WHvRegisterPendingInterruption, event.AsUINT64);
        break;
    case 2: { // a cancel, latched, comes before anything else; then ask for a window
        WHV_RUN_VP_EXIT_CONTEXT canceled;
        EXPECT(WHvCancelRunVirtualProcessor(run->partition, vp, 0), 0);
        EXPECT(WHvCancelRunVirtualProcessor(run->partition, vp, 0), 0);
        EXPECT(WHvRunVirtualProcessor(run->partition, vp, &canceled, sizeof(canceled)), 0);
        EXPECT(canceled.ExitReason, WHvRunVpExitReasonCanceled);
        EXPECT(canceled.VpContext.Rip, exit->VpContext.Rip);
        WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER notify = { 0 };
        notify.InterruptNotification = 1;
        run_set(run, vp, WHvX64RegisterDeliverabilityNotifications, notify.AsUINT64);
        break;
    }
    default:
        return ANSWER_UNEXPECTED;
    }
    return ANSWER_CONTINUE;
}

// ---- halt_apic.asm: with a local APIC a halt stays inside; interrupts come by WHvRequestInterrupt

static void request(struct run *run, UINT32 vector, WHV_INTERRUPT_TRIGGER_MODE trigger)
{
    WHV_INTERRUPT_CONTROL control = { 0 };
    control.Type = WHvX64InterruptTypeFixed;
    control.TriggerMode = trigger;
    control.Vector = vector;
    EXPECT((UINT32)WHvRequestInterrupt(run->partition, &control, sizeof(control)), 0);
}

enum answer host_of_halt_apic(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    if (exit->ExitReason == WHvRunVpExitReasonX64ApicEoi) {
        EXPECT(run->step, 2);           // only the level-triggered one
        EXPECT(exit->ApicEoi.InterruptVector, 0x52);
        run->step++;
        return ANSWER_CONTINUE;
    }
    if (exit->ExitReason != WHvRunVpExitReasonX64IoPortAccess)
        return ANSWER_UNEXPECTED;
    switch (run->step++) {
    case 0:
        request(run, 0x51, WHvX64InterruptTriggerModeEdge);
        break;
    case 1:
        request(run, 0x52, WHvX64InterruptTriggerModeLevel);
        break;
    default:
        return ANSWER_UNEXPECTED;
    }
    run_skip(run, vp, exit);
    return ANSWER_CONTINUE;
}
