/* vcpu.h: one virtual processor: its thread, its exits, and what was counted. */
#ifndef CLI_VCPU_H
#define CLI_VCPU_H

#include "error.h"

#include <WinHvEmulation.h>
#include <WinHvPlatform.h>

#include <pthread.h>
#include <stdint.h>

struct machine;

/* One slot per exit reason of vcpu_exit_name. */
#define VCPU_EXIT_KINDS 20

struct vcpu {
    struct machine *machine;
    unsigned index;
    bool started;
    pthread_t thread;
    WHV_EMULATOR_HANDLE emulator;
    uint64_t exits[VCPU_EXIT_KINDS];
    /* Filled when the thread has ended; `counted` says whether the engine counts instructions at all. */
    bool counted;
    uint64_t instructions;
};

bool vcpu_create(struct vcpu *vcpu, struct machine *machine, unsigned index, struct error *err);
bool vcpu_start(struct vcpu *vcpu, struct error *err);

/* Waits for the thread; the machine must have ended. */
void vcpu_stop(struct vcpu *vcpu);
void vcpu_destroy(struct vcpu *vcpu);

/* The name of exit kind SLOT, or NULL for a slot that is not used. */
const char *vcpu_exit_name(unsigned slot);

#endif
