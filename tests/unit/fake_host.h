// A made-up host, in the place of os_host_call and os_host_read: files, core scheduling, control of speculation, memory
// policy and affinity, with the kernel's rules. Link with unit_wrap_host.
//
// By itself it has four processors on two cores, and two nodes with one core each.
#ifndef BULKHEAD_TESTS_FAKE_HOST_H
#define BULKHEAD_TESTS_FAKE_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "os/domain.h"

struct fake_policy {
    uintptr_t start;
    size_t size;
    int mode;                   // of mbind
    uint64_t nodes;
    unsigned flags;
};

struct fake_host {
    const char *smt;            // text of the file; NULL: there is none
    const char *online, *with_memory;       // the same
    const char *cpulist[4];     // of node N
    int file_error;             // what reading any file fails with
    bool core_scheduling, cores_shared;     // what prctl says of them
    bool numa;                  // the kernel knows of memory policy
    uint64_t allowed;           // nodes whose memory may be used
    long speculation[OS_SPECULATIONS];      // what PR_GET_SPECULATION_CTRL says of a thread that has set nothing
    uintptr_t hole;             // an address without memory behind it
    unsigned calls, changes;    // system calls; those of them that change something
    unsigned fail_at;           // the change that fails, counted from 1; 0: none
    int fail_with;
    struct fake_policy policies[16];        // one for each mbind
    unsigned policy_count;
};

extern struct fake_host fake_host;

// As at the start, without a thread that anything is known of.
void fake_host_reset(void);
// A new thread has what its creator has.
void fake_host_inherit(int thread, int creator);

// What a thread has.
uint64_t fake_cookie(int thread);
void fake_set_cookie(int thread, uint64_t cookie);
long fake_speculation(int thread, enum os_speculation which);
uint64_t fake_affinity(int thread);         // of the first 64 processors
void fake_set_affinity(int thread, uint64_t cpus);

#endif
