/* fault.c: describing the state of a processor that cannot go on. */
#include "fault.h"

#include <Zydis/Zydis.h>

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define INSTRUCTION_MAX 15

enum {
    RAX,
    RCX,
    RDX,
    RBX,
    RSP,
    RBP,
    RSI,
    RDI,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    RIP,
    RFLAGS,
    ES,
    CS,
    SS,
    DS,
    FS,
    GS,
    LDTR,
    TR,
    IDTR,
    GDTR,
    CR0,
    CR2,
    CR3,
    CR4,
    EFER,
    COUNT
};

static const WHV_REGISTER_NAME names[COUNT] = {
    WHvX64RegisterRax, WHvX64RegisterRcx,  WHvX64RegisterRdx,    WHvX64RegisterRbx, WHvX64RegisterRsp,
    WHvX64RegisterRbp, WHvX64RegisterRsi,  WHvX64RegisterRdi,    WHvX64RegisterR8,  WHvX64RegisterR9,
    WHvX64RegisterR10, WHvX64RegisterR11,  WHvX64RegisterR12,    WHvX64RegisterR13, WHvX64RegisterR14,
    WHvX64RegisterR15, WHvX64RegisterRip,  WHvX64RegisterRflags, WHvX64RegisterEs,  WHvX64RegisterCs,
    WHvX64RegisterSs,  WHvX64RegisterDs,   WHvX64RegisterFs,     WHvX64RegisterGs,  WHvX64RegisterLdtr,
    WHvX64RegisterTr,  WHvX64RegisterIdtr, WHvX64RegisterGdtr,   WHvX64RegisterCr0, WHvX64RegisterCr2,
    WHvX64RegisterCr3, WHvX64RegisterCr4,  WHvX64RegisterEfer,
};

struct text {
    char *to;
    size_t size, used;
};

static void text_add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void text_add(struct text *text, const char *format, ...)
{
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(text->to + text->used, text->size - text->used, format, args);
    va_end(args);
    if (length > 0) {
        text->used += (size_t)length;
        if (text->used >= text->size) {
            text->used = text->size - 1;
        }
    }
}

/* Reads up to INSTRUCTION_MAX bytes at linear address GVA; they may lie on two pages. */
static size_t fault_fetch(WHV_PARTITION_HANDLE partition, unsigned index, const struct memory *memory,
                          uint64_t gva, uint8_t *bytes)
{
    size_t count = 0;

    while (count < INSTRUCTION_MAX) {
        WHV_TRANSLATE_GVA_RESULT result;
        WHV_GUEST_PHYSICAL_ADDRESS gpa;
        uint64_t at = gva + count;
        size_t length = (size_t)(MEMORY_PAGE - at % MEMORY_PAGE);

        if (length > INSTRUCTION_MAX - count) {
            length = INSTRUCTION_MAX - count;
        }
        if (FAILED(
                WHvTranslateGva(partition, index, at, WHvTranslateGvaFlagPrivilegeExempt, &result, &gpa)) ||
            result.ResultCode != WHvTranslateGvaResultSuccess) {
            break;
        }
        const uint8_t *from = memory_peek(memory, gpa, length);

        if (from == NULL) {
            break;
        }
        memcpy(bytes + count, from, length);
        count += length;
    }
    return count;
}

static void fault_disassemble(const WHV_REGISTER_VALUE *values, const uint8_t *bytes, size_t count, char *to,
                              size_t size)
{
    ZydisMachineMode mode = ZYDIS_MACHINE_MODE_LEGACY_16;
    ZydisStackWidth width = ZYDIS_STACK_WIDTH_16;
    ZydisDecoder decoder;
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter formatter;

    if ((values[EFER].Reg64 & 0x400) != 0 && values[CS].Segment.Long) {
        mode = ZYDIS_MACHINE_MODE_LONG_64;
        width = ZYDIS_STACK_WIDTH_64;
    } else if (values[CS].Segment.Default) {
        mode = ZYDIS_MACHINE_MODE_LEGACY_32;
        width = ZYDIS_STACK_WIDTH_32;
    }
    if (count == 0) {
        snprintf(to, size, "no memory there");
    } else if (ZYAN_FAILED(ZydisDecoderInit(&decoder, mode, width)) ||
               ZYAN_FAILED(ZydisDecoderDecodeFull(&decoder, bytes, count, &instruction, operands)) ||
               ZYAN_FAILED(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL)) ||
               ZYAN_FAILED(ZydisFormatterFormatInstruction(&formatter, &instruction, operands,
                                                           instruction.operand_count_visible, to, size,
                                                           values[RIP].Reg64, NULL))) {
        snprintf(to, size, "no instruction: bytes %02x %02x %02x", bytes[0], count > 1 ? bytes[1] : 0,
                 count > 2 ? bytes[2] : 0);
    }
}

static void fault_registers(const WHV_REGISTER_VALUE *values, struct text *text)
{
    static const char *general[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                    "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *segments[] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};

    for (unsigned i = 0; i < 16; i++) {
        text_add(text, "  %s %016" PRIx64 "%s", general[i], values[RAX + i].Reg64, i % 4 == 3 ? "\n" : "");
    }
    text_add(text, "  rip %016" PRIx64 "  rflags %08" PRIx64 "\n", values[RIP].Reg64, values[RFLAGS].Reg64);
    text_add(text,
             "  cr0 %08" PRIx64 "  cr2 %016" PRIx64 "  cr3 %016" PRIx64 "  cr4 %08" PRIx64 "  efer %04" PRIx64
             "\n",
             values[CR0].Reg64, values[CR2].Reg64, values[CR3].Reg64, values[CR4].Reg64, values[EFER].Reg64);
    for (unsigned i = 0; i < 8; i++) {
        const WHV_X64_SEGMENT_REGISTER *segment = &values[ES + i].Segment;

        text_add(text, "  %s %04x base %016" PRIx64 " limit %08x attr %04x%s", segments[i], segment->Selector,
                 (uint64_t)segment->Base, segment->Limit, segment->Attributes, i % 2 == 1 ? "\n" : "");
    }
    text_add(text, "  idtr base %016" PRIx64 " limit %04x  gdtr base %016" PRIx64 " limit %04x\n",
             (uint64_t)values[IDTR].Table.Base, values[IDTR].Table.Limit, (uint64_t)values[GDTR].Table.Base,
             values[GDTR].Table.Limit);
}

void fault_describe(WHV_PARTITION_HANDLE partition, unsigned index, const struct memory *memory, char *where,
                    size_t where_size, char *detail, size_t detail_size)
{
    WHV_REGISTER_VALUE values[COUNT];
    struct text text = {.to = detail, .size = detail_size};
    uint8_t bytes[INSTRUCTION_MAX];
    char instruction[128];
    uint64_t linear;
    HRESULT hr = WHvGetVirtualProcessorRegisters(partition, index, names, COUNT, values);

    detail[0] = '\0';
    if (FAILED(hr)) {
        snprintf(where, where_size, "an unknown place (WHvGetVirtualProcessorRegisters failed with 0x%08x)",
                 (unsigned)hr);
        return;
    }
    linear = values[RIP].Reg64;
    if (!((values[EFER].Reg64 & 0x400) != 0 && values[CS].Segment.Long)) {
        linear = (uint32_t)(linear + values[CS].Segment.Base);
    }
    fault_disassemble(values, bytes, fault_fetch(partition, index, memory, linear, bytes), instruction,
                      sizeof(instruction));
    snprintf(where, where_size, "%04x:%0*" PRIx64 " (%s)", values[CS].Segment.Selector,
             linear > UINT32_MAX ? 16 : 8, values[RIP].Reg64, instruction);
    fault_registers(values, &text);
}
