// WHvTranslateGva: the processor's own page walk, by the caller's flags.
#include "engine/common/processor.h"

#include "os/guard.h"
#include "x86/decode.h"
#include "x86/system.h"

static WHV_TRANSLATE_GVA_RESULT_CODE walk_code(const struct x86_walk_result *w)
{
    if (w->missing)
        return w->missing_write ? WHvTranslateGvaResultGpaNoWriteAccess : WHvTranslateGvaResultGpaUnmapped;
    if (w->error & 8)
        return WHvTranslateGvaResultInvalidPageTableFlags;
    return w->error & 1 ? WHvTranslateGvaResultPrivilegeViolation : WHvTranslateGvaResultPageNotPresent;
}

// One access after the other, as the flags ask; the first that fails decides.
static WHV_TRANSLATE_GVA_RESULT_CODE translate(struct processor *p, gva_t gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                               gpa_t *gpa)
{
    static const struct { WHV_TRANSLATE_GVA_FLAGS flag; unsigned access; } checks[] = {
        { WHvTranslateGvaFlagValidateRead, X86_READ }, { WHvTranslateGvaFlagValidateWrite, X86_WRITE },
        { WHvTranslateGvaFlagValidateExecute, X86_EXECUTE },
    };
    struct x86_cpu *cpu = &p->cpu;
    unsigned mark = X86_WALK_UNCACHED | (flags & WHvTranslateGvaFlagSetPageTableBits ? X86_WALK_MARK : 0u);
    bool checked = false;
    unsigned accesses = 0;
    *gpa = 0;       // what a translation that fails on its way leaves
    if ((cpu->efer & X86_EFER_LMA) && !x86_canonical(gva))
        return WHvTranslateGvaResultPageNotPresent;
    gpa_t found = gva;
    if (cpu->cr0 & X86_CR0_PG) {
        for (unsigned n = 0; n < 3; n++) {
            if (!(flags & checks[n].flag))
                continue;
            struct x86_walk_result w = x86_walk(cpu, gva, checks[n].access, mark);
            if (!w.ok)
                return walk_code(&w);
            found = w.t.gpa;
            checked = true;
            accesses |= checks[n].access;
        }
        if (!checked) {
            struct x86_walk_result w = x86_walk(cpu, gva, X86_READ, mark | X86_WALK_IGNORE_RIGHTS);
            if (!w.ok)
                return walk_code(&w);
            found = w.t.gpa;
        }
    }
    *gpa = found;
    struct gpa_range range;
    if (!gpa_map_find(&p->vp->partition->map, *gpa, &range))
        return WHvTranslateGvaResultGpaUnmapped;
    if ((accesses & (X86_READ | X86_EXECUTE)) && !(range.flags & WHvMapGpaRangeFlagRead))
        return WHvTranslateGvaResultGpaNoReadAccess;
    if ((accesses & X86_WRITE) && !(range.flags & WHvMapGpaRangeFlagWrite))
        return WHvTranslateGvaResultGpaNoWriteAccess;
    return WHvTranslateGvaResultSuccess;
}

void processor_translate(struct processor *p, gva_t gva, WHV_TRANSLATE_GVA_FLAGS flags,
                         WHV_TRANSLATE_GVA_RESULT *result, gpa_t *gpa)
{
    struct x86_cpu *cpu = &p->cpu;
    struct os_guard guard;
    // Volatile: the guard's jump must find them.
    volatile uint8_t cpl = cpu->cpl;
    volatile uint64_t rflags = cpu->rflags;
    *result = (WHV_TRANSLATE_GVA_RESULT){ .ResultCode = WHvTranslateGvaResultGpaUnmapped };
    if (OS_GUARD_ENTER(&guard) == 0) {
        if (p->settle)
            x86_settle_state(cpu);          // the run that follows settles again: it has to check
        cpl = cpu->cpl;
        if (flags & WHvTranslateGvaFlagPrivilegeExempt)
            cpu->cpl = 0;
        if (flags & WHvTranslateGvaFlagEnforceSmap)
            cpu->rflags &= ~(uint64_t)X86_AC;
        if (flags & WHvTranslateGvaFlagOverrideSmap)
            cpu->rflags |= X86_AC;
        result->ResultCode = translate(p, gva, flags, gpa);
    } else if (!processor_is_guest_memory(p, guard.address, gpa)) {
        os_guard_unexplained(&guard);       // it was not a page table that the host took away
    }
    os_guard_leave(&guard);
    cpu->cpl = cpl;
    cpu->rflags = rflags;
}
