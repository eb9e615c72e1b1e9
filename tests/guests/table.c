// The table of guests: what each needs of its partition.
#include "hosts.h"

#define NONE WHvX64LocalApicEmulationModeNone
#define XAPIC WHvX64LocalApicEmulationModeXApic
#define X2APIC WHvX64LocalApicEmulationModeX2Apic

// What the kernel's interpreter of guests does in a way of its own.
#define LATE "this host's KVM interprets guests, and takes interrupts later than at the first chance"

const struct guest guests[] = {
    { .name = "real" },
    { .name = "protected",
      .interpreted = "this host's KVM interprets guests, and has not all of protected mode" },
    { .name = "exceptions" },
    { .name = "vectors", .vector_code = true },
    { .name = "breakpoints",
      .interpreted = "this host's KVM interprets guests, and has no breakpoints on data" },
    { .name = "paging",
      .interpreted = "this host's KVM interprets guests, and stores over two pages in two parts" },
    { .name = "privilege",
      .interpreted = "this host's KVM interprets guests, and raises #UD for INT at CPL 3" },
    { .name = "smc" },
    { .name = "triple", .end = WHvRunVpExitReasonUnrecoverableException },
    { .name = "shadow", .apic = X2APIC, .interpreted = LATE },
    { .name = "apic", .apic = XAPIC, .on_exit = host_of_apic, .interpreted = LATE },
    { .name = "x2apic", .apic = X2APIC, .interpreted = LATE },
    { .name = "smp", .apic = X2APIC, .processors = 2 },
    { .name = "ports", .on_exit = host_of_ports },
    { .name = "memory", .prepare = prepare_memory, .on_exit = host_of_memory },
    { .name = "moving", .prepare = prepare_moving, .finish = finish_moving, .on_exit = host_of_moving },
    { .name = "exits",
      .exits = { .X64CpuidExit = 1, .X64MsrExit = 1, .ExceptionExit = 1, .X64RdtscExit = 1 },
      .exception_bitmap = 1u << 6 | 1u << 14 | 1u << 3,
      .on_exit = host_of_exits },
    { .name = "halt", .apic = NONE, .on_exit = host_of_halt },
    { .name = "halt_apic", .apic = XAPIC, .on_exit = host_of_halt_apic },
};
const unsigned guest_count = sizeof(guests) / sizeof(guests[0]);
