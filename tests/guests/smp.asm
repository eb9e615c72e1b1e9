; Two processors: INIT and startup IPI, interrupts between them, locked additions that lose nothing, the
; order of stores, and code that one changes for the other (SDM vol. 3A 8.1 to 8.4).
        org     0x8000
%include "check.inc"
%include "long.inc"

%define ICR 0x830
%define ROUNDS 1000000
%define LITMUS 20000
%define AP_PAGE 0x20000
%define COUNTER 0x100000
%define READY 0x100040
%define X 0x100080
%define Y 0x1000c0
%define R1 0x100100
%define R2 0x100140
%define ROUND 0x100180
%define DONE 0x1001c0
%define PATCHED 0x101000

%macro ipi 1
        mov     ecx, ICR
        mov     rax, %1
        mov     rdx, rax
        shr     rdx, 32
        wrmsr
%endmacro

main:   mov     qword [interrupt_handler], on_interrupt
        call    enable_apic
        mov     rsi, ap_start                       ; the startup page: 16-bit code
        mov     rdi, AP_PAGE
        mov     ecx, ap_end - ap_start
        rep     movsb
        ipi     (1 << 32) + 0x4500                  ; INIT
        ipi     (1 << 32) + 0x4600 + AP_PAGE / 0x1000   ; startup
.wait1: pause
        cmp     qword [READY], 1
        jne     .wait1
        ipi     (1 << 32) + 0x4600 + 0x99           ; a running processor ignores it
        check   [READY + 8], 1                      ; its x2APIC identifier
        check   [READY + 16], 1                     ; and that of CPUID

; Locked additions from both
        mov     qword [READY], 2
        call    add_many
.wait2: pause
        cmp     qword [READY], 3
        jne     .wait2
        check   [COUNTER], 2 * ROUNDS
        check   [COUNTER + 8], 2 * ROUNDS

; Store buffers: with MFENCE between store and load, both cannot read 0
        mov     ebx, 1
.litmus:
        mov     qword [X], 0
        mov     qword [Y], 0
        mov     [ROUND], rbx
.both:  cmp     [ROUND + 8], rbx                    ; the other one is there too
        jne     .both
        mov     qword [X], 1
        mfence
        mov     rax, [Y]
        mov     [R1], rax
.read:  cmp     [DONE], rbx
        jne     .read
        mov     rax, [R1]
        or      rax, [R2]
        jnz     .good
        inc     qword [.forbidden]
.good:  inc     ebx
        cmp     ebx, LITMUS
        jbe     .litmus
        check   [.forbidden], 0

; An interrupt to the other one, which answers with one of its own
        sti
        ipi     (1 << 32) + 0x60
.wait3: hlt
        cmp     qword [.answers], 1
        jb      .wait3
        cli
; All excluding self
        mov     qword [.answers], 0
        ipi     0xc0000 + 0x60
        sti
.wait4: hlt
        cmp     qword [.answers], 1
        jb      .wait4
        cli
; Code that this processor changes while the other runs it: the other one serialises (CPUID) after it was told
        mov     dword [PATCHED], 0x000001b8         ; MOV EAX, 1; RET
        mov     word [PATCHED + 4], 0xc300
        mov     qword [READY], 4
.wait5: pause
        cmp     qword [READY], 5
        jne     .wait5
        check   [READY + 24], 1
        mov     byte [PATCHED + 1], 2
        mov     qword [READY], 6
.wait6: pause
        cmp     qword [READY], 7
        jne     .wait6
        check   [READY + 24], 2
        finish
.forbidden: dq 0
.answers:   dq 0

enable_apic:
        mov     ecx, 0x1b
        rdmsr
        or      eax, 0xc00
        wrmsr
        mov     ecx, 0x80f
        mov     eax, 0x1ff
        xor     edx, edx
        wrmsr
        ret

add_many:
        mov     ecx, ROUNDS
        mov     edi, 1
.again: lock inc qword [COUNTER]
        mov     eax, 1
        lock xadd [COUNTER + 8], rax
        dec     ecx
        jnz     .again
        ret

; Processor 0 counts what processor 1 sends back to its 0x60
on_interrupt:
        push    rcx
        push    rdx
        mov     ecx, 0x80b
        xor     eax, eax
        xor     edx, edx
        wrmsr
        mov     ecx, 0x802
        rdmsr
        test    eax, eax
        jz      .first
        ipi     0x61
        jmp     .out
.first: inc     qword [main.answers]
.out:   pop     rdx
        pop     rcx
        ret

; The other processor, in 64-bit mode. Its interrupt handler stores to trap_* as well: only one is in it at
; a time.
ap_main:
        mov     eax, DATA
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     rsp, 0x1a0000
        lidt    [idt_pointer]
        call    enable_apic
        mov     ecx, 0x802
        rdmsr
        mov     [READY + 8], rax
        mov     eax, 1
        cpuid
        shr     ebx, 24
        mov     [READY + 16], rbx
        mov     qword [READY], 1
.wait2: pause
        cmp     qword [READY], 2
        jne     .wait2
        call    add_many
        mov     qword [READY], 3
        mov     ebx, 1
.litmus:
        cmp     [ROUND], rbx
        jne     .litmus
        mov     [ROUND + 8], rbx
        mov     qword [Y], 1
        mfence
        mov     rax, [X]
        mov     [R2], rax
        mov     [DONE], rbx
        inc     ebx
        cmp     ebx, LITMUS
        jbe     .litmus
        sti
.wait4: pause
        cmp     qword [READY], 4
        jne     .wait4
        cli
        call    .run_patched
        mov     [READY + 24], rax
        mov     qword [READY], 5
.wait6: pause
        cmp     qword [READY], 6
        jne     .wait6
        xor     eax, eax
        cpuid
        call    .run_patched
        mov     [READY + 24], rax
        mov     qword [READY], 7
        cli
        hlt
.run_patched:
        mov     eax, PATCHED
        jmp     rax

; What the startup IPI enters: CS = AP_PAGE / 16, IP = 0
        bits    16
ap_start:
        cli
        mov     ax, cs
        mov     ds, ax
        xor     ax, ax
        mov     ss, ax
        o32 lgdt [ap_gdt_pointer - ap_start]
        mov     eax, 0x620
        mov     cr4, eax
        mov     eax, PML4
        mov     cr3, eax
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 0x901
        wrmsr
        mov     eax, 0x80010033
        mov     cr0, eax
        jmp     dword CODE64:ap_main
ap_gdt_pointer:
        dw      gdt_end - gdt - 1
        dd      gdt
ap_end:
