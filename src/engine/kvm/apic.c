// Interrupts where KVM emulates the local APICs: set-up, requests as messages, the routing table for EOIs.
#include "engine/kvm/apic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/apic_page.h"
#include "engine/kvm/ioctl.h"

#define VECTORS 240u                    // 16 to 255 (SDM vol. 3A 11.5.2)
#define EVERYBODY_X2APIC UINT32_MAX
#define EVERYBODY_XAPIC 0xFFu

// Message-signalled interrupts (SDM vol. 3A 11.11); bits 31:8 of a destination are KVM's own place for them.
#define MSI_ADDRESS 0xFEE00000u
#define MSI_LOGICAL (1u << 2)
#define MSI_ASSERT (1u << 14)
#define MSI_LEVEL (1u << 15)

// The values of WHV_INTERRUPT_TYPE are the delivery modes of the ICR, of LVT entries and of messages.
struct message {
    uint32_t destination;
    bool logical, level;
    uint32_t mode;
    uint8_t vector;
};

// ---- Set-up -----------------------------------------------------------------------------------------------

static int enable(int vm, uint32_t capability, uint64_t argument)
{
    struct kvm_enable_cap cap = { .cap = capability, .args = { argument } };
    return kvm_ioctl(vm, KVM_ENABLE_CAP, &cap);
}

// A kernel that knows how shows no suppression of EOI broadcasts; older ones show it and do not have it.
static int enable_x2apic(int vm)
{
    uint64_t flags = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
    int answer = enable(vm, KVM_CAP_X2APIC_API, flags | KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST);
    return answer == -EINVAL ? enable(vm, KVM_CAP_X2APIC_API, flags) : answer;
}

HRESULT kvm_apic_setup(struct kvm_apic *a, int vm, WHV_X64_LOCAL_APIC_EMULATION_MODE mode, uint32_t bus_ns)
{
    memset(a, 0, sizeof *a);
    a->vm = vm;
    a->x2apic = mode == WHvX64LocalApicEmulationModeX2Apic;
    // One number of the routing table for each vector and kind of broadcast.
    int answer = enable(vm, KVM_CAP_SPLIT_IRQCHIP, a->x2apic ? 2 * VECTORS : VECTORS);
    // LINT0 is masked after reset as LINT1 is; and the APIC's page is no hole in memory when the APIC is
    // elsewhere.
    if (answer >= 0)
        answer = enable(vm, KVM_CAP_DISABLE_QUIRKS,
                        KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE);
    if (answer >= 0 && a->x2apic)
        answer = enable_x2apic(vm);
    if (answer >= 0 && bus_ns != 1)     // what KVM has by itself
        answer = enable(vm, KVM_CAP_X86_APIC_BUS_CYCLES_NS, bus_ns);
    if (answer < 0)
        return kvm_hresult(answer);
    pthread_rwlockattr_t attributes;
    pthread_mutex_init(&a->lock, NULL);
    // Devices that never stop asking do not keep a state from being set.
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&a->state, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    return S_OK;
}

void kvm_apic_destroy(struct kvm_apic *a)
{
    pthread_mutex_destroy(&a->lock);
    pthread_rwlock_destroy(&a->state);
}

// ---- The routing table ------------------------------------------------------------------------------------

static struct kvm_msi make_msi(const struct message *m)
{
    return (struct kvm_msi){
        .address_lo = MSI_ADDRESS | (m->destination & 0xFF) << 12 | (m->logical ? MSI_LOGICAL : 0),
        .address_hi = m->destination & ~0xFFu,
        .data = m->vector | m->mode << 8 | MSI_ASSERT | (m->level ? MSI_LEVEL : 0),
    };
}

static void add_entry(struct kvm_irq_routing *table, unsigned vector, uint32_t destination)
{
    struct message m = { .destination = destination, .level = true, .vector = (uint8_t)vector };
    struct kvm_msi msi = make_msi(&m);
    table->entries[table->nr] = (struct kvm_irq_routing_entry){
        .gsi = table->nr, .type = KVM_IRQ_ROUTING_MSI,
        .u.msi = { .address_lo = msi.address_lo, .address_hi = msi.address_hi, .data = msi.data },
    };
    table->nr++;
}

// The whole table each time: that is how KVM takes it.
static HRESULT set_routes(struct kvm_apic *a, const uint64_t vectors[4])
{
    struct kvm_irq_routing *table = calloc(1, sizeof *table + 2 * VECTORS * sizeof table->entries[0]);
    if (!table)
        return E_OUTOFMEMORY;
    for (unsigned vector = 16; vector < 256; vector++) {
        if (!(vectors[vector / 64] >> vector % 64 & 1))
            continue;
        add_entry(table, vector, EVERYBODY_XAPIC);
        if (a->x2apic)
            add_entry(table, vector, EVERYBODY_X2APIC);
    }
    int answer = kvm_ioctl(a->vm, KVM_SET_GSI_ROUTING, table);
    free(table);
    return kvm_hresult(answer);
}

static bool have_routes(const struct kvm_apic *a, const uint64_t vectors[4])
{
    for (unsigned n = 0; n < 4; n++)
        if (vectors[n] & ~atomic_load_explicit(&a->routed[n], memory_order_acquire))
            return false;
    return true;
}

// Once KVM has the table, every processor looks at it before it next enters the guest
// (kvm_make_scan_ioapic_request: it kicks those that are inside and waits until they are out). So an
// interrupt that is requested after this cannot be ended before its processor knows the entry.
HRESULT kvm_apic_route(struct kvm_apic *a, const uint64_t vectors[4])
{
    if (have_routes(a, vectors))
        return S_OK;
    HRESULT hr = S_OK;
    pthread_mutex_lock(&a->lock);
    if (!have_routes(a, vectors)) {
        uint64_t all[4];
        for (unsigned n = 0; n < 4; n++)
            all[n] = atomic_load(&a->routed[n]) | vectors[n];
        hr = set_routes(a, all);
        for (unsigned n = 0; SUCCEEDED(hr) && n < 4; n++)
            atomic_store_explicit(&a->routed[n], all[n], memory_order_release);
    }
    pthread_mutex_unlock(&a->lock);
    return hr;
}

HRESULT kvm_apic_tells_eoi(int fd, uint32_t vector, bool *tells)
{
    struct kvm_lapic_state state;
    int answer = kvm_ioctl(fd, KVM_GET_LAPIC, &state);
    if (answer < 0)
        return kvm_hresult(answer);
    *tells = apic_register(&state, APIC_TMR + (vector / 32 & 7) * 16) >> vector % 32 & 1;
    return S_OK;
}

// ---- Requests ---------------------------------------------------------------------------------------------

// How many took it, or minus an errno. KVM's answer is -1, which reads as EPERM, when the destination names
// nobody.
static int send(struct kvm_apic *a, struct message m)
{
    struct kvm_msi msi = make_msi(&m);
    int answer = kvm_ioctl(a->vm, KVM_SIGNAL_MSI, &msi);
    return answer == -EPERM ? 0 : answer;
}

// To every processor, or to one of all.
static int broadcast(struct kvm_apic *a, struct message m)
{
    bool one = m.mode == APIC_LOWEST_PRIORITY;
    int answer = 0;
    // In physical mode KVM takes the lowest priority of all for a fixed interrupt to all; in logical mode its
    // broadcast is the same and the choice is made.
    m.logical = one;
    if (a->x2apic) {
        m.destination = EVERYBODY_X2APIC;
        answer = send(a, m);
    }
    if (answer < 0 || (one && answer > 0))
        return answer;
    m.destination = EVERYBODY_XAPIC;
    return send(a, m);
}

static int deliver(struct kvm_apic *a, const struct message *m)
{
    if (m->destination == EVERYBODY_X2APIC || (m->destination == EVERYBODY_XAPIC && !m->logical))
        return broadcast(a, *m);
    // An xAPIC's identifiers have 8 bits; KVM would look at the low ones alone.
    if (m->destination > 0xFF && !a->x2apic)
        return 0;
    return send(a, *m);
}

HRESULT kvm_apic_request(struct kvm_apic *a, const WHV_INTERRUPT_CONTROL *interrupt)
{
    struct message m = {
        .destination = interrupt->Destination,
        .logical = interrupt->DestinationMode == WHvX64InterruptDestinationModeLogical,
        .mode = (uint32_t)interrupt->Type,
        .vector = (uint8_t)interrupt->Vector,
    };
    bool vectored = m.mode == APIC_FIXED || m.mode == APIC_LOWEST_PRIORITY;
    m.level = vectored && interrupt->TriggerMode == WHvX64InterruptTriggerModeLevel;
    if (m.level) {
        uint64_t vectors[4] = { 0 };
        vectors[m.vector / 64] = 1ull << m.vector % 64;
        HRESULT hr = kvm_apic_route(a, vectors);
        if (FAILED(hr))
            return hr;
    }
    pthread_rwlock_rdlock(&a->state);
    int answer = deliver(a, &m);
    pthread_rwlock_unlock(&a->state);
    return kvm_hresult(answer);
}

// ---- LINT1 ------------------------------------------------------------------------------------------------

// SDM vol. 3A 11.6.2.2.
static bool accepts_logical(const struct kvm_lapic_state *state, bool x2apic, uint32_t destination)
{
    uint32_t own = apic_register(state, APIC_LDR);
    if (x2apic)
        return destination >> 16 == own >> 16 && (destination & own & 0xFFFF);
    if (destination > 0xFF)
        return false;
    own >>= 24;
    uint32_t model = apic_register(state, APIC_DFR) >> 28, cluster = destination >> 4;
    if (model == 0xF)
        return own & destination;
    return model == 0 && (cluster == 0xF || cluster == own >> 4) && (own & destination & 0xF);
}

static bool accepts(const struct kvm_lapic_state *state, uint64_t base,
                    const WHV_INTERRUPT_CONTROL *interrupt)
{
    bool x2apic = base & APIC_BASE_X2APIC;
    uint32_t id = apic_register(state, APIC_ID);
    if (interrupt->Destination == EVERYBODY_X2APIC)
        return true;
    if (interrupt->DestinationMode == WHvX64InterruptDestinationModeLogical)
        return accepts_logical(state, x2apic, interrupt->Destination);
    return interrupt->Destination == EVERYBODY_XAPIC || interrupt->Destination == (x2apic ? id : id >> 24);
}

HRESULT kvm_apic_local_interrupt(struct kvm_apic *a, int fd, uint64_t base,
                                 const WHV_INTERRUPT_CONTROL *interrupt)
{
    struct kvm_lapic_state state;
    if (!(base & APIC_BASE_ENABLE))
        return S_OK;
    int answer = kvm_ioctl(fd, KVM_GET_LAPIC, &state);
    if (answer < 0)
        return kvm_hresult(answer);
    uint32_t lvt = apic_register(&state, APIC_LVT_LINT1), id = apic_register(&state, APIC_ID);
    // SDM vol. 3A 11.4.7.2: a software-disabled APIC has all its LVT entries masked.
    if (!accepts(&state, base, interrupt) || (lvt & APIC_LVT_MASKED)
        || !(apic_register(&state, APIC_SVR) & APIC_SVR_ENABLE))
        return S_OK;
    struct message m = {
        .destination = base & APIC_BASE_X2APIC ? id : id >> 24,
        .mode = lvt >> 8 & 7,
        .vector = lvt & 0xFF,
    };
    switch (m.mode) {       // SDM vol. 3A 11.5.1
    case APIC_NMI:
        return kvm_hresult(kvm_ioctl(fd, KVM_NMI, NULL));
    case APIC_FIXED:
        if (m.vector < 16)
            return S_OK;
        break;
    case APIC_INIT:
        break;
    default:                // SMI and ExtINT, which no partition has, or no delivery mode of an LVT entry
        return S_OK;
    }
    pthread_rwlock_rdlock(&a->state);
    answer = send(a, m);
    pthread_rwlock_unlock(&a->state);
    return kvm_hresult(answer);
}
