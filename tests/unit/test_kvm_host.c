// Unit tests of what the kvm engine says of its host, with a kernel that is made up: each thing that can be missing or
// fail has its sentence, nothing is left open, and what is offered is what the kernel's table has.
#include "unit.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/kvm/features.h"
#include "engine/kvm/host.h"
#include "engine/kvm/ioctl.h"
#include "kvm_tables.h"
#include "partition/partition.h"

// ---- The kernel --------------------------------------------------------------------------------------------------

static struct {
    int open_error;
    int version;
    int lacking;                        // this capability is answered with 0
    unsigned calls, fail_at;            // the ioctl that fails, from 1
    int error;
    int sync_fields, processors, bus_cycles;
    int vm_khz, vcpu_khz;
    const struct kvm_cpuid_entry2 *table;
    unsigned entries;
    struct kvm_cpuid2 *set;             // the processor's table
    bool forces;                        // shows some features to every guest, and withholds one that it offers
    int processor;                      // its descriptor
    int opened;
} kernel;

static void kernel_reset(void)
{
    free(kernel.set);
    memset(&kernel, 0, sizeof kernel);
    kernel.version = 12;
    kernel.lacking = -1;
    kernel.sync_fields = 7;
    kernel.processors = 1024;
    kernel.bus_cycles = 1;
    kernel.vm_khz = 2596136;
    kernel.table = table_paravirtual;
    kernel.entries = sizeof table_paravirtual / sizeof *table_paravirtual;
}

static int some_descriptor(void)
{
    kernel.opened++;
    return dup(STDERR_FILENO);
}

int __wrap_kvm_host_open(void);
int __wrap_kvm_host_open(void)
{
    return kernel.open_error ? -kernel.open_error : some_descriptor();
}

static int extension(int number)
{
    if (number == kernel.lacking)
        return 0;
    switch (number) {
    case KVM_CAP_SYNC_REGS: return kernel.sync_fields;
    case KVM_CAP_MAX_VCPUS: return kernel.processors;
    case KVM_CAP_NR_MEMSLOTS: return 32764;
    case KVM_CAP_X86_APIC_BUS_CYCLES_NS: return kernel.bus_cycles;
    case KVM_CAP_X2APIC_API: return 15;
    default: return 1;
    }
}

static bool virtualises = true;

bool __wrap_kvm_host_virtualises(void);
bool __wrap_kvm_host_virtualises(void) { return virtualises; }

int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    assert_true(fd >= 0);
    if (++kernel.calls == kernel.fail_at)
        return -kernel.error;
    switch (request) {
    case KVM_GET_API_VERSION: return kernel.version;
    case KVM_GET_VCPU_MMAP_SIZE: return 12288;
    case KVM_CHECK_EXTENSION: return extension((int)value);
    case KVM_CREATE_VM:
        return some_descriptor();
    case KVM_CREATE_VCPU:
        return kernel.processor = some_descriptor();
    case KVM_GET_TSC_KHZ:
        return fd == kernel.processor ? kernel.vcpu_khz : kernel.vm_khz;
    }
    return -ENOTTY;
}

// As the kernel has changed the table: the processor's state shows, and what is shown to everybody.
static void get_cpuid(struct kvm_cpuid2 *table)
{
    assert_true(table->nent > kernel.set->nent);
    memcpy(table, kernel.set, sizeof *table + kernel.set->nent * sizeof table->entries[0]);
    for (unsigned n = 0; n < table->nent; n++) {
        struct kvm_cpuid_entry2 *e = &table->entries[n];
        if (e->function == 1)
            e->edx |= 1 << 9;
        if (e->function == 1 && kernel.forces)
            e->ecx |= 1u << 28 | 1;
        if (e->function == 7 && kernel.forces)
            e->edx &= ~(1u << 29);
        if (e->function == 0xd && e->index == 1 && kernel.forces)
            e->eax = 3;
    }
    if (kernel.forces)
        table->entries[table->nent++] = (struct kvm_cpuid_entry2){ .function = 0x80000021, .index = 7,
                                                                   .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ecx = 4 };
}

int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument);
int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument)
{
    struct kvm_cpuid2 *table = argument;

    assert_true(fd >= 0);
    if (++kernel.calls == kernel.fail_at)
        return -kernel.error;
    if (request == KVM_SET_CPUID2) {
        free(kernel.set);
        kernel.set = table_made(table->entries, table->nent);
        return 0;
    }
    if (request == KVM_GET_CPUID2) {
        get_cpuid(table);
        return 0;
    }
    assert_int_equal(request, KVM_GET_SUPPORTED_CPUID);
    if (table->nent < kernel.entries)
        return -E2BIG;
    table->nent = kernel.entries;
    memcpy(table->entries, kernel.table, kernel.entries * sizeof *kernel.table);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    kernel_reset();
    return 0;
}

// Ask, check that nothing stays open, and say.
static struct kvm_host ask(struct engine_status *status)
{
    struct kvm_host h;
    unsigned before = open_descriptors();

    kvm_host_ask(&h);
    assert_int_equal(open_descriptors(), before);
    h.hardware = true;
    kvm_host_status(&h, status);
    assert_true(strlen(status->text) > 0 && strlen(status->text) < sizeof status->text - 1);
    assert_true(status->usable == (h.cpuid != NULL));
    return h;
}

static void forget(struct kvm_host *h)
{
    free(h->cpuid);
    free(h->forced);
}

// ---- Tests -------------------------------------------------------------------------------------------------------

static void test_fine(void **state)
{
    struct engine_status status;
    struct kvm_host h = ask(&status);

    (void)state;
    assert_true(status.usable && status.automatic);
    assert_int_equal(h.run_size, 12288);
    assert_int_equal(h.slots, 32764);
    assert_int_equal(h.max_processors, PARTITION_MAX_PROCESSORS);
    assert_int_equal(h.bus_ns, 5);
    assert_int_equal(h.tsc_khz, 2596136);
    assert_true(h.msr_exits && h.guest_debug && h.tsc_deadline);
    assert_int_equal(h.cpuid->nent, kernel.entries);
    h.hardware = false;
    kvm_host_status(&h, &status);
    assert_true(status.usable && !status.automatic);
    assert_string_equal(status.text, "the processor reports neither vmx nor svm, so KVM would be slow");
    forget(&h);
}

static void test_lacking(void **state)
{
    static const struct { int number; const char *name; } needed[] = {
        { KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" }, { KVM_CAP_SYNC_REGS, "KVM_CAP_SYNC_REGS" },
        { KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" }, { KVM_CAP_XSAVE, "KVM_CAP_XSAVE" },
        { KVM_CAP_XCRS, "KVM_CAP_XCRS" }, { KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS" },
        { KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" }, { KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
        { KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP" }, { KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI" },
        { KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM" },
        { KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR" },
        { KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER" },
        { KVM_CAP_SET_GUEST_DEBUG, "KVM_CAP_SET_GUEST_DEBUG" }, { KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
        { KVM_CAP_X2APIC_API, "KVM_CAP_X2APIC_API" }, { KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ" },
    };
    struct engine_status status;
    char text[160];

    (void)state;
    for (unsigned n = 0; n < sizeof needed / sizeof *needed; n++) {
        kernel_reset();
        kernel.lacking = needed[n].number;
        struct kvm_host h = ask(&status);
        snprintf(text, sizeof text, "the kernel's KVM is too old: it lacks %s", needed[n].name);
        assert_string_equal(status.text, text);
        assert_true(!status.usable && !status.automatic && !kvm_host_usable(&h));
    }
    // Registers alone are not enough.
    kernel_reset();
    kernel.sync_fields = KVM_SYNC_X86_REGS;
    ask(&status);
    assert_string_equal(status.text, "the kernel's KVM is too old: it lacks KVM_CAP_SYNC_REGS");
    kernel_reset();
    kernel.version = 11;
    ask(&status);
    assert_string_equal(status.text, "the kernel's KVM is too old: it lacks version 12 of its interface");
}

static void test_not_needed(void **state)
{
    struct engine_status status;
    struct engine_capabilities offer;

    (void)state;
    kernel.bus_cycles = 0;
    kernel.processors = 2;
    struct kvm_host h = ask(&status);
    assert_true(status.usable);
    kvm_host_offer(&h, &offer);
    assert_int_equal(h.bus_ns, 1);
    assert_int_equal(offer.interrupt_clock_hz, 1000000000);
    assert_int_equal(offer.max_processors, 2);
    forget(&h);

    kernel.lacking = KVM_CAP_TSC_DEADLINE_TIMER;
    h = ask(&status);
    kvm_host_offer(&h, &offer);
    assert_false(offer.processor_features.Bank1.TscDeadlineTmrSupport);
    forget(&h);
    kernel.lacking = KVM_CAP_MEMORY_FAULT_INFO;
    h = ask(&status);
    assert_true(status.usable);
    forget(&h);
}

// A processor's offset to the host's counter needs the kernel's way to it, and hardware that adds it.
static void test_tsc_offset(void **state)
{
    struct engine_status status;

    (void)state;
    for (unsigned n = 0; n < 4; n++) {
        struct kvm_host h;

        virtualises = n & 1;
        kernel.lacking = n & 2 ? KVM_CAP_VCPU_ATTRIBUTES : -1;
        h = ask(&status);
        assert_true(status.usable);
        assert_int_equal(h.tsc_offset, n == 1);
        forget(&h);
    }
    virtualises = true;
}

static void test_not_opened(void **state)
{
    struct engine_status status;

    (void)state;
    kernel.open_error = ENOENT;
    ask(&status);
    assert_non_null(strstr(status.text, "/dev/kvm does not exist"));
    kernel.open_error = EACCES;
    ask(&status);
    assert_non_null(strstr(status.text, "/dev/kvm may not be opened"));
    assert_non_null(strstr(status.text, "group kvm"));
    kernel.open_error = EMFILE;
    ask(&status);
    assert_string_equal(status.text, "/dev/kvm cannot be used: Too many open files");
    assert_int_equal(kernel.calls, 0);
}

// The clock: of the partition, else of a processor, else there is none. The table: as large as it needs to be.
static void test_asking(void **state)
{
    struct engine_status status;
    struct kvm_cpuid_entry2 *large = calloc(300, sizeof *large);

    (void)state;
    kernel.vm_khz = -ENOTTY;
    kernel.vcpu_khz = 3000000;
    struct kvm_host h = ask(&status);
    assert_int_equal(h.tsc_khz, 3000000);
    forget(&h);
    kernel.vcpu_khz = 0;
    ask(&status);
    assert_string_equal(status.text, "the kernel's KVM is too old: it lacks a clock that it knows the frequency of");

    kernel_reset();
    assert_non_null(large);
    kernel.table = large;
    kernel.entries = 300;
    h = ask(&status);
    assert_int_equal(h.cpuid->nent, 300);
    forget(&h);
    kernel.entries = 100000;
    ask(&status);
    assert_string_equal(status.text, "/dev/kvm cannot be used: Argument list too long");
    free(large);
}

// Every ioctl may fail: one sentence, nothing open, no memory lost.
static void test_every_failure(void **state)
{
    struct engine_status status;
    unsigned calls;

    (void)state;
    kernel.vm_khz = 0;                      // so that a processor is asked too
    kernel.vcpu_khz = 1000000;
    struct kvm_host h = ask(&status);
    forget(&h);
    calls = kernel.calls;
    assert_true(calls > 25);
    for (unsigned n = 1; n <= calls; n++) {
        kernel.calls = 0;
        kernel.fail_at = n;
        kernel.error = ENOMEM;
        h = ask(&status);
        if (!status.usable)
            assert_string_equal(status.text, "/dev/kvm cannot be used: Cannot allocate memory");
        forget(&h);
    }
}

static void test_offer(void **state)
{
    struct engine_status status;
    struct engine_capabilities offer;
    struct kvm_host h = ask(&status);

    (void)state;
    kvm_host_offer(&h, &offer);
    assert_int_equal(offer.vendor, WHvProcessorVendorAmd);
    assert_int_equal(offer.clflush_units, 8);
    assert_int_equal(offer.physical_address_width, 48);
    assert_int_equal(offer.processor_clock_hz, 2596136000);
    assert_true(offer.processor_clock_fixed && offer.interrupt_clock_fixed && offer.apic_emulation);
    assert_int_equal(offer.interrupt_clock_hz, 200000000);
    assert_int_equal(offer.exception_exit_bitmap, 1 << 1 | 1 << 3);
    assert_true(offer.extended_vm_exits.X64MsrExit && offer.extended_vm_exits.ExceptionExit);
    assert_false(offer.extended_vm_exits.X64CpuidExit || offer.extended_vm_exits.X64RdtscExit ||
                 offer.extended_vm_exits.HypercallExit);
    assert_true(offer.features.PartialUnmap && offer.features.LocalApicEmulation && offer.features.VpHotAddRemove);
    assert_int_equal(offer.processor_features.BanksCount, 2);
    WHV_PROCESSOR_FEATURES zero = { .Cmpxchg16bSupport = 1, .LahfSahfSupport = 1, .Altmovcr8Support = 1,
                                    .MisAlignSseSupport = 1, .IntelPrefetchSupport = 1, .MmxExtSupport = 1,
                                    .ClflushoptSupport = 1, .ClwbSupport = 1, .UmipSupport = 1,
                                    .X87PointersSavedSupport = 1 };
    WHV_PROCESSOR_FEATURES1 one = { .TscInvariantSupport = 1, .TscDeadlineTmrSupport = 1, .TscAdjustSupport = 1,
                                    .ClZeroSupport = 1, .StibpAlwaysOnSupport = 1, .PsfdSupport = 1,
                                    .IbpbRsbFlushSupport = 1 };
    WHV_PROCESSOR_XSAVE_FEATURES xsave = { .GfniSupport = 1 };
    assert_int_equal(offer.processor_features.Bank0.AsUINT64, zero.AsUINT64);
    assert_int_equal(offer.processor_features.Bank1.AsUINT64, one.AsUINT64);
    assert_int_equal(offer.xsave_features.AsUINT64, xsave.AsUINT64);
    forget(&h);

    kernel.table = table_intel;
    kernel.entries = sizeof table_intel / sizeof *table_intel;
    h = ask(&status);
    kvm_host_offer(&h, &offer);
    assert_int_equal(offer.vendor, WHvProcessorVendorIntel);
    assert_int_equal(offer.physical_address_width, 46);
    assert_true(offer.processor_features.Bank0.IbrsSupport && offer.processor_features.Bank0.IbpbSupport &&
                offer.processor_features.Bank0.SsbdSupport && offer.processor_features.Bank0.RdPidSupport);
    // What the engine does not show is not offered either.
    assert_false(offer.processor_features.Bank1.La57Support || offer.processor_features.Bank1.CetSsSupport ||
                 offer.processor_features.Bank1.CetIbtSupport);
    assert_true(offer.xsave_features.Avx512Support && offer.xsave_features.AmxTileSupport &&
                offer.xsave_features.AvxVnniSupport && offer.xsave_features.XsaveSupervisorSupport);
    forget(&h);
}

// A KVM that changes the table it is given: what it adds is there, and known as what cannot be hidden.
static void test_forced(void **state)
{
    struct engine_status status;
    struct engine_capabilities offer;
    struct kvm_host h;
    const struct kvm_cpuid_entry2 *e;

    (void)state;
    h = ask(&status);
    assert_int_equal(h.cpuid->nent, kernel.entries);
    assert_memory_equal(h.cpuid->entries, kernel.table, kernel.entries * sizeof *kernel.table);
    assert_int_equal(h.forced->nent, 1);                // the APIC's bit
    assert_int_equal(h.forced->entries[0].edx, 1 << 9);
    forget(&h);

    kernel.forces = true;
    h = ask(&status);
    assert_int_equal(h.forced->nent, 3);
    assert_int_equal(h.cpuid->nent, kernel.entries + 1);
    e = kvm_features_entry(h.cpuid, 1, 0);
    assert_int_equal(e->ecx, 0x81202000 | 1u << 28 | 1);
    assert_int_equal(kvm_features_entry(h.cpuid, 7, 0)->edx, 0);
    assert_int_equal(kvm_features_entry(h.forced, 1, 0)->ecx, 1u << 28 | 1);
    assert_int_equal(kvm_features_entry(h.forced, 0xd, 1)->eax, 3);
    assert_int_equal(kvm_features_entry(h.cpuid, 0x80000021, 7)->eax, 0x204);
    kvm_host_offer(&h, &offer);
    assert_true(offer.xsave_features.AvxSupport && offer.processor_features.Bank0.Sse3Support &&
                offer.xsave_features.XsaveCompSupport);
    forget(&h);
}

// Errors pass: the next call looks again. What is known stays, and is the same for all.
static void test_remembered(void **state)
{
    struct engine_status status;

    (void)state;
    kernel.open_error = EMFILE;
    kvm_host_probe(&status);
    assert_false(status.usable);
    assert_int_equal(kvm_host()->error, EMFILE);
    assert_int_equal(kvm_host_capabilities()->max_processors, 0);
    kernel.open_error = 0;
    kvm_host_probe(&status);
    assert_true(status.usable);
    const struct kvm_host *h = kvm_host();
    kernel.open_error = ENOENT;
    kernel.calls = 0;
    assert_ptr_equal(kvm_host(), h);
    assert_int_equal(kvm_host_capabilities()->max_processors, PARTITION_MAX_PROCESSORS);
    assert_ptr_equal(kvm_host_capabilities(), kvm_host_capabilities());
    assert_int_equal(kernel.calls, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_fine, setup),
        cmocka_unit_test_setup(test_lacking, setup),
        cmocka_unit_test_setup(test_not_needed, setup),
        cmocka_unit_test_setup(test_tsc_offset, setup),
        cmocka_unit_test_setup(test_not_opened, setup),
        cmocka_unit_test_setup(test_asking, setup),
        cmocka_unit_test_setup(test_every_failure, setup),
        cmocka_unit_test_setup(test_offer, setup),
        cmocka_unit_test_setup(test_forced, setup),
        cmocka_unit_test_setup(test_remembered, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
