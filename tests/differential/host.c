// Runs a case on the host's own processor, inside this process.
//
// The case gets all registers, FS and GS base included, and ends in a signal whose context holds its final
// state. The code is written through a second mapping of the same memory, so that the case cannot change it.
#include "differential.h"

#include <cpuid.h>
#include <asm/ldt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

struct host_context {           // known to host_entry.S
    uint64_t gpr[16];
    uint64_t rip, rflags, cs, data_selector, fs_base, gs_base;
    uint64_t host_rsp, host_fs_base, host_gs_base, ss;
    struct fx_image fx;
};
_Static_assert(offsetof(struct host_context, host_rsp) == 176 && offsetof(struct host_context, fx) == 208,
               "host_entry.S knows the layout");

extern struct host_context host_context;
extern volatile int host_inside;
struct host_context host_context;
volatile int host_inside;

void host_enter(struct host_context *context);
void host_leave(void);
void host_on_signal(int number, siginfo_t *info, void *context);
void host_take_signal(int number, siginfo_t *info, ucontext_t *context);

// IRET to a 16-bit stack takes only SP from its frame and leaves the rest of RSP as it was. So that ESP is
// known, the frame lies where bits 16 to 31 of its address are 0.
#define HOST_FRAME ((uintptr_t)0x35a700000000)
#define HOST_FRAME_SIZE 0x1000u

static struct outcome *host_outcome;
static uint8_t *host_code;          // the writable view of CASE_CODE
static uint8_t *host_data;          // the writable view of CASE_DATA
static const uint8_t *host_template;
static uint8_t host_saved_data[CASE_DATA_SIZE];
static uint32_t host_dirty_offset, host_dirty_size;     // what the last case wrote to the code

// Selectors of a 64-bit Linux process: 64-bit code, 32-bit code, data (arch/x86/include/asm/segment.h)
enum { HOST_CS64 = 0x33, HOST_CS32 = 0x23, HOST_DATA = 0x2b };
// and those of the local descriptor table for 16-bit cases
enum { HOST_CS16 = 0x07, HOST_DATA16 = 0x0f };

static const int host_gregs[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15
};

void host_take_signal(int number, siginfo_t *info, ucontext_t *context)
{
    greg_t *g = context->uc_mcontext.gregs;
    (void)info;
    if (!host_inside) {             // a fault of the test itself: die of it
        signal(number, SIG_DFL);
        return;
    }
    host_inside = 0;

    struct outcome *out = host_outcome;
    for (int i = 0; i < 16; i++)
        out->after.gpr[i] = (uint64_t)g[host_gregs[i]];
    out->after.rip = (uint64_t)g[REG_RIP];
    out->after.rflags = (uint64_t)g[REG_EFL];
    memcpy(&out->after.fx, context->uc_mcontext.fpregs, sizeof(out->after.fx));
    out->vector = (uint32_t)g[REG_TRAPNO];
    out->error_code = (uint32_t)g[REG_ERR];
    out->address = out->vector == 14 ? (uint64_t)g[REG_CR2] : 0;

    g[REG_RIP] = (greg_t)(uintptr_t)host_leave;
    g[REG_RSP] = (greg_t)host_context.host_rsp;
    g[REG_EFL] = 0x202;
    uint16_t cs = HOST_CS64, ss = HOST_DATA;
    memcpy((char *)&g[REG_CSGSFS], &cs, 2);
    memcpy((char *)&g[REG_CSGSFS] + 6, &ss, 2);
}

static void *host_map(int fd, off_t offset, size_t size, uintptr_t address, int protection)
{
    void *p = mmap((void *)address, size, protection,
                   MAP_SHARED | MAP_POPULATE | (address ? MAP_FIXED_NOREPLACE : 0), fd, offset);
    if (p == MAP_FAILED)
        perror("mmap");
    return p == MAP_FAILED ? NULL : p;
}

static bool host_map_all(void)
{
    int fd = memfd_create("case", 0);
    if (fd < 0 || ftruncate(fd, CASE_CODE_SIZE + CASE_DATA_SIZE) != 0) {
        perror("memfd_create");
        return false;
    }
    const off_t data = CASE_CODE_SIZE, read_only = data + CASE_DATA_WRITABLE;
    host_code = host_map(fd, 0, CASE_CODE_SIZE, 0, PROT_READ | PROT_WRITE);
    host_data = host_map(fd, data, CASE_DATA_SIZE, 0, PROT_READ | PROT_WRITE);
    bool ok = host_code && host_data
        && host_map(fd, 0, CASE_CODE_SIZE, CASE_CODE, PROT_READ | PROT_EXEC)
        && host_map(fd, data, CASE_DATA_WRITABLE, CASE_DATA, PROT_READ | PROT_WRITE)
        && host_map(fd, read_only, CASE_PAGE, CASE_DATA + CASE_DATA_WRITABLE, PROT_READ);
    close(fd);
    return ok;
}

// A segment of 16-bit code or data.
static bool host_describe(unsigned entry, unsigned base, unsigned limit, unsigned contents)
{
    enum { WRITE_NEW_MODE = 0x11 };
    struct user_desc d = { .entry_number = entry, .base_addr = base, .limit = limit, .contents = contents };
    return syscall(SYS_modify_ldt, WRITE_NEW_MODE, &d, sizeof(d)) == 0;
}

bool host_is_amd(void)
{
    unsigned a, name[3];
    return __get_cpuid(0, &a, &name[0], &name[2], &name[1]) && !memcmp(name, "AuthenticAMD", 12);
}

const char *host_lacks(void)
{
    enum { FSGSBASE = 2 };      // HWCAP2_FSGSBASE, arch/x86/include/uapi/asm/hwcap2.h
    if (!(getauxval(AT_HWCAP2) & FSGSBASE))
        return "the kernel does not let a process write its FS base";
    if (!host_describe(0, CASE_CODE, CASE_CODE_LIMIT, MODIFY_LDT_CONTENTS_CODE)
        || !host_describe(1, CASE_DATA, CASE_DATA_LIMIT, MODIFY_LDT_CONTENTS_DATA))
        return "the kernel does not let a process have 16-bit segments (modify_ldt)";
    return NULL;
}

static bool host_open(const uint8_t *data_template)
{
    static const int signals[] = { SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE };
    const size_t stack_size = 1 << 16;
    host_template = data_template;
    if (host_code)
        return true;
    void *frame = mmap((void *)HOST_FRAME, HOST_FRAME_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (frame == MAP_FAILED || !host_map_all())
        return false;
    memset(host_code, 0xcc, CASE_CODE_SIZE);

    stack_t stack = { .ss_sp = malloc(stack_size), .ss_size = stack_size };
    if (!stack.ss_sp || sigaltstack(&stack, NULL) != 0) {
        perror("sigaltstack");
        return false;
    }
    struct sigaction action = { .sa_sigaction = host_on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        if (sigaction(signals[i], &action, NULL) != 0) {
            perror("sigaction");
            return false;
        }
    }
    // The kernel answers the first touch of a page, which a case must not see.
    for (uint32_t offset = 0; offset < CASE_DATA_SIZE; offset += CASE_PAGE)
        (void)*(volatile uint8_t *)(uintptr_t)(CASE_DATA + offset);
    for (uint32_t offset = 0; offset < CASE_DATA_WRITABLE; offset += CASE_PAGE)
        *(volatile uint8_t *)(uintptr_t)(CASE_DATA + offset) = 0;
    return true;
}

// INT3 and INTO are reported after the instruction; everything else here speaks of the instruction itself.
static uint64_t start_of_trap(const struct test_case *c, uint64_t end)
{
    for (uint32_t i = 0; i < c->instruction_count; i++) {
        const struct instruction *at = &c->instructions[i];
        if (c->before.rip + at->offset + at->length == end
            && (at->mnemonic == ZYDIS_MNEMONIC_INT3 || at->mnemonic == ZYDIS_MNEMONIC_INTO))
            return c->before.rip + at->offset;
    }
    return end - 1;
}

static bool host_run(const struct test_case *c, struct outcome *out)
{
    memset(host_code + host_dirty_offset, 0xcc, host_dirty_size);
    memcpy(host_code + c->code_offset, c->bytes, c->size);
    host_dirty_offset = c->code_offset;
    host_dirty_size = c->size;
    memcpy(host_data, host_template, CASE_DATA_SIZE);
    for (uint32_t i = 0; i < c->poke_count; i++)
        memcpy(host_data + c->pokes[i].offset, c->pokes[i].bytes, c->pokes[i].size);

    memcpy(host_context.gpr, c->before.gpr, sizeof(host_context.gpr));
    host_context.rip = c->before.rip;
    host_context.rflags = c->before.rflags;
    static const uint64_t code[] = { HOST_CS64, HOST_CS32, HOST_CS16 },
                          data[] = { 0, HOST_DATA, HOST_DATA16 };
    host_context.cs = code[c->mode];
    host_context.data_selector = data[c->mode];
    host_context.ss = c->mode == MODE_16 ? HOST_DATA16 : HOST_DATA;
    host_context.fs_base = c->fs_base;
    host_context.gs_base = c->gs_base;
    memcpy(&host_context.fx, &c->before.fx, sizeof(host_context.fx));

    host_outcome = out;
    unsigned mxcsr;
    asm volatile("stmxcsr %0" : "=m"(mxcsr));
    host_inside = 1;
    host_enter(&host_context);
    asm volatile("ldmxcsr %0" : : "m"(mxcsr));
    out->data = host_data;
    if (out->vector == 3 || out->vector == 4)
        out->after.rip = start_of_trap(c, out->after.rip);
    return true;
}

static bool host_again_run(const struct test_case *c, struct outcome *out)
{
    memcpy(host_saved_data, host_data, CASE_DATA_SIZE);     // the first run's outcome points to it
    bool ok = host_run(c, out);
    static uint8_t mine[CASE_DATA_SIZE];
    memcpy(mine, host_data, CASE_DATA_SIZE);
    memcpy(host_data, host_saved_data, CASE_DATA_SIZE);
    out->data = mine;
    return ok;
}

static void host_close(void)
{
}

const struct machine host_machine = { "host", host_open, host_run, host_close };
const struct machine host_again_machine = { "host again", host_open, host_again_run, host_close };
