// Every row of properties.def through the API, on each engine that runs here: below, at and above each bound, sizes,
// before and after set-up; and codes that are no row.
//
// What is expected comes from the row. What a row's kind of range means is tested in test_property.c.
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/handle.h"
#include "bulkhead/bulkhead.h"
#include "partition/capabilities.h"
#include "partition/partition.h"
#include "partition/placement.h"

#define NOT_SUPPORTED HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)
#define UNION_SIZE ((UINT32)sizeof(WHV_PARTITION_PROPERTY))

struct walk {
    const struct engine *engine;
    struct engine_capabilities capabilities;
    const struct property *row;
    WHV_PARTITION_HANDLE p;
    unsigned int accepted, refused;
};

// A value, or the two entries of a list of which the second varies.
union value {
    WHV_PARTITION_PROPERTY value;
    uint8_t bytes[128];
};

static WHV_PARTITION_HANDLE created(const struct engine *engine)
{
    const UINT32 one = 1;
    WHV_PARTITION_HANDLE p;

    assert_ok(WHvCreatePartition(&p));
    assert_ok(BulkheadSetEngine(p, engine->name));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &one, sizeof(one)));
    return p;
}

static UINT32 bytes_set(const struct property *row)
{
    return property_is_list(row) ? 2 * row->size : row->size;
}

static UINT64 part_max(const struct walk *w, const struct property_part *part)
{
    UINT32 size = property_part_size(w->row, part);

    return size == 8 ? UINT64_MAX : (1ull << 8 * size) - 1;
}

// What is stored: read by the API, or for lists, which it does not read, from the partition. Room for the bytes of two
// entries; a list of another length shows as bytes that nobody sets.
static void stored(const struct walk *w, union value *value)
{
    UINT32 written = 0, count;
    const void *list;

    memset(value, 0xA5, sizeof(*value));
    if (!property_is_list(w->row)) {
        assert_ok(WHvGetPartitionProperty(w->p, w->row->code, value, sizeof(*value), &written));
        assert_int_equal(written, w->row->size);
        return;
    }
    list = property_value(&handle_pin(w->p)->properties, w->row, &count);
    if (count == 2)
        memcpy(value, list, 2 * w->row->size);
    handle_unpin(w->p);
}

// Set it and look: it is stored when it was accepted, and nothing has changed when not.
static void attempt(struct walk *w, const union value *value, bool lawful)
{
    union value before, after;
    HRESULT hr;

    stored(w, &before);
    hr = WHvSetPartitionProperty(w->p, w->row->code, value, bytes_set(w->row));
    if (hr != (lawful ? S_OK : E_INVALIDARG)) {
        fprintf(stderr, "%s, %s: 0x%08X for", w->engine->name, w->row->name, (unsigned int)hr);
        for (UINT32 i = 0; i < bytes_set(w->row); i++)
            fprintf(stderr, " %02X", value->bytes[i]);
        fail_msg("%s expected", lawful ? "success" : "a refusal");
    }
    stored(w, &after);
    assert_memory_equal(&after, lawful ? value : &before, bytes_set(w->row));
    *(lawful ? &w->accepted : &w->refused) += 1;
}

static void put(const struct walk *w, union value *value, const struct property_part *part, UINT64 number)
{
    UINT32 entry = property_is_list(w->row) ? w->row->size : 0;

    memcpy(value->bytes + entry + part->offset, &number, property_part_size(w->row, part));
}

// Each part at its lowest: lawful, whatever the row.
static void lowest(const struct walk *w, union value *value)
{
    memset(value, 0, sizeof(*value));
    for (unsigned int n = 0; n < w->row->part_count; n++) {
        const struct property_part *part = &w->row->parts[n];
        UINT64 low = property_bounds(part, &w->capabilities).low;

        put(w, value, part, low);
        if (property_is_list(w->row))
            memcpy(value->bytes + part->offset, &low, property_part_size(w->row, part));
    }
}

static void walk_part(struct walk *w, const struct property_part *part)
{
    const struct property_bounds bounds = property_bounds(part, &w->capabilities);
    const UINT64 max = part_max(w, part);
    union value value;

    lowest(w, &value);
    if (bounds.bits) {
        for (UINT64 bit = 1; bit && bit <= max; bit <<= 1) {
            put(w, &value, part, bit);
            attempt(w, &value, bounds.high & bit);
        }
        put(w, &value, part, bounds.high);
        attempt(w, &value, true);
        put(w, &value, part, max);
        attempt(w, &value, bounds.high == max);
        return;
    }
    assert_true(bounds.low <= bounds.high && bounds.high <= max);
    if (bounds.low > 0) {
        put(w, &value, part, bounds.low - 1);
        attempt(w, &value, false);
        put(w, &value, part, 0);
        attempt(w, &value, false);
    }
    put(w, &value, part, bounds.low);
    attempt(w, &value, true);
    put(w, &value, part, bounds.high);
    attempt(w, &value, true);
    if (bounds.high < max) {
        put(w, &value, part, bounds.high + 1);
        attempt(w, &value, false);
        put(w, &value, part, max);
        attempt(w, &value, false);
    }
}

static void walk_bounds(struct walk *w)
{
    union value value;

    for (unsigned int n = 0; n < w->row->part_count; n++)
        walk_part(w, &w->row->parts[n]);
    if (w->row->part_count == 0) {
        memset(&value, 0, sizeof(value));
        attempt(w, &value, true);
        memset(&value, 0xFF, sizeof(value));
        attempt(w, &value, true);
    }
    lowest(w, &value);
    attempt(w, &value, true);
}

static void walk_value_sizes(struct walk *w)
{
    const struct property *row = w->row;
    union value value, again;
    UINT32 needed = 0;

    lowest(w, &value);
    assert_hr(WHvSetPartitionProperty(w->p, row->code, &value, 0), E_INVALIDARG);
    assert_hr(WHvSetPartitionProperty(w->p, row->code, &value, row->size - 1), E_INVALIDARG);
    assert_hr(WHvSetPartitionProperty(w->p, row->code, NULL, row->size), E_POINTER);
    assert_hr(WHvSetPartitionProperty(w->p, row->code, NULL, 0), E_POINTER);
    // What is longer is the union's, most likely.
    assert_ok(WHvSetPartitionProperty(w->p, row->code, &value, row->size + 1));
    assert_ok(WHvSetPartitionProperty(w->p, row->code, &value, UNION_SIZE));

    assert_hr(WHvGetPartitionProperty(w->p, row->code, &again, row->size - 1, &needed), WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(needed, row->size);
    assert_hr(WHvGetPartitionProperty(w->p, row->code, &again, 0, NULL), WHV_E_INSUFFICIENT_BUFFER);
    assert_hr(WHvGetPartitionProperty(w->p, row->code, NULL, row->size, NULL), E_POINTER);
    memset(&again, 0x5A, sizeof(again));
    assert_ok(WHvGetPartitionProperty(w->p, row->code, &again, row->size, NULL));
    assert_memory_equal(&again, &value, row->size);
    assert_int_equal(again.bytes[row->size], 0x5A);
}

static void walk_list_sizes(struct walk *w)
{
    const struct property *row = w->row;
    uint8_t *many = calloc(PROPERTY_LIST_MAX + 1, row->size);
    union value value;
    UINT32 count;

    assert_non_null(many);
    lowest(w, &value);
    assert_hr(WHvSetPartitionProperty(w->p, row->code, &value, 1), E_INVALIDARG);
    assert_hr(WHvSetPartitionProperty(w->p, row->code, &value, row->size - 1), E_INVALIDARG);
    assert_hr(WHvSetPartitionProperty(w->p, row->code, &value, row->size + 1), E_INVALIDARG);
    assert_hr(WHvSetPartitionProperty(w->p, row->code, NULL, row->size), E_POINTER);
    assert_hr(WHvGetPartitionProperty(w->p, row->code, &value, sizeof(value), NULL), NOT_SUPPORTED);
    assert_ok(WHvSetPartitionProperty(w->p, row->code, many, PROPERTY_LIST_MAX * row->size));
    assert_hr(WHvSetPartitionProperty(w->p, row->code, many, (PROPERTY_LIST_MAX + 1) * row->size), E_INVALIDARG);
    (void)property_value(&handle_pin(w->p)->properties, row, &count);
    handle_unpin(w->p);
    assert_int_equal(count, PROPERTY_LIST_MAX);
    // The end of the list is checked like its beginning.
    for (unsigned int n = 0; n < row->part_count; n++) {
        const struct property_part *part = &row->parts[n];

        memset(many + (PROPERTY_LIST_MAX - 1) * row->size + part->offset, 0xFF, property_part_size(row, part));
        assert_hr(WHvSetPartitionProperty(w->p, row->code, many, PROPERTY_LIST_MAX * row->size), E_INVALIDARG);
        memset(many + (PROPERTY_LIST_MAX - 1) * row->size + part->offset, 0, property_part_size(row, part));
    }
    assert_ok(WHvSetPartitionProperty(w->p, row->code, NULL, 0));
    assert_null(property_value(&handle_pin(w->p)->properties, row, &count));
    handle_unpin(w->p);
    assert_int_equal(count, 0);
    assert_ok(WHvSetPartitionProperty(w->p, row->code, &value, 0));
    free(many);
}

static void walk_before_set_up(struct walk *w)
{
    walk_bounds(w);
    if (property_is_list(w->row))
        walk_list_sizes(w);
    else
        walk_value_sizes(w);
}

// What no bound says: the host may be one that cannot keep cores apart.
static bool host_can(const struct property *row, const union value *value)
{
    if (row->code == WHvPartitionPropertyCodeDisableSmt)
        return !value->bytes[0] || placement_offers_no_smt();
    if (row->code == WHvPartitionPropertyCodeSeparateSecurityDomain)
        return !value->bytes[0] || placement_offers_domains();
    return true;
}

// What is set before set-up is there after it, and can be changed then or not.
static void walk_set_up(struct walk *w, const union value *value)
{
    union value now;

    w->p = created(w->engine);
    assert_ok(WHvSetPartitionProperty(w->p, w->row->code, value, bytes_set(w->row)));
    if (!host_can(w->row, value)) {
        assert_hr(WHvSetupPartition(w->p), WHV_E_INVALID_PARTITION_CONFIG);
        assert_ok(WHvDeletePartition(w->p));
        return;
    }
    assert_ok(WHvSetupPartition(w->p));
    stored(w, &now);
    assert_memory_equal(&now, value, bytes_set(w->row));
    if (w->row->after_setup) {
        walk_before_set_up(w);
    } else {
        union value other;

        lowest(w, &other);
        attempt(w, value, false);
        attempt(w, &other, false);
        assert_hr(WHvSetPartitionProperty(w->p, w->row->code, &now, property_is_list(w->row) ? 0 : UNION_SIZE),
                  E_INVALIDARG);
    }
    assert_ok(WHvDeletePartition(w->p));
}

// The values that set-up is tried with: a number at both of its ends. What bits mean together is up to the engine; it
// has what is the default.
static void walk_over_set_up(struct walk *w)
{
    bool ends = property_is_list(w->row) || w->row->part_count != 1 ? false
                                                                   : w->row->parts[0].range != PROPERTY_BITS;
    union value value;

    if (property_is_list(w->row)) {
        lowest(w, &value);
        walk_set_up(w, &value);
        return;
    }
    w->p = created(w->engine);
    stored(w, &value);
    assert_ok(WHvDeletePartition(w->p));
    walk_set_up(w, &value);
    if (!ends)
        return;
    lowest(w, &value);
    walk_set_up(w, &value);
    put(w, &value, w->row->parts, property_bounds(w->row->parts, &w->capabilities).high);
    walk_set_up(w, &value);
}

// The default is what the row says, and is lawful; but for the number of processors, which has to be set.
static void walk_default(struct walk *w)
{
    union value value;

    assert_ok(WHvCreatePartition(&w->p));
    assert_ok(BulkheadSetEngine(w->p, w->engine->name));
    if (!property_is_list(w->row)) {
        stored(w, &value);
        if (w->row->initial_offered != PROPERTY_NOTHING)
            assert_memory_equal(&value, (const char *)&w->capabilities + w->row->initial_offered, w->row->size);
        else if (w->row->size <= 8)
            assert_memory_equal(&value, &w->row->initial, w->row->size);
        assert_int_equal(property_check(w->row, &value, 1, &w->capabilities),
                         w->row->code != WHvPartitionPropertyCodeProcessorCount);
    }
    assert_ok(WHvDeletePartition(w->p));
}

static void walk_unknown(const struct walk *w, WHV_PARTITION_PROPERTY_CODE code)
{
    union value value;

    memset(&value, 0, sizeof(value));
    assert_hr(WHvSetPartitionProperty(w->p, code, &value, sizeof(value)), WHV_E_UNKNOWN_PROPERTY);
    assert_hr(WHvSetPartitionProperty(w->p, code, NULL, 0), WHV_E_UNKNOWN_PROPERTY);
    assert_hr(WHvGetPartitionProperty(w->p, code, &value, sizeof(value), NULL), WHV_E_UNKNOWN_PROPERTY);
}

static void walk_unknown_codes(struct walk *w)
{
    w->p = created(w->engine);
    for (int again = 0; again < 2; again++) {
        for (UINT32 code = 0; code <= 0x2000; code++)
            if (!property_find((WHV_PARTITION_PROPERTY_CODE)code))
                walk_unknown(w, (WHV_PARTITION_PROPERTY_CODE)code);
        walk_unknown(w, (WHV_PARTITION_PROPERTY_CODE)0x80000001);
        walk_unknown(w, (WHV_PARTITION_PROPERTY_CODE)0xFFFFFFFF);
        if (!again)
            assert_ok(WHvSetupPartition(w->p));
    }
    assert_ok(WHvDeletePartition(w->p));
}

static const struct engine *find_engine(const char *name)
{
    for (unsigned int i = 0; engines[i]; i++) {
        struct engine_status status;

        if (strcmp(engines[i]->name, name) != 0)
            continue;
        engines[i]->probe(&status);
        if (status.usable)
            return engines[i];
        print_message("skipped: engine %s: %s\n", name, status.text);
        return NULL;
    }
    print_message("skipped: this build has no engine %s\n", name);
    return NULL;
}

static void walk(const char *name)
{
    struct walk w = {.engine = find_engine(name)};

    if (!w.engine)
        skip();
    capabilities_of(w.engine, &w.capabilities);
    for (unsigned int i = 0; property_row(i); i++) {
        w.row = property_row(i);
        walk_default(&w);
        w.p = created(w.engine);
        walk_before_set_up(&w);
        assert_ok(WHvDeletePartition(w.p));
        walk_over_set_up(&w);
    }
    walk_unknown_codes(&w);
    print_message("%s: %u values accepted, %u refused\n", name, w.accepted, w.refused);
    assert_true(w.accepted > 100 && w.refused > 500);
}

static void test_soft(void **state)
{
    (void)state;
    walk("soft");
}

static void test_kvm(void **state)
{
    (void)state;
    walk("kvm");
}

// ---- What a capability says beforehand -----------------------------------------------------------------------------

static WHV_CAPABILITY capability(WHV_CAPABILITY_CODE code)
{
    WHV_CAPABILITY value;

    memset(&value, 0, sizeof(value));
    assert_ok(WHvGetCapability(code, &value, sizeof(value), NULL));
    return value;
}

static void assert_switch(WHV_PARTITION_PROPERTY_CODE code, bool offered)
{
    const UINT32 one = 1, two = 2;
    UINT32 now = 7;
    WHV_PARTITION_HANDLE p;

    assert_ok(WHvCreatePartition(&p));
    assert_hr(WHvSetPartitionProperty(p, code, &one, sizeof(one)), offered ? S_OK : E_INVALIDARG);
    assert_hr(WHvSetPartitionProperty(p, code, &two, sizeof(two)), E_INVALIDARG);
    assert_ok(WHvGetPartitionProperty(p, code, &now, sizeof(now), NULL));
    assert_int_equal(now, offered);
    assert_ok(WHvDeletePartition(p));
}

// What a client can read beforehand, for the engine that it names, is what is accepted then.
static void test_capabilities_say_so(void **state)
{
    static const char *const names[] = {"soft", "kvm", "auto"};

    (void)state;
    for (unsigned int i = 0; i < 3; i++) {
        WHV_CAPABILITY_FEATURES features;

        setenv("BULKHEAD_ENGINE", names[i], 1);
        if (!capability(WHvCapabilityCodeHypervisorPresent).HypervisorPresent)
            continue;
        features = capability(WHvCapabilityCodeFeatures).Features;
        assert_switch(WHvPartitionPropertyCodeApicRemoteReadSupport, features.ApicRemoteRead);
        assert_switch(WHvPartitionPropertyCodeAllowDeviceAssignment, features.IommuSupport);
        assert_switch(WHvPartitionPropertyCodeNestedVirtualization,
                      capability(WHvCapabilityCodeVmxBasic).NestedFeatureRegister != 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_soft),
        cmocka_unit_test(test_kvm),
        cmocka_unit_test(test_capabilities_say_so),
    };

    unsetenv("BULKHEAD_ENGINE");
    unsetenv("BULKHEAD_RELAX");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
