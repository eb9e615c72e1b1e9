/* The functions that are exported but not implemented yet: one stub for each API_STUB row of the table. */
#include "WinHvEmulation.h"
#include "WinHvPlatform.h"
#include "bulkhead/bulkhead.h"

/* A stub looks at nothing that it is given. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

#define API_STUB(name, parameters)                                                                           \
    HRESULT WINAPI name parameters                                                                           \
    {                                                                                                        \
        return E_NOTIMPL;                                                                                    \
    }
#include "functions.def"
