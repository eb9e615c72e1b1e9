// What engines share: a processor in the form of src/x86, the events that wait for it, and what the API says
// of it.
//
// An engine's own processor object begins with a `struct processor`. All functions here want the processor to
// stand still: the engine's thread runs it, or whoever calls has stopped it (turnstile.h). They know no
// engine; where one differs it hands in what is its own.
#ifndef BULKHEAD_PROCESSOR_H
#define BULKHEAD_PROCESSOR_H

#include "partition/partition.h"
#include "x86/cpu.h"

// Exits to the client, counted where they are made, with the ticks that the engine has measured for each kind. Written
// and read as x86/counts.h says.
struct processor_exits {
    struct x86_counted of_cpu[X86_EXIT_PLATFORM + 1];   // by enum x86_exit_kind; MEMORY with memory that is gone
    struct x86_counted window;                          // X64InterruptWindow
    struct x86_counted other;                           // all that remain, but X64Halt: the HLT is counted
};

struct processor {
    struct x86_cpu cpu;
    struct vp *vp;
    bool settle;                        // state was set from outside: derive and check before running
    bool tlb_used;

    // Events. `pending` is being delivered, or is what WHvRegisterPendingInterruption asks for; `event` and
    // `ext_int` are WHvRegisterPendingEvent.
    struct x86_exception pending;
    bool pending_valid, pending_external;
    bool pending_told;                  // its delivery raised an exception that the client was told of
    struct x86_exception told;          // the software exception that the last exit was for, and its RIP
    uint64_t told_rip;
    struct x86_exception event;
    bool event_valid;
    bool ext_int_valid;
    uint8_t ext_int_vector;
    bool notify_interrupt, notify_nmi;  // DeliverabilityNotifications
    uint8_t notify_priority;

    // What settling would otherwise derive from segments and memory, where it came from another processor with the rest
    // (private_state.h). Gone with the first settling, and with a register that has it derived anew.
    struct { bool valid; uint8_t cpl; uint64_t pdpte[4]; } carried;

    // The bytes at RIP, where the engine has them at hand; count 0: they are fetched when an exit is to tell
    // them.
    uint8_t code[16], code_count;

    // The last ranges of guest memory, and holes between them, that were looked up, with their first pages; size 0: none.
    struct x86_page ranges[2];
    unsigned range_next;

    struct processor_exits exits;
};

// What every processor begins with; `p` is all zero. `platform` is the engine's object, which begins with
// `p`.
void processor_init(struct processor *p, struct vp *vp, const struct x86_bus *bus);
// Forget all events: a reset or INIT.
void processor_start_over(struct processor *p);

// State that was set from outside is to be run: x86_settle_state, and what came along from another processor instead of
// what that derives.
void processor_settle(struct processor *p);

// ---- memory.c: guest memory as the processor's bus has it --------------------------------------------------------

// Fills `page` from the partition's memory map; nothing there: all zero. (The engine looks for its own
// devices first.)
void processor_page(struct processor *p, uint64_t gpa, struct x86_page *page);
// The processor is about to write to a page of a tracked range.
void processor_written(struct processor *p, uint64_t gpa);
// Marks of tracked pages were taken (dirty_take): the next write to each page marks it again. To be called
// after the taking. A page that this processor could write without marking it had its mark then, so it has
// been told, and what was written to it until here is in memory by now. In the other order a page marked in
// between would lose its mark and keep its TLB entry, and later writes to it would be told by nobody.
void processor_forget_writes(struct processor *p);
// The map or the engine's devices changed: no translation is kept.
void processor_forget_memory(struct processor *p);
// Whether a host address lies in memory that the guest has, and where. Any thread.
bool processor_is_guest_memory(struct processor *p, const void *address, gpa_t *gpa);

// ---- exits.c: what an exit tells ---------------------------------------------------------------------------------

WHV_X64_SEGMENT_REGISTER processor_segment(const struct x86_cpu *cpu, unsigned segment);
// An exit that has nothing of its own to tell, or whose own part the caller fills in.
void exit_context(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit, WHV_RUN_VP_EXIT_REASON reason, UINT8 cr8);
// Up to 16 bytes from RIP on, as far as they can be fetched, without a trace in the processor's state.
UINT8 exit_instruction_bytes(struct processor *p, UINT8 bytes[16]);
// The exit in cpu.exit, whole; but of an RDTSC exit the times are the engine's to fill in.
void exit_from_cpu(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit, UINT8 cr8);
// A host access at `address` failed under the processor: true when it is guest memory, and the exit says
// which.
bool exit_memory_gone(struct processor *p, const void *address, bool write, WHV_RUN_VP_EXIT_CONTEXT *exit, UINT8 cr8);

// ---- events.c: what is delivered before the next instruction -----------------------------------------------------

enum step { STEP_RUN, STEP_AGAIN, STEP_EXIT };

// Deliver an event or cpu.exception. STEP_AGAIN: delivered; STEP_EXIT: `exit` is filled in (an exception
// exit, missing memory, or a triple fault), and the event stays pending where it is to be repeated.
enum step deliver_event(struct processor *p, struct x86_exception event, bool external, WHV_RUN_VP_EXIT_CONTEXT *exit,
                        UINT8 cr8);
enum step deliver_exception(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit, UINT8 cr8);
// The events that the client set: the pending one, then WHvRegisterPendingEvent's exception. STEP_RUN: there
// is none.
enum step deliver_pending(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit, UINT8 cr8);

// ---- counters.c: from what is counted to what the API tells ------------------------------------------------------

// A figure is the sum of the rows that name it.
struct counter_row {
    uint16_t member;                    // of struct processor_counters
    bool timed;                         // a WHV_PROCESSOR_INTERCEPT_COUNTER from a struct x86_counted
    uint32_t source;                    // of the engine's processor object
};
// `object` is the engine's processor, whose ticks go at `hz`. Any thread.
void counters_sum(const struct counter_row *rows, unsigned count, const void *object, uint64_t hz,
                  struct processor_counters *counters);
// The figures that come from the same place on every engine.
void counters_of_processor(const struct processor *p, uint64_t hz, struct processor_counters *counters);
// In units of 100 ns.
uint64_t counters_time(uint64_t ticks, uint64_t hz);

// Rows: a member and the field of the engine's object `type` that it comes from.
#define COUNTER(set, member_, type, field)                                                                            \
    { .member = offsetof(struct processor_counters, set.member_), .source = offsetof(type, field) }
#define COUNTER_TIMED(member_, type, field)                                                                           \
    { .member = offsetof(struct processor_counters, intercepts.member_), .timed = true,                               \
      .source = offsetof(type, field) }

// pages.c: engine.h's memory_counters, by the host's page tables. E_OUTOFMEMORY, E_ACCESSDENIED, and E_FAIL where
// /proc does not tell.
CHECKED HRESULT pages_counters(struct partition *p, WHV_PARTITION_MEMORY_COUNTERS *counters);

// ---- translate.c -------------------------------------------------------------------------------------------------

// WHvTranslateGva. Leaves the processor as it was, but for accessed and dirty bits where the flags ask for
// them.
void processor_translate(struct processor *p, gva_t gva, WHV_TRANSLATE_GVA_FLAGS flags, WHV_TRANSLATE_GVA_RESULT *result,
                         gpa_t *gpa);

#endif
