/* Holds the table of exported functions against the library: every row is exported, a stub says E_NOTIMPL,
 * and a function that is said to be implemented says something else, even when all its arguments are null.
 *
 * usage: exports LIBRARY */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "WinHvPlatform.h"

/* Enough integer arguments for each function of the table: the calling convention of x86-64 Linux lets a
 * function ignore those that it does not have, and passes the small structures of this API like integers. */
typedef HRESULT (*any_function)(UINT64, UINT64, UINT64, UINT64, UINT64, UINT64, UINT64, UINT64);

static void *library;
static int failures;

static void check(const char *name, bool implemented)
{
    void *symbol = dlsym(library, name);
    any_function function;
    HRESULT hr;

    if (symbol == NULL) {
        printf("%s is not exported\n", name);
        failures++;
        return;
    }
    memcpy(&function, &symbol, sizeof(function));
    hr = function(0, 0, 0, 0, 0, 0, 0, 0);
    if ((hr == E_NOTIMPL) == implemented) {
        printf("%s: the table says %s, the function returns 0x%08X\n", name,
               implemented ? "implemented" : "not yet", (unsigned)hr);
        failures++;
    }
}

enum { NOT_YET = false, IMPLEMENTED = true };

int main(int argc, char **argv)
{
    int rows = 0;

    library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (library == NULL) {
        printf("%s\n", argc == 2 ? dlerror() : "usage: exports LIBRARY");
        return 2;
    }
#define API_FUNCTION(name, status) check(#name, status), rows++;
#include "functions.def"
    printf("%d rows, %d failures\n", rows, failures);
    return failures != 0;
}
