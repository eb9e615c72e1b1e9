; CPUID, MSR, RDTSC and exception exits; the runner answers (hosts.c).
        org     0x8000
%include "check.inc"
%include "long.inc"

main:   mov     eax, 1
        mov     ebx, 0x5555
        xor     ecx, ecx
        cpuid
        check   rax, 0xa
        check   rbx, 0xb
        check   rcx, 0xc
        check   rdx, 0xd
; An MSR that does not exist exits instead of #GP; one that exists does not
        mov     ecx, 0x12345678
        mov     eax, 0x1111
        mov     edx, 0x2222
        wrmsr
        rdmsr
        check   rax, 0x3333
        check   rdx, 0x4444
        mov     ecx, 0xc0000080
        rdmsr
        and     eax, 0x500
        check   rax, 0x500
        rdtsc
        check   rax, 0x66
        rdtscp
        check   rax, 0x77
; Exceptions in the bitmap exit before they are delivered; CR2 is not written
        mov     rax, 0x123
        mov     cr2, rax
        int3
        ud2
        mov     qword [PDPT + 24], 0                ; nothing from 3 GiB on
        mov     rax, cr3
        mov     cr3, rax
        mov     ebx, 0xc0000123
        mov     [rbx], eax
        mov     rax, cr2
        check   rax, 0x123
        check   [trap_count], 0
; Others are delivered
        xor     ecx, ecx
        xor     edx, edx
        traps   0, 0, div ecx
        finish
