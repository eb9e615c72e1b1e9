// A client that completes exits with the instruction emulator: one device page at HOLE, ports that count.
#ifndef BULKHEAD_TESTS_API_EMULATION_H
#define BULKHEAD_TESTS_API_EMULATION_H

#include "WinHvEmulation.h"
#include "modes.h"

struct client {
    WHV_PARTITION_HANDLE partition;
    WHV_EMULATOR_HANDLE emulator;
    uint8_t *memory;            // 16 pages at 0, but for the page at HOLE
    uint8_t device[PAGE];
    unsigned int accesses;      // to the device's memory
    unsigned int port_accesses;
    UINT32 port_data[64];       // written, or to be read, in this order
    UINT16 port, port_size;
};

static inline HRESULT CALLBACK client_port(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *access)
{
    struct client *client = context;
    UINT32 *data = &client->port_data[client->port_accesses++ % 64];

    client->port = access->Port;
    client->port_size = access->AccessSize;
    if (access->Direction)
        *data = access->Data;
    else
        access->Data = *data;
    return S_OK;
}

static inline HRESULT CALLBACK client_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    struct client *client = context;
    bool device = access->GpaAddress / PAGE == HOLE / PAGE;
    uint8_t *at = device ? client->device + access->GpaAddress % PAGE : client->memory + access->GpaAddress;

    if (access->GpaAddress + access->AccessSize > 16 * PAGE)
        return E_FAIL;
    client->accesses += device;
    if (access->Direction)
        memcpy(at, access->Data, access->AccessSize);
    else
        memcpy(access->Data, at, access->AccessSize);
    return S_OK;
}

static inline HRESULT CALLBACK client_get(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                                          WHV_REGISTER_VALUE *values)
{
    return WHvGetVirtualProcessorRegisters(((struct client *)context)->partition, 0, names, count, values);
}

static inline HRESULT CALLBACK client_set(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                                          const WHV_REGISTER_VALUE *values)
{
    return WHvSetVirtualProcessorRegisters(((struct client *)context)->partition, 0, names, count, values);
}

static inline HRESULT CALLBACK client_translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva,
                                                WHV_TRANSLATE_GVA_FLAGS flags,
                                                WHV_TRANSLATE_GVA_RESULT_CODE *code,
                                                WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    WHV_TRANSLATE_GVA_RESULT result;
    HRESULT hr = WHvTranslateGva(((struct client *)context)->partition, 0, gva, flags, &result, gpa);

    *code = result.ResultCode;
    return hr;
}

static inline void client_open(struct client *client, WHV_PARTITION_HANDLE p, uint8_t *memory)
{
    const WHV_EMULATOR_CALLBACKS callbacks = {
        .Size = sizeof(callbacks),
        .WHvEmulatorIoPortCallback = client_port,
        .WHvEmulatorMemoryCallback = client_memory,
        .WHvEmulatorGetVirtualProcessorRegisters = client_get,
        .WHvEmulatorSetVirtualProcessorRegisters = client_set,
        .WHvEmulatorTranslateGvaPage = client_translate,
    };

    memset(client, 0, sizeof(*client));
    client->partition = p;
    client->memory = memory;
    assert_ok(WHvEmulatorCreateEmulator(&callbacks, &client->emulator));
}

static inline void client_close(struct client *client)
{
    assert_ok(WHvEmulatorDestroyEmulator(client->emulator));
}

// Complete the instruction of an exit.
static inline WHV_EMULATOR_STATUS client_emulate(struct client *client, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    WHV_EMULATOR_STATUS status = {.AsUINT32 = 0};

    if (exit->ExitReason == WHvRunVpExitReasonX64IoPortAccess)
        assert_ok(WHvEmulatorTryIoEmulation(client->emulator, client, &exit->VpContext, &exit->IoPortAccess,
                                            &status));
    else
        assert_ok(WHvEmulatorTryMmioEmulation(client->emulator, client, &exit->VpContext,
                                              &exit->MemoryAccess, &status));
    return status;
}

#endif
