// A processor with 1 MiB of memory and nothing around it, for tests of src/x86 alone.
#ifndef BULKHEAD_TESTS_X86_MACHINE_H
#define BULKHEAD_TESTS_X86_MACHINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "x86/code.h"
#include "x86/cpu.h"
#include "x86/decode.h"
#include "x86/system.h"

#define RAM_SIZE 0x100000u

struct machine {
    struct x86_cpu cpu;
    uint8_t ram[RAM_SIZE] __attribute__((aligned(4096)));
    bool read_only[RAM_SIZE / 4096];
    bool watched[RAM_SIZE / 4096];
    unsigned written[RAM_SIZE / 4096];      // how often the processor told of a write to a watched page
    unsigned exceptions;            // asked for by the processor
    struct x86_exception last;
    uint64_t cr8;
};

static inline struct machine *machine_of(struct x86_cpu *cpu) { return cpu->platform; }

static void machine_page(struct x86_cpu *cpu, uint64_t gpa, struct x86_page *page)
{
    struct machine *m = machine_of(cpu);
    *page = (struct x86_page){ 0 };
    if (gpa < RAM_SIZE)
        *page = (struct x86_page){ .host = m->ram + gpa, .read = true, .execute = true,
                                   .write = !m->read_only[gpa >> 12], .watched = m->watched[gpa >> 12] };
}

static void machine_written(struct x86_cpu *cpu, uint64_t gpa) { machine_of(cpu)->written[gpa >> 12]++; }

static enum x86_answer machine_cpuid(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    x86_cpuid(cpu, leaf, subleaf, out);
    return X86_DONE;
}

static enum x86_answer machine_read_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t *value)
{
    (void)cpu, (void)msr, (void)value;
    return X86_FAULT_GP;
}

static enum x86_answer machine_write_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    (void)cpu, (void)msr, (void)value;
    return X86_FAULT_GP;
}

static uint64_t machine_read_cr8(struct x86_cpu *cpu) { return machine_of(cpu)->cr8; }
static void machine_write_cr8(struct x86_cpu *cpu, uint64_t value) { machine_of(cpu)->cr8 = value; }

static enum x86_answer machine_exception(struct x86_cpu *cpu, const struct x86_exception *exception)
{
    machine_of(cpu)->exceptions++;
    machine_of(cpu)->last = *exception;
    return X86_DONE;
}

static const struct x86_bus machine_bus = {
    .page = machine_page, .written = machine_written, .cpuid = machine_cpuid,
    .read_msr = machine_read_msr, .write_msr = machine_write_msr,
    .read_cr8 = machine_read_cr8, .write_cr8 = machine_write_cr8, .exception = machine_exception,
};

static inline void poke64(struct machine *m, uint64_t gpa,
                          uint64_t value) { memcpy(m->ram + gpa, &value, 8); }
static inline void poke32(struct machine *m, uint64_t gpa,
                          uint32_t value) { memcpy(m->ram + gpa, &value, 4); }
static inline uint64_t peek64(const struct machine *m, uint64_t gpa)
{
    uint64_t value;
    memcpy(&value, m->ram + gpa, 8);
    return value;
}
static inline uint32_t peek32(const struct machine *m, uint64_t gpa) { return (uint32_t)peek64(m, gpa); }

static inline int machine_setup(void **state)
{
    struct machine *m = aligned_alloc(4096, (sizeof *m + 4095) & ~(size_t)4095);
    if (!m)
        return -1;
    memset(m, 0, sizeof *m);
    m->cpu.bus = &machine_bus;
    m->cpu.platform = m;
    m->cpu.generation = 1;
    m->cpu.tlb_epoch = 1;
    m->cpu.physical_bits = 40;
    m->cpu.processor_count = 1;
    m->cpu.mtrr_cap = 0x508;
    x86_default_features(m->cpu.features);
    m->cpu.code = x86_code_new();
    x86_reset(&m->cpu);
    *state = m;
    return m->cpu.code ? 0 : -1;
}

static inline int machine_teardown(void **state)
{
    struct machine *m = *state;
    x86_code_free(m->cpu.code);
    free(m);
    return 0;
}

// ---- Long mode with flat segments: tables at 0x1000, GDT at 0x8000, IDT at 0x9000, TSS at 0xa000 ----------

#define GDT 0x8000u
#define IDT 0x9000u
#define TSS 0xa000u
#define CODE64_SELECTOR 0x08
#define DATA_SELECTOR 0x10
#define USER_DATA_SELECTOR 0x1b
#define USER_CODE64_SELECTOR 0x23
#define USER_CODE32_SELECTOR 0x2b
#define CODE32_SELECTOR 0x30
#define TSS_SELECTOR 0x40

static inline void set_segment(struct x86_cpu *cpu, unsigned s, uint16_t selector, uint32_t limit,
                               uint16_t attributes)
{
    cpu->slot[X86_SLOT_SEGMENT + s] = 0;
    cpu->segment[s] = (struct x86_segment){ .limit = limit, .selector = selector, .attributes = attributes };
}

static inline void machine_tables(struct machine *m)
{
    struct x86_cpu *cpu = &m->cpu;
    static const uint64_t gdt[] = {
        0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, 0x00cffb000000ffff,
        0x00cf9b000000ffff, 0, 0x00008b000000ffff | (uint64_t)TSS << 16, 0,
    };
    memcpy(m->ram + GDT, gdt, sizeof gdt);
    cpu->gdtr = (struct x86_table){ .base = GDT, .limit = sizeof gdt - 1 };
    cpu->idtr = (struct x86_table){ .base = IDT, .limit = 0xfff };
    set_segment(cpu, X86_TR, TSS_SELECTOR, 0xffff, 0x8b);
    cpu->slot[X86_SLOT_SEGMENT + X86_TR] = TSS;
    set_segment(cpu, X86_LDTR, 0, 0, 0);
}

static inline void machine_long_mode(struct machine *m)
{
    struct x86_cpu *cpu = &m->cpu;
    machine_tables(m);
    poke64(m, 0x1000, 0x2007);          // the first MiB, at its own address, for everyone
    poke64(m, 0x2000, 0x3007);
    poke64(m, 0x3000, 0x0087);
    cpu->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_WP;
    cpu->cr4 = X86_CR4_PAE;
    cpu->cr3 = 0x1000;
    cpu->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE | X86_EFER_NXE;
    set_segment(cpu, X86_CS, CODE64_SELECTOR, 0xffffffff, 0xa09b);
    for (unsigned s = 0; s < X86_LDTR; s++)
        if (s != X86_CS)
            set_segment(cpu, s, DATA_SELECTOR, 0xffffffff, 0xc093);
    cpu->slot[X86_RSP] = 0x70000;
    cpu->rip = 0x20000;
    x86_settle_state(cpu);
}

static inline void machine_protected_mode(struct machine *m)
{
    struct x86_cpu *cpu = &m->cpu;
    machine_tables(m);
    cpu->cr0 = X86_CR0_PE | X86_CR0_ET;
    set_segment(cpu, X86_CS, CODE32_SELECTOR, 0xffffffff, 0xc09b);
    for (unsigned s = 0; s < X86_LDTR; s++)
        if (s != X86_CS)
            set_segment(cpu, s, DATA_SELECTOR, 0xffffffff, 0xc093);
    cpu->slot[X86_RSP] = 0x70000;
    cpu->rip = 0x20000;
    x86_settle_state(cpu);
}

// Privilege 3 with 64-bit (or 32-bit) code.
static inline void machine_user(struct machine *m, bool code64)
{
    struct x86_cpu *cpu = &m->cpu;
    if (code64)
        set_segment(cpu, X86_CS, USER_CODE64_SELECTOR, 0xffffffff, 0xa0fb);
    else
        set_segment(cpu, X86_CS, USER_CODE32_SELECTOR, 0xffffffff, 0xc0fb);
    set_segment(cpu, X86_SS, USER_DATA_SELECTOR, 0xffffffff, 0xc0f3);
    x86_settle_state(cpu);
}

static inline void gate64(struct machine *m, unsigned vector, uint64_t to, unsigned type, unsigned dpl,
                          unsigned ist)
{
    poke64(m, IDT + vector * 16, (to & 0xffff) | CODE64_SELECTOR << 16 | (uint64_t)ist << 32
           | (uint64_t)(0x80 | dpl << 5 | type) << 40 | (to >> 16 & 0xffff) << 48);
    poke64(m, IDT + vector * 16 + 8, to >> 32);
}

static inline void gate32(struct machine *m, unsigned vector, uint32_t to, unsigned type, unsigned dpl)
{
    poke64(m, IDT + vector * 8, (to & 0xffff) | CODE32_SELECTOR << 16
           | (uint64_t)(0x80 | dpl << 5 | type) << 40
           | (uint64_t)(to >> 16) << 48);
}

// Put code at RIP and run one block of it.
static inline enum x86_leave machine_run(struct machine *m, const void *code, size_t size)
{
    memcpy(m->ram + m->cpu.rip, code, size);
    atomic_fetch_add(&m->cpu.generation, 1);
    m->cpu.budget = 0;
    return x86_run(&m->cpu, m->cpu.generation);
}

#endif
