// The block cache and the loop that runs blocks.
#include "x86/code.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "x86/decode.h"
#include "x86/system.h"

#define ARENA_SIZE (96u << 20)
#define BUCKETS 65536u
#define PAGE_BUCKETS 8192u
#define MAX_INSNS 48u
#define CROSSING 64u

// A host page that blocks were decoded from. `lines` has a bit for each 64 bytes that some block covers.
struct code_page {
    const uint8_t *host;
    uint64_t lines;
    struct x86_block *blocks;
    struct code_page *next;
};

// An instruction that leaves its page. Its bytes are fetched and compared at each use, since either page may move.
struct crossing {
    uint64_t linear;
    uint32_t mode;
    uint8_t size;
    uint8_t bytes[16];
    struct insn insns[2];
};

struct x86_code {
    uint8_t *arena;
    size_t used;
    struct x86_block *buckets[BUCKETS];
    struct code_page *pages[PAGE_BUCKETS];
    struct crossing crossing[CROSSING];
};

struct x86_code *x86_code_new(void)
{
    struct x86_code *code = mmap(NULL, sizeof *code, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        return NULL;
    code->arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (code->arena == MAP_FAILED) {
        munmap(code, sizeof *code);
        return NULL;
    }
    return code;
}

void x86_code_free(struct x86_code *code)
{
    if (!code)
        return;
    munmap(code->arena, ARENA_SIZE);
    munmap(code, sizeof *code);
}

void x86_code_drop(struct x86_cpu *cpu)
{
    struct x86_code *code = cpu->code;
    code->used = 0;
    memset(code->buckets, 0, sizeof code->buckets);
    memset(code->pages, 0, sizeof code->pages);
    memset(cpu->jumps, 0, sizeof cpu->jumps);       // key 0 is never current: epochs start at 1
    cpu->chain_from = NULL;
    cpu->current = NULL;
}

static void *arena_take(struct x86_code *code, size_t size)
{
    size = (size + 31) & ~(size_t)31;
    if (ARENA_SIZE - code->used < size)
        return NULL;
    void *p = code->arena + code->used;
    code->used += size;
    return p;
}

static unsigned hash_code(const uint8_t *host, uint32_t mode)
{
    uint64_t h = ((uintptr_t)host ^ (uint64_t)mode << 40) * 0x9e3779b97f4a7c15ull;
    return (unsigned)(h >> 48) & (BUCKETS - 1);
}

static const uint8_t *page_of(const uint8_t *host) { return (const uint8_t *)((uintptr_t)host & ~(uintptr_t)X86_PAGE_MASK); }

static struct code_page **page_bucket(struct x86_code *code, const uint8_t *page)
{
    return &code->pages[((uintptr_t)page >> 12) * 0x9e3779b1u >> 7 & (PAGE_BUCKETS - 1)];
}

static struct code_page *page_find(const struct x86_code *code, const uint8_t *host)
{
    const uint8_t *page = page_of(host);
    struct code_page *p = *page_bucket((struct x86_code *)code, page);
    while (p && p->host != page)
        p = p->next;
    return p;
}

bool x86_code_in_page(const struct x86_cpu *cpu, const uint8_t *host)
{
    const struct code_page *page = cpu->code ? page_find(cpu->code, host) : NULL;
    return page && page->lines;
}

// Stores to this page must be seen from now on.
static void page_watch(struct x86_cpu *cpu, const uint8_t *page)
{
    for (unsigned set = 0; set < X86_TLB_SETS; set++)
        for (unsigned n = 0; n < X86_TLB_ENTRIES; n++) {
            struct x86_tlb_entry *entry = &cpu->tlbs[set][n];
            if (entry->write && x86_tlb_host(entry, entry->write & ~X86_PAGE_MASK) == page)
                entry->write = 0;
        }
}

static uint64_t line_bits(unsigned offset, unsigned size)
{
    unsigned first = offset / 64, last = (offset + size - 1) / 64;
    return (~0ull << first) & (~0ull >> (63 - last));
}

// ---- Death of a block --------------------------------------------------------------------------------------------

static const struct insn *op_dead(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->rip = x86_cut_rip(cpu, x86_insn_rip(cpu, i));
    cpu->budget -= i->number;
    cpu->leave = X86_LEAVE_LOOKUP;
    return NULL;
}

// What follows in the block leads back to the look-up, now and whenever the block is run again; rare enough for that. An
// instruction that ends its block is left by the look-up or by a jump, and those look at the generation.
void x86_code_end_here(struct x86_cpu *cpu)
{
    struct insn *current = (struct insn *)cpu->current;
    if (current)        // otherwise an event is being delivered, by the run loop itself
        current[1].fn = op_dead;
    atomic_fetch_add(&cpu->generation, 1);
}

static void block_kill(struct x86_code *code, struct x86_block *block)
{
    block->generation = 0;
    for (unsigned n = 0; n <= block->count; n++)
        block->insns[n].fn = op_dead;
    struct x86_block **link = &code->buckets[hash_code(block->code, block->mode)];
    while (*link && *link != block)
        link = &(*link)->next;
    if (*link)
        *link = block->next;
}

void x86_code_written(struct x86_cpu *cpu, const uint8_t *host, unsigned size)
{
    struct code_page *page = cpu->code ? page_find(cpu->code, host) : NULL;
    unsigned offset = (uintptr_t)host & X86_PAGE_MASK;
    if (!page || !(page->lines & line_bits(offset, size)))
        return;
    uint64_t lines = 0;
    for (struct x86_block **link = &page->blocks; *link;) {
        struct x86_block *block = *link;
        if (block->generation == 0 || (block->code < host + size && host < block->code + block->bytes)) {
            *link = block->page_next;
            if (block->generation)
                block_kill(cpu->code, block);
        } else {
            lines |= line_bits(block->page_offset, block->bytes);
            link = &block->page_next;
        }
    }
    page->lines = lines;
}

// ---- Making blocks -----------------------------------------------------------------------------------------------

// The end of a block that no jump ends: go on at the next instruction.
static const struct insn *op_block_end(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->budget -= i->number;
    struct x86_block *next = i->chain;
    if (X86_LIKELY(next && next->generation == cpu->generation && cpu->budget >= 0))
        DISPATCH(cpu, next->insns);
    if (i->page_offset < X86_PAGE_SIZE) {
        cpu->rip = x86_insn_rip(cpu, i);
        cpu->leave = X86_LEAVE_LOOKUP;
        cpu->chain_from = i;
        return NULL;
    }
    if (cpu->mode & X86_MODE_CODE64) {
        const struct insn *target = x86_jump64(cpu, x86_insn_rip(cpu, i));
        if (target)
            DISPATCH(cpu, target);
        return NULL;
    }
    cpu->rip = x86_cut_rip(cpu, x86_insn_rip(cpu, i));
    cpu->leave = X86_LEAVE_LOOKUP;
    return NULL;
}

static void emit_end(struct insn *insn, unsigned page_offset, unsigned number)
{
    *insn = (struct insn){ .fn = op_block_end, .page_offset = (uint16_t)page_offset, .number = number };
}

static bool page_register(struct x86_cpu *cpu, struct x86_block *block)
{
    const uint8_t *host = page_of(block->code);
    struct code_page *page = page_find(cpu->code, host);
    if (!page) {
        page = arena_take(cpu->code, sizeof *page);
        if (!page)
            return false;
        struct code_page **bucket = page_bucket(cpu->code, host);
        *page = (struct code_page){ .host = host, .next = *bucket };
        *bucket = page;
    }
    if (!page->lines)
        page_watch(cpu, host);
    page->lines |= line_bits(block->page_offset, block->bytes);
    block->page_next = page->blocks;
    page->blocks = block;
    return true;
}

// Decode a block that starts at `host`. NULL: its first instruction leaves the page, or the arena is full (*full).
static struct x86_block *block_make(struct x86_cpu *cpu, const uint8_t *host, bool *full)
{
    struct x86_code *code = cpu->code;
    unsigned offset = (uintptr_t)host & X86_PAGE_MASK;
    unsigned left = X86_PAGE_SIZE - offset;
    unsigned limit = cpu->mode & X86_MODE_SINGLE ? 1 : MAX_INSNS;
    struct x86_block *block = NULL;
    size_t most = sizeof *block + (limit + 1) * sizeof(struct insn) + limit * 15 + 64 + sizeof(struct code_page);
    *full = ARENA_SIZE - code->used < most;
    if (*full)
        return NULL;
    block = (struct x86_block *)(code->arena + code->used);     // taken for good when its length is known

    unsigned count = 0, bytes = 0;
    uint8_t snapshot[MAX_INSNS * 15 + 16];
    size_t copied = left < sizeof snapshot ? left : sizeof snapshot;
    memcpy(snapshot, host, copied);     // decode what is then kept: another processor may be writing here
    bool ended = false;
    while (count < limit && bytes < copied && !ended) {
        struct insn *insn = &block->insns[count];
        switch (x86_decode(cpu, cpu->mode, snapshot + bytes, copied - bytes, offset + bytes, count, insn)) {
        case X86_DECODE_TRUNCATED:
            ended = true;
            continue;
        case X86_DECODE_OK:
            break;
        case X86_DECODE_END:
        case X86_DECODE_INVALID:
            ended = true;
            break;
        }
        bytes += insn->length;
        count++;
    }
    if (!count)
        return NULL;
    if (bytes > copied)
        bytes = (unsigned)copied;
    emit_end(&block->insns[count], offset + bytes, count);
    size_t size = sizeof *block + (count + 1) * sizeof(struct insn);
    arena_take(code, size);
    uint8_t *copy = arena_take(code, bytes);
    memcpy(copy, snapshot, bytes);
    block->generation = cpu->generation;
    block->code = host;
    block->copy = copy;
    block->mode = cpu->mode;
    block->bytes = (uint16_t)bytes;
    block->page_offset = (uint16_t)offset;
    block->count = (uint16_t)count;
    struct x86_block **bucket = &code->buckets[hash_code(host, cpu->mode)];
    block->next = *bucket;
    *bucket = block;
    if (!page_register(cpu, block)) {
        *full = true;
        return NULL;
    }
    return block;
}

static const struct insn *crossing_enter(struct x86_cpu *cpu, uint64_t linear, const uint8_t *host)
{
    struct crossing *c = &cpu->code->crossing[(linear >> 12) & (CROSSING - 1)];
    uint8_t bytes[16] = { 0 };
    unsigned first = X86_PAGE_SIZE - (unsigned)(linear & X86_PAGE_MASK);
    memcpy(bytes, host, first);
    const uint8_t *second = x86_fetch_pointer(cpu, linear + first);
    if (!second)
        return NULL;
    memcpy(bytes + first, second, 15 - first);
    if (c->linear != linear || c->mode != cpu->mode || c->size == 0 || memcmp(bytes, c->bytes, c->size)) {
        c->size = 0;
        x86_decode(cpu, cpu->mode, bytes, 15, linear & X86_PAGE_MASK, 0, &c->insns[0]);
        emit_end(&c->insns[1], (unsigned)(linear & X86_PAGE_MASK) + c->insns[0].length, 1);
        c->linear = linear;
        c->mode = cpu->mode;
        memcpy(c->bytes, bytes, sizeof bytes);
        c->size = 15;
    }
    cpu->slot[X86_SLOT_RIP_PAGE] = cpu->rip - (linear & X86_PAGE_MASK);
    return c->insns;
}

// ---- Entering blocks ---------------------------------------------------------------------------------------------

// memcmp for sizes at which a call costs more than the comparison.
static inline bool same_bytes(const uint8_t *a, const uint8_t *b, unsigned size)
{
    typedef uint64_t word __attribute__((aligned(1), may_alias));
    if (size < sizeof(word))
        return !memcmp(a, b, size);
    uint64_t difference = *(const word *)(a + size - sizeof(word)) ^ *(const word *)(b + size - sizeof(word));
    for (unsigned n = 0; n + sizeof(word) < size; n += sizeof(word))
        difference |= *(const word *)(a + n) ^ *(const word *)(b + n);
    return difference == 0;
}

// Compare a block with memory if that was not done since the last serialising event. False: it is dead now.
static inline bool block_verify(struct x86_cpu *cpu, struct x86_block *block)
{
    uint64_t generation = atomic_load_explicit(&cpu->generation, memory_order_relaxed);
    if (X86_LIKELY(block->generation == generation))
        return true;
    if (block->generation == 0)
        return false;
    if (same_bytes(block->copy, block->code, block->bytes)) {
        block->generation = generation;
        return true;
    }
    x86_code_written(cpu, block->code, block->bytes);
    return false;
}

static struct x86_block *block_find(struct x86_cpu *cpu, const uint8_t *host)
{
    struct x86_block *block = cpu->code->buckets[hash_code(host, cpu->mode)];
    while (block && (block->code != host || block->mode != cpu->mode))
        block = block->next;
    return block && block_verify(cpu, block) ? block : NULL;
}

const struct insn *x86_code_enter(struct x86_cpu *cpu)
{
    uint64_t linear = x86_code_linear(cpu, cpu->rip);
    const struct insn *from = cpu->chain_from;
    cpu->chain_from = NULL;
    cpu->current = NULL;        // should the code's page be gone, RIP is right as it is
    if (!(cpu->mode & X86_MODE_CODE64) && cpu->rip > cpu->segment[X86_CS].limit) {
        x86_fault(cpu, X86_GP, 0);
        return NULL;
    }
    struct x86_jump_entry *entry = x86_jump_slot(cpu, linear);
    struct x86_block *block = NULL;
    if (entry->linear == linear && entry->key == cpu->jump_key && block_verify(cpu, entry->block))
        block = entry->block;
    if (!block) {
        const uint8_t *host = x86_fetch_pointer(cpu, linear);
        if (!host)
            return NULL;
        block = block_find(cpu, host);
        if (!block) {
            bool full;
            block = block_make(cpu, host, &full);
            if (full) {
                x86_code_drop(cpu);
                from = NULL;
                block = block_make(cpu, host, &full);
            }
            if (!block)
                return crossing_enter(cpu, linear, host);
        }
        if (!(cpu->mode & X86_MODE_SINGLE))
            *entry = (struct x86_jump_entry){ .linear = linear, .key = cpu->jump_key, .block = block };
    }
    if (from && !(cpu->mode & X86_MODE_SINGLE))
        ((struct insn *)from)->chain = block;
    cpu->slot[X86_SLOT_RIP_PAGE] = cpu->rip - block->page_offset;
    return block->insns;
}

enum x86_leave x86_run(struct x86_cpu *cpu, uint64_t generation)
{
    bool single = cpu->mode & X86_MODE_SINGLE;     // a single-stepped POPF may end its own mode, but not its trap
    cpu->chain_from = NULL;
    cpu->leave_behind = false;
    cpu->task_switches = 0;     // one that was cut off by memory that is gone does not count
    do {
        cpu->leave = X86_LEAVE_LOOKUP;
        const struct insn *i = x86_code_enter(cpu);
        if (X86_UNLIKELY(cpu->generation != generation)) {
            // Kicked before the block was compared: it is current, and a loop in it would use up the budget.
            cpu->surcharge += cpu->budget;
            cpu->budget = 0;
        }
        while (i)
            i = i->fn(cpu, i);
        if (cpu->leave != X86_LEAVE_LOOKUP)
            return cpu->leave;
    } while (cpu->budget >= 0 && cpu->generation == generation && !single && !(cpu->mode & X86_MODE_SINGLE)
             && !cpu->leave_behind && !(cpu->leave_on_if && (cpu->rflags & X86_IF)));
    return X86_LEAVE_LOOKUP;
}
