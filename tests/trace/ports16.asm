; Ports in real mode: every form, string and repeated ones in both directions, with prefixes.
        org     0x8000
        bits    16
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7000
        mov     eax, 0x8899aabb
        out     0x10, al
        out     0x11, ax
        out     0x12, eax
        mov     dx, 0xabcd
        out     dx, al
        out     dx, ax
        out     dx, eax
        in      al, 0x20
        in      ax, 0x21
        in      eax, 0x22
        in      al, dx
        in      ax, dx
        in      eax, dx
        mov     si, 0x7800
        mov     di, 0x7900
        outsb
        outsw
        outsd
        insb
        insw
        insd
        mov     cx, 5
        rep     outsb
        mov     cx, 3
        rep     outsw
        mov     cx, 2
        rep     outsd
        mov     cx, 5
        rep     insb
        mov     cx, 3
        rep     insw
        mov     cx, 2
        rep     insd
        xor     cx, cx
        rep     insb
        rep     outsb
        std
        mov     cx, 3
        rep     outsw
        mov     cx, 3
        rep     insw
        cld
; Another segment, 32-bit addresses, the end of a segment, the end of a page
        mov     ax, 0x1000
        mov     fs, ax
        fs      outsb
        mov     esi, 0x7800
        mov     ecx, 2
        a32     rep outsb
        mov     edi, 0x7a00
        mov     ecx, 2
        a32     rep insw
        mov     si, 0xfffe
        mov     cx, 3
        rep     outsb
        mov     si, 0x6ffe
        mov     cx, 3
        rep     outsw
        mov     di, 0x6fff
        mov     cx, 3
        rep     insw
        hlt
        out     0xf4, al
        hlt
