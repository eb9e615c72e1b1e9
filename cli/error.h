/* error.h: an error on its way up to main: one line of text and the exit code it asks for. */
#ifndef CLI_ERROR_H
#define CLI_ERROR_H

#include <stdbool.h>

/* Exit codes of the command; the manual page lists them. */
enum exit_code {
    EXIT_OK = 0,
    EXIT_FAILED = 1,       /* a file, the memory or the host is not what the run needs */
    EXIT_USAGE = 2,        /* the command line makes no sense */
    EXIT_GUEST_FAULT = 3,  /* the guest did what no processor can go on from */
    EXIT_TIMED_OUT = 124,  /* as timeout(1) */
    EXIT_SIGNAL_BASE = 128 /* plus the number of the signal */
};

struct error {
    int code;
    char text[1024];
};

/* Fills ERR and returns false, so that a function can end with `return error_set(...)`. */
bool error_set(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same for a call of the platform API that returned HR; the text ends with the value. */
bool error_hresult(struct error *err, const char *call, unsigned hr);

#endif
