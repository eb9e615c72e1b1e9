// A guest that reads and writes wherever it can name an address, physical and linear, and must reach nothing
// but its own memory.
//
//   spray [--seed N] [--seconds N] [--count N]
//
// Each access is one short piece of code at CPL 0 in 64-bit mode, or in 32-bit protected mode without paging.
// The page tables map every linear address of the lower half to itself with pages of 1 GiB or 2 MiB, and some
// entries are random. After an access the processor must have halted, faulted or left with a memory access
// exit for an address outside of the guest's memory (or not permitted), and no canary may have changed.
#include "arena.h"
#include "watchdog.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CODE = 0x8000, PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, STACK = 0x7000, PT_RANDOM = 0x10000 };

struct spray {
    struct random random;
    struct arena arena;
    WHV_PARTITION_HANDLE partition;
    uint64_t accesses, halted, memory_exits, faults;
};

static struct { unsigned which; uint64_t address; bool long_mode; } spray_now;

static void describe(void)
{
    printf("spray: number %u at 0x%llx, %s\n", spray_now.which, (unsigned long long)spray_now.address,
           spray_now.long_mode ? "64-bit mode" : "protected mode");
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// Accesses through RBX (and RDI, RSI = RBX); each ends in HLT. All encodings mean the same in 32-bit mode but
// where REX is used, which is then DEC EAX.
static const struct { uint8_t bytes[12], size; } accesses[] = {
    { { 0x8a, 0x03 }, 2 },                      // MOV AL, [RBX]
    { { 0x88, 0x03 }, 2 },                      // MOV [RBX], AL
    { { 0x8b, 0x03 }, 2 },                      // MOV EAX, [RBX]
    { { 0x89, 0x03 }, 2 },                      // MOV [RBX], EAX
    { { 0x48, 0x8b, 0x03 }, 3 },                // MOV RAX, [RBX]
    { { 0x48, 0x89, 0x03 }, 3 },                // MOV [RBX], RAX
    { { 0x66, 0x89, 0x03 }, 3 },                // MOV [RBX], AX
    { { 0xf0, 0x01, 0x03 }, 3 },                // LOCK ADD [RBX], EAX
    { { 0x87, 0x03 }, 2 },                      // XCHG [RBX], EAX
    { { 0xf0, 0x0f, 0xc7, 0x0b }, 4 },          // LOCK CMPXCHG8B [RBX]
    { { 0x48, 0x0f, 0xc7, 0x0b }, 4 },          // CMPXCHG16B [RBX]
    { { 0x0f, 0x10, 0x03 }, 3 },                // MOVUPS XMM0, [RBX]
    { { 0x0f, 0x11, 0x03 }, 3 },                // MOVUPS [RBX], XMM0
    { { 0x0f, 0x29, 0x03 }, 3 },                // MOVAPS [RBX], XMM0
    { { 0x0f, 0xae, 0x03 }, 3 },                // FXSAVE [RBX]
    { { 0x0f, 0xae, 0x0b }, 3 },                // FXRSTOR [RBX]
    { { 0xdd, 0x33 }, 2 },                      // FNSAVE [RBX]
    { { 0xdb, 0x3b }, 2 },                      // FSTP TBYTE [RBX]
    { { 0xf3, 0xa4 }, 2 },                      // REP MOVSB
    { { 0xf3, 0xab }, 2 },                      // REP STOSD
    { { 0xf3, 0xa5 }, 2 },                      // REP MOVSD
    { { 0xf3, 0x6c }, 2 },                      // REP INSB
    { { 0x0f, 0xab, 0x0b }, 3 },                // BTS [RBX], ECX
    { { 0xff, 0x33 }, 2 },                      // PUSH [RBX]
    { { 0x8f, 0x03 }, 2 },                      // POP [RBX]
    { { 0xff, 0xe3 }, 2 },                      // JMP RBX
    { { 0xff, 0x23 }, 2 },                      // JMP [RBX]
    { { 0x89, 0xdc, 0x50 }, 3 },                // MOV ESP, EBX; PUSH RAX
    { { 0x48, 0x89, 0xdc, 0x50 }, 4 },          // MOV RSP, RBX; PUSH RAX
    { { 0x0f, 0x01, 0x13 }, 3 },                // LGDT [RBX]
    { { 0x0f, 0x01, 0x03 }, 3 },                // SGDT [RBX]
    { { 0x0f, 0x22, 0xdb }, 3 },                // MOV CR3, RBX
    { { 0x0f, 0x01, 0x3b }, 3 },                // INVLPG [RBX]
    { { 0x0f, 0xae, 0x3b }, 3 },                // CLFLUSH [RBX]
    { { 0x0f, 0xf7, 0xc1 }, 3 },                // MASKMOVQ MM0, MM1
};

static uint64_t pick_address(struct spray *s)
{
    struct random *r = &s->random;
    const struct piece *p = &s->arena.pieces[random_below(r, s->arena.count)];
    switch (random_below(r, 8)) {
    case 0: return p->gpa + random_below(r, (uint32_t)p->size);
    case 1: return p->gpa + p->size - random_below(r, 600);     // over the end
    case 2: return p->gpa - random_below(r, 600);               // before the beginning
    case 3: return (uint64_t)random_below(r, 1 << 20) << 21;    // every 2 MiB
    case 4: return ((uint64_t)1 << random_below(r, 64)) - random_below(r, 32);
    case 5: return random_next(r) >> random_below(r, 64);
    case 6: return 0xffff800000000000u | random_next(r);
    default: return (p->gpa + random_below(r, (uint32_t)p->size)) | (random_next(r) & 0xfffu) << 39;
    }
}

static void build_tables(struct spray *s)
{
    uint64_t *pml4 = (uint64_t *)arena_at(&s->arena, PML4), *pdpt = (uint64_t *)arena_at(&s->arena, PDPT);
    uint64_t *pd = (uint64_t *)arena_at(&s->arena, PD), *wild = (uint64_t *)arena_at(&s->arena, PT_RANDOM);
    for (unsigned i = 0; i < 512; i++) {
        pml4[i] = i < 256 ? PDPT | 7 : 0;
        pdpt[i] = (uint64_t)i << 30 | 0x87;         // 1 GiB pages: every gigabyte leads to itself
        pd[i] = (uint64_t)i << 21 | 0x87;
        wild[i] = random_next(&s->random);
    }
    pdpt[0] = PD | 7;
    for (unsigned i = 256; i < 512; i++)            // the upper half: anything
        pml4[i] = random_below(&s->random, 2) ? random_next(&s->random) : PT_RANDOM | 7;
}

static WHV_REGISTER_VALUE segment(uint16_t selector, uint16_t attributes)
{
    WHV_REGISTER_VALUE v = { 0 };
    v.Segment.Limit = 0xffffffff;
    v.Segment.Selector = selector;
    v.Segment.Attributes = attributes;
    return v;
}

static bool set_state(struct spray *s, uint64_t address, bool long_mode)
{
    static const WHV_REGISTER_NAME names[] = { WHvX64RegisterCs,
                                               WHvX64RegisterDs,
                                               WHvX64RegisterEs,
                                               WHvX64RegisterSs,
                                               WHvX64RegisterCr0,
                                               WHvX64RegisterCr3,
                                               WHvX64RegisterCr4,
                                               WHvX64RegisterEfer,
                                               WHvX64RegisterRip,
                                               WHvX64RegisterRflags,
                                               WHvX64RegisterRsp,
                                               WHvX64RegisterRbx,
                                               WHvX64RegisterRdi,
                                               WHvX64RegisterRsi,
                                               WHvX64RegisterRcx,
                                               WHvX64RegisterRax,
                                               WHvX64RegisterIdtr,
                                               WHvX64RegisterGdtr,
                                               WHvRegisterPendingInterruption,
                                               WHvRegisterInterruptState,
                                               WHvRegisterInternalActivityState };
    WHV_REGISTER_VALUE none = { 0 };
    WHV_REGISTER_VALUE values[] = { segment(0x08, long_mode ? 0xa09b : 0xc09b),
                                    segment(0x10, 0xc093),
                                    segment(0x10, 0xc093),
                                    segment(0x10, 0xc093),
                                    { .Reg64 = long_mode ? 0x80010033 : 0x33 },
                                    { .Reg64 = PML4 },
                                    { .Reg64 = 0x620 },
                                    { .Reg64 = long_mode ? 0xd01 : 0 },
                                    { .Reg64 = CODE },
                                    { .Reg64 = 2 | random_below(&s->random, 2) << 10 },
                                    { .Reg64 = STACK },
                                    { .Reg64 = address },
                                    { .Reg64 = address },
                                    { .Reg64 = address },
                                    { .Reg64 = random_below(&s->random, 2) ? random_below(&s->random, 0x3000)
                                                                           : random_next(&s->random) },
                                    { .Reg64 = random_next(&s->random) },
                                    none,
                                    none,
                                    none,
                                    none,
                                    none };
    return CHECK(
        WHvSetVirtualProcessorRegisters(s->partition, 0, names, sizeof(names) / sizeof(names[0]), values));
}

// Whether a memory exit for this address is right: the guest must not have the address, or not the right.
static bool exit_is_right(const struct spray *s, const WHV_MEMORY_ACCESS_CONTEXT *m)
{
    for (unsigned i = 0; i < s->arena.count; i++) {
        const struct piece *p = &s->arena.pieces[i];
        if (m->Gpa - p->gpa >= p->size)
            continue;
        static const WHV_MAP_GPA_RANGE_FLAGS needed[] = {
            [WHvMemoryAccessRead] = WHvMapGpaRangeFlagRead, [WHvMemoryAccessWrite] = WHvMapGpaRangeFlagWrite,
            [WHvMemoryAccessExecute] = WHvMapGpaRangeFlagExecute
        };
        return !(p->flags & needed[m->AccessInfo.AccessType]) && !m->AccessInfo.GpaUnmapped;
    }
    return m->AccessInfo.GpaUnmapped;
}

static bool run_access(struct spray *s, unsigned which, uint64_t address, bool long_mode)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;
    uint8_t *code = arena_at(&s->arena, CODE);
    memset(code, 0xf4, 32);
    memcpy(code, accesses[which].bytes, accesses[which].size);
    if (!set_state(s, address, long_mode) || !CHECK(watchdog_run(s->partition, 0, &exit)))
        return false;
    s->accesses++;
    switch (exit.ExitReason) {
    case WHvRunVpExitReasonX64Halt:
        s->halted++;
        return true;
    case WHvRunVpExitReasonUnrecoverableException:      // there is no IDT: a fault becomes a triple fault
        s->faults++;
        return true;
    case WHvRunVpExitReasonMemoryAccess:
        s->memory_exits++;
        if (exit_is_right(s, &exit.MemoryAccess))
            return true;
        printf("spray: exit for 0x%llx, access %u, unmapped %u, which the guest has\n",
               (unsigned long long)exit.MemoryAccess.Gpa, exit.MemoryAccess.AccessInfo.AccessType,
               exit.MemoryAccess.AccessInfo.GpaUnmapped);
        return false;
    // What a jump into memory full of numbers can lead to
    case WHvRunVpExitReasonX64IoPortAccess: case WHvRunVpExitReasonCanceled:
    case WHvRunVpExitReasonInvalidVpRegisterValue: case WHvRunVpExitReasonX64InterruptWindow:
    case WHvRunVpExitReasonUnsupportedFeature: case WHvRunVpExitReasonHypercall:
        s->faults++;
        return true;
    default:
        printf("spray: unexpected exit 0x%x\n", exit.ExitReason);
        return false;
    }
}

static bool create(struct spray *s)
{
    WHV_PARTITION_PROPERTY property;
    memset(&property, 0, sizeof(property));
    property.ProcessorCount = 1;
    return arena_create(&s->arena) && CHECK(WHvCreatePartition(&s->partition))
        && CHECK(WHvSetPartitionProperty(s->partition, WHvPartitionPropertyCodeProcessorCount, &property,
                                         sizeof(property)))
        && CHECK(WHvSetupPartition(s->partition)) && arena_map(&s->arena, s->partition)
        && CHECK(WHvCreateVirtualProcessor(s->partition, 0, 0));
}

// One access; what it did to the tables and the code is put right again.
static bool step(struct spray *s)
{
    enum { COUNT = sizeof(accesses) / sizeof(accesses[0]) };
    unsigned which = random_below(&s->random, COUNT);
    uint64_t address = pick_address(s);
    bool long_mode = random_below(&s->random, 4) != 0;
    spray_now.which = which;
    spray_now.address = address;
    spray_now.long_mode = long_mode;
    build_tables(s);
    bool ok = run_access(s, which, address, long_mode);
    ptrdiff_t changed = (s->accesses & 255) == 0 || !ok ? arena_check(&s->arena) : -1;
    if (changed >= 0)
        printf("spray: the canary at offset 0x%zx changed, in one of the last 256 accesses\n",
               (size_t)changed);
    if (ok && changed < 0)
        return true;
    printf("spray: access %llu\n", (unsigned long long)s->accesses);
    describe();
    return false;
}

int main(int argc, char **argv)
{
    static const struct option known[] = { { "seed", 1, NULL, 's' }, { "seconds", 1, NULL, 't' },
                                           { "count", 1, NULL, 'n' }, { 0 } };
    uint64_t seed = 1, count = ~(uint64_t)0;
    double seconds = 5;
    for (int k; (k = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (k) {
        case 's': seed = strtoull(optarg, NULL, 0); break;
        case 't': seconds = strtod(optarg, NULL); break;
        case 'n': count = strtoull(optarg, NULL, 0); break;
        default: return 2;
        }
    }
    struct spray s = { .random = { seed } };
    if (!create(&s))
        return 2;
    watchdog_start(describe);
    bool ok = true;
    double end = seconds_now() + seconds;
    while (ok && s.accesses < count && ((s.accesses & 63) || seconds_now() < end))
        ok = step(&s);
    watchdog_stop();
    if (ok && arena_check(&s.arena) >= 0) {
        printf("spray: a canary has changed\n");
        ok = false;
    }
    WHvDeletePartition(s.partition);
    arena_destroy(&s.arena);
    printf("spray: %s, %llu accesses: %llu done, %llu memory exits, %llu faults (seed %llu)\n",
           ok ? "passed" : "failed", (unsigned long long)s.accesses, (unsigned long long)s.halted,
           (unsigned long long)s.memory_exits, (unsigned long long)s.faults, (unsigned long long)seed);
    return ok ? 0 : 1;
}
