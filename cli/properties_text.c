/* properties_text.c: properties on the command line: values, and the help. */
#include "properties.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A number at *TEXT, which is moved behind it. No sign, no space. */
static bool text_number(const char **text, uint64_t most, uint64_t *value)
{
    unsigned long long number;
    char *end;

    if (**text < '0' || **text > '9') {
        return false;
    }
    errno = 0;
    number = strtoull(*text, &end, 0);
    if (errno != 0 || number > most) {
        return false;
    }
    *value = number;
    *text = end;
    return true;
}

static bool text_skip(const char **text, char c)
{
    if (**text != c) {
        return false;
    }
    ++*text;
    return true;
}

/* The words of a row, for an error: "xapic, x2apic". */
static void text_list(const char *const *words, char *list, size_t size)
{
    size_t used = 0;

    for (unsigned i = 0; words[i] != NULL && used < size; i++) {
        used += (size_t)snprintf(list + used, size - used, "%s%s", i > 0 ? ", " : "", words[i]);
    }
}

static bool text_word(const char *const *words, const char *text, size_t length, uint64_t *index)
{
    for (unsigned i = 0; words[i] != NULL; i++) {
        if (strlen(words[i]) == length && strncmp(words[i], text, length) == 0) {
            *index = i;
            return true;
        }
    }
    return false;
}

static bool parse_number(const struct property_row *row, const char *text, uint64_t *value, struct error *err)
{
    const char *end = text;

    return (text_number(&end, row->most, value) && *end == '\0' && *value >= row->least) ||
           error_set(err, EXIT_USAGE, "--%s: '%s' is not a number from %" PRIu64 " to %" PRIu64, row->option, text,
                     row->least, row->most);
}

static bool parse_word(const struct property_row *row, const char *text, uint64_t *value, struct error *err)
{
    char list[64];

    if (!text_word(row->words, text, strlen(text), value)) {
        text_list(row->words, list, sizeof(list));
        return error_set(err, EXIT_USAGE, "--%s: '%s' is none of %s", row->option, text, list);
    }
    *value += row->least;
    return true;
}

static bool parse_feature(struct properties *properties, const struct property_row *row, const char *text,
                          struct error *err)
{
    enum feature_word word;
    unsigned bit;

    if (!feature_find(text, &word, &bit)) {
        return error_set(err, EXIT_USAGE, "--%s: '%s' is no feature; 'bulkhead info' lists those that a guest can have",
                         row->option, text);
    }
    properties->removed[word] |= UINT64_C(1) << bit;
    return true;
}

static bool list_has_room(const struct property_row *row, unsigned count, struct error *err)
{
    return count < PROPERTIES_MAX_LIST ||
           error_set(err, EXIT_USAGE, "--%s: there can be no more than %d", row->option, PROPERTIES_MAX_LIST);
}

/* REG=VALUE[/MASK] */
static bool cpuid_output(const char **text, WHV_X64_CPUID_RESULT2 *entry)
{
    static const char *const names[] = {"eax=", "ebx=", "ecx=", "edx="};
    UINT32 *const values[] = {&entry->Output.Eax, &entry->Output.Ebx, &entry->Output.Ecx, &entry->Output.Edx};
    UINT32 *const masks[] = {&entry->Mask.Eax, &entry->Mask.Ebx, &entry->Mask.Ecx, &entry->Mask.Edx};
    uint64_t value, mask = UINT32_MAX;
    unsigned i = 0;

    while (i < 4 && strncmp(*text, names[i], strlen(names[i])) != 0) {
        i++;
    }
    if (i == 4) {
        return false;
    }
    *text += strlen(names[i]);
    if (!text_number(text, UINT32_MAX, &value) || (text_skip(text, '/') && !text_number(text, UINT32_MAX, &mask))) {
        return false;
    }
    *values[i] = (UINT32)value;
    *masks[i] = (UINT32)mask;
    return true;
}

/* LEAF[:SUBLEAF][@CPU]:REG=VALUE[/MASK] */
static bool cpuid_entry(const char *text, WHV_X64_CPUID_RESULT2 *entry)
{
    uint64_t leaf, subleaf = 0, cpu = 0;

    *entry = (WHV_X64_CPUID_RESULT2){0};
    if (!text_number(&text, UINT32_MAX, &leaf)) {
        return false;
    }
    if (text[0] == ':' && text[1] >= '0' && text[1] <= '9') {
        text++;
        if (!text_number(&text, UINT32_MAX, &subleaf)) {
            return false;
        }
        entry->Flags |= WHvX64CpuidResult2FlagSubleafSpecific;
    }
    if (text_skip(&text, '@')) {
        if (!text_number(&text, UINT32_MAX, &cpu)) {
            return false;
        }
        entry->Flags |= WHvX64CpuidResult2FlagVpSpecific;
    }
    entry->Function = (UINT32)leaf;
    entry->Index = (UINT32)subleaf;
    entry->VpIndex = (UINT32)cpu;
    return text_skip(&text, ':') && cpuid_output(&text, entry) && *text == '\0';
}

static bool parse_cpuid(struct properties *properties, const struct property_row *row, const char *text,
                        struct error *err)
{
    if (!list_has_room(row, properties->cpuid_count, err)) {
        return false;
    }
    if (!cpuid_entry(text, &properties->cpuid[properties->cpuid_count])) {
        return error_set(err, EXIT_USAGE,
                         "--%s: '%s' is not LEAF[:SUBLEAF][@CPU]:REG=VALUE[/MASK], all of 32 bits and REG one of "
                         "eax, ebx, ecx, edx",
                         row->option, text);
    }
    properties->cpuid_count++;
    return true;
}

/* MSR:ACTION, or MSR:READ,WRITE */
static bool parse_msr(struct properties *properties, const struct property_row *row, const char *text,
                      struct error *err)
{
    WHV_MSR_ACTION_ENTRY *entry = &properties->msrs[properties->msr_count];
    const char *at = text, *comma;
    uint64_t index = 0, read = 0, write = 0;
    bool good;

    if (!list_has_room(row, properties->msr_count, err)) {
        return false;
    }
    good = text_number(&at, UINT32_MAX, &index) && text_skip(&at, ':');
    comma = strchr(at, ',');
    good = good && text_word(row->words, at, comma != NULL ? (size_t)(comma - at) : strlen(at), &read);
    at = comma != NULL ? comma + 1 : at;
    good = good && text_word(row->words, at, strlen(at), &write);
    if (!good) {
        return error_set(err, EXIT_USAGE,
                         "--%s: '%s' is not MSR:ACTION or MSR:READ,WRITE with actions of default, ignore and exit",
                         row->option, text);
    }
    *entry = (WHV_MSR_ACTION_ENTRY){(UINT32)index, (UINT8)read, (UINT8)write, 0};
    properties->msr_count++;
    return true;
}

bool properties_parse(struct properties *properties, unsigned index, const char *text, struct error *err)
{
    const struct property_row *row = property_row(index);
    bool good = false;

    switch (row->kind) {
    case PROPERTY_NUMBER:
        good = parse_number(row, text, &properties->values[index], err);
        break;
    case PROPERTY_FLAG:
        properties->values[index] = 1;
        good = true;
        break;
    case PROPERTY_WORD:
        good = parse_word(row, text, &properties->values[index], err);
        break;
    case PROPERTY_CPUID:
        good = parse_cpuid(properties, row, text, err);
        break;
    case PROPERTY_MSR:
        good = parse_msr(properties, row, text, err);
        break;
    case PROPERTY_FEATURE:
        good = parse_feature(properties, row, text, err);
        break;
    }
    if (good) {
        properties->given |= UINT64_C(1) << index;
    }
    return good;
}

/* An option that is too long for the first column has its explanation on a line of its own. What fits in the value at
 * all is no range to tell of. */
static void print_row(const struct property_row *row)
{
    char option[64];

    snprintf(option, sizeof(option), "--%s%s%s", row->option, row->value != NULL ? " " : "",
             row->value != NULL ? row->value : "");
    printf("  %-22s%s%s", option, strlen(option) > 22 ? "\n                         " : " ", row->help);
    if (row->kind == PROPERTY_NUMBER && row->most < UINT32_MAX) {
        printf(" (%" PRIu64 " to %" PRIu64 ")", row->least, row->most);
    } else if (row->kind == PROPERTY_NUMBER && row->least > 0) {
        printf(" (at least %" PRIu64 ")", row->least);
    }
    putchar('\n');
}

void properties_print_help(bool host)
{
    const struct property_row *row;

    for (unsigned i = 0; (row = property_row(i)) != NULL; i++) {
        if (row->host == host) {
            print_row(row);
        }
    }
}
