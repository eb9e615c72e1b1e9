/* cli_line.h: a command line of words, parsed. */
#ifndef CLI_LINE_H
#define CLI_LINE_H

#include "options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define CLI_LINE_WORDS 256

static inline bool parse_as(const char *verb, struct options *options, struct error *err, const char *line)
{
    static char copy[4096];
    char *argv[CLI_LINE_WORDS] = {(char *)verb};
    int argc = 1;

    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " ")) {
        assert_true(argc < CLI_LINE_WORDS - 1);
        argv[argc++] = word;
    }
    return options_parse(argc, argv, options, err);
}

/* Of a machine to run, which has to be right. */
static inline void parse(struct options *options, const char *line)
{
    char text[4096];
    struct error err = {0};

    snprintf(text, sizeof(text), "--kernel k %s", line);
    if (!parse_as("run", options, &err, text)) {
        fail_msg("%s: %s", line, err.text);
    }
}

/* The row with the option OPTION, which has to be there. */
static inline unsigned row_of(const char *option)
{
    unsigned i = 0;

    while (strcmp(property_row(i)->option, option) != 0) {
        i++;
        assert_non_null(property_row(i));
    }
    return i;
}

#endif
