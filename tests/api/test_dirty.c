// Written pages: WHvMapGpaRangeFlagTrackDirtyPages and WHvQueryGpaRangeDirtyBitmap tell of every page that a
// guest has written, by whatever instruction, once, and of no other.
#include "modes.h"
#include "threads.h"

#define PAGES 16u
#define TRACKED ((WHV_MAP_GPA_RANGE_FLAGS)(RWX | WHvMapGpaRangeFlagTrackDirtyPages))
#define BIT(page) (1ull << (page))

static uint8_t memory[PAGES * PAGE] __attribute__((aligned(PAGE)));
static uint8_t other[PAGES * PAGE] __attribute__((aligned(PAGE)));

// The engine tracks pages; one that does not refuses the flag.
static bool tracking_offered(void)
{
    WHV_PARTITION_HANDLE p;

    if (engine_capability(WHvCapabilityCodeFeatures).Features.DirtyPageTracking)
        return true;
    p = set_up(1);
    assert_hr(WHvMapGpaRange(p, memory, 0, PAGE, TRACKED), E_INVALIDARG);
    assert_hr(WHvUnmapGpaRange(p, 0, PAGE), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(WHvDeletePartition(p));
    print_message("refused as documented: dirty page tracking\n");
    return false;
}

static UINT64 dirty_pages(WHV_PARTITION_HANDLE p, UINT64 first, UINT64 pages)
{
    UINT64 bitmap = 0xEEEEEEEEEEEEEEEE;

    assert_ok(WHvQueryGpaRangeDirtyBitmap(p, first * PAGE, pages * PAGE, &bitmap, sizeof(bitmap)));
    return bitmap;
}

#define assert_dirty(p, first, pages, expected) assert_int_equal(dirty_pages(p, first, pages), expected)

static WHV_PARTITION_HANDLE tracked_guest(const void *code, size_t size)
{
    WHV_PARTITION_HANDLE p;

    memset(memory, 0, sizeof(memory));
    p = guest(memory, code, size);
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), TRACKED));
    return p;
}

static void run_again(WHV_PARTITION_HANDLE p)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    set_register(p, 0, WHvX64RegisterRip, CODE);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
}

static const uint8_t stores[] = {
    0xA2, 0x00, 0x30,                           // mov [3000h], al
    0xBF, 0xF0, 0x4F, 0xB9, 0x20, 0x00,         // mov di, 4FF0h; mov cx, 20h
    0xF3, 0xAA,                                 // rep stosb
    0xBC, 0x00, 0x70, 0x50,                     // mov sp, 7000h; push ax
    0xF0, 0x83, 0x06, 0x10, 0x80, 0x01,         // lock add word [8010h], 1
    0xA3, 0xFF, 0x9F,                           // mov [9FFFh], ax
    0xA0, 0x00, 0xB0,                           // mov al, [0B000h]
    0xBE, 0x00, 0x30, 0xBF, 0x00, 0xC0, 0xA4,   // mov si, 3000h; mov di, 0C000h; movsb
    0xFE, 0x06, 0x00, 0xD0,                     // inc byte [0D000h]
    0xE6, 0x10,                                 // out 10h, al
};
#define STORED (BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(12) | BIT(13))

static void test_exactly_the_written_pages(void **state)
{
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(tracking_offered());
    p = tracked_guest(stores, sizeof(stores));
    assert_dirty(p, 0, PAGES, 0);
    run_again(p);
    assert_dirty(p, 0, PAGES, STORED);
    assert_dirty(p, 0, PAGES, 0);
    run_again(p);                               // everything is at hand by now
    run_again(p);
    assert_dirty(p, 0, PAGES, STORED);
    // A part at a time: the rest is kept.
    run_again(p);
    assert_dirty(p, 4, 2, BIT(0) | BIT(1));
    assert_dirty(p, 9, 7, (STORED >> 9) & 0x7F);
    assert_dirty(p, 0, PAGES, BIT(3) | BIT(6) | BIT(8));
    // Starting over without looking.
    run_again(p);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(p, 3 * PAGE, 6 * PAGE, NULL, 0));
    assert_dirty(p, 0, PAGES, STORED & ~(0x3Full << 3));
    // What this process writes is its own affair.
    memset(memory + 0x3000, 1, PAGE);
    assert_dirty(p, 0, PAGES, 0);
    assert_ok(WHvDeletePartition(p));
}

static void test_code_that_changes_itself(void **state)
{
    static const uint8_t code[] = {0xFE, 0x06, 0x00, 0x18,      // inc byte [1800h]
                                   0xFE, 0x06, 0x00, 0x18, 0xE6, 0x10};
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(tracking_offered());
    p = tracked_guest(code, sizeof(code));
    for (int n = 0; n < 3; n++) {
        run_again(p);
        assert_dirty(p, 0, PAGES, BIT(1));
    }
    assert_ok(WHvDeletePartition(p));
}

// ---- Ranges ----------------------------------------------------------------------------------------------

static void test_ranges(void **state)
{
    WHV_PARTITION_HANDLE p;
    UINT64 bitmap[3] = {0, 0, 0x5A5A};

    (void)state;
    NEEDS(tracking_offered());
    p = tracked_guest(stores, sizeof(stores));
    run_again(p);
    // Unmapping a part takes its marks with it, and leaves those of the rest.
    assert_ok(WHvUnmapGpaRange(p, 4 * PAGE, 5 * PAGE));
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, PAGES * PAGE, bitmap, 8), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 3 * PAGE, 2 * PAGE, bitmap, 8), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 8 * PAGE, PAGE, NULL, 0), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_dirty(p, 0, 4, BIT(3));
    assert_dirty(p, 9, 7, (STORED >> 9) & 0x7F);
    // What is mapped there again is clean, and the two sides and the middle are one span to a query.
    assert_ok(WHvMapGpaRange(p, other, 4 * PAGE, 5 * PAGE, TRACKED));
    assert_dirty(p, 0, PAGES, 0);
    run_again(p);
    assert_dirty(p, 0, PAGES, STORED);
    // Mapping over a dirty range makes it clean.
    run_again(p);
    assert_ok(WHvMapGpaRange(p, memory + 3 * PAGE, 3 * PAGE, 3 * PAGE, TRACKED));
    assert_dirty(p, 0, PAGES, STORED & ~(7ull << 3));
    // One page of the span is not tracked.
    assert_ok(WHvMapGpaRange(p, memory + 6 * PAGE, 6 * PAGE, PAGE, RWX));
    run_again(p);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, PAGES * PAGE, bitmap, 8), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 6 * PAGE, PAGE, bitmap, 8), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(WHvMapGpaRange(p, memory + 6 * PAGE, 6 * PAGE, PAGE, TRACKED));
    assert_dirty(p, 0, PAGES, STORED & ~BIT(6));    // a query that failed has forgotten nothing
    assert_ok(WHvDeletePartition(p));
}

// A guest that has been at work for a while is tracked from some moment on, as migration does it.
static void test_tracking_starts_late(void **state)
{
    WHV_PARTITION_HANDLE p;
    UINT64 bitmap;

    (void)state;
    NEEDS(tracking_offered());
    memset(memory, 0, sizeof(memory));
    p = guest(memory, stores, sizeof(stores));
    run_again(p);
    run_again(p);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, PAGES * PAGE, &bitmap, 8), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), TRACKED));
    assert_dirty(p, 0, PAGES, 0);
    run_again(p);
    assert_dirty(p, 0, PAGES, STORED);
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    run_again(p);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, PAGES * PAGE, &bitmap, 8), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), TRACKED));
    assert_dirty(p, 0, PAGES, 0);
    assert_ok(WHvDeletePartition(p));
}

// The same memory at two places is two pages to the guest.
static void test_alias(void **state)
{
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(tracking_offered());
    p = tracked_guest(stores, sizeof(stores));
    assert_ok(WHvMapGpaRange(p, memory, 0x100000, sizeof(memory), TRACKED));
    run_again(p);
    assert_dirty(p, 0, PAGES, STORED);
    assert_dirty(p, 0x100, PAGES, 0);
    assert_ok(WHvDeletePartition(p));
}

static void test_bitmap(void **state)
{
    const UINT64 pages = 130;
    uint8_t *large = aligned_alloc(PAGE, pages * PAGE);
    WHV_PARTITION_HANDLE p;
    UINT64 bitmap[4];

    (void)state;
    assert_non_null(large);
    if (tracking_offered()) {
        p = tracked_guest(stores, sizeof(stores));
        memcpy(large, memory, sizeof(memory));
        assert_ok(WHvMapGpaRange(p, large, 0, pages * PAGE, TRACKED));
        run_again(p);
        memset(bitmap, 0xEE, sizeof(bitmap));
        assert_ok(WHvQueryGpaRangeDirtyBitmap(p, PAGE, (pages - 1) * PAGE, bitmap, sizeof(bitmap)));
        assert_int_equal(bitmap[0], STORED >> 1);
        assert_int_equal(bitmap[1], 0);
        assert_int_equal(bitmap[2], 0);
        assert_int_equal(bitmap[3], 0xEEEEEEEEEEEEEEEE);        // beyond what the range needs
        assert_ok(WHvDeletePartition(p));
    }
    free(large);
}

static void test_arguments(void **state)
{
    WHV_PARTITION_HANDLE p;
    UINT64 bitmap[4] = {0};
    UINT64 top;

    (void)state;
    NEEDS(tracking_offered());
    p = created(1);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, PAGE, bitmap, 8), INVALID_STATE);
    assert_ok(WHvDeletePartition(p));
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, PAGE, bitmap, 8), E_INVALIDARG);
    p = tracked_guest(stores, sizeof(stores));
    run_again(p);
    top = 1ull << engine_capability(WHvCapabilityCodePhysicalAddressWidth).PhysicalAddressWidth;
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 1, PAGE, bitmap, 8), E_INVALIDARG);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, PAGE + 1, bitmap, 8), E_INVALIDARG);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, 0, bitmap, 8), E_INVALIDARG);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, top, PAGE, bitmap, 8), E_INVALIDARG);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0 - (UINT64)PAGE, 2 * PAGE, bitmap, 8), E_INVALIDARG);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, PAGE, bitmap, 7), E_INVALIDARG);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, PAGE, bitmap, 1), E_INVALIDARG);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, 65 * PAGE, bitmap, 8), E_INVALIDARG);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, PAGE, (UINT64 *)(void *)((uint8_t *)bitmap + 4), 8),
              E_INVALIDARG);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, PAGE, NULL, 8), E_POINTER);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, PAGES * PAGE, PAGE, bitmap, 8), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_hr(WHvQueryGpaRangeDirtyBitmap(p, 0, 65 * PAGE, bitmap, 16), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_dirty(p, 0, PAGES, STORED);
    assert_ok(WHvDeletePartition(p));
}

// ---- What the processor writes by itself -----------------------------------------------------------------

static void test_page_tables(void **state)
{
    static const uint8_t code[] = {0x88, 0x04, 0x25, 0x00, 0x30, 0x00, 0x00,    // mov [DATA], al
                                   0xE6, 0x10};
    WHV_TRANSLATE_GVA_RESULT result;
    WHV_GUEST_PHYSICAL_ADDRESS gpa;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(tracking_offered());
    p = tracked_guest(code, sizeof(code));
    enter_long(p, memory);
    assert_dirty(p, 0, PAGES, 0);
    // The tables take accessed bits from the fetch, and a dirty bit from the store.
    run_again(p);
    assert_true(peek64(memory, PT + 8 * 3) & PTE_D);
    assert_dirty(p, 0, PAGES, BIT(PML4 / PAGE) | BIT(PDPT / PAGE) | BIT(PD / PAGE) | BIT(PT / PAGE) | BIT(3));
    // They have them now.
    run_again(p);
    assert_dirty(p, 0, PAGES, BIT(3));
    // A translation that sets them, and one that does not.
    assert_ok(WHvTranslateGva(p, 0, 0x4000, WHvTranslateGvaFlagValidateWrite, &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultSuccess);
    assert_dirty(p, 0, PAGES, 0);
    assert_ok(WHvTranslateGva(p, 0, 0x4000,
                              (WHV_TRANSLATE_GVA_FLAGS)(WHvTranslateGvaFlagValidateWrite |
                                                        WHvTranslateGvaFlagSetPageTableBits),
                              &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultSuccess);
    assert_true(peek64(memory, PT + 8 * 4) & PTE_D);
    assert_dirty(p, 0, PAGES, BIT(PT / PAGE));
    assert_ok(WHvDeletePartition(p));
}

static void test_descriptors_and_deliveries(void **state)
{
    static const uint8_t load[] = {0xB8, 0x10, 0x00, 0x00, 0x00, 0x8E, 0xD8,    // mov eax, 10h; mov ds, eax
                                   0xE6, 0x10};
    static const uint8_t interrupt[] = {0xCD, 0x20};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(tracking_offered());
    p = tracked_guest(load, sizeof(load));
    enter_protected(p, memory);
    put64(memory, GDT + 0x10, 0x00CF92000000FFFF);      // not accessed
    run_again(p);
    assert_int_equal(memory[GDT + 0x15] & 1, 1);
    assert_dirty(p, 0, PAGES, BIT(GDT / PAGE));
    run_again(p);
    assert_dirty(p, 0, PAGES, 0);
    memcpy(memory + CODE, interrupt, sizeof(interrupt));
    set_gate(memory, false, 0x20);
    set_register(p, 0, WHvX64RegisterRip, CODE);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x20);
    assert_dirty(p, 0, PAGES, BIT(STACK / PAGE - 1));
    assert_ok(WHvDeletePartition(p));
}

// ---- Nothing is lost -------------------------------------------------------------------------------------

#define PROCESSORS 2
#define RUNS 100
#define QUERIES 4           // in each run; few, as a page that is lost at one may be found at the next

// Each processor: CX counts, and so does [bx]; a push, a fill and a store through four pages by turns put CX
// elsewhere.
static const uint8_t busy[] = {
    0x41,                               // inc cx
    0xF0, 0x66, 0xFF, 0x07,             // lock inc dword [bx]
    0x89, 0xD4, 0x51,                   // mov sp, dx; push cx
    0x81, 0xC6, 0x00, 0x10,             // add si, 1000h
    0x81, 0xE6, 0xFF, 0x3F,             // and si, 3FFFh
    0x89, 0x8C, 0x00, 0x80,             // mov [si + 8000h], cx
    0x88, 0xC8, 0x51, 0xB9, 0x40, 0x00, // mov al, cl; push cx; mov cx, 40h
    0x89, 0xEF, 0xF3, 0xAA,             // mov di, bp; rep stosb
    0x59, 0xEB, 0xDD,                   // pop cx; jmp there
};

// Copy what a query tells of, as a migration does.
static void copy_dirty(WHV_PARTITION_HANDLE p)
{
    UINT64 dirty = dirty_pages(p, 0, PAGES);

    for (UINT64 page = 0; page < PAGES; page++)
        for (UINT64 at = page * PAGE; dirty >> page & 1 && at < (page + 1) * PAGE; at += 4)
            store32(other, at, load32(memory, at));
}

// Until each processor has written something.
static void wait_for_work(void)
{
    UINT32 before[PROCESSORS];

    for (UINT32 vp = 0; vp < PROCESSORS; vp++)
        before[vp] = load32(memory, 0x2000 + 0x1000 * vp);
    for (UINT32 vp = 0; vp < PROCESSORS; vp++)
        EVENTUALLY(load32(memory, 0x2000 + 0x1000 * vp) != before[vp]);
}

static void test_nothing_is_lost(void **state)
{
    struct runner runners[PROCESSORS];
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(tracking_offered());
    p = set_up(PROCESSORS);
    memset(memory, 0, sizeof(memory));
    memcpy(memory + CODE, busy, sizeof(busy));
    memcpy(other, memory, sizeof(memory));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), TRACKED));
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
        start_at(p, vp, CODE);
        set_register(p, vp, WHvX64RegisterRbx, 0x2000 + 0x1000 * vp);
        set_register(p, vp, WHvX64RegisterRdx, 0x5000 + 0x1000 * vp);   // the stack's top
        set_register(p, vp, WHvX64RegisterRsi, 0x100 * vp);
        set_register(p, vp, WHvX64RegisterRbp, 0xD000 + 0x1000 * vp);
    }
    for (UINT32 n = 0; n < rounds(RUNS); n++) {
        for (UINT32 vp = 0; vp < PROCESSORS; vp++)
            start(&runners[vp], p, vp);
        for (UINT32 query = 0; query < QUERIES; query++) {
            wait_for_work();
            copy_dirty(p);
        }
        for (UINT32 vp = 0; vp < PROCESSORS; vp++)
            cancel(&runners[vp]);
        copy_dirty(p);
        for (UINT32 page = 0; page < PAGES; page++)
            if (memcmp(memory + page * PAGE, other + page * PAGE, PAGE) != 0)
                fail_msg("page %u was written and not told of", page);
        assert_dirty(p, 0, PAGES, 0);
    }
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exactly_the_written_pages),
        cmocka_unit_test(test_code_that_changes_itself),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_tracking_starts_late),
        cmocka_unit_test(test_alias),
        cmocka_unit_test(test_bitmap),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_page_tables),
        cmocka_unit_test(test_descriptors_and_deliveries),
        cmocka_unit_test(test_nothing_is_lost),
    };

    return engine_run_tests(tests);
}
