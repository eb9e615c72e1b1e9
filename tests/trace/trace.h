// The trace: what one processor's exits are, told in lines that two engines must tell alike.
#ifndef TRACE_H
#define TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "WinHvEmulation.h"
#include "WinHvPlatform.h"

#define MEMORY_SIZE 0x400000u       // at 0, all rights
#define HOLE 0xC0000u               // but for this page, where nothing is
#define DEVICE 0x10000000u          // two pages where nothing is
#define ROM 0x10100000u             // a page to read and execute
#define LOAD 0x8000u                // a guest's code, entered in real mode at 0000:8000
#define PAGE 4096u

// How the client completes an exit.
enum way {
    BY_HAND,        // it moves RIP and writes registers itself, where it knows the instruction
    BY_EMULATOR,    // it calls the instruction emulator
    BY_MAP,         // it maps memory, and the guest tries again
};

struct trace {
    WHV_PARTITION_HANDLE partition;
    WHV_EMULATOR_HANDLE emulator;
    enum way way;
    uint8_t *memory;                // MEMORY_SIZE, then the device's pages, then the ROM
    uint8_t *device, *rom;
    UINT64 mapped[4];               // pages that the client put where nothing was
    unsigned mapped_count;
    UINT32 reads;                   // how often the guest has read from a device: the data depend on it
    UINT32 port_accesses;
    WHV_REGISTER_VALUE event;       // injected when the exit is completed
    WHV_REGISTER_NAME event_name;   // 0: none
    bool ended;
};

// Ends the program when a call fails: what is compared is what guests do, and every call is lawful.
void trace_must(const char *call, HRESULT result);
#define MUST(call) trace_must(#call, call)

UINT64 trace_get(struct trace *t, WHV_REGISTER_NAME name);
void trace_set(struct trace *t, WHV_REGISTER_NAME name, UINT64 value);

// print.c: the exit with all its fields, and the registers behind it.
void trace_print(struct trace *t, const WHV_RUN_VP_EXIT_CONTEXT *exit);
// A number for the contents of all the memory.
void trace_print_memory(const struct trace *t);

// answer.c: completes the exit.
void trace_answer(struct trace *t, const WHV_RUN_VP_EXIT_CONTEXT *exit);
// The emulator's callbacks; their context is the trace.
extern const WHV_EMULATOR_CALLBACKS trace_callbacks;

#endif
