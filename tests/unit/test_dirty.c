// The record of written pages: edges of words and leaves, moving marks out and back, a random walk against a
// model, and markers that race with a reader.
#include "unit.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "partition/dirty.h"
#include "partition/gpa_map.h"

#define PAGE ((uint64_t)GPA_PAGE_SIZE)
#define GIB (1ull << 30)
#define TIB (1ull << 40)

static bool bit(const uint64_t *bitmap, uint64_t n) { return bitmap[n / 64] >> n % 64 & 1; }

static void test_words(void **state)
{
    (void)state;
    assert_int_equal(dirty_words(PAGE), 1);
    assert_int_equal(dirty_words(64 * PAGE), 1);
    assert_int_equal(dirty_words(65 * PAGE), 2);
}

static void test_without_room(void **state)
{
    struct dirty d = {NULL};
    uint64_t bitmap[1] = {0};

    (void)state;
    dirty_mark(&d, 0);
    dirty_take(&d, 0, PAGE, bitmap);
    assert_int_equal(bitmap[0], 0);
    assert_ok(dirty_reserve(&d, 0, PAGE));
    dirty_take(&d, 0, PAGE, bitmap);
    assert_int_equal(bitmap[0], 0);
    dirty_mark(&d, 1ull << 52);         // beyond every address
    dirty_destroy(&d);
}

// A span that starts and ends inside words, across leaves and directories.
static void span_at(gpa_t gpa, uint64_t pages)
{
    struct dirty d = {NULL};
    size_t words = dirty_words(pages * PAGE);
    uint64_t *bitmap = calloc(words + 1, sizeof(*bitmap)), *again = calloc(words, sizeof(*again));

    assert_non_null(bitmap);
    assert_non_null(again);
    assert_ok(dirty_reserve(&d, gpa - PAGE, (pages + 2) * PAGE));
    dirty_mark(&d, gpa - 1);            // outside, on both sides
    dirty_mark(&d, gpa + pages * PAGE);
    for (uint64_t i = 0; i < pages; i += 3)
        dirty_mark(&d, gpa + i * PAGE + i % PAGE);
    bitmap[words] = 0x5A5A;
    dirty_take(&d, gpa, pages * PAGE, bitmap);
    for (uint64_t i = 0; i < words * 64; i++)
        assert_int_equal(bit(bitmap, i), i < pages && i % 3 == 0);
    assert_int_equal(bitmap[words], 0x5A5A);
    dirty_take(&d, gpa, pages * PAGE, again);
    for (size_t i = 0; i < words; i++)
        assert_int_equal(again[i], 0);
    dirty_put(&d, gpa, pages * PAGE, bitmap);
    dirty_take(&d, gpa, pages * PAGE, again);
    assert_memory_equal(again, bitmap, words * sizeof(*again));
    memset(again, 0, words * sizeof(*again));
    dirty_take(&d, gpa - PAGE, PAGE, again);
    dirty_take(&d, gpa + pages * PAGE, PAGE, again);
    assert_int_equal(again[0], 1);
    free(again);
    free(bitmap);
    dirty_destroy(&d);
}

static void test_spans(void **state)
{
    static const gpa_t places[] = {PAGE, 63 * PAGE, 64 * PAGE, GIB - PAGE, GIB - 70 * PAGE,
                                   2 * TIB - 5 * PAGE, (1ull << 52) - 300 * PAGE};
    static const uint64_t lengths[] = {1, 2, 63, 64, 65, 127, 128, 200};

    (void)state;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        for (size_t n = 0; n < sizeof(lengths) / sizeof(lengths[0]); n++)
            span_at(places[i], lengths[n]);
}

static void test_clear_only(void **state)
{
    struct dirty d = {NULL};
    uint64_t bitmap[2] = {0};

    (void)state;
    assert_ok(dirty_reserve(&d, 0, 100 * PAGE));
    for (uint64_t i = 0; i < 100; i++)
        dirty_mark(&d, i * PAGE);
    dirty_take(&d, 10 * PAGE, 80 * PAGE, NULL);
    dirty_take(&d, 0, 100 * PAGE, bitmap);
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(bit(bitmap, i), i < 10 || i >= 90);
    dirty_destroy(&d);
}

#define MODEL_PAGES 1000u

static void test_random_walk(void **state)
{
    struct dirty d = {NULL};
    bool model[MODEL_PAGES] = {false};
    const gpa_t base = GIB - 500 * PAGE;        // two leaves
    unsigned int seed = 1;

    (void)state;
    assert_ok(dirty_reserve(&d, base, MODEL_PAGES * PAGE));
    for (unsigned int step = 0; step < 20000; step++) {
        uint64_t page = (unsigned int)rand_r(&seed) % MODEL_PAGES;

        if (rand_r(&seed) % 8) {
            dirty_mark(&d, base + page * PAGE);
            model[page] = true;
        } else {
            uint64_t pages = 1 + (unsigned int)rand_r(&seed) % (MODEL_PAGES - page);
            uint64_t bitmap[(MODEL_PAGES + 63) / 64] = {0};

            dirty_take(&d, base + page * PAGE, pages * PAGE, bitmap);
            for (uint64_t i = 0; i < pages; i++)
                assert_int_equal(bit(bitmap, i), model[page + i]);
            memset(model + page, 0, pages * sizeof(model[0]));
        }
    }
    dirty_destroy(&d);
}

// ---- A mark is never lost ----------------------------------------------------------------------------------

#define MARKERS 2
#define RACE_PAGES 64u
#define RACE_ROUNDS 20000u

struct race {
    struct dirty dirty;
    atomic_uint written[RACE_PAGES];    // grows before the page is marked
    atomic_uint done;
};

static void *marker_main(void *argument)
{
    struct race *race = argument;

    for (unsigned int round = 0; round < RACE_ROUNDS; round++) {
        unsigned int page = round * 7 % RACE_PAGES;

        atomic_fetch_add(&race->written[page], 1);
        dirty_mark(&race->dirty, page * PAGE);
    }
    atomic_fetch_add(&race->done, 1);
    return NULL;
}

static void test_marks_race_with_the_reader(void **state)
{
    static struct race race;
    static unsigned int seen[RACE_PAGES];
    pthread_t markers[MARKERS];
    bool last;

    (void)state;
    assert_ok(dirty_reserve(&race.dirty, 0, RACE_PAGES * PAGE));
    for (unsigned int i = 0; i < MARKERS; i++)
        assert_int_equal(pthread_create(&markers[i], NULL, marker_main, &race), 0);
    do {
        uint64_t bitmap = 0;

        last = atomic_load(&race.done) == MARKERS;
        dirty_take(&race.dirty, 0, RACE_PAGES * PAGE, &bitmap);
        for (unsigned int page = 0; page < RACE_PAGES; page++)
            if (bit(&bitmap, page))
                seen[page] = atomic_load(&race.written[page]);
    } while (!last);
    for (unsigned int i = 0; i < MARKERS; i++)
        pthread_join(markers[i], NULL);
    for (unsigned int page = 0; page < RACE_PAGES; page++)
        assert_int_equal(seen[page], atomic_load(&race.written[page]));
    dirty_destroy(&race.dirty);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_without_room),
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_clear_only),
        cmocka_unit_test(test_random_walk),
        cmocka_unit_test(test_marks_race_with_the_reader),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
