// A soft processor's life: create, run, sleep, cancel, stop.
#include "engine/soft/vcpu.h"

#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/soft/features.h"
#include "os/guard.h"
#include "os/tsc.h"
#include "os/wait.h"
#include "x86/code.h"
#include "x86/decode.h"
#include "x86/fpu.h"
#include "x86/system.h"

// Guest instructions between two looks at the clock: some tens of microseconds.
#define QUANTUM 20000

// ---- Attention ---------------------------------------------------------------------------------------------------

void vcpu_kick(struct vcpu *v, uint32_t why)
{
    // Once the bits are in, a processor that runs leaves its block (the generation moves on) and one that sleeps wakes.
    if ((atomic_fetch_or(&v->attention, why) & why) == why && why == VCPU_INTERRUPT)
        return;
    atomic_fetch_add(&v->p.cpu.generation, 1);
    // Who goes to sleep says that it is not busy, and then compares `attention`: one of the two sees the other.
    if (!atomic_load(&v->turnstile.busy))
        os_wake(&v->attention);
}

void vcpu_cancel(struct vp *vp)
{
    vcpu_kick(vp->engine_data, VCPU_CANCEL);
}

void vcpu_stop(struct vcpu *v)
{
    uint32_t ticket = turnstile_ask(&v->turnstile);
    if (atomic_load(&v->turnstile.busy))
        vcpu_kick(v, VCPU_STOP);
    turnstile_enter(&v->turnstile, ticket);
}

void vcpu_resume(struct vcpu *v)
{
    turnstile_leave(&v->turnstile);
}

// ---- Create, destroy, reset --------------------------------------------------------------------------------------

// What goes with a reset or INIT of the processor itself.
static void start_over(struct vcpu *v)
{
    v->halted = v->wait_for_sipi = v->eoi_exit = false;
    v->traps.pending = 0;
    processor_start_over(&v->p);
}

void vcpu_reset(struct vcpu *v)
{
    struct soft_partition *soft = v->soft;
    struct lapic_config config = {
        .id = v->p.vp->index, .bsp = v->p.vp->index == 0, .x2apic = soft->x2apic_allowed,
        .tsc_deadline = x86_has_feature(&v->p.cpu, X86_FEATURE_TSC_DEADLINE),
        .remote_read = soft->remote_read,
        .physical_width = v->p.cpu.physical_bits, .bus_hz = soft->bus_hz, .tsc_hz = soft->tsc_hz,
    };
    lapic_init(&v->lapic, &config);
    v->p.cpu.mtrr_cap = 0x508;          // 8 variable ranges, the fixed ones, write combining
    x86_reset(&v->p.cpu);
    start_over(v);
    // With an APIC the other processors wait for the first one to start them.
    v->wait_for_sipi = soft->apic && v->p.vp->index != 0;
    v->tsc_offset = v->tsc_adjust = 0;
    atomic_store(&v->attention, 0);
}

HRESULT vcpu_create(struct vp *vp)
{
    struct soft_partition *soft = vp->partition->engine_data;
    struct vcpu *v = mmap(NULL, sizeof *v, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (v == MAP_FAILED)
        return E_OUTOFMEMORY;
    v->p.cpu.code = x86_code_new();
    if (!v->p.cpu.code) {
        munmap(v, sizeof *v);
        return E_OUTOFMEMORY;
    }
    processor_init(&v->p, vp, &vcpu_bus);
    v->soft = soft;
    v->p.cpu.counts.clock_cost = os_tsc_cost();
    runtime_init(&v->runtime);
    v->p.cpu.msr_actions = soft->msr_actions.count != 0;
    soft_features_of(&vp->partition->properties, v->p.cpu.features);
    vcpu_reset(v);
    vp->engine_data = v;
    pthread_rwlock_wrlock(&soft->vcpus_lock);
    if (soft->apic)
        soft->lapics[vp->index] = &v->lapic;
    soft->vcpus[vp->index] = v;
    pthread_rwlock_unlock(&soft->vcpus_lock);
    return S_OK;
}

void vcpu_destroy(struct vp *vp)
{
    struct vcpu *v = vp->engine_data;
    struct soft_partition *soft = v->soft;
    pthread_rwlock_wrlock(&soft->vcpus_lock);
    soft->lapics[vp->index] = NULL;
    soft->vcpus[vp->index] = NULL;
    pthread_rwlock_unlock(&soft->vcpus_lock);
    vp->engine_data = NULL;
    x86_code_free(v->p.cpu.code);
    munmap(v, sizeof *v);
}

// ---- Events ------------------------------------------------------------------------------------------------------

static UINT8 cr8_of(const struct vcpu *v) { return (UINT8)lapic_get_cr8(&v->lapic); }

static enum step exit_with(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit, WHV_RUN_VP_EXIT_REASON reason)
{
    exit_context(&v->p, exit, reason, cr8_of(v));
    return STEP_EXIT;
}

// The exit that cpu.exit holds.
static enum step exit_of_cpu(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    exit_from_cpu(&v->p, exit, cr8_of(v));
    if (v->p.cpu.exit.kind == X86_EXIT_RDTSC) {
        exit->ReadTsc.VirtualOffset = v->tsc_offset;
        exit->ReadTsc.Tsc = vcpu_guest_tsc(v);
        exit->ReadTsc.ReferenceTime = partition_reference_time(v->soft->partition);
    }
    return STEP_EXIT;
}

static void account(struct vcpu *v)
{
    int64_t executed = v->granted - v->p.cpu.budget - v->p.cpu.surcharge;
    v->granted = v->p.cpu.budget;
    v->p.cpu.surcharge = 0;
    atomic_store_explicit(&v->instructions, atomic_load_explicit(&v->instructions, memory_order_relaxed)
                          + (uint64_t)executed, memory_order_relaxed);
}

static void take_init_and_sipi(struct vcpu *v)
{
    if (lapic_take_init(&v->lapic)) {
        lapic_reset_init(&v->lapic);
        x86_init(&v->p.cpu);
        start_over(v);
        v->wait_for_sipi = v->p.vp->index != 0;
    }
    int vector = lapic_take_sipi(&v->lapic);
    if (vector >= 0 && v->wait_for_sipi) {
        v->p.cpu.segment[X86_CS].selector = (uint16_t)(vector << 8);
        v->p.cpu.slot[X86_SLOT_SEGMENT + X86_CS] = (uint64_t)vector << 12;
        v->p.cpu.rip = 0;
        v->wait_for_sipi = false;
    }
}

// A delivery ends a halt.
static enum step woken(struct vcpu *v, enum step step)
{
    if (step == STEP_AGAIN)
        v->halted = false;
    return step;
}

static enum step interrupt(struct vcpu *v, uint8_t vector, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct x86_exception event = { .vector = vector };
    return woken(v, deliver_event(&v->p, event, true, exit, cr8_of(v)));
}

// What comes before the next instruction (SDM vol. 3A 6.9), highest priority first.
static enum step events(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct x86_cpu *cpu = &v->p.cpu;
    cpu->leave_on_if = false;
    if (v->eoi_exit) {
        v->eoi_exit = false;
        cpu->exit.kind = X86_EXIT_APIC_EOI;
        cpu->exit.eoi.vector = v->eoi_vector;
        return exit_of_cpu(v, exit);
    }
    if (vcpu_trap_take(v, &cpu->exit))
        return exit_of_cpu(v, exit);
    bool quiet = !v->soft->apic || lapic_quiet(&v->lapic);
    if (!quiet) {
        take_init_and_sipi(v);
        if (v->p.settle && !v->wait_for_sipi)
            return STEP_AGAIN;
    }
    if (v->wait_for_sipi)
        return STEP_RUN;
    if (v->p.pending_valid || v->p.event_valid)
        return woken(v, deliver_pending(&v->p, exit, cr8_of(v)));
    if (cpu->interrupt_shadow)
        return STEP_RUN;
    if (!cpu->nmi_blocked) {
        if (v->p.notify_nmi) {
            v->p.notify_nmi = false;
            (void)exit_with(v, exit, WHvRunVpExitReasonX64InterruptWindow);
            exit->InterruptWindow.DeliverableType = WHvX64PendingNmi;
            return STEP_EXIT;
        }
        if (!quiet && lapic_take_nmi(&v->lapic))
            return interrupt(v, X86_NMI, exit);
    }
    if (!(cpu->rflags & X86_IF)) {
        cpu->leave_on_if = !quiet || v->p.ext_int_valid || v->p.notify_interrupt;
        return STEP_RUN;
    }
    // A halted processor takes one only when its owner has ended the halt (HaltSuspend), as measured on WHP.
    if (v->p.ext_int_valid && !v->halted) {
        v->p.ext_int_valid = false;
        return interrupt(v, v->p.ext_int_vector, exit);
    }
    if (v->p.notify_interrupt && (v->p.notify_priority == 0 || lapic_get_cr8(&v->lapic) < v->p.notify_priority)) {
        v->p.notify_interrupt = false;
        (void)exit_with(v, exit, WHvRunVpExitReasonX64InterruptWindow);
        exit->InterruptWindow.DeliverableType = WHvX64PendingInterrupt;
        return STEP_EXIT;
    }
    int vector = quiet ? -1 : lapic_pending(&v->lapic);
    if (vector >= 0) {
        lapic_accept(&v->lapic, (uint8_t)vector);
        return interrupt(v, (uint8_t)vector, exit);
    }
    return STEP_RUN;
}

// ---- Sleeping ----------------------------------------------------------------------------------------------------

// With an APIC a processor that has halted, or waits to be started, sleeps until something concerns it.
static void sleep_until_event(struct vcpu *v)
{
    uint64_t timeout = v->wait_for_sipi ? UINT64_MAX : vcpu_ns_until(v, lapic_timer_deadline(&v->lapic));
    runtime_pause(v);
    turnstile_stand_aside(&v->turnstile);
    if (timeout)
        os_wait(&v->attention, 0, timeout);
    turnstile_come_back(&v->turnstile);
    runtime_resume(v);
}

// ---- Running -----------------------------------------------------------------------------------------------------

// #DB after an instruction that was run with RFLAGS.TF set, or that hit a data breakpoint (SDM vol. 3B 18.3.1).
static enum step debug_trap(struct vcpu *v, bool single_step, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    x86_fault(&v->p.cpu, X86_DB, -1);
    v->p.cpu.exception.address = v->p.cpu.watch_hit | (single_step ? 1u << 14 : 0);
    v->p.cpu.watch_hit = 0;
    return deliver_exception(&v->p, exit, cr8_of(v));
}

// An instruction breakpoint at RIP: #DB before the instruction, unless RFLAGS.RF says that it was taken already.
static bool breakpoint_hit(struct x86_cpu *cpu)
{
    if (!(cpu->dr7 & 0xff) || (cpu->rflags & X86_RF))
        return false;
    uint64_t linear = x86_code_linear(cpu, cpu->rip), bits = 0;
    for (unsigned n = 0; n < 4; n++)
        if ((cpu->dr7 >> n * 2 & 3) && !(cpu->dr7 >> (16 + n * 4) & 15) && cpu->dr[n] == linear)
            bits |= 1u << n;
    if (!bits)
        return false;
    x86_fault(cpu, X86_DB, -1);
    cpu->exception.address = bits;
    return true;
}

static enum step guest(struct vcpu *v, uint64_t generation, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct x86_cpu *cpu = &v->p.cpu;
    bool single = cpu->mode & X86_MODE_SINGLE, trap = cpu->rflags & X86_TF, shadow = cpu->interrupt_shadow;
    bool resumed = cpu->rflags & X86_RF, debug = false;
    if (single && breakpoint_hit(cpu))
        return deliver_exception(&v->p, exit, cr8_of(v));
    uint64_t from = cpu->rip;
    cpu->watch_hit = 0;
    if (shadow)
        cpu->interrupt_shadow = 2;      // to tell a shadow that ends here from one that the instruction casts
    cpu->budget = QUANTUM;
    v->granted = QUANTUM;
    enum x86_leave leave = X86_LIKELY(!(v->runtime.special & RUNTIME_SAMPLED)) ? x86_run(cpu, generation)
                                                                               : runtime_run(v, generation);
    account(v);
    if (cpu->pauses >= X86_SPINNING)
        sched_yield();
    cpu->pauses = 0;
    cpu->current = NULL;        // RIP is right as it is from here on
    if (resumed && cpu->rip != from)        // not when IRET has only just set it
        cpu->rflags &= ~(uint64_t)X86_RF;
    if (single) {
        bool ended = shadow && cpu->interrupt_shadow == 2;
        if (ended)
            cpu->interrupt_shadow = 0;
        if (leave == X86_LEAVE_LOOKUP || leave == X86_LEAVE_HALT) {
            // A MOV SS casts its shadow over the trap too.
            trap = trap && !cpu->interrupt_shadow;
            debug = trap || (cpu->watch_hit && !cpu->interrupt_shadow);
        }
        x86_update_mode(cpu);
    }
    switch (leave) {
    case X86_LEAVE_LOOKUP:
        return debug ? debug_trap(v, trap, exit) : STEP_AGAIN;
    case X86_LEAVE_HALT:
        if (debug)
            return debug_trap(v, trap, exit);
        if (!v->soft->apic)
            return exit_with(v, exit, WHvRunVpExitReasonX64Halt);
        v->halted = true;
        return STEP_AGAIN;
    case X86_LEAVE_EXCEPTION:
        return deliver_exception(&v->p, exit, cr8_of(v));
    case X86_LEAVE_EXIT:
        if (shadow && single) {
            cpu->interrupt_shadow = 1;      // the instruction was not executed: its shadow is still on
            x86_update_mode(cpu);           // and ends behind it, which is for single mode to see
        }
        return exit_of_cpu(v, exit);
    case X86_LEAVE_SHUTDOWN:
        break;
    }
    return exit_with(v, exit, WHvRunVpExitReasonUnrecoverableException);
}

static enum step settle(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    processor_settle(&v->p);
    // An external interrupt event without an APIC mode is accepted by the set call and refused by the run.
    if (!x86_state_valid(&v->p.cpu, 0, 0) || (v->p.ext_int_valid && !v->soft->apic))
        return exit_with(v, exit, WHvRunVpExitReasonInvalidVpRegisterValue);
    v->p.settle = false;
    return STEP_RUN;
}

static enum step attend(struct vcpu *v, uint32_t attention, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    if (attention & VCPU_CANCEL) {
        atomic_fetch_and(&v->attention, ~(uint32_t)VCPU_CANCEL);
        (void)exit_with(v, exit, WHvRunVpExitReasonCanceled);
        exit->CancelReason.CancelReason = WHvRunVpCancelReasonUser;
        return STEP_EXIT;
    }
    atomic_fetch_and(&v->attention, ~attention);
    return STEP_RUN;
}

static enum step run_step(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    // Sampled before `attention`: a kick after this line makes x86_run return at once.
    uint64_t generation = atomic_load(&v->p.cpu.generation);
    uint32_t attention = atomic_load(&v->attention);
    if (attention && attend(v, attention, exit) == STEP_EXIT)
        return STEP_EXIT;
    if (X86_UNLIKELY(vp_due(v->p.vp))) {
        exit->ExitReason = WHvRunVpExitReasonNone;
        return STEP_EXIT;
    }
    if (turnstile_wanted(&v->turnstile)) {
        runtime_pause(v);
        turnstile_give_way(&v->turnstile);
        runtime_resume(v);
    }
    if (v->soft->apic && vcpu_ns_until(v, lapic_timer_deadline(&v->lapic)) == 0)
        (void)lapic_timer_poll(&v->lapic, vcpu_time(v));
    if (v->p.settle && !v->wait_for_sipi && settle(v, exit) == STEP_EXIT)
        return STEP_EXIT;
    enum step step = events(v, exit);
    if (step != STEP_RUN)
        return step;
    if (v->halted || v->wait_for_sipi) {
        sleep_until_event(v);
        return STEP_AGAIN;
    }
    return guest(v, generation, exit);
}

HRESULT vcpu_run(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct vcpu *v = vp->engine_data;
    struct os_guard guard;
    if (X86_UNLIKELY(--v->runtime.until == 0))
        runtime_sample(v);
    struct x86_fpu_host host = x86_fpu_host_enter();
    // Who looks at this has the turnstile's lock: a runner that is not seen yet looks at everything when it has it.
    atomic_store_explicit(&v->running, true, memory_order_release);
    turnstile_come_back(&v->turnstile);
    // The caller may have written to guest memory since the last run: have code compared again.
    atomic_fetch_add(&v->p.cpu.generation, 1);
    if (OS_GUARD_ENTER(&guard) == 0) {
        while (run_step(v, exit) != STEP_EXIT)
            runtime_next(v);
    } else {
        // Guest memory that the host took away. Handlers change nothing before their last access, so the
        // processor is still before the instruction.
        if (!exit_memory_gone(&v->p, guard.address, guard.write, exit, cr8_of(v)))
            os_guard_unexplained(&guard);
        account(v);
    }
    os_guard_leave(&guard);
    atomic_store_explicit(&v->running, false, memory_order_release);
    turnstile_stand_aside(&v->turnstile);
    x86_fpu_host_leave(host);
    if (X86_UNLIKELY(v->runtime.special))
        runtime_close(v, exit);
    return S_OK;
}
