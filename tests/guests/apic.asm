; The local APIC through its page (xAPIC): self IPIs, priorities, the timer in its modes, EOI, spurious
; vector, error status, and the TSC-deadline mode (SDM vol. 3A, chapter 11).
        org     0x8000
%include "check.inc"
%include "long.inc"

%define APIC 0xfee00000
%define ID APIC + 0x20
%define VERSION APIC + 0x30
%define TPR APIC + 0x80
%define PPR APIC + 0xa0
%define EOI APIC + 0xb0
%define LDR APIC + 0xd0
%define DFR APIC + 0xe0
%define SVR APIC + 0xf0
%define ISR APIC + 0x100
%define TMR APIC + 0x180
%define IRR APIC + 0x200
%define ESR APIC + 0x280
%define ICR APIC + 0x300
%define ICR_HIGH APIC + 0x310
%define LVT_TIMER APIC + 0x320
%define LVT_LINT0 APIC + 0x350
%define INITIAL APIC + 0x380
%define CURRENT APIC + 0x390
%define DIVIDE APIC + 0x3e0

%macro check32 2.nolist
        mov     r15d, %1
        check   r15, %2
%endmacro
; A write to the APIC through a register of 64-bit mode: its addresses do not fit a signed displacement
%macro set 2
        mov     r14d, %1
        mov     dword [r14], %2
%endmacro
%macro get 2
        mov     r14d, %2
        mov     %1, [r14]
%endmacro
%macro check_apic 2.nolist
        mov     r14d, %1
        mov     r15d, [r14]
        check   r15, %2
%endmacro

main:   mov     qword [interrupt_handler], on_interrupt
        mov     ecx, 0x1b
        rdmsr
        and     eax, 0xfffffd00
        check   rax, 0xfee00900                     ; enabled, the bootstrap processor
        check_apic ID, 0
        check_apic VERSION, 0x50014
        check_apic SVR, 0xff
        check_apic DFR, 0xffffffff
        check_apic LVT_TIMER, 0x10000
        check_apic LVT_LINT0, 0x10000
        set     SVR, 0x1ff

; A self IPI by shorthand: in IRR while IF is clear, in ISR while it is handled
        set     ICR, 0x40000 + 0x61
        check_apic IRR + 0x30, 1 << 1
        sti
        nop
        nop
        cli
        check   [count], 1
        check   [trap_vector], 0x61
        check   [in_service], 1 << 1
        check_apic IRR + 0x30, 0
        check_apic ISR + 0x30, 0
; By physical destination, and by logical destination in the flat model
        set     ICR_HIGH, 0
        set     ICR, 0x62
        set     LDR, 0x01000000
        set     ICR_HIGH, 0x01000000
        set     ICR, 0x800 + 0x63
        check_apic IRR + 0x30, 0xc
        sti
        nop
        nop
        nop
        cli
        check   [count], 3
        check   [trap_vector], 0x62                 ; the higher one came first
        set     ICR_HIGH, 0x02000000                ; nobody
        set     ICR, 0x800 + 0x64
        check_apic IRR + 0x30, 0
; TPR and PPR
        set     TPR, 0x60
        check_apic PPR, 0x60
        set     ICR, 0x40000 + 0x65
        sti
        nop
        nop
        check   [count], 3
        set     TPR, 0x50
        mov     ecx, 100                            ; a write to the page may take a while to have its effect
.settle:
        pause
        dec     ecx
        jnz     .settle
        cli
        check   [count], 4
        mov     rax, cr8
        check   rax, 5                              ; CR8 is TPR[7:4]
        xor     eax, eax
        mov     cr8, rax
        check_apic TPR, 0
; A vector below 16 is an error: send illegal vector
        set     ESR, 0
        set     ICR, 0x40000 + 0x05
        set     ESR, 0
        get     eax, ESR
        and     eax, 0x20
        check   rax, 0x20
; A page that is not word-wide: only 32-bit accesses at multiples of 16 are defined, so none here

; The timer, one shot: one interrupt, the count stays 0
        mov     qword [count], 0
        set     DIVIDE, 0xb                         ; by 1
        set     LVT_TIMER, 0x70
        set     INITIAL, 100000
        sti
.wait1: hlt
        cmp     qword [count], 0
        je      .wait1
        check   [trap_vector], 0x70
        check_apic CURRENT, 0
        cli
; Periodic: again and again until the initial count is 0
        mov     qword [count], 0
        set     LVT_TIMER, 0x20000 + 0x71
        set     INITIAL, 50000
        sti
.wait2: hlt
        cmp     qword [count], 5
        jb      .wait2
        cli
        set     INITIAL, 0
        check   [trap_vector], 0x71
        check_apic CURRENT, 0
; Masked: it counts, but does not interrupt
        mov     qword [count], 0
        set     LVT_TIMER, 0x10000 + 0x72
        set     INITIAL, 1000
.wait3: get     eax, CURRENT
        test    eax, eax
        jnz     .wait3
        sti
        nop
        nop
        cli
        check   [count], 0
; The count runs down, and at the divided rate
        set     INITIAL, 0xffffffff
        get     eax, CURRENT
        get     ecx, CURRENT
        cmp     ecx, eax
        seta    al
        movzx   eax, al
        check   rax, 0
        set     INITIAL, 0
; TSC deadline
        mov     eax, 1
        cpuid
        bt      ecx, 24
        jnc     .no_deadline
        mov     qword [count], 0
        set     LVT_TIMER, 0x40000 + 0x73
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        add     rax, 200000
        mov     rdx, rax
        shr     rdx, 32
        mov     ecx, 0x6e0
        wrmsr
        sti
.wait4: hlt
        cmp     qword [count], 0
        je      .wait4
        cli
        check   [trap_vector], 0x73
        mov     ecx, 0x6e0
        rdmsr
        shl     rdx, 32
        or      rax, rdx
        check   rax, 0                              ; it disarms itself
        xor     eax, eax
        xor     edx, edx
        wrmsr
.no_deadline:
; Software disabled: the LVT entries become masked, interrupts are not taken in
        set     LVT_TIMER, 0x74
        set     SVR, 0xff
        get     eax, LVT_TIMER
        and     eax, 0x10000
        check   rax, 0x10000
        set     SVR, 0x1ff
; Disabled by the MSR: the page is an ordinary address, where nothing is mapped; the runner answers
        mov     ecx, 0x1b
        rdmsr
        and     eax, ~0x800
        wrmsr
        mov     r14d, VERSION
        mov     eax, [r14]
        check   rax, 0x1234
        mov     ecx, 0x1b
        rdmsr
        or      eax, 0x800
        wrmsr
        check_apic VERSION, 0x50014
        finish

count:      dq 0
in_service: dq 0
on_interrupt:
        push    r14
        push    rcx
        inc     qword [count]
        get     eax, ISR + 0x30
        mov     [in_service], rax
        set     EOI, 0
        pop     rcx
        pop     r14
        ret
