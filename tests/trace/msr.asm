; MSRs that exit because they would fault, and some that do not.
        org     0x8000
%include "check.inc"
%include "long.inc"

main:   mov     ecx, 0x12345678
        mov     rax, 0x1111111122222222
        mov     rdx, 0x3333333344444444
        wrmsr
        rdmsr
        out     0x10, eax
        mov     ecx, 0x40000000
        rdmsr
        wrmsr
        mov     ecx, 0xc0000080
        rdmsr
        out     0x11, eax
        mov     ecx, 0x277
        rdmsr
        out     0x12, eax
        mov     ecx, 0xc0000102
        mov     eax, 0x1234
        xor     edx, edx
        wrmsr
        rdmsr
        out     0x13, eax
        mov     qword [resume], .after
        mov     ecx, 0xc0000080                     ; a value that EFER does not take: #GP and no exit
        mov     edx, -1
        mov     eax, -1
        wrmsr
.after: mov     rax, [trap_rip]
        out     0x14, eax
        finish
