// Virtual processors: life, reset state, runs and cancels, exits of a small guest, registers, CPUID, local
// APIC.
#include "api.h"

#include <pthread.h>

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

static const uint8_t out_and_halt[] = {0xE6, 0x10, 0xF4};      // out 0x10, al; hlt
static const uint8_t forever[] = {0xFF, 0x06, 0x00, 0x20, 0xEB, 0xFA};     // inc word [0x2000]; jmp there

static void test_life(void **state)
{
    WHV_VIRTUAL_PROCESSOR_PROPERTY node;
    WHV_PARTITION_HANDLE p = set_up(2);
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    memset(&node, 0, sizeof(node));
    node.PropertyCode = WHvVirtualProcessorPropertyCodeNumaNode;
    assert_hr(WHvCreateVirtualProcessor(p, 2, 0), E_INVALIDARG);
    assert_hr(WHvCreateVirtualProcessor(p, 0, 1), E_INVALIDARG);
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_hr(WHvCreateVirtualProcessor(p, 0, 0), WHV_E_VP_ALREADY_EXISTS);
    assert_ok(WHvCreateVirtualProcessor2(p, 1, &node, 1));
    node.PropertyCode = (WHV_VIRTUAL_PROCESSOR_PROPERTY_CODE)77;
    assert_ok(WHvDeleteVirtualProcessor(p, 1));
    assert_hr(WHvCreateVirtualProcessor2(p, 1, &node, 1), E_INVALIDARG);
    assert_hr(WHvCreateVirtualProcessor2(p, 1, NULL, 1), E_POINTER);
    assert_hr(WHvRunVirtualProcessor(p, 1, &exit, sizeof(exit)), WHV_E_VP_DOES_NOT_EXIST);
    assert_hr(WHvDeleteVirtualProcessor(p, 1), WHV_E_VP_DOES_NOT_EXIST);
    assert_hr(WHvDeleteVirtualProcessor(p, UINT32_MAX), WHV_E_VP_DOES_NOT_EXIST);
    // Created again, it is in its reset state again.
    set_register(p, 0, WHvX64RegisterRbx, 0x1234);
    assert_ok(WHvDeleteVirtualProcessor(p, 0));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_int_equal(get_register(p, 0, WHvX64RegisterRbx), 0);
    assert_ok(WHvDeletePartition(p));
}

static void test_reset_state(void **state)
{
    WHV_REGISTER_NAME name = WHvX64RegisterCs;
    WHV_PARTITION_HANDLE p = set_up(1);
    WHV_REGISTER_VALUE cs;

    (void)state;
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_int_equal(get_register(p, 0, WHvX64RegisterRip), 0xFFF0);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRflags), 2);
    assert_int_equal(get_register(p, 0, WHvX64RegisterCr0), 0x60000010);
    assert_int_equal(get_register(p, 0, WHvX64RegisterEfer), 0);
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, &name, 1, &cs));
    assert_int_equal(cs.Segment.Selector, 0xF000);
    assert_int_equal(cs.Segment.Base, 0xFFFF0000);
    assert_int_equal(cs.Segment.Limit, 0xFFFF);
    assert_ok(WHvDeletePartition(p));
}

static void test_exits(void **state)
{
    WHV_PARTITION_HANDLE p = guest(memory, out_and_halt, sizeof(out_and_halt));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    set_register(p, 0, WHvX64RegisterRax, 0x1122334455667788);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(exit.IoPortAccess.PortNumber, 0x10);
    assert_int_equal(exit.IoPortAccess.AccessInfo.IsWrite, 1);
    assert_int_equal(exit.IoPortAccess.AccessInfo.AccessSize, 1);
    assert_int_equal(exit.IoPortAccess.Rax, 0x1122334455667788);
    assert_int_equal(exit.VpContext.Rip, CODE);
    assert_int_equal(exit.VpContext.InstructionLength, 2);
    assert_int_equal(exit.VpContext.Rflags & 2, 2);
    assert_int_equal(exit.VpContext.Cs.Base, 0);
    // The client moves on; without an APIC a HLT exits, with RIP behind it.
    set_register(p, 0, WHvX64RegisterRip, CODE + 2);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64Halt);
    assert_int_equal(exit.VpContext.Rip, CODE + 3);
    assert_int_equal(exit.VpContext.InstructionLength, 0);
    assert_int_equal(get_register(p, 0, WHvRegisterInternalActivityState), 0);
    assert_ok(WHvDeletePartition(p));
}

static void test_exit_sizes(void **state)
{
    WHV_PARTITION_HANDLE p = guest(memory, out_and_halt, sizeof(out_and_halt));
    uint8_t buffer[sizeof(WHV_RUN_VP_EXIT_CONTEXT) + 64];
    UINT32 reason;

    (void)state;
    for (UINT32 size = 144; size <= sizeof(buffer) - 1; size += 16) {
        memset(buffer, 0xEE, sizeof(buffer));
        assert_ok(WHvRunVirtualProcessor(p, 0, buffer, size));
        memcpy(&reason, buffer, sizeof(reason));
        assert_int_equal(reason, WHvRunVpExitReasonX64IoPortAccess);
        assert_int_equal(buffer[size], 0xEE);
    }
    assert_hr(WHvRunVirtualProcessor(p, 0, NULL, sizeof(WHV_RUN_VP_EXIT_CONTEXT)), E_POINTER);
    assert_ok(WHvDeletePartition(p));
}

static void test_cancel_is_latched(void **state)
{
    WHV_PARTITION_HANDLE p = guest(memory, out_and_halt, sizeof(out_and_halt));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    assert_hr(WHvCancelRunVirtualProcessor(p, 0, 1), E_INVALIDARG);
    assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
    assert_ok(WHvCancelRunVirtualProcessor(p, 0, 0));
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonCanceled);
    assert_int_equal(exit.CancelReason.CancelReason, 0);
    assert_int_equal(exit.VpContext.Rip, CODE);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(WHvDeletePartition(p));
}

struct runner {
    WHV_PARTITION_HANDLE partition;
    HRESULT hr;
    WHV_RUN_VP_EXIT_CONTEXT exit;
};

static void *run_thread(void *argument)
{
    struct runner *runner = argument;

    runner->hr = WHvRunVirtualProcessor(runner->partition, 0, &runner->exit, sizeof(runner->exit));
    return NULL;
}

static void test_cancel_while_running(void **state)
{
    struct runner runner = {.partition = guest(memory, forever, sizeof(forever))};
    volatile uint16_t *counter = (volatile uint16_t *)(void *)(memory + 0x2000);
    WHV_RUN_VP_EXIT_CONTEXT exit;
    uint16_t before = *counter;
    pthread_t thread;

    (void)state;
    pthread_create(&thread, NULL, run_thread, &runner);
    while (*counter == before)
        ;
    // It is running: nobody else may run it.
    assert_hr(WHvRunVirtualProcessor(runner.partition, 0, &exit, sizeof(exit)), WHV_E_INVALID_VP_STATE);
    assert_ok(WHvCancelRunVirtualProcessor(runner.partition, 0, 0));
    pthread_join(thread, NULL);
    assert_ok(runner.hr);
    assert_int_equal(runner.exit.ExitReason, WHvRunVpExitReasonCanceled);
    assert_ok(WHvDeletePartition(runner.partition));
}

static void test_registers(void **state)
{
    uint8_t bytes[2 * sizeof(WHV_REGISTER_VALUE) + 3] __attribute__((aligned(16)));
    WHV_REGISTER_VALUE *crooked = (WHV_REGISTER_VALUE *)(void *)(bytes + 3);
    WHV_REGISTER_NAME names[2] = {WHvX64RegisterRcx, WHvX64RegisterR15};
    WHV_PARTITION_HANDLE p = set_up(1);
    UINT64 number;

    (void)state;
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, NULL, 0, NULL));
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, NULL, 0, NULL));
    assert_hr(WHvGetVirtualProcessorRegisters(p, 0, names, 1, NULL), E_POINTER);
    assert_hr(WHvGetVirtualProcessorRegisters(p, 0, NULL, 1, crooked), E_POINTER);
    memset(bytes, 0x42, sizeof(bytes));
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, names, 2, crooked));
    memset(bytes, 0, sizeof(bytes));
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, names, 2, crooked));
    memcpy(&number, bytes + 3 + sizeof(WHV_REGISTER_VALUE), sizeof(number));
    assert_int_equal(number, 0x4242424242424242);
    // All or none.
    memset(bytes, 0x77, sizeof(bytes));
    names[1] = (WHV_REGISTER_NAME)0x7FFF0000;
    assert_hr(WHvSetVirtualProcessorRegisters(p, 0, names, 2, crooked), WHV_E_INVALID_VP_REGISTER_NAME);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRcx), 0x4242424242424242);
    assert_hr(WHvGetVirtualProcessorRegisters(p, 0, names, 2, crooked), WHV_E_INVALID_VP_REGISTER_NAME);
    assert_ok(WHvDeletePartition(p));
}

static void test_translate(void **state)
{
    WHV_PARTITION_HANDLE p = guest(memory, out_and_halt, sizeof(out_and_halt));
    WHV_TRANSLATE_GVA_RESULT result;
    WHV_GUEST_PHYSICAL_ADDRESS gpa = 0;

    (void)state;
    assert_ok(WHvTranslateGva(p, 0, 0x2345, WHvTranslateGvaFlagValidateRead, &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultSuccess);
    assert_int_equal(gpa, 0x2345);
    assert_ok(WHvTranslateGva(p, 0, 0x100000, WHvTranslateGvaFlagValidateRead, &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultGpaUnmapped);
    assert_hr(WHvTranslateGva(p, 0, 0, (WHV_TRANSLATE_GVA_FLAGS)0x8000, &result, &gpa), E_INVALIDARG);
    assert_hr(WHvTranslateGva(p, 0, 0, WHvTranslateGvaFlagNone, NULL, &gpa), E_POINTER);
    assert_hr(WHvTranslateGva(p, 1, 0, WHvTranslateGvaFlagNone, &result, &gpa), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvDeletePartition(p));
}

static void test_cpuid(void **state)
{
    // mov eax, 0x12345; cpuid; out 0x10, al
    static const uint8_t code[] = {0x66, 0xB8, 0x45, 0x23, 0x01, 0x00, 0x0F, 0xA2, 0xE6, 0x10};
    const WHV_X64_CPUID_RESULT result = {.Function = 0x12345, .Eax = 0xAB, .Ebx = 2, .Ecx = 3, .Edx = 4};
    WHV_PARTITION_HANDLE p = created(1);
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_CPUID_OUTPUT out;

    (void)state;
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidResultList, &result, sizeof(result)));
    assert_ok(WHvSetupPartition(p));
    memcpy(memory + CODE, code, sizeof(code));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    start_at(p, 0, CODE);

    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 0x12345, 0, &out));
    assert_int_equal(out.Eax, 0xAB);
    assert_int_equal(out.Edx, 4);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(exit.IoPortAccess.Rax, 0xAB);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRbx), 2);

    // No synthetic features were asked for: no trace of a hypervisor.
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 1, 0, &out));
    assert_int_equal(out.Ecx >> 31, 0);
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, 0x40000000, 0, &out));
    assert_int_equal(out.Eax | out.Ebx | out.Ecx | out.Edx, 0);
    assert_hr(WHvGetVirtualProcessorCpuidOutput(p, 0, 0, 0, NULL), E_POINTER);
    assert_ok(WHvDeletePartition(p));
}

static WHV_PARTITION_HANDLE with_apic(WHV_X64_LOCAL_APIC_EMULATION_MODE mode)
{
    WHV_PARTITION_HANDLE p = created(2);

    assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, mode));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
    return p;
}

static void test_request_interrupt(void **state)
{
    WHV_INTERRUPT_CONTROL interrupt;
    WHV_PARTITION_HANDLE p = set_up(1);

    (void)state;
    memset(&interrupt, 0, sizeof(interrupt));
    interrupt.Vector = 0x30;
    assert_hr(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)), 0xC0350008);
    assert_ok(WHvDeletePartition(p));
    NEEDS(engine_has_apic());
    p = with_apic(WHvX64LocalApicEmulationModeXApic);
    // The APIC comes out of reset disabled by software: dropped, and no error.
    assert_ok(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)));
    interrupt.Vector = 15;
    assert_hr(WHvRequestInterrupt(p, &interrupt, sizeof(interrupt)), 0xC0350005);
    assert_hr(WHvRequestInterrupt(p, NULL, sizeof(interrupt)), E_POINTER);
    assert_hr(WHvRequestInterrupt(p, &interrupt, 8), E_INVALIDARG);
    assert_ok(WHvDeletePartition(p));
}

static UINT32 word(const uint8_t *page, unsigned int offset)
{
    UINT32 value;

    memcpy(&value, page + offset, sizeof(value));
    return value;
}

static void test_apic_state(void **state)
{
    uint8_t page[PAGE], packed[PAGE], again[PAGE];
    WHV_PARTITION_HANDLE p;
    UINT32 written = 0;

    (void)state;
    p = set_up(1);
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_hr(WHvGetVirtualProcessorInterruptControllerState2(p, 0, page, sizeof(page), NULL), 0xC0350008);
    assert_ok(WHvDeletePartition(p));
    NEEDS(engine_has_apic());

    p = with_apic(WHvX64LocalApicEmulationModeXApic);
    assert_int_equal(get_register(p, 0, WHvX64RegisterApicBase), 0xFEE00900);
    assert_int_equal(get_register(p, 1, WHvX64RegisterApicBase), 0xFEE00800);
    assert_hr(WHvGetVirtualProcessorInterruptControllerState2(p, 0, page, 100, &written),
              WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(written, PAGE);
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(p, 0, page, sizeof(page), &written));
    assert_int_equal(written, PAGE);
    assert_int_equal(word(page, 0x30), 0x50014);
    assert_int_equal(word(page, 0xE0), 0xFFFFFFFF);
    assert_int_equal(word(page, 0xF0), 0xFF);

    // Both forms carry the same state: a requested vector in IRR, with the APIC enabled.
    page[0xF1] |= 1;
    page[0x200 + 3 * 16] = 1;       // vector 0x60
    assert_ok(WHvSetVirtualProcessorInterruptControllerState2(p, 0, page, sizeof(page)));
    assert_ok(WHvGetVirtualProcessorInterruptControllerState(p, 0, packed, sizeof(packed), &written));
    assert_int_equal(word(packed, 0x200 + 3 * 4), 1);
    assert_ok(WHvSetVirtualProcessorInterruptControllerState(p, 1, packed, written));
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(p, 1, again, sizeof(again), NULL));
    assert_int_equal(word(again, 0x200 + 3 * 16), 1);
    assert_int_equal(word(again, 0xF0), word(page, 0xF0));
    assert_hr(WHvSetVirtualProcessorInterruptControllerState2(p, 0, page, 100), E_POINTER);
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_reset_state),
        cmocka_unit_test(test_exits),
        cmocka_unit_test(test_exit_sizes),
        cmocka_unit_test(test_cancel_is_latched),
        cmocka_unit_test(test_cancel_while_running),
        cmocka_unit_test(test_registers),
        cmocka_unit_test(test_translate),
        cmocka_unit_test(test_cpuid),
        cmocka_unit_test(test_request_interrupt),
        cmocka_unit_test(test_apic_state),
    };

    return engine_run_tests(tests);
}
