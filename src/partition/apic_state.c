// Conversion between the standard register page of a local APIC and the older, packed form.
#include "partition/apic_state.h"

#include <string.h>

#define PPR_OFFSET 0xA0
#define STRIDE 16
#define WORDS 8

// ISR, TMR, IRR.
static const unsigned int vectors[] = {0x100, 0x180, 0x200};

// Copy the words of each vector from one spacing to another; everything else is copied as it is.
static void convert(uint8_t *to, unsigned int to_stride, const uint8_t *from, unsigned int from_stride)
{
    memcpy(to, from, APIC_STATE_SIZE);
    memset(to + PPR_OFFSET, 0, sizeof(uint32_t));
    for (unsigned int v = 0; v < sizeof(vectors) / sizeof(vectors[0]); v++) {
        memset(to + vectors[v], 0, WORDS * STRIDE);
        for (unsigned int i = 0; i < WORDS; i++)
            memcpy(to + vectors[v] + i * to_stride, from + vectors[v] + i * from_stride, sizeof(uint32_t));
    }
}

void apic_state_pack(uint8_t packed[APIC_STATE_SIZE], const uint8_t page[APIC_STATE_SIZE])
{
    convert(packed, sizeof(uint32_t), page, STRIDE);
}

void apic_state_unpack(uint8_t page[APIC_STATE_SIZE], const uint8_t packed[APIC_STATE_SIZE])
{
    convert(page, STRIDE, packed, sizeof(uint32_t));
}
