// Processor features, bit by bit: what is left out is not in CPUID and faults when it is used, what is there works, and
// no processor comes about that cannot be.
#include "modes.h"

enum bank { BANK_0, BANK_1, XSAVE, BANKS };
enum { EAX, EBX, ECX, EDX };

#define NOTHING 0, false
#define UD 6, false
#define GP 13, false
#define PF 14, false
#define KEPT(fault) KEPT_(fault)
#define KEPT_(vector, kept) vector, true

#define SET_CR4(bit) "\x0F\x20\xE0\x48\x0F\xBA\xE8" bit "\x0F\x22\xE0"     // mov rax, cr4; bts rax, bit; mov cr4, rax
#define READ_MSR(number) "\xB9" number "\x0F\x32"                           // mov ecx, number; rdmsr
// xor ecx, ecx; xor edx, edx; mov eax, low; xsetbv
#define SET_XCR0(low) "\x31\xC9\x31\xD2\xB8" low "\x0F\x01\xD1"

#define CR4_OSXSAVE (1u << 18)
#define XCR0_VECTORS 0xE7u          // x87, SSE, AVX, AVX-512

struct feature {
    union {
        WHV_PROCESSOR_FEATURES BANK_0;
        WHV_PROCESSOR_FEATURES1 BANK_1;
        WHV_PROCESSOR_XSAVE_FEATURES XSAVE;
        UINT64 mask;
    };
    enum bank bank;
    const char *name;
    UINT32 leaf, subleaf;
    unsigned int reg, bit;
    unsigned int vector;            // 0: no fault
    bool kept;                      // on every engine
    const char *needs, *code;
    size_t size;
};

static const struct feature rows[] = {
#define ROW(bank_, name_, leaf_, subleaf_, reg_, bit_, fault_, needs_, code_)                                \
    ROW_(bank_, name_, leaf_, subleaf_, reg_, bit_, fault_, needs_, code_)
#define ROW_(bank_, name_, leaf_, subleaf_, reg_, bit_, vector_, kept_, needs_, code_)                       \
    {.bank_ = {.name_ = 1}, .bank = bank_, .name = #name_, .leaf = leaf_, .subleaf = subleaf_, .reg = reg_,  \
     .bit = bit_, .vector = vector_, .kept = kept_, .needs = needs_, .code = code_, .size = sizeof(code_) - 1},
#include "features.def"
#undef ROW
#undef ROW_
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

// ---- Banks -------------------------------------------------------------------------------------------------------

struct banks {
    UINT64 bits[BANKS];
};

static struct banks offered(void)
{
    const WHV_PROCESSOR_FEATURES_BANKS banks =
        engine_capability(WHvCapabilityCodeProcessorFeaturesBanks).ProcessorFeaturesBanks;
    const WHV_PROCESSOR_XSAVE_FEATURES xsave =
        engine_capability(WHvCapabilityCodeProcessorXsaveFeatures).ProcessorXsaveFeatures;

    return (struct banks){{banks.Bank0.AsUINT64, banks.Bank1.AsUINT64, xsave.AsUINT64}};
}

static bool has(const struct banks *banks, const struct feature *row)
{
    return banks->bits[row->bank] & row->mask;
}

static bool needs(const struct feature *row, const struct feature *other)
{
    const char *at = strstr(row->needs, other->name);
    const size_t length = strlen(other->name);

    return at && (at == row->needs || at[-1] == ' ') && (at[length] == '\0' || at[length] == ' ');
}

// Without one feature, and without what cannot be without it.
static struct banks without(struct banks banks, const struct feature *row)
{
    banks.bits[row->bank] &= ~row->mask;
    for (unsigned int i = 0; i < ROWS; i++)
        if (needs(&rows[i], row) && has(&banks, &rows[i]))
            banks = without(banks, &rows[i]);
    return banks;
}

static void set_banks(WHV_PARTITION_HANDLE p, const struct banks *banks)
{
    WHV_PROCESSOR_FEATURES_BANKS value = {.BanksCount = WHV_PROCESSOR_FEATURES_BANKS_COUNT};

    value.Bank0.AsUINT64 = banks->bits[BANK_0];
    value.Bank1.AsUINT64 = banks->bits[BANK_1];
    assert_ok(
        WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorFeaturesBanks, &value, sizeof(value)));
    assert_ok(set64(p, WHvPartitionPropertyCodeProcessorXsaveFeatures, banks->bits[XSAVE]));
}

static struct banks get_banks(WHV_PARTITION_HANDLE p)
{
    WHV_PROCESSOR_FEATURES_BANKS value;
    struct banks banks;

    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorFeaturesBanks, &value,
                                      sizeof(value), NULL));
    assert_int_equal(value.BanksCount, WHV_PROCESSOR_FEATURES_BANKS_COUNT);
    banks.bits[BANK_0] = value.Bank0.AsUINT64;
    banks.bits[BANK_1] = value.Bank1.AsUINT64;
    assert_ok(WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorXsaveFeatures, &banks.bits[XSAVE],
                                      sizeof(UINT64), NULL));
    return banks;
}

// ---- Guests ------------------------------------------------------------------------------------------------------

static uint8_t memory[16 * PAGE] __attribute__((aligned(PAGE)));

static void enter(WHV_PARTITION_HANDLE p)
{
    memset(memory + DATA, 0, PAGE);
    enter_long(p, memory);
    put64(memory, PML4, PDPT | PTE_P | PTE_W);                  // nothing is user memory: SMEP and SMAP may come
    put64(memory, PDPT + 8, PTE_PS | PTE_P | PTE_W);            // the second GiB, by one page
    set_gate(memory, true, 6);
    set_gate(memory, true, 13);
    set_gate(memory, true, 14);
}

// A partition that has set its features, or has not.
static WHV_PARTITION_HANDLE guest_with(const struct banks *banks)
{
    WHV_PARTITION_HANDLE p = created(1);

    if (banks)
        set_banks(p, banks);
    if (engine_capability(WHvCapabilityCodeFeatures).Features.LocalApicEmulation)
        assert_ok(set32(p, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvMapGpaRange(p, memory, 0, sizeof(memory), RWX));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    enter(p);
    return p;
}

static WHV_CPUID_OUTPUT cpuid_of(WHV_PARTITION_HANDLE p, UINT32 leaf, UINT32 subleaf)
{
    static const uint8_t code[] = {0x0F, 0xA2, 0xE6, 0x10};     // cpuid; out 0x10, al
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_CPUID_OUTPUT seen, told;

    memcpy(memory + CODE, code, sizeof(code));
    set_register(p, 0, WHvX64RegisterRip, CODE);
    set_register(p, 0, WHvX64RegisterRax, leaf);
    set_register(p, 0, WHvX64RegisterRcx, subleaf);
    exit = run(p, 0);
    assert_port_exit(&exit, 0x10);
    seen.Eax = (UINT32)get_register(p, 0, WHvX64RegisterRax);
    seen.Ebx = (UINT32)get_register(p, 0, WHvX64RegisterRbx);
    seen.Ecx = (UINT32)get_register(p, 0, WHvX64RegisterRcx);
    seen.Edx = (UINT32)get_register(p, 0, WHvX64RegisterRdx);
    assert_ok(WHvGetVirtualProcessorCpuidOutput(p, 0, leaf, subleaf, &told));
    assert_memory_equal(&seen, &told, sizeof(seen));
    return seen;
}

// Whether the guest sees the feature, by any of its bits.
static bool shows(WHV_PARTITION_HANDLE p, const struct feature *row)
{
    bool shown = false;

    for (unsigned int i = 0; i < ROWS; i++) {
        WHV_CPUID_OUTPUT out;

        if (rows[i].bank != row->bank || rows[i].mask != row->mask)
            continue;
        out = cpuid_of(p, rows[i].leaf, rows[i].subleaf);
        shown |= (const UINT32[]){out.Eax, out.Ebx, out.Ecx, out.Edx}[rows[i].reg] >> rows[i].bit & 1;
    }
    return shown;
}

// The vector that using the feature raises; 0: none.
static unsigned int use(WHV_PARTITION_HANDLE p, const struct feature *row)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    enter(p);
    if (get_banks(p).bits[XSAVE] & (WHV_PROCESSOR_XSAVE_FEATURES){.XsaveSupport = 1}.AsUINT64 &&
        strcmp(row->name, "XsaveSupport")) {
        WHV_CPUID_OUTPUT state;

        set_register(p, 0, WHvX64RegisterCr4, 0x620 | CR4_OSXSAVE);
        state = cpuid_of(p, 0xD, 0);
        set_register(p, 0, WHvX64RegisterXCr0, state.Eax & XCR0_VECTORS);
    }
    memcpy(memory + CODE, row->code, row->size);
    memcpy(memory + CODE + row->size, "\xE6\x10", 2);           // out 0x10, al
    set_register(p, 0, WHvX64RegisterRip, CODE);
    set_register(p, 0, WHvX64RegisterRax, 2);
    set_register(p, 0, WHvX64RegisterRbx, DATA);
    set_register(p, 0, WHvX64RegisterRcx, 0);
    set_register(p, 0, WHvX64RegisterRdx, 0);
    exit = run(p, 0);
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    if (exit.IoPortAccess.PortNumber == 0x10)
        return 0;
    return exit.IoPortAccess.PortNumber;
}

// ---- What an engine may not do (docs/engines.md) -----------------------------------------------------------------

// Which instructions fault without their feature is the processor's to say where it runs the guest.
static bool engine_faults(const struct feature *row)
{
    return strcmp(engine_name(), "kvm") != 0 || row->kept;
}

// A kernel that interprets the guest shows what it shows, and its own list of instructions is its own.
static bool engine_hides(void) { return !engine_is_interpreted(); }

// ---- Tests -------------------------------------------------------------------------------------------------------

// Every feature that a partition may have is in the table, or nothing here says anything about it.
static void test_table_is_whole(void **state)
{
    struct banks rest = offered();

    (void)state;
    for (unsigned int i = 0; i < ROWS; i++) {
        assert_int_not_equal(rows[i].mask, 0);
        rest.bits[rows[i].bank] &= ~rows[i].mask;
    }
    for (unsigned int bank = 0; bank < BANKS; bank++)
        assert_int_equal(rest.bits[bank], 0);
}

// What is offered is shown, by default and when it is asked for, and works.
static void test_shown(void **state)
{
    const struct banks all = offered();
    unsigned int count = 0;

    (void)state;
    for (int asked = 0; asked < 2; asked++) {
        WHV_PARTITION_HANDLE p = guest_with(asked ? &all : NULL);
        const struct banks got = get_banks(p);

        assert_memory_equal(&got, &all, sizeof(got));
        for (unsigned int i = 0; i < ROWS; i++) {
            const struct feature *row = &rows[i];

            if (!has(&all, row)) {
                assert_true(!engine_hides() || !shows(p, row));
                continue;
            }
            if (!shows(p, row))
                fail_msg("%s is offered, and the guest does not see it", row->name);
            if (row->size && engine_hides()) {
                unsigned int vector = use(p, row);

                if (vector)
                    fail_msg("%s is there, and its use raises %u", row->name, vector);
            }
            count++;
        }
        assert_ok(WHvDeletePartition(p));
    }
    assert_true(count > 0);
}

// Each one left out, with all the others there.
static void test_hidden(void **state)
{
    const struct banks all = offered();
    unsigned int hidden = 0, faulted = 0, still_shown = 0;

    (void)state;
    for (unsigned int i = 0; i < ROWS; i++) {
        const struct feature *row = &rows[i];
        const struct banks less = without(all, row);
        struct banks got;
        WHV_PARTITION_HANDLE p;

        if (!has(&all, row))
            continue;
        p = guest_with(&less);
        got = get_banks(p);
        assert_memory_equal(&got, &less, sizeof(got));
        for (unsigned int k = 0; k < ROWS; k++)
            if (has(&all, &rows[k]) && shows(p, &rows[k]) != has(&less, &rows[k])) {
                // A kernel that shows it nonetheless is a limit; that one of ours goes missing is not.
                if (has(&less, &rows[k]) || engine_hides())
                    fail_msg("without %s: %s", row->name, rows[k].name);
                still_shown++;
            } else if (k == i) {
                hidden++;
            }
        if (row->vector && engine_faults(row) && !shows(p, row)) {
            unsigned int vector = use(p, row);

            if (vector != row->vector)
                fail_msg("%s is left out, and its use raises %u", row->name, vector);
            faulted++;
        }
        assert_ok(WHvDeletePartition(p));
    }
    assert_true(hidden > 0 && faulted > 0);
    if (still_shown)
        print_message("this host's KVM shows some features whatever it is told\n");
}

// One that needs another, without it: refused where both were set, left out where it was a default.
static void test_impossible(void **state)
{
    const struct banks all = offered();
    char report[4096];

    (void)state;
    for (unsigned int i = 0; i < ROWS; i++)
        for (unsigned int k = 0; k < ROWS; k++) {
            const struct feature *row = &rows[i], *needed = &rows[k];
            const struct banks possible = without(all, needed);
            struct banks less = all, got;
            WHV_PARTITION_HANDLE p;
            UINT32 size = sizeof(report);

            if (!needs(row, needed) || !has(&all, row) || !has(&all, needed))
                continue;
            less.bits[needed->bank] &= ~needed->mask;
            p = created(1);
            set_banks(p, &less);
            assert_hr(WHvSetupPartition(p), WHV_E_UNSUPPORTED_PROCESSOR_CONFIG);
            assert_ok(BulkheadGetEngineReport(p, report, size, NULL));
            assert_non_null(strstr(report, "of the features that were set"));
            got = get_banks(p);
            assert_memory_equal(&got, &less, sizeof(got));
            // Nothing has changed: it can be put right.
            set_banks(p, &possible);
            assert_ok(WHvSetupPartition(p));
            assert_ok(WHvDeletePartition(p));
            if (row->bank != XSAVE || needed->bank == XSAVE)
                continue;
            // The XSAVE features were not set.
            p = created(1);
            assert_ok(set64(p, WHvPartitionPropertyCodeProcessorFeatures, possible.bits[BANK_0]));
            assert_ok(WHvSetupPartition(p));
            got = get_banks(p);
            assert_memory_equal(&got, &possible, sizeof(got));
            assert_ok(WHvDeletePartition(p));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_is_whole),
        cmocka_unit_test(test_shown),
        cmocka_unit_test(test_hidden),
        cmocka_unit_test(test_impossible),
    };

    return engine_run_tests(tests);
}
