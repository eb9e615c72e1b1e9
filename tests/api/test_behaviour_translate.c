// WHvTranslateGva: every flag and every result, in every kind of paging.
#include "modes.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

static const uint8_t halt[] = {0xF4};

#define READ WHvTranslateGvaFlagValidateRead
#define WRITE WHvTranslateGvaFlagValidateWrite
#define EXECUTE WHvTranslateGvaFlagValidateExecute
#define EXEMPT WHvTranslateGvaFlagPrivilegeExempt
#define MARK WHvTranslateGvaFlagSetPageTableBits
#define ENFORCE WHvTranslateGvaFlagEnforceSmap
#define OVERRIDE WHvTranslateGvaFlagOverrideSmap

static UINT32 translate(WHV_PARTITION_HANDLE p, UINT64 gva, UINT32 flags, UINT64 *gpa)
{
    WHV_TRANSLATE_GVA_RESULT result;

    memset(&result, 0xEE, sizeof(result));
    assert_ok(WHvTranslateGva(p, 0, gva, (WHV_TRANSLATE_GVA_FLAGS)flags, &result, gpa));
    return result.ResultCode;
}

static void assert_result(WHV_PARTITION_HANDLE p, UINT64 gva, UINT32 flags, UINT32 expected)
{
    UINT64 gpa;

    assert_int_equal(translate(p, gva, flags, &gpa), expected);
}

static void assert_gpa(WHV_PARTITION_HANDLE p, UINT64 gva, UINT32 flags, UINT64 expected)
{
    UINT64 gpa = ~0ull;

    assert_int_equal(translate(p, gva, flags, &gpa), WHvTranslateGvaResultSuccess);
    assert_int_equal(gpa, expected);
}

static WHV_PARTITION_HANDLE long_guest(void)
{
    WHV_PARTITION_HANDLE p = guest(memory, halt, sizeof(halt));

    enter_long(p, memory);
    return p;
}

static void test_rights(void **state)
{
    WHV_PARTITION_HANDLE p = long_guest();

    (void)state;
    put64(memory, PT + 8 * 3, DATA | PTE_P);                            // kernel, read-only
    put64(memory, PT + 8 * 4, DATA | PTE_P | PTE_W | PTE_U | 1ull << 63);   // not executable
    put64(memory, PT + 8 * 5, DATA | PTE_W);                            // not present
    put64(memory, PT + 8 * 6, DATA | PTE_P | 1ull << 51);               // beyond the physical width
    set_register(p, 0, WHvX64RegisterCr0, 0x80010033);                  // with WP
    // No access asked for: the translation alone.
    assert_gpa(p, 0x3123, 0, DATA + 0x123);
    assert_gpa(p, 0x3123, READ, DATA + 0x123);
    assert_result(p, 0x3123, WRITE, WHvTranslateGvaResultPrivilegeViolation);
    assert_result(p, 0x3123, READ | WRITE, WHvTranslateGvaResultPrivilegeViolation);
    assert_gpa(p, 0x3123, EXECUTE, DATA + 0x123);
    assert_gpa(p, 0x4FFF, READ | WRITE, DATA + 0xFFF);
    assert_result(p, 0x4FFF, EXECUTE, WHvTranslateGvaResultPrivilegeViolation);
    assert_result(p, 0x5000, READ, WHvTranslateGvaResultPageNotPresent);
    assert_result(p, 0x5000, 0, WHvTranslateGvaResultPageNotPresent);
    assert_result(p, 0x6000, READ, WHvTranslateGvaResultInvalidPageTableFlags);
    assert_result(p, 1ull << 40, READ, WHvTranslateGvaResultPageNotPresent);
    assert_result(p, 1ull << 63, READ, WHvTranslateGvaResultPageNotPresent);    // not canonical
    assert_result(p, 0x8000000000003123, 0, WHvTranslateGvaResultPageNotPresent);
    // Without WP the kernel writes anywhere.
    set_register(p, 0, WHvX64RegisterCr0, 0x80000033);
    assert_gpa(p, 0x3123, WRITE, DATA + 0x123);
    // The user may not, unless exempt.
    enter_user(p, CODE64);
    assert_result(p, 0x3123, READ, WHvTranslateGvaResultPrivilegeViolation);
    assert_gpa(p, 0x3123, 0, DATA + 0x123);
    assert_gpa(p, 0x3123, READ | EXEMPT, DATA + 0x123);
    assert_gpa(p, 0x4123, READ | WRITE, DATA + 0x123);
    assert_ok(WHvDeletePartition(p));
}

// User pages are out of the kernel's reach with SMAP, unless AC is set or the caller says so; and of its
// fetches with SMEP.
static void test_smap(void **state)
{
    WHV_PARTITION_HANDLE p = long_guest();
    WHV_CPUID_OUTPUT features;

    (void)state;
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 7, 0, &features));
    assert_int_equal(features.Ebx >> 20 & 1, 1);
    assert_int_equal(features.Ebx >> 7 & 1, 1);
    set_register(p, 0, WHvX64RegisterCr4, 0x620 | 1 << 20 | 1 << 21);
    assert_result(p, 0x3000, READ, WHvTranslateGvaResultPrivilegeViolation);
    assert_gpa(p, 0x3000, READ | OVERRIDE, DATA);
    assert_result(p, 0x3000, EXECUTE, WHvTranslateGvaResultPrivilegeViolation);
    assert_result(p, 0x3000, EXECUTE | OVERRIDE, WHvTranslateGvaResultPrivilegeViolation);
    set_register(p, 0, WHvX64RegisterRflags, 0x40002);
    assert_gpa(p, 0x3000, READ, DATA);
    assert_result(p, 0x3000, READ | ENFORCE, WHvTranslateGvaResultPrivilegeViolation);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRflags), 0x40002);
    assert_ok(WHvDeletePartition(p));
}

static void test_page_table_bits(void **state)
{
    WHV_PARTITION_HANDLE p = long_guest();
    const UINT64 entry = PT + 8 * 3, none = DATA | PTE_P | PTE_W;

    (void)state;
    put64(memory, entry, none);
    assert_gpa(p, 0x3000, READ, DATA);
    assert_gpa(p, 0x3000, WRITE, DATA);
    assert_int_equal(peek64(memory, entry), none);
    assert_int_equal(peek64(memory, PML4) & PTE_A, 0);
    assert_gpa(p, 0x3000, READ | MARK, DATA);
    assert_int_equal(peek64(memory, entry), none | PTE_A);
    assert_int_equal(peek64(memory, PML4) & PTE_A, PTE_A);
    assert_gpa(p, 0x3000, WRITE | MARK, DATA);
    assert_int_equal(peek64(memory, entry), none | PTE_A | PTE_D);
    // A translation that fails sets none.
    put64(memory, entry, DATA | PTE_P);
    enter_user(p, CODE64);
    assert_result(p, 0x3000, READ | MARK, WHvTranslateGvaResultPrivilegeViolation);
    assert_int_equal(peek64(memory, entry), DATA | PTE_P);
    assert_ok(WHvDeletePartition(p));
}

// The tables are walked as they are now, whatever was translated before, by the guest or by this call.
static void test_changed_tables(void **state)
{
    static const uint8_t code[] = {0x8A, 0x04, 0x25, 0x00, 0x30, 0, 0, 0xF4};       // mov al, [0x3000]; hlt
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));

    (void)state;
    enter_long(p, memory);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
    assert_gpa(p, 0x3000, READ | MARK, DATA);
    put64(memory, PT + 8 * 3, 0x4000 | PTE_P);
    assert_gpa(p, 0x3000, READ | MARK, 0x4000);
    put64(memory, PD, 0xE000 | PTE_P | PTE_W | PTE_U);      // another table, all zero
    memset(memory + 0xE000, 0, PAGE);
    assert_result(p, 0x3000, READ | MARK, WHvTranslateGvaResultPageNotPresent);
    assert_result(p, 0x3000, READ, WHvTranslateGvaResultPageNotPresent);
    put64(memory, PD, 0);
    assert_result(p, 0x3000, READ | MARK, WHvTranslateGvaResultPageNotPresent);
    assert_ok(WHvDeletePartition(p));
}

// Guest memory that is not mapped, or not for this; for the page and for the tables.
static void test_memory(void **state)
{
    WHV_PARTITION_HANDLE p = long_guest();
    UINT64 gpa = 0;

    (void)state;
    assert_ok(WHvUnmapGpaRange(p, HOLE, PAGE));
    // The address is told all the same: the emulator of a device needs it.
    assert_int_equal(translate(p, HOLE + 8, READ, &gpa), WHvTranslateGvaResultGpaUnmapped);
    assert_int_equal(gpa, HOLE + 8);
    assert_ok(WHvMapGpaRange(p, memory + HOLE, HOLE, PAGE, RX));
    assert_gpa(p, HOLE, READ | EXECUTE, HOLE);
    assert_result(p, HOLE, WRITE, WHvTranslateGvaResultGpaNoWriteAccess);
    assert_result(p, HOLE, READ | WRITE, WHvTranslateGvaResultGpaNoWriteAccess);
    assert_ok(WHvMapGpaRange(p, memory + HOLE, HOLE, PAGE, WHvMapGpaRangeFlagNone));
    assert_result(p, HOLE, READ, WHvTranslateGvaResultGpaNoReadAccess);
    // A table that is gone, and one that does not take an accessed bit.
    assert_ok(WHvMapGpaRange(p, memory + PT, PT, PAGE, WHvMapGpaRangeFlagRead));
    assert_gpa(p, 0x3000, READ, DATA);
    assert_result(p, 0x3000, READ | MARK, WHvTranslateGvaResultGpaNoWriteAccess);
    assert_ok(WHvUnmapGpaRange(p, PT, PAGE));
    assert_result(p, 0x3000, READ, WHvTranslateGvaResultGpaUnmapped);
    assert_result(p, 0x201000, READ, WHvTranslateGvaResultGpaUnmapped);     // a large page, without memory
    assert_ok(WHvDeletePartition(p));
}

// Large pages, 32-bit paging with and without PAE, and no paging at all.
static void test_modes(void **state)
{
    WHV_PARTITION_HANDLE p = long_guest();
    WHV_CPUID_OUTPUT features;

    (void)state;
    put64(memory, PD + 8, PTE_PS | PTE_P);              // 2 MiB at 0x200000 are physical 0
    assert_gpa(p, 0x203456, READ, 0x3456);
    put64(memory, PDPT + 8, PTE_PS | PTE_P);            // 1 GiB
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 0x80000001, 0, &features));
    if (features.Edx >> 26 & 1)
        assert_gpa(p, 0x40003456, READ, 0x3456);
    else
        assert_result(p, 0x40003456, READ, WHvTranslateGvaResultInvalidPageTableFlags);
    put64(memory, PD + 8, 0x2000 | PTE_PS | PTE_P);     // reserved bits of a large page
    assert_result(p, 0x203456, READ, WHvTranslateGvaResultInvalidPageTableFlags);
    assert_ok(WHvDeletePartition(p));

    p = guest(memory, halt, sizeof(halt));
    enter_protected(p, memory);
    assert_gpa(p, 0x3456, READ | WRITE | EXECUTE, 0x3456);
    // 32-bit paging: a table of 4-byte entries, one of them for 4 MiB.
    memset(memory + PML4, 0, 2 * PAGE);
    put64(memory, PML4, (PDPT | PTE_P | PTE_W) | (UINT64)(0x00000000 | PTE_PS | PTE_P) << 32);
    put64(memory, PDPT + 8, (0x4000 | PTE_P) | (UINT64)(0x5000 | PTE_P | PTE_W) << 32);
    set_register(p, 0, WHvX64RegisterCr3, PML4);
    set_register(p, 0, WHvX64RegisterCr4, 0x10);
    set_register(p, 0, WHvX64RegisterCr0, 0x80010011);
    assert_gpa(p, 0x2123, READ, 0x4123);
    assert_result(p, 0x2123, WRITE, WHvTranslateGvaResultPrivilegeViolation);
    assert_gpa(p, 0x3123, WRITE, 0x5123);
    assert_gpa(p, 0x403123, READ, 0x3123);
    assert_result(p, 0x403123, WRITE, WHvTranslateGvaResultPrivilegeViolation);
    assert_ok(WHvDeletePartition(p));

    p = guest(memory, halt, sizeof(halt));
    enter_protected(p, memory);
    memset(memory + PML4, 0, 3 * PAGE);
    put64(memory, PML4, PDPT | PTE_P);
    put64(memory, PDPT, PD | PTE_P | PTE_W);
    put64(memory, PD + 8 * 3, 0x4000 | PTE_P | PTE_W);
    set_register(p, 0, WHvX64RegisterCr3, PML4);
    set_register(p, 0, WHvX64RegisterCr4, 0x20);
    set_register(p, 0, WHvX64RegisterCr0, 0x80010011);
    assert_gpa(p, 0x3123, WRITE, 0x4123);
    assert_result(p, 0x40000000, READ, WHvTranslateGvaResultPageNotPresent);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rights),
        cmocka_unit_test(test_smap),
        cmocka_unit_test(test_page_table_bits),
        cmocka_unit_test(test_changed_tables),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_modes),
    };

    return engine_run_tests(tests);
}
