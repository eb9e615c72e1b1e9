// A processor, memory with a hole for a device in it, and kvm_run contents: what the tests of undo.h share.
#ifndef BULKHEAD_TESTS_KVM_UNDO_H
#define BULKHEAD_TESTS_KVM_UNDO_H

#include "x86_machine.h"

#include "engine/kvm/undo.h"

#define DEVICE 0x80000u             // a page that is no memory
#define DATA 0x78000u               // where data segments of 16 and 32-bit code begin
#define HIGH 0xffff800000000000ull  // 64-bit code: the same MiB again
#define PORT_DATA 4096u

enum width { CODE16 = 1, CODE32 = 2, CODE64 = 4 };

struct bench {
    struct machine machine;         // first
    // The device's page is memory, so that the interpreter can run a write to it; or is memory that can only
    // be read.
    bool open, read_only;
    union { struct kvm_run run; uint8_t bytes[2 * 4096]; } kvm;
    uint64_t seed;
};

// What an instruction changes.
struct registers { uint64_t slot[16], rip, rflags; };

static inline uint64_t bench_random(struct bench *b)
{
    b->seed ^= b->seed << 13;
    b->seed ^= b->seed >> 7;
    b->seed ^= b->seed << 17;
    return b->seed * 0x2545f4914f6cdd1dull;
}

static void bench_page(struct x86_cpu *cpu, uint64_t gpa, struct x86_page *page)
{
    struct bench *b = cpu->platform;
    machine_page(cpu, gpa, page);
    if (gpa >> 12 == DEVICE >> 12 && !b->open) {
        if (b->read_only)
            page->write = false;
        else
            *page = (struct x86_page){ 0 };
    }
}

static int bench_setup(void **state)
{
    static struct x86_bus bus;
    struct bench *b = aligned_alloc(4096, (sizeof *b + 4095) & ~(size_t)4095);
    if (!b)
        return -1;
    memset(b, 0, sizeof *b);
    struct x86_cpu *cpu = &b->machine.cpu;
    bus = machine_bus;
    bus.page = bench_page;
    cpu->bus = &bus;
    cpu->platform = b;
    cpu->generation = 1;
    cpu->tlb_epoch = 1;
    cpu->physical_bits = 40;
    cpu->processor_count = 1;
    x86_default_features(cpu->features);
    cpu->code = x86_code_new();
    x86_reset(cpu);
    b->seed = 0x9e3779b97f4a7c15ull;
    *state = b;
    return cpu->code ? 0 : -1;
}

static int bench_teardown(void **state)
{
    struct bench *b = *state;
    x86_code_free(b->machine.cpu.code);
    free(b);
    return 0;
}

static inline void bench_set_open(struct bench *b, bool open)
{
    b->open = open;
    x86_flush_tlb(&b->machine.cpu, true);
}

// A mode with segments that do not begin at 0. Code begins at 0x20000 in each.
static inline void bench_mode(struct bench *b, enum width width)
{
    struct x86_cpu *cpu = &b->machine.cpu;
    cpu->cr3 = cpu->cr4 = cpu->efer = 0;
    if (width == CODE64) {
        machine_long_mode(&b->machine);
        poke64(&b->machine, 0x1000 + 256 * 8, 0x2007);
        cpu->slot[X86_SLOT_SEGMENT + X86_ES] = 0x5000;      // does not count
        cpu->slot[X86_SLOT_SEGMENT + X86_FS] = 0x3000;
    } else {
        machine_protected_mode(&b->machine);
        for (unsigned s = X86_ES; s <= X86_GS; s++)
            cpu->slot[X86_SLOT_SEGMENT + s] = s == X86_CS ? 0x20000 : s == X86_ES ? DATA + 0x1000
                                             : s == X86_FS ? DATA - 0x800 : DATA;
        cpu->rip = 0;
    }
    if (width == CODE16) {
        cpu->cr0 = X86_CR0_ET;
        for (unsigned s = X86_ES; s <= X86_GS; s++) {
            cpu->segment[s].attributes = s == X86_CS ? 0x9b : 0x93;
            cpu->segment[s].limit = 0xffff;
            cpu->segment[s].selector = (uint16_t)(cpu->slot[X86_SLOT_SEGMENT + s] >> 4);
        }
    }
    cpu->cr4 |= X86_CR4_OSFXSR;
    cpu->rflags = 2;
    x86_settle_state(cpu);
}

static inline unsigned bits_of(enum width width) { return width == CODE16 ? 16 : width == CODE32 ? 32 : 64; }

static inline uint64_t mask_of(unsigned bits) { return bits == 64 ? ~0ull : (1ull << bits) - 1; }

static inline void bench_random_registers(struct bench *b, enum width width)
{
    struct x86_cpu *cpu = &b->machine.cpu;
    for (unsigned n = 0; n < (width == CODE64 ? 16u : 8u); n++)
        cpu->slot[n] = bench_random(b) & mask_of(width == CODE64 ? 64 : 32);
    x86_set_rflags(cpu, 2 | (bench_random(b) & (X86_ARITHMETIC | X86_IF)));
}

static inline struct registers bench_registers(const struct x86_cpu *cpu)
{
    struct registers r = { .rip = cpu->rip, .rflags = x86_get_rflags(cpu) };
    memcpy(r.slot, cpu->slot, sizeof r.slot);
    return r;
}

static inline void bench_set_registers(struct x86_cpu *cpu, const struct registers *r)
{
    memcpy(cpu->slot, r->slot, sizeof r->slot);
    cpu->rip = r->rip;
    x86_set_rflags(cpu, r->rflags);
}

static inline void print_code(const char *what, const uint8_t *code, unsigned length)
{
    print_message("%s:", what);
    for (unsigned n = 0; n < length; n++)
        print_message(" %02x", code[n]);
    print_message("\n");
}

// The same registers, or print where they differ.
static inline bool same_registers(const struct registers *wanted, const struct registers *got)
{
    static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
    bool same = wanted->rip == got->rip && wanted->rflags == got->rflags;
    if (!same)
        print_message("rip %lx, wanted %lx; rflags %lx, wanted %lx\n", (unsigned long)got->rip,
                      (unsigned long)wanted->rip, (unsigned long)got->rflags, (unsigned long)wanted->rflags);
    for (unsigned n = 0; n < 16; n++)
        if (wanted->slot[n] != got->slot[n]) {
            print_message("%s %lx, wanted %lx\n", names[n], (unsigned long)got->slot[n],
                          (unsigned long)wanted->slot[n]);
            same = false;
        }
    return same;
}

static inline void report_port(struct bench *b, bool out, unsigned port, unsigned size, unsigned count,
                               const void *data)
{
    struct kvm_run *run = &b->kvm.run;
    memset(&b->kvm, 0, sizeof b->kvm);
    run->exit_reason = KVM_EXIT_IO;
    run->io.direction = out ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
    run->io.port = (uint16_t)port;
    run->io.size = (uint8_t)size;
    run->io.count = count;
    run->io.data_offset = PORT_DATA;
    if (data)
        memcpy(b->kvm.bytes + PORT_DATA, data, (size_t)size * count);
}

static inline void report_memory(struct bench *b, bool write, uint64_t gpa, unsigned size, const void *data)
{
    struct kvm_run *run = &b->kvm.run;
    memset(&b->kvm, 0, sizeof b->kvm);
    run->exit_reason = KVM_EXIT_MMIO;
    run->mmio.is_write = write;
    run->mmio.phys_addr = gpa;
    run->mmio.len = size;
    if (data)
        memcpy(run->mmio.data, data, size);
}

static inline bool bench_undo(struct bench *b, bool completed, bool *ambiguous, struct kvm_undo *undo)
{
    return kvm_undo_exit(&b->machine.cpu, &b->kvm.run, completed, ambiguous, undo);
}

#endif
