/* vcpu.c: the loop that runs a virtual processor and answers its exits. */
#include "vcpu.h"

#include "fault.h"
#include "machine.h"

#include <bulkhead/bulkhead.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* How often INTR is looked at again while the local APIC does not let it through: a write to LVT0 has no
 * exit. */
#define RECHECK_NS UINT64_C(10000000)

static const struct {
    WHV_RUN_VP_EXIT_REASON reason;
    const char *name;
} exit_kinds[] = {
    {WHvRunVpExitReasonMemoryAccess, "MemoryAccess"},
    {WHvRunVpExitReasonX64IoPortAccess, "IoPortAccess"},
    {WHvRunVpExitReasonUnrecoverableException, "UnrecoverableException"},
    {WHvRunVpExitReasonInvalidVpRegisterValue, "InvalidVpRegisterValue"},
    {WHvRunVpExitReasonUnsupportedFeature, "UnsupportedFeature"},
    {WHvRunVpExitReasonX64InterruptWindow, "InterruptWindow"},
    {WHvRunVpExitReasonX64Halt, "Halt"},
    {WHvRunVpExitReasonX64ApicEoi, "ApicEoi"},
    {WHvRunVpExitReasonX64ApicWriteTrap, "ApicWriteTrap"},
    {WHvRunVpExitReasonX64ApicSmiTrap, "ApicSmiTrap"},
    {WHvRunVpExitReasonX64ApicInitSipiTrap, "ApicInitSipiTrap"},
    {WHvRunVpExitReasonX64MsrAccess, "MsrAccess"},
    {WHvRunVpExitReasonX64Cpuid, "Cpuid"},
    {WHvRunVpExitReasonException, "Exception"},
    {WHvRunVpExitReasonX64Rdtsc, "Rdtsc"},
    {WHvRunVpExitReasonHypercall, "Hypercall"},
    {WHvRunVpExitReasonCanceled, "Canceled"},
};
#define EXIT_KINDS (sizeof(exit_kinds) / sizeof(exit_kinds[0]))
_Static_assert(EXIT_KINDS < VCPU_EXIT_KINDS, "the last slot is for all other reasons");

const char *vcpu_exit_name(unsigned slot)
{
    if (slot == VCPU_EXIT_KINDS - 1) {
        return "Other";
    }
    return slot < EXIT_KINDS ? exit_kinds[slot].name : NULL;
}

static void vcpu_count(struct vcpu *vcpu, WHV_RUN_VP_EXIT_REASON reason)
{
    unsigned slot = VCPU_EXIT_KINDS - 1;

    for (unsigned i = 0; i < EXIT_KINDS; i++) {
        if (exit_kinds[i].reason == reason) {
            slot = i;
            break;
        }
    }
    vcpu->exits[slot]++;
}

static void vcpu_failed(struct vcpu *vcpu, const char *call, HRESULT hr)
{
    machine_end(vcpu->machine, MACHINE_HOST_ERROR, EXIT_FAILED, "processor %u: %s failed with 0x%08x",
                vcpu->index, call, (unsigned)hr);
}

static void vcpu_guest_fault(struct vcpu *vcpu, const char *what)
{
    char where[256], detail[2048];

    fault_describe(vcpu->machine->partition, vcpu->index, &vcpu->machine->memory, where, sizeof(where),
                   detail, sizeof(detail));
    machine_end_detail(vcpu->machine, MACHINE_GUEST_FAULT, EXIT_GUEST_FAULT, detail, "processor %u: %s at %s",
                       vcpu->index, what, where);
}

static bool vcpu_set(struct vcpu *vcpu, const WHV_REGISTER_NAME *names, unsigned count,
                     const WHV_REGISTER_VALUE *values)
{
    HRESULT hr = WHvSetVirtualProcessorRegisters(vcpu->machine->partition, vcpu->index, names, count, values);

    if (FAILED(hr)) {
        vcpu_failed(vcpu, "WHvSetVirtualProcessorRegisters", hr);
        return false;
    }
    return true;
}

/* The emulator's callbacks: ports and memory are the machine's, registers and translation the partition's. */

static HRESULT CALLBACK vcpu_emulator_port(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *access)
{
    struct machine *machine = ((struct vcpu *)context)->machine;

    pthread_mutex_lock(&machine->lock);
    if (access->Direction != 0) {
        bus_port_write(&machine->bus, access->Port, access->AccessSize, access->Data);
    } else {
        access->Data = bus_port_read(&machine->bus, access->Port, access->AccessSize);
    }
    pthread_mutex_unlock(&machine->lock);
    return S_OK;
}

/* The other operand of an instruction that reaches a device may be RAM. What is neither is empty: all
 * ones. */
static HRESULT CALLBACK vcpu_emulator_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    struct machine *machine = ((struct vcpu *)context)->machine;
    void *ram = memory_at(&machine->memory, access->GpaAddress, access->AccessSize);
    const void *readable = memory_peek(&machine->memory, access->GpaAddress, access->AccessSize);
    uint64_t value = 0;

    if (access->AccessSize > sizeof(value)) {
        return E_INVALIDARG;
    }
    if (ram != NULL && access->Direction != 0) {
        memcpy(ram, access->Data, access->AccessSize);
        memory_mark(&machine->memory, access->GpaAddress, access->AccessSize);
    } else if (readable != NULL && access->Direction == 0) {
        memcpy(access->Data, readable, access->AccessSize);
    } else if (access->Direction != 0) {
        memcpy(&value, access->Data, access->AccessSize);
        pthread_mutex_lock(&machine->lock);
        bus_mmio_write(&machine->bus, access->GpaAddress, access->AccessSize, value);
        pthread_mutex_unlock(&machine->lock);
    } else {
        pthread_mutex_lock(&machine->lock);
        bus_mmio_read(&machine->bus, access->GpaAddress, access->AccessSize, &value);
        pthread_mutex_unlock(&machine->lock);
        memcpy(access->Data, &value, access->AccessSize);
    }
    return S_OK;
}

static HRESULT CALLBACK vcpu_emulator_get(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                                          WHV_REGISTER_VALUE *values)
{
    struct vcpu *vcpu = context;

    return WHvGetVirtualProcessorRegisters(vcpu->machine->partition, vcpu->index, names, count, values);
}

static HRESULT CALLBACK vcpu_emulator_set(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                                          const WHV_REGISTER_VALUE *values)
{
    struct vcpu *vcpu = context;

    return WHvSetVirtualProcessorRegisters(vcpu->machine->partition, vcpu->index, names, count, values);
}

static HRESULT CALLBACK vcpu_emulator_translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva,
                                                WHV_TRANSLATE_GVA_FLAGS flags,
                                                WHV_TRANSLATE_GVA_RESULT_CODE *code,
                                                WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    struct vcpu *vcpu = context;
    WHV_TRANSLATE_GVA_RESULT result = {0};
    HRESULT hr = WHvTranslateGva(vcpu->machine->partition, vcpu->index, gva, flags, &result, gpa);

    *code = result.ResultCode;
    return hr;
}

static void vcpu_check_emulation(struct vcpu *vcpu, HRESULT hr, WHV_EMULATOR_STATUS status, const char *what,
                                 uint64_t where)
{
    if (FAILED(hr)) {
        vcpu_failed(vcpu, "the instruction emulator", hr);
    } else if (!status.EmulationSuccessful) {
        char text[128];

        snprintf(text, sizeof(text),
                 "%s 0x%" PRIx64 " by an instruction that cannot be emulated (status 0x%x)", what, where,
                 status.AsUINT32);
        vcpu_guest_fault(vcpu, text);
    }
}

/* A plain IN or OUT is completed here; strings of them go through the emulator. */
static void vcpu_port(struct vcpu *vcpu, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterRip, WHvX64RegisterRax};
    const WHV_X64_IO_PORT_ACCESS_CONTEXT *io = &exit->IoPortAccess;
    struct machine *machine = vcpu->machine;
    WHV_REGISTER_VALUE values[2] = {0};
    unsigned size = io->AccessInfo.AccessSize;

    if (io->AccessInfo.StringOp || io->AccessInfo.RepPrefix) {
        WHV_EMULATOR_STATUS status = {0};
        HRESULT hr = WHvEmulatorTryIoEmulation(vcpu->emulator, vcpu, &exit->VpContext, io, &status);

        vcpu_check_emulation(vcpu, hr, status, "access to port", io->PortNumber);
        return;
    }
    values[0].Reg64 = exit->VpContext.Rip + exit->VpContext.InstructionLength;
    if (!(exit->VpContext.ExecutionState.EferLma && exit->VpContext.Cs.Long)) {
        values[0].Reg64 &= 0xffffffff;
    }
    pthread_mutex_lock(&machine->lock);
    if (io->AccessInfo.IsWrite) {
        bus_port_write(&machine->bus, io->PortNumber, size, (uint32_t)io->Rax);
    } else {
        uint64_t mask = size == 4 ? UINT64_MAX : (UINT64_C(1) << (size * 8)) - 1;

        /* A 32-bit result clears the upper half, smaller ones leave the rest of RAX alone. */
        values[1].Reg64 = (io->Rax & ~mask) | bus_port_read(&machine->bus, io->PortNumber, size);
    }
    pthread_mutex_unlock(&machine->lock);
    vcpu_set(vcpu, names, io->AccessInfo.IsWrite ? 1 : 2, values);
}

static void vcpu_memory(struct vcpu *vcpu, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_MEMORY_ACCESS_CONTEXT *access = &exit->MemoryAccess;
    WHV_EMULATOR_STATUS status = {0};
    char text[96];
    HRESULT hr;

    if (access->AccessInfo.AccessType == WHvMemoryAccessExecute) {
        snprintf(text, sizeof(text), "jump to physical address 0x%" PRIx64 ", where there is no memory,",
                 (uint64_t)access->Gpa);
        vcpu_guest_fault(vcpu, text);
        return;
    }
    if (exit->VpContext.ExecutionState.InterruptionPending) {
        snprintf(text, sizeof(text),
                 "exception through descriptors at physical address 0x%" PRIx64 ", not memory,",
                 (uint64_t)access->Gpa);
        vcpu_guest_fault(vcpu, text);
        return;
    }
    hr = WHvEmulatorTryMmioEmulation(vcpu->emulator, vcpu, &exit->VpContext, access, &status);
    vcpu_check_emulation(vcpu, hr, status, "access to physical address", access->Gpa);
}

static void vcpu_end_of_interrupt(struct vcpu *vcpu, UINT32 vector)
{
    struct machine *machine = vcpu->machine;

    pthread_mutex_lock(&machine->lock);
    ioapic_end_of_interrupt(&machine->ioapic, (uint8_t)vector);
    pthread_mutex_unlock(&machine->lock);
}

/* Whether the local APIC lets INTR through: it is off, or LINT0 is unmasked in ExtINT mode (SDM vol.
 * 3A 11.5.1). */
static bool vcpu_takes_intr(uint64_t apic_base, uint32_t lint0)
{
    return (apic_base & 0x800) == 0 || (lint0 & 0x10700) == 0x00700;
}

/* INTR is up: delivers the PIC's interrupt if the processor can take it now, or asks to be told when it
 * can. */
static bool vcpu_inject(struct vcpu *vcpu)
{
    enum { FLAGS, STATE, INTERRUPTION, EVENT, ACTIVITY, BASE, LINT0, COUNT };
    static const WHV_REGISTER_NAME names[COUNT] = {
        [FLAGS] = WHvX64RegisterRflags,
        [STATE] = WHvRegisterInterruptState,
        [INTERRUPTION] = WHvRegisterPendingInterruption,
        [EVENT] = WHvRegisterPendingEvent,
        [ACTIVITY] = WHvRegisterInternalActivityState,
        [BASE] = WHvX64RegisterApicBase,
        [LINT0] = WHvX64RegisterApicLvtLint0,
    };
    WHV_REGISTER_NAME set_names[3];
    WHV_REGISTER_VALUE values[COUNT], set[3] = {0};
    struct machine *machine = vcpu->machine;
    unsigned count = 0;
    HRESULT hr = WHvGetVirtualProcessorRegisters(machine->partition, vcpu->index, names, COUNT, values);
    bool more = true;

    if (FAILED(hr)) {
        vcpu_failed(vcpu, "WHvGetVirtualProcessorRegisters", hr);
        return false;
    }
    if (!vcpu_takes_intr(values[BASE].Reg64, values[LINT0].Reg32)) {
        pthread_mutex_lock(&machine->lock);
        timer_set(&machine->recheck, timers_now(&machine->timers) + RECHECK_NS);
        pthread_mutex_unlock(&machine->lock);
        return true;
    }
    if ((values[FLAGS].Reg64 & 0x200) != 0 && !values[STATE].InterruptState.InterruptShadow &&
        !values[INTERRUPTION].PendingInterruption.InterruptionPending &&
        !values[EVENT].ExtIntEvent.EventPending) {
        pthread_mutex_lock(&machine->lock);
        if (!machine->pic.output) {
            pthread_mutex_unlock(&machine->lock);
            return true;
        }
        set[count].ExtIntEvent.EventPending = 1;
        set[count].ExtIntEvent.EventType = WHvX64PendingEventExtInt;
        set[count].ExtIntEvent.Vector = pic_acknowledge(&machine->pic);
        more = machine->pic.output;
        pthread_mutex_unlock(&machine->lock);
        set_names[count++] = WHvRegisterPendingEvent;
        if (values[ACTIVITY].InternalActivity.HaltSuspend) {
            /* A halted processor takes the event only once it is no longer suspended. */
            set[count].InternalActivity = values[ACTIVITY].InternalActivity;
            set[count].InternalActivity.HaltSuspend = 0;
            set_names[count++] = WHvRegisterInternalActivityState;
        }
    }
    if (more) {
        set[count].DeliverabilityNotifications.InterruptNotification = 1;
        set_names[count++] = WHvX64RegisterDeliverabilityNotifications;
    }
    return vcpu_set(vcpu, set_names, count, set);
}

/* Only the action "exit" of --msr-action and --unimplemented-msr-action leads here. */
static void vcpu_msr(struct vcpu *vcpu, const WHV_X64_MSR_ACCESS_CONTEXT *access)
{
    char text[96];

    if (access->AccessInfo.IsWrite) {
        snprintf(text, sizeof(text), "write of 0x%" PRIx64 " to MSR 0x%" PRIx32 ", whose action is to exit,",
                 (uint64_t)(access->Rdx << 32 | (uint32_t)access->Rax), (uint32_t)access->MsrNumber);
    } else {
        snprintf(text, sizeof(text), "read of MSR 0x%" PRIx32 ", whose action is to exit,",
                 (uint32_t)access->MsrNumber);
    }
    vcpu_guest_fault(vcpu, text);
}

static void vcpu_handle(struct vcpu *vcpu, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    char text[64];

    switch (exit->ExitReason) {
    case WHvRunVpExitReasonX64IoPortAccess:
        vcpu_port(vcpu, exit);
        break;
    case WHvRunVpExitReasonMemoryAccess:
        vcpu_memory(vcpu, exit);
        break;
    case WHvRunVpExitReasonX64MsrAccess:
        vcpu_msr(vcpu, &exit->MsrAccess);
        break;
    case WHvRunVpExitReasonX64ApicEoi:
        vcpu_end_of_interrupt(vcpu, exit->ApicEoi.InterruptVector);
        break;
    case WHvRunVpExitReasonCanceled:
    case WHvRunVpExitReasonX64InterruptWindow:
        break; /* the loop looks at what there is to do */
    case WHvRunVpExitReasonUnrecoverableException:
        vcpu_guest_fault(vcpu, "triple fault");
        break;
    case WHvRunVpExitReasonInvalidVpRegisterValue:
        vcpu_guest_fault(vcpu, "impossible processor state");
        break;
    case WHvRunVpExitReasonUnsupportedFeature:
        vcpu_guest_fault(vcpu, "use of a feature that the engine does not have");
        break;
    default:
        snprintf(text, sizeof(text), "exit 0x%x, which was not asked for,", (unsigned)exit->ExitReason);
        vcpu_guest_fault(vcpu, text);
        break;
    }
}

static void *vcpu_thread(void *context)
{
    struct vcpu *vcpu = context;
    struct machine *machine = vcpu->machine;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    while (machine_may_run(machine)) {
        /* The PIC's output is wired to the first processor. */
        if (vcpu->index == 0 && atomic_load(&machine->intr) && !vcpu_inject(vcpu)) {
            break;
        }
        HRESULT hr = WHvRunVirtualProcessor(machine->partition, vcpu->index, &exit, sizeof(exit));

        if (FAILED(hr)) {
            vcpu_failed(vcpu, "WHvRunVirtualProcessor", hr);
            break;
        }
        vcpu_count(vcpu, exit.ExitReason);
        vcpu_handle(vcpu, &exit);
    }
    return NULL;
}

bool vcpu_create(struct vcpu *vcpu, struct machine *machine, unsigned index, struct error *err)
{
    static const WHV_EMULATOR_CALLBACKS callbacks = {
        .Size = sizeof(callbacks),
        .WHvEmulatorIoPortCallback = vcpu_emulator_port,
        .WHvEmulatorMemoryCallback = vcpu_emulator_memory,
        .WHvEmulatorGetVirtualProcessorRegisters = vcpu_emulator_get,
        .WHvEmulatorSetVirtualProcessorRegisters = vcpu_emulator_set,
        .WHvEmulatorTranslateGvaPage = vcpu_emulator_translate,
    };
    HRESULT hr;

    vcpu->machine = machine;
    vcpu->index = index;
    hr = WHvCreateVirtualProcessor(machine->partition, index, 0);
    if (FAILED(hr)) {
        return error_hresult(err, "WHvCreateVirtualProcessor", (unsigned)hr);
    }
    hr = WHvEmulatorCreateEmulator(&callbacks, &vcpu->emulator);
    return SUCCEEDED(hr) || error_hresult(err, "WHvEmulatorCreateEmulator", (unsigned)hr);
}

bool vcpu_start(struct vcpu *vcpu, struct error *err)
{
    int result = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);

    if (result != 0) {
        return error_set(err, EXIT_FAILED, "cannot start a thread for processor %u: %s", vcpu->index,
                         strerror(result));
    }
    vcpu->started = true;
    return true;
}

void vcpu_stop(struct vcpu *vcpu)
{
    UINT64 count = 0;
    HRESULT hr;

    if (!vcpu->started) {
        return;
    }
    /* Latched: if the processor is not running now, its next run returns at once. */
    hr = WHvCancelRunVirtualProcessor(vcpu->machine->partition, vcpu->index, 0);
    if (FAILED(hr)) {
        vcpu_failed(vcpu, "WHvCancelRunVirtualProcessor", hr);
    }
    pthread_join(vcpu->thread, NULL);
    vcpu->started = false;
    vcpu->counted =
        SUCCEEDED(BulkheadGetVirtualProcessorInstructionCount(vcpu->machine->partition, vcpu->index, &count));
    vcpu->instructions = count;
}

void vcpu_destroy(struct vcpu *vcpu)
{
    if (vcpu->emulator != NULL) {
        (void)!WHvEmulatorDestroyEmulator(vcpu->emulator);
        vcpu->emulator = NULL;
    }
}
