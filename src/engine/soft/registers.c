// Registers by name: one table, a row for each run of like registers.
//
// A set call checks every name and value first and writes only then. Values that make no lawful processor together are
// accepted here and refused by the next run (InvalidVpRegisterValue), as WHP does.
#include <string.h>

#include "engine/soft/vcpu.h"
#include "x86/decode.h"
#include "x86/fpu.h"
#include "x86/system.h"

#define HV_INVALID_PARAMETER ((HRESULT)ERROR_HV_INVALID_PARAMETER)

struct row {
    uint32_t first, count;
    void (*get)(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value);
    void (*set)(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value);       // NULL: read only
    bool (*valid)(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value);     // NULL: any value
};

// ---- General, segments, tables, control --------------------------------------------------------------------------

static void get_gpr(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { value->Reg64 = v->cpu.slot[n]; }
static void set_gpr(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value) { v->cpu.slot[n] = value->Reg64; }

static void get_rip(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { (void)n; value->Reg64 = v->cpu.rip; }

static void set_rip(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    v->cpu.rip = value->Reg64;
}

static void get_rflags(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = x86_get_rflags(&v->cpu);
}

static void set_rflags(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    x86_set_rflags(&v->cpu, value->Reg64);
    v->settle = true;
}

static void get_segment(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    value->Segment = vcpu_segment(&v->cpu, n);
}

static void set_segment(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    v->cpu.slot[X86_SLOT_SEGMENT + n] = value->Segment.Base;
    v->cpu.segment[n] = (struct x86_segment){ .limit = value->Segment.Limit, .selector = value->Segment.Selector,
                                              .attributes = value->Segment.Attributes };
    v->settle = true;
}

static unsigned system_segment(unsigned n) { return n == 0 ? X86_LDTR : X86_TR; }
static void get_system(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { get_segment(v, system_segment(n), value); }

static void set_system(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    set_segment(v, system_segment(n), value);
}

static struct x86_table *table_of(struct vcpu *v, unsigned n) { return n == 0 ? &v->cpu.idtr : &v->cpu.gdtr; }

static void get_table(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    value->Table.Base = table_of(v, n)->base;
    value->Table.Limit = table_of(v, n)->limit;
}

static void set_table(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    *table_of(v, n) = (struct x86_table){ .base = value->Table.Base, .limit = value->Table.Limit };
}

static uint64_t *control_of(struct vcpu *v, unsigned n)
{
    uint64_t *const where[] = { &v->cpu.cr0, &v->cpu.cr2, &v->cpu.cr3, &v->cpu.cr4 };
    return where[n];
}

static void get_control(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { value->Reg64 = *control_of(v, n); }

static void set_control(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    *control_of(v, n) = value->Reg64;
    v->settle = true;
}

static void get_cr8(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = lapic_get_cr8(&v->lapic);
}

static bool valid_cr8(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)v, (void)n;
    return value->Reg64 <= 15;
}

static void set_cr8(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    lapic_set_cr8(&v->lapic, value->Reg64);
}

static uint64_t *debug_of(struct vcpu *v, unsigned n) { return n < 4 ? &v->cpu.dr[n] : n == 4 ? &v->cpu.dr6 : &v->cpu.dr7; }
static void get_debug(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { value->Reg64 = *debug_of(v, n); }

static bool valid_debug(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)v;
    return n < 4 || value->Reg64 <= UINT32_MAX;
}

static void set_debug(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    uint64_t bits = value->Reg64;
    if (n == 4)         // bits that are always 1 and always 0 (SDM vol. 3B 18.2)
        bits = (bits & 0xe00f) | 0xffff0ff0;
    else if (n == 5)
        bits = (bits & 0xffff2bff) | 0x400;
    *debug_of(v, n) = bits;
    v->settle = true;
}

static void get_xcr0(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { (void)n; value->Reg64 = v->cpu.xcr0; }

static void set_xcr0(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    v->cpu.xcr0 = value->Reg64;
    v->settle = true;
}

// ---- Vectors and x87 ---------------------------------------------------------------------------------------------

static void get_xmm(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { memcpy(value, &v->cpu.vec[n], 16); }
static void set_xmm(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value) { memcpy(&v->cpu.vec[n], value, 16); }

// By stack position, as in the FXSAVE image.
static long double *st_of(struct vcpu *v, unsigned n) { return &v->cpu.fpu.st[(x87_top(&v->cpu.fpu) + n) & 7]; }

static void get_fp(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    memset(value, 0, sizeof *value);
    memcpy(value, st_of(v, n), 10);
}

static void set_fp(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value) { memcpy(st_of(v, n), value, 10); }

static void get_fp_control(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct x86_fx_image image;
    x86_fpu_to_image(&v->cpu, &image, v->cpu.efer & X86_EFER_LMA);
    memcpy(value, &image, 16);
}

static void set_fp_control(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    // The FXSAVE image holds the registers in stack order: they keep their places in it when TOP changes.
    struct x86_fx_image image;
    bool wide = v->cpu.efer & X86_EFER_LMA;
    x86_fpu_to_image(&v->cpu, &image, wide);
    memcpy(&image, value, 16);
    (void)x86_fpu_from_image(&v->cpu, &image, wide, 16);    // MXCSR is the one it had, so it cannot be refused
}

static void get_xmm_control(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct x86_fx_image image;
    x86_fpu_to_image(&v->cpu, &image, v->cpu.efer & X86_EFER_LMA);
    memcpy(value, &image.fdp, 16);
}

static bool valid_xmm_control(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)v, (void)n;
    return !(value->XmmControlStatus.XmmStatusControl & ~X86_MXCSR_VALID);
}

static void set_xmm_control(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct x86_fx_image image;
    bool wide = v->cpu.efer & X86_EFER_LMA;
    x86_fpu_to_image(&v->cpu, &image, wide);
    memcpy(&image.fdp, value, 12);
    (void)x86_fpu_from_image(&v->cpu, &image, wide, 16);    // MXCSR was checked
}

// ---- MSRs --------------------------------------------------------------------------------------------------------

// Those that are a plain 64-bit member of the processor.
static const struct { uint32_t name; size_t offset; bool settle; bool address; } plain_msrs[] = {
    { WHvX64RegisterEfer, offsetof(struct x86_cpu, efer), true, false },
    { WHvX64RegisterKernelGsBase, offsetof(struct x86_cpu, kernel_gs_base), false, true },
    { WHvX64RegisterSysenterCs, offsetof(struct x86_cpu, sysenter_cs), false, false },
    { WHvX64RegisterSysenterEip, offsetof(struct x86_cpu, sysenter_eip), false, true },
    { WHvX64RegisterSysenterEsp, offsetof(struct x86_cpu, sysenter_esp), false, true },
    { WHvX64RegisterStar, offsetof(struct x86_cpu, star), false, false },
    { WHvX64RegisterLstar, offsetof(struct x86_cpu, lstar), false, true },
    { WHvX64RegisterCstar, offsetof(struct x86_cpu, cstar), false, true },
    { WHvX64RegisterSfmask, offsetof(struct x86_cpu, sfmask), false, false },
    { WHvX64RegisterTscAux, offsetof(struct x86_cpu, tsc_aux), false, false },
};

static uint64_t *plain_of(struct vcpu *v, unsigned index) { return (uint64_t *)((char *)&v->cpu + plain_msrs[index].offset); }

// Row functions get the position in their run; runs of plain MSRs are one long, and `get_plain_N` names the member.
#define PLAIN(index)                                                                                                  \
    static void get_plain_##index(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)                              \
    {                                                                                                                 \
        (void)n;                                                                                                      \
        value->Reg64 = *plain_of(v, index);                                                                           \
    }                                                                                                                 \
    static void set_plain_##index(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)                        \
    {                                                                                                                 \
        (void)n;                                                                                                      \
        *plain_of(v, index) = value->Reg64;                                                                           \
        v->settle |= plain_msrs[index].settle;                                                                        \
    }                                                                                                                 \
    static bool valid_plain_##index(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)                      \
    {                                                                                                                 \
        (void)v, (void)n;                                                                                             \
        return !plain_msrs[index].address || x86_canonical(value->Reg64);                                             \
    }
PLAIN(0) PLAIN(1) PLAIN(2) PLAIN(3) PLAIN(4) PLAIN(5) PLAIN(6) PLAIN(7) PLAIN(8) PLAIN(9)
#define PLAIN_ROW(index, name) { name, 1, get_plain_##index, set_plain_##index, valid_plain_##index }

static void get_pat(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { (void)n; value->Reg64 = v->cpu.pat; }

static bool valid_pat(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)v, (void)n;
    for (unsigned shift = 0; shift < 64; shift += 8) {      // SDM vol. 3A 12.12.2
        unsigned type = value->Reg64 >> shift & 0xff;
        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    return true;
}

static void set_pat(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value) { (void)n; v->cpu.pat = value->Reg64; }

static void get_tsc(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { (void)n; value->Reg64 = vcpu_guest_tsc(v); }
static void set_tsc(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value) { (void)n; vcpu_set_tsc(v, value->Reg64); }
static void get_tsc_offset(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { (void)n; value->Reg64 = v->tsc_offset; }
static void get_tsc_adjust(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { (void)n; value->Reg64 = v->tsc_adjust; }

static void set_tsc_adjust(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    v->tsc_offset += value->Reg64 - v->tsc_adjust;
    v->tsc_adjust = value->Reg64;
    lapic_tsc_changed(&v->lapic, vcpu_time(v));
}

// MTRRs go the way of the guest's RDMSR and WRMSR (SDM vol. 3A 12.11).
static uint32_t mtrr_msr(uint32_t name)
{
    static const uint32_t fixed[] = { 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f };
    if (name == WHvX64RegisterMsrMtrrCap)
        return 0xfe;
    if (name == WHvX64RegisterMsrMtrrDefType)
        return 0x2ff;
    if (name >= WHvX64RegisterMsrMtrrFix64k00000)
        return fixed[name - WHvX64RegisterMsrMtrrFix64k00000];
    if (name >= WHvX64RegisterMsrMtrrPhysMask0)
        return 0x201 + (name - WHvX64RegisterMsrMtrrPhysMask0) * 2;
    return 0x200 + (name - WHvX64RegisterMsrMtrrPhysBase0) * 2;
}

static void get_mtrr(struct vcpu *v, uint32_t name, WHV_REGISTER_VALUE *value)
{
    uint64_t bits = 0;
    if (x86_read_msr(&v->cpu, mtrr_msr(name), &bits) != X86_DONE)
        bits = 0;       // a variable range beyond those that the processor has
    value->Reg64 = bits;
}

static bool valid_mtrr(struct vcpu *v, uint32_t name, const WHV_REGISTER_VALUE *value)
{
    uint64_t before = 0;
    if (x86_read_msr(&v->cpu, mtrr_msr(name), &before) != X86_DONE)
        return value->Reg64 == 0;
    if (name == WHvX64RegisterMsrMtrrCap)
        return value->Reg64 == before;
    bool accepted = x86_write_msr(&v->cpu, mtrr_msr(name), value->Reg64) == X86_DONE;
    if (accepted && x86_write_msr(&v->cpu, mtrr_msr(name), before) != X86_DONE)
        return false;
    return accepted;
}

static void set_mtrr(struct vcpu *v, uint32_t name, const WHV_REGISTER_VALUE *value)
{
    if (name != WHvX64RegisterMsrMtrrCap)
        (void)x86_write_msr(&v->cpu, mtrr_msr(name), value->Reg64);     // accepted by valid_mtrr, or absent and 0
}

#define MTRR_RUN(what, first_name)                                                                                    \
    static void get_##what(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { get_mtrr(v, first_name + n, value); } \
    static void set_##what(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)                               \
    {                                                                                                                 \
        set_mtrr(v, first_name + n, value);                                                                           \
    }                                                                                                                 \
    static bool valid_##what(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)                             \
    {                                                                                                                 \
        return valid_mtrr(v, first_name + n, value);                                                                  \
    }
MTRR_RUN(mtrr_cap, WHvX64RegisterMsrMtrrCap)
MTRR_RUN(mtrr_base, WHvX64RegisterMsrMtrrPhysBase0)
MTRR_RUN(mtrr_mask, WHvX64RegisterMsrMtrrPhysMask0)
MTRR_RUN(mtrr_fixed, WHvX64RegisterMsrMtrrFix64k00000)

// ---- Local APIC --------------------------------------------------------------------------------------------------

static void get_apic_base(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { (void)n; value->Reg64 = v->lapic.base; }

static bool valid_apic_base(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct lapic copy;
    lapic_init(&copy, &v->lapic.config);
    return lapic_set_base(&copy, value->Reg64);
}

static void set_apic_base(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    (void)lapic_set_base(&v->lapic, value->Reg64);      // was checked
    x86_flush_tlb(&v->cpu, true);
}

static void get_apic_id(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value) { (void)n; value->Reg64 = v->lapic.config.id; }

static bool valid_apic_id(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    return value->Reg64 == v->lapic.config.id;
}

static void set_nothing(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value) { (void)v, (void)n, (void)value; }

static void get_apic(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    uint64_t bits = 0;
    if (!lapic_get_register(&v->lapic, n << 4, &bits, vcpu_time(v)))
        bits = 0;       // write-only registers read as 0
    value->Reg64 = bits;
}

static bool valid_apic(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    return lapic_register_valid(&v->lapic, n << 4, value->Reg64, vcpu_time(v));
}

static void set_apic(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)lapic_set_register(&v->lapic, n << 4, value->Reg64, vcpu_time(v));    // was checked
}

static void get_tsc_deadline(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = v->lapic.timer.tsc_deadline;
}

static void set_tsc_deadline(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    lapic_set_tsc_deadline(&v->lapic, value->Reg64, vcpu_time(v));
}

// ---- Events ------------------------------------------------------------------------------------------------------

// The exception of an instruction that is `length` bytes long: INT3, INTO and INT1 return behind it (SDM vol. 3A 6.5).
// A client that copies the length of a fault's instruction is not misunderstood.
static void make_software(struct x86_exception *event, unsigned length)
{
    event->privileged = event->vector == X86_DB;
    event->software = length && (event->vector == X86_BP || event->vector == X86_OFV || event->vector == X86_DB);
    event->length = (uint8_t)length;
}

static void get_pending_interruption(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = 0;
    if (!v->pending_valid)
        return;
    value->PendingInterruption.InterruptionPending = 1;
    value->PendingInterruption.InterruptionType = !v->pending_external ? WHvX64PendingException
        : v->pending.vector == X86_NMI ? WHvX64PendingNmi : WHvX64PendingInterrupt;
    value->PendingInterruption.DeliverErrorCode = v->pending.has_error;
    value->PendingInterruption.ErrorCode = v->pending.error;
    value->PendingInterruption.InterruptionVector = v->pending.vector;
    value->PendingInterruption.InstructionLength = v->pending.length & 15;
}

static bool valid_pending_interruption(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)v, (void)n;
    const WHV_X64_PENDING_INTERRUPTION_REGISTER *p = &value->PendingInterruption;
    if (!p->InterruptionPending)
        return true;
    switch (p->InterruptionType) {
    case WHvX64PendingInterrupt: return p->InterruptionVector < 256;
    case WHvX64PendingNmi: return true;
    case WHvX64PendingException: return p->InterruptionVector < 32;
    }
    return false;
}

static void set_pending_interruption(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    const WHV_X64_PENDING_INTERRUPTION_REGISTER *p = &value->PendingInterruption;
    v->pending_valid = p->InterruptionPending;
    v->pending_told = false;
    v->pending_external = p->InterruptionType != WHvX64PendingException;
    v->pending = (struct x86_exception){
        .vector = p->InterruptionType == WHvX64PendingNmi ? X86_NMI : (uint8_t)p->InterruptionVector,
        .has_error = p->DeliverErrorCode, .error = p->ErrorCode,
        .address = p->InterruptionVector == X86_PFV ? v->cpu.cr2 : 0,
    };
    if (!v->pending_external)
        make_software(&v->pending, p->InstructionLength);
}

static void get_interrupt_state(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = 0;
    value->InterruptState.InterruptShadow = v->cpu.interrupt_shadow ? 1 : 0;
    value->InterruptState.NmiMasked = v->cpu.nmi_blocked ? 1 : 0;
}

static void set_interrupt_state(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    v->cpu.interrupt_shadow = value->InterruptState.InterruptShadow;
    v->cpu.nmi_blocked = value->InterruptState.NmiMasked;
    v->settle = true;
}

static void get_pending_event(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    memset(value, 0, sizeof *value);
    if (v->ext_int_valid) {
        value->ExtIntEvent.EventPending = 1;
        value->ExtIntEvent.EventType = WHvX64PendingEventExtInt;
        value->ExtIntEvent.Vector = v->ext_int_vector;
    } else if (v->event_valid) {
        value->ExceptionEvent.EventPending = 1;
        value->ExceptionEvent.EventType = WHvX64PendingEventException;
        value->ExceptionEvent.DeliverErrorCode = v->event.has_error;
        value->ExceptionEvent.Vector = v->event.vector;
        value->ExceptionEvent.ErrorCode = v->event.error;
        value->ExceptionEvent.ExceptionParameter = v->event.address;
    }
}

static bool valid_pending_event(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)v, (void)n;
    if (!value->ExceptionEvent.EventPending || value->ExceptionEvent.EventType == WHvX64PendingEventExtInt)
        return true;
    return value->ExceptionEvent.EventType == WHvX64PendingEventException && value->ExceptionEvent.Vector < 32;
}

static void set_pending_event(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    bool pending = value->ExceptionEvent.EventPending;
    v->ext_int_valid = pending && value->ExceptionEvent.EventType == WHvX64PendingEventExtInt;
    v->event_valid = pending && !v->ext_int_valid;
    if (v->ext_int_valid) {
        v->ext_int_vector = (uint8_t)value->ExtIntEvent.Vector;
        v->settle = true;
    } else if (v->event_valid) {
        // The answer to an exception during a delivery takes the place of what was to be delivered.
        if (v->pending_told)
            v->pending_valid = v->pending_told = false;
        v->event = (struct x86_exception){
            .vector = (uint8_t)value->ExceptionEvent.Vector, .has_error = value->ExceptionEvent.DeliverErrorCode,
            .error = value->ExceptionEvent.ErrorCode, .address = value->ExceptionEvent.ExceptionParameter,
        };
        // This register has no instruction length: the exit that told of the exception had it.
        if (v->told.software && v->told.vector == v->event.vector && v->told_rip == v->cpu.rip)
            make_software(&v->event, v->told.length);
    }
}

static void get_notifications(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = 0;
    value->DeliverabilityNotifications.NmiNotification = v->notify_nmi;
    value->DeliverabilityNotifications.InterruptNotification = v->notify_interrupt;
    value->DeliverabilityNotifications.InterruptPriority = v->notify_priority;
}

static void set_notifications(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    v->notify_nmi = value->DeliverabilityNotifications.NmiNotification;
    v->notify_interrupt = value->DeliverabilityNotifications.InterruptNotification;
    v->notify_priority = value->DeliverabilityNotifications.InterruptPriority;
}

static bool valid_notifications(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)v, (void)n;
    return value->DeliverabilityNotifications.Sint == 0;       // no synthetic interrupt controller yet
}

static void get_activity(struct vcpu *v, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = 0;
    value->InternalActivity.StartupSuspend = v->wait_for_sipi;
    value->InternalActivity.HaltSuspend = v->halted;
}

static void set_activity(struct vcpu *v, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    // Without an APIC mode a halt exits and nothing is suspended.
    v->wait_for_sipi = v->soft->apic && value->InternalActivity.StartupSuspend;
    v->halted = v->soft->apic && value->InternalActivity.HaltSuspend;
}

// ---- The table ---------------------------------------------------------------------------------------------------

// Sorted by name.
static const struct row rows[] = {
    { WHvX64RegisterRax, 16, get_gpr, set_gpr, NULL },
    { WHvX64RegisterRip, 1, get_rip, set_rip, NULL },
    { WHvX64RegisterRflags, 1, get_rflags, set_rflags, NULL },
    { WHvX64RegisterEs, 6, get_segment, set_segment, NULL },
    { WHvX64RegisterLdtr, 2, get_system, set_system, NULL },
    { WHvX64RegisterIdtr, 2, get_table, set_table, NULL },
    { WHvX64RegisterCr0, 4, get_control, set_control, NULL },
    { WHvX64RegisterCr8, 1, get_cr8, set_cr8, valid_cr8 },
    { WHvX64RegisterDr0, 6, get_debug, set_debug, valid_debug },
    { WHvX64RegisterXCr0, 1, get_xcr0, set_xcr0, NULL },
    { WHvX64RegisterXmm0, 16, get_xmm, set_xmm, NULL },
    { WHvX64RegisterFpMmx0, 8, get_fp, set_fp, NULL },
    { WHvX64RegisterFpControlStatus, 1, get_fp_control, set_fp_control, NULL },
    { WHvX64RegisterXmmControlStatus, 1, get_xmm_control, set_xmm_control, valid_xmm_control },
    { WHvX64RegisterTsc, 1, get_tsc, set_tsc, NULL },
    PLAIN_ROW(0, WHvX64RegisterEfer),
    PLAIN_ROW(1, WHvX64RegisterKernelGsBase),
    { WHvX64RegisterApicBase, 1, get_apic_base, set_apic_base, valid_apic_base },
    { WHvX64RegisterPat, 1, get_pat, set_pat, valid_pat },
    PLAIN_ROW(2, WHvX64RegisterSysenterCs),
    PLAIN_ROW(3, WHvX64RegisterSysenterEip),
    PLAIN_ROW(4, WHvX64RegisterSysenterEsp),
    PLAIN_ROW(5, WHvX64RegisterStar),
    PLAIN_ROW(6, WHvX64RegisterLstar),
    PLAIN_ROW(7, WHvX64RegisterCstar),
    PLAIN_ROW(8, WHvX64RegisterSfmask),
    { WHvX64RegisterInitialApicId, 1, get_apic_id, set_nothing, valid_apic_id },
    { WHvX64RegisterMsrMtrrCap, 2, get_mtrr_cap, set_mtrr_cap, valid_mtrr_cap },
    { WHvX64RegisterMsrMtrrPhysBase0, 16, get_mtrr_base, set_mtrr_base, valid_mtrr_base },
    { WHvX64RegisterMsrMtrrPhysMask0, 16, get_mtrr_mask, set_mtrr_mask, valid_mtrr_mask },
    { WHvX64RegisterMsrMtrrFix64k00000, 11, get_mtrr_fixed, set_mtrr_fixed, valid_mtrr_fixed },
    PLAIN_ROW(9, WHvX64RegisterTscAux),
    { WHvX64RegisterTscVirtualOffset, 1, get_tsc_offset, NULL, NULL },
    { WHvX64RegisterTscDeadline, 1, get_tsc_deadline, set_tsc_deadline, NULL },
    { WHvX64RegisterTscAdjust, 1, get_tsc_adjust, set_tsc_adjust, NULL },
    { 0x3000, 0x40, get_apic, set_apic, valid_apic },
    { (uint32_t)WHvRegisterPendingInterruption, 1, get_pending_interruption, set_pending_interruption,
      valid_pending_interruption },
    { (uint32_t)WHvRegisterInterruptState, 1, get_interrupt_state, set_interrupt_state, NULL },
    { (uint32_t)WHvRegisterPendingEvent, 1, get_pending_event, set_pending_event, valid_pending_event },
    { (uint32_t)WHvX64RegisterDeliverabilityNotifications, 1, get_notifications, set_notifications, valid_notifications },
    { (uint32_t)WHvRegisterInternalActivityState, 1, get_activity, set_activity, NULL },
};

// The row of a name, or why there is none. The APIC's registers exist with an APIC mode alone, and the task priority is
// refused by name even then (CR8 is the way to it).
static HRESULT find(const struct vcpu *v, uint32_t name, const struct row **row)
{
    size_t low = 0, high = sizeof rows / sizeof rows[0];
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (rows[middle].first + rows[middle].count <= name)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == sizeof rows / sizeof rows[0] || rows[low].first > name)
        return WHV_E_INVALID_VP_REGISTER_NAME;
    *row = &rows[low];
    uint64_t ignored;
    if (name >= 0x3000 && name < 0x3040) {
        if (!v->soft->apic || name == WHvX64RegisterApicTpr)
            return HV_INVALID_PARAMETER;
        if (name != WHvX64RegisterApicEoi && name != WHvX64RegisterApicSelfIpi
            && !lapic_get_register(&v->lapic, (name - 0x3000) << 4, &ignored, vcpu_time(v)))
            return WHV_E_INVALID_VP_REGISTER_NAME;
    }
    return S_OK;
}

HRESULT vcpu_get_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values)
{
    struct vcpu *v = vp->engine_data;
    HRESULT result = S_OK;
    vcpu_stop(v);
    for (UINT32 n = 0; n < count && SUCCEEDED(result); n++) {
        const struct row *row;
        result = find(v, (uint32_t)names[n], &row);
        if (FAILED(result))
            break;
        WHV_REGISTER_VALUE value;
        memset(&value, 0, sizeof value);
        row->get(v, (uint32_t)names[n] - row->first, &value);
        memcpy(&values[n], &value, sizeof value);
    }
    vcpu_resume(v);
    return result;
}

HRESULT vcpu_set_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count, const WHV_REGISTER_VALUE *values)
{
    struct vcpu *v = vp->engine_data;
    HRESULT result = S_OK;
    const struct row *row;
    WHV_REGISTER_VALUE value;
    vcpu_stop(v);
    for (UINT32 n = 0; n < count && SUCCEEDED(result); n++) {
        result = find(v, (uint32_t)names[n], &row);
        if (FAILED(result))
            break;
        memcpy(&value, &values[n], sizeof value);
        if (!row->set || (row->valid && !row->valid(v, (uint32_t)names[n] - row->first, &value)))
            result = HV_INVALID_PARAMETER;
    }
    for (UINT32 n = 0; n < count && SUCCEEDED(result); n++) {
        (void)find(v, (uint32_t)names[n], &row);
        memcpy(&value, &values[n], sizeof value);
        row->set(v, (uint32_t)names[n] - row->first, &value);
    }
    if (atomic_load(&v->running))
        vcpu_kick(v, VCPU_INTERRUPT);       // it may sleep, and now have something to do
    vcpu_resume(v);
    return result;
}
