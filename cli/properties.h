/* properties.h: the partition's properties that `bulkhead run` has an option for: one table, which the command line,
 * its help, the saved machine, the summary and `bulkhead info` read.
 *
 * Not in it: what the machine decides itself (the number of processors follows from --cpus; which exits there are) and
 * what no guest of it can see (reference time, synthetic features). */
#ifndef CLI_PROPERTIES_H
#define CLI_PROPERTIES_H

#include "error.h"
#include "feature_names.h"
#include "state.h"

#include <WinHvPlatform.h>

#include <stdio.h>

enum property_kind {
    PROPERTY_NUMBER,
    PROPERTY_FLAG,     /* an option without a value: 1 */
    PROPERTY_WORD,     /* one of a few words for a number each */
    PROPERTY_CPUID,    /* an entry of CpuidResultList2 */
    PROPERTY_MSR,      /* an entry of MsrActionList */
    PROPERTY_FEATURE   /* a feature that is taken away: of three properties */
};

struct property_row {
    const char *option; /* without its dashes */
    const char *name;   /* the property's, without what all have in common */
    WHV_PARTITION_PROPERTY_CODE code;
    enum property_kind kind;
    unsigned size;        /* of the value, in bytes */
    uint64_t least, most; /* what the option takes; an engine or a host may take less */
    const char *sample;   /* a value that shows whether a host can give it: not one that partitions have anyway */
    const char *const *words; /* PROPERTY_WORD: they stand for LEAST, LEAST + 1, and so on */
    bool host; /* how the host treats the partition, which is for each host to say anew; the guest does not see it */
    const char *value;   /* what the help calls the value; NULL for a flag */
    const char *help;
};

/* Row INDEX; NULL past the last one. */
const struct property_row *property_row(unsigned index);

/* Whether its value is a number, as that of a flag and a word is too. */
bool property_is_number(const struct property_row *row);

/* What was asked for, as in the command line; all zero for nothing. */
#define PROPERTIES_MAX 24
#define PROPERTIES_MAX_LIST 64

struct properties {
    uint64_t given;                       /* bit N: row N */
    uint64_t values[PROPERTIES_MAX];      /* of the row with a value */
    uint64_t removed[FEATURE_WORDS];      /* features */
    unsigned cpuid_count, msr_count;
    WHV_X64_CPUID_RESULT2 cpuid[PROPERTIES_MAX_LIST];
    WHV_MSR_ACTION_ENTRY msrs[PROPERTIES_MAX_LIST];
};

/* TEXT is the option's value. Errors name the option, the value, and what it could be. */
bool properties_parse(struct properties *properties, unsigned row, const char *text, struct error *err);

/* The rows of the help; HOST: of those that are about the host alone. */
void properties_print_help(bool host);

/* A number, flag or word. The row has to be there. */
void properties_put(struct properties *properties, WHV_PARTITION_PROPERTY_CODE code, uint64_t value);
/* False if it was not given. */
bool properties_value(const struct properties *properties, WHV_PARTITION_PROPERTY_CODE code, uint64_t *value);

/* What MORE has about the host replaces what is in PROPERTIES. */
void properties_override(struct properties *properties, const struct properties *more);

/* PROPERTIES without all rows but INDEX. */
struct properties properties_only(const struct properties *properties, unsigned index);

/* The row's option as it was given, "--cpu-cap 50"; of one that can be given several times, its name alone. */
#define PROPERTIES_TEXT 96
void properties_describe(const struct properties *properties, unsigned row, char text[PROPERTIES_TEXT]);

/* Sets what was given, for a partition that is not set up yet and has everything else. An error names the option, and
 * *HR is what the call said. */
bool properties_set(const struct properties *properties, WHV_PARTITION_HANDLE partition, HRESULT *hr,
                    struct error *err);

/* Reads back a number, flag or word as the partition has it; or the features of a word. False if it cannot be read. */
bool properties_read(WHV_PARTITION_HANDLE partition, unsigned row, uint64_t *value);
bool properties_read_features(WHV_PARTITION_HANDLE partition, enum feature_word word, uint64_t *features);

/* Fields of an open record. A load checks every value; when it fails, PROPERTIES is half filled. */
void properties_save(const struct properties *properties, struct state_writer *to);
bool properties_load(struct properties *properties, struct state_reader *from);

#endif
