// MsrActionList and UnimplementedMsrAction: what a partition wants done about an MSR access, whatever it is.
//
// The rule, for each access:
//  1. An entry of the list with another action than ArchitectureDefault decides, also about registers that the
//     processor has. The last entry for a register counts.
//  2. Else the processor does what it does; X64MsrExit with X64MsrExitBitmap makes the listed accesses exit.
//  3. A register that is not implemented is what UnimplementedMsrAction says, but where the list has an entry for it:
//     that says ArchitectureDefault then.
//  4. What is left faults: an exit with X64MsrExit, else #GP.
// An exit of 1 or 3 needs no bit of ExtendedVmExits.
#ifndef BULKHEAD_ENGINE_MSR_ACTIONS_H
#define BULKHEAD_ENGINE_MSR_ACTIONS_H

#include "partition/property.h"

struct msr_actions {
    WHV_MSR_ACTION_ENTRY *entries;      // sorted by Index, each once
    size_t count;
    WHV_MSR_ACTION unimplemented;
};

// Of a partition at its set-up. E_OUTOFMEMORY changes nothing.
CHECKED HRESULT msr_actions_init(struct msr_actions *actions, const struct property_values *properties);
void msr_actions_release(struct msr_actions *actions);

// Whether any access may be decided here at all.
static inline bool msr_actions_any(const struct msr_actions *actions)
{
    return actions->count || actions->unimplemented != WHvMsrActionArchitectureDefault;
}

// Rule 1; ArchitectureDefault where it leaves the access alone.
WHV_MSR_ACTION msr_actions_listed(const struct msr_actions *actions, uint32_t msr, bool write);
// Rule 3, for a register that is not implemented; ArchitectureDefault where it leaves the access alone.
WHV_MSR_ACTION msr_actions_unimplemented(const struct msr_actions *actions, uint32_t msr);

#endif
