/* raw_kvm.h: the guests of guest.h on /dev/kvm by hand: nothing between the loop and the system calls. */
#ifndef BENCH_RAW_KVM_H
#define BENCH_RAW_KVM_H

#include <stdbool.h>
#include <stdint.h>

#include "guest.h"

#define LOOP_LENGTH 2   /* of the instruction that exits, in the loops of ports and memory */

struct raw {
    int kvm, vm, processor;
    struct kvm_run *run;
    size_t run_size;
    const UINT8 *memory;
};

/* Every function ends the program when the kernel refuses. */
void raw_open(struct raw *raw, UINT8 *memory, const struct guest_start *start);
void raw_close(struct raw *raw);

/* What happens at each exit besides KVM_RUN. */
enum raw_extra {
    RAW_NOTHING,    /* an IN or an MMIO read is given its data */
    RAW_CONTRACT,   /* what WHP tells of an exit, by hand: the registers come out, RIP is put back to the start
                       of the instruction, whose bytes (and for memory its address) are found by the guest's page
                       tables; and RIP goes in as `next`; 0: it does not */
    RAW_INTERRUPT,  /* KVM_INTERRUPT with VECTOR */
    RAW_MESSAGE,    /* KVM_SIGNAL_MSI with VECTOR for processor 0 */
};

/* Seconds for one exit of `reason` (KVM_EXIT_*), the mean of `count`. */
double raw_exits(struct raw *raw, uint32_t reason, enum raw_extra extra, uint64_t next, unsigned count);
/* Runs to an exit that is not measured. */
void raw_run_to(struct raw *raw, uint32_t reason);

/* Seconds to create a partition with one processor and its memory, and to close it. */
double raw_lives(void *memory, uint64_t size, unsigned count);
/* Seconds to map and unmap a range. */
double raw_maps(struct raw *raw, void *memory, uint64_t gpa, uint64_t size, unsigned count);

#endif
