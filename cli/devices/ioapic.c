/* ioapic.c: redirection and delivery of the I/O APIC. */
#include "ioapic.h"

#include <string.h>

#define ENTRY_REMOTE_IRR (UINT64_C(1) << 14)
#define ENTRY_LEVEL (UINT64_C(1) << 15)
#define ENTRY_MASKED (UINT64_C(1) << 16)
/* Delivery status and remote IRR cannot be written. */
#define ENTRY_WRITABLE UINT64_C(0xff0000000001afff)

enum { WINDOW_SELECT = 0x00, WINDOW_DATA = 0x10, WINDOW_EOI = 0x40 };
enum { REG_ID = 0, REG_VERSION = 1, REG_ARBITRATION = 2, REG_ENTRIES = 0x10 };

static void ioapic_send(struct ioapic *ioapic, uint64_t entry)
{
    struct ioapic_message message = {
        .delivery = (enum ioapic_delivery)(entry >> 8 & 7),
        .vector = (uint8_t)entry,
        .destination = (uint8_t)(entry >> 56),
        .logical = (entry >> 11 & 1) != 0,
        .level = (entry & ENTRY_LEVEL) != 0,
    };

    ioapic->deliver(ioapic->context, &message);
}

/* Delivers what input PIN has to deliver. */
static void ioapic_service(struct ioapic *ioapic, unsigned pin)
{
    uint64_t entry = ioapic->entry[pin];
    uint32_t bit = 1u << pin;

    if ((entry & ENTRY_MASKED) != 0) {
        return;
    }
    if ((entry & ENTRY_LEVEL) != 0) {
        if ((ioapic->lines & bit) != 0 && (entry & ENTRY_REMOTE_IRR) == 0) {
            ioapic->entry[pin] |= ENTRY_REMOTE_IRR;
            ioapic_send(ioapic, entry);
        }
    } else if ((ioapic->pending & bit) != 0) {
        ioapic->pending &= ~bit;
        ioapic_send(ioapic, entry);
    }
}

void ioapic_set(struct ioapic *ioapic, unsigned pin, bool level)
{
    if (pin >= IOAPIC_PINS) {
        return;
    }
    uint32_t bit = 1u << pin;
    bool rises = level && (ioapic->lines & bit) == 0;

    ioapic->lines = level ? ioapic->lines | bit : ioapic->lines & ~bit;
    if (rises && (ioapic->entry[pin] & ENTRY_LEVEL) == 0) {
        ioapic->pending |= bit;
    }
    ioapic_service(ioapic, pin);
}

void ioapic_end_of_interrupt(struct ioapic *ioapic, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        if ((ioapic->entry[pin] & ENTRY_LEVEL) != 0 && (uint8_t)ioapic->entry[pin] == vector) {
            ioapic->entry[pin] &= ~ENTRY_REMOTE_IRR;
            ioapic_service(ioapic, pin);
        }
    }
}

static void ioapic_write_entry(struct ioapic *ioapic, unsigned pin, bool high, uint32_t value)
{
    uint64_t entry = ioapic->entry[pin];
    uint64_t written =
        high ? (entry & UINT32_MAX) | (uint64_t)value << 32 : (entry & ~(uint64_t)UINT32_MAX) | value;

    entry = (entry & ~ENTRY_WRITABLE) | (written & ENTRY_WRITABLE);
    if ((entry & ENTRY_LEVEL) == 0) {
        /* Switching to edge and back is how old drivers clear a stuck remote IRR. */
        entry &= ~ENTRY_REMOTE_IRR;
    } else {
        ioapic->pending &= ~(1u << pin);
    }
    ioapic->entry[pin] = entry;
    ioapic_service(ioapic, pin);
}

static uint32_t ioapic_read_register(const struct ioapic *ioapic)
{
    unsigned reg = ioapic->select;

    switch (reg) {
    case REG_ID:
    case REG_ARBITRATION:
        return (uint32_t)ioapic->id << 24;
    case REG_VERSION:
        return 0x20 | (IOAPIC_PINS - 1) << 16;
    default:
        break;
    }
    if (reg < REG_ENTRIES || reg >= REG_ENTRIES + 2 * IOAPIC_PINS) {
        return 0;
    }
    uint64_t entry = ioapic->entry[(reg - REG_ENTRIES) / 2];

    return (uint32_t)((reg & 1) != 0 ? entry >> 32 : entry);
}

static void ioapic_write_register(struct ioapic *ioapic, uint32_t value)
{
    unsigned reg = ioapic->select;

    if (reg == REG_ID) {
        ioapic->id = value >> 24 & 0x0f;
    } else if (reg >= REG_ENTRIES && reg < REG_ENTRIES + 2 * IOAPIC_PINS) {
        ioapic_write_entry(ioapic, (reg - REG_ENTRIES) / 2, (reg & 1) != 0, value);
    }
}

uint64_t ioapic_read(void *device, uint64_t offset, unsigned size)
{
    const struct ioapic *ioapic = device;

    (void)size;
    switch (offset) {
    case WINDOW_SELECT:
        return ioapic->select;
    case WINDOW_DATA:
        return ioapic_read_register(ioapic);
    default:
        return 0;
    }
}

void ioapic_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct ioapic *ioapic = device;

    (void)size;
    switch (offset) {
    case WINDOW_SELECT:
        ioapic->select = (uint8_t)value;
        break;
    case WINDOW_DATA:
        ioapic_write_register(ioapic, (uint32_t)value);
        break;
    case WINDOW_EOI:
        ioapic_end_of_interrupt(ioapic, (uint8_t)value);
        break;
    default:
        break;
    }
}

static const struct state_field ioapic_fields[] = {
    STATE_BITS(struct ioapic, lines, IOAPIC_ALL_PINS),
    STATE_BITS(struct ioapic, pending, IOAPIC_ALL_PINS),
    STATE_ANY(struct ioapic, select),
    STATE_BITS(struct ioapic, id, 0x0f),
};

void ioapic_save(const struct ioapic *ioapic, struct state_writer *to)
{
    state_begin(to, "IOAP", 1);
    state_put_fields(to, ioapic_fields, STATE_COUNT(ioapic_fields), ioapic);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        state_put(to, 8, ioapic->entry[pin]);
    }
    state_end(to);
}

bool ioapic_load(struct ioapic *ioapic, struct state_reader *from)
{
    struct ioapic loaded = *ioapic;

    state_enter(from, "IOAP", 1);
    state_get_fields(from, ioapic_fields, STATE_COUNT(ioapic_fields), &loaded);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t entry = state_get(from, 8, "entry");

        if ((entry & ~(ENTRY_WRITABLE | ENTRY_REMOTE_IRR)) != 0 ||
            (entry & (ENTRY_LEVEL | ENTRY_REMOTE_IRR)) == ENTRY_REMOTE_IRR) {
            state_refuse(from, "entry %u is 0x%llx, which no entry can be", pin, (unsigned long long)entry);
        }
        loaded.entry[pin] = entry;
    }
    if (!state_leave(from)) {
        return false;
    }
    *ioapic = loaded;
    return true;
}

void ioapic_init(struct ioapic *ioapic, uint8_t id,
                 void (*deliver)(void *context, const struct ioapic_message *message), void *context)
{
    memset(ioapic, 0, sizeof(*ioapic));
    ioapic->id = id & 0x0f;
    ioapic->deliver = deliver;
    ioapic->context = context;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        ioapic->entry[pin] = ENTRY_MASKED;
    }
}
