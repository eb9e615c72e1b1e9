// One instruction emulator: a processor of our own that reaches registers and memory through the client's callbacks.
//
// There is no second set of semantics: the instruction is decoded and executed by src/x86, on a processor whose every
// memory access goes to the callbacks. Registers are fetched before and, only when all went well, written back after.
// An emulator serves one call at a time per object; calls on one object are serialised.
#ifndef BULKHEAD_EMULATOR_H
#define BULKHEAD_EMULATOR_H

#include <pthread.h>

#include "WinHvEmulation.h"
#include "x86/cpu.h"
#include "x86/decode.h"
#include "x86/fpu.h"

struct emulator {
    struct x86_cpu cpu;
    WHV_EMULATOR_CALLBACKS callbacks;
    pthread_mutex_t lock;
    void *context;                      // the client's, for the call under way
    const WHV_MEMORY_ACCESS_CONTEXT *exit;  // the access that exited, whose translation is known; NULL for ports
    WHV_EMULATOR_STATUS status;
    struct x86_step step;               // the instruction under way
    struct x86_fx_image loaded;         // x87, MXCSR and vectors as the client had them
};

// state.c: registers in and out. False: status says why.
bool emulator_load(struct emulator *e, const WHV_VP_EXIT_CONTEXT *exit);
bool emulator_store(struct emulator *e);

// memory.c: the processor's bus over the callbacks.
extern const struct x86_bus emulator_bus;

#endif
