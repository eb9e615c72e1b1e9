/* test_cli_boot.c: boots Linux and pauses it all the time. In each pause the devices are saved, put back to what they
 * are at power-on, and loaded: what they know and do not save is lost to the guest.
 *
 * usage: test_cli_boot KERNEL INITRAMFS CPUS */
#include "loaders/loader.h"
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* As few pauses as this would test nothing: a guest needs many times as long to boot. */
#define LEAST_PAUSES 20

static void *run_thread(void *context)
{
    struct machine *machine = context;
    struct error err;
    sigset_t none;

    sigemptyset(&none);
    if (!machine_run(machine, &none, &err)) {
        fprintf(stderr, "test_cli_boot: %s\n", err.text);
    }
    return NULL;
}

/* All devices as after machine_create, but for what is not theirs: the clock, and output that has to be shown. */
static void power_on(struct machine *machine)
{
    struct timer recheck = machine->recheck, flush = machine->flush;

    machine->timers.first = NULL;
    timer_add(&machine->recheck, &machine->timers, recheck.fire, recheck.context);
    timer_add(&machine->flush, &machine->timers, flush.fire, flush.context);
    machine->flush.deadline = flush.deadline;
    pic_init(&machine->pic, machine->pic.intr, machine->pic.context);
    ioapic_init(&machine->ioapic, 0, machine->ioapic.deliver, machine->ioapic.context);
    pit_init(&machine->pit, &machine->timers, machine->pit.irq);
    rtc_init(&machine->rtc, &machine->timers, machine->rtc.wall, machine->rtc.irq);
    pm_init(&machine->pm, &machine->timers, machine->pm.sci, machine->pm.power_off, machine->pm.context);
    reset_init(&machine->reset, machine->reset.request, machine->reset.context);
    uart_init(&machine->uart, machine->uart.irq, machine->uart.line);
    machine->pciconf = (struct pciconf){0};
}

static bool save(struct machine *machine, struct state_writer *to, struct error *err)
{
    state_writer_init(to);
    machine_save_devices(machine, to);
    return state_writer_complete(to, err);
}

/* The machine is paused. */
static bool save_and_load(struct machine *machine, struct error *err)
{
    struct state_writer saved, again = {0};
    struct state_reader from;
    bool good = save(machine, &saved, err);

    if (good) {
        pthread_mutex_lock(&machine->lock);
        power_on(machine);
        pthread_mutex_unlock(&machine->lock);
        state_reader_init(&from, saved.data, saved.size, err);
        good = machine_load_devices(machine, &from) && save(machine, &again, err);
    }
    if (good && (again.size != saved.size || memcmp(again.data, saved.data, saved.size) != 0)) {
        good = error_set(err, EXIT_FAILED, "what was loaded is not what was saved");
    }
    state_writer_free(&saved);
    state_writer_free(&again);
    return good;
}

/* Pauses until the machine has ended. Between two pauses the guest gets on by a few milliseconds. */
static bool pause_all_the_time(struct machine *machine, unsigned *pauses, struct error *err)
{
    while (machine_pause(machine, err)) {
        bool good = save_and_load(machine, err);

        machine_resume(machine);
        if (!good) {
            return false;
        }
        struct timespec between = {.tv_nsec = (long)(++*pauses * 7919u % 8000u) * 1000};

        nanosleep(&between, NULL);
    }
    return atomic_load(&machine->ended);
}

static bool boot(struct machine *machine, char **argv, struct error *err)
{
    const struct machine_config config = {
        .cpus = (unsigned)atoi(argv[3]),
        .memory = UINT64_C(512) << 20,
        .timeout = 150,
        .debug_exit = MACHINE_NO_PORT,
        .debug_console = MACHINE_NO_PORT,
        .in = STDIN_FILENO,
        .out = STDOUT_FILENO,
    };
    const struct linux_options guest = {
        .kernel = argv[1],
        .initrd = argv[2],
        .append = "console=ttyS0 panic=-1 bulkhead.batch",
        .cpus = config.cpus,
    };
    struct start start = {0};
    unsigned pauses = 0;
    pthread_t thread;
    bool good;

    if (!machine_create(machine, &config, err) || !linux_load(&machine->memory, &guest, &start, err) ||
        !machine_set_up(machine, &start, err)) {
        return false;
    }
    if (pthread_create(&thread, NULL, run_thread, machine) != 0) {
        return error_set(err, EXIT_FAILED, "no thread");
    }
    good = pause_all_the_time(machine, &pauses, err);
    if (!good) {
        machine_end(machine, MACHINE_HOST_ERROR, EXIT_FAILED, "%s", err->text);
    }
    pthread_join(thread, NULL);
    printf("%u pauses; %s\n", pauses, machine->end.text);
    if (good && machine->end.kind != MACHINE_POWER_OFF) {
        return error_set(err, EXIT_FAILED, "it ends otherwise: %s", machine->end.text);
    }
    return good && (pauses >= LEAST_PAUSES || error_set(err, EXIT_FAILED, "only %u pauses", pauses));
}

int main(int argc, char **argv)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    struct error err = {0};
    bool good = argc == 4 && machine != NULL && boot(machine, argv, &err);

    if (!good) {
        fprintf(stderr, "test_cli_boot: %s\n", err.text);
    }
    if (machine != NULL && machine->wake_fd > 0) {
        machine_destroy(machine);
    }
    free(machine);
    return good ? EXIT_OK : EXIT_FAILED;
}
