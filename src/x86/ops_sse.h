// What the SSE and MMX instruction files share: availability checks, operand access, the host's MXCSR,
// emitters.
//
// How floating-point instructions run. The host executes the guest's instruction itself, so results, NaNs
// and flags are a processor's own. What stands between the two is MXCSR. SSE_RUN executes the operation
// under the host's MXCSR as it stands and looks at MXCSR once afterwards. If its control bits are the
// guest's and it shows no flag that the guest's MXCSR does not show already, nothing is left to do: that is
// the normal case, one STMXCSR and one test. (A flag that was there before the operation does no harm when
// the guest has it too.) Otherwise the operation is done again between two LDMXCSR: the guest's control bits
// with all exceptions masked and no flags; then x86_sse_finish merges the flags, raises #XM for unmasked
// ones before anything changed, and loads the host's control bits with the guest's flags, so that the next
// operation takes the short way again. The run loop keeps the host's exceptions masked (x86_fpu_host_enter).
// Results go to a temporary, thus running twice is harmless.
#ifndef BULKHEAD_X86_OPS_SSE_H
#define BULKHEAD_X86_OPS_SSE_H

#include <emmintrin.h>
#include <string.h>

#include "x86/cpu.h"
#include "x86/decode.h"
#include "x86/fpu.h"

// Every emitter of the two tables, declared where it is defined too.
#define X86_ROW(mnemonic, emitter, parameter, feature) bool emitter(struct x86_emit *e, unsigned parameter_);
#include "x86/ops_sse.def"
#undef X86_ROW
// Called by the emitters of the string instructions that share these mnemonics.
bool x86_emit_sse_movsd(struct x86_emit *e, unsigned parameter);
bool x86_emit_sse_cmpsd(struct x86_emit *e, unsigned parameter);

// ---- Availability (SDM vol. 3A 13.1, table 13-1; 12.1) ------------------------------------------

const struct insn *x86_sse_unavailable(struct x86_cpu *cpu, const struct insn *i);
const struct insn *x86_mmx_unavailable(struct x86_cpu *cpu, const struct insn *i);

#define SSE_ENTER                                                                                    \
    if (X86_UNLIKELY((cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)) || !(cpu->cr4 & X86_CR4_OSFXSR)))        \
        return x86_sse_unavailable(cpu, i)
#define MMX_ENTER                                                                                    \
    if (X86_UNLIKELY((cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)) || (cpu->fpu.fsw & X87_ES)))             \
        return x86_mmx_unavailable(cpu, i)

// ---- Operands -----------------------------------------------------------------------------------

#define XMM(n) (*(__m128i *)&cpu->vec[n])    // the low 128 bits: the vector's upper half stays as it is

typedef uint64_t __attribute__((may_alias)) mmx_word;
typedef uint16_t __attribute__((may_alias)) mmx_half;

static inline uint64_t mmx_get(const struct x86_cpu *cpu, unsigned n)
{
    return *(const mmx_word *)&cpu->fpu.st[n];
}

// A write sets the exponent and sign to ones (SDM vol. 3A 12.2).
static inline void mmx_set(struct x86_cpu *cpu, unsigned n, uint64_t value)
{
    *(mmx_word *)&cpu->fpu.st[n] = value;
    ((mmx_half *)&cpu->fpu.st[n])[4] = 0xffff;
}

// Every MMX instruction but EMMS: TOP is 0 and all registers are valid.
static inline void mmx_touch(struct x86_cpu *cpu)
{
    cpu->fpu.fsw &= (uint16_t)~X87_TOP;
    cpu->fpu.ftw = 0xff;
}

static inline __m128i sse_word(uint64_t value) { return _mm_cvtsi64_si128((long long)value); }
static inline uint64_t sse_low(__m128i value) { return (uint64_t)_mm_cvtsi128_si64(value); }

#define ALIGNED(lin)                                                                                 \
    if (X86_UNLIKELY((lin) & 15))                                                                    \
        return x86_raise(cpu, i, X86_GP, 0)
#define LOAD128(var, lin)                                                                            \
    const void *var##_pointer = x86_read_pointer(cpu, lin, 16);                                      \
    if (X86_UNLIKELY(!var##_pointer))                                                                \
        return x86_leave_fault(cpu, i);                                                              \
    __m128i var = _mm_loadu_si128((const __m128i *)var##_pointer)
#define STORE128(lin, value)                                                                         \
    do {                                                                                             \
        void *pointer_ = x86_write_pointer(cpu, lin, 16, X86_WRITE);                                 \
        if (X86_UNLIKELY(!pointer_))                                                                 \
            return x86_leave_fault(cpu, i);                                                          \
        _mm_storeu_si128((__m128i *)pointer_, value);                                                \
        x86_commit(cpu);                                                                             \
    } while (0)

// Source operands by form; each defines the __m128i `b`.
#define SSE_SOURCE_X __m128i b = XMM(i->src)
#define SSE_SOURCE_M128 ADDRESS(lin, 16, X86_READ); ALIGNED(lin); LOAD128(b, lin)
#define SSE_SOURCE_M128U ADDRESS(lin, 16, X86_READ); LOAD128(b, lin)
#define SSE_SOURCE_M64 ADDRESS(lin, 8, X86_READ); LOAD(uint64_t, b_, lin); __m128i b = sse_word(b_)
#define SSE_SOURCE_M32 ADDRESS(lin, 4, X86_READ); LOAD(uint32_t, b_, lin); __m128i b = sse_word(b_)
#define SSE_SOURCE_MMX __m128i b = sse_word(mmx_get(cpu, i->src))
#define SSE_SOURCE_R32 __m128i b = sse_word(R32(i->src))
#define SSE_SOURCE_R64 __m128i b = sse_word(R64(i->src))

#define HANDLER(name) static const struct insn *name(struct x86_cpu *cpu, const struct insn *i)

// dst = dst op source, on whole registers, without exceptions.
#define SSE_BINARY_FORM(name, source, op)                                                            \
    HANDLER(name)                                                                                    \
    {                                                                                                \
        SSE_ENTER;                                                                                   \
        source;                                                                                      \
        __m128i a = XMM(i->dst);                                                                     \
        asm(op " %1, %0" : "+x"(a) : "x"(b));                                                        \
        XMM(i->dst) = a;                                                                             \
        NEXT(cpu, i);                                                                                \
    }

// ---- The host's MXCSR ---------------------------------------------------------------------------

static inline uint32_t sse_host_mxcsr(void)
{
    uint32_t value;
    asm volatile("stmxcsr %0" : "=m"(value));
    return value;
}

static inline void sse_set_host_mxcsr(uint32_t value)
{
    asm volatile("ldmxcsr %0" : : "m"(value));
}

// What kind of numbers a result holds, for the underflow of exact results (see x86_sse_finish).
enum sse_kind { SSE_NO_UNDERFLOW, SSE_SINGLE, SSE_DOUBLE, SSE_PACKED_SINGLE, SSE_PACKED_DOUBLE };

void x86_sse_begin(const struct x86_cpu *cpu);
// False: the exception is recorded.
bool x86_sse_finish(struct x86_cpu *cpu, uint32_t host, __m128i result, enum sse_kind kind);

// `run` computes into temporaries with volatile asm statements; `result` and `kind` describe what it
// computes.
#define SSE_RUN(run, result, kind)                                                                   \
    do {                                                                                             \
        run;                                                                                         \
        uint32_t host_ = sse_host_mxcsr();                                                           \
        if (X86_UNLIKELY((host_ ^ cpu->mxcsr) & (host_ | (uint32_t)~X86_MXCSR_FLAGS))) {             \
            x86_sse_begin(cpu);                                                                      \
            run;                                                                                     \
            if (X86_UNLIKELY(!x86_sse_finish(cpu, host_, result, kind)))                             \
                return x86_leave_fault(cpu, i);                                                      \
        }                                                                                            \
    } while (0)

// ---- Emitters -----------------------------------------------------------------------------------

// Registers to dst and src (of general registers the byte offset, of others the index), memory, immediate to
// imm; the handler by form: operands register-register, register-memory, memory-register. NULL: no such
// form.
bool x86_sse_emit(struct x86_emit *e, insn_fn registers, insn_fn load, insn_fn store);
bool x86_sse_is(const struct x86_emit *e, unsigned operand, ZydisRegisterClass class);

// The forms of MOVD and MOVQ without an MMX register.
bool x86_sse_emit_movd(struct x86_emit *e);
bool x86_sse_emit_movq(struct x86_emit *e);

#define SSE_EMITTER(name)                                                                            \
    bool x86_emit_##name(struct x86_emit *e, unsigned parameter)                                     \
    {                                                                                                \
        (void)parameter;                                                                             \
        return x86_sse_emit(e, name##_x, name##_m, NULL);                                            \
    }

#endif
