// The exits that a partition asks for: CPUID, MSRs, RDTSC, hypercalls; and what the guest gets without them.
#include "modes.h"

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

// ---- CPUID -------------------------------------------------------------------------------------

static const uint8_t cpuid_code[] = {0x0F, 0xA2, 0xE6, 0x10};      // cpuid; out 0x10, al

static WHV_RUN_VP_EXIT_CONTEXT cpuid_at(WHV_PARTITION_HANDLE p, UINT32 leaf, UINT32 subleaf)
{
    set_register(p, 0, WHvX64RegisterRip, CODE);
    set_register(p, 0, WHvX64RegisterRax, 0xFFFFFFFF00000000 | leaf);
    set_register(p, 0, WHvX64RegisterRcx, 0xFFFFFFFF00000000 | subleaf);
    return run(p, 0);
}

static WHV_CPUID_OUTPUT guest_cpuid(WHV_PARTITION_HANDLE p, UINT32 leaf, UINT32 subleaf)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = cpuid_at(p, leaf, subleaf);
    WHV_CPUID_OUTPUT out;

    assert_port_exit(&exit, 0x10);
    out.Eax = (UINT32)get_register(p, 0, WHvX64RegisterRax);
    out.Ebx = (UINT32)get_register(p, 0, WHvX64RegisterRbx);
    out.Ecx = (UINT32)get_register(p, 0, WHvX64RegisterRcx);
    out.Edx = (UINT32)get_register(p, 0, WHvX64RegisterRdx);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRax) >> 32, 0);
    return out;
}

static void assert_cpuid_exit(WHV_PARTITION_HANDLE p, UINT32 leaf, UINT32 subleaf)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = cpuid_at(p, leaf, subleaf);
    const WHV_X64_CPUID_ACCESS_CONTEXT *c = &exit.CpuidAccess;
    WHV_CPUID_OUTPUT out;

    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64Cpuid);
    assert_int_equal(exit.VpContext.Rip, CODE);
    assert_int_equal(exit.VpContext.InstructionLength, 2);
    assert_int_equal(c->Rax, 0xFFFFFFFF00000000 | leaf);
    assert_int_equal(c->Rcx, 0xFFFFFFFF00000000 | subleaf);
    assert_int_equal(c->Rbx, get_register(p, 0, WHvX64RegisterRbx));
    assert_int_equal(c->Rdx, get_register(p, 0, WHvX64RegisterRdx));
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, leaf, subleaf, &out));
    assert_int_equal(c->DefaultResultRax, out.Eax);
    assert_int_equal(c->DefaultResultRbx, out.Ebx);
    assert_int_equal(c->DefaultResultRcx, out.Ecx);
    assert_int_equal(c->DefaultResultRdx, out.Edx);
}

static void test_cpuid_exits(void **state)
{
    const WHV_EXTENDED_VM_EXITS exits = {.X64CpuidExit = 1};
    const UINT32 list[] = {1, 0x40000000};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    NEEDS(engine_has_exits(exits));
    (void)state;
    p = guest(memory, cpuid_code, sizeof(cpuid_code));
    // A list alone makes nothing exit.
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidExitList, list, sizeof(list)));
    guest_cpuid(p, 1, 0);
    set_exits(p, exits);
    assert_cpuid_exit(p, 1, 0);
    assert_cpuid_exit(p, 0x40000000, 7);
    guest_cpuid(p, 0, 0);
    // With an empty list, every leaf exits, also those that the processor has not.
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidExitList, list, 0));
    assert_cpuid_exit(p, 0, 0);
    assert_cpuid_exit(p, 0xB, 1);
    assert_cpuid_exit(p, 0x80000008, 0);
    assert_cpuid_exit(p, 0x12345678, 0);
    // The client completes it by registers.
    set_register(p, 0, WHvX64RegisterRax, 0x42);
    set_register(p, 0, WHvX64RegisterRip, CODE + 2);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_int_equal(exit.IoPortAccess.Rax, 0x42);
    assert_ok(WHvDeletePartition(p));
}

// WHvGetVirtualProcessorCpuidOutput tells what the guest sees, leaf by leaf, result lists included.
static void test_cpuid_output(void **state)
{
    const WHV_X64_CPUID_RESULT result = {.Function = 0x40000000, .Eax = 0x40000001, .Ebx = 0x12345678};
    const WHV_X64_CPUID_RESULT2 results2[] = {
        {.Function = 4, .Index = 1, .Flags = WHvX64CpuidResult2FlagSubleafSpecific,
         .Output = {.Ecx = 0x1234}, .Mask = {.Ecx = 0xFFFF}},
        {.Function = 0x80000002, .VpIndex = 1, .Flags = WHvX64CpuidResult2FlagVpSpecific,
         .Output = {.Eax = 0x11111111}, .Mask = {.Eax = 0xFFFFFFFF}},
    };
    static const UINT32 leaves[] = {0,          1,          2,          4,          7,          0xB,
                                    0xD,        0x15,       0x16,       0x40000000, 0x40000001, 0x80000000,
                                    0x80000001, 0x80000002, 0x80000003, 0x80000004, 0x80000005, 0x80000006,
                                    0x80000007, 0x80000008, 0x8000001D, 0x8000001E, 0x80000021, 0xFFFFFFFF};
    WHV_PARTITION_HANDLE p = created(2);
    WHV_CPUID_OUTPUT told, seen;

    (void)state;
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidResultList, &result, sizeof(result)));
    assert_ok(
        WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidResultList2, results2, sizeof(results2)));
    assert_ok(WHvSetupPartition(p));
    memcpy(memory + CODE, cpuid_code, sizeof(cpuid_code));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
    start_at(p, 0, CODE);
    for (unsigned int i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++)
        for (UINT32 subleaf = 0; subleaf < 5; subleaf++) {
            seen = guest_cpuid(p, leaves[i], subleaf);
            assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, leaves[i], subleaf, &told));
            assert_memory_equal(&seen, &told, sizeof(seen));
        }
    assert_int_equal(guest_cpuid(p, 0x40000000, 0).Ebx, 0x12345678);
    assert_int_equal(guest_cpuid(p, 4, 1).Ecx & 0xFFFF, 0x1234);
    assert_int_not_equal(guest_cpuid(p, 4, 0).Ecx & 0xFFFF, 0x1234);
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 1, 0x80000002, 0, &told));
    assert_int_equal(told.Eax, 0x11111111);
    assert_int_not_equal(guest_cpuid(p, 0x80000002, 0).Eax, 0x11111111);
    assert_ok(WHvDeletePartition(p));
}

// What a guest must not see, and what it must.
static void test_cpuid_features(void **state)
{
    NEEDS(engine_has_apic());
    for (WHV_X64_LOCAL_APIC_EMULATION_MODE mode = WHvX64LocalApicEmulationModeNone;
         mode <= WHvX64LocalApicEmulationModeX2Apic; mode++) {
        WHV_PARTITION_HANDLE p = created(1);
        WHV_CPUID_OUTPUT out;

        (void)state;
        assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, mode));
        assert_ok(WHvSetupPartition(p));
        assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
        assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 1, 0, &out));
        assert_int_equal(out.Ecx >> 3 & 1, 0);          // MONITOR
        assert_int_equal(out.Ecx >> 5 & 1, 0);          // VMX
        assert_int_equal(out.Ecx >> 15 & 1, 0);         // PDCM
        assert_int_equal(out.Ecx >> 31, 0);             // a hypervisor
        assert_int_equal(out.Ecx >> 21 & 1, mode == WHvX64LocalApicEmulationModeX2Apic);
        assert_int_equal(out.Edx >> 9 & 1, 1);          // a local APIC
        assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 0x40000000, 0, &out));
        assert_int_equal(out.Eax | out.Ebx | out.Ecx | out.Edx, 0);
        assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 0x80000001, 0, &out));
        assert_int_equal(out.Ecx >> 2 & 1, 0);          // SVM
        assert_ok(WHvDeletePartition(p));
    }
}

// ---- MSRs --------------------------------------------------------------------------------------

static const uint8_t rdmsr_code[] = {0x0F, 0x32, 0xE6, 0x10};      // rdmsr; out 0x10, al
static const uint8_t wrmsr_code[] = {0x0F, 0x30, 0xE6, 0x10};      // wrmsr; out 0x10, al

#define MSR_NOWHERE 0x12345u
#define MSR_TSC 0x10u
#define MSR_APIC_BASE 0x1Bu
#define MSR_PATCH_LEVEL 0x8Bu
#define MSR_MISC_ENABLE 0x1A0u
#define MSR_EFER 0xC0000080u

static WHV_RUN_VP_EXIT_CONTEXT access_msr(WHV_PARTITION_HANDLE p, bool write, UINT32 msr, UINT64 value)
{
    memcpy(memory + CODE, write ? wrmsr_code : rdmsr_code, sizeof(rdmsr_code));
    return run_msr_access(p, CODE, msr, value);
}

static void assert_msr_exit(WHV_PARTITION_HANDLE p, bool write, UINT32 msr)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = access_msr(p, write, msr, MSR_VALUE);

    assert_msr_access(&exit, write, msr, CODE);
}

static void assert_no_msr_exit(WHV_PARTITION_HANDLE p, bool write, UINT32 msr, UINT64 value)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = access_msr(p, write, msr, value);

    assert_port_exit(&exit, 0x10);
}

static void assert_msr_faults(WHV_PARTITION_HANDLE p, bool write, UINT32 msr, UINT64 value)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = access_msr(p, write, msr, value);

    assert_port_exit(&exit, 13);
}

static WHV_PARTITION_HANDLE msr_guest(void)
{
    WHV_PARTITION_HANDLE p = guest(memory, rdmsr_code, sizeof(rdmsr_code));

    enter_long(p, memory);
    set_gate(memory, true, 13);
    return p;
}

// The bits of the bitmap that name one access, with a value that may be written.
static const struct {
    WHV_X64_MSR_EXIT_BITMAP bit;
    bool write;
    UINT32 msr;
    UINT64 value;
} listed[] = {
    {{.TscMsrWrite = 1}, true, MSR_TSC, 0},
    {{.TscMsrRead = 1}, false, MSR_TSC, 0},
    {{.ApicBaseMsrWrite = 1}, true, MSR_APIC_BASE, 0xFEE00900},
    {{.MiscEnableMsrRead = 1}, false, MSR_MISC_ENABLE, 0},
    {{.McUpdatePatchLevelMsrRead = 1}, false, MSR_PATCH_LEVEL, 0},
};

// A processor without the register makes every access one that would fault.
static bool has_misc_enable(WHV_PARTITION_HANDLE p)
{
    UINT64 before;
    bool has;

    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeX64MsrExitBitmap, &before, sizeof(before), NULL));
    assert_ok(set64(p, WHvPartitionPropertyCodeX64MsrExitBitmap, 0));
    has = access_msr(p, false, MSR_MISC_ENABLE, 0).ExitReason != WHvRunVpExitReasonX64MsrAccess;
    assert_ok(set64(p, WHvPartitionPropertyCodeX64MsrExitBitmap, before));
    return has;
}

static void test_msr_exits(void **state)
{
    const WHV_EXTENDED_VM_EXITS exits = {.X64MsrExit = 1};
    WHV_X64_MSR_EXIT_BITMAP bitmap = {.AsUINT64 = 0};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;
    WHV_CAPABILITY offered;

    NEEDS(engine_has_exits(exits));
    (void)state;
    p = msr_guest();
    // Nothing was asked for: an unknown one faults, and a bitmap alone changes nothing.
    assert_msr_faults(p, false, MSR_NOWHERE, 0);
    assert_msr_faults(p, true, MSR_NOWHERE, 0);
    bitmap.TscMsrRead = 1;
    assert_ok(set64(p, WHvPartitionPropertyCodeX64MsrExitBitmap, bitmap.AsUINT64));
    assert_no_msr_exit(p, false, MSR_TSC, 0);
    assert_ok(set64(p, WHvPartitionPropertyCodeX64MsrExitBitmap, 0));
    // X64MsrExit alone: those that would fault, and no others.
    set_exits(p, exits);
    assert_msr_exit(p, false, MSR_NOWHERE);
    assert_msr_exit(p, true, MSR_NOWHERE);
    assert_no_msr_exit(p, false, MSR_EFER, 0);
    assert_no_msr_exit(p, false, MSR_TSC, 0);
    assert_no_msr_exit(p, true, MSR_TSC, 0);
    assert_no_msr_exit(p, false, MSR_APIC_BASE, 0);
    assert_no_msr_exit(p, true, MSR_APIC_BASE, 0xFEE00900);
    assert_no_msr_exit(p, false, MSR_PATCH_LEVEL, 0);
    // A value that the register does not take is the guest's mistake.
    assert_msr_faults(p, true, MSR_EFER, 0xFFFFFFFFFFFFFFFF);
    // The bitmap adds to them, as far as the engine offers it.
    assert_ok(WHvGetCapability(WHvCapabilityCodeX64MsrExitBitmap, &offered, sizeof(offered), NULL));
    assert_ok(set64(p, WHvPartitionPropertyCodeX64MsrExitBitmap, offered.X64MsrExitBitmap.AsUINT64));
    assert_msr_exit(p, false, MSR_NOWHERE);
    if (offered.X64MsrExitBitmap.TscMsrRead)
        assert_msr_exit(p, false, MSR_TSC);
    if (offered.X64MsrExitBitmap.TscMsrWrite)
        assert_msr_exit(p, true, MSR_TSC);
    if (offered.X64MsrExitBitmap.ApicBaseMsrWrite)
        assert_msr_exit(p, true, MSR_APIC_BASE);
    if (offered.X64MsrExitBitmap.McUpdatePatchLevelMsrRead)
        assert_msr_exit(p, false, MSR_PATCH_LEVEL);
    if (offered.X64MsrExitBitmap.MiscEnableMsrRead)
        assert_msr_exit(p, false, MSR_MISC_ENABLE);
    // Each alone, and only its own access.
    for (unsigned int i = 0; i < sizeof(listed) / sizeof(listed[0]); i++) {
        if (!(listed[i].bit.AsUINT64 & offered.X64MsrExitBitmap.AsUINT64))
            continue;
        assert_ok(set64(p, WHvPartitionPropertyCodeX64MsrExitBitmap, listed[i].bit.AsUINT64));
        for (unsigned int n = 0; n < sizeof(listed) / sizeof(listed[0]); n++)
            if (n == i)
                assert_msr_exit(p, listed[n].write, listed[n].msr);
            else if (listed[n].msr != MSR_MISC_ENABLE || has_misc_enable(p))
                assert_no_msr_exit(p, listed[n].write, listed[n].msr, listed[n].value);
    }
    assert_no_msr_exit(p, false, MSR_APIC_BASE, 0);
    assert_no_msr_exit(p, false, MSR_EFER, 0);
    // The client completes a read, and a write.
    assert_msr_exit(p, false, MSR_NOWHERE);
    set_register(p, 0, WHvX64RegisterRax, 0x77);
    set_register(p, 0, WHvX64RegisterRdx, 0x88);
    set_register(p, 0, WHvX64RegisterRip, CODE + 2);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_int_equal(exit.IoPortAccess.Rax, 0x77);
    assert_ok(WHvDeletePartition(p));
}

// The x2APIC's registers are not there without that mode, and an unknown one is what they are then.
static void test_x2apic_msrs(void **state)
{
    const WHV_EXTENDED_VM_EXITS exits = {.X64MsrExit = 1};
    const UINT32 version = 0x803;

    NEEDS(engine_has_exits(exits) && engine_has_apic());
    (void)state;
    for (WHV_X64_LOCAL_APIC_EMULATION_MODE mode = WHvX64LocalApicEmulationModeNone;
         mode <= WHvX64LocalApicEmulationModeX2Apic; mode++) {
        WHV_PARTITION_HANDLE p = created(1);

        assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, mode));
        set_exits(p, exits);
        assert_ok(WHvSetupPartition(p));
        assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
        assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
        enter_long(p, memory);
        set_gate(memory, true, 13);
        if (mode == WHvX64LocalApicEmulationModeX2Apic) {
            assert_msr_faults(p, false, version, 0);            // there, and not switched on
            set_register(p, 0, WHvX64RegisterRsp, STACK);
            assert_no_msr_exit(p, true, MSR_APIC_BASE, 0xFEE00D00);
            assert_no_msr_exit(p, false, version, 0);
            assert_int_equal(get_register(p, 0, WHvX64RegisterRax), 0x50014);
        } else {
            assert_msr_exit(p, false, version);
            assert_msr_exit(p, true, version);
        }
        assert_ok(WHvDeletePartition(p));
    }
}

// An access that the privilege level forbids faults and does not exit.
static void test_msr_in_user_mode(void **state)
{
    const WHV_EXTENDED_VM_EXITS exits = {.X64MsrExit = 1};
    WHV_PARTITION_HANDLE p;

    NEEDS(engine_has_exits(exits));
    (void)state;
    p = msr_guest();
    set_exits(p, exits);
    enter_user(p, CODE64);
    assert_msr_faults(p, false, MSR_NOWHERE, 0);
    assert_ok(WHvDeletePartition(p));
}

// ---- RDTSC -------------------------------------------------------------------------------------

static void test_rdtsc_exits(void **state)
{
    static const uint8_t code[] = {0x0F, 0x31, 0x0F, 0x01, 0xF9, 0xE6, 0x10};  // rdtsc; rdtscp; out 0x10, al
    const WHV_EXTENDED_VM_EXITS exits = {.X64RdtscExit = 1};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;
    UINT64 before, after;

    NEEDS(engine_has_exits(exits));
    (void)state;
    p = guest(memory, code, sizeof(code));
    enter_long(p, memory);
    set_exits(p, exits);
    set_register(p, 0, WHvX64RegisterTscAux, 0x4711);
    set_register(p, 0, WHvX64RegisterTsc, 1ull << 40);
    before = get_register(p, 0, WHvX64RegisterTsc);
    assert_true(before >= 1ull << 40);
    exit = run(p, 0);
    after = get_register(p, 0, WHvX64RegisterTsc);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64Rdtsc);
    assert_int_equal(exit.ReadTsc.RdtscInfo.IsRdtscp, 0);
    assert_int_equal(exit.VpContext.Rip, CODE);
    assert_int_equal(exit.VpContext.InstructionLength, 2);
    assert_in_range(exit.ReadTsc.Tsc, before, after);
    assert_int_equal(exit.ReadTsc.TscAux, 0x4711);
    assert_int_equal(exit.ReadTsc.VirtualOffset, get_register(p, 0, WHvX64RegisterTscVirtualOffset));
    set_register(p, 0, WHvX64RegisterRip, CODE + 2);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64Rdtsc);
    assert_int_equal(exit.ReadTsc.RdtscInfo.IsRdtscp, 1);
    assert_int_equal(exit.VpContext.InstructionLength, 3);
    set_register(p, 0, WHvX64RegisterRip, CODE + 5);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    // Not asked for any more: the guest reads it itself.
    set_exits(p, (WHV_EXTENDED_VM_EXITS){.AsUINT64 = 0});
    set_register(p, 0, WHvX64RegisterRip, CODE);
    before = get_register(p, 0, WHvX64RegisterTsc);
    exit = run(p, 0);
    after = get_register(p, 0, WHvX64RegisterTsc);
    assert_port_exit(&exit, 0x10);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRcx), 0x4711);
    assert_in_range(get_register(p, 0, WHvX64RegisterRdx) << 32 | exit.IoPortAccess.Rax, before, after);
    assert_ok(WHvDeletePartition(p));
}

// ---- Hypercalls --------------------------------------------------------------------------------

static void test_hypercall_exits(void **state)
{
    static const uint8_t calls[][5] = {{0x0F, 0x01, 0xC1, 0xE6, 0x10}, {0x0F, 0x01, 0xD9, 0xE6, 0x10}};
    const WHV_EXTENDED_VM_EXITS exits = {.HypercallExit = 1};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_REGISTER_NAME name = WHvX64RegisterXmm5;
    WHV_REGISTER_VALUE value;

    NEEDS(engine_has_exits(exits));
    (void)state;
    for (int i = 0; i < 2; i++) {       // VMCALL, VMMCALL
        WHV_PARTITION_HANDLE p = guest(memory, calls[i], sizeof(calls[i]));

        enter_long(p, memory);
        set_gate(memory, true, 6);
        exit = run(p, 0);
        assert_port_exit(&exit, 6);     // not asked for: there is no such instruction

        set_exits(p, exits);
        set_register(p, 0, WHvX64RegisterRip, CODE);
        set_register(p, 0, WHvX64RegisterRax, 1);
        set_register(p, 0, WHvX64RegisterRbx, 2);
        set_register(p, 0, WHvX64RegisterRcx, 3);
        set_register(p, 0, WHvX64RegisterRdx, 4);
        set_register(p, 0, WHvX64RegisterR8, 5);
        set_register(p, 0, WHvX64RegisterRsi, 6);
        set_register(p, 0, WHvX64RegisterRdi, 7);
        memset(&value, 0x5C, sizeof(value));
        assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value));
        exit = run(p, 0);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonHypercall);
        assert_int_equal(exit.VpContext.Rip, CODE);
        assert_int_equal(exit.VpContext.InstructionLength, 3);
        assert_int_equal(exit.Hypercall.Rax, 1);
        assert_int_equal(exit.Hypercall.Rbx, 2);
        assert_int_equal(exit.Hypercall.Rcx, 3);
        assert_int_equal(exit.Hypercall.Rdx, 4);
        assert_int_equal(exit.Hypercall.R8, 5);
        assert_int_equal(exit.Hypercall.Rsi, 6);
        assert_int_equal(exit.Hypercall.Rdi, 7);
        assert_memory_equal(&exit.Hypercall.XmmRegisters[5], &value, 16);
        set_register(p, 0, WHvX64RegisterRip, CODE + 3);
        exit = run(p, 0);
        assert_port_exit(&exit, 0x10);
        assert_ok(WHvDeletePartition(p));
    }
}

// A signal to a connection, or a retarget of a device, that does not exist: an exit for who has asked for it, and for no
// other call.
static void test_calls_of_the_unknown(void **state)
{
    static const uint8_t calls[][5] = {{0x0F, 0x01, 0xC1, 0xE6, 0x10}, {0x0F, 0x01, 0xD9, 0xE6, 0x10}};
    static const struct { WHV_EXTENDED_VM_EXITS exit; UINT64 input; } kinds[] = {
        {{.UnknownSynicConnection = 1}, 0x1005D},           // HvCallSignalEvent, fast
        {{.UnknownSynicConnection = 1}, 0x5D},
        {{.RetargetUnknownVpciDevice = 1}, 0x7E},           // HvCallRetargetDeviceInterrupt
    };

    (void)state;
    for (unsigned int i = 0; i < 6; i++) {
        const WHV_EXTENDED_VM_EXITS asked = kinds[i % 3].exit;
        const UINT64 input = kinds[i % 3].input;
        WHV_EXTENDED_VM_EXITS other = {.UnknownSynicConnection = 1, .RetargetUnknownVpciDevice = 1};
        WHV_RUN_VP_EXIT_CONTEXT exit;
        WHV_PARTITION_HANDLE p;

        if (!engine_has_exits(asked))
            continue;
        other.AsUINT64 &= ~asked.AsUINT64;
        p = guest(memory, calls[i / 3], sizeof(calls[0]));      // VMCALL, VMMCALL
        enter_long(p, memory);
        set_gate(memory, true, 6);
        set_exits(p, asked);
        set_register(p, 0, WHvX64RegisterRax, 0x7F);
        set_register(p, 0, WHvX64RegisterRcx, input);
        set_register(p, 0, WHvX64RegisterRdx, 0x1234);
        exit = run(p, 0);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonHypercall);
        assert_int_equal(exit.VpContext.Rip, CODE);
        assert_int_equal(exit.VpContext.InstructionLength, 3);
        assert_int_equal(exit.Hypercall.Rcx, input);
        assert_int_equal(exit.Hypercall.Rdx, 0x1234);
        set_exits(p, other);                                    // somebody else's exit
        exit = run(p, 0);
        assert_port_exit(&exit, 6);
        set_exits(p, asked);
        set_register(p, 0, WHvX64RegisterRip, CODE);
        set_register(p, 0, WHvX64RegisterRcx, 0x5C);            // HvCallPostMessage
        exit = run(p, 0);
        assert_port_exit(&exit, 6);
        set_register(p, 0, WHvX64RegisterRip, CODE);
        set_register(p, 0, WHvX64RegisterRcx, input);
        enter_user(p, CODE64);                                  // not a program's to make
        exit = run(p, 0);
        assert_port_exit(&exit, 6);
        // Outside of 64-bit code the call is in EDX:EAX.
        enter_protected(p, memory);
        set_gate(memory, false, 6);
        set_register(p, 0, WHvX64RegisterEfer, 0);
        set_register(p, 0, WHvX64RegisterCr4, 0);
        exit = run(p, 0);
        assert_port_exit(&exit, 6);
        set_register(p, 0, WHvX64RegisterRip, CODE);
        set_register(p, 0, WHvX64RegisterRax, input);
        exit = run(p, 0);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonHypercall);
        assert_int_equal(exit.Hypercall.Rax, input);
        assert_ok(WHvDeletePartition(p));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpuid_exits),
        cmocka_unit_test(test_cpuid_output),
        cmocka_unit_test(test_cpuid_features),
        cmocka_unit_test(test_msr_exits),
        cmocka_unit_test(test_x2apic_msrs),
        cmocka_unit_test(test_msr_in_user_mode),
        cmocka_unit_test(test_rdtsc_exits),
        cmocka_unit_test(test_hypercall_exits),
        cmocka_unit_test(test_calls_of_the_unknown),
    };

    return engine_run_tests(tests);
}
