// Caps, reserves, weights and groups: who is admitted, who may go on, and who stands aside.
#include "partition/quota.h"

#include <string.h>

#define NO_RESOURCES HRESULT_FROM_WIN32(ERROR_NO_SYSTEM_RESOURCES)
#define MILLION 1000000
// Wants and waits are averages over about so long, and rates are made anew so often.
#define AVERAGE_NS 20000000
#define RATE_NS 1000000
#define GETS_NS 100000000               // and what is got is an average over this, as it comes by slices
// In virtual ns: nobody stands aside for less, and nobody is owed more, but for what the slowest may overrun a slice by
// when the host is busy.
#define SLACK_NS 500000
#define OWED_NS 20000000
#define OVERRUN_NS (8 * QUOTA_SLICE_NS)
#define DEBT_NS 10000000000ll
#define RATE_MIN (QUOTA_CORE / 1000)    // nobody stands still
#define ASIDE_MIN_NS 200000
#define ASIDE_MAX_NS 10000000          // less than QUOTA_FRESH_NS, so that who stands aside is heard of

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

// ---- Buckets -------------------------------------------------------------------------------------------------------

void quota_bucket_init(struct quota_bucket *b, uint64_t rate, uint64_t now)
{
    *b = (struct quota_bucket){.rate = rate, .at = now};
}

static void fill(struct quota_bucket *b, uint64_t now)
{
    const int64_t most = (int64_t)QUOTA_BURST_NS * MILLION;
    uint64_t passed;

    // Readings of the clock by two threads may arrive in either order.
    if (now <= b->at)
        return;
    passed = now - b->at < 1000000000 ? now - b->at : 1000000000;
    b->at = now;
    b->tokens += (int64_t)(passed * b->rate);
    if (b->tokens > most)
        b->tokens = most;
}

uint64_t quota_bucket_take(struct quota_bucket *b, uint64_t now, uint64_t ns)
{
    int64_t missing;

    if (b->rate == 0)
        return 0;
    fill(b, now);
    missing = (int64_t)ns * MILLION - b->tokens;
    if (missing > 0)
        return (uint64_t)missing / b->rate + 1;
    b->tokens -= (int64_t)ns * MILLION;
    return 0;
}

void quota_bucket_give(struct quota_bucket *b, int64_t ns)
{
    const int64_t most = (int64_t)QUOTA_BURST_NS * MILLION, debt = -DEBT_NS * MILLION;

    if (b->rate == 0)
        return;
    // A processor that was out of sight for long (a stopped process, say) is not punished for ever.
    b->tokens += (ns > -DEBT_NS ? ns : -DEBT_NS) * MILLION;
    if (b->tokens < debt)
        b->tokens = debt;
    if (b->tokens > most)
        b->tokens = most;
}

// ---- Members and accounts ------------------------------------------------------------------------------------------

static uint64_t percent_of_cores(uint32_t percent, uint32_t processors)
{
    return (uint64_t)percent * processors * (QUOTA_CORE / 100);
}

static bool same_terms(const struct quota_terms *a, const struct quota_terms *b)
{
    return a->cap == b->cap && a->reserve == b->reserve && a->weight == b->weight;
}

// An account is what its members make it, so that one that died in between leaves nothing behind.
static void recount(struct quota_table *t)
{
    t->members = t->accounts = 0;
    for (unsigned int i = 0; i < QUOTA_ACCOUNTS; i++) {
        t->account[i].used = 0;
        t->account[i].terms.processors = 0;
    }
    for (unsigned int i = 0; i < QUOTA_MEMBERS; i++) {
        struct quota_member *m = &t->member[i];
        struct quota_account *a;

        if (!m->used)
            continue;
        if (m->account >= QUOTA_ACCOUNTS) {     // half written
            m->used = 0;
            continue;
        }
        a = &t->account[m->account];
        a->used++;
        t->members = i + 1;
        t->accounts = m->account >= t->accounts ? m->account + 1 : t->accounts;
        if (m->terms.processors > a->terms.processors)
            a->terms.processors = m->terms.processors;
    }
    for (unsigned int i = 0; i < QUOTA_ACCOUNTS; i++) {
        struct quota_account *a = &t->account[i];

        a->bucket.rate = a->used && a->terms.cap < 100 && !a->terms.capped
                             ? percent_of_cores(a->terms.cap, a->terms.processors)
                             : 0;
    }
}

static uint64_t reserved(const struct quota_table *t)
{
    uint64_t sum = 0;

    for (unsigned int i = 0; i < t->accounts; i++)
        if (t->account[i].used)
            sum += percent_of_cores(t->account[i].terms.reserve, t->account[i].terms.processors);
    return sum;
}

// The account of the terms' group, or one that is free.
static unsigned int find_account(const struct quota_table *t, uint64_t group)
{
    unsigned int empty = QUOTA_ACCOUNTS;

    for (unsigned int i = 0; i < QUOTA_ACCOUNTS; i++) {
        if (!t->account[i].used)
            empty = i < empty ? i : empty;
        else if (group && t->account[i].terms.group == group)
            return i;
    }
    return empty;
}

HRESULT quota_admit(struct quota_table *t, const struct quota_terms *terms, uint32_t cores, uint64_t now,
                    uint32_t pid, unsigned int *member)
{
    unsigned int account, place = 0;
    struct quota_account *a;
    uint64_t before, more;

    recount(t);
    while (place < QUOTA_MEMBERS && t->member[place].used)
        place++;
    account = find_account(t, terms->group);
    if (place == QUOTA_MEMBERS || account == QUOTA_ACCOUNTS)
        return NO_RESOURCES;
    a = &t->account[account];
    if (a->used && !same_terms(&a->terms, terms))
        return E_INVALIDARG;
    before = a->used ? percent_of_cores(a->terms.reserve, a->terms.processors) : 0;
    more = percent_of_cores(terms->reserve, terms->processors);
    if (more > before && reserved(t) - before + more > (uint64_t)cores * QUOTA_CORE)
        return NO_RESOURCES;
    if (!a->used) {
        memset(a, 0, sizeof(*a));
        a->terms = *terms;
        quota_bucket_init(&a->bucket, 0, now);
    }
    memset(&t->member[place], 0, sizeof(t->member[place]));
    t->member[place].terms = *terms;
    t->member[place].account = account;
    t->member[place].pid = pid;
    t->member[place].used = 1;
    recount(t);
    *member = place;
    return S_OK;
}

void quota_leave(struct quota_table *t, unsigned int member)
{
    t->member[member].used = 0;
    recount(t);
}

// ---- Contention ----------------------------------------------------------------------------------------------------

static bool overlap(const uint64_t *a, const uint64_t *b)
{
    for (unsigned int i = 0; i < QUOTA_CPUS / 64; i++)
        if (a[i] & b[i])
            return true;
    return false;
}

static uint32_t average(uint32_t before, uint64_t part, uint64_t passed, uint64_t over)
{
    uint64_t now = part * QUOTA_CORE / passed;

    if (passed >= over)
        return (uint32_t)now;
    return (uint32_t)((now * passed + (uint64_t)before * (over - passed)) / over);
}

// What each account wants: the sum of its processors that have been heard of lately; and what it gets.
static void sum_up(struct quota_table *t, uint64_t now)
{
    uint64_t passed = now - t->rated_at;

    for (unsigned int i = 0; i < t->accounts; i++) {
        struct quota_account *a = &t->account[i];

        a->gets = average(a->gets, a->used_ns - a->rated_ns, passed, GETS_NS);
        a->rated_ns = a->used_ns;
        a->wants = a->waits = 0;
    }
    for (unsigned int i = 0; i < t->members; i++) {
        const struct quota_member *m = &t->member[i];

        if (!m->used)
            continue;
        for (unsigned int n = 0; n < m->terms.processors && n < PARTITION_MAX_PROCESSORS; n++)
            if (now < m->processor[n].seen + QUOTA_FRESH_NS) {
                t->account[m->account].wants += m->processor[n].wants;
                t->account[m->account].waits += m->processor[n].waits;
            }
    }
    // Nobody is owed what its own cap keeps from it.
    for (unsigned int i = 0; i < t->accounts; i++) {
        struct quota_account *a = &t->account[i];

        a->wants = (uint32_t)least(a->wants, percent_of_cores(a->terms.cap, a->terms.processors));
    }
}

// One crowd: the accounts that may meet on a core, directly or through others. Gives the number of its cores.
static unsigned int gather(struct quota_table *t, unsigned int first)
{
    uint64_t cpus[QUOTA_CPUS / 64];
    unsigned int cores = 0;
    bool grew = true;

    memcpy(cpus, t->account[first].cpus, sizeof(cpus));
    t->account[first].crowd = first + 1;
    while (grew) {
        grew = false;
        for (unsigned int i = first + 1; i < t->accounts; i++) {
            struct quota_account *a = &t->account[i];

            if (!a->used || !a->wants || a->crowd || !overlap(a->cpus, cpus))
                continue;
            a->crowd = first + 1;
            for (unsigned int n = 0; n < QUOTA_CPUS / 64; n++)
                cpus[n] |= a->cpus[n];
            grew = true;
        }
    }
    for (unsigned int n = 0; n < QUOTA_CPUS / 64; n++)
        cores += (unsigned int)__builtin_popcountll(cpus[n]);
    return cores;
}

// The rate of one account where a unit of weight is worth `level` millionths of a millionth of a core.
static uint64_t rate_at(const struct quota_account *a, uint64_t level)
{
    uint64_t rate = a->terms.weight * level / MILLION;
    uint64_t reserve = percent_of_cores(a->terms.reserve, a->terms.processors);

    return least(a->wants, rate > reserve ? rate : reserve);
}

static uint64_t rates_at(const struct quota_table *t, uint32_t crowd, uint64_t level)
{
    uint64_t sum = 0;

    for (unsigned int i = 0; i < t->accounts; i++)
        if (t->account[i].crowd == crowd)
            sum += rate_at(&t->account[i], level);
    return sum;
}

// A crowd that does not contend owes nobody anything.
static void disperse(struct quota_table *t, uint32_t crowd)
{
    for (unsigned int i = 0; i < t->accounts; i++)
        if (t->account[i].crowd == crowd)
            t->account[i].crowd = 0;
}

// The level at which a crowd's rates are as much as there is.
static uint64_t level_of(const struct quota_table *t, uint32_t crowd, uint64_t cores)
{
    uint64_t low = 0, high = (uint64_t)QUOTA_CPUS * QUOTA_CORE * MILLION;

    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;

        if (rates_at(t, crowd, middle) > cores)
            high = middle;
        else
            low = middle;
    }
    return low;
}

static void rate_crowd(struct quota_table *t, uint32_t crowd, uint64_t cores)
{
    uint64_t wanted = 0, gets = 0, level, ahead = 0, behind = UINT64_MAX, owed = OWED_NS, slowest = QUOTA_CORE;
    bool reserves = false;

    for (unsigned int i = 0; i < t->accounts; i++)
        if (t->account[i].crowd == crowd) {
            wanted += t->account[i].wants;
            gets += t->account[i].gets;
            reserves = reserves || t->account[i].terms.reserve;
            ahead = t->account[i].virtual_ns > ahead ? t->account[i].virtual_ns : ahead;
        }
    if (wanted <= cores + cores / 50) {
        disperse(t, crowd);
        return;
    }
    level = level_of(t, crowd, reserves ? least(cores, gets) : cores);
    for (unsigned int i = 0; i < t->accounts; i++) {
        struct quota_account *a = &t->account[i];

        if (a->crowd != crowd)
            continue;
        a->rate = (uint32_t)rate_at(a, level);
        a->rate = a->rate > RATE_MIN ? a->rate : RATE_MIN;
        a->limited = a->rate >= a->wants && a->waits < a->wants / 20;
        slowest = least(slowest, a->rate);
        behind = a->limited ? behind : least(behind, a->virtual_ns);
    }
    owed += (uint64_t)OVERRUN_NS * QUOTA_CORE / slowest;
    for (unsigned int i = 0; i < t->accounts; i++) {
        struct quota_account *a = &t->account[i];

        if (a->crowd != crowd)
            continue;
        // Who gets what it wants has nothing to catch up with, and nothing to wait for.
        if (a->limited)
            a->virtual_ns = behind != UINT64_MAX ? behind : ahead;
        else if (ahead > owed && a->virtual_ns < ahead - owed)
            a->virtual_ns = ahead - owed;
    }
}

static void rate_all(struct quota_table *t, uint64_t now)
{
    sum_up(t, now);
    t->rated_at = now;
    for (unsigned int i = 0; i < t->accounts; i++)
        t->account[i].crowd = 0;
    for (unsigned int i = 0; i < t->accounts; i++)
        if (t->account[i].used && t->account[i].wants && !t->account[i].crowd) {
            unsigned int cores = gather(t, i);

            rate_crowd(t, i + 1, (uint64_t)cores * QUOTA_CORE);
        }
    for (unsigned int i = 0; i < t->accounts; i++)
        if (!t->account[i].crowd)
            t->account[i].virtual_ns = 0;
}

void quota_note(struct quota_table *t, unsigned int member, uint32_t processor, uint64_t now, uint64_t used,
                uint64_t waited, uint64_t passed, const uint64_t cpus[QUOTA_CPUS / 64])
{
    struct quota_account *a = quota_account_of(t, member);
    struct quota_processor *p = &t->member[member].processor[processor];

    if (passed == 0)
        return;
    p->wants = average(p->wants, least(used + waited, passed), passed, AVERAGE_NS);
    p->waits = average(p->waits, least(waited, passed), passed, AVERAGE_NS);
    p->seen = now;
    a->used_ns += used;
    if (a->crowd)
        a->virtual_ns += used * QUOTA_CORE / a->rate;
    if (cpus)
        memcpy(a->cpus, cpus, sizeof(a->cpus));
    if (now >= t->rated_at + RATE_NS)
        rate_all(t, now);
}

uint64_t quota_stand_aside(struct quota_table *t, unsigned int member, uint32_t processor, uint64_t now)
{
    struct quota_account *a = quota_account_of(t, member);
    uint64_t aside = 0;

    t->member[member].processor[processor].seen = now;      // also while it stands aside
    if (now >= t->rated_at + RATE_NS)
        rate_all(t, now);
    if (!a->crowd || a->limited)
        return 0;
    for (unsigned int i = 0; i < t->accounts; i++) {
        const struct quota_account *other = &t->account[i];
        uint64_t need;

        if (other == a || other->crowd != a->crowd || other->limited || now < other->held_until ||
            a->virtual_ns <= other->virtual_ns + SLACK_NS)
            continue;
        // That it takes to catch up, with the core to itself.
        need = (a->virtual_ns - other->virtual_ns) * other->rate / (other->wants ? other->wants : QUOTA_CORE);
        aside = need > aside ? need : aside;
    }
    if (aside == 0)
        return 0;
    return aside < ASIDE_MIN_NS ? ASIDE_MIN_NS : least(aside, ASIDE_MAX_NS);
}
