/* The lower-case spelling of WinHvEmulation.h, for programs from case-insensitive file systems. */
#include "WinHvEmulation.h"
