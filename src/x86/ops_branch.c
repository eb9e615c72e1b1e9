// Near branches: JMP, Jcc, CALL, RET, LOOP, JCXZ. (SDM vol. 2; far forms are in ops_system.c.)
//
// In 64-bit mode a direct branch within its page is chained: it remembers the block it leads to. Every other branch
// goes through the jump cache. 16- and 32-bit code takes the general way: mask, limit check, look-up.
#include "x86/branch.h"
#include "x86/decode.h"
#include "x86/system.h"

bool x86_emit_jmp(struct x86_emit *e, unsigned p);
bool x86_emit_call(struct x86_emit *e, unsigned p);
bool x86_emit_ret(struct x86_emit *e, unsigned p);
bool x86_emit_jcc(struct x86_emit *e, unsigned p);
bool x86_emit_loop(struct x86_emit *e, unsigned p);
bool x86_emit_far(struct x86_emit *e, unsigned p);      // ops_system.c: far JMP and CALL

// In `dst` of a direct branch: its displacement is from the end of the instruction, because from the start of the page it
// would not fit. The general handlers alone know this.
#define FROM_END 1

// 16- and 32-bit code: cut to the operand size, check the limit of CS, look up. The target's page may be anywhere.
static const struct insn *branch_legacy(struct x86_cpu *cpu, const struct insn *i, uint64_t target)
{
    cpu->rip = target;
    cpu->leave = X86_LEAVE_LOOKUP;
    cpu->budget -= i->number + 1;
    if (cpu->budget < 0 || (cpu->mode & X86_MODE_SINGLE))
        return NULL;
    uint64_t linear = x86_code_linear(cpu, target);
    const struct x86_jump_entry *entry = x86_jump_slot(cpu, linear);
    if (entry->linear != linear || entry->key != cpu->jump_key || entry->block->generation != cpu->generation)
        return NULL;
    cpu->slot[X86_SLOT_RIP_PAGE] = target - entry->block->page_offset;
    return entry->block->insns;
}

static inline uint64_t cut(const struct insn *i, uint64_t target)
{
    return i->size == 2 ? target & 0xffff : i->size == 4 ? target & 0xffffffff : target;
}

// True when RIP may become `target`: within CS's limit, or canonical.
static inline bool target_valid(const struct x86_cpu *cpu, uint64_t target)
{
    if ((cpu->mode & X86_MODE_CODE) == X86_MODE_CODE64)
        return x86_canonical(target);
    return target <= cpu->segment[X86_CS].limit;
}

// Every kind of branch with a known target, for all but the fast forms.
static const struct insn *branch_general(struct x86_cpu *cpu, const struct insn *i, uint64_t target)
{
    target = cut(i, target);
    if (!target_valid(cpu, target))
        return x86_raise(cpu, i, X86_GP, 0);
    if ((cpu->mode & X86_MODE_CODE) != X86_MODE_CODE64)
        return branch_legacy(cpu, i, target);
    cpu->budget -= i->number + 1;
    return x86_jump64(cpu, target);
}

static inline uint64_t direct_target(const struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t from = i->dst == FROM_END ? x86_insn_next_rip(cpu, i) : cpu->slot[X86_SLOT_RIP_PAGE];
    return from + (uint64_t)(int64_t)i->disp;
}

// ---- JMP ---------------------------------------------------------------------------------------------------------

static const struct insn *jmp_in_page(struct x86_cpu *cpu, const struct insn *i) { BRANCH_IN_PAGE(cpu, i); }
static const struct insn *jmp_off_page(struct x86_cpu *cpu, const struct insn *i) { BRANCH_OFF_PAGE(cpu, i); }

static const struct insn *jmp_direct(struct x86_cpu *cpu, const struct insn *i)
{
    GOTO(cpu, branch_general(cpu, i, direct_target(cpu, i)));
}

static const struct insn *jmp_r64(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t target = R64(i->dst);
    if (X86_UNLIKELY(!x86_canonical(target)))
        return x86_raise(cpu, i, X86_GP, 0);
    cpu->budget -= i->number + 1;
    GOTO(cpu, x86_jump64(cpu, target));
}

static const struct insn *jmp_m64(struct x86_cpu *cpu, const struct insn *i)
{
    ADDRESS(lin, 8, X86_READ);
    LOAD(uint64_t, target, lin);
    if (X86_UNLIKELY(!x86_canonical(target)))
        return x86_raise(cpu, i, X86_GP, 0);
    cpu->budget -= i->number + 1;
    GOTO(cpu, x86_jump64(cpu, target));
}

static const struct insn *jmp_r(struct x86_cpu *cpu, const struct insn *i)
{
    GOTO(cpu, branch_general(cpu, i, R64(i->dst)));
}

static const struct insn *jmp_m(struct x86_cpu *cpu, const struct insn *i)
{
    ADDRESS(lin, i->size, X86_READ);
    if (i->size == 2) {
        LOAD(uint16_t, target, lin);
        GOTO(cpu, branch_general(cpu, i, target));
    }
    LOAD(uint32_t, target, lin);
    GOTO(cpu, branch_general(cpu, i, target));
}

// ---- Jcc ---------------------------------------------------------------------------------------------------------

#define CONDITION_O (cpu->oszapc & X86_HOST_OF)
#define CONDITION_B (cpu->oszapc & X86_HOST_CF)
#define CONDITION_Z (cpu->oszapc & X86_HOST_ZF)
#define CONDITION_BE (cpu->oszapc & (X86_HOST_CF | X86_HOST_ZF))
#define CONDITION_S (cpu->oszapc & X86_HOST_SF)
#define CONDITION_P (cpu->oszapc & X86_HOST_PF)
#define CONDITION_L (((cpu->oszapc >> 15) ^ cpu->oszapc) & 1)
#define CONDITION_LE (CONDITION_L | (cpu->oszapc & X86_HOST_ZF))

#define JCC(name, condition)                                                                                \
    static const struct insn *jcc_in_page_##name(struct x86_cpu *cpu, const struct insn *i)                 \
    {                                                                                                       \
        if (condition)                                                                                      \
            BRANCH_IN_PAGE(cpu, i);                                                                         \
        NEXT(cpu, i);                                                                                       \
    }                                                                                                       \
    static const struct insn *jcc_off_page_##name(struct x86_cpu *cpu, const struct insn *i)                \
    {                                                                                                       \
        if (condition)                                                                                      \
            BRANCH_OFF_PAGE(cpu, i);                                                                        \
        NEXT(cpu, i);                                                                                       \
    }                                                                                                       \
    static const struct insn *jcc_legacy_##name(struct x86_cpu *cpu, const struct insn *i)                  \
    {                                                                                                       \
        if (condition)                                                                                      \
            GOTO(cpu, branch_general(cpu, i, direct_target(cpu, i)));                                       \
        NEXT(cpu, i);                                                                                       \
    }

#define ALL_CONDITIONS(X)                                                                                   \
    X(o, CONDITION_O) X(no, !CONDITION_O) X(b, CONDITION_B) X(nb, !CONDITION_B) X(z, CONDITION_Z)           \
    X(nz, !CONDITION_Z) X(be, CONDITION_BE) X(nbe, !CONDITION_BE) X(s, CONDITION_S) X(ns, !CONDITION_S)     \
    X(p, CONDITION_P) X(np, !CONDITION_P) X(l, CONDITION_L) X(nl, !CONDITION_L) X(le, CONDITION_LE)         \
    X(nle, !(CONDITION_LE))
ALL_CONDITIONS(JCC)

static const insn_fn jcc[16][3] = {
#define JCC_ROW(name, condition) { jcc_in_page_##name, jcc_off_page_##name, jcc_legacy_##name },
    ALL_CONDITIONS(JCC_ROW)
};

// ---- CALL --------------------------------------------------------------------------------------------------------

// Push the return address on a 64-bit stack.
#define PUSH_RETURN(cpu, i)                                                                                 \
    do {                                                                                                    \
        cpu->current = i;                                                                                   \
        uint64_t top_ = cpu->slot[X86_RSP] - 8;                                                             \
        STORE(uint64_t, top_, x86_insn_next_rip(cpu, i));                                                   \
        cpu->slot[X86_RSP] = top_;                                                                          \
    } while (0)

static const struct insn *call_in_page(struct x86_cpu *cpu, const struct insn *i)
{
    PUSH_RETURN(cpu, i);
    BRANCH_IN_PAGE(cpu, i);
}

static const struct insn *call_off_page(struct x86_cpu *cpu, const struct insn *i)
{
    PUSH_RETURN(cpu, i);
    BRANCH_OFF_PAGE(cpu, i);
}

static const struct insn *call_r64(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t target = R64(i->dst);
    if (X86_UNLIKELY(!x86_canonical(target)))
        return x86_raise(cpu, i, X86_GP, 0);
    PUSH_RETURN(cpu, i);
    cpu->budget -= i->number + 1;
    GOTO(cpu, x86_jump64(cpu, target));
}

static const struct insn *call_m64(struct x86_cpu *cpu, const struct insn *i)
{
    ADDRESS(lin, 8, X86_READ);
    LOAD(uint64_t, target, lin);
    if (X86_UNLIKELY(!x86_canonical(target)))
        return x86_raise(cpu, i, X86_GP, 0);
    PUSH_RETURN(cpu, i);
    cpu->budget -= i->number + 1;
    GOTO(cpu, x86_jump64(cpu, target));
}

static const struct insn *call_general(struct x86_cpu *cpu, const struct insn *i, uint64_t target)
{
    target = cut(i, target);
    if (!target_valid(cpu, target))
        return x86_raise(cpu, i, X86_GP, 0);
    cpu->current = i;
    if (!x86_push(cpu, i->size, cut(i, x86_insn_next_rip(cpu, i))))
        return x86_leave_fault(cpu, i);
    return branch_general(cpu, i, target);
}

static const struct insn *call_direct(struct x86_cpu *cpu, const struct insn *i)
{
    GOTO(cpu, call_general(cpu, i, direct_target(cpu, i)));
}

static const struct insn *call_r(struct x86_cpu *cpu, const struct insn *i)
{
    GOTO(cpu, call_general(cpu, i, R64(i->dst)));
}

static const struct insn *call_m(struct x86_cpu *cpu, const struct insn *i)
{
    ADDRESS(lin, i->size, X86_READ);
    if (i->size == 2) {
        LOAD(uint16_t, target, lin);
        GOTO(cpu, call_general(cpu, i, target));
    }
    LOAD(uint32_t, target, lin);
    GOTO(cpu, call_general(cpu, i, target));
}

// ---- RET ---------------------------------------------------------------------------------------------------------

static const struct insn *ret64(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->current = i;
    uint64_t top = cpu->slot[X86_RSP];
    LOAD(uint64_t, target, top);
    if (X86_UNLIKELY(!x86_canonical(target)))
        return x86_raise(cpu, i, X86_GP, 0);
    cpu->slot[X86_RSP] = top + 8 + i->imm;
    cpu->budget -= i->number + 1;
    GOTO(cpu, x86_jump64(cpu, target));
}

static const struct insn *ret_general(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t target, saved = cpu->slot[X86_RSP];
    cpu->current = i;
    if (!x86_pop(cpu, i->size, &target))
        return x86_leave_fault(cpu, i);
    target = cut(i, target);
    if (!target_valid(cpu, target)) {
        cpu->slot[X86_RSP] = saved;
        return x86_raise(cpu, i, X86_GP, 0);
    }
    uint64_t rsp = cpu->slot[X86_RSP] + i->imm;
    if (i->flags & INSN_STACK16)
        R16(X86_RSP * 8) = (uint16_t)rsp;
    else
        cpu->slot[X86_RSP] = i->flags & INSN_STACK32 ? rsp & 0xffffffff : rsp;
    return branch_general(cpu, i, target);
}

// ---- LOOP, JCXZ --------------------------------------------------------------------------------------------------

static uint64_t counter_mask(const struct insn *i)
{
    return i->flags & INSN_ADDR16 ? 0xffff : i->flags & INSN_ADDR32 ? 0xffffffff : ~0ull;
}

static void set_counter(struct x86_cpu *cpu, const struct insn *i, uint64_t value)
{
    if (i->flags & INSN_ADDR16)
        R16(X86_RCX * 8) = (uint16_t)value;
    else
        cpu->slot[X86_RCX] = value & counter_mask(i);
}

static const struct insn *loop(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t count = (cpu->slot[X86_RCX] - 1) & counter_mask(i);
    bool zero = cpu->oszapc & X86_HOST_ZF;
    bool taken = count && (i->src == 0 || (i->src == 1) == zero);
    uint64_t target = cut(i, direct_target(cpu, i));
    if (taken && !target_valid(cpu, target))
        return x86_raise(cpu, i, X86_GP, 0);
    set_counter(cpu, i, count);
    if (taken)
        GOTO(cpu, branch_general(cpu, i, target));
    NEXT(cpu, i);
}

static const struct insn *jcxz(struct x86_cpu *cpu, const struct insn *i)
{
    if (!(cpu->slot[X86_RCX] & counter_mask(i)))
        GOTO(cpu, branch_general(cpu, i, direct_target(cpu, i)));
    NEXT(cpu, i);
}

// ---- Emitters ----------------------------------------------------------------------------------------------------

// The displacement from the start of the page where it fits. False: only the general handler will do.
static bool emit_target(struct x86_emit *e)
{
    int64_t from_end = e->operand[0].imm.value.s;
    int64_t from_page = from_end + e->insn->page_offset + e->insn->length;
    bool fits = from_page <= INT32_MAX;
    e->insn->disp = (int32_t)(fits ? from_page : from_end);
    e->insn->dst = fits ? 0 : FROM_END;
    e->insn->imm = 0;
    return fits;
}

static bool in_page(const struct x86_emit *e)
{
    return e->insn->disp >= 0 && e->insn->disp < (int32_t)X86_PAGE_SIZE;
}

static bool fast64(const struct x86_emit *e)
{
    return x86_emit_code64(e) && e->insn->size == 8 && !(e->mode & X86_MODE_SINGLE);
}

static bool is_far(const struct x86_emit *e)
{
    return e->z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

// Near branches have 64-bit operands in 64-bit mode, unless the operand size prefix cuts them to 16 (APM vol. 3 1.2.3).
static void emit_size(struct x86_emit *e)
{
    if (x86_emit_code64(e) && e->insn->size == 4)
        e->insn->size = 8;
}

static bool emit_indirect(struct x86_emit *e, insn_fn r64, insn_fn m64, insn_fn r, insn_fn m)
{
    if (x86_is_register(&e->operand[0])) {
        e->insn->dst = x86_emit_gpr(e->operand[0].reg.value);
        e->insn->fn = e->insn->size == 8 ? r64 : r;
    } else {
        x86_emit_memory(e, &e->operand[0]);
        e->insn->fn = e->insn->size == 8 ? m64 : m;
    }
    return true;
}

bool x86_emit_jmp(struct x86_emit *e, unsigned p)
{
    e->ends_block = true;
    if (is_far(e))
        return x86_emit_far(e, p);
    emit_size(e);
    if (!x86_is_immediate(&e->operand[0]))
        return emit_indirect(e, jmp_r64, jmp_m64, jmp_r, jmp_m);
    bool fast = emit_target(e) && fast64(e);
    e->insn->fn = !fast ? jmp_direct : in_page(e) ? jmp_in_page : jmp_off_page;
    return true;
}

bool x86_emit_jcc(struct x86_emit *e, unsigned p)
{
    emit_size(e);
    bool fast = emit_target(e) && fast64(e);
    e->insn->fn = jcc[p][!fast ? 2 : in_page(e) ? 0 : 1];
    if (fast && e->insn->number > 0)
        x86_fuse(e->insn - 1, p);
    return true;
}

bool x86_emit_call(struct x86_emit *e, unsigned p)
{
    e->ends_block = true;
    if (is_far(e))
        return x86_emit_far(e, p + 1);
    emit_size(e);
    if (!x86_is_immediate(&e->operand[0]))
        return emit_indirect(e, call_r64, call_m64, call_r, call_m);
    bool fast = emit_target(e) && fast64(e);
    e->insn->fn = !fast ? call_direct : in_page(e) ? call_in_page : call_off_page;
    return true;
}

bool x86_emit_far_return(struct x86_emit *e, unsigned p);       // ops_system.c

bool x86_emit_ret(struct x86_emit *e, unsigned p)
{
    e->ends_block = true;
    if (is_far(e))
        return x86_emit_far_return(e, p);
    emit_size(e);
    e->insn->imm = x86_is_immediate(&e->operand[0]) && e->z->operand_count_visible ? e->operand[0].imm.value.u : 0;
    e->insn->fn = e->insn->size == 8 ? ret64 : ret_general;
    return true;
}

bool x86_emit_loop(struct x86_emit *e, unsigned p)
{
    emit_size(e);
    (void)emit_target(e);       // 8 bits always fit
    e->insn->src = (uint8_t)p;
    e->insn->fn = p == 3 ? jcxz : loop;
    return true;
}
