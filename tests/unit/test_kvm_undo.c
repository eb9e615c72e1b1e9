// Undoing: for many encodings, from the state that KVM leaves back to the state before, by the instruction's
// meaning.
//
// Writes: the interpreter runs the instruction on a device's page that is memory for the moment; that is
// KVM's state, and what stands in the page is KVM's report. Repetitions stop after one element, as KVM does.
#include "kvm_undo_forms.h"

// ---- What KVM does with it --------------------------------------------------------------------------------

static void step_register(struct x86_cpu *cpu, unsigned reg, unsigned bits, uint64_t delta)
{
    uint64_t mask = mask_of(bits);
    cpu->slot[reg] = (cpu->slot[reg] & ~mask) | ((cpu->slot[reg] + delta) & mask);
}

// One element of it on the open device; when a repetition is at its end, RIP may stay on it or not.
static void run_once(struct bench *b, const struct coded *c, bool stays)
{
    struct x86_cpu *cpu = &b->machine.cpu;
    struct x86_step room = { 0 };
    uint64_t start = cpu->rip;
    uint8_t bytes[16] = { 0 };
    unsigned length = 0;
    for (unsigned n = 0; n < c->length; n++)
        if (!(c->rep && (c->bytes[n] == 0xf3 || c->bytes[n] == 0xf2)))
            bytes[length++] = c->bytes[n];
        else if (c->width == CODE64 && length && (bytes[length - 1] & 0xf0) == 0x40)
            length--;               // a REX prefix with another one behind it does not count
    if (c->form->kind == OUTS) {
        step_register(cpu, X86_RSI, c->address, cpu->rflags & X86_DF ? -(uint64_t)c->size : c->size);
    } else if (c->form->kind != OUT) {
        bench_set_open(b, true);
        enum x86_leave leave = x86_step(cpu, bytes, 15, &room);
        bench_set_open(b, false);
        if (leave != X86_LEAVE_LOOKUP)
            print_code(c->form->name, c->bytes, c->length);
        assert_int_equal(leave, X86_LEAVE_LOOKUP);
    }
    if (c->form->kind != CALL)
        cpu->rip = x86_cut_rip(cpu, start + c->length);
    if (c->rep) {
        step_register(cpu, X86_RCX, c->address, -1ull);
        if ((cpu->slot[X86_RCX] & mask_of(c->address)) || stays) {
            cpu->rip = start;
            cpu->rflags |= X86_RF;
        }
    }
}

// What of an access lies in the device.
struct part { uint64_t gpa; unsigned size; };

static struct part device_part(uint64_t gpa, unsigned size)
{
    uint64_t first = gpa < DEVICE ? DEVICE : gpa, end = gpa + size;
    if (end > DEVICE + 0x1000)
        end = DEVICE + 0x1000;
    return (struct part){ first, (unsigned)(end - first) };
}

// What KVM tells of it, from the state before.
static void report(struct bench *b, const struct coded *c, const struct registers *before, uint64_t gpa,
                   uint64_t data)
{
    const struct machine *m = &b->machine;
    if (c->form->kind == OUT || c->form->kind == OUTS) {
        uint64_t port = before->slot[X86_RDX] & 0xffff;
        if (c->form->immediate)
            port = c->bytes[c->length - 1];
        const uint8_t *from =
            c->form->kind == OUTS ? m->ram + (data & 0xfffff) : (const void *)&before->slot[X86_RAX];
        report_port(b, true, (unsigned)port, c->size, 1, from);
    } else {
        struct part part = device_part(gpa, c->size);
        report_memory(b, true, part.gpa, part.size < 8 ? part.size : 8, m->ram + part.gpa);
    }
}

// ---- The test ---------------------------------------------------------------------------------------------

// What is remembered of an instruction changes no answer: neither when it runs again, nor when a register that its
// access may depend on is another one by then. `undo` is the first answer, from the registers `after`.
static bool remembered_is_harmless(struct bench *b, const struct registers *after, const struct registers *before,
                                   const struct kvm_undo *undo)
{
    const size_t answer = offsetof(struct kvm_undo, seen);
    struct x86_cpu *cpu = &b->machine.cpu;
    struct kvm_undo again = *undo, fresh = { 0 };
    bool ambiguous;
    bench_set_registers(cpu, after);
    bool found = bench_undo(b, true, &ambiguous, &again);
    struct registers got = bench_registers(cpu), other = *after;
    if (!found || !same_registers(before, &got) || memcmp(&again, undo, answer))
        return false;
    other.slot[bench_random(b) % 16] ^= 1ull << bench_random(b) % 16;
    bench_set_registers(cpu, &other);
    found = bench_undo(b, true, &ambiguous, &fresh);
    struct registers wanted = bench_registers(cpu);
    again = *undo;
    bench_set_registers(cpu, &other);
    if (bench_undo(b, true, &ambiguous, &again) != found)
        return false;
    got = bench_registers(cpu);
    return same_registers(&wanted, &got) && !memcmp(&again, &fresh, answer);
}

static void check_write(struct bench *b, struct coded *c, bool exact)
{
    struct x86_cpu *cpu = &b->machine.cpu;
    struct machine *m = &b->machine;
    struct scene scene = prepare(b, c, exact);
    uint8_t *code = scene.code;
    uint64_t gpa = scene.gpa;

    bool stays = bench_random(b) & 1;
    struct registers before = bench_registers(cpu);
    run_once(b, c, stays);
    struct registers after = bench_registers(cpu);
    report(b, c, &before, gpa, scene.data);
    bool ambiguous;
    struct kvm_undo undo = { 0 };
    bool ok = bench_undo(b, true, &ambiguous, &undo);
    if (!ok || ambiguous) {
        print_message("not found\n");
        ok = false;
    }
    struct registers got = bench_registers(cpu);
    if (ok && exact) {
        ok = same_registers(&before, &got) && undo.rip == before.rip && undo.length == c->length
          && undo.byte_count == 16 && !memcmp(undo.bytes, code, 16) && undo.rep == c->rep
          && undo.count_mask == (c->rep ? mask_of(c->address) : 0)
          && undo.pending == (c->size == 16 ? KVM_PENDING_MORE : KVM_PENDING_NOTHING)
          && remembered_is_harmless(b, &after, &before, &undo);
    } else if (ok) {
        // Whatever was found: run it, and it does the same.
        struct coded other = *c;
        other.length = undo.length;
        other.rep = undo.rep;
        memcpy(other.bytes, undo.bytes, undo.length);
        run_once(b, &other, stays);
        got = bench_registers(cpu);
        ok = same_registers(&after, &got);
        if (c->form->kind != OUT && c->form->kind != OUTS
            && memcmp(m->ram + b->kvm.run.mmio.phys_addr, b->kvm.run.mmio.data, b->kvm.run.mmio.len))
            ok = false;
    }
    if (!ok) {
        print_message("%s, %u-bit code, address %u, addressing %d, rip %lx, found %u bytes\n",
                      c->form->name, bits_of(c->width), c->address, (int)c->addressing,
                      (unsigned long)before.rip, undo.length);
        print_code("before it", code - SEQUENCE, SEQUENCE);
        print_code("code", c->bytes, c->length);
    }
    assert_true(ok);
}

static void for_all_writes(struct bench *b, bool exact)
{
    for (unsigned f = 0; f < sizeof forms / sizeof *forms; f++)
        for (enum width width = CODE16; width <= CODE64; width <<= 1)
            for (unsigned pick = 0; pick < ADDRESSINGS << 8; pick++) {
                struct coded c;
                if (!exact && (forms[f].more & VECTOR))
                    continue;
                if ((forms[f].widths & width) && encode(b, &c, &forms[f], width, pick))
                    check_write(b, &c, exact);
            }
}

static void test_writes_are_undone(void **state) { for_all_writes(*state, true); }
static void test_any_code_before_is_harmless(void **state) { for_all_writes(*state, false); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_writes_are_undone, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_any_code_before_is_harmless, bench_setup, bench_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
