// Guests in protected and long mode, put there by registers alone, in the 16 pages that guest() maps.
//
// Long mode maps the first 2 MiB by 4 KiB pages and the second by one large page, each to itself.
#ifndef BULKHEAD_TESTS_API_MODES_H
#define BULKHEAD_TESTS_API_MODES_H

#include "api.h"

#define HANDLER 0x2000u     // code of the exception handlers
#define DATA 0x3000u
#define PML4 0x8000u        // the page tables: four pages from here on
#define PDPT 0x9000u
#define PD 0xA000u
#define PT 0xB000u
#define IDT 0xC000u
#define HOLE 0xD000u        // a page that tests unmap
#define STACK 0xF000u       // its top: the page below
#define GDT 0xF000u
#define TSS 0xF800u

#define CODE_SELECTOR 0x08u
#define DATA_SELECTOR 0x10u
#define USER_CODE_SELECTOR 0x1Bu
#define USER_DATA_SELECTOR 0x23u

#define CODE32 0xC09B       // attributes of flat segments
#define DATA32 0xC093
#define CODE64 0xA09B
#define BUSY_TSS 0x008B

#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_A 0x20u
#define PTE_D 0x40u
#define PTE_PS 0x80u

static inline void put64(uint8_t *memory, UINT64 gpa, UINT64 value) { memcpy(memory + gpa, &value, 8); }

static inline UINT64 peek64(const uint8_t *memory, UINT64 gpa)
{
    UINT64 value;

    memcpy(&value, memory + gpa, 8);
    return value;
}

static inline void set_segment(WHV_PARTITION_HANDLE p, WHV_REGISTER_NAME name, UINT16 selector,
                               UINT16 attributes)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Segment.Selector = selector;
    value.Segment.Limit = name == WHvX64RegisterTr ? 0x67 : 0xFFFFFFFF;
    value.Segment.Base = name == WHvX64RegisterTr ? TSS : 0;
    value.Segment.Attributes = attributes;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value));
}

static inline void set_table(WHV_PARTITION_HANDLE p, WHV_REGISTER_NAME name, UINT64 base, UINT16 limit)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Table.Base = base;
    value.Table.Limit = limit;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value));
}

// Flat segments for kernel and user, code of the given size.
static inline void make_tables(uint8_t *memory, bool wide)
{
    put64(memory, GDT + 0x00, 0);
    put64(memory, GDT + 0x08, wide ? 0x00AF9B000000FFFF : 0x00CF9B000000FFFF);
    put64(memory, GDT + 0x10, 0x00CF93000000FFFF);
    put64(memory, GDT + 0x18, wide ? 0x00AFFB000000FFFF : 0x00CFFB000000FFFF);
    put64(memory, GDT + 0x20, 0x00CFF3000000FFFF);
    memset(memory + IDT, 0, PAGE);
    memset(memory + TSS, 0, 0x68);
    put64(memory, TSS + 4, wide ? STACK - 0x100 : (UINT64)DATA_SELECTOR << 32 | (STACK - 0x100));
    memory[TSS + 0x66] = 0x68;      // no I/O permissions
}

static inline void set_segments(WHV_PARTITION_HANDLE p, UINT16 code)
{
    set_segment(p, WHvX64RegisterCs, CODE_SELECTOR, code);
    set_segment(p, WHvX64RegisterSs, DATA_SELECTOR, DATA32);
    set_segment(p, WHvX64RegisterDs, DATA_SELECTOR, DATA32);
    set_segment(p, WHvX64RegisterEs, DATA_SELECTOR, DATA32);
    set_segment(p, WHvX64RegisterTr, 0x28, BUSY_TSS);
    set_table(p, WHvX64RegisterGdtr, GDT, 0x27);
}

static inline void enter_protected(WHV_PARTITION_HANDLE p, uint8_t *memory)
{
    make_tables(memory, false);
    set_segments(p, CODE32);
    set_table(p, WHvX64RegisterIdtr, IDT, 0x7FF);
    set_register(p, 0, WHvX64RegisterCr0, 0x11);
    set_register(p, 0, WHvX64RegisterRsp, STACK);
    set_register(p, 0, WHvX64RegisterRip, CODE);
}

static inline void enter_long(WHV_PARTITION_HANDLE p, uint8_t *memory)
{
    make_tables(memory, true);
    memset(memory + PML4, 0, 4 * PAGE);
    put64(memory, PML4, PDPT | PTE_P | PTE_W | PTE_U);
    put64(memory, PDPT, PD | PTE_P | PTE_W | PTE_U);
    put64(memory, PD, PT | PTE_P | PTE_W | PTE_U);
    put64(memory, PD + 8, 0x200000 | PTE_PS | PTE_P | PTE_W | PTE_U);
    for (UINT64 i = 0; i < 512; i++)
        put64(memory, PT + 8 * i, i << 12 | PTE_P | PTE_W | PTE_U);
    set_segments(p, CODE64);
    set_table(p, WHvX64RegisterIdtr, IDT, 0xFFF);
    set_register(p, 0, WHvX64RegisterCr3, PML4);
    set_register(p, 0, WHvX64RegisterCr4, 0x620);           // PAE, OSFXSR, OSXMMEXCPT
    set_register(p, 0, WHvX64RegisterEfer, 0xD00);          // NXE, LMA, LME
    set_register(p, 0, WHvX64RegisterCr0, 0x80000033);      // PG, NE, ET, MP, PE
    set_register(p, 0, WHvX64RegisterRsp, STACK);
    set_register(p, 0, WHvX64RegisterRip, CODE);
}

// To privilege level 3, in protected or long mode.
static inline void enter_user(WHV_PARTITION_HANDLE p, UINT16 code)
{
    set_segment(p, WHvX64RegisterCs, USER_CODE_SELECTOR, code | 0x60);
    set_segment(p, WHvX64RegisterSs, USER_DATA_SELECTOR, DATA32 | 0x60);
    set_segment(p, WHvX64RegisterDs, USER_DATA_SELECTOR, DATA32 | 0x60);
    set_segment(p, WHvX64RegisterEs, USER_DATA_SELECTOR, DATA32 | 0x60);
}

// Interrupt gates that anybody may use by INT, to HANDLER plus 16 times the vector.
static inline void set_gate(uint8_t *memory, bool wide, unsigned int vector)
{
    UINT64 handler = HANDLER + 16 * (UINT64)vector;
    UINT64 gate = 0xEE0000000000 | (UINT64)CODE_SELECTOR << 16 | handler;

    put64(memory, IDT + (wide ? 16 : 8) * vector, gate);
    memory[handler] = 0xE6;         // out vector, al
    memory[handler + 1] = (uint8_t)vector;
    memory[handler + 2] = 0xF4;     // hlt
}

static inline void set_exits(WHV_PARTITION_HANDLE p, WHV_EXTENDED_VM_EXITS exits)
{
    assert_ok(set64(p, WHvPartitionPropertyCodeExtendedVmExits, exits.AsUINT64));
}

static inline void assert_port_exit(const WHV_RUN_VP_EXIT_CONTEXT *exit, UINT16 port)
{
    assert_int_equal(exit->ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(exit->IoPortAccess.PortNumber, port);
}

#endif
