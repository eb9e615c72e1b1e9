// The table of partition properties, and the functions that read it.
#include "partition/property.h"

#include <stdlib.h>
#include <string.h>

#include "partition/partition.h"
#include "partition/placement.h"

#define MEMBER_SIZE(type, member) sizeof(((type *)0)->member)

// ---- The table -----------------------------------------------------------------------------------------------------

// The columns of properties.def, as members of struct property.
#define VALUE(member) .offset = offsetof(struct property_values, member)
#define LIST(list, count)                                                                                              \
    .offset = offsetof(struct property_values, list), .count_offset = offsetof(struct property_values, count)

#define BEFORE_SETUP false
#define ANY_TIME true

#define ZERO .initial_offered = PROPERTY_NOTHING
#define CONSTANT(number) .initial_offered = PROPERTY_NOTHING, .initial = (number)
#define OFFERED(member) .initial_offered = offsetof(struct engine_capabilities, member)

// A part's bounds.
#define FREE .offered = PROPERTY_NOTHING, .condition = PROPERTY_NOTHING
#define OF(member)                                                                                                     \
    .offered = offsetof(struct engine_capabilities, member),                                                           \
    .offered_size = MEMBER_SIZE(struct engine_capabilities, member), .condition = PROPERTY_NOTHING
#define PART_NUMBER(low_, high_) .range = PROPERTY_NUMBER, .low = (low_), .high = (high_), FREE
#define PART_FLAGS(known) .range = PROPERTY_BITS, .high = (known), FREE
#define PART_BITS(member) .range = PROPERTY_BITS, OF(member)
#define FIELD(type, member) .offset = offsetof(type, member), .size = MEMBER_SIZE(type, member)

#define PARTS(...)                                                                                                     \
    .parts = (const struct property_part[]){__VA_ARGS__},                                                              \
    .part_count = sizeof((const struct property_part[]){__VA_ARGS__}) / sizeof(struct property_part)
#define ANYTHING .part_count = 0
#define NUMBER(low_, high_) PARTS({PART_NUMBER(low_, high_)})
#define UP_TO(low_, high_, member) PARTS({.range = PROPERTY_UP_TO, .low = (low_), .high = (high_), OF(member)})
#define EXACTLY(member) PARTS({.range = PROPERTY_EXACTLY, OF(member)})
#define FREQUENCY(low_, high_, own, fixed)                                                                             \
    PARTS({.range = PROPERTY_FREQUENCY, .low = (low_), .high = (high_),                                                \
           .offered = offsetof(struct engine_capabilities, own),                                                       \
           .offered_size = MEMBER_SIZE(struct engine_capabilities, own),                                               \
           .condition = offsetof(struct engine_capabilities, fixed)})
#define CHOICE(last) NUMBER(0, last)
#define HOST_NODE PARTS({.range = PROPERTY_NODE, FREE})
#define CHOICE_IF(last, member)                                                                                        \
    PARTS({.range = PROPERTY_CHOICE, .high = (last), .offered = PROPERTY_NOTHING,                                      \
           .condition = offsetof(struct engine_capabilities, member)})
#define BITS(member) PARTS({PART_BITS(member)})

// Every structure of banks begins like this one.
#define BANKS(n, member) PARTS(BANKS_HEAD(n), BANKS_##n(member))
#define BANKS_HEAD(n)                                                                                                  \
    {FIELD(WHV_PROCESSOR_FEATURES_BANKS, BanksCount), PART_NUMBER(n, n)},                                              \
        {FIELD(WHV_PROCESSOR_FEATURES_BANKS, Reserved0), PART_NUMBER(0, 0)}
#define BANKS_1(member) {FIELD(WHV_PROCESSOR_FEATURES_BANKS, Bank0), PART_BITS(member.Bank0)}
#define BANKS_2(member) BANKS_1(member), {FIELD(WHV_PROCESSOR_FEATURES_BANKS, Bank1), PART_BITS(member.Bank1)}
_Static_assert(WHV_PROCESSOR_FEATURES_BANKS_COUNT == 2 && WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT == 1,
               "the numbers of banks in properties.def");
_Static_assert(offsetof(WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS, Bank0) ==
                   offsetof(WHV_PROCESSOR_FEATURES_BANKS, Bank0),
               "structures of banks begin alike");

#define RESULT2_FLAGS                                                                                                  \
    PARTS({FIELD(WHV_X64_CPUID_RESULT2, Flags),                                                                        \
           PART_FLAGS(WHvX64CpuidResult2FlagSubleafSpecific | WHvX64CpuidResult2FlagVpSpecific)})
#define MSR_ACTIONS                                                                                                    \
    PARTS({FIELD(WHV_MSR_ACTION_ENTRY, ReadAction), PART_NUMBER(0, WHvMsrActionExit)},                                 \
          {FIELD(WHV_MSR_ACTION_ENTRY, WriteAction), PART_NUMBER(0, WHvMsrActionExit)},                                \
          {FIELD(WHV_MSR_ACTION_ENTRY, Reserved), PART_NUMBER(0, 0)})

#define PROPERTY(name_, size_, storage, when, range_, default_, ...)                                                   \
    {.code = WHvPartitionPropertyCode##name_, .name = #name_, .size = (size_), storage, .after_setup = (when), range_, \
     default_},
static const struct property table[] = {
#include "partition/properties.def"
};
#undef PROPERTY

// The sizes of properties.def are those of the members.
#undef VALUE
#undef LIST
#define VALUE(member) MEMBER_SIZE(struct property_values, member)
#define LIST(list, count) sizeof(*((struct property_values *)0)->list)
#define PROPERTY(name_, size_, storage, ...) _Static_assert((size_) == (storage), #name_ ": size");
#include "partition/properties.def"
#undef PROPERTY

_Static_assert(PARTITION_MAX_PROCESSORS == 64 && WHvX64LocalApicEmulationModeX2Apic == 2 && WHvMsrActionExit == 2,
               "numbers in properties.def");

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

// A number of `size` bytes, of the host's order.
static UINT64 load(const void *from, size_t size)
{
    UINT64 number = 0;

    memcpy(&number, from, size);
    return number;
}

static bool flag(const struct engine_capabilities *capabilities, size_t offset)
{
    return *(const bool *)((const char *)capabilities + offset);
}

struct property_bounds property_bounds(const struct property_part *part,
                                       const struct engine_capabilities *capabilities)
{
    struct property_bounds bounds = {
        .bits = part->range == PROPERTY_BITS, .low = part->low, .high = part->high,
    };
    UINT64 offered = 0;

    if (part->offered != PROPERTY_NOTHING)
        offered = load((const char *)capabilities + part->offered, part->offered_size);
    switch (part->range) {
    case PROPERTY_NUMBER:
        break;
    case PROPERTY_UP_TO:
        if (offered < bounds.high)
            bounds.high = offered;
        break;
    case PROPERTY_EXACTLY:
        bounds.low = bounds.high = offered;
        break;
    case PROPERTY_FREQUENCY:
        if (flag(capabilities, part->condition))
            bounds.low = bounds.high = offered;
        break;
    case PROPERTY_CHOICE:
        if (!flag(capabilities, part->condition))
            bounds.high = 0;
        break;
    case PROPERTY_NODE:
        bounds.high = placement_highest_node();
        break;
    case PROPERTY_BITS:
        if (part->offered != PROPERTY_NOTHING)
            bounds.high = offered;
        break;
    }
    return bounds;
}

static bool part_lawful(const struct property *property, const struct property_part *part, const void *value,
                        const struct engine_capabilities *capabilities)
{
    struct property_bounds bounds = property_bounds(part, capabilities);
    UINT64 number = load((const char *)value + part->offset, property_part_size(property, part));

    if (part->range == PROPERTY_NODE)
        return number <= bounds.high && placement_node_exists((UINT16)number);
    return bounds.bits ? (number & ~bounds.high) == 0 : number >= bounds.low && number <= bounds.high;
}

bool property_check(const struct property *property, const void *value, UINT32 count,
                    const struct engine_capabilities *capabilities)
{
    for (UINT32 i = 0; i < count; i++)
        for (unsigned int n = 0; n < property->part_count; n++)
            if (!part_lawful(property, &property->parts[n], (const char *)value + (size_t)i * property->size,
                             capabilities))
                return false;
    return true;
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
    for (UINT64 rows = values->set_rows; rows; rows &= rows - 1) {
        const struct property *set = &table[__builtin_ctzll(rows)];

        if (!property_is_list(set) && set->offset < property->offset + property->size &&
            property->offset < set->offset + set->size)
            return true;
    }
    return false;
}

static void set_default(struct property_values *values, const struct property *property,
                        const struct engine_capabilities *capabilities)
{
    char *value = value_of(values, property);

    memset(value, 0, property->size);
    if (property->initial_offered != PROPERTY_NOTHING)
        memcpy(value, (const char *)capabilities + property->initial_offered, property->size);
    else
        memcpy(value, &property->initial,
               property->size < sizeof(property->initial) ? property->size : sizeof(property->initial));
    for (unsigned int i = 0; i < property->part_count; i++) {
        const struct property_part *part = &property->parts[i];

        if (part->range == PROPERTY_NUMBER && part->low == part->high)
            memcpy(value + part->offset, &part->low, property_part_size(property, part));
    }
}

void property_defaults(struct property_values *values, const struct engine_capabilities *capabilities)
{
    // Rows that share storage must not undo each other: decide first, write then.
    UINT64 keep = 0;

    for (unsigned int i = 0; i < ROWS; i++)
        if (property_is_list(&table[i]) || was_set(values, &table[i]))
            keep |= row_bit(&table[i]);
    for (unsigned int i = 0; i < ROWS; i++)
        if (!(keep & row_bit(&table[i])))
            set_default(values, &table[i], capabilities);
}

static void *list_of(const struct property_values *values, const struct property *property)
{
    void *list;

    memcpy(&list, (const char *)values + property->offset, sizeof(list));
    return list;
}

static UINT32 count_of(const struct property_values *values, const struct property *property)
{
    return property_is_list(property) ? (UINT32)load((const char *)values + property->count_offset, sizeof(UINT32)) : 1;
}

CHECKED static HRESULT set_list(struct property_values *values, const struct property *property,
                                const void *buffer, UINT32 size,
                                const struct engine_capabilities *capabilities, void **replaced)
{
    UINT32 count = size / property->size;
    void *list = NULL;

    if (count > PROPERTY_LIST_MAX || !property_check(property, buffer, count, capabilities))
        return E_INVALIDARG;
    if (count) {
        list = malloc(size);
        if (!list)
            return E_OUTOFMEMORY;
        memcpy(list, buffer, size);
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
        if (!property_check(property, buffer, 1, capabilities))
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
        .MiscEnableMsrRead = 1, .McUpdatePatchLevelMsrRead = 1,
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

        if (!(values->set_rows & row_bit(property)))
            continue;
        if (property_is_list(property))
            value = list_of(values, property);
        if (!property_check(property, value, count_of(values, property), &granted))
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
