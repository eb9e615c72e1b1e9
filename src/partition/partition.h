// What a partition is, whatever engine runs it: state, properties, processors, guest memory map.
//
// Locks, in the order in which they may be taken:
//   1. partition->lock   configuration, state, the table of processors, changes of the memory map
//   2. partition->map.lock   readers: an engine's look-ups; writer: a change of the map (short, nothing else
//      inside)
//   3. an engine's own locks
// A processor's run takes none of the first. A function whose name ends in _locked expects partition->lock
// held.
//
// Life of a processor. Its memory, once allocated, stays until the partition is freed, so that finding and
// pinning one needs no lock. It exists while VP_LIVE is set in `references`; deleting clears that, cancels,
// and waits until no call uses the processor any more.
#ifndef BULKHEAD_PARTITION_H
#define BULKHEAD_PARTITION_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/engine.h"
#include "os/tsc.h"
#include "partition/clock.h"
#include "partition/dirty.h"
#include "partition/engine_choice.h"
#include "partition/gpa_map.h"
#include "partition/placement.h"
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

// In vp->references: set while the processor exists; set while a call has claimed it; below them, the number of calls
// that are using it.
#define VP_LIVE 0x40000000
#define VP_CLAIMED 0x20000000

struct vp {
    struct partition *partition;
    uint32_t index;
    atomic_int references;
    void *engine_data;
    struct thread_wish *place;          // placement.c's, from creation to deletion; NULL: it asks for nothing
    _Atomic uint64_t due;               // a run comes out at this tick of the host's counter (schedule.c); 0: never
    _Atomic uint32_t cancels;           // counted only with `partition->policy`; the word on which a run is held back
    uint32_t cancels_seen;              // the running thread's: those that the engine has had its chance to answer
};

// Whether the run has used up what it was given. For the engine, each time that it looks up from guest code.
static inline bool vp_due(const struct vp *vp)
{
    uint64_t due = atomic_load_explicit(&vp->due, memory_order_relaxed);

    return due != 0 && os_tsc() >= due;
}

struct partition {
    pthread_mutex_t lock;
    _Atomic(enum partition_state) state;    // written under lock
    struct property_values properties;      // see property.h; written under lock
    struct engine_wish wish;                // fixed at set-up
    const struct engine *engine;            // NULL until set-up
    void *engine_data;
    // How the last set-up went: which engine, and why others were passed over. "" before it, and when
    // the properties have changed since.
    char engine_report[ENGINE_REPORT_SIZE];
    struct gpa_map map;
    struct partition_clock clock;           // stands until the first run
    struct dirty dirty;                     // written pages that an engine marked and nobody has asked for
    struct dirty unasked;                   // pages whose marks were taken for a migration, and not told to the owner
    struct precopy *precopy;                // under lock; of a migration to come (handover.c)
    atomic_uint requests;                   // calls without lock or processor that are changing something
    struct migration *migration;            // under lock; migration.c's own, in the states of migration
    struct guest_memory *memory;            // that came with the partition (handover.c)
    bool policy;                            // fixed at set-up: its runs are policy_run's
    struct placement placement;             // fixed at set-up
    struct schedule *schedule;              // fixed at set-up: what it asks for of processor time; NULL: nothing
    bool show_downtime;                     // under lock: a migration's length is to be seen by the guest
    struct vp *vps[PARTITION_MAX_PROCESSORS];               // under lock; NULL where no processor exists
    _Atomic(struct vp *) vp_memory[PARTITION_MAX_PROCESSORS];   // of every processor that was ever created
    pthread_cond_t vp_unused;               // a processor that is being deleted has lost its last user
};

// A partition with every property at its default. Fails with E_OUTOFMEMORY only.
CHECKED HRESULT partition_create(struct partition **created);

// What the partition's properties may ask for: of its engine, or before set-up of any engine that it may get.
// False when there is none.
bool partition_capabilities_locked(struct partition *p, struct engine_capabilities *capabilities);

// Choose an engine and set it up. WHV_E_INVALID_PARTITION_CONFIG when the processor count is missing or no
// engine supports all that was asked for; WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG when the wish cannot be met;
// the engine's own error when its set-up failed and no other is left.
CHECKED HRESULT partition_setup_locked(struct partition *p);
// The same, and the state stays as it is; and the way back: engine, processors and map are gone.
CHECKED HRESULT partition_bring_up_locked(struct partition *p);
void partition_tear_down_locked(struct partition *p);

// The report on the engine it has, or would get; and on the one that a partition with default properties
// would get.
void partition_report_locked(struct partition *p, char *report, size_t size);
void partition_report_default(char *report, size_t size);

// Say which engine it shall have, or which relaxations it allows. Before set-up. E_INVALIDARG for an unknown
// name.
CHECKED HRESULT partition_set_engine_locked(struct partition *p, const char *name);
CHECKED HRESULT partition_set_relaxations_locked(struct partition *p, const char *list);

// Set a property and tell the engine; see property_set. The state has been checked.
CHECKED HRESULT partition_set_property_locked(struct partition *p, const struct property *property,
                                              const void *buffer, UINT32 size);

// Change the guest memory map and wait until no processor uses the old one. On failure, the engine's included, the map
// is as it was.
CHECKED HRESULT partition_map_locked(struct partition *p, const struct gpa_range *range);
CHECKED HRESULT partition_unmap_locked(struct partition *p, gpa_t gpa, uint64_t size);

// Which pages of a range were written since the last query, or since they were mapped: one bit for each, bit 0
// for the first. `bitmap` has dirty_words(size) words; NULL: only start over. WHV_E_GPA_RANGE_NOT_FOUND when
// not all of it is mapped and tracked. A call that fails forgets no page.
CHECKED HRESULT partition_query_dirty_locked(struct partition *p, gpa_t gpa, uint64_t size, uint64_t *bitmap);

// Keep every processor from running. ERROR_INVALID_STATE, as an HRESULT, when one runs. Undone by partition_let_run.
CHECKED HRESULT partition_hold_locked(struct partition *p);
void partition_let_run_locked(struct partition *p);

// The same, and leave the state set up for `state`, in which nothing more changes: calls that had seen the state before
// are over when this returns. On failure the state is as it was.
CHECKED HRESULT partition_close_locked(struct partition *p, enum partition_state state);

// Around a change that is made without lock or processor. False: the state is none that allows it any more.
bool partition_request_begin(struct partition *p);
void partition_request_end(struct partition *p);

// Processors as they are after creation, and time at 0 until the next run; memory, map and properties stay. Otherwise as
// partition_hold. The engine's error: some processors are reset, others not.
CHECKED HRESULT partition_reset_locked(struct partition *p);

// Time stands still from here on, and goes on with partition_start_time or the next run. Otherwise as partition_hold;
// E_NOTIMPL when the engine has clocks that cannot be stopped.
CHECKED HRESULT partition_stop_time_locked(struct partition *p);
// No processor runs, or time goes on already. The engine's error changes nothing.
CHECKED HRESULT partition_start_time_locked(struct partition *p);
// For a moment in which nothing is to move, with every processor held: as far as the engine's clocks can be stopped
// (engines.md names those that cannot). `*ran`: time ran until now. Undone by partition_start_time.
CHECKED HRESULT partition_freeze_time_locked(struct partition *p, bool *ran);
// In 100 ns. 0 before the first run, but for what ReferenceTime was set to.
UINT64 partition_reference_time(const struct partition *p);

// The partition is about to be deleted: no processor can be created or run any more, running ones are
// cancelled.
void partition_stop(struct partition *p);
// Release everything. No other thread uses the partition.
void partition_free(struct partition *p);

// Create a processor, on a NUMA node of its own, or with NO_NODE on the partition's. WHV_E_VP_ALREADY_EXISTS,
// E_OUTOFMEMORY, E_INVALIDARG when there is no such node, or the engine's error.
CHECKED HRESULT partition_vp_create_locked(struct partition *p, UINT32 index, int node);
// Delete a processor; stops it and waits (with the lock released) until no call uses it.
// WHV_E_VP_DOES_NOT_EXIST.
CHECKED HRESULT partition_vp_delete_locked(struct partition *p, UINT32 index);

// Find a processor and keep it from going away. NULL when it does not exist. No lock needed.
struct vp *partition_vp_pin(struct partition *p, UINT32 index);
void partition_vp_unpin(struct vp *vp);

// Pin a processor and have it alone: to run it, or to keep it from running. WHV_E_VP_DOES_NOT_EXIST,
// WHV_E_INVALID_VP_STATE when another call has it, ERROR_INVALID_STATE when the partition is not set up
// (any more). No lock needed. Undone by vp_release.
CHECKED HRESULT partition_vp_claim(struct partition *p, UINT32 index, struct vp **vp);
void partition_vp_release(struct vp *vp);
void partition_vp_release_locked(struct vp *vp);

// Make the processor's run, or else its next one, return Canceled, once. The caller keeps it from going away.
void partition_vp_cancel(struct vp *vp);

// CPUID as the guest sees it: the engine's answer with CpuidResultList and CpuidResultList2 laid over it. Any
// thread.
void partition_cpuid(struct vp *vp, UINT32 leaf, UINT32 subleaf, UINT32 out[4]);

#endif
