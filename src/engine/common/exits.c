// What an exit tells the caller of WHvRunVirtualProcessor.
#include "engine/common/processor.h"

#include <string.h>

#include "x86/code.h"
#include "x86/system.h"

WHV_X64_SEGMENT_REGISTER processor_segment(const struct x86_cpu *cpu, unsigned segment)
{
    const struct x86_segment *s = &cpu->segment[segment];
    return (WHV_X64_SEGMENT_REGISTER){ .Base = cpu->slot[X86_SLOT_SEGMENT + segment], .Limit = s->limit,
                                       .Selector = s->selector, .Attributes = s->attributes };
}

// The part that every exit has; clears the rest.
__attribute__((hot))
static void common_part(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit, WHV_RUN_VP_EXIT_REASON reason, UINT8 cr8)
{
    const struct x86_cpu *cpu = &p->cpu;
    memset(exit, 0, sizeof *exit);
    exit->ExitReason = reason;
    WHV_VP_EXIT_CONTEXT *c = &exit->VpContext;
    c->ExecutionState = (WHV_X64_VP_EXECUTION_STATE){
        .Cpl = cpu->cpl, .Cr0Pe = cpu->cr0 & X86_CR0_PE ? 1 : 0, .Cr0Am = cpu->cr0 & X86_CR0_AM ? 1 : 0,
        .EferLma = cpu->efer & X86_EFER_LMA ? 1 : 0, .DebugActive = cpu->dr7 & 0xff ? 1 : 0,
        .InterruptionPending = p->pending_valid, .InterruptShadow = cpu->interrupt_shadow ? 1 : 0,
    };
    c->Cr8 = cr8 & 15;
    c->Cs = processor_segment(cpu, X86_CS);
    c->Rip = cpu->rip;
    c->Rflags = x86_get_rflags(cpu);
}

void exit_context(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit, WHV_RUN_VP_EXIT_REASON reason, UINT8 cr8)
{
    common_part(p, exit, reason, cr8);
    if (reason == WHvRunVpExitReasonX64InterruptWindow)
        x86_count_add(&p->exits.window.count, 1);
    else if (reason != WHvRunVpExitReasonX64Halt)
        x86_count_add(&p->exits.other.count, 1);
}

static __attribute__((noinline)) UINT8 fetch_bytes(struct processor *p, UINT8 bytes[16])
{
    struct x86_cpu *cpu = &p->cpu;
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

UINT8 exit_instruction_bytes(struct processor *p, UINT8 bytes[16])
{
    if (!p->code_count)
        return fetch_bytes(p, bytes);
    memcpy(bytes, p->code, sizeof p->code);
    return p->code_count;
}

static void port_exit(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct x86_cpu *cpu = &p->cpu;
    WHV_X64_IO_PORT_ACCESS_CONTEXT *c = &exit->IoPortAccess;
    c->AccessInfo = (WHV_X64_IO_PORT_ACCESS_INFO){
        .IsWrite = cpu->exit.port.write, .AccessSize = cpu->exit.port.size, .StringOp = cpu->exit.port.string,
        .RepPrefix = cpu->exit.port.rep,
    };
    c->PortNumber = cpu->exit.port.port;
    c->Rax = cpu->slot[X86_RAX];
    c->Rcx = cpu->slot[X86_RCX];
    c->Rsi = cpu->slot[X86_RSI];
    c->Rdi = cpu->slot[X86_RDI];
    c->Ds = processor_segment(cpu, X86_DS);
    c->Es = processor_segment(cpu, X86_ES);
    c->InstructionByteCount = exit_instruction_bytes(p, c->InstructionBytes);
    exit->VpContext.InstructionLength = cpu->exit.length & 15;
}

static void memory_exit(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct x86_cpu *cpu = &p->cpu;
    WHV_MEMORY_ACCESS_CONTEXT *c = &exit->MemoryAccess;
    c->AccessInfo = (WHV_MEMORY_ACCESS_INFO){
        .AccessType = cpu->exit.memory.access & X86_WRITE ? WHvMemoryAccessWrite
                    : cpu->exit.memory.access & X86_EXECUTE ? WHvMemoryAccessExecute : WHvMemoryAccessRead,
        .GpaUnmapped = cpu->exit.memory.unmapped, .GvaValid = cpu->exit.memory.gva_valid,
    };
    c->Gpa = cpu->exit.memory.gpa;
    c->Gva = cpu->exit.memory.gva_valid ? cpu->exit.memory.gva : 0;
    if (!(cpu->exit.memory.access & X86_EXECUTE))
        c->InstructionByteCount = exit_instruction_bytes(p, c->InstructionBytes);
}

static void cpuid_exit(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct x86_cpu *cpu = &p->cpu;
    WHV_X64_CPUID_ACCESS_CONTEXT *c = &exit->CpuidAccess;
    UINT32 out[4];
    partition_cpuid(p->vp, (UINT32)cpu->slot[X86_RAX], (UINT32)cpu->slot[X86_RCX], out);
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

static void exception_exit(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct x86_exception *e = &p->cpu.exception;
    WHV_VP_EXCEPTION_CONTEXT *c = &exit->VpException;
    c->ExceptionInfo.ErrorCodeValid = e->has_error;
    c->ExceptionInfo.SoftwareException = e->software;
    c->ExceptionType = e->vector;
    c->ErrorCode = e->error;
    c->ExceptionParameter = e->address;
    c->InstructionByteCount = exit_instruction_bytes(p, c->InstructionBytes);
    if (e->software)
        exit->VpContext.InstructionLength = e->length & 15;
    p->told = *e;
    p->told_rip = p->cpu.rip;
}

static void rdtsc_exit(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    WHV_X64_RDTSC_CONTEXT *c = &exit->ReadTsc;
    c->TscAux = p->cpu.tsc_aux;
    c->RdtscInfo.IsRdtscp = p->cpu.exit.tsc.rdtscp;
    exit->VpContext.InstructionLength = p->cpu.exit.length & 15;
}

static void hypercall_exit(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct x86_cpu *cpu = &p->cpu;
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

__attribute__((hot, noinline, flatten))
void exit_from_cpu(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit, UINT8 cr8)
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
        [X86_EXIT_APIC_WRITE] = WHvRunVpExitReasonX64ApicWriteTrap,
        [X86_EXIT_APIC_SMI] = WHvRunVpExitReasonX64ApicSmiTrap,
        [X86_EXIT_APIC_INIT_SIPI] = WHvRunVpExitReasonX64ApicInitSipiTrap,
    };
    common_part(p, exit, reasons[p->cpu.exit.kind], cr8);
    x86_count_add(&p->exits.of_cpu[p->cpu.exit.kind].count, 1);
    if (X86_LIKELY(p->cpu.exit.kind == X86_EXIT_PORT))      // a jump through a table costs more than the rest
        return port_exit(p, exit);
    if (X86_LIKELY(p->cpu.exit.kind == X86_EXIT_MEMORY))
        return memory_exit(p, exit);
    switch (p->cpu.exit.kind) {
    case X86_EXIT_PORT:
    case X86_EXIT_MEMORY: break;
    case X86_EXIT_CPUID: cpuid_exit(p, exit); break;
    case X86_EXIT_RDTSC: rdtsc_exit(p, exit); break;
    case X86_EXIT_HYPERCALL: hypercall_exit(p, exit); break;
    case X86_EXIT_EXCEPTION: exception_exit(p, exit); break;
    case X86_EXIT_MSR:
        exit->MsrAccess.AccessInfo.IsWrite = p->cpu.exit.msr.write;
        exit->MsrAccess.MsrNumber = p->cpu.exit.msr.msr;
        exit->MsrAccess.Rax = p->cpu.slot[X86_RAX];
        exit->MsrAccess.Rdx = p->cpu.slot[X86_RDX];
        exit->VpContext.InstructionLength = p->cpu.exit.length & 15;
        break;
    case X86_EXIT_APIC_EOI:
        exit->ApicEoi.InterruptVector = p->cpu.exit.eoi.vector;
        break;
    case X86_EXIT_APIC_WRITE:       // WHV_X64_APIC_WRITE_TYPE is the register's offset
        exit->ApicWrite.Type = (WHV_X64_APIC_WRITE_TYPE)p->cpu.exit.apic.offset;
        exit->ApicWrite.WriteValue = p->cpu.exit.apic.value;
        break;
    case X86_EXIT_APIC_SMI: exit->ApicSmi.ApicIcr = p->cpu.exit.apic.value; break;
    case X86_EXIT_APIC_INIT_SIPI: exit->ApicInitSipi.ApicIcr = p->cpu.exit.apic.value; break;
    case X86_EXIT_PLATFORM:
        break;
    }
}

// Whether the bytes at `address` are those of the instruction at RIP, whose place the TLB still knows.
static bool is_code_at_rip(struct processor *p, const void *address)
{
    struct x86_cpu *cpu = &p->cpu;
    uint64_t first = x86_code_linear(cpu, cpu->rip), last = first + 15;
    for (uint64_t linear = first; linear <= last; linear = (linear | X86_PAGE_MASK) + 1) {
        const struct x86_tlb_entry *entry = x86_tlb_slot(cpu->tlb, linear);
        uintptr_t host = (uintptr_t)x86_tlb_host(entry, linear & ~X86_PAGE_MASK);
        if (X86_TLB_HIT(entry, execute, linear, 1) && (uintptr_t)address - host < X86_PAGE_SIZE)
            return true;
    }
    return false;
}

bool exit_memory_gone(struct processor *p, const void *address, bool write, WHV_RUN_VP_EXIT_CONTEXT *exit, UINT8 cr8)
{
    gpa_t gpa;
    if (!processor_is_guest_memory(p, address, &gpa))
        return false;
    struct x86_cpu *cpu = &p->cpu;
    cpu->scratch_state.pending = X86_PENDING_NONE;
    bool fetch = !cpu->current && !write && is_code_at_rip(p, address);
    if (cpu->current)
        (void)x86_leave_fault(cpu, cpu->current);
    common_part(p, exit, WHvRunVpExitReasonMemoryAccess, cr8);
    x86_count_add(&p->exits.of_cpu[X86_EXIT_MEMORY].count, 1);
    exit->MemoryAccess.AccessInfo.AccessType = write ? WHvMemoryAccessWrite
                                             : fetch ? WHvMemoryAccessExecute : WHvMemoryAccessRead;
    exit->MemoryAccess.AccessInfo.GpaUnmapped = 1;
    exit->MemoryAccess.Gpa = gpa;
    return true;
}
