// The state of a local APIC that KVM emulates: between KVM's registers and WHP's page.
#include "engine/kvm/apic_page.h"

#include "engine/kvm/apic.h"
#include "engine/kvm/ioctl.h"

#define INDEX(offset) ((offset) >> 4)
#define REGISTERS 64u
#define VERSION_VALUE 0x50014u          // version 0x14, six LVT entries: what WHP shows
#define DFR_ONES 0x0FFFFFFFu

// The registers by their offset / 16 (SDM vol. 3A tables 11-1 and 11-6). STATE is stored and restored; what
// is merely PRESENT follows from others or reads as 0. `writable` bits are kept; `tolerated` are read-only
// ones that a value may carry, without effect; the others are reserved.
enum { PRESENT = 1, STATE = 2 };

static const struct { uint8_t kind; uint32_t writable, tolerated; } registers[REGISTERS] = {
    [INDEX(APIC_ID)] = { PRESENT, 0, 0 },
    [INDEX(APIC_VERSION)] = { PRESENT, 0, 0 },
    [INDEX(APIC_TPR)] = { PRESENT | STATE, 0xFF, 0 },
    [INDEX(APIC_APR)] = { PRESENT, 0, 0 },
    [INDEX(APIC_PPR)] = { PRESENT, 0, 0 },
    [INDEX(APIC_RRD)] = { PRESENT, 0, 0 },
    [INDEX(APIC_LDR)] = { PRESENT | STATE, 0xFF000000, 0 },
    [INDEX(APIC_DFR)] = { PRESENT | STATE, 0xF0000000, DFR_ONES },
    [INDEX(APIC_SVR)] = { PRESENT | STATE, 0x3FF, 0 },
    [INDEX(APIC_ISR)] = { PRESENT | STATE, 0xFFFF0000, 0 },
    [INDEX(APIC_ISR) + 1 ... INDEX(APIC_ISR) + 7] = { PRESENT | STATE, UINT32_MAX, 0 },
    [INDEX(APIC_TMR)] = { PRESENT | STATE, 0xFFFF0000, 0 },
    [INDEX(APIC_TMR) + 1 ... INDEX(APIC_TMR) + 7] = { PRESENT | STATE, UINT32_MAX, 0 },
    [INDEX(APIC_IRR)] = { PRESENT | STATE, 0xFFFF0000, 0 },
    [INDEX(APIC_IRR) + 1 ... INDEX(APIC_IRR) + 7] = { PRESENT | STATE, UINT32_MAX, 0 },
    [INDEX(APIC_ESR)] = { PRESENT | STATE, 0xFF, 0 },
    [INDEX(APIC_ICR)] = { PRESENT | STATE, 0xCCFFF, 0x1000 },
    [INDEX(APIC_ICR_HIGH)] = { PRESENT | STATE, 0xFF000000, 0 },
    [INDEX(APIC_LVT_TIMER)] = { PRESENT | STATE, 0x700FF, 0x1000 },
    [INDEX(APIC_LVT_THERMAL)] = { PRESENT | STATE, 0x107FF, 0x1000 },
    [INDEX(APIC_LVT_PERFORMANCE)] = { PRESENT | STATE, 0x107FF, 0x1000 },
    [INDEX(APIC_LVT_LINT0)] = { PRESENT | STATE, 0x1A7FF, 0x5000 },
    [INDEX(APIC_LVT_LINT1)] = { PRESENT | STATE, 0x1A7FF, 0x5000 },
    [INDEX(APIC_LVT_ERROR)] = { PRESENT | STATE, 0x100FF, 0x1000 },
    [INDEX(APIC_INITIAL_COUNT)] = { PRESENT | STATE, UINT32_MAX, 0 },
    [INDEX(APIC_CURRENT_COUNT)] = { PRESENT | STATE, UINT32_MAX, 0 },
    [INDEX(APIC_DIVIDE)] = { PRESENT | STATE, 0xB, 0 },
};

static bool is_x2apic(uint64_t base) { return base & APIC_BASE_X2APIC; }

// In x2APIC mode the logical destination follows from the ID (SDM vol. 3A 11.12.10.2).
static bool is_state(unsigned index, uint64_t base)
{
    return (registers[index].kind & STATE) && !(index == INDEX(APIC_LDR) && is_x2apic(base));
}

static uint32_t writable(unsigned index, uint64_t base)
{
    return index == INDEX(APIC_ICR_HIGH) && is_x2apic(base) ? UINT32_MAX : registers[index].writable;
}

static bool is_valid(unsigned index, uint64_t base, uint32_t value)
{
    return !(value & ~(writable(index, base) | registers[index].tolerated));
}

static uint32_t load(const uint8_t *page, unsigned index)
{
    uint32_t value;
    memcpy(&value, page + index * 16, sizeof value);
    return value;
}

static void store(uint8_t *page, unsigned index, uint32_t value)
{
    memcpy(page + index * 16, &value, sizeof value);
}

static bool is_vectors(unsigned index) { return index >= INDEX(APIC_ISR) && index < INDEX(APIC_ESR); }

// ---- What follows from others -----------------------------------------------------------------------------

// SDM vol. 3A 11.8.3.1. What KVM keeps of it may be older than the rest.
static void derive_ppr(uint8_t *page)
{
    uint32_t tpr = load(page, INDEX(APIC_TPR)), class = 0;
    for (unsigned word = 8; word-- > 0 && !class;) {
        uint32_t bits = load(page, INDEX(APIC_ISR) + word);
        if (bits)
            class = (word * 32 + 31 - (unsigned)__builtin_clz(bits)) & 0xF0;
    }
    store(page, INDEX(APIC_PPR), (tpr & 0xF0) >= class ? tpr : class);
}

enum { ONE_SHOT, PERIODIC };            // other timer modes do not count

static uint32_t timer_mode(const uint8_t *page) { return load(page, INDEX(APIC_LVT_TIMER)) >> 17 & 3; }

static bool counts_down(const uint8_t *page) { return timer_mode(page) <= PERIODIC; }

// ---- By register ------------------------------------------------------------------------------------------

bool kvm_apic_page_get(const uint8_t page[KVM_APIC_PAGE_SIZE], unsigned n, uint64_t *value)
{
    if (n >= REGISTERS || !registers[n].kind)
        return false;
    *value = load(page, n);
    if (n == INDEX(APIC_ICR))
        *value |= (uint64_t)load(page, INDEX(APIC_ICR_HIGH)) << 32;
    return true;
}

bool kvm_apic_page_valid(const uint8_t page[KVM_APIC_PAGE_SIZE], uint64_t base, unsigned n, uint64_t value)
{
    if (n >= REGISTERS || !registers[n].kind)
        return false;
    if (!is_state(n, base))
        return value == load(page, n);
    if (!is_valid(n, base, (uint32_t)value))
        return false;
    uint32_t high = (uint32_t)(value >> 32);
    return n == INDEX(APIC_ICR) ? is_valid(INDEX(APIC_ICR_HIGH), base, high) : high == 0;
}

static void set_current_count(uint8_t *page, uint32_t current)
{
    uint32_t initial = load(page, INDEX(APIC_INITIAL_COUNT));
    if (current > initial || (current == 0 && timer_mode(page) == PERIODIC))
        current = initial;
    store(page, INDEX(APIC_CURRENT_COUNT), current);
}

bool kvm_apic_page_set(uint8_t page[KVM_APIC_PAGE_SIZE], uint64_t base, unsigned n, uint64_t value)
{
    if (!kvm_apic_page_valid(page, base, n, value))
        return false;
    if (!is_state(n, base))
        return true;
    uint32_t bits = (uint32_t)value & ~registers[n].tolerated;
    switch (n) {
    case INDEX(APIC_DFR):
        bits |= DFR_ONES;
        break;
    case INDEX(APIC_ICR):
        store(page, INDEX(APIC_ICR_HIGH), (uint32_t)(value >> 32));
        break;
    case INDEX(APIC_INITIAL_COUNT):     // starts the count
        if (counts_down(page)) {
            store(page, n, bits);
            store(page, INDEX(APIC_CURRENT_COUNT), bits);
        }
        return true;
    case INDEX(APIC_CURRENT_COUNT):
        set_current_count(page, bits);
        return true;
    default:
        break;
    }
    store(page, n, bits);
    if (n == INDEX(APIC_LVT_TIMER) && !counts_down(page)) {
        store(page, INDEX(APIC_INITIAL_COUNT), 0);
        store(page, INDEX(APIC_CURRENT_COUNT), 0);
    }
    derive_ppr(page);
    return true;
}

// ---- The whole of it --------------------------------------------------------------------------------------


HRESULT kvm_apic_get_page(int fd, uint64_t base, uint8_t page[KVM_APIC_PAGE_SIZE])
{
    struct kvm_lapic_state state;
    int answer = kvm_ioctl(fd, KVM_GET_LAPIC, &state);
    if (answer < 0)
        return kvm_hresult(answer);
    memset(page, 0, KVM_APIC_PAGE_SIZE);
    // A guest can set bits in KVM's registers that are reserved here.
    for (unsigned n = 0; n < REGISTERS; n++)
        if (is_state(n, base))
            store(page, n, apic_register(&state, n * 16) & writable(n, base));
    store(page, INDEX(APIC_DFR), load(page, INDEX(APIC_DFR)) | DFR_ONES);
    store(page, INDEX(APIC_ID), apic_register(&state, APIC_ID) & (is_x2apic(base) ? UINT32_MAX : 0xFF000000));
    store(page, INDEX(APIC_VERSION), VERSION_VALUE);
    if (is_x2apic(base))
        store(page, INDEX(APIC_LDR), apic_register(&state, APIC_LDR));
    derive_ppr(page);
    return S_OK;
}

// Lay the page, or what differs from `before` in it, over KVM's registers.
static void overlay(struct kvm_lapic_state *state, uint64_t base, const uint8_t *page, const uint8_t *before)
{
    for (unsigned n = 0; n < REGISTERS; n++) {
        if (!is_state(n, base))
            continue;
        uint32_t mask = writable(n, base);      // the other bits are KVM's own
        if (before) {
            uint32_t changed = load(page, n) ^ load(before, n);
            mask = is_vectors(n) || !changed ? mask & changed : mask;
        }
        apic_set_register(state, n * 16, (apic_register(state, n * 16) & ~mask) | (load(page, n) & mask));
    }
    if (!counts_down(page)) {
        apic_set_register(state, APIC_INITIAL_COUNT, 0);
        apic_set_register(state, APIC_CURRENT_COUNT, 0);
    }
}

// Level-triggered interrupts that wait or are in service: the EOI of each is to be told. Adds to `vectors`.
static void level_vectors(const struct kvm_lapic_state *state, uint64_t vectors[4])
{
    for (unsigned word = 0; word < 8; word++) {
        uint64_t level = apic_register(state, APIC_TMR + word * 16);
        uint64_t active = apic_register(state, APIC_IRR + word * 16)
                        | apic_register(state, APIC_ISR + word * 16);
        vectors[word / 2] |= (level & active) << word % 2 * 32;
    }
}

HRESULT kvm_apic_level_waiting(int fd, bool *waiting)
{
    struct kvm_lapic_state state;
    uint64_t vectors[4] = { 0 };
    int answer = kvm_ioctl(fd, KVM_GET_LAPIC, &state);
    if (answer < 0)
        return kvm_hresult(answer);
    level_vectors(&state, vectors);
    *waiting = vectors[0] | vectors[1] | vectors[2] | vectors[3];
    return S_OK;
}

HRESULT kvm_apic_in_service(int fd, int *vector)
{
    struct kvm_lapic_state state;
    int answer = kvm_ioctl(fd, KVM_GET_LAPIC, &state);
    if (answer < 0)
        return kvm_hresult(answer);
    *vector = -1;
    for (int word = 7; word >= 0 && *vector < 0; word--) {
        uint32_t bits = apic_register(&state, APIC_ISR + (unsigned)word * 16);
        if (bits)
            *vector = word * 32 + 31 - __builtin_clz(bits);
    }
    return S_OK;
}

HRESULT kvm_apic_set_page(struct kvm_apic *a, int fd, uint64_t base, const uint8_t page[KVM_APIC_PAGE_SIZE],
                          const uint8_t *before)
{
    struct kvm_lapic_state now, state;
    uint64_t vectors[4] = { 0 };
    for (unsigned n = 0; n < REGISTERS; n++)
        if (is_state(n, base) && !is_valid(n, base, load(page, n)))
            return E_INVALIDARG;
    if (before && memcmp(page, before, KVM_APIC_PAGE_SIZE) == 0)
        return S_OK;
    pthread_rwlock_wrlock(&a->state);
    HRESULT hr = kvm_hresult(kvm_ioctl(fd, KVM_GET_LAPIC, &now));
    if (SUCCEEDED(hr)) {
        state = now;
        overlay(&state, base, page, before);
        level_vectors(&state, vectors);
        hr = kvm_apic_route(a, vectors);
    }
    if (SUCCEEDED(hr) && memcmp(&state, &now, sizeof state) != 0)
        hr = kvm_hresult(kvm_ioctl(fd, KVM_SET_LAPIC, &state));
    pthread_rwlock_unlock(&a->state);
    return hr;
}

HRESULT kvm_apic_reset(struct kvm_apic *a, int fd, uint32_t id)
{
    struct kvm_lapic_state state;
    memset(&state, 0, sizeof state);
    apic_set_register(&state, APIC_ID, id << 24);
    apic_set_register(&state, APIC_DFR, UINT32_MAX);
    apic_set_register(&state, APIC_SVR, 0xFF);
    for (unsigned offset = APIC_LVT_TIMER; offset <= APIC_LVT_ERROR; offset += 16)
        apic_set_register(&state, offset, APIC_LVT_MASKED);
    pthread_rwlock_wrlock(&a->state);
    int answer = kvm_ioctl(fd, KVM_SET_LAPIC, &state);
    pthread_rwlock_unlock(&a->state);
    return kvm_hresult(answer);
}
