/* pause.c: machine_pause and machine_resume: the whole machine stands still, and goes on. */
#include "machine.h"

#include <pthread.h>

/* Processors run again; the ones that were never reached, too. */
static void pause_release(struct machine *machine)
{
    pthread_mutex_lock(&machine->end_lock);
    atomic_store(&machine->pausing, false);
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->end_lock);
}

bool machine_may_run(struct machine *machine)
{
    if (atomic_load(&machine->pausing)) {
        pthread_mutex_lock(&machine->end_lock);
        machine->held++;
        pthread_cond_broadcast(&machine->changed);
        while (atomic_load(&machine->pausing) && !atomic_load(&machine->ended)) {
            pthread_cond_wait(&machine->changed, &machine->end_lock);
        }
        machine->held--;
        pthread_mutex_unlock(&machine->end_lock);
    }
    return !atomic_load(&machine->ended);
}

static bool pause_ended(const struct machine *machine, struct error *err)
{
    return error_set(err, EXIT_FAILED, "the machine cannot be paused any more: %s", machine->end.text);
}

static bool pause_begin(struct machine *machine, struct error *err)
{
    bool good = true;

    pthread_mutex_lock(&machine->end_lock);
    if (atomic_load(&machine->ended)) {
        good = pause_ended(machine, err);
    } else if (atomic_load(&machine->pausing)) {
        good = error_set(err, EXIT_FAILED, "the machine is paused already");
    } else {
        atomic_store(&machine->pausing, true);
    }
    pthread_mutex_unlock(&machine->end_lock);
    return good;
}

/* Every processor leaves the guest. A cancel is latched: one that is about to enter comes back at once; and one that
 * is not has yet to pass machine_may_run. */
static bool pause_cancel(struct machine *machine, struct error *err)
{
    for (unsigned i = 0; i < machine->config.cpus; i++) {
        HRESULT hr = WHvCancelRunVirtualProcessor(machine->partition, i, 0);

        if (FAILED(hr)) {
            return error_hresult(err, "WHvCancelRunVirtualProcessor", (unsigned)hr);
        }
    }
    return true;
}

static bool pause_wait(struct machine *machine, struct error *err)
{
    bool good;

    pthread_mutex_lock(&machine->end_lock);
    while (machine->held < machine->threads && !atomic_load(&machine->ended)) {
        pthread_cond_wait(&machine->changed, &machine->end_lock);
    }
    good = !atomic_load(&machine->ended) || pause_ended(machine, err);
    pthread_mutex_unlock(&machine->end_lock);
    return good;
}

/* No processor runs: time stops, for the partition and for the devices. */
static bool pause_stop_time(struct machine *machine, struct error *err)
{
    HRESULT hr = WHvSuspendPartitionTime(machine->partition);

    if (FAILED(hr) && hr != E_NOTIMPL) {
        return error_hresult(err, "WHvSuspendPartitionTime", (unsigned)hr);
    }
    pthread_mutex_lock(&machine->lock);
    machine->partition_stopped = SUCCEEDED(hr);
    machine->paused = true;
    timers_stop(&machine->timers);
    /* What the guest has printed is shown; no timer does that meanwhile. */
    terminal_flush(&machine->terminal);
    machine->output_stalled |= machine->terminal.count > 0;
    pthread_mutex_unlock(&machine->lock);
    machine_wake(machine);
    return true;
}

bool machine_wait_held(struct machine *machine)
{
    pthread_mutex_lock(&machine->end_lock);
    while (machine->held < machine->config.cpus && !atomic_load(&machine->ended)) {
        pthread_cond_wait(&machine->changed, &machine->end_lock);
    }
    pthread_mutex_unlock(&machine->end_lock);
    return !atomic_load(&machine->ended);
}

void machine_skip_time(struct machine *machine, uint64_t ns)
{
    pthread_mutex_lock(&machine->lock);
    timers_skip(&machine->timers, ns);
    pthread_mutex_unlock(&machine->lock);
}

bool machine_pause(struct machine *machine, struct error *err)
{
    if (!pause_begin(machine, err)) {
        return false;
    }
    if (pause_cancel(machine, err) && pause_wait(machine, err) && pause_stop_time(machine, err)) {
        return true;
    }
    pause_release(machine);
    return false;
}

void machine_resume(struct machine *machine)
{
    HRESULT hr = S_OK;

    pthread_mutex_lock(&machine->lock);
    if (machine->paused) {
        if (machine->partition_stopped) {
            hr = WHvResumePartitionTime(machine->partition);
        }
        timers_start(&machine->timers, !machine->partition_stopped);
        rtc_follow_host(&machine->rtc);
        machine->paused = false;
    }
    pthread_mutex_unlock(&machine->lock);
    if (FAILED(hr)) {
        machine_end(machine, MACHINE_HOST_ERROR, EXIT_FAILED, "WHvResumePartitionTime failed with 0x%08x",
                    (unsigned)hr);
    }
    pause_release(machine);
    machine_wake(machine);
}
