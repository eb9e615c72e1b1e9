// Decode: bytes to struct insn, by Zydis and the tables of the ops_*.def files.
#include "x86/decode.h"

#include <string.h>

// Prototypes of all emitters, then one row per mnemonic.
#define X86_ROW(mnemonic, emitter, parameter, feature) bool emitter(struct x86_emit *e, unsigned p);
#include "x86/ops_branch.def"
#include "x86/ops_integer.def"
#include "x86/ops_order.def"
#include "x86/ops_sse.def"
#include "x86/ops_system.def"
#include "x86/ops_x87.def"
#undef X86_ROW

struct row {
    x86_emitter emit;
    uint16_t parameter;
    uint16_t feature;
};

static const struct row rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define X86_ROW(mnemonic, emitter, param, feat) \
    [ZYDIS_MNEMONIC_##mnemonic] = { .emit = emitter, .parameter = param, .feature = X86_FEATURE_##feat },
#include "x86/ops_branch.def"
#include "x86/ops_integer.def"
#include "x86/ops_order.def"
#include "x86/ops_sse.def"
#include "x86/ops_system.def"
#include "x86/ops_x87.def"
#undef X86_ROW
};

uint8_t x86_emit_gpr(ZydisRegister reg)
{
    if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)     // the commonest first; Zydis's own way is slow
        return (uint8_t)((reg - ZYDIS_REGISTER_RAX) * 8);
    if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
        return (uint8_t)((reg - ZYDIS_REGISTER_EAX) * 8);
    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
        return (uint8_t)((reg - ZYDIS_REGISTER_AH) * 8 + 1);
    if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
        return (uint8_t)((reg - ZYDIS_REGISTER_SPL + 4) * 8);
    return (uint8_t)(ZydisRegisterGetId(reg) * 8);
}

uint8_t x86_emit_index(ZydisRegister reg)
{
    if (x86_is_segment(reg))
        return (uint8_t)(reg - ZYDIS_REGISTER_ES);
    if (ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_CONTROL)
        return (uint8_t)(reg - ZYDIS_REGISTER_CR0);
    if (ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_DEBUG)
        return (uint8_t)(reg - ZYDIS_REGISTER_DR0);
    return (uint8_t)ZydisRegisterGetId(reg);
}

static uint8_t slot_offset(unsigned slot) { return (uint8_t)(slot * 8); }

void x86_emit_memory(struct x86_emit *e, const ZydisDecodedOperand *operand)
{
    struct insn *insn = e->insn;
    const ZydisDecodedOperandMem *mem = &operand->mem;
    unsigned address = e->z->address_width;
    bool code64 = x86_emit_code64(e);
    int64_t disp = mem->disp.has_displacement ? mem->disp.value : 0;
    // SIB base 101 with mod 00 is a displacement and no base, whatever REX.B; with 32-bit addresses Zydis 4.0 takes it
    // for R13D.
    bool no_base = mem->base == ZYDIS_REGISTER_R13D && e->z->raw.modrm.mod == 0 && e->z->raw.modrm.rm == 4
                && e->z->raw.sib.base == 5;
    if (no_base)
        disp = e->z->raw.disp.value;
    unsigned flags = 0;

    insn->base = insn->index = slot_offset(X86_SLOT_ZERO);
    insn->scale = 0;
    if (mem->base == ZYDIS_REGISTER_RIP || mem->base == ZYDIS_REGISTER_EIP) {
        insn->base = slot_offset(X86_SLOT_RIP_PAGE);
        int64_t shifted = disp + insn->page_offset + insn->length;
        if (shifted > INT32_MAX)
            flags |= INSN_MEM_RIP_FAR;
        else
            disp = shifted;
    } else if (mem->base != ZYDIS_REGISTER_NONE && !no_base) {
        insn->base = x86_emit_gpr(mem->base);
    }
    if (mem->index != ZYDIS_REGISTER_NONE) {
        insn->index = x86_emit_gpr(mem->index);
        insn->scale = mem->scale == 8 ? 3 : mem->scale == 4 ? 2 : mem->scale == 2 ? 1 : 0;
    }
    insn->disp = (int32_t)disp;

    unsigned segment = x86_emit_index(mem->segment);
    insn->stack = segment == X86_SS;
    if (code64) {
        insn->segment = slot_offset(segment >= X86_FS ? X86_SLOT_SEGMENT + segment : X86_SLOT_ZERO);
        if (address != 64)
            flags |= INSN_MEM_ADDR32;
    } else {
        insn->segment = slot_offset(X86_SLOT_SEGMENT + segment);
        flags |= address == 16 ? INSN_MEM_ADDR16 : INSN_MEM_ADDR32;
        bool flat = (e->mode & X86_MODE_FLAT) && (segment == X86_DS || segment == X86_ES || segment == X86_SS);
        if (!flat)
            flags |= INSN_MEM_CHECK;
    }
    if (flags && (flags & INSN_MEM_ADDR) == 0)
        flags |= INSN_MEM_ADDR64;
    insn->mem = flags ? flags | INSN_MEM_GENERAL : 0;
}

static const struct insn *op_invalid(struct x86_cpu *cpu, const struct insn *i)
{
    return x86_raise(cpu, i, X86_UD, -1);
}

static const struct insn *op_too_long(struct x86_cpu *cpu, const struct insn *i)
{
    return x86_raise(cpu, i, X86_GP, 0);
}

static uint8_t insn_flags(const ZydisDecodedInstruction *z, uint32_t mode)
{
    unsigned flags = 0;
    if (z->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        flags |= INSN_LOCK;
    if (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        flags |= INSN_REP;
    if (z->attributes & ZYDIS_ATTRIB_HAS_REPNE)
        flags |= INSN_REPNE;
    if (z->address_width == 16)
        flags |= INSN_ADDR16;
    else if (z->address_width == 32)
        flags |= INSN_ADDR32;
    if ((mode & X86_MODE_CODE) == X86_MODE_CODE64)
        flags |= INSN_CODE64;
    else
        flags |= mode & X86_MODE_STACK32 ? INSN_STACK32 : INSN_STACK16;
    return (uint8_t)flags;
}

void x86_decoder_init(ZydisDecoder *decoder, uint32_t mode)
{
    bool protected_mode = mode & X86_MODE_PROTECTED;
    switch (mode & X86_MODE_CODE) {
    case X86_MODE_CODE64:
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        break;
    case X86_MODE_CODE32:
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
        break;
    default:
        ZydisDecoderInit(decoder, protected_mode ? ZYDIS_MACHINE_MODE_LEGACY_16 : ZYDIS_MACHINE_MODE_REAL_16,
                         ZYDIS_STACK_WIDTH_16);
    }
    // These opcodes are plain NOPs on a processor without the extension, or mean the same.
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_LZCNT, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_TZCNT, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
}

enum x86_decode_result x86_decode(struct x86_cpu *cpu, uint32_t mode, const uint8_t *bytes, size_t size,
                                  unsigned page_offset, unsigned number, struct insn *insn)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    x86_decoder_init(&decoder, mode);
    ZyanStatus status = ZydisDecoderDecodeFull(&decoder, bytes, size, &z, operands);
    if (status == ZYDIS_STATUS_NO_MORE_DATA && size < ZYDIS_MAX_INSTRUCTION_LENGTH)
        return X86_DECODE_TRUNCATED;

    *insn = (struct insn){ .fn = op_invalid, .page_offset = (uint16_t)page_offset, .number = number, .length = 1,
                           .base = slot_offset(X86_SLOT_ZERO), .index = slot_offset(X86_SLOT_ZERO),
                           .segment = slot_offset(X86_SLOT_ZERO) };
    if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || status == ZYDIS_STATUS_NO_MORE_DATA) {
        insn->fn = op_too_long;
        return X86_DECODE_INVALID;
    }
    if (!ZYAN_SUCCESS(status))
        return X86_DECODE_INVALID;
    const struct row *row = &rows[z.mnemonic];
    insn->length = z.length;
    if (!row->emit || !x86_has_feature(cpu, row->feature))
        return X86_DECODE_INVALID;
    insn->size = (uint8_t)(z.operand_width / 8);
    insn->flags = insn_flags(&z, mode);
    struct x86_emit e = { .z = &z, .operand = operands, .cpu = cpu, .insn = insn, .mode = mode };
    struct insn invalid = *insn;
    if (!row->emit(&e, row->parameter)) {
        *insn = invalid;
        insn->fn = op_invalid;
        return X86_DECODE_INVALID;
    }
    for (unsigned n = 0; n < z.operand_count; n++)
        if (operands[n].type == ZYDIS_OPERAND_TYPE_MEMORY && operands[n].mem.segment == ZYDIS_REGISTER_SS)
            insn->stack = 1;
    return e.ends_block ? X86_DECODE_END : X86_DECODE_OK;
}
