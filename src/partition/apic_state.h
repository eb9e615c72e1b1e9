// The two forms in which a local APIC's registers are handed over.
//
// Both are 4,096 bytes with every register at its offset in the guest's page (SDM vol. 3A 11.4.1). The
// standard form is that page. In the older form the three 256-bit vectors ISR, TMR and IRR are packed: eight
// consecutive 32-bit words at the offset of their first register, instead of one word every 16 bytes; and
// there is no processor priority (PPR).
#ifndef BULKHEAD_APIC_STATE_H
#define BULKHEAD_APIC_STATE_H

#include <stdint.h>

#define APIC_STATE_SIZE 4096

void apic_state_pack(uint8_t packed[APIC_STATE_SIZE], const uint8_t page[APIC_STATE_SIZE]);
void apic_state_unpack(uint8_t page[APIC_STATE_SIZE], const uint8_t packed[APIC_STATE_SIZE]);

#endif
