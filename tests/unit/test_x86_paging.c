// The page walk: modes, rights, reserved bits, accessed and dirty bits.
#include "x86_machine.h"

#define P 1u
#define W 2u
#define U 4u
#define ACCESSED 0x20u
#define DIRTY 0x40u
#define LARGE 0x80u
#define NX (1ull << 63)

enum { ERROR_P = 1, ERROR_W = 2, ERROR_U = 4, ERROR_RSVD = 8, ERROR_I = 16 };

// One page at 0x12345000: PML4 0x1000, PDPT 0x2000, PD 0x3000, PT 0x4000.
#define LINEAR 0x12345678ull
#define PTE (0x4000 + ((LINEAR >> 12 & 0x1ff) * 8))
#define PDE (0x3000 + ((LINEAR >> 21 & 0x1ff) * 8))

static void map(struct machine *m, uint64_t upper, uint64_t leaf)
{
    machine_long_mode(m);
    poke64(m, 0x1000, 0x2000 | P | W | U);
    poke64(m, 0x2000, 0x3000 | P | W | U);
    poke64(m, PDE, 0x4000 | upper);
    poke64(m, PTE, 0x50000 | leaf);
}

// The tests change tables under the processor: it is to look again.
static void assert_ok(struct machine *m, unsigned access, uint64_t gpa)
{
    x86_flush_tlb(&m->cpu, true);
    struct x86_walk_result r = x86_walk(&m->cpu, LINEAR, access, X86_WALK_MARK);
    assert_true(r.ok);
    assert_int_equal(r.t.gpa, gpa);
}

static void assert_fault(struct machine *m, unsigned access, uint32_t error)
{
    x86_flush_tlb(&m->cpu, true);
    struct x86_walk_result r = x86_walk(&m->cpu, LINEAR, access, X86_WALK_MARK);
    assert_false(r.ok);
    assert_false(r.missing);
    assert_int_equal(r.error, error);
}

static void test_four_levels(void **state)
{
    struct machine *m = *state;
    map(m, P | W | U, P | W | U);
    assert_ok(m, X86_READ, 0x50678);
    assert_int_equal(peek64(m, PTE) & (ACCESSED | DIRTY), ACCESSED);
    assert_int_equal(peek64(m, PDE) & (ACCESSED | DIRTY), ACCESSED);
    assert_ok(m, X86_WRITE, 0x50678);
    assert_int_equal(peek64(m, PTE) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
}

static void test_large_pages(void **state)
{
    struct machine *m = *state;
    map(m, P | W, P | W);
    poke64(m, PDE, 0x40000000 | P | W | LARGE);
    struct x86_walk_result r = x86_walk(&m->cpu, LINEAR, X86_WRITE, X86_WALK_MARK);
    assert_true(r.ok);
    assert_int_equal(r.t.page_shift, 21);
    assert_int_equal(r.t.gpa, 0x40000000 | (LINEAR & 0x1fffff));
    assert_true(r.t.dirty);
    poke64(m, PDE, 0x40002000 | P | W | LARGE);
    assert_fault(m, X86_READ, ERROR_P | ERROR_RSVD);
    poke64(m, 0x2000, 0x40000000 | P | W | LARGE);
    r = x86_walk(&m->cpu, LINEAR, X86_READ, 0);
    assert_true(r.ok);
    assert_int_equal(r.t.page_shift, 30);
    assert_int_equal(r.t.gpa, 0x40000000 | (LINEAR & 0x3fffffff));
    poke64(m, 0x1000, 0x2000 | P | W | LARGE);
    assert_fault(m, X86_READ, ERROR_P | ERROR_RSVD);
}

static void test_rights(void **state)
{
    struct machine *m = *state;
    map(m, P | U, P | W | U);
    assert_fault(m, X86_WRITE, ERROR_P | ERROR_W);
    m->cpu.cr0 &= ~(uint64_t)X86_CR0_WP;
    assert_ok(m, X86_WRITE, 0x50678);
    m->cpu.cpl = 3;
    assert_fault(m, X86_WRITE, ERROR_P | ERROR_W | ERROR_U);
    assert_ok(m, X86_READ, 0x50678);
    poke64(m, PDE, 0x4000 | P | W);
    assert_fault(m, X86_READ, ERROR_P | ERROR_U);
    assert_ok(m, X86_READ | X86_IMPLICIT, 0x50678);
    poke64(m, PTE, 0);
    assert_fault(m, X86_READ, ERROR_U);
    m->cpu.cpl = 0;
    assert_fault(m, X86_READ | X86_WRITE, ERROR_W);
}

static void test_no_execute(void **state)
{
    struct machine *m = *state;
    map(m, P | W | U, P | W | U | NX);
    assert_ok(m, X86_READ, 0x50678);
    assert_fault(m, X86_EXECUTE, ERROR_P | ERROR_I);
    m->cpu.efer &= ~(uint64_t)X86_EFER_NXE;
    assert_fault(m, X86_EXECUTE, ERROR_P | ERROR_RSVD);
    assert_fault(m, X86_READ, ERROR_P | ERROR_RSVD);
}

static void test_supervisor_prevention(void **state)
{
    struct machine *m = *state;
    map(m, P | W | U, P | W | U);
    m->cpu.cr4 |= X86_CR4_SMEP | X86_CR4_SMAP;
    assert_fault(m, X86_EXECUTE, ERROR_P | ERROR_I);
    assert_fault(m, X86_READ, ERROR_P);
    m->cpu.rflags |= X86_AC;
    assert_ok(m, X86_READ, 0x50678);
    assert_fault(m, X86_READ | X86_IMPLICIT, ERROR_P);
    m->cpu.cpl = 3;
    assert_ok(m, X86_EXECUTE, 0x50678);
}

static void test_reserved_address(void **state)
{
    struct machine *m = *state;
    map(m, P | W | U, P | W | U | 1ull << 41);
    assert_fault(m, X86_READ, ERROR_P | ERROR_RSVD);
    m->cpu.cpl = 3;
    assert_fault(m, X86_WRITE, ERROR_P | ERROR_RSVD | ERROR_W | ERROR_U);
}

static void test_missing_table(void **state)
{
    struct machine *m = *state;
    map(m, P | W | U, P | W | U);
    poke64(m, PDE, 0x800000 | P | W | U);
    struct x86_walk_result r = x86_walk(&m->cpu, LINEAR, X86_READ, X86_WALK_MARK);
    assert_false(r.ok);
    assert_true(r.missing);
    assert_false(r.missing_write);
    assert_int_equal(r.missing_gpa, 0x800000 + (PTE & 0xfff));
}

static void test_read_only_table(void **state)
{
    struct machine *m = *state;
    map(m, P | W | U | ACCESSED, P | W | U | ACCESSED);
    m->read_only[4] = true;
    assert_ok(m, X86_READ, 0x50678);
    struct x86_walk_result r = x86_walk(&m->cpu, LINEAR, X86_WRITE, X86_WALK_MARK);
    assert_true(!r.ok && r.missing && r.missing_write);
    assert_int_equal(r.missing_gpa, PTE);
    assert_true(x86_walk(&m->cpu, LINEAR, X86_WRITE, 0).ok);
}

static void test_no_marks_on_fault(void **state)
{
    struct machine *m = *state;
    map(m, P | U, P | U);
    assert_fault(m, X86_WRITE, ERROR_P | ERROR_W);
    assert_int_equal(peek64(m, PTE) & (ACCESSED | DIRTY), 0);
}

static void legacy(struct machine *m, uint32_t pde, uint32_t pte)
{
    machine_protected_mode(m);
    m->cpu.cr3 = 0x1000;
    m->cpu.cr0 |= X86_CR0_PG | X86_CR0_WP;
    poke32(m, 0x1000 + (LINEAR >> 22) * 4, pde);
    poke32(m, 0x2000 + (LINEAR >> 12 & 0x3ff) * 4, pte);
}

static void test_two_levels(void **state)
{
    struct machine *m = *state;
    legacy(m, 0x2000 | P | W, 0x50000 | P | W);
    assert_ok(m, X86_WRITE, 0x50678);
    assert_int_equal(peek32(m, 0x2000 + (LINEAR >> 12 & 0x3ff) * 4), 0x50000 | P | W | ACCESSED | DIRTY);
    assert_int_equal(peek32(m, 0x1000 + (LINEAR >> 22) * 4), 0x2000 | P | W | ACCESSED);
    m->cpu.cpl = 3;
    assert_fault(m, X86_EXECUTE, ERROR_P | ERROR_U);        // no bit 4 without NX or SMEP
}

static void test_four_megabytes(void **state)
{
    struct machine *m = *state;
    legacy(m, 0x00c06000 | P | W | LARGE, 0);
    struct x86_walk_result r = x86_walk(&m->cpu, LINEAR, X86_READ, X86_WALK_MARK);
    assert_true(r.missing && r.missing_gpa >> 12 == 0xc06);     // PSE off: a table, and one that is not there
    m->cpu.cr4 |= X86_CR4_PSE;
    r = x86_walk(&m->cpu, LINEAR, X86_READ, X86_WALK_MARK);
    assert_true(r.ok);
    assert_int_equal(r.t.page_shift, 22);
    assert_int_equal(r.t.gpa, 0x300000000ull | 0xc00000 | (LINEAR & 0x3fffff));
    poke32(m, 0x1000 + (LINEAR >> 22) * 4, 0x00e00000 | P | W | LARGE);
    assert_fault(m, X86_READ, ERROR_P | ERROR_RSVD);
}

static void test_pae(void **state)
{
    struct machine *m = *state;
    machine_protected_mode(m);
    poke64(m, 0x1020, 0x3000 | P);
    m->cpu.cr4 |= X86_CR4_PAE;
    poke64(m, PDE, 0x4000 | P | W | U);
    poke64(m, PTE, 0x50000 | P | W | U);
    m->cpu.cr3 = 0x1020;
    assert_true(x86_write_cr(&m->cpu, 0, m->cpu.cr0 | X86_CR0_PG));
    assert_ok(m, X86_READ, 0x50678);
    poke64(m, 0x1020, 0);                                   // has no effect before the next load of CR3
    assert_ok(m, X86_READ, 0x50678);
    assert_true(x86_write_cr(&m->cpu, 3, 0x1020));
    assert_fault(m, X86_READ, 0);
    poke64(m, 0x1020, 0x3000 | P | W);                      // bit 1 is reserved there
    assert_false(x86_write_cr(&m->cpu, 3, 0x1020));
    assert_int_equal(m->cpu.exception.vector, X86_GP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_four_levels, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_large_pages, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_rights, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_no_execute, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_supervisor_prevention, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_reserved_address, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_missing_table, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_read_only_table, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_no_marks_on_fault, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_two_levels, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_four_megabytes, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_pae, machine_setup, machine_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
