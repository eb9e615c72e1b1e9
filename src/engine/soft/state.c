// All of a soft processor's state: its XSAVE image, and what neither that nor registers nor the APIC's page say.
#include "engine/common/private_state.h"
#include "engine/common/xsave.h"
#include "engine/soft/vcpu.h"

#define TAG 0x74666f73u                 // "soft"
#define VERSION 2u

// ---- XSAVE -------------------------------------------------------------------------------------------------------

static struct xsave_layout layout_of(const struct vcpu *v)
{
    struct xsave_layout layout;
    xsave_cpu_layout(&v->p.cpu, &layout);
    return layout;
}

UINT32 vcpu_xsave_size(struct vp *vp)
{
    struct xsave_layout layout = layout_of(vp->engine_data);
    return xsave_compacted_size(&layout);
}

HRESULT vcpu_get_xsave(struct vp *vp, void *image)
{
    struct vcpu *v = vp->engine_data;
    struct xsave_layout layout = layout_of(v);
    uint8_t standard[XSAVE_CPU_SIZE];
    vcpu_stop(v);
    xsave_from_cpu(&v->p.cpu, &layout, standard);
    vcpu_resume(v);
    xsave_compact(&layout, standard, image);
    return S_OK;
}

HRESULT vcpu_set_xsave(struct vp *vp, const void *image, UINT32 size)
{
    struct vcpu *v = vp->engine_data;
    struct xsave_layout layout = layout_of(v);
    uint8_t standard[XSAVE_CPU_SIZE];
    if (!xsave_expand(&layout, image, size, standard))
        return E_INVALIDARG;
    vcpu_stop(v);
    xsave_to_cpu(&v->p.cpu, &layout, standard);
    vcpu_resume(v);
    return S_OK;
}

// ---- The rest ----------------------------------------------------------------------------------------------------

// x87's pointers, which an image has in one of two forms, neither with all of it.
static void put_pointers(struct byte_writer *w, const struct x86_fpu *fpu)
{
    bytes_put(w, 8, fpu->fip);
    bytes_put(w, 8, fpu->fdp);
    bytes_put(w, 2, fpu->fcs);
    bytes_put(w, 2, fpu->fds);
}

static void put_latches(struct byte_writer *w, const struct lapic *l)
{
    struct lapic_latches latches = lapic_get_latches(l);
    bytes_put(w, 1, latches.nmi);
    bytes_put(w, 1, latches.init);
    bytes_put(w, 1, latches.sipi);
    bytes_put(w, 1, latches.sipi ? latches.sipi_vector : 0);
    bytes_put(w, 1, latches.errors);
}

static void put_traps(struct byte_writer *w, const struct vcpu_traps *traps)
{
    bytes_put(w, 1, traps->pending);
    for (unsigned n = 0; n < VCPU_TRAPS; n++)
        bytes_put(w, 8, traps->pending >> n & 1 ? traps->value[n] : 0);
}

static void get_traps(struct byte_reader *r, struct vcpu_traps *traps)
{
    traps->pending = (uint8_t)bytes_get_up_to(r, 1, (1u << VCPU_TRAPS) - 1);
    for (unsigned n = 0; n < VCPU_TRAPS; n++)
        traps->value[n] = bytes_get(r, 8);
}

HRESULT vcpu_get_private_state(struct vp *vp, uint8_t *buffer, size_t *size)
{
    struct vcpu *v = vp->engine_data;
    struct byte_writer w = { .bytes = buffer, .size = ENGINE_PRIVATE_STATE_MAX };
    vcpu_stop(v);
    private_state_put_head(&w, TAG, VERSION);
    private_state_put_events(&w, &v->p);
    private_state_put_derived(&w, &v->p);
    put_pointers(&w, &v->p.cpu.fpu);
    put_latches(&w, &v->lapic);
    bytes_put(&w, 1, v->eoi_exit);
    bytes_put(&w, 1, v->eoi_vector);
    put_traps(&w, &v->traps);
    bytes_put(&w, 1, atomic_load(&v->attention) & VCPU_CANCEL ? 1 : 0);
    vcpu_resume(v);
    *size = w.used;
    return w.failed ? E_UNEXPECTED : S_OK;
}

HRESULT vcpu_set_private_state(struct vp *vp, const uint8_t *buffer, size_t size)
{
    struct vcpu *v = vp->engine_data;
    struct byte_reader r = { .bytes = buffer, .size = size };
    struct private_events events;
    uint64_t pdpte[4];
    uint8_t derived, cpl;
    private_state_get_head(&r, TAG, VERSION);
    private_state_get_events(&r, &events);
    private_state_get_derived(&r, &v->p, &derived, &cpl, pdpte);
    struct x86_fpu pointers;
    pointers.fip = bytes_get(&r, 8);
    pointers.fdp = bytes_get(&r, 8);
    pointers.fcs = (uint16_t)bytes_get(&r, 2);
    pointers.fds = (uint16_t)bytes_get(&r, 2);
    struct lapic_latches latches;
    latches.nmi = bytes_get_up_to(&r, 1, 1);
    latches.init = bytes_get_up_to(&r, 1, 1);
    latches.sipi = bytes_get_up_to(&r, 1, 1);
    latches.sipi_vector = (uint8_t)bytes_get(&r, 1);
    latches.errors = (uint8_t)bytes_get(&r, 1);
    bool eoi_exit = bytes_get_up_to(&r, 1, 1);
    uint8_t eoi_vector = (uint8_t)bytes_get(&r, 1);
    struct vcpu_traps traps;
    get_traps(&r, &traps);
    bool cancel = bytes_get_up_to(&r, 1, 1);
    // Messages and EOIs are an APIC's.
    bool apic = latches.nmi || latches.init || latches.sipi || latches.errors || eoi_exit
             || traps.pending;
    if (r.failed || r.used != size || (apic && !v->soft->apic))
        return E_INVALIDARG;
    vcpu_stop(v);
    private_state_set_events(&v->p, &events);
    v->p.carried.valid = derived;
    v->p.carried.cpl = cpl;
    memcpy(v->p.carried.pdpte, pdpte, sizeof pdpte);
    v->p.settle = true;
    v->p.cpu.cpl = cpl;                 // an exit before the next run's settling tells it
    v->p.cpu.fpu.fip = pointers.fip;
    v->p.cpu.fpu.fdp = pointers.fdp;
    v->p.cpu.fpu.fcs = pointers.fcs;
    v->p.cpu.fpu.fds = pointers.fds;
    lapic_set_latches(&v->lapic, &latches);
    v->eoi_exit = eoi_exit;
    v->eoi_vector = eoi_vector;
    v->traps = traps;
    // A cancel that has come in meanwhile is not lost by one that was not there.
    if (cancel || atomic_load(&v->running))
        vcpu_kick(v, VCPU_INTERRUPT | (cancel ? VCPU_CANCEL : 0));
    vcpu_resume(v);
    return S_OK;
}
