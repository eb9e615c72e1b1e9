// Guest memory that the host takes away under the engine: an exit that says so with the processor before the
// instruction, and the program goes on as if nothing had been when the memory is back.
#include "api.h"

#include <sys/mman.h>
#include <unistd.h>

#define SIZE (16 * PAGE)
#define GONE 0x4000u            // the page that goes away
#define HANDLER 0x2000u         // a page of HLT
#define OSFXSR 0x200u

static uint8_t *memory;
static int file;

static int setup(void **state)
{
    (void)state;
    file = memfd_create("guest", 0);
    if (file < 0 || ftruncate(file, SIZE) != 0)
        return -1;
    memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    return memory == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    munmap(memory, SIZE);
    close(file);
    return 0;
}

// What a case that failed has hidden is not the next one's matter.
static int reveal(void **state)
{
    (void)state;
    return mprotect(memory, SIZE, PROT_READ | PROT_WRITE);
}

static void hide(UINT64 gpa) { assert_int_equal(mprotect(memory + gpa, PAGE, PROT_NONE), 0); }
static void show(UINT64 gpa) { assert_int_equal(mprotect(memory + gpa, PAGE, PROT_READ | PROT_WRITE), 0); }

static const WHV_REGISTER_NAME general[] = {
    WHvX64RegisterRax, WHvX64RegisterRcx, WHvX64RegisterRdx, WHvX64RegisterRbx, WHvX64RegisterRsp,
    WHvX64RegisterRbp, WHvX64RegisterRsi, WHvX64RegisterRdi, WHvX64RegisterRip, WHvX64RegisterRflags,
};
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, RIP, RFLAGS, GENERAL };

// The processor is where it was and says which page it misses.
static WHV_MEMORY_ACCESS_TYPE assert_gone(WHV_PARTITION_HANDLE p, UINT64 page, const WHV_REGISTER_VALUE *before)
{
    WHV_REGISTER_VALUE after[GENERAL];
    WHV_RUN_VP_EXIT_CONTEXT exit = run(p, 0);

    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_true(exit.MemoryAccess.AccessInfo.GpaUnmapped);
    assert_int_equal(exit.MemoryAccess.Gpa & ~(UINT64)(PAGE - 1), page);
    assert_int_equal(exit.VpContext.Rip, before[RIP].Reg64);
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, general, GENERAL, after));
    // RF is for the processor alone: it is set on the way to a handler, and lasts one instruction.
    after[RFLAGS].Reg64 &= ~0x10000ull;
    for (unsigned n = 0; n < GENERAL; n++)
        assert_int_equal(after[n].Reg64, before[n].Reg64);
    return (WHV_MEMORY_ACCESS_TYPE)exit.MemoryAccess.AccessInfo.AccessType;
}

// ---- Every way of reaching data ---------------------------------------------------------------------------

// Real mode. BX, SI, DI and BP point to `at`; the stack is at `sp`; the page that goes away is full of zeros.
struct access {
    const char *name;
    uint16_t at, sp;
    uint8_t size, code[5];
};

#define IN GONE                 // inside the page
#define OVER (GONE - 1)         // from the page before into it
#define ELSEWHERE 0x6000u

static const struct access accesses[] = {
    { "mov ax,[bx]", IN, ELSEWHERE, 2, { 0x8b, 0x07 } },
    { "mov ax,[bx] over", OVER, ELSEWHERE, 2, { 0x8b, 0x07 } },
    { "mov [bx],ax", IN, ELSEWHERE, 2, { 0x89, 0x07 } },
    { "mov [bx],ax over", OVER, ELSEWHERE, 2, { 0x89, 0x07 } },
    { "add [bx],ax", IN, ELSEWHERE, 2, { 0x01, 0x07 } },
    { "add [bx],ax over", OVER, ELSEWHERE, 2, { 0x01, 0x07 } },
    { "lock add [bx],ax", IN, ELSEWHERE, 3, { 0xf0, 0x01, 0x07 } },
    { "xchg [bx],ax", IN, ELSEWHERE, 2, { 0x87, 0x07 } },
    { "lock xadd [bx],ax", IN, ELSEWHERE, 4, { 0xf0, 0x0f, 0xc1, 0x07 } },
    { "lock cmpxchg [bx],cx", IN, ELSEWHERE, 4, { 0xf0, 0x0f, 0xb1, 0x0f } },
    { "lock cmpxchg8b [bx]", IN, ELSEWHERE, 4, { 0xf0, 0x0f, 0xc7, 0x0f } },
    { "bt [bx],ax", IN, ELSEWHERE, 3, { 0x0f, 0xa3, 0x07 } },
    { "lock bts [bx],ax", IN, ELSEWHERE, 4, { 0xf0, 0x0f, 0xab, 0x07 } },
    { "lodsb", IN, ELSEWHERE, 1, { 0xac } },
    { "stosw", IN, ELSEWHERE, 1, { 0xab } },
    { "scasb", IN, ELSEWHERE, 1, { 0xae } },
    { "movsb", IN, ELSEWHERE, 1, { 0xa4 } },
    { "rep movsb", IN, ELSEWHERE, 2, { 0xf3, 0xa4 } },
    { "rep stosw", IN, ELSEWHERE, 2, { 0xf3, 0xab } },
    { "repe cmpsb", IN, ELSEWHERE, 2, { 0xf3, 0xa6 } },
    { "push ax", ELSEWHERE, IN + 16, 1, { 0x50 } },
    { "push ax over", ELSEWHERE, IN + 1, 1, { 0x50 } },
    { "pop ax", ELSEWHERE, IN, 1, { 0x58 } },
    { "push [bx]", IN, ELSEWHERE, 2, { 0xff, 0x37 } },
    { "pop [bx]", IN, ELSEWHERE, 2, { 0x8f, 0x07 } },
    { "pusha", ELSEWHERE, IN + PAGE + 6, 1, { 0x60 } },
    { "popa", ELSEWHERE, IN - 6, 1, { 0x61 } },
    { "enter 16,3", ELSEWHERE, IN + PAGE + 4, 4, { 0xc8, 16, 0, 3 } },
    { "leave", IN, ELSEWHERE, 1, { 0xc9 } },
    { "pushf", ELSEWHERE, IN + 16, 1, { 0x9c } },
    { "popf", ELSEWHERE, IN, 1, { 0x9d } },
    { "pop ds", ELSEWHERE, IN, 1, { 0x1f } },
    { "call near", ELSEWHERE, IN + 16, 3, { 0xe8, 0, 0 } },
    { "call [bx]", IN, ELSEWHERE, 2, { 0xff, 0x17 } },
    { "ret", ELSEWHERE, IN, 1, { 0xc3 } },
    { "call 0:2000", ELSEWHERE, IN + 16, 5, { 0x9a, 0x00, 0x20, 0, 0 } },
    { "call far [bx]", IN, ELSEWHERE, 2, { 0xff, 0x1f } },
    { "retf", ELSEWHERE, IN - 2, 1, { 0xcb } },
    { "iret", ELSEWHERE, IN - 4, 1, { 0xcf } },
    { "int 21h", ELSEWHERE, IN + 2, 2, { 0xcd, 0x21 } },
    { "lds ax,[bx]", IN, ELSEWHERE, 2, { 0xc5, 0x07 } },
    { "mov es,[bx]", IN, ELSEWHERE, 2, { 0x8e, 0x07 } },
    { "bound ax,[bx]", IN, ELSEWHERE, 2, { 0x62, 0x07 } },
    { "lgdt [bx]", IN, ELSEWHERE, 3, { 0x0f, 0x01, 0x17 } },
    { "sgdt [bx]", IN - 3, ELSEWHERE, 3, { 0x0f, 0x01, 0x07 } },
};

static const struct access vector_accesses[] = {
    { "fld m80", IN, ELSEWHERE, 2, { 0xdb, 0x2f } },
    { "fstp m80", IN, ELSEWHERE, 2, { 0xdb, 0x3f } },
    { "fst m64", OVER, ELSEWHERE, 2, { 0xdd, 0x17 } },
    { "fnsave", IN - 90, ELSEWHERE, 2, { 0xdd, 0x37 } },
    { "frstor", IN - 90, ELSEWHERE, 2, { 0xdd, 0x27 } },
    { "fxsave", IN - 256, ELSEWHERE, 3, { 0x0f, 0xae, 0x07 } },
    { "fxrstor", IN - 256, ELSEWHERE, 3, { 0x0f, 0xae, 0x0f } },
    { "movups xmm0,[bx]", IN - 8, ELSEWHERE, 3, { 0x0f, 0x10, 0x07 } },
    { "movups [bx],xmm0", IN - 8, ELSEWHERE, 3, { 0x0f, 0x11, 0x07 } },
    { "addps xmm0,[bx]", IN, ELSEWHERE, 3, { 0x0f, 0x58, 0x07 } },
};

static void point_at(WHV_PARTITION_HANDLE p, const struct access *a)
{
    WHV_REGISTER_NAME fpu = WHvX64RegisterFpControlStatus;
    WHV_REGISTER_VALUE values[GENERAL];

    memset(values, 0, sizeof(values));
    values[0].FpControlStatus.FpControl = 0x37f;        // and all registers empty
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &fpu, 1, values));
    memset(values, 0, sizeof(values));
    values[RCX].Reg64 = 4;
    values[RBX].Reg64 = values[RSI].Reg64 = values[RDI].Reg64 = values[RBP].Reg64 = a->at;
    values[RSP].Reg64 = a->sp;
    values[RIP].Reg64 = CODE;
    values[RFLAGS].Reg64 = 2;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, general, GENERAL, values));
    start_at(p, 0, CODE);
    set_register(p, 0, WHvX64RegisterCr4, OSFXSR);
}

static void check_access(const struct access *a, bool warm)
{
    WHV_REGISTER_VALUE before[GENERAL];
    uint8_t code[8];
    WHV_PARTITION_HANDLE p;

    memset(memory, 0, SIZE);
    memory[0] = 0xf4;           // what returns to an address of 0 halts there
    memset(memory + HANDLER, 0xf4, PAGE);
    memset(code, 0xf4, sizeof(code));
    memcpy(code, a->code, a->size);
    p = guest(memory, code, sizeof(code));
    if (warm) {     // once with the memory there, so that the engine knows its way to it
        static const uint8_t touch[] = { 0x8a, 0x07, 0x88, 0x07, 0xf4 };    // mov al,[bx]; mov [bx],al; hlt
        struct access t = { "", GONE, ELSEWHERE, 0, { 0 } };

        memcpy(memory + CODE + 64, touch, sizeof(touch));
        point_at(p, &t);
        set_register(p, 0, WHvX64RegisterRip, CODE + 64);
        assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
    }
    point_at(p, a);
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, general, GENERAL, before));
    hide(GONE);
    assert_gone(p, GONE, before);
    assert_gone(p, GONE, before);
    show(GONE);
    assert_int_not_equal(run(p, 0).VpContext.Rip, CODE);
    assert_ok(WHvDeletePartition(p));
}

// See engine_comes_back_from_system_accesses.
static bool is_system_access(const struct access *a)
{
    return !strncmp(a->name, "fx", 2) || !strncmp(a->name, "sgdt", 4) || !strncmp(a->name, "lgdt", 4);
}

// A kernel that interprets tells of these in their middle, with the stack pointer moved on already: docs/engines.md.
static bool is_half_seen(const struct access *a)
{
    static const char *const names[] = { "popa", "leave", "retf", "iret", "call 0:2000", "call far [bx]", "int 21h" };

    for (size_t n = 0; n < sizeof(names) / sizeof(*names); n++)
        if (!strcmp(a->name, names[n]))
            return true;
    return false;
}

static void check_accesses(const struct access *list, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        if (is_system_access(&list[n]) && !engine_comes_back_from_system_accesses()) {
            print_message("refused as documented: %s\n", list[n].name);
            continue;
        }
        if (is_half_seen(&list[n]) && engine_is_interpreted()) {
            print_message("refused as documented: %s\n", list[n].name);
            continue;
        }
        for (int warm = 0; warm < 2; warm++) {
            print_message("%s%s\n", list[n].name, warm ? ", warm" : "");
            check_access(&list[n], warm);
        }
    }
}

static void test_data(void **state)
{
    (void)state;
    check_accesses(accesses, sizeof(accesses) / sizeof(*accesses));
}

static void test_vector_data(void **state)
{
    (void)state;
    needs_vector_code();
    check_accesses(vector_accesses, sizeof(vector_accesses) / sizeof(*vector_accesses));
}

// The end of a file is another signal than missing rights.
static void test_truncated_file(void **state)
{
    static const uint8_t code[] = { 0x8b, 0x07, 0xf4 };
    struct access a = { "", 0xf000, ELSEWHERE, 0, { 0 } };
    WHV_REGISTER_VALUE before[GENERAL];
    WHV_PARTITION_HANDLE p;

    (void)state;
    memset(memory, 0, SIZE);
    p = guest(memory, code, sizeof(code));
    point_at(p, &a);
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, general, GENERAL, before));
    assert_int_equal(ftruncate(file, SIZE - PAGE), 0);
    assert_gone(p, 0xf000, before);
    assert_int_equal(ftruncate(file, SIZE), 0);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
    assert_ok(WHvDeletePartition(p));
}

// ---- Code -------------------------------------------------------------------------------------------------

// The instruction before the jump has touched memory, and must not be run again for it.
static void test_code(void **state)
{
    static const uint8_t code[] = { 0x50, 0xe9, 0xfc, 0x2f };       // push ax; jmp 4000h
    struct access a = { "", ELSEWHERE, ELSEWHERE, 0, { 0 } };

    (void)state;
    for (int warm = 0; warm < 2; warm++) {
        WHV_REGISTER_VALUE before[GENERAL];
        WHV_PARTITION_HANDLE p;

        memset(memory, 0, SIZE);
        memset(memory + GONE, 0xf4, PAGE);
        p = guest(memory, code, sizeof(code));
        point_at(p, &a);
        if (warm) {
            assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
            point_at(p, &a);
        }
        hide(GONE);
        assert_int_equal(run(p, 0).VpContext.Rip, GONE);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRsp), ELSEWHERE - 2);
        assert_ok(WHvGetVirtualProcessorRegisters(p, 0, general, GENERAL, before));
        assert_int_equal(assert_gone(p, GONE, before), WHvMemoryAccessExecute);
        show(GONE);
        assert_int_equal(run(p, 0).VpContext.Rip, GONE + 1);
        assert_ok(WHvDeletePartition(p));
    }
}

// An instruction that lies over the end of a page.
static void test_code_over(void **state)
{
    struct access a = { "", ELSEWHERE, ELSEWHERE, 0, { 0 } };
    WHV_REGISTER_VALUE before[GENERAL];
    WHV_PARTITION_HANDLE p;

    (void)state;
    memset(memory, 0, SIZE);
    memset(memory + GONE, 0xf4, PAGE);
    memcpy(memory + GONE - 1, "\xb8\x34\x12", 3);       // mov ax,1234h
    p = guest(memory, "\xf4", 1);
    point_at(p, &a);
    set_register(p, 0, WHvX64RegisterRip, GONE - 1);
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, general, GENERAL, before));
    hide(GONE);
    assert_int_equal(assert_gone(p, GONE, before), WHvMemoryAccessExecute);
    show(GONE);
    assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
    assert_int_equal(get_register(p, 0, WHvX64RegisterRax), 0x1234);
    assert_ok(WHvDeletePartition(p));
}

// ---- Events -----------------------------------------------------------------------------------------------

// An interrupt on its way to a stack that is gone stays pending.
static void test_interrupt(void **state)
{
    struct access a = { "", ELSEWHERE, IN + 4, 0, { 0 } };
    WHV_REGISTER_NAME name = WHvRegisterPendingInterruption;
    WHV_REGISTER_VALUE event, before[GENERAL];
    WHV_PARTITION_HANDLE p;

    (void)state;
    memset(memory, 0, SIZE);
    memset(memory + HANDLER, 0xf4, PAGE);
    memcpy(memory + 4 * 0x20, "\x00\x20\x00\x00", 4);
    p = guest(memory, "\xf4", 1);
    point_at(p, &a);
    memset(&event, 0, sizeof(event));
    event.PendingInterruption.InterruptionPending = 1;
    event.PendingInterruption.InterruptionType = WHvX64PendingInterrupt;
    event.PendingInterruption.InterruptionVector = 0x20;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &event));
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, general, GENERAL, before));
    hide(GONE);
    assert_gone(p, GONE, before);
    assert_gone(p, GONE, before);
    show(GONE);
    assert_int_equal(run(p, 0).VpContext.Rip, HANDLER + 1);
    assert_int_equal(memory[IN - 2] | memory[IN - 1] << 8, CODE);      // the return address
    assert_ok(WHvDeletePartition(p));
}

// A fault of an instruction, the same.
static void test_exception(void **state)
{
    static const uint8_t code[] = { 0xf7, 0xf0 };       // div ax, with AX = 0
    struct access a = { "", ELSEWHERE, IN + 4, 0, { 0 } };
    WHV_REGISTER_VALUE before[GENERAL];
    WHV_PARTITION_HANDLE p;

    (void)state;
    memset(memory, 0, SIZE);
    memset(memory + HANDLER, 0xf4, PAGE);
    memcpy(memory, "\x00\x20\x00\x00", 4);
    p = guest(memory, code, sizeof(code));
    point_at(p, &a);
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, general, GENERAL, before));
    hide(GONE);
    assert_gone(p, GONE, before);
    show(GONE);
    assert_int_equal(run(p, 0).VpContext.Rip, HANDLER + 1);
    assert_ok(WHvDeletePartition(p));
}

// ---- Page tables ------------------------------------------------------------------------------------------

#define DIRECTORY 0x8000u

static WHV_REGISTER_VALUE flat(UINT16 selector, UINT16 attributes)
{
    WHV_REGISTER_VALUE v;

    memset(&v, 0, sizeof(v));
    v.Segment.Limit = 0xffffffff;
    v.Segment.Selector = selector;
    v.Segment.Attributes = attributes;
    return v;
}

// 32-bit protected mode; the page table lies in the page that goes away.
static WHV_PARTITION_HANDLE paged(UINT64 cr4)
{
    static const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterCs, WHvX64RegisterSs, WHvX64RegisterDs, WHvX64RegisterEs,
        WHvX64RegisterCr0, WHvX64RegisterCr3, WHvX64RegisterCr4,
    };
    static const uint8_t code[] = { 0xa1, 0x00, 0x60, 0x00, 0x00, 0xf4 };      // mov eax,[6000h]; hlt
    WHV_REGISTER_VALUE values[7] = { flat(8, 0xc09b), flat(16, 0xc093), flat(16, 0xc093), flat(16, 0xc093) };
    struct access a = { "", ELSEWHERE, ELSEWHERE, 0, { 0 } };
    WHV_PARTITION_HANDLE p;

    memset(memory, 0, SIZE);
    p = guest(memory, code, sizeof(code));
    point_at(p, &a);
    values[4].Reg64 = 0x80000011;
    values[5].Reg64 = cr4 ? GONE : DIRECTORY;
    values[6].Reg64 = cr4;
    assert_ok(WHvSetVirtualProcessorRegisters(p, 0, names, 7, values));
    return p;
}

static void test_page_table(void **state)
{
    WHV_REGISTER_VALUE before[GENERAL];
    WHV_PARTITION_HANDLE p = paged(0);
    uint32_t *directory = (uint32_t *)(void *)(memory + DIRECTORY), *table = (uint32_t *)(void *)(memory + GONE);

    (void)state;
    directory[0] = GONE | 7;
    for (uint32_t n = 0; n < 16; n++)
        table[n] = n * PAGE | 7;
    assert_ok(WHvGetVirtualProcessorRegisters(p, 0, general, GENERAL, before));
    hide(GONE);
    if (!engine_misses_page_tables()) {
        assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
        print_message("refused as documented: an exit for a page table that the host takes away\n");
    } else {
        assert_gone(p, GONE, before);
        show(GONE);
        assert_int_equal(run(p, 0).ExitReason, WHvRunVpExitReasonX64Halt);
    }
    assert_ok(WHvDeletePartition(p));
}

static void test_translation(void **state)
{
    WHV_TRANSLATE_GVA_RESULT result;
    WHV_GUEST_PHYSICAL_ADDRESS gpa;

    (void)state;
    for (int pae = 0; pae < 2; pae++) {     // with PAE, CR3 itself points into the page
        WHV_PARTITION_HANDLE p = paged(pae ? 0x20 : 0);
        UINT64 rflags = get_register(p, 0, WHvX64RegisterRflags);

        memory[DIRECTORY + 1] = GONE >> 8;
        memory[DIRECTORY] = 7;
        hide(GONE);
        assert_ok(WHvTranslateGva(p, 0, 0x6000,
                                  WHvTranslateGvaFlagValidateRead | WHvTranslateGvaFlagPrivilegeExempt
                                  | WHvTranslateGvaFlagOverrideSmap, &result, &gpa));
        assert_int_equal(result.ResultCode, WHvTranslateGvaResultGpaUnmapped);
        assert_int_equal(get_register(p, 0, WHvX64RegisterRflags), rflags);
        show(GONE);
        assert_ok(WHvTranslateGva(p, 0, 0x6000, WHvTranslateGvaFlagValidateRead, &result, &gpa));
        assert_int_equal(result.ResultCode, WHvTranslateGvaResultPageNotPresent);
        assert_ok(WHvDeletePartition(p));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_data, reveal),
        cmocka_unit_test_setup(test_vector_data, reveal),
        cmocka_unit_test_setup(test_truncated_file, reveal),
        cmocka_unit_test_setup(test_code, reveal),
        cmocka_unit_test_setup(test_code_over, reveal),
        cmocka_unit_test_setup(test_interrupt, reveal),
        cmocka_unit_test_setup(test_exception, reveal),
        cmocka_unit_test_setup(test_page_table, reveal),
        cmocka_unit_test_setup(test_translation, reveal),
    };
    return engine_run_tests_with(tests, setup, teardown);
}
