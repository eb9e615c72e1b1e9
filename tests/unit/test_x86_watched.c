// Watched pages: the platform is told of every page that the processor writes, whatever writes it.
#include "x86_machine.h"

#define PAGES (RAM_SIZE / 4096)
#define CODE_AT 0x20000u
#define LINEAR 0x50000u

static void watch_all(struct machine *m) { memset(m->watched, true, sizeof m->watched); }

static void start_over(struct machine *m)
{
    memset(m->written, 0, sizeof m->written);
    x86_forget_writes(&m->cpu);
}

// Exactly the pages of this list, which ends with -1, were told of.
static void assert_written(const struct machine *m, const int *pages)
{
    for (int page = 0; page < (int)PAGES; page++) {
        bool expected = false;
        for (const int *p = pages; *p >= 0; p++)
            expected |= *p == page;
        if ((m->written[page] != 0) != expected)
            fail_msg("page %#x: %s", page, expected ? "written and not told" : "told and not written");
    }
}

static void run_at(struct machine *m, const void *code, size_t size)
{
    m->cpu.rip = CODE_AT;
    (void)machine_run(m, code, size);
}

// 4-level paging with 4 KiB pages, all of them watched.
static void small_pages(struct machine *m)
{
    machine_long_mode(m);
    poke64(m, 0x3000, 0x4007);
    for (unsigned n = 0; n < PAGES; n++)
        poke64(m, 0x4000 + n * 8, (uint64_t)n << 12 | 7);
    x86_settle_state(&m->cpu);
    watch_all(m);
}

// ---- The TLB ----------------------------------------------------------------------------------------------

static void test_told_once_until_forgotten(void **state)
{
    static const uint8_t store[] = { 0x48, 0x89, 0x03, 0x48, 0x89, 0x03, 0xf4 };     // mov [rbx], rax, twice
    static const uint8_t load[] = { 0x48, 0x8b, 0x03, 0xf4 };                        // mov rax, [rbx]
    struct machine *m = *state;
    machine_long_mode(m);
    watch_all(m);
    m->cpu.slot[X86_RBX] = LINEAR;
    run_at(m, load, sizeof load);
    assert_int_equal(m->written[LINEAR >> 12], 0);
    run_at(m, store, sizeof store);
    assert_int_equal(m->written[LINEAR >> 12], 1);
    run_at(m, store, sizeof store);
    assert_int_equal(m->written[LINEAR >> 12], 1);
    start_over(m);
    run_at(m, load, sizeof load);
    assert_int_equal(m->written[LINEAR >> 12], 0);
    run_at(m, store, sizeof store);
    assert_int_equal(m->written[LINEAR >> 12], 1);
    x86_flush_tlb(&m->cpu, true);
    run_at(m, store, sizeof store);
    assert_int_equal(m->written[LINEAR >> 12], 2);
}

// More entries than the log of fills has room for.
static void test_forget_many(void **state)
{
    static const uint8_t store[] = { 0x88, 0x03, 0xf4 };        // mov [rbx], al
    struct machine *m = *state;
    small_pages(m);
    for (unsigned n = 0; n < 512; n++)
        poke64(m, 0x5000 + n * 8, (uint64_t)(0x40 + n % 64) << 12 | 7);
    for (unsigned n = 1; n < 512; n++)      // from 2 MiB on, the same 64 pages again and again
        poke64(m, 0x3000 + n * 8, 0x5007);
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned n = 0; n < 1500; n++) {
            m->cpu.slot[X86_RBX] = 0x200000 + n * 4096ull;
            run_at(m, store, sizeof store);
        }
        assert_int_equal(m->written[0x47], 24);     // each alias has an entry of its own
        start_over(m);
    }
}

static void test_code_page(void **state)
{
    static const uint8_t store[] = { 0x88, 0x03, 0x88, 0x03, 0xf4 };
    struct machine *m = *state;
    machine_long_mode(m);
    watch_all(m);
    m->cpu.slot[X86_RBX] = CODE_AT + 0x800;
    run_at(m, store, sizeof store);
    start_over(m);          // its first walk has set accessed and dirty bits
    run_at(m, store, sizeof store);
    assert_written(m, (const int[]){ CODE_AT >> 12, -1 });
    assert_int_equal(m->written[CODE_AT >> 12], 2);     // stores to a page with code go by no entry
}

static void test_page_that_is_not_watched(void **state)
{
    static const uint8_t store[] = { 0x48, 0x89, 0x03, 0xf4 };
    struct machine *m = *state;
    machine_long_mode(m);
    m->watched[(LINEAR >> 12) + 1] = true;
    m->cpu.slot[X86_RBX] = LINEAR + 0xffc;      // goes over into the watched one
    run_at(m, store, sizeof store);
    assert_written(m, (const int[]){ (LINEAR >> 12) + 1, -1 });
}

// ---- The page walk ----------------------------------------------------------------------------------------

static void test_accessed_and_dirty(void **state)
{
    struct machine *m = *state;
    small_pages(m);
    assert_true(x86_walk(&m->cpu, LINEAR, X86_READ, 0).ok);
    assert_written(m, (const int[]){ -1 });
    assert_true(x86_walk(&m->cpu, LINEAR, X86_READ, X86_WALK_MARK).ok);
    assert_written(m, (const int[]){ 1, 2, 3, 4, -1 });
    start_over(m);
    assert_true(x86_walk(&m->cpu, LINEAR, X86_READ, X86_WALK_MARK).ok);
    assert_written(m, (const int[]){ -1 });
    // By the cache of tables: only the last level is looked at.
    assert_true(x86_walk(&m->cpu, LINEAR, X86_WRITE, X86_WALK_MARK).ok);
    assert_written(m, (const int[]){ 4, -1 });
    start_over(m);
    assert_true(x86_walk(&m->cpu, LINEAR, X86_WRITE, X86_WALK_MARK).ok);
    assert_written(m, (const int[]){ -1 });
    assert_true(x86_walk(&m->cpu, LINEAR + 0x1000, X86_WRITE, X86_WALK_MARK | X86_WALK_UNCACHED).ok);
    assert_written(m, (const int[]){ 4, -1 });
}

static void test_legacy_tables(void **state)
{
    struct machine *m = *state;
    machine_protected_mode(m);
    poke32(m, 0x1000, 0x2007);
    poke32(m, 0x2000 + (LINEAR >> 12) * 4, LINEAR | 7);
    m->cpu.cr3 = 0x1000;
    m->cpu.cr0 |= X86_CR0_PG;
    x86_settle_state(&m->cpu);
    watch_all(m);
    assert_true(x86_walk(&m->cpu, LINEAR, X86_WRITE, X86_WALK_MARK).ok);
    assert_written(m, (const int[]){ 1, 2, -1 });
}

// ---- Every instruction ------------------------------------------------------------------------------------

// Where an instruction of the cases below can reach: tables, operands, stack.
static const struct { unsigned first, count; } areas[] = { { 0x00, 0x10 }, { 0x5e, 0x14 } };
#define AREA_PAGES 0x24u

static void areas_copy(const struct machine *m, uint8_t *copy)
{
    for (unsigned n = 0; n < 2; copy += areas[n].count << 12, n++)
        memcpy(copy, m->ram + (areas[n].first << 12), areas[n].count << 12);
}

static void areas_compare(const struct machine *m, const uint8_t *copy, const uint8_t *insn, bool code64)
{
    for (unsigned n = 0; n < 2; n++)
        for (unsigned page = areas[n].first; page < areas[n].first + areas[n].count; page++, copy += 4096)
            if (!m->written[page] && memcmp(m->ram + (page << 12), copy, 4096))
                fail_msg("page %#x changed unseen by %02x %02x %02x %02x in %d-bit code", page, insn[0],
                         insn[1], insn[2], insn[3], code64 ? 64 : 32);
}

// Once with nothing in the TLB, and again with the entries of the first time.
static void run_case(struct machine *m, bool code64, const uint8_t *insn, unsigned length, unsigned offset)
{
    static uint8_t copy[AREA_PAGES << 12];
    struct x86_cpu *cpu = &m->cpu;
    uint8_t code[24];
    x86_flush_tlb(cpu, true);
    for (unsigned pass = 0; pass < 2; pass++) {
        if (code64)
            small_pages(m);
        else
            machine_protected_mode(m);
        for (unsigned vector = 0; vector < 20; vector++)
            if (code64)
                gate64(m, vector, CODE_AT, 14, 0, 0);
            else
                gate32(m, vector, CODE_AT, 14, 0);
        cpu->cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_FSGSBASE | X86_CR4_OSXSAVE;
        cpu->xcr0 = 7;
        cpu->rflags = 2;
        cpu->interrupt_shadow = 0;
        cpu->dr7 = 0x400;
        cpu->mxcsr = 0x1f80;
        cpu->cpl = 0;
        x86_update_mode(cpu);
        for (unsigned n = 0; n < 16; n++)
            cpu->slot[n] = 0x60000 + n * 64 + offset + pass;
        cpu->slot[X86_RCX] = 3 + pass;
        cpu->slot[X86_RDI] = 0x62000 + offset;
        cpu->slot[X86_RSP] = 0x70000 + (offset ? 2 : 0);
        memset(cpu->vec, 0xa5 + (int)pass, sizeof cpu->vec);
        memcpy(code, insn, length);
        code[length] = 0xf4;
        start_over(m);
        areas_copy(m, copy);
        cpu->rip = CODE_AT;
        if (machine_run(m, code, length + 1) == X86_LEAVE_EXCEPTION)
            (void)x86_deliver_exception(cpu);
        areas_compare(m, copy, insn, code64);
    }
}

static enum x86_answer no_time(struct x86_cpu *cpu, bool rdtscp, uint64_t *value)
{
    (void)cpu, (void)rdtscp;
    *value = 0;
    return X86_DONE;
}

static unsigned cases(struct machine *m, bool code64)
{
    static const uint8_t prefixes[] = { 0, 0x66, 0xf2, 0xf3, 0xf0 };
    ZydisDecoder decoder;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    unsigned count = 0;
    ZydisDecoderInit(&decoder, code64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32,
                     code64 ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
    for (unsigned opcode = 0; opcode < 512; opcode++)
        for (unsigned p = 0; p < sizeof prefixes; p++)
            for (unsigned reg = 0; reg < 8; reg++) {
                uint8_t insn[16] = { 0 };
                unsigned n = 0;
                if (prefixes[p])
                    insn[n++] = prefixes[p];
                if (opcode >= 256)
                    insn[n++] = 0x0f;
                insn[n++] = (uint8_t)opcode;
                insn[n] = (uint8_t)(3 | reg << 3);
                if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, insn, sizeof insn, &z, operands)))
                    continue;
                run_case(m, code64, insn, z.length, 0);
                run_case(m, code64, insn, z.length, 0xf3f);     // RBX + 1 at a page's end
                count++;
            }
    return count;
}

static void test_every_instruction(void **state)
{
    struct machine *m = *state;
    struct x86_bus bus = machine_bus;
    bus.tsc = no_time;
    m->cpu.bus = &bus;
    watch_all(m);
    assert_in_range(cases(m, true), 5000, 50000);
    assert_in_range(cases(m, false), 5000, 50000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_told_once_until_forgotten, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_forget_many, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_code_page, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_page_that_is_not_watched, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_accessed_and_dirty, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_legacy_tables, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_every_instruction, machine_setup, machine_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
