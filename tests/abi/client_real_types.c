/* A client that has the real Windows types already, as a winelib program does: ours must step aside. */
#define _WINDEF_
#define VOID void
#define WINAPI __attribute__((ms_abi))
#define CALLBACK __attribute__((ms_abi))
#define ANYSIZE_ARRAY 1
#define S_OK ((HRESULT)0)
#define FAILED(hr) ((HRESULT)(hr) < 0)
#define C_ASSERT(e) extern void __C_ASSERT__(int[(e) ? 1 : -1])
typedef unsigned char UINT8, BYTE, UCHAR, BOOLEAN;
typedef unsigned short UINT16, WORD, USHORT, WCHAR;
typedef unsigned int UINT32, DWORD, ULONG;
typedef unsigned long UINT64;
typedef int LONG, BOOL, HRESULT;
typedef void *PVOID, *HANDLE;
typedef struct _GUID {
    UINT32 Data1;
    UINT16 Data2, Data3;
    UINT8 Data4[8];
} GUID;
typedef struct _LUID {
    DWORD LowPart;
    LONG HighPart;
} LUID;
typedef enum _DEVICE_POWER_STATE { PowerDeviceUnspecified } DEVICE_POWER_STATE;

#include "WinHvEmulation.h"
#include "WinHvPlatform.h"
#include "bulkhead/bulkhead.h"

HRESULT client(void);

HRESULT client(void)
{
    WHV_PARTITION_HANDLE partition;
    HRESULT hr = WHvCreatePartition(&partition);

    return FAILED(hr) && hr != E_OUTOFMEMORY ? WHV_E_UNKNOWN_CAPABILITY : S_OK;
}
