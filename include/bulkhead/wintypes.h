/* The few Windows base types, macros and error values that the platform headers need on Linux.
 *
 * Where the real ones are already there (Windows itself, or a winelib program that included windows.h
 * first) this header steps aside and adds only what they lack.
 *
 * Widths are those of 64-bit Windows, whatever the host's `long` is: HRESULT, LONG, BOOL and DWORD have 32
 * bits, WCHAR has 16.
 */
#ifndef BULKHEAD_WINTYPES_H
#define BULKHEAD_WINTYPES_H

#if defined(_WIN32)
#include <windows.h>
#elif !defined(_MINWINDEF_) && !defined(_WINDEF_) && !defined(_WINNT_) && !defined(__WINE_WINNT_H)

#include <stddef.h>
#include <stdint.h>

typedef int8_t INT8;
typedef int16_t INT16;
typedef int32_t INT32;
typedef int64_t INT64;
typedef uint8_t UINT8;
typedef uint16_t UINT16;
typedef uint32_t UINT32;
typedef uint64_t UINT64;

typedef char CHAR;
typedef int16_t SHORT;
typedef int32_t INT;
typedef int32_t LONG;
typedef int64_t LONGLONG;
typedef uint8_t UCHAR;
typedef uint16_t USHORT;
typedef uint32_t UINT;
typedef uint32_t ULONG;
typedef uint64_t ULONGLONG;
typedef uint64_t DWORD64;
typedef uint8_t BYTE;
typedef uint16_t WORD;
typedef uint32_t DWORD;
typedef int32_t BOOL;
typedef uint8_t BOOLEAN;
typedef intptr_t LONG_PTR;
typedef uintptr_t ULONG_PTR;
typedef ULONG_PTR SIZE_T;

/* A UTF-16 code unit. It is not wchar_t, which has 32 bits on Linux. */
#ifdef __cplusplus
typedef char16_t WCHAR;
#else
typedef uint16_t WCHAR;
#endif

#define VOID void
typedef void *PVOID;
typedef void *LPVOID;
typedef const void *LPCVOID;
typedef void *HANDLE;

#ifndef CONST
#define CONST const
#endif
#ifndef TRUE
#define TRUE 1
#endif
#ifndef FALSE
#define FALSE 0
#endif
#ifndef NULL
#ifdef __cplusplus
#define NULL 0
#else
#define NULL ((void *)0)
#endif
#endif

/* There is one calling convention on 64-bit Linux. */
#define WINAPI
#define CALLBACK

#define INVALID_HANDLE_VALUE ((HANDLE)(LONG_PTR)-1)
#define ANYSIZE_ARRAY 1

typedef struct _GUID {
    UINT32 Data1;
    UINT16 Data2;
    UINT16 Data3;
    UINT8 Data4[8];
} GUID;

typedef struct _LUID {
    DWORD LowPart;
    LONG HighPart;
} LUID;

/* Power states of a device as the ACPI specification names them (ACPI 6.5, 2.3). */
typedef enum _DEVICE_POWER_STATE {
    PowerDeviceUnspecified = 0,
    PowerDeviceD0,
    PowerDeviceD1,
    PowerDeviceD2,
    PowerDeviceD3,
    PowerDeviceMaximum
} DEVICE_POWER_STATE, *PDEVICE_POWER_STATE;

typedef LONG HRESULT;

#endif /* no Windows base types yet */

/* What older sets of Windows headers may lack. Every name is guarded by itself. */

#ifndef C_ASSERT
#ifdef __cplusplus
#define C_ASSERT(e) static_assert(e, #e)
#else
#define C_ASSERT(e) __extension__ _Static_assert(e, #e)
#endif
#endif

#ifndef DECLSPEC_ALIGN
#define DECLSPEC_ALIGN(x) __attribute__((aligned(x)))
#endif

#ifndef FIELD_OFFSET
#define FIELD_OFFSET(type, field) ((LONG)offsetof(type, field))
#endif

/* Makes an enumeration of flags combinable in C++, where `a | b` would be an int. C needs nothing. */
#ifndef DEFINE_ENUM_FLAG_OPERATORS
#ifdef __cplusplus
#define DEFINE_ENUM_FLAG_OPERATORS(E)                                                                        \
    extern "C++" {                                                                                           \
    inline constexpr E operator|(E a, E b) { return E(UINT32(a) | UINT32(b)); }                              \
    inline constexpr E operator&(E a, E b) { return E(UINT32(a) & UINT32(b)); }                              \
    inline constexpr E operator^(E a, E b) { return E(UINT32(a) ^ UINT32(b)); }                              \
    inline constexpr E operator~(E a) { return E(~UINT32(a)); }                                              \
    inline E &operator|=(E &a, E b) { return a = a | b; }                                                    \
    inline E &operator&=(E &a, E b) { return a = a & b; }                                                    \
    inline E &operator^=(E &a, E b) { return a = a ^ b; }                                                    \
    }
#else
#define DEFINE_ENUM_FLAG_OPERATORS(E)
#endif
#endif

#ifndef SUCCEEDED
#define SUCCEEDED(hr) ((HRESULT)(hr) >= 0)
#endif
#ifndef FAILED
#define FAILED(hr) ((HRESULT)(hr) < 0)
#endif
#ifndef _HRESULT_TYPEDEF_
#define _HRESULT_TYPEDEF_(_sc) ((HRESULT)_sc)
#endif

/* Win32 error numbers that the API wraps with HRESULT_FROM_WIN32. */
#ifndef FACILITY_WIN32
#define FACILITY_WIN32 7
#endif
#ifndef HRESULT_FROM_WIN32
#define HRESULT_FROM_WIN32(x)                                                                                \
    ((HRESULT)(x) <= 0 ? ((HRESULT)(x))                                                                      \
                       : ((HRESULT)(((x) & 0x0000FFFF) | (FACILITY_WIN32 << 16) | 0x80000000)))
#endif
#ifndef HRESULT_CODE
#define HRESULT_CODE(hr) ((hr) & 0xFFFF)
#endif
#ifndef ERROR_SUCCESS
#define ERROR_SUCCESS 0L
#endif
#ifndef ERROR_INVALID_DATA
#define ERROR_INVALID_DATA 13L
#endif
#ifndef ERROR_NOT_SUPPORTED
#define ERROR_NOT_SUPPORTED 50L
#endif
#ifndef ERROR_NOT_FOUND
#define ERROR_NOT_FOUND 1168L
#endif
#ifndef ERROR_NO_SYSTEM_RESOURCES
#define ERROR_NO_SYSTEM_RESOURCES 1450L
#endif
#ifndef ERROR_INVALID_STATE
#define ERROR_INVALID_STATE 5023L
#endif

#ifndef S_OK
#define S_OK ((HRESULT)0L)
#endif
#ifndef S_FALSE
#define S_FALSE ((HRESULT)1L)
#endif
#ifndef E_NOTIMPL
#define E_NOTIMPL _HRESULT_TYPEDEF_(0x80004001L)
#endif
#ifndef E_POINTER
#define E_POINTER _HRESULT_TYPEDEF_(0x80004003L)
#endif
#ifndef E_ABORT
#define E_ABORT _HRESULT_TYPEDEF_(0x80004004L)
#endif
#ifndef E_FAIL
#define E_FAIL _HRESULT_TYPEDEF_(0x80004005L)
#endif
#ifndef E_UNEXPECTED
#define E_UNEXPECTED _HRESULT_TYPEDEF_(0x8000FFFFL)
#endif
#ifndef E_ACCESSDENIED
#define E_ACCESSDENIED _HRESULT_TYPEDEF_(0x80070005L)
#endif
#ifndef E_HANDLE
#define E_HANDLE _HRESULT_TYPEDEF_(0x80070006L)
#endif
#ifndef E_OUTOFMEMORY
#define E_OUTOFMEMORY _HRESULT_TYPEDEF_(0x8007000EL)
#endif
#ifndef E_INVALIDARG
#define E_INVALIDARG _HRESULT_TYPEDEF_(0x80070057L)
#endif

/* Errors of the platform itself. Programs define some of these again without a guard, so the replacement is
 * the very token sequence of the Windows SDK's winerror.h: an identical redefinition is no clash. */
#ifndef WHV_E_UNKNOWN_CAPABILITY
#define WHV_E_UNKNOWN_CAPABILITY _HRESULT_TYPEDEF_(0x80370300L)
#endif
#ifndef WHV_E_INSUFFICIENT_BUFFER
#define WHV_E_INSUFFICIENT_BUFFER _HRESULT_TYPEDEF_(0x80370301L)
#endif
#ifndef WHV_E_UNKNOWN_PROPERTY
#define WHV_E_UNKNOWN_PROPERTY _HRESULT_TYPEDEF_(0x80370302L)
#endif
#ifndef WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG
#define WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG _HRESULT_TYPEDEF_(0x80370303L)
#endif
#ifndef WHV_E_INVALID_PARTITION_CONFIG
#define WHV_E_INVALID_PARTITION_CONFIG _HRESULT_TYPEDEF_(0x80370304L)
#endif
#ifndef WHV_E_GPA_RANGE_NOT_FOUND
#define WHV_E_GPA_RANGE_NOT_FOUND _HRESULT_TYPEDEF_(0x80370305L)
#endif
#ifndef WHV_E_VP_ALREADY_EXISTS
#define WHV_E_VP_ALREADY_EXISTS _HRESULT_TYPEDEF_(0x80370306L)
#endif
#ifndef WHV_E_VP_DOES_NOT_EXIST
#define WHV_E_VP_DOES_NOT_EXIST _HRESULT_TYPEDEF_(0x80370307L)
#endif
#ifndef WHV_E_INVALID_VP_STATE
#define WHV_E_INVALID_VP_STATE _HRESULT_TYPEDEF_(0x80370308L)
#endif
#ifndef WHV_E_INVALID_VP_REGISTER_NAME
#define WHV_E_INVALID_VP_REGISTER_NAME _HRESULT_TYPEDEF_(0x80370309L)
#endif
#ifndef WHV_E_UNSUPPORTED_PROCESSOR_CONFIG
#define WHV_E_UNSUPPORTED_PROCESSOR_CONFIG _HRESULT_TYPEDEF_(0x80370310L)
#endif

/* Hypervisor status values. They have the shape of an HRESULT already and pass through
 * HRESULT_FROM_WIN32 unchanged. */
#ifndef _NDIS_ERROR_TYPEDEF_
#define _NDIS_ERROR_TYPEDEF_(lErr) ((DWORD)lErr)
#endif
#ifndef ERROR_HV_INVALID_PARAMETER
#define ERROR_HV_INVALID_PARAMETER _NDIS_ERROR_TYPEDEF_(0xC0350005L)
#endif
#ifndef ERROR_HV_ACCESS_DENIED
#define ERROR_HV_ACCESS_DENIED _NDIS_ERROR_TYPEDEF_(0xC0350006L)
#endif
#ifndef ERROR_HV_OPERATION_DENIED
#define ERROR_HV_OPERATION_DENIED _NDIS_ERROR_TYPEDEF_(0xC0350008L)
#endif
#ifndef ERROR_HV_OBJECT_IN_USE
#define ERROR_HV_OBJECT_IN_USE _NDIS_ERROR_TYPEDEF_(0xC0350019L)
#endif
#ifndef ERROR_HV_NOT_PRESENT
#define ERROR_HV_NOT_PRESENT _NDIS_ERROR_TYPEDEF_(0xC0351000L)
#endif

#endif /* BULKHEAD_WINTYPES_H */
