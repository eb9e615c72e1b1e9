// A processor's state between the view and KVM.
//
// Values are those of Documentation/virt/kvm/api.rst: struct kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xsave,
// kvm_debugregs, kvm_xcrs.
#include <errno.h>
#include <string.h>

#include "engine/kvm/ioctl.h"
#include "engine/kvm/msr.h"
#include "engine/kvm/same.h"
#include "engine/kvm/vcpu.h"
#include "x86/fpu.h"
#include "x86/system.h"

#define MSR_APIC_BASE 0x1bu
#define APIC_TPR 0x80u
#define MSR_TSC_ADJUST 0x3bu
#define APIC_BASE_RESET 0xfee00800ull
#define APIC_BASE_BSP 0x100ull

// ---- General registers -------------------------------------------------------------------------------------------

// KVM's order of the first eight is its own.
static void load_general(struct kvm_vcpu *v)
{
    const struct kvm_regs *r = &v->run->s.regs.regs;
    struct x86_cpu *cpu = &v->p.cpu;
    cpu->slot[X86_RAX] = r->rax;
    cpu->slot[X86_RBX] = r->rbx;
    cpu->slot[X86_RCX] = r->rcx;
    cpu->slot[X86_RDX] = r->rdx;
    cpu->slot[X86_RSI] = r->rsi;
    cpu->slot[X86_RDI] = r->rdi;
    cpu->slot[X86_RSP] = r->rsp;
    cpu->slot[X86_RBP] = r->rbp;
    memcpy(&cpu->slot[X86_R8], &r->r8, 8 * sizeof(uint64_t));
    cpu->rip = r->rip;
    x86_set_rflags(cpu, r->rflags);
}

static void store_general(struct kvm_vcpu *v)
{
    struct kvm_regs *r = &v->run->s.regs.regs;
    const struct x86_cpu *cpu = &v->p.cpu;
    r->rax = cpu->slot[X86_RAX];
    r->rbx = cpu->slot[X86_RBX];
    r->rcx = cpu->slot[X86_RCX];
    r->rdx = cpu->slot[X86_RDX];
    r->rsi = cpu->slot[X86_RSI];
    r->rdi = cpu->slot[X86_RDI];
    r->rsp = cpu->slot[X86_RSP];
    r->rbp = cpu->slot[X86_RBP];
    memcpy(&r->r8, &cpu->slot[X86_R8], 8 * sizeof(uint64_t));
    r->rip = cpu->rip;
    r->rflags = x86_get_rflags(cpu);
}

// ---- System registers --------------------------------------------------------------------------------------------

static void load_segment(struct x86_cpu *cpu, unsigned index, const struct kvm_segment *s)
{
    unsigned attributes = s->type | s->s << 4 | s->dpl << 5 | s->present << 7 | s->avl << 12 | s->l << 13
                        | s->db << 14 | s->g << 15;
    cpu->slot[X86_SLOT_SEGMENT + index] = s->base;
    cpu->segment[index] = (struct x86_segment){ .limit = s->limit, .selector = s->selector,
                                                .attributes = s->unusable ? 0 : (uint16_t)attributes };
}

static void store_segment(const struct x86_cpu *cpu, unsigned index, struct kvm_segment *s)
{
    const struct x86_segment *from = &cpu->segment[index];
    unsigned a = from->attributes;
    *s = (struct kvm_segment){
        .base = cpu->slot[X86_SLOT_SEGMENT + index], .limit = from->limit, .selector = from->selector,
        .type = a & 15, .s = a >> 4 & 1, .dpl = a >> 5 & 3, .present = a >> 7 & 1, .avl = a >> 12 & 1,
        .l = a >> 13 & 1, .db = a >> 14 & 1, .g = a >> 15 & 1, .unusable = !(a & X86_SEG_P),
    };
}

static struct kvm_segment *segment_of(struct kvm_sregs *s, unsigned index)
{
    struct kvm_segment *const where[X86_SEGMENTS] = { &s->es, &s->cs, &s->ss, &s->ds, &s->fs, &s->gs, &s->ldt, &s->tr };
    return where[index];
}

static void load_system(struct kvm_vcpu *v)
{
    struct kvm_sregs *s = &v->run->s.regs.sregs;
    struct x86_cpu *cpu = &v->p.cpu;
    for (unsigned n = 0; n < X86_SEGMENTS; n++)
        load_segment(cpu, n, segment_of(s, n));
    cpu->idtr = (struct x86_table){ .base = s->idt.base, .limit = s->idt.limit };
    cpu->gdtr = (struct x86_table){ .base = s->gdt.base, .limit = s->gdt.limit };
    cpu->cr0 = s->cr0;
    cpu->cr2 = s->cr2;
    cpu->cr3 = s->cr3;
    cpu->cr4 = s->cr4;
    cpu->efer = s->efer;
}

static void store_system(struct kvm_vcpu *v)
{
    struct kvm_sregs *s = &v->run->s.regs.sregs;
    const struct x86_cpu *cpu = &v->p.cpu;
    for (unsigned n = 0; n < X86_SEGMENTS; n++)
        store_segment(cpu, n, segment_of(s, n));
    s->idt = (struct kvm_dtable){ .base = cpu->idtr.base, .limit = cpu->idtr.limit };
    s->gdt = (struct kvm_dtable){ .base = cpu->gdtr.base, .limit = cpu->gdtr.limit };
    s->cr0 = cpu->cr0;
    s->cr2 = cpu->cr2;
    s->cr3 = cpu->cr3;
    s->cr4 = cpu->cr4;
    s->efer = cpu->efer;
    memset(s->interrupt_bitmap, 0, sizeof s->interrupt_bitmap);     // what is injected goes with the events
}

// ---- Events ------------------------------------------------------------------------------------------------------

static void load_events(struct kvm_vcpu *v)
{
    const struct kvm_vcpu_events *e = &v->run->s.regs.events;
    struct processor *p = &v->p;
    p->cpu.interrupt_shadow = e->interrupt.shadow ? 1 : 0;
    p->cpu.nmi_blocked = e->nmi.masked ? 1 : 0;
    p->pending_valid = p->pending_told = false;
    p->pending = (struct x86_exception){ 0 };
    if (X86_LIKELY(!e->exception.injected && !e->nmi.injected && !e->interrupt.injected)) {
        // as nearly always
    } else if (e->exception.injected) {
        p->pending = (struct x86_exception){ .vector = e->exception.nr, .has_error = e->exception.has_error_code,
                                             .error = e->exception.error_code };
        p->pending.address = e->exception.nr == X86_PFV ? p->cpu.cr2 : 0;
        p->pending_valid = true;
        p->pending_external = false;
    } else if (e->nmi.injected) {
        p->pending.vector = X86_NMI;
        p->pending_valid = p->pending_external = true;
    } else if (e->interrupt.injected) {
        p->pending.vector = e->interrupt.nr;
        p->pending.software = e->interrupt.soft;
        p->pending_valid = true;
        p->pending_external = !e->interrupt.soft;
    }
    v->pending_in_kvm = p->pending_valid;
    v->pending_of_kvm = p->pending;
}

static void store_events(struct kvm_vcpu *v)
{
    struct kvm_vcpu_events *e = &v->run->s.regs.events;
    const struct processor *p = &v->p;
    e->flags = KVM_VCPUEVENT_VALID_SHADOW;
    e->interrupt.shadow = p->cpu.interrupt_shadow ? KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI : 0;
    e->nmi.masked = p->cpu.nmi_blocked;
    if (!v->pending_in_kvm) {       // the view delivers what is pending
        e->exception.injected = e->nmi.injected = e->interrupt.injected = 0;
        e->exception.pending = 0;
    }
}

// ---- x87 and vectors ---------------------------------------------------------------------------------------------

// The standard form of the XSAVE area (SDM vol. 1 13.4): KVM fills in the parts that are in their initial
// state.
#define XSTATE_BV(xsave) ((xsave)->region[512 / 4])

void kvm_state_load_fpu(struct kvm_vcpu *v)
{
    struct x86_fx_image image;
    memcpy(&image, v->xsave.region, sizeof image);
    image.mxcsr &= X86_MXCSR_VALID;
    (void)x86_fpu_from_image(&v->p.cpu, &image, true, 16);
}

void kvm_state_place_fpu(struct kvm_vcpu *v)
{
    struct x86_fx_image image;
    x86_fpu_to_image(&v->p.cpu, &image, true);
    memcpy(v->xsave.region, &image, sizeof image);
    XSTATE_BV(&v->xsave) |= 3;
}

static HRESULT fetch_fpu(struct kvm_vcpu *v)
{
    bool larger = v->kvm->xsave_size > sizeof v->xsave;
    int answer = kvm_ioctl(v->fd, larger ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, &v->xsave);
    if (answer >= 0)
        kvm_state_load_fpu(v);
    return kvm_hresult(answer);
}

static HRESULT store_fpu(struct kvm_vcpu *v)
{
    kvm_state_place_fpu(v);
    return kvm_hresult(kvm_ioctl(v->fd, KVM_SET_XSAVE, &v->xsave));
}

// ---- Debug registers, XCR0, time-stamp counter -------------------------------------------------------------------

static HRESULT fetch_debug(struct kvm_vcpu *v)
{
    struct kvm_debugregs d;
    int answer = kvm_ioctl(v->fd, KVM_GET_DEBUGREGS, &d);
    if (answer < 0)
        return kvm_hresult(answer);
    for (unsigned n = 0; n < 4; n++)
        v->p.cpu.dr[n] = d.db[n];
    v->p.cpu.dr6 = d.dr6;
    v->p.cpu.dr7 = d.dr7;
    return S_OK;
}

static HRESULT store_debug(struct kvm_vcpu *v)
{
    struct kvm_debugregs d = { .dr6 = v->p.cpu.dr6, .dr7 = v->p.cpu.dr7 };
    for (unsigned n = 0; n < 4; n++)
        d.db[n] = v->p.cpu.dr[n];
    return kvm_hresult(kvm_ioctl(v->fd, KVM_SET_DEBUGREGS, &d));
}

static HRESULT fetch_xcr(struct kvm_vcpu *v)
{
    struct kvm_xcrs x;
    int answer = kvm_ioctl(v->fd, KVM_GET_XCRS, &x);
    if (answer < 0)
        return kvm_hresult(answer);
    for (unsigned n = 0; n < x.nr_xcrs && n < KVM_MAX_XCRS; n++)
        if (x.xcrs[n].xcr == 0)
            v->p.cpu.xcr0 = x.xcrs[n].value;
    return S_OK;
}

static HRESULT store_xcr(struct kvm_vcpu *v)
{
    struct kvm_xcrs x = { .nr_xcrs = 1 };
    x.xcrs[0].value = v->p.cpu.xcr0;
    int answer = kvm_ioctl(v->fd, KVM_SET_XCRS, &x);
    return answer == -EINVAL ? E_INVALIDARG : kvm_hresult(answer);
}

static HRESULT fetch_tsc(struct kvm_vcpu *v)
{
    HRESULT hr = kvm_msr_get(v->fd, MSR_TSC_ADJUST, &v->tsc.adjust);
    return SUCCEEDED(hr) ? kvm_time_fetch(v) : hr;
}

static HRESULT store_tsc(struct kvm_vcpu *v)
{
    HRESULT hr = S_OK;
    if (v->tsc.set & KVM_TSC_SET)
        hr = kvm_time_set_tsc(v, v->tsc.tsc);
    if (SUCCEEDED(hr) && (v->tsc.set & KVM_TSC_SET_ADJUST))
        hr = kvm_msr_set(v->fd, MSR_TSC_ADJUST, v->tsc.adjust);
    if (SUCCEEDED(hr) && (v->tsc.set & KVM_TSC_SET_DEADLINE))
        hr = kvm_time_set_deadline(v, v->tsc.deadline);
    v->tsc.set = 0;
    return hr;
}

static HRESULT fetch_activity(struct kvm_vcpu *v)
{
    struct kvm_mp_state m;
    int answer = kvm_ioctl(v->fd, KVM_GET_MP_STATE, &m);
    if (answer >= 0)
        v->mp_state = m.mp_state;
    return kvm_hresult(answer);
}

static HRESULT store_activity(struct kvm_vcpu *v)
{
    struct kvm_mp_state m = { .mp_state = v->mp_state };
    return kvm_hresult(kvm_ioctl(v->fd, KVM_SET_MP_STATE, &m));
}

// ---- Groups ------------------------------------------------------------------------------------------------------

static HRESULT fetch_msrs(struct kvm_vcpu *v) { return kvm_msr_fetch(v->fd, &v->p.cpu); }
static HRESULT store_msrs(struct kvm_vcpu *v) { return kvm_msr_store(v->fd, &v->p.cpu, NULL); }

HRESULT kvm_state_store_apic_base(struct kvm_vcpu *v)
{
    uint64_t base = v->run->s.regs.sregs.apic_base;
    if (v->apic_base == base)
        return S_OK;
    HRESULT hr = kvm_msr_set(v->fd, MSR_APIC_BASE, base);
    if (SUCCEEDED(hr))
        v->apic_base = base;
    return hr;
}

static HRESULT fetch_apic(struct kvm_vcpu *v)
{
    if (!v->kvm->apic)
        return S_OK;        // its registers are refused by their names
    HRESULT hr = kvm_state_store_apic_base(v);
    if (SUCCEEDED(hr))
        hr = kvm_apic_get_page(v->fd, v->apic_base, v->apic_page);
    if (SUCCEEDED(hr))
        kvm_time_show_timer(v, v->apic_page);
    uint8_t cr8 = kvm_state_cr8(v);     // may be newer than KVM's
    if (SUCCEEDED(hr) && v->apic_page[APIC_TPR] >> 4 != cr8)
        (void)kvm_apic_page_set(v->apic_page, v->apic_base, APIC_TPR >> 4, (uint64_t)cr8 << 4);
    memcpy(v->apic_before, v->apic_page, sizeof v->apic_before);
    return hr;
}

static HRESULT store_apic(struct kvm_vcpu *v)
{
    HRESULT hr = kvm_state_store_apic_base(v);
    if (SUCCEEDED(hr))
        hr = kvm_time_set_page(v, v->apic_page, v->apic_before);
    v->watch_eoi = true;
    return hr;
}

static const struct { uint32_t group; HRESULT (*fetch)(struct kvm_vcpu *v); HRESULT (*store)(struct kvm_vcpu *v); }
groups[] = {
    { REGISTER_FPU, fetch_fpu, store_fpu },
    { REGISTER_DEBUG, fetch_debug, store_debug },
    { REGISTER_XCR, fetch_xcr, store_xcr },
    { REGISTER_MSR, fetch_msrs, store_msrs },
    { KVM_GROUP_APIC, fetch_apic, store_apic },
    { KVM_GROUP_TSC, fetch_tsc, store_tsc },
    { KVM_GROUP_ACTIVITY, fetch_activity, store_activity },
    { KVM_GROUP_TIMER, NULL, kvm_time_give_timer },
};

__attribute__((noinline)) HRESULT kvm_state_fetch(struct kvm_vcpu *v, uint32_t wanted)
{
    wanted &= ~v->fresh;
    for (unsigned n = 0; wanted && n < sizeof groups / sizeof groups[0]; n++) {
        if (!(wanted & groups[n].group))
            continue;
        HRESULT hr = groups[n].fetch(v);
        if (FAILED(hr))
            return hr;
        if (!(groups[n].group & (KVM_GROUP_TSC | KVM_GROUP_APIC)))      // which go on by themselves
            v->fresh |= groups[n].group;
    }
    return S_OK;
}

HRESULT kvm_state_store(struct kvm_vcpu *v)
{
    for (unsigned n = 0; n < sizeof groups / sizeof groups[0]; n++) {
        if (!(v->changed & groups[n].group))
            continue;
        HRESULT hr = groups[n].store(v);
        if (FAILED(hr))
            return hr;
        v->changed &= ~groups[n].group;
    }
    return S_OK;
}

__attribute__((hot)) void kvm_state_prepare_run(struct kvm_vcpu *v)
{
    struct kvm_run *run = v->run;
    uint32_t changed = v->changed & KVM_GROUPS_SYNCED;
    if (X86_UNLIKELY(v->apic_base != run->s.regs.sregs.apic_base))
        changed |= REGISTER_SYSTEM;
    run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    run->kvm_dirty_regs = 0;
    run->cr8 = run->s.regs.sregs.cr8;       // without an APIC of its own KVM takes it from here at each run
    // Taking general registers KVM drops an exception that is queued (arch/x86/kvm/x86.c, __set_regs): it
    // goes with them.
    if (X86_UNLIKELY(v->pending_in_kvm && (changed & REGISTER_GENERAL)))
        changed |= REGISTER_EVENTS;
    if (!changed)
        return;
    if (changed & REGISTER_GENERAL) {
        store_general(v);
        run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
    }
    if (X86_UNLIKELY(changed & REGISTER_SYSTEM)) {
        v->seen_stale = true;
        store_system(v);
        run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
    }
    if (changed & REGISTER_EVENTS) {
        store_events(v);
        run->kvm_dirty_regs |= KVM_SYNC_X86_EVENTS;
    }
}

int kvm_state_hand_over(struct kvm_vcpu *v)
{
    static const struct { uint64_t field; unsigned long request; size_t offset; } parts[] = {
        { KVM_SYNC_X86_SREGS, KVM_SET_SREGS, offsetof(struct kvm_sync_regs, sregs) },
        { KVM_SYNC_X86_REGS, KVM_SET_REGS, offsetof(struct kvm_sync_regs, regs) },
        { KVM_SYNC_X86_EVENTS, KVM_SET_VCPU_EVENTS, offsetof(struct kvm_sync_regs, events) },
    };
    for (unsigned n = 0; n < sizeof parts / sizeof parts[0]; n++) {
        if (!(v->run->kvm_dirty_regs & parts[n].field))
            continue;
        int answer = kvm_ioctl(v->fd, parts[n].request, (char *)&v->run->s.regs + parts[n].offset);
        if (answer < 0)
            return answer;
    }
    v->run->kvm_dirty_regs = 0;
    return 0;
}

static bool same_system(const struct kvm_sregs *a, const struct kvm_sregs *b)
{
    _Static_assert(sizeof *a % 16 == 8, "the last word is half a pair");
    return same_pairs(a, b, sizeof *a / 16) && a->interrupt_bitmap[3] == b->interrupt_bitmap[3];
}

__attribute__((hot)) void kvm_state_after_run(struct kvm_vcpu *v)
{
    const struct kvm_sregs *s = &v->run->s.regs.sregs;
    v->apic_base = s->apic_base;
    load_general(v);
    if (X86_UNLIKELY(v->seen_stale || !same_system(&v->seen, s))) {
        load_system(v);
        v->seen = *s;
        v->seen_stale = false;
        v->settled = 0;
    }
    load_events(v);
    v->fresh = KVM_GROUPS_SYNCED;
    v->changed &= ~(uint32_t)KVM_GROUPS_SYNCED;
}

void kvm_state_reset(struct kvm_vcpu *v)
{
    struct kvm_sregs *s = &v->run->s.regs.sregs;
    x86_reset(&v->p.cpu);
    memset(&v->run->s.regs, 0, sizeof v->run->s.regs);
    s->apic_base = APIC_BASE_RESET | (v->p.vp->index == 0 ? APIC_BASE_BSP : 0);
    memset(&v->xsave, 0, v->kvm->xsave_size);
    v->seen_stale = true;
    v->fresh = KVM_GROUPS_SYNCED | REGISTER_FPU;
    v->changed = KVM_GROUPS_SYNCED | REGISTER_FPU;
}
