// CPUID of a kvm processor: what KVM offers, made into the processor that the partition's properties
// describe.
#ifndef BULKHEAD_KVM_CPUID_H
#define BULKHEAD_KVM_CPUID_H

#include "partition/partition.h"

// The processor's own answer, before the partition's result lists: engine.h's `cpuid`.
void kvm_cpuid(struct vp *vp, UINT32 leaf, UINT32 subleaf, UINT32 out[4]);
// Give the processor behind `fd` its whole table, result lists laid over it (partition_cpuid). Before its
// first run.
CHECKED HRESULT kvm_cpuid_install(struct vp *vp, int fd);
// x86/features.def's bits as this processor's CPUID shows them: struct x86_cpu.features.
void kvm_cpuid_features(struct vp *vp, uint64_t features[4]);

#endif
