/* cmd_info.c: `bulkhead info`: the engines, and what a partition can have. */
#include "commands.h"

#include <bulkhead/bulkhead.h>
#include <WinHvPlatform.h>

#include <json-c/json.h>

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define HINT "try 'bulkhead info --help'"

static const char *const feature_bits[] = {
    "PartialUnmap",       "LocalApicEmulation", "Xsave",       "DirtyPageTracking",
    "SpeculationControl", "ApicRemoteRead",     "IdleSuspend", "VirtualPciDeviceSupport",
    "IommuSupport",       "VpHotAddRemove",     NULL};

static const char *const exit_bits[] = {"X64CpuidExit",
                                        "X64MsrExit",
                                        "ExceptionExit",
                                        "X64RdtscExit",
                                        "X64ApicSmiExitTrap",
                                        "HypercallExit",
                                        "X64ApicInitSipiExitTrap",
                                        "X64ApicWriteLint0ExitTrap",
                                        "X64ApicWriteLint1ExitTrap",
                                        "X64ApicWriteSvrExitTrap",
                                        "UnknownSynicConnection",
                                        "RetargetUnknownVpciDevice",
                                        "X64ApicWriteLdrExitTrap",
                                        "X64ApicWriteDfrExitTrap",
                                        "GpaAccessFaultExit",
                                        NULL};

static const char *const msr_bits[] = {"UnhandledMsrs",
                                       "TscMsrWrite",
                                       "TscMsrRead",
                                       "ApicBaseMsrWrite",
                                       "MiscEnableMsrRead",
                                       "McUpdatePatchLevelMsrRead",
                                       NULL};

static const char *const scheduler_bits[] = {"CpuReserve", "CpuCap",     "CpuWeight",
                                             "CpuGroupId", "DisableSmt", NULL};

/* A capability is shown as a number, OFFSET bytes into what the call gives, with the names of its bits where
 * it has some. */
static const struct info_capability {
    WHV_CAPABILITY_CODE code;
    const char *name;
    unsigned bytes;
    unsigned offset;
    const char *const *bits;
} capabilities[] = {
    {WHvCapabilityCodeHypervisorPresent, "HypervisorPresent", 4, 0, NULL},
    {WHvCapabilityCodeFeatures, "Features", 8, 0, feature_bits},
    {WHvCapabilityCodeExtendedVmExits, "ExtendedVmExits", 8, 0, exit_bits},
    {WHvCapabilityCodeExceptionExitBitmap, "ExceptionExitBitmap", 8, 0, NULL},
    {WHvCapabilityCodeX64MsrExitBitmap, "X64MsrExitBitmap", 8, 0, msr_bits},
    {WHvCapabilityCodeGpaRangePopulateFlags, "GpaRangePopulateFlags", 4, 0, NULL},
    {WHvCapabilityCodeSchedulerFeatures, "SchedulerFeatures", 8, 0, scheduler_bits},
    {WHvCapabilityCodeProcessorVendor, "ProcessorVendor", 4, 0, NULL},
    {WHvCapabilityCodeProcessorFeatures, "ProcessorFeatures", 8, 0, NULL},
    {WHvCapabilityCodeProcessorFeaturesBanks, "ProcessorFeaturesBank1", 8, 16, NULL},
    {WHvCapabilityCodeProcessorClFlushSize, "ProcessorClFlushSize", 1, 0, NULL},
    {WHvCapabilityCodeProcessorXsaveFeatures, "ProcessorXsaveFeatures", 8, 0, NULL},
    {WHvCapabilityCodeProcessorClockFrequency, "ProcessorClockFrequency", 8, 0, NULL},
    {WHvCapabilityCodeInterruptClockFrequency, "InterruptClockFrequency", 8, 0, NULL},
    {WHvCapabilityCodeProcessorFrequencyCap, "ProcessorFrequencyCap", 4, 0, NULL},
    {WHvCapabilityCodeSyntheticProcessorFeaturesBanks, "SyntheticProcessorFeaturesBank0", 8, 8, NULL},
    {WHvCapabilityCodeProcessorPerfmonFeatures, "ProcessorPerfmonFeatures", 8, 0, NULL},
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

static bool info_chosen(const BULKHEAD_ENGINE_INFO *engine, const char *report)
{
    char line[sizeof(engine->Name) + sizeof("engine: \n")];

    snprintf(line, sizeof(line), "engine: %s\n", engine->Name);
    return strncmp(report, line, strlen(line)) == 0;
}

static void info_print_bits(uint64_t value, const char *const *bits)
{
    for (unsigned i = 0; bits != NULL && bits[i] != NULL; i++) {
        if ((value >> i & 1) != 0) {
            printf(" %s", bits[i]);
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
    if (capability->bits != NULL) {
        struct json_object *names = json_object_new_array();

        for (unsigned i = 0; capability->bits[i] != NULL; i++) {
            if ((value >> i & 1) != 0) {
                json_object_array_add(names, json_object_new_string(capability->bits[i]));
            }
        }
        json_object_object_add(object, "names", names);
    }
    return object;
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
    json_object_object_add(root, "capabilities", list);
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
               "Shows the engines with the reason why each is or is not chosen, and the capabilities that a\n"
               "partition would have. --json prints the same as one JSON object.\n");
    } else if (json) {
        info_print_json();
    } else {
        info_print();
    }
    *code = EXIT_OK;
    return true;
}
