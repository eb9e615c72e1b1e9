; Code that changes itself: the next bytes, bytes of an earlier loop, another page, through another mapping,
; by a string instruction and by a push (SDM vol. 3A 8.1.3: a jump is enough on one processor).
        org     0x8000
%include "check.inc"
%include "long.inc"

%define AREA 0x100000

main:
; The very next instruction
        mov     byte [.imm1 + 1], 2
        jmp     .imm1
.imm1:  mov     al, 1
        movzx   eax, al
        check   rax, 2

; Without a jump: processors since the P6 do it right too
        xor     eax, eax
        mov     byte [.imm2 + 1], 3
.imm2:  mov     al, 1
        movzx   eax, al
        check   rax, 3

; A loop that changes its own immediate each time round
        xor     ebx, ebx
        mov     ecx, 100
.loop:  add     ebx, strict dword 1
        inc     dword [.loop + 2]
        dec     ecx
        jnz     .loop
        check   rbx, 5050

; A procedure on another page, called, changed, called again
        mov     rdi, AREA
        mov     dword [rdi], 0x000011b8             ; MOV EAX, 0x11; RET
        mov     word [rdi + 4], 0xc300
        call    rdi
        check   rax, 0x11
        mov     byte [rdi + 1], 0x22
        call    rdi
        check   rax, 0x22
; by REP STOSB
        mov     edi, AREA + 1
        mov     eax, 0x33
        mov     ecx, 1
        rep     stosb
        mov     edi, AREA
        call    rdi
        check   rax, 0x33
; by a push
        mov     rdx, rsp
        mov     rsp, AREA + 16
        mov     rax, 0x9090c300000044b8             ; MOV EAX, 0x44; RET
        push    rax
        mov     rsp, rdx
        mov     edi, AREA + 8
        call    rdi
        check   rax, 0x44
; by an aligned SSE store
        mov     dword [AREA + 0x20], 0x000055b8
        mov     word [AREA + 0x24], 0xc300
        movaps  xmm0, [AREA + 0x20]
        movaps  [AREA], xmm0
        mov     edi, AREA
        call    rdi
        check   rax, 0x55
; by a locked instruction
        mov     eax, 0x11
        lock add [AREA + 1], al
        call    rdi
        check   rax, 0x66

; An instruction that lies across two pages
        mov     edi, AREA + 0xffe
        mov     dword [rdi], 0x000077b8
        mov     word [rdi + 4], 0xc300
        call    rdi
        check   rax, 0x77
        mov     byte [AREA + 0x1000], 0x01          ; the second byte of the immediate
        call    rdi
        check   rax, 0x177
        mov     byte [AREA + 0xfff], 0x88
        call    rdi
        check   rax, 0x188

; Through another linear address of the same page
        mov     qword [PAGE_DIRECTORY + 0x1000], 0x87   ; 1 GiB on leads to the first 2 MiB
        mov     rax, cr3
        mov     cr3, rax
        mov     dword [AREA + 0x2000], 0x000001b8
        mov     word [AREA + 0x2004], 0xc300
        mov     edi, AREA + 0x2000
        call    rdi
        check   rax, 1
        mov     byte [0x40000000 + AREA + 0x2001], 9
        call    rdi
        check   rax, 9
; and other code at the same linear address after a change of the mapping
        mov     dword [0x600000], 0x00000ab8
        mov     word [0x600004], 0xc300
        mov     dword [0x800000], 0x00000bb8
        mov     word [0x800004], 0xc300
        mov     qword [PAGE_DIRECTORY + 0x1000], 0x600087
        invlpg  [0x40000000]
        mov     edi, 0x40000000
        call    rdi
        check   rax, 0xa
        mov     qword [PAGE_DIRECTORY + 0x1000], 0x800087
        invlpg  [0x40000000]
        call    rdi
        check   rax, 0xb
        finish
