// Model-specific registers: which accesses exit, and those that a processor's view keeps.
#include "engine/kvm/msr.h"

#include <errno.h>
#include <stdatomic.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/ioctl.h"
#include "x86/cpu.h"

enum { MSR_TSC = 0x10, MSR_APIC_BASE = 0x1b, MSR_PATCH_LEVEL = 0x8b, MSR_HYPERV = 0x40000000 };
#define HYPERV_MSRS 0x200u          // up to HV_X64_MSR_TSC_INVARIANT_CONTROL (TLFS appendix D)

// ---- Exits -------------------------------------------------------------------------------------------------------

static void deny(struct kvm_msr_filter *filter, unsigned *count, bool wanted, uint32_t base, uint32_t msrs,
                 uint32_t accesses)
{
    static __u8 none[HYPERV_MSRS / 8];      // a 0 denies the access

    if (wanted)
        filter->ranges[(*count)++] = (struct kvm_msr_filter_range){
            .flags = accesses, .nmsrs = msrs, .base = base, .bitmap = none,
        };
}

// Whether the partition's CPUID results show what may be Hyper-V's interface (TLFS 2.4): KVM serves its MSRs
// then, also those that end a machine.
static bool shows_hypervisor(const struct property_values *p)
{
    for (UINT32 n = 0; n < p->cpuid_result_count; n++)
        if (p->cpuid_result_list[n].Function >> 8 == MSR_HYPERV >> 8)
            return true;
    for (UINT32 n = 0; n < p->cpuid_result2_count; n++)
        if (p->cpuid_result2_list[n].Function >> 8 == MSR_HYPERV >> 8)
            return true;
    return false;
}

bool kvm_msr_exits_wanted(const struct property_values *properties)
{
    return properties->extended_vm_exits.X64MsrExit || shows_hypervisor(properties);
}

// What KVM would answer by itself and is to exit for, or to raise #GP for: the listed MSRs, and Hyper-V's.
CHECKED static int set_filter(int vm, const struct property_values *p)
{
    struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };
    bool on = p->extended_vm_exits.X64MsrExit;
    unsigned n = 0;

    deny(&filter, &n, on && p->msr_exit_bitmap.TscMsrRead, MSR_TSC, 1, KVM_MSR_FILTER_READ);
    deny(&filter, &n, on && p->msr_exit_bitmap.TscMsrWrite, MSR_TSC, 1, KVM_MSR_FILTER_WRITE);
    deny(&filter, &n, on && p->msr_exit_bitmap.ApicBaseMsrWrite, MSR_APIC_BASE, 1, KVM_MSR_FILTER_WRITE);
    deny(&filter, &n, on && p->msr_exit_bitmap.McUpdatePatchLevelMsrRead, MSR_PATCH_LEVEL, 1, KVM_MSR_FILTER_READ);
    deny(&filter, &n, on || shows_hypervisor(p), MSR_HYPERV, HYPERV_MSRS, KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE);
    return kvm_ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter);
}

// UNKNOWN: no such MSR. INVAL: one that this processor lacks, or a value that it refuses. FILTER: denied
// above. Without the reason the access raises #GP.
CHECKED static int set_reasons(int vm, bool on)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR };

    if (on)
        cap.args[0] = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_FILTER;
    return kvm_ioctl(vm, KVM_ENABLE_CAP, &cap);
}

HRESULT kvm_msr_exits(int vm, const struct property_values *properties)
{
    bool on = properties->extended_vm_exits.X64MsrExit;
    int answer;

    // Processors may run: an access that the filter denies must never meet a time without its reason.
    if (on) {
        answer = set_reasons(vm, true);
        if (answer >= 0)
            answer = set_filter(vm, properties);
    } else {
        answer = set_filter(vm, properties);
        if (answer >= 0)
            answer = set_reasons(vm, false);
    }
    return kvm_hresult(answer);
}

// ---- The view's registers ----------------------------------------------------------------------------------------

struct row { uint32_t msr; uint16_t offset; bool read_only; };
#define ROW(msr_, member) { msr_, offsetof(struct x86_cpu, member), false }
#define PAIR(n) ROW(0x200 + 2 * (n), mtrr_phys[2 * (n)]), ROW(0x201 + 2 * (n), mtrr_phys[2 * (n) + 1])
static const struct row rows[] = {
    ROW(0x174, sysenter_cs), ROW(0x175, sysenter_esp), ROW(0x176, sysenter_eip),
    ROW(0xc0000081, star), ROW(0xc0000082, lstar), ROW(0xc0000083, cstar), ROW(0xc0000084, sfmask),
    ROW(0xc0000102, kernel_gs_base), ROW(0xc0000103, tsc_aux), ROW(0x277, pat), ROW(0x1a0, misc_enable),
    { 0xfe, offsetof(struct x86_cpu, mtrr_cap), true },
    ROW(0x2ff, mtrr_def_type), PAIR(0), PAIR(1), PAIR(2), PAIR(3), PAIR(4), PAIR(5), PAIR(6), PAIR(7),
    ROW(0x250, mtrr_fixed[0]), ROW(0x258, mtrr_fixed[1]), ROW(0x259, mtrr_fixed[2]),
    ROW(0x268, mtrr_fixed[3]), ROW(0x269, mtrr_fixed[4]), ROW(0x26a, mtrr_fixed[5]), ROW(0x26b, mtrr_fixed[6]),
    ROW(0x26c, mtrr_fixed[7]), ROW(0x26d, mtrr_fixed[8]), ROW(0x26e, mtrr_fixed[9]), ROW(0x26f, mtrr_fixed[10]),
};
#define ROWS (sizeof rows / sizeof *rows)
_Static_assert(ROWS <= 64, "a row is a bit of a 64-bit set");
#define ALL_ROWS ((1ull << ROWS) - 1)

// struct kvm_msrs with room for all rows.
struct list { __u32 count, pad; struct kvm_msr_entry entries[ROWS]; };
_Static_assert(offsetof(struct list, entries) == offsetof(struct kvm_msrs, entries), "the kernel's layout");

// Rows that this kernel does not have; found by the first read of the process.
static _Atomic uint64_t absent_rows;

static uint64_t *field(const struct x86_cpu *cpu, unsigned row)
{
    return (uint64_t *)((char *)cpu + rows[row].offset);
}

static void fill(struct list *list, uint64_t set)
{
    list->count = list->pad = 0;
    for (unsigned n = 0; n < ROWS; n++)
        if (set >> n & 1)
            list->entries[list->count++] = (struct kvm_msr_entry){ .index = rows[n].msr };
}

// Read the rows of `*set`, and take from it those that are absent. KVM stops at the first MSR that it cannot
// read and answers how many came before it (Documentation/virt/kvm/api.rst 4.18).
CHECKED static int fetch(int fd, uint64_t *set, struct list *list)
{
    for (;;) {
        *set &= ~atomic_load_explicit(&absent_rows, memory_order_relaxed);
        fill(list, *set);
        int answer = kvm_ioctl(fd, KVM_GET_MSRS, list);
        if (answer < 0 || (uint32_t)answer == list->count)
            return answer;
        for (unsigned n = 0; n < ROWS; n++)
            if (rows[n].msr == list->entries[answer].index)
                atomic_fetch_or_explicit(&absent_rows, 1ull << n, memory_order_relaxed);
    }
}

HRESULT kvm_msr_fetch(int fd, struct x86_cpu *cpu)
{
    struct list list;
    uint64_t set = ALL_ROWS;
    int answer = fetch(fd, &set, &list);

    if (answer < 0)
        return kvm_hresult(answer);
    for (unsigned n = 0, entry = 0; n < ROWS; n++)
        if (set >> n & 1)
            *field(cpu, n) = list.entries[entry++].data;
    return S_OK;
}

// Write a list. What KVM has taken before it refused one is put back from `old`, a list of the same MSRs.
CHECKED static HRESULT store(int fd, struct list *list, struct list *old)
{
    int answer = kvm_ioctl(fd, KVM_SET_MSRS, list);

    if (answer < 0)
        return kvm_hresult(answer);
    if ((uint32_t)answer == list->count)
        return S_OK;
    old->count = (uint32_t)answer;
    if (answer) {
        answer = kvm_ioctl(fd, KVM_SET_MSRS, old);
        if (answer < 0 || (uint32_t)answer != old->count)
            return E_FAIL;
    }
    return E_INVALIDARG;
}

HRESULT kvm_msr_store(int fd, const struct x86_cpu *cpu, const struct x86_cpu *before)
{
    struct list list, old;
    uint64_t set = 0;
    int answer;

    for (unsigned n = 0; n < ROWS; n++)
        if (!rows[n].read_only && (!before || *field(cpu, n) != *field(before, n)))
            set |= 1ull << n;
    if (!set)
        return S_OK;
    if (!before) {
        answer = fetch(fd, &set, &old);     // what to go back to
        if (answer < 0)
            return kvm_hresult(answer);
    } else if (set & atomic_load_explicit(&absent_rows, memory_order_relaxed)) {
        return E_INVALIDARG;
    }
    fill(&list, set);
    if (before)
        old = list;
    for (unsigned n = 0, entry = 0; n < ROWS; n++) {
        if (!(set >> n & 1))
            continue;
        list.entries[entry].data = *field(cpu, n);
        if (before)
            old.entries[entry].data = *field(before, n);
        entry++;
    }
    return store(fd, &list, &old);
}

CHECKED static HRESULT one(int fd, unsigned long request, struct list *list)
{
    int answer = kvm_ioctl(fd, request, list);

    return answer < 0 ? kvm_hresult(answer) : answer == 1 ? S_OK : E_INVALIDARG;
}

HRESULT kvm_msr_get(int fd, uint32_t msr, uint64_t *value)
{
    struct list list = { .count = 1, .entries[0].index = msr };
    HRESULT hr = one(fd, KVM_GET_MSRS, &list);

    if (SUCCEEDED(hr))
        *value = list.entries[0].data;
    return hr;
}

HRESULT kvm_msr_set(int fd, uint32_t msr, uint64_t value)
{
    struct list list = { .count = 1, .entries[0] = { .index = msr, .data = value } };

    return one(fd, KVM_SET_MSRS, &list);
}
