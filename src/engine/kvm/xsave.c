// A kvm processor's XSAVE image: KVM has the standard format, the API the compacted one.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/common/xsave.h"
#include "engine/kvm/cpuid.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/vcpu.h"

// Components, their sizes and places as CPUID leaf 0DH has them (SDM vol. 1 13.2): which of them the guest's processor
// has is said by its own table, result lists and all; where they lie is KVM's to say.
static struct xsave_layout layout_of(struct vp *vp)
{
    const struct kvm_partition *kvm = vp->partition->engine_data;
    struct xsave_layout layout = { .components = XSAVE_LEGACY };
    UINT32 shown[4], out[4];
    partition_cpuid(vp, 0xd, 0, shown);
    uint64_t components = (shown[0] | (uint64_t)shown[3] << 32) & ~XSAVE_LEGACY;
    for (unsigned n = 2; n < XSAVE_COMPONENTS; n++) {
        if (!(components >> n & 1))
            continue;
        kvm_cpuid(vp, 0xd, n, out);
        bool supervisor = out[2] & 1;
        // No part of the area that KVM takes and gives: none of this processor's.
        if (supervisor || !out[0] || out[1] < XSAVE_HEADER_END || out[1] > kvm->xsave_size
            || out[0] > kvm->xsave_size - out[1])
            continue;
        layout.components |= 1ull << n;
        layout.part[n] = (struct xsave_component){ .size = out[0], .offset = out[1], .align = out[2] & 2 };
    }
    return layout;
}

UINT32 kvm_xsave_size(struct vp *vp)
{
    struct xsave_layout layout = layout_of(vp);
    return xsave_compacted_size(&layout);
}

HRESULT kvm_get_xsave(struct vp *vp, void *image)
{
    struct kvm_vcpu *v = vp->engine_data;
    struct xsave_layout layout = layout_of(vp);
    kvm_vcpu_stop(v);
    HRESULT hr = kvm_state_fetch(v, REGISTER_FPU);
    if (SUCCEEDED(hr)) {
        kvm_state_place_fpu(v);         // registers that were set by name
        xsave_compact(&layout, (const uint8_t *)v->xsave.region, image);
    }
    kvm_vcpu_go(v);
    return hr;
}

// Handed over at once, since KVM may refuse it.
static HRESULT store(struct kvm_vcpu *v, const uint8_t *area)
{
    int answer = kvm_ioctl(v->fd, KVM_SET_XSAVE, (void *)area);
    if (answer < 0)
        return answer == -EINVAL ? E_INVALIDARG : kvm_hresult(answer);
    memcpy(v->xsave.region, area, v->kvm->xsave_size);
    kvm_state_load_fpu(v);
    v->fresh |= REGISTER_FPU;
    v->changed &= ~(uint32_t)REGISTER_FPU;
    return S_OK;
}

HRESULT kvm_set_xsave(struct vp *vp, const void *image, UINT32 size)
{
    struct kvm_vcpu *v = vp->engine_data;
    struct xsave_layout layout = layout_of(vp);
    uint8_t *area = calloc(1, v->kvm->xsave_size);
    if (!area)
        return E_OUTOFMEMORY;
    HRESULT hr = E_INVALIDARG;
    if (xsave_expand(&layout, image, size, area)) {
        kvm_vcpu_stop(v);
        hr = store(v, area);
        kvm_vcpu_go(v);
    }
    free(area);
    return hr;
}
