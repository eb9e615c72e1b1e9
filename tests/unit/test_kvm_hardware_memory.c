// The kvm engine on hardware, of which the kernel and the guest are written down here: memory that is a
// device, that is missing, that the host has not; and events whose delivery meets it. What clients see is
// what they see of the soft engine.
//
// The rules are those of the kernel's arch/x86/kvm; each test names the function that has it.
#include "unit.h"

#include "WinHvEmulation.h"
#include "kvm_pair.h"

#define GONE 0xB000u            // a page that the host takes away
#define CR4_OSFXSR 0x200u

enum way { BY_HAND, EMULATOR, MAP, WAYS };

// ---- The client -------------------------------------------------------------------------------------------

static uint8_t device[PAIR];

static HRESULT CALLBACK client_port(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *access)
{
    (void)context, (void)access;
    return E_FAIL;
}

static HRESULT CALLBACK client_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    unsigned n = (unsigned)(uintptr_t)context;
    uint8_t *at = access->GpaAddress == HOLE ? &device[n] : memory[n] + access->GpaAddress;

    if (access->GpaAddress != HOLE && access->GpaAddress + access->AccessSize > PAGES_MAPPED * PAGE_BYTES)
        return E_FAIL;
    memcpy(access->Direction ? at : access->Data, access->Direction ? access->Data : at, access->AccessSize);
    return S_OK;
}

static HRESULT CALLBACK client_get(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                                   WHV_REGISTER_VALUE *values)
{
    return WHvGetVirtualProcessorRegisters(pair[(uintptr_t)context], 0, names, count, values);
}

static HRESULT CALLBACK client_set(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                                   const WHV_REGISTER_VALUE *values)
{
    return WHvSetVirtualProcessorRegisters(pair[(uintptr_t)context], 0, names, count, values);
}

static HRESULT CALLBACK client_translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva,
                                         WHV_TRANSLATE_GVA_FLAGS flags,
                                         WHV_TRANSLATE_GVA_RESULT_CODE *code, WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    WHV_TRANSLATE_GVA_RESULT result;
    HRESULT hr = WHvTranslateGva(pair[(uintptr_t)context], 0, gva, flags, &result, gpa);

    *code = result.ResultCode;
    return hr;
}

// The exit is the same for both.
static void emulate(const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_EMULATOR_CALLBACKS callbacks = {
        .Size = sizeof callbacks, .WHvEmulatorIoPortCallback = client_port,
        .WHvEmulatorMemoryCallback = client_memory,
        .WHvEmulatorGetVirtualProcessorRegisters = client_get,
        .WHvEmulatorSetVirtualProcessorRegisters = client_set,
        .WHvEmulatorTranslateGvaPage = client_translate,
    };
    WHV_EMULATOR_HANDLE emulator;

    assert_ok(WHvEmulatorCreateEmulator(&callbacks, &emulator));
    for (uintptr_t n = 0; n < PAIR; n++) {
        WHV_EMULATOR_STATUS status;

        assert_ok(WHvEmulatorTryMmioEmulation(emulator, (void *)n, &exit->VpContext, &exit->MemoryAccess,
                                              &status));
        assert_true(status.EmulationSuccessful);
    }
    assert_ok(WHvEmulatorDestroyEmulator(emulator));
}

// The client does with a memory exit what `way` says; by hand, the registers are set by the caller.
static void go_on(enum way way, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    if (way == EMULATOR)
        emulate(exit);
    for (unsigned n = 0; n < PAIR && way == MAP; n++)
        map(n, HOLE, PAGE_BYTES);
}

// ---- Reads ------------------------------------------------------------------------------------------------

static void load_finishes(void)
{
    fake_kvm.regs.rax = (fake_kvm.regs.rax & ~0xFFull) | fake_input(1);
    fake_skip(3);
}

// The guest does it by itself, and comes to an OUT.
static int load_then_port(const struct fake_run *r)
{
    fake_kvm.regs.rax = (fake_kvm.regs.rax & ~0xFFull) | memory[KVM][r->gpa];
    fake_kvm.regs.rip += 3;
    return fake_port(r);
}

static void input_is_55(void) { assert_int_equal(fake_input(1), 0x55); }

// x86.c, x86_emulate_instruction and complete_emulated_mmio: the instruction waits for the data.
static void check_read(enum way way)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    start(0, 0);
    PUT(CODE, 0xA0, 0x00, 0xC0, 0xE6, 0x11);    // mov al, [0xC000]; out 0x11, al
    PUT(HOLE, 0x55);
    device[KVM] = device[SOFT] = 0x55;
    set(WHvX64RegisterRax, 0x1234);
    EXPECT({ALL, .guest = fake_mmio_read, .gpa = HOLE, .size = 1, .finish = load_finishes});
    exit = run_both(WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.MemoryAccess.Gpa, HOLE);
    if (way == BY_HAND) {
        set(WHvX64RegisterRax, 0x1255);
        set(WHvX64RegisterRip, CODE + 3);
    }
    go_on(way, &exit);
    if (way == MAP)
        EXPECT({0, .only_complete = true},
               {ALL, .guest = load_then_port, .gpa = HOLE, .port = 0x11, .size = 1, .length = 2});
    else
        EXPECT({0, .enter = input_is_55, OUT_ROW(0x11)});
    run_to_port(0x11);
    if (way != EMULATOR)                // which sets vector registers too
        assert_int_equal(run_calls, 0);
    assert_int_equal(get(WHvX64RegisterRax), 0x1255);
}

// ---- Writes -----------------------------------------------------------------------------------------------

static void stores_77(void) { memory[KVM][HOLE] = 0x77; }

// x86.c, x86_emulate_instruction: it is done when the exit comes.
static void check_write(enum way way)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    start(0, 0);
    PUT(CODE, 0xA2, 0x00, 0xC0, 0xE6, 0x11);    // mov [0xC000], al; out 0x11, al
    set(WHvX64RegisterRax, 0x77);
    EXPECT({ALL, .guest = fake_mmio_write, .gpa = HOLE, .size = 1, .data = 0x77, .length = 3});
    exit = run_both(WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.VpContext.Rip, CODE);
    if (way == BY_HAND)
        set(WHvX64RegisterRip, CODE + 3);
    go_on(way, &exit);
    if (way == MAP)
        EXPECT({REGS, .enter = stores_77, .ahead = 3, OUT_ROW(0x11)});
    else
        EXPECT({REGS, OUT_ROW(0x11)});
    run_to_port(0x11);
    if (way != EMULATOR)
        assert_int_equal(run_calls, 0);
    assert_int_equal(way == EMULATOR ? device[KVM] : 0, way == EMULATOR ? 0x77 : 0);
}

// ---- Read-modify-write ------------------------------------------------------------------------------------

static void inc_finishes(void)
{
    fake_kvm.run->mmio.data[0]++;
    fake_kvm.run->mmio.is_write = 1;
    fake_skip(4);
}

static void increments(void) { memory[KVM][HOLE]++; }

// As a read, and after its data the exit for the write.
static void check_modify(enum way way)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    start(0, 0);
    PUT(CODE, 0xFE, 0x06, 0x00, 0xC0, 0xE6, 0x11);      // inc byte [0xC000]; out 0x11, al
    device[KVM] = device[SOFT] = 0;
    EXPECT({ALL, .guest = fake_mmio_read, .gpa = HOLE, .size = 1, .finish = inc_finishes},
           {0, .only_complete = true},
           {0, .only_complete = true});
    exit = run_both(WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.VpContext.Rip, CODE);
    if (way == BY_HAND)
        set(WHvX64RegisterRip, CODE + 4);
    go_on(way, &exit);
    if (way == MAP)
        EXPECT({ALL, .enter = increments, .ahead = 4, OUT_ROW(0x11)});
    else
        EXPECT({ALL, OUT_ROW(0x11)});
    run_to_port(0x11);
    assert_int_equal(way == EMULATOR ? device[KVM] : 1, 1);
}

static void in_all_ways(void (*check)(enum way way))
{
    for (enum way way = BY_HAND; way < WAYS; way++) {
        check(way);
        pair_teardown(NULL);
    }
}

static void test_read(void **state) { (void)state; in_all_ways(check_read); }
static void test_write(void **state) { (void)state; in_all_ways(check_write); }
static void test_modify(void **state) { (void)state; in_all_ways(check_modify); }

static void movsb_finishes(void)
{
    memory[KVM][0x5000] = (uint8_t)fake_input(1);
    fake_kvm.regs.rsi++;
    fake_kvm.regs.rdi++;
    fake_skip(1);
}

// Finishing it with no data must not show in memory.
static void test_string(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xA4);                    // movsb
    PUT(0x5000, 0x99);
    set(WHvX64RegisterRsi, HOLE);
    set(WHvX64RegisterRdi, 0x5000);
    EXPECT({ALL, .guest = fake_mmio_read, .gpa = HOLE, .size = 1, .finish = movsb_finishes},
           {0, .only_complete = true});
    (void)run_both(WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(memory[KVM][0x5000], 0x99);
}

// ---- What the emulator cannot do --------------------------------------------------------------------------

// x86.c, handle_emulation_failure: an instruction that touches a device and that the emulator does not know.
static void check_unknown(bool old_kernel)
{
    start(0, 0);
    PUT(CODE, 0x0F, 0x10, 0x06, 0x00, 0xC0, 0xE6, 0x11);        // movups xmm0, [0xC000]; out 0x11, al
    put_handler(6, OTHER);
    set(WHvX64RegisterCr4, CR4_OSFXSR);
    EXPECT({ALL, .guest = fake_emulation_failure, .reason = old_kernel});
    (void)run_both(WHvRunVpExitReasonMemoryAccess);
    go_on(MAP, NULL);
    EXPECT({EVENTS, .ahead = 5, OUT_ROW(0x11)});
    run_to_port(0x11);
    assert_int_equal(fake_kvm.events.exception.pending | fake_kvm.events.exception.injected, 0);
}

// The same where the code itself is not there: the emulator cannot fetch it.
static void check_fetch(bool old_kernel)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    start(0, 0);
    put_handler(6, OTHER);
    PUT(HOLE, 0xE6, 0x11);
    set(WHvX64RegisterRip, HOLE);
    EXPECT({ALL, .guest = fake_emulation_failure, .reason = old_kernel});
    exit = run_both(WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessExecute);
    go_on(MAP, NULL);
    EXPECT({EVENTS, OUT_ROW(0x11)});
    run_to_port(0x11);
}

// And one that nobody knows is #UD after all, once.
static void check_invalid(bool old_kernel)
{
    start(0, 0);
    PUT(CODE, 0x0F, 0x0B);
    put_handler(6, OTHER);
    EXPECT({ALL, .guest = fake_emulation_failure, .reason = old_kernel}, {ALL, OUT_ROW(0x70)});
    run_to_port(0x70);
    assert_int_equal(fake_kvm.events.exception.pending | fake_kvm.events.exception.injected, 0);
}

static void on_all_kernels(void (*check)(bool old_kernel))
{
    check(false);
    pair_teardown(NULL);
    check(true);
}

static void test_unknown(void **state) { (void)state; on_all_kernels(check_unknown); }
static void test_fetch(void **state) { (void)state; on_all_kernels(check_fetch); }
static void test_invalid(void **state) { (void)state; on_all_kernels(check_invalid); }

// ---- Memory that the host has not -------------------------------------------------------------------------

static void protect(uint32_t address, int protection)
{
    for (unsigned n = 0; n < PAIR; n++)
        assert_int_equal(mprotect(memory[n] + address, PAGE_BYTES, protection), 0);
    memory_hidden = protection == PROT_NONE;
}

static int gone_teardown(void **state)
{
    protect(GONE, PROT_READ | PROT_WRITE);
    protect(0, PROT_READ | PROT_WRITE);
    return pair_teardown(state);
}

// mmu/mmu.c, kvm_handle_error_pfn: EFAULT, with KVM_EXIT_MEMORY_FAULT where the kernel tells of it
// (kvm_prepare_memory_fault_exit) and without. Registers are as before the instruction.
static void check_gone(int (*guest)(const struct fake_run *r))
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    start(0, 0);
    PUT(CODE, 0xA0, 0x00, 0xB0, 0xE6, 0x11);    // mov al, [0xB000]; out 0x11, al
    PUT(GONE, 0x66);
    protect(GONE, PROT_NONE);
    EXPECT({ALL, .guest = guest, .gpa = GONE});
    exit = run_both(WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.MemoryAccess.Gpa, GONE);
    protect(GONE, PROT_READ | PROT_WRITE);
    EXPECT({EVENTS, .guest = load_then_port, .gpa = GONE, .port = 0x11, .size = 1, .length = 2});
    run_to_port(0x11);
    assert_int_equal(get(WHvX64RegisterRax), 0x66);
}

static void test_gone(void **state)
{
    (void)state;
    check_gone(fake_memory_fault);
    pair_teardown(NULL);
    check_gone(fake_efault);
}

// It is there again when the engine looks: the instruction is done, and the guest goes on behind it.
static void test_gone_and_back(void **state)
{
    (void)state;
    start(0, 0);
    PUT(CODE, 0xA0, 0x00, 0xB0, 0xE6, 0x11);
    PUT(GONE, 0x66);
    EXPECT({ALL, .guest = fake_memory_fault, .gpa = GONE}, {ALL, OUT_ROW(0x11)});
    run_to_port(0x11);
    assert_int_equal(get(WHvX64RegisterRax), 0x66);
}

// ---- Events on their way ----------------------------------------------------------------------------------

static void set_vectors(uint64_t base)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof value);
    value.Table = (WHV_X64_TABLE_REGISTER){.Base = base, .Limit = 0x3FF};
    set_value(WHvX64RegisterIdtr, value);
}

static int divide_meets_gone(const struct fake_run *r)
{
    fake_kvm.events.exception.injected = 1;
    fake_kvm.events.exception.nr = 0;
    return fake_memory_fault(r);
}

// vmx.c, __vmx_handle_exit, and x86.c, kvm_prepare_event_vectoring_exit: KVM_INTERNAL_ERROR_DELIVERY_EV. What
// was being delivered is to be injected again (vmx_complete_interrupts, svm_complete_interrupts).
static void test_delivery(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    start(0, 0);
    PUT(CODE, 0xF6, 0xF0);              // div al, by 0
    put_handler(0, OTHER);
    PUT(HOLE, 0x00, 0x20, 0x00, 0x00);  // the same vector, in memory that is not mapped yet
    set_vectors(HOLE);
    EXPECT({ALL, .guest = fake_delivery_error, .number = 0});
    exit = run_both(WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.VpContext.ExecutionState.InterruptionPending, 1);
    assert_int_equal(exit.MemoryAccess.Gpa, HOLE);
    go_on(MAP, NULL);
    EXPECT({ALL, OUT_ROW(0x70)});
    run_to_port(0x70);
    assert_int_equal(fake_kvm.events.exception.pending | fake_kvm.events.exception.injected, 0);
}

// The same where the host has taken the memory away (EPT violations during delivery go to the page fault
// handler).
static void test_delivery_gone(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    start(0, 0);
    PUT(CODE, 0xF6, 0xF0);
    put_handler(0, OTHER);
    protect(0, PROT_NONE);
    EXPECT({ALL, .guest = divide_meets_gone, .gpa = 0});
    exit = run_both(WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.VpContext.ExecutionState.InterruptionPending, 1);
    protect(0, PROT_READ | PROT_WRITE);
    EXPECT({ALL, OUT_ROW(0x70)});
    run_to_port(0x70);
}

// Interrupts and NMIs that KVM has taken from its APIC.
static void check_external(unsigned vector, WHV_X64_PENDING_INTERRUPTION_TYPE type)
{
    WHV_X64_PENDING_INTERRUPTION_REGISTER pending;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    uint16_t handler[2] = {OTHER, 0};

    start(0, 0);
    PUT(CODE, 0x90);
    PUT(OTHER, 0xE6, 0x70);
    put(HOLE + vector * 4, handler, sizeof handler);
    set(WHvX64RegisterRflags, 0x202);
    set_vectors(HOLE);
    EXPECT({ALL, .guest = fake_delivery_error, .number = vector});
    exit = run_kvm();
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.VpContext.ExecutionState.InterruptionPending, 1);
    assert_int_equal(exit.VpContext.Rip, CODE);
    pending = get_value(KVM, WHvRegisterPendingInterruption).PendingInterruption;
    assert_int_equal(pending.InterruptionType, type);
    assert_int_equal(pending.InterruptionVector, vector);
    go_on(MAP, NULL);
    EXPECT({ALL, OUT_ROW(0x70)});
    exit = run_kvm();
    assert_int_equal(exit.IoPortAccess.PortNumber, 0x70);
    assert_int_equal(exit.VpContext.Rip, OTHER);
    assert_int_equal(fake_kvm.events.nmi.masked, type == WHvX64PendingNmi);
    assert_int_equal(fake_kvm.events.nmi.injected | fake_kvm.events.interrupt.injected, 0);
    assert_int_equal(memory[KVM][STACK - 6] | memory[KVM][STACK - 5] << 8, CODE);
}

static void test_delivery_external(void **state)
{
    (void)state;
    check_external(0x20, WHvX64PendingInterrupt);
    pair_teardown(NULL);
    check_external(2, WHvX64PendingNmi);
}

#define TEST(name) cmocka_unit_test_teardown(name, gone_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_read), TEST(test_write), TEST(test_modify), TEST(test_string), TEST(test_unknown),
        TEST(test_fetch),
        TEST(test_invalid), TEST(test_gone), TEST(test_gone_and_back), TEST(test_delivery),
        TEST(test_delivery_gone),
        TEST(test_delivery_external),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
