// Processor features that need others, across the three properties that name them.
//
// Only what no processor has without the other, by its manuals (SDM vol. 1 13 to 18, APM vol. 3 appendix D): a guest may
// take the one for a sign of the other.
#ifndef BULKHEAD_FEATURES_H
#define BULKHEAD_FEATURES_H

#include "partition/property.h"

// Names without "Support", for people; NULL where nothing is wrong.
struct feature_conflict {
    const char *feature, *without;
};

// Make the features final for an engine with these capabilities, after property_defaults: a default that needs what the
// caller has left out is left out too. WHV_E_UNSUPPORTED_PROCESSOR_CONFIG: one that the caller has set needs what is
// not there, though the engine has it; `values` is unchanged then.
CHECKED HRESULT features_settle(struct property_values *values, const struct engine_capabilities *capabilities,
                                struct feature_conflict *conflict);

#endif
