// How the integer families write a handler once and get it for every operand size and every kind of address.
//
// A handler with a memory operand exists in three forms. `simple` (base + displacement) and `plain` (the
// whole plain formula) serve a TLB hit with nothing else in them, so that the compiler needs no stack frame;
// whatever else happens they leave to `general`, which starts the instruction again from the beginning and
// can do everything. A body must therefore change nothing before its last fallible access.
#ifndef BULKHEAD_X86_OPS_FORMS_H
#define BULKHEAD_X86_OPS_FORMS_H

#include "x86/cpu.h"
#include "x86/decode.h"

struct x86_forms { insn_fn general, plain, simple; };

enum x86_form { X86_FORM_GENERAL, X86_FORM_PLAIN, X86_FORM_SIMPLE };

// Handlers, because a general one inside a hot one would bring its stack frame along; and functions under a
// handler with locals whose address is taken, which would stop the compiler from making a jump of the
// handler's last call.
#define NOT_INLINE __attribute__((noinline))

// Handlers with register and immediate operands.
#define HANDLER(name, ...)                                                                                   \
    static NOT_INLINE const struct insn *name(struct x86_cpu *cpu, const struct insn *i) { __VA_ARGS__ }

#define FORM_HANDLER(name, form_name, general_name, ...)                                                     \
    static NOT_INLINE const struct insn *name(struct x86_cpu *cpu, const struct insn *i)                     \
    {                                                                                                        \
        const enum x86_form form_ __attribute__((unused)) = form_name;                                       \
        const insn_fn general_ __attribute__((unused)) = general_name;                                       \
        __VA_ARGS__                                                                                          \
    }

// Only the general form: for what is rare, or slow in itself.
#define GENERAL_HANDLER(name, ...) FORM_HANDLER(name, X86_FORM_GENERAL, NULL, __VA_ARGS__)

#define MEMORY_HANDLER(name, ...)                                                                            \
    FORM_HANDLER(name##_general, X86_FORM_GENERAL, NULL, __VA_ARGS__)                                        \
    FORM_HANDLER(name##_plain, X86_FORM_PLAIN, name##_general, __VA_ARGS__)                                  \
    FORM_HANDLER(name##_simple, X86_FORM_SIMPLE, name##_general, __VA_ARGS__)

#define FORMS(name) { name##_general, name##_plain, name##_simple }

// Hand the instruction over to another handler.
#ifdef BULKHEAD_TRAMPOLINE
#define HAND_OVER(fn_) return (fn_)(cpu, i)
#elif defined(__clang__)
#define HAND_OVER(fn_) __attribute__((musttail)) return (fn_)(cpu, i)
#else
#define HAND_OVER(fn_) return (fn_)(cpu, i)
#endif

// The memory operand's linear address.
#define AT(lin, size_, access_)                                                                              \
    uint64_t lin;                                                                                            \
    cpu->current = i;                                                                                        \
    if (form_ == X86_FORM_SIMPLE) {                                                                          \
        lin = R64(i->base) + (uint64_t)(int64_t)i->disp;                                                     \
    } else if (form_ == X86_FORM_PLAIN || i->mem == 0) {                                                     \
        lin = R64(i->base) + (R64(i->index) << i->scale) + R64(i->segment) + (uint64_t)(int64_t)i->disp;     \
    } else {                                                                                                 \
        struct x86_address address_ = x86_linear_general(cpu, i, size_, access_);                            \
        if (X86_UNLIKELY(!address_.ok))                                                                      \
            return x86_leave_fault(cpu, i);                                                                  \
        lin = address_.linear;                                                                               \
    }

#define GET(type, var, lin)                                                                                  \
    type var;                                                                                                \
    do {                                                                                                     \
        const struct x86_tlb_entry *entry_ = x86_tlb_slot(cpu->tlb, lin);                                    \
        if (X86_LIKELY(X86_TLB_HIT(entry_, read, lin, sizeof(type)))) {                                      \
            typedef type unaligned_ __attribute__((aligned(1), may_alias));                                  \
            var = *(const volatile unaligned_ *)x86_tlb_host(entry_, lin);                                   \
        } else if (form_ != X86_FORM_GENERAL) {                                                              \
            HAND_OVER(general_);                                                                             \
        } else {                                                                                             \
            struct x86_value value_ = x86_load_slow(cpu, lin, sizeof(type));                                 \
            if (X86_UNLIKELY(!value_.ok))                                                                    \
                return x86_leave_fault(cpu, i);                                                              \
            var = (type)value_.value;                                                                        \
        }                                                                                                    \
    } while (0)

#define PUT(type, lin, value)                                                                                \
    do {                                                                                                     \
        const struct x86_tlb_entry *entry_ = x86_tlb_slot(cpu->tlb, lin);                                    \
        if (X86_LIKELY(X86_TLB_HIT(entry_, write, lin, sizeof(type)))) {                                     \
            typedef type unaligned_ __attribute__((aligned(1), may_alias));                                  \
            *(volatile unaligned_ *)x86_tlb_host(entry_, lin) = (value);                                     \
        } else if (form_ != X86_FORM_GENERAL) {                                                              \
            HAND_OVER(general_);                                                                             \
        } else if (X86_UNLIKELY(!x86_store_slow(cpu, lin, sizeof(type), (value)))) {                         \
            return x86_leave_fault(cpu, i);                                                                  \
        }                                                                                                    \
    } while (0)

// A pointer for read-modify-write; end the access with EDITED.
#define EDIT(type, pointer, lin)                                                                             \
    typedef type pointer##_type __attribute__((aligned(1), may_alias));                                      \
    volatile pointer##_type *pointer;                                                                        \
    do {                                                                                                     \
        const struct x86_tlb_entry *entry_ = x86_tlb_slot(cpu->tlb, lin);                                    \
        if (X86_LIKELY(X86_TLB_HIT(entry_, write, lin, sizeof(type)))) {                                     \
            pointer = x86_tlb_host(entry_, lin);                                                             \
        } else if (form_ != X86_FORM_GENERAL) {                                                              \
            HAND_OVER(general_);                                                                             \
        } else {                                                                                             \
            pointer = x86_write_slow(cpu, lin, sizeof(type), X86_READ | X86_WRITE);                          \
            if (X86_UNLIKELY(!pointer))                                                                      \
                return x86_leave_fault(cpu, i);                                                              \
        }                                                                                                    \
    } while (0)

#define EDITED()                                                                                             \
    do {                                                                                                     \
        if (form_ == X86_FORM_GENERAL)                                                                       \
            x86_commit(cpu);                                                                                 \
    } while (0)

// Register writes by operand size in bits: 32-bit results clear the upper half.
#define W8(offset, value) (R8(offset) = (uint8_t)(value))
#define W16(offset, value) (R16(offset) = (uint16_t)(value))
#define W32(offset, value) (R64(offset) = (uint32_t)(value))
#define W64(offset, value) (R64(offset) = (value))

#define OFFSET_RAX (8 * X86_RAX)
#define OFFSET_RCX (8 * X86_RCX)
#define OFFSET_RDX (8 * X86_RDX)
#define OFFSET_RBX (8 * X86_RBX)
#define OFFSET_RSP (8 * X86_RSP)
#define OFFSET_RBP (8 * X86_RBP)
#define OFFSET_RSI (8 * X86_RSI)
#define OFFSET_RDI (8 * X86_RDI)

// One macro invocation per operand size: bits, the assembler's suffix.
#define FOR_SIZES(X, ...)                                                                                    \
    X(8, b, __VA_ARGS__) X(16, w, __VA_ARGS__) X(32, l, __VA_ARGS__) X(64, q, __VA_ARGS__)
#define FOR_WIDE_SIZES(X, ...) X(16, w, __VA_ARGS__) X(32, l, __VA_ARGS__) X(64, q, __VA_ARGS__)

// In inline assembly: put the host's flags, which are the guest's, into AX (`flags`); put AX's flags into
// the host's.
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"
#define FLAGS_IN "addb $127, %%al\n\tsahf\n\t"
#define CARRY_IN "btw $8, %%ax\n\t"

// Pick the form of a memory operand that x86_emit_memory has filled in.
static inline insn_fn x86_pick_form(const struct insn *insn, const struct x86_forms *forms)
{
    const uint8_t none = 8 * X86_SLOT_ZERO;
    if (insn->mem != 0)
        return forms->general;
    return insn->index == none && insn->segment == none ? forms->simple : forms->plain;
}

// Fill in the memory operand and take its handler. False when there is none.
static inline bool x86_emit_form(struct x86_emit *e, const ZydisDecodedOperand *operand,
                                 const struct x86_forms *forms)
{
    x86_emit_memory(e, operand);
    e->insn->fn = x86_pick_form(e->insn, forms);
    return e->insn->fn != NULL;
}

static inline bool x86_emit_fn(struct x86_emit *e, insn_fn fn)
{
    e->insn->fn = fn;
    return fn != NULL;
}

// 0 to 3 for operands of 8 to 64 bits.
static inline unsigned x86_operand_size_index(const ZydisDecodedOperand *operand)
{
    return (unsigned)__builtin_ctz(operand->size / 8u);
}

#endif
