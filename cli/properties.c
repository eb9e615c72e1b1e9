/* properties.c: the table of properties with an option, and setting them. */
#include "properties.h"

#include <inttypes.h>
#include <string.h>

static const char *const apic_words[] = {"xapic", "x2apic", NULL};
static const char *const action_words[] = {"default", "ignore", "exit", NULL};

#define CODE(property) .name = #property, .code = WHvPartitionPropertyCode##property
#define SIZE(member) .size = sizeof(((WHV_PARTITION_PROPERTY *)NULL)->member)
#define FLAG(member) .kind = PROPERTY_FLAG, SIZE(member), .least = 1, .most = 1

/* Features come last: what the engine has to offer depends on which it is, and that on all others. */
static const struct property_row rows[] = {
    {"cpu-reserve", CODE(CpuReserve), SIZE(CpuReserve), .most = 100, .sample = "1", .host = true,
     .value = "PERCENT", .help = "processor time that the host keeps free for it"},
    {"cpu-cap", CODE(CpuCap), SIZE(CpuCap), .least = 1, .most = 100, .sample = "50", .host = true,
     .value = "PERCENT", .help = "processor time that it has at most"},
    {"cpu-weight", CODE(CpuWeight), SIZE(CpuWeight), .least = 1, .most = 10000, .sample = "50", .host = true,
     .value = "N", .help = "its share where partitions compete, relative to theirs"},
    {"cpu-group", CODE(CpuGroupId), SIZE(CpuGroupId), .most = UINT64_MAX, .sample = "1", .host = true,
     .value = "ID", .help = "shares its limits with all partitions that have this number"},
    {"numa-node", CODE(PrimaryNumaNode), SIZE(PrimaryNumaNode), .most = UINT16_MAX, .sample = "0", .host = true,
     .value = "N", .help = "its memory and processors are on this node of the host"},
    {"processor-frequency-cap", CODE(ProcessorFrequencyCap), SIZE(ProcessorFrequencyCap), .most = UINT32_MAX,
     .sample = "1000", .host = true,
     .value = "MHZ", .help = "its processors run no faster; 0 for no limit"},
    {"disable-smt", CODE(DisableSmt), FLAG(DisableSmt), .host = true,
     .help = "its processors do not share a core with each other"},
    {"separate-security-domain", CODE(SeparateSecurityDomain), FLAG(SeparateSecurityDomain), .host = true,
     .help = "its processors do not share a core with anything else"},
    {"allow-device-assignment", CODE(AllowDeviceAssignment), FLAG(AllowDeviceAssignment),
     .help = "devices of the host could be given to it"},
    {"nested-virtualization", CODE(NestedVirtualization), FLAG(NestedVirtualization),
     .help = "the guest can run guests of its own"},
    {"local-apic-emulation-mode", CODE(LocalApicEmulationMode), SIZE(LocalApicEmulationMode),
     .kind = PROPERTY_WORD, .least = WHvX64LocalApicEmulationModeXApic, .most = WHvX64LocalApicEmulationModeX2Apic,
     .sample = "x2apic", .words = apic_words,
     .value = "MODE", .help = "xapic or x2apic (default: the best that the engine has)"},
    {"apic-remote-read-support", CODE(ApicRemoteReadSupport), FLAG(ApicRemoteRead),
     .help = "a local APIC can read another one's registers"},
    {"processor-clock-frequency", CODE(ProcessorClockFrequency), SIZE(ProcessorClockFrequency),
     .least = 1000000, .most = UINT64_C(1000000000000), .sample = "1000000000",
     .value = "HZ", .help = "the frequency of its time stamp counters"},
    {"interrupt-clock-frequency", CODE(InterruptClockFrequency), SIZE(InterruptClockFrequency),
     .least = 1000000, .most = UINT64_C(1000000000000), .sample = "100000000",
     .value = "HZ", .help = "the frequency of its local APIC timers"},
    {"physical-address-width", CODE(PhysicalAddressWidth), SIZE(PhysicalAddressWidth),
     .least = 32, .most = 52, .sample = "36",
     .value = "BITS", .help = "how many bits the address of its memory has"},
    {"processor-cl-flush-size", CODE(ProcessorClFlushSize), SIZE(ProcessorClFlushSize),
     .least = 1, .most = UINT8_MAX, .sample = "8",
     .value = "N", .help = "the length of its cache lines, in units of 8 bytes"},
    {"cpuid-result", CODE(CpuidResultList2), .kind = PROPERTY_CPUID, .sample = "0x40000000:eax=0",
     .value = "RESULT", .help = "LEAF[:SUBLEAF][@CPU]:REG=VALUE[/MASK]: what CPUID answers"},
    {"msr-action", CODE(MsrActionList), .kind = PROPERTY_MSR, .words = action_words, .sample = "0x8b:ignore",
     .value = "ACTION", .help = "MSR:ACTION or MSR:READ,WRITE, each default, ignore or exit"},
    {"unimplemented-msr-action", CODE(UnimplementedMsrAction), SIZE(UnimplementedMsrAction),
     .kind = PROPERTY_WORD, .most = WHvMsrActionExit, .sample = "ignore", .words = action_words,
     .value = "ACTION", .help = "default, ignore or exit, for MSRs that the processor lacks"},
    {"no-feature", CODE(ProcessorFeaturesBanks), .kind = PROPERTY_FEATURE, .sample = "rdseed",
     .value = "NAME", .help = "the processors do not have it; 'bulkhead info' lists the names"},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))
_Static_assert(ROWS <= PROPERTIES_MAX, "there is a value for each row");

const struct property_row *property_row(unsigned index)
{
    return index < ROWS ? &rows[index] : NULL;
}

bool property_is_number(const struct property_row *row)
{
    return row->kind == PROPERTY_NUMBER || row->kind == PROPERTY_FLAG || row->kind == PROPERTY_WORD;
}

static bool property_given(const struct properties *properties, unsigned row)
{
    return (properties->given >> row & 1) != 0;
}

void properties_put(struct properties *properties, WHV_PARTITION_PROPERTY_CODE code, uint64_t value)
{
    unsigned i = 0;

    while (rows[i].code != code) {
        i++;
    }
    properties->given |= UINT64_C(1) << i;
    properties->values[i] = value;
}

bool properties_value(const struct properties *properties, WHV_PARTITION_PROPERTY_CODE code, uint64_t *value)
{
    for (unsigned i = 0; i < ROWS; i++) {
        if (rows[i].code == code && property_given(properties, i)) {
            *value = properties->values[i];
            return true;
        }
    }
    return false;
}

void properties_override(struct properties *properties, const struct properties *more)
{
    for (unsigned i = 0; i < ROWS; i++) {
        if (rows[i].host && property_given(more, i)) {
            properties_put(properties, rows[i].code, more->values[i]);
        }
    }
}

struct properties properties_only(const struct properties *properties, unsigned index)
{
    struct properties only = *properties;

    only.given &= UINT64_C(1) << index;
    return only;
}

void properties_describe(const struct properties *properties, unsigned row, char text[PROPERTIES_TEXT])
{
    uint64_t value = properties->values[row];

    switch (rows[row].kind) {
    case PROPERTY_NUMBER:
        snprintf(text, PROPERTIES_TEXT, "--%s %" PRIu64, rows[row].option, value);
        break;
    case PROPERTY_WORD:
        snprintf(text, PROPERTIES_TEXT, "--%s %s", rows[row].option, rows[row].words[value - rows[row].least]);
        break;
    default:
        snprintf(text, PROPERTIES_TEXT, "--%s", rows[row].option);
        break;
    }
}

/* Features: where each word is. */
static const struct {
    const char *name;
    WHV_PARTITION_PROPERTY_CODE code;
    unsigned size, offset;
} feature_places[FEATURE_WORDS] = {
    [FEATURE_BANK0] = {CODE(ProcessorFeaturesBanks), SIZE(ProcessorFeaturesBanks),
                       offsetof(WHV_PROCESSOR_FEATURES_BANKS, Bank0)},
    [FEATURE_BANK1] = {CODE(ProcessorFeaturesBanks), SIZE(ProcessorFeaturesBanks),
                       offsetof(WHV_PROCESSOR_FEATURES_BANKS, Bank1)},
    [FEATURE_XSAVE] = {CODE(ProcessorXsaveFeatures), SIZE(ProcessorXsaveFeatures), 0},
    [FEATURE_PERFMON] = {CODE(ProcessorPerfmonFeatures), SIZE(ProcessorPerfmonFeatures), 0},
};

union property_buffer {
    WHV_PARTITION_PROPERTY property;
    uint8_t bytes[sizeof(WHV_PARTITION_PROPERTY)];
};

static HRESULT properties_get_features(WHV_PARTITION_HANDLE partition, enum feature_word word,
                                       union property_buffer *buffer)
{
    UINT32 written = 0;

    memset(buffer, 0, sizeof(*buffer));
    return WHvGetPartitionProperty(partition, feature_places[word].code, buffer, sizeof(*buffer), &written);
}

bool properties_read_features(WHV_PARTITION_HANDLE partition, enum feature_word word, uint64_t *features)
{
    union property_buffer buffer;

    if (FAILED(properties_get_features(partition, word, &buffer))) {
        return false;
    }
    memcpy(features, buffer.bytes + feature_places[word].offset, sizeof(*features));
    return true;
}

bool properties_read(WHV_PARTITION_HANDLE partition, unsigned row, uint64_t *value)
{
    union property_buffer buffer = {0};
    UINT32 written = 0;

    *value = 0;
    if (!property_is_number(&rows[row]) ||
        FAILED(WHvGetPartitionProperty(partition, rows[row].code, &buffer, sizeof(buffer), &written))) {
        return false;
    }
    memcpy(value, buffer.bytes, rows[row].size);
    return true;
}

/* What is left is set even where nothing has changed: the engine may still turn out to be another. */
static HRESULT properties_remove_features(const struct properties *properties, WHV_PARTITION_HANDLE partition)
{
    HRESULT hr = S_OK;

    for (unsigned i = 0; i < FEATURE_WORDS && SUCCEEDED(hr); i++) {
        union property_buffer buffer;
        uint64_t features;

        if (properties->removed[i] == 0) {
            continue;
        }
        hr = properties_get_features(partition, (enum feature_word)i, &buffer);
        if (FAILED(hr)) {
            break;
        }
        memcpy(&features, buffer.bytes + feature_places[i].offset, sizeof(features));
        features &= ~properties->removed[i];
        memcpy(buffer.bytes + feature_places[i].offset, &features, sizeof(features));
        hr = WHvSetPartitionProperty(partition, feature_places[i].code, &buffer, feature_places[i].size);
    }
    return hr;
}

static HRESULT properties_set_row(const struct properties *properties, unsigned row, WHV_PARTITION_HANDLE partition)
{
    uint8_t bytes[sizeof(uint64_t)];

    switch (rows[row].kind) {
    case PROPERTY_CPUID:
        return WHvSetPartitionProperty(partition, rows[row].code, properties->cpuid,
                                       properties->cpuid_count * (UINT32)sizeof(properties->cpuid[0]));
    case PROPERTY_MSR:
        return WHvSetPartitionProperty(partition, rows[row].code, properties->msrs,
                                       properties->msr_count * (UINT32)sizeof(properties->msrs[0]));
    case PROPERTY_FEATURE:
        return properties_remove_features(properties, partition);
    default:
        memcpy(bytes, &properties->values[row], sizeof(bytes));
        return WHvSetPartitionProperty(partition, rows[row].code, bytes, rows[row].size);
    }
}

bool properties_set(const struct properties *properties, WHV_PARTITION_HANDLE partition, HRESULT *hr,
                    struct error *err)
{
    char text[PROPERTIES_TEXT];

    for (unsigned i = 0; i < ROWS; i++) {
        if (!property_given(properties, i)) {
            continue;
        }
        *hr = properties_set_row(properties, i, partition);
        if (FAILED(*hr)) {
            properties_describe(properties, i, text);
            return error_set(err, EXIT_FAILED,
                             "%s: no engine that may be used gives a partition this %s: WHvSetPartitionProperty failed "
                             "with 0x%08x",
                             text, rows[i].name, (unsigned)*hr);
        }
    }
    return true;
}
