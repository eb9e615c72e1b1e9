; Accesses that leave to the runner, and memory that changes its place (hosts.c).
        org     0x8000
%include "check.inc"
%include "long.inc"

%define MMIO 0x10000000
%define ROM 0x10100000
%define MOVING 0x10200000
%define MANY 0x20000000
%define MANY_COUNT 8192

main:   mov     ebx, MMIO + 0x10
        mov     eax, [rbx]
        check   rax, 0x55aa
        mov     [rbx], eax
; Memory mapped for reading and execution
        mov     ebx, ROM
        call    rbx
        check   rax, 0x77
        mov     [rbx], eax
        check   [rbx], 0x9090c300000077b8           ; unchanged
        mov     ebx, ROM + 0xffc
        mov     [rbx], rax
; A fetch from where nothing is; the runner goes on at RDX
        mov     edx, .back
        mov     ebx, MMIO
        jmp     rbx
.back:
; Exchanged, unmapped, and mapped for reading only while the processor lives
        mov     ebx, MOVING
        movzx   eax, byte [rbx]
        check   rax, 0x11
        mov     al, 1
        out     PORT_HOST, al
        movzx   eax, byte [rbx]
        check   rax, 0x22
        mov     byte [rbx], 0x33
        mov     al, 2
        out     PORT_HOST, al
        mov     eax, [rbx]
        check   rax, 0x55aa
        mov     al, 3
        out     PORT_HOST, al
        mov     eax, [rbx]
        check   rax, 0x11111111
        mov     [rbx], eax
; 8,192 ranges with holes between them, each with its number in it
        mov     ebx, MANY
        xor     ecx, ecx
        xor     edx, edx
.many:  cmp     [rbx], ecx
        je      .right
        inc     edx
.right: mov     [rbx + 0xffc], ecx
        add     ebx, 0x2000
        inc     ecx
        cmp     ecx, MANY_COUNT
        jb      .many
        check   rdx, 0
        finish
