/* test_cli_property_state.c: properties from the command line to the partition, and from a saved machine; and what is
 * said of what is refused. */
#include "cli_line.h"
#include "image.h"
#include "partition.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* The partition. */

static void set_up(const struct properties *properties, struct partition_config *config,
                   WHV_PARTITION_HANDLE *partition)
{
    uint32_t apic_mode;
    struct error err = {0};

    *config = (struct partition_config){.engine = "soft", .cpus = 1, .properties = *properties};
    if (!partition_set_up(config, partition, &apic_mode, &err)) {
        fail_msg("%s", err.text);
    }
    if (properties_value(properties, WHvPartitionPropertyCodeLocalApicEmulationMode, &(uint64_t){0})) {
        assert_int_equal(apic_mode, WHvX64LocalApicEmulationModeXApic);
    }
}

static uint64_t read_back(WHV_PARTITION_HANDLE partition, const char *option)
{
    uint64_t value;

    assert_true(properties_read(partition, row_of(option), &value));
    return value;
}

/* What was asked for, as the partition has it; and nothing else has changed. */
static void assert_properties(WHV_PARTITION_HANDLE partition, WHV_PARTITION_HANDLE plain)
{
    static const struct {
        const char *option;
        uint64_t value;
    } numbers[] = {
        {"cpu-cap", 50},
        {"cpu-weight", 300},
        {"local-apic-emulation-mode", WHvX64LocalApicEmulationModeXApic},
        {"physical-address-width", 40},
        {"processor-clock-frequency", 1000000000},
        {"interrupt-clock-frequency", 100000000},
    };
    const WHV_PROCESSOR_FEATURES removed = {.RdtscpSupport = 1, .UmipSupport = 1};
    uint64_t had, has;
    WHV_CPUID_OUTPUT output = {0};

    for (unsigned i = 0; property_row(i) != NULL; i++) {
        uint64_t expected, value;

        if (!properties_read(plain, i, &expected)) {
            assert_false(property_is_number(property_row(i)));
            continue;
        }
        for (size_t j = 0; j < sizeof(numbers) / sizeof(numbers[0]); j++) {
            if (strcmp(numbers[j].option, property_row(i)->option) == 0) {
                assert_int_not_equal(numbers[j].value, expected);
                expected = numbers[j].value;
            }
        }
        assert_true(properties_read(partition, i, &value));
        assert_int_equal(value, expected);
    }
    for (unsigned i = 0; i < FEATURE_WORDS; i++) {
        assert_true(properties_read_features(plain, (enum feature_word)i, &had));
        assert_true(properties_read_features(partition, (enum feature_word)i, &has));
        assert_int_equal(has, i == FEATURE_BANK0 ? had & ~removed.AsUINT64 : had);
        assert_true(i != FEATURE_BANK0 || (had & removed.AsUINT64) == removed.AsUINT64);
    }
    assert_int_equal(WHvGetVirtualProcessorCpuidOutput(partition, 0, 0x40000000, 0, &output), S_OK);
    assert_int_equal(output.Eax, 0x1234);
}

static const char everything[] =
    "--cpu-cap 50 --cpu-weight 300 --local-apic-emulation-mode xapic --physical-address-width 40 "
    "--processor-clock-frequency 1000000000 --interrupt-clock-frequency 100000000 --no-feature rdtscp "
    "--no-feature umip --cpuid-result 0x40000000:eax=0x1234";

static void test_set(void **state)
{
    const struct properties none = {0};
    struct partition_config config;
    WHV_PARTITION_HANDLE partition, plain;
    struct options options;

    (void)state;
    parse(&options, everything);
    set_up(&options.machine.properties, &config, &partition);
    set_up(&none, &config, &plain);
    assert_int_equal(WHvCreateVirtualProcessor(partition, 0, 0), S_OK);
    assert_properties(partition, plain);
    assert_int_equal(WHvDeletePartition(partition), S_OK);
    assert_int_equal(WHvDeletePartition(plain), S_OK);
    options_free(&options);
}

/* What is refused is named as it was given, and no partition is left but the caller's. */
static void test_refused(void **state)
{
    struct partition_config config = {.engine = "soft", .cpus = 1};
    WHV_PARTITION_HANDLE partition;
    struct options options;
    struct error err = {0};
    uint32_t apic_mode;

    (void)state;
    parse(&options, "--cpu-cap 50 --physical-address-width 52 --disable-smt");
    config.properties = options.machine.properties;
    assert_false(partition_set_up(&config, &partition, &apic_mode, &err));
    assert_int_equal(err.code, EXIT_FAILED);
    assert_non_null(strstr(err.text, "--physical-address-width 52: "));
    assert_non_null(strstr(err.text, "PhysicalAddressWidth"));
    assert_non_null(strstr(err.text, "0x80070057"));
    assert_int_equal(WHvDeletePartition(partition), S_OK);
    options_free(&options);

    config.properties = (struct properties){0};
    config.cpus = 65;
    assert_false(partition_set_up(&config, &partition, &apic_mode, &err));
    assert_non_null(strstr(err.text, "65 processors"));
    assert_int_equal(WHvDeletePartition(partition), S_OK);
}

static HRESULT set_number(WHV_PARTITION_HANDLE partition, const struct property_row *row, uint64_t value)
{
    return WHvSetPartitionProperty(partition, row->code, &value, row->size);
}

/* An option takes all that any partition could have: what it refuses is refused by the platform too. */
static void test_ranges(void **state)
{
    WHV_PARTITION_HANDLE partition;
    const struct property_row *row;

    (void)state;
    assert_int_equal(WHvCreatePartition(&partition), S_OK);
    for (unsigned i = 0; (row = property_row(i)) != NULL; i++) {
        if (row->kind != PROPERTY_NUMBER) {
            continue;
        }
        if (row->least > 0) {
            assert_int_equal(set_number(partition, row, row->least - 1), E_INVALIDARG);
        }
        if (row->size == 8 ? row->most < UINT64_MAX : row->most < (UINT64_C(1) << row->size * 8) - 1) {
            assert_int_equal(set_number(partition, row, row->most + 1), E_INVALIDARG);
        }
    }
    assert_int_equal(WHvDeletePartition(partition), S_OK);
}

/* Set-ups are refused while this says so of a partition's cap and weight. */
static bool (*refuses)(uint64_t cap, uint64_t weight);

HRESULT __real_WHvSetupPartition(WHV_PARTITION_HANDLE partition);
HRESULT __wrap_WHvSetupPartition(WHV_PARTITION_HANDLE partition);

HRESULT __wrap_WHvSetupPartition(WHV_PARTITION_HANDLE partition)
{
    if (refuses != NULL && refuses(read_back(partition, "cpu-cap"), read_back(partition, "cpu-weight"))) {
        return (HRESULT)0x800705aa; /* ERROR_NO_SYSTEM_RESOURCES */
    }
    return __real_WHvSetupPartition(partition);
}

static bool refuses_weight(uint64_t cap, uint64_t weight)
{
    (void)cap;
    return weight == 7;
}

static bool refuses_both(uint64_t cap, uint64_t weight)
{
    return cap == 50 && weight == 7;
}

static bool refuses_all(uint64_t cap, uint64_t weight)
{
    return cap <= 100 && weight <= 10000;
}

/* The set-up does not say which of the options it was. */
static void test_refused_by_set_up(void **state)
{
    static const struct {
        bool (*refuses)(uint64_t cap, uint64_t weight);
        const char *text;
    } rows[] = {
        {refuses_weight, "the partition cannot be set up with --cpu-weight 7: WHvSetupPartition failed with 0x800705aa"},
        {refuses_both,
         "the partition cannot be set up with its options taken together: WHvSetupPartition failed with 0x800705aa"},
        {refuses_all, "no engine can run this partition: WHvSetupPartition failed with 0x800705aa"},
    };
    struct options options;

    (void)state;
    parse(&options, "--disable-smt --cpu-cap 50 --cpu-weight 7");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct partition_config config = {.engine = "soft", .cpus = 1, .properties = options.machine.properties};
        WHV_PARTITION_HANDLE partition;
        struct error err = {0};
        uint32_t apic_mode;

        refuses = rows[i].refuses;
        assert_false(partition_set_up(&config, &partition, &apic_mode, &err));
        refuses = NULL;
        assert_int_equal(err.code, EXIT_FAILED);
        assert_string_equal(err.text, rows[i].text);
        assert_int_equal(WHvDeletePartition(partition), S_OK);
    }
    options_free(&options);
}

static void test_can_have(void **state)
{
    unsigned count = 0;
    HRESULT hr;

    (void)state;
    for (unsigned i = 0; property_row(i) != NULL; i++) {
        count += partition_can_have(i, &hr);
        assert_true(partition_can_have(i, &hr) == SUCCEEDED(hr));
    }
    /* At least those that need nothing of the host. */
    assert_true(partition_can_have(row_of("cpuid-result"), &hr));
    assert_true(partition_can_have(row_of("no-feature"), &hr));
    assert_true(partition_can_have(row_of("physical-address-width"), &hr));
    assert_true(count >= 3);
}

/* Saved machines. */

static void same_properties(const struct properties *a, const struct properties *b)
{
    assert_int_equal(a->given, b->given);
    assert_memory_equal(a->values, b->values, sizeof(a->values));
    assert_memory_equal(a->removed, b->removed, sizeof(a->removed));
    assert_int_equal(a->cpuid_count, b->cpuid_count);
    assert_memory_equal(a->cpuid, b->cpuid, sizeof(a->cpuid));
    assert_int_equal(a->msr_count, b->msr_count);
    assert_memory_equal(a->msrs, b->msrs, sizeof(a->msrs));
}

/* A record "PROP", to be read, and freed by the caller. */
static void save(const struct properties *properties, struct state_writer *to)
{
    struct error err = {0};

    state_writer_init(to);
    state_begin(to, "PROP", 1);
    properties_save(properties, to);
    state_end(to);
    assert_true(state_writer_complete(to, &err));
}

static bool load(struct properties *properties, const void *data, size_t size, struct error *err)
{
    struct state_reader from;

    *properties = (struct properties){0};
    state_reader_init(&from, data, size, err);
    state_enter(&from, "PROP", 1);
    return properties_load(properties, &from) && state_leave(&from);
}

static void test_saved(void **state)
{
    struct properties loaded;
    struct state_writer record;
    struct options options;
    struct error err = {0};

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        parse(&options, i == 0 ? ""
                               : "--cpu-reserve 5 --cpu-cap 50 --cpu-weight 10000 --cpu-group 0xffffffffffffffff "
                                 "--numa-node 3 --disable-smt --msr-action 1:exit,ignore --msr-action 2:default "
                                 "--cpuid-result 7:1@2:ecx=3/4 --no-feature pmu --no-feature avx512-bw "
                                 "--no-feature tsx-ctrl --no-feature srso-no --unimplemented-msr-action exit");
        save(&options.machine.properties, &record);
        assert_true(load(&loaded, record.data, record.size, &err));
        same_properties(&options.machine.properties, &loaded);
        /* Each record that is cut short is refused. */
        for (size_t size = 12; size < record.size; size++) {
            const uint32_t length = (uint32_t)(size - 12);
            uint8_t *copy = malloc(size);

            assert_non_null(copy);
            memcpy(copy, record.data, size);
            memcpy(copy + 8, &length, sizeof(length));
            assert_false(load(&loaded, copy, size, &err));
            free(copy);
        }
        state_writer_free(&record);
        options_free(&options);
    }
}

/* What nobody writes. */
static void test_hostile(void **state)
{
    enum { HEADER = 12, NUMBER = 12, FEATURES = HEADER + 4 + NUMBER, LISTS = FEATURES + 8 * FEATURE_WORDS };
    static const struct {
        size_t at;
        unsigned size;
        uint64_t value;
        const char *text;
    } changes[] = {
        {HEADER, 4, 25, "'properties' is 25"},
        {HEADER, 4, UINT32_MAX, "'properties' is 4294967295"},
        {HEADER + 4, 4, 0x1fff, "property 0x1fff"},
        {HEADER + 4, 4, 0, "property 0x0"},
        {HEADER + 4, 4, WHvPartitionPropertyCodeMsrActionList, "property 0x100f"},
        {HEADER + 8, 8, 0, "CpuCap is 0"},
        {HEADER + 8, 8, 101, "CpuCap is 101"},
        {HEADER + 8, 8, UINT64_C(1) << 32 | 50, "CpuCap is 4294967346"},
        {FEATURES, 8, UINT64_C(1) << 27, "feature 27 of word 0"},
        {FEATURES + 24, 8, UINT64_C(1) << 63, "feature 63 of word 3"},
        {LISTS, 4, 65, "'CPUID results' is 65"},
        {LISTS, 4, UINT32_MAX, "'CPUID results' is 4294967295"},
        {LISTS + 4 + 12, 4, 4, "Flags"},
        {LISTS + 4 + 48, 4, 65, "'MSR actions' is 65"},
        {LISTS + 4 + 48 + 4 + 4, 1, 3, "ReadAction"},
        {LISTS + 4 + 48 + 4 + 5, 1, 255, "WriteAction"},
    };
    struct properties loaded;
    struct state_writer record;
    struct options options;

    (void)state;
    parse(&options, "--cpu-cap 50 --msr-action 1:exit --cpuid-result 7:ecx=3");
    save(&options.machine.properties, &record);
    assert_int_equal(record.size, LISTS + 4 + 48 + 4 + 6);
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        uint8_t *copy = malloc(record.size);
        struct error err = {0};

        assert_non_null(copy);
        memcpy(copy, record.data, record.size);
        memcpy(copy + changes[i].at, &changes[i].value, changes[i].size);
        assert_false(load(&loaded, copy, record.size, &err));
        assert_int_equal(err.code, EXIT_FAILED);
        if (strstr(err.text, changes[i].text) == NULL) {
            fail_msg("%zu: %s", i, err.text);
        }
        free(copy);
    }
    state_writer_free(&record);
    options_free(&options);
}

static void test_override(void **state)
{
    struct options here, there;
    struct error err;
    uint64_t value;

    (void)state;
    parse(&there, "--cpu-cap 50 --numa-node 2 --no-feature avx");
    assert_true(parse_as("restore", &here, &err, "FILE --numa-node 0 --cpu-weight 7"));
    properties_override(&there.machine.properties, &here.machine.properties);
    assert_true(properties_value(&there.machine.properties, WHvPartitionPropertyCodeCpuCap, &value) && value == 50);
    assert_true(properties_value(&there.machine.properties, WHvPartitionPropertyCodePrimaryNumaNode, &value));
    assert_int_equal(value, 0);
    assert_true(properties_value(&there.machine.properties, WHvPartitionPropertyCodeCpuWeight, &value) && value == 7);
    assert_int_equal(there.machine.properties.removed[FEATURE_XSAVE], 1 << 2);
    options_free(&here);
    options_free(&there);
}

/* The head of a machine's stream; for VERSION 1, as it was written before there were properties. */
static void write_head(struct stream *stream, struct machine *machine, uint32_t version)
{
    enum { HEADER = 12, FIELDS = 6 * 8 + 16 };
    const uint32_t length = FIELDS;
    struct stream written;
    struct error err = {0};

    assert_true(stream_init(stream, memfd_create("stream", MFD_CLOEXEC), "FILE", NULL, &err));
    if (version == 2) {
        assert_true(image_write_head(stream, machine, &err));
    } else {
        assert_true(stream_init(&written, memfd_create("stream", MFD_CLOEXEC), "FILE", NULL, &err));
        assert_true(image_write_head(&written, machine, &err));
        assert_int_equal(lseek(written.fd, 0, SEEK_SET), 0);
        assert_true(stream_read_head(&written, &err) && stream_expect(&written, "CONF", &err));
        assert_true(stream_write_head(stream, &err));
        memcpy(stream_body(stream), stream_body(&written), HEADER + FIELDS);
        memcpy(stream_body(stream) + 4, &version, sizeof(version));
        memcpy(stream_body(stream) + 8, &length, sizeof(length));
        assert_true(stream_write(stream, "CONF", HEADER + FIELDS, &err));
        close(written.fd);
        stream_free(&written);
    }
}

/* A machine with all of it is saved and restored; and one of version 1 of the record is. */
static void test_images(void **state)
{
    const struct start nowhere = {0};
    const struct properties none = {0};
    struct partition_config config;
    WHV_PARTITION_HANDLE plain;

    (void)state;
    set_up(&none, &config, &plain);
    for (uint32_t version = 1; version <= 2; version++) {
        struct machine *machine = malloc(sizeof(*machine)), *other = malloc(sizeof(*other));
        struct options options;
        struct stream stream;
        struct image image;
        struct error err = {0};

        assert_true(machine != NULL && other != NULL);
        parse(&options, version == 1 ? "--memory 4M" : everything);
        options.machine.memory = 4 * MEMORY_MIB;
        options.machine.engine = "soft";
        options.machine.in = options.machine.out = -1;
        assert_true(machine_create(machine, &options.machine, &err));
        if (!machine_set_up(machine, &nowhere, &err) || !machine_pause(machine, &err)) {
            fail_msg("%s", err.text);
        }
        write_head(&stream, machine, version);
        assert_true(image_write_tail(&stream, machine, false, &err));
        assert_int_equal(lseek(stream.fd, 0, SEEK_SET), 0);
        stream.read = 0;
        if (!image_read_head(&stream, &image, &err) || !image_read_machine(&stream, &image, other, false, &err)) {
            fail_msg("%s", err.text);
        }
        assert_int_equal(other->apic_mode, machine->apic_mode);
        if (version == 2) {
            assert_properties(other->partition, plain);
        } else {
            assert_int_equal(read_back(other->partition, "cpu-cap"), read_back(plain, "cpu-cap"));
        }
        close(stream.fd);
        stream_free(&stream);
        machine_destroy(machine);
        machine_destroy(other);
        free(machine);
        free(other);
        options_free(&options);
    }
    assert_int_equal(WHvDeletePartition(plain), S_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_by_set_up),
        cmocka_unit_test(test_can_have),
        cmocka_unit_test(test_saved),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_override),
        cmocka_unit_test(test_images),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
