// The guest memory map: splitting, replacing, merging, and a random walk against a page-by-page model.
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "partition/gpa_map.h"

#define PAGE GPA_PAGE_SIZE
#define RWX (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute)

static uint8_t *host(uint64_t page)
{
    return (uint8_t *)(uintptr_t)(0x100000000ull + page * PAGE);
}

static HRESULT insert(struct gpa_map *map, uint64_t page, uint64_t pages, uint64_t host_page, int flags)
{
    struct gpa_range range = {page * PAGE, pages * PAGE, host(host_page), flags};

    return gpa_map_insert(map, &range, NULL);
}

static void assert_mapped(struct gpa_map *map, uint64_t page, uint64_t host_page, int flags)
{
    struct gpa_range found;

    assert_true(gpa_map_find(map, page * PAGE + 5, &found));
    assert_ptr_equal(found.host + (page * PAGE - found.gpa), host(host_page));
    assert_int_equal(found.flags, flags);
}

static void assert_unmapped(struct gpa_map *map, uint64_t page)
{
    struct gpa_range found;

    assert_false(gpa_map_find(map, page * PAGE, &found));
}

static void test_range_valid(void **state)
{
    (void)state;
    assert_true(gpa_range_valid(0, 1, 1));
    assert_true(gpa_range_valid(0xFFF, 1, 0x1000));
    assert_false(gpa_range_valid(0, 0, 0x1000));
    assert_false(gpa_range_valid(0x1000, 1, 0x1000));
    assert_false(gpa_range_valid(UINT64_MAX, 2, UINT64_MAX));
    assert_false(gpa_range_valid(2, UINT64_MAX, UINT64_MAX));
}

static void test_split_and_replace(void **state)
{
    struct gpa_map map;
    struct gpa_range range;

    (void)state;
    assert_ok(gpa_map_init(&map));
    assert_hr(gpa_map_remove(&map, 0, PAGE, NULL), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(insert(&map, 10, 10, 100, RWX));

    // A hole in the middle makes two ranges of one.
    assert_ok(gpa_map_remove(&map, 14 * PAGE, 2 * PAGE, NULL));
    assert_int_equal(map.count, 2);
    assert_mapped(&map, 13, 103, RWX);
    assert_unmapped(&map, 14);
    assert_unmapped(&map, 15);
    assert_mapped(&map, 16, 106, RWX);

    // A walk goes over the hole to the next range.
    assert_true(gpa_map_next(&map, 13 * PAGE, &range));
    assert_int_equal(range.gpa, 10 * PAGE);
    assert_true(gpa_map_next(&map, 14 * PAGE, &range));
    assert_int_equal(range.gpa, 16 * PAGE);
    assert_false(gpa_map_next(&map, 20 * PAGE, &range));

    // A map over the hole and both its sides replaces them.
    assert_ok(insert(&map, 12, 6, 500, WHvMapGpaRangeFlagRead));
    assert_mapped(&map, 11, 101, RWX);
    assert_mapped(&map, 12, 500, WHvMapGpaRangeFlagRead);
    assert_mapped(&map, 17, 505, WHvMapGpaRangeFlagRead);
    assert_mapped(&map, 18, 108, RWX);
    assert_unmapped(&map, 20);

    // An unmap over everything, and beyond it, is accepted.
    assert_ok(gpa_map_remove(&map, 0, 1000 * PAGE, NULL));
    assert_int_equal(map.count, 0);
    gpa_map_destroy(&map);
}

static void test_merge(void **state)
{
    struct gpa_map map;

    (void)state;
    assert_ok(gpa_map_init(&map));
    assert_ok(insert(&map, 0, 1, 100, RWX));
    assert_ok(insert(&map, 2, 1, 102, RWX));
    assert_ok(insert(&map, 1, 1, 101, RWX));
    assert_int_equal(map.count, 1);
    assert_ok(insert(&map, 1, 1, 101, WHvMapGpaRangeFlagRead));
    assert_int_equal(map.count, 3);
    // Neighbours in the guest that are none in the process stay apart, and so do aliases.
    assert_ok(insert(&map, 3, 1, 100, RWX));
    assert_int_equal(map.count, 4);
    assert_mapped(&map, 3, 100, RWX);
    gpa_map_destroy(&map);
}

static void test_top_of_address_space(void **state)
{
    const uint64_t last = (1ull << 52) / PAGE - 1;
    struct gpa_map map;

    (void)state;
    assert_ok(gpa_map_init(&map));
    assert_ok(insert(&map, last, 1, 1, RWX));
    assert_mapped(&map, last, 1, RWX);
    assert_ok(gpa_map_remove(&map, last * PAGE, PAGE, NULL));
    gpa_map_destroy(&map);
}

static void test_many_ranges(void **state)
{
    enum { COUNT = 16384 };
    struct gpa_map map;

    (void)state;
    assert_ok(gpa_map_init(&map));
    // Every other page, downwards: the worst order for an array.
    for (unsigned int i = COUNT; i-- > 0;)
        assert_ok(insert(&map, i * 2, 1, i, RWX));
    assert_int_equal(map.count, COUNT);
    assert_true(gpa_map_sound(&map));
    for (unsigned int i = 0; i < COUNT; i++) {
        assert_mapped(&map, i * 2, i, RWX);
        assert_unmapped(&map, i * 2 + 1);
    }
    gpa_map_destroy(&map);
}

// The map is the same, range by range.
static void assert_same(const struct gpa_map *map, const struct gpa_range *ranges, size_t count)
{
    assert_int_equal(map->count, count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(map->ranges[i].gpa, ranges[i].gpa);
        assert_int_equal(map->ranges[i].size, ranges[i].size);
        assert_ptr_equal(map->ranges[i].host, ranges[i].host);
        assert_int_equal(map->ranges[i].flags, ranges[i].flags);
    }
}

static void test_restore(void **state)
{
    enum { PAGES = 100, STEPS = 20000 };
    struct gpa_range before[PAGES];
    struct gpa_map map;
    unsigned int seed = 7;

    (void)state;
    assert_ok(gpa_map_init(&map));
    for (unsigned int step = 0; step < STEPS; step++) {
        struct gpa_range range = {.gpa = rand_r(&seed) % 90 * PAGE, .size = (1 + rand_r(&seed) % 10) * PAGE};
        size_t count = map.count;
        struct gpa_map_undo undo;
        HRESULT hr;

        // Long ranges now and then: they replace more than the record holds by itself.
        if (rand_r(&seed) % 8 == 0)
            range.size = PAGES * PAGE - range.gpa;
        range.host = host(range.gpa / PAGE + rand_r(&seed) % 2 * 5000);
        range.flags = 1 + rand_r(&seed) % 3;
        if (count)
            memcpy(before, map.ranges, count * sizeof(*before));
        if (rand_r(&seed) % 2)
            hr = gpa_map_insert(&map, &range, &undo);
        else
            hr = gpa_map_remove(&map, range.gpa, range.size, &undo);
        if (FAILED(hr)) {
            assert_hr(hr, WHV_E_GPA_RANGE_NOT_FOUND);
        } else if (rand_r(&seed) % 2) {
            gpa_map_restore(&map, &undo);
            assert_same(&map, before, count);
        } else {
            gpa_map_keep(&undo);
        }
        assert_true(gpa_map_sound(&map));
    }
    gpa_map_destroy(&map);
}

static void test_random_walk(void **state)
{
    enum { PAGES = 200, STEPS = 20000 };
    struct { uint64_t host_page; int flags; } model[PAGES];
    struct gpa_map map;
    unsigned int seed = 1;

    (void)state;
    memset(model, 0, sizeof(model));
    assert_ok(gpa_map_init(&map));
    for (unsigned int step = 0; step < STEPS; step++) {
        unsigned int first = rand_r(&seed) % PAGES, count = 1 + rand_r(&seed) % (PAGES - first);
        int flags = 1 + rand_r(&seed) % 3;
        uint64_t host_page = first + 1000 + (rand_r(&seed) % 2) * 5000;
        bool any = false;

        if (count > 20)
            count = 1 + count % 20;
        for (unsigned int i = first; i < first + count; i++)
            any = any || model[i].flags;
        if (rand_r(&seed) % 2) {
            assert_ok(insert(&map, first, count, host_page, flags));
        } else {
            assert_hr(gpa_map_remove(&map, first * (gpa_t)PAGE, count * (uint64_t)PAGE, NULL),
                      any ? S_OK : WHV_E_GPA_RANGE_NOT_FOUND);
            flags = 0;
        }
        for (unsigned int i = 0; i < count; i++) {
            model[first + i].host_page = host_page + i;
            model[first + i].flags = flags;
        }
        assert_true(gpa_map_sound(&map));
        for (unsigned int i = 0; i < PAGES; i += 1 + step % 7) {
            if (model[i].flags)
                assert_mapped(&map, i, model[i].host_page, model[i].flags);
            else
                assert_unmapped(&map, i);
        }
    }
    gpa_map_destroy(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_range_valid),
        cmocka_unit_test(test_split_and_replace),
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_top_of_address_space),
        cmocka_unit_test(test_many_ranges),
        cmocka_unit_test(test_restore),
        cmocka_unit_test(test_random_walk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
