/* ioapic.h: an I/O APIC with 24 inputs (Intel 82093AA data sheet; version 0x20 with its EOI register). */
#ifndef CLI_DEVICES_IOAPIC_H
#define CLI_DEVICES_IOAPIC_H

#include "../state.h"

#include <stdbool.h>
#include <stdint.h>

#define IOAPIC_ADDRESS UINT64_C(0xfec00000)
#define IOAPIC_SIZE 0x1000
#define IOAPIC_PINS 24
#define IOAPIC_ALL_PINS ((UINT32_C(1) << IOAPIC_PINS) - 1)

enum ioapic_delivery {
    IOAPIC_FIXED = 0,
    IOAPIC_LOWEST = 1,
    IOAPIC_SMI = 2,
    IOAPIC_NMI = 4,
    IOAPIC_INIT = 5,
    IOAPIC_EXTINT = 7
};

struct ioapic_message {
    enum ioapic_delivery delivery;
    uint8_t vector;
    uint8_t destination;
    bool logical;
    bool level;
};

struct ioapic {
    uint64_t entry[IOAPIC_PINS];
    uint32_t lines;   /* levels of the inputs */
    uint32_t pending; /* edges that have not been delivered because the input was masked */
    uint8_t select;
    uint8_t id;
    void (*deliver)(void *context, const struct ioapic_message *message);
    void *context;
};

void ioapic_init(struct ioapic *ioapic, uint8_t id,
                 void (*deliver)(void *context, const struct ioapic_message *message), void *context);

void ioapic_set(struct ioapic *ioapic, unsigned pin, bool level);

/* A processor has ended the level-triggered interrupt VECTOR. */
void ioapic_end_of_interrupt(struct ioapic *ioapic, uint8_t vector);

/* Bus functions for the IOAPIC_SIZE bytes at IOAPIC_ADDRESS. */
uint64_t ioapic_read(void *device, uint64_t offset, unsigned size);
void ioapic_write(void *device, uint64_t offset, unsigned size, uint64_t value);

void ioapic_save(const struct ioapic *ioapic, struct state_writer *to);
bool ioapic_load(struct ioapic *ioapic, struct state_reader *from);

#endif
