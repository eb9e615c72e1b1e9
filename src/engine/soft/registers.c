// The registers that are the soft engine's own: time, the local APIC, and what a processor waits for.
#include "engine/common/registers.h"

#include "engine/soft/vcpu.h"
#include "x86/system.h"

#define APIC_FIRST 0x3000u     // the name of the register at offset 0; the others follow as in x2APIC
#define HV_INVALID_PARAMETER ((HRESULT)ERROR_HV_INVALID_PARAMETER)

static struct vcpu *vcpu_of(struct processor *p) { return (struct vcpu *)p; }

// ---- Time --------------------------------------------------------------------------------------------------------

static void get_tsc(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = vcpu_guest_tsc(vcpu_of(p));
}

// WRMSR to one of the two changes the other (SDM vol. 3B 18.17.3). Here each is set by itself, or a counter that came
// from elsewhere could not be had together with its adjustment.
static void set_tsc(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct vcpu *v = vcpu_of(p);
    uint64_t adjust = v->tsc_adjust;
    vcpu_set_tsc(v, value->Reg64);
    v->tsc_adjust = adjust;
}

static void get_tsc_offset(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = vcpu_of(p)->tsc_offset;
}

static void get_tsc_adjust(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = vcpu_of(p)->tsc_adjust;
}

static void set_tsc_adjust(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    vcpu_of(p)->tsc_adjust = value->Reg64;
}

// ---- Local APIC --------------------------------------------------------------------------------------------------

static void get_cr8(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = lapic_get_cr8(&vcpu_of(p)->lapic);
}

static bool valid_cr8(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p, (void)n;
    return value->Reg64 <= 15;
}

static void set_cr8(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    lapic_set_cr8(&vcpu_of(p)->lapic, value->Reg64);
}

static void get_apic_base(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = vcpu_of(p)->lapic.base;
}

static bool valid_apic_base(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct vcpu *v = vcpu_of(p);
    struct lapic copy;
    lapic_init(&copy, &v->lapic.config);
    return lapic_set_base(&copy, value->Reg64);
}

static void set_apic_base(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct vcpu *v = vcpu_of(p);
    (void)lapic_set_base(&v->lapic, value->Reg64);      // was checked
    x86_flush_tlb(&v->p.cpu, true);
}

static void get_apic_id(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = vcpu_of(p)->lapic.config.id;
}

static bool valid_apic_id(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    return value->Reg64 == vcpu_of(p)->lapic.config.id;
}

static void set_nothing(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p, (void)n, (void)value;
}

static void get_apic(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    struct vcpu *v = vcpu_of(p);
    uint64_t bits = 0;
    if (!lapic_get_register(&v->lapic, n << 4, &bits, vcpu_time(v)))
        bits = 0;       // write-only registers read as 0
    value->Reg64 = bits;
}

static bool valid_apic(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    struct vcpu *v = vcpu_of(p);
    return lapic_register_valid(&v->lapic, n << 4, value->Reg64, vcpu_time(v));
}

static void set_apic(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    struct vcpu *v = vcpu_of(p);
    (void)lapic_set_register(&v->lapic, n << 4, value->Reg64, vcpu_time(v));    // was checked
}

static void get_tsc_deadline(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = vcpu_of(p)->lapic.timer.tsc_deadline;
}

static void set_tsc_deadline(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct vcpu *v = vcpu_of(p);
    lapic_set_tsc_deadline(&v->lapic, value->Reg64, vcpu_time(v));
}

// The APIC's registers exist with an APIC mode alone, and the task priority is refused by name even then (CR8 is the
// way to it).
static HRESULT has_apic(struct processor *p, unsigned n)
{
    struct vcpu *v = vcpu_of(p);
    uint32_t name = APIC_FIRST + n;
    uint64_t ignored;
    if (!v->soft->apic || name == WHvX64RegisterApicTpr)
        return HV_INVALID_PARAMETER;
    if (name != WHvX64RegisterApicEoi && name != WHvX64RegisterApicSelfIpi
        && !lapic_get_register(&v->lapic, n << 4, &ignored, vcpu_time(v)))
        return WHV_E_INVALID_VP_REGISTER_NAME;
    return S_OK;
}

// ---- Activity ----------------------------------------------------------------------------------------------------

static void get_activity(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct vcpu *v = vcpu_of(p);
    value->Reg64 = 0;
    value->InternalActivity.StartupSuspend = v->wait_for_sipi;
    value->InternalActivity.HaltSuspend = v->halted;
}

static void set_activity(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct vcpu *v = vcpu_of(p);
    // Without an APIC mode a halt exits and nothing is suspended.
    v->wait_for_sipi = v->soft->apic && value->InternalActivity.StartupSuspend;
    v->halted = v->soft->apic && value->InternalActivity.HaltSuspend;
}

// ---- The table ---------------------------------------------------------------------------------------------------

static const struct register_row soft_rows[] = {
    { WHvX64RegisterCr8, 1, REGISTER_OWN, get_cr8, set_cr8, valid_cr8, NULL },
    { WHvX64RegisterTsc, 1, REGISTER_OWN, get_tsc, set_tsc, NULL, NULL },
    { WHvX64RegisterApicBase, 1, REGISTER_OWN, get_apic_base, set_apic_base, valid_apic_base, NULL },
    { WHvX64RegisterInitialApicId, 1, REGISTER_OWN, get_apic_id, set_nothing, valid_apic_id, NULL },
    { WHvX64RegisterTscVirtualOffset, 1, REGISTER_OWN, get_tsc_offset, NULL, NULL, NULL },
    { WHvX64RegisterTscDeadline, 1, REGISTER_OWN, get_tsc_deadline, set_tsc_deadline, NULL, NULL },
    { WHvX64RegisterTscAdjust, 1, REGISTER_OWN, get_tsc_adjust, set_tsc_adjust, NULL, NULL },
    { APIC_FIRST, 0x40, REGISTER_OWN, get_apic, set_apic, valid_apic, has_apic },
    { (uint32_t)WHvRegisterInternalActivityState, 1, REGISTER_OWN, get_activity, set_activity, NULL, NULL },
};
static const struct register_table own = { soft_rows, sizeof soft_rows / sizeof soft_rows[0] };

HRESULT vcpu_get_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values)
{
    struct vcpu *v = vp->engine_data;
    vcpu_stop(v);
    HRESULT result = registers_get(&v->p, &own, names, count, values);
    vcpu_resume(v);
    return result;
}

HRESULT vcpu_set_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count, const WHV_REGISTER_VALUE *values)
{
    struct vcpu *v = vp->engine_data;
    vcpu_stop(v);
    HRESULT result = S_OK;
    if (!registers_set_general(&v->p, names, count, values))
        result = registers_set(&v->p, &own, names, count, values);
    if (atomic_load(&v->running))
        vcpu_kick(v, VCPU_INTERRUPT);       // it may sleep, and now have something to do
    vcpu_resume(v);
    return result;
}
