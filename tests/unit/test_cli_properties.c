/* test_cli_properties.c: the options for properties, and the names of features. */
#include "cli_line.h"

/* The table itself. */

static void test_rows(void **state)
{
    char text[64];

    (void)state;
    for (unsigned i = 0; property_row(i) != NULL; i++) {
        const struct property_row *row = property_row(i);
        struct properties properties = {0};
        struct error err = {0};

        assert_int_equal(row_of(row->option), i);
        assert_true(property_is_number(row) ? row->size > 0 && row->size <= 8 : row->size == 0);
        assert_true(row->least <= row->most);
        assert_true(row->size == 0 || row->size == 8 || row->most >> row->size * 8 == 0);
        assert_true((row->value == NULL) == (row->kind == PROPERTY_FLAG));
        /* properties_override copies numbers. */
        assert_true(!row->host || property_is_number(row));
        if (!properties_parse(&properties, i, row->sample, &err)) {
            fail_msg("%s: %s", row->option, err.text);
        }
        assert_int_equal(properties.given, UINT64_C(1) << i);
        if (row->kind != PROPERTY_NUMBER) {
            continue;
        }
        for (unsigned bound = 0; bound < 2; bound++) {
            uint64_t value = bound == 0 ? row->least : row->most;

            snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
            assert_true(properties_parse(&properties, i, text, &err));
            assert_int_equal(properties.values[i], value);
        }
    }
}

static void expect_refused(const char *option, const char *value)
{
    struct properties properties = {0};
    struct error err = {0};
    char quoted[128];

    if (properties_parse(&properties, row_of(option), value, &err)) {
        fail_msg("--%s takes '%s'", option, value);
    }
    assert_int_equal(properties.given, 0);
    assert_int_equal(err.code, EXIT_USAGE);
    snprintf(quoted, sizeof(quoted), "--%s: '%s'", option, value);
    if (strncmp(err.text, quoted, strlen(quoted)) != 0) {
        fail_msg("%s", err.text);
    }
}

/* Beyond each bound by one, and what is no number at all. */
static void test_bad_numbers(void **state)
{
    static const char *const texts[] = {"", "x", "-1", "+1", " 1", "1 ", "0x", "1x", "50%", "1.5",
                                        "18446744073709551616"};
    char text[64];

    (void)state;
    for (unsigned i = 0; property_row(i) != NULL; i++) {
        const struct property_row *row = property_row(i);

        if (row->kind != PROPERTY_NUMBER) {
            continue;
        }
        for (size_t j = 0; j < sizeof(texts) / sizeof(texts[0]); j++) {
            expect_refused(row->option, texts[j]);
        }
        if (row->least > 0) {
            snprintf(text, sizeof(text), "%llu", (unsigned long long)row->least - 1);
            expect_refused(row->option, text);
        }
        if (row->most < UINT64_MAX) {
            snprintf(text, sizeof(text), "%llu", (unsigned long long)row->most + 1);
            expect_refused(row->option, text);
        }
    }
}

static void test_bad_words(void **state)
{
    static const struct {
        const char *option, *value;
    } bad[] = {
        {"local-apic-emulation-mode", "none"},
        {"local-apic-emulation-mode", "x2"},
        {"local-apic-emulation-mode", ""},
        {"unimplemented-msr-action", "fault"},
        {"no-feature", ""},
        {"no-feature", "avx3"},
        {"no-feature", "reserved1"},
        {"no-feature", "-"},
        {"cpuid-result", ""},
        {"cpuid-result", "7"},
        {"cpuid-result", "7:"},
        {"cpuid-result", "7:0"},
        {"cpuid-result", "7:ebx"},
        {"cpuid-result", "7:ebx="},
        {"cpuid-result", "7:ebx=1/"},
        {"cpuid-result", "7:ebx=1/2/3"},
        {"cpuid-result", "7:rbx=1"},
        {"cpuid-result", "7:ebx=0x100000000"},
        {"cpuid-result", "0x100000000:ebx=1"},
        {"cpuid-result", "7:0x100000000:ebx=1"},
        {"cpuid-result", "7@:ebx=1"},
        {"cpuid-result", "7@1:2:ebx=1"},
        {"cpuid-result", "ebx=1"},
        {"msr-action", ""},
        {"msr-action", "0x10"},
        {"msr-action", "0x10:"},
        {"msr-action", "0x10:fault"},
        {"msr-action", "0x10:ignore,"},
        {"msr-action", "0x10:,ignore"},
        {"msr-action", "0x10:exit,exit,exit"},
        {"msr-action", "0x100000000:exit"},
        {"msr-action", ":exit"},
        {"msr-action", "exit"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        expect_refused(bad[i].option, bad[i].value);
    }
}

/* Features. */

static void test_feature_names(void **state)
{
    static const struct {
        const char *text;
        enum feature_word word;
        unsigned bit;
    } known[] = {
        {"sse3", FEATURE_BANK0, 0},          {"lahf-sahf", FEATURE_BANK0, 1},  {"lahfsahf", FEATURE_BANK0, 1},
        {"SSE4.1", FEATURE_BANK0, 3},        {"sse4_1", FEATURE_BANK0, 3},     {"popcnt", FEATURE_BANK0, 7},
        {"rdrand", FEATURE_BANK0, 21},       {"tsx-ctrl", FEATURE_BANK0, 62},  {"srso-no", FEATURE_BANK1, 56},
        {"tsc-invariant", FEATURE_BANK1, 1}, {"xsave", FEATURE_XSAVE, 0},      {"avx", FEATURE_XSAVE, 2},
        {"avx2", FEATURE_XSAVE, 3},          {"avx512-bw", FEATURE_XSAVE, 9},  {"AmxTile", FEATURE_XSAVE, 27},
        {"pmu", FEATURE_PERFMON, 0},         {"lbr", FEATURE_PERFMON, 1},
    };
    unsigned count = 0;
    enum feature_word word;
    unsigned bit;

    (void)state;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (!feature_find(known[i].text, &word, &bit)) {
            fail_msg("%s", known[i].text);
        }
        assert_int_equal(word, known[i].word);
        assert_int_equal(bit, known[i].bit);
    }
    /* Each name is that of one feature alone. */
    for (unsigned i = 0; i < FEATURE_WORDS; i++) {
        for (unsigned j = 0; j < 64; j++) {
            char name[FEATURE_NAME];

            if (!feature_name((enum feature_word)i, j, name)) {
                continue;
            }
            assert_true(feature_find(name, &word, &bit));
            assert_int_equal(word, i);
            assert_int_equal(bit, j);
            count++;
        }
    }
    assert_true(count > 140);
}

/* The names that the table has from the header's text are those of the bits that the compiler has. */
static void test_feature_bits(void **state)
{
    const WHV_PROCESSOR_FEATURES bank0 = {.Bmi2Support = 1};
    const WHV_PROCESSOR_FEATURES bank0_last = {.TsxCtrlSupport = 1};
    const WHV_PROCESSOR_FEATURES1 bank1 = {.SrsoUserKernelNoSupported = 1};
    const WHV_PROCESSOR_XSAVE_FEATURES xsave = {.AmxFp16Support = 1};
    const WHV_PROCESSOR_PERFMON_FEATURES perfmon = {.LbrSupport = 1};
    const WHV_EXTENDED_VM_EXITS exits = {.GpaAccessFaultExit = 1};
    const WHV_CAPABILITY_FEATURES features = {.DeviceAccessTracking = 1};
    const WHV_SYNTHETIC_PROCESSOR_FEATURES synthetic = {.AccessVpRegs = 1};
    const WHV_SCHEDULER_FEATURES scheduler = {.DisableSmt = 1};
    const WHV_X64_MSR_EXIT_BITMAP msrs = {.McUpdatePatchLevelMsrRead = 1};
    const WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS populate = {.AvoidHardFaults = 1};
    const struct {
        enum feature_word word;
        uint64_t bits;
        const char *name;
    } bits[] = {
        {FEATURE_BANK0, bank0.AsUINT64, "Bmi2Support"},
        {FEATURE_BANK0, bank0_last.AsUINT64, "TsxCtrlSupport"},
        {FEATURE_BANK1, bank1.AsUINT64, "SrsoUserKernelNoSupported"},
        {FEATURE_XSAVE, xsave.AsUINT64, "AmxFp16Support"},
        {FEATURE_PERFMON, perfmon.AsUINT64, "LbrSupport"},
        {BITS_EXITS, exits.AsUINT64, "GpaAccessFaultExit"},
        {BITS_CAPABILITIES, features.AsUINT64, "DeviceAccessTracking"},
        {BITS_SYNTHETIC, synthetic.AsUINT64, "AccessVpRegs"},
        {BITS_SCHEDULER, scheduler.AsUINT64, "DisableSmt"},
        {BITS_MSR_EXITS, msrs.AsUINT64, "McUpdatePatchLevelMsrRead"},
        {BITS_POPULATE, populate.AsUINT32, "AvoidHardFaults"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++) {
        const char *name = feature_field(bits[i].word, (unsigned)__builtin_ctzll(bits[i].bits));

        assert_non_null(name);
        assert_string_equal(name, bits[i].name);
    }
    assert_null(feature_field(FEATURE_BANK0, 27)); /* reserved */
    assert_null(feature_field(BITS_NONE, 0));
}

/* The command line. */

static void test_lines(void **state)
{
    struct options options;
    struct error err;
    const struct properties *properties = &options.machine.properties;
    uint64_t value;

    (void)state;
    parse(&options, "");
    assert_int_equal(properties->given, 0);
    options_free(&options);

    parse(&options, "--cpu-cap 50 --cpu-cap 0x28 --disable-smt --local-apic-emulation-mode xapic --numa-node 1 "
                    "--no-feature avx2 --no-feature popcnt --no-feature avx --msr-action 0x10:ignore "
                    "--msr-action 0x1b:exit,default --cpuid-result 7:0@1:ebx=2/0xf --cpuid-result 1:edx=0");
    assert_true(properties_value(properties, WHvPartitionPropertyCodeCpuCap, &value));
    assert_int_equal(value, 40);
    assert_true(properties_value(properties, WHvPartitionPropertyCodeDisableSmt, &value));
    assert_int_equal(value, 1);
    assert_true(properties_value(properties, WHvPartitionPropertyCodeLocalApicEmulationMode, &value));
    assert_int_equal(value, WHvX64LocalApicEmulationModeXApic);
    assert_false(properties_value(properties, WHvPartitionPropertyCodeCpuWeight, &value));
    assert_int_equal(properties->removed[FEATURE_BANK0], 1 << 7);
    assert_int_equal(properties->removed[FEATURE_XSAVE], 1 << 3 | 1 << 2);
    assert_int_equal(properties->msr_count, 2);
    assert_int_equal(properties->msrs[0].Index, 0x10);
    assert_int_equal(properties->msrs[0].ReadAction, WHvMsrActionIgnoreWriteReadZero);
    assert_int_equal(properties->msrs[0].WriteAction, WHvMsrActionIgnoreWriteReadZero);
    assert_int_equal(properties->msrs[1].ReadAction, WHvMsrActionExit);
    assert_int_equal(properties->msrs[1].WriteAction, WHvMsrActionArchitectureDefault);
    assert_int_equal(properties->cpuid_count, 2);
    assert_int_equal(properties->cpuid[0].Function, 7);
    assert_int_equal(properties->cpuid[0].VpIndex, 1);
    assert_int_equal(properties->cpuid[0].Flags,
                     WHvX64CpuidResult2FlagSubleafSpecific | WHvX64CpuidResult2FlagVpSpecific);
    assert_int_equal(properties->cpuid[0].Output.Ebx, 2);
    assert_int_equal(properties->cpuid[0].Mask.Ebx, 15);
    assert_int_equal(properties->cpuid[0].Mask.Eax, 0);
    assert_int_equal(properties->cpuid[1].Flags, 0);
    assert_int_equal(properties->cpuid[1].Mask.Edx, UINT32_MAX);
    options_free(&options);

    /* A machine that comes from elsewhere takes what is the host's alone. */
    assert_true(parse_as("restore", &options, &err, "FILE --cpu-cap 50 --separate-security-domain"));
    assert_int_equal(__builtin_popcountll(properties->given), 2);
    options_free(&options);
    assert_false(parse_as("restore", &options, &err, "FILE --no-feature avx"));
    assert_non_null(strstr(err.text, "unknown option '--no-feature'"));
    options_free(&options);
    assert_false(parse_as("save", &options, &err, "PATH FILE --cpu-cap 50"));
    options_free(&options);
    assert_false(parse_as("run", &options, &err, "--kernel k --cpu 1"));
    assert_non_null(strstr(err.text, "'--cpu' could be any of --cpus, --cpu-reserve, --cpu-cap"));
    options_free(&options);
    assert_false(parse_as("run", &options, &err, "--kernel k --disable-smt=1"));
    assert_non_null(strstr(err.text, "--disable-smt takes no value"));
    options_free(&options);
    assert_false(parse_as("run", &options, &err, "--kernel k --cpu-cap"));
    assert_non_null(strstr(err.text, "--cpu-cap needs a value"));
    options_free(&options);
}

/* A list that is full says so. */
static void test_full_lists(void **state)
{
    static const char *const options[][2] = {{"cpuid-result", "1:eax=0"}, {"msr-action", "1:exit"}};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct properties properties = {0};
        struct error err = {0};

        for (unsigned j = 0; j < PROPERTIES_MAX_LIST; j++) {
            assert_true(properties_parse(&properties, row_of(options[i][0]), options[i][1], &err));
        }
        assert_false(properties_parse(&properties, row_of(options[i][0]), options[i][1], &err));
        assert_int_equal(err.code, EXIT_USAGE);
        assert_non_null(strstr(err.text, "no more than 64"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_bad_numbers),
        cmocka_unit_test(test_bad_words),
        cmocka_unit_test(test_feature_names),
        cmocka_unit_test(test_feature_bits),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_full_lists),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
