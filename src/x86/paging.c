// The page walk: from linear to guest-physical, with rights, accessed and dirty bits (SDM vol. 3A 4).
#include "x86/system.h"

#include <stdatomic.h>

#include "x86/decode.h"

#define PTE_P 0x001u
#define PTE_W 0x002u
#define PTE_U 0x004u
#define PTE_A 0x020u
#define PTE_D 0x040u
#define PTE_PS 0x080u
#define PTE_G 0x100u
#define PTE_NX (1ull << 63)
#define PTE_ADDRESS 0x000ffffffffff000ull

#define ERROR_P 0x01u
#define ERROR_W 0x02u
#define ERROR_U 0x04u
#define ERROR_RSVD 0x08u
#define ERROR_I 0x10u

// One entry that the walk went through: where it lies, and what it held.
struct entry {
    void *host;
    uint64_t gpa;
    uint64_t value;
    bool wide;          // 8 bytes, else 4
    bool plain;         // the memory that it lies in may be written, and nobody has to be told
};

struct walk {
    struct x86_cpu *cpu;
    uint64_t linear;
    unsigned access;
    bool user;                  // a user-mode access
    bool nx;                    // EFER.NXE: the NX bit means something, and is not reserved
    bool cache;                 // the paging-structure caches may be used
    struct entry entry[4];
    unsigned entries;
    struct x86_translation above;   // the rights that the levels above the last entry leave
    struct x86_walk_result r;
};

static bool walk_missing(struct walk *w, uint64_t gpa, bool write)
{
    w->r.missing = true;
    w->r.missing_gpa = gpa;
    w->r.missing_write = write;
    return false;
}

static bool walk_fault(struct walk *w, uint32_t cause)
{
    uint32_t error = cause;
    if (w->access & X86_WRITE)
        error |= ERROR_W;
    if (w->user)
        error |= ERROR_U;
    // Bit 4 is there only where a fetch can be told from a read (SDM vol. 3A 4.7).
    bool fetch_known = (w->cpu->cr4 & X86_CR4_SMEP) || w->nx;
    if ((w->access & X86_EXECUTE) && fetch_known)
        error |= ERROR_I;
    w->r.error = error;
    return false;
}

// Take the entry at `host` as the next level's. Another processor may be changing it: one access.
static bool walk_entry(struct walk *w, uint64_t gpa, uint8_t *host, bool plain, bool wide)
{
    struct entry *e = &w->entry[w->entries++];
    e->host = host;
    e->gpa = gpa;
    e->wide = wide;
    e->plain = plain;
    if (wide)
        e->value = atomic_load_explicit((_Atomic uint64_t *)e->host, memory_order_relaxed);
    else
        e->value = atomic_load_explicit((_Atomic uint32_t *)e->host, memory_order_relaxed);
    if (!(e->value & PTE_P))
        return walk_fault(w, 0);
    return true;
}

static bool walk_read(struct walk *w, uint64_t gpa, bool wide)
{
    struct x86_page page = { 0 };
    w->cpu->bus->page(w->cpu, gpa & ~X86_PAGE_MASK, &page);
    if (!page.host || !page.read || page.device)
        return walk_missing(w, gpa, false);
    return walk_entry(w, gpa, page.host + (gpa & X86_PAGE_MASK), page.write && !page.watched, wide);
}

// Take an entry's rights into the result; `reserved` are the bits that must be clear.
static bool walk_take(struct walk *w, uint64_t reserved)
{
    uint64_t value = w->entry[w->entries - 1].value;
    if (value & reserved)
        return walk_fault(w, ERROR_P | ERROR_RSVD);
    w->r.t.user &= (value & PTE_U) != 0;
    w->r.t.write &= (value & PTE_W) != 0;
    if (w->nx && (value & PTE_NX))
        w->r.t.execute = false;
    return true;
}

static bool walk_leaf(struct walk *w, uint64_t value, uint64_t frame, unsigned shift)
{
    uint64_t offset = (1ull << shift) - 1;
    w->r.t.page_shift = (uint8_t)shift;
    w->r.t.gpa = (frame & ~offset) | (w->linear & offset);
    w->r.t.dirty = (value & PTE_D) != 0;
    w->r.t.global = (value & PTE_G) && (w->cpu->cr4 & X86_CR4_PGE);
    return true;
}

// 32-bit paging, with 4 MiB pages and 40-bit physical addresses in them (SDM vol. 3A 4.3).
static bool walk_legacy(struct walk *w)
{
    const struct x86_cpu *cpu = w->cpu;
    if (!walk_read(w, (cpu->cr3 & 0xfffff000) | (w->linear >> 22 & 0x3ff) << 2, false))
        return false;
    uint64_t pde = w->entry[0].value;
    if ((pde & PTE_PS) && (cpu->cr4 & X86_CR4_PSE)) {
        uint64_t reserved = 1u << 21;
        if (x86_has_feature(cpu, X86_FEATURE_PSE36)) {
            if (cpu->physical_bits < 40)        // bits 20:13 hold address bits 39:32
                reserved |= 0x1fe000u & ~((1u << (13 + (cpu->physical_bits - 32))) - 1);
        } else {
            reserved |= 0x1fe000;
        }
        if (!walk_take(w, reserved))
            return false;
        return walk_leaf(w, pde, (pde & 0xffc00000) | (pde & 0x1fe000) << 19, 22);
    }
    if (!walk_take(w, 0) || !walk_read(w, (pde & 0xfffff000) | (w->linear >> 12 & 0x3ff) << 2, false)
        || !walk_take(w, 0))
        return false;
    uint64_t pte = w->entry[1].value;
    return walk_leaf(w, pte, pte & 0xfffff000, 12);
}

// The paging-structure caches (SDM vol. 3A 4.10.3): where the table for a region of 2 MiB or 1 GiB lies, and what the levels
// above it permit. An entry is filled by a walk that has set the accessed bits on its way, and holds until the next flush.
static struct x86_walk_cache *walk_cached(struct x86_cpu *cpu, uint64_t linear, unsigned shift)
{
    return shift == 12 ? &cpu->walk_2m[linear >> 21 & (X86_WALK_2M - 1)]
                       : &cpu->walk_1g[linear >> 30 & (X86_WALK_1G - 1)];
}

// Start at a cached table instead of the top: `table` and `shift` move down to it.
static bool walk_start(struct walk *w, uint64_t *table, unsigned *shift, uint8_t **host, bool *plain)
{
    for (unsigned level = 12; level <= 21; level += 9) {
        const struct x86_walk_cache *c = walk_cached(w->cpu, w->linear, level);
        if (c->epoch != w->cpu->tlb_epoch || c->region != w->linear >> (level + 9))
            continue;
        w->r.t.user = c->user;
        w->r.t.write = c->write;
        w->r.t.execute = c->execute;
        *table = c->table;
        *shift = level;
        *host = c->host;
        *plain = c->plain;
        return true;
    }
    return false;
}

// After a walk that set accessed bits: remember the table that the last entry came from.
static void walk_remember(const struct walk *w)
{
    const struct entry *leaf = &w->entry[w->entries - 1];
    unsigned shift = w->r.t.page_shift;
    if (!leaf->wide || shift > 21)
        return;
    struct x86_walk_cache *c = walk_cached(w->cpu, w->linear, shift);
    *c = (struct x86_walk_cache){
        .epoch = w->cpu->tlb_epoch, .region = w->linear >> (shift + 9),
        .table = leaf->gpa & ~X86_PAGE_MASK, .host = (uint8_t *)((uintptr_t)leaf->host & ~(uintptr_t)X86_PAGE_MASK),
        .user = w->above.user, .write = w->above.write, .execute = w->above.execute, .plain = leaf->plain,
    };
}

// PAE and 4-level paging from the level whose entries map 1 GiB or, for PAE, 2 MiB downwards (SDM vol. 3A
// 4.4, 4.5).
static bool walk_wide(struct walk *w, uint64_t table, unsigned shift, uint64_t reserved)
{
    uint8_t *host = NULL;
    bool plain = false;
    bool cached = w->cache && walk_start(w, &table, &shift, &host, &plain);
    for (;; shift -= 9, cached = false) {
        uint64_t offset = (w->linear >> shift & 0x1ff) << 3;
        w->above = w->r.t;
        if (!(cached ? walk_entry(w, table | offset, host + offset, plain, true)
                     : walk_read(w, table | offset, true)))
            return false;
        uint64_t value = w->entry[w->entries - 1].value;
        bool large = (value & PTE_PS) && shift != 12;
        uint64_t bad = reserved;
        if (shift == 39 || (shift == 30 && !x86_has_feature(w->cpu, X86_FEATURE_GBPAGES)))
            bad |= PTE_PS;
        else if (large)
            bad |= ((1ull << shift) - 1) & ~0x1fffull;      // bit 12 is PAT
        if (!walk_take(w, bad))
            return false;
        if (large || shift == 12)
            return walk_leaf(w, value, value & PTE_ADDRESS, shift);
        table = value & PTE_ADDRESS;
    }
}

static bool walk_levels(struct walk *w)
{
    const struct x86_cpu *cpu = w->cpu;
    uint64_t reserved = PTE_ADDRESS & ~((1ull << cpu->physical_bits) - 1);
    if (!w->nx)
        reserved |= PTE_NX;
    if (cpu->efer & X86_EFER_LMA)
        return walk_wide(w, cpu->cr3 & PTE_ADDRESS, 39, reserved);
    if (!(cpu->cr4 & X86_CR4_PAE))
        return walk_legacy(w);
    uint64_t pdpte = cpu->pdpte[w->linear >> 30 & 3];
    if (!(pdpte & PTE_P))
        return walk_fault(w, 0);
    return walk_wide(w, pdpte & PTE_ADDRESS, 21, reserved | 0x7ff0000000000000ull);
}

// SDM vol. 3A 4.6.1
static bool walk_permitted(struct walk *w)
{
    const struct x86_cpu *cpu = w->cpu;
    const struct x86_translation *t = &w->r.t;
    bool ok = true;
    if (w->access & X86_EXECUTE)
        ok = t->execute && (w->user ? t->user : !(t->user && (cpu->cr4 & X86_CR4_SMEP)));
    if (w->access & (X86_READ | X86_WRITE)) {
        if (w->user)
            ok &= t->user;
        else if (t->user && (cpu->cr4 & X86_CR4_SMAP))
            ok &= !(w->access & X86_IMPLICIT) && (cpu->rflags & X86_AC);
        if (w->access & X86_WRITE)
            ok &= t->write || (!w->user && !(cpu->cr0 & X86_CR0_WP));
    }
    return ok || walk_fault(w, ERROR_P);
}

// The memory of an entry that is about to be changed, where it is not plain.
static bool walk_may_write(struct walk *w, const struct entry *e)
{
    struct x86_page page = { 0 };
    w->cpu->bus->page(w->cpu, e->gpa & ~X86_PAGE_MASK, &page);
    if (!page.write)
        return walk_missing(w, e->gpa, true);
    if (page.watched)
        w->cpu->bus->written(w->cpu, e->gpa);
    return true;
}

enum mark { MARK_DONE, MARK_AGAIN, MARK_MISSING };

// Rare, and kept out of the walk, which every TLB miss goes through.
static __attribute__((noinline)) enum mark mark_entry(struct walk *w, const struct entry *e, uint64_t want)
{
    bool same;
    if (!e->plain && !walk_may_write(w, e))
        return MARK_MISSING;
    if (e->wide) {
        uint64_t seen = e->value;
        same = atomic_compare_exchange_strong((_Atomic uint64_t *)e->host, &seen, want);
    } else {
        uint32_t seen = (uint32_t)e->value;
        same = atomic_compare_exchange_strong((_Atomic uint32_t *)e->host, &seen, (uint32_t)want);
    }
    return same ? MARK_DONE : MARK_AGAIN;
}

// Set accessed and dirty bits (SDM vol. 3A 4.8). An entry that changed since it was read makes the walk start
// again.
static enum mark walk_mark(struct walk *w)
{
    for (unsigned n = 0; n < w->entries; n++) {
        const struct entry *e = &w->entry[n];
        bool leaf = n == w->entries - 1;
        uint64_t want = e->value | PTE_A | (leaf && (w->access & X86_WRITE) ? PTE_D : 0);
        if (want == e->value)
            continue;
        enum mark mark = mark_entry(w, e, want);
        if (mark != MARK_DONE)
            return mark;
        if (leaf)
            w->r.t.dirty = (want & PTE_D) != 0;
    }
    return MARK_DONE;
}

struct x86_walk_result x86_walk(struct x86_cpu *cpu, uint64_t linear, unsigned access, unsigned flags)
{
    struct walk w;              // `entry` stays as it is: this runs at every TLB miss
    w.cpu = cpu;
    w.linear = linear;
    w.access = access;
    w.cache = (flags & (X86_WALK_MARK | X86_WALK_UNCACHED)) == X86_WALK_MARK;
    w.user = cpu->cpl == 3 && !(access & X86_IMPLICIT);
    w.nx = (cpu->efer & X86_EFER_NXE) && (cpu->cr4 & X86_CR4_PAE);
    if (!(cpu->efer & X86_EFER_LMA))
        w.linear &= 0xffffffff;
    for (;;) {
        w.entries = 0;
        w.r = (struct x86_walk_result){ .t = { .user = true, .write = true, .execute = true, .dirty = true,
                                               .page_shift = 12, .gpa = w.linear } };
        if (!(cpu->cr0 & X86_CR0_PG)) {
            w.r.ok = true;
            return w.r;
        }
        if (!walk_levels(&w) || (!(flags & X86_WALK_IGNORE_RIGHTS) && !walk_permitted(&w)))
            return w.r;
        enum mark mark = flags & X86_WALK_MARK ? walk_mark(&w) : MARK_DONE;
        if (mark == MARK_AGAIN)
            continue;
        w.r.ok = mark == MARK_DONE;
        if (w.cache && w.r.ok)
            walk_remember(&w);
        return w.r;
    }
}

bool x86_load_pdptes(struct x86_cpu *cpu, uint64_t cr3)
{
    uint64_t pdpte[4];
    uint64_t table = cr3 & 0xffffffe0;
    struct x86_page page = { 0 };
    cpu->bus->page(cpu, table & ~X86_PAGE_MASK, &page);
    if (!page.host || !page.read || page.device) {
        cpu->exit.kind = X86_EXIT_MEMORY;
        cpu->exit.memory.gpa = table;
        cpu->exit.memory.gva_valid = false;
        cpu->exit.memory.access = X86_READ;
        cpu->exit.memory.unmapped = !page.host;
        cpu->leave = X86_LEAVE_EXIT;
        return false;
    }
    // Bits 2:1 and 8:5 and those above the physical width are reserved (SDM vol. 3A table 4-8).
    uint64_t reserved = 0x1e6 | ~((1ull << cpu->physical_bits) - 1);
    for (unsigned n = 0; n < 4; n++) {
        pdpte[n] = atomic_load((_Atomic uint64_t *)(page.host + (table & X86_PAGE_MASK) + 8 * n));
        if ((pdpte[n] & PTE_P) && (pdpte[n] & reserved))
            return x86_fault(cpu, X86_GP, 0);
    }
    for (unsigned n = 0; n < 4; n++)
        cpu->pdpte[n] = pdpte[n];
    return true;
}
