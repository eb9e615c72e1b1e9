// What a partition can get: what an engine offers, joined with what the host offers whatever the engine.
//
// WHvGetCapability, the checks of properties and the choice of an engine all ask here. An engine's own function tells
// of the engine alone.
#ifndef BULKHEAD_CAPABILITIES_H
#define BULKHEAD_CAPABILITIES_H

#include "engine/engine.h"

// What no engine decides.
struct host_capabilities {
    bool device_assignment;     // VFIO and an IOMMU
};

// Ask the host. `root` is put before the paths that are looked at: "" for the host's own.
void host_capabilities_ask(const char *root, struct host_capabilities *host);

// Add what the host offers to an engine's capabilities.
void capabilities_join(struct engine_capabilities *capabilities, const struct host_capabilities *host);

// The two of them for this host, which is asked once per process. Any thread.
void capabilities_of(const struct engine *engine, struct engine_capabilities *capabilities);

#endif
