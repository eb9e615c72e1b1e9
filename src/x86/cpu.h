// One x86-64 processor as the interpreter sees it: state, decoded instructions, and how they reach memory.
//
// Owns: the architectural state of a processor, the shape of a decoded instruction, the software TLB, the shape of
// a block. Knows nothing of partitions, WHP or threads: the platform behind the processor is `struct x86_bus`.
//
// How an instruction runs. A block is an array of `struct insn`; each has a handler `fn`. A handler does all its
// checks and memory accesses that can fault before it changes anything, then changes state, and continues with
// NEXT(cpu, i). To stop, it sets cpu->rip and cpu->leave (through the x86_leave_* and x86_raise functions) and returns
// NULL. Nothing jumps out: a fault is a value.
//
// Invariants:
//  - Inside a block cpu->rip is stale; RIP of instruction i is cpu->slot[X86_SLOT_RIP_PAGE] + i->page_offset.
//  - slot[X86_SLOT_ZERO] is always 0.
//  - slot[X86_SLOT_SEGMENT + s] is the only place that holds the base of segment s.
//  - `oszapc` holds the six arithmetic flags in host LAHF/SETO form; `rflags` holds all other flags and never these.
//  - A TLB tag equals a page's linear address only while that access is permitted without a further check.
#ifndef BULKHEAD_X86_CPU_H
#define BULKHEAD_X86_CPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/counts.h"

#define X86_LIKELY(x) __builtin_expect(!!(x), 1)
#define X86_UNLIKELY(x) __builtin_expect(!!(x), 0)

struct x86_cpu;
struct insn;
struct x86_block;

typedef const struct insn *(*insn_fn)(struct x86_cpu *cpu, const struct insn *i);

// Segment registers, in instruction encoding order, then the two system ones.
enum x86_segment_index { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_LDTR, X86_TR, X86_SEGMENTS };

enum x86_slot {             // 64-bit slots that an operand can name by byte offset
    X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSP, X86_RBP, X86_RSI, X86_RDI,
    X86_R8, X86_R9, X86_R10, X86_R11, X86_R12, X86_R13, X86_R14, X86_R15,
    X86_SLOT_ZERO,          // 0: "no base", "no index", "segment without a base"
    X86_SLOT_RIP_PAGE,      // RIP of the first byte of the page that the current block lies in
    X86_SLOT_SEGMENT,       // bases, indexed by enum x86_segment_index
    X86_SLOTS = X86_SLOT_SEGMENT + X86_SEGMENTS
};

// Attribute bits of a segment, as in WHV_X64_SEGMENT_REGISTER.Attributes (SDM vol. 3A 3.4.5, bits 40-55).
#define X86_SEG_TYPE 0x000f
#define X86_SEG_S 0x0010
#define X86_SEG_DPL_SHIFT 5
#define X86_SEG_DPL 0x0060
#define X86_SEG_P 0x0080
#define X86_SEG_AVL 0x1000
#define X86_SEG_L 0x2000
#define X86_SEG_DB 0x4000
#define X86_SEG_G 0x8000

struct x86_segment {        // the base is in cpu->slot[X86_SLOT_SEGMENT + index]
    uint32_t limit;         // in bytes, scaled
    uint16_t selector;
    uint16_t attributes;    // 0 for a null selector: not usable
};

struct x86_table { uint64_t base; uint16_t limit; };    // GDTR, IDTR

// RFLAGS
#define X86_CF 0x0001u
#define X86_PF 0x0004u
#define X86_AF 0x0010u
#define X86_ZF 0x0040u
#define X86_SF 0x0080u
#define X86_TF 0x0100u
#define X86_IF 0x0200u
#define X86_DF 0x0400u
#define X86_OF 0x0800u
#define X86_IOPL 0x3000u
#define X86_IOPL_SHIFT 12
#define X86_NT 0x4000u
#define X86_RF 0x10000u
#define X86_VM 0x20000u
#define X86_AC 0x40000u
#define X86_VIF 0x80000u
#define X86_VIP 0x100000u
#define X86_ID 0x200000u
#define X86_ARITHMETIC (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF)

// The same six in `oszapc`: AL from SETO, AH from LAHF.
#define X86_HOST_OF 0x0001u
#define X86_HOST_CF 0x0100u
#define X86_HOST_PF 0x0400u
#define X86_HOST_AF 0x1000u
#define X86_HOST_ZF 0x4000u
#define X86_HOST_SF 0x8000u

// Exception vectors (SDM vol. 3A 6.15)
enum x86_vector {
    X86_DE, X86_DB, X86_NMI, X86_BP, X86_OFV, X86_BR, X86_UD, X86_NM, X86_DF_FAULT, X86_CSO, X86_TS, X86_NP, X86_SSF,
    X86_GP, X86_PFV, X86_MF = 16, X86_AC_FAULT, X86_MC, X86_XM
};

enum x86_cr0 { X86_CR0_PE = 1u << 0, X86_CR0_MP = 1u << 1, X86_CR0_EM = 1u << 2, X86_CR0_TS = 1u << 3,
               X86_CR0_ET = 1u << 4, X86_CR0_NE = 1u << 5, X86_CR0_WP = 1u << 16, X86_CR0_AM = 1u << 18,
               X86_CR0_NW = 1u << 29, X86_CR0_CD = 1u << 30 };
#define X86_CR0_PG 0x80000000u
enum x86_cr4 { X86_CR4_VME = 1u << 0, X86_CR4_PVI = 1u << 1, X86_CR4_TSD = 1u << 2, X86_CR4_DE = 1u << 3,
               X86_CR4_PSE = 1u << 4, X86_CR4_PAE = 1u << 5, X86_CR4_MCE = 1u << 6, X86_CR4_PGE = 1u << 7,
               X86_CR4_PCE = 1u << 8, X86_CR4_OSFXSR = 1u << 9, X86_CR4_OSXMMEXCPT = 1u << 10,
               X86_CR4_UMIP = 1u << 11, X86_CR4_LA57 = 1u << 12, X86_CR4_FSGSBASE = 1u << 16,
               X86_CR4_PCIDE = 1u << 17, X86_CR4_OSXSAVE = 1u << 18, X86_CR4_SMEP = 1u << 20,
               X86_CR4_SMAP = 1u << 21 };
enum x86_efer { X86_EFER_SCE = 1u << 0, X86_EFER_LME = 1u << 8, X86_EFER_LMA = 1u << 10, X86_EFER_NXE = 1u << 11 };

// Mode bits: what a block's decoding depends on. Part of the key under which a block is found.
enum x86_mode {
    X86_MODE_CODE16 = 0, X86_MODE_CODE32 = 1, X86_MODE_CODE64 = 2, X86_MODE_CODE = 3,
    X86_MODE_STACK32 = 4,       // SS.B (implied in 64-bit mode)
    X86_MODE_FLAT = 8,          // 16/32-bit code: DS, ES and SS have base 0, 4 GiB limit, read/write
    X86_MODE_USER = 16,         // CPL 3
    X86_MODE_SINGLE = 32,       // one instruction per block: single step, interrupt shadow, breakpoints
    X86_MODE_PROTECTED = 64,    // CR0.PE and not virtual-8086
};

// ---- Decoded instructions ------------------------------------------------------------------------------------

// 32 bytes. Register operands are byte offsets into cpu->slot (so AH is offset 1), or an index where a handler says so.
struct insn {
    insn_fn fn;
    uint8_t dst;            // first register operand
    uint8_t src;            // second register operand
    uint8_t base;           // memory operand: slot[base] + (slot[index] << scale) + slot[segment] + disp
    uint8_t index;
    uint8_t segment;        // byte offset of the slot with the segment's base, or of X86_SLOT_ZERO
    uint8_t scale : 2;
    uint8_t mem : 6;        // enum insn_mem: 0 when the formula above is the linear address as it stands
    uint8_t length;         // bytes
    uint8_t size;           // operand size in bytes, where the handler is not made for one
    int32_t disp;           // displacement; of a direct branch: target minus the start of this instruction's page
    uint16_t page_offset;   // of the first byte, from the start of the page (4,096 and more never occurs)
    uint8_t number : 7;     // position in its block
    uint8_t stack : 1;      // its memory operand is on the stack: a bad address is #SS, not #GP
    uint8_t flags;          // enum insn_flags
    union {
        uint64_t imm;
        struct x86_block *chain;    // direct branches: the block they lead to, once known
    };
};
_Static_assert(sizeof(struct insn) == 32, "struct insn is laid out for two per cache line");

enum insn_mem {
    INSN_MEM_PLAIN = 0,
    INSN_MEM_ADDR16 = 1, INSN_MEM_ADDR32 = 2, INSN_MEM_ADDR64 = 3, INSN_MEM_ADDR = 3,    // address size to cut to
    INSN_MEM_CHECK = 4,         // segment limit and rights are to be checked; the segment is `segment`
    INSN_MEM_RIP_FAR = 8,       // RIP-relative, disp without the page offset and the length
    INSN_MEM_GENERAL = 16,      // set whenever any of the others is
};

enum insn_flags {
    INSN_LOCK = 1, INSN_REP = 2, INSN_REPNE = 4,
    INSN_ADDR16 = 8, INSN_ADDR32 = 16,      // address size below 64 bits (string instructions, LOOP, JCXZ)
    INSN_STACK16 = 32, INSN_STACK32 = 64,   // stack address size below 64 bits
    INSN_CODE64 = 128,
};

// A run of instructions that starts at one address and stays in one page (or is one instruction that leaves it).
struct x86_block {
    uint64_t generation;        // equals cpu->generation when its bytes were compared since; 0: dead
    const uint8_t *code;        // host address of its first byte
    struct x86_block *next;     // in the hash chain
    struct x86_block *page_next;    // in the list of blocks of the same code page
    uint32_t mode;
    uint16_t bytes;             // code bytes it was decoded from
    uint16_t page_offset;
    uint16_t count;             // instructions, without the end marker
    uint16_t reserved;
    const uint8_t *copy;        // the bytes it was decoded from
    struct insn insns[];
};

// ---- Memory ----------------------------------------------------------------------------------------------------

#define X86_PAGE_SIZE 4096u
#define X86_PAGE_MASK 0xfffull
#define X86_TLB_ENTRIES 2048u        // per set; a power of two
#define X86_JUMP_ENTRIES 2048u

enum x86_access { X86_READ = 1, X86_WRITE = 2, X86_EXECUTE = 4,
                  X86_IMPLICIT = 8 };    // a supervisor access whatever CPL is: descriptor tables, TSS

// TLB sets. User-mode, supervisor, and supervisor with user pages out of bounds (SMAP on and AC clear). The checked set
// never holds an entry, so that every access takes the slow path: alignment checks and data breakpoints live there, and it
// serves user mode and supervisor alike.
enum x86_tlb_set { X86_TLB_USER, X86_TLB_SUPERVISOR, X86_TLB_SMAP, X86_TLB_CHECKED, X86_TLB_SETS };

struct x86_tlb_entry {
    uint64_t read;          // X86_TLB_TAG of the page when a load may go straight to memory, else 0
    uint64_t write;         // the same for a store; never for a page that holds decoded code
    uint64_t execute;       // the same for a fetch
    uintptr_t host;         // host address of the page minus its linear address; bit 0: global
};
// The last byte of a page stands for it: never 0, so zeroed memory is an empty TLB.
#define X86_TLB_TAG(linear) ((linear) | X86_PAGE_MASK)

// Which entries were filled since the last flush, non-global and global ones, so that a flush need not visit all.
#define X86_TLB_LOG 1024u
struct x86_tlb_log { uint16_t count[2]; uint16_t index[2][X86_TLB_LOG]; };   // count above X86_TLB_LOG: too many

// The table that maps a region, with the rights of the levels above (paging.c). Current while `epoch` is cpu->tlb_epoch.
struct x86_walk_cache {
    uint64_t epoch, region, table;
    uint8_t *host;
    bool user, write, execute, plain;
};
#define X86_WALK_2M 256u        // powers of two
#define X86_WALK_1G 16u

enum x86_pending { X86_PENDING_NONE, X86_PENDING_SPLIT, X86_PENDING_DEVICE, X86_PENDING_CODE };

struct x86_jump_entry { uint64_t linear; uint64_t key; struct x86_block *block; uint64_t reserved; };

union x86_vec { uint8_t u8[32]; uint16_t u16[16]; uint32_t u32[8]; uint64_t u64[4]; int8_t s8[32]; int16_t s16[16];
                int32_t s32[8]; int64_t s64[4]; float f32[8]; double f64[4]; } __attribute__((aligned(32)));

struct x86_fpu {
    long double st[8];      // by physical register number; TOP is in `fsw`. MMX register n is the low 64 bits of st[n]
    uint16_t fcw, fsw, fop;
    uint8_t ftw;            // abridged: bit n set when physical register n is not empty (SDM vol. 1 10.5.1.1)
    uint16_t fcs, fds;
    uint64_t fip, fdp;
};

// ---- Leaving a block --------------------------------------------------------------------------------------------

// After so many PAUSEs in one go the run loop offers the host's core to others.
#define X86_SPINNING 32u

enum x86_leave {
    X86_LEAVE_LOOKUP,       // go on at cpu->rip: find the next block
    X86_LEAVE_EXCEPTION,    // deliver cpu->exception; RIP is on the instruction (after it for a trap)
    X86_LEAVE_EXIT,         // give cpu->exit to the platform; RIP is on the instruction unless said otherwise
    X86_LEAVE_HALT,         // HLT executed; RIP is after it
    X86_LEAVE_SHUTDOWN,     // triple fault
};

struct x86_exception {
    uint8_t vector;
    bool has_error;
    bool software;          // INT n, INT3, INTO, INT1: RIP to push is after the instruction
    bool privileged;        // INT1: software, and the gate's privilege is not checked
    uint8_t length;         // of that instruction, when cpu->rip is still on it
    uint32_t error;
    uint64_t address;       // #PF: the linear address for CR2; #DB: the bits to set in DR6
};

enum x86_exit_kind { X86_EXIT_PORT, X86_EXIT_MEMORY, X86_EXIT_CPUID, X86_EXIT_MSR, X86_EXIT_RDTSC, X86_EXIT_HYPERCALL,
                     X86_EXIT_EXCEPTION, X86_EXIT_APIC_EOI, X86_EXIT_APIC_WRITE, X86_EXIT_APIC_SMI, X86_EXIT_APIC_INIT_SIPI,
                     X86_EXIT_PLATFORM };

struct x86_exit {
    enum x86_exit_kind kind;
    uint8_t length;             // of the instruction
    union {
        struct { uint16_t port; uint8_t size; bool write, string, rep; } port;
        struct { uint64_t gpa, gva; uint8_t access; bool gva_valid, unmapped; } memory;    // access: enum x86_access
        struct { uint32_t msr; bool write; } msr;
        struct { bool rdtscp; } tsc;
        struct { uint32_t vector; } eoi;
        struct { uint64_t value; uint16_t offset; } apic;   // a write of the register at `offset`; of the ICR otherwise
    };
};

enum x86_answer { X86_DONE, X86_FAULT_GP, X86_ANSWER_EXIT };    // what the platform says to an instruction
// What the platform makes of an MSR before the processor has a look at it.
enum x86_msr_action { X86_MSR_ACCESS, X86_MSR_IGNORE, X86_MSR_EXIT };  // IGNORE: reads as 0, a write changes nothing

// A page of guest-physical memory as the platform has it.
struct x86_page {
    uint8_t *host;          // NULL: nothing there, or a device
    bool write, execute, read;
    bool device;            // the platform's own device: use device_read and device_write
    bool watched;           // the platform is told of writes (x86_bus.written)
    uint64_t first, size;   // the stretch that it is part of, one piece in the host too; size 0: nothing is said of it
};

// The platform behind the processor. All calls come from the thread that runs the processor.
struct x86_bus {
    void (*page)(struct x86_cpu *cpu, uint64_t gpa, struct x86_page *page);
    // The processor is about to write to a watched page. Not called again for what goes by the TLB entry
    // that this write leaves, until x86_forget_writes or a flush. NULL where no page is watched.
    void (*written)(struct x86_cpu *cpu, uint64_t gpa);
    // 1 to 8 bytes inside a device page; X86_ANSWER_EXIT: cpu->exit was filled.
    enum x86_answer (*device_read)(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t *value);
    enum x86_answer (*device_write)(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t value);
    // Where a linear address lies, in place of the page walk (the instruction emulator). NULL: the walk of paging.h.
    // Fault: false with cpu->exception or cpu->exit and cpu->leave set.
    bool (*translate)(struct x86_cpu *cpu, uint64_t linear, unsigned access, uint64_t *gpa);
    enum x86_answer (*cpuid)(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
    // The guest's RDMSR and WRMSR of any register, asked where cpu->msr_actions is set. EXIT: cpu->exit was filled.
    enum x86_msr_action (*msr_action)(struct x86_cpu *cpu, uint32_t msr, bool write);
    enum x86_answer (*read_msr)(struct x86_cpu *cpu, uint32_t msr, uint64_t *value);   // MSRs not in `struct x86_cpu`
    enum x86_answer (*write_msr)(struct x86_cpu *cpu, uint32_t msr, uint64_t value);
    enum x86_answer (*tsc)(struct x86_cpu *cpu, bool rdtscp, uint64_t *value);         // may ask for an exit
    uint64_t (*read_cr8)(struct x86_cpu *cpu);
    void (*write_cr8)(struct x86_cpu *cpu, uint64_t value);                            // 0 to 15
    enum x86_answer (*hypercall)(struct x86_cpu *cpu);                                 // VMCALL, VMMCALL
    // Asked before an exception is delivered: X86_DONE to deliver it, X86_ANSWER_EXIT to exit instead.
    enum x86_answer (*exception)(struct x86_cpu *cpu, const struct x86_exception *exception);
};

// ---- The processor ------------------------------------------------------------------------------------------------

struct x86_cpu {
    uint64_t slot[X86_SLOTS];               // first: operands are byte offsets from the start of the structure
    uint64_t rip;
    uint16_t oszapc;
    uint8_t cpl;
    uint8_t interrupt_shadow;               // 1 until the next instruction is done (STI, MOV SS, POP SS)
    uint8_t nmi_blocked;
    bool leave_on_if;                       // the platform has something to deliver as soon as RFLAGS.IF is set
    bool leave_behind;                      // set by the platform: come back to it right behind the current instruction
    enum x86_leave leave;
    uint32_t mode;                          // enum x86_mode, kept by x86_update_mode
    uint64_t rflags;                        // without the six arithmetic flags; bit 1 set
    int64_t budget;                         // instructions until the run loop looks at the clock
    uint32_t pauses;                        // PAUSEs since the run loop last looked: a spinning processor's mark
    int64_t surcharge;                      // what was taken from the budget for other things than instructions
    _Atomic uint64_t generation;            // any thread adds 1 to get attention and to have code compared again
    uint64_t jump_key;                      // what a jump entry must hold to be current: mode and TLB epoch
    struct x86_tlb_entry *tlb;              // the set for data accesses at the present CPL and AC
    const struct insn *chain_from;          // the direct branch that wants to be chained to the next block
    const struct insn *current;             // the last instruction that touched guest memory

    struct x86_segment segment[X86_SEGMENTS];
    struct x86_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
    uint64_t dr[4], dr6, dr7;
    uint8_t task_switches;                  // that are under way, each within the one before it
    uint8_t watch_hit;                      // data breakpoints that the instruction hit: bits for DR6
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux, pat;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t mtrr_cap, mtrr_def_type, mtrr_phys[16], mtrr_fixed[11], misc_enable;
    uint64_t pdpte[4];                      // loaded with CR3 in PAE paging

    union x86_vec vec[16];                  // XMM/YMM
    uint32_t mxcsr;
    struct x86_fpu fpu;

    struct x86_exception exception;         // for X86_LEAVE_EXCEPTION
    struct x86_exit exit;                   // for X86_LEAVE_EXIT

    uint64_t features[4];                   // enum x86_feature as a bit set: what CPUID shows and decoding allows
    uint8_t physical_bits;
    uint32_t apic_id, processor_count;      // what CPUID's topology leaves show
    const struct x86_bus *bus;
    bool msr_actions;                       // bus->msr_action is to be asked
    void *platform;                         // the bus's own

    uint8_t scratch[64] __attribute__((aligned(64)));     // stands in for memory that is split or not memory
    struct {                                // a store that x86_commit has to finish
        uint8_t pending;                    // enum x86_pending
        uint8_t size, first;                // bytes in all, and of them before the page's end
        uint8_t *host[2];
        uint64_t gpa;
    } scratch_state;

    uint64_t tlb_epoch;                     // starts at 1
    uint32_t tlb_filled;                    // a bit for each set that was filled since the last full flush
    // Entries are of 4 KiB whatever the page. For each half of the address space, a range that holds all larger pages that
    // entries came from since the last full flush; mask 0: none.
    struct { uint64_t base, mask; } large[2];
    struct x86_code *code;                  // the block cache (code.h)
    struct x86_counts counts;               // since the processor was made: no reset touches them
    struct x86_walk_cache walk_2m[X86_WALK_2M], walk_1g[X86_WALK_1G];
    struct x86_tlb_entry tlbs[X86_TLB_SETS][X86_TLB_ENTRIES] __attribute__((aligned(64)));
    struct x86_tlb_log tlb_log[X86_TLB_SETS];
    struct x86_jump_entry jumps[X86_JUMP_ENTRIES];
};

// ---- Operand access, for handlers ---------------------------------------------------------------------------------

// A slot is read and written in every width, so these types may alias.
typedef uint16_t x86_alias16 __attribute__((may_alias));
typedef uint32_t x86_alias32 __attribute__((may_alias));
typedef uint64_t x86_alias64 __attribute__((may_alias));
#define R8(offset) (*(uint8_t *)((uint8_t *)cpu->slot + (offset)))
#define R16(offset) (*(x86_alias16 *)((uint8_t *)cpu->slot + (offset)))
#define R32(offset) (*(x86_alias32 *)((uint8_t *)cpu->slot + (offset)))     // to write 32 bits use R64: it zero-extends
#define R64(offset) (*(x86_alias64 *)((uint8_t *)cpu->slot + (offset)))

// Continue with the next instruction. Optimised builds turn the call into a jump ("threaded code"); where the compiler
// can't promise that (no optimisation, sanitizers) the handler returns the next instruction to a loop.
#ifdef BULKHEAD_TRAMPOLINE
#define DISPATCH(cpu, to) return ((void)(cpu), (to))
#elif defined(__clang__)
#define DISPATCH(cpu, to)                                                                                             \
    do {                                                                                                              \
        const struct insn *next_ = (to);                                                                              \
        __attribute__((musttail)) return next_->fn(cpu, next_);                                                       \
    } while (0)
#else
#define DISPATCH(cpu, to) do { const struct insn *next_ = (to); return next_->fn(cpu, next_); } while (0)
#endif
#define NEXT(cpu, i) DISPATCH(cpu, (i) + 1)

static inline uint64_t x86_insn_rip(const struct x86_cpu *cpu, const struct insn *i)
{
    return cpu->slot[X86_SLOT_RIP_PAGE] + i->page_offset;
}

static inline uint64_t x86_insn_next_rip(const struct x86_cpu *cpu, const struct insn *i)
{
    return cpu->slot[X86_SLOT_RIP_PAGE] + i->page_offset + i->length;
}

// A RIP cut to the width of the code: an instruction pointer has no more bits there.
static inline uint64_t x86_cut_rip(const struct x86_cpu *cpu, uint64_t rip)
{
    if (cpu->mode & X86_MODE_CODE64)
        return rip;
    return rip & (cpu->mode & X86_MODE_CODE32 ? 0xffffffff : 0xffff);
}

// The linear address of the code at `rip`.
static inline uint64_t x86_code_linear(const struct x86_cpu *cpu, uint64_t rip)
{
    if (cpu->mode & X86_MODE_CODE64)
        return rip;
    return (rip + cpu->slot[X86_SLOT_SEGMENT + X86_CS]) & 0xffffffff;
}

// Effective address (the offset in the segment) of the memory operand, cut to the address size. For LEA and others
// that need the offset and not the linear address.
uint64_t x86_effective(const struct x86_cpu *cpu, const struct insn *i);

// Linear address of the memory operand where insn->mem is not 0. `access` and `size` are for the segment's limit and
// rights. Returns false with the exception recorded.
struct x86_address { uint64_t linear; uint64_t ok; };
struct x86_address x86_linear_general(struct x86_cpu *cpu, const struct insn *i, unsigned size, unsigned access);
// The same for any offset in any segment (string instructions, stack, far pointers).
struct x86_address x86_linear_segment(struct x86_cpu *cpu, unsigned segment, uint64_t offset, unsigned size,
                                      unsigned access);

// Slow paths: TLB miss, page crossing, device, code page. A NULL or false result means: fault or exit recorded in the
// cpu, and the handler must `return x86_leave_fault(cpu, i)`.
struct x86_value { uint64_t value; uint64_t ok; };
struct x86_value x86_load_slow(struct x86_cpu *cpu, uint64_t linear, unsigned size);
bool x86_store_slow(struct x86_cpu *cpu, uint64_t linear, unsigned size, uint64_t value);
// Up to 64 bytes. Read: the bytes. Write: where to put them. Both: read-modify-write. After writing call x86_commit.
const void *x86_read_slow(struct x86_cpu *cpu, uint64_t linear, unsigned size);
void *x86_write_slow(struct x86_cpu *cpu, uint64_t linear, unsigned size, unsigned access);
void x86_commit_slow(struct x86_cpu *cpu);

static inline struct x86_tlb_entry *x86_tlb_slot(struct x86_tlb_entry *set, uint64_t linear)
{
    return &set[(linear >> 12) & (X86_TLB_ENTRIES - 1)];
}

static inline void *x86_tlb_host(const struct x86_tlb_entry *entry, uint64_t linear)
{
    return (void *)((entry->host & ~(uintptr_t)1) + linear);
}

// True when `size` bytes at `linear` lie in the entry's page (a crossing access compares the next page, and misses).
#define X86_TLB_HIT(entry, kind, linear, size) (((entry)->kind) == X86_TLB_TAG((linear) + (size) - 1))

static inline const void *x86_read_pointer(struct x86_cpu *cpu, uint64_t linear, unsigned size)
{
    const struct x86_tlb_entry *entry = x86_tlb_slot(cpu->tlb, linear);
    if (X86_LIKELY(X86_TLB_HIT(entry, read, linear, size)))
        return x86_tlb_host(entry, linear);
    return x86_read_slow(cpu, linear, size);
}

// For stores and read-modify-write (access = X86_WRITE, or X86_READ | X86_WRITE). Follow with x86_commit.
static inline void *x86_write_pointer(struct x86_cpu *cpu, uint64_t linear, unsigned size, unsigned access)
{
    const struct x86_tlb_entry *entry = x86_tlb_slot(cpu->tlb, linear);
    if (X86_LIKELY(X86_TLB_HIT(entry, write, linear, size)))
        return x86_tlb_host(entry, linear);
    return x86_write_slow(cpu, linear, size, access);
}

static inline void x86_commit(struct x86_cpu *cpu)
{
    if (X86_UNLIKELY(cpu->scratch_state.pending))
        x86_commit_slow(cpu);
}

// Any number of bytes by linear address, for descriptor tables and the like; `access` may include X86_IMPLICIT. False: fault
// or exit recorded; a write that fails has changed nothing if it is 64 bytes or less.
bool x86_read_linear(struct x86_cpu *cpu, uint64_t linear, void *bytes, unsigned size, unsigned access);
bool x86_write_linear(struct x86_cpu *cpu, uint64_t linear, const void *bytes, unsigned size, unsigned access);

// Statement macros for handlers; they `return` from the handler on a fault.
#define ADDRESS(lin, size_, access_)                                                                                  \
    uint64_t lin;                                                                                                     \
    cpu->current = i;                                                                                                 \
    if (X86_LIKELY(i->mem == 0)) {                                                                                    \
        lin = R64(i->base) + (R64(i->index) << i->scale) + R64(i->segment) + (uint64_t)(int64_t)i->disp;              \
    } else {                                                                                                          \
        struct x86_address address_ = x86_linear_general(cpu, i, size_, access_);                                     \
        if (X86_UNLIKELY(!address_.ok))                                                                               \
            return x86_leave_fault(cpu, i);                                                                           \
        lin = address_.linear;                                                                                        \
    }

#define LOAD(type, var, lin)                                                                                          \
    type var;                                                                                                         \
    do {                                                                                                              \
        const struct x86_tlb_entry *entry_ = x86_tlb_slot(cpu->tlb, lin);                                             \
        if (X86_LIKELY(X86_TLB_HIT(entry_, read, lin, sizeof(type)))) {                                               \
            typedef type unaligned_ __attribute__((aligned(1), may_alias));                                           \
            var = *(const volatile unaligned_ *)x86_tlb_host(entry_, lin);                                            \
        } else {                                                                                                      \
            struct x86_value value_ = x86_load_slow(cpu, lin, sizeof(type));                                          \
            if (X86_UNLIKELY(!value_.ok))                                                                             \
                return x86_leave_fault(cpu, i);                                                                       \
            var = (type)value_.value;                                                                                 \
        }                                                                                                             \
    } while (0)

#define STORE(type, lin, value)                                                                                       \
    do {                                                                                                              \
        const struct x86_tlb_entry *entry_ = x86_tlb_slot(cpu->tlb, lin);                                             \
        if (X86_LIKELY(X86_TLB_HIT(entry_, write, lin, sizeof(type)))) {                                              \
            typedef type unaligned_ __attribute__((aligned(1), may_alias));                                           \
            *(volatile unaligned_ *)x86_tlb_host(entry_, lin) = (value);                                              \
        } else if (X86_UNLIKELY(!x86_store_slow(cpu, lin, sizeof(type), (value)))) {                                  \
            return x86_leave_fault(cpu, i);                                                                           \
        }                                                                                                             \
    } while (0)

// A pointer for read-modify-write; store through it, then x86_commit(cpu).
#define MODIFY(type, pointer, lin)                                                                                    \
    typedef type pointer##_type __attribute__((aligned(1), may_alias));                                               \
    volatile pointer##_type *pointer = x86_write_pointer(cpu, lin, sizeof(type), X86_READ | X86_WRITE);             \
    if (X86_UNLIKELY(!pointer))                                                                                       \
        return x86_leave_fault(cpu, i)

// ---- Leaving, for handlers -----------------------------------------------------------------------------------------

// The fault or exit is recorded already: put RIP on this instruction and leave.
const struct insn *x86_leave_fault(struct x86_cpu *cpu, const struct insn *i);
// Raise an exception with RIP on this instruction. `error` < 0: none.
const struct insn *x86_raise(struct x86_cpu *cpu, const struct insn *i, unsigned vector, int64_t error);
// Record an exception without leaving (for functions under a handler). Returns false, for `return x86_fault(...)`.
bool x86_fault(struct x86_cpu *cpu, unsigned vector, int64_t error);
// The instruction is done and changed more than registers and memory: go on after it by a fresh look-up.
const struct insn *x86_leave_done(struct x86_cpu *cpu, const struct insn *i);
// The instruction is done and set cpu->rip itself.
const struct insn *x86_leave_branch(struct x86_cpu *cpu, const struct insn *i);
// Leave with cpu->exit filled, RIP on this instruction.
const struct insn *x86_leave_exit(struct x86_cpu *cpu, const struct insn *i);

// ---- Whole-processor operations ------------------------------------------------------------------------------------

uint64_t x86_get_rflags(const struct x86_cpu *cpu);
void x86_set_rflags(struct x86_cpu *cpu, uint64_t rflags);      // all bits as given; bit 1 forced to 1

// Recompute mode, tlb set and jump key; after a change of CS, SS, DS, ES, CPL, CR0, CR4, EFER, or of TF, AC or VM in RFLAGS.
void x86_update_mode(struct x86_cpu *cpu);
void x86_flush_tlb(struct x86_cpu *cpu, bool global);           // global: also global pages
void x86_flush_page(struct x86_cpu *cpu, uint64_t linear);      // the page, whatever its size
// The next write to each watched page is told again. Between instructions.
void x86_forget_writes(struct x86_cpu *cpu);
void x86_note_large_page(struct x86_cpu *cpu, uint64_t linear, unsigned page_shift);
void x86_reset(struct x86_cpu *cpu);                            // power-up state (SDM vol. 3A 10.1.1)
void x86_init(struct x86_cpu *cpu);                             // INIT: MSRs, x87 and vectors stay as they are

#endif
