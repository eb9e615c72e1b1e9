// Interrupts and the state of the local APIC.
#include <string.h>

#include "api/call.h"
#include "partition/apic_state.h"

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
    if (SUCCEEDED(hr))
        hr = call.partition->engine->request_interrupt(call.partition, &interrupt);
    api_leave(&call);
    return hr;
}

// Enter for a call on the local APIC of a processor that is not running.
CHECKED static HRESULT enter_apic(struct api_call *call, WHV_PARTITION_HANDLE handle, UINT32 index,
                                  unsigned int states)
{
    HRESULT hr = api_enter_vp(call, handle, index, states);

    if (FAILED(hr))
        return hr;
    if (call->partition->properties.apic_mode == WHvX64LocalApicEmulationModeNone)
        hr = HV_OPERATION_DENIED;
    else if (call->vp->references & VP_CLAIMED)
        hr = WHV_E_INVALID_VP_STATE;
    if (FAILED(hr))
        api_leave(call);
    return hr;
}

CHECKED static HRESULT get_state(WHV_PARTITION_HANDLE handle, UINT32 index, void *state, UINT32 size,
                                 UINT32 *written, bool packed)
{
    uint8_t page[APIC_STATE_SIZE] = {0}, older[APIC_STATE_SIZE];
    struct api_call call;
    HRESULT hr = enter_apic(&call, handle, index, IN_SERVICE);

    if (FAILED(hr))
        return hr;
    hr = call.partition->engine->get_apic_page(call.vp, page);
    if (SUCCEEDED(hr)) {
        apic_state_pack(older, page);
        hr = api_write_result(packed ? older : page, APIC_STATE_SIZE, state, size, written);
    }
    api_leave(&call);
    return hr;
}

// A missing or short buffer is E_POINTER here, as the reference says, and not E_INVALIDARG.
CHECKED static HRESULT set_state(WHV_PARTITION_HANDLE handle, UINT32 index, const void *state, UINT32 size,
                                 bool packed)
{
    uint8_t page[APIC_STATE_SIZE];
    struct api_call call;
    HRESULT hr;

    if (!state || size < APIC_STATE_SIZE)
        return E_POINTER;
    if (packed)
        apic_state_unpack(page, state);
    else
        memcpy(page, state, sizeof(page));
    hr = enter_apic(&call, handle, index, IN_SET_UP);
    if (FAILED(hr))
        return hr;
    hr = call.partition->engine->set_apic_page(call.vp, page);
    api_leave(&call);
    return hr;
}

HRESULT WINAPI WHvGetVirtualProcessorInterruptControllerState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                              VOID *State, UINT32 StateSize,
                                                              UINT32 *WrittenSize)
{
    return get_state(Partition, VpIndex, State, StateSize, WrittenSize, true);
}

HRESULT WINAPI WHvSetVirtualProcessorInterruptControllerState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                              const VOID *State, UINT32 StateSize)
{
    return set_state(Partition, VpIndex, State, StateSize, true);
}

HRESULT WINAPI WHvGetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                               VOID *State, UINT32 StateSize,
                                                               UINT32 *WrittenSize)
{
    return get_state(Partition, VpIndex, State, StateSize, WrittenSize, false);
}

HRESULT WINAPI WHvSetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                               const VOID *State, UINT32 StateSize)
{
    return set_state(Partition, VpIndex, State, StateSize, false);
}
