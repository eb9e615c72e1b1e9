// CpuidResultList and CpuidResultList2: what the guest on each processor sees, leaf by leaf and bit by bit, and that
// WHvGetVirtualProcessorCpuidOutput tells the same.
#include "api.h"

#define PROCESSORS 3
#define SUBLEAVES 6
#define ANY 0
#define SUBLEAF WHvX64CpuidResult2FlagSubleafSpecific
#define VP WHvX64CpuidResult2FlagVpSpecific
#define BOTH ((WHV_X64_CPUID_RESULT2_FLAGS)(SUBLEAF | VP))
#define ALL {0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

static const WHV_X64_CPUID_RESULT results[] = {
    {.Function = 0x40000000, .Eax = 1},
    {.Function = 0x40000000, .Eax = 0x40000001, .Ebx = 0x11111111, .Ecx = 0x22222222, .Edx = 0x33333333},
    {.Function = 0x80000003, .Ebx = 0x44444444},
};

static const WHV_X64_CPUID_RESULT2 results2[] = {
    // One subleaf of one processor, under a mask, of a leaf that has subleaves.
    {.Function = 4, .Index = 1, .VpIndex = 1, .Flags = BOTH, .Output = {.Eax = 0x0000FF00, .Ecx = 0xAAAA5555},
     .Mask = {.Eax = 0x0000F0F0, .Ecx = 0xFFFF0000}},
    // The same subleaf of another processor, and of all.
    {.Function = 4, .Index = 1, .VpIndex = 2, .Flags = BOTH, .Output = {.Ebx = 7}, .Mask = {.Ebx = 15}},
    {.Function = 4, .Index = 2, .Flags = SUBLEAF, .Output = {.Edx = 0x12345678}, .Mask = ALL},
    // All subleaves of one processor; where both fit, the later entry has the bits that it names.
    {.Function = 4, .VpIndex = 1, .Flags = VP, .Output = {.Ecx = 0x0BAD0000}, .Mask = {.Ecx = 0x00FF0000}},
    // Of a leaf without subleaves, and over the older list.
    {.Function = 0x80000003, .Index = 3, .VpIndex = 1, .Flags = BOTH, .Output = {.Ebx = 0x99999999, .Edx = 1},
     .Mask = {.Ebx = 0x0F0F0F0F, .Edx = 3}},
    {.Function = 0x80000003, .Index = 4, .Flags = SUBLEAF, .Output = {.Ecx = 5}, .Mask = {.Ecx = 7}},
    // Flags that are off make the members nothing.
    {.Function = 0x80000004, .Index = 5, .VpIndex = 2, .Flags = (WHV_X64_CPUID_RESULT2_FLAGS)ANY,
     .Output = {.Eax = 0x5A5A5A5A}, .Mask = {.Eax = 0xFF00FF00}},
    // Leaves that the processor has not: bits under no mask are 0.
    {.Function = 0x40000001, .Index = 5, .VpIndex = 1, .Flags = BOTH, .Output = ALL, .Mask = {.Edx = 0xF0}},
    {.Function = 0x40000001, .VpIndex = 2, .Flags = VP, .Output = {.Eax = 0x31237648}, .Mask = ALL},
    // A processor that does not exist.
    {.Function = 0x80000002, .Index = 0, .VpIndex = 3, .Flags = BOTH, .Output = {.Eax = 1}, .Mask = ALL},
};

static const UINT32 leaves[] = {4, 0x40000000, 0x40000001, 0x80000002, 0x80000003, 0x80000004};
#define LEAVES (sizeof(leaves) / sizeof(leaves[0]))

static WHV_CPUID_OUTPUT told(WHV_PARTITION_HANDLE p, UINT32 vp, UINT32 leaf, UINT32 subleaf)
{
    WHV_CPUID_OUTPUT out;

    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, vp, leaf, subleaf, &out));
    return out;
}

static WHV_CPUID_OUTPUT seen(WHV_PARTITION_HANDLE p, UINT32 vp, UINT32 leaf, UINT32 subleaf)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_CPUID_OUTPUT out;

    set_register(p, vp, WHvX64RegisterRip, CODE);
    set_register(p, vp, WHvX64RegisterRax, leaf);
    set_register(p, vp, WHvX64RegisterRcx, subleaf);
    exit = run(p, vp);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    out.Eax = (UINT32)get_register(p, vp, WHvX64RegisterRax);
    out.Ebx = (UINT32)get_register(p, vp, WHvX64RegisterRbx);
    out.Ecx = (UINT32)get_register(p, vp, WHvX64RegisterRcx);
    out.Edx = (UINT32)get_register(p, vp, WHvX64RegisterRdx);
    return out;
}

static void lay_over(UINT32 *reg, UINT32 output, UINT32 mask) { *reg = (*reg & ~mask) | (output & mask); }

// The processor's own answer with both lists laid over it.
static WHV_CPUID_OUTPUT expected(WHV_CPUID_OUTPUT out, UINT32 vp, UINT32 leaf, UINT32 subleaf)
{
    for (unsigned int i = 0; i < sizeof(results) / sizeof(results[0]); i++)
        if (results[i].Function == leaf)
            out = (WHV_CPUID_OUTPUT){results[i].Eax, results[i].Ebx, results[i].Ecx, results[i].Edx};
    for (unsigned int i = 0; i < sizeof(results2) / sizeof(results2[0]); i++) {
        const WHV_X64_CPUID_RESULT2 *r = &results2[i];

        if (r->Function != leaf || ((r->Flags & SUBLEAF) && r->Index != subleaf) ||
            ((r->Flags & VP) && r->VpIndex != vp))
            continue;
        lay_over(&out.Eax, r->Output.Eax, r->Mask.Eax);
        lay_over(&out.Ebx, r->Output.Ebx, r->Mask.Ebx);
        lay_over(&out.Ecx, r->Output.Ecx, r->Mask.Ecx);
        lay_over(&out.Edx, r->Output.Edx, r->Mask.Edx);
    }
    return out;
}

static WHV_PARTITION_HANDLE processors(bool with_lists)
{
    static const uint8_t code[] = {0x0F, 0xA2, 0xE6, 0x10};     // cpuid; out 0x10, al
    WHV_PARTITION_HANDLE p = created(PROCESSORS);

    if (with_lists) {
        assert_ok(
            WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidResultList, results, sizeof(results)));
        assert_ok(
            WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidResultList2, results2, sizeof(results2)));
    }
    assert_ok(WHvSetupPartition(p));
    memcpy(memory + CODE, code, sizeof(code));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        assert_ok(WHvCreateVirtualProcessor(p, vp, 0));
        start_at(p, vp, CODE);
    }
    return p;
}

static void test_results(void **state)
{
    WHV_PARTITION_HANDLE bare = processors(false), p = processors(true);

    (void)state;
    for (UINT32 vp = 0; vp < PROCESSORS; vp++)
        for (unsigned int i = 0; i < LEAVES; i++)
            for (UINT32 subleaf = 0; subleaf < SUBLEAVES; subleaf++) {
                WHV_CPUID_OUTPUT own = told(bare, vp, leaves[i], subleaf);
                WHV_CPUID_OUTPUT right = expected(own, vp, leaves[i], subleaf);
                WHV_CPUID_OUTPUT guest = seen(p, vp, leaves[i], subleaf);
                WHV_CPUID_OUTPUT answer = told(p, vp, leaves[i], subleaf);

                if (memcmp(&guest, &right, sizeof(right)))
                    fail_msg("processor %u sees another answer to %x.%u", vp, leaves[i], subleaf);
                assert_memory_equal(&answer, &right, sizeof(right));
            }
    // Some of it in figures, so that the model above cannot be wrong in the same way.
    assert_int_equal(seen(p, 1, 4, 1).Ecx, 0xAAAD0000 | (told(bare, 1, 4, 1).Ecx & 0xFFFF));
    assert_int_equal(seen(p, 0, 4, 1).Ecx, told(bare, 0, 4, 1).Ecx);
    assert_int_equal(seen(p, 2, 4, 1).Ebx & 15, 7);
    assert_int_equal(seen(p, 1, 0x80000003, 3).Ebx, 0x49494949);
    assert_int_equal(seen(p, 0, 0x80000003, 3).Ebx, 0x44444444);
    assert_int_equal(seen(p, 1, 0x40000001, 5).Edx, 0xF0);
    assert_int_equal(seen(p, 1, 0x40000001, 4).Edx, 0);
    assert_int_equal(seen(p, 2, 0x40000001, 4).Eax, 0x31237648);
    assert_ok(WHvDeletePartition(bare));
    assert_ok(WHvDeletePartition(p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results),
    };

    return engine_run_tests(tests);
}
