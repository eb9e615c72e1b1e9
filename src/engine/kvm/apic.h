// The local APIC that KVM emulates (split interrupt controller): set-up, requests, EOI exits, state.
//
// EOI exits. KVM tells of an EOI for the vectors that an entry of its routing table with level trigger names,
// on processors that the entry's destination reaches; of edge interrupts with such a vector too. So an entry
// to everybody is made when a vector is first requested with level trigger, or comes with a restored state,
// and whether the exit is passed on is what the processor's trigger mode register says: it follows the last
// acceptance of the vector there.
//
// KVM tells when it next enters the guest. Where hardware runs the guest, that is before the next
// instruction. Where KVM's emulator does, it goes on without entering, also into a halt, and has room for one
// vector: the engine must have such a processor stop after each instruction for as long as
// kvm_apic_level_waiting says so. (Such a KVM may also end an interrupt when it delivers it: its in-service
// register is never seen set, and its EOI is told early.)
//
// Destinations. A device's 8-bit destination of all ones is everybody, in xAPIC and x2APIC mode alike; so is
// one of 32 bits. KVM's broadcast for the one mode does not reach processors in the other: what goes to
// everybody goes twice.
//
// `base` is IA32_APIC_BASE of the processor in question everywhere here, as KVM has it: a new one goes to KVM
// before a page does. KVM forgets IA32_TSC_DEADLINE when a page brings that timer mode or takes it away, so
// the deadline comes after the page. Special registers carry CR8, and with it the page's TPR: whichever goes
// to KVM last counts.
#ifndef BULKHEAD_KVM_APIC_H
#define BULKHEAD_KVM_APIC_H

#include <pthread.h>
#include <stdatomic.h>

#include "partition/partition.h"

#define KVM_APIC_PAGE_SIZE 4096

struct kvm_apic {
    int vm;
    bool x2apic;                        // X2Apic mode: 32-bit destinations
    pthread_mutex_t lock;               // the routing table
    _Atomic uint64_t routed[4];         // vectors that have an entry
    pthread_rwlock_t state;             // requests: readers; a state on its way into KVM: writer
};

// Before the first processor is created. `bus_ns`: nanoseconds of a cycle of the timer's input. On failure
// nothing is left to undo but the partition's descriptor.
CHECKED HRESULT kvm_apic_setup(struct kvm_apic *a, int vm, WHV_X64_LOCAL_APIC_EMULATION_MODE mode,
                               uint32_t bus_ns);
void kvm_apic_destroy(struct kvm_apic *a);

// Fixed, lowest priority, NMI, INIT, start-up. S_OK also when nobody is there or takes it. Any thread.
CHECKED HRESULT kvm_apic_request(struct kvm_apic *a, const WHV_INTERRUPT_CONTROL *interrupt);
// LINT1 of the processor behind `fd`, if the interrupt's destination includes it: what its LVT entry says
// (fixed, NMI or INIT, unless masked). The processor stands still.
CHECKED HRESULT kvm_apic_local_interrupt(struct kvm_apic *a, int fd, uint64_t base,
                                         const WHV_INTERRUPT_CONTROL *interrupt);
// Whether KVM's EOI exit of this vector is one to tell of. The processor has just exited for it.
CHECKED HRESULT kvm_apic_tells_eoi(int fd, uint32_t vector, bool *tells);
// Whether a level-triggered interrupt has been requested and not ended. The processor stands still.
CHECKED HRESULT kvm_apic_level_waiting(int fd, bool *waiting);
// The highest vector in service, or -1. The processor stands still.
CHECKED HRESULT kvm_apic_in_service(int fd, int *vector);

// The 4,096-byte register page at 16-byte stride (WHP's standard form), whatever the APIC's mode. The
// processor stands still.
CHECKED HRESULT kvm_apic_get_page(int fd, uint64_t base, uint8_t page[KVM_APIC_PAGE_SIZE]);
// E_INVALIDARG for reserved bits. What only follows from others (ID, version, PPR, and LDR in x2APIC mode) is
// ignored, and so is what is between registers. `before`: the page that this one was made from; only what
// differs is handed on, single interrupts included, so that none is lost that has come in meanwhile. NULL:
// everything. Nothing is changed on failure. What is as KVM has it already is not set again.
//
// A one-shot timer with an initial count and no current count has expired. KVM does not say whether its
// interrupt has been requested yet, and requests it (again) when the state is set: a surplus interrupt, where
// soft processors have none, but never a lost one. An interrupt that another processor's guest code sends in
// the instant of a set can be lost.
CHECKED HRESULT kvm_apic_set_page(struct kvm_apic *a, int fd, uint64_t base,
                                  const uint8_t page[KVM_APIC_PAGE_SIZE], const uint8_t *before);

// As after reset (SDM vol. 3A 11.4.7.1), and the identifier with it, which a guest can change. KVM has the
// base of a reset already.
CHECKED HRESULT kvm_apic_reset(struct kvm_apic *a, int fd, uint32_t id);

// One register of such a page by its offset >> 4; the ICR is 64 bits wide with its high half. Setting stores
// state: no message is sent, and what follows in the page follows (PPR; the count starts or stops). False,
// and nothing changed: no such register, reserved bits, a register that has no state (EOI, self IPI), or
// another value than its own for one that only follows from others.
bool kvm_apic_page_get(const uint8_t page[KVM_APIC_PAGE_SIZE], unsigned n, uint64_t *value);
bool kvm_apic_page_set(uint8_t page[KVM_APIC_PAGE_SIZE], uint64_t base, unsigned n, uint64_t value);
// What kvm_apic_page_set would answer.
bool kvm_apic_page_valid(const uint8_t page[KVM_APIC_PAGE_SIZE], uint64_t base, unsigned n, uint64_t value);

// Have an EOI exit for these vectors from now on, whatever processor it comes from. (For kvm_apic_set_page.)
CHECKED HRESULT kvm_apic_route(struct kvm_apic *a, const uint64_t vectors[4]);

#endif
