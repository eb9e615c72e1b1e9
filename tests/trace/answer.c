// The client's answers to exits: by hand, by the instruction emulator, or by mapping memory.
//
// A guest gives orders by writes to ports:
//   0xe0  ask for an interrupt window, of priority AL
//   0xe1  inject interrupt AL behind this instruction
//   0xe2  inject an NMI there
//   0xe3  inject exception AL there, with error code 0x55
//   0xe4  go on at privilege level 3: RIP from R15, CS from R14, data segments of tests/guests/long.inc
//   0xe7  take away what was mapped since the last such order
//   0xf0, 0xf4  see tests/guests/check.inc; the second ends the guest
#include "trace.h"

#include <stdio.h>
#include <string.h>

enum { WINDOW = 0xe0, INTERRUPT = 0xe1, NMI = 0xe2, EXCEPTION = 0xe3, USER = 0xe4, FORGET = 0xe7, END = 0xf4 };
enum { WINDOW_VECTOR = 0x41, HALT_VECTOR = 0x42 };

#define ALL (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute)

// Where a guest physical address is in the client; NULL: nowhere.
static uint8_t *place(struct trace *t, UINT64 gpa)
{
    if (gpa < MEMORY_SIZE && gpa / PAGE != HOLE / PAGE)
        return t->memory + gpa;
    if (gpa / PAGE == ROM / PAGE)
        return t->rom + gpa % PAGE;
    return t->device + gpa % (2 * PAGE);
}

static UINT32 port_data(struct trace *t)
{
    return 0x11223344u + 0x01010101u * ++t->port_accesses;
}

static bool is_rom(UINT64 gpa) { return gpa / PAGE == ROM / PAGE; }

// ---- By mapping ------------------------------------------------------------------------------------------

static void map(struct trace *t, UINT64 gpa, WHV_MAP_GPA_RANGE_FLAGS flags)
{
    UINT64 page = gpa & ~(UINT64)(PAGE - 1);

    MUST(WHvMapGpaRange(t->partition, place(t, page), page, PAGE, flags));
    if (t->mapped_count < sizeof(t->mapped) / sizeof(t->mapped[0]))
        t->mapped[t->mapped_count++] = page;
}

static void forget(struct trace *t)
{
    while (t->mapped_count) {
        UINT64 page = t->mapped[--t->mapped_count];

        if (is_rom(page))
            MUST(WHvMapGpaRange(t->partition, t->rom, page, PAGE,
                                WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute));
        else
            MUST(WHvUnmapGpaRange(t->partition, page, PAGE));
    }
}

// ---- The emulator ----------------------------------------------------------------------------------------

static HRESULT CALLBACK on_port(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *access)
{
    struct trace *t = context;

    if (!access->Direction)
        access->Data = port_data(t) & (access->AccessSize == 4 ? 0xFFFFFFFF : (1u << 8 * access->AccessSize) - 1);
    return S_OK;
}

static HRESULT CALLBACK on_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    struct trace *t = context;

    for (unsigned n = 0; n < access->AccessSize; n++) {
        uint8_t *at = place(t, access->GpaAddress + n);

        if (!access->Direction)
            access->Data[n] = *at;
        else if (!is_rom(access->GpaAddress + n))
            *at = access->Data[n];
    }
    return S_OK;
}

static HRESULT CALLBACK on_get(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                               WHV_REGISTER_VALUE *values)
{
    return WHvGetVirtualProcessorRegisters(((struct trace *)context)->partition, 0, names, count, values);
}

static HRESULT CALLBACK on_set(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                               const WHV_REGISTER_VALUE *values)
{
    return WHvSetVirtualProcessorRegisters(((struct trace *)context)->partition, 0, names, count, values);
}

static HRESULT CALLBACK on_translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                     WHV_TRANSLATE_GVA_RESULT_CODE *code, WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    WHV_TRANSLATE_GVA_RESULT result;
    HRESULT hr = WHvTranslateGva(((struct trace *)context)->partition, 0, gva, flags, &result, gpa);

    *code = result.ResultCode;
    return hr;
}

const WHV_EMULATOR_CALLBACKS trace_callbacks = {
    .Size = sizeof(trace_callbacks),
    .WHvEmulatorIoPortCallback = on_port,
    .WHvEmulatorMemoryCallback = on_memory,
    .WHvEmulatorGetVirtualProcessorRegisters = on_get,
    .WHvEmulatorSetVirtualProcessorRegisters = on_set,
    .WHvEmulatorTranslateGvaPage = on_translate,
};

static void emulate(struct trace *t, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    WHV_EMULATOR_STATUS status = { .AsUINT32 = 0 };

    if (exit->ExitReason == WHvRunVpExitReasonX64IoPortAccess)
        MUST(WHvEmulatorTryIoEmulation(t->emulator, t, &exit->VpContext, &exit->IoPortAccess, &status));
    else
        MUST(WHvEmulatorTryMmioEmulation(t->emulator, t, &exit->VpContext, &exit->MemoryAccess, &status));
    if (status.EmulationSuccessful)
        return;
    printf("not emulated: status=%x\n", status.AsUINT32);
    if (exit->ExitReason == WHvRunVpExitReasonX64IoPortAccess)
        trace_set(t, WHvX64RegisterRip, exit->VpContext.Rip + exit->VpContext.InstructionLength);
    else
        map(t, exit->MemoryAccess.Gpa, ALL);
}

// ---- By hand ---------------------------------------------------------------------------------------------

static void skip(struct trace *t, UINT64 rip, unsigned length) { trace_set(t, WHvX64RegisterRip, rip + length); }

// The low `size` bytes; 4 clear the upper half (SDM vol. 1 3.4.1.1).
static void set_part(struct trace *t, WHV_REGISTER_NAME name, unsigned size, UINT64 data)
{
    UINT64 mask = size == 8 ? ~0ull : (1ull << 8 * size) - 1, old = size == 4 ? 0 : trace_get(t, name);

    trace_set(t, name, (old & ~mask) | (data & mask));
}

static void port_by_hand(struct trace *t, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_X64_IO_PORT_ACCESS_CONTEXT *io = &exit->IoPortAccess;

    if (io->AccessInfo.StringOp) {
        emulate(t, exit);
        return;
    }
    if (!io->AccessInfo.IsWrite)
        set_part(t, WHvX64RegisterRax, io->AccessInfo.AccessSize, port_data(t));
    skip(t, exit->VpContext.Rip, exit->VpContext.InstructionLength);
}

// A MOV of 1, 4 or 8 bytes between [register] and a general register, in 64-bit mode: REX, opcode, ModRM without SIB
// and displacement. Anything else is left to the emulator.
static bool mov_by_hand(struct trace *t, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const UINT8 *bytes = exit->MemoryAccess.InstructionBytes, *start = bytes;
    UINT8 rex = (*bytes & 0xF0) == 0x40 ? *bytes++ : 0, opcode = *bytes++, modrm = *bytes++;
    unsigned size = !(opcode & 1) ? 1 : rex & 8 ? 8 : 4;
    WHV_REGISTER_NAME name = (WHV_REGISTER_NAME)(WHvX64RegisterRax + (modrm >> 3 & 7) + (rex & 4 ? 8 : 0));
    UINT64 gpa = exit->MemoryAccess.Gpa, data = 0;

    if (!exit->VpContext.Cs.Long || (opcode & 0xFC) != 0x88 || modrm >> 6 != 0 || (modrm & 7) == 4 || (modrm & 7) == 5
        || gpa % PAGE + size > PAGE || (size == 1 && !rex && (modrm >> 3 & 7) >= 4))
        return false;
    if (opcode & 2) {
        memcpy(&data, place(t, gpa), size);
        set_part(t, name, size, data);
    } else if (!is_rom(gpa)) {
        data = trace_get(t, name);
        memcpy(place(t, gpa), &data, size);
    }
    skip(t, exit->VpContext.Rip, (unsigned)(bytes - start));
    return true;
}

// ---- Exits -----------------------------------------------------------------------------------------------

static void answer_memory(struct trace *t, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const bool fetch = exit->MemoryAccess.AccessInfo.AccessType == WHvMemoryAccessExecute;

    // The emulator needs the whole instruction, and an event that is on its way needs the memory.
    if (t->way == BY_MAP || (fetch && t->way == BY_EMULATOR) || exit->VpContext.ExecutionState.InterruptionPending)
        map(t, exit->MemoryAccess.Gpa, ALL);
    else if (fetch)         // a trap: the guest goes on where R15 says
        trace_set(t, WHvX64RegisterRip, trace_get(t, WHvX64RegisterR15));
    else if (t->way != BY_HAND || !mov_by_hand(t, exit))
        emulate(t, exit);
}

static void set_event(struct trace *t, WHV_X64_PENDING_INTERRUPTION_TYPE type, UINT16 vector)
{
    memset(&t->event, 0, sizeof(t->event));
    t->event.PendingInterruption.InterruptionPending = 1;
    t->event.PendingInterruption.InterruptionType = type;
    t->event.PendingInterruption.InterruptionVector = vector;
    if (type == WHvX64PendingException) {
        t->event.PendingInterruption.DeliverErrorCode = 1;
        t->event.PendingInterruption.ErrorCode = 0x55;
    }
    t->event_name = WHvRegisterPendingInterruption;
}

static void obey(struct trace *t, const WHV_X64_IO_PORT_ACCESS_CONTEXT *io)
{
    WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER notify = { .InterruptNotification = 1 };
    const UINT8 al = (UINT8)io->Rax;

    switch (io->PortNumber) {
    case WINDOW:
        notify.InterruptPriority = al & 15;
        trace_set(t, WHvX64RegisterDeliverabilityNotifications, notify.AsUINT64);
        break;
    case INTERRUPT:
        set_event(t, WHvX64PendingInterrupt, al);
        break;
    case NMI:
        set_event(t, WHvX64PendingNmi, 2);
        break;
    case EXCEPTION:
        set_event(t, WHvX64PendingException, al);
        break;
    case FORGET:
        forget(t);
        break;
    case END:
        t->ended = true;
        break;
    default:
        break;
    }
}

static void enter_user(struct trace *t)
{
    static const WHV_REGISTER_NAME names[] = { WHvX64RegisterCs, WHvX64RegisterSs, WHvX64RegisterDs, WHvX64RegisterEs,
                                               WHvX64RegisterRip };
    WHV_REGISTER_VALUE values[5];
    const UINT16 code = (UINT16)trace_get(t, WHvX64RegisterR14);

    memset(values, 0, sizeof(values));
    for (unsigned n = 0; n < 4; n++) {
        values[n].Segment.Limit = 0xFFFFFFFF;
        values[n].Segment.Selector = n ? 0x33 : code;
        values[n].Segment.Attributes = n ? 0xC0F3 : code == 0x3B ? 0xA0FB : 0xC0FB;
    }
    values[4].Reg64 = trace_get(t, WHvX64RegisterR15);
    MUST(WHvSetVirtualProcessorRegisters(t->partition, 0, names, 5, values));
}

static void answer_port(struct trace *t, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    if (exit->IoPortAccess.AccessInfo.IsWrite && !exit->IoPortAccess.AccessInfo.StringOp)
        obey(t, &exit->IoPortAccess);
    if (exit->IoPortAccess.AccessInfo.IsWrite && exit->IoPortAccess.PortNumber == USER)
        enter_user(t);
    else if (t->way == BY_EMULATOR)
        emulate(t, exit);
    else
        port_by_hand(t, exit);
}

static void answer_msr(struct trace *t, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    if (!exit->MsrAccess.AccessInfo.IsWrite) {
        trace_set(t, WHvX64RegisterRax, 0x1000 + ++t->reads);
        trace_set(t, WHvX64RegisterRdx, exit->MsrAccess.MsrNumber);
    }
    skip(t, exit->VpContext.Rip, exit->VpContext.InstructionLength);
}

// By hand: the instruction is left out (a trap is dropped); else the guest gets its exception.
static void answer_exception(struct trace *t, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_VP_EXCEPTION_CONTEXT *e = &exit->VpException;

    if (t->way == BY_HAND && exit->VpContext.InstructionLength) {
        skip(t, exit->VpContext.Rip, exit->VpContext.InstructionLength);
        return;
    }
    if (t->way == BY_HAND)
        trace_set(t, WHvX64RegisterRflags, (exit->VpContext.Rflags & ~0x100ull) | 0x10000);     // TF off, RF on
    memset(&t->event, 0, sizeof(t->event));
    t->event.ExceptionEvent.EventPending = 1;
    t->event.ExceptionEvent.EventType = WHvX64PendingEventException;
    t->event.ExceptionEvent.Vector = e->ExceptionType;
    t->event.ExceptionEvent.DeliverErrorCode = e->ExceptionInfo.ErrorCodeValid;
    t->event.ExceptionEvent.ErrorCode = e->ErrorCode;
    t->event.ExceptionEvent.ExceptionParameter = e->ExceptionParameter;
    t->event_name = t->way == BY_HAND ? (WHV_REGISTER_NAME)0 : WHvRegisterPendingEvent;
}

void trace_answer(struct trace *t, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    t->event_name = (WHV_REGISTER_NAME)0;
    switch (exit->ExitReason) {
    case WHvRunVpExitReasonMemoryAccess:
        answer_memory(t, exit);
        break;
    case WHvRunVpExitReasonX64IoPortAccess:
        answer_port(t, exit);
        break;
    case WHvRunVpExitReasonX64MsrAccess:
        answer_msr(t, exit);
        break;
    case WHvRunVpExitReasonException:
        answer_exception(t, exit);
        break;
    case WHvRunVpExitReasonX64InterruptWindow:
        set_event(t, WHvX64PendingInterrupt, WINDOW_VECTOR);
        break;
    case WHvRunVpExitReasonX64Halt:
        if (exit->VpContext.Rflags & 0x200)
            set_event(t, WHvX64PendingInterrupt, HALT_VECTOR);
        break;
    default:
        t->ended = true;
        break;
    }
    if (t->event_name)
        MUST(WHvSetVirtualProcessorRegisters(t->partition, 0, &t->event_name, 1, &t->event));
}
