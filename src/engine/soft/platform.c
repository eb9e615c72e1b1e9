// What is behind a soft processor: guest memory, its local APIC, time, and what the partition's properties make exit.
#include <string.h>

#include "engine/soft/vcpu.h"
#include "x86/decode.h"
#include "x86/system.h"

static struct vcpu *vcpu_of(struct x86_cpu *cpu) { return cpu->platform; }

// ---- Memory ------------------------------------------------------------------------------------------------------

static void bus_page(struct x86_cpu *cpu, uint64_t gpa, struct x86_page *page)
{
    struct vcpu *v = vcpu_of(cpu);
    if (v->soft->apic && lapic_mmio_enabled(&v->lapic) && lapic_mmio_base(&v->lapic) == gpa) {
        v->p.tlb_used = true;
        *page = (struct x86_page){ .device = true };
        return;
    }
    processor_page(&v->p, gpa, page);
}

static void bus_written(struct x86_cpu *cpu, uint64_t gpa)
{
    processor_written(&vcpu_of(cpu)->p, gpa);
}

// ---- Local APIC --------------------------------------------------------------------------------------------------

void soft_route(struct soft_partition *soft, const struct lapic_message *message, uint32_t sender)
{
    pthread_rwlock_rdlock(&soft->vcpus_lock);
    struct lapic *lapics[PARTITION_MAX_PROCESSORS];
    unsigned count = soft->partition->properties.processor_count;
    for (unsigned n = 0; n < count; n++)
        lapics[n] = soft->lapics[n];
    uint64_t woken = lapic_route(lapics, count, message, sender);
    for (unsigned n = 0; n < count; n++)
        if ((woken >> n & 1) && soft->vcpus[n])
            vcpu_kick(soft->vcpus[n], VCPU_INTERRUPT);
    pthread_rwlock_unlock(&soft->vcpus_lock);
}

static void remote_read(struct vcpu *v, const struct lapic_message *message)
{
    struct soft_partition *soft = v->soft;
    pthread_rwlock_rdlock(&soft->vcpus_lock);
    struct lapic *lapics[PARTITION_MAX_PROCESSORS];
    unsigned count = soft->partition->properties.processor_count;
    for (unsigned n = 0; n < count; n++)
        lapics[n] = soft->lapics[n];
    lapic_remote_read(&v->lapic, lapics, count, message, vcpu_time(v));
    pthread_rwlock_unlock(&soft->vcpus_lock);
}

void vcpu_apic_effects(struct vcpu *v, const struct lapic_effects *effects, uint64_t value)
{
    if (effects->ipi)
        x86_count_add(&v->apic_counts.ipi, 1);
    if (effects->self_ipi)
        x86_count_add(&v->apic_counts.self_ipi, 1);
    if (effects->ipi && !vcpu_trap_message(v, &effects->message))
        soft_route(v->soft, &effects->message, v->p.vp->index);
    if (effects->remote_read)
        remote_read(v, &effects->message);
    if (effects->written)
        vcpu_trap_write(v, effects->written, value);
    if (effects->eoi) {
        v->eoi_exit = true;
        v->eoi_vector = effects->eoi_vector;
        v->p.cpu.leave_behind = true;
    }
    if (effects->base)          // the APIC's page may have appeared, moved or gone
        x86_flush_tlb(&v->p.cpu, true);
    if (effects->interrupts || effects->timer || effects->eoi)
        vcpu_kick(v, VCPU_INTERRUPT);
}

// An access to the APIC's register at `offset`, as a page or as MSRs.
static void count_register(struct vcpu *v, uint32_t offset, bool write)
{
    if (offset == LAPIC_TPR)
        x86_count_add(&v->apic_counts.tpr, 1);
    else if (offset == LAPIC_EOI && write)
        x86_count_add(&v->apic_counts.eoi, 1);
}

static void count_x2apic(struct vcpu *v, uint32_t msr, bool write)
{
    if (msr >= LAPIC_MSR_X2APIC_FIRST && msr <= LAPIC_MSR_X2APIC_LAST)
        count_register(v, (msr - LAPIC_MSR_X2APIC_FIRST) * 16, write);
}

static enum x86_answer bus_device_read(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t *value)
{
    struct vcpu *v = vcpu_of(cpu);
    uint32_t offset = gpa & (X86_PAGE_SIZE - 1);
    x86_count_add(&v->apic_counts.mmio, 1);
    count_register(v, offset & ~3u, false);
    // Registers are 32 bits at 16-byte stride; wider and unaligned reads see the bytes around them (SDM vol. 3A 11.4.1).
    uint64_t low = lapic_mmio_read(&v->lapic, offset & ~3u, vcpu_time(v));
    uint64_t high = (offset & 3) + size > 4 && (offset & ~3u) + 4 < X86_PAGE_SIZE
                  ? lapic_mmio_read(&v->lapic, (offset & ~3u) + 4, vcpu_time(v)) : 0;
    *value = (high << 32 | low) >> (offset & 3) * 8;
    return X86_DONE;
}

static enum x86_answer bus_device_write(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t value)
{
    struct vcpu *v = vcpu_of(cpu);
    uint32_t offset = gpa & (X86_PAGE_SIZE - 1);
    x86_count_add(&v->apic_counts.mmio, 1);
    if (size < 4 || (offset & 3))       // undefined by the manual (SDM vol. 3A 11.4.1.1); processors ignore them
        return X86_DONE;
    struct lapic_effects effects = { 0 };
    count_register(v, offset, true);
    lapic_mmio_write(&v->lapic, offset, (uint32_t)value, vcpu_time(v), &effects);
    vcpu_apic_effects(v, &effects, (uint32_t)value);
    return X86_DONE;
}

// ---- Time --------------------------------------------------------------------------------------------------------

// The partition's TSC: its clock at its own frequency.
static uint64_t partition_tsc(const struct soft_partition *soft)
{
    return clock_scale(clock_ticks(&soft->partition->clock), soft->tsc_hz, soft->host_hz);
}

uint64_t vcpu_guest_tsc(const struct vcpu *v)
{
    return partition_tsc(v->soft) + v->tsc_offset;
}

struct lapic_time vcpu_time(const struct vcpu *v)
{
    uint64_t ticks = clock_ticks(&v->soft->partition->clock);
    return (struct lapic_time){
        .ns = clock_scale(ticks, 1000000000, v->soft->host_hz),
        .tsc = clock_scale(ticks, v->soft->tsc_hz, v->soft->host_hz) + v->tsc_offset,
    };
}

uint64_t vcpu_ns_until(const struct vcpu *v, uint64_t deadline_ns)
{
    if (deadline_ns == UINT64_MAX)
        return UINT64_MAX;
    uint64_t now = vcpu_time(v).ns;
    return deadline_ns > now ? deadline_ns - now : 0;
}

void vcpu_set_tsc(struct vcpu *v, uint64_t tsc)
{
    uint64_t before = v->tsc_offset;
    v->tsc_offset = tsc - partition_tsc(v->soft);
    v->tsc_adjust += v->tsc_offset - before;    // SDM vol. 3B 18.17.3
    if (v->soft->apic)
        lapic_tsc_changed(&v->lapic, vcpu_time(v));
}

static enum x86_answer bus_tsc(struct x86_cpu *cpu, bool rdtscp, uint64_t *value)
{
    struct vcpu *v = vcpu_of(cpu);
    if (v->soft->exits.extended.X64RdtscExit) {
        cpu->exit.kind = X86_EXIT_RDTSC;
        cpu->exit.tsc.rdtscp = rdtscp;
        return X86_ANSWER_EXIT;
    }
    *value = vcpu_guest_tsc(v);
    return X86_DONE;
}

// ---- CPUID -------------------------------------------------------------------------------------------------------

static bool cpuid_exits(const struct vcpu_exits *exits, uint32_t leaf)
{
    if (!exits->extended.X64CpuidExit)
        return false;
    for (uint32_t n = 0; n < exits->cpuid_count; n++)
        if (exits->cpuid[n] == leaf)
            return true;
    return exits->cpuid_count == 0;
}

static enum x86_answer bus_cpuid(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    struct vcpu *v = vcpu_of(cpu);
    if (cpuid_exits(&v->soft->exits, leaf)) {
        cpu->exit.kind = X86_EXIT_CPUID;
        return X86_ANSWER_EXIT;
    }
    partition_cpuid(v->p.vp, leaf, subleaf, out);
    return X86_DONE;
}

// ---- MSRs --------------------------------------------------------------------------------------------------------

#define MSR_TSC 0x10u
#define MSR_TSC_ADJUST 0x3bu
#define MSR_PATCH_LEVEL 0x8bu
#define MSR_MISC_ENABLE 0x1a0u
#define MSR_SYSCFG 0xc0010010u
#define MSR_HWCR 0xc0010015u

// The model-specific registers of the processor that CPUID names which a kernel reads without asking. They hold
// nothing and ignore writes. (APM vol. 2 appendix A; the family's register reference.)
static bool inert_msr(uint32_t msr)
{
    return msr == MSR_PATCH_LEVEL || msr == MSR_SYSCFG || msr == MSR_HWCR
        || msr == 0xc0010055        // interrupt pending message
        || msr == 0xc001001f        // NB_CFG
        || msr == 0xc0011029;       // DE_CFG
}

static enum x86_answer msr_exit(struct x86_cpu *cpu, uint32_t msr, bool write)
{
    cpu->exit.kind = X86_EXIT_MSR;
    cpu->exit.msr.msr = msr;
    cpu->exit.msr.write = write;
    return X86_ANSWER_EXIT;
}

static bool msr_exits(const struct vcpu_exits *exits, uint32_t msr, bool write)
{
    if (!exits->extended.X64MsrExit)
        return false;
    switch (msr) {
    case MSR_TSC: return write ? exits->msr.TscMsrWrite : exits->msr.TscMsrRead;
    case LAPIC_MSR_BASE: return write && exits->msr.ApicBaseMsrWrite;
    case MSR_PATCH_LEVEL: return !write && exits->msr.McUpdatePatchLevelMsrRead;
    case MSR_MISC_ENABLE: return !write && exits->msr.MiscEnableMsrRead;
    }
    return false;
}

static enum x86_msr_action bus_msr_action(struct x86_cpu *cpu, uint32_t msr, bool write)
{
    switch (msr_actions_listed(&vcpu_of(cpu)->soft->msr_actions, msr, write)) {
    case WHvMsrActionArchitectureDefault:
        break;
    case WHvMsrActionIgnoreWriteReadZero:
        return X86_MSR_IGNORE;
    case WHvMsrActionExit:
        (void)msr_exit(cpu, msr, write);
        return X86_MSR_EXIT;
    }
    return X86_MSR_ACCESS;
}

// An MSR that would raise #GP: what the partition says of such; else an exit where it asked for that.
static enum x86_answer msr_unhandled(struct x86_cpu *cpu, uint32_t msr, bool write)
{
    const struct soft_partition *soft = vcpu_of(cpu)->soft;
    switch (msr_actions_unimplemented(&soft->msr_actions, msr)) {
    case WHvMsrActionArchitectureDefault:
        break;
    case WHvMsrActionIgnoreWriteReadZero:
        return X86_DONE;
    case WHvMsrActionExit:
        return msr_exit(cpu, msr, write);
    }
    return soft->exits.extended.X64MsrExit ? msr_exit(cpu, msr, write) : X86_FAULT_GP;
}

static bool apic_msr(const struct vcpu *v, uint32_t msr)
{
    if (!v->soft->apic || !lapic_has_msr(msr))
        return false;
    if (msr == LAPIC_MSR_TSC_DEADLINE)
        return x86_has_feature(&v->p.cpu, X86_FEATURE_TSC_DEADLINE);
    return msr == LAPIC_MSR_BASE || x86_has_feature(&v->p.cpu, X86_FEATURE_X2APIC);
}

static enum x86_answer bus_read_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t *value)
{
    struct vcpu *v = vcpu_of(cpu);
    if (msr_exits(&v->soft->exits, msr, false))
        return msr_exit(cpu, msr, false);
    if (apic_msr(v, msr)) {
        if (lapic_msr_read(&v->lapic, msr, value, vcpu_time(v)) != LAPIC_OK)
            return X86_FAULT_GP;
        count_x2apic(v, msr, false);
        return X86_DONE;
    }
    switch (msr) {
    case MSR_TSC:
        *value = vcpu_guest_tsc(v);
        return X86_DONE;
    case MSR_TSC_ADJUST:
        if (!x86_has_feature(cpu, X86_FEATURE_TSC_ADJUST))
            break;
        *value = v->tsc_adjust;
        return X86_DONE;
    case LAPIC_MSR_BASE:        // no emulation: the register is there, and nothing is behind it
        *value = v->lapic.base;
        return X86_DONE;
    }
    if (inert_msr(msr)) {
        *value = 0;
        return X86_DONE;
    }
    *value = 0;
    return msr_unhandled(cpu, msr, false);
}

static enum x86_answer bus_write_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    struct vcpu *v = vcpu_of(cpu);
    if (msr_exits(&v->soft->exits, msr, true))
        return msr_exit(cpu, msr, true);
    if (apic_msr(v, msr)) {
        struct lapic_effects effects = { 0 };
        if (lapic_msr_write(&v->lapic, msr, value, vcpu_time(v), &effects) != LAPIC_OK)
            return X86_FAULT_GP;
        count_x2apic(v, msr, true);
        vcpu_apic_effects(v, &effects, value);
        return X86_DONE;
    }
    switch (msr) {
    case MSR_TSC:
        vcpu_set_tsc(v, value);
        return X86_DONE;
    case MSR_TSC_ADJUST:
        if (!x86_has_feature(cpu, X86_FEATURE_TSC_ADJUST))
            break;
        v->tsc_offset += value - v->tsc_adjust;
        v->tsc_adjust = value;
        if (v->soft->apic)
            lapic_tsc_changed(&v->lapic, vcpu_time(v));
        return X86_DONE;
    case LAPIC_MSR_BASE:
        return lapic_set_base(&v->lapic, value) ? X86_DONE : X86_FAULT_GP;
    }
    if (inert_msr(msr))
        return X86_DONE;
    return msr_unhandled(cpu, msr, true);
}

// ---- The rest ----------------------------------------------------------------------------------------------------

static uint64_t bus_read_cr8(struct x86_cpu *cpu)
{
    struct vcpu *v = vcpu_of(cpu);
    x86_count_add(&v->apic_counts.tpr, 1);
    return lapic_get_cr8(&v->lapic);
}

static void bus_write_cr8(struct x86_cpu *cpu, uint64_t value)
{
    struct vcpu *v = vcpu_of(cpu);
    x86_count_add(&v->apic_counts.tpr, 1);
    lapic_set_cr8(&v->lapic, value);
    if (!lapic_quiet(&v->lapic))
        vcpu_kick(v, VCPU_INTERRUPT);
}

// Call codes (TLFS appendix A).
#define CALL_SIGNAL_EVENT 0x5du
#define CALL_RETARGET_DEVICE_INTERRUPT 0x7eu

// A call that names what the partition does not have is the client's to answer, if it has asked for that. No partition
// has connections or VPCI devices, so all calls of the two kinds are such.
static bool call_of_unknown(const struct x86_cpu *cpu, const struct vcpu_exits *exits)
{
    // TLFS 3.5 and 3.7: from CPL 0 in protected mode. The call code is the same half of RCX and of EDX:EAX.
    if (cpu->cpl || !(cpu->cr0 & X86_CR0_PE))
        return false;
    bool code64 = (cpu->mode & X86_MODE_CODE) == X86_MODE_CODE64;
    switch (cpu->slot[code64 ? X86_RCX : X86_RAX] & 0xffff) {
    case CALL_SIGNAL_EVENT: return exits->extended.UnknownSynicConnection;
    case CALL_RETARGET_DEVICE_INTERRUPT: return exits->extended.RetargetUnknownVpciDevice;
    }
    return false;
}

static enum x86_answer bus_hypercall(struct x86_cpu *cpu)
{
    const struct vcpu_exits *exits = &vcpu_of(cpu)->soft->exits;
    if (!exits->extended.HypercallExit && !call_of_unknown(cpu, exits))
        return X86_FAULT_GP;        // the caller of this makes it #UD: no hypervisor interface is shown
    cpu->exit.kind = X86_EXIT_HYPERCALL;
    return X86_ANSWER_EXIT;
}

static enum x86_answer bus_exception(struct x86_cpu *cpu, const struct x86_exception *exception)
{
    const struct vcpu_exits *exits = &vcpu_of(cpu)->soft->exits;
    if (!(exits->exceptions >> exception->vector & 1))
        return X86_DONE;
    cpu->exit.kind = X86_EXIT_EXCEPTION;
    return X86_ANSWER_EXIT;
}

const struct x86_bus vcpu_bus = {
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
