// x87, MMX, SSE and SSE2 of the interpreter against the host's own processor, and what the host cannot show:
// availability, deferred x87 exceptions, stack faults, the layouts of saved state.
//
// The comparison runs each instruction on random state in a page of code on the host (FXRSTOR, the
// instruction, FXSAVE) and in the interpreter, which sees the host's address space through its bus. An
// unmasked SSE exception is a SIGFPE on the host; the state at that point is compared with the state at the
// interpreter's #XM.
#include "unit.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "x86/cpu.h"
#include "x86/decode.h"
#include "x86/fpu.h"
#include "x86/system.h"

// ---- A processor on the host's address space ----------------------------------------------------

static bool bus_translate(struct x86_cpu *cpu, uint64_t linear, unsigned access, uint64_t *gpa)
{
    (void)cpu, (void)access;
    *gpa = linear;
    return true;
}

static void bus_page(struct x86_cpu *cpu, uint64_t gpa, struct x86_page *page)
{
    (void)cpu;
    page->host = (uint8_t *)(uintptr_t)gpa;
    page->read = page->write = page->execute = true;
    page->device = false;
}

static const struct x86_bus bus = { .translate = bus_translate, .page = bus_page };

// What the host's stub and the interpreter's set-up share. The stub knows the offsets.
struct area {
    struct x86_fx_image fx;
    uint64_t rcx, rax, rflags;          // 512, 520, 528
    uint32_t mxcsr;                     // 536
    uint32_t trapped;
    _Alignas(64) uint8_t memory[128];   // 576
};

struct fixture {
    struct x86_cpu *cpu;
    uint8_t *code;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->cpu = aligned_alloc(64, (sizeof *f->cpu + 63) / 64 * 64);
    memset(f->cpu, 0, sizeof *f->cpu);
    f->cpu->bus = &bus;
    x86_default_features(f->cpu->features);
    f->code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(f->code, MAP_FAILED);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    munmap(f->code, 4096);
    free(f->cpu);
    free(f);
    return 0;
}

static void reset(struct x86_cpu *cpu, bool code64)
{
    x86_reset(cpu);
    cpu->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_MP;
    cpu->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    for (unsigned s = X86_ES; s <= X86_GS; s++) {
        cpu->slot[X86_SLOT_SEGMENT + s] = 0;
        cpu->segment[s].limit = 0xffffffff;
        cpu->segment[s].selector = (uint16_t)(8 * (s + 1));
        cpu->segment[s].attributes |= X86_SEG_G | X86_SEG_DB;
    }
    if (code64) {
        cpu->efer = X86_EFER_LMA | X86_EFER_LME;
        cpu->segment[X86_CS].attributes &= (uint16_t)~X86_SEG_DB;
        cpu->segment[X86_CS].attributes |= X86_SEG_L;
    }
    x86_fpu_init(&cpu->fpu);
    x86_update_mode(cpu);
}

static const struct insn *op_end(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    cpu->leave = X86_LEAVE_LOOKUP;
    return NULL;
}

// -1: the instruction completed; otherwise the vector that it raised.
static int run(struct x86_cpu *cpu, const uint8_t *bytes, size_t size)
{
    struct insn insns[2] = { { 0 }, { .fn = op_end } };
    enum x86_decode_result result = x86_decode(cpu, cpu->mode, bytes, size, 0, 0, &insns[0]);
    assert_int_not_equal(result, X86_DECODE_TRUNCATED);
    cpu->leave = X86_LEAVE_LOOKUP;
    for (const struct insn *i = insns; i;)
        i = i->fn(cpu, i);
    return cpu->leave == X86_LEAVE_EXCEPTION ? cpu->exception.vector : -1;
}

#define RUN(cpu, ...) run(cpu, (const uint8_t[16]){ __VA_ARGS__ }, 16)

// ---- The same on the host -----------------------------------------------------------------------

static sigjmp_buf trap_return;
static struct area *trap_area;

static void on_trap(int number, siginfo_t *info, void *context)
{
    ucontext_t *c = context;
    (void)number, (void)info;
    memcpy(&trap_area->fx, c->uc_mcontext.fpregs, 464);
    siglongjmp(trap_return, 1);
}

static void host_run(struct fixture *f, const uint8_t *bytes, size_t size, struct area *area)
{
    static const uint8_t before[] = {
        0x48, 0x0f, 0xae, 0x0f,                         // fxrstor64 [rdi]
        0x48, 0x8b, 0x8f, 0x00, 0x02, 0x00, 0x00,       // mov rcx, [rdi + 512]
        0x48, 0x8b, 0x87, 0x08, 0x02, 0x00, 0x00,       // mov rax, [rdi + 520]
        0xff, 0xb7, 0x10, 0x02, 0x00, 0x00, 0x9d,       // push qword [rdi + 528]; popfq
    };
    static const uint8_t after[] = {
        0x9c, 0x8f, 0x87, 0x10, 0x02, 0x00, 0x00,       // pushfq; pop qword [rdi + 528]
        0x48, 0x89, 0x87, 0x08, 0x02, 0x00, 0x00,       // mov [rdi + 520], rax
        0x48, 0x0f, 0xae, 0x07,                         // fxsave64 [rdi]
        0xdb, 0xe3,                                     // fninit
        0x0f, 0xae, 0x97, 0x18, 0x02, 0x00, 0x00, 0xc3, // ldmxcsr [rdi + 536]; ret
    };
    uint8_t *p = f->code;
    memcpy(p, before, sizeof before);
    memcpy(p + sizeof before, bytes, size);
    memcpy(p + sizeof before + size, after, sizeof after);
    area->mxcsr = X86_MXCSR_INIT;
    area->trapped = 0;
    trap_area = area;
    if (sigsetjmp(trap_return, 1)) {
        area->trapped = 1;
        asm volatile("fninit\n\tldmxcsr %0" : : "m"(area->mxcsr));
    } else {
        ((void (*)(struct area *, void *))(uintptr_t)p)(area, area->memory);
    }
}

static int guest_run(struct fixture *f, const uint8_t *bytes, size_t size, struct area *area)
{
    struct x86_cpu *cpu = f->cpu;
    reset(cpu, true);
    assert_true(x86_fpu_from_image(cpu, &area->fx, true, 16));
    cpu->slot[X86_RCX] = area->rcx;
    cpu->slot[X86_RAX] = area->rax;
    cpu->slot[X86_RSI] = (uintptr_t)area->memory;
    x86_set_rflags(cpu, area->rflags);
    int vector = run(cpu, bytes, size);
    x86_fpu_to_image(cpu, &area->fx, true);
    area->rax = cpu->slot[X86_RAX];
    area->rflags = x86_get_rflags(cpu);
    return vector;
}

// ---- Random state -------------------------------------------------------------------------------

static uint64_t random_seed = 0x2545f4914f6cdd1du;

static uint64_t random_word(void)
{
    random_seed ^= random_seed << 13;
    random_seed ^= random_seed >> 7;
    random_seed ^= random_seed << 17;
    return random_seed * 0x9e3779b97f4a7c15u;
}

static unsigned pick(unsigned n) { return (unsigned)(random_word() >> 33) % n; }

static uint32_t random_single(void)
{
    static const uint32_t special[] = {
        0, 0x80000000, 0x3f800000, 0xbf800000, 1, 0x807fffff, 0x00800000, 0x7f7fffff, 0x7f800000,
        0xff800000, 0x7fc00000, 0x7f800001, 0xffc12345, 0x4f000000, 0x3fc00000, 0x00000400,
        0x5f000000, 0x1f800000
    };
    uint32_t value = (uint32_t)random_word();
    switch (pick(3)) {
    case 0: return special[pick(sizeof special / sizeof special[0])];
    case 1: return (value & 0x807fffffu) | (120 + pick(40)) << 23;
    default: return value;
    }
}

static uint64_t random_double(void)
{
    static const uint64_t special[] = { 0, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000, 1,
        0x800fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff, 0x7ff0000000000000, 0xfff0000000000000,
        0x7ff8000000000000, 0x7ff0000000000001, 0xfff8000012345678, 0x41e0000000000000, 0x3ff8000000000000,
        0x43e0000000000000, 0x36a0000000000000, 0x3690000000000000, 0x47f0000000000000, 0x47efffffe0000000 };
    uint64_t value = random_word();
    switch (pick(3)) {
    case 0: return special[pick(sizeof special / sizeof special[0])];
    case 1: return (value & 0x800fffffffffffffu) | (uint64_t)(1010 + pick(70)) << 52;
    default: return value;
    }
}

static void random_lanes(uint8_t *to, unsigned size)
{
    bool wide = pick(2);
    for (unsigned n = 0; n < size; n += 8) {
        uint64_t value = wide ? random_double() : random_single() | (uint64_t)random_single() << 32;
        memcpy(to + n, &value, 8);
    }
}

static void random_extended(uint8_t *to)
{
    static const uint16_t exponents[] = { 0, 1, 0x3ffe, 0x3fff, 0x4000, 0x403e, 0x7ffe, 0x7fff, 0x3f81,
                                          0x3c01, 0x43fe };
    uint64_t mantissa = random_word();
    uint16_t exponent = (uint16_t)(pick(3) ? 0x3fff - 20 + pick(60) : exponents[pick(11)]);
    if (pick(4) == 0)
        mantissa &= 0xc000000000000000u;
    if (pick(8))
        mantissa |= 0x8000000000000000u;
    if (pick(12) == 0)
        exponent = 0, mantissa = pick(2) ? mantissa >> 1 : 0;
    exponent |= (uint16_t)(pick(2) << 15);
    memcpy(to, &mantissa, 8);
    memcpy(to + 8, &exponent, 2);
}

static void random_state(struct area *a, bool x87)
{
    memset(a, 0, sizeof *a);
    a->fx.fcw = (uint16_t)(0x40 | (pick(2) ? 0x3f : pick(64)) | pick(4) << 8 | pick(4) << 10);
    a->fx.fsw = (uint16_t)((pick(2) ? 0 : pick(64)) & a->fx.fcw);
    if (x87)
        a->fx.fsw |= (uint16_t)(pick(8) << X87_TOP_SHIFT | (pick(2) ? X87_CONDITION & random_word() : 0));
    a->fx.ftw = pick(2) ? 0xff : (uint8_t)random_word();
    if (x87 && pick(3))
        a->fx.ftw &= (uint8_t)~(1u << (((a->fx.fsw >> X87_TOP_SHIFT) + 7) & 7));
    a->fx.mxcsr = (uint32_t)(pick(2) ? X86_MXCSR_INIT : random_word() & 0xffc0) | (pick(2) ? 0 : pick(64));
    for (unsigned n = 0; n < 8; n++)
        random_extended(a->fx.st[n].u8);
    for (unsigned n = 0; n < 16; n++)
        random_lanes(a->fx.xmm[n].u8, 16);
    if (x87 && pick(3) == 0)
        random_extended(a->memory);
    else
        random_lanes(a->memory, sizeof a->memory);
    a->rcx = pick(2) ? random_word() : (uint64_t)(int64_t)(int32_t)random_word();
    a->rax = random_word();
    a->rflags = 2 | (random_word() & X86_ARITHMETIC);
}

// ---- The comparison -----------------------------------------------------------------------------

static bool is_ours(const ZydisDecodedInstruction *z)
{
    static const char *const sets[] = { "SSE", "SSE2", "SSE2MMX", "PENTIUMMMX", "MMX", "X87", "FCMOV" };
    switch (z->mnemonic) {
    // Another family's.
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_MOVNTI:
    // Tests of their own: they would write over the state at RDI, or save more than what is compared.
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return false;
    default:
        break;
    }
    if (z->mnemonic == ZYDIS_MNEMONIC_FCOMI || z->mnemonic == ZYDIS_MNEMONIC_FCOMIP ||
        z->mnemonic == ZYDIS_MNEMONIC_FUCOMI || z->mnemonic == ZYDIS_MNEMONIC_FUCOMIP)
        return true;                    // their set has more than x87
    for (unsigned n = 0; n < sizeof sets / sizeof sets[0]; n++)
        if (!strcmp(ZydisISASetGetString(z->meta.isa_set), sets[n]))
            return true;
    return false;
}

// Processors differ in what they leave in the last instruction and operand, and the image's other fields are
// not state. Processors differ in whether FCOMI and FFREE clear C1, and in the condition bits beside an
// exception.
static uint16_t compared_status(const struct area *host, const uint8_t *bytes)
{
    bool flags_only = (bytes[0] == 0xdb || bytes[0] == 0xdf) && bytes[1] >= 0xe8;
    bool free = (bytes[0] == 0xdd || bytes[0] == 0xdf) && bytes[1] >= 0xc0 && bytes[1] <= 0xc7;
    if (host->fx.fsw & (X87_ES | X87_SF))
        return (uint16_t)~X87_CONDITION;
    return (uint16_t)~(flags_only || free ? X87_C1 : 0);
}

static bool same(const struct area *host, const struct area *guest, const uint8_t *bytes, bool trapped)
{
    // With an unmasked overflow or underflow the inexact flag is the masked result's (see x86_sse_finish).
    uint32_t unmasked = host->fx.mxcsr & ~(host->fx.mxcsr >> X86_MXCSR_MASK_SHIFT) & (X87_OE | X87_UE);
    uint32_t compared = trapped && unmasked ? ~X87_PE : ~0u;
    if (((host->fx.fsw ^ guest->fx.fsw) & compared_status(host, bytes)) || host->fx.fcw != guest->fx.fcw ||
        host->fx.ftw != guest->fx.ftw || ((host->fx.mxcsr ^ guest->fx.mxcsr) & compared))
        return false;
    for (unsigned n = 0; n < 8; n++)
        if (memcmp(host->fx.st[n].u8, guest->fx.st[n].u8, 10))
            return false;
    if (memcmp(host->fx.xmm, guest->fx.xmm, sizeof host->fx.xmm) || memcmp(host->memory, guest->memory, 128))
        return false;
    return trapped || (host->rax == guest->rax &&
                       !((host->rflags ^ guest->rflags) & X86_ARITHMETIC));
}

static void explain(const struct area *before, const struct area *host, const struct area *guest,
                    const uint8_t *bytes, size_t size, int vector)
{
    ZydisDisassembledInstruction d;
    ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, 0, bytes, size, &d);
    print_error("%s: vector %d, host trapped %u\n", d.text, vector, host->trapped);
    const struct area *all[3] = { before, host, guest };
    static const char *const names[3] = { "before", "host", "guest" };
    for (unsigned k = 0; k < 3; k++) {
        const struct area *a = all[k];
        typedef unsigned long long u;
        print_error("%-6s fcw %04x fsw %04x ftw %02x mxcsr %04x rax %016llx rflags %04llx\n", names[k],
                    a->fx.fcw, a->fx.fsw, a->fx.ftw, a->fx.mxcsr, (u)a->rax, (u)a->rflags);
        for (unsigned n = 0; n < 3; n++) {
            uint64_t v[6];
            memcpy(&v[0], a->fx.st[n].u8, 16);
            memcpy(&v[2], a->fx.xmm[n].u8, 16);
            memcpy(&v[4], a->memory + 16 * n, 16);
            print_error("    st%u %04x:%016llx  xmm%u %016llx%016llx  memory %016llx%016llx\n", n,
                        (unsigned)v[1], (u)v[0], n, (u)v[3], (u)v[2], (u)v[5], (u)v[4]);
        }
    }
}

static unsigned compare(struct fixture *f, const uint8_t *bytes, size_t size, bool x87, unsigned times)
{
    unsigned failures = 0;
    for (unsigned n = 0; n < times && !failures; n++) {
        struct area before, host, guest;
        random_state(&before, x87);
        // Both work at the same address, so that memory operands are alike.
        struct area *work = &guest;
        guest = before;
        host_run(f, bytes, size, work);
        host = *work;
        guest = before;
        int vector = guest_run(f, bytes, size, work);
        bool agree = host.trapped ? vector == X86_XM : vector == -1;
        if (!agree || !same(&host, &guest, bytes, host.trapped)) {
            explain(&before, &host, &guest, bytes, size, vector);
            failures++;
        }
    }
    return failures;
}

// Of the general registers RCX is set up as a source, and RAX as a destination is looked at.
static bool general_registers_fit(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *operands)
{
    for (unsigned n = 0; n < z->operand_count_visible; n++) {
        if (operands[n].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        ZydisRegisterClass class = ZydisRegisterGetClass(operands[n].reg.value);
        if (class < ZYDIS_REGCLASS_GPR8 || class > ZYDIS_REGCLASS_GPR64)
            continue;
        if (ZydisRegisterGetId(operands[n].reg.value) != (n == 0 ? 0 : 1))
            return false;
    }
    return true;
}

static void compare_opcodes(struct fixture *f, const uint8_t *prefix, unsigned prefixes, unsigned first,
                            unsigned last, bool x87, unsigned times)
{
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    unsigned failures = 0, forms = 0;
    for (unsigned opcode = first; opcode <= last; opcode++) {
        for (unsigned modrm = 0; modrm < 256; modrm++) {
            // Memory at RSI; registers: all for x87, else the second one is 1 (of MOVD to a register: 0).
            unsigned source = opcode == 0x7e ? 0 : 1;
            if (modrm < 0xc0 ? (modrm & 0xc7) != 6 : !x87 && (modrm & 7) != source)
                continue;
            uint8_t bytes[16] = { 0 };
            if (prefixes != 0)
                memcpy(bytes, prefix, prefixes);
            bytes[prefixes] = (uint8_t)opcode;
            bytes[prefixes + 1] = (uint8_t)modrm;
            ZydisDecodedInstruction z;
            ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
            if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, 16, &z, operands)) || !is_ours(&z))
                continue;
            if (!general_registers_fit(&z, operands))
                continue;
            forms++;
            unsigned immediates = z.raw.imm[0].size ? 12 : 1;
            for (unsigned n = 0; n < immediates; n++) {
                if (z.raw.imm[0].size)
                    bytes[z.raw.imm[0].offset] = (uint8_t)(n < 9 ? n : random_word());
                failures += compare(f, bytes, z.length, x87, times);
            }
        }
    }
    assert_true(forms > 0);
    assert_int_equal(failures, 0);
}

static void handle_traps(void)
{
    struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
    sigaction(SIGFPE, &action, NULL);
}

static void test_sse_and_mmx_as_on_the_host(void **state)
{
    static const struct { uint8_t bytes[4]; unsigned size; } prefixes[] = {
        { { 0x0f }, 1 }, { { 0x66, 0x0f }, 2 }, { { 0xf3, 0x0f }, 2 }, { { 0xf2, 0x0f }, 2 },
        { { 0x48, 0x0f }, 2 }, { { 0x66, 0x48, 0x0f }, 3 }, { { 0xf3, 0x48, 0x0f }, 3 },
        { { 0xf2, 0x48, 0x0f }, 3 },
    };
    handle_traps();
    for (unsigned n = 0; n < sizeof prefixes / sizeof prefixes[0]; n++)
        compare_opcodes(*state, prefixes[n].bytes, prefixes[n].size, 0x10, 0xff, false, 16);
}

static void test_x87_as_on_the_host(void **state)
{
    handle_traps();
    compare_opcodes(*state, NULL, 0, 0xd8, 0xdf, true, 60);
}

// ---- What the host cannot show ------------------------------------------------------------------

static void test_every_instruction_has_a_row(void **state)
{
    struct fixture *f = *state;
    static const uint8_t prefixes[] = { 0, 0x66, 0xf3, 0xf2 };
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    reset(f->cpu, true);
    unsigned missing = 0;
    for (unsigned n = 0; n < 2 * 2 * 4 * 65536; n++) {
        bool x87 = n >> 18 & 1, wide = n >> 19 & 1;
        uint8_t bytes[16] = { 0 }, *p = bytes;
        if (prefixes[n >> 16 & 3])
            *p++ = prefixes[n >> 16 & 3];
        if (wide)
            *p++ = 0x48;
        if (!x87)
            *p++ = 0x0f;
        else if ((n >> 8 & 0xf8) != 0xd8)
            continue;
        *p++ = (uint8_t)(n >> 8);
        *p = (uint8_t)n;
        ZydisDecodedInstruction z;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, sizeof bytes, &z, operands)))
            continue;
        const char *set = ZydisISASetGetString(z.meta.isa_set);
        if (!is_ours(&z) && strncmp(set, "FXSAVE", 6) && strcmp(set, "X87") && strcmp(set, "SSEMXCSR"))
            continue;
        struct insn insn;
        if (x86_decode(f->cpu, f->cpu->mode, bytes, sizeof bytes, 0, 0, &insn) != X86_DECODE_OK) {
            print_error("no form for %s (%02x %02x %02x %02x)\n", ZydisMnemonicGetString(z.mnemonic),
                        bytes[0], bytes[1], bytes[2], bytes[3]);
            missing++;
        }
    }
    assert_int_equal(missing, 0);
}

#define ADDPS 0x0f, 0x58, 0xc1
#define PADDB_MMX 0x0f, 0xfc, 0xc1
#define FLD1 0xd9, 0xe8
#define FWAIT 0x9b
#define FNSTSW_AX 0xdf, 0xe0

static void test_availability(void **state)
{
    struct x86_cpu *cpu = ((struct fixture *)*state)->cpu;
    reset(cpu, true);
    assert_int_equal(RUN(cpu, ADDPS), -1);
    cpu->cr0 |= X86_CR0_TS;
    assert_int_equal(RUN(cpu, ADDPS), X86_NM);
    assert_int_equal(RUN(cpu, PADDB_MMX), X86_NM);
    assert_int_equal(RUN(cpu, FLD1), X86_NM);
    assert_int_equal(RUN(cpu, FNSTSW_AX), X86_NM);
    assert_int_equal(RUN(cpu, FWAIT), X86_NM);
    cpu->cr0 &= ~(uint64_t)X86_CR0_MP;
    assert_int_equal(RUN(cpu, FWAIT), -1);
    reset(cpu, true);
    cpu->cr0 |= X86_CR0_EM;
    assert_int_equal(RUN(cpu, ADDPS), X86_UD);
    assert_int_equal(RUN(cpu, PADDB_MMX), X86_UD);
    assert_int_equal(RUN(cpu, FLD1), X86_NM);
    assert_int_equal(RUN(cpu, FWAIT), -1);
    reset(cpu, true);
    cpu->cr4 &= ~(uint64_t)X86_CR4_OSFXSR;
    assert_int_equal(RUN(cpu, ADDPS), X86_UD);
    assert_int_equal(RUN(cpu, PADDB_MMX), -1);
    assert_int_equal(RUN(cpu, FLD1), -1);
}

static void test_x87_exceptions_come_with_the_next_waiting_instruction(void **state)
{
    struct x86_cpu *cpu = ((struct fixture *)*state)->cpu;
    reset(cpu, true);
    cpu->fpu.fcw &= (uint16_t)~X87_ZE;
    assert_int_equal(RUN(cpu, 0xd9, 0xee), -1);         // fldz
    assert_int_equal(RUN(cpu, FLD1), -1);
    assert_int_equal(RUN(cpu, 0xd8, 0xf1), -1);         // fdiv st0, st1
    assert_int_equal(cpu->fpu.fsw, 0x3000 | X87_ZE | X87_ES | X87_BUSY);
    assert_true(cpu->fpu.st[6] == 1);                   // unchanged
    assert_int_equal(RUN(cpu, FNSTSW_AX), -1);
    assert_int_equal((uint16_t)cpu->slot[X86_RAX], cpu->fpu.fsw);
    assert_int_equal(RUN(cpu, FWAIT), X86_MF);
    assert_int_equal(RUN(cpu, FLD1), X86_MF);
    assert_int_equal(RUN(cpu, PADDB_MMX), X86_MF);
    assert_int_equal(RUN(cpu, ADDPS), -1);
    assert_int_equal(RUN(cpu, 0xdb, 0xe2), -1);         // fnclex
    assert_int_equal(RUN(cpu, FWAIT), -1);
}

static void test_sse_exceptions(void **state)
{
    struct x86_cpu *cpu = ((struct fixture *)*state)->cpu;
    reset(cpu, true);
    cpu->mxcsr = X86_MXCSR_INIT & ~(X87_ZE << X86_MXCSR_MASK_SHIFT);
    cpu->vec[0].f32[0] = 3;
    assert_int_equal(RUN(cpu, 0xf3, 0x0f, 0x5e, 0xc1), X86_XM);     // divss xmm0, xmm1
    assert_true(cpu->vec[0].f32[0] == 3);
    assert_int_equal(cpu->mxcsr & X86_MXCSR_FLAGS, X87_ZE);
    cpu->cr4 &= ~(uint64_t)X86_CR4_OSXMMEXCPT;
    assert_int_equal(RUN(cpu, 0xf3, 0x0f, 0x5e, 0xc1), X86_UD);
}

static void test_alignment(void **state)
{
    struct x86_cpu *cpu = ((struct fixture *)*state)->cpu;
    _Alignas(4096) static uint8_t memory[8192];
    for (unsigned n = 0; n < sizeof memory; n++)
        memory[n] = (uint8_t)(n * 7);
    reset(cpu, true);
    cpu->slot[X86_RSI] = (uintptr_t)memory + 4096 - 5;
    assert_int_equal(RUN(cpu, 0x0f, 0x28, 0x06), X86_GP);           // movaps xmm0, [rsi]
    assert_int_equal(cpu->exception.error, 0);
    assert_int_equal(RUN(cpu, 0x0f, 0x29, 0x06), X86_GP);
    assert_int_equal(RUN(cpu, 0x0f, 0x58, 0x06), X86_GP);           // addps
    assert_int_equal(RUN(cpu, 0x0f, 0xae, 0x06), X86_GP);           // fxsave
    assert_int_equal(RUN(cpu, 0x0f, 0x10, 0x06), -1);               // movups, across pages
    assert_memory_equal(cpu->vec[0].u8, memory + 4096 - 5, 16);
    cpu->slot[X86_RSI] = (uintptr_t)memory + 4096 - 9;
    assert_int_equal(RUN(cpu, 0x0f, 0x11, 0x06), -1);
    assert_memory_equal(cpu->vec[0].u8, memory + 4096 - 9, 16);
}

static void test_masked_stores(void **state)
{
    struct x86_cpu *cpu = ((struct fixture *)*state)->cpu;
    _Alignas(4096) static uint8_t memory[8192];
    reset(cpu, true);
    memset(memory, 0x11, sizeof memory);
    memset(&cpu->vec[0], 0x22, 16);
    cpu->vec[1].u8[0] = cpu->vec[1].u8[7] = cpu->vec[1].u8[15] = 0x80;
    cpu->slot[X86_RDI] = (uintptr_t)memory + 4096 - 3;
    assert_int_equal(RUN(cpu, 0x66, 0x0f, 0xf7, 0xc1), -1);         // maskmovdqu xmm0, xmm1
    for (unsigned n = 0; n < 16; n++)
        assert_int_equal(memory[4096 - 3 + n], n == 0 || n == 7 || n == 15 ? 0x22 : 0x11);
    memset(memory, 0x11, sizeof memory);
    uint64_t data = 0x3333333333333333, mask = 0x8000000000007fff | 0x80;
    memcpy(&cpu->fpu.st[0], &data, 8);
    memcpy(&cpu->fpu.st[1], &mask, 8);
    assert_int_equal(RUN(cpu, 0x0f, 0xf7, 0xc1), -1);               // maskmovq mm0, mm1
    for (unsigned n = 0; n < 8; n++)
        assert_int_equal(memory[4096 - 3 + n], n == 0 || n == 7 ? 0x33 : 0x11);
    assert_int_equal(cpu->fpu.ftw, 0xff);
}

static void test_environments(void **state)
{
    struct x86_cpu *cpu = ((struct fixture *)*state)->cpu;
    static uint32_t area[27];
    reset(cpu, true);
    memset(area, 0, sizeof area);
    cpu->slot[X86_RSI] = (uintptr_t)area;
    assert_int_equal(RUN(cpu, FLD1), -1);
    assert_int_equal(RUN(cpu, 0xd9, 0xee), -1);                     // fldz
    cpu->slot[X86_SLOT_RIP_PAGE] = 0x12345000;
    assert_int_equal(RUN(cpu, 0xd8, 0x06), -1);                     // fadd dword [rsi]
    assert_int_equal(RUN(cpu, 0xd9, 0x36), -1);                     // fnstenv [rsi]
    const uint32_t expected[7] = { 0xffff037f, 0xffff3000, 0xffff1fff, 0x12345000, 0x00060010,
                                   (uint32_t)(uintptr_t)area, 0xffff0020 };
    assert_memory_equal(area, expected, 28);
    area[0] = 0x027f, area[1] = 0x2801, area[2] = 0x0fff;       // fldenv: TOP 5, IE, registers 6 and 7 valid
    assert_int_equal(RUN(cpu, 0xd9, 0x26), -1);
    assert_int_equal(cpu->fpu.fcw, 0x027f);
    assert_int_equal(cpu->fpu.fsw, 0x2801);
    assert_int_equal(cpu->fpu.ftw, 0xc0);
    area[0] = 0x037e;                                               // IE unmasked: the summary follows
    assert_int_equal(RUN(cpu, 0xd9, 0x26), -1);
    assert_int_equal(cpu->fpu.fsw, 0x2801 | X87_ES | X87_BUSY);

    // The 16-bit real-mode form: linear addresses, the opcode beside their upper bits.
    reset(cpu, true);
    cpu->slot[X86_RSI] = (uintptr_t)area;
    cpu->fpu = (struct x86_fpu){ .fcw = 0x37f, .fop = 0x123, .fip = 0x5678, .fcs = 0xf000, .fdp = 0x9abc,
                                 .fds = 0x1000 };
    cpu->mode &= ~(uint32_t)X86_MODE_PROTECTED;
    assert_int_equal(RUN(cpu, 0x66, 0xd9, 0x36), -1);
    const uint16_t real[7] = { 0x037f, 0, 0xffff, 0x5678, 0xf123, 0x9abc, 0x1000 };
    assert_memory_equal(area, real, 14);

    // FSAVE leaves the state of FINIT; FRSTOR brings all back.
    reset(cpu, true);
    cpu->slot[X86_RSI] = (uintptr_t)area;
    assert_int_equal(RUN(cpu, 0xd9, 0xeb), -1);                     // fldpi
    assert_int_equal(RUN(cpu, FLD1), -1);
    struct x86_fpu before = cpu->fpu;
    assert_int_equal(RUN(cpu, 0xdd, 0x36), -1);                     // fnsave
    assert_int_equal(cpu->fpu.fcw, X87_FCW_INIT);
    assert_int_equal(cpu->fpu.ftw, 0);
    memset(cpu->fpu.st, 0, sizeof cpu->fpu.st);
    assert_int_equal(RUN(cpu, 0xdd, 0x26), -1);                     // frstor
    assert_int_equal(cpu->fpu.fsw, before.fsw);
    assert_int_equal(cpu->fpu.ftw, before.ftw);
    assert_memory_equal(&cpu->fpu.st[6], &before.st[6], 10);
    assert_memory_equal(&cpu->fpu.st[7], &before.st[7], 10);
}

static void test_fxsave(void **state)
{
    struct x86_cpu *cpu = ((struct fixture *)*state)->cpu;
    _Alignas(16) static struct x86_fx_image image;
    reset(cpu, true);
    cpu->slot[X86_RSI] = (uintptr_t)&image;
    assert_int_equal(RUN(cpu, FLD1), -1);
    for (unsigned n = 0; n < 16; n++)
        memset(cpu->vec[n].u8, (int)n + 1, 16);
    memset(&image, 0xee, sizeof image);
    cpu->fpu.fip = 0x123456789abc;
    cpu->fpu.fcs = 0x33;
    assert_int_equal(RUN(cpu, 0x0f, 0xae, 0x06), -1);               // fxsave
    assert_int_equal(image.fip, 0x3356789abc);
    assert_int_equal(image.ftw, 0x80);
    assert_int_equal(image.mxcsr_mask, 0xffff);
    assert_int_equal(image.xmm[15].u8[0], 16);
    assert_int_equal(image.unused[0], 0xee);
    assert_int_equal(RUN(cpu, 0x48, 0x0f, 0xae, 0x06), -1);         // fxsave64
    assert_int_equal(image.fip, 0x123456789abc);
    image.mxcsr = 0x10000;
    image.fcw = 0x40;
    assert_int_equal(RUN(cpu, 0x0f, 0xae, 0x0e), X86_GP);           // fxrstor, a reserved bit
    assert_int_equal(cpu->fpu.fcw, X87_FCW_INIT);
    image.mxcsr = 0x1fa0;
    memset(cpu->vec, 0, sizeof cpu->vec);
    assert_int_equal(RUN(cpu, 0x48, 0x0f, 0xae, 0x0e), -1);
    assert_int_equal(cpu->mxcsr, 0x1fa0);
    assert_int_equal(cpu->fpu.fcw, 0x40);
    assert_int_equal(cpu->vec[15].u8[3], 16);
    assert_true(cpu->fpu.st[7] == 1);
    uint32_t bad = 0x1ffff;
    cpu->slot[X86_RSI] = (uintptr_t)&bad;
    assert_int_equal(RUN(cpu, 0x0f, 0xae, 0x16), X86_GP);           // ldmxcsr
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_every_instruction_has_a_row),
        TEST(test_sse_and_mmx_as_on_the_host),
        TEST(test_x87_as_on_the_host),
        TEST(test_availability),
        TEST(test_x87_exceptions_come_with_the_next_waiting_instruction),
        TEST(test_sse_exceptions),
        TEST(test_alignment),
        TEST(test_masked_stores),
        TEST(test_environments),
        TEST(test_fxsave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
