// A kvm processor's life: create, run, cancel, stop.
#include "engine/kvm/vcpu.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#include "engine/kvm/cpuid.h"
#include "engine/kvm/host.h"
#include "engine/kvm/ioctl.h"
#include "os/kick.h"
#include "x86/decode.h"
#include "x86/system.h"

// ---- Attention ---------------------------------------------------------------------------------------------------

// The processor comes out of KVM_RUN, or does not go in. The caller has stored its reason already. Who goes in looks for
// reasons when it has cleared immediate_exit, or found it clear: either it sees the reason, or this store is the later
// one, and stays. Then KVM_RUN, which looks at immediate_exit under the processor's mutex, finds it; or this finds
// `entered`, which was stored before.
static void kick(struct kvm_vcpu *v)
{
    atomic_thread_fence(memory_order_seq_cst);
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    int thread = atomic_load(&v->entered);
    if (thread)
        os_kick(thread);
}

// Ordered before KVM_RUN's look at immediate_exit by the lock that KVM takes first (see kick).
static void enter_as(struct kvm_vcpu *v, int thread)
{
    atomic_store_explicit(&v->entered, thread, memory_order_release);
}

void kvm_vcpu_cancel(struct vp *vp)
{
    struct kvm_vcpu *v = vp->engine_data;
    atomic_fetch_or(&v->attention, KVM_ATTENTION_CANCEL);
    kick(v);
}

void kvm_vcpu_pause(struct vp *vp)
{
    kick(vp->engine_data);
}

// A processor that has just let visitors in goes into the guest once more before it lets in the next ones, or
// a few of them could keep it from ever executing an instruction. Their kicks are lost on it then: they kick
// again.
#define KICK_AGAIN_NS 50000u

__attribute__((hot)) void kvm_vcpu_stop(struct kvm_vcpu *v)
{
    uint32_t ticket = turnstile_ask(&v->turnstile);
    do
        if (atomic_load(&v->turnstile.busy))
            kick(v);
    while (!turnstile_try_enter(&v->turnstile, ticket, KICK_AGAIN_NS));
}

__attribute__((hot)) void kvm_vcpu_go(struct kvm_vcpu *v)
{
    turnstile_leave(&v->turnstile);
}

// ---- Create and destroy ------------------------------------------------------------------------------------------

// A processor of KVM's for this index: a new one, or the one that a deleted processor has left.
static HRESULT take_kvm_vcpu(struct kvm_partition *kvm, uint32_t index, bool *used)
{
    *used = kvm->kept[index].run != NULL;
    if (*used)
        return S_OK;
    int fd = kvm->kept[index].fd;       // a creation that got no further than this
    if (fd < 0) {
        fd = kvm_ioctl_value(kvm->vm, KVM_CREATE_VCPU, index);
        if (fd < 0)
            return kvm_hresult(fd);
        kvm->kept[index].fd = fd;
    }
    void *run = mmap(NULL, (size_t)kvm_host()->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (run == MAP_FAILED)
        return E_OUTOFMEMORY;
    kvm->kept[index].run = run;
    return S_OK;
}

// What an earlier processor of this index has changed in KVM goes back to what it was.
static HRESULT reset_kvm_vcpu(struct kvm_vcpu *v)
{
    // MSRs that a reset of the view leaves alone are KVM's own. Asking for the activity has KVM take the INIT
    // and start-up messages that came while there was no processor.
    HRESULT hr = kvm_state_fetch(v, REGISTER_MSR | KVM_GROUP_ACTIVITY);
    if (FAILED(hr))
        return hr;
    kvm_state_reset(v);
    v->changed |= REGISTER_DEBUG | REGISTER_XCR | REGISTER_MSR;
    if (v->kvm->apic) {
        v->mp_state = v->p.vp->index ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE;
        v->changed |= KVM_GROUP_ACTIVITY;
    }
    v->fresh |= v->changed;
    return S_OK;
}

static HRESULT set_up(struct kvm_vcpu *v, bool used)
{
    struct vp *vp = v->p.vp;
    struct x86_cpu *cpu = &v->p.cpu;
    // Once: the tables are final since set-up, and KVM takes no others after the first run.
    HRESULT hr = used ? S_OK : kvm_cpuid_install(vp, v->fd);
    if (FAILED(hr))
        return hr;
    kvm_cpuid_features(vp, cpu->features);
    cpu->msr_actions = v->kvm->msr_rules.actions.count != 0;
    kvm_state_reset(v);
    if (used)
        hr = reset_kvm_vcpu(v);
    v->debug_control = used ? UINT32_MAX : 0;       // as the last one left it
    if (!used)
        v->apic_base = v->run->s.regs.sregs.apic_base;
    else if (SUCCEEDED(hr))
        hr = kvm_state_store_apic_base(v);
    // KVM looks for the destinations of messages in a map that it does not make anew for a processor that is
    // only created.
    if (SUCCEEDED(hr) && v->kvm->apic)
        hr = kvm_apic_reset(&v->kvm->interrupts, v->fd, vp->index);
    if (SUCCEEDED(hr))
        hr = kvm_time_begin(v, used);
    v->waits = v->kvm->apic && vp->index;
    UINT32 id[4];
    partition_cpuid(vp, 1, 0, id);
    cpu->slot[X86_RDX] = id[0];         // SDM vol. 3A table 10-1
    v->p.settle = true;
    return hr;
}

HRESULT kvm_vcpu_create(struct vp *vp)
{
    struct kvm_partition *kvm = vp->partition->engine_data;
    bool used;
    HRESULT hr = take_kvm_vcpu(kvm, vp->index, &used);
    if (FAILED(hr))
        return hr;
    struct kvm_vcpu *v = mmap(NULL, kvm_vcpu_size(kvm), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (v == MAP_FAILED)
        return E_OUTOFMEMORY;
    processor_init(&v->p, vp, &kvm_bus);
    v->kvm = kvm;
    v->fd = kvm->kept[vp->index].fd;
    v->run = kvm->kept[vp->index].run;
    vp->engine_data = v;
    hr = set_up(v, used);
    if (SUCCEEDED(hr))
        hr = kvm_counters_start(v, used);
    if (FAILED(hr)) {
        vp->engine_data = NULL;
        munmap(v, kvm_vcpu_size(kvm));
        return hr;
    }
    pthread_rwlock_wrlock(&kvm->vcpus_lock);
    kvm->vcpus[vp->index] = v;
    pthread_rwlock_unlock(&kvm->vcpus_lock);
    return S_OK;
}

HRESULT kvm_vcpu_reset(struct kvm_vcpu *v)
{
    // An instruction that KVM waits to complete is none any more.
    HRESULT hr = kvm_half_drop(v);
    if (FAILED(hr))
        return hr;
    v->half = (struct kvm_half){ .kind = KVM_HALF_NOTHING };
    v->fresh = v->changed = 0;
    v->pending_in_kvm = v->single_step = v->watch_eoi = v->nmi_was_blocked = false;
    processor_start_over(&v->p);
    atomic_store(&v->attention, 0);
    return set_up(v, true);
}

void kvm_vcpu_destroy(struct vp *vp)
{
    struct kvm_vcpu *v = vp->engine_data;
    struct kvm_partition *kvm = v->kvm;
    pthread_rwlock_wrlock(&kvm->vcpus_lock);
    kvm->vcpus[vp->index] = NULL;
    pthread_rwlock_unlock(&kvm->vcpus_lock);
    // An instruction that KVM waits to complete must not fall to the next processor of this index.
    HRESULT ignored = kvm_half_drop(v);
    (void)ignored;
    vp->engine_data = NULL;
    munmap(v, kvm_vcpu_size(kvm));
}

// ---- Events ------------------------------------------------------------------------------------------------------

static enum step window(struct kvm_vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit, WHV_X64_PENDING_INTERRUPTION_TYPE type)
{
    exit_context(&v->p, exit, WHvRunVpExitReasonX64InterruptWindow, kvm_state_cr8(v));
    exit->InterruptWindow.DeliverableType = type;
    return STEP_EXIT;
}

static HRESULT deliver(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct processor *p = &v->p;
    if (p->pending_valid || p->event_valid) {
        *step = deliver_pending(p, exit, kvm_state_cr8(v));
    } else {
        p->ext_int_valid = false;
        *step = deliver_event(p, (struct x86_exception){ .vector = p->ext_int_vector }, true, exit, kvm_state_cr8(v));
    }
    v->pending_in_kvm = false;
    v->changed |= KVM_GROUPS_SYNCED;
    if (*step == STEP_AGAIN && v->kvm->apic && v->mp_state == KVM_MP_STATE_HALTED) {
        v->mp_state = KVM_MP_STATE_RUNNABLE;
        v->changed |= KVM_GROUP_ACTIVITY;
    }
    return S_OK;
}

// What the client asked for that comes before the next instruction. What the local APIC has is KVM's to
// deliver.
static HRESULT events(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct processor *p = &v->p;
    bool ours = (p->pending_valid && !v->pending_in_kvm) || p->event_valid;
    HRESULT hr;
    *step = STEP_RUN;
    v->single_step = false;
    v->run->request_interrupt_window = 0;
    if (X86_LIKELY(!ours && !p->ext_int_valid && !p->notify_interrupt && !p->notify_nmi))
        return S_OK;
    if (v->kvm->apic) {
        hr = kvm_state_fetch(v, KVM_GROUP_ACTIVITY);
        if (FAILED(hr))
            return hr;
        bool waits = v->mp_state == KVM_MP_STATE_UNINITIALIZED || v->mp_state == KVM_MP_STATE_INIT_RECEIVED;
        if (waits && (ours || p->ext_int_valid))
            return S_OK;
    }
    if (ours)
        return kvm_view_do(v, deliver, step, exit);
    bool quiet = !p->pending_valid && !p->cpu.interrupt_shadow;     // KVM has nothing to deliver first
    if (quiet && p->notify_nmi && !p->cpu.nmi_blocked) {
        p->notify_nmi = false;
        *step = window(v, exit, WHvX64PendingNmi);
        return S_OK;
    }
    bool open = quiet && (p->cpu.rflags & X86_IF);
    if (open && p->ext_int_valid && (!v->kvm->apic || v->mp_state != KVM_MP_STATE_HALTED))
        return kvm_view_do(v, deliver, step, exit);
    bool low = p->notify_priority == 0 || kvm_state_cr8(v) < p->notify_priority;
    if (open && p->notify_interrupt && low) {
        p->notify_interrupt = false;
        *step = window(v, exit, WHvX64PendingInterrupt);
        return S_OK;
    }
    // KVM tells when interrupts open, and when CR8 falls, if it has no APIC; but one that emulates the
    // guest's instructions misses a window of one instruction. Of nothing else does it tell.
    bool told = !v->kvm->apic && kvm_host()->hardware;
    if (told && p->notify_interrupt && !open)
        v->run->request_interrupt_window = 1;
    v->single_step = p->notify_nmi || ((p->ext_int_valid || p->notify_interrupt) && !told
                                       && v->mp_state != KVM_MP_STATE_HALTED);
    return S_OK;
}

// ---- Running -----------------------------------------------------------------------------------------------------

static HRESULT guest_debug(struct kvm_vcpu *v)
{
    uint64_t exceptions = v->kvm->debug_exceptions;
    uint32_t control = 0;
    if (exceptions >> X86_BP & 1)
        control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
    if (exceptions >> X86_DB & 1)
        control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    if (v->single_step)
        control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    struct kvm_guest_debug d = { .control = control };
    if (control & KVM_GUESTDBG_USE_HW_BP) {         // the guest's own breakpoints, now through KVM's hands
        HRESULT hr = kvm_state_fetch(v, REGISTER_DEBUG);
        if (FAILED(hr))
            return hr;
        for (unsigned n = 0; n < 4; n++)
            d.arch.debugreg[n] = v->p.cpu.dr[n];
        d.arch.debugreg[6] = v->p.cpu.dr6;
        // And its next ones: with DR7.GD an instruction that reaches for debug registers exits before it has
        // (as the kernel's tools/testing/selftests/kvm/x86/debug_regs.c has it for every processor).
        d.arch.debugreg[7] = v->p.cpu.dr7 | KVM_DR7_GD;
    }
    if (control == v->debug_control && !memcmp(v->debug_registers, d.arch.debugreg, sizeof v->debug_registers))
        return S_OK;
    HRESULT hr = kvm_hresult(kvm_ioctl(v->fd, KVM_SET_GUEST_DEBUG, &d));
    if (SUCCEEDED(hr)) {
        v->debug_control = control;
        memcpy(v->debug_registers, d.arch.debugreg, sizeof v->debug_registers);
    }
    return hr;
}

static HRESULT settle(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    // What the processor has beyond the view's own is for KVM to check: PKE and CET; components above AVX.
    bool valid = x86_state_valid(&v->p.cpu, 1u << 22 | 1u << 23, ~7ull);
    // An external interrupt event without an APIC mode is accepted by the set call and refused by the run.
    if (valid && !(v->p.ext_int_valid && !v->kvm->apic)) {
        v->p.settle = false;
        *step = STEP_RUN;
        return S_OK;
    }
    exit_context(&v->p, exit, WHvRunVpExitReasonInvalidVpRegisterValue, kvm_state_cr8(v));
    *step = STEP_EXIT;
    return S_OK;
}

static enum step canceled(struct kvm_vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    atomic_fetch_and(&v->attention, ~(uint32_t)KVM_ATTENTION_CANCEL);
    exit_context(&v->p, exit, WHvRunVpExitReasonCanceled, kvm_state_cr8(v));
    exit->CancelReason.CancelReason = WHvRunVpCancelReasonUser;
    return STEP_EXIT;
}

// KVM refuses the state that it was given.
static enum step refused(struct kvm_vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    v->p.settle = true;
    exit_context(&v->p, exit, WHvRunVpExitReasonInvalidVpRegisterValue, kvm_state_cr8(v));
    return STEP_EXIT;
}

static inline __attribute__((always_inline))
HRESULT enter(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    uint32_t changed = v->changed & KVM_GROUPS_SYNCED;
    struct kvm_sregs given;
    kvm_state_prepare_run(v);
    bool gives = v->run->kvm_dirty_regs & KVM_SYNC_X86_SREGS;
    if (X86_UNLIKELY(gives))
        given = v->run->s.regs.sregs;
    v->nmi_was_blocked = v->p.cpu.nmi_blocked;
    int answer = X86_UNLIKELY(v->waits) ? kvm_state_hand_over(v) : 0;
    if (X86_LIKELY(answer >= 0)) {
        uint64_t entered = x86_host_ticks();
        answer = kvm_ioctl_value(v->fd, KVM_RUN, 0);
        v->runtime.left = x86_host_ticks();
        v->runtime.inside += x86_ticks_between(entered, v->runtime.left);
    } else if (answer != -EINVAL)
        return kvm_hresult(answer);
    if (X86_UNLIKELY(answer == -EINVAL && changed)) {
        // What KVM has instead is in the shared page, which is also the place of what the view has no other for.
        if (gives)
            v->run->s.regs.sregs = given;
        *step = refused(v, exit);
        return S_OK;
    }
    v->half.kind = KVM_HALF_NOTHING;
    kvm_state_after_run(v);
    *step = STEP_AGAIN;
    if (X86_UNLIKELY(answer == -EINTR || answer == -EAGAIN))
        return S_OK;
    v->waits = false;
    if (X86_UNLIKELY(answer < 0)) {
        if (answer != -EFAULT)
            return kvm_hresult(answer);
        if (v->run->exit_reason != KVM_EXIT_MEMORY_FAULT)
            return kvm_exit_memory_gone(v, step, exit);
    }
    return kvm_exit(v, step, exit);
}

// Step while a level-triggered interrupt is under way, so that its EOI is told when it happens (apic.h).
static HRESULT watch_eoi(struct kvm_vcpu *v)
{
    bool waiting = atomic_load(&v->kvm->level_requests) != 0;
    HRESULT hr = S_OK;
    if (!waiting && v->watch_eoi)
        hr = kvm_apic_level_waiting(v->fd, &waiting);
    v->watch_eoi = waiting;
    v->single_step |= waiting;
    return hr;
}

// Two instructions that KVM does not step over as it should, and the view runs: behind an IRET (CF, perhaps
// with an operand-size or REX prefix) the step ends one instruction late, since RFLAGS.TF, which makes it, is
// part of what IRET loads; and a HLT (F4) that an emulating kernel has stepped over stays asked for, and is
// obeyed at some later instruction.
static HRESULT over_special(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    uint8_t bytes[16];
    unsigned count = exit_instruction_bytes(&v->p, bytes), n = 0;
    bool wide = (v->p.cpu.mode & X86_MODE_CODE) == X86_MODE_CODE64;
    *step = STEP_RUN;
    while (n < count && (bytes[n] == 0x66 || (wide && (bytes[n] & 0xf0) == 0x40)))
        n++;
    return n < count && (bytes[n] == 0xcf || bytes[n] == 0xf4) ? kvm_step(v, step, exit) : S_OK;
}

__attribute__((hot)) static HRESULT run_step(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    HRESULT hr = S_OK;
    if (X86_UNLIKELY(atomic_load(&v->attention) & KVM_ATTENTION_CANCEL)) {
        *step = canceled(v, exit);
        return S_OK;
    }
    if (X86_UNLIKELY(vp_due(v->p.vp))) {
        exit->ExitReason = WHvRunVpExitReasonNone;
        *step = STEP_EXIT;
        return S_OK;
    }
    bool gave_way = turnstile_wanted(&v->turnstile);
    if (X86_UNLIKELY(gave_way)) {
        enter_as(v, 0);
        kvm_runtime_take(v);
        turnstile_give_way(&v->turnstile);
        kvm_runtime_begin(v);
        enter_as(v, v->thread);
    }
    *step = STEP_RUN;
    if (X86_UNLIKELY(v->p.settle))
        hr = kvm_view_do(v, settle, step, exit);
    if (SUCCEEDED(hr) && *step == STEP_RUN)
        hr = events(v, step, exit);
    if (FAILED(hr) || *step != STEP_RUN)
        return hr;
    hr = kvm_half_resolve(v);
    if (X86_UNLIKELY(SUCCEEDED(hr) && (v->changed & ~(uint32_t)KVM_GROUPS_SYNCED))) {
        hr = kvm_state_store(v);
        if (hr == E_INVALIDARG) {
            *step = refused(v, exit);
            return S_OK;
        }
    }
    if (X86_UNLIKELY(SUCCEEDED(hr) && v->kvm->eoi_late))
        hr = watch_eoi(v);
    if (X86_UNLIKELY(SUCCEEDED(hr) && v->single_step && !v->p.pending_valid)) {
        hr = kvm_view_do(v, over_special, step, exit);
        if (FAILED(hr) || *step != STEP_RUN)
            return hr;
    }
    if (X86_UNLIKELY(SUCCEEDED(hr) && (v->debug_control || v->single_step || v->kvm->debug_exceptions)))
        hr = guest_debug(v);
    if (FAILED(hr))
        return hr;
    // First the flag, then the reasons once more: a kick after this line sets it again (see kick). kvm_half_resolve
    // has used the flag, too.
    if (X86_UNLIKELY(__atomic_load_n(&v->run->immediate_exit, __ATOMIC_SEQ_CST)))
        __atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    if (X86_UNLIKELY((atomic_load(&v->attention) & KVM_ATTENTION_CANCEL)
                     || (!gave_way && turnstile_wanted(&v->turnstile)))) {
        *step = STEP_AGAIN;
        return S_OK;
    }
    return enter(v, step, exit);
}

__attribute__((hot)) HRESULT kvm_vcpu_run(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct kvm_vcpu *v = vp->engine_data;
    HRESULT hr;
    enum step step;
    turnstile_come_back(&v->turnstile);
    kvm_runtime_begin(v);
    v->thread = os_kick_accept();
    enter_as(v, v->thread);
    do
        hr = run_step(v, &step, exit);
    while (X86_UNLIKELY(SUCCEEDED(hr) && step != STEP_EXIT));
    enter_as(v, 0);
    kvm_runtime_end(v, SUCCEEDED(hr) ? exit : NULL);
    turnstile_stand_aside(&v->turnstile);
    return hr;
}
