// State of a processor from other threads, while it runs and while it is parked.
#include "threads.h"
#include "bulkhead/bulkhead.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

static const uint8_t halt[] = {0xF4, 0xE6, 0x10};       // hlt; out 0x10, al

// At CODE and behind the MOV, BX equals AX; between the two it is one behind.
static const uint8_t in_step[] = {
    0x40,                   // inc ax
    0x89, 0xC3,             // mov bx, ax
    0x89, 0x1E, 0x00, 0x20, // mov [COUNTER], bx
    0xEB, 0xF7,             // jmp there
};

struct poll {
    WHV_PARTITION_HANDLE partition;
    atomic_int polls, wrong;
    atomic_bool stop;
};

static void *poll_main(void *argument)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterRax, WHvX64RegisterRbx, WHvX64RegisterRip};
    struct poll *l = argument;
    WHV_REGISTER_VALUE values[3];

    while (!atomic_load(&l->stop)) {
        bool good = WHvGetVirtualProcessorRegisters(l->partition, 0, names, 3, values) == S_OK;
        UINT64 rip = values[2].Reg64, behind = (values[0].Reg64 - values[1].Reg64) & 0xFFFF;

        good = good && (rip == CODE || rip == CODE + 1 || rip == CODE + 3 || rip == CODE + 7);
        if (!good || behind != (rip == CODE + 1))
            atomic_fetch_add(&l->wrong, 1);
        atomic_fetch_add(&l->polls, 1);
    }
    return NULL;
}

#define POLLERS 6

// What is read belongs together; and neither does the reading keep the processor from running, nor the
// other way.
static void test_storm_of_reads(void **state)
{
    struct poll l = {.partition = guest(memory, in_step, sizeof(in_step))};
    pthread_t pollers[POLLERS];
    struct runner r;

    (void)state;
    store32(memory, COUNTER, 0);
    for (int n = 0; n < POLLERS; n++)
        pthread_create(&pollers[n], NULL, poll_main, &l);
    EVENTUALLY(l.polls > 100);
    for (int n = 0; n < 20; n++) {
        start(&r, l.partition, 0);
        for (int steps = 0; steps < 10; steps++) {
            UINT32 before = load32(memory, COUNTER);
            int polls = l.polls;

            EVENTUALLY(load32(memory, COUNTER) != before && l.polls > polls + 1);
        }
        cancel(&r);
    }
    atomic_store(&l.stop, true);
    for (int n = 0; n < POLLERS; n++)
        pthread_join(pollers[n], NULL);
    assert_int_equal(l.wrong, 0);
    assert_ok(WHvDeletePartition(l.partition));
}

static void test_set_while_running(void **state)
{
    static const uint8_t copy[] = {0x89, 0x0E, 0x00, 0x20, 0xEB, 0xFA};     // mov [COUNTER], cx; jmp there
    WHV_PARTITION_HANDLE p = guest(memory, copy, sizeof(copy));
    struct runner r;

    (void)state;
    start(&r, p, 0);
    for (UINT32 n = 1; n <= 300; n++) {
        set_register(p, 0, WHvX64RegisterRcx, n);
        EVENTUALLY((load32(memory, COUNTER) & 0xFFFF) == n);
    }
    cancel(&r);
    assert_ok(WHvDeletePartition(p));
}

static void test_parked(void **state)
{
    WHV_PARTITION_HANDLE p;
    struct runner r;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, halt, sizeof(halt));
    for (UINT32 n = 0; n < 100; n++) {
        set_register(p, 0, WHvX64RegisterRip, CODE);
        start(&r, p, 0);
        EVENTUALLY(halted(p, 0));
        // Being looked at does not wake it.
        set_register(p, 0, WHvX64RegisterRcx, n);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRcx), n);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRip), CODE + 1);
        assert_true(halted(p, 0));
        assert_false(atomic_load(&r.done));
        // Being told that it is not halted does.
        set_register(p, 0, WHvRegisterInternalActivityState, 0);
        finish(&r);
        assert_ok(r.hr);
        assert_int_equal(r.exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
        assert_int_equal(r.exit.IoPortAccess.Rcx, n);
    }
    assert_ok(WHvDeletePartition(p));
}

static void *translate_main(void *argument)
{
    struct poll *l = argument;

    while (!atomic_load(&l->stop)) {
        WHV_TRANSLATE_GVA_RESULT result;
        WHV_GUEST_PHYSICAL_ADDRESS gpa;
        HRESULT hr = WHvTranslateGva(l->partition, 0, 0x2345, WHvTranslateGvaFlagValidateRead, &result, &gpa);

        if (hr != S_OK || result.ResultCode != WHvTranslateGvaResultSuccess || gpa != 0x2345)
            atomic_fetch_add(&l->wrong, 1);
        atomic_fetch_add(&l->polls, 1);
    }
    return NULL;
}

// Everything that stops processors, at once, over two that run.
static void test_all_stoppers(void **state)
{
    struct poll l = {.partition = set_up(2)}, translations = {.partition = l.partition};
    const UINT32 leaf = 1;
    WHV_PARTITION_HANDLE p = l.partition;
    pthread_t poller, translator;
    struct runner r[2];

    (void)state;
    memcpy(memory + CODE, in_step, sizeof(in_step));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    for (UINT32 vp = 0; vp < 2; vp++) {
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
        start_at(p, vp, CODE);
        start(&r[vp], p, vp);
    }
    pthread_create(&poller, NULL, poll_main, &l);
    pthread_create(&translator, NULL, translate_main, &translations);
    for (int n = 0; n < 150; n++) {
        assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidExitList, &leaf, n % 2 ? sizeof(leaf) : 0));
        assert_ok(WHvMapGpaRange(p, memory, 0x100000, PAGE, RW));
        assert_ok(WHvUnmapGpaRange(p, 0x100000, PAGE));
        (void)get_register(p, 1, WHvX64RegisterRip);
    }
    EVENTUALLY(l.polls > 20 && translations.polls > 20);
    atomic_store(&l.stop, true);
    atomic_store(&translations.stop, true);
    pthread_join(poller, NULL);
    pthread_join(translator, NULL);
    assert_int_equal(l.wrong + translations.wrong, 0);
    cancel(&r[0]);
    cancel(&r[1]);
    assert_ok(WHvDeletePartition(p));
}

// A call that fails changes nothing, not even for a moment: the timer does not start again.
static void test_failed_set(void **state)
{
    static const WHV_REGISTER_NAME current = (WHV_REGISTER_NAME)0x3039;
    static const WHV_REGISTER_NAME names[] = {(WHV_REGISTER_NAME)0x3038, (WHV_REGISTER_NAME)0x7FFF0000};
    WHV_REGISTER_VALUE values[2];
    WHV_PARTITION_HANDLE p;
    UINT64 before;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, halt, sizeof(halt));
    set_apic(p, 0, (const UINT32[]){0x3E0, 0xB, 0x380, 0xFFFFFFFF, 0x390, 0x80000000, 0});
    before = get_register(p, 0, current);
    assert_in_range(before, 1, 0x80000000);
    memset(values, 0, sizeof(values));
    values[0].Reg64 = 0xFFFFFFFF;
    assert_hr(WHvSetVirtualProcessorRegisters(p, 0, names, 2, values), WHV_E_INVALID_VP_REGISTER_NAME);
    assert_in_range(get_register(p, 0, current), 1, before);
    assert_ok(WHvDeletePartition(p));
}

static UINT64 instructions(WHV_PARTITION_HANDLE p)
{
    UINT64 count = 0;

    assert_ok(BulkheadGetVirtualProcessorInstructionCount(p, 0, &count));
    return count;
}

// Instructions are counted once each: over exits, over the pieces of a repeated one, over a halt.
static void test_instruction_count(void **state)
{
    static const uint8_t code[] = {
        0xB9, 0x00, 0x90,                       // mov cx, 0x9000
        0x31, 0xF6,                             // xor si, si
        0x31, 0xFF,                             // xor di, di
        0xF3, 0xA5,                             // rep movsw, once around the segment, from a place to itself
        0xE6, 0x10,                             // out 0x10, al
        0x41,                                   // inc cx
        0xF4,                                   // hlt
    };
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    UINT64 before = 0x4711;

    (void)state;
    if (BulkheadGetVirtualProcessorInstructionCount(p, 0, &before) == E_NOTIMPL) {
        assert_int_equal(before, 0x4711);
        assert_ok(WHvDeletePartition(p));
        print_message("refused as documented: instruction counts\n");
        return;
    }
    before = instructions(p);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(instructions(p) - before, 4);
    // The port access itself is the client's.
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(instructions(p) - before, 4);
    set_register(p, 0, WHvX64RegisterRip, CODE + 11);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
    assert_int_equal(instructions(p) - before, 6);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_storm_of_reads),
        cmocka_unit_test(test_set_while_running),
        cmocka_unit_test(test_parked),
        cmocka_unit_test(test_all_stoppers),
        cmocka_unit_test(test_failed_set),
        cmocka_unit_test(test_instruction_count),
    };

    return engine_run_tests(tests);
}
