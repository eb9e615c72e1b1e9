// Instructions that KVM has half done: put the view before them, and later have KVM finish them one way or
// the other.
#include <errno.h>
#include <string.h>

#include "engine/kvm/ioctl.h"
#include "engine/kvm/vcpu.h"
#include "x86/system.h"

// A completion that does not come to its end after so many exits is none of an instruction.
#define MAX_EXITS 64

// Have KVM finish what is pending, and run nothing. Whatever more it wants of the instruction is dropped, and
// what the shared page says of the exit stays. With RFLAGS.TF KVM traps behind what it finishes
// (arch/x86/kvm/x86.c, kvm_vcpu_do_singlestep): DR6 has the cause at once and is set back before the next
// run; the #DB waits among the events.
static HRESULT complete(struct kvm_vcpu *v)
{
    struct kvm_run *run = v->run;
    uint32_t reason = run->exit_reason;
    uint8_t told[sizeof run->padding];
    memcpy(told, run->padding, sizeof told);
    HRESULT hr = S_OK;
    if (run->s.regs.regs.rflags & X86_TF)
        hr = kvm_state_fetch(v, REGISTER_DEBUG);
    if (FAILED(hr))
        return hr;
    if (run->s.regs.regs.rflags & X86_TF)
        v->changed |= REGISTER_DEBUG;
    hr = E_FAIL;
    for (unsigned n = 0; n < MAX_EXITS; n++) {
        __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_RELAXED);     // kicks do the same at any time
        int answer = kvm_ioctl_value(v->fd, KVM_RUN, 0);
        run->kvm_dirty_regs = 0;
        if (answer < 0) {
            hr = answer == -EINTR ? S_OK : kvm_hresult(answer);
            break;
        }
    }
    run->exit_reason = reason;
    memcpy(run->padding, told, sizeof told);
    return hr;
}

// What completing an instruction with data that is not its own would leave in memory.
struct saved_memory {
    uint8_t bytes[1024];
    unsigned count;
    struct { unsigned offset; } part[KVM_UNDO_WRITES];
    bool valid[KVM_UNDO_WRITES];
};

static void save_memory(struct kvm_vcpu *v, struct saved_memory *saved)
{
    const struct kvm_undo *undo = &v->half.undo;
    saved->count = 0;
    for (unsigned n = 0; n < undo->write_count; n++) {
        unsigned size = undo->writes[n].size;
        saved->part[n].offset = saved->count;
        // What the view cannot read KVM cannot write: it would exit for it.
        saved->valid[n] = saved->count + size <= sizeof saved->bytes
                       && x86_read_linear(&v->p.cpu, undo->writes[n].linear, saved->bytes + saved->count, size,
                                          X86_READ | X86_IMPLICIT);
        if (saved->valid[n])
            saved->count += size;
    }
}

static void restore_memory(struct kvm_vcpu *v, const struct saved_memory *saved)
{
    const struct kvm_undo *undo = &v->half.undo;
    for (unsigned n = 0; n < undo->write_count; n++)
        if (saved->valid[n])
            (void)x86_write_linear(&v->p.cpu, undo->writes[n].linear, saved->bytes + saved->part[n].offset,
                                   undo->writes[n].size, X86_WRITE | X86_IMPLICIT);
}

// Have KVM finish the instruction, and hand it the view as if it never had. What the view holds besides the
// synchronised groups is not touched by an instruction, but for the floating-point registers.
static __attribute__((noinline)) HRESULT abandon(struct kvm_vcpu *v, bool in_view)
{
    const struct kvm_undo *undo = &v->half.undo;
    struct kvm_run *run = v->run;
    struct kvm_sync_regs synced = run->s.regs;
    struct saved_memory saved;
    bool access = v->half.kind == KVM_HALF_ACCESS;
    run->kvm_dirty_regs = 0;
    run->kvm_valid_regs = 0;
    if (access && undo->changes_fpu) {
        HRESULT hr = kvm_state_fetch(v, REGISTER_FPU);
        if (FAILED(hr))
            return hr;
        v->changed |= REGISTER_FPU;
    }
    if (access && in_view)
        save_memory(v, &saved);
    if (access && undo->count_mask && !undo->port) {        // one element is enough
        run->s.regs.regs = synced.regs;
        run->s.regs.regs.rcx = (synced.regs.rcx & ~undo->count_mask) | 1;
        run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    }
    if (!access)
        run->msr.error = 0;
    HRESULT hr = complete(v);
    if (access && in_view)
        restore_memory(v, &saved);
    run->s.regs = synced;
    v->changed |= KVM_GROUPS_SYNCED;
    v->half.kind = KVM_HALF_NOTHING;
    return hr;
}

// Have KVM finish an OUT that it may have to skip yet, and load the view again, but for what waits to be
// delivered.
static __attribute__((noinline)) HRESULT skip(struct kvm_vcpu *v)
{
    struct kvm_run *run = v->run;
    struct kvm_vcpu_events events = run->s.regs.events;
    HRESULT hr = complete(v);
    if (FAILED(hr))
        return hr;
    bool differ = memcmp(&events, &run->s.regs.events, sizeof events) != 0;
    run->s.regs.events = events;
    kvm_state_after_run(v);
    v->changed |= differ ? REGISTER_EVENTS : 0;
    v->fresh |= v->changed;
    x86_settle_state(&v->p.cpu);
    return S_OK;
}

__attribute__((hot)) HRESULT kvm_half_access(struct kvm_vcpu *v)
{
    struct kvm_undo *undo = &v->half.undo;
    bool ambiguous;
    bool found = kvm_undo_exit(&v->p.cpu, v->run, false, &ambiguous, undo);
    v->half.kind = KVM_HALF_ACCESS;
    if (X86_UNLIKELY(ambiguous)) {
        HRESULT hr = skip(v);
        if (FAILED(hr))
            return hr;
        found = kvm_undo_exit(&v->p.cpu, v->run, true, &ambiguous, undo);
    }
    memcpy(v->p.code, undo->bytes, sizeof undo->bytes);
    v->p.code_count = found ? undo->byte_count : 0;
    if (found && (v->p.cpu.rip != v->run->s.regs.regs.rip || undo->rep))
        v->changed |= REGISTER_GENERAL;
    if (undo->pending == KVM_PENDING_NOTHING) {
        v->half.kind = KVM_HALF_NOTHING;
        return S_OK;
    }
    kvm_undo_keep(&v->before, &v->p.cpu);
    switch (undo->pending) {
    case KVM_PENDING_NOTHING:
    case KVM_PENDING_SKIP:
        return S_OK;
    case KVM_PENDING_INPUT:
        return undo->plain ? S_OK : abandon(v, true);
    case KVM_PENDING_MORE:
        break;
    }
    return abandon(v, true);
}

// ---- Before the next run -----------------------------------------------------------------------------------------

// RDMSR and WRMSR as they end (SDM vol. 2B): RIP moves on, and a read sets EDX:EAX.
static bool feed_msr(struct kvm_vcpu *v)
{
    const struct x86_cpu *cpu = &v->p.cpu;
    bool write = v->half.kind == KVM_HALF_MSR_WRITE;
    if (cpu->rip != x86_cut_rip(cpu, v->half.undo.rip + v->half.undo.length) || cpu->rflags != v->before.rflags
        || cpu->oszapc != v->before.oszapc || (cpu->rflags & (X86_TF | X86_RF)) || cpu->interrupt_shadow)
        return false;
    for (unsigned n = 0; n < 16; n++)
        if ((write || (n != X86_RAX && n != X86_RDX)) && cpu->slot[n] != v->before.slot[n])
            return false;
    if (!write && (cpu->slot[X86_RAX] >> 32 || cpu->slot[X86_RDX] >> 32))
        return false;
    v->run->msr.error = 0;
    if (!write)
        v->run->msr.data = cpu->slot[X86_RDX] << 32 | cpu->slot[X86_RAX];
    return true;
}

static bool feed(struct kvm_vcpu *v)
{
    const struct kvm_undo *undo = &v->half.undo;
    struct kvm_run *run = v->run;
    uint8_t data[8];
    if (v->changed & (REGISTER_SYSTEM | REGISTER_EVENTS))
        return false;
    if (v->half.kind != KVM_HALF_ACCESS)
        return feed_msr(v);
    if (!kvm_undo_feed(undo, &v->before, &v->p.cpu, data))
        return false;
    // Both places have room for 8 bytes; KVM takes as many as it has asked for.
    memcpy(undo->port ? (uint8_t *)run + run->io.data_offset : run->mmio.data, data, sizeof data);
    return true;
}

__attribute__((hot)) HRESULT kvm_half_resolve(struct kvm_vcpu *v)
{
    if (v->half.kind == KVM_HALF_NOTHING)
        return S_OK;
    // KVM sees that RIP has moved, by its linear address (arch/x86/kvm/x86.c, kvm_is_linear_rip).
    if (v->half.undo.pending == KVM_PENDING_SKIP && !(v->changed & REGISTER_SYSTEM)
        && (uint32_t)v->p.cpu.rip != (uint32_t)v->half.undo.rip)
        return S_OK;
    if (feed(v)) {
        v->changed &= ~(uint32_t)REGISTER_GENERAL;
        return S_OK;
    }
    return abandon(v, false);
}

HRESULT kvm_half_drop(struct kvm_vcpu *v)
{
    return v->half.kind == KVM_HALF_NOTHING ? S_OK : abandon(v, false);
}
