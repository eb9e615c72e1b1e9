// Inside the soft engine: a partition's and a processor's object, and who may touch what.
//
// Threads. The thread inside vcpu_run holds the turnstile's lock while guest code runs and gives it up while the
// processor sleeps. Everybody else reaches a processor's state between vcpu_stop and vcpu_resume, which hold the same
// lock. What needs neither: `attention`, the local APIC's any-thread functions, `instructions`.
// Lock order: the turnstile's is taken after partition->lock. Who holds that one may stop several processors at once;
// everybody else stops one.
#ifndef BULKHEAD_SOFT_VCPU_H
#define BULKHEAD_SOFT_VCPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/common/msr_actions.h"
#include "engine/common/processor.h"
#include "engine/common/turnstile.h"
#include "engine/soft/lapic.h"
#include "engine/soft/runtime.h"
#include "partition/partition.h"
#include "x86/cpu.h"

// Why a running processor should look up. Any thread sets bits with vcpu_kick.
enum vcpu_attention {
    VCPU_CANCEL = 1,        // latched until a run has returned Canceled
    VCPU_STOP = 2,          // somebody waits in vcpu_stop
    VCPU_INTERRUPT = 4,     // the local APIC has something new
};

// Exits that a processor makes, as the properties say; copies, replaced while the processor is stopped.
struct vcpu_exits {
    WHV_EXTENDED_VM_EXITS extended;
    uint64_t exceptions;                // 0 unless ExceptionExit is on
    WHV_X64_MSR_EXIT_BITMAP msr;
    const uint32_t *cpuid;              // the partition's list; NULL with count 0: all leaves
    uint32_t cpuid_count;
};

struct soft_partition {
    struct partition *partition;
    uint64_t host_hz;                   // of the host's TSC, and of the partition's clock
    uint64_t tsc_hz, bus_hz;            // the guest's, as the properties say
    bool apic;                          // XApic or X2Apic
    bool x2apic_allowed;
    bool remote_read;                   // one local APIC can be read from another
    _Atomic(struct lapic *) lapics[PARTITION_MAX_PROCESSORS];
    _Atomic(struct vcpu *) vcpus[PARTITION_MAX_PROCESSORS];
    pthread_rwlock_t vcpus_lock;        // readers: whoever kicks another processor; writer: create and destroy
    struct vcpu_exits exits;
    struct msr_actions msr_actions;
};

// What the guest does with its local APIC: accesses to its page; writes of EOI and accesses to the TPR by whatever way
// (CR8 is one); messages that it sends, to others and to itself alone.
struct vcpu_apic_counts { x86_count mmio, eoi, tpr, ipi, self_ipi; };

// Writes to the local APIC that are to be told, in the order in which they are where an instruction has made several.
enum vcpu_trap { VCPU_TRAP_LDR, VCPU_TRAP_DFR, VCPU_TRAP_SVR, VCPU_TRAP_LINT0, VCPU_TRAP_LINT1, VCPU_TRAP_SMI,
                 VCPU_TRAP_INIT_SIPI, VCPU_TRAPS };
struct vcpu_traps {
    uint8_t pending;                    // a bit for each enum vcpu_trap
    uint64_t value[VCPU_TRAPS];         // as written; of a message the ICR
};

struct vcpu {
    struct processor p;                 // the first member: what is given a processor may have to find the vcpu
    struct soft_partition *soft;
    struct lapic lapic;
    struct turnstile turnstile;

    _Atomic uint32_t attention;         // enum vcpu_attention; the word that a sleeping processor waits on
    atomic_bool running;                // a thread is inside vcpu_run
    _Atomic uint64_t instructions;
    struct runtime runtime;
    struct vcpu_apic_counts apic_counts;

    // Under the turnstile's lock:
    int64_t granted;                    // the budget last given; minus cpu.budget = executed since
    bool halted;                        // by HLT, with an APIC mode: sleeps until an event
    bool wait_for_sipi;
    bool eoi_exit;                      // an EOI has to be told
    uint8_t eoi_vector;
    struct vcpu_traps traps;
    uint64_t tsc_offset;                // added to the partition's TSC
    uint64_t tsc_adjust;
};

CHECKED HRESULT vcpu_create(struct vp *vp);
void vcpu_destroy(struct vp *vp);
CHECKED HRESULT vcpu_run(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *exit);
void vcpu_cancel(struct vp *vp);
// As after its creation. No thread runs it.
void vcpu_reset(struct vcpu *v);

// Have the processor stand still, whoever runs it, and resume.
void vcpu_stop(struct vcpu *v);
void vcpu_resume(struct vcpu *v);
// Get the processor's attention. Any thread.
void vcpu_kick(struct vcpu *v, uint32_t why);

// platform.c: what is behind the processor.
extern const struct x86_bus vcpu_bus;
// What a write of `value` to the local APIC has asked for.
void vcpu_apic_effects(struct vcpu *v, const struct lapic_effects *effects, uint64_t value);
void soft_route(struct soft_partition *soft, const struct lapic_message *message, uint32_t sender);
uint64_t vcpu_guest_tsc(const struct vcpu *v);
struct lapic_time vcpu_time(const struct vcpu *v);
uint64_t vcpu_ns_until(const struct vcpu *v, uint64_t deadline_ns);
void vcpu_set_tsc(struct vcpu *v, uint64_t tsc);

// traps.c
// The register at `offset` has taken `value`: an exit behind the instruction, if the partition asks for it.
void vcpu_trap_write(struct vcpu *v, uint16_t offset, uint64_t value);
// The same for a message that the ICR was just written for; true: it is the client's to deliver.
bool vcpu_trap_message(struct vcpu *v, const struct lapic_message *message);
// The next exit that is due; false: there is none.
bool vcpu_trap_take(struct vcpu *v, struct x86_exit *exit);

// registers.c
CHECKED HRESULT vcpu_get_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values);
CHECKED HRESULT vcpu_set_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count,
                                   const WHV_REGISTER_VALUE *values);

// state.c: all of a processor's state.
UINT32 vcpu_xsave_size(struct vp *vp);
CHECKED HRESULT vcpu_get_xsave(struct vp *vp, void *image);
CHECKED HRESULT vcpu_set_xsave(struct vp *vp, const void *image, UINT32 size);
CHECKED HRESULT vcpu_get_private_state(struct vp *vp, uint8_t *buffer, size_t *size);
CHECKED HRESULT vcpu_set_private_state(struct vp *vp, const uint8_t *buffer, size_t size);

// runtime.c
CHECKED HRESULT vcpu_counters(struct vp *vp, struct processor_counters *counters);

#endif
