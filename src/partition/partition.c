// The life of a partition: create, choose and set up an engine, change memory, stop, free.
#include "partition/partition.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os/tsc.h"
#include "partition/capabilities.h"
#include "partition/features.h"
#include "partition/handover.h"
#include "partition/migration.h"
#include "partition/policy.h"

// The wish has changed: defaults are those of the engines that it allows.
static void wish_changed_locked(struct partition *p)
{
    struct engine_capabilities capabilities;

    p->engine_report[0] = '\0';
    if (!engine_wish_capabilities(&p->wish, &capabilities))
        memset(&capabilities, 0, sizeof(capabilities));
    property_defaults(&p->properties, &capabilities);
}

HRESULT partition_create(struct partition **created)
{
    struct partition *p = calloc(1, sizeof(*p));

    if (!p)
        return E_OUTOFMEMORY;
    if (pthread_mutex_init(&p->lock, NULL) != 0)
        goto no_lock;
    if (pthread_cond_init(&p->vp_unused, NULL) != 0)
        goto no_condition;
    if (FAILED(gpa_map_init(&p->map)))
        goto no_map;
    p->state = PARTITION_CREATED;
    engine_wish_from_environment(&p->wish);
    wish_changed_locked(p);
    *created = p;
    return S_OK;

no_map:
    pthread_cond_destroy(&p->vp_unused);
no_condition:
    pthread_mutex_destroy(&p->lock);
no_lock:
    free(p);
    return E_OUTOFMEMORY;
}

bool partition_capabilities_locked(struct partition *p, struct engine_capabilities *capabilities)
{
    if (!p->engine)
        return engine_wish_capabilities(&p->wish, capabilities);
    capabilities_of(p->engine, capabilities);
    return true;
}

HRESULT partition_setup_locked(struct partition *p)
{
    HRESULT hr = partition_bring_up_locked(p);

    if (SUCCEEDED(hr))
        p->state = PARTITION_SET_UP;
    return hr;
}

void partition_tear_down_locked(struct partition *p)
{
    for (unsigned int i = 0; i < PARTITION_MAX_PROCESSORS; i++) {
        if (!p->vps[i])
            continue;
        p->vps[i]->references = 0;
        p->engine->vp_destroy(p->vps[i]);
        placement_vp_destroy_locked(p->vps[i]);
        p->vps[i] = NULL;
    }
    policy_tear_down_locked(p);
    if (p->engine)
        p->engine->teardown(p);
    p->engine = NULL;
    gpa_map_clear(&p->map);
}

static HRESULT choose_and_set_up_locked(struct partition *p)
{
    char passed[ENGINE_REPORT_SIZE] = "";
    const struct engine *engine;
    HRESULT hr = WHV_E_INVALID_PARTITION_CONFIG;
    struct engine_capabilities capabilities, chosen;
    // What is not the caller's own in them is each engine's.
    const WHV_PROCESSOR_FEATURES_BANKS features = p->properties.processor_features;
    struct feature_conflict conflict;
    int place = -1;

    if (p->properties.processor_count == 0)
        return WHV_E_INVALID_PARTITION_CONFIG;
    if (engine_wish_faulty(&p->wish) || !engine_wish_capabilities(&p->wish, &capabilities))
        return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;

    // An engine whose own set-up fails (the host refuses it, say) is passed over like one that lacks a
    // feature.
    while ((engine = engine_choose(&p->wish, &p->properties, &place, passed, sizeof(passed)))) {
        capabilities_of(engine, &chosen);
        property_defaults(&p->properties, &chosen);
        hr = features_settle(&p->properties, &chosen, &conflict);
        if (FAILED(hr)) {
            engine_text_add(passed, sizeof(passed), "%s passed over: of the features that were set %s needs %s\n",
                            engine->name, conflict.feature, conflict.without);
            continue;
        }
        p->engine = engine;
        hr = engine->setup(p);
        if (SUCCEEDED(hr)) {
            engine_report_write(p->engine_report, sizeof(p->engine_report), &p->wish, engine, &p->properties,
                                passed);
            return S_OK;
        }
        p->engine = NULL;
        p->engine_data = NULL;
        engine_text_add(passed, sizeof(passed), "%s passed over: its set-up failed with 0x%08X\n",
                        engine->name, (unsigned int)hr);
    }
    p->properties.processor_features = features;
    property_defaults(&p->properties, &capabilities);
    engine_report_write(p->engine_report, sizeof(p->engine_report), &p->wish, NULL, &p->properties, passed);
    return hr;
}

HRESULT partition_bring_up_locked(struct partition *p)
{
    HRESULT hr = choose_and_set_up_locked(p);

    if (FAILED(hr))
        return hr;
    hr = policy_set_up_locked(p);
    if (FAILED(hr))
        partition_tear_down_locked(p);
    return hr;
}

// ---- Standing still ------------------------------------------------------------------------------------------------

HRESULT partition_hold_locked(struct partition *p)
{
    struct vp *vp;

    for (unsigned int i = 0; i < PARTITION_MAX_PROCESSORS; i++) {
        if (!p->vps[i] || SUCCEEDED(partition_vp_claim(p, i, &vp)))
            continue;
        while (i-- > 0)
            if (p->vps[i])
                partition_vp_release_locked(p->vps[i]);
        return HRESULT_FROM_WIN32(ERROR_INVALID_STATE);
    }
    return S_OK;
}

// Calls that change a processor pin it. None of them waits for anything but the processor.
static bool others_inside(struct partition *p)
{
    for (unsigned int i = 0; i < PARTITION_MAX_PROCESSORS; i++)
        if (p->vps[i] && p->vps[i]->references != (VP_LIVE | VP_CLAIMED) + 1)
            return true;
    return p->requests != 0;
}

HRESULT partition_close_locked(struct partition *p, enum partition_state state)
{
    HRESULT hr = partition_hold_locked(p);

    if (FAILED(hr))
        return hr;
    p->state = state;
    while (others_inside(p))
        sched_yield();
    return S_OK;
}

bool partition_request_begin(struct partition *p)
{
    atomic_fetch_add(&p->requests, 1);
    if (p->state == PARTITION_SET_UP)
        return true;
    partition_request_end(p);
    return false;
}

void partition_request_end(struct partition *p)
{
    atomic_fetch_sub(&p->requests, 1);
}

void partition_let_run_locked(struct partition *p)
{
    for (unsigned int i = 0; i < PARTITION_MAX_PROCESSORS; i++)
        if (p->vps[i])
            partition_vp_release_locked(p->vps[i]);
}

HRESULT partition_reset_locked(struct partition *p)
{
    HRESULT hr = partition_hold_locked(p);
    bool ran;

    if (FAILED(hr))
        return hr;
    hr = partition_freeze_time_locked(p, &ran);
    if (SUCCEEDED(hr)) {
        clock_set(&p->clock, 0);
        hr = p->engine->reset(p);
    }
    partition_let_run_locked(p);
    return hr;
}

HRESULT partition_freeze_time_locked(struct partition *p, bool *ran)
{
    HRESULT hr = S_OK;

    *ran = clock_runs(&p->clock);
    if (*ran && p->engine->time_stop)
        hr = p->engine->time_stop(p);
    if (FAILED(hr) && hr != E_NOTIMPL)
        return hr;
    clock_stop(&p->clock);
    return S_OK;
}

HRESULT partition_stop_time_locked(struct partition *p)
{
    HRESULT hr = partition_hold_locked(p);

    if (FAILED(hr))
        return hr;
    if (clock_runs(&p->clock)) {
        if (p->engine->time_stop)
            hr = p->engine->time_stop(p);
        if (SUCCEEDED(hr))
            clock_stop(&p->clock);
    }
    partition_let_run_locked(p);
    return hr;
}

HRESULT partition_start_time_locked(struct partition *p)
{
    HRESULT hr = S_OK;

    if (clock_runs(&p->clock))
        return S_OK;
    if (p->engine->time_start)
        hr = p->engine->time_start(p);
    if (SUCCEEDED(hr))
        clock_start(&p->clock);
    return hr;
}

UINT64 partition_reference_time(const struct partition *p)
{
    return p->properties.reference_time + clock_scale(clock_ticks(&p->clock), 10000000, os_tsc_hz());
}

// ---- Engine and properties -----------------------------------------------------------------------------------------

static void report_dry_run(const struct engine_wish *wish, const struct property_values *values, char *report,
                           size_t size)
{
    char passed[ENGINE_REPORT_SIZE] = "";
    const struct engine *engine = NULL;
    int place = -1;

    if (!engine_wish_faulty(wish))
        engine = engine_choose(wish, values, &place, passed, sizeof(passed));
    engine_report_write(report, size, wish, engine, values, passed);
}

void partition_report_locked(struct partition *p, char *report, size_t size)
{
    if (p->engine_report[0])
        snprintf(report, size, "%s", p->engine_report);
    else
        report_dry_run(&p->wish, &p->properties, report, size);
}

void partition_report_default(char *report, size_t size)
{
    struct property_values values = {.set_rows = 0};
    struct engine_wish wish;

    engine_wish_from_environment(&wish);
    report_dry_run(&wish, &values, report, size);
}

HRESULT partition_set_engine_locked(struct partition *p, const char *name)
{
    if (!engine_wish_set_name(&p->wish, name))
        return E_INVALIDARG;
    wish_changed_locked(p);
    return S_OK;
}

HRESULT partition_set_relaxations_locked(struct partition *p, const char *list)
{
    if (!engine_wish_set_relaxations(&p->wish, list))
        return E_INVALIDARG;
    wish_changed_locked(p);
    return S_OK;
}

HRESULT partition_set_property_locked(struct partition *p, const struct property *property,
                                      const void *buffer, UINT32 size)
{
    struct property_values before = p->properties;
    struct engine_capabilities capabilities;
    void *replaced;
    HRESULT hr, again;

    if (!partition_capabilities_locked(p, &capabilities))
        return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
    // What was relaxed may be asked for, and will not be insisted on.
    property_relax(&capabilities, p->wish.relaxed);
    hr = property_set(&p->properties, property, buffer, size, &capabilities, &replaced);
    if (FAILED(hr))
        return hr;
    if (p->engine)
        hr = p->engine->properties_changed(p);
    else
        p->engine_report[0] = '\0';
    if (FAILED(hr)) {
        property_put_back(&p->properties, property, &before, &replaced);
        // What the engine answers changes nothing for the caller, whose call has failed.
        again = p->engine->properties_changed(p);
        (void)again;
    }
    free(replaced);
    return hr;
}

// The map has changed inside [gpa, gpa + size): have the engine follow, or take the change back.
CHECKED static HRESULT follow_map_locked(struct partition *p, gpa_t gpa, uint64_t size, struct gpa_map_undo *undo)
{
    HRESULT hr = p->engine->map_changed(p, gpa, size), again;

    handover_forget(p);

    if (SUCCEEDED(hr)) {
        placement_replaced_locked(p, gpa, size, undo->old, undo->old_count);
        gpa_map_keep(undo);
        return hr;
    }
    gpa_map_restore(&p->map, undo);
    // A running processor may have met the new map meanwhile, and must forget it. What the engine answers changes
    // nothing for the caller, whose call has failed.
    again = p->engine->map_changed(p, gpa, size);
    (void)again;
    return hr;
}

static bool tracked(const struct gpa_range *range)
{
    return range->flags & WHvMapGpaRangeFlagTrackDirtyPages;
}

// Move what the engine knows of written pages into the record, for the parts of [gpa, end) that are tracked.
CHECKED static HRESULT drain_locked(struct partition *p, gpa_t gpa, gpa_t end)
{
    struct gpa_range range;
    HRESULT hr = S_OK;

    for (gpa_t at = gpa; SUCCEEDED(hr) && gpa_map_next(&p->map, at, &range) && range.gpa < end;
         at = range.gpa + range.size) {
        gpa_t low = range.gpa > gpa ? range.gpa : gpa;
        gpa_t high = range.gpa + range.size < end ? range.gpa + range.size : end;
        uint64_t *bitmap;

        if (!tracked(&range))
            continue;
        bitmap = calloc(dirty_words(high - low), sizeof(*bitmap));
        if (!bitmap)
            return E_OUTOFMEMORY;
        hr = p->engine->collect_dirty(p, low, high - low, bitmap);
        dirty_put(&p->dirty, low, high - low, bitmap);
        free(bitmap);
    }
    return hr;
}

CHECKED static HRESULT change_map_locked(struct partition *p, const struct gpa_range *range)
{
    struct gpa_map_undo undo;
    HRESULT hr = placement_map_locked(p, range);

    if (FAILED(hr))
        return hr;
    hr = gpa_map_insert(&p->map, range, &undo);
    if (SUCCEEDED(hr))
        hr = follow_map_locked(p, range->gpa, range->size, &undo);
    if (FAILED(hr))
        placement_unmapped_locked(p, range->host, range->size);
    return hr;
}

HRESULT partition_map_locked(struct partition *p, const struct gpa_range *range)
{
    uint64_t *before;
    HRESULT hr;

    if (!tracked(range))
        return change_map_locked(p, range);
    hr = dirty_reserve(&p->dirty, range->gpa, range->size);
    if (SUCCEEDED(hr))
        hr = drain_locked(p, range->gpa, range->gpa + range->size);
    if (FAILED(hr))
        return hr;
    before = calloc(dirty_words(range->size), sizeof(*before));
    if (!before)
        return E_OUTOFMEMORY;
    // All pages start clean, and do so before a processor can find the range: what it marks then must stay.
    // Should the change fail, the pages of what was there before are as dirty as they were.
    dirty_take(&p->dirty, range->gpa, range->size, before);
    dirty_take(&p->unasked, range->gpa, range->size, before);
    hr = change_map_locked(p, range);
    if (FAILED(hr))
        dirty_put(&p->dirty, range->gpa, range->size, before);
    free(before);
    return hr;
}

HRESULT partition_unmap_locked(struct partition *p, gpa_t gpa, uint64_t size)
{
    struct gpa_map_undo undo;
    HRESULT hr = gpa_map_remove(&p->map, gpa, size, &undo);

    return SUCCEEDED(hr) ? follow_map_locked(p, gpa, size, &undo) : hr;
}

static bool all_tracked_locked(struct partition *p, gpa_t gpa, uint64_t size)
{
    struct gpa_range range;

    for (gpa_t at = gpa; at < gpa + size; at = range.gpa + range.size)
        if (!gpa_map_find(&p->map, at, &range) || !tracked(&range))
            return false;
    return true;
}

HRESULT partition_query_dirty_locked(struct partition *p, gpa_t gpa, uint64_t size, uint64_t *bitmap)
{
    uint64_t *own = NULL;
    HRESULT hr;

    if (!all_tracked_locked(p, gpa, size))
        return WHV_E_GPA_RANGE_NOT_FOUND;
    if (!bitmap)
        bitmap = own = calloc(dirty_words(size), sizeof(*own));
    else
        memset(bitmap, 0, dirty_words(size) * sizeof(*bitmap));
    if (!bitmap)
        return E_OUTOFMEMORY;
    hr = p->engine->collect_dirty(p, gpa, size, bitmap);
    if (FAILED(hr)) {
        dirty_put(&p->dirty, gpa, size, bitmap);
    } else {
        handover_note(p, gpa, size, bitmap);
        dirty_take(&p->unasked, gpa, size, bitmap);
    }
    free(own);
    return hr;
}

void partition_stop(struct partition *p)
{
    pthread_mutex_lock(&p->lock);
    migration_leave(p);
    // First the state, then the cancel: a thread that claims a processor looks at the state afterwards, so it
    // either sees that, or is there to be cancelled.
    p->state = PARTITION_DELETED;
    for (unsigned int i = 0; i < PARTITION_MAX_PROCESSORS; i++)
        if (p->vps[i])
            partition_vp_cancel(p->vps[i]);
    pthread_mutex_unlock(&p->lock);
}

void partition_free(struct partition *p)
{
    pthread_mutex_lock(&p->lock);
    if (p->engine)
        partition_tear_down_locked(p);
    migration_release(p);
    pthread_mutex_unlock(&p->lock);

    for (unsigned int i = 0; i < PARTITION_MAX_PROCESSORS; i++)
        free(p->vp_memory[i]);
    property_release(&p->properties);
    dirty_destroy(&p->dirty);
    dirty_destroy(&p->unasked);
    gpa_map_destroy(&p->map);
    pthread_cond_destroy(&p->vp_unused);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
