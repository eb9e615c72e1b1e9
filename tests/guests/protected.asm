; 32-bit protected mode: segments with limits and rights, paging with 4 KiB and 4 MiB pages and with PAE,
; privilege levels through gates (SDM vol. 3A, chapters 3 to 6).
        org     0x8000
        bits    16
%include "check.inc"

%define CODE32 0x08
%define DATA 0x10
%define USER_CODE 0x18 + 3
%define USER_DATA 0x20 + 3
%define TSS 0x28
%define GATE 0x30
%define SMALL 0x38
%define DOWN 0x40
%define READ_ONLY 0x48
%define CODE16 0x50
%define DATA16 0x58
%define CONFORMING 0x60
%define STACK_TOP 0x80000
%define RING0_STACK 0x78000
%define USER_STACK 0x70000
%define DIRECTORY 0x20000
%define TABLE 0x21000
%define PDPT 0x22000

start:  cli
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x6000
        lgdt    [gdt_pointer]
        lidt    [idt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     CODE32:start_32

; A 16-bit segment of protected mode, and back to real mode at the end
        bits    16
from_32:
        mov     ax, DATA16
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     eax, cr0
        and     al, 0xfe
        mov     cr0, eax
        jmp     0:real_again
real_again:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x6000
        lidt    [real_idt]
        mov     word [0x41 * 4], on_real_int
        mov     word [0x41 * 4 + 2], 0
        xor     eax, eax
        int     0x41
        check   eax, 0x41
        finish
on_real_int:
        mov     ax, 0x41
        iret

        bits    32
start_32:
        mov     eax, DATA
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     fs, eax
        mov     gs, eax
        mov     esp, STACK_TOP
        mov     ecx, 0
.fill:  mov     eax, [stubs + ecx * 4]              ; the stubs of vectors 0 to 31
        mov     [idt + ecx * 8], ax
        mov     word [idt + ecx * 8 + 2], CODE32
        mov     word [idt + ecx * 8 + 4], 0x8e00
        shr     eax, 16
        mov     [idt + ecx * 8 + 6], ax
        inc     ecx
        cmp     ecx, 32
        jb      .fill
        mov     dword [tss + 4], RING0_STACK
        mov     dword [tss + 8], DATA
        mov     word [tss + 102], 104
        mov     eax, TSS
        ltr     ax

%macro traps 3+.nolist
        mov     dword [resume], %%after
        mov     dword [trap_vector], -1
%%at:   %3
%%after:
        mov     dword [resume], unexpected_trap
        check   [trap_vector], %1
        check   [trap_error], %2
        check   [trap_eip], %%at
%endmacro

; Limits: the last byte is in, the next is not; an expand-down segment is the other way round
        mov     eax, SMALL                          ; base 0x30000, limit 0xfff
        mov     es, eax
        mov     dword [es:0xffc], 0x1234
        check   dword [0x30ffc], 0x1234
        traps   13, 0, mov eax, [es:0xffd]
        traps   13, 0, mov [es:0xfff], ax
        traps   13, 0, mov eax, [es:0xffffffff]
        mov     eax, DOWN                           ; limit 0xfff, so 0x1000 to 0xffffffff
        mov     es, eax
        mov     eax, [es:0x1000]
        traps   13, 0, mov eax, [es:0xfff]
        traps   13, 0, mov eax, [es:0]
; Rights: a read-only segment, a code segment, a null selector
        mov     eax, READ_ONLY
        mov     es, eax
        mov     eax, [es:0]
        traps   13, 0, mov [es:0], eax
        traps   13, 0, mov [cs:0x30000], eax
        mov     eax, READ_ONLY
        traps   13, READ_ONLY, mov ss, eax          ; a stack must be writable
        xor     eax, eax
        mov     es, eax
        traps   13, 0, mov eax, [es:0]
        traps   13, 0, mov ss, eax
        mov     eax, DATA
        mov     es, eax
; SS with a small limit: #SS
        mov     eax, SMALL
        mov     ss, eax
        mov     esp, 0x800                          ; the exception is pushed there
        mov     ebp, 0x1000
        mov     dword [resume], .after_ss
        mov     eax, [ebp]
.after_ss:
        mov     ecx, DATA
        mov     ss, ecx
        mov     esp, STACK_TOP
        check   [trap_vector], 12
        check   [trap_error], 0
; The accessed bit of a descriptor is set at a load
        and     byte [gdt + SMALL + 5], 0xfe
        mov     eax, SMALL
        mov     es, eax
        movzx   eax, byte [gdt + SMALL + 5]
        check   eax, 0x93
        mov     eax, DATA
        mov     es, eax
; LAR, LSL, VERR, VERW
        mov     ecx, SMALL
        lar     eax, ecx
        setz    dl
        movzx   edx, dl
        check   eax, 0x00409300
        check   edx, 1
        lsl     eax, ecx
        check   eax, 0xfff
        mov     ecx, READ_ONLY
        verw    cx
        setz    dl
        movzx   edx, dl
        check   edx, 0
        verr    cx
        setz    dl
        movzx   edx, dl
        check   edx, 1

; An exception at CPL 3 takes SS0:ESP0 of the TSS and leaves the old SS:ESP there
%macro as_user 1.nolist
        mov     dword [resume_kernel], 1
        mov     dword [resume], %%back
        mov     dword [trap_vector], -1
        push    USER_DATA
        push    USER_STACK
        push    0x202
        push    USER_CODE
        push    %1
        iret
%%back: cli
        mov     dword [resume], unexpected_trap
%endmacro
        as_user user_ud
        check   [trap_vector], 6
        check   [trap_eip], user_ud
        check   [trap_cs], USER_CODE
        check   [trap_esp], USER_STACK
        check   [trap_ss], USER_DATA
        check   [trap_frame], RING0_STACK - 20
        as_user user_cli
        check   [trap_vector], 13
        as_user user_load_kernel
        check   [trap_vector], 13
        check   [trap_error], DATA
; A call gate with two parameters: copied to the new stack, and taken off both by RETF 8
        mov     eax, on_gate
        mov     [gdt + GATE], ax
        mov     word [gdt + GATE + 2], CODE32
        mov     word [gdt + GATE + 4], 0xec02       ; present, DPL 3, 32-bit, two parameters
        shr     eax, 16
        mov     [gdt + GATE + 6], ax
        as_user user_gate
        check   [trap_vector], 6
        check   [trap_eip], user_gate_done
        check   [trap_esp], USER_STACK
        check   [gate_sum], 0x33
; A conforming segment is entered without a change of CPL
        as_user user_conforming
        check   [trap_vector], 6
        check   [trap_cs], CONFORMING + 3

; Paging, two levels: 4 KiB pages and 4 MiB pages
        mov     edi, DIRECTORY
        mov     ecx, 2048
        xor     eax, eax
        rep     stosd
        mov     dword [DIRECTORY], 0x83             ; 0 to 4 MiB onto itself: PS
        mov     dword [DIRECTORY + 4], TABLE + 3
        mov     dword [TABLE], 0x100000 + 3
        mov     dword [TABLE + 4], 0x101000 + 1
        mov     eax, cr4
        or      eax, 0x10                           ; PSE
        mov     cr4, eax
        mov     eax, DIRECTORY
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80010000
        mov     cr0, eax
        mov     dword [0x400010], 0xcafe
        check   [0x100010], 0xcafe
        mov     eax, [TABLE]
        and     eax, 0x60
        check   eax, 0x60
        traps   14, 3, mov [0x401000], eax
        mov     eax, cr2
        check   eax, 0x401000
        traps   14, 0, mov eax, [0x402000]
        traps   14, 0, mov eax, [0x800000]
        mov     eax, [DIRECTORY]
        and     eax, 0x20
        check   eax, 0x20
; PAE: three levels, entries of 64 bits, the first read at MOV to CR3
        mov     eax, cr0
        and     eax, ~0x80000000
        mov     cr0, eax
        mov     edi, DIRECTORY
        mov     ecx, 3072
        xor     eax, eax
        rep     stosd
        mov     dword [PDPT], DIRECTORY + 1
        mov     dword [DIRECTORY], 0x83
        mov     dword [DIRECTORY + 8], TABLE + 3
        mov     dword [TABLE], 0x100000 + 3
        mov     dword [TABLE + 8], 0x102000 + 3
        mov     eax, cr4
        or      eax, 0x20
        mov     cr4, eax
        mov     eax, PDPT
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        check   [0x200010], 0xcafe
        mov     dword [0x201010], 0xbeef
        check   [0x102010], 0xbeef
        traps   14, 0, mov eax, [0x40000000]
        mov     dword [PDPT + 8], DIRECTORY + 1     ; not seen before CR3 is loaded again
        traps   14, 0, mov eax, [0x40000000]
        mov     eax, cr3
        mov     cr3, eax
        check   [0x40100010], dword [0x100010]
        mov     dword [PDPT + 16], DIRECTORY + 3    ; a reserved bit (SDM vol. 3A table 4-8): #GP at the load
        mov     eax, cr3
        traps   13, 0, mov cr3, eax
        mov     eax, cr0
        and     eax, ~0x80000000
        mov     cr0, eax
        jmp     CODE16:from_32

user_ud:
        ud2
user_cli:
        cli
user_load_kernel:
        mov     eax, DATA
        mov     es, eax
user_gate:
        push    0x11
        push    0x22
        call    GATE + 3:0
user_gate_done:
        ud2
user_conforming:
        jmp     CONFORMING:.there
.there: ud2

on_gate:
        mov     eax, [esp + 8]
        add     eax, [esp + 12]
        mov     [ss:gate_sum], eax
        retf    8

%assign vector 0
%rep 32
stub_%+vector:
%if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
        push    0
%endif
        push    vector
        jmp     trap_common
%assign vector vector + 1
%endrep

trap_common:
        push    eax
        push    ds
        mov     eax, DATA
        mov     ds, eax
        mov     eax, [esp + 8]
        mov     [trap_vector], eax
        mov     eax, [esp + 12]
        mov     [trap_error], eax
        mov     eax, [esp + 16]
        mov     [trap_eip], eax
        mov     eax, [esp + 20]
        mov     [trap_cs], eax
        lea     eax, [esp + 16]
        mov     [trap_frame], eax
        mov     eax, [resume]
        cmp     eax, unexpected_trap
        je      unexpected_trap
        mov     dword [resume], unexpected_trap
        cmp     dword [resume_kernel], 0
        jne     .to_kernel
        mov     [esp + 16], eax
        pop     ds
        pop     eax
        add     esp, 8
        iret
.to_kernel:
        mov     ecx, [esp + 28]
        mov     [trap_esp], ecx
        mov     ecx, [esp + 32]
        mov     [trap_ss], ecx
        mov     dword [resume_kernel], 0
        mov     ecx, DATA
        mov     es, ecx
        mov     esp, STACK_TOP
        jmp     eax

unexpected_trap:
        mov     esp, STACK_TOP
        check   [trap_eip], 0
        check   [trap_error], 0
        check   [trap_vector], -1
        mov     al, 1
        out     PORT_END, al
        hlt

        align   8
resume:         dd unexpected_trap
resume_kernel:  dd 0
trap_vector:    dd -1
trap_error:     dd 0
trap_eip:       dd 0
trap_cs:        dd 0
trap_esp:       dd 0
trap_ss:        dd 0
trap_frame:     dd 0
gate_sum:       dd 0
stubs:
%assign vector 0
%rep 32
        dd      stub_%+vector
%assign vector vector + 1
%endrep

        align   8
gdt:    dq      0
        dq      0x00cf9b000000ffff                  ; 08 code
        dq      0x00cf93000000ffff                  ; 10 data
        dq      0x00cffb000000ffff                  ; 18 code, CPL 3
        dq      0x00cff3000000ffff                  ; 20 data, CPL 3
        dw      0x67, tss, 0x8900, 0                ; 28 TSS
        dq      0                                   ; 30 call gate
        dq      0x0040930300000fff                  ; 38 data at 0x30000, limit 0xfff
        dq      0x0040970000000fff                  ; 40 expand-down data, limit 0xfff
        dq      0x00cf91000000ffff                  ; 48 data, read-only
        dq      0x00009b000000ffff                  ; 50 16-bit code
        dq      0x000093000000ffff                  ; 58 16-bit data
        dq      0x00cf9f000000ffff                  ; 60 conforming code
gdt_end:
gdt_pointer:
        dw      gdt_end - gdt - 1
        dd      gdt
idt_pointer:
        dw      32 * 8 - 1
        dd      idt
real_idt:
        dw      0x3ff
        dd      0
        align   8
idt:    times 32 dq 0
tss:    times 104 db 0
        db      0xff

        check_routine 16
        check_routine 32
