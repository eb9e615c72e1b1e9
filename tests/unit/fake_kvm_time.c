// The stand-in kernel's time: see fake_kvm_time.h.
//
// The rules are those of the kernel's arch/x86/kvm: x86.c for the counter, lapic.c for the APIC. The timer is a host's
// timer, which counts while the processor is out of the guest too, and leaves a mark that the next entry looks at.
#include "unit.h"

#include "fake_kvm_time.h"

#include <errno.h>
#include <string.h>

#include "engine/kvm/apic_page.h"
#include "os/tsc.h"

#define PROCESSORS 64u          // that descriptors are there for at a time
#define MSR_TSC 0x10u
#define MSR_TSC_ADJUST 0x3bu
#define MSR_TSC_DEADLINE 0x6e0u

enum { ONE_SHOT, PERIODIC, DEADLINE };

static struct processor {
    int fd;
    uint64_t offset, adjust;
    struct kvm_lapic_state lapic;
    bool armed;                 // the host's timer
    uint64_t target, period;    // in ticks of the host's counter
    uint64_t deadline;
    bool pending;               // it has run out
} processors[PROCESSORS];
static unsigned count;
static struct processor *newest;
static bool on_processor;
static uint64_t last_offset;    // kvm->arch.cur_tsc_offset

void fake_time_begin(void)
{
    last_offset = 0 - os_tsc();
}

void fake_time_create(int fd)
{
    unsigned n = 0;

    while (n < count && processors[n].fd != fd)     // the kernel's number of one that is gone may come again
        n++;
    assert_in_range(n, 0, PROCESSORS - 1);
    count += n == count;
    newest = &processors[n];
    *newest = (struct processor){.fd = fd, .offset = last_offset};
}

static uint32_t reg(const struct processor *p, unsigned offset) { return apic_register(&p->lapic, offset); }

static unsigned mode(const struct processor *p) { return reg(p, APIC_LVT_TIMER) >> 17 & 3; }

// What the host's timer has done by now (apic_timer_fn), or, as the processor enters the guest, its own
// (kvm_lapic_expired_hv_timer).
static void pass(struct processor *p, bool entering)
{
    if (on_processor && !entering)
        return;
    while (p->armed && os_tsc() >= p->target) {
        p->pending = true;
        p->armed = mode(p) == PERIODIC;
        if (p->armed)
            p->target += (os_tsc() - p->target) / p->period * p->period + p->period;
    }
}

static struct processor *processor(int fd)
{
    for (unsigned n = 0; n < count; n++)
        if (processors[n].fd == fd) {
            pass(&processors[n], false);
            return &processors[n];
        }
    fail_msg("no processor has descriptor %d", fd);
    return NULL;
}

static uint64_t ticks(const struct processor *p, uint32_t counts)
{
    uint32_t divide = reg(p, APIC_DIVIDE);

    return (uint64_t)counts * FAKE_BUS_TICKS << ((((divide >> 1 & 4) | (divide & 3)) + 1) & 7);
}

// apic_get_tmcct. The kernel's clock has always gone on since the timer was started; here it may have not.
static uint32_t current_count(const struct processor *p)
{
    if (reg(p, APIC_INITIAL_COUNT) == 0 || !p->period || !p->armed || os_tsc() >= p->target)
        return 0;
    uint64_t left = p->target - os_tsc();

    return (uint32_t)((left == p->period ? left : left % p->period) / ticks(p, 1));
}

static void start_deadline(struct processor *p)
{
    uint64_t now = os_tsc() + p->offset;

    p->armed = p->deadline != 0;
    p->target = os_tsc() + (p->deadline > now ? p->deadline - now : 0);
    pass(p, false);
}

// kvm_apic_set_state
static void set_lapic(struct processor *p, const struct kvm_lapic_state *state)
{
    unsigned before = mode(p);

    p->lapic = *state;
    p->armed = p->pending = false;
    if (mode(p) != before)
        p->deadline = 0;                // apic_update_lvtt
    if (mode(p) == DEADLINE) {
        start_deadline(p);
        return;
    }
    // set_target_expiration
    p->period = ticks(p, reg(p, APIC_INITIAL_COUNT));
    if (mode(p) > PERIODIC || !p->period)
        return;
    uint64_t left = ticks(p, reg(p, APIC_CURRENT_COUNT));
    if (left > p->period || (!left && mode(p) == PERIODIC))
        left = p->period;
    p->armed = true;
    p->target = os_tsc() + left;
    pass(p, false);
}

// kvm_set_lapic_tscdeadline_msr
static void set_deadline(struct processor *p, uint64_t value)
{
    if (mode(p) != DEADLINE)
        return;
    p->deadline = value;
    p->pending = false;
    start_deadline(p);
}

static void set_offset(struct processor *p, uint64_t value)
{
    p->offset = last_offset = value;
}

// kvm_synchronize_tsc: what is near what is there already, or is 0, is taken for the same.
static void set_tsc(struct processor *p, uint64_t value)
{
    uint64_t there = os_tsc() + last_offset, second = FAKE_KHZ * 1000ull;

    if (value && value - there + second > 2 * second)
        set_offset(p, value - os_tsc());
    else
        set_offset(p, last_offset);
}

bool fake_time_msr(int fd, struct kvm_msr_entry *entry, bool set)
{
    struct processor *p;

    switch (entry->index) {
    case MSR_TSC:
        p = processor(fd);
        if (set)
            set_tsc(p, entry->data);
        else
            entry->data = os_tsc() + p->offset;
        return true;
    case MSR_TSC_ADJUST:
        p = processor(fd);
        if (set)
            p->adjust = entry->data;
        else
            entry->data = p->adjust;
        return true;
    case MSR_TSC_DEADLINE:
        p = processor(fd);
        if (set)
            set_deadline(p, entry->data);
        else
            entry->data = mode(p) == DEADLINE ? p->deadline : 0;
        return true;
    }
    return false;
}

// __apic_accept_irq: fixed, edge.
static void accept(struct processor *p, uint32_t vector)
{
    unsigned word = vector / 32 * 16;

    apic_set_register(&p->lapic, APIC_IRR + word, reg(p, APIC_IRR + word) | 1u << vector % 32);
}

static int signal_msi(const struct kvm_msi *msi)
{
    int takers = 0;

    for (unsigned n = 0; n < count; n++)
        if (reg(&processors[n], APIC_ID) >> 24 == (msi->address_lo >> 12 & 0xFF)) {
            accept(&processors[n], msi->data & 0xFF);
            takers++;
        }
    return takers;
}

static int device_attribute(struct processor *p, const struct kvm_device_attr *attribute, bool set)
{
    uint64_t *value = (uint64_t *)(uintptr_t)attribute->addr;

    if (attribute->group != KVM_VCPU_TSC_CTRL || attribute->attr != KVM_VCPU_TSC_OFFSET)
        return -ENXIO;
    if (set)
        set_offset(p, *value);
    else
        *value = p->offset;
    return 0;
}

bool fake_time_ioctl(int fd, unsigned long request, void *argument, int *answer)
{
    struct kvm_lapic_state *state = argument;

    *answer = 0;
    switch (request) {
    case KVM_GET_DEVICE_ATTR:
    case KVM_SET_DEVICE_ATTR:
        *answer = device_attribute(processor(fd), argument, request == KVM_SET_DEVICE_ATTR);
        return true;
    case KVM_GET_LAPIC:
        *state = processor(fd)->lapic;
        apic_set_register(state, APIC_CURRENT_COUNT, current_count(processor(fd)));
        return true;
    case KVM_SET_LAPIC:
        set_lapic(processor(fd), state);
        return true;
    case KVM_SIGNAL_MSI:
        *answer = signal_msi(argument);
        return true;
    }
    return false;
}

void fake_time_enter(int fd)
{
    struct processor *p = processor(fd);
    uint32_t lvt = reg(p, APIC_LVT_TIMER);

    pass(p, true);
    if (!p->pending)
        return;
    p->pending = false;
    if (!(lvt & APIC_LVT_MASKED))
        accept(p, lvt & 0xFF);
    if (mode(p) == DEADLINE)
        p->deadline = 0;
}

void fake_time_take(uint32_t vector)
{
    unsigned word = vector / 32 * 16;

    apic_set_register(&newest->lapic, APIC_IRR + word, reg(newest, APIC_IRR + word) & ~(1u << vector % 32));
}

// kvm_lapic_reset
void fake_time_init(void)
{
    uint32_t id = reg(newest, APIC_ID);
    struct kvm_lapic_state state;

    memset(&state, 0, sizeof state);
    apic_set_register(&state, APIC_ID, id);
    apic_set_register(&state, APIC_SVR, 0xFF);
    for (unsigned offset = APIC_LVT_TIMER; offset <= APIC_LVT_ERROR; offset += 16)
        apic_set_register(&state, offset, APIC_LVT_MASKED);
    set_lapic(newest, &state);
}

bool fake_time_armed(void) { return newest->armed; }

void fake_time_on_processor(bool on) { on_processor = on; }
