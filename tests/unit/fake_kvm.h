// A stand-in for a kernel whose KVM runs guests on hardware: the registers that it keeps, and what KVM_RUN
// does.
//
// A test gives one row for each KVM_RUN that it expects: what the engine hands over, and what the guest does
// then. What is around it, the order of things in KVM_RUN, is the kernel's (arch/x86/kvm/x86.c,
// kvm_arch_vcpu_ioctl_run): take the synchronised registers, complete what is pending, come back if
// immediate_exit is set, run the guest, hand out registers.
#ifndef BULKHEAD_TESTS_FAKE_KVM_H
#define BULKHEAD_TESTS_FAKE_KVM_H

#include <stdbool.h>

#include "engine/kvm/abi.h"

enum { REGS = KVM_SYNC_X86_REGS, SREGS = KVM_SYNC_X86_SREGS, EVENTS = KVM_SYNC_X86_EVENTS,
       ALL = REGS | SREGS | EVENTS };

struct fake_run {
    unsigned dirty;             // the groups that the engine hands over
    bool only_complete;         // it has set immediate_exit
    void (*enter)(void);        // first of all; what is expected of kvm_run is looked at after it
    bool refuse;                // the special registers
    int (*guest)(const struct fake_run *r);     // what comes; its result is KVM_RUN's

    unsigned ahead;             // bytes of instructions without effect that the guest runs first

    // For the functions below.
    unsigned length;            // of the instruction
    unsigned port, size;
    bool in;
    uint64_t gpa;
    uint64_t data;              // that is written, or that an MSR is to get
    void (*finish)(void);       // an emulated instruction, with its data in kvm_run
    uint32_t number;            // an MSR, a sub-error, an exception, an exit's reason
    uint64_t reason;            // KVM_MSR_EXIT_REASON_*, or DR6
    int answer;
};

// The processor that was created last, as the kernel keeps it.
extern struct fake_kvm {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debug;
    struct kvm_guest_debug guest_debug;
    struct kvm_run *run;
    unsigned calls;             // of the processor's, besides KVM_RUN
} fake_kvm;

// What is to come. All of it must have come by the next call, or by fake_done.
void fake_expect(const struct fake_run *runs, unsigned count);
#define EXPECT(...) \
    fake_expect((const struct fake_run[]){ __VA_ARGS__ }, \
                sizeof((const struct fake_run[]){ __VA_ARGS__ }) / sizeof(struct fake_run))
void fake_done(void);
// Go on in vain where the rows are used up: what a test that has failed leaves behind.
void fake_forget(void);
// Of the calls besides KVM_RUN, `number` fail with EIO from the `from`th on, which is counted from 1; until
// fake_fail_end, which tells how many have.
void fake_fail(unsigned from, unsigned number);
unsigned fake_fail_end(void);

// ---- What guests do ---------------------------------------------------------------------------------------

// An IN or OUT that hardware intercepts (kvm_fast_pio): RIP stays; the next run skips it if RIP is still
// there.
int fake_port(const struct fake_run *r);
// OUT to port 0x7e (kvm_fast_pio_out, KVM_X86_QUIRK_OUT_7E_INC_RIP), or any that was emulated: RIP is behind
// it.
int fake_port_done(const struct fake_run *r);
// An IN or INS that was emulated: it waits.
int fake_port_read(const struct fake_run *r);
// An access to where no memory is, by the emulator (x86_emulate_instruction): a read waits, a write is done.
int fake_mmio_read(const struct fake_run *r);
int fake_mmio_write(const struct fake_run *r);
// RDMSR, WRMSR (kvm_msr_user_space); `in`: a read.
int fake_msr(const struct fake_run *r);
// An instruction that the emulator does not know, or cannot fetch (handle_emulation_failure); `reason`:
// without KVM_CAP_EXIT_ON_EMULATION_FAILURE, which queues #UD besides, and exits at CPL 0 only.
int fake_emulation_failure(const struct fake_run *r);
// Event delivery that meets what only the emulator could do (vmx.c, __vmx_handle_exit).
int fake_delivery_error(const struct fake_run *r);
// Memory that the host has not: with information about it and without (mmu/mmu.c, kvm_handle_error_pfn).
int fake_memory_fault(const struct fake_run *r);
int fake_efault(const struct fake_run *r);
// A #DB or #BP that KVM intercepts for user space (vmx.c, handle_exception_nmi; svm.c, db_interception,
// bp_interception).
int fake_debug(const struct fake_run *r);
// HLT without a local APIC in the kernel (kvm_emulate_halt).
int fake_halt(const struct fake_run *r);
// An exit that has nothing but its number, and a result that comes with no exit.
int fake_exit(const struct fake_run *r);
int fake_answer(const struct fake_run *r);
// As SVM leaves a processor after SHUTDOWN (svm.c, shutdown_interception).
int fake_shutdown_reset(const struct fake_run *r);

// kvm_skip_emulated_instruction.
void fake_skip(unsigned length);
// kvm_queue_exception.
void fake_queue(unsigned vector, bool has_error, uint32_t error);
// Bytes of an IN or MMIO read that user space has put into kvm_run.
uint64_t fake_input(unsigned size);

#endif
