; Exceptions of x87 and SSE in 64-bit mode: #NM, #MF, #XM, and #UD where CR4 does not allow SSE (SDM vol. 3A 6.15).
        org     0x8000
%include "check.inc"
%include "long.inc"

main:
; #NM: CR0.TS with x87 and SSE; CR0.EM makes SSE #UD
        mov     rax, cr0
        or      rax, 8
        mov     cr0, rax
        traps   7, 0, fld1
        traps   7, 0, movaps xmm0, xmm1
        clts
        passes  movaps xmm0, xmm1
        mov     rax, cr4
        and     rax, ~0x200
        mov     cr4, rax
        traps   6, 0, movaps xmm0, xmm1             ; CR4.OSFXSR clear
        or      rax, 0x200
        mov     cr4, rax

; #GP(0): a misaligned MOVAPS
        mov     ebx, 0x100001
        traps   13, 0, movaps xmm0, [rbx]

; #MF comes at the instruction after the one that failed; #XM at once
        fninit
        fldcw   [.unmasked]
        fldz
        fld1
        fdiv    st1                                 ; 1 / 0: pending
        traps   16, 0, fwait
        fninit
        sub     rsp, 8
        mov     dword [rsp], 0x1d80                 ; division by zero unmasked
        ldmxcsr [rsp]
        mov     dword [rsp], 0x3f800000
        movss   xmm0, [rsp]
        xorps   xmm1, xmm1
        traps   19, 0, divss xmm0, xmm1
        mov     rax, cr4
        and     rax, ~0x400
        mov     cr4, rax
        traps   6, 0, divss xmm0, xmm1              ; CR4.OSXMMEXCPT clear: #UD instead
        or      rax, 0x400
        mov     cr4, rax
        mov     dword [rsp], 0x1f80
        ldmxcsr [rsp]
        add     rsp, 8
        finish
.unmasked:  dw 0x037b                               ; x87: division by zero unmasked
