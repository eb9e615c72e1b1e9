; Events on their way to the guest's handlers that meet memory which is not there, or is a ROM.
        org     0x8000
%include "check.inc"
%include "long.inc"

%define DEVICE 0x10000000
%define ROM 0x10100000

; Without a handler for #DF, since a kernel that interprets the guest takes missing memory for a fault of its own.
main:   mov     byte [idt + 8 * 16 + 5], 0
        mov     qword [resume], .one
        mov     rbp, rsp
        mov     esp, DEVICE + 0x800
        ud2
.one:   mov     rsp, rbp
        out     0xe7, al
        mov     qword [resume], .two
        mov     esp, ROM + 0x800
        ud2
.two:   mov     rsp, STACK_TOP
        out     0xe7, al
; An interrupt from the client, to a stack that is not there
        mov     qword [interrupt_handler], .interrupted
        mov     esp, DEVICE + 0x800
        sti
        mov     al, 0x50
        out     0xe1, al
        nop
        cli
        mov     rsp, STACK_TOP
        out     0xe7, al
; The IDT itself
        mov     rax, [idt_pointer]
        lidt    [.nowhere]
        mov     qword [resume], .three
        int     0x50
.three: lidt    [idt_pointer]
        mov     rsp, STACK_TOP
        out     0xe7, al
        finish
.interrupted:
        ret
        align   8
.nowhere:
        dw      0xfff
        dq      DEVICE
