/* The lower-case spelling of WinHvEmulation.h, which programs written on case-insensitive file systems use. */
#include "WinHvEmulation.h"
