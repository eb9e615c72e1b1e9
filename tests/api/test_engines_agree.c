// The engine under test beside the soft one: random sets of registers by name have the same answers and leave the same
// state, before the first run, after runs, and of processors that were created again.
#include "api.h"

#include "bulkhead/bulkhead.h"

#define STEPS 400
#define LIFE 40             // steps in the life of a processor
#define NAMES_END 0x4000u
#define MOST 3              // registers in a call

struct machine {
    WHV_PARTITION_HANDLE partition;
    uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));
};

static struct machine machines[2];      // soft, and the one under test
static WHV_REGISTER_NAME names[512];
static unsigned int name_count;
static UINT64 random_state;

static UINT64 random64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545F4914F6CDD1D;
}

// What goes on by itself, or is the host's: clocks, the timer's count, how wide physical addresses are.
static bool comparable(UINT32 name)
{
    switch (name) {
    case WHvX64RegisterTsc: case WHvX64RegisterTscAdjust: case WHvX64RegisterTscVirtualOffset:
    case WHvX64RegisterTscDeadline: case WHvX64RegisterMsrMtrrCap:
    case WHvX64RegisterApicInitCount: case WHvX64RegisterApicCurrentCount:
        return false;
    default:
        return name < WHvX64RegisterMsrMtrrPhysBase0 || name > WHvX64RegisterMsrMtrrPhysMaskF;
    }
}

// An APIC that is off has no state to speak of, and a processor cannot be made to wait in two ways.
static bool settable(UINT32 name, const WHV_REGISTER_VALUE *value)
{
    switch (name) {
    case WHvX64RegisterApicBase: return (value->Reg64 & 0x800) && value->Reg64 < 1ull << 36;
    case (UINT32)WHvRegisterInternalActivityState: return value->Reg64 < 3;
    default: return true;
    }
}

static void find_names(void)
{
    name_count = 0;
    for (UINT32 n = 0; n < 2 * NAMES_END; n++) {
        WHV_REGISTER_NAME name = (WHV_REGISTER_NAME)(n < NAMES_END ? n : 0x80000000 + n - NAMES_END);
        WHV_REGISTER_VALUE value;
        HRESULT hr[2];

        for (int i = 0; i < 2; i++)
            hr[i] = WHvGetVirtualProcessorRegisters(machines[i].partition, 0, &name, 1, &value);
        if (hr[0] != hr[1])
            fail_msg("register 0x%x: 0x%08x, 0x%08x", (UINT32)name, (UINT32)hr[0], (UINT32)hr[1]);
        if (hr[0] != WHV_E_INVALID_VP_REGISTER_NAME && comparable((UINT32)name))
            names[name_count++] = name;
    }
    assert_in_range(name_count, 80, sizeof(names) / sizeof(names[0]) - 1);
}

static void compare(const char *when, unsigned int step)
{
    for (unsigned int n = 0; n < name_count; n++) {
        WHV_REGISTER_VALUE value[2];
        HRESULT hr[2];

        memset(value, 0, sizeof(value));
        for (int i = 0; i < 2; i++)
            hr[i] = WHvGetVirtualProcessorRegisters(machines[i].partition, 0, &names[n], 1, &value[i]);
        if (hr[0] != hr[1] || memcmp(&value[0], &value[1], sizeof(value[0])) != 0)
            fail_msg("step %u, %s: register 0x%x: 0x%08x %llx:%llx, 0x%08x %llx:%llx", step, when, (UINT32)names[n],
                     (UINT32)hr[0], (unsigned long long)value[0].Reg128.High64,
                     (unsigned long long)value[0].Reg128.Low64, (UINT32)hr[1],
                     (unsigned long long)value[1].Reg128.High64, (unsigned long long)value[1].Reg128.Low64);
    }
}

static void random_value(WHV_REGISTER_NAME name, WHV_REGISTER_VALUE *value)
{
    memset(value, 0, sizeof(*value));
    switch (random64() % 7) {
    case 0: break;
    case 1: value->Reg64 = 1ull << random64() % 64; break;
    case 2: value->Reg64 = random64() & 0xFF; break;
    case 3: value->Reg64 = random64(); value->Reg128.High64 = random64(); break;
    case 4: value->Reg64 = random64() & random64() & 0xFFFFFFFF; break;
    case 5: memset(value, 0xFF, sizeof(*value)); break;
    default:
        if (WHvGetVirtualProcessorRegisters(machines[0].partition, 0, &name, 1, value) != S_OK)
            memset(value, 0, sizeof(*value));
        value->Reg64 ^= 1ull << random64() % 64;
    }
}

static void set_some(unsigned int step)
{
    WHV_REGISTER_NAME chosen[MOST];
    WHV_REGISTER_VALUE values[MOST];
    UINT32 count = 1 + random64() % MOST;
    HRESULT hr[2];

    for (UINT32 n = 0; n < count; n++)
        do {
            chosen[n] = names[random64() % name_count];
            random_value(chosen[n], &values[n]);
        } while (!settable((UINT32)chosen[n], &values[n]));
    for (int i = 0; i < 2; i++)
        hr[i] = WHvSetVirtualProcessorRegisters(machines[i].partition, 0, chosen, count, values);
    if (hr[0] != hr[1])
        fail_msg("step %u: set of 0x%x, 0x%x, 0x%x (%u): 0x%08x, 0x%08x", step, (UINT32)chosen[0], (UINT32)chosen[1],
                 (UINT32)chosen[2], count, (UINT32)hr[0], (UINT32)hr[1]);
}

// What does not keep real-mode code from running, and is not lost by it: processors forget the segments of the last x87
// instruction, and an OUT ends an interrupt shadow before KVM tells of it.
static const struct { WHV_REGISTER_NAME first; UINT32 count; } harmless[] = {
    {WHvX64RegisterRax, 16}, {WHvX64RegisterXmm0, 16}, {WHvX64RegisterFpMmx0, 8}, {WHvX64RegisterDr0, 4},
    {WHvX64RegisterStar, 4}, {WHvX64RegisterKernelGsBase, 1}, {WHvX64RegisterSysenterCs, 3}, {WHvX64RegisterCr2, 1},
    {WHvX64RegisterCr8, 1}, {WHvX64RegisterPat, 1},
};

static void run_both(unsigned int step)
{
    WHV_RUN_VP_EXIT_CONTEXT exits[2];

    for (unsigned int n = 0; n < 6; n++) {
        size_t row = random64() % (sizeof(harmless) / sizeof(harmless[0]));
        WHV_REGISTER_NAME name = (WHV_REGISTER_NAME)(harmless[row].first + random64() % harmless[row].count);
        WHV_REGISTER_VALUE value;
        HRESULT hr[2];

        random_value(name, &value);
        for (int i = 0; i < 2; i++)
            hr[i] = WHvSetVirtualProcessorRegisters(machines[i].partition, 0, &name, 1, &value);
        assert_hr(hr[0], hr[1]);
    }
    for (int i = 0; i < 2; i++)
        exits[i] = run(machines[i].partition, 0);
    assert_int_equal(exits[0].ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_memory_equal(&exits[0], &exits[1], sizeof(exits[0]));
    compare("after a run", step);
    for (int i = 0; i < 2; i++)
        set_register(machines[i].partition, 0, WHvX64RegisterRip, exits[i].VpContext.Rip + 2);
}

static void create_both(void)
{
    for (int i = 0; i < 2; i++) {
        assert_ok(WHvCreateVirtualProcessor(machines[i].partition, 0, 0));
        set_register(machines[i].partition, 0, WHvX64RegisterRdx, 0);       // the processor's signature
    }
}

static void delete_both(void)
{
    for (int i = 0; i < 2; i++)
        assert_ok(WHvDeleteVirtualProcessor(machines[i].partition, 0));
}

static void agree(WHV_X64_LOCAL_APIC_EMULATION_MODE mode)
{
    for (int i = 0; i < 2; i++) {
        struct machine *m = &machines[i];

        m->partition = created(1);
        assert_ok(BulkheadSetEngine(m->partition, i ? engine_name() : "soft"));
        assert_ok(set32(m->partition, WHvPartitionPropertyCodeLocalApicEmulationMode, (UINT32)mode));
        assert_ok(WHvSetupPartition(m->partition));
        for (unsigned int n = 0; n < PAGE; n += 4)      // out 0x10, al; in al, 0x10
            memcpy(m->memory + CODE + n, (const uint8_t[]){0xE6, 0x10, 0xE4, 0x10}, 4);
        assert_ok(WHvMapGpaRange(m->partition, m->memory, 0, sizeof(m->memory), RWX));
    }
    create_both();
    find_names();
    random_state = 0x9E3779B97F4A7C15 + (UINT64)mode;
    for (unsigned int step = 0; step < STEPS; step++) {
        if (step % LIFE == 0) {         // a new processor first runs
            delete_both();
            create_both();
            for (int i = 0; i < 2; i++)
                start_at(machines[i].partition, 0, CODE);
            for (int n = 0; n < 20; n++)
                run_both(step);
        }
        if (step % LIFE == LIFE / 2) {
            delete_both();
            create_both();
        }
        set_some(step);
        compare("after a set", step);
    }
    for (int i = 0; i < 2; i++)
        assert_ok(WHvDeletePartition(machines[i].partition));
}

static void test_without_apic(void **state)
{
    (void)state;
    agree(WHvX64LocalApicEmulationModeNone);
}

static void test_xapic(void **state)
{
    (void)state;
    NEEDS(engine_has_apic());
    agree(WHvX64LocalApicEmulationModeXApic);
}

static void test_x2apic(void **state)
{
    (void)state;
    NEEDS(engine_has_apic());
    agree(WHvX64LocalApicEmulationModeX2Apic);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_apic),
        cmocka_unit_test(test_xapic),
        cmocka_unit_test(test_x2apic),
    };

    return engine_run_tests(tests);
}
