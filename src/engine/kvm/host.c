// What this host's KVM is and can do: asked once, told as one sentence and as the engine's capabilities.
#include "engine/kvm/host.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/kvm/features.h"
#include "engine/kvm/ioctl.h"
#include "partition/partition.h"

// What the engine cannot do without. An answer has to have all bits of `bits`; 0: any answer above zero.
struct requirement { int number; int bits; const char *name; };
#define NEEDS(name) { name, 0, #name }
#define SYNC_FIELDS (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)
static const struct requirement requirements[] = {
    NEEDS(KVM_CAP_USER_MEMORY),
    NEEDS(KVM_CAP_EXT_CPUID),
    NEEDS(KVM_CAP_MP_STATE),
    NEEDS(KVM_CAP_SET_GUEST_DEBUG),
    NEEDS(KVM_CAP_VCPU_EVENTS),
    NEEDS(KVM_CAP_DEBUGREGS),
    NEEDS(KVM_CAP_XSAVE),
    NEEDS(KVM_CAP_XCRS),
    NEEDS(KVM_CAP_GET_TSC_KHZ),
    NEEDS(KVM_CAP_SIGNAL_MSI),
    NEEDS(KVM_CAP_READONLY_MEM),
    NEEDS(KVM_CAP_SPLIT_IRQCHIP),
    NEEDS(KVM_CAP_X2APIC_API),
    NEEDS(KVM_CAP_IMMEDIATE_EXIT),
    { KVM_CAP_SYNC_REGS, SYNC_FIELDS, "KVM_CAP_SYNC_REGS" },
    NEEDS(KVM_CAP_X86_USER_SPACE_MSR),
    NEEDS(KVM_CAP_X86_MSR_FILTER),
};

#define API_VERSION 12              // the only one there has ever been (Documentation/virt/kvm/api.rst 4.1)
#define CPUID_ENTRIES 128u          // to begin with
#define CPUID_ENTRIES_MAX 2048u
#define BUS_NS_WHP 5u               // 200 MHz, as WHP's
#define BUS_NS_KVM 1u               // KVM's own, unless it lets itself be told another

// ---- Asking ------------------------------------------------------------------------------------------------------

static int extension(int fd, int number)
{
    return kvm_ioctl_value(fd, KVM_CHECK_EXTENSION, (unsigned long)number);
}

// The first thing that is missing, or NULL with *error set when the kernel gave no answer.
static const char *find_lacking(int fd, int *error)
{
    int version = kvm_ioctl_value(fd, KVM_GET_API_VERSION, 0);

    if (version < 0) {
        *error = -version;
        return NULL;
    }
    if (version != API_VERSION)
        return "version 12 of its interface";
    for (unsigned n = 0; n < sizeof requirements / sizeof *requirements; n++) {
        const struct requirement *r = &requirements[n];
        int answer = extension(fd, r->number);

        if (answer < 0) {
            *error = -answer;
            return NULL;
        }
        if (!answer || (answer & r->bits) != r->bits)
            return r->name;
    }
    return NULL;
}

static struct kvm_cpuid2 *table_new(uint32_t room)
{
    struct kvm_cpuid2 *table = calloc(1, sizeof *table + room * sizeof table->entries[0]);

    if (table)
        table->nent = room;
    return table;
}

// KVM says neither how many entries it has nor how many it wants: try with more until they fit.
CHECKED static int ask_cpuid(int fd, struct kvm_cpuid2 **table)
{
    for (unsigned room = CPUID_ENTRIES; room <= CPUID_ENTRIES_MAX; room *= 2) {
        struct kvm_cpuid2 *t = table_new(room);
        int answer;

        if (!t)
            return -ENOMEM;
        answer = kvm_ioctl(fd, KVM_GET_SUPPORTED_CPUID, t);
        if (answer >= 0) {
            *table = t;
            return 0;
        }
        free(t);
        if (answer != -E2BIG)
            return answer;
    }
    return -E2BIG;
}

// A partition knows its clock, on kernels before 5.18 only a processor. 0: KVM does not say.
CHECKED static int ask_clock(int vm, int vcpu, uint32_t *khz)
{
    int answer = kvm_ioctl_value(vm, KVM_GET_TSC_KHZ, 0);

    if (answer <= 0)
        answer = kvm_ioctl_value(vcpu, KVM_GET_TSC_KHZ, 0);
    if (answer < 0)
        return answer;
    *khz = (uint32_t)answer;
    return 0;
}

// The same leaves as `from`, without a feature: makers, highest leaves and address sizes only.
static void blank(const struct kvm_cpuid2 *from, struct kvm_cpuid2 *to)
{
    to->nent = from->nent;
    for (uint32_t n = 0; n < from->nent; n++) {
        const struct kvm_cpuid_entry2 *e = &from->entries[n];

        to->entries[n] = (struct kvm_cpuid_entry2){ .function = e->function, .index = e->index, .flags = e->flags };
        if (e->function == 0 || e->function == 0x80000000)
            to->entries[n] = *e;
        else if (e->function == 0x80000008)
            to->entries[n].eax = e->eax;
    }
}

// What of an entry that came back was not put there. In leaf 0xd only EAX says what there is; the rest are
// sizes.
static struct kvm_cpuid_entry2 surplus(const struct kvm_cpuid2 *set, const struct kvm_cpuid_entry2 *back)
{
    static const struct kvm_cpuid_entry2 none;
    struct kvm_cpuid_entry2 e = *back;
    const struct kvm_cpuid_entry2 *own = kvm_features_entry(set, e.function, e.index);

    if (!own)
        own = &none;
    e.eax &= ~own->eax;
    e.ebx &= ~own->ebx;
    e.ecx &= ~own->ecx;
    e.edx &= ~own->edx;
    if (e.function == 0xd) {
        e.ebx = e.ecx = e.edx = 0;
        if (e.index > 1)
            e.eax = 0;
    }
    return e;
}

// What a processor makes of a table.
CHECKED static int try_table(int vcpu, struct kvm_cpuid2 *table, struct kvm_cpuid2 **back)
{
    int answer = kvm_ioctl(vcpu, KVM_SET_CPUID2, table);

    if (answer < 0)
        return answer;
    *back = table_new(table->nent + CPUID_ENTRIES);
    if (!*back)
        return -ENOMEM;
    return kvm_ioctl(vcpu, KVM_GET_CPUID2, *back);
}

// A KVM without hardware to help it runs some guest code where CPUID is the host's: it changes the table that
// it is given, so that guests see what there is. Give it all that it says it supports, and see what that is
// worth; then a table without features, and see which it has added.
CHECKED static int ask_forced(int vcpu, struct kvm_host *h)
{
    struct kvm_cpuid2 *all = NULL, *none = NULL, *back = NULL;
    int answer = try_table(vcpu, h->cpuid, &all);

    if (answer >= 0) {
        none = table_new(all->nent);
        answer = none ? 0 : -ENOMEM;
    }
    if (answer >= 0) {
        blank(all, none);
        answer = try_table(vcpu, none, &back);
    }
    if (answer >= 0) {
        uint32_t count = 0;

        for (uint32_t n = 0; n < back->nent; n++) {
            struct kvm_cpuid_entry2 e = surplus(none, &back->entries[n]);

            if (e.eax | e.ebx | e.ecx | e.edx)
                back->entries[count++] = e;
        }
        back->nent = count;
        free(h->cpuid);
        h->cpuid = all;
        h->forced = back;
        all = back = NULL;
    }
    free(all);
    free(none);
    free(back);
    return answer;
}

// What only a partition with a processor can tell. Both go again.
CHECKED static int ask_partition(int fd, struct kvm_host *h)
{
    int vm = kvm_ioctl_value(fd, KVM_CREATE_VM, 0), vcpu, answer;

    if (vm < 0)
        return vm;
    answer = vcpu = kvm_ioctl_value(vm, KVM_CREATE_VCPU, 0);
    if (vcpu >= 0) {
        answer = ask_clock(vm, vcpu, &h->tsc_khz);
        if (answer >= 0)
            answer = ask_forced(vcpu, h);
        close(vcpu);
    }
    close(vm);
    return answer;
}

CHECKED static int ask_figures(int fd, struct kvm_host *h)
{
    static const struct { int number; size_t offset; } flags[] = {
        { KVM_CAP_X86_USER_SPACE_MSR, offsetof(struct kvm_host, msr_exits) },
        { KVM_CAP_SET_GUEST_DEBUG, offsetof(struct kvm_host, guest_debug) },
        { KVM_CAP_TSC_DEADLINE_TIMER, offsetof(struct kvm_host, tsc_deadline) },
        { KVM_CAP_EXIT_ON_EMULATION_FAILURE, offsetof(struct kvm_host, emulation_exits) },
        { KVM_CAP_BINARY_STATS_FD, offsetof(struct kvm_host, stats) },
        { KVM_CAP_VCPU_ATTRIBUTES, offsetof(struct kvm_host, tsc_offset) },
    };
    int size = kvm_ioctl_value(fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    int slots = extension(fd, KVM_CAP_NR_MEMSLOTS);
    int processors = extension(fd, KVM_CAP_MAX_VCPUS);

    if (size < 0)
        return size;
    h->run_size = size;
    // The two answers' meanings where the kernel gives none are api.rst's (4.4 and 4.7).
    h->slots = slots > 0 ? (uint32_t)slots : 32;
    h->max_processors = processors > 0 ? (uint32_t)processors : 4;
    if (h->max_processors > PARTITION_MAX_PROCESSORS)
        h->max_processors = PARTITION_MAX_PROCESSORS;
    h->bus_ns = extension(fd, KVM_CAP_X86_APIC_BUS_CYCLES_NS) > 0 ? BUS_NS_WHP : BUS_NS_KVM;
    for (unsigned n = 0; n < sizeof flags / sizeof *flags; n++)
        *(bool *)((char *)h + flags[n].offset) = extension(fd, flags[n].number) > 0;
    return 0;
}

void kvm_host_ask(struct kvm_host *h)
{
    int fd = kvm_host_open(), answer;

    memset(h, 0, sizeof *h);
    h->hardware = kvm_host_virtualises();
    if (fd < 0) {
        h->error = -fd;
        return;
    }
    h->lacking = find_lacking(fd, &h->error);
    if (!h->lacking && !h->error) {
        answer = ask_figures(fd, h);
        h->tsc_offset &= h->hardware;       // without, the offset is only kept
        if (answer >= 0)
            answer = ask_cpuid(fd, &h->cpuid);
        if (answer >= 0)
            answer = ask_partition(fd, h);
        if (answer >= 0 && !h->tsc_khz)
            h->lacking = "a clock that it knows the frequency of";
        h->error = answer < 0 ? -answer : 0;
        if (!kvm_host_usable(h)) {
            free(h->cpuid);
            free(h->forced);
            h->cpuid = h->forced = NULL;
        }
    }
    close(fd);
}

const struct kvm_host *kvm_host(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct kvm_host host;
    static _Atomic(const struct kvm_host *) known;
    static _Thread_local struct kvm_host failed;
    const struct kvm_host *h = atomic_load_explicit(&known, memory_order_acquire);

    if (h)
        return h;
    pthread_mutex_lock(&lock);
    h = atomic_load_explicit(&known, memory_order_relaxed);
    if (!h) {
        kvm_host_ask(&failed);
        h = &failed;
        if (!failed.error) {
            host = failed;
            h = &host;
            atomic_store_explicit(&known, h, memory_order_release);
        }
    }
    pthread_mutex_unlock(&lock);
    return h;
}

// ---- Telling -----------------------------------------------------------------------------------------------------

void kvm_host_status(const struct kvm_host *h, struct engine_status *status)
{
    char text[96];

    *status = (struct engine_status){ .usable = kvm_host_usable(h), .automatic = kvm_host_usable(h) && h->hardware };
    if (h->error == ENOENT)
        snprintf(status->text, sizeof status->text,
                 "/dev/kvm does not exist: the kernel has no KVM, or this container was not given the device");
    else if (h->error == EACCES || h->error == EPERM)
        snprintf(status->text, sizeof status->text,
                 "/dev/kvm may not be opened by this user, who usually has to be in the group kvm");
    else if (h->error)
        snprintf(status->text, sizeof status->text, "/dev/kvm cannot be used: %s",
                 strerror_r(h->error, text, sizeof text));
    else if (h->lacking)
        snprintf(status->text, sizeof status->text, "the kernel's KVM is too old: it lacks %s", h->lacking);
    else if (!h->hardware)
        snprintf(status->text, sizeof status->text,
                 "the processor reports neither vmx nor svm, so KVM would be slow");
    else
        snprintf(status->text, sizeof status->text, "/dev/kvm runs partitions on the processor itself");
}

void kvm_host_probe(struct engine_status *status)
{
    kvm_host_status(kvm_host(), status);
}

static WHV_PROCESSOR_VENDOR vendor(const struct kvm_cpuid2 *cpuid)
{
    static const struct { char name[13]; WHV_PROCESSOR_VENDOR vendor; } vendors[] = {
        { "AuthenticAMD", WHvProcessorVendorAmd },
        { "GenuineIntel", WHvProcessorVendorIntel },
        { "HygonGenuine", WHvProcessorVendorHygon },
    };
    const struct kvm_cpuid_entry2 *e = kvm_features_entry(cpuid, 0, 0);
    uint32_t name[3] = { 0 };

    if (e)
        memcpy(name, (uint32_t[]){ e->ebx, e->edx, e->ecx }, sizeof name);
    for (unsigned n = 0; n < sizeof vendors / sizeof *vendors; n++)
        if (!memcmp(name, vendors[n].name, sizeof name))
            return vendors[n].vendor;
    return WHvProcessorVendorIntel;     // who is not AMD's is Intel's kin in what differs between them
}

void kvm_host_offer(const struct kvm_host *h, struct engine_capabilities *offer)
{
    const struct kvm_cpuid_entry2 *one = kvm_features_entry(h->cpuid, 1, 0);
    const struct kvm_cpuid_entry2 *sizes = kvm_features_entry(h->cpuid, 0x80000008, 0);

    // Debug exceptions and breakpoints of the guest's own come to us where hardware intercepts them; a KVM
    // that emulates the guest's instructions delivers them by itself.
    bool debug = h->guest_debug && h->hardware;

    *offer = (struct engine_capabilities){
        .features = { .PartialUnmap = 1, .LocalApicEmulation = 1, .DirtyPageTracking = 1, .VpHotAddRemove = 1,
                      .Xsave = 1 },
        .extended_vm_exits = { .X64MsrExit = h->msr_exits, .ExceptionExit = debug },
        // KVM_GUESTDBG_USE_SW_BP and KVM_GUESTDBG_USE_HW_BP: breakpoints and debug exceptions, nothing else.
        .exception_exit_bitmap = debug ? 1u << WHvX64ExceptionTypeDebugTrapOrFault |
                                                  1u << WHvX64ExceptionTypeBreakpointTrap : 0,
        .msr_exit_bitmap = { .UnhandledMsrs = h->msr_exits, .TscMsrWrite = h->msr_exits, .TscMsrRead = h->msr_exits,
                             .ApicBaseMsrWrite = h->msr_exits, .MiscEnableMsrRead = h->msr_exits,
                             .McUpdatePatchLevelMsrRead = h->msr_exits },
        .vendor = vendor(h->cpuid),
        .clflush_units = one ? (UINT8)(one->ebx >> 8) : 8,
        .physical_address_width = sizes ? sizes->eax & 0xff : 36,       // SDM vol. 2A, CPUID, leaf 80000008H
        .processor_clock_hz = h->tsc_khz * 1000ull,
        .processor_clock_fixed = true,
        .interrupt_clock_hz = 1000000000ull / h->bus_ns,
        .interrupt_clock_fixed = true,
        .max_processors = h->max_processors,
        .apic_emulation = true,
    };
    kvm_features_offered(h, &offer->processor_features, &offer->xsave_features);
}

static struct engine_capabilities offer;

static void make_offer(void)
{
    kvm_host_offer(kvm_host(), &offer);
}

const struct engine_capabilities *kvm_host_capabilities(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static const struct engine_capabilities nothing;

    if (!kvm_host_usable(kvm_host()))
        return &nothing;
    pthread_once(&once, make_offer);
    return &offer;
}
