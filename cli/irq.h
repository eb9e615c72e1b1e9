/* irq.h: an interrupt wire from a device to whatever the machine has behind it. */
#ifndef CLI_IRQ_H
#define CLI_IRQ_H

#include <stdbool.h>

struct irq_wire {
    void (*set)(void *context, unsigned line, bool level);
    void *context;
    unsigned line;
};

static inline void irq_set(const struct irq_wire *wire, bool level)
{
    wire->set(wire->context, wire->line, level);
}

#endif
