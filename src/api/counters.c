// Counters: of a partition, and of a virtual processor.
#include <stddef.h>

#include "api/call.h"

HRESULT WINAPI WHvGetPartitionCounters(WHV_PARTITION_HANDLE Partition, WHV_PARTITION_COUNTER_SET CounterSet,
                                       VOID *Buffer, UINT32 BufferSizeInBytes, UINT32 *BytesWritten)
{
    WHV_PARTITION_MEMORY_COUNTERS memory = {0};
    struct api_call call;
    HRESULT hr = api_enter(&call, Partition, IN_SERVICE);

    if (FAILED(hr))
        return hr;
    if (CounterSet != WHvPartitionCounterSetMemory)
        hr = WHV_E_UNKNOWN_PROPERTY;
    else if (BufferSizeInBytes >= sizeof(memory))       // else the answer is the size needed, whatever the counters say
        hr = call.partition->engine->memory_counters(call.partition, &memory);
    if (SUCCEEDED(hr))
        hr = api_write_result(&memory, sizeof(memory), Buffer, BufferSizeInBytes, BytesWritten);
    api_leave(&call);
    return hr;
}

#define SET(set, member)                                                                                     \
    [set] = {offsetof(struct processor_counters, member), sizeof(((struct processor_counters *)0)->member)}

// Where each set lies among all counters.
static const struct { UINT16 offset, size; } sets[] = {
    SET(WHvProcessorCounterSetRuntime, runtime),
    SET(WHvProcessorCounterSetIntercepts, intercepts),
    SET(WHvProcessorCounterSetEvents, events),
    SET(WHvProcessorCounterSetApic, apic),
    SET(WHvProcessorCounterSetSyntheticFeatures, synthetic_features),
};

HRESULT WINAPI WHvGetVirtualProcessorCounters(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                              WHV_PROCESSOR_COUNTER_SET CounterSet, VOID *Buffer,
                                              UINT32 BufferSizeInBytes, UINT32 *BytesWritten)
{
    struct processor_counters counters = {0};
    struct api_call call;
    HRESULT hr = api_enter_vp(&call, Partition, VpIndex, IN_SERVICE);

    if (FAILED(hr))
        return hr;
    if ((UINT32)CounterSet >= sizeof(sets) / sizeof(sets[0]))
        hr = WHV_E_UNKNOWN_PROPERTY;
    else if (BufferSizeInBytes >= sets[CounterSet].size)
        hr = call.partition->engine->counters(call.vp, &counters);
    if (SUCCEEDED(hr))
        hr = api_write_result((const char *)&counters + sets[CounterSet].offset, sets[CounterSet].size, Buffer,
                              BufferSizeInBytes, BytesWritten);
    api_leave(&call);
    return hr;
}
