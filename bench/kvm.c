/* kvm.c: the kvm engine next to KVM itself: each figure by raw_kvm.c's loop and through the API, by turns.
 *
 *   kvm [ROUNDS]
 *
 * Prints a line "NAME RAW CONTRACT ENGINE TO_RAW TO_CONTRACT" for each figure: medians over the rounds, in
 * microseconds, and of the ratios that each round has, which do not see what slows a whole round down. CONTRACT and
 * TO_CONTRACT are 0 where they say nothing. bench/run gives them words. BULKHEAD_ENGINE names the engine.
 *
 * RAW completes an exit as KVM wants it: run again, an IN or a read with its data in place. The API's
 * contract has RIP on the instruction and lets the client move it, so the client here writes RIP (and RAX)
 * after each exit. CONTRACT is the raw loop with what this contract must cost, done by hand for these very loops:
 * the registers come out with each exit, the instruction's bytes are found by the guest's page tables, an exit
 * context is filled in, and RIP goes back in with the next run.
 */
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "guest.h"
#include "raw_kvm.h"
#include "timing.h"

#define MAX_ROUNDS 101
#define EXITS 1000u
#define LIVES 20u
#define MAPS 200u
#define RANGE_SIZE 0x100000u
#define RANGE_AT 0x40000000u

static unsigned rounds = 41;

static const UINT8 out_loop[] = {0xE6, 0x10, 0xEB, 0xFC};   /* out 0x10, al; jmp there   */
static const UINT8 in_loop[] = {0xE4, 0x10, 0xEB, 0xFC};    /* in al, 0x10; jmp there    */
static const UINT8 write_loop[] = {0x89, 0x06, 0xEB, 0xFC}; /* mov [rsi], eax; jmp there */
static const UINT8 read_loop[] = {0x8B, 0x06, 0xEB, 0xFC};  /* mov eax, [rsi]; jmp there */

/* Interrupts come while the guest is behind an OUT. The handler drops its frame and is interrupted in turn. */
static const UINT8 wait_for_interrupt[] = {
    0xFB,       /* sti          */
    0x90,       /* nop          */
    0xE6, 0x10, /* out 0x10, al */
    0xEB, 0xFE, /* jmp here     */
};
static const UINT8 interrupt_handler[] = {
    0xBC, 0x00, 0xF0, 0x00, 0x00, /* 00 mov esp, STACK_TOP */
    0xFB,                         /* 05 sti                */
    0x90,                         /* 06 nop                */
    0xE6, 0x11,                   /* 07 out 0x11, al       */
    0xEB, 0xFE,                   /* 09 jmp here           */
};
#define HANDLER_NEXT (HANDLER_AT + 9)
static const UINT8 wait_for_message[] = {
    0xB9, 0x1B, 0x00, 0x00, 0x00, /* mov ecx, IA32_APIC_BASE             */
    0x0F, 0x32,                   /* rdmsr                               */
    0x0D, 0x00, 0x0C, 0x00, 0x00, /* or eax, 0xC00: enabled, x2APIC      */
    0x0F, 0x30,                   /* wrmsr                               */
    0xB9, 0x0F, 0x08, 0x00, 0x00, /* mov ecx, the spurious vector's      */
    0xB8, 0xFF, 0x01, 0x00, 0x00, /* mov eax, 0x1FF: enabled by software */
    0x31, 0xD2,                   /* xor edx, edx                        */
    0x0F, 0x30,                   /* wrmsr                               */
    0xFB, 0x90, 0xE6, 0x10, 0xEB, 0xFE,
};
#define MESSAGE_FIRST_NEXT (CODE_AT + sizeof(wait_for_message) - 2)
static const UINT8 message_handler[] = {
    0xBC, 0x00, 0xF0, 0x00, 0x00,                   /* 00 mov esp, STACK_TOP  */
    0xB9, 0x0B, 0x08, 0x00, 0x00,                   /* 05 mov ecx, EOI        */
    0x31, 0xC0, 0x31, 0xD2, 0x0F, 0x30,             /* 0a eax = edx = 0, wrmsr */
    0xFB, 0x90, 0xE6, 0x11, 0xEB, 0xFE,             /* 10 as above            */
};
#define MESSAGE_NEXT (HANDLER_AT + 0x14)

struct figure {
    double raw[MAX_ROUNDS], contract[MAX_ROUNDS], engine[MAX_ROUNDS];
};

static double ratio(const double *over, const double *under)
{
    double each[MAX_ROUNDS];

    for (unsigned n = 0; n < rounds; n++) {
        each[n] = under[n] > 0 ? over[n] / under[n] : 0;
    }
    return median(each, rounds);
}

static void tell(const char *name, struct figure *f)
{
    double to_raw = ratio(f->engine, f->raw), to_contract = ratio(f->engine, f->contract);   /* median sorts */

    printf("%s %.3f %.3f %.3f %.3f %.3f\n", name, median(f->raw, rounds) * 1e6, median(f->contract, rounds) * 1e6,
           median(f->engine, rounds) * 1e6, to_raw, to_contract);
    fflush(stdout);
}

/* Seconds for one exit that the client completes by RIP, and by RAX when the guest reads. */
static double engine_exits(WHV_PARTITION_HANDLE partition, WHV_RUN_VP_EXIT_REASON reason, bool reads)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterRip, WHvX64RegisterRax};
    WHV_REGISTER_VALUE values[2];
    double start;

    memset(values, 0, sizeof(values));
    values[0].Reg64 = CODE_AT + LOOP_LENGTH;
    values[1].Reg64 = 0x5A;
    start = now();
    for (unsigned n = 0; n < EXITS; n++) {
        guest_run_to(partition, reason);
        guest_set(partition, names, reads ? 2 : 1, values);
    }
    return (now() - start) / EXITS;
}

static void bench_exit(UINT8 *memory, UINT8 *raw_memory, const char *name, const UINT8 *code,
                       uint32_t raw_reason, WHV_RUN_VP_EXIT_REASON reason, bool reads)
{
    const struct guest_start start = {.code = code, .code_size = sizeof(out_loop), .rsi = DEVICE_AT};
    WHV_PARTITION_HANDLE partition = guest_create(memory, &start);
    static struct figure f;
    struct raw raw;

    raw_open(&raw, raw_memory, &start);
    for (unsigned n = 0; n < rounds; n++) {
        f.raw[n] = raw_exits(&raw, raw_reason, RAW_NOTHING, 0, EXITS);
        f.engine[n] = engine_exits(partition, reason, reads);
        /* With a read half done RIP is KVM's to move: only the registers come out there. */
        f.contract[n] = raw_exits(&raw, raw_reason, RAW_CONTRACT, reads ? 0 : CODE_AT + LOOP_LENGTH, EXITS);
    }
    raw_close(&raw);
    check("WHvDeletePartition", WHvDeletePartition(partition));
    tell(name, &f);
}

/* Without an APIC: an interrupt and RIP in one call, then a run to the handler's OUT. */
static double engine_interrupts(WHV_PARTITION_HANDLE partition)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterRip, WHvRegisterPendingInterruption};
    WHV_REGISTER_VALUE values[2];
    double start;

    memset(values, 0, sizeof(values));
    values[0].Reg64 = HANDLER_NEXT;
    values[1].PendingInterruption.InterruptionPending = 1;
    values[1].PendingInterruption.InterruptionType = WHvX64PendingInterrupt;
    values[1].PendingInterruption.InterruptionVector = VECTOR;
    start = now();
    for (unsigned n = 0; n < EXITS; n++) {
        guest_set(partition, names, 2, values);
        guest_run_to(partition, WHvRunVpExitReasonX64IoPortAccess);
    }
    return (now() - start) / EXITS;
}

static double engine_messages(WHV_PARTITION_HANDLE partition)
{
    const WHV_REGISTER_NAME name = WHvX64RegisterRip;
    WHV_INTERRUPT_CONTROL interrupt;
    WHV_REGISTER_VALUE value;
    double start;

    memset(&interrupt, 0, sizeof(interrupt));
    interrupt.Vector = VECTOR;
    memset(&value, 0, sizeof(value));
    value.Reg64 = MESSAGE_NEXT;
    start = now();
    for (unsigned n = 0; n < EXITS; n++) {
        check("WHvRequestInterrupt", WHvRequestInterrupt(partition, &interrupt, sizeof(interrupt)));
        guest_run_to(partition, WHvRunVpExitReasonX64IoPortAccess);
        guest_set(partition, &name, 1, &value);
    }
    return (now() - start) / EXITS;
}

static void bench_interrupts(UINT8 *memory, UINT8 *raw_memory, const char *name, bool apic)
{
    struct guest_start start = {
        .code = wait_for_interrupt, .code_size = sizeof(wait_for_interrupt), .handler = interrupt_handler,
        .handler_size = sizeof(interrupt_handler),
    };
    const WHV_REGISTER_NAME rip = WHvX64RegisterRip;
    WHV_PARTITION_HANDLE partition;
    WHV_REGISTER_VALUE value;
    static struct figure f;
    struct raw raw;

    if (apic) {
        start = (struct guest_start){
            .code = wait_for_message, .code_size = sizeof(wait_for_message), .handler = message_handler,
            .handler_size = sizeof(message_handler), .apic = WHvX64LocalApicEmulationModeX2Apic,
        };
    }
    memset(&f, 0, sizeof(f));
    memset(&value, 0, sizeof(value));
    value.Reg64 = apic ? MESSAGE_FIRST_NEXT : CODE_AT + sizeof(wait_for_interrupt) - 2;
    partition = guest_create(memory, &start);
    guest_run_to(partition, WHvRunVpExitReasonX64IoPortAccess);
    guest_set(partition, &rip, 1, &value);
    raw_open(&raw, raw_memory, &start);
    raw_run_to(&raw, KVM_EXIT_IO);
    for (unsigned n = 0; n < rounds; n++) {
        f.raw[n] = raw_exits(&raw, KVM_EXIT_IO, apic ? RAW_MESSAGE : RAW_INTERRUPT, 0, EXITS);
        f.engine[n] = apic ? engine_messages(partition) : engine_interrupts(partition);
    }
    raw_close(&raw);
    check("WHvDeletePartition", WHvDeletePartition(partition));
    tell(name, &f);
}

static void bench_life(void)
{
    void *memory = allocate(GIB);
    static struct figure f;

    for (unsigned n = 0; n < rounds; n++) {
        double start;

        f.raw[n] = raw_lives(memory, GIB, LIVES);
        start = now();
        for (unsigned i = 0; i < LIVES; i++) {
            check("WHvDeletePartition",
                  WHvDeletePartition(guest_partition(memory, GIB, WHvX64LocalApicEmulationModeNone)));
        }
        f.engine[n] = (now() - start) / LIVES;
    }
    munmap(memory, GIB);
    tell("life", &f);
}

static void bench_map(UINT8 *memory, UINT8 *raw_memory)
{
    const WHV_MAP_GPA_RANGE_FLAGS all =
        WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute;
    const struct guest_start start = {.code = out_loop, .code_size = sizeof(out_loop)};
    WHV_PARTITION_HANDLE partition = guest_create(memory, &start);
    void *range = allocate(RANGE_SIZE);
    static struct figure f;
    struct raw raw;

    raw_open(&raw, raw_memory, &start);
    for (unsigned n = 0; n < rounds; n++) {
        double begin;

        f.raw[n] = raw_maps(&raw, range, RANGE_AT, RANGE_SIZE, MAPS);
        begin = now();
        for (unsigned i = 0; i < MAPS; i++) {
            check("WHvMapGpaRange", WHvMapGpaRange(partition, range, RANGE_AT, RANGE_SIZE, all));
            check("WHvUnmapGpaRange", WHvUnmapGpaRange(partition, RANGE_AT, RANGE_SIZE));
        }
        f.engine[n] = (now() - begin) / MAPS;
    }
    raw_close(&raw);
    check("WHvDeletePartition", WHvDeletePartition(partition));
    munmap(range, RANGE_SIZE);
    tell("map", &f);
}

int main(int argc, char **argv)
{
    UINT8 *memory = allocate(GUEST_SIZE), *raw_memory = allocate(GUEST_SIZE);

    if (argc > 1) {
        rounds = (unsigned)strtoul(argv[1], NULL, 10);
    }
    if (argc > 2 || rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: kvm [ROUNDS], 1 to %u\n", MAX_ROUNDS);
        return 2;
    }
    bench_exit(memory, raw_memory, "out", out_loop, KVM_EXIT_IO, WHvRunVpExitReasonX64IoPortAccess, false);
    bench_exit(memory, raw_memory, "in", in_loop, KVM_EXIT_IO, WHvRunVpExitReasonX64IoPortAccess, true);
    bench_exit(memory, raw_memory, "write", write_loop, KVM_EXIT_MMIO, WHvRunVpExitReasonMemoryAccess, false);
    bench_exit(memory, raw_memory, "read", read_loop, KVM_EXIT_MMIO, WHvRunVpExitReasonMemoryAccess, true);
    bench_interrupts(memory, raw_memory, "interrupt", false);
    bench_interrupts(memory, raw_memory, "message", true);
    bench_life();
    bench_map(memory, raw_memory);
    return 0;
}
