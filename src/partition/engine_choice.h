// Which engine a partition gets: what was wished for, what each engine can do, and the report in words.
#ifndef BULKHEAD_ENGINE_CHOICE_H
#define BULKHEAD_ENGINE_CHOICE_H

#include "engine/engine.h"
#include "partition/property.h"

#define ENGINE_REPORT_SIZE 512

// What the environment or the owner of a partition asked for.
struct engine_wish {
    char name[16];                      // "auto" or an engine's name
    WHV_EXTENDED_VM_EXITS relaxed;      // exits that an engine may lack although they were asked for
    char unknown_relaxation[48];        // what BULKHEAD_RELAX said and nobody knows, "" when nothing
};

// True when the wish names no engine of this build, or an unknown relaxation: only the environment can do
// that, as the set functions refuse it. Set-up then fails.
bool engine_wish_faulty(const struct engine_wish *wish);

// BULKHEAD_ENGINE and BULKHEAD_RELAX; "auto" and nothing where they are not set.
void engine_wish_from_environment(struct engine_wish *wish);

// False, and nothing changed, when the name is neither "auto" nor an engine's.
bool engine_wish_set_name(struct engine_wish *wish, const char *name);

// A list of relaxations with commas between them. False, and nothing changed, when one is unknown.
bool engine_wish_set_relaxations(struct engine_wish *wish, const char *list);

// What a partition with this wish can get: everything that any engine it may land on offers. False when there
// is no such engine.
bool engine_wish_capabilities(const struct engine_wish *wish, struct engine_capabilities *capabilities);

// One attempt to choose: the first engine behind place `after` (-1 to begin) in engines[] that the wish
// allows, that the host can run, and that supports all that `values` asks for. Sentences on those passed over
// are added to `passed`. NULL when there is none left. `after` receives the place of the answer.
const struct engine *engine_choose(const struct engine_wish *wish, const struct property_values *values,
                                   int *after, char *passed, size_t passed_size);

// Write the report: a first line "engine: NAME", then what `passed` says and which relaxations were used.
void engine_report_write(char *report, size_t size, const struct engine_wish *wish,
                         const struct engine *chosen, const struct property_values *values,
                         const char *passed);

// Add a formatted sentence to text in a buffer; what does not fit is cut off.
void engine_text_add(char *text, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
