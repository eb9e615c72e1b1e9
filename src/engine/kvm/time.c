// Time that stands still and goes on, where the guest's counter is the host's and an offset of each processor.
//
// While time stands (kvm->stands: from set-up to the first run, and from time_stop to time_start), KVM's counter and
// timers say nothing. A processor's counter is the partition's clock and `tsc_ahead`; its APIC timer is held: taken out
// of KVM, which cannot fire it, with what was left of it and the clock at that moment. Everybody who reads or sets one
// of them comes here. time_start gives each processor the offset at which its counter goes on, all of them by one
// reading of the host's counter, and then the timers back, with what is left by the partition's clock. So a clock that
// is set while time stands (a reset, a migration that shows how long it took) moves counters and timers with it.
//
// A timer that KVM does not take back stays held, and goes back before the processor's next run as whatever else KVM
// has not got yet (KVM_GROUP_TIMER); until then it counts here.
//
// A one-shot timer that has run out is left with KVM, which alone knows whether its interrupt has been requested. Of a
// periodic one KVM does not tell that either: a tick that comes while the processor is out of the guest, just before
// time_stop, can be lost. A deadline that passes in the instant of time_stop can be requested twice.
#include "engine/kvm/vcpu.h"

#include <string.h>

#include "engine/kvm/apic_page.h"
#include "engine/kvm/host.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/msr.h"
#include "os/tsc.h"

#define MSR_TSC 0x10u
#define MSR_TSC_ADJUST 0x3bu
#define MSR_TSC_DEADLINE 0x6e0u

enum { LVT_ONE_SHOT, LVT_PERIODIC, LVT_DEADLINE };
#define LVT_WRITABLE 0x700ffu            // mode, mask, vector

static unsigned lvt_mode(uint32_t lvt) { return lvt >> 17 & 3; }

static uint64_t clock_of(const struct kvm_partition *kvm) { return clock_ticks(&kvm->partition->clock); }

// ---- The counter -------------------------------------------------------------------------------------------------

static HRESULT offset(struct kvm_vcpu *v, unsigned long request, uint64_t *value)
{
    struct kvm_device_attr attribute = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET,
                                         .addr = (uintptr_t)value };
    return kvm_hresult(kvm_ioctl(v->fd, request, &attribute));
}

HRESULT kvm_time_begin(struct kvm_vcpu *v, bool used)
{
    v->timer = (struct kvm_timer){ .held = KVM_TIMER_NOT_HELD };
    v->tsc_ahead = 0;
    if (!kvm_host()->tsc_offset) {
        if (used) {
            v->tsc = (struct kvm_tsc_registers){ .set = KVM_TSC_SET | KVM_TSC_SET_ADJUST };
            v->changed |= KVM_GROUP_TSC;
            v->fresh |= KVM_GROUP_TSC;
        }
        return S_OK;
    }
    HRESULT hr = used ? kvm_msr_set(v->fd, MSR_TSC_ADJUST, 0) : S_OK;
    return SUCCEEDED(hr) && !v->kvm->stands ? offset(v, KVM_SET_DEVICE_ATTR, &v->kvm->tsc_offset) : hr;
}

HRESULT kvm_time_fetch(struct kvm_vcpu *v)
{
    HRESULT hr = S_OK;
    if (v->timer.held == KVM_TIMER_DEADLINE)
        v->tsc.deadline = v->timer.deadline;
    else if (v->kvm->apic)
        hr = kvm_msr_get(v->fd, MSR_TSC_DEADLINE, &v->tsc.deadline);
    if (FAILED(hr))
        return hr;
    if (v->kvm->stands) {
        v->tsc.offset = v->kvm->tsc_offset + v->tsc_ahead;
        v->tsc.tsc = clock_of(v->kvm) + v->tsc_ahead;
        return S_OK;
    }
    hr = offset(v, KVM_GET_DEVICE_ATTR, &v->tsc.offset);
    return SUCCEEDED(hr) ? kvm_msr_get(v->fd, MSR_TSC, &v->tsc.tsc) : hr;
}

// By the register KVM takes what is within a second of another processor's for the same, and 0 for the partition's.
HRESULT kvm_time_set_tsc(struct kvm_vcpu *v, uint64_t value)
{
    if (v->kvm->stands) {
        v->tsc_ahead = value - clock_of(v->kvm);
        return S_OK;
    }
    return kvm_host()->tsc_offset ? kvm_time_set_offset(v, value - os_tsc()) : kvm_msr_set(v->fd, MSR_TSC, value);
}

HRESULT kvm_time_set_offset(struct kvm_vcpu *v, uint64_t value)
{
    if (v->kvm->stands)
        v->tsc_ahead = value - v->kvm->tsc_offset;
    return v->kvm->stands || !kvm_host()->tsc_offset ? S_OK : offset(v, KVM_SET_DEVICE_ATTR, &value);
}

// ---- A timer that is held ----------------------------------------------------------------------------------------

// Also a timer that did not go back stays here until it has.
static bool holds(const struct kvm_vcpu *v) { return v->kvm->stands || v->timer.held; }

static struct kvm_timer counting(const struct kvm_vcpu *v, uint32_t lvt, uint32_t divide, uint32_t initial,
                                 uint32_t current)
{
    // SDM vol. 3A figure 11-10: 1 is 0b1011, 2 is 0b0000.
    unsigned shift = ((divide >> 1 & 4) | (divide & 3)) + 1;
    return (struct kvm_timer){ .held = KVM_TIMER_COUNT, .lvt = lvt, .divide_shift = shift & 7, .initial = initial,
                               .current = current, .clock = clock_of(v->kvm) };
}

// Its current count; *ticked: it has run out since it was taken, at least once.
static uint32_t count_now(const struct kvm_vcpu *v, bool *ticked)
{
    const struct kvm_timer *t = &v->timer;
    uint64_t ticks = clock_of(v->kvm) - t->clock, hz = kvm_host()->tsc_khz * 1000ull;
    *ticked = false;
    if ((int64_t)ticks <= 0)
        return t->current;
    uint64_t passed = clock_scale(ticks, kvm_host_capabilities()->interrupt_clock_hz, hz) >> t->divide_shift;
    if (passed < t->current)
        return t->current - (uint32_t)passed;
    *ticked = true;
    if (lvt_mode(t->lvt) == LVT_ONE_SHOT)
        return 0;
    return t->initial - (uint32_t)((passed - t->current) % t->initial);
}

// What the timer's running out does (SDM vol. 3A 11.5.1).
static void request(struct kvm_lapic_state *state)
{
    uint32_t lvt = apic_register(state, APIC_LVT_TIMER), vector = lvt & 0xff, word = vector / 32 * 16;
    uint32_t bit = 1u << vector % 32;
    if ((lvt & APIC_LVT_MASKED) || vector < 16 || !(apic_register(state, APIC_SVR) & APIC_SVR_ENABLE))
        return;
    apic_set_register(state, APIC_IRR + word, apic_register(state, APIC_IRR + word) | bit);
    apic_set_register(state, APIC_TMR + word, apic_register(state, APIC_TMR + word) & ~bit);
}

static HRESULT put_counts(struct kvm_vcpu *v, struct kvm_lapic_state *state, uint32_t initial, uint32_t current)
{
    apic_set_register(state, APIC_INITIAL_COUNT, initial);
    apic_set_register(state, APIC_CURRENT_COUNT, current);
    return kvm_hresult(kvm_ioctl(v->fd, KVM_SET_LAPIC, state));
}

static HRESULT take_deadline(struct kvm_vcpu *v)
{
    uint64_t deadline;
    HRESULT hr = kvm_msr_get(v->fd, MSR_TSC_DEADLINE, &deadline);
    if (FAILED(hr) || !deadline)
        return hr;
    hr = kvm_msr_set(v->fd, MSR_TSC_DEADLINE, 0);
    if (SUCCEEDED(hr))
        v->timer = (struct kvm_timer){ .held = KVM_TIMER_DEADLINE, .deadline = deadline };
    return hr;
}

static HRESULT take_count(struct kvm_vcpu *v, struct kvm_lapic_state *state)
{
    uint32_t lvt = apic_register(state, APIC_LVT_TIMER), initial = apic_register(state, APIC_INITIAL_COUNT);
    uint32_t current = apic_register(state, APIC_CURRENT_COUNT);
    if (lvt_mode(lvt) > LVT_PERIODIC || !initial || (!current && lvt_mode(lvt) == LVT_ONE_SHOT))
        return S_OK;
    if (!current) {         // KVM has not seen to it yet
        request(state);
        current = initial;
    }
    struct kvm_timer taken = counting(v, lvt, apic_register(state, APIC_DIVIDE), initial, current);
    HRESULT hr = put_counts(v, state, 0, 0);
    if (SUCCEEDED(hr))
        v->timer = taken;
    return hr;
}

static HRESULT give_count(struct kvm_vcpu *v, struct kvm_lapic_state *state)
{
    // An INIT that KVM has carried out meanwhile has ended it.
    if ((apic_register(state, APIC_LVT_TIMER) ^ v->timer.lvt) & LVT_WRITABLE)
        return S_OK;
    bool ticked;
    uint32_t current = count_now(v, &ticked);
    if (ticked && lvt_mode(v->timer.lvt) == LVT_PERIODIC)
        request(state);     // of a one-shot timer that has run out KVM does
    return put_counts(v, state, v->timer.initial, current);
}

// With the APIC's state out of KVM and in again, no interrupt may come in between.
typedef HRESULT (*lapic_work)(struct kvm_vcpu *v, struct kvm_lapic_state *state);

static HRESULT with_lapic(struct kvm_vcpu *v, lapic_work work)
{
    struct kvm_lapic_state state;
    pthread_rwlock_wrlock(&v->kvm->interrupts.state);
    HRESULT hr = kvm_hresult(kvm_ioctl(v->fd, KVM_GET_LAPIC, &state));
    if (SUCCEEDED(hr))
        hr = work(v, &state);
    pthread_rwlock_unlock(&v->kvm->interrupts.state);
    return hr;
}

static HRESULT take_either(struct kvm_vcpu *v, struct kvm_lapic_state *state)
{
    bool deadline = lvt_mode(apic_register(state, APIC_LVT_TIMER)) == LVT_DEADLINE;
    return deadline ? take_deadline(v) : take_count(v, state);
}

static HRESULT take_timer(struct kvm_vcpu *v)
{
    return !v->kvm->apic || v->timer.held ? S_OK : with_lapic(v, take_either);
}

HRESULT kvm_time_give_timer(struct kvm_vcpu *v)
{
    HRESULT hr = S_OK;
    if (v->timer.held == KVM_TIMER_COUNT)
        hr = with_lapic(v, give_count);
    else if (v->timer.held == KVM_TIMER_DEADLINE && FAILED(kvm_msr_set(v->fd, MSR_TSC_DEADLINE, v->timer.deadline)))
        hr = E_FAIL;        // no value is wrong for it
    if (SUCCEEDED(hr))
        v->timer.held = KVM_TIMER_NOT_HELD;
    return hr;
}

// ---- Whoever reads and sets it meanwhile -------------------------------------------------------------------------

static uint32_t load(const uint8_t *page, unsigned offset_)
{
    uint32_t value;
    memcpy(&value, page + offset_, sizeof value);
    return value;
}

static void set_counts(uint8_t *page, uint32_t initial, uint32_t current)
{
    memcpy(page + APIC_INITIAL_COUNT, &initial, sizeof initial);
    memcpy(page + APIC_CURRENT_COUNT, &current, sizeof current);
}

void kvm_time_show_timer(const struct kvm_vcpu *v, uint8_t page[KVM_APIC_PAGE_SIZE])
{
    bool ticked;
    if (v->timer.held == KVM_TIMER_COUNT)
        set_counts(page, v->timer.initial, count_now(v, &ticked));
}

// The timer that a page brings. One that has run out goes to KVM with the page: what KVM requests then waits there.
static struct kvm_timer of_page(const struct kvm_vcpu *v, const uint8_t *page)
{
    const struct kvm_timer none = { .held = KVM_TIMER_NOT_HELD };
    uint32_t lvt = load(page, APIC_LVT_TIMER), initial = load(page, APIC_INITIAL_COUNT);
    uint32_t current = load(page, APIC_CURRENT_COUNT);
    if (lvt_mode(lvt) == LVT_DEADLINE)
        return v->timer.held == KVM_TIMER_DEADLINE ? v->timer : none;
    if (lvt_mode(lvt) > LVT_PERIODIC || !initial || (!current && lvt_mode(lvt) == LVT_ONE_SHOT))
        return none;
    return counting(v, lvt, load(page, APIC_DIVIDE), initial, current ? current : initial);
}

HRESULT kvm_time_set_page(struct kvm_vcpu *v, const uint8_t page[KVM_APIC_PAGE_SIZE], const uint8_t *before)
{
    if (!holds(v))
        return kvm_apic_set_page(&v->kvm->interrupts, v->fd, v->apic_base, page, before);
    uint8_t to[KVM_APIC_PAGE_SIZE], from[KVM_APIC_PAGE_SIZE];
    struct kvm_timer timer = of_page(v, page);
    memcpy(to, page, sizeof to);
    if (timer.held)
        set_counts(to, 0, 0);
    if (before) {
        memcpy(from, before, sizeof from);
        if (v->timer.held)
            set_counts(from, 0, 0);
    }
    HRESULT hr = kvm_apic_set_page(&v->kvm->interrupts, v->fd, v->apic_base, to, before ? from : NULL);
    if (SUCCEEDED(hr))
        v->timer = timer;
    return hr;
}

// As KVM has it, a deadline is for a timer in that mode.
HRESULT kvm_time_set_deadline(struct kvm_vcpu *v, uint64_t value)
{
    struct kvm_lapic_state state;
    if (!holds(v))
        return kvm_msr_set(v->fd, MSR_TSC_DEADLINE, value);
    HRESULT hr = kvm_hresult(kvm_ioctl(v->fd, KVM_GET_LAPIC, &state));
    if (SUCCEEDED(hr) && lvt_mode(apic_register(&state, APIC_LVT_TIMER)) == LVT_DEADLINE)
        v->timer = (struct kvm_timer){ .held = value ? KVM_TIMER_DEADLINE : KVM_TIMER_NOT_HELD, .deadline = value };
    return hr;
}

// ---- Stop and start ----------------------------------------------------------------------------------------------

static void give_all(struct kvm_partition *kvm)
{
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS; n++) {
        struct kvm_vcpu *v = kvm->vcpus[n];
        if (!v || !v->timer.held)
            continue;
        if (SUCCEEDED(kvm_time_give_timer(v)))
            v->changed &= ~(uint32_t)KVM_GROUP_TIMER;
        else
            v->changed |= KVM_GROUP_TIMER;      // the next run's to do, or to report
    }
}

HRESULT kvm_time_stop(struct partition *p)
{
    struct kvm_partition *kvm = p->engine_data;
    HRESULT hr = S_OK;
    if (!kvm_host()->tsc_offset)
        return E_NOTIMPL;
    if (kvm->stands)
        return S_OK;
    kvm_stop_all(kvm);
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS && SUCCEEDED(hr); n++)
        if (kvm->vcpus[n])
            hr = offset(kvm->vcpus[n], KVM_GET_DEVICE_ATTR, &kvm->vcpus[n]->tsc_ahead);
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS && SUCCEEDED(hr); n++)
        if (kvm->vcpus[n])
            hr = take_timer(kvm->vcpus[n]);
    if (FAILED(hr)) {
        give_all(kvm);
    } else {
        // In this order no counter goes back, whatever comes between the two.
        uint64_t host = os_tsc(), clock = clock_of(kvm);
        for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS; n++)
            if (kvm->vcpus[n])
                kvm->vcpus[n]->tsc_ahead += host - clock;
        kvm->tsc_offset = clock - host;
        kvm->stands = true;
    }
    kvm_go_all(kvm);
    return hr;
}

// Offsets that are set before one fails say nothing: time stands still.
HRESULT kvm_time_start(struct partition *p)
{
    struct kvm_partition *kvm = p->engine_data;
    HRESULT hr = kvm->msr_due ? kvm_msr_exits_now(kvm) : S_OK;      // the first run follows
    if (FAILED(hr) || !kvm->stands)
        return hr;
    kvm_stop_all(kvm);
    uint64_t own = clock_of(kvm) - os_tsc();
    for (unsigned n = 0; n < PARTITION_MAX_PROCESSORS && SUCCEEDED(hr); n++) {
        struct kvm_vcpu *v = kvm->vcpus[n];
        uint64_t value = own + (v ? v->tsc_ahead : 0);
        hr = v ? offset(v, KVM_SET_DEVICE_ATTR, &value) : S_OK;
    }
    if (SUCCEEDED(hr)) {
        kvm->tsc_offset = own;
        kvm->stands = false;
        give_all(kvm);
    }
    kvm_go_all(kvm);
    return hr;
}
