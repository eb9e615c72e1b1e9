// WHP's names for processor features and CPUID's bits for them: one table, read in both directions.
#ifndef BULKHEAD_KVM_FEATURES_H
#define BULKHEAD_KVM_FEATURES_H

#include "engine/kvm/host.h"

// An entry of a table of KVM's; an entry that is good for every subleaf is found with any. NULL: there is
// none.
const struct kvm_cpuid_entry2 *kvm_features_entry(const struct kvm_cpuid2 *table, uint32_t leaf, uint32_t subleaf);

// What KVM can give a partition and this engine shows: the features that a property may ask for.
void kvm_features_offered(const struct kvm_host *h, WHV_PROCESSOR_FEATURES_BANKS *banks,
                          WHV_PROCESSOR_XSAVE_FEATURES *xsave);

// Clear in one leaf's answer every feature that has a name and is not in the banks.
void kvm_features_mask(uint32_t leaf, uint32_t subleaf, const WHV_PROCESSOR_FEATURES_BANKS *banks,
                       WHV_PROCESSOR_XSAVE_FEATURES xsave, uint32_t out[4]);

#endif
