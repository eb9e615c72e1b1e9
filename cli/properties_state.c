/* properties_state.c: properties in a saved machine: counted lists, of numbers by their codes, features, CPUID results
 * and actions for MSRs. */
#include "properties.h"

#include <inttypes.h>

static const struct state_field cpuid_fields[] = {
    STATE_ANY(WHV_X64_CPUID_RESULT2, Function),
    STATE_ANY(WHV_X64_CPUID_RESULT2, Index),
    STATE_ANY(WHV_X64_CPUID_RESULT2, VpIndex),
    STATE_BITS(WHV_X64_CPUID_RESULT2, Flags,
               WHvX64CpuidResult2FlagSubleafSpecific | WHvX64CpuidResult2FlagVpSpecific),
    STATE_ANY(WHV_X64_CPUID_RESULT2, Output.Eax),
    STATE_ANY(WHV_X64_CPUID_RESULT2, Output.Ebx),
    STATE_ANY(WHV_X64_CPUID_RESULT2, Output.Ecx),
    STATE_ANY(WHV_X64_CPUID_RESULT2, Output.Edx),
    STATE_ANY(WHV_X64_CPUID_RESULT2, Mask.Eax),
    STATE_ANY(WHV_X64_CPUID_RESULT2, Mask.Ebx),
    STATE_ANY(WHV_X64_CPUID_RESULT2, Mask.Ecx),
    STATE_ANY(WHV_X64_CPUID_RESULT2, Mask.Edx),
};

static const struct state_field msr_fields[] = {
    STATE_ANY(WHV_MSR_ACTION_ENTRY, Index),
    STATE_RANGE(WHV_MSR_ACTION_ENTRY, ReadAction, 0, WHvMsrActionExit),
    STATE_RANGE(WHV_MSR_ACTION_ENTRY, WriteAction, 0, WHvMsrActionExit),
};

/* Lists and features have fields of their own. */
static bool is_saved(const struct properties *properties, unsigned row)
{
    return property_is_number(property_row(row)) && (properties->given >> row & 1) != 0;
}

static unsigned saved_count(const struct properties *properties)
{
    unsigned count = 0;

    for (unsigned i = 0; property_row(i) != NULL; i++) {
        count += is_saved(properties, i);
    }
    return count;
}

void properties_save(const struct properties *properties, struct state_writer *to)
{
    state_put(to, 4, saved_count(properties));
    for (unsigned i = 0; property_row(i) != NULL; i++) {
        if (is_saved(properties, i)) {
            state_put(to, 4, (uint32_t)property_row(i)->code);
            state_put(to, 8, properties->values[i]);
        }
    }
    for (unsigned i = 0; i < FEATURE_WORDS; i++) {
        state_put(to, 8, properties->removed[i]);
    }
    state_put(to, 4, properties->cpuid_count);
    for (unsigned i = 0; i < properties->cpuid_count; i++) {
        state_put_fields(to, cpuid_fields, STATE_COUNT(cpuid_fields), &properties->cpuid[i]);
    }
    state_put(to, 4, properties->msr_count);
    for (unsigned i = 0; i < properties->msr_count; i++) {
        state_put_fields(to, msr_fields, STATE_COUNT(msr_fields), &properties->msrs[i]);
    }
}

static void load_number(struct properties *properties, struct state_reader *from)
{
    uint32_t code = (uint32_t)state_get(from, 4, "property");
    uint64_t value = state_get(from, 8, "value");
    const struct property_row *row;

    for (unsigned i = 0; (row = property_row(i)) != NULL; i++) {
        if ((uint32_t)row->code != code || !property_is_number(row)) {
            continue;
        }
        if (value < row->least || value > row->most) {
            state_refuse(from, "the property %s is %" PRIu64 ", which is not in %" PRIu64 " to %" PRIu64, row->name,
                         value, row->least, row->most);
            return;
        }
        properties_put(properties, row->code, value);
        return;
    }
    state_refuse(from, "the machine has a property 0x%" PRIx32 ", which this build does not know", code);
}

/* The number of entries that follow; 0 when it fails. */
static unsigned load_count(struct state_reader *from, const char *name, unsigned most)
{
    uint64_t value = state_get(from, 4, name);

    if (value > most) {
        state_refuse(from, "field '%s' is %" PRIu64 ", and there can be no more than %u", name, value, most);
        return 0;
    }
    return (unsigned)value;
}

static void load_features(struct properties *properties, struct state_reader *from)
{
    for (unsigned i = 0; i < FEATURE_WORDS; i++) {
        properties->removed[i] = state_get(from, 8, "features");
        for (unsigned bit = 0; bit < 64; bit++) {
            if ((properties->removed[i] >> bit & 1) != 0 && feature_field((enum feature_word)i, bit) == NULL) {
                state_refuse(from, "feature %u of word %u is none that this build knows", bit, i);
                return;
            }
        }
    }
}

/* The rows of what is no number are given if there is anything in them. */
static void give_lists(struct properties *properties)
{
    bool features = false;

    for (unsigned i = 0; i < FEATURE_WORDS; i++) {
        features = features || properties->removed[i] != 0;
    }
    for (unsigned i = 0; property_row(i) != NULL; i++) {
        enum property_kind kind = property_row(i)->kind;

        if ((kind == PROPERTY_FEATURE && features) || (kind == PROPERTY_CPUID && properties->cpuid_count > 0) ||
            (kind == PROPERTY_MSR && properties->msr_count > 0)) {
            properties->given |= UINT64_C(1) << i;
        }
    }
}

bool properties_load(struct properties *properties, struct state_reader *from)
{
    unsigned count = load_count(from, "properties", PROPERTIES_MAX);

    for (unsigned i = 0; i < count && !from->failed; i++) {
        load_number(properties, from);
    }
    load_features(properties, from);
    properties->cpuid_count = load_count(from, "CPUID results", PROPERTIES_MAX_LIST);
    for (unsigned i = 0; i < properties->cpuid_count && !from->failed; i++) {
        state_get_fields(from, cpuid_fields, STATE_COUNT(cpuid_fields), &properties->cpuid[i]);
    }
    properties->msr_count = load_count(from, "MSR actions", PROPERTIES_MAX_LIST);
    for (unsigned i = 0; i < properties->msr_count && !from->failed; i++) {
        state_get_fields(from, msr_fields, STATE_COUNT(msr_fields), &properties->msrs[i]);
    }
    give_lists(properties);
    return !from->failed;
}
