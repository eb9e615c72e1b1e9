// The stand-in kernel's time: each processor's counter, an offset to os_tsc(), and its local APIC with its timer, by
// the same clock. A test that is to move time has an os_tsc of its own.
#ifndef BULKHEAD_TESTS_FAKE_KVM_TIME_H
#define BULKHEAD_TESTS_FAKE_KVM_TIME_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/kvm/abi.h"

#define FAKE_KHZ 2000000u       // of the counter
#define FAKE_BUS_TICKS 10u      // of the counter in one of the timer's input: 5 ns

// A new partition.
void fake_time_begin(void);
void fake_time_create(int fd);
// The requests that concern time. True: it was one, and *answer is the kernel's.
bool fake_time_ioctl(int fd, unsigned long request, void *argument, int *answer);
// IA32_TIME_STAMP_COUNTER, IA32_TSC_ADJUST and IA32_TSC_DEADLINE. True: it was one of them.
bool fake_time_msr(int fd, struct kvm_msr_entry *entry, bool set);
// What KVM_RUN does with a timer that has run out, before it lets the guest run (kvm_inject_apic_timer_irqs).
void fake_time_enter(int fd);
// Whether timers count on the processor itself, where it can (VMX's preemption timer): out of the guest nothing
// happens.
void fake_time_on_processor(bool on);

// Of the processor that was created last: its guest takes an interrupt, and ends it; KVM carries out an INIT;
// whether its timer is set.
void fake_time_take(uint32_t vector);
void fake_time_init(void);
bool fake_time_armed(void);

#endif
