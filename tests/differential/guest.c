// Runs a case on a processor of a partition: 64-bit or compatibility mode, CPL 3, no operating system. Every
// exception exits before it is delivered, so there is no IDT.
//
// Guest physical memory: the page tables, a TSS without a port bitmap, the code, the data.
#include "differential.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <WinHvPlatform.h>

enum {
    GPA_PML4 = 0x1000, GPA_PDPT = 0x2000, GPA_PD = 0x3000, GPA_PT_CODE = 0x4000, GPA_PT_DATA = 0x5000,
    GPA_PDPT_SYSTEM = 0x6000, GPA_PD_SYSTEM = 0x7000, GPA_PT_SYSTEM = 0x8000, GPA_TSS = 0x9000,
    GPA_CODE = 0x10000, GPA_DATA = 0x20000, GPA_SIZE = 0x30000
};
#define TSS_ADDRESS 0xffff800000000000u         // in the half that a process does not see

#define PAGE_P 0x001u
#define PAGE_W 0x002u
#define PAGE_U 0x004u
#define PAGE_A 0x020u
#define PAGE_D 0x040u
#define PAGE_NX ((uint64_t)1 << 63)

static WHV_PARTITION_HANDLE guest_partition;
static uint8_t *guest_memory;
static const uint8_t *guest_template;
static uint32_t guest_dirty_offset, guest_dirty_size;
static int guest_mode;

enum {
    FIRST_XMM = 18,
    FIRST_FP = FIRST_XMM + 16,
    FP_CONTROL = FIRST_FP + 8,
    XMM_CONTROL,
    FS_SEGMENT,
    GS_SEGMENT,
    REGISTERS
};
static WHV_REGISTER_NAME guest_names[REGISTERS];
static WHV_REGISTER_VALUE guest_values[REGISTERS];

static bool checked(HRESULT result, const char *call)
{
    if (FAILED(result))
        fprintf(stderr, "%s: 0x%08x\n", call, (unsigned)result);
    return !FAILED(result);
}
#define CHECK(call) checked(call, #call)

static void write_entry(uint32_t table, unsigned index, uint64_t entry)
{
    memcpy(guest_memory + table + 8 * index, &entry, 8);
}

static void build_page_tables(void)
{
    const uint64_t table = PAGE_P | PAGE_W | PAGE_U | PAGE_A;
    write_entry(GPA_PML4, 0, GPA_PDPT | table);
    write_entry(GPA_PDPT, 0, GPA_PD | table);
    write_entry(GPA_PD, CASE_CODE >> 21, GPA_PT_CODE | table);
    write_entry(GPA_PD, CASE_DATA >> 21, GPA_PT_DATA | table);
    for (unsigned i = 0; i < CASE_CODE_SIZE / CASE_PAGE; i++)
        write_entry(GPA_PT_CODE, i, (GPA_CODE + i * CASE_PAGE) | PAGE_P | PAGE_U | PAGE_A);
    for (unsigned i = 0; i < CASE_DATA_SIZE / CASE_PAGE; i++) {
        uint64_t rights = i < CASE_DATA_WRITABLE / CASE_PAGE ? PAGE_W | PAGE_D : 0;
        write_entry(GPA_PT_DATA, i, (GPA_DATA + i * CASE_PAGE) | PAGE_P | PAGE_U | PAGE_A | PAGE_NX | rights);
    }
    write_entry(GPA_PML4, 256, GPA_PDPT_SYSTEM | table);
    write_entry(GPA_PDPT_SYSTEM, 0, GPA_PD_SYSTEM | table);
    write_entry(GPA_PD_SYSTEM, 0, GPA_PT_SYSTEM | table);
    write_entry(GPA_PT_SYSTEM, 0, GPA_TSS | PAGE_P | PAGE_W | PAGE_A | PAGE_D);
}

static bool create_partition(void)
{
    WHV_PARTITION_PROPERTY property;
    WHV_CAPABILITY capability = { 0 };
    if (!CHECK(WHvCreatePartition(&guest_partition)))
        return false;
    memset(&property, 0, sizeof(property));
    property.ProcessorCount = 1;
    if (!CHECK(WHvSetPartitionProperty(guest_partition, WHvPartitionPropertyCodeProcessorCount, &property,
                                       sizeof(property))))
        return false;
    memset(&property, 0, sizeof(property));
    property.ExtendedVmExits.ExceptionExit = 1;
    if (!CHECK(WHvSetPartitionProperty(guest_partition, WHvPartitionPropertyCodeExtendedVmExits, &property,
                                       sizeof(property))))
        return false;
    if (!CHECK(WHvGetCapability(WHvCapabilityCodeExceptionExitBitmap, &capability, sizeof(capability), NULL)))
        return false;
    memset(&property, 0, sizeof(property));
    property.ExceptionExitBitmap = capability.ExceptionExitBitmap;
    return CHECK(WHvSetPartitionProperty(guest_partition, WHvPartitionPropertyCodeExceptionExitBitmap,
                                         &property, sizeof(property)))
           && CHECK(WHvSetupPartition(guest_partition))
           && CHECK(
               WHvMapGpaRange(guest_partition, guest_memory, 0, GPA_SIZE,
                              WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute))
           && CHECK(WHvCreateVirtualProcessor(guest_partition, 0, 0));
}

static WHV_REGISTER_VALUE segment(uint64_t base, uint32_t limit, uint16_t selector, uint16_t attributes)
{
    WHV_REGISTER_VALUE value = { 0 };
    value.Segment.Base = base;
    value.Segment.Limit = limit;
    value.Segment.Selector = selector;
    value.Segment.Attributes = attributes;
    return value;
}

static bool set_registers(const WHV_REGISTER_NAME *names, const WHV_REGISTER_VALUE *values, UINT32 count)
{
    return CHECK(WHvSetVirtualProcessorRegisters(guest_partition, 0, names, count, values));
}

// The selectors are those of a Linux process, as the case can read them.
static bool set_mode(enum case_mode mode)
{
    static const WHV_REGISTER_NAME names[] = { WHvX64RegisterCs, WHvX64RegisterSs, WHvX64RegisterDs,
                                               WHvX64RegisterEs };
    const WHV_REGISTER_VALUE flat = segment(0, 0xffffffff, 0x2b, 0xc0f3);
    const WHV_REGISTER_VALUE data16 = segment(CASE_DATA, CASE_DATA_LIMIT, 0x0f, 0x00f3);
    const WHV_REGISTER_VALUE code[] = { segment(0, 0xffffffff, 0x33, 0xa0fb),
                                        segment(0, 0xffffffff, 0x23, 0xc0fb),
                                        segment(CASE_CODE, CASE_CODE_LIMIT, 0x07, 0x00fb) };
    const WHV_REGISTER_VALUE stack[] = { flat, flat, data16 }, data[] = { segment(0, 0, 0, 0), flat, data16 };
    const WHV_REGISTER_VALUE values[] = { code[mode], stack[mode], data[mode], data[mode] };
    guest_mode = (int)mode;
    return set_registers(names, values, 4);
}

static bool set_system_registers(void)
{
    static const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterCr0, WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterEfer,
        WHvX64RegisterTr
    };
    WHV_REGISTER_VALUE values[] = {
        { .Reg64 = 0x80050033 },        // PG, AM, WP, NE, ET, MP, PE
        { .Reg64 = GPA_PML4 },
        { .Reg64 = 0x620 },             // OSXMMEXCPT, OSFXSR, PAE
        { .Reg64 = 0xd00 },             // NXE, LMA, LME
        segment(TSS_ADDRESS, 0x67, 0x40, 0x8b)
    };
    uint16_t bitmap_base = 0x68;        // beyond the limit: no port is open
    memcpy(guest_memory + GPA_TSS + 102, &bitmap_base, 2);
    return set_registers(names, values, sizeof(names) / sizeof(names[0]));
}

static void name_registers(void)
{
    for (int i = 0; i < FIRST_XMM; i++) // the sixteen general registers, RIP and RFLAGS follow each other
        guest_names[i] = (WHV_REGISTER_NAME)(WHvX64RegisterRax + i);
    for (int i = 0; i < 16; i++)
        guest_names[FIRST_XMM + i] = (WHV_REGISTER_NAME)(WHvX64RegisterXmm0 + i);
    for (int i = 0; i < 8; i++)
        guest_names[FIRST_FP + i] = (WHV_REGISTER_NAME)(WHvX64RegisterFpMmx0 + i);
    guest_names[FP_CONTROL] = WHvX64RegisterFpControlStatus;
    guest_names[XMM_CONTROL] = WHvX64RegisterXmmControlStatus;
    guest_names[FS_SEGMENT] = WHvX64RegisterFs;
    guest_names[GS_SEGMENT] = WHvX64RegisterGs;
}

static bool guest_open(const uint8_t *data_template)
{
    guest_template = data_template;
    guest_memory = mmap(NULL, GPA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (guest_memory == MAP_FAILED) {
        perror("mmap");
        return false;
    }
    memset(guest_memory + GPA_CODE, 0xcc, CASE_CODE_SIZE);
    build_page_tables();
    name_registers();
    return create_partition() && set_system_registers() && set_mode(MODE_64);
}

static void prepare_memory(const struct test_case *c)
{
    uint8_t *code = guest_memory + GPA_CODE, *data = guest_memory + GPA_DATA;
    memset(code + guest_dirty_offset, 0xcc, guest_dirty_size);
    memcpy(code + c->code_offset, c->bytes, c->size);
    guest_dirty_offset = c->code_offset;
    guest_dirty_size = c->size;
    memcpy(data, guest_template, CASE_DATA_SIZE);
    for (uint32_t i = 0; i < c->poke_count; i++)
        memcpy(data + c->pokes[i].offset, c->pokes[i].bytes, c->pokes[i].size);
}

static bool write_state(const struct test_case *c)
{
    const struct machine_state *s = &c->before;
    WHV_REGISTER_VALUE *v = guest_values;
    memset(v, 0, sizeof(guest_values));
    for (int i = 0; i < 16; i++)
        v[i].Reg64 = s->gpr[i];
    v[16].Reg64 = s->rip;
    v[17].Reg64 = s->rflags;
    memcpy(&v[FIRST_XMM], s->fx.xmm, sizeof(s->fx.xmm));
    for (unsigned i = 0; i < 8; i++)            // in the order of the stack, as in the image
        memcpy(&v[FIRST_FP + i], s->fx.st[i], 10);
    v[FP_CONTROL].FpControlStatus.FpControl = s->fx.fcw;
    v[FP_CONTROL].FpControlStatus.FpStatus = s->fx.fsw;
    v[FP_CONTROL].FpControlStatus.FpTag = s->fx.ftw;
    v[XMM_CONTROL].XmmControlStatus.XmmStatusControl = s->fx.mxcsr;
    v[XMM_CONTROL].XmmControlStatus.XmmStatusControlMask = s->fx.mxcsr_mask;
    v[FS_SEGMENT] = segment(c->mode == MODE_64 ? c->fs_base : 0, 0, 0, 0);
    v[GS_SEGMENT] = segment(c->mode == MODE_64 ? c->gs_base : 0, 0, 0, 0);
    return (guest_mode == (int)c->mode || set_mode(c->mode)) && set_registers(guest_names, v, REGISTERS);
}

static bool read_state(struct machine_state *s)
{
    WHV_REGISTER_VALUE *v = guest_values;
    if (!CHECK(WHvGetVirtualProcessorRegisters(guest_partition, 0, guest_names, REGISTERS, v)))
        return false;
    for (int i = 0; i < 16; i++)
        s->gpr[i] = v[i].Reg64;
    s->rip = v[16].Reg64;
    s->rflags = v[17].Reg64;
    memset(&s->fx, 0, sizeof(s->fx));
    memcpy(s->fx.xmm, &v[FIRST_XMM], sizeof(s->fx.xmm));
    s->fx.fcw = v[FP_CONTROL].FpControlStatus.FpControl;
    s->fx.fsw = v[FP_CONTROL].FpControlStatus.FpStatus;
    s->fx.ftw = v[FP_CONTROL].FpControlStatus.FpTag;
    s->fx.mxcsr = v[XMM_CONTROL].XmmControlStatus.XmmStatusControl;
    for (unsigned i = 0; i < 8; i++)
        memcpy(s->fx.st[i], &v[FIRST_FP + i], 10);
    return true;
}

static bool guest_run(const struct test_case *c, struct outcome *out)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;
    prepare_memory(c);
    if (!write_state(c) || !CHECK(WHvRunVirtualProcessor(guest_partition, 0, &exit, sizeof(exit)))
        || !read_state(&out->after))
        return false;
    out->data = guest_memory + GPA_DATA;
    out->error_code = 0;
    out->address = 0;
    if (exit.ExitReason != WHvRunVpExitReasonException) {
        out->vector = OUTCOME_NOT_AN_EXCEPTION + exit.ExitReason;
        return true;
    }
    out->vector = exit.VpException.ExceptionType;
    if (exit.VpException.ExceptionInfo.ErrorCodeValid)
        out->error_code = exit.VpException.ErrorCode;
    if (out->vector == 14)
        out->address = exit.VpException.ExceptionParameter;
    return true;
}

// The CPUID words that say which instructions the guest has.
bool guest_cpuid(uint32_t words[4])
{
    WHV_CPUID_OUTPUT first, extended;
    if (!CHECK(WHvGetVirtualProcessorCpuidOutput(guest_partition, 0, 1, 0, &first))
        || !CHECK(WHvGetVirtualProcessorCpuidOutput(guest_partition, 0, 0x80000001, 0, &extended)))
        return false;
    words[0] = first.Ecx;
    words[1] = first.Edx;
    words[2] = extended.Ecx;
    words[3] = extended.Edx;
    return true;
}

static void guest_close(void)
{
    WHvDeletePartition(guest_partition);
    munmap(guest_memory, GPA_SIZE);
}

const struct machine guest_machine = { "guest", guest_open, guest_run, guest_close };
