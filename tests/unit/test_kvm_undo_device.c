// Undoing what the kernel really does: each encoding runs on a processor of KVM that shares the bench's
// memory.
//
// What must come back is the state that the instruction was started from. What is said of the rest (pending,
// plain, writes) is checked by letting KVM complete the instruction.
#include "kvm_undo_forms.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PICKS_APART 7u              // a prime: not every combination of prefixes, but each with each

struct device {
    struct bench *bench;
    int kvm, vm, vcpu;
    struct kvm_run *run;
    size_t run_size;
    unsigned run_count, not_emulated, ambiguous;
};

static int must(int answer)
{
    if (answer < 0)
        print_message("%s\n", strerror(errno));
    assert_true(answer >= 0);
    return answer;
}

static void map(struct device *d, unsigned slot, uint64_t gpa, uint64_t end)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = end - gpa,
        .userspace_addr = (uintptr_t)d->bench->machine.ram + gpa,
    };
    must(ioctl(d->vm, KVM_SET_USER_MEMORY_REGION, &region));
}

static int device_setup(void **state)
{
    struct device *d = calloc(1, sizeof *d);
    void *bench;
    if (!d || bench_setup(&bench))
        return -1;
    d->bench = bench;
    *state = d;
    d->kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    d->vm = must(ioctl(d->kvm, KVM_CREATE_VM, 0));
    map(d, 0, 0, DEVICE);
    map(d, 1, DEVICE + 0x1000, RAM_SIZE);
    d->vcpu = must(ioctl(d->vm, KVM_CREATE_VCPU, 0));
    d->run_size = (size_t)must(ioctl(d->kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    d->run = mmap(NULL, d->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, d->vcpu, 0);
    assert_true(d->run != MAP_FAILED);
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + 256 * sizeof cpuid->entries[0]);
    assert_non_null(cpuid);
    cpuid->nent = 256;
    must(ioctl(d->kvm, KVM_GET_SUPPORTED_CPUID, cpuid));
    must(ioctl(d->vcpu, KVM_SET_CPUID2, cpuid));
    free(cpuid);
    return 0;
}

static int device_teardown(void **state)
{
    struct device *d = *state;
    void *bench = d->bench;
    munmap(d->run, d->run_size);
    close(d->vcpu);
    close(d->vm);
    close(d->kvm);
    free(d);
    return bench_teardown(&bench);
}

// ---- Between the view and KVM -----------------------------------------------------------------------------

static struct kvm_segment segment_to_kvm(const struct x86_cpu *cpu, unsigned s)
{
    const struct x86_segment *from = &cpu->segment[s];
    unsigned a = from->attributes;
    return (struct kvm_segment){
        .base = cpu->slot[X86_SLOT_SEGMENT + s], .limit = from->limit, .selector = from->selector,
        .type = a & 15,
        .s = a >> 4 & 1, .dpl = a >> 5 & 3, .present = a >> 7 & 1, .avl = a >> 12 & 1, .l = a >> 13 & 1,
        .db = a >> 14 & 1, .g = a >> 15 & 1, .unusable = !(a & X86_SEG_P),
    };
}

static void view_to_kvm(struct device *d)
{
    const struct x86_cpu *cpu = &d->bench->machine.cpu;
    const uint64_t *slot = cpu->slot;
    struct kvm_sregs s;
    must(ioctl(d->vcpu, KVM_GET_SREGS, &s));
    s.es = segment_to_kvm(cpu, X86_ES);
    s.cs = segment_to_kvm(cpu, X86_CS);
    s.ss = segment_to_kvm(cpu, X86_SS);
    s.ds = segment_to_kvm(cpu, X86_DS);
    s.fs = segment_to_kvm(cpu, X86_FS);
    s.gs = segment_to_kvm(cpu, X86_GS);
    s.ldt = segment_to_kvm(cpu, X86_LDTR);
    s.tr = segment_to_kvm(cpu, X86_TR);
    s.gdt.base = cpu->gdtr.base;
    s.gdt.limit = cpu->gdtr.limit;
    s.idt.base = cpu->idtr.base;
    s.idt.limit = cpu->idtr.limit;
    s.cr0 = cpu->cr0;
    s.cr3 = cpu->cr3;
    s.cr4 = cpu->cr4;
    s.efer = cpu->efer;
    must(ioctl(d->vcpu, KVM_SET_SREGS, &s));
    struct kvm_regs r = {
        .rax = slot[0], .rcx = slot[1], .rdx = slot[2], .rbx = slot[3], .rsp = slot[4], .rbp = slot[5],
        .rsi = slot[6], .rdi = slot[7], .r8 = slot[8], .r9 = slot[9], .r10 = slot[10], .r11 = slot[11],
        .r12 = slot[12], .r13 = slot[13], .r14 = slot[14], .r15 = slot[15],
        .rip = cpu->rip, .rflags = x86_get_rflags(cpu),
    };
    must(ioctl(d->vcpu, KVM_SET_REGS, &r));
}

static struct registers registers_from_kvm(struct device *d)
{
    struct kvm_regs r;
    must(ioctl(d->vcpu, KVM_GET_REGS, &r));
    return (struct registers){
        .slot = { r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi,
                  r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15 },
        .rip = r.rip, .rflags = r.rflags,
    };
}

// Run to the next exit. 0: none, all that was pending is done.
static unsigned run(struct device *d, bool only_complete)
{
    d->run->immediate_exit = only_complete;
    int answer = ioctl(d->vcpu, KVM_RUN, 0);
    if (answer < 0) {
        assert_int_equal(errno, EINTR);
        assert_true(only_complete);
        return 0;
    }
    return d->run->exit_reason;
}

static bool is_access(unsigned exit) { return exit == KVM_EXIT_IO || exit == KVM_EXIT_MMIO; }

// Start the view on KVM; false: its emulator does not know the instruction.
static bool start(struct device *d, const char *name, const uint8_t *code, unsigned length)
{
    view_to_kvm(d);
    unsigned exit = run(d, false);
    d->run_count++;
    if (exit == KVM_EXIT_INTERNAL_ERROR) {
        d->not_emulated++;
        return false;
    }
    if (!is_access(exit)) {
        struct registers r = registers_from_kvm(d);
        print_message("%s: exit %u, rip %lx\n", name, exit, (unsigned long)r.rip);
        print_code("code", code, length);
    }
    assert_true(is_access(exit));
    return true;
}

// ---- Writes -----------------------------------------------------------------------------------------------

static void check_write(struct device *d, struct coded *c)
{
    struct bench *b = d->bench;
    struct x86_cpu *cpu = &b->machine.cpu;
    struct scene scene = prepare(b, c, true);
    struct registers before = bench_registers(cpu);
    if (!start(d, c->form->name, c->bytes, c->length))
        return;
    struct registers after = registers_from_kvm(d);
    bench_set_registers(cpu, &after);
    bool ambiguous;
    struct kvm_undo undo = { 0 };
    bool ok = kvm_undo_exit(cpu, d->run, false, &ambiguous, &undo);
    if (ambiguous) {
        struct registers unchanged = bench_registers(cpu);
        assert_true(same_registers(&after, &unchanged));
        d->ambiguous++;
        while (run(d, true))
            ;
        after = registers_from_kvm(d);
        bench_set_registers(cpu, &after);
        ok = kvm_undo_exit(cpu, d->run, true, &ambiguous, &undo);
    }
    struct registers got = bench_registers(cpu);
    ok = ok && same_registers(&before, &got) && undo.rip == before.rip && undo.length == c->length
      && undo.byte_count == 16 && !memcmp(undo.bytes, scene.code, 16) && undo.rep == c->rep
      && undo.count_mask == (c->rep ? mask_of(c->address) : 0);
    // KVM's own completion changes no register of what is done already, and tells whether there was more.
    bool more = false;
    while (run(d, true))
        more = true;
    struct registers completed = registers_from_kvm(d);
    if (undo.pending == KVM_PENDING_SKIP)
        after.rip = x86_cut_rip(cpu, after.rip + undo.length);
    ok = ok && same_registers(&after, &completed) && more == (undo.pending == KVM_PENDING_MORE);
    if (!ok) {
        print_message("%s, %u-bit code, rip %lx, now %lx\n", c->form->name, bits_of(c->width),
                      (unsigned long)before.rip, (unsigned long)after.rip);
        print_message("found %u bytes, pending %d, more %d, ambiguous %d\n", undo.length,
                      (int)undo.pending, more, ambiguous);
        print_code("code", c->bytes, c->length);
        print_code("data", d->run->mmio.data, 8);
        print_message("len %u at %lx\n", d->run->mmio.len, (unsigned long)d->run->mmio.phys_addr);
        (void)same_registers(&before, &after);
    }
    assert_true(ok);
}

static void test_writes(void **state)
{
    struct device *d = *state;
    for (unsigned f = 0; f < sizeof forms / sizeof *forms; f++)
        for (enum width width = CODE16; width <= CODE64; width <<= 1)
            for (unsigned pick = 0; pick < ADDRESSINGS << 8; pick += PICKS_APART) {
                struct coded c;
                if ((forms[f].widths & width) && encode(d->bench, &c, &forms[f], width, pick))
                    check_write(d, &c);
            }
    print_message("%u instructions ran, %u of them unknown to the kernel's emulator, %u ambiguous\n",
                  d->run_count, d->not_emulated, d->ambiguous);
    assert_true(d->not_emulated < d->run_count / 4);
}

// ---- Memory that can only be read -------------------------------------------------------------------------

// The arithmetic flags stay as the instruction set them, but for a carry that it used; running it sets them
// again.
static void check_modify(struct device *d, struct coded *c)
{
    struct bench *b = d->bench;
    struct x86_cpu *cpu = &b->machine.cpu;
    (void)prepare(b, c, true);
    struct registers before = bench_registers(cpu);
    if (!start(d, c->form->name, c->bytes, c->length))
        return;
    struct registers after = registers_from_kvm(d);
    bench_set_registers(cpu, &after);
    bool ambiguous;
    struct kvm_undo undo = { 0 };
    bool ok = kvm_undo_exit(cpu, d->run, false, &ambiguous, &undo);
    struct registers got = bench_registers(cpu);
    unsigned carry = c->form->more & CARRY ? X86_CF : 0;
    before.rflags &= ~(uint64_t)(X86_ARITHMETIC & ~carry);
    got.rflags &= ~(uint64_t)(X86_ARITHMETIC & ~carry);
    ok = ok && same_registers(&before, &got) && undo.length == c->length;
    while (run(d, true))
        ;
    uint8_t report[8];
    memcpy(report, d->run->mmio.data, sizeof report);
    struct x86_step room = { 0 };
    bench_set_open(b, true);
    ok = ok && x86_step(cpu, NULL, 0, &room) == X86_LEAVE_LOOKUP;
    bench_set_open(b, false);
    struct registers again = bench_registers(cpu);
    ok = ok && same_registers(&after, &again)
      && !memcmp(b->machine.ram + d->run->mmio.phys_addr, report, d->run->mmio.len);
    if (!ok) {
        print_message("%s, %u-bit code, rip %lx, now %lx, found %u bytes\n", c->form->name, bits_of(c->width),
                      (unsigned long)before.rip, (unsigned long)after.rip, undo.length);
        print_code("code", c->bytes, c->length);
        print_code("data", report, d->run->mmio.len);
    }
    assert_true(ok);
}

static void test_read_only(void **state)
{
    struct device *d = *state;
    struct kvm_userspace_memory_region region = {
        .slot = 2, .guest_phys_addr = DEVICE, .memory_size = 0x1000, .flags = KVM_MEM_READONLY,
        .userspace_addr = (uintptr_t)d->bench->machine.ram + DEVICE,
    };
    must(ioctl(d->vm, KVM_SET_USER_MEMORY_REGION, &region));
    d->bench->read_only = true;
    for (unsigned f = 0; f < sizeof modify_forms / sizeof *modify_forms; f++)
        for (enum width width = CODE16; width <= CODE64; width <<= 1)
            for (unsigned pick = 0; pick < ADDRESSINGS << 8; pick += PICKS_APART) {
                struct coded c;
                if ((modify_forms[f].widths & width) && encode(d->bench, &c, &modify_forms[f], width, pick))
                    check_modify(d, &c);
            }
    print_message("%u instructions ran, %u of them unknown to the kernel's emulator\n", d->run_count,
                  d->not_emulated);
    assert_true(d->not_emulated < d->run_count / 4);
}

// ---- Reads ------------------------------------------------------------------------------------------------

// What KVM is given, and how much of it: as much as it asks for, and as often.
static void answer(struct device *d, uint8_t data[8])
{
    struct kvm_run *r = d->run;
    bool port = r->exit_reason == KVM_EXIT_IO;
    uint8_t *to = port ? (uint8_t *)r + r->io.data_offset : r->mmio.data;
    unsigned size = port ? r->io.size * r->io.count : r->mmio.len;
    if (!port && r->mmio.is_write)
        return;
    for (unsigned n = 0; n < size; n++)
        to[n] = (uint8_t)bench_random(d->bench);
    memset(data, 0, 8);
    memcpy(data, to, size < 8 ? size : 8);
}

// Bytes that changed without being announced. The tables of the paged modes lie below.
static bool only_announced_changes(struct device *d, uint8_t *was, const struct kvm_undo *undo)
{
    const struct machine *m = &d->bench->machine;
    for (unsigned n = 0; n < undo->write_count; n++)
        memcpy(was + (undo->writes[n].linear & 0xfffff), m->ram + (undo->writes[n].linear & 0xfffff),
               undo->writes[n].size);
    return !memcmp(was + 0x8000, m->ram + 0x8000, RAM_SIZE - 0x8000);
}

static void check_read(struct device *d, struct coded *c, uint8_t *was)
{
    struct bench *b = d->bench;
    struct x86_cpu *cpu = &b->machine.cpu;
    struct scene scene = prepare(b, c, true);
    struct registers before = bench_registers(cpu);
    memcpy(was, b->machine.ram, RAM_SIZE);
    if (!start(d, c->form->name, c->bytes, c->length))
        return;
    struct registers now = registers_from_kvm(d);
    bench_set_registers(cpu, &now);
    bool ambiguous;
    struct kvm_undo undo = { 0 };
    uint8_t given[8], fed[8] = { 0 };
    bool plain = (c->form->more & PLAIN) && (at_port(c->form) || !scene.across);
    bool ok = kvm_undo_exit(cpu, d->run, false, &ambiguous, &undo);
    struct registers got = bench_registers(cpu);
    ok = ok && !ambiguous && same_registers(&before, &got) && undo.rip == before.rip
      && undo.length == c->length && undo.byte_count == 16 && !memcmp(undo.bytes, scene.code, 16)
      && undo.pending == KVM_PENDING_INPUT
      && undo.rep == c->rep && undo.count_mask == (c->rep ? mask_of(c->address) : 0)
      && undo.plain == plain && undo.sign == (plain && (c->form->more & SIGN))
      && undo.changes_fpu == !!(c->form->more & VECTOR);
    if (undo.count_mask && !undo.port) {        // more elements would make more exits
        struct kvm_regs one;
        must(ioctl(d->vcpu, KVM_GET_REGS, &one));
        one.rcx = (one.rcx & ~undo.count_mask) | 1;
        must(ioctl(d->vcpu, KVM_SET_REGS, &one));
    }
    do
        answer(d, given);
    while (run(d, true));
    struct registers after = registers_from_kvm(d);
    ok = ok && only_announced_changes(d, was, &undo);
    struct kvm_undo_registers kept;
    kvm_undo_keep(&kept, cpu);
    bench_set_registers(cpu, &after);
    bool feeds = kvm_undo_feed(&undo, &kept, cpu, fed);
    ok = ok && feeds == undo.plain && (!feeds || !memcmp(given, fed, c->size));
    if (!ok) {
        print_message("%s, %u-bit code, rip %lx, now %lx\n", c->form->name, bits_of(c->width),
                      (unsigned long)before.rip, (unsigned long)now.rip);
        print_message("found %u bytes, pending %d, plain %d, fpu %d, feeds %d\n", undo.length,
                      (int)undo.pending, undo.plain, undo.changes_fpu, feeds);
        print_code("code", c->bytes, c->length);
        print_code("given", given, 8);
        print_code("fed", fed, 8);
        (void)same_registers(&before, &after);
    }
    assert_true(ok);
}

static void test_reads(void **state)
{
    struct device *d = *state;
    uint8_t *was = malloc(RAM_SIZE);
    assert_non_null(was);
    for (unsigned f = 0; f < sizeof read_forms / sizeof *read_forms; f++)
        for (enum width width = CODE16; width <= CODE64; width <<= 1)
            for (unsigned pick = 0; pick < ADDRESSINGS << 8; pick += PICKS_APART) {
                struct coded c;
                if ((read_forms[f].widths & width) && encode(d->bench, &c, &read_forms[f], width, pick))
                    check_read(d, &c, was);
            }
    free(was);
    print_message("%u instructions ran, %u of them unknown to the kernel's emulator\n", d->run_count,
                  d->not_emulated);
    assert_true(d->not_emulated < d->run_count / 4);
}

int main(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        print_message("skipped: /dev/kvm: %s\n", strerror(errno));
        return 77;
    }
    close(kvm);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_writes, device_setup, device_teardown),
        cmocka_unit_test_setup_teardown(test_read_only, device_setup, device_teardown),
        cmocka_unit_test_setup_teardown(test_reads, device_setup, device_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
