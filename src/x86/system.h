// The privileged side of the processor: segments, exceptions, paging, control registers, MSRs, CPUID.
//
// Functions that can fault return false with cpu->exception or cpu->exit and cpu->leave recorded (x86_fault),
// and have changed nothing then. They work on cpu->rip, not on a block's instruction: the caller puts RIP
// where it belongs first.
#ifndef BULKHEAD_X86_SYSTEM_H
#define BULKHEAD_X86_SYSTEM_H

#include "x86/cpu.h"

// Deliver cpu->exception through the IDT (or IVT): double and triple faults are worked out here. Asks
// bus->exception first for processor-generated ones. Result: X86_LEAVE_LOOKUP, X86_LEAVE_EXIT or
// X86_LEAVE_SHUTDOWN. With X86_LEAVE_EXIT from a memory access during delivery, cpu->exception is kept so
// that the delivery can be run again.
enum x86_leave x86_deliver_exception(struct x86_cpu *cpu);
// Deliver an external interrupt or an NMI (vector 2), or an event injected by the platform. The same results.
enum x86_leave x86_deliver_event(struct x86_cpu *cpu, const struct x86_exception *event, bool external);

// Descriptor loads (SDM vol. 3A 3.4, 5.x). `x86_load_segment`: MOV/POP/LxS to ES, SS, DS, FS, GS with all
// checks.
bool x86_load_segment(struct x86_cpu *cpu, unsigned segment, uint16_t selector);
bool x86_load_ldtr(struct x86_cpu *cpu, uint16_t selector);
bool x86_load_tr(struct x86_cpu *cpu, uint16_t selector);
// Far control transfers; `next_rip` is the address after the instruction (a call's return address). Operand
// size in bytes.
bool x86_far_jump(struct x86_cpu *cpu, uint16_t selector, uint64_t offset, unsigned size, bool call,
                  uint64_t next_rip);
bool x86_far_return(struct x86_cpu *cpu, unsigned size, unsigned release);
bool x86_interrupt_return(struct x86_cpu *cpu, unsigned size, uint64_t next_rip);

// Stack accesses of the current mode (stack size from SS.B or 64-bit), for everything that is not a hot path.
bool x86_push(struct x86_cpu *cpu, unsigned size, uint64_t value);
bool x86_pop(struct x86_cpu *cpu, unsigned size, uint64_t *value);

// Paging (SDM vol. 3A 4). The walk reads and marks entries through bus->page.
struct x86_translation {
    uint64_t gpa;               // of the address itself
    uint8_t page_shift;         // 12, 21, 22 or 30
    bool user, write, execute, global, dirty;   // what the walk found, all levels taken together
};
enum x86_walk_flags { X86_WALK_MARK = 1,        // set accessed, and dirty for a write
                      X86_WALK_IGNORE_RIGHTS = 2,
                      X86_WALK_UNCACHED = 4 };  // read every table, whatever was remembered of earlier walks
// True: translated and permitted. False: *error holds the #PF error code, or *gpa_missing the table's address
// that is not backed by memory (then *error is meaningless). missing_write: the table is there, but its
// memory does not take the accessed or dirty bit.
struct x86_walk_result { bool ok; bool missing, missing_write; uint64_t missing_gpa; uint32_t error;
                         struct x86_translation t; };
struct x86_walk_result x86_walk(struct x86_cpu *cpu, uint64_t linear, unsigned access, unsigned flags);
// PAE paging: read the four entries that `cr3` points to into cpu->pdpte. False: #GP or an exit, nothing
// changed.
bool x86_load_pdptes(struct x86_cpu *cpu, uint64_t cr3);

// May this processor use the port, by IOPL and the TSS's bit map? False: #GP (or a fault of reading the map)
// recorded.
bool x86_io_permitted(struct x86_cpu *cpu, uint16_t port, unsigned size);

// After a serialising instruction code is compared with memory again (SDM vol. 3A 9.3).
static inline void x86_serialize(struct x86_cpu *cpu)
{
    atomic_fetch_add_explicit(&cpu->generation, 1, memory_order_relaxed);
}

static inline bool x86_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

// Control registers and MSRs with the checks of MOV and WRMSR (#GP as false). The platform's own go through
// the bus.
bool x86_write_cr(struct x86_cpu *cpu, unsigned number, uint64_t value);
// MOV from and to debug registers with all their checks (#UD, #GP, #DB by DR7.GD).
bool x86_read_dr(struct x86_cpu *cpu, unsigned number, uint64_t *value);
bool x86_write_dr(struct x86_cpu *cpu, unsigned number, uint64_t value);
uint64_t x86_efer_allowed(const struct x86_cpu *cpu);       // the bits of EFER that its features give it
enum x86_answer x86_read_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t *value);
enum x86_answer x86_write_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t value);
// State that was set from outside, before the processor runs with it: derives EFER.LMA, CPL, PDPTEs and the
// mode from the rest and drops all translations.
void x86_settle_state(struct x86_cpu *cpu);
// True when CR0, CR4, EFER, RFLAGS, RIP and the segments go together (SDM vol. 3C 27.3.1). Ask after
// x86_settle_state. Bits of CR4 and XCR0 that are not looked at: what somebody else's processor has beyond this one.
bool x86_state_valid(const struct x86_cpu *cpu, uint64_t other_cr4, uint64_t other_xcr0);

// CPUID as the processor itself answers, from features.def and the leaf table.
void x86_cpuid(const struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
// All features that this engine implements: what a processor starts with.
void x86_default_features(uint64_t features[4]);

#endif
