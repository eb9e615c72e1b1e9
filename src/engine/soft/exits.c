// What an exit tells the caller of WHvRunVirtualProcessor.
#include <string.h>

#include "engine/soft/vcpu.h"
#include "x86/code.h"
#include "x86/system.h"

WHV_X64_SEGMENT_REGISTER vcpu_segment(const struct x86_cpu *cpu, unsigned segment)
{
    const struct x86_segment *s = &cpu->segment[segment];
    return (WHV_X64_SEGMENT_REGISTER){ .Base = cpu->slot[X86_SLOT_SEGMENT + segment], .Limit = s->limit,
                                       .Selector = s->selector, .Attributes = s->attributes };
}

void vcpu_exit_context(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit, WHV_RUN_VP_EXIT_REASON reason)
{
    const struct x86_cpu *cpu = &v->cpu;
    memset(exit, 0, sizeof *exit);
    exit->ExitReason = reason;
    WHV_VP_EXIT_CONTEXT *c = &exit->VpContext;
    c->ExecutionState.Cpl = cpu->cpl;
    c->ExecutionState.Cr0Pe = cpu->cr0 & X86_CR0_PE ? 1 : 0;
    c->ExecutionState.Cr0Am = cpu->cr0 & X86_CR0_AM ? 1 : 0;
    c->ExecutionState.EferLma = cpu->efer & X86_EFER_LMA ? 1 : 0;
    c->ExecutionState.DebugActive = cpu->dr7 & 0xff ? 1 : 0;
    c->ExecutionState.InterruptionPending = v->pending_valid;
    c->ExecutionState.InterruptShadow = cpu->interrupt_shadow ? 1 : 0;
    c->Cr8 = lapic_get_cr8(&v->lapic) & 15;
    c->Cs = vcpu_segment(cpu, X86_CS);
    c->Rip = cpu->rip;
    c->Rflags = x86_get_rflags(cpu);
}

// Up to 16 bytes from RIP on, as far as they can be fetched, without a trace in the processor's state.
static UINT8 instruction_bytes(struct vcpu *v, UINT8 bytes[16])
{
    struct x86_cpu *cpu = &v->cpu;
    struct x86_exit exit = cpu->exit;
    struct x86_exception exception = cpu->exception;
    enum x86_leave leave = cpu->leave;
    uint64_t linear = x86_code_linear(cpu, cpu->rip);
    unsigned count = 0;
    while (count < 16) {
        unsigned part = X86_PAGE_SIZE - (unsigned)((linear + count) & X86_PAGE_MASK);
        if (part > 16 - count)
            part = 16 - count;
        const uint8_t *from = x86_fetch_pointer(cpu, linear + count);
        if (!from)
            break;
        memcpy(bytes + count, from, part);
        count += part;
    }
    cpu->exit = exit;
    cpu->exception = exception;
    cpu->leave = leave;
    return (UINT8)count;
}

static void port_exit(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct x86_cpu *cpu = &v->cpu;
    WHV_X64_IO_PORT_ACCESS_CONTEXT *c = &exit->IoPortAccess;
    c->AccessInfo.IsWrite = cpu->exit.port.write;
    c->AccessInfo.AccessSize = cpu->exit.port.size;
    c->AccessInfo.StringOp = cpu->exit.port.string;
    c->AccessInfo.RepPrefix = cpu->exit.port.rep;
    c->PortNumber = cpu->exit.port.port;
    c->Rax = cpu->slot[X86_RAX];
    c->Rcx = cpu->slot[X86_RCX];
    c->Rsi = cpu->slot[X86_RSI];
    c->Rdi = cpu->slot[X86_RDI];
    c->Ds = vcpu_segment(cpu, X86_DS);
    c->Es = vcpu_segment(cpu, X86_ES);
    c->InstructionByteCount = instruction_bytes(v, c->InstructionBytes);
    exit->VpContext.InstructionLength = cpu->exit.length & 15;
}

static void memory_exit(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct x86_cpu *cpu = &v->cpu;
    WHV_MEMORY_ACCESS_CONTEXT *c = &exit->MemoryAccess;
    c->AccessInfo.AccessType = cpu->exit.memory.access & X86_WRITE ? WHvMemoryAccessWrite
                             : cpu->exit.memory.access & X86_EXECUTE ? WHvMemoryAccessExecute : WHvMemoryAccessRead;
    c->AccessInfo.GpaUnmapped = cpu->exit.memory.unmapped;
    c->AccessInfo.GvaValid = cpu->exit.memory.gva_valid;
    c->Gpa = cpu->exit.memory.gpa;
    c->Gva = cpu->exit.memory.gva_valid ? cpu->exit.memory.gva : 0;
    if (!(cpu->exit.memory.access & X86_EXECUTE))
        c->InstructionByteCount = instruction_bytes(v, c->InstructionBytes);
}

static void cpuid_exit(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct x86_cpu *cpu = &v->cpu;
    WHV_X64_CPUID_ACCESS_CONTEXT *c = &exit->CpuidAccess;
    UINT32 out[4];
    partition_cpuid(v->vp, (UINT32)cpu->slot[X86_RAX], (UINT32)cpu->slot[X86_RCX], out);
    c->Rax = cpu->slot[X86_RAX];
    c->Rcx = cpu->slot[X86_RCX];
    c->Rdx = cpu->slot[X86_RDX];
    c->Rbx = cpu->slot[X86_RBX];
    c->DefaultResultRax = out[0];
    c->DefaultResultRbx = out[1];
    c->DefaultResultRcx = out[2];
    c->DefaultResultRdx = out[3];
    exit->VpContext.InstructionLength = cpu->exit.length & 15;
}

static void exception_exit(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct x86_exception *e = &v->cpu.exception;
    WHV_VP_EXCEPTION_CONTEXT *c = &exit->VpException;
    c->ExceptionInfo.ErrorCodeValid = e->has_error;
    c->ExceptionInfo.SoftwareException = e->software;
    c->ExceptionType = e->vector;
    c->ErrorCode = e->error;
    c->ExceptionParameter = e->address;
    c->InstructionByteCount = instruction_bytes(v, c->InstructionBytes);
    if (e->software)
        exit->VpContext.InstructionLength = e->length & 15;
    v->told = *e;
    v->told_rip = v->cpu.rip;
}

static void rdtsc_exit(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    WHV_X64_RDTSC_CONTEXT *c = &exit->ReadTsc;
    c->TscAux = v->cpu.tsc_aux;
    c->VirtualOffset = v->tsc_offset;
    c->Tsc = vcpu_guest_tsc(v);
    c->ReferenceTime = vcpu_time(v).ns / 100;
    c->RdtscInfo.IsRdtscp = v->cpu.exit.tsc.rdtscp;
    exit->VpContext.InstructionLength = v->cpu.exit.length & 15;
}

static void hypercall_exit(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct x86_cpu *cpu = &v->cpu;
    WHV_HYPERCALL_CONTEXT *c = &exit->Hypercall;
    c->Rax = cpu->slot[X86_RAX];
    c->Rbx = cpu->slot[X86_RBX];
    c->Rcx = cpu->slot[X86_RCX];
    c->Rdx = cpu->slot[X86_RDX];
    c->R8 = cpu->slot[X86_R8];
    c->Rsi = cpu->slot[X86_RSI];
    c->Rdi = cpu->slot[X86_RDI];
    for (unsigned n = 0; n < 6; n++)
        memcpy(&c->XmmRegisters[n], &cpu->vec[n], 16);
    exit->VpContext.InstructionLength = cpu->exit.length & 15;
}

void vcpu_exit_from_cpu(struct vcpu *v, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    static const WHV_RUN_VP_EXIT_REASON reasons[] = {
        [X86_EXIT_PORT] = WHvRunVpExitReasonX64IoPortAccess,
        [X86_EXIT_MEMORY] = WHvRunVpExitReasonMemoryAccess,
        [X86_EXIT_CPUID] = WHvRunVpExitReasonX64Cpuid,
        [X86_EXIT_MSR] = WHvRunVpExitReasonX64MsrAccess,
        [X86_EXIT_RDTSC] = WHvRunVpExitReasonX64Rdtsc,
        [X86_EXIT_HYPERCALL] = WHvRunVpExitReasonHypercall,
        [X86_EXIT_EXCEPTION] = WHvRunVpExitReasonException,
        [X86_EXIT_APIC_EOI] = WHvRunVpExitReasonX64ApicEoi,
    };
    vcpu_exit_context(v, exit, reasons[v->cpu.exit.kind]);
    switch (v->cpu.exit.kind) {
    case X86_EXIT_PORT: port_exit(v, exit); break;
    case X86_EXIT_MEMORY: memory_exit(v, exit); break;
    case X86_EXIT_CPUID: cpuid_exit(v, exit); break;
    case X86_EXIT_RDTSC: rdtsc_exit(v, exit); break;
    case X86_EXIT_HYPERCALL: hypercall_exit(v, exit); break;
    case X86_EXIT_EXCEPTION: exception_exit(v, exit); break;
    case X86_EXIT_MSR:
        exit->MsrAccess.AccessInfo.IsWrite = v->cpu.exit.msr.write;
        exit->MsrAccess.MsrNumber = v->cpu.exit.msr.msr;
        exit->MsrAccess.Rax = v->cpu.slot[X86_RAX];
        exit->MsrAccess.Rdx = v->cpu.slot[X86_RDX];
        exit->VpContext.InstructionLength = v->cpu.exit.length & 15;
        break;
    case X86_EXIT_APIC_EOI:
        exit->ApicEoi.InterruptVector = v->cpu.exit.eoi.vector;
        break;
    case X86_EXIT_PLATFORM:
        break;
    }
}

bool vcpu_is_guest_memory(struct vcpu *v, const void *address, gpa_t *gpa)
{
    struct gpa_map *map = &v->soft->partition->map;
    const uint8_t *at = address;
    bool found = false;
    pthread_rwlock_rdlock(&map->lock);
    for (size_t n = 0; n < map->count && !found; n++)
        if (at >= map->ranges[n].host && at < map->ranges[n].host + map->ranges[n].size) {
            *gpa = map->ranges[n].gpa + (uint64_t)(at - map->ranges[n].host);
            found = true;
        }
    pthread_rwlock_unlock(&map->lock);
    return found;
}

// Whether the bytes at `address` are those of the instruction at RIP, whose place the TLB still knows.
static bool is_code_at_rip(struct vcpu *v, const void *address)
{
    struct x86_cpu *cpu = &v->cpu;
    uint64_t first = x86_code_linear(cpu, cpu->rip), last = first + 15;
    for (uint64_t linear = first; linear <= last; linear = (linear | X86_PAGE_MASK) + 1) {
        const struct x86_tlb_entry *entry = x86_tlb_slot(cpu->tlb, linear);
        uintptr_t host = (uintptr_t)x86_tlb_host(entry, linear & ~X86_PAGE_MASK);
        if (X86_TLB_HIT(entry, execute, linear, 1) && (uintptr_t)address - host < X86_PAGE_SIZE)
            return true;
    }
    return false;
}

bool vcpu_exit_memory_gone(struct vcpu *v, const void *address, bool write, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    gpa_t gpa;
    if (!vcpu_is_guest_memory(v, address, &gpa))
        return false;
    struct x86_cpu *cpu = &v->cpu;
    cpu->scratch_state.pending = X86_PENDING_NONE;
    bool fetch = !cpu->current && !write && is_code_at_rip(v, address);
    if (cpu->current)
        (void)x86_leave_fault(cpu, cpu->current);
    vcpu_exit_context(v, exit, WHvRunVpExitReasonMemoryAccess);
    exit->MemoryAccess.AccessInfo.AccessType = write ? WHvMemoryAccessWrite
                                             : fetch ? WHvMemoryAccessExecute : WHvMemoryAccessRead;
    exit->MemoryAccess.AccessInfo.GpaUnmapped = 1;
    exit->MemoryAccess.Gpa = gpa;
    return true;
}
