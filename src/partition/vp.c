// Virtual processors as the partition sees them: create, delete, pin, claim, and CPUID with the owner's
// overlays.
#include <stdlib.h>
#include <string.h>

#include "os/wait.h"
#include "partition/partition.h"

HRESULT partition_vp_create_locked(struct partition *p, UINT32 index, int node)
{
    struct vp *vp = p->vp_memory[index];
    HRESULT hr;

    if (p->vps[index])
        return WHV_E_VP_ALREADY_EXISTS;
    if (!vp) {
        vp = calloc(1, sizeof(*vp));
        if (!vp)
            return E_OUTOFMEMORY;
        vp->partition = p;
        vp->index = index;
        p->vp_memory[index] = vp;
    }
    vp->engine_data = NULL;
    hr = placement_vp_create_locked(vp, node);
    if (FAILED(hr))
        return hr;
    hr = p->engine->vp_create(vp);
    if (FAILED(hr)) {
        placement_vp_destroy_locked(vp);
        return hr;
    }
    p->vps[index] = vp;
    vp->references = VP_LIVE;
    return S_OK;
}

HRESULT partition_vp_delete_locked(struct partition *p, UINT32 index)
{
    struct vp *vp = index < PARTITION_MAX_PROCESSORS ? p->vps[index] : NULL;

    if (!vp || !(atomic_fetch_and(&vp->references, ~VP_LIVE) & VP_LIVE))
        return WHV_E_VP_DOES_NOT_EXIST;
    // One cancel is enough: whoever claims the processor later looks at VP_LIVE and turns away.
    partition_vp_cancel(vp);
    while (vp->references != 0)
        pthread_cond_wait(&p->vp_unused, &p->lock);
    p->engine->vp_destroy(vp);
    placement_vp_destroy_locked(vp);
    vp->engine_data = NULL;
    p->vps[index] = NULL;
    return S_OK;
}

struct vp *partition_vp_pin(struct partition *p, UINT32 index)
{
    struct vp *vp = index < PARTITION_MAX_PROCESSORS ? p->vp_memory[index] : NULL;
    int seen;

    if (!vp)
        return NULL;
    seen = vp->references;
    do {
        if (!(seen & VP_LIVE))
            return NULL;
    } while (!atomic_compare_exchange_weak(&vp->references, &seen, seen + 1));
    return vp;
}

__attribute__((hot)) static void let_go(struct vp *vp, int references)
{
    struct partition *p = vp->partition;

    if (atomic_fetch_sub(&vp->references, references) != references)
        return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->vp_unused);
    pthread_mutex_unlock(&p->lock);
}

void partition_vp_unpin(struct vp *vp)
{
    let_go(vp, 1);
}

__attribute__((hot)) HRESULT partition_vp_claim(struct partition *p, UINT32 index, struct vp **claimed)
{
    struct vp *vp = index < PARTITION_MAX_PROCESSORS ? p->vp_memory[index] : NULL;
    enum partition_state state;
    int seen;

    if (!vp)
        return WHV_E_VP_DOES_NOT_EXIST;
    seen = vp->references;
    do {
        if (!(seen & VP_LIVE))
            return WHV_E_VP_DOES_NOT_EXIST;
        if (seen & VP_CLAIMED)
            return WHV_E_INVALID_VP_STATE;
    } while (!atomic_compare_exchange_weak(&vp->references, &seen, (seen | VP_CLAIMED) + 1));
    // Who takes the partition out of service sets its state first, and looks for claims then.
    state = p->state;
    if (state != PARTITION_SET_UP) {
        partition_vp_release(vp);
        return state == PARTITION_DELETED ? WHV_E_VP_DOES_NOT_EXIST : HRESULT_FROM_WIN32(ERROR_INVALID_STATE);
    }
    *claimed = vp;
    return S_OK;
}

void partition_vp_release(struct vp *vp)
{
    let_go(vp, VP_CLAIMED + 1);
}

void partition_vp_release_locked(struct vp *vp)
{
    if (atomic_fetch_sub(&vp->references, VP_CLAIMED + 1) == VP_CLAIMED + 1)
        pthread_cond_broadcast(&vp->partition->vp_unused);
}

void partition_vp_cancel(struct vp *vp)
{
    vp->partition->engine->vp_cancel(vp);
    if (!vp->partition->policy)
        return;
    // Behind the engine's latch: who sees this count and runs finds that.
    atomic_fetch_add(&vp->cancels, 1);
    os_wake(&vp->cancels);
}

static void lay_over(UINT32 *value, UINT32 output, UINT32 mask)
{
    *value = (*value & ~mask) | (output & mask);
}

void partition_cpuid(struct vp *vp, UINT32 leaf, UINT32 subleaf, UINT32 out[4])
{
    const struct property_values *values = &vp->partition->properties;

    vp->partition->engine->cpuid(vp, leaf, subleaf, out);
    for (UINT32 i = 0; i < values->cpuid_result_count; i++) {
        const WHV_X64_CPUID_RESULT *result = &values->cpuid_result_list[i];

        if (result->Function != leaf)
            continue;
        out[0] = result->Eax;
        out[1] = result->Ebx;
        out[2] = result->Ecx;
        out[3] = result->Edx;
    }
    for (UINT32 i = 0; i < values->cpuid_result2_count; i++) {
        const WHV_X64_CPUID_RESULT2 *result = &values->cpuid_result2_list[i];

        if (result->Function != leaf ||
            ((result->Flags & WHvX64CpuidResult2FlagSubleafSpecific) && result->Index != subleaf) ||
            ((result->Flags & WHvX64CpuidResult2FlagVpSpecific) && result->VpIndex != vp->index))
            continue;
        lay_over(&out[0], result->Output.Eax, result->Mask.Eax);
        lay_over(&out[1], result->Output.Ebx, result->Mask.Ebx);
        lay_over(&out[2], result->Output.Ecx, result->Mask.Ecx);
        lay_over(&out[3], result->Output.Edx, result->Mask.Edx);
    }
}
