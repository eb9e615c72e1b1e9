// The table of partition properties, and the functions that read it.
#include "partition/property.h"

#include <stdlib.h>
#include <string.h>

#include "partition/partition.h"

// Percent, as the reference's scheduling properties are given; weights as Hyper-V's schedulers count them.
#define CPU_PERCENT_MAX 100
#define CPU_WEIGHT_MAX 10000
#define CPU_WEIGHT_DEFAULT 100
// Architectural bounds of the width of a physical address that a 64-bit guest can live with (SDM vol. 3A
// 4.1.4).
#define ADDRESS_WIDTH_MIN 32
// A clock below this makes no timer usable; one above it overflows 64-bit arithmetic on nanoseconds.
#define CLOCK_HZ_MIN 1000000ull
#define CLOCK_HZ_MAX 1000000000000ull

static UINT32 load32(const void *value)
{
    UINT32 n;

    memcpy(&n, value, sizeof(n));
    return n;
}

static UINT64 load64(const void *value)
{
    UINT64 n;

    memcpy(&n, value, sizeof(n));
    return n;
}

static bool check_bool(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count, (void)capabilities;
    return load32(value) <= 1;
}

static bool check_processor_count(const void *value, UINT32 count,
                                  const struct engine_capabilities *capabilities)
{
    (void)count;
    return load32(value) >= 1 && load32(value) <= capabilities->max_processors &&
           load32(value) <= PARTITION_MAX_PROCESSORS;
}

static bool check_apic_mode(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count;
    return load32(value) == WHvX64LocalApicEmulationModeNone ||
           (load32(value) <= WHvX64LocalApicEmulationModeX2Apic && capabilities->apic_emulation);
}

static bool check_exits(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count;
    return (load64(value) & ~capabilities->extended_vm_exits.AsUINT64) == 0;
}

static bool check_exceptions(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count;
    return (load64(value) & ~capabilities->exception_exit_bitmap) == 0;
}

static bool check_msr_exits(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count;
    return (load64(value) & ~capabilities->msr_exit_bitmap.AsUINT64) == 0;
}

static bool check_numa_node(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    UINT16 node;

    (void)count, (void)capabilities;
    memcpy(&node, value, sizeof(node));
    return node == 0;
}

static bool check_reserve(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count, (void)capabilities;
    return load32(value) <= CPU_PERCENT_MAX;
}

static bool check_cap(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count, (void)capabilities;
    return load32(value) >= 1 && load32(value) <= CPU_PERCENT_MAX;
}

static bool check_weight(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count, (void)capabilities;
    return load32(value) >= 1 && load32(value) <= CPU_WEIGHT_MAX;
}

static bool check_features(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count;
    return (load64(value) & ~capabilities->processor_features.Bank0.AsUINT64) == 0;
}

static bool check_feature_banks(const void *value, UINT32 count,
                                const struct engine_capabilities *capabilities)
{
    WHV_PROCESSOR_FEATURES_BANKS banks;

    (void)count;
    memcpy(&banks, value, sizeof(banks));
    return banks.BanksCount == WHV_PROCESSOR_FEATURES_BANKS_COUNT && banks.Reserved0 == 0 &&
           (banks.Bank0.AsUINT64 & ~capabilities->processor_features.Bank0.AsUINT64) == 0 &&
           (banks.Bank1.AsUINT64 & ~capabilities->processor_features.Bank1.AsUINT64) == 0;
}

static bool check_xsave_features(const void *value, UINT32 count,
                                 const struct engine_capabilities *capabilities)
{
    (void)count;
    return (load64(value) & ~capabilities->xsave_features.AsUINT64) == 0;
}

// No engine offers synthetic features or performance monitoring: only "none" can be asked for.
static bool check_synthetic_banks(const void *value, UINT32 count,
                                  const struct engine_capabilities *capabilities)
{
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS banks;

    (void)count, (void)capabilities;
    memcpy(&banks, value, sizeof(banks));
    return banks.BanksCount == WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT && banks.Reserved0 == 0 &&
           banks.Bank0.AsUINT64 == 0;
}

static bool check_zero64(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count, (void)capabilities;
    return load64(value) == 0;
}

static bool check_clflush(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count;
    return *(const UINT8 *)value == capabilities->clflush_units;
}

static bool clock_possible(UINT64 hz, UINT64 own, bool fixed)
{
    return fixed ? hz == own : hz >= CLOCK_HZ_MIN && hz <= CLOCK_HZ_MAX;
}

static bool check_processor_clock(const void *value, UINT32 count,
                                  const struct engine_capabilities *capabilities)
{
    (void)count;
    return clock_possible(load64(value), capabilities->processor_clock_hz, capabilities->processor_clock_fixed);
}

static bool check_interrupt_clock(const void *value, UINT32 count,
                                  const struct engine_capabilities *capabilities)
{
    (void)count;
    return clock_possible(load64(value), capabilities->interrupt_clock_hz, capabilities->interrupt_clock_fixed);
}

static bool check_address_width(const void *value, UINT32 count,
                                const struct engine_capabilities *capabilities)
{
    (void)count;
    return load32(value) >= ADDRESS_WIDTH_MIN && load32(value) <= capabilities->physical_address_width;
}

static bool check_cpuid_results2(const void *value, UINT32 count,
                                 const struct engine_capabilities *capabilities)
{
    const WHV_X64_CPUID_RESULT2 *list = value;
    const UINT32 known = WHvX64CpuidResult2FlagSubleafSpecific | WHvX64CpuidResult2FlagVpSpecific;

    (void)capabilities;
    for (UINT32 i = 0; i < count; i++)
        if ((UINT32)list[i].Flags & ~known)
            return false;
    return true;
}

static bool check_msr_actions(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    const WHV_MSR_ACTION_ENTRY *list = value;

    (void)capabilities;
    for (UINT32 i = 0; i < count; i++)
        if (list[i].ReadAction > WHvMsrActionExit || list[i].WriteAction > WHvMsrActionExit ||
            list[i].Reserved)
            return false;
    return true;
}

static bool check_msr_action(const void *value, UINT32 count, const struct engine_capabilities *capabilities)
{
    (void)count, (void)capabilities;
    return load32(value) <= WHvMsrActionExit;
}

static void initial_cap(void *value, const struct engine_capabilities *capabilities)
{
    (void)capabilities;
    *(UINT32 *)value = CPU_PERCENT_MAX;
}

static void initial_weight(void *value, const struct engine_capabilities *capabilities)
{
    (void)capabilities;
    *(UINT32 *)value = CPU_WEIGHT_DEFAULT;
}

static void initial_features(void *value, const struct engine_capabilities *capabilities)
{
    *(WHV_PROCESSOR_FEATURES *)value = capabilities->processor_features.Bank0;
}

static void initial_feature_banks(void *value, const struct engine_capabilities *capabilities)
{
    WHV_PROCESSOR_FEATURES_BANKS *banks = value;

    *banks = capabilities->processor_features;
    banks->BanksCount = WHV_PROCESSOR_FEATURES_BANKS_COUNT;
    banks->Reserved0 = 0;
}

static void initial_synthetic_banks(void *value, const struct engine_capabilities *capabilities)
{
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS *banks = value;

    (void)capabilities;
    memset(banks, 0, sizeof(*banks));
    banks->BanksCount = WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT;
}

static void initial_xsave_features(void *value, const struct engine_capabilities *capabilities)
{
    *(WHV_PROCESSOR_XSAVE_FEATURES *)value = capabilities->xsave_features;
}

static void initial_clflush(void *value, const struct engine_capabilities *capabilities)
{
    *(UINT8 *)value = capabilities->clflush_units;
}

static void initial_processor_clock(void *value, const struct engine_capabilities *capabilities)
{
    *(UINT64 *)value = capabilities->processor_clock_hz;
}

static void initial_interrupt_clock(void *value, const struct engine_capabilities *capabilities)
{
    *(UINT64 *)value = capabilities->interrupt_clock_hz;
}

static void initial_address_width(void *value, const struct engine_capabilities *capabilities)
{
    *(UINT32 *)value = capabilities->physical_address_width;
}

#define MEMBER_SIZE(member) sizeof(((struct property_values *)0)->member)
#define ROW(name_, member, when, check_, initial_)                                                           \
    {                                                                                                        \
        .code = WHvPartitionPropertyCode##name_, .name = #name_, .size = MEMBER_SIZE(member),                \
        .offset = offsetof(struct property_values, member), .after_setup = (when) == AT_ANY_TIME,            \
        .check = (check_), .initial = (initial_),                                                            \
    }
#define LIST(name_, list, count, when, check_)                                                               \
    {                                                                                                        \
        .code = WHvPartitionPropertyCode##name_, .name = #name_, .size = MEMBER_SIZE(list[0]),               \
        .offset = offsetof(struct property_values, list),                                                    \
        .count_offset = offsetof(struct property_values, count), .after_setup = (when) == AT_ANY_TIME,       \
        .check = (check_),                                                                                   \
    }

enum when { BEFORE_SETUP, AT_ANY_TIME };

static const struct property table[] = {
    ROW(ExtendedVmExits, extended_vm_exits, AT_ANY_TIME, check_exits, NULL),
    ROW(ExceptionExitBitmap, exception_exit_bitmap, AT_ANY_TIME, check_exceptions, NULL),
    ROW(SeparateSecurityDomain, separate_security_domain, BEFORE_SETUP, check_bool, NULL),
    ROW(NestedVirtualization, nested_virtualization, BEFORE_SETUP, check_bool, NULL),
    ROW(X64MsrExitBitmap, msr_exit_bitmap, AT_ANY_TIME, check_msr_exits, NULL),
    ROW(PrimaryNumaNode, primary_numa_node, BEFORE_SETUP, check_numa_node, NULL),
    ROW(CpuReserve, cpu_reserve, BEFORE_SETUP, check_reserve, NULL),
    ROW(CpuCap, cpu_cap, BEFORE_SETUP, check_cap, initial_cap),
    ROW(CpuWeight, cpu_weight, BEFORE_SETUP, check_weight, initial_weight),
    ROW(CpuGroupId, cpu_group_id, BEFORE_SETUP, NULL, NULL),
    ROW(ProcessorFrequencyCap, processor_frequency_cap, BEFORE_SETUP, NULL, NULL),
    ROW(AllowDeviceAssignment, allow_device_assignment, BEFORE_SETUP, check_bool, NULL),
    ROW(DisableSmt, disable_smt, BEFORE_SETUP, check_bool, NULL),
    ROW(ProcessorFeatures, processor_features.Bank0, BEFORE_SETUP, check_features, initial_features),
    ROW(ProcessorClFlushSize, clflush_units, BEFORE_SETUP, check_clflush, initial_clflush),
    LIST(CpuidExitList, cpuid_exit_list, cpuid_exit_count, AT_ANY_TIME, NULL),
    LIST(CpuidResultList, cpuid_result_list, cpuid_result_count, BEFORE_SETUP, NULL),
    ROW(LocalApicEmulationMode, apic_mode, BEFORE_SETUP, check_apic_mode, NULL),
    ROW(ProcessorXsaveFeatures, xsave_features, BEFORE_SETUP, check_xsave_features, initial_xsave_features),
    ROW(ProcessorClockFrequency, processor_clock_hz, BEFORE_SETUP, check_processor_clock,
        initial_processor_clock),
    ROW(InterruptClockFrequency, interrupt_clock_hz, BEFORE_SETUP, check_interrupt_clock,
        initial_interrupt_clock),
    ROW(ApicRemoteReadSupport, apic_remote_read, BEFORE_SETUP, check_bool, NULL),
    ROW(ProcessorFeaturesBanks, processor_features, BEFORE_SETUP, check_feature_banks, initial_feature_banks),
    ROW(ReferenceTime, reference_time, BEFORE_SETUP, NULL, NULL),
    ROW(SyntheticProcessorFeaturesBanks, synthetic_features, BEFORE_SETUP, check_synthetic_banks,
        initial_synthetic_banks),
    LIST(CpuidResultList2, cpuid_result2_list, cpuid_result2_count, BEFORE_SETUP, check_cpuid_results2),
    ROW(ProcessorPerfmonFeatures, perfmon_features, BEFORE_SETUP, check_zero64, NULL),
    LIST(MsrActionList, msr_action_list, msr_action_count, BEFORE_SETUP, check_msr_actions),
    ROW(UnimplementedMsrAction, unimplemented_msr_action, BEFORE_SETUP, check_msr_action, NULL),
    ROW(PhysicalAddressWidth, physical_address_width, BEFORE_SETUP, check_address_width,
        initial_address_width),
    ROW(ProcessorCount, processor_count, BEFORE_SETUP, check_processor_count, NULL),
};

#define ROWS (sizeof(table) / sizeof(table[0]))
_Static_assert(ROWS <= 64, "set_rows has one bit for each row");

const struct property *property_row(unsigned int index)
{
    return index < ROWS ? &table[index] : NULL;
}

const struct property *property_find(WHV_PARTITION_PROPERTY_CODE code)
{
    for (unsigned int i = 0; i < ROWS; i++)
        if (table[i].code == code)
            return &table[i];
    return NULL;
}

static void *value_of(struct property_values *values, const struct property *property)
{
    return (char *)values + property->offset;
}

static UINT64 row_bit(const struct property *property)
{
    return 1ull << (property - table);
}

// True when the property, or another one that shares storage with it (ProcessorFeatures is the first bank of
// ProcessorFeaturesBanks), was set.
static bool was_set(const struct property_values *values, const struct property *property)
{
    for (unsigned int i = 0; i < ROWS; i++)
        if (!property_is_list(&table[i]) && (values->set_rows & row_bit(&table[i])) &&
            table[i].offset < property->offset + property->size &&
            property->offset < table[i].offset + table[i].size)
            return true;
    return false;
}

void property_defaults(struct property_values *values, const struct engine_capabilities *capabilities)
{
    // Rows that share storage must not undo each other: decide first, write then.
    UINT64 keep = 0;

    for (unsigned int i = 0; i < ROWS; i++)
        if (property_is_list(&table[i]) || was_set(values, &table[i]))
            keep |= row_bit(&table[i]);
    for (unsigned int i = 0; i < ROWS; i++) {
        const struct property *property = &table[i];

        if (keep & row_bit(property))
            continue;
        if (property->initial)
            property->initial(value_of(values, property), capabilities);
        else
            memset(value_of(values, property), 0, property->size);
    }
}

static void *list_of(const struct property_values *values, const struct property *property)
{
    void *list;

    memcpy(&list, (const char *)values + property->offset, sizeof(list));
    return list;
}

static UINT32 count_of(const struct property_values *values, const struct property *property)
{
    return property_is_list(property) ? load32((const char *)values + property->count_offset) : 1;
}

CHECKED static HRESULT set_list(struct property_values *values, const struct property *property,
                                const void *buffer, UINT32 size,
                                const struct engine_capabilities *capabilities, void **replaced)
{
    UINT32 count = size / property->size;
    void *list = NULL;

    if (count > PROPERTY_LIST_MAX)
        return E_INVALIDARG;
    if (count) {
        list = malloc(size);
        if (!list)
            return E_OUTOFMEMORY;
        memcpy(list, buffer, size);
    }
    if (property->check && !property->check(list, count, capabilities)) {
        free(list);
        return E_INVALIDARG;
    }
    *replaced = list_of(values, property);
    memcpy(value_of(values, property), &list, sizeof(list));
    memcpy((char *)values + property->count_offset, &count, sizeof(count));
    return S_OK;
}

HRESULT property_set(struct property_values *values, const struct property *property, const void *buffer,
                     UINT32 size, const struct engine_capabilities *capabilities, void **replaced)
{
    *replaced = NULL;
    if (property_is_list(property)) {
        HRESULT hr = set_list(values, property, buffer, size, capabilities, replaced);

        if (FAILED(hr))
            return hr;
    } else {
        if (property->check && !property->check(buffer, 1, capabilities))
            return E_INVALIDARG;
        memcpy(value_of(values, property), buffer, property->size);
    }
    values->set_rows |= row_bit(property);
    return S_OK;
}

void property_put_back(struct property_values *values, const struct property *property,
                       const struct property_values *before, void **replaced)
{
    *replaced = property_is_list(property) ? list_of(values, property) : NULL;
    *values = *before;
}

void property_get(const struct property_values *values, const struct property *property, void *buffer)
{
    memcpy(buffer, (const char *)values + property->offset, property->size);
}

const void *property_value(const struct property_values *values, const struct property *property, UINT32 *count)
{
    *count = count_of(values, property);
    return property_is_list(property) ? list_of(values, property) : (const char *)values + property->offset;
}

bool property_is_set(const struct property_values *values, const struct property *property)
{
    return values->set_rows & row_bit(property);
}

void property_relax(struct engine_capabilities *capabilities, WHV_EXTENDED_VM_EXITS relaxed)
{
    // What chooses among exits that need not happen need not be there either.
    const WHV_X64_MSR_EXIT_BITMAP msrs = {
        .UnhandledMsrs = 1, .TscMsrWrite = 1, .TscMsrRead = 1, .ApicBaseMsrWrite = 1,
        .McUpdatePatchLevelMsrRead = 1,
    };

    capabilities->extended_vm_exits.AsUINT64 |= relaxed.AsUINT64;
    if (relaxed.ExceptionExit)
        capabilities->exception_exit_bitmap |= 0xFFFFFFFF;      // every exception has a vector below 32
    if (relaxed.X64MsrExit)
        capabilities->msr_exit_bitmap.AsUINT64 |= msrs.AsUINT64;
}

const struct property *property_unsupported(const struct property_values *values,
                                            const struct engine_capabilities *capabilities,
                                            WHV_EXTENDED_VM_EXITS relaxed)
{
    struct engine_capabilities granted = *capabilities;

    property_relax(&granted, relaxed);
    for (unsigned int i = 0; i < ROWS; i++) {
        const struct property *property = &table[i];
        const void *value = (const char *)values + property->offset;

        if (!property->check || !(values->set_rows & row_bit(property)))
            continue;
        if (property_is_list(property))
            value = list_of(values, property);
        if (!property->check(value, count_of(values, property), &granted))
            return property;
    }
    return NULL;
}

void property_release(struct property_values *values)
{
    for (unsigned int i = 0; i < ROWS; i++)
        if (property_is_list(&table[i]))
            free(list_of(values, &table[i]));
}
