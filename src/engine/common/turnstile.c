// Who may touch a processor: tickets, and a runner that lets them in in turn.
#include "engine/common/turnstile.h"

__attribute__((hot)) uint32_t turnstile_ask(struct turnstile *t)
{
    return atomic_fetch_add(&t->asked, 1);
}

static bool shut(struct turnstile *t, uint32_t ticket)
{
    return atomic_load(&t->busy) && (int32_t)(ticket - atomic_load(&t->admitted)) >= 0;
}

// False: it is shut by now.
__attribute__((hot)) static bool enter(struct turnstile *t, uint32_t ticket)
{
    os_lock(&t->lock);
    if (__builtin_expect(!shut(t, ticket), 1))
        return true;
    os_unlock(&t->lock);
    return false;
}

void turnstile_enter(struct turnstile *t, uint32_t ticket)
{
    for (;;) {
        uint32_t turn = atomic_load(&t->turn);
        if (shut(t, ticket))
            os_wait(&t->turn, turn, UINT64_MAX);
        else if (enter(t, ticket))
            return;
    }
}

__attribute__((hot)) bool turnstile_try_enter(struct turnstile *t, uint32_t ticket, uint64_t nanoseconds)
{
    uint32_t turn = atomic_load(&t->turn);
    if (__builtin_expect(shut(t, ticket), 0)) {
        os_wait(&t->turn, turn, nanoseconds);
        if (shut(t, ticket))
            return false;
    }
    // Admitted, or no guest code runs; if it does by now, its runner has found the ticket, and gives way soon.
    if (__builtin_expect(!enter(t, ticket), 0))
        turnstile_enter(t, ticket);
    return true;
}

__attribute__((hot)) void turnstile_leave(struct turnstile *t)
{
    uint32_t done = atomic_load_explicit(&t->done, memory_order_relaxed) + 1;
    atomic_store_explicit(&t->done, done, memory_order_release);
    bool last = atomic_load(&t->busy) && done == atomic_load(&t->admitted);
    os_unlock(&t->lock);
    if (__builtin_expect(last, 0))
        os_wake(&t->done);
}

static void next_turn(struct turnstile *t)
{
    atomic_fetch_add(&t->turn, 1);
    os_wake(&t->turn);
}

// Between `busy` here and the looks at `asked` lies a locked instruction, the lock's own, over which an x86
// processor moves neither (SDM vol. 3A 8.2.2): visitors, who ask and then look at `busy`, are told of it, or are
// found to have asked.
__attribute__((hot)) void turnstile_come_back(struct turnstile *t)
{
    atomic_store_explicit(&t->busy, true, memory_order_release);
    os_lock(&t->lock);
}

// No guest code runs from here on: whoever has asked may come in.
__attribute__((hot)) void turnstile_stand_aside(struct turnstile *t)
{
    atomic_store_explicit(&t->busy, false, memory_order_release);
    uint32_t done = atomic_load_explicit(&t->done, memory_order_relaxed);
    os_unlock(&t->lock);
    if (__builtin_expect(atomic_load(&t->asked) != done, 0))
        next_turn(t);
}

// Let those in who have asked by now.
void turnstile_give_way(struct turnstile *t)
{
    uint32_t admitted = atomic_load(&t->asked), done;
    atomic_store(&t->admitted, admitted);
    next_turn(t);
    while ((done = atomic_load(&t->done)) != admitted) {
        os_unlock(&t->lock);
        os_wait(&t->done, done, UINT64_MAX);
        os_lock(&t->lock);
    }
}
