// Writes to the local APIC that exit when they are done, for who has asked for that: registers, SMI, INIT and start-up
// messages.
#include "engine/soft/vcpu.h"

// Which property bit asks for the exit, and what it is for: a register, or a kind of message.
static const struct {
    WHV_EXTENDED_VM_EXITS exit;
    enum x86_exit_kind kind;
    uint16_t offset;                    // of the register in the APIC's page
} rows[VCPU_TRAPS] = {
    [VCPU_TRAP_LDR] = { { .X64ApicWriteLdrExitTrap = 1 }, X86_EXIT_APIC_WRITE, LAPIC_LDR },
    [VCPU_TRAP_DFR] = { { .X64ApicWriteDfrExitTrap = 1 }, X86_EXIT_APIC_WRITE, LAPIC_DFR },
    [VCPU_TRAP_SVR] = { { .X64ApicWriteSvrExitTrap = 1 }, X86_EXIT_APIC_WRITE, LAPIC_SVR },
    [VCPU_TRAP_LINT0] = { { .X64ApicWriteLint0ExitTrap = 1 }, X86_EXIT_APIC_WRITE, LAPIC_LVT_LINT0 },
    [VCPU_TRAP_LINT1] = { { .X64ApicWriteLint1ExitTrap = 1 }, X86_EXIT_APIC_WRITE, LAPIC_LVT_LINT1 },
    [VCPU_TRAP_SMI] = { { .X64ApicSmiExitTrap = 1 }, X86_EXIT_APIC_SMI, LAPIC_ICR },
    [VCPU_TRAP_INIT_SIPI] = { { .X64ApicInitSipiExitTrap = 1 }, X86_EXIT_APIC_INIT_SIPI, LAPIC_ICR },
};

static bool wanted(const struct vcpu *v, unsigned row)
{
    return v->soft->exits.extended.AsUINT64 & rows[row].exit.AsUINT64;
}

static void set(struct vcpu *v, unsigned row, uint64_t value)
{
    v->traps.pending |= (uint8_t)(1u << row);
    v->traps.value[row] = value;
    v->p.cpu.leave_behind = true;
}

void vcpu_trap_write(struct vcpu *v, uint16_t offset, uint64_t value)
{
    for (unsigned row = 0; row < VCPU_TRAPS; row++)
        if (rows[row].kind == X86_EXIT_APIC_WRITE && rows[row].offset == offset && wanted(v, row))
            set(v, row, value);
}

bool vcpu_trap_message(struct vcpu *v, const struct lapic_message *message)
{
    unsigned row = message->mode == LAPIC_SMI ? VCPU_TRAP_SMI : VCPU_TRAP_INIT_SIPI;
    uint64_t icr = 0;
    if ((message->mode != LAPIC_SMI && message->mode != LAPIC_INIT && message->mode != LAPIC_SIPI) || !wanted(v, row))
        return false;
    (void)lapic_get_register(&v->lapic, LAPIC_ICR, &icr, vcpu_time(v));     // there in every mode
    set(v, row, icr);
    return true;
}

bool vcpu_trap_take(struct vcpu *v, struct x86_exit *exit)
{
    if (!v->traps.pending)
        return false;
    unsigned row = (unsigned)__builtin_ctz(v->traps.pending);
    v->traps.pending &= (uint8_t)(v->traps.pending - 1);
    exit->kind = rows[row].kind;
    exit->apic.offset = rows[row].offset;
    exit->apic.value = v->traps.value[row];
    return true;
}
