// The host's part of the guests that need one: it answers their exits and checks the exits' contexts.
#ifndef HOSTS_H
#define HOSTS_H

#include "guests.h"

typedef enum answer host_function(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit);

host_function host_of_apic, host_of_ports, host_of_memory, host_of_exits, host_of_halt, host_of_halt_apic,
    host_of_moving;
bool prepare_memory(struct run *run);
bool prepare_moving(struct run *run);
void finish_moving(struct run *run);

#endif
