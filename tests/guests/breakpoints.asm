; Debug registers: data and instruction breakpoints, general detect (SDM vol. 3B 17.2, 17.3).
        org     0x8000
%include "check.inc"
%include "long.inc"

main:
; Data breakpoints are traps, instruction breakpoints are faults
        mov     eax, 0x100000
        mov     dr0, rax
        mov     eax, 0x000d0402                     ; DR7: global 0, write, 4 bytes
        mov     dr7, rax
        mov     qword [resume], .after_data
        mov     qword [trap_vector], -1
        mov     dword [0x100000], 1
.after_data:
        check   [trap_vector], 1
        check   [trap_rip], .after_data
        mov     rax, dr6
        and     eax, 0xf
        check   rax, 1
        mov     eax, .breakpoint
        mov     dr0, rax
        mov     eax, 0x402                          ; execution
        mov     dr7, rax
        mov     eax, 0xffff0ff0
        mov     dr6, rax
        mov     qword [resume], .after_breakpoint
        mov     qword [trap_vector], -1
        jmp     .breakpoint
.after_breakpoint:
        check   [trap_vector], 1
        check   [trap_rip], .breakpoint
        mov     rax, [trap_rflags]
        and     eax, 0x10000                        ; the one fault whose saved RF is 0 (SDM vol. 3B 17.3.1.1)
        check   rax, 0
        mov     qword [trap_vector], -1
        push    DATA                                ; with RF set, IRETQ gets past it
        push    STACK_TOP
        push    0x10002
        push    CODE64
        push    .breakpoint
        iretq
.breakpoint:
        nop
        check   [trap_vector], -1
        mov     eax, 0x400
        mov     dr7, rax


; GD: an access to a debug register faults, with BD in DR6, and GD is clear in the handler
        mov     eax, 0xffff0ff0
        mov     dr6, rax
        mov     eax, 0x2400
        mov     dr7, rax
        traps   1, 0, mov rax, dr0
        mov     eax, 0x400
        mov     dr7, rax
        mov     rax, dr6
        and     eax, 0x2000
        check   rax, 0x2000

; With CR4.DE, DR4 and DR5 do not exist; without it they are DR6 and DR7
        mov     rax, cr4
        or      eax, 8
        mov     cr4, rax
        traps   6, 0, {db 0x0f, 0x21, 0xe0}         ; MOV RAX, DR4
        and     eax, ~8
        mov     cr4, rax
        passes  {db 0x0f, 0x21, 0xe0}
        finish
