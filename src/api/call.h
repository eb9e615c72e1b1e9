// How every function of the API begins and ends: find the object, check the state, and leave again.
//
// An enter function that fails has entered nothing. One that succeeds is undone by api_leave.
#ifndef BULKHEAD_API_CALL_H
#define BULKHEAD_API_CALL_H

#include "api/handle.h"

// In which states of the partition a call is lawful.
#define IN_CREATED (1u << PARTITION_CREATED)
#define IN_SET_UP (1u << PARTITION_SET_UP)
#define IN_MIGRATING_OUT (1u << PARTITION_MIGRATING_OUT)
#define IN_MIGRATING_IN (1u << PARTITION_MIGRATING_IN)
// Calls that merely read what a partition in service has.
#define IN_SERVICE (IN_SET_UP | IN_MIGRATING_OUT)

#define API_INVALID_STATE HRESULT_FROM_WIN32(ERROR_INVALID_STATE)
#define HV_INVALID_PARAMETER ((HRESULT)ERROR_HV_INVALID_PARAMETER)
#define HV_OPERATION_DENIED ((HRESULT)ERROR_HV_OPERATION_DENIED)

struct api_call {
    WHV_PARTITION_HANDLE handle;
    struct partition *partition;
    struct vp *vp;              // pinned, or NULL
    bool locked;                // partition->lock is held; never together with a pinned processor
};

// Enter a partition in one of `states`, with its lock. E_INVALIDARG for the handle, else ERROR_INVALID_STATE.
CHECKED HRESULT api_enter(struct api_call *call, WHV_PARTITION_HANDLE handle, unsigned int states);

// Enter a partition without its lock and pin one of its processors. Also WHV_E_VP_DOES_NOT_EXIST.
CHECKED HRESULT api_enter_vp(struct api_call *call, WHV_PARTITION_HANDLE handle, UINT32 index,
                             unsigned int states);

// Enter a partition without its lock.
CHECKED HRESULT api_enter_unlocked(struct api_call *call, WHV_PARTITION_HANDLE handle, unsigned int states);

void api_leave(struct api_call *call);

// A whole call that has nothing but its partition: enter in one of `states`, with the lock, act, leave.
CHECKED HRESULT api_act(WHV_PARTITION_HANDLE handle, unsigned int states, HRESULT (*act)(struct partition *p));

// Write a result of `size` bytes into a caller's buffer of `room`, and its size into `written`, which may be
// NULL. WHV_E_INSUFFICIENT_BUFFER with the size needed when it does not fit, E_POINTER for a missing buffer.
CHECKED HRESULT api_write_result(const void *result, UINT32 size, void *buffer, UINT32 room, UINT32 *written);

#endif
