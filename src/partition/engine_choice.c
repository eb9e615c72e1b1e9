// The choice of an engine: wishes, passing over, merged capabilities, report.
#include "partition/engine_choice.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "partition/capabilities.h"

// What may be given up, by name. Exits only: whatever else an engine lacks shows in the guest.
static const struct {
    const char *name;
    WHV_EXTENDED_VM_EXITS exit;
} relaxations[] = {
    {"cpuid-exit", {.X64CpuidExit = 1}},
    {"msr-exit", {.X64MsrExit = 1}},
    {"exception-exit", {.ExceptionExit = 1}},
    {"rdtsc-exit", {.X64RdtscExit = 1}},
    {"hypercall-exit", {.HypercallExit = 1}},
    {"apic-smi-exit", {.X64ApicSmiExitTrap = 1}},
    {"apic-init-sipi-exit", {.X64ApicInitSipiExitTrap = 1}},
    {"apic-write-exit",
     {.X64ApicWriteLdrExitTrap = 1, .X64ApicWriteDfrExitTrap = 1, .X64ApicWriteSvrExitTrap = 1,
      .X64ApicWriteLint0ExitTrap = 1, .X64ApicWriteLint1ExitTrap = 1}},
};

#define RELAXATIONS (sizeof(relaxations) / sizeof(relaxations[0]))

void engine_text_add(char *text, size_t size, const char *format, ...)
{
    size_t used = strlen(text);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text + used, size - used, format, arguments);
    va_end(arguments);
}

static bool is_auto(const struct engine_wish *wish)
{
    return strcmp(wish->name, "auto") == 0;
}

static bool name_known(const char *name)
{
    if (strcmp(name, "auto") == 0)
        return true;
    for (unsigned int i = 0; engines[i]; i++)
        if (strcmp(engines[i]->name, name) == 0)
            return true;
    return false;
}

bool engine_wish_set_name(struct engine_wish *wish, const char *name)
{
    if (!name_known(name))
        return false;
    snprintf(wish->name, sizeof(wish->name), "%s", name);
    return true;
}

bool engine_wish_faulty(const struct engine_wish *wish)
{
    return wish->unknown_relaxation[0] || !name_known(wish->name);
}

bool engine_wish_set_relaxations(struct engine_wish *wish, const char *list)
{
    WHV_EXTENDED_VM_EXITS relaxed = {.AsUINT64 = 0};

    while (*list) {
        size_t length = strcspn(list, ",");
        unsigned int i = 0;

        while (i < RELAXATIONS && (strncmp(relaxations[i].name, list, length) != 0 ||
                                   relaxations[i].name[length] != '\0'))
            i++;
        if (i == RELAXATIONS)
            return false;
        relaxed.AsUINT64 |= relaxations[i].exit.AsUINT64;
        list += length;
        if (*list == ',')
            list++;
    }
    wish->relaxed = relaxed;
    wish->unknown_relaxation[0] = '\0';
    return true;
}

void engine_wish_from_environment(struct engine_wish *wish)
{
    const char *name = getenv("BULKHEAD_ENGINE");
    const char *relax = getenv("BULKHEAD_RELAX");

    memset(wish, 0, sizeof(*wish));
    // An unknown name is kept, so that the report can say it.
    snprintf(wish->name, sizeof(wish->name), "%s", name && *name ? name : "auto");
    if (relax && !engine_wish_set_relaxations(wish, relax))
        snprintf(wish->unknown_relaxation, sizeof(wish->unknown_relaxation), "%s", relax);
}

// True when the wish allows the engine and the host can run it. `why` receives a sentence when not.
static bool eligible(const struct engine_wish *wish, const struct engine *engine, char *why, size_t size)
{
    struct engine_status status = {.usable = false};

    if (!is_auto(wish) && strcmp(wish->name, engine->name) != 0) {
        snprintf(why, size, "%s was asked for by name", wish->name);
        return false;
    }
    engine->probe(&status);
    if (!status.usable || (is_auto(wish) && !status.automatic)) {
        snprintf(why, size, "%s", status.text);
        return false;
    }
    return true;
}

// Take from `more` what `all` lacks. Figures that cannot be merged stay those of the first, the fastest
// engine.
static void merge(struct engine_capabilities *all, const struct engine_capabilities *more)
{
    all->features.AsUINT64 |= more->features.AsUINT64;
    all->extended_vm_exits.AsUINT64 |= more->extended_vm_exits.AsUINT64;
    all->exception_exit_bitmap |= more->exception_exit_bitmap;
    all->msr_exit_bitmap.AsUINT64 |= more->msr_exit_bitmap.AsUINT64;
    all->processor_features.Bank0.AsUINT64 |= more->processor_features.Bank0.AsUINT64;
    all->processor_features.Bank1.AsUINT64 |= more->processor_features.Bank1.AsUINT64;
    all->xsave_features.AsUINT64 |= more->xsave_features.AsUINT64;
    all->synthetic_features.Bank0.AsUINT64 |= more->synthetic_features.Bank0.AsUINT64;
    all->perfmon_features.AsUINT64 |= more->perfmon_features.AsUINT64;
    all->apic_emulation |= more->apic_emulation;
    all->apic_remote_read |= more->apic_remote_read;
    all->nested_virtualization |= more->nested_virtualization;
    all->device_assignment |= more->device_assignment;
    all->processor_clock_fixed &= more->processor_clock_fixed;
    all->interrupt_clock_fixed &= more->interrupt_clock_fixed;
    if (more->max_processors > all->max_processors)
        all->max_processors = more->max_processors;
    if (more->physical_address_width > all->physical_address_width)
        all->physical_address_width = more->physical_address_width;
}

bool engine_wish_capabilities(const struct engine_wish *wish, struct engine_capabilities *capabilities)
{
    struct engine_capabilities more;
    bool any = false;
    char why[160];

    for (unsigned int i = 0; engines[i]; i++) {
        if (!eligible(wish, engines[i], why, sizeof(why)))
            continue;
        capabilities_of(engines[i], any ? &more : capabilities);
        if (any)
            merge(capabilities, &more);
        any = true;
    }
    return any;
}

const struct engine *engine_choose(const struct engine_wish *wish, const struct property_values *values,
                                   int *after, char *passed, size_t passed_size)
{
    for (int i = *after + 1; engines[i]; i++) {
        struct engine_capabilities capabilities;
        const struct property *lacking;
        char why[160];

        if (!eligible(wish, engines[i], why, sizeof(why))) {
            engine_text_add(passed, passed_size, "%s passed over: %s\n", engines[i]->name, why);
            continue;
        }
        capabilities_of(engines[i], &capabilities);
        lacking = property_unsupported(values, &capabilities, wish->relaxed);
        if (lacking) {
            engine_text_add(passed, passed_size, "%s passed over: it does not support the %s that was set\n",
                            engines[i]->name, lacking->name);
            continue;
        }
        *after = i;
        return engines[i];
    }
    return NULL;
}

void engine_report_write(char *report, size_t size, const struct engine_wish *wish,
                         const struct engine *chosen, const struct property_values *values,
                         const char *passed)
{
    struct engine_status status = {.usable = false};
    struct engine_capabilities capabilities;

    snprintf(report, size, "engine: %s\n", chosen ? chosen->name : "none");
    if (!name_known(wish->name))
        engine_text_add(report, size, "BULKHEAD_ENGINE names no engine of this build: \"%s\"\n", wish->name);
    if (wish->unknown_relaxation[0])
        engine_text_add(report, size, "BULKHEAD_RELAX names an unknown relaxation: \"%s\"\n",
                        wish->unknown_relaxation);
    if (chosen) {
        chosen->probe(&status);
        capabilities_of(chosen, &capabilities);
        engine_text_add(report, size, "%s chosen: %s\n", chosen->name,
                        is_auto(wish) ? status.text : "it was asked for by name");
        for (unsigned int i = 0; i < RELAXATIONS; i++)
            if (values->extended_vm_exits.AsUINT64 & wish->relaxed.AsUINT64 & relaxations[i].exit.AsUINT64 &
                ~capabilities.extended_vm_exits.AsUINT64)
                engine_text_add(report, size, "relaxed: %s\n", relaxations[i].name);
    }
    engine_text_add(report, size, "%s", passed);
}
