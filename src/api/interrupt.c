// Interrupts that a device requests.
#include <string.h>

#include "api/call.h"

// Vectors below this are reserved for exceptions; a local APIC refuses them (SDM vol. 3A 11.5.2).
#define FIRST_VECTOR 16

CHECKED static HRESULT check_interrupt(const WHV_INTERRUPT_CONTROL *interrupt)
{
    bool has_vector = false;

    switch (interrupt->Type) {
    case WHvX64InterruptTypeFixed:
    case WHvX64InterruptTypeLowestPriority:
        if (interrupt->Vector < FIRST_VECTOR)
            return HV_INVALID_PARAMETER;
        has_vector = true;
        break;
    case WHvX64InterruptTypeSipi:
        has_vector = true;
        break;
    case WHvX64InterruptTypeNmi:
    case WHvX64InterruptTypeInit:
    case WHvX64InterruptTypeLocalInt1:
        break;
    default:
        return HV_INVALID_PARAMETER;
    }
    if ((has_vector && interrupt->Vector > 0xFF) ||
        interrupt->DestinationMode > WHvX64InterruptDestinationModeLogical ||
        interrupt->TriggerMode > WHvX64InterruptTriggerModeLevel || interrupt->TargetVtl ||
        interrupt->Reserved)
        return HV_INVALID_PARAMETER;
    return S_OK;
}

HRESULT WINAPI WHvRequestInterrupt(WHV_PARTITION_HANDLE Partition, const WHV_INTERRUPT_CONTROL *Interrupt,
                                   UINT32 InterruptControlSize)
{
    WHV_INTERRUPT_CONTROL interrupt;
    struct api_call call;
    HRESULT hr;

    if (!Interrupt)
        return E_POINTER;
    if (InterruptControlSize < sizeof(interrupt))
        return E_INVALIDARG;
    memcpy(&interrupt, Interrupt, sizeof(interrupt));
    // Without the partition's lock: devices call this all the time, from many threads.
    hr = api_enter_unlocked(&call, Partition, IN_SET_UP);
    if (FAILED(hr))
        return hr;
    if (call.partition->properties.apic_mode == WHvX64LocalApicEmulationModeNone)
        hr = HV_OPERATION_DENIED;
    else
        hr = check_interrupt(&interrupt);
    if (SUCCEEDED(hr) && !partition_request_begin(call.partition))
        hr = API_INVALID_STATE;
    else if (SUCCEEDED(hr)) {
        hr = call.partition->engine->request_interrupt(call.partition, &interrupt);
        partition_request_end(call.partition);
    }
    api_leave(&call);
    return hr;
}
