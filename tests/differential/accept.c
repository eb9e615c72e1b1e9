// Which instructions can be compared between the host's processor and the guest.
//
// Left out are: instruction sets that the guest does not announce or the host lacks; instructions whose
// result depends on the operating system (system calls, segment loads, time, CPUID) or that a kernel emulates
// for its processes (UMIP); and what Intel's and AMD's processors do differently.
#include "differential.h"

#include <cpuid.h>

static bool accept_set[ZYDIS_ISA_SET_MAX_VALUE + 1];

enum { LEAF1_ECX, LEAF1_EDX, LEAF80000001_ECX, LEAF80000001_EDX };

static const struct {
    uint16_t set;
    int8_t word;            // -1: always
    uint8_t bit;
} accept_sets[] = {
    { ZYDIS_ISA_SET_I86, -1, 0 },
    { ZYDIS_ISA_SET_I186, -1, 0 },
    { ZYDIS_ISA_SET_I286PROTECTED, -1, 0 },
    { ZYDIS_ISA_SET_I286REAL, -1, 0 },
    { ZYDIS_ISA_SET_I386, -1, 0 },
    { ZYDIS_ISA_SET_I486, -1, 0 },
    { ZYDIS_ISA_SET_I486REAL, -1, 0 },
    { ZYDIS_ISA_SET_PENTIUMREAL, -1, 0 },
    { ZYDIS_ISA_SET_PPRO, -1, 0 },
    { ZYDIS_ISA_SET_FAT_NOP, -1, 0 },
    { ZYDIS_ISA_SET_PAUSE, -1, 0 },
    { ZYDIS_ISA_SET_PREFETCH_NOP, -1, 0 },
    { ZYDIS_ISA_SET_LONGMODE, LEAF80000001_EDX, 29 },
    { ZYDIS_ISA_SET_LAHF, LEAF80000001_ECX, 0 },
    { ZYDIS_ISA_SET_LZCNT, LEAF80000001_ECX, 5 },
    { ZYDIS_ISA_SET_SSE4A, LEAF80000001_ECX, 6 },
    { ZYDIS_ISA_SET_X87, LEAF1_EDX, 0 },
    { ZYDIS_ISA_SET_CMOV, LEAF1_EDX, 15 },
    { ZYDIS_ISA_SET_FCMOV, LEAF1_EDX, 15 },
    { ZYDIS_ISA_SET_CLFSH, LEAF1_EDX, 19 },
    { ZYDIS_ISA_SET_PENTIUMMMX, LEAF1_EDX, 23 },
    { ZYDIS_ISA_SET_FXSAVE, LEAF1_EDX, 24 },
    { ZYDIS_ISA_SET_FXSAVE64, LEAF1_EDX, 24 },
    { ZYDIS_ISA_SET_SSE, LEAF1_EDX, 25 },
    { ZYDIS_ISA_SET_SSEMXCSR, LEAF1_EDX, 25 },
    { ZYDIS_ISA_SET_SSE_PREFETCH, LEAF1_EDX, 25 },
    { ZYDIS_ISA_SET_SSE2, LEAF1_EDX, 26 },
    { ZYDIS_ISA_SET_SSE2MMX, LEAF1_EDX, 26 },
    { ZYDIS_ISA_SET_SSE3, LEAF1_ECX, 0 },
    { ZYDIS_ISA_SET_SSE3X87, LEAF1_ECX, 0 },
    { ZYDIS_ISA_SET_PCLMULQDQ, LEAF1_ECX, 1 },
    { ZYDIS_ISA_SET_SSSE3, LEAF1_ECX, 9 },
    { ZYDIS_ISA_SET_SSSE3MMX, LEAF1_ECX, 9 },
    { ZYDIS_ISA_SET_CMPXCHG16B, LEAF1_ECX, 13 },
    { ZYDIS_ISA_SET_SSE4, LEAF1_ECX, 19 },
    { ZYDIS_ISA_SET_SSE42, LEAF1_ECX, 20 },
    { ZYDIS_ISA_SET_MOVBE, LEAF1_ECX, 22 },
    { ZYDIS_ISA_SET_POPCNT, LEAF1_ECX, 23 },
    { ZYDIS_ISA_SET_AES, LEAF1_ECX, 25 },
};

void accept_configure(const uint32_t cpuid[4])
{
    uint32_t host[4] = { 0 }, unused1, unused2;
    __get_cpuid(1, &unused1, &unused2, &host[LEAF1_ECX], &host[LEAF1_EDX]);
    __get_cpuid(0x80000001, &unused1, &unused2, &host[LEAF80000001_ECX], &host[LEAF80000001_EDX]);
    for (size_t i = 0; i < sizeof(accept_sets) / sizeof(accept_sets[0]); i++) {
        int word = accept_sets[i].word;
        accept_set[accept_sets[i].set] = word < 0 || (cpuid[word] & host[word]) >> accept_sets[i].bit & 1;
    }
}

static bool accept_mnemonic(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    // The operating system answers, or time passes.
    case ZYDIS_MNEMONIC_SYSCALL: case ZYDIS_MNEMONIC_SYSENTER: case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_SYSRET: case ZYDIS_MNEMONIC_INT: case ZYDIS_MNEMONIC_INT1: case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDPMC: case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_IRET: case ZYDIS_MNEMONIC_IRETD: case ZYDIS_MNEMONIC_IRETQ:
    // They depend on descriptor tables.
    case ZYDIS_MNEMONIC_LAR: case ZYDIS_MNEMONIC_LSL: case ZYDIS_MNEMONIC_VERR: case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_LDS: case ZYDIS_MNEMONIC_LES: case ZYDIS_MNEMONIC_LFS: case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    // Emulated by the kernel where the processor has UMIP.
    case ZYDIS_MNEMONIC_SGDT: case ZYDIS_MNEMONIC_SIDT: case ZYDIS_MNEMONIC_SLDT: case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_STR:
    // Only an 80287 knew them; today they do nothing, with or without an exception pending.
    case ZYDIS_MNEMONIC_FENI8087_NOP: case ZYDIS_MNEMONIC_FDISI8087_NOP: case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return false;
    default:
        return true;
    }
}

static bool has_repeat_prefix(const ZydisDecodedInstruction *z)
{
    for (int i = 0; i < z->raw.prefix_count; i++) {
        if (z->raw.prefixes[i].value == 0xf2 || z->raw.prefixes[i].value == 0xf3)
            return true;
    }
    return false;
}

// Where Intel's and AMD's processors do different things.
static bool is_vendors_own(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *operands)
{
    // A near branch with an operand size prefix in 64-bit mode: 16 bits on AMD's processors, 64 on Intel's.
    if (z->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && z->machine_mode == ZYDIS_MACHINE_MODE_LONG_64
        && (z->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE))
        return true;
    // PUSH of a segment register with 32-bit operands: Intel's write the lower half alone (SDM vol. 2B, PUSH).
    if (z->mnemonic == ZYDIS_MNEMONIC_PUSH && z->operand_width == 32
        && operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER
        && ZydisRegisterGetClass(operands[0].reg.value) == ZYDIS_REGCLASS_SEGMENT)
        return true;
    // PREFETCH with a register: #UD or nothing.
    if (z->opcode_map == ZYDIS_OPCODE_MAP_0F && z->opcode == 0x0d && z->raw.modrm.mod == 3)
        return true;
    // Repeated 0 times, with the port forbidden: #GP or nothing.
    if (z->meta.category == ZYDIS_CATEGORY_IOSTRINGOP && has_repeat_prefix(z))
        return true;
    // LOOPE and LOOPNE with a REP prefix: it may take the place of the condition.
    return (z->mnemonic == ZYDIS_MNEMONIC_LOOPE || z->mnemonic == ZYDIS_MNEMONIC_LOOPNE)
           && has_repeat_prefix(z);
}

bool accept_instruction(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *operands)
{
    if (!accept_set[z->meta.isa_set] || !accept_mnemonic(z->mnemonic))
        return false;
    if (z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || is_vendors_own(z, operands))
        return false;
    for (int i = 0; i < z->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            && ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT)
            return false;
        // FS and GS have bases only in 64-bit mode; null selectors in 32-bit mode differ between vendors.
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && z->machine_mode != ZYDIS_MACHINE_MODE_LONG_64
            && (o->mem.segment == ZYDIS_REGISTER_FS || o->mem.segment == ZYDIS_REGISTER_GS))
            return false;
    }
    return true;
}

// Orders of checks and writes inside one instruction, seen on Intel's processors by this test; where the manuals speak,
// they allow both. A fault leaves what the instruction has done by then: x87's state behind an MMX store (SDM vol. 3A
// 13.2 has it changed with the first), what a CALL has pushed, parts of a BCD number, flags and registers of a repeated
// comparison. Which of two faults comes first is any processor's choice (SDM vol. 3A 6.9).
bool accept_makers_own(ZydisMnemonic mnemonic, bool fault)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_CALL: case ZYDIS_MNEMONIC_ENTER: case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_FBSTP: case ZYDIS_MNEMONIC_FIST: case ZYDIS_MNEMONIC_FISTP: case ZYDIS_MNEMONIC_FISTTP:
    case ZYDIS_MNEMONIC_FST: case ZYDIS_MNEMONIC_FSTP:
    case ZYDIS_MNEMONIC_MOVD: case ZYDIS_MNEMONIC_MOVQ: case ZYDIS_MNEMONIC_MOVNTQ:
    case ZYDIS_MNEMONIC_DIV: case ZYDIS_MNEMONIC_IDIV: case ZYDIS_MNEMONIC_BOUND:
        return fault;
    // Repeated 0 times with 32-bit addresses in 64-bit mode: the upper halves of the registers are cleared or not.
    case ZYDIS_MNEMONIC_CMPSB: case ZYDIS_MNEMONIC_CMPSW: case ZYDIS_MNEMONIC_CMPSD: case ZYDIS_MNEMONIC_CMPSQ:
    case ZYDIS_MNEMONIC_SCASB: case ZYDIS_MNEMONIC_SCASW: case ZYDIS_MNEMONIC_SCASD: case ZYDIS_MNEMONIC_SCASQ:
    case ZYDIS_MNEMONIC_MOVSB: case ZYDIS_MNEMONIC_MOVSW: case ZYDIS_MNEMONIC_MOVSD: case ZYDIS_MNEMONIC_MOVSQ:
    case ZYDIS_MNEMONIC_STOSB: case ZYDIS_MNEMONIC_STOSW: case ZYDIS_MNEMONIC_STOSD: case ZYDIS_MNEMONIC_STOSQ:
    case ZYDIS_MNEMONIC_LODSB: case ZYDIS_MNEMONIC_LODSW: case ZYDIS_MNEMONIC_LODSD: case ZYDIS_MNEMONIC_LODSQ:
    // With a 16-bit operand it reads 16 bits or 32; with REX.B it is XCHG with R8 or not.
    case ZYDIS_MNEMONIC_MOVSXD: case ZYDIS_MNEMONIC_PAUSE:
        return true;
    default:
        return false;
    }
}
