// Decimal adjustment: AAA AAS AAD AAM DAA DAS (SDM vol. 2). None of them exists in 64-bit mode.
#include "x86/ops_forms.h"

static uint16_t result_flags(uint8_t value)
{
    uint32_t flags;
    asm("testb %1, %1" FLAGS_OUT : "=&a"(flags) : "q"(value) : "cc");
    return (uint16_t)flags & (X86_HOST_SF | X86_HOST_ZF | X86_HOST_PF);
}

static void ascii_adjust(struct x86_cpu *cpu, int direction)
{
    bool adjust = (R8(OFFSET_RAX) & 15) > 9 || (cpu->oszapc & X86_HOST_AF);
    if (adjust)
        R16(OFFSET_RAX) = (uint16_t)(R16(OFFSET_RAX) + direction * 0x106);
    R8(OFFSET_RAX) &= 15;
    cpu->oszapc = (uint16_t)(result_flags(R8(OFFSET_RAX)) | (adjust ? X86_HOST_AF | X86_HOST_CF : 0));
}

static void decimal_adjust(struct x86_cpu *cpu, int direction)
{
    uint8_t al = R8(OFFSET_RAX), old = al;
    bool old_carry = cpu->oszapc & X86_HOST_CF, carry = false, half = false;
    if ((al & 15) > 9 || (cpu->oszapc & X86_HOST_AF)) {
        int sum = al + direction * 6;
        carry = old_carry || sum < 0 || sum > 0xff;
        al = (uint8_t)sum;
        half = true;
    }
    if (old > 0x99 || old_carry) {
        al = (uint8_t)(al + direction * 0x60);
        carry = true;
    } else if (direction > 0) {
        carry = false;
    }
    R8(OFFSET_RAX) = al;
    cpu->oszapc = (uint16_t)(result_flags(al) | (half ? X86_HOST_AF : 0) | (carry ? X86_HOST_CF : 0));
}

HANDLER(aaa, ascii_adjust(cpu, 1); NEXT(cpu, i);)
HANDLER(aas, ascii_adjust(cpu, -1); NEXT(cpu, i);)
HANDLER(daa, decimal_adjust(cpu, 1); NEXT(cpu, i);)
HANDLER(das, decimal_adjust(cpu, -1); NEXT(cpu, i);)

HANDLER(aam,
    uint8_t base = (uint8_t)i->imm;
    uint8_t al = R8(OFFSET_RAX);
    if (base == 0)
        return x86_raise(cpu, i, X86_DE, -1);
    R16(OFFSET_RAX) = (uint16_t)(al / base << 8 | al % base);
    cpu->oszapc = result_flags(R8(OFFSET_RAX));
    NEXT(cpu, i);)

HANDLER(aad,
    uint16_t ax = R16(OFFSET_RAX);
    R16(OFFSET_RAX) = (uint8_t)(ax + (ax >> 8) * (uint8_t)i->imm);
    cpu->oszapc = result_flags(R8(OFFSET_RAX));
    NEXT(cpu, i);)

enum { BCD_AAM = 4, BCD_AAD = 5 };

bool x86_emit_bcd(struct x86_emit *e, unsigned which)
{
    static const insn_fn fn[] = { aaa, aas, daa, das, aam, aad };
    if (which == BCD_AAM || which == BCD_AAD)
        e->insn->imm = e->operand[0].imm.value.u;
    return x86_emit_fn(e, fn[which]);
}
