// Who may touch a processor: tickets, and a runner that lets them in in turn.
#include "engine/common/turnstile.h"

#include "os/wait.h"

void turnstile_init(struct turnstile *t)
{
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->admit, NULL);
    pthread_cond_init(&t->left, NULL);
    atomic_init(&t->asked, 0);
    atomic_init(&t->busy, false);
    atomic_init(&t->admitted, 0);
    atomic_init(&t->turn, 0);
    t->done = 0;
}

void turnstile_destroy(struct turnstile *t)
{
    pthread_cond_destroy(&t->left);
    pthread_cond_destroy(&t->admit);
    pthread_mutex_destroy(&t->lock);
}

uint32_t turnstile_ask(struct turnstile *t)
{
    return atomic_fetch_add(&t->asked, 1);
}

void turnstile_enter(struct turnstile *t, uint32_t ticket)
{
    pthread_mutex_lock(&t->lock);
    while (atomic_load(&t->busy) && (int32_t)(ticket - t->admitted) >= 0)
        pthread_cond_wait(&t->admit, &t->lock);
}

bool turnstile_try_enter(struct turnstile *t, uint32_t ticket, uint64_t nanoseconds)
{
    uint32_t turn = atomic_load(&t->turn);
    if (atomic_load(&t->busy) && (int32_t)(ticket - atomic_load(&t->admitted)) >= 0) {
        os_wait(&t->turn, turn, nanoseconds);
        if (atomic_load(&t->busy) && (int32_t)(ticket - atomic_load(&t->admitted)) >= 0)
            return false;
    }
    // Admitted, or no guest code runs; if it does by now, its runner has found the ticket. The lock is soon
    // free.
    turnstile_enter(t, ticket);
    return true;
}

void turnstile_leave(struct turnstile *t)
{
    if (++t->done == t->admitted)
        pthread_cond_signal(&t->left);
    pthread_mutex_unlock(&t->lock);
}

static void next_turn(struct turnstile *t)
{
    atomic_fetch_add(&t->turn, 1);
    os_wake(&t->turn);
}

// Between `busy` here and the looks at `asked` lies a locked instruction, the mutex's own, over which an x86
// processor moves neither (SDM vol. 3A 8.2.2): visitors, who ask and then look at `busy`, are told of it, or are
// found to have asked.
void turnstile_come_back(struct turnstile *t)
{
    atomic_store_explicit(&t->busy, true, memory_order_release);
    pthread_mutex_lock(&t->lock);
}

// No guest code runs from here on: whoever has asked may come in.
void turnstile_stand_aside(struct turnstile *t)
{
    atomic_store_explicit(&t->busy, false, memory_order_release);
    if (turnstile_wanted(t))
        pthread_cond_broadcast(&t->admit);
    uint32_t done = t->done;
    pthread_mutex_unlock(&t->lock);
    if (atomic_load(&t->asked) != done)
        next_turn(t);
}

// Let those in who have asked by now.
void turnstile_give_way(struct turnstile *t)
{
    t->admitted = atomic_load(&t->asked);
    pthread_cond_broadcast(&t->admit);
    next_turn(t);
    while (t->done != t->admitted)
        pthread_cond_wait(&t->left, &t->lock);
}
