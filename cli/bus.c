/* bus.c: the table of device ranges and the search in it. */
#include "bus.h"

#include <stddef.h>

static uint64_t bus_ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (size * 8)) - 1;
}

static bool bus_overlap(const struct bus_range *a, const struct bus_range *b)
{
    return a->kind == b->kind && (a->sizes & b->sizes) != 0 && a->first < b->first + b->count &&
           b->first < a->first + a->count;
}

bool bus_claim(struct bus *bus, const struct bus_range *range, const struct bus_range **clash)
{
    *clash = NULL;
    if (bus->count == BUS_MAX_RANGES) {
        return false;
    }
    for (unsigned i = 0; i < bus->count; i++) {
        if (bus_overlap(&bus->ranges[i], range)) {
            *clash = &bus->ranges[i];
            return false;
        }
    }
    bus->ranges[bus->count++] = *range;
    return true;
}

static const struct bus_range *bus_find(const struct bus *bus, enum bus_kind kind, uint64_t where,
                                        unsigned size)
{
    for (unsigned i = 0; i < bus->count; i++) {
        const struct bus_range *range = &bus->ranges[i];

        if (range->kind == kind && (range->sizes & size) != 0 && where >= range->first &&
            where - range->first < range->count && size <= range->count - (where - range->first)) {
            return range;
        }
    }
    return NULL;
}

uint32_t bus_port_read(const struct bus *bus, uint16_t port, unsigned size)
{
    const struct bus_range *range = bus_find(bus, BUS_PORT, port, size);

    if (range != NULL) {
        return range->read != NULL
                   ? (uint32_t)(range->read(range->device, port - range->first, size) & bus_ones(size))
                   : (uint32_t)bus_ones(size);
    }
    if (size == 1) {
        return 0xff;
    }
    unsigned half = size / 2;
    uint32_t low = bus_port_read(bus, port, half);

    return low | bus_port_read(bus, (uint16_t)(port + half), half) << (half * 8);
}

void bus_port_write(const struct bus *bus, uint16_t port, unsigned size, uint32_t value)
{
    const struct bus_range *range = bus_find(bus, BUS_PORT, port, size);

    if (range != NULL) {
        if (range->write != NULL) {
            range->write(range->device, port - range->first, size, value & bus_ones(size));
        }
        return;
    }
    if (size == 1) {
        return;
    }
    unsigned half = size / 2;

    bus_port_write(bus, port, half, value);
    bus_port_write(bus, (uint16_t)(port + half), half, value >> (half * 8));
}

bool bus_mmio_read(const struct bus *bus, uint64_t gpa, unsigned size, uint64_t *value)
{
    const struct bus_range *range = bus_find(bus, BUS_MMIO, gpa, size);

    *value = bus_ones(size);
    if (range == NULL) {
        return false;
    }
    if (range->read != NULL) {
        *value &= range->read(range->device, gpa - range->first, size);
    }
    return true;
}

bool bus_mmio_write(const struct bus *bus, uint64_t gpa, unsigned size, uint64_t value)
{
    const struct bus_range *range = bus_find(bus, BUS_MMIO, gpa, size);

    if (range == NULL) {
        return false;
    }
    if (range->write != NULL) {
        range->write(range->device, gpa - range->first, size, value & bus_ones(size));
    }
    return true;
}
