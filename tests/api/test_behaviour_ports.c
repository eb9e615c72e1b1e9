// Port exits: what they tell; completed by the client itself, and by the instruction emulator.
#include "emulation.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

// ---- By hand -----------------------------------------------------------------------------------

static void test_in(void **state)
{
    static const struct {
        uint8_t code[3], size, access;
        UINT16 port;
    } ins[] = {
        {{0xE4, 0x42}, 2, 1, 0x42}, {{0xE5, 0x42}, 2, 2, 0x42}, {{0x66, 0xE5, 0x42}, 3, 4, 0x42},
        {{0xEC}, 1, 1, 0x1F0},      {{0xED}, 1, 2, 0x1F0},      {{0x66, 0xED}, 2, 4, 0x1F0},
    };

    (void)state;
    for (unsigned int i = 0; i < sizeof(ins) / sizeof(ins[0]); i++) {
        WHV_PARTITION_HANDLE p = guest(memory, ins[i].code, ins[i].size);
        WHV_RUN_VP_EXIT_CONTEXT exit;

        memory[CODE + ins[i].size] = 0xF4;
        set_register(p, 0, WHvX64RegisterRax, 0x1111111122222222);
        set_register(p, 0, WHvX64RegisterRdx, 0x1F0);
        exit = run(p, 0);
        assert_port_exit(&exit, ins[i].port);
        assert_int_equal(exit.IoPortAccess.AccessInfo.IsWrite, 0);
        assert_int_equal(exit.IoPortAccess.AccessInfo.AccessSize, ins[i].access);
        assert_int_equal(exit.IoPortAccess.AccessInfo.StringOp, 0);
        assert_int_equal(exit.IoPortAccess.AccessInfo.RepPrefix, 0);
        assert_int_equal(exit.VpContext.Rip, CODE);
        assert_int_equal(exit.VpContext.InstructionLength, ins[i].size);
        assert_int_equal(exit.IoPortAccess.InstructionByteCount, 16);
        assert_memory_equal(exit.IoPortAccess.InstructionBytes, ins[i].code, ins[i].size);
        assert_int_equal(exit.IoPortAccess.Rax, 0x1111111122222222);
        // Not moved on, it is the same exit again.
        assert_int_equal(run(p, 0).VpContext.Rip, CODE);
        set_register(p, 0, WHvX64RegisterRax, 0x77);
        set_register(p, 0, WHvX64RegisterRip, exit.VpContext.Rip + exit.VpContext.InstructionLength);
        assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRax), 0x77);
        assert_ok(WHvDeletePartition(p));
    }
}

// A string instruction exits once, with everything that the client needs.
static void test_string_context(void **state)
{
    static const uint8_t code[] = {0xF3, 0x66, 0x6F};       // rep outsd
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_REGISTER_NAME name = WHvX64RegisterDs;
    WHV_REGISTER_VALUE ds;

    (void)state;
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, &name, 1, &ds));
    ds.Segment.Selector = 0x300;
    ds.Segment.Base = 0x3000;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &ds));
    set_register(p, 0, WHvX64RegisterRcx, 5);
    set_register(p, 0, WHvX64RegisterRdx, 0xCF8);
    set_register(p, 0, WHvX64RegisterRsi, 0x10);
    set_register(p, 0, WHvX64RegisterRdi, 0x20);
    exit = run(p, 0);
    assert_port_exit(&exit, 0xCF8);
    assert_int_equal(exit.IoPortAccess.AccessInfo.IsWrite, 1);
    assert_int_equal(exit.IoPortAccess.AccessInfo.AccessSize, 4);
    assert_int_equal(exit.IoPortAccess.AccessInfo.StringOp, 1);
    assert_int_equal(exit.IoPortAccess.AccessInfo.RepPrefix, 1);
    assert_int_equal(exit.VpContext.InstructionLength, 3);
    assert_int_equal(exit.IoPortAccess.Rcx, 5);
    assert_int_equal(exit.IoPortAccess.Rsi, 0x10);
    assert_int_equal(exit.IoPortAccess.Rdi, 0x20);
    assert_int_equal(exit.IoPortAccess.Ds.Base, 0x3000);
    assert_int_equal(exit.IoPortAccess.Ds.Selector, 0x300);
    assert_int_equal(exit.IoPortAccess.Es.Base, 0);
    assert_int_equal(exit.IoPortAccess.Es.Limit, 0xFFFF);
    // A client may take one element at a time and leave RIP.
    set_register(p, 0, WHvX64RegisterRsi, 0x14);
    set_register(p, 0, WHvX64RegisterRcx, 4);
    exit = run(p, 0);
    assert_int_equal(exit.IoPortAccess.Rcx, 4);
    assert_int_equal(exit.VpContext.Rip, CODE);
    assert_ok(WHvDeletePartition(p));
}

// A repetition of nothing touches no port.
static void test_rep_of_nothing(void **state)
{
    static const uint8_t code[] = {0xF3, 0x6C, 0xF3, 0x6E, 0xF4};      // rep insb; rep outsb; hlt
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));

    (void)state;
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
    assert_ok(WHvDeletePartition(p));
}

// ---- By the emulator ---------------------------------------------------------------------------

struct port_example {
    const char *name;
    uint8_t code[4], size;
    UINT64 rcx, flags;
    unsigned int elements;
    uint8_t width;
    bool write;
};

static const struct port_example port_examples[] = {
    {"in al", {0xEC}, 1, 9, 0, 1, 1, false},
    {"in ax", {0xED}, 1, 9, 0, 1, 2, false},
    {"in eax", {0x66, 0xED}, 2, 9, 0, 1, 4, false},
    {"out al", {0xEE}, 1, 9, 0, 1, 1, true},
    {"out ax", {0xEF}, 1, 9, 0, 1, 2, true},
    {"out eax", {0x66, 0xEF}, 2, 9, 0, 1, 4, true},
    {"insb", {0x6C}, 1, 9, 0, 1, 1, false},
    {"insw", {0x6D}, 1, 9, 0, 1, 2, false},
    {"outsb", {0x6E}, 1, 9, 0, 1, 1, true},
    {"rep insb", {0xF3, 0x6C}, 2, 9, 0, 9, 1, false},
    {"rep insw", {0xF3, 0x6D}, 2, 9, 0, 9, 2, false},
    {"rep insd", {0xF3, 0x66, 0x6D}, 3, 9, 0, 9, 4, false},
    {"rep insw down", {0xF3, 0x6D}, 2, 9, 0x400, 9, 2, false},
    {"rep outsb", {0xF3, 0x6E}, 2, 9, 0, 9, 1, true},
    {"rep outsw", {0xF3, 0x6F}, 2, 9, 0, 9, 2, true},
    {"rep outsd", {0xF3, 0x66, 0x6F}, 3, 9, 0, 9, 4, true},
    {"rep outsd down", {0xF3, 0x66, 0x6F}, 3, 9, 0x400, 9, 4, true},
};

static UINT32 low(UINT64 value, unsigned int width)
{
    return (UINT32)(value & (0xFFFFFFFF >> (32 - 8 * width)));
}

static void assert_elements(const struct port_example *e, const struct client *client, bool string)
{
    int step = e->flags & 0x400 ? -(int)e->width : (int)e->width;
    UINT32 value = 0;

    for (unsigned int i = 0; i < e->elements; i++) {
        int at = DATA + (int)i * step;

        if (string)
            memcpy(&value, memory + at, e->width);
        else
            value = low(get_register(client->partition, 0, WHvX64RegisterRax), e->width);
        assert_int_equal(value, low(client->port_data[i], e->width));
    }
}

static void test_emulator(void **state)
{
    (void)state;
    for (unsigned int i = 0; i < sizeof(port_examples) / sizeof(port_examples[0]); i++) {
        const struct port_example *e = &port_examples[i];
        bool string = (e->code[e->size - 1] & 0xFC) == 0x6C;
        WHV_PARTITION_HANDLE p = guest(memory, e->code, e->size);
        UINT64 moved = e->elements * (UINT64)e->width * (e->flags ? -1ull : 1);
        WHV_RUN_VP_EXIT_CONTEXT exit;
        struct client client;

        print_message("%s\n", e->name);
        client_open(&client, p, memory);
        memory[CODE + e->size] = 0xF4;
        for (unsigned int n = 0; n < 128; n++)
            memory[DATA - 64 + n] = (uint8_t)(n * 7 + 1);
        if (!e->write)
            for (unsigned int n = 0; n < e->elements; n++)
                client.port_data[n] = 0x9A7B5C3D + 0x01030507 * n;
        set_register(p, 0, WHvX64RegisterRax, 0x8877665544332211);
        set_register(p, 0, WHvX64RegisterRcx, e->rcx);
        set_register(p, 0, WHvX64RegisterRdx, 0x1F0);
        set_register(p, 0, WHvX64RegisterRsi, DATA);
        set_register(p, 0, WHvX64RegisterRdi, DATA);
        set_register(p, 0, WHvX64RegisterRflags, e->flags | 2);
        exit = run(p, 0);
        assert_port_exit(&exit, 0x1F0);
        assert_int_equal(client_emulate(&client, &exit).AsUINT32, 1);
        assert_int_equal(client.port, 0x1F0);
        assert_int_equal(client.port_size, e->width);
        assert_int_equal(client.port_accesses, e->elements);
        assert_elements(e, &client, string);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRip), CODE + e->size);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRcx), e->elements == 1 ? e->rcx : 0);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRsi), DATA + (string && e->write ? moved : 0));
        assert_int_equal(get_register(p, 0, WHvX64RegisterRdi), DATA + (string && !e->write ? moved : 0));
        if (!e->write && !string)       // IN to AX keeps the rest, IN to EAX clears it
            assert_int_equal(get_register(p, 0, WHvX64RegisterRax),
                             e->width == 4 ? low(client.port_data[0], 4)
                                           : (0x8877665544332211 & ~(UINT64)(e->width == 1 ? 0xFF : 0xFFFF)) |
                                                 low(client.port_data[0], e->width));
        assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
        client_close(&client);
        assert_ok(WHvDeletePartition(p));
    }
}

// INS into the device's memory, and OUTS from it: the emulator's callbacks meet both.
static void test_emulator_between_devices(void **state)
{
    static const uint8_t code[] = {0xF3, 0x6C, 0xF4};       // rep insb; hlt
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;
    struct client client;

    (void)state;
    client_open(&client, p, memory);
    assert_ok(WHvUnmapGpaRange(p, HOLE, PAGE));
    client.port_data[0] = 0x11;
    client.port_data[1] = 0x22;
    set_register(p, 0, WHvX64RegisterRcx, 2);
    set_register(p, 0, WHvX64RegisterRdi, HOLE);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(client_emulate(&client, &exit).AsUINT32, 1);
    assert_int_equal(client.device[0], 0x11);
    assert_int_equal(client.device[1], 0x22);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
    client_close(&client);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in),
        cmocka_unit_test(test_string_context),
        cmocka_unit_test(test_rep_of_nothing),
        cmocka_unit_test(test_emulator),
        cmocka_unit_test(test_emulator_between_devices),
    };

    return engine_run_tests(tests);
}
