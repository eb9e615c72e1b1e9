; Page faults and other exceptions into the guest's own handlers, each told by a write to a port.
        org     0x8000
%include "check.inc"
%include "long.inc"

%define WINDOW 0x200000                             ; mapped by a page table at 0x180000
%define TABLE 0x180000

%macro told 1+
        mov     qword [resume], %%after
        mov     qword [trap_vector], -1
        mov     qword [trap_error], -1
        %1
%%after:
        mov     qword [resume], unexpected_trap
        mov     eax, [trap_vector]
        out     0x10, eax
        mov     eax, [trap_error]
        out     0x11, eax
        mov     rax, [trap_cr2]
        out     0x12, eax
        mov     rax, [trap_rip]
        out     0x13, eax
        mov     rax, [trap_rflags]
        out     0x14, eax
%endmacro

main:   mov     edi, TABLE
        xor     eax, eax
        mov     ecx, 0x1000 / 8
        rep     stosq
        mov     qword [TABLE], 0x100000 + 3
        mov     qword [TABLE + 8], 0x101000 + 1     ; read-only
        mov     qword [TABLE + 24], 0x10000000 + 3  ; a device
        mov     rax, 0x8000000000102003
        mov     [TABLE + 32], rax                   ; not to be executed
        mov     qword [PAGE_DIRECTORY + 8], TABLE + 7
        mov     rax, cr3
        mov     cr3, rax
        mov     ebx, WINDOW
        xor     edx, edx
        told    mov eax, [rbx]
        told    mov eax, [rbx + 0x1000]
        told    mov [rbx + 0x1000], edx
        told    add [rbx + 0x1000], edx
        told    mov eax, [rbx + 0x2000]
        told    mov [rbx + 0x2000], rdx
        told    mov rax, [rbx + 0xffc]              ; over two pages, both there
        told    mov [rbx + 0xffc], rdx              ; the second may not be written
        told    mov rax, [rbx + 0x1ffc]             ; the second is not there
        told    mov [rbx + 0x2ffc], rdx             ; the first is not there, the second is a device
        told    mov rax, [rbx + 0x3ffc]             ; a device and a page
        told    mov [rbx + 0x3000], edx
        told    jmp rbx
        mov     eax, WINDOW + 0x4000
        told    jmp rax
        mov     eax, WINDOW + 0x2000
        told    jmp rax
        mov     rbp, rsp
        mov     byte [idt + 14 * 16 + 4], 1         ; handlers need a stack that is there
        mov     esp, WINDOW + 0x2000
        told    push rdx
        mov     esp, WINDOW + 0x2000
        told    pop rdx
        mov     rsp, rbp
        mov     esi, WINDOW + 0xff8
        mov     edi, WINDOW + 0x1ff8
        mov     ecx, 4
        told    rep movsd                           ; into the page that may not be written
        mov     edi, WINDOW + 0x1ff0
        mov     esi, WINDOW + 0x2000 - 8
        mov     ecx, 4
        told    rep lodsd                           ; and on into the one that is not there
        xor     edx, edx
        told    ud2
        told    {db 0x0f, 0xff}
        xor     ecx, ecx
        told    div ecx
        mov     rax, 0x0000800000000000
        told    mov edx, [rax]
        mov     rbp, rax
        told    mov edx, [rbp]
        told    int 0x90
        told    int3
        told    {db 0xf1}
        mov     eax, 0x54
        told    mov ds, eax
        mov     ecx, 0x12345678
        told    rdmsr
        mov     rax, cr4
        bts     rax, 31
        told    mov cr4, rax
        finish
