// Instructions about segment registers, descriptors and their tables; MOV with control and debug registers.
#include "x86/ops_system.h"

// ---- Segment registers ------------------------------------------------------------------------------------

// After a load of `segment`, may the block go on? SS holds interrupts off for one instruction, and outside
// 64-bit mode the mode may have changed.
static bool goes_on(struct x86_cpu *cpu, const struct insn *i, unsigned segment)
{
    if (segment == X86_SS) {
        cpu->interrupt_shadow = 1;
        x86_update_mode(cpu);
        return false;
    }
    return segment >= X86_FS || (i->flags & INSN_CODE64);
}

static const struct insn *mov_to_segment(struct x86_cpu *cpu, const struct insn *i)
{
    OPERAND16(selector);
    if (!x86_load_segment(cpu, i->dst, selector))
        return x86_leave_fault(cpu, i);
    if (!goes_on(cpu, i, i->dst))
        return x86_leave_done(cpu, i);
    NEXT(cpu, i);
}

static const struct insn *mov_from_segment_r(struct x86_cpu *cpu, const struct insn *i)
{
    uint16_t selector = cpu->segment[i->src].selector;
    if (i->size == 2)
        R16(i->dst) = selector;
    else
        R64(i->dst) = selector;
    NEXT(cpu, i);
}

static const struct insn *mov_from_segment_m(struct x86_cpu *cpu, const struct insn *i)
{
    ADDRESS(lin, 2, X86_WRITE);
    STORE(uint16_t, lin, cpu->segment[i->src].selector);
    NEXT(cpu, i);
}

static bool emit_mov_segment(struct x86_emit *e)
{
    const ZydisDecodedOperand *to = &e->operand[0], *from = &e->operand[1];
    if (x86_is_register(to) && ZydisRegisterGetClass(to->reg.value) == ZYDIS_REGCLASS_SEGMENT) {
        e->insn->dst = x86_emit_index(to->reg.value);
        if (e->insn->dst == X86_CS || e->insn->dst > X86_GS)
            return false;
        emit_register_or_memory(e, from);
        return emit_fn(e, mov_to_segment);
    }
    e->insn->src = x86_emit_index(from->reg.value);
    if (x86_is_memory(to)) {
        x86_emit_memory(e, to);
        return emit_fn(e, mov_from_segment_m);
    }
    e->insn->dst = x86_emit_gpr(to->reg.value);
    return emit_fn(e, mov_from_segment_r);
}

static const struct insn *push_segment(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->current = i;
    if (!x86_push(cpu, i->size, cpu->segment[i->src].selector))
        return x86_leave_fault(cpu, i);
    NEXT(cpu, i);
}

static const struct insn *pop_segment(struct x86_cpu *cpu, const struct insn *i)
{
    struct x86_stack st;
    uint64_t selector;
    cpu->current = i;
    segment_stack_current(cpu, &st);
    if (!segment_pop(cpu, &st, i->size, &selector) || !x86_load_segment(cpu, i->dst, (uint16_t)selector))
        return x86_leave_fault(cpu, i);
    segment_stack_commit(cpu, &st);
    (void)goes_on(cpu, i, i->dst);
    return x86_leave_done(cpu, i);
}

bool x86_emit_push_segment(struct x86_emit *e, unsigned p)
{
    (void)p;
    e->insn->src = x86_emit_index(e->operand[0].reg.value);
    return emit_fn(e, push_segment);
}

bool x86_emit_pop_segment(struct x86_emit *e, unsigned p)
{
    (void)p;
    e->insn->dst = x86_emit_index(e->operand[0].reg.value);
    return e->insn->dst != X86_CS && emit_last(e, pop_segment);
}

// LDS, LES, LFS, LGS, LSS: a far pointer from memory. `dst` the register, `src` the segment.
static const struct insn *load_far(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t offset = 0;
    ADDRESS(lin, i->size + 2u, X86_READ);
    if (!x86_read_linear(cpu, lin, &offset, i->size, X86_READ))
        return x86_leave_fault(cpu, i);
    LOAD(uint16_t, selector, lin + i->size);
    if (!x86_load_segment(cpu, i->src, selector))
        return x86_leave_fault(cpu, i);
    if (i->size == 2)
        R16(i->dst) = (uint16_t)offset;
    else
        R64(i->dst) = offset;
    return x86_leave_done(cpu, i);
}

bool x86_emit_load_far(struct x86_emit *e, unsigned p)
{
    e->insn->dst = x86_emit_gpr(e->operand[0].reg.value);
    e->insn->src = (uint8_t)p;
    x86_emit_memory(e, &e->operand[1]);
    return emit_last(e, load_far);
}

// ---- FS and GS bases --------------------------------------------------------------------------------------

static const struct insn *read_base(struct x86_cpu *cpu, const struct insn *i)
{
    if (!(cpu->cr4 & X86_CR4_FSGSBASE))
        return x86_raise(cpu, i, X86_UD, -1);
    R64(i->dst) = i->size == 8 ? R64(i->src) : R32(i->src);
    NEXT(cpu, i);
}

static const struct insn *write_base(struct x86_cpu *cpu, const struct insn *i)
{
    if (!(cpu->cr4 & X86_CR4_FSGSBASE))
        return x86_raise(cpu, i, X86_UD, -1);
    uint64_t value = i->size == 8 ? R64(i->src) : R32(i->src);
    if (!x86_canonical(value))
        return x86_raise(cpu, i, X86_GP, 0);
    R64(i->dst) = value;
    NEXT(cpu, i);
}

bool x86_emit_base(struct x86_emit *e, unsigned p)
{
    uint8_t base = OFFSET(X86_SLOT_SEGMENT + (p & 1 ? X86_GS : X86_FS));
    uint8_t reg = x86_emit_gpr(e->operand[0].reg.value);
    e->insn->dst = p & 2 ? base : reg;
    e->insn->src = p & 2 ? reg : base;
    return x86_emit_code64(e) && emit_fn(e, p & 2 ? write_base : read_base);
}

static const struct insn *swapgs(struct x86_cpu *cpu, const struct insn *i)
{
    PRIVILEGED();
    uint64_t base = cpu->slot[X86_SLOT_SEGMENT + X86_GS];
    cpu->slot[X86_SLOT_SEGMENT + X86_GS] = cpu->kernel_gs_base;
    cpu->kernel_gs_base = base;
    NEXT(cpu, i);
}

bool x86_emit_swapgs(struct x86_emit *e, unsigned p)
{
    (void)p;
    return x86_emit_code64(e) && emit_fn(e, swapgs);
}

// ---- Descriptor tables ------------------------------------------------------------------------------------

struct table_image { uint16_t limit; uint64_t base; } __attribute__((packed));

static unsigned image_size(const struct insn *i) { return i->flags & INSN_CODE64 ? 10 : 6; }

static const struct insn *load_table(struct x86_cpu *cpu, const struct insn *i)
{
    struct table_image image = { 0 };
    PRIVILEGED();
    ADDRESS(lin, image_size(i), X86_READ);
    if (!x86_read_linear(cpu, lin, &image, image_size(i), X86_READ))
        return x86_leave_fault(cpu, i);
    if (i->size == 2 && !(i->flags & INSN_CODE64))
        image.base &= 0xffffff;
    if (!x86_canonical(image.base))
        return x86_raise(cpu, i, X86_GP, 0);
    *(i->dst ? &cpu->idtr : &cpu->gdtr) = (struct x86_table){ .base = image.base, .limit = image.limit };
    x86_serialize(cpu);
    return x86_leave_done(cpu, i);
}

// User mode may be kept from seeing where the tables are.
static bool umip_forbids(const struct x86_cpu *cpu)
{
    return cpu->cpl != 0 && (cpu->cr4 & X86_CR4_UMIP);
}

static const struct insn *store_table(struct x86_cpu *cpu, const struct insn *i)
{
    if (umip_forbids(cpu))
        return x86_raise(cpu, i, X86_GP, 0);
    const struct x86_table *table = i->dst ? &cpu->idtr : &cpu->gdtr;
    struct table_image image = { .limit = table->limit, .base = table->base };
    ADDRESS(lin, image_size(i), X86_WRITE);
    if (!x86_write_linear(cpu, lin, &image, image_size(i), X86_WRITE))
        return x86_leave_fault(cpu, i);
    return x86_leave_done(cpu, i);
}

bool x86_emit_table(struct x86_emit *e, unsigned p)
{
    e->insn->dst = p & 1;
    x86_emit_memory(e, &e->operand[0]);
    return emit_last(e, p & 2 ? store_table : load_table);
}

// ---- LLDT, LTR, VERR, VERW, LMSW --------------------------------------------------------------------------

static void set_zf(struct x86_cpu *cpu, bool set)
{
    cpu->oszapc = (uint16_t)((cpu->oszapc & ~X86_HOST_ZF) | (set ? X86_HOST_ZF : 0));
}

#define PROTECTED_ONLY()                                                                                     \
    if (!(cpu->mode & X86_MODE_PROTECTED))                                                                   \
        return x86_raise(cpu, i, X86_UD, -1)

static const struct insn *load_system(struct x86_cpu *cpu, const struct insn *i)
{
    PROTECTED_ONLY();
    PRIVILEGED();
    OPERAND16(selector);
    if (!(i->dst == X86_TR ? x86_load_tr(cpu, selector) : x86_load_ldtr(cpu, selector)))
        return x86_leave_fault(cpu, i);
    x86_serialize(cpu);
    return x86_leave_done(cpu, i);
}

// Find the descriptor for an instruction that only asks. *found: within its table and accessible by
// privilege.
static bool ask_descriptor(struct x86_cpu *cpu, uint16_t selector, struct x86_descriptor *d, bool *found)
{
    uint64_t raw;
    *found = false;
    if (segment_is_null(selector) || !segment_locate(cpu, selector, 8, &d->linear))
        return true;
    if (!x86_read_linear(cpu, d->linear, &raw, sizeof raw, X86_READ | X86_IMPLICIT))
        return false;
    segment_unpack(d, raw);
    unsigned dpl = segment_dpl(d->attributes);
    bool conforming = segment_is_code(d->attributes) && segment_is_conforming(d->attributes);
    *found = conforming || (cpu->cpl <= dpl && (selector & 3u) <= dpl);
    return true;
}

static const struct insn *verify(struct x86_cpu *cpu, const struct insn *i)
{
    struct x86_descriptor d;
    bool found;
    PROTECTED_ONLY();
    OPERAND16(selector);
    if (!ask_descriptor(cpu, selector, &d, &found))
        return x86_leave_fault(cpu, i);
    bool write = i->dst;
    if (found && !(d.attributes & X86_SEG_S))
        found = false;
    if (found && segment_is_code(d.attributes))
        found = !write && (d.attributes & 2);
    else if (found && write)
        found = d.attributes & 2;
    set_zf(cpu, found);
    return x86_leave_done(cpu, i);
}

// PE can be set this way, never cleared.
static const struct insn *lmsw(struct x86_cpu *cpu, const struct insn *i)
{
    PRIVILEGED();
    OPERAND16(word);
    x86_count_add(&cpu->counts.instruction[X86_COUNT_CONTROL].count, 1);
    if (!x86_write_cr(cpu, 0, (cpu->cr0 & ~(uint64_t)0xe) | (word & 0xf)))
        return x86_leave_fault(cpu, i);
    x86_serialize(cpu);
    return x86_leave_done(cpu, i);
}

bool x86_emit_selector(struct x86_emit *e, unsigned p)
{
    emit_register_or_memory(e, &e->operand[0]);
    switch (p) {
    case 0:
    case 1:
        e->insn->dst = p ? X86_TR : X86_LDTR;
        return emit_last(e, load_system);
    case 2:
    case 3:
        e->insn->dst = p == 3;
        return emit_last(e, verify);
    }
    return emit_last(e, lmsw);
}

// ---- SLDT, STR, SMSW --------------------------------------------------------------------------------------

static const struct insn *store_selector(struct x86_cpu *cpu, const struct insn *i)
{
    bool msw = i->dst == 2;
    if (!msw)
        PROTECTED_ONLY();
    if (umip_forbids(cpu))
        return x86_raise(cpu, i, X86_GP, 0);
    uint64_t value = msw ? cpu->cr0 : cpu->segment[i->dst ? X86_TR : X86_LDTR].selector;
    if (i->src == SRC_MEMORY) {
        ADDRESS(lin, 2, X86_WRITE);
        STORE(uint16_t, lin, (uint16_t)value);
    } else if (i->size == 2) {
        R16(i->src) = (uint16_t)value;
    } else {
        R64(i->src) = i->size == 4 ? (uint32_t)value : value;
    }
    NEXT(cpu, i);
}

bool x86_emit_store_selector(struct x86_emit *e, unsigned p)
{
    emit_register_or_memory(e, &e->operand[0]);
    e->insn->dst = (uint8_t)p;
    return emit_fn(e, store_selector);
}

// ---- LAR, LSL, ARPL ---------------------------------------------------------------------------------------

// System types that LAR and LSL know, as bit sets (SDM vol. 2A, LAR and LSL).
#define LAR_TYPES 0x1a3eu
#define LAR_TYPES_LONG 0x1a04u
#define LSL_TYPES 0x0a0eu
#define LSL_TYPES_LONG 0x0a04u

// LAR, or LSL when imm is 1.
static const struct insn *ask(struct x86_cpu *cpu, const struct insn *i)
{
    bool limit = i->imm;
    struct x86_descriptor d;
    bool found;
    PROTECTED_ONLY();
    OPERAND16(selector);
    if (!ask_descriptor(cpu, selector, &d, &found))
        return x86_leave_fault(cpu, i);
    if (found && !(d.attributes & X86_SEG_S)) {
        unsigned types = limit ? LSL_TYPES : LAR_TYPES;
        if (segment_long(cpu))
            types = limit ? LSL_TYPES_LONG : LAR_TYPES_LONG;
        found = types >> (d.attributes & X86_SEG_TYPE) & 1;
    }
    set_zf(cpu, found);
    if (found) {
        uint32_t value = limit ? d.limit : (uint32_t)(d.raw >> 32) & 0x00f0ff00;
        if (i->size == 2)
            R16(i->dst) = (uint16_t)value;
        else
            R64(i->dst) = value;
    }
    return x86_leave_done(cpu, i);
}

bool x86_emit_descriptor(struct x86_emit *e, unsigned p)
{
    e->insn->dst = x86_emit_gpr(e->operand[0].reg.value);
    emit_register_or_memory(e, &e->operand[1]);
    e->insn->imm = p;
    return emit_last(e, ask);
}

static const struct insn *arpl_r(struct x86_cpu *cpu, const struct insn *i)
{
    PROTECTED_ONLY();
    uint16_t to = R16(i->dst), from = R16(i->src);
    bool raise = (to & 3) < (from & 3);
    if (raise)
        R16(i->dst) = (uint16_t)((to & ~3) | (from & 3));
    set_zf(cpu, raise);
    NEXT(cpu, i);
}

static const struct insn *arpl_m(struct x86_cpu *cpu, const struct insn *i)
{
    PROTECTED_ONLY();
    ADDRESS(lin, 2, X86_READ);
    LOAD(uint16_t, to, lin);
    uint16_t from = R16(i->src);
    bool raise = (to & 3) < (from & 3);
    if (raise)
        STORE(uint16_t, lin, (uint16_t)((to & ~3) | (from & 3)));
    set_zf(cpu, raise);
    NEXT(cpu, i);
}

bool x86_emit_arpl(struct x86_emit *e, unsigned p)
{
    (void)p;
    e->insn->src = x86_emit_gpr(e->operand[1].reg.value);
    if (x86_is_memory(&e->operand[0])) {
        x86_emit_memory(e, &e->operand[0]);
        return emit_fn(e, arpl_m);
    }
    e->insn->dst = x86_emit_gpr(e->operand[0].reg.value);
    return emit_fn(e, arpl_r);
}

// ---- MOV with segment, control and debug registers --------------------------------------------------------

static const struct insn *mov_to_control(struct x86_cpu *cpu, const struct insn *i)
{
    PRIVILEGED();
    cpu->current = i;
    uint64_t value = i->flags & INSN_CODE64 ? R64(i->src) : R32(i->src);
    struct x86_counted *counted = &cpu->counts.instruction[i->dst == 3 ? X86_COUNT_INVALIDATION : X86_COUNT_CONTROL];
    uint64_t begun = x86_count_begin(counted);
    bool written = x86_write_cr(cpu, i->dst, value);
    x86_count_end(&cpu->counts, counted, begun);
    if (!written)
        return x86_leave_fault(cpu, i);
    if (i->dst != 8)
        x86_serialize(cpu);
    return x86_leave_done(cpu, i);
}

static const struct insn *mov_from_control(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t value = 0;
    PRIVILEGED();
    x86_count_add(&cpu->counts.instruction[X86_COUNT_CONTROL].count, 1);
    switch (i->src) {
    case 0: value = cpu->cr0; break;
    case 2: value = cpu->cr2; break;
    case 3: value = cpu->cr3; break;
    case 4: value = cpu->cr4; break;
    case 8: value = cpu->bus->read_cr8(cpu); break;
    }
    R64(i->dst) = i->flags & INSN_CODE64 ? value : (uint32_t)value;
    NEXT(cpu, i);
}

static const struct insn *mov_to_debug(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t value = i->flags & INSN_CODE64 ? R64(i->src) : R32(i->src);
    if (!x86_write_dr(cpu, i->dst, value))
        return x86_leave_fault(cpu, i);
    x86_serialize(cpu);
    return x86_leave_done(cpu, i);
}

static const struct insn *mov_from_debug(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t value;
    if (!x86_read_dr(cpu, i->src, &value))
        return x86_leave_fault(cpu, i);
    R64(i->dst) = i->flags & INSN_CODE64 ? value : (uint32_t)value;
    return x86_leave_done(cpu, i);
}

static ZydisRegisterClass register_class(const ZydisDecodedOperand *operand)
{
    return x86_is_register(operand) ? ZydisRegisterGetClass(operand->reg.value) : ZYDIS_REGCLASS_INVALID;
}

bool x86_emit_mov_system(struct x86_emit *e, unsigned p)
{
    (void)p;
    const ZydisDecodedOperand *to = &e->operand[0], *from = &e->operand[1];
    ZydisRegisterClass to_class = register_class(to), from_class = register_class(from);
    if (to_class == ZYDIS_REGCLASS_SEGMENT || from_class == ZYDIS_REGCLASS_SEGMENT)
        return emit_mov_segment(e);
    if (!x86_is_register(to) || !x86_is_register(from))
        return false;
    bool control = to_class == ZYDIS_REGCLASS_CONTROL || from_class == ZYDIS_REGCLASS_CONTROL;
    bool write = to_class == ZYDIS_REGCLASS_CONTROL || to_class == ZYDIS_REGCLASS_DEBUG;
    e->insn->dst = write ? x86_emit_index(to->reg.value) : x86_emit_gpr(to->reg.value);
    e->insn->src = write ? x86_emit_gpr(from->reg.value) : x86_emit_index(from->reg.value);
    unsigned number = write ? e->insn->dst : e->insn->src;
    if (control && number != 0 && number != 2 && number != 3 && number != 4 && number != 8)
        return false;
    if (write)
        return emit_last(e, control ? mov_to_control : mov_to_debug);
    return control ? emit_fn(e, mov_from_control) : emit_last(e, mov_from_debug);
}
