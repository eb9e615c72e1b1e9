// What the host is asked for beside running a processor: where its thread runs and on whose memory (placement.c), and
// how much processor time it gets (schedule.c).
//
// The thread that runs a processor is the caller's own. What is asked for holds from policy_run's begin to its end, and
// is undone then, or where placement.h says; a thread that comes back to the same processor pays nothing for what still
// stands. Where nobody in the process asks for anything, no run comes here.
#ifndef BULKHEAD_POLICY_H
#define BULKHEAD_POLICY_H

#include "partition/partition.h"
#include "partition/thread_place.h"

// The properties are final; `p->policy` is set when any of them asks for something. On failure nothing is held.
CHECKED HRESULT policy_set_up_locked(struct partition *p);
// Everything that set-up took is given back. No processor exists.
void policy_tear_down_locked(struct partition *p);

// Whether a run has to be policy_run's: this one asks for something, or its thread may still have what another asked
// for.
static inline bool policy_applies(const struct vp *vp)
{
    return vp->partition->policy || vp->place || atomic_load_explicit(&thread_place_used, memory_order_relaxed);
}

// engine->vp_run under the partition's policy.
CHECKED HRESULT policy_run(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *exit);

// Each half; placement's is in placement.h. Placement comes first, and a half that fails has entered nothing. `*wanted`
// is set, and otherwise left alone, where the partition asks for something of the kind. The other half is only asked to
// enter where either is wanted.

// ERROR_NO_SYSTEM_RESOURCES, as an HRESULT: the host cannot honour the reserve beside those of other partitions.
// E_INVALIDARG: the group's members ask for something else. ERROR_NOT_SUPPORTED: what schedule_features says is not to
// be had here.
CHECKED HRESULT schedule_set_up_locked(struct partition *p, bool *wanted);
void schedule_tear_down_locked(struct partition *p);
// A partition that is gone elsewhere runs no more: what it was promised is free for others.
void schedule_release_locked(struct partition *p);
// May sleep, until there is processor time for the run or it is cancelled.
CHECKED HRESULT schedule_enter(struct vp *vp);
// In words, a line each: by which way processor time is bounded here, and who shares the accounts.
void schedule_report(char *text, size_t size);
// Its part of what this host can give, and the frequencies that can be a cap.
void schedule_features(WHV_SCHEDULER_FEATURES *features);
void schedule_frequency(WHV_CAPABILITY_PROCESSOR_FREQUENCY_CAP *frequency);
void schedule_leave(struct vp *vp);

#endif
