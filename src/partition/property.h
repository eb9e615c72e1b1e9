// Partition properties: the table of properties.def, what it says of values, and the values themselves.
//
// Publication. Values are written with partition->lock held. Those that may change after set-up (exits,
// bitmaps, CPUID exit list) are followed by engine->properties_changed, still under the lock: the engine
// takes copies of what its processors need, and on return no processor looks at the old values any more. Only
// then is a replaced list freed. Outside setup and properties_changed an engine reads from here only what
// set-up has made final.
#ifndef BULKHEAD_PROPERTY_H
#define BULKHEAD_PROPERTY_H

#include <stddef.h>

#include "engine/engine.h"

// No list may be longer. (Windows names no limit.)
#define PROPERTY_LIST_MAX 4096

// The values an engine reads. Each member is what the property of that name holds. Lists are owned here and
// replaced as a whole.
struct property_values {
    UINT32 processor_count;
    WHV_X64_LOCAL_APIC_EMULATION_MODE apic_mode;
    WHV_EXTENDED_VM_EXITS extended_vm_exits;
    UINT64 exception_exit_bitmap;
    WHV_X64_MSR_EXIT_BITMAP msr_exit_bitmap;
    UINT32 *cpuid_exit_list;
    UINT32 cpuid_exit_count;
    WHV_X64_CPUID_RESULT *cpuid_result_list;
    UINT32 cpuid_result_count;
    WHV_X64_CPUID_RESULT2 *cpuid_result2_list;
    UINT32 cpuid_result2_count;
    WHV_MSR_ACTION_ENTRY *msr_action_list;
    UINT32 msr_action_count;
    WHV_MSR_ACTION unimplemented_msr_action;
    WHV_PROCESSOR_FEATURES_BANKS processor_features;
    WHV_PROCESSOR_XSAVE_FEATURES xsave_features;
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS synthetic_features;
    WHV_PROCESSOR_PERFMON_FEATURES perfmon_features;
    UINT8 clflush_units;
    UINT64 processor_clock_hz;
    UINT64 interrupt_clock_hz;
    UINT64 reference_time;              // 100 ns
    UINT32 physical_address_width;      // bits; bounds the guest memory map
    BOOL apic_remote_read;
    BOOL nested_virtualization;
    BOOL allow_device_assignment;

    // What the host is asked for: placement.h, policy.h.
    BOOL separate_security_domain;
    BOOL disable_smt;
    UINT16 primary_numa_node;
    UINT32 cpu_reserve;                 // percent
    UINT32 cpu_cap;                     // percent
    UINT32 cpu_weight;
    UINT64 cpu_group_id;
    UINT32 processor_frequency_cap;     // MHz; 0: none

    UINT64 set_rows;                    // bit N: row N of the table was set by the caller
};

// No offset into struct engine_capabilities.
#define PROPERTY_NOTHING ((size_t)-1)

enum property_range {
    PROPERTY_NUMBER,        // low to high
    PROPERTY_UP_TO,         // low to high, and to what is offered
    PROPERTY_EXACTLY,       // what is offered
    PROPERTY_FREQUENCY,     // low to high; what is offered, alone, where `condition` is true
    PROPERTY_CHOICE,        // 0 to high; 0 where `condition` is false
    PROPERTY_BITS,          // what is offered, or else any bit of high
    PROPERTY_NODE,          // a node of the host: 0 to the highest there is, which may leave some out
};

// A field with bounds of its own, of a value or of each entry of a list.
struct property_part {
    UINT32 offset, size;                // bytes, in the value; size 0: all of it
    enum property_range range;
    UINT64 low, high;
    size_t offered, offered_size;       // in struct engine_capabilities: the number or bits that are meant, its bytes
    size_t condition;                   // in struct engine_capabilities: a bool
};

// The same for certain capabilities.
struct property_bounds {
    bool bits;              // any bits of `high`; otherwise a number, low to high
    UINT64 low, high;
};

// One row of the table.
struct property {
    WHV_PARTITION_PROPERTY_CODE code;
    const char *name;                   // without the common prefix
    UINT32 size;                        // bytes of the value, or of one entry of a list
    size_t offset;                      // in struct property_values: of the value, or of the list's pointer
    size_t count_offset;                // lists only: of the count; 0 for values
    bool after_setup;                   // may also be set after set-up
    const struct property_part *parts;  // what has bounds
    unsigned int part_count;
    // The value that an unset property has: what is offered, else this number. A part with one lawful number has that.
    size_t initial_offered;
    UINT64 initial;
};

// NULL when the code is unknown.
const struct property *property_find(WHV_PARTITION_PROPERTY_CODE code);
// Row `index` of the table; NULL past the last one.
const struct property *property_row(unsigned int index);

// What engines with these capabilities take for a part.
struct property_bounds property_bounds(const struct property_part *part,
                                       const struct engine_capabilities *capabilities);
static inline UINT32 property_part_size(const struct property *property, const struct property_part *part)
{
    return part->size ? part->size : property->size;
}

// True when an engine with these capabilities can have the value, or the list of `count` entries.
bool property_check(const struct property *property, const void *value, UINT32 count,
                    const struct engine_capabilities *capabilities);

static inline bool property_is_list(const struct property *property)
{
    return property->count_offset != 0;
}

// Give every property that was never set the default it has on an engine with these capabilities.
void property_defaults(struct property_values *values, const struct engine_capabilities *capabilities);

// Write a value or a list: `size` is at least the row's size, or a multiple of an element's. `replaced`
// receives the list that was there before, for the caller to free once no engine looks at it; NULL for
// values. E_INVALIDARG when the check refuses, E_OUTOFMEMORY; both change nothing.
CHECKED HRESULT property_set(struct property_values *values, const struct property *property,
                             const void *buffer, UINT32 size, const struct engine_capabilities *capabilities,
                             void **replaced);

// Undo a property_set. `before` is a copy of the values from before it. `replaced` receives the list that was
// set, for the caller to free as above.
void property_put_back(struct property_values *values, const struct property *property,
                       const struct property_values *before, void **replaced);

// Copy a value out; `buffer` has room for property->size bytes. Not for lists.
void property_get(const struct property_values *values, const struct property *property, void *buffer);

// The value, or the list with its `count` elements; not a copy. NULL for an empty list.
const void *property_value(const struct property_values *values, const struct property *property, UINT32 *count);
// Whether the caller has set it; otherwise it is a default.
bool property_is_set(const struct property_values *values, const struct property *property);

// Add what a partition may ask for when these exits are not insisted on: they, and what chooses among them.
void property_relax(struct engine_capabilities *capabilities, WHV_EXTENDED_VM_EXITS relaxed);

// The first property that was set to something that an engine with these capabilities cannot do, NULL when
// there is none. Exits in `relaxed` are not insisted on.
const struct property *property_unsupported(const struct property_values *values,
                                            const struct engine_capabilities *capabilities,
                                            WHV_EXTENDED_VM_EXITS relaxed);

// Free the lists.
void property_release(struct property_values *values);

#endif
