// The engines of this build, fastest first.
#include "engine/engine.h"
#include "engine/kvm/kvm.h"
#include "engine/soft/soft.h"

const struct engine *const engines[] = {
    &engine_kvm,
    &engine_soft,
    NULL,
};
