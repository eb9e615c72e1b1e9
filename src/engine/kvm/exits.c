// What KVM_RUN came back with, as the API tells it.
//
// Reasons are those of Documentation/virt/kvm/api.rst, "The kvm_run structure".
#include <string.h>

#include "engine/kvm/host.h"
#include "engine/kvm/msr.h"
#include "engine/kvm/vcpu.h"
#include "x86/decode.h"
#include "x86/system.h"

// DR6's bits that tell of a cause (SDM vol. 3B 18.2.3).
#define DR6_CAUSES 0xe00full
#define DR6_STEP 0x4000ull
#define DR6_ACCESS 0x2000ull

static enum step exit_with(struct kvm_vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit, WHV_RUN_VP_EXIT_REASON reason)
{
    exit_context(&v->p, exit, reason, kvm_state_cr8(v));
    return STEP_EXIT;
}

static enum step exit_from_view(struct kvm_vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    exit_from_cpu(&v->p, exit, kvm_state_cr8(v));
    return STEP_EXIT;
}

// ---- Ports and memory --------------------------------------------------------------------------------------------

static inline __attribute__((always_inline))
HRESULT port(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct kvm_run *run = v->run;
    HRESULT hr = kvm_half_access(v);
    if (FAILED(hr))
        return hr;
    const struct kvm_undo *undo = &v->half.undo;
    v->p.cpu.exit = (struct x86_exit){
        .kind = X86_EXIT_PORT, .length = undo->length,
        .port = { .port = run->io.port, .size = run->io.size, .write = run->io.direction == KVM_EXIT_IO_OUT,
                  .string = undo->string, .rep = undo->rep },
    };
    *step = exit_from_view(v, exit);
    return S_OK;
}

// The access as KVM tells of it, where the instruction cannot be found or is not one of the interpreter's.
static __attribute__((noinline)) enum step memory_as_told(struct kvm_vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct kvm_run *run = v->run;
    struct gpa_range range;
    v->p.cpu.exit = (struct x86_exit){
        .kind = X86_EXIT_MEMORY,
        .memory = { .gpa = run->mmio.phys_addr, .access = run->mmio.is_write ? X86_WRITE : X86_READ,
                    .unmapped = !gpa_map_find(&v->kvm->partition->map, run->mmio.phys_addr, &range) },
    };
    return exit_from_view(v, exit);
}

// The exit that running the instruction on the view would end in, where the report leaves no doubt of it: there
// is but this access, and no check of alignment or breakpoints comes before it. Not if there is memory by now.
static bool memory_at_once(struct kvm_vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct x86_cpu *cpu = &v->p.cpu;
    const struct kvm_run *run = v->run;
    const struct kvm_undo *undo = &v->half.undo;
    if (!undo->whole || cpu->tlb == cpu->tlbs[X86_TLB_CHECKED])
        return false;
    struct x86_page page;
    processor_page(&v->p, run->mmio.phys_addr & ~(uint64_t)X86_PAGE_MASK, &page);
    if (page.host && (run->mmio.is_write ? page.write : page.read))
        return false;
    cpu->exit = (struct x86_exit){
        .kind = X86_EXIT_MEMORY,
        .memory = { .gpa = run->mmio.phys_addr, .gva = undo->linear, .gva_valid = true,
                    .access = run->mmio.is_write ? X86_WRITE : X86_READ, .unmapped = !page.host },
    };
    exit_from_cpu(&v->p, exit, kvm_state_cr8(v));
    return true;
}

static inline __attribute__((always_inline))
HRESULT memory(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    HRESULT hr = kvm_half_access(v);
    if (FAILED(hr))
        return hr;
    *step = STEP_RUN;
    if (memory_at_once(v, exit))
        *step = STEP_EXIT;
    else if (v->half.undo.length)
        hr = kvm_step(v, step, exit);
    if (SUCCEEDED(hr) && *step == STEP_RUN)
        *step = memory_as_told(v, exit);
    return hr;
}

__attribute__((hot, flatten)) static HRESULT access(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    return v->run->exit_reason == KVM_EXIT_IO ? port(v, step, exit) : memory(v, step, exit);
}

// An instruction that KVM's emulator cannot do raises #UD, says KVM, and exits besides where that would be a
// surprise: at CPL 0. (Not where it has been told to leave the exception out: arch/x86/kvm/x86.c,
// handle_emulation_failure.)
static bool is_emulators_ud(const struct kvm_vcpu *v)
{
    const struct kvm_run *run = v->run;
    return run->exit_reason == KVM_EXIT_INTERNAL_ERROR && run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
        && !v->p.pending_external && v->p.pending.vector == X86_UD;
}

// KVM cannot do the instruction, or cannot reach memory that it touches: nothing has happened yet. Whatever
// it has queued is the view's to deliver, or comes again with the instruction.
static HRESULT instruction(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    v->pending_in_kvm = false;
    v->changed |= REGISTER_EVENTS;
    if (v->p.pending_valid && is_emulators_ud(v))
        v->p.pending_valid = false;
    if (v->p.pending_valid) {           // it came to the delivery of an event
        *step = deliver_pending(&v->p, exit, kvm_state_cr8(v));
        v->changed |= KVM_GROUPS_SYNCED;
        return S_OK;
    }
    HRESULT hr = kvm_step(v, step, exit);
    if (FAILED(hr) || *step != STEP_RUN)
        return hr;
    // Neither knows it.
    x86_fault(&v->p.cpu, X86_UD, -1);
    *step = deliver_exception(&v->p, exit, kvm_state_cr8(v));
    v->changed |= KVM_GROUPS_SYNCED;
    return S_OK;
}

// A KVM that emulates the guest takes an event from its APIC and forgets it when the memory for its delivery
// is missing. Such an event is pending again. It shows by an interrupt in service while interrupts are open
// (this kind of KVM ends an interrupt when it delivers it), and by NMIs that have become blocked.
static HRESULT undelivered(struct kvm_vcpu *v)
{
    struct processor *p = &v->p;
    int vector = -1;
    if (!v->kvm->eoi_late || p->pending_valid)
        return S_OK;
    if (p->cpu.nmi_blocked && !v->nmi_was_blocked) {
        p->cpu.nmi_blocked = false;
        vector = X86_NMI;
    } else if (p->cpu.rflags & X86_IF) {
        HRESULT hr = kvm_apic_in_service(v->fd, &vector);
        if (FAILED(hr))
            return hr;
        if (vector != v->run->s.regs.events.interrupt.nr)
            vector = -1;
    }
    if (vector >= 0) {
        p->pending = (struct x86_exception){ .vector = (uint8_t)vector };
        p->pending_valid = p->pending_external = true;
    }
    return S_OK;
}

// Hardware knows what it says: where the instruction does nothing of the kind, it was an event whose delivery
// failed.
static HRESULT triple_fault(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    uint8_t cpu[offsetof(struct x86_cpu, scratch)];
    memcpy(cpu, &v->p.cpu, sizeof cpu);
    HRESULT hr = instruction(v, step, exit);
    if (SUCCEEDED(hr) && *step == STEP_AGAIN) {
        memcpy(&v->p.cpu, cpu, sizeof cpu);
        v->p.pending_valid = false;
        *step = exit_with(v, exit, WHvRunVpExitReasonUnrecoverableException);
    }
    return hr;
}

// KVM has met a triple fault. What it takes for one may be guest memory that is missing on the way to a
// handler, which is an exit of its own: the interpreter tells the one from the other. Processors whose state
// does not outlive a triple fault come back reset (AMD's: arch/x86/kvm/svm/svm.c, shutdown_interception).
static HRESULT shutdown(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct x86_cpu *cpu = &v->p.cpu;
    bool reset = cpu->rip == 0xfff0 && cpu->slot[X86_SLOT_SEGMENT + X86_CS] == 0xffff0000 && !(cpu->cr0 & X86_CR0_PE);
    HRESULT hr = reset ? S_OK : undelivered(v);
    if (!reset && SUCCEEDED(hr))
        hr = kvm_host()->hardware ? triple_fault(v, step, exit) : instruction(v, step, exit);
    if (reset)
        *step = exit_with(v, exit, WHvRunVpExitReasonUnrecoverableException);
    return hr;
}

// ---- MSRs, exceptions --------------------------------------------------------------------------------------------

// A value that a register does not take is the guest's mistake, not an unknown register. But x2APIC's are
// unknown where the partition has no such mode, and KVM calls an access to them invalid then.
static bool guests_mistake(const struct kvm_vcpu *v)
{
    uint32_t index = v->run->msr.index;
    bool x2apic = v->kvm->partition->properties.apic_mode == WHvX64LocalApicEmulationModeX2Apic;
    return v->run->msr.reason == KVM_MSR_EXIT_REASON_INVAL && (x2apic || !kvm_msr_is_x2apic(index));
}

// What becomes of the access (engine/common/msr_actions.h); ArchitectureDefault: #GP.
static WHV_MSR_ACTION msr_decision(const struct kvm_vcpu *v, bool write)
{
    const struct msr_actions *actions = &v->kvm->msr_rules.actions;
    uint32_t index = v->run->msr.index;
    WHV_MSR_ACTION action = msr_actions_listed(actions, index, write);
    if (action != WHvMsrActionArchitectureDefault || guests_mistake(v))
        return action;
    // The filter denies what the list and X64MsrExitBitmap name, and what is hidden.
    if (v->run->msr.reason != KVM_MSR_EXIT_REASON_FILTER || kvm_msr_hidden(&v->kvm->msr_rules, index))
        action = msr_actions_unimplemented(actions, index);
    if (action == WHvMsrActionArchitectureDefault && v->kvm->msr_exits)
        action = WHvMsrActionExit;
    return action;
}

// A read gives 0, a write changes nothing: what a client would do with the registers, for kvm_half_resolve to see.
static HRESULT ignore_msr(struct kvm_vcpu *v, bool write, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct x86_cpu *cpu = &v->p.cpu;
    bool trap = cpu->rflags & X86_TF, shadow = cpu->interrupt_shadow;
    if (!write)
        cpu->slot[X86_RAX] = cpu->slot[X86_RDX] = 0;
    cpu->rip = x86_cut_rip(cpu, cpu->rip + v->half.undo.length);
    cpu->rflags &= ~(uint64_t)X86_RF;
    cpu->interrupt_shadow = 0;
    v->changed |= REGISTER_GENERAL | (shadow ? REGISTER_EVENTS : 0);
    *step = STEP_AGAIN;
    return trap ? kvm_step_trap(v, step, exit) : S_OK;
}

static HRESULT msr(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct x86_cpu *cpu = &v->p.cpu;
    bool write = v->run->exit_reason == KVM_EXIT_X86_WRMSR;
    WHV_MSR_ACTION action = msr_decision(v, write);
    struct kvm_undo *undo = &v->half.undo;
    v->half.kind = write ? KVM_HALF_MSR_WRITE : KVM_HALF_MSR_READ;
    undo->pending = KVM_PENDING_INPUT;
    undo->rip = cpu->rip;
    undo->length = 0;
    undo->byte_count = exit_instruction_bytes(&v->p, undo->bytes);
    // Prefixes mean nothing to RDMSR and WRMSR (0F 32, 0F 30), but they count.
    for (unsigned n = 0; n + 1 < undo->byte_count && !undo->length; n++)
        if (undo->bytes[n] == 0x0f)
            undo->length = (uint8_t)(n + 2);
    kvm_undo_keep(&v->before, cpu);
    if (action == WHvMsrActionExit) {
        cpu->exit = (struct x86_exit){ .kind = X86_EXIT_MSR, .length = undo->length,
                                       .msr = { .msr = v->run->msr.index, .write = write } };
        *step = exit_from_view(v, exit);
        return S_OK;
    }
    // Where its bytes are not in memory any more, what is there now comes next: the access has not happened.
    if (action == WHvMsrActionIgnoreWriteReadZero)
        return undo->length ? ignore_msr(v, write, step, exit) : instruction(v, step, exit);
    x86_fault(cpu, X86_GP, 0);
    *step = deliver_exception(&v->p, exit, kvm_state_cr8(v));
    v->changed |= KVM_GROUPS_SYNCED;
    return S_OK;
}

static HRESULT debug(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct x86_cpu *cpu = &v->p.cpu;
    unsigned vector = v->run->debug.arch.exception;
    uint64_t causes = v->run->debug.arch.dr6 & DR6_CAUSES;
    *step = STEP_AGAIN;
    if (vector > X86_BP || !(v->kvm->debug_exceptions >> vector & 1))
        return S_OK;
    // An instruction that reads or writes a debug register comes here for the engine (vcpu.c, guest_debug),
    // unless the guest has asked for it.
    if (vector == X86_DB && (causes & DR6_ACCESS)) {
        HRESULT hr = kvm_state_fetch(v, REGISTER_DEBUG);
        if (FAILED(hr) || !(cpu->dr7 & KVM_DR7_GD))
            return FAILED(hr) ? hr : instruction(v, step, exit);
    }
    // A step that was only made to look around. (One that the guest makes at the same time cannot be told
    // from it.)
    if (vector == X86_DB && v->single_step && (causes & DR6_STEP) && !(causes &= ~DR6_STEP))
        return S_OK;
    x86_fault(cpu, vector, -1);
    if (vector == X86_BP) {
        cpu->exception.software = true;
        cpu->exception.length = 1;
    } else {
        cpu->exception.address = causes;
    }
    cpu->exit.kind = X86_EXIT_EXCEPTION;
    *step = exit_from_view(v, exit);
    return S_OK;
}

// ---- All of them -------------------------------------------------------------------------------------------------

__attribute__((hot)) HRESULT kvm_exit(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct kvm_run *run = v->run;
    HRESULT hr;
    bool tells;
    *step = STEP_AGAIN;
    if (X86_LIKELY(run->exit_reason == KVM_EXIT_IO || run->exit_reason == KVM_EXIT_MMIO))
        return kvm_view_do(v, access, step, exit);
    switch (run->exit_reason) {
    case KVM_EXIT_INTERNAL_ERROR:
    case KVM_EXIT_MEMORY_FAULT:
        return kvm_view_do(v, instruction, step, exit);
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        return kvm_view_do(v, msr, step, exit);
    case KVM_EXIT_DEBUG:
        return kvm_view_do(v, debug, step, exit);
    case KVM_EXIT_HLT:
        x86_count_add(&v->p.cpu.counts.instruction[X86_COUNT_HALT].count, 1);
        x86_count_add(&v->told_halts, 1);
        *step = exit_with(v, exit, WHvRunVpExitReasonX64Halt);
        return S_OK;
    case KVM_EXIT_SHUTDOWN:
        return kvm_view_do(v, shutdown, step, exit);
    case KVM_EXIT_FAIL_ENTRY:
        *step = exit_with(v, exit, WHvRunVpExitReasonInvalidVpRegisterValue);
        return S_OK;
    case KVM_EXIT_IOAPIC_EOI:
        hr = kvm_apic_tells_eoi(v->fd, run->eoi.vector, &tells);
        if (FAILED(hr) || !tells)
            return hr;
        v->p.cpu.exit = (struct x86_exit){ .kind = X86_EXIT_APIC_EOI, .eoi = { .vector = run->eoi.vector } };
        *step = exit_from_view(v, exit);
        return S_OK;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        x86_count_add(&v->told_windows, 1);
        return S_OK;        // the window's own exit follows
    case KVM_EXIT_INTR:
    case KVM_EXIT_SET_TPR:
        return S_OK;        // the next look at what is to be done comes before the next run anyway
    default:
        return E_FAIL;      // a kind that this engine has not asked for
    }
}

// EFAULT from KVM_RUN: memory that the host has not, before kernels told of it by an exit.
HRESULT kvm_exit_memory_gone(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    return kvm_view_do(v, instruction, step, exit);
}
