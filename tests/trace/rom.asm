; Memory that may be read and executed, and not written. SGDT and its like are left out: a kernel that emulates the guest
; tries them for ever on memory that it cannot write; and so is what docs/engines.md lists as not found.
        org     0x8000
%include "check.inc"
%include "long.inc"
%include "mark.inc"

%define ROM 0x10100000
%define AREA 0x100000

main:   mov     ebx, ROM
        mov     eax, [rbx]
        mark
        call    rbx
        mov     edx, 0x12345678
        mov     [rbx + 8], dl
        mark
        mov     [rbx + 8], edx
        mark
        mov     [rbx + 8], rdx
        mark
        mov     byte [rbx + 16], 1
        mark
        add     [rbx + 24], edx
        mark
        lock inc dword [rbx + 28]
        mark
        xchg    [rbx + 32], edx
        mark
        mov     eax, [rbx + 36]
        mark
        lock cmpxchg [rbx + 36], edx
        mark
        bt      dword [rbx + 40], 1
        mark
        cmp     dword [rbx + 40], 1
        mark
        mov     edi, ROM + 48
        stosd
        mark
        mov     ecx, 3
        rep     stosw
        mark
        mov     esi, AREA
        movsd
        mark
        mov     ecx, 3
        rep     movsb
        mark
        mov     esi, ROM
        mov     edi, AREA
        mov     ecx, 5
        rep     movsd
        mark
        mov     rbp, rsp
        mov     esp, ROM + 0x100
        push    rdx
        mark
        mov     rsp, rbp
        pop     qword [rbx + 0x108]
        mark
        push    rdx
        mark
        call    rbx
        finish
