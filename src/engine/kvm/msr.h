// Model-specific registers: which the guest may touch without an exit, and how ours map to KVM's.
#ifndef BULKHEAD_KVM_MSR_H
#define BULKHEAD_KVM_MSR_H

#include "engine/common/msr_actions.h"
#include "partition/partition.h"

// The MSRs of Hyper-V's interface (TLFS appendix D, up to HV_X64_MSR_TSC_INVARIANT_CONTROL), and the x2APIC's.
#define KVM_MSR_HYPERV 0x40000000u
#define KVM_MSR_HYPERV_COUNT 0x200u
static inline bool kvm_msr_is_hyperv(uint32_t msr) { return msr - KVM_MSR_HYPERV < KVM_MSR_HYPERV_COUNT; }
static inline bool kvm_msr_is_x2apic(uint32_t msr) { return msr - 0x800u < 0x100u; }

// What of a partition's MSRs set-up has decided.
struct kvm_msr_rules {
    struct msr_actions actions;
    // Registers that KVM serves without asking CPUID, and that the partition does not have.
    bool hide_tsc_deadline, hide_tsc_adjust;
};

// Registers that KVM has and the partition does not: accesses to them are those of unknown ones.
bool kvm_msr_hidden(const struct kvm_msr_rules *rules, uint32_t msr);

// Whether a new partition differs from one without a call of the next function.
bool kvm_msr_exits_wanted(const struct property_values *properties, const struct kvm_msr_rules *rules);
// And whether that is something that KVM cannot refuse, so that it may wait for the first run.
bool kvm_msr_exits_can_wait(const struct property_values *properties, const struct kvm_msr_rules *rules);
// Have KVM exit for the MSR accesses that the properties name (X64MsrExit: whatever would fault; X64MsrExitBitmap:
// the listed ones) and those that the rules' actions decide about, or for none, and raise #GP for hidden ones. Any
// thread, also while processors run. On failure KVM may exit for more than that. WHV_E_INVALID_PARTITION_CONFIG: KVM
// cannot tell of all that the actions name.
CHECKED HRESULT kvm_msr_exits(int vm, const struct property_values *properties, const struct kvm_msr_rules *rules);

// The MSRs of REGISTER_MSR between a `struct x86_cpu` and KVM, in one call each. A set writes what differs
// from `before`, which is what KVM has (NULL: everything, with one call more to read what KVM has).
// E_INVALIDARG: KVM refused a value; nothing is changed then. A register that this kernel lacks is left as it
// is in the view.
struct x86_cpu;
CHECKED HRESULT kvm_msr_fetch(int fd, struct x86_cpu *cpu);
CHECKED HRESULT kvm_msr_store(int fd, const struct x86_cpu *cpu, const struct x86_cpu *before);
// One MSR. E_INVALIDARG: KVM does not know it, or refuses the value.
CHECKED HRESULT kvm_msr_get(int fd, uint32_t msr, uint64_t *value);
CHECKED HRESULT kvm_msr_set(int fd, uint32_t msr, uint64_t value);

#endif
