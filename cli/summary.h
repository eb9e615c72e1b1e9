/* summary.h: what a run did, for people and as JSON. */
#ifndef CLI_SUMMARY_H
#define CLI_SUMMARY_H

#include "machine.h"

#include <stdio.h>

struct summary {
    struct machine_end end;
    char engine[32];
    double seconds;
    unsigned cpus;
    struct {
        bool counted;
        uint64_t instructions;
        uint64_t exits[VCPU_EXIT_KINDS];
    } cpu[MACHINE_MAX_CPUS];
    uint64_t memory_size, memory_resident;
    bool pages_known; /* the partition told its counters */
    WHV_PARTITION_MEMORY_COUNTERS pages;
    /* What the partition has, by rows of the table of properties, and its features. */
    bool property_known[PROPERTIES_MAX], features_known[FEATURE_WORDS];
    uint64_t properties[PROPERTIES_MAX], features[FEATURE_WORDS];
};

/* Takes the figures from a machine whose run has ended. */
void summary_collect(struct summary *summary, const struct machine *machine, double seconds);
void summary_print(const struct summary *summary, FILE *to);

/* Writes one JSON object and a newline to FD. */
bool summary_write_json(const struct summary *summary, int fd, const char *name, struct error *err);

#endif
