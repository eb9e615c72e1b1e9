/* long_mode.c: a guest that starts in 64-bit mode, computes, and halts; the result is read from a register.
 *
 * A real machine reaches 64-bit mode step by step. Here the processor's registers can simply be set to what
 * they are at the end of that way: paging on, long mode active, a 64-bit code segment.
 */
#include <WinHvPlatform.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUEST_SIZE 0x10000 /* 64 KiB, at guest address 0 */
#define PML4_AT 0x1000     /* the page tables, one page each */
#define PDPT_AT 0x2000
#define PD_AT 0x3000
#define CODE_AT 0x4000

/* Bits of a page table entry (SDM vol. 3A 4.5). */
#define PRESENT 0x01u
#define WRITABLE 0x02u
#define LARGE 0x80u /* in a page directory: maps 2 MiB, there is no page table below */

/* Fibonacci number 90, which needs 64 bits. */
static const UINT8 code[] = {
    0xB9, 0x5A, 0x00, 0x00, 0x00, /* 4000       mov ecx, 90               */
    0x31, 0xC0,                   /* 4005       xor eax, eax    F(0)      */
    0xBA, 0x01, 0x00, 0x00, 0x00, /* 4007       mov edx, 1      F(1)      */
    0x48, 0x8D, 0x1C, 0x10,       /* 400c next: lea rbx, [rax+rdx]        */
    0x48, 0x89, 0xD0,             /* 4010       mov rax, rdx              */
    0x48, 0x89, 0xDA,             /* 4013       mov rdx, rbx              */
    0xFF, 0xC9,                   /* 4016       dec ecx                   */
    0x75, 0xF2,                   /* 4018       jnz next                  */
    0xF4,                         /* 401a       hlt             RAX = F(90) */
};

/* Every call tells by its HRESULT whether it worked. */
static void check(const char *call, HRESULT result)
{
    if (FAILED(result)) {
        fprintf(stderr, "%s failed: 0x%08x\n", call, (unsigned)result);
        exit(1);
    }
}

static void put_entry(UINT8 *memory, UINT64 at, UINT64 entry)
{
    memcpy(memory + at, &entry, sizeof(entry));
}

/* Three tables map the first 2 MiB of virtual addresses to the same physical addresses. */
static void write_page_tables(UINT8 *memory)
{
    put_entry(memory, PML4_AT, PDPT_AT | PRESENT | WRITABLE);
    put_entry(memory, PDPT_AT, PD_AT | PRESENT | WRITABLE);
    put_entry(memory, PD_AT, 0 | PRESENT | WRITABLE | LARGE);
}

static WHV_PARTITION_HANDLE create_partition(void *memory)
{
    WHV_PARTITION_HANDLE partition;
    UINT32 count = 1;

    check("WHvCreatePartition", WHvCreatePartition(&partition));
    check("WHvSetPartitionProperty",
          WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count)));
    check("WHvSetupPartition", WHvSetupPartition(partition));
    check("WHvMapGpaRange",
          WHvMapGpaRange(partition, memory, 0, GUEST_SIZE,
                         WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    check("WHvCreateVirtualProcessor", WHvCreateVirtualProcessor(partition, 0, 0));
    return partition;
}

/* What a kernel's start-up code does in some dozens of instructions. Registers that are not named keep their
 * reset values. */
static void enter_long_mode(WHV_PARTITION_HANDLE partition)
{
    static const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterEfer,
        WHvX64RegisterCr0, WHvX64RegisterCs,  WHvX64RegisterRip,
    };
    WHV_REGISTER_VALUE values[6];

    memset(values, 0, sizeof(values));
    values[0].Reg64 = PML4_AT;
    values[1].Reg64 = 0x20;       /* PAE: entries of 8 bytes */
    values[2].Reg64 = 0x500;      /* LME and LMA: long mode enabled and active */
    values[3].Reg64 = 0x80000011; /* PG, ET, PE: paging and protection on */
    values[4].Segment.Selector = 0x08;
    values[4].Segment.Limit = 0xFFFFFFFF;
    values[4].Segment.SegmentType = 0xB; /* code, readable, accessed */
    values[4].Segment.NonSystemSegment = 1;
    values[4].Segment.Present = 1;
    values[4].Segment.Long = 1;
    values[4].Segment.Granularity = 1;
    values[5].Reg64 = CODE_AT;
    check("WHvSetVirtualProcessorRegisters",
          WHvSetVirtualProcessorRegisters(partition, 0, names, 6, values));
}

int main(void)
{
    WHV_REGISTER_NAME result = WHvX64RegisterRax;
    WHV_RUN_VP_EXIT_CONTEXT exit_context;
    WHV_REGISTER_VALUE value;
    WHV_PARTITION_HANDLE partition;
    UINT8 *memory = aligned_alloc(4096, GUEST_SIZE);

    if (memory == NULL) {
        perror("guest memory");
        return 1;
    }
    memset(memory, 0, GUEST_SIZE);
    write_page_tables(memory);
    memcpy(memory + CODE_AT, code, sizeof(code));

    partition = create_partition(memory);
    enter_long_mode(partition);
    check("WHvRunVirtualProcessor",
          WHvRunVirtualProcessor(partition, 0, &exit_context, sizeof(exit_context)));
    if (exit_context.ExitReason != WHvRunVpExitReasonX64Halt) {
        fprintf(stderr, "the guest did not halt: exit reason 0x%x at 0x%" PRIx64 "\n",
                (unsigned)exit_context.ExitReason, (uint64_t)exit_context.VpContext.Rip);
        return 1;
    }
    check("WHvGetVirtualProcessorRegisters",
          WHvGetVirtualProcessorRegisters(partition, 0, &result, 1, &value));
    printf("Fibonacci number 90, computed in 64-bit mode: %" PRIu64 "\n", (uint64_t)value.Reg64);

    check("WHvDeletePartition", WHvDeletePartition(partition));
    free(memory);
    return 0;
}
