// Code, instructions and operands, as undoing needs them.
#include "engine/kvm/undo_insn.h"

#include <string.h>

#include "engine/kvm/same.h"
#include "x86/system.h"

// ---- Code -------------------------------------------------------------------------------------------------

static bool code64(const struct x86_cpu *cpu) { return (cpu->mode & X86_MODE_CODE) == X86_MODE_CODE64; }

#define UNDO_CLOSE 16u
#define TABLE_ADDRESS 0x000ffffffffff000ull

// Where an address lies by the four levels of tables in 64-bit mode (SDM vol. 3A 4.5.4), whoever may use it:
// the kernel has just been there. False: ask x86_walk.
static bool look_near(struct x86_cpu *cpu, struct undo_near *near, uint64_t gpa)
{
    if (X86_UNLIKELY(gpa - near->page.first >= near->page.size)) {
        near->at = gpa & ~(uint64_t)X86_PAGE_MASK;
        near->page = undo_page(cpu, near->at);
    }
    return near->page.host != NULL;
}

__attribute__((hot)) static bool quick_walk(struct x86_cpu *cpu, uint64_t linear, uint64_t *gpa, struct undo_near *near)
{
    uint64_t entry = cpu->cr3;
    unsigned shift = 48;
    if (!(cpu->efer & X86_EFER_LMA) || (cpu->cr4 & X86_CR4_LA57))
        return false;
    do {
        uint64_t table = entry & TABLE_ADDRESS;
        if (!look_near(cpu, near, table) || !near->page.read)
            return false;
        shift -= 9;
        memcpy(&entry, near->page.host + (int64_t)(table - near->at) + (linear >> shift & 511) * sizeof entry, sizeof entry);
        if (!(entry & 1))
            return false;
    } while (shift > 12 && (shift == 39 || !(entry & 0x80)));
    uint64_t offset = (1ull << shift) - 1;
    *gpa = (entry & TABLE_ADDRESS & ~offset) | (linear & offset);
    return true;
}

// Code at `linear`, of which `size` is cut to what lies in one page; NULL: it cannot be fetched. A fetch by
// the processor would mark the page as accessed, and this is not one.
static __attribute__((noinline)) const uint8_t *code_at(struct x86_cpu *cpu, uint64_t linear, unsigned *size)
{
    unsigned part = X86_PAGE_SIZE - (unsigned)(linear & X86_PAGE_MASK);
    if (*size > part)
        *size = part;
    const struct x86_tlb_entry *entry = x86_tlb_slot(cpu->tlb, linear);
    if (X86_TLB_HIT(entry, execute, linear, 1))
        return x86_tlb_host(entry, linear);
    if (code64(cpu) && !x86_canonical(linear))
        return NULL;
    struct x86_walk_result w = x86_walk(cpu, linear, X86_EXECUTE, X86_WALK_UNCACHED);
    if (!w.ok)
        return NULL;
    struct x86_page page = undo_page(cpu, w.t.gpa);
    return page.host && page.execute ? page.host + (w.t.gpa & X86_PAGE_MASK) : NULL;
}

// The same in the page of RIP.
static const uint8_t *code_here(struct x86_cpu *cpu, uint64_t linear, unsigned *size, struct undo_near *near)
{
    uint64_t gpa;
    if (!quick_walk(cpu, linear, &gpa, near))
        return code_at(cpu, linear, size);
    return look_near(cpu, near, gpa) && near->page.execute ? near->page.host + (int64_t)(gpa - near->at) : NULL;
}

static __attribute__((noinline)) void fetch_after(struct x86_cpu *cpu, struct undo_code *code)
{
    uint64_t linear = x86_code_linear(cpu, code->rip);
    while (code->after < UNDO_AFTER) {
        unsigned size = UNDO_AFTER - code->after;
        const uint8_t *at = code_at(cpu, linear + code->after, &size);
        if (!at)
            break;
        memcpy(code->bytes + UNDO_BEFORE + code->after, at, size);
        code->after += size;
    }
}

static __attribute__((noinline)) void fetch_before(struct x86_cpu *cpu, struct undo_code *code, unsigned before)
{
    while (code->before < before) {
        uint64_t last = x86_cut_rip(cpu, code->rip - code->before - 1);
        uint64_t linear = x86_code_linear(cpu, last), size = before - code->before;
        if (size > (linear & X86_PAGE_MASK) + 1)
            size = (linear & X86_PAGE_MASK) + 1;
        if (size > last + 1 && last + 1)
            size = last + 1;
        unsigned part = (unsigned)size;
        const uint8_t *at = code_at(cpu, linear - size + 1, &part);
        if (!at)
            break;
        code->before += part;
        memcpy(code->bytes + UNDO_BEFORE - code->before, at, part);
    }
}

__attribute__((hot)) void undo_fetch(struct x86_cpu *cpu, uint64_t rip, unsigned before, struct undo_code *code)
{
    uint64_t linear = x86_code_linear(cpu, rip), offset = linear & X86_PAGE_MASK;
    code->rip = rip;
    code->near.page.size = 0;
    code->before = code->after = 0;
    // Mostly it is all in one page, and not more than a copy of fixed size has.
    unsigned back = before <= UNDO_CLOSE && offset >= UNDO_CLOSE ? UNDO_CLOSE : before;
    if (X86_LIKELY(rip >= before && offset >= back && offset + UNDO_AFTER <= X86_PAGE_SIZE)) {
        unsigned size = back + UNDO_AFTER;
        const uint8_t *at = code_here(cpu, linear - back, &size, &code->near);
        if (!at)
            return;
        if (X86_LIKELY(back == UNDO_CLOSE))
            memcpy(code->bytes + UNDO_BEFORE - UNDO_CLOSE, at, UNDO_CLOSE + UNDO_AFTER);
        else
            memcpy(code->bytes + UNDO_BEFORE - back, at, size);
        code->before = before;
        code->after = UNDO_AFTER;
        return;
    }
    fetch_after(cpu, code);
    fetch_before(cpu, code, before);
}

static bool is_string(const ZydisDecodedInstruction *z)
{
    return z->meta.category == ZYDIS_CATEGORY_STRINGOP || z->meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

bool undo_decode(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned size, uint64_t rip,
                 struct undo_insn *insn)
{
    ZydisDecoder decoder;
    ZydisDecoderContext context;
    x86_decoder_init(&decoder, cpu->mode);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, &context, bytes, size, &insn->z)))
        return false;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&decoder, &context, &insn->z, insn->operand,
                                                 insn->z.operand_count)))
        return false;
    insn->rip = rip;
    insn->address_mask = insn->z.address_width == 64 ? ~0ull : (1ull << insn->z.address_width) - 1;
    insn->string = is_string(&insn->z);
    insn->rep = insn->string && (insn->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE
                                                       | ZYDIS_ATTRIB_HAS_REPNE));
    return true;
}

__attribute__((hot))
const struct undo_insn *undo_decode_again(struct undo_decoded *last, const struct x86_cpu *cpu, const uint8_t *bytes,
                                          unsigned size, uint64_t rip)
{
    if (size > sizeof last->bytes)
        size = sizeof last->bytes;
    if (!size || last->size != size || last->mode != cpu->mode
        || !same_in_16(last->bytes, bytes, size)) {
        last->size = 0;
        if (!undo_decode(cpu, bytes, size, rip, &last->insn))
            return NULL;
        last->mode = cpu->mode;
        last->size = (uint8_t)size;
        memcpy(last->bytes, bytes, size);
    }
    last->insn.rip = rip;
    return &last->insn;
}

// Legacy and REX prefixes come first (SDM vol. 2A 2.1); OUT is E6, E7, EE and EF.
__attribute__((hot)) bool undo_may_stay(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned size)
{
    for (unsigned n = 0; n < size; n++) {
        uint8_t b = bytes[n];
        if (b == 0xf2 || b == 0xf3)
            return true;
        bool prefix = b == 0x26 || b == 0x2e || b == 0x36 || b == 0x3e || (b >= 0x64 && b <= 0x67) || b == 0xf0
                   || (code64(cpu) && (b & 0xf0) == 0x40);
        if (!prefix)
            return b == 0xe6 || b == 0xe7 || b == 0xee || b == 0xef;
    }
    return false;
}

unsigned undo_length(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned size)
{
    ZydisDecoder decoder;
    ZydisDecoderContext context;
    ZydisDecodedInstruction z;
    x86_decoder_init(&decoder, cpu->mode);
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, &context, bytes, size, &z)) ? z.length : 0;
}

// ---- Addresses --------------------------------------------------------------------------------------------

uint64_t undo_segment_linear(const struct x86_cpu *cpu, unsigned segment, uint64_t offset)
{
    uint64_t base = cpu->slot[X86_SLOT_SEGMENT + segment];
    if (code64(cpu))
        return segment >= X86_FS ? offset + base : offset;
    return (offset + base) & 0xffffffff;
}

// BT and its like reach beyond their operand when the bit's number is in a register (SDM vol. 2, BT).
static uint64_t bit_offset(const struct undo_insn *insn, const ZydisDecodedOperand *operand,
                           const uint64_t *gpr)
{
    const ZydisDecodedOperand *bit = &insn->operand[1];
    if (insn->z.meta.category != ZYDIS_CATEGORY_BITBYTE || operand != insn->operand
        || bit->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return 0;
    unsigned unused = 64 - bit->size;
    int64_t number = (int64_t)(gpr[x86_emit_gpr(bit->reg.value) / 8] << unused) >> unused;
    return (uint64_t)(number >> 3) & ~(uint64_t)(operand->size / 8 - 1);
}

bool undo_operand_take(const struct undo_insn *insn, const ZydisDecodedOperand *operand, struct undo_operand *to)
{
    const ZydisDecodedOperandMem *mem = &operand->mem;
    const ZydisDecodedInstruction *z = &insn->z;
    if (mem->type == ZYDIS_MEMOP_TYPE_VSIB || !x86_is_segment(mem->segment))
        return false;
    *to = (struct undo_operand){ .displacement = (uint64_t)mem->disp.value, .mask = insn->address_mask,
                                 .base = UNDO_GPRS, .index = UNDO_GPRS, .scale = mem->scale,
                                 .segment = x86_emit_index(mem->segment) };
    // SIB base 101 with mod 00 is a displacement and no base, whatever REX.B; with 32-bit addresses Zydis 4.0
    // takes it for R13D.
    if (mem->base == ZYDIS_REGISTER_R13D && z->raw.modrm.mod == 0 && z->raw.modrm.rm == 4
        && z->raw.sib.base == 5)
        to->displacement = (uint64_t)z->raw.disp.value;
    else if (mem->base == ZYDIS_REGISTER_RIP || mem->base == ZYDIS_REGISTER_EIP)
        to->displacement += insn->rip + z->length;
    else if (mem->base != ZYDIS_REGISTER_NONE)
        to->base = x86_emit_gpr(mem->base) / 8;
    if (mem->index != ZYDIS_REGISTER_NONE)
        to->index = x86_emit_gpr(mem->index) / 8;
    return true;
}

bool undo_operand_linear(const struct x86_cpu *cpu, const struct undo_insn *insn,
                         const ZydisDecodedOperand *operand, const uint64_t *gpr, uint64_t *linear)
{
    struct undo_operand at;
    if (!undo_operand_take(insn, operand, &at))
        return false;
    *linear = undo_operand_at(cpu, &at, gpr, bit_offset(insn, operand, gpr));
    return true;
}

uint64_t undo_stack_mask(const struct x86_cpu *cpu)
{
    if (code64(cpu))
        return ~0ull;
    return cpu->mode & X86_MODE_STACK32 ? 0xffffffff : 0xffff;
}

const ZydisDecodedOperand *undo_stack_operand(const struct undo_insn *insn)
{
    for (unsigned n = 0; n < insn->z.operand_count; n++) {
        const ZydisDecodedOperand *o = &insn->operand[n];
        if (undo_is_memory(o) && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN
            && o->mem.segment == ZYDIS_REGISTER_SS && x86_emit_gpr(o->mem.base) / 8 == X86_RSP)
            return o;
    }
    return NULL;
}

// ---- Memory -----------------------------------------------------------------------------------------------

bool undo_translate(struct x86_cpu *cpu, uint64_t linear, uint64_t *gpa)
{
    struct undo_near near = { .page.size = 0 };
    return undo_translate_near(cpu, linear, gpa, &near);
}

static __attribute__((noinline)) bool slow_walk(struct x86_cpu *cpu, uint64_t linear, uint64_t *gpa)
{
    struct x86_walk_result w = x86_walk(cpu, linear, X86_READ, X86_WALK_IGNORE_RIGHTS | X86_WALK_UNCACHED);
    *gpa = w.t.gpa;
    return w.ok;
}

__attribute__((hot)) bool undo_translate_near(struct x86_cpu *cpu, uint64_t linear, uint64_t *gpa,
                                               struct undo_near *near)
{
    if (code64(cpu) && !x86_canonical(linear))
        return false;
    return X86_LIKELY(quick_walk(cpu, linear, gpa, near)) || slow_walk(cpu, linear, gpa);
}

__attribute__((hot)) struct x86_page undo_page(struct x86_cpu *cpu, uint64_t gpa)
{
    struct x86_page page = { 0 };
    cpu->bus->page(cpu, gpa & ~X86_PAGE_MASK, &page);
    return page;
}

bool undo_read_memory(struct x86_cpu *cpu, uint64_t linear, void *bytes, unsigned size)
{
    uint8_t *to = bytes;
    while (size) {
        unsigned part = X86_PAGE_SIZE - (unsigned)(linear & X86_PAGE_MASK);
        if (part > size)
            part = size;
        uint64_t gpa;
        if (!undo_translate(cpu, linear, &gpa))
            return false;
        struct x86_page page = undo_page(cpu, gpa);
        if (!page.host || !page.read)
            return false;
        memcpy(to, page.host + (gpa & X86_PAGE_MASK), part);
        to += part;
        linear += part;
        size -= part;
    }
    return true;
}
