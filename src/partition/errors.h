// The host's error numbers as HRESULTs.
#ifndef BULKHEAD_ERRORS_H
#define BULKHEAD_ERRORS_H

#include <errno.h>

#include "engine/engine.h"

// 0 is S_OK; `otherwise` is what an error means that says nothing of memory, room or rights.
CHECKED static inline HRESULT hresult_of_errno(int error, HRESULT otherwise)
{
    switch (error) {
    case 0:
        return S_OK;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case ENOSPC:
        return E_OUTOFMEMORY;
    case EPERM:
    case EACCES:
        return E_ACCESSDENIED;
    default:
        return otherwise;
    }
}

#endif
