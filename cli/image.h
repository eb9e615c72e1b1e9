/* image.h: what a machine is, into a stream and out of it.
 *
 * In this order: the configuration (CONF); pages of memory (PAGE) and stretches of zeros (ZERO), any number of
 * them, where the later one of a page is right; the devices (DEVS); what is left of the terminal, and the time
 * (HOST); the partition's state (PART); the end (END_). Pages that were never told are zero. */
#ifndef CLI_IMAGE_H
#define CLI_IMAGE_H

#include "machine.h"
#include "stream.h"

/* The machine that a configuration describes. */
struct image {
    struct machine_config config; /* without what the caller has to say: descriptors, timeout, tracking */
    uint64_t rom_size;
};

/* Magic number, version, configuration, and the ROM. */
bool image_write_head(struct stream *to, const struct machine *machine, struct error *err);

/* The pages of RAM with a bit in BITMAP; pages of zeros too if they have been told before (AGAIN). Calls TICK, if it
 * is not NULL, after each piece with the pages of RAM that are done. */
struct image_tick {
    bool (*call)(void *context, uint64_t pages, struct error *err);
    void *context;
};
bool image_write_pages(struct stream *to, const struct machine *machine, const uint64_t *bitmap, bool again,
                       const struct image_tick *tick, struct error *err);

/* Everything else. The machine is paused. SHOW_DOWNTIME: the guest's clocks shall show the time that the way takes. */
bool image_write_tail(struct stream *to, struct machine *machine, bool show_downtime, struct error *err);

/* Magic number, version and configuration. */
bool image_read_head(struct stream *from, struct image *image, struct error *err);

/* A machine as IMAGE says, set up and paused, and everything into it. SHOW_DOWNTIME: also when the stream does not
 * ask for it. The caller destroys the machine whatever the result. */
bool image_read_machine(struct stream *from, const struct image *image, struct machine *machine, bool show_downtime,
                        struct error *err);

#endif
