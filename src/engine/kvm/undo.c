// Finding the instruction that KVM exited for, and undoing what of it is done.
#include "engine/kvm/undo.h"

#include <string.h>

#include "engine/kvm/same.h"
#include "engine/kvm/undo_fit.h"
#include "engine/kvm/undo_modify.h"
#include "engine/kvm/undo_read.h"

static void take_bytes(struct kvm_undo *undo, const struct undo_code *code, unsigned back)
{
    unsigned count = back + code->after;
    if (X86_LIKELY(count >= sizeof undo->bytes)) {
        undo->byte_count = sizeof undo->bytes;
        memcpy(undo->bytes, undo_back(code, back), sizeof undo->bytes);
        return;
    }
    undo->byte_count = (uint8_t)count;
    memset(undo->bytes, 0, sizeof undo->bytes);
    memcpy(undo->bytes, undo_back(code, back), count);
}

static void take_instruction(struct kvm_undo *undo, const struct undo_insn *insn)
{
    undo->rip = insn->rip;
    undo->length = insn->z.length;
    undo->string = insn->string;
    undo->rep = insn->rep;
    undo->count_mask = insn->rep ? insn->address_mask : 0;
}

// What is of one exit alone.
static void undo_begin(const struct x86_cpu *cpu, const struct kvm_run *run, struct kvm_undo *undo)
{
    memset(undo, 0, offsetof(struct kvm_undo, seen));
    undo->rip = cpu->rip;
    undo->port = run->exit_reason == KVM_EXIT_IO;
}

static unsigned seen_index(uint64_t rip) { return (unsigned)(rip ^ rip >> 4) & (KVM_UNDO_SEEN - 1); }

// ---- Reads: KVM waits with RIP on the instruction ---------------------------------------------------------

static void remember_load(struct kvm_undo *undo, const struct x86_cpu *cpu, const struct undo_insn *insn)
{
    const ZydisDecodedOperand *from = &insn->operand[1];
    struct undo_seen_load *seen = &undo->loads[seen_index(undo->rip)];
    *seen = (struct undo_seen_load){ .rip = undo->rip, .port = undo->port, .target = undo->target, .size = undo->size,
                                     .width = undo->width, .sign = undo->sign, .mode = cpu->mode };
    memcpy(seen->bytes, undo->bytes, sizeof seen->bytes);
    if (undo->port)
        seen->number = from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? from->imm.value.u & 0xff : UNDO_PORT_DX;
    else if (!undo_operand_take(insn, from, &seen->from))
        return;
    seen->length = insn->z.length;
}

// Whether the read is that of a plain load that was seen here before: what undo_read would find.
static bool loaded_again(struct x86_cpu *cpu, const struct kvm_run *run, struct undo_code *code, struct kvm_undo *undo)
{
    const struct undo_seen_load *seen = &undo->loads[seen_index(cpu->rip)];
    bool port = run->exit_reason == KVM_EXIT_IO;
    uint64_t linear = 0, gpa;
    if (seen->rip != cpu->rip || !seen->length || seen->port != port || seen->mode != cpu->mode
        || code->after < UNDO_AFTER || !same_in_16(undo_back(code, 0), seen->bytes, seen->length))
        return false;
    if (port) {
        uint64_t number = seen->number == UNDO_PORT_DX ? cpu->slot[X86_RDX] & 0xffff : seen->number;
        if (run->io.count != 1 || run->io.size != seen->size || run->io.port != number)
            return false;
    } else {
        linear = undo_operand_at(cpu, &seen->from, cpu->slot, 0);
        if (run->mmio.len != seen->size || !undo_translate_near(cpu, linear, &gpa, &code->near)
            || gpa != run->mmio.phys_addr)
            return false;
    }
    undo->pending = KVM_PENDING_INPUT;
    undo->rip = cpu->rip;
    undo->length = seen->length;
    undo->port = port;
    undo->string = undo->rep = undo->changes_fpu = false;
    undo->plain = true;
    undo->target = seen->target;
    undo->size = seen->size;
    undo->width = seen->width;
    undo->sign = seen->sign;
    undo->write_count = 0;
    undo->count_mask = 0;
    undo->whole = !port;
    undo->linear = linear;
    take_bytes(undo, code, 0);
    return true;
}

static __attribute__((noinline)) bool load_anew(struct x86_cpu *cpu, const struct kvm_run *run,
                                                struct undo_code *code, struct kvm_undo *undo)
{
    undo_begin(cpu, run, undo);
    undo->pending = KVM_PENDING_INPUT;
    take_bytes(undo, code, 0);
    const struct undo_insn *insn = undo_decode_again(&undo->decoded, cpu, undo_back(code, 0), code->after, cpu->rip);
    if (!insn || (undo->port && !undo_input_fits(cpu, run, insn)))
        return false;
    take_instruction(undo, insn);
    undo_read_effects(cpu, run, insn, undo);
    if (undo->plain)
        remember_load(undo, cpu, insn);
    return true;
}

__attribute__((hot)) static bool undo_read(struct x86_cpu *cpu, const struct kvm_run *run, struct kvm_undo *undo)
{
    struct undo_code code;
    undo_fetch(cpu, cpu->rip, 0, &code);
    return X86_LIKELY(loaded_again(cpu, run, &code, undo)) || load_anew(cpu, run, &code, undo);
}

// ---- Writes: where does the instruction start? ------------------------------------------------------------

// Of several instructions that end at the same place and fit, the one that decoding from places further up
// comes by most often: x86 code read from a wrong byte soon falls into step. 0: none is come by. They differ
// in prefixes, which another one may end in. Their effects are the same (undo_fit.c), but a client sees where
// an instruction starts. (In the code of large programs this finds more than 99 of 100 such starts; taking
// the shortest, about half of them.) Of two that are come by about equally often it is the longer one, if
// `longer`: a vector instruction is another one with its prefix than without, and its data is not there to be
// compared.
static unsigned most_travelled(const struct x86_cpu *cpu, const struct undo_code *code, unsigned lengths, bool longer)
{
    uint8_t lands[UNDO_BEFORE + 1] = { 0 };
    unsigned votes[ZYDIS_MAX_INSTRUCTION_LENGTH + 1] = { 0 }, best = 0;
    unsigned longest = 31u - (unsigned)__builtin_clz(lengths);
    for (unsigned n = 1; n <= code->before; n++) {
        if (n <= longest && (lengths >> n & 1)) {
            lands[n] = (uint8_t)n;
            continue;
        }
        unsigned length = undo_length(cpu, undo_back(code, n), n);
        lands[n] = length ? lands[n - length] : 0;
        if (n > longest && lands[n])
            votes[lands[n]]++;
    }
    for (unsigned n = 1; n <= longest; n++)
        if ((lengths >> n & 1) && (!best || votes[n] > votes[best] || (longer && votes[n] * 2 >= votes[best])))
            best = n;
    return votes[best] ? best : 0;
}

// What of a search stays the same.
struct search {
    struct x86_cpu *cpu;
    struct undo_report report;
    struct kvm_undo *undo;
    struct undo_code code;      // around the last end that was looked at
    struct undo_insn insn[2];   // the best so far of those that end there, and the next one to look at
    struct undo_insn here;      // at RIP
};

// Whether the `n` bytes before the code's place are one instruction, and it fits. `insn` takes it; NULL: it is one
// that is likely to be asked for again, and remembered.
static bool fits_back(struct search *s, unsigned n, bool call, struct undo_insn *insn, struct undo_fit *fit)
{
    uint64_t rip = x86_cut_rip(s->cpu, s->code.rip - n);
    const uint8_t *bytes = undo_back(&s->code, n);
    fit->finished = true;
    if (!insn)
        fit->insn = undo_decode_again(&s->undo->decoded, s->cpu, bytes, n, rip);
    else
        fit->insn = undo_decode(s->cpu, bytes, n, rip, insn) ? insn : NULL;
    return fit->insn && fit->insn->z.length == n
        && (call ? undo_fits_call(s->cpu, &s->report, fit) : undo_fits(s->cpu, &s->report, fit));
}

static struct undo_seen *seen_at(struct kvm_undo *undo, uint64_t end)
{
    return &undo->seen[seen_index(end)];
}

// ---- What was seen before ---------------------------------------------------------------------------------

static void remember(struct kvm_undo *undo, const struct x86_cpu *cpu, uint64_t end, const struct undo_report *report,
                     const struct undo_code *code, const struct undo_fit *fit)
{
    const struct undo_insn *insn = fit->insn;
    const ZydisDecodedOperand *to = &insn->operand[0], *from = &insn->operand[1];
    struct undo_seen *seen = seen_at(undo, end);
    *seen = (struct undo_seen){ .end = end, .length = insn->z.length, .port = report->port, .mode = cpu->mode,
                                .size = (uint8_t)report->size, .source = UNDO_NUMBER };
    memcpy(seen->bytes, undo_back(code, seen->length), seen->length);
    if (!fit->finished || !fit->proven)
        return;
    if (report->port) {
        seen->plain = insn->z.mnemonic == ZYDIS_MNEMONIC_OUT;
        seen->source = X86_RAX * 8;
        seen->number = to->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? to->imm.value.u & 0xff : UNDO_PORT_DX;
        return;
    }
    if (!fit->whole || insn->z.mnemonic != ZYDIS_MNEMONIC_MOV || !undo_operand_take(insn, to, &seen->to))
        return;
    if (from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        seen->number = from->imm.value.u;
    else if (undo_is_gpr(from))
        seen->source = x86_emit_gpr(from->reg.value);
    else
        return;
    seen->plain = true;
}

// Whether the write is that of a plain instruction that was seen here before. It changes no register but RIP.
static bool seen_again(struct x86_cpu *cpu, const struct undo_report *report, struct kvm_undo *undo)
{
    const struct undo_seen *seen = seen_at(undo, cpu->rip);
    struct undo_code code;
    uint64_t gpa, number = seen->number, linear = 0;
    if (seen->end != cpu->rip || !seen->plain || seen->port != report->port || seen->size != report->size
        || report->count != 1 || seen->mode != cpu->mode)
        return false;
    undo_fetch(cpu, cpu->rip, seen->length, &code);
    if (code.before != seen->length || !same_in_16(undo_back(&code, seen->length), seen->bytes, seen->length))
        return false;
    if (undo_may_stay(cpu, undo_back(&code, 0), code.after))        // then it may be that one instead
        return false;
    const void *written = seen->source == UNDO_NUMBER ? (const void *)&seen->number
                                                      : (const uint8_t *)cpu->slot + seen->source;
    if (!same_in_8(written, report->data, report->size))
        return false;
    if (report->port) {
        if ((number == UNDO_PORT_DX ? cpu->slot[X86_RDX] & 0xffff : number) != report->address)
            return false;
    } else {
        linear = undo_operand_at(cpu, &seen->to, cpu->slot, 0);
        if (!undo_translate_near(cpu, linear, &gpa, &code.near) || gpa != report->address
            || (gpa & X86_PAGE_MASK) + report->size > X86_PAGE_SIZE)
            return false;
    }
    // All that is asked of an instruction that KVM is done with.
    undo->pending = KVM_PENDING_NOTHING;
    undo->port = report->port;
    undo->string = undo->rep = false;
    undo->whole = !report->port;
    undo->linear = linear;
    undo->length = seen->length;
    cpu->rip = undo->rip = x86_cut_rip(cpu, cpu->rip - seen->length);
    cpu->rflags &= ~(uint64_t)X86_RF;
    take_bytes(undo, &code, seen->length);
    return true;
}

// ---- The search -------------------------------------------------------------------------------------------

// Look at all instructions that end at the code's place.
static bool search_before(struct search *s, bool call, struct undo_fit *found)
{
    struct undo_fit fit;
    unsigned lengths = 0, repeated = 0, kept = 0, spare = 0;
    for (unsigned n = 1; n <= ZYDIS_MAX_INSTRUCTION_LENGTH && n <= s->code.before; n++) {
        if (!fits_back(s, n, call, &s->insn[spare], &fit))
            continue;
        if (kept && found->proven && !fit.proven)
            continue;
        if (!kept || (fit.proven && !found->proven)) {
            lengths = repeated = 0;
            kept = n;
            *found = fit;
            spare ^= 1;
        }
        lengths |= 1u << n;
        repeated |= fit.insn->rep ? 1u << n : 0;
    }
    if (!(lengths & (lengths - 1)))
        return lengths != 0;
    // A repetition at its end is likelier than one element with a count of 0 behind what looks like a prefix.
    struct undo_code more;
    undo_fetch(s->cpu, s->code.rip, UNDO_BEFORE, &more);
    unsigned chosen = most_travelled(s->cpu, &more, lengths, !found->proven);
    if (!chosen && !found->proven && !repeated)
        chosen = 31u - (unsigned)__builtin_clz(lengths);
    else if (!chosen)
        chosen = (unsigned)__builtin_ctz(repeated ? repeated : lengths);
    return chosen == kept || fits_back(s, chosen, call, &s->insn[spare], found);
}

// An instruction that ends at `end`.
static bool find_before(struct search *s, uint64_t end, bool call, struct undo_fit *found)
{
    const struct undo_seen *seen = seen_at(s->undo, end);
    if (seen->end == end && seen->length) {
        undo_fetch(s->cpu, end, seen->length, &s->code);
        if (s->code.before == seen->length && fits_back(s, seen->length, call, NULL, found) && found->proven)
            return true;
    }
    undo_fetch(s->cpu, end, ZYDIS_MAX_INSTRUCTION_LENGTH, &s->code);
    if (!search_before(s, call, found))
        return false;
    remember(s->undo, s->cpu, end, &s->report, &s->code, found);
    return true;
}

// What a push of `size` bytes has left at the stack's top: in the report, or in memory for what of it lies
// there. False: it is in neither.
static bool pushed_value(struct x86_cpu *cpu, const struct undo_report *report, unsigned size,
                         uint64_t *value)
{
    uint8_t bytes[8] = { 0 };
    uint64_t linear = undo_segment_linear(cpu, X86_SS, cpu->slot[X86_RSP] & undo_stack_mask(cpu));
    bool reported = false;
    for (unsigned n = 0; n < size; n++) {
        uint64_t gpa;
        bool found = undo_translate(cpu, linear + n, &gpa);
        if (found && gpa - report->address < report->size) {
            bytes[n] = report->data[gpa - report->address];
            reported = true;
        } else if (!undo_read_memory(cpu, linear + n, &bytes[n], 1)) {
            return false;
        }
    }
    memcpy(value, bytes, sizeof bytes);
    return reported;
}

// The return address that a CALL pushed tells where it ended.
static bool find_call(struct search *s, struct undo_fit *found)
{
    uint64_t end;
    for (unsigned size = 2; size <= 8 && !s->report.port; size *= 2) {
        if (!pushed_value(s->cpu, &s->report, size, &end))
            continue;
        if (find_before(s, end, true, found))
            return true;
    }
    return false;
}

static bool find_here(struct search *s, struct undo_fit *here)
{
    here->finished = false;
    here->insn = &s->here;
    return undo_may_stay(s->cpu, undo_back(&s->code, 0), s->code.after)
        && undo_decode(s->cpu, undo_back(&s->code, 0), s->code.after, s->cpu->rip, &s->here)
        && (here->insn->rep || here->insn->z.mnemonic == ZYDIS_MNEMONIC_OUT)
        && undo_fits(s->cpu, &s->report, here);
}

static bool find_write(struct search *s, bool completed, bool *ambiguous, struct undo_fit *found)
{
    struct undo_fit here;
    bool before = find_before(s, s->cpu->rip, false, found), at = find_here(s, &here);
    bool skip = at && !here.insn->string;
    if (skip && completed)
        at = false;
    else if (skip && before)
        return *ambiguous = true, false;
    // In the middle of a repetition the kernel has set RF, and at the end of any instruction cleared it
    // (x86_emulate_insn).
    if (at && (!before || (s->cpu->rflags & X86_RF)))
        *found = here;
    return at || before || find_call(s, found);
}

static __attribute__((noinline))
bool undo_write(struct x86_cpu *cpu, const struct undo_report *report, bool completed, bool *ambiguous,
                       struct kvm_undo *undo)
{
    struct search search;       // its code is filled in by each look
    search.cpu = cpu;
    search.report = *report;
    search.undo = undo;
    struct undo_fit found;
    bool ok = false;
    for (unsigned pass = 0; pass < 2 && !ok && !*ambiguous; pass++) {
        search.report.exact = pass == 0;
        ok = find_write(&search, completed, ambiguous, &found);
    }
    if (!ok) {
        // What KVM may still do, at the worst.
        bool wide = report->size == 8 || !((report->address + report->size) & X86_PAGE_MASK);
        undo->pending = report->port ? (completed ? KVM_PENDING_NOTHING : KVM_PENDING_SKIP)
                                     : (wide ? KVM_PENDING_MORE : KVM_PENDING_NOTHING);
        undo_fetch(cpu, cpu->rip, 0, &search.code);
        take_bytes(undo, &search.code, 0);
        return false;
    }
    undo->pending = found.more ? KVM_PENDING_MORE : KVM_PENDING_NOTHING;
    if (report->port && !found.finished && !found.insn->string)
        undo->pending = KVM_PENDING_SKIP;
    undo->whole = found.whole;
    undo->linear = found.whole ? found.linear : 0;
    take_instruction(undo, found.insn);
    take_bytes(undo, &search.code, found.finished ? found.insn->z.length : 0);
    memcpy(cpu->slot, found.gpr, sizeof found.gpr);
    cpu->rip = found.insn->rip;
    if (undo_uses_carry(found.insn->z.mnemonic))
        cpu->oszapc = (uint16_t)((cpu->oszapc & ~X86_HOST_CF) | (found.carry ? X86_HOST_CF : 0));
    if (undo->pending != KVM_PENDING_SKIP)
        cpu->rflags &= ~(uint64_t)X86_RF;
    return true;
}

__attribute__((hot)) bool kvm_undo_exit(struct x86_cpu *cpu, const struct kvm_run *run, bool completed, bool *ambiguous,
                   struct kvm_undo *undo)
{
    struct undo_report report;
    *ambiguous = false;
    if (run->exit_reason == KVM_EXIT_IO) {
        if (run->io.direction == KVM_EXIT_IO_IN)
            return undo_read(cpu, run, undo);
        report = (struct undo_report){ .port = true, .address = run->io.port, .size = run->io.size,
                                       .count = run->io.count, .data = (const uint8_t *)run + run->io.data_offset };
    } else {
        if (!run->mmio.is_write)
            return undo_read(cpu, run, undo);
        report = (struct undo_report){ .address = run->mmio.phys_addr, .size = run->mmio.len, .count = 1,
                                       .data = run->mmio.data };
    }
    if (seen_again(cpu, &report, undo))
        return true;
    undo_begin(cpu, run, undo);
    return undo_write(cpu, &report, completed, ambiguous, undo);
}

// ---- The data that a client gave --------------------------------------------------------------------------

// The register after a load of `data`.
static uint64_t loaded(const struct kvm_undo *undo, uint64_t old, uint64_t data)
{
    unsigned shift = undo->target % 8 * 8, unused = 64 - undo->size * 8;
    data <<= unused;
    data = undo->sign ? (uint64_t)((int64_t)data >> unused) : data >> unused;
    if (undo->width == 8)
        return data;
    if (undo->width == 4)
        return data & 0xffffffff;
    uint64_t mask = ((1ull << undo->width * 8) - 1) << shift;
    return (old & ~mask) | (data << shift & mask);
}

void kvm_undo_keep(struct kvm_undo_registers *registers, const struct x86_cpu *cpu)
{
    memcpy(registers->slot, cpu->slot, sizeof registers->slot);
    registers->rflags = cpu->rflags;
    registers->oszapc = cpu->oszapc;
}

__attribute__((hot)) bool kvm_undo_feed(const struct kvm_undo *undo, const struct kvm_undo_registers *before,
                   const struct x86_cpu *wanted, uint8_t data[8])
{
    if (undo->pending != KVM_PENDING_INPUT || !undo->plain
        || wanted->rip != x86_cut_rip(wanted, undo->rip + undo->length))
        return false;
    if (wanted->rflags != before->rflags || wanted->oszapc != before->oszapc
        || (wanted->rflags & (X86_TF | X86_RF)) || wanted->interrupt_shadow)
        return false;
    unsigned target = undo->target / 8;
    uint64_t others[UNDO_GPRS];
    memcpy(others, before->slot, sizeof others);
    others[target] = wanted->slot[target];
    if (!same_pairs(wanted->slot, others, UNDO_GPRS / 2))
        return false;
    uint64_t value = wanted->slot[target] >> undo->target % 8 * 8;
    if (wanted->slot[target] != loaded(undo, before->slot[target], value))
        return false;
    value &= ~0ull >> (64 - undo->size * 8);
    memcpy(data, &value, sizeof value);
    return true;
}
