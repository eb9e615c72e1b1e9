/* test_cli_machine.c: the machine of the bulkhead command as a whole: its devices saved and loaded, and the machine
 * paused and resumed while it runs, is typed at, and ends. */
#include "loaders/loader.h"
#include "machine.h"

#include <inttypes.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define CPUS 2
#define CODE 0x7c00
#define COUNTER 0x500 /* the guest counts here */
#define LEAVE 0x504   /* and powers off when this is not 0 */

/* mov dx, 0x3f9; mov al, 1; out dx, al: the guest listens to its serial line.
 * again: inc dword [COUNTER]; cmp byte [LEAVE], 0; je again
 * mov dx, 0x604; mov ax, 0x2000; out dx, ax; jmp $ */
static const uint8_t guest[] = {0xba, 0xf9, 0x03, 0xb0, 0x01, 0xee, 0x66, 0xff, 0x06, 0x00, 0x05,
                                0x80, 0x3e, 0x04, 0x05, 0x00, 0x74, 0xf4, 0xba, 0x04, 0x06, 0xb8,
                                0x00, 0x20, 0xef, 0xeb, 0xfe};

#define ROUNDS 80u

static const struct machine_config plain = {
    .cpus = CPUS,
    .memory = 4 << 20,
    .debug_exit = MACHINE_NO_PORT,
    .debug_console = MACHINE_NO_PORT,
    .in = -1,
    .out = -1,
};

static struct machine *make(const struct machine_config *config)
{
    struct machine *machine = malloc(sizeof(*machine));
    struct error err;

    assert_non_null(machine);
    if (!machine_create(machine, config, &err)) {
        fail_msg("%s", err.text);
    }
    return machine;
}

static void unmake(struct machine *machine)
{
    machine_destroy(machine);
    free(machine);
}

/* Saving and loading. */

/* Something in every device that is not as it is at power-on. */
static void use_devices(struct machine *machine)
{
    static const struct {
        uint16_t port;
        uint8_t value;
    } writes[] = {
        {0x21, 0xfa}, {0x43, 0x34}, {0x40, 0x34}, {0x40, 0x12},  {0x70, 0x0b},  {0x71, 0x42},
        {0x602, 1},   {0x92, 2},    {0xcf9, 2},   {0x3f8 + 7, 7}, {0x3f8 + 1, 1},
    };

    for (size_t i = 0; i < sizeof(writes) / sizeof(writes[0]); i++) {
        bus_port_write(&machine->bus, writes[i].port, 1, writes[i].value);
    }
    bus_port_write(&machine->bus, 0xcf8, 4, 0x80001234);
    assert_true(bus_mmio_write(&machine->bus, IOAPIC_ADDRESS, 4, 0x15));
    uart_receive(&machine->uart, 'u');
}

static void save(struct machine *machine, struct state_writer *to)
{
    struct error err;

    state_writer_init(to);
    machine_save_devices(machine, to);
    assert_true(state_writer_complete(to, &err));
}

static bool load(struct machine *machine, const void *data, size_t size, struct error *err)
{
    struct state_reader from;
    uint8_t *copy = malloc(size + (size == 0));
    bool good;

    assert_non_null(copy);
    memcpy(copy, data, size);
    memset(err, 0, sizeof(*err));
    state_reader_init(&from, copy, size, err);
    good = machine_load_devices(machine, &from);
    assert_int_equal(good, !from.failed);
    assert_true(!good || from.at == size);
    free(copy);
    return good;
}

static void assert_same(struct machine *machine, const struct state_writer *saved)
{
    struct state_writer now;

    save(machine, &now);
    assert_int_equal(now.size, saved->size);
    assert_memory_equal(now.data, saved->data, saved->size);
    state_writer_free(&now);
}

static void test_saved_and_loaded(void **state)
{
    struct machine *first = make(&plain), *second = make(&plain);
    struct state_writer saved, fresh;
    struct error err;
    uint64_t value;

    (void)state;
    use_devices(first);
    pic_set(&first->pic, 0, true);
    timers_stop(&first->timers);
    timers_stop(&second->timers);
    save(first, &saved);
    save(second, &fresh);
    assert_memory_not_equal(saved.data, fresh.data, saved.size);
    /* With less than all of it nothing is loaded, not even the devices that are complete. */
    for (size_t size = 0; size < saved.size; size++) {
        assert_false(load(second, saved.data, size, &err));
        assert_memory_equal(err.text, "saved state: record '", 21);
        if (size % 16 == 0) {
            assert_same(second, &fresh);
        }
    }
    assert_same(second, &fresh);
    saved.data[saved.size - 1] = 2;
    assert_false(load(second, saved.data, saved.size, &err));
    assert_string_equal(err.text, "saved state: record 'CONS': field 'stalled' is 2");
    assert_same(second, &fresh);
    assert_false(atomic_load(&second->intr));
    /* The console of the first had no room: who waits for it is told by the second. */
    saved.data[saved.size - 1] = 1;
    if (!load(second, saved.data, saved.size, &err)) {
        fail_msg("%s", err.text);
    }
    assert_true(second->output_stalled);
    assert_same(second, &saved);
    assert_true(first->pic.output);
    assert_true(atomic_load(&second->intr));
    assert_true(bus_mmio_read(&second->bus, IOAPIC_ADDRESS, 4, &value));
    assert_int_equal(value, 0x15);
    assert_int_equal(bus_port_read(&second->bus, 0x3f8, 1), 'u');
    assert_int_equal(bus_port_read(&second->bus, 0xcf8, 4), 0x80001234);
    assert_true(second->pit.timer.deadline != TIMERS_NEVER);
    state_writer_free(&saved);
    state_writer_free(&fresh);
    unmake(first);
    unmake(second);
}

/* A flipped byte anywhere is refused, with nothing changed, or leaves devices that stand every access. */
static void test_damaged(void **state)
{
    struct machine *first = make(&plain), *second = make(&plain);
    struct state_writer saved, before;
    struct error err;

    (void)state;
    use_devices(first);
    timers_stop(&first->timers);
    timers_stop(&second->timers);
    save(first, &saved);
    for (size_t i = 0; i < saved.size; i++) {
        saved.data[i] ^= 1u << i % 8;
        save(second, &before);
        if (!load(second, saved.data, saved.size, &err)) {
            assert_same(second, &before);
        } else {
            for (unsigned port = 0; port < 0x700; port++) {
                (void)bus_port_read(&second->bus, (uint16_t)port, 1);
            }
        }
        state_writer_free(&before);
        saved.data[i] ^= 1u << i % 8;
    }
    state_writer_free(&saved);
    unmake(first);
    unmake(second);
}

static void test_another_machine(void **state)
{
    struct machine_config memory = plain, cpus = plain, debug_exit = plain, debug_console = plain;
    struct machine *machine = make(&plain), *with_firmware = make(&plain);
    struct state_writer saved;
    struct error err;

    (void)state;
    memory.memory = 8 << 20;
    cpus.cpus = 1;
    debug_exit.debug_exit = 0xf4;
    debug_console.debug_console = 0x402;
    assert_true(memory_set_rom(&with_firmware->memory, guest, sizeof(guest), &err));
    const struct {
        const struct machine_config *config;
        const char *text;
    } rows[] = {
        {&memory, "memory is 4194304 bytes, and this machine's is 8388608 bytes"},
        {&cpus, "number of processors is 2, and this machine's is 1"},
        {&debug_exit, "debug exit port is none, and this machine's is 0xf4"},
        {&debug_console, "debug console port is none, and this machine's is 0x402"},
    };

    save(machine, &saved);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct machine *other = make(rows[i].config);
        char text[256];

        snprintf(text, sizeof(text), "saved state: record 'CONF': the saved machine's %s", rows[i].text);
        assert_false(load(other, saved.data, saved.size, &err));
        assert_string_equal(err.text, text);
        unmake(other);
    }
    assert_false(load(with_firmware, saved.data, saved.size, &err));
    assert_non_null(strstr(err.text, "firmware is 0 bytes, and this machine's is 4096 bytes"));
    state_writer_free(&saved);
    save(with_firmware, &saved);
    assert_false(load(machine, saved.data, saved.size, &err));
    assert_non_null(strstr(err.text, "firmware is 4096 bytes, and this machine's is 0 bytes"));
    state_writer_free(&saved);
    unmake(machine);
    unmake(with_firmware);
}

/* Pausing. */

struct run {
    struct machine *machine;
    pthread_t thread;
    sigset_t signals;
    struct error err;
    bool good;
    int in[2], out[2];
    unsigned delay; /* of leave_thread */
};

static void *run_thread(void *context)
{
    struct run *run = context;

    run->good = machine_run(run->machine, &run->signals, &run->err);
    return NULL;
}

static void run_make(struct run *run)
{
    struct machine_config config = plain;
    struct start start = {0};
    void *code;

    memset(run, 0, sizeof(*run));
    sigemptyset(&run->signals);
    sigaddset(&run->signals, SIGINT);
    assert_int_equal(pipe(run->in), 0);
    assert_int_equal(pipe(run->out), 0);
    config.in = run->in[0];
    config.out = run->out[1];
    run->machine = make(&config);
    code = memory_at(&run->machine->memory, CODE, sizeof(guest));
    assert_non_null(code);
    memcpy(code, guest, sizeof(guest));
    start_set_segment(&start, WHvX64RegisterCs, 0, 0, 0xffff, 0x009b);
    start_set(&start, WHvX64RegisterRip, CODE);
    start.virtual_wire = true;
    if (!machine_set_up(run->machine, &start, &run->err)) {
        fail_msg("%s", run->err.text);
    }
}

static void run_start(struct run *run)
{
    assert_int_equal(pthread_create(&run->thread, NULL, run_thread, run), 0);
}

/* Waits for the end, which has to be of KIND. */
static void run_end(struct run *run, enum machine_end_kind kind)
{
    pthread_join(run->thread, NULL);
    if (!run->good || run->machine->end.kind != kind) {
        fail_msg("ends with %d: %s %s", (int)run->machine->end.kind, run->machine->end.text, run->err.text);
    }
    unmake(run->machine);
    for (unsigned i = 0; i < 2; i++) {
        close(run->in[i]);
        close(run->out[i]);
    }
}

static volatile uint32_t *guest_word(const struct run *run, uint64_t gpa)
{
    return memory_at(&run->machine->memory, gpa, sizeof(uint32_t));
}

static void wait_for_progress(const struct run *run)
{
    uint32_t before = *guest_word(run, COUNTER);

    while (*guest_word(run, COUNTER) == before) {
        sched_yield();
    }
}

/* A paused guest does not count, however long it is watched. */
static void assert_stands(const struct run *run)
{
    uint32_t before = *guest_word(run, COUNTER);

    for (unsigned i = 0; i < 50; i++) {
        sched_yield();
        assert_int_equal(*guest_word(run, COUNTER), before);
    }
}

static void pause_run(struct run *run)
{
    if (!machine_pause(run->machine, &run->err)) {
        fail_msg("%s", run->err.text);
    }
}

static uint64_t pm_timer(struct run *run)
{
    uint64_t value;

    pthread_mutex_lock(&run->machine->lock);
    value = pm_timer_read(&run->machine->pm, 0, 4);
    pthread_mutex_unlock(&run->machine->lock);
    return value;
}

static void test_paused_many_times(void **state)
{
    struct run run;

    (void)state;
    run_make(&run);
    run_start(&run);
    wait_for_progress(&run);
    for (unsigned i = 0; i < 300; i++) {
        pause_run(&run);
        uint64_t ticks = pm_timer(&run);

        assert_stands(&run);
        assert_int_equal(pm_timer(&run), ticks);
        assert_int_equal(timers_next(&run.machine->timers), TIMERS_NEVER);
        assert_false(machine_pause(run.machine, &run.err));
        assert_string_equal(run.err.text, "the machine is paused already");
        machine_resume(run.machine);
        if (i % 2 == 0) {
            wait_for_progress(&run);
        }
    }
    machine_resume(run.machine); /* of one that runs: nothing */
    wait_for_progress(&run);
    *guest_word(&run, LEAVE) = 1;
    run_end(&run, MACHINE_POWER_OFF);
}

/* Paused before it runs, it starts with its processors held. */
static void test_paused_before_the_run(void **state)
{
    struct run run;
    bool held = false;

    (void)state;
    run_make(&run);
    pause_run(&run);
    run_start(&run);
    while (!held) {
        pthread_mutex_lock(&run.machine->end_lock);
        held = run.machine->held == CPUS;
        pthread_mutex_unlock(&run.machine->end_lock);
        sched_yield();
    }
    assert_int_equal(*guest_word(&run, COUNTER), 0);
    machine_resume(run.machine);
    wait_for_progress(&run);
    *guest_word(&run, LEAVE) = 1;
    run_end(&run, MACHINE_POWER_OFF);
}

static void *leave_thread(void *context)
{
    const struct run *run = context;

    for (unsigned i = 0; i < run->delay; i++) {
        sched_yield();
    }
    *guest_word(run, LEAVE) = 1;
    return NULL;
}

/* The guest powers off while the pause is under way: either it comes to that in the end, or the pause is refused. */
static void test_power_off_in_a_pause(void **state)
{
    unsigned paused = 0;

    (void)state;
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct run run;
        pthread_t leaver;

        run_make(&run);
        run_start(&run);
        wait_for_progress(&run);
        run.delay = i;
        assert_int_equal(pthread_create(&leaver, NULL, leave_thread, &run), 0);
        for (unsigned j = 0; j < ROUNDS / 2; j++) {
            sched_yield();
        }
        if (machine_pause(run.machine, &run.err)) {
            assert_stands(&run);
            machine_resume(run.machine);
            paused++;
        } else {
            assert_string_equal(run.err.text, "the machine cannot be paused any more: the guest powered off");
        }
        pthread_join(leaver, NULL);
        run_end(&run, MACHINE_POWER_OFF);
    }
    printf("paused before it was off: %u of %u\n", paused, ROUNDS);
}

static unsigned typed(struct run *run, unsigned *received)
{
    unsigned count;

    pthread_mutex_lock(&run->machine->lock);
    count = run->machine->input_count;
    *received = run->machine->uart.fifo_count;
    pthread_mutex_unlock(&run->machine->lock);
    return count;
}

/* What is typed meanwhile is read, and reaches the serial port afterwards. */
static void test_input_in_a_pause(void **state)
{
    struct run run;
    unsigned received;

    (void)state;
    run_make(&run);
    run_start(&run);
    wait_for_progress(&run);
    pause_run(&run);
    assert_int_equal(write(run.in[1], "a", 1), 1);
    while (typed(&run, &received) == 0) {
        sched_yield();
    }
    assert_int_equal(received, 0);
    machine_resume(run.machine);
    while (typed(&run, &received) != 0) {
        sched_yield();
    }
    assert_int_equal(received, 1);
    *guest_word(&run, LEAVE) = 1;
    run_end(&run, MACHINE_POWER_OFF);
}

static void test_user_ends_a_pause(void **state)
{
    struct run run;

    (void)state;
    run_make(&run);
    run_start(&run);
    wait_for_progress(&run);
    pause_run(&run);
    assert_int_equal(write(run.in[1], "\x01x", 2), 2);
    pthread_join(run.thread, NULL);
    assert_stands(&run);
    machine_resume(run.machine);
    assert_stands(&run);
    assert_false(machine_pause(run.machine, &run.err));
    assert_string_equal(run.err.text, "the machine cannot be paused any more: ended by the user");
    assert_int_equal(pthread_create(&run.thread, NULL, run_thread, &run), 0); /* ends at once */
    run_end(&run, MACHINE_USER);
}

static void test_signal_ends_a_pause(void **state)
{
    struct run run;

    (void)state;
    run_make(&run);
    run_start(&run);
    wait_for_progress(&run);
    pause_run(&run);
    assert_int_equal(kill(getpid(), SIGINT), 0);
    run_end(&run, MACHINE_SIGNAL);
}

static void test_timeout_ends_a_pause(void **state)
{
    struct run run;

    (void)state;
    run_make(&run);
    run.machine->config.timeout = 0.01;
    pause_run(&run);
    run_start(&run);
    run_end(&run, MACHINE_TIMEOUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saved_and_loaded),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_another_machine),
        cmocka_unit_test(test_paused_many_times),
        cmocka_unit_test(test_paused_before_the_run),
        cmocka_unit_test(test_power_off_in_a_pause),
        cmocka_unit_test(test_input_in_a_pause),
        cmocka_unit_test(test_user_ends_a_pause),
        cmocka_unit_test(test_signal_ends_a_pause),
        cmocka_unit_test(test_timeout_ends_a_pause),
    };
    sigset_t signals;

    /* For all threads to come, as cmd_run.c does. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
