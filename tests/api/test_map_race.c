// The guest memory map changes while processors run over it: once a call has returned, nobody touches what
// it took away.
//
// What was unmapped is made inaccessible at once. A processor that still uses it ends the test by a signal,
// because the library answers for guest memory alone.
#include <sys/mman.h>

#include "threads.h"

#define WINDOW 0x9000u
#define PROCESSORS 2

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
static uint8_t pages[2][2 * PAGE] __attribute__((aligned(PAGE)));

// Runs a processor over a memory that comes and goes, until it is cancelled.
struct walker {
    WHV_PARTITION_HANDLE partition;
    UINT32 vp;
    WHV_MEMORY_ACCESS_TYPE expected;
    atomic_int exits, wrong;
    pthread_t thread;
};

static void *walk(void *argument)
{
    struct walker *w = argument;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    for (;;) {
        HRESULT hr = WHvRunVirtualProcessor(w->partition, w->vp, &exit, sizeof(exit));

        if (hr == S_OK && exit.ExitReason == WHvRunVpExitReasonCanceled)
            return NULL;
        if (hr != S_OK || exit.ExitReason != WHvRunVpExitReasonMemoryAccess ||
            !exit.MemoryAccess.AccessInfo.GpaUnmapped || exit.MemoryAccess.Gpa - WINDOW >= 2 * PAGE) {
            atomic_fetch_add(&w->wrong, 1);
            return NULL;
        }
        atomic_fetch_add(&w->exits, 1);
        pause_briefly();
    }
}

static void start_walkers(struct walker *walkers, WHV_PARTITION_HANDLE p)
{
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        walkers[vp] = (struct walker){.partition = p, .vp = vp};
        assert_int_equal(pthread_create(&walkers[vp].thread, NULL, walk, &walkers[vp]), 0);
    }
}

static void stop_walkers(struct walker *walkers)
{
    for (UINT32 vp = 0; vp < PROCESSORS; vp++)
        assert_ok(WHvCancelRunVirtualProcessor(walkers[vp].partition, vp, 0));
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        pthread_join(walkers[vp].thread, NULL);
        assert_int_equal(walkers[vp].wrong, 0);
    }
}

static void permit(uint8_t *range, int protection)
{
    assert_int_equal(mprotect(range, 2 * PAGE, protection), 0);
}

// Map `range` and wait until each processor has been in each of its pages.
static void map_and_see_used(WHV_PARTITION_HANDLE p, uint8_t *range)
{
    permit(range, PROT_READ | PROT_WRITE);
    memset(range, 0, 2 * PAGE);
    assert_ok(WHvMapGpaRange(p, range, WINDOW, 2 * PAGE, RWX));
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        EVENTUALLY(load32(range, 4 * vp) != 0);
        EVENTUALLY(load32(range, PAGE + 4 * vp) != 0);
    }
}

static WHV_PARTITION_HANDLE window_guest(const void *code, size_t size)
{
    WHV_PARTITION_HANDLE p = set_up(PROCESSORS);

    memcpy(memory + CODE, code, size);
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvUnmapGpaRange(p, WINDOW, 2 * PAGE));
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
        start_at(p, vp, CODE);
        set_register(p, vp, WHvX64RegisterRbx, WINDOW + 4 * vp);
        set_register(p, vp, WHvX64RegisterRsp, 0x8000 + 0x800 * vp);
    }
    return p;
}

static const uint8_t data_code[] = {
    0xF0, 0x66, 0xFF, 0x07,                 // lock inc dword [bx]
    0xF0, 0x66, 0xFF, 0x87, 0x00, 0x10,     // lock inc dword [bx + PAGE]
    0xBF, 0x00, 0x98,                       // mov di, WINDOW + 0x800
    0xB9, 0x00, 0x08,                       // mov cx, 0x800
    0xF3, 0xAA,                             // rep stosb
    0xEB, 0xEC,                             // jmp there
};

static void test_unmap(void **state)
{
    WHV_PARTITION_HANDLE p = window_guest(data_code, sizeof(data_code));
    struct walker walkers[PROCESSORS];

    (void)state;
    start_walkers(walkers, p);
    for (int n = 0; n < 150; n++) {
        map_and_see_used(p, pages[0]);
        assert_ok(WHvUnmapGpaRange(p, WINDOW, 2 * PAGE));
        permit(pages[0], PROT_NONE);
    }
    stop_walkers(walkers);
    permit(pages[0], PROT_READ | PROT_WRITE);
    assert_ok(WHvDeletePartition(p));
}

// Mapping over an existing range replaces it without an unmap.
static void test_replace(void **state)
{
    WHV_PARTITION_HANDLE p = window_guest(data_code, sizeof(data_code));
    struct walker walkers[PROCESSORS];

    (void)state;
    start_walkers(walkers, p);
    for (int n = 0; n < 150; n++) {
        map_and_see_used(p, pages[n % 2]);
        permit(pages[1 - n % 2], PROT_NONE);
    }
    stop_walkers(walkers);
    permit(pages[0], PROT_READ | PROT_WRITE);
    permit(pages[1], PROT_READ | PROT_WRITE);
    assert_ok(WHvDeletePartition(p));
}

// Code in the window, called from outside.
static const uint8_t caller[] = {0xE8, 0xFD, 0x7F, 0xEB, 0xFB};     // call WINDOW; jmp there

static void test_code(void **state)
{
    // inc word [bx - WINDOW + COUNTER]; ret
    static const uint8_t code[] = {0xFF, 0x87, 0x00, 0x90, 0xC3};
    WHV_PARTITION_HANDLE p = window_guest(caller, sizeof(caller));
    struct walker walkers[PROCESSORS];

    (void)state;
    permit(pages[0], PROT_READ | PROT_WRITE);
    memcpy(pages[0], code, sizeof(code));
    start_walkers(walkers, p);
    for (int n = 0; n < 150; n++) {
        UINT32 before[PROCESSORS];

        for (UINT32 vp = 0; vp < PROCESSORS; vp++)
            before[vp] = load32(memory, 0x2000 + 4 * vp);
        permit(pages[0], PROT_READ);
        assert_ok(WHvMapGpaRange(p, pages[0], WINDOW, PAGE, RX));
        for (UINT32 vp = 0; vp < PROCESSORS; vp++)
            EVENTUALLY(load32(memory, 0x2000 + 4 * vp) != before[vp]);
        assert_ok(WHvUnmapGpaRange(p, WINDOW, PAGE));
        permit(pages[0], PROT_NONE);
    }
    stop_walkers(walkers);
    permit(pages[0], PROT_READ | PROT_WRITE);
    assert_ok(WHvDeletePartition(p));
}

// Code whose page the host takes away while it is mapped: RIP is on the target, and nothing is executed
// twice.
static void test_code_taken_away(void **state)
{
    static const uint8_t code[] = {
        0xF0, 0x66, 0xFF, 0x06, 0x00, 0x20, // lock inc dword [COUNTER]
        0xE9, 0xF7, 0x7F,                   // jmp WINDOW
    };
    static const uint8_t target[] = {0xE6, 0x10, 0xE9, 0xFB, 0x7F}; // out 0x10, al; jmp CODE
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    memcpy(memory + WINDOW, target, sizeof(target));
    store32(memory, COUNTER, 0);
    for (UINT32 n = 1; n <= 3; n++) {
        assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
        assert_int_equal(load32(memory, COUNTER), 2 * n - 1);
        set_register(p, 0, WHvX64RegisterRip, CODE);
        assert_int_equal(mprotect(memory + WINDOW, PAGE, PROT_NONE), 0);
        exit = run(p, 0);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
        assert_int_equal(exit.MemoryAccess.Gpa, WINDOW);
        assert_int_equal(exit.VpContext.Rip, WINDOW);
        assert_int_equal(mprotect(memory + WINDOW, PAGE, PROT_READ | PROT_WRITE), 0);
        assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
        assert_int_equal(load32(memory, COUNTER), 2 * n);
        set_register(p, 0, WHvX64RegisterRip, CODE);
    }
    assert_ok(WHvDeletePartition(p));
}

// Page tables that the host took away: a translation says so.
static void test_page_table_taken_away(void **state)
{
    static const uint8_t code[] = {0xF4};
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_TRANSLATE_GVA_RESULT result;
    WHV_GUEST_PHYSICAL_ADDRESS gpa;

    (void)state;
    memset(memory + WINDOW, 0, PAGE);
    store32(memory, WINDOW, 0x83);      // 4 MiB at 0, present and writable
    set_register(p, 0, WHvX64RegisterCr3, WINDOW);
    set_register(p, 0, WHvX64RegisterCr4, 0x10);
    set_register(p, 0, WHvX64RegisterCr0, 0x80000011);
    assert_ok(WHvTranslateGva(p, 0, 0x2345, WHvTranslateGvaFlagValidateRead, &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultSuccess);
    assert_int_equal(gpa, 0x2345);
    set_register(p, 0, WHvX64RegisterCr3, WINDOW);
    assert_int_equal(mprotect(memory + WINDOW, PAGE, PROT_NONE), 0);
    assert_ok(WHvTranslateGva(p, 0, 0x2345, WHvTranslateGvaFlagValidateRead, &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultGpaUnmapped);
    assert_int_equal(mprotect(memory + WINDOW, PAGE, PROT_READ | PROT_WRITE), 0);
    assert_ok(WHvTranslateGva(p, 0, 0x2345, WHvTranslateGvaFlagValidateRead, &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultSuccess);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unmap),
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_code),
        cmocka_unit_test(test_code_taken_away),
        cmocka_unit_test(test_page_table_taken_away),
    };

    return engine_run_tests(tests);
}
