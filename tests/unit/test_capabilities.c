// What a host adds to what an engine offers, over made-up hosts and engines.
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bulkhead/bulkhead.h"
#include "fake_engine.h"
#include "partition/capabilities.h"
#include "partition/property.h"

static char root[64];

static int setup(void **state)
{
    (void)state;
    unsetenv("BULKHEAD_ENGINE");
    unsetenv("BULKHEAD_RELAX");
    fake_reset();
    snprintf(root, sizeof(root), "/tmp/bulkhead-host-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static const char *const folders[] = {
    "/dev", "/dev/vfio", "/sys", "/sys/kernel", "/sys/kernel/iommu_groups", "/sys/kernel/iommu_groups/0",
};
#define FOLDERS (sizeof(folders) / sizeof(folders[0]))

static const char *below(const char *path)
{
    static char full[128];

    snprintf(full, sizeof(full), "%s%s", root, path);
    return full;
}

static int teardown(void **state)
{
    (void)state;
    unlink(below("/dev/vfio/vfio"));
    for (unsigned int i = FOLDERS; i-- > 0;)
        rmdir(below(folders[i]));
    return rmdir(root);
}

static bool accepted(void)
{
    const struct property *row = property_find(WHvPartitionPropertyCodeAllowDeviceAssignment);
    struct engine_capabilities capabilities = {.max_processors = 1};
    struct host_capabilities host;
    const UINT32 zero = 0, one = 1;

    host_capabilities_ask(root, &host);
    capabilities_join(&capabilities, &host);
    assert_true(property_check(row, &zero, 1, &capabilities));
    assert_int_equal(capabilities.features.IommuSupport, host.device_assignment);
    return property_check(row, &one, 1, &capabilities);
}

// Only with both VFIO and an IOMMU.
static void test_device_assignment(void **state)
{
    int fd;

    (void)state;
    assert_false(accepted());                   // nothing there
    for (unsigned int i = 0; i < FOLDERS; i++)
        assert_int_equal(mkdir(below(folders[i]), 0700), 0);
    assert_false(accepted());                   // a group, no VFIO
    fd = open(below("/dev/vfio/vfio"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_true(accepted());
    assert_int_equal(rmdir(below("/sys/kernel/iommu_groups/0")), 0);
    assert_false(accepted());                   // VFIO, no group
    assert_int_equal(rmdir(below("/sys/kernel/iommu_groups")), 0);
    assert_false(accepted());
}

// The engine's flags are what a client reads as bits.
static void test_join(void **state)
{
    struct engine_capabilities capabilities = {.apic_remote_read = true};
    const struct host_capabilities none = {.device_assignment = false};

    (void)state;
    capabilities_join(&capabilities, &none);
    assert_int_equal(capabilities.features.ApicRemoteRead, 1);
    capabilities.apic_remote_read = false;
    capabilities_join(&capabilities, &none);
    assert_int_equal(capabilities.features.ApicRemoteRead, 0);
    assert_int_equal(capabilities.features.AsUINT64, 0);
}

static HRESULT set_one(WHV_PARTITION_HANDLE p, WHV_PARTITION_PROPERTY_CODE code)
{
    const UINT32 one = 1;

    return WHvSetPartitionProperty(p, code, &one, sizeof(one));
}

// A value that one engine can have: accepted while that one may be got, which it then is; refused at set-up when
// another is named meanwhile; refused at once where no engine that is wished for has it.
static void assert_only_one_engine(WHV_PARTITION_PROPERTY_CODE code)
{
    WHV_PARTITION_HANDLE p;
    char report[512];

    assert_ok(WHvCreatePartition(&p));
    assert_ok(set_one(p, WHvPartitionPropertyCodeProcessorCount));
    assert_ok(set_one(p, code));
    assert_ok(BulkheadSetEngine(p, "fast"));
    assert_hr(WHvSetupPartition(p), WHV_E_INVALID_PARTITION_CONFIG);
    assert_hr(set_one(p, code), E_INVALIDARG);
    assert_ok(BulkheadSetEngine(p, "auto"));
    assert_ok(WHvSetupPartition(p));
    assert_ok(BulkheadGetEngineReport(p, report, sizeof(report), NULL));
    assert_int_equal(strncmp(report, "engine: fake\n", 13), 0);
    assert_ok(WHvDeletePartition(p));
}

static void test_remote_read(void **state)
{
    WHV_CAPABILITY features;

    (void)state;
    fake_fake_capabilities.apic_remote_read = true;
    assert_only_one_engine(WHvPartitionPropertyCodeApicRemoteReadSupport);
    assert_ok(WHvGetCapability(WHvCapabilityCodeFeatures, &features, sizeof(features), NULL));
    assert_int_equal(features.Features.ApicRemoteRead, 1);
}

static void test_nested_virtualization(void **state)
{
    (void)state;
    fake_fake_capabilities.nested_virtualization = true;
    assert_only_one_engine(WHvPartitionPropertyCodeNestedVirtualization);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_device_assignment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_join, setup, teardown),
        cmocka_unit_test_setup_teardown(test_remote_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nested_virtualization, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
