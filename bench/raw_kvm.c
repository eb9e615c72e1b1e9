/* raw_kvm.c: the guests of guest.h on /dev/kvm by hand: nothing between the loop and the system calls. */
#include "raw_kvm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "timing.h"

#define CPUID_ENTRIES 100
#define SYNC_FIELDS (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)

static int must(const char *what, int result)
{
    if (result < 0) {
        fprintf(stderr, "bench: ");
        perror(what);
        exit(1);
    }
    return result;
}
#define IOCTL(fd, request, argument) must(#request, ioctl(fd, request, argument))

static void map(struct raw *raw, uint32_t slot, void *memory, uint64_t gpa, uint64_t size)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)memory,
    };

    IOCTL(raw->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static void create(struct raw *raw, bool apic)
{
    static union {
        struct kvm_cpuid2 head;
        UINT8 room[sizeof(struct kvm_cpuid2) + CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2)];
    } cpuid;

    raw->kvm = must("/dev/kvm", open("/dev/kvm", O_RDWR | O_CLOEXEC));
    raw->vm = IOCTL(raw->kvm, KVM_CREATE_VM, 0);
    if (apic) {
        struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};

        IOCTL(raw->vm, KVM_ENABLE_CAP, &cap);
    }
    raw->processor = IOCTL(raw->vm, KVM_CREATE_VCPU, 0);
    raw->run_size = (size_t)IOCTL(raw->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    raw->run = mmap(NULL, raw->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, raw->processor, 0);
    must("mmap of a processor", raw->run == MAP_FAILED ? -1 : 0);
    if (cpuid.head.nent == 0) {
        cpuid.head.nent = CPUID_ENTRIES;
        IOCTL(raw->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
    }
    IOCTL(raw->processor, KVM_SET_CPUID2, &cpuid);
}

void raw_close(struct raw *raw)
{
    munmap(raw->run, raw->run_size);
    close(raw->processor);
    close(raw->vm);
    close(raw->kvm);
}

static struct kvm_segment segment(uint16_t selector, uint16_t attributes)
{
    return (struct kvm_segment){
        .limit = 0xFFFFFFFF, .selector = selector, .type = attributes & 15, .s = attributes >> 4 & 1,
        .present = attributes >> 7 & 1, .l = attributes >> 13 & 1, .db = attributes >> 14 & 1,
        .g = attributes >> 15 & 1,
    };
}

void raw_open(struct raw *raw, UINT8 *memory, const struct guest_start *start)
{
    struct kvm_regs registers = {.rip = CODE_AT, .rsp = STACK_TOP, .rflags = 2, .rsi = start->rsi,
                                 .rdi = start->rdi, .rdx = start->rdx};
    struct kvm_sregs system;

    guest_layout(memory, start);
    raw->memory = memory;
    create(raw, start->apic != WHvX64LocalApicEmulationModeNone);
    map(raw, 0, memory, 0, GUEST_SIZE);
    IOCTL(raw->processor, KVM_GET_SREGS, &system);
    system.cr3 = PML4_AT;
    system.cr4 = GUEST_CR4;
    system.efer = GUEST_EFER;
    system.cr0 = GUEST_CR0;
    system.cs = segment(GUEST_CODE_SELECTOR, GUEST_CODE_ATTRIBUTES);
    system.ss = system.ds = system.es = segment(GUEST_DATA_SELECTOR, GUEST_DATA_ATTRIBUTES);
    system.gdt = (struct kvm_dtable){.base = GDT_AT, .limit = 3 * 8 - 1};
    system.idt = (struct kvm_dtable){.base = IDT_AT, .limit = 256 * 16 - 1};
    IOCTL(raw->processor, KVM_SET_SREGS, &system);
    IOCTL(raw->processor, KVM_SET_REGS, &registers);
}

void raw_run_to(struct raw *raw, uint32_t reason)
{
    IOCTL(raw->processor, KVM_RUN, 0);
    if (raw->run->exit_reason != reason) {
        fprintf(stderr, "bench: KVM's exit reason %u instead of %u\n", raw->run->exit_reason, reason);
        exit(1);
    }
}

/* The data of an access by which the guest reads. */
static inline void answer(struct kvm_run *run)
{
    if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_IN) {
        *((UINT8 *)run + run->io.data_offset) = 0x5A;
    }
    if (run->exit_reason == KVM_EXIT_MMIO && !run->mmio.is_write) {
        run->mmio.data[0] = 0x5A;
    }
}

/* Where a linear address lies: four levels of tables, each in the guest's memory. */
static uint64_t walk(const struct raw *raw, uint64_t cr3, uint64_t linear)
{
    uint64_t entry = cr3;

    for (int shift = 39; shift >= 12; shift -= 9) {
        memcpy(&entry, raw->memory + (entry & 0xFFFFFFFFFF000) + (linear >> shift & 511) * 8, 8);
        if (shift < 39 && (entry & 0x80)) {         /* a large page */
            uint64_t offset = (1ull << shift) - 1;

            return (entry & 0xFFFFFFFFFF000 & ~offset) | (linear & offset);
        }
    }
    return (entry & 0xFFFFFFFFFF000) | (linear & 0xFFF);
}

/* A context as the API has it, filled in for the exits of these loops: 2 bytes of instruction. */
static void tell_exit(const struct raw *raw, uint64_t length, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    const struct kvm_sync_regs *s = &raw->run->s.regs;
    bool behind = raw->run->exit_reason == KVM_EXIT_IO ? raw->run->io.direction == KVM_EXIT_IO_OUT
                                                       : raw->run->mmio.is_write;
    uint64_t rip = s->regs.rip - (behind ? length : 0);

    memset(context, 0, sizeof(*context));
    context->VpContext.Rip = rip;
    context->VpContext.Rflags = s->regs.rflags;
    context->VpContext.Cs.Selector = s->sregs.cs.selector;
    context->VpContext.Cs.Base = s->sregs.cs.base;
    context->VpContext.Cs.Limit = s->sregs.cs.limit;
    context->VpContext.InstructionLength = (UINT8)(length & 15);
    if (raw->run->exit_reason == KVM_EXIT_IO) {
        context->IoPortAccess.PortNumber = raw->run->io.port;
        context->IoPortAccess.Rax = s->regs.rax;
        context->IoPortAccess.Rcx = s->regs.rcx;
        context->IoPortAccess.Rsi = s->regs.rsi;
        context->IoPortAccess.Rdi = s->regs.rdi;
        memcpy(context->IoPortAccess.InstructionBytes, raw->memory + walk(raw, s->sregs.cr3, rip), 16);
    } else {
        context->MemoryAccess.Gva = s->regs.rsi;
        context->MemoryAccess.Gpa = walk(raw, s->sregs.cr3, s->regs.rsi);
        memcpy(context->MemoryAccess.InstructionBytes, raw->memory + walk(raw, s->sregs.cr3, rip), 16);
    }
}

double raw_exits(struct raw *raw, uint32_t reason, enum raw_extra extra, uint64_t next, unsigned count)
{
    struct kvm_interrupt interrupt = {.irq = VECTOR};
    struct kvm_msi message = {.address_lo = 0xFEE00000, .data = VECTOR};
    WHV_RUN_VP_EXIT_CONTEXT context;
    double start;

    raw->run->kvm_valid_regs = extra == RAW_CONTRACT ? SYNC_FIELDS : 0;
    start = now();
    for (unsigned n = 0; n < count; n++) {
        if (extra == RAW_INTERRUPT) {
            IOCTL(raw->processor, KVM_INTERRUPT, &interrupt);
        } else if (extra == RAW_MESSAGE) {
            IOCTL(raw->vm, KVM_SIGNAL_MSI, &message);
        }
        raw_run_to(raw, reason);
        answer(raw->run);
        if (extra != RAW_CONTRACT) {
            continue;
        }
        tell_exit(raw, LOOP_LENGTH, &context);
        __asm__ volatile("" : : "g"(&context) : "memory");      /* somebody reads it */
        if (next) {
            raw->run->s.regs.regs.rip = next;
            raw->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
        }
    }
    return (now() - start) / count;
}

double raw_lives(void *memory, uint64_t size, unsigned count)
{
    double start = now();
    struct raw raw;

    for (unsigned n = 0; n < count; n++) {
        create(&raw, false);
        map(&raw, 0, memory, 0, size);
        raw_close(&raw);
    }
    return (now() - start) / count;
}

double raw_maps(struct raw *raw, void *memory, uint64_t gpa, uint64_t size, unsigned count)
{
    double start = now();

    for (unsigned n = 0; n < count; n++) {
        map(raw, 1, memory, gpa, size);
        map(raw, 1, memory, gpa, 0);
    }
    return (now() - start) / count;
}
