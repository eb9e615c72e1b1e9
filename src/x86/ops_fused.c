// CMP or TEST and the Jcc behind it as one handler: the most frequent pair of instructions there is.
//
// The flags are stored as ever, so nobody can tell; the branch is decided by the host's flags at hand. A memory operand that
// the TLB does not serve is left to the comparison's own general handler, which goes on to the Jcc by itself.
#include "x86/branch.h"
#include "x86/ops_forms.h"

enum { SIZE_8, SIZE_16, SIZE_32, SIZE_64 };

// Compare a with b, then take the branch of the next instruction or go on behind it.
#define DECIDE(op, suffix, cc, a, b)                                                                                  \
    uint32_t flags;                                                                                                   \
    bool taken;                                                                                                       \
    asm(#op #suffix " %3, %2" FLAGS_OUT : "=&a"(flags), "=@cc" #cc(taken) : "r"(a), "r"(b));                          \
    cpu->oszapc = (uint16_t)flags;                                                                                    \
    if (taken) {                                                                                                      \
        const struct insn *jcc = i + 1;                                                                               \
        if (X86_LIKELY((uint32_t)jcc->disp < X86_PAGE_SIZE))                                                          \
            BRANCH_IN_PAGE(cpu, jcc);                                                                                 \
        BRANCH_OFF_PAGE(cpu, jcc);                                                                                    \
    }                                                                                                                 \
    DISPATCH(cpu, i + 2);

#define FUSED_MEMORY(name, form_name, general_name, op, suffix, bits, cc, a, b)                                       \
    FORM_HANDLER(name, form_name, general_name,                                                                       \
        AT(lin, bits / 8, X86_READ);                                                                                  \
        GET(uint##bits##_t, memory, lin);                                                                             \
        DECIDE(op, suffix, cc, a, b))

#define FUSED(op, row, bits, suffix, cc)                                                                              \
    HANDLER(op##bits##_rr_##cc, DECIDE(op, suffix, cc, R##bits(i->dst), R##bits(i->src)))                             \
    HANDLER(op##bits##_ri_##cc, DECIDE(op, suffix, cc, R##bits(i->dst), (uint##bits##_t)i->imm))                      \
    FUSED_MEMORY(op##bits##_rm_simple_##cc, X86_FORM_SIMPLE, x86_comparisons[row][SIZE_##bits].rm.general, op,        \
                 suffix, bits, cc, R##bits(i->dst), memory)                                                           \
    FUSED_MEMORY(op##bits##_rm_plain_##cc, X86_FORM_PLAIN, x86_comparisons[row][SIZE_##bits].rm.general, op,          \
                 suffix, bits, cc, R##bits(i->dst), memory)                                                           \
    FUSED_MEMORY(op##bits##_mr_simple_##cc, X86_FORM_SIMPLE, x86_comparisons[row][SIZE_##bits].mr.general, op,        \
                 suffix, bits, cc, memory, R##bits(i->src))                                                           \
    FUSED_MEMORY(op##bits##_mr_plain_##cc, X86_FORM_PLAIN, x86_comparisons[row][SIZE_##bits].mr.general, op,          \
                 suffix, bits, cc, memory, R##bits(i->src))                                                           \
    FUSED_MEMORY(op##bits##_mi_simple_##cc, X86_FORM_SIMPLE, x86_comparisons[row][SIZE_##bits].mi.general, op,        \
                 suffix, bits, cc, memory, (uint##bits##_t)i->imm)                                                    \
    FUSED_MEMORY(op##bits##_mi_plain_##cc, X86_FORM_PLAIN, x86_comparisons[row][SIZE_##bits].mi.general, op,          \
                 suffix, bits, cc, memory, (uint##bits##_t)i->imm)

// In the order of the condition's encoding. The parity conditions and those of overflow alone are not worth it.
#define FOR_CONDITIONS(X, op, row, bits, suffix)                                                                      \
    X(op, row, bits, suffix, b) X(op, row, bits, suffix, ae) X(op, row, bits, suffix, e)                              \
    X(op, row, bits, suffix, ne) X(op, row, bits, suffix, be) X(op, row, bits, suffix, a)                             \
    X(op, row, bits, suffix, s) X(op, row, bits, suffix, ns) X(op, row, bits, suffix, l)                              \
    X(op, row, bits, suffix, ge) X(op, row, bits, suffix, le) X(op, row, bits, suffix, g)

FOR_CONDITIONS(FUSED, cmp, X86_COMPARE_CMP, 8, b)
FOR_CONDITIONS(FUSED, cmp, X86_COMPARE_CMP, 32, l)
FOR_CONDITIONS(FUSED, cmp, X86_COMPARE_CMP, 64, q)
FOR_CONDITIONS(FUSED, test, X86_COMPARE_TEST, 8, b)
FOR_CONDITIONS(FUSED, test, X86_COMPARE_TEST, 32, l)
FOR_CONDITIONS(FUSED, test, X86_COMPARE_TEST, 64, q)

enum { FUSED_RR, FUSED_RI, FUSED_RM_SIMPLE, FUSED_RM_PLAIN, FUSED_MR_SIMPLE, FUSED_MR_PLAIN, FUSED_MI_SIMPLE,
       FUSED_MI_PLAIN, FUSED_FORMS };

#define FUSED_ROW(op, row, bits, suffix, cc)                                                                          \
    [CONDITION_##cc] = { op##bits##_rr_##cc, op##bits##_ri_##cc, op##bits##_rm_simple_##cc, op##bits##_rm_plain_##cc, \
                         op##bits##_mr_simple_##cc, op##bits##_mr_plain_##cc, op##bits##_mi_simple_##cc,              \
                         op##bits##_mi_plain_##cc },
enum { CONDITION_b = 2, CONDITION_ae, CONDITION_e, CONDITION_ne, CONDITION_be, CONDITION_a, CONDITION_s, CONDITION_ns,
       CONDITION_l = 12, CONDITION_ge, CONDITION_le, CONDITION_g, CONDITIONS };

static const insn_fn fused[X86_COMPARISONS][4][CONDITIONS][FUSED_FORMS] = {
    [X86_COMPARE_CMP] = { [SIZE_8] = { FOR_CONDITIONS(FUSED_ROW, cmp, , 8, ) },
                          [SIZE_32] = { FOR_CONDITIONS(FUSED_ROW, cmp, , 32, ) },
                          [SIZE_64] = { FOR_CONDITIONS(FUSED_ROW, cmp, , 64, ) } },
    [X86_COMPARE_TEST] = { [SIZE_8] = { FOR_CONDITIONS(FUSED_ROW, test, , 8, ) },
                           [SIZE_32] = { FOR_CONDITIONS(FUSED_ROW, test, , 32, ) },
                           [SIZE_64] = { FOR_CONDITIONS(FUSED_ROW, test, , 64, ) } },
};

static int form_of(const struct x86_comparison_row *row, insn_fn fn)
{
    if (fn == row->rr || fn == row->same)
        return FUSED_RR;
    return fn == row->ri ? FUSED_RI : fn == row->rm.simple ? FUSED_RM_SIMPLE : fn == row->rm.plain ? FUSED_RM_PLAIN
         : fn == row->mr.simple ? FUSED_MR_SIMPLE : fn == row->mr.plain ? FUSED_MR_PLAIN
         : fn == row->mi.simple ? FUSED_MI_SIMPLE : fn == row->mi.plain ? FUSED_MI_PLAIN : -1;
}

void x86_fuse(struct insn *first, unsigned condition)
{
    for (unsigned op = 0; op < X86_COMPARISONS; op++)
        for (unsigned size = 0; size < 4; size++) {
            int form = form_of(&x86_comparisons[op][size], first->fn);
            if (form >= 0 && fused[op][size][condition][form]) {
                first->fn = fused[op][size][condition][form];
                return;
            }
        }
}
