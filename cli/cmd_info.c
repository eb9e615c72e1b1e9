/* cmd_info.c: `bulkhead info`: the engines, and what a partition can have. */
#include "commands.h"
#include "partition.h"

#include <bulkhead/bulkhead.h>
#include <WinHvPlatform.h>

#include <json-c/json.h>

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define HINT "try 'bulkhead info --help'"

#define VMX(name) {WHvCapabilityCode##name, #name, 8, 0, BITS_NONE}

/* A capability is shown as a number, OFFSET bytes into what the call gives, with the names of its bits where it has
 * some. */
static const struct info_capability {
    WHV_CAPABILITY_CODE code;
    const char *name;
    unsigned bytes;
    unsigned offset;
    enum feature_word bits;
} capabilities[] = {
    {WHvCapabilityCodeHypervisorPresent, "HypervisorPresent", 4, 0, BITS_NONE},
    {WHvCapabilityCodeFeatures, "Features", 8, 0, BITS_CAPABILITIES},
    {WHvCapabilityCodeExtendedVmExits, "ExtendedVmExits", 8, 0, BITS_EXITS},
    {WHvCapabilityCodeExceptionExitBitmap, "ExceptionExitBitmap", 8, 0, BITS_NONE},
    {WHvCapabilityCodeX64MsrExitBitmap, "X64MsrExitBitmap", 8, 0, BITS_MSR_EXITS},
    {WHvCapabilityCodeGpaRangePopulateFlags, "GpaRangePopulateFlags", 4, 0, BITS_POPULATE},
    {WHvCapabilityCodeSchedulerFeatures, "SchedulerFeatures", 8, 0, BITS_SCHEDULER},
    {WHvCapabilityCodeProcessorVendor, "ProcessorVendor", 4, 0, BITS_NONE},
    {WHvCapabilityCodeProcessorFeatures, "ProcessorFeatures", 8, 0, FEATURE_BANK0},
    {WHvCapabilityCodeProcessorFeaturesBanks, "ProcessorFeaturesBank1", 8, 16, FEATURE_BANK1},
    {WHvCapabilityCodeProcessorClFlushSize, "ProcessorClFlushSize", 1, 0, BITS_NONE},
    {WHvCapabilityCodeProcessorXsaveFeatures, "ProcessorXsaveFeatures", 8, 0, FEATURE_XSAVE},
    {WHvCapabilityCodeProcessorClockFrequency, "ProcessorClockFrequency", 8, 0, BITS_NONE},
    {WHvCapabilityCodeInterruptClockFrequency, "InterruptClockFrequency", 8, 0, BITS_NONE},
    {WHvCapabilityCodeProcessorFrequencyCap, "ProcessorFrequencyCap", 4, 0, BITS_NONE},
    {WHvCapabilityCodeProcessorFrequencyCap, "HighestFrequencyMhz", 4, 4, BITS_NONE},
    {WHvCapabilityCodeProcessorFrequencyCap, "NominalFrequencyMhz", 4, 8, BITS_NONE},
    {WHvCapabilityCodeProcessorFrequencyCap, "LowestFrequencyMhz", 4, 12, BITS_NONE},
    {WHvCapabilityCodeProcessorFrequencyCap, "FrequencyStepMhz", 4, 16, BITS_NONE},
    {WHvCapabilityCodeSyntheticProcessorFeaturesBanks, "SyntheticProcessorFeaturesBank0", 8, 8, BITS_SYNTHETIC},
    {WHvCapabilityCodeProcessorPerfmonFeatures, "ProcessorPerfmonFeatures", 8, 0, FEATURE_PERFMON},
    {WHvCapabilityCodePhysicalAddressWidth, "PhysicalAddressWidth", 4, 0, BITS_NONE},
    VMX(VmxBasic),
    VMX(VmxPinbasedCtls),
    VMX(VmxProcbasedCtls),
    VMX(VmxExitCtls),
    VMX(VmxEntryCtls),
    VMX(VmxMisc),
    VMX(VmxCr0Fixed0),
    VMX(VmxCr0Fixed1),
    VMX(VmxCr4Fixed0),
    VMX(VmxCr4Fixed1),
    VMX(VmxVmcsEnum),
    VMX(VmxProcbasedCtls2),
    VMX(VmxEptVpidCap),
    VMX(VmxTruePinbasedCtls),
    VMX(VmxTrueProcbasedCtls),
    VMX(VmxTrueExitCtls),
    VMX(VmxTrueEntryCtls),
};
#define CAPABILITIES (sizeof(capabilities) / sizeof(capabilities[0]))

/* False with the call's HRESULT if the capability is not known. */
static bool info_read(const struct info_capability *capability, uint64_t *value, HRESULT *hr)
{
    union {
        WHV_CAPABILITY capability;
        uint8_t bytes[64];
    } buffer = {0};
    UINT32 written = 0;

    *value = 0;
    *hr = WHvGetCapability(capability->code, &buffer.capability, sizeof(buffer.capability), &written);
    if (FAILED(*hr)) {
        return false;
    }
    memcpy(value, buffer.bytes + capability->offset, capability->bytes);
    return true;
}

/* Which engine a partition with default properties gets, and why: the environment may name another than the
 * automatic choice, or one that is not there. */
static void info_read_choice(char *report, size_t size)
{
    if (FAILED(BulkheadGetEngineReport(NULL, report, (UINT32)size, NULL))) {
        report[0] = '\0';
    }
}

static void info_read_policy(char *report, size_t size)
{
    if (FAILED(BulkheadGetHostPolicyReport(report, (UINT32)size, NULL))) {
        report[0] = '\0';
    }
}

static bool info_chosen(const BULKHEAD_ENGINE_INFO *engine, const char *report)
{
    char line[sizeof(engine->Name) + sizeof("engine: \n")];

    snprintf(line, sizeof(line), "engine: %s\n", engine->Name);
    return strncmp(report, line, strlen(line)) == 0;
}

/* Features by the names that options take, other bits by the header's. False if the bit has no name. */
static bool info_bit_name(enum feature_word word, unsigned bit, char name[FEATURE_NAME])
{
    const char *field = feature_field(word, bit);

    if (word < FEATURE_WORDS) {
        return feature_name(word, bit, name);
    }
    snprintf(name, FEATURE_NAME, "%s", field != NULL ? field : "");
    return field != NULL;
}

static void info_print_bits(uint64_t value, enum feature_word word)
{
    char name[FEATURE_NAME];

    for (unsigned i = 0; i < 64; i++) {
        if ((value >> i & 1) != 0 && info_bit_name(word, i, name)) {
            printf(" %s", name);
        }
    }
}

static void info_print_capabilities(void)
{
    printf("\nCapabilities:\n");
    for (size_t i = 0; i < CAPABILITIES; i++) {
        uint64_t value;
        HRESULT hr;

        if (info_read(&capabilities[i], &value, &hr)) {
            printf("  %-32s 0x%" PRIx64, capabilities[i].name, value);
            info_print_bits(value, capabilities[i].bits);
            putchar('\n');
        } else {
            printf("  %-32s not available (0x%08x)\n", capabilities[i].name, (unsigned)hr);
        }
    }
}

/* What has an option, and whether a partition with it could be set up here. */
static void info_print_properties(void)
{
    const struct property_row *row;

    printf("\nProperties with an option of 'bulkhead run':\n");
    for (unsigned i = 0; (row = property_row(i)) != NULL; i++) {
        HRESULT hr;

        printf("  %-32s --%s", row->name, row->option);
        if (partition_can_have(i, &hr)) {
            printf(": yes\n");
        } else {
            printf(": no, %s is refused with 0x%08x\n", row->sample != NULL ? row->sample : "it", (unsigned)hr);
        }
    }
}

static void info_print(void)
{
    BULKHEAD_ENGINE_INFO engine = {.Size = sizeof(engine)};
    char report[2048];

    info_read_choice(report, sizeof(report));
    printf("Engines, the fastest first:\n");
    for (UINT32 i = 0; SUCCEEDED(BulkheadGetEngineInfo(i, &engine)); i++) {
        printf("  %-6s %-10s %s\n", engine.Name,
               info_chosen(&engine, report) ? "chosen"
               : engine.Usable              ? "usable"
                                            : "not usable",
               engine.Reason);
        engine.Size = sizeof(engine);
    }
    printf("\nA new partition's engine:\n");
    for (char *line = strtok(report, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        printf("  %s\n", line);
    }
    info_read_policy(report, sizeof(report));
    printf("\nProcessor time:\n");
    for (char *line = strtok(report, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        printf("  %s\n", line);
    }
    info_print_capabilities();
    info_print_properties();
}

static struct json_object *info_json_engines(const char *report)
{
    struct json_object *engines = json_object_new_array();
    BULKHEAD_ENGINE_INFO info = {.Size = sizeof(info)};

    for (UINT32 i = 0; SUCCEEDED(BulkheadGetEngineInfo(i, &info)); i++) {
        struct json_object *engine = json_object_new_object();

        json_object_object_add(engine, "name", json_object_new_string(info.Name));
        json_object_object_add(engine, "usable", json_object_new_boolean(info.Usable));
        json_object_object_add(engine, "automatic", json_object_new_boolean(info.ChosenByAuto));
        json_object_object_add(engine, "chosen", json_object_new_boolean(info_chosen(&info, report)));
        json_object_object_add(engine, "reason", json_object_new_string(info.Reason));
        json_object_array_add(engines, engine);
        info.Size = sizeof(info);
    }
    return engines;
}

static struct json_object *info_json_capability(const struct info_capability *capability)
{
    struct json_object *object = json_object_new_object();
    uint64_t value;
    HRESULT hr;

    if (!info_read(capability, &value, &hr)) {
        json_object_object_add(object, "value", NULL);
        json_object_object_add(object, "hresult", json_object_new_uint64((uint32_t)hr));
        return object;
    }
    json_object_object_add(object, "value", json_object_new_uint64(value));
    if (capability->bits != BITS_NONE) {
        struct json_object *names = json_object_new_array();
        char name[FEATURE_NAME];

        for (unsigned i = 0; i < 64; i++) {
            if ((value >> i & 1) != 0 && info_bit_name(capability->bits, i, name)) {
                json_object_array_add(names, json_object_new_string(name));
            }
        }
        json_object_object_add(object, "names", names);
    }
    return object;
}

static struct json_object *info_json_properties(void)
{
    struct json_object *properties = json_object_new_object();
    const struct property_row *row;

    for (unsigned i = 0; (row = property_row(i)) != NULL; i++) {
        struct json_object *property = json_object_new_object();
        HRESULT hr = S_OK;
        bool supported = partition_can_have(i, &hr);

        json_object_object_add(property, "option", json_object_new_string(row->option));
        json_object_object_add(property, "supported", json_object_new_boolean(supported));
        json_object_object_add(property, "hresult", json_object_new_uint64((uint32_t)hr));
        json_object_object_add(properties, row->name, property);
    }
    return properties;
}

static void info_print_json(void)
{
    struct json_object *root = json_object_new_object();
    struct json_object *list = json_object_new_object();
    char report[2048];

    info_read_choice(report, sizeof(report));
    for (size_t i = 0; i < CAPABILITIES; i++) {
        json_object_object_add(list, capabilities[i].name, info_json_capability(&capabilities[i]));
    }
    json_object_object_add(root, "version", json_object_new_string(BulkheadVersion()));
    json_object_object_add(root, "engines", info_json_engines(report));
    json_object_object_add(root, "choice", json_object_new_string(report));
    info_read_policy(report, sizeof(report));
    json_object_object_add(root, "policy", json_object_new_string(report));
    json_object_object_add(root, "capabilities", list);
    json_object_object_add(root, "properties", info_json_properties());
    puts(json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(root);
}

bool cmd_info(int argc, char **argv, int *code, struct error *err)
{
    static const struct option long_options[] = {
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    bool json = false, help = false;
    int option;

    optind = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        switch (option) {
        case 'j':
            json = true;
            break;
        case 'h':
            help = true;
            break;
        default:
            return error_set(err, EXIT_USAGE, "unknown option '%s'; " HINT, argv[optind - 1]);
        }
    }
    if (optind < argc) {
        return error_set(err, EXIT_USAGE, "'%s' is not an option; " HINT, argv[optind]);
    }
    if (help) {
        printf("Usage: bulkhead info [--json]\n\n"
               "Shows the engines with the reason why each is or is not chosen, by which way the host gives\n"
               "processor time, the capabilities that a partition would have, and which of the properties\n"
               "that 'bulkhead run' has options for can be had here. --json prints the same as one JSON object.\n");
    } else if (json) {
        info_print_json();
    } else {
        info_print();
    }
    *code = EXIT_OK;
    return true;
}
