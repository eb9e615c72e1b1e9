// PUSH, POP, PUSHA, POPA, ENTER, LEAVE (SDM vol. 2).
//
// With a 64-bit stack and 64-bit operands the fast handlers use RSP as the linear address; everything else,
// and every TLB miss, goes through x86_push and x86_pop. What makes several accesses keeps its stack pointer
// to itself until the last of them is done.
#include "x86/ops_forms.h"
#include "x86/segment.h"

// Defined with the system instructions.
bool x86_emit_push_segment(struct x86_emit *e, unsigned parameter);
bool x86_emit_pop_segment(struct x86_emit *e, unsigned parameter);

static inline void set_register(struct x86_cpu *cpu, unsigned offset, unsigned size, uint64_t value)
{
    if (size == 2)
        R16(offset) = (uint16_t)value;
    else if (size == 4)
        R64(offset) = (uint32_t)value;
    else
        R64(offset) = value;
}

static bool fast_stack(const struct x86_emit *e)
{
    return x86_emit_code64(e) && e->insn->size == 8;
}

// ---- PUSH -------------------------------------------------------------------------------------------------

HANDLER(push_r,
    cpu->current = i;
    if (!x86_push(cpu, i->size, R64(i->src)))
        return x86_leave_fault(cpu, i);
    NEXT(cpu, i);)

HANDLER(push_i,
    cpu->current = i;
    if (!x86_push(cpu, i->size, i->imm))
        return x86_leave_fault(cpu, i);
    NEXT(cpu, i);)

FORM_HANDLER(push64_r, X86_FORM_SIMPLE, push_r,
    cpu->current = i;
    uint64_t lin = R64(OFFSET_RSP) - 8;
    PUT(uint64_t, lin, R64(i->src));
    R64(OFFSET_RSP) = lin;
    NEXT(cpu, i);)

FORM_HANDLER(push64_i, X86_FORM_SIMPLE, push_i,
    cpu->current = i;
    uint64_t lin = R64(OFFSET_RSP) - 8;
    PUT(uint64_t, lin, i->imm);
    R64(OFFSET_RSP) = lin;
    NEXT(cpu, i);)

#define PUSH_MEMORY(bits, suffix, ...)                                                                       \
    GENERAL_HANDLER(push##bits##_m,                                                                          \
        AT(lin, bits / 8, X86_READ);                                                                         \
        GET(uint##bits##_t, value, lin);                                                                     \
        if (!x86_push(cpu, bits / 8, value))                                                                 \
            return x86_leave_fault(cpu, i);                                                                  \
        NEXT(cpu, i);)

FOR_WIDE_SIZES(PUSH_MEMORY, push)

bool x86_emit_push(struct x86_emit *e, unsigned parameter)
{
    static const insn_fn memory[4] = { NULL, push16_m, push32_m, push64_m };
    const ZydisDecodedOperand *from = &e->operand[0];
    if (x86_is_memory(from)) {
        x86_emit_memory(e, from);
        return x86_emit_fn(e, memory[x86_operand_size_index(from)]);
    }
    if (x86_is_immediate(from)) {
        e->insn->imm = from->imm.value.u;
        return x86_emit_fn(e, fast_stack(e) ? push64_i : push_i);
    }
    if (ZydisRegisterGetClass(from->reg.value) == ZYDIS_REGCLASS_SEGMENT)
        return x86_emit_push_segment(e, parameter);
    e->insn->src = x86_emit_gpr(from->reg.value);
    return x86_emit_fn(e, fast_stack(e) ? push64_r : push_r);
}

// ---- POP --------------------------------------------------------------------------------------------------

// POP rSP: the value read wins over the increment.
static NOT_INLINE bool pop_to_register(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t value;
    if (!x86_pop(cpu, i->size, &value))
        return false;
    set_register(cpu, i->dst, i->size, value);
    return true;
}

HANDLER(pop_r,
    cpu->current = i;
    if (!pop_to_register(cpu, i))
        return x86_leave_fault(cpu, i);
    NEXT(cpu, i);)

FORM_HANDLER(pop64_r, X86_FORM_SIMPLE, pop_r,
    cpu->current = i;
    uint64_t lin = R64(OFFSET_RSP);
    GET(uint64_t, value, lin);
    R64(OFFSET_RSP) = lin + 8;
    R64(i->dst) = value;
    NEXT(cpu, i);)

// The address is computed with rSP as it will be.
static NOT_INLINE bool pop_to_memory(struct x86_cpu *cpu, const struct insn *i, unsigned size)
{
    struct x86_stack st;
    uint64_t value;
    segment_stack_current(cpu, &st);
    if (!segment_pop(cpu, &st, size, &value))
        return false;
    uint64_t before = R64(OFFSET_RSP);
    struct x86_address address = { 0, 1 };
    segment_stack_commit(cpu, &st);
    if (i->mem == 0)
        address.linear = R64(i->base) + (R64(i->index) << i->scale) + R64(i->segment)
                       + (uint64_t)(int64_t)i->disp;
    else
        address = x86_linear_general(cpu, i, size, X86_WRITE);
    R64(OFFSET_RSP) = before;
    if (!address.ok || !x86_store_slow(cpu, address.linear, size, value))
        return false;
    segment_stack_commit(cpu, &st);
    return true;
}

HANDLER(pop_m,
    cpu->current = i;
    if (!pop_to_memory(cpu, i, i->size))
        return x86_leave_fault(cpu, i);
    NEXT(cpu, i);)

bool x86_emit_pop(struct x86_emit *e, unsigned parameter)
{
    const ZydisDecodedOperand *to = &e->operand[0];
    if (x86_is_memory(to)) {
        x86_emit_memory(e, to);
        return x86_emit_fn(e, pop_m);
    }
    if (ZydisRegisterGetClass(to->reg.value) == ZYDIS_REGCLASS_SEGMENT)
        return x86_emit_pop_segment(e, parameter);
    e->insn->dst = x86_emit_gpr(to->reg.value);
    return x86_emit_fn(e, fast_stack(e) ? pop64_r : pop_r);
}

// ---- PUSHA, POPA ------------------------------------------------------------------------------------------

// Eight registers in encoding order; rSP as it was before the first push.
static NOT_INLINE bool push_all(struct x86_cpu *cpu, const struct insn *i)
{
    struct x86_stack st;
    segment_stack_current(cpu, &st);
    for (unsigned n = X86_RAX; n <= X86_RDI; n++)
        if (!segment_push(cpu, &st, i->size, cpu->slot[n]))
            return false;
    segment_stack_commit(cpu, &st);
    return true;
}

HANDLER(pusha,
    cpu->current = i;
    if (!push_all(cpu, i))
        return x86_leave_fault(cpu, i);
    NEXT(cpu, i);)

static NOT_INLINE bool pop_all(struct x86_cpu *cpu, const struct insn *i)
{
    struct x86_stack st;
    uint64_t value[8];
    segment_stack_current(cpu, &st);
    for (unsigned n = 0; n < 8; n++)
        if (!segment_pop(cpu, &st, i->size, &value[X86_RDI - n]))
            return false;
    segment_stack_commit(cpu, &st);
    for (unsigned n = X86_RAX; n <= X86_RDI; n++)
        if (n != X86_RSP)
            set_register(cpu, n * 8, i->size, value[n]);
    return true;
}

HANDLER(popa,
    cpu->current = i;
    if (!pop_all(cpu, i))
        return x86_leave_fault(cpu, i);
    NEXT(cpu, i);)

bool x86_emit_pusha(struct x86_emit *e, unsigned size)
{
    e->insn->size = (uint8_t)size;
    return x86_emit_fn(e, pusha);
}

bool x86_emit_popa(struct x86_emit *e, unsigned size)
{
    e->insn->size = (uint8_t)size;
    return x86_emit_fn(e, popa);
}

// ---- ENTER, LEAVE -----------------------------------------------------------------------------------------

static uint64_t stack_offset(const struct insn *i, uint64_t value)
{
    return i->flags & INSN_STACK16 ? value & 0xffff : i->flags & INSN_STACK32 ? value & 0xffffffff : value;
}

// One word of the caller's display, at SS:`offset`.
static bool read_stack(struct x86_cpu *cpu, uint64_t offset, unsigned size, uint64_t *value)
{
    struct x86_address address = x86_linear_segment(cpu, X86_SS, offset, size, X86_READ);
    if (!address.ok)
        return false;
    struct x86_value v = x86_load_slow(cpu, address.linear, size);
    *value = v.value;
    return v.ok;
}

// ENTER faults when a push at the final stack pointer's place would.
static bool probe_stack(struct x86_cpu *cpu, uint64_t offset, unsigned size)
{
    struct x86_address address = x86_linear_segment(cpu, X86_SS, offset, size, X86_WRITE);
    if (!address.ok || !x86_write_slow(cpu, address.linear, size, X86_READ | X86_WRITE))
        return false;
    x86_commit(cpu);
    return true;
}

// imm: bytes to allocate in bits 0-15, nesting level in bits 16-20.
static NOT_INLINE bool enter_frame(struct x86_cpu *cpu, const struct insn *i)
{
    unsigned level = i->imm >> 16 & 31, size = i->size;
    struct x86_stack st;
    segment_stack_current(cpu, &st);
    if (!segment_push(cpu, &st, size, R64(OFFSET_RBP)))
        return false;
    // With a 16-bit stack the frame pointer takes the upper part of rSP along.
    uint64_t frame = (R64(OFFSET_RSP) & ~st.mask) | st.sp, display = R64(OFFSET_RBP);
    if (st.mask == 0xffffffff)
        frame = st.sp;
    for (unsigned n = 1; n < level; n++) {
        uint64_t value;
        display -= size;
        if (!read_stack(cpu, stack_offset(i, display), size, &value) || !segment_push(cpu, &st, size, value))
            return false;
    }
    if (level > 0 && !segment_push(cpu, &st, size, frame))
        return false;
    st.sp = stack_offset(i, st.sp - (i->imm & 0xffff));
    if (!probe_stack(cpu, st.sp, size))
        return false;
    segment_stack_commit(cpu, &st);
    set_register(cpu, OFFSET_RBP, size, frame);
    return true;
}

HANDLER(enter,
    cpu->current = i;
    if (!enter_frame(cpu, i))
        return x86_leave_fault(cpu, i);
    NEXT(cpu, i);)

bool x86_emit_enter(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    e->insn->imm = (e->operand[0].imm.value.u & 0xffff) | (e->operand[1].imm.value.u & 31) << 16;
    return x86_emit_fn(e, enter);
}

static NOT_INLINE bool leave_frame(struct x86_cpu *cpu, const struct insn *i)
{
    struct x86_stack st;
    uint64_t value;
    segment_stack_current(cpu, &st);
    st.sp = R64(OFFSET_RBP);
    if (!segment_pop(cpu, &st, i->size, &value))
        return false;
    segment_stack_commit(cpu, &st);
    set_register(cpu, OFFSET_RBP, i->size, value);
    return true;
}

HANDLER(leave,
    cpu->current = i;
    if (!leave_frame(cpu, i))
        return x86_leave_fault(cpu, i);
    NEXT(cpu, i);)

FORM_HANDLER(leave64, X86_FORM_SIMPLE, leave,
    cpu->current = i;
    uint64_t lin = R64(OFFSET_RBP);
    GET(uint64_t, value, lin);
    R64(OFFSET_RSP) = lin + 8;
    R64(OFFSET_RBP) = value;
    NEXT(cpu, i);)

bool x86_emit_leave(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    return x86_emit_fn(e, fast_stack(e) ? leave64 : leave);
}
