// The life of a partition on the kvm engine with one call to the kernel failing: the first, the second, and so on until a
// life gets by without. What fails says so and can be done again; nothing crashes, and no descriptor is left.
#include "unit.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "WinHvPlatform.h"
#include "engine/kvm/abi.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/kvm.h"

#define NOT_USABLE 77       // what the test runner takes for a skip
#define PAGE 4096u
#define CODE 0x1000u
#define HOLE 0xC000u
#define TRIES 4             // of one API call
#define LIVES_LIMIT 3000    // a life needs far fewer calls to the kernel

const struct engine *const engines[] = {&engine_kvm, NULL};

// ---- The kernel ------------------------------------------------------------------------------------------

static struct {
    unsigned calls;         // since the life began
    unsigned fails;         // the number of the call that fails, from 1 on; 0: none
    int error;
    bool failed;
    unsigned long request;  // what failed; 0: not an ioctl
    struct kvm_run *runs[64];   // shared pages by descriptor
} kernel;

static bool fails(unsigned long request)
{
    if (++kernel.calls != kernel.fails)
        return false;
    kernel.failed = true;
    kernel.request = request;
    return true;
}

int __real_kvm_ioctl(int fd, unsigned long request, void *argument);
int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument);
int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument)
{
    return fails(request) ? -kernel.error : __real_kvm_ioctl(fd, request, argument);
}

int __real_kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    if (!fails(request))
        return __real_kvm_ioctl_value(fd, request, value);
    // KVM_RUN fails behind the taking of the registers and before the guest, and hands them out again
    // (kvm_arch_vcpu_ioctl_run): as it does with immediate_exit.
    if (request == KVM_RUN && (size_t)fd < sizeof(kernel.runs) / sizeof(kernel.runs[0]) && kernel.runs[fd]) {
        UINT8 before = kernel.runs[fd]->immediate_exit;

        kernel.runs[fd]->immediate_exit = 1;
        (void)__real_kvm_ioctl_value(fd, request, value);
        kernel.runs[fd]->immediate_exit = before;
    }
    return -kernel.error;
}

int __real_kvm_host_open(void);
int __wrap_kvm_host_open(void);
int __wrap_kvm_host_open(void)
{
    return fails(0) ? -kernel.error : __real_kvm_host_open();
}

// The name that mmap has with 64-bit offsets. Of the engine, only a processor's shared page is mapped from a descriptor.
void *__real_mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (fd >= 0 && fails(0)) {
        errno = kernel.error;
        return MAP_FAILED;
    }
    void *page = __real_mmap64(address, size, protection, flags, fd, offset);
    if (fd >= 0 && (size_t)fd < sizeof(kernel.runs) / sizeof(kernel.runs[0]))
        kernel.runs[fd] = page == MAP_FAILED ? NULL : page;
    return page;
}

// ---- A life ----------------------------------------------------------------------------------------------

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
static uint8_t extra[4 * PAGE] __attribute__((aligned(PAGE)));

static bool plausible(HRESULT hr)
{
    return hr == S_OK || hr == E_OUTOFMEMORY || hr == E_ACCESSDENIED || hr == E_FAIL || hr == E_UNEXPECTED;
}

// What failed is done again, and works then: nothing was changed.
#define AGAIN(call)                                                                                          \
    do {                                                                                                     \
        HRESULT hr_ = S_OK;                                                                                  \
        for (int try_ = 0; try_ < TRIES; try_++) {                                                           \
            const bool before_ = kernel.failed;                                                              \
            hr_ = (call);                                                                                    \
            if (hr_ == S_OK)                                                                                 \
                break;                                                                                       \
            if (!plausible(hr_) || before_ == kernel.failed)                                                 \
                fail_msg("%s: 0x%08x, request 0x%lx failed with %d", #call, (unsigned)hr_, kernel.request,   \
                         kernel.error);                                                                      \
        }                                                                                                    \
        assert_ok(hr_);                                                                                      \
    } while (0)

static HRESULT set32(WHV_PARTITION_HANDLE p, WHV_PARTITION_PROPERTY_CODE code, UINT32 value)
{
    return WHvSetPartitionProperty(p, code, &value, sizeof(value));
}

// A run whose call to the kernel fails may end with an exit for memory that the kernel could not reach, and with an error;
// the next one gets on.
static WHV_RUN_VP_EXIT_CONTEXT run_to(WHV_PARTITION_HANDLE p, WHV_RUN_VP_EXIT_REASON reason)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    for (int try = 0; try < TRIES; try++) {
        const bool before = kernel.failed;
        HRESULT hr = WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit));

        if (hr == S_OK && exit.ExitReason == reason)
            return exit;
        if (before == kernel.failed || !plausible(hr) ||
            (hr == S_OK && exit.ExitReason != WHvRunVpExitReasonMemoryAccess))
            fail_msg("run: 0x%08x, exit 0x%x at 0x%llx, request 0x%lx failed with %d", (unsigned)hr,
                     hr == S_OK ? exit.ExitReason : 0, hr == S_OK ? (unsigned long long)exit.VpContext.Rip : 0,
                     kernel.request, kernel.error);
    }
    fail_msg("no exit 0x%x", reason);
    return exit;
}

static HRESULT set(WHV_PARTITION_HANDLE p, WHV_REGISTER_NAME name, UINT64 value)
{
    WHV_REGISTER_VALUE v;

    memset(&v, 0, sizeof(v));
    v.Reg64 = value;
    return WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &v);
}

static HRESULT start(WHV_PARTITION_HANDLE p)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip, WHvX64RegisterRsp,
                                              WHvX64RegisterXmm0, WHvX64RegisterPat, WHvX64RegisterDr0};
    WHV_REGISTER_VALUE values[6];

    memset(values, 0, sizeof(values));
    values[0].Segment.Limit = 0xFFFF;
    values[0].Segment.Attributes = 0x9B;
    values[1].Reg64 = CODE;
    values[2].Reg64 = 0x8000;
    values[3].Reg64 = 0x1234;
    values[4].Reg64 = 0x0007040600070406;
    values[5].Reg64 = 0x5678;
    return WHvSetVirtualProcessorRegisters(p, 0, names, 6, values);
}

static HRESULT read_all(WHV_PARTITION_HANDLE p)
{
    static const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterRax, WHvX64RegisterCs,   WHvX64RegisterCr0,  WHvX64RegisterXmm0,
        WHvX64RegisterDr0, WHvX64RegisterXCr0, WHvX64RegisterPat, WHvRegisterPendingInterruption,
        WHvX64RegisterTsc,
    };
    WHV_REGISTER_VALUE values[9];

    return WHvGetVirtualProcessorRegisters(p, 0, names, 9, values);
}

static void run_processor(WHV_PARTITION_HANDLE p, bool apic)
{
    static const uint8_t code[] = {
        0xE6, 0x10,                     // out 0x10, al
        0xE4, 0x11,                     // in al, 0x11
        0xA0, 0x00, 0xC0,               // mov al, [0xC000], where nothing is
        0xFE, 0x06, 0x00, 0xC0,         // inc byte [0xC000]
        0x0F, 0xA2,                     // cpuid
        0xE6, 0x12,                     // out 0x12, al
        0xEB, 0xFE,                     // jmp here
    };
    WHV_TRANSLATE_GVA_RESULT result;
    WHV_GUEST_PHYSICAL_ADDRESS gpa;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    memcpy(memory + CODE, code, sizeof(code));
    AGAIN(start(p));
    run_to(p, WHvRunVpExitReasonX64IoPortAccess);
    AGAIN(set(p, WHvX64RegisterRip, CODE + 2));
    run_to(p, WHvRunVpExitReasonX64IoPortAccess);
    AGAIN(set(p, WHvX64RegisterRax, 0x77));
    AGAIN(set(p, WHvX64RegisterRip, CODE + 4));
    exit = run_to(p, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.VpContext.Rip, CODE + 4);
    AGAIN(set(p, WHvX64RegisterRip, CODE + 7));
    exit = run_to(p, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.VpContext.Rip, CODE + 7);
    AGAIN(WHvMapGpaRange(p, extra, HOLE, PAGE, WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite));
    exit = run_to(p, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(exit.IoPortAccess.PortNumber, 0x12);
    AGAIN(read_all(p));
    AGAIN(WHvTranslateGva(p, 0, 0x2345, WHvTranslateGvaFlagValidateRead, &result, &gpa));
    if (!apic) {
        AGAIN(set(p, WHvX64RegisterDeliverabilityNotifications, 1));
        AGAIN(set(p, WHvX64RegisterRip, CODE + 15));
    }
    AGAIN(WHvCancelRunVirtualProcessor(p, 0, 0));
    run_to(p, WHvRunVpExitReasonCanceled);
}

static void use_apic(WHV_PARTITION_HANDLE p)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterLstar, WHvX64RegisterApicLvtThermal,
                                              WHvRegisterInternalActivityState};
    static uint8_t page[PAGE] __attribute__((aligned(16)));
    WHV_REGISTER_VALUE values[3];
    WHV_INTERRUPT_CONTROL interrupt;

    AGAIN(WHvGetVirtualProcessorInterruptControllerState2(p, 0, page, sizeof(page), NULL));
    page[0xF1] = 1;                     // enabled by software
    AGAIN(WHvSetVirtualProcessorInterruptControllerState2(p, 0, page, sizeof(page)));
    memset(&interrupt, 0, sizeof(interrupt));
    interrupt.Vector = 0x40;
    AGAIN(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
    interrupt.TriggerMode = WHvX64InterruptTriggerModeLevel;
    AGAIN(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
    // An APIC's register, and MSRs and the activity with it.
    memset(values, 0, sizeof(values));
    values[0].Reg64 = 0x1234;
    values[1].Reg64 = 0x10020;
    AGAIN(WHvSetVirtualProcessorRegisters(p, 0, names, 3, values));
    AGAIN(WHvGetVirtualProcessorRegisters(p, 0, names, 3, values));
    assert_int_equal(values[0].Reg64, 0x1234);
    assert_int_equal(values[1].Reg64, 0x10020);
}

// An exit may have been told more than once, where the run that told it has failed behind that.
static void read_counters(WHV_PARTITION_HANDLE p, UINT64 ports)
{
    WHV_PROCESSOR_INTERCEPT_COUNTERS counters;
    WHV_PARTITION_MEMORY_COUNTERS pages;

    AGAIN(WHvGetVirtualProcessorCounters(p, 0, WHvProcessorCounterSetIntercepts, &counters, sizeof(counters), NULL));
    assert_in_range(counters.IoInstructions.Count, ports, ports + TRIES);
    AGAIN(WHvGetPartitionCounters(p, WHvPartitionCounterSetMemory, &pages, sizeof(pages), NULL));
    assert_true(pages.Mapped4KPageCount + pages.Mapped2MPageCount > 0);
}

// Exits for MSRs on and off again. A change that fails leaves the property as it was.
static void change_exits(WHV_PARTITION_HANDLE p)
{
    for (UINT64 on = 1; on <= 1; on--) {
        WHV_EXTENDED_VM_EXITS wanted = {.X64MsrExit = on}, now;
        HRESULT hr;

        for (int try = 0; try < TRIES; try++) {
            hr = WHvSetPartitionProperty(p, WHvPartitionPropertyCodeExtendedVmExits, &wanted, sizeof(wanted));
            assert_true(plausible(hr));
            assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeExtendedVmExits, &now, sizeof(now), NULL));
            assert_int_equal(now.X64MsrExit, hr == S_OK ? on : !on);
            if (hr == S_OK)
                break;
        }
        assert_ok(hr);
    }
}

static void live(bool apic)
{
    const WHV_MAP_GPA_RANGE_FLAGS all =
        WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;
    UINT64 bitmap;

    AGAIN(WHvCreatePartition(&p));
    AGAIN(set32(p, WHvPartitionPropertyCodeProcessorCount, 2));
    if (apic)
        AGAIN(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeX2Apic));
    AGAIN(WHvSetupPartition(p));
    AGAIN(WHvMapGpaRange(p, memory, 0, sizeof(memory), all));
    AGAIN(WHvMapGpaRange(p, extra, 0x100000, sizeof(extra), all | WHvMapGpaRangeFlagTrackDirtyPages));
    AGAIN(WHvCreateVirtualProcessor(p, 0, 0));
    AGAIN(WHvCreateVirtualProcessor(p, 1, 0));
    // A hole, out of the middle of one range; then another page over a part of the other.
    AGAIN(WHvUnmapGpaRange(p, HOLE, PAGE));
    AGAIN(WHvMapGpaRange(p, memory, 0x101000, PAGE, WHvMapGpaRangeFlagRead));
    if (apic)
        use_apic(p);
    run_processor(p, apic);
    AGAIN(WHvQueryGpaRangeDirtyBitmap(p, 0x102000, PAGE, &bitmap, sizeof(bitmap)));
    read_counters(p, 3);
    change_exits(p);
    AGAIN(WHvDeleteVirtualProcessor(p, 1));
    // What the deleted one leaves is put in order, at this call or the next.
    AGAIN(WHvDeleteVirtualProcessor(p, 0));
    AGAIN(WHvCreateVirtualProcessor(p, 0, 0));
    AGAIN(start(p));
    exit = run_to(p, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(exit.IoPortAccess.PortNumber, 0x10);
    assert_int_equal(exit.VpContext.Rip, CODE);
    read_counters(p, 1);
    AGAIN(WHvDeletePartition(p));
}

// ---- Tests -----------------------------------------------------------------------------------------------

static unsigned count_lines(const char *path, bool directory)
{
    unsigned count = 0;

    if (directory) {
        DIR *d = opendir(path);

        assert_non_null(d);
        while (readdir(d))
            count++;
        closedir(d);
    } else {
        FILE *f = fopen(path, "re");

        assert_non_null(f);
        for (int c; (c = getc(f)) != EOF;)
            count += c == '\n';
        fclose(f);
    }
    return count;
}

static void fail_each(bool apic, int error)
{
    const unsigned open = count_lines("/proc/self/fd", true);
    unsigned n;

    for (n = 1; n < LIVES_LIMIT; n++) {
        kernel.calls = 0;
        kernel.fails = n;
        kernel.error = error;
        kernel.failed = false;
        live(apic);
        if (!kernel.failed)
            break;
        if (count_lines("/proc/self/fd", true) != open)
            fail_msg("a descriptor is left after call %u, request 0x%lx, failed with %d", n, kernel.request, error);
    }
    kernel.fails = 0;
    assert_in_range(n, 20, LIVES_LIMIT - 1);
    print_message("%u calls to the kernel in a life\n", n - 1);
}

static void test_every_call(void **state)
{
    static const int errors[] = {ENOMEM, EIO, EFAULT, EINTR, EPERM};
    unsigned mapped;

    (void)state;
    live(false);
    live(true);
    mapped = count_lines("/proc/self/maps", false);
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
        for (int apic = 0; apic < 2; apic++) {
            print_message("error %d, %s APIC\n", errors[i], apic ? "with an" : "without");
            fail_each(apic, errors[i]);
        }
    assert_in_range(count_lines("/proc/self/maps", false), 1, mapped + 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_call)};
    struct engine_status status;

    setenv("BULKHEAD_ENGINE", "kvm", 1);
    engine_kvm.probe(&status);
    if (!status.usable) {
        printf("skipped: %s\n", status.text);
        return NOT_USABLE;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
