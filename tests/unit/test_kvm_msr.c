// Unit tests of the kvm engine's MSRs with a kernel that is made up: the filter for each choice of exits and in which
// order it comes, and a processor's registers in one call each, whatever is absent or refused.
#include "unit.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/msr.h"
#include "x86/cpu.h"

#define VM 100
#define PROCESSOR 200

// ---- The kernel --------------------------------------------------------------------------------------------------

static struct {
    // The partition. `unreasoned`: there was a moment in which the filter denied something and no reason let it exit.
    unsigned filters, caps;
    struct kvm_msr_filter filter;
    uint8_t bitmaps[KVM_MSR_FILTER_MAX_RANGES][KVM_MSR_FILTER_MAX_BITMAP_SIZE];
    uint64_t reasons;
    bool unreasoned;
    int filter_answer, cap_answer;
    // The processor.
    uint64_t value[0x300], high[0x200];     // by number, from 0 and from 0xc0000000
    uint32_t absent[4], refused;            // 0: none
    unsigned reads, writes;
    int answer;                             // minus an errno for every read and write
} kernel;

static uint64_t *value_of(uint32_t msr)
{
    if (msr >= 0xc0000000 && msr - 0xc0000000 < 0x200)
        return &kernel.high[msr - 0xc0000000];
    assert_true(msr < 0x300);
    return &kernel.value[msr];
}

static bool absent(uint32_t msr)
{
    for (unsigned n = 0; n < 4; n++)
        if (kernel.absent[n] && kernel.absent[n] == msr)
            return true;
    return false;
}

static int answer_vm(unsigned long request, void *argument)
{
    bool denies = false;

    if (request == KVM_ENABLE_CAP) {
        const struct kvm_enable_cap *cap = argument;
        kernel.caps++;
        if (kernel.cap_answer)
            return kernel.cap_answer;
        assert_int_equal(cap->cap, KVM_CAP_X86_USER_SPACE_MSR);
        kernel.reasons = cap->args[0];
    } else {
        assert_int_equal(request, KVM_X86_SET_MSR_FILTER);
        kernel.filters++;
        if (kernel.filter_answer)
            return kernel.filter_answer;
        kernel.filter = *(struct kvm_msr_filter *)argument;
        for (unsigned n = 0; n < KVM_MSR_FILTER_MAX_RANGES; n++) {
            struct kvm_msr_filter_range *r = &kernel.filter.ranges[n];
            if (!r->nmsrs)
                continue;
            assert_true(r->nmsrs <= 8 * KVM_MSR_FILTER_MAX_BITMAP_SIZE && r->flags);
            memcpy(kernel.bitmaps[n], r->bitmap, (r->nmsrs + 63) / 64 * 8);     // what KVM copies
            r->bitmap = kernel.bitmaps[n];
        }
    }
    for (unsigned n = 0; n < KVM_MSR_FILTER_MAX_RANGES; n++)
        denies |= kernel.filter.ranges[n].nmsrs != 0;
    kernel.unreasoned |= denies && !(kernel.reasons & KVM_MSR_EXIT_REASON_FILTER);
    return 0;
}

static int answer_processor(unsigned long request, void *argument)
{
    struct kvm_msrs *list = argument;

    assert_true(request == KVM_GET_MSRS || request == KVM_SET_MSRS);
    request == KVM_GET_MSRS ? kernel.reads++ : kernel.writes++;
    if (kernel.answer)
        return kernel.answer;
    for (unsigned n = 0; n < list->nmsrs; n++) {
        struct kvm_msr_entry *e = &list->entries[n];
        if (absent(e->index))
            return (int)n;
        if (request == KVM_GET_MSRS) {
            e->data = *value_of(e->index);
        } else {
            if (e->index == 0xfe || (e->index == kernel.refused && e->data == 0xbad))
                return (int)n;
            *value_of(e->index) = e->data;
        }
    }
    return (int)list->nmsrs;
}

int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument);
int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument)
{
    return fd == VM ? answer_vm(request, argument) : answer_processor(request, argument);
}

int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    fail_msg("request %lx of %d, %lx", request, fd, value);
    return -ENOTTY;
}

// Whether the filter denies an access (arch/x86/kvm/x86.c, kvm_msr_allowed: the first range that fits decides).
static bool denied(uint32_t msr, uint32_t access)
{
    for (unsigned n = 0; n < KVM_MSR_FILTER_MAX_RANGES; n++) {
        const struct kvm_msr_filter_range *r = &kernel.filter.ranges[n];
        uint32_t place = msr - r->base;
        if (r->nmsrs && msr >= r->base && place < r->nmsrs && (r->flags & access))
            return !(r->bitmap[place / 8] >> place % 8 & 1);
    }
    return kernel.filter.flags & KVM_MSR_FILTER_DEFAULT_DENY;
}

static struct x86_cpu *cpu, *before;
static const struct kvm_msr_rules none;

static int setup(void **state)
{
    (void)state;
    memset(&kernel, 0, sizeof kernel);
    for (unsigned n = 0; n < 0x300; n++)
        kernel.value[n] = 0x1000 + n;
    for (unsigned n = 0; n < 0x200; n++)
        kernel.high[n] = 0x5000 + n;
    memset(cpu, 0, sizeof *cpu);
    memset(before, 0, sizeof *before);
    return 0;
}

// ---- Tests -------------------------------------------------------------------------------------------------------

static void test_exits(void **state)
{
    enum { READ = KVM_MSR_FILTER_READ, WRITE = KVM_MSR_FILTER_WRITE };
    struct property_values p = { .processor_count = 1 };

    (void)state;
    // Every choice after every other one would take long; forwards and backwards they meet in many orders.
    for (unsigned step = 0; step < 256; step++) {
        unsigned choice = step < 128 ? step : step * 37 % 128;
        bool on = choice & 1;
        p.extended_vm_exits.X64MsrExit = on;
        p.msr_exit_bitmap.TscMsrWrite = choice >> 1 & 1;
        p.msr_exit_bitmap.TscMsrRead = choice >> 2 & 1;
        p.msr_exit_bitmap.ApicBaseMsrWrite = choice >> 3 & 1;
        p.msr_exit_bitmap.McUpdatePatchLevelMsrRead = choice >> 4 & 1;
        p.msr_exit_bitmap.UnhandledMsrs = choice >> 5 & 1;
        p.msr_exit_bitmap.MiscEnableMsrRead = choice >> 6 & 1;
        assert_ok(kvm_msr_exits(VM, &p, &none));
        assert_int_equal(kernel.reasons, on ? KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL |
                                              KVM_MSR_EXIT_REASON_FILTER : 0);
        assert_int_equal(kernel.filter.flags, KVM_MSR_FILTER_DEFAULT_ALLOW);
        assert_int_equal(denied(0x10, READ), on && p.msr_exit_bitmap.TscMsrRead);
        assert_int_equal(denied(0x10, WRITE), on && p.msr_exit_bitmap.TscMsrWrite);
        assert_int_equal(denied(0x1b, WRITE), on && p.msr_exit_bitmap.ApicBaseMsrWrite);
        assert_int_equal(denied(0x8b, READ), on && p.msr_exit_bitmap.McUpdatePatchLevelMsrRead);
        assert_int_equal(denied(0x1a0, READ), on && p.msr_exit_bitmap.MiscEnableMsrRead);
        assert_false(denied(0x1a0, WRITE) || denied(0x1b, READ) || denied(0x8b, WRITE) || denied(0x11, READ) || denied(0xf, WRITE) ||
                     denied(0xc0000080, READ) || denied(0x6e0, WRITE));
        assert_int_equal(denied(0x40000000, WRITE), on);
        assert_int_equal(denied(0x40000118, READ), on);
        assert_false(denied(0x40000200, READ) || denied(0x3fffffff, READ));
        assert_false(kernel.unreasoned);
    }
    assert_int_equal(kernel.filters, 256);
    assert_int_equal(kernel.caps, 256);
    // A partition that shows a hypervisor's leaves keeps the guest from KVM's implementation of its MSRs, exits or not.
    WHV_X64_CPUID_RESULT leaf = { .Function = 0x40000001 };
    p.extended_vm_exits.X64MsrExit = 0;
    assert_false(kvm_msr_exits_wanted(&p, &none));
    p.cpuid_result_list = &leaf;
    p.cpuid_result_count = 1;
    assert_true(kvm_msr_exits_wanted(&p, &none));
    assert_ok(kvm_msr_exits(VM, &p, &none));
    assert_true(denied(0x40000003, WRITE) && denied(0x40000000, READ));
    assert_false(denied(0x10, READ) || denied(0x10, WRITE));
    assert_int_equal(kernel.reasons, 0);
    leaf.Function = 1;
    assert_false(kvm_msr_exits_wanted(&p, &none));
    kernel.filter_answer = -ENOMEM;
    assert_hr(kvm_msr_exits(VM, &p, &none), E_OUTOFMEMORY);
    kernel.filter_answer = 0;
    kernel.cap_answer = -EINVAL;
    assert_hr(kvm_msr_exits(VM, &p, &none), E_FAIL);
}

// Numbers from the manuals: SDM vol. 4, APM vol. 2 appendix A.
static struct kvm_msr_rules rules_of(WHV_MSR_ACTION_ENTRY *list, UINT32 count, WHV_MSR_ACTION unimplemented)
{
    const struct property_values p = { .msr_action_list = list, .msr_action_count = count,
                                       .unimplemented_msr_action = unimplemented };
    struct kvm_msr_rules rules = { .hide_tsc_deadline = true, .hide_tsc_adjust = true };

    assert_ok(msr_actions_init(&rules.actions, &p));
    return rules;
}

// Registers that KVM would serve without their features.
static void test_hidden(void **state)
{
    static const struct { uint32_t msr; struct kvm_msr_rules rules; } cases[] = {
        { 0x6e0, { .hide_tsc_deadline = true } }, { 0x3b, { .hide_tsc_adjust = true } },
    };
    struct property_values p = { .processor_count = 1 };

    (void)state;
    assert_false(kvm_msr_exits_wanted(&p, &none));
    for (unsigned n = 0; n < 2; n++) {
        uint32_t msr = cases[n].msr;
        const struct kvm_msr_rules *rules = &cases[n].rules;
        assert_true(kvm_msr_exits_wanted(&p, rules) && kvm_msr_hidden(rules, msr) && !kvm_msr_hidden(&none, msr));
        assert_false(kvm_msr_hidden(rules, msr - 1) || kvm_msr_hidden(rules, cases[1 - n].msr));
        assert_ok(kvm_msr_exits(VM, &p, rules));
        assert_true(denied(msr, KVM_MSR_FILTER_READ) && denied(msr, KVM_MSR_FILTER_WRITE));
        assert_false(denied(msr - 1, KVM_MSR_FILTER_READ) || denied(msr + 1, KVM_MSR_FILTER_WRITE));
        assert_int_equal(kernel.reasons, 0);                    // #GP
    }
}

// What a partition's list decides about comes to the engine, and nothing else does.
static void test_list(void **state)
{
    static WHV_MSR_ACTION_ENTRY list[PROPERTY_LIST_MAX];
    static const uint32_t places[] = { 0, 0x174, 0x2fff, 0x3000, 0xc0000080, 0xc0000100, 0xc0000200, 0xfffffff0 };
    struct property_values p = { .processor_count = 1 };
    uint64_t random = 1;

    (void)state;
    for (unsigned round = 0; round < 50; round++) {
        UINT32 count = 1 + round * 60 % 1000;
        for (UINT32 n = 0; n < count; n++) {
            random = random * 6364136223846793005 + 1442695040888963407;
            list[n] = (WHV_MSR_ACTION_ENTRY){
                .Index = places[random >> 33 & 7] + (uint32_t)(random >> 40 & 15),
                .ReadAction = (random >> 50 & 3) % 3, .WriteAction = (random >> 54 & 3) % 3,
            };
        }
        struct kvm_msr_rules rules = rules_of(list, count, WHvMsrActionArchitectureDefault);
        assert_true(kvm_msr_exits_wanted(&p, &rules));
        assert_ok(kvm_msr_exits(VM, &p, &rules));
        assert_int_not_equal(kernel.reasons, 0);
        for (unsigned place = 0; place < 8; place++)
            for (uint32_t msr = places[place]; msr - places[place] < 20; msr++)
                for (int write = 0; write < 2; write++) {
                    uint8_t action = 0;
                    for (UINT32 n = 0; n < count; n++)          // the last one counts
                        if (list[n].Index == msr)
                            action = write ? list[n].WriteAction : list[n].ReadAction;
                    assert_int_equal(msr_actions_listed(&rules.actions, msr, write), action);
                    assert_int_equal(denied(msr, write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ), action != 0);
                }
        msr_actions_release(&rules.actions);
    }
    // Only the rule for unknown ones.
    struct kvm_msr_rules rules = rules_of(NULL, 0, WHvMsrActionExit);
    assert_true(kvm_msr_exits_wanted(&p, &rules));
    assert_ok(kvm_msr_exits(VM, &p, &rules));
    assert_int_not_equal(kernel.reasons, 0);
    assert_false(denied(0x174, KVM_MSR_FILTER_READ));
    assert_true(denied(0x40000000, KVM_MSR_FILTER_READ));
}

// More than the filter holds, and registers that it does not hold for.
static void test_list_refused(void **state)
{
    WHV_MSR_ACTION_ENTRY list[KVM_MSR_FILTER_MAX_RANGES];
    struct property_values p = { .processor_count = 1, .apic_mode = WHvX64LocalApicEmulationModeXApic };
    struct kvm_msr_rules rules;

    (void)state;
    for (UINT32 n = 0; n < KVM_MSR_FILTER_MAX_RANGES; n++)
        list[n] = (WHV_MSR_ACTION_ENTRY){ .Index = n << 20, .ReadAction = WHvMsrActionExit };
    // With everything else that the filter has to hold, whatever is switched on later.
    p.extended_vm_exits.X64MsrExit = 1;
    p.msr_exit_bitmap.AsUINT64 = ~0ull;
    for (UINT32 count = 1; count < KVM_MSR_FILTER_MAX_RANGES; count++) {
        rules = rules_of(list, count, WHvMsrActionArchitectureDefault);
        assert_hr(kvm_msr_exits(VM, &p, &rules), count <= 8 ? S_OK : WHV_E_INVALID_PARTITION_CONFIG);
        for (UINT32 n = 0; n < count && count <= 8; n++)
            assert_true(denied(n << 20, KVM_MSR_FILTER_READ) && !denied(n << 20, KVM_MSR_FILTER_WRITE));
        msr_actions_release(&rules.actions);
    }
    // Reads and writes that differ take two ranges.
    for (UINT32 n = 0; n < 4; n++)
        list[n].WriteAction = WHvMsrActionExit;
    list[4] = (WHV_MSR_ACTION_ENTRY){ .Index = 1, .WriteAction = WHvMsrActionExit };
    rules = rules_of(list, 5, WHvMsrActionArchitectureDefault);
    assert_ok(kvm_msr_exits(VM, &p, &rules));
    assert_true(denied(0, KVM_MSR_FILTER_READ) && denied(0, KVM_MSR_FILTER_WRITE) && denied(1, KVM_MSR_FILTER_WRITE));
    assert_false(denied(1, KVM_MSR_FILTER_READ));
    msr_actions_release(&rules.actions);
    // The x2APIC's.
    list[0] = (WHV_MSR_ACTION_ENTRY){ .Index = 0x8ff, .WriteAction = WHvMsrActionIgnoreWriteReadZero };
    list[1] = (WHV_MSR_ACTION_ENTRY){ .Index = 0x800 };
    rules = rules_of(list, 2, WHvMsrActionArchitectureDefault);
    assert_ok(kvm_msr_exits(VM, &p, &rules));
    p.apic_mode = WHvX64LocalApicEmulationModeX2Apic;
    assert_hr(kvm_msr_exits(VM, &p, &rules), WHV_E_INVALID_PARTITION_CONFIG);
    msr_actions_release(&rules.actions);
    rules = rules_of(&list[1], 1, WHvMsrActionArchitectureDefault);
    assert_ok(kvm_msr_exits(VM, &p, &rules));
    msr_actions_release(&rules.actions);
    // The deadline's, for a write.
    list[0] = (WHV_MSR_ACTION_ENTRY){ .Index = 0x6e0, .ReadAction = WHvMsrActionExit };
    rules = rules_of(list, 1, WHvMsrActionArchitectureDefault);
    assert_ok(kvm_msr_exits(VM, &p, &rules));
    msr_actions_release(&rules.actions);
    list[0].WriteAction = WHvMsrActionExit;
    rules = rules_of(list, 1, WHvMsrActionArchitectureDefault);
    assert_hr(kvm_msr_exits(VM, &p, &rules), WHV_E_INVALID_PARTITION_CONFIG);
    msr_actions_release(&rules.actions);
}

static void test_fetch(void **state)
{
    (void)state;
    assert_ok(kvm_msr_fetch(PROCESSOR, cpu));
    assert_int_equal(kernel.reads, 1);
    assert_int_equal(cpu->star, 0x5081);
    assert_int_equal(cpu->lstar, 0x5082);
    assert_int_equal(cpu->cstar, 0x5083);
    assert_int_equal(cpu->sfmask, 0x5084);
    assert_int_equal(cpu->kernel_gs_base, 0x5102);
    assert_int_equal(cpu->tsc_aux, 0x5103);
    assert_int_equal(cpu->sysenter_cs, 0x1174);
    assert_int_equal(cpu->sysenter_esp, 0x1175);
    assert_int_equal(cpu->sysenter_eip, 0x1176);
    assert_int_equal(cpu->pat, 0x1277);
    assert_int_equal(cpu->misc_enable, 0x11a0);
    assert_int_equal(cpu->mtrr_cap, 0x10fe);
    assert_int_equal(cpu->mtrr_def_type, 0x12ff);
    for (unsigned n = 0; n < 16; n++)
        assert_int_equal(cpu->mtrr_phys[n], 0x1200 + n);
    assert_int_equal(cpu->mtrr_fixed[0], 0x1250);
    assert_int_equal(cpu->mtrr_fixed[1], 0x1258);
    assert_int_equal(cpu->mtrr_fixed[2], 0x1259);
    for (unsigned n = 0; n < 8; n++)
        assert_int_equal(cpu->mtrr_fixed[3 + n], 0x1268 + n);
    kernel.answer = -ENOMEM;
    assert_hr(kvm_msr_fetch(PROCESSOR, cpu), E_OUTOFMEMORY);
}

static void test_store(void **state)
{
    (void)state;
    assert_ok(kvm_msr_fetch(PROCESSOR, before));
    *cpu = *before;
    kernel.reads = 0;
    assert_ok(kvm_msr_store(PROCESSOR, cpu, before));
    assert_int_equal(kernel.writes, 0);             // nothing to do
    cpu->lstar = 7;
    cpu->mtrr_fixed[10] = 8;
    cpu->mtrr_cap = 9;                              // cannot be written, and is not tried
    assert_ok(kvm_msr_store(PROCESSOR, cpu, before));
    assert_int_equal(kernel.writes, 1);
    assert_int_equal(kernel.reads, 0);
    assert_int_equal(kernel.high[0x82], 7);
    assert_int_equal(kernel.value[0x26f], 8);
    assert_int_equal(kernel.value[0xfe], 0x10fe);

    // Everything.
    memset(kernel.high, 0, sizeof kernel.high);
    assert_ok(kvm_msr_store(PROCESSOR, cpu, NULL));
    assert_int_equal(kernel.high[0x81], 0x5081);
    assert_int_equal(kernel.high[0x82], 7);
    assert_int_equal(kernel.high[0x103], 0x5103);
    kernel.answer = -EFAULT;
    assert_hr(kvm_msr_store(PROCESSOR, cpu, NULL), E_FAIL);
    cpu->lstar = 1;
    assert_hr(kvm_msr_store(PROCESSOR, cpu, before), E_FAIL);
}

// One value is refused: what was written before it is put back, whichever it is.
static void test_refused(void **state)
{
    static const struct { uint32_t msr; size_t offset; } members[] = {
        { 0x174, offsetof(struct x86_cpu, sysenter_cs) }, { 0x277, offsetof(struct x86_cpu, pat) },
        { 0x2ff, offsetof(struct x86_cpu, mtrr_def_type) }, { 0x26f, offsetof(struct x86_cpu, mtrr_fixed[10]) },
        { 0xc0000082, offsetof(struct x86_cpu, lstar) },
    };

    for (unsigned n = 0; n < sizeof members / sizeof *members; n++)
        for (unsigned known = 0; known < 2; known++) {
            uint64_t values[0x300], high[0x200];
            setup(state);
            memcpy(values, kernel.value, sizeof values);
            memcpy(high, kernel.high, sizeof high);
            assert_ok(kvm_msr_fetch(PROCESSOR, before));
            *cpu = *before;
            cpu->sysenter_cs = cpu->star = cpu->mtrr_phys[3] = cpu->mtrr_fixed[10] = 1;
            *(uint64_t *)((char *)cpu + members[n].offset) = 0xbad;
            kernel.refused = members[n].msr;
            assert_hr(kvm_msr_store(PROCESSOR, cpu, known ? before : NULL), E_INVALIDARG);
            assert_memory_equal(values, kernel.value, sizeof values);
            assert_memory_equal(high, kernel.high, sizeof high);
        }
}

static void test_one(void **state)
{
    uint64_t value = 0;

    (void)state;
    assert_ok(kvm_msr_get(PROCESSOR, 0x1b, &value));
    assert_int_equal(value, 0x101b);
    assert_ok(kvm_msr_set(PROCESSOR, 0x1b, 5));
    assert_int_equal(kernel.value[0x1b], 5);
    kernel.absent[0] = 0x1b;
    assert_hr(kvm_msr_get(PROCESSOR, 0x1b, &value), E_INVALIDARG);
    assert_hr(kvm_msr_set(PROCESSOR, 0x1b, 5), E_INVALIDARG);
    kernel.answer = -EACCES;
    assert_hr(kvm_msr_get(PROCESSOR, 0x1b, &value), E_ACCESSDENIED);
}

// The last test: what is absent is remembered. Their members keep what the view has, and cannot be changed.
static void test_absent(void **state)
{
    (void)state;
    kernel.absent[0] = 0x174;
    kernel.absent[1] = 0xc0000103;
    kernel.absent[2] = 0x20f;
    kernel.absent[3] = 0x26f;
    cpu->tsc_aux = 3;
    assert_ok(kvm_msr_fetch(PROCESSOR, cpu));
    assert_int_equal(kernel.reads, 5);
    assert_int_equal(cpu->tsc_aux, 3);
    assert_int_equal(cpu->sysenter_esp, 0x1175);
    assert_int_equal(cpu->mtrr_phys[14], 0x120e);
    assert_int_equal(cpu->mtrr_phys[15], 0);
    assert_ok(kvm_msr_fetch(PROCESSOR, cpu));
    assert_int_equal(kernel.reads, 6);
    assert_ok(kvm_msr_store(PROCESSOR, cpu, NULL));
    *before = *cpu;
    cpu->tsc_aux = 4;
    assert_hr(kvm_msr_store(PROCESSOR, cpu, before), E_INVALIDARG);
    cpu->tsc_aux = 3;
    cpu->star = 4;
    assert_ok(kvm_msr_store(PROCESSOR, cpu, before));
    assert_int_equal(kernel.high[0x81], 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_exits, setup),
        cmocka_unit_test_setup(test_hidden, setup),
        cmocka_unit_test_setup(test_list, setup),
        cmocka_unit_test_setup(test_list_refused, setup),
        cmocka_unit_test_setup(test_fetch, setup),
        cmocka_unit_test_setup(test_store, setup),
        cmocka_unit_test_setup(test_refused, setup),
        cmocka_unit_test_setup(test_one, setup),
        cmocka_unit_test_setup(test_absent, setup),
    };
    int failed;

    cpu = aligned_alloc(64, (sizeof *cpu + 63) & ~(size_t)63);
    before = aligned_alloc(64, (sizeof *cpu + 63) & ~(size_t)63);
    if (!cpu || !before)
        return 1;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(cpu);
    free(before);
    return failed;
}
