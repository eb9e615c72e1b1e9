// What completing a read changes: one register, or more than that.
#include "engine/kvm/undo_read.h"

bool undo_input_fits(const struct x86_cpu *cpu, const struct kvm_run *run, const struct undo_insn *insn)
{
    const ZydisDecodedOperand *to = &insn->operand[0], *port = &insn->operand[1];
    uint64_t number = cpu->slot[X86_RDX] & 0xffff;
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_IN:
        if (port->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
            number = port->imm.value.u & 0xff;
        break;
    case ZYDIS_MNEMONIC_INSB: case ZYDIS_MNEMONIC_INSW: case ZYDIS_MNEMONIC_INSD:
        break;
    default:
        return false;
    }
    return number == run->io.port && to->size / 8 == run->io.size;
}

// The instruction loads a general register with all that KVM asks for, and does nothing else.
static bool is_plain_load(struct x86_cpu *cpu, const struct kvm_run *run, const struct undo_insn *insn,
                          uint64_t *linear)
{
    const ZydisDecodedOperand *to = &insn->operand[0], *from = &insn->operand[1];
    uint64_t gpa;
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_IN:
        return run->io.count == 1;
    case ZYDIS_MNEMONIC_MOV: case ZYDIS_MNEMONIC_MOVZX: case ZYDIS_MNEMONIC_MOVSX: case ZYDIS_MNEMONIC_MOVSXD:
        break;
    default:
        return false;
    }
    if (!undo_is_gpr(to) || !undo_is_memory(from) || from->size > to->size)
        return false;
    return from->size / 8 == run->mmio.len && undo_operand_linear(cpu, insn, from, cpu->slot, linear)
        && undo_translate(cpu, *linear, &gpa) && gpa == run->mmio.phys_addr;
}

// Reading and writing vector registers alike: an operation on them may leave marks in MXCSR, which Zydis does
// not list.
static bool changes_fpu(const struct undo_insn *insn)
{
    switch (insn->z.mnemonic) {
    case ZYDIS_MNEMONIC_FXRSTOR: case ZYDIS_MNEMONIC_FXRSTOR64: case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64: case ZYDIS_MNEMONIC_XRSTORS: case ZYDIS_MNEMONIC_XRSTORS64:
    case ZYDIS_MNEMONIC_LDMXCSR: case ZYDIS_MNEMONIC_VLDMXCSR:
        return true;
    default:
        break;
    }
    if (insn->z.meta.isa_ext == ZYDIS_ISA_EXT_X87)
        return true;
    for (unsigned n = 0; n < insn->z.operand_count; n++) {
        if (insn->operand[n].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        switch (ZydisRegisterGetClass(insn->operand[n].reg.value)) {
        case ZYDIS_REGCLASS_X87: case ZYDIS_REGCLASS_MMX: case ZYDIS_REGCLASS_XMM: case ZYDIS_REGCLASS_YMM:
        case ZYDIS_REGCLASS_ZMM: case ZYDIS_REGCLASS_TMM: case ZYDIS_REGCLASS_MASK:
            return true;
        default:
            break;
        }
    }
    return false;
}

// List what of the range is memory that KVM can write to; the rest it would ask for.
static void add_write(struct x86_cpu *cpu, struct kvm_undo *undo, uint64_t linear, uint64_t size)
{
    while (size) {
        uint64_t part = X86_PAGE_SIZE - (linear & X86_PAGE_MASK), gpa;
        if (part > size)
            part = size;
        struct x86_page page = { 0 };
        if (undo_translate(cpu, linear, &gpa))
            page = undo_page(cpu, gpa);
        unsigned last = undo->write_count - 1u;
        if (!page.host || !page.write)
            ;
        else if (undo->write_count && undo->writes[last].linear + undo->writes[last].size == linear)
            undo->writes[last].size += (uint32_t)part;
        else if (undo->write_count < KVM_UNDO_WRITES) {
            undo->writes[undo->write_count].linear = linear;
            undo->writes[undo->write_count++].size = (uint32_t)part;
        }
        linear += part;
        size -= part;
    }
}

// Bytes that the instruction pushes; those of ENTER are at most its frame pointers.
static unsigned pushed(const struct x86_cpu *cpu, const struct undo_insn *insn)
{
    const ZydisDecodedOperand *slot = undo_stack_operand(insn);
    switch (insn->z.meta.category) {
    case ZYDIS_CATEGORY_PUSH:
        return slot ? slot->size / 8 : 0;
    case ZYDIS_CATEGORY_CALL:
        if (insn->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
            return 2 * insn->z.operand_width / 8;
        return slot ? slot->size / 8 : 0;
    case ZYDIS_CATEGORY_INTERRUPT:
        return cpu->mode & X86_MODE_PROTECTED ? 0 : 6;      // KVM emulates them in real mode only
    default:
        return insn->z.mnemonic == ZYDIS_MNEMONIC_ENTER && slot
             ? slot->size / 8 * (1 + (unsigned)(insn->operand[1].imm.value.u & 31)) : 0;
    }
}

static void find_writes(struct x86_cpu *cpu, const struct kvm_run *run, const struct undo_insn *insn,
                        struct kvm_undo *undo)
{
    const ZydisDecodedOperand *stack = undo_stack_operand(insn);
    for (unsigned n = 0; n < insn->z.operand_count; n++) {
        const ZydisDecodedOperand *o = &insn->operand[n];
        uint64_t linear, size = o->size / 8, elements = 1;
        if (!undo_is_memory(o) || o == stack || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            || !undo_operand_linear(cpu, insn, o, cpu->slot, &linear))
            continue;
        if (insn->z.meta.category == ZYDIS_CATEGORY_IOSTRINGOP && run->io.count)
            elements = run->io.count;
        if (cpu->rflags & X86_DF && insn->string)
            linear -= (elements - 1) * size;
        add_write(cpu, undo, linear, elements * size);
    }
    unsigned size = pushed(cpu, insn);
    if (size) {
        uint64_t to = (cpu->slot[X86_RSP] - size) & undo_stack_mask(cpu);
        add_write(cpu, undo, undo_segment_linear(cpu, X86_SS, to), size);
    }
}

void undo_read_effects(struct x86_cpu *cpu, const struct kvm_run *run, const struct undo_insn *insn,
                       struct kvm_undo *undo)
{
    const ZydisDecodedOperand *to = &insn->operand[0], *from = &insn->operand[1];
    undo->plain = is_plain_load(cpu, run, insn, &undo->linear);
    if (undo->plain) {
        undo->whole = !undo->port;
        undo->target = x86_emit_gpr(to->reg.value);
        undo->width = (uint8_t)(to->size / 8);
        undo->size = insn->z.mnemonic == ZYDIS_MNEMONIC_IN ? undo->width : (uint8_t)(from->size / 8);
        undo->sign = insn->z.mnemonic == ZYDIS_MNEMONIC_MOVSX || insn->z.mnemonic == ZYDIS_MNEMONIC_MOVSXD;
        return;
    }
    undo->changes_fpu = changes_fpu(insn);
    find_writes(cpu, run, insn, undo);
}
