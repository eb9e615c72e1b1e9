; When an interrupt may come: the shadow after STI, MOV SS and POP SS, HLT, and what holds an NMI back
; (SDM vol. 3A 6.7, 6.8). The local APIC sends the interrupts: self IPIs in x2APIC mode.
        org     0x8000
%include "check.inc"
%include "long.inc"

%define VECTOR 0x50

%macro self_ipi 0
        mov     ecx, 0x83f
        mov     eax, VECTOR
        xor     edx, edx
        wrmsr
%endmacro

main:   mov     qword [interrupt_handler], .on_interrupt
        mov     ecx, 0x1b
        rdmsr
        or      eax, 0xc00                          ; enabled, x2APIC
        wrmsr
        mov     ecx, 0x80f
        mov     eax, 0x1ff                          ; software enabled
        xor     edx, edx
        wrmsr

; With IF clear it waits
        self_ipi
        nop
        check   [.count], 0
; STI: one more instruction runs before the interrupt
        sti
        nop
.after_sti:
        nop
        check   [.count], 1
        check   [.rip], .after_sti
        cli
; STI; CLI lets nothing through
        self_ipi
        sti
        cli
        nop
        check   [.count], 1
; MOV SS: a single step trap does not come between it and the next instruction
        mov     eax, DATA
        mov     qword [resume], .after_step
        pushfq
        or      qword [rsp], 0x100
        popfq
        mov     ss, eax
        nop
.stepped:
        nop
.after_step:
        check   [trap_vector], 1
        check   [trap_rip], .stepped
        sti                                         ; the one that still waits
        nop
        nop
        check   [.count], 2
; STI; HLT: the interrupt wakes the processor, RIP is behind HLT
        cli
        self_ipi
        sti
        hlt
.after_hlt:
        check   [.count], 3
        check   [.rip], .after_hlt
; TPR holds back its own class and lower ones (SDM vol. 3A 11.8.3)
        mov     eax, VECTOR >> 4
        mov     cr8, rax
        self_ipi
        nop
        check   [.count], 3
        mov     eax, (VECTOR >> 4) - 1
        mov     cr8, rax
        nop
        check   [.count], 4
        mov     eax, 0x10
        traps   13, 0, mov cr8, rax
        xor     eax, eax
        mov     cr8, rax

; An NMI comes whatever IF says; a second one waits for IRET
        cli
        mov     rax, .on_nmi
        mov     [idt + 2 * 16], ax
        shr     rax, 16
        mov     [idt + 2 * 16 + 6], ax
        mov     ecx, 0x830                          ; ICR: NMI to itself by its identifier, 0
        mov     eax, 0x400
        xor     edx, edx
        wrmsr
        nop
        nop
        check   [.nmis], 2
        check   [.nested], 0
        finish
.count: dq 0
.nmis:  dq 0
.depth: dq 0
.nested: dq 0
.on_nmi:
        push    rax
        push    rcx
        push    rdx
        inc     qword [.nmis]
        mov     rax, [.depth]
        add     [.nested], rax
        inc     qword [.depth]
        cmp     qword [.nmis], 1
        jne     .nmi_done
        mov     ecx, 0x830                          ; one more: it is held back while this one is handled
        mov     eax, 0x400
        xor     edx, edx
        wrmsr
        nop
        nop
        check   [.nmis], 1
.nmi_done:
        dec     qword [.depth]
        pop     rdx
        pop     rcx
        pop     rax
        iretq
.rip:   dq 0
.on_interrupt:
        inc     qword [.count]
        mov     rax, [trap_rip]
        mov     [.rip], rax
        push    rcx
        push    rdx
        mov     ecx, 0x80b                          ; EOI
        xor     eax, eax
        xor     edx, edx
        wrmsr
        pop     rdx
        pop     rcx
        ret
