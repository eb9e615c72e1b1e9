// A run under what the partition asks of the host.
#include "partition/policy.h"

#include "partition/placement.h"

HRESULT policy_set_up_locked(struct partition *p)
{
    bool wanted = false;
    HRESULT hr = placement_set_up_locked(p, &wanted);

    if (FAILED(hr))
        return hr;
    hr = schedule_set_up_locked(p, &wanted);
    if (FAILED(hr))
        placement_tear_down_locked(p);
    else
        p->policy = wanted;
    return hr;
}

void policy_tear_down_locked(struct partition *p)
{
    if (!p->policy)
        return;
    schedule_tear_down_locked(p);
    placement_tear_down_locked(p);
    p->policy = false;
}

HRESULT policy_run(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    // The caller's may be the client's, which learns of no exit that is none.
    WHV_RUN_VP_EXIT_CONTEXT own;
    HRESULT hr = placement_enter(vp);

    if (FAILED(hr))
        return hr;
    if (!vp->partition->policy)
        return vp->partition->engine->vp_run(vp, exit);
    do {
        uint32_t cancels;

        hr = schedule_enter(vp);
        if (FAILED(hr))
            break;
        cancels = vp->cancels;
        hr = vp->partition->engine->vp_run(vp, &own);
        vp->cancels_seen = cancels;
        schedule_leave(vp);
    } while (SUCCEEDED(hr) && own.ExitReason == WHvRunVpExitReasonNone);
    if (SUCCEEDED(hr))
        *exit = own;
    return hr;
}
