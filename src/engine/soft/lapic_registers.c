// The local APIC's registers: one table, the guest's accesses to it, and its state for the host.
#include "engine/soft/lapic_internal.h"

#include <string.h>

#define LVT_TIMER_MODE(lvt) ((enum apic_timer_mode)((lvt) >> 17 & 3))
#define ICR_LOGICAL (1u << 11)
#define ICR_ASSERT (1u << 14)
#define ICR_LEVEL (1u << 15)

enum access {
    XAPIC_READ = 1,
    XAPIC_WRITE = 2,
    X2APIC_READ = 4,
    X2APIC_WRITE = 8,
    STATE = 16,             // saved and restored; the others follow from these or are no state
    READ = XAPIC_READ | X2APIC_READ,
    READ_WRITE = READ | XAPIC_WRITE | X2APIC_WRITE,
};

// The registers, by offset / 16 = MSR - 0x800 (SDM vol. 3A tables 11-1 and 11-6). `writable` are the bits
// that a write or a restore stores; `tolerated` are read-only ones that it may carry, without effect; the
// others are reserved.
static const struct {
    uint8_t access;
    uint32_t writable;
    uint32_t tolerated;
} registers[64] = {
    [INDEX(LAPIC_ID)] = { READ, 0, 0 },
    [INDEX(LAPIC_VERSION_REGISTER)] = { READ, 0, 0 },
    [INDEX(LAPIC_TPR)] = { READ_WRITE | STATE, 0xFF, 0 },
    [INDEX(LAPIC_APR)] = { XAPIC_READ | XAPIC_WRITE, 0, 0 },
    [INDEX(LAPIC_PPR)] = { READ, 0, 0 },
    [INDEX(LAPIC_EOI)] = { XAPIC_WRITE | X2APIC_WRITE, 0, 0 },
    [INDEX(LAPIC_RRD)] = { XAPIC_READ | XAPIC_WRITE, 0, 0 },
    [INDEX(LAPIC_LDR)] = { READ | XAPIC_WRITE | STATE, 0xFF000000, 0 },
    [INDEX(LAPIC_DFR)] = { XAPIC_READ | XAPIC_WRITE | STATE, 0xF0000000, 0x0FFFFFFF },
    [INDEX(LAPIC_SVR)] = { READ_WRITE | STATE, 0x3FF, 0 },
    [INDEX(LAPIC_ISR)] = { READ | STATE, 0xFFFF0000, 0 },
    [INDEX(LAPIC_ISR) + 1 ... INDEX(LAPIC_ISR) + 7] = { READ | STATE, UINT32_MAX, 0 },
    [INDEX(LAPIC_TMR)] = { READ | STATE, 0xFFFF0000, 0 },
    [INDEX(LAPIC_TMR) + 1 ... INDEX(LAPIC_TMR) + 7] = { READ | STATE, UINT32_MAX, 0 },
    [INDEX(LAPIC_IRR)] = { READ | STATE, 0xFFFF0000, 0 },
    [INDEX(LAPIC_IRR) + 1 ... INDEX(LAPIC_IRR) + 7] = { READ | STATE, UINT32_MAX, 0 },
    [INDEX(LAPIC_ESR)] = { READ_WRITE | STATE, 0xFF, 0 },
    [INDEX(LAPIC_ICR)] = { READ_WRITE | STATE, 0xCCFFF, 0x1000 },
    [INDEX(LAPIC_ICR_HIGH)] = { XAPIC_READ | XAPIC_WRITE | STATE, 0xFF000000, 0 },
    [INDEX(LAPIC_LVT_TIMER)] = { READ_WRITE | STATE, 0x700FF, 0x1000 },
    [INDEX(LAPIC_LVT_THERMAL)] = { READ_WRITE | STATE, 0x107FF, 0x1000 },
    [INDEX(LAPIC_LVT_PERFORMANCE)] = { READ_WRITE | STATE, 0x107FF, 0x1000 },
    [INDEX(LAPIC_LVT_LINT0)] = { READ_WRITE | STATE, 0x1A7FF, 0x5000 },
    [INDEX(LAPIC_LVT_LINT1)] = { READ_WRITE | STATE, 0x1A7FF, 0x5000 },
    [INDEX(LAPIC_LVT_ERROR)] = { READ_WRITE | STATE, 0x100FF, 0x1000 },
    [INDEX(LAPIC_INITIAL_COUNT)] = { READ_WRITE | STATE, UINT32_MAX, 0 },
    [INDEX(LAPIC_CURRENT_COUNT)] = { READ | STATE, UINT32_MAX, 0 },
    [INDEX(LAPIC_DIVIDE)] = { READ_WRITE | STATE, 0xB, 0 },
    [INDEX(LAPIC_SELF_IPI)] = { X2APIC_WRITE, 0xFF, 0 },
};

#define LVT_TIMER_DEADLINE (1u << 18)

// Without the mode its bit is reserved.
static uint32_t writable(const struct lapic *l, unsigned index)
{
    bool less = index == INDEX(LAPIC_LVT_TIMER) && !l->config.tsc_deadline;

    return registers[index].writable & ~(less ? LVT_TIMER_DEADLINE : 0);
}

// What a remote read brings, and how it has ended, are there with it alone.
static bool readable(const struct lapic *l, unsigned index, enum access how)
{
    if (index == INDEX(LAPIC_RRD) && l->config.remote_read) {
        return true;
    }
    return index < 64 && (registers[index].access & how);
}

// The bits that a write in x2APIC mode or a restore may carry.
static uint32_t state_bits(const struct lapic *l, unsigned index)
{
    if (index == INDEX(LAPIC_RRD)) {
        return UINT32_MAX;
    }
    return writable(l, index) | registers[index].tolerated |
           (index == INDEX(LAPIC_ICR) && l->config.remote_read ? ICR_REMOTE_READ_DONE : 0);
}

static bool is_lvt(unsigned index)
{
    return index >= INDEX(LAPIC_LVT_TIMER) && index <= INDEX(LAPIC_LVT_ERROR);
}

static void reset_registers(struct lapic *l)
{
    for (unsigned i = 0; i < 64; i++) {
        lapic_store(l, i, is_lvt(i) ? LVT_MASKED : 0);
    }
    lapic_store(l, INDEX(LAPIC_DFR), UINT32_MAX);
    lapic_store(l, INDEX(LAPIC_SVR), 0xFF);
    for (unsigned i = 0; i < 8; i++) {
        lapic_store_isr(l, i, 0);
        atomic_store(&l->irr[i], 0);
        atomic_store(&l->tmr[i], 0);
        lapic_refresh_attention(l, i);
    }
    atomic_store(&l->errors, 0);
    lapic_update_ppr(l);
    apic_timer_reset(&l->timer);
}

void lapic_init(struct lapic *l, const struct lapic_config *config)
{
    memset(l, 0, sizeof(*l));
    l->config = *config;
    atomic_store(&l->base, LAPIC_DEFAULT_BASE | LAPIC_BASE_ENABLE | (config->bsp ? LAPIC_BASE_BSP : 0));
    apic_timer_init(&l->timer, config->bus_hz, config->tsc_hz);
    reset_registers(l);
}

void lapic_reset_init(struct lapic *l)
{
    reset_registers(l);
}

// Any thread.
static uint32_t read_register(const struct lapic *l, unsigned index, struct lapic_time now)
{
    unsigned word = index & 7;

    switch (index) {
    case INDEX(LAPIC_ID):
        return lapic_x2apic(l) ? l->config.id : l->config.id << 24;
    case INDEX(LAPIC_VERSION_REGISTER):
        return LAPIC_VERSION;
    case INDEX(LAPIC_PPR):
        return atomic_load_explicit(&l->ppr, memory_order_relaxed);
    case INDEX(LAPIC_LDR):
        return lapic_x2apic(l) ? lapic_x2apic_logical_id(l) : lapic_load(l, index);
    case INDEX(LAPIC_ISR) ... INDEX(LAPIC_ISR) + 7:
        return lapic_load_isr(l, word);
    case INDEX(LAPIC_TMR) ... INDEX(LAPIC_TMR) + 7:
        return atomic_load(&l->tmr[word]);
    case INDEX(LAPIC_IRR) ... INDEX(LAPIC_IRR) + 7:
        return atomic_load(&l->irr[word]);
    case INDEX(LAPIC_INITIAL_COUNT):
        return apic_timer_look(&l->timer, now).initial;
    case INDEX(LAPIC_CURRENT_COUNT):
        return apic_timer_look(&l->timer, now).current;
    default:
        return lapic_load(l, index);
    }
}

bool lapic_show_register(const struct lapic *l, unsigned index, uint32_t *value, struct lapic_time now)
{
    if (!readable(l, index, lapic_x2apic(l) ? X2APIC_READ : XAPIC_READ)) {
        return false;
    }
    *value = read_register(l, index, now);
    return true;
}

bool lapic_timer_poll(struct lapic *l, struct lapic_time now)
{
    if (now.ns < l->timer.deadline) {
        return false;
    }
    return apic_timer_expire(&l->timer, now) && lapic_local_event(l, INDEX(LAPIC_LVT_TIMER));
}

// Before a write that changes the timer or its LVT entry: what has expired by now expired under the old
// settings.
static void settle_timer(struct lapic *l, struct lapic_time now, struct lapic_effects *effects)
{
    if (apic_timer_expire(&l->timer, now) && lapic_local_event(l, INDEX(LAPIC_LVT_TIMER))) {
        effects->interrupts = true;
    }
    effects->timer = true;
}

void lapic_tsc_changed(struct lapic *l, struct lapic_time now)
{
    apic_timer_tsc_changed(&l->timer, now);
}

static void write_lvt(struct lapic *l, unsigned index, uint32_t value, struct lapic_time now,
                      struct lapic_effects *effects)
{
    if (!lapic_software_enabled(l)) {
        value |= LVT_MASKED;
    }
    if (index == INDEX(LAPIC_LVT_TIMER)) {
        settle_timer(l, now, effects);
        apic_timer_set_lvt(&l->timer, LVT_TIMER_MODE(value), !(value & LVT_MASKED), now);
    }
    lapic_store(l, index, value);
}

// Make the timer follow its LVT entry and SVR, without the disarming of a guest's change of mode.
static void restore_timer_lvt(struct lapic *l, struct lapic_time now)
{
    uint32_t lvt = lapic_load(l, INDEX(LAPIC_LVT_TIMER));

    apic_timer_restore_lvt(&l->timer, LVT_TIMER_MODE(lvt), !lapic_lvt_masked(l, lvt), now);
}

static void write_svr(struct lapic *l, uint32_t value, struct lapic_time now, struct lapic_effects *effects)
{
    settle_timer(l, now, effects);
    lapic_store(l, INDEX(LAPIC_SVR), value);
    if (!(value & SVR_ENABLE)) {
        for (unsigned i = INDEX(LAPIC_LVT_TIMER); i <= INDEX(LAPIC_LVT_ERROR); i++) {
            lapic_store(l, i, lapic_load(l, i) | LVT_MASKED);
        }
    }
    restore_timer_lvt(l, now);
}

// SDM vol. 3A 11.6.1 and table 11-3. Interprocessor interrupts are edge triggered whatever the ICR says.
static void send_ipi(struct lapic *l, uint32_t low, uint32_t destination, struct lapic_effects *effects)
{
    struct lapic_message m = {
        .destination = destination,
        .logical = low & ICR_LOGICAL,
        .vector = low & 0xFF,
        .mode = low >> 8 & 7,
        .shorthand = low >> 18 & 3,
    };
    bool vectored = m.mode == LAPIC_FIXED || m.mode == LAPIC_LOWEST_PRIORITY;

    if (m.mode == LAPIC_REMOTE_READ) {
        effects->remote_read = l->config.remote_read && m.shorthand == LAPIC_NO_SHORTHAND;
        effects->message = m;
        return;
    }
    // The level de-assert form of INIT does nothing on processors with an xAPIC.
    if (m.mode == LAPIC_EXTINT ||
        (m.mode == LAPIC_INIT && (low & ICR_LEVEL) && !(low & ICR_ASSERT))) {
        return;
    }
    if (vectored && m.vector < 16) {
        effects->interrupts |= lapic_raise_error(l, LAPIC_ERROR_SEND_VECTOR);
        return;
    }
    // The shorthands that include the sender are for fixed interrupts alone.
    if ((m.shorthand == LAPIC_SELF || m.shorthand == LAPIC_ALL) && m.mode != LAPIC_FIXED) {
        return;
    }
    if (m.shorthand == LAPIC_SELF) {
        effects->interrupts |= lapic_deliver(l, &m);
        effects->self_ipi = true;
        return;
    }
    effects->ipi = true;
    effects->message = m;
}

static void write_icr(struct lapic *l, uint32_t low, struct lapic_effects *effects)
{
    uint32_t destination = lapic_load(l, INDEX(LAPIC_ICR_HIGH));

    lapic_store(l, INDEX(LAPIC_ICR), low);
    if (!lapic_x2apic(l)) {
        destination >>= 24;
        if (destination == 0xFF && !(low & ICR_LOGICAL)) {
            destination = LAPIC_BROADCAST;
        }
    }
    send_ipi(l, low, destination, effects);
}

// A write that the mode allows, with reserved bits checked or masked out already.
static void write_register(struct lapic *l, unsigned index, uint32_t value, struct lapic_time now,
                           struct lapic_effects *effects)
{
    effects->written = (uint16_t)(index << 4);
    switch (index) {
    case INDEX(LAPIC_EOI):
        lapic_end_of_interrupt(l, effects);
        break;
    case INDEX(LAPIC_TPR):
        lapic_store(l, index, value);
        lapic_update_ppr(l);
        effects->interrupts = true;
        break;
    case INDEX(LAPIC_LDR):
    case INDEX(LAPIC_ICR_HIGH):
        lapic_store(l, index, value);
        break;
    case INDEX(LAPIC_DFR):
        lapic_store(l, index, value | 0x0FFFFFFF);
        break;
    case INDEX(LAPIC_SVR):
        write_svr(l, value, now, effects);
        break;
    case INDEX(LAPIC_ESR):
        lapic_store(l, index, atomic_exchange(&l->errors, 0));
        break;
    case INDEX(LAPIC_ICR):
        write_icr(l, value, effects);
        break;
    case INDEX(LAPIC_LVT_TIMER) ... INDEX(LAPIC_LVT_ERROR):
        write_lvt(l, index, value, now, effects);
        break;
    case INDEX(LAPIC_INITIAL_COUNT):
        settle_timer(l, now, effects);
        apic_timer_start(&l->timer, value, now);
        break;
    case INDEX(LAPIC_DIVIDE):
        settle_timer(l, now, effects);
        lapic_store(l, index, value);
        apic_timer_set_divide(&l->timer, value, now);
        break;
    case INDEX(LAPIC_SELF_IPI):
        send_ipi(l, value | LAPIC_SELF << 18, 0, effects);
        break;
    default:    // arbitration priority and remote read's data: accepted, without effect
        break;
    }
}

uint32_t lapic_mmio_read(struct lapic *l, uint32_t offset, struct lapic_time now)
{
    unsigned index = INDEX(offset);

    if (index >= 64 || !(registers[index].access & (XAPIC_READ | XAPIC_WRITE))) {
        lapic_raise_error(l, LAPIC_ERROR_REGISTER);
        return 0;
    }
    if (offset & 15 || !(registers[index].access & XAPIC_READ)) {
        return 0;
    }
    return read_register(l, index, now);
}

void lapic_mmio_write(struct lapic *l, uint32_t offset, uint32_t value, struct lapic_time now,
                      struct lapic_effects *effects)
{
    unsigned index = INDEX(offset);

    *effects = (struct lapic_effects){ 0 };
    if (index >= 64 || !(registers[index].access & (XAPIC_READ | XAPIC_WRITE))) {
        effects->interrupts = lapic_raise_error(l, LAPIC_ERROR_REGISTER);
        return;
    }
    if (!(offset & 15) && (registers[index].access & XAPIC_WRITE)) {
        write_register(l, index, value & writable(l, index), now, effects);
    }
}

// Reserved bits of IA32_APIC_BASE, and the one combination that is no mode (SDM vol. 3A 11.12.1.1).
static bool base_is_valid(const struct lapic *l, uint64_t value)
{
    uint64_t allowed = LAPIC_BASE_BSP | LAPIC_BASE_ENABLE | (l->config.x2apic ? LAPIC_BASE_X2APIC : 0);

    allowed |= ((1ull << l->config.physical_width) - 1) & ~(uint64_t)(LAPIC_PAGE_SIZE - 1);
    return !(value & ~allowed) && (!(value & LAPIC_BASE_X2APIC) || (value & LAPIC_BASE_ENABLE));
}

bool lapic_set_base(struct lapic *l, uint64_t value)
{
    uint64_t changed = value ^ atomic_load(&l->base);

    if (!base_is_valid(l, value)) {
        return false;
    }
    if (changed & LAPIC_BASE_X2APIC) {
        // SDM vol. 3A 11.12.5.1: these two have another form in the other mode and are not preserved.
        lapic_store(l, INDEX(LAPIC_LDR), 0);
        lapic_store(l, INDEX(LAPIC_ICR_HIGH), 0);
    }
    atomic_store(&l->base, value);
    // SDM vol. 3A 11.4.3: what was in the registers is lost. Cleared on both ways, because a message may
    // still come in while the APIC goes off.
    if (changed & LAPIC_BASE_ENABLE) {
        reset_registers(l);
    }
    return true;
}

// SDM vol. 3A 11.12.5: x2APIC mode is entered from xAPIC mode and left by disabling the APIC.
static enum lapic_result write_base(struct lapic *l, uint64_t value, struct lapic_effects *effects)
{
    bool to_x2apic = value & LAPIC_BASE_X2APIC;
    bool to_xapic = (value & LAPIC_BASE_ENABLE) && !to_x2apic;

    if ((to_x2apic && !lapic_enabled(l)) || (to_xapic && lapic_x2apic(l)) || !lapic_set_base(l, value)) {
        return LAPIC_FAULT;
    }
    effects->base = true;
    effects->timer = true;
    effects->interrupts = true;
    return LAPIC_OK;
}

static enum lapic_result write_x2apic(struct lapic *l, unsigned index, uint64_t value, struct lapic_time now,
                                      struct lapic_effects *effects)
{
    if (!lapic_x2apic(l) || index >= 64 || !(registers[index].access & X2APIC_WRITE)) {
        return LAPIC_FAULT;
    }
    if ((uint32_t)value & ~state_bits(l, index)) {
        return LAPIC_FAULT;
    }
    if (index == INDEX(LAPIC_ICR)) {
        lapic_store(l, INDEX(LAPIC_ICR_HIGH), (uint32_t)(value >> 32));
    } else if (value >> 32 || (index == INDEX(LAPIC_ESR) && value)) {
        return LAPIC_FAULT;
    }
    write_register(l, index, (uint32_t)value & writable(l, index), now, effects);
    return LAPIC_OK;
}

enum lapic_result lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t *value, struct lapic_time now)
{
    unsigned index = msr - LAPIC_MSR_X2APIC_FIRST;

    if (msr == LAPIC_MSR_BASE) {
        *value = lapic_get_base(l);
        return LAPIC_OK;
    }
    if (msr == LAPIC_MSR_TSC_DEADLINE) {
        // An expiry that was due reads as 0, also where a mask kept it from being waited for.
        if (apic_timer_expire(&l->timer, now)) {
            lapic_local_event(l, INDEX(LAPIC_LVT_TIMER));
        }
        *value = l->timer.mode == APIC_TIMER_TSC_DEADLINE ? l->timer.tsc_deadline : 0;
        return LAPIC_OK;
    }
    if (!lapic_x2apic(l) || !readable(l, index, X2APIC_READ)) {
        return LAPIC_FAULT;
    }
    *value = read_register(l, index, now);
    if (index == INDEX(LAPIC_ICR)) {
        *value |= (uint64_t)lapic_load(l, INDEX(LAPIC_ICR_HIGH)) << 32;
    }
    return LAPIC_OK;
}

enum lapic_result lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t value, struct lapic_time now,
                                  struct lapic_effects *effects)
{
    *effects = (struct lapic_effects){ 0 };
    if (msr == LAPIC_MSR_BASE) {
        return write_base(l, value, effects);
    }
    if (msr == LAPIC_MSR_TSC_DEADLINE) {
        // SDM vol. 3A 11.5.4.1: ignored in the other timer modes.
        settle_timer(l, now, effects);
        if (l->timer.mode == APIC_TIMER_TSC_DEADLINE) {
            apic_timer_set_tsc_deadline(&l->timer, value, now);
        }
        return LAPIC_OK;
    }
    return write_x2apic(l, msr - LAPIC_MSR_X2APIC_FIRST, value, now, effects);
}

// --- State, for the host ---

void lapic_set_tsc_deadline(struct lapic *l, uint64_t value, struct lapic_time now)
{
    apic_timer_set_tsc_deadline(&l->timer, value, now);
}

// A register that holds state in the present mode, and no reserved bit in the value.
static bool state_is_valid(const struct lapic *l, unsigned index, uint32_t value)
{
    if (index == INDEX(LAPIC_ICR_HIGH) && lapic_x2apic(l)) {
        return true;
    }
    return !(value & ~state_bits(l, index));
}

static bool is_state(const struct lapic *l, unsigned index)
{
    if (index == INDEX(LAPIC_RRD)) {
        return l->config.remote_read;
    }
    return (registers[index].access & STATE) && !(index == INDEX(LAPIC_LDR) && lapic_x2apic(l));
}

static void restore_register(struct lapic *l, unsigned index, uint32_t value, struct lapic_time now)
{
    unsigned word = index & 7;

    value &= ~registers[index].tolerated;
    switch (index) {
    case INDEX(LAPIC_ISR) ... INDEX(LAPIC_ISR) + 7:
        lapic_store_isr(l, word, value);
        lapic_update_ppr(l);
        break;
    case INDEX(LAPIC_TMR) ... INDEX(LAPIC_TMR) + 7:
        atomic_store(&l->tmr[word], value);
        break;
    case INDEX(LAPIC_IRR) ... INDEX(LAPIC_IRR) + 7:
        atomic_store(&l->irr[word], value);
        lapic_refresh_attention(l, word);
        break;
    case INDEX(LAPIC_TPR):
        lapic_store(l, index, value);
        lapic_update_ppr(l);
        break;
    case INDEX(LAPIC_DFR):
        lapic_store(l, index, value | 0x0FFFFFFF);
        break;
    case INDEX(LAPIC_INITIAL_COUNT):
        apic_timer_start(&l->timer, value, now);
        break;
    case INDEX(LAPIC_CURRENT_COUNT):
        apic_timer_set_current(&l->timer, value, now);
        break;
    case INDEX(LAPIC_DIVIDE):
        lapic_store(l, index, value);
        apic_timer_set_divide(&l->timer, value, now);
        break;
    default:
        lapic_store(l, index, value);
        break;
    }
    if (index == INDEX(LAPIC_LVT_TIMER) || index == INDEX(LAPIC_SVR)) {
        restore_timer_lvt(l, now);
    }
}

bool lapic_get_register(const struct lapic *l, uint32_t offset, uint64_t *value, struct lapic_time now)
{
    unsigned index = INDEX(offset);

    if (offset & 15 || index >= 64 || !(registers[index].access & (READ | STATE))) {
        return false;
    }
    *value = read_register(l, index, now);
    if (index == INDEX(LAPIC_ICR)) {
        *value |= (uint64_t)lapic_load(l, INDEX(LAPIC_ICR_HIGH)) << 32;
    }
    return true;
}

bool lapic_register_valid(const struct lapic *l, uint32_t offset, uint64_t value, struct lapic_time now)
{
    unsigned index = INDEX(offset);
    uint64_t own;

    if (offset & 15 || index >= 64) {
        return false;
    }
    if (!is_state(l, index)) {
        return lapic_get_register(l, offset, &own, now) && value == own;
    }
    if (!state_is_valid(l, index, (uint32_t)value)) {
        return false;
    }
    return index == INDEX(LAPIC_ICR) ? state_is_valid(l, INDEX(LAPIC_ICR_HIGH), (uint32_t)(value >> 32))
                                     : value >> 32 == 0;
}

bool lapic_set_register(struct lapic *l, uint32_t offset, uint64_t value, struct lapic_time now)
{
    unsigned index = INDEX(offset);

    if (!lapic_register_valid(l, offset, value, now)) {
        return false;
    }
    if (is_state(l, index)) {
        if (index == INDEX(LAPIC_ICR)) {
            restore_register(l, INDEX(LAPIC_ICR_HIGH), (uint32_t)(value >> 32), now);
        }
        restore_register(l, index, (uint32_t)value, now);
    }
    return true;
}

void lapic_get_page(const struct lapic *l, void *page, struct lapic_time now)
{
    memset(page, 0, LAPIC_PAGE_SIZE);
    for (unsigned i = 0; i < 64; i++) {
        if (registers[i].access & (READ | STATE)) {
            uint32_t value = read_register(l, i, now);

            memcpy((uint8_t *)page + i * 16, &value, sizeof(value));
        }
    }
}

static uint32_t page_value(const void *page, unsigned index)
{
    uint32_t value;

    memcpy(&value, (const uint8_t *)page + index * 16, sizeof(value));
    return value;
}

bool lapic_set_page(struct lapic *l, const void *page, struct lapic_time now)
{
    for (unsigned i = 0; i < 64; i++) {
        if (is_state(l, i) && !state_is_valid(l, i, page_value(page, i))) {
            return false;
        }
    }
    for (unsigned i = 0; i < 64; i++) {
        if (is_state(l, i)) {
            restore_register(l, i, page_value(page, i), now);
        }
    }
    // The count means something only once mode and divisor are known.
    apic_timer_start(&l->timer, page_value(page, INDEX(LAPIC_INITIAL_COUNT)), now);
    apic_timer_set_current(&l->timer, page_value(page, INDEX(LAPIC_CURRENT_COUNT)), now);
    return true;
}
