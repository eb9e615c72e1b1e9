// Who may touch a processor: the thread that runs it, or visitors that have it stand still for a moment.
//
// Fairness: a busy processor lets in those who asked before it gives way, and runs before it lets in the next
// ones, so neither side can starve the other.
#ifndef BULKHEAD_TURNSTILE_H
#define BULKHEAD_TURNSTILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "os/lock.h"

// All zero: nobody has come by yet.
struct turnstile {
    struct os_lock lock;                // a processor's state
    _Atomic uint32_t asked;             // tickets given out
    atomic_bool busy;                   // a thread runs the processor, and it is not asleep
    _Atomic uint32_t admitted;          // written under lock; while busy: tickets below this may come in
    _Atomic uint32_t turn;              // moves on when somebody may come in: who waits for that sleeps on it
    _Atomic uint32_t done;              // written under lock: visits that have ended; a runner that waits sleeps on it
};

// Visitor: take a ticket; wait to be let in with it; leave. Between the first two have a processor that is
// `busy` look up (one that becomes busy later finds the ticket by itself).
uint32_t turnstile_ask(struct turnstile *t);
void turnstile_enter(struct turnstile *t, uint32_t ticket);
void turnstile_leave(struct turnstile *t);
// The same, but come back without having entered (false) when it takes longer than `nanoseconds`, so that the
// processor can be asked again.
bool turnstile_try_enter(struct turnstile *t, uint32_t ticket, uint64_t nanoseconds);

// Runner. It holds the lock from come_back to stand_aside, and no guest code runs outside of that.
void turnstile_come_back(struct turnstile *t);
void turnstile_stand_aside(struct turnstile *t);
// Somebody waits: call turnstile_give_way before the next instruction.
static inline bool turnstile_wanted(struct turnstile *t) { return atomic_load(&t->asked) != t->done; }
void turnstile_give_way(struct turnstile *t);

#endif
