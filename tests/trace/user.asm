; Exits at privilege level 3, in 64-bit and in compatibility mode. The client brings the guest there, since a kernel that
; interprets it does not know how to return to an outer level; such a one has no ports at that level either.
        org     0x8000
%include "check.inc"
%include "long.inc"

%define DEVICE 0x10000000

main:   mov     qword [resume], .back
        mov     qword [resume_cs], CODE64
        mov     qword [resume_rsp], STACK_TOP
        mov     qword [resume_ss], DATA
        mov     r14d, USER_CODE64
        lea     r15, [.user]
        out     0xe4, al
        hlt
.user:  mov     ebx, DEVICE
        mov     eax, [rbx]
        mov     [rbx], ecx
        lock inc dword [rbx + 8]
        ud2
.back:  out     0xe7, al
        mov     rax, [trap_rip]
        out     0x10, eax
        mov     qword [resume], .compatible_back
        mov     qword [resume_cs], CODE64
        mov     qword [resume_rsp], STACK_TOP
        mov     qword [resume_ss], DATA
        mov     r14d, USER_CODE32
        lea     r15, [.compatible]
        out     0xe4, al
        hlt
        bits    32
.compatible:
        mov     ebx, DEVICE
        mov     eax, [ebx]
        mov     [ebx + 4], ecx
        movzx   edx, byte [ebx + 1]
        ud2
        bits    64
.compatible_back:
        out     0xe7, al
        mov     rax, [trap_rip]
        out     0x10, eax
        finish
