// Unit tests of features that need others: what is refused, what follows, and what is nobody's mistake.
#include "unit.h"

#include <string.h>

#include "partition/features.h"

// An engine that has everything.
static struct engine_capabilities everything(void)
{
    struct engine_capabilities c = { .processor_features.BanksCount = WHV_PROCESSOR_FEATURES_BANKS_COUNT };

    c.processor_features.Bank0.AsUINT64 = c.processor_features.Bank1.AsUINT64 = ~0ull;
    c.xsave_features.AsUINT64 = ~0ull;
    return c;
}

static void set(struct property_values *values, WHV_PARTITION_PROPERTY_CODE code, const void *value, UINT32 size,
                const struct engine_capabilities *c)
{
    void *replaced;

    assert_ok(property_set(values, property_find(code), value, size, c, &replaced));
    assert_null(replaced);
}

// What a partition has that has set some of the three properties (NULL: not).
static struct property_values having(const struct engine_capabilities *c, const WHV_PROCESSOR_FEATURES *zero,
                                     const WHV_PROCESSOR_FEATURES_BANKS *banks,
                                     const WHV_PROCESSOR_XSAVE_FEATURES *xsave)
{
    struct property_values values;

    memset(&values, 0, sizeof values);
    property_defaults(&values, c);
    if (zero)
        set(&values, WHvPartitionPropertyCodeProcessorFeatures, zero, sizeof *zero, c);
    if (banks)
        set(&values, WHvPartitionPropertyCodeProcessorFeaturesBanks, banks, sizeof *banks, c);
    if (xsave)
        set(&values, WHvPartitionPropertyCodeProcessorXsaveFeatures, xsave, sizeof *xsave, c);
    property_defaults(&values, c);
    return values;
}

static void refused(struct property_values values, const struct engine_capabilities *c, const char *feature,
                    const char *without)
{
    const struct property_values before = values;
    struct feature_conflict conflict;

    assert_hr(features_settle(&values, c, &conflict), WHV_E_UNSUPPORTED_PROCESSOR_CONFIG);
    assert_string_equal(conflict.feature, feature);
    assert_string_equal(conflict.without, without);
    assert_memory_equal(&values, &before, sizeof values);
}

static struct property_values settled(struct property_values values, const struct engine_capabilities *c)
{
    struct feature_conflict conflict;

    assert_ok(features_settle(&values, c, &conflict));
    assert_null(conflict.feature);
    return values;
}

static void test_refused(void **state)
{
    const struct engine_capabilities c = everything();
    WHV_PROCESSOR_FEATURES_BANKS banks = c.processor_features;
    WHV_PROCESSOR_XSAVE_FEATURES xsave = c.xsave_features;
    WHV_PROCESSOR_FEATURES zero = c.processor_features.Bank0;

    (void)state;
    xsave.XsaveSupport = 0;
    xsave.AvxSupport = 1;
    refused(having(&c, NULL, NULL, &xsave), &c, "Xsaveopt", "Xsave");
    // In the order of the table, the first of many.
    xsave = (WHV_PROCESSOR_XSAVE_FEATURES){ .XsaveSupport = 1, .Avx2Support = 1 };
    refused(having(&c, NULL, NULL, &xsave), &c, "Avx2", "Avx");
    xsave = (WHV_PROCESSOR_XSAVE_FEATURES){ .XsaveSupport = 1, .AvxSupport = 1, .VaesSupport = 1 };
    zero.AesSupport = 0;
    refused(having(&c, &zero, NULL, &xsave), &c, "Vaes", "Aes");
    xsave = (WHV_PROCESSOR_XSAVE_FEATURES){ .XsaveSupport = 1, .XsaveSupervisorSupport = 1 };
    refused(having(&c, NULL, NULL, &xsave), &c, "XsaveSupervisor", "XsaveComp");
    zero = (WHV_PROCESSOR_FEATURES){ .InvpcidSupport = 1 };
    refused(having(&c, &zero, NULL, NULL), &c, "Invpcid", "Pcid");
    // From one bank to the other, both set by one property.
    banks.Bank0.RtmSupport = 0;
    refused(having(&c, NULL, &banks, NULL), &c, "TsxLdTrk", "Rtm");
    // Across properties.
    xsave = (WHV_PROCESSOR_XSAVE_FEATURES){ .XsaveSupport = 1 };
    zero = (WHV_PROCESSOR_FEATURES){ .F16CSupport = 1 };
    refused(having(&c, &zero, NULL, &xsave), &c, "F16C", "Avx");
}

// Everything, nothing, and what is without its other half by default.
static void test_settled(void **state)
{
    const struct engine_capabilities c = everything();
    const WHV_PROCESSOR_FEATURES_BANKS no_banks = { .BanksCount = WHV_PROCESSOR_FEATURES_BANKS_COUNT };
    const WHV_PROCESSOR_XSAVE_FEATURES no_xsave = { .AsUINT64 = 0 };
    WHV_PROCESSOR_FEATURES zero = c.processor_features.Bank0;
    struct property_values values;

    (void)state;
    values = settled(having(&c, NULL, NULL, NULL), &c);
    assert_memory_equal(&values.processor_features, &c.processor_features, sizeof c.processor_features);
    assert_int_equal(values.xsave_features.AsUINT64, ~0ull);
    values = settled(having(&c, NULL, &no_banks, &no_xsave), &c);
    assert_int_equal(values.processor_features.Bank0.AsUINT64 | values.processor_features.Bank1.AsUINT64 |
                     values.xsave_features.AsUINT64, 0);
    // The first bank is nobody's choice here: what needs AVX is left out, and so is what that is needed for.
    values = settled(having(&c, NULL, NULL, &no_xsave), &c);
    assert_false(values.processor_features.Bank0.F16CSupport || values.processor_features.Bank0.XopSupport ||
                 values.processor_features.Bank1.Sha512Support);
    assert_true(values.processor_features.Bank0.AesSupport && values.processor_features.Bank0.Sse4_2Support);
    zero.AesSupport = zero.RtmSupport = zero.HleSupport = 0;
    values = settled(having(&c, &zero, NULL, NULL), &c);
    assert_int_equal(values.processor_features.Bank0.AsUINT64, zero.AsUINT64);
    assert_false(values.xsave_features.VaesSupport || values.processor_features.Bank1.TsxLdTrkSupport);
    assert_true(values.xsave_features.VpclmulqdqSupport && values.xsave_features.Avx512Support);
}

// An engine that has the one without the other offers it, and may be taken at its word.
static void test_odd_host(void **state)
{
    struct engine_capabilities c = everything();
    struct property_values values;

    (void)state;
    c.xsave_features.AvxSupport = 0;
    c.processor_features.Bank0.Sse3Support = 0;
    values = settled(having(&c, &c.processor_features.Bank0, NULL, &c.xsave_features), &c);
    assert_int_equal(values.xsave_features.AsUINT64, c.xsave_features.AsUINT64);
    assert_int_equal(values.processor_features.Bank0.AsUINT64, c.processor_features.Bank0.AsUINT64);
    // An engine that was thought of before it had more of the second bank, which was not set.
    values = having(&c, &c.processor_features.Bank0, NULL, NULL);
    c.processor_features.Bank1.AsUINT64 = 0;
    assert_int_equal(settled(values, &c).processor_features.Bank1.AsUINT64, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_settled),
        cmocka_unit_test(test_odd_host),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
