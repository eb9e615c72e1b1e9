/* The lower-case spelling of WinHvPlatformDefs.h, which programs written on case-insensitive file systems use. */
#include "WinHvPlatformDefs.h"
