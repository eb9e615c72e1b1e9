// What the kernel counts of a virtual machine and of a processor: KVM's binary statistics
// (Documentation/virt/kvm/api.rst 4.133, KVM_GET_STATS_FD).
#ifndef BULKHEAD_KVM_STATS_H
#define BULKHEAD_KVM_STATS_H

#include "engine/engine.h"

// Those that the engine has a use for, by the kernel's names. The last three are a virtual machine's.
#define KVM_STAT_LIST(X)                                                                                              \
    X(exits) X(io_exits) X(mmio_exits) X(halt_exits) X(irq_window_exits) X(nmi_window_exits) X(invlpg) X(hypercalls)  \
    X(insn_emulation) X(pf_taken) X(pf_guest) X(pf_mmio_spte_created) X(irq_injections) X(nmi_injections)             \
    X(halt_wait_ns) X(pages_4k) X(pages_2m) X(pages_1g)
enum kvm_stat {
#define KVM_STAT_NUMBER(name) KVM_STAT_##name,
    KVM_STAT_LIST(KVM_STAT_NUMBER)
#undef KVM_STAT_NUMBER
    KVM_STATS
};

struct kvm_stats {
    uint32_t known;                     // a bit for each that this kernel has
    uint64_t value[KVM_STATS];          // 0 where it has not
};

// Of the virtual machine or processor behind `fd`. None is known where the kernel has no KVM_CAP_BINARY_STATS_FD.
CHECKED HRESULT kvm_stats_read(int fd, struct kvm_stats *stats);

#endif
