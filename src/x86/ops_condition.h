// The sixteen conditions of Jcc, SETcc and CMOVcc over cpu->oszapc.
#ifndef BULKHEAD_X86_OPS_CONDITION_H
#define BULKHEAD_X86_OPS_CONDITION_H

#include "x86/cpu.h"

// SF differs from OF: SF is bit 15, OF bit 0.
#define X86_LESS(f) ((((f) >> 15) ^ (f)) & 1)

#define X86_CONDITION_o(f) ((f) & X86_HOST_OF)
#define X86_CONDITION_no(f) (!((f) & X86_HOST_OF))
#define X86_CONDITION_b(f) ((f) & X86_HOST_CF)
#define X86_CONDITION_nb(f) (!((f) & X86_HOST_CF))
#define X86_CONDITION_z(f) ((f) & X86_HOST_ZF)
#define X86_CONDITION_nz(f) (!((f) & X86_HOST_ZF))
#define X86_CONDITION_be(f) ((f) & (X86_HOST_CF | X86_HOST_ZF))
#define X86_CONDITION_nbe(f) (!((f) & (X86_HOST_CF | X86_HOST_ZF)))
#define X86_CONDITION_s(f) ((f) & X86_HOST_SF)
#define X86_CONDITION_ns(f) (!((f) & X86_HOST_SF))
#define X86_CONDITION_p(f) ((f) & X86_HOST_PF)
#define X86_CONDITION_np(f) (!((f) & X86_HOST_PF))
#define X86_CONDITION_l(f) X86_LESS(f)
#define X86_CONDITION_nl(f) (!X86_LESS(f))
#define X86_CONDITION_le(f) (X86_LESS(f) | ((f) & X86_HOST_ZF))
#define X86_CONDITION_nle(f) (!(X86_LESS(f) | ((f) & X86_HOST_ZF)))

// In encoding order.
#define X86_FOR_CONDITIONS(X) \
    X(o) X(no) X(b) X(nb) X(z) X(nz) X(be) X(nbe) X(s) X(ns) X(p) X(np) X(l) X(nl) X(le) X(nle)

#endif
