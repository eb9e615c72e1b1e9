; Code where no memory is: jumps, calls and returns to there, and instructions whose second half is there. R15 has the
; way on for a client that does not map anything.
        org     0x8000
%include "check.inc"
%include "long.inc"

%define DEVICE 0x10000000
%define HOLE 0xc0000

%macro leads_nowhere 1+
        lea     r15, [%%on]
        %1
%%on:   out     0xe7, al
%endmacro

; With the memory mapped, the bytes there are the client's: 00 07 (ADD [RDI], AL) and so on, up to a fault.
main:   mov     ebx, DEVICE
        mov     edi, 0x100000
        mov     qword [resume], .first
        lea     r15, [.first]
        jmp     rbx
.first: out     0xe7, al
        mov     qword [resume], .second
        lea     r15, [.second]
        call    rbx
.second:
        out     0xe7, al
        mov     rsp, STACK_TOP
        push    rbx
        mov     qword [resume], .third
        lea     r15, [.third]
        ret
.third: out     0xe7, al
        mov     rsp, STACK_TOP
; MOV EAX, imm32 whose immediate is missing
        mov     byte [HOLE - 2], 0xb8
        mov     byte [HOLE - 1], 0x11
        mov     qword [resume], .fourth
        lea     r15, [.fourth]
        mov     eax, HOLE - 2
        jmp     rax
.fourth:
        out     0xe7, al
        mov     rsp, STACK_TOP
; OUT 0x10, AL over the edge
        mov     byte [HOLE - 1], 0xe6
        mov     qword [resume], .fifth
        lea     r15, [.fifth]
        mov     eax, HOLE - 1
        jmp     rax
.fifth: out     0xe7, al
        mov     rsp, STACK_TOP
; Memory's last instruction is whole, the next one is not there
        mov     byte [HOLE - 1], 0x90
        mov     qword [resume], .sixth
        lea     r15, [.sixth]
        mov     eax, HOLE - 1
        jmp     rax
.sixth: out     0xe7, al
; A load whose bytes end where memory does
        mov     rsp, STACK_TOP
        mov     word [HOLE - 2], 0x038b             ; mov eax, [rbx]
        mov     qword [resume], .end
        lea     r15, [.end]
        mov     eax, HOLE - 2
        jmp     rax
.end:   out     0xe7, al
        finish
