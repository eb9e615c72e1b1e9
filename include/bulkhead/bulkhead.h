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

/* Tells in words by which way this host gives partitions what CpuCap, CpuReserve, CpuWeight, CpuGroupId and
 * ProcessorFrequencyCap ask for. Each line is "WHAT: HOW".
 *
 * Needed and Buffer as for BulkheadGetEngineReport.
 * Errors: WHV_E_INSUFFICIENT_BUFFER, and nothing is written to Buffer. */
HRESULT BulkheadGetHostPolicyReport(char *Buffer, UINT32 BufferSizeInBytes, UINT32 *Needed);

/* Tells how many guest instructions a processor has executed since it was created. It may be asked while the
 * processor runs, and then lags behind a little.
 * Errors: E_POINTER; WHV_E_VP_DOES_NOT_EXIST; E_NOTIMPL when the partition's engine does not count. */
HRESULT BulkheadGetVirtualProcessorInstructionCount(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                    UINT64 *Count);

/* ---- Migration -------------------------------------------------------------------------------------------
 *
 * A migration handle is a descriptor underneath, the end of a local channel. Taken out of its handle it can be
 * sent over a Unix socket, inherited, or fetched with pidfd_getfd; the other process makes a handle of it. The
 * process that started the migration must keep no copy of it, or it could not tell when the other one is gone. */

/* Takes the descriptor out of a handle. The handle is none any more; the descriptor is the caller's to close,
 * and has close-on-exec set.
 * Errors: E_POINTER; E_HANDLE for a handle that was never issued or is closed. */
HRESULT BulkheadFdFromHandle(HANDLE Handle, int *Fd);

/* Makes a migration handle of a descriptor, which is the handle's from then on. What is behind it is looked at by
 * WHvAcceptPartitionMigration.
 * Errors: E_POINTER; E_INVALIDARG when Fd is no open descriptor; E_OUTOFMEMORY. The descriptor stays the
 * caller's then. */
HRESULT BulkheadHandleFromFd(int Fd, HANDLE *Handle);

/* Closes a handle and its descriptor. WHvAcceptPartitionMigration does so by itself when it succeeds.
 * Errors: E_HANDLE. */
HRESULT BulkheadCloseHandle(HANDLE Handle);

/* Copies private guest memory for a migration to come, while processors run: of the ranges that are mapped with
 * WHvMapGpaRangeFlagTrackDirtyPages, the first time all of it, then what was written since the call before.
 * Copied (may be null) receives how much that was. WHvStartPartitionMigration copies the rest. Changing the memory
 * map forgets the copies. Other calls that change the partition wait meanwhile; runs do not.
 * Errors: E_INVALIDARG for the handle; ERROR_INVALID_STATE; E_ACCESSDENIED when memory cannot be read;
 * E_OUTOFMEMORY. */
HRESULT BulkheadPrecopyMigration(WHV_PARTITION_HANDLE Partition, UINT64 *CopiedSizeInBytes);

/* Says that the program itself has written to guest memory, after the first BulkheadPrecopyMigration.
 * Errors: E_INVALIDARG for the handle, or a range that no guest address can lie in; ERROR_INVALID_STATE. */
HRESULT BulkheadMarkGuestMemory(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                UINT64 SizeInBytes);

/* Whether the guest's clocks shall show the time between WHvStartPartitionMigration and WHvSetupPartition. Unless
 * told, they go on where they stood. Between WHvAcceptPartitionMigration and WHvSetupPartition.
 * Errors: E_INVALIDARG for the handle; ERROR_INVALID_STATE (as an HRESULT). */
HRESULT BulkheadShowDowntime(WHV_PARTITION_HANDLE Partition, BOOL Show);

/* Tells where a guest address lies in this process, and how many bytes from there on lie behind each other in
 * guest and host. Memory that came with a migrated partition is the library's: it stays until the partition is
 * deleted, whether it is mapped for the guest or not.
 * Errors: E_POINTER; E_INVALIDARG for the handle; ERROR_INVALID_STATE; WHV_E_GPA_RANGE_NOT_FOUND. */
HRESULT BulkheadFindGuestMemory(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, VOID **Address,
                                UINT64 *SizeInBytes);

/* Writes the state of all processors and of the clock, as bytes that a later call, another process or another
 * host can load. Memory, its mapping and properties are not in it. No processor may run.
 * Errors: E_INVALIDARG for the handle; ERROR_INVALID_STATE, also when a processor runs; WHV_E_INSUFFICIENT_BUFFER
 * with the size needed; E_OUTOFMEMORY. */
HRESULT BulkheadSavePartitionState(WHV_PARTITION_HANDLE Partition, VOID *Buffer, UINT32 BufferSizeInBytes,
                                   UINT32 *WrittenSizeInBytes);

/* Loads such a state into a partition that is set up with the same properties on the same engine. Processors that
 * are missing are created. Time stands still until the next run, and goes on where it was; with ShowDowntime by
 * so much later as the time of day is. On failure some processors have their new state and others not.
 * Errors: E_POINTER; E_INVALIDARG for the handle, or bytes that are not a state for this partition;
 * ERROR_NOT_SUPPORTED for a newer version or another engine; ERROR_INVALID_STATE; E_OUTOFMEMORY. */
HRESULT BulkheadLoadPartitionState(WHV_PARTITION_HANDLE Partition, const VOID *Buffer, UINT32 BufferSizeInBytes,
                                   BOOL ShowDowntime);

#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif /* BULKHEAD_BULKHEAD_H */
