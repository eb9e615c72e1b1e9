/* The instruction emulator of the Windows Hypervisor Platform API: completes the instruction that caused a
 * port or memory exit, by calling back for each access.
 *
 * An emulator has no partition and no processor of its own: registers, translations, memory and ports are all
 * reached through the callbacks, with the context pointer of the call at hand. One emulator may be used by
 * several threads at once, each with its own context.
 */
#ifndef _WINHVEMUAPI_H_
#define _WINHVEMUAPI_H_

#include "WinHvPlatformDefs.h"

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#endif

/* How an emulation ended. The call itself returns S_OK also when the emulation failed: only
 * EmulationSuccessful says that the instruction was completed. */
typedef union WHV_EMULATOR_STATUS {
    struct {
        UINT32 EmulationSuccessful : 1;
        UINT32 InternalEmulationFailure : 1; /* the emulator does not know the instruction */
        /* A callback returned an error. */
        UINT32 IoPortCallbackFailed : 1;
        UINT32 MemoryCallbackFailed : 1;
        UINT32 TranslateGvaPageCallbackFailed : 1;
        UINT32 TranslateGvaPageCallbackGpaIsNotAligned : 1; /* it gave an address that is not on a page */
        UINT32 GetVirtualProcessorRegistersCallbackFailed : 1;
        UINT32 SetVirtualProcessorRegistersCallbackFailed : 1;
        UINT32 InterruptCausedIntercept : 1; /* delivering an exception to the guest led to another exit */
        UINT32 GuestCannotBeFaulted : 1;     /* an exception was due while another was pending */
        UINT32 Reserved : 22;
    };
    UINT32 AsUINT32;
} WHV_EMULATOR_STATUS;
C_ASSERT(sizeof(WHV_EMULATOR_STATUS) == 4);

/* A memory access of the instruction, at most 8 bytes that do not cross a page. */
typedef struct WHV_EMULATOR_MEMORY_ACCESS_INFO {
    WHV_GUEST_PHYSICAL_ADDRESS GpaAddress;
    UINT8 Direction;  /* 0: read, the callback fills Data; 1: write */
    UINT8 AccessSize; /* 1 to 8 */
    UINT8 Data[8];
} WHV_EMULATOR_MEMORY_ACCESS_INFO;
C_ASSERT(sizeof(WHV_EMULATOR_MEMORY_ACCESS_INFO) == 24);

/* A port access of the instruction. String instructions cause one for each element. */
typedef struct WHV_EMULATOR_IO_ACCESS_INFO {
    UINT8 Direction; /* 0: IN, the callback fills Data; 1: OUT */
    UINT16 Port;
    UINT16 AccessSize; /* 1, 2 or 4 */
    UINT32 Data;
} WHV_EMULATOR_IO_ACCESS_INFO;
C_ASSERT(sizeof(WHV_EMULATOR_IO_ACCESS_INFO) == 12);

/* The callbacks. Context is what the caller gave WHvEmulatorTryIoEmulation or WHvEmulatorTryMmioEmulation. An
 * error ends the emulation and sets the status bit of the callback. */
typedef HRESULT(CALLBACK *WHV_EMULATOR_IO_PORT_CALLBACK)(VOID *Context,
                                                         WHV_EMULATOR_IO_ACCESS_INFO *IoAccess);

typedef HRESULT(CALLBACK *WHV_EMULATOR_MEMORY_CALLBACK)(VOID *Context,
                                                        WHV_EMULATOR_MEMORY_ACCESS_INFO *MemoryAccess);

typedef HRESULT(CALLBACK *WHV_EMULATOR_GET_VIRTUAL_PROCESSOR_REGISTERS_CALLBACK)(
    VOID *Context, const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
    WHV_REGISTER_VALUE *RegisterValues);

typedef HRESULT(CALLBACK *WHV_EMULATOR_SET_VIRTUAL_PROCESSOR_REGISTERS_CALLBACK)(
    VOID *Context, const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
    const WHV_REGISTER_VALUE *RegisterValues);

/* Gva and Gpa are those of a page; the flags are for WHvTranslateGva. */
typedef HRESULT(CALLBACK *WHV_EMULATOR_TRANSLATE_GVA_PAGE_CALLBACK)(
    VOID *Context, WHV_GUEST_VIRTUAL_ADDRESS Gva, WHV_TRANSLATE_GVA_FLAGS TranslateFlags,
    WHV_TRANSLATE_GVA_RESULT_CODE *TranslationResult, WHV_GUEST_PHYSICAL_ADDRESS *Gpa);

/* All callbacks of an emulator; none may be null. */
typedef struct WHV_EMULATOR_CALLBACKS {
    UINT32 Size; /* sizeof(WHV_EMULATOR_CALLBACKS) */
    UINT32 Reserved;
    WHV_EMULATOR_IO_PORT_CALLBACK WHvEmulatorIoPortCallback;
    WHV_EMULATOR_MEMORY_CALLBACK WHvEmulatorMemoryCallback;
    WHV_EMULATOR_GET_VIRTUAL_PROCESSOR_REGISTERS_CALLBACK WHvEmulatorGetVirtualProcessorRegisters;
    WHV_EMULATOR_SET_VIRTUAL_PROCESSOR_REGISTERS_CALLBACK WHvEmulatorSetVirtualProcessorRegisters;
    WHV_EMULATOR_TRANSLATE_GVA_PAGE_CALLBACK WHvEmulatorTranslateGvaPage;
} WHV_EMULATOR_CALLBACKS;
C_ASSERT(sizeof(WHV_EMULATOR_CALLBACKS) == 48);

typedef VOID *WHV_EMULATOR_HANDLE;

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility push(default)
#endif

/* Creates an emulator; the callbacks are copied.
 * Errors: E_POINTER, E_INVALIDARG for the size, a reserved member that is not zero, or a missing callback,
 * E_OUTOFMEMORY. */
HRESULT WINAPI WHvEmulatorCreateEmulator(const WHV_EMULATOR_CALLBACKS *Callbacks,
                                         WHV_EMULATOR_HANDLE *Emulator);

/* Destroys an emulator that no thread is using. */
HRESULT WINAPI WHvEmulatorDestroyEmulator(WHV_EMULATOR_HANDLE Emulator);

/* Completes the IN, OUT, INS or OUTS of a WHvRunVpExitReasonX64IoPortAccess exit, given the exit's two
 * contexts. The registers change through the callback, RIP included. */
HRESULT WINAPI WHvEmulatorTryIoEmulation(WHV_EMULATOR_HANDLE Emulator, VOID *Context,
                                         const WHV_VP_EXIT_CONTEXT *VpContext,
                                         const WHV_X64_IO_PORT_ACCESS_CONTEXT *IoInstructionContext,
                                         WHV_EMULATOR_STATUS *EmulatorReturnStatus);

/* Completes the instruction of a WHvRunVpExitReasonMemoryAccess exit, given the exit's two contexts. */
HRESULT WINAPI WHvEmulatorTryMmioEmulation(WHV_EMULATOR_HANDLE Emulator, VOID *Context,
                                           const WHV_VP_EXIT_CONTEXT *VpContext,
                                           const WHV_MEMORY_ACCESS_CONTEXT *MmioInstructionContext,
                                           WHV_EMULATOR_STATUS *EmulatorReturnStatus);

#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#endif /* _WINHVEMUAPI_H_ */
