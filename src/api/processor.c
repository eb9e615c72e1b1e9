// Virtual processors: create, delete, run, cancel, CPUID.
#include <string.h>

#include "api/call.h"
#include "partition/placement.h"
#include "partition/policy.h"

// The last value of a property counts. `*node` stays what it is without one.
static bool take_properties(const WHV_VIRTUAL_PROCESSOR_PROPERTY *properties, UINT32 count, int *node)
{
    for (UINT32 i = 0; i < count; i++) {
        if (properties[i].PropertyCode != WHvVirtualProcessorPropertyCodeNumaNode ||
            !placement_node_exists(properties[i].NumaNode))
            return false;
        *node = properties[i].NumaNode;
    }
    return true;
}

HRESULT WINAPI WHvCreateVirtualProcessor2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                          const WHV_VIRTUAL_PROCESSOR_PROPERTY *Properties,
                                          UINT32 PropertyCount)
{
    struct api_call call;
    int node = NO_NODE;
    HRESULT hr;

    if (!Properties && PropertyCount != 0)
        return E_POINTER;
    if (!take_properties(Properties, PropertyCount, &node))
        return E_INVALIDARG;
    hr = api_enter(&call, Partition, IN_SET_UP);
    if (FAILED(hr))
        return hr;
    if (VpIndex >= call.partition->properties.processor_count)
        hr = E_INVALIDARG;
    else
        hr = partition_vp_create_locked(call.partition, VpIndex, node);
    api_leave(&call);
    return hr;
}

HRESULT WINAPI WHvCreateVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Flags)
{
    return Flags == 0 ? WHvCreateVirtualProcessor2(Partition, VpIndex, NULL, 0) : E_INVALIDARG;
}

HRESULT WINAPI WHvDeleteVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex)
{
    struct api_call call;
    HRESULT hr = api_enter(&call, Partition, IN_SET_UP);

    if (FAILED(hr))
        return hr;
    hr = partition_vp_delete_locked(call.partition, VpIndex);
    api_leave(&call);
    return hr;
}

// Hand an exit to a caller whose structure may be an earlier or a later revision of ours.
static void write_exit(const WHV_RUN_VP_EXIT_CONTEXT *exit, void *buffer, UINT32 size)
{
    if (buffer == exit)
        return;
    if (size > sizeof(*exit)) {
        memset((char *)buffer + sizeof(*exit), 0, size - sizeof(*exit));
        size = sizeof(*exit);
    }
    memcpy(buffer, exit, size);
}

// Time goes on with the first run after it was stopped, and begins with the very first.
CHECKED static HRESULT resume_time(struct partition *p)
{
    HRESULT hr;

    if (clock_runs(&p->clock))
        return S_OK;
    pthread_mutex_lock(&p->lock);
    hr = partition_start_time_locked(p);
    pthread_mutex_unlock(&p->lock);
    return hr;
}

__attribute__((hot, flatten))
HRESULT WINAPI WHvRunVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, VOID *ExitContext,
                                      UINT32 ExitContextSizeInBytes)
{
    WHV_RUN_VP_EXIT_CONTEXT own, *exit = &own;
    struct api_call call;
    struct vp *vp;
    HRESULT hr;

    if (!ExitContext)
        return E_POINTER;
    if (ExitContextSizeInBytes < sizeof(exit->ExitReason))
        return WHV_E_INSUFFICIENT_BUFFER;
    // As nearly always. An engine writes to it with an exit alone.
    if (ExitContextSizeInBytes == sizeof(*exit) && (uintptr_t)ExitContext % _Alignof(WHV_RUN_VP_EXIT_CONTEXT) == 0)
        exit = ExitContext;
    hr = api_enter_unlocked(&call, Partition, IN_SET_UP);
    if (FAILED(hr))
        return hr;
    hr = partition_vp_claim(call.partition, VpIndex, &vp);
    if (SUCCEEDED(hr)) {
        hr = resume_time(call.partition);
        if (SUCCEEDED(hr))
            hr = policy_applies(vp) ? policy_run(vp, exit) : call.partition->engine->vp_run(vp, exit);
        partition_vp_release(vp);
        if (SUCCEEDED(hr))
            write_exit(exit, ExitContext, ExitContextSizeInBytes);
    }
    api_leave(&call);
    return hr;
}

HRESULT WINAPI WHvCancelRunVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Flags)
{
    struct api_call call;
    HRESULT hr;

    if (Flags != 0)
        return E_INVALIDARG;
    hr = api_enter_vp(&call, Partition, VpIndex, IN_SERVICE);
    if (FAILED(hr))
        return hr;
    partition_vp_cancel(call.vp);
    api_leave(&call);
    return S_OK;
}

HRESULT WINAPI WHvGetVirtualProcessorCpuidOutput(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Eax,
                                                 UINT32 Ecx, WHV_CPUID_OUTPUT *CpuidOutput)
{
    struct api_call call;
    UINT32 out[4];
    HRESULT hr;

    if (!CpuidOutput)
        return E_POINTER;
    hr = api_enter_vp(&call, Partition, VpIndex, IN_SERVICE);
    if (FAILED(hr))
        return hr;
    partition_cpuid(call.vp, Eax, Ecx, out);
    *CpuidOutput = (WHV_CPUID_OUTPUT){.Eax = out[0], .Ebx = out[1], .Ecx = out[2], .Edx = out[3]};
    api_leave(&call);
    return S_OK;
}
