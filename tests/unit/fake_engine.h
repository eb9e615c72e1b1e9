// Two engines that run nothing and record what they are asked, in the place of the real table of engines.
//
// "fast" stands first and lacks CPUID exits; "fake" has everything that the structure can say.
#ifndef BULKHEAD_TESTS_FAKE_ENGINE_H
#define BULKHEAD_TESTS_FAKE_ENGINE_H

#include <stdatomic.h>

#include "engine/engine.h"

struct fake_log {
    atomic_int setups, teardowns, creates, destroys, cancels, property_changes, map_changes, interrupts, runs;
    gpa_t map_gpa;                  // of the last map_changed
    uint64_t map_size;
    UINT32 cpuid_exit_count;        // as the last properties_changed found it
};

extern struct fake_log fake_log;
extern struct engine_status fake_fast_status;      // what the probes answer
extern struct engine_status fake_fake_status;
extern struct engine_capabilities fake_fast_capabilities;
extern struct engine_capabilities fake_fake_capabilities;
extern HRESULT fake_setup_result;                   // of "fast"
extern HRESULT fake_map_result;                     // of map_changed
extern HRESULT fake_property_result;                // of properties_changed
extern HRESULT fake_collect_result;                 // of collect_dirty
extern HRESULT fake_counters_result;                // of counters and memory_counters
extern UINT64 fake_written;                         // what collect_dirty tells next, and forgets
extern bool fake_run_blocks;                        // runs wait for a cancel, instead of exiting for a port

// Everything above as it is at the start of the program.
void fake_reset(void);

#endif
