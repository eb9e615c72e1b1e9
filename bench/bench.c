/* bench.c: times what the API costs: the interpreter's speed on a loop, exits, the life of a partition.
 *
 * Prints a line "NAME VALUE" for each figure, the median of its repetitions; bench/run gives them words.
 * The guest runs in 64-bit mode on identity-mapped memory.
 */
#include <WinHvPlatform.h>
#include <bulkhead/bulkhead.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define GUEST_SIZE 0x10000u
#define PML4_AT 0x1000u
#define PDPT_AT 0x2000u
#define PD_AT 0x3000u
#define CODE_AT 0x4000u
#define DATA_AT 0x8000u
#define DEVICE_AT 0x100000u /* inside the identity map, but no memory is there */
#define GIB (1ull << 30)

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

static void check(const char *call, HRESULT result)
{
    if (FAILED(result)) {
        fprintf(stderr, "bench: %s failed: 0x%08x\n", call, (unsigned)result);
        exit(1);
    }
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), compare);
    return values[count / 2];
}

static void *allocate(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                        -1, 0);

    if (memory == MAP_FAILED) {
        perror("bench: mmap");
        exit(1);
    }
    return memory;
}

static WHV_PARTITION_HANDLE create_partition(void *memory, UINT64 size)
{
    WHV_PARTITION_HANDLE partition;
    UINT32 count = 1;

    check("WHvCreatePartition", WHvCreatePartition(&partition));
    check("WHvSetPartitionProperty",
          WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count)));
    check("WHvSetupPartition", WHvSetupPartition(partition));
    check("WHvCreateVirtualProcessor", WHvCreateVirtualProcessor(partition, 0, 0));
    check("WHvMapGpaRange",
          WHvMapGpaRange(partition, memory, 0, size,
                         WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    return partition;
}

static void set_registers(WHV_PARTITION_HANDLE partition, const WHV_REGISTER_NAME *names, UINT32 count,
                          const WHV_REGISTER_VALUE *values)
{
    check("WHvSetVirtualProcessorRegisters",
          WHvSetVirtualProcessorRegisters(partition, 0, names, count, values));
}

static void put_entry(UINT8 *memory, UINT64 at, UINT64 entry)
{
    memcpy(memory + at, &entry, sizeof(entry));
}

/* A 64-bit guest that is about to execute CODE, with RSI = rsi and RDI = LOOP_ITERATIONS. */
static WHV_PARTITION_HANDLE create_guest(UINT8 *memory, const void *code, size_t size, UINT64 rsi)
{
    static const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterEfer, WHvX64RegisterCr0, WHvX64RegisterCs,
        WHvX64RegisterRip, WHvX64RegisterRsi, WHvX64RegisterRdi,  WHvX64RegisterRdx,
    };
    WHV_REGISTER_VALUE values[9];
    WHV_PARTITION_HANDLE partition;

    memset(memory, 0, GUEST_SIZE);
    memcpy(memory + CODE_AT, code, size);
    put_entry(memory, PML4_AT, PDPT_AT | 3); /* present and writable; 0x80: a page of 2 MiB */
    put_entry(memory, PDPT_AT, PD_AT | 3);
    put_entry(memory, PD_AT, 0x80 | 3);
    for (UINT64 i = 0; i < 512; i++) {
        put_entry(memory, DATA_AT + i * 8, i * 0x9E3779B97F4A7C15u);
    }
    partition = create_partition(memory, GUEST_SIZE);

    memset(values, 0, sizeof(values));
    values[0].Reg64 = PML4_AT;
    values[1].Reg64 = 0x20;       /* PAE */
    values[2].Reg64 = 0x500;      /* LME, LMA */
    values[3].Reg64 = 0x80000011; /* PG, ET, PE */
    values[4].Segment.Selector = 8;
    values[4].Segment.Limit = 0xFFFFFFFF;
    values[4].Segment.Attributes = 0xA09B; /* 64-bit code, present, accessed */
    values[5].Reg64 = CODE_AT;
    values[6].Reg64 = rsi;
    values[7].Reg64 = LOOP_ITERATIONS;
    values[8].Reg64 = 1;
    set_registers(partition, names, 9, values);
    return partition;
}

/* Runs to the next exit, which must be the one that is measured. */
static inline void run_to(WHV_PARTITION_HANDLE partition, WHV_RUN_VP_EXIT_REASON reason)
{
    WHV_RUN_VP_EXIT_CONTEXT exit_context;

    check("WHvRunVirtualProcessor",
          WHvRunVirtualProcessor(partition, 0, &exit_context, sizeof(exit_context)));
    if (exit_context.ExitReason != reason) {
        fprintf(stderr, "bench: exit reason 0x%x instead of 0x%x, at 0x%llx\n",
                (unsigned)exit_context.ExitReason, (unsigned)reason,
                (unsigned long long)exit_context.VpContext.Rip);
        exit(1);
    }
}

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
    WHV_PARTITION_HANDLE partition = create_guest(memory, integer_loop, sizeof(integer_loop), DATA_AT);
    WHV_REGISTER_VALUE values[2];
    double rates[REPEATS];

    memset(values, 0, sizeof(values));
    values[0].Reg64 = CODE_AT;
    values[1].Reg64 = LOOP_ITERATIONS;
    for (unsigned i = 0; i < REPEATS; i++) {
        UINT64 before = instructions(partition);
        double start;

        set_registers(partition, names, 2, values);
        start = now();
        run_to(partition, WHvRunVpExitReasonX64Halt);
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
    WHV_PARTITION_HANDLE partition = create_guest(memory, code, size, DEVICE_AT);
    WHV_REGISTER_NAME rip = WHvX64RegisterRip;
    double bare[REPEATS], complete[REPEATS];
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Reg64 = CODE_AT + EXIT_INSTRUCTION_LENGTH;
    for (unsigned i = 0; i < REPEATS; i++) {
        double start = now();

        for (unsigned n = 0; n < EXITS; n++) {
            run_to(partition, reason);
        }
        bare[i] = (now() - start) / EXITS;
        start = now();
        for (unsigned n = 0; n < EXITS; n++) {
            run_to(partition, reason);
            set_registers(partition, &rip, 1, &value);
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

        check("WHvDeletePartition", WHvDeletePartition(create_partition(memory, GIB)));
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
