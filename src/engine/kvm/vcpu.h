// Inside the kvm engine: a partition's and a processor's object, and who may touch what.
//
// The view. A processor's state lives in KVM while it runs, and in `p` (a struct processor) while it stands:
// groups of registers (enum register_group and kvm_group) are `fresh` when the view holds them, and `changed`
// when it holds something newer than KVM. General and system registers and events come and go with each
// KVM_RUN (KVM_CAP_SYNC_REGS); every other group is fetched when it is asked for, and handed over before the
// next run.
//
// Half-done instructions. Between an exit and the next run KVM may still have to complete the instruction
// that it exited for (undo.h). The view is before that instruction; `half` says what KVM waits for;
// kvm_half_resolve, before the next run, either lets KVM complete it with what the client has put in the
// registers, or has it complete with nothing and sets everything back.
//
// Threads. As in the soft engine: the running thread holds the turnstile's lock, also inside KVM_RUN;
// visitors kick it out. `attention`, and `entered` with run->immediate_exit, are what any thread touches.
// `viewing` is odd while the view is used to reach guest memory, which is under the turnstile's lock; a change of
// the map waits for each view that is in use to be left once (kvm.c, pass_views). Who holds partition->lock
// may stop several processors at once; everybody else stops one.
#ifndef BULKHEAD_KVM_VCPU_H
#define BULKHEAD_KVM_VCPU_H

#include "engine/common/processor.h"
#include "engine/common/registers.h"
#include "engine/common/turnstile.h"
#include "engine/kvm/abi.h"
#include "engine/kvm/apic.h"
#include "engine/kvm/msr.h"
#include "engine/kvm/slots.h"
#include "engine/kvm/stats.h"
#include "engine/kvm/undo.h"
#include "x86/decode.h"

enum kvm_attention { KVM_ATTENTION_CANCEL = 1 };     // latched until a run has returned Canceled

enum kvm_group {
    KVM_GROUP_APIC = REGISTER_OWN,
    KVM_GROUP_TSC = REGISTER_OWN << 1,
    KVM_GROUP_ACTIVITY = REGISTER_OWN << 2,
    KVM_GROUP_TIMER = REGISTER_OWN << 3,        // only ever `changed`: the APIC's timer goes back to KVM (time.c)
    KVM_GROUPS_SYNCED = REGISTER_GENERAL | REGISTER_SYSTEM | REGISTER_EVENTS,
};

struct kvm_vcpu;

struct kvm_partition {
    struct partition *partition;
    int vm;
    bool apic;                          // XApic or X2Apic
    struct kvm_apic interrupts;
    bool eoi_late;                      // KVM tells of an EOI late: processors stop after each instruction meanwhile
    _Atomic unsigned level_requests;    // level-triggered interrupts on their way to processors, where eoi_late
    size_t xsave_size;                  // bytes of the area that KVM takes and gives
    struct kvm_slots slots;
    _Atomic uint64_t map_version;       // moves on with each change of the map
    _Atomic(struct kvm_vcpu *) vcpus[PARTITION_MAX_PROCESSORS];
    pthread_rwlock_t vcpus_lock;        // readers: whoever reaches for another processor; writer: create and destroy
    // KVM never gives a processor back: what a deleted one leaves serves the next of that index. run NULL:
    // none yet.
    struct { int fd; struct kvm_run *run; } kept[PARTITION_MAX_PROCESSORS];     // fd -1: none
    struct kvm_msr_rules msr_rules;
    atomic_bool msr_exits;              // X64MsrExit is on
    _Atomic uint64_t debug_exceptions;  // vectors that exit; only such as KVM can give
    uint64_t msr_choice;                // what KVM has of the MSR exits (kvm.c), under partition->lock
    bool msr_due;                       // it has not been told of them yet; the same
    // time.c; written with all processors standing still.
    bool stands;                        // time does
    uint64_t tsc_offset;                // of a counter that is the partition's clock; as it was while time stands
};

// The time-stamp counter's registers, as last fetched; `set` has a bit for each that is to be written.
struct kvm_tsc_registers { uint64_t tsc, adjust, deadline, offset; unsigned set; };
enum { KVM_TSC_SET = 1, KVM_TSC_SET_ADJUST = 2, KVM_TSC_SET_DEADLINE = 4 };

// The APIC's timer while it is out of KVM (time.c).
struct kvm_timer {
    enum { KVM_TIMER_NOT_HELD, KVM_TIMER_COUNT, KVM_TIMER_DEADLINE } held;
    uint32_t lvt, initial, current;
    unsigned divide_shift;
    uint64_t clock;                     // the partition's when `current` was right
    uint64_t deadline;
};

struct kvm_half {
    struct kvm_undo undo;
    enum { KVM_HALF_NOTHING, KVM_HALF_ACCESS, KVM_HALF_MSR_READ, KVM_HALF_MSR_WRITE } kind;
};

// Where a processor's time in runs goes, in ticks of the host's TSC, with what the host gives to other threads
// meanwhile. KVM_RUN is measured always; the engine's own share, which an exit would feel, is an estimate: the first
// runs and then one in KVM_RUNTIME_STRIDE (a prime, for a guest's own rhythm) are measured whole.
#define KVM_RUNTIME_STRIDE 17u
#define KVM_RUNTIME_FIRST 16u
struct kvm_runtime {
    uint64_t inside;                    // in KVM_RUN: the guest, and what the kernel does for it
    uint64_t own;
    unsigned until;                     // runs from the last measured one to the next
    unsigned first;                     // how many of the first are measured
    unsigned weight;                    // how many runs this one stands for; 0: it is not measured
    uint64_t since, inside_before;      // what `own` holds in this run
    uint64_t left;                      // when KVM_RUN last came back in this run, or when the run began
};

struct kvm_vcpu {
    struct processor p;                 // first
    struct kvm_partition *kvm;
    int fd;
    struct kvm_run *run;
    struct turnstile turnstile;
    _Atomic uint32_t attention;
    _Atomic int entered;                // the thread that is inside KVM_RUN or about to be; 0: none
    _Atomic uint32_t viewing;           // written by who holds the turnstile's lock; see above

    // Under the turnstile's lock:
    uint32_t fresh, changed;
    int thread;                         // the last one that ran it, and lets kicks come; 0: none yet
    uint64_t map_version;               // which p.ranges are of
    struct kvm_sregs seen;              // what the view's system registers were loaded from
    bool seen_stale;                    // they are not what that would give any more
    uint64_t settled;                   // what the view was settled by besides them (step.c); 0: not
    struct kvm_runtime runtime;
    struct kvm_half half;
    // The registers that an instruction can be completed from, as they were at the exit.
    struct kvm_undo_registers before;
    bool pending_in_kvm;                // p.pending is what KVM has: it will deliver it
    struct x86_exception pending_of_kvm;
    bool waits;                         // may wait for another processor to start it
    bool nmi_was_blocked;               // when KVM was entered
    bool watch_eoi;                     // eoi_late: a level-triggered interrupt may be under way here
    bool single_step;                   // wait for something that KVM does not tell of, instruction by instruction
    uint32_t debug_control;             // KVM_SET_GUEST_DEBUG as last set
    uint64_t debug_registers[8];
    uint32_t mp_state;                  // KVM_GROUP_ACTIVITY
    uint64_t apic_base;                 // as KVM has it; 0: not known
    struct kvm_tsc_registers tsc;       // KVM_GROUP_TSC
    uint64_t tsc_ahead;                 // while time stands: of the partition's clock
    struct kvm_timer timer;
    uint8_t apic_page[KVM_APIC_PAGE_SIZE], apic_before[KVM_APIC_PAGE_SIZE];    // KVM_GROUP_APIC, and as fetched
    struct x86_step step;               // the instruction that is stepped
    struct x86_counted steps;           // instructions that were run on the view
    x86_count told_halts, told_windows; // exits of KVM_RUN that the kernel counts too
    struct kvm_stats stats_before;      // as they were at its creation
    struct processor_counters counters_told;
    struct kvm_xsave xsave;             // what FPU registers come in; last, as it has kvm->xsave_size bytes
};

static inline size_t kvm_vcpu_size(const struct kvm_partition *kvm)
{
    return offsetof(struct kvm_vcpu, xsave) + kvm->xsave_size;
}

static inline struct kvm_vcpu *kvm_vcpu_of(struct processor *p) { return (struct kvm_vcpu *)p; }

// vcpu.c
CHECKED HRESULT kvm_vcpu_create(struct vp *vp);
void kvm_vcpu_destroy(struct vp *vp);
CHECKED HRESULT kvm_vcpu_run(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *exit);
void kvm_vcpu_cancel(struct vp *vp);
void kvm_vcpu_pause(struct vp *vp);
// As after its creation. It stands still, and no thread runs it. A failure leaves it half reset.
CHECKED HRESULT kvm_vcpu_reset(struct kvm_vcpu *v);
// Have the processor stand still, whoever runs it, and go on.
void kvm_vcpu_stop(struct kvm_vcpu *v);
void kvm_vcpu_go(struct kvm_vcpu *v);

// state.c: between the view and KVM.
CHECKED HRESULT kvm_state_fetch(struct kvm_vcpu *v, uint32_t groups);
// Everything that is `changed`, but the synchronised groups: those go with the next KVM_RUN
// (kvm_state_prepare_run). E_INVALIDARG: KVM refuses the values; what it refused stays changed.
CHECKED HRESULT kvm_state_store(struct kvm_vcpu *v);
// The APIC's base alone: its state has another form in another mode.
CHECKED HRESULT kvm_state_store_apic_base(struct kvm_vcpu *v);
void kvm_state_prepare_run(struct kvm_vcpu *v);
// After that, for a processor that may be waiting for its start: KVM_RUN lets it wait before it looks at the
// synchronised groups, and an INIT that has come would be carried out behind them. Minus an errno when KVM
// refuses them.
CHECKED int kvm_state_hand_over(struct kvm_vcpu *v);
// After KVM_RUN: the synchronised groups are fresh, nothing else is.
void kvm_state_after_run(struct kvm_vcpu *v);
// Between the view's x87 and vector registers and its XSAVE area, in the standard format.
void kvm_state_load_fpu(struct kvm_vcpu *v);
void kvm_state_place_fpu(struct kvm_vcpu *v);
// A processor as it is after reset, in the view alone.
void kvm_state_reset(struct kvm_vcpu *v);
static inline UINT8 kvm_state_cr8(const struct kvm_vcpu *v) { return v->run->s.regs.sregs.cr8 & 15; }

// counters.c
CHECKED HRESULT kvm_counters(struct vp *vp, struct processor_counters *counters);
CHECKED HRESULT kvm_memory_counters(struct partition *p, WHV_PARTITION_MEMORY_COUNTERS *counters);
CHECKED HRESULT kvm_counters_start(struct kvm_vcpu *v, bool used);
// A run begins; takes in what has passed since; ends, with its exit or NULL. With the turnstile's lock.
void kvm_runtime_begin(struct kvm_vcpu *v);
void kvm_runtime_take(struct kvm_vcpu *v);
void kvm_runtime_end(struct kvm_vcpu *v, const WHV_RUN_VP_EXIT_CONTEXT *exit);

// registers.c
CHECKED HRESULT kvm_get_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values);
CHECKED HRESULT kvm_set_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count,
                                  const WHV_REGISTER_VALUE *values);

// time.c: the counter and the timer of a processor that stands still, whether time does or not.
// As after its creation; `used`: KVM has what an earlier processor left.
CHECKED HRESULT kvm_time_begin(struct kvm_vcpu *v, bool used);
// The members of `tsc`, but for `adjust`; and set one.
CHECKED HRESULT kvm_time_fetch(struct kvm_vcpu *v);
CHECKED HRESULT kvm_time_set_tsc(struct kvm_vcpu *v, uint64_t value);
CHECKED HRESULT kvm_time_set_offset(struct kvm_vcpu *v, uint64_t value);
CHECKED HRESULT kvm_time_set_deadline(struct kvm_vcpu *v, uint64_t value);
// kvm_apic_set_page, and the timer's part of a page that kvm_apic_get_page has filled in.
CHECKED HRESULT kvm_time_set_page(struct kvm_vcpu *v, const uint8_t page[KVM_APIC_PAGE_SIZE], const uint8_t *before);
void kvm_time_show_timer(const struct kvm_vcpu *v, uint8_t page[KVM_APIC_PAGE_SIZE]);
// KVM_GROUP_TIMER's way to KVM.
CHECKED HRESULT kvm_time_give_timer(struct kvm_vcpu *v);
// engine.h's calls.
CHECKED HRESULT kvm_time_stop(struct partition *p);
CHECKED HRESULT kvm_time_start(struct partition *p);

// kvm.c: kvm_msr_exits of a partition, with its lock.
CHECKED HRESULT kvm_msr_exits_now(struct kvm_partition *kvm);

// kvm.c: all processors of a struct kvm_partition. partition->lock keeps them from coming and going.
void kvm_stop_all(void *kvm_partition);
void kvm_go_all(void *kvm_partition);

// xsave.c, private.c: engine.h's calls.
UINT32 kvm_xsave_size(struct vp *vp);
CHECKED HRESULT kvm_get_xsave(struct vp *vp, void *image);
CHECKED HRESULT kvm_set_xsave(struct vp *vp, const void *image, UINT32 size);
CHECKED HRESULT kvm_get_private_state(struct vp *vp, uint8_t *buffer, size_t *size);
CHECKED HRESULT kvm_set_private_state(struct vp *vp, const uint8_t *buffer, size_t size);

// half.c: instructions that KVM has half done. KVM exited for a port or memory access: put the view before
// the instruction. Inside kvm_view_do. E_FAIL: KVM answered what it never should.
CHECKED HRESULT kvm_half_access(struct kvm_vcpu *v);
// Before the next run. E_FAIL as above. What KVM waits for may still be open afterwards, until it has run:
// the client may yet set other registers, when the run ends before KVM is entered.
CHECKED HRESULT kvm_half_resolve(struct kvm_vcpu *v);
// KVM waits for nothing any more; the view is what it was.
CHECKED HRESULT kvm_half_drop(struct kvm_vcpu *v);

// step.c: the view's own processor.
extern const struct x86_bus kvm_bus;
// Run the one instruction at RIP on the view. STEP_AGAIN: done; STEP_EXIT: `exit` is filled in; STEP_RUN: the
// interpreter does not know the instruction, and nothing has changed. Inside kvm_view_do.
CHECKED HRESULT kvm_step(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit);
// #DB behind an instruction that was run on the view with RFLAGS.TF set (SDM vol. 3B 18.3.1.4). Inside kvm_view_do.
CHECKED HRESULT kvm_step_trap(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit);
// Around each use of the view on guest memory, so that nobody is left in an old map.
void kvm_view_enter(struct kvm_vcpu *v);
void kvm_view_leave(struct kvm_vcpu *v);
// Call `work` with the view settled and guest memory within reach; memory that is gone makes a MemoryAccess
// exit.
typedef HRESULT (*kvm_view_work)(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit);
CHECKED HRESULT kvm_view_do(struct kvm_vcpu *v, kvm_view_work work, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit);

#define KVM_DR7_GD 0x2000u              // general detect (SDM vol. 3B 18.2.4)

// exits.c: what KVM_RUN came back with. STEP_EXIT: `exit` is filled in.
CHECKED HRESULT kvm_exit(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit);
// The same for KVM_RUN's EFAULT.
CHECKED HRESULT kvm_exit_memory_gone(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit);

#endif
