/* partition.c: a partition with two processors and CPUID exits: create, configure, set up, run, delete.
 *
 * Both processors execute the same few instructions, each on a thread of its own: they ask CPUID for the
 * name of the hypervisor and hand a part of the answer to a port. CPUID exits, so that the answer is ours.
 */
#include <WinHvPlatform.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROCESSORS 2
#define GUEST_SIZE 0x10000 /* 64 KiB, at guest address 0 */
#define CODE_AT 0x1000
#define ANSWER_PORT 0x10
#define HYPERVISOR_LEAF 0x40000000 /* the leaf where guests look for a hypervisor's name */

static const UINT8 code[] = {
    0x66, 0xB8, 0x00, 0x00, 0x00, 0x40, /* mov eax, 0x40000000                         */
    0x0F, 0xA2,                         /* cpuid                 exits to us            */
    0x66, 0x89, 0xD8,                   /* mov eax, ebx          the name's first letters */
    0xBA, 0x10, 0x00,                   /* mov dx, 0x10                                 */
    0x66, 0xEF,                         /* out dx, eax           exits to us            */
    0xF4,                               /* hlt                   exits to us            */
};

struct processor {
    WHV_PARTITION_HANDLE partition;
    UINT32 index;
    pthread_t thread;
    char log[512]; /* what it did, printed when both have ended */
    size_t log_length;
};

/* Every call tells by its HRESULT whether it worked. */
static void check(const char *call, HRESULT result)
{
    if (FAILED(result)) {
        fprintf(stderr, "%s failed: 0x%08x\n", call, (unsigned)result);
        exit(1);
    }
}

static void set_property(WHV_PARTITION_HANDLE partition, WHV_PARTITION_PROPERTY_CODE property,
                         const void *value, UINT32 size)
{
    check("WHvSetPartitionProperty", WHvSetPartitionProperty(partition, property, value, size));
}

static WHV_PARTITION_HANDLE create_configured_partition(void)
{
    WHV_PARTITION_HANDLE partition;
    WHV_EXTENDED_VM_EXITS exits;
    UINT32 count = PROCESSORS;

    /* 1. Create the partition. It cannot run yet. */
    check("WHvCreatePartition", WHvCreatePartition(&partition));

    /* 2. Say how many processors it can have. This is the one property without a default. */
    set_property(partition, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count));

    /* 3. Ask for an exit at each CPUID instruction. */
    memset(&exits, 0, sizeof(exits));
    exits.X64CpuidExit = 1;
    set_property(partition, WHvPartitionPropertyCodeExtendedVmExits, &exits, sizeof(exits));

    /* 4. Set it up: from here on it can have processors and memory. */
    check("WHvSetupPartition", WHvSetupPartition(partition));
    return partition;
}

static void create_processor(struct processor *processor, WHV_PARTITION_HANDLE partition, UINT32 index)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip};
    WHV_REGISTER_VALUE values[2];

    memset(processor, 0, sizeof(*processor));
    processor->partition = partition;
    processor->index = index;
    check("WHvCreateVirtualProcessor", WHvCreateVirtualProcessor(partition, index, 0));

    /* It starts in real mode; point it at our code, and keep the limit and the rights of CS. */
    memset(values, 0, sizeof(values));
    check("WHvGetVirtualProcessorRegisters",
          WHvGetVirtualProcessorRegisters(partition, index, names, 1, values));
    values[0].Segment.Selector = 0;
    values[0].Segment.Base = 0;
    values[1].Reg64 = CODE_AT;
    check("WHvSetVirtualProcessorRegisters",
          WHvSetVirtualProcessorRegisters(partition, index, names, 2, values));
}

static void log_line(struct processor *processor, const char *text)
{
    int length = snprintf(processor->log + processor->log_length,
                          sizeof(processor->log) - processor->log_length, "processor %u: %s\n",
                          (unsigned)processor->index, text);

    if (length < 0 || processor->log_length + (size_t)length >= sizeof(processor->log)) {
        fprintf(stderr, "processor %u did more than its log can hold\n", (unsigned)processor->index);
        exit(1);
    }
    processor->log_length += (size_t)length;
}

/* The processor stands on its CPUID: give it the four registers, and move it past the instruction. */
static void answer_cpuid(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit_context)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterRax, WHvX64RegisterRbx, WHvX64RegisterRcx,
                                              WHvX64RegisterRdx, WHvX64RegisterRip};
    const WHV_X64_CPUID_ACCESS_CONTEXT *cpuid = &exit_context->CpuidAccess;
    WHV_REGISTER_VALUE values[5];
    char line[80];

    memset(values, 0, sizeof(values));
    /* What the guest would have got without this exit... */
    values[0].Reg64 = cpuid->DefaultResultRax;
    values[1].Reg64 = cpuid->DefaultResultRbx;
    values[2].Reg64 = cpuid->DefaultResultRcx;
    values[3].Reg64 = cpuid->DefaultResultRdx;
    /* ...but for one leaf. The name goes into EBX, ECX and EDX, four letters each. */
    if ((UINT32)cpuid->Rax == HYPERVISOR_LEAF) {
        const char name[] = "MyHypervisor";

        values[0].Reg64 = HYPERVISOR_LEAF; /* the last leaf of this kind */
        memcpy(&values[1].Reg32, name, 4);
        memcpy(&values[2].Reg32, name + 4, 4);
        memcpy(&values[3].Reg32, name + 8, 4);
    }
    values[4].Reg64 = exit_context->VpContext.Rip + exit_context->VpContext.InstructionLength;
    check("WHvSetVirtualProcessorRegisters",
          WHvSetVirtualProcessorRegisters(processor->partition, processor->index, names, 5, values));
    snprintf(line, sizeof(line), "asks CPUID leaf 0x%08" PRIx32, (uint32_t)cpuid->Rax);
    log_line(processor, line);
}

static void take_port_write(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit_context)
{
    const WHV_X64_IO_PORT_ACCESS_CONTEXT *access = &exit_context->IoPortAccess;
    WHV_REGISTER_NAME name = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value;
    UINT32 data = (UINT32)access->Rax;
    char line[80];

    snprintf(line, sizeof(line), "%s 0x%08" PRIx32 " (\"%.4s\") %s port 0x%x",
             access->AccessInfo.IsWrite ? "writes" : "reads", (uint32_t)data, (const char *)&data,
             access->AccessInfo.IsWrite ? "to" : "from", access->PortNumber);
    log_line(processor, line);
    memset(&value, 0, sizeof(value));
    value.Reg64 = exit_context->VpContext.Rip + exit_context->VpContext.InstructionLength;
    check("WHvSetVirtualProcessorRegisters",
          WHvSetVirtualProcessorRegisters(processor->partition, processor->index, &name, 1, &value));
}

/* Runs one processor until it halts. The thread that calls WHvRunVirtualProcessor is the processor. */
static void *run_processor(void *context)
{
    struct processor *processor = context;
    WHV_RUN_VP_EXIT_CONTEXT exit_context;

    for (;;) {
        check("WHvRunVirtualProcessor", WHvRunVirtualProcessor(processor->partition, processor->index,
                                                               &exit_context, sizeof(exit_context)));
        switch (exit_context.ExitReason) {
        case WHvRunVpExitReasonX64Cpuid:
            answer_cpuid(processor, &exit_context);
            break;
        case WHvRunVpExitReasonX64IoPortAccess:
            take_port_write(processor, &exit_context);
            break;
        case WHvRunVpExitReasonX64Halt:
            log_line(processor, "halts");
            return NULL;
        default:
            fprintf(stderr, "processor %u: an exit that this guest should not cause: reason 0x%x\n",
                    (unsigned)processor->index, (unsigned)exit_context.ExitReason);
            exit(1);
        }
    }
}

int main(void)
{
    UINT8 *memory = aligned_alloc(4096, GUEST_SIZE); /* guest memory is memory of this process */
    struct processor processors[PROCESSORS];
    WHV_PARTITION_HANDLE partition;

    if (memory == NULL) {
        perror("guest memory");
        return 1;
    }
    memset(memory, 0, GUEST_SIZE);
    memcpy(memory + CODE_AT, code, sizeof(code));

    partition = create_configured_partition();
    printf("partition set up: %d processors, CPUID exits\n", PROCESSORS);
    check("WHvMapGpaRange", WHvMapGpaRange(partition, memory, 0, GUEST_SIZE,
                                           WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute));
    for (UINT32 i = 0; i < PROCESSORS; i++) {
        create_processor(&processors[i], partition, i);
    }
    for (UINT32 i = 0; i < PROCESSORS; i++) {
        if (pthread_create(&processors[i].thread, NULL, run_processor, &processors[i]) != 0) {
            fprintf(stderr, "no thread for processor %u\n", (unsigned)i);
            return 1;
        }
    }
    for (UINT32 i = 0; i < PROCESSORS; i++) {
        pthread_join(processors[i].thread, NULL);
        fputs(processors[i].log, stdout);
    }

    /* Processors go with their partition; the memory is ours to free, but not before. */
    check("WHvDeletePartition", WHvDeletePartition(partition));
    free(memory);
    printf("partition deleted\n");
    return 0;
}
