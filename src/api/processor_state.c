// A virtual processor's state in larger pieces: local APIC, XSAVE image, and what synthetic parts would have.
#include <string.h>

#include "api/call.h"
#include "partition/apic_state.h"

// ---- What there is -----------------------------------------------------------------------------------------------

// A piece of state: how large it is, how it is read and written, and for whom it is there.
struct state {
    // The error of a partition that has no such state; NULL: every one has it.
    HRESULT (*available)(const struct partition *p);
    bool standing;              // only of a processor that is not running
    UINT32 (*size)(struct vp *vp);
    HRESULT (*get)(struct vp *vp, void *buffer);
    HRESULT (*set)(struct vp *vp, const void *buffer, UINT32 size);
    bool any_size;              // `set` checks the size by itself: the state has more than one form
};

static HRESULT apic_available(const struct partition *p)
{
    return p->properties.apic_mode == WHvX64LocalApicEmulationModeNone ? HV_OPERATION_DENIED : S_OK;
}

// The synthetic interrupt controller and nested virtualisation are parts of a processor that the partition's owner has
// to ask for, as the local APIC is, and no engine offers them. The reference has no error of its own for a part that is
// not there. What is known of Windows is its answer about the local APIC of a partition without an APIC mode: the
// hypervisor denies the operation. So the type is a valid one, and this is what any such part answers.
static HRESULT never_available(const struct partition *p)
{
    (void)p;
    return HV_OPERATION_DENIED;
}

static UINT32 page_size(struct vp *vp)
{
    (void)vp;
    return APIC_STATE_SIZE;
}

static HRESULT get_page(struct vp *vp, void *buffer) { return vp->partition->engine->get_apic_page(vp, buffer); }

static HRESULT set_page(struct vp *vp, const void *buffer, UINT32 size)
{
    (void)size;
    return vp->partition->engine->set_apic_page(vp, buffer);
}

static HRESULT get_packed(struct vp *vp, void *buffer)
{
    uint8_t page[APIC_STATE_SIZE] = {0};
    HRESULT hr = vp->partition->engine->get_apic_page(vp, page);

    if (SUCCEEDED(hr))
        apic_state_pack(buffer, page);
    return hr;
}

static HRESULT set_packed(struct vp *vp, const void *buffer, UINT32 size)
{
    uint8_t page[APIC_STATE_SIZE];

    (void)size;
    apic_state_unpack(page, buffer);
    return vp->partition->engine->set_apic_page(vp, page);
}

static UINT32 xsave_size(struct vp *vp) { return vp->partition->engine->xsave_size(vp); }
static HRESULT get_xsave(struct vp *vp, void *buffer) { return vp->partition->engine->get_xsave(vp, buffer); }

static HRESULT set_xsave(struct vp *vp, const void *buffer, UINT32 size)
{
    return vp->partition->engine->set_xsave(vp, buffer, size);
}

static const struct state absent = {never_available, false, NULL, NULL, NULL, false};
static const struct state apic = {apic_available, true, page_size, get_page, set_page, false};
static const struct state apic_packed = {apic_available, true, page_size, get_packed, set_packed, false};
static const struct state xsave = {NULL, false, xsave_size, get_xsave, set_xsave, true};

static const struct {
    WHV_VIRTUAL_PROCESSOR_STATE_TYPE type;
    const struct state *state;
} types[] = {
    {WHvVirtualProcessorStateTypeSynicMessagePage, &absent},
    {WHvVirtualProcessorStateTypeSynicEventFlagPage, &absent},
    {WHvVirtualProcessorStateTypeSynicTimerState, &absent},
    {WHvVirtualProcessorStateTypeInterruptControllerState2, &apic},
    {WHvVirtualProcessorStateTypeXsaveState, &xsave},
    {WHvVirtualProcessorStateTypeNestedState, &absent},
};

static const struct state *find(WHV_VIRTUAL_PROCESSOR_STATE_TYPE type)
{
    for (size_t n = 0; n < sizeof(types) / sizeof(types[0]); n++)
        if (types[n].type == type)
            return types[n].state;
    return NULL;
}

// ---- Get and set -------------------------------------------------------------------------------------------------

CHECKED static HRESULT enter(struct api_call *call, WHV_PARTITION_HANDLE handle, UINT32 index, unsigned int states,
                             const struct state *state)
{
    HRESULT hr = api_enter_vp(call, handle, index, states);

    if (FAILED(hr))
        return hr;
    hr = state->available ? state->available(call->partition) : S_OK;
    if (SUCCEEDED(hr) && state->standing && (call->vp->references & VP_CLAIMED))
        hr = WHV_E_INVALID_VP_STATE;
    if (FAILED(hr))
        api_leave(call);
    return hr;
}

CHECKED static HRESULT get_state(WHV_PARTITION_HANDLE handle, UINT32 index, const struct state *state, void *buffer,
                                 UINT32 room, UINT32 *written)
{
    struct api_call call;
    UINT32 size;
    HRESULT hr;

    if (!buffer && room != 0)
        return E_POINTER;
    if (!state)
        return E_INVALIDARG;
    hr = enter(&call, handle, index, IN_SERVICE, state);
    if (FAILED(hr))
        return hr;
    size = state->size(call.vp);
    hr = room < size ? WHV_E_INSUFFICIENT_BUFFER : state->get(call.vp, buffer);
    if (written && (SUCCEEDED(hr) || hr == WHV_E_INSUFFICIENT_BUFFER))
        *written = size;
    api_leave(&call);
    return hr;
}

CHECKED static HRESULT set_state(WHV_PARTITION_HANDLE handle, UINT32 index, const struct state *state,
                                 const void *buffer, UINT32 size)
{
    struct api_call call;
    HRESULT hr;

    if (!buffer && size != 0)
        return E_POINTER;
    if (!state)
        return E_INVALIDARG;
    hr = enter(&call, handle, index, IN_SET_UP, state);
    if (FAILED(hr))
        return hr;
    if (!buffer || (!state->any_size && size != state->size(call.vp)))
        hr = E_INVALIDARG;
    else
        hr = state->set(call.vp, buffer, size);
    api_leave(&call);
    return hr;
}

HRESULT WINAPI WHvGetVirtualProcessorState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                           WHV_VIRTUAL_PROCESSOR_STATE_TYPE StateType, VOID *Buffer,
                                           UINT32 BufferSizeInBytes, UINT32 *BytesWritten)
{
    return get_state(Partition, VpIndex, find(StateType), Buffer, BufferSizeInBytes, BytesWritten);
}

HRESULT WINAPI WHvSetVirtualProcessorState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                           WHV_VIRTUAL_PROCESSOR_STATE_TYPE StateType, const VOID *Buffer,
                                           UINT32 BufferSizeInBytes)
{
    return set_state(Partition, VpIndex, find(StateType), Buffer, BufferSizeInBytes);
}

// ---- The older calls ---------------------------------------------------------------------------------------------

HRESULT WINAPI WHvGetVirtualProcessorXsaveState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, VOID *Buffer,
                                                UINT32 BufferSizeInBytes, UINT32 *BytesWritten)
{
    return get_state(Partition, VpIndex, &xsave, Buffer, BufferSizeInBytes, BytesWritten);
}

HRESULT WINAPI WHvSetVirtualProcessorXsaveState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, const VOID *Buffer,
                                                UINT32 BufferSizeInBytes)
{
    return set_state(Partition, VpIndex, &xsave, Buffer, BufferSizeInBytes);
}

HRESULT WINAPI WHvGetVirtualProcessorInterruptControllerState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                              VOID *State, UINT32 StateSize,
                                                              UINT32 *WrittenSize)
{
    return get_state(Partition, VpIndex, &apic_packed, State, StateSize, WrittenSize);
}

HRESULT WINAPI WHvGetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                               VOID *State, UINT32 StateSize,
                                                               UINT32 *WrittenSize)
{
    return get_state(Partition, VpIndex, &apic, State, StateSize, WrittenSize);
}

// A missing or short buffer is E_POINTER here, as the reference says, and not E_INVALIDARG; a longer one will do.
CHECKED static HRESULT set_older(WHV_PARTITION_HANDLE handle, UINT32 index, const struct state *state,
                                 const void *buffer, UINT32 size)
{
    if (!buffer || size < APIC_STATE_SIZE)
        return E_POINTER;
    return set_state(handle, index, state, buffer, APIC_STATE_SIZE);
}

HRESULT WINAPI WHvSetVirtualProcessorInterruptControllerState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                              const VOID *State, UINT32 StateSize)
{
    return set_older(Partition, VpIndex, &apic_packed, State, StateSize);
}

HRESULT WINAPI WHvSetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                               const VOID *State, UINT32 StateSize)
{
    return set_older(Partition, VpIndex, &apic, State, StateSize);
}
