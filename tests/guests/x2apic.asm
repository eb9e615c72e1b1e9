; The local APIC as MSRs (x2APIC): which exist, what they refuse, and that the page is gone (SDM vol. 3A
; 11.12).
        org     0x8000
%include "check.inc"
%include "long.inc"

%macro read 1
        mov     ecx, %1
        rdmsr
%endmacro
%macro write 2
        mov     ecx, %1
        mov     rax, %2
        mov     rdx, rax
        shr     rdx, 32
        wrmsr
%endmacro

main:   mov     qword [interrupt_handler], on_interrupt
        mov     eax, 1
        cpuid
        bt      ecx, 21
        setc    al
        movzx   eax, al
        check   rax, 1
; Before the mode is on, the MSRs do not exist
        mov     ecx, 0x802
        traps   13, 0, rdmsr
        read    0x1b
        or      eax, 0xc00
        wrmsr
        read    0x802
        check   rax, 0                              ; the identifier, all 32 bits of it
        read    0x80d
        check   rax, 1                              ; logical: cluster 0, bit 0
        traps   13, 0, wrmsr                        ; LDR and ID are read-only
        mov     ecx, 0x80e
        traps   13, 0, rdmsr                        ; no DFR
        mov     ecx, 0x831
        traps   13, 0, rdmsr                        ; no second half of ICR
        mov     ecx, 0x83f
        traps   13, 0, rdmsr                        ; SELF IPI is write-only
        mov     ecx, 0x80b
        traps   13, 0, rdmsr                        ; so is EOI
        mov     eax, 1
        xor     edx, edx
        traps   13, 0, wrmsr                        ; which takes 0 only
        mov     ecx, 0x808
        mov     eax, 0x100
        traps   13, 0, wrmsr                        ; reserved bits
        write   0x80f, 0x1ff
        write   0x808, 0x20
        mov     rax, cr8
        check   rax, 2
        write   0x808, 0
; Self IPI, and ICR as one write of 64 bits to the identifier 0
        sti
        write   0x83f, 0x51
        nop
        check   [count], 1
        check   [trap_vector], 0x51
        write   0x830, 0x52
        nop
        check   [count], 2
        check   [trap_vector], 0x52
        write   0x830, (1 << 32) + 0x800 + 0x53     ; logical
        nop
        check   [count], 3
        cli
; From x2APIC mode there is no way straight back to xAPIC mode
        read    0x1b
        and     eax, ~0x400
        traps   13, 0, wrmsr
        finish

count:  dq 0
on_interrupt:
        push    rcx
        push    rdx
        inc     qword [count]
        write   0x80b, 0
        pop     rdx
        pop     rcx
        ret
