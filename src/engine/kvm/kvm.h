// The kvm engine: a partition's processors run by /dev/kvm.
#ifndef BULKHEAD_KVM_H
#define BULKHEAD_KVM_H

#include "engine/engine.h"

extern const struct engine engine_kvm;

#endif
