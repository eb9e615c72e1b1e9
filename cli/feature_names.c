/* feature_names.c: names of bits, from the header by tools/bit_names.py. */
#include "feature_names.h"

#include <ctype.h>
#include <string.h>

#define WORD_BITS 64

/* The words, and their types; the tables are written at build time. */
#define FEATURE_TABLES(ROW)                                                                                            \
    ROW(FEATURE_BANK0, WHV_X64_PROCESSOR_FEATURES)                                                                     \
    ROW(FEATURE_BANK1, WHV_X64_PROCESSOR_FEATURES1)                                                                    \
    ROW(FEATURE_XSAVE, WHV_PROCESSOR_XSAVE_FEATURES)                                                                   \
    ROW(FEATURE_PERFMON, WHV_PROCESSOR_PERFMON_FEATURES)                                                               \
    ROW(BITS_SYNTHETIC, WHV_SYNTHETIC_PROCESSOR_FEATURES)                                                              \
    ROW(BITS_CAPABILITIES, WHV_CAPABILITY_FEATURES)                                                                    \
    ROW(BITS_EXITS, WHV_EXTENDED_VM_EXITS)                                                                             \
    ROW(BITS_MSR_EXITS, WHV_X64_MSR_EXIT_BITMAP)                                                                       \
    ROW(BITS_SCHEDULER, WHV_SCHEDULER_FEATURES)                                                                        \
    ROW(BITS_POPULATE, WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS)

#define DECLARE(word, type) extern const char *const bit_names_##type[WORD_BITS];
#define PLACE(word, type) [word] = bit_names_##type,

FEATURE_TABLES(DECLARE)

static const char *const *const feature_fields[BITS_NONE] = {FEATURE_TABLES(PLACE)};

const char *feature_field(enum feature_word word, unsigned bit)
{
    return word < BITS_NONE && bit < WORD_BITS ? feature_fields[word][bit] : NULL;
}

bool feature_name(enum feature_word word, unsigned bit, char name[FEATURE_NAME])
{
    const char *field = feature_field(word, bit);
    const char *suffix = field != NULL ? strstr(field, "Support") : NULL;
    size_t length = field == NULL ? 0 : suffix != NULL ? (size_t)(suffix - field) : strlen(field);
    size_t used = 0;

    for (size_t i = 0; i < length && used + 2 < FEATURE_NAME; i++) {
        unsigned char c = (unsigned char)field[i];

        if (i > 0 && isupper(c) && islower((unsigned char)field[i - 1])) {
            name[used++] = '-';
        }
        name[used++] = c == '_' ? '-' : (char)tolower(c);
    }
    name[used] = '\0';
    return used > 0;
}

/* The next character that counts, as a small letter. */
static char feature_next(const char **text)
{
    *text += strspn(*text, "-._");
    return **text == '\0' ? '\0' : (char)tolower((unsigned char)*(*text)++);
}

static bool feature_same(const char *a, const char *b)
{
    char c;

    do {
        c = feature_next(&a);
        if (c != feature_next(&b)) {
            return false;
        }
    } while (c != '\0');
    return true;
}

bool feature_find(const char *text, enum feature_word *word, unsigned *bit)
{
    char name[FEATURE_NAME];

    for (unsigned i = 0; i < FEATURE_WORDS; i++) {
        for (unsigned j = 0; j < WORD_BITS; j++) {
            if (feature_name((enum feature_word)i, j, name) && feature_same(text, name)) {
                *word = (enum feature_word)i;
                *bit = j;
                return true;
            }
        }
    }
    return false;
}
