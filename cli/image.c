/* image.c: configuration, memory and state of a machine as frames of a stream. */
#include "image.h"

#include <bulkhead/bulkhead.h>

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Pages in one frame. */
#define CHUNK 256u

#define NO_PORT UINT64_C(0xffffffff)

/* Of the configuration's record. Version 1 had no properties. */
#define CONF_VERSION 2

/* What has to be known to build the machine. Modes and sizes that make no sense are refused by those who take them. */
struct image_conf {
    uint64_t memory, rom, cpus, debug_exit, debug_console, apic_mode;
    uint8_t engine[16];
};

static const struct state_field image_conf_fields[] = {
    STATE_RANGE(struct image_conf, memory, MEMORY_MIN, UINT64_C(1) << 46),
    STATE_RANGE(struct image_conf, rom, 0, MEMORY_HIGH - MEMORY_HOLE),
    STATE_RANGE(struct image_conf, cpus, 1, MACHINE_MAX_CPUS),
    STATE_RANGE(struct image_conf, debug_exit, 0, NO_PORT),
    STATE_RANGE(struct image_conf, debug_console, 0, NO_PORT),
    STATE_RANGE(struct image_conf, apic_mode, WHvX64LocalApicEmulationModeXApic, WHvX64LocalApicEmulationModeX2Apic),
    STATE_BYTES(struct image_conf, engine),
};

struct image_host {
    uint64_t time_of_day; /* nanoseconds, when the machine was paused */
    bool show_downtime;
    uint32_t input_count;
    uint8_t input[MACHINE_INPUT]; /* what was typed and the guest has not taken yet */
};

static const struct state_field image_host_fields[] = {
    STATE_RANGE(struct image_host, time_of_day, 0, UINT64_MAX),
    STATE_FLAG(struct image_host, show_downtime),
    STATE_RANGE(struct image_host, input_count, 0, MACHINE_INPUT),
    STATE_BYTES(struct image_host, input),
};

/* An engine's name, for as long as the command lives. */
static const char *const image_engines[] = {"soft", "kvm"};

static uint64_t image_time_of_day(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A frame whose body is what TO holds; TO is freed. */
static bool image_write_state(struct stream *stream, const char *tag, struct state_writer *to, struct error *err)
{
    bool good = state_writer_complete(to, err) &&
                (to->size <= STREAM_MAX_BODY || error_set(err, EXIT_FAILED, "the machine's state is too large"));

    if (good) {
        memcpy(stream_body(stream), to->data, to->size);
        good = stream_write(stream, tag, (uint32_t)to->size, err);
    }
    state_writer_free(to);
    return good;
}

static bool image_write_record(struct stream *stream, const char *tag, const struct state_field *fields, size_t count,
                               const void *object, struct error *err)
{
    struct state_writer to;

    state_writer_init(&to);
    state_begin(&to, tag, 1);
    state_put_fields(&to, fields, count, object);
    state_end(&to);
    return image_write_state(stream, tag, &to, err);
}

static bool image_is_read(const struct stream *stream, const struct state_reader *from, struct error *err)
{
    return from->at == from->size || stream_refuse(stream, err, "it is longer than what it holds");
}

static bool image_read_record(struct stream *stream, const char *tag, const struct state_field *fields, size_t count,
                              void *object, struct error *err)
{
    struct state_reader from;

    state_reader_init(&from, stream_body(stream), stream->length, err);
    state_enter(&from, tag, 1);
    state_get_fields(&from, fields, count, object);
    return state_leave(&from) && image_is_read(stream, &from, err);
}

/* Memory. */

static void image_put64(uint8_t *to, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++) {
        to[i] = (uint8_t)(value >> i * 8);
    }
}

static uint64_t image_get64(const uint8_t *from)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < 8; i++) {
        value |= (uint64_t)from[i] << i * 8;
    }
    return value;
}

static bool image_is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, MEMORY_PAGE - 1) == 0;
}

static bool image_write_piece(struct stream *to, uint64_t gpa, const uint8_t *from, uint64_t pages, struct error *err)
{
    image_put64(stream_body(to), gpa);
    memcpy(stream_body(to) + 8, from, pages * MEMORY_PAGE);
    return stream_write(to, "PAGE", (uint32_t)(8 + pages * MEMORY_PAGE), err);
}

static bool image_write_zeros(struct stream *to, uint64_t gpa, uint64_t pages, struct error *err)
{
    image_put64(stream_body(to), gpa);
    image_put64(stream_body(to) + 8, pages);
    return stream_write(to, "ZERO", 16, err);
}

/* How many pages from FIRST on are to be written and are alike: all of zeros (*ZERO) or none. */
static uint64_t image_run(const struct memory *memory, const uint64_t *bitmap, uint64_t first, bool *zero)
{
    uint64_t pages = memory_pages(memory);
    uint64_t page = first;

    do {
        bool is_zero = image_is_zero(memory->ram + page * MEMORY_PAGE);

        if (page == first) {
            *zero = is_zero;
        } else if (is_zero != *zero) {
            break;
        }
        page++;
        /* In one frame all addresses follow each other: the hole ends it. */
    } while (page < pages && page - first < CHUNK && page * MEMORY_PAGE != memory->low_size &&
             (bitmap[page / 64] >> page % 64 & 1) != 0);
    return page - first;
}

bool image_write_pages(struct stream *to, const struct machine *machine, const uint64_t *bitmap, bool again,
                       const struct image_tick *tick, struct error *err)
{
    const struct memory *memory = &machine->memory;
    uint64_t pages = memory_pages(memory);

    for (uint64_t page = 0; page < pages;) {
        uint64_t gpa = memory_page_address(memory, page);
        uint64_t count;
        bool zero = false, good;

        if (bitmap[page / 64] >> page % 64 == 0) {
            page = (page / 64 + 1) * 64;
            continue;
        }
        if ((bitmap[page / 64] >> page % 64 & 1) == 0) {
            page++;
            continue;
        }
        count = image_run(memory, bitmap, page, &zero);
        if (zero) {
            good = !again || image_write_zeros(to, gpa, count, err);
        } else {
            good = image_write_piece(to, gpa, memory->ram + page * MEMORY_PAGE, count, err);
        }
        if (!good || (tick != NULL && !tick->call(tick->context, count, err))) {
            return false;
        }
        page += count;
    }
    return true;
}

static bool image_write_rom(struct stream *to, const struct memory *memory, struct error *err)
{
    uint64_t pages = memory->rom_size / MEMORY_PAGE;
    bool good = true;

    for (uint64_t page = 0; good && page < pages; page += CHUNK) {
        good = image_write_piece(to, MEMORY_HIGH - memory->rom_size + page * MEMORY_PAGE,
                                 memory->rom + page * MEMORY_PAGE, pages - page < CHUNK ? pages - page : CHUNK, err);
    }
    return good;
}

static bool image_read_piece(struct stream *from, const struct memory *memory, struct error *err)
{
    bool zeros = strcmp(from->tag, "ZERO") == 0;
    uint64_t gpa, pages;

    if (from->length < 16 || (zeros ? from->length != 16 : from->length % MEMORY_PAGE != 8)) {
        return stream_refuse(from, err, "it has a length of %" PRIu32 " bytes", from->length);
    }
    gpa = image_get64(stream_body(from));
    pages = zeros ? image_get64(stream_body(from) + 8) : from->length / MEMORY_PAGE;
    for (uint64_t i = 0; i < pages; i++) {
        uint8_t *place = memory_fill(memory, gpa + i * MEMORY_PAGE);

        if (place == NULL) {
            return stream_refuse(from, err, "the machine has no memory at 0x%" PRIx64, gpa + i * MEMORY_PAGE);
        }
        if (zeros) {
            memset(place, 0, MEMORY_PAGE);
        } else {
            memcpy(place, stream_body(from) + 8 + i * MEMORY_PAGE, MEMORY_PAGE);
        }
    }
    return true;
}

/* Configuration. */

static bool image_write_conf(struct stream *stream, const struct image_conf *conf, const struct properties *properties,
                             struct error *err)
{
    struct state_writer to;

    state_writer_init(&to);
    state_begin(&to, "CONF", CONF_VERSION);
    state_put_fields(&to, image_conf_fields, STATE_COUNT(image_conf_fields), conf);
    properties_save(properties, &to);
    state_end(&to);
    return image_write_state(stream, "CONF", &to, err);
}

static bool image_read_conf(struct stream *stream, struct image_conf *conf, struct properties *properties,
                            struct error *err)
{
    struct state_reader from;
    uint32_t version;

    state_reader_init(&from, stream_body(stream), stream->length, err);
    version = state_enter(&from, "CONF", CONF_VERSION);
    state_get_fields(&from, image_conf_fields, STATE_COUNT(image_conf_fields), conf);
    if (!from.failed) {
        properties_put(properties, WHvPartitionPropertyCodeLocalApicEmulationMode, conf->apic_mode);
    }
    return (version < 2 || properties_load(properties, &from)) && state_leave(&from) &&
           image_is_read(stream, &from, err);
}

static uint64_t image_port(int port)
{
    return port == MACHINE_NO_PORT ? NO_PORT : (uint64_t)port;
}

bool image_write_head(struct stream *to, const struct machine *machine, struct error *err)
{
    struct image_conf conf = {
        .memory = machine->config.memory,
        .rom = machine->memory.rom_size,
        .cpus = machine->config.cpus,
        .debug_exit = image_port(machine->config.debug_exit),
        .debug_console = image_port(machine->config.debug_console),
        .apic_mode = machine->apic_mode,
    };
    char engine[MACHINE_ENGINE_NAME];

    machine_engine(machine, engine);
    memcpy(conf.engine, engine, strnlen(engine, sizeof(conf.engine) - 1));
    return stream_write_head(to, err) &&
           image_write_conf(to, &conf, &machine->config.properties, err) && image_write_rom(to, &machine->memory, err);
}

static bool image_take_port(const struct stream *from, uint64_t port, int *to, struct error *err)
{
    *to = port == NO_PORT ? MACHINE_NO_PORT : (int)port;
    return port == NO_PORT || port <= 0xffff || stream_refuse(from, err, "there is no port 0x%" PRIx64, port);
}

bool image_read_head(struct stream *from, struct image *image, struct error *err)
{
    struct image_conf conf = {0};

    *image = (struct image){0};
    if (!stream_read_head(from, err) || !stream_expect(from, "CONF", err) ||
        !image_read_conf(from, &conf, &image->config.properties, err) ||
        !image_take_port(from, conf.debug_exit, &image->config.debug_exit, err) ||
        !image_take_port(from, conf.debug_console, &image->config.debug_console, err)) {
        return false;
    }
    if (conf.rom % MEMORY_PAGE != 0) {
        return stream_refuse(from, err, "a ROM of %" PRIu64 " bytes is not whole pages", conf.rom);
    }
    conf.engine[sizeof(conf.engine) - 1] = '\0';
    for (size_t i = 0; i < sizeof(image_engines) / sizeof(image_engines[0]); i++) {
        if (strcmp((const char *)conf.engine, image_engines[i]) == 0) {
            image->config.engine = image_engines[i];
        }
    }
    if (image->config.engine == NULL) {
        return error_set(err, EXIT_FAILED, "%s: the machine ran on an engine '%s', which this build does not have",
                         from->name, (const char *)conf.engine);
    }
    image->config.memory = conf.memory;
    image->config.cpus = (unsigned)conf.cpus;
    image->rom_size = conf.rom;
    return true;
}

/* State. */

static bool image_write_devices(struct stream *to, struct machine *machine, struct error *err)
{
    struct state_writer devices;

    state_writer_init(&devices);
    machine_save_devices(machine, &devices);
    return image_write_state(to, "DEVS", &devices, err);
}

static bool image_write_host(struct stream *to, struct machine *machine, bool show_downtime, struct error *err)
{
    struct image_host host = {.time_of_day = image_time_of_day(), .show_downtime = show_downtime};

    pthread_mutex_lock(&machine->lock);
    for (unsigned i = 0; i < machine->input_count; i++) {
        host.input[host.input_count++] = machine->input[(machine->input_first + i) % MACHINE_INPUT];
    }
    pthread_mutex_unlock(&machine->lock);
    return image_write_record(to, "HOST", image_host_fields, STATE_COUNT(image_host_fields), &host, err);
}

static bool image_write_partition(struct stream *to, struct machine *machine, struct error *err)
{
    UINT32 written = 0;
    HRESULT hr = BulkheadSavePartitionState(machine->partition, stream_body(to), STREAM_MAX_BODY, &written);

    if (FAILED(hr)) {
        return error_hresult(err, "BulkheadSavePartitionState", (unsigned)hr);
    }
    return stream_write(to, "PART", written, err);
}

bool image_write_tail(struct stream *to, struct machine *machine, bool show_downtime, struct error *err)
{
    return image_write_devices(to, machine, err) && image_write_host(to, machine, show_downtime, err) &&
           image_write_partition(to, machine, err) && stream_write(to, "END_", 0, err);
}

static bool image_read_devices(struct stream *from, struct machine *machine, struct error *err)
{
    struct state_reader devices;

    state_reader_init(&devices, stream_body(from), from->length, err);
    return machine_load_devices(machine, &devices) &&
           (devices.at == devices.size || stream_refuse(from, err, "something follows the last device"));
}

/* *DOWNTIME is how much later it is now, if the guest shall see that. */
static bool image_read_host(struct stream *from, struct machine *machine, bool *show_downtime, uint64_t *downtime,
                            struct error *err)
{
    struct image_host host = {0};
    uint64_t now = image_time_of_day();

    if (!image_read_record(from, "HOST", image_host_fields, STATE_COUNT(image_host_fields), &host, err)) {
        return false;
    }
    *show_downtime |= host.show_downtime;
    *downtime = *show_downtime && now > host.time_of_day ? now - host.time_of_day : 0;
    memcpy(machine->input, host.input, host.input_count);
    machine->input_count = host.input_count;
    return true;
}

static bool image_read_partition(struct stream *from, struct machine *machine, bool show_downtime, struct error *err)
{
    HRESULT hr =
        BulkheadLoadPartitionState(machine->partition, stream_body(from), from->length, show_downtime ? TRUE : FALSE);

    return SUCCEEDED(hr) || error_set(err, EXIT_FAILED,
                                      "%s: this machine cannot take the state of the processors: "
                                      "BulkheadLoadPartitionState failed with 0x%08x",
                                      from->name, (unsigned)hr);
}

static bool image_read_state(struct stream *from, struct machine *machine, bool show_downtime, struct error *err)
{
    uint64_t downtime;

    for (;;) {
        if (!stream_read(from, err)) {
            return false;
        }
        if (strcmp(from->tag, "PAGE") != 0 && strcmp(from->tag, "ZERO") != 0) {
            break;
        }
        if (!image_read_piece(from, &machine->memory, err)) {
            return false;
        }
    }
    if (strcmp(from->tag, "STOP") == 0) {
        return error_set(err, EXIT_FAILED, "%s has given up the move: %.*s", from->name, (int)from->length,
                         (const char *)stream_body(from));
    }
    if (strcmp(from->tag, "DEVS") != 0) {
        return stream_refuse(from, err, "'DEVS' should be in its place");
    }
    if (!image_read_devices(from, machine, err) || !stream_expect(from, "HOST", err) ||
        !image_read_host(from, machine, &show_downtime, &downtime, err) || !stream_expect(from, "PART", err) ||
        !image_read_partition(from, machine, show_downtime, err) || !stream_expect(from, "END_", err)) {
        return false;
    }
    machine_skip_time(machine, downtime);
    return true;
}

bool image_read_machine(struct stream *from, const struct image *image, struct machine *machine, bool show_downtime,
                        struct error *err)
{
    const struct start nowhere = {0};

    return machine_create(machine, &image->config, err) &&
           (image->rom_size == 0 || memory_add_rom(&machine->memory, image->rom_size, err)) &&
           machine_set_up(machine, &nowhere, err) && machine_pause(machine, err) &&
           image_read_state(from, machine, show_downtime, err);
}
