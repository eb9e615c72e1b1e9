; Changes of the privilege level in IA-32e mode: interrupt gates, IRETQ, SYSCALL and SYSRET, SYSENTER and
; SYSEXIT, call gates, compatibility mode, and what CPL 3 may not do.
        org     0x8000
%include "check.inc"
%include "long.inc"

%define USER_STACK 0x1c0000
%define STAR 0xc0000081
%define LSTAR 0xc0000082
%define FMASK 0xc0000084

; Enters CPL 3 at LABEL; the next exception comes back behind the macro.
%macro as_user 1-2 USER_CODE64
        mov     qword [resume_cs], CODE64
        mov     qword [resume_ss], DATA
        mov     qword [resume_rsp], STACK_TOP
        mov     qword [resume], %%back
        mov     qword [trap_vector], -1
        push    USER_DATA
        push    USER_STACK
        push    0x202
        push    %2
        push    %1
        iretq
%%back: cli
        mov     qword [resume], unexpected_trap
%endmacro

main:
; An exception at CPL 3 switches to RSP0; the old SS:RSP is on it; the new SS is null (SDM vol. 3A 6.14.2)
        as_user .user_ud
        check   [trap_vector], 6
        check   [trap_rip], .user_ud
        check   [trap_cs], USER_CODE64
        check   [trap_ss], USER_DATA
        check   [trap_rsp], USER_STACK
        check   [trap_frame], TRAP_STACK_TOP - 40

; An INT at CPL 3 needs a gate with DPL 3: otherwise #GP with the vector and the IDT bit
        as_user .user_int
        check   [trap_vector], 13
        check   [trap_error], 0x70 * 8 + 2
        check   [trap_rip], .user_int
        mov     byte [idt + 0x70 * 16 + 5], 0xee
        mov     qword [interrupt_handler], .on_int
        mov     qword [.seen], 0
        as_user .user_int
        check   [.seen], 0x70
        check   [trap_vector], 6                    ; the UD2 behind the INT

; Privileged instructions: #GP(0)
        as_user .user_hlt
        check   [trap_vector], 13
        check   [trap_error], 0
        as_user .user_cli
        check   [trap_vector], 13
        as_user .user_cr
        check   [trap_vector], 13
        as_user .user_msr
        check   [trap_vector], 13
        as_user .user_lgdt
        check   [trap_vector], 13
        as_user .user_invlpg
        check   [trap_vector], 13
        as_user .user_out
        check   [trap_vector], 13
; POPF at CPL 3 with IOPL 0 leaves IF and IOPL as they are, without a fault
        as_user .user_popf
        check   [trap_vector], 6
        mov     rax, [trap_rflags]
        and     eax, 0x3200
        check   rax, 0x200

; SYSCALL: RCX = RIP, R11 = RFLAGS, CS and SS from STAR[47:32], RFLAGS cleared by FMASK; SYSRET: the
; reverse, with CS and SS from STAR[63:48] + 16 and + 8 (SDM vol. 2B)
        mov     ecx, STAR
        xor     eax, eax
        mov     edx, (USER_CODE32 << 16) | CODE64
        wrmsr
        mov     ecx, LSTAR
        mov     eax, .on_syscall
        xor     edx, edx
        wrmsr
        mov     ecx, FMASK
        mov     eax, 0x201                          ; IF and CF
        wrmsr
        mov     qword [.syscalls], 0
        as_user .user_syscall
        check   [trap_vector], 6
        check   [trap_cs], USER_CODE64
        check   [trap_ss], USER_DATA
        check   [.syscalls], 1
        check   r12, 0x202 + 1                      ; what SYSRET brought back
; Without EFER.SCE: #UD
        mov     ecx, 0xc0000080
        rdmsr
        and     eax, ~1
        wrmsr
        as_user .user_syscall2
        check   [trap_vector], 6
        check   [trap_rip], .user_syscall2
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 1
        wrmsr

; SYSENTER: CS and SS from the MSR, RIP and RSP from theirs; SYSEXIT: CS + 32 for 64 bits, RIP = RDX, RSP =
; RCX
        mov     ecx, 0x174
        mov     eax, CODE64
        xor     edx, edx
        wrmsr
        mov     ecx, 0x175
        mov     eax, 0x1b0000
        wrmsr
        mov     ecx, 0x176
        mov     eax, .on_sysenter
        wrmsr
        mov     eax, 1
        cpuid
        bt      edx, 11
        jnc     .no_sep
        mov     eax, 0
        cpuid
        cmp     ecx, 0x444d4163                     ; "cAMD": AMD's processors have no SYSENTER in IA-32e mode
        je      .no_sep
        mov     qword [.sysenters], 0
        mov     qword [trap_vector], -1
        as_user .user_sysenter
        check   [.sysenters], CODE64
        check   [.sysenter_rsp], 0x1b0000
.no_sep:

; A call gate to CPL 0 in IA-32e mode: RSP0, and SS:RSP, CS:RIP in 8 bytes each (SDM vol. 3A 5.8.3.1)
        mov     eax, .on_call_gate
        mov     [gdt_spare], ax
        mov     word [gdt_spare + 2], CODE64
        mov     word [gdt_spare + 4], 0xec00        ; present, DPL 3, 64-bit call gate
        shr     eax, 16
        mov     [gdt_spare + 6], ax
        mov     qword [gdt_spare + 8], 0
        mov     qword [.gate_cs], 0
        as_user .user_gate
        check   [trap_vector], 6
        check   [.gate_cs], USER_CODE64
        check   [.gate_rip], .user_gate_return
        check   [.gate_rsp], USER_STACK
        check   [.gate_frame], TRAP_STACK_TOP - 32
        mov     word [gdt_spare + 4], 0x8c00        ; DPL 0
        as_user .user_gate
        check   [trap_vector], 13
        check   [trap_error], 0x50

; Compatibility mode: 32-bit operands and addresses, PUSHA exists, an exception leads to 64-bit mode and back
        as_user .user_32, USER_CODE32
        check   [trap_vector], 6
        check   [trap_cs], USER_CODE32
        check   [.result_32], 0x12345678
        check   [trap_rsp], USER_STACK - 32
        mov     eax, DATA
        mov     ds, eax
; IRETQ to a non-canonical RIP: #GP(0) at the IRETQ, still at CPL 0
        push    USER_DATA
        push    USER_STACK
        push    0x202
        push    USER_CODE64
        mov     rax, 0x0000800000000000
        push    rax
        traps   13, 0, iretq
        add     rsp, 40
; Loads of SS with RPL 3 at CPL 0: #GP(selector)
        mov     eax, USER_DATA
        traps   13, USER_DATA & ~3, mov ss, eax
        finish

.user_ud:
        ud2
.user_int:
        int     0x70
        ud2
.user_hlt:
        hlt
.user_cli:
        cli
.user_cr:
        mov     rax, cr0
.user_msr:
        rdmsr
.user_lgdt:
        lgdt    [gdt_pointer]
.user_invlpg:
        invlpg  [0]
.user_out:
        out     0x80, al
.user_popf:
        push    0x3002
        popfq
        ud2
.user_syscall:
        stc
        syscall
.after_syscall:
        pushfq
        pop     r12
        ud2
.user_syscall2:
        syscall
.user_sysenter:
        sysenter
.user_gate:
        db      0xff, 0x1c, 0x25                    ; CALL FAR [.gate_pointer], 32-bit offset
        dd      .gate_pointer
.user_gate_return:
        ud2

        align   8
.gate_pointer:
        dd      0
        dw      0x50 + 3
.seen:          dq 0
.syscalls:      dq 0
.sysenters:     dq 0
.sysenter_rsp:  dq 0
.gate_cs:       dq 0
.gate_rip:      dq 0
.gate_rsp:      dq 0
.gate_frame:    dq 0
.result_32:     dq 0

.on_int:
        mov     rax, [trap_vector]
        mov     [.seen], rax
        mov     qword [trap_vector], -1
        ret

.on_syscall:
        mov     [.sysenter_rsp], rsp
        check   rsp, USER_STACK                     ; SYSCALL does not change RSP
        check   rcx, .after_syscall
        check   r11, 0x203
        pushfq
        pop     rax
        and     eax, 0x201
        check   rax, 0
        mov     eax, cs
        check   rax, CODE64
        mov     eax, ss
        check   rax, CODE64 + 8
        inc     qword [.syscalls]
        o64 sysret

.on_sysenter:
        mov     eax, cs
        mov     [.sysenters], rax
        mov     [.sysenter_rsp], rsp
        ud2

.on_call_gate:
        mov     [.gate_frame], rsp
        mov     rax, [rsp]
        mov     [.gate_rip], rax
        mov     rax, [rsp + 8]
        mov     [.gate_cs], rax
        mov     rax, [rsp + 16]
        mov     [.gate_rsp], rax
        o64 retf

        bits    32
.user_32:
        mov     eax, USER_DATA                      ; the way to CPL 3 has made DS null, for its DPL
        mov     ds, eax
        mov     eax, 0x12345678
        mov     [.result_32], eax
        db      0x48                                ; DEC EAX here, REX.W in 64-bit mode
        inc     eax
        cmp     eax, 0x12345678
        jne     .wrong_32
        pushad
        ud2
.wrong_32:
        hlt
