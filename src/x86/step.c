// One instruction outside of the block cache: for whoever runs few, far between, and each with a look around it.
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

enum x86_leave x86_step(struct x86_cpu *cpu, const uint8_t *bytes, unsigned size, struct insn room[2])
{
    memset(room, 0, 2 * sizeof *room);
    cpu->current = NULL;
    if (!bytes) {
        if (!fetch(cpu, room))
            return cpu->leave;
    } else {
        (void)decode(cpu, bytes, size, room);
    }
    cpu->slot[X86_SLOT_RIP_PAGE] = cpu->rip;
    room[1] = (struct insn){ .fn = stop_here, .page_offset = room[0].length, .number = 1 };
    cpu->budget = INT32_MAX;
    cpu->leave = X86_LEAVE_LOOKUP;
    cpu->exit.kind = X86_EXIT_PLATFORM;
    for (const struct insn *i = room; i;)
        i = i->fn(cpu, i);
    cpu->current = NULL;
    return cpu->leave;
}
