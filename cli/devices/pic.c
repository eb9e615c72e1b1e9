/* pic.c: priorities, command words and the cascade of the two 8259A. */
#include "pic.h"

#include <string.h>

#define CASCADE 2
#define NONE 8

/* How far BIT is from the highest priority; NONE for an empty set's best. */
static unsigned chip_best(const struct pic_chip *chip, uint8_t set)
{
    for (unsigned i = 1; i <= 8; i++) {
        if ((set >> ((chip->lowest + i) & 7) & 1) != 0) {
            return i - 1;
        }
    }
    return NONE;
}

static unsigned chip_input(const struct pic_chip *chip, unsigned rank)
{
    return (chip->lowest + 1 + rank) & 7;
}

/* The rank of the request that would be granted now, or NONE. */
static unsigned chip_request(const struct pic_chip *chip, bool master)
{
    uint8_t busy = chip->isr;

    if (chip->special_mask) {
        busy &= (uint8_t)~chip->imr;
    }
    /* Special fully nested mode: a slave in service may interrupt itself with something more urgent. */
    if (master && chip->special_nested) {
        busy &= (uint8_t) ~(1u << CASCADE);
    }
    unsigned wanted = chip_best(chip, chip->irr & (uint8_t)~chip->imr);

    return wanted < chip_best(chip, busy) ? wanted : NONE;
}

static void chip_set(struct pic_chip *chip, unsigned input, bool level)
{
    uint8_t bit = (uint8_t)(1u << input);

    if (level) {
        if ((chip->level & bit) != 0 || (chip->lines & bit) == 0) {
            chip->irr |= bit;
        }
        chip->lines |= bit;
    } else {
        /* An edge-triggered request is withdrawn too when the line falls before it is acknowledged. */
        chip->irr &= (uint8_t)~bit;
        chip->lines &= (uint8_t)~bit;
    }
}

static void pic_update(struct pic *pic)
{
    chip_set(&pic->chip[0], CASCADE, chip_request(&pic->chip[1], false) != NONE);
    bool output = chip_request(&pic->chip[0], true) != NONE;

    if (output != pic->output) {
        pic->output = output;
        pic->intr(pic->context, output);
    }
}

void pic_set(struct pic *pic, unsigned line, bool level)
{
    if (line == CASCADE || line > 15) {
        return;
    }
    chip_set(&pic->chip[line / 8], line % 8, level);
    pic_update(pic);
}

/* Takes the request on INPUT into service. */
static void chip_accept(struct pic_chip *chip, unsigned input)
{
    uint8_t bit = (uint8_t)(1u << input);

    if ((chip->level & bit) == 0) {
        chip->irr &= (uint8_t)~bit;
    }
    if (!chip->auto_eoi) {
        chip->isr |= bit;
    } else if (chip->rotate_on_auto_eoi) {
        chip->lowest = (uint8_t)input;
    }
}

/* One chip's half of an acknowledge cycle. A request that is gone by now reads as input 7, not in service. */
static unsigned chip_acknowledge(struct pic_chip *chip, bool master)
{
    unsigned rank = chip_request(chip, master);

    if (rank == NONE) {
        return 7;
    }
    unsigned input = chip_input(chip, rank);

    chip_accept(chip, input);
    return input;
}

uint8_t pic_acknowledge(struct pic *pic)
{
    unsigned input = chip_acknowledge(&pic->chip[0], true);
    uint8_t vector = (uint8_t)(pic->chip[0].vector + input);

    if (input == CASCADE && !pic->chip[0].single) {
        vector = (uint8_t)(pic->chip[1].vector + chip_acknowledge(&pic->chip[1], false));
        /* The cascade is a level to the master: it asks again if the slave has more. */
        pic->chip[0].lines &= (uint8_t) ~(1u << CASCADE);
    }
    pic_update(pic);
    return vector;
}

static void chip_initialise(struct pic_chip *chip, uint8_t icw1)
{
    chip->imr = 0;
    chip->isr = 0;
    chip->irr &= chip->level; /* the edge detectors are cleared */
    chip->lowest = 7;
    chip->special_mask = false;
    chip->special_nested = false;
    chip->read_isr = false;
    chip->auto_eoi = false;
    chip->rotate_on_auto_eoi = false;
    chip->needs_icw4 = (icw1 & 1) != 0;
    chip->single = (icw1 & 2) != 0;
    chip->init_step = 2;
}

static void chip_end_of_interrupt(struct pic_chip *chip, uint8_t ocw2)
{
    bool specific = (ocw2 & 0x40) != 0;
    bool rotate = (ocw2 & 0x80) != 0;
    unsigned input;

    if ((ocw2 & 0x20) == 0) {
        if (specific && rotate) {
            chip->lowest = ocw2 & 7;
        } else if (!specific) {
            chip->rotate_on_auto_eoi = rotate;
        }
        return;
    }
    if (specific) {
        input = ocw2 & 7;
    } else {
        unsigned rank = chip_best(chip, chip->isr);

        if (rank == NONE) {
            return;
        }
        input = chip_input(chip, rank);
    }
    chip->isr &= (uint8_t) ~(1u << input);
    if (rotate) {
        chip->lowest = (uint8_t)input;
    }
}

static void chip_write_command(struct pic_chip *chip, uint8_t value)
{
    if ((value & 0x10) != 0) {
        chip_initialise(chip, value);
    } else if ((value & 0x08) != 0) {
        if ((value & 0x40) != 0) {
            chip->special_mask = (value & 0x20) != 0;
        }
        chip->poll = (value & 0x04) != 0;
        if ((value & 0x02) != 0) {
            chip->read_isr = (value & 0x01) != 0;
        }
    } else {
        chip_end_of_interrupt(chip, value);
    }
}

static void chip_write_data(struct pic_chip *chip, uint8_t value)
{
    switch (chip->init_step) {
    case 2:
        chip->vector = value & 0xf8;
        chip->init_step = chip->single ? (chip->needs_icw4 ? 4 : 0) : 3;
        break;
    case 3:
        /* How the chips are cascaded is soldered. */
        chip->init_step = chip->needs_icw4 ? 4 : 0;
        break;
    case 4:
        chip->auto_eoi = (value & 0x02) != 0;
        chip->special_nested = (value & 0x10) != 0;
        chip->init_step = 0;
        break;
    default:
        chip->imr = value;
        break;
    }
}

static uint64_t pic_read(struct pic *pic, unsigned which, uint64_t offset)
{
    struct pic_chip *chip = &pic->chip[which];
    uint8_t value;

    if (chip->poll) {
        unsigned rank = chip_request(chip, which == 0);

        chip->poll = false;
        value = 0;
        if (rank != NONE) {
            value = (uint8_t)(0x80 | chip_input(chip, rank));
            chip_accept(chip, value & 7);
            pic_update(pic);
        }
        return value;
    }
    if (offset == 1) {
        return chip->imr;
    }
    return chip->read_isr ? chip->isr : chip->irr;
}

static void pic_write(struct pic *pic, unsigned which, uint64_t offset, uint8_t value)
{
    if (offset == 0) {
        chip_write_command(&pic->chip[which], value);
    } else {
        chip_write_data(&pic->chip[which], value);
    }
    pic_update(pic);
}

uint64_t pic_master_read(void *device, uint64_t offset, unsigned size)
{
    (void)size;
    return pic_read(device, 0, offset);
}

void pic_master_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)size;
    pic_write(device, 0, offset, (uint8_t)value);
}

uint64_t pic_slave_read(void *device, uint64_t offset, unsigned size)
{
    (void)size;
    return pic_read(device, 1, offset);
}

void pic_slave_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)size;
    pic_write(device, 1, offset, (uint8_t)value);
}

uint64_t pic_level_read(void *device, uint64_t offset, unsigned size)
{
    struct pic *pic = device;

    (void)size;
    return pic->chip[offset & 1].level;
}

void pic_level_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pic *pic = device;
    struct pic_chip *chip = &pic->chip[offset & 1];

    (void)size;
    chip->level = (uint8_t)value & chip->level_mask;
    pic_update(pic);
}

/* `level_mask` is how the inputs are wired, and no state. */
static const struct state_field chip_fields[] = {
    STATE_ANY(struct pic_chip, irr),
    STATE_ANY(struct pic_chip, isr),
    STATE_ANY(struct pic_chip, imr),
    STATE_ANY(struct pic_chip, lines),
    STATE_ANY(struct pic_chip, level),
    STATE_BITS(struct pic_chip, vector, 0xf8),
    STATE_RANGE(struct pic_chip, lowest, 0, 7),
    STATE_RANGE(struct pic_chip, init_step, 0, 4),
    STATE_FLAG(struct pic_chip, needs_icw4),
    STATE_FLAG(struct pic_chip, single),
    STATE_FLAG(struct pic_chip, auto_eoi),
    STATE_FLAG(struct pic_chip, rotate_on_auto_eoi),
    STATE_FLAG(struct pic_chip, special_mask),
    STATE_FLAG(struct pic_chip, special_nested),
    STATE_FLAG(struct pic_chip, read_isr),
    STATE_FLAG(struct pic_chip, poll),
};

void pic_save(const struct pic *pic, struct state_writer *to)
{
    state_begin(to, "PIC ", 1);
    for (unsigned i = 0; i < 2; i++) {
        state_put_fields(to, chip_fields, STATE_COUNT(chip_fields), &pic->chip[i]);
    }
    state_end(to);
}

bool pic_load(struct pic *pic, struct state_reader *from)
{
    struct pic loaded = *pic;

    state_enter(from, "PIC ", 1);
    for (unsigned i = 0; i < 2; i++) {
        struct pic_chip *chip = &loaded.chip[i];

        state_get_fields(from, chip_fields, STATE_COUNT(chip_fields), chip);
        if ((chip->level & ~chip->level_mask) != 0) {
            state_refuse(from, "an input is level-triggered that can only be edge-triggered (0x%02x)", chip->level);
        }
        if (chip->init_step == 1) {
            state_refuse(from, "field 'init_step' is 1, and the first word starts the initialisation");
        }
    }
    if (!state_leave(from)) {
        return false;
    }
    loaded.output = chip_request(&loaded.chip[0], true) != NONE;
    *pic = loaded;
    return true;
}

void pic_init(struct pic *pic, void (*intr)(void *context, bool level), void *context)
{
    memset(pic, 0, sizeof(*pic));
    pic->intr = intr;
    pic->context = context;
    for (unsigned i = 0; i < 2; i++) {
        pic->chip[i].lowest = 7;
        pic->chip[i].vector = i == 0 ? 0x08 : 0x70; /* where a PC's firmware puts them */
    }
    /* Timer, keyboard, cascade; clock and coprocessor are always edge-triggered. */
    pic->chip[0].level_mask = 0xf8;
    pic->chip[1].level_mask = 0xde;
}
