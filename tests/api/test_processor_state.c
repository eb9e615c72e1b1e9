// Processor state in pieces: what WHvGet/SetVirtualProcessorState and the older calls answer, and a processor that is
// carried from partition to partition by public calls alone.
#include "modes.h"
#include "threads.h"

#define XSTATE_BV 512u
#define XCOMP_BV 520u
#define MXCSR 24u
#define DENIED ((HRESULT)0xC0350008)

#define APIC_STATE WHvVirtualProcessorStateTypeInterruptControllerState2
#define XSAVE_STATE WHvVirtualProcessorStateTypeXsaveState

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
static uint8_t buffer[16384], other[16384];

static WHV_PARTITION_HANDLE partition(WHV_X64_LOCAL_APIC_EMULATION_MODE mode)
{
    WHV_PARTITION_HANDLE p = created(1);

    if (mode)
        assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, mode));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    return p;
}

static UINT32 size_of(WHV_PARTITION_HANDLE p, WHV_VIRTUAL_PROCESSOR_STATE_TYPE type)
{
    UINT32 size = 0;

    assert_hr(WHvGetVirtualProcessorState(p, 0, type, NULL, 0, &size), WHV_E_INSUFFICIENT_BUFFER);
    assert_true(size > 0 && size <= sizeof(buffer));
    return size;
}

static UINT32 get_state(WHV_PARTITION_HANDLE p, WHV_VIRTUAL_PROCESSOR_STATE_TYPE type, uint8_t *to)
{
    UINT32 size = 0;

    memset(to, 0xAA, sizeof(buffer));
    assert_ok(WHvGetVirtualProcessorState(p, 0, type, to, sizeof(buffer), &size));
    assert_int_equal(size, size_of(p, type));
    assert_int_equal(to[size], 0xAA);
    return size;
}

// ---- Contract ------------------------------------------------------------------------------------------------------

static void check_sizes(WHV_PARTITION_HANDLE p, WHV_VIRTUAL_PROCESSOR_STATE_TYPE type)
{
    const UINT32 size = get_state(p, type, buffer);
    UINT32 written = 0;

    memset(other, 0x55, sizeof(other));
    assert_hr(WHvGetVirtualProcessorState(p, 0, type, other, size - 1, &written), WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(written, size);
    assert_int_equal(other[0], 0x55);
    assert_hr(WHvGetVirtualProcessorState(p, 0, type, NULL, size, &written), E_POINTER);
    assert_ok(WHvGetVirtualProcessorState(p, 0, type, other, size, NULL));
    assert_memory_equal(other, buffer, size);
    assert_hr(WHvSetVirtualProcessorState(p, 0, type, buffer, size - 1), E_INVALIDARG);
    assert_hr(WHvSetVirtualProcessorState(p, 0, type, buffer, size + 1), E_INVALIDARG);
    assert_hr(WHvSetVirtualProcessorState(p, 0, type, buffer, 0), E_INVALIDARG);
    assert_hr(WHvSetVirtualProcessorState(p, 0, type, NULL, size), E_POINTER);
    assert_hr(WHvSetVirtualProcessorState(p, 0, type, NULL, 0), E_INVALIDARG);
    assert_ok(WHvSetVirtualProcessorState(p, 0, type, buffer, size));
    get_state(p, type, other);
    assert_memory_equal(other, buffer, size);
    // Buffers need no alignment.
    assert_ok(WHvGetVirtualProcessorState(p, 0, type, other + 1, size, NULL));
    assert_memory_equal(other + 1, buffer, size);
    assert_ok(WHvSetVirtualProcessorState(p, 0, type, other + 1, size));
    assert_hr(WHvGetVirtualProcessorState(p, 1, type, other, size, NULL), WHV_E_VP_DOES_NOT_EXIST);
    assert_hr(WHvSetVirtualProcessorState(p, 1, type, other + 1, size), WHV_E_VP_DOES_NOT_EXIST);
    assert_hr(WHvGetVirtualProcessorState(NULL, 0, type, other, size, NULL), E_INVALIDARG);
}

static void test_sizes(void **state)
{
    WHV_PARTITION_HANDLE p = partition(WHvX64LocalApicEmulationModeNone);

    (void)state;
    check_sizes(p, XSAVE_STATE);
    assert_ok(WHvDeletePartition(p));
    NEEDS(engine_has_apic());
    p = partition(WHvX64LocalApicEmulationModeXApic);
    check_sizes(p, XSAVE_STATE);
    check_sizes(p, APIC_STATE);
    assert_int_equal(size_of(p, APIC_STATE), PAGE);
    assert_ok(WHvDeletePartition(p));
}

static void test_types(void **state)
{
    // Known, and of a part that no partition has: as the local APIC without an APIC mode.
    static const WHV_VIRTUAL_PROCESSOR_STATE_TYPE absent[] = {
        WHvVirtualProcessorStateTypeSynicMessagePage, WHvVirtualProcessorStateTypeSynicEventFlagPage,
        WHvVirtualProcessorStateTypeSynicTimerState, WHvVirtualProcessorStateTypeNestedState, APIC_STATE};
    static const uint32_t unknown[] = {3, 0xFFF, 0x1003, 0x80000000, 0xFFFFFFFF};
    WHV_PARTITION_HANDLE p = partition(WHvX64LocalApicEmulationModeNone);
    UINT32 written = 7;

    (void)state;
    for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
        assert_hr(WHvGetVirtualProcessorState(p, 0, absent[i], buffer, sizeof(buffer), &written), DENIED);
        assert_hr(WHvGetVirtualProcessorState(p, 0, absent[i], NULL, 0, &written), DENIED);
        assert_hr(WHvSetVirtualProcessorState(p, 0, absent[i], buffer, PAGE), DENIED);
    }
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        const WHV_VIRTUAL_PROCESSOR_STATE_TYPE type = (WHV_VIRTUAL_PROCESSOR_STATE_TYPE)unknown[i];

        assert_hr(WHvGetVirtualProcessorState(p, 0, type, buffer, sizeof(buffer), &written), E_INVALIDARG);
        assert_hr(WHvGetVirtualProcessorState(p, 0, type, NULL, 0, &written), E_INVALIDARG);
        assert_hr(WHvSetVirtualProcessorState(p, 0, type, buffer, PAGE), E_INVALIDARG);
    }
    assert_int_equal(written, 7);
    assert_ok(WHvDeletePartition(p));
}

// A partition that is not set up has no processors.
static void test_states(void **state)
{
    WHV_PARTITION_HANDLE p = created(1);

    (void)state;
    assert_hr(WHvGetVirtualProcessorState(p, 0, XSAVE_STATE, buffer, sizeof(buffer), NULL), INVALID_STATE);
    assert_hr(WHvSetVirtualProcessorState(p, 0, XSAVE_STATE, buffer, 576), INVALID_STATE);
    assert_hr(WHvGetVirtualProcessorXsaveState(p, 0, buffer, sizeof(buffer), NULL), INVALID_STATE);
    assert_ok(WHvDeletePartition(p));
}

static void test_older_calls(void **state)
{
    WHV_PARTITION_HANDLE p = partition(WHvX64LocalApicEmulationModeNone);
    const UINT32 size = get_state(p, XSAVE_STATE, buffer);
    UINT32 written = 0;

    (void)state;
    assert_hr(WHvGetVirtualProcessorXsaveState(p, 0, NULL, 0, &written), WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(written, size);
    assert_ok(WHvGetVirtualProcessorXsaveState(p, 0, other, size, &written));
    assert_memory_equal(other, buffer, size);
    other[160] ^= 0x5A;             // XMM0
    assert_ok(WHvSetVirtualProcessorXsaveState(p, 0, other, size));
    get_state(p, XSAVE_STATE, buffer);
    assert_memory_equal(other, buffer, size);
    assert_hr(WHvSetVirtualProcessorXsaveState(p, 0, other, size - 1), E_INVALIDARG);
    assert_ok(WHvDeletePartition(p));
    NEEDS(engine_has_apic());
    p = partition(WHvX64LocalApicEmulationModeXApic);
    get_state(p, APIC_STATE, buffer);
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(p, 0, other, PAGE, &written));
    assert_memory_equal(other, buffer, PAGE);
    buffer[0x80] = 0x30;            // the task priority
    assert_ok(WHvSetVirtualProcessorState(p, 0, APIC_STATE, buffer, PAGE));
    assert_int_equal(get_register(p, 0, WHvX64RegisterCr8), 3);
    buffer[0x83] = 0x80;            // reserved
    assert_hr(WHvSetVirtualProcessorState(p, 0, APIC_STATE, buffer, PAGE), E_INVALIDARG);
    assert_int_equal(get_register(p, 0, WHvX64RegisterCr8), 3);
    assert_ok(WHvDeletePartition(p));
}

// ---- XSAVE ---------------------------------------------------------------------------------------------------------

static UINT64 peek(const uint8_t *image, unsigned int offset)
{
    UINT64 value;

    memcpy(&value, image + offset, sizeof(value));
    return value;
}

static void poke(uint8_t *image, unsigned int offset, UINT64 value) { memcpy(image + offset, &value, sizeof(value)); }

static void set_xmm(WHV_PARTITION_HANDLE p, unsigned int n, UINT64 low)
{
    WHV_REGISTER_NAME name = (WHV_REGISTER_NAME)(WHvX64RegisterXmm0 + n);
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Reg64 = low;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value));
}

static WHV_REGISTER_VALUE get_value(WHV_PARTITION_HANDLE p, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, &name, 1, &value));
    return value;
}

static void test_registers_and_image_agree(void **state)
{
    WHV_PARTITION_HANDLE p = partition(WHvX64LocalApicEmulationModeNone);
    WHV_REGISTER_NAME name = WHvX64RegisterFpControlStatus;
    WHV_REGISTER_VALUE value = get_value(p, WHvX64RegisterFpControlStatus);
    UINT32 size;

    (void)state;
    for (unsigned int n = 0; n < 16; n++)
        set_xmm(p, n, 0x1111111111111111ull * n);
    value.FpControlStatus.FpControl = 0x27F;
    value.FpControlStatus.FpStatus = 0x3800;
    value.FpControlStatus.FpTag = 0x81;
    value.FpControlStatus.LastFpOp = 0x123;
    value.FpControlStatus.LastFpRip = 0x12345678;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value));
    size = get_state(p, XSAVE_STATE, buffer);
    assert_true(peek(buffer, XCOMP_BV) >> 63);
    assert_int_equal(peek(buffer, XCOMP_BV) & 3, 3);
    assert_int_equal(peek(buffer, XSTATE_BV) & 3, 3);
    assert_int_equal(peek(buffer, XSTATE_BV) & ~peek(buffer, XCOMP_BV), 0);
    for (unsigned int n = 528; n < 576; n++)
        assert_int_equal(buffer[n], 0);
    for (unsigned int n = 0; n < 16; n++)
        assert_int_equal(peek(buffer, 160 + 16 * n), 0x1111111111111111ull * n);
    assert_int_equal(peek(buffer, 0), 0x012300810000027F | 0x38000000ull);
    assert_int_equal(peek(buffer, 8) & 0xFFFFFFFF, 0x12345678);
    // And the other way.
    for (unsigned int n = 0; n < 16; n++)
        poke(buffer, 160 + 16 * n, 0x2222222222222222ull - n);
    poke(buffer, 0, 0x0456004000000000 | 0x137F | (UINT64)0x1000 << 16);
    poke(buffer, MXCSR, 0x5F80);
    assert_ok(WHvSetVirtualProcessorState(p, 0, XSAVE_STATE, buffer, size));
    for (unsigned int n = 0; n < 16; n++)
        assert_int_equal(get_value(p, (WHV_REGISTER_NAME)(WHvX64RegisterXmm0 + n)).Reg64, 0x2222222222222222ull - n);
    value = get_value(p, WHvX64RegisterFpControlStatus);
    assert_int_equal(value.FpControlStatus.FpControl, 0x137F);
    assert_int_equal(value.FpControlStatus.FpStatus, 0x1000);
    assert_int_equal(value.FpControlStatus.FpTag, 0x40);
    assert_int_equal(value.FpControlStatus.LastFpOp, 0x456);
    assert_int_equal(get_value(p, WHvX64RegisterXmmControlStatus).XmmControlStatus.XmmStatusControl, 0x5F80);
    assert_ok(WHvDeletePartition(p));
}

static void refused(WHV_PARTITION_HANDLE p, const uint8_t *image, UINT32 size)
{
    static uint8_t before[sizeof(buffer)], after[sizeof(buffer)];
    const UINT32 whole = get_state(p, XSAVE_STATE, before);

    assert_hr(WHvSetVirtualProcessorState(p, 0, XSAVE_STATE, image, size), E_INVALIDARG);
    get_state(p, XSAVE_STATE, after);
    assert_memory_equal(before, after, whole);
}

static void test_malformed_images(void **state)
{
    WHV_PARTITION_HANDLE p = partition(WHvX64LocalApicEmulationModeNone);
    const UINT32 size = get_state(p, XSAVE_STATE, buffer);
    const UINT64 components = peek(buffer, XCOMP_BV) & ~(1ull << 63);

    (void)state;
    buffer[160] = 0x77;             // what is refused would be seen
    for (unsigned int bit = 0; bit < 64; bit++) {
        memcpy(other, buffer, size);
        if (!(components >> bit & 1)) {
            poke(other, XSTATE_BV, peek(buffer, XSTATE_BV) | 1ull << bit);
            refused(p, other, size);
        }
        memcpy(other, buffer, size);
        if (bit != 63 && !(components >> bit & 1)) {
            poke(other, XCOMP_BV, peek(buffer, XCOMP_BV) | 1ull << bit);
            refused(p, other, size);
        }
    }
    for (unsigned int n = 528; n < 576; n++) {
        memcpy(other, buffer, size);
        other[n] = 1;
        refused(p, other, size);
    }
    for (unsigned int bit = 16; bit < 32; bit++) {
        memcpy(other, buffer, size);
        other[MXCSR + bit / 8] |= (uint8_t)(1 << bit % 8);
        refused(p, other, size);
    }
    assert_ok(WHvSetVirtualProcessorState(p, 0, XSAVE_STATE, buffer, size));
    assert_int_equal(get_value(p, WHvX64RegisterXmm0).Reg64 & 0xFF, 0x77);
    assert_ok(WHvDeletePartition(p));
}

// An image without components: everything has its initial value.
static void test_initial_values(void **state)
{
    WHV_PARTITION_HANDLE p = partition(WHvX64LocalApicEmulationModeNone);
    const UINT32 size = get_state(p, XSAVE_STATE, buffer);
    WHV_REGISTER_VALUE value;

    (void)state;
    set_xmm(p, 3, 0x1234);
    memset(buffer, 0xEE, 512);
    poke(buffer, XSTATE_BV, 0);
    assert_ok(WHvSetVirtualProcessorState(p, 0, XSAVE_STATE, buffer, size));
    value = get_value(p, WHvX64RegisterFpControlStatus);
    assert_int_equal(value.FpControlStatus.FpControl, 0x37F);
    assert_int_equal(value.FpControlStatus.FpStatus, 0);
    assert_int_equal(value.FpControlStatus.FpTag, 0);
    assert_int_equal(get_value(p, WHvX64RegisterXmmControlStatus).XmmControlStatus.XmmStatusControl, 0x1F80);
    assert_int_equal(get_value(p, WHvX64RegisterXmm3).Reg64, 0);
    assert_ok(WHvDeletePartition(p));
}

// The standard format, where the processor has x87 and SSE alone and both formats are of one size; and else of the size
// that CPUID tells.
static void test_standard_format(void **state)
{
    WHV_PARTITION_HANDLE p = partition(WHvX64LocalApicEmulationModeNone);
    WHV_CPUID_OUTPUT leaf;
    UINT32 size = get_state(p, XSAVE_STATE, buffer);

    (void)state;
    if (peek(buffer, XCOMP_BV) == (3 | 1ull << 63)) {
        assert_int_equal(size, 576);
    } else {
        assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 0xD, 0, &leaf));
        size = leaf.Ecx;
        assert_true(size > 576 && size <= sizeof(buffer));
        memset(buffer + 576, 0, size - 576);
    }
    poke(buffer, XCOMP_BV, 0);
    poke(buffer, XSTATE_BV, 3);
    poke(buffer, 160, 0x4242);
    assert_ok(WHvSetVirtualProcessorState(p, 0, XSAVE_STATE, buffer, size));
    assert_int_equal(get_value(p, WHvX64RegisterXmm0).Reg64, 0x4242);
    buffer[XCOMP_BV] = 1;           // neither form
    refused(p, buffer, size);
    assert_ok(WHvDeletePartition(p));
}

// XSAVE state is to be had of a processor that runs; the APIC's is not.
static void test_running(void **state)
{
    static const uint8_t spinner[] = {0xEB, 0xFE};
    WHV_PARTITION_HANDLE p;
    struct runner r;

    (void)state;
    NEEDS(engine_has_apic());
    p = apic_guest(memory, 1, spinner, sizeof(spinner));
    get_state(p, APIC_STATE, other);
    set_xmm(p, 5, 0x55AA);
    start(&r, p, 0);
    EVENTUALLY(WHvGetVirtualProcessorState(p, 0, APIC_STATE, buffer, PAGE, NULL) == WHV_E_INVALID_VP_STATE);
    assert_hr(WHvSetVirtualProcessorState(p, 0, APIC_STATE, other, PAGE), WHV_E_INVALID_VP_STATE);
    for (UINT32 n = 0; n < rounds(200); n++) {
        get_state(p, XSAVE_STATE, buffer);
        assert_int_equal(peek(buffer, 160 + 5 * 16), 0x55AA);
    }
    cancel(&r);
    get_state(p, APIC_STATE, buffer);
    assert_ok(WHvDeletePartition(p));
}

// ---- Carrying a processor by public calls --------------------------------------------------------------------------

static const WHV_REGISTER_NAME carried[] = {
    WHvX64RegisterRax, WHvX64RegisterRcx, WHvX64RegisterRdx, WHvX64RegisterRbx, WHvX64RegisterRsp, WHvX64RegisterRbp,
    WHvX64RegisterRsi, WHvX64RegisterRdi, WHvX64RegisterR8, WHvX64RegisterR9, WHvX64RegisterR10, WHvX64RegisterR11,
    WHvX64RegisterR12, WHvX64RegisterR13, WHvX64RegisterR14, WHvX64RegisterR15, WHvX64RegisterRip,
    WHvX64RegisterRflags, WHvX64RegisterEs, WHvX64RegisterCs, WHvX64RegisterSs, WHvX64RegisterDs, WHvX64RegisterFs,
    WHvX64RegisterGs, WHvX64RegisterLdtr, WHvX64RegisterTr, WHvX64RegisterIdtr, WHvX64RegisterGdtr, WHvX64RegisterCr0,
    WHvX64RegisterCr2, WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterCr8, WHvX64RegisterDr0, WHvX64RegisterDr1,
    WHvX64RegisterDr2, WHvX64RegisterDr3, WHvX64RegisterDr6, WHvX64RegisterDr7, WHvX64RegisterXCr0,
    WHvX64RegisterEfer, WHvX64RegisterKernelGsBase, WHvX64RegisterApicBase, WHvX64RegisterPat,
    WHvX64RegisterSysenterCs, WHvX64RegisterSysenterEip, WHvX64RegisterSysenterEsp, WHvX64RegisterStar,
    WHvX64RegisterLstar, WHvX64RegisterCstar, WHvX64RegisterSfmask, WHvX64RegisterTscAux,
    WHvX64RegisterMsrMtrrDefType, WHvRegisterPendingInterruption, WHvRegisterInterruptState, WHvRegisterPendingEvent,
    WHvX64RegisterDeliverabilityNotifications, WHvRegisterInternalActivityState};
#define CARRIED (sizeof(carried) / sizeof(carried[0]))

struct whole {
    WHV_REGISTER_VALUE values[CARRIED];
    uint8_t xsave[sizeof(buffer)], apic[PAGE];
    UINT32 xsave_size;
};

static void take(WHV_PARTITION_HANDLE p, bool apic, struct whole *w)
{
    memset(w, 0, sizeof(*w));
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, carried, CARRIED, w->values));
    assert_ok(WHvGetVirtualProcessorState(p, 0, XSAVE_STATE, w->xsave, sizeof(w->xsave), &w->xsave_size));
    if (apic)
        assert_ok(WHvGetVirtualProcessorState(p, 0, APIC_STATE, w->apic, PAGE, NULL));
}

static void assert_same(const struct whole *a, const struct whole *b)
{
    for (size_t n = 0; n < CARRIED; n++)
        if (memcmp(&a->values[n], &b->values[n], sizeof(a->values[n])))
            fail_msg("register 0x%x: %llx %llx and %llx %llx", carried[n],
                     (unsigned long long)a->values[n].Reg128.High64, (unsigned long long)a->values[n].Reg128.Low64,
                     (unsigned long long)b->values[n].Reg128.High64, (unsigned long long)b->values[n].Reg128.Low64);
    assert_int_equal(a->xsave_size, b->xsave_size);
    assert_memory_equal(a->xsave, b->xsave, a->xsave_size);
    assert_memory_equal(a->apic, b->apic, PAGE);
}

// A new partition over the same memory goes on for the old one.
static WHV_PARTITION_HANDLE carry(WHV_PARTITION_HANDLE p, WHV_X64_LOCAL_APIC_EMULATION_MODE mode)
{
    static struct whole before, after;
    WHV_PARTITION_HANDLE next;

    take(p, mode, &before);
    assert_ok(WHvDeletePartition(p));
    next = partition(mode);
    assert_ok(WHvSetVirtualProcessorRegisters(next, 0, carried, CARRIED, before.values));
    assert_ok(WHvSetVirtualProcessorState(next, 0, XSAVE_STATE, before.xsave, before.xsave_size));
    if (mode)
        assert_ok(WHvSetVirtualProcessorState(next, 0, APIC_STATE, before.apic, PAGE));
    take(next, mode, &after);
    assert_same(&before, &after);
    return next;
}

// Counts in registers and memory, pushes and pops, and exits by ports of each kind.
static const uint8_t worker[] = {
    0x31, 0xC9,                                     // xor ecx, ecx
    0xFF, 0xC1,                                     // again: inc ecx
    0x01, 0xC8,                                     // add eax, ecx
    0x51,                                           // push rcx
    0xE6, 0x10,                                     // out 0x10, al
    0x01, 0x04, 0x25, 0x00, 0x30, 0x00, 0x00,       // add [DATA], eax
    0xE4, 0x11,                                     // in al, 0x11
    0x11, 0x04, 0x25, 0x08, 0x30, 0x00, 0x00,       // adc [DATA + 8], eax
    0x8B, 0x14, 0x25, 0x00, 0xD0, 0x00, 0x00,       // mov edx, [HOLE]
    0x59,                                           // pop rcx
    0x83, 0xF9, 0x28,                               // cmp ecx, 40
    0x75, 0xDC,                                     // jne again
    0xF4};                                          // hlt

// Runs the worker to its end; at each exit the processor moves to a new partition when `moves` is set.
static void run_worker(bool moves, WHV_X64_LOCAL_APIC_EMULATION_MODE mode, struct whole *end, UINT32 *exits)
{
    WHV_PARTITION_HANDLE p;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    memset(memory, 0, sizeof(memory));
    p = partition(mode);
    memcpy(memory + CODE, worker, sizeof(worker));
    enter_long(p, memory);
    for (unsigned int n = 0; n < 16; n++)
        set_xmm(p, n, 0x0101010101010101ull * n);
    set_register(p, 0, WHvX64RegisterRax, 3);
    for (*exits = 0;; ++*exits) {
        // The hole is none for the guest's processor alone.
        assert_ok(WHvUnmapGpaRange(p, HOLE, PAGE));
        exit = run(p, 0);
        assert_ok(WHvMapGpaRange(p, memory + HOLE, HOLE, PAGE, RWX));
        if (moves)
            p = carry(p, mode);
        if (exit.ExitReason == WHvRunVpExitReasonX64IoPortAccess) {
            if (!exit.IoPortAccess.AccessInfo.IsWrite)
                set_register(p, 0, WHvX64RegisterRax, (exit.IoPortAccess.Rax & ~0xFFull) | (*exits & 0xFF));
            set_register(p, 0, WHvX64RegisterRip, exit.VpContext.Rip + exit.VpContext.InstructionLength);
        } else if (exit.ExitReason == WHvRunVpExitReasonMemoryAccess) {
            assert_int_equal(exit.MemoryAccess.Gpa, HOLE);
            set_register(p, 0, WHvX64RegisterRdx, *exits * 7);
            set_register(p, 0, WHvX64RegisterRip, exit.VpContext.Rip + 7);
        } else {
            assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64Halt);
            break;
        }
        if (moves && *exits % 3 == 0)       // also behind the client's answer
            p = carry(p, mode);
    }
    take(p, mode, end);
    assert_ok(WHvDeletePartition(p));
}

static void carry_worker(WHV_X64_LOCAL_APIC_EMULATION_MODE mode)
{
    static struct whole still, moved;
    static uint8_t memory_still[sizeof(memory)];
    UINT32 exits, moves;

    run_worker(false, mode, &still, &exits);
    memcpy(memory_still, memory, sizeof(memory));
    run_worker(true, mode, &moved, &moves);
    assert_int_equal(exits, 120);
    assert_int_equal(moves, exits);
    assert_same(&still, &moved);
    assert_memory_equal(memory_still, memory, sizeof(memory));
}

static void test_carry(void **state)
{
    (void)state;
    carry_worker(WHvX64LocalApicEmulationModeNone);
}

// Everything that waits for a processor goes along: an interrupt that is requested and one in service, a masked NMI, a
// shadow, notifications, an event to be injected.
static void test_carry_events(void **state)
{
    // nop; out 0x10, al; jmp there
    static const uint8_t code[] = {0x90, 0xE6, 0x10, 0xEB, 0xFC};
    static const uint8_t handler[] = {0xE6, 0x11, 0xCF};
    WHV_X64_PENDING_INTERRUPTION_REGISTER event = {.InterruptionPending = 1, .InterruptionType = WHvX64PendingInterrupt};
    WHV_X64_INTERRUPT_STATE_REGISTER shadow = {.InterruptShadow = 1, .NmiMasked = 1};
    WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER notify = {.InterruptNotification = 1, .InterruptPriority = 2};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    memset(memory, 0, sizeof(memory));
    p = partition(WHvX64LocalApicEmulationModeNone);
    memcpy(memory + CODE, code, sizeof(code));
    memcpy(memory + HANDLER, handler, sizeof(handler));
    memory[0x40 * 4 + 1] = HANDLER >> 8;
    start_at(p, 0, CODE);
    set_register(p, 0, WHvX64RegisterRsp, 0x8000);
    event.InterruptionVector = 0x40;
    set_register(p, 0, WHvRegisterPendingInterruption, event.AsUINT64);
    p = carry(p, WHvX64LocalApicEmulationModeNone);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x11);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRsp), 0x8000 - 6);
    set_register(p, 0, WHvX64RegisterRip, HANDLER + 2);
    set_register(p, 0, WHvRegisterInterruptState, shadow.AsUINT64);
    set_register(p, 0, WHvX64RegisterDeliverabilityNotifications, notify.AsUINT64);
    p = carry(p, WHvX64LocalApicEmulationModeNone);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    set_register(p, 0, WHvX64RegisterRip, CODE + 3);
    // The window that was asked for two partitions ago.
    set_register(p, 0, WHvX64RegisterRflags, 0x202);
    p = carry(p, WHvX64LocalApicEmulationModeNone);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64InterruptWindow);
    assert_ok(WHvDeletePartition(p));
}

static void test_carry_apic(void **state)
{
    // sti; nop; jmp to the nop
    static const uint8_t code[] = {0xFB, 0x90, 0xEB, 0xFD};
    static const uint8_t handler[] = {0xE6, 0x11, 0xCF};
    WHV_INTERRUPT_CONTROL interrupt = {.Type = WHvX64InterruptTypeFixed, .Vector = 0x40};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    NEEDS(engine_has_apic());
    memset(memory, 0, sizeof(memory));
    p = partition(WHvX64LocalApicEmulationModeX2Apic);
    memcpy(memory + CODE, code, sizeof(code));
    memcpy(memory + HANDLER, handler, sizeof(handler));
    memory[0x40 * 4 + 1] = HANDLER >> 8;
    start_at(p, 0, CODE);
    set_register(p, 0, WHvX64RegisterRsp, 0x8000);
    set_register(p, 0, WHvX64RegisterApicBase, 0xFEE00D00);
    get_state(p, APIC_STATE, buffer);
    poke(buffer, 0xF0, 0x1FF);
    assert_ok(WHvSetVirtualProcessorState(p, 0, APIC_STATE, buffer, PAGE));
    assert_ok(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
    p = carry(p, WHvX64LocalApicEmulationModeX2Apic);
    get_state(p, APIC_STATE, buffer);
    assert_int_equal(peek(buffer, 0x220) & 0xFFFFFFFF, 1);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x11);
    p = carry(p, WHvX64LocalApicEmulationModeX2Apic);
    assert_int_equal(get_register(p, 0, WHvX64RegisterApicBase), 0xFEE00D00);
    if (!engine_is_interpreted()) {         // which ends an interrupt when it delivers it
        get_state(p, APIC_STATE, buffer);
        assert_int_equal(peek(buffer, 0x120) & 0xFFFFFFFF, 1);
    }
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_states),
        cmocka_unit_test(test_older_calls),
        cmocka_unit_test(test_registers_and_image_agree),
        cmocka_unit_test(test_malformed_images),
        cmocka_unit_test(test_initial_values),
        cmocka_unit_test(test_standard_format),
        cmocka_unit_test(test_running),
        cmocka_unit_test(test_carry),
        cmocka_unit_test(test_carry_events),
        cmocka_unit_test(test_carry_apic),
    };

    return engine_run_tests(tests);
}
