// CpuWeight, CpuGroupId and CpuReserve: how partitions share what there is.
#include "schedule.h"

int main(void)
{
    return 0;
}
