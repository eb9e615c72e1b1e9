// The stand-in for a kernel with KVM on hardware: see fake_kvm.h.
#include "unit.h"

#include "fake_kvm.h"
#include "fake_kvm_time.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/kvm/host.h"
#include "engine/kvm/ioctl.h"
#include "kvm_tables.h"

// kvm_run, port data, and a ring that nobody uses (kvm_main.c, KVM_GET_VCPU_MMAP_SIZE).
#define PAGES 3u
#define PAGE 4096u
#define TF 0x100u
#define DR6_BS 0x4000u
#define DR6_SET 0xffff0ff0u     // what reads as 1 in it (SDM vol. 3B 18.2.3)

struct fake_kvm fake_kvm;
static struct fake_kvm *const k = &fake_kvm;

static const struct fake_run *rows;
static unsigned row_count, row;
static struct fake_run kept[16];
static bool forgotten;
static bool emulation_exits;            // KVM_CAP_EXIT_ON_EMULATION_FAILURE is on
static unsigned fail_from, fail_count;  // calls until some fail, and how many do then
static unsigned failed;

// complete_userspace_io, and what it needs.
static int (*complete)(void);
static uint64_t linear_rip;
static struct fake_run half;

static struct kvm_cpuid2 *table;
static struct kvm_xsave xsave;
static struct kvm_mp_state mp_state;
static struct { uint32_t index; uint64_t value; } msrs[64];
static unsigned msr_count;

// ---- The script -------------------------------------------------------------------------------------------

void fake_done(void)
{
    if (row != row_count)
        fail_msg("%u of %u runs have not come", row_count - row, row_count);
}

void fake_expect(const struct fake_run *runs, unsigned count)
{
    fake_done();
    assert_in_range(count, 1, sizeof kept / sizeof kept[0]);
    memcpy(kept, runs, count * sizeof kept[0]);
    rows = kept;
    row_count = count;
    row = 0;
    forgotten = false;
}

void fake_forget(void)
{
    row = row_count = 0;
    complete = NULL;
    forgotten = true;
}

// ---- Registers --------------------------------------------------------------------------------------------

static bool code64(void) { return (k->sregs.efer & 0x400) && k->sregs.cs.l; }

// kvm_get_linear_rip
static uint64_t get_linear_rip(void)
{
    return code64() ? k->regs.rip : (uint32_t)(k->sregs.cs.base + k->regs.rip);
}

// __set_regs: an exception that is queued is dropped.
static void set_regs(const struct kvm_regs *regs)
{
    k->regs = *regs;
    k->regs.rflags |= 2;
    k->events.exception.pending = 0;
}

// kvm_vcpu_ioctl_x86_set_vcpu_events, without KVM_CAP_EXCEPTION_PAYLOAD.
static void set_events(const struct kvm_vcpu_events *events)
{
    assert_int_equal(events->flags & ~(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW), 0);
    k->events.exception = events->exception;
    k->events.exception.pending = 0;
    k->events.interrupt.injected = events->interrupt.injected;
    k->events.interrupt.nr = events->interrupt.nr;
    k->events.interrupt.soft = events->interrupt.soft;
    if (events->flags & KVM_VCPUEVENT_VALID_SHADOW)
        k->events.interrupt.shadow = events->interrupt.shadow;
    k->events.nmi.injected = events->nmi.injected;
    k->events.nmi.masked = events->nmi.masked;
}

// kvm_vcpu_ioctl_x86_get_vcpu_events: what is queued looks as if it were injected.
static struct kvm_vcpu_events get_events(void)
{
    struct kvm_vcpu_events events = k->events;

    events.exception.injected |= events.exception.pending;
    events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    return events;
}

// sync_regs
static int take(const struct fake_run *r)
{
    struct kvm_run *run = k->run;
    struct kvm_sync_regs *s = &run->s.regs;

    if (run->kvm_dirty_regs & REGS) {
        set_regs(&s->regs);
        run->kvm_dirty_regs &= ~(uint64_t)REGS;
    }
    if (run->kvm_dirty_regs & SREGS) {
        if (r->refuse)
            return -EINVAL;
        k->sregs = s->sregs;
        run->kvm_dirty_regs &= ~(uint64_t)SREGS;
    }
    if (run->kvm_dirty_regs & EVENTS) {
        set_events(&s->events);
        run->kvm_dirty_regs &= ~(uint64_t)EVENTS;
    }
    k->sregs.cr8 = run->cr8;            // no APIC in the kernel
    return 0;
}

static void give(void)
{
    struct kvm_run *run = k->run;

    if (run->kvm_valid_regs & REGS)
        run->s.regs.regs = k->regs;
    if (run->kvm_valid_regs & SREGS)
        run->s.regs.sregs = k->sregs;
    if (run->kvm_valid_regs & EVENTS)
        run->s.regs.events = get_events();
    run->cr8 = k->sregs.cr8;            // post_kvm_run_save
    run->if_flag = k->regs.rflags >> 9 & 1;
    run->apic_base = k->sregs.apic_base;
}

void fake_queue(unsigned vector, bool has_error, uint32_t error)
{
    k->events.exception.pending = 1;
    k->events.exception.injected = 0;
    k->events.exception.nr = (uint8_t)vector;
    k->events.exception.has_error_code = has_error;
    k->events.exception.error_code = error;
}

// 1: the guest goes on. With RFLAGS.TF comes a #DB, whose cause is in DR6 at once (kvm_vcpu_do_singlestep,
// kvm_deliver_exception_payload).
static int skip_instruction(unsigned length)
{
    uint64_t rip = k->regs.rip + length;

    k->regs.rip = code64() ? rip : k->sregs.cs.db ? (uint32_t)rip : (uint16_t)rip;
    k->events.interrupt.shadow = 0;
    if (k->guest_debug.control & KVM_GUESTDBG_SINGLESTEP) {
        k->run->exit_reason = KVM_EXIT_DEBUG;
        k->run->debug.arch = (struct kvm_debug_exit_arch){ .exception = 1, .pc = k->regs.rip,
                                                           .dr6 = DR6_SET | DR6_BS };
        return 0;
    }
    if (k->regs.rflags & TF) {
        fake_queue(1, false, 0);
        k->debug.dr6 |= DR6_BS;
    }
    return 1;
}

void fake_skip(unsigned length) { (void)skip_instruction(length); }

// ---- Ports ------------------------------------------------------------------------------------------------

static void *port_data(void) { return (uint8_t *)k->run + PAGE; }

uint64_t fake_input(unsigned size)
{
    uint64_t data = 0;

    memcpy(&data, k->run->exit_reason == KVM_EXIT_IO ? port_data() : k->run->mmio.data, size);
    return data;
}

// complete_fast_pio_in, complete_fast_pio_out
static int complete_port(void)
{
    uint64_t data = 0, mask = half.size < 4 ? (1ull << half.size * 8) - 1 : ~0ull;

    if (get_linear_rip() != linear_rip)
        return 1;
    memcpy(&data, port_data(), half.size);
    if (half.in)
        k->regs.rax = (k->regs.rax & ~mask) | data;
    return skip_instruction(half.length);
}

static int nothing(void) { return 1; }

static int port_exit(const struct fake_run *r)
{
    uint64_t data = r->in ? 0 : k->regs.rax;

    k->run->exit_reason = KVM_EXIT_IO;
    k->run->io.direction = r->in ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
    k->run->io.size = (uint8_t)r->size;
    k->run->io.port = (uint16_t)r->port;
    k->run->io.count = 1;
    k->run->io.data_offset = PAGE;
    memcpy(port_data(), &data, r->size);
    linear_rip = get_linear_rip();
    half = *r;
    return 0;
}

int fake_port(const struct fake_run *r)
{
    complete = complete_port;
    return port_exit(r);
}

static int complete_emulated(void);

int fake_port_read(const struct fake_run *r)
{
    complete = complete_emulated;
    return port_exit(r);
}

int fake_port_done(const struct fake_run *r)
{
    (void)port_exit(r);
    fake_skip(r->length);
    complete = nothing;
    return 0;
}

// ---- Memory -----------------------------------------------------------------------------------------------

// complete_emulated_mmio, complete_emulated_pio and what of x86_emulate_instruction comes after them:
// `finish` may fill in the next exit.
static int complete_emulated(void)
{
    uint32_t reason = k->run->exit_reason;

    half.finish();
    if (k->run->exit_reason != reason || (reason == KVM_EXIT_MMIO && k->run->mmio.is_write)) {
        complete = nothing;
        return 0;
    }
    return 1;
}

static int mmio_exit(const struct fake_run *r, bool write)
{
    k->run->exit_reason = KVM_EXIT_MMIO;
    k->run->mmio.phys_addr = r->gpa;
    k->run->mmio.len = r->size;
    k->run->mmio.is_write = write;
    memset(k->run->mmio.data, 0, sizeof k->run->mmio.data);
    if (write)
        memcpy(k->run->mmio.data, &r->data, r->size);
    half = *r;
    complete = write ? nothing : complete_emulated;
    return 0;
}

int fake_mmio_read(const struct fake_run *r) { return mmio_exit(r, false); }

int fake_mmio_write(const struct fake_run *r)
{
    if (r->length)
        fake_skip(r->length);
    else
        r->finish();
    return mmio_exit(r, true);
}

int fake_memory_fault(const struct fake_run *r)
{
    struct kvm_abi_memory_fault fault = { .gpa = r->gpa & ~(uint64_t)(PAGE - 1), .size = PAGE };

    k->run->exit_reason = KVM_EXIT_MEMORY_FAULT;
    memcpy(&k->run->io, &fault, sizeof fault);
    return -EFAULT;
}

int fake_efault(const struct fake_run *r)
{
    (void)r;
    return -EFAULT;
}

// ---- MSRs -------------------------------------------------------------------------------------------------

// complete_fast_rdmsr, complete_fast_msr_access: wherever RIP is by now.
static int complete_msr(void)
{
    if (half.in && !k->run->msr.error) {
        k->regs.rax = (uint32_t)k->run->msr.data;
        k->regs.rdx = k->run->msr.data >> 32;
    }
    if (!k->run->msr.error)
        return skip_instruction(2);
    fake_queue(13, true, 0);
    return 1;
}

int fake_msr(const struct fake_run *r)
{
    k->run->exit_reason = r->in ? KVM_EXIT_X86_RDMSR : KVM_EXIT_X86_WRMSR;
    k->run->msr.error = 0;
    k->run->msr.reason = (uint32_t)r->reason;
    k->run->msr.index = r->number;
    k->run->msr.data = r->in ? 0 : k->regs.rdx << 32 | (uint32_t)k->regs.rax;
    half = *r;
    complete = complete_msr;
    return 0;
}

// ---- Failures, exceptions, the rest -----------------------------------------------------------------------

static int internal_error(uint32_t suberror)
{
    k->run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    k->run->internal.suberror = suberror;
    k->run->internal.ndata = 0;
    return 0;
}

int fake_emulation_failure(const struct fake_run *r)
{
    if (r->reason) {
        fake_queue(6, false, 0);
        assert_int_equal(k->sregs.ss.dpl, 0);       // or the guest would go on with the exception
    }
    assert_true(r->reason || emulation_exits);
    return internal_error(KVM_INTERNAL_ERROR_EMULATION);
}

int fake_delivery_error(const struct fake_run *r)
{
    // What was under way is to be injected again (vmx.c, vmx_complete_interrupts).
    if (r->number == 2) {
        k->events.nmi.injected = 1;
        k->events.nmi.masked = 0;
    } else if (r->number < 32) {
        k->events.exception.injected = 1;
        k->events.exception.nr = (uint8_t)r->number;
    } else {
        k->events.interrupt.injected = 1;
        k->events.interrupt.nr = (uint8_t)r->number;
    }
    return internal_error(KVM_INTERNAL_ERROR_DELIVERY_EV);
}

int fake_debug(const struct fake_run *r)
{
    if (r->length)
        fake_skip(r->length);
    k->run->exit_reason = KVM_EXIT_DEBUG;
    k->run->debug.arch = (struct kvm_debug_exit_arch){
        .exception = r->number, .pc = get_linear_rip(), .dr6 = r->reason | DR6_SET,
        .dr7 = k->guest_debug.arch.debugreg[7],
    };
    return 0;
}

int fake_halt(const struct fake_run *r)
{
    fake_skip(1);
    k->run->exit_reason = KVM_EXIT_HLT;
    (void)r;
    return 0;
}

int fake_exit(const struct fake_run *r)
{
    if (r->finish)
        r->finish();
    k->run->exit_reason = r->number;
    return 0;
}

int fake_answer(const struct fake_run *r)
{
    if (r->finish)
        r->finish();
    if (r->answer == -EINTR)
        k->run->exit_reason = KVM_EXIT_INTR;
    return r->answer;
}

int fake_shutdown_reset(const struct fake_run *r)
{
    (void)r;
    // kvm_vcpu_reset: as INIT does it.
    memset(&k->regs, 0, sizeof k->regs);
    k->regs.rdx = 0x600;
    k->regs.rflags = 2;
    k->regs.rip = 0xfff0;
    k->sregs.cs = (struct kvm_segment){ .base = 0xffff0000, .limit = 0xffff, .selector = 0xf000, .type = 11,
                                        .present = 1,
                                        .s = 1 };
    k->sregs.cr0 = 0x10 | (k->sregs.cr0 & 0x60000000);
    k->sregs.cr2 = k->sregs.cr3 = k->sregs.cr4 = k->sregs.efer = 0;
    memset(&k->events, 0, sizeof k->events);
    k->run->exit_reason = KVM_EXIT_SHUTDOWN;
    return 0;
}

// ---- KVM_RUN ----------------------------------------------------------------------------------------------

static int run_inside(int fd, const struct fake_run *r, bool only_complete)
{
    int (*pending)(void) = complete;
    int answer = take(r);

    if (answer < 0)
        return answer;
    complete = NULL;
    if (pending) {
        answer = pending();
        if (answer <= 0)
            return answer;
    }
    if (only_complete)
        return -EINTR;
    fake_time_enter(fd);
    assert_non_null(r->guest);
    k->regs.rip += r->ahead;
    k->run->exit_reason = KVM_EXIT_UNKNOWN;     // vcpu_run
    return r->guest(r);
}

static int fake_run(int fd)
{
    static const char *const names[] = { "nothing", "R", "S", "RS", "E", "RE", "SE", "RSE" };
    static const struct fake_run end;
    const struct fake_run *r = forgotten ? &end : &rows[row];

    if (!forgotten && row == row_count)
        fail_msg("KVM_RUN comes once too often");
    row += !forgotten;
    if (r->enter)
        r->enter();
    bool only_complete = __atomic_load_n(&k->run->immediate_exit, __ATOMIC_SEQ_CST);    // kvm_vcpu_ioctl
    if (!forgotten) {
        if (k->run->kvm_dirty_regs != r->dirty || only_complete != r->only_complete)
            fail_msg("run %u: %s handed over, immediate_exit %d", row,
                     names[k->run->kvm_dirty_regs & ALL],
                     only_complete);
    }
    int answer = run_inside(fd, r, only_complete || forgotten);
    give();
    return answer;
}

// ---- Requests ---------------------------------------------------------------------------------------------

static int fake_file(unsigned pages)
{
    int fd = memfd_create("kvm", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)pages * PAGE), 0);
    return fd;
}

bool __wrap_kvm_host_virtualises(void);
bool __wrap_kvm_host_virtualises(void) { return true; }

int __wrap_kvm_host_open(void);
int __wrap_kvm_host_open(void) { return fake_file(0); }

static int create_vcpu(void)
{
    int fd = fake_file(PAGES);

    if (k->run)
        munmap(k->run, PAGES * PAGE);
    memset(k, 0, sizeof *k);
    k->run = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(k->run != MAP_FAILED);
    k->debug.dr6 = DR6_SET;
    k->debug.dr7 = 0x400;
    complete = NULL;
    fake_time_create(fd);
    return fd;
}

int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    (void)fd;
    switch (request) {
    case KVM_GET_API_VERSION: return 12;
    case KVM_CHECK_EXTENSION:
        return value == KVM_CAP_SYNC_REGS ? ALL : value == KVM_CAP_NR_MEMSLOTS ? 32764 :
               value == KVM_CAP_MAX_VCPUS ? 8 : value == KVM_CAP_BINARY_STATS_FD ? 0 : 1;
    case KVM_GET_VCPU_MMAP_SIZE: return PAGES * PAGE;
    case KVM_CREATE_VM:
        emulation_exits = false;
        fake_time_begin();
        return fake_file(0);
    case KVM_CREATE_VCPU: return create_vcpu();
    case KVM_GET_TSC_KHZ: return FAKE_KHZ;
    case KVM_RUN: return fake_run(fd);
    }
    fail_msg("request %lx", request);
    return -ENOTTY;
}

static uint64_t *msr(uint32_t index)
{
    for (unsigned n = 0; n < msr_count; n++)
        if (msrs[n].index == index)
            return &msrs[n].value;
    assert_in_range(msr_count, 0, sizeof msrs / sizeof msrs[0] - 1);
    msrs[msr_count].index = index;
    msrs[msr_count].value = 0;
    return &msrs[msr_count++].value;
}

static int move_msrs(int fd, struct kvm_msrs *list, bool set)
{
    for (unsigned n = 0; n < list->nmsrs; n++) {
        if (fake_time_msr(fd, &list->entries[n], set))
            continue;
        uint64_t *value = msr(list->entries[n].index);

        if (set)
            *value = list->entries[n].data;
        else
            list->entries[n].data = *value;
    }
    return (int)list->nmsrs;
}

static int copy_cpuid(struct kvm_cpuid2 *to, const struct kvm_cpuid_entry2 *entries, unsigned count)
{
    if (to->nent < count)
        return -E2BIG;
    memcpy(to->entries, entries, count * sizeof *entries);
    to->nent = count;
    return 0;
}

static int enable(const struct kvm_enable_cap *cap)
{
    if (cap->cap == KVM_CAP_EXIT_ON_EMULATION_FAILURE)
        emulation_exits = cap->args[0];
    return 0;
}

void fake_fail(unsigned from, unsigned number)
{
    fail_from = from;
    fail_count = number;
    failed = 0;
}

unsigned fake_fail_end(void)
{
    fail_from = fail_count = 0;
    return failed;
}

static bool fails(void)
{
    if (fail_from > 0 && --fail_from > 0)
        return false;
    if (fail_count == 0)
        return false;
    fail_count--;
    failed++;
    return true;
}

int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument);
int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument)
{
    struct kvm_xcrs *xcrs = argument;
    struct kvm_cpuid2 *cpuid = argument;
    int answer;

    k->calls++;
    if (fails())
        return -EIO;
    if (fake_time_ioctl(fd, request, argument, &answer))
        return answer;
    switch (request) {
    case KVM_GET_SUPPORTED_CPUID:
        return copy_cpuid(argument, table_intel, sizeof table_intel / sizeof table_intel[0]);
    case KVM_GET_CPUID2: return copy_cpuid(argument, table->entries, table->nent);
    case KVM_SET_CPUID2:
        free(table);
        table = table_made(cpuid->entries, cpuid->nent);
        return 0;
    case KVM_SET_REGS: set_regs(argument); return 0;
    case KVM_SET_SREGS: k->sregs = *(struct kvm_sregs *)argument; return 0;
    case KVM_SET_VCPU_EVENTS: set_events(argument); return 0;
    case KVM_GET_DEBUGREGS: *(struct kvm_debugregs *)argument = k->debug; return 0;
    case KVM_SET_DEBUGREGS: k->debug = *(struct kvm_debugregs *)argument; return 0;
    case KVM_SET_GUEST_DEBUG: k->guest_debug = *(struct kvm_guest_debug *)argument; return 0;
    case KVM_GET_XSAVE: *(struct kvm_xsave *)argument = xsave; return 0;
    case KVM_SET_XSAVE: xsave = *(struct kvm_xsave *)argument; return 0;
    case KVM_GET_VCPU_EVENTS: *(struct kvm_vcpu_events *)argument = get_events(); return 0;
    case KVM_GET_MP_STATE: *(struct kvm_mp_state *)argument = mp_state; return 0;
    case KVM_SET_MP_STATE: mp_state = *(struct kvm_mp_state *)argument; return 0;
    case KVM_GET_MSRS: return move_msrs(fd, argument, false);
    case KVM_SET_MSRS: return move_msrs(fd, argument, true);
    case KVM_ENABLE_CAP: return enable(argument);
    case KVM_GET_XCRS:
        memset(xcrs, 0, sizeof *xcrs);
        xcrs->nr_xcrs = 1;
        xcrs->xcrs[0].value = 1;
        return 0;
    case KVM_SET_XCRS: case KVM_SET_GSI_ROUTING: case KVM_SET_USER_MEMORY_REGION:
    case KVM_X86_SET_MSR_FILTER:
        return 0;
    }
    fail_msg("request %lx", request);
    return -ENOTTY;
}
