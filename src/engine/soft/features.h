// WHP's names for processor features and the processor's own: one table, read in both directions.
#ifndef BULKHEAD_SOFT_FEATURES_H
#define BULKHEAD_SOFT_FEATURES_H

#include "partition/property.h"

// What the processor implements and WHP has a name for: the features that a property may ask for.
void soft_features_offered(WHV_PROCESSOR_FEATURES_BANKS *banks, WHV_PROCESSOR_XSAVE_FEATURES *xsave);

// A partition's processor (x86_cpu.features): all that is implemented, but for what its properties leave out. What
// CPUID shows and what works are the same set, so a feature that is left out faults as the manuals say.
void soft_features_of(const struct property_values *properties, uint64_t features[4]);

#endif
