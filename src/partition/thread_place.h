// What a thread has been given so that it may run a processor: a cookie of core scheduling, speculation that is shut,
// the processors of a node.
//
// Threads are the client's, and come back to the same processor after microseconds. So a thread keeps what it has, and
// it is looked at again when it runs a processor that asks for something else, one that asks for nothing included: what
// differs is changed then, by system calls, and what the thread had before comes back. It also comes back when the
// thread deletes a processor, or its partition, that asked for something. A thread that ends takes it along.
//
// Cookies. Threads of one domain have one cookie: the first makes it, later ones take it from any thread that has it.
// Domains are of this process; a child that was forked starts new cookies. Where all of a domain's threads have left,
// the next one makes a new cookie. Two threads of a domain with different cookies do no harm but that they share no
// core. A cookie cannot be laid down, only exchanged. A thread gets none again where the process's first thread or its
// parent process has none, and otherwise one that nobody else has. A thread that is new here may have inherited its
// creator's, so it is not believed to have none.
#ifndef BULKHEAD_THREAD_PLACE_H
#define BULKHEAD_THREAD_PLACE_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "os/numa.h"

#define NO_NODE (-1)

struct domain;

// The threads that may share a core with each other, and with nobody else. NULL without memory.
struct domain *domain_create(void);
// The owner's part in it; threads may still be in it.
void domain_release(struct domain *d);

struct thread_wish {
    struct domain *domain;      // NULL: none
    bool alone;                 // share no core with anybody; then `domain` is NULL
    bool shut;                  // speculation
    int node;                   // NO_NODE: anywhere
    struct os_cpus cpus;        // of the node; none: anywhere
};

// Set by the first thread that is given anything, and never cleared.
extern atomic_bool thread_place_used;

// Make the calling thread have what is wished for and nothing else; NULL: nothing. No system call when it has that
// already. E_ACCESSDENIED: it is kept from all of the node's processors, or the host refuses; E_OUTOFMEMORY;
// ERROR_NOT_SUPPORTED: the host cannot do it any more. After a failure the thread has some of it, and it is known
// which.
CHECKED HRESULT thread_place_take(const struct thread_wish *wish);

// For an errno of src/os, the HRESULT as above.
HRESULT thread_place_error(int error);

#endif
