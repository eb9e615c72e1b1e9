/* guest.h: 64-bit guests on identity-mapped memory, and partitions that run them. */
#ifndef BENCH_GUEST_H
#define BENCH_GUEST_H

#include <WinHvPlatform.h>

#include <stddef.h>

#define GUEST_SIZE 0x10000u
#define PML4_AT 0x1000u
#define PDPT_AT 0x2000u
#define PD_AT 0x3000u
#define CODE_AT 0x4000u
#define HANDLER_AT 0x4800u /* of interrupts of VECTOR */
#define IDT_AT 0x5000u
#define GDT_AT 0x6000u
#define DATA_AT 0x8000u
#define STACK_TOP 0xF000u
#define DEVICE_AT 0x100000u /* inside the identity map, but no memory is there */
#define VECTOR 0x40u
#define GIB (1ull << 30)

#define GUEST_CR0 0x80000031ull /* PG, NE, ET, PE */
#define GUEST_CR4 0x20ull       /* PAE */
#define GUEST_EFER 0x500ull     /* LME, LMA */
#define GUEST_CODE_SELECTOR 8
#define GUEST_CODE_ATTRIBUTES 0xA09B /* 64-bit code, present, accessed */
#define GUEST_DATA_SELECTOR 16
#define GUEST_DATA_ATTRIBUTES 0xC093

/* What a guest starts with besides the above. */
struct guest_start {
    const void *code, *handler;
    size_t code_size, handler_size;
    UINT64 rsi, rdi, rdx;
    WHV_X64_LOCAL_APIC_EMULATION_MODE apic;
};

/* Lays out page tables, descriptor tables, data and code in GUEST_SIZE bytes. */
void guest_layout(UINT8 *memory, const struct guest_start *start);

/* A partition with one processor and `size` bytes of memory at 0. */
WHV_PARTITION_HANDLE guest_partition(void *memory, UINT64 size, WHV_X64_LOCAL_APIC_EMULATION_MODE apic);
/* One whose processor is about to execute the code. */
WHV_PARTITION_HANDLE guest_create(UINT8 *memory, const struct guest_start *start);

void guest_set(WHV_PARTITION_HANDLE partition, const WHV_REGISTER_NAME *names, UINT32 count,
               const WHV_REGISTER_VALUE *values);
/* Runs to the next exit, which must be the one that is measured. */
void guest_run_to(WHV_PARTITION_HANDLE partition, WHV_RUN_VP_EXIT_REASON reason);

#endif
