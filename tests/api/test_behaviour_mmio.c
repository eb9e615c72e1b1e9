// Instructions that reach a device's memory: emulated by the client with the instruction emulator, they have
// the effects that they have when the page is memory.
#include "emulation.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
static uint8_t page[PAGE] __attribute__((aligned(PAGE)));

struct snippet {
    const char *name;
    const char *code;
    unsigned int size;
    UINT64 undefined;       // flags that the processor manuals leave open
};

#define FLAGS_(name, bytes, undefined) {name, bytes, sizeof(bytes) - 1, undefined}
#define CODE_(name, bytes) FLAGS_(name, bytes, 0)
#define AF 0x10u
#define SF_ZF_AF_PF 0xD4u
#define OF_SF_AF_PF 0x894u
#define OF_AF 0x810u

// 16-bit; the device is at [0xD000], RAM at [0x3000]. SI is RAM, DI the device, CX 9.
static const struct snippet narrow[] = {
    CODE_("mov al, [device]", "\xA0\x00\xD0"),
    CODE_("mov ax, [device]", "\xA1\x03\xD0"),
    CODE_("mov eax, [device]", "\x66\xA1\x10\xD0"),
    CODE_("mov [device], al", "\xA2\x00\xD0"),
    CODE_("mov [device], ax", "\xA3\x01\xD0"),
    CODE_("mov [device], eax", "\x66\xA3\x10\xD0"),
    CODE_("mov byte [device], 0x5A", "\xC6\x06\x00\xD0\x5A"),
    CODE_("mov word [device], 0x1234", "\xC7\x06\x02\xD0\x34\x12"),
    CODE_("mov ah, [device]", "\x8A\x26\x05\xD0"),
    CODE_("mov [device], bh", "\x88\x3E\x05\xD0"),
    CODE_("movzx eax, byte [device]", "\x66\x0F\xB6\x06\x00\xD0"),
    CODE_("movsx eax, word [device]", "\x66\x0F\xBF\x06\x02\xD0"),
    CODE_("add [device], al", "\x00\x06\x00\xD0"),
    FLAGS_("or word [device], 0x0F0F", "\x81\x0E\x00\xD0\x0F\x0F", AF),
    FLAGS_("and dword [device], eax", "\x66\x21\x06\x00\xD0", AF),
    FLAGS_("xor eax, [device]", "\x66\x33\x06\x00\xD0", AF),
    CODE_("sbb ax, [device]", "\x1B\x06\x00\xD0"),
    CODE_("cmp byte [device], 5", "\x80\x3E\x00\xD0\x05"),
    FLAGS_("test byte [device], 1", "\xF6\x06\x00\xD0\x01", AF),
    CODE_("not word [device]", "\xF7\x16\x00\xD0"),
    CODE_("neg byte [device]", "\xF6\x1E\x00\xD0"),
    CODE_("inc dword [device]", "\x66\xFF\x06\x00\xD0"),
    CODE_("dec byte [device]", "\xFE\x0E\x00\xD0"),
    FLAGS_("shl word [device], 3", "\xC1\x26\x00\xD0\x03", OF_AF),
    CODE_("xchg al, [device]", "\x86\x06\x00\xD0"),
    CODE_("lock xadd [device], ax", "\xF0\x0F\xC1\x06\x00\xD0"),
    CODE_("lock cmpxchg [device], bx", "\xF0\x0F\xB1\x1E\x00\xD0"),
    FLAGS_("bt word [device], 3", "\x0F\xBA\x26\x00\xD0\x03", OF_SF_AF_PF),
    FLAGS_("bts word [device], 3", "\x0F\xBA\x2E\x00\xD0\x03", OF_SF_AF_PF),
    CODE_("sete [device]", "\x0F\x94\x06\x00\xD0"),
    FLAGS_("mul byte [device]", "\xF6\x26\x00\xD0", SF_ZF_AF_PF),
    CODE_("push word [device]", "\xFF\x36\x00\xD0"),
    CODE_("pop word [device]", "\x8F\x06\x00\xD0"),
    CODE_("movsb to the device", "\xA4"),
    CODE_("rep movsb to the device", "\xF3\xA4"),
    CODE_("rep movsw to the device", "\xF3\xA5"),
    CODE_("rep movsd to the device", "\xF3\x66\xA5"),
    CODE_("rep movsb from the device", "\x87\xF7\xF3\xA4"),        // with xchg si, di
    CODE_("rep movsd from the device", "\x87\xF7\xF3\x66\xA5"),
    CODE_("rep movsw down from the device", "\xFD\x83\xC6\x40\x83\xC7\x40\x87\xF7\xF3\xA5"),
    CODE_("rep movsw within the device", "\x89\xFE\x83\xC7\x20\xF3\xA5"),
    CODE_("stosw", "\xAB"),
    CODE_("rep stosb", "\xF3\xAA"),
    CODE_("rep stosd", "\xF3\x66\xAB"),
    CODE_("lodsb", "\x87\xF7\xAC"),
    CODE_("rep lodsw", "\x87\xF7\xF3\xAD"),
    CODE_("repne scasb", "\xF2\xAE"),
    CODE_("repe cmpsb", "\xF3\xA6"),
    CODE_("cmpsw", "\xA7"),
};

// 64-bit. RSI is RAM, RDI the device, RCX 9.
static const struct snippet wide[] = {
    CODE_("mov rax, [device]", "\x48\x8B\x07"),
    CODE_("mov [device], rax", "\x48\x89\x47\x08"),
    CODE_("mov eax, [device]", "\x8B\x07"),
    CODE_("mov qword [device], -2", "\x48\xC7\x07\xFE\xFF\xFF\xFF"),
    CODE_("movsxd rax, [device]", "\x48\x63\x07"),
    CODE_("add [device], rax", "\x48\x01\x07"),
    CODE_("lock inc qword [device]", "\xF0\x48\xFF\x07"),
    CODE_("cmpxchg8b [device]", "\x0F\xC7\x0F"),
    CODE_("lock cmpxchg [device], rbx", "\xF0\x48\x0F\xB1\x1F"),
    CODE_("rep movsq to the device", "\xF3\x48\xA5"),
    CODE_("rep movsq from the device", "\x48\x87\xF7\xF3\x48\xA5"),
    CODE_("rep stosq", "\xF3\x48\xAB"),
    CODE_("push qword [device]", "\xFF\x37"),
    FLAGS_("imul rax, [device], 3", "\x48\x6B\x07\x03", SF_ZF_AF_PF),
    CODE_("movnti [device], rax", "\x48\x0F\xC3\x07"),
};

// The same, with the registers of SSE, x87 and MMX.
static const struct snippet vector[] = {
    CODE_("movdqu xmm1, [device]", "\xF3\x0F\x6F\x4F\x03"),
    CODE_("movdqu [device], xmm0", "\xF3\x0F\x7F\x47\x05"),
    CODE_("movaps [device], xmm0", "\x0F\x29\x07"),
    CODE_("movq xmm1, [device]", "\xF3\x0F\x7E\x0F"),
    CODE_("movd [device], xmm0", "\x66\x0F\x7E\x07"),
    CODE_("paddd xmm0, [device]", "\x66\x0F\xFE\x07"),
    CODE_("cvtsi2sd, then divsd by the device", "\xF2\x48\x0F\x2A\xC1\xF2\x0F\x5E\x07"),
    CODE_("fld qword [device]", "\xDD\x07"),
    CODE_("fld1, fstp qword [device]", "\xD9\xE8\xDD\x1F"),
    CODE_("fstp tword [device]", "\xD9\xE8\xDB\x3F"),
    CODE_("fadd dword [device]", "\xD9\xE8\xD8\x07"),
    CODE_("movq mm1, [device]", "\x0F\x6F\x0F"),
    CODE_("movq [device], mm1", "\x0F\x7F\x0F"),
};

#define RFLAGS 17

// Everything that may differ.
struct outcome {
    UINT64 registers[18];
    WHV_UINT128 vectors[12];        // XMM0, XMM1, x87 and its control, MXCSR
    uint8_t device[PAGE], ram[PAGE], stack[PAGE];
};

static const WHV_REGISTER_NAME vector_names[12] = {
    WHvX64RegisterXmm0,   WHvX64RegisterXmm1,   WHvX64RegisterFpMmx0,          WHvX64RegisterFpMmx1,
    WHvX64RegisterFpMmx2, WHvX64RegisterFpMmx3, WHvX64RegisterFpMmx4,          WHvX64RegisterFpMmx5,
    WHvX64RegisterFpMmx6, WHvX64RegisterFpMmx7, WHvX64RegisterFpControlStatus, WHvX64RegisterXmmControlStatus,
};

static void fill(uint8_t *bytes, unsigned int seed)
{
    for (unsigned int i = 0; i < PAGE; i++)
        bytes[i] = (uint8_t)(i * 73 + seed + (i >> 3) * 5);
}

static WHV_PARTITION_HANDLE start(const struct snippet *s, bool long_mode)
{
    WHV_PARTITION_HANDLE p = guest(memory, s->code, s->size);
    WHV_REGISTER_VALUE vectors[10];

    memcpy(memory + CODE + s->size, "\xE6\x10", 2);
    if (long_mode)
        enter_long(p, memory);
    fill(memory + DATA, 1);
    fill(memory + STACK - PAGE, 2);
    assert_ok(WHvUnmapGpaRange(p, HOLE, PAGE));
    set_register(p, 0, WHvX64RegisterRax, 0x8182838485868788);
    set_register(p, 0, WHvX64RegisterRbx, 0x1122334455667788);
    set_register(p, 0, WHvX64RegisterRdx, 0x99AABBCCDDEEFF00);
    set_register(p, 0, WHvX64RegisterRcx, 9);
    set_register(p, 0, WHvX64RegisterRsp, STACK - 0x80);
    set_register(p, 0, WHvX64RegisterRsi, DATA + 0x10);
    set_register(p, 0, WHvX64RegisterRdi, HOLE + 0x10);
    set_register(p, 0, WHvX64RegisterRflags, 0x43);
    memset(vectors, 0x3C, sizeof(vectors));
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, vector_names, 10, vectors));
    memset(vectors, 0, sizeof(vectors[0]));
    vectors[0].FpControlStatus.FpControl = 0x37F;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, vector_names + 10, 1, vectors));
    return p;
}

static void take_outcome(WHV_PARTITION_HANDLE p, const uint8_t *device, struct outcome *outcome)
{
    WHV_REGISTER_VALUE vectors[12];

    for (unsigned int i = 0; i < 18; i++)
        outcome->registers[i] = get_register(p, 0, (WHV_REGISTER_NAME)i);
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, vector_names, 12, vectors));
    // AMD's processors save the pointers to the last x87 instruction only while an exception is pending (APM vol. 2 11.4.4,
    // FXSAVE): the kernel loses them when it switches threads.
    if (strcmp(engine_name(), "kvm") == 0) {
        vectors[10].FpControlStatus.LastFpOp = 0;
        vectors[10].FpControlStatus.LastFpRip = 0;
        vectors[11].XmmControlStatus.LastFpRdp = 0;
    }
    for (unsigned int i = 0; i < 12; i++)
        outcome->vectors[i] = vectors[i].Reg128;
    memcpy(outcome->device, device, PAGE);
    memcpy(outcome->ram, memory + DATA, PAGE);
    memcpy(outcome->stack, memory + STACK - PAGE, PAGE);
}

static void by_emulator(const struct snippet *s, bool long_mode, struct outcome *outcome)
{
    WHV_PARTITION_HANDLE p = start(s, long_mode);
    WHV_RUN_VP_EXIT_CONTEXT exit;
    struct client client;
    unsigned int exits = 0;

    client_open(&client, p, memory);
    fill(client.device, 3);
    for (exit = run(p, 0); exit.ExitReason == WHvRunVpExitReasonMemoryAccess; exit = run(p, 0)) {
        assert_int_equal(client_emulate(&client, &exit).AsUINT32, 1);
        assert_true(++exits <= 32);
    }
    assert_port_exit(&exit, 0x10);
    assert_true(exits != 0 && client.accesses != 0);
    take_outcome(p, client.device, outcome);
    client_close(&client);
    assert_ok(WHvDeletePartition(p));
}

static void by_mapping(const struct snippet *s, bool long_mode, struct outcome *outcome)
{
    WHV_PARTITION_HANDLE p = start(s, long_mode);
    WHV_RUN_VP_EXIT_CONTEXT exit = run(p, 0);

    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_in_range(exit.MemoryAccess.Gpa, HOLE, HOLE + PAGE - 1);
    fill(page, 3);
    assert_ok(WHvMapGpaRange(p, page, HOLE, PAGE, RW));
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    take_outcome(p, page, outcome);
    assert_ok(WHvDeletePartition(p));
}

static void compare(const struct snippet *s, bool long_mode)
{
    struct outcome emulated, mapped;

    print_message("%s\n", s->name);
    by_emulator(s, long_mode, &emulated);
    by_mapping(s, long_mode, &mapped);
    for (unsigned int i = 0; i < 18; i++)
        assert_int_equal(emulated.registers[i] & ~(i == RFLAGS ? s->undefined : 0),
                         mapped.registers[i] & ~(i == RFLAGS ? s->undefined : 0));
    assert_memory_equal(emulated.vectors, mapped.vectors, sizeof(mapped.vectors));
    assert_memory_equal(emulated.device, mapped.device, PAGE);
    assert_memory_equal(emulated.ram, mapped.ram, PAGE);
    assert_memory_equal(emulated.stack, mapped.stack, PAGE);
}

static void test_narrow(void **state)
{
    (void)state;
    for (unsigned int i = 0; i < sizeof(narrow) / sizeof(narrow[0]); i++)
        compare(&narrow[i], false);
}

static void test_wide(void **state)
{
    (void)state;
    for (unsigned int i = 0; i < sizeof(wide) / sizeof(wide[0]); i++)
        compare(&wide[i], true);
}

static void test_vector(void **state)
{
    (void)state;
    needs_vector_code();
    for (unsigned int i = 0; i < sizeof(vector) / sizeof(vector[0]); i++)
        compare(&vector[i], true);
}

// An instruction that would raise an exception is not completed, and nothing changes.
static void test_not_emulated(void **state)
{
    static const struct snippet divide = CODE_("div byte [device]", "\xF6\x37");
    WHV_PARTITION_HANDLE p = start(&divide, true);
    WHV_RUN_VP_EXIT_CONTEXT exit;
    struct client client;

    (void)state;
    client_open(&client, p, memory);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(client_emulate(&client, &exit).EmulationSuccessful, 0);    // the device reads as 0
    assert_int_equal(get_register(p, 0, WHvX64RegisterRip), CODE);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRax), 0x8182838485868788);
    client_close(&client);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_narrow),
        cmocka_unit_test(test_wide),
        cmocka_unit_test(test_vector),
        cmocka_unit_test(test_not_emulated),
    };

    return engine_run_tests(tests);
}
