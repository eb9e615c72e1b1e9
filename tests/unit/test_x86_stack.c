// Handlers go from one to the next by jumps: however long a guest runs, the host's stack does not grow with it.
//
// Every opcode that decodes, forty times in a row and in a loop, on a thread whose stack would not hold a return address
// for each. A handler that the compiler makes a call in place of a jump ends this test with a crash.
#include "x86_machine.h"

#include <pthread.h>

#define BUDGET 9000                 // instructions; 8 bytes for each are more than the stack has
#define STACK (48u << 10)
#define STACK_SANITIZED (1u << 20)  // there the handlers return, and frames are large
#define COPIES 40u

static void poke_case(struct machine *m, const uint8_t *insn, unsigned length)
{
    uint8_t *code = m->ram + m->cpu.rip;
    for (unsigned n = 0; n < COPIES; n++, code += length)
        memcpy(code, insn, length);
    int32_t back = -(int32_t)(COPIES * length + 5);
    code[0] = 0xe9;
    memcpy(code + 1, &back, 4);
}

static void run_case(struct machine *m, bool code64, const uint8_t *insn, unsigned length)
{
    struct x86_cpu *cpu = &m->cpu;
    if (code64)
        machine_long_mode(m);
    else
        machine_protected_mode(m);
    cpu->cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_FSGSBASE;
    cpu->rflags = 2;
    cpu->interrupt_shadow = 0;
    cpu->dr7 = 0x400;
    x86_settle_state(cpu);
    for (unsigned n = 0; n < 16; n++)
        cpu->slot[n] = 0x60000 + n * 64;
    cpu->slot[X86_RSP] = 0x70000;
    cpu->fpu.ftw = 0;
    cpu->fpu.fsw = 0;
    cpu->fpu.fcw = 0x37f;
    cpu->mxcsr = 0x1f80;
    poke_case(m, insn, length);
    uint64_t generation = atomic_fetch_add(&cpu->generation, 1) + 1;
    cpu->budget = BUDGET;
    (void)x86_run(cpu, generation);
}

static unsigned cases(struct machine *m, bool code64)
{
    static const uint8_t prefixes[] = { 0, 0x66, 0xf2, 0xf3, 0xf0 };
    static const uint8_t forms[] = { 0x03, 0xc1 };      // [rbx], a register; /reg is added
    ZydisDecoder decoder;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    unsigned count = 0;
    ZydisDecoderInit(&decoder, code64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32,
                     code64 ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
    for (unsigned opcode = 0; opcode < 512; opcode++)
        for (unsigned p = 0; p < sizeof prefixes; p++)
            for (unsigned reg = 0; reg < sizeof forms * 8; reg++) {
                uint8_t insn[16] = { 0 };
                unsigned n = 0;
                if (prefixes[p])
                    insn[n++] = prefixes[p];
                if (opcode >= 256)
                    insn[n++] = 0x0f;
                insn[n++] = (uint8_t)opcode;
                insn[n] = (uint8_t)(forms[reg / 8] | (reg & 7) << 3);
                if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, insn, sizeof insn, &z, operands)))
                    continue;
                run_case(m, code64, insn, z.length);
                count++;
            }
    return count;
}

static enum x86_answer no_time(struct x86_cpu *cpu, bool rdtscp, uint64_t *value)
{
    (void)cpu, (void)rdtscp;
    *value = 0;
    return X86_DONE;
}

static void *all_cases(void *context)
{
    unsigned *count = context;
    struct x86_bus bus = machine_bus;
    struct machine *m;
    if (machine_setup((void **)&m) != 0)
        return NULL;
    bus.tsc = no_time;
    m->cpu.bus = &bus;
    count[0] = cases(m, true);
    count[1] = cases(m, false);
    machine_teardown((void **)&m);
    return NULL;
}

static void test_stack(void **state)
{
    unsigned count[2] = { 0 };
    pthread_attr_t attributes;
    pthread_t thread;
    (void)state;
    pthread_attr_init(&attributes);
#ifdef __SANITIZE_ADDRESS__
    size_t stack = STACK_SANITIZED;
#else
    size_t stack = STACK;
#endif
    assert_int_equal(pthread_attr_setstacksize(&attributes, stack), 0);
    assert_int_equal(pthread_create(&thread, &attributes, all_cases, count), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
    assert_in_range(count[0], 10000, 100000);
    assert_in_range(count[1], 10000, 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_stack) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
