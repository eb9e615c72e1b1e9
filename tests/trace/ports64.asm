; Ports in 64-bit mode: every form, string and repeated ones in both directions, with prefixes that mean something and
; with such that do not.
        org     0x8000
%include "check.inc"
%include "long.inc"

main:   mov     rax, 0x1122334455667788
        out     0x10, al
        out     0x11, ax
        out     0x12, eax
        mov     edx, 0xffff
        out     dx, al
        out     dx, ax
        out     dx, eax
        in      al, 0x20
        in      ax, 0x21
        in      eax, 0x22
        mov     rax, 0x1122334455667788
        in      al, dx
        in      ax, dx
        in      eax, dx
        db      0x48
        in      eax, dx                             ; REX.W
        db      0x48
        out     dx, eax
        db      0x66, 0x48
        in      eax, dx
        db      0xf3
        in      al, dx                              ; REP means nothing here
        db      0xf3
        out     dx, al
        db      0x67
        in      al, dx
        mov     esi, 0x100000
        mov     edi, 0x101000
        outsb
        outsw
        outsd
        insb
        insw
        insd
        db      0x48
        insd
        mov     ecx, 9
        rep     outsb
        mov     ecx, 5
        rep     outsw
        mov     ecx, 3
        rep     outsd
        mov     ecx, 9
        rep     insb
        mov     ecx, 5
        rep     insw
        mov     ecx, 3
        rep     insd
        mov     ecx, 3
        db      0xf2
        outsb
        xor     ecx, ecx
        rep     insb
        std
        mov     ecx, 3
        rep     outsd
        mov     ecx, 3
        rep     insd
        cld
        mov     esi, 0x100000                       ; with upper halves of 0: the kernel has cleared them by then
        mov     ecx, 2
        a32     rep outsb
        mov     esi, 0x100ffe
        mov     ecx, 3
        rep     outsw                               ; over the end of a page
        mov     edi, 0x101fff
        mov     ecx, 3
        rep     insd
; The flags after a single step over a port access
        mov     qword [resume], .stepped
        pushfq
        or      qword [rsp], 0x100
        popfq
        out     0x10, al
        nop
.stepped:
        mov     rax, [trap_rip]
        out     0x13, eax
        finish
