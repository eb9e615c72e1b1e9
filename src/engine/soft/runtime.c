// How long a soft processor runs: sampled steps, looks at the clock, and the counters that come of them.
#include "engine/soft/vcpu.h"

#include "os/tsc.h"
#include "x86/code.h"

void runtime_init(struct runtime *r)
{
    r->weight = r->spread = RUNTIME_WEIGHT_FIRST;
    r->until = RUNTIME_BURST * (r->weight - 1);
}

// ---- Steps that are measured -------------------------------------------------------------------------------------

void runtime_sample(struct vcpu *v)
{
    struct runtime *r = &v->runtime;
    r->entered = r->left = 0;
    r->interrupts = atomic_load_explicit(&v->p.cpu.counts.interrupts, memory_order_relaxed);
    r->instructions = atomic_load_explicit(&v->instructions, memory_order_relaxed);
    r->special |= RUNTIME_SAMPLED;
    if (r->burst == 0)
        r->burst_from = os_thread_ns();
    r->from = x86_host_ticks();
}

enum x86_leave runtime_run(struct vcpu *v, uint64_t generation)
{
    v->runtime.entered = x86_host_ticks();
    enum x86_leave leave = x86_run(&v->p.cpu, generation);
    v->runtime.left = x86_host_ticks();
    return leave;
}

// When the next one is due. The multiplier spreads the clock's low bits over the high ones.
static void arm(struct runtime *r, uint64_t now)
{
    if (r->burst == 0) {
        r->burst = RUNTIME_BURST;       // this one has warmed up
        r->until = 1;
    } else if (--r->burst) {
        r->until = 1;
    } else {
        r->weight = r->spread / 2 + (uint32_t)(now * 0x9e3779b97f4a7c15ull >> 32) % r->spread;
        r->spread = r->spread < RUNTIME_WEIGHT ? r->spread * 2 : r->spread;
        r->until = RUNTIME_BURST * (r->weight - 1);
    }
}

// What took the processor out of guest code.
static x86_count *cause(struct vcpu *v, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    if (!exit) {
        uint64_t interrupts = atomic_load_explicit(&v->p.cpu.counts.interrupts, memory_order_relaxed);
        return interrupts != v->runtime.interrupts ? &v->p.exits.window.ticks : NULL;
    }
    switch (exit->ExitReason) {
    case WHvRunVpExitReasonNone: return NULL;
    case WHvRunVpExitReasonX64InterruptWindow: return &v->p.exits.window.ticks;
    case WHvRunVpExitReasonX64Halt: return &v->p.cpu.counts.instruction[X86_COUNT_HALT].ticks;
    case WHvRunVpExitReasonX64IoPortAccess: return &v->p.exits.of_cpu[X86_EXIT_PORT].ticks;
    case WHvRunVpExitReasonMemoryAccess: return &v->p.exits.of_cpu[X86_EXIT_MEMORY].ticks;
    case WHvRunVpExitReasonX64Cpuid: return &v->p.cpu.counts.instruction[X86_COUNT_CPUID].ticks;
    case WHvRunVpExitReasonX64MsrAccess: return &v->p.cpu.counts.instruction[X86_COUNT_MSR].ticks;
    case WHvRunVpExitReasonHypercall: return &v->p.exits.of_cpu[X86_EXIT_HYPERCALL].ticks;
    default: return &v->p.exits.other.ticks;
    }
}

// How a measured part of a step is taken: for at most `most`, up to `usual` for `weight` steps.
struct limits { uint64_t most, usual, weight; };

// In whole numbers: the thread's SSE state is the guest's here.
static uint64_t ticks_of(const struct vcpu *v, uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * v->soft->host_hz / 1000000000);
}

static struct limits limits(const struct vcpu *v, uint64_t now)
{
    const struct runtime *r = &v->runtime;
    uint64_t executed = atomic_load_explicit(&v->instructions, memory_order_relaxed) - r->instructions;
    struct limits l = { UINT64_MAX, ticks_of(v, RUNTIME_STEP_NS + executed * RUNTIME_INSTRUCTION_NS), r->weight };
    if (x86_ticks_between(r->from, now) > ticks_of(v, RUNTIME_STEP_NS))
        l.most = ticks_of(v, os_thread_ns() - r->burst_from);
    return l;
}

// What lies between two readings of the clock, without a reading's own time.
static uint64_t between(const struct vcpu *v, struct limits l, uint64_t from, uint64_t to)
{
    uint64_t ticks = x86_ticks_between(from + v->p.cpu.counts.clock_cost, to);
    ticks = ticks < l.most ? ticks : l.most;
    return ticks <= l.usual ? ticks * l.weight : l.usual * l.weight + (ticks - l.usual);
}

static void sampled(struct vcpu *v, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct runtime *r = &v->runtime;
    uint64_t now = x86_host_ticks();
    bool counts = r->burst && r->from;
    struct limits l = limits(v, now);
    r->special &= ~(uint32_t)RUNTIME_SAMPLED;
    arm(r, now);
    if (!counts)
        return;
    uint64_t before = 0, guest = 0, behind;
    if (r->entered) {
        uint64_t left = r->left ? r->left : now;        // memory was gone under guest code
        before = between(v, l, r->from, r->entered);
        guest = between(v, l, r->entered, left);
        behind = between(v, l, left, now);
    } else {
        behind = between(v, l, r->from, now);
    }
    if (!r->looks)
        x86_count_add(&r->head, before + guest + behind);
    x86_count_add(&r->engine, before + behind);
    x86_count *ticks = cause(v, exit);
    if (ticks)
        x86_count_add(ticks, behind);
}

// ---- Tails -------------------------------------------------------------------------------------------------------

// Takes in what has passed since the last reading of whichever clock it is.
static void take_in(struct runtime *r, uint64_t now)
{
    if (r->looks > RUNTIME_LONG) {
        uint64_t cpu = os_thread_ns();
        x86_count_add(&r->cpu, cpu - r->cpu_from);
        r->cpu_from = cpu;
    } else {
        x86_count_add(&r->tail, x86_ticks_between(r->tail_from, now));
        r->tail_from = now;
    }
}

static void look(struct runtime *r)
{
    r->steps = 0;
    if (r->looks++ == 0) {
        r->tail_from = x86_host_ticks();
        return;
    }
    if (r->looks <= RUNTIME_LONG || r->looks % RUNTIME_CPU_LOOKS == 0)
        take_in(r, x86_host_ticks());
    if (r->looks == RUNTIME_LONG) {
        r->cpu_from = os_thread_ns();
        r->looks++;
    }
}

void runtime_next(struct vcpu *v)
{
    struct runtime *r = &v->runtime;
    if (r->special & RUNTIME_SAMPLED)
        sampled(v, NULL);
    r->special = RUNTIME_STEPS;
    if (++r->steps == RUNTIME_LOOK_STEPS || v->p.cpu.budget < 0)
        look(r);
    if (--r->until == 0)
        runtime_sample(v);
}

void runtime_close(struct vcpu *v, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct runtime *r = &v->runtime;
    if (r->special & RUNTIME_SAMPLED)
        sampled(v, exit);
    if (r->looks)
        take_in(r, x86_host_ticks());
    r->looks = r->steps = r->special = 0;
}

void runtime_pause(struct vcpu *v)
{
    if (v->runtime.looks)
        take_in(&v->runtime, x86_host_ticks());
    v->runtime.from = 0;        // a step that is being measured is not: it does not run
}

void runtime_resume(struct vcpu *v)
{
    v->runtime.special |= RUNTIME_STEPS;        // behind the head, whatever step it is
    v->runtime.looks = 1;
    v->runtime.tail_from = x86_host_ticks();
}

// ---- The figures -------------------------------------------------------------------------------------------------

// What this engine alone counts. NestedPageFaultIntercepts and EmulatedInstructions have no row: there is no nested
// virtualisation, and the interpreter runs every instruction in the same way.
static const struct counter_row rows[] = {
    COUNTER_TIMED(OtherIntercepts, struct vcpu, p.exits.of_cpu[X86_EXIT_RDTSC]),
    COUNTER_TIMED(OtherIntercepts, struct vcpu, p.exits.of_cpu[X86_EXIT_APIC_WRITE]),
    COUNTER_TIMED(OtherIntercepts, struct vcpu, p.exits.of_cpu[X86_EXIT_APIC_SMI]),
    COUNTER_TIMED(OtherIntercepts, struct vcpu, p.exits.of_cpu[X86_EXIT_APIC_INIT_SIPI]),
    COUNTER_TIMED(Hypercalls, struct vcpu, p.exits.of_cpu[X86_EXIT_HYPERCALL]),
    COUNTER(intercepts, PendingInterrupts.Count, struct vcpu, p.cpu.counts.interrupts),
    COUNTER(apic, MmioAccessCount, struct vcpu, apic_counts.mmio),
    COUNTER(apic, EoiAccessCount, struct vcpu, apic_counts.eoi),
    COUNTER(apic, TprAccessCount, struct vcpu, apic_counts.tpr),
    COUNTER(apic, SentIpiCount, struct vcpu, apic_counts.ipi),
    COUNTER(apic, SelfIpiCount, struct vcpu, apic_counts.self_ipi),
};

static uint64_t load(x86_count *count)
{
    return atomic_load_explicit(count, memory_order_relaxed);
}

HRESULT vcpu_counters(struct vp *vp, struct processor_counters *counters)
{
    struct vcpu *v = vp->engine_data;
    struct runtime *r = &v->runtime;
    uint64_t hz = v->soft->host_hz;
    *counters = (struct processor_counters){ 0 };
    counters_of_processor(&v->p, hz, counters);
    counters_sum(rows, sizeof rows / sizeof *rows, v, hz, counters);
    // An estimate of a part may be more than that of the whole. The lesser of two that never go back does not either.
    uint64_t own = counters_time(load(&r->engine), hz);
    uint64_t total = counters_time(load(&r->head), hz) + counters_time(load(&r->tail), hz) + load(&r->cpu) / 100;
    counters->runtime.TotalRuntime100ns = total;
    counters->runtime.HypervisorRuntime100ns = own < total ? own : total;
    return S_OK;
}
