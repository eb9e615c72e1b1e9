/* partition.c: setting up a partition, and telling what of it was refused. */
#include "partition.h"

#include <bulkhead/bulkhead.h>

#include <stdio.h>
#include <string.h>

/* How far a partition has come when something failed. */
struct attempt {
    WHV_PARTITION_HANDLE partition;
    uint32_t apic_mode;
    const char *call; /* that failed */
    HRESULT hr;
};

/* ": " and why the library has found no engine, in the words of its report; or nothing if it has. */
static void partition_explain(WHV_PARTITION_HANDLE partition, char *why, size_t size)
{
    static const char none[] = "engine: none\n";
    char report[2048];
    size_t used = 0;

    why[0] = '\0';
    if (FAILED(BulkheadGetEngineReport(partition, report, sizeof(report), NULL)) ||
        strncmp(report, none, strlen(none)) != 0) {
        return;
    }
    strtok(report, "\n");
    for (char *line; (line = strtok(NULL, "\n")) != NULL && used < size;) {
        used += (size_t)snprintf(why + used, size - used, "; %s", line);
    }
}

static bool partition_no_engine(const struct attempt *attempt, struct error *err)
{
    char why[768];

    partition_explain(attempt->partition, why, sizeof(why));
    return error_set(err, EXIT_FAILED, "no engine can run this partition: %s failed with 0x%08x%s", attempt->call,
                     (unsigned)attempt->hr, why);
}

static bool partition_try_number(struct attempt *attempt, WHV_PARTITION_PROPERTY_CODE code, uint32_t value)
{
    attempt->call = "WHvSetPartitionProperty";
    attempt->hr = WHvSetPartitionProperty(attempt->partition, code, &value, sizeof(value));
    return SUCCEEDED(attempt->hr);
}

static bool partition_set_number(struct attempt *attempt, WHV_PARTITION_PROPERTY_CODE code, uint32_t value,
                                 const char *what, struct error *err)
{
    if (partition_try_number(attempt, code, value)) {
        return true;
    }
    if (attempt->hr == WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG) {
        return partition_no_engine(attempt, err);
    }
    return error_set(err, EXIT_FAILED, "the engine refuses %s: WHvSetPartitionProperty failed with 0x%08x", what,
                     (unsigned)attempt->hr);
}

/* Only the name of the mode differs for a guest that uses xAPIC; an engine may have just one of them. */
static bool partition_set_apic_mode(struct attempt *attempt, const struct properties *properties, struct error *err)
{
    const WHV_PARTITION_PROPERTY_CODE code = WHvPartitionPropertyCodeLocalApicEmulationMode;
    uint64_t wanted;

    if (properties_value(properties, code, &wanted)) {
        attempt->apic_mode = (uint32_t)wanted; /* it is set with the others */
        return true;
    }
    attempt->apic_mode = WHvX64LocalApicEmulationModeX2Apic;
    if (partition_try_number(attempt, code, attempt->apic_mode)) {
        return true;
    }
    attempt->apic_mode = WHvX64LocalApicEmulationModeXApic;
    return partition_set_number(attempt, code, attempt->apic_mode, "a local APIC", err);
}

static bool partition_make(struct attempt *attempt, const struct partition_config *config, struct error *err)
{
    char count[32];
    HRESULT hr = WHvCreatePartition(&attempt->partition);

    if (FAILED(hr)) {
        attempt->partition = NULL;
        attempt->hr = hr;
        return error_hresult(err, "WHvCreatePartition", (unsigned)hr);
    }
    if (config->engine != NULL) {
        attempt->hr = hr = BulkheadSetEngine(attempt->partition, config->engine);
        if (FAILED(hr)) {
            return error_set(err, EXIT_FAILED,
                             "--engine %s: this build has no such engine (BulkheadSetEngine: 0x%08x); 'bulkhead info' "
                             "lists them",
                             config->engine, (unsigned)hr);
        }
    }
    snprintf(count, sizeof(count), "%u processors", config->cpus);
    return partition_set_number(attempt, WHvPartitionPropertyCodeProcessorCount, config->cpus, count, err) &&
           partition_set_apic_mode(attempt, &config->properties, err) &&
           properties_set(&config->properties, attempt->partition, &attempt->hr, err);
}

/* Whether it can be set up with these properties; no partition is left. */
static bool partition_try(const struct partition_config *config, HRESULT *hr)
{
    struct attempt attempt = {0};
    struct error unused;
    bool good = partition_make(&attempt, config, &unused);

    if (good) {
        attempt.hr = WHvSetupPartition(attempt.partition);
        good = SUCCEEDED(attempt.hr);
    }
    *hr = attempt.hr;
    if (attempt.partition != NULL) {
        (void)!WHvDeletePartition(attempt.partition);
    }
    return good;
}

/* The set-up was refused, which says nothing of the reason: it is the property that is refused alone, too, as long as a
 * partition without any is not. */
static bool partition_refused(const struct partition_config *config, const struct attempt *attempt, struct error *err)
{
    struct partition_config other = *config;
    char option[PROPERTIES_TEXT] = "its options taken together", why[768];
    HRESULT unused;

    other.properties.given = 0;
    if (config->properties.given == 0 || !partition_try(&other, &unused)) {
        return partition_no_engine(attempt, err);
    }
    for (unsigned i = 0; property_row(i) != NULL; i++) {
        other.properties = properties_only(&config->properties, i);
        if (other.properties.given != 0 && !partition_try(&other, &unused)) {
            properties_describe(&config->properties, i, option);
            break;
        }
    }
    partition_explain(attempt->partition, why, sizeof(why));
    return error_set(err, EXIT_FAILED, "the partition cannot be set up with %s: WHvSetupPartition failed with 0x%08x%s",
                     option, (unsigned)attempt->hr, why);
}

bool partition_set_up(const struct partition_config *config, WHV_PARTITION_HANDLE *partition, uint32_t *apic_mode,
                      struct error *err)
{
    struct attempt attempt = {0};
    bool good = partition_make(&attempt, config, err);

    *partition = attempt.partition;
    *apic_mode = attempt.apic_mode;
    if (!good) {
        return false;
    }
    attempt.call = "WHvSetupPartition";
    attempt.hr = WHvSetupPartition(attempt.partition);
    return SUCCEEDED(attempt.hr) || partition_refused(config, &attempt, err);
}

bool partition_can_have(unsigned index, HRESULT *hr)
{
    struct partition_config config = {.cpus = 1};
    struct error err;

    *hr = E_INVALIDARG;
    return properties_parse(&config.properties, index, property_row(index)->sample, &err) && partition_try(&config, hr);
}
