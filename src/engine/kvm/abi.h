// The kernel's interface: <linux/kvm.h>, and what kernels have that the header of the distribution has not
// yet. Numbers are from the kernel's own documentation (Documentation/virt/kvm/api.rst).
#ifndef BULKHEAD_KVM_ABI_H
#define BULKHEAD_KVM_ABI_H

#include <linux/kvm.h>

#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO 232
#endif
#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237
#endif
#ifndef KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST
#define KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST (1ull << 3)
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

// kvm_run's part for KVM_EXIT_MEMORY_FAULT, at the place of its union.
struct kvm_abi_memory_fault { __u64 flags, gpa, size; };

#endif
