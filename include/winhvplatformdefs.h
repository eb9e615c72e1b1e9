/* The lower-case spelling of WinHvPlatformDefs.h, for programs from case-insensitive file systems. */
#include "WinHvPlatformDefs.h"
