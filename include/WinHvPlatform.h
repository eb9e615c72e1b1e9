/* The functions of the Windows Hypervisor Platform API: partitions, their memory and their processors.
 *
 * Rules for every function, unless its comment says otherwise:
 * - It returns S_OK, or an error and has changed nothing.
 * - A handle that was never issued, or was deleted, gives E_INVALIDARG; a null pointer where a result is
 *   asked for gives E_POINTER; memory that runs out, E_OUTOFMEMORY.
 * - A processor index of a processor that does not exist gives WHV_E_VP_DOES_NOT_EXIST.
 * - A call that the state of the partition forbids (see "Life of a partition") gives
 *   HRESULT_FROM_WIN32(ERROR_INVALID_STATE), or the error that the comment names.
 * - A function that this build does not implement returns E_NOTIMPL; docs/api-status.md lists them.
 * - It may be called from any thread. Buffers belong to the caller and are not kept after the call returns;
 *   the one exception is memory that WHvMapGpaRange has lent to the guest.
 * - An output buffer may be larger than needed. One that is too small gives WHV_E_INSUFFICIENT_BUFFER and,
 *   where there is a parameter for the size, the size that is needed.
 *
 * Life of a partition:
 *   WHvCreatePartition -> created: properties may be set, nothing else exists yet
 *   WHvSetupPartition  -> set up: processors, memory and everything else
 *   WHvDeletePartition -> gone; lawful in every state
 * WHvStartPartitionMigration takes a partition that is set up out of service; see there.
 */
#ifndef _WINHVAPI_H_
#define _WINHVAPI_H_

#include "WinHvPlatformDefs.h"

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility push(default)
#endif

/* ---- Capabilities ---------------------------------------------------------------------------- */

/* Tells what the platform offers: one value of WHV_CAPABILITY for each capability code.
 *
 * WrittenSizeInBytes may be null. Before it asks for anything else, a program asks for
 * WHvCapabilityCodeHypervisorPresent.
 * Errors: WHV_E_UNKNOWN_CAPABILITY for a code that is not defined, WHV_E_INSUFFICIENT_BUFFER. */
HRESULT WINAPI WHvGetCapability(WHV_CAPABILITY_CODE CapabilityCode, VOID *CapabilityBuffer,
                                UINT32 CapabilityBufferSizeInBytes, UINT32 *WrittenSizeInBytes);

/* ---- Partitions ------------------------------------------------------------------------------ */

/* Creates a partition, with every property at its default. It belongs to the calling process until
 * WHvDeletePartition. */
HRESULT WINAPI WHvCreatePartition(WHV_PARTITION_HANDLE *Partition);

/* Builds the partition from its properties: from here on processors and memory can be added, and only the
 * properties that WHvSetPartitionProperty names can still change. On a partition that
 * WHvAcceptPartitionMigration gave, it takes the partition into service.
 *
 * Errors: WHV_E_INVALID_PARTITION_CONFIG when ProcessorCount was not set, or when properties contradict each
 * other; ERROR_INVALID_STATE (as an HRESULT) when it is set up already, or while the source of a migration
 * has not completed; ERROR_NO_SYSTEM_RESOURCES (as an HRESULT) when the host cannot honour CpuReserve beside the
 * reserves that it has admitted; E_INVALIDARG when other members of its CpuGroupId have other limits;
 * ERROR_NOT_SUPPORTED (as an HRESULT) for what WHvCapabilityCodeSchedulerFeatures says is not to be had. */
HRESULT WINAPI WHvSetupPartition(WHV_PARTITION_HANDLE Partition);

/* Puts every processor back into its reset state and withdraws pending interrupts and cancels; properties and
 * mapped memory stay. Running processors are stopped first, and the clocks stand still until one runs again.
 * Errors: ERROR_INVALID_STATE (as an HRESULT) before set-up. */
HRESULT WINAPI WHvResetPartition(WHV_PARTITION_HANDLE Partition);

/* Deletes the partition with all that belongs to it, in whatever state it is. Processors that are running
 * are stopped; their WHvRunVirtualProcessor calls return first. Memory that was mapped is not freed, it is
 * the caller's. */
HRESULT WINAPI WHvDeletePartition(WHV_PARTITION_HANDLE Partition);

/* Reads a property; WrittenSizeInBytes may be null. A property that was never set has its default, also
 * before set-up. The lists can only be set.
 * Errors: WHV_E_UNKNOWN_PROPERTY, WHV_E_INSUFFICIENT_BUFFER; ERROR_NOT_SUPPORTED (as an HRESULT) for a
 * list. */
HRESULT WINAPI WHvGetPartitionProperty(WHV_PARTITION_HANDLE Partition,
                                       WHV_PARTITION_PROPERTY_CODE PropertyCode, VOID *PropertyBuffer,
                                       UINT32 PropertyBufferSizeInBytes, UINT32 *WrittenSizeInBytes);

/* Sets a property. A buffer larger than the value is accepted (programs pass the whole union); for the lists
 * (CpuidExitList, CpuidResultList, CpuidResultList2, MsrActionList) the size says how many entries there are.
 *
 * After set-up only ExtendedVmExits, ExceptionExitBitmap, X64MsrExitBitmap and CpuidExitList may change, also
 * while processors run, which see the change at their next entry.
 * Errors: WHV_E_UNKNOWN_PROPERTY; E_INVALIDARG for a value out of range, a size that is too small, or a
 * property that can no longer be set. */
HRESULT WINAPI WHvSetPartitionProperty(WHV_PARTITION_HANDLE Partition,
                                       WHV_PARTITION_PROPERTY_CODE PropertyCode, const VOID *PropertyBuffer,
                                       UINT32 PropertyBufferSizeInBytes);

/* Stops the partition's clocks: time stamp counter, local APIC timers and reference time. They go on with
 * WHvResumePartitionTime, or by themselves when a processor runs again. */
HRESULT WINAPI WHvSuspendPartitionTime(WHV_PARTITION_HANDLE Partition);

/* Lets the clocks go on from where WHvSuspendPartitionTime stopped them. */
HRESULT WINAPI WHvResumePartitionTime(WHV_PARTITION_HANDLE Partition);

/* Reads a set of the partition's counters, a WHV_PARTITION_..._COUNTERS structure; BytesWritten may be null.
 * Errors: WHV_E_UNKNOWN_PROPERTY for a set that is not defined, WHV_E_INSUFFICIENT_BUFFER. */
HRESULT WINAPI WHvGetPartitionCounters(WHV_PARTITION_HANDLE Partition, WHV_PARTITION_COUNTER_SET CounterSet,
                                       VOID *Buffer, UINT32 BufferSizeInBytes, UINT32 *BytesWritten);

/* ---- Migration ------------------------------------------------------------------------------- */

/* Begins to hand the partition over to another process of this host: serialises its state and gives a handle
 * that the other process passes to WHvAcceptPartitionMigration. Until the migration is completed or
 * cancelled, calls that would change what was serialised fail with ERROR_INVALID_STATE (as an HRESULT).
 * Deleting the partition cancels.
 *
 * Order: start (source), accept (destination), complete (source), set up (destination). */
HRESULT WINAPI WHvStartPartitionMigration(WHV_PARTITION_HANDLE Partition, HANDLE *MigrationHandle);

/* Takes the source's migration back; the partition is as it was before. Lawful until it was completed. */
HRESULT WINAPI WHvCancelPartitionMigration(WHV_PARTITION_HANDLE Partition);

/* Ends the source's side, after the destination has accepted. The only lawful call on the partition is then
 * WHvDeletePartition. */
HRESULT WINAPI WHvCompletePartitionMigration(WHV_PARTITION_HANDLE Partition);

/* Makes a partition of a migration handle, and closes the handle. The partition can then only be set up
 * (once the source has completed) or deleted.
 * Errors: E_INVALIDARG when the data cannot be parsed; ERROR_INVALID_DATA when handles in it are missing,
 * ERROR_NOT_SUPPORTED when it has a version that this build does not know, both as HRESULTs. */
HRESULT WINAPI WHvAcceptPartitionMigration(HANDLE MigrationHandle, WHV_PARTITION_HANDLE *Partition);

/* ---- Guest memory ---------------------------------------------------------------------------- */

/* Lends a range of this process's memory to the guest as guest physical memory. Addresses and size are
 * multiples of 4,096, and the range lies below the guest's physical address width: otherwise E_INVALIDARG.
 *
 * The source may be merely reserved when it is mapped; a guest access to a page that is not there exits.
 * Mapping over a range that is mapped replaces it. One source range may be mapped at several guest ranges.
 * WHvMapGpaRangeFlagTrackDirtyPages is E_INVALIDARG on an engine without the capability DirtyPageTracking; with it
 * all pages begin as not written.
 * The caller keeps the memory alive until the range is unmapped or the partition deleted. */
HRESULT WINAPI WHvMapGpaRange(WHV_PARTITION_HANDLE Partition, VOID *SourceAddress,
                              WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, UINT64 SizeInBytes,
                              WHV_MAP_GPA_RANGE_FLAGS Flags);

/* WHvMapGpaRange from the memory of another process. */
HRESULT WINAPI WHvMapGpaRange2(WHV_PARTITION_HANDLE Partition, HANDLE Process, VOID *SourceAddress,
                               WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, UINT64 SizeInBytes,
                               WHV_MAP_GPA_RANGE_FLAGS Flags);

/* Takes a range back. It may be a part of what was mapped, or span several maps. When the call returns no
 * processor touches the memory any more.
 * Errors: E_INVALIDARG as for mapping; WHV_E_GPA_RANGE_NOT_FOUND when nothing is mapped there. */
HRESULT WINAPI WHvUnmapGpaRange(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                UINT64 SizeInBytes);

/* Translates a guest virtual address as a processor would in its present state. S_OK says that the
 * translation was tried: whether it succeeded stands in TranslationResult, and Gpa is valid only then. */
HRESULT WINAPI WHvTranslateGva(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_GUEST_VIRTUAL_ADDRESS Gva,
                               WHV_TRANSLATE_GVA_FLAGS TranslateFlags,
                               WHV_TRANSLATE_GVA_RESULT *TranslationResult, WHV_GUEST_PHYSICAL_ADDRESS *Gpa);

/* Tells which pages of a range were written since the last query, and starts over: bit N of the map stands
 * for the page at GuestAddress + N * 4,096. The range was mapped with WHvMapGpaRangeFlagTrackDirtyPages.
 * It lies on 8 bytes and has 8 bytes for each 64 pages begun. With a size of 0 there is none, and the call only
 * starts over.
 * Errors: WHV_E_GPA_RANGE_NOT_FOUND when not all of the range is mapped and tracked; E_INVALIDARG for addresses
 * that are not on a page, or a bitmap that is too small or lies badly; E_POINTER for a missing one. */
HRESULT WINAPI WHvQueryGpaRangeDirtyBitmap(WHV_PARTITION_HANDLE Partition,
                                           WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, UINT64 RangeSizeInBytes,
                                           UINT64 *Bitmap, UINT32 BitmapSizeInBytes);

/* Advises on the memory behind guest ranges: bring it in, pin it, or let go of a pin. AdviceBuffer is a
 * WHV_ADVISE_GPA_RANGE_POPULATE for Populate and null otherwise. */
HRESULT WINAPI WHvAdviseGpaRange(WHV_PARTITION_HANDLE Partition, const WHV_MEMORY_RANGE_ENTRY *GpaRanges,
                                 UINT32 GpaRangesCount, WHV_ADVISE_GPA_RANGE_CODE Advice,
                                 const VOID *AdviceBuffer, UINT32 AdviceBufferSizeInBytes);

/* Reads 1 to WHV_READ_WRITE_GPA_RANGE_MAX_SIZE bytes of guest physical memory, as the processor would.
 * Errors: E_INVALIDARG for the size, the cache type or a reserved field; E_ACCESSDENIED where the range is
 * not mapped or must not be read. */
HRESULT WINAPI WHvReadGpaRange(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                               WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, WHV_ACCESS_GPA_CONTROLS Controls,
                               PVOID Data, UINT32 DataSizeInBytes);

/* The counterpart of WHvReadGpaRange. */
HRESULT WINAPI WHvWriteGpaRange(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, WHV_ACCESS_GPA_CONTROLS Controls,
                                const VOID *Data, UINT32 DataSizeInBytes);

/* ---- Virtual processors ---------------------------------------------------------------------- */

/* Creates a processor in its reset state. VpIndex is below the partition's ProcessorCount and is the
 * processor's APIC id; Flags is 0.
 * Errors: E_INVALIDARG for the index or the flags; WHV_E_VP_ALREADY_EXISTS. */
HRESULT WINAPI WHvCreateVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Flags);

/* WHvCreateVirtualProcessor with properties for this processor; Properties may be null if there are none. */
HRESULT WINAPI WHvCreateVirtualProcessor2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                          const WHV_VIRTUAL_PROCESSOR_PROPERTY *Properties,
                                          UINT32 PropertyCount);

/* Deletes a processor, after stopping it if it runs. The same index may be created again. */
HRESULT WINAPI WHvDeleteVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex);

/* Runs a processor on the calling thread until there is something that the caller must handle, and tells what
 * in ExitContext. A processor runs on one thread at a time.
 *
 * ExitContext is a WHV_RUN_VP_EXIT_CONTEXT. A buffer of another size is accepted, as there are programs built
 * for earlier and later revisions of the structure: what fits is written. What the guest does is never an
 * error of this call.
 * Errors: WHV_E_INVALID_VP_STATE when the processor runs already. */
HRESULT WINAPI WHvRunVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, VOID *ExitContext,
                                      UINT32 ExitContextSizeInBytes);

/* Makes the processor's WHvRunVirtualProcessor return with WHvRunVpExitReasonCanceled, also out of a halt. If
 * it is not running, its next run returns so at once, without executing an instruction; several cancels
 * before that count as one. Flags is 0. */
HRESULT WINAPI WHvCancelRunVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Flags);

/* Reads registers by name, RegisterValues[i] for RegisterNames[i]. The array needs no alignment here; on
 * Windows it must be aligned to 16. A processor that runs is stopped for the time of the access.
 * Errors: WHV_E_INVALID_VP_REGISTER_NAME for a name that the engine does not know, 0xC0350005 (invalid
 * parameter) for one that cannot be read. */
HRESULT WINAPI WHvGetVirtualProcessorRegisters(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                               const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
                                               WHV_REGISTER_VALUE *RegisterValues);

/* Writes registers by name, all or none. Values that together make an impossible processor are accepted here
 * and end the next run with WHvRunVpExitReasonInvalidVpRegisterValue.
 * Errors: WHV_E_INVALID_VP_REGISTER_NAME as above; 0xC0350005 (invalid parameter) for a register that cannot
 * be written, or cannot have the value. */
HRESULT WINAPI WHvSetVirtualProcessorRegisters(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                               const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
                                               const WHV_REGISTER_VALUE *RegisterValues);

/* Reads the state of the x87, SSE, AVX and later components in the compacted form of XSAVE (SDM vol. 1
 * 13.4.3). With a null buffer of size 0 it tells the size, and WHV_E_INSUFFICIENT_BUFFER. */
HRESULT WINAPI WHvGetVirtualProcessorXsaveState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, VOID *Buffer,
                                                UINT32 BufferSizeInBytes, UINT32 *BytesWritten);

/* Writes what WHvGetVirtualProcessorXsaveState gave. */
HRESULT WINAPI WHvSetVirtualProcessorXsaveState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                const VOID *Buffer, UINT32 BufferSizeInBytes);

/* Reads one kind of state of a processor that is not running; BytesWritten may be null.
 * Errors: E_INVALIDARG for a type that is not defined; WHV_E_INSUFFICIENT_BUFFER, and the size needed. */
HRESULT WINAPI WHvGetVirtualProcessorState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                           WHV_VIRTUAL_PROCESSOR_STATE_TYPE StateType, VOID *Buffer,
                                           UINT32 BufferSizeInBytes, UINT32 *BytesWritten);

/* Writes what WHvGetVirtualProcessorState gave. */
HRESULT WINAPI WHvSetVirtualProcessorState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                           WHV_VIRTUAL_PROCESSOR_STATE_TYPE StateType, const VOID *Buffer,
                                           UINT32 BufferSizeInBytes);

/* Tells what the CPUID instruction would give on this processor for a leaf (Eax) and subleaf (Ecx). */
HRESULT WINAPI WHvGetVirtualProcessorCpuidOutput(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Eax,
                                                 UINT32 Ecx, WHV_CPUID_OUTPUT *CpuidOutput);

/* Reads a set of a processor's counters, a WHV_PROCESSOR_..._COUNTERS structure; BytesWritten may be null.
 * Errors: WHV_E_UNKNOWN_PROPERTY for a set that is not defined, WHV_E_INSUFFICIENT_BUFFER. */
HRESULT WINAPI WHvGetVirtualProcessorCounters(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                              WHV_PROCESSOR_COUNTER_SET CounterSet, VOID *Buffer,
                                              UINT32 BufferSizeInBytes, UINT32 *BytesWritten);

/* ---- Interrupts ------------------------------------------------------------------------------ */

/* Sends an interrupt to the local APICs that the destination names. InterruptControlSize is
 * sizeof(WHV_INTERRUPT_CONTROL). An APIC that software has disabled drops it; that is no error.
 * Errors: 0xC0350008 (operation denied) when the partition has no APIC emulation, 0xC0350005 (invalid
 * parameter) for a vector below 16. */
HRESULT WINAPI WHvRequestInterrupt(WHV_PARTITION_HANDLE Partition, const WHV_INTERRUPT_CONTROL *Interrupt,
                                   UINT32 InterruptControlSize);

/* Tells which processors an interrupt with this destination would reach. TargetVps has room for VpCount
 * indexes, at least as many as the partition's ProcessorCount; TargetVpCount receives how many there are.
 * Errors: E_INVALIDARG for the mode or too little room; ERROR_HV_OPERATION_DENIED without APIC emulation. */
HRESULT WINAPI WHvGetInterruptTargetVpSet(WHV_PARTITION_HANDLE Partition, UINT64 Destination,
                                          WHV_INTERRUPT_DESTINATION_MODE DestinationMode, UINT32 *TargetVps,
                                          UINT32 VpCount, UINT32 *TargetVpCount);

/* Reads the local APIC of a processor that is not running, in the older, packed form; WrittenSize may be
 * null. Errors: WHV_E_INSUFFICIENT_BUFFER, WHV_E_INVALID_VP_STATE. */
HRESULT WINAPI WHvGetVirtualProcessorInterruptControllerState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                              VOID *State, UINT32 StateSize,
                                                              UINT32 *WrittenSize);

/* Writes what WHvGetVirtualProcessorInterruptControllerState gave. */
HRESULT WINAPI WHvSetVirtualProcessorInterruptControllerState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                              const VOID *State, UINT32 StateSize);

/* Reads the local APIC as a 4,096-byte page with the registers at a stride of 16 bytes, as the guest sees it
 * (SDM vol. 3A 11.4.1). */
HRESULT WINAPI WHvGetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                               VOID *State, UINT32 StateSize,
                                                               UINT32 *WrittenSize);

/* Writes what WHvGetVirtualProcessorInterruptControllerState2 gave. */
HRESULT WINAPI WHvSetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                               const VOID *State, UINT32 StateSize);

/* ---- Synthetic interrupt controller ---------------------------------------------------------- */

/* Sets an event flag and raises its SINT. NewlySignaled (may be null) tells whether the flag was clear. */
HRESULT WINAPI WHvSignalVirtualProcessorSynicEvent(WHV_PARTITION_HANDLE Partition,
                                                   WHV_SYNIC_EVENT_PARAMETERS SynicEvent,
                                                   BOOL *NewlySignaled);

/* Puts a message of 1 to WHV_SYNIC_MESSAGE_SIZE bytes into a SINT's slot and raises the SINT.
 * Errors: E_INVALIDARG for the size; ERROR_HV_OBJECT_IN_USE while the guest has not taken the last one. */
HRESULT WINAPI WHvPostVirtualProcessorSynicMessage(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                   UINT32 SintIndex, const VOID *Message,
                                                   UINT32 MessageSizeInBytes);

/* ---- Doorbells, triggers and notification ports ---------------------------------------------- */

/* Signals an event whenever the guest writes what MatchData describes, instead of a memory exit. */
HRESULT WINAPI WHvRegisterPartitionDoorbellEvent(WHV_PARTITION_HANDLE Partition,
                                                 const WHV_DOORBELL_MATCH_DATA *MatchData,
                                                 HANDLE EventHandle);

/* Ends what WHvRegisterPartitionDoorbellEvent began, for the same MatchData. */
HRESULT WINAPI WHvUnregisterPartitionDoorbellEvent(WHV_PARTITION_HANDLE Partition,
                                                   const WHV_DOORBELL_MATCH_DATA *MatchData);

/* Makes an event that interrupts the guest when it is set. The trigger owns it and closes it. */
HRESULT WINAPI WHvCreateTrigger(WHV_PARTITION_HANDLE Partition, const WHV_TRIGGER_PARAMETERS *Parameters,
                                WHV_TRIGGER_HANDLE *TriggerHandle, HANDLE *EventHandle);

/* Changes what a trigger does. Its type stays. */
HRESULT WINAPI WHvUpdateTriggerParameters(WHV_PARTITION_HANDLE Partition,
                                          const WHV_TRIGGER_PARAMETERS *Parameters,
                                          WHV_TRIGGER_HANDLE TriggerHandle);

/* Deletes a trigger. */
HRESULT WINAPI WHvDeleteTrigger(WHV_PARTITION_HANDLE Partition, WHV_TRIGGER_HANDLE TriggerHandle);

/* Makes a port that sets an event when the guest signals it: by a doorbell write, or by the hypercall that
 * signals an event. */
HRESULT WINAPI WHvCreateNotificationPort(WHV_PARTITION_HANDLE Partition,
                                         const WHV_NOTIFICATION_PORT_PARAMETERS *Parameters,
                                         HANDLE EventHandle, WHV_NOTIFICATION_PORT_HANDLE *PortHandle);

/* Sets a property of a port. */
HRESULT WINAPI WHvSetNotificationPortProperty(WHV_PARTITION_HANDLE Partition,
                                              WHV_NOTIFICATION_PORT_HANDLE PortHandle,
                                              WHV_NOTIFICATION_PORT_PROPERTY_CODE PropertyCode,
                                              WHV_NOTIFICATION_PORT_PROPERTY PropertyValue);

/* Deletes a port. */
HRESULT WINAPI WHvDeleteNotificationPort(WHV_PARTITION_HANDLE Partition,
                                         WHV_NOTIFICATION_PORT_HANDLE PortHandle);

/* ---- Virtual PCI devices --------------------------------------------------------------------- */

/* Allocates what stands behind a virtual PCI device. The caller closes the handle.
 * A null ProviderId with a null descriptor gives an empty resource; with a descriptor
 * (WHV_SRIOV_RESOURCE_DESCRIPTOR), a physical function. */
HRESULT WINAPI WHvAllocateVpciResource(const GUID *ProviderId, WHV_ALLOCATE_VPCI_RESOURCE_FLAGS Flags,
                                       const VOID *ResourceDescriptor, UINT32 ResourceDescriptorSizeInBytes,
                                       HANDLE *VpciResource);

/* Makes a device of a resource and gives it to the partition. The event, which may be null, is set when
 * WHvGetVpciDeviceNotification has something to tell. */
HRESULT WINAPI WHvCreateVpciDevice(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId,
                                   HANDLE VpciResource, WHV_CREATE_VPCI_DEVICE_FLAGS Flags,
                                   HANDLE NotificationEventHandle);

/* Takes a device away from the partition. */
HRESULT WINAPI WHvDeleteVpciDevice(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId);

/* Reads a property of a device; WrittenSizeInBytes may be null. */
HRESULT WINAPI WHvGetVpciDeviceProperty(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId,
                                        WHV_VPCI_DEVICE_PROPERTY_CODE PropertyCode, VOID *PropertyBuffer,
                                        UINT32 PropertyBufferSizeInBytes, UINT32 *WrittenSizeInBytes);

/* Takes the next notification of a device; its type is WHvVpciDeviceNotificationUndefined when there is
 * none. */
HRESULT WINAPI WHvGetVpciDeviceNotification(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId,
                                            WHV_VPCI_DEVICE_NOTIFICATION *Notification,
                                            UINT32 NotificationSizeInBytes);

/* Maps the memory ranges of a device in power state D0 into this process. The array belongs to the library
 * and lives until the ranges are unmapped, the device loses power, or it is deleted. */
HRESULT WINAPI WHvMapVpciDeviceMmioRanges(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId,
                                          UINT32 *MappingCount, WHV_VPCI_MMIO_MAPPING **Mappings);

/* Ends what WHvMapVpciDeviceMmioRanges began. */
HRESULT WINAPI WHvUnmapVpciDeviceMmioRanges(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId);

/* Sets the power state of a device: PowerDeviceD0 or PowerDeviceD3. */
HRESULT WINAPI WHvSetVpciDevicePowerState(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId,
                                          DEVICE_POWER_STATE PowerState);

/* Reads a register of a device, in configuration space or behind a base address register. */
HRESULT WINAPI WHvReadVpciDeviceRegister(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId,
                                         const WHV_VPCI_DEVICE_REGISTER *Register, VOID *Data);

/* The counterpart of WHvReadVpciDeviceRegister. */
HRESULT WINAPI WHvWriteVpciDeviceRegister(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId,
                                          const WHV_VPCI_DEVICE_REGISTER *Register, const VOID *Data);

/* Directs a device's interrupt (MSI number Index, MessageCount messages) to processors of the guest, and
 * gives the address and data that the guest's driver programs. */
HRESULT WINAPI WHvMapVpciDeviceInterrupt(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId, UINT32 Index,
                                         UINT32 MessageCount, const WHV_VPCI_INTERRUPT_TARGET *Target,
                                         UINT64 *MsiAddress, UINT32 *MsiData);

/* Ends what WHvMapVpciDeviceInterrupt began. */
HRESULT WINAPI WHvUnmapVpciDeviceInterrupt(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId,
                                           UINT32 Index);

/* Gives a mapped interrupt another target. */
HRESULT WINAPI WHvRetargetVpciDeviceInterrupt(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId,
                                              UINT64 MsiAddress, UINT32 MsiData,
                                              const WHV_VPCI_INTERRUPT_TARGET *Target);

/* Raises an interrupt of a device that nothing physical stands behind. */
HRESULT WINAPI WHvRequestVpciDeviceInterrupt(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId,
                                             UINT64 MsiAddress, UINT32 MsiData);

/* Tells the target of a mapped interrupt; BytesWritten may be null.
 * Errors: WHV_E_INSUFFICIENT_BUFFER, and the size needed. */
HRESULT WINAPI WHvGetVpciDeviceInterruptTarget(WHV_PARTITION_HANDLE Partition, UINT64 LogicalDeviceId,
                                               UINT32 Index, UINT32 MultiMessageNumber,
                                               WHV_VPCI_INTERRUPT_TARGET *Target, UINT32 TargetSizeInBytes,
                                               UINT32 *BytesWritten);

#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif /* _WINHVAPI_H_ */
