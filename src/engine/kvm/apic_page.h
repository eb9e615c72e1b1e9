// The registers of a local APIC's page, for the two files that deal with them (SDM vol. 3A 11.4.1).
#ifndef BULKHEAD_KVM_APIC_PAGE_H
#define BULKHEAD_KVM_APIC_PAGE_H

#include <stdint.h>
#include <string.h>

#include "engine/kvm/abi.h"

#define APIC_BASE_X2APIC (1u << 10)
#define APIC_BASE_ENABLE (1u << 11)
#define APIC_LVT_MASKED (1u << 16)
#define APIC_SVR_ENABLE (1u << 8)

// By their offset in the page, which is that in KVM's state too.
enum apic_offset {
    APIC_ID = 0x020, APIC_VERSION = 0x030, APIC_TPR = 0x080, APIC_APR = 0x090, APIC_PPR = 0x0A0,
    APIC_RRD = 0x0C0, APIC_LDR = 0x0D0, APIC_DFR = 0x0E0, APIC_SVR = 0x0F0, APIC_ISR = 0x100,
    APIC_TMR = 0x180, APIC_IRR = 0x200, APIC_ESR = 0x280, APIC_ICR = 0x300, APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320, APIC_LVT_THERMAL = 0x330, APIC_LVT_PERFORMANCE = 0x340, APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360, APIC_LVT_ERROR = 0x370, APIC_INITIAL_COUNT = 0x380, APIC_CURRENT_COUNT = 0x390,
    APIC_DIVIDE = 0x3E0,
};

enum apic_delivery { APIC_FIXED = 0, APIC_LOWEST_PRIORITY = 1, APIC_NMI = 4, APIC_INIT = 5 };

static inline uint32_t apic_register(const struct kvm_lapic_state *state, unsigned offset)
{
    uint32_t value;
    memcpy(&value, state->regs + offset, sizeof value);
    return value;
}

static inline void apic_set_register(struct kvm_lapic_state *state, unsigned offset, uint32_t value)
{
    memcpy(state->regs + offset, &value, sizeof value);
}

#endif
