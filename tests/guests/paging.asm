; 4-level paging: the error code for each way to fail, accessed and dirty bits, large pages, WP, NX, SMEP,
; SMAP, and when a stale translation may no longer be used (SDM vol. 3A, 4.5 to 4.10).
        org     0x8000
%include "check.inc"
%include "long.inc"

; A test window at 1 GiB + 2 MiB: page directory entry 1 of the second directory leads to a table.
%define WINDOW 0x40200000
%define WINDOW_PDE PAGE_DIRECTORY + 0x1008
%define TABLE 0x200000
%define FRAME 0x300000              ; the page behind the window
%define OTHER 0x301000

%define P 1
%define W 2
%define U 4
%define A 0x20
%define D 0x40
%define PS 0x80
%define G 0x100

; map ENTRY: the window's first page
%macro map 1
        mov     rax, %1
        mov     [TABLE], rax
        invlpg  [WINDOW]
%endmacro

main:   mov     rdi, TABLE
        xor     eax, eax
        mov     ecx, 512
        rep     stosq
        mov     qword [WINDOW_PDE], TABLE + P + W + U
        mov     rax, cr3
        mov     cr3, rax
        mov     rax, 0x1111111111111111
        mov     [FRAME], rax
        mov     rax, 0x2222222222222222
        mov     [OTHER], rax

; Supervisor: error code bit 0 present, 1 write, 2 user, 3 reserved bit, 4 fetch
        map     0
        faults  0, WINDOW + 8, mov rax, [WINDOW + 8]
        faults  2, WINDOW, mov [WINDOW], rax
        mov     ebx, WINDOW
        faults  2, WINDOW, add [rbx], rax           ; read and write: a write
        faults  2, WINDOW, lock xadd [rbx], rax
        map     FRAME + P
        passes  mov rax, [WINDOW]
        check   rax, [FRAME]
        faults  3, WINDOW, mov [WINDOW], rax        ; WP is set
        faults  3, WINDOW, lock inc qword [WINDOW]

; A write that crosses into a page that is not there: the address of the second page, and nothing written
        map     FRAME + P + W
        mov     qword [FRAME + 0xff8], 0x55
        faults  2, WINDOW + 0x1000, mov [WINDOW + 0xffc], rax
        check   [FRAME + 0xff8], 0x55

; Without WP the supervisor may write to read-only pages
        map     FRAME + P
        mov     rax, cr0
        btr     rax, 16
        mov     cr0, rax
        passes  mov qword [WINDOW], 7
        bts     rax, 16
        mov     cr0, rax
        check   [FRAME], 7
        faults  3, WINDOW, mov [WINDOW], rax

; A reserved bit: the fault says so, with P
        mov     rax, (1 << 51) | FRAME + P + W
        mov     [TABLE], rax
        invlpg  [WINDOW]
        faults  9, WINDOW, mov rax, [WINDOW]
        faults  0xb, WINDOW, mov [WINDOW], rax

; NX: a fetch fault, error code 0x11; the address is that of the fetch. Data may be read.
        mov     byte [FRAME], 0xc3
        mov     rax, (1 << 63) | FRAME + P + W
        mov     [TABLE], rax
        invlpg  [WINDOW]
        mov     qword [resume], .after_nx
        mov     qword [trap_vector], -1
        mov     ebx, WINDOW
        call    rbx
        jmp     .no_nx
.after_nx:
        add     rsp, 8
        check   [trap_vector], 14
        check   [trap_error], 0x11
        check   [trap_cr2], WINDOW
        check   [trap_rip], WINDOW
.no_nx: passes  mov rax, [WINDOW]
; With EFER.NXE clear, bit 63 is reserved
        mov     ecx, 0xc0000080
        rdmsr
        and     eax, ~0x800
        wrmsr
        invlpg  [WINDOW]
        faults  9, WINDOW, mov rax, [WINDOW]
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 0x800
        wrmsr
; A fetch from a page that is not there: 0x10 (the bit is there because NXE is set)
        map     0
        mov     qword [resume], .after_np
        mov     ebx, WINDOW
        call    rbx
.after_np:
        add     rsp, 8
        check   [trap_vector], 14
        check   [trap_error], 0x10

; Accessed by a read, dirty by a write; the upper levels become accessed only
        map     FRAME + P + W
        and     qword [WINDOW_PDE], ~A
        mov     rax, cr3
        mov     cr3, rax
        mov     rax, [WINDOW]
        mov     rax, [TABLE]
        and     eax, A + D
        check   rax, A
        mov     rax, [WINDOW_PDE]
        and     eax, A
        check   rax, A
        mov     [WINDOW], rax
        mov     rax, [TABLE]
        and     eax, A + D
        check   rax, A + D
; A write that faults does not set D
        map     FRAME + P
        faults  3, WINDOW, mov [WINDOW], rax
        mov     rax, [TABLE]
        and     eax, D
        check   rax, 0
; CMPXCHG writes, and so sets D, even where the comparison fails
        map     FRAME + P + W
        mov     rax, 0x123
        mov     rbx, 0x456
        cmpxchg [WINDOW], rbx
        mov     rax, [TABLE]
        and     eax, D
        check   rax, D

; A stale translation goes with INVLPG, and with CR3 unless the page is global
        map     FRAME + P + W + A + D
        mov     qword [FRAME], 0x111
        mov     qword [OTHER], 0x222
        mov     rax, [WINDOW]
        check   rax, 0x111
        map     OTHER + P + W + A + D
        mov     rax, [WINDOW]
        check   rax, 0x222
        mov     qword [TABLE], FRAME + P + W + A + D
        mov     rax, cr3
        mov     cr3, rax
        mov     rax, [WINDOW]
        check   rax, 0x111
        mov     rax, cr4
        bts     rax, 7                              ; PGE
        mov     cr4, rax
        map     FRAME + P + W + A + D + G
        mov     rax, [WINDOW]
        mov     qword [TABLE], OTHER + P + W + A + D + G
        mov     rax, cr4                            ; changing PGE flushes global pages too
        btr     rax, 7
        mov     cr4, rax
        mov     rax, [WINDOW]
        check   rax, 0x222

; Large pages: 2 MiB, and a reserved bit in its address
        mov     qword [WINDOW_PDE], 0x400000 + P + W + PS
        mov     rax, cr3
        mov     cr3, rax
        mov     qword [0x400000 + 0x12345 * 8], 0x99
        check   [WINDOW + 0x12345 * 8], 0x99
        mov     qword [WINDOW + 0x100], 0x98
        check   [0x400100], 0x98
        mov     rax, [WINDOW_PDE]
        and     eax, A + D
        check   rax, A + D
        mov     qword [WINDOW_PDE], 0x402000 + P + W + PS       ; bit 13 must be 0
        invlpg  [WINDOW]
        faults  9, WINDOW, mov rax, [WINDOW]
        mov     qword [WINDOW_PDE], TABLE + P + W + U
        mov     rax, cr3
        mov     cr3, rax

; Every level must grant: a read-only directory entry
        map     FRAME + P + W + U
        mov     qword [WINDOW_PDE], TABLE + P + U
        mov     rax, cr3
        mov     cr3, rax
        faults  3, WINDOW, mov [WINDOW], rax
        passes  mov rax, [WINDOW]
        mov     qword [WINDOW_PDE], TABLE + P + W + U
        mov     rax, cr3
        mov     cr3, rax

; SMAP: the supervisor may not touch user pages without AC
        mov     eax, 7
        xor     ecx, ecx
        cpuid
        mov     [.features], ebx
        bt      dword [.features], 20
        jnc     .no_smap
        and     qword [PAGE_DIRECTORY], ~U          ; what this guest itself uses becomes supervisor pages
        and     qword [PAGE_DIRECTORY + 8], ~U
        mov     rax, cr3
        mov     cr3, rax
        mov     rax, cr4
        bts     rax, 21
        mov     cr4, rax
        map     FRAME + P + W + U
        faults  1, WINDOW, mov rax, [WINDOW]
        faults  3, WINDOW, mov [WINDOW], rax
        pushfq
        or      qword [rsp], 0x40000
        popfq
        passes  mov rax, [WINDOW]
        clac
        faults  1, WINDOW, mov rax, [WINDOW]
        stac
        passes  mov [WINDOW], rax
        clac
        mov     rax, cr4
        btr     rax, 21
        mov     cr4, rax
.no_smap:

; SMEP: the supervisor may not execute user pages.
        bt      dword [.features], 7
        jnc     .no_smep
        and     qword [PAGE_DIRECTORY], ~U
        mov     rax, cr4
        bts     rax, 20
        mov     cr4, rax
        mov     rax, cr3
        mov     cr3, rax
        map     FRAME + P + W + U
        mov     byte [FRAME], 0xc3
        mov     qword [resume], .after_smep
        mov     qword [trap_vector], -1
        mov     ebx, WINDOW
        call    rbx
        jmp     .smep_done
.after_smep:
        add     rsp, 8
.smep_done:
        check   [trap_vector], 14
        check   [trap_error], 0x11
        mov     rax, cr4
        btr     rax, 20
        mov     cr4, rax
        mov     qword [resume], unexpected_trap
        call    rbx                                 ; without SMEP it may
.no_smep:
        or      qword [PAGE_DIRECTORY], U
        or      qword [PAGE_DIRECTORY + 8], U
        mov     rax, cr3
        mov     cr3, rax

; User accesses. The code below runs at CPL 3 in the first 2 MiB, which is a user page.
%macro as_user 1
        mov     qword [resume_cs], CODE64
        mov     qword [resume_ss], DATA
        mov     qword [resume_rsp], STACK_TOP
        mov     qword [resume], %%back
        mov     qword [trap_error], -1
        push    USER_DATA
        push    STACK_TOP - 0x8000
        push    2
        push    USER_CODE64
        push    %1
        iretq
%%back: mov     qword [resume], unexpected_trap
%endmacro
        map     FRAME + P + W                       ; a supervisor page
        as_user .read
        check   [trap_vector], 14
        check   [trap_error], 5
        check   [trap_cr2], WINDOW
        check   [trap_rip], .read
        check   [trap_cs], USER_CODE64
        as_user .write
        check   [trap_error], 7
        as_user .execute
        check   [trap_error], 0x15
        map     0
        as_user .read
        check   [trap_error], 4
        as_user .write
        check   [trap_error], 6
        map     FRAME + P + U
        as_user .write
        check   [trap_error], 7
        as_user .read                               ; may: goes on to UD2
        check   [trap_vector], 6
        mov     rax, cr0
        btr     rax, 16                             ; WP does not matter for users
        mov     cr0, rax
        as_user .write
        check   [trap_error], 7
        mov     rax, cr0
        bts     rax, 16
        mov     cr0, rax
; An implicit supervisor access (the GDT) by user code is a supervisor access: pushes of the trap itself
; show it.

; 1 GiB pages, where there are any
        mov     eax, 0x80000001
        cpuid
        bt      edx, 26
        jnc     .no_gb
        mov     qword [PDPT + 24], 0 + P + W + PS   ; 3 GiB on leads to 0
        mov     rax, cr3
        mov     cr3, rax
        mov     rax, 0xc0000000 + OTHER
        mov     qword [OTHER], 0x777
        check   [rax], 0x777
.no_gb:

; A fault of a page walk through memory that is not mapped is no page fault: nothing to check here but that
; the translation of a canonical address in the upper half, which is not present, is one.
        mov     rbx, 0xffff800000000000
        faults  0, rbx, mov rax, [rbx]
        finish

.read:  mov     rax, [WINDOW]
        ud2
.write: mov     [WINDOW], rax
        ud2
.execute:
        mov     eax, WINDOW
        jmp     rax
.features: dd 0
