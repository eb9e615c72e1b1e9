// Handles of what is not a partition: each stands for a descriptor of its own.
//
// They share no value with partitions' handles. A handle that was never issued, is closed, or is of another kind is an
// error in every call.
#ifndef BULKHEAD_API_OBJECT_H
#define BULKHEAD_API_OBJECT_H

#include "partition/partition.h"

enum object_kind { OBJECT_NONE, OBJECT_MIGRATION, OBJECT_ANY };

// The handle takes the descriptor over. E_OUTOFMEMORY: too many handles; the descriptor stays the caller's.
CHECKED HRESULT object_open(enum object_kind kind, int fd, HANDLE *handle);
// The object's descriptor, with which the caller may work until object_unpin; -1: there is no such object.
int object_pin(HANDLE handle, enum object_kind kind);
void object_unpin(HANDLE handle);
// The handle is none any more, and its descriptor, once nobody works with it, the caller's. -1 as above.
int object_take(HANDLE handle, enum object_kind kind);

#endif
