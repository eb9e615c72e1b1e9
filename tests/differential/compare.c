// Compares the outcomes of a case on two machines, and prints a difference so that a person can see it.
#include "differential.h"

#include <stdio.h>
#include <string.h>

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

static int gpr_count(const struct test_case *c)
{
    return c->mode == MODE_64 ? 16 : 8;
}

static uint64_t gpr_mask(const struct test_case *c)
{
    return c->mode == MODE_64 ? ~(uint64_t)0 : 0xffffffff;
}

// Defined at the end: what the last instruction left defined; after a fault or a jump, what all left defined.
static void undefined_bits(const struct test_case *c, const struct outcome *o, uint32_t *flags, uint16_t *fsw)
{
    *flags = FLAG_RF;       // set in what a fault saves, not in what the fault finds
    *fsw = 0;
    bool to_the_end = o->after.rip == c->before.rip + c->size;
    for (uint32_t i = 0; i < c->instruction_count; i++) {
        if (to_the_end && i + 1 < c->instruction_count)
            continue;
        *flags |= c->instructions[i].undefined_flags;
        *fsw |= c->instructions[i].undefined_fsw;
    }
}

// Linux reports every fault on an address of the kernel's half as one on a present page (it hides its
// layout).
static uint32_t error_code_mask(const struct outcome *o)
{
    return o->vector == 14 && o->address >= 0x7ffffffff000 ? ~1u : ~0u;
}

static bool is_ignored(const struct test_case *c, uint32_t offset)
{
    for (uint32_t i = 0; i < c->ignored_count; i++) {
        if (offset - c->ignored[i].offset < c->ignored[i].size)
            return true;
    }
    return false;
}

static bool same_data(const struct test_case *c, const struct outcome *a, const struct outcome *b)
{
    if (memcmp(a->data, b->data, CASE_DATA_SIZE) == 0)
        return true;
    for (uint32_t i = 0; i < CASE_DATA_SIZE; i++) {
        if (a->data[i] != b->data[i] && !is_ignored(c, i))
            return false;
    }
    return true;
}

static bool same_fx(const struct test_case *c, const struct fx_image *a, const struct fx_image *b,
                    uint16_t undefined)
{
    if (a->fcw != b->fcw || (a->fsw & ~undefined) != (b->fsw & ~undefined) || a->ftw != b->ftw)
        return false;
    for (int i = 0; i < 8; i++) {
        if (memcmp(a->st[i], b->st[i], 10) != 0)
            return false;
    }
    return memcmp(a->xmm, b->xmm, 16u * (unsigned)gpr_count(c)) == 0;
}

// What may differ when an instruction faults: processors touch the parts of these operands in orders of their
// own, and some have changed a part of the state by then.
enum { LOOSE_ADDRESS = 1, LOOSE_STATE = 2, LOOSE_VECTOR = 4, LOOSE_EVERYTHING = 8 };

static unsigned loose_on_fault(const struct test_case *c, const struct outcome *o)
{
    if (o->vector != 12 && o->vector != 13 && o->vector != 14)
        return 0;
    for (uint32_t i = 0; i < c->instruction_count; i++) {
        if (c->before.rip + c->instructions[i].offset != o->after.rip)
            continue;
        switch (c->instructions[i].mnemonic) {
        case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXSAVE64: case ZYDIS_MNEMONIC_FXRSTOR:
        case ZYDIS_MNEMONIC_FXRSTOR64: case ZYDIS_MNEMONIC_FNSAVE: case ZYDIS_MNEMONIC_FRSTOR:
        case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FLDENV:
            return LOOSE_ADDRESS | LOOSE_STATE | LOOSE_VECTOR;
        case ZYDIS_MNEMONIC_POPA: case ZYDIS_MNEMONIC_POPAD: case ZYDIS_MNEMONIC_PUSHA:
        case ZYDIS_MNEMONIC_PUSHAD: case ZYDIS_MNEMONIC_ENTER:
            return LOOSE_ADDRESS | LOOSE_STATE;
        case ZYDIS_MNEMONIC_MASKMOVQ: case ZYDIS_MNEMONIC_MASKMOVDQU:   // a mask of 0 may fault or not
            return LOOSE_EVERYTHING;
        case ZYDIS_MNEMONIC_CALL: case ZYDIS_MNEMONIC_PUSH: case ZYDIS_MNEMONIC_POP:
            return LOOSE_ADDRESS | LOOSE_VECTOR;        // the stack or the other operand
        case ZYDIS_MNEMONIC_CMPSB: case ZYDIS_MNEMONIC_CMPSW: case ZYDIS_MNEMONIC_CMPSD:
        case ZYDIS_MNEMONIC_CMPSQ:
            return LOOSE_ADDRESS | LOOSE_VECTOR;
        default:
            return 0;
        }
    }
    return 0;
}

// Which check comes first at the end of a segment, that of the limit (#SS for the stack's
// registers) or that of the alignment (#GP), is the processor's choice.
static bool past_the_limit(const struct test_case *c, const struct outcome *a, const struct outcome *b)
{
    return c->mode != MODE_64 && (a->vector == 12 || a->vector == 13) && (b->vector == 12 || b->vector == 13);
}

static bool same_fault(const struct test_case *c, const struct outcome *a, const struct outcome *b,
                       unsigned loose)
{
    if (a->after.rip != b->after.rip)
        return false;
    if (a->vector != b->vector)
        return ((loose & LOOSE_VECTOR) || past_the_limit(c, a, b)) && b->vector >= 12 && b->vector <= 14;
    if (loose & LOOSE_ADDRESS)
        return true;
    return !((a->error_code ^ b->error_code) & error_code_mask(a)) && a->address == b->address;
}

// AMD's processors have a bit in MXCSR that is reserved on others (APM vol. 1 4.2.2): a case that sets it
// cannot go on alike.
enum { MXCSR_MM = 0x20000 };

// Whether a result that overflows or underflows with the exception unmasked is also inexact depends on how
// much of it was computed before the fault.
static uint32_t undefined_mxcsr(const struct outcome *o)
{
    enum { INEXACT = 0x20 };
    return o->vector == 19 ? INEXACT : 0;
}

bool compare_outcomes(const struct test_case *c, const struct outcome *a, const struct outcome *b)
{
    uint32_t flags;
    uint16_t fsw;
    unsigned loose = loose_on_fault(c, a);
    undefined_bits(c, a, &flags, &fsw);
    if ((loose & LOOSE_EVERYTHING) || (a->after.fx.mxcsr & MXCSR_MM))
        return true;
    if (!same_fault(c, a, b, loose))
        return false;
    if (loose & LOOSE_STATE)
        return true;
    for (int i = 0; i < gpr_count(c); i++) {
        if ((a->after.gpr[i] ^ b->after.gpr[i]) & gpr_mask(c))
            return false;
    }
    return !((a->after.rflags ^ b->after.rflags) & ~(uint64_t)flags)
           && same_fx(c, &a->after.fx, &b->after.fx, fsw)
           && ((a->after.fx.mxcsr ^ b->after.fx.mxcsr) & ~undefined_mxcsr(a)) == 0 && same_data(c, a, b);
}

void compare_disassemble(const struct test_case *c)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisDecoderInit(&decoder, case_modes[c->mode].machine, case_modes[c->mode].stack);
    for (uint32_t i = 0; i < c->instruction_count; i++) {
        const struct instruction *at = &c->instructions[i];
        uint64_t rip = c->before.rip + at->offset;
        char text[128] = "?", hex[64] = "";
        ZydisDecodedInstruction z;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        for (unsigned k = 0; k < at->length; k++)
            snprintf(hex + 2 * k, sizeof(hex) - 2 * k, "%02x", c->bytes[at->offset + k]);
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, c->bytes + at->offset, at->length, &z, operands)))
            ZydisFormatterFormatInstruction(&formatter, &z, operands, z.operand_count_visible, text,
                                            sizeof(text), rip, NULL);
        printf("    %08llx  %-30s  %s\n", (unsigned long long)rip, hex, text);
    }
}

static void print_value(const char *what, uint64_t before, uint64_t a, uint64_t b)
{
    printf("    %-10s before %016llx   %016llx   %016llx\n", what, (unsigned long long)before,
           (unsigned long long)a, (unsigned long long)b);
}

static void print_bytes(const char *what, int number, const uint8_t *before, const uint8_t *a,
                        const uint8_t *b, int n)
{
    const uint8_t *const all[3] = { before, a, b };
    if (memcmp(a, b, (size_t)n) == 0)
        return;
    printf("    %s%d before", what, number);
    for (int k = 0; k < 3; k++) {
        printf(k ? "   " : " ");
        for (int i = n - 1; i >= 0; i--)
            printf("%02x", all[k][i]);
    }
    printf("\n");
}

static void print_fx(const struct test_case *c, const struct fx_image *a, const struct fx_image *b)
{
    const struct fx_image *before = &c->before.fx;
    if (a->fcw != b->fcw)
        print_value("fcw", before->fcw, a->fcw, b->fcw);
    if (a->fsw != b->fsw)
        print_value("fsw", before->fsw, a->fsw, b->fsw);
    if (a->ftw != b->ftw)
        print_value("ftw", before->ftw, a->ftw, b->ftw);
    if (a->mxcsr != b->mxcsr)
        print_value("mxcsr", before->mxcsr, a->mxcsr, b->mxcsr);
    for (int i = 0; i < 8; i++)
        print_bytes("st", i, before->st[i], a->st[i], b->st[i], 10);
    for (int i = 0; i < gpr_count(c); i++)
        print_bytes("xmm", i, before->xmm[i], a->xmm[i], b->xmm[i], 16);
}

void compare_print(const struct test_case *c, const char *a_name, const struct outcome *a, const char *b_name,
                   const struct outcome *b)
{
    uint32_t flags;
    uint16_t fsw;
    undefined_bits(c, a, &flags, &fsw);
    printf("    %-34s %-16s   %s\n", "", a_name, b_name);
    if (a->vector != b->vector)
        print_value("vector", 0, a->vector, b->vector);
    if (a->error_code != b->error_code)
        print_value("error code", 0, a->error_code, b->error_code);
    if (a->address != b->address)
        print_value("address", 0, a->address, b->address);
    if (a->after.rip != b->after.rip)
        print_value("rip", c->before.rip, a->after.rip, b->after.rip);
    if ((a->after.rflags ^ b->after.rflags) & ~(uint64_t)flags) {
        print_value("rflags", c->before.rflags, a->after.rflags, b->after.rflags);
        print_value("  of these", 0, a->after.rflags & ~flags, b->after.rflags & ~flags);
    }
    for (int i = 0; i < 16; i++) {
        bool differs = i < gpr_count(c) && ((a->after.gpr[i] ^ b->after.gpr[i]) & gpr_mask(c));
        if (differs)
            print_value(gpr_names[i], c->before.gpr[i], a->after.gpr[i], b->after.gpr[i]);
    }
    print_fx(c, &a->after.fx, &b->after.fx);
    int printed = 0;
    for (uint32_t i = 0; i < CASE_DATA_SIZE && printed < 24; i++) {
        if (a->data[i] != b->data[i] && !is_ignored(c, i)) {
            printf("    [%08x] %02x %02x\n", CASE_DATA + i, a->data[i], b->data[i]);
            printed++;
        }
    }
    printf("    both: vector %u, error code %x, address %llx, fcw %04x, mxcsr %04x, rflags before %llx\n",
           a->vector, a->error_code, (unsigned long long)a->address, c->before.fx.fcw, c->before.fx.mxcsr,
           (unsigned long long)c->before.rflags);
    for (int i = 0; i < gpr_count(c); i++)
        printf("%s%s=%llx%s", i % 4 == 0 ? "    " : " ", gpr_names[i], (unsigned long long)c->before.gpr[i],
               i % 4 == 3 ? "\n" : "");
}
