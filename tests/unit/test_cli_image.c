/* test_cli_image.c: a machine in a stream: what was written comes back, and what nobody would write is refused although
 * its checksums are right. */
#include "image.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

/* With RAM on both sides of the hole. */
static const struct machine_config large = {
    .cpus = 2,
    .memory = MEMORY_HOLE + 8 * MEMORY_MIB,
    .debug_exit = 0xf4,
    .debug_console = MACHINE_NO_PORT,
    .in = -1,
    .out = -1,
    .track = true,
};

static const struct machine_config small = {
    .cpus = 1,
    .memory = 4 * MEMORY_MIB,
    .debug_exit = MACHINE_NO_PORT,
    .debug_console = MACHINE_NO_PORT,
    .in = -1,
    .out = -1,
};

static struct machine *make(const struct machine_config *config, const uint8_t *rom, size_t rom_size)
{
    const struct start nowhere = {0};
    struct machine *machine = malloc(sizeof(*machine));
    struct error err = {0};

    assert_non_null(machine);
    if (!machine_create(machine, config, &err) ||
        (rom_size > 0 && !memory_set_rom(&machine->memory, rom, rom_size, &err)) ||
        !machine_set_up(machine, &nowhere, &err)) {
        fail_msg("%s", err.text);
    }
    return machine;
}

static void unmake(struct machine *machine)
{
    machine_destroy(machine);
    free(machine);
}

/* A stream to an unnamed file, to be written and then read. */
static void open_stream(struct stream *stream)
{
    struct error err = {0};
    int fd = memfd_create("stream", MFD_CLOEXEC);

    assert_true(fd >= 0);
    if (!stream_init(stream, fd, "FILE", NULL, &err)) {
        fail_msg("%s", err.text);
    }
}

static void close_stream(struct stream *stream)
{
    close(stream->fd);
    stream_free(stream);
}

static void rewind_stream(struct stream *stream)
{
    assert_int_equal(lseek(stream->fd, 0, SEEK_SET), 0);
    stream->read = 0;
}

static void set_page(uint64_t *bitmap, uint64_t page)
{
    bitmap[page / 64] |= UINT64_C(1) << page % 64;
}

static void write_pages(struct stream *stream, struct machine *machine, const uint64_t *bitmap, bool again)
{
    struct error err = {0};

    if (!image_write_pages(stream, machine, bitmap, again, NULL, &err)) {
        fail_msg("%s", err.text);
    }
}

/* Pages on both sides of the hole and at both ends, a ROM, a page that is zero again, and input that nobody read. */
static void test_round_trip(void **state)
{
    static const uint8_t rom[] = "the end of the ROM";
    struct machine *machine = make(&large, rom, sizeof(rom)), *other = malloc(sizeof(*other));
    const uint64_t last = memory_pages(&machine->memory) - 1, high = MEMORY_HOLE / MEMORY_PAGE;
    const uint64_t pages[] = {0, 1, 255, 256, 600, high - 1, high, high + 1, last};
    uint64_t *bitmap = calloc(memory_words(&machine->memory), sizeof(*bitmap));
    struct stream stream;
    struct image image;
    struct error err = {0};

    (void)state;
    assert_non_null(other);
    assert_non_null(bitmap);
    for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
        memset(machine->memory.ram + pages[i] * MEMORY_PAGE, (int)i + 1, MEMORY_PAGE);
        set_page(bitmap, pages[i]);
    }
    memcpy(machine->input, "typed", 5);
    machine->input_count = 5;
    assert_true(machine_pause(machine, &err));
    open_stream(&stream);
    assert_true(image_write_head(&stream, machine, &err));
    write_pages(&stream, machine, bitmap, false);
    memset(machine->memory.ram + pages[4] * MEMORY_PAGE, 0, MEMORY_PAGE);
    write_pages(&stream, machine, bitmap, true);
    assert_true(image_write_tail(&stream, machine, false, &err));

    rewind_stream(&stream);
    assert_true(image_read_head(&stream, &image, &err));
    assert_int_equal(image.config.cpus, 2);
    assert_int_equal(image.config.memory, large.memory);
    assert_int_equal(image.config.debug_exit, 0xf4);
    assert_int_equal(image.config.debug_console, MACHINE_NO_PORT);
    if (!image_read_machine(&stream, &image, other, false, &err) || !stream_read_end(&stream, &err)) {
        fail_msg("%s", err.text);
    }
    for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
        assert_memory_equal(machine->memory.ram + pages[i] * MEMORY_PAGE, other->memory.ram + pages[i] * MEMORY_PAGE,
                            MEMORY_PAGE);
    }
    assert_int_equal(other->memory.rom_size, MEMORY_PAGE);
    assert_string_equal(memory_peek(&other->memory, MEMORY_HIGH - sizeof(rom), sizeof(rom)), (const char *)rom);
    assert_int_equal(other->input_count, 5);
    assert_memory_equal(other->input, "typed", 5);
    assert_true(other->paused);
    close_stream(&stream);
    free(bitmap);
    unmake(machine);
    unmake(other);
}

/* What the command writes in the guest's place is told as what the guest writes is: once, and beyond the hole, too. */
static void test_marks(void **state)
{
    struct machine *machine = make(&large, NULL, 0);
    size_t words = memory_words(&machine->memory);
    uint64_t *bitmap = calloc(words, sizeof(*bitmap)), *expected = calloc(words, sizeof(*expected));
    struct error err = {0};

    (void)state;
    assert_non_null(bitmap);
    assert_non_null(expected);
    assert_true(memory_take_written(&machine->memory, machine->partition, bitmap, &err));
    memset(bitmap, 0, words * sizeof(*bitmap));
    memory_mark(&machine->memory, 5 * MEMORY_PAGE + 4095, 2);
    memory_mark(&machine->memory, MEMORY_HIGH + MEMORY_PAGE, 1);
    memory_mark(&machine->memory, MEMORY_HOLE, 8); /* no RAM */
    set_page(expected, 5);
    set_page(expected, 6);
    set_page(expected, MEMORY_HOLE / MEMORY_PAGE + 1);
    assert_true(memory_take_written(&machine->memory, machine->partition, bitmap, &err));
    assert_memory_equal(bitmap, expected, words * sizeof(*bitmap));
    memset(bitmap, 0, words * sizeof(*bitmap));
    memset(expected, 0, words * sizeof(*expected));
    assert_true(memory_take_written(&machine->memory, machine->partition, bitmap, &err));
    assert_memory_equal(bitmap, expected, words * sizeof(*bitmap));
    free(bitmap);
    free(expected);
    unmake(machine);
}

/* xor ax, ax; mov es, ax; mov di, 0x3000; mov dx, 0x3fd; insb; mov dx, 0x604; mov ax, 0x2000; out dx, ax; jmp $ */
static const uint8_t insb_guest[] = {0x31, 0xc0, 0x8e, 0xc0, 0xbf, 0x00, 0x30, 0xba, 0xfd, 0x03, 0x6c, 0xba,
                                     0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xeb, 0xfe};

/* An instruction that reads a port into memory is done by the command. */
static void test_marks_of_emulation(void **state)
{
    struct machine *machine = malloc(sizeof(*machine));
    struct machine_config config = small;
    struct start start = {0};
    struct error err = {0};
    uint64_t bitmap[MEMORY_MIB * 4 / MEMORY_PAGE / 64] = {0};
    sigset_t none;

    (void)state;
    assert_non_null(machine);
    config.track = true;
    assert_true(machine_create(machine, &config, &err));
    memcpy(memory_at(&machine->memory, 0x7c00, sizeof(insb_guest)), insb_guest, sizeof(insb_guest));
    start_set(&start, WHvX64RegisterRip, 0x7c00);
    start_set_segment(&start, WHvX64RegisterCs, 0, 0, 0xffff, 0x9b);
    if (!machine_set_up(machine, &start, &err)) {
        fail_msg("%s", err.text);
    }
    sigemptyset(&none);
    assert_true(machine_run(machine, &none, &err));
    assert_int_equal(machine->end.kind, MACHINE_POWER_OFF);
    assert_int_equal(*(uint8_t *)memory_at(&machine->memory, 0x3000, 1), 0x60); /* nothing received, nothing to send */
    assert_true(memory_take_written(&machine->memory, machine->partition, bitmap, &err));
    assert_int_equal(bitmap[0] & 0xff, 1 << 3);
    unmake(machine);
}

/* A page that was touched stays, wherever it is; the others need not be read. */
static void test_untouched(void **state)
{
    struct machine *machine = make(&large, NULL, 0);
    size_t words = memory_words(&machine->memory);
    uint64_t *bitmap = malloc(words * sizeof(*bitmap));
    const uint64_t pages[] = {0, 4096, memory_pages(&machine->memory) - 1};
    uint64_t left = 0;

    (void)state;
    assert_non_null(bitmap);
    memset(bitmap, 0xff, words * sizeof(*bitmap));
    for (size_t i = 0; i < 3; i++) {
        machine->memory.ram[pages[i] * MEMORY_PAGE + 5] = 1;
    }
    memory_drop_untouched(&machine->memory, bitmap);
    for (size_t i = 0; i < 3; i++) {
        assert_true((bitmap[pages[i] / 64] >> pages[i] % 64 & 1) != 0);
    }
    for (size_t i = 0; i < words; i++) {
        left += (unsigned)__builtin_popcountll(bitmap[i]);
    }
    /* The host may have given more around each. */
    assert_in_range(left, 3, 3 * 512);
    free(bitmap);
    unmake(machine);
}

#define HOUR UINT64_C(3600000000000)
#define HOST_TIME_AT 12 /* behind the header of the record: the time of day */

/* FROM again in TO, as if it had been written an hour ago. */
static void copy_earlier(struct stream *from, struct stream *to)
{
    struct error err = {0};
    uint64_t time;

    rewind_stream(from);
    assert_true(stream_read_head(from, &err) && stream_write_head(to, &err));
    do {
        assert_true(stream_read(from, &err));
        memcpy(stream_body(to), stream_body(from), from->length);
        if (strcmp(from->tag, "HOST") == 0) {
            memcpy(&time, stream_body(to) + HOST_TIME_AT, sizeof(time));
            time -= HOUR;
            memcpy(stream_body(to) + HOST_TIME_AT, &time, sizeof(time));
        }
        assert_true(stream_write(to, from->tag, from->length, &err));
    } while (strcmp(from->tag, "END_") != 0);
    rewind_stream(to);
}

/* The devices' clocks go on where they were, or later by the time that went by, and do not go back on resuming. */
static void test_downtime(void **state)
{
    struct machine *machine = make(&small, NULL, 0);
    struct stream stream;
    struct error err = {0};

    (void)state;
    assert_true(machine_pause(machine, &err));
    open_stream(&stream);
    assert_true(image_write_head(&stream, machine, &err) && image_write_tail(&stream, machine, false, &err));
    for (unsigned show = 0; show < 2; show++) {
        struct machine *other = malloc(sizeof(*other));
        struct stream earlier;
        struct image image;
        uint64_t stood;

        assert_non_null(other);
        open_stream(&earlier);
        copy_earlier(&stream, &earlier);
        assert_true(image_read_head(&earlier, &image, &err));
        if (!image_read_machine(&earlier, &image, other, show != 0, &err)) {
            fail_msg("%s", err.text);
        }
        stood = timers_now(&other->timers);
        /* The list's clock is the host's; an hour is longer than all of this takes. */
        assert_int_equal(stood > timers_monotonic(), show);
        machine_resume(other);
        assert_true(timers_now(&other->timers) >= stood);
        close_stream(&earlier);
        unmake(other);
    }
    close_stream(&stream);
    unmake(machine);
}

/* Frames behind a head that is right. */
struct wrong {
    const char *tag;
    uint64_t words[2]; /* the body begins with these */
    uint32_t length;
    const char *text;  /* in the error */
};

static const struct wrong wrongs[] = {
    {"PAGE", {8 * MEMORY_MIB}, 8 + 4096, "no memory at 0x800000"},
    {"PAGE", {4 * MEMORY_MIB - 4096}, 8 + 2 * 4096, "no memory at 0x400000"},
    {"PAGE", {1}, 8 + 4096, "no memory at 0x1"},
    {"PAGE", {UINT64_MAX - 4095}, 8 + 2 * 4096, "no memory at 0xf"},
    {"PAGE", {0}, 8, "length of 8"},
    {"PAGE", {0}, 100, "length of 100"},
    {"ZERO", {0, UINT64_MAX}, 16, "no memory at 0x400000"},
    {"ZERO", {0, 1}, 24, "length of 24"},
    {"CONF", {0}, 0, "'DEVS' should be in its place"},
    {"HOST", {0}, 0, "'DEVS' should be in its place"},
    {"END_", {0}, 0, "'DEVS' should be in its place"},
    {"DEVS", {0}, 0, "CONF"},
    {"DEVS", {0, 0}, 16, "CONF"},
    {"STOP", {0}, 0, "given up"},
};

static void test_wrong_frames(void **state)
{
    struct machine *machine = make(&small, NULL, 0);

    (void)state;
    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        struct machine *other = malloc(sizeof(*other));
        struct stream stream;
        struct image image;
        struct error err = {0};

        assert_non_null(other);
        open_stream(&stream);
        assert_true(image_write_head(&stream, machine, &err));
        memset(stream_body(&stream), 0, wrongs[i].length);
        memcpy(stream_body(&stream), wrongs[i].words, wrongs[i].length < 16 ? wrongs[i].length : 16);
        assert_true(stream_write(&stream, wrongs[i].tag, wrongs[i].length, &err));
        rewind_stream(&stream);
        assert_true(image_read_head(&stream, &image, &err));
        assert_false(image_read_machine(&stream, &image, other, false, &err));
        assert_int_equal(err.code, EXIT_FAILED);
        if (strstr(err.text, wrongs[i].text) == NULL) {
            fail_msg("%zu: %s", i, err.text);
        }
        close_stream(&stream);
        unmake(other);
    }
    unmake(machine);
}

/* Each field of a configuration as nobody writes it. */
static void test_wrong_configurations(void **state)
{
    static const struct {
        size_t field; /* of eight bytes each; the name of the engine behind them */
        uint64_t value;
        const char *text;
    } fields[] = {
        {0, 0, "memory"},           {0, UINT64_C(1) << 63, "memory"},
        {1, UINT64_C(1) << 32, "rom"}, {1, 4097, "whole pages"},
        {2, 0, "cpus"},             {2, 65, "cpus"},
        {3, 0x10000, "no port"},    {4, UINT64_C(1) << 33, "debug_console"},
        {5, 0, "apic_mode"},        {5, 9, "apic_mode"},
        {6, 0x656e6f6e, "engine 'none'"},
    };
    enum { RECORD_HEADER = 12 };
    struct machine *machine = make(&small, NULL, 0);

    (void)state;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        struct stream written, stream;
        struct image image;
        struct error err = {0};

        open_stream(&written);
        assert_true(image_write_head(&written, machine, &err));
        rewind_stream(&written);
        assert_true(stream_read_head(&written, &err) && stream_expect(&written, "CONF", &err));
        open_stream(&stream);
        assert_true(stream_write_head(&stream, &err));
        memcpy(stream_body(&stream), stream_body(&written), written.length);
        memcpy(stream_body(&stream) + RECORD_HEADER + 8 * fields[i].field, &fields[i].value, 8);
        assert_true(stream_write(&stream, "CONF", written.length, &err));
        rewind_stream(&stream);
        assert_false(image_read_head(&stream, &image, &err));
        assert_int_equal(err.code, EXIT_FAILED);
        if (strstr(err.text, fields[i].text) == NULL) {
            fail_msg("%zu: %s", i, err.text);
        }
        close_stream(&stream);
        close_stream(&written);
    }
    unmake(machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_marks_of_emulation),
        cmocka_unit_test(test_untouched),
        cmocka_unit_test(test_downtime),
        cmocka_unit_test(test_wrong_frames),
        cmocka_unit_test(test_wrong_configurations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
