// The registers that lie in `struct processor`: one table, a row for each run of like registers.
#include "engine/common/registers.h"

#include <string.h>

#include "x86/decode.h"
#include "x86/fpu.h"
#include "x86/system.h"

#define HV_INVALID_PARAMETER ((HRESULT)ERROR_HV_INVALID_PARAMETER)

// ---- General, segments, tables, control --------------------------------------------------------------------------

static void get_gpr(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value) { value->Reg64 = p->cpu.slot[n]; }

static void set_gpr(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    p->cpu.slot[n] = value->Reg64;
}

static void get_rip(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value) { (void)n; value->Reg64 = p->cpu.rip; }

static void set_rip(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    p->cpu.rip = value->Reg64;
}

static void get_rflags(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = x86_get_rflags(&p->cpu);
}

static void set_rflags(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    x86_set_rflags(&p->cpu, value->Reg64);
    p->settle = true;
}

static void get_segment(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    value->Segment = processor_segment(&p->cpu, n);
}

static void set_segment(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    p->cpu.slot[X86_SLOT_SEGMENT + n] = value->Segment.Base;
    p->cpu.segment[n] = (struct x86_segment){ .limit = value->Segment.Limit, .selector = value->Segment.Selector,
                                              .attributes = value->Segment.Attributes };
    p->settle = true;
}

static unsigned system_segment(unsigned n) { return n == 0 ? X86_LDTR : X86_TR; }

static void get_system(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    get_segment(p, system_segment(n), value);
}

static void set_system(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    set_segment(p, system_segment(n), value);
}

static struct x86_table *table_of(struct processor *p, unsigned n) { return n == 0 ? &p->cpu.idtr : &p->cpu.gdtr; }

static void get_table(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    value->Table.Base = table_of(p, n)->base;
    value->Table.Limit = table_of(p, n)->limit;
}

static void set_table(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    *table_of(p, n) = (struct x86_table){ .base = value->Table.Base, .limit = value->Table.Limit };
}

static uint64_t *control_of(struct processor *p, unsigned n)
{
    uint64_t *const where[] = { &p->cpu.cr0, &p->cpu.cr2, &p->cpu.cr3, &p->cpu.cr4 };
    return where[n];
}

static void get_control(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    value->Reg64 = *control_of(p, n);
}

static void set_control(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    *control_of(p, n) = value->Reg64;
    p->settle = true;
}

static uint64_t *debug_of(struct processor *p, unsigned n)
{
    return n < 4 ? &p->cpu.dr[n] : n == 4 ? &p->cpu.dr6 : &p->cpu.dr7;
}

static void get_debug(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value) { value->Reg64 = *debug_of(p, n); }

static bool valid_debug(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p;
    return n < 4 || value->Reg64 <= UINT32_MAX;
}

static void set_debug(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    uint64_t bits = value->Reg64;
    if (n == 4)         // bits that are always 1 and always 0 (SDM vol. 3B 18.2)
        bits = (bits & 0xe00f) | 0xffff0ff0;
    else if (n == 5)
        bits = (bits & 0xffff2bff) | 0x400;
    *debug_of(p, n) = bits;
    p->settle = true;
}

static void get_xcr0(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = p->cpu.xcr0;
}

static void set_xcr0(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    p->cpu.xcr0 = value->Reg64;
    p->settle = true;
}

// ---- Vectors and x87 ---------------------------------------------------------------------------------------------

static void get_xmm(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value) { memcpy(value, &p->cpu.vec[n], 16); }

static void set_xmm(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    memcpy(&p->cpu.vec[n], value, 16);
}

// By stack position, as in the FXSAVE image.
static long double *st_of(struct processor *p, unsigned n) { return &p->cpu.fpu.st[(x87_top(&p->cpu.fpu) + n) & 7]; }

static void get_fp(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    memset(value, 0, sizeof *value);
    memcpy(value, st_of(p, n), 10);
}

static void set_fp(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value) { memcpy(st_of(p, n), value, 10); }

static void get_fp_control(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct x86_fx_image image;
    x86_fpu_to_image(&p->cpu, &image, p->cpu.efer & X86_EFER_LMA);
    memcpy(value, &image, 16);
}

static void set_fp_control(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    // The FXSAVE image holds the registers in stack order: they keep their places in it when TOP changes.
    struct x86_fx_image image;
    bool wide = p->cpu.efer & X86_EFER_LMA;
    x86_fpu_to_image(&p->cpu, &image, wide);
    memcpy(&image, value, 16);
    (void)x86_fpu_from_image(&p->cpu, &image, wide, 16);    // MXCSR is the one it had, so it cannot be refused
}

static void get_xmm_control(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct x86_fx_image image;
    x86_fpu_to_image(&p->cpu, &image, p->cpu.efer & X86_EFER_LMA);
    memcpy(value, &image.fdp, 16);
}

static bool valid_xmm_control(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p, (void)n;
    return !(value->XmmControlStatus.XmmStatusControl & ~X86_MXCSR_VALID);
}

static void set_xmm_control(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    struct x86_fx_image image;
    bool wide = p->cpu.efer & X86_EFER_LMA;
    x86_fpu_to_image(&p->cpu, &image, wide);
    memcpy(&image.fdp, value, 12);
    (void)x86_fpu_from_image(&p->cpu, &image, wide, 16);    // MXCSR was checked
}

// ---- MSRs --------------------------------------------------------------------------------------------------------

// Those that are a plain 64-bit member of the processor.
enum { PLAIN_ANY, PLAIN_ADDRESS, PLAIN_LOW32 };     // what it takes: an address is canonical

static const struct { uint32_t name; size_t offset; bool settle; uint8_t takes; } plain_msrs[] = {
    { WHvX64RegisterEfer, offsetof(struct x86_cpu, efer), true, PLAIN_ANY },
    { WHvX64RegisterKernelGsBase, offsetof(struct x86_cpu, kernel_gs_base), false, PLAIN_ADDRESS },
    { WHvX64RegisterSysenterCs, offsetof(struct x86_cpu, sysenter_cs), false, PLAIN_ANY },
    { WHvX64RegisterSysenterEip, offsetof(struct x86_cpu, sysenter_eip), false, PLAIN_ADDRESS },
    { WHvX64RegisterSysenterEsp, offsetof(struct x86_cpu, sysenter_esp), false, PLAIN_ADDRESS },
    { WHvX64RegisterStar, offsetof(struct x86_cpu, star), false, PLAIN_ANY },
    { WHvX64RegisterLstar, offsetof(struct x86_cpu, lstar), false, PLAIN_ADDRESS },
    { WHvX64RegisterCstar, offsetof(struct x86_cpu, cstar), false, PLAIN_ADDRESS },
    { WHvX64RegisterSfmask, offsetof(struct x86_cpu, sfmask), false, PLAIN_ANY },
    { WHvX64RegisterTscAux, offsetof(struct x86_cpu, tsc_aux), false, PLAIN_LOW32 },
};

static uint64_t *plain_of(struct processor *p, unsigned index)
{
    return (uint64_t *)((char *)&p->cpu + plain_msrs[index].offset);
}

// Row functions get the position in their run; runs of plain MSRs are one long, and `get_plain_N` names the
// member.
#define PLAIN(index)                                                                                                  \
    static void get_plain_##index(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)                         \
    {                                                                                                                 \
        (void)n;                                                                                                      \
        value->Reg64 = *plain_of(p, index);                                                                           \
    }                                                                                                                 \
    static void set_plain_##index(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)                   \
    {                                                                                                                 \
        (void)n;                                                                                                      \
        *plain_of(p, index) = value->Reg64;                                                                           \
        p->settle |= plain_msrs[index].settle;                                                                        \
    }                                                                                                                 \
    static bool valid_plain_##index(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)                 \
    {                                                                                                                 \
        (void)p, (void)n;       /* RDTSCP gives ECX alone (SDM vol. 2B); KVM refuses more where Intel's do */         \
        uint8_t takes = plain_msrs[index].takes;                                                                      \
        return takes == PLAIN_ADDRESS ? x86_canonical(value->Reg64) : takes == PLAIN_ANY || !(value->Reg64 >> 32);    \
    }
PLAIN(0) PLAIN(1) PLAIN(2) PLAIN(3) PLAIN(4) PLAIN(5) PLAIN(6) PLAIN(7) PLAIN(8) PLAIN(9)
#define PLAIN_ROW(index, name, group)                                                                                 \
    { name, 1, group, get_plain_##index, set_plain_##index, valid_plain_##index, NULL }

static void get_pat(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value) { (void)n; value->Reg64 = p->cpu.pat; }

static bool valid_pat(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p, (void)n;
    for (unsigned shift = 0; shift < 64; shift += 8) {      // SDM vol. 3A 12.12.2
        unsigned type = value->Reg64 >> shift & 0xff;
        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    return true;
}

static void set_pat(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    p->cpu.pat = value->Reg64;
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

// Whether the processor has it: a variable range may be beyond those that it has. The bus is not asked.
static bool has_mtrr(const struct processor *p, uint32_t name)
{
    unsigned ranges = p->cpu.mtrr_cap & 0xff;
    if (ranges > sizeof p->cpu.mtrr_phys / sizeof p->cpu.mtrr_phys[0] / 2)
        ranges = sizeof p->cpu.mtrr_phys / sizeof p->cpu.mtrr_phys[0] / 2;
    return x86_has_feature(&p->cpu, X86_FEATURE_MTRR)
        && !(name >= WHvX64RegisterMsrMtrrPhysBase0 + ranges && name <= WHvX64RegisterMsrMtrrPhysBaseF)
        && !(name >= WHvX64RegisterMsrMtrrPhysMask0 + ranges && name <= WHvX64RegisterMsrMtrrPhysMaskF);
}

static uint64_t mtrr_value(struct processor *p, uint32_t name)
{
    uint64_t bits = 0;
    if (has_mtrr(p, name))
        (void)x86_read_msr(&p->cpu, mtrr_msr(name), &bits);     // the processor's own: it cannot fail
    return bits;
}

static void get_mtrr(struct processor *p, uint32_t name, WHV_REGISTER_VALUE *value)
{
    value->Reg64 = mtrr_value(p, name);
}

static bool valid_mtrr(struct processor *p, uint32_t name, const WHV_REGISTER_VALUE *value)
{
    uint64_t before = mtrr_value(p, name);
    if (!has_mtrr(p, name) || name == WHvX64RegisterMsrMtrrCap)
        return value->Reg64 == before;
    bool accepted = x86_write_msr(&p->cpu, mtrr_msr(name), value->Reg64) == X86_DONE;
    if (accepted && x86_write_msr(&p->cpu, mtrr_msr(name), before) != X86_DONE)
        return false;
    return accepted;
}

static void set_mtrr(struct processor *p, uint32_t name, const WHV_REGISTER_VALUE *value)
{
    if (has_mtrr(p, name) && name != WHvX64RegisterMsrMtrrCap)
        (void)x86_write_msr(&p->cpu, mtrr_msr(name), value->Reg64);     // accepted by valid_mtrr
}

#define MTRR_RUN(what, first_name)                                                                                    \
    static void get_##what(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)                                \
    {                                                                                                                 \
        get_mtrr(p, first_name + n, value);                                                                           \
    }                                                                                                                 \
    static void set_##what(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)                          \
    {                                                                                                                 \
        set_mtrr(p, first_name + n, value);                                                                           \
    }                                                                                                                 \
    static bool valid_##what(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)                        \
    {                                                                                                                 \
        return valid_mtrr(p, first_name + n, value);                                                                  \
    }
MTRR_RUN(mtrr_cap, WHvX64RegisterMsrMtrrCap)
MTRR_RUN(mtrr_base, WHvX64RegisterMsrMtrrPhysBase0)
MTRR_RUN(mtrr_mask, WHvX64RegisterMsrMtrrPhysMask0)
MTRR_RUN(mtrr_fixed, WHvX64RegisterMsrMtrrFix64k00000)

// ---- Events ------------------------------------------------------------------------------------------------------

// The exception of an instruction that is `length` bytes long: INT3, INTO and INT1 return behind it (SDM vol.
// 3A 6.5). A client that copies the length of a fault's instruction is not misunderstood.
static void make_software(struct x86_exception *event, unsigned length)
{
    event->privileged = event->vector == X86_DB;
    event->software = length && (event->vector == X86_BP || event->vector == X86_OFV || event->vector == X86_DB);
    event->length = (uint8_t)length;
}

static void get_pending_interruption(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = 0;
    if (!p->pending_valid)
        return;
    value->PendingInterruption.InterruptionPending = 1;
    value->PendingInterruption.InterruptionType = !p->pending_external ? WHvX64PendingException
        : p->pending.vector == X86_NMI ? WHvX64PendingNmi : WHvX64PendingInterrupt;
    value->PendingInterruption.DeliverErrorCode = p->pending.has_error;
    value->PendingInterruption.ErrorCode = p->pending.error;
    value->PendingInterruption.InterruptionVector = p->pending.vector;
    value->PendingInterruption.InstructionLength = p->pending.length & 15;
}

static bool valid_pending_interruption(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p, (void)n;
    const WHV_X64_PENDING_INTERRUPTION_REGISTER *wanted = &value->PendingInterruption;
    if (!wanted->InterruptionPending)
        return true;
    switch (wanted->InterruptionType) {
    case WHvX64PendingInterrupt: return wanted->InterruptionVector < 256;
    case WHvX64PendingNmi: return true;
    case WHvX64PendingException: return wanted->InterruptionVector < 32;
    }
    return false;
}

static void set_pending_interruption(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    const WHV_X64_PENDING_INTERRUPTION_REGISTER *wanted = &value->PendingInterruption;
    p->pending_valid = wanted->InterruptionPending;
    p->pending_told = false;
    p->pending_external = wanted->InterruptionType != WHvX64PendingException;
    p->pending = (struct x86_exception){
        .vector = wanted->InterruptionType == WHvX64PendingNmi ? X86_NMI : (uint8_t)wanted->InterruptionVector,
        .has_error = wanted->DeliverErrorCode, .error = wanted->ErrorCode,
        .address = wanted->InterruptionVector == X86_PFV ? p->cpu.cr2 : 0,
    };
    if (!p->pending_external)
        make_software(&p->pending, wanted->InstructionLength);
}

static void get_interrupt_state(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = 0;
    value->InterruptState.InterruptShadow = p->cpu.interrupt_shadow ? 1 : 0;
    value->InterruptState.NmiMasked = p->cpu.nmi_blocked ? 1 : 0;
}

static void set_interrupt_state(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    p->cpu.interrupt_shadow = value->InterruptState.InterruptShadow;
    p->cpu.nmi_blocked = value->InterruptState.NmiMasked;
    p->settle = true;
}

static void get_pending_event(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    memset(value, 0, sizeof *value);
    if (p->ext_int_valid) {
        value->ExtIntEvent.EventPending = 1;
        value->ExtIntEvent.EventType = WHvX64PendingEventExtInt;
        value->ExtIntEvent.Vector = p->ext_int_vector;
    } else if (p->event_valid) {
        value->ExceptionEvent.EventPending = 1;
        value->ExceptionEvent.EventType = WHvX64PendingEventException;
        value->ExceptionEvent.DeliverErrorCode = p->event.has_error;
        value->ExceptionEvent.Vector = p->event.vector;
        value->ExceptionEvent.ErrorCode = p->event.error;
        value->ExceptionEvent.ExceptionParameter = p->event.address;
    }
}

static bool valid_pending_event(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p, (void)n;
    if (!value->ExceptionEvent.EventPending || value->ExceptionEvent.EventType == WHvX64PendingEventExtInt)
        return true;
    return value->ExceptionEvent.EventType == WHvX64PendingEventException && value->ExceptionEvent.Vector < 32;
}

static void set_pending_event(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    bool pending = value->ExceptionEvent.EventPending;
    p->ext_int_valid = pending && value->ExceptionEvent.EventType == WHvX64PendingEventExtInt;
    p->event_valid = pending && !p->ext_int_valid;
    if (p->ext_int_valid) {
        p->ext_int_vector = (uint8_t)value->ExtIntEvent.Vector;
        p->settle = true;
    } else if (p->event_valid) {
        // The answer to an exception during a delivery takes the place of what was to be delivered.
        if (p->pending_told)
            p->pending_valid = p->pending_told = false;
        p->event = (struct x86_exception){
            .vector = (uint8_t)value->ExceptionEvent.Vector, .has_error = value->ExceptionEvent.DeliverErrorCode,
            .error = value->ExceptionEvent.ErrorCode, .address = value->ExceptionEvent.ExceptionParameter,
        };
        // This register has no instruction length: the exit that told of the exception had it.
        if (p->told.software && p->told.vector == p->event.vector && p->told_rip == p->cpu.rip)
            make_software(&p->event, p->told.length);
    }
}

static void get_notifications(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    (void)n;
    value->Reg64 = 0;
    value->DeliverabilityNotifications.NmiNotification = p->notify_nmi;
    value->DeliverabilityNotifications.InterruptNotification = p->notify_interrupt;
    value->DeliverabilityNotifications.InterruptPriority = p->notify_priority;
}

static void set_notifications(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)n;
    p->notify_nmi = value->DeliverabilityNotifications.NmiNotification;
    p->notify_interrupt = value->DeliverabilityNotifications.InterruptNotification;
    p->notify_priority = value->DeliverabilityNotifications.InterruptPriority;
}

static bool valid_notifications(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p, (void)n;
    return value->DeliverabilityNotifications.Sint == 0;       // no synthetic interrupt controller yet
}

// ---- The table ---------------------------------------------------------------------------------------------------

// A register whose meaning depends on others has their groups too.
static const struct register_row common_rows[] = {
    { WHvX64RegisterRax, 16, REGISTER_GENERAL, get_gpr, set_gpr, NULL, NULL },
    { WHvX64RegisterRip, 1, REGISTER_GENERAL, get_rip, set_rip, NULL, NULL },
    { WHvX64RegisterRflags, 1, REGISTER_GENERAL, get_rflags, set_rflags, NULL, NULL },
    { WHvX64RegisterEs, 6, REGISTER_SYSTEM, get_segment, set_segment, NULL, NULL },
    { WHvX64RegisterLdtr, 2, REGISTER_SYSTEM, get_system, set_system, NULL, NULL },
    { WHvX64RegisterIdtr, 2, REGISTER_SYSTEM, get_table, set_table, NULL, NULL },
    { WHvX64RegisterCr0, 4, REGISTER_SYSTEM, get_control, set_control, NULL, NULL },
    { WHvX64RegisterDr0, 6, REGISTER_DEBUG, get_debug, set_debug, valid_debug, NULL },
    { WHvX64RegisterXCr0, 1, REGISTER_XCR, get_xcr0, set_xcr0, NULL, NULL },
    { WHvX64RegisterXmm0, 16, REGISTER_FPU, get_xmm, set_xmm, NULL, NULL },
    { WHvX64RegisterFpMmx0, 8, REGISTER_FPU, get_fp, set_fp, NULL, NULL },
    { WHvX64RegisterFpControlStatus, 1, REGISTER_FPU | REGISTER_SYSTEM, get_fp_control, set_fp_control, NULL, NULL },
    { WHvX64RegisterXmmControlStatus, 1, REGISTER_FPU | REGISTER_SYSTEM, get_xmm_control, set_xmm_control,
      valid_xmm_control, NULL },
    PLAIN_ROW(0, WHvX64RegisterEfer, REGISTER_SYSTEM),
    PLAIN_ROW(1, WHvX64RegisterKernelGsBase, REGISTER_MSR),
    { WHvX64RegisterPat, 1, REGISTER_MSR, get_pat, set_pat, valid_pat, NULL },
    PLAIN_ROW(2, WHvX64RegisterSysenterCs, REGISTER_MSR),
    PLAIN_ROW(3, WHvX64RegisterSysenterEip, REGISTER_MSR),
    PLAIN_ROW(4, WHvX64RegisterSysenterEsp, REGISTER_MSR),
    PLAIN_ROW(5, WHvX64RegisterStar, REGISTER_MSR),
    PLAIN_ROW(6, WHvX64RegisterLstar, REGISTER_MSR),
    PLAIN_ROW(7, WHvX64RegisterCstar, REGISTER_MSR),
    PLAIN_ROW(8, WHvX64RegisterSfmask, REGISTER_MSR),
    { WHvX64RegisterMsrMtrrCap, 2, REGISTER_MSR, get_mtrr_cap, set_mtrr_cap, valid_mtrr_cap, NULL },
    { WHvX64RegisterMsrMtrrPhysBase0, 16, REGISTER_MSR, get_mtrr_base, set_mtrr_base, valid_mtrr_base, NULL },
    { WHvX64RegisterMsrMtrrPhysMask0, 16, REGISTER_MSR, get_mtrr_mask, set_mtrr_mask, valid_mtrr_mask, NULL },
    { WHvX64RegisterMsrMtrrFix64k00000, 11, REGISTER_MSR, get_mtrr_fixed, set_mtrr_fixed, valid_mtrr_fixed, NULL },
    PLAIN_ROW(9, WHvX64RegisterTscAux, REGISTER_MSR),
    { (uint32_t)WHvRegisterPendingInterruption, 1, REGISTER_EVENTS | REGISTER_SYSTEM, get_pending_interruption,
      set_pending_interruption, valid_pending_interruption, NULL },
    { (uint32_t)WHvRegisterInterruptState, 1, REGISTER_EVENTS, get_interrupt_state, set_interrupt_state, NULL, NULL },
    { (uint32_t)WHvRegisterPendingEvent, 1, REGISTER_EVENTS | REGISTER_GENERAL, get_pending_event, set_pending_event,
      valid_pending_event, NULL },
    { (uint32_t)WHvX64RegisterDeliverabilityNotifications, 1, REGISTER_EVENTS, get_notifications, set_notifications,
      valid_notifications, NULL },
};
static const struct register_table common = { common_rows, sizeof common_rows / sizeof common_rows[0] };

static const struct register_row *row_in(const struct register_table *table, uint32_t name)
{
    size_t low = 0, high = table->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (table->rows[middle].first + table->rows[middle].count <= name)
            low = middle + 1;
        else
            high = middle;
    }
    return low < table->count && table->rows[low].first <= name ? &table->rows[low] : NULL;
}

static const struct register_row *row_of(const struct register_table *own, uint32_t name)
{
    // Those that clients set after every exit stand first.
    for (const struct register_row *row = common_rows; row < common_rows + 3; row++)
        if (name - row->first < row->count)
            return row;
    const struct register_row *row = row_in(&common, name);
    return row ? row : row_in(own, name);
}

// The row of a name, or why there is none.
static HRESULT find(struct processor *p, const struct register_table *own, uint32_t name,
                    const struct register_row **row)
{
    *row = row_of(own, name);
    if (!*row)
        return WHV_E_INVALID_VP_REGISTER_NAME;
    return (*row)->has ? (*row)->has(p, name - (*row)->first) : S_OK;
}

HRESULT registers_groups(struct processor *p, const struct register_table *own, const WHV_REGISTER_NAME *names,
                         UINT32 count, uint32_t *groups)
{
    (void)p;
    uint32_t all = 0;
    for (UINT32 n = 0; n < count; n++) {
        const struct register_row *row = row_of(own, (uint32_t)names[n]);
        if (!row)
            return WHV_E_INVALID_VP_REGISTER_NAME;
        all |= row->group;
    }
    *groups = all;
    return S_OK;
}

HRESULT registers_get(struct processor *p, const struct register_table *own, const WHV_REGISTER_NAME *names,
                      UINT32 count, WHV_REGISTER_VALUE *values)
{
    for (UINT32 n = 0; n < count; n++) {
        const struct register_row *row;
        HRESULT result = find(p, own, (uint32_t)names[n], &row);
        if (FAILED(result))
            return result;
        WHV_REGISTER_VALUE value;       // the caller's may not be aligned
        memset(&value, 0, sizeof value);
        row->get(p, (uint32_t)names[n] - row->first, &value);
        memcpy(&values[n], &value, sizeof value);
    }
    return S_OK;
}

HRESULT registers_set(struct processor *p, const struct register_table *own, const WHV_REGISTER_NAME *names,
                      UINT32 count, const WHV_REGISTER_VALUE *values)
{
    const struct register_row *row;
    WHV_REGISTER_VALUE value;           // the caller's may not be aligned
    for (UINT32 n = 0; n < count; n++) {
        HRESULT result = find(p, own, (uint32_t)names[n], &row);
        if (FAILED(result))
            return result;
        memcpy(&value, &values[n], sizeof value);
        if (!row->set || (row->valid && !row->valid(p, (uint32_t)names[n] - row->first, &value)))
            return HV_INVALID_PARAMETER;
    }
    bool settle = p->settle;
    p->settle = false;
    for (UINT32 n = 0; n < count; n++) {
        row = row_of(own, (uint32_t)names[n]);
        memcpy(&value, &values[n], sizeof value);
        row->set(p, (uint32_t)names[n] - row->first, &value);
    }
    if (p->settle)
        p->carried.valid = false;       // what it was derived from is not what it was
    p->settle |= settle;
    return S_OK;
}
