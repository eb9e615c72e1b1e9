/* pic.h: the pair of 8259A interrupt controllers of a PC (Intel 8259A data sheet), with the edge/level
 * registers. */
#ifndef CLI_DEVICES_PIC_H
#define CLI_DEVICES_PIC_H

#include "../state.h"

#include <stdbool.h>
#include <stdint.h>

struct pic_chip {
    uint8_t irr, isr, imr;
    uint8_t lines;      /* levels of the inputs */
    uint8_t level;      /* edge/level register: one bit per input, 1 = level */
    uint8_t level_mask; /* which bits of `level` can be set */
    uint8_t vector;     /* ICW2 */
    uint8_t lowest;     /* the input with the lowest priority */
    uint8_t init_step;  /* 0: ready; 2 to 4: that ICW is expected */
    bool needs_icw4, single, auto_eoi, rotate_on_auto_eoi, special_mask, special_nested;
    bool read_isr, poll;
};

struct pic {
    struct pic_chip chip[2]; /* master, slave */
    bool output;
    /* INTR, the pair's output, changes. */
    void (*intr)(void *context, bool level);
    void *context;
};

void pic_init(struct pic *pic, void (*intr)(void *context, bool level), void *context);

/* Sets input LINE, 0 to 15; 2 is the cascade and is ignored. */
void pic_set(struct pic *pic, unsigned line, bool level);

/* The processor's acknowledge: the vector to deliver. */
uint8_t pic_acknowledge(struct pic *pic);

/* Bus functions: two ports of the master (0x20) and of the slave (0xa0); the edge/level registers (0x4d0). */
uint64_t pic_master_read(void *device, uint64_t offset, unsigned size);
void pic_master_write(void *device, uint64_t offset, unsigned size, uint64_t value);
uint64_t pic_slave_read(void *device, uint64_t offset, unsigned size);
void pic_slave_write(void *device, uint64_t offset, unsigned size, uint64_t value);
uint64_t pic_level_read(void *device, uint64_t offset, unsigned size);
void pic_level_write(void *device, uint64_t offset, unsigned size, uint64_t value);

/* After a load the owner of INTR looks at `output`. */
void pic_save(const struct pic *pic, struct state_writer *to);
bool pic_load(struct pic *pic, struct state_reader *from);

#endif
