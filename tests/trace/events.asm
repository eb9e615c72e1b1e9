; Events from the client without a local APIC: interrupts, NMIs, exceptions, windows, and halts.
        org     0x8000
%include "check.inc"
%include "long.inc"

main:   mov     qword [interrupt_handler], .on_interrupt
; An interrupt while IF is set, and again
        sti
        nop
        mov     al, 0x50
        out     0xe1, al
        nop
        mov     al, 0x51
        out     0xe1, al
        nop
; An exception with an error code
        mov     qword [resume], .after_gp
        mov     al, 13
        out     0xe3, al
        nop
.after_gp:
        mov     rax, [trap_error]
        out     0x10, eax
; Windows: open at once, behind STI, behind its shadow, behind POPF, behind MOV SS, behind IRET
        xor     eax, eax
        out     0xe0, al
        nop
        nop
        cli
        xor     eax, eax
        out     0xe0, al
        nop
        sti
        nop
        nop
        cli
        xor     eax, eax
        out     0xe0, al
        sti
        cli
        nop
        pushfq
        or      qword [rsp], 0x200
        popfq
        nop
        cli
        xor     eax, eax
        out     0xe0, al
        mov     eax, DATA
        sti
        mov     ss, eax
        nop
        nop
        cli
; Halts: with IF clear it just goes on, with IF set an interrupt comes
        hlt
        sti
        hlt
        hlt
        cli
; The state of an interrupt shadow at an exit
        sti
        out     0x10, al
        mov     ss, [.data]
        out     0x11, al
        cli
; An NMI, and what a second one does during the first
        mov     rax, .on_nmi
        mov     [idt + 2 * 16], ax
        shr     rax, 16
        mov     [idt + 2 * 16 + 6], ax
        out     0xe2, al
        nop
        mov     eax, [.nmis]
        out     0x12, eax
; CR8 in the context
        mov     eax, 5
        mov     cr8, rax
        out     0x13, al
        xor     eax, eax
        mov     cr8, rax
; A window that IRET opens
        xor     eax, eax
        out     0xe0, al
        mov     rcx, rsp
        push    DATA
        push    rcx
        push    0x202
        push    CODE64
        mov     rax, .returned
        push    rax
        iretq
.returned:
        nop
        cli
        finish
.on_nmi:
        inc     dword [.nmis]
        out     0x14, al
        iretq
.on_interrupt:
        mov     rax, [trap_vector]
        out     0x15, al
        mov     rax, [trap_rip]
        out     0x16, eax
        ret
        align   8
.nmis:  dq      0
.data:  dw      DATA
