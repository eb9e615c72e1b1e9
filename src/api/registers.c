// Registers of a virtual processor by name.
#include <stdlib.h>
#include <string.h>

#include "api/call.h"

// Callers' arrays need no alignment, the engines' do. An aligned one is used as it is.
struct aligned_values {
    WHV_REGISTER_VALUE *values;
    WHV_REGISTER_VALUE few[16];
    WHV_REGISTER_VALUE *many;       // owned; NULL when `few` suffices
};

CHECKED static HRESULT align_values(struct aligned_values *aligned, const WHV_REGISTER_VALUE *callers,
                                    UINT32 count)
{
    aligned->many = NULL;
    if ((uintptr_t)callers % _Alignof(WHV_REGISTER_VALUE) == 0) {
        aligned->values = (WHV_REGISTER_VALUE *)callers;
        return S_OK;
    }
    aligned->values = aligned->few;
    if (count > sizeof(aligned->few) / sizeof(aligned->few[0])) {
        aligned->values = aligned->many = malloc(count * sizeof(*aligned->many));
        if (!aligned->many)
            return E_OUTOFMEMORY;
    }
    memcpy(aligned->values, (const void *)callers, count * sizeof(*callers));
    return S_OK;
}

HRESULT WINAPI WHvGetVirtualProcessorRegisters(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                               const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
                                               WHV_REGISTER_VALUE *RegisterValues)
{
    struct aligned_values aligned;
    struct api_call call;
    HRESULT hr;

    if (RegisterCount != 0 && (!RegisterNames || !RegisterValues))
        return E_POINTER;
    hr = api_enter_vp(&call, Partition, VpIndex, IN_SERVICE);
    if (FAILED(hr))
        return hr;
    hr = align_values(&aligned, RegisterValues, RegisterCount);
    if (SUCCEEDED(hr) && RegisterCount != 0) {
        hr = call.partition->engine->get_registers(call.vp, RegisterNames, RegisterCount, aligned.values);
        if (SUCCEEDED(hr) && aligned.values != RegisterValues)
            memcpy((void *)RegisterValues, aligned.values, RegisterCount * sizeof(*RegisterValues));
    }
    if (aligned.many)
        free(aligned.many);
    api_leave(&call);
    return hr;
}

__attribute__((hot, flatten))
HRESULT WINAPI WHvSetVirtualProcessorRegisters(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                               const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
                                               const WHV_REGISTER_VALUE *RegisterValues)
{
    struct aligned_values aligned;
    struct api_call call;
    HRESULT hr;

    if (RegisterCount != 0 && (!RegisterNames || !RegisterValues))
        return E_POINTER;
    hr = api_enter_vp(&call, Partition, VpIndex, IN_SET_UP);
    if (FAILED(hr))
        return hr;
    hr = align_values(&aligned, RegisterValues, RegisterCount);
    if (SUCCEEDED(hr) && RegisterCount != 0)
        hr = call.partition->engine->set_registers(call.vp, RegisterNames, RegisterCount, aligned.values);
    if (aligned.many)
        free(aligned.many);
    api_leave(&call);
    return hr;
}
