// The kvm engine's host, CPUID and MSRs against the kernel itself: guests in real mode read what the tables say, and
// their MSR accesses exit as the properties ask. Skipped, with the reason, where /dev/kvm is not usable.
#include "unit.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/kvm/cpuid.h"
#include "engine/kvm/features.h"
#include "engine/kvm/host.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/msr.h"
#include "partition/partition.h"
#include "x86/cpu.h"

#define NOT_USABLE 77                   // what the test runner takes for a skip
#define CODE 0x1000u
#define HANDLER 0x2000u

static struct engine engine = { .name = "kvm", .cpuid = kvm_cpuid };
static struct partition partition;
static struct vp vp;
static struct x86_cpu *cpu, *before;
static int vm, fd;
static struct kvm_run *run;
static uint8_t *memory;

// A partition of three processors without an APIC, with one of them, and 16 KiB at 0.
static int setup(void **state)
{
    const struct engine_capabilities *offer = kvm_host_capabilities();
    int device = kvm_host_open();

    (void)state;
    assert_true(device >= 0);
    vm = kvm_ioctl_value(device, KVM_CREATE_VM, 0);
    close(device);
    assert_true(vm >= 0);
    fd = kvm_ioctl_value(vm, KVM_CREATE_VCPU, 1);
    assert_true(fd >= 0);
    run = mmap(NULL, (size_t)kvm_host()->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    memory = mmap(NULL, 0x4000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(run != MAP_FAILED && memory != MAP_FAILED);
    struct kvm_userspace_memory_region region = { .memory_size = 0x4000, .userspace_addr = (uintptr_t)memory };
    assert_int_equal(kvm_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
    memset(&partition, 0, sizeof partition);
    partition.engine = &engine;
    partition.properties.processor_count = 3;
    partition.properties.processor_features = offer->processor_features;
    partition.properties.xsave_features = offer->xsave_features;
    partition.properties.physical_address_width = offer->physical_address_width;
    vp = (struct vp){ .partition = &partition, .index = 1 };
    memset(cpu, 0, sizeof *cpu);
    memset(before, 0, sizeof *before);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    munmap(memory, 0x4000);
    munmap(run, (size_t)kvm_host()->run_size);
    close(fd);
    close(vm);
    return 0;
}

// Real mode, flat, at CODE.
static void start(const uint8_t *code, size_t size, uint32_t eax, uint32_t ecx)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = CODE, .rflags = 2, .rax = eax, .rcx = ecx, .rsp = 0x3000 };

    memcpy(memory + CODE, code, size);
    assert_int_equal(kvm_ioctl(fd, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = sregs.cs.selector = 0;
    assert_int_equal(kvm_ioctl(fd, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(kvm_ioctl(fd, KVM_SET_REGS, &regs), 0);
}

static uint32_t go(void)
{
    assert_int_equal(kvm_ioctl_value(fd, KVM_RUN, 0), 0);
    return run->exit_reason;
}

static struct kvm_regs registers(void)
{
    struct kvm_regs regs;

    assert_int_equal(kvm_ioctl(fd, KVM_GET_REGS, &regs), 0);
    return regs;
}

// ---- Tests -------------------------------------------------------------------------------------------------------

static void test_host(void **state)
{
    const struct kvm_host *h = kvm_host();
    const struct engine_capabilities *offer = kvm_host_capabilities();
    struct engine_status status;

    (void)state;
    kvm_host_probe(&status);
    print_message("%s\n", status.text);
    assert_true(status.usable);
    assert_int_equal(status.automatic, h->hardware);
    assert_true(h->run_size >= (int)sizeof(struct kvm_run) && h->slots >= 32);
    assert_true(h->tsc_khz > 100000 && h->tsc_khz < 20000000);
    assert_true(offer->max_processors >= 1 && offer->max_processors <= PARTITION_MAX_PROCESSORS);
    assert_in_range(offer->physical_address_width, 32, 52);
    assert_int_equal(offer->processor_clock_hz, h->tsc_khz * 1000ull);
    assert_int_equal(offer->clflush_units, 8);
}

// CPUID as the guest executes it, for every leaf that there is and around them.
static void test_cpuid(void **state)
{
    static const uint8_t code[] = { 0x0f, 0xa2, 0xf4 };             // cpuid; hlt
    static const uint32_t starts[] = { 0, 0x40000000, 0x50000000, 0x80000000, 0xc0000000 };
    static WHV_X64_CPUID_RESULT2 results[] = {
        { .Function = 0x50000001, .Output = { .Eax = 0x1234 }, .Mask = { .Eax = 0xffff } },
        { .Function = 7, .Index = 5, .Flags = WHvX64CpuidResult2FlagSubleafSpecific, .Output = { .Ecx = 9 },
          .Mask = { .Ecx = 0xf } },
        { .Function = 0x8000001d, .Output = { .Edx = 0x80 }, .Mask = { .Edx = 0x80 } },
    };

    (void)state;
    partition.properties.cpuid_result2_list = results;
    partition.properties.cpuid_result2_count = sizeof results / sizeof *results;
    assert_ok(kvm_cpuid_install(&vp, fd));
    for (unsigned n = 0; n < sizeof starts / sizeof *starts; n++)
        for (uint32_t leaf = starts[n]; leaf < starts[n] + 0x28; leaf++)
            for (uint32_t subleaf = 0; subleaf < 7; subleaf++) {
                uint32_t out[4];
                start(code, sizeof code, leaf, subleaf);
                // Without an APIC in the kernel HLT exits.
                assert_int_equal(go(), KVM_EXIT_HLT);
                struct kvm_regs regs = registers();
                partition_cpuid(&vp, leaf, subleaf, out);
                if (regs.rax != out[0] || regs.rbx != out[1] || regs.rcx != out[2] || regs.rdx != out[3])
                    fail_msg("leaf %x.%x: the API says %x %x %x %x, the guest sees %llx %llx %llx %llx", leaf, subleaf,
                             out[0], out[1], out[2], out[3], regs.rax, regs.rbx, regs.rcx, regs.rdx);
            }
    // The same table again, after the processor has run.
    assert_ok(kvm_cpuid_install(&vp, fd));
}

static void test_too_many_results(void **state)
{
    static WHV_X64_CPUID_RESULT results[400];

    (void)state;
    for (uint32_t n = 0; n < 400; n++)
        results[n] = (WHV_X64_CPUID_RESULT){ .Function = 0x50000000 + n, .Eax = 1 };
    partition.properties.cpuid_result_list = results;
    partition.properties.cpuid_result_count = 400;
    assert_hr(kvm_cpuid_install(&vp, fd), E_INVALIDARG);
    partition.properties.cpuid_result_count = 0;
    assert_ok(kvm_cpuid_install(&vp, fd));
}

#define FAULTED 1000u

// An access to an MSR: how it ends. The handler of #GP halts, too, but elsewhere.
static uint32_t access_msr(bool write, uint32_t msr)
{
    static const uint8_t code[2][3] = { { 0x0f, 0x32, 0xf4 }, { 0x0f, 0x30, 0xf4 } };   // rdmsr, wrmsr; hlt
    static const uint8_t vector[4] = { HANDLER & 0xff, HANDLER >> 8, 0, 0 };
    uint32_t reason;

    memcpy(memory + 4 * X86_GP, vector, sizeof vector);
    memory[HANDLER] = 0xf4;
    start(code[write], sizeof code[write], 0, msr);
    reason = go();
    if (reason == KVM_EXIT_HLT && registers().rip == HANDLER + 1)
        return FAULTED;
    if (reason == KVM_EXIT_X86_RDMSR || reason == KVM_EXIT_X86_WRMSR) {
        assert_int_equal(reason, write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR);
        assert_int_equal(run->msr.index, msr);
        run->msr.error = 0;
        assert_int_equal(go(), KVM_EXIT_HLT);
    }
    return reason;
}

static void test_msr_exits(void **state)
{
    const struct kvm_msr_rules none = { .hide_tsc_adjust = false };
    struct property_values *p = &partition.properties;

    (void)state;
    assert_ok(kvm_cpuid_install(&vp, fd));
    for (unsigned round = 0; round < 3; round++) {
        p->extended_vm_exits.X64MsrExit = 0;
        p->msr_exit_bitmap.TscMsrRead = 1;
        if (round)
            assert_ok(kvm_msr_exits(vm, p, &none));
        assert_int_equal(access_msr(false, 0x10), KVM_EXIT_HLT);
        assert_int_equal(access_msr(false, 0x12345), FAULTED);
        assert_int_equal(access_msr(true, 0x40000000), FAULTED);
        assert_int_equal(access_msr(false, 0x4b564d00), FAULTED);

        p->extended_vm_exits.X64MsrExit = 1;
        assert_ok(kvm_msr_exits(vm, p, &none));
        assert_int_equal(access_msr(false, 0x10), KVM_EXIT_X86_RDMSR);
        assert_int_equal(run->msr.reason, KVM_MSR_EXIT_REASON_FILTER);
        assert_int_equal(access_msr(true, 0x10), KVM_EXIT_HLT);
        assert_int_equal(access_msr(false, 0x12345), KVM_EXIT_X86_RDMSR);
        assert_int_equal(access_msr(true, 0x12345), KVM_EXIT_X86_WRMSR);
        assert_int_equal(access_msr(true, 0x40000000), KVM_EXIT_X86_WRMSR);
        assert_int_equal(access_msr(false, 0x4b564d00), KVM_EXIT_X86_RDMSR);
        assert_int_equal(access_msr(true, 0x11), KVM_EXIT_X86_WRMSR);
        assert_int_equal(access_msr(false, 0x1b), KVM_EXIT_HLT);

        p->msr_exit_bitmap.AsUINT64 = 0;
        p->msr_exit_bitmap.TscMsrWrite = p->msr_exit_bitmap.McUpdatePatchLevelMsrRead = 1;
        p->msr_exit_bitmap.ApicBaseMsrWrite = p->msr_exit_bitmap.MiscEnableMsrRead = 1;
        assert_ok(kvm_msr_exits(vm, p, &none));
        assert_int_equal(access_msr(false, 0x10), KVM_EXIT_HLT);
        assert_int_equal(access_msr(true, 0x10), KVM_EXIT_X86_WRMSR);
        assert_int_equal(access_msr(false, 0x8b), KVM_EXIT_X86_RDMSR);
        assert_int_equal(access_msr(true, 0x1b), KVM_EXIT_X86_WRMSR);
        assert_int_equal(access_msr(false, 0x1a0), KVM_EXIT_X86_RDMSR);
        assert_int_equal(run->msr.reason, KVM_MSR_EXIT_REASON_FILTER);
        p->msr_exit_bitmap.AsUINT64 = 0;
    }
}

static void test_msrs(void **state)
{
    uint64_t value;

    (void)state;
    assert_ok(kvm_cpuid_install(&vp, fd));
    assert_ok(kvm_msr_fetch(fd, before));
    assert_int_equal(before->mtrr_cap & 0xff, 8);
    assert_int_equal(before->pat, 0x0007040600070406);
    *cpu = *before;
    cpu->star = 0x0023001000000000;
    cpu->lstar = 0xffffffff81000000;
    cpu->cstar = 0x7fff00000000;
    cpu->sfmask = 0x47700;
    cpu->kernel_gs_base = 0xffff888000000000;
    cpu->sysenter_cs = 0x10;
    cpu->sysenter_esp = 0xfffffe0000000000;
    cpu->sysenter_eip = 0xffffffff81000100;
    cpu->pat = 0x0407050600070106;
    cpu->mtrr_def_type = 0xc06;
    cpu->mtrr_phys[0] = 0x80000000;
    cpu->mtrr_phys[1] = 0xff80000800;
    cpu->mtrr_phys[14] = 0xc0000006;
    cpu->mtrr_fixed[0] = cpu->mtrr_fixed[2] = 0x0606060606060606;
    cpu->mtrr_fixed[10] = 0x0505050505050505;
    assert_ok(kvm_msr_store(fd, cpu, before));
    assert_ok(kvm_msr_fetch(fd, before));
    assert_memory_equal(before, cpu, sizeof *cpu);
    assert_ok(kvm_msr_store(fd, cpu, NULL));

    // Refused: what came before it is as it was.
    cpu->star = 5;
    cpu->mtrr_def_type = 0xffffffffffffffff;
    assert_hr(kvm_msr_store(fd, cpu, before), E_INVALIDARG);
    *cpu = *before;
    assert_ok(kvm_msr_fetch(fd, cpu));
    assert_memory_equal(before, cpu, sizeof *cpu);
    cpu->lstar = 0x8000000000000000;        // not canonical
    assert_hr(kvm_msr_store(fd, cpu, NULL), E_INVALIDARG);

    assert_ok(kvm_msr_set(fd, 0x3b, 0x1000));
    assert_ok(kvm_msr_get(fd, 0x3b, &value));
    assert_int_equal(value, 0x1000);
    assert_hr(kvm_msr_get(fd, 0x12345, &value), E_INVALIDARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host),
        cmocka_unit_test_setup_teardown(test_cpuid, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_results, setup, teardown),
        cmocka_unit_test_setup_teardown(test_msr_exits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_msrs, setup, teardown),
    };
    struct engine_status status;
    int failed;

    kvm_host_probe(&status);
    if (!status.usable) {
        printf("skipped: %s\n", status.text);
        return NOT_USABLE;
    }
    cpu = aligned_alloc(64, (sizeof *cpu + 63) & ~(size_t)63);
    before = aligned_alloc(64, (sizeof *cpu + 63) & ~(size_t)63);
    if (!cpu || !before)
        return 1;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(cpu);
    free(before);
    return failed;
}
