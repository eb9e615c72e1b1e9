/* fault.h: telling where a guest went wrong: registers and the instruction, disassembled. */
#ifndef CLI_FAULT_H
#define CLI_FAULT_H

#include "memory.h"

#include <WinHvPlatform.h>

#include <stddef.h>

/* WHERE gets one phrase, "CS:RIP (instruction)"; DETAIL gets lines with the registers, each ending in a
 * newline. */
void fault_describe(WHV_PARTITION_HANDLE partition, unsigned index, const struct memory *memory, char *where,
                    size_t where_size, char *detail, size_t detail_size);

#endif
