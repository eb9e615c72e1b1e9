; Exits at other privilege levels and in other modes: CPL 3 in 64-bit and in compatibility mode, and what the I/O
; permissions of a task let through.
        org     0x8000
%include "check.inc"
%include "long.inc"

%define DEVICE 0x10000000
%define USER_STACK 0x170000

; The I/O map of the TSS lies behind its limit: no port is allowed
main:   mov     qword [resume], .denied
        mov     qword [resume_cs], CODE64
        mov     qword [resume_rsp], STACK_TOP
        mov     qword [resume_ss], DATA
        mov     eax, USER_DATA                      ; an IRET to CPL 3 clears what that may not use
        mov     ds, eax
        mov     es, eax
        push    USER_DATA
        push    USER_STACK
        push    0x2                                 ; IOPL 0
        push    USER_CODE64
        mov     rax, .user_denied
        push    rax
        iretq
.user_denied:
        out     0x10, al
.denied:
        mov     rax, [trap_rip]
        out     0x11, eax
; With IOPL 3
        mov     qword [resume], .back
        mov     qword [resume_cs], CODE64
        mov     qword [resume_rsp], STACK_TOP
        mov     qword [resume_ss], DATA
        push    USER_DATA
        push    USER_STACK
        push    0x3002
        push    USER_CODE64
        mov     rax, .user
        push    rax
        iretq
.user:  out     0x12, al
        in      eax, 0x13
        mov     ebx, DEVICE
        mov     eax, [rbx]
        mov     [rbx], ecx
        ud2
.back:  out     0xe7, al
; Compatibility mode, CPL 3, a segment with a base
        mov     rax, 0x00cff3100000ffff             ; base 0x100000
        mov     [gdt_spare], rax
        mov     qword [resume], .compatible_back
        mov     qword [resume_cs], CODE64
        mov     qword [resume_rsp], STACK_TOP
        mov     qword [resume_ss], DATA
        push    USER_DATA
        push    USER_STACK
        push    0x3002
        push    USER_CODE32
        mov     rax, .compatible
        push    rax
        iretq
        bits    32
.compatible:
        mov     eax, USER_DATA
        mov     ds, eax
        mov     eax, 0x53
        mov     es, eax
        mov     edx, 0x1f0
        mov     esi, 0x150000
        mov     edi, 0x1000
        insb
        mov     ecx, 2
        rep     outsw
        mov     ebx, DEVICE
        mov     eax, [ebx]
        mov     [ebx + 4], ecx
        mov     eax, [es:DEVICE - 0x100000]
        ud2
        bits    64
.compatible_back:
        out     0xe7, al
        finish
