// The emulator's bus: every access of its processor becomes a translation and a memory callback of the client.
#include <string.h>

#include "emulator/emulator.h"

static struct emulator *emulator_of(struct x86_cpu *cpu) { return cpu->platform; }

static bool bus_translate(struct x86_cpu *cpu, uint64_t linear, unsigned access, uint64_t *gpa)
{
    struct emulator *e = emulator_of(cpu);
    // The page that exited has no memory behind it, so the client's translation may well refuse it; the exit says where it is.
    if (e->exit && e->exit->AccessInfo.GvaValid && !((e->exit->Gva ^ linear) & ~X86_PAGE_MASK)) {
        *gpa = (e->exit->Gpa & ~X86_PAGE_MASK) | (linear & X86_PAGE_MASK);
        return true;
    }
    WHV_TRANSLATE_GVA_FLAGS flags = WHvTranslateGvaFlagSetPageTableBits;
    if (access & X86_READ)
        flags |= WHvTranslateGvaFlagValidateRead;
    if (access & X86_WRITE)
        flags |= WHvTranslateGvaFlagValidateWrite;
    if (access & X86_EXECUTE)
        flags |= WHvTranslateGvaFlagValidateExecute;
    WHV_TRANSLATE_GVA_RESULT_CODE code = WHvTranslateGvaResultSuccess;
    WHV_GUEST_PHYSICAL_ADDRESS page = 0;
    cpu->leave = X86_LEAVE_EXIT;
    cpu->exit.kind = X86_EXIT_PLATFORM;
    HRESULT result = e->callbacks.WHvEmulatorTranslateGvaPage(e->context, linear & ~X86_PAGE_MASK, flags, &code, &page);
    // A second operand may lie in a device too: then the address comes with the refusal. Where a table was not mapped there is
    // no address (0).
    bool device = code == WHvTranslateGvaResultGpaUnmapped || code == WHvTranslateGvaResultGpaNoReadAccess
               || code == WHvTranslateGvaResultGpaNoWriteAccess;
    bool translated = code == WHvTranslateGvaResultSuccess || (device && page != 0);
    if (FAILED(result) || !translated) {
        e->status.TranslateGvaPageCallbackFailed = 1;
        return false;
    }
    if (page & X86_PAGE_MASK) {
        e->status.TranslateGvaPageCallbackGpaIsNotAligned = 1;
        return false;
    }
    *gpa = page | (linear & X86_PAGE_MASK);
    return true;
}

static void bus_page(struct x86_cpu *cpu, uint64_t gpa, struct x86_page *page)
{
    (void)cpu, (void)gpa;
    *page = (struct x86_page){ .device = true };
}

static enum x86_answer access_memory(struct x86_cpu *cpu, uint64_t gpa, unsigned size, bool write, uint64_t *value)
{
    struct emulator *e = emulator_of(cpu);
    WHV_EMULATOR_MEMORY_ACCESS_INFO info = { .GpaAddress = gpa, .Direction = write, .AccessSize = (UINT8)size };
    if (write)
        memcpy(info.Data, value, size);
    if (FAILED(e->callbacks.WHvEmulatorMemoryCallback(e->context, &info))) {
        e->status.MemoryCallbackFailed = 1;
        cpu->exit.kind = X86_EXIT_PLATFORM;
        return X86_ANSWER_EXIT;
    }
    if (!write)
        memcpy(value, info.Data, size);
    return X86_DONE;
}

static enum x86_answer bus_read(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t *value)
{
    *value = 0;
    return access_memory(cpu, gpa, size, false, value);
}

static enum x86_answer bus_write(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t value)
{
    return access_memory(cpu, gpa, size, true, &value);
}

// Only instructions that touch memory or ports come here; the rest of the platform refuses.
static enum x86_answer refuse_cpuid(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)cpu, (void)leaf, (void)subleaf, (void)out;
    return X86_ANSWER_EXIT;
}

static enum x86_answer refuse_read_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t *value)
{
    (void)cpu, (void)msr, (void)value;
    return X86_ANSWER_EXIT;
}

static enum x86_answer refuse_write_msr(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    (void)cpu, (void)msr, (void)value;
    return X86_ANSWER_EXIT;
}

static enum x86_answer refuse_tsc(struct x86_cpu *cpu, bool rdtscp, uint64_t *value)
{
    (void)cpu, (void)rdtscp, (void)value;
    return X86_ANSWER_EXIT;
}

static uint64_t no_cr8(struct x86_cpu *cpu) { (void)cpu; return 0; }
static void ignore_cr8(struct x86_cpu *cpu, uint64_t value) { (void)cpu, (void)value; }
static enum x86_answer refuse_hypercall(struct x86_cpu *cpu) { (void)cpu; return X86_ANSWER_EXIT; }

static enum x86_answer refuse_exception(struct x86_cpu *cpu, const struct x86_exception *exception)
{
    (void)cpu, (void)exception;
    return X86_ANSWER_EXIT;
}

const struct x86_bus emulator_bus = {
    .page = bus_page, .device_read = bus_read, .device_write = bus_write, .translate = bus_translate,
    .cpuid = refuse_cpuid, .read_msr = refuse_read_msr, .write_msr = refuse_write_msr, .tsc = refuse_tsc,
    .read_cr8 = no_cr8, .write_cr8 = ignore_cr8, .hypercall = refuse_hypercall, .exception = refuse_exception,
};
