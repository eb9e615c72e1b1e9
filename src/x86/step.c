// One instruction outside of the block cache: for whoever runs few, far between, and each with a look around
// it.
#include <string.h>

#include "x86/code.h"
#include "x86/decode.h"

static const struct insn *stop_here(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->rip = x86_cut_rip(cpu, x86_insn_rip(cpu, i));
    cpu->leave = X86_LEAVE_LOOKUP;
    return NULL;
}

static enum x86_decode_result decode(struct x86_cpu *cpu, const uint8_t *bytes, unsigned size, struct insn *insn)
{
    return x86_decode(cpu, cpu->mode, bytes, size, 0, 0, insn);
}

// False: the fetch fault or exit is recorded.
static bool fetch(struct x86_cpu *cpu, struct insn *insn)
{
    uint8_t bytes[15] = { 0 };
    uint64_t linear = x86_code_linear(cpu, cpu->rip);
    unsigned first = X86_PAGE_SIZE - (unsigned)(linear & X86_PAGE_MASK);
    if (first > sizeof bytes)
        first = sizeof bytes;
    const uint8_t *host = x86_fetch_pointer(cpu, linear);
    if (!host)
        return false;
    memcpy(bytes, host, first);
    if (decode(cpu, bytes, first, insn) != X86_DECODE_TRUNCATED)
        return true;
    host = x86_fetch_pointer(cpu, linear + first);
    if (!host)
        return false;
    memcpy(bytes + first, host, sizeof bytes - first);
    (void)decode(cpu, bytes, sizeof bytes, insn);       // an invalid one raises #UD
    return true;
}

// The bytes are the caller's, who knows them: decoded once for as long as they stay the same.
static void take(struct x86_cpu *cpu, const uint8_t *bytes, unsigned size, struct x86_step *step)
{
    if (size && step->size == size && step->mode == cpu->mode && !memcmp(step->bytes, bytes, size))
        return;
    memset(step, 0, sizeof *step);
    memcpy(step->bytes, bytes, size);
    (void)decode(cpu, step->bytes, 15, &step->insn[0]);     // an invalid one raises #UD, and what is cut short is one
    step->size = (uint8_t)size;
    step->mode = cpu->mode;
}

enum x86_leave x86_step(struct x86_cpu *cpu, const uint8_t *bytes, unsigned size, struct x86_step *step)
{
    cpu->current = NULL;
    if (bytes) {
        take(cpu, bytes, size, step);
    } else {
        memset(step, 0, sizeof *step);
        if (!fetch(cpu, &step->insn[0]))
            return cpu->leave;
    }
    cpu->slot[X86_SLOT_RIP_PAGE] = cpu->rip;
    step->insn[1] = (struct insn){ .fn = stop_here, .page_offset = step->insn[0].length, .number = 1 };
    cpu->budget = INT32_MAX;
    cpu->leave = X86_LEAVE_LOOKUP;
    cpu->exit.kind = X86_EXIT_PLATFORM;
    for (const struct insn *i = step->insn; i;)
        i = i->fn(cpu, i);
    cpu->current = NULL;
    return cpu->leave;
}
