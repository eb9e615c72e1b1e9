/* error.c: filling in an error. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

bool error_set(struct error *err, int code, const char *format, ...)
{
    va_list args;

    err->code = code;
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    return false;
}

bool error_hresult(struct error *err, const char *call, unsigned hr)
{
    return error_set(err, EXIT_FAILED, "%s failed with 0x%08x", call, hr);
}
