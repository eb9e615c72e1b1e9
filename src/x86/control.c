// Control and debug registers: the checks of MOV, switches between modes, which states are possible at all.
#include "x86/segment.h"

#include "x86/decode.h"

#define CR0_DEFINED (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE             \
                     | X86_CR0_WP | X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
#define CR4_PAGING (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_SMEP | X86_CR4_SMAP)

// Which feature each bit of CR4 belongs to (APM vol. 2 3.1.3).
static const struct { uint32_t bits; uint16_t feature; } cr4_bits[] = {
    { X86_CR4_VME | X86_CR4_PVI, X86_FEATURE_VME },
    { X86_CR4_TSD, X86_FEATURE_TSC },
    { X86_CR4_DE, X86_FEATURE_DE },
    { X86_CR4_PSE, X86_FEATURE_PSE },
    { X86_CR4_PAE, X86_FEATURE_PAE },
    { X86_CR4_MCE, X86_FEATURE_MCE },
    { X86_CR4_PGE, X86_FEATURE_PGE },
    { X86_CR4_PCE, X86_FEATURE_BASE },
    { X86_CR4_OSFXSR, X86_FEATURE_FXSR },
    { X86_CR4_OSXMMEXCPT, X86_FEATURE_SSE },
    { X86_CR4_UMIP, X86_FEATURE_UMIP },
    { X86_CR4_FSGSBASE, X86_FEATURE_FSGSBASE },
    { X86_CR4_OSXSAVE, X86_FEATURE_XSAVE },
    { X86_CR4_SMEP, X86_FEATURE_SMEP },
    { X86_CR4_SMAP, X86_FEATURE_SMAP },
};

static uint64_t cr4_allowed(const struct x86_cpu *cpu)
{
    uint64_t allowed = 0;
    for (unsigned n = 0; n < sizeof cr4_bits / sizeof *cr4_bits; n++)
        if (x86_has_feature(cpu, cr4_bits[n].feature))
            allowed |= cr4_bits[n].bits;
    return allowed;
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & X86_CR0_PG) && (cr4 & X86_CR4_PAE) && !(efer & X86_EFER_LME);
}

static bool cr0_possible(uint64_t value)
{
    if (value >> 32)
        return false;
    if ((value & X86_CR0_PG) && !(value & X86_CR0_PE))
        return false;
    return !(value & X86_CR0_NW) || (value & X86_CR0_CD);
}

static bool write_cr0(struct x86_cpu *cpu, uint64_t value)
{
    if (!cr0_possible(value))
        return x86_fault(cpu, X86_GP, 0);
    value = (value & CR0_DEFINED) | X86_CR0_ET;
    uint64_t efer = cpu->efer, changed = cpu->cr0 ^ value;
    if (changed & X86_CR0_PG) {
        bool code64 = (cpu->segment[X86_CS].attributes & X86_SEG_L) != 0;
        if (efer & X86_EFER_LME) {
            // Into long mode only with PAE, and from 32-bit code; out of it the same (SDM vol. 3A 10.8.5).
            if (code64 || !(cpu->cr4 & X86_CR4_PAE))
                return x86_fault(cpu, X86_GP, 0);
            efer = value & X86_CR0_PG ? efer | X86_EFER_LMA : efer & ~(uint64_t)X86_EFER_LMA;
        }
    }
    bool reload = (changed & (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW)) && pae_paging(value, cpu->cr4, efer);
    if (reload && !x86_load_pdptes(cpu, cpu->cr3))
        return false;
    cpu->cr0 = value;
    cpu->efer = efer;
    if (changed & (X86_CR0_PG | X86_CR0_WP | X86_CR0_PE))
        x86_flush_tlb(cpu, true);
    x86_update_mode(cpu);
    return true;
}

static bool write_cr3(struct x86_cpu *cpu, uint64_t value)
{
    if (segment_long(cpu)) {
        if (value >> cpu->physical_bits)
            return x86_fault(cpu, X86_GP, 0);
    } else if (pae_paging(cpu->cr0, cpu->cr4, cpu->efer) && !x86_load_pdptes(cpu, value)) {
        return false;
    }
    cpu->cr3 = value;
    x86_flush_tlb(cpu, false);
    return true;
}

static bool write_cr4(struct x86_cpu *cpu, uint64_t value)
{
    if (value & ~cr4_allowed(cpu))
        return x86_fault(cpu, X86_GP, 0);
    if (segment_long(cpu) && !(value & X86_CR4_PAE))
        return x86_fault(cpu, X86_GP, 0);
    uint64_t changed = cpu->cr4 ^ value;
    bool reload = (changed & CR4_PAGING) && pae_paging(cpu->cr0, value, cpu->efer);
    if (reload && !x86_load_pdptes(cpu, cpu->cr3))
        return false;
    cpu->cr4 = value;
    if (changed & CR4_PAGING)
        x86_flush_tlb(cpu, true);
    x86_update_mode(cpu);
    return true;
}

bool x86_write_cr(struct x86_cpu *cpu, unsigned number, uint64_t value)
{
    switch (number) {
    case 0:
        return write_cr0(cpu, value);
    case 2:
        cpu->cr2 = value;
        return true;
    case 3:
        return write_cr3(cpu, value);
    case 4:
        return write_cr4(cpu, value);
    case 8:
        if (value >> 4)
            return x86_fault(cpu, X86_GP, 0);
        cpu->bus->write_cr8(cpu, value);
        return true;
    }
    return x86_fault(cpu, X86_UD, -1);
}

// ---- Debug registers (SDM vol. 3B 18.2) -------------------------------------------------------------------

#define DR6_WRITABLE 0xe00fu
#define DR6_ONES 0xffff0ff0u
#define DR7_WRITABLE 0xffff23ffu
#define DR7_ONES 0x400u
#define DR7_GD 0x2000u
#define DR6_BD 0x2000u

// Checks that reads and writes share, and their count; 4 and 5 become 6 and 7.
static bool debug_register(struct x86_cpu *cpu, unsigned *number)
{
    if (*number > 7 || ((*number & ~1u) == 4 && (cpu->cr4 & X86_CR4_DE)))
        return x86_fault(cpu, X86_UD, -1);
    if ((*number & ~1u) == 4)
        *number += 2;
    if (cpu->cpl)
        return x86_fault(cpu, X86_GP, 0);
    if (cpu->dr7 & DR7_GD) {
        x86_fault(cpu, X86_DB, -1);
        cpu->exception.address = DR6_BD;
        return false;
    }
    x86_count_add(&cpu->counts.instruction[X86_COUNT_DEBUG].count, 1);
    return true;
}

bool x86_read_dr(struct x86_cpu *cpu, unsigned number, uint64_t *value)
{
    if (!debug_register(cpu, &number))
        return false;
    *value = number == 6 ? cpu->dr6 : number == 7 ? cpu->dr7 : cpu->dr[number];
    return true;
}

bool x86_write_dr(struct x86_cpu *cpu, unsigned number, uint64_t value)
{
    if (!debug_register(cpu, &number))
        return false;
    if (number >= 6 && value >> 32)
        return x86_fault(cpu, X86_GP, 0);
    if (number == 6)
        cpu->dr6 = (value & DR6_WRITABLE) | DR6_ONES;
    else if (number == 7)
        cpu->dr7 = (value & DR7_WRITABLE) | DR7_ONES;
    else
        cpu->dr[number] = value;
    x86_update_mode(cpu);
    return true;
}

// ---- State from outside -----------------------------------------------------------------------------------

void x86_settle_state(struct x86_cpu *cpu)
{
    uint64_t long_mode = X86_EFER_LME, page = X86_CR0_PG;
    if ((cpu->efer & long_mode) && (cpu->cr0 & page))
        cpu->efer |= X86_EFER_LMA;
    cpu->cr0 |= X86_CR0_ET;
    if (!(cpu->cr0 & X86_CR0_PE))
        cpu->cpl = 0;
    else if (cpu->rflags & X86_VM)
        cpu->cpl = 3;
    else        // where the hardware keeps it too (SDM vol. 3C 25.4.1); a null SS has nothing to say
        cpu->cpl = (uint8_t)segment_dpl(cpu->segment[cpu->segment[X86_SS].attributes ? X86_SS : X86_CS]
                                        .attributes);
    if (pae_paging(cpu->cr0, cpu->cr4, cpu->efer)) {
        // A table that is not there or is wrong leaves nothing mapped: the first access says so.
        enum x86_leave leave = cpu->leave;
        if (!x86_load_pdptes(cpu, cpu->cr3))
            for (unsigned n = 0; n < 4; n++)
                cpu->pdpte[n] = 0;
        cpu->leave = leave;
    }
    x86_flush_tlb(cpu, true);
    x86_update_mode(cpu);
}

// SDM vol. 3C 27.3.1.2, as far as it is about the processor and not about VM entry.
static bool segment_possible(const struct x86_cpu *cpu, unsigned index)
{
    const struct x86_segment *seg = &cpu->segment[index];
    uint16_t a = seg->attributes;
    bool code64 = (cpu->efer & X86_EFER_LMA) && (cpu->segment[X86_CS].attributes & X86_SEG_L);
    if (!(a & X86_SEG_P))
        return index != X86_CS && (index != X86_TR || !(cpu->cr0 & X86_CR0_PE));
    if (a & 0x0f00)
        return false;
    if (!code64 && index != X86_FS && index != X86_GS && cpu->slot[X86_SLOT_SEGMENT + index] >> 32
        && index < X86_LDTR)
        return false;
    if (!x86_canonical(cpu->slot[X86_SLOT_SEGMENT + index]))
        return false;
    if (index == X86_LDTR)
        return (a & (X86_SEG_S | X86_SEG_TYPE)) == 2;
    if (index == X86_TR) {
        unsigned type = a & (X86_SEG_S | X86_SEG_TYPE);
        return type == 11 || (type == 3 && !(cpu->efer & X86_EFER_LMA));
    }
    if (!(a & X86_SEG_S))
        return false;
    if (!(cpu->cr0 & X86_CR0_PE) || (cpu->rflags & X86_VM))
        return true;
    if (index == X86_CS)
        return segment_is_code(a)
            && !((cpu->efer & X86_EFER_LMA) && (a & (X86_SEG_L | X86_SEG_DB)) == (X86_SEG_L | X86_SEG_DB));
    if (index == X86_SS)
        return segment_is_writable_data(a);
    return !segment_is_code(a) || (a & 2);
}

bool x86_state_valid(const struct x86_cpu *cpu, uint64_t other_cr4, uint64_t other_xcr0)
{
    uint64_t cr4 = cpu->cr4 & ~other_cr4, xcr0 = cpu->xcr0 & ~other_xcr0;
    bool lme = cpu->efer & X86_EFER_LME, lma = cpu->efer & X86_EFER_LMA, paging = cpu->cr0 & X86_CR0_PG;
    if (!cr0_possible(cpu->cr0) || (cr4 & ~cr4_allowed(cpu)) || (cpu->efer & ~x86_efer_allowed(cpu)))
        return false;
    if (lma != (lme && paging) || (lma && !(cpu->cr4 & X86_CR4_PAE)))
        return false;
    if (lma && (cpu->cr3 >> cpu->physical_bits))
        return false;
    if ((cpu->rflags >> 22) || (cpu->rflags & 0x8028))
        return false;
    if (cpu->rflags & X86_VM && (lma || !(cpu->cr0 & X86_CR0_PE)))
        return false;
    // Bit 0 of XCR0 is x87 and always set; AVX needs SSE.
    bool xsave = x86_has_feature(cpu, X86_FEATURE_XSAVE);
    if (!(xcr0 & 1) || (xcr0 & (xsave ? ~7ull : ~1ull)) || (xcr0 & 6) == 4)
        return false;
    for (unsigned s = 0; s < X86_SEGMENTS; s++)
        if (!segment_possible(cpu, s))
            return false;
    if (lma && (cpu->segment[X86_CS].attributes & X86_SEG_L))
        return x86_canonical(cpu->rip);
    return !(cpu->rip >> 32);
}
