// Where a partition's processors run.
#include "partition/policy.h"

HRESULT placement_set_up_locked(struct partition *p, bool *wanted)
{
    (void)p;
    (void)wanted;
    return S_OK;
}

void placement_tear_down_locked(struct partition *p)
{
    (void)p;
}

HRESULT placement_enter(struct vp *vp)
{
    (void)vp;
    return S_OK;
}

void placement_leave(struct vp *vp)
{
    (void)vp;
}
