; #DB and #BP that exit: INT3, INT1, single steps, breakpoints of the debug registers.
        org     0x8000
%include "check.inc"
%include "long.inc"

main:   mov     qword [resume], .one
        int3
.one:   mov     qword [resume], .two
        db      0xf1
.two:   mov     qword [resume], .three
        int     3
.three:
; A single step: over a NOP, a load, a branch, a port access
        pushfq
        or      qword [rsp], 0x100
        mov     qword [resume], .four
        popfq
        nop
        nop
.four:  pushfq
        or      qword [rsp], 0x100
        mov     qword [resume], .five
        popfq
        jmp     .over
        nop
.over:  nop
.five:
; An instruction breakpoint, and one on data
        mov     rax, .watched
        mov     dr0, rax
        mov     eax, 0x402
        mov     dr7, rax
        mov     qword [resume], .six
.watched:
        nop
.six:   xor     eax, eax
        mov     dr7, rax
        mov     eax, 0x100000
        mov     dr1, rax
        mov     eax, 0xd0408                        ; DR1: writes of 4 bytes
        mov     dr7, rax
        mov     qword [resume], .seven
        mov     dword [0x100000], 5
        nop
.seven: xor     eax, eax
        mov     dr7, rax
        mov     rax, dr6
        out     0x10, eax
        mov     eax, 0xffff0ff0
        mov     dr6, rax
        finish
