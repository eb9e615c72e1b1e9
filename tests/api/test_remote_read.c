// A local APIC's registers read from another processor, by the delivery mode that ApicRemoteReadSupport makes exist
// (APM vol. 2 16.5).
#include "modes.h"
#include "threads.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

#define RRD 0xC0u
#define ICR 0x300u
#define REMOTE_READ_NAME ((WHV_REGISTER_NAME)0x300C)
#define REMOTE_READ 0x4300u         // with a register's offset / 16 as the vector
#define STATUS 0x30000u
#define DONE 0x20000u

// mov [es:0x310], ebx; mov [es:0x300], eax; mov edx, [es:0xC0]; mov ecx, [es:0x300]; out 0x10, al
static const uint8_t reader[] = {0x26, 0x66, 0x89, 0x1E, 0x10, 0x03, 0x26, 0x66, 0xA3, 0x00, 0x03,
                                 0x26, 0x66, 0x8B, 0x16, 0xC0, 0x00, 0x26, 0x66, 0x8B, 0x0E, 0x00, 0x03,
                                 0xE6, 0x10};
// wrmsr; mov ecx, 0x80C; rdmsr; mov ebx, eax; mov ecx, 0x830; rdmsr; out 0x10, al
static const uint8_t msr_reader[] = {0x0F, 0x30, 0x66, 0xB9, 0x0C, 0x08, 0x00, 0x00, 0x0F, 0x32, 0x66, 0x89, 0xC3,
                                     0x66, 0xB9, 0x30, 0x08, 0x00, 0x00, 0x0F, 0x32, 0xE6, 0x10};

static bool engine_has_remote_read(void)
{
    if (engine_capability(WHvCapabilityCodeFeatures).Features.ApicRemoteRead)
        return true;
    engine_refuses(WHvPartitionPropertyCodeApicRemoteReadSupport, 1, "remote reads of local APICs");
    return false;
}

static WHV_PARTITION_HANDLE readers(WHV_X64_LOCAL_APIC_EMULATION_MODE mode, bool support, const void *code, size_t size)
{
    WHV_PARTITION_HANDLE p = created(3);

    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, mode));
    if (support)
        assert_ok(set32(p, WHvPartitionPropertyCodeApicRemoteReadSupport, 1));
    assert_ok(WHvSetupPartition(p));
    memset(memory, 0, sizeof(memory));
    memcpy(memory + CODE, code, size);
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    for (UINT32 vp = 0; vp < 3; vp++) {
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
        if (mode == WHvX64LocalApicEmulationModeX2Apic)
            set_register(p, vp, WHvX64RegisterApicBase, vp ? 0xFEE00C00 : 0xFEE00D00);
        set_apic(p, vp, (const UINT32[]){0xF0, 0x1E0 + vp, 0});
        es_to_apic(p, vp);
        set_register(p, vp, WHvX64RegisterRsp, 0x8000 + 0x800 * vp);
    }
    start_at(p, 0, CODE);
    return p;
}

struct answer { UINT32 status, data; };

// What the guest gets that asks processor `vp` for the register at `offset`.
static struct answer ask(WHV_PARTITION_HANDLE p, UINT32 destination, UINT32 command)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    set_register(p, 0, WHvX64RegisterRip, CODE);
    set_register(p, 0, WHvX64RegisterRbx, destination << 24);
    set_register(p, 0, WHvX64RegisterRax, command);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    return (struct answer){.status = (UINT32)exit.IoPortAccess.Rcx & STATUS,
                           .data = (UINT32)get_register(p, 0, WHvX64RegisterRdx)};
}

static struct answer ask_x2apic(WHV_PARTITION_HANDLE p, UINT32 destination, UINT32 command)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    set_register(p, 0, WHvX64RegisterRip, CODE);
    set_register(p, 0, WHvX64RegisterRcx, 0x830);
    set_register(p, 0, WHvX64RegisterRax, command);
    set_register(p, 0, WHvX64RegisterRdx, destination);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    return (struct answer){.status = (UINT32)exit.IoPortAccess.Rax & STATUS,
                           .data = (UINT32)get_register(p, 0, WHvX64RegisterRbx)};
}

static void assert_answer(struct answer answer, UINT32 data)
{
    assert_int_equal(answer.status, DONE);
    assert_int_equal(answer.data, data);
}

static void test_read(void **state)
{
    WHV_PARTITION_HANDLE p;
    struct answer last;

    (void)state;
    NEEDS(engine_has_apic() && engine_has_remote_read());
    p = readers(WHvX64LocalApicEmulationModeXApic, true, reader, sizeof(reader));
    set_apic(p, 1, (const UINT32[]){0x80, 0x35, 0xD0, 0x02000000, 0x120, 0x8, 0x220, 0x100, 0x320, 0x10040, 0x3E0, 0xB,
                                    0x380, 12345, 0});
    for (UINT32 vp = 0; vp < 3; vp++) {             // its own too
        assert_answer(ask(p, vp, REMOTE_READ | 0x02), vp << 24);
        assert_answer(ask(p, vp, REMOTE_READ | 0x03), 0x50014);
        assert_answer(ask(p, vp, REMOTE_READ | 0x0F), 0x1E0 + vp);
    }
    assert_answer(ask(p, 1, REMOTE_READ | 0x08), 0x35);
    assert_answer(ask(p, 1, REMOTE_READ | 0x0A), 0x40);         // from ISR, which holds vector 0x43
    assert_answer(ask(p, 1, REMOTE_READ | 0x12), 0x8);
    assert_answer(ask(p, 1, REMOTE_READ | 0x22), 0x100);
    assert_answer(ask(p, 1, REMOTE_READ | 0x32), 0x10040);
    assert_answer(ask(p, 1, REMOTE_READ | 0x38), 12345);
    assert_answer(ask(p, 2, REMOTE_READ | 0x38), 0);
    assert_answer(ask(p, 2, REMOTE_READ | 0x0800 | 0x0F), 0x1E1);       // logically, of which processor 1 alone has bit 1
    // Nobody there, no register there, a shorthand: not done, and the data are the last ones.
    last = ask(p, 1, REMOTE_READ | 0x0F);
    assert_answer(last, 0x1E1);
    for (int n = 0; n < 5; n++) {
        struct answer none = n == 0   ? ask(p, 9, REMOTE_READ | 0x0F)
                             : n == 1 ? ask(p, 1, REMOTE_READ | 0x00)
                             : n == 2 ? ask(p, 1, REMOTE_READ | 0x0B)   // EOI can only be written
                             : n == 3 ? ask(p, 1, REMOTE_READ | 0xFF)
                                      : ask(p, 1, REMOTE_READ | 0x80000 | 0x0F);

        assert_int_equal(none.status, 0);
        assert_int_equal(none.data, last.data);
    }
    set_register(p, 2, WHvX64RegisterApicBase, 0xFEE00000);     // switched off
    assert_int_equal(ask(p, 2, REMOTE_READ | 0x0F).status, 0);
    // The next command starts without a status.
    assert_answer(ask(p, 1, REMOTE_READ | 0x0F), 0x1E1);
    assert_int_equal(ask(p, 9, 0x4040).status, 0);
    assert_ok(WHvDeletePartition(p));
}

static void test_x2apic(void **state)
{
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic() && engine_has_remote_read());
    p = readers(WHvX64LocalApicEmulationModeX2Apic, true, msr_reader, sizeof(msr_reader));
    for (UINT32 vp = 0; vp < 3; vp++) {
        assert_answer(ask_x2apic(p, vp, REMOTE_READ | 0x02), vp);
        assert_answer(ask_x2apic(p, vp, REMOTE_READ | 0x0F), 0x1E0 + vp);
    }
    assert_answer(ask_x2apic(p, 1, REMOTE_READ | DONE | 0x0D), 2);      // the old status may be written back
    assert_int_equal(ask_x2apic(p, 77, REMOTE_READ | 0x0F).status, 0);
    assert_int_equal(ask_x2apic(p, 1, REMOTE_READ | 0x0E).status, 0);   // no DFR in this mode
    assert_ok(WHvDeletePartition(p));
}

// Without the property the delivery mode is reserved and there are no data.
static void test_without_support(void **state)
{
    WHV_PARTITION_HANDLE p;
    struct answer answer;

    (void)state;
    NEEDS(engine_has_apic() && engine_has_remote_read());
    p = readers(WHvX64LocalApicEmulationModeXApic, false, reader, sizeof(reader));
    answer = ask(p, 1, REMOTE_READ | 0x0F);
    assert_int_equal(answer.status, 0);
    assert_int_equal(answer.data, 0);
    assert_ok(WHvDeletePartition(p));
}

// Data and status are state: in the page of registers, packed or not, and by name.
static void test_state(void **state)
{
    uint8_t page[PAGE] __attribute__((aligned(16))), again[PAGE] __attribute__((aligned(16)));
    WHV_PARTITION_HANDLE p, plain;
    UINT32 size;

    (void)state;
    NEEDS(engine_has_apic() && engine_has_remote_read());
    p = readers(WHvX64LocalApicEmulationModeXApic, true, reader, sizeof(reader));
    assert_answer(ask(p, 2, REMOTE_READ | 0x0F), 0x1E2);
    assert_int_equal(get_register(p, 0, REMOTE_READ_NAME), 0x1E2);
    for (int packed = 0; packed < 2; packed++) {
        assert_ok((packed ? WHvGetVirtualProcessorInterruptControllerState
                          : WHvGetVirtualProcessorInterruptControllerState2)(p, 0, page, sizeof(page), &size));
        assert_int_equal(load32(page, RRD), 0x1E2);
        assert_int_equal(load32(page, ICR), DONE | REMOTE_READ | 0x0F);
        assert_ok((packed ? WHvSetVirtualProcessorInterruptControllerState
                          : WHvSetVirtualProcessorInterruptControllerState2)(p, 1, page, sizeof(page)));
        assert_ok((packed ? WHvGetVirtualProcessorInterruptControllerState
                          : WHvGetVirtualProcessorInterruptControllerState2)(p, 1, again, sizeof(again), &size));
        assert_int_equal(load32(again, RRD), 0x1E2);
        assert_int_equal(load32(again, ICR), DONE | REMOTE_READ | 0x0F);
        set_register(p, 1, REMOTE_READ_NAME, 0);
    }
    // A partition without the mode holds no such status.
    plain = readers(WHvX64LocalApicEmulationModeXApic, false, reader, sizeof(reader));
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(p, 0, page, sizeof(page), &size));
    assert_hr(WHvSetVirtualProcessorInterruptControllerState2(plain, 0, page, sizeof(page)), E_INVALIDARG);
    assert_ok(WHvDeletePartition(plain));
    assert_ok(WHvDeletePartition(p));
}

// Of a processor that runs: its TPR and its timer's initial count, which it writes in pairs that belong together. What is
// read was there at some moment.
static void test_while_running(void **state)
{
    // inc ax; and ax, 0x7F; mov [es:0x80], eax; mov [es:0x380], eax; jmp there
    static const uint8_t busy[] = {0x40, 0x83, 0xE0, 0x7F, 0x26, 0x66, 0xA3, 0x80, 0x00,
                                   0x26, 0x66, 0xA3, 0x80, 0x03, 0xEB, 0xF0};
    UINT32 seen = 0, last = UINT32_MAX;
    WHV_PARTITION_HANDLE p;
    struct runner r;

    (void)state;
    NEEDS(engine_has_apic() && engine_has_remote_read());
    p = readers(WHvX64LocalApicEmulationModeXApic, true, reader, sizeof(reader));
    memcpy(memory + 0x3000, busy, sizeof(busy));
    set_apic(p, 1, (const UINT32[]){0x320, 0x10040, 0});        // masked
    set_register(p, 1, WHvRegisterInternalActivityState, 0);
    start_at(p, 1, 0x3000);
    start(&r, p, 1);
    for (time_t limit = seconds() + LIMIT_SECONDS; seen < 100; ) {
        struct answer priority = ask(p, 1, REMOTE_READ | 0x08), initial, current;

        assert_int_equal(priority.status, DONE);
        assert_true(priority.data <= 0x7F);
        initial = ask(p, 1, REMOTE_READ | 0x38);
        current = ask(p, 1, REMOTE_READ | 0x39);
        assert_int_equal(initial.status, DONE);
        assert_int_equal(current.status, DONE);
        assert_true(initial.data <= 0x7F && current.data <= 0x7F);
        seen += priority.data != last;
        last = priority.data;
        assert_true(seconds() < limit);
    }
    cancel(&r);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_x2apic),
        cmocka_unit_test(test_without_support),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_while_running),
    };

    return engine_run_tests(tests);
}
