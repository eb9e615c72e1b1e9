// What the runner of assembly guests gives to the rows of its table, and what a row may add.
#ifndef GUESTS_H
#define GUESTS_H

#include <stdbool.h>
#include <stdint.h>

#include <WinHvPlatform.h>

#define GUEST_MEMORY_SIZE 0x2000000u    // mapped at 0, all rights
#define GUEST_LOAD 0x8000u              // the binary, entered in real mode at 0000:8000
#define GUEST_MAX_PROCESSORS 4

struct run;

enum answer { ANSWER_UNEXPECTED, ANSWER_CONTINUE, ANSWER_END };

struct guest {
    const char *name;                   // name.asm
    WHV_X64_LOCAL_APIC_EMULATION_MODE apic;
    UINT32 processors;                  // 0: one
    WHV_EXTENDED_VM_EXITS exits;
    UINT64 exception_bitmap;
    bool vector_code;                   // it executes SSE and x87 arithmetic
    const char *interpreted;            // what fails in it where the kernel interprets guests (support/engine.h)
    WHV_RUN_VP_EXIT_REASON end;         // the exit that ends the guest; 0: its write to the port for that
    // Before the first run; may be NULL.
    bool (*prepare)(struct run *run);
    // After the last run, with the partition still there; may be NULL.
    void (*finish)(struct run *run);
    // An exit that the runner does not know; may be NULL. Called on the thread of the processor.
    enum answer (*on_exit)(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit);
};

struct run {
    const struct guest *guest;
    WHV_PARTITION_HANDLE partition;
    uint8_t *memory;
    unsigned step;                      // for on_exit
    unsigned failures;
};

extern const struct guest guests[];
extern const unsigned guest_count;

// Reports a difference as the guest's own checks do.
void run_fail(struct run *run, const char *what, uint64_t got, uint64_t expected);
UINT64 run_get(struct run *run, UINT32 vp, WHV_REGISTER_NAME name);
void run_set(struct run *run, UINT32 vp, WHV_REGISTER_NAME name, UINT64 value);
// Moves RIP over the instruction of an exit that leaves it in front.
void run_skip(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit);

#endif
