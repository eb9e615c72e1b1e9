// Registers by name: one table for what is in `struct processor`, and beside it one of each engine's own.
//
// A row stands for a run of like registers. A set call checks every name and value first and writes only
// then. Values that make no lawful processor together are accepted here and refused by the next run
// (InvalidVpRegisterValue).
#ifndef BULKHEAD_REGISTERS_H
#define BULKHEAD_REGISTERS_H

#include "engine/common/processor.h"

// Which part of a processor's state a register lies in: what an engine has to fetch before it is read, and to
// hand on after it was written.
enum register_group {
    REGISTER_GENERAL = 1,       // RAX..R15, RIP, RFLAGS
    REGISTER_SYSTEM = 2,        // segments, tables, control registers, EFER
    REGISTER_EVENTS = 4,        // pending events, interrupt shadow, NMI blocking
    REGISTER_FPU = 8,           // x87, XMM, their control and status
    REGISTER_DEBUG = 16,        // DR0 to DR7
    REGISTER_XCR = 32,
    REGISTER_MSR = 64,          // MSRs that are members of struct x86_cpu, MTRRs included
    REGISTER_OWN = 128,         // the engine's rows; an engine may use this bit and those above it as it likes
};

struct register_row {
    uint32_t first, count;
    uint32_t group;
    void (*get)(struct processor *p, unsigned n, WHV_REGISTER_VALUE *value);
    void (*set)(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value);      // NULL: read only
    bool (*valid)(struct processor *p, unsigned n, const WHV_REGISTER_VALUE *value);    // NULL: any value
    // Whether this processor has the register at all; NULL: it has. The HRESULT is the call's result.
    HRESULT (*has)(struct processor *p, unsigned n);
};

// Sorted by name, none twice, none that the common table has.
struct register_table { const struct register_row *rows; size_t count; };

// The same as registers_set where all names are general registers and RIP, which is how clients complete an exit: without
// a look at the tables. False, and nothing is set, where one is another.
static inline bool registers_set_general(struct processor *p, const WHV_REGISTER_NAME *names, UINT32 count,
                                         const WHV_REGISTER_VALUE *values)
{
    _Static_assert((int)WHvX64RegisterRax == (int)X86_RAX && WHvX64RegisterR15 == 15 && WHvX64RegisterRip == 16,
                   "in this order");
    for (UINT32 n = 0; n < count; n++)
        if (X86_UNLIKELY((uint32_t)names[n] > WHvX64RegisterRip))
            return false;
    for (UINT32 n = 0; n < count; n++)
        *(names[n] == WHvX64RegisterRip ? &p->cpu.rip : &p->cpu.slot[names[n]]) = values[n].Reg64;
    return true;
}

// The groups that the names lie in. WHV_E_INVALID_VP_REGISTER_NAME for one that neither table has.
CHECKED HRESULT registers_groups(struct processor *p, const struct register_table *own, const WHV_REGISTER_NAME *names,
                                 UINT32 count, uint32_t *groups);
CHECKED HRESULT registers_get(struct processor *p, const struct register_table *own, const WHV_REGISTER_NAME *names,
                              UINT32 count, WHV_REGISTER_VALUE *values);
CHECKED HRESULT registers_set(struct processor *p, const struct register_table *own, const WHV_REGISTER_NAME *names,
                              UINT32 count, const WHV_REGISTER_VALUE *values);

#endif
