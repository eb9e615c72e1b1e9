// Which instructions fit a write that KVM reports.
//
// Each check works out the registers before the instruction from those after it, then from these where the
// instruction writes and what, and compares with the report. So a wrong guess is harmless: running the
// accepted instruction from the worked-out registers makes the same access and ends in the registers that KVM
// left. That holds for `proven` ones; where the data came from a vector register, a device or a port, all but
// the data is compared, and such an instruction is taken only where no proven one fits.
//
// A read-modify-write exits for its write where memory may be read and not written. What it made of the
// arithmetic flags is left, but for a carry that went into its result: it makes the same of them again.
#include "engine/kvm/undo_fit.h"

#include <string.h>

#include "engine/kvm/undo_modify.h"
#include "x86/ops_condition.h"

#define VALUE_BYTES 16

// What an instruction writes, as far as it can be told: `known` bytes.
struct value { uint8_t bytes[VALUE_BYTES]; unsigned known; };

// ---- Where and what ---------------------------------------------------------------------------------------

static unsigned fragment(unsigned size) { return size < 8 ? size : 8; }

// The kernel reports a write in parts: one for each page that is not memory it can write to, in pieces of up
// to 8 bytes (emulator_read_write, vcpu_mmio_write). Is the report's the first part of a write of `size`
// bytes?
static bool write_fits(struct x86_cpu *cpu, const struct undo_report *report, uint64_t linear, unsigned size,
                       const struct value *value, struct undo_fit *fit)
{
    unsigned first = X86_PAGE_SIZE - (unsigned)(linear & X86_PAGE_MASK), skip = 0;
    uint64_t gpa;
    if (first > size)
        first = size;
    bool at_first = undo_translate(cpu, linear, &gpa) && gpa == report->address
                 && report->size == fragment(first);
    if (at_first) {
        fit->more = first > 8;
        if (first < size && !fit->more) {
            struct x86_page page = { 0 };
            if (undo_translate(cpu, linear + first, &gpa))
                page = undo_page(cpu, gpa);
            fit->more = !page.host || !page.write;
        }
    } else {
        skip = first;
        if (first == size || !undo_translate(cpu, linear + first, &gpa) || gpa != report->address
            || report->size != fragment(size - first))
            return false;
        fit->more = size - first > 8;
    }
    for (unsigned n = 0; n < report->size && skip + n < value->known; n++)
        if (value->bytes[skip + n] != report->data[n])
            return false;
    fit->proven = skip + report->size <= value->known;
    return true;
}

static void value_set(struct value *value, uint64_t bits, unsigned known)
{
    memcpy(value->bytes, &bits, sizeof bits);
    value->known = known;
}

// False: there is nothing, and an instruction with this source would have failed. A device's data is not
// known.
static bool value_from_memory(struct x86_cpu *cpu, const struct undo_report *report, uint64_t linear,
                              unsigned size, struct value *value)
{
    uint64_t gpa;
    value->known = 0;
    if (!undo_translate(cpu, linear, &gpa))
        return false;
    if (report->exact && size <= VALUE_BYTES && undo_read_memory(cpu, linear, value->bytes, size))
        value->known = size;
    return true;
}

// A source operand. What is in vector registers and the like is not looked at: the view need not have them.
static bool value_from_operand(struct x86_cpu *cpu, const struct undo_report *report,
                               const struct undo_fit *fit, const ZydisDecodedOperand *operand,
                               struct value *value)
{
    uint64_t linear;
    value->known = 0;
    if (operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        value_set(value, operand->imm.value.u, 8);
    } else if (undo_is_memory(operand)) {
        return undo_operand_linear(cpu, fit->insn, operand, fit->gpr, &linear)
            && value_from_memory(cpu, report, linear, operand->size / 8, value);
    } else if (undo_is_gpr(operand)) {
        unsigned offset = x86_emit_gpr(operand->reg.value);
        value_set(value, fit->gpr[offset / 8] >> offset % 8 * 8, operand->size / 8);
    } else if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER && x86_is_segment(operand->reg.value)) {
        value_set(value, cpu->segment[x86_emit_index(operand->reg.value)].selector, 8);
    }
    return true;
}

// ---- Ports ------------------------------------------------------------------------------------------------

static bool out_fits(const struct undo_report *report, const struct undo_fit *fit)
{
    const ZydisDecodedOperand *port = &fit->insn->operand[0], *source = &fit->insn->operand[1];
    uint64_t number = port->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? port->imm.value.u & 0xff
                                                                 : fit->gpr[X86_RDX] & 0xffff;
    return number == report->address && source->size / 8 == report->size && report->count == 1
        && !memcmp(&fit->gpr[X86_RAX], report->data, report->size);
}

// Undo `count` elements of a string instruction: the registers of its addresses (a set of bits), and RCX.
// False: its repetition cannot have come to where RIP says it is. (RIP may stay on it with RCX at 0: the
// kernel looks at RCX before an element and not after it.)
static bool string_undo(const struct x86_cpu *cpu, struct undo_fit *fit, unsigned registers, unsigned size,
                        uint64_t count)
{
    uint64_t mask = fit->insn->address_mask;
    uint64_t back = cpu->rflags & X86_DF ? size * count : -(size * count);
    if (fit->insn->rep) {
        if (fit->finished && (fit->gpr[X86_RCX] & mask))
            return false;
        fit->gpr[X86_RCX] = undo_add(fit->gpr[X86_RCX], mask, count);
    } else if (!fit->finished) {
        return false;
    }
    for (unsigned n = 0; n < UNDO_GPRS; n++)
        if (registers >> n & 1)
            fit->gpr[n] = undo_add(fit->gpr[n], mask, back);
    return true;
}

static const ZydisDecodedOperand *string_operand(const struct undo_insn *insn, unsigned reg)
{
    for (unsigned n = 0; n < insn->z.operand_count; n++) {
        const ZydisDecodedOperand *o = &insn->operand[n];
        if (undo_is_memory(o) && x86_emit_gpr(o->mem.base) / 8 == reg)
            return o;
    }
    return NULL;
}

static bool outs_fits(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit)
{
    const ZydisDecodedOperand *source = string_operand(fit->insn, X86_RSI);
    uint64_t linear;
    if (!source || source->size / 8 != report->size || (fit->gpr[X86_RDX] & 0xffff) != report->address)
        return false;
    if (!string_undo(cpu, fit, 1u << X86_RSI, report->size, report->count))
        return false;
    uint64_t step = cpu->rflags & X86_DF ? -(uint64_t)report->size : report->size;
    struct undo_fit at = *fit;
    for (unsigned n = 0; report->exact && n < report->count; n++) {
        uint8_t element[8];
        if (!undo_operand_linear(cpu, at.insn, source, at.gpr, &linear))
            return false;
        if (undo_read_memory(cpu, linear, element, report->size)
            && memcmp(element, report->data + (size_t)n * report->size, report->size))
            return false;
        at.gpr[X86_RSI] = undo_add(at.gpr[X86_RSI], at.insn->address_mask, step);
    }
    return true;
}

static bool port_fits(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit)
{
    switch (fit->insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_OUT:
        return out_fits(report, fit);
    case ZYDIS_MNEMONIC_OUTSB: case ZYDIS_MNEMONIC_OUTSW: case ZYDIS_MNEMONIC_OUTSD:
        return outs_fits(cpu, report, fit);
    default:
        return false;
    }
}

// ---- Strings and the stack --------------------------------------------------------------------------------

// STOS, MOVS, and INS, whose data came from its port.
static bool string_fits(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit)
{
    const ZydisDecodedOperand *to = string_operand(fit->insn, X86_RDI);
    const ZydisDecodedOperand *from = string_operand(fit->insn, X86_RSI);
    struct value value = { .known = 0 };
    uint64_t linear;
    if (!to || !(to->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
        return false;
    unsigned size = to->size / 8;
    if (!string_undo(cpu, fit, 1u << X86_RDI | (from ? 1u << X86_RSI : 0), size, 1))
        return false;
    if (from) {
        if (!value_from_operand(cpu, report, fit, from, &value))
            return false;
    } else if (fit->insn->z.meta.category == ZYDIS_CATEGORY_STRINGOP) {
        value_set(&value, fit->gpr[X86_RAX], size);
    }
    return undo_operand_linear(cpu, fit->insn, to, fit->gpr, &linear)
        && write_fits(cpu, report, linear, size, &value, fit);
}

static uint64_t stack_top(const struct x86_cpu *cpu)
{
    return undo_segment_linear(cpu, X86_SS, cpu->slot[X86_RSP] & undo_stack_mask(cpu));
}

static void stack_undo(const struct x86_cpu *cpu, struct undo_fit *fit, uint64_t size)
{
    fit->gpr[X86_RSP] = undo_add(fit->gpr[X86_RSP], undo_stack_mask(cpu), size);
}

// PUSHA: eight writes, RAX first. The kernel goes on behind one that it has to report, and reports the last
// of those.
static bool push_all_fits(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit,
                          unsigned size)
{
    uint64_t mask = undo_stack_mask(cpu);
    struct value value;
    stack_undo(cpu, fit, 8 * size);
    for (unsigned n = 0; n < 8; n++) {
        uint64_t offset = (cpu->slot[X86_RSP] + n * size) & mask;
        value_set(&value, fit->gpr[X86_RDI - n], size);
        if (write_fits(cpu, report, undo_segment_linear(cpu, X86_SS, offset), size, &value, fit))
            return true;
    }
    return false;
}

static bool push_fits(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit)
{
    const struct undo_insn *insn = fit->insn;
    const ZydisDecodedOperand *slot = undo_stack_operand(insn), *source = &insn->operand[0];
    struct value value = { .known = 0 };
    if (!slot)
        return false;
    unsigned size = slot->size / 8;
    if (insn->z.mnemonic == ZYDIS_MNEMONIC_PUSHA || insn->z.mnemonic == ZYDIS_MNEMONIC_PUSHAD)
        return push_all_fits(cpu, report, fit, size / 8);
    stack_undo(cpu, fit, size);
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_PUSHF: case ZYDIS_MNEMONIC_PUSHFD: case ZYDIS_MNEMONIC_PUSHFQ:
        value_set(&value, x86_get_rflags(cpu) & ~(uint64_t)(X86_VM | X86_RF), size);
        if (cpu->rflags & X86_VM)       // IOPL and IF are not what they seem (SDM vol. 2, PUSHF)
            value.known = 1;
        break;
    case ZYDIS_MNEMONIC_PUSH:
        if (!value_from_operand(cpu, report, fit, source, &value))
            return false;
        // A selector in a slot of four bytes: processors write the lower two (SDM vol. 2, PUSH).
        if (size == 4 && source->type == ZYDIS_OPERAND_TYPE_REGISTER
            && ZydisRegisterGetClass(source->reg.value) == ZYDIS_REGCLASS_SEGMENT
            && write_fits(cpu, report, stack_top(cpu), 2, &value, fit))
            return true;
        break;
    default:
        return false;
    }
    return write_fits(cpu, report, stack_top(cpu), size, &value, fit);
}

static bool pop_fits(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit)
{
    const ZydisDecodedOperand *to = &fit->insn->operand[0];
    struct value value;
    uint64_t linear;
    unsigned size = to->size / 8;
    // An address with RSP in it is worked out with RSP as the instruction leaves it (SDM vol. 2, POP).
    if (!undo_is_memory(to) || !undo_operand_linear(cpu, fit->insn, to, fit->gpr, &linear))
        return false;
    stack_undo(cpu, fit, -(uint64_t)size);
    uint64_t from = undo_segment_linear(cpu, X86_SS, fit->gpr[X86_RSP] & undo_stack_mask(cpu));
    return value_from_memory(cpu, report, from, size, &value)
        && write_fits(cpu, report, linear, size, &value, fit);
}

// ---- Operands in memory -----------------------------------------------------------------------------------

// The condition of SETcc, from the low four bits of its opcode.
static bool condition(const struct x86_cpu *cpu, unsigned code)
{
    unsigned f = cpu->oszapc, n = 0;
#define X(name) if (n++ == code) return X86_CONDITION_##name(f) != 0;
    X86_FOR_CONDITIONS(X)
#undef X
    return false;
}

static void reverse(struct value *value, unsigned size)
{
    for (unsigned n = 0; n < size / 2; n++) {
        uint8_t byte = value->bytes[n];
        value->bytes[n] = value->bytes[size - 1 - n];
        value->bytes[size - 1 - n] = byte;
    }
}

// An instruction that writes one operand in memory, without reading it, and no register.
static bool store_fits(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit)
{
    const struct undo_insn *insn = fit->insn;
    const ZydisDecodedOperand *to = &insn->operand[0], *source = &insn->operand[1];
    struct value value = { .known = 0 };
    uint64_t linear;
    unsigned size = to->size / 8;
    // FNSTCW and FNSTSW write nothing else; Zydis has them change the status word.
    bool alone = insn->z.mnemonic == ZYDIS_MNEMONIC_FNSTCW || insn->z.mnemonic == ZYDIS_MNEMONIC_FNSTSW;
    for (unsigned n = 1; n < insn->z.operand_count && !alone; n++)
        if (insn->operand[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            return false;
    if (insn->z.meta.category == ZYDIS_CATEGORY_SETCC)
        value_set(&value, condition(cpu, insn->z.opcode & 15), 1);
    else if (insn->z.operand_count > 1 && !value_from_operand(cpu, report, fit, source, &value))
        return false;
    if (insn->z.mnemonic == ZYDIS_MNEMONIC_MOVBE)
        reverse(&value, size);
    if (!undo_operand_linear(cpu, insn, to, fit->gpr, &linear)
        || !write_fits(cpu, report, linear, size, &value, fit))
        return false;
    fit->whole = fit->proven && report->size == size && (insn->z.operand_count < 2 || !undo_is_memory(source));
    fit->linear = linear;
    return true;
}

// The register that a read-modify-write exchanged with its operand, as it was before. False: this cannot be
// told.
static bool exchange_undo(const struct undo_report *report, struct undo_fit *fit, unsigned size, uint64_t old)
{
    const ZydisDecodedOperand *reg = &fit->insn->operand[1];
    uint64_t written = 0, mask = ~0ull >> (64 - size * 8);
    if (report->size != size || reg->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return false;
    memcpy(&written, report->data, size);
    unsigned offset = x86_emit_gpr(reg->reg.value), shift = offset % 8 * 8;
    uint64_t *slot = &fit->gpr[offset / 8];
    if ((*slot >> shift & mask) != old)
        return false;
    if (fit->insn->z.mnemonic == ZYDIS_MNEMONIC_XADD)
        written -= old;
    *slot = (*slot & ~(mask << shift)) | (written & mask) << shift;
    return true;
}

static bool modify_fits(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit)
{
    const struct undo_insn *insn = fit->insn;
    const ZydisDecodedOperand *to = &insn->operand[0];
    struct undo_modify m = { .mnemonic = insn->z.mnemonic, .size = to->size / 8 };
    struct value value;
    uint64_t linear, result;
    if (m.size > 8 || !undo_operand_linear(cpu, insn, to, fit->gpr, &linear)
        || !undo_read_memory(cpu, linear, &m.old, m.size))
        return false;
    if (m.mnemonic == ZYDIS_MNEMONIC_XCHG || m.mnemonic == ZYDIS_MNEMONIC_XADD) {
        if (!exchange_undo(report, fit, m.size, m.old))
            return false;
    } else if (m.mnemonic == ZYDIS_MNEMONIC_CMPXCHG && !(cpu->oszapc & X86_HOST_ZF)) {
        return false;           // it failed, and what RAX was is lost
    }
    if (insn->z.operand_count_visible > 1) {
        if (!value_from_operand(cpu, report, fit, &insn->operand[1], &value) || !value.known)
            return false;
        memcpy(&m.source, value.bytes, sizeof m.source);
    }
    if (undo_shifts(m.mnemonic)) {
        bool third = m.mnemonic == ZYDIS_MNEMONIC_SHLD || m.mnemonic == ZYDIS_MNEMONIC_SHRD;
        if (!value_from_operand(cpu, report, fit, &insn->operand[third ? 2 : 1], &value))
            return false;
        m.count = value.bytes[0];
    }
    bool now = cpu->oszapc & X86_HOST_CF;
    for (unsigned n = 0; n < 2; n++) {
        m.carry = fit->carry = n ? !now : now;
        if (!undo_modified(&m, &result))
            return false;
        value_set(&value, result, m.size);
        if (write_fits(cpu, report, linear, m.size, &value, fit))
            return true;
    }
    return false;
}

static bool memory_fits(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit)
{
    if (fit->insn->string)
        return string_fits(cpu, report, fit);
    if (!fit->finished)
        return false;
    switch (fit->insn->z.meta.category) {
    case ZYDIS_CATEGORY_PUSH:
        return push_fits(cpu, report, fit);
    case ZYDIS_CATEGORY_POP:
        return pop_fits(cpu, report, fit);
    case ZYDIS_CATEGORY_CALL:
        return false;
    default:
        break;
    }
    const ZydisDecodedOperand *to = &fit->insn->operand[0];
    if (fit->insn->z.operand_count == 0 || !undo_is_memory(to)
        || !(to->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
        return false;
    bool reads = to->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
    return reads ? modify_fits(cpu, report, fit) : store_fits(cpu, report, fit);
}

// With 32-bit addresses a string instruction in 64-bit code clears the upper halves of its registers (SDM
// vol. 1 3.4.1.1). What they were is lost; with something in them afterwards it is hardly what ran.
static bool has_upper_halves(const struct undo_fit *fit)
{
    uint64_t used = 0;
    if (!fit->insn->string || fit->insn->address_mask != 0xffffffff)
        return false;
    if (string_operand(fit->insn, X86_RSI))
        used |= fit->gpr[X86_RSI];
    if (string_operand(fit->insn, X86_RDI))
        used |= fit->gpr[X86_RDI];
    return used >> 32;
}

bool undo_fits(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit)
{
    memcpy(fit->gpr, cpu->slot, sizeof fit->gpr);
    fit->more = fit->whole = false;
    fit->proven = report->port;
    if (!(report->port ? port_fits(cpu, report, fit) : memory_fits(cpu, report, fit)))
        return false;
    if (has_upper_halves(fit))
        fit->proven = false;
    return true;
}

bool undo_fits_call(struct x86_cpu *cpu, const struct undo_report *report, struct undo_fit *fit)
{
    const struct undo_insn *insn = fit->insn;
    const ZydisDecodedOperand *slot = undo_stack_operand(insn), *to = &insn->operand[0];
    uint64_t end = insn->rip + insn->z.length;
    struct value value;
    memcpy(fit->gpr, cpu->slot, sizeof fit->gpr);
    fit->more = fit->whole = false;
    fit->finished = true;
    if (insn->z.meta.category != ZYDIS_CATEGORY_CALL || insn->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR
        || !slot)
        return false;
    unsigned size = slot->size / 8;
    stack_undo(cpu, fit, size);
    if (to->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        uint64_t target = end + to->imm.value.u;
        if (size < 8 && ((target ^ cpu->rip) & ((1ull << size * 8) - 1)))
            return false;
        if (size == 8 && target != cpu->rip)
            return false;
    } else {
        if (!value_from_operand(cpu, report, fit, to, &value))
            return false;
        if (memcmp(value.bytes, &cpu->rip, value.known))
            return false;
    }
    value_set(&value, end, size);
    return write_fits(cpu, report, stack_top(cpu), size, &value, fit);
}
