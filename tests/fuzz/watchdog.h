// Ends runs of a processor that take too long, and the process when that does not help.
#ifndef WATCHDOG_H
#define WATCHDOG_H

#include <WinHvPlatform.h>

// Every run that lasts longer than some milliseconds is cancelled. A run that a cancel does not end within 20
// s ends the process with status 3, after `describe` has said what was running.
void watchdog_start(void (*describe)(void));
void watchdog_stop(void);

// WHvRunVirtualProcessor under the watchdog's eyes.
HRESULT watchdog_run(WHV_PARTITION_HANDLE partition, UINT32 vp, WHV_RUN_VP_EXIT_CONTEXT *exit);

#endif
