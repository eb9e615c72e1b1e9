; Reads a page without a pause while another thread of the runner exchanges what is mapped there, and now
; and then maps nothing at all (hosts.c). Every value read is one of the two pages'. The runner goes on until
; enough changes have been seen.
        org     0x8000
%include "check.inc"
%include "long.inc"

%define MOVING 0x10200000
%define STARTED 0x100000
%define STOP 0x100040
%define SEEN 0x100080

main:   mov     ebx, MOVING
        xor     ecx, ecx                            ; wrong values
        mov     edx, 0x11
        mov     byte [STARTED], 1
.again: movzx   eax, byte [rbx + 0x123]
        cmp     al, 0x11
        je      .known
        cmp     al, 0x22
        je      .known
        inc     ecx
.known: cmp     eax, edx
        je      .same
        inc     dword [SEEN]
        mov     edx, eax
.same:  cmp     byte [STOP], 0
        je      .again
        check   rcx, 0
        finish
