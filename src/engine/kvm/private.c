// What a kvm processor holds besides registers by name, the APIC's page and the XSAVE image.
#include <string.h>

#include "engine/common/private_state.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/msr.h"
#include "engine/kvm/vcpu.h"

#define TAG 0x206d766bu                 // "kvm "
#define VERSION 1u
#define NMIS_MAX 2u                     // KVM keeps one beside the one that is being handled

// MSRs that have no name in the API and hold state of the guest's. A kernel or processor that lacks one has nothing to
// carry.
static const uint32_t msrs[] = {
    0x48,                               // IA32_SPEC_CTRL
    0xe1,                               // IA32_UMWAIT_CONTROL
    0x122,                              // IA32_TSX_CTRL
    0x17a, 0x17b,                       // machine check: status and control
    0x1a0,                              // IA32_MISC_ENABLE
    0xda0,                              // IA32_XSS
    0xc0010015,                         // HWCR
};
#define MSRS (sizeof msrs / sizeof *msrs)

struct private {
    struct private_events events;
    uint32_t mp_state;
    uint8_t nmis;
    uint32_t sipi_vector;
    bool cancel;
    bool has[MSRS];
    uint64_t value[MSRS];
};

// ---- The block ---------------------------------------------------------------------------------------------------

static void put(struct byte_writer *w, const struct kvm_vcpu *v, const struct private *own)
{
    private_state_put_head(w, TAG, VERSION);
    private_state_put_events(w, &v->p);
    bytes_put(w, 1, own->mp_state);
    bytes_put(w, 1, own->nmis);
    bytes_put(w, 1, own->sipi_vector);
    bytes_put(w, 1, own->cancel);
    for (unsigned n = 0; n < MSRS; n++) {
        bytes_put(w, 1, own->has[n]);
        bytes_put(w, 8, own->value[n]);
    }
}

static bool get(struct byte_reader *r, struct private *own)
{
    memset(own, 0, sizeof *own);
    private_state_get_head(r, TAG, VERSION);
    private_state_get_events(r, &own->events);
    own->mp_state = (uint32_t)bytes_get_up_to(r, 1, KVM_MP_STATE_HALTED);
    own->nmis = (uint8_t)bytes_get_up_to(r, 1, NMIS_MAX);
    own->sipi_vector = (uint32_t)bytes_get(r, 1);
    own->cancel = bytes_get_up_to(r, 1, 1);
    for (unsigned n = 0; n < MSRS; n++) {
        own->has[n] = bytes_get_up_to(r, 1, 1);
        own->value[n] = bytes_get(r, 8);
    }
    return !r->failed && r->used == r->size;
}

// ---- From KVM and back -------------------------------------------------------------------------------------------

static void read_msrs(struct kvm_vcpu *v, struct private *own)
{
    for (unsigned n = 0; n < MSRS; n++)
        own->has[n] = SUCCEEDED(kvm_msr_get(v->fd, msrs[n], &own->value[n]));
}

// Those that differ from what KVM has. What was written goes back when one is refused.
static HRESULT write_msrs(struct kvm_vcpu *v, const struct private *own)
{
    struct private before = { .mp_state = 0 };
    read_msrs(v, &before);
    for (unsigned n = 0; n < MSRS; n++) {
        if (!own->has[n] || (before.has[n] && before.value[n] == own->value[n]))
            continue;
        HRESULT hr = before.has[n] ? kvm_msr_set(v->fd, msrs[n], own->value[n]) : E_INVALIDARG;
        if (SUCCEEDED(hr))
            continue;
        while (n-- > 0)
            if (own->has[n] && before.value[n] != own->value[n] && FAILED(kvm_msr_set(v->fd, msrs[n], before.value[n])))
                return E_UNEXPECTED;
        return hr;
    }
    return S_OK;
}

static HRESULT read_events(struct kvm_vcpu *v, struct private *own)
{
    struct kvm_vcpu_events e;
    int answer = kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &e);
    if (answer < 0)
        return kvm_hresult(answer);
    own->nmis = e.nmi.pending > NMIS_MAX ? NMIS_MAX : e.nmi.pending;
    own->sipi_vector = e.sipi_vector & 0xff;
    return S_OK;
}

// What is to be delivered by the view is not in KVM: the other events stay as KVM has them, and are the view's to hand
// over with the next run.
static HRESULT write_events(struct kvm_vcpu *v, const struct private *own)
{
    struct kvm_vcpu_events e;
    int answer = kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &e);
    if (answer < 0)
        return kvm_hresult(answer);
    if (e.nmi.pending == own->nmis && (e.sipi_vector & 0xff) == own->sipi_vector)
        return S_OK;
    e.nmi.pending = own->nmis;
    e.sipi_vector = own->sipi_vector;
    e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR;
    return kvm_hresult(kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &e));
}

// Asking for the activity has KVM take what INIT and start-up messages have come, so that comes first.
static HRESULT read_state(struct kvm_vcpu *v, struct private *own)
{
    memset(own, 0, sizeof *own);
    HRESULT hr = kvm_half_drop(v);
    if (SUCCEEDED(hr))
        hr = kvm_state_fetch(v, KVM_GROUP_ACTIVITY);
    if (SUCCEEDED(hr))
        hr = read_events(v, own);
    if (FAILED(hr))
        return hr;
    own->mp_state = v->kvm->apic ? v->mp_state : KVM_MP_STATE_RUNNABLE;
    own->cancel = atomic_load(&v->attention) & KVM_ATTENTION_CANCEL;
    read_msrs(v, own);
    return S_OK;
}

static HRESULT write_state(struct kvm_vcpu *v, const struct private *own)
{
    struct private before;
    HRESULT hr = read_state(v, &before);
    if (SUCCEEDED(hr))
        hr = write_msrs(v, own);
    if (FAILED(hr))
        return hr;
    hr = write_events(v, own);
    if (FAILED(hr))
        return FAILED(write_msrs(v, &before)) ? E_UNEXPECTED : hr;
    private_state_set_events(&v->p, &own->events);
    v->pending_in_kvm = false;
    v->changed |= REGISTER_EVENTS;
    if (v->kvm->apic) {
        v->mp_state = own->mp_state;
        v->waits = own->mp_state == KVM_MP_STATE_UNINITIALIZED || own->mp_state == KVM_MP_STATE_INIT_RECEIVED;
        v->fresh |= KVM_GROUP_ACTIVITY;
        v->changed |= KVM_GROUP_ACTIVITY;
    }
    return S_OK;
}

// ---- The calls ---------------------------------------------------------------------------------------------------

HRESULT kvm_get_private_state(struct vp *vp, uint8_t *buffer, size_t *size)
{
    struct kvm_vcpu *v = vp->engine_data;
    struct byte_writer w = { .bytes = buffer, .size = ENGINE_PRIVATE_STATE_MAX };
    struct private own;
    kvm_vcpu_stop(v);
    HRESULT hr = read_state(v, &own);
    if (SUCCEEDED(hr)) {
        // A software interrupt that KVM has begun to deliver has RIP on its instruction still, which makes it anew.
        bool again = v->pending_in_kvm && v->p.pending_valid && v->p.pending.software;
        if (again)
            v->p.pending_valid = false;
        put(&w, v, &own);
        if (again)
            v->p.pending_valid = true;
    }
    kvm_vcpu_go(v);
    *size = w.used;
    return SUCCEEDED(hr) && w.failed ? E_UNEXPECTED : hr;
}

HRESULT kvm_set_private_state(struct vp *vp, const uint8_t *buffer, size_t size)
{
    struct kvm_vcpu *v = vp->engine_data;
    struct byte_reader r = { .bytes = buffer, .size = size };
    struct private own;
    if (!get(&r, &own) || (!v->kvm->apic && (own.mp_state != KVM_MP_STATE_RUNNABLE || own.nmis)))
        return E_INVALIDARG;
    kvm_vcpu_stop(v);
    HRESULT hr = write_state(v, &own);
    if (SUCCEEDED(hr) && own.cancel)
        kvm_vcpu_cancel(vp);
    kvm_vcpu_go(v);
    return hr;
}
