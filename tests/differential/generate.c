// Makes a case from its number: draws instructions of a family, and chooses registers and memory so that most
// of them do something other than fault.
#include "differential.h"

#include <string.h>

struct generator {
    struct random random;
    struct test_case *c;
    const struct family *family;
    ZydisDecoder decoder;
    uint32_t fixed;             // registers whose value an instruction relies on
    uint32_t written;           // registers that an instruction has changed: their value is not known
    uint32_t undefined_flags;
    uint16_t undefined_fsw;
};

struct decoded {
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
};

const struct case_mode_facts case_modes[] = {
    [MODE_64] = { 64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
    [MODE_32] = { 32, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32 },
    [MODE_16] = { 16, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16 },
};

// Where branches may go, as an offset in the code segment.
static uint64_t landing(const struct test_case *c)
{
    return c->mode == MODE_16 ? CASE_LANDING - CASE_CODE : CASE_LANDING;
}

// ---- Registers

// -1 when it is not a general register.
static int register_index(ZydisRegister reg)
{
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    return ZydisRegisterGetClass(whole) == ZYDIS_REGCLASS_GPR64 ? (int)(whole - ZYDIS_REGISTER_RAX) : -1;
}

static uint64_t width_mask(unsigned bits)
{
    return bits >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << bits) - 1;
}

static bool is_free(const struct generator *g, int index)
{
    return !((g->fixed | g->written) >> index & 1);
}

static void set_register(struct generator *g, int index, uint64_t value, unsigned bits)
{
    uint64_t mask = width_mask(bits);
    if (g->c->mode != MODE_64)
        value &= g->c->mode == MODE_16 && index == RSP ? 0xffff : 0xffffffff;
    g->c->before.gpr[index] = (g->c->before.gpr[index] & ~mask) | (value & mask);
    g->fixed |= 1u << index;
}

// Gives a register a value that an instruction wants, when no other instruction has a claim on it.
static void wish_register(struct generator *g, int index, uint64_t value)
{
    if (is_free(g, index))
        set_register(g, index, value, g->c->mode == MODE_64 ? 64 : 32);
}

// ---- Memory operands

static uint32_t pick_target(struct generator *g, uint32_t size, uint32_t alignment)
{
    struct random *r = &g->random;
    uint32_t t, k = random_below(r, 100);
    if (k < 78)
        t = CASE_DATA + 0x200 + random_below(r, CASE_DATA_WRITABLE - 0x600);
    else if (k < 88)
        t = CASE_DATA + CASE_PAGE - random_below(r, size + 1);              // over a page boundary
    else if (k < 91)
        t = CASE_DATA + CASE_DATA_WRITABLE - random_below(r, size + 1);     // into the read-only page
    else if (k < 94)
        t = CASE_DATA + CASE_DATA_WRITABLE + random_below(r, CASE_PAGE - 0x100);
    else if (k < 97)
        t = CASE_DATA + CASE_DATA_SIZE - random_below(r, size + 1);         // off the end
    else
        t = CASE_DATA - random_below(r, size + 1);                          // off the beginning
    return random_percent(r, alignment == 16 ? 94 : 50) ? t & ~(alignment - 1) : t;
}

static void patch(struct decoded *d, unsigned offset, unsigned bits, uint64_t value)
{
    memcpy(d->bytes + offset, &value, bits / 8);
}

// The formula of a memory operand with the registers that it uses.
struct address {
    int base, index;                // -1: none
    unsigned base_bits, index_bits;
    uint64_t scale, displacement;
};

static bool solve_registers(struct generator *g, const struct address *a, uint64_t want)
{
    const uint64_t *gpr = g->c->before.gpr;
    uint32_t used = (a->base >= 0 ? 1u << a->base : 0) | (a->index >= 0 ? 1u << a->index : 0);
    if (used & g->written)
        return random_percent(&g->random, 3);
    want -= a->displacement;
    if (a->base >= 0 && a->base == a->index) {
        if (is_free(g, a->base))
            set_register(g, a->base, want / (1 + a->scale), a->base_bits);
    } else if (a->base >= 0 && is_free(g, a->base)) {
        uint64_t index = a->index >= 0 ? gpr[a->index] & width_mask(a->index_bits) : 0;
        set_register(g, a->base, want - index * a->scale, a->base_bits);
    } else if (a->index >= 0 && is_free(g, a->index)) {
        uint64_t base = a->base >= 0 ? gpr[a->base] & width_mask(a->base_bits) : 0;
        set_register(g, a->index, (want - base) / a->scale, a->index_bits);
    }
    g->fixed |= used;
    return true;
}

static uint64_t segment_base(const struct test_case *c, ZydisRegister segment)
{
    switch (c->mode) {
    case MODE_64:
        return segment == ZYDIS_REGISTER_FS ? c->fs_base : segment == ZYDIS_REGISTER_GS ? c->gs_base : 0;
    case MODE_16: return segment == ZYDIS_REGISTER_CS ? CASE_CODE : CASE_DATA;
    default: return 0;
    }
}

static bool is_out_of_reach(const struct test_case *c, const struct decoded *d)
{
    return d->z.address_width == 16 && c->mode != MODE_16;
}

// An operand without registers, or relative to RIP: its displacement is chosen.
static bool place_displacement(struct generator *g, struct decoded *d, bool relative, uint64_t target)
{
    uint64_t next = g->c->before.rip + g->c->size + d->z.length;
    unsigned bits = d->z.raw.disp.size;
    if (bits < 16 || is_out_of_reach(g->c, d))
        return random_percent(&g->random, 5);
    patch(d, d->z.raw.disp.offset, bits, relative ? target - next : target);
    return true;
}

// Brings a memory operand to a useful address; *where is the linear address that results. False: draw another
// instruction.
static bool place_operand(struct generator *g, struct decoded *d, const ZydisDecodedOperand *o,
                          uint64_t *where)
{
    ZydisMachineMode mode = d->z.machine_mode;
    uint32_t size = o->size ? o->size / 8 : 8;
    uint32_t alignment = size >= 16 ? 16 : size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;
    uint64_t segment = segment_base(g->c, o->mem.segment), target = pick_target(g, size, alignment);
    struct address a = { .base = -1, .index = -1, .scale = o->mem.scale ? o->mem.scale : 1 };
    bool relative = o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP;

    if (o->mem.base != ZYDIS_REGISTER_NONE && !relative) {
        a.base = register_index(o->mem.base);
        a.base_bits = ZydisRegisterGetWidth(mode, o->mem.base);
    }
    if (o->mem.index != ZYDIS_REGISTER_NONE) {
        a.index = register_index(o->mem.index);
        a.index_bits = ZydisRegisterGetWidth(mode, o->mem.index);
    }
    if (a.base < 0 && a.index < 0) {
        *where = target;
        return place_displacement(g, d, relative, target - segment);
    }
    if (is_out_of_reach(g->c, d) && !random_percent(&g->random, 5))
        return false;
    a.displacement = (uint64_t)o->mem.disp.value;
    if (!solve_registers(g, &a, target - segment))
        return false;
    const uint64_t *gpr = g->c->before.gpr;
    *where = a.displacement + (a.base >= 0 ? gpr[a.base] & width_mask(a.base_bits) : 0)
           + (a.index >= 0 ? gpr[a.index] & width_mask(a.index_bits) : 0) * a.scale;
    *where = (*where & width_mask(d->z.address_width)) + segment;
    return true;
}

static void poke(struct generator *g, uint64_t where, const void *bytes, uint32_t size)
{
    struct test_case *c = g->c;
    if (c->poke_count == CASE_POKES || where < CASE_DATA || where > CASE_DATA + CASE_DATA_WRITABLE - size)
        return;
    struct poke *p = &c->pokes[c->poke_count++];
    p->offset = (uint32_t)(where - CASE_DATA);
    p->size = size;
    memcpy(p->bytes, bytes, size);
}

// What the instruction will find in memory.
static void poke_operand(struct generator *g, const struct decoded *d, const ZydisDecodedOperand *o,
                         uint64_t where)
{
    struct random *r = &g->random;
    uint8_t bytes[16];
    uint64_t target = landing(g->c);
    uint32_t mxcsr = (uint32_t)random_next(r) & (random_percent(r, 85) ? 0xffffu : 0x1ffffu);
    switch (d->z.mnemonic) {
    case ZYDIS_MNEMONIC_RET: case ZYDIS_MNEMONIC_JMP: case ZYDIS_MNEMONIC_CALL:
        if (random_percent(r, 85))
            poke(g, where, &target, 8);
        return;
    case ZYDIS_MNEMONIC_FXRSTOR: case ZYDIS_MNEMONIC_FXRSTOR64:
        poke(g, where + offsetof(struct fx_image, mxcsr), &mxcsr, 4);
        return;
    case ZYDIS_MNEMONIC_LDMXCSR:
        poke(g, where, &mxcsr, 4);
        return;
    case ZYDIS_MNEMONIC_FBLD:
        for (int i = 0; i < 10; i++)
            bytes[i] = (uint8_t)(random_below(r, 10) << 4 | random_below(r, 10));
        poke(g, where, bytes, 10);
        return;
    default:
        break;
    }
    if (o->size == 80)
        random_extended(r, bytes);
    else
        random_vector(r, bytes);
    if (o->size <= 128)
        poke(g, where, bytes, o->size / 8);
}

static void ignore(struct generator *g, uint64_t where, uint32_t from, uint32_t to)
{
    struct test_case *c = g->c;
    if (where < CASE_DATA || where > CASE_DATA + CASE_DATA_SIZE - to || c->ignored_count == CASE_IGNORED)
        return;
    c->ignored[c->ignored_count++] = (struct range){ (uint32_t)(where + from - CASE_DATA), to - from };
}

// Processors and hypervisors differ in when they save the last x87 instruction's address and operand.
static void ignore_last_x87(struct generator *g, const struct decoded *d, uint64_t where)
{
    switch (d->z.mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FNSAVE:
        if (d->z.operand_width == 16)
            ignore(g, where, 6, 14);
        else
            ignore(g, where, 12, 28);
        break;
    case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXSAVE64:
        ignore(g, where, offsetof(struct fx_image, fop), offsetof(struct fx_image, mxcsr));
        ignore(g, where, offsetof(struct fx_image, mxcsr_mask), offsetof(struct fx_image, st));
        ignore(g, where, offsetof(struct fx_image, rest), sizeof(struct fx_image));
        break;
    default:
        break;
    }
}

// ---- Instructions

static void draw_bytes(struct generator *g, uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH])
{
    struct random *r = &g->random;
    for (unsigned i = 0; i < ZYDIS_MAX_INSTRUCTION_LENGTH; i++)
        bytes[i] = (uint8_t)random_next(r);
    if (g->family->count == 0)
        return;

    const struct encodings *e = &g->family->encodings[random_below(r, (uint32_t)g->family->count)];
    bool mode64 = g->c->mode == MODE_64;
    unsigned n = 0;
    if (random_percent(r, 5))
        bytes[n++] = 0x67;
    if (random_percent(r, 4))
        bytes[n++] = random_percent(r, 50) ? 0x64 : 0x65;
    if (e->prefixes == PREFIX_ANY) {
        if (random_percent(r, 5))
            bytes[n++] = 0xf0;
        if (random_percent(r, e->map == MAP_ONE && (e->first & 0xf4) == 0xa4 ? 60 : 3))
            bytes[n++] = random_percent(r, 50) ? 0xf2 : 0xf3;
        if (random_percent(r, 20))
            bytes[n++] = 0x66;
    } else {
        uint8_t choice;
        do {
            choice = (uint8_t)(1 << random_below(r, 4));
        } while (!(choice & e->prefixes));
        if (choice != PREFIX_NONE)
            bytes[n++] = choice == PREFIX_66 ? 0x66 : choice == PREFIX_F3 ? 0xf3 : 0xf2;
    }
    if (mode64 && random_percent(r, 60))
        bytes[n++] = (uint8_t)(0x40 | random_below(r, 16));
    if (e->map != MAP_ONE)
        bytes[n++] = 0x0f;
    if (e->map == MAP_0F38)
        bytes[n++] = 0x38;
    if (e->map == MAP_0F3A)
        bytes[n++] = 0x3a;
    bytes[n++] = (uint8_t)(e->first + random_below(r, e->last - e->first + 1u));
    uint8_t reg = bytes[n] >> 3 & 7;
    while (!(e->digits >> reg & 1))
        reg = (uint8_t)random_below(r, 8);
    bytes[n] = (uint8_t)((bytes[n] & ~0x38) | reg << 3);
    if (random_percent(r, 20))
        bytes[n] |= 0xc0;
}

// Immediates at the edges, and relative branches that lead forward to where only INT3 is.
static void choose_immediates(struct generator *g, struct decoded *d)
{
    struct random *r = &g->random;
    for (int i = 0; i < 2; i++) {
        unsigned bits = d->z.raw.imm[i].size, offset = d->z.raw.imm[i].offset;
        if (bits == 0)
            continue;
        if (d->z.raw.imm[i].is_relative) {
            uint64_t next = g->c->before.rip + g->c->size + d->z.length;
            if (bits == 8)
                patch(d, offset, 8,
                      random_percent(r, 25) ? 0 : CASE_BYTES + random_below(r, 128 - CASE_BYTES));
            else
                patch(d, offset, bits, landing(g->c) - next);
        } else if (d->z.mnemonic == ZYDIS_MNEMONIC_ENTER && random_percent(r, 80)) {
            patch(d, offset, bits, random_below(r, bits == 16 ? 64 : 4)); // frame size, then nesting level
        } else if (bits > 8 && random_percent(r, 40)) {
            patch(d, offset, bits, random_integer(r));
        }
    }
}

// Values that an instruction needs to do something of interest.
static void choose_registers(struct generator *g, const struct decoded *d)
{
    struct random *r = &g->random;
    const ZydisDecodedOperand *o = d->operands;
    bool first_is_memory = o[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    switch (d->z.mnemonic) {
    case ZYDIS_MNEMONIC_DIV:
        if (random_percent(r, 75))
            wish_register(g, RDX, random_below(r, 3));
        break;
    case ZYDIS_MNEMONIC_IDIV:
        if (random_percent(r, 75))
            wish_register(g, RDX, -(uint64_t)random_below(r, 2));
        break;
    case ZYDIS_MNEMONIC_BT: case ZYDIS_MNEMONIC_BTS: case ZYDIS_MNEMONIC_BTR: case ZYDIS_MNEMONIC_BTC:
        if (first_is_memory && o[1].type == ZYDIS_OPERAND_TYPE_REGISTER && random_percent(r, 90))
            wish_register(g, register_index(o[1].reg.value),
                          random_below(r, 0x8000) - 0x4000ull);
        break;
    case ZYDIS_MNEMONIC_JMP: case ZYDIS_MNEMONIC_CALL:
        if (o[0].type == ZYDIS_OPERAND_TYPE_REGISTER && random_percent(r, 80))
            wish_register(g, register_index(o[0].reg.value), landing(g->c));
        break;
    case ZYDIS_MNEMONIC_LOOP: case ZYDIS_MNEMONIC_LOOPE: case ZYDIS_MNEMONIC_LOOPNE: case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_JECXZ: case ZYDIS_MNEMONIC_JRCXZ:
        wish_register(g, RCX, random_below(r, 3) | (random_percent(r, 30) ? random_next(r) << 32 : 0));
        break;
    default:
        break;
    }
    if (d->z.meta.category == ZYDIS_CATEGORY_SHIFT || d->z.meta.category == ZYDIS_CATEGORY_ROTATE)
        wish_register(g, RCX, random_below(r, 72) | random_next(r) << 8);
    if ((d->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
        && random_percent(r, 85))
        wish_register(g, RCX,
                      random_below(r, 70)
                          | (d->z.address_width < 64 ? random_next(r) << d->z.address_width : 0));
}

// Flags that are undefined must not decide anything later.
static bool reads_undefined(const struct generator *g, const struct decoded *d)
{
    if (d->z.cpu_flags && (d->z.cpu_flags->tested & g->undefined_flags))
        return true;
    if (g->undefined_flags
        && (d->z.mnemonic == ZYDIS_MNEMONIC_PUSHF || d->z.mnemonic == ZYDIS_MNEMONIC_PUSHFD
            || d->z.mnemonic == ZYDIS_MNEMONIC_PUSHFQ || d->z.mnemonic == ZYDIS_MNEMONIC_LAHF))
        return true;
    switch (d->z.mnemonic) {
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        return g->undefined_fsw != 0;
    default:
        return false;
    }
}

static void note_undefined(struct generator *g, const struct decoded *d)
{
    const ZydisAccessedFlags *cpu = d->z.cpu_flags, *fpu = d->z.fpu_flags;
    // A shift by 0 and a string instruction repeated 0 times leave the flags as they were.
    bool sure = d->z.meta.category != ZYDIS_CATEGORY_SHIFT && d->z.meta.category != ZYDIS_CATEGORY_ROTATE
             && d->z.meta.category != ZYDIS_CATEGORY_STRINGOP;
    if (cpu) {
        if (sure)
            g->undefined_flags &= ~(cpu->modified | cpu->set_0 | cpu->set_1);
        g->undefined_flags |= cpu->undefined;
    }
    switch (d->z.mnemonic) {
    case ZYDIS_MNEMONIC_FCOMI: case ZYDIS_MNEMONIC_FCOMIP: case ZYDIS_MNEMONIC_FUCOMI:
    case ZYDIS_MNEMONIC_FUCOMIP:
        g->undefined_fsw |= 0x200;      // C1: 0 on Intel's processors, as it was on AMD's
        break;
    default:
        break;
    }
    if (fpu) {
        static const uint16_t fsw[4] = { 0x100, 0x200, 0x400, 0x4000 };
        for (int i = 0; i < 4; i++) {
            if (fpu->undefined >> i & 1)
                g->undefined_fsw |= fsw[i];
        }
    }
}

static void note_written(struct generator *g, const struct decoded *d)
{
    for (int i = 0; i < d->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &d->operands[i];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)) {
            int index = register_index(o->reg.value);
            if (index >= 0)
                g->written |= 1u << index;
        }
    }
}

static bool append_instruction(struct generator *g)
{
    struct test_case *c = g->c;
    struct decoded d;
    uint64_t where[ZYDIS_MAX_OPERAND_COUNT] = { 0 };
    draw_bytes(g, d.bytes);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, d.bytes, sizeof(d.bytes), &d.z, d.operands))
        || !accept_instruction(&d.z, d.operands) || c->size + d.z.length > CASE_BYTES
        || reads_undefined(g, &d))
        return false;
    // Whether UD0 and UD1 have a ModRM byte, and so may fault on its fetch, differs between processors.
    if ((d.z.mnemonic == ZYDIS_MNEMONIC_UD0 || d.z.mnemonic == ZYDIS_MNEMONIC_UD1)
        && c->code_offset + 2 * CASE_BYTES > CASE_CODE_SIZE)
        return false;

    choose_immediates(g, &d);
    choose_registers(g, &d);
    for (int i = 0; i < d.z.operand_count; i++) {
        const ZydisDecodedOperand *o = &d.operands[i];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM) {
            if (!place_operand(g, &d, o, &where[i]))
                return false;
        }
    }
    // Only now is it certain that the instruction stays.
    for (int i = 0; i < d.z.operand_count; i++) {
        if (where[i] && (d.operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_READ))
            poke_operand(g, &d, &d.operands[i], where[i]);
        if (where[i])
            ignore_last_x87(g, &d, where[i]);
    }
    note_undefined(g, &d);
    note_written(g, &d);
    memcpy(c->bytes + c->size, d.bytes, d.z.length);
    c->instructions[c->instruction_count++] = (struct instruction){
        .offset = (uint8_t)c->size, .length = d.z.length, .mnemonic = (uint16_t)d.z.mnemonic,
        .undefined_flags = g->undefined_flags, .undefined_fsw = g->undefined_fsw
    };
    c->size += d.z.length;
    return true;
}

// ---- The state before

static void choose_fx(struct random *r, struct fx_image *fx)
{
    memset(fx, 0, sizeof(*fx));
    fx->fcw =
        (uint16_t)(0x7f | random_below(r, 4) << 10 | (random_percent(r, 60) ? 3u : random_below(r, 4)) << 8);
    if (random_percent(r, 12))
        fx->fcw ^= (uint16_t)random_below(r, 64);
    fx->fsw = (uint16_t)(random_next(r) & 0x7f00);
    if (random_percent(r, 30))
        fx->fsw |= (uint16_t)random_below(r, 128);
    if (fx->fsw & ~fx->fcw & 0x3f)
        fx->fsw |= 0x8080;      // ES and B: an exception is pending
    else
        fx->fsw &= 0x7f7f;
    fx->ftw = random_percent(r, 60) ? 0xff : random_percent(r, 40) ? 0 : (uint8_t)random_next(r);
    fx->mxcsr = 0x1f80 | random_below(r, 4) << 13 | random_below(r, 64);
    if (random_percent(r, 20))
        fx->mxcsr |= 0x8000;    // flush to zero
    if (random_percent(r, 20))
        fx->mxcsr |= 0x0040;    // denormals are zero
    if (random_percent(r, 12))
        fx->mxcsr ^= random_below(r, 64) << 7;
    fx->mxcsr_mask = 0xffff;
    for (int i = 0; i < 8; i++)
        random_extended(r, fx->st[i]);
    for (int i = 0; i < 16; i++)
        random_vector(r, fx->xmm[i]);
}

static void choose_state(struct generator *g, bool alignment)
{
    struct random *r = &g->random;
    struct test_case *c = g->c;
    for (int i = 0; i < 16; i++)
        c->before.gpr[i] = random_integer(r) & (c->mode == MODE_64 ? ~(uint64_t)0 : 0xffffffff);
    c->before.gpr[RSP] = (CASE_DATA + 0x400 + random_below(r, CASE_DATA_WRITABLE - 0x800)) & ~7u;
    if (c->mode == MODE_16)
        c->before.gpr[RSP] -= CASE_DATA;
    c->before.rflags =
        2 | FLAG_IF | (random_next(r) & (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF));
    c->before.rflags |= random_percent(r, 20) ? FLAG_DF : 0;
    c->before.rflags |= random_percent(r, 1) ? FLAG_TF : 0;
    c->before.rflags |= alignment && random_percent(r, 4) ? FLAG_AC : 0;
    c->before.rflags |= random_percent(r, 30) ? FLAG_ID : 0;
    c->fs_base = CASE_DATA + 0x100 + random_below(r, 0x100);
    c->gs_base = CASE_DATA + 0x1000 + random_below(r, 0x100);
    choose_fx(r, &c->before.fx);

    uint32_t k = random_below(r, 100);
    if (k < 85)
        c->code_offset = 0x100 + random_below(r, 0x400);
    else if (k < 95)
        c->code_offset = CASE_PAGE - 1 - random_below(r, 15);       // over a page boundary
    else
        c->code_offset = CASE_CODE_SIZE - 1 - random_below(r, 12);  // the end of the code: the fetch faults
    c->before.rip = c->code_offset + (c->mode == MODE_16 ? 0 : CASE_CODE);
}

static const struct family *choose_family(struct random *r)
{
    uint32_t total = 0;
    for (size_t i = 0; i < family_count; i++)
        total += families[i].weight;
    uint32_t k = random_below(r, total);
    const struct family *f = families;
    while (k >= f->weight) {
        k -= f->weight;
        f++;
    }
    return f;
}

static bool must_be_last(const struct test_case *c, bool alignment)
{
    switch (c->instructions[c->instruction_count - 1].mnemonic) {
    case ZYDIS_MNEMONIC_POPF: case ZYDIS_MNEMONIC_POPFD: case ZYDIS_MNEMONIC_POPFQ:
        return !alignment;      // AC may be set now
    case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FNSAVE: case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        return true;            // what is ignored must not be read
    default:
        return false;
    }
}

// Leaves out what does not fit before the end of the code.
static void cut_off(struct test_case *c)
{
    if (c->code_offset + c->size <= CASE_CODE_SIZE)
        return;
    c->size = CASE_CODE_SIZE - c->code_offset;
    while (c->instructions[c->instruction_count - 1].offset >= c->size)
        c->instruction_count--;
}

void generate_case(const struct generate_options *options, uint64_t number, struct test_case *c)
{
    struct generator g = { .random = { options->seed * 0x9e3779b97f4a7c15u ^ number * 0xd1342543de82ef95u },
                           .c = c };
    struct random *r = &g.random;
    random_next(r);
    memset(c, 0, offsetof(struct test_case, before));
    c->poke_count = c->ignored_count = 0;
    c->number = number;

    g.family = choose_family(r);
    if (options->family)
        g.family = options->family;
    c->family = g.family->name;
    c->mode = random_percent(r, 65) ? MODE_64 : random_percent(r, 60) ? MODE_32 : MODE_16;
    if (options->mode >= 0)
        c->mode = (enum case_mode)options->mode;
    ZydisDecoderInit(&g.decoder, case_modes[c->mode].machine, case_modes[c->mode].stack);
    choose_state(&g, options->alignment);
    uint32_t wanted =
        options->single || random_percent(r, 55) ? 1 : 2 + random_below(r, CASE_INSTRUCTIONS - 1);
    for (int tries = 0; tries < 400 && c->instruction_count < wanted; tries++) {
        uint32_t fixed = g.fixed;
        if (!append_instruction(&g))
            g.fixed = fixed;
        else if (must_be_last(c, options->alignment))
            break;
    }
    cut_off(c);
}
