// What this host's KVM is and can do. Asked once per process; everything here is constant after that.
#ifndef BULKHEAD_KVM_HOST_H
#define BULKHEAD_KVM_HOST_H

#include "engine/engine.h"
#include "engine/kvm/abi.h"

struct kvm_host {
    int error;                  // 0: usable; else why /dev/kvm cannot be used (an errno), or 0 with `lacking` set
    const char *lacking;        // a capability that the engine needs and this kernel lacks; NULL: none
    bool hardware;              // the processor reports vmx or svm
    int run_size;               // bytes to map of a processor
    uint32_t slots;             // how many memory slots a partition may have
    uint32_t max_processors;
    uint32_t bus_ns;            // an APIC bus cycle that a partition can have: 5 ns (200 MHz), else 1 ns (1 GHz)
    uint32_t tsc_khz;
    bool msr_exits, guest_debug, tsc_deadline, emulation_exits, stats;
    bool tsc_offset;            // a guest's counter is the host's and an offset that can be read and set
    struct kvm_cpuid2 *cpuid;   // KVM_GET_SUPPORTED_CPUID as a processor then shows it; owned here, never freed
    struct kvm_cpuid2 *forced;  // of that, what every processor shows, whatever table it is given; likewise
};

// Looks once; but after an error (no file, no permission, out of memory or descriptors) every call looks
// again. Then what it returns is good until the thread's next call, and of use only to say why. Any thread.
const struct kvm_host *kvm_host(void);
static inline bool kvm_host_usable(const struct kvm_host *h) { return !h->error && !h->lacking; }
// A new descriptor of /dev/kvm, close-on-exec, or minus an errno.
CHECKED int kvm_host_open(void);
// The processor reports vmx or svm.
bool kvm_host_virtualises(void);
// The engine's probe: one clear sentence for each of: no such file, no permission, another error, too old
// (names the missing capability), no vmx or svm (usable by name, not automatic), fine.
void kvm_host_probe(struct engine_status *status);
// What a partition on this engine can get; all zero where the host has no KVM that is usable.
const struct engine_capabilities *kvm_host_capabilities(void);

// The same three without a memory of earlier answers, for tests. kvm_host_ask: whoever gets a usable host
// frees its two tables; there are none otherwise.
void kvm_host_ask(struct kvm_host *h);
void kvm_host_status(const struct kvm_host *h, struct engine_status *status);
void kvm_host_offer(const struct kvm_host *h, struct engine_capabilities *offer);

#endif
