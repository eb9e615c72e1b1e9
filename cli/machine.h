/* machine.h: the PC that `bulkhead run` builds: memory, processors, devices, and how it ends.
 *
 * Threads: one for each virtual processor, and the caller of machine_run, which serves timers, the terminal
 * and signals. `lock` guards the bus, all devices, the timers, the terminal and `paused`; no processor runs while its
 * thread holds it. `end_lock` guards `end`, and who is held in a pause; it is taken inside `lock`, never the other way
 * round. */
#ifndef CLI_MACHINE_H
#define CLI_MACHINE_H

#include "bus.h"
#include "devices/debug.h"
#include "devices/ioapic.h"
#include "devices/pciconf.h"
#include "devices/pic.h"
#include "devices/pit.h"
#include "devices/pm.h"
#include "devices/reset.h"
#include "devices/rtc.h"
#include "devices/uart.h"
#include "error.h"
#include "memory.h"
#include "partition.h"
#include "start.h"
#include "state.h"
#include "terminal.h"
#include "timers.h"
#include "vcpu.h"

#include <WinHvPlatform.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#define MACHINE_MAX_CPUS 64
#define MACHINE_NO_PORT (-1)
#define MACHINE_INPUT 4096

struct machine_config {
    const char *engine;
    unsigned cpus;
    uint64_t memory;
    double timeout; /* seconds; 0 for none */
    int debug_exit; /* a port, or MACHINE_NO_PORT */
    int debug_console;
    int in, out; /* the console's descriptors */
    bool track; /* it has to be known which pages of memory are written */
    struct properties properties;
};

enum machine_end_kind {
    MACHINE_RUNNING,
    MACHINE_POWER_OFF,
    MACHINE_RESET,
    MACHINE_DEBUG_EXIT,
    MACHINE_USER,
    MACHINE_TIMEOUT,
    MACHINE_SIGNAL,
    MACHINE_GUEST_FAULT,
    MACHINE_HOST_ERROR,
    MACHINE_SAVED,
    MACHINE_MOVED
};

struct machine_end {
    enum machine_end_kind kind;
    int code;
    char text[256];    /* one line */
    char detail[2048]; /* more lines, for a guest fault; or empty */
};

struct machine {
    struct machine_config config;
    struct memory memory;
    WHV_PARTITION_HANDLE partition;
    uint32_t apic_mode; /* what the partition has got */
    struct vcpu *vcpus;

    pthread_mutex_t lock;
    struct bus bus;
    struct timers timers;
    struct timer recheck; /* INTR is up and the local APIC does not take it: look again */
    struct timer flush;   /* output that has no end of line yet */
    struct terminal terminal;
    bool output_stalled;
    uint8_t input[MACHINE_INPUT];
    unsigned input_first, input_count;
    struct uart uart;
    struct pit pit;
    struct pic pic;
    struct ioapic ioapic;
    struct rtc rtc;
    struct pm pm;
    struct reset reset;
    struct pciconf pciconf;
    struct debug_exit debug_exit;
    struct debug_console debug_console;
    atomic_bool intr; /* the PIC's output */

    pthread_mutex_t end_lock;
    struct machine_end end;
    atomic_bool ended;
    atomic_bool pausing;     /* processors are to be held, or are */
    unsigned threads, held;  /* how many processors have been started, and how many of them are held */
    pthread_cond_t changed;  /* ... and that, or `pausing`, or `ended`, is another now */
    bool paused;             /* the devices stand still as well */
    bool partition_stopped;  /* ... and so does the partition's clock */
    int wake_fd;
};

/* Memory and devices: loaders may then fill the memory. Call machine_destroy whatever the result. */
bool machine_create(struct machine *machine, const struct machine_config *config, struct error *err);

/* The partition with its processors, the first of which starts in the state START. */
bool machine_set_up(struct machine *machine, const struct start *start, struct error *err);

/* The name of the engine that runs the partition, or "unknown". */
#define MACHINE_ENGINE_NAME 32
void machine_engine(const struct machine *machine, char name[MACHINE_ENGINE_NAME]);

/* Runs until the machine ends; machine->end then says how. SIGNALS are blocked ones that end it. */
bool machine_run(struct machine *machine, const sigset_t *signals, struct error *err);
void machine_destroy(struct machine *machine);

/* Ends the run; the first caller is right. Any thread; returns at once. */
void machine_end(struct machine *machine, enum machine_end_kind kind, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The same with more lines for the user. */
void machine_end_detail(struct machine *machine, enum machine_end_kind kind, int code, const char *detail,
                        const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Takes all processors out of the guest and holds them, between two instructions and with every access of theirs done;
 * then stops the clocks of the devices, which take no input either until machine_resume. The terminal is still served:
 * what is typed waits, and Ctrl-A x, a signal and the timeout end the run. False, with nothing stopped, if the machine
 * has ended or ends meanwhile, if it is paused already, or for an error of the platform. Any thread that is not a
 * processor's and does not hold `lock`, once machine_set_up has succeeded and before machine_destroy; processors that
 * have not been started are held when they are. */
bool machine_pause(struct machine *machine, struct error *err);

/* Lets everything go on. The guest's clocks have stood still, or (where the platform cannot stop the partition's) have
 * all gone on. Nothing happens if the machine has ended. */
void machine_resume(struct machine *machine);

/* Of a machine that was paused before machine_run: waits until all of its processors are there and held. False if it
 * has ended. */
bool machine_wait_held(struct machine *machine);

/* Of a paused machine: its devices' clocks go on NS later than where they stand. */
void machine_skip_time(struct machine *machine, uint64_t ns);

/* For a processor's thread, before it enters the guest: waits while the machine is paused. False once it has ended. */
bool machine_may_run(struct machine *machine);

/* All devices, and what the machine has to be like so that they fit. The machine is paused, or has never run. */
void machine_save_devices(struct machine *machine, struct state_writer *to);

/* Changes nothing when it fails. */
bool machine_load_devices(struct machine *machine, struct state_reader *from);

/* Console input has come or can go on; with `lock` held. */
void machine_feed_console(struct machine *machine);

/* Wakes the thread in machine_run. */
void machine_wake(struct machine *machine);

#endif
