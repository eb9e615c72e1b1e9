// The engines of this build, fastest first.
#include "engine/engine.h"
#include "engine/soft/soft.h"

const struct engine *const engines[] = {
    &engine_soft,
    NULL,
};
