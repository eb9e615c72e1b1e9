// How long a soft processor runs, and what of it is the engine's own work, for next to nothing per exit.
//
// A run is made of steps: one look at what is to be done, and guest code until the next (vcpu.c, run_step). The head of
// a run is what comes before its first look at the clock, which is due when a budget of instructions is used up, and
// after RUNTIME_LOOK_STEPS steps at the latest; most runs that end in an exit are nothing but a head. The rest is its
// tail.
//
// - Tails are measured: by the host's time-stamp counter at first, and when they have become long by the thread's CPU
//   time, which does not count what the host gives to other threads.
// - Heads are estimated: of about RUNTIME_BURST * RUNTIME_WEIGHT steps RUNTIME_BURST in a row are measured, behind one
//   that warms up, and stand for all. The distance is random, so that a guest's rhythm does not decide what is
//   measured, and grows to that from the first steps on. The error falls with the square root of the number of measured
//   steps, and the figure lags by up to one distance.
// - What the host does with the core in a measured step is not to stand for others: a step is taken for no longer than
//   the thread's CPU time since the beginning of its burst, and of what is longer than so many instructions ever take
//   (RUNTIME_STEP_NS, RUNTIME_INSTRUCTION_NS) the rest counts once.
// - The engine's own part, and what each kind of exit takes, is estimated from the same steps, in heads and tails.
// - A processor that sleeps, or stands aside for a visitor, does not run.
//
// Written by the thread that runs the processor; `head` to `engine` are read by any thread and never go back.
#ifndef BULKHEAD_SOFT_RUNTIME_H
#define BULKHEAD_SOFT_RUNTIME_H

#include <stdbool.h>

#include "x86/cpu.h"

#define RUNTIME_BURST 4u
#define RUNTIME_WEIGHT 512u         // on average, once the processor has run for a while
#define RUNTIME_WEIGHT_FIRST 16u
#define RUNTIME_STEP_NS 5000u
#define RUNTIME_INSTRUCTION_NS 500u
#define RUNTIME_LOOK_STEPS 16u
#define RUNTIME_LONG 16u            // looks until the thread's CPU time takes over
#define RUNTIME_CPU_LOOKS 32u       // looks between two readings of it

enum runtime_special { RUNTIME_SAMPLED = 1, RUNTIME_STEPS = 2 };

struct runtime {
    // The running thread's alone.
    uint32_t until;                 // steps until one is measured
    uint32_t special;               // RUNTIME_SAMPLED: this step is measured; RUNTIME_STEPS: it is not the run's first
    uint32_t steps;                 // since the last look
    uint32_t burst, weight;         // what is left of a burst, 0: the next warms up; what each of it stands for
    uint32_t spread;                // weights are on average this

    x86_count head, tail;           // ticks of the host's TSC
    x86_count cpu;                  // ns of CPU time
    x86_count engine;               // ticks that were not spent in guest code

    uint64_t looks;                 // of this run; 0: its head
    uint64_t tail_from, cpu_from;
    uint64_t from, entered, left;   // of the step that is measured; `entered` 0: not in guest code yet
    uint64_t interrupts, instructions;      // delivered and executed before it
    uint64_t burst_from;            // CPU time at the beginning of the burst
};

struct vcpu;

void runtime_init(struct runtime *r);

// All for the running thread. Cold: a run that is one step and not measured calls none of them.
#define RUNTIME_COLD __attribute__((cold))

// A step that is to be measured begins.
RUNTIME_COLD void runtime_sample(struct vcpu *v);
// x86_run of such a step.
RUNTIME_COLD enum x86_leave runtime_run(struct vcpu *v, uint64_t generation);
// A step ends that did not end the run.
void runtime_next(struct vcpu *v);
// The processor stops running for a while, and goes on.
RUNTIME_COLD void runtime_pause(struct vcpu *v);
RUNTIME_COLD void runtime_resume(struct vcpu *v);
// The end of a run whose last step was special.
RUNTIME_COLD void runtime_close(struct vcpu *v, const WHV_RUN_VP_EXIT_CONTEXT *exit);

#endif
