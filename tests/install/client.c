/* client.c: a program outside the tree, in C and C++: creates a partition, sets it up and deletes it. */
#include <WinHvEmulation.h>
#include <WinHvPlatform.h>
#include <bulkhead/bulkhead.h>

#include <stdio.h>

static int check(const char *call, HRESULT result)
{
    if (FAILED(result)) {
        fprintf(stderr, "%s: 0x%08x\n", call, (unsigned)result);
        return 1;
    }
    return 0;
}

int main(void)
{
    WHV_PARTITION_HANDLE partition;
    UINT32 count = 1;

    if (check("WHvCreatePartition", WHvCreatePartition(&partition))) {
        return 1;
    }
    if (check("WHvSetPartitionProperty",
              WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count,
                                      sizeof(count))) ||
        check("WHvSetupPartition", WHvSetupPartition(partition)) ||
        check("WHvCreateVirtualProcessor", WHvCreateVirtualProcessor(partition, 0, 0)) ||
        check("WHvDeletePartition", WHvDeletePartition(partition))) {
        return 1;
    }
    /* There is no such emulator: an error, and a sign that the call is linked. */
    if (SUCCEEDED(WHvEmulatorDestroyEmulator(NULL))) {
        fprintf(stderr, "WHvEmulatorDestroyEmulator: accepts a null handle\n");
        return 1;
    }
    printf("partition of bulkhead %s\n", BulkheadVersion());
    return 0;
}
