// Privileged state: CPUID, MSRs, control registers, segment loads, exceptions, far transfers, system calls.
#include "x86_machine.h"

#define RUN(m, ...) machine_run(m, (const uint8_t[]){ __VA_ARGS__ }, sizeof (const uint8_t[]){ __VA_ARGS__ })

static void assert_raised(struct machine *m, unsigned vector, int64_t error)
{
    assert_int_equal(m->cpu.leave, X86_LEAVE_EXCEPTION);
    assert_int_equal(m->cpu.exception.vector, vector);
    assert_int_equal(m->cpu.exception.has_error, error >= 0);
    if (error >= 0)
        assert_int_equal(m->cpu.exception.error, error);
}

// ---- CPUID, MSRs ------------------------------------------------------------------------------------------

static void test_cpuid(void **state)
{
    struct machine *m = *state;
    uint32_t out[4];
    char text[49] = { 0 };
    x86_cpuid(&m->cpu, 0, 0, out);
    memcpy(text, &out[1], 4);
    memcpy(text + 4, &out[3], 4);
    memcpy(text + 8, &out[2], 4);
    assert_string_equal(text, "AuthenticAMD");
    x86_cpuid(&m->cpu, 1, 0, out);
    assert_int_equal((out[0] >> 8 & 0xf) + (out[0] >> 20 & 0xff), 0x1a);
    assert_true(out[3] & 1u << 26);         // SSE2
    assert_false(out[2] & 1u << 31);        // no hypervisor
    assert_false(out[2] & 1u << 3);         // no MONITOR
    assert_false(out[3] & 1u << 28);
    m->cpu.processor_count = 3;
    m->cpu.apic_id = 2;
    x86_cpuid(&m->cpu, 1, 0, out);
    assert_true(out[3] & 1u << 28);
    assert_int_equal(out[1] >> 24, 2);
    x86_cpuid(&m->cpu, 0xb, 1, out);
    assert_int_equal(out[0], 2);
    assert_int_equal(out[1], 3);
    assert_int_equal(out[3], 2);
    x86_cpuid(&m->cpu, 0x40000000, 0, out);
    assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
    x86_cpuid(&m->cpu, 0x80000008, 0, out);
    assert_int_equal(out[0], 0x3028);
    for (unsigned n = 0; n < 3; n++) {
        x86_cpuid(&m->cpu, 0x80000002 + n, 0, out);
        memcpy(text + 16 * n, out, 16);
    }
    assert_string_equal(text, "Bulkhead");
}

static void test_msrs(void **state)
{
    struct machine *m = *state;
    uint64_t value;
    assert_int_equal(x86_write_msr(&m->cpu, 0x277, 0x0007010600070106), X86_DONE);
    assert_int_equal(x86_write_msr(&m->cpu, 0x277, 0x0002010600070106), X86_FAULT_GP);
    assert_int_equal(m->cpu.pat, 0x0007010600070106);
    assert_int_equal(x86_write_msr(&m->cpu, 0xc0000100, 0x800000000000), X86_FAULT_GP);
    assert_int_equal(x86_write_msr(&m->cpu, 0xc0000100, 0xffff800000000000), X86_DONE);
    assert_int_equal(m->cpu.slot[X86_SLOT_SEGMENT + X86_FS], 0xffff800000000000);
    // SYSENTER_ESP takes any value and holds an address, so that what it holds can be set by name.
    assert_int_equal(x86_write_msr(&m->cpu, 0x175, 0x7000800000001234), X86_DONE);
    assert_int_equal(x86_read_msr(&m->cpu, 0x175, &value), X86_DONE);
    assert_int_equal(value, 0xffff800000001234);

    assert_int_equal(x86_write_msr(&m->cpu, 0xc0000080, 0x10000), X86_FAULT_GP);
    assert_int_equal(x86_write_msr(&m->cpu, 0xc0000080, X86_EFER_LME | X86_EFER_LMA), X86_DONE);
    assert_int_equal(m->cpu.efer, X86_EFER_LME);
    assert_int_equal(x86_write_msr(&m->cpu, 0x200, 0x2), X86_FAULT_GP);
    assert_int_equal(x86_write_msr(&m->cpu, 0x201, 0xff00000800), X86_DONE);
    assert_int_equal(x86_write_msr(&m->cpu, 0x210, 0), X86_FAULT_GP);
    assert_int_equal(x86_write_msr(&m->cpu, 0xfe, 0), X86_FAULT_GP);
    assert_int_equal(x86_read_msr(&m->cpu, 0xfe, &value), X86_DONE);
    assert_int_equal(value, 0x508);
    assert_int_equal(x86_read_msr(&m->cpu, 0x1a0, &value), X86_FAULT_GP);
}

// ---- Control registers ------------------------------------------------------------------------------------

static void test_control_registers(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    machine_protected_mode(m);
    assert_false(x86_write_cr(cpu, 0, X86_CR0_PG));
    assert_false(x86_write_cr(cpu, 0, X86_CR0_PE | X86_CR0_NW));
    assert_false(x86_write_cr(cpu, 0, 1ull << 32 | X86_CR0_PE));
    assert_false(x86_write_cr(cpu, 4, X86_CR4_VME));
    assert_false(x86_write_cr(cpu, 4, X86_CR4_OSXSAVE));
    assert_false(x86_write_cr(cpu, 8, 16));
    assert_true(x86_write_cr(cpu, 8, 15));
    assert_int_equal(m->cr8, 15);
    // Into long mode only with PAE.
    assert_int_equal(x86_write_msr(cpu, 0xc0000080, X86_EFER_LME), X86_DONE);
    assert_false(x86_write_cr(cpu, 0, X86_CR0_PE | X86_CR0_PG));
    assert_true(x86_write_cr(cpu, 4, X86_CR4_PAE));
    assert_true(x86_write_cr(cpu, 0, X86_CR0_PE | X86_CR0_PG));
    assert_true(cpu->efer & X86_EFER_LMA);
    assert_false(x86_write_cr(cpu, 4, 0));
    assert_false(x86_write_cr(cpu, 3, 1ull << 40));
    assert_int_equal(x86_write_msr(cpu, 0xc0000080, 0), X86_FAULT_GP);
    assert_true(x86_write_cr(cpu, 0, X86_CR0_PE));
    assert_false(cpu->efer & X86_EFER_LMA);
}

static void test_state_valid(void **state)
{
    struct machine *m = *state;
    assert_true(x86_state_valid(&m->cpu, 0, 0));
    machine_long_mode(m);
    assert_true(x86_state_valid(&m->cpu, 0, 0));
    m->cpu.segment[X86_CS].attributes |= X86_SEG_DB;
    assert_false(x86_state_valid(&m->cpu, 0, 0));
    machine_long_mode(m);
    m->cpu.cr4 = 0;
    assert_false(x86_state_valid(&m->cpu, 0, 0));
    machine_long_mode(m);
    m->cpu.xcr0 = 0;
    assert_false(x86_state_valid(&m->cpu, 0, 0));
}

// ---- Segments ---------------------------------------------------------------------------------------------

static void test_load_segment(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    machine_protected_mode(m);
    poke64(m, GDT + DATA_SELECTOR, 0x00cf92000000ffff);         // not accessed yet
    assert_true(x86_load_segment(cpu, X86_DS, DATA_SELECTOR));
    assert_int_equal(peek64(m, GDT + DATA_SELECTOR), 0x00cf93000000ffff);
    assert_int_equal(cpu->segment[X86_DS].limit, 0xffffffff);
    assert_false(x86_load_segment(cpu, X86_DS, 0x1000));
    assert_raised(m, X86_GP, 0x1000);
    assert_false(x86_load_segment(cpu, X86_SS, 0));
    assert_raised(m, X86_GP, 0);
    assert_false(x86_load_segment(cpu, X86_SS, USER_DATA_SELECTOR));
    assert_raised(m, X86_GP, USER_DATA_SELECTOR & ~3);
    poke64(m, GDT + DATA_SELECTOR, 0x00cf13000000ffff);
    assert_false(x86_load_segment(cpu, X86_DS, DATA_SELECTOR));
    assert_raised(m, X86_NP, DATA_SELECTOR);
    assert_false(x86_load_segment(cpu, X86_SS, DATA_SELECTOR));
    assert_raised(m, X86_SSF, DATA_SELECTOR);
    assert_true(x86_load_segment(cpu, X86_ES, 3));
    assert_int_equal(cpu->segment[X86_ES].attributes, 0);
    assert_false(x86_load_segment(cpu, X86_DS, 0x14));          // no LDT
    assert_raised(m, X86_GP, 0x14);
}

static void test_port_permission(void **state)
{
    struct machine *m = *state;
    machine_long_mode(m);
    assert_true(x86_io_permitted(&m->cpu, 0x60, 1));
    machine_user(m, true);
    poke64(m, TSS + 0x66, 0x68);
    memset(m->ram + TSS + 0x68, 0xff, 0x100);
    assert_false(x86_io_permitted(&m->cpu, 0x60, 1));
    m->ram[TSS + 0x68 + 0x60 / 8] = 0xfe;
    assert_true(x86_io_permitted(&m->cpu, 0x60, 1));
    assert_false(x86_io_permitted(&m->cpu, 0x60, 2));
    m->cpu.rflags |= X86_IOPL;
    assert_true(x86_io_permitted(&m->cpu, 0x61, 2));
}

// ---- Exceptions -------------------------------------------------------------------------------------------

static void test_long_delivery(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    machine_long_mode(m);
    machine_user(m, true);
    poke64(m, TSS + 4, 0x60008);
    gate64(m, X86_GP, 0x30000, 14, 0, 0);
    cpu->slot[X86_RSP] = 0x12345;
    x86_set_rflags(cpu, X86_IF | X86_CF | X86_TF | X86_AC);
    x86_fault(cpu, X86_GP, 0x18);
    assert_int_equal(x86_deliver_exception(cpu), X86_LEAVE_LOOKUP);
    assert_int_equal(cpu->rip, 0x30000);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->segment[X86_SS].selector, 0);
    assert_int_equal(cpu->slot[X86_RSP], 0x60000 - 48);
    const uint64_t *frame = (const uint64_t *)(m->ram + 0x60000 - 48);
    assert_int_equal(frame[0], 0x18);
    assert_int_equal(frame[1], 0x20000);
    assert_int_equal(frame[2], USER_CODE64_SELECTOR);
    assert_int_equal(frame[3], X86_IF | X86_CF | X86_TF | X86_AC | X86_RF | 2);
    assert_int_equal(frame[4], 0x12345);
    assert_int_equal(frame[5], USER_DATA_SELECTOR);
    assert_int_equal(x86_get_rflags(cpu), X86_CF | X86_AC | 2);

    // and back
    cpu->slot[X86_RSP] += 8;
    assert_true(x86_interrupt_return(cpu, 8, 0));
    assert_int_equal(cpu->rip, 0x20000);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->slot[X86_RSP], 0x12345);
    assert_int_equal(cpu->segment[X86_SS].selector, USER_DATA_SELECTOR);
    assert_int_equal(x86_get_rflags(cpu), X86_IF | X86_CF | X86_TF | X86_AC | X86_RF | 2);
}

static void test_stack_table(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    struct x86_exception nmi = { .vector = X86_NMI };
    machine_long_mode(m);
    gate64(m, X86_NMI, 0x30000, 14, 0, 2);
    poke64(m, TSS + 0x24 + 8, 0x50000);
    assert_int_equal(x86_deliver_event(cpu, &nmi, true), X86_LEAVE_LOOKUP);
    assert_int_equal(cpu->slot[X86_RSP], 0x50000 - 40);
    assert_int_equal(cpu->segment[X86_SS].selector, DATA_SELECTOR);
    assert_int_equal(cpu->nmi_blocked, 1);
    assert_true(x86_interrupt_return(cpu, 8, 0));
    assert_int_equal(cpu->nmi_blocked, 0);
    assert_int_equal(cpu->slot[X86_RSP], 0x70000);
}

static void test_double_fault(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    machine_long_mode(m);
    gate64(m, X86_DF_FAULT, 0x30000, 14, 0, 0);
    x86_fault(cpu, X86_GP, 0);              // its gate is not present, which is #NP: contributory twice
    gate64(m, X86_GP, 0x30000, 14, 0, 0);
    m->ram[IDT + X86_GP * 16 + 5] = 0x0e;
    assert_int_equal(x86_deliver_exception(cpu), X86_LEAVE_LOOKUP);
    assert_int_equal(m->last.vector, X86_DF_FAULT);
    assert_int_equal(cpu->rip, 0x30000);
    assert_int_equal(peek64(m, cpu->slot[X86_RSP]), 0);

    cpu->slot[X86_RSP] = 0x70000;
    m->ram[IDT + X86_DF_FAULT * 16 + 5] = 0x0e;
    x86_fault(cpu, X86_GP, 0);
    assert_int_equal(x86_deliver_exception(cpu), X86_LEAVE_SHUTDOWN);
}

static void test_benign_then_fault(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    struct x86_exception event = { .vector = 0x40 };
    machine_long_mode(m);
    gate64(m, X86_GP, 0x30000, 14, 0, 0);
    assert_int_equal(x86_deliver_event(cpu, &event, true), X86_LEAVE_LOOKUP);
    assert_int_equal(m->last.vector, X86_GP);
    assert_int_equal(peek64(m, cpu->slot[X86_RSP]), 0x40 * 8 + 3);      // IDT and EXT
}

static void test_delivery_without_memory(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    struct x86_exception event = { .vector = 0x40 };
    machine_long_mode(m);
    gate64(m, 0x40, 0x30000, 14, 0, 0);
    cpu->slot[X86_RSP] = 0x180000;          // mapped, with nothing behind it
    assert_int_equal(x86_deliver_event(cpu, &event, true), X86_LEAVE_EXIT);
    assert_int_equal(cpu->exit.kind, X86_EXIT_MEMORY);
    assert_int_equal(cpu->exception.vector, 0x40);
    assert_int_equal(cpu->rip, 0x20000);
    assert_int_equal(cpu->slot[X86_RSP], 0x180000);
}

static void test_protected_delivery(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    machine_protected_mode(m);
    machine_user(m, false);
    poke32(m, TSS + 4, 0x60000);
    poke32(m, TSS + 8, DATA_SELECTOR);
    gate32(m, X86_PFV, 0x30000, 15, 0);
    x86_set_rflags(cpu, X86_IF);
    x86_fault(cpu, X86_PFV, 6);
    cpu->exception.address = 0xdead000;
    assert_int_equal(x86_deliver_exception(cpu), X86_LEAVE_LOOKUP);
    assert_int_equal(cpu->cr2, 0xdead000);
    assert_int_equal(cpu->slot[X86_RSP], 0x60000 - 24);
    assert_int_equal(cpu->segment[X86_SS].selector, DATA_SELECTOR);
    assert_true(cpu->rflags & X86_IF);      // a trap gate
    assert_int_equal(peek32(m, 0x60000 - 24), 6);
    assert_int_equal(peek32(m, 0x60000 - 8), 0x70000);
    cpu->slot[X86_RSP] += 4;
    assert_true(x86_interrupt_return(cpu, 4, 0));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->slot[X86_RSP], 0x70000);
}

static void test_virtual_8086(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    machine_protected_mode(m);
    // IRET to virtual-8086 mode: EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS
    const uint32_t frame[] = { 0x100, 0x2000, X86_VM | X86_IF | 2, 0x800, 0x3000, 1, 2, 3, 4 };
    memcpy(m->ram + 0x6ff00, frame, sizeof frame);
    cpu->slot[X86_RSP] = 0x6ff00;
    assert_true(x86_interrupt_return(cpu, 4, 0));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->slot[X86_SLOT_SEGMENT + X86_CS], 0x20000);
    assert_int_equal(cpu->slot[X86_RSP], 0x800);
    assert_int_equal(cpu->segment[X86_GS].selector, 4);
    // and out of it by an interrupt
    poke32(m, TSS + 4, 0x60000);
    poke32(m, TSS + 8, DATA_SELECTOR);
    gate32(m, 0x20, 0x30000, 14, 0);
    struct x86_exception event = { .vector = 0x20 };
    assert_int_equal(x86_deliver_event(cpu, &event, true), X86_LEAVE_LOOKUP);
    assert_int_equal(cpu->cpl, 0);
    assert_false(cpu->rflags & (X86_VM | X86_IF));
    assert_int_equal(cpu->slot[X86_RSP], 0x60000 - 36);
    assert_memory_equal(m->ram + 0x60000 - 36, frame, sizeof frame);
    assert_int_equal(cpu->segment[X86_DS].attributes, 0);
}

static void test_real_interrupt(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    cpu->rip = 0x500;
    cpu->segment[X86_CS].selector = 0;
    cpu->slot[X86_SLOT_SEGMENT + X86_CS] = 0;
    cpu->slot[X86_RSP] = 0x7000;
    poke32(m, 0x21 * 4, 0x12340056);
    x86_set_rflags(cpu, X86_IF);
    RUN(m, 0xcd, 0x21);
    assert_int_equal(cpu->rip, 0x56);
    assert_int_equal(cpu->slot[X86_SLOT_SEGMENT + X86_CS], 0x12340);
    assert_int_equal(peek64(m, 0x6ffa) & 0xffffffffffff, 0x020200000502);
    assert_false(cpu->rflags & X86_IF);
    assert_true(x86_interrupt_return(cpu, 2, 0));
    assert_int_equal(cpu->rip, 0x502);
    assert_true(cpu->rflags & X86_IF);
}

// ---- Instructions -----------------------------------------------------------------------------------------

static void test_software_interrupts(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    machine_long_mode(m);
    machine_user(m, true);
    poke64(m, TSS + 4, 0x60000);
    gate64(m, 0x80, 0x30000, 14, 3, 0);
    gate64(m, 0x81, 0x30000, 14, 0, 0);
    gate64(m, X86_GP, 0x31000, 14, 0, 0);
    RUN(m, 0xcd, 0x80);
    assert_int_equal(cpu->rip, 0x30000);
    assert_int_equal(peek64(m, cpu->slot[X86_RSP]), 0x20002);
    cpu->rip = 0x20000;
    machine_user(m, true);
    RUN(m, 0xcd, 0x81);
    assert_int_equal(cpu->rip, 0x31000);
    assert_int_equal(peek64(m, cpu->slot[X86_RSP]), 0x81 * 8 + 2);
    assert_int_equal(peek64(m, cpu->slot[X86_RSP] + 8), 0x20000);
    cpu->rip = 0x20000;
    machine_user(m, true);
    assert_int_equal(RUN(m, 0xcc), X86_LEAVE_EXCEPTION);
    assert_raised(m, X86_BP, -1);
    assert_int_equal(cpu->rip, 0x20000);
    gate64(m, X86_BP, 0x32000, 14, 3, 0);
    assert_int_equal(x86_deliver_exception(cpu), X86_LEAVE_LOOKUP);
    assert_int_equal(peek64(m, cpu->slot[X86_RSP]), 0x20001);
}

static void test_system_call(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    machine_long_mode(m);
    machine_user(m, true);
    cpu->star = 0x0018000800000000ull;
    cpu->lstar = 0x40000;
    cpu->sfmask = X86_IF;
    x86_set_rflags(cpu, X86_IF | X86_ZF);
    RUN(m, 0x0f, 0x05);
    assert_int_equal(cpu->rip, 0x40000);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->slot[X86_RCX], 0x20002);
    assert_int_equal(cpu->slot[X86_R11], X86_IF | X86_ZF | 2);
    assert_int_equal(x86_get_rflags(cpu), X86_ZF | 2);
    assert_int_equal(cpu->segment[X86_CS].selector, 8);
    RUN(m, 0x48, 0x0f, 0x07);
    assert_int_equal(cpu->rip, 0x20002);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->segment[X86_CS].selector, 0x2b);
    assert_int_equal(cpu->segment[X86_SS].selector, 0x23);
    assert_int_equal(x86_get_rflags(cpu), X86_IF | X86_ZF | 2);
    assert_int_equal(RUN(m, 0x0f, 0x34), X86_LEAVE_EXCEPTION);
    assert_raised(m, X86_UD, -1);
}

static void test_far_transfers(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    machine_long_mode(m);
    // A far return to user mode and compatibility code.
    const uint64_t frame[] = { 0x20100, USER_CODE32_SELECTOR, 0x65000, USER_DATA_SELECTOR };
    memcpy(m->ram + 0x6ff00, frame, sizeof frame);
    cpu->slot[X86_RSP] = 0x6ff00;
    RUN(m, 0x48, 0xcb);
    assert_int_equal(cpu->rip, 0x20100);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->slot[X86_RSP], 0x65000);
    assert_int_equal(cpu->mode & X86_MODE_CODE, X86_MODE_CODE32);
    assert_int_equal(cpu->segment[X86_DS].attributes, 0);       // privilege 0's
    // A call gate back to privilege 0.
    poke64(m, GDT + 0x48, 0);
    poke64(m, GDT + 0x30, 0x0000ec0000080000ull | 0x3);         // offset 0x3 of selector 8
    poke64(m, GDT + 0x38, 0);
    poke64(m, TSS + 4, 0x60000);
    RUN(m, 0x9a, 0, 0, 0, 0, 0x33, 0);
    assert_int_equal(cpu->rip, 3);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->slot[X86_RSP], 0x60000 - 32);
    assert_int_equal(peek64(m, 0x60000 - 32), 0x20107);
    assert_int_equal(peek64(m, 0x60000 - 8), USER_DATA_SELECTOR);
}

static void test_privileged(void **state)
{
    struct machine *m = *state;
    static const uint8_t codes[][3] = {
        { 0xf4 }, { 0x0f, 0x06 }, { 0x0f, 0x30 }, { 0x0f, 0x32 }, { 0x0f, 0x22, 0xd8 }, { 0x0f, 0x20, 0xd8 },
        { 0x0f, 0x23, 0xf8 }, { 0x0f, 0x09 }, { 0x0f, 0x08 }, { 0xfa }, { 0xfb }, { 0x0f, 0x33 },
        { 0x0f, 0x00, 0xd8 },
    };
    machine_long_mode(m);
    machine_user(m, true);
    for (unsigned n = 0; n < sizeof codes / sizeof *codes; n++) {
        assert_int_equal(machine_run(m, codes[n], 3), X86_LEAVE_EXCEPTION);
        assert_raised(m, X86_GP, 0);
        assert_int_equal(m->cpu.rip, 0x20000);
    }
}

static void test_shadow_and_halt(void **state)
{
    struct machine *m = *state;
    machine_long_mode(m);
    RUN(m, 0xfb, 0xf4);
    assert_int_equal(m->cpu.interrupt_shadow, 1);
    assert_int_equal(m->cpu.rip, 0x20001);
    assert_int_equal(x86_run(&m->cpu, m->cpu.generation), X86_LEAVE_HALT);
    assert_int_equal(m->cpu.rip, 0x20002);
}

static void test_task_switch(void **state)
{
    struct machine *m = *state;
    struct x86_cpu *cpu = &m->cpu;
    machine_protected_mode(m);
    poke64(m, GDT + 0x38, 0x000089000000ffff | 0xb000ull << 16);
    uint32_t image[26] = { 0 };
    image[8] = 0x30000;                     // EIP
    image[9] = 2;
    image[14] = 0x61000;                    // ESP
    image[18] = image[20] = image[21] = image[22] = image[23] = DATA_SELECTOR;
    image[19] = CODE32_SELECTOR;
    memcpy(m->ram + 0xb000, image, sizeof image);
    RUN(m, 0x9a, 0, 0, 0, 0, 0x38, 0);
    assert_int_equal(cpu->rip, 0x30000);
    assert_int_equal(cpu->slot[X86_RSP], 0x61000);
    assert_int_equal(cpu->segment[X86_TR].selector, 0x38);
    assert_true(cpu->rflags & X86_NT);
    assert_int_equal(peek32(m, 0xb000), TSS_SELECTOR);
    assert_int_equal(m->ram[GDT + 0x38 + 5], 0x8b);
    assert_int_equal(peek32(m, TSS + 0x20), 0x20007);
    RUN(m, 0xcf);
    assert_int_equal(cpu->rip, 0x20007);
    assert_int_equal(cpu->segment[X86_TR].selector, TSS_SELECTOR);
    assert_int_equal(m->ram[GDT + 0x38 + 5], 0x89);
    assert_int_equal(cpu->slot[X86_RSP], 0x70000);
}

// INVLPG drops all of a large page.
static void test_invalidate_large(void **state)
{
    struct machine *m = *state;
    uint32_t value;
    machine_long_mode(m);
    poke64(m, 0x3008, 0x0087);              // the second 2 MiB: the same memory
    poke64(m, 0x90000, 1);
    assert_true(x86_read_linear(&m->cpu, 0x290000, &value, 4, X86_READ));
    assert_int_equal(value, 1);
    poke64(m, 0x3008, 0);
    assert_true(x86_read_linear(&m->cpu, 0x290000, &value, 4, X86_READ));      // still known
    m->cpu.slot[X86_RBX] = 0x200000;
    RUN(m, 0x0f, 0x01, 0x3b);               // INVLPG [RBX]: another 4 KiB of the same page
    assert_false(x86_read_linear(&m->cpu, 0x290000, &value, 4, X86_READ));
    assert_raised(m, X86_PFV, 0);
    assert_true(x86_read_linear(&m->cpu, 0x90000, &value, 4, X86_READ));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cpuid, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_msrs, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_control_registers, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_state_valid, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_load_segment, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_port_permission, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_long_delivery, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_stack_table, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_double_fault, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_benign_then_fault, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_delivery_without_memory, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_protected_delivery, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_virtual_8086, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_real_interrupt, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_software_interrupts, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_system_call, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_far_transfers, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_privileged, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_shadow_and_halt, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_invalidate_large, machine_setup, machine_teardown),
        cmocka_unit_test_setup_teardown(test_task_switch, machine_setup, machine_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
