// The soft engine's table: what it offers, and the calls that concern a whole partition.
#include "engine/soft/soft.h"

#include <pthread.h>
#include <stdlib.h>

#include "engine/soft/features.h"
#include "engine/soft/vcpu.h"
#include "os/guard.h"
#include "os/tsc.h"
#include "x86/system.h"

#define BUS_HZ 200000000ull         // the local APIC timer's input, as on WHP
#define PHYSICAL_WIDTH 46u

// ---- What it offers ----------------------------------------------------------------------------------------------

static struct engine_capabilities offer;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_offer(void)
{
    offer.features.PartialUnmap = 1;
    offer.features.LocalApicEmulation = 1;
    offer.features.Xsave = 1;
    offer.features.DirtyPageTracking = 1;
    offer.features.ApicRemoteRead = 1;
    offer.features.VpHotAddRemove = 1;
    offer.extended_vm_exits.X64CpuidExit = 1;
    offer.extended_vm_exits.X64MsrExit = 1;
    offer.extended_vm_exits.ExceptionExit = 1;
    offer.extended_vm_exits.X64RdtscExit = 1;
    offer.extended_vm_exits.HypercallExit = 1;
    offer.extended_vm_exits.X64ApicSmiExitTrap = 1;
    offer.extended_vm_exits.X64ApicInitSipiExitTrap = 1;
    offer.extended_vm_exits.X64ApicWriteLint0ExitTrap = 1;
    offer.extended_vm_exits.X64ApicWriteLint1ExitTrap = 1;
    offer.extended_vm_exits.X64ApicWriteSvrExitTrap = 1;
    offer.extended_vm_exits.X64ApicWriteLdrExitTrap = 1;
    offer.extended_vm_exits.X64ApicWriteDfrExitTrap = 1;
    offer.extended_vm_exits.UnknownSynicConnection = 1;
    offer.extended_vm_exits.RetargetUnknownVpciDevice = 1;
    // Every exception that WHV_EXCEPTION_TYPE names; NMI is none, and the reserved vectors have no name.
    offer.exception_exit_bitmap = 0x002f7dfb;
    offer.msr_exit_bitmap.UnhandledMsrs = 1;
    offer.msr_exit_bitmap.TscMsrWrite = 1;
    offer.msr_exit_bitmap.TscMsrRead = 1;
    offer.msr_exit_bitmap.ApicBaseMsrWrite = 1;
    offer.msr_exit_bitmap.MiscEnableMsrRead = 1;
    offer.msr_exit_bitmap.McUpdatePatchLevelMsrRead = 1;
    offer.vendor = WHvProcessorVendorAmd;
    soft_features_offered(&offer.processor_features, &offer.xsave_features);
    offer.clflush_units = 8;
    offer.physical_address_width = PHYSICAL_WIDTH;
    offer.processor_clock_hz = os_tsc_hz();
    offer.interrupt_clock_hz = BUS_HZ;
    offer.max_processors = PARTITION_MAX_PROCESSORS;
    offer.apic_emulation = true;
    offer.apic_remote_read = true;
}

static const struct engine_capabilities *soft_capabilities(void)
{
    pthread_once(&once, make_offer);
    return &offer;
}

static void soft_probe(struct engine_status *status)
{
    *status = (struct engine_status){ .usable = true, .automatic = true,
                                      .text = "runs everywhere: an x86-64 processor in user space" };
}

// ---- Partition ---------------------------------------------------------------------------------------------------

static void copy_exits(struct soft_partition *soft)
{
    const struct property_values *p = &soft->partition->properties;
    soft->exits = (struct vcpu_exits){
        .extended = p->extended_vm_exits,
        .exceptions = p->extended_vm_exits.ExceptionExit ? p->exception_exit_bitmap : 0,
        .msr = p->msr_exit_bitmap,
        .cpuid = p->cpuid_exit_list,
        .cpuid_count = p->cpuid_exit_count,
    };
}

static HRESULT soft_setup(struct partition *p)
{
    if (!os_guard_install())
        return E_FAIL;
    struct soft_partition *soft = calloc(1, sizeof *soft);
    if (!soft)
        return E_OUTOFMEMORY;
    HRESULT hr = msr_actions_init(&soft->msr_actions, &p->properties);
    if (FAILED(hr)) {
        free(soft);
        return hr;
    }
    soft->partition = p;
    soft->host_hz = os_tsc_hz();
    soft->tsc_hz = p->properties.processor_clock_hz;
    soft->bus_hz = p->properties.interrupt_clock_hz;
    soft->apic = p->properties.apic_mode != WHvX64LocalApicEmulationModeNone;
    soft->x2apic_allowed = p->properties.apic_mode == WHvX64LocalApicEmulationModeX2Apic;
    soft->remote_read = p->properties.apic_remote_read;
    pthread_rwlock_init(&soft->vcpus_lock, NULL);
    copy_exits(soft);
    p->engine_data = soft;
    return S_OK;
}

static void soft_teardown(struct partition *p)
{
    struct soft_partition *soft = p->engine_data;
    pthread_rwlock_destroy(&soft->vcpus_lock);
    msr_actions_release(&soft->msr_actions);
    free(soft);
    p->engine_data = NULL;
}

// Every processor stands still until resume_all. partition->lock keeps them from coming and going.
static void stop_all(struct soft_partition *soft)
{
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS; n++)
        if (soft->vcpus[n])
            vcpu_stop(soft->vcpus[n]);
}

static void resume_all(struct soft_partition *soft)
{
    for (unsigned n = PARTITION_MAX_PROCESSORS; n-- > 0;)
        if (soft->vcpus[n])
            vcpu_resume(soft->vcpus[n]);
}

static HRESULT soft_properties_changed(struct partition *p)
{
    struct soft_partition *soft = p->engine_data;
    stop_all(soft);
    copy_exits(soft);
    resume_all(soft);
    return S_OK;
}

static HRESULT soft_reset(struct partition *p)
{
    struct soft_partition *soft = p->engine_data;
    stop_all(soft);
    // Nobody sends an interrupt meanwhile: who does holds this lock, and waits for no processor under it.
    pthread_rwlock_wrlock(&soft->vcpus_lock);
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS; n++)
        if (soft->vcpus[n])
            vcpu_reset(soft->vcpus[n]);
    pthread_rwlock_unlock(&soft->vcpus_lock);
    resume_all(soft);
    return S_OK;
}

// Do something to one processor after the other, each of them standing still meanwhile.
static void each_processor(struct soft_partition *soft, void (*act)(struct processor *p))
{
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS; n++) {
        struct vcpu *v = soft->vcpus[n];    // partition->lock keeps processors from coming and going
        if (!v)
            continue;
        vcpu_stop(v);
        act(&v->p);
        vcpu_resume(v);
    }
}

static HRESULT soft_map_changed(struct partition *p, gpa_t gpa, uint64_t size)
{
    (void)gpa;
    (void)size;
    each_processor(p->engine_data, processor_forget_memory);
    return S_OK;
}

static HRESULT soft_collect_dirty(struct partition *p, gpa_t gpa, uint64_t size, uint64_t *bitmap)
{
    dirty_take(&p->dirty, gpa, size, bitmap);
    each_processor(p->engine_data, processor_forget_writes);
    return S_OK;
}

// ---- State -------------------------------------------------------------------------------------------------------

static HRESULT soft_get_apic_page(struct vp *vp, void *page)
{
    struct vcpu *v = vp->engine_data;
    vcpu_stop(v);
    // A timer that has run out since the processor last looked would be in the page as expired, its interrupt nowhere.
    if (vcpu_ns_until(v, lapic_timer_deadline(&v->lapic)) == 0)
        (void)lapic_timer_poll(&v->lapic, vcpu_time(v));
    lapic_get_page(&v->lapic, page, vcpu_time(v));
    vcpu_resume(v);
    return S_OK;
}

static HRESULT soft_set_apic_page(struct vp *vp, const void *page)
{
    struct vcpu *v = vp->engine_data;
    vcpu_stop(v);
    bool accepted = lapic_set_page(&v->lapic, page, vcpu_time(v));
    if (accepted && atomic_load(&v->running))
        vcpu_kick(v, VCPU_INTERRUPT);
    vcpu_resume(v);
    return accepted ? S_OK : E_INVALIDARG;
}

static HRESULT soft_translate_gva(struct vp *vp, gva_t gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                  WHV_TRANSLATE_GVA_RESULT *result, gpa_t *gpa)
{
    struct vcpu *v = vp->engine_data;
    vcpu_stop(v);
    processor_translate(&v->p, gva, flags, result, gpa);
    vcpu_resume(v);
    return S_OK;
}

static HRESULT soft_request_interrupt(struct partition *p, const WHV_INTERRUPT_CONTROL *interrupt)
{
    struct lapic_message message = {
        .destination = interrupt->Destination,
        .logical = interrupt->DestinationMode == WHvX64InterruptDestinationModeLogical,
        .level = interrupt->TriggerMode == WHvX64InterruptTriggerModeLevel,
        .vector = (uint8_t)interrupt->Vector,
        .mode = (enum lapic_delivery)interrupt->Type,
    };
    struct soft_partition *soft = p->engine_data;
    if (interrupt->Type != WHvX64InterruptTypeLocalInt1) {
        soft_route(soft, &message, LAPIC_NO_SENDER);
        return S_OK;
    }
    pthread_rwlock_rdlock(&soft->vcpus_lock);
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS; n++) {
        struct vcpu *v = soft->vcpus[n];
        if (v && lapic_accepts(&v->lapic, &message, LAPIC_NO_SENDER) && lapic_local_interrupt(&v->lapic, 1))
            vcpu_kick(v, VCPU_INTERRUPT);
    }
    pthread_rwlock_unlock(&soft->vcpus_lock);
    return S_OK;
}

static void soft_cpuid(struct vp *vp, UINT32 leaf, UINT32 subleaf, UINT32 out[4])
{
    struct vcpu *v = vp->engine_data;
    x86_cpuid(&v->p.cpu, leaf, subleaf, out);
}

static UINT64 soft_instruction_count(struct vp *vp)
{
    struct vcpu *v = vp->engine_data;
    return atomic_load_explicit(&v->instructions, memory_order_relaxed);
}

const struct engine engine_soft = {
    .name = "soft",
    .speed = 1,
    .probe = soft_probe,
    .capabilities = soft_capabilities,
    .setup = soft_setup,
    .teardown = soft_teardown,
    .reset = soft_reset,
    .properties_changed = soft_properties_changed,
    .map_changed = soft_map_changed,
    .collect_dirty = soft_collect_dirty,
    .vp_create = vcpu_create,
    .vp_destroy = vcpu_destroy,
    .vp_run = vcpu_run,
    .vp_cancel = vcpu_cancel,
    .get_registers = vcpu_get_registers,
    .set_registers = vcpu_set_registers,
    .get_apic_page = soft_get_apic_page,
    .set_apic_page = soft_set_apic_page,
    .xsave_size = vcpu_xsave_size,
    .get_xsave = vcpu_get_xsave,
    .set_xsave = vcpu_set_xsave,
    .get_private_state = vcpu_get_private_state,
    .set_private_state = vcpu_set_private_state,
    .translate_gva = soft_translate_gva,
    .request_interrupt = soft_request_interrupt,
    .cpuid = soft_cpuid,
    .instruction_count = soft_instruction_count,
    .counters = vcpu_counters,
    .memory_counters = pages_counters,
};
