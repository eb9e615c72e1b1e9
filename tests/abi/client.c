/* A client of every public header, compiled as C and as C++ in each revision that we support. */
#include "WinHvEmulation.h"
#include "WinHvPlatform.h"
#include "WinHvPlatformDefs.h"
#include "bulkhead/bulkhead.h"
#include "bulkhead/wintypes.h"
#include "winhvemulation.h"
#include "winhvplatform.h"
#include "winhvplatformdefs.h"

/* Programs repeat the Windows SDK's definition without a guard. */
#define WHV_E_UNKNOWN_CAPABILITY _HRESULT_TYPEDEF_(0x80370300L)

C_ASSERT(sizeof(HRESULT) == 4);
C_ASSERT(sizeof(LONG) == 4);
C_ASSERT(sizeof(BOOL) == 4);
C_ASSERT(sizeof(DWORD) == 4);
C_ASSERT(sizeof(ULONG) == 4);
C_ASSERT(sizeof(WCHAR) == 2);
C_ASSERT(sizeof(UINT64) == 8);
C_ASSERT(sizeof(GUID) == 16);
C_ASSERT(sizeof(LUID) == 8);
C_ASSERT(sizeof(HANDLE) == sizeof(void *));
C_ASSERT(FAILED(WHV_E_UNKNOWN_CAPABILITY));
C_ASSERT(FAILED(E_INVALIDARG) && FAILED(E_NOTIMPL) && SUCCEEDED(S_OK));
C_ASSERT(FAILED(HRESULT_FROM_WIN32(ERROR_INVALID_STATE)));
C_ASSERT((DWORD)HRESULT_FROM_WIN32(ERROR_INVALID_STATE) == 0x8007139Fu);
C_ASSERT((DWORD)HRESULT_FROM_WIN32(ERROR_HV_OPERATION_DENIED) == 0xC0350008u);
C_ASSERT(sizeof(WHV_RUN_VP_EXIT_CONTEXT) == 224);

HRESULT client(WHV_PARTITION_HANDLE partition, void *memory);

/* The calls that nearly every client makes, as it makes them. */
HRESULT client(WHV_PARTITION_HANDLE partition, void *memory)
{
    WHV_MAP_GPA_RANGE_FLAGS flags = WHvMapGpaRangeFlagNone;
    WHV_PARTITION_PROPERTY property;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_REGISTER_NAME names[2] = {WHvX64RegisterRip, WHvX64RegisterRflags};
    WHV_REGISTER_VALUE values[2];
    HRESULT hr;

#ifdef __cplusplus
    flags = WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite;
    flags |= WHvMapGpaRangeFlagExecute;
    flags &= ~WHvMapGpaRangeFlagWrite;
    flags ^= WHvMapGpaRangeFlagWrite;
#else
    flags = (WHV_MAP_GPA_RANGE_FLAGS)(WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite);
#endif
    property.ExtendedVmExits.AsUINT64 = 0;
    property.ExtendedVmExits.X64CpuidExit = 1;
    hr = WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeExtendedVmExits, &property,
                                 sizeof(property));
    if (hr == WHV_E_UNKNOWN_CAPABILITY || FAILED(hr))
        return hr;
    hr = WHvMapGpaRange(partition, memory, 0, 4096, flags);
    if (FAILED(hr))
        return hr;
    values[0].Reg64 = 0;
    values[1].Reg64 = 2;
    hr = WHvSetVirtualProcessorRegisters(partition, 0, names, 2, values);
    if (FAILED(hr))
        return hr;
    hr = WHvRunVirtualProcessor(partition, 0, &exit, sizeof(exit));
    if (SUCCEEDED(hr) && exit.ExitReason == WHvRunVpExitReasonMemoryAccess)
        return exit.MemoryAccess.AccessInfo.AccessType == WHvMemoryAccessWrite ? S_OK : E_FAIL;
    return hr;
}
