// Registers by name that are this engine's own, and the calls that get and set registers.
#include <string.h>

#include "engine/kvm/host.h"
#include "engine/kvm/vcpu.h"
#include "x86/system.h"

#define HV_INVALID_PARAMETER ((HRESULT)ERROR_HV_INVALID_PARAMETER)

#define APIC_BASE_ENABLE 0x800ull
#define APIC_BASE_X2APIC 0x400ull
#define APIC_BASE_BSP 0x100ull

// ---- CR8, APIC base, processor number ----------------------------------------------------------------------------

static struct kvm_sregs *system_of(struct processor *p) { return &kvm_vcpu_of(p)->run->s.regs.sregs; }

static void get_cr8(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = system_of(p)->cr8;
}

static bool valid_cr8(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p, (void)n;
    return value->Reg64 <= 15;
}

static void set_cr8(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    system_of(p)->cr8 = value->Reg64;
}

static void get_apic_base(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = system_of(p)->apic_base;
}

// SDM vol. 3A 11.4.4 and 11.12.1: x2APIC is a mode of an APIC that is on.
static bool valid_apic_base(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    const struct property_values *properties = &p->vp->partition->properties;
    uint64_t address = ((1ull << properties->physical_address_width) - 1) & ~0xfffull;
    uint64_t bits = address | APIC_BASE_ENABLE | APIC_BASE_BSP;
    if (properties->apic_mode == WHvX64LocalApicEmulationModeX2Apic)
        bits |= APIC_BASE_X2APIC;
    if (value->Reg64 & ~bits)
        return false;
    return !(value->Reg64 & APIC_BASE_X2APIC) || (value->Reg64 & APIC_BASE_ENABLE);
}

static void set_apic_base(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    system_of(p)->apic_base = value->Reg64;
}

static void get_apic_id(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = p->vp->index;
}

static bool valid_apic_id(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    return value->Reg64 == p->vp->index;
}

static void set_nothing(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p, (void)n, (void)value;
}

// ---- Time-stamp counter ------------------------------------------------------------------------------------------

static struct kvm_tsc_registers *tsc_of(struct processor *p) { return &kvm_vcpu_of(p)->tsc; }

static void get_tsc(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = tsc_of(p)->tsc;
}

static void set_tsc(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    tsc_of(p)->tsc = value->Reg64;
    tsc_of(p)->set |= KVM_TSC_SET;
}

static void get_tsc_offset(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = tsc_of(p)->offset;
}

static void get_tsc_deadline(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = kvm_vcpu_of(p)->kvm->apic ? tsc_of(p)->deadline : 0;
}

static void set_tsc_deadline(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    if (!kvm_vcpu_of(p)->kvm->apic)     // without an APIC there is no timer for it
        return;
    tsc_of(p)->deadline = value->Reg64;
    tsc_of(p)->set |= KVM_TSC_SET_DEADLINE;
}

static void get_tsc_adjust(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = tsc_of(p)->adjust;
}

static void set_tsc_adjust(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    tsc_of(p)->adjust = value->Reg64;
    tsc_of(p)->set |= KVM_TSC_SET_ADJUST;
}

// ---- Local APIC --------------------------------------------------------------------------------------------------

static HRESULT has_apic(struct processor *p, unsigned n)
{
    const struct kvm_vcpu *v = kvm_vcpu_of(p);
    uint64_t ignored;
    if (!v->kvm->apic || 0x3000 + n == WHvX64RegisterApicTpr)
        return HV_INVALID_PARAMETER;
    if (0x3000 + n == WHvX64RegisterApicEoi || 0x3000 + n == WHvX64RegisterApicSelfIpi)
        return S_OK;
    return kvm_apic_page_get(v->apic_page, n, &ignored) ? S_OK : WHV_E_INVALID_VP_REGISTER_NAME;
}

static void get_apic(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    uint64_t bits = 0;
    if (!kvm_apic_page_get(kvm_vcpu_of(p)->apic_page, n, &bits))
        bits = 0;       // write-only registers read as 0
    value->Reg64 = bits;
}

static bool valid_apic(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    return kvm_apic_page_valid(kvm_vcpu_of(p)->apic_page, system_of(p)->apic_base, n, value->Reg64);
}

static void set_apic(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)kvm_apic_page_set(kvm_vcpu_of(p)->apic_page, system_of(p)->apic_base, n, value->Reg64);   // was checked
}

// ---- Activity ----------------------------------------------------------------------------------------------------

static void get_activity(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    const struct kvm_vcpu *v = kvm_vcpu_of(p);
    value->Reg64 = 0;
    if (!v->kvm->apic)      // a halt exits, and nothing is suspended
        return;
    value->InternalActivity.StartupSuspend = v->mp_state == KVM_MP_STATE_UNINITIALIZED
                                          || v->mp_state == KVM_MP_STATE_INIT_RECEIVED;
    value->InternalActivity.HaltSuspend = v->mp_state == KVM_MP_STATE_HALTED;
}

static void set_activity(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct kvm_vcpu *v = kvm_vcpu_of(p);
    if (!v->kvm->apic)
        return;
    v->waits |= value->InternalActivity.StartupSuspend;
    v->mp_state = value->InternalActivity.StartupSuspend ? KVM_MP_STATE_UNINITIALIZED
                : value->InternalActivity.HaltSuspend ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE;
}

// ---- The table ---------------------------------------------------------------------------------------------------

// Sorted by name.
static const struct register_row rows[] = {
    { WHvX64RegisterCr8, 1, REGISTER_SYSTEM, get_cr8, set_cr8, valid_cr8, NULL },
    { WHvX64RegisterTsc, 1, KVM_GROUP_TSC, get_tsc, set_tsc, NULL, NULL },
    { WHvX64RegisterApicBase, 1, REGISTER_SYSTEM, get_apic_base, set_apic_base, valid_apic_base, NULL },
    { WHvX64RegisterInitialApicId, 1, 0, get_apic_id, set_nothing, valid_apic_id, NULL },
    { WHvX64RegisterTscVirtualOffset, 1, KVM_GROUP_TSC, get_tsc_offset, NULL, NULL, NULL },
    { WHvX64RegisterTscDeadline, 1, KVM_GROUP_TSC, get_tsc_deadline, set_tsc_deadline, NULL, NULL },
    { WHvX64RegisterTscAdjust, 1, KVM_GROUP_TSC, get_tsc_adjust, set_tsc_adjust, NULL, NULL },
    { 0x3000, 0x40, KVM_GROUP_APIC, get_apic, set_apic, valid_apic, has_apic },
    { (uint32_t)WHvRegisterInternalActivityState, 1, KVM_GROUP_ACTIVITY, get_activity, set_activity, NULL, NULL },
};
static const struct register_table own = { rows, sizeof rows / sizeof rows[0] };

// ---- The calls ---------------------------------------------------------------------------------------------------

HRESULT kvm_get_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values)
{
    struct kvm_vcpu *v = vp->engine_data;
    uint32_t groups;
    kvm_vcpu_stop(v);
    HRESULT hr = registers_groups(&v->p, &own, names, count, &groups);
    if (SUCCEEDED(hr))
        hr = kvm_state_fetch(v, groups);
    if (SUCCEEDED(hr))
        hr = registers_get(&v->p, &own, names, count, values);
    kvm_vcpu_go(v);
    return hr;
}

// Some groups KVM may still refuse, or fail to take: they are handed over at once, and the view goes back to
// what it was when that fails. XCR0 is not one of them: a bad value is the next run's to report.
#define STORED_AT_ONCE (REGISTER_MSR | KVM_GROUP_APIC | KVM_GROUP_TSC | KVM_GROUP_ACTIVITY)

struct snapshot {
    uint8_t cpu[offsetof(struct x86_cpu, scratch)];
    uint8_t events[sizeof(struct processor) - offsetof(struct processor, settle)];
    struct kvm_sync_regs synced;
    uint32_t fresh, changed, mp_state;
    struct kvm_tsc_registers tsc;       // `set`: what the call sets of it
    uint64_t tsc_ahead;
    struct kvm_timer timer;
};

static void take(struct snapshot *s, const struct kvm_vcpu *v)
{
    memcpy(s->cpu, &v->p.cpu, sizeof s->cpu);
    memcpy(s->events, (const uint8_t *)&v->p + offsetof(struct processor, settle), sizeof s->events);
    s->synced = v->run->s.regs;
    s->fresh = v->fresh;
    s->changed = v->changed;
    s->mp_state = v->mp_state;
    s->tsc = v->tsc;
    s->tsc_ahead = v->tsc_ahead;
    s->timer = v->timer;
}

// The counter goes back by its offset, so that no time is lost.
static void give_back_tsc(const struct kvm_tsc_registers *before, struct kvm_vcpu *v)
{
    uint32_t changed = v->changed;
    HRESULT ignored = before->set & KVM_TSC_SET ? kvm_time_set_offset(v, before->offset) : S_OK;
    v->tsc = *before;
    v->tsc.set &= ~(unsigned)KVM_TSC_SET;
    v->changed = KVM_GROUP_TSC;
    ignored = kvm_state_store(v);
    (void)ignored;          // the call has failed anyway
    v->changed = changed;
    v->tsc.set = 0;
}

// `stored`: groups that KVM has taken already. It gets those back that it had, the APIC's now and others with
// the next run.
static void give_back(const struct snapshot *s, struct kvm_vcpu *v, uint32_t stored)
{
    memcpy(&v->p.cpu, s->cpu, sizeof s->cpu);
    memcpy((uint8_t *)&v->p + offsetof(struct processor, settle), s->events, sizeof s->events);
    v->run->s.regs = s->synced;
    v->fresh = s->fresh;
    v->changed = s->changed | (stored & (REGISTER_MSR | KVM_GROUP_ACTIVITY));
    v->mp_state = s->mp_state;
    if (stored & KVM_GROUP_APIC) {
        HRESULT ignored = kvm_time_set_page(v, v->apic_before, v->apic_page);
        (void)ignored;      // the call has failed anyway
    }
    if (s->tsc.set)
        give_back_tsc(&s->tsc, v);
    v->tsc_ahead = s->tsc_ahead;
    v->timer = s->timer;
}

static HRESULT set_view(struct kvm_vcpu *v, uint32_t groups, const WHV_REGISTER_NAME *names, UINT32 count,
                        const WHV_REGISTER_VALUE *values)
{
    HRESULT hr = registers_set(&v->p, &own, names, count, values);
    if (FAILED(hr))
        return hr;
    v->changed |= groups;
    if (v->pending_in_kvm && (groups & REGISTER_EVENTS))
        v->pending_in_kvm = v->p.pending_valid && !memcmp(&v->p.pending, &v->pending_of_kvm, sizeof v->p.pending);
    return S_OK;
}

// A KVM that cannot offset the counter takes a value for it and goes on with the host's.
static HRESULT check_tsc(struct kvm_vcpu *v, uint64_t set)
{
    HRESULT hr = kvm_state_fetch(v, KVM_GROUP_TSC);
    uint64_t second = (uint64_t)kvm_host()->tsc_khz * 1000;
    return SUCCEEDED(hr) && v->tsc.tsc - set > second ? E_NOTIMPL : hr;
}

// With groups among them that KVM has to take at once.
static HRESULT set_through(struct kvm_vcpu *v, uint32_t groups, const WHV_REGISTER_NAME *names, UINT32 count,
                           const WHV_REGISTER_VALUE *values)
{
    struct snapshot before;
    take(&before, v);
    HRESULT hr = set_view(v, groups, names, count, values);
    if (FAILED(hr))
        return hr;
    uint32_t later = v->changed & ~(uint32_t)STORED_AT_ONCE;
    before.tsc.set = v->tsc.set;
    bool clock = v->tsc.set & KVM_TSC_SET;
    uint64_t tsc = v->tsc.tsc;
    v->changed &= STORED_AT_ONCE;
    uint32_t stored = v->changed;
    hr = kvm_state_store(v);
    if (FAILED(hr))
        stored &= ~v->changed;
    else if (clock)
        hr = check_tsc(v, tsc);
    if (FAILED(hr)) {
        give_back(&before, v, stored);
        return hr == E_INVALIDARG ? HV_INVALID_PARAMETER : hr;
    }
    v->changed |= later;
    return S_OK;
}

// Any registers.
static __attribute__((noinline)) HRESULT set_any(struct kvm_vcpu *v, const WHV_REGISTER_NAME *names, UINT32 count,
                                                 const WHV_REGISTER_VALUE *values)
{
    uint32_t groups;
    HRESULT hr = registers_groups(&v->p, &own, names, count, &groups);
    if (SUCCEEDED(hr))
        hr = kvm_state_fetch(v, groups);
    // A processor that is made to wait for its start completes nothing before that.
    if (SUCCEEDED(hr) && (groups & KVM_GROUP_ACTIVITY))
        hr = kvm_half_drop(v);
    if (SUCCEEDED(hr))
        hr = (groups & STORED_AT_ONCE ? set_through : set_view)(v, groups, names, count, values);
    return hr;
}

__attribute__((hot, flatten)) HRESULT kvm_set_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count,
                                                        const WHV_REGISTER_VALUE *values)
{
    struct kvm_vcpu *v = vp->engine_data;
    HRESULT hr = S_OK;
    kvm_vcpu_stop(v);
    if (X86_LIKELY(registers_set_general(&v->p, names, count, values)))
        v->changed |= REGISTER_GENERAL;
    else
        hr = set_any(v, names, count, values);
    kvm_vcpu_go(v);
    return hr;
}
