// A guest must not keep the thread that runs it, nor use up its stack, nor get from one privilege into another's pages.
#include "x86_machine.h"

// ---- Deliveries without end -------------------------------------------------------------------------------

// #AC whose handler runs at privilege 3 on the same misaligned stack: the delivery raises the next #AC.
static void test_alignment_for_ever(void **state)
{
    static const uint8_t code[] = { 0xa1, 0x01, 0x00, 0x07, 0x00 };     // mov eax, [70001h]
    struct machine *m = *state;
    machine_protected_mode(m);
    m->cpu.cr0 |= X86_CR0_AM;
    m->cpu.rflags |= X86_AC;
    m->cpu.slot[X86_RSP] = 0x70001;
    machine_user(m, false);
    gate32(m, X86_AC_FAULT, 0x20000, 14, 3);
    memcpy(m->ram + IDT + X86_AC_FAULT * 8 + 2, &(uint16_t){ USER_CODE32_SELECTOR }, 2);
    assert_int_equal(machine_run(m, code, sizeof code), X86_LEAVE_EXCEPTION);
    assert_int_equal(m->cpu.exception.vector, X86_AC_FAULT);
    assert_int_equal(x86_deliver_exception(&m->cpu), X86_LEAVE_SHUTDOWN);
}

#define TASK_B 0x100u           // selectors
#define TASK_C 0x180u
#define ABSENT_CODE 0x38u

// A TSS that lies over its own descriptor: saving the task writes EAX and ECX there, which were loaded from it when it
// was not busy, so that it can be switched to any number of times.
static void recurring_task(struct machine *m, unsigned selector, uint16_t cs)
{
    uint32_t base = GDT + selector - 40;
    poke64(m, GDT + selector, 0x67 | (uint64_t)(base & 0xffff) << 16 | (uint64_t)0x89 << 40);
    poke32(m, base + 36, 2);
    poke32(m, base + 76, cs);
}

// Two tasks that fail to load, each with an exception that leads to the other.
static void test_tasks_for_ever(void **state)
{
    struct machine *m = *state;
    machine_protected_mode(m);
    m->cpu.gdtr.limit = 0xfff;
    poke64(m, GDT + ABSENT_CODE, 0x00cf1b000000ffff);
    recurring_task(m, TASK_B, 0);                   // #TS
    recurring_task(m, TASK_C, ABSENT_CODE);         // #NP
    poke64(m, IDT + X86_TS * 8, (uint64_t)TASK_C << 16 | (uint64_t)0x85 << 40);
    poke64(m, IDT + X86_NP * 8, (uint64_t)TASK_B << 16 | (uint64_t)0x85 << 40);
    x86_fault(&m->cpu, X86_NP, 0);
    assert_int_equal(x86_deliver_exception(&m->cpu), X86_LEAVE_SHUTDOWN);
    assert_int_equal(m->cpu.task_switches, 0);
    assert_true(m->exceptions > 4);                 // it did go from one to the other
}

// ---- Translations -----------------------------------------------------------------------------------------

// With a data breakpoint on, both privileges share a TLB set.
static void test_breakpoint_and_privilege(void **state)
{
    struct machine *m = *state;
    machine_long_mode(m);
    poke64(m, 0x3000, 0x0083);          // for the supervisor alone
    m->cpu.dr7 = 0x10401;
    m->cpu.dr[0] = 0x50000;
    x86_settle_state(&m->cpu);
    assert_non_null(x86_fetch_pointer(&m->cpu, 0x20000));
    m->cpu.cpl = 3;
    x86_update_mode(&m->cpu);
    assert_null(x86_fetch_pointer(&m->cpu, 0x20000));
    assert_int_equal(m->cpu.exception.vector, X86_PFV);
}

// ---- Stacks -----------------------------------------------------------------------------------------------

// What makes several accesses and fails at a later one leaves the stack pointer where it was.
static void test_stack_pointer(void **state)
{
    static const uint8_t codes[][4] = { { 0x60 }, { 0x61 }, { 0xc8, 16, 0, 3 }, { 0xc9 }, { 0x8f, 0x03 } };
    static const uint64_t stacks[] = { RAM_SIZE + 8, RAM_SIZE - 8, RAM_SIZE + 8, 0x70000, 0x70000 };
    struct machine *m = *state;
    for (unsigned n = 0; n < sizeof codes / sizeof *codes; n++) {
        machine_protected_mode(m);
        m->cpu.slot[X86_RSP] = stacks[n];
        m->cpu.slot[X86_RBP] = m->cpu.slot[X86_RBX] = RAM_SIZE;
        assert_int_equal(machine_run(m, codes[n], sizeof codes[n]), X86_LEAVE_EXIT);
        assert_int_equal(m->cpu.exit.kind, X86_EXIT_MEMORY);
        assert_int_equal(m->cpu.slot[X86_RSP], stacks[n]);
        assert_int_equal(m->cpu.slot[X86_RBP], RAM_SIZE);
        assert_int_equal(m->cpu.rip, 0x20000);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, machine_setup, machine_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_alignment_for_ever),
        TEST(test_tasks_for_ever),
        TEST(test_breakpoint_and_privilege),
        TEST(test_stack_pointer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
