// The packed form of a local APIC's registers and the standard page.
#include "unit.h"

#include <string.h>

#include "partition/apic_state.h"

static void test_round_trip(void **state)
{
    uint8_t page[APIC_STATE_SIZE] = {0}, packed[APIC_STATE_SIZE], again[APIC_STATE_SIZE];

    (void)state;
    for (unsigned int offset = 0; offset < 0x400; offset += 16)
        page[offset] = page[offset + 3] = (uint8_t)(offset >> 4 | 0x80);
    apic_state_pack(packed, page);
    // ISR word 1 follows word 0 at once; the registers around the vectors stay where they are.
    assert_memory_equal(packed + 0x104, page + 0x110, 4);
    assert_memory_equal(packed + 0x21C, page + 0x270, 4);
    assert_memory_equal(packed + 0xF0, page + 0xF0, 4);
    assert_memory_equal(packed + 0x280, page + 0x280, 4);

    apic_state_unpack(again, packed);
    memset(page + 0xA0, 0, 4);
    assert_memory_equal(again, page, sizeof(page));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
