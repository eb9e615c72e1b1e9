// A processor's state is complete: a guest that is stopped anywhere, and carried into a fresh partition over the same
// memory, goes on as if nothing had been.
//
//   vp_state DIRECTORY [SEED]
//
// Two partitions run the same guest. Both stop after the same number of instructions; one is carried then, the other is
// not. At each stop and at each exit all of their state is compared (registers, XSAVE image, APIC, what is private to the
// engine), the exit, and the number of instructions since the last; and their memory, as often as its size permits. A
// third one runs guests that nobody meddles with from end to end, and is compared at the end.
//
// A stop comes through the linker: x86_run is ours, has a processor run to an exact number of instructions, and cancels
// it there. Guests read no clock.
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "api/handle.h"
#include "bulkhead/bulkhead.h"
#include "engine/soft/vcpu.h"
#include "partition/vp_state.h"
#include "x86/code.h"

#define PTE_PRESENT 1u
#define PTE_WRITE 2u
#define PTE_USER 4u
#define STOPS 10000u            // in all
#define STATE_MAX 16384u
#define NEAR 64                 // instructions before the stop at which single ones begin; more than a block has
#define IDLE_MAX 20000u         // runs of the processor without an instruction

// ---- Random ------------------------------------------------------------------------------------------------------

static uint64_t seed, base_seed;

static uint64_t random64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

static uint32_t below(uint32_t bound) { return (uint32_t)(random64() >> 33) % bound; }

// ---- A guest and what runs it ------------------------------------------------------------------------------------

struct machine {
    WHV_PARTITION_HANDLE handle;
    struct vp *vp;
    uint8_t *memory;
    uint64_t executed;
};

struct scenario {
    const char *name;
    uint64_t seed;              // of this one; it and the name make it again
    size_t memory_size;
    WHV_X64_LOCAL_APIC_EMULATION_MODE apic;
    WHV_EXTENDED_VM_EXITS exits;
    UINT64 exceptions;
};

static struct {
    struct machine *machine;    // that runs
    uint64_t target;            // instructions at which it stops
    unsigned idle;
} now;

enum x86_leave __real_x86_run(struct x86_cpu *cpu, uint64_t generation);
enum x86_leave __wrap_x86_run(struct x86_cpu *cpu, uint64_t generation);

enum x86_leave __wrap_x86_run(struct x86_cpu *cpu, uint64_t generation)
{
    int64_t left = (int64_t)(now.target - now.machine->executed), budget = cpu->budget;
    bool near = left <= NEAR;
    int64_t granted = near || budget < left - NEAR ? budget : left - NEAR;
    if (near) {
        cpu->mode |= X86_MODE_SINGLE;
        cpu->jump_key = cpu->tlb_epoch << 8 | cpu->mode;
    }
    cpu->budget = granted;
    enum x86_leave leave = __real_x86_run(cpu, generation);
    int64_t executed = granted - cpu->budget - cpu->surcharge;
    cpu->budget += budget - granted;
    if (near)
        x86_update_mode(cpu);
    now.machine->executed += (uint64_t)executed;
    now.idle = executed ? 0 : now.idle + 1;
    // A processor that parks has nobody to wake it here.
    bool parks = leave == X86_LEAVE_HALT && ((struct vcpu *)cpu->platform)->soft->apic;
    if (now.machine->executed >= now.target || parks || now.idle > IDLE_MAX)
        vcpu_cancel(now.machine->vp);
    return leave;
}

static void set_property(WHV_PARTITION_HANDLE p, WHV_PARTITION_PROPERTY_CODE code, UINT64 value)
{
    assert_ok(WHvSetPartitionProperty(p, code, &value, code == WHvPartitionPropertyCodeProcessorCount ? 4 : 8));
}

static void open_machine(const struct scenario *s, struct machine *m)
{
    UINT32 mode = s->apic;
    assert_ok(WHvCreatePartition(&m->handle));
    assert_ok(BulkheadSetEngine(m->handle, "soft"));
    set_property(m->handle, WHvPartitionPropertyCodeProcessorCount, 1);
    assert_ok(WHvSetPartitionProperty(m->handle, WHvPartitionPropertyCodeLocalApicEmulationMode, &mode, sizeof mode));
    set_property(m->handle, WHvPartitionPropertyCodeExtendedVmExits, s->exits.AsUINT64);
    set_property(m->handle, WHvPartitionPropertyCodeExceptionExitBitmap, s->exceptions);
    assert_ok(WHvSetupPartition(m->handle));
    assert_ok(WHvMapGpaRange(m->handle, m->memory, 0, s->memory_size,
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    assert_ok(WHvCreateVirtualProcessor(m->handle, 0, 0));
    struct partition *p = handle_pin(m->handle);
    assert_non_null(p);
    m->vp = p->vps[0];
    handle_unpin(m->handle);
}

static void close_machine(struct machine *m) { assert_ok(WHvDeletePartition(m->handle)); }

static uint8_t *new_memory(size_t size)
{
    uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

static size_t save(struct machine *m, uint8_t state[STATE_MAX])
{
    size_t size;
    memset(state, 0, STATE_MAX);
    assert_ok(vp_state_save(m->vp, state, STATE_MAX, &size));
    return size;
}

static void carry(const struct scenario *s, struct machine *m)
{
    static uint8_t state[STATE_MAX];
    size_t size = save(m, state);
    close_machine(m);
    open_machine(s, m);
    assert_ok(vp_state_load(m->vp, state, size));
}

static void run(struct machine *m, uint64_t instructions, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    now.machine = m;
    now.target = m->executed + instructions;
    now.idle = 0;
    assert_ok(WHvRunVirtualProcessor(m->handle, 0, exit, sizeof *exit));
    if (exit->ExitReason == WHvRunVpExitReasonX64Rdtsc)
        memset(&exit->ReadTsc, 0, sizeof exit->ReadTsc);
}

// ---- Comparing ---------------------------------------------------------------------------------------------------

// The registers of the first record that tell of the time.
static void hide_time(uint8_t *state)
{
    uint32_t length, name;
    memcpy(&length, state + 4, 4);
    for (uint8_t *at = state + 8; at < state + 8 + length; at += 20) {
        memcpy(&name, at, 4);
        if (name == WHvX64RegisterTsc)
            memset(at + 4, 0, 16);
    }
}

static void say_where(const struct scenario *s, unsigned stop, const struct machine *m)
{
    print_error("guest %s, its seed %llu (the test's %llu), stop %u, after %llu instructions\n", s->name,
                (unsigned long long)s->seed, (unsigned long long)base_seed, stop, (unsigned long long)m->executed);
}

static void compare_state(const struct scenario *s, unsigned stop, struct machine *one, struct machine *other)
{
    static uint8_t a[STATE_MAX], b[STATE_MAX];
    size_t size = save(one, a);
    size_t other_size = save(other, b);
    hide_time(a);
    hide_time(b);
    bool same = size == other_size && !memcmp(a, b, size) && one->executed == other->executed;
    if (same)
        return;
    say_where(s, stop, one);
    print_error("%llu and %llu instructions, %zu and %zu bytes of state\n", (unsigned long long)one->executed,
                (unsigned long long)other->executed, size, other_size);
    for (size_t n = 0; n < size; n++) {
        uint32_t name;
        size_t row = n < 8 ? 0 : (n - 8) / 20 * 20 + 8;
        if (a[n] == b[n])
            continue;
        memcpy(&name, a + row, 4);
        print_error("byte %zu (as a register: 0x%x): %02x and %02x\n", n, name, a[n], b[n]);
    }
    fail();
}

static void compare_memory(const struct scenario *s, unsigned stop, const struct machine *one,
                           const struct machine *other)
{
    if (!memcmp(one->memory, other->memory, s->memory_size))
        return;
    say_where(s, stop, one);
    for (size_t n = 0; n < s->memory_size; n++)
        if (one->memory[n] != other->memory[n]) {
            print_error("memory differs at 0x%zx: %02x and %02x\n", n, one->memory[n], other->memory[n]);
        }
    fail();
}

static void compare_exits(const struct scenario *s, unsigned stop, const struct machine *m,
                          const WHV_RUN_VP_EXIT_CONTEXT *one, const WHV_RUN_VP_EXIT_CONTEXT *other)
{
    if (!memcmp(one, other, sizeof *one))
        return;
    say_where(s, stop, m);
    print_error("exits 0x%x and 0x%x, RIP 0x%llx and 0x%llx\n", one->ExitReason, other->ExitReason,
                (unsigned long long)one->VpContext.Rip, (unsigned long long)other->VpContext.Rip);
    for (size_t n = 0; n < sizeof *one; n++)
        if (((const uint8_t *)one)[n] != ((const uint8_t *)other)[n])
            print_error("byte %zu of the exit: %02x and %02x\n", n, ((const uint8_t *)one)[n], ((const uint8_t *)other)[n]);
    fail();
}

// ---- Answers -----------------------------------------------------------------------------------------------------

static UINT64 get(struct machine *m, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;
    assert_ok(WHvGetVirtualProcessorRegisters(m->handle, 0, &name, 1, &value));
    return value.Reg64;
}

static void set_value(struct machine *m, uint32_t name, WHV_REGISTER_VALUE value)
{
    WHV_REGISTER_NAME names[] = { (WHV_REGISTER_NAME)name };
    assert_ok(WHvSetVirtualProcessorRegisters(m->handle, 0, names, 1, &value));
}

static void set(struct machine *m, uint32_t name, UINT64 number)
{
    WHV_REGISTER_VALUE value;
    memset(&value, 0, sizeof value);
    value.Reg64 = number;
    set_value(m, name, value);
}

static void skip_over(struct machine *m, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    unsigned length = exit->VpContext.InstructionLength;
    set(m, WHvX64RegisterRip, exit->VpContext.Rip + (length ? length : 1));
}

// The same for all machines: what it does follows from the exit and `number`. False: the guest has ended.
static bool answer(struct machine *m, const WHV_RUN_VP_EXIT_CONTEXT *exit, uint64_t number)
{
    WHV_REGISTER_VALUE value;
    memset(&value, 0, sizeof value);
    switch (exit->ExitReason) {
    case WHvRunVpExitReasonCanceled:
        value.Reg64 = get(m, WHvRegisterInternalActivityState);
        if (value.InternalActivity.HaltSuspend)         // parked, and nobody to wake it
            set(m, (uint32_t)WHvRegisterInternalActivityState, 0);
        return true;
    case WHvRunVpExitReasonX64IoPortAccess:
        if (exit->IoPortAccess.PortNumber == 0xf4)
            return false;
        if (!exit->IoPortAccess.AccessInfo.IsWrite && !exit->IoPortAccess.AccessInfo.StringOp)
            set(m, WHvX64RegisterRax, (exit->IoPortAccess.Rax & ~0xffull) | (number & 0xff));
        skip_over(m, exit);
        return true;
    case WHvRunVpExitReasonMemoryAccess:
        // Where a delivery meets missing memory, the pending event goes and its handler never comes.
        set(m, (uint32_t)WHvRegisterPendingInterruption, 0);
        set(m, WHvX64RegisterRsp, 0x8000 + (number & 0xfff0));
        set(m, WHvX64RegisterRbx, number & 0xffff);
        set(m, WHvX64RegisterRip, 0x1000 + (number >> 20 & 0xfff));
        return true;
    case WHvRunVpExitReasonException:
        // Handed to the guest, by one register or the other, or left out.
        if (number % 3 == 0) {
            value.ExceptionEvent.EventPending = 1;
            value.ExceptionEvent.EventType = WHvX64PendingEventException;
            value.ExceptionEvent.Vector = exit->VpException.ExceptionType;
            value.ExceptionEvent.DeliverErrorCode = exit->VpException.ExceptionInfo.ErrorCodeValid;
            value.ExceptionEvent.ErrorCode = exit->VpException.ErrorCode;
            value.ExceptionEvent.ExceptionParameter = exit->VpException.ExceptionParameter;
            set_value(m, (uint32_t)WHvRegisterPendingEvent, value);
        } else if (number % 3 == 1) {
            value.PendingInterruption.InterruptionPending = 1;
            value.PendingInterruption.InterruptionType = WHvX64PendingException;
            value.PendingInterruption.InterruptionVector = exit->VpException.ExceptionType;
            value.PendingInterruption.DeliverErrorCode = exit->VpException.ExceptionInfo.ErrorCodeValid;
            value.PendingInterruption.ErrorCode = exit->VpException.ErrorCode;
            value.PendingInterruption.InstructionLength = exit->VpContext.InstructionLength;
            set_value(m, (uint32_t)WHvRegisterPendingInterruption, value);
        } else {
            set(m, (uint32_t)WHvRegisterPendingInterruption, 0);
            skip_over(m, exit);
        }
        return true;
    case WHvRunVpExitReasonX64Halt:
    case WHvRunVpExitReasonX64InterruptWindow:
    case WHvRunVpExitReasonX64ApicEoi:
        return true;
    case WHvRunVpExitReasonX64Cpuid:
    case WHvRunVpExitReasonX64MsrAccess:
    case WHvRunVpExitReasonX64Rdtsc:
        set(m, WHvX64RegisterRax, number & 0xffffffff);
        skip_over(m, exit);
        return true;
    default:
        return false;
    }
}

// What a client does to a processor that stands: the same to both.
static void meddle(const struct scenario *s, struct machine *m, uint64_t number)
{
    WHV_REGISTER_VALUE value;
    WHV_INTERRUPT_CONTROL interrupt;
    unsigned vector = (unsigned)(number >> 8 & 0xff);
    memset(&value, 0, sizeof value);
    memset(&interrupt, 0, sizeof interrupt);
    interrupt.Vector = vector < 16 ? 0x40 : vector;
    switch (number % 10) {
    case 0:
        value.DeliverabilityNotifications.InterruptNotification = 1;
        value.DeliverabilityNotifications.NmiNotification = number >> 16 & 1;
        value.DeliverabilityNotifications.InterruptPriority = number >> 17 & 3;
        set_value(m, (uint32_t)WHvX64RegisterDeliverabilityNotifications, value);
        break;
    case 1:
        value.PendingInterruption.InterruptionPending = 1;
        value.PendingInterruption.InterruptionType = WHvX64PendingNmi;
        value.PendingInterruption.InterruptionVector = 2;
        set_value(m, (uint32_t)WHvRegisterPendingInterruption, value);
        break;
    case 2:
        value.ExceptionEvent.EventPending = 1;
        value.ExceptionEvent.EventType = WHvX64PendingEventException;
        value.ExceptionEvent.Vector = vector & 7;
        value.ExceptionEvent.ExceptionParameter = number >> 24 & 0xf;
        set_value(m, (uint32_t)WHvRegisterPendingEvent, value);
        break;
    case 3:
        assert_ok(WHvCancelRunVirtualProcessor(m->handle, 0, 0));
        break;
    case 4:
        value.InterruptState.InterruptShadow = 1;
        value.InterruptState.NmiMasked = number >> 16 & 1;
        set_value(m, (uint32_t)WHvRegisterInterruptState, value);
        break;
    case 5:
        set(m, WHvX64RegisterRflags, get(m, WHvX64RegisterRflags) ^ (number >> 16 & 1 ? X86_TF : X86_IF));
        break;
    case 6: case 7:
        interrupt.TriggerMode = number >> 16 & 1 ? WHvX64InterruptTriggerModeLevel : WHvX64InterruptTriggerModeEdge;
        if (s->apic)
            assert_ok(WHvRequestInterrupt(m->handle, &interrupt, sizeof interrupt));
        break;
    case 8:
        interrupt.Type = WHvX64InterruptTypeNmi;
        if (s->apic)
            assert_ok(WHvRequestInterrupt(m->handle, &interrupt, sizeof interrupt));
        break;
    case 9:
        value.ExtIntEvent.EventPending = 1;
        value.ExtIntEvent.EventType = WHvX64PendingEventExtInt;
        value.ExtIntEvent.Vector = interrupt.Vector;
        if (s->apic)
            set_value(m, (uint32_t)WHvRegisterPendingEvent, value);
        break;
    }
}

// ---- The property ------------------------------------------------------------------------------------------------

struct plan {
    unsigned stops;             // at most
    uint32_t step;              // instructions between two stops, at most
    bool meddles;
    bool memory_at_stops;
    // The code is below this, and how much of a self-changing one runs unchanged differs by how it is stopped. 0: the
    // guest sees to it.
    size_t code_end;
    void (*prepare)(const struct scenario *s, struct machine *m);
};

static unsigned stops_done, exits_done, carried, undisturbed;

static uint64_t number_of(const struct scenario *s, uint64_t exits)
{
    uint64_t x = (s->seed + exits) * 0x9e3779b97f4a7c15;
    return (x ^ x >> 29) * 0xbf58476d1ce4e5b9 >> 3;
}

// The whole of a guest without a stop, to the same number of instructions.
static void run_undisturbed(const struct scenario *s, const struct plan *plan, unsigned stop, struct machine *m,
                            uint64_t instructions)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;
    struct machine c = { .memory = new_memory(s->memory_size) };
    uint64_t exits = 0;
    seed = s->seed;
    open_machine(s, &c);
    plan->prepare(s, &c);
    bool changed = memcmp(c.memory, m->memory, plan->code_end) != 0;
    while (!changed && c.executed < instructions) {
        run(&c, instructions - c.executed, &exit);
        if (exit.ExitReason != WHvRunVpExitReasonCanceled)
            exits++;
        else if (c.executed >= instructions)
            break;
        if (!answer(&c, &exit, number_of(s, exits)))
            break;
    }
    if (!changed) {
        compare_state(s, stop, m, &c);
        compare_memory(s, stop, m, &c);
        undisturbed++;
    }
    close_machine(&c);
    munmap(c.memory, s->memory_size);
}

static void follow(const struct scenario *s, const struct plan *plan)
{
    struct machine a = { .memory = new_memory(s->memory_size) }, b = { .memory = new_memory(s->memory_size) };
    WHV_RUN_VP_EXIT_CONTEXT one, other;
    uint64_t exits = 0;
    unsigned stop = 0;
    bool goes_on = true;
    open_machine(s, &a);
    open_machine(s, &b);
    seed = s->seed;
    plan->prepare(s, &a);
    seed = s->seed;
    plan->prepare(s, &b);
    while (goes_on && stop < plan->stops) {
        uint64_t instructions = 1 + below(plan->step), number;
        run(&a, instructions, &one);
        run(&b, instructions, &other);
        stop++;
        compare_exits(s, stop, &a, &one, &other);
        compare_state(s, stop, &a, &b);
        if (plan->memory_at_stops)
            compare_memory(s, stop, &a, &b);
        if (one.ExitReason != WHvRunVpExitReasonCanceled)
            exits++;
        // Carried before the client has answered, behind that, or both times.
        unsigned when = 1 + below(3);
        if (when & 1)
            carry(s, &b);
        number = number_of(s, exits);
        goes_on = answer(&a, &one, number);
        assert_int_equal(answer(&b, &other, number), goes_on);
        if (plan->meddles && goes_on) {
            number = random64();
            meddle(s, &a, number);
            meddle(s, &b, number);
        }
        if (when & 2)
            carry(s, &b);
        compare_state(s, stop, &a, &b);
        carried += (when & 1) + (when >> 1);
    }
    stops_done += stop;
    exits_done += (unsigned)exits;
    compare_memory(s, stop, &a, &b);
    // To an end that all can have: a stop by the number of instructions.
    for (unsigned n = 0; !plan->meddles && goes_on && n < 64; n++) {
        uint64_t end = a.executed + 100, kept = seed;
        run(&a, 100, &one);
        if (one.ExitReason == WHvRunVpExitReasonCanceled && a.executed >= end) {
            run_undisturbed(s, plan, stop, &a, a.executed);
            seed = kept;
            break;
        }
        if (one.ExitReason != WHvRunVpExitReasonCanceled)
            exits++;
        goes_on = answer(&a, &one, number_of(s, exits));
    }
    close_machine(&a);
    close_machine(&b);
    munmap(a.memory, s->memory_size);
    munmap(b.memory, s->memory_size);
}

// ---- Random code -------------------------------------------------------------------------------------------------

enum { HANDLER = 0x600, HANDLER_ERROR = 0x640, CODE = 0x1000, CODE_SIZE = 0x1000, IDT = 0x2000, GDT = 0x3000, TSS = 0x3800,
       DATA = 0x4000, STACK = 0x9000, PML4 = 0x10000, PDPT = 0x11000, PD = 0x12000, PT = 0x13000, PD_HIGH = 0x14000,
       PAE_PDPT = 0x15000, RANDOM_MEMORY = 0x20000, APIC = 0xfee00000u };
enum mode { REAL_MODE, PROTECTED_MODE, PAE_MODE, LONG_MODE, MODES };

static const struct { uint8_t size, bytes[9]; } pieces[] = {
    { 2, { 0x01, 0xd8 } }, { 2, { 0x29, 0xc8 } }, { 3, { 0x0f, 0xaf, 0xc3 } }, { 2, { 0xf7, 0xf1 } },    // div ecx
    { 2, { 0x11, 0xda } }, { 2, { 0xd1, 0xe0 } }, { 2, { 0x31, 0xf6 } }, { 1, { 0x90 } },
    { 1, { 0x50 } }, { 1, { 0x58 } }, { 1, { 0x53 } }, { 1, { 0x5b } }, { 1, { 0x9c } }, { 1, { 0x9d } },    // popf
    { 1, { 0xfa } }, { 1, { 0xfb } }, { 2, { 0xcd, 0x80 } }, { 1, { 0xcc } }, { 1, { 0xf1 } }, { 1, { 0xce } },
    { 2, { 0x8e, 0xd0 } }, { 4, { 0x8c, 0xd0, 0x8e, 0xd0 } },           // mov ss, ax
    { 1, { 0xa4 } }, { 2, { 0xf3, 0xa4 } }, { 2, { 0xf3, 0xaa } }, { 2, { 0xf2, 0xae } },    // string instructions
    { 2, { 0xe6, 0x10 } }, { 2, { 0xe4, 0x11 } }, { 1, { 0xec } }, { 1, { 0x6c } }, { 2, { 0x0f, 0xa2 } },
    { 2, { 0xd9, 0xe8 } }, { 2, { 0xd9, 0xeb } }, { 2, { 0xd9, 0xc0 } }, { 2, { 0xde, 0xc1 } }, { 2, { 0xd8, 0xc9 } },
    { 2, { 0xdb, 0xe3 } }, { 2, { 0xdd, 0x03 } }, { 2, { 0xdd, 0x1b } }, { 2, { 0xd9, 0x2b } }, { 2, { 0xdd, 0x23 } },
    { 2, { 0xdd, 0x33 } }, { 2, { 0xd9, 0x33 } }, { 2, { 0xd9, 0x23 } }, { 1, { 0x9b } }, { 2, { 0xd8, 0xf1 } },
    { 3, { 0x0f, 0xae, 0x03 } }, { 3, { 0x0f, 0xae, 0x0b } }, { 3, { 0x0f, 0xae, 0x13 } },  // fxsave, fxrstor, ldmxcsr
    { 3, { 0x0f, 0x58, 0xc1 } }, { 3, { 0x0f, 0x5e, 0xca } }, { 3, { 0x0f, 0x28, 0xd0 } }, { 4, { 0x66, 0x0f, 0xef, 0xc1 } },
    { 3, { 0x0f, 0x11, 0x03 } }, { 3, { 0x0f, 0x10, 0x1b } }, { 3, { 0x0f, 0x77, 0x90 } }, { 3, { 0x0f, 0x6f, 0x03 } },
    { 2, { 0xeb, 0x02 } }, { 2, { 0x75, 0x03 } }, { 2, { 0xe2, 0xfa } }, { 2, { 0x72, 0xf4 } },
    { 2, { 0x8b, 0x03 } }, { 2, { 0x89, 0x03 } }, { 2, { 0xff, 0x03 } }, { 4, { 0xf0, 0x0f, 0xc1, 0x03 } },
    { 2, { 0x0f, 0x0b } }, { 3, { 0x0f, 0x23, 0xf8 } }, { 3, { 0x0f, 0x23, 0xc3 } }, { 3, { 0x0f, 0x21, 0xf0 } },
    { 6, { 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8 } }, { 1, { 0xf4 } }, { 7, { 0xb9, 0x75, 0x01, 0x00, 0x00, 0x0f, 0x30 } },
    { 7, { 0xb9, 0x75, 0x01, 0x00, 0x00, 0x0f, 0x32 } }, { 7, { 0xb9, 0x77, 0x02, 0x00, 0x00, 0x0f, 0x32 } },
    { 2, { 0x0f, 0x31 } }, { 3, { 0x44, 0x0f, 0x22 } }, { 1, { 0xcf } }, { 2, { 0x0f, 0x06 } },
};

static void put64(uint8_t *memory, unsigned at, uint64_t value) { memcpy(memory + at, &value, 8); }

// A store of a number to an address that only 32-bit code can name: the APIC's registers, and the top of PAE's tables.
static unsigned put_store(uint8_t *to, uint32_t address, uint32_t value)
{
    to[0] = 0xc7;
    to[1] = 0x05;
    memcpy(to + 2, &address, 4);
    memcpy(to + 6, &value, 4);
    return 10;
}

static unsigned put_special(uint8_t *to, enum mode mode, bool apic)
{
    static const struct { uint32_t offset, value; } registers[] = {
        { 0x300, 0x40041 }, { 0x300, 0x40061 }, { 0x300, 0x4400 }, { 0xb0, 0 }, { 0x80, 0x50 }, { 0x80, 0 },
        { 0xf0, 0x1ff }, { 0x280, 0 }, { 0x300, 0x40005 }, { 0x370, 0x45 }, { 0x84, 1 }, { 0x300, 0x4500 }, { 0xb0, 0 },
    };
    unsigned n = below(13);
    if (apic && mode != PAE_MODE)
        return put_store(to, APIC + registers[n].offset, registers[n].value);
    if (apic && below(2))
        return put_store(to, APIC + registers[n].offset, registers[n].value);
    // An entry for 2 GiB: of no effect until CR3 is loaded.
    if (below(2))
        return put_store(to, PAE_PDPT + 16, below(2) ? PD | PTE_PRESENT : 0);
    to[0] = 0xa1;           // mov eax, [2 GiB and some]
    memcpy(to + 1, (const uint8_t[]){ 0x00, 0x40, 0x00, 0x80 }, 4);
    return 5;
}

static void put_code(uint8_t *memory, enum mode mode, bool apic)
{
    unsigned at = CODE;
    bool special = mode == PAE_MODE || (apic && mode == PROTECTED_MODE);
    while (at < CODE + CODE_SIZE - 16) {
        unsigned kind = below(16);
        if (kind == 0) {
            memory[at++] = (uint8_t)random64();
        } else if (kind < 3 && special) {
            at += put_special(memory + at, mode, apic);
        } else {
            unsigned n = below(sizeof pieces / sizeof *pieces);
            memcpy(memory + at, pieces[n].bytes, pieces[n].size);
            at += pieces[n].size;
        }
    }
}

// Handlers move the return address on by one, so that whatever faults is got over.
static void put_handlers(uint8_t *memory, enum mode mode)
{
    static const uint8_t real[] = { 0x55, 0x89, 0xe5, 0xff, 0x46, 0x02, 0x5d, 0xcf };
    static const uint8_t narrow[] = { 0x83, 0xc4, 0x04, 0xff, 0x04, 0x24, 0xcf };
    static const uint8_t wide[] = { 0x48, 0x83, 0xc4, 0x08, 0x48, 0xff, 0x04, 0x24, 0x48, 0xcf };
    const uint32_t with_error = 0x27d00;
    if (mode == REAL_MODE)
        memcpy(memory + HANDLER, real, sizeof real);
    else if (mode == LONG_MODE)
        memcpy(memory + HANDLER, wide + 4, sizeof wide - 4);
    else
        memcpy(memory + HANDLER, narrow + 3, sizeof narrow - 3);
    memcpy(memory + HANDLER_ERROR, mode == LONG_MODE ? wide : narrow, mode == LONG_MODE ? sizeof wide : sizeof narrow);
    for (unsigned vector = 0; vector < 256; vector++) {
        unsigned to = vector < 32 && with_error >> vector & 1 && mode != REAL_MODE ? HANDLER_ERROR : HANDLER;
        uint64_t gate = 0xee0000080000ull | to;
        if (mode == REAL_MODE && vector < 128)
            memcpy(memory + 4 * vector, &(uint32_t){ HANDLER }, 4);
        else if (mode == LONG_MODE)
            put64(memory, IDT + 16 * vector, gate);
        else if (mode != REAL_MODE)
            put64(memory, IDT + 8 * vector, gate);
    }
}

static void put_tables(uint8_t *memory, bool wide)
{
    const uint64_t all = PTE_PRESENT | PTE_WRITE | PTE_USER;
    const uint64_t descriptors[] = { 0, wide ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 0x00cf93000000ffff,
                                     wide ? 0x00affb000000ffff : 0x00cffb000000ffff, 0x00cff3000000ffff };
    memcpy(memory + GDT, descriptors, sizeof descriptors);
    put64(memory, TSS + 4, wide ? STACK + 0x800 : (uint64_t)0x10 << 32 | (STACK + 0x800));
    memory[TSS + 0x66] = 0x68;
    put64(memory, PML4, PDPT | all);
    put64(memory, PDPT, PD | all);
    put64(memory, PDPT + 24, PD_HIGH | all);
    put64(memory, PD, PT | all);
    put64(memory, PD_HIGH + 8 * (APIC >> 21 & 511), (APIC & ~0x1fffffu) | 0x80 | all);
    // Not the tables themselves: what a processor remembers of one that is written to is no state to be carried. But the
    // top of PAE's is state, from one load of CR3 to the next.
    for (unsigned n = 0; n < 512; n++)
        put64(memory, PT + 8 * n, n >= PML4 >> 12 && n <= PD_HIGH >> 12 ? 0 : (uint64_t)n << 12 | all);
    for (unsigned n = 0; n < 4; n += 3)
        put64(memory, PAE_PDPT + 8 * n, (n ? PD_HIGH : PD) | PTE_PRESENT);
}

static void set_segment(struct machine *m, uint32_t name, uint16_t selector, uint16_t attributes, uint64_t base,
                        uint32_t limit)
{
    WHV_REGISTER_VALUE value;
    memset(&value, 0, sizeof value);
    value.Segment.Selector = selector;
    value.Segment.Attributes = attributes;
    value.Segment.Base = base;
    value.Segment.Limit = limit;
    set_value(m, name, value);
}

static void set_table(struct machine *m, uint32_t name, uint64_t base, uint16_t limit)
{
    WHV_REGISTER_VALUE value;
    memset(&value, 0, sizeof value);
    value.Table.Base = base;
    value.Table.Limit = limit;
    set_value(m, name, value);
}

static void enter_mode(struct machine *m, enum mode mode, bool user)
{
    uint16_t dpl = user ? 0x60 : 0;
    if (mode == REAL_MODE) {
        set_segment(m, WHvX64RegisterCs, 0, 0x9b, 0, 0xffff);
        return;
    }
    set_segment(m, WHvX64RegisterCs, user ? 0x1b : 8, (mode == LONG_MODE ? 0xa09b : 0xc09b) | dpl, 0, UINT32_MAX);
    for (uint32_t name = WHvX64RegisterEs; name <= WHvX64RegisterDs; name++)
        if (name != WHvX64RegisterCs)
            set_segment(m, name, user ? 0x23 : 0x10, 0xc093 | dpl, 0, UINT32_MAX);
    set_segment(m, WHvX64RegisterTr, 0x28, 0x8b, TSS, 0x67);
    set_table(m, WHvX64RegisterGdtr, GDT, 0x27);
    set_table(m, WHvX64RegisterIdtr, IDT, 0xfff);
    if (mode != PROTECTED_MODE) {
        set(m, WHvX64RegisterCr3, mode == LONG_MODE ? PML4 : PAE_PDPT);
        set(m, WHvX64RegisterEfer, mode == LONG_MODE ? 0xd00 : 0);
    }
    set(m, WHvX64RegisterCr4, mode == PROTECTED_MODE ? 0x600 : 0x620);
    set(m, WHvX64RegisterCr0, mode == PROTECTED_MODE ? 0x33 : 0x80000033);
}

static void prepare_random(const struct scenario *s, struct machine *m)
{
    enum mode mode = (enum mode)below(MODES);
    bool user = mode != REAL_MODE && below(3) == 0;
    put_tables(m->memory, mode == LONG_MODE);
    put_handlers(m->memory, mode);
    put_code(m->memory, mode, s->apic);
    for (unsigned n = 0; n < 0x4000; n++)
        m->memory[DATA + n] = (uint8_t)random64();
    enter_mode(m, mode, user);
    for (uint32_t name = WHvX64RegisterRax; name <= WHvX64RegisterR15; name++)
        set(m, name, below(2) ? below(0x100) : random64());
    if (s->apic)
        set(m, WHvX64RegisterApicSpurious, 0x1ff);
    set(m, WHvX64RegisterRcx, below(0x10));        // no MSR that tells the time
    set(m, WHvX64RegisterRdx, below(0x100));
    set(m, WHvX64RegisterRbx, DATA + (below(0x300) << 4));
    set(m, WHvX64RegisterRsi, DATA + below(0x3000));
    set(m, WHvX64RegisterRdi, DATA + below(0x3000));
    set(m, WHvX64RegisterRsp, STACK);
    set(m, WHvX64RegisterRip, CODE + below(64));
    set(m, WHvX64RegisterRflags, 2 | (below(2) ? X86_IF : 0) | (below(8) ? 0 : X86_TF) | (user ? X86_IOPL : 0));
}

static void test_random_code(void **state)
{
    (void)state;
    for (unsigned n = 0; stops_done < STOPS; n++) {
        uint64_t own = base_seed * 1000003 + n + 1;
        seed = own * 0x9e3779b97f4a7c15 | 1;
        struct scenario s = { .name = "random", .seed = seed, .memory_size = RANDOM_MEMORY };
        struct plan plan = { .stops = 24, .meddles = n & 1, .memory_at_stops = true, .code_end = IDT,
                             .prepare = prepare_random };
        s.apic = n & 2 ? WHvX64LocalApicEmulationModeXApic : WHvX64LocalApicEmulationModeNone;
        s.exits.X64RdtscExit = 1;
        s.exits.X64CpuidExit = n >> 2 & 1;
        s.exits.X64MsrExit = n >> 3 & 1;
        s.exits.ExceptionExit = n >> 4 & 1;
        s.exceptions = s.exits.ExceptionExit ? random64() & 0xf7dfb : 0;
        plan.step = n & 32 ? 200 : 12;
        // Where interrupts are taken follows from how the code lies in blocks, so a run without a stop differs.
        plan.meddles |= s.apic != 0;
        follow(&s, &plan);
    }
}

// ---- Assembly guests ---------------------------------------------------------------------------------------------

static const char *guest_directory, *guest_name;

static void prepare_guest(const struct scenario *s, struct machine *m)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s.bin", guest_directory, guest_name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_true(fread(m->memory + 0x8000, 1, s->memory_size - 0x8000, f) > 0);
    fclose(f);
    set_segment(m, WHvX64RegisterCs, 0, 0x9b, 0, 0xffff);
    set(m, WHvX64RegisterRip, 0x8000);
}

static void test_guests(void **state)
{
    static const struct { const char *name; uint32_t step; } list[] = {
        { "real", 0 }, { "protected", 0 }, { "exceptions", 0 }, { "vectors", 0 }, { "breakpoints", 0 }, { "paging", 0 },
        { "privilege", 0 }, { "smc", 0 }, { "triple", 0 }, { "ports", 0 },
    };
    (void)state;
    for (unsigned n = 0; n < sizeof list / sizeof *list; n++) {
        struct scenario s = { .name = list[n].name, .seed = base_seed + n + 1, .memory_size = 0x2000000 };
        struct plan plan = { .stops = 400, .step = 40, .prepare = prepare_guest };
        guest_name = list[n].name;
        follow(&s, &plan);
    }
}

// ---- Hostile states ----------------------------------------------------------------------------------------------

// What is refused changes nothing; what is accepted is what is saved again, or harmless to run.
static void hostile(WHV_X64_LOCAL_APIC_EMULATION_MODE apic)
{
    static uint8_t good[STATE_MAX], bad[STATE_MAX], before[STATE_MAX], after[STATE_MAX];
    struct scenario s = { .name = "hostile", .seed = 7, .memory_size = RANDOM_MEMORY, .apic = apic };
    struct machine m = { .memory = new_memory(s.memory_size) };
    unsigned refused = 0, accepted = 0;
    size_t needed;
    seed = 7;
    open_machine(&s, &m);
    prepare_random(&s, &m);
    size_t size = save(&m, good);
    assert_hr(vp_state_save(m.vp, NULL, 0, &needed), WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(needed, size);
    assert_hr(vp_state_save(m.vp, bad, size - 1, &needed), WHV_E_INSUFFICIENT_BUFFER);
    for (size_t n = 0; n < size; n++)
        assert_hr(vp_state_load(m.vp, good, n), E_INVALIDARG);
    memcpy(bad, good, size);
    assert_hr(vp_state_load(m.vp, bad, size + 8), E_INVALIDARG);        // a record of type 0
    for (size_t n = 0; n < size; n++) {
        if (n > 2800 && n < size - 200 && n % 16)       // what is between the APIC's registers
            continue;
        memcpy(bad, good, size);
        bad[n] ^= (uint8_t)(1 + random64() % 255);
        save(&m, before);
        HRESULT hr = vp_state_load(m.vp, bad, size);
        if (SUCCEEDED(hr)) {
            accepted++;
            assert_ok(vp_state_load(m.vp, good, size));
            continue;
        }
        refused++;
        assert_true(hr == E_INVALIDARG || hr == (HRESULT)ERROR_HV_INVALID_PARAMETER);
        save(&m, after);
        hide_time(before);
        hide_time(after);
        assert_memory_equal(before, after, size);
    }
    assert_true(refused > 200 && accepted > 200);
    close_machine(&m);
    munmap(m.memory, s.memory_size);
}

// An EOI that is still to be told: between the guest's write and the exit there is one place to stop, and few guests get
// there.
static void test_eoi(void **state)
{
    struct scenario s = { .name = "EOI", .seed = 7, .memory_size = RANDOM_MEMORY,
                          .apic = WHvX64LocalApicEmulationModeXApic };
    struct machine m = { .memory = new_memory(s.memory_size) };
    WHV_RUN_VP_EXIT_CONTEXT exit;
    (void)state;
    open_machine(&s, &m);
    struct vcpu *v = m.vp->engine_data;
    v->eoi_exit = true;
    v->eoi_vector = 0x51;
    carry(&s, &m);
    run(&m, 10, &exit);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64ApicEoi);
    assert_int_equal(exit.ApicEoi.InterruptVector, 0x51);
    close_machine(&m);
    munmap(m.memory, s.memory_size);
}

static void test_hostile(void **state)
{
    (void)state;
    hostile(WHvX64LocalApicEmulationModeNone);
    hostile(WHvX64LocalApicEmulationModeXApic);
}

static void test_enough(void **state)
{
    (void)state;
    print_message("%u stops, %u of them exits, carried %u times; %u guests once more without a stop; seed %llu\n",
                  stops_done, exits_done, carried, undisturbed, (unsigned long long)base_seed);
    assert_true(stops_done >= STOPS && carried >= STOPS);
    assert_true(exits_done > STOPS / 20 && undisturbed > 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guests),
        cmocka_unit_test(test_random_code),
        cmocka_unit_test(test_enough),
        cmocka_unit_test(test_eoi),
        cmocka_unit_test(test_hostile),
    };
    if (argc < 2) {
        fprintf(stderr, "usage: vp_state DIRECTORY [SEED]\n");
        return 2;
    }
    guest_directory = argv[1];
    base_seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 22;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
