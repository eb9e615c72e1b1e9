; Real mode: addresses, the stack, interrupts through the vector table, decimal arithmetic.
        org     0x8000
        bits    16
%include "check.inc"

start:  cli
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x6000

; A segment is selector * 16 + offset; with A20 open the sum goes past 1 MiB (SDM vol. 3B 21.1.1).
        mov     ax, 0xffff
        mov     es, ax
        mov     dword [es:0x0010], 0x12345678       ; 0xffff0 + 0x10 = 0x100000
        mov     ax, 0xf000
        mov     fs, ax
        check   dword [es:0x0010], 0x12345678
        mov     ax, 0x1234
        mov     es, ax
        mov     byte [es:0x0005], 0x5a
        xor     ax, ax
        mov     fs, ax
        mov     bx, 0x2345
        mov     ax, 0x1000
        mov     gs, ax
        movzx   eax, byte [gs:bx]                   ; 0x12340 + 5 = 0x10000 + 0x2345
        check   eax, 0x5a

; 16-bit addressing wraps inside the segment.
        mov     byte [0x1000], 0x77
        mov     bx, 0xf000
        mov     si, 0x1000
        mov     byte [0x0000 + 0x600], 0x33
        movzx   eax, byte [bx+si+0x600]             ; 0xf000 + 0x1000 + 0x600 = 0x600
        check   eax, 0x33

; PUSH of 16 and 32 bits, the order of the bytes, PUSHA and POPA (SP itself is not restored).
        mov     sp, 0x6000
        push    word 0x1234
        check   esp, 0x5ffe
        push    dword 0x89abcdef
        check   esp, 0x5ffa
        check   dword [0x5ffa], 0x89abcdef
        pop     eax
        pop     cx
        check   eax, 0x89abcdef
        movzx   ecx, cx
        check   ecx, 0x1234
        mov     eax, 0x11111111
        mov     ecx, 0x22222222
        mov     ebx, 0x44444444
        mov     edi, 0x77777777
        pushad
        check   dword [0x5ffc], 0x11111111
        check   dword [0x5fe0], 0x77777777
        xor     eax, eax
        xor     edi, edi
        popad
        check   eax, 0x11111111
        check   edi, 0x77777777
        check   esp, 0x6000

; The 16-bit stack wraps: a push at SP = 2 writes offset 0, the next one 0xfffe (SDM vol. 1 6.2.3).
        mov     ax, 0x3000
        mov     ss, ax
        mov     sp, 2
        push    word 0xaaaa
        push    word 0xbbbb
        movzx   ecx, sp
        xor     ax, ax
        mov     ss, ax
        mov     sp, 0x6000
        check   ecx, 0xfffe
        mov     ax, 0x3000
        mov     es, ax
        movzx   eax, word [es:0]
        check   eax, 0xaaaa
        movzx   eax, word [es:0xfffe]
        check   eax, 0xbbbb

; INT n: FLAGS, CS, IP are pushed; IF and TF are cleared; IRET takes them back (SDM vol. 3B 21.1.4).
        mov     word [0x40 * 4], on_int
        mov     word [0x40 * 4 + 2], 0
        sti
        mov     eax, 0
        int     0x40
after_int:
        check   eax, 0x1234
        pushf
        pop     ax
        and     eax, 0x200
        check   eax, 0x200
        cli

; Divide error: a fault, IP of the instruction itself (SDM vol. 3A 6.15, interrupt 0).
        mov     word [0 * 4], on_fault
        mov     word [0 * 4 + 2], 0
        mov     word [resume], after_div
        mov     ax, 0x1000
        mov     bl, 1
divide: div     bl                                  ; the quotient does not fit AL
after_div:
        movzx   eax, word [fault_ip]
        check   eax, divide
; and BOUND (5), invalid opcode (6)
        mov     word [5 * 4], on_fault
        mov     word [5 * 4 + 2], 0
        mov     word [resume], after_bound
        mov     ax, 11
bound1: bound   ax, [limits]
after_bound:
        movzx   eax, word [fault_ip]
        check   eax, bound1
        mov     word [fault_ip], 0
        mov     ax, -10
        bound   ax, [limits]                        ; inside: nothing happens
        movzx   eax, word [fault_ip]
        check   eax, 0
        mov     word [6 * 4], on_fault
        mov     word [6 * 4 + 2], 0
        mov     word [resume], after_ud
ud:     ud2
after_ud:
        movzx   eax, word [fault_ip]
        check   eax, ud

; INTO and INT3 are traps: IP of the next instruction.
        mov     word [4 * 4], on_fault
        mov     word [4 * 4 + 2], 0
        mov     word [resume], after_into
        mov     al, 0x7f
        add     al, 1
        into
after_into:
        movzx   eax, word [fault_ip]
        check   eax, after_into
        mov     word [3 * 4], on_fault
        mov     word [3 * 4 + 2], 0
        mov     word [resume], after_int3
        int3
after_int3:
        movzx   eax, word [fault_ip]
        check   eax, after_int3

; A word at offset 0xffff is beyond the limit: #GP, without an error code in real mode.
        mov     word [13 * 4], on_fault
        mov     word [13 * 4 + 2], 0
        mov     word [resume], after_gp
        mov     bx, 0xffff
gp:     mov     ax, [bx]
after_gp:
        movzx   eax, word [fault_ip]
        check   eax, gp
        check   esp, 0x6000

; Single step: TF makes a trap after the instruction that follows POPF.
        mov     word [1 * 4], on_fault
        mov     word [1 * 4 + 2], 0
        mov     word [resume], after_step
        pushf
        pop     ax
        or      ax, 0x100
        push    ax
        popf
        nop
after_nop:
        nop
after_step:
        movzx   eax, word [fault_ip]
        check   eax, after_nop

; Far call and return, an indirect one too.
        call    0:far_procedure
        check   eax, 0x4321
        mov     eax, 0
        call    far [far_pointer]
        check   eax, 0x4321

; Decimal arithmetic (SDM vol. 2A, DAA, AAM, AAD).
        mov     eax, 0x79
        add     al, 0x35                            ; 79 + 35 = 114
        daa
        setc    bl
        movzx   eax, al
        check   eax, 0x14
        movzx   ebx, bl
        check   ebx, 1
        mov     eax, 73
        aam
        check   eax, 0x0703
        aad
        check   eax, 73
        mov     eax, 0x0f
        clc
        aaa
        check   eax, 0x0105

; String instructions move through ES:DI, and with an address size prefix through EDI.
        mov     ax, 0x2000
        mov     es, ax
        mov     di, 0x0010
        mov     al, 0xee
        mov     cx, 16
        rep     stosb
        movzx   eax, di
        check   eax, 0x20
        check   dword [es:0x1c], 0xeeeeeeee
        mov     eax, 0
        mov     [es:0x20], eax
        mov     edi, 0x0010
        mov     ecx, 17
        mov     al, 0xee
        a32 repe scasb
        check   ecx, 0
        check   edi, 0x21

        finish

on_int: mov     bp, sp
        movzx   eax, word [bp]
        check   eax, after_int
        movzx   eax, word [bp+2]
        check   eax, 0
        movzx   eax, word [bp+4]
        and     eax, 0x200
        check   eax, 0x200
        pushf
        pop     ax
        and     eax, 0x200
        check   eax, 0
        mov     eax, 0x1234
        iret

; Keeps the IP of the fault and returns to [resume], without TF.
on_fault:
        push    bp
        push    ax
        mov     bp, sp
        mov     ax, [bp+4]
        mov     [fault_ip], ax
        mov     ax, [resume]
        mov     [bp+4], ax
        and     word [bp+8], 0xfeff
        pop     ax
        pop     bp
        iret

far_procedure:
        mov     eax, 0x4321
        retf

fault_ip:       dw 0
resume:         dw 0
limits:         dw -10, 10
far_pointer:    dw far_procedure, 0

        check_routine 16
