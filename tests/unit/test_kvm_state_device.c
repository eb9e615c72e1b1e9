// All of a kvm processor's state in one piece, on the real kernel: from one partition into another, and what is refused.
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/handle.h"
#include "bulkhead/bulkhead.h"
#include "partition/vp_state.h"

#define STATE_MAX 32768u

static uint8_t memory[16 * 4096] __attribute__((aligned(4096)));

struct machine {
    WHV_PARTITION_HANDLE handle;
    struct vp *vp;
};

static bool usable(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        print_message("skipped: /dev/kvm: %s\n", strerror(errno));
        return false;
    }
    close(fd);
    return true;
}

static struct machine open_machine(const char *engine, UINT32 mode)
{
    struct machine m;
    UINT32 count = 2;
    assert_ok(WHvCreatePartition(&m.handle));
    assert_ok(BulkheadSetEngine(m.handle, engine));
    assert_ok(WHvSetPartitionProperty(m.handle, WHvPartitionPropertyCodeProcessorCount, &count, sizeof count));
    assert_ok(WHvSetPartitionProperty(m.handle, WHvPartitionPropertyCodeLocalApicEmulationMode, &mode, sizeof mode));
    assert_ok(WHvSetupPartition(m.handle));
    assert_ok(WHvMapGpaRange(m.handle, memory, 0, sizeof memory,
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    for (UINT32 n = 0; n < count; n++)
        assert_ok(WHvCreateVirtualProcessor(m.handle, n, 0));
    struct partition *p = handle_pin(m.handle);
    m.vp = p->vps[0];
    handle_unpin(m.handle);
    return m;
}

static size_t save(const struct machine *m, uint8_t *state)
{
    size_t size;
    memset(state, 0, STATE_MAX);
    assert_ok(vp_state_save(m->vp, state, STATE_MAX, &size));
    return size;
}

// What goes on by itself, in the first record.
static void hide_clock(uint8_t *state)
{
    uint32_t length, name;
    memcpy(&length, state + 4, 4);
    for (uint8_t *at = state + 8; at < state + 8 + length; at += 20) {
        memcpy(&name, at, 4);
        if (name == WHvX64RegisterTsc)
            memset(at + 4, 0, 16);
    }
}

static void set(const struct machine *m, WHV_REGISTER_NAME name, UINT64 number)
{
    WHV_REGISTER_VALUE value;
    memset(&value, 0, sizeof value);
    value.Reg64 = number;
    assert_ok(WHvSetVirtualProcessorRegisters(m->handle, 0, &name, 1, &value));
}

static void carry(UINT32 mode)
{
    static uint8_t before[STATE_MAX], after[STATE_MAX];
    static const uint8_t code[] = { 0xff, 0xc0, 0xe6, 0x10, 0xe6, 0x11 };     // inc ax; out 0x10, al; out 0x11, al
    WHV_RUN_VP_EXIT_CONTEXT exit;
    memcpy(memory + 0x1000, code, sizeof code);
    struct machine one = open_machine("kvm", mode);
    WHV_REGISTER_NAME name = WHvX64RegisterCs;
    WHV_REGISTER_VALUE cs = { .Segment = { .Limit = 0xffff, .Attributes = 0x9b } };
    assert_ok(WHvSetVirtualProcessorRegisters(one.handle, 0, &name, 1, &cs));
    set(&one, WHvX64RegisterRip, 0x1000);
    set(&one, WHvX64RegisterRax, 0x41);
    assert_ok(WHvRunVirtualProcessor(one.handle, 0, &exit, sizeof exit));
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    set(&one, WHvX64RegisterXmm7, 0x1234);
    if (mode) {
        WHV_INTERRUPT_CONTROL nmi = { .Type = WHvX64InterruptTypeNmi };
        assert_ok(WHvRequestInterrupt(one.handle, &nmi, sizeof nmi));
    }
    assert_ok(WHvCancelRunVirtualProcessor(one.handle, 0, 0));
    size_t size = save(&one, before);
    struct machine two = open_machine("kvm", mode);
    assert_ok(vp_state_load(two.vp, before, size));
    assert_int_equal(save(&two, after), size);
    hide_clock(before);
    hide_clock(after);
    assert_memory_equal(before, after, size);
    // The cancel came along, and then the guest goes on where it was; an NMI first, whose vector is 0000:0000.
    assert_ok(WHvRunVirtualProcessor(two.handle, 0, &exit, sizeof exit));
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonCanceled);
    if (!mode) {
        assert_ok(WHvRunVirtualProcessor(two.handle, 0, &exit, sizeof exit));
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
        assert_int_equal(exit.IoPortAccess.PortNumber, 0x10);
        assert_int_equal(exit.IoPortAccess.Rax & 0xffff, 0x42);
    }
    // What is refused leaves it as it was.
    save(&two, before);
    static uint8_t bad[STATE_MAX];
    save(&one, bad);
    for (size_t n = 0; n < size; n += 97)
        assert_hr(vp_state_load(two.vp, bad, n), E_INVALIDARG);
    save(&two, after);
    hide_clock(before);
    hide_clock(after);
    assert_memory_equal(before, after, size);
    // And another engine's state is no state here.
    struct machine soft = open_machine("soft", mode);
    size = save(&soft, before);
    assert_true(FAILED(vp_state_load(two.vp, before, size)));
    assert_ok(WHvDeletePartition(one.handle));
    assert_ok(WHvDeletePartition(two.handle));
    assert_ok(WHvDeletePartition(soft.handle));
}

static void test_carry(void **state)
{
    (void)state;
    if (!usable())
        skip();
    carry(WHvX64LocalApicEmulationModeNone);
    carry(WHvX64LocalApicEmulationModeXApic);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_carry) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
