// What a partition asks of the host's cores and nodes, for its processors' threads and its memory.
#include "partition/placement.h"

#include <errno.h>
#include <stdlib.h>

#include "os/domain.h"
#include "partition/partition.h"

// ---- What the host offers ----------------------------------------------------------------------------------------

enum cores {
    CORES_APART,                // one thread of each is in use
    CORES_SCHEDULED,            // the kernel keeps cookies apart
    CORES_SHARED,
};

static enum cores cores_of_host(void)
{
    uint64_t cookie;

    if (!os_domain_cores_shared())
        return CORES_APART;
    switch (os_domain_cookie(0, &cookie)) {
    case 0:
        return CORES_SCHEDULED;
    case ENODEV:
        return CORES_APART;
    default:
        return CORES_SHARED;
    }
}

// The data cache is not asked about: that it can be flushed is the choice of whoever boots the host.
static bool speculation_in_hand(void)
{
    return os_speculation(OS_SPECULATION_STORE_BYPASS) != OS_SPECULATION_EXPOSED &&
           os_speculation(OS_SPECULATION_INDIRECT_BRANCH) != OS_SPECULATION_EXPOSED;
}

bool placement_node_exists(UINT16 node)
{
    return os_numa_exists(node);
}

UINT16 placement_highest_node(void)
{
    return (UINT16)os_numa_highest();
}

bool placement_offers_no_smt(void)
{
    return cores_of_host() != CORES_SHARED;
}

bool placement_offers_domains(void)
{
    return cores_of_host() != CORES_SHARED && speculation_in_hand();
}

// ---- A partition and its processors ------------------------------------------------------------------------------

static HRESULT set_up_cores(struct partition *p)
{
    const struct property_values *values = &p->properties;
    const bool cookies = (values->separate_security_domain || values->disable_smt) &&
                         cores_of_host() == CORES_SCHEDULED;

    if ((values->separate_security_domain && !placement_offers_domains()) ||
        (values->disable_smt && !placement_offers_no_smt()))
        return WHV_E_INVALID_PARTITION_CONFIG;
    p->placement.shut = values->separate_security_domain;
    // Who shares a core with nobody does not share one with another domain.
    p->placement.alone = cookies && values->disable_smt;
    if (!cookies || values->disable_smt)
        return S_OK;
    p->placement.domain = domain_create();
    return p->placement.domain ? S_OK : E_OUTOFMEMORY;
}

static HRESULT set_up_node(struct partition *p)
{
    const unsigned int node = p->properties.primary_numa_node;
    HRESULT hr;

    if (!property_is_set(&p->properties, property_find(WHvPartitionPropertyCodePrimaryNumaNode)))
        return S_OK;
    if (!os_numa_exists(node))
        return WHV_E_INVALID_PARTITION_CONFIG;
    hr = thread_place_error(os_numa_memory(node, &p->placement.memory));
    if (FAILED(hr))
        return hr == E_OUTOFMEMORY ? hr : WHV_E_INVALID_PARTITION_CONFIG;
    p->placement.node = (int)node;
    return S_OK;
}

HRESULT placement_set_up_locked(struct partition *p, bool *wanted)
{
    struct placement *place = &p->placement;
    HRESULT hr;

    *place = (struct placement){.node = NO_NODE};
    hr = set_up_node(p);
    if (SUCCEEDED(hr))
        hr = set_up_cores(p);
    if (FAILED(hr))
        *place = (struct placement){.node = NO_NODE};
    else if (place->domain || place->alone || place->shut || place->node != NO_NODE)
        *wanted = true;
    return hr;
}

void placement_tear_down_locked(struct partition *p)
{
    if (p->placement.domain)
        domain_release(p->placement.domain);
    p->placement = (struct placement){.node = NO_NODE};
}

HRESULT placement_vp_create_locked(struct vp *vp, int node)
{
    const struct placement *place = &vp->partition->placement;
    struct thread_wish *wish;
    int error = 0;

    vp->place = NULL;
    if (node == NO_NODE)
        node = place->node;
    if (!place->domain && !place->alone && !place->shut && node == NO_NODE)
        return S_OK;
    wish = calloc(1, sizeof(*wish));
    if (!wish)
        return E_OUTOFMEMORY;
    *wish = (struct thread_wish){.domain = place->domain, .alone = place->alone, .shut = place->shut, .node = node};
    if (node != NO_NODE)
        error = os_numa_cpus((unsigned int)node, &wish->cpus);
    if (error) {
        free(wish);
        return error == ENOENT ? E_INVALIDARG : thread_place_error(error);
    }
    vp->place = wish;
    return S_OK;
}

void placement_vp_destroy_locked(struct vp *vp)
{
    HRESULT hr;

    if (!vp->place)
        return;
    // What the host does not take back now is still known, and given back with the thread's next run.
    hr = thread_place_take(NULL);
    (void)hr;
    free(vp->place);
    vp->place = NULL;
}

HRESULT placement_enter(struct vp *vp)
{
    return thread_place_take(vp->place);
}

// ---- Memory ------------------------------------------------------------------------------------------------------

HRESULT placement_map_locked(struct partition *p, const struct gpa_range *range)
{
    int error;

    if (!p->placement.memory)
        return S_OK;
    error = os_numa_prefer(range->host, range->size, (unsigned int)p->placement.node);
    if (error)      // the kernel may have got as far as the part that it refuses
        placement_unmapped_locked(p, range->host, range->size);
    return error == EFAULT ? E_INVALIDARG : thread_place_error(error);
}

// An error here says that there is no memory any more, or none for the kernel's own records. Then the pages that come
// prefer a node that they need not.
void placement_unmapped_locked(struct partition *p, uint8_t *host, uint64_t size)
{
    const uintptr_t start = (uintptr_t)host, end = start + size;
    struct gpa_range range;
    int error;

    if (!p->placement.memory)
        return;
    error = os_numa_forget(host, size);
    for (gpa_t at = 0; gpa_map_next(&p->map, at, &range); at = range.gpa + range.size) {
        const uintptr_t first = (uintptr_t)range.host > start ? (uintptr_t)range.host : start;
        const uintptr_t last = (uintptr_t)range.host + range.size < end ? (uintptr_t)range.host + range.size : end;

        if (first < last && !error)
            error = os_numa_prefer(range.host + (first - (uintptr_t)range.host), last - first,
                                   (unsigned int)p->placement.node);
    }
    (void)error;
}

void placement_replaced_locked(struct partition *p, gpa_t gpa, uint64_t size, const struct gpa_range *old, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const gpa_t first = old[i].gpa > gpa ? old[i].gpa : gpa;
        const gpa_t end = old[i].gpa + old[i].size < gpa + size ? old[i].gpa + old[i].size : gpa + size;

        if (first < end)
            placement_unmapped_locked(p, old[i].host + (first - old[i].gpa), end - first);
    }
}
