/* start.h: the registers that a loader wants the first processor to start with. */
#ifndef CLI_START_H
#define CLI_START_H

#include <WinHvPlatform.h>

#include <stdbool.h>
#include <stdint.h>

#define START_MAX 48

struct start {
    WHV_REGISTER_NAME names[START_MAX];
    WHV_REGISTER_VALUE values[START_MAX];
    unsigned count;
    /* The loader stands in for a firmware: the local APIC is left in virtual wire mode, as a firmware leaves
     * it. */
    bool virtual_wire;
};

void start_set(struct start *start, WHV_REGISTER_NAME name, uint64_t value);

/* ATTRIBUTES as in a descriptor: type, S, DPL, P in bits 0 to 7; AVL, L, D/B, G in bits 12 to 15. */
void start_set_segment(struct start *start, WHV_REGISTER_NAME name, uint16_t selector, uint64_t base,
                       uint32_t limit, uint16_t attributes);
void start_set_table(struct start *start, WHV_REGISTER_NAME name, uint64_t base, uint16_t limit);

/* Flat 4 GiB data segments in DS, ES, FS, GS and SS. */
void start_set_flat_data(struct start *start, uint16_t selector);

/* NULL if the loader did not set NAME. */
const WHV_REGISTER_VALUE *start_find(const struct start *start, WHV_REGISTER_NAME name);

#endif
