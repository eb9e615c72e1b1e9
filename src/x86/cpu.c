// Whole-processor operations: flags, mode, reset, and how a handler leaves a block.
#include "x86/cpu.h"

#include <string.h>

#include "x86/decode.h"
#include "x86/system.h"

uint64_t x86_get_rflags(const struct x86_cpu *cpu)
{
    uint64_t flags = cpu->rflags | (cpu->oszapc >> 8 & (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF));
    return cpu->oszapc & X86_HOST_OF ? flags | X86_OF : flags;
}

void x86_set_rflags(struct x86_cpu *cpu, uint64_t rflags)
{
    cpu->oszapc = (uint16_t)((rflags & (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF)) << 8 | (rflags >> 11 & 1));
    cpu->rflags = (rflags & ~(uint64_t)X86_ARITHMETIC) | 2;
}

// Flat data segments let 32-bit code use the plain address formula with nothing but a cut to 32 bits.
static bool segment_flat(const struct x86_cpu *cpu, unsigned s)
{
    const struct x86_segment *seg = &cpu->segment[s];
    // Present, data, writable, expand-up.
    return cpu->slot[X86_SLOT_SEGMENT + s] == 0 && seg->limit == 0xffffffff
        && (seg->attributes & (X86_SEG_P | X86_SEG_S | 0xe)) == (X86_SEG_P | X86_SEG_S | 0x2);
}

// #AC is on (SDM vol. 3A 6.15, interrupt 17), or a data breakpoint is enabled (SDM vol. 3B 18.2.4).
static bool checked_access(const struct x86_cpu *cpu)
{
    if (cpu->cpl == 3 && (cpu->cr0 & X86_CR0_AM) && (cpu->rflags & X86_AC))
        return true;
    if (X86_LIKELY(!(cpu->dr7 & 0xff)))
        return false;
    for (unsigned n = 0; n < 4; n++)
        if ((cpu->dr7 >> n * 2 & 3) && (cpu->dr7 >> (16 + n * 4) & 1))
            return true;
    return false;
}

void x86_update_mode(struct x86_cpu *cpu)
{
    uint32_t mode = 0;
    uint16_t cs = cpu->segment[X86_CS].attributes;
    bool protected_mode = (cpu->cr0 & X86_CR0_PE) && !(cpu->rflags & X86_VM);
    if (protected_mode)
        mode |= X86_MODE_PROTECTED;
    if ((cpu->efer & X86_EFER_LMA) && (cs & X86_SEG_L)) {
        mode |= X86_MODE_CODE64;
    } else {
        mode |= cs & X86_SEG_DB ? X86_MODE_CODE32 : X86_MODE_CODE16;
        if (cpu->segment[X86_SS].attributes & X86_SEG_DB)
            mode |= X86_MODE_STACK32;
        if (segment_flat(cpu, X86_DS) && segment_flat(cpu, X86_ES) && segment_flat(cpu, X86_SS))
            mode |= X86_MODE_FLAT;
    }
    if (cpu->cpl == 3)
        mode |= X86_MODE_USER;
    // RF too ends with one instruction: what that leads to must not find it still set.
    if ((cpu->rflags & (X86_TF | X86_RF)) || cpu->interrupt_shadow || (cpu->dr7 & 0xff))
        mode |= X86_MODE_SINGLE;
    cpu->mode = mode;
    if (checked_access(cpu))
        cpu->tlb = cpu->tlbs[X86_TLB_CHECKED];
    else if (cpu->cpl == 3)
        cpu->tlb = cpu->tlbs[X86_TLB_USER];
    else if ((cpu->cr4 & X86_CR4_SMAP) && !(cpu->rflags & X86_AC))
        cpu->tlb = cpu->tlbs[X86_TLB_SMAP];
    else
        cpu->tlb = cpu->tlbs[X86_TLB_SUPERVISOR];
    cpu->jump_key = cpu->tlb_epoch << 8 | mode;
}

static void entry_clear(struct x86_tlb_entry *entry) { entry->read = entry->write = entry->execute = 0; }

// Drop what was filled as global, or as not global.
static void tlb_set_clear(struct x86_tlb_entry *set, struct x86_tlb_log *log, bool global)
{
    unsigned count = log->count[global];
    if (X86_LIKELY(count <= X86_TLB_LOG)) {
        for (unsigned n = 0; n < count; n++)
            if ((set[log->index[global][n]].host & 1) == global)
                entry_clear(&set[log->index[global][n]]);
    } else {
        for (unsigned n = 0; n < X86_TLB_ENTRIES; n++)
            if ((set[n].host & 1) == global)
                entry_clear(&set[n]);
    }
    log->count[global] = 0;
}

void x86_flush_tlb(struct x86_cpu *cpu, bool global)
{
    for (unsigned set = 0; cpu->tlb_filled >> set; set++) {
        if (!(cpu->tlb_filled >> set & 1))
            continue;
        tlb_set_clear(cpu->tlbs[set], &cpu->tlb_log[set], false);
        if (global)
            tlb_set_clear(cpu->tlbs[set], &cpu->tlb_log[set], true);
    }
    if (global) {
        cpu->tlb_filled = 0;
        cpu->large[0].mask = cpu->large[1].mask = 0;
    }
    cpu->tlb_epoch++;
    cpu->jump_key = cpu->tlb_epoch << 8 | cpu->mode;
}

// Which pages are watched is not known here, so every entry asks again at its next store.
void x86_forget_writes(struct x86_cpu *cpu)
{
    for (unsigned set = 0; set < X86_TLB_SETS; set++) {
        const struct x86_tlb_log *log = &cpu->tlb_log[set];
        bool whole = log->count[0] > X86_TLB_LOG || log->count[1] > X86_TLB_LOG;
        for (unsigned n = 0; whole && n < X86_TLB_ENTRIES; n++)
            cpu->tlbs[set][n].write = 0;
        for (unsigned global = 0; global < 2 && !whole; global++)
            for (unsigned n = 0; n < log->count[global]; n++)
                cpu->tlbs[set][log->index[global][n]].write = 0;
    }
}

void x86_note_large_page(struct x86_cpu *cpu, uint64_t linear, unsigned page_shift)
{
    uint64_t mask = ~0ull << page_shift, base = linear & mask;
    unsigned half = linear >> 63;
    if (cpu->large[half].mask) {
        mask &= cpu->large[half].mask;
        while ((cpu->large[half].base ^ base) & mask)       // ends at bit 63, which they share
            mask <<= 1;
    }
    cpu->large[half].mask = mask;
    cpu->large[half].base = base & mask;
}

void x86_flush_page(struct x86_cpu *cpu, uint64_t linear)
{
    unsigned half = linear >> 63;
    if (cpu->large[half].mask && (linear & cpu->large[half].mask) == cpu->large[half].base) {
        x86_flush_tlb(cpu, true);
        return;
    }
    for (unsigned set = 0; set < X86_TLB_SETS; set++) {
        struct x86_tlb_entry *entry = x86_tlb_slot(cpu->tlbs[set], linear);
        entry_clear(entry);
    }
    cpu->tlb_epoch++;
    cpu->jump_key = cpu->tlb_epoch << 8 | cpu->mode;
}

// SDM vol. 3A table 10-1, INIT. RDX holds the processor's signature.
void x86_init(struct x86_cpu *cpu)
{
    memset(cpu->slot, 0, sizeof cpu->slot);
    memset(cpu->segment, 0, sizeof cpu->segment);
    uint32_t id[4];
    x86_cpuid(cpu, 1, 0, id);
    cpu->slot[X86_RDX] = id[0];
    cpu->rip = 0xfff0;
    cpu->oszapc = 0;
    cpu->rflags = 2;
    cpu->cpl = 0;
    cpu->interrupt_shadow = cpu->nmi_blocked = cpu->watch_hit = cpu->task_switches = 0;
    for (unsigned s = 0; s < X86_SEGMENTS; s++)
        cpu->segment[s] = (struct x86_segment){ .limit = 0xffff, .attributes = X86_SEG_P | X86_SEG_S | 3 };
    cpu->segment[X86_CS].attributes = X86_SEG_P | X86_SEG_S | 0xb;
    cpu->segment[X86_CS].selector = 0xf000;
    cpu->slot[X86_SLOT_SEGMENT + X86_CS] = 0xffff0000;
    cpu->segment[X86_LDTR].attributes = X86_SEG_P | 2;
    cpu->segment[X86_TR].attributes = X86_SEG_P | 0xb;
    cpu->gdtr = cpu->idtr = (struct x86_table){ .base = 0, .limit = 0xffff };
    cpu->cr0 = (cpu->cr0 & (X86_CR0_CD | X86_CR0_NW)) | X86_CR0_ET;
    cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->efer = 0;
    memset(cpu->dr, 0, sizeof cpu->dr);
    cpu->dr6 = 0xffff0ff0;
    cpu->dr7 = 0x400;
    memset(cpu->pdpte, 0, sizeof cpu->pdpte);
    cpu->scratch_state.pending = X86_PENDING_NONE;
    x86_flush_tlb(cpu, true);
    x86_update_mode(cpu);
}

// SDM vol. 3A table 10-1, power-up: what INIT leaves alone, and then INIT.
void x86_reset(struct x86_cpu *cpu)
{
    cpu->xcr0 = 1;
    cpu->star = cpu->lstar = cpu->cstar = cpu->sfmask = cpu->kernel_gs_base = cpu->tsc_aux = 0;
    cpu->pat = 0x0007040600070406;
    cpu->sysenter_cs = cpu->sysenter_esp = cpu->sysenter_eip = cpu->misc_enable = 0;
    memset(cpu->mtrr_phys, 0, sizeof cpu->mtrr_phys);
    memset(cpu->mtrr_fixed, 0, sizeof cpu->mtrr_fixed);
    cpu->mtrr_def_type = 0;
    memset(cpu->vec, 0, sizeof cpu->vec);
    cpu->mxcsr = 0x1f80;
    memset(&cpu->fpu, 0, sizeof cpu->fpu);
    cpu->fpu.fcw = 0x40;
    cpu->fpu.ftw = 0xff;
    cpu->cr0 = X86_CR0_CD | X86_CR0_NW;
    x86_init(cpu);
}

// ---- Leaving a block ----------------------------------------------------------------------------------------------

const struct insn *x86_leave_fault(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->rip = x86_insn_rip(cpu, i);
    cpu->budget -= i->number;
    cpu->exit.length = i->length;
    cpu->scratch_state.pending = X86_PENDING_NONE;
    return NULL;
}

bool x86_fault(struct x86_cpu *cpu, unsigned vector, int64_t error)
{
    cpu->exception = (struct x86_exception){ .vector = (uint8_t)vector, .has_error = error >= 0,
                                             .error = error >= 0 ? (uint32_t)error : 0 };
    cpu->leave = X86_LEAVE_EXCEPTION;
    return false;
}

const struct insn *x86_raise(struct x86_cpu *cpu, const struct insn *i, unsigned vector, int64_t error)
{
    x86_fault(cpu, vector, error);
    return x86_leave_fault(cpu, i);
}

const struct insn *x86_leave_exit(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->leave = X86_LEAVE_EXIT;
    return x86_leave_fault(cpu, i);
}

const struct insn *x86_leave_branch(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->budget -= i->number + 1;
    cpu->leave = X86_LEAVE_LOOKUP;
    return NULL;
}

const struct insn *x86_leave_done(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->rip = x86_cut_rip(cpu, x86_insn_next_rip(cpu, i));
    return x86_leave_branch(cpu, i);
}
