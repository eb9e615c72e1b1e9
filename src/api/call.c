// How every function of the API begins and ends.
#include "api/call.h"

#include <string.h>

// A call that was overtaken by WHvDeletePartition finds what it would find a moment later.
static HRESULT check_state(const struct partition *p, unsigned int states)
{
    enum partition_state state = p->state;

    if (state == PARTITION_DELETED)
        return E_INVALIDARG;
    return states & (1u << state) ? S_OK : API_INVALID_STATE;
}

__attribute__((hot)) HRESULT api_enter_unlocked(struct api_call *call, WHV_PARTITION_HANDLE handle, unsigned int states)
{
    HRESULT hr;

    call->handle = handle;
    call->partition = handle_pin(handle);
    call->vp = NULL;
    call->locked = false;
    if (!call->partition)
        return E_INVALIDARG;
    hr = check_state(call->partition, states);
    if (FAILED(hr))
        api_leave(call);
    return hr;
}

HRESULT api_enter(struct api_call *call, WHV_PARTITION_HANDLE handle, unsigned int states)
{
    HRESULT hr = api_enter_unlocked(call, handle, ~0u);

    if (FAILED(hr))
        return hr;
    pthread_mutex_lock(&call->partition->lock);
    call->locked = true;
    hr = check_state(call->partition, states);
    if (FAILED(hr))
        api_leave(call);
    return hr;
}

__attribute__((hot))
HRESULT api_enter_vp(struct api_call *call, WHV_PARTITION_HANDLE handle, UINT32 index, unsigned int states)
{
    HRESULT hr = api_enter_unlocked(call, handle, states);

    if (FAILED(hr))
        return hr;
    call->vp = partition_vp_pin(call->partition, index);
    // Once more, since who takes the partition out of service waits for those alone that are in by then.
    hr = call->vp ? check_state(call->partition, states) : WHV_E_VP_DOES_NOT_EXIST;
    if (FAILED(hr))
        api_leave(call);
    return hr;
}

__attribute__((hot)) void api_leave(struct api_call *call)
{
    if (call->vp)
        partition_vp_unpin(call->vp);
    if (call->locked)
        pthread_mutex_unlock(&call->partition->lock);
    handle_unpin(call->handle);
}

HRESULT api_act(WHV_PARTITION_HANDLE handle, unsigned int states, HRESULT (*act)(struct partition *p))
{
    struct api_call call;
    HRESULT hr = api_enter(&call, handle, states);

    if (FAILED(hr))
        return hr;
    hr = act(call.partition);
    api_leave(&call);
    return hr;
}

HRESULT api_write_result(const void *result, UINT32 size, void *buffer, UINT32 room, UINT32 *written)
{
    if (!buffer && room != 0)
        return E_POINTER;
    if (written)
        *written = size;
    if (room < size)
        return WHV_E_INSUFFICIENT_BUFFER;
    memcpy(buffer, result, size);
    return S_OK;
}
