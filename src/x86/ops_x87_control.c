// x87 control instructions, and the instructions that save and restore the state: FSTENV, FSAVE, FXSAVE and
// their inverses.
#include "x86/ops_x87.h"

// ---- Control ------------------------------------------------------------------------------------

HANDLER(fninit)
{
    X87_ENTER_NO_WAIT;
    x86_fpu_init(&cpu->fpu);
    NEXT(cpu, i);
}

HANDLER(fnclex)
{
    X87_ENTER_NO_WAIT;
    cpu->fpu.fsw &= (uint16_t)~(X87_EXCEPTIONS | X87_SF | X87_ES | X87_BUSY);
    NEXT(cpu, i);
}

// FNOP, and what only an 8087 or 80287 acted upon.
HANDLER(fnop)
{
    X87_ENTER;
    NEXT(cpu, i);
}

// FWAIT heeds CR0.TS only with CR0.MP, and CR0.EM never (SDM vol. 3A 2.5).
HANDLER(fwait)
{
    const uint64_t monitored = X86_CR0_MP | X86_CR0_TS;
    if (X86_UNLIKELY((cpu->cr0 & monitored) == monitored))
        return x86_raise(cpu, i, X86_NM, -1);
    if (X86_UNLIKELY(cpu->fpu.fsw & X87_ES))
        return x86_raise(cpu, i, X86_MF, -1);
    NEXT(cpu, i);
}

static void add_to_top(struct x86_cpu *cpu, unsigned n)
{
    cpu->fpu.fsw = (uint16_t)((cpu->fpu.fsw & ~(X87_TOP | X87_C1)) |
                              ((cpu->fpu.fsw + (n << X87_TOP_SHIFT)) & X87_TOP));
}

HANDLER(fincstp)
{
    X87_ENTER;
    x87_last(cpu, i);
    add_to_top(cpu, 1);
    NEXT(cpu, i);
}

HANDLER(fdecstp)
{
    X87_ENTER;
    x87_last(cpu, i);
    add_to_top(cpu, 7);
    NEXT(cpu, i);
}

HANDLER(ffree)
{
    X87_ENTER;
    x87_last(cpu, i);
    cpu->fpu.fsw &= (uint16_t)~X87_C1;
    cpu->fpu.ftw &= (uint8_t)~(1u << x87_st(cpu, i->src));
    NEXT(cpu, i);
}

HANDLER(ffreep)
{
    X87_ENTER;
    x87_last(cpu, i);
    cpu->fpu.fsw &= (uint16_t)~X87_C1;
    cpu->fpu.ftw &= (uint8_t)~(1u << x87_st(cpu, i->src));
    x87_pop(cpu);
    NEXT(cpu, i);
}

HANDLER(fldcw)
{
    X87_ENTER;
    ADDRESS(lin, 2, X86_READ);
    LOAD(uint16_t, value, lin);
    cpu->fpu.fcw = X87_FCW_VALUE(value);
    x87_update_summary(&cpu->fpu);
    NEXT(cpu, i);
}

HANDLER(fnstcw)
{
    X87_ENTER_NO_WAIT;
    ADDRESS(lin, 2, X86_WRITE);
    STORE(uint16_t, lin, cpu->fpu.fcw);
    NEXT(cpu, i);
}

HANDLER(fnstsw)
{
    X87_ENTER_NO_WAIT;
    ADDRESS(lin, 2, X86_WRITE);
    STORE(uint16_t, lin, cpu->fpu.fsw);
    NEXT(cpu, i);
}

HANDLER(fnstsw_ax)
{
    X87_ENTER_NO_WAIT;
    cpu->slot[X86_RAX] = (cpu->slot[X86_RAX] & ~0xffffull) | cpu->fpu.fsw;
    NEXT(cpu, i);
}

// An area of up to two pages is stored wholly or not at all: its far end is tried first.
static bool store_area(struct x86_cpu *cpu, uint64_t linear, const void *bytes, unsigned size, unsigned whole)
{
    return x87_probe_write(cpu, linear + whole - 1, 1) &&
           x86_write_linear(cpu, linear, bytes, size, X86_WRITE);
}

// ---- FSTENV, FLDENV, FSAVE, FRSTOR (SDM vol. 1 8.1.10) ------------------------------------------

// insn->dst; insn->size is the size of the area.
enum { FORM_32 = 1, FORM_PROTECTED = 2 };
#define ENVIRONMENT_MAX 28
#define AREA_MAX (ENVIRONMENT_MAX + 80)

static unsigned environment_size(unsigned form) { return form & FORM_32 ? 28 : 14; }

// The area is seven words or doublewords. Outside protected mode the pointers are linear addresses; the
// upper bits share words with the opcode.
static void environment_to_area(const struct x86_fpu *fpu, unsigned form, uint8_t *area)
{
    uint32_t value[7] = { fpu->fcw, fpu->fsw, x86_fpu_tag_word(fpu) };
    if (form & FORM_PROTECTED) {
        value[3] = (uint32_t)fpu->fip;
        value[4] = fpu->fcs | (uint32_t)fpu->fop << 16;
        value[5] = (uint32_t)fpu->fdp;
        value[6] = fpu->fds;
    } else {
        uint32_t ip = (uint32_t)fpu->fip + ((uint32_t)fpu->fcs << 4);
        uint32_t dp = (uint32_t)fpu->fdp + ((uint32_t)fpu->fds << 4);
        value[3] = ip & 0xffff;
        value[4] = ip >> 16 << 12 | fpu->fop;
        value[5] = dp & 0xffff;
        value[6] = dp >> 16 << 12;
    }
    for (unsigned n = 0; n < 7; n++) {
        uint32_t wide = value[n];
        uint16_t narrow = (uint16_t)wide;
        if (n < 3 || (n == 6 && (form & FORM_PROTECTED)) || ((n == 3 || n == 5) && !(form & FORM_PROTECTED)))
            wide |= 0xffff0000u;        // reserved halves are ones
        if (form & FORM_32)
            memcpy(area + 4 * n, &wide, 4);
        else
            memcpy(area + 2 * n, &narrow, 2);
    }
}

static void environment_from_area(struct x86_fpu *fpu, unsigned form, const uint8_t *area)
{
    uint32_t value[7] = { 0 };
    for (unsigned n = 0; n < 7; n++) {
        if (form & FORM_32)
            memcpy(&value[n], area + 4 * n, 4);
        else
            memcpy(&value[n], area + 2 * n, 2);
    }
    fpu->fcw = X87_FCW_VALUE(value[0]);
    fpu->fsw = (uint16_t)value[1];
    x87_update_summary(fpu);
    fpu->ftw = x86_fpu_abridge((uint16_t)value[2]);
    if (form & FORM_PROTECTED) {
        fpu->fip = value[3];
        fpu->fcs = (uint16_t)value[4];
        fpu->fdp = value[5];
        fpu->fds = (uint16_t)value[6];
        if (form & FORM_32)
            fpu->fop = value[4] >> 16 & 0x7ff;
    } else {
        fpu->fip = (value[3] & 0xffff) | value[4] >> 12 << 16;
        fpu->fdp = (value[5] & 0xffff) | value[6] >> 12 << 16;
        fpu->fop = value[4] & 0x7ff;
        fpu->fcs = fpu->fds = 0;
    }
}

static bool store_environment(struct x86_cpu *cpu, unsigned form, uint64_t linear)
{
    uint8_t area[ENVIRONMENT_MAX];
    environment_to_area(&cpu->fpu, form, area);
    if (!store_area(cpu, linear, area, environment_size(form), environment_size(form)))
        return false;
    cpu->fpu.fcw |= X87_EXCEPTIONS;
    x87_update_summary(&cpu->fpu);
    return true;
}

static bool load_environment(struct x86_cpu *cpu, unsigned form, uint64_t linear)
{
    uint8_t area[ENVIRONMENT_MAX];
    if (!x86_read_linear(cpu, linear, area, environment_size(form), X86_READ))
        return false;
    environment_from_area(&cpu->fpu, form, area);
    return true;
}

static bool save_state(struct x86_cpu *cpu, unsigned form, uint64_t linear)
{
    uint8_t area[AREA_MAX];
    unsigned size = environment_size(form);
    environment_to_area(&cpu->fpu, form, area);
    for (unsigned n = 0; n < 8; n++, size += 10)
        memcpy(area + size, &cpu->fpu.st[x87_st(cpu, n)], 10);
    if (!store_area(cpu, linear, area, size, size))
        return false;
    x86_fpu_init(&cpu->fpu);
    return true;
}

static bool restore_state(struct x86_cpu *cpu, unsigned form, uint64_t linear)
{
    uint8_t area[AREA_MAX];
    unsigned size = environment_size(form);
    if (!x86_read_linear(cpu, linear, area, size + 80, X86_READ))
        return false;
    environment_from_area(&cpu->fpu, form, area);
    for (unsigned n = 0; n < 8; n++, size += 10)
        memcpy(&cpu->fpu.st[x87_st(cpu, n)], area + size, 10);
    return true;
}

#define AREA_HANDLER(name, enter, access, work)                                                      \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        enter;                                                                                       \
        ADDRESS(lin, i->size, access);                                                               \
        if (X86_UNLIKELY(!work(cpu, i->dst, lin)))                                                   \
            return x86_leave_fault(cpu, i);                                                          \
        NEXT(cpu, i);                                                                                \
    }
AREA_HANDLER(fnstenv, X87_ENTER_NO_WAIT, X86_WRITE, store_environment)
AREA_HANDLER(fldenv, X87_ENTER, X86_READ, load_environment)
AREA_HANDLER(fnsave, X87_ENTER_NO_WAIT, X86_WRITE, save_state)
AREA_HANDLER(frstor, X87_ENTER, X86_READ, restore_state)

// The parameter is the place in this list.
bool x86_emit_x87_area(struct x86_emit *e, unsigned parameter)
{
    static const insn_fn areas[] = { fnstenv, fldenv, fnsave, frstor };
    x87_emit_operands(e);
    e->insn->dst = e->z->operand_width == 16 ? 0 : FORM_32;
    if (e->mode & X86_MODE_PROTECTED)
        e->insn->dst |= FORM_PROTECTED;
    e->insn->size = (uint8_t)(environment_size(e->insn->dst) + (parameter >= 2 ? 80 : 0));
    e->insn->fn = areas[parameter];
    return true;
}

// ---- FXSAVE, FXRSTOR ----------------------------------------------------------------------------

// insn->dst: the form with 64-bit pointers; insn->src: the number of XMM registers.
static bool save_extended(struct x86_cpu *cpu, const struct insn *i, uint64_t linear)
{
    struct x86_fx_image image;
    x86_fpu_to_image(cpu, &image, i->dst);
    unsigned size = (unsigned)offsetof(struct x86_fx_image, xmm) + 16u * i->src;
    return store_area(cpu, linear, &image, size, sizeof image);
}

static bool restore_extended(struct x86_cpu *cpu, const struct insn *i, uint64_t linear)
{
    struct x86_fx_image image;
    if (!x86_read_linear(cpu, linear, &image, sizeof image, X86_READ))
        return false;
    return x86_fpu_from_image(cpu, &image, i->dst, i->src) || x86_fault(cpu, X86_GP, 0);
}

#define EXTENDED_HANDLER(name, access, work)                                                         \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        X87_ENTER_NO_WAIT;                                                                           \
        ADDRESS(lin, 512, access);                                                                   \
        if (X86_UNLIKELY(lin & 15))                                                                  \
            return x86_raise(cpu, i, X86_GP, 0);                                                     \
        if (X86_UNLIKELY(!work(cpu, i, lin)))                                                        \
            return x86_leave_fault(cpu, i);                                                          \
        NEXT(cpu, i);                                                                                \
    }
EXTENDED_HANDLER(fxsave, X86_WRITE, save_extended)
EXTENDED_HANDLER(fxrstor, X86_READ, restore_extended)

// Bit 0: 64-bit pointers; bit 1: restore.
bool x86_emit_x87_extended(struct x86_emit *e, unsigned parameter)
{
    x86_emit_memory(e, &e->operand[0]);
    e->insn->dst = parameter & 1;
    e->insn->src = x86_emit_code64(e) ? 16 : 8;
    e->insn->fn = parameter & 2 ? fxrstor : fxsave;
    return true;
}

// ---- Rows ---------------------------------------------------------------------------------------

// The parameter is the place in this list.
bool x86_emit_x87_control(struct x86_emit *e, unsigned parameter)
{
    static const insn_fn controls[] = { fninit, fnclex, fnop, fincstp, fdecstp, ffree, ffreep,
                                        fldcw, fnstcw, fnstsw };
    bool memory = x87_emit_operands(e);
    e->insn->fn = controls[parameter];
    if (e->insn->fn == fnstsw && !memory)
        e->insn->fn = fnstsw_ax;
    return true;
}

bool x86_emit_x87_wait(struct x86_emit *e, unsigned parameter)
{
    (void)parameter;
    e->insn->fn = fwait;
    return true;
}
