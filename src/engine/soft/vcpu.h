// Inside the soft engine: a partition's and a processor's object, and who may touch what.
//
// Threads. The thread inside vcpu_run holds `state_lock` while guest code runs and gives it up while the processor
// sleeps. Everybody else reaches a processor's state between vcpu_stop and vcpu_resume, which hold the same lock.
// What needs neither: `attention`, the local APIC's any-thread functions, `instructions`.
// Fairness: a busy processor lets in those who asked before it gives way, and runs before it lets in the next ones,
// so neither side can starve the other.
// Lock order: state_lock is taken after partition->lock. Who holds that one may stop several processors at once;
// everybody else stops one.
#ifndef BULKHEAD_SOFT_VCPU_H
#define BULKHEAD_SOFT_VCPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/soft/lapic.h"
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
    uint64_t host_hz;                   // of the host's TSC
    uint64_t tsc_hz, bus_hz;            // the guest's, as the properties say
    uint64_t tsc_zero;                  // host TSC at which the guest's was 0
    bool apic;                          // XApic or X2Apic
    bool x2apic_allowed;
    _Atomic(struct lapic *) lapics[PARTITION_MAX_PROCESSORS];
    _Atomic(struct vcpu *) vcpus[PARTITION_MAX_PROCESSORS];
    pthread_rwlock_t vcpus_lock;        // readers: whoever kicks another processor; writer: create and destroy
    struct vcpu_exits exits;
};

struct vcpu {
    struct x86_cpu cpu;
    struct vp *vp;
    struct soft_partition *soft;
    struct lapic lapic;

    pthread_mutex_t state_lock;
    pthread_cond_t admit;               // somebody who waits in vcpu_stop may come in
    pthread_cond_t left;                // all who were let in have left
    _Atomic uint32_t attention;         // enum vcpu_attention; the word that a sleeping processor waits on
    _Atomic uint32_t stops_asked;       // tickets that vcpu_stop has given out
    atomic_bool running;                // a thread is inside vcpu_run
    atomic_bool busy;                   // and it is neither asleep nor about to sleep
    _Atomic uint64_t instructions;

    // Under state_lock:
    uint32_t stops_admitted;            // while busy: tickets below this may come in
    uint32_t stops_done;                // visits that have ended
    int64_t granted;                    // the budget last given; minus cpu.budget = executed since
    bool halted;                        // by HLT, with an APIC mode: sleeps until an event
    bool wait_for_sipi;
    bool settle;                        // state was set from outside: derive and check before running
    bool tlb_used;
    struct x86_exception pending;       // event to deliver before the next instruction
    bool pending_valid, pending_external;
    bool pending_told;                  // its delivery raised an exception that the client was told of
    struct x86_exception told;          // the software exception that the last exit was for, and its RIP
    uint64_t told_rip;
    struct x86_exception event;         // WHvRegisterPendingEvent: exception
    bool event_valid;
    bool ext_int_valid;
    uint8_t ext_int_vector;
    bool notify_interrupt, notify_nmi;
    uint8_t notify_priority;
    bool eoi_exit;                      // an EOI has to be told
    uint8_t eoi_vector;
    uint64_t tsc_offset;                // added to the partition's TSC
    uint64_t tsc_adjust;
    struct gpa_range ranges[2];         // the last ranges of guest memory looked up; size 0: none
    unsigned range_next;
};

CHECKED HRESULT vcpu_create(struct vp *vp);
void vcpu_destroy(struct vp *vp);
CHECKED HRESULT vcpu_run(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *exit);
void vcpu_cancel(struct vp *vp);

// Have the processor stand still, whoever runs it, and resume.
void vcpu_stop(struct vcpu *v);
void vcpu_resume(struct vcpu *v);
// Get the processor's attention. Any thread.
void vcpu_kick(struct vcpu *v, uint32_t why);
void vcpu_forget_memory(struct vcpu *v);

// platform.c: what is behind the processor.
extern const struct x86_bus vcpu_bus;
void vcpu_apic_effects(struct vcpu *v, const struct lapic_effects *effects);
void soft_route(struct soft_partition *soft, const struct lapic_message *message, uint32_t sender);
uint64_t vcpu_guest_tsc(const struct vcpu *v);
struct lapic_time vcpu_time(const struct vcpu *v);
uint64_t vcpu_ns_until(const struct vcpu *v, uint64_t deadline_ns);
void vcpu_set_tsc(struct vcpu *v, uint64_t tsc);

// exits.c: what an exit tells.
void vcpu_exit_context(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit, WHV_RUN_VP_EXIT_REASON reason);
void vcpu_exit_from_cpu(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit);
// Whether a host address lies in memory that the guest has, and where. Any thread.
bool vcpu_is_guest_memory(struct vcpu *v, const void *address, gpa_t *gpa);
// A host access at `address` failed under the processor: true when it is guest memory, and the exit says which.
bool vcpu_exit_memory_gone(struct vcpu *v, const void *address, bool write, WHV_RUN_VP_EXIT_CONTEXT *exit);
WHV_X64_SEGMENT_REGISTER vcpu_segment(const struct x86_cpu *cpu, unsigned segment);

// registers.c
CHECKED HRESULT vcpu_get_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values);
CHECKED HRESULT vcpu_set_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count,
                                   const WHV_REGISTER_VALUE *values);

// clock.c: the host's time-stamp counter.
uint64_t clock_tsc(void);
uint64_t clock_tsc_hz(void);

#endif
