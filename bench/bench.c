/* bench.c: times what the API costs: the interpreter's speed on a loop, exits, the life of a partition.
 *
 * Prints a line "NAME VALUE" for each figure, the median of its repetitions; bench/run gives them words.
 * The guest runs in 64-bit mode on identity-mapped memory.
 */
#include <WinHvPlatform.h>
#include <bulkhead/bulkhead.h>

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "guest.h"
#include "timing.h"

#define REPEATS 5
#define LOOP_ITERATIONS 10000000u
#define EXITS 100000u
#define LIVES 200u

/* A load, a store, arithmetic, and a branch that depends on the data. */
static const UINT8 integer_loop[] = {
    0x48, 0x8B, 0x04, 0xCE,             /* 00 next: mov rax, [rsi+rcx*8] */
    0x48, 0x01, 0xD0,                   /* 04       add rax, rdx         */
    0x48, 0x31, 0xC2,                   /* 07       xor rdx, rax         */
    0x48, 0x89, 0x04, 0xCE,             /* 0a       mov [rsi+rcx*8], rax */
    0x48, 0x83, 0xC1, 0x01,             /* 0e       add rcx, 1           */
    0x81, 0xE1, 0xFF, 0x01, 0x00, 0x00, /* 12       and ecx, 511         */
    0xA8, 0x01,                         /* 18       test al, 1           */
    0x74, 0x03,                         /* 1a       jz even              */
    0x48, 0xFF, 0xC3,                   /* 1c       inc rbx              */
    0x48, 0xFF, 0xCF,                   /* 1f even: dec rdi              */
    0x75, 0xDC,                         /* 22       jnz next             */
    0xF4,                               /* 24       hlt                  */
};
static const UINT8 port_loop[] = {
    0xE6, 0x10, /* next: out 0x10, al */
    0xEB, 0xFC, /*       jmp next     */
};
static const UINT8 device_loop[] = {
    0x89, 0x06, /* next: mov [rsi], eax */
    0xEB, 0xFC, /*       jmp next       */
};
#define EXIT_INSTRUCTION_LENGTH 2 /* of the OUT and of the MOV */

static UINT64 instructions(WHV_PARTITION_HANDLE partition)
{
    UINT64 count = 0;

    check("BulkheadGetVirtualProcessorInstructionCount",
          BulkheadGetVirtualProcessorInstructionCount(partition, 0, &count));
    return count;
}

static void bench_integer_loop(UINT8 *memory)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterRip, WHvX64RegisterRdi};
    const struct guest_start begin = {.code = integer_loop, .code_size = sizeof(integer_loop), .rsi = DATA_AT,
                                      .rdi = LOOP_ITERATIONS, .rdx = 1};
    WHV_PARTITION_HANDLE partition = guest_create(memory, &begin);
    WHV_REGISTER_VALUE values[2];
    double rates[REPEATS];

    memset(values, 0, sizeof(values));
    values[0].Reg64 = CODE_AT;
    values[1].Reg64 = LOOP_ITERATIONS;
    for (unsigned i = 0; i < REPEATS; i++) {
        UINT64 before = instructions(partition);
        double start;

        guest_set(partition, names, 2, values);
        start = now();
        guest_run_to(partition, WHvRunVpExitReasonX64Halt);
        rates[i] = (double)(instructions(partition) - before) / (now() - start);
    }
    check("WHvDeletePartition", WHvDeletePartition(partition));
    printf("loop_instructions_per_second %.0f\n", median(rates, REPEATS));
}

/* NAME_exit: the exit alone, the guest repeating the instruction. NAME_round_trip: with the write of RIP that
 * moves the guest past it, as a client that handles the access does. */
static void bench_exit(UINT8 *memory, const char *name, const void *code, size_t size,
                       WHV_RUN_VP_EXIT_REASON reason)
{
    const struct guest_start begin = {.code = code, .code_size = size, .rsi = DEVICE_AT};
    WHV_PARTITION_HANDLE partition = guest_create(memory, &begin);
    WHV_REGISTER_NAME rip = WHvX64RegisterRip;
    double bare[REPEATS], complete[REPEATS];
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Reg64 = CODE_AT + EXIT_INSTRUCTION_LENGTH;
    for (unsigned i = 0; i < REPEATS; i++) {
        double start = now();

        for (unsigned n = 0; n < EXITS; n++) {
            guest_run_to(partition, reason);
        }
        bare[i] = (now() - start) / EXITS;
        start = now();
        for (unsigned n = 0; n < EXITS; n++) {
            guest_run_to(partition, reason);
            guest_set(partition, &rip, 1, &value);
        }
        complete[i] = (now() - start) / EXITS;
    }
    check("WHvDeletePartition", WHvDeletePartition(partition));
    printf("%s_exit_ns %.1f\n", name, median(bare, REPEATS) * 1e9);
    printf("%s_round_trip_ns %.1f\n", name, median(complete, REPEATS) * 1e9);
}

static void bench_life(void)
{
    void *memory = allocate(GIB);
    double times[LIVES];

    for (unsigned i = 0; i < LIVES; i++) {
        double start = now();

        check("WHvDeletePartition",
              WHvDeletePartition(guest_partition(memory, GIB, WHvX64LocalApicEmulationModeNone)));
        times[i] = now() - start;
    }
    munmap(memory, GIB);
    printf("life_us %.1f\n", median(times, LIVES) * 1e6);
}

int main(void)
{
    UINT8 *memory = allocate(GUEST_SIZE);

    bench_integer_loop(memory);
    bench_exit(memory, "port", port_loop, sizeof(port_loop), WHvRunVpExitReasonX64IoPortAccess);
    bench_exit(memory, "mmio", device_loop, sizeof(device_loop), WHvRunVpExitReasonMemoryAccess);
    bench_life();
    return 0;
}
