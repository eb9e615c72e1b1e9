// What a partition is, whatever engine runs it: state, properties, processors, guest memory map.
//
// Locks, in the order in which they may be taken:
//   1. partition->lock   configuration, state, the table of processors, changes of the memory map
//   2. partition->map.lock   readers: an engine's look-ups; writer: a change of the map (short, nothing else inside)
//   3. an engine's own locks
// A processor's run takes none of the first for longer than a look-up. A function whose name ends in _locked expects
// partition->lock held.
#ifndef BULKHEAD_PARTITION_H
#define BULKHEAD_PARTITION_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/engine.h"
#include "partition/gpa_map.h"
#include "partition/property.h"

#define PARTITION_MAX_PROCESSORS 64

enum partition_state {
    PARTITION_CREATED,
    PARTITION_SET_UP,
    PARTITION_MIGRATING_OUT,
    PARTITION_GONE,
    PARTITION_MIGRATING_IN,
    PARTITION_DELETED,
};

struct vp {
    struct partition *partition;
    uint32_t index;
    atomic_int running;         // 1 while a thread is inside vp_run
    atomic_int references;      // the table's one, and one for each call that is using it
    void *engine_data;
};

struct partition {
    pthread_mutex_t lock;
    enum partition_state state;
    struct property_values properties;      // see property.h; written under lock, final ones never after set-up
    const struct engine *engine;            // NULL until set-up
    void *engine_data;
    char engine_report[512];                // which engine, and why a faster one was passed over
    struct gpa_map map;
    struct vp *vps[PARTITION_MAX_PROCESSORS];
};

// CPUID as the guest sees it: the engine's answer with CpuidResultList laid over it. Any thread.
void partition_cpuid(struct vp *vp, UINT32 leaf, UINT32 subleaf, UINT32 out[4]);

#endif
