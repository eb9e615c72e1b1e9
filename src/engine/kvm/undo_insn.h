// Inside undo: code around a place, one decoded instruction, and where its operands are.
//
// Nothing here changes the processor, or marks guest pages as accessed. Operands are worked out from an array
// of the sixteen general registers, since undo asks for them before and after the instruction.
#ifndef BULKHEAD_KVM_UNDO_INSN_H
#define BULKHEAD_KVM_UNDO_INSN_H

#include "x86/cpu.h"
#include "x86/decode.h"

#define UNDO_GPRS 16
#define UNDO_BEFORE 64          // bytes of code that are looked at before a place
#define UNDO_AFTER 16

// The stretch of memory that was looked at last, whose first page is at `at`: tables, code and data mostly lie in one.
struct undo_near { struct x86_page page; uint64_t at; };

struct undo_code {
    uint64_t rip;
    struct undo_near near;
    unsigned before, after;     // bytes that could be fetched before and from `rip` on
    uint8_t bytes[UNDO_BEFORE + UNDO_AFTER];    // bytes[UNDO_BEFORE] is at `rip`
};

struct undo_insn {
    uint64_t rip;
    uint64_t address_mask;
    bool string;                // one of the string instructions
    bool rep;                   // and it is repeated
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
};

// Fetch code around `rip`: up to `before` bytes before it, by RIP and so round the end of a 16-bit segment.
void undo_fetch(struct x86_cpu *cpu, uint64_t rip, unsigned before, struct undo_code *code);
static inline const uint8_t *undo_back(const struct undo_code *code, unsigned n)
{
    return code->bytes + UNDO_BEFORE - n;
}
// Decode one instruction from at most `size` bytes. False: there is none, or it needs more.
bool undo_decode(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned size, uint64_t rip,
                 struct undo_insn *insn);
// The same by way of the last decoding, while mode and bytes are still those. It is in `last`; NULL: there is none.
struct undo_decoded { struct undo_insn insn; uint32_t mode; uint8_t bytes[UNDO_AFTER], size; };
const struct undo_insn *undo_decode_again(struct undo_decoded *last, const struct x86_cpu *cpu, const uint8_t *bytes,
                                          unsigned size, uint64_t rip);
// Whether the bytes may be a repeated instruction or an OUT: what they begin with.
bool undo_may_stay(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned size);
// Only how long it is; 0: as above.
unsigned undo_length(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned size);

// The linear address of an offset in a segment, without checks.
uint64_t undo_segment_linear(const struct x86_cpu *cpu, unsigned segment, uint64_t offset);
// Where a memory operand is, by the registers: the sum of `base`, `index` times `scale`, and `displacement`, cut by
// `mask`, in `segment`. Registers are numbers, UNDO_GPRS for none.
struct undo_operand { uint64_t displacement, mask; uint8_t base, index, scale, segment; };
// From an instruction's operand (the stack's own excepted). False: not one address (a gather or scatter).
bool undo_operand_take(const struct undo_insn *insn, const ZydisDecodedOperand *operand, struct undo_operand *to);
// Its linear address, `more` bytes further on.
static inline uint64_t undo_operand_at(const struct x86_cpu *cpu, const struct undo_operand *operand,
                                       const uint64_t *gpr, uint64_t more)
{
    uint64_t offset = operand->displacement + more;
    if (operand->base < UNDO_GPRS)
        offset += gpr[operand->base];
    if (operand->index < UNDO_GPRS)
        offset += gpr[operand->index] * operand->scale;
    return undo_segment_linear(cpu, operand->segment, offset & operand->mask);
}
// Both at once.
bool undo_operand_linear(const struct x86_cpu *cpu, const struct undo_insn *insn,
                         const ZydisDecodedOperand *operand, const uint64_t *gpr, uint64_t *linear);
uint64_t undo_stack_mask(const struct x86_cpu *cpu);
// The hidden stack operand, or NULL.
const ZydisDecodedOperand *undo_stack_operand(const struct undo_insn *insn);
// An operand that is memory at all and no mere address.
static inline bool undo_is_memory(const ZydisDecodedOperand *operand)
{
    return operand->type == ZYDIS_OPERAND_TYPE_MEMORY && operand->mem.type != ZYDIS_MEMOP_TYPE_AGEN;
}

static inline bool undo_is_gpr(const ZydisDecodedOperand *operand)
{
    ZydisRegister reg = operand->reg.value;
    return operand->type == ZYDIS_OPERAND_TYPE_REGISTER && reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15;
}

// Add to the bits of a register that `mask` has.
static inline uint64_t undo_add(uint64_t value, uint64_t mask, uint64_t delta)
{
    return (value & ~mask) | ((value + delta) & mask);
}

// Where a linear address lies, by the tables alone. False: nowhere.
bool undo_translate(struct x86_cpu *cpu, uint64_t linear, uint64_t *gpa);
// The same, and `near` is made use of and kept.
bool undo_translate_near(struct x86_cpu *cpu, uint64_t linear, uint64_t *gpa, struct undo_near *near);
// Copy guest memory; false: not all of it is memory that can be read.
bool undo_read_memory(struct x86_cpu *cpu, uint64_t linear, void *bytes, unsigned size);
// The page of a guest address as the bus has it.
struct x86_page undo_page(struct x86_cpu *cpu, uint64_t gpa);

#endif
