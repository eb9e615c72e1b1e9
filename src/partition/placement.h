// Where a partition's processors and memory are: SeparateSecurityDomain, DisableSmt, PrimaryNumaNode, and the node of
// WHvCreateVirtualProcessor2.
//
// Cores. On a host that uses two threads of a core, SeparateSecurityDomain gives the threads of a partition's
// processors a core-scheduling cookie of the partition's, and DisableSmt each of them its own. On any other host no
// core is ever shared. Whether it is one is settled at set-up. With SeparateSecurityDomain their threads also do
// without what speculation prctl(PR_SET_SPECULATION_CTRL) controls.
//
// Nodes. Memory in the guest memory map prefers the partition's node, and a processor's thread runs on its node's
// processors, as far as its affinity lets it. Memory that leaves the map comes from anywhere again. Memory that is
// still in it when the partition is deleted is left alone, as it may be gone, and something else be there.
//
// When a thread gets these things and when it loses them: thread_place.h.
#ifndef BULKHEAD_PLACEMENT_H
#define BULKHEAD_PLACEMENT_H

#include "partition/gpa_map.h"
#include "partition/thread_place.h"

struct partition;
struct vp;

// What a partition asks for, and does not get by itself on this host.
struct placement {
    struct domain *domain;
    bool alone;
    bool shut;                  // speculation
    int node;                   // of its processors; NO_NODE: anywhere
    bool memory;                // its memory prefers that node
};

// What this host offers. Any thread; the host is asked each time.
bool placement_node_exists(UINT16 node);
UINT16 placement_highest_node(void);
bool placement_offers_domains(void);        // SeparateSecurityDomain
bool placement_offers_no_smt(void);         // DisableSmt

// The properties are final. `*wanted` is set where they ask for something of a run. WHV_E_INVALID_PARTITION_CONFIG: the
// host has no such thing; E_OUTOFMEMORY. On failure nothing is held.
CHECKED HRESULT placement_set_up_locked(struct partition *p, bool *wanted);
// No processor exists.
void placement_tear_down_locked(struct partition *p);

// A processor that is being created, and one that is being destroyed: the calling thread gives back what it has, if the
// processor asked for anything. E_INVALIDARG: there is no such node; E_OUTOFMEMORY.
CHECKED HRESULT placement_vp_create_locked(struct vp *vp, int node);
void placement_vp_destroy_locked(struct vp *vp);

// The calling thread is about to run the processor. Errors as thread_place_take's.
CHECKED HRESULT placement_enter(struct vp *vp);

// A range is about to be mapped. E_INVALIDARG: not all of it is memory; E_ACCESSDENIED, E_OUTOFMEMORY; nothing is
// changed.
CHECKED HRESULT placement_map_locked(struct partition *p, const struct gpa_range *range);
// Host memory may have left the map. What is still in it, by another range, stays as it is.
void placement_unmapped_locked(struct partition *p, uint8_t *host, uint64_t size);
// The same for what was in ranges that have been replaced, inside [gpa, gpa + size).
void placement_replaced_locked(struct partition *p, gpa_t gpa, uint64_t size, const struct gpa_range *old,
                               size_t count);

#endif
