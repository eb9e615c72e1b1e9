// Memory exits: what they tell, and the ways to go on after one.
#include "modes.h"

#include <sys/mman.h>

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
static uint8_t page[PAGE] __attribute__((aligned(PAGE)));

static WHV_RUN_VP_EXIT_CONTEXT run_to_memory_exit(WHV_PARTITION_HANDLE p, UINT64 rip, UINT64 gpa,
                                                  WHV_MEMORY_ACCESS_TYPE type, bool unmapped)
{
    WHV_RUN_VP_EXIT_CONTEXT exit = run(p, 0);

    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.MemoryAccess.AccessInfo.AccessType, type);
    assert_int_equal(exit.MemoryAccess.AccessInfo.GpaUnmapped, unmapped);
    assert_int_equal(exit.MemoryAccess.Gpa, gpa);
    assert_int_equal(exit.VpContext.Rip, rip);
    assert_int_equal(exit.VpContext.InstructionLength, 0);
    return exit;
}

// Read, write, and read-modify-write of an unmapped page, in long mode, with the linear address told.
static void test_unmapped(void **state)
{
    // mov rax, [0xD008]; mov [0xD010], rax; inc qword [0xD018]; out 0x10, al
    static const uint8_t code[] = {0x48, 0x8B, 0x04, 0x25, 0x08, 0xD0, 0, 0, 0x48, 0x89, 0x04, 0x25, 0x10,
                                   0xD0, 0,    0,    0x48, 0xFF, 0x04, 0x25, 0x18, 0xD0, 0, 0, 0xE6, 0x10};
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    enter_long(p, memory);
    put64(memory, PT + 8 * 13, 0x300000 | PTE_P | PTE_W);       // linear 0xD000 is physical 0x300000
    exit = run_to_memory_exit(p, CODE, 0x300008, WHvMemoryAccessRead, true);
    assert_int_equal(exit.MemoryAccess.AccessInfo.GvaValid, 1);
    assert_int_equal(exit.MemoryAccess.Gva, 0xD008);
    assert_int_equal(exit.MemoryAccess.InstructionByteCount, 16);
    assert_memory_equal(exit.MemoryAccess.InstructionBytes, code, 16);
    // The client completes it.
    set_register(p, 0, WHvX64RegisterRax, 0x1122334455667788);
    set_register(p, 0, WHvX64RegisterRip, CODE + 8);
    exit = run_to_memory_exit(p, CODE + 8, 0x300010, WHvMemoryAccessWrite, true);
    assert_int_equal(exit.MemoryAccess.Gva, 0xD010);
    assert_memory_equal(exit.MemoryAccess.InstructionBytes, code + 8, 16);
    // The client maps the page, and the instruction is executed.
    memset(page, 0, sizeof(page));
    put64(page, 0x18, 41);
    assert_ok(WHvMapGpaRange(p, page, 0x300000, PAGE, RW));
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_int_equal(peek64(page, 0x10), 0x1122334455667788);
    assert_int_equal(peek64(page, 0x18), 42);
    // And a read-modify-write that finds nothing there.
    assert_ok(WHvUnmapGpaRange(p, 0x300000, PAGE));
    set_register(p, 0, WHvX64RegisterRip, CODE + 16);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.MemoryAccess.Gpa, 0x300018);
    assert_int_equal(exit.VpContext.Rip, CODE + 16);
    assert_ok(WHvDeletePartition(p));
}

// A write to read+execute memory exits without any property; reads and fetches go on.
static void test_rom(void **state)
{
    // mov al, [0xD000]; mov [0xD000], al; inc byte [0xD000]; push ax; out 0x10, al
    static const uint8_t code[] = {0xA0, 0x00, 0xD0, 0xA2, 0x00, 0xD0, 0xFE,
                                   0x06, 0x00, 0xD0, 0x50, 0xE6, 0x10};
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    memset(page, 0x5A, sizeof(page));
    assert_ok(WHvMapGpaRange(p, page, HOLE, PAGE, RX));
    exit = run_to_memory_exit(p, CODE + 3, HOLE, WHvMemoryAccessWrite, false);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRax) & 0xFF, 0x5A);
    assert_int_equal(exit.MemoryAccess.InstructionByteCount, 16);
    assert_memory_equal(exit.MemoryAccess.InstructionBytes, code + 3, sizeof(code) - 3);
    set_register(p, 0, WHvX64RegisterRip, CODE + 6);
    run_to_memory_exit(p, CODE + 6, HOLE, WHvMemoryAccessWrite, false);
    set_register(p, 0, WHvX64RegisterRip, CODE + 10);
    set_register(p, 0, WHvX64RegisterRsp, HOLE + 0x100);
    run_to_memory_exit(p, CODE + 10, HOLE + 0xFE, WHvMemoryAccessWrite, false);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRsp), HOLE + 0x100);
    for (unsigned int i = 0; i < PAGE; i++)
        assert_int_equal(page[i], 0x5A);
    assert_ok(WHvDeletePartition(p));
}

// A jump to an unmapped address exits on the target, as an execution.
static void test_fetch(void **state)
{
    static const uint8_t code[] = {0xE9, 0x23, 0xC1};           // jmp 0xD126
    static const uint8_t there[] = {0xE6, 0x77};                // out 0x77, al
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    assert_ok(WHvUnmapGpaRange(p, HOLE, PAGE));
    exit = run_to_memory_exit(p, 0xD126, 0xD126, WHvMemoryAccessExecute, true);
    assert_int_equal(exit.MemoryAccess.InstructionByteCount, 0);
    // As a trap: the client moves RIP and runs on.
    set_register(p, 0, WHvX64RegisterRip, CODE);
    run_to_memory_exit(p, 0xD126, 0xD126, WHvMemoryAccessExecute, true);
    memcpy(page + 0x126, there, sizeof(there));
    assert_ok(WHvMapGpaRange(p, page, HOLE, PAGE, RX));
    exit = run(p, 0);
    assert_port_exit(&exit, 0x77);
    assert_int_equal(exit.VpContext.Rip, 0xD126);
    assert_ok(WHvDeletePartition(p));
}

// Readable memory that may not be executed: there, but not for this.
static void test_fetch_forbidden(void **state)
{
    static const uint8_t code[] = {0xE9, 0x23, 0xC1};           // jmp 0xD126
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    memcpy(page + 0x126, "\xE6\x77", 2);                        // out 0x77, al
    assert_ok(WHvMapGpaRange(p, page, HOLE, PAGE, RW));
    if (engine_forbids_execution()) {
        run_to_memory_exit(p, 0xD126, 0xD126, WHvMemoryAccessExecute, false);
    } else {
        exit = run(p, 0);
        assert_port_exit(&exit, 0x77);
        print_message("refused as documented: memory that may be read but not executed\n");
    }
    assert_ok(WHvDeletePartition(p));
}

// An instruction whose second part lies in an unmapped page: the fetch exits with RIP on its start.
static void test_fetch_over_page_end(void **state)
{
    static const uint8_t nothing[] = {0xF4};
    WHV_PARTITION_HANDLE p = guest(memory, nothing, sizeof(nothing));

    (void)state;
    memory[HOLE - 1] = 0xE6;        // out 0x10, al over the end of the page
    assert_ok(WHvUnmapGpaRange(p, HOLE, PAGE));
    set_register(p, 0, WHvX64RegisterRip, HOLE - 1);
    run_to_memory_exit(p, HOLE - 1, HOLE, WHvMemoryAccessExecute, true);
    page[0] = 0x10;
    assert_ok(WHvMapGpaRange(p, page, HOLE, PAGE, RWX));
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(WHvDeletePartition(p));
}

// The instruction bytes stop where they cannot be fetched.
static void test_bytes_at_page_end(void **state)
{
    static const uint8_t nothing[] = {0xF4};
    WHV_PARTITION_HANDLE p = guest(memory, nothing, sizeof(nothing));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    memcpy(memory + HOLE - 3, "\xA0\x08\xD0", 3);       // mov al, [0xD008]
    assert_ok(WHvUnmapGpaRange(p, HOLE, PAGE));
    set_register(p, 0, WHvX64RegisterRip, HOLE - 3);
    exit = run_to_memory_exit(p, HOLE - 3, HOLE + 8, WHvMemoryAccessRead, true);
    assert_int_equal(exit.MemoryAccess.InstructionByteCount, 3);
    assert_memory_equal(exit.MemoryAccess.InstructionBytes, memory + HOLE - 3, 3);
    assert_ok(WHvDeletePartition(p));
}

// Delivering an exception needs a page that is not there: the exit says that an event is pending, and running
// again delivers it.
static void deliver_through(WHV_PARTITION_HANDLE p, UINT64 missing, UINT64 size, WHV_MEMORY_ACCESS_TYPE type)
{
    WHV_X64_PENDING_INTERRUPTION_REGISTER pending;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    for (int attempt = 0; attempt < 2; attempt++) {
        exit = run(p, 0);
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
        assert_int_equal(exit.VpContext.ExecutionState.InterruptionPending, 1);
        assert_int_equal(exit.VpContext.Rip, CODE);
        assert_int_equal(exit.MemoryAccess.AccessInfo.AccessType, type);
        assert_in_range(exit.MemoryAccess.Gpa, missing, missing + size - 1);
        pending.AsUINT64 = get_register(p, 0, WHvRegisterPendingInterruption);
        assert_int_equal(pending.InterruptionPending, 1);
        assert_int_equal(pending.InterruptionType, WHvX64PendingException);
        assert_int_equal(pending.InterruptionVector, WHvX64ExceptionTypeGeneralProtectionFault);
        assert_int_equal(pending.DeliverErrorCode, 1);
        assert_int_equal(pending.ErrorCode, 0);
        // What was read can be written back.
        set_register(p, 0, WHvRegisterPendingInterruption, pending.AsUINT64);
    }
}

static void test_delivery(void **state)
{
    // mov rax, 1 << 63 - 1 (not canonical); mov al, [rax], which raises #GP
    static const uint8_t code[] = {0x8A, 0x00};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_PARTITION_HANDLE p;

    (void)state;
    for (int part = 0; part < 3; part++) {
        static const struct {
            UINT64 gpa;
            WHV_MEMORY_ACCESS_TYPE type;
        } missing[] = {{IDT, WHvMemoryAccessRead}, {STACK - PAGE, WHvMemoryAccessWrite}, {GDT, 0}};

        p = guest(memory, code, sizeof(code));
        enter_long(p, memory);
        set_gate(memory, true, 13);
        set_register(p, 0, WHvX64RegisterRax, 0x7FFFFFFFFFFFFFFF);
        assert_ok(WHvUnmapGpaRange(p, missing[part].gpa, PAGE));
        deliver_through(p, missing[part].gpa, PAGE, missing[part].type);
        assert_ok(WHvMapGpaRange(p, memory + missing[part].gpa, missing[part].gpa, PAGE, RWX));
        exit = run(p, 0);
        assert_port_exit(&exit, 13);
        assert_int_equal(exit.VpContext.ExecutionState.InterruptionPending, 0);
        assert_int_equal(peek64(memory, STACK - 48), 0);                // the error code, then RIP
        assert_int_equal(peek64(memory, STACK - 40), CODE);
        assert_ok(WHvDeletePartition(p));
    }
}

// INT n whose delivery needs a missing page goes on too, and returns behind the instruction.
static void test_software_interrupt_delivery(void **state)
{
    static const uint8_t code[] = {0xCD, 0x21};     // int 0x21
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    enter_long(p, memory);
    set_gate(memory, true, 0x21);
    assert_ok(WHvUnmapGpaRange(p, STACK - PAGE, PAGE));
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessWrite);
    assert_ok(WHvMapGpaRange(p, memory + STACK - PAGE, STACK - PAGE, PAGE, RW));
    exit = run(p, 0);
    assert_port_exit(&exit, 0x21);
    assert_int_equal(peek64(memory, STACK - 40), CODE + 2);
    assert_ok(WHvDeletePartition(p));
}

// A page table that is not there, or is read-only when a bit has to be set.
static void test_page_tables(void **state)
{
    static const uint8_t code[] = {0xA0, 0x00, 0x00, 0x20, 0, 0, 0, 0, 0, 0xE6, 0x10};  // mov al, [0x200000]
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    enter_long(p, memory);
    put64(memory, PD + 8, 0x400000 | PTE_P | PTE_W);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.MemoryAccess.AccessInfo.GpaUnmapped, 1);
    assert_int_equal(exit.MemoryAccess.Gpa, 0x400000);
    memset(page, 0, sizeof(page));
    put64(page, 0, DATA | PTE_P);
    assert_ok(WHvMapGpaRange(p, page, 0x400000, PAGE, WHvMapGpaRangeFlagRead));
    exit = run(p, 0);
    if (!engine_sees_accessed_bits() && exit.ExitReason == WHvRunVpExitReasonX64IoPortAccess) {
        assert_int_equal(peek64(page, 0), DATA | PTE_P);
        assert_ok(WHvDeletePartition(p));
        print_message("refused as documented: an exit for an accessed bit in a table that is read-only\n");
        return;
    }
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.MemoryAccess.AccessInfo.GpaUnmapped, 0);
    assert_int_equal(exit.MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessWrite);
    assert_int_equal(exit.MemoryAccess.Gpa, 0x400000);
    assert_ok(WHvMapGpaRange(p, page, 0x400000, PAGE, RW));
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_int_equal(peek64(page, 0), DATA | PTE_P | PTE_A);
    assert_ok(WHvDeletePartition(p));
}

// 1 TiB of reserved and never touched memory in one map, used at both ends.
static void test_sparse(void **state)
{
    // mov [rax], rbx; mov rbx, [rcx]; out 0x10, al
    static const uint8_t code[] = {0x48, 0x89, 0x18, 0x48, 0x8B, 0x19, 0xE6, 0x10};
    const UINT64 size = 1ull << 40;
    const UINT64 base = 1ull << 41;
    WHV_PARTITION_HANDLE p = guest(memory, code, sizeof(code));
    WHV_RUN_VP_EXIT_CONTEXT exit;
    const UINT32 width = engine_capability(WHvCapabilityCodePhysicalAddressWidth).PhysicalAddressWidth;
    uint8_t *source;

    (void)state;
    if (width < 42) {
        assert_ok(WHvDeletePartition(p));
        SKIP_BECAUSE("the processor has less than 42 bits of physical address");
    }
    source = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(source, MAP_FAILED);
    enter_long(p, memory);
    // Linear 0x200000 and 0x400000 are the first and the last 2 MiB.
    put64(memory, PD + 8, base | PTE_PS | PTE_P | PTE_W);
    put64(memory, PD + 16, (base + size - 0x200000) | PTE_PS | PTE_P | PTE_W);
    assert_ok(WHvMapGpaRange(p, source, base, size, RWX));
    put64(source, size - 8, 0x7777);
    set_register(p, 0, WHvX64RegisterRax, 0x200000);
    set_register(p, 0, WHvX64RegisterRbx, 0x1234);
    set_register(p, 0, WHvX64RegisterRcx, 0x5FFFF8);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_int_equal(peek64(source, 0), 0x1234);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRbx), 0x7777);
    // A hole in the middle splits it; both halves stay.
    assert_ok(WHvUnmapGpaRange(p, base + PAGE, size - 2 * PAGE));
    set_register(p, 0, WHvX64RegisterRip, CODE);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    assert_ok(WHvDeletePartition(p));
    assert_int_equal(munmap(source, size), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unmapped),
        cmocka_unit_test(test_rom),
        cmocka_unit_test(test_fetch),
        cmocka_unit_test(test_fetch_forbidden),
        cmocka_unit_test(test_fetch_over_page_end),
        cmocka_unit_test(test_bytes_at_page_end),
        cmocka_unit_test(test_delivery),
        cmocka_unit_test(test_software_interrupt_delivery),
        cmocka_unit_test(test_page_tables),
        cmocka_unit_test(test_sparse),
    };

    return engine_run_tests(tests);
}
