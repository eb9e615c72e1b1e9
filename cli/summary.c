/* summary.c: collecting and printing the figures of a run. */
#include "summary.h"

#include <json-c/json.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static const char *summary_end_name(enum machine_end_kind kind)
{
    switch (kind) {
    case MACHINE_POWER_OFF:
        return "power-off";
    case MACHINE_RESET:
        return "reset";
    case MACHINE_DEBUG_EXIT:
        return "debug-exit";
    case MACHINE_USER:
        return "user";
    case MACHINE_TIMEOUT:
        return "timeout";
    case MACHINE_SIGNAL:
        return "signal";
    case MACHINE_GUEST_FAULT:
        return "guest-fault";
    case MACHINE_HOST_ERROR:
        return "host-error";
    case MACHINE_SAVED:
        return "saved";
    case MACHINE_MOVED:
        return "moved";
    case MACHINE_RUNNING:
        break;
    }
    return "not-ended";
}

static void summary_collect_properties(struct summary *summary, WHV_PARTITION_HANDLE partition)
{
    for (unsigned i = 0; property_row(i) != NULL; i++) {
        summary->property_known[i] = properties_read(partition, i, &summary->properties[i]);
    }
    for (unsigned i = 0; i < FEATURE_WORDS; i++) {
        summary->features_known[i] = properties_read_features(partition, (enum feature_word)i, &summary->features[i]);
    }
}

void summary_collect(struct summary *summary, const struct machine *machine, double seconds)
{
    UINT32 written = 0;

    memset(summary, 0, sizeof(*summary));
    summary->end = machine->end;
    summary->seconds = seconds;
    summary->cpus = machine->config.cpus;
    for (unsigned i = 0; i < summary->cpus; i++) {
        summary->cpu[i].counted = machine->vcpus[i].counted;
        summary->cpu[i].instructions = machine->vcpus[i].instructions;
        memcpy(summary->cpu[i].exits, machine->vcpus[i].exits, sizeof(summary->cpu[i].exits));
    }
    machine_engine(machine, summary->engine);
    summary->memory_size = machine->memory.low_size + machine->memory.high_size;
    summary->memory_resident = memory_resident(&machine->memory);
    summary->pages_known = SUCCEEDED(WHvGetPartitionCounters(
        machine->partition, WHvPartitionCounterSetMemory, &summary->pages, sizeof(summary->pages), &written));
    summary_collect_properties(summary, machine->partition);
}

/* The sum over all processors; false if an engine does not count. */
static bool summary_instructions(const struct summary *summary, uint64_t *total)
{
    *total = 0;
    for (unsigned i = 0; i < summary->cpus; i++) {
        if (!summary->cpu[i].counted) {
            return false;
        }
        *total += summary->cpu[i].instructions;
    }
    return true;
}

static uint64_t summary_exits(const struct summary *summary, unsigned slot)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < summary->cpus; i++) {
        total += summary->cpu[i].exits[slot];
    }
    return total;
}

static void summary_print_instructions(const struct summary *summary, FILE *to)
{
    uint64_t total;

    if (!summary_instructions(summary, &total)) {
        fprintf(to, "  instructions  not counted by this engine\n");
        return;
    }
    fprintf(to, "  instructions  %" PRIu64 " (%.1f million/s)", total,
            summary->seconds > 0 ? (double)total / summary->seconds / 1e6 : 0.0);
    for (unsigned i = 0; summary->cpus > 1 && i < summary->cpus; i++) {
        fprintf(to, "%s%" PRIu64, i == 0 ? "; by processor: " : ", ", summary->cpu[i].instructions);
    }
    fputc('\n', to);
}

static void summary_print_exits(const struct summary *summary, FILE *to)
{
    uint64_t total = 0;

    for (unsigned slot = 0; slot < VCPU_EXIT_KINDS; slot++) {
        total += summary_exits(summary, slot);
    }
    fprintf(to, "  exits         %" PRIu64, total);
    const char *separator = ": ";

    for (unsigned slot = 0; slot < VCPU_EXIT_KINDS; slot++) {
        uint64_t count = summary_exits(summary, slot);

        if (count > 0) {
            fprintf(to, "%s%s %" PRIu64, separator, vcpu_exit_name(slot), count);
            separator = ", ";
        }
    }
    fputc('\n', to);
}

void summary_print(const struct summary *summary, FILE *to)
{
    fprintf(to, "  engine        %s, %u processor%s\n", summary->engine, summary->cpus,
            summary->cpus == 1 ? "" : "s");
    fprintf(to, "  wall time     %.3f s\n", summary->seconds);
    summary_print_instructions(summary, to);
    summary_print_exits(summary, to);
    fprintf(to, "  memory        %" PRIu64 " MiB, of which the host holds %" PRIu64 " MiB",
            (uint64_t)(summary->memory_size / MEMORY_MIB), (uint64_t)(summary->memory_resident / MEMORY_MIB));
    if (summary->pages_known) {
        fprintf(to, "; mapped pages: %" PRIu64 " of 4K, %" PRIu64 " of 2M, %" PRIu64 " of 1G",
                (uint64_t)summary->pages.Mapped4KPageCount, (uint64_t)summary->pages.Mapped2MPageCount,
                (uint64_t)summary->pages.Mapped1GPageCount);
    }
    fputc('\n', to);
}

static struct json_object *summary_json_count(bool known, uint64_t count)
{
    return known ? json_object_new_uint64(count) : NULL;
}

static struct json_object *summary_json_exits(const struct summary *summary)
{
    struct json_object *exits = json_object_new_object();

    for (unsigned slot = 0; slot < VCPU_EXIT_KINDS; slot++) {
        if (vcpu_exit_name(slot) != NULL) {
            json_object_object_add(exits, vcpu_exit_name(slot),
                                   json_object_new_uint64(summary_exits(summary, slot)));
        }
    }
    return exits;
}

static struct json_object *summary_json_memory(const struct summary *summary)
{
    struct json_object *memory = json_object_new_object();
    bool known = summary->pages_known;

    json_object_object_add(memory, "bytes", json_object_new_uint64(summary->memory_size));
    json_object_object_add(memory, "resident_bytes", json_object_new_uint64(summary->memory_resident));
    json_object_object_add(memory, "mapped_4k_pages",
                           summary_json_count(known, summary->pages.Mapped4KPageCount));
    json_object_object_add(memory, "mapped_2m_pages",
                           summary_json_count(known, summary->pages.Mapped2MPageCount));
    json_object_object_add(memory, "mapped_1g_pages",
                           summary_json_count(known, summary->pages.Mapped1GPageCount));
    return memory;
}

/* Numbers by the names of the properties; what could not be read is null. */
static struct json_object *summary_json_properties(const struct summary *summary)
{
    struct json_object *properties = json_object_new_object();
    const struct property_row *row;

    for (unsigned i = 0; (row = property_row(i)) != NULL; i++) {
        if (property_is_number(row)) {
            json_object_object_add(properties, row->name,
                                   summary_json_count(summary->property_known[i], summary->properties[i]));
        }
    }
    return properties;
}

/* The names of all that the processors have, as --no-feature takes them. */
static struct json_object *summary_json_features(const struct summary *summary)
{
    struct json_object *features = json_object_new_array();
    char name[FEATURE_NAME];

    for (unsigned i = 0; i < FEATURE_WORDS; i++) {
        for (unsigned bit = 0; summary->features_known[i] && bit < 64; bit++) {
            if ((summary->features[i] >> bit & 1) != 0 && feature_name((enum feature_word)i, bit, name)) {
                json_object_array_add(features, json_object_new_string(name));
            }
        }
    }
    return features;
}

static struct json_object *summary_json(const struct summary *summary)
{
    struct json_object *root = json_object_new_object();
    struct json_object *processors = json_object_new_array();
    uint64_t total;
    bool counted = summary_instructions(summary, &total);

    for (unsigned i = 0; i < summary->cpus; i++) {
        struct json_object *cpu = json_object_new_object();

        json_object_object_add(cpu, "instructions",
                               summary_json_count(summary->cpu[i].counted, summary->cpu[i].instructions));
        json_object_array_add(processors, cpu);
    }
    json_object_object_add(root, "end", json_object_new_string(summary_end_name(summary->end.kind)));
    json_object_object_add(root, "message", json_object_new_string(summary->end.text));
    json_object_object_add(root, "exit_code", json_object_new_int(summary->end.code));
    json_object_object_add(root, "engine", json_object_new_string(summary->engine));
    json_object_object_add(root, "wall_seconds", json_object_new_double(summary->seconds));
    json_object_object_add(root, "instructions", summary_json_count(counted, total));
    json_object_object_add(
        root, "instructions_per_second",
        counted && summary->seconds > 0 ? json_object_new_double((double)total / summary->seconds) : NULL);
    json_object_object_add(root, "exits", summary_json_exits(summary));
    json_object_object_add(root, "processors", processors);
    json_object_object_add(root, "memory", summary_json_memory(summary));
    json_object_object_add(root, "properties", summary_json_properties(summary));
    json_object_object_add(root, "features", summary_json_features(summary));
    return root;
}

bool summary_write_json(const struct summary *summary, int fd, const char *name, struct error *err)
{
    struct json_object *root = summary_json(summary);
    const char *text =
        json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
    bool good = text != NULL && dprintf(fd, "%s\n", text) >= 0;

    if (!good) {
        error_set(err, EXIT_FAILED, "--json %s: %s", name, strerror(errno));
    }
    json_object_put(root);
    return good;
}
