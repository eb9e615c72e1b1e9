// What the parts of the local APIC share: interrupts (lapic.c) and registers (lapic_registers.c).
#ifndef BULKHEAD_LAPIC_INTERNAL_H
#define BULKHEAD_LAPIC_INTERNAL_H

#include "engine/soft/lapic.h"

#define INDEX(offset) ((offset) >> 4)

#define LVT_MASKED (1u << 16)
#define SVR_ENABLE (1u << 8)
#define ICR_REMOTE_READ_DONE (2u << 16)     // bits 17:16; 0: nobody has answered

static inline uint32_t lapic_load(const struct lapic *l, unsigned index)
{
    return atomic_load_explicit(&l->reg[index], memory_order_relaxed);
}

static inline void lapic_store(struct lapic *l, unsigned index, uint32_t value)
{
    atomic_store_explicit(&l->reg[index], value, memory_order_relaxed);
}

static inline uint32_t lapic_load_isr(const struct lapic *l, unsigned word)
{
    return atomic_load_explicit(&l->isr[word], memory_order_relaxed);
}

static inline void lapic_store_isr(struct lapic *l, unsigned word, uint32_t value)
{
    atomic_store_explicit(&l->isr[word], value, memory_order_relaxed);
}

static inline bool lapic_software_enabled(const struct lapic *l)
{
    return lapic_load(l, INDEX(LAPIC_SVR)) & SVR_ENABLE;
}

// SDM vol. 3A 11.4.7.2: a software-disabled APIC has all its LVT entries masked. The mask bits are set then,
// but a restore may bring the registers in any order.
static inline bool lapic_lvt_masked(const struct lapic *l, uint32_t lvt)
{
    return (lvt & LVT_MASKED) || !lapic_software_enabled(l);
}

// SDM vol. 3A 11.12.10.2: cluster in the high half, one of 16 in the low.
static inline uint32_t lapic_x2apic_logical_id(const struct lapic *l)
{
    return l->config.id >> 4 << 16 | 1u << (l->config.id & 15);
}

// Any thread. True: an interrupt has been requested.
bool lapic_raise_error(struct lapic *l, enum lapic_error error);
// An event of our own, through the LVT entry with this index: timer, error. Any thread; true as above.
bool lapic_local_event(struct lapic *l, unsigned index);

// What a read of the register with this index (offset / 16) gives; false: none can be read there. Any thread.
bool lapic_show_register(const struct lapic *l, unsigned index, uint32_t *value, struct lapic_time now);

// Owner: TPR or ISR has changed.
void lapic_update_ppr(struct lapic *l);
// Owner: bits were taken from this word of IRR.
void lapic_refresh_attention(struct lapic *l, unsigned word);
// Owner: end the interrupt in service with the highest priority.
void lapic_end_of_interrupt(struct lapic *l, struct lapic_effects *effects);

#endif
