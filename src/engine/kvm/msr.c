// Model-specific registers: which accesses exit, and those that a processor's view keeps.
#include "engine/kvm/msr.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/ioctl.h"
#include "x86/cpu.h"

enum { MSR_TSC = 0x10, MSR_APIC_BASE = 0x1b, MSR_TSC_ADJUST = 0x3b, MSR_PATCH_LEVEL = 0x8b, MSR_MISC_ENABLE = 0x1a0,
       MSR_TSC_DEADLINE = 0x6e0 };

// ---- Exits -------------------------------------------------------------------------------------------------------

static void deny(struct kvm_msr_filter *filter, unsigned *count, bool wanted, uint32_t base, uint32_t msrs,
                 uint32_t accesses)
{
    static __u8 none[KVM_MSR_HYPERV_COUNT / 8];      // a 0 denies the access

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
        if (p->cpuid_result_list[n].Function >> 8 == KVM_MSR_HYPERV >> 8)
            return true;
    for (UINT32 n = 0; n < p->cpuid_result2_count; n++)
        if (p->cpuid_result2_list[n].Function >> 8 == KVM_MSR_HYPERV >> 8)
            return true;
    return false;
}

// Whether accesses shall come to the engine at all.
static bool told(const struct property_values *p, const struct msr_actions *actions)
{
    return p->extended_vm_exits.X64MsrExit || msr_actions_any(actions);
}

bool kvm_msr_hidden(const struct kvm_msr_rules *rules, uint32_t msr)
{
    return kvm_msr_is_hyperv(msr) || (msr == MSR_TSC_DEADLINE && rules->hide_tsc_deadline) ||
           (msr == MSR_TSC_ADJUST && rules->hide_tsc_adjust);
}

bool kvm_msr_exits_can_wait(const struct property_values *properties, const struct kvm_msr_rules *rules)
{
    return !told(properties, &rules->actions);
}

bool kvm_msr_exits_wanted(const struct property_values *properties, const struct kvm_msr_rules *rules)
{
    return told(properties, &rules->actions) || shows_hypervisor(properties) || rules->hide_tsc_deadline ||
           rules->hide_tsc_adjust;
}

// Ranges of the filter that set_filter has for other things than the partition's list, and what is left for that.
#define OWN_RANGES 8u
#define LIST_RANGES (KVM_MSR_FILTER_MAX_RANGES - OWN_RANGES)
#define RANGE_MSRS (8u * KVM_MSR_FILTER_MAX_BITMAP_SIZE)
typedef __u8 range_bitmap[KVM_MSR_FILTER_MAX_BITMAP_SIZE];

// Deny what entries that lie close together decide about reads, or about writes, in one more range. False: nothing.
static bool mark(const WHV_MSR_ACTION_ENTRY *entries, size_t count, bool write, struct kvm_msr_filter_range *range,
                 range_bitmap bitmap)
{
    bool any = false;

    memset(bitmap, 0xff, sizeof(range_bitmap));
    *range = (struct kvm_msr_filter_range){
        .flags = write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ, .base = entries[0].Index,
        .nmsrs = entries[count - 1].Index - entries[0].Index + 1, .bitmap = bitmap,
    };
    for (size_t n = 0; n < count; n++) {
        uint32_t place = entries[n].Index - range->base;

        if ((write ? entries[n].WriteAction : entries[n].ReadAction) == WHvMsrActionArchitectureDefault)
            continue;
        bitmap[place / 8] &= (__u8)~(1u << place % 8);
        any = true;
    }
    return any;
}

// The list as ranges. False: there are not enough of them.
CHECKED static bool deny_listed(const struct msr_actions *actions, struct kvm_msr_filter_range ranges[LIST_RANGES],
                                range_bitmap bitmaps[LIST_RANGES])
{
    unsigned used = 0;

    for (size_t first = 0, end; first < actions->count; first = end) {
        const WHV_MSR_ACTION_ENTRY *entries = &actions->entries[first];
        unsigned before = used;

        for (end = first; end < actions->count && actions->entries[end].Index - entries->Index < RANGE_MSRS;)
            end++;
        for (int write = 0; write < 2; write++) {
            struct kvm_msr_filter_range range;
            range_bitmap bitmap;

            if (!mark(entries, end - first, write, &range, bitmap))
                continue;
            if (used > before && !memcmp(bitmap, bitmaps[before], sizeof bitmap)) {
                ranges[before].flags |= range.flags;
                continue;
            }
            if (used == LIST_RANGES)
                return false;
            memcpy(bitmaps[used], bitmap, sizeof bitmap);
            range.bitmap = bitmaps[used];
            ranges[used++] = range;
        }
    }
    return true;
}

// What KVM serves without a look at the filter: the x2APIC's registers, and on Intel's processors writes of the
// deadline (arch/x86/kvm/x86.c, kvm_msr_allowed and the fast path of WRMSR).
static bool passes_filter(const struct property_values *p, const WHV_MSR_ACTION_ENTRY *entry)
{
    bool read = entry->ReadAction != WHvMsrActionArchitectureDefault;
    bool write = entry->WriteAction != WHvMsrActionArchitectureDefault;

    return ((read || write) && kvm_msr_is_x2apic(entry->Index) && p->apic_mode == WHvX64LocalApicEmulationModeX2Apic) ||
           (write && entry->Index == MSR_TSC_DEADLINE);
}

static bool any_passes_filter(const struct property_values *p, const struct msr_actions *actions)
{
    for (size_t n = 0; n < actions->count; n++)
        if (passes_filter(p, &actions->entries[n]))
            return true;
    return false;
}

// What KVM would answer by itself and is to exit for, or to raise #GP for: the listed MSRs, and hidden ones.
CHECKED static HRESULT set_filter(int vm, const struct property_values *p, const struct kvm_msr_rules *rules)
{
    const struct msr_actions *actions = &rules->actions;
    struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };
    range_bitmap bitmaps[LIST_RANGES];
    bool on = p->extended_vm_exits.X64MsrExit;
    unsigned n = 0;

    deny(&filter, &n, on && p->msr_exit_bitmap.TscMsrRead, MSR_TSC, 1, KVM_MSR_FILTER_READ);
    deny(&filter, &n, on && p->msr_exit_bitmap.TscMsrWrite, MSR_TSC, 1, KVM_MSR_FILTER_WRITE);
    deny(&filter, &n, on && p->msr_exit_bitmap.ApicBaseMsrWrite, MSR_APIC_BASE, 1, KVM_MSR_FILTER_WRITE);
    deny(&filter, &n, on && p->msr_exit_bitmap.MiscEnableMsrRead, MSR_MISC_ENABLE, 1, KVM_MSR_FILTER_READ);
    deny(&filter, &n, on && p->msr_exit_bitmap.McUpdatePatchLevelMsrRead, MSR_PATCH_LEVEL, 1, KVM_MSR_FILTER_READ);
    deny(&filter, &n, rules->hide_tsc_adjust, MSR_TSC_ADJUST, 1, KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE);
    deny(&filter, &n, rules->hide_tsc_deadline, MSR_TSC_DEADLINE, 1, KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE);
    deny(&filter, &n, told(p, actions) || shows_hypervisor(p), KVM_MSR_HYPERV, KVM_MSR_HYPERV_COUNT,
         KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE);
    if (any_passes_filter(p, actions) || !deny_listed(actions, &filter.ranges[n], bitmaps))
        return WHV_E_INVALID_PARTITION_CONFIG;
    return kvm_hresult(kvm_ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter));
}

// UNKNOWN: no such MSR. INVAL: one that this processor lacks, or a value that it refuses. FILTER: denied
// above. Without the reason the access raises #GP.
CHECKED static HRESULT set_reasons(int vm, bool on)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR };

    if (on)
        cap.args[0] = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_FILTER;
    return kvm_hresult(kvm_ioctl(vm, KVM_ENABLE_CAP, &cap));
}

HRESULT kvm_msr_exits(int vm, const struct property_values *properties, const struct kvm_msr_rules *rules)
{
    HRESULT hr;

    // Processors may run: an access that the filter denies must never meet a time without its reason.
    if (told(properties, &rules->actions)) {
        hr = set_reasons(vm, true);
        if (SUCCEEDED(hr))
            hr = set_filter(vm, properties, rules);
    } else {
        hr = set_filter(vm, properties, rules);
        if (SUCCEEDED(hr))
            hr = set_reasons(vm, false);
    }
    return hr;
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
