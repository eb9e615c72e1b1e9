// How the processor reaches memory: linear addresses, TLB fills, and every access that the fast path does not serve.
#include "x86/cpu.h"

#include <string.h>

#include "x86/code.h"
#include "x86/decode.h"
#include "x86/system.h"

// ---- Linear addresses --------------------------------------------------------------------------------------------

uint64_t x86_effective(const struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t offset = R64(i->base) + (R64(i->index) << i->scale) + (uint64_t)(int64_t)i->disp;
    if (i->mem & INSN_MEM_RIP_FAR)
        offset += i->page_offset + i->length;
    switch (i->mem & INSN_MEM_ADDR) {
    case INSN_MEM_ADDR16:
        return offset & 0xffff;
    case INSN_MEM_ADDR32:
        return offset & 0xffffffff;
    }
    return offset;
}

static struct x86_address segment_fault(struct x86_cpu *cpu, unsigned segment)
{
    x86_fault(cpu, segment == X86_SS ? X86_SSF : X86_GP, 0);
    return (struct x86_address){ 0, 0 };
}

// SDM vol. 3A 5.3 to 5.5: limit and type of a data access outside 64-bit mode.
static bool segment_permits(const struct x86_cpu *cpu, unsigned segment, uint64_t offset, unsigned size, unsigned access)
{
    const struct x86_segment *seg = &cpu->segment[segment];
    uint16_t a = seg->attributes;
    if (!(a & X86_SEG_P))
        return false;
    if (cpu->mode & X86_MODE_PROTECTED) {
        if (a & 8) {                        // code
            if ((access & X86_WRITE) || ((access & X86_READ) && !(a & 2)))
                return false;
        } else if ((access & X86_WRITE) && !(a & 2)) {
            return false;
        }
    }
    uint64_t last = offset + size - 1;
    if (!(a & 8) && (a & 4)) {              // expand-down
        uint64_t top = a & X86_SEG_DB ? 0xffffffff : 0xffff;
        return offset > seg->limit && last <= top;
    }
    return last <= seg->limit;
}

struct x86_address x86_linear_segment(struct x86_cpu *cpu, unsigned segment, uint64_t offset, unsigned size, unsigned access)
{
    uint64_t base = cpu->slot[X86_SLOT_SEGMENT + segment];
    if ((cpu->mode & X86_MODE_CODE) == X86_MODE_CODE64) {
        if (segment >= X86_FS)
            offset += base;
        return (struct x86_address){ offset, 1 };
    }
    if (!segment_permits(cpu, segment, offset, size, access))
        return segment_fault(cpu, segment);
    return (struct x86_address){ (offset + base) & 0xffffffff, 1 };
}

struct x86_address x86_linear_general(struct x86_cpu *cpu, const struct insn *i, unsigned size, unsigned access)
{
    uint64_t offset = x86_effective(cpu, i);
    if (i->mem & INSN_MEM_CHECK)
        return x86_linear_segment(cpu, i->segment / 8u - X86_SLOT_SEGMENT, offset, size, access);
    uint64_t linear = offset + R64(i->segment);
    if ((cpu->mode & X86_MODE_CODE) != X86_MODE_CODE64) {
        if (offset + size - 1 > 0xffffffff)     // the limit of a flat segment
            return segment_fault(cpu, i->stack ? X86_SS : X86_DS);
        linear &= 0xffffffff;
    }
    return (struct x86_address){ linear, 1 };
}

// ---- TLB fill ----------------------------------------------------------------------------------------------------

struct resolved {
    uint8_t *host;      // of the byte asked for; NULL with `device`: the platform's own device
    uint64_t gpa;
    bool device;
    bool ok;
};

static bool canonical(const struct x86_cpu *cpu, uint64_t linear)
{
    unsigned shift = cpu->cr4 & X86_CR4_LA57 ? 7 : 16;
    return (uint64_t)((int64_t)(linear << shift) >> shift) == linear;
}

static bool memory_exit(struct x86_cpu *cpu, uint64_t gpa, uint64_t linear, unsigned access, bool gva_valid, bool unmapped)
{
    cpu->exit.kind = X86_EXIT_MEMORY;
    cpu->exit.memory.gpa = gpa;
    cpu->exit.memory.gva = linear;
    cpu->exit.memory.gva_valid = gva_valid;
    cpu->exit.memory.access = access & (X86_READ | X86_WRITE | X86_EXECUTE);
    cpu->exit.memory.unmapped = unmapped;
    cpu->leave = X86_LEAVE_EXIT;
    return false;
}

static bool page_fault(struct x86_cpu *cpu, uint64_t linear, uint32_t error)
{
    x86_fault(cpu, X86_PFV, error);
    cpu->exception.address = linear;
    return false;
}

static struct x86_tlb_entry *access_tlb(struct x86_cpu *cpu, unsigned access)
{
    if (!(access & X86_IMPLICIT) || cpu->cpl != 3)
        return cpu->tlb;
    return cpu->tlbs[cpu->cr4 & X86_CR4_SMAP ? X86_TLB_SMAP : X86_TLB_SUPERVISOR];
}

static void tlb_insert(struct x86_cpu *cpu, uint64_t linear, unsigned access, const struct x86_page *page, bool global)
{
    struct x86_tlb_entry *set = access_tlb(cpu, access);
    if (X86_UNLIKELY(set == cpu->tlbs[X86_TLB_CHECKED]))
        return;
    struct x86_tlb_entry *entry = x86_tlb_slot(set, linear);
    uint64_t tag = X86_TLB_TAG(linear);
    uintptr_t host = ((uintptr_t)page->host - (linear & ~X86_PAGE_MASK)) | global;
    bool known = entry->host == host && (entry->read == tag || entry->write == tag || entry->execute == tag);
    if (!known) {
        unsigned number = (unsigned)((set - cpu->tlbs[0]) / X86_TLB_ENTRIES);
        struct x86_tlb_log *log = &cpu->tlb_log[number];
        cpu->tlb_filled |= 1u << number;
        if (log->count[global] < X86_TLB_LOG)
            log->index[global][log->count[global]++] = (uint16_t)(entry - set);
        else
            log->count[global] = X86_TLB_LOG + 1;
        entry->read = entry->write = entry->execute = 0;
        entry->host = host;
    }
    if (access & X86_READ)
        entry->read = tag;
    if ((access & X86_WRITE) && !x86_code_in_page(cpu, page->host)) {
        entry->write = tag;
        if (page->read)
            entry->read = tag;
    }
    if (access & X86_EXECUTE)
        entry->execute = tag;
}

// Find the byte at `linear` for an access that does not leave its page. Permission, accessed and dirty bits are dealt with.
static struct resolved resolve(struct x86_cpu *cpu, uint64_t linear, unsigned access)
{
    struct resolved r = { 0 };
    uint64_t gpa;
    bool global = false;
    if (cpu->bus->translate) {
        if (!cpu->bus->translate(cpu, linear, access, &gpa))
            return r;
    } else {
        if ((cpu->mode & X86_MODE_CODE) != X86_MODE_CODE64 && !(access & X86_IMPLICIT))
            linear &= 0xffffffff;
        if (!canonical(cpu, linear)) {
            bool stack = cpu->current && cpu->current->stack && !(access & X86_EXECUTE);
            x86_fault(cpu, stack ? X86_SSF : X86_GP, 0);
            return r;
        }
        if (cpu->cr0 & X86_CR0_PG) {
            struct x86_walk_result w = x86_walk(cpu, linear, access, X86_WALK_MARK);
            if (!w.ok) {
                if (w.missing)
                    memory_exit(cpu, w.missing_gpa, linear, w.missing_write ? X86_WRITE : X86_READ, false,
                                !w.missing_write);
                else
                    page_fault(cpu, linear, w.error);
                return r;
            }
            gpa = w.t.gpa;
            global = w.t.global;
            if (w.t.page_shift > 12)
                x86_note_large_page(cpu, linear, w.t.page_shift);
        } else {
            gpa = linear;
        }
    }
    struct x86_page page = { 0 };
    cpu->bus->page(cpu, gpa & ~X86_PAGE_MASK, &page);
    r.gpa = gpa;
    if (page.device) {
        if (access & X86_EXECUTE) {
            memory_exit(cpu, gpa, linear, access, true, true);
            return r;
        }
        r.device = r.ok = true;
        return r;
    }
    bool refused = ((access & X86_READ) && !page.read) || ((access & X86_WRITE) && !page.write)
                || ((access & X86_EXECUTE) && !page.execute);
    if (!page.host || refused) {
        // A read-modify-write reads first; where only the write is refused, that is what is reported.
        unsigned reported = access & X86_READ && (!page.host || !page.read) ? X86_READ : access & ~X86_READ;
        memory_exit(cpu, gpa, linear, reported, true, !page.host);
        return r;
    }
    if (page.watched && (access & X86_WRITE))
        cpu->bus->written(cpu, gpa);
    if (!cpu->bus->translate)
        tlb_insert(cpu, linear, access, &page, global);
    r.host = page.host + (gpa & X86_PAGE_MASK);
    r.ok = true;
    return r;
}

// What the checked set is for: alignment, and data breakpoints. False: #AC recorded.
static bool check_access(struct x86_cpu *cpu, uint64_t linear, unsigned size, unsigned access)
{
    if (X86_LIKELY(cpu->tlb != cpu->tlbs[X86_TLB_CHECKED]) || (access & X86_IMPLICIT))
        return true;
    // SDM vol. 3A table 6-7. An address that is not canonical is found out first.
    unsigned boundary = size == 10 ? 8 : size <= 16 && !(size & (size - 1)) ? size : 1;
    if (cpu->cpl == 3 && (cpu->cr0 & X86_CR0_AM) && (cpu->rflags & X86_AC) && (linear & (boundary - 1))
        && canonical(cpu, linear))
        return x86_fault(cpu, X86_AC_FAULT, 0);
    for (unsigned n = 0; n < 4; n++) {
        unsigned control = cpu->dr7 >> (16 + n * 4) & 15, kind = control & 3;
        if (!(cpu->dr7 >> n * 2 & 3) || !(kind == 3 || (kind == 1 && (access & X86_WRITE))))
            continue;
        static const uint8_t lengths[4] = { 1, 2, 8, 4 };
        uint64_t length = lengths[control >> 2], start = cpu->dr[n] & ~(length - 1);
        if (linear < start + length && start < linear + size)
            cpu->watch_hit |= (uint8_t)(1u << n);
    }
    return true;
}

static unsigned first_part(uint64_t linear, unsigned size)
{
    uint64_t left = X86_PAGE_SIZE - (linear & X86_PAGE_MASK);
    return left < size ? (unsigned)left : size;
}

const uint8_t *x86_fetch_pointer(struct x86_cpu *cpu, uint64_t linear)
{
    const struct x86_tlb_entry *entry = x86_tlb_slot(cpu->tlb, linear);
    if (X86_LIKELY(X86_TLB_HIT(entry, execute, linear, 1)))
        return x86_tlb_host(entry, linear);
    return resolve(cpu, linear, X86_EXECUTE).host;
}

// ---- Reads -------------------------------------------------------------------------------------------------------

static bool device_read(struct x86_cpu *cpu, uint64_t gpa, uint8_t *bytes, unsigned size)
{
    for (unsigned done = 0; done < size;) {
        unsigned part = size - done < 8 ? size - done : 8;
        uint64_t value = 0;
        switch (cpu->bus->device_read(cpu, gpa + done, part, &value)) {
        case X86_DONE:
            break;
        case X86_FAULT_GP:
            return x86_fault(cpu, X86_GP, 0);
        case X86_ANSWER_EXIT:
            cpu->leave = X86_LEAVE_EXIT;
            return false;
        }
        memcpy(bytes + done, &value, part);
        done += part;
    }
    return true;
}

static const void *read_access(struct x86_cpu *cpu, uint64_t linear, unsigned size, unsigned access)
{
    unsigned first = first_part(linear, size);
    if (!check_access(cpu, linear, size, access))
        return NULL;
    struct resolved r = resolve(cpu, linear, access);
    if (!r.ok)
        return NULL;
    if (!r.device && first == size)
        return r.host;
    if (r.device) {
        if (!device_read(cpu, r.gpa, cpu->scratch, first))
            return NULL;
    } else {
        memcpy(cpu->scratch, r.host, first);
    }
    if (first < size) {
        r = resolve(cpu, linear + first, access);
        if (!r.ok)
            return NULL;
        if (r.device) {
            if (!device_read(cpu, r.gpa, cpu->scratch + first, size - first))
                return NULL;
        } else {
            memcpy(cpu->scratch + first, r.host, size - first);
        }
    }
    return cpu->scratch;
}

const void *x86_read_slow(struct x86_cpu *cpu, uint64_t linear, unsigned size)
{
    return read_access(cpu, linear, size, X86_READ);
}

struct x86_value x86_load_slow(struct x86_cpu *cpu, uint64_t linear, unsigned size)
{
    struct x86_value v = { 0, 0 };
    const void *bytes = read_access(cpu, linear, size, X86_READ);
    if (bytes) {
        // One access of the operand's size: other processors may be writing it.
        switch (size) {
        case 1: v.value = *(const volatile uint8_t *)bytes; break;
        case 2: { typedef uint16_t u __attribute__((aligned(1), may_alias)); v.value = *(const volatile u *)bytes; break; }
        case 4: { typedef uint32_t u __attribute__((aligned(1), may_alias)); v.value = *(const volatile u *)bytes; break; }
        default: { typedef uint64_t u __attribute__((aligned(1), may_alias)); v.value = *(const volatile u *)bytes; break; }
        }
        v.ok = 1;
    }
    return v;
}

bool x86_read_linear(struct x86_cpu *cpu, uint64_t linear, void *bytes, unsigned size, unsigned access)
{
    for (unsigned done = 0; done < size;) {
        unsigned part = size - done < sizeof cpu->scratch ? size - done : (unsigned)sizeof cpu->scratch;
        const struct x86_tlb_entry *entry = x86_tlb_slot(access_tlb(cpu, access), linear + done);
        const void *from = X86_TLB_HIT(entry, read, linear + done, part)
            ? x86_tlb_host(entry, linear + done) : read_access(cpu, linear + done, part, access);
        if (!from)
            return false;
        memcpy((uint8_t *)bytes + done, from, part);
        done += part;
    }
    return true;
}

// ---- Writes ------------------------------------------------------------------------------------------------------

static void *write_access(struct x86_cpu *cpu, uint64_t linear, unsigned size, unsigned access)
{
    unsigned first = first_part(linear, size);
    if (!check_access(cpu, linear, size, access))
        return NULL;
    struct resolved r = resolve(cpu, linear, access);
    if (!r.ok)
        return NULL;
    cpu->scratch_state.size = (uint8_t)size;
    cpu->scratch_state.first = (uint8_t)first;
    cpu->scratch_state.host[0] = r.host;
    cpu->scratch_state.gpa = r.gpa;
    if (r.device) {
        if (first < size) {         // a device does not continue into the next page
            memory_exit(cpu, r.gpa, linear, X86_WRITE, true, true);
            return NULL;
        }
        if ((access & X86_READ) && !device_read(cpu, r.gpa, cpu->scratch, size))
            return NULL;
        cpu->scratch_state.pending = X86_PENDING_DEVICE;
        return cpu->scratch;
    }
    if (first == size) {
        if (x86_code_in_page(cpu, r.host))
            cpu->scratch_state.pending = X86_PENDING_CODE;
        return r.host;
    }
    struct resolved second = resolve(cpu, linear + first, access);
    if (!second.ok)
        return NULL;
    if (second.device) {
        memory_exit(cpu, second.gpa, linear + first, X86_WRITE, true, true);
        return NULL;
    }
    cpu->scratch_state.host[1] = second.host;
    if (access & X86_READ) {
        memcpy(cpu->scratch, r.host, first);
        memcpy(cpu->scratch + first, second.host, size - first);
    }
    cpu->scratch_state.pending = X86_PENDING_SPLIT;
    return cpu->scratch;
}

void *x86_write_slow(struct x86_cpu *cpu, uint64_t linear, unsigned size, unsigned access)
{
    return write_access(cpu, linear, size, access);
}

void x86_commit_slow(struct x86_cpu *cpu)
{
    unsigned first = cpu->scratch_state.first, size = cpu->scratch_state.size;
    unsigned pending = cpu->scratch_state.pending;
    cpu->scratch_state.pending = X86_PENDING_NONE;
    switch (pending) {
    case X86_PENDING_SPLIT:
        memcpy(cpu->scratch_state.host[0], cpu->scratch, first);
        memcpy(cpu->scratch_state.host[1], cpu->scratch + first, size - first);
        x86_code_written(cpu, cpu->scratch_state.host[0], first);
        x86_code_written(cpu, cpu->scratch_state.host[1], size - first);
        break;
    case X86_PENDING_CODE:
        x86_code_written(cpu, cpu->scratch_state.host[0], size);
        break;
    case X86_PENDING_DEVICE:
        for (unsigned done = 0; done < size;) {
            unsigned part = size - done < 8 ? size - done : 8;
            uint64_t value = 0;
            memcpy(&value, cpu->scratch + done, part);
            // The device has taken the write; an exit that it asks for comes behind the instruction.
            (void)cpu->bus->device_write(cpu, cpu->scratch_state.gpa + done, part, value);
            done += part;
        }
        if (cpu->leave_behind)
            x86_code_end_here(cpu);
        break;
    }
}

bool x86_store_slow(struct x86_cpu *cpu, uint64_t linear, unsigned size, uint64_t value)
{
    void *to = write_access(cpu, linear, size, X86_WRITE);
    if (!to)
        return false;
    switch (size) {
    case 1: *(volatile uint8_t *)to = (uint8_t)value; break;
    case 2: { typedef uint16_t u __attribute__((aligned(1), may_alias)); *(volatile u *)to = (uint16_t)value; break; }
    case 4: { typedef uint32_t u __attribute__((aligned(1), may_alias)); *(volatile u *)to = (uint32_t)value; break; }
    default: { typedef uint64_t u __attribute__((aligned(1), may_alias)); *(volatile u *)to = value; break; }
    }
    x86_commit(cpu);
    return true;
}

bool x86_write_linear(struct x86_cpu *cpu, uint64_t linear, const void *bytes, unsigned size, unsigned access)
{
    for (unsigned done = 0; done < size;) {
        unsigned part = size - done < sizeof cpu->scratch ? size - done : (unsigned)sizeof cpu->scratch;
        const struct x86_tlb_entry *entry = x86_tlb_slot(access_tlb(cpu, access), linear + done);
        void *to = X86_TLB_HIT(entry, write, linear + done, part)
            ? x86_tlb_host(entry, linear + done) : write_access(cpu, linear + done, part, access | X86_WRITE);
        if (!to)
            return false;
        memcpy(to, (const uint8_t *)bytes + done, part);
        x86_commit(cpu);
        done += part;
    }
    return true;
}
