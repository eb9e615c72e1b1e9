// The properties that may change after set-up, changed again and again while processors run: no exit is lost, none
// comes that nobody asked for, and each change holds from its return on.
#include "threads.h"

#define PROCESSORS 4u
#define CHANGES 100000u
#define LOOK_EVERY 97u          // changes; without a divisor in common with the 40 after which they begin anew
#define MAGIC 0x51A7E001u       // what the client answers; nothing else does
#define COUNTERS(vp) (0x2000u + 0x100u * (vp))
#define PATCH_LEVEL 0x8Bu       // IA32_BIOS_SIGN_ID
#define LEAF 1u

enum kind { CPUID, MSR, BREAKPOINT, KINDS };

// What the guest counts of each kind, in its memory: accesses that it begins; then, by the answer that it got, those
// that the processor or the client has answered.
enum counter { BEGUN, NATIVE, CLIENT, PER_KIND };

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

static UINT32 counted(unsigned int vp, enum kind kind, enum counter counter)
{
    return load32(memory, COUNTERS(vp) + 4 * (PER_KIND * kind + counter));
}

// ---- The guest -----------------------------------------------------------------------------------------------------

static uint8_t *emit(uint8_t *at, const void *bytes, size_t size)
{
    memcpy(at, bytes, size);
    return at + size;
}

static uint8_t *emit_count(uint8_t *at, enum kind kind, enum counter counter)
{
    const uint8_t inc[] = {0x66, 0xFF, 0x44, (uint8_t)(4 * (PER_KIND * kind + counter))};     // inc dword [si+N]

    return emit(at, inc, sizeof(inc));
}

// Count, access, and count again by who has answered.
static uint8_t *emit_access(uint8_t *at, enum kind kind)
{
    static const uint8_t cpuid[] = {0x66, 0xB8, LEAF, 0, 0, 0, 0x0F, 0xA2};             // mov eax, LEAF; cpuid
    static const uint8_t rdmsr[] = {0x66, 0xB9, PATCH_LEVEL, 0, 0, 0, 0x0F, 0x32};      // mov ecx, N; rdmsr
    static const uint8_t int3[] = {0x66, 0x31, 0xC0, 0xCC};                             // xor eax, eax; int3
    static const uint8_t compare[] = {0x66, 0x3D, MAGIC & 0xFF, MAGIC >> 8 & 0xFF, MAGIC >> 16 & 0xFF, MAGIC >> 24,
                                      0x74, 0x06};                                      // cmp eax, MAGIC; je there
    static const uint8_t over[] = {0xEB, 0x04};                                         // jmp over it

    at = emit_count(at, kind, BEGUN);
    at = kind == CPUID ? emit(at, cpuid, sizeof(cpuid))
       : kind == MSR   ? emit(at, rdmsr, sizeof(rdmsr))
                       : emit(at, int3, sizeof(int3));
    at = emit(at, compare, sizeof(compare));
    at = emit_count(at, kind, NATIVE);
    at = emit(at, over, sizeof(over));
    return emit_count(at, kind, CLIENT);
}

static WHV_PARTITION_HANDLE new_guest(const bool *wanted)
{
    static const uint8_t iret = 0xCF;
    WHV_PARTITION_HANDLE p = set_up(PROCESSORS);
    uint8_t *at = memory + CODE;
    int16_t back;

    memset(memory, 0, sizeof(memory));
    for (int kind = 0; kind < KINDS; kind++)
        if (wanted[kind])
            at = emit_access(at, kind);
    *at++ = 0xE9;                               // jmp to the start
    back = (int16_t)(memory + CODE - (at + 2));
    (void)emit(at, &back, sizeof(back));
    set_handler(memory, 3, &iret, sizeof(iret));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
        start_at(p, vp, CODE);
        set_register(p, vp, WHvX64RegisterRsi, COUNTERS(vp));
        set_register(p, vp, WHvX64RegisterRsp, 0x8800 + 0x800 * vp);
    }
    return p;
}

// ---- The client ----------------------------------------------------------------------------------------------------

struct client {
    WHV_PARTITION_HANDLE partition;
    UINT32 vp;
    pthread_t thread;
    UINT32 exits[KINDS];
    const char *wrong;          // NULL, or what no exit should be
    atomic_bool stop;
};

// Answer an exit's access with MAGIC. False where it is none of the guest's.
static bool answer(struct client *c, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterRax, WHvX64RegisterRdx, WHvX64RegisterRip};
    WHV_REGISTER_VALUE values[3];
    enum kind kind;

    if (exit->ExitReason == WHvRunVpExitReasonX64Cpuid && exit->CpuidAccess.Rax == LEAF)
        kind = CPUID;
    else if (exit->ExitReason == WHvRunVpExitReasonX64MsrAccess && exit->MsrAccess.MsrNumber == PATCH_LEVEL)
        kind = MSR;
    else if (exit->ExitReason == WHvRunVpExitReasonException &&
             exit->VpException.ExceptionType == WHvX64ExceptionTypeBreakpointTrap)
        kind = BREAKPOINT;
    else
        return false;
    c->exits[kind]++;
    memset(values, 0, sizeof(values));
    values[0].Reg64 = MAGIC;
    values[2].Reg64 = exit->VpContext.Rip + (kind == BREAKPOINT ? 1 : 2);
    return WHvSetVirtualProcessorRegisters(c->partition, c->vp, names, 3, values) == S_OK;
}

static void *client_main(void *argument)
{
    struct client *c = argument;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    while (!c->wrong) {
        if (WHvRunVirtualProcessor(c->partition, c->vp, &exit, sizeof(exit)) != S_OK)
            c->wrong = "a run failed";
        else if (exit.ExitReason == WHvRunVpExitReasonCanceled && atomic_load(&c->stop))
            break;
        else if (!answer(c, &exit))
            c->wrong = "an exit that nobody asked for";
    }
    return NULL;
}

// ---- The changes ---------------------------------------------------------------------------------------------------

// What is set now, and how often each kind had been begun and answered when the last change had returned.
struct settings {
    WHV_PARTITION_HANDLE p;
    WHV_EXTENDED_VM_EXITS offered, exits;
    UINT64 vectors;
    WHV_X64_MSR_EXIT_BITMAP msrs;
    UINT32 leaf;
    bool wanted[KINDS];
    UINT32 most[PROCESSORS][KINDS];     // that can ever come of those that must not come now
    UINT32 begun[PROCESSORS];           // of CPUID
};

static bool must_exit(const struct settings *s, enum kind kind)
{
    switch (kind) {
    case CPUID:
        return s->exits.X64CpuidExit && s->leaf == LEAF;
    case MSR:
        return s->exits.X64MsrExit && s->msrs.McUpdatePatchLevelMsrRead;
    default:
        return s->exits.ExceptionExit && s->vectors & 1u << WHvX64ExceptionTypeBreakpointTrap;
    }
}

static enum counter forbidden(const struct settings *s, enum kind kind)
{
    return must_exit(s, kind) ? NATIVE : CLIENT;
}

// A change has returned. What has been begun by now may have been answered either way; what is begun from here on may
// not. The answers are read first: none of them is to an access that is begun later.
static void note(struct settings *s)
{
    for (unsigned int vp = 0; vp < PROCESSORS; vp++) {
        for (int kind = 0; kind < KINDS; kind++) {
            UINT32 right = counted(vp, kind, forbidden(s, kind) == NATIVE ? CLIENT : NATIVE);

            s->most[vp][kind] = counted(vp, kind, BEGUN) - right;
        }
        s->begun[vp] = counted(vp, CPUID, BEGUN);
    }
}

// The processor has been through all accesses since the last change.
static void await_round(const struct settings *s, unsigned int vp)
{
    EVENTUALLY(counted(vp, CPUID, BEGUN) - s->begun[vp] >= 2);
}

// Before the next change: did the last one hold?
static void check(const struct settings *s)
{
    for (unsigned int vp = 0; vp < PROCESSORS; vp++)
        for (int kind = 0; kind < KINDS; kind++)
            if (counted(vp, kind, forbidden(s, kind)) > s->most[vp][kind])
                fail_msg("processor %u: %s of kind %d", vp,
                         must_exit(s, kind) ? "a lost exit" : "an exit that was switched off", kind);
}

// The n-th change: the properties in turn, each on and off.
static HRESULT change(struct settings *s, UINT32 n)
{
    const bool on = n / 4 % 2 == 0;

    switch (n % 4) {
    case 0:
        // The others go through all that they can while these exits are on, and once while they are off.
        s->exits.AsUINT64 = n / 4 % 5 ? s->offered.AsUINT64 : 0;
        return set64(s->p, WHvPartitionPropertyCodeExtendedVmExits, s->exits.AsUINT64);
    case 1:
        s->vectors = on && s->offered.ExceptionExit ? 1u << WHvX64ExceptionTypeBreakpointTrap : 0;
        return set64(s->p, WHvPartitionPropertyCodeExceptionExitBitmap, s->vectors);
    case 2:
        s->msrs.McUpdatePatchLevelMsrRead = on;
        return set64(s->p, WHvPartitionPropertyCodeX64MsrExitBitmap, s->msrs.AsUINT64);
    default:
        s->leaf = on ? LEAF : LEAF + 1;
        return WHvSetPartitionProperty(s->p, WHvPartitionPropertyCodeCpuidExitList, &s->leaf, sizeof(s->leaf));
    }
}

static void start_clients(struct client *clients, WHV_PARTITION_HANDLE p)
{
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        clients[vp] = (struct client){.partition = p, .vp = vp};
        assert_int_equal(pthread_create(&clients[vp].thread, NULL, client_main, &clients[vp]), 0);
    }
}

// Every access was answered once, and every exit was the guest's; but for the one that it was stopped in.
static void finish_clients(struct client *clients, const struct settings *s)
{
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        atomic_store(&clients[vp].stop, true);
        assert_ok(WHvCancelRunVirtualProcessor(s->p, vp, 0));
    }
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        UINT32 open = 0, untold = 0;

        pthread_join(clients[vp].thread, NULL);
        if (clients[vp].wrong)
            fail_msg("processor %u: %s", vp, clients[vp].wrong);
        for (int kind = 0; kind < KINDS; kind++) {
            open += counted(vp, kind, BEGUN) - counted(vp, kind, NATIVE) - counted(vp, kind, CLIENT);
            untold += clients[vp].exits[kind] - counted(vp, kind, CLIENT);
            if (must_exit(s, kind) || clients[vp].exits[kind])
                assert_true(counted(vp, kind, CLIENT) > 0 && counted(vp, kind, NATIVE) > 0);
        }
        assert_in_range(open, 0, 1);
        assert_in_range(untold, 0, open);
    }
}

static void test_storm_of_changes(void **state)
{
    static const UINT32 all_on[] = {4, 9, 10, 11};
    struct settings s = {.leaf = LEAF + 1};
    struct client clients[PROCESSORS];
    const UINT32 changes = rounds(CHANGES);
    UINT64 exits = 0;

    (void)state;
    s.offered = engine_capability(WHvCapabilityCodeExtendedVmExits).ExtendedVmExits;
    s.offered.AsUINT64 &=
        (WHV_EXTENDED_VM_EXITS){.X64CpuidExit = 1, .X64MsrExit = 1, .ExceptionExit = 1}.AsUINT64;
    s.wanted[CPUID] = s.wanted[MSR] = true;
    s.wanted[BREAKPOINT] = s.offered.ExceptionExit;
    s.p = new_guest(s.wanted);
    assert_ok(WHvSetPartitionProperty(s.p, WHvPartitionPropertyCodeCpuidExitList, &s.leaf, sizeof(s.leaf)));
    note(&s);
    start_clients(clients, s.p);
    for (UINT32 vp = 0; vp < PROCESSORS; vp++)
        EVENTUALLY(counted(vp, CPUID, NATIVE) > 0);
    for (UINT32 n = 0; n < changes; n++) {
        assert_ok(change(&s, n));
        note(&s);
        // Most changes come as fast as they can. Behind some of them a processor gets to show what holds.
        if (n % LOOK_EVERY == 0)
            await_round(&s, n / LOOK_EVERY % PROCESSORS);
        check(&s);
    }

    // The last word is that all exit, and all do.
    for (unsigned int n = 0; n < sizeof(all_on) / sizeof(all_on[0]); n++)
        assert_ok(change(&s, all_on[n]));
    note(&s);
    for (unsigned int vp = 0; vp < PROCESSORS; vp++)
        await_round(&s, vp);
    check(&s);
    finish_clients(clients, &s);
    for (UINT32 vp = 0; vp < PROCESSORS; vp++)
        for (int kind = 0; kind < KINDS; kind++)
            exits += clients[vp].exits[kind];
    print_message("%u changes, %llu exits\n", changes, (unsigned long long)exits);
    assert_ok(WHvDeletePartition(s.p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_storm_of_changes),
    };

    return engine_run_tests(tests);
}
