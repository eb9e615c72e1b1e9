// From one process to another: the four calls of migration, and what lies between them.
//
// A migration is a channel with an end in each process, and a word of memory that both have. The source puts a message
// into the channel: the partition's stream (stream.h) in a memory file, the word, and the files that the guest's memory is
// made of. Memory that other processes can map is handed over as the file that it is; everything else is copied into one
// more file. After that the channel says only whether the other process is there.
//
// The word decides who has the partition. It changes by compare-and-swap alone:
//
//     OFFERED    -> ACCEPTED     the destination has everything
//     OFFERED    -> CANCELED     the source has the partition back
//     ACCEPTED   -> CANCELED     the same
//     ACCEPTED   -> COMPLETED    the destination has the partition, and the source none any more
//     ACCEPTED   -> INHERITED    the same, and the destination did it, because the source's process is gone
//     ACCEPTED   -> ABANDONED    the destination does not want it: the source can cancel only
//
// So at every moment one side can run the partition, whoever is killed: the source until COMPLETED or INHERITED, the
// destination from then on. Nothing between two reads and writes of the word matters.
#ifndef BULKHEAD_MIGRATION_H
#define BULKHEAD_MIGRATION_H

#include "partition/partition.h"

// Begin: the partition stands still from here on, in the state migrating out. `*handle` receives the descriptor of the
// destination's end, the caller's to pass on or close. ERROR_INVALID_STATE as an HRESULT: a processor runs;
// E_OUTOFMEMORY; E_ACCESSDENIED: guest memory cannot be read. On failure the partition goes on.
CHECKED HRESULT migration_start_locked(struct partition *p, int *handle);
// Back to the state set up. ERROR_INVALID_STATE: it is the destination's by now.
CHECKED HRESULT migration_cancel_locked(struct partition *p);
// Into the state gone. ERROR_INVALID_STATE: nobody has accepted, or who had is gone.
CHECKED HRESULT migration_complete_locked(struct partition *p);

// A new partition, in the state migrating in, from such a descriptor, which stays the caller's. E_INVALIDARG: the stream
// cannot be read; ERROR_INVALID_DATA: what has to come with it is missing, or there is nothing (any more);
// ERROR_NOT_SUPPORTED: of a newer version, or it cannot be had here; ERROR_INVALID_STATE: it was canceled; E_OUTOFMEMORY.
CHECKED HRESULT migration_accept(int handle, struct partition **created);
// The partition comes up, and is set up then. ERROR_INVALID_STATE: it is the source's (still, or again). After another
// failure it is in the state migrating in as before, and the call can be repeated.
CHECKED HRESULT migration_setup_locked(struct partition *p);

// The partition is about to be deleted: a migration that it is in the middle of is off.
void migration_leave(struct partition *p);
// Whatever is left, and memory that came with the partition.
void migration_release(struct partition *p);

#endif
