// Ten thousand partitions leave nothing behind: no descriptor, no mapping.
#include "holdings.h"

#define LIVES 10000
#define FIRST_LIVES 20          // whatever is made once and kept has been made then

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

static const uint8_t out[] = {0xE6, 0x10};      // out 0x10, al

static void live(WHV_X64_LOCAL_APIC_EMULATION_MODE mode)
{
    WHV_PARTITION_HANDLE p = created(1);

    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, mode));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    start_at(p, 0, CODE);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(WHvDeletePartition(p));
}

// One that never comes to a processor, or whose processor goes before it does.
static void short_live(int kind)
{
    WHV_PARTITION_HANDLE p = created(2);

    if (kind > 0)
        assert_ok(WHvSetupPartition(p));
    if (kind > 1) {
        assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
        assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
        assert_ok(WHvDeleteVirtualProcessor(p, 1));
    }
    assert_ok(WHvDeletePartition(p));
}

static void test_partitions(void **state)
{
    const bool apic = engine_has_apic();
    unsigned int open = 0, mapped = 0;

    (void)state;
    memcpy(memory + CODE, out, sizeof(out));
    for (int n = 0; n < LIVES; n++) {
        if (n == FIRST_LIVES) {
            open = descriptors();
            mapped = mappings();
        }
        if (n % 8 == 7)
            short_live(n / 8 % 3);
        else
            live(apic && n % 4 == 1 ? WHvX64LocalApicEmulationModeXApic : WHvX64LocalApicEmulationModeNone);
    }
    assert_int_equal(descriptors(), open);
    assert_in_range(mappings(), 1, mapped + MAPPINGS_SLACK);
}

// Processors of one partition come and go.
static void test_processors(void **state)
{
    WHV_PARTITION_HANDLE p = set_up(2);
    unsigned int open = 0, mapped = 0;

    (void)state;
    memcpy(memory + CODE, out, sizeof(out));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    for (int n = 0; n < 500; n++) {
        if (n == FIRST_LIVES) {
            open = descriptors();
            mapped = mappings();
        }
        assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
        start_at(p, 1, CODE);
        assert_int_equal(run(p, 1).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
        assert_ok(WHvDeleteVirtualProcessor(p, 1));
    }
    assert_in_range(mappings(), 1, mapped + MAPPINGS_SLACK);
    assert_int_equal(descriptors(), open);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_partitions),
        cmocka_unit_test(test_processors),
    };

    return engine_run_tests(tests);
}
