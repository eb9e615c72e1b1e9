// Ends runs of a processor that take too long.
#include "watchdog.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { TICK_MS = 4, GIVE_UP_TICKS = 20000 / TICK_MS };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_t thread;
static atomic_bool stop;
static void (*describe_run)(void);

// Under the lock: the run that is going on, if `partition` is not null, and its number.
static WHV_PARTITION_HANDLE running_partition;
static UINT32 running_vp;
static unsigned long running_number;

static void *watch(void *unused)
{
    unsigned long seen = 0;
    unsigned ticks = 0;
    (void)unused;
    while (!stop) {
        nanosleep(&(struct timespec){ .tv_nsec = TICK_MS * 1000000 }, NULL);
        pthread_mutex_lock(&lock);
        if (!running_partition || running_number != seen) {
            seen = running_number;
            ticks = 0;
        } else {
            ticks++;
            WHvCancelRunVirtualProcessor(running_partition, running_vp, 0);
        }
        pthread_mutex_unlock(&lock);
        if (ticks > GIVE_UP_TICKS) {
            printf("a run does not end, cancelled or not\n");
            describe_run();
            fflush(stdout);
            _exit(3);
        }
    }
    return NULL;
}

void watchdog_start(void (*describe)(void))
{
    describe_run = describe;
    stop = false;
    if (pthread_create(&thread, NULL, watch, NULL) != 0) {
        perror("pthread_create");
        _exit(2);
    }
}

void watchdog_stop(void)
{
    stop = true;
    pthread_join(thread, NULL);
}

HRESULT watchdog_run(WHV_PARTITION_HANDLE partition, UINT32 vp, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    pthread_mutex_lock(&lock);
    running_partition = partition;
    running_vp = vp;
    running_number++;
    pthread_mutex_unlock(&lock);
    HRESULT result = WHvRunVirtualProcessor(partition, vp, exit, sizeof(*exit));
    pthread_mutex_lock(&lock);
    running_partition = NULL;
    pthread_mutex_unlock(&lock);
    return result;
}
