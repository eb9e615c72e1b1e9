; Every form of port access; the runner knows the order (hosts.c).
        org     0x8000
%include "check.inc"
%include "long.inc"

main:   mov     eax, 0x1234565a
        out     0x10, al
        mov     eax, 0x12345678
        out     0x11, eax
        out     0x12, ax
        mov     edx, 0xabcd
        out     dx, al
        mov     rax, 0x1122334455667788
        in      al, 0x20
        check   rax, 0x11223344556677ee             ; the rest of RAX stays
        in      ax, 0x21
        check   rax, 0x112233445566beef
        in      eax, 0x22
        check   rax, 0xcafebabe                     ; and goes with 32 bits
        mov     edx, 0xffff
        in      eax, dx
        check   rax, 0x01020304
        mov     edx, 0x30
        mov     esi, 0x100000
        outsb
        mov     ecx, 5
        rep     outsw
        check   rcx, 0
        mov     ecx, 3
        mov     edi, 0x100100
        rep     insd
; Repeated 0 times: no exit
        xor     ecx, ecx
        rep     outsb
        finish
