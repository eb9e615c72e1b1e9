/* The lower-case spelling of WinHvPlatform.h, for programs from case-insensitive file systems. */
#include "WinHvPlatform.h"
