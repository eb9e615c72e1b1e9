// The kvm engine's local APICs on the kernel's: guests in real mode that take what is requested of them.
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/apic.h"

#define MEMORY 0x10000u
#define CODE 0x1000u
#define COUNTER 0x2000u
#define VECTOR 0x41
#define XAPIC_BASE (0xFEE00000u | 1u << 11)
#define X2APIC_BASE (XAPIC_BASE | 1u << 10)
#define DEADLINE_MSR 0x6E0
#define LIMIT_SECONDS 60        // a processor that runs longer has failed

struct machine {
    int kvm, vm, fd[2];
    unsigned count;
    struct kvm_run *run[2];
    size_t run_size;
    uint8_t *memory;
    struct kvm_apic apic;
};

// sti; hlt; jmp to the hlt
static const uint8_t sleeper[] = { 0xFB, 0xF4, 0xEB, 0xFD };
// sti; jmp there
static const uint8_t spinner[] = { 0xFB, 0xEB, 0xFE };
// inc dword [COUNTER]; mov dword [es:0xB0], 0 (EOI); out 0x11, al; iret
static const uint8_t by_page[] = { 0x66, 0xFF, 0x06, 0x00, 0x20, 0x26, 0x66, 0xC7, 0x06, 0xB0,
                                   0x00, 0x00, 0x00, 0x00, 0x00, 0xE6, 0x11, 0xCF };
// inc dword [COUNTER]; mov ecx, 0x80B; xor eax, eax; xor edx, edx; wrmsr (EOI); out 0x11, al; iret
static const uint8_t by_msr[] = { 0x66, 0xFF, 0x06, 0x00, 0x20, 0x66, 0xB9, 0x0B, 0x08, 0x00, 0x00, 0x66,
                                  0x31, 0xC0, 0x66, 0x31, 0xD2, 0x0F, 0x30, 0xE6, 0x11, 0xCF };
// the same without a way out
static const uint8_t quietly[] = { 0x66, 0xFF, 0x06, 0x00, 0x20, 0x26, 0x66, 0xC7, 0x06, 0xB0,
                                   0x00, 0x00, 0x00, 0x00, 0x00, 0xCF };
// out 0x10, al
static const uint8_t started[] = { 0xE6, 0x10 };

static int must(int answer)
{
    assert_true(answer >= 0);
    return answer;
}

static bool available(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        print_message("skipped: /dev/kvm: %s\n", strerror(errno));
        return false;
    }
    bool has = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_SPLIT_IRQCHIP) > 0
            && ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_X2APIC_API) > 0;
    if (!has)
        print_message("skipped: this kernel's KVM has no split interrupt controller with x2APIC\n");
    close(kvm);
    return has;
}

static void set_cpuid(struct machine *m, unsigned n)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + 256 * sizeof cpuid->entries[0]);
    assert_non_null(cpuid);
    cpuid->nent = 256;
    must(ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, cpuid));
    for (unsigned i = 0; i < cpuid->nent; i++)
        if (cpuid->entries[i].function == 1)
            cpuid->entries[i].ecx |= 1u << 21 | 1u << 24;       // x2APIC, TSC deadline
    must(ioctl(m->fd[n], KVM_SET_CPUID2, cpuid));
    free(cpuid);
}

static void set_base(struct machine *m, unsigned n, uint64_t base)
{
    struct kvm_sregs sregs;
    must(ioctl(m->fd[n], KVM_GET_SREGS, &sregs));
    sregs.apic_base = base | (n == 0 ? 0x100 : 0);
    must(ioctl(m->fd[n], KVM_SET_SREGS, &sregs));
}

static void start_at(struct machine *m, unsigned n, uint16_t rip)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    must(ioctl(m->fd[n], KVM_GET_SREGS, &sregs));
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    sregs.es.base = 0xFEE00000;         // where real mode reaches the APIC's page
    must(ioctl(m->fd[n], KVM_SET_SREGS, &sregs));
    must(ioctl(m->fd[n], KVM_GET_REGS, &regs));
    regs.rip = rip;
    regs.rsp = 0x8000;
    must(ioctl(m->fd[n], KVM_SET_REGS, &regs));
}

static void set(struct machine *m, unsigned n, uint64_t base, const uint32_t *pairs)
{
    uint8_t page[KVM_APIC_PAGE_SIZE];
    assert_ok(kvm_apic_get_page(m->fd[n], base, page));
    for (; pairs[0]; pairs += 2)
        memcpy(page + pairs[0], &pairs[1], sizeof pairs[1]);
    assert_ok(kvm_apic_set_page(&m->apic, m->fd[n], base, page, NULL));
}

static uint32_t get(struct machine *m, unsigned n, uint64_t base, uint32_t offset)
{
    uint8_t page[KVM_APIC_PAGE_SIZE];
    uint64_t value = 0;
    assert_ok(kvm_apic_get_page(m->fd[n], base, page));
    assert_true(kvm_apic_page_get(page, offset >> 4, &value));
    return (uint32_t)value;
}

static uint32_t counter(const struct machine *m)
{
    return __atomic_load_n((const uint32_t *)(const void *)(m->memory + COUNTER), __ATOMIC_ACQUIRE);
}

// Real mode: the handler of a vector, as code at 0x4000 + 64 * vector.
static void set_handler(struct machine *m, unsigned vector, const uint8_t *code, size_t size)
{
    uint32_t entry = (0x400 + 4 * vector) << 16;
    memcpy(m->memory + 0x4000 + 64 * vector, code, size);
    memcpy(m->memory + 4 * vector, &entry, sizeof entry);
}

static void stop(struct machine *m)
{
    kvm_apic_destroy(&m->apic);
    for (unsigned n = 0; n < m->count; n++) {
        munmap(m->run[n], m->run_size);
        close(m->fd[n]);
    }
    close(m->vm);
    close(m->kvm);
    munmap(m->memory, MEMORY);
}

// Processors whose APICs are on, in the mode that `base` says; the first one is about to run `code`.
static struct machine start(unsigned count, uint64_t base, const uint8_t *code, size_t size)
{
    struct machine m = { .count = count };
    m.kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    m.vm = must(ioctl(m.kvm, KVM_CREATE_VM, 0));
    m.run_size = (size_t)must(ioctl(m.kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    m.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(m.memory, MAP_FAILED);
    memcpy(m.memory + CODE, code, size);
    struct kvm_userspace_memory_region region = { .memory_size = MEMORY,
                                                  .userspace_addr = (uintptr_t)m.memory };
    must(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &region));
    must(ioctl(m.vm, KVM_SET_TSS_ADDR, 0xFFFBD000));
    uint32_t bus_ns = ioctl(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_X86_APIC_BUS_CYCLES_NS) > 0 ? 5 : 1;
    assert_ok(kvm_apic_setup(&m.apic, m.vm, WHvX64LocalApicEmulationModeX2Apic, bus_ns));
    for (unsigned n = 0; n < count; n++) {
        m.fd[n] = must(ioctl(m.vm, KVM_CREATE_VCPU, n));
        m.run[n] = mmap(NULL, m.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd[n], 0);
        assert_ptr_not_equal(m.run[n], MAP_FAILED);
        set_cpuid(&m, n);
        set_base(&m, n, base);
        set(&m, n, base, (const uint32_t[]){ 0xF0, 0x1FF, 0 });
        start_at(&m, n, CODE);
    }
    set_handler(&m, VECTOR, base == X2APIC_BASE ? by_msr : by_page,
                base == X2APIC_BASE ? sizeof by_msr : sizeof by_page);
    return m;
}

static void request(struct machine *m, WHV_INTERRUPT_TYPE type, bool logical, bool level,
                    uint32_t destination, uint32_t vector)
{
    WHV_INTERRUPT_CONTROL interrupt;
    memset(&interrupt, 0, sizeof interrupt);
    interrupt.Type = type;
    interrupt.DestinationMode = logical ? WHvX64InterruptDestinationModeLogical
                                        : WHvX64InterruptDestinationModePhysical;
    interrupt.TriggerMode = level ? WHvX64InterruptTriggerModeLevel : WHvX64InterruptTriggerModeEdge;
    interrupt.Destination = destination;
    interrupt.Vector = vector;
    assert_ok(kvm_apic_request(&m->apic, &interrupt));
}

static void fixed(struct machine *m, bool level, uint32_t vector)
{
    request(m, WHvX64InterruptTypeFixed, false, level, 0, vector);
}

static uint32_t run(struct machine *m, unsigned n)
{
    int answer;
    alarm(LIMIT_SECONDS);
    do      // EAGAIN: a processor that waited to be started has been
        answer = ioctl(m->fd[n], KVM_RUN, 0);
    while (answer < 0 && errno == EAGAIN);
    alarm(0);
    assert_int_equal(answer, 0);
    return m->run[n]->exit_reason;
}

static void run_to_port(struct machine *m, unsigned n, uint16_t port)
{
    assert_int_equal(run(m, n), KVM_EXIT_IO);
    assert_int_equal(m->run[n]->io.port, port);
}

// ---- EOI --------------------------------------------------------------------------------------------------

// Run until the handler is through, and say whether KVM has told of its EOI: before the next instruction
// where hardware runs the guest. A KVM that emulates the guest's instructions ends the interrupt when it
// delivers it, and then goes on for a while before it tells, to the handler's way out and beyond.
static bool run_handler(struct machine *m, unsigned vector, bool routed)
{
    unsigned eois = 0, outs = 0;
    while (!outs || (routed && !eois)) {
        uint32_t reason = run(m, 0);
        if (reason == KVM_EXIT_IOAPIC_EOI) {
            assert_int_equal(m->run[0]->eoi.vector, vector);
            eois++;
        } else {
            assert_int_equal(reason, KVM_EXIT_IO);
            assert_int_equal(m->run[0]->io.port, 0x11);
            outs++;
        }
    }
    assert_true(outs == 1 && eois <= 1);
    return eois;
}

static void eoi(uint64_t base)
{
    struct machine m = start(1, base, sleeper, sizeof sleeper);
    bool tells = false;

    fixed(&m, false, VECTOR);           // edge, and not known to be anything else
    assert_false(run_handler(&m, VECTOR, false));
    for (unsigned n = 0; n < 20; n++) {
        bool level = n % 3 != 1;
        fixed(&m, level, VECTOR);
        assert_true(run_handler(&m, VECTOR, true));
        assert_ok(kvm_apic_tells_eoi(m.fd[0], VECTOR, &tells));
        assert_int_equal(tells, level);
        assert_int_equal(get(&m, 0, base, 0x120), 0);       // it has happened
    }
    assert_int_equal(counter(&m), 21);
    set_handler(&m, VECTOR + 1, base == X2APIC_BASE ? by_msr : by_page,
                base == X2APIC_BASE ? sizeof by_msr : sizeof by_page);
    fixed(&m, false, VECTOR + 1);
    assert_false(run_handler(&m, VECTOR + 1, false));
    // None was on its way either.
    fixed(&m, true, VECTOR + 1);
    assert_true(run_handler(&m, VECTOR + 1, true));
    stop(&m);
}

static void test_eoi(void **state)
{
    (void)state;
    if (!available())
        skip();
    eoi(XAPIC_BASE);
    eoi(X2APIC_BASE);
}

// Told at once, and before a halt, while the guest is stepped: what the engine does where KVM emulates the
// guest.
static void test_eoi_by_step(void **state)
{
    (void)state;
    if (!available())
        skip();
    struct machine m = start(1, XAPIC_BASE, sleeper, sizeof sleeper);
    struct kvm_guest_debug step = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };
    bool waiting, tells;
    set_handler(&m, VECTOR, quietly, sizeof quietly);
    assert_ok(kvm_apic_level_waiting(m.fd[0], &waiting));
    assert_false(waiting);
    must(ioctl(m.fd[0], KVM_SET_GUEST_DEBUG, &step));
    for (unsigned n = 1; n <= 5; n++) {
        unsigned steps = 0;
        fixed(&m, true, VECTOR);
        while (run(&m, 0) == KVM_EXIT_DEBUG) {
            assert_ok(kvm_apic_level_waiting(m.fd[0], &waiting));
            assert_true(waiting || counter(&m) == n);
            assert_true(++steps < 10);
        }
        assert_int_equal(m.run[0]->exit_reason, KVM_EXIT_IOAPIC_EOI);
        assert_ok(kvm_apic_tells_eoi(m.fd[0], VECTOR, &tells));
        assert_true(tells);
        assert_ok(kvm_apic_level_waiting(m.fd[0], &waiting));
        assert_false(waiting);
    }
    stop(&m);
}

// A level-triggered interrupt that came with a restored state.
static void test_eoi_after_restore(void **state)
{
    (void)state;
    if (!available())
        skip();
    struct machine m = start(1, XAPIC_BASE, sleeper, sizeof sleeper);
    bool tells = false;
    set(&m, 0, XAPIC_BASE, (const uint32_t[]){ 0x220, 1u << VECTOR % 32, 0x1A0, 1u << VECTOR % 32, 0 });
    assert_true(run_handler(&m, VECTOR, true));
    assert_ok(kvm_apic_tells_eoi(m.fd[0], VECTOR, &tells));
    assert_true(tells);
    stop(&m);
}

static void *run_on(void *argument)
{
    struct machine *m = argument;
    while (ioctl(m->fd[0], KVM_RUN, 0) == 0 && m->run[0]->exit_reason == KVM_EXIT_IOAPIC_EOI) {
    }
    return NULL;
}

static void wait_for(const struct machine *m, uint32_t count)
{
    struct timespec now, limit;
    clock_gettime(CLOCK_MONOTONIC, &limit);
    while (counter(m) < count) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        assert_true(now.tv_sec < limit.tv_sec + LIMIT_SECONDS);
        nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
    }
}

// Requests from another thread, half of them with a new level vector, at a processor that sleeps or runs:
// each is one interrupt.
static void wakes(const uint8_t *code, size_t size)
{
    struct machine m = start(1, XAPIC_BASE, code, size);
    pthread_t thread;
    for (unsigned n = 0; n < 100; n++)
        set_handler(&m, 0x30 + n, quietly, sizeof quietly);
    set_handler(&m, 0x30 + 100, by_page, sizeof by_page);
    assert_int_equal(pthread_create(&thread, NULL, run_on, &m), 0);
    for (unsigned n = 0; n < 100; n++) {
        fixed(&m, n % 2, 0x30 + n);
        wait_for(&m, n + 1);
    }
    fixed(&m, false, 0x30 + 100);
    pthread_join(thread, NULL);
    assert_int_equal(m.run[0]->exit_reason, KVM_EXIT_IO);
    assert_int_equal(counter(&m), 101);
    stop(&m);
}

static void test_wakes(void **state)
{
    (void)state;
    if (!available())
        skip();
    wakes(sleeper, sizeof sleeper);
    wakes(spinner, sizeof spinner);
}

// ---- What is delivered to whom ----------------------------------------------------------------------------

static void test_software_disabled(void **state)
{
    (void)state;
    if (!available())
        skip();
    static const uint8_t out[] = { 0xE6, 0x12 };
    struct machine m = start(1, XAPIC_BASE, sleeper, sizeof sleeper);
    set_handler(&m, 2, out, sizeof out);
    set(&m, 0, XAPIC_BASE, (const uint32_t[]){ 0xF0, 0xFF, 0 });
    fixed(&m, false, VECTOR);
    request(&m, WHvX64InterruptTypeLowestPriority, false, false, 0, VECTOR);
    request(&m, WHvX64InterruptTypeNmi, false, false, 0, 0);
    run_to_port(&m, 0, 0x12);
    assert_int_equal(counter(&m), 0);
    assert_int_equal(get(&m, 0, XAPIC_BASE, 0x220), 0);
    stop(&m);
}

static void test_init_and_sipi(void **state)
{
    (void)state;
    if (!available())
        skip();
    struct machine m = start(2, XAPIC_BASE, sleeper, sizeof sleeper);
    memcpy(m.memory + 0x9000, started, sizeof started);
    for (unsigned n = 0; n < 3; n++) {
        struct kvm_sregs sregs;
        request(&m, WHvX64InterruptTypeInit, false, false, 1, 0);
        request(&m, WHvX64InterruptTypeSipi, false, false, 1, 0x09);
        run_to_port(&m, 1, 0x10);
        must(ioctl(m.fd[1], KVM_GET_SREGS, &sregs));
        assert_int_equal(sregs.cs.base, 0x9000);
        assert_int_equal(sregs.cs.selector, 0x900);
    }
    stop(&m);
}

static bool waits(struct machine *m, unsigned n, uint64_t base)
{
    uint32_t word = 0x200 + VECTOR / 32 * 16;
    bool is = get(m, n, base, word) >> VECTOR % 32 & 1;
    set(m, n, base, (const uint32_t[]){ word, 0, 0 });
    return is;
}

static void test_destinations(void **state)
{
    (void)state;
    if (!available())
        skip();
    static const uint64_t modes[][2] = {
        { XAPIC_BASE, XAPIC_BASE }, { X2APIC_BASE, X2APIC_BASE }, { X2APIC_BASE, XAPIC_BASE },
    };
    for (unsigned mode = 0; mode < 3; mode++) {
        struct machine m = start(2, XAPIC_BASE, sleeper, sizeof sleeper);
        for (unsigned n = 0; n < 2; n++) {
            set(&m, n, XAPIC_BASE, (const uint32_t[]){ 0xD0, 1u << (24 + n), 0 });
            set_base(&m, n, modes[mode][n]);
        }
        static const struct { bool logical; uint32_t destination; unsigned who; } cases[] = {
            { false, 0, 1 }, { false, 1, 2 }, { false, 2, 0 }, { false, 0xFF, 3 }, { false, UINT32_MAX, 3 },
            { true, UINT32_MAX, 3 }, { false, 0x101, 0 }, { true, 1, 1 }, { true, 2, 2 }, { true, 3, 3 },
        };
        for (unsigned n = 0; n < sizeof cases / sizeof cases[0]; n++) {
            bool mixed = modes[mode][0] != modes[mode][1];
            unsigned who = 0;
            if (mixed && cases[n].logical && cases[n].destination != UINT32_MAX)
                continue;       // the two read it differently
            request(&m, WHvX64InterruptTypeFixed, cases[n].logical, n % 2, cases[n].destination, VECTOR);
            for (unsigned i = 0; i < 2; i++)
                who |= (unsigned)waits(&m, i, modes[mode][i]) << i;
            if (who != cases[n].who)
                fail_msg("mode %u, case %u: %u instead of %u", mode, n, who, cases[n].who);
            // One of all those.
            request(&m, WHvX64InterruptTypeLowestPriority, cases[n].logical, n % 2, cases[n].destination,
                    VECTOR);
            who = 0;
            for (unsigned i = 0; i < 2; i++)
                who |= (unsigned)waits(&m, i, modes[mode][i]) << i;
            if ((who & ~cases[n].who) || (who == 3) || (who == 0) != (cases[n].who == 0))
                fail_msg("mode %u, case %u, lowest priority: %u of %u", mode, n, who, cases[n].who);
        }
        stop(&m);
    }
}

static void test_lint1(void **state)
{
    (void)state;
    if (!available())
        skip();
    static const uint8_t out[] = { 0xE6, 0x12, 0xCF };
    struct machine m = start(2, XAPIC_BASE, sleeper, sizeof sleeper);
    WHV_INTERRUPT_CONTROL interrupt;
    memset(&interrupt, 0, sizeof interrupt);
    interrupt.Type = WHvX64InterruptTypeLocalInt1;
    interrupt.Destination = 0;
    set_handler(&m, 2, out, sizeof out);
    set(&m, 0, XAPIC_BASE, (const uint32_t[]){ 0x360, 0x400, 0 });
    for (unsigned n = 0; n < 2; n++)
        assert_ok(kvm_apic_local_interrupt(&m.apic, m.fd[n], XAPIC_BASE, &interrupt));
    run_to_port(&m, 0, 0x12);
    set(&m, 0, XAPIC_BASE, (const uint32_t[]){ 0x360, VECTOR, 0 });
    assert_ok(kvm_apic_local_interrupt(&m.apic, m.fd[0], XAPIC_BASE, &interrupt));
    run_to_port(&m, 0, 0x11);
    stop(&m);
}

// ---- State and timer --------------------------------------------------------------------------------------

static void state_round_trip(uint64_t base)
{
    struct machine m = start(2, base, sleeper, sizeof sleeper);
    bool x2apic = base == X2APIC_BASE;
    // What the guest reads of its version, where the kernel can show that.
    if (ioctl(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_X2APIC_API) & KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST) {
        struct kvm_lapic_state raw;
        uint32_t version;
        must(ioctl(m.fd[0], KVM_GET_LAPIC, &raw));
        memcpy(&version, raw.regs + 0x30, sizeof version);
        assert_int_equal(version, 0x50014);
    }
    srand(5);
    assert_int_equal(get(&m, 1, base, 0x20), x2apic ? 1 : 1u << 24);
    assert_int_equal(get(&m, 1, base, 0x30), 0x50014);
    assert_int_equal(get(&m, 0, base, 0x350), 0x10000);     // LINT0 as on every processor
    if (x2apic)
        assert_int_equal(get(&m, 1, base, 0xD0), 2);
    for (unsigned round = 0; round < 200; round++) {
        uint8_t page[KVM_APIC_PAGE_SIZE], back[KVM_APIC_PAGE_SIZE];
        assert_ok(kvm_apic_get_page(m.fd[1], base, page));
        for (unsigned n = 0; n < 64; n++) {
            uint64_t value = (uint32_t)rand() << 16 ^ (uint32_t)rand();
            // No timer: it does not stand still.
            if (n == 0x38 || n == 0x39 || (n == 0x32 && (value >> 17 & 3) == 2))
                continue;
            for (unsigned bit = 0; bit < 32; bit++)
                if (!kvm_apic_page_valid(page, base, n, 1ull << bit))
                    value &= ~(1ull << bit);
            (void)kvm_apic_page_set(page, base, n, value);
        }
        assert_ok(kvm_apic_set_page(&m.apic, m.fd[1], base, page, NULL));
        assert_ok(kvm_apic_get_page(m.fd[1], base, back));
        for (unsigned offset = 0; offset < sizeof page; offset += 4)
            if (memcmp(page + offset, back + offset, 4))
                fail_msg("offset %#x", offset);
    }
    stop(&m);
}

static void test_state_round_trip(void **state)
{
    (void)state;
    if (!available())
        skip();
    state_round_trip(XAPIC_BASE);
    state_round_trip(X2APIC_BASE);
}

union one_msr {
    struct kvm_msrs head;
    uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

static void set_msr(struct machine *m, uint32_t index, uint64_t value)
{
    union one_msr msr = { .head = { .nmsrs = 1 } };
    struct kvm_msr_entry entry = { .index = index, .data = value };
    memcpy(msr.bytes + sizeof msr.head, &entry, sizeof entry);
    assert_int_equal(ioctl(m->fd[0], KVM_SET_MSRS, &msr), 1);
}

static uint64_t get_msr(struct machine *m, uint32_t index)
{
    union one_msr msr = { .head = { .nmsrs = 1 } };
    struct kvm_msr_entry entry = { .index = index };
    memcpy(msr.bytes + sizeof msr.head, &entry, sizeof entry);
    assert_int_equal(ioctl(m->fd[0], KVM_GET_MSRS, &msr), 1);
    memcpy(&entry, msr.bytes + sizeof msr.head, sizeof entry);
    return entry.data;
}

static void test_timers(void **state)
{
    (void)state;
    if (!available())
        skip();
    struct machine m = start(1, XAPIC_BASE, sleeper, sizeof sleeper);
    uint8_t page[KVM_APIC_PAGE_SIZE];
    // One-shot, as a page and by its register.
    set(&m, 0, XAPIC_BASE, (const uint32_t[]){ 0x320, VECTOR, 0x3E0, 0xB, 0x380, 200000, 0x390, 200000, 0 });
    run_to_port(&m, 0, 0x11);
    assert_int_equal(get(&m, 0, XAPIC_BASE, 0x390), 0);
    assert_int_equal(get(&m, 0, XAPIC_BASE, 0x380), 200000);
    uint8_t before[KVM_APIC_PAGE_SIZE];
    assert_ok(kvm_apic_get_page(m.fd[0], XAPIC_BASE, before));
    memcpy(page, before, sizeof page);
    assert_true(kvm_apic_page_set(page, XAPIC_BASE, 0x38, 300000));
    assert_ok(kvm_apic_set_page(&m.apic, m.fd[0], XAPIC_BASE, page, before));
    run_to_port(&m, 0, 0x11);
    // Periodic.
    set(&m, 0, XAPIC_BASE, (const uint32_t[]){ 0x320, 0x20000 | VECTOR, 0x380, 200000, 0x390, 0, 0 });
    for (unsigned n = 0; n < 5; n++)
        run_to_port(&m, 0, 0x11);
    // TSC deadline: the mode first, then the deadline, which a later change of state keeps.
    set(&m, 0, XAPIC_BASE, (const uint32_t[]){ 0x320, 0x40000 | VECTOR, 0 });
    for (unsigned n = 0; n < 5; n++) {
        uint64_t deadline = get_msr(&m, 0x10) + 3000000;
        set_msr(&m, DEADLINE_MSR, deadline);
        set(&m, 0, XAPIC_BASE, (const uint32_t[]){ 0xD0, n << 24, 0 });
        assert_int_equal(get_msr(&m, DEADLINE_MSR), deadline);
        run_to_port(&m, 0, 0x11);
        assert_true(get_msr(&m, 0x10) >= deadline);
        assert_int_equal(get_msr(&m, DEADLINE_MSR), 0);
    }
    stop(&m);
}

static uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

// The count goes down once in 5 ns of the host's clock, as far as the clock was read around it.
static void test_timer_rate(void **state)
{
    (void)state;
    if (!available())
        skip();
    struct machine m = start(1, XAPIC_BASE, sleeper, sizeof sleeper);
    if (ioctl(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_X86_APIC_BUS_CYCLES_NS) <= 0) {
        print_message("skipped: this kernel's KVM has one rate of the timer only\n");
        stop(&m);
        skip();
    }
    uint64_t before_start = nanoseconds();
    set(&m, 0, XAPIC_BASE, (const uint32_t[]){ 0x3E0, 0xB, 0x380, UINT32_MAX, 0x390, UINT32_MAX, 0 });
    uint64_t after_start = nanoseconds();
    nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    uint64_t before_end = nanoseconds();
    uint64_t gone = (uint64_t)(UINT32_MAX - get(&m, 0, XAPIC_BASE, 0x390)) * 5;
    uint64_t after_end = nanoseconds();
    assert_true(gone + 5 >= before_end - after_start);
    assert_true(gone <= after_end - before_start + 5);
    stop(&m);
}

static void on_alarm(int signal) { (void)signal; }

int main(void)
{
    struct sigaction action = { .sa_handler = on_alarm };       // not restarting: KVM_RUN ends with EINTR
    sigaction(SIGALRM, &action, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_eoi),
        cmocka_unit_test(test_eoi_by_step),
        cmocka_unit_test(test_eoi_after_restore),
        cmocka_unit_test(test_wakes),
        cmocka_unit_test(test_software_disabled),
        cmocka_unit_test(test_init_and_sipi),
        cmocka_unit_test(test_destinations),
        cmocka_unit_test(test_lint1),
        cmocka_unit_test(test_state_round_trip),
        cmocka_unit_test(test_timers),
        cmocka_unit_test(test_timer_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
