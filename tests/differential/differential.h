// What the parts of the differential test share: a case, its outcome, and the two machines that run it.
//
// A case is a short sequence of user-mode instructions with the whole state of the processor before it. It
// ends with an exception: the INT3 that fills the rest of the code, or a fault. Both machines see the same
// addresses:
//
//   CASE_CODE  two pages, readable and executable, filled with INT3
//   CASE_DATA  two pages readable and writable, one page read-only, none executable
//
// and nothing on the pages around them. The host runs a case as a part of this process; the guest of the
// engine runs it at CPL 3 of a partition without an operating system.
#ifndef DIFFERENTIAL_H
#define DIFFERENTIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <Zydis/Zydis.h>

#define CASE_PAGE 0x1000u
#define CASE_CODE 0x10000000u
#define CASE_CODE_SIZE 0x2000u
#define CASE_DATA 0x20000000u
#define CASE_DATA_WRITABLE 0x2000u
#define CASE_DATA_SIZE 0x3000u
#define CASE_LANDING (CASE_CODE + 0x800u)   // an INT3 that branches may aim at

#define CASE_INSTRUCTIONS 6
#define CASE_BYTES 96
#define CASE_POKES 8
#define CASE_IGNORED 8

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

enum {
    FLAG_CF = 0x1,
    FLAG_PF = 0x4,
    FLAG_AF = 0x10,
    FLAG_ZF = 0x40,
    FLAG_SF = 0x80,
    FLAG_TF = 0x100,
    FLAG_IF = 0x200,
    FLAG_DF = 0x400,
    FLAG_OF = 0x800,
    FLAG_NT = 0x4000,
    FLAG_RF = 0x10000,
    FLAG_AC = 0x40000,
    FLAG_ID = 0x200000
};

// The image that FXSAVE64 writes (SDM vol. 1, 10.5.1). Register i is ST(i).
struct fx_image {
    uint16_t fcw, fsw;
    uint8_t ftw, reserved;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t xmm[16][16];
    uint8_t rest[96];
} __attribute__((aligned(16)));
_Static_assert(sizeof(struct fx_image) == 512, "the image of FXSAVE has 512 bytes");

struct machine_state {
    uint64_t gpr[16];
    uint64_t rip, rflags;
    struct fx_image fx;
};

// In 16-bit mode the segments have bases, CASE_CODE and CASE_DATA, and limits one page behind what is mapped.
enum case_mode { MODE_64, MODE_32, MODE_16 };
#define CASE_CODE_LIMIT (CASE_CODE_SIZE + CASE_PAGE - 1)
#define CASE_DATA_LIMIT (CASE_DATA_SIZE + CASE_PAGE - 1)

struct poke {                   // bytes written to the data before the case runs
    uint32_t offset, size;
    uint8_t bytes[16];
};

struct range { uint32_t offset, size; };

struct instruction {
    uint8_t offset, length;     // in the case's bytes
    uint16_t mnemonic;
    uint32_t
        undefined_flags; // RFLAGS and FSW bits that are undefined after this instruction and all before it
    uint16_t undefined_fsw;
};

struct test_case {
    uint64_t number;
    enum case_mode mode;
    const char *family;
    uint8_t bytes[CASE_BYTES];
    uint32_t size;
    uint32_t code_offset;       // of the first byte, from CASE_CODE
    struct instruction instructions[CASE_INSTRUCTIONS];
    uint32_t instruction_count;
    struct machine_state before;
    uint64_t fs_base, gs_base;
    struct poke pokes[CASE_POKES];
    uint32_t poke_count;
    struct range ignored[CASE_IGNORED];     // parts of the data that hold what processors save differently
    uint32_t ignored_count;
};

#define OUTCOME_NOT_AN_EXCEPTION 0x1000u    // plus WHV_RUN_VP_EXIT_REASON

struct outcome {
    struct machine_state after;
    uint32_t vector;            // of the exception that ended the case
    uint32_t error_code;
    uint64_t address;           // of a page fault
    const uint8_t *data;        // CASE_DATA_SIZE bytes, valid until the machine runs again
};

// Each machine keeps the code and data of its last case and puts them back before the next.
struct machine {
    const char *name;
    bool (*open)(const uint8_t *data_template);
    bool (*run)(const struct test_case *c, struct outcome *out);
    void (*close)(void);
};

extern const struct machine host_machine;
extern const struct machine host_again_machine;     // the host with data of its own: the test's test
extern const struct machine guest_machine;

// What the host would need to run cases, in words; NULL when nothing is missing.
const char *host_lacks(void);
// The host's processor is of the maker whose processor the soft engine is.
bool host_is_amd(void);

// ---- random.c: numbers, and values that find mistakes

struct random { uint64_t state; };

uint64_t random_next(struct random *r);
// 0 <= result < bound
uint32_t random_below(struct random *r, uint32_t bound);
bool random_percent(struct random *r, uint32_t percent);
uint64_t random_integer(struct random *r);
// 16 bytes: integers or floating-point values, single or double
void random_vector(struct random *r, uint8_t out[16]);
// 10 bytes: an x87 register, unsupported encodings included
void random_extended(struct random *r, uint8_t out[10]);

// ---- families.c: which encodings belong to a family

enum { PREFIX_NONE = 1, PREFIX_66 = 2, PREFIX_F3 = 4, PREFIX_F2 = 8, PREFIX_ANY = 16 };
enum { MAP_ONE, MAP_0F, MAP_0F38, MAP_0F3A };

struct encodings {              // a range of opcodes
    uint8_t prefixes;           // which mandatory prefixes; PREFIX_ANY: whatever integer instructions take
    uint8_t map;
    uint8_t first, last;
    uint8_t digits;             // ModRM.reg: a bit for each value
};

struct family {
    const char *name;
    uint32_t weight;
    const struct encodings *encodings;
    size_t count;               // 0: any bytes
};

extern const struct family families[];
extern const size_t family_count;

// ---- accept.c: which instructions can be compared

// Restricts the instruction sets to those that the guest announces in CPUID: `cpuid` gives leaf 1 (ECX, EDX)
// and leaf 0x80000001 (ECX, EDX).
void accept_configure(const uint32_t cpuid[4]);
bool accept_instruction(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *operands);
// Whether an instruction, if it faults or in any case, is one in which makers of processors are known to differ.
bool accept_makers_own(ZydisMnemonic mnemonic, bool fault);

// ---- generate.c

extern const struct case_mode_facts {
    int bits;
    ZydisMachineMode machine;
    ZydisStackWidth stack;
} case_modes[3];

struct generate_options {
    uint64_t seed;
    const struct family *family;    // NULL: by weight
    int mode;                       // -1: all
    bool single;                    // one instruction per case
    bool alignment;                 // RFLAGS.AC may be set
};

void generate_case(const struct generate_options *options, uint64_t number, struct test_case *c);

// ---- compare.c

// True when both outcomes are the same in everything that is defined.
bool compare_outcomes(const struct test_case *c, const struct outcome *a, const struct outcome *b);
void compare_print(const struct test_case *c, const char *a_name, const struct outcome *a, const char *b_name,
                   const struct outcome *b);
void compare_disassemble(const struct test_case *c);

#endif
