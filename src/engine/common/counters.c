// What a processor has counted, as the API tells it.
#include "engine/common/processor.h"

uint64_t counters_time(uint64_t ticks, uint64_t hz)
{
    return hz ? (uint64_t)((unsigned __int128)ticks * 10000000 / hz) : 0;
}

void counters_sum(const struct counter_row *rows, unsigned count, const void *object, uint64_t hz,
                  struct processor_counters *counters)
{
    for (unsigned n = 0; n < count; n++) {
        const void *source = (const char *)object + rows[n].source;
        uint64_t *member = (uint64_t *)((char *)counters + rows[n].member);
        if (!rows[n].timed) {
            *member += atomic_load_explicit((const x86_count *)source, memory_order_relaxed);
            continue;
        }
        const struct x86_counted *counted = source;
        WHV_PROCESSOR_INTERCEPT_COUNTER *intercept = (WHV_PROCESSOR_INTERCEPT_COUNTER *)member;
        intercept->Count += atomic_load_explicit(&counted->count, memory_order_relaxed);
        intercept->Time100ns += counters_time(atomic_load_explicit(&counted->ticks, memory_order_relaxed), hz);
    }
}

#define INSTRUCTION(member, which) COUNTER_TIMED(member, struct processor, cpu.counts.instruction[which])
#define EXIT(member, which) COUNTER_TIMED(member, struct processor, exits.which)
#define EVENT(member, which) COUNTER(events, member, struct processor, cpu.counts.which)

static const struct counter_row of_processor[] = {
    INSTRUCTION(PageInvalidations, X86_COUNT_INVALIDATION),
    INSTRUCTION(ControlRegisterAccesses, X86_COUNT_CONTROL),
    EXIT(IoInstructions, of_cpu[X86_EXIT_PORT]),
    INSTRUCTION(HaltInstructions, X86_COUNT_HALT),
    INSTRUCTION(CpuidInstructions, X86_COUNT_CPUID),
    INSTRUCTION(MsrAccesses, X86_COUNT_MSR),
    EXIT(OtherIntercepts, of_cpu[X86_EXIT_EXCEPTION]),
    EXIT(OtherIntercepts, of_cpu[X86_EXIT_APIC_EOI]),
    EXIT(OtherIntercepts, other),
    EXIT(PendingInterrupts, window),
    INSTRUCTION(DebugRegisterAccesses, X86_COUNT_DEBUG),
    EXIT(PageFaultIntercepts, of_cpu[X86_EXIT_MEMORY]),
    INSTRUCTION(RdpmcInstructions, X86_COUNT_RDPMC),
    EVENT(PageFaultCount, page_faults),
    EVENT(ExceptionCount, exceptions),
    EVENT(InterruptCount, interrupts),
};

void counters_of_processor(const struct processor *p, uint64_t hz, struct processor_counters *counters)
{
    counters_sum(of_processor, sizeof of_processor / sizeof *of_processor, p, hz, counters);
}
