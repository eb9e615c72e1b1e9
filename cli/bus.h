/* bus.h: which device answers at which port and at which guest-physical address.
 *
 * Ranges are few and looked up in order. A port access of a size that no device at that port takes is split
 * into halves, as an ISA bus does; where nothing answers, a read gives all ones and a write is dropped. */
#ifndef CLI_BUS_H
#define CLI_BUS_H

#include <stdbool.h>
#include <stdint.h>

enum bus_kind { BUS_PORT, BUS_MMIO };

/* Sizes are in bytes and powers of two, so a set of sizes is their sum. */
enum { BUS_SIZE_1 = 1, BUS_SIZE_2 = 2, BUS_SIZE_4 = 4, BUS_SIZE_8 = 8 };

struct bus_range {
    enum bus_kind kind;
    uint64_t first;
    uint64_t count;
    unsigned sizes;
    void *device;
    /* OFFSET is relative to `first`. NULL read: all ones; NULL write: dropped. */
    uint64_t (*read)(void *device, uint64_t offset, unsigned size);
    void (*write)(void *device, uint64_t offset, unsigned size, uint64_t value);
};

#define BUS_MAX_RANGES 48

struct bus {
    struct bus_range ranges[BUS_MAX_RANGES];
    unsigned count;
};

/* False when a port or address would be claimed twice for one size, or when the table is full;
 * *CLASH is then the range in the way, or NULL. */
bool bus_claim(struct bus *bus, const struct bus_range *range, const struct bus_range **clash);

uint32_t bus_port_read(const struct bus *bus, uint16_t port, unsigned size);
void bus_port_write(const struct bus *bus, uint16_t port, unsigned size, uint32_t value);

/* False when nothing answers at GPA; then *VALUE is all ones. */
bool bus_mmio_read(const struct bus *bus, uint64_t gpa, unsigned size, uint64_t *value);
bool bus_mmio_write(const struct bus *bus, uint64_t gpa, unsigned size, uint64_t value);

#endif
