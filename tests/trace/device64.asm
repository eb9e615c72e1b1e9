; A device's memory in 64-bit mode: loads, stores, and everything that reads and writes in one instruction.
        org     0x8000
%include "check.inc"
%include "long.inc"
%include "mark.inc"

%define DEVICE 0x10000000

main:   mov     ebx, DEVICE
        mov     rdx, 0x8877665544332211
        mov     rax, -1
        mov     al, [rbx]
        mark
        mov     ah, [rbx]
        mark
        mov     ax, [rbx]
        mark
        mov     eax, [rbx]
        mark
        mov     rax, [rbx]
        mark
        mov     r9b, [rbx]
        mark
        mov     r10d, [rbx]
        mark
        mov     r11, [rbx]
        mark
        mov     [rbx], dl
        mark
        mov     [rbx], dh
        mark
        mov     [rbx], dx
        mark
        mov     [rbx], edx
        mark
        mov     [rbx], rdx
        mark
        mov     r12, rdx
        mov     [rbx], r12d
        mark
        mov     [rbx], r12
        mark
        mov     rax, [rbx + 8]
        mark
        mov     [rbx + 0x123], edx
        mark
        mov     eax, [DEVICE + 0x10]
        mark
        mov     byte [rbx + 0x20], 0x5a
        mark
        mov     word [rbx + 0x22], 0x1234
        mark
        mov     dword [rbx + 0x24], 0x12345678
        mark
        mov     qword [rbx + 0x28], -2
        mark
        movzx   eax, byte [rbx + 1]
        mark
        movzx   rax, word [rbx + 1]
        mark
        movsx   rax, byte [rbx + 1]
        mark
        movsx   ecx, word [rbx + 1]
        mark
        movsxd  rcx, dword [rbx + 1]
        mark
        a32     mov eax, [ebx]
        mark
; Read, change, write
        add     [rbx], rdx
        mark
        adc     eax, [rbx]
        mark
        sub     byte [rbx + 2], 3
        mark
        and     word [rbx + 4], 0x0ff0
        mark
        xor     dword [rbx + 8], -1
        mark
        cmp     [rbx], rdx
        mark
        cmp     edx, [rbx]
        mark
        test    [rbx], dl
        mark
        not     qword [rbx + 16]
        mark
        neg     word [rbx + 18]
        mark
        inc     byte [rbx + 20]
        mark
        dec     qword [rbx + 24]
        mark
        shl     dword [rbx + 32], 5
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        sar     byte [rbx + 33], 1
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        mov     ecx, 3
        rol     word [rbx + 34], cl
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        shld    [rbx + 40], rdx, 7
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        xchg    rdx, [rbx + 48]
        mark
        xchg    dl, [rbx + 49]
        mark
        lock add dword [rbx + 56], 1
        mark
        lock xadd [rbx + 64], rdx
        mark
        mov     eax, [rbx + 72]
        mark
        lock cmpxchg [rbx + 72], edx
        mark
        lock cmpxchg [rbx + 76], edx
        mark
        mov     ecx, 5
        lock cmpxchg8b [rbx + 80]
        mark
        bt      dword [rbx + 88], 3
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        bts     dword [rbx + 88], 3
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        lock btr qword [rbx + 88], 4
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        btc     dword [rbx + 92], ecx
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        sete    [rbx + 96]
        mark
        cmovne  rax, [rbx + 104]
        mark
        cmove   rax, [rbx + 104]
        mark
        imul    eax, [rbx + 112]
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        imul    rax, [rbx + 112], 3
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        mul     byte [rbx + 120]
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        mov     eax, 1
        xor     edx, edx
        mov     dword [rbx + 124], 7
        mark
        div     dword [rbx + 124]
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        bsf     eax, [rbx + 128]
        cmp     esp, 5                              ; what is not defined of the flags
        mark
        bswap   edx
        movnti  [rbx + 136], rdx
        mark
; The stack, and jumps through the device
        push    qword [rbx]
        mark
        pop     qword [rbx + 8]
        mark
        mov     rax, .there
        mov     [rbx + 16], rax
        mark
        call    [rbx + 16]
        mov     rax, .here
        mov     [rbx + 16], rax
        mark
        jmp     [rbx + 16]
.there: ret
.here:  mov     rbp, rsp
        mov     esp, DEVICE + 0x400
        push    rdx
        mark
        pop     rcx
        mark
        pushfq
        mark
        popfq
        mark
        mov     rsp, rbp
        mark
; Crooked addresses: over 8 bytes, over the end of a page, over the end of the device
        mov     rax, [rbx + 5]
        mark
        mov     [rbx + 5], rdx
        mark
        mov     rax, [rbx + 0xffd]
        mark
        mov     [rbx + 0xffd], rdx
        mark
        add     [rbx + 0xffe], edx
        mark
        mov     eax, [rbx - 2]
        mark
        mov     [rbx - 2], edx
        mark
        finish
