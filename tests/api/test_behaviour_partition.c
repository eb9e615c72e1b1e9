// Partitions as wholes: several in one process, 1 to 64 processors, changes while processors run, exit
// buffers.
#include "modes.h"

#include <pthread.h>

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

// Several partitions, each with its own memory, processors and properties; one goes, the others go on.
static void test_several(void **state)
{
    // inc word [0x3000]; mov ax, [0x3000]; out 0x10, al
    static const uint8_t code[] = {0xFF, 0x06, 0x00, 0x30, 0xA1, 0x00, 0x30, 0xE6, 0x10};
    enum { COUNT = 8 };
    static uint8_t memories[COUNT][16 * PAGE] __attribute__((aligned(PAGE)));
    WHV_PARTITION_HANDLE p[COUNT];
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    for (int i = 0; i < COUNT; i++) {
        memset(memories[i] + DATA, 0, 2);
        p[i] = guest(memories[i], code, sizeof(code));
        set_register(p[i], 0, WHvX64RegisterRbx, (UINT64)i + 100);
    }
    for (int round = 1; round <= 4; round++)
        for (int i = 0; i < COUNT; i++) {
            if (i < round - 1)
                continue;
            for (int n = 0; n <= i; n++) {
                set_register(p[i], 0, WHvX64RegisterRip, CODE);
                exit = run(p[i], 0);
                assert_port_exit(&exit, 0x10);
                assert_int_equal(exit.IoPortAccess.Rax & 0xFFFF, (round - 1) * (i + 1) + n + 1);
            }
            assert_int_equal(get_register(p[i], 0, WHvX64RegisterRbx), i + 100);
            if (i == round - 1)
                assert_ok(WHvDeletePartition(p[i]));
        }
    assert_hr(WHvRunVirtualProcessor(p[0], 0, &exit, sizeof(exit)), E_INVALIDARG);
    for (int i = 4; i < COUNT; i++)
        assert_ok(WHvDeletePartition(p[i]));
}

// The same host memory in two partitions is the same memory.
static void test_shared_memory(void **state)
{
    static const uint8_t code[] = {0xA2, 0x00, 0x30, 0xE6, 0x10};      // mov [0x3000], al; out 0x10, al
    static uint8_t other[16 * PAGE] __attribute__((aligned(PAGE)));
    static const uint8_t load[] = {0xA0, 0x00, 0x30, 0xE6, 0x10};      // mov al, [0x3000]; out 0x10, al
    WHV_PARTITION_HANDLE writer = guest(memory, code, sizeof(code));
    WHV_PARTITION_HANDLE reader = guest(other, load, sizeof(load));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    assert_ok(WHvMapGpaRange(reader, memory + DATA, DATA, PAGE, WHvMapGpaRangeFlagRead));
    set_register(writer, 0, WHvX64RegisterRax, 0x6B);
    exit = run(writer, 0);
    assert_port_exit(&exit, 0x10);
    exit = run(reader, 0);
    assert_port_exit(&exit, 0x10);
    assert_int_equal(exit.IoPortAccess.Rax & 0xFF, 0x6B);
    assert_ok(WHvDeletePartition(writer));
    assert_ok(WHvDeletePartition(reader));
}

// With each number of processors, every one of them runs and knows its number.
static void test_processor_counts(void **state)
{
    static const uint8_t code[] = {0x66, 0xB8, 0x01, 0x00, 0x00, 0x00, 0x0F, 0xA2, 0xE6, 0x10};

    (void)state;
    memcpy(memory + CODE, code, sizeof(code));      // mov eax, 1; cpuid; out 0x10, al
    for (UINT32 count = 1; count <= 64; count++) {
        WHV_PARTITION_HANDLE p = set_up(count);

        assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
        // Not in order, as a client may.
        for (UINT32 i = 0; i < count; i++)
            assert_ok(WHvCreateVirtualProcessor(p, count - 1 - i, 0));
        for (UINT32 i = 0; i < count; i++) {
            WHV_RUN_VP_EXIT_CONTEXT exit;
            UINT64 ebx;

            start_at(p, i, CODE);
            exit = run(p, i);
            assert_port_exit(&exit, 0x10);
            ebx = get_register(p, i, WHvX64RegisterRbx);
            assert_int_equal(ebx >> 24, i);
            assert_int_equal(ebx >> 16 & 0xFF, count);
            assert_int_equal(get_register(p, i, WHvX64RegisterInitialApicId), i);
        }
        assert_ok(WHvDeletePartition(p));
    }
}

static void test_processor_count_bounds(void **state)
{
    WHV_PARTITION_HANDLE p = created(3);
    UINT32 count = 0;

    (void)state;
    assert_hr(set32(p, WHvPartitionPropertyCodeProcessorCount, 0), E_INVALIDARG);
    assert_hr(set32(p, WHvPartitionPropertyCodeProcessorCount, 65), E_INVALIDARG);
    assert_ok(
        WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count), NULL));
    assert_int_equal(count, 3);
    assert_ok(WHvDeletePartition(p));
}

// What may be set after set-up takes effect on a processor that is running, from whatever thread.
static void *set_cpuid_exit(void *partition)
{
    const WHV_EXTENDED_VM_EXITS exits = {.X64CpuidExit = 1};

    while (!*(volatile uint16_t *)(void *)(memory + DATA))
        ;
    set_exits((WHV_PARTITION_HANDLE)partition, exits);
    return NULL;
}

static void test_change_while_running(void **state)
{
    static const uint8_t code[] = {0xFF, 0x06, 0x00, 0x30,
                                   0x0F, 0xA2, 0xEB, 0xF8}; // inc [0x3000]; cpuid; jmp
    WHV_PARTITION_HANDLE p;
    pthread_t thread;

    (void)state;
    NEEDS(engine_has_exits((WHV_EXTENDED_VM_EXITS){.X64CpuidExit = 1}));
    memset(memory + DATA, 0, 2);
    p = guest(memory, code, sizeof(code));
    assert_int_equal(pthread_create(&thread, NULL, set_cpuid_exit, p), 0);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Cpuid);
    pthread_join(thread, NULL);
    assert_ok(WHvDeletePartition(p));
}

// A processor may go and come back while the others stay as they are.
static void test_recreate(void **state)
{
    static const uint8_t code[] = {0x43, 0xE6, 0x10};       // inc bx; out 0x10, al
    WHV_PARTITION_HANDLE p = set_up(2);
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    memcpy(memory + CODE, code, sizeof(code));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    for (int i = 1; i <= 16; i++) {
        assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
        start_at(p, 1, CODE);
        exit = run(p, 1);
        assert_port_exit(&exit, 0x10);
        assert_int_equal(get_register(p, 1, WHvX64RegisterRbx), 1);
        start_at(p, 0, CODE);
        exit = run(p, 0);
        assert_port_exit(&exit, 0x10);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRbx), i);
        assert_ok(WHvDeleteVirtualProcessor(p, 1));
        assert_hr(WHvRunVirtualProcessor(p, 1, &exit, sizeof(exit)), WHV_E_VP_DOES_NOT_EXIST);
    }
    assert_ok(WHvDeletePartition(p));
}

// A client's exit structure may be shorter or longer than ours: what fits is written, what is beyond is zero.
static void test_exit_buffers(void **state)
{
    static const uint8_t code[] = {0xE6, 0x10};
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    uint8_t buffer[1024];
    WHV_RUN_VP_EXIT_CONTEXT whole = run(p, 0);

    (void)state;
    for (UINT32 size = 4; size < sizeof(buffer); size += 4) {
        UINT32 same = size < sizeof(whole) ? size : (UINT32)sizeof(whole);

        memset(buffer, 0xEE, sizeof(buffer));
        assert_ok(WHvRunVirtualProcessor(p, 0, buffer, size));
        assert_memory_equal(buffer, &whole, same);
        for (UINT32 i = same; i < size; i++)
            assert_int_equal(buffer[i], 0);
        assert_int_equal(buffer[size], 0xEE);
    }
    assert_hr(WHvRunVirtualProcessor(p, 0, buffer, 3), WHV_E_INSUFFICIENT_BUFFER);
    assert_ok(WHvDeletePartition(p));
}

// The reference time is 0 until the first run.
static void test_reference_time(void **state)
{
    WHV_PARTITION_HANDLE p = set_up(1);
    UINT64 time = 1;

    (void)state;
    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeReferenceTime, &time, sizeof(time), NULL));
    assert_int_equal(time, 0);
    assert_ok(WHvDeletePartition(p));
}

// Register values at every misalignment, more of them than are copied without an allocation.
static void test_unaligned_values(void **state)
{
    static uint8_t bytes[33 * sizeof(WHV_REGISTER_VALUE)];
    WHV_PARTITION_HANDLE p = set_up(1);
    WHV_REGISTER_NAME names[32];

    (void)state;
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    for (int i = 0; i < 16; i++) {
        names[i] = (WHV_REGISTER_NAME)(WHvX64RegisterRax + i);
        names[16 + i] = (WHV_REGISTER_NAME)(WHvX64RegisterXmm0 + i);
    }
    for (unsigned int shift = 0; shift < 16; shift++) {
        WHV_REGISTER_VALUE *values = (WHV_REGISTER_VALUE *)(void *)(bytes + shift);

        for (unsigned int i = 0; i < 32 * sizeof(WHV_REGISTER_VALUE); i++)
            bytes[shift + i] = (uint8_t)(i / sizeof(WHV_REGISTER_VALUE) + shift);
        assert_ok(WHvSetVirtualProcessorRegisters(p, 0, names, 32, values));
        memset(bytes, 0, sizeof(bytes));
        assert_ok(WHvGetVirtualProcessorRegisters(p, 0, names, 32, values));
        for (unsigned int i = 0; i < 32; i++)
            for (unsigned int n = 0; n < (i < 16 ? 8u : 16u); n++)
                assert_int_equal(bytes[shift + i * sizeof(WHV_REGISTER_VALUE) + n], i + shift);
    }
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_several),
        cmocka_unit_test(test_shared_memory),
        cmocka_unit_test(test_processor_counts),
        cmocka_unit_test(test_processor_count_bounds),
        cmocka_unit_test(test_change_while_running),
        cmocka_unit_test(test_recreate),
        cmocka_unit_test(test_exit_buffers),
        cmocka_unit_test(test_reference_time),
        cmocka_unit_test(test_unaligned_values),
    };

    return engine_run_tests(tests);
}
