// The local APIC's interrupts: requests and messages from any thread, priorities, service (SDM vol. 3A 11).
#include "engine/soft/lapic_internal.h"

#include <stddef.h>

// `attention`: bits 7:0 say which words of IRR may have a bit set.
#define ATTENTION_NMI (1u << 8)
#define ATTENTION_INIT (1u << 9)
#define ATTENTION_SIPI (1u << 10)
#define ATTENTION_SIPI_VECTOR_SHIFT 16

// --- Requests: any thread ---

// The sets of bits come in one order: TMR, IRR, attention. Whoever sees attention sees the request.
static bool request(struct lapic *l, uint8_t vector, bool level)
{
    unsigned word = vector / 32;
    uint32_t bit = 1u << vector % 32;

    // SDM vol. 3A 11.8.4: TMR follows the trigger mode of the last acceptance into IRR.
    if (level) {
        atomic_fetch_or(&l->tmr[word], bit);
    } else if (atomic_load(&l->tmr[word]) & bit) {
        atomic_fetch_and(&l->tmr[word], ~bit);
    }
    if (atomic_fetch_or(&l->irr[word], bit) & bit) {
        return false;
    }
    atomic_fetch_or(&l->attention, 1u << word);
    return true;
}

bool lapic_local_event(struct lapic *l, unsigned index)
{
    uint32_t lvt = lapic_load(l, index);

    if (lapic_lvt_masked(l, lvt)) {
        return false;
    }
    if ((lvt & 0xFF) < 16) {
        return lapic_raise_error(l, LAPIC_ERROR_RECEIVE_VECTOR);
    }
    return request(l, lvt & 0xFF, false);
}

// SDM vol. 3A 11.5.3. Only the first of a kind since the last write of ESR interrupts, so that a bad vector
// in the error entry itself ends here. True: an interrupt has been requested.
bool lapic_raise_error(struct lapic *l, enum lapic_error error)
{
    if (atomic_fetch_or(&l->errors, error) & error) {
        return false;
    }
    return lapic_local_event(l, INDEX(LAPIC_LVT_ERROR));
}

static bool request_checked(struct lapic *l, uint8_t vector, bool level)
{
    if (!lapic_software_enabled(l)) {
        return false;
    }
    if (vector < 16) {
        return lapic_raise_error(l, LAPIC_ERROR_RECEIVE_VECTOR);
    }
    return request(l, vector, level);
}

// Replace the bits `clear` by `bits`.
static bool latch(struct lapic *l, uint32_t clear, uint32_t bits)
{
    uint32_t old = atomic_load(&l->attention);

    while (!atomic_compare_exchange_weak(&l->attention, &old, (old & ~clear) | bits)) {
    }
    return (old & bits) != bits;
}

bool lapic_deliver(struct lapic *l, const struct lapic_message *m)
{
    if (!lapic_enabled(l)) {
        return false;
    }
    switch (m->mode) {
    case LAPIC_FIXED:
    case LAPIC_LOWEST_PRIORITY:
        return request_checked(l, m->vector, m->level);
    case LAPIC_NMI:
        return latch(l, 0, ATTENTION_NMI);
    case LAPIC_INIT:
        return latch(l, ATTENTION_SIPI, ATTENTION_INIT);
    case LAPIC_SIPI:
        return latch(l, 0xFFu << ATTENTION_SIPI_VECTOR_SHIFT,
                     ATTENTION_SIPI | (uint32_t)m->vector << ATTENTION_SIPI_VECTOR_SHIFT);
    case LAPIC_SMI:
    case LAPIC_REMOTE_READ:
    case LAPIC_EXTINT:
        break;
    }
    return false;
}

bool lapic_local_interrupt(struct lapic *l, unsigned pin)
{
    uint32_t lvt = lapic_load(l, INDEX(LAPIC_LVT_LINT0) + pin);
    struct lapic_message m = { .vector = lvt & 0xFF, .mode = lvt >> 8 & 7 };

    if (!lapic_enabled(l)) {
        // SDM vol. 3A 11.4.3: without the APIC the pins are INTR and NMI.
        return pin == 1 && latch(l, 0, ATTENTION_NMI);
    }
    // SDM vol. 3A 11.5.1: an LVT entry delivers fixed, SMI, NMI, INIT and ExtINT.
    if (lapic_lvt_masked(l, lvt) || m.mode == LAPIC_LOWEST_PRIORITY || m.mode == LAPIC_REMOTE_READ ||
        m.mode == LAPIC_SIPI) {
        return false;
    }
    return lapic_deliver(l, &m);
}

static bool accepts_logical(const struct lapic *l, uint32_t destination)
{
    uint32_t own, model, cluster;

    if (lapic_x2apic(l)) {
        own = lapic_x2apic_logical_id(l);
        return destination >> 16 == own >> 16 && (destination & own & 0xFFFF);
    }
    if (destination > 0xFF) {
        return false;
    }
    // SDM vol. 3A 11.6.2.2.
    own = lapic_load(l, INDEX(LAPIC_LDR)) >> 24;
    model = lapic_load(l, INDEX(LAPIC_DFR)) >> 28;
    if (model == 0xF) {
        return own & destination;
    }
    cluster = destination >> 4;
    return model == 0 && (cluster == 0xF || cluster == own >> 4) && (own & destination & 0xF);
}

bool lapic_accepts(const struct lapic *l, const struct lapic_message *m, uint32_t sender)
{
    if (!lapic_enabled(l)) {
        return false;
    }
    switch (m->shorthand) {
    case LAPIC_SELF:
        return l->config.id == sender;
    case LAPIC_ALL:
        return true;
    case LAPIC_ALL_BUT_SELF:
        return l->config.id != sender;
    case LAPIC_NO_SHORTHAND:
        break;
    }
    if (m->destination == LAPIC_BROADCAST) {
        return true;
    }
    if (m->logical) {
        return accepts_logical(l, m->destination);
    }
    // Devices have 8 bits of destination, of which all ones mean everybody in every mode; from an x2APIC 0xFF
    // is an ID.
    if (m->destination == 0xFF && (sender == LAPIC_NO_SENDER || !lapic_x2apic(l))) {
        return true;
    }
    return m->destination == l->config.id;
}

int lapic_lowest_priority(struct lapic *const *candidates, unsigned count)
{
    unsigned lowest = UINT32_MAX;
    int best = -1;

    for (unsigned i = 0; i < count; i++) {
        const struct lapic *l = candidates[i];
        unsigned priority = l ? atomic_load_explicit(&l->ppr, memory_order_relaxed) : UINT32_MAX;

        if (priority < lowest && lapic_enabled(l) && lapic_software_enabled(l)) {
            lowest = priority;
            best = (int)i;
        }
    }
    return best;
}

uint64_t lapic_route(struct lapic *const *lapics, unsigned count, const struct lapic_message *m,
                     uint32_t sender)
{
    struct lapic *candidates[64];
    uint64_t changed = 0;

    for (unsigned i = 0; i < count; i++) {
        bool accepts = lapics[i] && lapic_accepts(lapics[i], m, sender);

        candidates[i] = accepts ? lapics[i] : NULL;
        if (accepts && m->mode != LAPIC_LOWEST_PRIORITY && lapic_deliver(lapics[i], m)) {
            changed |= 1ull << i;
        }
    }
    if (m->mode == LAPIC_LOWEST_PRIORITY) {
        int best = lapic_lowest_priority(candidates, count);

        if (best >= 0 && lapic_deliver(candidates[best], m)) {
            changed = 1ull << best;
        }
    }
    return changed;
}

void lapic_remote_read(struct lapic *l, struct lapic *const *lapics, unsigned count,
                       const struct lapic_message *m, struct lapic_time now)
{
    const struct lapic *from = NULL;
    uint32_t value;

    for (unsigned i = 0; i < count && !from; i++) {
        if (lapics[i] && lapic_accepts(lapics[i], m, l->config.id)) {
            from = lapics[i];
        }
    }
    if (from && lapic_show_register(from, m->vector, &value, now)) {
        lapic_store(l, INDEX(LAPIC_RRD), value);
        lapic_store(l, INDEX(LAPIC_ICR), lapic_load(l, INDEX(LAPIC_ICR)) | ICR_REMOTE_READ_DONE);
    }
}

// --- The processor's side ---

static int highest_in_service(const struct lapic *l)
{
    for (unsigned i = 8; i-- > 0;) {
        uint32_t bits = lapic_load_isr(l, i);

        if (bits) {
            return (int)i * 32 + 31 - __builtin_clz(bits);
        }
    }
    return -1;
}

// SDM vol. 3A 11.8.3.1.
void lapic_update_ppr(struct lapic *l)
{
    uint32_t tpr = lapic_load(l, INDEX(LAPIC_TPR));
    int in_service = highest_in_service(l);
    uint32_t class = in_service < 0 ? 0 : (uint32_t)in_service & 0xF0;

    atomic_store_explicit(&l->ppr, (uint8_t)((tpr & 0xF0) >= class ? tpr : class), memory_order_relaxed);
}

int lapic_pending(const struct lapic *l)
{
    uint32_t words = atomic_load_explicit(&l->attention, memory_order_acquire) & 0xFF;

    while (words) {
        int i = 31 - __builtin_clz(words);
        uint32_t bits = atomic_load_explicit(&l->irr[i], memory_order_acquire);

        if (bits) {
            int vector = i * 32 + 31 - __builtin_clz(bits);

            return vector >> 4 > atomic_load_explicit(&l->ppr, memory_order_relaxed) >> 4 ? vector : -1;
        }
        words &= ~(1u << i);
    }
    return -1;
}

// Make `attention` follow a word of IRR from which bits were taken. A request that comes in between has set
// its IRR bit before: either it is seen here or it sets attention after us.
void lapic_refresh_attention(struct lapic *l, unsigned word)
{
    if (atomic_load(&l->irr[word]) == 0) {
        atomic_fetch_and(&l->attention, ~(1u << word));
    }
    if (atomic_load(&l->irr[word])) {
        atomic_fetch_or(&l->attention, 1u << word);
    }
}

void lapic_accept(struct lapic *l, uint8_t vector)
{
    unsigned word = vector / 32;
    uint32_t bit = 1u << vector % 32;

    atomic_fetch_and(&l->irr[word], ~bit);
    lapic_refresh_attention(l, word);
    lapic_store_isr(l, word, lapic_load_isr(l, word) | bit);
    lapic_update_ppr(l);
}

void lapic_end_of_interrupt(struct lapic *l, struct lapic_effects *effects)
{
    int vector = highest_in_service(l);
    unsigned word;
    uint32_t bit;

    if (vector < 0) {
        return;
    }
    word = (unsigned)vector / 32;
    bit = 1u << vector % 32;
    lapic_store_isr(l, word, lapic_load_isr(l, word) & ~bit);
    lapic_update_ppr(l);
    effects->interrupts = true;
    if (atomic_load_explicit(&l->tmr[word], memory_order_relaxed) & bit) {
        effects->eoi = true;
        effects->eoi_vector = (uint8_t)vector;
    }
}

uint64_t lapic_get_cr8(const struct lapic *l)
{
    return lapic_load(l, INDEX(LAPIC_TPR)) >> 4;
}

void lapic_set_cr8(struct lapic *l, uint64_t value)
{
    lapic_store(l, INDEX(LAPIC_TPR), (uint32_t)(value & 0xF) << 4);
    lapic_update_ppr(l);
}

bool lapic_take_nmi(struct lapic *l)
{
    return atomic_fetch_and(&l->attention, ~ATTENTION_NMI) & ATTENTION_NMI;
}

bool lapic_take_init(struct lapic *l)
{
    return atomic_fetch_and(&l->attention, ~ATTENTION_INIT) & ATTENTION_INIT;
}

int lapic_take_sipi(struct lapic *l)
{
    uint32_t old = atomic_fetch_and(&l->attention, ~(ATTENTION_SIPI | 0xFFu << ATTENTION_SIPI_VECTOR_SHIFT));

    return old & ATTENTION_SIPI ? (int)(old >> ATTENTION_SIPI_VECTOR_SHIFT & 0xFF) : -1;
}

// --- State, for the host ---

struct lapic_latches lapic_get_latches(const struct lapic *l)
{
    uint32_t attention = atomic_load(&l->attention);

    return (struct lapic_latches){
        .nmi = attention & ATTENTION_NMI,
        .init = attention & ATTENTION_INIT,
        .sipi = attention & ATTENTION_SIPI,
        .sipi_vector = (uint8_t)(attention >> ATTENTION_SIPI_VECTOR_SHIFT),
        .errors = (uint8_t)atomic_load(&l->errors),
    };
}

void lapic_set_latches(struct lapic *l, const struct lapic_latches *latches)
{
    uint32_t all = ATTENTION_NMI | ATTENTION_INIT | ATTENTION_SIPI | 0xFFu << ATTENTION_SIPI_VECTOR_SHIFT;
    uint32_t bits = (latches->nmi ? ATTENTION_NMI : 0) | (latches->init ? ATTENTION_INIT : 0);

    if (latches->sipi) {
        bits |= ATTENTION_SIPI | (uint32_t)latches->sipi_vector << ATTENTION_SIPI_VECTOR_SHIFT;
    }
    latch(l, all, bits);
    atomic_store(&l->errors, latches->errors);
}
