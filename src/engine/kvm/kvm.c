// The kvm engine's table, and the calls that concern a whole partition.
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#include "engine/kvm/cpuid.h"
#include "engine/kvm/features.h"
#include "engine/kvm/host.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/msr.h"
#include "engine/kvm/vcpu.h"
#include "os/guard.h"
#include "os/kick.h"
#include "os/wait.h"

// ---- Partition ---------------------------------------------------------------------------------------------------

static void copy_exits(struct kvm_partition *kvm)
{
    const struct property_values *p = &kvm->partition->properties;
    kvm->msr_exits = p->extended_vm_exits.X64MsrExit;
    // A relaxation may let more be asked for than there is.
    kvm->debug_exceptions = p->extended_vm_exits.ExceptionExit
                          ? p->exception_exit_bitmap & kvm_host_capabilities()->exception_exit_bitmap : 0;
}

// All that changes after set-up and kvm_msr_exits looks at, as a number; never MSR_CHOICE_UNKNOWN, as no reserved bit of
// the bitmap can be set.
#define MSR_CHOICE_UNKNOWN UINT64_MAX
static uint64_t msr_choice(const struct property_values *p)
{
    return p->extended_vm_exits.X64MsrExit ? p->msr_exit_bitmap.AsUINT64 << 1 | 1 : 0;
}

// What set-up may still have to undo is all in the object: descriptors are -1 until they are there.
static void release(struct kvm_partition *kvm)
{
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS; n++) {
        if (kvm->kept[n].run)
            munmap(kvm->kept[n].run, (size_t)kvm_host()->run_size);
        if (kvm->kept[n].fd >= 0)
            close(kvm->kept[n].fd);
    }
    if (kvm->vm >= 0)
        close(kvm->vm);
    msr_actions_release(&kvm->msr_rules.actions);
    free(kvm);
}

static HRESULT create_vm(struct kvm_partition *kvm)
{
    int device = kvm_host_open();
    if (device < 0)
        return kvm_hresult(device);
    // The kernel gives it up for a signal that comes just then, whatever the signal's handler is.
    do
        kvm->vm = kvm_ioctl_value(device, KVM_CREATE_VM, 0);
    while (kvm->vm == -EINTR);
    close(device);
    return kvm->vm < 0 ? kvm_hresult(kvm->vm) : S_OK;
}

// KVM has a hypercall interface of its own and, as a quirk, writes the host processor's VMCALL or VMMCALL
// over a guest's other one. Without the quirk both raise #UD, as they do where no hypervisor interface is
// shown. (Kernels before 5.18 cannot leave it out.) The set of quirks is given whole, so apic.c's are in it.
static HRESULT leave_quirks_out(const struct kvm_partition *kvm)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_DISABLE_QUIRKS2 };
    int known = kvm_ioctl_value(kvm->vm, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2);
    cap.args[0] = KVM_X86_QUIRK_FIX_HYPERCALL_INSN;
    if (kvm->apic)
        cap.args[0] |= KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE;
    if (known < 0 || (cap.args[0] &= (uint64_t)known) == 0)
        return S_OK;
    return kvm_hresult(kvm_ioctl(kvm->vm, KVM_ENABLE_CAP, &cap));
}

// What KVM's emulator cannot do is #UD for the guest, but at CPL 0; told so, it leaves it to the engine at
// any.
static HRESULT take_emulation_failures(const struct kvm_partition *kvm)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args[0] = 1 };
    return kvm_host()->emulation_exits ? kvm_hresult(kvm_ioctl(kvm->vm, KVM_ENABLE_CAP, &cap)) : S_OK;
}

// Before KVM_CAP_XSAVE2 it is that of struct kvm_xsave.
static size_t xsave_size(int vm)
{
    int size = kvm_ioctl_value(vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    return size > (int)sizeof(struct kvm_xsave) ? (size_t)size : sizeof(struct kvm_xsave);
}

static HRESULT make_msr_rules(struct kvm_msr_rules *rules, const struct property_values *p)
{
    const struct kvm_host *host = kvm_host();
    const struct kvm_cpuid_entry2 *shown = host->forced ? kvm_features_entry(host->forced, 7, 0) : NULL;
    HRESULT hr = msr_actions_init(&rules->actions, p);
    if (SUCCEEDED(hr) && msr_actions_any(&rules->actions) && !host->msr_exits)
        hr = WHV_E_INVALID_PARTITION_CONFIG;
    rules->hide_tsc_deadline = p->apic_mode == WHvX64LocalApicEmulationModeNone
                            || !p->processor_features.Bank1.TscDeadlineTmrSupport;
    // A feature that is shown whatever the partition says is to work.
    rules->hide_tsc_adjust = !p->processor_features.Bank1.TscAdjustSupport && !(shown && (shown->ebx & 2));
    return hr;
}

HRESULT kvm_msr_exits_now(struct kvm_partition *kvm)
{
    HRESULT hr = kvm_msr_exits(kvm->vm, &kvm->partition->properties, &kvm->msr_rules);
    kvm->msr_due &= FAILED(hr);
    return hr;
}

static HRESULT kvm_setup(struct partition *p)
{
    if (!os_guard_install() || !os_kick_install())
        return E_FAIL;
    struct kvm_partition *kvm = calloc(1, sizeof *kvm);
    if (!kvm)
        return E_OUTOFMEMORY;
    kvm->partition = p;
    kvm->vm = -1;
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS; n++)
        kvm->kept[n].fd = -1;
    kvm->apic = p->properties.apic_mode != WHvX64LocalApicEmulationModeNone;
    kvm->eoi_late = kvm->apic && !kvm_host()->hardware;
    HRESULT hr = make_msr_rules(&kvm->msr_rules, &p->properties);
    if (SUCCEEDED(hr))
        hr = create_vm(kvm);
    if (SUCCEEDED(hr))
        hr = take_emulation_failures(kvm);
    // KVM waits for whoever looks at its filter before it has another: many partitions never come to need one.
    kvm->msr_due = kvm_msr_exits_wanted(&p->properties, &kvm->msr_rules);
    if (SUCCEEDED(hr) && kvm->msr_due && !kvm_msr_exits_can_wait(&p->properties, &kvm->msr_rules))
        hr = kvm_msr_exits_now(kvm);
    if (SUCCEEDED(hr) && kvm->apic)
        hr = kvm_apic_setup(&kvm->interrupts, kvm->vm, p->properties.apic_mode, kvm_host()->bus_ns);
    if (SUCCEEDED(hr)) {
        hr = leave_quirks_out(kvm);
        if (FAILED(hr) && kvm->apic)
            kvm_apic_destroy(&kvm->interrupts);
    }
    if (FAILED(hr)) {
        release(kvm);
        return hr;
    }
    kvm->xsave_size = xsave_size(kvm->vm);
    kvm_slots_init(&kvm->slots, kvm->vm, kvm_host()->slots);
    pthread_rwlock_init(&kvm->vcpus_lock, NULL);
    copy_exits(kvm);
    kvm->msr_choice = msr_choice(&p->properties);
    kvm->stands = kvm_host()->tsc_offset;       // until the first run
    p->engine_data = kvm;
    return S_OK;
}

static void kvm_teardown(struct partition *p)
{
    struct kvm_partition *kvm = p->engine_data;
    if (kvm->apic)
        kvm_apic_destroy(&kvm->interrupts);
    kvm_slots_destroy(&kvm->slots);
    pthread_rwlock_destroy(&kvm->vcpus_lock);
    release(kvm);
    p->engine_data = NULL;
}

void kvm_stop_all(void *kvm_partition)
{
    struct kvm_partition *kvm = kvm_partition;
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS; n++)
        if (kvm->vcpus[n])
            kvm_vcpu_stop(kvm->vcpus[n]);
}

void kvm_go_all(void *kvm_partition)
{
    struct kvm_partition *kvm = kvm_partition;
    for (unsigned n = PARTITION_MAX_PROCESSORS; n-- > 0;)
        if (kvm->vcpus[n])
            kvm_vcpu_go(kvm->vcpus[n]);
}

static HRESULT kvm_properties_changed(struct partition *p)
{
    struct kvm_partition *kvm = p->engine_data;
    uint64_t choice = msr_choice(&p->properties);
    HRESULT hr = S_OK;
    kvm_stop_all(kvm);
    // KVM waits for all its processors before it has another filter.
    if (choice != kvm->msr_choice) {
        hr = kvm_msr_exits_now(kvm);
        kvm->msr_choice = SUCCEEDED(hr) ? choice : MSR_CHOICE_UNKNOWN;
    }
    if (SUCCEEDED(hr))
        copy_exits(kvm);
    kvm_go_all(kvm);
    return hr;
}

#define LOOKS_AT_VIEW 100u
#define LOOK_AGAIN_NS 50000u

// Wait until no view is used on guest memory any more that was before this call. partition->lock is held, so no
// processor comes or goes.
static void pass_views(struct kvm_partition *kvm)
{
    atomic_thread_fence(memory_order_seq_cst);
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS; n++) {
        struct kvm_vcpu *v = kvm->vcpus[n];
        uint32_t seen = v ? atomic_load(&v->viewing) : 0;
        for (unsigned look = 0; (seen & 1) && atomic_load(&v->viewing) == seen; look++) {
            if (look < LOOKS_AT_VIEW)
                __builtin_ia32_pause();
            else
                os_wait(&v->viewing, seen, LOOK_AGAIN_NS);      // nobody wakes: a view is soon left
        }
    }
}

static HRESULT kvm_map_changed(struct partition *p, gpa_t gpa, uint64_t size)
{
    struct kvm_partition *kvm = p->engine_data;
    struct kvm_quiesce quiesce = { .stop = kvm_stop_all, .go = kvm_go_all, .context = kvm };
    HRESULT hr = kvm_slots_update(&kvm->slots, &p->map, gpa, size, &quiesce);
    // Whoever uses the view on guest memory has looked the old map up: wait until that is over.
    atomic_fetch_add(&kvm->map_version, 1);
    pass_views(kvm);
    return hr;
}

static HRESULT kvm_collect_dirty(struct partition *p, gpa_t gpa, uint64_t size, uint64_t *bitmap)
{
    struct kvm_partition *kvm = p->engine_data;
    // The view's writes first. Each use of the view starts without translations and so marks what it writes
    // again; one that is under way has marked its page by now, or will: what it wrote is in memory when it has
    // passed.
    dirty_take(&p->dirty, gpa, size, bitmap);
    pass_views(kvm);
    return kvm_slots_dirty(&kvm->slots, gpa, size, bitmap);
}

static HRESULT kvm_reset(struct partition *p)
{
    struct kvm_partition *kvm = p->engine_data;
    HRESULT hr = S_OK;
    kvm_stop_all(kvm);
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS && SUCCEEDED(hr); n++)
        if (kvm->vcpus[n])
            hr = kvm_vcpu_reset(kvm->vcpus[n]);
    kvm_go_all(kvm);
    return hr;
}

// ---- State -------------------------------------------------------------------------------------------------------

static HRESULT kvm_get_page(struct vp *vp, void *page)
{
    struct kvm_vcpu *v = vp->engine_data;
    kvm_vcpu_stop(v);
    HRESULT hr = kvm_state_fetch(v, KVM_GROUP_APIC);
    if (SUCCEEDED(hr))
        memcpy(page, v->apic_page, sizeof v->apic_page);
    kvm_vcpu_go(v);
    return hr;
}

static HRESULT kvm_set_page(struct vp *vp, const void *page)
{
    struct kvm_vcpu *v = vp->engine_data;
    kvm_vcpu_stop(v);
    HRESULT hr = kvm_state_store_apic_base(v);
    if (SUCCEEDED(hr))
        hr = kvm_time_set_page(v, page, NULL);
    if (SUCCEEDED(hr))          // CR8 goes with the special registers, and would undo what the page says of it
        v->run->s.regs.sregs.cr8 = ((const uint8_t *)page)[0x80] >> 4;
    v->watch_eoi = true;
    kvm_vcpu_go(v);
    return hr;
}

static HRESULT kvm_translate_gva(struct vp *vp, gva_t gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                 WHV_TRANSLATE_GVA_RESULT *result, gpa_t *gpa)
{
    struct kvm_vcpu *v = vp->engine_data;
    kvm_vcpu_stop(v);
    kvm_view_enter(v);
    processor_forget_memory(&v->p);
    processor_translate(&v->p, gva, flags, result, gpa);
    kvm_view_leave(v);
    kvm_vcpu_go(v);
    return S_OK;
}

// Where KVM tells of EOIs late, processors are made to look at each instruction before the interrupt is on
// its way.
static HRESULT request_level(struct kvm_partition *kvm, const WHV_INTERRUPT_CONTROL *interrupt)
{
    pthread_rwlock_rdlock(&kvm->vcpus_lock);
    atomic_fetch_add(&kvm->level_requests, 1);
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS; n++) {
        struct kvm_vcpu *v = kvm->vcpus[n];
        if (!v)
            continue;
        kvm_vcpu_stop(v);
        v->watch_eoi = true;
        kvm_vcpu_go(v);
    }
    HRESULT hr = kvm_apic_request(&kvm->interrupts, interrupt);
    atomic_fetch_sub(&kvm->level_requests, 1);
    pthread_rwlock_unlock(&kvm->vcpus_lock);
    return hr;
}

static HRESULT kvm_request_interrupt(struct partition *p, const WHV_INTERRUPT_CONTROL *interrupt)
{
    struct kvm_partition *kvm = p->engine_data;
    HRESULT hr = S_OK;
    if (interrupt->Type != WHvX64InterruptTypeLocalInt1) {
        bool level = interrupt->TriggerMode == WHvX64InterruptTriggerModeLevel;
        return level && kvm->eoi_late ? request_level(kvm, interrupt) : kvm_apic_request(&kvm->interrupts, interrupt);
    }
    pthread_rwlock_rdlock(&kvm->vcpus_lock);
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS && SUCCEEDED(hr); n++) {
        struct kvm_vcpu *v = kvm->vcpus[n];
        if (!v)
            continue;
        kvm_vcpu_stop(v);
        hr = kvm_state_store_apic_base(v);
        if (SUCCEEDED(hr))
            hr = kvm_apic_local_interrupt(&kvm->interrupts, v->fd, v->apic_base, interrupt);
        kvm_vcpu_go(v);
    }
    pthread_rwlock_unlock(&kvm->vcpus_lock);
    return hr;
}

const struct engine engine_kvm = {
    .name = "kvm",
    .speed = 2,
    .probe = kvm_host_probe,
    .capabilities = kvm_host_capabilities,
    .setup = kvm_setup,
    .teardown = kvm_teardown,
    .reset = kvm_reset,
    .time_stop = kvm_time_stop,
    .time_start = kvm_time_start,
    .properties_changed = kvm_properties_changed,
    .map_changed = kvm_map_changed,
    .collect_dirty = kvm_collect_dirty,
    .vp_create = kvm_vcpu_create,
    .vp_destroy = kvm_vcpu_destroy,
    .vp_run = kvm_vcpu_run,
    .vp_cancel = kvm_vcpu_cancel,
    .vp_pause = kvm_vcpu_pause,
    .get_registers = kvm_get_registers,
    .set_registers = kvm_set_registers,
    .get_apic_page = kvm_get_page,
    .set_apic_page = kvm_set_page,
    .xsave_size = kvm_xsave_size,
    .get_xsave = kvm_get_xsave,
    .set_xsave = kvm_set_xsave,
    .get_private_state = kvm_get_private_state,
    .set_private_state = kvm_set_private_state,
    .translate_gva = kvm_translate_gva,
    .request_interrupt = kvm_request_interrupt,
    .cpuid = kvm_cpuid,
    .counters = kvm_counters,
    .memory_counters = kvm_memory_counters,
};
