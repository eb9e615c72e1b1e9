/* machine.c: putting the PC together: devices on the bus, wires between them, and the partition. */
#include "machine.h"

#include <bulkhead/bulkhead.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Output without an end of line is shown after this long at the latest. */
#define FLUSH_NS UINT64_C(5000000)

/* Output this long is shown even without an end of line. */
#define FLUSH_BYTES 1024

enum { IRQ_TIMER = 0, IRQ_SERIAL = 4, IRQ_CLOCK = 8 };

void machine_wake(struct machine *machine)
{
    const uint64_t one = 1;

    /* Fails only when the counter is full, and then the reader wakes anyway. */
    (void)!write(machine->wake_fd, &one, sizeof(one));
}

static void machine_wake_timers(void *context)
{
    machine_wake(context);
}

static void machine_end_va(struct machine *machine, enum machine_end_kind kind, int code, const char *detail,
                           const char *format, va_list args)
{
    pthread_mutex_lock(&machine->end_lock);
    if (machine->end.kind == MACHINE_RUNNING) {
        machine->end.kind = kind;
        machine->end.code = code;
        vsnprintf(machine->end.text, sizeof(machine->end.text), format, args);
        snprintf(machine->end.detail, sizeof(machine->end.detail), "%s", detail);
        atomic_store(&machine->ended, true);
        pthread_cond_broadcast(&machine->changed);
    }
    pthread_mutex_unlock(&machine->end_lock);
    machine_wake(machine);
}

void machine_end(struct machine *machine, enum machine_end_kind kind, int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    machine_end_va(machine, kind, code, "", format, args);
    va_end(args);
}

void machine_end_detail(struct machine *machine, enum machine_end_kind kind, int code, const char *detail,
                        const char *format, ...)
{
    va_list args;

    va_start(args, format);
    machine_end_va(machine, kind, code, detail, format, args);
    va_end(args);
}

/* What devices ask for. */

static void machine_power_off(void *context)
{
    machine_end(context, MACHINE_POWER_OFF, EXIT_OK, "the guest powered off");
}

static void machine_reset(void *context)
{
    machine_end(context, MACHINE_RESET, EXIT_OK, "the guest asked for a reset");
}

static void machine_debug_exit(void *context, int code)
{
    machine_end(context, MACHINE_DEBUG_EXIT, code, "the guest ended with code %d on the debug exit port",
                code);
}

/* An ISA interrupt goes to both controllers; the timer's is pin 2 of the I/O APIC (see the MADT in
 * acpi.c). */
static void machine_set_irq(void *context, unsigned line, bool level)
{
    struct machine *machine = context;

    pic_set(&machine->pic, line, level);
    ioapic_set(&machine->ioapic, line == IRQ_TIMER ? 2 : line, level);
}

static struct irq_wire machine_wire(struct machine *machine, unsigned line)
{
    return (struct irq_wire){.set = machine_set_irq, .context = machine, .line = line};
}

/* The PIC's output. A processor that runs has to come out and look. */
static void machine_intr(void *context, bool level)
{
    struct machine *machine = context;
    struct vcpu *first = machine->vcpus;

    atomic_store(&machine->intr, level);
    if (level && first->started && !pthread_equal(first->thread, pthread_self())) {
        HRESULT hr = WHvCancelRunVirtualProcessor(machine->partition, 0, 0);

        if (FAILED(hr)) {
            machine_end(machine, MACHINE_HOST_ERROR, EXIT_FAILED,
                        "WHvCancelRunVirtualProcessor failed with 0x%08x", (unsigned)hr);
        }
    }
}

static void machine_recheck(void *context, uint64_t now)
{
    struct machine *machine = context;

    (void)now;
    if (machine->pic.output) {
        machine_intr(machine, true);
    }
}

static void machine_deliver(void *context, const struct ioapic_message *message)
{
    struct machine *machine = context;
    WHV_INTERRUPT_CONTROL control = {0};
    HRESULT hr;

    /* No SMIs here; the PIC has its own way to the processor; vectors below 16 are not legal (SDM vol.
     * 3A 11.5.2). */
    bool vectored = message->delivery == IOAPIC_FIXED || message->delivery == IOAPIC_LOWEST;

    if (message->delivery == IOAPIC_SMI || message->delivery == IOAPIC_EXTINT ||
        (vectored && message->vector < 16)) {
        return;
    }
    control.Type = message->delivery;
    control.DestinationMode =
        message->logical ? WHvX64InterruptDestinationModeLogical : WHvX64InterruptDestinationModePhysical;
    control.TriggerMode = message->level ? WHvX64InterruptTriggerModeLevel : WHvX64InterruptTriggerModeEdge;
    control.Destination = message->destination;
    control.Vector = message->vector;
    hr = WHvRequestInterrupt(machine->partition, &control, sizeof(control));
    if (FAILED(hr)) {
        machine_end(machine, MACHINE_HOST_ERROR, EXIT_FAILED,
                    "WHvRequestInterrupt (vector 0x%02x, destination 0x%x) failed with 0x%08x",
                    message->vector, message->destination, (unsigned)hr);
    }
}

/* The console: what devices print, and what the serial line takes. */

static void machine_flush(void *context, uint64_t now)
{
    struct machine *machine = context;
    unsigned before = terminal_room(&machine->terminal);

    (void)now;
    terminal_flush(&machine->terminal);
    machine->output_stalled = machine->terminal.count > 0;
    if (machine->output_stalled) {
        machine_wake(machine); /* it waits until there is room */
    }
    if (before < UART_FIFO_SIZE) {
        uart_drained(&machine->uart);
    }
}

static void machine_transmit(void *context, uint8_t byte)
{
    struct machine *machine = context;

    terminal_put(&machine->terminal, byte);
    if (machine->output_stalled) {
        return;
    }
    if (byte == '\n' || machine->terminal.count >= FLUSH_BYTES) {
        machine_flush(machine, 0);
    } else if (machine->flush.deadline == TIMERS_NEVER) {
        timer_set(&machine->flush, timers_now(&machine->timers) + FLUSH_NS);
    }
}

static unsigned machine_room(void *context)
{
    return terminal_room(&((struct machine *)context)->terminal);
}

void machine_feed_console(struct machine *machine)
{
    while (!machine->paused && machine->input_count > 0 && uart_wants(&machine->uart) > 0) {
        uart_receive(&machine->uart, machine->input[machine->input_first]);
        machine->input_first = (machine->input_first + 1) % MACHINE_INPUT;
        machine->input_count--;
    }
}

static void machine_wants_input(void *context)
{
    struct machine *machine = context;

    /* Not fed from here: the serial port is in the middle of an access. */
    if (machine->input_count > 0) {
        machine_wake(machine);
    }
}

static bool machine_claim(struct machine *machine, const struct bus_range *range, struct error *err)
{
    const struct bus_range *clash;

    if (bus_claim(&machine->bus, range, &clash)) {
        return true;
    }
    if (clash == NULL) {
        return error_set(err, EXIT_FAILED, "more than %d device ranges", BUS_MAX_RANGES);
    }
    return error_set(err, EXIT_USAGE, "port 0x%llx is already taken by the device at ports 0x%llx-0x%llx",
                     (unsigned long long)range->first, (unsigned long long)clash->first,
                     (unsigned long long)(clash->first + clash->count - 1));
}

static bool machine_claim_all(struct machine *machine, struct error *err)
{
    const struct bus_range ranges[] = {
        {BUS_PORT, 0x20, 2, BUS_SIZE_1, &machine->pic, pic_master_read, pic_master_write},
        {BUS_PORT, 0x40, 4, BUS_SIZE_1, &machine->pit, pit_read, pit_write},
        {BUS_PORT, 0x61, 1, BUS_SIZE_1, &machine->pit, pit_speaker_read, pit_speaker_write},
        {BUS_PORT, 0x64, 1, BUS_SIZE_1, &machine->reset, NULL, reset_keyboard_write},
        {BUS_PORT, 0x70, 2, BUS_SIZE_1, &machine->rtc, rtc_read, rtc_write},
        {BUS_PORT, 0x92, 1, BUS_SIZE_1, &machine->reset, reset_system_read, reset_system_write},
        {BUS_PORT, 0xa0, 2, BUS_SIZE_1, &machine->pic, pic_slave_read, pic_slave_write},
        {BUS_PORT, 0x3f8, 8, BUS_SIZE_1, &machine->uart, uart_read, uart_write},
        {BUS_PORT, 0x4d0, 2, BUS_SIZE_1, &machine->pic, pic_level_read, pic_level_write},
        {BUS_PORT, PM_EVENTS, 8, BUS_SIZE_1 | BUS_SIZE_2, &machine->pm, pm_read, pm_write},
        {BUS_PORT, PM_TIMER, 4, BUS_SIZE_4, &machine->pm, pm_timer_read, NULL},
        {BUS_PORT, 0xcf8, 4, BUS_SIZE_4, &machine->pciconf, pciconf_read, pciconf_write},
        {BUS_PORT, RESET_PORT, 1, BUS_SIZE_1, &machine->reset, reset_control_read, reset_control_write},
        {BUS_MMIO, IOAPIC_ADDRESS, IOAPIC_SIZE, BUS_SIZE_4, &machine->ioapic, ioapic_read, ioapic_write},
    };

    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        if (!machine_claim(machine, &ranges[i], err)) {
            return false;
        }
    }
    return true;
}

static bool machine_claim_debug_ports(struct machine *machine, struct error *err)
{
    const unsigned all = BUS_SIZE_1 | BUS_SIZE_2 | BUS_SIZE_4;
    const struct machine_config *config = &machine->config;

    if (config->debug_exit != MACHINE_NO_PORT) {
        uint64_t port = (uint64_t)config->debug_exit;
        const struct bus_range range = {BUS_PORT,        port, 4, all, &machine->debug_exit, debug_exit_read,
                                        debug_exit_write};

        if (!machine_claim(machine, &range, err)) {
            return false;
        }
    }
    if (config->debug_console != MACHINE_NO_PORT) {
        uint64_t port = (uint64_t)config->debug_console;
        const struct bus_range range = {
            BUS_PORT, port, 1, BUS_SIZE_1, &machine->debug_console, debug_console_read, debug_console_write};

        return machine_claim(machine, &range, err);
    }
    return true;
}

static void machine_init_devices(struct machine *machine)
{
    const struct machine_config *config = &machine->config;
    const struct uart_line line = {machine_transmit, machine_room, machine_wants_input, machine};

    timers_init(&machine->timers, timers_monotonic, machine_wake_timers, machine);
    timer_add(&machine->recheck, &machine->timers, machine_recheck, machine);
    timer_add(&machine->flush, &machine->timers, machine_flush, machine);
    pic_init(&machine->pic, machine_intr, machine);
    ioapic_init(&machine->ioapic, (uint8_t)config->cpus, machine_deliver, machine);
    pit_init(&machine->pit, &machine->timers, machine_wire(machine, IRQ_TIMER));
    rtc_init(&machine->rtc, &machine->timers, rtc_host_time, machine_wire(machine, IRQ_CLOCK));
    rtc_describe(&machine->rtc, machine->memory.low_size, machine->memory.high_size, config->cpus);
    pm_init(&machine->pm, &machine->timers, machine_wire(machine, PM_SCI), machine_power_off, machine);
    reset_init(&machine->reset, machine_reset, machine);
    uart_init(&machine->uart, machine_wire(machine, IRQ_SERIAL), line);
    machine->debug_exit = (struct debug_exit){machine_debug_exit, machine};
    machine->debug_console = (struct debug_console){machine_transmit, machine};
}

bool machine_create(struct machine *machine, const struct machine_config *config, struct error *err)
{
    memset(machine, 0, sizeof(*machine));
    machine->config = *config;
    machine->terminal.in = -1;
    pthread_mutex_init(&machine->lock, NULL);
    pthread_mutex_init(&machine->end_lock, NULL);
    pthread_cond_init(&machine->changed, NULL);
    machine->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (machine->wake_fd < 0) {
        return error_set(err, EXIT_FAILED, "the host gives no event descriptor: %s", strerror(errno));
    }
    machine->vcpus = calloc(config->cpus, sizeof(*machine->vcpus));
    if (machine->vcpus == NULL) {
        return error_set(err, EXIT_FAILED, "the host gives no memory for %u processors", config->cpus);
    }
    if (!memory_init(&machine->memory, config->memory, err)) {
        return false;
    }
    machine_init_devices(machine);
    return machine_claim_all(machine, err) && machine_claim_debug_ports(machine, err);
}

void machine_engine(const struct machine *machine, char name[MACHINE_ENGINE_NAME])
{
    char report[4096];

    strcpy(name, "unknown");
    if (SUCCEEDED(BulkheadGetEngineReport(machine->partition, report, sizeof(report), NULL))) {
        sscanf(report, "engine: %31[^\n]", name); /* the first line */
    }
}

/* Virtual wire mode, as a firmware leaves the first processor (MP specification 1.4, 3.6.2.2). */
static bool machine_set_virtual_wire(struct machine *machine, struct error *err)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterApicSpurious, WHvX64RegisterApicLvtLint0,
                                              WHvX64RegisterApicLvtLint1};
    const WHV_REGISTER_VALUE values[] = {{.Reg64 = 0x1ff}, {.Reg64 = 0x700}, {.Reg64 = 0x400}};
    HRESULT hr = WHvSetVirtualProcessorRegisters(machine->partition, 0, names, 3, values);

    return SUCCEEDED(hr) || error_hresult(err, "WHvSetVirtualProcessorRegisters (local APIC)", (unsigned)hr);
}

/* All memory write-back on every processor, as a firmware leaves it (SDM vol. 3A 12.11.2.1): E, and the default
 * type. */
static bool machine_set_memory_types(struct machine *machine, struct error *err)
{
    static const WHV_REGISTER_NAME name = WHvX64RegisterMsrMtrrDefType;
    const WHV_REGISTER_VALUE value = {.Reg64 = 0x806};
    HRESULT hr = S_OK;

    for (unsigned i = 0; i < machine->config.cpus && SUCCEEDED(hr); i++) {
        hr = WHvSetVirtualProcessorRegisters(machine->partition, i, &name, 1, &value);
    }
    return SUCCEEDED(hr) || error_hresult(err, "WHvSetVirtualProcessorRegisters (memory types)", (unsigned)hr);
}

bool machine_set_up(struct machine *machine, const struct start *start, struct error *err)
{
    const struct partition_config config = {machine->config.engine, machine->config.cpus, machine->config.properties};
    HRESULT hr;

    if (!partition_set_up(&config, &machine->partition, &machine->apic_mode, err)) {
        return false;
    }
    if ((machine->config.track && !memory_track(&machine->memory, err)) ||
        !memory_map(&machine->memory, machine->partition, err)) {
        return false;
    }
    for (unsigned i = 0; i < machine->config.cpus; i++) {
        if (!vcpu_create(&machine->vcpus[i], machine, i, err)) {
            return false;
        }
    }
    hr = start->count == 0 ? S_OK
                           : WHvSetVirtualProcessorRegisters(machine->partition, 0, start->names,
                                                             start->count, start->values);
    if (FAILED(hr)) {
        return error_hresult(err, "WHvSetVirtualProcessorRegisters (start)", (unsigned)hr);
    }
    return !start->virtual_wire ||
           (machine_set_virtual_wire(machine, err) && machine_set_memory_types(machine, err));
}

void machine_destroy(struct machine *machine)
{
    for (unsigned i = 0; machine->vcpus != NULL && i < machine->config.cpus; i++) {
        vcpu_destroy(&machine->vcpus[i]);
    }
    if (machine->partition != NULL) {
        (void)!WHvDeletePartition(machine->partition);
    }
    memory_free(&machine->memory);
    free(machine->vcpus);
    if (machine->wake_fd >= 0) {
        close(machine->wake_fd);
    }
    pthread_mutex_destroy(&machine->lock);
    pthread_mutex_destroy(&machine->end_lock);
    pthread_cond_destroy(&machine->changed);
}
