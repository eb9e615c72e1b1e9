// Model-specific registers that live in the processor; all others are the platform's (struct x86_bus).
#include "x86/segment.h"

#include "x86/decode.h"

enum msr {
    MSR_MTRR_CAP = 0xfe,
    MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP = 0x175, MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179, MSR_MCG_STATUS = 0x17a,
    MSR_MTRR_PHYS = 0x200,
    MSR_MTRR_FIX64K = 0x250, MSR_MTRR_FIX16K = 0x258, MSR_MTRR_FIX4K = 0x268,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_EFER = 0xc0000080, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK,
    MSR_FS_BASE = 0xc0000100, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX,
    MSR_SYSCFG = 0xc0010010, MSR_HWCR = 0xc0010015, MSR_DE_CFG = 0xc0011029,
};

#define EFER_FFXSR (1ull << 14)
#define EFER_AUTO_IBRS (1ull << 21)
// The TSC counts at the frequency of P-state 0: it is constant here.
#define HWCR_TSC_FREQUENCY (1ull << 24)
#define DE_CFG_LFENCE (1ull << 1)           // LFENCE waits for all before it: it does here

uint64_t x86_efer_allowed(const struct x86_cpu *cpu)
{
    uint64_t allowed = 0;
    if (x86_has_feature(cpu, X86_FEATURE_SYSCALL))
        allowed |= X86_EFER_SCE;
    if (x86_has_feature(cpu, X86_FEATURE_LM))
        allowed |= X86_EFER_LME | X86_EFER_LMA;
    if (x86_has_feature(cpu, X86_FEATURE_NX))
        allowed |= X86_EFER_NXE;
    if (x86_has_feature(cpu, X86_FEATURE_FXSR_OPT))
        allowed |= EFER_FFXSR;
    if (x86_has_feature(cpu, X86_FEATURE_AUTO_IBRS))
        allowed |= EFER_AUTO_IBRS;
    return allowed;
}

static enum x86_answer write_efer(struct x86_cpu *cpu, uint64_t value)
{
    uint64_t changed = cpu->efer ^ value;
    if (value & ~x86_efer_allowed(cpu))
        return X86_FAULT_GP;
    if ((changed & X86_EFER_LME) && (cpu->cr0 & X86_CR0_PG))
        return X86_FAULT_GP;
    cpu->efer = (value & ~(uint64_t)X86_EFER_LMA) | (cpu->efer & X86_EFER_LMA);
    if (changed & X86_EFER_NXE)
        x86_flush_tlb(cpu, true);
    x86_update_mode(cpu);
    return X86_DONE;
}

// ---- Memory types (SDM vol. 3A 12.11, 12.12). They have no effect here, but are checked and kept. ---------

static bool memory_type(uint64_t type) { return type <= 1 || (type >= 4 && type <= 6); }

static bool memory_types(uint64_t value, bool pat)
{
    for (unsigned n = 0; n < 64; n += 8) {
        uint64_t type = value >> n & 0xff;
        if (!memory_type(type) && !(pat && type == 7))
            return false;
    }
    return true;
}

// The fixed-range register that an MSR number means, or NULL.
static uint64_t *mtrr_fixed(struct x86_cpu *cpu, uint32_t msr)
{
    if (msr == MSR_MTRR_FIX64K)
        return &cpu->mtrr_fixed[0];
    if (msr == MSR_MTRR_FIX16K || msr == MSR_MTRR_FIX16K + 1)
        return &cpu->mtrr_fixed[1 + msr - MSR_MTRR_FIX16K];
    if (msr >= MSR_MTRR_FIX4K && msr < MSR_MTRR_FIX4K + 8)
        return &cpu->mtrr_fixed[3 + msr - MSR_MTRR_FIX4K];
    return NULL;
}

static uint64_t *mtrr_variable(struct x86_cpu *cpu, uint32_t msr)
{
    uint32_t count = 2 * (cpu->mtrr_cap & 0xff);
    if (count > sizeof cpu->mtrr_phys / sizeof *cpu->mtrr_phys)
        count = sizeof cpu->mtrr_phys / sizeof *cpu->mtrr_phys;
    if (msr >= MSR_MTRR_PHYS && msr < MSR_MTRR_PHYS + count)
        return &cpu->mtrr_phys[msr - MSR_MTRR_PHYS];
    return NULL;
}

static enum x86_answer write_mtrr_variable(struct x86_cpu *cpu, uint32_t msr, uint64_t *mtrr, uint64_t value)
{
    bool mask = msr & 1;
    if (value >> cpu->physical_bits)
        return X86_FAULT_GP;
    if (mask ? value & 0x7ff : (value & 0xf00) || !memory_type(value & 0xff))
        return X86_FAULT_GP;
    *mtrr = value;
    return X86_DONE;
}

// ---- Plain registers --------------------------------------------------------------------------------------

enum plain_check { ANY, CANONICAL, EXTENDED, LOW32, READ_ONLY };

// MSRs that are a field of the processor, with what may be written. LOW32 drops the upper half, as this
// vendor does. EXTENDED takes any value, as this vendor does, and keeps it as an address: a processor holds no other, and
// a saved one can be set again.
struct plain { uint32_t msr; uint16_t offset; uint8_t check; uint16_t feature; };
#define FIELD(member) offsetof(struct x86_cpu, member)
#define BASE_OF(s) (FIELD(slot) + 8 * (X86_SLOT_SEGMENT + (s)))
static const struct plain plain[] = {
    { MSR_FS_BASE, BASE_OF(X86_FS), CANONICAL, X86_FEATURE_LM },
    { MSR_GS_BASE, BASE_OF(X86_GS), CANONICAL, X86_FEATURE_LM },
    { MSR_KERNEL_GS_BASE, FIELD(kernel_gs_base), CANONICAL, X86_FEATURE_LM },
    { MSR_STAR, FIELD(star), ANY, X86_FEATURE_SYSCALL },
    { MSR_LSTAR, FIELD(lstar), CANONICAL, X86_FEATURE_LM },
    { MSR_CSTAR, FIELD(cstar), CANONICAL, X86_FEATURE_LM },
    { MSR_SFMASK, FIELD(sfmask), LOW32, X86_FEATURE_LM },
    { MSR_TSC_AUX, FIELD(tsc_aux), LOW32, X86_FEATURE_RDTSCP },
    { MSR_SYSENTER_CS, FIELD(sysenter_cs), ANY, X86_FEATURE_SEP },
    { MSR_SYSENTER_ESP, FIELD(sysenter_esp), EXTENDED, X86_FEATURE_SEP },
    { MSR_SYSENTER_EIP, FIELD(sysenter_eip), EXTENDED, X86_FEATURE_SEP },
    { MSR_MTRR_CAP, FIELD(mtrr_cap), READ_ONLY, X86_FEATURE_MTRR },
};

static const struct plain *plain_find(const struct x86_cpu *cpu, uint32_t msr)
{
    for (unsigned n = 0; n < sizeof plain / sizeof *plain; n++)
        if (plain[n].msr == msr)
            return x86_has_feature(cpu, plain[n].feature) ? &plain[n] : NULL;
    return NULL;
}

static uint64_t *plain_field(struct x86_cpu *cpu, const struct plain *p)
{
    return (uint64_t *)((char *)cpu + p->offset);
}

// What this vendor's systems read without asking CPUID first, and what is true here. Writing them changes
// nothing.
static bool vendor_constant(uint32_t msr, uint64_t *value)
{
    switch (msr) {
    case MSR_SYSCFG:        // no memory encryption, no extended fixed-range MTRR types
        *value = 0;
        return true;
    case MSR_HWCR:
        *value = HWCR_TSC_FREQUENCY;
        return true;
    case MSR_DE_CFG:
        *value = DE_CFG_LFENCE;
        return true;
    }
    return false;
}

enum x86_answer x86_read_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t *value)
{
    const struct plain *p = plain_find(cpu, msr);
    const uint64_t *mtrr = NULL;
    if (p) {
        *value = *plain_field(cpu, p);
        return X86_DONE;
    }
    if (vendor_constant(msr, value))
        return X86_DONE;
    if (x86_has_feature(cpu, X86_FEATURE_MTRR)) {
        mtrr = mtrr_fixed(cpu, msr);
        if (!mtrr)
            mtrr = mtrr_variable(cpu, msr);
        if (msr == MSR_MTRR_DEF_TYPE)
            mtrr = &cpu->mtrr_def_type;
    }
    if (mtrr) {
        *value = *mtrr;
        return X86_DONE;
    }
    if (msr == MSR_EFER && x86_efer_allowed(cpu)) {
        *value = cpu->efer;
        return X86_DONE;
    }
    if (msr == MSR_PAT && x86_has_feature(cpu, X86_FEATURE_PAT)) {
        *value = cpu->pat;
        return X86_DONE;
    }
    if ((msr == MSR_MCG_CAP || msr == MSR_MCG_STATUS) && x86_has_feature(cpu, X86_FEATURE_MCA)) {
        *value = 0;         // no banks, no machine check in progress
        return X86_DONE;
    }
    return cpu->bus->read_msr(cpu, msr, value);
}

static enum x86_answer write_plain(struct x86_cpu *cpu, const struct plain *p, uint64_t value)
{
    if (p->check == READ_ONLY || (p->check == CANONICAL && !x86_canonical(value)))
        return X86_FAULT_GP;
    if (p->check == EXTENDED)
        value = (uint64_t)((int64_t)(value << 16) >> 16);
    *plain_field(cpu, p) = p->check == LOW32 ? value & 0xffffffff : value;
    return X86_DONE;
}

enum x86_answer x86_write_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    const struct plain *p = plain_find(cpu, msr);
    uint64_t *mtrr, constant;
    if (p)
        return write_plain(cpu, p, value);
    if (vendor_constant(msr, &constant))
        return X86_DONE;
    if (x86_has_feature(cpu, X86_FEATURE_MTRR)) {
        if ((mtrr = mtrr_fixed(cpu, msr))) {
            if (!memory_types(value, false))
                return X86_FAULT_GP;
            *mtrr = value;
            return X86_DONE;
        }
        if ((mtrr = mtrr_variable(cpu, msr)))
            return write_mtrr_variable(cpu, msr, mtrr, value);
        if (msr == MSR_MTRR_DEF_TYPE) {
            if ((value & ~0xcffull) || !memory_type(value & 0xff))
                return X86_FAULT_GP;
            cpu->mtrr_def_type = value;
            return X86_DONE;
        }
    }
    if (msr == MSR_EFER && x86_efer_allowed(cpu))
        return write_efer(cpu, value);
    if (msr == MSR_PAT && x86_has_feature(cpu, X86_FEATURE_PAT)) {
        if (!memory_types(value, true))
            return X86_FAULT_GP;
        cpu->pat = value;
        return X86_DONE;
    }
    if ((msr == MSR_MCG_CAP || msr == MSR_MCG_STATUS) && x86_has_feature(cpu, X86_FEATURE_MCA))
        return msr == MSR_MCG_STATUS && value == 0 ? X86_DONE : X86_FAULT_GP;
    return cpu->bus->write_msr(cpu, msr, value);
}
