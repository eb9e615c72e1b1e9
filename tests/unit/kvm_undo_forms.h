// Encodings of instructions that reach for memory or ports, and states that lead them to the device.
#ifndef BULKHEAD_TESTS_KVM_UNDO_FORMS_H
#define BULKHEAD_TESTS_KVM_UNDO_FORMS_H

#include "kvm_undo.h"

#define SEQUENCE 80                 // bytes of ordinary code before the instruction

// ---- Encodings --------------------------------------------------------------------------------------------

enum kind {
    STORE, STORE_ABSOLUTE, PUSH, PUSH_MEMORY, POP_MEMORY, STOS, MOVS, CALL, OUT, OUTS,     // to the device
    LOAD, LOAD_ABSOLUTE, PUSH_LOADED, POP, LODS, MOVS_FROM, IN, INS,                       // from the device
};

enum { PREFIX66 = 1,             // mandatory
       VECTOR = 2,               // to or from registers of the FPU
       PLAIN = 4, SIGN = 8,      // of reads: as kvm_undo tells it
       CARRY = 16,               // RFLAGS.CF is a source
       SHIFT16 = 32,             // its 16-bit form is not defined for every count
       EXCHANGE = 64 };          // changes the register, all of it in 64-bit code

struct form {
    const char *name;
    enum kind kind;
    uint8_t opcode[4], opcode_length;
    uint8_t reg;                    // ModRM.reg
    uint8_t size;                   // of the write; 0: the operand size
    uint8_t immediate;              // bytes; 0xff: the operand size, at most 4
    uint8_t widths;
    uint8_t more;
};

#define ALL (CODE16 | CODE32 | CODE64)

static const struct form forms[] = {
    { "mov m8, al", STORE, { 0x88 }, 1, 0, 1, 0, ALL, 0 },
    { "mov m8, cl", STORE, { 0x88 }, 1, 1, 1, 0, ALL, 0 },
    { "mov m8, ah", STORE, { 0x88 }, 1, 4, 1, 0, ALL, 0 },
    { "mov m8, bh", STORE, { 0x88 }, 1, 7, 1, 0, ALL, 0 },
    { "mov m, eax", STORE, { 0x89 }, 1, 0, 0, 0, ALL, 0 },
    { "mov m, esp", STORE, { 0x89 }, 1, 4, 0, 0, ALL, 0 },
    { "mov m, edi", STORE, { 0x89 }, 1, 7, 0, 0, ALL, 0 },
    { "mov m8, imm", STORE, { 0xc6 }, 1, 0, 1, 1, ALL, 0 },
    { "mov m, imm", STORE, { 0xc7 }, 1, 0, 0, 0xff, ALL, 0 },
    { "mov m, ds", STORE, { 0x8c }, 1, 3, 2, 0, ALL, 0 },
    { "mov m, es", STORE, { 0x8c }, 1, 0, 2, 0, ALL, 0 },
    { "setz", STORE, { 0x0f, 0x94 }, 2, 0, 1, 0, ALL, 0 },
    { "setnle", STORE, { 0x0f, 0x9f }, 2, 0, 1, 0, ALL, 0 },
    { "setb", STORE, { 0x0f, 0x92 }, 2, 3, 1, 0, ALL, 0 },
    { "smsw", STORE, { 0x0f, 0x01 }, 2, 4, 2, 0, ALL, 0 },
    { "movnti", STORE, { 0x0f, 0xc3 }, 2, 2, 4, 0, CODE32 | CODE64, 0 },
    { "movups", STORE, { 0x0f, 0x11 }, 2, 2, 16, 0, ALL, VECTOR },
    { "movaps", STORE, { 0x0f, 0x29 }, 2, 5, 16, 0, ALL, VECTOR },
    { "movq m, xmm", STORE, { 0x0f, 0xd6 }, 2, 1, 8, 0, ALL, VECTOR | PREFIX66 },
    { "movq m, mm", STORE, { 0x0f, 0x7f }, 2, 1, 8, 0, ALL, VECTOR },
    { "fnstcw", STORE, { 0xd9 }, 1, 7, 2, 0, ALL, 0 },
    { "fnstsw", STORE, { 0xdd }, 1, 7, 2, 0, ALL, 0 },
    { "mov moffs8, al", STORE_ABSOLUTE, { 0xa2 }, 1, 0, 1, 0, ALL, 0 },
    { "mov moffs, eax", STORE_ABSOLUTE, { 0xa3 }, 1, 0, 0, 0, ALL, 0 },
    { "push eax", PUSH, { 0x50 }, 1, 0, 0, 0, ALL, 0 },
    { "push esp", PUSH, { 0x54 }, 1, 0, 0, 0, ALL, 0 },
    { "push imm8", PUSH, { 0x6a }, 1, 0, 0, 1, ALL, 0 },
    { "push imm", PUSH, { 0x68 }, 1, 0, 0, 0xff, ALL, 0 },
    { "push fs", PUSH, { 0x0f, 0xa0 }, 2, 0, 0, 0, ALL, 0 },
    { "push cs", PUSH, { 0x0e }, 1, 0, 0, 0, CODE16 | CODE32, 0 },
    { "pushf", PUSH, { 0x9c }, 1, 0, 0, 0, ALL, 0 },
    { "pusha", PUSH, { 0x60 }, 1, 0, 0, 0, CODE16 | CODE32, 0 },
    { "push m", PUSH_MEMORY, { 0xff }, 1, 6, 0, 0, ALL, 0 },
    { "pop m", POP_MEMORY, { 0x8f }, 1, 0, 0, 0, ALL, 0 },
    { "stosb", STOS, { 0xaa }, 1, 0, 1, 0, ALL, 0 },
    { "stos", STOS, { 0xab }, 1, 0, 0, 0, ALL, 0 },
    { "movsb", MOVS, { 0xa4 }, 1, 0, 1, 0, ALL, 0 },
    { "movs", MOVS, { 0xa5 }, 1, 0, 0, 0, ALL, 0 },
    { "call rel", CALL, { 0xe8 }, 1, 0, 0, 0xff, ALL, 0 },
    { "call reg", CALL, { 0xff, 0xd3 }, 2, 0, 0, 0, ALL, 0 },
    { "out imm8, al", OUT, { 0xe6 }, 1, 0, 1, 1, ALL, 0 },
    { "out imm8, eax", OUT, { 0xe7 }, 1, 0, 0, 1, ALL, 0 },
    { "out dx, al", OUT, { 0xee }, 1, 0, 1, 0, ALL, 0 },
    { "out dx, eax", OUT, { 0xef }, 1, 0, 0, 0, ALL, 0 },
    { "outsb", OUTS, { 0x6e }, 1, 0, 1, 0, ALL, 0 },
    { "outs", OUTS, { 0x6f }, 1, 0, 0, 0, ALL, 0 },
};

// Read-modify-write, for memory that can only be read.
static const struct form modify_forms[] = {
    { "add m8, dl", STORE, { 0x00 }, 1, 2, 1, 0, ALL, 0 },
    { "add m, edx", STORE, { 0x01 }, 1, 2, 0, 0, ALL, 0 },
    { "or m, edx", STORE, { 0x09 }, 1, 2, 0, 0, ALL, 0 },
    { "adc m8, dl", STORE, { 0x10 }, 1, 2, 1, 0, ALL, CARRY },
    { "adc m, edx", STORE, { 0x11 }, 1, 2, 0, 0, ALL, CARRY },
    { "sbb m, edx", STORE, { 0x19 }, 1, 2, 0, 0, ALL, CARRY },
    { "and m, edx", STORE, { 0x21 }, 1, 2, 0, 0, ALL, 0 },
    { "sub m, edx", STORE, { 0x29 }, 1, 2, 0, 0, ALL, 0 },
    { "xor m, edx", STORE, { 0x31 }, 1, 2, 0, 0, ALL, 0 },
    { "add m8, imm", STORE, { 0x80 }, 1, 0, 1, 1, ALL, 0 },
    { "xor m, imm", STORE, { 0x81 }, 1, 6, 0, 0xff, ALL, 0 },
    { "sbb m, imm8", STORE, { 0x83 }, 1, 3, 0, 1, ALL, CARRY },
    { "not m8", STORE, { 0xf6 }, 1, 2, 1, 0, ALL, 0 },
    { "neg m", STORE, { 0xf7 }, 1, 3, 0, 0, ALL, 0 },
    { "inc m8", STORE, { 0xfe }, 1, 0, 1, 0, ALL, 0 },
    { "dec m", STORE, { 0xff }, 1, 1, 0, 0, ALL, 0 },
    { "rol m8, imm", STORE, { 0xc0 }, 1, 0, 1, 1, ALL, 0 },
    { "ror m, imm", STORE, { 0xc1 }, 1, 1, 0, 1, ALL, 0 },
    { "rcl m, 1", STORE, { 0xd1 }, 1, 2, 0, 0, ALL, CARRY },
    { "rcr m8, cl", STORE, { 0xd2 }, 1, 3, 1, 0, ALL, CARRY },
    { "rcl m, cl", STORE, { 0xd3 }, 1, 2, 0, 0, ALL, CARRY },
    { "shl m, cl", STORE, { 0xd3 }, 1, 4, 0, 0, ALL, 0 },
    { "shr m, imm", STORE, { 0xc1 }, 1, 5, 0, 1, ALL, 0 },
    { "sar m, cl", STORE, { 0xd3 }, 1, 7, 0, 0, ALL, 0 },
    { "shld m, edx, cl", STORE, { 0x0f, 0xa5 }, 2, 2, 0, 0, CODE32 | CODE64, SHIFT16 },
    { "shrd m, edx, imm", STORE, { 0x0f, 0xac }, 2, 2, 0, 1, CODE32 | CODE64, SHIFT16 },
    { "bts m, imm", STORE, { 0x0f, 0xba }, 2, 5, 0, 1, ALL, 0 },
    { "btr m, imm", STORE, { 0x0f, 0xba }, 2, 6, 0, 1, ALL, 0 },
    { "btc m, imm", STORE, { 0x0f, 0xba }, 2, 7, 0, 1, ALL, 0 },
    { "xchg m8, dl", STORE, { 0x86 }, 1, 2, 1, 0, ALL, EXCHANGE },
    { "xchg m, edx", STORE, { 0x87 }, 1, 2, 0, 0, ALL, EXCHANGE },
    { "xadd m8, dl", STORE, { 0x0f, 0xc0 }, 2, 2, 1, 0, ALL, EXCHANGE },
    { "xadd m, edx", STORE, { 0x0f, 0xc1 }, 2, 2, 0, 0, ALL, EXCHANGE },
};

static const struct form read_forms[] = {
    { "mov al, m", LOAD, { 0x8a }, 1, 0, 1, 0, ALL, PLAIN },
    { "mov bl, m", LOAD, { 0x8a }, 1, 3, 1, 0, ALL, PLAIN },
    { "mov ch, m", LOAD, { 0x8a }, 1, 5, 1, 0, ALL, PLAIN },
    { "mov edx, m", LOAD, { 0x8b }, 1, 2, 0, 0, ALL, PLAIN },
    { "mov edi, m", LOAD, { 0x8b }, 1, 7, 0, 0, ALL, PLAIN },
    { "movzx eax, m8", LOAD, { 0x0f, 0xb6 }, 2, 0, 1, 0, ALL, PLAIN },
    { "movzx ebp, m16", LOAD, { 0x0f, 0xb7 }, 2, 5, 2, 0, ALL, PLAIN },
    { "movsx ecx, m8", LOAD, { 0x0f, 0xbe }, 2, 1, 1, 0, ALL, PLAIN | SIGN },
    { "movsx ecx, m16", LOAD, { 0x0f, 0xbf }, 2, 1, 2, 0, ALL, PLAIN | SIGN },
    { "movsxd rcx, m32", LOAD, { 0x63 }, 1, 1, 4, 0, CODE64, PLAIN | SIGN },
    { "mov al, moffs8", LOAD_ABSOLUTE, { 0xa0 }, 1, 0, 1, 0, ALL, PLAIN },
    { "mov eax, moffs", LOAD_ABSOLUTE, { 0xa1 }, 1, 0, 0, 0, ALL, PLAIN },
    { "add ecx, m", LOAD, { 0x03 }, 1, 1, 0, 0, ALL, 0 },
    { "cmp m, ecx", LOAD, { 0x39 }, 1, 1, 0, 0, ALL, 0 },
    { "test m8, imm", LOAD, { 0xf6 }, 1, 0, 1, 1, ALL, 0 },
    { "cmovz ecx, m", LOAD, { 0x0f, 0x44 }, 2, 1, 0, 0, ALL, 0 },
    { "add m, ecx", LOAD, { 0x01 }, 1, 1, 0, 0, ALL, 0 },
    { "xchg m8, cl", LOAD, { 0x86 }, 1, 1, 1, 0, ALL, 0 },
    { "xadd m, edx", LOAD, { 0x0f, 0xc1 }, 2, 2, 0, 0, ALL, 0 },
    { "cmpxchg m, edx", LOAD, { 0x0f, 0xb1 }, 2, 2, 0, 0, ALL, 0 },
    { "bts m, imm", LOAD, { 0x0f, 0xba }, 2, 5, 0, 1, ALL, 0 },
    { "inc m8", LOAD, { 0xfe }, 1, 0, 1, 0, ALL, 0 },
    { "mul m8", LOAD, { 0xf6 }, 1, 4, 1, 0, ALL, 0 },
    { "movups xmm, m", LOAD, { 0x0f, 0x10 }, 2, 2, 16, 0, ALL, VECTOR },
    { "movq mm, m", LOAD, { 0x0f, 0x6f }, 2, 1, 8, 0, ALL, VECTOR },
    { "push m", PUSH_LOADED, { 0xff }, 1, 6, 0, 0, ALL, 0 },
    { "pop edx", POP, { 0x5a }, 1, 0, 0, 0, ALL, 0 },
    { "lodsb", LODS, { 0xac }, 1, 0, 1, 0, ALL, 0 },
    { "lods", LODS, { 0xad }, 1, 0, 0, 0, ALL, 0 },
    { "movsb", MOVS_FROM, { 0xa4 }, 1, 0, 1, 0, ALL, 0 },
    { "movs", MOVS_FROM, { 0xa5 }, 1, 0, 0, 0, ALL, 0 },
    { "in al, imm8", IN, { 0xe4 }, 1, 0, 1, 1, ALL, PLAIN },
    { "in eax, imm8", IN, { 0xe5 }, 1, 0, 0, 1, ALL, PLAIN },
    { "in al, dx", IN, { 0xec }, 1, 0, 1, 0, ALL, PLAIN },
    { "in eax, dx", IN, { 0xed }, 1, 0, 0, 0, ALL, PLAIN },
    { "insb", INS, { 0x6c }, 1, 0, 1, 0, ALL, 0 },
    { "ins", INS, { 0x6d }, 1, 0, 0, 0, ALL, 0 },
};

enum addressing { BASE, BASE_DISP8, BASE_INDEX, ABSOLUTE, RIP_RELATIVE, HIGH_BASE, ADDRESSINGS };

// One instruction as it will stand in memory, and what its bytes say.
struct coded {
    const struct form *form;
    enum width width;
    uint8_t bytes[15], length;
    unsigned operand, address;      // bits
    unsigned size;
    bool rep;
    unsigned segment;               // of the operand in memory
    enum addressing addressing;
    unsigned rex_b, rex_x, rex_r;
    uint64_t disp;
    unsigned disp_at, disp_size;    // where the displacement is to be put in
};

static void put(struct coded *c, uint64_t value, unsigned size)
{
    for (unsigned n = 0; n < size; n++)
        c->bytes[c->length++] = (uint8_t)(value >> n * 8);
}

static void put_disp(struct coded *c, unsigned size)
{
    c->disp_at = c->length;
    c->disp_size = size;
    put(c, c->disp, size);
}

static void put_address16(struct coded *c)
{
    unsigned reg = c->form->reg & 7u;
    switch (c->addressing) {
    case BASE: put(c, reg << 3 | 7, 1); break;
    case BASE_DISP8: put(c, 0x40 | reg << 3 | 7, 1); put_disp(c, 1); break;
    case BASE_INDEX: put(c, 0x80 | reg << 3 | 0, 1); put_disp(c, 2); break;
    default: put(c, reg << 3 | 6, 1); put_disp(c, 2); break;
    }
}

static void put_address(struct coded *c)
{
    unsigned reg = c->form->reg & 7u;
    if (c->address == 16) {
        put_address16(c);
        return;
    }
    switch (c->addressing) {
    case BASE: case HIGH_BASE: put(c, reg << 3 | 3, 1); break;
    case BASE_DISP8: put(c, 0x40 | reg << 3 | 3, 1); put_disp(c, 1); break;
    case BASE_INDEX:                                    // [rbx + rsi * 4 + disp]
        put(c, 0x84 | reg << 3, 1);
        put(c, 0xb3, 1);
        put_disp(c, 4);
        break;
    case RIP_RELATIVE: put(c, reg << 3 | 5, 1); put_disp(c, 4); break;
    default: put(c, reg << 3 | 4, 1); put(c, 0x25, 1); put_disp(c, 4); break;
    }
}

static bool has_modrm(const struct form *f)
{
    return f->kind == STORE || f->kind == PUSH_MEMORY || f->kind == POP_MEMORY || f->kind == LOAD
        || f->kind == PUSH_LOADED;
}

static bool on_stack(const struct form *f)
{
    return f->kind == PUSH || f->kind == PUSH_MEMORY || f->kind == POP_MEMORY || f->kind == CALL
        || f->kind == PUSH_LOADED || f->kind == POP;
}

static bool at_port(const struct form *f)
{
    return f->kind == OUT || f->kind == OUTS || f->kind == IN || f->kind == INS;
}

static bool can_repeat(const struct form *f)
{
    return f->kind == STOS || f->kind == MOVS || f->kind == OUTS || f->kind == LODS || f->kind == MOVS_FROM
        || f->kind == INS;
}

static bool can_override(const struct form *f)
{
    return has_modrm(f) || f->kind == STORE_ABSOLUTE || f->kind == LOAD_ABSOLUTE || f->kind == MOVS
        || f->kind == MOVS_FROM || f->kind == OUTS || f->kind == LODS;
}

// Sizes and displacement, by what the prefixes say.
static bool settle(struct bench *b, struct coded *c, bool prefix66, bool prefix67, unsigned rex)
{
    const struct form *f = c->form;
    unsigned bits = bits_of(c->width);
    c->operand = c->width == CODE64 ? (rex & 8 ? 64 : prefix66 ? 16 : 32) : prefix66 ? 48 - bits : bits;
    if (f->more & PREFIX66)
        c->operand = rex & 8 ? 64 : bits == 64 ? 32 : bits;
    if (c->width == CODE64 && on_stack(f))
        c->operand = prefix66 && !(rex & 8) ? 16 : 64;
    if (at_port(f) && c->operand == 64)
        c->operand = 32;
    c->address = prefix67 ? (bits == 32 ? 16 : 32) : bits;
    c->size = f->size ? f->size : c->operand / 8;
    if (f->opcode[0] == 0x0f && f->opcode[1] == 0xc3 && (rex & 8))
        c->size = 8;
    if (c->address == 16 && (c->addressing == HIGH_BASE || c->addressing == RIP_RELATIVE))
        return false;
    if (c->addressing == RIP_RELATIVE && c->width != CODE64)
        return false;
    if (c->addressing == HIGH_BASE && c->address != 64)
        return false;
    if (c->addressing == ABSOLUTE && (rex & 2))         // R12 would be an index
        return false;
    c->disp = c->addressing == BASE_DISP8 ? bench_random(b) & 0x7f : bench_random(b) & 0x3ff;
    return true;
}

static bool encode(struct bench *b, struct coded *c, const struct form *f, enum width width, unsigned pick)
{
    bool prefix66 = pick & 1, prefix67 = pick & 2, override = pick & 4, rep = pick & 8;
    unsigned rex = width == CODE64 ? pick >> 4 & 0xf : 0;
    bool high_byte = (f->opcode[0] == 0x88 || f->opcode[0] == 0x8a) && f->reg >= 4;
    *c = (struct coded){ .form = f, .width = width, .addressing = (pick >> 8) % ADDRESSINGS,
                         .segment = X86_DS };
    if (high_byte && rex)                               // would be SPL to DIL
        return false;
    if ((f->more & PREFIX66) && prefix66)
        return false;
    if (f->opcode[0] == 0x0f && prefix66 && (f->size == 16 || f->size == 8 || f->opcode[1] == 0xc3))
        return false;
    if (rep && !can_repeat(f))
        return false;
    if ((f->opcode[0] == 0x63 || (f->more & SHIFT16)) && prefix66)
        return false;
    if (f->kind == CALL && (prefix66 || prefix67))      // its meaning in 64-bit code differs among makers
        return false;
    if (rex && (f->kind == CALL || f->kind == PUSH || f->kind == POP || f->opcode[0] == 0x8c))
        return false;
    if (!settle(b, c, prefix66, prefix67, rex))
        return false;
    if (override && can_override(f)) {
        put(c, 0x64, 1);
        c->segment = X86_FS;
    }
    if (prefix66 || (f->more & PREFIX66))
        put(c, 0x66, 1);
    if (prefix67)
        put(c, 0x67, 1);
    if (rep)
        put(c, bench_random(b) & 1 ? 0xf3 : 0xf2, 1);
    c->rep = rep;
    if (rex) {
        put(c, 0x40 | rex, 1);
        c->rex_b = has_modrm(f) ? (rex & 1) * 8 : 0;
        c->rex_x = rex & 2 ? 8 : 0;
        c->rex_r = rex & 4 ? 8 : 0;
    }
    for (unsigned n = 0; n < f->opcode_length; n++)
        put(c, f->opcode[n], 1);
    if (has_modrm(f))
        put_address(c);
    else if (f->kind == STORE_ABSOLUTE || f->kind == LOAD_ABSOLUTE)
        put_disp(c, c->address / 8);
    unsigned immediate = f->immediate == 0xff ? (c->operand > 32 ? 32 : c->operand) / 8 : f->immediate;
    // A CALL stays near: not every address is one.
    put(c, bench_random(b) & (f->kind == CALL ? 0x7fff : ~0ull), immediate);
    return true;
}

// ---- A state that leads to the device ---------------------------------------------------------------------

static uint64_t base_of(const struct x86_cpu *cpu, unsigned segment)
{
    if ((cpu->mode & X86_MODE_CODE) == X86_MODE_CODE64 && segment < X86_FS)
        return 0;
    return cpu->slot[X86_SLOT_SEGMENT + segment];
}

// Have a register's low bits hold an offset; in what lies above them, anything.
static void aim_register(struct bench *b, unsigned reg, uint64_t offset, unsigned bits, bool clean)
{
    uint64_t *slot = &b->machine.cpu.slot[reg];
    uint64_t above = b->machine.cpu.mode & X86_MODE_CODE64 && bits == 32 ? bench_random(b) : *slot;
    *slot = (offset & mask_of(bits)) | (clean ? 0 : above & ~mask_of(bits));
    if (!(b->machine.cpu.mode & X86_MODE_CODE64))
        *slot &= 0xffffffff;
}

// Have the instruction's operand with ModRM or a moffs lie at `linear`.
static void aim_operand(struct bench *b, struct coded *c, uint64_t linear)
{
    struct x86_cpu *cpu = &b->machine.cpu;
    uint64_t offset = linear - base_of(cpu, c->segment);
    uint64_t end = cpu->rip + c->length;
    uint64_t disp = c->disp_size == 1 ? (uint64_t)(int8_t)c->disp : c->disp;
    if (!has_modrm(c->form) || c->addressing == ABSOLUTE)
        memcpy(c->bytes + c->disp_at, &offset, c->disp_size);
    else if (c->addressing == RIP_RELATIVE) {
        offset -= end;
        memcpy(c->bytes + c->disp_at, &offset, 4);
    } else {
        unsigned base = X86_RBX + c->rex_b, index = X86_RSI + c->rex_x, scale = c->address == 16 ? 1 : 4;
        if (!c->disp_size)
            disp = 0;
        if (c->addressing == BASE_INDEX) {
            aim_register(b, index, bench_random(b) & 0xff, c->address, false);
            disp += (cpu->slot[index] & mask_of(c->address)) * scale;
        }
        aim_register(b, base, offset - disp, c->address, false);
    }
}

static unsigned stack_bits(const struct coded *c) { return bits_of(c->width); }

// Registers and memory for one run of the instruction; `device` and `data` are linear addresses.
static void aim(struct bench *b, struct coded *c, uint64_t device, uint64_t data)
{
    struct x86_cpu *cpu = &b->machine.cpu;
    bool low = c->address < 64 || (c->addressing == ABSOLUTE && has_modrm(c->form));
    uint64_t to = low ? device & 0xfffff : device, from = low ? data & 0xfffff : data;
    switch (c->form->kind) {
    case STORE: case STORE_ABSOLUTE: case LOAD: case LOAD_ABSOLUTE:
        aim_operand(b, c, to);
        break;
    case PUSH: case CALL:
        if (c->form->opcode[0] == 0x60)
            device += c->size * 7;
        aim_register(b, X86_RSP, device + c->size - base_of(cpu, X86_SS), stack_bits(c), false);
        break;
    case PUSH_MEMORY:
        aim_register(b, X86_RSP, device + c->size - base_of(cpu, X86_SS), stack_bits(c), false);
        aim_operand(b, c, from);
        break;
    case POP_MEMORY:
        aim_register(b, X86_RSP, data - base_of(cpu, X86_SS), stack_bits(c), false);
        aim_operand(b, c, to);
        break;
    case STOS: case MOVS:
        aim_register(b, X86_RDI, to - base_of(cpu, X86_ES), c->address, c->address == 32);
        if (c->form->kind == MOVS)
            aim_register(b, X86_RSI, from - base_of(cpu, c->segment), c->address, c->address == 32);
        break;
    case PUSH_LOADED:
        aim_register(b, X86_RSP, data + c->size - base_of(cpu, X86_SS), stack_bits(c), false);
        aim_operand(b, c, to);
        break;
    case POP:
        aim_register(b, X86_RSP, device - base_of(cpu, X86_SS), stack_bits(c), false);
        break;
    case MOVS_FROM:
        aim_register(b, X86_RDI, from - base_of(cpu, X86_ES), c->address, c->address == 32);
        aim_register(b, X86_RSI, to - base_of(cpu, c->segment), c->address, c->address == 32);
        break;
    case LODS:
        aim_register(b, X86_RSI, to - base_of(cpu, c->segment), c->address, c->address == 32);
        break;
    case INS:
        aim_register(b, X86_RDI, from - base_of(cpu, X86_ES), c->address, c->address == 32);
        break;
    case OUT: case IN:
        break;
    case OUTS:
        aim_register(b, X86_RSI, from - base_of(cpu, c->segment), c->address, c->address == 32);
        break;
    }
}

// ---- Where the code is ------------------------------------------------------------------------------------

// Code such as compilers make, none of which can be taken for a part of what follows it when read from its
// beginning.
static void ordinary_code(struct bench *b, uint8_t *to, unsigned size)
{
    static const uint8_t pieces[][4] = {
        { 2, 0x89, 0xd8 }, { 2, 0x85, 0xc0 }, { 3, 0x83, 0xc0, 0x48 }, { 1, 0x90 },
        { 2, 0xb0, 0xf3 }, { 2, 0x74, 0x66 }, { 2, 0x31, 0xc9 }, { 2, 0x3c, 0x26 },
    };
    unsigned at = 0;
    while (at < size) {
        const uint8_t *piece = pieces[bench_random(b) % (sizeof pieces / sizeof *pieces)];
        if (at + piece[0] > size)
            piece = pieces[3];
        memcpy(to + at, piece + 1, piece[0]);
        at += piece[0];
    }
}

static uint64_t place(struct bench *b, const struct coded *c, bool page_end)
{
    uint64_t at = 0x100 + bench_random(b) % 0x2000;
    if (page_end)       // the instruction's own pages part in it, or right behind it
        at = 0x2000 - 1 - bench_random(b) % c->length;
    if (c->width == CODE64)
        at += 0x20000 + (c->addressing == HIGH_BASE ? HIGH : 0);
    return at;
}

struct scene {
    uint64_t gpa;               // what is written to, in the device
    uint64_t data;              // linear address of what is read, in memory
    uint8_t *code;
    bool across;                // only a part of the access is in the device
};

// The processor before the instruction, its code in memory, after ordinary code or after random bytes.
static struct scene prepare(struct bench *b, struct coded *c, bool ordinary)
{
    struct x86_cpu *cpu = &b->machine.cpu;
    struct machine *m = &b->machine;
    uint64_t gpa = DEVICE + 0x10 + bench_random(b) % 0x800, data = 0x7a000 + bench_random(b) % 0x800;
    uint64_t high = c->width == CODE64 ? HIGH : 0;
    if (c->size == 16)
        gpa &= ~15ull;
    // Across an end of the device, into memory or out of it.
    // (The slot of a pushed selector is wider than what is written, and PUSHA writes more than once.)
    bool odd = c->form->kind == PUSH && (c->form->opcode[0] == 0x0e || c->form->opcode[0] == 0x0f
                                              || c->form->opcode[0] == 0x60);
    bool across = c->size > 1 && c->size < 16 && !odd && !b->read_only && !(bench_random(b) & 7);
    if (across)
        gpa = DEVICE + (bench_random(b) & 1 ? 0x1000 : 0) - 1 - bench_random(b) % (c->size - 1);
    bench_mode(b, c->width);
    bench_random_registers(b, c->width);
    if (c->addressing == RIP_RELATIVE)
        high = 0;
    cpu->rip = place(b, c, !(bench_random(b) & 7));
    for (unsigned n = 0; n < 16; n++)
        m->ram[data - 8 + n] = (uint8_t)bench_random(b);
    aim(b, c, gpa + high, data + high);
    if (c->rep) {
        static const unsigned counts[] = { 1, 2, 5 };
        aim_register(b, X86_RCX, counts[bench_random(b) % 3], c->address, c->address == 32);
    }
    if (bench_random(b) & 1)
        cpu->rflags |= X86_DF;
    for (unsigned n = 0; n < 16; n++)
        m->ram[gpa + n] = (uint8_t)bench_random(b);
    if (c->form->more & EXCHANGE && c->operand == 32)       // what the upper half was nobody knows
        cpu->slot[c->form->reg + c->rex_r] &= 0xffffffff;
    if (c->form->opcode[0] == 0xff && c->form->kind == CALL)
        cpu->slot[X86_RBX] = c->width == CODE64 ? HIGH + 0x20400 : 0x400;
    uint8_t *code = m->ram + (x86_code_linear(cpu, cpu->rip) & 0xfffff);
    if (ordinary)
        ordinary_code(b, code - SEQUENCE, SEQUENCE);
    else
        for (unsigned n = 0; n < SEQUENCE; n++)
            code[(int)n - SEQUENCE] = (uint8_t)bench_random(b);
    memcpy(code, c->bytes, c->length);
    for (unsigned n = 0; n < 16; n++)
        code[c->length + n] = (uint8_t)bench_random(b);
    return (struct scene){ .gpa = gpa, .data = data, .code = code, .across = across };
}

#endif
