/* What Bulkhead has beyond the Windows Hypervisor Platform API: the choice of an engine.
 *
 * An engine is what executes a partition's processors: "kvm" (the host's virtualisation hardware) or "soft"
 * (an x86-64 processor in user space). The choice is made at WHvSetupPartition, when the properties are
 * known: the fastest usable engine that supports all that was asked for. Three things override it, the first
 * that is there:
 *
 *   1. BulkheadSetEngine on the partition
 *   2. the environment variable BULKHEAD_ENGINE=auto|kvm|soft
 *   3. "auto"
 *
 * A relaxation gives up something that an engine cannot do, and that the program asks for but does not need,
 * so that a faster engine can be chosen. Relaxations are named, never on by default, and come from
 * BulkheadSetRelaxations or, without it, from the environment variable BULKHEAD_RELAX; both are lists of
 * names with commas between them. docs/engines.md lists the names.
 *
 * Both variables are read when a partition is created, and by calls without a partition.
 */
#ifndef BULKHEAD_BULKHEAD_H
#define BULKHEAD_BULKHEAD_H

#include "../WinHvPlatformDefs.h"

/* One engine of this build. All strings are in UTF-8 and end with a zero byte. */
typedef struct BULKHEAD_ENGINE_INFO {
    UINT32 Size;        /* in: sizeof(BULKHEAD_ENGINE_INFO) of the caller */
    BOOL Usable;        /* the host has what this engine needs */
    BOOL ChosenByAuto;  /* a partition with default properties would get it */
    UINT32 Reserved;
    char Name[16];      /* as BulkheadSetEngine takes it */
    char Reason[232];   /* one sentence: why it is usable, or why not, and why it is or is not chosen */
} BULKHEAD_ENGINE_INFO;
C_ASSERT(sizeof(BULKHEAD_ENGINE_INFO) == 264);

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility push(default)
#endif

/* The version of the library, "major.minor.patch". The string is static. */
const char *BulkheadVersion(void);

/* Describes engine number Index, counted from 0, the fastest first.
 * Errors: E_POINTER; E_INVALIDARG when Size is too small; ERROR_NOT_FOUND (as an HRESULT) past the last. */
HRESULT BulkheadGetEngineInfo(UINT32 Index, BULKHEAD_ENGINE_INFO *Info);

/* Names the engine of a partition that is not set up yet: "auto", "kvm" or "soft".
 * Errors: E_POINTER; E_INVALIDARG for the handle or an unknown name; ERROR_INVALID_STATE (as an HRESULT)
 * after set-up. That the engine is usable is checked at set-up, which then fails with
 * WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG. */
HRESULT BulkheadSetEngine(WHV_PARTITION_HANDLE Partition, const char *Name);

/* Tells in words which engine a partition got, or would get, why each faster one was passed over, and which
 * relaxations were used. The first line is "engine: NAME". With a null partition it speaks of a partition
 * with default properties.
 *
 * Needed (may be null) receives the size of the whole text with its terminating zero. Buffer may be null with
 * a size of 0.
 * Errors: WHV_E_INSUFFICIENT_BUFFER, and nothing is written to Buffer. */
HRESULT BulkheadGetEngineReport(WHV_PARTITION_HANDLE Partition, char *Buffer, UINT32 BufferSizeInBytes,
                                UINT32 *Needed);

/* Sets the relaxations of a partition that is not set up yet: names with commas between them, or "" for none.
 * Errors: E_POINTER; E_INVALIDARG for the handle or an unknown name; ERROR_INVALID_STATE after set-up. */
HRESULT BulkheadSetRelaxations(WHV_PARTITION_HANDLE Partition, const char *List);

/* Tells how many guest instructions a processor has executed since it was created. It may be asked while the
 * processor runs, and then lags behind a little.
 * Errors: E_POINTER; WHV_E_VP_DOES_NOT_EXIST; E_NOTIMPL when the partition's engine does not count. */
HRESULT BulkheadGetVirtualProcessorInstructionCount(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                    UINT64 *Count);

#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif /* BULKHEAD_BULKHEAD_H */
