// The engine under test, which BULKHEAD_ENGINE names: whether it runs here, what it lacks, how fast it is.
//
// A case that needs what the engine lacks does not just pass: it verifies the refusal that docs/engines.md
// promises and says "refused as documented", or it skips with a reason. tools/engine_table.py reads both lines.
// Include cmocka before.
#ifndef BULKHEAD_TESTS_SUPPORT_ENGINE_H
#define BULKHEAD_TESTS_SUPPORT_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "WinHvPlatform.h"
#include "bulkhead/bulkhead.h"

#define ENGINE_NOT_USABLE 77    // what the test runner takes for a skip

static inline const char *engine_name(void)
{
    const char *name = getenv("BULKHEAD_ENGINE");

    return name && *name ? name : "auto";
}

// Whether the engine can run partitions on this host; prints why not.
static inline bool engine_usable(void)
{
    BULKHEAD_ENGINE_INFO info = {.Size = sizeof(info)};

    if (strcmp(engine_name(), "auto") == 0)
        return true;
    for (UINT32 i = 0; BulkheadGetEngineInfo(i, &info) == S_OK; i++)
        if (strcmp(info.Name, engine_name()) == 0) {
            if (!info.Usable)
                printf("skipped: engine %s: %s\n", info.Name, info.Reason);
            return info.Usable;
        }
    printf("skipped: this build has no engine %s\n", engine_name());
    return false;
}

// All cases of a program, or a skip of it where its engine cannot run.
#define engine_run_tests_with(tests, setup, teardown)                                                        \
    (engine_usable() ? cmocka_run_group_tests(tests, setup, teardown) : ENGINE_NOT_USABLE)
#define engine_run_tests(tests) engine_run_tests_with(tests, NULL, NULL)

// Whether the kernel interprets the guest's instructions: the kvm engine on a processor without vmx and svm. What the
// kernel does differently from a processor then is not the engine's to mend.
static inline bool engine_is_interpreted(void)
{
    static char text[16384];
    FILE *file;
    size_t size;

    if (strcmp(engine_name(), "kvm") != 0)
        return false;
    file = fopen("/proc/cpuinfo", "re");
    size = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
    if (file)
        fclose(file);
    text[size] = '\0';
    return !strstr(text, " vmx") && !strstr(text, " svm");
}

// How often to repeat what takes long: such a kernel runs guests a hundred times slower than the soft engine does.
static inline UINT32 rounds(UINT32 count)
{
    const UINT32 less = engine_is_interpreted() ? count / 20 : count;

    return less ? less : 1;
}

// ---- What an engine may lack -------------------------------------------------------------------

#define SKIP_BECAUSE(reason)                                                                                 \
    do {                                                                                                     \
        print_message("skipped: %s\n", reason);                                                              \
        skip();                                                                                              \
    } while (0)

static inline WHV_CAPABILITY engine_capability(WHV_CAPABILITY_CODE code)
{
    WHV_CAPABILITY value;

    memset(&value, 0, sizeof(value));
    assert_int_equal(WHvGetCapability(code, &value, sizeof(value), NULL), S_OK);
    return value;
}

// The engine refuses a property's value: WHvSetPartitionProperty does while the engine is named,
// WHvSetupPartition does when the value was set before, under another name. Neither changes anything.
static inline void engine_refuses(WHV_PARTITION_PROPERTY_CODE code, UINT64 value, const char *what)
{
    UINT64 before = 0, after = 1;
    UINT32 count = 1;
    WHV_PARTITION_HANDLE p;

    assert_int_equal(WHvCreatePartition(&p), S_OK);
    assert_int_equal(
        WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count)), S_OK);
    assert_int_equal(WHvGetPartitionProperty(p, code, &before, sizeof(before), NULL), S_OK);
    assert_int_equal(WHvSetPartitionProperty(p, code, &value, sizeof(value)), E_INVALIDARG);
    assert_int_equal(WHvGetPartitionProperty(p, code, &after, sizeof(after), NULL), S_OK);
    assert_int_equal(before, after);
    assert_int_equal(BulkheadSetEngine(p, "soft"), S_OK);
    assert_int_equal(WHvSetPartitionProperty(p, code, &value, sizeof(value)), S_OK);
    assert_int_equal(BulkheadSetEngine(p, engine_name()), S_OK);
    assert_int_equal(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
    assert_int_equal(BulkheadSetEngine(p, "soft"), S_OK);
    assert_int_equal(WHvSetupPartition(p), S_OK);
    assert_int_equal(WHvDeletePartition(p), S_OK);
    print_message("refused as documented: %s\n", what);
}

// Names of the exits that an engine may lack, as the relaxations of docs/engines.md have them.
static inline const char *engine_exit_name(WHV_EXTENDED_VM_EXITS exits)
{
    return exits.X64CpuidExit              ? "CPUID exits"
           : exits.X64RdtscExit              ? "RDTSC exits"
           : exits.HypercallExit             ? "hypercall exits"
           : exits.X64MsrExit                ? "MSR exits"
           : exits.ExceptionExit             ? "exception exits"
           : exits.X64ApicSmiExitTrap        ? "SMI exits"
           : exits.X64ApicInitSipiExitTrap   ? "INIT and start-up exits"
           : exits.X64ApicWriteLint0ExitTrap ? "exits for writes of LINT0"
           : exits.X64ApicWriteLint1ExitTrap ? "exits for writes of LINT1"
           : exits.X64ApicWriteSvrExitTrap   ? "exits for writes of SVR"
           : exits.X64ApicWriteLdrExitTrap   ? "exits for writes of LDR"
           : exits.X64ApicWriteDfrExitTrap   ? "exits for writes of DFR"
           : exits.UnknownSynicConnection    ? "exits for unknown SynIC connections"
           : exits.RetargetUnknownVpciDevice ? "exits for unknown VPCI devices"
           : exits.GpaAccessFaultExit        ? "exits for access faults"
           :                                   "these exits";
}

// False when the engine lacks one of the exits: the refusal is verified and told then.
static inline bool engine_has_exits(WHV_EXTENDED_VM_EXITS exits)
{
    WHV_EXTENDED_VM_EXITS missing = engine_capability(WHvCapabilityCodeExtendedVmExits).ExtendedVmExits;

    missing.AsUINT64 = exits.AsUINT64 & ~missing.AsUINT64;
    if (missing.AsUINT64)
        engine_refuses(WHvPartitionPropertyCodeExtendedVmExits, missing.AsUINT64, engine_exit_name(missing));
    return !missing.AsUINT64;
}

// The same for the exception vectors of a bitmap.
static inline bool engine_has_vectors(UINT64 vectors)
{
    const UINT64 offered = engine_capability(WHvCapabilityCodeExceptionExitBitmap).ExceptionExitBitmap;
    char what[64];

    if (vectors && !engine_has_exits((WHV_EXTENDED_VM_EXITS){.ExceptionExit = 1}))
        return false;
    for (unsigned int vector = 0; vector < 64; vector++)
        if (vectors & ~offered & 1ull << vector) {
            snprintf(what, sizeof(what), "exits for exception %u", vector);
            engine_refuses(WHvPartitionPropertyCodeExceptionExitBitmap, 1ull << vector, what);
        }
    return (vectors & ~offered) == 0;
}

// Local APIC emulation; the modes XApic and X2Apic come together.
static inline bool engine_has_apic(void)
{
    if (engine_capability(WHvCapabilityCodeFeatures).Features.LocalApicEmulation)
        return true;
    engine_refuses(WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic,
                   "local APIC emulation");
    return false;
}

// Ends the case where the engine lacks it.
#define NEEDS(has)                                                                                           \
    do {                                                                                                     \
        if (!(has))                                                                                          \
            return;                                                                                          \
    } while (0)

// ---- What a KVM without virtualisation hardware cannot run --------------------------------------

// Whether a real-mode guest gets over the instructions, with CR0 and CR4 as x87 and SSE want them.
static inline bool engine_executes(const void *code, size_t size)
{
    static uint8_t pages[2][4096] __attribute__((aligned(4096)));
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip, WHvX64RegisterCr0,
                                              WHvX64RegisterCr4};
    const WHV_MAP_GPA_RANGE_FLAGS all =
        WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute;
    WHV_REGISTER_VALUE values[4];
    WHV_RUN_VP_EXIT_CONTEXT exit;
    UINT32 count = 1;
    WHV_PARTITION_HANDLE p;
    HRESULT hr;

    assert_int_equal(WHvCreatePartition(&p), S_OK);
    assert_int_equal(
        WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count)), S_OK);
    assert_int_equal(WHvSetupPartition(p), S_OK);
    assert_int_equal(WHvCreateVirtualProcessor(p, 0, 0), S_OK);
    memset(pages, 0xF4, sizeof(pages));                 // an exception's handler is where no memory is
    memcpy(pages[1], code, size);
    memcpy(pages[1] + size, "\xE6\x10", 2);             // out 0x10, al
    assert_int_equal(WHvMapGpaRange(p, pages, 0, sizeof(pages), all), S_OK);
    memset(values, 0, sizeof(values));
    values[0].Segment.Limit = 0xFFFF;
    values[0].Segment.Attributes = 0x9B;
    values[1].Reg64 = 0x1000;
    values[2].Reg64 = 0x30;                             // NE, ET
    values[3].Reg64 = 0x600;                            // OSFXSR, OSXMMEXCPT
    assert_int_equal(WHvSetVirtualProcessorRegisters(p, 0, names, 4, values), S_OK);
    hr = WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit));
    assert_int_equal(WHvDeletePartition(p), S_OK);
    return hr == S_OK && exit.ExitReason == WHvRunVpExitReasonX64IoPortAccess;
}

// The case has the guest execute SSE and x87 arithmetic. The soft engine always does: nothing is asked there.
static inline void needs_vector_code(void)
{
    static const uint8_t code[] = {0x0F, 0x58, 0xC1,    // addps xmm0, xmm1
                                   0xDB, 0xE3,          // fninit
                                   0xD9, 0xE8,          // fld1
                                   0xD9, 0xE8,
                                   0xDE, 0xC1};         // faddp

    if (strcmp(engine_name(), "soft") != 0 && !engine_executes(code, sizeof(code)))
        SKIP_BECAUSE("this host's KVM runs no SSE and x87 arithmetic in guests");
}

// KVM tells of some accesses when it has done them: docs/engines.md lists what is lost by then.
static inline bool engine_may_lose_shadow(void)
{
    return strcmp(engine_name(), "kvm") == 0;
}

// Then CPL 3 is user mode of the host, which has no ports.
static inline bool engine_may_refuse_user_ports(void)
{
    return engine_is_interpreted();
}

// The kernel goes on reading page tables that the host has made inaccessible: docs/engines.md lists this limit.
static inline bool engine_misses_page_tables(void)
{
    return strcmp(engine_name(), "kvm") != 0;
}

// KVM leaves accessed and dirty bits out where a page table cannot be written: docs/engines.md lists this limit.
static inline bool engine_sees_accessed_bits(void)
{
    return strcmp(engine_name(), "kvm") != 0;
}

// SGDT, FXSAVE and the like reach memory by a way of their own in a kernel that interprets the guest, and it tries them
// for ever where there is none: docs/engines.md lists this limit.
static inline bool engine_comes_back_from_system_accesses(void)
{
    return !engine_is_interpreted();
}

// The host's KVM cannot keep a guest from executing what it may read: docs/engines.md lists this limit.
static inline bool engine_forbids_execution(void)
{
    return strcmp(engine_name(), "kvm") != 0;
}

#endif
