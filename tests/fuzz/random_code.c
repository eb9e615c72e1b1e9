// Random machine code in every mode: the processor must survive it, end when it is cancelled, and reach
// nothing outside of its memory.
//
//   random_code [--seed N] [--start N] [--count N] [--seconds N]
//
// Case N depends on the seed and N alone. A case is random bytes with random registers in real mode, 16- or
// 32-bit protected mode, compatibility or 64-bit mode, at CPL 0 or 3, with random tables behind it; it goes
// on through some exits, which the instruction emulator completes in half of the cases.
#include "arena.h"
#include "watchdog.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <WinHvEmulation.h>

enum { PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, PT = 0x4000, GDT = 0x5000, IDT = 0x6000, CODE = 0x10000,
       CODE_SIZE = 0x2000, EXITS = 24, CASES_PER_PARTITION = 2000 };

enum mode { REAL, PROTECTED_16, PROTECTED_32, PAE_32, COMPATIBILITY, LONG_64, MODES };

static struct {
    struct random random;
    struct arena arena;
    WHV_PARTITION_HANDLE partition;
    WHV_EMULATOR_HANDLE emulator;
    uint64_t seed, number;
    enum mode mode;
    bool user, apic;
    uint64_t exits, cancels;
} fuzz;

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t next(void) { return random_next(&fuzz.random); }
static uint32_t below(uint32_t bound) { return random_below(&fuzz.random, bound); }

static void describe(void)
{
    static const char *const names[MODES] = { "real mode",
                                              "16-bit protected mode",
                                              "32-bit protected mode",
                                              "32-bit protected mode with PAE",
                                              "compatibility mode",
                                              "64-bit mode" };
    const uint8_t *code = arena_at(&fuzz.arena, CODE);
    printf("    %s, CPL %d, local APIC %s; code:", names[fuzz.mode], fuzz.user ? 3 : 0,
           fuzz.apic ? "on" : "off");
    for (int i = 0; i < 32; i++)
        printf(" %02x", code[i]);
    // A partition's state outlives a case, so what came before may matter.
    printf("\n    again: random_code --seed %llu --start %llu --count 1, or from --start %llu\n",
           (unsigned long long)fuzz.seed, (unsigned long long)fuzz.number,
           (unsigned long long)(fuzz.number / CASES_PER_PARTITION * CASES_PER_PARTITION));
}

// ---- The emulator's callbacks: a device that answers anything, and the processor itself

static HRESULT CALLBACK on_port(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *access)
{
    (void)context;
    access->Data = (UINT32)next();
    return below(50) ? S_OK : E_FAIL;
}

static HRESULT CALLBACK on_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    uint64_t value = next();
    (void)context;
    if (access->Direction == 0)
        memcpy(access->Data, &value, access->AccessSize < 8 ? access->AccessSize : 8);
    return below(50) ? S_OK : E_FAIL;
}

static HRESULT CALLBACK on_get(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                               WHV_REGISTER_VALUE *values)
{
    (void)context;
    return WHvGetVirtualProcessorRegisters(fuzz.partition, 0, names, count, values);
}

static HRESULT CALLBACK on_set(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                               const WHV_REGISTER_VALUE *values)
{
    (void)context;
    return WHvSetVirtualProcessorRegisters(fuzz.partition, 0, names, count, values);
}

static HRESULT CALLBACK on_translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva,
                                     WHV_TRANSLATE_GVA_FLAGS flags, WHV_TRANSLATE_GVA_RESULT_CODE *code,
                                     WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    WHV_TRANSLATE_GVA_RESULT result;
    (void)context;
    HRESULT hr = WHvTranslateGva(fuzz.partition, 0, gva, flags, &result, gpa);
    *code = result.ResultCode;
    return hr;
}

// ---- The partition

static bool set_property(WHV_PARTITION_PROPERTY_CODE code, uint64_t value)
{
    WHV_PARTITION_PROPERTY property;
    memset(&property, 0, sizeof(property));
    memcpy(&property, &value, sizeof(value));
    return CHECK(WHvSetPartitionProperty(fuzz.partition, code, &property, sizeof(property)));
}

static bool create_partition(void)
{
    WHV_EXTENDED_VM_EXITS exits = { 0 };
    unsigned kind = below(8);
    fuzz.apic = kind & 1;
    exits.X64CpuidExit = kind >> 1 & 1;
    exits.X64MsrExit = exits.X64RdtscExit = kind >> 2 & 1;
    return CHECK(WHvCreatePartition(&fuzz.partition))
           && set_property(WHvPartitionPropertyCodeProcessorCount, 1)
           && (!fuzz.apic
               || set_property(WHvPartitionPropertyCodeLocalApicEmulationMode,
                               WHvX64LocalApicEmulationModeX2Apic))
           && set_property(WHvPartitionPropertyCodeExtendedVmExits, exits.AsUINT64)
           && CHECK(WHvSetupPartition(fuzz.partition)) && arena_map(&fuzz.arena, fuzz.partition)
           && CHECK(WHvCreateVirtualProcessor(fuzz.partition, 0, 0));
}

static bool create_emulator(void)
{
    static const WHV_EMULATOR_CALLBACKS callbacks = { .Size = sizeof(callbacks),
                                                      .WHvEmulatorIoPortCallback = on_port,
                                                      .WHvEmulatorMemoryCallback = on_memory,
                                                      .WHvEmulatorGetVirtualProcessorRegisters = on_get,
                                                      .WHvEmulatorSetVirtualProcessorRegisters = on_set,
                                                      .WHvEmulatorTranslateGvaPage = on_translate };
    return CHECK(WHvEmulatorCreateEmulator(&callbacks, &fuzz.emulator));
}

// ---- A case

// Bytes of which many are opcodes that do something, so that the code lives longer than pure noise.
static void write_code(void)
{
    static const uint8_t often[] = { 0x0f, 0x0f, 0x0f, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x48, 0x8b, 0x89, 0x01,
                                     0xc7, 0x0f, 0xff, 0xf7, 0x9a, 0xcb, 0xcf, 0x8e, 0x07, 0x1f, 0xcd, 0x9d,
                                     0x9c, 0xd9, 0xdb, 0xdd, 0xae, 0x01, 0x00, 0x22, 0x20, 0x30, 0x32, 0x6c,
                                     0x6e, 0xa4, 0xa5, 0xaa, 0xe4, 0xec, 0xee, 0xc2, 0xc8, 0x62, 0xea, 0xff };
    uint8_t *code = arena_at(&fuzz.arena, CODE);
    bool noise = below(3) == 0;
    for (unsigned i = 0; i < CODE_SIZE; i++)
        code[i] = noise || below(3) ? (uint8_t)next() : often[below(sizeof(often))];
}

static void write_tables(void)
{
    uint64_t *pml4 = (uint64_t *)arena_at(&fuzz.arena, PML4), *pdpt = (uint64_t *)arena_at(&fuzz.arena, PDPT);
    uint64_t *pd = (uint64_t *)arena_at(&fuzz.arena, PD), *pt = (uint64_t *)arena_at(&fuzz.arena, PT);
    uint64_t *gdt = (uint64_t *)arena_at(&fuzz.arena, GDT), *idt = (uint64_t *)arena_at(&fuzz.arena, IDT);
    for (unsigned i = 0; i < 512; i++) {
        pml4[i] = PDPT | 0x27;
        pdpt[i] = fuzz.mode == PAE_32 ? PD | 1 : PD | 7;        // what PAE reserves must be 0
        pd[i] = below(8) ? (uint64_t)i << 21 | 0xe7 : next();
        pt[i] = below(8) ? (uint64_t)i << 12 | 0x67 : next();
        gdt[i] = below(4) ? 0x008093000000ffffu | (uint64_t)below(2) << 55 | (uint64_t)below(16) << 40
                            | (uint64_t)below(4) << 45 | (uint64_t)below(2) << 53 : next();
        idt[i] = below(2) ? next() : 0x00008e0000080000u | (CODE + below(0x1000)) | (uint64_t)below(4) << 45;
    }
    pd[0] = PT | 7;
    for (unsigned i = 0; i < 32; i++)
        pt[i] = (uint64_t)i << 12 | 0x67;
    if (fuzz.mode == PROTECTED_32)      // two-level tables have entries of 32 bits
        for (unsigned i = 0; i < 1024; i++)
            ((uint32_t *)pd)[i] = below(8) ? i << 22 | 0xe7 : (uint32_t)next();
}

static WHV_REGISTER_VALUE code_segment(void)
{
    static const uint16_t attributes[MODES] = { 0x009b, 0x009b, 0xc09b, 0xc09b, 0xc09b, 0xa09b };
    WHV_REGISTER_VALUE v = { 0 };
    v.Segment.Selector = fuzz.mode == REAL ? CODE >> 4 : fuzz.user ? 0x0b : 0x08;
    v.Segment.Base = fuzz.mode == REAL ? CODE : 0;
    v.Segment.Limit = fuzz.mode == REAL ? 0xffff : 0xffffffff;
    v.Segment.Attributes = (UINT16)(attributes[fuzz.mode] | (fuzz.user ? 0x60 : 0));
    return v;
}

static WHV_REGISTER_VALUE data_segment(void)
{
    WHV_REGISTER_VALUE v = { 0 };
    v.Segment.Selector = fuzz.mode == REAL ? 0 : fuzz.user ? 0x13 : 0x10;
    v.Segment.Limit = fuzz.mode == REAL ? 0xffff : 0xffffffff;
    v.Segment.Attributes = (UINT16)((fuzz.mode == REAL ? 0x0093
                                     : below(2)        ? 0xc093
                                                       : 0x8093)
                                    | (fuzz.user ? 0x60 : 0));
    return v;
}

static uint64_t random_register(void)
{
    switch (below(4)) {
    case 0: return below(0x200000);
    case 1: return next() >> below(64);
    case 2: return fuzz.arena.pieces[below(fuzz.arena.count)].gpa + below(0x1000) - 32;
    default: return below(256);
    }
}

static uint64_t control_register_0(void)
{
    uint64_t paging = fuzz.mode >= PAE_32 || (fuzz.mode == PROTECTED_32 && below(2)) ? 0x80010000u : 0;
    return fuzz.mode == REAL ? 0x30 : 0x33 | paging;
}

static bool set_state(void)
{
    static const WHV_REGISTER_NAME names[] = { WHvX64RegisterRax,
                                               WHvX64RegisterRcx,
                                               WHvX64RegisterRdx,
                                               WHvX64RegisterRbx,
                                               WHvX64RegisterRsp,
                                               WHvX64RegisterRbp,
                                               WHvX64RegisterRsi,
                                               WHvX64RegisterRdi,
                                               WHvX64RegisterR8,
                                               WHvX64RegisterR9,
                                               WHvX64RegisterR10,
                                               WHvX64RegisterR11,
                                               WHvX64RegisterR12,
                                               WHvX64RegisterR13,
                                               WHvX64RegisterR14,
                                               WHvX64RegisterR15,
                                               WHvX64RegisterRip,
                                               WHvX64RegisterRflags,
                                               WHvX64RegisterCs,
                                               WHvX64RegisterDs,
                                               WHvX64RegisterEs,
                                               WHvX64RegisterSs,
                                               WHvX64RegisterFs,
                                               WHvX64RegisterGs,
                                               WHvX64RegisterCr0,
                                               WHvX64RegisterCr3,
                                               WHvX64RegisterCr4,
                                               WHvX64RegisterEfer,
                                               WHvX64RegisterGdtr,
                                               WHvX64RegisterIdtr,
                                               WHvX64RegisterLdtr,
                                               WHvX64RegisterTr,
                                               WHvX64RegisterDr7,
                                               WHvRegisterPendingInterruption,
                                               WHvRegisterInterruptState,
                                               WHvRegisterInternalActivityState,
                                               WHvX64RegisterDeliverabilityNotifications,
                                               WHvX64RegisterFpControlStatus,
                                               WHvX64RegisterXmmControlStatus };
    enum {
        COUNT = sizeof(names) / sizeof(names[0]),
        RIP = 16,
        FLAGS,
        CS,
        DS,
        ES,
        SS,
        FS,
        GS,
        CR0,
        CR3,
        CR4,
        EFER,
        GDTR,
        IDTR,
        LDTR,
        TR,
        DR7,
        PENDING,
        SHADOW,
        ACTIVITY,
        NOTIFICATIONS,
        FP_CONTROL,
        XMM_CONTROL
    };
    WHV_REGISTER_VALUE v[COUNT];
    memset(v, 0, sizeof(v));
    for (int i = 0; i < 16; i++)
        v[i].Reg64 = random_register();
    v[RIP].Reg64 = fuzz.mode == REAL ? 0 : CODE;
    v[FLAGS].Reg64 = 2 | (next() & 0xdd5) | (below(16) ? 0 : next() & 0x254100);
    v[CS] = code_segment();
    v[DS] = data_segment();
    v[ES] = data_segment();
    v[SS] = data_segment();
    v[FS] = data_segment();
    v[GS] = data_segment();
    v[CR0].Reg64 = control_register_0();
    v[CR3].Reg64 = fuzz.mode == PROTECTED_32 ? PD : fuzz.mode == PAE_32 ? PDPT : PML4;
    v[CR4].Reg64 = (fuzz.mode == PROTECTED_32 ? 0x10 : 0x20) | 0x600 | (next() & 0x8f);
    v[EFER].Reg64 = fuzz.mode >= COMPATIBILITY ? 0xd01 : 0;
    v[GDTR].Table.Base = GDT;
    v[GDTR].Table.Limit = 0xfff;
    v[IDTR].Table.Base = fuzz.mode == REAL ? 0 : IDT;
    v[IDTR].Table.Limit = below(4) ? 0xfff : 0;
    v[LDTR].Segment.Attributes = 0x82;
    v[TR].Segment.Base = IDT;
    v[TR].Segment.Limit = below(2) ? 0x67 : 0xfff;
    v[TR].Segment.Selector = 0x40;
    v[TR].Segment.Attributes = 0x8b;
    v[DR7].Reg64 = below(8) ? 0x400 : 0x400 | (next() & 0xffff03ff);
    v[FP_CONTROL].FpControlStatus.FpControl = 0x37f;
    v[XMM_CONTROL].XmmControlStatus.XmmStatusControl = 0x1f80;
    return CHECK(WHvSetVirtualProcessorRegisters(fuzz.partition, 0, names, COUNT, v));
}

// Goes on after an exit: true when the case is to be run further.
static bool after_exit(const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    WHV_EMULATOR_STATUS status = { 0 };
    WHV_REGISTER_NAME name = WHvX64RegisterRip;
    WHV_REGISTER_VALUE rip = { .Reg64 = exit->VpContext.Rip + exit->VpContext.InstructionLength };
    switch (exit->ExitReason) {
    case WHvRunVpExitReasonX64IoPortAccess:
        if (below(2))
            return SUCCEEDED(WHvEmulatorTryIoEmulation(fuzz.emulator, NULL, &exit->VpContext,
                                                       &exit->IoPortAccess, &status))
                   && status.EmulationSuccessful;
        break;
    case WHvRunVpExitReasonMemoryAccess:
        return below(2)
               && SUCCEEDED(WHvEmulatorTryMmioEmulation(fuzz.emulator, NULL, &exit->VpContext,
                                                        &exit->MemoryAccess, &status))
               && status.EmulationSuccessful;
    case WHvRunVpExitReasonX64Cpuid: case WHvRunVpExitReasonX64MsrAccess: case WHvRunVpExitReasonX64Rdtsc:
        break;
    default:
        return false;
    }
    return CHECK(WHvSetVirtualProcessorRegisters(fuzz.partition, 0, &name, 1, &rip));
}

static bool run_case(void)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;
    fuzz.mode = (enum mode)below(MODES);
    fuzz.user = fuzz.mode != REAL && below(3) == 0;
    write_code();
    write_tables();
    if (!set_state())
        return false;
    for (int i = 0; i < EXITS; i++) {
        if (!CHECK(watchdog_run(fuzz.partition, 0, &exit)))
            return false;
        fuzz.exits++;
        fuzz.cancels += exit.ExitReason == WHvRunVpExitReasonCanceled;
        if (!after_exit(&exit))
            break;
    }
    return true;
}

static struct random random_of(uint64_t number)
{
    struct random r = { fuzz.seed * 0x9e3779b97f4a7c15u ^ number * 0xd1342543de82ef95u };
    random_next(&r);
    return r;
}

static bool step(bool new_partition)
{
    if (new_partition) {
        if (fuzz.partition)
            WHvDeletePartition(fuzz.partition);
        fuzz.random = random_of(~(fuzz.number / CASES_PER_PARTITION));
        if (!create_partition())
            return false;
    }
    fuzz.random = random_of(fuzz.number);
    bool ok = run_case();
    ptrdiff_t changed = !ok || (fuzz.number & 15) == 0 ? arena_check(&fuzz.arena) : -1;
    if (changed >= 0)
        printf("random code: the canary at offset 0x%zx changed, in one of the last 16 cases\n",
               (size_t)changed);
    if (!ok || changed >= 0)
        describe();
    return ok && changed < 0;
}

int main(int argc, char **argv)
{
    static const struct option known[] = { { "seed", 1, NULL, 's' }, { "start", 1, NULL, 'b' },
                                           { "seconds", 1, NULL, 't' }, { "count", 1, NULL, 'n' }, { 0 } };
    uint64_t start = 0, count = ~(uint64_t)0;
    double seconds = 5;
    fuzz.seed = 1;
    for (int k; (k = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (k) {
        case 's': fuzz.seed = strtoull(optarg, NULL, 0); break;
        case 'b': start = strtoull(optarg, NULL, 0); break;
        case 't': seconds = strtod(optarg, NULL); break;
        case 'n': count = strtoull(optarg, NULL, 0); break;
        default: return 2;
        }
    }
    if (!arena_create(&fuzz.arena) || !create_emulator())
        return 2;
    watchdog_start(describe);
    bool ok = true;
    double end = seconds_now() + seconds;
    for (fuzz.number = start; ok && fuzz.number - start < count; fuzz.number++) {
        if ((fuzz.number & 15) == 0 && seconds_now() > end)
            break;
        ok = step(fuzz.number == start || fuzz.number % CASES_PER_PARTITION == 0);
    }
    watchdog_stop();
    if (ok && arena_check(&fuzz.arena) >= 0) {
        printf("random code: a canary has changed\n");
        ok = false;
    }
    WHvDeletePartition(fuzz.partition);
    WHvEmulatorDestroyEmulator(fuzz.emulator);
    arena_destroy(&fuzz.arena);
    printf("random code: %s, %llu cases, %llu exits, %llu cancelled (seed %llu, from %llu)\n",
           ok ? "passed" : "failed", (unsigned long long)(fuzz.number - start),
           (unsigned long long)fuzz.exits, (unsigned long long)fuzz.cancels, (unsigned long long)fuzz.seed,
           (unsigned long long)start);
    return ok ? 0 : 1;
}
