// One processor's local APIC, xAPIC and x2APIC: registers, priorities, messages, timer (SDM vol. 3A 11).
//
// A model and nothing else: it starts no thread, takes no lock and knows no processor. What an access asks of
// the world comes back in `struct lapic_effects`, and the caller acts on it.
//
// Threads: "any thread" functions use atomics alone. All the others are for the owner: the thread that runs
// the processor, or another one while the processor is stopped.
#ifndef BULKHEAD_LAPIC_H
#define BULKHEAD_LAPIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/soft/apic_timer.h"

#define LAPIC_DEFAULT_BASE 0xFEE00000u
#define LAPIC_VERSION 0x50014u          // version 0x14, six LVT entries, no suppression of EOI broadcasts
#define LAPIC_PAGE_SIZE 4096u
#define LAPIC_BASE_BSP (1u << 8)        // IA32_APIC_BASE
#define LAPIC_BASE_X2APIC (1u << 10)
#define LAPIC_BASE_ENABLE (1u << 11)

#define LAPIC_MSR_BASE 0x1Bu
#define LAPIC_MSR_TSC_DEADLINE 0x6E0u
#define LAPIC_MSR_X2APIC_FIRST 0x800u
#define LAPIC_MSR_X2APIC_LAST 0x8FFu

#define LAPIC_NO_SENDER UINT32_MAX      // the message comes from a device
#define LAPIC_BROADCAST UINT32_MAX      // as a message's destination

// Offsets in the register page; the x2APIC MSR is 0x800 + offset / 16 (SDM vol. 3A 11.4.1, 11.12.1.2).
enum lapic_offset {
    LAPIC_ID = 0x020, LAPIC_VERSION_REGISTER = 0x030, LAPIC_TPR = 0x080, LAPIC_APR = 0x090, LAPIC_PPR = 0x0A0,
    LAPIC_EOI = 0x0B0, LAPIC_RRD = 0x0C0, LAPIC_LDR = 0x0D0, LAPIC_DFR = 0x0E0, LAPIC_SVR = 0x0F0,
    LAPIC_ISR = 0x100, LAPIC_TMR = 0x180, LAPIC_IRR = 0x200, LAPIC_ESR = 0x280, LAPIC_ICR = 0x300,
    LAPIC_ICR_HIGH = 0x310, LAPIC_LVT_TIMER = 0x320, LAPIC_LVT_THERMAL = 0x330, LAPIC_LVT_PERFORMANCE = 0x340,
    LAPIC_LVT_LINT0 = 0x350, LAPIC_LVT_LINT1 = 0x360, LAPIC_LVT_ERROR = 0x370, LAPIC_INITIAL_COUNT = 0x380,
    LAPIC_CURRENT_COUNT = 0x390, LAPIC_DIVIDE = 0x3E0, LAPIC_SELF_IPI = 0x3F0,
};

// Bits of the error status register (SDM vol. 3A 11.5.3).
enum lapic_error {
    LAPIC_ERROR_SEND_VECTOR = 1u << 5,
    LAPIC_ERROR_RECEIVE_VECTOR = 1u << 6,
    LAPIC_ERROR_REGISTER = 1u << 7,
};

enum lapic_delivery {       // the encoding of the ICR and of message-signalled interrupts
    LAPIC_FIXED = 0,
    LAPIC_LOWEST_PRIORITY = 1,
    LAPIC_SMI = 2,
    LAPIC_REMOTE_READ = 3,
    LAPIC_NMI = 4,
    LAPIC_INIT = 5,
    LAPIC_SIPI = 6,
    LAPIC_EXTINT = 7,
};

enum lapic_shorthand { LAPIC_NO_SHORTHAND, LAPIC_SELF, LAPIC_ALL, LAPIC_ALL_BUT_SELF };

struct lapic_message {
    uint32_t destination;
    bool logical;
    bool level;                     // level triggered: its EOI is to be reported
    uint8_t vector;
    enum lapic_delivery mode;
    enum lapic_shorthand shorthand;
};

enum lapic_result {
    LAPIC_OK,
    LAPIC_FAULT,                    // #GP(0); nothing was changed
};

// What a write asks of the caller.
struct lapic_effects {
    uint16_t written;               // offset of the register that has taken the write; 0: none
    bool eoi;                       // a level-triggered interrupt has ended: eoi_vector
    uint8_t eoi_vector;
    bool ipi;                       // lapic_route `message`, this lapic among the others
    bool remote_read;               // lapic_remote_read by `message`
    bool self_ipi;                  // a message to itself, delivered already
    bool interrupts;                // lapic_pending may answer differently now
    bool timer;                     // lapic_timer_deadline may answer differently now
    bool base;                      // mode or base address may have changed
    struct lapic_message message;
};

struct lapic_config {
    uint32_t id;                    // the initial APIC ID, for good; not LAPIC_BROADCAST
    bool bsp;
    bool x2apic;                    // the guest may enter x2APIC mode
    bool tsc_deadline;              // the timer has that mode
    bool remote_read;               // the delivery mode exists (APM vol. 2 16.5)
    uint8_t physical_width;         // bits of a physical address
    uint64_t bus_hz;                // the timer's input, 200 MHz on WHP
    uint64_t tsc_hz;
};

struct lapic {
    struct lapic_config config;

    // Any thread. `attention` says in one word whether there is anything to do: see lapic_quiet.
    _Atomic uint32_t attention;
    _Atomic uint32_t irr[8];
    _Atomic uint32_t tmr[8];
    _Atomic uint32_t errors;        // since the last write of ESR

    // Written by the owner, read by any thread that routes a message.
    _Atomic uint64_t base;          // IA32_APIC_BASE
    _Atomic uint32_t reg[64];       // the plainly stored registers, by offset / 16
    _Atomic uint8_t ppr;            // follows from TPR and ISR
    _Atomic uint32_t isr[8];

    // Owner; of the timer any thread reads what apic_timer_look does.
    struct apic_timer timer;
};

// Power-up state: enabled in xAPIC mode, software-disabled, nothing pending.
void lapic_init(struct lapic *l, const struct lapic_config *config);
// INIT: as power-up, but base, mode and pending NMI and SIPI stay (SDM vol. 3A 11.4.7.3, 11.12.5.1).
void lapic_reset_init(struct lapic *l);

// IA32_APIC_BASE. Any thread.
static inline uint64_t lapic_get_base(const struct lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed);
}

static inline bool lapic_enabled(const struct lapic *l)
{
    return lapic_get_base(l) & LAPIC_BASE_ENABLE;
}

static inline bool lapic_x2apic(const struct lapic *l)
{
    return lapic_get_base(l) & LAPIC_BASE_X2APIC;
}

// Whether the page at lapic_mmio_base is the APIC's and not memory. Owner.
static inline bool lapic_mmio_enabled(const struct lapic *l)
{
    return lapic_enabled(l) && !lapic_x2apic(l);
}

static inline uint64_t lapic_mmio_base(const struct lapic *l)
{
    return lapic_get_base(l) & ~(uint64_t)(LAPIC_PAGE_SIZE - 1);
}

// Nothing requested at all, neither vector nor NMI, INIT, SIPI: one load for the common case. Any thread.
static inline bool lapic_quiet(const struct lapic *l)
{
    return atomic_load_explicit(&l->attention, memory_order_acquire) == 0;
}

// --- Messages ---

// Whether the message's destination includes this APIC. Any thread. `sender` is the sending processor's APIC
// ID. A lowest-priority message is accepted by all candidates: lapic_lowest_priority picks one.
bool lapic_accepts(const struct lapic *l, const struct lapic_message *m, uint32_t sender);
// Deliver without looking at the destination. Any thread. True: the processor has something new to look at. A
// software-disabled APIC drops all but NMI, INIT and SIPI; SMI and ExtINT are dropped always.
bool lapic_deliver(struct lapic *l, const struct lapic_message *m);
// Assert LINT0 or LINT1 (`pin` 0 or 1), as the LVT says. Any thread. True as above. ExtINT is not ours:
// false.
bool lapic_local_interrupt(struct lapic *l, unsigned pin);
// Which of the candidates takes a lowest-priority message: the index of the enabled one with the lowest
// processor priority, the first among equals; -1 if none is enabled. NULLs are passed over. Any thread.
int lapic_lowest_priority(struct lapic *const *candidates, unsigned count);
// The whole way of a message: to each of the at most 64 lapics that accepts it, or to the one of them with
// the lowest priority. NULLs are passed over. Bit i of the result: lapics[i] has something new to look at.
// Any thread.
uint64_t lapic_route(struct lapic *const *lapics, unsigned count, const struct lapic_message *m,
                     uint32_t sender);

// What a remote read asks for (APM vol. 2 16.5): the register whose offset / 16 is the message's vector, from
// the first of the lapics that accepts it, into `l`'s remote read register; its ICR tells whether there is one.
// NULLs are passed over. `l` is the owner's, the others may be in use.
void lapic_remote_read(struct lapic *l, struct lapic *const *lapics, unsigned count,
                       const struct lapic_message *m, struct lapic_time now);

// --- The processor's side ---

// The highest vector whose priority class is above the processor's, or -1.
int lapic_pending(const struct lapic *l);
// The processor takes `vector`, which lapic_pending has just named: IRR to ISR.
void lapic_accept(struct lapic *l, uint8_t vector);
uint64_t lapic_get_cr8(const struct lapic *l);
// `value` is at most 15. lapic_pending may answer differently then.
void lapic_set_cr8(struct lapic *l, uint64_t value);

// Take a latched event. A SIPI that comes before INIT is forgotten by INIT; one that comes after it stays.
// The caller drops a SIPI that it takes while the processor is not waiting for one.
bool lapic_take_nmi(struct lapic *l);
bool lapic_take_init(struct lapic *l);
int lapic_take_sipi(struct lapic *l);       // the vector, or -1

// --- The guest's accesses ---

// 32-bit accesses to the register page, `offset` below LAPIC_PAGE_SIZE and a multiple of 4; xAPIC mode alone.
// What is between the registers reads as 0 and ignores writes. A register that does not exist is logged in
// ESR.
uint32_t lapic_mmio_read(struct lapic *l, uint32_t offset, struct lapic_time now);
void lapic_mmio_write(struct lapic *l, uint32_t offset, uint32_t value, struct lapic_time now,
                      struct lapic_effects *effects);

static inline bool lapic_has_msr(uint32_t msr)
{
    return msr == LAPIC_MSR_BASE || msr == LAPIC_MSR_TSC_DEADLINE ||
           (msr >= LAPIC_MSR_X2APIC_FIRST && msr <= LAPIC_MSR_X2APIC_LAST);
}

// `msr` is one that lapic_has_msr names.
enum lapic_result lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t *value, struct lapic_time now);
enum lapic_result lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t value, struct lapic_time now,
                                  struct lapic_effects *effects);

// --- Timer ---

// Guest time in ns at which to call lapic_timer_poll, UINT64_MAX for never.
static inline uint64_t lapic_timer_deadline(const struct lapic *l)
{
    return l->timer.deadline;
}

// True: the timer's interrupt has been requested.
bool lapic_timer_poll(struct lapic *l, struct lapic_time now);
// To be called when the TSC was written.
void lapic_tsc_changed(struct lapic *l, struct lapic_time now);

// --- State, for the host ---

// IA32_APIC_BASE without the guest's rules of transition. False, and nothing changed: reserved bits or no
// such mode.
bool lapic_set_base(struct lapic *l, uint64_t value);
// IA32_TSC_DEADLINE, whatever the timer's mode is at this point of a restore.
void lapic_set_tsc_deadline(struct lapic *l, uint64_t value, struct lapic_time now);

// One register by its offset in the page; the ICR is 64 bits wide with its high half. Setting stores state:
// no message is sent, nothing is disarmed; a count starts to run. False, and nothing changed: no such
// register, reserved bits, a register that has no state (EOI, self IPI), or another value than its own for
// one that only follows from others (ID, version, PPR, and LDR in x2APIC mode).
bool lapic_get_register(const struct lapic *l, uint32_t offset, uint64_t *value, struct lapic_time now);
bool lapic_set_register(struct lapic *l, uint32_t offset, uint64_t value, struct lapic_time now);
// What lapic_set_register would answer.
bool lapic_register_valid(const struct lapic *l, uint32_t offset, uint64_t value, struct lapic_time now);

// What is in no register: messages that the processor has not taken yet, and errors since the last write of ESR.
struct lapic_latches {
    bool nmi, init, sipi;
    uint8_t sipi_vector, errors;
};
struct lapic_latches lapic_get_latches(const struct lapic *l);
void lapic_set_latches(struct lapic *l, const struct lapic_latches *latches);

// All registers, at 16-byte stride; the rest of the page is 0. TSC deadline, base and latches are not part of it.
void lapic_get_page(const struct lapic *l, void *page, struct lapic_time now);
// False, and nothing changed: a register has reserved bits set. Any content is safe. Registers that only
// follow from others are ignored, and so is what is between registers.
bool lapic_set_page(struct lapic *l, const void *page, struct lapic_time now);

#endif
