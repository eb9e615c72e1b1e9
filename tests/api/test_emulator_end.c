// The instruction emulator comes back whatever the guest has at RIP: no loop of the guest's keeps its caller.
#include "api.h"

#include "WinHvEmulation.h"

// A processor in real mode that is nothing but its registers, in the order in which they were last asked for.
struct client {
    UINT64 rcx, rdi, rip;
    unsigned int ports, accesses;
};

static HRESULT CALLBACK on_port(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *access)
{
    (void)access;
    ((struct client *)context)->ports++;
    return S_OK;
}

static HRESULT CALLBACK on_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    (void)access;
    ((struct client *)context)->accesses++;
    return S_OK;
}

static UINT64 *place(struct client *client, WHV_REGISTER_NAME name)
{
    return name == WHvX64RegisterRcx ? &client->rcx : name == WHvX64RegisterRdi ? &client->rdi
         : name == WHvX64RegisterRip ? &client->rip : NULL;
}

static HRESULT CALLBACK on_get(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                               WHV_REGISTER_VALUE *values)
{
    for (UINT32 n = 0; n < count; n++) {
        const UINT64 *at = place(context, names[n]);

        memset(&values[n], 0, sizeof(values[n]));
        if (at)
            values[n].Reg64 = *at;
        else if (names[n] >= WHvX64RegisterEs && names[n] <= WHvX64RegisterGs)
            values[n].Segment = (WHV_X64_SEGMENT_REGISTER){ .Limit = 0xffffffff, .Attributes = 0x93 };
    }
    return S_OK;
}

static HRESULT CALLBACK on_set(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                               const WHV_REGISTER_VALUE *values)
{
    for (UINT32 n = 0; n < count; n++) {
        UINT64 *at = place(context, names[n]);

        if (at)
            *at = values[n].Reg64;
    }
    return S_OK;
}

static HRESULT CALLBACK on_translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                     WHV_TRANSLATE_GVA_RESULT_CODE *code, WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    (void)context;
    (void)flags;
    *code = WHvTranslateGvaResultSuccess;
    *gpa = gva;
    return S_OK;
}

static int setup(void **state)
{
    static const WHV_EMULATOR_CALLBACKS callbacks = {
        .Size = sizeof(callbacks),
        .WHvEmulatorIoPortCallback = on_port,
        .WHvEmulatorMemoryCallback = on_memory,
        .WHvEmulatorGetVirtualProcessorRegisters = on_get,
        .WHvEmulatorSetVirtualProcessorRegisters = on_set,
        .WHvEmulatorTranslateGvaPage = on_translate,
    };
    static WHV_EMULATOR_HANDLE emulator;

    *state = &emulator;
    return SUCCEEDED(WHvEmulatorCreateEmulator(&callbacks, &emulator)) ? 0 : -1;
}

static int teardown(void **state)
{
    WHV_EMULATOR_HANDLE *emulator = *state;

    return SUCCEEDED(WHvEmulatorDestroyEmulator(*emulator)) ? 0 : -1;
}

static WHV_EMULATOR_STATUS emulate(void **state, struct client *client, const void *code, UINT8 size)
{
    WHV_EMULATOR_HANDLE *emulator = *state;
    WHV_MEMORY_ACCESS_CONTEXT access;
    WHV_VP_EXIT_CONTEXT exit;
    WHV_EMULATOR_STATUS status;

    memset(&exit, 0, sizeof(exit));
    memset(&access, 0, sizeof(access));
    access.InstructionByteCount = size;
    memcpy(access.InstructionBytes, code, size);
    client->rip = 0x100;
    assert_ok(WHvEmulatorTryMmioEmulation(*emulator, client, &exit, &access, &status));
    return status;
}

static void test_branch_to_itself(void **state)
{
    struct client client = { 0 };

    emulate(state, &client, "\xeb\xfe", 2);             // jmp $
    assert_int_equal(client.rip, 0x100);
    client.rcx = 0xffffffff;
    emulate(state, &client, "\x67\xe2\xfd", 3);         // loop $, with ECX
    assert_int_equal(client.rip, 0x100);
}

// A long repetition gets some way, and its caller back.
static void test_long_repetition(void **state)
{
    struct client client = { .rcx = 0xffffffff };
    WHV_EMULATOR_STATUS status = emulate(state, &client, "\xf3\x67\xaa", 3);       // rep stosb, with ECX

    assert_true(status.EmulationSuccessful);
    assert_int_equal(client.rip, 0x100);
    assert_in_range(client.accesses, 1, 0x100000);
    assert_int_equal(client.rcx, 0xffffffff - client.accesses);
    assert_int_equal(client.rdi, client.accesses);
}

static void test_long_port_repetition(void **state)
{
    struct client client = { .rcx = 0xffffffff };
    WHV_EMULATOR_STATUS status = emulate(state, &client, "\xf3\x67\x6c", 3);       // rep insb, with ECX

    assert_true(status.EmulationSuccessful);
    assert_int_equal(client.rip, 0x100);
    assert_in_range(client.ports, 1, 0x100000);
    assert_int_equal(client.rcx, 0xffffffff - client.ports);
    client.rcx = 3;
    client.ports = 0;
    status = emulate(state, &client, "\xf3\x67\x6c", 3);
    assert_true(status.EmulationSuccessful);
    assert_int_equal(client.ports, 3);
    assert_int_equal(client.rip, 0x103);
}

// What an earlier call did at a port is not done again for an instruction that has nothing to do with ports.
static void test_no_port_left_over(void **state)
{
    struct client client = { 0 };

    emulate(state, &client, "\xe6\x80", 2);             // out 80h, al
    assert_int_equal(client.ports, 1);
    assert_false(emulate(state, &client, "\x0f\xa2", 2).EmulationSuccessful);      // cpuid
    assert_int_equal(client.ports, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_branch_to_itself),
        cmocka_unit_test(test_long_repetition),
        cmocka_unit_test(test_long_port_repetition),
        cmocka_unit_test(test_no_port_left_over),
    };
    return engine_run_tests_with(tests, setup, teardown);
}
