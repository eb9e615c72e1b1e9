// MsrActionList and UnimplementedMsrAction: exit, ignore or fault, register by register.
#include "modes.h"

#define RDMSR CODE              // rdmsr; out 0x10, al
#define WRMSR (CODE + 0x10)     // wrmsr; out 0x10, al
#define AFTER(at) ((at) + 2)

#define MSR_TSC 0x10u
#define MSR_SYSENTER_CS 0x174u
#define MSR_PAT 0x277u
#define MSR_APIC_BASE 0x1Bu
#define MSR_NOWHERE 0x12345u
#define MSR_NOWHERE_TOO 0x12346u
#define MSR_HYPERV 0x40000000u
#define MSR_EFER 0xC0000080u
#define MSR_FS_BASE 0xC0000100u
#define MSR_TSC_DEADLINE 0x6E0u
#define MSR_X2APIC_ID 0x802u

#define DEFAULT WHvMsrActionArchitectureDefault
#define IGNORE WHvMsrActionIgnoreWriteReadZero
#define EXIT WHvMsrActionExit

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

// ---- Guests ------------------------------------------------------------------------------------------------------

static HRESULT set_list(WHV_PARTITION_HANDLE p, const WHV_MSR_ACTION_ENTRY *list, size_t count)
{
    return WHvSetPartitionProperty(p, WHvPartitionPropertyCodeMsrActionList, list,
                                   (UINT32)(count * sizeof(list[0])));
}

// Into long mode, with handlers of #DB and #GP.
static void enter(WHV_PARTITION_HANDLE p)
{
    enter_long(p, memory);
    set_gate(memory, true, 1);
    set_gate(memory, true, 13);
}

// Set up, and on its way.
static void start(WHV_PARTITION_HANDLE p)
{
    static const uint8_t code[] = {0x0F, 0x32, 0xE6, 0x10}, write[] = {0x0F, 0x30, 0xE6, 0x10};

    assert_ok(WHvSetupPartition(p));
    memcpy(memory + RDMSR, code, sizeof(code));
    memcpy(memory + WRMSR, write, sizeof(write));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    enter(p);
}

static WHV_PARTITION_HANDLE guest_with(const WHV_MSR_ACTION_ENTRY *list, size_t count, WHV_MSR_ACTION unimplemented)
{
    WHV_PARTITION_HANDLE p = created(1);

    assert_ok(set_list(p, list, count));
    assert_ok(set32(p, WHvPartitionPropertyCodeUnimplementedMsrAction, unimplemented));
    start(p);
    return p;
}

static WHV_RUN_VP_EXIT_CONTEXT access_msr(WHV_PARTITION_HANDLE p, bool write, UINT32 msr, UINT64 value)
{
    set_register(p, 0, WHvX64RegisterRsp, STACK);
    return run_msr_access(p, write ? WRMSR : RDMSR, msr, value);
}

static void assert_exits(WHV_PARTITION_HANDLE p, bool write, UINT32 msr)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = access_msr(p, write, msr, MSR_VALUE);

    assert_msr_access(&exit, write, msr, write ? WRMSR : RDMSR);
    // The client completes it.
    set_register(p, 0, WHvX64RegisterRax, 0x77);
    set_register(p, 0, WHvX64RegisterRip, AFTER(exit.VpContext.Rip));
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_int_equal(exit.IoPortAccess.Rax, 0x77);
}

// A read gives 0; a write leaves the registers that it reads, and everything else, as they are.
static void assert_ignored(WHV_PARTITION_HANDLE p, bool write, UINT32 msr)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = access_msr(p, write, msr, 0x5566778811223344);

    assert_port_exit(&exit, 0x10);
    assert_int_equal(exit.VpContext.Rip, AFTER(write ? WRMSR : RDMSR));
    assert_int_equal(exit.IoPortAccess.Rax, write ? 0x1111111111223344 : 0);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRdx), write ? 0x2222222255667788 : 0);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRcx), 0xABCDEF0000000000 | msr);
}

static void assert_faults(WHV_PARTITION_HANDLE p, bool write, UINT32 msr, UINT64 value)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = access_msr(p, write, msr, value);

    assert_port_exit(&exit, 13);
    assert_int_equal(peek64(memory, STACK - 40), write ? WRMSR : RDMSR);    // RIP in the frame
}

static UINT64 read_msr(WHV_PARTITION_HANDLE p, UINT32 msr)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = access_msr(p, false, msr, 0);

    assert_port_exit(&exit, 0x10);
    return get_register(p, 0, WHvX64RegisterRdx) << 32 | exit.IoPortAccess.Rax;
}

static void assert_written(WHV_PARTITION_HANDLE p, UINT32 msr, UINT64 value)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = access_msr(p, true, msr, value);

    assert_port_exit(&exit, 0x10);
}

// ---- The list ----------------------------------------------------------------------------------------------------

static const WHV_MSR_ACTION_ENTRY list[] = {
    {.Index = MSR_SYSENTER_CS, .ReadAction = EXIT, .WriteAction = DEFAULT},
    {.Index = MSR_EFER, .ReadAction = DEFAULT, .WriteAction = IGNORE},
    {.Index = MSR_PAT, .ReadAction = IGNORE, .WriteAction = EXIT},
    {.Index = MSR_FS_BASE, .ReadAction = EXIT, .WriteAction = EXIT},
    {.Index = MSR_TSC, .ReadAction = IGNORE, .WriteAction = IGNORE},
    {.Index = MSR_NOWHERE, .ReadAction = EXIT, .WriteAction = IGNORE},
    {.Index = MSR_NOWHERE_TOO, .ReadAction = IGNORE, .WriteAction = EXIT},
    {.Index = 0xFFFFFFFF, .ReadAction = IGNORE, .WriteAction = EXIT},
    {.Index = MSR_HYPERV + 1, .ReadAction = IGNORE, .WriteAction = EXIT},
};
#define LIST_SIZE (sizeof(list) / sizeof(list[0]))

// What the list above makes of the guest, whatever was done to the partition meanwhile.
static void assert_list_works(WHV_PARTITION_HANDLE p)
{
    const UINT64 efer = get_register(p, 0, WHvX64RegisterEfer), pat = get_register(p, 0, WHvX64RegisterPat);
    const UINT64 tsc = get_register(p, 0, WHvX64RegisterTsc);

    assert_exits(p, false, MSR_SYSENTER_CS);
    assert_written(p, MSR_SYSENTER_CS, 0x1234);
    assert_int_equal(get_register(p, 0, WHvX64RegisterSysenterCs), 0x1234);
    assert_int_equal(read_msr(p, MSR_EFER), efer);
    assert_ignored(p, true, MSR_EFER);                          // a value that the register would not take
    assert_int_equal(get_register(p, 0, WHvX64RegisterEfer), efer);
    assert_ignored(p, false, MSR_PAT);
    assert_exits(p, true, MSR_PAT);
    assert_int_equal(get_register(p, 0, WHvX64RegisterPat), pat);
    assert_exits(p, false, MSR_FS_BASE);
    assert_exits(p, true, MSR_FS_BASE);
    assert_ignored(p, false, MSR_TSC);
    assert_ignored(p, true, MSR_TSC);
    assert_true(get_register(p, 0, WHvX64RegisterTsc) >= tsc);
    assert_true(get_register(p, 0, WHvX64RegisterTsc) < 0x5566778811223344);
    for (unsigned int i = 5; i < LIST_SIZE; i++)
        for (int write = 0; write < 2; write++)
            if ((write ? list[i].WriteAction : list[i].ReadAction) == EXIT)
                assert_exits(p, write, list[i].Index);
            else
                assert_ignored(p, write, list[i].Index);
    // Others are what they are.
    assert_faults(p, false, MSR_NOWHERE + 2, 0);
    assert_faults(p, true, MSR_NOWHERE - 1, 0);
    assert_faults(p, true, MSR_HYPERV, 0);
    assert_int_equal(read_msr(p, MSR_APIC_BASE), get_register(p, 0, WHvX64RegisterApicBase));
}

// No bit of ExtendedVmExits is needed for any of it.
static void test_list(void **state)
{
    WHV_PARTITION_HANDLE p = guest_with(list, LIST_SIZE, DEFAULT);

    (void)state;
    assert_list_works(p);
    assert_hr(set_list(p, list, 1), E_INVALIDARG);              // fixed by set-up
    assert_hr(set32(p, WHvPartitionPropertyCodeUnimplementedMsrAction, IGNORE), E_INVALIDARG);
    assert_list_works(p);
    assert_ok(WHvResetPartition(p));
    enter(p);
    assert_list_works(p);
    assert_ok(WHvDeletePartition(p));
}

// A processor that exits for other things too, and stops to: the list holds.
static void test_list_with_exits(void **state)
{
    const WHV_EXTENDED_VM_EXITS exits = {.X64MsrExit = 1}, none = {.AsUINT64 = 0};
    const WHV_X64_MSR_EXIT_BITMAP offered =
        engine_capability(WHvCapabilityCodeX64MsrExitBitmap).X64MsrExitBitmap;
    WHV_PARTITION_HANDLE p;

    NEEDS(engine_has_exits(exits));
    (void)state;
    p = guest_with(list, LIST_SIZE, DEFAULT);
    for (int round = 0; round < 3; round++) {
        set_exits(p, exits);
        assert_ok(set64(p, WHvPartitionPropertyCodeX64MsrExitBitmap, offered.AsUINT64));
        assert_exits(p, false, MSR_NOWHERE + 2);
        assert_exits(p, true, MSR_NOWHERE - 1);
        assert_exits(p, true, MSR_HYPERV);
        assert_ignored(p, false, MSR_TSC);                      // the list comes first
        assert_ignored(p, true, MSR_NOWHERE);
        if (offered.ApicBaseMsrWrite)
            assert_exits(p, true, MSR_APIC_BASE);
        set_exits(p, none);
        assert_list_works(p);
    }
    assert_ok(WHvDeletePartition(p));
}

// The last entry for a register counts, wherever the others stand.
static void test_last_entry(void **state)
{
    enum { COUNT = 1000 };
    static WHV_MSR_ACTION_ENTRY entries[2 * COUNT + 4];
    WHV_PARTITION_HANDLE p;
    unsigned int n = 0;

    (void)state;
    entries[n++] = (WHV_MSR_ACTION_ENTRY){.Index = MSR_FS_BASE, .ReadAction = IGNORE, .WriteAction = IGNORE};
    for (UINT32 i = 0; i < COUNT; i++)
        entries[n++] = (WHV_MSR_ACTION_ENTRY){.Index = 0x20000 + 3 * (i * 7 % COUNT), .ReadAction = EXIT,
                                              .WriteAction = EXIT};
    for (UINT32 i = 0; i < COUNT; i++)
        entries[n++] = (WHV_MSR_ACTION_ENTRY){.Index = 0x20000 + 3 * (i * 11 % COUNT), .ReadAction = IGNORE,
                                              .WriteAction = EXIT};
    entries[n++] = (WHV_MSR_ACTION_ENTRY){.Index = MSR_PAT, .ReadAction = EXIT, .WriteAction = EXIT};
    entries[n++] = (WHV_MSR_ACTION_ENTRY){.Index = MSR_FS_BASE, .ReadAction = EXIT, .WriteAction = EXIT};
    entries[n++] = (WHV_MSR_ACTION_ENTRY){.Index = MSR_PAT};
    p = guest_with(entries, n, DEFAULT);
    assert_exits(p, false, MSR_FS_BASE);
    assert_exits(p, true, MSR_FS_BASE);
    assert_int_equal(read_msr(p, MSR_PAT), get_register(p, 0, WHvX64RegisterPat));
    for (UINT32 i = 0; i < COUNT; i += 111) {
        assert_ignored(p, false, 0x20000 + 3 * i);
        assert_exits(p, true, 0x20000 + 3 * i);
        assert_faults(p, false, 0x20001 + 3 * i, 0);
    }
    assert_ok(WHvDeletePartition(p));
}

// An entry that is refused changes nothing.
static void test_bad_lists(void **state)
{
    static const WHV_MSR_ACTION_ENTRY bad[] = {
        {.Index = MSR_PAT, .ReadAction = EXIT + 1},
        {.Index = MSR_PAT, .WriteAction = 0xFF},
        {.Index = MSR_PAT, .Reserved = 1},
    };
    WHV_PARTITION_HANDLE p = created(1);

    (void)state;
    assert_ok(set_list(p, list, LIST_SIZE));
    for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_hr(set_list(p, &bad[i], 1), E_INVALIDARG);
    assert_hr(set32(p, WHvPartitionPropertyCodeUnimplementedMsrAction, EXIT + 1), E_INVALIDARG);
    start(p);
    assert_list_works(p);
    assert_ok(WHvDeletePartition(p));
}

// ---- Registers that are not there --------------------------------------------------------------------------------

static void test_unimplemented(void **state)
{
    const WHV_MSR_ACTION_ENTRY entries[] = {
        {.Index = MSR_NOWHERE},                                 // as the processor does: it faults
        {.Index = MSR_NOWHERE_TOO, .ReadAction = IGNORE, .WriteAction = EXIT},
    };
    const WHV_EXTENDED_VM_EXITS exits = {.X64MsrExit = 1};
    const bool may_exit = (engine_capability(WHvCapabilityCodeExtendedVmExits).ExtendedVmExits.X64MsrExit);
    WHV_PARTITION_HANDLE p;

    (void)state;
    for (WHV_MSR_ACTION action = DEFAULT; action <= EXIT; action++) {
        p = guest_with(entries, 2, action);
        for (int on = 0; on <= may_exit; on++) {
            if (on)
                set_exits(p, exits);
            for (int write = 0; write < 2; write++) {
                static const UINT32 unknown[] = {0x1234, 0x34567, MSR_HYPERV, 0xFFFFFFFF, MSR_X2APIC_ID};

                for (unsigned int i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
                    if (action == IGNORE)
                        assert_ignored(p, write, unknown[i]);
                    else if (action == EXIT || on)
                        assert_exits(p, write, unknown[i]);
                    else
                        assert_faults(p, write, unknown[i], 0);
                if (on)
                    assert_exits(p, write, MSR_NOWHERE);
                else
                    assert_faults(p, write, MSR_NOWHERE, 0);
            }
            assert_ignored(p, false, MSR_NOWHERE_TOO);
            assert_exits(p, true, MSR_NOWHERE_TOO);
            // A value that a register does not take is the guest's mistake, whatever is done about unknown ones.
            assert_faults(p, true, MSR_EFER, 0xFFFFFFFFFFFFFFFF);
            assert_int_equal(read_msr(p, MSR_EFER), get_register(p, 0, WHvX64RegisterEfer));
        }
        assert_ok(WHvDeletePartition(p));
    }
}

// ---- What else there is to an instruction ------------------------------------------------------------------------

static void test_user_mode(void **state)
{
    WHV_PARTITION_HANDLE p = guest_with(list, LIST_SIZE, IGNORE);
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    enter_user(p, CODE64);
    exit = access_msr(p, false, MSR_TSC, 0);
    assert_port_exit(&exit, 13);
    assert_ok(WHvDeletePartition(p));
}

// A step over an ignored access traps behind it, once.
static void test_single_step(void **state)
{
    WHV_PARTITION_HANDLE p = guest_with(list, LIST_SIZE, IGNORE);
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    for (int write = 0; write < 2; write++) {
        const UINT64 at = write ? WRMSR : RDMSR;

        enter(p);
        set_register(p, 0, WHvX64RegisterDr6, 0xFFFF0FF0);
        set_register(p, 0, WHvX64RegisterRflags, 0x102);
        exit = access_msr(p, write, MSR_TSC, 1);
        assert_port_exit(&exit, 1);
        assert_int_equal(peek64(memory, STACK - 40), AFTER(at));
        assert_int_equal(get_register(p, 0, WHvX64RegisterDr6) & 0x4000, 0x4000);
        set_register(p, 0, WHvX64RegisterRflags, 2);
    }
    assert_ok(WHvDeletePartition(p));
}

// The partition goes elsewhere, and its rules with it.
static void test_migration(void **state)
{
    WHV_PARTITION_HANDLE p = guest_with(list, LIST_SIZE, IGNORE), target;

    (void)state;
    assert_exits(p, false, MSR_FS_BASE);
    target = moved(p);
    assert_exits(target, false, MSR_FS_BASE);
    assert_exits(target, false, MSR_NOWHERE);
    assert_ignored(target, true, MSR_NOWHERE);
    assert_ignored(target, false, MSR_TSC);
    assert_ignored(target, false, 0x34567);
    assert_ok(WHvDeletePartition(target));
}

// ---- What KVM's filter has no room for -----------------------------------------------------------------------------

static bool engine_filters(void) { return strcmp(engine_name(), "kvm") == 0; }

// A list that KVM cannot have: refused there, and on its way on the soft engine. True: go on.
static bool accepted(WHV_PARTITION_HANDLE p, const WHV_MSR_ACTION_ENTRY *entry, const char *what)
{
    assert_ok(set_list(p, entry, 1));
    if (!engine_filters()) {
        start(p);
        return true;
    }
    assert_hr(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
    print_message("refused as documented: %s\n", what);
    assert_ok(set_list(p, entry, 0));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvDeletePartition(p));
    return false;
}

// Of the x2APIC.
static void test_x2apic(void **state)
{
    const WHV_MSR_ACTION_ENTRY entry = {.Index = MSR_X2APIC_ID, .ReadAction = EXIT, .WriteAction = IGNORE};
    WHV_PARTITION_HANDLE p;

    NEEDS(engine_has_apic());
    (void)state;
    p = created(1);
    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeX2Apic));
    if (!accepted(p, &entry, "actions about x2APIC registers"))
        return;
    assert_written(p, MSR_APIC_BASE, 0xFEE00D00);
    assert_exits(p, false, MSR_X2APIC_ID);
    assert_ignored(p, true, MSR_X2APIC_ID);                     // read-only: it would fault
    assert_int_equal(read_msr(p, MSR_X2APIC_ID + 1), 0x50014);
    assert_ok(WHvDeletePartition(p));
}

// Of the APIC's timer, written by the guest; reads are no matter.
static void test_deadline(void **state)
{
    const WHV_MSR_ACTION_ENTRY reads = {.Index = MSR_TSC_DEADLINE, .ReadAction = EXIT};
    const WHV_MSR_ACTION_ENTRY writes = {.Index = MSR_TSC_DEADLINE, .WriteAction = EXIT};
    WHV_PARTITION_HANDLE p;

    NEEDS(engine_has_apic());
    (void)state;
    p = created(1);
    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic));
    assert_ok(set_list(p, &reads, 1));
    start(p);
    assert_exits(p, false, MSR_TSC_DEADLINE);
    assert_ok(WHvDeletePartition(p));
    p = created(1);
    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic));
    if (!accepted(p, &writes, "actions about writes of IA32_TSC_DEADLINE"))
        return;
    assert_exits(p, true, MSR_TSC_DEADLINE);
    assert_int_equal(read_msr(p, MSR_TSC_DEADLINE), 0);
    assert_ok(WHvDeletePartition(p));
}

// Registers that lie far from each other, as many as there may be on every engine, and one more.
static void test_scattered(void **state)
{
    WHV_MSR_ACTION_ENTRY entries[9];
    WHV_PARTITION_HANDLE p;

    (void)state;
    for (UINT32 i = 0; i < 9; i++)
        entries[i] = (WHV_MSR_ACTION_ENTRY){.Index = 0x50000000 + 0x100000 * i, .ReadAction = EXIT,
                                            .WriteAction = EXIT};
    p = guest_with(entries, 8, DEFAULT);
    for (UINT32 i = 0; i < 8; i++) {
        assert_exits(p, false, entries[i].Index);
        assert_exits(p, true, entries[i].Index);
    }
    assert_ok(WHvDeletePartition(p));
    p = created(1);
    assert_ok(set_list(p, entries, 9));
    if (engine_filters()) {
        assert_hr(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
        print_message("refused as documented: actions about registers in more than 8 places\n");
        assert_ok(set_list(p, entries, 8));
    }
    start(p);
    assert_exits(p, true, entries[7].Index);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_list_with_exits),
        cmocka_unit_test(test_last_entry),
        cmocka_unit_test(test_bad_lists),
        cmocka_unit_test(test_unimplemented),
        cmocka_unit_test(test_user_mode),
        cmocka_unit_test(test_single_step),
        cmocka_unit_test(test_migration),
        cmocka_unit_test(test_x2apic),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_scattered),
    };

    return engine_run_tests(tests);
}
