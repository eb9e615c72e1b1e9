// The table of guests: what each needs of its partition, and the host's part of those that need one.
#include "guests.h"

const struct guest guests[] = {
    { .name = "real" },
    { .name = "exceptions" },
    { .name = "breakpoints" },
    { .name = "paging" },
    { .name = "privilege" },
    { .name = "protected" },
    { .name = "shadow", .apic = WHvX64LocalApicEmulationModeX2Apic },
    { .name = "triple", .end = WHvRunVpExitReasonUnrecoverableException },
};
const unsigned guest_count = sizeof(guests) / sizeof(guests[0]);
