/* The lower-case spelling of WinHvPlatform.h, which programs written on case-insensitive file systems use. */
#include "WinHvPlatform.h"
