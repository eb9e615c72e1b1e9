// Segment registers: descriptors fetched, checked and loaded; stacks of other privileges; port permission.
#include "x86/segment.h"

#define TSS16_SP0 2u
#define TSS32_ESP0 4u
#define TSS_IO_MAP 0x66u

// ---- Descriptors ------------------------------------------------------------------------------------------

void segment_unpack(struct x86_descriptor *d, uint64_t raw)
{
    d->raw = raw;
    d->attributes = raw >> 40 & 0xf0ff;
    d->base = (raw >> 16 & 0xffffff) | (raw >> 56) << 24;
    d->limit = (uint32_t)((raw & 0xffff) | (raw >> 32 & 0xf0000));
    if (d->attributes & X86_SEG_G)
        d->limit = d->limit << 12 | 0xfff;
}

// Descriptor tables and the TSS have 64-bit bases in long mode, 32-bit ones elsewhere.
static uint64_t table_linear(const struct x86_cpu *cpu, uint64_t linear)
{
    return segment_long(cpu) ? linear : linear & 0xffffffff;
}

bool segment_locate(const struct x86_cpu *cpu, uint16_t selector, unsigned size, uint64_t *linear)
{
    uint64_t base = cpu->gdtr.base;
    uint32_t limit = cpu->gdtr.limit;
    if (selector & 4) {
        if (!(cpu->segment[X86_LDTR].attributes & X86_SEG_P))
            return false;
        base = cpu->slot[X86_SLOT_SEGMENT + X86_LDTR];
        limit = cpu->segment[X86_LDTR].limit;
    }
    unsigned offset = selector & 0xfff8;
    if (offset + size - 1 > limit)
        return false;
    *linear = table_linear(cpu, base + offset);
    return true;
}

bool segment_fetch(struct x86_cpu *cpu, uint16_t selector, unsigned vector, unsigned ext,
                   struct x86_descriptor *d)
{
    uint64_t raw;
    *d = (struct x86_descriptor){ 0 };
    if (!segment_locate(cpu, selector, 8, &d->linear))
        return x86_fault(cpu, vector, (selector & 0xfffc) | ext);
    if (!x86_read_linear(cpu, d->linear, &raw, sizeof raw, X86_READ | X86_IMPLICIT))
        return false;
    d->selector = selector;
    segment_unpack(d, raw);
    return true;
}

bool segment_fetch_upper(struct x86_cpu *cpu, struct x86_descriptor *d, unsigned vector, unsigned ext,
                         uint64_t *upper)
{
    uint64_t linear = 0;
    if (!segment_locate(cpu, d->selector, 16, &linear))
        return x86_fault(cpu, vector, (d->selector & 0xfffc) | ext);
    if (!x86_read_linear(cpu, d->linear + 8, upper, sizeof *upper, X86_READ | X86_IMPLICIT))
        return false;
    d->base |= *upper << 32;
    return true;
}

bool segment_touch(struct x86_cpu *cpu, struct x86_descriptor *d)
{
    if (d->attributes & 1)
        return true;
    uint8_t type = (uint8_t)(d->attributes | 1);
    if (!x86_write_linear(cpu, d->linear + 5, &type, 1, X86_WRITE | X86_IMPLICIT))
        return false;
    d->attributes |= 1;
    return true;
}

void segment_install(struct x86_cpu *cpu, unsigned index, uint16_t selector, const struct x86_descriptor *d)
{
    cpu->slot[X86_SLOT_SEGMENT + index] = d->base;
    cpu->segment[index] = (struct x86_segment){ .limit = d->limit, .selector = selector,
                                                .attributes = d->attributes };
}

// A null selector clears base and limit too, as CPUID 8000_0021 EAX bit 6 says (APM vol. 2 4.5.1).
void segment_clear(struct x86_cpu *cpu, unsigned index, uint16_t selector)
{
    cpu->slot[X86_SLOT_SEGMENT + index] = 0;
    cpu->segment[index] = (struct x86_segment){ .selector = selector };
}

// Real mode keeps limit and size of the segment (code that has been in protected mode uses that);
// virtual-8086 does not.
void segment_install_real(struct x86_cpu *cpu, unsigned index, uint16_t selector)
{
    struct x86_segment *seg = &cpu->segment[index];
    cpu->slot[X86_SLOT_SEGMENT + index] = (uint64_t)selector << 4;
    seg->selector = selector;
    if (cpu->rflags & X86_VM) {
        seg->limit = 0xffff;
        seg->attributes = X86_SEG_P | X86_SEG_DPL | X86_SEG_S | 3;
        return;
    }
    if (!(seg->attributes & X86_SEG_P))
        seg->limit = 0xffff;
    seg->attributes = (seg->attributes & 0xf000) | X86_SEG_P | X86_SEG_S | (index == X86_CS ? 0xb : 3);
}

// ---- Loads ------------------------------------------------------------------------------------------------

bool segment_check_stack(struct x86_cpu *cpu, uint16_t selector, unsigned cpl, unsigned vector, unsigned ext,
                         struct x86_descriptor *d)
{
    uint32_t code = (selector & 0xfffc) | ext;
    if (segment_is_null(selector))
        return x86_fault(cpu, vector, ext);
    if (!segment_fetch(cpu, selector, vector, ext, d))
        return false;
    if ((selector & 3u) != cpl || segment_dpl(d->attributes) != cpl
        || !segment_is_writable_data(d->attributes))
        return x86_fault(cpu, vector, code);
    if (!(d->attributes & X86_SEG_P))
        return x86_fault(cpu, X86_SSF, code);
    return segment_touch(cpu, d);
}

static bool load_stack_segment(struct x86_cpu *cpu, uint16_t selector)
{
    struct x86_descriptor d;
    if (segment_is_null(selector) && segment_code64(cpu) && cpu->cpl < 3 && (selector & 3) == cpu->cpl) {
        segment_clear(cpu, X86_SS, selector);
        return true;
    }
    if (!segment_check_stack(cpu, selector, cpu->cpl, X86_GP, 0, &d))
        return false;
    segment_install(cpu, X86_SS, selector, &d);
    return true;
}

bool segment_load_data(struct x86_cpu *cpu, unsigned segment, uint16_t selector, unsigned vector)
{
    struct x86_descriptor d;
    if (segment_is_null(selector)) {
        segment_clear(cpu, segment, selector);
        return true;
    }
    if (!segment_fetch(cpu, selector, vector, 0, &d))
        return false;
    bool code = segment_is_code(d.attributes);
    bool fits = (d.attributes & X86_SEG_S) && (!code || (d.attributes & 2));
    if (fits && !(code && segment_is_conforming(d.attributes)))
        fits = (selector & 3u) <= segment_dpl(d.attributes) && cpu->cpl <= segment_dpl(d.attributes);
    if (!fits)
        return x86_fault(cpu, vector, selector & 0xfffc);
    if (!(d.attributes & X86_SEG_P))
        return x86_fault(cpu, X86_NP, selector & 0xfffc);
    if (!segment_touch(cpu, &d))
        return false;
    segment_install(cpu, segment, selector, &d);
    return true;
}

bool x86_load_segment(struct x86_cpu *cpu, unsigned segment, uint16_t selector)
{
    if (!segment_protected(cpu))
        segment_install_real(cpu, segment, selector);
    else if (!(segment == X86_SS ? load_stack_segment(cpu, selector)
                                 : segment_load_data(cpu, segment, selector, X86_GP)))
        return false;
    if (segment < X86_FS && !segment_code64(cpu))
        x86_update_mode(cpu);
    return true;
}

bool x86_load_ldtr(struct x86_cpu *cpu, uint16_t selector)
{
    struct x86_descriptor d;
    uint64_t upper = 0;
    if (segment_is_null(selector)) {
        segment_clear(cpu, X86_LDTR, selector);
        return true;
    }
    if (selector & 4)
        return x86_fault(cpu, X86_GP, selector & 0xfffc);
    if (!segment_fetch(cpu, selector, X86_GP, 0, &d))
        return false;
    if ((d.attributes & (X86_SEG_S | X86_SEG_TYPE)) != 2)
        return x86_fault(cpu, X86_GP, selector & 0xfffc);
    if (!(d.attributes & X86_SEG_P))
        return x86_fault(cpu, X86_NP, selector & 0xfffc);
    if (segment_long(cpu)) {
        if (!segment_fetch_upper(cpu, &d, X86_GP, 0, &upper))
            return false;
        if ((upper >> 40 & 0x1f) || !x86_canonical(d.base))
            return x86_fault(cpu, X86_GP, selector & 0xfffc);
    }
    segment_install(cpu, X86_LDTR, selector, &d);
    return true;
}

bool x86_load_tr(struct x86_cpu *cpu, uint16_t selector)
{
    struct x86_descriptor d;
    uint64_t upper = 0;
    if (segment_is_null(selector))
        return x86_fault(cpu, X86_GP, 0);
    if (selector & 4)
        return x86_fault(cpu, X86_GP, selector & 0xfffc);
    if (!segment_fetch(cpu, selector, X86_GP, 0, &d))
        return false;
    unsigned type = d.attributes & (X86_SEG_S | X86_SEG_TYPE);
    if (type != 9 && (type != 1 || segment_long(cpu)))
        return x86_fault(cpu, X86_GP, selector & 0xfffc);
    if (!(d.attributes & X86_SEG_P))
        return x86_fault(cpu, X86_NP, selector & 0xfffc);
    if (segment_long(cpu)) {
        if (!segment_fetch_upper(cpu, &d, X86_GP, 0, &upper))
            return false;
        if ((upper >> 40 & 0x1f) || !x86_canonical(d.base))
            return x86_fault(cpu, X86_GP, selector & 0xfffc);
    }
    d.attributes |= 2;      // busy
    uint8_t busy = (uint8_t)d.attributes;
    if (!x86_write_linear(cpu, d.linear + 5, &busy, 1, X86_WRITE | X86_IMPLICIT))
        return false;
    segment_install(cpu, X86_TR, selector, &d);
    return true;
}

// ---- Stacks -----------------------------------------------------------------------------------------------

void segment_stack_legacy(struct x86_stack *st, const struct x86_descriptor *ss, uint64_t sp)
{
    *st = (struct x86_stack){ .sp = sp, .base = ss->base, .limit = ss->limit, .attributes = ss->attributes,
                              .mask = ss->attributes & X86_SEG_DB ? 0xffffffff : 0xffff };
}

void segment_stack_current(const struct x86_cpu *cpu, struct x86_stack *st)
{
    const struct x86_segment *ss = &cpu->segment[X86_SS];
    *st = (struct x86_stack){ .sp = cpu->slot[X86_RSP], .base = cpu->slot[X86_SLOT_SEGMENT + X86_SS],
                              .limit = ss->limit, .attributes = ss->attributes, .wide = segment_code64(cpu),
                              .mask = ss->attributes & X86_SEG_DB ? 0xffffffff : 0xffff };
    if (st->wide)
        st->mask = ~0ull;
}

static bool stack_linear(struct x86_cpu *cpu, const struct x86_stack *st, uint64_t sp, unsigned size,
                         uint64_t *linear)
{
    if (st->wide) {
        if (!x86_canonical(sp) || !x86_canonical(sp + size - 1))
            return x86_fault(cpu, X86_SSF, st->error);
        *linear = sp;
        return true;
    }
    uint64_t last = sp + size - 1;
    bool inside = last <= st->limit;
    if ((st->attributes & 0xc) == 4)        // expand-down
        inside = sp > st->limit && last <= st->mask;
    if (!inside || !(st->attributes & X86_SEG_P))
        return x86_fault(cpu, X86_SSF, st->error);
    *linear = (st->base + sp) & 0xffffffff;
    return true;
}

bool segment_push(struct x86_cpu *cpu, struct x86_stack *st, unsigned size, uint64_t value)
{
    uint64_t linear = 0, sp = (st->sp - size) & st->mask;
    if (!stack_linear(cpu, st, sp, size, &linear)
        || !x86_write_linear(cpu, linear, &value, size, X86_WRITE | st->access))
        return false;
    st->sp = sp;
    return true;
}

bool segment_pop(struct x86_cpu *cpu, struct x86_stack *st, unsigned size, uint64_t *value)
{
    uint64_t linear = 0, sp = st->sp & st->mask;
    *value = 0;
    if (!stack_linear(cpu, st, sp, size, &linear)
        || !x86_read_linear(cpu, linear, value, size, X86_READ | st->access))
        return false;
    st->sp = (sp + size) & st->mask;
    return true;
}

void segment_stack_commit(struct x86_cpu *cpu, const struct x86_stack *st)
{
    if (st->mask == 0xffff)
        cpu->slot[X86_RSP] = (cpu->slot[X86_RSP] & ~0xffffull) | (st->sp & 0xffff);
    else
        cpu->slot[X86_RSP] = st->sp & st->mask;
}

bool x86_push(struct x86_cpu *cpu, unsigned size, uint64_t value)
{
    struct x86_stack st;
    segment_stack_current(cpu, &st);
    if (!segment_push(cpu, &st, size, value))
        return false;
    segment_stack_commit(cpu, &st);
    return true;
}

bool x86_pop(struct x86_cpu *cpu, unsigned size, uint64_t *value)
{
    struct x86_stack st;
    segment_stack_current(cpu, &st);
    if (!segment_pop(cpu, &st, size, value))
        return false;
    segment_stack_commit(cpu, &st);
    return true;
}

// ---- The TSS ----------------------------------------------------------------------------------------------

static bool tss_read(struct x86_cpu *cpu, unsigned offset, void *bytes, unsigned size, unsigned ext)
{
    const struct x86_segment *tr = &cpu->segment[X86_TR];
    if (!(tr->attributes & X86_SEG_P) || offset + size - 1 > tr->limit)
        return x86_fault(cpu, X86_TS, (tr->selector & 0xfffc) | ext);
    uint64_t linear = table_linear(cpu, cpu->slot[X86_SLOT_SEGMENT + X86_TR] + offset);
    return x86_read_linear(cpu, linear, bytes, size, X86_READ | X86_IMPLICIT);
}

bool segment_tss_pointer(struct x86_cpu *cpu, unsigned offset, unsigned ext, uint64_t *value)
{
    return tss_read(cpu, offset, value, sizeof *value, ext);
}

bool segment_inner_stack(struct x86_cpu *cpu, unsigned cpl, unsigned ext, struct x86_stack *st,
                         struct x86_descriptor *ss)
{
    uint64_t sp = 0;
    unsigned access = cpu->cpl == 3 && cpl < 3 ? X86_IMPLICIT : 0;
    if (segment_long(cpu)) {
        if (!segment_tss_pointer(cpu, TSS32_ESP0 + cpl * 8, ext, &sp))
            return false;
        *st = (struct x86_stack){ .sp = sp, .mask = ~0ull, .wide = true, .access = access, .error = ext };
        return true;
    }
    uint16_t selector;
    if (cpu->segment[X86_TR].attributes & 8) {
        uint32_t pointer[2];
        if (!tss_read(cpu, TSS32_ESP0 + cpl * 8, pointer, sizeof pointer, ext))
            return false;
        sp = pointer[0];
        selector = (uint16_t)pointer[1];
    } else {
        uint16_t pointer[2];
        if (!tss_read(cpu, TSS16_SP0 + cpl * 4, pointer, sizeof pointer, ext))
            return false;
        sp = pointer[0];
        selector = pointer[1];
    }
    if (!segment_check_stack(cpu, selector, cpl, X86_TS, ext, ss))
        return false;
    segment_stack_legacy(st, ss, sp);
    st->access = access;
    st->error = (selector & 0xfffc) | ext;
    return true;
}

// SDM vol. 1 19.5.2
bool x86_io_permitted(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
    if (!(cpu->cr0 & X86_CR0_PE))
        return true;
    unsigned iopl = (cpu->rflags & X86_IOPL) >> X86_IOPL_SHIFT;
    if (!(cpu->rflags & X86_VM) && cpu->cpl <= iopl)
        return true;
    const struct x86_segment *tr = &cpu->segment[X86_TR];
    uint64_t base = cpu->slot[X86_SLOT_SEGMENT + X86_TR];
    uint16_t map, bits;
    if (!(tr->attributes & X86_SEG_P) || !(tr->attributes & 8) || tr->limit < TSS_IO_MAP + 1)
        return x86_fault(cpu, X86_GP, 0);
    if (!x86_read_linear(cpu, table_linear(cpu, base + TSS_IO_MAP), &map, 2, X86_READ | X86_IMPLICIT))
        return false;
    uint32_t offset = map + port / 8u;
    if (offset + 1 > tr->limit)
        return x86_fault(cpu, X86_GP, 0);
    if (!x86_read_linear(cpu, table_linear(cpu, base + offset), &bits, 2, X86_READ | X86_IMPLICIT))
        return false;
    if (bits >> (port & 7) & ((1u << size) - 1))
        return x86_fault(cpu, X86_GP, 0);
    return true;
}
