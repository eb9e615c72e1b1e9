// What threads have, and how it is exchanged.
#include "partition/thread_place.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/domain.h"
#include "partition/errors.h"

enum cookie {
    COOKIE_UNKNOWN,             // what the thread came with, or what an exchange that failed has left
    COOKIE_NONE,                // none that anybody of ours has
    COOKIE_OWN,
    COOKIE_DOMAIN,
};

struct thread {
    struct thread *next;        // of its domain
    struct domain *domain;      // with COOKIE_DOMAIN
    int number;                 // the kernel's, with COOKIE_DOMAIN
    enum cookie cookie;
    bool shut;
    unsigned int shut_here;     // bit N: control N was open before
    int node;
    bool moved;                 // the affinity is `given`, and was `before`
    struct os_cpus before, given;
};

struct domain {
    pthread_mutex_t lock;       // nothing is taken inside it
    struct thread *threads;     // each has the cookie
    unsigned int references;    // by threads, and one by the owner
    pid_t process;              // whose threads they are
};

// Of the whole process, because threads are: it tells a run that asks for nothing that its thread may have something.
atomic_bool thread_place_used;

static _Thread_local __attribute__((tls_model("initial-exec"))) struct thread *self;
// Its destructor, which is how a domain learns that a thread ends.
static pthread_key_t ending;
static pthread_once_t ending_once = PTHREAD_ONCE_INIT;
static bool ending_made;

HRESULT thread_place_error(int error)
{
    return hresult_of_errno(error, HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED));
}

// ---- Domains -----------------------------------------------------------------------------------------------------

struct domain *domain_create(void)
{
    struct domain *d = calloc(1, sizeof(*d));

    if (!d)
        return NULL;
    if (pthread_mutex_init(&d->lock, NULL) != 0) {
        free(d);
        return NULL;
    }
    d->references = 1;
    d->process = getpid();
    return d;
}

static void drop_reference(struct domain *d)
{
    bool last = --d->references == 0;

    pthread_mutex_unlock(&d->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&d->lock);
    free(d);
}

void domain_release(struct domain *d)
{
    pthread_mutex_lock(&d->lock);
    drop_reference(d);
}

// From here on nobody takes the thread's cookie. It still has it.
static void leave_domain(struct thread *t)
{
    struct domain *d = t->domain;

    t->cookie = COOKIE_UNKNOWN;
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    for (struct thread **at = &d->threads; *at; at = &(*at)->next)
        if (*at == t) {
            *at = t->next;
            break;
        }
    t->domain = NULL;
    drop_reference(d);
}

static int enter_domain(struct thread *t, struct domain *d)
{
    int error;

    pthread_mutex_lock(&d->lock);
    if (d->process != getpid()) {
        d->threads = NULL;
        d->process = getpid();
    }
    error = d->threads ? os_domain_join(d->threads->number) : os_domain_create();
    if (!error) {
        t->number = gettid();
        t->next = d->threads;
        t->domain = d;
        d->threads = t;
        d->references++;
    }
    pthread_mutex_unlock(&d->lock);
    return error;
}

static bool has_none(int thread)
{
    uint64_t cookie;

    return os_domain_cookie(thread, &cookie) == 0 && cookie == 0;
}

static int lay_down_cookie(void)
{
    const pid_t others[] = {getpid(), getppid()};
    uint64_t cookie;

    // Where the kernel does not even tell, it has not given any either.
    if (os_domain_cookie(0, &cookie) != 0 || !cookie)
        return 0;
    // The other one may get a cookie between the look and the exchange.
    for (unsigned int i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (has_none(others[i]) && os_domain_join(others[i]) == 0 && has_none(0))
            return 0;
    return os_domain_create();
}

static enum cookie wanted_cookie(const struct thread_wish *wish)
{
    return wish->domain ? COOKIE_DOMAIN : wish->alone ? COOKIE_OWN : COOKIE_NONE;
}

static HRESULT exchange_cookie(struct thread *t, const struct thread_wish *wish)
{
    const enum cookie wanted = wanted_cookie(wish);
    int error;

    leave_domain(t);
    if (wanted == COOKIE_DOMAIN)
        error = enter_domain(t, wish->domain);
    else
        error = wanted == COOKIE_OWN ? os_domain_create() : lay_down_cookie();
    if (!error)
        t->cookie = wanted;
    // No core has two threads in use any more. It is tried again with each run, since one may have them again.
    return error == ENODEV ? S_OK : thread_place_error(error);
}

// ---- Speculation -------------------------------------------------------------------------------------------------

static HRESULT open_speculation(struct thread *t)
{
    int error = 0;

    for (unsigned int which = 0; which < OS_SPECULATIONS && !error; which++) {
        if (!(t->shut_here & 1u << which))
            continue;
        // What somebody has opened meanwhile, or shut for good, stays so.
        if (os_speculation(which) == OS_SPECULATION_SHUT)
            error = os_speculation_shut(which, false);
        if (!error)
            t->shut_here &= ~(1u << which);
    }
    t->shut = t->shut_here != 0;
    return thread_place_error(error);
}

static HRESULT shut_speculation(struct thread *t)
{
    for (unsigned int which = 0; which < OS_SPECULATIONS; which++) {
        int error;

        if (os_speculation(which) != OS_SPECULATION_OPEN)
            continue;
        // The kernel would end a thread that is flushed for.
        if (which == OS_SPECULATION_L1D && os_domain_cores_shared())
            continue;
        error = os_speculation_shut(which, true);
        if (error) {
            HRESULT hr = open_speculation(t);

            return FAILED(hr) ? hr : thread_place_error(error);
        }
        t->shut_here |= 1u << which;
    }
    t->shut = true;
    return S_OK;
}

// ---- Affinity ----------------------------------------------------------------------------------------------------

static bool is_empty(const struct os_cpus *cpus)
{
    for (size_t i = 0; i < sizeof(cpus->bits) / sizeof(cpus->bits[0]); i++)
        if (cpus->bits[i])
            return false;
    return true;
}

// An affinity that is not the one that was given any more is the client's, and stays.
static HRESULT move_back(struct thread *t)
{
    struct os_cpus now;
    int error = 0;

    if (t->moved)
        error = os_numa_affinity(&now);
    if (t->moved && !error && memcmp(&now, &t->given, sizeof(now)) == 0)
        error = os_numa_set_affinity(&t->before);
    if (error)
        return thread_place_error(error);
    t->moved = false;
    t->node = NO_NODE;
    return S_OK;
}

static HRESULT move(struct thread *t, const struct thread_wish *wish)
{
    HRESULT hr = move_back(t);
    int error;

    if (FAILED(hr))
        return hr;
    if (wish->node != NO_NODE && !is_empty(&wish->cpus)) {
        error = os_numa_affinity(&t->before);
        if (error)
            return thread_place_error(error);
        for (size_t i = 0; i < sizeof(t->given.bits) / sizeof(t->given.bits[0]); i++)
            t->given.bits[i] = t->before.bits[i] & wish->cpus.bits[i];
        if (is_empty(&t->given))
            return E_ACCESSDENIED;
        if (memcmp(&t->before, &t->given, sizeof(t->given)) != 0) {
            error = os_numa_set_affinity(&t->given);
            if (error)
                return thread_place_error(error);
            t->moved = true;
        }
    }
    t->node = wish->node;
    return S_OK;
}

// ---- A thread ----------------------------------------------------------------------------------------------------

static void thread_ends(void *record)
{
    self = NULL;
    leave_domain(record);
    free(record);
}

static void make_ending(void)
{
    ending_made = pthread_key_create(&ending, thread_ends) == 0;
}

// Threads must not end in a library that is gone.
__attribute__((destructor)) static void forget_ending(void)
{
    if (ending_made)
        pthread_key_delete(ending);
}

static struct thread *new_thread(void)
{
    struct thread *t;

    pthread_once(&ending_once, make_ending);
    t = ending_made ? calloc(1, sizeof(*t)) : NULL;
    if (!t)
        return NULL;
    t->node = NO_NODE;
    if (pthread_setspecific(ending, t) != 0) {
        free(t);
        return NULL;
    }
    return self = t;
}

static HRESULT exchange(const struct thread_wish *wish)
{
    struct thread *t = self ? self : new_thread();
    HRESULT hr = S_OK;

    if (!t)
        return E_OUTOFMEMORY;
    atomic_store_explicit(&thread_place_used, true, memory_order_relaxed);
    if (t->cookie != wanted_cookie(wish) || t->domain != wish->domain)
        hr = exchange_cookie(t, wish);
    if (SUCCEEDED(hr) && t->shut != wish->shut)
        hr = wish->shut ? shut_speculation(t) : open_speculation(t);
    if (SUCCEEDED(hr) && t->node != wish->node)
        hr = move(t, wish);
    return hr;
}

HRESULT thread_place_take(const struct thread_wish *wish)
{
    static const struct thread_wish nothing = {.node = NO_NODE};
    const struct thread *t = self;

    if (!wish) {
        if (!t && !atomic_load_explicit(&thread_place_used, memory_order_relaxed))
            return S_OK;
        wish = &nothing;
    }
    if (t && t->cookie == wanted_cookie(wish) && t->domain == wish->domain && t->shut == wish->shut &&
        t->node == wish->node)
        return S_OK;
    return exchange(wish);
}
