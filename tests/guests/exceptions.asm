; Exceptions in 64-bit mode: vector, error code and the saved RIP of each (SDM vol. 3A 6.15).
        org     0x8000
%include "check.inc"
%include "long.inc"

main:
; #DE, a fault
        xor     edx, edx
        xor     ecx, ecx
        traps   0, 0, div ecx

; #BP and #DB by TF are traps: RIP of the next instruction
        mov     qword [resume], .after_bp
        int3
.after_bp:
        check   [trap_vector], 3
        check   [trap_rip], .after_bp
        mov     qword [resume], .after_step
        pushfq
        or      qword [rsp], 0x100
        popfq
        nop
.stepped:
        nop
.after_step:
        check   [trap_vector], 1
        check   [trap_rip], .stepped
        mov     rax, dr6
        and     eax, 0x4000                         ; BS
        check   rax, 0x4000
        mov     eax, 0xffff0ff0
        mov     dr6, rax

; #UD
        traps   6, 0, ud2
        mov     rax, [trap_rflags]
        and     eax, 0x10000                        ; a fault saves RF as 1
        check   rax, 0x10000
        mov     dword [0x100000], 0
        traps   6, 0, {db 0xf0, 0xff, 0xc0}         ; LOCK INC EAX: no memory operand
        traps   6, 0, {db 0x06}                     ; PUSH ES does not exist in 64-bit mode

; #GP(0): non-canonical data, reserved bits of control registers and MSRs
        mov     rbx, 0x0000800000000000
        traps   13, 0, mov rax, [rbx]
        mov     rax, cr4
        bts     rax, 31
        traps   13, 0, mov cr4, rax
        mov     eax, 0x80000000                     ; PG without PE
        traps   13, 0, mov cr0, rax
        mov     rax, cr4
        and     rax, ~0x20                          ; PAE must stay in IA-32e mode
        traps   13, 0, mov cr4, rax
        mov     ecx, 0x12345678
        traps   13, 0, rdmsr
        traps   13, 0, wrmsr
        mov     ecx, 0xc0000082                     ; LSTAR takes canonical addresses only
        mov     edx, 0x00008000
        xor     eax, eax
        traps   13, 0, wrmsr

; #SS(0): non-canonical with RSP or RBP as the base
        mov     rbp, 0x0000800000000000
        traps   12, 0, mov rax, [rbp]

; #GP(selector), #NP(selector) and #SS(selector) at loads of segment registers
        mov     qword [gdt_spare], 0
        mov     eax, 0x50
        traps   13, 0x50, mov ds, eax               ; not a segment
        mov     rax, 0x00cf13000000ffff
        mov     [gdt_spare], rax                    ; a data segment, not present
        mov     eax, 0x50
        traps   11, 0x50, mov ds, eax
        traps   12, 0x50, mov ss, eax
        mov     eax, 0x1000
        traps   13, 0x1000, mov ds, eax             ; beyond the limit of the GDT
        mov     eax, 0x54
        traps   13, 0x54, mov ds, eax               ; in the LDT, which is null: TI stays in the error code
        xor     eax, eax
        passes  mov ds, eax
        mov     eax, DATA
        mov     ds, eax

; #GP(n * 8 + 2) for an INT through a gate that is not there
        mov     byte [idt + 0x60 * 16 + 5], 0x0e
        traps   11, 0x60 * 8 + 2, int 0x60          ; not present: #NP with the IDT bit
        mov     byte [idt + 0x60 * 16 + 5], 0x80
        traps   13, 0x60 * 8 + 2, int 0x60          ; present, but no gate: #GP
        lidt    [short_idt]
        traps   13, 0x60 * 8 + 2, int 0x60          ; beyond the limit
        lidt    [idt_pointer]

; #AC only at CPL 3: AC and AM do nothing here
        mov     rax, cr0
        or      eax, 0x40000
        mov     cr0, rax
        pushfq
        or      qword [rsp], 0x40000
        popfq
        passes  mov eax, [0x100001]
        pushfq
        and     qword [rsp], ~0x40000
        popfq

; #DF: a #GP while #NP of a missing gate is delivered. IST1 gives it a stack (SDM vol. 3A 6.14.5).
        mov     byte [idt + 8 * 16 + 4], 1
        mov     byte [idt + 13 * 16 + 5], 0x0e      ; not present
        mov     qword [resume], .after_df
        mov     rbx, 0x0000800000000000
        mov     r12, rsp
        mov     rax, [rbx]
.after_df:
        mov     rsp, r12
        check   [trap_vector], 8
        check   [trap_error], 0
        check   [trap_frame], IST1_TOP - 40
        mov     byte [idt + 13 * 16 + 5], 0x8e

        finish

        align   8
short_idt:
        dw      0x5f * 16 + 15
        dq      idt
