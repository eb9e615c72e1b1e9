// Two engines that run nothing and record what they are asked.
#include "fake_engine.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "partition/partition.h"

struct fake_log fake_log;
struct engine_status fake_fast_status;
struct engine_status fake_fake_status;
struct engine_capabilities fake_fast_capabilities;
struct engine_capabilities fake_fake_capabilities;
HRESULT fake_setup_result;
HRESULT fake_map_result;
HRESULT fake_property_result;
HRESULT fake_collect_result;
HRESULT fake_counters_result;
UINT64 fake_written;
bool fake_run_blocks;

// One processor: a latch for cancels, a page for its APIC, one register.
struct fake_vp {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool cancelled;
    uint8_t apic[4096];
    UINT64 rax;
};

void fake_reset(void)
{
    struct engine_capabilities all = {
        .features.PartialUnmap = 1,
        .features.LocalApicEmulation = 1,
        .features.DirtyPageTracking = 1,
        .extended_vm_exits.AsUINT64 = 0x2F,
        .exception_exit_bitmap = 0xFFFFF,
        .msr_exit_bitmap.AsUINT64 = 0x3F,
        .vendor = WHvProcessorVendorIntel,
        .processor_features.BanksCount = 2,
        .processor_features.Bank0.AsUINT64 = 0x1FF,
        .processor_features.Bank1.AsUINT64 = 0x2,
        .clflush_units = 8,
        .physical_address_width = 40,
        .processor_clock_hz = 2000000000,
        .interrupt_clock_hz = 200000000,
        .max_processors = 64,
        .apic_emulation = true,
    };

    memset(&fake_log, 0, sizeof(fake_log));
    fake_fast_status = (struct engine_status){true, true, "the host has it"};
    fake_fake_status = (struct engine_status){true, true, "it needs nothing"};
    fake_fake_capabilities = fake_fast_capabilities = all;
    fake_fast_capabilities.extended_vm_exits.X64CpuidExit = 0;
    fake_fast_capabilities.max_processors = 8;
    fake_fast_capabilities.processor_clock_hz = 3000000000;
    fake_setup_result = S_OK;
    fake_map_result = S_OK;
    fake_property_result = S_OK;
    fake_collect_result = S_OK;
    fake_counters_result = S_OK;
    fake_written = 0;
    fake_run_blocks = false;
}

static void fast_probe(struct engine_status *status)
{
    *status = fake_fast_status;
}

static void fake_probe(struct engine_status *status)
{
    *status = fake_fake_status;
}

static const struct engine_capabilities *fast_capabilities(void)
{
    return &fake_fast_capabilities;
}

static const struct engine_capabilities *fake_capabilities(void)
{
    return &fake_fake_capabilities;
}

static HRESULT fake_setup(struct partition *p)
{
    (void)p;
    fake_log.setups++;
    return S_OK;
}

static HRESULT fast_setup(struct partition *p)
{
    HRESULT hr = fake_setup(p);

    return FAILED(fake_setup_result) ? fake_setup_result : hr;
}

static void fake_teardown(struct partition *p)
{
    (void)p;
    fake_log.teardowns++;
}

static HRESULT fake_properties_changed(struct partition *p)
{
    fake_log.property_changes++;
    fake_log.cpuid_exit_count = p->properties.cpuid_exit_count;
    return fake_property_result;
}

static HRESULT fake_map_changed(struct partition *p, gpa_t gpa, uint64_t size)
{
    (void)p;
    fake_log.map_changes++;
    fake_log.map_gpa = gpa;
    fake_log.map_size = size;
    return fake_map_result;
}

static HRESULT fake_collect_dirty(struct partition *p, gpa_t gpa, uint64_t size, uint64_t *bitmap)
{
    dirty_take(&p->dirty, gpa, size, bitmap);
    bitmap[0] |= fake_written;
    fake_written = 0;
    return fake_collect_result;
}

static HRESULT fake_vp_create(struct vp *vp)
{
    struct fake_vp *fake = calloc(1, sizeof(*fake));

    if (!fake)
        return E_OUTOFMEMORY;
    pthread_mutex_init(&fake->lock, NULL);
    pthread_cond_init(&fake->changed, NULL);
    vp->engine_data = fake;
    fake_log.creates++;
    return S_OK;
}

static void fake_vp_destroy(struct vp *vp)
{
    struct fake_vp *fake = vp->engine_data;

    pthread_cond_destroy(&fake->changed);
    pthread_mutex_destroy(&fake->lock);
    free(fake);
    fake_log.destroys++;
}

static HRESULT fake_vp_run(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct fake_vp *fake = vp->engine_data;

    pthread_mutex_lock(&fake->lock);
    fake_log.runs++;
    while (fake_run_blocks && !fake->cancelled)
        pthread_cond_wait(&fake->changed, &fake->lock);
    memset(exit, 0, sizeof(*exit));
    exit->ExitReason = fake->cancelled ? WHvRunVpExitReasonCanceled : WHvRunVpExitReasonX64IoPortAccess;
    exit->VpContext.Rip = 0x1234;
    fake->cancelled = false;
    pthread_mutex_unlock(&fake->lock);
    return S_OK;
}

static void fake_vp_cancel(struct vp *vp)
{
    struct fake_vp *fake = vp->engine_data;

    pthread_mutex_lock(&fake->lock);
    fake->cancelled = true;
    fake_log.cancels++;
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
}

static HRESULT fake_get_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count,
                                  WHV_REGISTER_VALUE *values)
{
    struct fake_vp *fake = vp->engine_data;

    // The api layer promises aligned arrays.
    if ((uintptr_t)values % _Alignof(WHV_REGISTER_VALUE) != 0)
        return E_UNEXPECTED;
    for (UINT32 i = 0; i < count; i++) {
        if (names[i] != WHvX64RegisterRax)
            return WHV_E_INVALID_VP_REGISTER_NAME;
        values[i].Reg64 = fake->rax;
    }
    return S_OK;
}

static HRESULT fake_set_registers(struct vp *vp, const WHV_REGISTER_NAME *names, UINT32 count,
                                  const WHV_REGISTER_VALUE *values)
{
    struct fake_vp *fake = vp->engine_data;

    if ((uintptr_t)values % _Alignof(WHV_REGISTER_VALUE) != 0)
        return E_UNEXPECTED;
    for (UINT32 i = 0; i < count; i++) {
        if (names[i] != WHvX64RegisterRax)
            return WHV_E_INVALID_VP_REGISTER_NAME;
        fake->rax = values[i].Reg64;
    }
    return S_OK;
}

static HRESULT fake_get_apic_page(struct vp *vp, void *page)
{
    memcpy(page, ((struct fake_vp *)vp->engine_data)->apic, 4096);
    return S_OK;
}

static HRESULT fake_set_apic_page(struct vp *vp, const void *page)
{
    memcpy(((struct fake_vp *)vp->engine_data)->apic, page, 4096);
    return S_OK;
}

static HRESULT fake_translate_gva(struct vp *vp, gva_t gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                  WHV_TRANSLATE_GVA_RESULT *result, gpa_t *gpa)
{
    (void)vp, (void)flags;
    result->ResultCode = WHvTranslateGvaResultSuccess;
    *gpa = gva + 0x1000;
    return S_OK;
}

static HRESULT fake_request_interrupt(struct partition *p, const WHV_INTERRUPT_CONTROL *interrupt)
{
    (void)p, (void)interrupt;
    fake_log.interrupts++;
    return S_OK;
}

static void fake_cpuid(struct vp *vp, UINT32 leaf, UINT32 subleaf, UINT32 out[4])
{
    (void)vp;
    out[0] = leaf;
    out[1] = subleaf;
    out[2] = out[3] = 0xFFFFFFFF;
}

static HRESULT fake_counters(struct vp *vp, struct processor_counters *counters)
{
    (void)vp;
    *counters = (struct processor_counters){ .runtime = { 1, 2 }, .events = { 3, 4, 5 }, .apic = { 6, 7, 8, 9, 10 } };
    counters->intercepts.RdpmcInstructions.Time100ns = 11;
    counters->synthetic_features.VirtualMmuHypercallsCount = 12;
    return fake_counters_result;
}

static HRESULT fake_memory_counters(struct partition *p, WHV_PARTITION_MEMORY_COUNTERS *counters)
{
    (void)p;
    *counters = (WHV_PARTITION_MEMORY_COUNTERS){ 13, 14, 15 };
    return fake_counters_result;
}

static UINT64 fake_instruction_count(struct vp *vp)
{
    (void)vp;
    return 42;
}

#define COMMON_FUNCTIONS                                                                                     \
    .teardown = fake_teardown, .properties_changed = fake_properties_changed,                                \
    .map_changed = fake_map_changed, .collect_dirty = fake_collect_dirty,                                    \
    .vp_create = fake_vp_create, .vp_destroy = fake_vp_destroy,                                              \
    .vp_run = fake_vp_run, .vp_cancel = fake_vp_cancel, .get_registers = fake_get_registers,                 \
    .set_registers = fake_set_registers, .get_apic_page = fake_get_apic_page,                                \
    .set_apic_page = fake_set_apic_page, .translate_gva = fake_translate_gva,                                \
    .request_interrupt = fake_request_interrupt, .cpuid = fake_cpuid, .counters = fake_counters,             \
    .memory_counters = fake_memory_counters

static const struct engine engine_fast = {
    .name = "fast", .speed = 2, .probe = fast_probe, .capabilities = fast_capabilities, .setup = fast_setup,
    COMMON_FUNCTIONS,
};

static const struct engine engine_fake = {
    .name = "fake", .speed = 1, .probe = fake_probe, .capabilities = fake_capabilities, .setup = fake_setup,
    COMMON_FUNCTIONS, .instruction_count = fake_instruction_count,
};

const struct engine *const engines[] = {&engine_fast, &engine_fake, NULL};
