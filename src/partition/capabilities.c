// What a partition can get: an engine's offer and the host's.
#include "partition/capabilities.h"

#include <pthread.h>

#include "os/vfio.h"

void host_capabilities_ask(const char *root, struct host_capabilities *host)
{
    host->device_assignment = os_vfio_usable(root);
}

void capabilities_join(struct engine_capabilities *capabilities, const struct host_capabilities *host)
{
    capabilities->device_assignment = host->device_assignment;
    // The bits by which a client learns of it.
    capabilities->features.IommuSupport = capabilities->device_assignment;
    capabilities->features.ApicRemoteRead = capabilities->apic_remote_read;
}

// The host's part, once per process: it is asked for with each property that is set, and a client that has read a
// capability must be able to rely on it.
static struct host_capabilities this_host;

static void ask(void)
{
    host_capabilities_ask("", &this_host);
}

void capabilities_of(const struct engine *engine, struct engine_capabilities *capabilities)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, ask);
    *capabilities = *engine->capabilities();
    capabilities_join(capabilities, &this_host);
}
