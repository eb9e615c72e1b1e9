// The life of a partition and its properties.
#include <string.h>

#include "api/call.h"
#include "partition/migration.h"

HRESULT WINAPI WHvCreatePartition(WHV_PARTITION_HANDLE *Partition)
{
    struct partition *p;
    HRESULT hr;

    if (!Partition)
        return E_POINTER;
    hr = partition_create(&p);
    if (FAILED(hr))
        return hr;
    hr = handle_open(p, Partition);
    if (FAILED(hr))
        partition_free(p);
    return hr;
}

HRESULT WINAPI WHvSetupPartition(WHV_PARTITION_HANDLE Partition)
{
    struct api_call call;
    HRESULT hr = api_enter(&call, Partition, IN_CREATED | IN_MIGRATING_IN);

    if (FAILED(hr))
        return hr;
    hr = call.partition->state == PARTITION_CREATED ? partition_setup_locked(call.partition)
                                                    : migration_setup_locked(call.partition);
    api_leave(&call);
    return hr;
}

HRESULT WINAPI WHvResetPartition(WHV_PARTITION_HANDLE Partition)
{
    return api_act(Partition, IN_SET_UP, partition_reset_locked);
}

HRESULT WINAPI WHvSuspendPartitionTime(WHV_PARTITION_HANDLE Partition)
{
    return api_act(Partition, IN_SET_UP, partition_stop_time_locked);
}

HRESULT WINAPI WHvResumePartitionTime(WHV_PARTITION_HANDLE Partition)
{
    return api_act(Partition, IN_SET_UP, partition_start_time_locked);
}

// Never hangs: nobody new comes in, whoever runs a processor is cancelled, and no other call waits for the
// guest. A thread that is itself inside a call on the partition (a signal handler, say) must not delete it.
HRESULT WINAPI WHvDeletePartition(WHV_PARTITION_HANDLE Partition)
{
    struct partition *p = handle_close(Partition);

    if (!p)
        return E_INVALIDARG;
    partition_stop(p);
    handle_retire(Partition);
    partition_free(p);
    return S_OK;
}

HRESULT WINAPI WHvGetPartitionProperty(WHV_PARTITION_HANDLE Partition,
                                       WHV_PARTITION_PROPERTY_CODE PropertyCode, VOID *PropertyBuffer,
                                       UINT32 PropertyBufferSizeInBytes, UINT32 *WrittenSizeInBytes)
{
    const struct property *property = property_find(PropertyCode);
    WHV_PARTITION_PROPERTY value;
    struct api_call call;
    HRESULT hr;

    hr = api_enter(&call, Partition, IN_CREATED | IN_SERVICE | IN_MIGRATING_IN);
    if (FAILED(hr))
        return hr;
    if (!property) {
        hr = WHV_E_UNKNOWN_PROPERTY;
    } else if (property_is_list(property)) {
        // The reference: lists can be set only.
        hr = HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED);
    } else {
        property_get(&call.partition->properties, property, &value);
        if (PropertyCode == WHvPartitionPropertyCodeReferenceTime)
            value.ReferenceTime = partition_reference_time(call.partition);
        hr = api_write_result(&value, property->size, PropertyBuffer, PropertyBufferSizeInBytes,
                              WrittenSizeInBytes);
    }
    api_leave(&call);
    return hr;
}

// What can be said about a buffer without the partition.
CHECKED static HRESULT check_property_buffer(const struct property *property, const void *buffer, UINT32 size)
{
    if (!property)
        return WHV_E_UNKNOWN_PROPERTY;
    if (!buffer && (size != 0 || !property_is_list(property)))
        return E_POINTER;
    if (property_is_list(property))
        return size % property->size == 0 ? S_OK : E_INVALIDARG;
    return size >= property->size ? S_OK : E_INVALIDARG;
}

HRESULT WINAPI WHvSetPartitionProperty(WHV_PARTITION_HANDLE Partition,
                                       WHV_PARTITION_PROPERTY_CODE PropertyCode, const VOID *PropertyBuffer,
                                       UINT32 PropertyBufferSizeInBytes)
{
    const struct property *property = property_find(PropertyCode);
    struct api_call call;
    HRESULT hr = api_enter(&call, Partition, IN_CREATED | IN_SET_UP);

    if (FAILED(hr))
        return hr;
    hr = check_property_buffer(property, PropertyBuffer, PropertyBufferSizeInBytes);
    if (SUCCEEDED(hr) && call.partition->state != PARTITION_CREATED && !property->after_setup)
        hr = E_INVALIDARG;
    if (SUCCEEDED(hr))
        hr = partition_set_property_locked(call.partition, property, PropertyBuffer,
                                           PropertyBufferSizeInBytes);
    api_leave(&call);
    return hr;
}
