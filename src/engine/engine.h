// The contract between the partition layer and an engine: what an engine must do.
//
// An engine runs virtual processors. The partition layer owns everything that outlives one engine:
// properties, the guest memory map, the list of processors, states. The seam is a table of functions, crossed
// once per API call or exit, never per guest instruction.
//
// Rules for every function of the table:
//  - The caller has checked arguments and the partition's state; an engine checks only what it alone can know.
//  - Failure changes nothing. An HRESULT tells the caller of the API; what a guest does is never an HRESULT.
//  - "Any thread" means also while processors run. Otherwise the caller holds `partition->lock`.
#ifndef BULKHEAD_ENGINE_H
#define BULKHEAD_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "WinHvPlatform.h"

struct partition;
struct vp;

typedef uint64_t gpa_t;
typedef uint64_t gva_t;

#define CHECKED __attribute__((warn_unused_result))

#define ENGINE_PRIVATE_STATE_MAX 512    // bytes; see get_private_state

// What a partition on this engine can get, with what the host adds (partition/capabilities.h). `WHvGetCapability` and the
// property checks read this and nothing else.
struct engine_capabilities {
    WHV_CAPABILITY_FEATURES features;
    WHV_EXTENDED_VM_EXITS extended_vm_exits;
    UINT64 exception_exit_bitmap;               // vectors that can exit
    WHV_X64_MSR_EXIT_BITMAP msr_exit_bitmap;    // groups that can exit
    WHV_PROCESSOR_VENDOR vendor;
    WHV_PROCESSOR_FEATURES_BANKS processor_features;
    WHV_PROCESSOR_XSAVE_FEATURES xsave_features;
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS synthetic_features;
    WHV_PROCESSOR_PERFMON_FEATURES perfmon_features;
    UINT8 clflush_units;                        // line size in units of 8 bytes, as in CPUID.1:EBX[15:8]
    UINT32 physical_address_width;              // bits
    UINT64 processor_clock_hz;
    bool processor_clock_fixed;                 // no other frequency is to be had
    UINT64 interrupt_clock_hz;
    bool interrupt_clock_fixed;
    UINT32 max_processors;
    bool apic_emulation;                        // XApic and X2Apic modes
    bool apic_remote_read;                      // ApicRemoteReadSupport
    bool nested_virtualization;                 // NestedVirtualization
    bool device_assignment;                     // AllowDeviceAssignment; the host's, see partition/capabilities.h
};

// Why an engine is or is not usable on this host; `text` is a sentence fit for people.
struct engine_status {
    bool usable;            // may be asked for by name
    bool automatic;         // may be taken by the automatic choice
    char text[160];
};

// What a processor counts, set by set as the API has them; docs/api/counters.md says what each member means.
struct processor_counters {
    WHV_PROCESSOR_RUNTIME_COUNTERS runtime;
    WHV_PROCESSOR_INTERCEPT_COUNTERS intercepts;
    WHV_PROCESSOR_EVENT_COUNTERS events;
    WHV_PROCESSOR_APIC_COUNTERS apic;
    WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS synthetic_features;
};

struct engine {
    const char *name;       // "kvm", "soft"
    int speed;              // the automatic choice prefers the higher number

    // Any thread, cheap after the first call.
    void (*probe)(struct engine_status *status);
    const struct engine_capabilities *(*capabilities)(void);

    // Partition. `setup` is called once by WHvSetupPartition with the properties final and the map empty; it stores its
    // own object in partition->engine_data. `teardown` comes after the last processor is gone.
    CHECKED HRESULT (*setup)(struct partition *p);
    void (*teardown)(struct partition *p);

    // Processors as they are after creation, one after the other; what the client has latched (a cancel) is gone too. None
    // runs, and the partition's clock stands, at 0 when this returns. On failure those before it are reset.
    CHECKED HRESULT (*reset)(struct partition *p);

    // Time stands still, or goes on, for what has a clock of its own beside partition->clock (the host's virtualisation).
    // None of the processors runs. NULL: there is nothing of the kind. E_NOTIMPL: it cannot be stopped. Time stands from
    // set-up on, so time_start comes first, before the first run; what the client has set by then goes on from there.
    CHECKED HRESULT (*time_stop)(struct partition *p);
    CHECKED HRESULT (*time_start)(struct partition *p);

    // A property that may change after set-up (exits, bitmaps, CPUID list) has changed. Any thread. On failure the caller
    // puts the property back and calls once more; whatever that call answers, the change has failed.
    CHECKED HRESULT (*properties_changed)(struct partition *p);

    // The guest memory map changed anywhere inside [gpa, gpa + size). On return no processor uses the old mapping
    // any more, running ones included. Called without the map's lock, with partition->lock held. On failure the
    // engine is as it was before the change. The caller then puts the map back and calls once more, so that no
    // processor keeps what it may have looked up in between; whatever that call answers, the change has failed.
    CHECKED HRESULT (*map_changed)(struct partition *p, gpa_t gpa, uint64_t size);

    // Which pages of [gpa, gpa + size) were written since the last call, or since they were mapped: OR one bit
    // for each into `bitmap` (as dirty_take does), and watch for the next write to every page. All of the span is
    // mapped with WHvMapGpaRangeFlagTrackDirtyPages. No write is lost: one that is done before the call is in
    // this answer, one that is done during the call in this or the next. With partition->lock held; processors
    // may run. On failure the bitmap holds what was taken by then, and the caller puts it back into
    // partition->dirty.
    CHECKED HRESULT (*collect_dirty)(struct partition *p, gpa_t gpa, uint64_t size, uint64_t *bitmap);

    // Processors. `vp_create` stores its own object in vp->engine_data. `vp_destroy` is called when no thread runs it.
    CHECKED HRESULT (*vp_create)(struct vp *vp);
    void (*vp_destroy)(struct vp *vp);

    // Run until an exit; success fills in all of `exit`. One thread at a time per processor (the caller sees to it); no
    // lock held.
    // When vp_due (partition.h) is true it comes back, within some 100 us, with WHvRunVpExitReasonNone and nothing else in
    // `exit`; a cancel goes before that.
    CHECKED HRESULT (*vp_run)(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *exit);
    // Make the current run, or else the next one, return Canceled. Latched once. Any thread.
    void (*vp_cancel)(struct vp *vp);
    // A run is under way and vp_due has become true: have it look. It may be lost on a run that is just looking. Any
    // thread, but only during a run. NULL: runs look by themselves.
    void (*vp_pause)(struct vp *vp);

    // State. Any thread, also while the processor runs: the engine stops it for the time of the access. The set call
    // checks every name and value first and then writes them all, or none.
    CHECKED HRESULT (*get_registers)(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count,
                                     WHV_REGISTER_VALUE *values);
    CHECKED HRESULT (*set_registers)(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count,
                                     const WHV_REGISTER_VALUE *values);
    // The interrupt controller: `page` is the 4,096-byte register page at 16-byte stride.
    CHECKED HRESULT (*get_apic_page)(struct vp *vp, void *page);
    CHECKED HRESULT (*set_apic_page)(struct vp *vp, const void *page);
    // The XSAVE image (SDM vol. 1 13.4) with all components that the processor has. Get: in the compacted format, of
    // `xsave_size` bytes, the same for the processor's life. Set: in that format and of that size, or in the standard
    // one and of its size; else, and where a bit of it is reserved, E_INVALIDARG. The registers of x87 and SSE by name
    // are the same state.
    UINT32 (*xsave_size)(struct vp *vp);
    CHECKED HRESULT (*get_xsave)(struct vp *vp, void *image);
    CHECKED HRESULT (*set_xsave)(struct vp *vp, const void *image, UINT32 size);
    // What a processor holds besides registers by name, the APIC's page and the XSAVE image: with all of them it can be
    // carried to another partition of the same engine (partition/vp_state.h). A versioned block of little-endian
    // fields. Get: `buffer` has ENGINE_PRIVATE_STATE_MAX bytes, `*size` is how many are used. Set: comes last of all
    // four, and takes the place of what the others said of the same thing; any content is safe, and what no processor
    // of this engine could hold is E_INVALIDARG.
    CHECKED HRESULT (*get_private_state)(struct vp *vp, uint8_t *buffer, size_t *size);
    CHECKED HRESULT (*set_private_state)(struct vp *vp, const uint8_t *buffer, size_t size);

    CHECKED HRESULT (*translate_gva)(struct vp *vp, gva_t gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                     WHV_TRANSLATE_GVA_RESULT *result, gpa_t *gpa);
    // Any thread. Without an APIC mode the caller has refused already.
    CHECKED HRESULT (*request_interrupt)(struct partition *p, const WHV_INTERRUPT_CONTROL *interrupt);

    // The processor's own answer to CPUID, before the partition's CpuidResultList is laid over it. Any thread.
    void (*cpuid)(struct vp *vp, UINT32 leaf, UINT32 subleaf, UINT32 out[4]);
    // Guest instructions executed since creation. Any thread; approximate while running. NULL: nobody counts.
    UINT64 (*instruction_count)(struct vp *vp);
    // All of them, since the processor was created; none ever goes back. Any thread, also while the processor runs.
    CHECKED HRESULT (*counters)(struct vp *vp, struct processor_counters *counters);
    // The pages that are really there for the guest, of each size. With partition->lock held; processors may run.
    CHECKED HRESULT (*memory_counters)(struct partition *p, WHV_PARTITION_MEMORY_COUNTERS *counters);
};

// All engines of this build, fastest first; ends with NULL.
extern const struct engine *const engines[];

#endif
