// The soft engine: our own x86-64 processor in user space.
#ifndef BULKHEAD_SOFT_H
#define BULKHEAD_SOFT_H

#include "engine/engine.h"

extern const struct engine engine_soft;

#endif
