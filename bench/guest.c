/* guest.c: 64-bit guests on identity-mapped memory, and partitions that run them. */
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "timing.h"

static void put(UINT8 *memory, UINT64 at, UINT64 entry)
{
    memcpy(memory + at, &entry, sizeof(entry));
}

void guest_layout(UINT8 *memory, const struct guest_start *start)
{
    memset(memory, 0, GUEST_SIZE);
    memcpy(memory + CODE_AT, start->code, start->code_size);
    if (start->handler) {
        memcpy(memory + HANDLER_AT, start->handler, start->handler_size);
    }
    put(memory, PML4_AT, PDPT_AT | 3); /* present and writable; 0x80: a page of 2 MiB */
    put(memory, PDPT_AT, PD_AT | 3);
    put(memory, PD_AT, 0x80 | 3);
    put(memory, GDT_AT + GUEST_CODE_SELECTOR, 0x00AF9B000000FFFF);
    put(memory, GDT_AT + GUEST_DATA_SELECTOR, 0x00CF93000000FFFF);
    /* An interrupt gate of ring 0. */
    put(memory, IDT_AT + 16 * VECTOR, 0x8E0000000000 | GUEST_CODE_SELECTOR << 16 | HANDLER_AT);
    for (UINT64 i = 0; i < 512; i++) {
        put(memory, DATA_AT + i * 8, i * 0x9E3779B97F4A7C15u);
    }
}

WHV_PARTITION_HANDLE guest_partition(void *memory, UINT64 size, WHV_X64_LOCAL_APIC_EMULATION_MODE apic)
{
    WHV_PARTITION_HANDLE partition;
    UINT32 count = 1, mode = apic;

    check("WHvCreatePartition", WHvCreatePartition(&partition));
    check("WHvSetPartitionProperty",
          WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count)));
    if (apic != WHvX64LocalApicEmulationModeNone) {
        check("WHvSetPartitionProperty",
              WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeLocalApicEmulationMode, &mode,
                                      sizeof(mode)));
    }
    check("WHvSetupPartition", WHvSetupPartition(partition));
    check("WHvCreateVirtualProcessor", WHvCreateVirtualProcessor(partition, 0, 0));
    check("WHvMapGpaRange",
          WHvMapGpaRange(partition, memory, 0, size,
                         WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    return partition;
}

void guest_set(WHV_PARTITION_HANDLE partition, const WHV_REGISTER_NAME *names, UINT32 count,
               const WHV_REGISTER_VALUE *values)
{
    check("WHvSetVirtualProcessorRegisters",
          WHvSetVirtualProcessorRegisters(partition, 0, names, count, values));
}

WHV_PARTITION_HANDLE guest_create(UINT8 *memory, const struct guest_start *start)
{
    static const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterCr3, WHvX64RegisterCr4,  WHvX64RegisterEfer, WHvX64RegisterCr0, WHvX64RegisterCs,
        WHvX64RegisterSs,  WHvX64RegisterGdtr, WHvX64RegisterIdtr, WHvX64RegisterRip, WHvX64RegisterRsp,
        WHvX64RegisterRsi, WHvX64RegisterRdi,  WHvX64RegisterRdx,
    };
    WHV_REGISTER_VALUE values[sizeof(names) / sizeof(names[0])];
    WHV_PARTITION_HANDLE partition;

    guest_layout(memory, start);
    partition = guest_partition(memory, GUEST_SIZE, start->apic);
    memset(values, 0, sizeof(values));
    values[0].Reg64 = PML4_AT;
    values[1].Reg64 = GUEST_CR4;
    values[2].Reg64 = GUEST_EFER;
    values[3].Reg64 = GUEST_CR0;
    values[4].Segment.Selector = GUEST_CODE_SELECTOR;
    values[4].Segment.Limit = 0xFFFFFFFF;
    values[4].Segment.Attributes = GUEST_CODE_ATTRIBUTES;
    values[5].Segment.Selector = GUEST_DATA_SELECTOR;
    values[5].Segment.Limit = 0xFFFFFFFF;
    values[5].Segment.Attributes = GUEST_DATA_ATTRIBUTES;
    values[6].Table.Base = GDT_AT;
    values[6].Table.Limit = 3 * 8 - 1;
    values[7].Table.Base = IDT_AT;
    values[7].Table.Limit = 256 * 16 - 1;
    values[8].Reg64 = CODE_AT;
    values[9].Reg64 = STACK_TOP;
    values[10].Reg64 = start->rsi;
    values[11].Reg64 = start->rdi;
    values[12].Reg64 = start->rdx;
    guest_set(partition, names, sizeof(names) / sizeof(names[0]), values);
    return partition;
}

void guest_run_to(WHV_PARTITION_HANDLE partition, WHV_RUN_VP_EXIT_REASON reason)
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
