// WHvEmulator*: create, destroy, and try to emulate the instruction behind a port or memory exit.
#include "emulator/emulator.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "x86/decode.h"
#include "x86/fpu.h"
#include "x86/system.h"

// ---- Handles -----------------------------------------------------------------------------------------------------

// An index and a generation, so that a wrong or stale handle is an error and never a crash.
#define MAX_EMULATORS 4096u

struct slot {
    struct emulator *emulator;
    uint32_t generation;
};

static struct slot slots[MAX_EMULATORS];
static pthread_rwlock_t slots_lock = PTHREAD_RWLOCK_INITIALIZER;

static WHV_EMULATOR_HANDLE make_handle(unsigned index)
{
    return (WHV_EMULATOR_HANDLE)(uintptr_t)((uint64_t)slots[index].generation << 32 | (index + 1));
}

static struct slot *find_slot(WHV_EMULATOR_HANDLE handle)
{
    uint64_t bits = (uintptr_t)handle;
    uint32_t index = (uint32_t)bits - 1;
    if (index >= MAX_EMULATORS || !slots[index].emulator || slots[index].generation != bits >> 32)
        return NULL;
    return &slots[index];
}

// The emulator behind a handle, locked for one call and safe from destruction until emulator_release.
static struct emulator *emulator_acquire(WHV_EMULATOR_HANDLE handle)
{
    pthread_rwlock_rdlock(&slots_lock);
    struct slot *slot = find_slot(handle);
    if (!slot) {
        pthread_rwlock_unlock(&slots_lock);
        return NULL;
    }
    pthread_mutex_lock(&slot->emulator->lock);
    return slot->emulator;
}

static void emulator_release(struct emulator *e)
{
    pthread_mutex_unlock(&e->lock);
    pthread_rwlock_unlock(&slots_lock);
}

HRESULT WINAPI WHvEmulatorCreateEmulator(const WHV_EMULATOR_CALLBACKS *callbacks, WHV_EMULATOR_HANDLE *handle)
{
    if (!callbacks || !handle)
        return E_POINTER;
    if (callbacks->Size < sizeof *callbacks || callbacks->Reserved || !callbacks->WHvEmulatorIoPortCallback
        || !callbacks->WHvEmulatorMemoryCallback || !callbacks->WHvEmulatorGetVirtualProcessorRegisters
        || !callbacks->WHvEmulatorSetVirtualProcessorRegisters || !callbacks->WHvEmulatorTranslateGvaPage)
        return E_INVALIDARG;
    struct emulator *e = mmap(NULL, sizeof *e, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (e == MAP_FAILED)
        return E_OUTOFMEMORY;
    e->callbacks = *callbacks;
    pthread_mutex_init(&e->lock, NULL);
    e->cpu.bus = &emulator_bus;
    e->cpu.platform = e;
    e->cpu.generation = 1;
    e->cpu.tlb_epoch = 1;
    e->cpu.physical_bits = 52;
    x86_default_features(e->cpu.features);
    x86_reset(&e->cpu);

    HRESULT result = E_OUTOFMEMORY;
    pthread_rwlock_wrlock(&slots_lock);
    for (unsigned n = 0; n < MAX_EMULATORS; n++)
        if (!slots[n].emulator) {
            slots[n].emulator = e;
            slots[n].generation++;
            *handle = make_handle(n);
            result = S_OK;
            break;
        }
    pthread_rwlock_unlock(&slots_lock);
    if (FAILED(result)) {
        pthread_mutex_destroy(&e->lock);
        munmap(e, sizeof *e);
    }
    return result;
}

HRESULT WINAPI WHvEmulatorDestroyEmulator(WHV_EMULATOR_HANDLE handle)
{
    pthread_rwlock_wrlock(&slots_lock);
    struct slot *slot = find_slot(handle);
    struct emulator *e = slot ? slot->emulator : NULL;
    if (slot)
        slot->emulator = NULL;
    pthread_rwlock_unlock(&slots_lock);
    if (!e)
        return E_INVALIDARG;
    pthread_mutex_destroy(&e->lock);
    munmap(e, sizeof *e);
    return S_OK;
}

// ---- One instruction ---------------------------------------------------------------------------------------------

static bool fetch(struct emulator *e, const UINT8 *given, unsigned count, uint8_t bytes[15])
{
    struct x86_cpu *cpu = &e->cpu;
    memset(bytes, 0, 15);
    if (count) {
        memcpy(bytes, given, count < 15 ? count : 15);
        return true;
    }
    return x86_read_linear(cpu, x86_code_linear(cpu, cpu->rip), bytes, 15, X86_READ);
}

static uint64_t address_mask(const struct insn *i)
{
    return i->flags & INSN_ADDR16 ? 0xffff : i->flags & INSN_ADDR32 ? 0xffffffff : ~0ull;
}

static void set_masked(struct x86_cpu *cpu, unsigned slot, uint64_t value, uint64_t mask)
{
    cpu->slot[slot] = mask == 0xffff ? (cpu->slot[slot] & ~mask) | (value & mask) : value & mask;
}

static bool port_callback(struct emulator *e, bool write, unsigned size, uint32_t *data)
{
    WHV_EMULATOR_IO_ACCESS_INFO info = { .Direction = write, .Port = e->cpu.exit.port.port, .AccessSize = (UINT16)size,
                                         .Data = write ? *data : 0 };
    if (FAILED(e->callbacks.WHvEmulatorIoPortCallback(e->context, &info))) {
        e->status.IoPortCallbackFailed = 1;
        return false;
    }
    *data = info.Data;
    return true;
}

// A repetition may be as long as the guest likes: after so many elements the processor goes on from where it is, and
// whoever runs it gets a chance to stop it.
#define PORT_SLICE 4096u

// INS and OUTS, one callback per element (SDM vol. 2A, INS; vol. 2B, OUTS). *again: elements are left.
static bool string_port(struct emulator *e, const struct insn *i, bool *again)
{
    struct x86_cpu *cpu = &e->cpu;
    bool write = cpu->exit.port.write, rep = i->flags & (INSN_REP | INSN_REPNE);
    unsigned size = cpu->exit.port.size, pointer = write ? X86_RSI : X86_RDI;
    unsigned segment = write ? i->segment / 8u - X86_SLOT_SEGMENT : X86_ES;
    if (segment >= X86_SEGMENTS)        // 64-bit mode: no base
        segment = X86_DS;
    uint64_t mask = address_mask(i);
    int64_t step = cpu->rflags & X86_DF ? -(int64_t)size : (int64_t)size;
    for (unsigned done = 0; !rep || (cpu->slot[X86_RCX] & mask); done++) {
        uint32_t data = 0;
        *again = done == PORT_SLICE;
        if (*again)
            break;
        struct x86_address a = x86_linear_segment(cpu, segment, cpu->slot[pointer] & mask, size,
                                                  write ? X86_READ : X86_WRITE);
        if (!a.ok || (write && !x86_read_linear(cpu, a.linear, &data, size, X86_READ)))
            return false;
        if (!port_callback(e, write, size, &data))
            return false;
        if (!write && (!x86_write_linear(cpu, a.linear, &data, size, X86_WRITE) || e->status.AsUINT32))
            return false;
        set_masked(cpu, pointer, cpu->slot[pointer] + (uint64_t)step, mask);
        if (!rep)
            break;
        set_masked(cpu, X86_RCX, cpu->slot[X86_RCX] - 1, mask);
    }
    return true;
}

static bool port(struct emulator *e, const struct insn *i, bool *again)
{
    struct x86_cpu *cpu = &e->cpu;
    *again = false;
    if (cpu->exit.port.string)
        return string_port(e, i, again);
    unsigned size = cpu->exit.port.size;
    uint32_t data = (uint32_t)cpu->slot[X86_RAX];
    if (size < 4)
        data &= (1u << size * 8) - 1;
    if (!port_callback(e, cpu->exit.port.write, size, &data))
        return false;
    if (!cpu->exit.port.write) {
        if (size == 4)
            cpu->slot[X86_RAX] = data;
        else
            memcpy(&cpu->slot[X86_RAX], &data, size);
    }
    return true;
}

static void finish(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->rip = x86_cut_rip(cpu, x86_insn_next_rip(cpu, i));
}

// Decode and run the instruction at RIP; ports by `string` and REP are iterated here, as the interpreter exits for them.
// RIP stays on a long repetition that has got some way: the processor meets it again.
static bool emulate(struct emulator *e, const UINT8 *given, unsigned count)
{
    struct x86_cpu *cpu = &e->cpu;
    uint8_t bytes[15];
    bool again;
    if (!fetch(e, given, count, bytes))
        return false;
    enum x86_leave leave = x86_step(cpu, bytes, sizeof bytes, &e->step);
    if (leave == X86_LEAVE_EXIT && cpu->exit.kind == X86_EXIT_PORT) {
        if (!port(e, e->step.insn, &again))
            return false;
        if (!again)
            finish(cpu, e->step.insn);
    } else if (leave != X86_LEAVE_LOOKUP) {
        return false;
    }
    return e->status.AsUINT32 == 0;
}

static HRESULT try_emulation(WHV_EMULATOR_HANDLE handle, void *context, const WHV_VP_EXIT_CONTEXT *exit,
                             const WHV_MEMORY_ACCESS_CONTEXT *memory, const UINT8 *bytes, unsigned count,
                             WHV_EMULATOR_STATUS *status)
{
    struct emulator *e = emulator_acquire(handle);
    if (!e)
        return E_INVALIDARG;
    struct x86_fpu_host host = x86_fpu_host_enter();
    e->context = context;
    e->exit = memory;
    e->status.AsUINT32 = 0;
    if (emulator_load(e, exit)) {
        if (emulate(e, bytes, count) && emulator_store(e))
            e->status.EmulationSuccessful = 1;
        else if (!e->status.AsUINT32)
            e->status.InternalEmulationFailure = 1;
    }
    *status = e->status;
    x86_fpu_host_leave(host);
    emulator_release(e);
    return S_OK;
}

HRESULT WINAPI WHvEmulatorTryIoEmulation(WHV_EMULATOR_HANDLE handle, VOID *context, const WHV_VP_EXIT_CONTEXT *exit,
                                         const WHV_X64_IO_PORT_ACCESS_CONTEXT *io, WHV_EMULATOR_STATUS *status)
{
    if (!exit || !io || !status)
        return E_POINTER;
    return try_emulation(handle, context, exit, NULL, io->InstructionBytes, io->InstructionByteCount, status);
}

HRESULT WINAPI WHvEmulatorTryMmioEmulation(WHV_EMULATOR_HANDLE handle, VOID *context, const WHV_VP_EXIT_CONTEXT *exit,
                                           const WHV_MEMORY_ACCESS_CONTEXT *mmio, WHV_EMULATOR_STATUS *status)
{
    if (!exit || !mmio || !status)
        return E_POINTER;
    return try_emulation(handle, context, exit, mmio, mmio->InstructionBytes, mmio->InstructionByteCount,
                         status);
}
