// The local APIC that KVM emulates (split interrupt controller): set-up, requests, EOI exits, state in both directions.
//
// EOI exits. KVM tells of an EOI for vectors that an entry of its routing table with level trigger names, and edge
// interrupts of such a vector too. So an entry is made when a vector is first requested with level trigger, and the
// exit is passed on only while the vector's last request was a level one.
#ifndef BULKHEAD_KVM_APIC_H
#define BULKHEAD_KVM_APIC_H

#include <pthread.h>
#include <stdatomic.h>

#include "partition/partition.h"

struct kvm_apic {
    int vm;
    bool x2apic;                        // X2Apic mode: 32-bit destinations
    pthread_mutex_t lock;               // the routing table
    uint64_t routed[4];                 // vectors that have an entry
    _Atomic uint64_t level[4];          // vectors whose last request was level-triggered
};

// Before the first processor is created. On failure nothing is left to undo but the partition's descriptor.
CHECKED HRESULT kvm_apic_setup(struct kvm_apic *a, int vm, WHV_X64_LOCAL_APIC_EMULATION_MODE mode);
void kvm_apic_destroy(struct kvm_apic *a);

// Fixed, lowest priority, NMI, INIT, start-up; also to a software-disabled APIC (dropped as KVM does). Any thread.
CHECKED HRESULT kvm_apic_request(struct kvm_apic *a, const WHV_INTERRUPT_CONTROL *interrupt);
// LINT1 of the processor behind `fd`: what its LVT entry says (NMI or fixed, unless masked).
CHECKED HRESULT kvm_apic_local_interrupt(struct kvm_apic *a, int fd);
// Whether an EOI of this vector is to be told.
bool kvm_apic_tells_eoi(const struct kvm_apic *a, uint32_t vector);

// The 4,096-byte register page at 16-byte stride (WHP's standard form), whatever the APIC's mode. E_INVALIDARG for
// values that no APIC can hold; nothing is changed then. The processor stands still.
CHECKED HRESULT kvm_apic_get_page(const struct kvm_apic *a, int fd, uint8_t page[4096]);
CHECKED HRESULT kvm_apic_set_page(const struct kvm_apic *a, int fd, const uint8_t page[4096]);

// One register of such a page by its offset >> 4, with what WHP's register names mean (x2APIC ID and ICR forms
// included). False: there is no such register, or (set) it cannot hold the value.
bool kvm_apic_page_get(const struct kvm_apic *a, const uint8_t page[4096], unsigned n, uint64_t *value);
bool kvm_apic_page_set(const struct kvm_apic *a, uint8_t page[4096], unsigned n, uint64_t value);

#endif
