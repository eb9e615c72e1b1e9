// Registers by name: every row is found, with the groups it needs; an engine's own rows beside them; all or nothing.
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "engine/common/registers.h"
#include "x86/system.h"

#define UNKNOWN ((WHV_REGISTER_NAME)0x00000fff)
#define INVALID_PARAMETER ERROR_HV_INVALID_PARAMETER

// ---- A processor, and an engine's rows ---------------------------------------------------------------------------

static struct processor *processor;
static uint64_t own_value;

static int setup(void **state)
{
    (void)state;
    processor = aligned_alloc(64, (sizeof *processor + 63) & ~(size_t)63);
    if (!processor)
        return -1;
    memset(processor, 0, sizeof *processor);
    processor->cpu.mtrr_cap = 0x508;
    processor->cpu.physical_bits = 40;
    processor->cpu.tlb_epoch = 1;
    x86_default_features(processor->cpu.features);
    x86_reset(&processor->cpu);
    own_value = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(processor);
    return 0;
}

static void get_own(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value)
{
    assert_ptr_equal(p, processor);
    value->Reg64 = own_value + n;
}

static void set_own(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p, (void)n;
    own_value = value->Reg64;
}

static bool below_16(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value)
{
    (void)p, (void)n;
    return value->Reg64 < 16;
}

static HRESULT not_the_second(struct processor *p, unsigned n)
{
    (void)p;
    return n == 1 ? E_ACCESSDENIED : S_OK;
}

static const struct register_row own_rows[] = {
    { WHvX64RegisterCr8, 1, REGISTER_OWN, get_own, set_own, below_16, NULL },
    { WHvX64RegisterTscVirtualOffset, 1, REGISTER_OWN, get_own, NULL, NULL, NULL },
    { 0x3000, 0x40, REGISTER_OWN << 1, get_own, set_own, NULL, not_the_second },
};
static const struct register_table own = { own_rows, sizeof own_rows / sizeof own_rows[0] };

static HRESULT set_one(WHV_REGISTER_NAME name, WHV_REGISTER_VALUE value)
{
    return registers_set(processor, &own, &name, 1, &value);
}

static HRESULT set_number(WHV_REGISTER_NAME name, uint64_t number)
{
    WHV_REGISTER_VALUE value;
    memset(&value, 0, sizeof value);
    value.Reg64 = number;
    return set_one(name, value);
}

static WHV_REGISTER_VALUE get_one(WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;
    memset(&value, 0xa5, sizeof value);
    assert_ok(registers_get(processor, &own, &name, 1, &value));
    return value;
}

// ---- Names -------------------------------------------------------------------------------------------------------

static const struct { uint32_t first, last, groups; } names[] = {
    { WHvX64RegisterRax, WHvX64RegisterRflags, REGISTER_GENERAL },
    { WHvX64RegisterEs, WHvX64RegisterGdtr, REGISTER_SYSTEM },
    { WHvX64RegisterCr0, WHvX64RegisterCr4, REGISTER_SYSTEM },
    { WHvX64RegisterCr8, WHvX64RegisterCr8, REGISTER_OWN },
    { WHvX64RegisterDr0, WHvX64RegisterDr7, REGISTER_DEBUG },
    { WHvX64RegisterXCr0, WHvX64RegisterXCr0, REGISTER_XCR },
    { WHvX64RegisterXmm0, WHvX64RegisterFpMmx7, REGISTER_FPU },
    // Their last instruction pointer has another form in long mode.
    { WHvX64RegisterFpControlStatus, WHvX64RegisterXmmControlStatus, REGISTER_FPU | REGISTER_SYSTEM },
    { WHvX64RegisterEfer, WHvX64RegisterEfer, REGISTER_SYSTEM },
    { WHvX64RegisterKernelGsBase, WHvX64RegisterKernelGsBase, REGISTER_MSR },
    { WHvX64RegisterPat, WHvX64RegisterSfmask, REGISTER_MSR },
    { WHvX64RegisterMsrMtrrCap, WHvX64RegisterMsrMtrrDefType, REGISTER_MSR },
    { WHvX64RegisterMsrMtrrPhysBase0, WHvX64RegisterMsrMtrrPhysBaseF, REGISTER_MSR },
    { WHvX64RegisterMsrMtrrPhysMask0, WHvX64RegisterMsrMtrrPhysMaskF, REGISTER_MSR },
    { WHvX64RegisterMsrMtrrFix64k00000, WHvX64RegisterMsrMtrrFix4kF8000, REGISTER_MSR },
    { WHvX64RegisterTscAux, WHvX64RegisterTscAux, REGISTER_MSR },
    { WHvX64RegisterTscVirtualOffset, WHvX64RegisterTscVirtualOffset, REGISTER_OWN },
    { 0x3000, 0x303f, REGISTER_OWN << 1 },
    // A page fault's address is CR2; an exception's length is remembered with its RIP.
    { (uint32_t)WHvRegisterPendingInterruption, (uint32_t)WHvRegisterPendingInterruption,
      REGISTER_EVENTS | REGISTER_SYSTEM },
    { (uint32_t)WHvRegisterInterruptState, (uint32_t)WHvRegisterInterruptState, REGISTER_EVENTS },
    { (uint32_t)WHvRegisterPendingEvent, (uint32_t)WHvRegisterPendingEvent, REGISTER_EVENTS | REGISTER_GENERAL },
    { (uint32_t)WHvX64RegisterDeliverabilityNotifications, (uint32_t)WHvX64RegisterDeliverabilityNotifications,
      REGISTER_EVENTS },
};

static uint32_t groups_expected(uint32_t name)
{
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++)
        if (name >= names[n].first && name <= names[n].last)
            return names[n].groups;
    return 0;
}

static void every_name_below(uint32_t from, uint32_t to)
{
    for (uint32_t n = from; n < to; n++) {
        WHV_REGISTER_NAME name = (WHV_REGISTER_NAME)n;
        uint32_t expected = groups_expected(n), groups = 0;
        HRESULT result = registers_groups(processor, &own, &name, 1, &groups);
        if (result != (expected ? S_OK : WHV_E_INVALID_VP_REGISTER_NAME) || groups != expected)
            fail_msg("register 0x%x: 0x%x, groups 0x%x", n, (unsigned)result, groups);
        WHV_REGISTER_VALUE value;
        HRESULT there = n == 0x3001 ? E_ACCESSDENIED : expected ? S_OK : WHV_E_INVALID_VP_REGISTER_NAME;
        assert_hr(registers_get(processor, &own, &name, 1, &value), there);
    }
}

static void test_names(void **state)
{
    (void)state;
    every_name_below(0, 0x4000);
    every_name_below(0x80000000, 0x80000100);
    every_name_below(0xffffff00, 0xffffffff);
}

static void test_groups_of_several(void **state)
{
    (void)state;
    const WHV_REGISTER_NAME several[] = { WHvX64RegisterRip, WHvX64RegisterCr8, WHvX64RegisterXmm3, UNKNOWN };
    uint32_t groups = 0;
    assert_ok(registers_groups(processor, &own, several, 3, &groups));
    assert_int_equal(groups, REGISTER_GENERAL | REGISTER_OWN | REGISTER_FPU);
    assert_ok(registers_groups(processor, &own, several, 0, &groups));
    assert_int_equal(groups, 0);
    assert_hr(registers_groups(processor, &own, several, 4, &groups), WHV_E_INVALID_VP_REGISTER_NAME);
}

// ---- Values ------------------------------------------------------------------------------------------------------

static void test_own_rows(void **state)
{
    (void)state;
    assert_ok(set_number((WHV_REGISTER_NAME)0x3000, 100));
    assert_int_equal(get_one((WHV_REGISTER_NAME)0x3005).Reg64, 105);
    assert_hr(set_number((WHV_REGISTER_NAME)0x3001, 1), E_ACCESSDENIED);
    assert_hr(set_number(WHvX64RegisterTscVirtualOffset, 1), INVALID_PARAMETER);
    assert_hr(set_number(WHvX64RegisterCr8, 16), INVALID_PARAMETER);
    assert_int_equal(own_value, 100);
    assert_ok(set_number(WHvX64RegisterCr8, 15));
    assert_int_equal(own_value, 15);
}

static void test_all_or_none(void **state)
{
    (void)state;
    const WHV_REGISTER_NAME several[] = { WHvX64RegisterRbx, WHvX64RegisterCr8, WHvX64RegisterRcx };
    WHV_REGISTER_VALUE values[3];
    memset(values, 0, sizeof values);
    values[0].Reg64 = 1;
    values[1].Reg64 = 16;
    values[2].Reg64 = 3;
    assert_hr(registers_set(processor, &own, several, 3, values), INVALID_PARAMETER);
    assert_int_equal(get_one(WHvX64RegisterRbx).Reg64, 0);
    values[1].Reg64 = 2;
    assert_ok(registers_set(processor, &own, several, 3, values));
    assert_int_equal(get_one(WHvX64RegisterRbx).Reg64, 1);
    assert_int_equal(own_value, 2);
    assert_int_equal(get_one(WHvX64RegisterRcx).Reg64, 3);

    const WHV_REGISTER_NAME bad[] = { WHvX64RegisterRbx, UNKNOWN };
    assert_hr(registers_set(processor, &own, bad, 2, values), WHV_E_INVALID_VP_REGISTER_NAME);
    assert_int_equal(get_one(WHvX64RegisterRbx).Reg64, 1);
}

static void test_settle(void **state)
{
    (void)state;
    processor->settle = false;
    assert_ok(set_number(WHvX64RegisterRip, 0x1000));
    assert_ok(set_number(WHvX64RegisterRax, 7));
    assert_false(processor->settle);
    assert_ok(set_number(WHvX64RegisterCr3, 0x2000));
    assert_true(processor->settle);
}

// Every register takes back what it gave.
static void test_round_trip(void **state)
{
    (void)state;
    for (size_t run = 0; run < sizeof names / sizeof names[0]; run++) {
        if (names[run].groups >= REGISTER_OWN)
            continue;
        for (uint32_t n = names[run].first; n <= names[run].last; n++) {
            WHV_REGISTER_VALUE before = get_one((WHV_REGISTER_NAME)n);
            assert_ok(set_one((WHV_REGISTER_NAME)n, before));
            WHV_REGISTER_VALUE after = get_one((WHV_REGISTER_NAME)n);
            assert_memory_equal(&before, &after, sizeof before);
        }
    }
}

// ---- Events ------------------------------------------------------------------------------------------------------

static WHV_REGISTER_VALUE exception_event(unsigned vector)
{
    WHV_REGISTER_VALUE value;
    memset(&value, 0, sizeof value);
    value.ExceptionEvent.EventPending = 1;
    value.ExceptionEvent.EventType = WHvX64PendingEventException;
    value.ExceptionEvent.Vector = vector;
    return value;
}

static void test_pending_event(void **state)
{
    (void)state;
    assert_hr(set_one((WHV_REGISTER_NAME)WHvRegisterPendingEvent, exception_event(32)), INVALID_PARAMETER);
    assert_ok(set_one((WHV_REGISTER_NAME)WHvRegisterPendingEvent, exception_event(6)));
    assert_true(processor->event_valid);
    assert_int_equal(processor->event.vector, 6);
    assert_int_equal(get_one((WHV_REGISTER_NAME)WHvRegisterPendingEvent).ExceptionEvent.Vector, 6);
    assert_ok(set_number((WHV_REGISTER_NAME)WHvRegisterPendingEvent, 0));
    assert_false(processor->event_valid);
}

// An answer to an exception that an exit told of: what was to be delivered is given up, and the instruction's length
// is the one that the exit had.
static void test_answer(void **state)
{
    (void)state;
    processor->pending_valid = processor->pending_told = true;
    processor->told = (struct x86_exception){ .vector = X86_BP, .software = true, .length = 1 };
    processor->told_rip = processor->cpu.rip;
    assert_ok(set_one((WHV_REGISTER_NAME)WHvRegisterPendingEvent, exception_event(X86_BP)));
    assert_false(processor->pending_valid);
    assert_true(processor->event.software);
    assert_int_equal(processor->event.length, 1);

    processor->cpu.rip++;
    assert_ok(set_one((WHV_REGISTER_NAME)WHvRegisterPendingEvent, exception_event(X86_BP)));
    assert_false(processor->event.software);
}

static void test_pending_page_fault(void **state)
{
    (void)state;
    WHV_REGISTER_VALUE value;
    memset(&value, 0, sizeof value);
    value.PendingInterruption.InterruptionPending = 1;
    value.PendingInterruption.InterruptionType = WHvX64PendingException;
    value.PendingInterruption.DeliverErrorCode = 1;
    value.PendingInterruption.InterruptionVector = X86_PFV;
    value.PendingInterruption.ErrorCode = 2;
    assert_ok(set_number(WHvX64RegisterCr2, 0x1234));
    assert_ok(set_one((WHV_REGISTER_NAME)WHvRegisterPendingInterruption, value));
    assert_true(processor->pending_valid);
    assert_false(processor->pending_external);
    assert_int_equal(processor->pending.address, 0x1234);
    assert_int_equal(get_one((WHV_REGISTER_NAME)WHvRegisterPendingInterruption).Reg64, value.Reg64);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_names), TEST(test_groups_of_several), TEST(test_own_rows), TEST(test_all_or_none), TEST(test_settle),
        TEST(test_round_trip), TEST(test_pending_event), TEST(test_answer), TEST(test_pending_page_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
