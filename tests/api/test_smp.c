// Several processors: started by INIT and SIPI whenever their threads come, deleted and created again,
// adding to one counter, and interrupted while they come and go.
#include "threads.h"

#define PROCESSORS 4
#define AP_CODE 0x3000u     // of the others: start-up vector 3

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

// sti; hlt; jmp to the hlt
static const uint8_t sleeper[] = {0xFB, 0xF4, 0xEB, 0xFD};
// lock inc dword [COUNTER]; hlt; jmp to the hlt
static const uint8_t check_in[] = {0xF0, 0x66, 0xFF, 0x06, 0x00, 0x20, 0xF4, 0xEB, 0xFD};

static WHV_PARTITION_HANDLE smp_guest(const void *ap_code, size_t size)
{
    WHV_PARTITION_HANDLE p = apic_guest(memory, PROCESSORS, sleeper, sizeof(sleeper));

    memcpy(memory + AP_CODE, ap_code, size);
    return p;
}

static void start_up(WHV_PARTITION_HANDLE p, UINT32 vp)
{
    assert_ok(request(p, WHvX64InterruptTypeInit, vp, 0));
    assert_ok(request(p, WHvX64InterruptTypeSipi, vp, AP_CODE >> 12));
    // Kernels send a second one, in case: it means nothing to a processor that runs.
    assert_ok(request(p, WHvX64InterruptTypeSipi, vp, AP_CODE >> 12));
}

static bool waits_for_sipi(WHV_PARTITION_HANDLE p, UINT32 vp)
{
    WHV_INTERNAL_ACTIVITY_REGISTER activity = {
        .AsUINT64 = get_register(p, vp, WHvRegisterInternalActivityState)};

    return activity.StartupSuspend;
}

// Before the thread runs it, while it waits, and after it was deleted and created again.
static void test_start_up(void **state)
{
    WHV_PARTITION_HANDLE p;
    struct runner r;

    (void)state;
    NEEDS(engine_has_apic());
    p = smp_guest(check_in, sizeof(check_in));
    for (UINT32 n = 1; n <= 60; n++) {
        if (n % 2)
            start_up(p, 1);
        start(&r, p, 1);
        if (n % 2 == 0)
            start_up(p, 1);
        EVENTUALLY(load32(memory, COUNTER) == n);
        EVENTUALLY(halted(p, 1));
        if (n % 3 == 0) {           // INIT alone parks it again
            assert_ok(request(p, WHvX64InterruptTypeInit, 1, 0));
            EVENTUALLY(waits_for_sipi(p, 1));
            assert_false(atomic_load(&r.done));
        }
        cancel(&r);
        assert_int_equal(load32(memory, COUNTER), n);
        if (n % 5 == 0) {
            assert_ok(WHvDeleteVirtualProcessor(p, 1));
            assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
            assert_true(waits_for_sipi(p, 1));
        }
    }
    assert_ok(WHvDeletePartition(p));
}

// Registers of a processor that waits for its start: they stay, whoever looks, and it can be started by them.
static void test_registers_while_waiting(void **state)
{
    static const uint8_t out[] = {0xE6, 0x10};
    WHV_PARTITION_HANDLE p;
    struct runner r;

    (void)state;
    NEEDS(engine_has_apic());
    p = smp_guest(out, sizeof(out));
    start_at(p, 1, AP_CODE);
    set_register(p, 1, WHvX64RegisterRbx, 0x1234);
    set_register(p, 1, WHvX64RegisterCr8, 5);
    for (int n = 0; n < 3; n++) {
        start(&r, p, 1);
        for (int reads = 0; reads < 20; reads++) {
            assert_int_equal(get_register(p, 1, WHvX64RegisterRbx), 0x1234 + n);
            assert_int_equal(get_register(p, 1, WHvX64RegisterRip), AP_CODE);
            assert_true(waits_for_sipi(p, 1));
            pause_briefly();
        }
        set_register(p, 1, WHvX64RegisterRbx, 0x1235 + n);
        cancel(&r);
        assert_int_equal(r.exit.VpContext.Rip, AP_CODE);
    }
    start(&r, p, 1);
    assert_int_equal(get_register(p, 1, WHvX64RegisterRbx), 0x1237);
    set_register(p, 1, WHvRegisterInternalActivityState, 0);
    finish(&r);
    assert_ok(r.hr);
    assert_int_equal(r.exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(r.exit.VpContext.Rip, AP_CODE);
    assert_int_equal(r.exit.VpContext.Cr8, 5);
    assert_int_equal(get_register(p, 1, WHvX64RegisterRbx), 0x1237);
    assert_ok(WHvDeletePartition(p));
}

// The client sends a processor back to wait while an exit's instruction is open: nothing of it comes behind the next start.
static void test_made_to_wait_at_exit(void **state)
{
    static const uint8_t in[] = {0xE4, 0x11}, load[] = {0xA0, 0x00, 0xF0};     // mov al, [0xF000]
    static const uint8_t out[] = {0x90, 0xE6, 0x10};

    (void)state;
    NEEDS(engine_has_apic());
    for (int n = 0; n < 4; n++) {
        const bool port = n & 1, completed = n & 2;
        WHV_PARTITION_HANDLE p = port ? smp_guest(in, sizeof(in)) : smp_guest(load, sizeof(load));
        WHV_RUN_VP_EXIT_CONTEXT exit;

        memcpy(memory + 0x4000, out, sizeof(out));
        assert_ok(WHvUnmapGpaRange(p, 0xF000, PAGE));
        start_up(p, 1);
        exit = run(p, 1);
        assert_int_equal(exit.ExitReason, port ? WHvRunVpExitReasonX64IoPortAccess : WHvRunVpExitReasonMemoryAccess);
        if (completed) {
            set_register(p, 1, WHvX64RegisterRax, 0x77);
            set_register(p, 1, WHvX64RegisterRip, exit.VpContext.Rip + (port ? 2 : 3));
        }
        set_register(p, 1, WHvRegisterInternalActivityState, 1);
        assert_ok(request(p, WHvX64InterruptTypeInit, 1, 0));
        assert_ok(request(p, WHvX64InterruptTypeSipi, 1, 4));
        exit = run(p, 1);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
        assert_int_equal(exit.IoPortAccess.PortNumber, 0x10);
        assert_int_equal(exit.VpContext.Cs.Selector, 0x400);
        assert_int_equal(exit.VpContext.Rip, 1);
        assert_int_equal(exit.IoPortAccess.Rax, 0);
        assert_ok(WHvDeletePartition(p));
    }
}

#define ADDITIONS 20000

// All of them add to one counter, by locked instructions of three kinds, and none is lost.
static void test_locked_additions(void **state)
{
    static const uint8_t add[] = {
        0xB9, ADDITIONS & 0xFF, ADDITIONS >> 8,         // mov cx, ADDITIONS
        0xF0, 0x66, 0xFF, 0x06, 0x00, 0x20,             // lock inc dword [COUNTER]
        0x66, 0xB8, 0x01, 0x00, 0x00, 0x00,             // mov eax, 1
        0xF0, 0x66, 0x0F, 0xC1, 0x06, 0x04, 0x20,       // lock xadd [COUNTER + 4], eax
        0x66, 0xA1, 0x08, 0x20,                         // again: mov eax, [COUNTER + 8]
        0x66, 0x89, 0xC3,                               // mov ebx, eax
        0x66, 0x43,                                     // inc ebx
        0xF0, 0x66, 0x0F, 0xB1, 0x1E, 0x08, 0x20,       // lock cmpxchg [COUNTER + 8], ebx
        0x75, 0xEE,                                     // jne again
        0x49,                                           // dec cx
        0x75, 0xD8,                                     // jne to the first addition
        0xF0, 0x66, 0xFF, 0x06, 0x0C, 0x20,             // lock inc dword [COUNTER + 12]
        0xF4, 0xEB, 0xFD,                               // hlt; jmp to it
    };
    struct runner runners[PROCESSORS];
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    p = smp_guest(add, sizeof(add));
    start_at(p, 0, AP_CODE);
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        start(&runners[vp], p, vp);
        if (vp > 0)
            start_up(p, vp);
    }
    EVENTUALLY(load32(memory, COUNTER + 12) == PROCESSORS);
    for (UINT32 vp = 0; vp < PROCESSORS; vp++)
        cancel(&runners[vp]);
    assert_int_equal(load32(memory, COUNTER), PROCESSORS * ADDITIONS);
    assert_int_equal(load32(memory, COUNTER + 4), PROCESSORS * ADDITIONS);
    assert_int_equal(load32(memory, COUNTER + 8), PROCESSORS * ADDITIONS);
    assert_ok(WHvDeletePartition(p));
}

// Interrupts all around from other threads.
struct sender {
    WHV_PARTITION_HANDLE partition;
    atomic_int wrong;
    atomic_bool stop;
};

static void *send_main(void *argument)
{
    static const WHV_INTERRUPT_TYPE types[] = {WHvX64InterruptTypeFixed, WHvX64InterruptTypeLowestPriority,
                                               WHvX64InterruptTypeInit, WHvX64InterruptTypeSipi};
    struct sender *s = argument;

    for (unsigned int n = 0; !atomic_load(&s->stop); n++)
        if (request(s->partition, types[n % 4], n % 4 < 2 ? 0xFF : 1,
                    n % 4 < 2 ? 0x40 : AP_CODE >> 12) != S_OK)
            atomic_fetch_add(&s->wrong, 1);
    return NULL;
}

// A processor is deleted and created again while interrupts come for it and another one runs.
static void test_come_and_go(void **state)
{
    // inc dword [COUNTER]; mov dword [es:0xB0], 0 (EOI); iret
    static const uint8_t count_and_eoi[] = {0x66, 0xFF, 0x06, 0x00, 0x20, 0x26, 0x66, 0xC7, 0x06, 0xB0,
                                            0x00, 0x00, 0x00, 0x00, 0x00, 0xCF};
    struct runner first, second;
    struct sender s;
    pthread_t sender;

    (void)state;
    NEEDS(engine_has_apic());
    memset(&s, 0, sizeof(s));
    s.partition = smp_guest((const uint8_t[]){0xF4, 0xEB, 0xFD}, 3);
    set_handler(memory, 0x40, count_and_eoi, sizeof(count_and_eoi));
    start(&first, s.partition, 0);
    pthread_create(&sender, NULL, send_main, &s);
    for (int n = 0; n < 200; n++) {
        start(&second, s.partition, 1);
        assert_ok(WHvDeleteVirtualProcessor(s.partition, 1));
        finish(&second);
        assert_ok(WHvCreateVirtualProcessor(s.partition, 1, 0));
    }
    EVENTUALLY(load32(memory, COUNTER) > 10);
    atomic_store(&s.stop, true);
    pthread_join(sender, NULL);
    assert_int_equal(s.wrong, 0);
    cancel(&first);
    assert_ok(WHvDeletePartition(s.partition));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start_up),
        cmocka_unit_test(test_registers_while_waiting),
        cmocka_unit_test(test_made_to_wait_at_exit),
        cmocka_unit_test(test_locked_additions),
        cmocka_unit_test(test_come_and_go),
    };

    return engine_run_tests(tests);
}
