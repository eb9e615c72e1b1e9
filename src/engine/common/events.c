// What is delivered before the next instruction, and what becomes of it when it cannot be.
#include "engine/common/processor.h"

#include "x86/system.h"

// While an event is delivered it is pending, so that it is not lost where the host takes the memory away.
static void delivering(struct processor *p, const struct x86_exception *event, bool external)
{
    p->pending = *event;
    p->pending_valid = true;
    p->pending_external = external;
    p->cpu.current = NULL;
}

static enum step delivered(struct processor *p, enum x86_leave result, WHV_RUN_VP_EXIT_CONTEXT *exit, UINT8 cr8)
{
    p->cpu.interrupt_shadow = 0;
    // An exit other than for the event itself: its delivery touched missing memory, or raised an exception
    // that exits. It is to be repeated.
    bool nested = p->cpu.exit.kind == X86_EXIT_EXCEPTION
               && (p->pending_external || p->pending.vector != p->cpu.exception.vector);
    p->pending_valid = result == X86_LEAVE_EXIT && (p->cpu.exit.kind != X86_EXIT_EXCEPTION || nested);
    p->pending_told = p->pending_valid && nested;
    switch (result) {
    case X86_LEAVE_SHUTDOWN:
        exit_context(p, exit, WHvRunVpExitReasonUnrecoverableException, cr8);
        return STEP_EXIT;
    case X86_LEAVE_EXIT:
        exit_from_cpu(p, exit, cr8);
        return STEP_EXIT;
    default:
        if (p->pending_external && p->pending.vector == X86_NMI)
            p->cpu.nmi_blocked = 1;
        return STEP_AGAIN;
    }
}

enum step deliver_event(struct processor *p, struct x86_exception event, bool external, WHV_RUN_VP_EXIT_CONTEXT *exit,
                        UINT8 cr8)
{
    delivering(p, &event, external);
    return delivered(p, x86_deliver_event(&p->cpu, &event, external), exit, cr8);
}

enum step deliver_exception(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit, UINT8 cr8)
{
    delivering(p, &p->cpu.exception, false);
    enum x86_leave result = x86_deliver_exception(&p->cpu);
    if (result != X86_LEAVE_EXIT || p->cpu.exit.kind != X86_EXIT_EXCEPTION)
        p->pending = p->cpu.exception;      // a double fault, by now, where the first one could not be delivered
    return delivered(p, result, exit, cr8);
}

enum step deliver_pending(struct processor *p, WHV_RUN_VP_EXIT_CONTEXT *exit, UINT8 cr8)
{
    if (p->pending_valid)
        return deliver_event(p, p->pending, p->pending_external, exit, cr8);
    if (!p->event_valid)
        return STEP_RUN;
    p->event_valid = false;
    return deliver_event(p, p->event, false, exit, cr8);
}
