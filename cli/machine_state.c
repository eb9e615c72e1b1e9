/* machine_state.c: all devices of a machine in one stream, and whether they fit the machine that takes them. */
#include "machine.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The table of devices: in this order they are saved and loaded. A name is that of the device's type, of its member in
 * `struct machine`, and the prefix of its functions. The debug ports hold nothing. */
#define MACHINE_DEVICES(ROW)                                                                                           \
    ROW(pic)                                                                                                           \
    ROW(ioapic)                                                                                                        \
    ROW(pit)                                                                                                           \
    ROW(rtc)                                                                                                           \
    ROW(pm)                                                                                                            \
    ROW(reset)                                                                                                         \
    ROW(pciconf)                                                                                                       \
    ROW(uart)

/* What has to be the same on both sides. */
struct machine_shape {
    uint64_t memory, firmware, cpus, debug_exit, debug_console;
};

#define NO_PORT UINT64_C(0xffffffff)

static const struct {
    const char *name;
    const char *unit; /* NULL for the number of a port */
    size_t offset;
} machine_shapes[] = {
    {"memory", " bytes", offsetof(struct machine_shape, memory)},
    {"firmware", " bytes", offsetof(struct machine_shape, firmware)},
    {"number of processors", "", offsetof(struct machine_shape, cpus)},
    {"debug exit port", NULL, offsetof(struct machine_shape, debug_exit)},
    {"debug console port", NULL, offsetof(struct machine_shape, debug_console)},
};

static uint64_t machine_port(int port)
{
    return port == MACHINE_NO_PORT ? NO_PORT : (uint64_t)port;
}

static struct machine_shape machine_shape(const struct machine *machine)
{
    return (struct machine_shape){
        .memory = machine->config.memory,
        .firmware = machine->memory.rom_size,
        .cpus = machine->config.cpus,
        .debug_exit = machine_port(machine->config.debug_exit),
        .debug_console = machine_port(machine->config.debug_console),
    };
}

static uint64_t machine_shape_value(const struct machine_shape *shape, unsigned row)
{
    uint64_t value;

    memcpy(&value, (const char *)shape + machine_shapes[row].offset, sizeof(value));
    return value;
}

static void machine_save_shape(const struct machine *machine, struct state_writer *to)
{
    struct machine_shape shape = machine_shape(machine);

    state_begin(to, "CONF", 1);
    for (unsigned i = 0; i < STATE_COUNT(machine_shapes); i++) {
        state_put(to, 8, machine_shape_value(&shape, i));
    }
    state_end(to);
}

static void machine_show(char *text, size_t size, uint64_t value, unsigned row)
{
    if (machine_shapes[row].unit != NULL) {
        snprintf(text, size, "%" PRIu64 "%s", value, machine_shapes[row].unit);
    } else if (value != NO_PORT) {
        snprintf(text, size, "0x%" PRIx64, value);
    } else {
        snprintf(text, size, "none");
    }
}

static bool machine_check_shape(const struct machine *machine, struct state_reader *from)
{
    struct machine_shape shape = machine_shape(machine);

    state_enter(from, "CONF", 1);
    for (unsigned i = 0; i < STATE_COUNT(machine_shapes); i++) {
        uint64_t saved = state_get(from, 8, machine_shapes[i].name);
        uint64_t here = machine_shape_value(&shape, i);

        if (!from->failed && saved != here) {
            char saved_text[64], here_text[64];

            machine_show(saved_text, sizeof(saved_text), saved, i);
            machine_show(here_text, sizeof(here_text), here, i);
            return state_refuse(from, "the saved machine's %s is %s, and this machine's is %s",
                                machine_shapes[i].name, saved_text, here_text);
        }
    }
    return state_leave(from);
}

/* The console's buffers are the host's; but a guest that waits for room in them has to be told once there is some. */
static void machine_save_console(const struct machine *machine, struct state_writer *to)
{
    state_begin(to, "CONS", 1);
    state_put(to, 1, machine->output_stalled);
    state_end(to);
}

static bool machine_load_console(bool *stalled, struct state_reader *from)
{
    uint64_t value;

    state_enter(from, "CONS", 1);
    value = state_get(from, 1, "stalled");
    if (value > 1) {
        state_refuse(from, "field 'stalled' is %" PRIu64, value);
    }
    *stalled = value != 0;
    return state_leave(from);
}

void machine_save_devices(struct machine *machine, struct state_writer *to)
{
#define SAVE(device) device##_save(&machine->device, to);
    pthread_mutex_lock(&machine->lock);
    machine_save_shape(machine, to);
    MACHINE_DEVICES(SAVE)
    machine_save_console(machine, to);
    pthread_mutex_unlock(&machine->lock);
#undef SAVE
}

/* All are loaded into copies first: the last record may be the one that is refused. */
static bool machine_load_locked(struct machine *machine, struct state_reader *from)
{
#define COPY(device) struct device device;
#define TAKE(device) .device = machine->device,
#define LOAD(device) &&device##_load(&loaded.device, from)
#define KEEP(device) machine->device = loaded.device;
    struct {
        MACHINE_DEVICES(COPY)
    } loaded = {MACHINE_DEVICES(TAKE)};
    bool stalled;

    if (!(machine_check_shape(machine, from) MACHINE_DEVICES(LOAD) && machine_load_console(&stalled, from))) {
        return false;
    }
    MACHINE_DEVICES(KEEP)
    machine->output_stalled |= stalled;
    atomic_store(&machine->intr, machine->pic.output);
    return true;
#undef COPY
#undef TAKE
#undef LOAD
#undef KEEP
}

bool machine_load_devices(struct machine *machine, struct state_reader *from)
{
    bool good;

    pthread_mutex_lock(&machine->lock);
    good = machine_load_locked(machine, from);
    pthread_mutex_unlock(&machine->lock);
    machine_wake(machine); /* deadlines are others */
    return good;
}
