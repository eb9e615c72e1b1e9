// Who may use how much processor time: arithmetic on a table that all processes of a user share (os/ledger.h), without a
// clock of its own.
//
// The table has members (partitions that ask for something) and accounts, which hold the limits: a member's own, or one
// that all members of a group share. An account has the limits of one partition with as many processors as its largest
// member.
//
// - A cap is a bucket that fills at the capped rate, and from which time is taken before it is used. It holds
//   QUOTA_BURST_NS at most, so that an idle second earns nothing for the next one. What was used beyond what was taken is
//   a debt.
// - Weights and reserves count where accounts want more than the cores that they may run on have to give. Then each has
//   a fair rate: its part of the cores by weight, but no more than it wants, and no less than its reserve if it wants
//   that. An account's virtual time is its processor time over its rate; one that is ahead of another which is waiting
//   stands aside for it. With a reserve among them, what the cores have to give is what they have given of late: what
//   others of the host take is taken from those without one.
//
// All functions with the table's lock held. Times are in ns of CLOCK_MONOTONIC; rates and amounts of cores in millionths
// of a core.
#ifndef BULKHEAD_QUOTA_H
#define BULKHEAD_QUOTA_H

#include "partition/partition.h"

#define QUOTA_CORE 1000000u
#define QUOTA_MEMBERS 512u
#define QUOTA_ACCOUNTS 512u
#define QUOTA_CPUS 1024u
#define QUOTA_LAYOUT 3u                 // of struct quota_table
#define QUOTA_BURST_NS 5000000
#define QUOTA_SLICE_NS 1000000          // taken from a bucket at a time
#define QUOTA_FRESH_NS 100000000        // who has not been heard of for so long wants nothing; a busy host is slow to hear

struct quota_bucket {
    uint64_t rate;                      // 0: no limit
    int64_t tokens;                     // millionths of a ns
    uint64_t at;                        // filled up to here
};

void quota_bucket_init(struct quota_bucket *b, uint64_t rate, uint64_t now);
// Take `ns`: 0 when they are taken, else how long to wait before there may be so much.
uint64_t quota_bucket_take(struct quota_bucket *b, uint64_t now, uint64_t ns);
// Give back what was taken too much, or, negative, settle what was used beyond it.
void quota_bucket_give(struct quota_bucket *b, int64_t ns);

// What a partition asks for; a group's members ask for the same.
struct quota_terms {
    uint64_t group;                     // 0: none
    uint32_t cap, reserve, weight;      // as the properties have them
    uint32_t processors;
    bool capped;                        // by the kernel: the account has no bucket
};

struct quota_processor {
    uint64_t seen;                      // when it was last heard of
    uint32_t wants;                     // averaged: the part of its time in which it ran or waited for a core
    uint32_t waits;                     // the part in which it waited
};

struct quota_member {
    uint32_t used, pid, account;
    struct quota_terms terms;
    struct quota_processor processor[PARTITION_MAX_PROCESSORS];
};

struct quota_account {
    uint32_t used;
    struct quota_terms terms;           // processors: of its largest member
    struct quota_bucket bucket;
    uint64_t cpus[QUOTA_CPUS / 64];     // where its processors may run
    uint64_t used_ns, rated_ns;         // processor time since it was opened, now and at the last rating
    uint64_t virtual_ns;
    uint32_t wants, waits, rate;        // of all its processors; rate: see above
    uint32_t gets;                      // averaged
    uint32_t crowd;                     // accounts with the same number contend for cores; 0: nobody else does
    bool limited;                       // its rate is what it wants
    uint64_t held_until;                // its bucket is empty
};

struct quota_table {
    uint64_t rated_at;
    uint32_t members, accounts;         // none is used from these places on
    struct quota_member member[QUOTA_MEMBERS];
    struct quota_account account[QUOTA_ACCOUNTS];
};

// Admit a partition of this process, into place `*member`, which is used by nobody. `cores`: what the host has.
// E_INVALIDARG: its group has other terms. ERROR_NO_SYSTEM_RESOURCES, as an HRESULT: the host cannot honour its reserve
// beside those that are there, or the table is full.
CHECKED HRESULT quota_admit(struct quota_table *t, const struct quota_terms *terms, uint32_t cores, uint64_t now,
                            uint32_t pid, unsigned *member);
void quota_leave(struct quota_table *t, unsigned member);

// A processor of a member has run: `used` ns of processor time, `waited` for a core, in `passed` that it did not stand
// aside. `cpus`: where it may run; NULL: as before.
void quota_note(struct quota_table *t, unsigned member, uint32_t processor, uint64_t now, uint64_t used, uint64_t waited,
                uint64_t passed, const uint64_t cpus[QUOTA_CPUS / 64]);
// For how long the processor should stand aside for others, in ns; 0: not at all.
uint64_t quota_stand_aside(struct quota_table *t, unsigned member, uint32_t processor, uint64_t now);

static inline struct quota_account *quota_account_of(struct quota_table *t, unsigned member)
{
    return &t->account[t->member[member].account];
}

#endif
