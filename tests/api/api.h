// What every test through the public API includes: cmocka, the headers, and a partition with a small
// real-mode guest.
//
// The engine under test is the one that BULKHEAD_ENGINE names.
#ifndef BULKHEAD_TESTS_API_H
#define BULKHEAD_TESTS_API_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support/engine.h"

// Compare HRESULTs as the unsigned numbers that the reference writes.
#define assert_hr(actual, expected) assert_int_equal((uint32_t)(actual), (uint32_t)(expected))
#define assert_ok(actual) assert_hr(actual, 0)

#define INVALID_STATE HRESULT_FROM_WIN32(ERROR_INVALID_STATE)
#define NOT_SUPPORTED HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)

#define PAGE 4096u
#define CODE 0x1000u        // where a guest's code is put
#define RW ((WHV_MAP_GPA_RANGE_FLAGS)(WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite))
#define RX ((WHV_MAP_GPA_RANGE_FLAGS)(WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute))
#define RWX                                                                                                  \
    ((WHV_MAP_GPA_RANGE_FLAGS)(WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute))

static inline HRESULT set32(WHV_PARTITION_HANDLE p, WHV_PARTITION_PROPERTY_CODE code, UINT32 value)
{
    return WHvSetPartitionProperty(p, code, &value, sizeof(value));
}

static inline HRESULT set64(WHV_PARTITION_HANDLE p, WHV_PARTITION_PROPERTY_CODE code, UINT64 value)
{
    return WHvSetPartitionProperty(p, code, &value, sizeof(value));
}

static inline UINT64 get_register(WHV_PARTITION_HANDLE p, UINT32 vp, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    assert_ok(WHvGetVirtualProcessorRegisters(p, vp, &name, 1, &value));
    return value.Reg64;
}

static inline void set_register(WHV_PARTITION_HANDLE p, UINT32 vp, WHV_REGISTER_NAME name, UINT64 number)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Reg64 = number;
    assert_ok(WHvSetVirtualProcessorRegisters(p, vp, &name, 1, &value));
}

static inline WHV_PARTITION_HANDLE created(UINT32 processors)
{
    WHV_PARTITION_HANDLE p;

    assert_ok(WHvCreatePartition(&p));
    assert_ok(set32(p, WHvPartitionPropertyCodeProcessorCount, processors));
    return p;
}

static inline WHV_PARTITION_HANDLE set_up(UINT32 processors)
{
    WHV_PARTITION_HANDLE p = created(processors);

    assert_ok(WHvSetupPartition(p));
    return p;
}

// Point a processor that is in its reset state at real-mode code.
static inline void start_at(WHV_PARTITION_HANDLE p, UINT32 vp, UINT64 rip)
{
    WHV_REGISTER_NAME name = WHvX64RegisterCs;
    WHV_REGISTER_VALUE cs;

    assert_ok(WHvGetVirtualProcessorRegisters(p, vp, &name, 1, &cs));
    cs.Segment.Selector = 0;
    cs.Segment.Base = 0;
    assert_ok(WHvSetVirtualProcessorRegisters(p, vp, &name, 1, &cs));
    set_register(p, vp, WHvX64RegisterRip, rip);
}

// A partition with one processor whose code lies at CODE, in pages that the caller owns: 16 of them, mapped
// at 0.
static inline WHV_PARTITION_HANDLE guest(uint8_t *memory, const void *code, size_t size)
{
    WHV_PARTITION_HANDLE p = set_up(1);

    memcpy(memory + CODE, code, size);
    assert_ok(WHvMapGpaRange(p, memory, 0, 16 * PAGE, RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    start_at(p, 0, CODE);
    return p;
}

static inline WHV_RUN_VP_EXIT_CONTEXT run(WHV_PARTITION_HANDLE p, UINT32 vp)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    assert_ok(WHvRunVirtualProcessor(p, vp, &exit, sizeof(exit)));
    return exit;
}

// The partition in another one, by a migration within the process; `source` is deleted.
static inline WHV_PARTITION_HANDLE moved(WHV_PARTITION_HANDLE source)
{
    WHV_PARTITION_HANDLE target;
    HANDLE handle;

    assert_ok(WHvStartPartitionMigration(source, &handle));
    assert_ok(WHvAcceptPartitionMigration(handle, &target));
    assert_ok(WHvCompletePartitionMigration(source));
    assert_ok(WHvSetupPartition(target));
    assert_ok(WHvDeletePartition(source));
    return target;
}

// An RDMSR or WRMSR at `rip` runs, its registers filled to the last bit; and what its exit tells then.
#define MSR_VALUE 0x5566778811223344u
static inline WHV_RUN_VP_EXIT_CONTEXT run_msr_access(WHV_PARTITION_HANDLE p, UINT64 rip, UINT32 msr, UINT64 value)
{
    set_register(p, 0, WHvX64RegisterRip, rip);
    set_register(p, 0, WHvX64RegisterRcx, 0xABCDEF0000000000 | msr);
    set_register(p, 0, WHvX64RegisterRax, 0x1111111100000000 | (UINT32)value);
    set_register(p, 0, WHvX64RegisterRdx, 0x2222222200000000 | value >> 32);
    return run(p, 0);
}

// Of an access with MSR_VALUE.
static inline void assert_msr_access(const WHV_RUN_VP_EXIT_CONTEXT *exit, bool write, UINT32 msr, UINT64 rip)
{
    assert_int_equal(exit->ExitReason, WHvRunVpExitReasonX64MsrAccess);
    assert_int_equal(exit->MsrAccess.AccessInfo.IsWrite, write);
    assert_int_equal(exit->MsrAccess.MsrNumber, msr);
    assert_int_equal(exit->MsrAccess.Rax, 0x1111111111223344);
    assert_int_equal(exit->MsrAccess.Rdx, 0x2222222255667788);
    assert_int_equal(exit->VpContext.Rip, rip);
    assert_int_equal(exit->VpContext.InstructionLength, 2);
}

#endif
