/* real_mode_hello.c: the smallest guest that says something: 16-bit code that writes a text to a port.
 *
 * A partition without devices is a processor and memory, nothing else. Whatever the guest does beyond
 * computing ends WHvRunVirtualProcessor: it is up to this program what a port means. Here port 0x10 is a
 * screen.
 */
#include <WinHvPlatform.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUEST_SIZE 0x10000 /* 64 KiB, at guest address 0 */
#define CODE_AT 0x1000
#define TEXT_AT 0x2000
#define SCREEN_PORT 0x10

static const UINT8 code[] = {
    0xBE, 0x00, 0x20, /* 1000       mov si, 0x2000      the text        */
    0xAC,             /* 1003 next: lodsb               AL = its next byte */
    0x84, 0xC0,       /* 1004       test al, al         zero ends it    */
    0x74, 0x04,       /* 1006       jz done                             */
    0xE6, 0x10,       /* 1008       out 0x10, al        exits to us     */
    0xEB, 0xF7,       /* 100a       jmp next                            */
    0xF4,             /* 100c done: hlt                 exits to us     */
};
static const char text[] = "Hello from 16-bit real mode!\n";

/* Every call tells by its HRESULT whether it worked. */
static void check(const char *call, HRESULT result)
{
    if (FAILED(result)) {
        fprintf(stderr, "%s failed: 0x%08x\n", call, (unsigned)result);
        exit(1);
    }
}

/* A partition with one processor and GUEST_SIZE bytes of memory at address 0. */
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

/* A new processor is in its reset state: real mode, at the address where a PC has its firmware. We have no
 * firmware, so we point it at our code. */
static void start_at(WHV_PARTITION_HANDLE partition, UINT64 address)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip};
    WHV_REGISTER_VALUE values[2];

    memset(values, 0, sizeof(values));
    check("WHvGetVirtualProcessorRegisters",
          WHvGetVirtualProcessorRegisters(partition, 0, names, 1, values)); /* keep CS's limit and rights */
    values[0].Segment.Selector = 0;
    values[0].Segment.Base = 0;
    values[1].Reg64 = address;
    check("WHvSetVirtualProcessorRegisters",
          WHvSetVirtualProcessorRegisters(partition, 0, names, 2, values));
}

/* A port exit leaves RIP on the instruction. Having done its work, we move RIP past it. */
static void skip_instruction(WHV_PARTITION_HANDLE partition, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    WHV_REGISTER_NAME name = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Reg64 = exit->VpContext.Rip + exit->VpContext.InstructionLength;
    check("WHvSetVirtualProcessorRegisters",
          WHvSetVirtualProcessorRegisters(partition, 0, &name, 1, &value));
}

static void run(WHV_PARTITION_HANDLE partition)
{
    WHV_RUN_VP_EXIT_CONTEXT exit_context;

    for (;;) {
        check("WHvRunVirtualProcessor",
              WHvRunVirtualProcessor(partition, 0, &exit_context, sizeof(exit_context)));
        if (exit_context.ExitReason == WHvRunVpExitReasonX64Halt) {
            return;
        }
        if (exit_context.ExitReason != WHvRunVpExitReasonX64IoPortAccess ||
            exit_context.IoPortAccess.PortNumber != SCREEN_PORT ||
            !exit_context.IoPortAccess.AccessInfo.IsWrite) {
            fprintf(stderr, "an exit that this guest should not cause: reason 0x%x\n",
                    (unsigned)exit_context.ExitReason);
            exit(1);
        }
        putchar((UINT8)exit_context.IoPortAccess.Rax);
        skip_instruction(partition, &exit_context);
    }
}

int main(void)
{
    /* Guest memory is our memory: aligned to pages, and ours to read and write at any time. */
    UINT8 *memory = aligned_alloc(4096, GUEST_SIZE);
    WHV_PARTITION_HANDLE partition;

    if (memory == NULL) {
        perror("guest memory");
        return 1;
    }
    memset(memory, 0, GUEST_SIZE);
    memcpy(memory + CODE_AT, code, sizeof(code));
    memcpy(memory + TEXT_AT, text, sizeof(text));

    partition = create_partition(memory);
    start_at(partition, CODE_AT);
    run(partition);
    check("WHvDeletePartition", WHvDeletePartition(partition));
    free(memory); /* only now: the guest had it on loan */
    return 0;
}
