// Undoing, case by case: what hardware does where the kernel's emulator would not, what cannot be told apart,
// and what a client may have set.
#include "kvm_undo.h"

static struct kvm_undo undo;
static bool ambiguous;

// Code at `at` in 32-bit code, with RIP behind `behind` bytes of it, and registers that are all different.
static struct x86_cpu *code_at(struct bench *b, uint64_t at, const void *code, unsigned size, unsigned behind)
{
    struct x86_cpu *cpu = &b->machine.cpu;
    bench_mode(b, CODE32);
    for (unsigned n = 0; n < 8; n++)
        cpu->slot[n] = 0x11110000u * n + 0x1234;
    cpu->slot[X86_RSP] = 0x1000;
    cpu->rip = at + behind;
    memset(b->machine.ram + 0x20000 + at - 0x80, 0x90, 0x100);
    memcpy(b->machine.ram + 0x20000 + at, code, size);
    return cpu;
}

static bool unchanged(struct bench *b, const struct registers *before)
{
    struct registers now = bench_registers(&b->machine.cpu);
    return same_registers(before, &now);
}

// ---- Ports ------------------------------------------------------------------------------------------------

static void test_hardware_in(void **state)
{
    struct bench *b = *state;
    struct x86_cpu *cpu = code_at(b, 0x400, "\xec", 1, 0);
    struct registers before = bench_registers(cpu);
    report_port(b, false, 0x1234, 1, 1, NULL);
    assert_true(bench_undo(b, false, &ambiguous, &undo));
    assert_true(unchanged(b, &before));
    assert_int_equal(undo.pending, KVM_PENDING_INPUT);
    assert_true(undo.port && undo.plain && !undo.string && !undo.rep && !undo.sign && !undo.changes_fpu);
    assert_int_equal(undo.length, 1);
    assert_int_equal(undo.target, 0);
    assert_int_equal(undo.size, 1);
    assert_int_equal(undo.width, 1);
    assert_int_equal(undo.write_count, 0);
}

// kvm_fast_pio_out: the registers are from before, and the kernel skips later.
static void test_hardware_out(void **state)
{
    struct bench *b = *state;
    struct x86_cpu *cpu = code_at(b, 0x400, "\x66\xef", 2, 0);
    struct registers before = bench_registers(cpu);
    report_port(b, true, 0x1234, 2, 1, &before.slot[X86_RAX]);
    assert_true(bench_undo(b, false, &ambiguous, &undo));
    assert_true(unchanged(b, &before) && !ambiguous);
    assert_int_equal(undo.pending, KVM_PENDING_SKIP);
    assert_int_equal(undo.rip, 0x400);
    assert_int_equal(undo.length, 2);
}

// Port 0x7e is one that the kernel skips at once (KVM_X86_QUIRK_OUT_7E_INC_RIP).
static void test_hardware_out_skipped(void **state)
{
    struct bench *b = *state;
    struct x86_cpu *cpu = code_at(b, 0x400, "\xe6\x7e", 2, 2);
    report_port(b, true, 0x7e, 1, 1, &cpu->slot[X86_RAX]);
    assert_true(bench_undo(b, false, &ambiguous, &undo));
    assert_int_equal(undo.pending, KVM_PENDING_NOTHING);
    assert_int_equal(undo.rip, 0x400);
    assert_int_equal(cpu->rip, 0x400);
}

// Done by the emulator, or waiting to be skipped by hardware: only KVM knows, and completing tells.
static void test_two_outs(void **state)
{
    struct bench *b = *state;
    for (unsigned hardware = 0; hardware < 2; hardware++) {
        struct x86_cpu *cpu = code_at(b, 0x400, "\xee\xee", 2, 1);
        struct registers between = bench_registers(cpu);
        report_port(b, true, 0x1234, 1, 1, &cpu->slot[X86_RAX]);
        assert_false(bench_undo(b, false, &ambiguous, &undo));
        assert_true(ambiguous);
        assert_true(unchanged(b, &between));
        cpu->rip += hardware;
        assert_true(bench_undo(b, true, &ambiguous, &undo));
        assert_false(ambiguous);
        assert_int_equal(undo.pending, KVM_PENDING_NOTHING);
        assert_int_equal(undo.rip, 0x400 + hardware);
        assert_int_equal(cpu->rip, 0x400 + hardware);
    }
}

// The byte before OUT DX, AL may be the end of anything, or make another OUT of it.
static void test_out_after_likenesses(void **state)
{
    struct bench *b = *state;
    static const struct { const char *code; unsigned size, rip; } cases[] = {
        { "\xb0\xee\xee", 3, 0x402 },           // mov al, 0xee; out dx, al
        { "\xb0\xe6\xee", 3, 0x402 },           // mov al, 0xe6; out dx, al, and not: out 0xee, al
        { "\xb0\xf3\xee", 3, 0x402 },
        { "\xb4\x66\xee", 3, 0x402 },
    };
    for (unsigned n = 0; n < sizeof cases / sizeof *cases; n++) {
        struct x86_cpu *cpu = code_at(b, 0x400, cases[n].code, cases[n].size, cases[n].size);
        report_port(b, true, 0x1234, 1, 1, &cpu->slot[X86_RAX]);
        assert_true(bench_undo(b, false, &ambiguous, &undo));
        assert_int_equal(undo.rip, cases[n].rip);
        assert_int_equal(undo.length, 1);
    }
    struct x86_cpu *cpu = code_at(b, 0x400, "\xe6\xee", 2, 2);      // out 0xee, al: DX is another port
    report_port(b, true, 0xee, 1, 1, &cpu->slot[X86_RAX]);
    assert_true(bench_undo(b, false, &ambiguous, &undo));
    assert_int_equal(undo.rip, 0x400);
}

static void test_wrong_port_or_data(void **state)
{
    struct bench *b = *state;
    struct x86_cpu *cpu = code_at(b, 0x400, "\xee", 1, 1);
    struct registers after = bench_registers(cpu);
    report_port(b, true, 0x1235, 1, 1, &cpu->slot[X86_RAX]);
    assert_false(bench_undo(b, false, &ambiguous, &undo));
    assert_int_equal(undo.pending, KVM_PENDING_SKIP);
    assert_int_equal(undo.length, 0);
    assert_int_equal(undo.rip, 0x401);
    assert_int_equal(undo.byte_count, 16);
    report_port(b, true, 0x1234, 1, 1, "\x35");
    assert_false(bench_undo(b, true, &ambiguous, &undo));
    assert_int_equal(undo.pending, KVM_PENDING_NOTHING);
    report_port(b, true, 0x1234, 2, 1, &cpu->slot[X86_RAX]);
    assert_false(bench_undo(b, true, &ambiguous, &undo));
    report_port(b, false, 0x1234, 1, 1, NULL);
    assert_false(bench_undo(b, true, &ambiguous, &undo));
    assert_int_equal(undo.pending, KVM_PENDING_INPUT);
    assert_true(unchanged(b, &after) && !ambiguous);
}

static void test_outs_of_many(void **state)
{
    struct bench *b = *state;
    for (unsigned down = 0; down < 2; down++) {
        struct x86_cpu *cpu = code_at(b, 0x400, "\xf3\x66\x6f", 3, 0);
        uint64_t from = 0x800;
        cpu->slot[X86_RSI] = from;
        cpu->slot[X86_RCX] = 9;
        cpu->rflags |= down ? X86_DF : 0;
        struct registers before = bench_registers(cpu);
        uint8_t data[8];
        for (unsigned n = 0; n < 4; n++)
            for (unsigned k = 0; k < 2; k++)
                data[n * 2 + k] = (uint8_t)(n * 5 + k + 1);
        for (unsigned n = 0; n < 4; n++)
            memcpy(b->machine.ram + DATA + from + (down ? -(int)n : (int)n) * 2, data + n * 2, 2);
        report_port(b, true, 0x1234, 2, 4, data);
        cpu->slot[X86_RSI] += down ? -8ull : 8ull;
        cpu->slot[X86_RCX] = 5;
        cpu->rflags |= X86_RF;
        assert_true(bench_undo(b, false, &ambiguous, &undo));
        assert_true(unchanged(b, &before));
        assert_true(undo.port && undo.string && undo.rep);
        assert_int_equal(undo.count_mask, 0xffffffff);
        assert_int_equal(undo.pending, KVM_PENDING_NOTHING);
    }
}

// Another processor may write to the source after the kernel has read it.
static void test_source_changed(void **state)
{
    struct bench *b = *state;
    struct x86_cpu *cpu = code_at(b, 0x400, "\x6e", 1, 1);
    cpu->slot[X86_RSI] = 0x801;
    b->machine.ram[DATA + 0x800] = 0x55;
    report_port(b, true, 0x1234, 1, 1, "\x44");
    assert_true(bench_undo(b, false, &ambiguous, &undo));
    assert_int_equal(cpu->slot[X86_RSI], 0x800);
    assert_int_equal(cpu->rip, 0x400);
}

// One OUTS and the first element of a repeated one leave the same registers but for RF.
static void test_repetition_told_by_rf(void **state)
{
    struct bench *b = *state;
    for (unsigned rf = 0; rf < 2; rf++) {
        struct x86_cpu *cpu = code_at(b, 0x400, "\x6e\xf3\x6e", 3, 1);
        cpu->slot[X86_RSI] = 0x801;
        cpu->slot[X86_RCX] = 3;
        b->machine.ram[DATA + 0x800] = 0x44;
        cpu->rflags |= rf ? X86_RF : 0;
        report_port(b, true, 0x1234, 1, 1, "\x44");
        assert_true(bench_undo(b, false, &ambiguous, &undo));
        assert_int_equal(cpu->rip, 0x400 + rf);
        assert_int_equal(cpu->slot[X86_RCX], 3 + rf);
        assert_int_equal(undo.rep, rf);
        assert_false(cpu->rflags & X86_RF);
    }
}

static void test_ins_writes(void **state)
{
    struct bench *b = *state;
    struct x86_cpu *cpu = code_at(b, 0x400, "\xf3\x6d", 2, 0);
    cpu->slot[X86_RDI] = 0x100;
    cpu->slot[X86_RCX] = 100;
    report_port(b, false, 0x1234, 4, 6, NULL);
    uint64_t to = cpu->slot[X86_SLOT_SEGMENT + X86_ES] + 0x100;
    assert_true(bench_undo(b, false, &ambiguous, &undo));
    assert_true(undo.string && undo.rep && !undo.plain && !undo.changes_fpu);
    assert_int_equal(undo.count_mask, 0xffffffff);
    assert_int_equal(undo.write_count, 1);
    assert_int_equal(undo.writes[0].linear, to);
    assert_int_equal(undo.writes[0].size, 24);
    cpu->rflags |= X86_DF;
    assert_true(bench_undo(b, false, &ambiguous, &undo));
    assert_int_equal(undo.writes[0].linear, to - 20);
    assert_int_equal(undo.writes[0].size, 24);
}

// The same place again, with the same instruction and then with another one.
static void test_places_seen(void **state)
{
    struct bench *b = *state;
    static const struct { const char *code; unsigned length, at, size; } cases[] = {
        { "\x66\xef", 2, 0x400, 2 }, { "\x66\xef", 2, 0x400, 2 }, { "\x90\xef", 2, 0x401, 4 },
        { "\x90\xee", 2, 0x401, 1 }, { "\x90\xee", 2, 0x401, 1 }, { "\x66\xef", 2, 0x400, 2 },
    };
    for (unsigned n = 0; n < sizeof cases / sizeof *cases; n++) {
        struct x86_cpu *cpu = code_at(b, 0x400, cases[n].code, cases[n].length, cases[n].length);
        report_port(b, true, 0x1234, cases[n].size, 1, &cpu->slot[X86_RAX]);
        assert_true(bench_undo(b, false, &ambiguous, &undo));
        assert_int_equal(undo.rip, cases[n].at);
        assert_int_equal(cpu->rip, cases[n].at);
    }
}

// ---- Code that is not where it was ------------------------------------------------------------------------

static void test_code_gone(void **state)
{
    struct bench *b = *state;
    struct x86_cpu *cpu = code_at(b, 0x400, "\x90\x90", 2, 2);
    struct registers after = bench_registers(cpu);
    report_memory(b, true, DEVICE + 0x10, 4, "abcd");
    assert_false(bench_undo(b, false, &ambiguous, &undo));
    assert_int_equal(undo.pending, KVM_PENDING_NOTHING);
    report_memory(b, true, DEVICE + 0x10, 8, "abcdefgh");
    assert_false(bench_undo(b, false, &ambiguous, &undo));
    assert_int_equal(undo.pending, KVM_PENDING_MORE);
    assert_true(unchanged(b, &after) && !ambiguous);
    assert_int_equal(undo.rip, 0x402);
    assert_int_equal(undo.length, 0);
}

// Nothing can be fetched: not the code at RIP, and not the code before it.
static void test_code_out_of_reach(void **state)
{
    struct bench *b = *state;
    struct x86_cpu *cpu = code_at(b, 0x400, "\x90", 1, 0);
    cpu->rip = RAM_SIZE;
    cpu->exception = (struct x86_exception){ .vector = 0x55 };
    cpu->leave = X86_LEAVE_HALT;
    report_memory(b, false, DEVICE, 4, NULL);
    assert_false(bench_undo(b, false, &ambiguous, &undo));
    assert_int_equal(undo.byte_count, 0);
    assert_int_equal(undo.pending, KVM_PENDING_INPUT);
    report_memory(b, true, DEVICE, 4, "abcd");
    assert_false(bench_undo(b, false, &ambiguous, &undo));
    assert_int_equal(cpu->exception.vector, 0x55);
    assert_int_equal(cpu->leave, X86_LEAVE_HALT);
}

// The page before is the device: what is there is not asked for.
static void test_first_of_its_page(void **state)
{
    struct bench *b = *state;
    uint64_t at = DEVICE + 0x1000 - 0x20000;
    struct x86_cpu *cpu = code_at(b, at, "\xaa", 1, 1);
    cpu->slot[X86_RDI] = 0x101 + DEVICE - cpu->slot[X86_SLOT_SEGMENT + X86_ES];
    report_memory(b, true, DEVICE + 0x100, 1, &cpu->slot[X86_RAX]);
    assert_true(bench_undo(b, false, &ambiguous, &undo));
    assert_int_equal(undo.rip, at);
    assert_int_equal(undo.length, 1);
}

// Looking at code around an instruction leaves no trace in the tables.
static void test_no_page_is_marked(void **state)
{
    struct bench *b = *state;
    struct machine *m = &b->machine;
    struct x86_cpu *cpu = &m->cpu;
    bench_mode(b, CODE64);
    poke64(m, 0x3000, 0x4007);                  // pages of 4 KiB
    for (unsigned n = 0; n < 512; n++)
        poke64(m, 0x4000 + n * 8, n << 12 | 7);
    x86_settle_state(cpu);
    static const uint8_t store[] = { 0x89, 0x07 };
    memcpy(m->ram + 0x20fff, store, sizeof store);
    cpu->slot[X86_RDI] = DEVICE + 0x40;
    cpu->slot[X86_RAX] = 0x44332211;
    cpu->rip = 0x21001;
    report_memory(b, true, DEVICE + 0x40, 4, "\x11\x22\x33\x44");
    assert_true(bench_undo(b, false, &ambiguous, &undo));
    assert_int_equal(cpu->rip, 0x20fff);
    for (unsigned n = 0; n < 512; n++)
        assert_int_equal(peek64(m, 0x4000 + n * 8), n << 12 | 7);
}

// In 16-bit code RIP comes round, or stands just above.
static void test_end_of_segment(void **state)
{
    struct bench *b = *state;
    struct x86_cpu *cpu = &b->machine.cpu;
    for (unsigned round = 0; round < 2; round++) {
        bench_mode(b, CODE16);
        cpu->slot[X86_RDX] = 0x1234;
        cpu->slot[X86_RAX] = 0x77;
        cpu->rip = round ? 0 : 0x10000;
        memset(b->machine.ram + 0x20000, 0x90, 0x10000);
        b->machine.ram[0x2ffff] = 0xee;
        report_port(b, true, 0x1234, 1, 1, &cpu->slot[X86_RAX]);
        assert_true(bench_undo(b, false, &ambiguous, &undo));
        assert_int_equal(cpu->rip, 0xffff);
    }
}

// ---- Writes in parts --------------------------------------------------------------------------------------

static void test_more_in_the_next_page(void **state)
{
    struct bench *b = *state;
    static const uint8_t store[] = { 0x89, 0x07 };              // mov [edi], eax
    for (unsigned next = 0; next < 2; next++) {
        struct x86_cpu *cpu = code_at(b, 0x400, store, sizeof store, sizeof store);
        uint64_t to = next ? DEVICE + 0xffe : RAM_SIZE - 2;     // memory behind it, or nothing
        cpu->slot[X86_RDI] = to - DATA;
        cpu->slot[X86_RAX] = 0x44332211;
        b->machine.read_only[(RAM_SIZE >> 12) - 1] = !next;
        report_memory(b, true, to, 2, "\x11\x22");
        assert_true(bench_undo(b, false, &ambiguous, &undo));
        assert_int_equal(undo.pending, next ? KVM_PENDING_NOTHING : KVM_PENDING_MORE);
        assert_int_equal(cpu->rip, 0x400);
    }
}

// ---- What a client sets -----------------------------------------------------------------------------------

struct load {
    const char *name, *code;
    unsigned length;
    unsigned size, width, target;
    bool sign;
};

static const struct load loads[] = {
    { "mov al, [edi]", "\x8a\x07", 2, 1, 1, X86_RAX * 8, false },
    { "mov bh, [edi]", "\x8a\x3f", 2, 1, 1, X86_RBX * 8 + 1, false },
    { "mov cx, [edi]", "\x66\x8b\x0f", 3, 2, 2, X86_RCX * 8, false },
    { "mov edx, [edi]", "\x8b\x17", 2, 4, 4, X86_RDX * 8, false },
    { "mov edi, [edi]", "\x8b\x3f", 2, 4, 4, X86_RDI * 8, false },
    { "movzx eax, byte [edi]", "\x0f\xb6\x07", 3, 1, 4, X86_RAX * 8, false },
    { "movzx ax, byte [edi]", "\x66\x0f\xb6\x07", 4, 1, 2, X86_RAX * 8, false },
    { "movsx eax, byte [edi]", "\x0f\xbe\x07", 3, 1, 4, X86_RAX * 8, true },
    { "movsx si, byte [edi]", "\x66\x0f\xbe\x37", 4, 1, 2, X86_RSI * 8, true },
    { "movsx eax, word [edi]", "\x0f\xbf\x07", 3, 2, 4, X86_RAX * 8, true },
};

static uint64_t result_of(const struct load *l, uint64_t old, uint64_t data)
{
    unsigned unused = 64 - l->size * 8;
    uint64_t value = l->sign ? (uint64_t)((int64_t)(data << unused) >> unused) : data << unused >> unused;
    if (l->width == 4)
        return value & 0xffffffff;
    uint64_t mask = mask_of(l->width * 8) << l->target % 8 * 8;
    return (old & ~mask) | (value << l->target % 8 * 8 & mask);
}

static void test_feeding(void **state)
{
    struct bench *b = *state;
    static const uint64_t values[] = { 0, 1, 0x7f, 0x80, 0xff, 0x8000, 0x12345678, 0x80000000, 0xffffffff };
    for (unsigned n = 0; n < sizeof loads / sizeof *loads; n++)
        for (unsigned k = 0; k < sizeof values / sizeof *values; k++) {
            const struct load *l = &loads[n];
            struct x86_cpu *cpu = code_at(b, 0x400, l->code, l->length, 0);
            cpu->slot[X86_RDI] = DEVICE + 0x40 - DATA;
            report_memory(b, false, DEVICE + 0x40, l->size, NULL);
            assert_true(bench_undo(b, false, &ambiguous, &undo));
            assert_true(undo.plain && undo.sign == l->sign && !undo.port);
            assert_int_equal(undo.size, l->size);
            assert_int_equal(undo.width, l->width);
            assert_int_equal(undo.target, l->target);
            struct kvm_undo_registers before;
            kvm_undo_keep(&before, cpu);
            uint64_t *slot = &cpu->slot[l->target / 8], data = values[k] & mask_of(l->size * 8), fed = 0;
            *slot = result_of(l, *slot, data);
            assert_false(kvm_undo_feed(&undo, &before, cpu, (uint8_t *)&fed));      // RIP is still on it
            cpu->rip += l->length;
            assert_true(kvm_undo_feed(&undo, &before, cpu, (uint8_t *)&fed));
            assert_int_equal(fed, data);
            *slot ^= 1ull << 40;
            assert_false(kvm_undo_feed(&undo, &before, cpu, (uint8_t *)&fed));
        }
}

static void test_not_feeding(void **state)
{
    struct bench *b = *state;
    struct x86_cpu *cpu = code_at(b, 0x400, "\x0f\xbe\x07", 3, 0);
    struct kvm_undo_registers before;
    uint8_t data[8];
    cpu->slot[X86_RDI] = DEVICE + 0x40 - DATA;
    report_memory(b, false, DEVICE + 0x40, 1, NULL);
    assert_true(bench_undo(b, false, &ambiguous, &undo));
    kvm_undo_keep(&before, cpu);
    cpu->rip += 3;
    cpu->slot[X86_RAX] = 0xffffff85;
    assert_true(kvm_undo_feed(&undo, &before, cpu, data));
    assert_int_equal(data[0], 0x85);
    cpu->slot[X86_RAX] = 0x85;                  // no sign: nothing that MOVSX loads
    assert_false(kvm_undo_feed(&undo, &before, cpu, data));
    cpu->slot[X86_RAX] = 5;
    assert_true(kvm_undo_feed(&undo, &before, cpu, data));
    cpu->slot[X86_RBP]++;
    assert_false(kvm_undo_feed(&undo, &before, cpu, data));
    cpu->slot[X86_RBP]--;
    cpu->oszapc ^= X86_HOST_ZF;
    assert_false(kvm_undo_feed(&undo, &before, cpu, data));
    cpu->oszapc ^= X86_HOST_ZF;
    cpu->rflags ^= X86_IF;
    assert_false(kvm_undo_feed(&undo, &before, cpu, data));
    cpu->rflags ^= X86_IF;
    cpu->rip++;
    assert_false(kvm_undo_feed(&undo, &before, cpu, data));
    cpu->rip--;
    cpu->interrupt_shadow = 1;                  // the instruction would end it, moving RIP does not
    assert_false(kvm_undo_feed(&undo, &before, cpu, data));
    cpu->interrupt_shadow = 0;
    cpu->rflags |= X86_TF;                      // the instruction would trap, moving RIP does not
    before.rflags |= X86_TF;
    assert_false(kvm_undo_feed(&undo, &before, cpu, data));
}

// A load that is more than that.
static void test_not_plain(void **state)
{
    struct bench *b = *state;
    static const struct { const char *code; unsigned length, size; } cases[] = {
        { "\x8e\x07", 2, 2 },                   // mov es, [edi]
        { "\x03\x07", 2, 4 },                   // add eax, [edi]
        { "\x8f\xc0", 2, 4 },                   // pop eax
        { "\x0f\xbe\x07", 3, 4 },               // movsx eax, byte [edi], of another size than was asked for
        { "\x8a\x46\x00", 3, 1 },               // mov al, [esi]: elsewhere
    };
    for (unsigned n = 0; n < sizeof cases / sizeof *cases; n++) {
        struct x86_cpu *cpu = code_at(b, 0x400, cases[n].code, cases[n].length, 0);
        cpu->slot[X86_RDI] = DEVICE + 0x40 - DATA;
        report_memory(b, false, DEVICE + 0x40, cases[n].size, NULL);
        assert_true(bench_undo(b, false, &ambiguous, &undo));
        assert_false(undo.plain);
        assert_int_equal(undo.length, cases[n].length);
    }
}

static void test_changes_fpu(void **state)
{
    struct bench *b = *state;
    static const struct { const char *code; unsigned length; bool changes; } cases[] = {
        { "\xdd\x07", 2, true },                // fld qword [edi]
        { "\xd9\x2f", 2, true },                // fldcw [edi]
        { "\xdd\x27", 2, true },                // frstor [edi]
        { "\x0f\xae\x0f", 3, true },            // fxrstor [edi]
        { "\x0f\xae\x17", 3, true },            // ldmxcsr [edi]
        { "\x0f\xae\x2f", 3, true },            // xrstor [edi]
        { "\x0f\x6f\x07", 3, true },            // movq mm0, [edi]
        { "\x0f\x10\x07", 3, true },            // movups xmm0, [edi]
        { "\x0f\x2e\x07", 3, true },            // ucomiss xmm0, [edi]: MXCSR
        { "\xc5\xfc\x10\x07", 4, true },        // vmovups ymm0, [edi]
        { "\xc5\xf8\x90\x0f", 4, true },        // kmovw k1, [edi]
        { "\x8b\x07", 2, false },
        { "\xa5", 1, false },
        { "\x0f\xb1\x0f", 3, false },           // cmpxchg [edi], ecx
    };
    for (unsigned n = 0; n < sizeof cases / sizeof *cases; n++) {
        struct x86_cpu *cpu = code_at(b, 0x400, cases[n].code, cases[n].length, 0);
        cpu->slot[X86_RDI] = DEVICE + 0x40 - DATA;
        report_memory(b, false, DEVICE + 0x40, 4, NULL);
        assert_true(bench_undo(b, false, &ambiguous, &undo));
        assert_int_equal(undo.changes_fpu, cases[n].changes);
        assert_int_equal(undo.length, cases[n].length);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, bench_setup, bench_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_hardware_in), CASE(test_hardware_out), CASE(test_hardware_out_skipped), CASE(test_two_outs),
        CASE(test_out_after_likenesses), CASE(test_wrong_port_or_data), CASE(test_outs_of_many),
        CASE(test_source_changed), CASE(test_repetition_told_by_rf), CASE(test_ins_writes),
        CASE(test_places_seen), CASE(test_code_gone), CASE(test_code_out_of_reach),
        CASE(test_first_of_its_page), CASE(test_end_of_segment), CASE(test_no_page_is_marked),
        CASE(test_more_in_the_next_page), CASE(test_feeding), CASE(test_not_feeding), CASE(test_not_plain),
        CASE(test_changes_fpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
