// Prints exits: one line for the reason and the context, one for the reason's own fields, two for the registers.
#include "trace.h"

#include <stdio.h>
#include <string.h>

static const struct {
    WHV_RUN_VP_EXIT_REASON reason;
    const char *name;
} reasons[] = {
    { WHvRunVpExitReasonNone, "none" },
    { WHvRunVpExitReasonMemoryAccess, "memory" },
    { WHvRunVpExitReasonX64IoPortAccess, "port" },
    { WHvRunVpExitReasonUnrecoverableException, "unrecoverable" },
    { WHvRunVpExitReasonInvalidVpRegisterValue, "invalid" },
    { WHvRunVpExitReasonUnsupportedFeature, "unsupported" },
    { WHvRunVpExitReasonX64InterruptWindow, "window" },
    { WHvRunVpExitReasonX64Halt, "halt" },
    { WHvRunVpExitReasonX64ApicEoi, "eoi" },
    { WHvRunVpExitReasonX64MsrAccess, "msr" },
    { WHvRunVpExitReasonX64Cpuid, "cpuid" },
    { WHvRunVpExitReasonException, "exception" },
    { WHvRunVpExitReasonCanceled, "canceled" },
};

static const char *name_of(WHV_RUN_VP_EXIT_REASON reason)
{
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
        if (reasons[i].reason == reason)
            return reasons[i].name;
    return "other";
}

#define LL(value) ((unsigned long long)(value))

// What the kernel has overwritten where it tells of an access that it has done already (docs/engines.md, "Limits"): RFLAGS.RF,
// the interrupt shadow, and the arithmetic flags behind a read-modify-write on memory that can only be read.
struct lost { UINT64 rflags; UINT16 state; UINT64 interrupts; };

static struct lost lost_at(const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct lost lost = { .rflags = 0x10000 };

    if (exit->ExitReason == WHvRunVpExitReasonMemoryAccess || exit->ExitReason == WHvRunVpExitReasonX64IoPortAccess) {
        lost.state = 0x1000;
        lost.interrupts = 1;
    }
    if (exit->ExitReason == WHvRunVpExitReasonMemoryAccess && !exit->MemoryAccess.AccessInfo.GpaUnmapped)
        lost.rflags |= 0x8D5;
    return lost;
}

static void print_bytes(unsigned count, const UINT8 *bytes)
{
    printf(" count=%u bytes=", count);
    for (unsigned n = 0; n < 16; n++)
        printf("%02x", bytes[n]);
}

static void print_segment(const char *name, const WHV_X64_SEGMENT_REGISTER *s)
{
    printf(" %s=%04x:%llx:%x:%04x", name, s->Selector, LL(s->Base), s->Limit, s->Attributes);
}

static void print_context(const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_VP_EXIT_CONTEXT *c = &exit->VpContext;
    const struct lost lost = lost_at(exit);

    printf("exit reason=%s rip=%llx rflags=%llx length=%u cr8=%u state=%04x", name_of(exit->ExitReason), LL(c->Rip),
           LL(c->Rflags & ~lost.rflags), c->InstructionLength, c->Cr8, c->ExecutionState.AsUINT16 & ~lost.state);
    print_segment("cs", &c->Cs);
    printf(" reserved=%x:%x:%x\n", exit->Reserved, c->Reserved, c->Reserved2);
}

static void print_memory_access(const WHV_MEMORY_ACCESS_CONTEXT *m)
{
    printf("  access=%x gpa=%llx gva=%llx", m->AccessInfo.AsUINT32, LL(m->Gpa), LL(m->Gva));
    print_bytes(m->InstructionByteCount, m->InstructionBytes);
}

static void print_port_access(const WHV_X64_IO_PORT_ACCESS_CONTEXT *io)
{
    printf("  access=%x port=%x rax=%llx rcx=%llx rsi=%llx rdi=%llx", io->AccessInfo.AsUINT32, io->PortNumber,
           LL(io->Rax), LL(io->Rcx), LL(io->Rsi), LL(io->Rdi));
    print_segment("ds", &io->Ds);
    print_segment("es", &io->Es);
    print_bytes(io->InstructionByteCount, io->InstructionBytes);
}

static void print_exception(const WHV_VP_EXCEPTION_CONTEXT *e)
{
    printf("  type=%u info=%x error=%x parameter=%llx", e->ExceptionType, e->ExceptionInfo.AsUINT32, e->ErrorCode,
           LL(e->ExceptionParameter));
    print_bytes(e->InstructionByteCount, e->InstructionBytes);
}

static void print_own_fields(const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    switch (exit->ExitReason) {
    case WHvRunVpExitReasonMemoryAccess:
        print_memory_access(&exit->MemoryAccess);
        break;
    case WHvRunVpExitReasonX64IoPortAccess:
        print_port_access(&exit->IoPortAccess);
        break;
    case WHvRunVpExitReasonException:
        print_exception(&exit->VpException);
        break;
    case WHvRunVpExitReasonX64MsrAccess:
        printf("  access=%x msr=%x rax=%llx rdx=%llx", exit->MsrAccess.AccessInfo.AsUINT32, exit->MsrAccess.MsrNumber,
               LL(exit->MsrAccess.Rax), LL(exit->MsrAccess.Rdx));
        break;
    case WHvRunVpExitReasonX64InterruptWindow:
        printf("  deliverable=%u", (unsigned)exit->InterruptWindow.DeliverableType);
        break;
    default:
        printf("  words=");
        for (size_t n = 0; n < sizeof(exit->AsUINT64) / sizeof(exit->AsUINT64[0]); n++)
            if (exit->AsUINT64[n])
                printf("%zu:%llx,", n, LL(exit->AsUINT64[n]));
        break;
    }
    printf("\n");
}

static void print_registers(struct trace *t, struct lost lost)
{
    static const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterRax, WHvX64RegisterRcx, WHvX64RegisterRdx, WHvX64RegisterRbx,   WHvX64RegisterRsp,
        WHvX64RegisterRbp, WHvX64RegisterRsi, WHvX64RegisterRdi, WHvX64RegisterR8,    WHvX64RegisterR9,
        WHvX64RegisterR10, WHvX64RegisterR11, WHvX64RegisterR12, WHvX64RegisterR13,   WHvX64RegisterR14,
        WHvX64RegisterR15, WHvX64RegisterRip, WHvX64RegisterRflags, WHvX64RegisterCr0, WHvX64RegisterCr2,
        WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterCr8, WHvX64RegisterEfer,  WHvX64RegisterDr6,
        WHvX64RegisterDr7, WHvRegisterPendingInterruption, WHvRegisterPendingEvent, WHvRegisterInterruptState,
        WHvX64RegisterDeliverabilityNotifications,
    };
    static const char *const words[] = {
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
        "r15", "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "cr8", "efer", "dr6", "dr7", "pending", "event",
        "interrupts", "notify",
    };
    enum { COUNT = sizeof(names) / sizeof(names[0]), GENERAL = 18, INTERRUPTS = 28 };
    WHV_REGISTER_VALUE values[COUNT];

    MUST(WHvGetVirtualProcessorRegisters(t->partition, 0, names, COUNT, values));
    values[GENERAL - 1].Reg64 &= ~lost.rflags;
    values[INTERRUPTS].Reg64 &= ~lost.interrupts;
    for (unsigned n = 0; n < COUNT; n++)
        printf("%s%s=%llx", n == 0 || n == GENERAL ? "  " : " ", words[n], LL(values[n].Reg64));
    printf("\n");
}

static void print_segments(struct trace *t)
{
    static const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterEs, WHvX64RegisterCs, WHvX64RegisterSs, WHvX64RegisterDs,
        WHvX64RegisterFs, WHvX64RegisterGs, WHvX64RegisterLdtr, WHvX64RegisterTr,
    };
    static const char *const words[] = { "es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr" };
    WHV_REGISTER_VALUE values[8];

    MUST(WHvGetVirtualProcessorRegisters(t->partition, 0, names, 8, values));
    printf(" ");
    for (unsigned n = 0; n < 8; n++)
        print_segment(words[n], &values[n].Segment);
    printf("\n");
}

void trace_print(struct trace *t, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    print_context(exit);
    print_own_fields(exit);
    print_registers(t, lost_at(exit));
    print_segments(t);
}

// FNV-1a over 8 bytes at a time.
static UINT64 digest(const uint8_t *bytes, size_t size)
{
    UINT64 hash = 0xCBF29CE484222325, word;

    for (size_t n = 0; n < size; n += sizeof(word)) {
        memcpy(&word, bytes + n, sizeof(word));
        hash = (hash ^ word) * 0x100000001B3;
    }
    return hash;
}

void trace_print_memory(const struct trace *t)
{
    // By pieces, so that a difference says where to look.
    for (size_t at = 0; at < MEMORY_SIZE; at += 16 * PAGE)
        if (at < 2 * 16 * PAGE)
            for (size_t page = at; page < at + 16 * PAGE; page += PAGE)
                printf("memory %zx=%llx\n", page, LL(digest(t->memory + page, PAGE)));
        else
            printf("memory %zx=%llx\n", at, LL(digest(t->memory + at, 16 * PAGE)));
    printf("device=%llx rom=%llx\n", LL(digest(t->device, 2 * PAGE)), LL(digest(t->rom, PAGE)));
}
