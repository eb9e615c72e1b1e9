// Runs guests on the engine that BULKHEAD_ENGINE names and prints every exit, for another engine's to be compared with.
//
//   trace DIRECTORY GUESTS_DIRECTORY [NAME]
//
// Each guest runs once for each way in which the client completes exits. What depends on time is left out.
#include "trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bulkhead/bulkhead.h"

#define MAX_EXITS 2000
#define NOT_USABLE 77

// A guest: NAME.bin in one of the two directories, and what its partition needs.
struct row {
    const char *name;
    bool of_guests;                     // of tests/guests
    bool one_way;                       // its exits are all of one kind: by hand is enough
    WHV_EXTENDED_VM_EXITS exits;
    UINT64 exceptions;
};

static const struct row rows[] = {
    { .name = "ports16" },
    { .name = "ports64" },
    { .name = "portsdevice" },
    { .name = "device16" },
    { .name = "device16-marked" },
    { .name = "device64" },
    { .name = "device64-marked" },
    { .name = "strings64" },
    { .name = "strings64-marked" },
    { .name = "rom" },
    { .name = "rom-marked" },
    { .name = "fetch" },
    { .name = "faults", .one_way = true },
    { .name = "delivery" },
    { .name = "events", .one_way = true },
    { .name = "user" },
    { .name = "msr", .one_way = true, .exits = { .X64MsrExit = 1 } },
    { .name = "debug", .exits = { .ExceptionExit = 1 }, .exceptions = 1u << 1 | 1u << 3 },
    { .name = "real", .of_guests = true, .one_way = true },
    { .name = "exceptions", .of_guests = true, .one_way = true },
    { .name = "smc", .of_guests = true, .one_way = true },
    { .name = "triple", .of_guests = true, .one_way = true },
    { .name = "ports", .of_guests = true },
    { .name = "halt", .of_guests = true, .one_way = true },
};

static const char *const ways[] = { "by hand", "by emulator", "by map" };

void trace_must(const char *call, HRESULT result)
{
    if (FAILED(result)) {
        fflush(stdout);
        fprintf(stderr, "trace: %s: 0x%08x\n", call, (unsigned)result);
        exit(1);
    }
}

UINT64 trace_get(struct trace *t, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    MUST(WHvGetVirtualProcessorRegisters(t->partition, 0, &name, 1, &value));
    return value.Reg64;
}

void trace_set(struct trace *t, WHV_REGISTER_NAME name, UINT64 number)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Reg64 = number;
    MUST(WHvSetVirtualProcessorRegisters(t->partition, 0, &name, 1, &value));
}

static void load(struct trace *t, const char *directory, const char *name)
{
    char path[1024];
    size_t size;
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s.bin", directory, name);
    file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    size = fread(t->memory + LOAD, 1, MEMORY_SIZE - LOAD, file);
    fclose(file);
    if (size == 0) {
        fprintf(stderr, "trace: %s: empty\n", path);
        exit(1);
    }
    for (unsigned n = 0; n < 2 * PAGE; n++)
        t->device[n] = (uint8_t)(n * 7 + (n >> 8));
    // The ROM's code: mov eax, 0x77; ret.
    memset(t->rom, 0x90, PAGE);
    memcpy(t->rom, "\xb8\x77\x00\x00\x00\xc3", 6);
}

static void set_property(struct trace *t, WHV_PARTITION_PROPERTY_CODE code, UINT64 value)
{
    WHV_PARTITION_PROPERTY property;

    memset(&property, 0, sizeof(property));
    memcpy(&property, &value, sizeof(value));
    MUST(WHvSetPartitionProperty(t->partition, code, &property, sizeof(property)));
}

static void map(struct trace *t, void *source, UINT64 gpa, UINT64 size, WHV_MAP_GPA_RANGE_FLAGS flags)
{
    MUST(WHvMapGpaRange(t->partition, source, gpa, size, flags));
}

static void create(struct trace *t, const struct row *row)
{
    const WHV_MAP_GPA_RANGE_FLAGS all =
        WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute;
    WHV_REGISTER_NAME names[3] = { WHvX64RegisterCs, WHvX64RegisterRip, WHvX64RegisterRdx };
    WHV_REGISTER_VALUE values[3];

    MUST(WHvCreatePartition(&t->partition));
    set_property(t, WHvPartitionPropertyCodeProcessorCount, 1);
    if (row->exits.AsUINT64)
        set_property(t, WHvPartitionPropertyCodeExtendedVmExits, row->exits.AsUINT64);
    if (row->exceptions)
        set_property(t, WHvPartitionPropertyCodeExceptionExitBitmap, row->exceptions);
    MUST(WHvSetupPartition(t->partition));
    map(t, t->memory, 0, HOLE, all);
    map(t, t->memory + HOLE + PAGE, HOLE + PAGE, MEMORY_SIZE - HOLE - PAGE, all);
    map(t, t->rom, ROM, PAGE, WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute);
    MUST(WHvCreateVirtualProcessor(t->partition, 0, 0));
    memset(values, 0, sizeof(values));
    values[0].Segment.Limit = 0xFFFF;
    values[0].Segment.Attributes = 0x9B;        // present, code, readable, accessed
    values[1].Reg64 = LOAD;
    // RDX would be the processor's signature, which is the engine's.
    MUST(WHvSetVirtualProcessorRegisters(t->partition, 0, names, 3, values));
}

// What the row asks for and the engine lacks.
static bool lacking(const struct row *row)
{
    WHV_CAPABILITY exits, exceptions;

    MUST(WHvGetCapability(WHvCapabilityCodeExtendedVmExits, &exits, sizeof(exits), NULL));
    MUST(WHvGetCapability(WHvCapabilityCodeExceptionExitBitmap, &exceptions, sizeof(exceptions), NULL));
    return (row->exits.AsUINT64 & ~exits.ExtendedVmExits.AsUINT64)
        || (row->exceptions & ~exceptions.ExceptionExitBitmap);
}

static void run(const struct row *row, enum way way, const char *directory)
{
    const size_t size = MEMORY_SIZE + 3 * PAGE;
    struct trace t = { .way = way };
    WHV_RUN_VP_EXIT_CONTEXT exit;

    printf("== %s, %s\n", row->name, ways[way]);
    if (lacking(row)) {
        printf("lacking exits\n");
        return;
    }
    t.memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    trace_must("mmap", t.memory == MAP_FAILED ? E_OUTOFMEMORY : S_OK);
    t.device = t.memory + MEMORY_SIZE;
    t.rom = t.device + 2 * PAGE;
    load(&t, directory, row->name);
    create(&t, row);
    MUST(WHvEmulatorCreateEmulator(&trace_callbacks, &t.emulator));
    for (unsigned n = 0; n < MAX_EXITS && !t.ended; n++) {
        MUST(WHvRunVirtualProcessor(t.partition, 0, &exit, sizeof(exit)));
        trace_print(&t, &exit);
        fflush(stdout);             // what follows may not come back
        trace_answer(&t, &exit);
    }
    if (!t.ended)
        printf("not ended\n");
    trace_print_memory(&t);
    fflush(stdout);
    MUST(WHvEmulatorDestroyEmulator(t.emulator));
    MUST(WHvDeletePartition(t.partition));
    munmap(t.memory, size);
}

static bool usable(void)
{
    BULKHEAD_ENGINE_INFO info = { .Size = sizeof(info) };
    const char *name = getenv("BULKHEAD_ENGINE");

    for (UINT32 i = 0; name && BulkheadGetEngineInfo(i, &info) == S_OK; i++)
        if (strcmp(info.Name, name) == 0) {
            if (!info.Usable)
                printf("skipped: engine %s: %s\n", name, info.Reason);
            return info.Usable;
        }
    printf("skipped: this build has no engine %s\n", name ? name : "without a name");
    return false;
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: trace DIRECTORY GUESTS_DIRECTORY [NAME]\n");
        return 2;
    }
    if (!usable())
        return NOT_USABLE;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (argc == 4 && strcmp(argv[3], rows[i].name) != 0)
            continue;
        for (int way = 0; way <= (rows[i].one_way ? 0 : BY_MAP); way++)
            run(&rows[i], (enum way)way, argv[rows[i].of_guests ? 2 : 1]);
    }
    return 0;
}
