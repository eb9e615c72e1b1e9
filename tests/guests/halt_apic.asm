; HLT with a local APIC: no exit; interrupts come from the runner (hosts.c). EOI exits for level-triggered
; ones only.
        org     0x8000
%include "check.inc"
%include "long.inc"

%define APIC 0xfee00000

main:   mov     qword [interrupt_handler], .on_interrupt
        mov     ebx, APIC + 0xf0
        mov     dword [rbx], 0x1ff
        out     PORT_HOST, al                       ; the runner requests 0x51
        sti
        hlt
        cli
        check   [trap_count], 1
        check   [trap_vector], 0x51
        check   [.level], 0
        out     PORT_HOST, al                       ; and 0x52, level-triggered
        sti
        hlt
        cli
        check   [trap_count], 2
        check   [trap_vector], 0x52
        check   [.level], 1 << 0x12
        finish
.level: dq 0
.on_interrupt:
        mov     ecx, APIC + 0x1a0                   ; TMR, vectors 0x40 to 0x5f
        mov     ecx, [rcx]
        mov     [.level], rcx
        mov     ecx, APIC + 0xb0
        mov     dword [rcx], 0
        ret
