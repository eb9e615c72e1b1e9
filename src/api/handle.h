// Handles of partitions: an index and a generation, never a pointer.
//
// A call pins the partition behind its handle for as long as it runs. Closing a handle lets no new call in;
// the partition is freed when the last one has left. Pinning is one compare-and-swap, and takes no lock.
#ifndef BULKHEAD_API_HANDLE_H
#define BULKHEAD_API_HANDLE_H

#include "partition/partition.h"

// Give a partition a handle. E_OUTOFMEMORY when HANDLE_MAX partitions exist.
#define HANDLE_MAX 4096
CHECKED HRESULT handle_open(struct partition *p, WHV_PARTITION_HANDLE *handle);

// The partition behind a handle, which stays until handle_unpin; NULL for a handle that was never issued or
// is closed.
struct partition *handle_pin(WHV_PARTITION_HANDLE handle);
void handle_unpin(WHV_PARTITION_HANDLE handle);

// Let no new call in. NULL when the handle is not open; of several callers one alone gets the partition. It
// then makes the calls that are inside come out, and calls handle_retire.
struct partition *handle_close(WHV_PARTITION_HANDLE handle);
// Wait until every call has left, and make the handle's place free for others.
void handle_retire(WHV_PARTITION_HANDLE handle);

#endif
