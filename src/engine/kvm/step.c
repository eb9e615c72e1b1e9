// The view's own processor: what is behind it, and one instruction at a time.
#include <string.h>

#include "engine/kvm/msr.h"
#include "engine/kvm/vcpu.h"
#include "os/guard.h"
#include "x86/decode.h"
#include "x86/system.h"

// ---- The bus -----------------------------------------------------------------------------------------------------

static struct kvm_vcpu *vcpu_of(struct x86_cpu *cpu) { return cpu->platform; }

__attribute__((hot)) static void bus_page(struct x86_cpu *cpu, uint64_t gpa, struct x86_page *page)
{
    processor_page(&vcpu_of(cpu)->p, gpa, page);
}

static void bus_written(struct x86_cpu *cpu, uint64_t gpa)
{
    processor_written(&vcpu_of(cpu)->p, gpa);
}

// No page of the view's is a device: the local APIC is KVM's.
static enum x86_answer bus_device_read(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t *value)
{
    (void)cpu, (void)gpa, (void)size;
    *value = ~0ull;
    return X86_DONE;
}

static enum x86_answer bus_device_write(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t value)
{
    (void)cpu, (void)gpa, (void)size, (void)value;
    return X86_DONE;
}

static enum x86_answer bus_cpuid(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    partition_cpuid(vcpu_of(cpu)->p.vp, leaf, subleaf, out);
    return X86_DONE;
}

static void msr_exit(struct x86_cpu *cpu, uint32_t msr, bool write)
{
    cpu->exit.kind = X86_EXIT_MSR;
    cpu->exit.msr.msr = msr;
    cpu->exit.msr.write = write;
}

static enum x86_msr_action bus_msr_action(struct x86_cpu *cpu, uint32_t msr, bool write)
{
    switch (msr_actions_listed(&vcpu_of(cpu)->kvm->msr_rules.actions, msr, write)) {
    case WHvMsrActionArchitectureDefault:
        break;
    case WHvMsrActionIgnoreWriteReadZero:
        return X86_MSR_IGNORE;
    case WHvMsrActionExit:
        msr_exit(cpu, msr, write);
        return X86_MSR_EXIT;
    }
    return X86_MSR_ACCESS;
}

// A register that KVM does not have.
static enum x86_answer unimplemented(struct x86_cpu *cpu, uint32_t msr, bool write)
{
    const struct kvm_partition *kvm = vcpu_of(cpu)->kvm;
    WHV_MSR_ACTION action = msr_actions_unimplemented(&kvm->msr_rules.actions, msr);
    if (action == WHvMsrActionIgnoreWriteReadZero)
        return X86_DONE;
    if (action != WHvMsrActionExit && !kvm->msr_exits)
        return X86_FAULT_GP;
    msr_exit(cpu, msr, write);
    return X86_ANSWER_EXIT;
}

static bool hidden(struct x86_cpu *cpu, uint32_t msr)
{
    return kvm_msr_hidden(&vcpu_of(cpu)->kvm->msr_rules, msr);
}

static enum x86_answer bus_read_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t *value)
{
    if (!hidden(cpu, msr) && SUCCEEDED(kvm_msr_get(vcpu_of(cpu)->fd, msr, value)))
        return X86_DONE;
    *value = 0;
    return unimplemented(cpu, msr, false);
}

// What cannot be read either is taken for a register that is not there, and not for a value that it does not take.
static enum x86_answer bus_write_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    uint64_t before;
    if (hidden(cpu, msr))
        return unimplemented(cpu, msr, true);
    if (SUCCEEDED(kvm_msr_set(vcpu_of(cpu)->fd, msr, value)))
        return X86_DONE;
    return SUCCEEDED(kvm_msr_get(vcpu_of(cpu)->fd, msr, &before)) ? X86_FAULT_GP : unimplemented(cpu, msr, true);
}

static enum x86_answer bus_tsc(struct x86_cpu *cpu, bool rdtscp, uint64_t *value)
{
    (void)rdtscp;
    return SUCCEEDED(kvm_msr_get(vcpu_of(cpu)->fd, 0x10, value)) ? X86_DONE : X86_FAULT_GP;
}

static uint64_t bus_read_cr8(struct x86_cpu *cpu) { return kvm_state_cr8(vcpu_of(cpu)); }

static void bus_write_cr8(struct x86_cpu *cpu, uint64_t value)
{
    vcpu_of(cpu)->run->s.regs.sregs.cr8 = value;
}

static enum x86_answer bus_hypercall(struct x86_cpu *cpu)
{
    (void)cpu;
    return X86_FAULT_GP;        // the caller of this makes it #UD: no hypervisor interface is shown
}

static enum x86_answer bus_exception(struct x86_cpu *cpu, const struct x86_exception *exception)
{
    if (!(vcpu_of(cpu)->kvm->debug_exceptions >> exception->vector & 1))
        return X86_DONE;
    cpu->exit.kind = X86_EXIT_EXCEPTION;
    return X86_ANSWER_EXIT;
}

const struct x86_bus kvm_bus = {
    .page = bus_page,
    .written = bus_written,
    .device_read = bus_device_read,
    .device_write = bus_device_write,
    .cpuid = bus_cpuid,
    .msr_action = bus_msr_action,
    .read_msr = bus_read_msr,
    .write_msr = bus_write_msr,
    .tsc = bus_tsc,
    .read_cr8 = bus_read_cr8,
    .write_cr8 = bus_write_cr8,
    .hypercall = bus_hypercall,
    .exception = bus_exception,
};

// ---- Reaching guest memory ---------------------------------------------------------------------------------------

__attribute__((hot)) void kvm_view_enter(struct kvm_vcpu *v)
{
    // Sequentially consistent: who has changed the map either finds the view in use, or is found here to have done it.
    atomic_store(&v->viewing, atomic_load_explicit(&v->viewing, memory_order_relaxed) + 1);
    uint64_t version = atomic_load(&v->kvm->map_version);
    if (v->map_version != version) {
        v->map_version = version;
        v->p.ranges[0].size = v->p.ranges[1].size = 0;
    }
}

void kvm_view_leave(struct kvm_vcpu *v)
{
    atomic_store_explicit(&v->viewing, atomic_load_explicit(&v->viewing, memory_order_relaxed) + 1, memory_order_release);
}

// What x86_settle_state derives the mode from besides the system registers. Bit 63 makes it one; 0 where memory has a
// say, too: the table that CR3 points to without 64-bit mode.
static uint64_t settled_by(const struct x86_cpu *cpu)
{
    if (!(cpu->efer & X86_EFER_LMA))
        return 0;
    return 1ull << 63 | (cpu->rflags & (X86_VM | X86_AC | X86_TF | X86_RF)) | (uint64_t)cpu->interrupt_shadow << 32
         | (cpu->dr7 & 0xff) << 40;
}

static void settle_view(struct kvm_vcpu *v)
{
    struct x86_cpu *cpu = &v->p.cpu;
    uint64_t by = settled_by(cpu);
    if (X86_LIKELY(by && by == v->settled && !(v->changed & REGISTER_SYSTEM))) {
        if (cpu->tlb_filled)            // the guest has run since
            x86_flush_tlb(cpu, true);
        return;
    }
    x86_settle_state(cpu);
    v->settled = v->changed & REGISTER_SYSTEM ? 0 : by;
}

__attribute__((hot))
HRESULT kvm_view_do(struct kvm_vcpu *v, kvm_view_work work, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct os_guard guard;
    volatile HRESULT hr = S_OK;         // the guard's jump must find it
    kvm_view_enter(v);
    v->p.code_count = 0;
    if (OS_GUARD_ENTER(&guard) == 0) {
        settle_view(v);
        v->p.tlb_used = true;
        hr = work(v, step, exit);
    } else if (exit_memory_gone(&v->p, guard.address, guard.write, exit, kvm_state_cr8(v))) {
        *step = STEP_EXIT;
    } else {
        os_guard_unexplained(&guard);
    }
    os_guard_leave(&guard);
    kvm_view_leave(v);
    return hr;
}

// ---- One instruction ---------------------------------------------------------------------------------------------

// The groups that an instruction may use besides the synchronised ones, by its opcode (SDM vol. 2D appendix
// A). More than it needs is fetched at times, never less.
static uint32_t groups_used(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned count)
{
    unsigned n = 0;
    for (; n < count; n++) {
        uint8_t b = bytes[n];
        bool legacy = b == 0x26 || b == 0x2e || b == 0x36 || b == 0x3e || (b >= 0x64 && b <= 0x67) || b == 0xf0
                   || b == 0xf2 || b == 0xf3;
        bool rex = (cpu->mode & X86_MODE_CODE) == X86_MODE_CODE64 && (b & 0xf0) == 0x40;
        if (!legacy && !rex)
            break;
    }
    if (n >= count)
        return 0;
    uint8_t opcode = bytes[n], second = n + 1 < count ? bytes[n + 1] : 0;
    if (opcode == 0x9b || (opcode >= 0xd8 && opcode <= 0xdf) || opcode == 0xc4 || opcode == 0xc5 || opcode == 0x62)
        return REGISTER_FPU;
    if (opcode != 0x0f)
        return 0;
    switch (second) {
    case 0x01: case 0xae: case 0xc7: return REGISTER_FPU | REGISTER_XCR | REGISTER_MSR;
    case 0x05: case 0x07: case 0x30: case 0x32: case 0x34: case 0x35: return REGISTER_MSR;
    case 0x21: case 0x23: return REGISTER_DEBUG;
    case 0x38: case 0x3a: case 0x0e: case 0x0f: case 0xc2: case 0xc4: case 0xc5: case 0xc6: return REGISTER_FPU;
    }
    if ((second >= 0x10 && second <= 0x17) || (second >= 0x28 && second <= 0x2f) || (second >= 0x50 && second <= 0x7f)
        || second >= 0xd0)
        return REGISTER_FPU;
    return 0;
}

static enum step halt(struct kvm_vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    if (!v->kvm->apic) {
        exit_context(&v->p, exit, WHvRunVpExitReasonX64Halt, kvm_state_cr8(v));
        return STEP_EXIT;
    }
    v->mp_state = KVM_MP_STATE_HALTED;
    v->fresh |= KVM_GROUP_ACTIVITY;
    v->changed |= KVM_GROUP_ACTIVITY;
    return STEP_AGAIN;
}

HRESULT kvm_step_trap(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    HRESULT hr = kvm_state_fetch(v, REGISTER_DEBUG);
    if (FAILED(hr))
        return hr;
    x86_fault(&v->p.cpu, X86_DB, -1);
    v->p.cpu.exception.address = 1u << 14;
    *step = deliver_exception(&v->p, exit, kvm_state_cr8(v));
    v->changed |= KVM_GROUPS_SYNCED | REGISTER_DEBUG;
    return S_OK;
}

__attribute__((noinline)) HRESULT kvm_step(struct kvm_vcpu *v, enum step *step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct x86_cpu *cpu = &v->p.cpu;
    uint8_t bytes[16];
    uint32_t groups = groups_used(cpu, bytes, exit_instruction_bytes(&v->p, bytes));
    HRESULT hr = groups ? kvm_state_fetch(v, groups) : S_OK;
    if (FAILED(hr))
        return hr;
    bool trap = cpu->rflags & X86_TF, shadow = cpu->interrupt_shadow;
    if (shadow)
        cpu->interrupt_shadow = 2;      // to tell a shadow that ends here from one that the instruction casts
    uint64_t begun = x86_host_ticks();
    enum x86_leave leave = x86_step(cpu, v->p.code_count ? v->p.code : NULL, v->p.code_count, &v->step);
    x86_count_add(&v->steps.count, 1);
    x86_count_add(&v->steps.ticks, x86_ticks_between(begun, x86_host_ticks()));
    if (cpu->interrupt_shadow == 2)
        cpu->interrupt_shadow = leave == X86_LEAVE_LOOKUP || leave == X86_LEAVE_HALT ? 0 : 1;
    switch (leave) {
    case X86_LEAVE_EXIT:
        exit_from_cpu(&v->p, exit, kvm_state_cr8(v));
        *step = STEP_EXIT;
        return S_OK;
    case X86_LEAVE_EXCEPTION:
        if (cpu->exception.vector == X86_UD) {
            *step = STEP_RUN;
            return S_OK;
        }
        *step = deliver_exception(&v->p, exit, kvm_state_cr8(v));
        break;
    case X86_LEAVE_SHUTDOWN:
        exit_context(&v->p, exit, WHvRunVpExitReasonUnrecoverableException, kvm_state_cr8(v));
        *step = STEP_EXIT;
        return S_OK;
    case X86_LEAVE_LOOKUP:
    case X86_LEAVE_HALT:
        cpu->rflags &= ~(uint64_t)X86_RF;
        if (trap && !cpu->interrupt_shadow)
            hr = kvm_step_trap(v, step, exit);
        else
            *step = leave == X86_LEAVE_HALT ? halt(v, exit) : STEP_AGAIN;
        break;
    }
    v->pending_in_kvm = false;
    v->changed |= KVM_GROUPS_SYNCED | groups;
    return hr;
}
