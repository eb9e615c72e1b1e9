; A device's memory in real mode: a page where nothing is, reached through ES and DS.
        org     0x8000
        bits    16
%include "mark.inc"
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7000
        mov     ax, 0xc000
        mov     es, ax
        mov     ebx, 0x44332211
        mov     al, [es:0]
        mark
        mov     ax, [es:2]
        mark
        mov     eax, [es:4]
        mark
        mov     ah, [es:8]
        mark
        mov     [es:1], bl
        mark
        mov     [es:2], bx
        mark
        mov     [es:4], ebx
        mark
        mov     byte [es:9], 0x5a
        mark
        mov     word [es:10], 0x1234
        mark
        mov     dword [es:12], 0x12345678
        mark
        movzx   eax, byte [es:3]
        mark
        movsx   eax, word [es:5]
        mark
        add     [es:16], bl
        mark
        adc     bx, [es:16]
        mark
        or      word [es:18], 0x0f0f
        mark
        inc     dword [es:20]
        mark
        neg     byte [es:21]
        mark
        xchg    ax, [es:22]
        mark
        lock xadd [es:24], ax
        mark
        cmp     byte [es:25], 7
        mark
        test    word [es:26], 0x8000
        mark
        bts     word [es:28], 3
        cmp     sp, 5                               ; what is not defined of the flags
        mark
        shl     byte [es:30], 1
        cmp     sp, 5                               ; what is not defined of the flags
        mark
        push    word [es:32]
        mark
        pop     word [es:34]
        mark
        mov     si, 0x7800
        xor     di, di
        movsb
        mark
        movsw
        mark
        mov     cx, 4
        rep     movsb
        mark
        mov     cx, 3
        rep     stosw
        mark
        mov     cx, 3
        xor     al, al
        repne   scasb
        mark
        mov     si, 0x7800
        mov     cx, 3
        repe    cmpsb
        mark
        mov     ax, 0xc000
        mov     ds, ax
        xor     ax, ax
        mov     es, ax
        xor     si, si
        mov     di, 0x7900
        lodsb
        mark
        lodsw
        mark
        mov     cx, 5
        rep     movsw
        mark
; Over the end of the device into memory, and the other way
        mov     ax, [0xfff]
        mark
        mov     [0xfff], bx
        mark
        mov     eax, [0xffd]
        mark
        mov     ax, 0xbfff
        mov     ds, ax
        mov     ax, [0xf]
        mark
        mov     [0xf], bx
        mark
        xor     ax, ax
        mov     ds, ax
        mark
; A stack that is not there
        mov     ax, 0xc000
        mov     ss, ax
        mov     sp, 0x100
        push    bx
        mark
        pop     cx
        mark
        pusha
        mark
        popa
        mark
        xor     ax, ax
        mov     ss, ax
        mov     sp, 0x7000
        mark
        out     0xf4, al
        hlt
