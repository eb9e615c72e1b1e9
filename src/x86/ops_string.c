// MOVS STOS LODS SCAS CMPS, alone and repeated (SDM vol. 2, REP).
//
// A repeated instruction works in steps: one element, or as many as lie in one page on both sides when both
// are plain memory at hand and the direction is forward. Registers are up to date after each step, so a
// fault leaves RIP on the instruction with the finished part done. After STRING_SLICE bytes, and when the
// platform wants to be asked, it leaves with RIP on itself, so that interrupts and cancellation get in; 64
// bytes count as one instruction of the budget.
#include "x86/ops_forms.h"

#define STRING_SLICE 65536u

typedef uint16_t unaligned16 __attribute__((aligned(1), may_alias));
typedef uint32_t unaligned32 __attribute__((aligned(1), may_alias));
typedef uint64_t unaligned64 __attribute__((aligned(1), may_alias));

enum string_op { STRING_MOVS, STRING_STOS, STRING_LODS, STRING_SCAS, STRING_CMPS };

enum string_step { STEP_FAULT, STEP_GO_ON, STEP_FOUND };     // FOUND: the comparison ends the repetition

// One side of the operation.
struct string_side {
    unsigned reg;           // offset of rSI or rDI
    unsigned segment;
    uint64_t offset;        // cut to the address size
    uint64_t linear;
};

static uint64_t address_mask(const struct insn *i)
{
    return i->flags & INSN_ADDR16 ? 0xffff : i->flags & INSN_ADDR32 ? 0xffffffff : ~0ull;
}

static void add_to_register(struct x86_cpu *cpu, const struct insn *i, unsigned reg, uint64_t delta)
{
    if (i->flags & INSN_ADDR16)
        R16(reg) = (uint16_t)(R16(reg) + delta);
    else if (i->flags & INSN_ADDR32)
        R64(reg) = (uint32_t)(R32(reg) + delta);
    else
        R64(reg) += delta;
}

static struct string_side source_side(struct x86_cpu *cpu, const struct insn *i)
{
    return (struct string_side){ OFFSET_RSI, i->src, R64(OFFSET_RSI) & address_mask(i), 0 };
}

static struct string_side destination_side(struct x86_cpu *cpu, const struct insn *i)
{
    return (struct string_side){ OFFSET_RDI, X86_ES, R64(OFFSET_RDI) & address_mask(i), 0 };
}

static bool side_flat(const struct x86_cpu *cpu, const struct string_side *side)
{
    return (cpu->mode & X86_MODE_FLAT)
        && (side->segment == X86_DS || side->segment == X86_ES || side->segment == X86_SS);
}

// Elements of `size` bytes from here on, at most `count`, that need no check of their own: inside the page,
// before the offset wraps, within the limit of an ordinary segment. 0: go by single elements.
static uint64_t side_run(const struct x86_cpu *cpu, const struct insn *i, const struct string_side *side,
                         unsigned size, uint64_t count)
{
    uint64_t room = X86_PAGE_SIZE - (side->linear & X86_PAGE_MASK);
    uint64_t last = address_mask(i) - side->offset;
    if (last < room)
        room = last + 1;
    if (!(i->flags & INSN_CODE64) && !side_flat(cpu, side)) {
        const struct x86_segment *segment = &cpu->segment[side->segment];
        bool expand_down = (segment->attributes & 0xc) == 0x4;
        if (expand_down || side->offset > segment->limit)
            return 0;
        if (segment->limit - side->offset + 1 < room)
            room = segment->limit - side->offset + 1;
    }
    return room / size < count ? room / size : count;
}

static bool side_linear(struct x86_cpu *cpu, const struct insn *i, struct string_side *side, unsigned access)
{
    if ((i->flags & INSN_CODE64) && side->segment < X86_FS) {
        side->linear = side->offset;
        return true;
    }
    struct x86_address address = x86_linear_segment(cpu, side->segment, side->offset, i->size, access);
    side->linear = address.linear;
    return address.ok;
}

static bool side_read(struct x86_cpu *cpu, const struct string_side *side, unsigned size, uint64_t *value)
{
    const struct x86_tlb_entry *entry = x86_tlb_slot(cpu->tlb, side->linear);
    if (!X86_TLB_HIT(entry, read, side->linear, size)) {
        struct x86_value v = x86_load_slow(cpu, side->linear, size);
        *value = v.value;
        return v.ok;
    }
    const void *host = x86_tlb_host(entry, side->linear);
    switch (size) {
    case 1: *value = *(const volatile uint8_t *)host; break;
    case 2: *value = *(const volatile unaligned16 *)host; break;
    case 4: *value = *(const volatile unaligned32 *)host; break;
    default: *value = *(const volatile unaligned64 *)host; break;
    }
    return true;
}

static bool side_write(struct x86_cpu *cpu, const struct string_side *side, unsigned size, uint64_t value)
{
    const struct x86_tlb_entry *entry = x86_tlb_slot(cpu->tlb, side->linear);
    if (!X86_TLB_HIT(entry, write, side->linear, size))
        return x86_store_slow(cpu, side->linear, size, value);
    void *host = x86_tlb_host(entry, side->linear);
    switch (size) {
    case 1: *(volatile uint8_t *)host = (uint8_t)value; break;
    case 2: *(volatile unaligned16 *)host = (uint16_t)value; break;
    case 4: *(volatile unaligned32 *)host = (uint32_t)value; break;
    default: *(volatile unaligned64 *)host = value; break;
    }
    return true;
}

static void set_accumulator(struct x86_cpu *cpu, unsigned size, uint64_t value)
{
    switch (size) {
    case 1: W8(OFFSET_RAX, value); break;
    case 2: W16(OFFSET_RAX, value); break;
    case 4: W32(OFFSET_RAX, value); break;
    default: W64(OFFSET_RAX, value); break;
    }
}

static void set_compare_flags(struct x86_cpu *cpu, unsigned size, uint64_t a, uint64_t b)
{
    uint32_t flags;
    switch (size) {
    case 1: asm("cmpb %2, %1" FLAGS_OUT : "=&a"(flags) : "r"((uint8_t)a), "r"((uint8_t)b) : "cc"); break;
    case 2: asm("cmpw %2, %1" FLAGS_OUT : "=&a"(flags) : "r"((uint16_t)a), "r"((uint16_t)b) : "cc"); break;
    case 4: asm("cmpl %2, %1" FLAGS_OUT : "=&a"(flags) : "r"((uint32_t)a), "r"((uint32_t)b) : "cc"); break;
    default: asm("cmpq %2, %1" FLAGS_OUT : "=&a"(flags) : "r"(a), "r"(b) : "cc"); break;
    }
    cpu->oszapc = (uint16_t)flags;
}

// REPE goes on while equal, REPNE while not.
static enum string_step compared(const struct x86_cpu *cpu, const struct insn *i)
{
    bool equal = cpu->oszapc & X86_HOST_ZF;
    return equal == !(i->flags & INSN_REPNE) ? STEP_GO_ON : STEP_FOUND;
}

// ---- One element ------------------------------------------------------------------------------------------

static inline __attribute__((always_inline)) enum string_step
string_one(struct x86_cpu *cpu, const struct insn *i, enum string_op op)
{
    struct string_side from = source_side(cpu, i), to = destination_side(cpu, i);
    const bool reads_source = op == STRING_MOVS || op == STRING_LODS || op == STRING_CMPS;
    const bool has_destination = op != STRING_LODS, writes = op == STRING_MOVS || op == STRING_STOS;
    uint64_t a = R64(OFFSET_RAX), b = 0;
    cpu->current = i;
    // A comparison reads the destination first: it is the one that faults when both would.
    if (has_destination && !writes && (!side_linear(cpu, i, &to, X86_READ) || !side_read(cpu, &to, i->size, &b)))
        return STEP_FAULT;
    if (reads_source && (!side_linear(cpu, i, &from, X86_READ) || !side_read(cpu, &from, i->size, &a)))
        return STEP_FAULT;
    if (writes && (!side_linear(cpu, i, &to, X86_WRITE) || !side_write(cpu, &to, i->size, a)))
        return STEP_FAULT;
    uint64_t delta = cpu->rflags & X86_DF ? -(uint64_t)i->size : i->size;
    if (reads_source)
        add_to_register(cpu, i, OFFSET_RSI, delta);
    if (has_destination)
        add_to_register(cpu, i, OFFSET_RDI, delta);
    if (op == STRING_LODS)
        set_accumulator(cpu, i->size, a);
    if (op == STRING_SCAS || op == STRING_CMPS) {
        set_compare_flags(cpu, i->size, a, b);
        return compared(cpu, i);
    }
    return STEP_GO_ON;
}

// ---- Many elements ----------------------------------------------------------------------------------------

// The host's own repeated instructions: an overlap propagates as the guest's processor would have it.
static void move_elements(void *to, const void *from, unsigned size, uint64_t count)
{
    switch (size) {
    case 1: asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    case 2: asm volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    case 4: asm volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    default: asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    }
}

static void store_elements(void *to, uint64_t value, unsigned size, uint64_t count)
{
    switch (size) {
    case 1: asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    case 2: asm volatile("rep stosw" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    case 4: asm volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    default: asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    }
}

static uint64_t element(const uint8_t *host, unsigned size, uint64_t n)
{
    switch (size) {
    case 1: return ((const volatile uint8_t *)host)[n];
    case 2: return ((const volatile unaligned16 *)host)[n];
    case 4: return ((const volatile unaligned32 *)host)[n];
    default: return ((const volatile unaligned64 *)host)[n];
    }
}

// Compares up to `count` elements; sets the flags for the last one looked at. Result: how many were looked
// at. `from` NULL: every element against the accumulator (SCAS).
static uint64_t compare_elements(struct x86_cpu *cpu, const struct insn *i, const uint8_t *from,
                                 const uint8_t *to, uint64_t count)
{
    bool go_on_equal = !(i->flags & INSN_REPNE);
    uint64_t mask = i->size == 8 ? ~0ull : (1ull << i->size * 8) - 1;
    uint64_t a = R64(OFFSET_RAX) & mask, b = 0, n = 0;
    while (n < count) {
        if (from)
            a = element(from, i->size, n);
        b = element(to, i->size, n);
        n++;
        if ((a == b) != go_on_equal)
            break;
    }
    set_compare_flags(cpu, i->size, a, b);
    return n;
}

static const uint8_t *side_host(struct x86_cpu *cpu, const struct string_side *side, bool write)
{
    const struct x86_tlb_entry *entry = x86_tlb_slot(cpu->tlb, side->linear);
    if (write ? !X86_TLB_HIT(entry, write, side->linear, 1) : !X86_TLB_HIT(entry, read, side->linear, 1))
        return NULL;
    return x86_tlb_host(entry, side->linear);
}

// A run of `count` elements or fewer over memory at hand. Result: how many were done, 0 when the run is to
// be begun with a single element. `step` tells whether a comparison ended it.
static inline __attribute__((always_inline)) uint64_t
string_run(struct x86_cpu *cpu, const struct insn *i, enum string_op op, uint64_t count,
           enum string_step *step)
{
    const bool has_source = op == STRING_MOVS || op == STRING_CMPS;
    const bool writes = op == STRING_MOVS || op == STRING_STOS;
    struct string_side from = source_side(cpu, i), to = destination_side(cpu, i);
    const uint8_t *from_host = NULL;
    cpu->current = i;
    if (has_source) {
        if (!side_linear(cpu, i, &from, X86_READ))
            return 0;
        count = side_run(cpu, i, &from, i->size, count);
        from_host = side_host(cpu, &from, false);
        if (!from_host)
            return 0;
    }
    if (!side_linear(cpu, i, &to, writes ? X86_WRITE : X86_READ))
        return 0;
    count = side_run(cpu, i, &to, i->size, count);
    const uint8_t *to_host = side_host(cpu, &to, writes);
    if (!to_host || count == 0)
        return 0;
    if (op == STRING_MOVS)
        move_elements((void *)to_host, from_host, i->size, count);
    else if (op == STRING_STOS)
        store_elements((void *)to_host, R64(OFFSET_RAX), i->size, count);
    else
        count = compare_elements(cpu, i, from_host, to_host, count);
    if (!writes)
        *step = compared(cpu, i);
    if (has_source)
        add_to_register(cpu, i, OFFSET_RSI, count * i->size);
    add_to_register(cpu, i, OFFSET_RDI, count * i->size);
    return count;
}

// ---- The repetition ---------------------------------------------------------------------------------------

enum string_end { STRING_DONE, STRING_FAULT, STRING_AGAIN };

static inline __attribute__((always_inline)) enum string_end
string_repeat(struct x86_cpu *cpu, const struct insn *i, enum string_op op)
{
    uint64_t mask = address_mask(i);
    // Each iteration is an instruction boundary to a debugger.
    uint64_t slice = cpu->mode & X86_MODE_SINGLE ? i->size : STRING_SLICE, bytes = 0;
    bool fast = op != STRING_LODS && !(cpu->rflags & X86_DF) && !(cpu->mode & X86_MODE_SINGLE);
    enum string_end end = STRING_DONE;
    while ((R64(OFFSET_RCX) & mask) != 0) {
        if (bytes >= slice || cpu->leave_behind) {
            end = STRING_AGAIN;
            break;
        }
        enum string_step step = STEP_GO_ON;
        uint64_t done = fast ? string_run(cpu, i, op, R64(OFFSET_RCX) & mask, &step) : 0;
        if (done == 0) {
            step = string_one(cpu, i, op);
            if (step == STEP_FAULT) {
                end = STRING_FAULT;
                break;
            }
            done = 1;
        }
        add_to_register(cpu, i, OFFSET_RCX, -done);
        bytes += done * i->size;
        if (step == STEP_FOUND)
            break;
    }
    cpu->budget -= (int64_t)(bytes / 64);
    // The instruction is counted once, by the slice that ends it.
    cpu->surcharge += (int64_t)(bytes / 64) + (end == STRING_AGAIN);
    return end;
}

#define STRING(name, op)                                                                                     \
    static NOT_INLINE enum string_step name##_one(struct x86_cpu *cpu, const struct insn *i)                 \
    {                                                                                                        \
        return string_one(cpu, i, op);                                                                       \
    }                                                                                                        \
    static NOT_INLINE enum string_end name##_repeat(struct x86_cpu *cpu, const struct insn *i)               \
    {                                                                                                        \
        return string_repeat(cpu, i, op);                                                                    \
    }                                                                                                        \
    HANDLER(name,                                                                                            \
        if (X86_UNLIKELY(name##_one(cpu, i) == STEP_FAULT))                                                  \
            return x86_leave_fault(cpu, i);                                                                  \
        NEXT(cpu, i);)                                                                                       \
    HANDLER(rep_##name,                                                                                      \
        enum string_end end = name##_repeat(cpu, i);                                                         \
        if (end == STRING_FAULT)                                                                             \
            return x86_leave_fault(cpu, i);                                                                  \
        if (end == STRING_AGAIN) {                                                                           \
            cpu->rip = x86_insn_rip(cpu, i);                                                                 \
            return x86_leave_branch(cpu, i);                                                                 \
        }                                                                                                    \
        NEXT(cpu, i);)

STRING(movs, STRING_MOVS)
STRING(stos, STRING_STOS)
STRING(lods, STRING_LODS)
STRING(scas, STRING_SCAS)
STRING(cmps, STRING_CMPS)

// The parameter is the operation, and the element's size in bytes times 16.
bool x86_emit_string(struct x86_emit *e, unsigned parameter)
{
    static const insn_fn fn[][2] = {
        { movs, rep_movs }, { stos, rep_stos }, { lods, rep_lods }, { scas, rep_scas }, { cmps, rep_cmps },
    };
    e->insn->size = (uint8_t)(parameter >> 4);
    e->insn->src = X86_DS;
    for (unsigned n = 0; n < e->z->operand_count; n++) {
        const ZydisDecodedOperand *operand = &e->operand[n];
        if (x86_is_memory(operand) && ZydisRegisterGetId(operand->mem.base) == X86_RSI)
            e->insn->src = x86_emit_index(operand->mem.segment);
    }
    return x86_emit_fn(e, fn[parameter & 15][(e->insn->flags & (INSN_REP | INSN_REPNE)) != 0]);
}

// MOVSD and CMPSD are also the names of two SSE2 instructions.
bool x86_emit_sse_movsd(struct x86_emit *e, unsigned parameter);
bool x86_emit_sse_cmpsd(struct x86_emit *e, unsigned parameter);

bool x86_emit_movsd(struct x86_emit *e, unsigned parameter)
{
    if (e->z->meta.category == ZYDIS_CATEGORY_STRINGOP)
        return x86_emit_string(e, parameter);
    return x86_has_feature(e->cpu, X86_FEATURE_SSE2) && x86_emit_sse_movsd(e, 0);
}

bool x86_emit_cmpsd(struct x86_emit *e, unsigned parameter)
{
    if (e->z->meta.category == ZYDIS_CATEGORY_STRINGOP)
        return x86_emit_string(e, parameter);
    return x86_has_feature(e->cpu, X86_FEATURE_SSE2) && x86_emit_sse_cmpsd(e, 0);
}
