/* feature_names.h: the bits of the platform's words by the names that its header gives them, and the features of a
 * processor as options call them. */
#ifndef CLI_FEATURE_NAMES_H
#define CLI_FEATURE_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A word, and the type that the header has for it. The first ones are what a partition's processors can do. */
enum feature_word {
    FEATURE_BANK0,   /* WHV_PROCESSOR_FEATURES */
    FEATURE_BANK1,   /* WHV_PROCESSOR_FEATURES1 */
    FEATURE_XSAVE,   /* WHV_PROCESSOR_XSAVE_FEATURES */
    FEATURE_PERFMON, /* WHV_PROCESSOR_PERFMON_FEATURES */
    FEATURE_WORDS,
    BITS_SYNTHETIC = FEATURE_WORDS, /* WHV_SYNTHETIC_PROCESSOR_FEATURES */
    BITS_CAPABILITIES, /* WHV_CAPABILITY_FEATURES */
    BITS_EXITS,        /* WHV_EXTENDED_VM_EXITS */
    BITS_MSR_EXITS,    /* WHV_X64_MSR_EXIT_BITMAP */
    BITS_SCHEDULER,    /* WHV_SCHEDULER_FEATURES */
    BITS_POPULATE,     /* WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS */
    BITS_NONE          /* a number */
};

/* The header's name of a bit; NULL if it has none. */
const char *feature_field(enum feature_word word, unsigned bit);

/* The name of a feature for options: that of the header without "Support", in lower case, and with a dash where a word
 * begins behind a small letter: lahf-sahf, avx2. False if the bit has no name. */
#define FEATURE_NAME 48
bool feature_name(enum feature_word word, unsigned bit, char name[FEATURE_NAME]);

/* The feature that TEXT names. Case, dashes, dots and underscores do not matter: SSE4.1 is sse4-1. */
bool feature_find(const char *text, enum feature_word *word, unsigned *bit);

#endif
