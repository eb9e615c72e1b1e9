// What a kvm processor counts: its own exits and steps on the view, and what the kernel's statistics add.
#include <string.h>

#include "engine/kvm/host.h"
#include "engine/kvm/stats.h"
#include "engine/kvm/vcpu.h"

// ---- Time --------------------------------------------------------------------------------------------------------

void kvm_runtime_begin(struct kvm_vcpu *v)
{
    struct kvm_runtime *r = &v->runtime;
    r->weight = 0;
    if (__builtin_expect(++r->until < KVM_RUNTIME_STRIDE && r->first == KVM_RUNTIME_FIRST, 1))
        return;
    r->weight = r->until;
    r->until = 0;
    r->first += r->first < KVM_RUNTIME_FIRST;
    r->inside_before = r->inside;
    r->since = r->left = x86_host_ticks();
}

// What is longer than anything that the engine does (the host has given the core to another thread) stands for itself.
static uint64_t weighted(const struct kvm_runtime *r, uint64_t ticks)
{
    return ticks > X86_COUNT_LONG ? ticks : ticks * r->weight;
}

void kvm_runtime_take(struct kvm_vcpu *v)
{
    struct kvm_runtime *r = &v->runtime;
    if (__builtin_expect(!r->weight, 1))
        return;
    uint64_t now = x86_host_ticks();
    r->own += weighted(r, x86_ticks_between(r->since + (r->inside - r->inside_before), now));
    r->since = now;
    r->inside_before = r->inside;
}

// And what an exit took, from the kernel's return to the client's.
void kvm_runtime_end(struct kvm_vcpu *v, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct processor_exits *exits = &v->p.exits;
    struct x86_counted *counted;
    kvm_runtime_take(v);
    if (!exit || !v->runtime.weight || exit->ExitReason == WHvRunVpExitReasonNone)
        return;
    switch (exit->ExitReason) {
    case WHvRunVpExitReasonX64IoPortAccess: counted = &exits->of_cpu[X86_EXIT_PORT]; break;
    case WHvRunVpExitReasonMemoryAccess: counted = &exits->of_cpu[X86_EXIT_MEMORY]; break;
    case WHvRunVpExitReasonX64MsrAccess: counted = &exits->of_cpu[X86_EXIT_MSR]; break;
    case WHvRunVpExitReasonX64Halt: counted = &v->p.cpu.counts.instruction[X86_COUNT_HALT]; break;
    case WHvRunVpExitReasonX64InterruptWindow: counted = &exits->window; break;
    default: counted = &exits->other; break;
    }
    x86_count_add(&counted->ticks, weighted(&v->runtime, x86_ticks_between(v->runtime.left, v->runtime.since)));
}

// ---- Figures -----------------------------------------------------------------------------------------------------

// The engine's own: the accesses to MSRs that leave it, and what it runs on the view.
static const struct counter_row rows[] = {
    COUNTER_TIMED(MsrAccesses, struct kvm_vcpu, p.exits.of_cpu[X86_EXIT_MSR]),
    COUNTER_TIMED(EmulatedInstructions, struct kvm_vcpu, steps),
};

// What the kernel counts beyond that: the sum of `plus`, less `minus`, less what the engine was told of and has counted
// itself. A figure of `instead` takes the place of the engine's own.
#define STAT(name) (1u << KVM_STAT_##name)
#define NOTHING UINT32_MAX
#define INTERCEPT_COUNT(member_) offsetof(struct processor_counters, intercepts.member_.Count)
#define EVENT_COUNT(member_) offsetof(struct processor_counters, events.member_)
#define WINDOWS (STAT(irq_window_exits) | STAT(nmi_window_exits))
static const struct kernel_row {
    uint16_t member;
    bool instead;
    uint32_t plus, minus;
    uint32_t own;                       // an x86_count of struct kvm_vcpu, or NOTHING
} kernel_rows[] = {
    { INTERCEPT_COUNT(PageInvalidations), false, STAT(invlpg), 0, NOTHING },
    { INTERCEPT_COUNT(HaltInstructions), false, STAT(halt_exits), 0, offsetof(struct kvm_vcpu, told_halts) },
    { INTERCEPT_COUNT(PendingInterrupts), false, WINDOWS, 0, offsetof(struct kvm_vcpu, told_windows) },
    { INTERCEPT_COUNT(OtherIntercepts), true, STAT(exits) | STAT(pf_mmio_spte_created),
      STAT(io_exits) | STAT(mmio_exits) | STAT(halt_exits) | WINDOWS | STAT(hypercalls) | STAT(pf_taken) | STAT(invlpg),
      offsetof(struct kvm_vcpu, p.exits.of_cpu[X86_EXIT_MSR].count) },
    { INTERCEPT_COUNT(EmulatedInstructions), false, STAT(insn_emulation), 0, NOTHING },
    { INTERCEPT_COUNT(PageFaultIntercepts), false, STAT(pf_taken), STAT(pf_guest) | STAT(pf_mmio_spte_created),
      NOTHING },
    { INTERCEPT_COUNT(Hypercalls), false, STAT(hypercalls), 0, NOTHING },
    { EVENT_COUNT(PageFaultCount), false, STAT(pf_guest), 0, NOTHING },
    { EVENT_COUNT(InterruptCount), false, STAT(irq_injections) | STAT(nmi_injections), 0, NOTHING },
};

// Since the processor was created: KVM's own may have served another before.
static uint64_t stats_sum(const struct kvm_vcpu *v, const struct kvm_stats *stats, uint32_t which)
{
    uint64_t sum = 0;
    for (unsigned n = 0; n < KVM_STATS; n++)
        if (which >> n & 1)
            sum += stats->value[n] - v->stats_before.value[n];
    return sum;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static void add_kernel(const struct kvm_vcpu *v, const struct kvm_stats *stats, struct processor_counters *counters)
{
    for (unsigned n = 0; n < sizeof kernel_rows / sizeof *kernel_rows; n++) {
        const struct kernel_row *row = &kernel_rows[n];
        uint64_t *member = (uint64_t *)((char *)counters + row->member);
        if ((stats->known & row->plus) != row->plus)
            continue;
        uint64_t value = less(stats_sum(v, stats, row->plus), stats_sum(v, stats, row->minus));
        if (row->own != NOTHING)
            value = less(value, *(const uint64_t *)((const char *)v + row->own));
        *member = value + (row->instead ? 0 : *member);
    }
}

// Differences of figures that are not of one moment, and of two clocks, may go back; what has been told does not.
static void never_back(uint64_t *told, const struct processor_counters *counters)
{
    const uint64_t *now = (const uint64_t *)counters;
    for (size_t n = 0; n < sizeof *counters / sizeof *now; n++)
        told[n] = now[n] > told[n] ? now[n] : told[n];
}

HRESULT kvm_counters(struct vp *vp, struct processor_counters *counters)
{
    struct kvm_vcpu *v = vp->engine_data;
    uint64_t hz = kvm_host()->tsc_khz * 1000ull;
    struct kvm_stats stats;
    kvm_vcpu_stop(v);               // so that all of KVM_RUN's time until now is taken in
    HRESULT hr = kvm_stats_read(v->fd, &stats);
    if (SUCCEEDED(hr)) {
        *counters = (struct processor_counters){ 0 };
        counters_of_processor(&v->p, hz, counters);
        counters_sum(rows, sizeof rows / sizeof *rows, v, hz, counters);
        add_kernel(v, &stats, counters);
        uint64_t own = counters_time(v->runtime.own, hz), inside = counters_time(v->runtime.inside, hz);
        counters->runtime.TotalRuntime100ns = own + less(inside, stats_sum(v, &stats, STAT(halt_wait_ns)) / 100);
        counters->runtime.HypervisorRuntime100ns = own;
        never_back((uint64_t *)&v->counters_told, counters);
        *counters = v->counters_told;
    }
    kvm_vcpu_go(v);
    return hr;
}

HRESULT kvm_counters_start(struct kvm_vcpu *v, bool used)
{
    return used ? kvm_stats_read(v->fd, &v->stats_before) : S_OK;
}

// ---- The partition's ---------------------------------------------------------------------------------------------

HRESULT kvm_memory_counters(struct partition *p, WHV_PARTITION_MEMORY_COUNTERS *counters)
{
    const uint32_t all = STAT(pages_4k) | STAT(pages_2m) | STAT(pages_1g);
    struct kvm_partition *kvm = p->engine_data;
    struct kvm_stats stats = { 0 };
    HRESULT hr = kvm_host()->hardware ? kvm_stats_read(kvm->vm, &stats) : S_OK;
    if (FAILED(hr))
        return hr;
    if ((stats.known & all) != all)
        return pages_counters(p, counters);
    *counters = (WHV_PARTITION_MEMORY_COUNTERS){ stats.value[KVM_STAT_pages_4k], stats.value[KVM_STAT_pages_2m],
                                                 stats.value[KVM_STAT_pages_1g] };
    return S_OK;
}
